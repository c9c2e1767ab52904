"""Validation on a loader: model and NMS on each batch, counts for the metrics, the table and the plots."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from engine.inference.slicing import FittedTiles, merge_with_whole
from engine.validation.class_map import ClassMap
from engine.validation.deployed import Deployment, Detected
from engine.validation.errors import Errors, judge
from models.detector import Detector
from utils.annotate import output_to_target, plot_images
from utils.boxes import box_area, clip_boxes, scale_boxes, xywhn2xyxy
from utils.callbacks import Callbacks
from utils.console import LOGGER, ProgressBar
from utils.datasets.images import render_batch
from utils.metrics import (
    IOU_THRESHOLDS,
    ApResult,
    ConfusionMatrix,
    Rows,
    map_spread,
    match_labels,
    measure_ap,
    measure_ap_by_size,
    plot_metric_curves,
)
from utils.nms import non_max_suppression
from utils.text import printable
from utils.torch_utils import Profile, amp_context

HEADER = ("%22s" + "%11s" * 6) % ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
FEW_LABELS = 200  # below this, the table says how sure it is
ROW = "%22s" + "%11i" * 2 + "%11.3g" * 4

LEVELS = IOU_THRESHOLDS.numpy()

Loss = Callable[[list[Tensor], Tensor], tuple[Tensor, Tensor]]  # see utils/loss.py


@dataclass(frozen=True)
class ImageResult:
    """One image: detections (D, 6) `[xyxy_img, confidence, class]`, labels (M, 5) `[class, xyxy_img]`, (h, w), file.

    `detections` are those of AP; `deployed` those of `Deployment`, None where they are the same.
    """

    detections: Tensor
    labels: Tensor
    shape: tuple[int, int]
    path: str
    deployed: Tensor | None = None

    @property
    def shown(self) -> Tensor:
        """What is counted and drawn, (D, 6) `[xyxy_img, confidence, class]`."""
        return self.detections if self.deployed is None else self.deployed


@dataclass(frozen=True)
class Batch:
    """One batch: images (B, 3, H, W) 0..1, targets (T, 6), B detections (D, 6) `[xyxy_net, ...]`, and B results.

    `found` are the detections of AP, `shown` those of `Deployment`. The memory of the images is used again by the next
    batch.
    """

    images: Tensor
    targets: Tensor
    found: list[Tensor]
    results: list[ImageResult]
    shown: list[Tensor]


class Runner:
    """Run model and NMS on batches, and accumulate time and loss.

    Args:
        model: in evaluation mode while `batches` runs.
        conf_thres, iou_thres, max_det: see `non_max_suppression`.
        single_cls: give every detection class 0.
        half: compute in float16; ignored without CUDA.
        compute_loss: the training loss, or None; it needs a model that gives its raw maps too.
        augment: test-time augmentation with three views; not together with `compute_loss`.
        hybrid: let the labels enter the suppression with confidence 1.
        deployment: the second suppression, for all but AP; without it the detections of AP are counted and drawn.
        class_map: for classes that the dataset chooses; not together with `compute_loss`.
        sliced: the loader gives tiles too. Each box then has its best class alone, as in detect.py, for AP too.

    Attributes:
        times: `Profile` of pre-processing, inference and NMS.
        loss: (3,) box, obj, cls, sum over batches.
    """

    def __init__(
        self,
        model: nn.Module,
        conf_thres: float,
        iou_thres: float,
        max_det: int,
        single_cls: bool,
        half: bool,
        compute_loss: Loss | None,
        augment: bool = False,
        hybrid: bool = False,
        deployment: Deployment | None = None,
        class_map: ClassMap | None = None,
        sliced: bool = False,
    ) -> None:
        self.sliced = sliced
        self.hybrid, self.deployment = hybrid, deployment
        self.class_map, self.chosen = class_map, class_map.chosen if class_map else None
        self.model, self.single_cls, self.compute_loss = model, single_cls, compute_loss
        if augment and compute_loss:
            raise ValueError("augment=True gives no raw maps, which compute_loss needs: leave one of them out")
        if class_map and compute_loss:
            raise ValueError("compute_loss needs the classes of the dataset in the order of the model: choose none")
        self.keywords = {"augment": True} if augment else {}
        self.conf_thres, self.iou_thres, self.max_det = conf_thres, iou_thres, max_det
        self.device = getattr(model, "device", None) or next(model.parameters()).device
        self.dtype = torch.float16 if half and self.device.type == "cuda" else None
        self.times = Profile(), Profile(), Profile()
        self.loss = torch.zeros(3, device=self.device)
        self._memory = torch.zeros(0, device=self.device)
        self._detector = Detector(model, self._suppress_both, augment, self.dtype is not None)
        self._detector.times = self.times
        non_max_suppression(torch.zeros(1, 0, 6), conf_thres, iou_thres, max_det=max_det)  # loads torchvision untimed

    @torch.no_grad()  # not inference_mode: what a module caches here must stay usable when training goes on
    def batches(self, loader: Iterable, callbacks: Callbacks) -> Iterator[Batch]:
        """Yield the batches of a loader with their detections, in the coordinates of the original images too."""
        for images, targets, paths, shapes, *tiles in loader:
            callbacks.run("on_val_batch_start")
            with self.times[0]:
                images = self._unit_range(images.to(self.device, non_blocking=True))  # (B, 3, H, W)
                targets = targets.to(self.device, non_blocking=True)  # (T, 6)
            with self.times[1], amp_context(self.device, self.dtype):
                output = self.model(images, **self.keywords)
            decoded, raw = (
                output if isinstance(output, tuple | list) else (output, None)
            )  # (B, R, 5 + nc) and the raw maps
            if self.compute_loss:
                self.loss += self.compute_loss(raw, targets)[1]
            decoded = self.class_map(decoded) if self.class_map else decoded
            frame = (images.shape[2], images.shape[3])
            known = _labels_in_pixels(targets, len(images), frame) if self.hybrid else ()
            with self.times[2]:
                found = [d.cpu() for d in self._suppress(decoded, known)]  # B of (D, 6)
            shown = self._deployed(self.deployment, decoded, known) if self.deployment else found
            labels = [targets[targets[:, 0] == i, 1:].cpu() for i in range(len(images))]  # B of (M, 5)
            results = [_to_original(*item, frame) for item in zip(found, labels, shapes, paths, shown, strict=True)]
            if tiles:
                results = [self._with_tiles(*pair) for pair in zip(results, tiles[0], strict=True)]
                found, shown = (
                    [_to_frame(boxes, ratio_pad) for boxes, (_, ratio_pad) in zip(all_boxes, shapes, strict=True)]
                    for all_boxes in zip(*((r.detections, r.shown) for r in results), strict=True)
                )
            yield Batch(images, targets, found, results, shown)

    def _unit_range(self, images: Tensor) -> Tensor:
        """Convert 0..255 to float32 0..1, in the same memory for all batches: new memory costs more than the rest."""
        if self._memory.numel() < images.numel():
            self._memory = torch.empty(images.numel(), device=self.device)
        return self._memory[: images.numel()].view(images.shape).copy_(images).div_(255)

    def _suppress(self, decoded: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
        """Apply NMS to predictions and known boxes `[class, xywh_net]`; (D, 6) `[xyxy_net, confidence, class]` each."""
        found = non_max_suppression(
            decoded,
            self.conf_thres,
            self.iou_thres,
            self.chosen,
            agnostic=self.single_cls,
            multi_label=not self.sliced,
            labels=known,
            max_det=self.max_det,
        )
        return self._merge_classes(found)

    def _deployed(self, deployment: Deployment, decoded: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
        """Suppress as `_suppress` does, but with the settings of detect.py; on the CPU."""
        found = [d.cpu() for d in deployment.suppress(decoded, self.single_cls, known, self.chosen)]
        return self._merge_classes(found)

    def _suppress_both(self, decoded: Tensor) -> list[Tensor]:
        """Return B of (D, 7) `[xyxy_net, confidence, class, 0 for AP or 1 for `deployment`]`."""
        decoded = self.class_map(decoded) if self.class_map else decoded
        found = [self._suppress(decoded, ())]
        if self.deployment:
            found.append(self._deployed(self.deployment, decoded, ()))
        marked = ([torch.nn.functional.pad(d.cpu(), (0, 1), value=use) for d in part] for use, part in enumerate(found))
        return [torch.cat(parts) for parts in zip(*marked, strict=True)]

    def _with_tiles(self, result: ImageResult, tiles: FittedTiles) -> ImageResult:
        """Merge the detections in the whole image with those in its tiles, as detect.py does."""
        rows, windows, merged = tiles.detect(self._detector), tiles.windows, []
        settings = [(result.detections, self.iou_thres, self.max_det)]
        if self.deployment:
            settings.append((result.shown, self.deployment.iou, self.deployment.max_det))
        with self.times[2]:
            for use, (whole, iou, max_det) in enumerate(settings):
                parts = [boxes[boxes[:, 6] == use, :6] for boxes in rows]
                merged.append(merge_with_whole(whole, parts, windows, result.shape, iou, self.single_cls, max_det))
        return replace(result, detections=merged[0], deployed=merged[1] if self.deployment else None)

    def _merge_classes(self, found: list[Tensor]) -> list[Tensor]:
        """Give every detection class 0, in place, if all classes count as one."""
        if self.single_cls:
            for detections in found:
                detections[:, 5] = 0
        return found


def _labels_in_pixels(targets: Tensor, count: int, frame: tuple[int, int]) -> list[Tensor]:
    """Split targets (T, 6) `[image, class, xywhn]` into one (M, 5) `[class, xywh_net]` for each of `count` images."""
    height, width = frame
    scale = targets.new_tensor([1, width, height, width, height])
    return [targets[targets[:, 0] == i, 1:] * scale for i in range(count)]


def _to_original(
    detections: Tensor,
    labels: Tensor,
    shapes: tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]],
    path: str,
    shown: Tensor,
    frame: tuple[int, int],
) -> ImageResult:
    """Bring detections (D, 6) in pixels of the frame and labels (M, 5) `[class, xywhn]` to pixels of the image."""
    shape, ratio_pad = shapes
    boxes = xywhn2xyxy(labels[:, 1:], frame[1], frame[0])
    labels = torch.cat((labels[:, :1], scale_boxes(frame, boxes, shape, ratio_pad)), 1)
    deployed = None if shown is detections else scale_boxes(frame, shown, shape, ratio_pad)
    return ImageResult(scale_boxes(frame, detections, shape, ratio_pad), labels, shape, path, deployed)


def _to_frame(boxes: Tensor, ratio_pad: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """Bring detections (D, 6) `[xyxy_img, confidence, class]` to pixels of the frame of their image."""
    (gain, _), (left, top) = ratio_pad
    moved = boxes.clone()
    moved[:, :4] = boxes[:, :4] * gain + boxes.new_tensor([left, top, left, top])
    return moved


def warn_of_max_det(dataset: Any, max_det: int) -> None:
    """Warn of images that have more labels than detections are kept of them.

    Args:
        dataset: a `LoadImagesAndLabels`.
        max_det: detections kept of an image.
    """
    labels = dataset.labels
    counts = [len(x) for x in labels if len(x) > max_det]
    if counts:
        LOGGER.warning(
            f"{len(counts)} of {len(labels)} images have more than {max_det} labels, up to {max(counts)}, but "
            f"{max_det} detections are kept of each, so recall and mAP cannot reach 1: use --max-det {max(counts)}"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode and restore the mode of every module, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Tally:
    """Collect from each image what the metrics need.

    Args:
        nc: number of classes.
        deployment: settings of the boxes that are shown; by default those of detect.py.
        details: also collect what AP by size and the kinds of error need.

    Attributes:
        seen: images so far.
        confusion: the `ConfusionMatrix` of them.
    """

    def __init__(self, nc: int, deployment: Deployment | None = None, details: bool = False) -> None:
        self.nc = nc
        self.deployment = deployment or Deployment()
        self.details = details
        self.seen = 0
        self.confusion = ConfusionMatrix(nc, self.deployment.conf)
        self._labels, self._scored, self._shown = Rows(), Rows(), Rows()  # see `add`
        self._counts = array("q")  # of each image: labels, boxes of `_scored`, boxes of `_shown`

    def add(self, result: ImageResult) -> None:
        """Count one image."""
        self.seen += 1
        found, shown, labels = (x.numpy() for x in (result.detections, result.shown, result.labels))
        correct, candidates = match_labels(found, labels, LEVELS)
        right = match_labels(shown, labels, LEVELS[:1])[0][:, 0]  # at IoU 0.5 alone
        self.confusion.process_batch(result.shown, result.labels)
        of_labels, of_found, of_shown = [labels[:, 0]], [correct, *found[:, 4:6].T], [right, *shown[:, 4:6].T]
        if self.details:
            areas = box_area(labels[:, 1:])
            of_labels.append(areas)
            # areas of the detections, and of the labels they may have
            of_found += [box_area(found[:, :4]), areas[candidates] if len(areas) else np.zeros(len(found), areas.dtype)]
            kinds, targets = judge(shown, labels, right)
            targets[targets >= 0] += len(self._labels)  # the label among all so far
            of_shown += [kinds, targets, box_area(shown[:, :4])]
        self._counts.extend((len(labels), len(found), len(shown)))
        self._labels.add(*of_labels)
        self._scored.add(*of_found)
        self._shown.add(*of_shown)

    def detected(self) -> Detected:
        """Return the boxes that are shown of all images so far, at least one."""
        right, conf, classes = self._shown.columns()[:3]
        labels_of, _, boxes_of = np.array(self._counts).reshape(-1, 3).T
        labels = self._labels.columns()[0]
        return Detected(right, conf, classes, labels, boxes_of, labels_of, self.deployment.lowest)

    def errors(self) -> Errors:
        """Return the boxes that are shown of all images so far by kind of error; needs `details`."""
        _, conf, classes, kinds, targets, areas = self._shown.columns()
        labels, label_areas = self._labels.columns()
        return Errors(kinds, targets, conf, classes.astype(int), areas, labels.astype(int), label_areas)

    def compute(self, detected: Detected | None = None) -> ApResult:
        """Return the metrics of all images so far, at least one: AP, and precision, recall and F1 of what is shown."""
        correct, conf, classes, *areas = self._scored.columns()
        labels, *sizes = self._labels.columns()
        result = (detected or self.detected()).put_into(measure_ap(correct, conf, classes, labels))
        if not self.details:
            return result
        ap, counts = measure_ap_by_size(correct, conf, classes, areas[0], areas[1], labels, sizes[0])
        return replace(result, by_size=ap, size_labels=counts)

    def spread(self) -> tuple[float, float]:
        """Return the range that mAP50-95 has with other images as good as these; see `map_spread`."""
        labels_of, boxes_of, _ = np.array(self._counts).reshape(-1, 3).T
        parts = [np.split(column, boxes_of.cumsum()[:-1]) for column in self._scored.columns()[:3]]
        parts.append(np.split(self._labels.columns()[0], labels_of.cumsum()[:-1]))
        return map_spread(list(zip(*parts, strict=True)))

    def label_counts(self) -> np.ndarray:
        """Return the number of labels of each class, (nc,)."""
        return np.bincount(self._labels.columns()[0].astype(int), minlength=self.nc)


def progress(loader: DataLoader) -> ProgressBar:
    """Show the head of the table on the progress bar; without a terminal as a line of its own."""
    bar = ProgressBar(loader, HEADER, unit="batches")
    if bar.plain:
        LOGGER.info(HEADER)
        bar.title = "validation"
    return bar


def log_table(tally: Tally, result: ApResult, names: Mapping[int, str], every_class: bool) -> None:
    """Log the row of all classes and, if asked and there are several, one for each class with labels."""
    counts = tally.label_counts()
    LOGGER.info(ROW % ("all", tally.seen, counts.sum(), *result.means()))
    if every_class and len(names) > 1:
        for c, row in zip(result.classes, result.rows(), strict=True):
            LOGGER.info(ROW % (printable(names[c]), tally.seen, counts[c], *row))


def log_spread(tally: Tally, result: ApResult) -> None:
    """Log how much mAP depends on chance where there are few labels."""
    labels = int(tally.label_counts().sum())
    if 0 < labels < FEW_LABELS and tally.seen > 1:
        low, high = tally.spread()
        LOGGER.info(
            f"{labels} labels are few: mAP50-95 is {result.means()[3]:.3f} on these images, and in 95 % of sets drawn "
            f"from them between {low:.3f} and {high:.3f}; differences within that range may be chance"
        )


def run_val_batch_callbacks(callbacks: Callbacks, i: int, batch: Batch, names: Mapping[int, str]) -> None:
    """Report that batch `i` and each of its images are done, with the arguments that YOLOv5's actions take."""
    for image, pred, result in zip(batch.images, batch.found, batch.results, strict=True):
        callbacks.run("on_val_image_end", pred, result.detections, Path(result.path), names, image)
    paths, shapes = zip(*((result.path, (result.shape, None)) for result in batch.results), strict=True)
    callbacks.run("on_val_batch_end", i, batch.images, batch.targets, paths, shapes, batch.found)


