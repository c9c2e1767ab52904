"""The training loss: which anchor owns which target, one function per term, and the class that adds them up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.boxes import bbox_iou
from utils.torch_utils import de_parallel

LEVEL_BALANCE: dict[int, tuple[float, ...]] = {3: (4.0, 1.0, 0.4)}
LEVEL_BALANCE_DEFAULT = (4.0, 1.0, 0.25, 0.06, 0.02)  # P3 to P7
NEIGHBOUR_REACH = 0.5  # a cell next to the centre also owns the target when the centre is closer than this
FOCAL_ALPHA = 0.25
FAINT = 0.01  # objectness of a teacher below which it says nothing about box and class
EPSILON = 1e-5  # added to the variance of a channel of a feature map
# centre, left, up, right, down as (column, row) offsets towards the owning cell
NEIGHBOURS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))

Shares = Callable[[Sequence[float]], list[float]]


@dataclass(frozen=True)
class LevelTargets:
    """What one level has to predict, one entry per (target, anchor, owning cell); E entries.

    Attributes:
        image, anchor, row, column: int64 (E,), where in the raw map (B, A, H, W, 5 + nc).
        box: (E, 4) centre offset from the cell, -0.5..1.5, and size, in cells.
        anchor_wh: (E, 2) size of the anchor in cells.
        label: int64 (E,) class.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    anchor_wh: Tensor
    label: Tensor


def assign_targets(targets: Tensor, anchors: Tensor, size: tuple[int, int], anchor_t: float) -> LevelTargets:
    """Find the anchors and cells of one level that are responsible for each target.

    An anchor fits when neither side is more than `anchor_t` times longer or shorter than the target's; there is no
    exclusivity between anchors or levels. The cell that holds the centre and the nearest horizontal and vertical
    neighbours own the target. Entries run over centre, left, up, right, down; within each over anchors, then targets.

    Args:
        targets: (T, 6) rows of image index, class, x, y, w, h, boxes 0..1.
        anchors: (A, 2) in cells of this level.
        size: rows and columns of the map.
        anchor_t: largest ratio between sides, above 1.
    """
    ny, nx = size
    gain = targets.new_tensor((nx, ny, nx, ny))
    boxes = targets[:, 2:6] * gain  # (T, 4) in cells
    ratio = boxes[None, :, 2:4] / anchors[:, None]  # (A, T, 2)
    fits = torch.max(ratio, 1 / ratio).amax(2) < anchor_t
    anchor, index = fits.nonzero(as_tuple=True)  # anchor-major
    xy = boxes[index, :2]
    inverse = gain[:2] - xy
    left, up = ((xy % 1 < NEIGHBOUR_REACH) & (xy > 1)).unbind(1)
    right, down = ((inverse % 1 < NEIGHBOUR_REACH) & (inverse > 1)).unbind(1)
    owners = torch.stack((torch.ones_like(left), left, up, right, down))  # (5, pairs)
    which, pair = owners.nonzero(as_tuple=True)
    offset = xy.new_tensor(NEIGHBOURS)[which] * NEIGHBOUR_REACH
    xy, anchor, index = xy[pair], anchor[pair], index[pair]
    cell = (xy - offset).long()  # (E, 2) column, row
    return LevelTargets(
        image=targets[index, 0].long(),
        anchor=anchor,
        row=cell[:, 1].clamp(0, ny - 1),
        column=cell[:, 0].clamp(0, nx - 1),
        box=torch.cat((xy - cell, boxes[index, 2:4]), 1),
        anchor_wh=anchors[anchor],
        label=targets[index, 1].long(),
    )


def level_balance(levels: int) -> list[float]:
    """Return the weight of the objectness of each level."""
    return list(LEVEL_BALANCE.get(levels, LEVEL_BALANCE_DEFAULT[:levels]))


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the positive and negative class target under label smoothing `eps` (0..1)."""
    return 1.0 - 0.5 * eps, 0.5 * eps


def focal(loss: Tensor, logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Weigh binary losses, element by element, by how wrong they are (arXiv:1708.02002, equation 5)."""
    p = logits.sigmoid()
    p_true = target * p + (1 - target) * (1 - p)
    weight = target * alpha + (1 - target) * (1 - alpha)
    return loss * weight * (1 - p_true) ** gamma


