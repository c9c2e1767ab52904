"""Where cells of a map attend in a Swin block, in the order of the map: windows put together, the roll undone.

Letters: H W map, T = H * W, K windows, N tokens per window, C channels, h heads, d head width, D sets of cells.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.swin.attention import attend_explicit, autocast_off
from models.swin.cached_inference import plan_windows
from models.swin.windows import effective_shift, padded_size

TOKENS = 8192  # of windows worked on at a time; bounds the memory of the logits


@torch.no_grad()
def attention_maps(block: Any, x: Tensor, cells: Tensor) -> Tensor:
    """Compute the attention weights of sets of cells again from the input of a block.

    The weights of a set are the mean over its cells and over the heads. Each is a softmax over the window of its cell,
    so that a map sums to 1 and is 0 outside the windows of the cells; a shifted window at the edge of the map holds
    cells of both sides, and the weight of those that are no neighbours is 0 (see `windows.build_window_mask`). Only
    with `mask_padding` off the padding has a part of the sum.

    Args:
        block: a `SwinV2Block`, fused or not.
        x: its input, (1, H, W, C), in its dtype.
        cells: bool (D, H, W), at least one True in each map.

    Returns:
        float32 (D, H, W) on the device of `x`, 0..1.
    """
    _, height, width, c = x.shape
    attn, tokens = block.attn, height * width
    n, heads = attn.window[0] * attn.window[1], attn.heads
    shift = effective_shift(padded_size(height, width, attn.window), attn.window, block.shift)
    plan = plan_windows(height, width, attn.window, shift, block.mask_padding)
    places = plan.places.to(x.device)  # (K, N)
    blocked = F.pad(plan.blocked, (0, 0, 0, 0, plan.free, 0)).to(x.device)  # (K, N, N)

    asked = cells.flatten(1).float()
    asked = F.pad(asked / asked.sum(1, keepdim=True), (0, 1))[:, places]  # (D, K, N), 0 for padding
    rows = (block.norm1(x) if block.pre_norm else x).reshape(tokens, c)
    rows = F.pad(rows, (0, 0, 0, 1))  # the last row is the padding
    qk = attn.qkv.weight[: 2 * c], torch.cat((attn.q_bias, torch.zeros_like(attn.q_bias)))
    with autocast_off(x.device.type):
        factor, bias = attn.constants()
        maps = rows.new_zeros((len(cells), tokens + 1), dtype=torch.float32)
        for part in asked.sum((0, 2)).nonzero()[:, 0].split(max(TOKENS // n, 1)):  # windows
            q, k = F.linear(rows[places[part]], *qk).view(-1, n, 2, heads, c // heads).permute(2, 0, 3, 1, 4)
            q, k = attn.scale(q, k, factor)
            each = torch.eye(n, dtype=q.dtype, device=q.device).expand(len(part), heads, n, n)
            # values that tell the tokens apart: what comes out is the weights
            weights = attend_explicit(q, k, each, bias, blocked[part]).mean(1).float()  # (windows, N, N)
            mixed = (asked[:, part, None] @ weights)[:, :, 0]  # (D, windows, N)
            maps.index_add_(1, places[part].flatten(), mixed.flatten(1))
    return maps[:, :tokens].view(-1, height, width)
