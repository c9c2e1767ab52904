"""Building blocks of the detectors: those of Swin Transformer V2, and the convolutional ones of models/convolutions.py.

YOLO letters: c1, c2 channels in and out; n repeats; e hidden channels as a fraction of c2. Shapes: B batch, C channels,
H W map, K windows per image, N tokens per window, h heads, d head width. Every block takes and gives (B, C, H, W); only
the parts of the Swin stages work channel-last, (B, H, W, C), between themselves.

Source: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, arXiv:2111.09883.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import at_least_float32, autocast_off, choose_core, logit_factor, normalize_queries_keys
from models.convolutions import (
    C3,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    C3Ghost,
    C3x,
    Concat,
    Contract,
    Conv,
    CrossConv,
    DWConv,
    DWConvTranspose2d,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
    MixConv2d,
    TransformerBlock,
    TransformerLayer,
    autopad,
)
from models.open_windows import gather_windows, ungather_windows
from models.windows import (
    effective_shift,
    padded_size,
    relative_coords,
    relative_index,
    window_mask,
    window_partition,
    window_reverse,
)

__all__ = [
    "Bottleneck",
    "BottleneckCSP",
    "C3",
    "C3Ghost",
    "C3SPP",
    "C3SwinV2",
    "C3TR",
    "C3x",
    "Concat",
    "Contract",
    "Conv",
    "CrossConv",
    "DWConv",
    "DWConvTranspose2d",
    "DropPath",
    "Expand",
    "Focus",
    "GhostBottleneck",
    "GhostConv",
    "LayerNorm2d",
    "MixConv2d",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "SPP",
    "SPPF",
    "SwinV2Block",
    "SwinV2Stage",
    "TransformerBlock",
    "TransformerLayer",
    "WindowAttention",
    "as_pair",
    "autopad",
    "choose_heads",
    "drop_path_rates",
]


def check_drop_rate(rate: float) -> None:
    """Raise ValueError unless `rate` is a probability below 1."""
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"drop_path is the probability of dropping a branch, 0 to below 1, not {rate!r}")


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return the stochastic depth rate of each of `depth` blocks: linear from 0 at the first to `rate` at the last.

    Raises:
        ValueError: `rate` is not in 0..1, 1 excluded.
    """
    check_drop_rate(rate)
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


class DropPath(nn.Module):
    """Drop a residual branch for whole samples (arXiv:1603.09382) and scale the kept ones by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        check_drop_rate(rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def choose_heads(width: int, head_width: int = 32) -> int:
    """Choose the number of heads of a width.

    It is the largest divisor of `width` not above max(1, width // head_width) that leaves heads a multiple of 8 wide.

    Raises:
        ValueError: `width` is not a multiple of 8.
    """
    for heads in range(max(1, width // head_width), 0, -1):
        if width % heads == 0 and (width // heads) % 8 == 0:
            return heads
    raise ValueError(f"attention needs a width that is a multiple of 8, not {width}")


def as_pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (rows, columns) of a window given as one number or two.

    Raises:
        ValueError: a side is not a positive integer.
    """
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"a window is one or two positive integers, not {value!r}")
    return pair


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

    Raises:
        ValueError: `dim` cannot be divided by `heads`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int | Sequence[int],
        *,
        pretrained_window: int | Sequence[int] | None = None,
        core: str = "auto",
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{dim} channels cannot be split over {heads} attention heads")
        choose_core(core, "cpu", training=False)  # refuses an unknown name here rather than in the first forward
        self.heads = heads
        self.window = as_pair(window)
        self.pretrained_window = as_pair(pretrained_window or window)
        self.core = core
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Tensor:
        """Return the bias of every pair of tokens, float32 (h, N, N), values in (0, 16)."""
        hidden, _, out = self.cpb_mlp
        device = hidden.weight.device
        with autocast_off(device.type):
            weight, bias, gain = (at_least_float32(p) for p in (hidden.weight, hidden.bias, out.weight))
            table = relative_coords(self.window, self.pretrained_window, device, weight.dtype)  # (offsets, 2)
            table = 16.0 * F.linear(F.relu(F.linear(table, weight, bias)), gain).sigmoid()  # (offsets, h)
            n = self.window[0] * self.window[1]
            return table.t().index_select(1, relative_index(self.window, device)).view(self.heads, n, n)

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return the factor of each head, float32 (h, 1, 1), and the position bias, float32 (h, N, N)."""
        if self.fused:
            return at_least_float32(self.factor), at_least_float32(self.bias)
        return logit_factor(self.logit_scale), self.position_bias()

    @property
    def fused(self) -> bool:
        """Whether `fuse` was called."""
        return not hasattr(self, "cpb_mlp")

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace temperature and bias network by the constants they make; not reversible, for inference only."""
        if self.fused:
            return
        factor, bias = self.constants()
        del self.logit_scale, self.cpb_mlp
        self.register_buffer("factor", factor)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x: tokens, (B * K, N, C).
            blocked: bool (K, N, N) from `windows.window_mask`, or None where all tokens may attend to all.

        Returns:
            (B * K, N, C).
        """
        windows, n, c = x.shape
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, qkv_bias).view(windows, n, 3, self.heads, c // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (3, B * K, h, N, d)
        core = choose_core(self.core, x.device.type, self.training and torch.is_grad_enabled())
        with autocast_off(x.device.type):
            factor, bias = self.constants()
            q, k = normalize_queries_keys(qkv[:2], factor)
            x = core(q, k, qkv[2], bias, blocked)  # (B * K, h, N, d)
        return self.proj(x.transpose(1, 2).reshape(windows, n, c))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, core={self.core}"


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, channel-last.

    `depthwise` adds a 3x3 depth-wise convolution over the map before the GELU (SegFormer's Mix-FFN, arXiv:2105.15203,
    equation 2); it is not part of Swin V2.
    """

    def __init__(self, dim: int, hidden: int, *, depthwise: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dw = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden) if depthwise else None
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)  # (B, H, W, hidden)
        if self.dw is not None:
            x = self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(self.act(x))


