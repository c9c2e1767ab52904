"""Non-maximum suppression: decoded network output to a short list of boxes per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.boxes import xywh2xyxy

MAX_CANDIDATES = 30000  # rows per image that enter the suppression; weaker ones are dropped
FIRST_ROUND = 512  # rows of the first round, multiplied until `max_det` of them survive


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
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
        conf_thres: a box needs objectness and objectness * class score above this, in [0, 1].
        iou_thres: a box is dropped when its IoU with a better one exceeds this, in [0, 1].
        classes: keep these class numbers only; None keeps all. It filters after the best class has been chosen.
        agnostic: let boxes of different classes suppress each other.
        multi_label: one row for each class of a box above `conf_thres` (AP is measured so), not its best class only.
        labels: per image (M, 5) `[class, xywh_net]`, known boxes that enter with confidence 1; () for none.
        max_det: rows kept per image, at least 1.

    Returns:
        B float32 tensors (D, 6) `[xyxy_net, confidence, class]`, best first, D <= max_det; (0, 6) without detections.

    Raises:
        ValueError: a threshold outside [0, 1], max_det below 1, a class number that does not exist, or a wrong shape.
    """
    if isinstance(prediction, (list, tuple)):
        prediction = prediction[0]
    _check_arguments(prediction, conf_thres, iou_thres, classes, labels, max_det)
    device = prediction.device
    if device.type == "mps":  # torchvision has no NMS there, and float64 is missing
        prediction = prediction.cpu()
    wanted = None if classes is None else torch.as_tensor(list(classes), device=prediction.device)

    above = prediction[..., 4] > conf_thres  # (B, R)
    results = []
    for i, rows in enumerate(prediction):
        rows = rows[above[i]].float()  # (K, 5 + classes)
        if len(labels) and len(labels[i]):
            rows = torch.cat((rows, _labels_as_rows(labels[i].to(rows), rows.shape[1])))
        candidates = _candidates(rows, conf_thres, multi_label, wanted)
        results.append(_suppress(rows, candidates, iou_thres, agnostic, max_det).to(device))
    return results


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_thres: float) -> Tensor:
    """Return the indices of the boxes that survive greedy suppression within each group, best first.

    Args:
        boxes: (N, 4) `xyxy`, x1 <= x2 and y1 <= y2.
        scores: (N,).
        groups: (N,) numbers; boxes of different groups do not suppress each other.
        iou_thres: a box is dropped when its IoU with a better one of its group exceeds this.
    """
    from torchvision import ops  # loading torchvision takes as long as torch itself

    return ops.batched_nms(boxes, scores, groups, iou_thres)


def _check_arguments(
    prediction: Tensor,
    conf_thres: float,
    iou_thres: float,
    classes: Sequence[int] | None,
    labels: Sequence[Tensor],
    max_det: int,
) -> None:
    """Raise ValueError for the first argument that cannot work."""
    if prediction.ndim != 3 or prediction.shape[2] < 6:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, needed is (images, rows, 5 + classes)")
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, allowed is 0 to 1")
    if max_det < 1:
        raise ValueError(f"max_det is {max_det}, allowed is 1 or more")
    nc = prediction.shape[2] - 5
    for c in classes or ():
        if not 0 <= c < nc:
            raise ValueError(f"class {c} does not exist, the model has classes 0 to {nc - 1}")
    if len(labels) not in (0, len(prediction)):
        raise ValueError(f"labels for {len(labels)} images were given with predictions of {len(prediction)}")


def _labels_as_rows(labels: Tensor, no: int) -> Tensor:
    """Turn (M, 5) `[class, xywh_net]` into (M, no) prediction rows of objectness 1 and class score 1."""
    rows = labels.new_zeros(len(labels), no)
    rows[:, :4] = labels[:, 1:]
    rows[:, 4] = 1
    rows[torch.arange(len(labels)), labels[:, 0].long() + 5] = 1
    return rows


def _candidates(rows: Tensor, conf_thres: float, multi_label: bool, wanted: Tensor | None) -> tuple[Tensor, ...]:
    """List the pairs of row and class above the threshold.

    Returns:
        Row number (N,) in `rows`, class (N,) and confidence (N,), in the order of the rows.
    """
    scores = rows[:, 5:] * rows[:, 4:5]  # (K, classes)
    if multi_label and scores.shape[1] > 1:
        index, cls = (scores > conf_thres).nonzero(as_tuple=True)  # (N,), (N,)
        conf = scores[index, cls]  # (N,)
    else:
        conf, cls = scores.max(1)  # (K,), (K,)
        index = (conf > conf_thres).nonzero(as_tuple=True)[0]  # (N,)
        conf, cls = conf[index], cls[index]
    if wanted is None:
        return index, cls, conf
    asked = torch.isin(cls, wanted)
    return index[asked], cls[asked], conf[asked]


def _best_first(conf: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest of `conf`, largest first, equal ones in their order."""
    if len(conf) <= count:
        return conf.argsort(descending=True, stable=True)
    smallest = conf.topk(count, sorted=False).values.min()  # far cheaper than to sort everything
    best = (conf >= smallest).nonzero()[:, 0]  # (count or more,): all that tie with the smallest
    return best[conf[best].argsort(descending=True, stable=True)[:count]]


def _suppress(rows: Tensor, candidates: tuple[Tensor, ...], iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """Choose among the `candidates` of `_candidates`; (D, 6) `[xyxy_net, confidence, class]`, best first.

    A candidate is decided by better ones alone, so the survivors among the first k are final: start with a short list
    and lengthen it only while it yields fewer than `max_det`. Float64, because `batched_nms` may keep classes apart by
    shifting them far along both axes; from the origin on, because it supposes that no coordinate is negative.
    """
    index, cls, conf = candidates
    boxes = xywh2xyxy(rows[:, :4])  # (K, 4)
    origin = boxes.min().double() if len(boxes) else 0.0
    groups = torch.zeros_like(cls) if agnostic else cls  # (N,)
    total = min(len(conf), MAX_CANDIDATES)
    count = min(total, max(FIRST_ROUND, max_det))
    while True:
        best = _best_first(conf, count)  # (count,)
        found = torch.cat((boxes[index[best]], conf[best, None], cls[best, None].to(boxes.dtype)), 1)  # (count, 6)
        falling = torch.arange(count, 0, -1, dtype=torch.float64, device=found.device)  # scores without ties
        keep = batched_nms(found[:, :4].double() - origin, falling, groups[best], iou_thres)[:max_det]
        if len(keep) == max_det or count == total:
            return found[keep]
        count = min(total, 4 * count)
