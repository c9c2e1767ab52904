"""Letterbox and training augmentations: draw_x(rng) finds the random numbers, a second function applies them.

Conventions of this file:
    im: uint8, or float32 of 0..255, (H, W, C); three channels are BGR. Mosaics and warped images of three channels have
        a fourth one that means nothing: OpenCV warps four three times as fast, to the same pixels. Only `augment_hsv`
        and `cutout` change what they get.
    labels: float32, (M, 5) `[class, x1, y1, x2, y2]` in pixels of `im`; (0, 5) without objects. Flips alone take xywhn.
    segments: one polygon (P, 2) in pixels per label, (0, 2) for a label that was given as a box; or an empty list
        when no label of the image has a polygon.
    rng: a NumPy Generator. Only the functions of the last section, which YOLOv5's scripts call without one, read the
        global state of `random`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.boxes import box_area, box_ioa, touching_pairs

HIDDEN = 0.30  # fraction of a box from which on a pasted object would hide it
FILL = 114  # grey of everything that no image covers
SEGMENT_POINTS = 1000  # points to which a polygon is resampled before it is warped
HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
RAMP = np.arange(256, dtype=np.uint8)
ROUND_DOWN = -0.4999  # added before rounding
MINUS_HALF = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


class Tile(NamedTuple):
    """An image and what is known of it: `im`, `labels` and `segments` as in the head of this file."""

    im: np.ndarray
    labels: np.ndarray
    segments: list[np.ndarray]


# Letterbox ------------------------------------------------------------------------------------------------------------
def letterbox(
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: tuple[int, int, int] = (FILL, FILL, FILL),
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize an image into a frame, keeping its aspect ratio, and pad the rest.

    Args:
        im: uint8 or float32, (H, W, C).
        new_shape: frame (height, width) in pixels; one number for a square.
        color: of the padding, in the channel order of `im`; of more than three channels the first one is for all.
        auto: pad only up to the next multiple of `stride` instead of the whole frame.
        scaleFill: stretch to the frame without padding, whatever `auto` is; the aspect ratio is lost.
        scaleup: allow enlarging; without it small images are padded only.
        stride: used by `auto`.

    Returns:
        The image (`im` itself when nothing had to be done), the resize ratios (width, height), and the padding
        (dw, dh) of one side in pixels, which may end in .5. The whole pixels put left and on top are
        round(dw - 0.1) and round(dh - 0.1); an odd pixel goes right or below.

    Raises:
        ValueError: a side of the frame is smaller than 1.
    """
    shape, (height, width) = im.shape, im.shape[:2]
    new_h, new_w = (new_shape, new_shape) if isinstance(new_shape, int | np.integer) else map(int, new_shape)
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
        ratio = (new_w / width, new_h / height)
    elif auto:
        dw, dh = dw % int(stride), dh % int(stride)
    pad = (dw / 2, dh / 2)
    if (inner_w, inner_h) != (width, height):
        im = cv2.resize(im, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    if dw or dh:
        left, top = round(pad[0] - 0.1), round(pad[1] - 0.1)
        fill = color if im.ndim < 3 or im.shape[2] < 4 else (color[0],) * 4
        im = cv2.copyMakeBorder(im, top, dh - top, left, dw - left, cv2.BORDER_CONSTANT, value=fill)
    return like(im, shape), ratio, pad


def resize(im: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """Resize an image (H, W, C) to (width, height): with bilinear interpolation if `smooth`, else by area averages."""
    if im.shape[2] > 4 and not smooth:  # OpenCV averages four channels at most
        parts = [resize(np.ascontiguousarray(im[..., i : i + 4]), size, smooth) for i in range(0, im.shape[2], 4)]
        return np.concatenate(parts, 2)
    return like(cv2.resize(im, size, interpolation=cv2.INTER_LINEAR if smooth else cv2.INTER_AREA), im.shape)


def like(im: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return an image with as many axes as `shape` has: OpenCV drops the axis of a single channel."""
    return im[..., None] if im.ndim < len(shape) else im


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
        scale: largest change of the zoom, which is in 1 - scale .. 1 + scale.
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
        im: image; one of three channels may have the fourth already.
        labels: boxes; a label with a polygon gets the box around the part of the polygon inside the output, any other
            one the box around its four warped corners, clipped.
        segments: polygons.
        matrix: (3, 3) from `perspective_matrix`.
        shape_out: (height, width) of the output.
        scale: zoom contained in `matrix`; boxes are compared with their old size times this zoom.

    Returns:
        The image (`im` itself if `matrix` is the identity and the shape stays, else one of three channels gets a
        fourth) and the labels that remain, (K, 5).
    """
    height, width = shape_out
    if im.shape[:2] != (height, width) or not np.array_equal(matrix, np.eye(3)):
        im = cv2.cvtColor(im, cv2.COLOR_BGR2BGRA) if im.shape[2] == 3 else im
        im = warp_image(im, matrix, shape_out)
    if not len(labels):
        return im, labels.copy()

    old = labels[:, 1:5].astype(np.float64)
    new = warp_boxes(old, matrix).clip(0, (width, height, width, height))
    area_thr = np.full(len(labels), 0.10)
    for i, segment in enumerate(segments):
        if len(segment):
            new[i] = box_inside(warp_points(resample_polygon(segment), matrix), width, height)
            area_thr[i] = 0.01
    keep = box_candidates(old.T * scale, new.T, area_thr=area_thr)
    keep &= (old[:, 2:] > old[:, :2]).all(1)  # what a mosaic cut off: turned, a line at its edge would get an area
    return im, np.concatenate((labels[keep, :1], new[keep].astype(np.float32)), 1)


def warp_image(im: np.ndarray, matrix: np.ndarray, shape_out: tuple[int, int]) -> np.ndarray:
    """Warp an image by a homography (3, 3) to (height, width); grey where nothing of it lands."""
    if im.shape[2] > 4:  # a colour of OpenCV, such as that of the border, has four channels
        parts = [
            warp_image(np.ascontiguousarray(im[..., i : i + 4]), matrix, shape_out) for i in range(0, im.shape[2], 4)
        ]
        return np.concatenate(parts, 2)
    size, fill = shape_out[::-1], (FILL,) * 4
    # OpenCV counts from the centre of the first pixel, boxes from its corner: half a pixel apart.
    m = MINUS_HALF @ matrix @ HALF
    if matrix[2, :2].any():
        warped = cv2.warpPerspective(im, m, size, flags=cv2.INTER_LINEAR, borderValue=fill)
    else:
        warped = cv2.warpAffine(im, m[:2], size, flags=cv2.INTER_LINEAR, borderValue=fill)
    return like(warped, im.shape)


def visible_part(
    matrix: np.ndarray, shape_out: tuple[int, int], shape_in: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Find the part x1, y1, x2, y2 of an input, whole pixels, that a warp looks at; all of it if it turns."""
    height, width = shape_in
    (sx, b, tx), (d, sy, ty), (g, h, _) = matrix.tolist()
    if b or d or g or h or min(sx, sy) <= 0:
        return 0, 0, width, height
    ends = (-tx / sx, -ty / sy, (shape_out[1] - tx) / sx, (shape_out[0] - ty) / sy)
    x1, y1, x2, y2 = (  # and neighbours
        min(max(round(v) + (2, -2)[k < 2], 0), (width, height)[k % 2]) for k, v in enumerate(ends)
    )
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
    box1: np.ndarray,
    box2: np.ndarray,
    wh_thr: float = 2.0,
    ar_thr: float = 100.0,
    area_thr: float | np.ndarray = 0.1,
    eps: float = 1e-16,
) -> np.ndarray:
    """Return which boxes survive an augmentation.

    Args:
        box1: (4, M) xyxy before, already multiplied by the zoom.
        box2: (4, M) xyxy after, clipped to the output.
        wh_thr: both new sides must be longer than this, pixels.
        ar_thr: the longer new side must be less than this many times the shorter one.
        area_thr: the new area must be more than this fraction of the old one; one number or (M,).
        eps: keeps the divisions finite.

    Returns:
        (M,) bool.
    """
    w0, h0 = box1[2] - box1[0], box1[3] - box1[1]
    w, h = box2[2] - box2[0], box2[3] - box2[1]
    aspect = np.maximum(w / (h + eps), h / (w + eps))
    return (w > wh_thr) & (h > wh_thr) & (w * h / (w0 * h0 + eps) > area_thr) & (aspect < ar_thr)


# Copy-paste and mixup -------------------------------------------------------------------------------------------------
def draw_copy_paste(rng: np.random.Generator, segments: Sequence[np.ndarray], p: float) -> list[int]:
    """Draw which labels to paste: the fraction `p` of those with a polygon, without replacement."""
    usable = [i for i, segment in enumerate(segments) if len(segment)]
    return rng.choice(usable, round(p * len(usable)), replace=False).tolist() if usable else []


def paste_copies(tile: Tile, chosen: Sequence[int]) -> Tile:
    """Paste mirrored copies of objects into their own image (arXiv:2012.07177, the simple form).

    An object goes to its left-right mirrored place unless it would hide too much of any box (`HIDDEN`).

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
    cls, x1, y1, x2, y2 = labels[np.array(chosen, int)].T
    copies = np.stack((cls, width - x2, y1, width - x1, y2), 1).astype(np.float32)  # (N, 5)
    hidden: list[set[int]] = [set() for _ in chosen]  # by each copy: of labels and, after them, copies
    every = np.concatenate((labels, copies))[:, 1:5]
    for i, j in touching_pairs(copies[:, 1:5], every):
        sides = np.minimum(copies[i, 3:5], every[j, 2:]) - np.maximum(copies[i, 1:3], every[j, :2])  # (P, 2)
        covered = sides.clip(0).prod(1) / (box_area(every[j]) + 1e-7)
        for k, other in zip(i[covered >= HIDDEN].tolist(), j[covered >= HIDDEN].tolist(), strict=True):
            hidden[k].add(other)
    there = set(range(len(labels)))
    for k, j in enumerate(chosen):
        if there.isdisjoint(hidden[k]):
            there.add(len(labels) + k)
            mirrored = np.stack((width - segments[j][:, 0], segments[j][:, 1]), 1)
            segments.append(mirrored.astype(np.float32))
            # Pixel k covers k .. k + 1, so the outline in pixel numbers lies half a pixel back.
            cv2.fillPoly(mask, [(mirrored - 0.5).round().astype(np.int32)], 1)
    pasted = [n - len(labels) for n in sorted(there) if n >= len(labels)]
    if pasted:
        labels = np.concatenate((labels, copies[pasted]), 0, dtype=np.float32)
        im = like(cv2.copyTo(cv2.flip(im, 1), mask, im.copy()), im.shape)
    return Tile(im, labels, segments)


def draw_mixup(rng: np.random.Generator) -> float:
    """Draw the fraction of the first image, Beta(32, 32): near one half (arXiv:1710.09412, with a narrower law)."""
    return float(rng.beta(32.0, 32.0))


def mixup(
    im: np.ndarray, labels: np.ndarray, im2: np.ndarray, labels2: np.ndarray, ratio: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Blend two images of one shape, `ratio * im + (1 - ratio) * im2` (uint8 rounded down), keep the labels of both.

    Without a ratio, `draw_mixup` draws it from `global_rng`.
    """
    ratio = draw_mixup(global_rng()) if ratio is None else ratio
    blend = im.astype(np.float32) * ratio + im2.astype(np.float32) * (1.0 - ratio)
    return blend.astype(np.result_type(im, im2), copy=False), np.concatenate((labels, labels2), 0)


# Colour and flips -----------------------------------------------------------------------------------------------------
def draw_hsv(rng: np.random.Generator, h: float, s: float, v: float) -> np.ndarray:
    """Draw the gains (3,) of hue, saturation and value, each uniform in 1 - strength .. 1 + strength."""
    return 1.0 + rng.uniform(-1.0, 1.0, 3) * (h, s, v)


def hsv_table(gains: np.ndarray) -> np.ndarray:
    """Return the look-up table (256, 3) uint8 of hue (turned modulo 180), saturation and value (both clipped)."""
    scaled = np.arange(256)[:, None] * np.asarray(gains)  # (256, 3)
    return np.stack((scaled[:, 0] % 180, scaled[:, 1].clip(0, 255), scaled[:, 2].clip(0, 255)), 1).astype(np.uint8)


def apply_hsv(im: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiply hue, saturation and value of an image by `gains` (3,); gains of 1 return `im` itself, else (H, W, 3).

    Args:
        im: BGR, uint8; for others see `apply_brightness`.
        gains: (3,).
    """
    if np.all(gains == 1.0):
        return im
    hsv = cv2.cvtColor(im, cv2.COLOR_BGR2HSV)
    planes = cv2.split(hsv)  # three tables for a plane each are faster than one for three channels
    for plane, values, gain, table in zip(planes, (180, 256, 256), gains, hsv_table(gains).T, strict=True):
        # OpenCV multiplies three times as fast as it looks up; mostly that gives the numbers of the table.
        if np.array_equal(cv2.convertScaleAbs(RAMP[:values], alpha=gain, beta=ROUND_DOWN), table[:values]):
            cv2.convertScaleAbs(plane, plane, gain, ROUND_DOWN)
        else:
            cv2.LUT(plane, table, dst=plane)
    return cv2.cvtColor(cv2.merge(planes, hsv), cv2.COLOR_HSV2BGR)


def apply_brightness(im: np.ndarray, gain: float) -> np.ndarray:
    """Multiply all channels of an image by a gain: what the gain of the value of `apply_hsv` is without colours."""
    scaled = im * np.float32(gain)
    return scaled.clip(0, 255, out=scaled).astype(im.dtype, copy=False)


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
    return like(cv2.flip(im, -1 if up and left else 0 if up else 1), im.shape), labels


# YOLOv5's forms, which draw their own random numbers ------------------------------------------------------------------
def global_rng() -> np.random.Generator:
    """Return a generator whose numbers follow from `random.seed`."""
    return np.random.default_rng(random.getrandbits(64))


def random_perspective(
    im: np.ndarray,
    targets: Any = (),
    segments: Sequence[np.ndarray] = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a perspective and apply it (`draw_perspective`, `apply_perspective`); `targets` are labels.

    `border` (y, x) in pixels is added on both sides of the output; -size / 2 cuts the middle out of a mosaic.
    """
    settings = {"degrees": degrees, "translate": translate, "scale": scale, "shear": shear, "perspective": perspective}
    draw, shape_out = (
        draw_perspective(global_rng(), **settings),
        (im.shape[0] + border[0] * 2, im.shape[1] + border[1] * 2),
    )
    labels = np.asarray(targets, np.float32).reshape(-1, 5)
    matrix = perspective_matrix(draw, im.shape[:2], shape_out)
    im, labels = apply_perspective(im, labels, segments, matrix, shape_out, draw.scale)
    return np.ascontiguousarray(im[..., :3]), labels


def augment_hsv(im: np.ndarray, hgain: float = 0.5, sgain: float = 0.5, vgain: float = 0.5) -> None:
    """Draw gains of hue, saturation and value, and apply them to the image in place (`draw_hsv`, `apply_hsv`)."""
    im[:] = apply_hsv(im, draw_hsv(global_rng(), hgain, sgain, vgain))


def copy_paste(
    im: np.ndarray, labels: np.ndarray, segments: Sequence[np.ndarray], p: float = 0.5
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Paste mirrored copies of the fraction `p` of the objects with a polygon (`draw_copy_paste`, `paste_copies`)."""
    return tuple(paste_copies(Tile(im, labels, list(segments)), draw_copy_paste(global_rng(), segments, p)))


def cutout(im: np.ndarray, labels: np.ndarray, p: float = 0.5) -> np.ndarray:
    """With probability `p`, paint a grey square of half the shorter side anywhere, in place (arXiv:1708.04552).

    Returns:
        The labels less than 60 % of whose box the square hides.
    """
    rng = global_rng()
    if rng.random() >= p:
        return labels
    height, width = im.shape[:2]
    half = min(height, width) / 4
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    x1, y1, x2, y2 = (round(max(v, 0)) for v in (x - half, y - half, min(x + half, width), min(y + half, height)))
    im[y1:y2, x1:x2] = FILL
    hidden = box_ioa(np.array([x1, y1, x2, y2], np.float32), labels[:, 1:5]) if len(labels) else np.zeros(0)
    return labels[hidden < 0.6]


class Albumentations:
    """The filters of YOLOv5 where the package albumentations is installed (`draw_filters`), each at 1 %.

    Args:
        size: of a crop that YOLOv5 has at probability 0; without effect there too.
    """

    def __init__(self, size: int = 640) -> None:
        self.size = size

    def __call__(self, im: np.ndarray, labels: np.ndarray, p: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Filter an image with probability `p`; labels stay."""
        rng = global_rng()
        return (apply_filters(im, draw_filters(rng, 0.01)) if rng.random() < p else im), labels


_CLASSIFICATION = (
    "CenterCrop LetterBox ToTensor classify_albumentations classify_transforms denormalize normalize".split()
)


def __getattr__(name: str) -> Any:
    """Say why a name of YOLOv5 is not here."""
    if name in _CLASSIFICATION:
        raise ImportError(f"only detection is here: {name} belongs to classification of YOLOv5")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