def quality_focal(loss: Tensor, logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Weigh binary losses by the distance from a target between 0 and 1 (arXiv:2006.04388, equation 6)."""
    weight = target * alpha + (1 - target) * (1 - alpha)
    return loss * weight * (target - logits.sigmoid()).abs() ** gamma


class FocalLoss(nn.Module):
    """Focal form (arXiv:1708.02002) of a binary loss of logits and targets.

    Args:
        loss_fcn: such as `nn.BCEWithLogitsLoss()`; its reduction becomes that of this module.
        gamma: how much less the easy ones count.
        alpha: weight of the positive ones, the negative ones have 1 - alpha.
    """

    weigh = staticmethod(focal)

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25) -> None:
        super().__init__()
        self.loss_fcn, self.gamma, self.alpha = loss_fcn, gamma, alpha
        self.reduction = loss_fcn.reduction
        loss_fcn.reduction = "none"  # the weights differ by element

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the loss of logits and targets (0..1) of one shape, reduced to a scalar unless that is "none"."""
        loss = self.weigh(self.loss_fcn(pred, true), pred, true, self.gamma, self.alpha)
        return {"mean": loss.mean, "sum": loss.sum}.get(self.reduction, lambda: loss)()


class QFocalLoss(FocalLoss):
    """Quality focal form (arXiv:2006.04388) of a binary loss, for targets between 0 and 1; see `FocalLoss`."""

    weigh = staticmethod(quality_focal)


def decode_boxes(raw: Tensor, anchor_wh: Tensor) -> Tensor:
    """Turn raw box outputs (E, 4) at their assigned cells into centre offset and size in cells."""
    y = raw.sigmoid() * 2
    xy, wh = y.chunk(2, -1)
    return torch.cat((xy - 0.5, wh * wh * anchor_wh), -1)


class ComputeLoss:
    """Weighted sum of box (CIoU), objectness and class loss over all levels.

    Everything is computed in float32. Where several targets claim one cell and anchor, its objectness target is the
    best of their IoUs, whatever their order (spec fault: last write wins; equal without collisions).

    Args:
        model: a DetectionModel whose `hyp` mapping holds box, obj, cls, cls_pw, obj_pw, anchor_t, fl_gamma,
            label_smoothing; and cls_weights, one number for each class, or nothing.
        autobalance: let the balance of the levels follow their objectness loss.
        shares: for several processes that share a batch: takes the targets of each level in this process and returns
            how many times the mean over the processes that is, so that the mean of the losses is that of the batch.
            Not called without gradients: one process validates alone.

    Attributes:
        nc, nl, na, anchors, device: as of the head: classes, levels, anchors of a level, their sizes in cells.
        cp, cn: targets of the class scores. balance: weight of each level. ssi: index of the level with stride 16,
            whose weight `autobalance` keeps at 1.
        class_weights: (nc,) how much a label of each class counts in the class loss; None if all count once.
        BCEcls, BCEobj: losses of class scores and objectness, logits and targets of one shape to a scalar.
        gr: the objectness target of a matched cell is (1 - gr) + gr * IoU.
        sort_obj_iou: True, as the best IoU at a cell is the target; for subclasses that ask, nothing here reads it.
        seen, matched: targets of all calls with gradients, and the pairs of anchor and cell that were found for them.
    """

    gr = 1.0
    sort_obj_iou = True

    def __init__(
        self,
        model: Any,
        autobalance: bool = False,
        shares: Shares | None = None,
    ) -> None:
        network: Any = de_parallel(model)
        head = network.model[-1]
        self.hyp = model.hyp if hasattr(model, "hyp") else network.hyp  # YOLOv5's training loop sets it on the wrapper
        self.head = head
        self.nc, self.nl, self.na = head.nc, head.nl, head.na
        self.anchors, self.device = head.anchors, head.anchors.device
        self.autobalance = autobalance
        self.shares = shares
        self.seen = self.matched = 0
        self.balance = level_balance(head.nl)
        strides = head.stride.tolist()
        self.ssi = strides.index(16) if 16 in strides else 0
        self.cp, self.cn = smooth_BCE(self.hyp.get("label_smoothing", 0.0))
        self.BCEcls, self.BCEobj = self._binary_loss("cls_pw"), self._binary_loss("obj_pw")
        weights = self.hyp.get("cls_weights")
        if weights is not None and (not isinstance(weights, list) or len(weights) != self.nc):
            raise ValueError(f"cls_weights is {weights!r:.80}, but the loss needs a list of {self.nc} numbers")
        self.class_weights = None if weights is None else torch.tensor(weights, device=self.device)

    def _binary_loss(self, weight: str) -> nn.Module:
        """Return a binary loss, focal if `fl_gamma` is above 0, whose positive weight is a hyperparameter."""
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([float(self.hyp[weight])], device=self.device))
        gamma = self.hyp["fl_gamma"]
        return FocalLoss(loss, gamma, FOCAL_ALPHA) if gamma > 0 else loss

    def _class_loss(self, scores: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
        """Return the class loss of scores (E, nc), their targets and the classes that are there (E,), a scalar.

        A weight counts for the whole row of its label, as in the class-balanced loss (arXiv:1901.05555, equation 5):
        for the score of the class itself and for those of the others, which should be low there.
        """
        if self.class_weights is not None:
            plain = getattr(self.BCEcls, "loss_fcn", self.BCEcls)  # of a focal loss, what it is built on
            plain.weight = self.class_weights[labels, None]  # (E, 1)
        return self.BCEcls(scores, wanted)

    def build_targets(self, p: list[Tensor], targets: Tensor) -> tuple[list, list, list, list]:
        """Find what each level has to predict, see `assign_targets`; a subclass may choose otherwise.

        Args:
            p: raw maps, one (B, A, H, W, 5 + nc) per level.
            targets: (T, 6) rows of image index, class, x, y, w, h, boxes 0..1.

        Returns:
            Of each level: classes (E,), boxes (E, 4) in cells from the owning one, (image, anchor, row, column) of E
            entries each, and sizes of their anchors (E, 2) in cells.
        """
        found = [
            assign_targets(
                targets, self.head.anchors[level].float(), (raw.shape[2], raw.shape[3]), self.hyp["anchor_t"]
            )
            for level, raw in enumerate(p)
        ]
        places = [(t.image, t.anchor, t.row, t.column) for t in found]
        return [t.label for t in found], [t.box for t in found], places, [t.anchor_wh for t in found]

    def __call__(self, preds: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss.

        Args:
            preds: raw maps, one (B, A, H, W, 5 + nc) per level.
            targets: (T, 6) rows of image index, class, x, y, w, h, boxes 0..1.

        Returns:
            The loss times the batch size, (1,) with gradient, and the three terms (box, objectness, class), (3,),
            detached.
        """
        hyp, device = self.hyp, preds[0].device
        targets = targets.to(device=device, dtype=torch.float32)
        terms = torch.zeros(3, device=device).unbind()
        box_loss, obj_loss, cls_loss = terms
        assigned = self.build_targets(preds, targets)
        counts = [len(labels) for labels in assigned[0]]
        if torch.is_grad_enabled():
            self.seen += len(targets)
            self.matched += sum(counts)
        shares = self.shares(counts) if self.shares and torch.is_grad_enabled() else [1.0] * len(counts)
        for level, (raw, labels, boxes, place, anchor_wh) in enumerate(zip(preds, *assigned, strict=True)):
            raw = raw.float()
            objectness = torch.zeros_like(raw[..., 0])
            if len(labels):
                chosen = raw[place]  # (E, 5 + nc)
                iou = bbox_iou(decode_boxes(chosen[:, :4], anchor_wh), boxes, CIoU=True).view(-1)
                box_loss = box_loss + (1.0 - iou).mean() * shares[level]
                objectness = highest_at(objectness, place, (1 - self.gr) + self.gr * iou.detach().clamp(min=0))
                if self.nc > 1:
                    wanted = torch.full_like(chosen[:, 5:], self.cn)
                    wanted[torch.arange(len(labels), device=device), labels] = self.cp
                    cls_loss = cls_loss + self._class_loss(chosen[:, 5:], wanted, labels) * shares[level]
            level_loss = self.BCEobj(raw[..., 4], objectness)
            obj_loss = obj_loss + level_loss * self.balance[level]
            if self.autobalance:
                self.balance[level] = self.balance[level] * 0.9999 + 0.0001 / level_loss.detach().item()
        if self.autobalance:
            self.balance = [b / self.balance[self.ssi] for b in self.balance]
        items = torch.stack((box_loss * hyp["box"], obj_loss * hyp["obj"], cls_loss * hyp["cls"]))
        return items.sum(0, keepdim=True) * preds[0].shape[0], items.detach()


def compute_loss(p: list[Tensor], targets: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    """Compute the loss of one batch as YOLOv5 up to 4.0 asked for it, see `ComputeLoss`."""
    return ComputeLoss(model)(p, targets)


def highest_at(base: Tensor, place: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """Return `base` with the largest of `values` written to each place; independent of their order."""
    flat = torch.zeros_like(place[0])
    for index, size in zip(place, base.shape, strict=True):
        flat = flat * size + index
    return base.flatten().scatter_reduce(0, flat, values, "amax", include_self=False).view(base.shape)


# Distillation: what a student learns from a frozen teacher -----------------------------------------------------------
def output_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    anchors: Tensor,
    gains: Mapping[str, Any],
    shares: Shares | None = None,
) -> Tensor:
    """Compare raw maps: objectness everywhere, boxes and classes where the teacher sees an object.

    Objectness and classes are binary cross-entropies against the probabilities of the teacher, so an equal student has
    their entropy as loss, not 0. Boxes have 1 - CIoU. Boxes and classes are weighted by the objectness of the teacher.

    Args:
        student: raw maps, one (B, A, H, W, 5 + nc) per level; with gradient.
        teacher: the same of the teacher.
        anchors: of both heads, (levels, A, 2) in cells.
        gains: `box`, `obj` and `cls`, as for the detection loss.
        shares: see `ComputeLoss`, here of sums of weights.

    Returns:
        The loss, a scalar, in float32.
    """
    objectness = boxes = classes = weights = torch.zeros((), device=student[0].device)
    for own, theirs, anchor, balance in zip(student, teacher, anchors, level_balance(len(student)), strict=True):
        own, theirs = own.float(), theirs.float()
        target = theirs[..., 4].sigmoid()
        objectness = objectness + F.binary_cross_entropy_with_logits(own[..., 4], target) * balance
        seen = target > FAINT
        wh = anchor.float()[seen.nonzero(as_tuple=True)[1]]  # (E, 2)
        own, theirs, weight = own[seen], theirs[seen], target[seen]  # (E, 5 + nc) and (E,)
        iou = bbox_iou(decode_boxes(own[:, :4], wh), decode_boxes(theirs[:, :4], wh), CIoU=True).view(-1)
        boxes = boxes + ((1 - iou) * weight).sum()
        if own.shape[1] > 6:  # one class needs no score, as in the detection loss
            wrong = F.binary_cross_entropy_with_logits(own[:, 5:], theirs[:, 5:].sigmoid(), reduction="none")
            classes = classes + (wrong.mean(1) * weight).sum()
        weights = weights + weight.sum()
    # the detection loss adds up its levels: the mean over all of them counts as often
    matched = _weighted_mean(boxes * gains["box"] + classes * gains["cls"], weights, shares) * len(student)
    return objectness * gains["obj"] + matched


def map_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], outputs: Sequence[Tensor], shares: Shares | None = None
) -> Tensor:
    """Compare feature maps by their pattern, not by their scale (arXiv:2207.02039); 0 if that is equal.

    Each channel is brought to mean 0 and variance 1 over the batch; the squared error of each cell is weighted by the
    highest score that the teacher has there.

    Args:
        student: maps that the head reads, one (B, C, H, W) per level; with gradient.
        teacher: the same of the teacher.
        outputs: raw maps of the teacher, one (B, A, H, W, 5 + nc) per level, whatever its classes are.
        shares: see `ComputeLoss`, here of sums of weights.

    Returns:
        The loss, a scalar, in float32.
    """
    total = weights = torch.zeros((), device=student[0].device)
    for own, theirs, raw in zip(student, teacher, outputs, strict=True):
        scores = raw[..., 4:].float().sigmoid()
        weight = (scores[..., :1] * scores[..., 1:]).amax((1, 4))  # (B, H, W)
        error = (_normalized(own) - _normalized(theirs)).square().mean(1)
        total = total + (error * weight).sum()
        weights = weights + weight.sum()
    return _weighted_mean(total, weights, shares)


def _weighted_mean(total: Tensor, weights: Tensor, shares: Shares | None) -> Tensor:
    """Return a weighted mean, 0 without weights; its mean over the processes is that of the batch."""
    share = shares([float(weights)])[0] if shares else 1.0
    return total / weights.clamp(min=1e-9) * share


def _normalized(x: Tensor) -> Tensor:
    """Bring each channel of (B, C, H, W) to mean 0 and variance 1."""
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0, keepdim=True)
    return (x.float() - mean) * (variance + EPSILON).rsqrt()
