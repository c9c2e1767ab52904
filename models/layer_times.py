"""The time that each layer of a network takes."""

from time import perf_counter
from typing import Any

import torch
from torch import nn

from utils.console import LOGGER


class LayerTimes:
    """Log how long each layer of a network takes, inside the `with` block.

    Args:
        model: a `DetectionModel`, or several in an `nn.ModuleList`.
    """

    def __init__(self, model: nn.Module) -> None:
        models = list(model) if isinstance(model, nn.ModuleList) else [model]
        self._hooks, self._start = [], 0.0
        for layers in (getattr(m, "model", m) for m in models):
            for name, layer in layers.named_children():
                label = f"{name:>3} {type(layer).__name__}"
                self._hooks.append(layer.register_forward_pre_hook(self._before))
                self._hooks.append(layer.register_forward_hook(lambda *_, label=label: self._after(label)))

    def __enter__(self) -> "LayerTimes":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._start = perf_counter()

    def _after(self, label: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        LOGGER.info(f"{label:<20}{(perf_counter() - self._start) * 1e3:10.2f} ms")
