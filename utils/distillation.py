"""What a student learns from a frozen teacher: its outputs, and the feature maps that the head reads.

`shares` as in `utils.loss.ComputeLoss`: for several processes that share a batch, how many times the mean over the
processes a sum of weights is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import bbox_iou
from utils.loss import decode_boxes, level_balance

FAINT = 0.01  # objectness of the teacher below which it says nothing about a box and its class
EPSILON = 1e-5  # added to the variance of a channel

Shares = Callable[[Sequence[float]], list[float]]


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
        shares: see the module.

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
    matched = _mean(boxes * gains["box"] + classes * gains["cls"], weights, shares) * len(student)
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
        shares: see the module.

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
    return _mean(total, weights, shares)


def _mean(total: Tensor, weights: Tensor, shares: Shares | None) -> Tensor:
    """Return a weighted mean, 0 without weights; its mean over the processes is that of the batch."""
    share = shares([float(weights)])[0] if shares else 1.0
    return total / weights.clamp(min=1e-9) * share


def _normalized(x: Tensor) -> Tensor:
    """Bring each channel of (B, C, H, W) to mean 0 and variance 1."""
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0, keepdim=True)
    return (x.float() - mean) * (variance + EPSILON).rsqrt()
