"""Check one image and read its YOLO label file.

Raise `labels.CACHE_VERSION` when the rules of this file change, or old caches keep labels read by the old ones.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

IMG_FORMATS = ("bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm")
TOLERANCE = 1e-3  # coordinates this far outside 0..1 are rounding errors and are clipped
NO_POLYGON = np.zeros((0, 2), np.float32)


@dataclass
class Verified:
    """What `verify_image_label` found.

    Attributes:
        ok: the image can be used.
        size: (width, height) in pixels as it is shown, that is, after EXIF rotation; (0, 0) unless `ok`.
        labels: (M, 5) float32 `[class, xywhn]`.
        segments: M polygons (P, 2) float32, xyn; (0, 2) for a label given as a box. Empty list without any polygon.
        state: "found", "missing" or "empty" label file, or "corrupt" image.
        messages: complaints, each beginning with the file.
    """

    ok: bool
    size: tuple[int, int] = (0, 0)
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    segments: list[np.ndarray] = field(default_factory=list)
    state: str = "corrupt"
    messages: list[str] = field(default_factory=list)


def verify_image_label(im_file: str, label_file: str, nc: int | None = None) -> Verified:
    """Check one image and read its label file. Neither is ever changed.

    An image that cannot be read, is under 10 pixels in a direction or is of a foreign format is left out; a missing or
    empty label file makes a background; of a label file only the bad lines are left out (`parse_labels`).

    Args:
        im_file: image.
        label_file: text file.
        nc: number of classes, None to allow any class.
    """
    try:
        size = image_size(im_file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Verified(False, messages=[f"{im_file}: image left out: {error}"])
    try:
        text = Path(label_file).read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return Verified(True, size, state="missing")
    labels, segments, messages = parse_labels(text, label_file, nc)
    return Verified(True, size, labels, segments, "found" if text.strip() else "empty", messages)


def image_size(file: str) -> tuple[int, int]:
    """Return (width, height) of an image after EXIF rotation, and find damages.

    PNG has checksums, and a JPEG with its end mark is believed to be whole; of the other formats only decoding tells.

    Raises:
        OSError, ValueError, SyntaxError: PIL or OpenCV cannot read it, it is too small, or its format is not in
            `IMG_FORMATS`.
    """
    with Image.open(file) as im:
        image_format = (im.format or "").lower()
        # PIL has turned the size of a TIFF already.
        width, height = (im.tag_v2[256], im.tag_v2[257]) if image_format == "tiff" else im.size
        # Of a PNG without EXIF in its head PIL would decode all pixels to look for some behind them.
        exif = im.getexif() if image_format != "png" or "exif" in im.info else {}
        if exif.get(0x0112) in (5, 6, 7, 8):  # orientations that lie on their side
            width, height = height, width
        im.verify()
    if image_format not in IMG_FORMATS:
        raise ValueError(f"format {image_format} is not one of {', '.join(IMG_FORMATS)}")
    if min(width, height) < 10:
        raise ValueError(f"{width} x {height} pixels; at least 10 x 10 are needed")
    if image_format in ("jpeg", "mpo"):
        with open(file, "rb") as f:
            f.seek(-2, os.SEEK_END)
            complete = f.read() == b"\xff\xd9"
        if not complete:  # cut off, or bytes behind the end mark: only decoding can tell
            with Image.open(file) as im:
                im.load()
    elif image_format != "png":
        pixels = decode_image(file)
        if pixels is None:
            raise ValueError(f"OpenCV cannot decode this {image_format}; if other programs can, save it as PNG")
        if pixels.shape[1::-1] != (width, height):
            raise ValueError(f"OpenCV decodes {pixels.shape[1]} x {pixels.shape[0]} pixels, PIL {width} x {height}")
    return width, height


def decode_image(file: str, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Decode an image, turned as its EXIF data say: (H, W, 3) BGR uint8 whatever its depth and channels.

    Args:
        file: image; OSError if it cannot be read.
        flags: `cv2.IMREAD_COLOR` or one of `cv2.IMREAD_REDUCED_COLOR_2`, 4, 8.

    Returns:
        None if OpenCV cannot decode it.
    """
    try:
        return cv2.imdecode(np.fromfile(file, np.uint8), flags)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        return None


def parse_labels(text: str, file: str, nc: int | None = None) -> tuple[np.ndarray, list[np.ndarray], list[str]]:
    """Read label lines: `class x y w h` (normalised), the same with a confidence, or `class x1 y1 x2 y2 x3 y3 ...`.

    A sixth column is a confidence and is dropped. A polygon has three points or more; its label is the box around it.
    A bad line is left out with a message, and so is a repeated one; all others stay, in their order.

    Args:
        text: content of the file.
        file: its name, for the messages.
        nc: classes must be below this, None for any.

    Returns:
        Labels (M, 5) float32, polygons as in `Verified.segments`, messages.
    """
    rows, polygons, messages = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row, polygon = parse_line(line.split(), nc)
        except ValueError as error:
            messages.append(f"{file}:{number}: line left out: {error}")
            continue
        rows.append(row)
        polygons.append(polygon)
    labels = np.array(rows, np.float32).reshape(-1, 5)
    first = np.sort(np.unique(labels, axis=0, return_index=True)[1])
    if len(first) < len(labels):
        messages.append(f"{file}: {len(labels) - len(first)} repeated labels left out")
    segments = [polygons[i] for i in first] if any(map(len, polygons)) else []
    return labels[first], segments, messages


def parse_line(tokens: list[str], nc: int | None) -> tuple[list[float], np.ndarray]:
    """Read the columns of one label line into `[class, x, y, w, h]` and its polygon; ValueError says what is wrong."""
    try:
        values = [float(token) for token in tokens]
    except ValueError:
        raise ValueError(f"'{' '.join(tokens)[:60]}' is not made of numbers only") from None
    if len(values) < 5 or (len(values) > 6 and len(values) % 2 == 0):
        raise ValueError(f"{len(values)} columns; allowed are 5 (box), 6 (box and confidence), 7, 9, 11, ... (polygon)")
    cls = values[0]
    if not cls.is_integer() or cls < 0 or (nc is not None and cls >= nc):
        allowed = "0, 1, 2, ..." if nc is None else f"0 to {nc - 1}"
        raise ValueError(f"class {tokens[0]}; allowed are {allowed}")
    is_polygon = len(values) > 6
    points = values[1:] if is_polygon else values[1:5]
    if not all(-TOLERANCE <= v <= 1 + TOLERANCE for v in points):
        raise ValueError(f"coordinates {points[:4]} are not all within 0..1; divide by the image's width and height")
    points = np.array(points).clip(0, 1)
    polygon = NO_POLYGON
    if is_polygon:
        polygon = points.reshape(-1, 2).astype(np.float32)
        low, high = points.reshape(-1, 2).min(0), points.reshape(-1, 2).max(0)
        points = np.concatenate(((low + high) / 2, high - low))
    if min(points[2:]) <= 0:
        raise ValueError(f"the box has no area: width {points[2]:g}, height {points[3]:g}")
    return [cls, *points.tolist()], polygon
