"""Large images in tiles: how they go through a detector, and how their detections are merged.

A box that was found in a tile and reaches one of its inner borders may be a part of an object only: it is called cut.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from utils.boxes import bbox_iou, box_area, touching_pairs
from utils.datasets.tiles import Window, tile_grid
from utils.nms import batched_nms
from utils.thresholds import IOU_THRES, MAX_DET

AT_ONCE = 4  # tiles in a batch
CUT_MARGIN = 0.01  # of the side of a tile: a box that ends so near to an inner border is cut
COVERED = 0.6  # fraction of a cut box that a whole one must cover to replace it
MANY = 1500  # rows from which on the suppression looks for those that touch
ALIGNED = 0.5  # IoU of two cut boxes along the border between them from which they are parts of one object


class FittedTiles(NamedTuple):
    """The tiles of an image as network input; none of an image that is one tile.

    Attributes:
        windows: T tiles.
        inputs: arrays (C, H, W), three channels RGB, of one shape for `AT_ONCE` tiles or less at a time, T in all;
            made when they are asked for, once.
    """

    windows: list[Window]
    inputs: Iterable[Any]

    def detect(self, detector: Detector) -> list[Tensor]:
        """Return for each tile what a detector finds, (D, 6 or more) `[xyxy_img, ...]` in pixels of the whole image."""
        found: list[Tensor] = []
        for images in self.inputs:
            part = self.windows[len(found) : len(found) + len(images)]
            kept = detector(images, [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in part])
            for detections, (x1, y1, _, _) in zip(kept, part, strict=True):
                moved = detections.clone()
                moved[:, :4] += torch.tensor([x1, y1, x1, y1])
                found.append(moved)
        return found


def fit_tiles(
    image: NDArray, tile: tuple[int, int], overlap: float, fit: Callable[[Sequence[NDArray]], Sequence[NDArray]]
) -> FittedTiles:
    """Cut an image, (H, W, C), into the tiles of `tile_grid` and letterbox them.

    Args:
        image: any image.
        tile: height and width of the tiles in pixels.
        overlap: see `tile_grid`.
        fit: makes arrays (C, H, W) of one shape of several images, see `Detector.fit`.
    """
    windows = tile_grid(image.shape[0], image.shape[1], tile, overlap)
    if len(windows) == 1:
        return FittedTiles([], [])
    groups = [windows[start : start + AT_ONCE] for start in range(0, len(windows), AT_ONCE)]
    return FittedTiles(windows, (fit([image[y1:y2, x1:x2] for x1, y1, x2, y2 in group]) for group in groups))


def merge_with_whole(
    whole: Tensor, found: Sequence[Tensor], windows: Sequence[Window], shape: tuple[int, int],
    iou_thres: float, agnostic: bool, max_det: int,
) -> Tensor:  # fmt: skip
    """Merge detections in the whole image with those in its tiles, of which there may be none, see `merge_tiles`."""
    height, width = shape
    return merge_tiles([whole, *found], [(0, 0, width, height), *windows], shape, iou_thres, agnostic, max_det)


def cut_sides(boxes: Tensor, window: Window, shape: tuple[int, int]) -> Tensor:
    """Return which boxes touch an inner border of their tile, one that is not the border of the image.

    Args:
        boxes: (D, 4 or more) `xyxy` in pixels of the image.
        window: the tile.
        shape: height and width of the image.

    Returns:
        (D, 4) bool: left, top, right, bottom.
    """
    x1, y1, x2, y2 = window
    margin_x, margin_y = max(CUT_MARGIN * (x2 - x1), 2.0), max(CUT_MARGIN * (y2 - y1), 2.0)
    near = torch.stack(
        (
            boxes[:, 0] <= x1 + margin_x,
            boxes[:, 1] <= y1 + margin_y,
            boxes[:, 2] >= x2 - margin_x,
            boxes[:, 3] >= y2 - margin_y,
        ),
        1,
    )  # (D, 4)
    inner = torch.tensor([x1 > 0, y1 > 0, x2 < shape[1], y2 < shape[0]], device=boxes.device)
    return near & inner


def merge_tiles(
    found: Sequence[Tensor],
    windows: Sequence[Window],
    shape: tuple[int, int],
    iou_thres: float = IOU_THRES,
    agnostic: bool = False,
    max_det: int = MAX_DET,
) -> Tensor:
    """Merge the detections of tiles and of the whole image.

    Whole boxes go through NMS. A cut box is dropped where a whole box of its class covers most of it. What remains of
    cut boxes in different tiles that continue each other is joined to the box around them, with the highest of their
    confidences. Then NMS goes over all.

    Args:
        found: for each window (D, 6) `[xyxy_img, confidence, class]`.
        windows: the tiles; one that is the whole image has no inner borders.
        shape: height and width of the image.
        iou_thres: a box is dropped when its IoU with a better one of its class exceeds this.
        agnostic: let boxes of different classes suppress and cover each other.
        max_det: rows kept.

    Returns:
        (D, 6) `[xyxy_img, confidence, class]`, best first; with one window, `found[0]`.
    """
    if len(found) == 1:
        return found[0][:max_det]
    rows = torch.cat(list(found))  # (N, 6)
    sides = torch.cat([cut_sides(f, window, shape) for f, window in zip(found, windows, strict=True)])  # (N, 4)
    tile = torch.cat([torch.full((len(f),), i, device=rows.device) for i, f in enumerate(found)])  # (N,)
    cut = sides.any(1)
    whole = _suppress(rows[~cut], iou_thres, agnostic)
    parts, sides, tile = rows[cut], sides[cut], tile[cut]
    left = torch.ones(len(parts), dtype=torch.bool, device=parts.device)
    for i, j in _touching(whole, parts, agnostic):
        a, b = whole[i, :4], parts[j, :4]
        common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clip(0)  # (P, 2)
        covered = common[:, 0] * common[:, 1] / (box_area(b) + 1e-7)
        left[j[covered >= COVERED]] = False
    parts, sides, tile = parts[left], sides[left], tile[left]
    return _suppress(torch.cat((whole, join_parts(parts, sides, tile))), iou_thres, agnostic)[:max_det]


def join_parts(parts: Tensor, sides: Tensor, tile: Tensor) -> Tensor:
    """Join cut boxes of one class that continue each other across the border between two tiles.

    Args:
        parts: (P, 6) `[xyxy_img, confidence, class]`.
        sides: (P, 4) bool, of `cut_sides`.
        tile: (P,) number of the tile of each.

    Returns:
        (G, 6), one row for each group: the box around it, its highest confidence, its class.
    """
    if not len(parts):
        return parts
    group = torch.arange(len(parts), device=parts.device)
    links = [torch.stack((group[:0], group[:0]))]
    for i, j in _touching(parts, parts, False):
        a, b = parts[i], parts[j]
        across = torch.zeros_like(i, dtype=torch.bool)
        for axis in (0, 1):  # along x: one is cut at its right side, the other at its left one; along y likewise
            low, high = axis, axis + 2
            facing = sides[i, high] & sides[j, low]
            for end in (low, high):  # each spans the strip that the tiles share, or began or ended in the other tile
                facing &= a[:, end] <= b[:, end]
            facing &= a[:, high] >= b[:, low]
            across |= facing & (_iou_1d(a, b, 1 - axis) >= ALIGNED)
        links.append(torch.stack((i, j))[:, across & (tile[i] != tile[j])])
    one, other = torch.cat(links, 1)
    one, other = torch.cat((one, other)), torch.cat((other, one))
    while True:  # the smallest number spreads through each group
        spread = group.scatter_reduce(0, one, group[other], "amin")
        if torch.equal(spread, group):
            break
        group = spread
    joined = []
    order = group.argsort(stable=True)
    for rows in parts[order].split(group[order].unique_consecutive(return_counts=True)[1].tolist()):
        best = rows[rows[:, 4].argmax()]
        joined.append(torch.cat((rows[:, :2].min(0).values, rows[:, 2:4].max(0).values, best[4:])))
    return torch.stack(joined)


def _touching(a: Tensor, b: Tensor, agnostic: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs of rows (N, 6) and (M, 6) `[xyxy, confidence, class]` of one class that touch, see there."""
    arrays = [x[:, :4].cpu().numpy() for x in (a, b)]
    groups = [(torch.zeros_like(x[:, 5]) if agnostic else x[:, 5]).cpu().numpy() for x in (a, b)]
    for i, j in touching_pairs(*arrays, *groups):
        yield torch.from_numpy(i).to(a.device), torch.from_numpy(j).to(a.device)


