"""--cache disk under kill -9: a reader killed at ten moments leaves a cache that gives the right batches."""

import multiprocessing
import signal

import torch

from tests.waiting import HANG, wait_for
from utils.dataloaders import LoadImagesAndLabels, create_dataloader
from utils.datasets.demo import draw_demo
from utils.datasets.image_cache import HEADER
from utils.hyp import Hyp

MOMENTS = 10


def read_for_ever(images, ready):
    """Fill the cache, empty it, and so on: killed, it dies in the middle of a file or between two."""
    data = LoadImagesAndLabels(images, 64, hyp=Hyp(), augment=True, nc=4, cache_images="disk")
    ready.set()
    while True:
        for file in data.disk.folder.glob("*.raw"):
            file.unlink(missing_ok=True)
        for i in range(data.n):
            data.resized_image(i)


def batches(images, cache):
    loader, _ = create_dataloader(
        images, 64, 4, 32, hyp=Hyp(mixup=0.3), augment=True, shuffle=True, workers=0, nc=4, seed=1, cache=cache
    )
    loader.sampler.set_epoch(2)
    return list(loader)


def same(first, second):
    return all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(first, second, strict=True)
    )


def test_cache_of_a_killed_process_gives_the_batches_of_none(tmp_path):
    draw_demo(tmp_path, n_train=12, n_val=1, size=96, seed=3)
    images = tmp_path / "images" / "train"
    expected = batches(images, None)
    fork = multiprocessing.get_context("fork")
    folder = images.with_name("train.images.cache")
    left = []
    for moment in range(1, MOMENTS + 1):
        ready = fork.Event()
        process = fork.Process(target=read_for_ever, args=(images, ready), daemon=True)
        process.start()
        assert ready.wait(HANG)
        wait_for(lambda: len(list(folder.glob("*.raw"))) == moment, pause=0)  # noqa: B023 - waited for at once
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left.append(len(list(folder.glob("*.raw"))))
        assert same(batches(images, "disk"), expected)
    assert len(set(left)) > 1  # killed at different moments indeed
    data = LoadImagesAndLabels(images, 64, hyp=Hyp(), augment=True, nc=4, cache_images="disk")
    files = sorted(folder.glob("[!.]*.raw"))
    assert len(files) >= data.n
    damaged = 0
    for file in files:  # what a disk does to files: every third is cut, the others have a flipped bit
        content = bytearray(file.read_bytes())
        content[HEADER.size + damaged] ^= 1
        file.write_bytes(content if damaged % 3 else content[: len(content) // 2])
        damaged += 1
    assert same(batches(images, "disk"), expected)
    assert same(batches(images, "disk"), expected)  # from the mended files
    assert same(batches(images, "ram"), expected)
