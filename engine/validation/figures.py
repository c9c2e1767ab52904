"""Figures of the kinds of error and of the calibration.

They are drawn by PIL: matplotlib needs half a second for the two, which is much for the end of a short validation.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from engine.validation.errors import BINS, FEW_BIN, Calibration
from utils.annotate import find_font, write_image
from utils.plots import BLACK, BLUE, GREY, ORANGE

LIGHT = "#DDDDDD"  # grid


class Sheet:
    """A white image with lines of text; positions and sizes in pixels.

    Attributes:
        draw: for shapes.
    """

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width, height), "white")
        self.draw = ImageDraw.Draw(self._image)

    def text(self, x: float, y: float, text: str, anchor: str = "ls", size: int = 20, color: str = BLACK) -> None:
        """Write a text; `anchor` is PIL's: which point of it is at (x, y)."""
        self.draw.text((x, y), text, fill=color, font=find_font(text, size), anchor=anchor)

    def save(self, file: Path) -> None:
        """Write the image into an existing folder."""
        write_image(file, np.asarray(self._image)[..., ::-1])


def plot_errors(rows: Mapping[str, tuple[int, float]], file: Path, ap50: float, note: str) -> None:
    """Save bars of how often each kind of error occurs and what it costs.

    Args:
        rows: name of the kind -> count and cost in AP50.
        file: image to write.
        ap50: what the costs would be added to.
        note: setting of the boxes, below the title.
    """
    step, top, left, width = 60, 130, (330, 960), (490, 460)  # of a row; of the rows; of the two columns of bars
    sheet = Sheet(1540, top + step * len(rows) + 20)
    sheet.text(left[0], 50, "errors by kind", size=28)
    sheet.text(left[0], 85, note, size=18, color=GREY)
    sheet.text(left[0], 112, "boxes, or labels that are missed", size=18, color=GREY)
    sheet.text(left[1], 50, "what each kind costs", size=28)
    sheet.text(left[1], 112, f"how much higher AP50 ({ap50:.3f} by COCO's rule) is without it", size=18, color=GREY)
    most = [max(*(row[i] for row in rows.values()), 1e-6) for i in (0, 1)]
    for k, (name, row) in enumerate(rows.items()):
        y = top + step * k
        sheet.text(left[0] - 15, y + 32, name, "rs")
        for i, (text, color) in enumerate(((f"{row[0]}", BLUE), (f"{row[1]:.3f}", ORANGE))):
            x = left[i] + max(row[i], 0) / most[i] * width[i]
            sheet.draw.rectangle((left[i], y + 5, x, y + step - 15), fill=color)
            sheet.text(x + 10, y + 32, text)
    for x in left:
        sheet.draw.line((x, top - 5, x, top + step * len(rows)), fill=BLACK, width=2)
    sheet.save(file)


def plot_calibration(calibration: Calibration, file: Path, note: str) -> None:
    """Save precision over confidence, with intervals of 90 %, and the number of boxes below.

    Args:
        calibration: of at least one box.
        file: image to write.
        note: setting of the boxes, below the title.
    """
    c, side, left, top, low = calibration, 800, 110, 130, 1010  # `low`: top of the histogram, 120 high
    sheet = Sheet(left + side + 40, low + 190)
    draw = sheet.draw
    sheet.text(left, 50, "confidence and precision", size=28)
    sheet.text(left, 85, note, size=18, color=GREY)
    sheet.text(left, 112, f"{c.boxes} boxes: {c.brief}", size=18, color=GREY)
    y_of = [top + side * (1 - k / 5) for k in range(6)]
    for k, y in enumerate(y_of):
        draw.line((left, y, left + side, y), fill=LIGHT, width=2)
        sheet.text(left - 12, y + 7, f"{k / 5:.1f}", "rs")
        sheet.text(left + side * k / 5, top + side + 32, f"{k / 5:.1f}", "ms")
    sheet.text(left - 12, top + 32, "precision", "rs", size=18, color=GREY)
    sheet.text(left + side, top + side + 62, "confidence", "rs", size=18, color=GREY)
    sheet.text(left, low - 12, f"boxes, up to {c.n.max()}", size=18, color=GREY)
    width = side / BINS
    for j in np.flatnonzero(c.n):
        x1, x2 = left + width * j + 8, left + width * (j + 1) - 8
        fill = "#8EB0EA" if c.n[j] >= FEW_BIN else None
        draw.rectangle((x1, top + side * (1 - c.precision[j]), x2, top + side), fill=fill, outline=BLUE, width=2)
        middle, ends = (x1 + x2) / 2, (top + side * (1 - c.high[j]), top + side * (1 - c.low[j]))
        draw.line((middle, *ends[:1], middle, *ends[1:]), fill=BLACK, width=2)
        for y in ends:
            draw.line((middle - 8, y, middle + 8, y), fill=BLACK, width=2)
        draw.rectangle((x1, low + 120 * (1 - c.n[j] / c.n.max()), x2, low + 120), fill=GREY)
    for k in range(0, 50, 2):  # a dashed line
        dash = [(left + side * t / 50, top + side * (1 - t / 50)) for t in (k, k + 1)]
        draw.line((*dash[0], *dash[1]), fill=ORANGE, width=3)
    draw.line((left, top, left, top + side, left + side, top + side), fill=BLACK, width=2)
    draw.line((left, low + 120, left + side, low + 120), fill=BLACK, width=2)
    legend = f"bars: precision at IoU 0.5 with its 90 % interval, empty below {FEW_BIN} boxes; dashed: the ideal"
    sheet.text(left, low + 165, legend, size=18, color=GREY)
    sheet.save(file)
