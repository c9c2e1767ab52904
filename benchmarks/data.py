"""How fast training data come: mosaics against the limit of decoding, label files, label cache, the first batch.

    python -m benchmarks.data --data my.yaml --img 320 --workers 1 2
    python -m benchmarks.data --parts scan cache

The limit of mosaics is a loader with as many workers that decodes and resizes the same four images for each sample and
does nothing else: as the dataset does it (`limit`), which reads a cache and decodes large JPEG files at a fraction of
their size, and as `cv2.imread` and `cv2.resize` do it (`plain`). Label files are made in a temporary folder: 100,000
images with ten boxes each, small JPEG files that are links to a few real ones.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.tables import log_table, save_json, take_turns
from utils.console import LOGGER, cli_errors
from utils.dataloaders import LoadImagesAndLabels, create_dataloader, start_loader
from utils.datasets.dataset import cache_path, check_dataset, img2label_paths, list_images, load_labels
from utils.datasets.label_cache import content_key, read_cache
from utils.datasets.mosaics import draw_mosaic
from utils.datasets.reader import Split
from utils.hyp import Hyp
from utils.paths import check_file

PARTS = ("mosaic", "start", "scan", "cache")
CACHES = {"none": None, "ram": "ram", "disk": "disk"}
BOXES = 10  # of each generated image
LINKED = 20_000  # names for one file: file systems allow some 60,000


class Decoding(Dataset):
    """The images of each mosaic of a dataset, decoded and resized; gives their number of pixels.

    With `plain`, every file is decoded at its full size.
    """

    def __init__(self, dataset: LoadImagesAndLabels, plain: bool = False) -> None:
        self.dataset = dataset
        self.load = self.read if plain else dataset.resized_image

    def read(self, index: int) -> np.ndarray:
        """Return image `index`, BGR uint8, long side `imgsz`."""
        im = cv2.imread(self.dataset.im_files[index])
        r = self.dataset.img_size / max(im.shape)
        return cv2.resize(im, None, fx=r, fy=r)

    def __len__(self) -> int:
        return self.dataset.n

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        epoch, index = key
        rng = np.random.default_rng((self.dataset.seed, epoch, index))
        rng.random()  # whether the sample is a mosaic
        indices, _ = draw_mosaic(rng, index, self.dataset.n, self.dataset.frame)
        return torch.tensor(sum(self.load(i).size for i in indices))


def one_pass(loader: DataLoader) -> None:
    """Take every batch once."""
    for _ in loader:
        pass


def measure_mosaics(opt: argparse.Namespace, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each number of workers and kind of cache."""
    hyp = Hyp.load(check_file(opt.hyp))
    rows = []
    for workers in opt.workers:
        for name in opt.cache:
            loader, dataset = create_dataloader(
                data["train"], opt.imgsz, opt.batch_size, 32, hyp=hyp, augment=True, nc=data["nc"], shuffle=True,
                workers=workers, cache=CACHES[name],
            )  # fmt: skip
            loaders = {"mosaic": loader}
            for what in ("limit", "plain"):
                loaders[what] = DataLoader(
                    Decoding(dataset, what == "plain"), batch_size=loader.batch_size, sampler=loader.sampler,
                    num_workers=loader.num_workers, worker_init_fn=start_loader,
                    multiprocessing_context=loader.multiprocessing_context, persistent_workers=loader.num_workers > 0,
                )  # fmt: skip
            seconds = take_turns({what: partial(one_pass, loaders[what]) for what in loaders}, opt.repeats)
            rows.append(
                {
                    "workers": loader.num_workers,
                    "cache": name,
                    "mosaics/s": dataset.n / seconds["mosaic"],
                    "limit/s": dataset.n / seconds["limit"],
                    "plain/s": dataset.n / seconds["plain"],
                    "share": seconds["limit"] / seconds["mosaic"],
                    "share of plain": seconds["plain"] / seconds["mosaic"],
                    "ms more": (seconds["mosaic"] - seconds["limit"]) / dataset.n * 1e3,
                }
            )
    return rows


