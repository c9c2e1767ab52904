"""Shifted windows of Swin Transformer V2 and their relative positions as pure functions of tensors.

Source: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, arXiv:2111.09883; shifted
windows from Liu et al., "Swin Transformer", ICCV 2021, arXiv:2103.14030.

Letters: B batch, H W map, Hp Wp map padded to whole windows, K windows per image, N tokens per window, C channels, h
heads, d head width. Maps are channel-last (B, H, W, C). A window and a shift are pairs (rows, columns) in cells of the
map.

Differences from the published implementations, each with a test: maps are padded *before* they are rolled, padded cells
are never attended to, and neither are cells from the other side of a rolled map, at any temperature (see
`attention.BLOCKED`).
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
C = TypeVar("C", bound=Tensor | tuple, covariant=True)


class CachedConstant(Protocol[P, C]):
    """A function that makes a constant, and the results that it keeps."""

    cache: OrderedDict[tuple, Tensor | tuple]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Return the constant."""


def cached_constant(build: Callable[P, C], size: int = 64) -> CachedConstant[P, C]:
    """Keep the last `size` results of a function that makes a constant, a tensor or a tuple of some.

    Arguments are hashable. The cache is outside every module, so no state dict, deep copy or exponential average ever
    sees it. It is bypassed while a graph is traced, and fake tensors are never stored. Constants are made outside
    inference mode, so that a later training step may save them for its backward pass.
    """
    make: Callable[..., Any] = build
    store: OrderedDict[tuple, Any] = OrderedDict()

    @wraps(build)
    def cached(*key: Any) -> Any:
        if torch.compiler.is_compiling():
            return make(*key)
        constant = store.pop(key, None)  # taken out and put back at the end: safe when threads share the cache
        if constant is not None:
            store[key] = constant
            return constant
        with torch.inference_mode(False), torch.no_grad():
            constant = make(*key)
        parts = constant if isinstance(constant, tuple) else (constant,)
        if all(type(part) is Tensor for part in parts if isinstance(part, Tensor)):
            store[key] = constant
            if len(store) > size:
                store.popitem(last=False)
        return constant

    kept = cast("CachedConstant[P, C]", cached)
    kept.cache = store
    return kept


def window_partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a padded map into windows.

    Args:
        x: features, (B, Hp, Wp, C); Hp and Wp are multiples of the window's sides.
        window: rows and columns of a window.

    Returns:
        (B * K, N, C) with K = (Hp / rows) * (Wp / columns) and N = rows * columns, windows and tokens row by row.

    Raises:
        ValueError: a side of the map is not a multiple of the window's.
    """
    b, hp, wp, c = x.shape
    wy, wx = window
    if not torch.compiler.is_compiling() and (hp % wy or wp % wx):
        raise ValueError(f"a map of {hp}x{wp} cells cannot be cut into windows of {wy}x{wx}; pad it first")
    if torch.compiler.is_exporting():  # four axes, which ONNX Runtime does not merge with a change of layout before it
        x = x.reshape(b * (hp // wy), wy, wp // wx, wx * c).transpose(1, 2)  # (B * Ky, Kx, wy, wx * C)
        return x.reshape(-1, wy * wx, c)
    x = x.view(b, hp // wy, wy, wp // wx, wx, c).transpose(2, 3)  # (B, Ky, Kx, wy, wx, C)
    return x.reshape(-1, wy * wx, c)  # (B * K, N, C)


def window_reverse(windows: Tensor, window: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Put windows back into a map: the inverse of `window_partition`.

    Args:
        windows: (B * K, N, C) in the order of `window_partition`.
        window: rows and columns of a window.
        padded: Hp and Wp of the map.

    Returns:
        (B, Hp, Wp, C).
    """
    wy, wx = window
    ky, kx = padded[0] // wy, padded[1] // wx
    c = windows.shape[-1]
    if torch.compiler.is_exporting():
        x = windows.reshape(-1, kx, wy, wx * c).transpose(1, 2)  # (B * Ky, wy, Kx, wx * C)
        return x.reshape(-1, ky * wy, kx * wx, c)
    x = windows.view(-1, ky, kx, wy, wx, c).transpose(2, 3)  # (B, Ky, wy, Kx, wx, C)
    return x.reshape(-1, ky * wy, kx * wx, c)  # (B, Hp, Wp, C)


