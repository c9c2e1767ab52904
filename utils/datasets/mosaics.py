"""Mosaics of four and nine images: drawn, arranged and laid on a canvas. Conventions as in `augmentations`."""

import threading
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from utils.boxes import xywhn2xyxy

Size = tuple[int, int]  # height and width
_kept = threading.local()


def draw_mosaic(rng: np.random.Generator, index: int, n: int, size: Size) -> tuple[list[int], tuple[int, int]]:
    """Draw the four images of a mosaic and the point where they meet.

    Args:
        rng: source.
        index: image that must be part of it.
        n: number of images to draw the other three from, with replacement.
        size: height and width of a tile in pixels.

    Returns:
        Four image numbers in random order, and (xc, yc), each in 1/2 .. 3/2 of the side, whole pixels.
    """
    sides = np.array(size)
    yc, xc = (int(v) for v in rng.uniform(sides / 2, 3 * sides / 2))
    indices = [index, *rng.integers(0, n, 3).tolist()]
    return [indices[k] for k in rng.permutation(4)], (xc, yc)


def mosaic4(sizes: Sequence[tuple[int, int]], centre: tuple[int, int], size: Size) -> list[tuple[int, int]]:
    """Arrange four images around a point of a canvas of twice the tile size.

        0 | 1      Tile 0 has its lower right corner at the centre, tile 1 its lower left one, and so on.
        --+--      What reaches over the canvas is cut off, what no tile covers is grey.
        2 | 3

    Args:
        sizes: (height, width) of four images, `size` or less.
        centre: (xc, yc) in canvas pixels.
        size: half the height and width of the canvas.

    Returns:
        Left upper corners (x, y) of the images on the canvas, for `lay_images`.
    """
    xc, yc = centre
    return [(xc if k % 2 else xc - w, yc if k > 1 else yc - h) for k, (h, w) in enumerate(sizes)]


def draw_mosaic9(rng: np.random.Generator, index: int, n: int, size: Size) -> tuple[list[int], tuple[int, int]]:
    """Draw the nine images of a mosaic and the window that is cut out of it.

    Args:
        rng: source.
        index: image that must be part of it.
        n: number of images to draw the other eight from, with replacement.
        size: height and width of a tile in pixels.

    Returns:
        Nine image numbers in random order, and the left upper corner (x, y) of the window, each in 0 .. side.
    """
    y, x = (int(v) for v in rng.uniform(0, np.array(size)))
    indices = [index, *rng.integers(0, n, 8).tolist()]
    return [indices[k] for k in rng.permutation(9)], (x, y)


def mosaic9(sizes: Sequence[tuple[int, int]], window: tuple[int, int], size: Size) -> list[tuple[int, int]]:
    """Arrange eight images around one, clockwise, behind a window of twice the tile size.

        8 1 2      Tile 0 is in the middle of a field of 3 x 3 tiles of the largest size. Tile 1 is on its top,
        7 0 3      2 follows to the right, 3 is at its right side, and so on; smaller tiles leave grey gaps, and a
        6 5 4      later tile covers an earlier one.

    Args:
        sizes: (height, width) of nine images, `size` or less.
        window: left upper corner (x, y) of the window in the field, each in 0 .. side.
        size: a third of the height and width of the field, half of those of the window.

    Returns:
        Left upper corners (x, y) of the images in the window, for `lay_images`.
    """
    (h0, w0), (sy, sx), corners = sizes[0], size, []
    for k, (h, w) in enumerate(sizes):
        hp, wp = sizes[k - 1]
        x = (sx, sx, sx + wp, sx + w0, sx + w0, sx + w0 - w, sx + w0 - wp - w, sx - w, sx - w)[k]
        y = (sy, sy - h, sy - h, sy, sy + hp, sy + h0, sy + h0, sy + h0 - h, sy + h0 - hp - h)[k]
        corners.append((x - window[0], y - window[1]))
    return corners


def overlap(
    corner: tuple[int, int], size: tuple[int, int], part: tuple[int, int, int, int]
) -> tuple[int, int, int, int] | None:
    """Return x1, y1, x2, y2 of what an image of size (height, width) at a corner (x, y) covers of a part; or None."""
    (x, y), (h, w) = corner, size
    x1, y1, x2, y2 = max(x, part[0]), max(y, part[1]), min(x + w, part[2]), min(y + h, part[3])
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def scratch(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Return a canvas for images with any content, for this thread alone, until it asks for the next one.

    It is kept, because the system takes longer to hand out so much fresh memory than it takes to warp a mosaic.

    Returns:
        (height, width, C), of `dtype`; C is 4 for 3 channels, see `augmentations`.
    """
    shape = height, width, 4 if channels == 3 else channels
    canvas = getattr(_kept, "canvas", None)
    if canvas is None or (canvas.shape, canvas.dtype) != (shape, dtype):
        canvas = _kept.canvas = np.empty(shape, dtype)
    return canvas


def lay_images(
    images: Sequence[np.ndarray | None],
    corners: Sequence[tuple[int, int]],
    part: tuple[int, int, int, int],
    canvas: np.ndarray,
    fill: int,
) -> None:
    """Paint a canvas in one grey and lay images onto it; a later one covers earlier ones.

    Args:
        images: what is laid; None is left out.
        corners: (x, y) of the left upper corner of each.
        part: x1, y1, x2, y2 of the canvas that is painted, the rest stays as it is.
        canvas: (H, W, C), for images of three channels (H, W, 4); it is changed.
        fill: the grey, 0..255.
    """
    canvas[part[1] : part[3], part[0] : part[2]] = fill
    for im, (x, y) in zip(images, corners, strict=True):
        if im is not None and (covered := overlap((x, y), im.shape[:2], part)):
            x1, y1, x2, y2 = covered
            seen = im[y1 - y : y2 - y, x1 - x : x2 - x]
            if im.shape[2] == 3:
                cv2.cvtColor(seen, cv2.COLOR_BGR2BGRA, dst=canvas[y1:y2, x1:x2])
            else:
                canvas[y1:y2, x1:x2] = seen


def lay_labels(
    labels: Sequence[np.ndarray],
    segments: Sequence[list[np.ndarray]],
    sizes: Sequence[tuple[int, int]],
    corners: Sequence[tuple[int, int]],
    canvas: Size,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Move the labels of images to where `lay_images` lays these on a canvas.

    Args:
        labels: `[class, xywhn]` of each image, (M, 5).
        segments: polygons of each, xyn.
        sizes: (height, width) of the images.
        corners: (x, y) of the left upper corner of each.
        canvas: its height and width.

    Returns:
        All labels in pixels, clipped to the canvas (some may have no area left), and all polygons, clipped.
    """
    frames = np.array([(w, h, x, y) for (h, w), (x, y) in zip(sizes, corners, strict=True)], np.float32)
    frame = frames.repeat([len(x) for x in labels], 0)  # (M, 4)
    laid = np.concatenate(labels, 0)
    ends = canvas[::-1]
    laid[:, 1:5] = xywhn2xyxy(laid[:, 1:5], *(frame[:, k : k + 1] for k in range(4))).clip(0, (*ends, *ends))
    if not any(segments):
        return laid, []
    moved = []
    for frame, own, polygons in zip(frames, labels, segments, strict=True):
        polygons = polygons or [np.zeros((0, 2), np.float32)] * len(own)
        moved += [(polygon * frame[:2] + frame[2:]).clip(0, ends).astype(np.float32) for polygon in polygons]
    return laid, moved