def measure_start(opt: argparse.Namespace, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the seconds from nothing to the first training batch, with cached labels."""
    hyp = Hyp.load(check_file(opt.hyp))

    def first_batch(workers: int) -> None:
        loader, _ = create_dataloader(
            data["train"], opt.imgsz, opt.batch_size, 32, hyp=hyp, augment=True, nc=data["nc"], workers=workers
        )
        next(iter(loader))

    functions = {str(workers): partial(first_batch, workers) for workers in (0, *opt.workers)}
    seconds = take_turns(functions, opt.repeats)
    return [{"workers": workers, "first batch, s": s} for workers, s in seconds.items()]


def generate(root: Path, images: int, polygons: bool = False) -> Path:
    """Write many images and label files; returns the folder of the images."""
    folders = [root / name / "train" for name in ("images", "labels")]
    for folder in folders:
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    source = root / "source.jpg"
    for i in range(images):
        if i % LINKED == 0:
            source = root / f"source{i}.jpg"
            cv2.imwrite(str(source), rng.integers(0, 255, (64, 96, 3), np.uint8))
        os.link(source, folders[0] / f"{i:07}.jpg")
        if polygons:
            corners = rng.uniform(0.1, 0.9, (BOXES, 8))
            lines = [f"{i % 80} {' '.join(f'{v:.6f}' for v in row)}" for row in corners]
        else:
            lines = [f"{i % 80} {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for x, y, w, h in rng.uniform(0.1, 0.2, (BOXES, 4))]
        (folders[1] / f"{i:07}.txt").write_text("\n".join(lines) + "\n")
    return folders[0]


def measure_scan(opt: argparse.Namespace, polygons: bool) -> list[dict[str, Any]]:
    """Return the seconds to read generated label files, to load them again from the cache, and parts of the latter."""
    with tempfile.TemporaryDirectory(prefix="labels-") as scratch:
        folder = generate(Path(scratch), opt.files, polygons)
        im_files = list_images(folder)
        label_files = img2label_paths(im_files)
        cache = cache_path(folder, label_files)

        def scan() -> None:
            cache.unlink(missing_ok=True)
            load_labels(folder)

        def make_key() -> str:
            return content_key(im_files, label_files, None, Split(str(folder), "yolo", {}))

        def read() -> None:
            if read_cache(cache, key, im_files, label_files) is None:
                raise ValueError(f"{cache} was not used")

        parts = {"scan": scan} if "scan" in opt.parts else {"scan once": lambda: None}
        scan()
        key = make_key()
        if "cache" in opt.parts:
            parts |= {
                "load from cache": partial(load_labels, folder), "of this: list": partial(list_images, folder),
                "of this: dates": make_key, "of this: read": read,
            }  # fmt: skip
        seconds = take_turns(parts, opt.repeats, warmup=0)
    kind = "polygons" if polygons else "boxes"
    return [
        {"labels": f"{opt.files * BOXES} {kind}", "what": name, "seconds": s, "images/s": opt.files / max(s, 1e-9)}
        for name, s in seconds.items() if name != "scan once"
    ]  # fmt: skip


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--data", default="data/demo.yaml", help="dataset YAML")
    add("--hyp", default="data/hyps/hyp.scratch-low.yaml", help="hyperparameter YAML")
    add("--imgsz", "--img", type=int, default=320, help="image size, pixels")
    add("--batch-size", type=int, default=16, help="images per batch")
    add("--workers", nargs="+", type=int, default=[1, 2], help="numbers of loader processes")
    add("--cache", nargs="+", choices=CACHES, default=list(CACHES), help="kinds of image cache")
    add("--files", type=int, default=100_000, help="generated label files")
    add("--polygons", action="store_true", help="generate polygons too")
    add("--repeats", type=int, default=5, help="measurements of each figure")
    add("--json", default="", help="write the tables to this file too")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    opt = parse_opt(argv)
    tables = {}
    if {"mosaic", "start"} & set(opt.parts):
        data = check_dataset(opt.data)
        if "mosaic" in opt.parts:
            tables["mosaics"] = measure_mosaics(opt, data)
        if "start" in opt.parts:
            tables["start"] = measure_start(opt, data)
    if {"scan", "cache"} & set(opt.parts):
        tables["labels"] = [row for polygons in range(1 + opt.polygons) for row in measure_scan(opt, bool(polygons))]
    for name, rows in tables.items():
        log_table(rows, name)
    if "mosaics" in tables:
        LOGGER.info("share: of the speed of a loader that only decodes and resizes the same images")
    save_json(opt.json, vars(opt), tables)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