class SwinV2Block(nn.Module):
    """Window attention and MLP, each normalised after it ran, inside its residual branch (figure 1, section 3.2).

    The map may have any size: it is padded at the bottom and right to whole windows, then rolled. With zero gains (the
    authors' initialisation) a fresh block is the identity.

    Args:
        dim: channels.
        heads: attention heads.
        window: side of the window in cells of this map, or (rows, columns).
        shift: cells by which the windows are shifted, or (rows, columns); 0 for a regular block.
        mlp_ratio: hidden channels of the MLP as a multiple of `dim`.
        drop_path: probability of dropping each residual branch in training.
        mask_padding: keep padding out of the attention; off reproduces torchvision.
        norm_gain: initial weight of both normalisations; the authors' 0 makes a fresh block the identity.
        init_std: initial deviation of the linear weights outside the bias network, the authors' 0.02; None is 1 /
            sqrt(inputs), for blocks much narrower than theirs.
        depthwise: see `Mlp`; beyond the paper.
        pretrained_window: see `WindowAttention`.
        core: see `WindowAttention`.
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
        norm_gain: float = 0.0,
        init_std: float | None = 0.02,
        depthwise: bool = False,
        pretrained_window: int | Sequence[int] | None = None,
        core: str = "auto",
    ) -> None:
        super().__init__()
        self.attn = WindowAttention(dim, heads, window, pretrained_window=pretrained_window, core=core)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), depthwise=depthwise)
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.shift = (shift, shift) if isinstance(shift, int) else tuple(shift)
        if not all(0 <= s < side for s, side in zip(self.shift, self.attn.window, strict=True)):
            raise ValueError(f"a shift must lie between 0 and the window {self.attn.window}, not {self.shift}")
        self.mask_padding = mask_padding
        self.reset_parameters(norm_gain, init_std)

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
            windows, blocked, back = gather_windows(x, window, self.shift, self.mask_padding)  # (B, K, N, C)
            return ungather_windows(self.attn(windows.flatten(0, 1), blocked).view(windows.shape), back)
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
        x = x + self.drop_path(self.norm1(self.attend(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))

    def extra_repr(self) -> str:
        return f"shift={self.shift}, mask_padding={self.mask_padding}"


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
        **block: object,
    ) -> None:
        super().__init__()
        if c1 != c2:
            raise ValueError(f"SwinV2Stage keeps its width, but got {c1} channels in and {c2} out")
        heads = heads or choose_heads(c2, head_width)
        half = tuple(side // 2 for side in as_pair(window))
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(
            SwinV2Block(c2, heads, window, half if i % 2 else 0, **block) for i in range(n + n % 2)
        )

    def forward(self, x: Tensor) -> Tensor:
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
        **stage: object,
    ) -> None:
        super().__init__()
        h = int(c2 * e)
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = Conv(c1, h, 1, 1)
        self.cv3 = Conv(2 * h, c2, 1)
        self.m = SwinV2Stage(h, h, n, window, heads, **stage)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a (B, C, H, W) map."""

    def __init__(self, c1: int) -> None:
        super().__init__(c1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = torch.cat([x[:, r::2, c::2] for c in (0, 1) for r in (0, 1)], -1)  # (B, H / 2, W / 2, 4 * C)
        return self.norm(self.reduction(x)).permute(0, 3, 1, 2)
