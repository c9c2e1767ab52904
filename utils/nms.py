"""Non-maximum suppression: decoded network output to a short list of boxes per image.

Letters: B images, R rows of an image, K of them that can pass, N pairs of row and class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.boxes import xywh2xyxy
from utils.thresholds import CONF_THRES, IOU_THRES

MAX_CANDIDATES = 30000  # pairs per image that enter the suppression; weaker ones are dropped
LISTED = 2048  # most pairs of the first lists
SCORES = 32768  # scores that the first list may look through
ROUND = 768  # boxes of a round of suppression; its time rises with their square
PART = 768  # boxes that are suppressed in one call, as far as no group is cut


def non_max_suppression(
    prediction: Tensor | list[Any] | tuple[Any, ...],
    conf_thres: float | Sequence[float] = CONF_THRES,
    iou_thres: float = IOU_THRES,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
) -> list[Tensor]:
    """Keep the best boxes of each image and drop those that overlap a better one of their class.

    Each image is treated by itself, and without a time limit: the result depends neither on the batch around it nor on
    the speed of the machine. Equal scores keep the order of the prediction rows.

    Args:
        prediction: (B, R, 5 + classes) `[xywh_net, objectness, class scores]`, scores in [0, 1]; of a tuple or list (a
            model that also returns its raw maps) the first entry is taken.
        conf_thres: a box needs objectness and objectness * class score above this, in [0, 1]; or one for each class:
            of a box without `multi_label` that of its best class counts.
        iou_thres: a box is dropped when its IoU with a better one exceeds this, in [0, 1].
        classes: keep these class numbers only; None keeps all. It filters after the best class has been chosen.
        agnostic: let boxes of different classes suppress each other.
        multi_label: one row for each class of a box above `conf_thres` (AP is measured so), not its best class only.
        labels: per image (M, 5) `[class, xywh_net]`, known boxes that enter with confidence 1; () for none.
        max_det: rows kept per image, at least 1.

    Returns:
        B float32 tensors (D, 6) `[xyxy_net, confidence, class]`, best first, D <= max_det; (0, 6) without detections.

    Raises:
        ValueError: a threshold outside [0, 1], or not one for each class, max_det below 1, a class number that does not
            exist, or a wrong shape.
    """
    decoded: Tensor = prediction if isinstance(prediction, Tensor) else prediction[0]
    _check_arguments(decoded, conf_thres, iou_thres, classes, labels, max_det)
    device = decoded.device
    if device.type == "mps":  # torchvision has no NMS there, and float64 is missing
        decoded = decoded.cpu()
    results = []
    for i, rows in enumerate(decoded):
        if len(labels) and len(labels[i]):
            rows = torch.cat((rows.float(), _labels_as_rows(labels[i].to(rows.device, torch.float32), rows.shape[1])))
        candidates = Candidates(rows, conf_thres, classes, multi_label)
        results.append(_suppress(candidates, iou_thres, agnostic, max_det).to(device))
    return results


def _check_arguments(
    prediction: Tensor,
    conf_thres: float | Sequence[float],
    iou_thres: float,
    classes: Sequence[int] | None,
    labels: Sequence[Tensor],
    max_det: int,
) -> None:
    """Raise ValueError for the first argument that cannot work."""
    if prediction.ndim != 3 or prediction.shape[2] < 6:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, expected (images, boxes, 5 + classes)")
    nc = prediction.shape[2] - 5
    confs = conf_thres if isinstance(conf_thres, Sequence) else [conf_thres]
    for name, value in (*(("conf_thres", conf) for conf in confs), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, but must be from 0 to 1")
    if isinstance(conf_thres, Sequence) and len(conf_thres) != nc:
        raise ValueError(f"conf_thres has {len(conf_thres)} values, but the model has {nc} classes")
    if max_det < 1:
        raise ValueError(f"max_det is {max_det}, but must be at least 1")
    for c in classes or ():
        if not 0 <= c < nc:
            raise ValueError(f"class {c} does not exist, the model has classes 0 to {nc - 1}")
    if len(labels) not in (0, len(prediction)):
        raise ValueError(f"labels for {len(labels)} images were given, but predictions of {len(prediction)}")


def _labels_as_rows(labels: Tensor, no: int) -> Tensor:
    """Turn (M, 5) `[class, xywh_net]` into (M, no) prediction rows of objectness 1 and class score 1."""
    rows = labels.new_zeros(len(labels), no)
    rows[:, :4] = labels[:, 1:]
    rows[:, 4] = 1
    rows[torch.arange(len(labels), device=rows.device), labels[:, 0].long() + 5] = 1
    return rows


class Candidates:
    """The pairs of row and class of one image above the threshold, best first, listed only as far as they are needed.

    The best class of a row bounds its other ones: of the rows whose best class is among the best N of all rows come the
    best N pairs. So a few thousand pairs of half a million cost one maximum for each row.

    Args:
        rows: (R, 5 + classes) `[xywh_net, objectness, class scores]`.
        conf_thres: objectness and confidence must exceed it, or that of their class.
        classes: see `non_max_suppression`, as `multi_label`.
        multi_label: see `classes`.
    """

    def __init__(
        self, rows: Tensor, conf_thres: float | Sequence[float], classes: Sequence[int] | None, multi_label: bool
    ) -> None:
        limits = None
        if isinstance(conf_thres, Sequence):
            limits, conf_thres = torch.tensor(conf_thres, device=rows.device), min(conf_thres)  # (classes,)
        # confidence <= objectness, so most rows are out before any class score is read
        rows = rows.index_select(0, _where(rows[:, 4] > conf_thres))  # (K, 5 + classes)
        wanted = None if classes is None else torch.tensor(sorted(set(classes)), dtype=torch.long, device=rows.device)
        self.columns = None  # class of each column of scores; None for all in their order
        self.conf_thres, self.multi_label = conf_thres, multi_label and rows.shape[1] > 6
        if limits is not None and self.multi_label:
            above = rows[:, 5:].float() * rows[:, 4:5].float() > limits  # (K, classes)
            rows = torch.cat((rows[:, :5], rows[:, 5:].where(above, 0)), 1)
        if self.multi_label and wanted is not None:
            rows, self.columns = torch.cat((rows[:, :5], rows[:, 5 + wanted]), 1), wanted
        self.cls = None  # (K,) best class of each row; None when all of them count
        if rows.shape[1] == 5 or not len(rows):  # no class is wanted, or no row is left
            rows, best = rows[:0], rows.new_zeros(0).float()
            self.cls = best.long()
        elif self.multi_label:
            best = rows[:, 5:].amax(1)  # (K,)
        else:
            best, self.cls = rows[:, 5:].max(1)  # (K,), (K,)
        best = best.float() * rows[:, 4].float()
        if wanted is not None and self.cls is not None:
            best = best.where(torch.isin(self.cls, wanted), 0)
        if limits is not None and self.cls is not None and len(self.cls):
            best = best.where(best > limits[self.cls], 0)
        self.rows, self.best = rows, best

    def first(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best `count` pairs, or all, best first, equal ones in the order of rows and classes.

        Returns:
            xyxy_net (N, 4), confidence (N,), both float32, and class (N,).
        """
        least = float(self.best.topk(count, sorted=False).values.min()) if len(self.best) > count else 0
        index = self._where_above(self.best, least)  # rows that the pairs come from
        rows = self.rows.index_select(0, index)
        if self.cls is None:
            scores = rows[:, 5:].float() * rows[:, 4:5].float()  # (K, classes)
            index = self._where_above(scores.view(-1), least)  # (N,)
            conf = scores.view(-1).index_select(0, index)
        else:
            conf = self.best.index_select(0, index)
        # no two keys are equal: the confidence, whose bits rise with it, then the place from behind
        keys = (conf.view(torch.int32).long() << 32) - torch.arange(len(conf), device=conf.device)
        order = keys.topk(min(count, len(keys))).indices
        conf, index = conf.index_select(0, order), index.index_select(0, order)
        if self.cls is None:
            order = index // scores.shape[1]
            cls = index - order * scores.shape[1]
            cls = cls if self.columns is None else self.columns[cls]
        else:
            cls = self.cls.index_select(0, index)
        xywh = rows.index_select(0, order)[:, :4].float()
        return xywh2xyxy(xywh.t().contiguous().t()), conf, cls  # column by column in memory: a third of the time

    def _where_above(self, scores: Tensor, least: float) -> Tensor:
        """Return the places of scores (K,) above the threshold that are at least `least`, (N,)."""
        return _where(scores >= least if least > self.conf_thres else scores > self.conf_thres)