def _iou_1d(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """IoU of the extents of pairs of (P, 4 or more) `xyxy` along x (0) or y (1), (P,)."""
    extents = []
    for boxes in (a, b):
        low, high = boxes[:, axis].double(), boxes[:, axis + 2].double()
        zero = torch.zeros_like(low)
        extents.append(torch.stack((low, zero, high, zero + 1), 1))
    return bbox_iou(extents[0], extents[1], xywh=False)


def _suppress(rows: Tensor, iou_thres: float, agnostic: bool) -> Tensor:
    """Apply NMS to (N, 6) rows; best first.

    `batched_nms` compares every survivor with all that follow; of many rows few touch, as tiles have been suppressed.
    """
    if len(rows) < MANY:
        groups = torch.zeros_like(rows[:, 5]) if agnostic else rows[:, 5]
        return rows[batched_nms(rows[:, :4].double(), rows[:, 4].double(), groups, iou_thres)]
    rows = rows[rows[:, 4].argsort(descending=True, stable=True)]
    pairs = [torch.zeros(2, 0, dtype=torch.long, device=rows.device)]
    for i, j in _touching(rows, rows, agnostic):
        i, j = i[i < j], j[i < j]
        iou = bbox_iou(rows[i, :4].double(), rows[j, :4].double(), xywh=False, eps=0)
        pairs.append(torch.stack((i, j))[:, iou > iou_thres])
    better, worse = torch.cat(pairs, 1).cpu().numpy()  # by the better one
    numbers, start = np.unique(better, return_index=True)
    kept = np.ones(len(rows), bool)
    for number, dropped in zip(numbers.tolist(), np.split(worse, start)[1:], strict=True):
        if kept[number]:
            kept[dropped] = False
    return rows[torch.from_numpy(kept).to(rows.device)]
