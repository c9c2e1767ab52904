"""Box formats, clipping, scaling between images and the IoU family, for torch tensors and NumPy arrays alike.

Formats: `xyxy` = corners (x1 <= x2, y1 <= y2), `xywh` = centre plus size. Suffix `n` means divided by image width and
height (0 to 1), `_net` pixels of the letterboxed network input, `_img` pixels of the original image.

Every function takes tensors or arrays, returns the same kind on the same device, and never changes its input. Integer
boxes come back as float (a centre may lie between pixels); float boxes keep their dtype. No boxes are (0, 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
PAIRS = 1 << 18  # of boxes that are looked at together


def _float_copy(x: Array) -> Array:
    """Copy `x`; integers become float32 (tensor) or float64 (array)."""
    if isinstance(x, Tensor):
        return x.clone() if x.is_floating_point() else x.float()
    return x.copy() if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)


def xyxy2xywh(x: Array) -> Array:
    """Convert corners to centre and size.

    Args:
        x: (..., 4 or more) `xyxy`; columns from the fifth on are passed through.

    Returns:
        Same shape, first four columns `xywh`, in the unit of the input.
    """
    y = _float_copy(x)
    y[..., 0] = (x[..., 0] + x[..., 2]) / 2
    y[..., 1] = (x[..., 1] + x[..., 3]) / 2
    y[..., 2] = x[..., 2] - x[..., 0]
    y[..., 3] = x[..., 3] - x[..., 1]
    return y


def xywh2xyxy(x: Array) -> Array:
    """Convert centre and size to corners; the inverse of `xyxy2xywh`.

    Args:
        x: (..., 4 or more) `xywh`; columns from the fifth on are passed through.

    Returns:
        Same shape, first four columns `xyxy`, in the unit of the input.
    """
    y = _float_copy(x)
    half = x[..., 2:4] / 2
    y[..., :2] = x[..., :2] - half
    y[..., 2:4] = x[..., :2] + half
    return y


def xywhn2xyxy(x: Array, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Array:
    """Convert normalised centre and size to corners in pixels of a padded image.

    Args:
        x: (..., 4 or more) `xywhn`; columns from the fifth on are passed through.
        w: width in pixels of the image inside the padding; `h` likewise.
        h: see `w`.
        padw: pixels added on the left of the image (letterbox, mosaic); `padh` above it.
        padh: see `padw`.

    Returns:
        Same shape, first four columns `xyxy` in pixels of the padded image.
    """
    y = xywh2xyxy(x)
    y[..., :4:2] = y[..., :4:2] * w + padw
    y[..., 1:4:2] = y[..., 1:4:2] * h + padh
    return y


def xyxy2xywhn(x: Array, w: float = 640, h: float = 640, clip: bool = False, eps: float = 0.0) -> Array:
    """Convert corners in pixels to normalised centre and size; the inverse of `xywhn2xyxy` without padding.

    Args:
        x: (..., 4 or more) `xyxy` in pixels; columns from the fifth on are passed through.
        w: image width in pixels.
        h: image height in pixels.
        clip: first cut the corners to [0, w - eps] and [0, h - eps].
        eps: margin in pixels kept free at the right and lower edge, used only with `clip`.

    Returns:
        Same shape, first four columns `xywhn`.
    """
    y = xyxy2xywh(clip_boxes(x, (h - eps, w - eps)) if clip else x)
    y[..., :4:2] = y[..., :4:2] / w
    y[..., 1:4:2] = y[..., 1:4:2] / h
    return y


def clip_boxes(boxes: Array, shape_hw: tuple[float, float]) -> Array:
    """Cut corner boxes to an image.

    Args:
        boxes: (..., 4 or more) `xyxy` in pixels; columns from the fifth on are passed through.
        shape_hw: height and width of the image, in this order (further entries, as of an array's shape, are not read).

    Returns:
        Same shape with 0 <= x <= width and 0 <= y <= height. A box wholly outside keeps its row and has no area.
    """
    height, width = shape_hw[0], shape_hw[1]
    y = _float_copy(boxes)
    y[..., :4:2] = y[..., :4:2].clip(0, width)
    y[..., 1:4:2] = y[..., 1:4:2].clip(0, height)
    return y


def centred(
    img1_shape: tuple[int, int], img0_shape: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return `ratio_pad` of an image that was fitted into the network input and centred (`letterbox` with scaleup).

    Args:
        img1_shape: see `scale_boxes`.
        img0_shape: see there, too; scripts pass the three numbers of `image.shape`.
    """
    gain = min(img1_shape[0] / img0_shape[0], img1_shape[1] / img0_shape[1])
    height, width = (round(side * gain) for side in img0_shape[:2])  # letterbox rounds the image to whole pixels
    return (gain, gain), ((img1_shape[1] - width) / 2, (img1_shape[0] - height) / 2)


def scale_boxes(
    img1_shape: tuple[int, int],
    boxes: Array,
    img0_shape: tuple[int, int],
    ratio_pad: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Array:
    """Map boxes from the letterboxed network input back to the original image, and clip them to it.

    Args:
        img1_shape: (height, width) of the network input.
        boxes: (..., 4 or more) `xyxy_net`; columns from the fifth on are passed through.
        img0_shape: (height, width) of the original image.
        ratio_pad: ((ratio_h, ratio_w), (pad_w, pad_h)) as the dataset reports it: network pixels per original pixel,
            and the padding on the left and above. Mind the two orders. None: that of `centred`.

    Returns:
        Same shape, first four columns `xyxy_img`, within the image.
    """
    (ratio_h, ratio_w), (pad_w, pad_h) = ratio_pad or centred(img1_shape, img0_shape)
    y = _float_copy(boxes)
    y[..., :4:2] = (y[..., :4:2] - pad_w) / ratio_w
    y[..., 1:4:2] = (y[..., 1:4:2] - pad_h) / ratio_h
    return clip_boxes(y, img0_shape)


def box_iou(box1: Array, box2: Array, eps: float = 1e-7) -> Array:
    """Intersection over union of every box of one set with every box of another.

    Args:
        box1: (N, 4) `xyxy`.
        box2: (M, 4) `xyxy`, in the same unit.
        eps: added to the union, so that two empty boxes give 0 and not NaN.

    Returns:
        (N, M), values in [0, 1].
    """
    xp = torch if isinstance(box1, Tensor) else np
    a, b = box1[:, None], box2[None]  # (N, 1, 4), (1, M, 4)
    width = (xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0])).clip(0, None)
    height = (xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1])).clip(0, None)
    inter = width * height  # (N, M)
    return inter / (box_area(a) + box_area(b) - inter + eps)


