"""The training loss: which anchor owns which target, one function per term, and the class that adds them up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.boxes import bbox_iou

LEVEL_BALANCE: dict[int, tuple[float, ...]] = {3: (4.0, 1.0, 0.4)}
LEVEL_BALANCE_DEFAULT = (4.0, 1.0, 0.25, 0.06, 0.02)  # P3 to P7
NEIGHBOUR_REACH = 0.5  # a cell next to the centre also owns the target when the centre is closer than this
FOCAL_ALPHA = 0.25
# centre, left, up, right, down as (column, row) offsets towards the owning cell
NEIGHBOURS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))


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


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the positive and negative class target under label smoothing `eps` (0..1)."""
    return 1.0 - 0.5 * eps, 0.5 * eps


def binary_loss(logits: Tensor, target: Tensor, pos_weight: Tensor, gamma: float) -> Tensor:
    """Return the mean binary cross-entropy, or its focal form (arXiv:1708.02002, equation 5) where gamma is above 0."""
    if gamma <= 0:
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)
    loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction="none")
    return focal(loss, logits, target, gamma, FOCAL_ALPHA).mean()


def focal(loss: Tensor, logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Weigh binary losses, element by element, by how wrong they are (arXiv:1708.02002, equation 5)."""
    p = logits.sigmoid()
    p_true = target * p + (1 - target) * (1 - p)
    weight = target * alpha + (1 - target) * (1 - alpha)
    return loss * weight * (1 - p_true) ** gamma


class FocalLoss(nn.Module):
    """Focal form (arXiv:1708.02002) of a binary loss of logits and targets.

    Args:
        loss_fcn: such as `nn.BCEWithLogitsLoss()`; its reduction becomes that of this module.
        gamma: how much less the easy ones count.
        alpha: weight of the positive ones, the negative ones have 1 - alpha.
    """

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25) -> None:
        super().__init__()
        self.loss_fcn, self.gamma, self.alpha = loss_fcn, gamma, alpha
        self.reduction = loss_fcn.reduction
        loss_fcn.reduction = "none"  # the weights differ by element

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the loss of logits and targets (0..1) of one shape, reduced to a scalar unless that is "none"."""
        loss = focal(self.loss_fcn(pred, true), pred, true, self.gamma, self.alpha)
        return {"mean": loss.mean, "sum": loss.sum}.get(self.reduction, lambda: loss)()


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
            label_smoothing.
        autobalance: let the balance of the levels follow their objectness loss.
        shares: for several processes that share a batch: takes the targets of each level in this process and returns
            how many times the mean over the processes that is, so that the mean of the losses is that of the batch.
            Not called without gradients: one process validates alone.

    Attributes:
        nc, nl, na, anchors, device: as of the head: classes, levels, anchors of a level, their sizes in cells.
        cp, cn: targets of the class scores. balance: weight of each level.
        seen, matched: targets of all calls with gradients, and the pairs of anchor and cell that were found for them.
    """

    def __init__(
        self,
        model: Any,
        autobalance: bool = False,
        shares: Callable[[list[int]], list[float]] | None = None,
    ) -> None:
        head = model.model[-1]
        self.hyp = model.hyp
        self.head = head
        self.nc, self.nl, self.na = head.nc, head.nl, head.na
        self.anchors, self.device = head.anchors, head.anchors.device
        self.autobalance = autobalance
        self.shares = shares
        self.seen = self.matched = 0
        self.balance = list(LEVEL_BALANCE.get(head.nl, LEVEL_BALANCE_DEFAULT[: head.nl]))
        strides = head.stride.tolist()
        self.reference_level = strides.index(16) if 16 in strides else 0
        self.cp, self.cn = smooth_BCE(self.hyp.get("label_smoothing", 0.0))

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
        cls_pw = torch.full((1,), float(hyp["cls_pw"]), device=device)
        obj_pw = torch.full((1,), float(hyp["obj_pw"]), device=device)
        gamma = hyp["fl_gamma"]
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
                objectness = highest_at(objectness, place, iou.detach().clamp(min=0))
                if self.nc > 1:
                    wanted = torch.full_like(chosen[:, 5:], self.cn)
                    wanted[torch.arange(len(labels), device=device), labels] = self.cp
                    cls_loss = cls_loss + binary_loss(chosen[:, 5:], wanted, cls_pw, gamma) * shares[level]
            level_loss = binary_loss(raw[..., 4], objectness, obj_pw, gamma)
            obj_loss = obj_loss + level_loss * self.balance[level]
            if self.autobalance:
                self.balance[level] = self.balance[level] * 0.9999 + 0.0001 / level_loss.detach().item()
        if self.autobalance:
            self.balance = [b / self.balance[self.reference_level] for b in self.balance]
        items = torch.stack((box_loss * hyp["box"], obj_loss * hyp["obj"], cls_loss * hyp["cls"]))
        return items.sum(0, keepdim=True) * preds[0].shape[0], items.detach()


def highest_at(base: Tensor, place: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """Return `base` with the largest of `values` written to each place; independent of their order."""
    flat = torch.zeros_like(place[0])
    for index, size in zip(place, base.shape, strict=True):
        flat = flat * size + index
    return base.flatten().scatter_reduce(0, flat, values, "amax", include_self=False).view(base.shape)
