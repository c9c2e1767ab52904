"""More than one number: AP by IoU and size, kinds of error, calibration; as lines, figures and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.validation.deployed import Deployment
from engine.validation.errors import CORRECT, FEW_CLASS, KINDS, WORDS, Calibration, Errors, calibrate
from engine.validation.evaluation import LEVELS, Tally
from engine.validation.figures import plot_calibration, plot_errors
from utils.console import LOGGER
from utils.metrics import SIZES, ApResult, size_masks

AP75 = int(np.abs(LEVELS - 0.75).argmin())  # its column
FEW_LABELS = 20  # of a size; the AP of fewer is in brackets
ERROR_ROW = "%-26s%11s%11s"  # no line of it looks like one of the table


@dataclass(frozen=True)
class Breakdown:
    """What a validation says beyond precision, recall and mAP.

    Attributes:
        result: metrics, with AP by size.
        names: class names by index.
        errors: the boxes that are shown, by kind.
        conf: confidence above which errors are counted.
        ap50: AP50 of these boxes as COCO counts it.
        costs: of each kind but "correct", see `Errors.costs`.
        calibration: of these boxes; None if there are none.
    """

    result: ApResult
    names: Mapping[int, str]
    errors: Errors
    conf: float
    ap50: float
    costs: Mapping[str, float]
    calibration: Calibration | None

    @property
    def map75(self) -> float:
        """Mean AP at IoU 0.75; 0 without labels."""
        return float(self.result.ap[:, AP75].mean()) if len(self.result.classes) else 0.0

    def sizes(self) -> dict[str, tuple[float | None, int]]:
        """Return AP50-95 of each of `SIZES`, a mean over the classes with such labels or None, and these labels."""
        ap, counts = self.result.by_size, self.result.size_labels
        there = counts.sum(0)
        means = [float(np.nanmean(ap[:, s])) if n else None for s, n in enumerate(there)]
        return dict(zip(SIZES, zip(means, there.tolist(), strict=True), strict=True))

    def log(self) -> None:
        """Log AP, the table of errors, and how far confidences can be believed."""
        *_, map50, map95 = self.result.means()
        LOGGER.info(f"AP50 {map50:.3f}, AP75 {self.map75:.3f}, AP50-95 {map95:.3f}; {self.size_line()}")
        counts = self.errors.counts(self.conf)
        LOGGER.info(ERROR_ROW % (f"errors above {self.conf:g}", "count", "costs AP50"))
        for kind in KINDS[1:]:
            LOGGER.info(ERROR_ROW % (WORDS[kind][0], counts[kind], f"{self.costs[kind]:.3f}"))
        LOGGER.info(
            f"(costs: how much higher AP50, {self.ap50:.3f} by COCO's rule, would be without this kind of error)"
        )
        if self.calibration:
            LOGGER.info(f"confidence against precision: {self.calibration}")

    def size_line(self) -> str:
        """Return AP50-95 by size for the log; in brackets where few labels tell little."""
        found = self.sizes()
        texts = []
        for size, (ap, n) in found.items():
            number = "-" if ap is None else f"{ap:.3f}" if n >= FEW_LABELS else f"({ap:.3f})"
            texts.append(f"{size} {number}")
        counts = ", ".join(str(n) for _, n in found.values())
        return f"by size {', '.join(texts)} ({counts} labels, from 32x32 and 96x96 pixels of the image on)"

    def record(self) -> dict[str, Any]:
        """Return all of it for `metrics.yaml` and the report."""
        r = self.result
        p, recall, map50, map95 = r.means()
        counts = self.errors.counts(self.conf)
        by_size, by_class = self.errors.counts_by_size(self.conf), self.errors.counts_by_class(self.conf)
        classes = {}
        for k, c in enumerate(r.classes.tolist()):
            ap = {"map50": r.ap[k, 0], "map75": r.ap[k, AP75], "map": r.ap[k].mean()}
            ap |= {f"map_{size}": value for size, value in zip(SIZES, r.by_size[k], strict=True)}
            numbers = {"precision": r.p[k], "recall": r.r[k], **ap}
            rounded = {key: _number(value) for key, value in numbers.items()}
            classes[c] = {"name": self.names[c], **rounded, "errors": by_class[c]}
        sizes = {
            size: {"map": _number(ap), "labels": n, "errors": by_size[size]} for size, (ap, n) in self.sizes().items()
        }
        kinds = {kind: {"count": counts[kind], "costs_map50": _number(self.costs.get(kind))} for kind in KINDS}
        return {
            "precision": _number(p), "recall": _number(recall), "map50": _number(map50),
            "map75": _number(self.map75), "map": _number(map95), "sizes": sizes,
            "errors": {"conf": self.conf, "map50_of_coco": _number(self.ap50), "kinds": kinds},
            "calibration": self._calibrations(), "classes": classes,
        }  # fmt: skip

    def _calibrations(self) -> dict[str, Any] | None:
        """Return the calibration of all boxes, and of each class and size that has enough of them."""
        if self.calibration is None:
            return None
        e = self.errors
        right = e.kinds == CORRECT
        order = np.argsort(e.cls, kind="stable")
        classes, start = np.unique(e.cls[order], return_index=True)
        parts: dict[int | str, np.ndarray] = dict(zip(classes.tolist(), np.split(order, start[1:]), strict=True))
        parts |= zip(SIZES, map(np.flatnonzero, size_masks(e.area)), strict=True)
        measured = {k: calibrate(e.conf[x], right[x]) for k, x in parts.items() if len(x) >= FEW_CLASS}
        found = {key: _summary(c) for key, c in measured.items() if c and c.boxes >= FEW_CLASS}
        c = self.calibration
        columns = {"confidence": c.conf, "precision": c.precision, "low": c.low, "high": c.high}
        bins = [{"boxes": int(n)} | {key: _number(v[j]) for key, v in columns.items()} for j, n in enumerate(c.n)]
        return _summary(c) | {
            "bins": bins,
            "sizes": {key: value for key, value in found.items() if key in SIZES},
            "classes": {key: value for key, value in found.items() if key not in SIZES},
        }

    def plot(self, save_dir: Path, deployment: Deployment) -> None:
        """Draw errors.png and calibration.png into an existing folder; the titles say how the boxes were made."""
        counts = self.errors.counts(self.conf)
        rows = {WORDS[kind][0]: (counts[kind], self.costs[kind]) for kind in KINDS[1:]}
        note = f"{replace(deployment, conf=self.conf)}; {counts['correct']} boxes are correct"
        plot_errors(rows, save_dir / "errors.png", self.ap50, note)
        if self.calibration:
            setting = str(replace(deployment, conf=self.calibration.lowest))
            plot_calibration(self.calibration, save_dir / "calibration.png", setting)


def break_down(tally: Tally, result: ApResult, names: Mapping[int, str]) -> Breakdown:
    """Work out the details of a validation.

    Args:
        tally: made with `details`.
        result: of its `compute`.
        names: class names by index.
    """
    errors = tally.errors()
    conf = tally.deployment.conf if result.best is None else result.best
    return Breakdown(result, names, errors, conf, *errors.costs(), calibrate(errors.conf, errors.kinds == CORRECT))


def _number(value: float | None) -> float | None:
    """Round for a file; None for what is not measured."""
    return None if value is None or np.isnan(value) else round(float(value), 5)


def _summary(c: Calibration) -> dict[str, Any]:
    """Return the numbers of a calibration without its bins."""
    return {
        "boxes": c.boxes, "from_conf": c.lowest, "error": _number(c.error), "worst_bin": _number(c.worst),
        "overconfident_by": _number(c.bias), "chance": _number(c.chance), "chance_high": _number(c.chance_high),
    }  # fmt: skip
