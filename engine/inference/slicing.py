"""Large images in tiles: the grid of tiles, and how their detections are merged.

A box that was found in a tile and reaches one of its inner borders may be a part of an object only: it is called cut.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.boxes import box_ioa, box_iou
from utils.nms import batched_nms
from utils.thresholds import IOU_THRES, MAX_DET

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image, x2 and y2 outside

CUT_MARGIN = 0.01  # of the side of a tile: a box that ends so near to an inner border is cut
COVERED = 0.6  # fraction of a cut box that a whole one must cover to replace it
ALIGNED = 0.5  # IoU of two cut boxes along the border between them from which they are parts of one object


def tile_grid(height: int, width: int, tile: int, overlap: float = 0.2) -> list[Window]:
    """Cover an image with equal tiles, row by row.

    Neighbours share at least `overlap` of their side; the last tile of a row or column is moved inwards to end with the
    image. A side of the image below `tile` is covered by one tile of that side.

    Args:
        height: of the image in pixels; `width` likewise.
        width: see `height`.
        tile: side of a tile in pixels.
        overlap: fraction of the side, 0 to 0.9.

    Raises:
        ValueError: tile below 32 or overlap out of range.
    """
    if tile < 32:
        raise ValueError(f"--slice is {tile}, but tiles must have at least 32 pixels")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"--overlap is {overlap}, but must be from 0 to 0.9")
    step = max(int(tile * (1 - overlap)), 1)
    h, w = min(tile, height), min(tile, width)
    tops = [min(y, height - h) for y in range(0, max(height - h + step, 1), step)]
    lefts = [min(x, width - w) for x in range(0, max(width - w + step, 1), step)]
    return [(x, y, x + w, y + h) for y in dict.fromkeys(tops) for x in dict.fromkeys(lefts)]


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
    if len(whole) and len(parts):
        covered = torch.stack([box_ioa(box, parts[:, :4]) for box in whole[:, :4]])  # (W, P)
        if not agnostic:
            covered = covered * (whole[:, None, 5] == parts[None, :, 5])
        left = covered.max(0).values < COVERED
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
    related = (parts[:, None, 5] == parts[None, :, 5]) & (tile[:, None] != tile[None])  # (P, P)
    across = torch.zeros_like(related)
    for axis in (0, 1):  # along x: one is cut at its right side, the other at its left one; along y likewise
        low, high = axis, axis + 2
        facing = sides[:, None, high] & sides[None, :, low]
        for end in (low, high):  # each spans the strip that the tiles share, or it began or ended within the other tile
            facing &= parts[:, None, end] <= parts[None, :, end]
        facing &= parts[:, None, high] >= parts[None, :, low]
        across |= facing & (_iou_1d(parts, 1 - axis) >= ALIGNED)
    linked = related & (across | across.T)
    group = torch.arange(len(parts), device=parts.device)
    while True:  # the smallest number spreads through each group
        spread = torch.where(linked, group[None], len(parts)).min(1).values.minimum(group)
        if torch.equal(spread, group):
            break
        group = spread
    joined = []
    for number in group.unique():
        rows = parts[group == number]
        best = rows[rows[:, 4].argmax()]
        joined.append(torch.cat((rows[:, :2].min(0).values, rows[:, 2:4].max(0).values, best[4:])))
    return torch.stack(joined)


def _iou_1d(boxes: Tensor, axis: int) -> Tensor:
    """IoU of the extents of all pairs of (P, 4 or more) `xyxy` along x (0) or y (1), (P, P)."""
    low, high = boxes[:, axis].double(), boxes[:, axis + 2].double()
    zero = torch.zeros_like(low)
    extents = torch.stack((low, zero, high, zero + 1), 1)
    return box_iou(extents, extents)


def _suppress(rows: Tensor, iou_thres: float, agnostic: bool) -> Tensor:
    """Apply NMS to (N, 6) rows; best first."""
    groups = torch.zeros_like(rows[:, 5]) if agnostic else rows[:, 5]
    return rows[batched_nms(rows[:, :4].double(), rows[:, 4].double(), groups, iou_thres)]
