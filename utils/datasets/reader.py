"""Check one image and read its labels: YOLO text here, objects in pixels for the readers of other formats.

Raise `label_cache.CACHE_VERSION` when the rules of this file change, or old caches keep labels read by the old ones.
"""

import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.datasets.images import (
    COLOR8,
    HEIC,
    IMG_FORMATS,
    PixelFormat,
    decode_image,
    load_pixels,
    open_image,
    orientation,
)
from utils.datasets.selection import Selection
from utils.files import open_regular
from utils.text import name_list

TOLERANCE = 1e-3  # coordinates this far outside 0..1 are rounding errors and are clipped
MAX_LABEL_BYTES = 64 << 20  # of a label file
MAX_CLASS = 1 << 24  # class numbers below are exact in float32
MAX_MESSAGES = 10  # about the lines of one label file
# Lines of a class and four numbers in 0..1, each with at most one space around and no sign: what most files consist of.
PLAIN_LINE = r"[0-9]{1,7}(?: (?:0?\.[0-9]+|1\.0*|[01])){4} ?"
PLAIN = re.compile(rf"(?:{PLAIN_LINE}\n)*{PLAIN_LINE}\n*")
ROW = np.dtype("V20")  # five float32
HEAD_BYTES = 4096  # of a JPEG: what stands before the pixels mostly fits
NO_POLYGON = np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class Split:
    """One split of a dataset whose labels are not YOLO text, whose images are not 8-bit colour, or with some classes.

    Attributes:
        images: folder, image list, or several of them.
        format: key of `labels.READERS`.
        names: class number to name, of all classes of the labels.
        annotations: COCO files.
        first_pixel: see `label_voc.read_voc`.
        selection: what becomes of these classes; None if they remain as they are.
        pixels: how the images are read.
    """

    images: str | Path | Sequence[str | Path]
    format: str
    names: Mapping[int, str]
    annotations: tuple[str, ...] = ()
    first_pixel: int = 0
    selection: Selection | None = None
    pixels: PixelFormat = COLOR8

    @classmethod
    def of(cls, source: "str | Path | Sequence[str | Path] | Split") -> "Split":
        """Return a split as it is, and images with YOLO text of any classes as one."""
        return source if isinstance(source, Split) else cls(source, "yolo", {})

    @property
    def classes(self) -> int:
        """Number of classes that remain."""
        return len(self.selection.names if self.selection else self.names)

    def __str__(self) -> str:
        return str(self.images) if isinstance(self.images, str | Path) else ", ".join(map(str, self.images))


def pixels_of(source: Any) -> PixelFormat:
    """Return how the images of a split, in any form of `list_images` or a `Split`, are read."""
    return Split.of(source).pixels


class LabelledObject(NamedTuple):
    """One object of an annotation: class name, x1 y1 x2 y2 in pixels, outline (P, 2) in pixels or (0, 2)."""

    name: str
    box: tuple[float, float, float, float]
    outline: np.ndarray


class Annotation(NamedTuple):
    """What a file says about one image: (width, height), 0 where unknown; objects; problems; its id in the file."""

    size: tuple[int, int]
    objects: list[LabelledObject]
    messages: list[str]
    id: int | str | None = None


@dataclass
class Verified:
    """What `verify_image_label` found.

    Attributes:
        ok: the image can be used.
        size: (width, height) in pixels as it is shown, that is, after EXIF rotation; (0, 0) unless `ok`.
        labels: (M, 5) float32 `[class, xywhn]`.
        segments: M polygons (P, 2) float32, xyn; (0, 2) for a label given as a box. Empty list without any polygon.
        state: "found", "missing" or "empty" label file, "corrupt" image, or "unlisted": not of this split.
        messages: problems, each beginning with the file.
    """

    ok: bool
    size: tuple[int, int] = (0, 0)
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    segments: list[np.ndarray] = field(default_factory=list)
    state: str = "corrupt"
    messages: list[str] = field(default_factory=list)


