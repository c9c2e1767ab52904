"""Figures of the kinds of error and of the calibration."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.validation.errors import BINS, FEW_BIN, Calibration
from utils.plots import BLACK, BLUE, GREY, ORANGE, saved_figure, style_axes


def plot_errors(rows: Mapping[str, tuple[int, float]], file: Path, ap50: float, note: str) -> None:
    """Save bars of how often each kind of error occurs and what it costs.

    Args:
        rows: name of the kind -> count and cost in AP50.
        file: image to write.
        ap50: what the costs would be added to.
        note: setting of the boxes, below the title.
    """
    places, names = np.arange(len(rows)), list(rows)
    counts, costs = (np.array(column) for column in zip(*rows.values(), strict=True))
    panels = (
        (counts, "errors by kind", "boxes, or labels that are missed", "{:.0f}", BLUE, note),
        (costs, "what each kind costs", "higher AP50 without it", "{:.3f}", ORANGE, f"AP50 {ap50:.3f} (COCO's rule)"),
    )
    with saved_figure(file, 11, 4) as figure:
        for ax, (values, title, xlabel, form, color, text) in zip(
            figure.subplots(1, 2, sharey=True), panels, strict=True
        ):
            style_axes(ax, title, xlabel, note=text)
            ax.grid(visible=False, axis="y")
            bars = ax.barh(places, values, color=color, height=0.65)
            ax.bar_label(bars, [form.format(v) for v in values], padding=4, fontsize=9, color=BLACK)
            ax.set_yticks(places, names)
            ax.set_xlim(min(0, values.min() * 1.15), max(values.max() * 1.15, 1e-3))
        ax.invert_yaxis()


def plot_calibration(calibration: Calibration, file: Path, note: str) -> None:
    """Save precision over confidence, with intervals of 90 %, and the number of boxes below.

    Args:
        calibration: of at least one box.
        file: image to write.
        note: setting of the boxes, below the title.
    """
    c, width = calibration, 1 / BINS
    middle = (np.arange(BINS) + 0.5) * width
    there = c.n > 0
    sure = there & (c.n >= FEW_BIN)
    with saved_figure(file, 6.5, 7) as figure:
        ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        style_axes(ax, "calibration", ylabel="precision at IoU 0.5", note=note)
        ax.plot((0, 1), (0, 1), "--", color=GREY, linewidth=1, label="precision = confidence")
        for mask, fill, text in ((sure, BLUE, "precision"), (there & ~sure, "none", f"of fewer than {FEW_BIN} boxes")):
            if mask.any():
                ax.bar(
                    middle[mask], c.precision[mask], width * 0.86, color=fill, edgecolor=BLUE, alpha=0.75, label=text
                )
        spread = np.abs(np.stack((c.precision - c.low, c.high - c.precision)))[:, there]
        ax.errorbar(
            middle[there], c.precision[there], spread, fmt="none", ecolor=BLACK, elinewidth=1, capsize=3,
            label="90 % interval",
        )  # fmt: skip
        ax.plot(c.conf[there], c.conf[there], "o", color=ORANGE, markersize=5, label="mean confidence")
        ax.set(xlim=(0, 1), ylim=(0, 1.02))
        ax.legend(frameon=False, fontsize=9, loc="upper left")
        chance = f"up to {c.chance_high:.3f} by chance"
        text = f"expected error {c.error:.3f} ({chance})\n{c.boxes} boxes from confidence {c.lowest:g}"
        ax.text(0.98, 0.03, text, transform=ax.transAxes, ha="right", fontsize=9, color=BLACK,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85})  # fmt: skip
        style_axes(below, xlabel="confidence", ylabel="boxes")
        below.bar(middle, c.n, width * 0.86, color=GREY)
