"""The report page: one HTML file with all images of a run, whose boxes can be filtered in the browser.

The file holds everything, loads nothing and works without a server. `report_page.html` is its frame, `report_page.js`
its program; images are written to disk one by one, so memory does not grow with their number.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from engine.validation.errors import FOREGROUND, KINDS, WORDS, judge
from utils.annotate import PALETTE, Color, Names, text_color
from utils.boxes import box_iou
from utils.datasets.images import COLOR8, PixelFormat, decode_image
from utils.files import atomic_path, naming
from utils.metrics import match_labels
from utils.thresholds import CONF_THRES, IOU_THRES

THUMBNAIL = 480  # longest side in pixels
QUALITY = 80  # of the JPEG
LOWEST = 0.05  # detections below it are left out of the validation page: they are many and of no interest
COLUMNS = ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")


class _Page:
    """The page while it grows: head first, then two data blocks for each image, at last the program."""

    def __init__(self, save_dir: str | Path, names: Names, title: str, kind: str, conf: float) -> None:
        known = dict(names) if isinstance(names, Mapping) else dict(enumerate(names or ()))
        config = {
            "kind": kind,
            "names": {int(c): str(name) for c, name in known.items()},
            "palette": [[_hex(color), _hex(text_color(color))] for color in PALETTE],
            "conf": conf,
            "iou": IOU_THRES,
            "errors": [(kind, *WORDS[kind]) for kind in KINDS],
        }
        folder = Path(__file__).resolve().parent
        self._script = (folder / "report_page.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(self._script.encode()).digest()).decode()
        head, self._tail = (folder / "report_page.html").read_text(encoding="utf-8").split("@@ITEMS@@\n")
        title = html.escape(title).encode("ascii", "xmlcharrefreplace").decode()
        marks = {"TITLE": title, "SCRIPT_HASH": f"sha256-{digest}", "CONFIG": _json(config)}
        head = re.sub("@@([A-Z_]+)@@", lambda mark: marks[mark[1]], head)  # in one pass: names may look like marks

        self.path = Path(save_dir) / "report.html"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:  # a page that cannot even be begun leaves no open file
            written = opened.enter_context(atomic_path(self.path))
            self._file = opened.enter_context(written.open("w", encoding="utf-8", newline="\n"))
            self._write(head)
            self._open = opened.pop_all()

    def add(self, image: NDArray, item: Mapping[str, Any]) -> None:
        """Write an image, (H, W, 3) uint8 BGR, and what belongs to it; ValueError after `close`."""
        if self.closed:
            raise ValueError(f"{self.path}: this report is closed, no image can be added")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"{item['name']}: an image of a report is (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
        height, width = image.shape[:2]
        record = _json({**item, "size": [width, height]})
        jpeg = base64.b64encode(thumbnail(image)).decode()
        self._write(f'<script type="application/json" class="item">{record}</script>\n')
        self._write(f'<script type="text/plain" class="jpeg">{jpeg}</script>\n')

    def _write(self, text: str) -> None:
        """Append to the page; OSError names it."""
        with naming(self.path):
            self._file.write(text)

    @property
    def closed(self) -> bool:
        """Whether the page is complete."""
        return self._file.closed

    def close(self, summary: Mapping[str, Any]) -> Path:
        """Complete the page and put it in its place; a second call changes nothing."""
        if not self.closed:
            with self._open:
                self._write(self._tail.replace("@@SCRIPT@@", self._script).replace("@@SUMMARY@@", _json(summary)))
        return self.path


class DetectReport:
    """Write `report.html` of a detection run.

    Args:
        save_dir: folder of the page, made if need be.
        names: class names by index.
        title: heading of the page.
        thresholds: of the weights, see `Detected.thresholds`; the page starts at the best confidence, without one it
            shows all boxes. Those of a file may be anything.

    The page appears with `close`; until then a report of an earlier run stays.
    """

    def __init__(
        self, save_dir: str | Path, names: Names, title: str = "Detections", thresholds: Mapping[str, Any] | None = None
    ) -> None:
        conf = thresholds.get("conf") if isinstance(thresholds, Mapping) else None
        self._best = float(conf) if isinstance(conf, float | int) and 0 <= conf <= 1 else 0.0
        self._page = _Page(save_dir, names, title, "detect", conf=self._best)

    def add(
        self,
        image: NDArray,
        name: str | Path,
        detections: ArrayLike | Tensor,
        maps: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an image.

        Args:
            image: without boxes drawn, (H, W, 3) uint8 BGR; kept as a thumbnail with at most 480 pixels a side.
            name: shown below it.
            detections: (D, 6) `[xyxy_img, confidence, class]`, any order.
            maps: of the first detections, see `engine.results.box_maps.record`; a click on their boxes shows them.

        Raises:
            ValueError: wrong shapes, or the report is closed.
        """
        boxes = _rows(detections, 6, name)
        item = {"name": str(name), "boxes": [_rounded(row) for row in boxes]}
        self._page.add(image, item | ({"maps": maps} if maps else {}))

    def close(self) -> Path:
        """Write the page and return its path."""
        return self._page.close({"choices": [("best F1 in validation", self._best)] if self._best else []})


