"""Scaled cosine attention of Swin Transformer V2 within windows, in float32 whatever the dtype around it.

Source: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, arXiv:2111.09883, section 3.2;
the dot product of Swin V1 (arXiv:2103.14030, equation 4) is there to compare with.

Letters: B batch, K windows per image, N tokens per window, h heads, d head width.

Two things differ from the published implementations. The normaliser of queries and keys is bounded, so that half
precision cannot overflow. And a blocked pair gets a logit of -30000 (`BLOCKED`), where torchvision and timm add -100:
cosines are multiplied by exp(logit_scale), up to 100, so that with them a token from the other side of a rolled map
is attended to where the scale has grown. Up to a scale of 3.5 the outputs of a shifted block are the same to 1e-5 even
for the worst input; at ln 100 they differ by up to 4.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_LOGIT_SCALE = math.log(100.0)  # temperature of at least 0.01
BLOCKED = -30000.0  # underflows to 0 in the softmax of every float type and stays finite in float16
NORM_FLOOR = 1e-6  # least squared length of a query or key; bounds the gradient of the normaliser by 1e3


def autocast_off(device_type: str) -> AbstractContextManager:
    """Return a context in which autocast leaves dtypes alone, also on devices without autocast (meta)."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def logit_factor(logit_scale: Tensor) -> Tensor:
    """Return the inverse temperature exp(min(logit_scale, ln 100)) in at least float32, at most 100."""
    return at_least_float32(logit_scale).clamp(max=MAX_LOGIT_SCALE).exp()


def inverse_length(x: Tensor) -> Tensor:
    """Return 1 / max(|x|, 1e-3) of each vector of the last axis, (..., d) to (..., 1)."""
    return (x * x).sum(-1, keepdim=True).clamp(min=NORM_FLOOR).rsqrt()


def normalize_queries_keys(q: Tensor, k: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Scale queries and keys to unit length, and multiply the queries by their head's factor.

    Vectors shorter than 1e-3 are divided by 1e-3 instead of their length (the published form divides by as little as
    1e-12, which overflows the gradient in float16).

    Args:
        q: (B * K, h, N, d), any float type.
        k: as `q`.
        factor: (h, 1, 1), see `logit_factor`.

    Returns:
        Queries and keys in at least float32.
    """
    q, k = at_least_float32(q), at_least_float32(k)
    return q * (inverse_length(q) * factor), k * inverse_length(k)


def attend_explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, blocked: Tensor | None) -> Tensor:
    """Attend with logits and softmax in float32 (the accurate form, and the faster one for training on a CPU).

    Args:
        q: float32 (B * K, h, N, d), unit vectors times the factor of their head.
        k: float32 (B * K, h, N, d), unit vectors.
        v: (B * K, h, N, d) in the dtype of the linear layers.
        bias: float32 (h, N, N).
        blocked: bool (K, N, N) from `window_mask`, or None.

    Returns:
        (B * K, h, N, d) in the dtype of `v`.
    """
    logits = q @ k.transpose(-2, -1)  # (B * K, h, N, N)
    if torch.compiler.is_compiling():
        logits = logits + bias
        if blocked is not None:
            mask = torch.where(blocked, BLOCKED, 0.0)[:, None]  # (K, 1, N, N); added, it has no part in the gradient
            logits = (logits.unflatten(0, (-1, len(mask))) + mask).flatten(0, 1)
    else:
        logits += bias
        if blocked is not None:
            # out of the graph's sight: the softmax gives these pairs a weight of 0, and with it a gradient of 0
            logits.detach().unflatten(0, (-1, blocked.shape[0])).masked_fill_(blocked[:, None], BLOCKED)
    return logits.softmax(-1).to(v.dtype) @ v


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, blocked: Tensor | None) -> Tensor:
    """Attend through the fused kernel of PyTorch; arguments and result as in `attend_explicit`.

    Everything is 4-D and the mask is broadcast over the first axis only, the one form that stays fused on every device:
    windows share the heads' axis when they need different masks.
    """
    q, k, bias = q.to(v.dtype), k.to(v.dtype), bias.to(v.dtype)
    if blocked is None:  # scale 1: the queries come multiplied by their factor
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=1.0)
    n, d = q.shape[-2:]
    mask = torch.where(blocked[:, None], BLOCKED, 0.0).to(bias.dtype)  # (K, 1, N, N): all that a file has to hold
    masked = (bias + mask).contiguous().view(1, -1, n, n)  # (1, K * h, N, N); a narrow window gives strided ones
    q, k, v = (t.reshape(-1, masked.shape[1], n, d) for t in (q, k, v))  # (B, K * h, N, d)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=masked, scale=1.0)
    return out.view(-1, bias.shape[0], n, d)


ATTENTION_CORES = {"explicit": attend_explicit, "sdpa": attend_sdpa}


def choose_core(name: str, device_type: str, training: bool) -> Callable[..., Tensor]:
    """Pick the attention core: `explicit`, `sdpa`, or `auto`: explicit for training on a CPU, else the fused kernel.

    Raises:
        ValueError: the name is none of the three.
    """
    if name == "auto":
        name = "explicit" if training and device_type == "cpu" else "sdpa"
    if name not in ATTENTION_CORES:
        raise ValueError(f"unknown attention core {name!r}; allowed: auto, {', '.join(ATTENTION_CORES)}")
    return ATTENTION_CORES[name]


def attend_in_sequence(
    attend: Callable[[Tensor, Tensor | None], Tensor], qkv: Tensor, blocked: Tensor | None, windows: int
) -> Tensor:
    """Attend in a few windows after the others instead of in all at once (the paper's sequential attention, 3.4).

    While gradients are recorded, each part is computed again in the backward pass, so that the logits of one part alone
    are in memory at any time. Results are those of one call.

    Args:
        attend: takes (3, windows, h, N, d) and their mask, gives (windows, h, N, d).
        qkv: queries, keys and values, (3, B * K, h, N, d).
        blocked: bool (K, N, N), or None.
        windows: how many at a time, over all images; rounded up to one of every image where there is a mask.

    Returns:
        (B * K, h, N, d).
    """

    def run(part: Tensor, mask: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and part.requires_grad:
            return checkpoint(attend, part, mask, use_reentrant=False)
        return attend(part, mask)

    if blocked is None:
        return torch.cat([run(part, None) for part in qkv.split(windows, 1)])
    by_image = qkv.unflatten(1, (-1, blocked.shape[0]))  # (3, B, K, h, N, d)
    # parts are cut along K: the same window of all images shares its mask
    at_once = max(windows // max(by_image.shape[1], 1), 1)
    parts = [
        run(part.flatten(1, 2), mask).unflatten(0, (-1, mask.shape[0]))  # (B, k, h, N, d)
        for part, mask in zip(by_image.split(at_once, 2), blocked.split(at_once), strict=True)
    ]
    return torch.cat(parts, 1).flatten(0, 1)
