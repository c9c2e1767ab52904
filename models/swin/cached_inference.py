"""Run a Swin V2 block without gradients on a CPU, a few windows at a time, so that intermediate values stay in cache.

The published form writes and reads nine maps of the block's size and two of four times that; here a map is read once
in the order of the windows (padding and roll are in the index) and written once. Windows with forbidden pairs come
last, so that the others need no mask. The results are those of `SwinV2Block.forward` up to rounding.

CPU time as a multiple of that with the plain form (whole fused models on a core of a shared machine, medians of turns):
yolov5n-swinv2 at 320 px 1.01, 1.01 and 0.95 for batches of 1, 8 and 16, at 640 px 0.97, 0.81 and 0.86;
yolov5s-swinv2 at 320 px 1.01, 0.94 and 0.92, at 640 px 0.98 and 0.86 for 1 and 8.

Letters: B batch, H W map, T = H * W tokens of an image, K windows per image, N tokens per window, C channels, h heads,
d head width.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.swin.attention import BLOCKED, NORM_FLOOR
from models.swin.layers import Mlp
from models.swin.windows import build_window_mask, cached_constant, padded_size, window_partition

TOKENS = 2048  # worked on at a time; measured best from 64 to 512 channels (benchmarks/attention.py)


class Plan(NamedTuple):
    """The positions of the windows of one map.

    Attributes:
        places: int64 (K, N), the token of the map (0 to T - 1, row by row) at each place, T where it is padding.
        free: windows that come first and need no mask.
        blocked: bool (K - free, N, N), True where attention is forbidden in the others.
    """

    places: Tensor
    free: int
    blocked: Tensor


def build_plan(
    height: int, width: int, window: tuple[int, int], shift: tuple[int, int], mask_padding: bool = True
) -> Plan:
    """Order the windows of a map after padding (bottom, right) and rolling by -shift; see `build_window_mask`."""
    cpu = torch.device("cpu")
    hp, wp = padded_size(height, width, window)
    index = torch.full((hp, wp), height * width)
    index[:height, :width] = torch.arange(height * width).view(height, width)
    index = window_partition(index.roll((-shift[0], -shift[1]), (0, 1))[None, :, :, None], window)[..., 0]  # (K, N)
    blocked = build_window_mask(height, width, window, shift, mask_padding, cpu)  # (K, N, N)
    masked = blocked.flatten(1).any(1)
    order = masked.to(torch.uint8).argsort(stable=True)  # stable: free windows stay in the order of memory
    free = int((~masked).sum())
    return Plan(index[order], free, blocked[order[free:]])


plan_windows = cached_constant(build_plan)


def index_batch(index: Tensor, batch: int, tokens: int) -> Tensor:
    """Extend the index of a plan to `batch` maps of `tokens` each, window by window over all maps.

    Returns:
        int64 (K * B, N), the row of the (B * T, C) maps at each place, B * T where it is padding.
    """
    rows = index[:, None] + torch.arange(batch)[:, None] * tokens  # (K, B, N)
    if index.numel() != tokens:
        rows = rows.masked_fill((index == tokens)[:, None], batch * tokens)
    return rows.flatten(0, 1)


def applies(block: Any, x: Tensor) -> bool:
    """Whether `run_block` can replace the forward of a `SwinV2Block` on this input."""
    attn = block.attn
    return (
        not torch.is_grad_enabled()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and not block.training
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not torch.is_autocast_enabled("cpu")
        and block.mask_padding
        and not block.pre_norm
        and attn.attention_kind == "cosine"
        and attn.core != "explicit"
        and type(block.mlp) is Mlp
        # hooks would see parts of the map, or nothing
        and not any(type(m) in (nn.Linear, nn.LayerNorm, nn.Conv2d) and m._forward_hooks for m in block.modules())
        and not (block._forward_hooks or attn._forward_hooks or block.mlp._forward_hooks)
        and attn.qkv.weight.dtype == x.dtype
    )


def run_block(block: Any, x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Map (B, H, W, C) to (B, H, W, C).

    Args:
        block: a `SwinV2Block` for which `applies` holds.
        x: the map.
        shift: the effective shift, rows and columns.
    """
    attended = attend_rows(block.attn, x, shift)
    return finish_rows(block, x, attended)


