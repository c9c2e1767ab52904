"""The difference between the outputs of an exported file and of the model, and its tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


@dataclass(frozen=True)
class Difference:
    """Largest differences between two outputs (B, R, 5 + classes) `[xywh_net, objectness, class scores]`.

    Attributes:
        pixels: of x, y, w, h, in pixels of the network input.
        relative: of x, y, w, h, each divided by its own size, of at least one pixel.
        scores: of objectness and class scores.
    """

    pixels: float = 0.0
    relative: float = 0.0
    scores: float = 0.0

    def __str__(self) -> str:
        return f"{self.pixels:.2g} px ({self.relative:.2g} relative), {self.scores:.2g} in score"

    def __or__(self, other: Difference) -> Difference:
        """Return the larger of each number."""
        pairs = ((self.pixels, other.pixels), (self.relative, other.relative), (self.scores, other.scores))
        return Difference(*(max(pair) for pair in pairs))


# What rounding may cause, as (relative, scores). Float32 differs by the order of additions; the looser ones guard
# against a broken file, how good a half or 8-bit model is must be measured as mAP.
TOLERANCE = {
    "float32": Difference(0.0, 1e-3, 1e-4),
    "half": Difference(0.0, 0.1, 0.05),
    "int8": Difference(0.0, 1.0, 0.5),
}


def boxes_of(model: nn.Module, outputs: Tensor | ArrayLike | Sequence[Tensor | ArrayLike]) -> Tensor:
    """Return the boxes (B, R, 5 + classes) of a file's outputs; the maps of `--raw-heads` are decoded by the model.

    Raises:
        ValueError: another number of maps than the model has, or channels than anchors times 5 + classes.
    """
    head: Any = model.model[-1]  # type: ignore[index]
    parts = [outputs] if isinstance(outputs, Tensor | np.ndarray) else list(outputs)
    tensors = [torch.as_tensor(part) for part in parts]
    if not head.raw_heads:
        return tensors[0]
    channels = [tensor.shape[1] for tensor in tensors if tensor.ndim == 4]
    if channels != [head.na * head.no] * head.nl:
        raise ValueError(f"the outputs have {channels} channels, expected {head.nl} maps of {head.na * head.no}")
    rows = []
    for level, tensor in enumerate(tensors):
        b, _, h, w = tensor.shape
        raw = tensor.to(head.anchors.device).view(b, head.na, head.no, h, w).permute(0, 1, 3, 4, 2)
        rows.append(head.decode(raw, level))
    return torch.cat(rows, 1)


def measure(expected: Tensor, found: ArrayLike | Tensor) -> Difference:
    """Compare two outputs (B, R, 5 + classes) of the same images.

    Args:
        expected: of the PyTorch model.
        found: of the exported file, tensor or array of any float type.

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    found = found.detach().cpu() if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))
    expected, found = expected.detach().cpu().double(), found.double()
    if expected.shape != found.shape:
        raise ValueError(f"the output has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if not found.isfinite().all():
        raise ValueError("the output contains values that are not finite")
    if not expected.numel():
        return Difference()
    gap = (expected - found).abs()
    relative = gap[..., :4] / expected[..., :4].abs().clamp(min=1.0)
    return Difference(gap[..., :4].max().item(), relative.max().item(), gap[..., 4:].max().item())


def check_difference(difference: Difference, precision: str, what: str) -> None:
    """Raise where a difference exceeds the tolerance.

    Args:
        difference: what was measured.
        precision: key of `TOLERANCE`.
        what: file and input, for the message.

    Raises:
        ValueError: with the difference and the tolerance.
    """
    allowed = TOLERANCE[precision]
    if difference.relative > allowed.relative or difference.scores > allowed.scores:
        raise ValueError(
            f"{what}: differs from PyTorch by {difference}; the limits are {allowed.relative:g} relative and "
            f"{allowed.scores:g} in score ({precision})"
        )
