"""Signs that training fails: values that are not finite, the layer where they begin, and a diverging loss."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

RISE = 10.0  # a loss this many times the lowest running mean, and ...
START_RISE = 2.0  # ... this many times the highest one of the first batches, ...
IN_SUCCESSION = 3  # ... in so many batches in succession, is taken for divergence
SPAN = 20  # batches of the running mean
SHOWN = 3  # names that a message lists


class Diverged(ValueError):
    """Values of a training run are not finite or diverge; the message says which. Nothing was saved."""


@dataclass(frozen=True)
class Amplitude:
    """Largest absolute input and output of one layer of a model; NaN or infinite if any value was."""

    row: int
    name: str
    inside: float
    outside: float


def amplitudes(rows: Iterable[nn.Module], forward: Callable[[], Any]) -> list[Amplitude]:
    """Run a forward pass without gradients and record the amplitudes of every layer.

    Buffers that the pass moves (batch statistics) and the random state are not put back: the caller is about to stop
    or to restore everything.

    Args:
        rows: modules that the pass goes through, in the order of their numbers.
        forward: does the pass.

    Returns:
        One entry per call of a row, in the order of the pass.
    """
    found: list[tuple[int, str, Tensor, Tensor]] = []
    handles = []
    for number, row in enumerate(rows):

        def note(module: nn.Module, args: Any, output: Any, number: int = number) -> None:
            found.append((number, type(module).__name__, _largest(args), _largest(output)))

        handles.append(row.register_forward_hook(note))
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return [Amplitude(number, name, float(inside), float(outside)) for number, name, inside, outside in found]


def _largest(value: Any) -> Tensor:
    """Return the largest absolute value in a tensor or a nest of them, NaN if there is one; float32 scalar."""
    if isinstance(value, Tensor):
        value = value.detach() if value.is_floating_point() else value.float()
        return value.abs().max().float() if value.numel() else torch.zeros((), device=value.device)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    found = [_largest(part) for part in parts]
    return torch.stack(found).max() if found else torch.zeros(())


def describe_amplitudes(found: list[Amplitude]) -> str:
    """Describe where activations stop being finite, or else where they are largest."""
    if not found:
        return "no layer was reached"
    bad = next((a for a in found if not torch.tensor(a.outside).isfinite()), None)
    finite = [a for a in found if torch.tensor(a.outside).isfinite()]
    top = max(finite, key=lambda a: a.outside, default=None)
    largest = f"largest finite activation {top.outside:.3g} in layer {top.row} ({top.name})" if top else ""
    if bad is None:
        return f"all layers are finite, {largest}"
    first = f"layer {bad.row} ({bad.name}) is the first with output {bad.outside:g}; its input reaches {bad.inside:.3g}"
    return f"{first}{', ' if largest else ''}{largest}"


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the floating-point tensors that hold NaN or infinity; one wait for the device."""
    names = [name for name, x in tensors.items() if x.is_floating_point()]
    if not names:
        return []
    finite = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
    return [name for name, good in zip(names, finite, strict=True) if not good]


def shortened(names: list[str]) -> str:
    """List the first few names and count the others."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


class LossWatch:
    """Detect from the losses of the batches, all finite, that training diverges.

    It does when `IN_SUCCESSION` batches in succession have a loss above `RISE` times the lowest running mean so far and
    above `START_RISE` times the highest one of the first `SPAN` batches. A single wild batch is none, and neither is a
    loss that comes back to where it began.

    Attributes:
        lowest: lowest running mean over about `SPAN` batches; infinite before the first.
    """

    def __init__(self) -> None:
        self.lowest = float("inf")
        self.high = 0  # batches in succession
        self._seen = 0
        self._mean = 0.0
        self._start = 0.0

    def __call__(self, loss: float) -> bool:
        """Record the loss of a batch; return True if training diverges."""
        if self._seen and loss > RISE * self.lowest and loss > START_RISE * self._start:
            self.high += 1  # not averaged: the reference must not follow the divergence
            return self.high >= IN_SUCCESSION
        self.high = 0
        self._seen += 1
        self._mean += (loss - self._mean) / min(self._seen, SPAN)
        if self._seen <= SPAN:
            self._start = max(self._start, self._mean)
        self.lowest = min(self.lowest, self._mean)
        return False
