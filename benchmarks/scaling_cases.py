"""What `benchmarks.scaling` measures: for each thing that grows, how a function of any size is made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from engine.doctor import boxes as doctor_boxes
from engine.doctor.dataset import DoctorSplit
from engine.inference.slicing import merge_tiles
from engine.results.files import CsvFile, JsonFile, TextFiles, text_lines
from engine.results.report import DetectReport
from engine.validation.breakdown import break_down
from engine.validation.class_map import match_classes
from engine.validation.evaluation import ImageResult, Tally
from models.yolo import DetectionModel
from utils.annotate import draw_detections
from utils.augmentations import Tile, apply_perspective, letterbox, paste_copies
from utils.datasets.dataset import check_dataset
from utils.datasets.mosaics import lay_labels
from utils.datasets.output_names import ResultIds
from utils.datasets.reader import parse_labels
from utils.datasets.tiles import cut_labels, tile_grid
from utils.files import yaml_save
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.metrics import ConfusionMatrix, measure_ap, plot_metric_curves
from utils.nms import non_max_suppression
from utils.paths import check_file
from utils.plots import plot_labels
from utils.torch_utils import init_seeds


@dataclass(frozen=True)
class Case:
    """One row: what is measured, the unit of its sizes, the sizes, and what makes the function for a size."""

    what: str
    unit: str
    sizes: list[int]
    make: Callable[[int], Callable[[], Any]]


def build(cfg: str, imgsz: int, nc: int = 80) -> DetectionModel:
    """Return a model in training mode with hyperparameters, channels last."""
    init_seeds(0)
    model = DetectionModel(cfg, nc=nc, verbose=False).to(memory_format=torch.channels_last)
    hyp = Hyp.load(check_file("data/hyps/hyp.scratch-low.yaml"))
    model.hyp = hyp.scaled(model.detect.nl, model.nc, imgsz, 0.0).to_dict()
    return model


def images_of(batch: int, imgsz: int) -> torch.Tensor:
    """Return random images, channels last."""
    return torch.rand(batch, 3, imgsz, imgsz).to(memory_format=torch.channels_last)


def forward(cfg: str, imgsz: int, batch: int = 1, window: int | None = None) -> Callable[[], Any]:
    """Run a model on images."""
    model = build(cfg, imgsz)
    if window:
        model.set_window(window)
    return torch.no_grad()(partial(model.eval().fuse(), images_of(batch, imgsz)))


def random_targets(batch: int, boxes: int, nc: int) -> torch.Tensor:
    """Return targets (batch * boxes, 6) `[image, class, xywhn]`."""
    g = torch.Generator().manual_seed(0)
    n = batch * boxes
    cls = torch.randint(nc, (n, 1), generator=g).float()
    centre, size = torch.rand(n, 2, generator=g), 0.02 + 0.3 * torch.rand(n, 2, generator=g)
    return torch.cat((torch.arange(batch).repeat_interleave(boxes)[:, None].float(), cls, centre, size), 1)


def found_rows(rows: int, objects: int, nc: int, size: int) -> torch.Tensor:
    """Return a prediction (1, rows, 5 + nc) whose rows are spread over some objects, close to them."""
    g = torch.Generator().manual_seed(0)
    y = torch.rand(1, rows, 5 + nc, generator=g)
    centres = (torch.rand(objects, 2, generator=g) * size).repeat(-(-rows // objects), 1)[:rows]
    y[0, :, :2] = centres + 8 * y[0, :, :2]
    y[0, :, 2:4] = 30 + 10 * y[0, :, 2:4]
    y[0, :, 4] = 0.2 + 0.8 * y[0, :, 4]
    y[0, :, 5:] *= (torch.arange(nc) == torch.randint(nc, (rows, 1), generator=g)).float()
    return y


def detections_of(n: int, size: float = 640.0, nc: int = 80, seed: int = 0) -> torch.Tensor:
    """Return (n, 6) `[xyxy, confidence, class]`, best first."""
    g = torch.Generator().manual_seed(seed)
    xy, wh = torch.rand(n, 2, generator=g) * size, 5 + 40 * torch.rand(n, 2, generator=g)
    conf = torch.rand(n, 1, generator=g).sort(0, descending=True).values
    return torch.cat((xy, xy + wh, conf, torch.randint(nc, (n, 1), generator=g).float()), 1)


def labels_of(n: int, nc: int = 80, seed: int = 0) -> np.ndarray:
    """Return (n, 5) float32 `[class, xywhn]`, all different."""
    rng = np.random.default_rng(seed)
    xywh = rng.uniform((0.1, 0.1, 0.01, 0.01), (0.9, 0.9, 0.1, 0.1), (n, 4))
    return np.concatenate((rng.integers(0, nc, (n, 1)), xywh), 1).astype(np.float32)


# Sizes of an image ----------------------------------------------------------------------------------------------------
def size_cases(cfgs: list[str]) -> Iterator[Case]:
    """Pixels of one image, 320 to 1536 a side, without a network 6144."""
    sizes = [side * side for side in (320, 480, 640, 960, 1280, 1536)]

    def letterboxed(x: int) -> Callable[[], Any]:
        image = np.random.default_rng(0).integers(0, 255, (round(x**0.5), round(x**0.5), 3), np.uint8)
        return partial(letterbox, image, (round(x**0.5) * 2 // 3,) * 2, auto=False)

    def drawn(x: int) -> Callable[[], Any]:
        side = round(x**0.5)
        image, names = np.zeros((side, side, 3), np.uint8), {i: f"class{i}" for i in range(80)}
        return partial(draw_detections, image, detections_of(20, side), names)

    def suppressed(x: int) -> Callable[[], Any]:
        rows = round(63 * x / 1024)  # of three levels and anchors
        y = torch.rand(1, rows, 85, generator=torch.Generator().manual_seed(0))
        y[..., :4] *= torch.tensor([x**0.5, x**0.5, 40, 40])
        y[..., 4] *= 0.002
        return partial(non_max_suppression, y, 0.001, 0.6, multi_label=True)

    large = [side * side for side in (320, 640, 1536, 3072, 6144)]
    yield Case("letterbox", "pixels", large, letterboxed)
    for cfg in cfgs:
        yield Case(f"{cfg} forward", "pixels", sizes, lambda x, cfg=cfg: forward(cfg, round(x**0.5)))
    yield Case("NMS of all rows at 0.001", "pixels", sizes, suppressed)
    yield Case("drawing 20 boxes", "pixels", large, drawn)


def window_cases(cfgs: list[str], imgsz: int) -> Iterator[Case]:
    """Area of the attention window; nothing for models without Swin stages."""
    for cfg in cfgs:
        if build(cfg, imgsz).swin_stages:
            make = partial(forward, cfg, imgsz, 1)
            yield Case(f"{cfg} forward", "cells of a window", [16, 64, 256], lambda x, make=make: make(round(x**0.5)))


def batch_cases(cfgs: list[str], imgsz: int) -> Iterator[Case]:
    """Images of a batch."""
    for cfg in cfgs:
        yield Case(f"{cfg} forward", "images in a batch", [1, 2, 4, 8, 16], partial(forward, cfg, imgsz))


# Boxes ----------------------------------------------------------------------------------------------------------------
def suppression(objects: int, x: int) -> Callable[[], Any]:
    """Suppress x candidates of one class that belong to so many objects."""
    return partial(non_max_suppression, found_rows(x, min(objects, x), 1, 640), 0.001, 0.6, max_det=300)


def losses(cfg: str, nc: int, x: int) -> Callable[[], Any]:
    """Loss of 4 images with x boxes each."""
    model = build(cfg, 128, nc)
    return partial(ComputeLoss(model), model(images_of(4, 128)), random_targets(4, x, nc))


def parsed(polygons: bool, x: int) -> Callable[[], Any]:
    """Read a label file of x lines."""
    rows = labels_of(x)
    if polygons:
        corners = np.random.default_rng(0).uniform(0.1, 0.9, (x, 20))
        lines = [f"{i % 80} " + " ".join(f"{v:.6f}" for v in row) for i, row in enumerate(corners)]
    else:
        lines = [f"{int(c)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for c, x, y, w, h in rows.tolist()]
    return partial(parse_labels, "\n".join(lines), "labels.txt", 80)


def mosaic_labels(x: int) -> Callable[[], Any]:
    """Move the labels of four images with x / 4 boxes each as a mosaic does."""
    own = [labels_of(x // 4, seed=k) for k in range(4)]
    canvas, matrix = np.zeros((128, 128, 4), np.uint8), np.array([[0.5, 0.01, 0], [0, 0.5, 0], [0, 0, 1]])

    def move() -> Any:
        labels, _ = lay_labels(own, [[]] * 4, [(64, 64)] * 4, [(0, 0), (64, 0), (0, 64), (64, 64)], (128, 128))
        return apply_perspective(canvas, labels, [], matrix, (64, 64), 0.5)

    return move


def pasted(x: int) -> Callable[[], Any]:
    """Paste copies of half of x objects whose size falls with their number."""
    rng = np.random.default_rng(0)
    xy, wh = rng.uniform(0, 600, (x, 2)), np.full((x, 2), 300 / x**0.5)
    corners = np.concatenate((xy, xy + wh), 1)
    segments = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32) for x1, y1, x2, y2 in corners]
    labels = np.concatenate((rng.integers(0, 80, (x, 1)), corners), 1).astype(np.float32)
    tile = Tile(np.zeros((640, 640, 3), np.uint8), labels, segments)
    return partial(paste_copies, tile, list(range(0, x, 2)))


def scattered(x: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """Return the tiles of a square image whose side grows with x boxes, 50 in each tile, and the side."""
    side = max(round(320 * (x / 50) ** 0.5), 320)
    return tile_grid(side, side, 320), side


def merged(x: int) -> Callable[[], Any]:
    """Merge x boxes that were found in tiles, a part of them cut."""
    windows, side = scattered(x)
    boxes = detections_of(x, side - 50, 1)
    order = torch.arange(len(boxes)) % len(windows)
    found = []
    for i, (x1, y1, _, _) in enumerate(windows):
        own = boxes[order == i].clone()
        own[:, 2:4] -= own[:, :2]
        own[:, :2] = own[:, :2] * (270 / (side - 50)) + torch.tensor([x1, y1])
        own[:, 2:4] += own[:, :2]
        found.append(own)
    whole = (0, 0, side, side)
    return partial(merge_tiles, [boxes[:0], *found], [whole, *windows], (side, side), 0.45, False, 300)


def cut(x: int) -> Callable[[], Any]:
    """Give x labels of an image to its tiles."""
    windows, side = scattered(x)
    labels = labels_of(x)
    labels[:, 3:] *= 320 / side
    return partial(cut_labels, labels, [], (side, side), windows)


def double(x: int) -> Callable[[], Any]:
    """Look for labels of one image that cover each other."""
    labels = labels_of(x)
    labels[:, 3:] /= max(x / 100, 1) ** 0.5  # the more there are, the smaller
    split = DoctorSplit("train", "", True, [], ["a"], ["a"], [labels], np.array([[640, 480]]), [])
    split.flat, split.owner, split.per_image  # noqa: B018, kept once they are known
    return partial(doctor_boxes.overlapping_pairs, split, doctor_boxes.DOUBLE)


def written(kind: str, x: int) -> Callable[[], Any]:
    """Write x detections of one image."""
    boxes, image = detections_of(x), np.zeros((64, 64, 3), np.uint8)
    names = {i: f"class{i}" for i in range(80)}

    def write() -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            if kind == "page":
                page = DetectReport(folder, names)
                page.add(image, "a.jpg", boxes)
                page.close()
                return
            file: Any = {
                "text": partial(TextFiles, folder, {"a.jpg": "a"}, True),
                "JSON": partial(JsonFile, folder / "a.json", ResultIds({"a.jpg": 1})),
                "CSV": partial(CsvFile, folder / "a.csv", {"a.jpg": "a"}, names),
            }[kind]()
            file.add(boxes, "a.jpg", (640, 640))
            file.close()

    return write


def counted(details: bool, x: int) -> Callable[[], Any]:
    """Count an image with x labels and 300 detections for the metrics."""
    labels, found = detections_of(x, seed=1), detections_of(300)
    result = ImageResult(found, torch.cat((labels[:, 5:], labels[:, :4]), 1), (640, 640), "a.jpg")

    def count() -> None:
        Tally(80, None, details).add(result)

    return count


def box_cases(cfgs: list[str]) -> Iterator[Case]:
    """Boxes or labels of one image."""
    few, many = [10, 100, 1000, 3000, 10_000], [100, 1000, 3000, 10_000, 30_000]
    names = {i: f"class{i}" for i in range(80)}
    canvas = np.zeros((640, 640, 3), np.uint8)
    yield Case("NMS, 30 objects", "candidates", many, partial(suppression, 30))
    yield Case("NMS, 3000 objects", "candidates", many, partial(suppression, 3000))
    yield Case("label file of boxes", "lines", many, partial(parsed, False))
    yield Case("label file of polygons", "lines", few, partial(parsed, True))
    yield Case("labels of a mosaic", "boxes", many, mosaic_labels)
    yield Case("copy-paste", "objects", [10, 30, 100, 300, 1000], pasted)
    yield Case("loss, 4 images", "boxes in an image", few, partial(losses, cfgs[0], 80))
    found = partial(detections_of, nc=8)  # the texts of 8 classes and 100 confidences are rendered once
    yield Case("drawing", "boxes", few, lambda x: partial(draw_detections, canvas, found(x), names))
    yield Case("text lines", "boxes", many, lambda x: partial(text_lines, detections_of(x), (640, 640), True))
    for kind in ("JSON", "CSV", "page"):
        yield Case(f"writing {kind}", "boxes", many, partial(written, kind))
    yield Case("merging tiles", "boxes in tiles", few, merged)
    yield Case("labels to tiles", "labels", few, cut)
    yield Case("matching and counting, 300 detections", "labels", few, partial(counted, True))
    yield Case("doctor: labels twice", "labels of an image", few, double)


# Classes --------------------------------------------------------------------------------------------------------------
def class_names(nc: int) -> dict[int, str]:
    """Return names of classes."""
    return {i: f"class {i}" for i in range(nc)}


def tally_of(nc: int, images: int, boxes: int = 20) -> Tally:
    """Count images with so many labels and as many detections, half of them right."""
    tally = Tally(nc, None, True)
    for i in range(images):
        labels = detections_of(boxes, nc=nc, seed=i)
        found = labels.clone()
        found[::2, :4] += 30
        tally.add(ImageResult(found, torch.cat((labels[:, 5:], labels[:, :4]), 1), (640, 640), f"{i}.jpg"))
    return tally


def summed_up(x: int) -> Callable[[], Any]:
    """Work out all that a validation says of x classes with 20 boxes each."""
    tally, names = tally_of(x, x), class_names(x)

    def sum_up() -> Any:
        detected = tally.detected()
        result = tally.compute(detected)
        return result, break_down(tally, result, names).record(), detected.thresholds(result.best, names)

    return sum_up


def scored(x: int) -> tuple[np.ndarray, ...]:
    """Return what `measure_ap` takes, 20 boxes and labels of each of x classes."""
    rng, n = np.random.default_rng(0), 20 * x
    tp, conf = rng.random((n, 10)) < 0.5, rng.random(n)
    return tp, conf, rng.integers(0, x, n).astype(float), rng.permutation(np.arange(n) % x).astype(float)


def confused(plot: bool, x: int) -> Callable[[], Any]:
    """Count x images of 20 boxes of x classes in a confusion matrix, or draw it."""
    images = [detections_of(20, nc=x, seed=i) for i in range(x)]
    matrix = ConfusionMatrix(x)

    def count() -> ConfusionMatrix:
        matrix = ConfusionMatrix(x)
        for found in images:
            matrix.process_batch(found, torch.cat((found[:, 5:], found[:, :4]), 1))
        matrix.blocks()
        return matrix

    if not plot:
        return count
    matrix = count()

    def draw() -> None:
        with TemporaryDirectory() as folder:
            matrix.plot(save_dir=folder, names=class_names(x))

    return draw


def curves(x: int) -> Callable[[], Any]:
    """Draw the curves of x classes."""
    result = measure_ap(*scored(x))

    def draw() -> None:
        with TemporaryDirectory() as folder:
            plot_metric_curves(result, folder, class_names(x))

    return draw


def drawn_labels(x: int, nc: int) -> Callable[[], Any]:
    """Draw the statistics of x labels."""
    labels, names = labels_of(x, nc), class_names(nc)

    def draw() -> None:
        with TemporaryDirectory() as folder:
            plot_labels(labels, names, folder)

    return draw


def chosen(scratch: Path, x: int) -> Callable[[], Any]:
    """Read a dataset YAML of x classes that are all chosen by name, and find them in a model."""
    names, file = class_names(x), scratch / f"classes{x}.yaml"
    yaml_save(file, {"path": str(scratch), "train": ".", "val": ".", "names": names})
    wanted = list(names.values())[::-1]

    def choose() -> Any:
        return match_classes(check_dataset(file, classes=wanted)["selection"], names, False, "best.pt")

    return choose


def suppressed_classes(x: int) -> Callable[[], Any]:
    """Suppress 1000 rows of x classes."""
    return partial(non_max_suppression, found_rows(1000, 100, x, 640), 0.001, 0.6, multi_label=True)


def class_cases(cfgs: list[str], scratch: Path) -> Iterator[Case]:
    """Classes of a dataset."""
    sizes = [1, 10, 100, 1000, 3000, 10_000]
    yield Case("loss, 4 images of 10 boxes", "classes", sizes, lambda x: losses(cfgs[0], x, 10))
    yield Case("NMS at 0.001, 1000 rows", "classes", sizes, suppressed_classes)
    yield Case("average precision, 20 boxes each", "classes", sizes, lambda x: partial(measure_ap, *scored(x)))
    yield Case("confusion matrix, 20 boxes each", "classes", sizes, partial(confused, False))
    yield Case("its figure", "classes", sizes, partial(confused, True))
    yield Case("all numbers of a validation", "classes", sizes, summed_up)
    yield Case("curves", "classes", sizes, curves)
    yield Case("figure of 10,000 labels", "classes", sizes, lambda x: drawn_labels(10_000, x))
    yield Case("YAML, choice and matching of all", "classes", sizes, partial(chosen, scratch))
