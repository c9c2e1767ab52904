"""Letterbox and training augmentations: draw_x(rng) finds the random numbers, a second function applies them.

Conventions of this file:
    im: uint8, (H, W, 3), BGR. Mosaics and warped images have a fourth channel that means nothing: OpenCV warps four
        channels three times as fast as three, to the same pixels. Only `lay_images` changes what it is given.
    labels: float32, (M, 5) `[class, x1, y1, x2, y2]` in pixels of `im`; (0, 5) without objects. Flips alone take xywhn.
    segments: one polygon (P, 2) in pixels per label, (0, 2) for a label that was given as a box; or an empty list
        when no label of the image has a polygon.
    rng: a NumPy Generator. Nothing here reads global random state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.boxes import box_ioa, xywhn2xyxy

FILL = 114  # grey of everything that no image covers
SEGMENT_POINTS = 1000  # points to which a polygon is resampled before it is warped
HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
MINUS_HALF = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


class Tile(NamedTuple):
    """An image and what is known of it: `im`, `labels` and `segments` as in the head of this file."""

    im: np.ndarray
    labels: np.ndarray
    segments: list[np.ndarray]


# Letterbox ------------------------------------------------------------------------------------------------------------
def letterbox(
    im: np.ndarray,
    new_shape: int | tuple[int, int] = (640, 640),
    color: tuple[int, int, int] = (FILL, FILL, FILL),
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize an image into a frame, keeping its aspect ratio, and pad the rest.

    Args:
        im: uint8, (H, W, C).
        new_shape: frame (height, width) in pixels; one number for a square.
        color: of the padding, in the channel order of `im`.
        auto: pad only up to the next multiple of `stride` instead of the whole frame.
        scaleFill: stretch to the frame without padding; the aspect ratio is lost.
        scaleup: allow enlarging; without it small images are padded only.
        stride: used by `auto`.

    Returns:
        The image (`im` itself when nothing had to be done), the resize ratios (height, width), and the padding
        (dw, dh) of one side in pixels, which may end in .5. The whole pixels put left and on top are
        round(dw - 0.1) and round(dh - 0.1); an odd pixel goes right or below.

    Raises:
        ValueError: a side of the frame is smaller than 1.
    """
    height, width = im.shape[:2]
    new_h, new_w = (new_shape, new_shape) if isinstance(new_shape, int) else new_shape
    if min(new_h, new_w) < 1:
        raise ValueError(f"letterbox: new_shape {new_shape} must be at least 1 pixel high and wide")
    r = min(new_h / height, new_w / width)
    if not scaleup:
        r = min(r, 1.0)
    ratio = (r, r)
    inner_w, inner_h = max(round(width * r), 1), max(round(height * r), 1)
    dw, dh = new_w - inner_w, new_h - inner_h
    if scaleFill:
        inner_w, inner_h, dw, dh = new_w, new_h, 0, 0
        ratio = (new_h / height, new_w / width)
    elif auto:
        dw, dh = dw % stride, dh % stride
    pad = (dw / 2, dh / 2)
    if (inner_w, inner_h) != (width, height):
        im = cv2.resize(im, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    if dw or dh:
        left, top = round(pad[0] - 0.1), round(pad[1] - 0.1)
        im = cv2.copyMakeBorder(im, top, dh - top, left, dw - left, cv2.BORDER_CONSTANT, value=color)
    return im, ratio, pad


# Random perspective ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Perspective:
    """One draw of the geometric augmentation. The defaults change nothing.

    Attributes:
        px: horizontal perspective, 1 / pixel.
        py: vertical perspective, 1 / pixel.
        angle: rotation in degrees, counter-clockwise as seen on screen.
        scale: zoom; above 1 enlarges.
        shear_x: horizontal shear in degrees.
        shear_y: vertical shear in degrees.
        tx: where the centre of the input lands, as a fraction of the output width.
        ty: the same for the height.
    """

    px: float = 0.0
    py: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    tx: float = 0.5
    ty: float = 0.5


def draw_perspective(
    rng: np.random.Generator,
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    perspective: float = 0.0,
) -> Perspective:
    """Draw every member of a `Perspective` uniformly around its neutral value, in the order of its attributes.

    Args:
        rng: source of the eight numbers.
        degrees: largest rotation, degrees.
        translate: largest shift, fraction of the output side.
        scale: largest change of the zoom: it lies in 1 - scale .. 1 + scale.
        shear: largest shear, degrees.
        perspective: largest perspective, 1 / pixel; useful up to 0.001.
    """
    half = np.array([perspective, perspective, degrees, scale, shear, shear, translate, translate])
    centre = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.5])
    return Perspective(*(centre + half * rng.uniform(-1.0, 1.0, 8)).tolist())