def _where(chosen: Tensor) -> Tensor:
    """Return the places (N,) where a mask (K,) is true; with `index_select` a third of the time of the mask itself."""
    return chosen.nonzero().view(-1)


def _suppress(candidates: Candidates, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """Choose among the candidates of one image; (D, 6) `[xyxy_net, confidence, class]`, best first.

    A candidate is decided by better survivors alone, so the survivors among the first ones are final, and what they
    dropped is out: of a longer list, only they and the next candidates are looked at, until `max_det` survive.
    """
    kept = torch.zeros(0, dtype=torch.long, device=candidates.best.device)
    # with many classes a row gives many pairs, and all its scores are looked at: then the first list is shorter
    first = SCORES // candidates.rows.shape[1] if candidates.multi_label else LISTED
    done, count = 0, min(MAX_CANDIDATES, LISTED, max(LISTED // 4, first))
    while True:
        boxes, conf, cls = candidates.first(count)
        # rounds on a CPU only: on a GPU each of them would wait for the device
        if count <= LISTED and kept.device.type == "cpu":
            kept = _survivors(_apart(boxes, None if agnostic else cls), kept, done, iou_thres, max_det)
        else:
            pool = torch.cat((kept, torch.arange(done, len(conf), device=kept.device)))
            groups = None if agnostic else cls[pool]
            kept = pool[batched_nms(boxes[pool], _falling(len(pool), kept.device), groups, iou_thres)]
        if len(kept) >= max_det or len(conf) < count or count == MAX_CANDIDATES:
            break
        # growing fourfold, so that all lists before cost a third of the last one
        done, count = count, min(MAX_CANDIDATES, 4 * count if count >= LISTED else LISTED)
    kept = kept[:max_det].clone()  # no tensor of inference mode, so that gradients flow through what is chosen
    boxes, conf, cls = (x.index_select(0, kept) for x in (boxes, conf, cls))
    return torch.cat((boxes, conf[:, None], cls[:, None].to(boxes.dtype)), 1)


@torch.inference_mode()
def _survivors(columns: Tensor, kept: Tensor, start: int, iou_thres: float, most: int) -> Tensor:
    """Return the indices of survivors, all or at least `most`, best first.

    Each round takes the next boxes, drops what overlaps a survivor of the rounds before and suppresses within the rest,
    so that boxes beyond those that are needed cost nothing.

    Args:
        columns: boxes (4, N) `xyxy`, float64, best first.
        kept: (K,) indices of survivors among the first `start` boxes.
        start: number of boxes that are decided.
        iou_thres: see `batched_nms`.
        most: survivors that are enough.
    """
    nms = _nms_of_torchvision()
    if start >= columns.shape[1]:
        return kept
    if not start and columns.shape[1] <= 2 * ROUND:  # a second round would cost more than it spares
        return nms(columns.t(), _falling(columns.shape[1], columns.device), iou_thres)
    overlaps = Overlaps(columns, iou_thres)
    index = torch.arange(columns.shape[1], device=columns.device)
    while start < len(index) and len(kept) < most:
        new = index[start : start + ROUND]
        if len(kept):
            new = new.index_select(0, _where(~overlaps.above(kept, start, start + len(new))))
        boxes = columns.index_select(1, new).t()
        kept = torch.cat((kept, new.index_select(0, nms(boxes, _falling(len(new), new.device), iou_thres))))
        start += ROUND
    return kept


@cache
def _nms_of_torchvision() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return `torchvision.ops.nms`, from the package's library where that can be loaded by itself.

    With it the package loads models, transforms and PyTorch's compiler, 0.8 to 1 s of CPU time.
    """
    spec = find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in sorted(Path(folder).glob("_C*.so")):
            with suppress(OSError, AttributeError):
                torch.ops.load_library(str(library))
                return torch.ops.torchvision.nms
    from torchvision.ops import nms

    return nms


class Overlaps:
    """Which of N boxes overlap others too much, found in float32, and in float64 where rounding could decide.

    IoU > t means common area > t / (1 + t) (area of one + area of the other), which spares a division. Rounded to
    float32, a coordinate is off by d = max|x| / 2^24 at most and a side by 2 d, so what a box of longer side l has in
    common with another one by 4 d (l + d); the areas are rounded alone. `error` is well above the sum of these.

    Args:
        columns: boxes (4, N) `xyxy`, float64.
        iou_thres: the IoU t that is not too much yet.
    """

    def __init__(self, columns: Tensor, iou_thres: float) -> None:
        sides = columns[2:] - columns[:2]
        area = sides[:1] * sides[1:]
        self.boxes = torch.cat((columns, area))  # (5, N)
        self.rounded = torch.cat((columns, area * (iou_thres / (1 + iou_thres)))).float()  # (5, N)
        self.iou_thres = iou_thres
        d = columns.abs().max() * 2.0**-24
        self.error = 64 * d * (sides.amax(0) + d)  # (N,)

    def above(self, better: Tensor, start: int, end: int) -> Tensor:
        """Return for each of the boxes from `start` to `end` whether it overlaps any of `better` (K,) too much."""
        a, b = self.rounded.index_select(1, better), self.rounded[:, start:end]
        excess = common_area(a, b).sub_(a[4, :, None]).amax(0) - b[4]
        # written so that NaN counts as unsure, too
        unsure = _where(~(excess.abs() > self.error[start:end]))
        result = excess > 0
        if len(unsure):
            a, b = self.boxes.index_select(1, better), self.boxes[:, start:end].index_select(1, unsure)
            common = common_area(a, b)
            result[unsure] = (common / (a[4, :, None] + b[4] - common) > self.iou_thres).any(0)
        return result


def common_area(a: Tensor, b: Tensor) -> Tensor:
    """Return the area (K, N) that boxes (4 or more, K) and (4 or more, N) `xyxy` have in common.

    0 may come out below 0: of a pair that is apart along y alone the height stays negative.
    """
    a, b = a[:, :, None], b[:, None]  # (5, K, 1), (5, 1, N)
    sides = torch.minimum(a[2:4], b[2:4]).sub_(torch.maximum(a[:2], b[:2]))  # (2, K, N)
    width, height = sides.unbind(0)  # (K, N), (K, N)
    return width.clamp_(min=0).mul_(height)


def _falling(count: int, device: torch.device) -> Tensor:
    """Return scores without ties for boxes that are in their order."""
    return torch.arange(count, 0, -1, dtype=torch.float64, device=device)


def _apart(boxes: Tensor, groups: Tensor | None) -> Tensor:
    """Shift boxes (N, 4) `xyxy` of each group along both axes, so far that none meets another; (4, N), float64.

    Along x alone would do, but then nms has a branch that depends on y: it took 1.5 times as long.
    """
    columns = boxes.t().to(torch.float64, memory_format=torch.contiguous_format, copy=True)
    if groups is not None and len(boxes):
        low, high = columns.aminmax()
        columns += groups * (high - low + 1)  # more than the extent of all, so that not even edges touch
    return columns


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_thres: float) -> Tensor:
    """Return the indices of the boxes that survive greedy suppression within each group, best first.

    Computed in float64. Of many boxes on the CPU a few groups at a time are suppressed, as the time rises with the
    square of their number.

    Args:
        boxes: (N, 4) `xyxy`, x1 <= x2 and y1 <= y2.
        scores: (N,); equal ones keep their order.
        groups: (N,) whole numbers; boxes of different groups do not suppress each other. None for a single group.
        iou_thres: a box is dropped when its IoU with a better one of its group exceeds this.
    """
    nms = _nms_of_torchvision()
    boxes, scores = _apart(boxes, groups).t(), scores.double()
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    if groups is None or len(boxes) < 2 * PART or boxes.device.type != "cpu":
        return nms(boxes, scores, iou_thres)
    order = groups.argsort(stable=True)  # (N,)
    sizes = groups[order].unique_consecutive(return_counts=True)[1]
    # small groups share a part of about PART boxes, so that there are few calls; none is cut
    part = (sizes.cumsum(0) - sizes) // PART  # of each group
    sizes = part.bincount(sizes).long().tolist()
    parts = zip(order.split(sizes), boxes[order].split(sizes), scores[order].split(sizes), strict=True)
    keep = torch.cat([index[nms(b, s, iou_thres)] for index, b, s in parts if len(index)]).sort().values
    return keep[scores[keep].argsort(descending=True, stable=True)]