def attend_rows(attn: Any, x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Return what a `WindowAttention` gives before its last layer, as rows in the order of the map, (B * T, C)."""
    b, height, width, c = x.shape
    n, heads = attn.window[0] * attn.window[1], attn.heads
    plan = plan_windows(height, width, attn.window, shift)
    index = index_batch(plan.places, b, height * width)  # (K * B, N)
    free = plan.free * b
    factor, bias = attn.constants()
    bias = bias.to(x.dtype)  # (h, N, N)
    gain = torch.stack((factor, torch.ones_like(factor))).view(1, 2, heads, 1)
    qkv_bias = torch.cat((attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias))
    at_once = max(TOKENS // n, 1)

    def project(tokens: Tensor) -> Tensor:
        qkv = F.linear(tokens, attn.qkv.weight, qkv_bias).view(-1, 3, heads, c // heads)
        scale_to_unit(qkv[:, :2], gain)
        return qkv

    def run(start: int, end: int, mask: Tensor) -> None:
        places = index[start:end].view(-1)
        qkv = rows.index_select(0, places) if padded else project(rows.index_select(0, places))
        q, k, v = qkv.view(-1, n, 3, heads, c // heads).transpose(1, 3).unbind(2)  # (windows, h, N, d)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        out.index_copy_(0, places, y.transpose(1, 2).reshape(-1, c))

    rows = x.reshape(-1, c)
    out = rows.new_empty(len(rows) + 1, c)  # the last row takes the padding
    padded = index.numel() != len(rows)
    if padded:  # spares the projection of padding; else it is done where the tokens are in the cache
        rows = project(F.pad(rows, (0, 0, 0, 1)))  # the last row is the padding
    for start in range(0, free, at_once):
        run(start, min(start + at_once, free), bias[None])
    for start in range(free, len(index), at_once):
        end = min(start + at_once, len(index))
        # row i of the index is window i // b of image i % b
        blocked = plan.blocked[torch.arange(start, end) // b - plan.free]
        run(start, end, torch.where(blocked[:, None], BLOCKED, bias))
    return out[:-1]


def scale_to_unit(qk: Tensor, gain: Tensor) -> None:
    """Give queries and keys unit length times a gain, in place, see `attention.normalize_queries_keys`.

    Args:
        qk: (tokens, 2, h, d).
        gain: at least float32 (1, 2, h, 1), the factor of each head for the queries, 1 for the keys.
    """
    wide = qk.to(gain.dtype)
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_(min=NORM_FLOOR**0.5).reciprocal_()
    if wide is qk:  # `to` gave no copy: float32 needs no second tensor
        qk.mul_(inverse.mul_(gain))
    else:
        qk.copy_(wide.mul_(inverse.mul_(gain)))


def finish_rows(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Do what follows the attention: last layer, norms, residuals and MLP.

    Args:
        block: a `SwinV2Block`.
        x: its input, (B, H, W, C).
        attended: from `attend_rows`.

    Returns:
        (B, H, W, C).
    """
    mlp, (_, height, width, c) = block.mlp, x.shape
    out = torch.empty(x.shape, dtype=x.dtype)
    maps = [x, attended.view(x.shape), out]
    at_once = max(TOKENS // (height * width), 1)  # images
    if mlp.dw is None:
        maps, at_once = [m.reshape(-1, c) for m in maps], TOKENS
    for before, y, after in zip(*(m.split(at_once) for m in maps), strict=True):
        y = block.norm1(block.attn.proj(y)).add_(before)
        hidden = mlp.fc1(y)
        if mlp.dw is not None:
            hidden = mlp.dw(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = block.norm2(mlp.fc2(torch.ops.aten.gelu_(hidden))).add_(y)
        after.copy_(y if block.norm3 is None else block.norm3(y))
    return out
