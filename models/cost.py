"""What a detector costs: its operations, counted with thop and what thop misses, and the time that each layer takes."""

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from utils.console import LOGGER

Counter = Callable[[Any, tuple[Tensor, ...], Tensor], None]  # of a module to which thop has added `total_ops`


def count_nothing(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Leave the count of a module at zero."""


def count_normalization(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Count a normalisation as thop counts the one of torch."""
    from thop.vision import basic_hooks

    basic_hooks.count_normalization(module, inputs, output)


def count_window_attention(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Add the multiply-adds of a window attention: four projections of each token, its logits and its weighted values.

    The position bias network is left out: it does not depend on the image and is folded away for inference.
    """
    windows, n, c = inputs[0].shape
    module.total_ops += torch.DoubleTensor([windows * n * (4 * c * c + 2 * n * c)])


def count_multihead_attention(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Add the multiply-adds of `nn.MultiheadAttention` on (T, B, C) inputs of equal length."""
    tokens, batch, c = inputs[0].shape
    module.total_ops += torch.DoubleTensor([batch * tokens * (4 * c * c + 2 * tokens * c)])


def count_transposed_convolution(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Add the multiply-adds of a transposed convolution: each input cell meets every weight of its group once."""
    kernel = math.prod(module.weight.shape[1:])  # output channels of a group times rows times columns
    module.total_ops += torch.DoubleTensor([inputs[0].numel() * kernel])


def meta_copy(module: nn.Module) -> nn.Module:
    """Copy a module without its storage: parameters and buffers of the copy are on the meta device."""
    memo: dict[int, Tensor] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(module, memo)


def count_gflops(model: nn.Module, imgsz: tuple[int, int], channels: int, counters: dict[type, Counter]) -> float:
    """Return the cost of one image in units of 1e9 floating point operations, two for each multiply-add.

    Convolutions, linear layers and normalisations are counted; activations, pooling and upsampling are free.
    The copy that is run lives on the meta device, so that any size costs no memory and little time.

    Args:
        model: any module that takes (1, channels, height, width); it is not changed.
        imgsz: height and width in pixels.
        channels: channels of the image.
        counters: operation counters of module types that thop does not know.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of distutils, which it uses
        import thop

    copy = meta_copy(model).eval()
    image = torch.zeros(1, channels, *imgsz, device="meta")
    with torch.device("cpu"):  # for the counts themselves, also while a model is built on the meta device
        macs, _ = thop.profile(copy, (image,), custom_ops=counters, verbose=False)
    return macs * 2 / 1e9


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
