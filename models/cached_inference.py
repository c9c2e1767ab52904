"""Run a Swin V2 block without gradients on a CPU, a few windows at a time, so that all between stays in the cache.

The published form writes and reads nine maps of the block's size and two of four times that; here a map is read once
in the order of the windows (padding and roll are in the index) and written once. Windows with forbidden pairs come
last, so that the others need no mask. The results are those of `SwinV2Block.forward` up to rounding.

Letters: B batch, H W map, T = H * W tokens of an image, K windows per image, N tokens per window, C channels, h heads,
d head width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import BLOCKED, NORM_FLOOR
from models.layers import Mlp
from models.windows import build_window_mask, cached_constant, padded_size, window_partition

TOKENS = 2048  # worked on at a time; measured best from 64 to 512 channels (benchmarks/attention.py)


class Plan(NamedTuple):
    """Where the windows of a batch of maps lie.

    Attributes:
        read: int64 (B * K, N), the row of the (B * T, C) map for each token; some row where the token is padding.
        write: the same, but the row behind the last for padding.
        free: windows of all images that come first and need no mask.
        blocked: bool (B * K - free, N, N), True where attention is forbidden in the others.
    """

    read: Tensor
    write: Tensor
    free: int
    blocked: Tensor


def build_plan(batch: int, height: int, width: int, window: tuple[int, int], shift: tuple[int, int]) -> Plan:
    """Order the windows of `batch` maps after padding (bottom, right) and rolling by -shift."""
    cpu = torch.device("cpu")
    hp, wp = padded_size(height, width, window)
    index = torch.full((hp, wp), -1)
    index[:height, :width] = torch.arange(height * width).view(height, width)
    index = window_partition(index.roll((-shift[0], -shift[1]), (0, 1))[None, :, :, None], window)[..., 0]  # (K, N)
    blocked = build_window_mask(height, width, window, shift, True, cpu)  # (K, N, N)
    masked = blocked.flatten(1).any(1)
    order = masked.to(torch.uint8).argsort(stable=True)
    free = int((~masked).sum())
    by_image = index[order][:, None] + torch.arange(batch)[:, None] * (height * width)  # (K, B, N)
    padding = (index[order] < 0)[:, None].expand_as(by_image)
    read = by_image.masked_fill(padding, 0).flatten(0, 1)
    write = by_image.masked_fill(padding, batch * height * width).flatten(0, 1)
    return Plan(read, write, free * batch, blocked[order[free:]].repeat_interleave(batch, 0))


plan_windows = cached_constant(build_plan)


def applies(block: nn.Module, x: Tensor) -> bool:
    """Whether `run_block` can stand in for the forward of a `SwinV2Block` on this input."""
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
        and not any(type(m) in (nn.Linear, nn.LayerNorm, nn.Conv2d) and m._forward_hooks for m in block.modules())
        and not (block._forward_hooks or attn._forward_hooks or block.mlp._forward_hooks)
        and attn.qkv.weight.dtype == x.dtype
    )


def run_block(block: nn.Module, x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Map (B, H, W, C) to (B, H, W, C).

    Args:
        block: a `SwinV2Block` for which `applies` holds.
        x: the map.
        shift: the effective shift, rows and columns.
    """
    attended = attend_rows(block.attn, x, shift)
    return finish_rows(block, x, attended)


def attend_rows(attn: nn.Module, x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Return what a `WindowAttention` gives before its last layer, as rows in the order of the map, (B * T, C)."""
    b, height, width, c = x.shape
    n, heads = attn.window[0] * attn.window[1], attn.heads
    plan = plan_windows(b, height, width, attn.window, shift)
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
        read, write = (index[start:end].view(-1) for index in (plan.read, plan.write))
        qkv = rows.index_select(0, read) if padded else project(rows.index_select(0, read))
        q, k, v = qkv.view(-1, n, 3, heads, c // heads).transpose(1, 3).unbind(2)  # (windows, h, N, d)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        out.index_copy_(0, write, y.transpose(1, 2).reshape(-1, c))

    rows = x.reshape(-1, c)
    out = rows.new_empty(len(rows) + 1, c)  # the last row takes the padding
    padded = plan.read.numel() != len(rows)
    if padded:  # spares the projection of padding; else it is done where the tokens are in the cache
        rows = project(rows)
    for start in range(0, plan.free, at_once):
        run(start, min(start + at_once, plan.free), bias[None])
    for start in range(plan.free, len(plan.read), at_once):
        blocked = plan.blocked[start - plan.free : start - plan.free + at_once]
        run(start, start + len(blocked), torch.where(blocked[:, None], BLOCKED, bias))
    return out[:-1]


def scale_to_unit(qk: Tensor, gain: Tensor) -> None:
    """Give queries and keys unit length times a gain, in place, see `attention.normalize_queries_keys`.

    Args:
        qk: (tokens, 2, h, d).
        gain: at least float32 (1, 2, h, 1), the factor of each head for the queries, 1 for the keys.
    """
    wide = qk.to(gain.dtype)
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_(min=NORM_FLOOR**0.5).reciprocal_()
    if wide is qk:
        qk.mul_(inverse.mul_(gain))
    else:
        qk.copy_(wide.mul_(inverse.mul_(gain)))


def finish_rows(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
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
    maps = (x, attended.view(x.shape), out)
    at_once = max(TOKENS // (height * width), 1)  # images
    if mlp.dw is None:
        maps, at_once = (m.reshape(-1, c) for m in maps), TOKENS
    for before, y, after in zip(*(m.split(at_once) for m in maps), strict=True):
        y = block.norm1(block.attn.proj(y)).add_(before)
        hidden = mlp.fc1(y)
        if mlp.dw is not None:
            hidden = mlp.dw(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = block.norm2(mlp.fc2(torch.ops.aten.gelu_(hidden))).add_(y)
        after.copy_(y if block.norm3 is None else block.norm3(y))
    return out
