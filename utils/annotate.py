"""Draw boxes and labels on images and batches, crop boxes, and write image files."""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.files import write_whole
from utils.text import printable
from utils.thresholds import CONF_THRES

Color = tuple[int, int, int]
Names = Mapping[int, str] | Sequence[str] | None  # class names by index

# Ten strong hues, then ten darker or paler ones between them; neighbours in the list are far apart on the wheel.
_HEX = (
    "F9052B 356AFE 08B834 F5C40D E33BDB 10CACA FF8506 904FFE AFCE0C FE5899 "
    "9A2C03 A5B1FF 037747 968808 FEADDF 067783 945A03 CB94FF 4E8302 AE0440"
)

# DejaVu comes with matplotlib; the others are looked up among the system's fonts for scripts that DejaVu lacks.
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
)
CROP_GAIN, CROP_PAD = 1.02, 10  # a crop is this much larger than its box, then this many pixels
# the colours of thin lines and small crops in full resolution; OpenCV halves it otherwise
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_NO_SUCH_CHARACTER = "\U000fffff"


class Colors:
    """Colours of classes; call it with a class number.

    Attributes:
        palette: RGB bytes of each colour.
        n: number of colours; class n has that of class 0 again.
    """

    def __init__(self) -> None:
        self.palette = [self.hex2rgb(f"#{text}") for text in _HEX.split()]
        self.n = len(self.palette)

    def __call__(self, i: int | float | Tensor, bgr: bool = False) -> Color:
        """Return the colour of class i as RGB (or BGR) bytes."""
        color = self.palette[int(i) % self.n]
        return color[::-1] if bgr else color

    @staticmethod
    def hex2rgb(h: str) -> Color:
        """Turn "#F9052B" into RGB bytes."""
        return int(h[1:3], 16), int(h[3:5], 16), int(h[5:7], 16)


colors = Colors()
PALETTE: tuple[Color, ...] = tuple(colors.palette)


def luminance(color: Sequence[float]) -> float:
    """Relative luminance of an RGB colour (0 to 255), 0 black to 1 white (WCAG 2.1)."""
    channels = (c / 255 for c in color)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_color(background: Sequence[float]) -> Color:
    """Black or white, whichever has the higher contrast ratio on an RGB background (WCAG 2.1)."""
    light = luminance(background) + 0.05
    return (255, 255, 255) if 1.05 / light > light / 0.05 else (0, 0, 0)


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Load a font by file name: the one inside matplotlib, or one of the system's; None if there is no such font."""
    matplotlib = importlib.util.find_spec("matplotlib")
    inside = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" / name if matplotlib and matplotlib.origin else None
    try:
        return ImageFont.truetype(str(inside) if inside and inside.is_file() else name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, character: str) -> bool:
    """Whether a font is there and has a glyph of its own for a character."""
    font = _font(name, 20)
    return font is not None and bytes(font.getmask(character)) != bytes(font.getmask(_NO_SUCH_CHARACTER))


def find_font(text: str, size: int, file: str = "") -> ImageFont.FreeTypeFont:
    """Choose the first known font that has every character of a text, else the plain one (it draws boxes for them).

    Args:
        text: what to write.
        size: in pixels.
        file: a font that is used instead if this file exists.

    Raises:
        FileNotFoundError: not even DejaVu Sans is there, so matplotlib is not installed properly.
    """
    if file and Path(file).is_file():
        return ImageFont.truetype(file, size)
    characters = {c for c in text if not c.isspace()} or {" "}
    font = _font(next((name for name in _FONTS if all(_has(name, c) for c in characters)), _FONTS[0]), size)
    if font is None:
        raise FileNotFoundError(f"font {_FONTS[0]} is missing; it comes with matplotlib: pip install matplotlib")
    return font


@lru_cache(maxsize=1024)
def shorten(text: str, width: float, size: int, file: str = "") -> str:
    """Cut a text to a width in pixels at a font size, with an ellipsis at the end if something was cut."""
    font = find_font(text, size, file)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache(maxsize=1024)
