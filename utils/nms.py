"""Non-maximum suppression: decoded network output to a short list of boxes per image.

Letters: B images, R rows of an image, K of them that can pass, N pairs of row and class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.boxes import xywh2xyxy

MAX_CANDIDATES = 30000  # pairs per image that enter the suppression; weaker ones are dropped
FIRST_ROUND = 512  # pairs of the first round; every further one takes four times as many
MANY = 3000  # boxes from which on groups are suppressed one by one


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
    results = []
    for i, rows in enumerate(prediction):
        if len(labels) and len(labels[i]):
            rows = torch.cat((rows.float(), _labels_as_rows(labels[i].to(rows.device, torch.float32), rows.shape[1])))
        candidates = Candidates(rows, conf_thres, classes, multi_label)
        results.append(_suppress(candidates, iou_thres, agnostic, max_det).to(device))
    return results


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
    rows[torch.arange(len(labels), device=rows.device), labels[:, 0].long() + 5] = 1
    return rows


class Candidates:
    """The pairs of row and class of one image above the threshold, best first, listed only as far as they are needed.

    The best class of a row bounds its other ones: of the rows whose best class is among the best N of all rows come the
    best N pairs. So a few hundred pairs of half a million cost one maximum for each row.

    Args:
        rows: (R, 5 + classes) `[xywh_net, objectness, class scores]`.
        conf_thres: objectness and confidence must exceed it.
        classes: see `non_max_suppression`, as `multi_label`.
        multi_label: see `classes`.
    """

    def __init__(self, rows: Tensor, conf_thres: float, classes: Sequence[int] | None, multi_label: bool) -> None:
        rows = rows[rows[:, 4] > conf_thres]  # (K, 5 + classes)
        wanted = None if classes is None else torch.tensor(sorted(set(classes)), dtype=torch.long, device=rows.device)
        self.columns = None  # class of each column of scores; None for all in their order
        self.conf_thres, self.multi_label = conf_thres, multi_label and rows.shape[1] > 6
        if self.multi_label and wanted is not None:
            rows, self.columns = torch.cat((rows[:, :5], rows[:, 5 + wanted]), 1), wanted
        if rows.shape[1] == 5 or not len(rows):  # no class is wanted, or no row is left
            self.rows, self.best, self.cls = rows[:0], rows.new_zeros(0).float(), rows.new_zeros(0).long()
            return
        best, cls = rows[:, 5:].max(1)  # (K,), (K,)
        best = best.float() * rows[:, 4].float()
        passed = best > conf_thres
        if wanted is not None and not self.multi_label:
            passed &= torch.isin(cls, wanted)
        self.rows, self.best, self.cls = (x[passed] for x in (rows, best, cls))

    def first(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best `count` pairs, or all, best first, equal ones in the order of rows and classes.

        Returns:
            xyxy_net (N, 4), confidence (N,), both float32, and class (N,).
        """
        index = torch.arange(len(self.best), device=self.best.device)  # rows that the pairs come from
        least = None
        if len(self.best) > count:
            least = self.best.topk(count, sorted=False).values.min()
            index = index[self.best >= least]
        if self.multi_label:
            scores = self.rows[index, 5:].float() * self.rows[index, 4:5].float()  # (K, classes)
            chosen = scores > self.conf_thres if least is None else scores >= least
            row, cls = chosen.nonzero(as_tuple=True)  # (N,), (N,)
            conf, index = scores[row, cls], index[row]
            cls = cls if self.columns is None else self.columns[cls]
        else:
            conf, cls = self.best[index], self.cls[index]
        order = conf.argsort(descending=True, stable=True)[:count]
        return xywh2xyxy(self.rows[index[order], :4].float()), conf[order], cls[order]


def _suppress(candidates: Candidates, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """Choose among the candidates of one image; (D, 6) `[xyxy_net, confidence, class]`, best first.

    A candidate is decided by better survivors alone, so the survivors of a round are final, and what a round dropped is
    out: each further round holds the survivors so far and the next candidates, until `max_det` survive.
    """
    kept, done, count = None, 0, min(MAX_CANDIDATES, max(FIRST_ROUND, max_det))
    while True:
        boxes, conf, cls = candidates.first(count)
        found = torch.cat((boxes, conf[:, None], cls[:, None].to(boxes.dtype)), 1)  # (N, 6)
        pool = found if kept is None else torch.cat((kept, found[done:]))
        groups = torch.zeros_like(pool[:, 5]) if agnostic else pool[:, 5]
        falling = torch.arange(len(pool), 0, -1, dtype=torch.float64, device=pool.device)  # scores without ties
        kept = pool[batched_nms(pool[:, :4], falling, groups, iou_thres)]
        if len(kept) >= max_det or len(found) < count or count == MAX_CANDIDATES:
            return kept[:max_det]
        done, count = count, min(MAX_CANDIDATES, 4 * count)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_thres: float) -> Tensor:
    """Return the indices of the boxes that survive greedy suppression within each group, best first.

    Computed in float64: few boxes are kept apart by shifting each group along x, far enough that none meets another.

    Args:
        boxes: (N, 4) `xyxy`, x1 <= x2 and y1 <= y2.
        scores: (N,); equal ones keep their order.
        groups: (N,) whole numbers; boxes of different groups do not suppress each other.
        iou_thres: a box is dropped when its IoU with a better one of its group exceeds this.
    """
    from torchvision.ops import nms

    boxes, scores = boxes.double(), scores.double()
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    if len(boxes) < MANY or boxes.device.type != "cpu":
        x = boxes[:, 0::2]
        shift = groups.double() * (x.max() - x.min() + 1)  # (N,)
        return nms(torch.stack((x[:, 0] + shift, boxes[:, 1], x[:, 1] + shift, boxes[:, 3]), 1), scores, iou_thres)
    order = groups.argsort(stable=True)  # (N,)
    sizes = groups[order].unique_consecutive(return_counts=True)[1].tolist()
    parts = zip(order.split(sizes), boxes[order].split(sizes), scores[order].split(sizes), strict=True)
    keep = torch.cat([index[nms(b, s, iou_thres)] for index, b, s in parts]).sort().values
    return keep[scores[keep].argsort(descending=True, stable=True)]
