"""What detect.py would give: boxes after its suppression, counted at every confidence, and the confidence to use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from utils.metrics import CURVE_POINTS, ApResult, smooth
from utils.nms import non_max_suppression
from utils.thresholds import CONF_THRES, IOU_THRES, MAX_DET

LOWEST = 0.02  # confidence above which boxes are kept for the curves
GRID = np.linspace(0, 1, CURVE_POINTS)  # confidences at which boxes are counted
WISHES = (0.5, 0.8, 0.9, 0.95, 0.99)  # precisions that a confidence is looked for
FEW_BOXES, FEW_LABELS, FEW_RIGHT = 20, 10, 5  # fewer say nothing about a precision, and about a class
DRAWS = 100  # of the images, for the range of the best confidence


@dataclass(frozen=True)
class Deployment:
    """The settings of detect.py that a validation counts and draws with.

    The suppression runs once, from a low confidence: a box is dropped by better ones only, so what lies above a higher
    confidence afterwards is what a suppression from there would have given.

    Attributes:
        conf: boxes above it are drawn and enter the confusion matrix.
        iou, max_det: see `non_max_suppression`.
        lowest: boxes above it enter the curves.
        padded: the images have the padding of half a stride that AP has in YOLOv5, and that detect.py does not add.
    """

    conf: float = CONF_THRES
    iou: float = IOU_THRES
    max_det: int = MAX_DET
    lowest: float = LOWEST
    padded: bool = False

    def suppress(
        self, decoded: Tensor, agnostic: bool, known: Sequence[Tensor] = (), classes: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return B of (D, 6) `[xyxy_net, confidence, class]`, the best class of each box; see `non_max_suppression`."""
        return non_max_suppression(
            decoded, self.lowest, self.iou, classes, agnostic=agnostic, labels=known, max_det=self.max_det
        )

    def __str__(self) -> str:
        """For titles of images."""
        return f"confidence > {self.conf:g}, NMS IoU {self.iou:g}{', padded images' * self.padded}"


class Counts(NamedTuple):
    """Boxes of the K classes that have labels above each of P confidences, and their labels.

    Attributes:
        right, found: (K, P), boxes that are right at IoU 0.5, and all boxes.
        total: (K, 1), all boxes at any confidence.
        labels: (K, 1).
    """

    right: np.ndarray
    found: np.ndarray
    total: np.ndarray
    labels: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """(K, P); 1 where no box is left, as in YOLOv5, and 0 for a class that has none at all."""
        return np.where(self.found > 0, self.right / np.maximum(self.found, 1), self.total > 0)

    @property
    def recall(self) -> np.ndarray:
        """(K, P)."""
        return self.right / np.maximum(self.labels, 1)

    @property
    def f1(self) -> np.ndarray:
        """(K, P)."""
        return 2 * self.right / np.maximum(self.found + self.labels, 1)


class Point(NamedTuple):
    """What a confidence gives: boxes above it, and labels.

    Attributes:
        conf: the confidence.
        right, false, missed: boxes right at IoU 0.5 and others, of all classes, and labels that no box has.
        f1: mean over the classes that have labels.
    """

    conf: float
    right: int
    false: int
    missed: int
    f1: float

    @property
    def precision(self) -> float:
        """Fraction of the boxes that are right; 1 without boxes."""
        found = self.right + self.false
        return self.right / found if found else 1.0

    @property
    def recall(self) -> float:
        """Fraction of the labels that are found; 0 without labels."""
        return self.right / max(self.right + self.missed, 1)

    def __str__(self) -> str:
        """For the log."""
        return f"{self.right} right, {self.false} false, {self.missed} missed of {self.right + self.missed}"


