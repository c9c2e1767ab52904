"""Kinds of error and what each costs, and whether confidences are what they say; of plain arrays.

The kinds are those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020,
arXiv 2008.08115) in the order of its program; what is correct is decided as for mAP, see `match_predictions`.
"""

from typing import NamedTuple

import numpy as np

from utils.metrics import RECALL_POINTS, SIZES, iou_tables, size_masks

KINDS = ("correct", "class", "localisation", "both", "duplicate", "background", "missed")  # codes 0 to 6
CORRECT, CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
WORDS = {
    "correct": ("correct", ""),
    "class": ("wrong class", "classes that look alike: more images of them, or one name for both"),
    "localisation": ("badly placed", "more labels, a larger --img, or labels drawn more exactly"),
    "both": ("wrong class, badly placed", "more labels of these classes"),
    "duplicate": ("found twice", "a lower --iou-thres in detect.py"),
    "background": ("no label there", "images without objects; look at the most confident ones: labels may be missing"),
    "missed": ("missed", "a lower --conf-thres in detect.py, more labels, or a larger --img"),
}  # of a kind: how it is called, and what may help
FOREGROUND, BACKGROUND_IOU = 0.5, 0.1  # IoU from which a box has its label, and below which it has none at all
FEWEST_CONF = 0.05  # confidence above which boxes enter the calibration
BINS = 10  # of confidence
FEW_BIN, FEW_CLASS = 10, 50  # boxes; fewer say little about a bin, and about a class
DRAWS = 200  # of a model whose confidences are right
Z90 = 1.6449  # half the width of an interval of 90 %, in standard deviations


