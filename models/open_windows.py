"""Shifted windows for graphs with open height and width: the functions of `windows` without a decision in Python.

Letters as in `models/windows.py`. Roll and partition become one look-up by index tables; a test compares the result
with `windows` at many sizes.
"""

import torch
from torch import Tensor


def window_tables(
    x: Tensor, window: tuple[int, int], shift: tuple[int, int]
) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[Tensor, Tensor], Tensor]:
    """Make what `gather_windows` and `ungather_windows` index with, for a map whose size is a symbol.

    Only tensors are computed and no axis is ever split or merged: this form stands in graphs that `torch.export` traces
    with open height and width. A comparison of sizes in Python would be decided there once and for all, and sizes of
    views would cost minutes of symbolic arithmetic. The shift is 0 on each axis that a single window covers.

    Args:
        x: features, (B, H, W, C).
        window: rows and columns of a window.
        shift: rows and columns of the shift.

    Returns:
        Row and column in `x` of each token, int64 (K, N), the nearest cell of the map for padding; bool (K, N), True
        for padding; window and token of each cell of the map, int64 (H, W); and the region of each token, int64 (K, N),
        where tokens of different regions of a window are not neighbours in the map.
    """
    (wy, wx), device = window, x.device
    token = torch.arange(wy * wx, device=device)
    across = (x.shape[2] + wx - 1) // wx
    number = torch.arange((x.shape[1] + wy - 1) // wy * across, device=device)[:, None]  # (K, 1)
    across = torch.arange(across, device=device)[-1:] + 1  # (1,)
    tall, wide = divide(number, across), divide(token, wx)
    places = (tall[0] * wy + wide[0], tall[1] * wx + wide[1])  # 2 x (K, N) in the rolled map
    cells, padding, region, windows, inside = [], [], [], [], []
    for axis, place in enumerate(places):
        side = torch.arange(x.shape[axis + 1], device=device)  # (H,) or (W,)
        last = side[-1:]
        padded = (divide(last, window[axis])[0] + 1) * window[axis]  # (1,)
        moved = (padded > window[axis]).long() * shift[axis]
        cell = place + moved
        cell = torch.where(cell >= padded, cell - padded, cell)  # (K, N)
        cells.append(torch.minimum(cell, last))
        padding.append(cell > last)
        region.append((place >= padded - moved).long())
        rolled = side - moved
        rolled = divide(torch.where(rolled < 0, rolled + padded, rolled), window[axis])
        windows.append(rolled[0])
        inside.append(rolled[1])
    back = (windows[0][:, None] * across + windows[1], inside[0][:, None] * wx + inside[1])  # 2 x (H, W)
    return tuple(cells), padding[0] | padding[1], back, region[0] * 2 + region[1]


def divide(a: Tensor, b: Tensor | int) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of tensors >= 0; `//` and `%` export as many nodes more, which mind the sign."""
    quotient = torch.div(a, b, rounding_mode="trunc")
    return quotient, a - quotient * b


def gather_windows(
    x: Tensor, window: tuple[int, int], shift: tuple[int, int], mask_padding: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Pad, roll and cut a map into windows by one look-up, see `window_tables`.

    Returns:
        (B, K, N, C); bool (K, N, N) as `window_mask` makes it, of no effect where nothing is padded and rolled; and the
        argument of `ungather_windows`.
    """
    (rows, columns), padding, back, region = window_tables(x, window, shift)
    windows = x[:, rows, columns]  # (B, K, N, C)
    blocked = region[:, :, None] != region[:, None, :]  # (K, N, N)
    if mask_padding:
        blocked = blocked | padding[:, None, :]
    else:
        windows = torch.where(padding[:, :, None], 0.0, windows)
    token = torch.arange(window[0] * window[1], device=x.device)
    return windows, blocked & (token[:, None] != token), back


def ungather_windows(windows: Tensor, back: tuple[Tensor, Tensor]) -> Tensor:
    """Put windows (B, K, N, C) back into a map (B, H, W, C): the inverse of `gather_windows`."""
    return windows[:, back[0], back[1]]
