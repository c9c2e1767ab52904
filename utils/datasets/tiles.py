"""Large images in tiles: the grid that detect.py, training and validation share, and the labels of each tile."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import touching_pairs
from utils.console import LOGGER, size_text
from utils.datasets.label_cache import NO_LABELS, LabelSet, Pieces

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image, x2 and y2 outside

KEPT = 0.25  # a box stays in a tile if at least this share of its area is inside
BACKGROUND = 0.1  # share of the tiles without a label that a training sees


def tile_sides(asked: int | Sequence[int]) -> tuple[int, int] | None:
    """Return height and width of the tiles for what --slice gave: one side, or both; None for 0, which cuts nothing.

    Raises:
        ValueError: three numbers or more, or a side below 32.
    """
    sides = [asked] if isinstance(asked, int) else list(asked)
    if sides == [0]:
        return None
    if len(sides) not in (1, 2):
        raise ValueError(f"--slice is {size_text(sides) or 'empty'}, but must be one side, or a height and a width")
    if min(sides) < 32:
        raise ValueError(f"--slice is {size_text(sides)}, but tiles must have at least 32 pixels")
    return sides[0], sides[-1]


def tile_grid(height: int, width: int, tile: int | Sequence[int], overlap: float = 0.2) -> list[Window]:
    """Cover an image with equal tiles, row by row.

    Neighbours share at least `overlap` of their side; the last tile of a row or column is moved inwards to end with the
    image. A side of the image below that of the tile is covered by one tile of that side.

    Args:
        height: of the image in pixels; `width` likewise.
        width: see `height`.
        tile: side of a tile in pixels, or height and width.
        overlap: fraction of the side, 0 to 0.9.

    Raises:
        ValueError: tile below 32 or overlap out of range.
    """
    sides = tile_sides(tile) or (height, width)
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"--overlap is {overlap}, but must be from 0 to 0.9")
    starts = []
    for side, length in zip(sides, (height, width), strict=True):
        step, covered = max(int(side * (1 - overlap)), 1), min(side, length)
        ends = range(0, max(length - covered + step, 1), step)
        starts.append((covered, list(dict.fromkeys(min(at, length - covered) for at in ends))))
    (h, tops), (w, lefts) = starts
    return [(x, y, x + w, y + h) for y in tops for x in lefts]


@dataclass
class Samples:
    """What each sample of a split shows: a whole image, or a tile of one.

    Attributes:
        source: (S,) int, number of the image of each sample.
        windows: (S, 4) int, what it shows of it.
        whole_sizes: (S, 2) int, width and height of that image.
        labels, segments: as in `LabelSet`, relative to the window.
    """

    source: np.ndarray
    windows: np.ndarray
    whole_sizes: np.ndarray
    labels: Pieces
    segments: Pieces

    @property
    def sizes(self) -> np.ndarray:
        """(S, 2) int, width and height of each sample."""
        return self.windows[:, 2:] - self.windows[:, :2]

    def of(self, values: Sequence[str]) -> list[str]:
        """Return for each sample the value of its image."""
        return [values[i] for i in self.source]

    def is_tile(self, i: int) -> bool:
        """Return whether sample `i` is a part of its image only."""
        return bool((self.windows[i, 2:] - self.windows[i, :2] != self.whole_sizes[i]).any())

    def name(self, i: int) -> str:
        """Return a text that tells sample `i` from others of its image; "" for a whole image."""
        return f" {self.windows[i].tolist()}" if self.is_tile(i) else ""

    def crop(self, i: int, image: np.ndarray) -> np.ndarray:
        """Return what sample `i` shows of its image, (H, W, C); of a whole one, the same array."""
        x1, y1, x2, y2 = self.windows[i].tolist()
        return np.ascontiguousarray(image[y1:y2, x1:x2]) if self.is_tile(i) else image

    def take(self, order: np.ndarray) -> "Samples":
        """Return the samples of these numbers, in this order."""
        rows = self.labels.take(order), self.segments.take(order)
        return Samples(self.source[order], self.windows[order], self.whole_sizes[order], *rows)


def whole_images(found: LabelSet) -> Samples:
    """Return a sample for each image of a split."""
    windows = np.concatenate((found.sizes * 0, found.sizes), 1)
    return Samples(np.arange(len(windows)), windows, found.sizes, found.labels, found.segments)


def cut_into_tiles(found: LabelSet, tile: tuple[int, int], overlap: float, seed: int, prefix: str = "") -> Samples:
    """Cut the images of a split that are larger than a tile, and log how many samples that gives.

    detect.py looks at the whole image too, so it stays a sample, followed by its tiles. Of the tiles without a label
    the fraction `BACKGROUND` is drawn.

    Args:
        found: the split.
        tile: height and width of the tiles in pixels.
        overlap: see `tile_grid`.
        seed: of the draw.
        prefix: put before the log line.
    """
    source, windows, labels, segments = [], [], [], []  # of each sample
    for i, (width, height) in enumerate(found.sizes.tolist()):
        grid, own = tile_grid(height, width, tile, overlap), (found.labels[i], found.segments[i])
        grid = grid if len(grid) > 1 else []
        parts = cut_labels(*own, (width, height), grid) if grid else []
        for window, (rows, polygons) in [((0, 0, width, height), own), *zip(grid, parts, strict=True)]:
            source.append(i)
            windows.append(window)
            labels.append(rows)
            segments.append(polygons)
    rows = Pieces.of(labels, NO_LABELS), Pieces.nested(segments)
    every = Samples(np.array(source), np.array(windows), found.sizes[source], *rows)
    tiles = np.diff(source, prepend=-1) == 0  # the first sample of an image is the whole one
    empty = np.flatnonzero(tiles & (np.array(list(map(len, labels))) == 0))
    dropped = np.random.default_rng(seed).permutation(empty)[round(BACKGROUND * len(empty)) :]
    LOGGER.info(
        f"{prefix}{len(np.unique(every.source[tiles]))} of {len(found.sizes)} images are larger than {tile[0]} x "
        f"{tile[1]} pixels (height x width) and are cut: {tiles.sum() - len(empty)} tiles with labels and "
        f"{len(empty) - len(dropped)} of {len(empty)} without, besides the whole images"
    )
    return every.take(np.setdiff1d(np.arange(len(source)), dropped))


def cut_labels(
    labels: np.ndarray, segments: list[np.ndarray], size: tuple[int, int], windows: Sequence[Window]
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Give the labels of an image to its tiles.

    A box stays in each tile that has at least `KEPT` of its area; one that no tile has so much of, because it is far
    larger than a tile, stays in that with the most. It ends at the border of the tile, and so does its polygon.

    Args:
        labels: (M, 5) `[class, xywhn]`.
        segments: M polygons xyn, or none.
        size: width and height of the image.
        windows: T tiles.

    Returns:
        For each tile the same, relative to it.
    """
    scale = np.array([*size, *size], np.float64)
    centre, half = labels[:, 1:3].astype(np.float64), labels[:, 3:5].astype(np.float64) / 2
    boxes = np.concatenate((centre - half, centre + half), 1) * scale  # (M, 4)
    frames = np.array(windows, np.float64)  # (T, 4)
    pairs = [np.zeros((0, 2), int), *(np.stack(part, 1) for part in touching_pairs(boxes, frames))]
    label, tile = np.concatenate(pairs).T  # (P,), (P,)
    inside = np.concatenate(
        (np.maximum(boxes[label, :2], frames[tile, :2]), np.minimum(boxes[label, 2:], frames[tile, 2:])), 1
    )
    sides = (inside[:, 2:] - inside[:, :2]).clip(0)  # (P, 2)
    share = sides.prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)[label]  # (P,)
    most = np.zeros(len(labels))
    np.maximum.at(most, label, share)
    stays = np.flatnonzero((share >= KEPT) | ((share == most[label]) & (most[label] < KEPT)))
    stays = stays[np.lexsort((label[stays], tile[stays]))]
    found = []
    starts = np.searchsorted(tile[stays], np.arange(1, len(windows)))
    for window, kept in zip(np.array(windows), np.split(stays, starts), strict=True):
        part, rows = inside[kept], label[kept]
        origin, extent = window[:2], window[2:] - window[:2]
        box = (part - np.tile(origin, 2)) / np.tile(extent, 2)
        xywhn = np.concatenate(((box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]), 1)
        own = np.concatenate((labels[rows, :1], xywhn), 1).astype(np.float32)
        polygons = [segments[m] for m in rows] if segments else []
        moved = [((p * size - origin) / extent).clip(0, 1).astype(np.float32) for p in polygons]
        found.append((own, moved))
    return found