def _tag(text: str, size: int, file: str = "") -> NDArray:
    """Opacity of a line of text with its margins, (h, w) 0 to 1; every text of one size and font has the same h."""
    font = find_font(text, size, file)
    ascent, descent = font.getmetrics()
    margin = max(size // 4, 2)
    tag = Image.new("L", (round(font.getlength(text)) + 2 * margin, ascent + descent))
    ImageDraw.Draw(tag).text((margin, 0), text, fill=255, font=font)
    return np.asarray(tag, np.float32) / 255


def draw_detections(
    image: NDArray,
    detections: Tensor,
    names: Mapping[int, str],
    line_width: int | None = None,
    hide_labels: bool = False,
    hide_conf: bool = False,
    bgr: bool = True,
    ids: Sequence[int] | None = None,
) -> NDArray:
    """Return a copy of an image with its detections, the most confident on top.

    Args:
        image: (H, W, 3) uint8.
        detections: (D, 6) `[xyxy_img, confidence, class]`, best first.
        names: class names by index; a class that has none is called by its index.
        line_width: in pixels; None follows the size of the image.
        hide_labels: draw boxes only.
        hide_conf: write the class only.
        bgr: the image is BGR, else RGB.
        ids: identity of each, negative for none; it follows the class as `#7`.
    """
    annotator = Annotator(image.copy(), line_width, bgr=bgr)
    numbers = [-1] * len(detections) if ids is None else ids
    for (*box, conf, cls), number in reversed(list(zip(detections.tolist(), numbers, strict=True))):
        name = names.get(int(cls), str(int(cls))) + (f" #{number}" if number >= 0 else "")
        label = "" if hide_labels else name if hide_conf else f"{name} {conf:.2f}"
        annotator.box_label(box, label, colors(int(cls), bgr))
    return annotator.result()


def write_image(file: str | Path, image: NDArray) -> None:
    """Write an image; its path may contain any characters, and the suffix selects the format. Creates the folder.

    Args:
        file: target.
        image: (H, W, 3) BGR uint8.

    Raises:
        ValueError: the format does not take an image of this size, or OpenCV does not write it.
        OSError: the file cannot be written; names it.
    """
    file = Path(file)
    try:
        encoded, data = cv2.imencode(file.suffix, image, JPEG if file.suffix.lower() in (".jpg", ".jpeg") else ())
    except cv2.error:
        encoded = False
    if not encoded:
        height, width = image.shape[:2]
        raise ValueError(f"{file}: an image of {width} x {height} pixels cannot be written as {file.suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, data.tobytes())


def crop_box(
    image: NDArray, box: ArrayLike | Tensor, gain: float = CROP_GAIN, pad: float = CROP_PAD, square: bool = False
) -> NDArray:
    """Copy what a box shows and a margin, in whole pixels, within the image.

    Args:
        image: (H, W, 3), any channel order.
        box: (4,) `xyxy_img`, x1 <= x2 and y1 <= y2.
        gain: the crop's sides are this many times those of the box,
        pad: and so many pixels more.
        square: first lengthen the shorter side of the box to the longer one.

    Returns:
        (h, w, 3), at least one pixel.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    w, h = x2 - x1, y2 - y1
    if square:
        w = h = max(w, h)
    half_w, half_h = (w * gain + pad) / 2, (h * gain + pad) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    left, right = (min(max(int(edge), 0), width) for edge in (x - half_w, x + half_w))
    top, bottom = (min(max(int(edge), 0), height) for edge in (y - half_h, y + half_h))
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)].copy()


class Annotator:
    """Draws on an image.

    Args:
        im: image, (H, W, 3) uint8, or a PIL image. Colours are taken in its channel order. An array is changed itself
            if it is contiguous and writable, else a copy is.
        line_width: width of box lines in pixels; by default 0.3 % of the mean side, 2 or more.
        font_size: size of letters in pixels; by default it follows the line width.
        font: font file; where there is none of that name, one is found that has the characters.
        pil: keep the image as a PIL image, so that `draw` can be used.
        example: text that chooses `font` of a PIL image.
        bgr: whether the image is BGR; the contrast of letters needs to know.

    Attributes:
        im: the image as it is now: an array, or a PIL image if `pil` or given as one.
        lw: line width in pixels.
        draw: `ImageDraw` of a PIL image.
        font: font of a PIL image.

    Raises:
        ValueError: im is not (H, W, 3) uint8.
    """

    def __init__(
        self,
        im: NDArray | Image.Image,
        line_width: int | None = None,
        font_size: int | None = None,
        font: str = "Arial.ttf",
        pil: bool = False,
        example: str = "abc",
        *,
        bgr: bool = True,
    ) -> None:
        array = np.asarray(im)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"an image to draw on is (H, W, 3) uint8, got {array.shape} {array.dtype}")
        self.lw = line_width or max(round(sum(array.shape[:2]) / 2 * 0.003), 2)
        self.font_size = font_size or 5 * self.lw + 2
        self.bgr = bgr
        self.pil = pil or isinstance(im, Image.Image)
        self._font_file = str(font)
        if self.pil:
            self.im = im if isinstance(im, Image.Image) else Image.fromarray(array)
            self.draw = ImageDraw.Draw(self.im)
            self.font = find_font(example, self.font_size, self._font_file)
        else:
            self.im = np.require(array, requirements=("C", "W"))

    @contextmanager
    def _pixels(self) -> Iterator[NDArray]:
        """Give the image as an array to draw on."""
        array = np.array(self.im) if self.pil else self.im
        yield array
        if self.pil:
            self.im.paste(Image.fromarray(array))

    def box_label(
        self, box: ArrayLike, label: str | None = "", color: Color = (128, 128, 128), txt_color: Color | None = None
    ) -> None:
        """Draw a box and its label.

        The label is above the box, or inside it where the image ends; it is moved left and shortened with an
        ellipsis where it would leave the image.

        Args:
            box: xyxy in pixels of the image; parts outside are not drawn.
            label: drawn in one line, `printable`; "" or None for none.
            color: box and label background, in the channel order of the image.
            txt_color: of the letters; by default black or white, whichever is easier to read on `color`.
        """
        x1, y1, x2, y2 = (int(round(float(v))) for v in box)
        with self._pixels() as im:
            cv2.rectangle(im, (x1, y1), (x2, y2), color, self.lw)
            if label:
                half = self.lw // 2
                self._draw_tag(im, label, x1 - half, y1 - half, color, txt_color, above=True)

    def caption(self, xy: tuple[float, float], text: str, color: Color = (64, 64, 64)) -> None:
        """Draw a line of text on a filled background whose top left corner is xy, inside the image."""
        with self._pixels() as im:
            self._draw_tag(im, text, round(xy[0]), round(xy[1]), color, None, above=False)

    def text(
        self,
        xy: Sequence[float],
        text: str,
        txt_color: Color = (255, 255, 255),
        anchor: Literal["top", "bottom"] = "top",
    ) -> None:
        """Draw a line of text without a background; xy is its left upper corner, or left lower one."""
        with self._pixels() as im:
            self._draw_tag(im, text, round(xy[0]), round(xy[1]), None, txt_color, above=anchor == "bottom")

    def rectangle(self, xy: ArrayLike, fill: Color | None = None, outline: Color | None = None, width: int = 1) -> None:
        """Draw a rectangle.

        Args:
            xy: its corners x1, y1, x2, y2, or ((x1, y1), (x2, y2)).
            fill: colour of its area.
            outline: colour of its lines.
            width: of its lines in pixels.
        """
        x1, y1, x2, y2 = np.rint(np.asarray(xy, float)).astype(int).ravel().tolist()
        with self._pixels() as im:
            for color, thickness in ((fill, cv2.FILLED), (outline, width)):
                if color is not None:
                    cv2.rectangle(im, (x1, y1), (x2, y2), color, thickness)

    def result(self) -> NDArray:
        """The annotated image, (H, W, 3) uint8."""
        return np.asarray(self.im)

    def _draw_tag(
        self, im: NDArray, text: str, x: int, y: int, color: Color | None, letters: Color | None, above: bool
    ) -> None:
        """Draw text, moved into the image, so that it ends (`above`) or starts at row y; without `color` no background.

        The letters are black or white where their colour is None.
        """
        height, width = im.shape[:2]
        text = shorten(printable(text), width - 2 * max(self.font_size // 4, 2) - 1, self.font_size, self._font_file)
        alpha = _tag(text, self.font_size, self._font_file)[:height, :width, None]  # (h, w, 1)
        h, w = alpha.shape[:2]
        if above and y >= h:
            y -= h
        x, y = min(max(x, 0), width - w), min(max(y, 0), height - h)
        place = im[y : y + h, x : x + w]
        background = np.asarray(place if color is None else color, np.float32)
        if letters is None:
            r, g, b = color or (0, 0, 0)
            letters = text_color((b, g, r) if self.bgr else (r, g, b))
        place[:] = np.rint(background + (np.asarray(letters, np.float32) - background) * alpha)


def class_names(names: Names, classes: ArrayLike, limit: int = 20) -> list[str]:
    """Names of class indices, `printable` and shortened to `limit` letters; the index itself where there is no name."""
    known = dict(names) if isinstance(names, Mapping) else dict(enumerate(names or ()))
    found = [printable(str(known.get(int(c), int(c)))) for c in np.asarray(classes).ravel()]
    return [name if len(name) <= limit else name[: limit - 1] + "…" for name in found]


def _to_numpy(x: ArrayLike | Tensor) -> NDArray:
    """Array of a tensor of any device and precision, or of anything array-like."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return x.float().numpy() if x.is_floating_point() else x.numpy()
    return np.asarray(x)


def output_to_target(output: Sequence[Tensor], max_det: int = 300, *, shape: tuple[int, int] | None = None) -> NDArray:
    """Turn NMS output into the rows that `plot_images` draws.

    Args:
        output: per image (D, 6) `[xyxy_net, confidence, class]`, best first.
        max_det: rows taken per image.
        shape: height and width of the network input in pixels, for boxes in fractions of it.

    Returns:
        (T, 7) float32 `[image in batch, class, xywh_net, confidence]`; with `shape` xywhn.
    """
    height, width = shape or (1, 1)
    rows = [np.zeros((0, 7), np.float32)]
    for i, detection in enumerate(output):
        d = _to_numpy(detection).reshape(-1, 6)[:max_det].astype(np.float32)
        whwh = np.array([width, height] * 2, np.float32)
        xywhn = np.concatenate([(d[:, :2] + d[:, 2:4]) / 2, d[:, 2:4] - d[:, :2]], axis=1) / whwh
        rows.append(np.concatenate([np.full((len(d), 1), i), d[:, 5:6], xywhn, d[:, 4:5]], axis=1, dtype=np.float32))
    return np.concatenate(rows)


def _draw_targets(tile: Annotator, targets: NDArray, names: Names, height: int, width: int, conf_thres: float) -> None:
    """Draw rows `[class, xywhn]` or `[class, xywhn, confidence]` of an image of this size, the most confident last."""
    if targets.shape[1] > 5:
        targets = targets[targets[:, 5] > conf_thres]
        targets = targets[np.argsort(targets[:, 5], kind="stable")]
    texts = class_names(names, targets[:, 0])
    for (cls, x, y, w, h, *conf), text in zip(targets, texts, strict=True):
        box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * [width, height, width, height]
        tile.box_label(box, f"{text} {conf[0]:.2f}" if conf else text, colors(int(cls), bgr=True))


def plot_images(
    images: ArrayLike | Tensor,
    targets: ArrayLike | Tensor,
    paths: Sequence[str | Path] | None = None,
    fname: str | Path = "images.jpg",
    names: Names = None,
    max_size: int = 1920,
    max_subplots: int = 16,
    *,
    conf_thres: float = CONF_THRES,
    title: str = "",
) -> None:
    """Save one image of a batch in tiles, with boxes, class names and the first 40 letters of the file names.

    Args:
        images: (B, 3, H, W) RGB, uint8 or floating point 0 to 1, or 0 to 255.
        targets: (T, 6) `[image in batch, class, xywhn]`, or (T, 7) with a confidence at the end: then class and
            confidence are written, and rows up to `conf_thres` are left out. Boxes beyond 1.01 are taken for pixels.
        paths: file of each image; None writes no file names.
        fname: image file to write; the suffix chooses the format.
        names: class names by index.
        max_size: longest side of the whole image in pixels; larger batches are scaled down, none is scaled up.
        max_subplots: most tiles.
        conf_thres: see `targets`.
        title: written above the tiles; "" for none.

    Raises:
        ValueError: images or targets do not have the shape above.
    """
    images, targets = _to_numpy(images), _to_numpy(targets)
    targets = targets if targets.size else np.zeros((0, 6), np.float32)
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images to plot are (B, 3, H, W) with B of 1 or more, got {images.shape}")
    if targets.ndim != 2 or targets.shape[1] not in (6, 7):
        raise ValueError(f"targets to plot are (T, 6) or (T, 7), got {targets.shape}")
    n, (h, w) = min(len(images), max_subplots), images.shape[2:]
    if targets[:, 2:6].max(initial=0) > 1.01:
        targets = targets.astype(np.float32) / np.array([1, 1, w, h, w, h, 1][: targets.shape[1]], np.float32)
    if images.dtype != np.uint8 and images.max() <= 1.5:  # resampling may leave the range by a little
        images = images[:n] * 255
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    scale = min(1.0, max_size / (columns * w), max_size / (rows * h))
    h, w = max(int(h * scale), 1), max(int(w * scale), 1)
    gap = 2 if n > 1 else 0  # white pixels that close each tile at its right and lower side
    mosaic = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for i in range(n):
        image = images[i] if images.dtype == np.uint8 else images[i].round().clip(0, 255).astype(np.uint8)
        image = cv2.resize(cv2.merge([*image[::-1]]), (w, h), interpolation=cv2.INTER_AREA)  # (h, w, 3), BGR
        tile = Annotator(image[: h - gap, : w - gap], line_width=2, font_size=max(min(h, w) // 36, 11))
        _draw_targets(tile, targets[targets[:, 0] == i, 1:], names, h, w, conf_thres)
        if paths is not None:
            tile.caption((0, h), Path(paths[i]).name[:40])
        y, x = i // columns * h, i % columns * w
        mosaic[y : y + h - gap, x : x + w - gap] = tile.result()
    write_image(fname, np.concatenate((_title(title, columns * w), mosaic)) if title else mosaic)


def _title(text: str, width: int) -> NDArray:
    """Return a white strip (H, width, 3) with a line of text, in letters that fit."""
    size = min(18, max(int(1.7 * width / len(text)), 6))
    strip = Annotator(np.full((size + 12, width, 3), 255, np.uint8), font_size=size)
    strip.text((4, 4), text, (0, 0, 0))
    return strip.result()
