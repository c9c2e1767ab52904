"""What `benchmarks.scaling` measures over the images and label lines of a dataset."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.data import BOXES, generate
from benchmarks.scaling_cases import Case, class_names, detections_of, drawn_labels, labels_of
from engine.doctor.checks import CHECKS, HEADS, MEMORY
from engine.doctor.copies import SIDE, Scanned, exact_copies, near_pairs
from engine.doctor.dataset import read_dataset
from engine.results.files import CsvFile, JsonFile
from engine.split import stratify
from engine.unlabelled import Images
from engine.validation.breakdown import break_down
from engine.validation.deployed import Detected
from engine.validation.evaluation import ImageResult, Tally
from utils.autoanchor import find_better_anchors
from utils.dataloaders import LoadImagesAndLabels
from utils.datasets.batches import rect_batches
from utils.datasets.dataset import cache_path, check_dataset, load_labels
from utils.datasets.label_cache import NO_LABELS, STATES, LabelSet, Pieces, read_cache, write_cache
from utils.datasets.lists import img2label_paths, list_images
from utils.datasets.output_names import ResultIds, image_ids, unique_stems
from utils.datasets.sampling import EpochSampler, class_weights, image_weights
from utils.hyp import Hyp

ANCHORS = np.array(
    [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
)


class Generated:
    """Datasets of small images with `BOXES` labels each below a folder, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list_of(self, lines: int) -> Path:
        """Return the image list of a dataset with so many label lines."""
        file = self.folder / f"{lines}.txt"
        if not file.exists():
            images = generate(self.folder / str(lines), lines // BOXES)
            file.write_text("".join(f"{image}\n" for image in list_images(images)), encoding="utf-8")
        return file

    def data(self, lines: int) -> dict[str, Any]:
        """Return what `check_dataset` does."""
        file, names = str(self.list_of(lines)), class_names(80)
        return check_dataset({"train": file, "val": file, "names": names, "path": str(self.folder)})


def quiet_sets(x: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return labels and sizes of x / 10 images."""
    rng, n = np.random.default_rng(0), max(x // BOXES, 1)
    return list(labels_of(n * BOXES).reshape(n, BOXES, 5)), rng.integers(200, 1000, (n, 2))


def shared_labels(lines: int, polygons: bool) -> Any:
    """Return what a loader process has of labels that were read from a cache."""
    n = max(lines // BOXES, 1)
    labels, sizes = quiet_sets(lines)
    corners = np.random.default_rng(0).uniform(0.1, 0.9, (n, BOXES, 20, 2)).astype(np.float32)
    segments = [list(image) if polygons else [] for image in corners]
    files = [f"images/train/{i:012}.jpg" for i in range(n)]
    others = img2label_paths(files)
    pieces = Pieces.of(labels, NO_LABELS), Pieces.nested(segments)
    found = LabelSet(files, others, *pieces, sizes, dict.fromkeys(STATES, 0), [])
    with TemporaryDirectory() as folder:
        cache = Path(folder) / "train.cache"
        write_cache(cache, "key", found, files)
        read = read_cache(cache, "key", files, others)
    if read is None:
        raise ValueError("the cache was not used")
    return SimpleNamespace(n=n, labels=read.labels, segments=read.segments, im_files=read.im_files)


def scanned_hashes(x: int) -> Callable[[], Any]:
    """Look for near copies among x images of which one in ten is a copy."""
    rng = np.random.default_rng(0)
    hashes, thumbs = rng.random((x, 256)) < 0.5, rng.integers(0, 255, (x, SIDE, SIDE), np.uint8)
    copies = np.arange(x // 10)
    hashes[-len(copies) :], thumbs[-len(copies) :] = hashes[copies], thumbs[copies]
    scanned = Scanned(hashes, hashes.reshape(x, 16, 16)[:, :, ::-1].reshape(x, 256), thumbs, np.full(x, 200))
    return partial(near_pairs, scanned)


def validated(x: int) -> Callable[[], Any]:
    """Count x label lines and as many detections, and work out the metrics."""
    images = [detections_of(BOXES, seed=i) for i in range(100)]
    names = class_names(80)

    def validate() -> Any:
        tally = Tally(80, None, True)
        for i in range(x // BOXES):
            found = images[i % 100]
            tally.add(ImageResult(found, torch.cat((found[:, 5:], found[:, :4]), 1), (640, 640), f"{i}.jpg"))
        result = tally.compute(tally.detected())
        return tally, break_down(tally, result, names)

    return validate


def all_written(kind: str, x: int) -> Callable[[], Any]:
    """Write the detections of x / 10 images."""
    n, found = x // BOXES, detections_of(BOXES)
    files = [f"images/{i:07}.jpg" for i in range(n)]

    def write() -> None:
        stems = unique_stems(files)
        with TemporaryDirectory() as name:
            folder = Path(name)
            file: Any = (
                JsonFile(folder / "a.json", ResultIds(image_ids(stems)))
                if kind == "JSON"
                else CsvFile(folder / "a.csv", stems, class_names(80))
            )
            for image in files:
                file.add(found, image, (640, 640))
            file.close()

    return write


def loaded(made: Generated, cached: bool, x: int) -> Callable[[], Any]:
    """Read the labels of a dataset, from its files or from the cache."""
    source = made.list_of(x)
    cache = cache_path(source, ["-"])

    def scan() -> Any:
        if not cached:
            cache.unlink(missing_ok=True)
        return load_labels(source, 80)

    if cached:
        load_labels(source, 80)
    return scan


def opened(made: Generated, rect: bool, x: int) -> Callable[[], Any]:
    """Open a dataset with cached labels for training or, in rectangles, for validation."""
    source, hyp = made.list_of(x), Hyp()
    return partial(LoadImagesAndLabels, source, 640, 16, not rect, hyp, rect, nc=80)


def examined(made: Generated, cost: int, x: int) -> Callable[[], Any]:
    """Run the checks of the doctor of one cost; the labels are read."""
    data = made.data(x)
    data["val"] = None
    read = read_dataset(data)

    def examine() -> Any:
        fresh = replace(read, splits={k: replace(split) for k, split in read.splits.items()})
        return [finding for check in CHECKS if check.cost == cost for finding in check.function(fresh)]

    return examine


def unlabelled(x: int) -> Callable[[], Any]:
    """Choose the images of a pass of a training without labels."""
    images = Images([str(i) for i in range(x)], 32, change=lambda image, _: image)
    images.read = lambda _: np.zeros((1, 1, 3), np.uint8)

    def choose() -> None:
        for number in range(len(images.learned) // 64):
            images.batch(number, 64)

    return choose


def divided(x: int) -> Callable[[], Any]:
    """Divide x / 10 images into three parts with equal classes."""
    labels, _ = quiet_sets(x)
    counts = np.array([np.bincount(own[:, 0].astype(int), minlength=80) for own in labels], float)
    return partial(stratify, counts, np.ones(len(counts), int), (0.7, 0.2, 0.1))


def anchored(good: bool, x: int) -> Callable[[], Any]:
    """Check anchors against x labels, or look for better ones."""
    labels, sizes = quiet_sets(x)
    return partial(
        find_better_anchors, sizes, labels, ANCHORS if good else ANCHORS * 20.0, [8, 16, 32], 12.0 if good else 4.0
    )


def weighed(x: int) -> Callable[[], Any]:
    """Weigh the images of a dataset for the next epoch."""
    labels, _ = quiet_sets(x)
    return lambda: image_weights(labels, np.zeros(80), class_weights(labels, 80))


def best_confidence(x: int) -> Callable[[], Any]:
    """Find the thresholds of x detections in x / 10 images."""
    rng, per = np.random.default_rng(0), np.full(max(x // BOXES, 1), BOXES)
    right, conf, cls = rng.random(x) < 0.5, rng.random(x), rng.integers(0, 80, x).astype(float)
    return lambda: Detected(right, conf, cls, cls, per, per).thresholds(0.5, class_names(80))


def image_cases(lines: int, scratch: Path) -> Iterator[Case]:
    """Label lines of a dataset, ten in each image."""
    made, unit = Generated(scratch), "label lines"
    sizes = sorted({max(lines // part, 2 * BOXES) for part in (10_000, 100, 10, 1)})
    images = [x // BOXES for x in sizes]
    yield Case("scan of images and labels", unit, sizes, partial(loaded, made, False))
    yield Case("labels from the cache", unit, sizes, partial(loaded, made, True))
    yield Case("dataset for training, from the cache", unit, sizes, partial(opened, made, False))
    yield Case("dataset for validation, from the cache", unit, sizes, partial(opened, made, True))
    yield Case(
        "list of images",
        unit,
        sizes,
        lambda x: partial(list_images, made.folder / str(x)) if made.list_of(x) else print,
    )
    yield Case(
        "frames of rectangular batches",
        "images",
        images,
        lambda x: partial(rect_batches, quiet_sets(x * BOXES)[1], 16, 640, 32, 0.5),
    )
    yield Case("order of an epoch", "images", images, lambda x: lambda: deque(EpochSampler(x, True), 0))
    yield Case(
        "its part of 8 processes", "images", images, lambda x: lambda: deque(EpochSampler(x, True, 0, 64, 3, 8), 0)
    )
    yield Case("order of a pass without labels", "images", [max(x, 100) for x in images], unlabelled)
    yield Case("weights of images", unit, sizes, weighed)
    yield Case("anchors that fit", unit, sizes, partial(anchored, True))
    yield Case("search of anchors", unit, sizes, partial(anchored, False))
    yield Case("figure of labels", unit, sizes, lambda x: drawn_labels(x, 80))
    yield Case("validation: matching, AP, errors", unit, sizes, validated)
    yield Case("validation: thresholds", unit, sizes, best_confidence)
    yield Case("JSON of all detections", unit, sizes, partial(all_written, "JSON"))
    yield Case("CSV of all detections", unit, sizes, partial(all_written, "CSV"))
    yield Case("split in equal parts", unit, sizes, divided)
    yield Case("doctor: checks of labels and names", unit, sizes, partial(examined, made, MEMORY))
    yield Case("doctor: checks of files", unit, sizes, partial(examined, made, HEADS))
    yield Case(
        "doctor: exact copies", "images", images, lambda x: partial(exact_copies, list_images(made.list_of(x * BOXES)))
    )
    yield Case("doctor: near copies", "images", [100, 1000, 3000, 10_000], scanned_hashes)
