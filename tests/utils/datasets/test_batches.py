"""Memory of batches: nothing is copied twice, and nothing that somebody still holds is written again."""

import mmap
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.datasets import batches
from utils.datasets.batches import BatchImages, BatchMemory, collate, place_image, stack_images

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs files in memory")
U8 = np.dtype(np.uint8)


@pytest.fixture
def in_worker(monkeypatch):
    """What is made is made as in a loader process, with memory of its own."""
    monkeypatch.setattr(batches, "get_worker_info", lambda: SimpleNamespace(id=0))
    monkeypatch.setattr(batches, "_memory", BatchMemory())


def as_tensor(storage):
    return torch.empty(0, dtype=torch.uint8).set_(storage)


@linux
def test_memory_is_used_again_only_when_nobody_holds_the_batch():
    memory = BatchMemory()
    own, storage = memory.take(5000)
    own[:] = 1
    first = as_tensor(storage)
    assert (first == 1).all()
    assert first.is_shared()
    part, address = first[7:9], own.ctypes.data
    del first, storage
    other, storage = memory.take(5000)  # the part holds the whole batch
    other[:] = 2
    assert other.ctypes.data != address
    assert part.tolist() == [1, 1]
    del part
    again, _ = memory.take(4000)  # a smaller one fits too
    assert again.ctypes.data == address
    assert (as_tensor(storage) == 2).all()


@linux
def test_a_map_in_another_process_holds_the_memory():
    memory = BatchMemory()
    own, storage = memory.take(mmap.PAGESIZE)
    file = os.dup(storage._share_fd_cpu_()[0])  # as it is sent
    address = own.ctypes.data
    del storage
    assert memory.take(mmap.PAGESIZE)[0].ctypes.data != address
    held = mmap.mmap(file, mmap.PAGESIZE)
    os.close(file)
    assert memory.take(mmap.PAGESIZE)[0].ctypes.data != address
    held.close()
    taken = [memory.take(mmap.PAGESIZE) for _ in range(2)]
    assert address in {own.ctypes.data for own, _ in taken}


@linux
def test_one_spare_memory_is_kept():
    memory = BatchMemory()
    taken = [memory.take(100) for _ in range(5)]
    assert len(memory._kept) == 5
    del taken
    _, storage = memory.take(100)
    assert len(memory._kept) == 2
    memory.take(200)  # for which the spare one is too small
    assert [len(own) for _, own in memory._kept] == [100, 200]
    del storage


def sample(number, image):
    return image, torch.full((number, 6), float(number)), f"{number}.jpg", None


def place_all(images):
    samples = []
    with BatchImages(len(images)):
        for number, image in enumerate(images):
            place, handed = place_image(image.shape, image.dtype)
            place[:] = image
            samples.append(sample(number, handed))
    return samples


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_placed_images_are_the_batch(kind):
    images = np.random.default_rng(0).integers(0, 255, (3, 2, 4, 5)).astype(kind)
    samples = place_all(list(images))
    batch, targets, paths, _ = collate(samples)
    assert np.array_equal(batch.numpy(), images)
    assert batch.data_ptr() == samples[0][0].data_ptr()
    assert targets[:, 0].tolist() == [1, 2, 2]
    assert paths == ["0.jpg", "1.jpg", "2.jpg"]
    for others in (samples[:2], samples[::-1], [samples[0]] * 3):  # not the whole batch in its order
        expected = np.stack([s[0].numpy() for s in others])
        stacked = collate(others)[0]
        assert np.array_equal(stacked.numpy(), expected)
        assert stacked.data_ptr() not in {s[0].data_ptr() for s in samples}


@linux
def test_placed_images_of_a_loader_process_are_shared(in_worker):
    images = np.random.default_rng(0).integers(0, 255, (3, 2, 4, 5), np.uint8)
    samples = place_all(list(images))
    batch = collate(samples)[0]
    assert batch.is_shared()
    assert np.array_equal(batch.numpy(), images)
    more = collate(place_all(list(255 - images)))[0]
    assert np.array_equal(batch.numpy(), images)
    assert np.array_equal(more.numpy(), 255 - images)
    assert len(batches._memory._kept) == 2
    assert np.array_equal(stack_images(batch.flip(0).unbind()).numpy(), images[::-1])


def test_a_deep_image_among_others_has_its_own_place():
    deep = np.full((1, 2, 2), 0.5, np.float32)
    samples = place_all([np.full((1, 2, 2), 7, U8), deep, np.full((1, 2, 2), 9, U8)])
    assert [s[0].dtype for s in samples] == [torch.uint8, torch.float32, torch.uint8]
    batch = collate(samples)[0]
    assert batch.dtype == torch.float32
    assert batch[:, 0, 0, 0].tolist() == [7, 0.5, 9]


def test_a_sample_that_makes_two_images_has_its_own():
    with BatchImages(2):
        places = [place_image((1, 2, 2), U8) for _ in range(4)]
    places.append(place_image((1, 2, 2), U8))
    for number, (place, _) in enumerate(places):
        place[:] = number
    assert [int(handed.max()) for _, handed in places] == [0, 1, 2, 3, 4]
    assert collate([sample(0, places[k][1]) for k in (0, 2)])[0][:, 0, 0, 0].tolist() == [0, 2]
    assert collate([sample(0, places[k][1]) for k in (0, 1)])[0].data_ptr() == places[0][0].ctypes.data


@linux
@pytest.mark.parametrize("missing", ["files", "memory"])
def test_without_files_in_memory_pytorch_shares_its_own_way(in_worker, monkeypatch, missing):
    if missing == "files":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 4), np.uint8)
    batch = collate(place_all(list(images)))[0]
    assert batch.is_shared()
    assert np.array_equal(batch.numpy(), images)
    assert not batches._memory._kept