class Detected:
    """Boxes of all images after the suppression of detect.py, and the confidences that suit them.

    Args:
        right: (N,) bool, at IoU 0.5, see `match_predictions`.
        conf: (N,) confidences.
        cls: (N,) classes.
        labels: (M,) classes of the labels.
        boxes_of, labels_of: (I,) numbers of boxes and labels of each image, in the order above; by default all are of
            one image.
        lowest: the boxes are those above this confidence.
    """

    def __init__(
        self,
        right: np.ndarray,
        conf: np.ndarray,
        cls: np.ndarray,
        labels: np.ndarray,
        boxes_of: Sequence[int] | np.ndarray | None = None,
        labels_of: Sequence[int] | np.ndarray | None = None,
        lowest: float = LOWEST,
    ) -> None:
        self.right, self.conf, self.lowest = right.astype(bool), conf.astype(np.float64), lowest
        self.classes, self._label_row = np.unique(labels.astype(int), return_inverse=True)
        self._known = np.isin(cls, self.classes)
        self._row = np.searchsorted(self.classes, cls[self._known].astype(int))
        self._boxes_of = [len(conf)] if boxes_of is None else boxes_of
        self._labels_of = [len(labels)] if labels_of is None else labels_of

    def counts(self, grid: np.ndarray = GRID, weights: np.ndarray | None = None) -> Counts:
        """Count the boxes above each of some rising confidences (P,), and the labels.

        Args:
            grid: the confidences.
            weights: (I,), how often each image counts; by default once.
        """
        conf, right = self.conf[self._known], self.right[self._known]
        cells = self._row * (len(grid) + 1) + np.searchsorted(grid, conf, "left")  # grid points below the confidence
        once = None if weights is None else np.repeat(weights, self._boxes_of)[self._known]
        shape = len(self.classes), len(grid) + 1
        size = shape[0] * shape[1]
        found = np.bincount(cells, once, minlength=size).reshape(shape)
        hits = np.bincount(cells[right], None if once is None else once[right], minlength=size).reshape(shape)
        above = [table[:, ::-1].cumsum(1)[:, -2::-1] for table in (hits, found)]  # both (K, P)
        labels = np.bincount(
            self._label_row, None if weights is None else np.repeat(weights, self._labels_of), minlength=shape[0]
        )
        return Counts(above[0], above[1], found.sum(1, keepdims=True), labels[:, None])

    def at(self, conf: float) -> Point:
        """Count all boxes above a confidence."""
        above = self.conf > conf
        right = int(self.right[above].sum())
        f1 = self.counts(np.array([conf])).f1
        mean = float(f1.mean()) if len(f1) else 0.0
        return Point(conf, right, int(above.sum()) - right, len(self._label_row) - right, mean)

    def without_labels(self, conf: float) -> int:
        """Return how many boxes above a confidence are of classes that have no labels; `at` counts them as false."""
        return int((self.conf[~self._known] > conf).sum())

    def best(self, f1: np.ndarray, grid: np.ndarray = GRID) -> float | None:
        """Return the confidence where an F1 curve (P,) over a grid, smoothed, is highest; None if it is 0 throughout.

        The box filter is that of YOLOv5, over a tenth of the confidences: the exact maximum of few boxes is chance. Of
        a plateau it is the middle.
        """
        if not f1.any():
            return None
        allowed = (grid >= max(self.lowest, LOWEST)) & (grid <= 1 - LOWEST)
        if not allowed.any():
            return None
        curve, grid = smooth(f1, 0.1)[allowed], grid[allowed]
        top = curve >= curve.max() - 1e-9
        first = int(top.argmax())
        length = int((~top[first:]).argmax()) or len(top) - first
        return round(float(grid[first + (length - 1) // 2]), 3)

    def range_of_best(self) -> tuple[float, float] | None:
        """Return the 5 % and 95 % quantile of the best confidence over random draws of as many images with repeats."""
        rng, images = np.random.default_rng(0), len(self._labels_of)
        found = []
        for _ in range(DRAWS):
            weights = np.bincount(rng.integers(images, size=images), minlength=images)
            counts = self.counts(GRID[::10], weights)  # every hundredth will do
            there = counts.labels[:, 0] > 0
            best = self.best(counts.f1[there].mean(0), GRID[::10]) if there.any() else None
            found += [] if best is None else [best]
        return (round(float(np.quantile(found, 0.05)), 3), round(float(np.quantile(found, 0.95)), 3)) if found else None

    def confidence_for(self, precision: float, least: int = FEW_BOXES) -> Point | None:
        """Return the lowest confidence whose boxes of all classes have a precision, and so the highest recall.

        Args:
            precision: wished, in (0, 1].
            least: boxes that must be left above the confidence.

        Returns:
            The point halfway to the next box; None if no confidence has that precision.
        """
        order = np.argsort(-self.conf, kind="stable")
        conf = np.append(self.conf[order], self.lowest)
        number = np.arange(1, len(order) + 1)
        good = self.right[order].cumsum() >= precision * number - 1e-9
        good &= (conf[:-1] > conf[1:]) & (number >= least)  # boxes of equal confidence cannot be told apart
        if not good.any():
            return None
        last = int(good.nonzero()[0][-1])
        return self.at(round((conf[last] + conf[last + 1]) / 2, 5))

    def put_into(self, result: ApResult) -> ApResult:
        """Return metrics whose precision, recall and F1 are those of these boxes; AP stays.

        They hold at the confidence of the best F1, as a mean over the classes.
        """
        curves = self.counts()
        best = self.best(curves.f1.mean(0)) if len(self.classes) else None
        at = self.counts(np.array([0.0 if best is None else best]))
        p, r, f1 = at.precision[:, 0], at.recall[:, 0], at.f1[:, 0]
        return replace(
            result, tp=at.right[:, 0].astype(float), fp=(at.found - at.right)[:, 0].astype(float), p=p, r=r, f1=f1,
            p_curve=curves.precision, r_curve=curves.recall, f1_curve=curves.f1, px=GRID, best=best,
        )  # fmt: skip

    def thresholds(self, best: float | None, names: Mapping[int, str]) -> dict[str, Any]:
        """Return the confidences to use, as `thresholds.yaml` and checkpoints hold them.

        Args:
            best: from `put_into`.
            names: class names by index.

        Returns:
            `conf`, the best one, None if there is none, with `low` and `high`, between which it may as well lie, and
            what it gives; `classes`, the same for each class with labels, whose `conf` is None, with a reason, where
            too few boxes tell; `for_precision`, for each of `WISHES` the confidence that gives it, or None.
        """
        overall: dict[str, Any] = {"conf": None}
        if best is not None:
            point, (low, high) = self.at(best), self.range_of_best() or (best, best)
            overall = {"conf": best, "low": low, "high": high, **_described(point), "f1": round(point.f1, 4)}
        curves = self.counts()
        curve = curves.f1  # (K, P), worked out once
        order = np.argsort(self._row, kind="stable")
        ends = np.bincount(self._row, minlength=len(self.classes)).cumsum()
        confs, rights = (np.split(x[self._known][order], ends[:-1]) for x in (self.conf, self.right))  # of each class
        classes: dict[int, dict[str, Any]] = {}
        for k, c in enumerate(self.classes.tolist()):
            labels, right = int(curves.labels[k, 0]), int(curves.right[k, 0])
            classes[c] = {"name": names[c], "conf": None, "labels": labels}
            if labels < FEW_LABELS or right < FEW_RIGHT:
                classes[c]["why"] = f"{labels} labels and {right} right boxes are too few"
                continue
            conf = self.best(curve[k])
            if conf is not None:
                above = confs[k] > conf
                f1 = 2 * int(rights[k][above].sum()) / max(int(above.sum()) + labels, 1)
                classes[c] |= {"conf": conf, "f1": round(f1, 4)}
        wishes = {}
        for wish in WISHES:
            found = self.confidence_for(wish)
            wishes[str(wish)] = None if found is None else {"conf": found.conf, **_described(found)}
        return {**overall, "for_precision": wishes, "classes": classes}


def _described(point: Point) -> dict[str, Any]:
    """Return the numbers of a point for a file."""
    ratios = {"precision": round(point.precision, 4), "recall": round(point.recall, 4)}
    return {"tp": point.right, "fp": point.false, "fn": point.missed, **ratios}