def plot_batch(batch: Batch, save_dir: Path, i: int, names: Mapping[int, str], deployment: Deployment) -> None:
    """Draw the labels and the detections of batch `i`."""
    paths, images = [result.path for result in batch.results], render_batch(batch.images)
    file = save_dir / f"val_batch{i}_labels.jpg"
    plot_images(images, batch.targets, paths, file, names, title="labels")
    frame = (batch.images.shape[2], batch.images.shape[3])
    inside = [clip_boxes(found.clone(), frame) for found in batch.shown]  # beyond 1.01 they would be taken for pixels
    rows = output_to_target(inside, shape=frame)
    file, conf = save_dir / f"val_batch{i}_pred.jpg", deployment.conf
    plot_images(images, rows, paths, file, names, conf_thres=conf, title=f"detections, {deployment}")


def plot_metrics(
    tally: Tally, result: ApResult, save_dir: Path, names: Mapping[int, str], conf_thres: float, iou_thres: float
) -> None:
    """Draw the confusion matrix and the four curves; the thresholds are those of AP."""
    deployment = tally.deployment
    tally.confusion.plot(save_dir=save_dir, names=names, setting=str(deployment))
    plot_metric_curves(
        result,
        save_dir,
        names,
        ap_setting=f"of mAP: confidence > {conf_thres:g}, NMS IoU {iou_thres:g}",
        setting=f"NMS IoU {deployment.iou:g}, match IoU 0.5",
    )
