"""Small parts of the Swin stages: stochastic depth, MLP, channel norm, and the checks of their arguments.

Shapes: B batch, C channels, H W map; channel-last, (B, H, W, C), unless said otherwise.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_WINDOW = 128  # cells of a side: an untrusted checkpoint names it, and the memory grows with its fourth power


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
        """Drop and scale samples of a branch, (B, ...) to the same shape, such as (B, H, W, C)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Return the rate as `print(model)` shows it."""
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
        ValueError: a side is no integer from 1 to `MAX_WINDOW`.
    """
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and 0 < side <= MAX_WINDOW for side in pair):
        raise ValueError(f"a window is one or two positive integers, not {value!r:.80} (at most {MAX_WINDOW})")
    return pair


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless the value of the option is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")


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
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.dw is not None and torch.compiler.is_exporting():  # all three in the layout of convolutions
            x = F.conv2d(x.permute(0, 3, 1, 2), self.fc1.weight[:, :, None, None], self.fc1.bias)
            x = self.act(self.dw(x))
            return F.conv2d(x, self.fc2.weight[:, :, None, None], self.fc2.bias).permute(0, 2, 3, 1)
        x = self.fc1(x)  # (B, H, W, hidden)
        if self.dw is not None:
            x = self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(self.act(x))


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a (B, C, H, W) map."""

    def __init__(self, c1: int) -> None:
        super().__init__(c1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C, the shape stays."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