def perspective_matrix(p: Perspective, shape_in: tuple[int, int], shape_out: tuple[int, int]) -> np.ndarray:
    """Compose a draw into one homography: move centre to origin, perspective, rotate and zoom, shear, move to output.

    Args:
        p: the draw.
        shape_in: (height, width) of the input.
        shape_out: (height, width) of the output.

    Returns:
        (3, 3) float64 that maps column vectors (x, y, 1) of input pixels to output pixels.
    """
    centre = np.array([[1, 0, -shape_in[1] / 2], [0, 1, -shape_in[0] / 2], [0, 0, 1]])
    depth = np.array([[1, 0, 0], [0, 1, 0], [p.px, p.py, 1]])
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0.0, 0.0), p.angle, p.scale)
    tan_x, tan_y = math.tan(math.radians(p.shear_x)), math.tan(math.radians(p.shear_y))
    shear = np.array([[1, tan_x, 0], [tan_y, 1, 0], [0, 0, 1]])
    shift = np.array([[1, 0, p.tx * shape_out[1]], [0, 1, p.ty * shape_out[0]], [0, 0, 1]])
    return shift @ shear @ rotation @ depth @ centre


def apply_perspective(
    im: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[np.ndarray],
    matrix: np.ndarray,
    shape_out: tuple[int, int],
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Warp an image and its labels, and drop the labels of which too little is left (`box_candidates`).

    Args:
        im: image, also one of four channels.
        labels: boxes; a label with a polygon gets the box around the part of the polygon inside the output, any other
            one the box around its four warped corners, clipped.
        segments: polygons.
        matrix: (3, 3) from `perspective_matrix`.
        shape_out: (height, width) of the output.
        scale: zoom contained in `matrix`; boxes are compared with their old size times this zoom.

    Returns:
        The image (`im` itself if `matrix` is the identity and the shape stays, else one of four channels) and the
        labels that remain, (K, 5).
    """
    height, width = shape_out
    if im.shape[:2] != (height, width) or not np.array_equal(matrix, np.eye(3)):
        im = im if im.shape[2] == 4 else cv2.cvtColor(im, cv2.COLOR_BGR2BGRA)
        # OpenCV counts from the centre of the first pixel, boxes from its corner: half a pixel apart.
        m = MINUS_HALF @ matrix @ HALF
        if matrix[2, :2].any():
            im = cv2.warpPerspective(im, m, (width, height), flags=cv2.INTER_LINEAR, borderValue=(FILL,) * 4)
        else:
            im = cv2.warpAffine(im, m[:2], (width, height), flags=cv2.INTER_LINEAR, borderValue=(FILL,) * 4)
    if not len(labels):
        return im, labels.copy()

    old = labels[:, 1:5].astype(np.float64)
    new = warp_boxes(old, matrix).clip(0, (width, height, width, height))
    area_thr = np.full(len(labels), 0.10)
    for i, segment in enumerate(segments):
        if len(segment):
            new[i] = box_inside(warp_points(resample_polygon(segment), matrix), width, height)
            area_thr[i] = 0.01
    keep = box_candidates(old * scale, new, area_thr=area_thr)
    keep &= (old[:, 2:] > old[:, :2]).all(1)  # what a mosaic cut off: turned, a line at its edge would get an area
    return im, np.concatenate((labels[keep, :1], new[keep].astype(np.float32)), 1)


def visible_part(matrix: np.ndarray, shape_out: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """Find the part x1, y1, x2, y2 of a square input, whole pixels, that a warp looks at; all of it if it turns."""
    (sx, b, tx), (d, sy, ty), (g, h, _) = matrix.tolist()
    if b or d or g or h or min(sx, sy) <= 0:
        return 0, 0, side, side
    ends = (-tx / sx, -ty / sy, (shape_out[1] - tx) / sx, (shape_out[0] - ty) / sy)
    x1, y1, x2, y2 = (min(max(round(v) + (2, -2)[k < 2], 0), side) for k, v in enumerate(ends))  # and neighbours
    return x1, y1, x2, y2


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map points (P, 2) by a homography (3, 3); points on or behind the horizon become NaN."""
    homogeneous = np.ones((len(points), 3))
    homogeneous[:, :2] = points
    mapped = homogeneous @ matrix.T  # (P, 3)
    if matrix[2].tolist() == [0, 0, 1]:
        return mapped[:, :2]
    depth = mapped[:, 2:]
    return mapped[:, :2] / np.where(depth > 1e-6, depth, np.nan)


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the boxes around the warped corners of boxes (M, 4) xyxy; zeros if a corner is behind the horizon."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)  # (M * 4, 2)
    corners = warp_points(corners, matrix).reshape(-1, 4, 2)
    warped = np.concatenate((corners.min(1), corners.max(1)), 1)
    warped[np.isnan(warped)] = 0
    return warped


def resample_polygon(points: np.ndarray, n: int = SEGMENT_POINTS) -> np.ndarray:
    """Close a polygon (P, 2) and put `n` points on its outline, evenly by vertex number; (n, 2) float64."""
    closed = np.concatenate((points, points[:1]), 0)
    at = np.linspace(0, len(closed) - 1, n)
    steps = np.arange(len(closed))
    return np.stack([np.interp(at, steps, closed[:, k]) for k in (0, 1)], 1)


def box_inside(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the box (4,) around those points (P, 2) that lie inside the image; zeros if none does."""
    x, y = points.T
    inside = points[(x >= 0) & (y >= 0) & (x <= width) & (y <= height)]
    return np.concatenate((inside.min(0), inside.max(0))) if len(inside) else np.zeros(4)


def box_candidates(
    old: np.ndarray,
    new: np.ndarray,
    wh_thr: float = 2.0,
    ar_thr: float = 100.0,
    area_thr: float | np.ndarray = 0.1,
    eps: float = 1e-16,
) -> np.ndarray:
    """Tell which boxes survived an augmentation.

    Args:
        old: (M, 4) xyxy before, already multiplied by the zoom.
        new: (M, 4) xyxy after, clipped to the output.
        wh_thr: both new sides must be longer than this, pixels.
        ar_thr: the longer new side must be less than this many times the shorter one.
        area_thr: the new area must be more than this fraction of the old one; one number or (M,).
        eps: keeps the divisions finite.

    Returns:
        (M,) bool.
    """
    w0, h0 = old[:, 2] - old[:, 0], old[:, 3] - old[:, 1]
    w, h = new[:, 2] - new[:, 0], new[:, 3] - new[:, 1]
    aspect = np.maximum(w / (h + eps), h / (w + eps))
    return (w > wh_thr) & (h > wh_thr) & (w * h / (w0 * h0 + eps) > area_thr) & (aspect < ar_thr)


# Mosaic ---------------------------------------------------------------------------------------------------------------
def draw_mosaic(rng: np.random.Generator, index: int, n: int, size: int) -> tuple[list[int], tuple[int, int]]:
    """Draw the four images of a mosaic and the point where they meet.

    Args:
        rng: source.
        index: image that must be part of it.
        n: number of images to draw the other three from, with replacement.
        size: side of a tile in pixels.

    Returns:
        Four image numbers in random order, and (xc, yc), each in size / 2 .. 3 * size / 2, whole pixels.
    """
    yc, xc = (int(v) for v in rng.uniform(size / 2, 3 * size / 2, 2))
    indices = [index, *rng.integers(0, n, 3).tolist()]
    return [indices[k] for k in rng.permutation(4)], (xc, yc)


def mosaic4(sizes: Sequence[tuple[int, int]], centre: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """Arrange four images around a point of a canvas of twice the tile size.

        0 | 1      Tile 0 has its lower right corner at the centre, tile 1 its lower left one, and so on.
        --+--      What reaches over the canvas is cut off, what no tile covers is grey.
        2 | 3

    Args:
        sizes: (height, width) of four images, `size` or less.
        centre: (xc, yc) in canvas pixels.
        size: half the side of the canvas.

    Returns:
        Left upper corners (x, y) of the images on the canvas, for `lay_images`.
    """
    xc, yc = centre
    return [(xc if k % 2 else xc - w, yc if k > 1 else yc - h) for k, (h, w) in enumerate(sizes)]


def draw_mosaic9(rng: np.random.Generator, index: int, n: int, size: int) -> tuple[list[int], tuple[int, int]]:
    """Draw the nine images of a mosaic and the window that is cut out of it.

    Args:
        rng: source.
        index: image that must be part of it.
        n: number of images to draw the other eight from, with replacement.
        size: side of a tile in pixels.

    Returns:
        Nine image numbers in random order, and the left upper corner (x, y) of the window, each in 0 .. size.
    """
    y, x = (int(v) for v in rng.uniform(0, size, 2))
    indices = [index, *rng.integers(0, n, 8).tolist()]
    return [indices[k] for k in rng.permutation(9)], (x, y)


def mosaic9(sizes: Sequence[tuple[int, int]], window: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """Arrange eight images around one, clockwise, behind a window of twice the tile size.

        8 1 2      Tile 0 has its left upper corner at (size, size) of a field of 3 x 3 tiles. Tile 1 stands on its top,
        7 0 3      2 follows to the right, 3 stands at its right side, and so on; smaller tiles leave grey gaps, and a
        6 5 4      later tile covers an earlier one.

    Args:
        sizes: (height, width) of nine images, `size` or less.
        window: left upper corner (x, y) of the window in the field, each in 0 .. size.
        size: a third of the side of the field, half of that of the window.

    Returns:
        Left upper corners (x, y) of the images in the window, for `lay_images`.
    """
    (h0, w0), s, corners = sizes[0], size, []
    for k, (h, w) in enumerate(sizes):
        hp, wp = sizes[k - 1]
        x = (s, s, s + wp, s + w0, s + w0, s + w0 - w, s + w0 - wp - w, s - w, s - w)[k]
        y = (s, s - h, s - h, s, s + hp, s + h0, s + h0, s + h0 - h, s + h0 - hp - h)[k]
        corners.append((x - window[0], y - window[1]))
    return corners


def overlap(
    corner: tuple[int, int], size: tuple[int, int], part: tuple[int, int, int, int]
) -> tuple[int, int, int, int] | None:
    """Return x1, y1, x2, y2 of what an image of size (height, width) at a corner (x, y) covers of a part; or None."""
    (x, y), (h, w) = corner, size
    x1, y1, x2, y2 = max(x, part[0]), max(y, part[1]), min(x + w, part[2]), min(y + h, part[3])
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def lay_images(
    images: Sequence[np.ndarray | None],
    corners: Sequence[tuple[int, int]],
    part: tuple[int, int, int, int],
    canvas: np.ndarray,
) -> None:
    """Lay images onto a canvas that this paints grey first; a later one covers earlier ones.

    Args:
        images: what is laid; None is left out.
        corners: (x, y) of the left upper corner of each.
        part: x1, y1, x2, y2 of the canvas that is painted, the rest stays as it is.
        canvas: uint8, (H, W, 4); it is changed.
    """
    canvas[part[1] : part[3], part[0] : part[2]] = FILL
    for im, (x, y) in zip(images, corners, strict=True):
        if im is not None and (covered := overlap((x, y), im.shape[:2], part)):
            x1, y1, x2, y2 = covered
            cv2.cvtColor(im[y1 - y : y2 - y, x1 - x : x2 - x], cv2.COLOR_BGR2BGRA, dst=canvas[y1:y2, x1:x2])


def lay_labels(
    labels: Sequence[np.ndarray],
    segments: Sequence[list[np.ndarray]],
    sizes: Sequence[tuple[int, int]],
    corners: Sequence[tuple[int, int]],
    side: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Move the labels of images to where `lay_images` lays these on a square.

    Args:
        labels: `[class, xywhn]` of each image, (M, 5).
        segments: polygons of each, xyn.
        sizes: (height, width) of the images.
        corners: (x, y) of the left upper corner of each.
        side: of the square.

    Returns:
        All labels in pixels, clipped to the square (some may have no area left), and all polygons, clipped.
    """
    frames = np.array([(w, h, x, y) for (h, w), (x, y) in zip(sizes, corners, strict=True)], np.float32)
    frame = frames.repeat([len(x) for x in labels], 0)  # (M, 4)
    laid = np.concatenate(labels, 0)
    laid[:, 1:5] = xywhn2xyxy(laid[:, 1:5], *(frame[:, k : k + 1] for k in range(4))).clip(0, side)
    if not any(segments):
        return laid, []
    moved = []
    for frame, own, polygons in zip(frames, labels, segments, strict=True):
        polygons = polygons or [np.zeros((0, 2), np.float32)] * len(own)
        moved += [(polygon * frame[:2] + frame[2:]).clip(0, side) for polygon in polygons]
    return laid, moved


# Copy-paste and mixup -------------------------------------------------------------------------------------------------
def draw_copy_paste(rng: np.random.Generator, segments: Sequence[np.ndarray], p: float) -> list[int]:
    """Draw which labels to paste: the fraction `p` of those with a polygon, without replacement."""
    usable = [i for i, segment in enumerate(segments) if len(segment)]
    return rng.choice(usable, round(p * len(usable)), replace=False).tolist() if usable else []


def copy_paste(tile: Tile, chosen: Sequence[int]) -> Tile:
    """Paste mirrored copies of objects into their own image (arXiv:2012.07177, the simple form).

    An object goes to its left-right mirrored place unless it would hide 30 % or more of any box.

    Args:
        tile: image, labels and polygons.
        chosen: numbers of the labels to copy; each has a polygon.

    Returns:
        The image with the copies, and the labels and polygons with theirs appended.
    """
    im, labels, segments = tile
    height, width = im.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    segments = list(segments)
    for j in chosen:
        x1, y1, x2, y2 = labels[j, 1:5]
        box = np.array([width - x2, y1, width - x1, y2], np.float32)
        if (box_ioa(box, labels[:, 1:5]) < 0.30).all():
            labels = np.concatenate((labels, [[labels[j, 0], *box]]), 0, dtype=np.float32)
            mirrored = np.stack((width - segments[j][:, 0], segments[j][:, 1]), 1)
            segments.append(mirrored.astype(np.float32))
            # Pixel k covers k .. k + 1, so the outline in pixel numbers lies half a pixel back.
            cv2.fillPoly(mask, [(mirrored - 0.5).round().astype(np.int32)], 1)
    if len(labels) > len(tile.labels):
        im = cv2.copyTo(cv2.flip(im, 1), mask, im.copy())
    return Tile(im, labels, segments)


def draw_mixup(rng: np.random.Generator) -> float:
    """Draw the share of the first image, Beta(32, 32): near one half (arXiv:1710.09412, with a narrower law)."""
    return float(rng.beta(32.0, 32.0))


def mixup(
    im: np.ndarray, labels: np.ndarray, im2: np.ndarray, labels2: np.ndarray, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Blend two images of one shape, `ratio * im + (1 - ratio) * im2` rounded down, and keep the labels of both."""
    blend = im.astype(np.float32) * ratio + im2.astype(np.float32) * (1.0 - ratio)
    return blend.astype(np.uint8), np.concatenate((labels, labels2), 0)


# Colour and flips -----------------------------------------------------------------------------------------------------
def draw_hsv(rng: np.random.Generator, h: float, s: float, v: float) -> np.ndarray:
    """Draw the gains (3,) of hue, saturation and value, each uniform in 1 - strength .. 1 + strength."""
    return 1.0 + rng.uniform(-1.0, 1.0, 3) * (h, s, v)


def hsv_table(gains: np.ndarray) -> np.ndarray:
    """Return the look-up table (256, 3) uint8 of hue (turned modulo 180), saturation and value (both clipped)."""
    scaled = np.arange(256)[:, None] * np.asarray(gains)  # (256, 3)
    return np.stack((scaled[:, 0] % 180, scaled[:, 1].clip(0, 255), scaled[:, 2].clip(0, 255)), 1).astype(np.uint8)


def apply_hsv(im: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiply hue, saturation and value of an image by `gains` (3,); gains of 1 return `im` itself, else (H, W, 3)."""
    if np.all(gains == 1.0):
        return im
    hsv = cv2.cvtColor(im, cv2.COLOR_BGR2HSV)
    planes = cv2.split(hsv)  # three tables for a plane each are faster than one for three channels
    for plane, table in zip(planes, hsv_table(gains).T, strict=True):
        cv2.LUT(plane, table, dst=plane)
    return cv2.cvtColor(cv2.merge(planes, hsv), cv2.COLOR_HSV2BGR)


class Filters(NamedTuple):
    """Filters of an image: sides of the windows of blur and median, grey or not, clip limit of CLAHE; 0 for none."""

    blur: int
    median: int
    grey: bool
    contrast: float


def draw_filters(rng: np.random.Generator, p: float) -> Filters:
    """Draw each of four filters with probability `p`: windows of 3, 5 or 7 pixels, and a clip limit of 1 .. 4."""
    blur, median, grey, contrast = rng.random(4) < p
    sides, limit = rng.choice((3, 5, 7), 2).tolist(), float(rng.uniform(1, 4))
    return Filters(blur * sides[0], median * sides[1], bool(grey), contrast * limit)


def apply_filters(im: np.ndarray, filters: Filters) -> np.ndarray:
    """Blur an image, make it grey, stretch its local contrast: (H, W, 3), or `im` itself where there is no filter."""
    if not any(filters):
        return im
    im = im[..., :3]
    if filters.blur:
        im = cv2.blur(im, (filters.blur, filters.blur))
    if filters.median:
        im = cv2.medianBlur(im, filters.median)
    if filters.grey:
        im = cv2.cvtColor(cv2.cvtColor(im, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if filters.contrast:  # of the lightness alone, so that colours stay
        lightness, *colour = cv2.split(cv2.cvtColor(im, cv2.COLOR_BGR2LAB))
        lightness = cv2.createCLAHE(filters.contrast, (8, 8)).apply(lightness)
        im = cv2.cvtColor(cv2.merge((lightness, *colour)), cv2.COLOR_LAB2BGR)
    return im


def draw_flips(rng: np.random.Generator, flipud: float, fliplr: float) -> tuple[bool, bool]:
    """Draw whether to flip (up-down, left-right) with these probabilities."""
    up, left = rng.random(2)
    return bool(up < flipud), bool(left < fliplr)


def apply_flips(im: np.ndarray, labels: np.ndarray, flips: tuple[bool, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Mirror an image and its labels.

    Args:
        im: image.
        labels: (M, 5) `[class, xywhn]`, not pixels: 1 - x and 1 - y are their mirrored centres.
        flips: (up-down, left-right).

    Returns:
        Image and labels, the given ones themselves without a flip.
    """
    up, left = flips
    if not (up or left):
        return im, labels
    labels = labels.copy()
    if left:
        labels[:, 1] = 1 - labels[:, 1]
    if up:
        labels[:, 2] = 1 - labels[:, 2]
    return cv2.flip(im, -1 if up and left else 0 if up else 1), labels
