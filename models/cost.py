"""What a detector costs: its operations, and the time that each layer takes; and the shapes of its maps."""

import math
from collections.abc import Callable
from copy import deepcopy
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.common import SwinV2Block
from models.swin.windows import padded_size
from utils.console import LOGGER

Result = TypeVar("Result")
Counter = Callable[[Any, Tensor, Tensor], int]  # multiply-adds of a module for one image, from its input and output
KEEP_SHAPE = (nn.BatchNorm2d, SwinV2Block)  # most of the time of a run that is after shapes alone


def elements(x: Tensor) -> int:
    """Return the elements of a tensor for one image, where it holds those of one or none."""
    return math.prod(max(side, 1) for side in x.shape)


def count_convolution(module: Any, x: Tensor, y: Tensor) -> int:
    """Count a convolution: each output cell meets every weight of its channel once."""
    return elements(y) * math.prod(module.weight.shape[1:])


def count_transposed_convolution(module: Any, x: Tensor, y: Tensor) -> int:
    """Count a transposed convolution: each input cell meets every weight of its group once."""
    return elements(x) * math.prod(module.weight.shape[1:])  # output channels of a group times rows times columns


def count_linear(module: Any, x: Tensor, y: Tensor) -> int:
    """Count a linear layer."""
    return elements(y) * module.in_features


def count_normalization(module: Any, x: Tensor, y: Tensor) -> int:
    """Count a normalisation with two multiply-adds per element, as thop does for YOLOv5, and two for gain and shift."""
    return elements(x) * (4 if module.weight is not None else 2)


def count_swin_block(block: Any, x: Tensor, y: Tensor) -> int:
    """Count a block on a map (B, H, W, C): four projections of each token of the padded map, logits, weighted values.

    To these come MLP and norms. The position bias network is left out: it does not depend on the image and is folded
    away for inference.
    """
    _, height, width, c = x.shape
    tokens = math.prod(padded_size(height, width, block.attn.window))
    mlp = sum(p.numel() for p in block.mlp.parameters() if p.ndim > 1)
    norms = sum(count_normalization(m, x, y) for m in block.children() if isinstance(m, nn.LayerNorm))
    return tokens * (4 * c * c + 2 * math.prod(block.attn.window) * c) + height * width * mlp + norms


def count_multihead_attention(module: Any, x: Tensor, y: Tensor) -> int:
    """Count `nn.MultiheadAttention` on (T, B, C) inputs of equal length."""
    tokens, _, c = x.shape
    return tokens * (4 * c * c + 2 * tokens * c)


COUNTERS: dict[
    type, Counter
] = {  # of what a class of module and all that is in it costs; others are free by themselves
    SwinV2Block: count_swin_block,
    nn.MultiheadAttention: count_multihead_attention,
    nn.ConvTranspose2d: count_transposed_convolution,
    nn.Conv2d: count_convolution,
    nn.Linear: count_linear,
    nn.BatchNorm2d: count_normalization,
    nn.LayerNorm: count_normalization,
}


def meta_copy(module: nn.Module) -> nn.Module:
    """Copy a module without its storage: parameters and buffers of the copy are on the meta device."""
    memo: dict[int, Tensor] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(module, memo)


@torch.no_grad()
def run_empty(model: nn.Module, channels: int, size: tuple[int, int], run: Callable[[Any, Tensor], Result]) -> Result:
    """Run a module for the shapes of its maps alone, in training mode; it stays as it was.

    An empty batch has all shapes, costs no arithmetic, and needs none of the compiler that PyTorch loads for its first
    run on the meta device: 1.3 s of CPU time. What keeps its shape is left out, so that no statistics change.

    Args:
        model: any module on (B, channels, height, width).
        channels: of the images.
        size: height and width of the images, pixels.
        run: takes the module and the images, (0, channels, height, width); what it returns is returned. Where that
            fails it is called again with a copy and one image on the meta device: not every module takes an empty
            batch, and a map of one image may need any memory where an untrusted table names its layers.
    """
    kept: list[Any] = [module for module in model.modules() if isinstance(module, KEEP_SHAPE)]
    replaced = [vars(module).get("forward") for module in kept]  # somebody's own, on this module alone
    modes = [(module, module.training) for module in model.modules()]
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    model.train()
    for module in kept:
        module.forward = lambda x: x
    try:
        return run(model, like.new_zeros(0, channels, *size))
    except (IndexError, RuntimeError, TypeError, ValueError):
        return run(meta_copy(model), like.new_zeros(1, channels, *size, device="meta"))
    finally:
        for module, forward in zip(kept, replaced, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward
        for module, training in modes:
            module.training = training


def count_gflops(model: nn.Module, imgsz: tuple[int, int], channels: int) -> float:
    """Return the cost of one image in units of 1e9 floating point operations, two for each multiply-add.

    Convolutions, linear layers, attention and normalisations are counted; activations, pooling and upsampling are free.

    Args:
        model: any module that takes (1, channels, height, width); it is not changed.
        imgsz: height and width in pixels.
        channels: channels of the image.
    """

    def run(model: nn.Module, images: Tensor) -> int:
        macs: list[int] = []
        hooks = []

        def watch(module: nn.Module) -> None:
            counter = next((COUNTERS[kind] for kind in COUNTERS if isinstance(module, kind)), None)
            if counter:
                hooks.append(module.register_forward_hook(lambda m, x, y: macs.append(counter(m, x[0], y))))
            else:
                for child in module.children():
                    watch(child)

        watch(model)
        try:
            model(images)
        finally:
            for hook in hooks:
                hook.remove()
        return sum(macs)

    return run_empty(model, channels, imgsz, run) * 2 / 1e9


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
