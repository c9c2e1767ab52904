"""Building blocks of the detectors: those of Swin Transformer V2, and the convolutional ones of models/convolutions.py.

YOLO letters: c1, c2 channels in and out; n repeats; e hidden channels as a fraction of c2. Shapes: B batch, C channels,
H W map, K windows per image, N tokens per window, h heads, d head width. Every block takes and gives (B, C, H, W); only
the parts of the Swin stages work channel-last, (B, H, W, C), between themselves.

Source: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, arXiv:2111.09883.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path as Path
from typing import Any

import cv2 as cv2
import numpy as np  # noqa: F401  for star imports, as cv2 and Path
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.convolutions import C3 as C3
from models.convolutions import C3SPP as C3SPP
from models.convolutions import C3TR as C3TR
from models.convolutions import SPP as SPP
from models.convolutions import SPPF as SPPF
from models.convolutions import Bottleneck as Bottleneck
from models.convolutions import BottleneckCSP as BottleneckCSP
from models.convolutions import C3Ghost as C3Ghost
from models.convolutions import C3x as C3x
from models.convolutions import Concat as Concat
from models.convolutions import Contract as Contract
from models.convolutions import Conv as Conv
from models.convolutions import CrossConv as CrossConv
from models.convolutions import DWConv as DWConv
from models.convolutions import DWConvTranspose2d as DWConvTranspose2d
from models.convolutions import Expand as Expand
from models.convolutions import Focus as Focus
from models.convolutions import GhostBottleneck as GhostBottleneck
from models.convolutions import GhostConv as GhostConv
from models.convolutions import MixConv2d as MixConv2d
from models.convolutions import TransformerBlock as TransformerBlock
from models.convolutions import TransformerLayer as TransformerLayer
from models.convolutions import autopad as autopad
from models.swin import cached_inference
from models.swin.attention import (
    NORM_FLOOR,
    at_least_float32,
    attend_in_sequence,
    autocast_off,
    choose_core,
    logit_factor,
    normalize_queries_keys,
)
from models.swin.dynamic_windows import gather_windows, ungather_windows
from models.swin.layers import (
    DropPath,
    LayerNorm2d,
    Mlp,
    as_pair,
    check_choice,
    choose_heads,
)
from models.swin.layers import check_drop_rate as check_drop_rate
from models.swin.layers import drop_path_rates as drop_path_rates
from models.swin.lean_autograd import SplitHeads
from models.swin.windows import (
    effective_shift,
    padded_size,
    relative_coords,
    relative_index,
    resize_bias_table,
    window_mask,
    window_partition,
    window_reverse,
)


class WindowAttention(nn.Module):
    """Scaled cosine attention within windows with a log-spaced continuous position bias (sections 3.2 and 3.3).

    logits = cos(q, k) * min(exp(logit_scale), 100) + 16 * sigmoid(bias network(log-spaced offset)). Queries and values
    have a learned bias, keys have none. Normalisation, position bias, logits and softmax are float32 whatever the dtype
    around them.

    Args:
        dim: channels, a multiple of `heads`.
        heads: attention heads.
        window: side of the window in cells, or (rows, columns).
        pretrained_window: window for which the bias network was trained, if that was another one.
        core: `auto`, `explicit` or `sdpa`; see `attention.choose_core`.
        bias: where the position bias comes from: `log`, the network on log-spaced offsets; `linear`, the same on
            offsets as they are; `table`, one learned number for every offset (Swin V1).
        attention: `cosine`, or `dot`, the scaled dot product of Swin V1. A bias of the keys would cancel in its
            softmax, so that the missing one makes no difference to V1.
        sequential: windows that are attended in at once, see `attention.attend_in_sequence`; 0 is all.

    Raises:
        ValueError: `dim` cannot be divided by `heads`, or an option has an unknown value.
    """

    factor: Tensor  # buffers of a fused attention
    bias: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int | Sequence[int],
        *,
        pretrained_window: int | Sequence[int] | None = None,
        core: str = "auto",
        bias: str = "log",
        attention: str = "cosine",
        sequential: int = 0,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{dim} channels cannot be split over {heads} attention heads")
        choose_core(core, "cpu", training=False)  # refuses an unknown name here rather than in the first forward
        check_choice("bias", bias, ("log", "linear", "table"))
        check_choice("attention", attention, ("cosine", "dot"))
        self.heads = heads
        self.window = as_pair(window)
        self.pretrained_window = as_pair(pretrained_window or window)
        self.core = core
        self.bias_kind = bias
        self.attention_kind = attention
        self.sequential = sequential
        if attention == "cosine":
            self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        if bias == "table":
            offsets = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        else:
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def offset_bias(self) -> Tensor:
        """Return the bias of every offset within a window, at least float32 (offsets, h)."""
        if self.bias_kind == "table":
            return at_least_float32(self.relative_position_bias_table)
        hidden, _, out = self.cpb_mlp
        weight, bias, gain = (at_least_float32(p) for p in (hidden.weight, hidden.bias, out.weight))
        table = relative_coords(self.window, self.pretrained_window, weight.device, weight.dtype, self.bias_kind)
        return 16.0 * F.linear(F.relu(F.linear(table, weight, bias)), gain).sigmoid()

    def position_bias(self) -> Tensor:
        """Return the bias of every pair of tokens, float32 (h, N, N), values in (0, 16) unless it is a table."""
        device = self.qkv.weight.device
        with autocast_off(device.type):
            n = self.window[0] * self.window[1]
            table = self.offset_bias()  # (offsets, h)
            return table.t().index_select(1, relative_index(self.window, device)).view(self.heads, n, n)

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return the factor of each head, float32 (h, 1, 1), and the position bias, float32 (h, N, N)."""
        if self.fused:
            return at_least_float32(self.factor), at_least_float32(self.bias)
        bias = self.position_bias()
        if self.attention_kind == "cosine":
            return logit_factor(self.logit_scale), bias
        width = self.proj.in_features // self.heads
        return bias.new_full((self.heads, 1, 1), width**-0.5), bias

    @property
    def fused(self) -> bool:
        """Whether `fuse` was called."""
        return "factor" in self._buffers

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace temperature and bias network by the constants they make; not reversible, for inference only."""
        if self.fused:
            return
        factor, bias = self.constants()
        for name in ("logit_scale", "cpb_mlp", "relative_position_bias_table"):
            if hasattr(self, name):
                delattr(self, name)
        self.register_buffer("factor", factor)
        self.register_buffer("bias", bias)

    @torch.no_grad()
    def set_window(self, window: int | Sequence[int]) -> None:
        """Use another window with the weights as they are.

        A bias network sees the offsets as in its training, so `pretrained_window` stays; a table is interpolated.

        Raises:
            ValueError: the attention is fused, or the window is none.
        """
        if self.fused:
            raise ValueError("a fused model keeps its windows; set them before fuse()")
        window = as_pair(window)
        if self.bias_kind == "table" and window != self.window:
            old = self.relative_position_bias_table
            table = resize_bias_table(old, self.window, window)
            self.relative_position_bias_table = nn.Parameter(table, requires_grad=old.requires_grad)
            self.pretrained_window = window
        self.window = window

    def attend(self, qkv: Tensor, blocked: Tensor | None, factor: Tensor, bias: Tensor) -> Tensor:
        """Attend in windows that are cut and split over the heads already, (3, B * K, h, N, d) to (B * K, h, N, d)."""
        q, k, v = qkv.unbind(0)
        q, k = self.scale(q, k, factor)
        return self.choose_core(qkv)(q, k, v, bias, blocked)

    def scale(self, q: Tensor, k: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys in at least float32 whose products are the logits without the position bias."""
        if self.attention_kind == "dot":
            return at_least_float32(q) * factor, at_least_float32(k)
        return normalize_queries_keys(q, k, factor)

    def choose_core(self, x: Tensor) -> Callable[..., Tensor]:
        """Return the attention core for a tensor."""
        return choose_core(self.core, x.device.type, self.training and torch.is_grad_enabled())

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x: tokens, (B * K, N, C).
            blocked: bool (K, N, N) from `windows.window_mask`, or None where all tokens may attend to all.

        Returns:
            (B * K, N, C).
        """
        windows, n, c = x.shape
        # keys have no bias, as published: with the dot product it would add one number to all logits of a query
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        # rows, as ONNX Runtime joins product and bias of two axes only where sizes are dynamic
        qkv = F.linear(x.reshape(-1, c), self.qkv.weight, qkv_bias).view(windows, n, 3, self.heads, c // self.heads)
        in_sequence = self.sequential and windows > self.sequential
        with autocast_off(x.device.type):
            factor, bias = self.constants()
            # parts in sequence are computed again anyway, and a compiler finds its own form
            lean = qkv.requires_grad and not in_sequence and not torch.compiler.is_compiling()
            if lean and self.attention_kind == "cosine":
                q, k, v = SplitHeads.apply(qkv, factor, NORM_FLOOR**0.5)
                x = self.choose_core(x)(q, k, v, bias, blocked)  # (B * K, h, N, d)
            else:
                qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (3, B * K, h, N, d)
                attend = partial(self.attend, factor=factor, bias=bias)
                x = attend_in_sequence(attend, qkv, blocked, self.sequential) if in_sequence else attend(qkv, blocked)
        return self.proj(x.transpose(1, 2).reshape(-1, c)).view(windows, n, c)

    def extra_repr(self) -> str:
        """Return the arguments that `print(model)` shows."""
        kinds = f", bias={self.bias_kind}, attention={self.attention_kind}"
        return f"heads={self.heads}, window={self.window}, core={self.core}{kinds}"


class SwinV2Block(nn.Module):
    """Window attention and MLP, each normalised after it ran, inside its residual branch (figure 1, section 3.2).

    The map may have any size: it is padded at the bottom and right to whole windows, then rolled. Blocked tokens are
    never attended to, as they are in torchvision and timm at a high temperature (see `models.swin.attention`). With
    zero gains (the authors' initialisation) a fresh block is the identity.

    Args:
        dim: channels.
        heads: attention heads.
        window: side of the window in cells of this map, or (rows, columns).
        shift: cells by which the windows are shifted, or (rows, columns); 0 for a regular block.
        mlp_ratio: hidden channels of the MLP as a multiple of `dim`.
        drop_path: probability of dropping each residual branch in training.
        mask_padding: keep padding out of the attention; off reproduces torchvision.
        norm_gain: initial weight of both normalisations; None is the authors' 0, which makes a fresh block the
            identity, and 1 where the norms come first.
        init_std: initial deviation of the linear weights outside the bias network, the authors' 0.02; None is 1 /
            sqrt(inputs), for blocks much narrower than theirs.
        depthwise: see `Mlp`; beyond the paper.
        norm: `post`, or `pre` for the norms of Swin V1, which come before attention and MLP.
        extra_norm: normalise the main branch as well, after the block (for huge models, appendix A1 of the paper).
        **attention: keywords of `WindowAttention`.

    With `bias="table", attention="dot", norm="pre"` it is the block of Swin V1.

    Raises:
        ValueError: a shift does not lie within the window, or an option has an unknown value.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int | Sequence[int] = 8,
        shift: int | Sequence[int] = 0,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        mask_padding: bool = True,
        norm_gain: float | None = None,
        init_std: float | None = 0.02,
        depthwise: bool = False,
        norm: str = "post",
        extra_norm: bool = False,
        **attention: Any,
    ) -> None:
        super().__init__()
        check_choice("norm", norm, ("post", "pre"))
        self.attn = WindowAttention(dim, heads, window, **attention)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), depthwise=depthwise)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim) if extra_norm else None
        self.drop_path = DropPath(drop_path)
        self.set_shift(shift)
        self.mask_padding = mask_padding
        self.pre_norm = norm == "pre"
        self.reset_parameters(float(self.pre_norm) if norm_gain is None else norm_gain, init_std)

    def set_shift(self, shift: int | Sequence[int]) -> None:
        """Set the cells by which the windows are shifted.

        Raises:
            ValueError: they do not lie within the window.
        """
        rows, columns = (shift, shift) if isinstance(shift, int) else shift
        self.shift = (rows, columns)
        if not all(0 <= s < side for s, side in zip(self.shift, self.attn.window, strict=True)):
            raise ValueError(f"a shift must lie between 0 and the window {self.attn.window}, not {self.shift}")

    def reset_parameters(self, norm_gain: float, init_std: float | None) -> None:
        """Initialise: truncated normal linear weights, zero biases, norms of weight `norm_gain`."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in (self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2):
            nn.init.trunc_normal_(linear.weight, std=init_std or linear.in_features**-0.5)
        for norm in (self.norm1, self.norm2):
            nn.init.constant_(norm.weight, norm_gain)

    def attend(self, x: Tensor) -> Tensor:
        """Run the shifted window attention on a map, (B, H, W, C) to (B, H, W, C)."""
        _, height, width, _ = x.shape
        window = self.attn.window
        if torch.compiler.is_exporting() and not (type(height) is type(width) is int):
            windows, mask, back = gather_windows(x, window, self.shift, self.mask_padding)  # (B, K, N, C)
            return ungather_windows(self.attn(windows.flatten(0, 1), mask).view(windows.shape), back)
        padded = padded_size(height, width, window)
        shift = effective_shift(padded, window, self.shift)
        pads = padded != (height, width)
        if pads:
            x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))  # (B, Hp, Wp, C)
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        blocked = None
        if any(shift) or (pads and self.mask_padding):
            blocked = window_mask(height, width, window, shift, self.mask_padding, x.device)  # (K, N, N)
        x = window_reverse(self.attn(window_partition(x, window), blocked), window, padded)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, :height, :width] if pads else x

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if cached_inference.applies(self, x):
            padded = padded_size(x.shape[1], x.shape[2], self.attn.window)
            return cached_inference.run_block(self, x, effective_shift(padded, self.attn.window, self.shift))
        if self.pre_norm:
            x = x + self.drop_path(self.attend(self.norm1(x)))
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        else:
            x = x + self.drop_path(self.norm1(self.attend(x)))
            x = x + self.drop_path(self.norm2(self.mlp(x)))
        return x if self.norm3 is None else self.norm3(x)

    def extra_repr(self) -> str:
        """Return the arguments that `print(model)` shows."""
        return f"shift={self.shift}, mask_padding={self.mask_padding}, norm={'pre' if self.pre_norm else 'post'}"


class SwinV2Stage(nn.Module):
    """Pairs of a regular and a shifted `SwinV2Block` on one map, (B, C, H, W) to (B, C, H, W).

    Args:
        c1: channels in.
        c2: channels out, equal to `c1`.
        n: blocks; an odd number is rounded up, so that every regular block has its shifted partner.
        window: side of the window in cells, or (rows, columns).
        heads: attention heads; None chooses by `choose_heads`.
        head_width: width of a head that is aimed at when `heads` is None.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
        extra_norm_period: every so many blocks the main branch is normalised as well; 0 is never, 6 in the paper's H
            and G.
        **block: further keywords of `SwinV2Block`.

    Raises:
        ValueError: c1 differs from c2, or the width does not suit the heads.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 2,
        window: int | Sequence[int] = 8,
        heads: int | None = None,
        *,
        head_width: int = 32,
        checkpointing: bool = False,
        extra_norm_period: int = 0,
        **block: Any,
    ) -> None:
        super().__init__()
        if c1 != c2:
            raise ValueError(f"SwinV2Stage keeps its width, but got {c1} channels in and {c2} out")
        heads = heads or choose_heads(c2, head_width)
        half = tuple(side // 2 for side in as_pair(window))
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList()
        for i in range(n + n % 2):
            extra_norm = extra_norm_period > 0 and (i + 1) % extra_norm_period == 0
            self.blocks.append(SwinV2Block(c2, heads, window, half if i % 2 else 0, extra_norm=extra_norm, **block))

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the windows, in cells."""
        return self.blocks[0].attn.window

    def set_window(self, window: int | Sequence[int]) -> None:
        """Use another window, see `WindowAttention.set_window`; the shift follows.

        Raises:
            ValueError: the stage is fused, or the window is none.
        """
        half = tuple(side // 2 for side in as_pair(window))
        for i, block in enumerate(self.blocks):
            block.attn.set_window(window)
            block.set_shift(half if i % 2 else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        for block in self.blocks:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x.permute(0, 3, 1, 2)


class C3SwinV2(nn.Module):
    """Cross-stage partial block around a `SwinV2Stage`: the stage takes the place of the bottlenecks of `C3`.

    Args as in `C3` and `SwinV2Stage`; `e` is the width of the stage as a fraction of `c2`.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 2,
        window: int | Sequence[int] = 8,
        heads: int | None = None,
        *,
        e: float = 0.5,
        **stage: Any,
    ) -> None:
        super().__init__()
        h = int(c2 * e)
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = Conv(c1, h, 1, 1)
        self.cv3 = Conv(2 * h, c2, 1)
        self.m = SwinV2Stage(h, h, n, window, heads, **stage)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class PatchEmbed(nn.Module):
    """Cut the image into k x k patches, embed each with c2 channels and normalise (Swin, section 3.1).

    An image whose sides are not multiples of k is padded with zeros at the bottom and right.
    """

    def __init__(self, c1: int, c2: int, k: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c1, c2, k, k)
        self.norm = LayerNorm2d(c2)
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, c1, H, W) to (B, c2, H / k, W / k), sides rounded up."""
        height, width = x.shape[2:]
        if height % self.k or width % self.k:
            x = F.pad(x, (0, -width % self.k, 0, -height % self.k))
        return self.norm(self.proj(x))  # (B, c2, H / k, W / k)


class PatchMerging(nn.Module):
    """Halve a map: concatenate each 2x2 square, reduce with one linear layer, then normalise (V2 puts the norm last).

    The neighbours are stacked in the order (row, column) = (0, 0), (1, 0), (0, 1), (1, 1). Odd maps get a row or column
    of zeros at the bottom or right.
    """

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * c1, c2, bias=False)
        self.norm = nn.LayerNorm(c2)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / 2, W / 2), sides rounded up."""
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = torch.cat([x[:, r::2, c::2] for c in (0, 1) for r in (0, 1)], -1)  # (B, H / 2, W / 2, 4 * C)
        return self.norm(self.reduction(x)).permute(0, 3, 1, 2)


# YOLOv5's address -----------------------------------------------------------------------------------------------------

# Pickles name a class by its module. With this one `attempt_load` can read a model that a script saved as a whole.
for _block in [value for value in globals().values() if isinstance(value, type) and issubclass(value, nn.Module)]:
    _block.__module__ = __name__

# Scripts import these from here. Their files stand above this one and import it, so they are loaded when asked for.
LATE = ("AutoShape", "DetectMultiBackend", "Detections", "NMS", "autoShape")
__all__ = [*(name for name in globals() if not name.startswith("_")), *LATE]  # for `from models.common import *`


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models import autoshape, detections  # noqa: PLC0415  they import this file
    from models.runtimes import backends  # noqa: PLC0415  the same

    module = {"DetectMultiBackend": backends, "Detections": detections}.get(name, autoshape)
    return getattr(module, "AutoShape" if name == "autoShape" else name)
