"""Detection metrics: matching, average precision, confusion matrix, fitness, and the names that YOLOv5 has here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import boxes
from utils.boxes import box_ioa, box_iou
from utils.console import LOGGER
from utils.plots import plot_confusion_matrix, plot_mc_curve, plot_pr_curve
from utils.thresholds import CONF_THRES, IOU_THRES

IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)  # of mAP50-95, step 0.05
FITNESS_WEIGHTS = np.array([0.0, 0.0, 0.1, 0.9])  # of P, R, mAP50, mAP50-95
CURVE_POINTS = 1000  # confidences (or recalls) 0 to 1 at which curves are sampled
WAITING_CELLS = 1 << 17  # least pairs that a confusion matrix keeps before it counts them
TABLE = 1 << 16  # IoU values that are worked out together
RECALL_POINTS = np.linspace(0, 1, 101)  # at which AP is integrated
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # of COCO: areas in pixels


def fitness(x: np.ndarray) -> np.ndarray:
    """Combine the metrics into the fitness that selects `best.pt`: 0.1 mAP50 + 0.9 mAP50-95.

    Args:
        x: (4 or more,) or (N, 4 or more), columns P, R, mAP50, mAP50-95 and whatever follows.

    Returns:
        Scalar or (N,), in [0, 1].
    """
    return (np.asarray(x)[..., :4] * FITNESS_WEIGHTS).sum(-1)


class Rows:
    """Rows of many images end to end, one array for each column, which doubles when it is full.

    A list of arrays for each image would cost several Python objects each, and a view keeps alive what it is a part of.
    """

    def __init__(self) -> None:
        self._count = 0
        self._columns: list[np.ndarray] = []

    def __len__(self) -> int:
        return self._count

    def add(self, *columns: np.ndarray) -> None:
        """Append rows: of each column an array (N, ...), of the type that the first ones have."""
        start, end = self._count, self._count + len(columns[0])
        if not self._columns:
            self._columns = [np.empty((0, *column.shape[1:]), column.dtype) for column in columns]
        if end > len(self._columns[0]):
            for i, old in enumerate(self._columns):
                self._columns[i] = np.empty((max(end, 2 * len(old)), *old.shape[1:]), old.dtype)
                self._columns[i][:start] = old[:start]
        for column, new in zip(self._columns, columns, strict=True):
            column[start:end] = new
        self._count = end

    def columns(self) -> list[np.ndarray]:
        """Return the columns so far, (N, ...) each, as views: later rows change none of them."""
        return [column[: self._count] for column in self._columns]


def smooth(y: np.ndarray, f: float = 0.05) -> np.ndarray:
    """Smooth a curve with a box filter; beyond its ends the curve is taken to stay at its outer values.

    Args:
        y: (N,).
        f: half the width of the box as a fraction of N; in points the width is the next odd number from N f + 1 on.

    Returns:
        (N,).
    """
    half = (round(len(y) * f * 2) // 2 + 1) // 2
    return np.convolve(np.pad(y, half, mode="edge"), np.ones(2 * half + 1) / (2 * half + 1), mode="valid")


def match_predictions(detections: Tensor, labels: Tensor, iouv: Tensor = IOU_THRESHOLDS) -> Tensor:
    """Decide at each IoU threshold which detections of one image are correct.

    A detection is a candidate for the one label of its class that it overlaps most. Among the candidates for a label
    with an IoU of at least the threshold the first one is correct; the list being sorted by confidence, that is the
    most confident and not the one with the highest IoU. So each label makes at most one detection correct.

    Args:
        detections: (D, 6) `[xyxy, confidence, class]`, best first.
        labels: (M, 5) `[class, xyxy]`, in the same unit.
        iouv: (T,) thresholds in (0, 1].

    Returns:
        (D, T) bool on the device of the detections.
    """
    arrays = (x.cpu().numpy() for x in (detections, labels, iouv))  # small: NumPy's calls cost less
    return torch.from_numpy(match_labels(*arrays)[0]).to(detections.device)


def iou_tables(boxes: np.ndarray, labels: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the IoU of boxes (D, 4) and labels (M, 4) for some boxes at a time, which those are and the table (d, M).

    A table of all boxes of a crowded image would be read from memory again in each step, not from the cache.
    """
    step = max(TABLE // max(len(labels), 1), 1)
    for start in range(0, len(boxes), step):
        rows = slice(start, start + step)
        yield rows, box_iou(boxes[rows], labels)


def match_labels(found: np.ndarray, true: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match as `match_predictions` does, and return the candidates too.

    Args:
        found: (D, 6) `[xyxy, confidence, class]`, best first.
        true: (M, 5) `[class, xyxy]`, in the same unit.
        levels: (T,) IoU thresholds in (0, 1].

    Returns:
        Which detections are correct at each threshold, (D, T) bool, and the label for which each is a candidate, (D,)
        int; 0 for one that overlaps no label of its class.
    """
    correct = np.zeros((len(found), len(levels)), dtype=bool)  # (D, T)
    best_label = np.zeros(len(found), dtype=np.intp)
    if len(true) and len(found):
        best_iou = np.zeros(len(found), found.dtype)  # (D,)
        for rows, iou in iou_tables(found[:, :4], true[:, 1:5]):
            iou[found[rows, 5:6] != true[:, 0]] = 0
            best_label[rows], best_iou[rows] = iou.argmax(1), iou.max(1)
        number, level = (
            best_iou[:, None] >= levels
        ).nonzero()  # pairs of detection and threshold, the first detection first
        first = np.full((len(true), len(levels)), -1)  # (M, T)
        first[best_label[number[::-1]], level[::-1]] = number[::-1]  # of repeated indices NumPy keeps the last
        label, level = (first >= 0).nonzero()
        correct[first[label, level], level] = True
    return correct, best_label


process_batch, bbox_ioa = match_predictions, box_ioa  # their names in YOLOv5


def compute_ap(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrate a precision-recall curve.

    The curve is led from (recall 0, precision 1) to (1, 0), precision is made to fall (each value becomes the largest
    from there on), and the area is taken by the trapezoid rule over 101 recalls 0, 0.01, ..., 1 between which it is
    linear. A perfect detector therefore scores 0.995: its curve drops to 0 within the last step.

    Args:
        recall: (N,) or (N, T), rising along N, in [0, 1]; each column is a curve.
        precision: same shape, in [0, 1].

    Returns:
        AP as a scalar or (T,), the falling precision (N + 2,) or (N + 2, T), and the recalls it belongs to.
    """
    head = np.zeros((1, *recall.shape[1:]))
    mrec = np.concatenate((head, recall, head + 1))
    mpre = np.concatenate((head + 1, precision, head))
    mpre = np.maximum.accumulate(mpre[::-1])[::-1]
    columns = zip(mrec.reshape(len(mrec), -1).T, mpre.reshape(len(mpre), -1).T, strict=True)
    y = np.array([np.interp(RECALL_POINTS, r, p) for r, p in columns])  # (T, 101)
    ap = (y[:, 1:] + y[:, :-1]).sum(1) / 2 / (len(RECALL_POINTS) - 1)
    return ap.reshape(recall.shape[1:])[()], mpre, mrec


@dataclass(frozen=True)
class ApResult:
    """Metrics per class; K = number of classes that have labels, in rising order, and row i belongs to `classes[i]`.

    `p`, `r`, `f1`, `tp` and `fp` hold at IoU 0.5 and at one confidence for all classes: the one with the best smoothed
    mean F1. `ap` covers all confidences.

    Attributes:
        tp: (K,) true positives, whole numbers as float; worked back from `r`.
        fp: (K,) false positives; worked back from `p`, and 0 for a class without any true positive.
        p: (K,) precision.
        r: (K,) recall.
        f1: (K,) F1.
        ap: (K, T) average precision at each IoU threshold.
        classes: (K,) int class numbers.
        px: (1000,) confidences of the three curves, and recalls of `prec_values`, 0 to 1.
        p_curve: (K, 1000) precision over confidence at IoU 0.5.
        r_curve: (K, 1000) recall over confidence at IoU 0.5.
        f1_curve: (K, 1000) F1 over confidence at IoU 0.5.
        prec_values: (K, 1000) falling precision over recall at IoU 0.5.
        best: the confidence of `p`, `r` and `f1`; None if no detection is correct.
        by_size: (K, S) mean AP of the labels of each of `SIZES`, NaN where a class has none; (0, S) if not measured.
        size_labels: (K, S) labels of each class and size, likewise.
    """

    tp: np.ndarray
    fp: np.ndarray
    p: np.ndarray
    r: np.ndarray
    f1: np.ndarray
    ap: np.ndarray
    classes: np.ndarray
    px: np.ndarray
    p_curve: np.ndarray
    r_curve: np.ndarray
    f1_curve: np.ndarray
    prec_values: np.ndarray
    best: float | None = None
    by_size: np.ndarray = field(default_factory=lambda: np.zeros((0, len(SIZES))))
    size_labels: np.ndarray = field(default_factory=lambda: np.zeros((0, len(SIZES)), int))

    def rows(self) -> np.ndarray:
        """Return P, R, AP at the first threshold and mean AP of each class, (K, 4)."""
        return np.stack((self.p, self.r, self.ap[:, 0], self.ap.mean(1)), 1)

    def means(self) -> tuple[float, float, float, float]:
        """Return P, R, mAP50 and mAP50-95, means over the K classes; zeros if there are none."""
        return tuple(self.rows().mean(0).tolist()) if len(self.classes) else (0.0, 0.0, 0.0, 0.0)

    def maps(self, nc: int) -> np.ndarray:
        """Return mAP50-95 of each of `nc` classes, (nc,); those without labels hold the mean over the others."""
        maps = np.full(nc, self.means()[3])
        maps[self.classes] = self.ap.mean(1)
        return maps


def measure_ap(
    tp: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, target_cls: np.ndarray, eps: float = 1e-16
) -> ApResult:
    """Compute precision, recall, F1 and average precision of each class that has labels.

    Args:
        tp: (N, T) bool, detections of all images that are correct at each IoU threshold, the lowest first.
        conf: (N,) confidences in [0, 1]; detections of equal confidence rank in the order given.
        pred_cls: (N,) classes of the detections.
        target_cls: (M,) classes of the labels of all images.
        eps: added to denominators that may be 0.

    Returns:
        Results per class; a class without detections has zeros throughout.
    """
    order = np.lexsort((-conf, pred_cls))  # by class, then by falling confidence
    tp, conf, pred_cls = tp[order], conf[order], pred_cls[order]
    classes, n_labels = np.unique(target_cls, return_counts=True)
    start, stop = np.searchsorted(pred_cls, classes, "left"), np.searchsorted(pred_cls, classes, "right")

    px = np.linspace(0, 1, CURVE_POINTS)
    ap = np.zeros((len(classes), tp.shape[1]))
    p_curve, r_curve, f1_curve, prec_values = (np.zeros((len(classes), CURVE_POINTS)) for _ in range(4))
    for i, (a, b) in enumerate(zip(start, stop, strict=True)):
        if a == b:
            continue
        hits = tp[a:b].cumsum(0)  # (n, T)
        recall = hits / (n_labels[i] + eps)  # (n, T)
        precision = hits / np.arange(1, b - a + 1)[:, None]  # (n, T)
        ap[i], mpre, mrec = compute_ap(recall, precision)
        prec_values[i] = np.interp(px, mrec[:, 0], mpre[:, 0])
        # np.interp wants rising positions, and confidence falls along the list: both signs are turned
        r_curve[i] = np.interp(-px, -conf[a:b], recall[:, 0], left=0)
        p_curve[i] = np.interp(-px, -conf[a:b], precision[:, 0], left=1)
        f1_curve[i] = 2 * p_curve[i] * r_curve[i] / (p_curve[i] + r_curve[i] + eps)

    best = smooth(f1_curve.mean(0), 0.1).argmax() if len(classes) else 0
    p, r, f1 = p_curve[:, best], r_curve[:, best], f1_curve[:, best]
    n_tp = (r * n_labels).round()
    n_fp = (n_tp / (p + eps) - n_tp).round()
    mark = float(px[best]) if f1_curve.any() else None
    return ApResult(n_tp, n_fp, p, r, f1, ap, classes.astype(int), px, p_curve, r_curve, f1_curve, prec_values, mark)


def map_spread(images: Sequence[tuple[np.ndarray, ...]], draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """Return how far mAP may lie from its value because there are few images: 2.5 and 97.5 % of resampled sets.

    The bootstrap of Efron (1979, Annals of Statistics 7): as many images, drawn with replacement.

    Args:
        images: for each one its detections, correct at each IoU (D, T), confidence (D,) and class (D,), and the classes
            of its labels (M,).
        draws: number of sets.
        seed: of the drawing.
    """
    rng, maps = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = (images[i] for i in rng.integers(len(images), size=len(images)))
        maps.append(measure_ap(*map(np.concatenate, zip(*drawn, strict=True))).means()[3])
    low, high = np.percentile(maps, (2.5, 97.5))
    return float(low), float(high)


def size_masks(area: np.ndarray) -> np.ndarray:
    """Return which boxes have which of `SIZES`, (S, N) bool; an area on a limit has both, as COCO counts it.

    Args:
        area: (N,) in pixels of the image.
    """
    return np.array([(area >= low) & (area <= high) for low, high in SIZES.values()])


def measure_ap_by_size(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    area: np.ndarray,
    candidate_area: np.ndarray,
    target_cls: np.ndarray,
    target_area: np.ndarray,
    eps: float = 1e-16,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the average precision of small, medium and large labels, each class and size for itself.

    As COCO does it, a detection that is correct for a label of another size is left out, and so is one that is not
    correct and has another size itself. Matching and integration are those of `measure_ap`.

    Args:
        tp: (N, T) bool, see `measure_ap`.
        conf: (N,), see `measure_ap`.
        pred_cls: (N,), see `measure_ap`.
        area: (N,) areas of the detections in pixels of the image.
        candidate_area: (N,) areas of the labels they are candidates for (`match_labels`); any if none.
        target_cls: (M,) classes of the labels.
        target_area: (M,) their areas.
        eps: added to denominators that may be 0.

    Returns:
        AP as a mean over the thresholds, (K, S), NaN where a class has no label of a size, and the labels, (K, S).
    """
    classes, row = np.unique(target_cls, return_inverse=True)
    counts = np.stack([np.bincount(row[own], minlength=len(classes)) for own in size_masks(target_area)], 1)  # (K, S)
    ap = np.full((len(classes), len(SIZES)), np.nan)
    for s, (own, matched) in enumerate(zip(size_masks(area), size_masks(candidate_area), strict=True)):
        right, wrong = tp & matched[:, None], ~tp & own[:, None]  # (N, T)
        kept = np.flatnonzero((right | wrong).any(1))
        order = kept[np.lexsort((-conf[kept], pred_cls[kept]))]
        start, stop = (np.searchsorted(pred_cls[order], classes, side) for side in ("left", "right"))
        for k in np.flatnonzero(counts[:, s]):
            rows = order[start[k] : stop[k]]
            hits = right[rows].cumsum(0)  # (n, T)
            precision = hits / (hits + wrong[rows].cumsum(0) + eps)
            ap[k, s] = compute_ap(hits / counts[k, s], precision)[0].mean() if len(rows) else 0
    return ap, counts


def plot_metric_curves(
    result: ApResult,
    save_dir: str | Path,
    names: Mapping[int, str] | Sequence[str] = (),
    prefix: str = "",
    ap_setting: str = "",
    setting: str = "",
) -> None:
    """Save PR_curve.png, F1_curve.png, P_curve.png and R_curve.png, each name after `prefix`.

    The confidence of the best F1 is marked on the F1 curve only: precision and recall alone have no best one.

    Args:
        result: of `measure_ap`.
        save_dir: existing folder.
        names: class names by index.
        prefix: start of the file names.
        ap_setting: how the boxes of AP were made, for the title of the PR curve.
        setting: how those of the other curves were made, for their titles.
    """
    folder, classes = Path(save_dir), result.classes
    file = folder / f"{prefix}PR_curve.png"
    plot_pr_curve(result.px, result.prec_values, result.ap, file, names, classes, note=ap_setting)
    for curve, name, label, mark in (
        (result.f1_curve, "F1_curve.png", "F1", result.best),
        (result.p_curve, "P_curve.png", "precision", None),
        (result.r_curve, "R_curve.png", "recall", None),
    ):
        file = folder / f"{prefix}{name}"
        plot_mc_curve(result.px, curve, file, names, ylabel=label, classes=classes, mark=mark, note=setting)


def ap_per_class(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    plot: bool = False,
    save_dir: str | Path = ".",
    names: Mapping[int, str] | Sequence[str] = (),
    eps: float = 1e-16,
    prefix: str = "",
) -> tuple[np.ndarray, ...]:
    """Compute what `measure_ap` does, in YOLOv5's form, and draw its curves if asked.

    Args:
        tp: see `measure_ap`.
        conf: see `measure_ap`.
        pred_cls: see `measure_ap`.
        target_cls: see `measure_ap`.
        plot: save the curves, see `plot_metric_curves`.
        save_dir: of the curves.
        names: of the classes, for the curves.
        eps: see `measure_ap`.
        prefix: of the files of the curves.

    Returns:
        tp, fp, p, r, f1, (K,) each, ap (K, T), and the class numbers (K,) int; see `ApResult`.
    """
    result = measure_ap(tp, conf, pred_cls, target_cls, eps)
    if plot:
        plot_metric_curves(result, save_dir, names, prefix)
    return result.tp, result.fp, result.p, result.r, result.f1, result.ap, result.classes


def bbox_iou(
    box1: Tensor,
    box2: Tensor,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
    x1y1x2y2: bool | None = None,
) -> Tensor:
    """Compute what `utils.boxes.bbox_iou` does, in YOLOv5's form.

    Args:
        box1: (N, 4), or with `x1y1x2y2` (4,) or (4, N).
        box2: (N, 4).
        xywh: see `utils.boxes.bbox_iou`.
        GIoU: see `utils.boxes.bbox_iou`.
        DIoU: see `utils.boxes.bbox_iou`.
        CIoU: see `utils.boxes.bbox_iou`.
        eps: see `utils.boxes.bbox_iou`.
        x1y1x2y2: the keyword of YOLOv5 up to 6.1, which means `not xywh`.

    Returns:
        (N, 1); (N,) if `x1y1x2y2` is given.
    """
    if x1y1x2y2 is None:
        return boxes.bbox_iou(box1, box2, xywh, GIoU, DIoU, CIoU, eps)[..., None]
    return boxes.bbox_iou(box1.T if box1.ndim == 2 else box1, box2, not x1y1x2y2, GIoU, DIoU, CIoU, eps)


def wh_iou(wh1: Tensor, wh2: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the IoU of sizes (N, 2) and (M, 2) whose boxes share a corner, (N, M)."""
    box1, box2 = (torch.cat((torch.zeros_like(wh), wh), 1) for wh in (wh1, wh2))
    return box_iou(box1, box2, eps)


class ConfusionMatrix:
    """Confusion matrix: count predicted against true classes over many images.

    Detections above `conf` are paired with the labels they overlap by more than `iou_thres`, whatever the classes, each
    with its best label and each label with the best of these. Every other detection is a background false positive,
    also in an image without labels or without a pair (the original suite leaves those two cases out), and every other
    label is a miss.

    Args:
        nc: number of classes.
        conf: detections need more than this confidence, in [0, 1].
        iou_thres: pairs need more than this IoU, in [0, 1].

    Only the cells that are not 0 are kept, 16 bytes each, so that 10,000 classes do not take 800 MB.
    """

    def __init__(self, nc: int, conf: float = CONF_THRES, iou_thres: float = IOU_THRES) -> None:
        self.nc = nc
        self.conf = conf
        self.iou_thres = iou_thres
        self._cells = np.zeros(0, np.int64)  # predicted * (nc + 1) + true, rising
        self._counts = np.zeros(0, np.int64)
        self._new: list[np.ndarray] = []  # cells that are not counted yet
        self._waiting = 0

    @property
    def matrix(self) -> np.ndarray:
        """The counts, (nc + 1, nc + 1) int64, rows predicted, columns true, the last of each is the background."""
        self._count()
        matrix = np.zeros((self.nc + 1) ** 2, np.int64)
        matrix[self._cells] = self._counts
        return matrix.reshape(self.nc + 1, self.nc + 1)

    def blocks(self, most: int = 1000) -> tuple[np.ndarray, int]:
        """Return the counts summed over blocks of neighbouring classes, and the classes of a block.

        Args:
            most: blocks along a side; up to so many classes a block is one class, and the result is `matrix`.

        Returns:
            (B + 1, B + 1) int64 with B = ceil(nc / size) <= most, the background last and alone; and size.
        """
        self._count()
        size = max(-(-self.nc // most), 1)
        side = -(-self.nc // size) + 1
        cells = [np.where(x == self.nc, side - 1, x // size) for x in np.divmod(self._cells, self.nc + 1)]
        matrix = np.zeros((side, side), np.int64)
        np.add.at(matrix, tuple(cells), self._counts)
        return matrix, size

    def process_batch(self, detections: Tensor | None, labels: Tensor) -> None:
        """Count one image.

        Args:
            detections: (D, 6) `[xyxy, confidence, class]`, best first; None for none.
            labels: (M, 5) `[class, xyxy]`, in the same unit; without detections the classes (M,) are enough.
        """
        if labels.ndim == 1:
            labels = torch.nn.functional.pad(labels[:, None], (0, 4))  # (M, 5)
        found_rows = labels.new_zeros(0, 6) if detections is None else detections
        rows, truth = found_rows.cpu().numpy(), labels.cpu().numpy()
        rows = rows[rows[:, 4] > self.conf]
        true, predicted = truth[:, 0].astype(np.int64), rows[:, 5].astype(np.int64)  # (M,), (D,)
        owner = self._pair(rows[:, :4], truth[:, 1:5])  # (M,)
        found = owner >= 0
        lone = np.ones(len(predicted), dtype=bool)
        lone[owner[found]] = False
        side = self.nc + 1
        pairs = predicted[owner[found]] * side + true[found]
        cells = np.concatenate((pairs, self.nc * side + true[~found], predicted[lone] * side + self.nc))
        self._new.append(cells)
        self._waiting += len(cells)
        if self._waiting >= max(WAITING_CELLS, len(self._cells)):  # so that all counting costs what the last one does
            self._count()

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """Return true and false positives of each class, (nc,) each; background is none."""
        matrix = self.matrix
        true = matrix.diagonal()
        return true[:-1], (matrix.sum(1) - true)[:-1]

    def plot(
        self,
        normalize: bool = True,
        save_dir: str | Path = "",
        names: Mapping[int, str] | Sequence[str] = (),
        setting: str = "",
    ) -> None:
        """Save confusion_matrix.png into an existing folder, see `utils.plots.plot_confusion_matrix`.

        Args:
            normalize: write fractions beside the counts.
            save_dir: existing folder.
            names: class names by index.
            setting: how the boxes were made, for the title; by default the confidence.
        """
        matrix, size = self.blocks()
        note = f"{setting or f'confidence > {self.conf:g}'}, match IoU > {self.iou_thres:g}"
        file = Path(save_dir) / "confusion_matrix.png"
        plot_confusion_matrix(matrix, names, file, normalize, size, counts=True, note=note)

    def print(self) -> None:
        """Log the counts, a line for each row of `matrix`."""
        for row in self.matrix.tolist():
            LOGGER.info(" ".join(map(str, row)))

    def _count(self) -> None:
        """Add the waiting cells to the counts."""
        if not self._new:
            return
        cells, counts = np.unique(np.concatenate(self._new), return_counts=True)
        merged, place = np.unique(np.concatenate((self._cells, cells)), return_inverse=True)
        total = np.zeros(len(merged), np.int64)
        np.add.at(total, place, np.concatenate((self._counts, counts)))
        self._cells, self._counts, self._new, self._waiting = merged, total, [], 0

    def _pair(self, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Give each of M labels its detection among boxes, or -1; (M,). Of equal IoU the less confident one wins."""
        owner = np.full(len(labels), -1)
        if len(boxes) and len(labels):
            label, best = np.zeros(len(boxes), np.intp), np.zeros(len(boxes), boxes.dtype)
            for rows, iou in iou_tables(boxes, labels):
                label[rows], best[rows] = iou.argmax(1), iou.max(1)
            rising = np.argsort(best, kind="stable")
            rising = rising[best[rising] > self.iou_thres]
            owner[label[rising]] = rising  # of repeated indices NumPy keeps the last, here the highest IoU
        return owner
