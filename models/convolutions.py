"""Convolutional building blocks of the YOLOv5 family, and their activation, which a model YAML names.

c1, c2 channels in and out; k, s, p, g, d kernel, stride, padding, groups, dilation; n repeats; e hidden channels as a
fraction of c2. Shapes: B batch, C channels, H W map; H / s is rounded up where the side is no multiple of the stride.
"""

import ast
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]  # one side, or (rows, columns)
LARGEST_ARGUMENT = 1_000_000  # of an activation; PReLU takes memory for as many parameters
ACTIVATIONS = ("ELU", "GELU", "Hardswish", "Identity", "LeakyReLU", "Mish", "PReLU", "ReLU", "ReLU6", "SiLU")


def autopad(k: int | Sequence[int], p: int | Sequence[int] | None = None, d: int = 1) -> int | Sequence[int]:
    """Return the padding that keeps the size at stride 1 for kernel `k` and dilation `d`, unless `p` is given."""
    if p is not None:
        return p
    if isinstance(k, int):
        return (d * (k - 1) + 1) // 2
    return [(d * (side - 1) + 1) // 2 for side in k]


def own_activation(act: nn.Module) -> nn.Module:
    """Copy an activation for one block, so that buffers and hooks set on it stay in that block's model.

    Parameters are shared with `act`: a PReLU has one slope for all blocks of a model.
    """
    return deepcopy(act, {id(parameter): parameter for parameter in act.parameters()})


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, activation.

    `act` is True for a copy of `default_act`, a module, or anything else for none. The padding keeps the size at stride
    1. A script may set `Conv.default_act` to another module; it is a template and part of no model.
    """

    default_act: nn.Module = nn.SiLU()

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Kernel = 1,
        s: Kernel = 1,
        p: Kernel | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p, d), groups=g, dilation=d, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        if act is True:
            act = own_activation(self.default_act)
        self.act = act if isinstance(act, nn.Module) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Do what `forward` does, after the normalisation was folded into the convolution."""
        return self.act(self.conv(x))

    fuseforward = forward_fuse  # its name in YOLOv5 up to 5.0


def parse_activation(text: str) -> nn.Module:
    """Build the activation that a YAML names, such as `nn.LeakyReLU(0.1)`, without evaluating it as code.

    Raises:
        ValueError: the string is not a call of an allowed activation with literal arguments.
    """
    allowed = f"allowed: {', '.join(f'nn.{name}(...)' for name in ACTIVATIONS)}"
    try:
        call: Any = ast.parse(text, mode="eval").body  # what is no call lacks `func`: AttributeError
        name = call.func.attr
        args = [ast.literal_eval(arg) for arg in call.args]
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        numbers = [*args, *keywords.values()]
        if any(isinstance(value, int | float) and abs(value) > LARGEST_ARGUMENT for value in numbers):
            raise ValueError(f"a number above {LARGEST_ARGUMENT}")
        if ast.unparse(call.func) == f"nn.{name}" and name in ACTIVATIONS:
            return getattr(nn, name)(*args, **keywords)
    except (AttributeError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"activation: {text!r} is not an activation ({error}); {allowed}") from error
    raise ValueError(f"activation: {text!r} is not an activation; {allowed}")


@contextmanager
def default_activation(text: str | None, source: str = "model") -> Iterator[None]:
    """Give `Conv` a default activation for one model: the named one, else a copy of the present default.

    Afterwards the default is the previous one again. Parameters of an activation are thus shared inside a model only.
    """
    before = Conv.default_act
    try:
        try:
            Conv.default_act = parse_activation(text) if text else deepcopy(before)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        yield
    finally:
        Conv.default_act = before


def in_place(act: nn.Module) -> nn.Module:
    """Return a copy of an activation that overwrites its input, or the activation itself where it cannot."""
    if getattr(act, "inplace", True):
        return act
    act = deepcopy(act)
    act.inplace = True
    return act


class DWConv(Conv):
    """Depth-wise `Conv`: as many groups as c1 and c2 have in common."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, d: int = 1, act: bool = True) -> None:
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depth-wise transposed convolution; p1 is the padding, p2 the output padding."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, s, p1, p2, groups=math.gcd(c1, c2))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution with a shortcut where c1 equals c2."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        h = int(c2 * e)
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = Conv(h, c2, 3, 1, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class CrossConv(nn.Module):
    """A row and a column convolution with a shortcut where asked and c1 equals c2."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        super().__init__()
        h = int(c2 * e)
        self.cv1 = Conv(c1, h, (1, k), (1, s))
        self.cv2 = Conv(h, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class BottleneckCSP(nn.Module):
    """Cross-stage partial block of v3 (Wang et al., arXiv:1911.11929), with plain convolutions on both paths.

    `leaky` is the slope of a LeakyReLU instead of SiLU between them, 0.1 in YOLOv5 up to v6.0.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        leaky: float | None = None,
    ) -> None:
        super().__init__()
        h = int(c2 * e)
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = nn.Conv2d(c1, h, 1, 1, bias=False)
        self.cv3 = nn.Conv2d(h, h, 1, 1, bias=False)
        self.cv4 = Conv(2 * h, c2, 1, 1)
        self.bn = nn.BatchNorm2d(2 * h)
        self.act = nn.SiLU() if leaky is None else nn.LeakyReLU(leaky)
        self.m = nn.Sequential(*(Bottleneck(h, h, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        deep = self.cv3(self.m(self.cv1(x)))
        return self.cv4(self.act(self.bn(torch.cat((deep, self.cv2(x)), 1))))


class C3(nn.Module):
    """Cross-stage partial block with three 1x1 convolutions around n bottlenecks."""

    m: nn.Module

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        h = int(c2 * e)
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = Conv(c1, h, 1, 1)
        self.cv3 = Conv(2 * h, c2, 1)
        self.m = nn.Sequential(*(Bottleneck(h, h, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3x(C3):
    """`C3` with cross convolutions."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        h = int(c2 * e)
        self.m = nn.Sequential(*(CrossConv(h, h, 3, 1, g, 1.0, shortcut) for _ in range(n)))


class C3TR(C3):
    """`C3` around global self-attention with 4 heads."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        h = int(c2 * e)
        self.m = TransformerBlock(h, h, 4, n)


class C3SPP(C3):
    """`C3` around spatial pyramid pooling."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        h = int(c2 * e)
        self.m = SPP(h, h, k)


class C3Ghost(C3):
    """`C3` with ghost bottlenecks."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        h = int(c2 * e)
        self.m = nn.Sequential(*(GhostBottleneck(h, h) for _ in range(n)))


class TransformerLayer(nn.Module):
    """Global self-attention and a linear pair, both with shortcuts, without normalisation or activation."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(embed_dim=c, num_heads=heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (H * W, B, c) to the same shape."""
        x = self.ma(self.q(x), self.k(x), self.v(x))[0] + x
        return self.fc2(self.fc1(x)) + x


class TransformerBlock(nn.Module):
    """Global transformer layers over all cells of a map, with a learned linear position term."""

    def __init__(self, c1: int, c2: int, heads: int, layers: int) -> None:
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        if self.conv is not None:
            x = self.conv(x)
        shape = x.shape
        tokens = x.flatten(2).permute(2, 0, 1)  # (H * W, B, C)
        tokens = self.tr(tokens + self.linear(tokens))
        return tokens.permute(1, 2, 0).reshape(shape)


class SPP(nn.Module):
    """Spatial pyramid pooling (He et al., arXiv:1406.4729) with stride 1."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        h = c1 // 2
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = Conv(h * (len(k) + 1), c2, 1, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in k)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    """`SPP` as one pooling applied three times: k = 5 equals the pyramid 5, 9, 13."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        h = c1 // 2
        self.cv1 = Conv(c1, h, 1, 1)
        self.cv2 = Conv(h * 4, c2, 1, 1)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        x = self.cv1(x)
        y = self.m(x)
        z = self.m(y)
        return self.cv2(torch.cat((x, y, z, self.m(z)), 1))


class Focus(nn.Module):
    """Stack the four phases of each 2x2 square along the channels, column parity slow, then convolve."""

    def __init__(
        self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = Conv(c1 * 4, c2, k, s, p, g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W), both sides even, to (B, c2, H / 2 / s, W / 2 / s)."""
        phases = (x[..., r::2, c::2] for c in (0, 1) for r in (0, 1))
        return self.conv(torch.cat(tuple(phases), 1))


class GhostConv(nn.Module):
    """Half of the channels by a convolution, the other half from these by a cheap depth-wise one (arXiv:1911.11907)."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True) -> None:
        super().__init__()
        h = c2 // 2
        self.cv1 = Conv(c1, h, k, s, None, g, act=act)
        self.cv2 = Conv(h, h, 5, 1, None, h, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


class GhostBottleneck(nn.Module):
    """Two ghost convolutions with a shortcut, and a depth-wise convolution between them at stride 2."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        h = c2 // 2
        self.conv = nn.Sequential(
            GhostConv(c1, h, 1, 1),
            DWConv(h, h, k, s, act=False) if s == 2 else nn.Identity(),
            GhostConv(h, c2, 1, 1, act=False),
        )
        self.shortcut = (
            nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, 1, 1, act=False)) if s == 2 else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        return self.conv(x) + self.shortcut(x)


class Contract(nn.Module):
    """Move gain x gain squares into channels, phase slow: channel (i * gain + j) * C + c is pixel (row i, column j)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), both sides multiples of the gain g, to (B, C * g^2, H / g, W / g)."""
        b, c, h, w = x.shape
        g = self.gain
        x = x.view(b, c, h // g, g, w // g, g).permute(0, 3, 5, 1, 2, 4)  # (B, g, g, C, H / g, W / g)
        return x.reshape(b, c * g * g, h // g, w // g)


class Expand(nn.Module):
    """Spread channels into gain x gain squares: the inverse of `Contract`."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), C a multiple of the squared gain g, to (B, C / g^2, H * g, W * g)."""
        b, c, h, w = x.shape
        g = self.gain
        x = x.view(b, g, g, c // g**2, h, w).permute(0, 3, 4, 1, 5, 2)  # (B, C / g^2, H, g, W, g)
        return x.reshape(b, c // g**2, h * g, w * g)


class Concat(nn.Module):
    """Concatenate a list of maps along dimension `d`."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        """Join maps (B, C1, H, W), (B, C2, H, W), ... to (B, C1 + C2 + ..., H, W) for d = 1."""
        return torch.cat(x, self.d)


class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes side by side (arXiv:1907.09595).

    With `equal_ch` each size gets the same number of the c2 channels; otherwise the numbers give each size about equal
    weights.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__()
        self.m = nn.ModuleList(
            nn.Conv2d(c1, c, side, s, side // 2, groups=math.gcd(c1, c), bias=False)
            for side, c in zip(k, self.split_channels(c2, k, equal_ch), strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    @staticmethod
    def split_channels(c2: int, k: Sequence[int], equal_ch: bool) -> list[int]:
        """Return the channels of each kernel size, at least 1; they sum to `c2`.

        Raises:
            ValueError: fewer channels than kernel sizes.
        """
        n = len(k)
        if c2 < n:
            raise ValueError(f"MixConv2d cannot divide {c2} channels among the kernel sizes {list(k)}")
        if equal_ch:
            group = torch.linspace(0, n - 1e-6, c2, dtype=torch.float64).floor().long()
            return torch.bincount(group, minlength=n).tolist()
        inverse = [1 / side**2 for side in k]
        shares = [max(1, round(c2 * share / sum(inverse))) for share in inverse]
        shares[shares.index(max(shares))] += c2 - sum(shares)
        return shares

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))
