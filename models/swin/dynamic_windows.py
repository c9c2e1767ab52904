"""Shifted windows for graphs with dynamic height and width: the functions of `windows` without a decision in Python.

Letters as in `models/swin/windows.py`. Roll and partition become one look-up by index tables; a test compares the
result with `windows` at many sizes.
"""

import torch
from torch import Tensor


def window_tables(
    x: Tensor, window: tuple[int, int], shift: tuple[int, int]
) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[Tensor, Tensor], Tensor]:
    """Make what `gather_windows` and `ungather_windows` index with, for a map whose size is a symbol.

    Only tensors are computed and no axis is ever split or merged: this form is for graphs that `torch.export` traces
    with dynamic height and width. A comparison of sizes in Python would be decided there once and for all, and sizes of
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
    lines = [torch.arange((x.shape[axis + 1] + w - 1) // w, device=device) for axis, w in enumerate(window)]
    across = lines[1][-1:] + 1  # (1,) windows in a row
    number = torch.arange(lines[0].shape[0] * lines[1].shape[0], device=device)  # (K,)
    row = divide(number, across, lines[0])
    starts = (row * wy, (number - row * across) * wx)  # 2 x (K,) in the rolled map
    places = (starts[0][:, None] + token // wx, starts[1][:, None] + token % wx)  # 2 x (K, N)
    cells, padding, region, windows, inside = [], [], [], [], []
    for axis, (place, w) in enumerate(zip(places, window, strict=True)):
        side = torch.arange(x.shape[axis + 1], device=device)  # (H,) or (W,)
        last = side[-1:]
        padded = (lines[axis][-1:] + 1) * w  # (1,)
        moved = (padded > w).long() * shift[axis]
        cell = place + moved
        cell = torch.where(cell >= padded, cell - padded, cell)  # (K, N)
        cells.append(torch.minimum(cell, last))
        padding.append(cell > last)
        region.append((place >= padded - moved).long())
        rolled = side - moved
        rolled = torch.where(rolled < 0, rolled + padded, rolled)
        windows.append(divide(rolled, w, lines[axis]))
        inside.append(rolled - windows[axis] * w)
    back = (windows[0][:, None] * across + windows[1], inside[0][:, None] * wx + inside[1])  # 2 x (H, W)
    return (cells[0], cells[1]), padding[0] | padding[1], back, region[0] * 2 + region[1]


def divide(a: Tensor, b: Tensor | int, quotients: Tensor) -> Tensor:
    """Return a // b by comparisons, as TensorRT has no integer division that rounds down.

    None of the tensors is empty, not even for a single quotient, as OpenCV cannot run empty ones.

    Args:
        a: int64 (M,), not negative.
        b: positive.
        quotients: int64 (Q,), 0 to Q - 1, all values that the result can have.
    """
    return (a[:, None] >= quotients * b).long().sum(1) - 1


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