def choose_window(side: int, nominal: int = 8) -> int:
    """Return the window side for a map of `side` cells that needs no padding and is closest to `nominal`.

    It is the divisor d of `side` within a factor of 2 of `nominal` with the smallest |ln(d / nominal)|, the smaller one
    of two that are equally near; `nominal` itself where there is none (the map is then padded).
    """
    fits = [d for d in range(-(-nominal // 2), 2 * nominal + 1) if side % d == 0]
    return min(fits, key=lambda d: abs(math.log(d / nominal)), default=nominal)


def padded_size(height: int, width: int, window: tuple[int, int]) -> tuple[int, int]:
    """Return the sides rounded up to whole windows."""
    return height + (-height) % window[0], width + (-width) % window[1]


def effective_shift(padded: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> tuple[int, int]:
    """Return the shift with 0 on each axis that a single window covers (there is nothing to connect on it)."""
    rows, columns = [s if p > w else 0 for p, w, s in zip(padded, window, shift, strict=True)]
    return rows, columns


def _axis_codes(length: int, padded: int, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the region number (padded,) and whether a cell is padding (padded,) along one rolled axis."""
    i = torch.arange(padded, device=device)
    # 0, 1, 2: windows of one piece; the last window up to the seam; what was rolled in from the other side
    region = (i >= padded - window).long() + (i >= padded - shift).long()
    return region, (i >= length - shift) & (i < padded - shift)


def build_window_mask(
    height: int, width: int, window: tuple[int, int], shift: tuple[int, int], mask_padding: bool, device: torch.device
) -> Tensor:
    """Mark which tokens of a window may not attend to which after padding (bottom, right) and rolling by -shift.

    A key is blocked when it comes from the other side of the rolled map or, with `mask_padding`, when it is padding. A
    token is never blocked from itself, so that every row of the softmax has a term (rows of padded queries are cropped
    away later).

    Args:
        height: rows of the map before padding.
        width: columns of the map before padding.
        window: rows and columns of a window.
        shift: cells by which the padded map was rolled towards the top left.
        mask_padding: block padded keys as well; off, the function is torchvision's.
        device: where the mask is made.

    Returns:
        bool (K, N, N), True at [window, query, key] where attention is forbidden.
    """
    hp, wp = padded_size(height, width, window)
    region_y, pad_y = _axis_codes(height, hp, window[0], shift[0], device)
    region_x, pad_x = _axis_codes(width, wp, window[1], shift[1], device)
    region = (3 * region_y[:, None] + region_x[None, :])[None, :, :, None]  # (1, Hp, Wp, 1)
    region = window_partition(region, window)[..., 0]  # (K, N)
    blocked = region[:, :, None] != region[:, None, :]  # (K, N, N)
    if not mask_padding or (hp, wp) == (height, width):
        return blocked
    padding = (pad_y[:, None] | pad_x[None, :])[None, :, :, None]
    blocked = blocked | window_partition(padding, window)[:, None, :, 0]
    itself = torch.arange(window[0] * window[1], device=device)
    return blocked & (itself[:, None] != itself[None, :])


window_mask = cached_constant(build_window_mask)


def build_relative_coords(
    window: tuple[int, int],
    pretrained: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    spacing: str = "log",
) -> Tensor:
    """Make the log-spaced offsets that feed the position bias network (paper equation 4).

    Args:
        window: rows and columns of the window that is used.
        pretrained: rows and columns of the window that the network was trained with; its last offset maps to log2(9) /
            3.
        device: where the table is made.
        dtype: float32, or float64 for a network of that type.
        spacing: `log`, or `linear` for the form that the paper compares with (table 2): the offset as a fraction of the
            largest one that the network was trained with.

    Returns:
        `dtype` ((2 * rows - 1) * (2 * columns - 1), 2), vertical offset first and slow, values within +-1.06 without
        transfer, linear ones within +-1.
    """
    axes = []
    for w, p in zip(window, pretrained, strict=True):
        offset = torch.arange(1 - w, w, device=device, dtype=dtype) * (
            (1.0 if spacing == "linear" else 8.0) / max(p - 1, 1)  # a window of 1 has the offset 0 alone
        )
        axes.append(offset if spacing == "linear" else offset.sign() * torch.log2(1.0 + offset.abs()) / 3.0)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 2)


relative_coords = cached_constant(build_relative_coords)


def build_relative_index(window: tuple[int, int], device: torch.device) -> Tensor:
    """Return int64 (N * N,): the row of `relative_coords` for each pair (query, key) of a window, query slow."""
    wy, wx = window
    i = torch.arange(wy * wx, device=device)
    y, x = i // wx, i % wx
    index = (y[:, None] - y[None, :] + wy - 1) * (2 * wx - 1) + (x[:, None] - x[None, :] + wx - 1)
    return index.view(-1)


relative_index = cached_constant(build_relative_index)


def resize_bias_table(table: Tensor, window: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Stretch a learned bias table of Swin V1 to another window, by bicubic interpolation over the offsets.

    Args:
        table: float ((2 * rows - 1) * (2 * columns - 1), h), vertical offset slow.
        window: rows and columns of the window it was learned with.
        new: rows and columns of the window it is for.

    Returns:
        The table of the new window in the dtype of the old one.
    """
    grid = table.float().t().view(1, -1, 2 * window[0] - 1, 2 * window[1] - 1)  # (1, h, offsets, offsets)
    grid = F.interpolate(grid, (2 * new[0] - 1, 2 * new[1] - 1), mode="bicubic", align_corners=False)
    return grid[0].flatten(1).t().contiguous().to(table.dtype)