def box_area(boxes: Array) -> Array:
    """Area of (..., 4) `xyxy` boxes, (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_ioa(box1: Array, box2: Array, eps: float = 1e-7) -> Array:
    """Fraction of each of `box2` that `box1` covers (intersection over *their* area).

    Args:
        box1: (4,) `xyxy`.
        box2: (M, 4) `xyxy`, in the same unit.
        eps: added to the areas, so that an empty box gives 0.

    Returns:
        (M,), values in [0, 1].
    """
    xp = torch if isinstance(box1, Tensor) else np
    side = (xp.minimum(box1[None, 2:4], box2[:, 2:4]) - xp.maximum(box1[None, :2], box2[:, :2])).clip(0, None)  # (M, 2)
    return side[:, 0] * side[:, 1] / (box_area(box2) + eps)


def touching_pairs(
    box1: np.ndarray, box2: np.ndarray, group1: np.ndarray | None = None, group2: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find the pairs of one box of each set that touch, without a look at all pairs.

    Each box is entered into the cells of a grid that it reaches into, so that the work is proportional to the boxes and
    to the pairs that share a cell. A cell is as large as the mean box, so a box has some four of them.

    Args:
        box1: (N, 4) `xyxy`, x1 <= x2 and y1 <= y2.
        box2: (M, 4) `xyxy`, in the same unit.
        group1: (N,) integers, 0 or more; only boxes of one group are paired. By default all are of one.
        group2: (M,), likewise.

    Yields:
        Numbers of boxes of the first and of the second set, (P,) each, some `PAIRS` at a time: every pair once, by
        the first number.
    """
    if not len(box1) or not len(box2):
        return
    boxes = np.concatenate((box1[:, :4], box2[:, :4])).astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    cell = max(*sides.mean(0), sides.prod(1).mean() ** 0.5, np.abs(boxes).max() * 1e-6, 1e-30)
    places = np.floor((boxes - np.tile(boxes[:, :2].min(0), 2)) / cell).astype(np.int64)
    low, extent = places[:, :2], places[:, 2:] - places[:, :2] + 1  # first column and row of cells, and their numbers
    size = places[:, 2:].max(0) + 1
    owner = np.repeat(np.arange(len(boxes)), extent.prod(1))  # of each entry
    at = np.arange(len(owner)) - np.repeat(extent.prod(1).cumsum() - extent.prod(1), extent.prod(1))
    row, column = np.divmod(at, extent[owner, 0])
    groups = (np.zeros(len(boxes)),) if group1 is None or group2 is None else (group1, group2)
    group = np.concatenate(groups).astype(np.int64)

    def key(owner: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        return (group[owner] * size[1] + row) * size[0] + column

    cells = key(owner, low[owner, 0] + column, low[owner, 1] + row)
    split = np.searchsorted(owner, len(box1))
    order = split + np.argsort(cells[split:], kind="stable")
    first, last = (np.searchsorted(cells[order], cells[:split], side) for side in ("left", "right"))
    counts = last - first  # pairs of each entry of the first set
    ends = counts.cumsum()
    for part in np.split(np.arange(split), np.unique(np.searchsorted(ends, np.arange(PAIRS, ends[-1], PAIRS)))):
        entry = np.repeat(part, counts[part])
        at = np.arange(len(entry)) - np.repeat(counts[part].cumsum() - counts[part], counts[part])
        a, b = owner[entry], owner[order[first[entry] + at]]
        # a pair counts in one of the cells that it shares: that of the later one of both corners
        shared = np.maximum(low[a], low[b])
        kept = key(a, shared[:, 0], shared[:, 1]) == cells[entry]
        kept &= ((boxes[a, :2] <= boxes[b, 2:]) & (boxes[b, :2] <= boxes[a, 2:])).all(1)
        yield a[kept], b[kept] - len(box1)


def bbox_iou(
    box1: Array,
    box2: Array,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> Array:
    """IoU or one of its extensions, box by box (not every pair: see `box_iou`).

    Plain: inter / (union + eps). GIoU (arXiv:1902.09630): IoU - (C - union) / C with C the area of the enclosing box.
    DIoU (arXiv:1911.08287): IoU - rho2 / c2 with rho2 the squared distance of the centres and c2 the squared diagonal
    of the enclosing box. CIoU (same paper): DIoU - alpha * v with v = 4 / pi^2 * (atan(w2 / h2) - atan(w1 / h1))^2 and
    alpha = v / (1 - IoU + v), through which no gradient flows.

    Args:
        box1: (..., 4); leading dimensions broadcast against those of `box2`.
        box2: (..., 4), in the same unit and format.
        xywh: the boxes are `xywh` (True) or `xyxy` (False).
        GIoU: return the generalised IoU; at most one of the three flags may be set.
        DIoU: return the distance IoU.
        CIoU: return the complete IoU.
        eps: added to every denominator, so that empty boxes give finite values and gradients.

    Returns:
        (...) without the last dimension: IoU in [0, 1]; GIoU and DIoU in (-1, 1]; CIoU in (-2, 1].

    Raises:
        ValueError: more than one of the flags is set.
    """
    if GIoU + DIoU + CIoU > 1:
        raise ValueError(f"set at most one of GIoU={GIoU}, DIoU={DIoU}, CIoU={CIoU}")
    xp = torch if isinstance(box1, Tensor) else np
    if xywh:
        (cx1, cy1, w1, h1), (cx2, cy2, w2, h2) = _columns(box1), _columns(box2)
        left1, right1, top1, bottom1 = cx1 - w1 / 2, cx1 + w1 / 2, cy1 - h1 / 2, cy1 + h1 / 2
        left2, right2, top2, bottom2 = cx2 - w2 / 2, cx2 + w2 / 2, cy2 - h2 / 2, cy2 + h2 / 2
    else:
        (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = _columns(box1), _columns(box2)
        w1, h1, w2, h2 = right1 - left1, bottom1 - top1, right2 - left2, bottom2 - top2

    inter_w = (xp.minimum(right1, right2) - xp.maximum(left1, left2)).clip(0, None)
    inter_h = (xp.minimum(bottom1, bottom2) - xp.maximum(top1, top2)).clip(0, None)
    inter = inter_w * inter_h
    union = w1 * h1 + w2 * h2 - inter + eps
    iou = inter / union
    if not (GIoU or DIoU or CIoU):
        return iou

    outer_w = xp.maximum(right1, right2) - xp.minimum(left1, left2)
    outer_h = xp.maximum(bottom1, bottom2) - xp.minimum(top1, top2)
    if GIoU:
        outer = outer_w * outer_h + eps
        return iou - (outer - union) / outer
    diagonal2 = outer_w**2 + outer_h**2 + eps
    distance2 = ((left2 + right2 - left1 - right1) ** 2 + (top2 + bottom2 - top1 - bottom1) ** 2) / 4
    if DIoU:
        return iou - distance2 / diagonal2
    v = 4 / math.pi**2 * (xp.arctan(w2 / (h2 + eps)) - xp.arctan(w1 / (h1 + eps))) ** 2
    alpha = v / (1 - iou + v + eps)
    return iou - distance2 / diagonal2 - v * (alpha.detach() if isinstance(alpha, Tensor) else alpha)


def _columns(boxes: Array) -> tuple[Array, Array, Array, Array]:
    """Split (..., 4) into its four columns, each (...)."""
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]