class ValReport:
    """Write `report.html` of a validation run: missed labels and false boxes, the worst images first.

    Boxes and labels are paired as `utils.metrics.ConfusionMatrix` does it, at the confidence that the reader
    of the page chooses; the page starts at the best one, or at `CONF_THRES` if there is none. Each box has its kind of
    error too (`engine.validation.errors.judge`), by which the page can be filtered.

    Args:
        save_dir: folder of the page, made if need be.
        names: class names by index.
        title: heading of the page.
        pixels: how the images are read.
    """

    def __init__(
        self, save_dir: str | Path, names: Names, title: str = "Validation", *, pixels: PixelFormat = COLOR8
    ) -> None:
        self._pixels = pixels
        self._page = _Page(save_dir, names, title, "val", conf=CONF_THRES)

    def add(self, detections: Tensor, labels: Tensor, path: str | Path) -> None:
        """Add an image.

        Args:
            detections: (D, 6) `[xyxy_img, confidence, class]`, best first; those below 0.05 are left out.
            labels: (M, 5) `[class, xyxy_img]`.
            path: the image, read again for its thumbnail.

        Raises:
            ValueError: wrong shapes, an image that cannot be decoded, or the report is closed.
            OSError: the image cannot be read.
        """
        boxes, true = _rows(detections, 6, path), _rows(labels, 5, path)
        boxes = boxes[boxes[:, 4] >= LOWEST]
        image = decode_image(str(path), pixels=self._pixels)
        if image is None:
            raise ValueError(f"{path}: this image cannot be decoded for the report")
        owner = np.full((len(boxes), 2), -1.0)  # label that a box overlaps best, and their IoU
        if len(boxes) and len(true):
            iou = box_iou(boxes[:, :4], true[:, 1:])  # (D, M)
            owner = np.stack((iou.argmax(1), iou.max(1)), 1)
            owner[owner[:, 1] <= IOU_THRES] = -1
        single = boxes.astype(np.float32), true.astype(np.float32)  # so that the counts are those of the log
        kinds = judge(*single, match_labels(*single, np.array([FOREGROUND], np.float32))[0][:, 0])
        found = [
            [*_rounded(row), int(j), round(v, 6), int(kind), int(label)]
            for row, (j, v), kind, label in zip(boxes, owner.tolist(), *kinds, strict=True)
        ]
        item = {
            "name": Path(path).name,
            "boxes": found,
            "labels": [[*(round(v, 1) for v in xyxy), int(c)] for c, *xyxy in true.tolist()],
        }
        self._page.add(image, item)

    def close(
        self,
        rows: Iterable[Sequence[str | float]] = (),
        thresholds: Mapping[str, Any] | None = None,
        note: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the page and return its path.

        Args:
            rows: table above the images, the row of all classes first: `COLUMNS`.
            thresholds: of `Detected.thresholds`, confidences that the reader may choose; the best one is where the page
                starts.
            note: below the table, what its columns mean.
            details: of `Breakdown.record`: AP by size, kinds of error, calibration.
        """
        rows = [[str(name), *map(float, values)] for name, *values in rows]
        summary: dict[str, Any] = {"metrics": {"columns": COLUMNS, "rows": rows, "note": note}} if rows else {}
        if thresholds:
            summary |= {"best": thresholds["conf"], "choices": _choices(thresholds)}
        if details:
            summary["details"] = details
        return self._page.close(summary)


def _choices(thresholds: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return confidences to choose from, and what each is for."""
    choices = [("detect.py's default", CONF_THRES)]
    if thresholds["conf"] is not None:
        choices.insert(0, (f"best F1, {thresholds['f1']:.2f}", thresholds["conf"]))
    for wish, point in thresholds["for_precision"].items():
        if point:
            choices.append((f"precision {float(wish):g}, recall {point['recall']:.2f}", point["conf"]))
    return choices


def _rows(x: ArrayLike | Tensor, columns: int, name: str | Path) -> NDArray:
    """Copy a tensor of any device or an array to (N, columns) float64; without rows any shape will do."""
    x = np.asarray(x.detach().cpu().double() if isinstance(x, Tensor) else x, np.float64)
    if not x.size:
        return np.zeros((0, columns))
    if x.ndim != 2 or x.shape[1] != columns:
        raise ValueError(f"{name}: boxes of a report are (N, {columns}), got {x.shape}")
    return x


def _rounded(row: NDArray) -> list[float]:
    """Shorten `[xyxy, confidence, class]` for the page: 0.1 pixel, 1e-5."""
    *xyxy, conf, cls = row.tolist()
    return [*(round(v, 1) for v in xyxy), round(conf, 5), int(cls)]


def _hex(color: Color) -> str:
    """Write an RGB colour as CSS wants it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _json(data: Any) -> str:
    """Write JSON in ASCII that is safe in a script element: no `<` ends or opens anything there."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def thumbnail(image: NDArray, side: int = THUMBNAIL) -> bytes:
    """Shrink an image, (H, W, 3) uint8 BGR, to at most `side` pixels a side, as JPEG."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