def verify_image_label(im_file: str, label_file: str, nc: int | None = None, pixels: PixelFormat = COLOR8) -> Verified:
    """Check one image and read its label file. Neither is ever changed.

    An image that cannot be read, is under 10 pixels in a direction or is of a foreign format is left out; a missing or
    empty label file makes a background; of a label file only the bad lines are left out (`parse_labels`). An image
    whose label file has lines, but not a good one, is left out too: it would be learned as a background.

    Args:
        im_file: image.
        label_file: text file.
        nc: number of classes, None to allow any class.
        pixels: how the image is read.
    """
    try:
        size = image_size(im_file, pixels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return image_left_out(im_file, error)
    try:
        text = read_text(label_file)
    except FileNotFoundError:
        return Verified(True, size, state="missing")
    except (OSError, ValueError) as error:
        return Verified(False, messages=[f"{label_file}: {reason(error)}; image left out"])
    labels, segments, messages = parse_labels(text, label_file, nc)
    if messages and not len(labels):
        return Verified(False, messages=[*messages[:-1], f"{messages[-1]}; none is left, so the image is left out"])
    return Verified(True, size, labels, segments, "found" if text.strip() else "empty", messages)


def verify_pair(args: tuple[str, str, str]) -> list[Any]:
    """Check one image and read its labels, with arguments and result of YOLOv5's `verify_image_label`.

    Args:
        args: image, label file, and what to put before the message.

    Returns:
        Image file, or None if it cannot be used; labels (M, 5) `[class, xywhn]`; (width, height); polygons xyn; 1 or 0
        for a missing label file, a found, an empty and a corrupt one; message, "" for none.
    """
    im_file, lb_file, prefix = args
    found = verify_image_label(im_file, lb_file)
    counts = [int(found.state == state) for state in ("missing", "found", "empty")]
    message = f"{prefix}{'; '.join(found.messages)}" if found.messages else ""
    if not found.ok:
        return [None, None, None, None, *counts, 1, message]
    return [im_file, found.labels, found.size, found.segments, *counts, 0, message]


def image_left_out(im_file: str, error: Exception) -> Verified:
    """Return what is found about an image that cannot be read."""
    text = reason(error).partition(" <_io.")[0]  # PIL shows the open file
    return Verified(False, messages=[f"{im_file}: image left out: {text}"])


def reason(error: Exception) -> str:
    """Return the text of an error in one line, without the file that an operating system's error names."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split())


def read_text(file: str) -> str:
    """Read a label file; lines end with a line feed, bytes that are not UTF-8 become replacement characters.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is larger than `MAX_LABEL_BYTES`, or has zero bytes and so is no text.
    """
    with open_regular(file) as f:
        size = os.fstat(f.fileno()).st_size
        if size > MAX_LABEL_BYTES:
            raise ValueError(f"{size / 1e6:.0f} MB; a label file has at most {MAX_LABEL_BYTES >> 20} MiB")
        data = f.read(size + 1)
        if len(data) > size:  # it has grown
            data += f.read(MAX_LABEL_BYTES - size)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ValueError(f"not UTF-8 text: zero bytes in line {line} (UTF-16, or a binary file)")
    return data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def image_size(file: str, pixels: PixelFormat = COLOR8) -> tuple[int, int]:
    """Return (width, height) of an image after EXIF rotation, and find damages.

    PNG has checksums, and a JPEG with its end mark counts as complete; other formats must be decoded to find out, and
    so must all images that are not read as 8-bit colour, as their bands and values must fit.

    Raises:
        OSError, ValueError, SyntaxError: PIL or OpenCV cannot read it, it is too small, or its format is not in
            `IMG_FORMATS`.
    """
    if not pixels.plain or file.lower().endswith(HEIC):  # which PIL does not know
        height, width = load_pixels(file, pixels).shape[:2]
        return large_enough(width, height)
    return plain_jpeg_size(file) or any_image_size(file)


def large_enough(width: int, height: int) -> tuple[int, int]:
    """Return both sides of an image; ValueError if one is below 10 pixels."""
    if min(width, height) < 10:
        raise ValueError(f"{width} x {height} pixels; at least 10 x 10 are needed")
    return width, height


def plain_jpeg_size(file: str) -> tuple[int, int] | None:
    """Return what `image_size` does for a JPEG with its end mark and nothing unusual in its head (`head_size`)."""
    with open_regular(file, buffering=0) as f:
        head = f.read(HEAD_BYTES)
        if not head.startswith(b"\xff\xd8"):
            return None
        end = head[-2:]
        if len(head) == HEAD_BYTES:
            f.seek(-2, os.SEEK_END)
            end = f.read(2)
    return head_size(head) if end == b"\xff\xd9" else None


def head_size(head: bytes) -> tuple[int, int] | None:
    """Return (width, height) from the markers of a JPEG (ITU-T T.81, annex B), much faster than PIL.

    Args:
        head: first bytes of the file.

    Returns:
        None if the pixels do not begin in these bytes or something before them is unusual, so that PIL must look at it:
        EXIF and other data of applications, tables of 16 bits, CMYK, bytes between the markers, wrong lengths, less
        than 10 pixels or more than 64 million.
    """
    width = height = 0
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker, length, body = head[at + 1], head[at + 2] << 8 | head[at + 3], at + 4
        at += 2 + length
        if length < 2 or at > len(head):
            break
        if marker == 0xDA:  # start of scan
            return (width, height) if min(width, height) >= 10 and width * height <= 1 << 26 else None
        if marker in (0xC0, 0xC2):  # start of frame, baseline or progressive
            if width or length not in (11, 17) or head[body] != 8 or length != 8 + 3 * head[body + 5]:
                break
            height, width = struct.unpack_from(">HH", head, body + 1)
        elif marker == 0xDB:  # tables of quantization
            if (length - 2) % 65 or any(number > 15 for number in head[body:at:65]):
                break
        elif marker not in (0xC4, 0xDD, 0xFE) and (marker != 0xE0 or length < 16):
            break  # neither Huffman tables, restart interval, comment nor JFIF
    return None


def any_image_size(file: str) -> tuple[int, int]:
    """Return what `image_size` does, after PIL and, where it must, OpenCV have looked at the file."""
    with open_regular(file) as f, open_image(f) as im:
        image_format = (im.format or "").lower()
        # PIL has turned the size of a TIFF already.
        width, height = (im.tag_v2[256], im.tag_v2[257]) if image_format == "tiff" else im.size
        # Of a PNG without EXIF in its head PIL would decode all pixels to look for EXIF data after them.
        if (image_format != "png" or "exif" in im.info) and orientation(im) in (5, 6, 7, 8):  # on their side
            width, height = height, width
        try:
            im.verify()  # closes the image, not the file
        except (TypeError, KeyError, IndexError, struct.error) as error:  # of a PNG without pixels, for example
            raise ValueError(f"PIL cannot read an image from it ({error})") from None
        f.seek(0, os.SEEK_END)
        f.seek(max(f.tell() - 2, 0))
        end = f.read()
    if image_format not in (*IMG_FORMATS, "jpeg2000"):  # PIL's name of jp2
        raise ValueError(f"format {image_format} is not one of {', '.join(IMG_FORMATS)}")
    large_enough(width, height)
    if image_format in ("jpeg", "mpo"):
        if end != b"\xff\xd9":  # cut off, or bytes after the end mark: only decoding can tell
            with open_regular(file) as f, open_image(f) as im:
                im.load()
    elif image_format != "png":
        pixels = decode_image(file)
        if pixels is None:
            raise ValueError(f"OpenCV cannot decode this {image_format}; if other programs can, save it as PNG")
        if pixels.shape[1::-1] != (width, height):
            raise ValueError(f"OpenCV decodes {pixels.shape[1]} x {pixels.shape[0]} pixels, PIL {width} x {height}")
    return width, height


def parse_labels(text: str, file: str, nc: int | None = None) -> tuple[np.ndarray, list[np.ndarray], list[str]]:
    """Read label lines: `class x y w h` (normalised), the same with a confidence, or `class x1 y1 x2 y2 x3 y3 ...`.

    A sixth column is a confidence and is dropped. A polygon has three points or more; its label is the box around it.
    A bad line is left out with a message, and so is a repeated one; all others stay, in their order. The first
    `MAX_MESSAGES` bad lines have a message each, the others one together.

    Args:
        text: content of the file.
        file: its name, for the messages.
        nc: classes must be below this, None for any.

    Returns:
        Labels (M, 5) float32, polygons as in `Verified.segments`, messages.
    """
    if (labels := plain_boxes(text, nc)) is not None:
        return labels, [], []
    found, numbers, messages, bad = [], [], [], 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(parse_line(line.split(), nc))
            numbers.append(number)
        except ValueError as error:
            bad += 1
            if bad <= MAX_MESSAGES:
                messages.append(f"{file}:{number}: line left out: {error}")
    if bad > MAX_MESSAGES:
        messages.append(f"{file}: {bad - MAX_MESSAGES} more lines left out")
    labels, segments, repeats = without_repeats(found)
    if len(repeats):
        more = f", {len(repeats)} repeated labels in all" if len(repeats) > 1 else ""
        messages.append(f"{file}:{numbers[repeats[0]]}: repeated label left out{more}")
    return labels, segments, messages


def plain_boxes(text: str, nc: int | None) -> np.ndarray | None:
    """Read a label file of valid boxes in plain notation in one step; None if any line is of another kind.

    Returns:
        Labels (M, 5) float32 as by `parse_labels`.
    """
    if PLAIN.fullmatch(text) is None:
        return None
    labels = np.fromstring(text, np.float32, sep=" ").reshape(-1, 5)  # reads each number as `float` does
    if labels[:, 0].max() >= (MAX_CLASS if nc is None else nc) or labels[:, 3:].min() <= 0:
        return None
    return labels if len(set(labels.view(ROW)[:, 0].tolist())) == len(labels) else None


def without_repeats(
    found: Iterable[tuple[list[float], np.ndarray]],
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Turn pairs of label row and polygon into arrays; of equal rows only the first stays.

    Returns:
        Labels (M, 5) float32, polygons as in `Verified.segments`, numbers of the rows left out, rising.
    """
    rows, polygons = [row for row, _ in found], [polygon for _, polygon in found]
    labels = np.array(rows, np.float32).reshape(-1, 5)
    seen: dict[tuple[float, ...], int] = {}
    for i, row in enumerate(map(tuple, labels.tolist())):
        seen.setdefault(row, i)
    first = list(seen.values())
    segments = [polygons[i] for i in first] if any(map(len, polygons)) else []
    return labels[first], segments, np.setdiff1d(np.arange(len(labels)), first, assume_unique=True)


def parse_line(tokens: list[str], nc: int | None) -> tuple[list[float], np.ndarray]:
    """Read the columns of one label line into `[class, x, y, w, h]` and its polygon; ValueError says what is wrong."""
    try:
        values = [float(token) for token in tokens]
    except ValueError:
        values = None
    joined = " ".join(tokens)
    if values is None or "_" in joined or not joined.isascii():  # Python would take 1_0 and digits of any script
        raise ValueError(f"{joined[:60]!r} contains something other than numbers") from None
    if len(values) < 5 or (len(values) > 6 and len(values) % 2 == 0):
        raise ValueError(f"{len(values)} columns; allowed are 5 (box), 6 (box and confidence), 7, 9, 11, ... (polygon)")
    cls = values[0]
    if not cls.is_integer() or not 0 <= cls < (MAX_CLASS if nc is None else nc):
        allowed = "0, 1, 2, ..." if nc is None else f"0 to {nc - 1}"
        raise ValueError(f"class {tokens[0][:60]}; allowed are {allowed}")
    is_polygon = len(values) > 6
    points = clip_points(values[1:] if is_polygon else values[1:5])
    polygon = NO_POLYGON
    if is_polygon:
        polygon = points.reshape(-1, 2).astype(np.float32)
        low, high = points.reshape(-1, 2).min(0), points.reshape(-1, 2).max(0)
        points = np.concatenate(((low + high) / 2, high - low))
    check_area(points)
    return [cls, *points.tolist()], polygon


def clip_points(points: list[float]) -> np.ndarray:
    """Clip coordinates to 0..1; ValueError if one is further outside than rounding explains."""
    if not all(-TOLERANCE <= v <= 1 + TOLERANCE for v in points):
        raise ValueError(f"coordinates {points[:4]} are not all within 0..1; divide by the image's width and height")
    return np.array(points).clip(0, 1)


def check_area(box: np.ndarray) -> None:
    """Raise ValueError if the width or height of a box x, y, w, h is not positive."""
    if min(box[2:].astype(np.float32)) <= 0:  # the type that labels are kept in
        raise ValueError(f"the box has no area: width {box[2]:g}, height {box[3]:g}")


# Objects in pixels ----------------------------------------------------------------------------------------------------
def verify_objects(
    im_file: str,
    label_file: str,
    annotation: Annotation | None,
    classes: Mapping[str, int],
    pixels: PixelFormat = COLOR8,
) -> Verified:
    """Check one image and turn its annotation into labels, by the rules of `verify_image_label` and `parse_labels`.

    Args:
        im_file: image.
        label_file: where the annotation comes from, for the messages.
        annotation: None if there is none. Coordinates are fractions of its size; one of another shape than that of the
            image (a photograph that was turned, another image) leaves the image out, with a message.
        classes: number of each class name; objects of other classes are left out with a message.
        pixels: how the image is read.
    """
    try:
        size = image_size(im_file, pixels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return image_left_out(im_file, error)
    if annotation is None:
        return Verified(True, size, state="missing")
    frame = annotation.size if min(annotation.size) > 0 else size
    messages = list(annotation.messages)
    if abs(frame[0] * size[1] - frame[1] * size[0]) > max(frame[0] * size[1], frame[1] * size[0]) * 0.02:
        messages.append(
            f"{label_file}: {im_file} left out: its labels are for {frame[0]} x {frame[1]} pixels, "
            f"but the image has {size[0]} x {size[1]}"
        )
        return Verified(False, messages=messages)
    found, unknown = [], set()
    for number, item in enumerate(annotation.objects, 1):
        if item.name not in classes:
            unknown.add(item.name)
            continue
        try:
            found.append(_normalise(item, frame, classes[item.name]))
        except ValueError as error:
            messages.append(f"{label_file}: object {number} of {os.path.basename(im_file)} left out: {error}")
    if len(messages) > MAX_MESSAGES:
        more = f"{label_file}: {len(messages) - MAX_MESSAGES} more objects of {os.path.basename(im_file)} left out"
        messages = [*messages[:MAX_MESSAGES], more]
    if messages and not found:
        messages[-1] += "; none is left, so the image is left out"
        return Verified(False, messages=messages)
    if unknown:
        messages.append(f"{label_file}: classes not in names, objects left out: {name_list(unknown)}")
    labels, segments, repeats = without_repeats(found)
    if len(repeats):
        messages.append(f"{label_file}: {len(repeats)} repeated labels of {os.path.basename(im_file)} left out")
    state = "found" if annotation.objects or annotation.messages else "empty"
    return Verified(True, size, labels, segments, state, messages)


def _normalise(item: LabelledObject, frame: tuple[int, int], cls: int) -> tuple[list[float], np.ndarray]:
    """Return `[class, xywhn]` and the outline xyn of an object; ValueError says what is wrong with its box."""
    (x1, y1, x2, y2), (width, height) = item.box, frame
    box = clip_points([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
    check_area(box)
    outline = (item.outline / (width, height)).clip(0, 1).astype(np.float32) if len(item.outline) else NO_POLYGON
    return [cls, *box.tolist()], outline


def twin_folder(folder: Path, name: str, twin: str) -> Path | None:
    """Replace the last part `name` of a path by `twin`; None if there is no such part, or no such twin folder."""
    parts = list(folder.parts)
    if name not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index(name)] = twin
    found = Path(*parts)
    return found if found.is_dir() else None