def judge(found: np.ndarray, labels: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell the kind of each box of one image.

    It depends on no confidence: a box is judged by the labels, and `correct` by more confident boxes only.

    Args:
        found: (D, 6) `[xyxy, confidence, class]`.
        labels: (M, 5) `[class, xyxy]`, in the same unit.
        correct: (D,) bool, at an IoU of 0.5, see `match_predictions`.

    Returns:
        Index into `KINDS`, (D,) int8, and the label that explains the box, (D,) int: of a correct or badly placed one
        the label of its class that it overlaps most, of one of the wrong class that of another class; else -1.
    """
    kinds, targets = np.full(len(found), BACKGROUND, np.int8), np.full(len(found), -1)
    if not len(found) or not len(labels):
        return kinds, targets
    for rows, iou in iou_tables(found[:, :4], labels[:, 1:5]):  # (d, M)
        alike = found[rows, 5:6] == labels[:, 0]
        own, other = np.where(alike, iou, 0), np.where(alike, 0, iou)
        same, different = own.max(1), other.max(1)
        placed = (same >= BACKGROUND_IOU) & (same < FOREGROUND)
        cases = (correct[rows], placed, different >= FOREGROUND, same >= FOREGROUND, iou.max(1) < BACKGROUND_IOU)
        kind = np.select(cases, (CORRECT, LOCALISATION, CLASS, DUPLICATE, BACKGROUND), BOTH).astype(np.int8)
        targets[rows] = np.where(kind == CLASS, other.argmax(1), np.where(kind <= LOCALISATION, own.argmax(1), -1))
        kinds[rows] = kind
    return kinds, targets


class Errors:
    """Boxes of all images by kind of error.

    Args:
        kinds: (N,), see `judge`.
        targets: (N,) into all labels, see `judge`.
        conf: (N,) confidences.
        cls: (N,) int classes of the boxes.
        area: (N,) areas of the boxes in pixels of the image.
        label_cls: (M,) int classes of the labels.
        label_area: (M,) their areas.
    """

    def __init__(
        self,
        kinds: np.ndarray,
        targets: np.ndarray,
        conf: np.ndarray,
        cls: np.ndarray,
        area: np.ndarray,
        label_cls: np.ndarray,
        label_area: np.ndarray,
    ) -> None:
        self.kinds, self.targets, self.conf, self.cls, self.area = kinds, targets, conf, cls, area
        self.label_cls, self.label_area = label_cls, label_area

    def missed(self, conf: float = -1.0) -> np.ndarray:
        """Return which labels no box above a confidence finds, has the wrong class of, or is badly placed on, (M,)."""
        found = np.zeros(len(self.label_cls), bool)
        found[self.targets[(self.targets >= 0) & (self.conf > conf)]] = True
        return ~found

    def counts(self, conf: float, boxes: np.ndarray | None = None, labels: np.ndarray | None = None) -> dict[str, int]:
        """Count each of `KINDS` above a confidence.

        Args:
            conf: the confidence.
            boxes: (N,) bool, those that count; by default all.
            labels: (M,) bool, likewise.
        """
        above = self.conf > conf if boxes is None else (self.conf > conf) & boxes
        missed = self.missed(conf) if labels is None else self.missed(conf) & labels
        found = [*np.bincount(self.kinds[above], minlength=MISSED).tolist(), int(missed.sum())]
        return dict(zip(KINDS, found, strict=True))

    def counts_by_class(self, conf: float) -> dict[int, dict[str, int]]:
        """Count for each class that has boxes or labels: boxes by their own class, missed labels by theirs."""
        above, missed = self.conf > conf, self.missed(conf)
        classes, rows = np.unique(np.concatenate((self.cls, self.label_cls)), return_inverse=True)
        boxes, labels = rows[: len(self.cls)][above], rows[len(self.cls) :][missed]
        cells = np.concatenate((boxes * len(KINDS) + self.kinds[above], labels * len(KINDS) + MISSED))
        table = np.bincount(cells, minlength=len(classes) * len(KINDS)).reshape(-1, len(KINDS))
        return {c: dict(zip(KINDS, row, strict=True)) for c, row in zip(classes.tolist(), table.tolist(), strict=True)}

    def counts_by_size(self, conf: float) -> dict[str, dict[str, int]]:
        """Count for each of `SIZES`, of boxes or of missed labels."""
        masks = zip(SIZES, size_masks(self.area), size_masks(self.label_area), strict=True)
        return {size: self.counts(conf, boxes, labels) for size, boxes, labels in masks}

    def costs(self) -> tuple[float, dict[str, float]]:
        """Return AP50 over all confidences, and how much higher it were without each kind of error.

        A badly placed box, or one of the wrong class, becomes a correct one if its label has none and no more confident
        box of this kind; all others of the kind are removed, and so are missed labels. AP is that of COCO: the mean of
        the precisions at 101 recalls, without interpolation. The costs do not add up to 1 - AP50.
        """
        right = self.kinds == CORRECT
        labels = self.label_cls
        base = self._ap50(right, self.cls, np.ones(len(right), bool), labels)
        costs = {}
        for kind in (CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND):
            boxes = self.kinds == kind
            repaired = self._repaired(np.flatnonzero(boxes & (self.targets >= 0)))
            kept, correct, cls = ~boxes, right.copy(), self.cls.copy()
            kept[repaired], correct[repaired], cls[repaired] = True, True, labels[self.targets[repaired]]
            costs[KINDS[kind]] = self._ap50(correct, cls, kept, labels) - base
        costs[KINDS[MISSED]] = self._ap50(right, self.cls, np.ones(len(right), bool), labels[~self.missed()]) - base
        return base, costs

    def _repaired(self, boxes: np.ndarray) -> np.ndarray:
        """Return those of some boxes, numbers, that are the most confident of a label without a correct box."""
        free = np.ones(len(self.label_cls), bool)
        free[self.targets[self.kinds == CORRECT]] = False
        boxes = boxes[free[self.targets[boxes]]]
        boxes = boxes[np.argsort(-self.conf[boxes], kind="stable")]
        return boxes[np.unique(self.targets[boxes], return_index=True)[1]]

    def _ap50(self, right: np.ndarray, cls: np.ndarray, kept: np.ndarray, label_cls: np.ndarray) -> float:
        """Return the mean AP over the classes that have labels; 0 without any."""
        order = np.flatnonzero(kept)
        order = order[np.lexsort((-self.conf[order], cls[order]))]
        classes, counts = np.unique(label_cls, return_counts=True)
        start, stop = (np.searchsorted(cls[order], classes, side) for side in ("left", "right"))
        found = [right[order[a:b]] for a, b in zip(start, stop, strict=True)]
        return float(np.mean([_ap(hits, n) for hits, n in zip(found, counts, strict=True)])) if len(classes) else 0.0


def _ap(right: np.ndarray, labels: int) -> float:
    """Return the mean of the precisions at 101 recalls, as COCO does.

    Args:
        right: (n,) bool, best box first.
        labels: to be found, at least 1.
    """
    hits = right.cumsum()
    precision = np.append(hits / np.arange(1, len(hits) + 1), 0.0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[np.searchsorted(hits / labels, RECALL_POINTS, "left")].mean())


# Calibration ----------------------------------------------------------------------------------------------------------


class Calibration(NamedTuple):
    """How confidence and precision of boxes agree, by bins of confidence (j / 10, (j + 1) / 10].

    D-ECE over the confidence of Kueppers et al., "Multivariate Confidence Calibration for Object Detection", 2020,
    arXiv 2004.13546. Missed labels do not enter, and how well a box is placed only by the IoU of 0.5.

    Attributes:
        boxes: their number.
        lowest: they are those above this confidence.
        n: (10,) boxes of each bin.
        conf, precision: (10,) means of each bin, NaN where it has none.
        low, high: (10,) ends of the 90 % interval of each precision (Wilson), NaN likewise.
        error: expected calibration error, the mean of |precision - confidence| over the boxes by bins.
        worst: the largest of a bin with at least 10 boxes; None if there is none.
        bias: mean confidence - precision of all boxes; above 0 the model is overconfident.
        chance, chance_high: median and 95 % quantile of the error of so many boxes whose confidences are right.
    """

    boxes: int
    lowest: float
    n: np.ndarray
    conf: np.ndarray
    precision: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: float
    worst: float | None
    bias: float
    chance: float
    chance_high: float

    @property
    def shown(self) -> bool:
        """Whether the error is larger than chance explains."""
        return self.error > self.chance_high

    @property
    def brief(self) -> str:
        """What the numbers say."""
        text = f"expected error {self.error:.3f} (up to {self.chance_high:.3f} by chance)"
        return f"{text}, {abs(self.bias):.2f} {'too high' if self.bias > 0 else 'too low'} on average"

    def __str__(self) -> str:
        """For the log."""
        return f"{self.brief}; of {self.boxes} boxes from confidence {self.lowest:g}"


def calibrate(conf: np.ndarray, right: np.ndarray, lowest: float = FEWEST_CONF) -> Calibration | None:
    """Compare confidences with precision.

    Args:
        conf: (N,) confidences of boxes.
        right: (N,) bool, whether they are correct.
        lowest: boxes above it count.

    Returns:
        None if there is no such box.
    """
    kept = conf > lowest
    conf, right = conf[kept].astype(np.float64), right[kept]
    if not len(conf):
        return None
    bins = np.searchsorted(np.arange(1, BINS) / BINS, conf, "left")
    order = np.argsort(bins, kind="stable")
    conf, right, bins = conf[order], right[order], bins[order]
    n = np.bincount(bins, minlength=BINS)
    sums, hits = (np.bincount(bins, values, minlength=BINS) for values in (conf, right))
    gaps = np.abs(hits - sums)  # of a bin n times |precision - confidence|
    rng = np.random.default_rng(0)
    draws = [np.bincount(bins, rng.random(len(conf)) < conf, minlength=BINS) for _ in range(DRAWS)]
    errors = np.abs(np.array(draws) - sums).sum(1) / len(conf)
    with np.errstate(invalid="ignore"):
        means, precision = sums / n, hits / n
        worst = (gaps / n)[n >= FEW_BIN]
    return Calibration(
        len(conf), lowest, n, means, precision, *wilson(hits, n), gaps.sum() / len(conf),
        float(worst.max()) if len(worst) else None, float((sums.sum() - hits.sum()) / len(conf)),
        float(np.median(errors)), float(np.quantile(errors, 0.95)),
    )  # fmt: skip


def wilson(hits: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 90 % interval of a share (Wilson 1927), NaN where n is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share, z = hits / n, Z90**2 / n
        middle, half = share + z / 2, Z90 * np.sqrt(share * (1 - share) / n + z / (4 * n))
        return (middle - half) / (1 + z), (middle + half) / (1 + z)
