"""Seconds and memory of label statistics, confusion matrix, metrics and curves for very many classes and boxes.

    python -m benchmarks.many_classes --classes 10000 --boxes 1000000

Each row is measured in a process of its own: its seconds without imports and data, and its largest resident memory
beyond that of the imports and the data. Boxes, classes and detections are random: 50 boxes per image, 8 of 10 of them
found, 9 of 10 of those in their class, and one lone detection for every ten boxes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import peak_resident
from engine.validation.evaluation import ImageResult, Tally, plot_metrics
from utils.console import LOGGER, cli_errors
from utils.datasets.sampling import class_weights
from utils.metrics import ConfusionMatrix
from utils.plots import plot_confusion_matrix, plot_labels

PER_IMAGE = 50
STEPS = ("labels", "weights", "matrix", "dense", "metrics")


def boxes(n: int, classes: int) -> np.ndarray:
    """Return labels (n, 5) float32 `[class, xywhn]`; the first classes are the most frequent ones."""
    rng = np.random.default_rng(0)
    cls = np.minimum(rng.exponential(classes / 4, n).astype(int), classes - 1)
    wh = rng.uniform(0.01, 0.3, (n, 2))
    xy = rng.uniform(wh / 2, 1 - wh / 2)
    return np.concatenate((cls[:, None], xy, wh), 1).astype(np.float32)


def images(labels: np.ndarray, classes: int) -> list[ImageResult]:
    """Return detections and labels of all images, in pixels of 1000 x 1000."""
    rng = np.random.default_rng(1)
    results = []
    for start in range(0, len(labels), PER_IMAGE):
        part = labels[start : start + PER_IMAGE].astype(np.float64)
        xyxy = np.concatenate((part[:, 1:3] - part[:, 3:] / 2, part[:, 1:3] + part[:, 3:] / 2), 1) * 1000
        seen = rng.random(len(part)) < 0.8
        cls = np.where(rng.random(len(part)) < 0.9, part[:, 0], rng.integers(0, classes, len(part)))
        found = np.concatenate((xyxy[seen] + rng.normal(0, 3, (seen.sum(), 4)), cls[seen, None]), 1)
        lone = np.concatenate((xyxy[:5] * 0.1, rng.integers(0, classes, (len(xyxy[:5]), 1))), 1)
        found = np.concatenate((found, lone))
        conf = np.sort(rng.uniform(0.01, 1, len(found)))[::-1]
        detections = np.concatenate((found[:, :4], conf[:, None], found[:, 4:]), 1)
        true = np.concatenate((part[:, :1], xyxy), 1)
        detections, true = torch.from_numpy(detections).float(), torch.from_numpy(true).float()
        results.append(ImageResult(detections, true, (1000, 1000), ""))
    return results


def prepare(step: str, n: int, classes: int, folder: Path) -> Callable[[], object]:
    """Make the data of a step and return the step itself."""
    labels = boxes(n, classes)
    names = {i: f"class {i}" for i in range(classes)}
    if step == "labels":
        return lambda: plot_labels(labels, names, folder)
    if step == "weights":
        return lambda: class_weights(np.array_split(labels, max(n // PER_IMAGE, 1)), classes)
    scenes = images(labels, classes)

    def matrix() -> None:
        confusion = ConfusionMatrix(classes)
        for scene in scenes:
            confusion.update(scene.detections, scene.labels)
        table, size = confusion.blocks()
        plot_confusion_matrix(table, names, folder / "matrix.png", classes_per_cell=size)

    def dense() -> None:
        table = np.zeros((classes + 1, classes + 1), np.int64)  # as a matrix with all its cells
        plot_confusion_matrix(table, names, folder / "matrix.png")

    def metrics() -> None:
        tally = Tally(classes)
        for scene in scenes:
            tally.add(scene)
        plot_metrics(tally, tally.compute(), folder, names)

    return {"matrix": matrix, "dense": dense, "metrics": metrics}[step]


def measure(step: str, n: int, classes: int) -> None:
    """Print seconds and MiB of a step of this process."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(step, n, classes, Path(folder))
        before = peak_resident()
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    after = peak_resident()
    sys.stdout.write(f"{seconds} {after - before}\n")


def main() -> None:
    """Measure the steps, each in a process of its own, and log the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=10_000, help="number of classes")
    parser.add_argument("--boxes", type=int, default=1_000_000, help="number of labels")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[s for s in STEPS if s != "dense"])
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    opt = parser.parse_args()
    if opt.child:
        measure(opt.child, opt.boxes, opt.classes)
        return
    LOGGER.info(f"{opt.classes} classes, {opt.boxes} boxes\n{'step':<10}{'seconds':>10}{'MiB more':>10}")
    for step in opt.steps:
        command = [sys.executable, "-m", "benchmarks.many_classes", "--child", step]
        command += ["--classes", str(opt.classes), "--boxes", str(opt.boxes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, mebibytes = map(float, done.stdout.split())
        LOGGER.info(f"{step:<10}{seconds:>10.1f}{mebibytes:>10.0f}")


if __name__ == "__main__":
    with cli_errors():
        main()
