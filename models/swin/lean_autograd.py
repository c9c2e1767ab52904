"""Backward passes that keep less than autograd would, and move less memory, for the window attention.

The gradients are those of the plain formulas up to rounding; they cannot be differentiated again.

Letters: W windows of all images, N tokens per window, h heads, d head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.swin.attention import BLOCKED

CACHED_VALUES = 1 << 19  # values of a part, 2 MiB in float32


class SplitHeads(torch.autograd.Function):
    """Split the output of the qkv layer over the heads; give queries and keys unit length, queries times a factor.

    Queries and keys as they came are not kept: the gradient follows from the scaled ones, which the matrix products
    keep anyway. That saves two maps of activations, and a pass over three. With r = 1 / max(|x|, floor), y = f r x and
    incoming gradient g it is r (f g - y (y . g) / f), without the second term where the length is below the floor.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, factor: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
        """Split.

        Args:
            ctx: holds what the backward pass needs.
            qkv: any float type, (W, N, 3, h, d).
            factor: (h, 1, 1), at least float32.
            floor: least length that vectors are divided by.

        Returns:
            Queries and keys in at least float32 and values in the type of `qkv`, each (W, h, N, d).
        """
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        outputs, inverses = [], []
        for x, gain in ((q, factor), (k, None)):
            x = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device).copy_(x)
            inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=floor).reciprocal_()  # (W, h, N, 1)
            outputs.append(x.mul_(inverse if gain is None else inverse * gain))
            inverses.append(inverse)
        ctx.save_for_backward(*outputs, *inverses, factor)
        ctx.floor, ctx.dtype = floor, qkv.dtype
        return outputs[0], outputs[1], v.clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gq: Tensor, gk: Tensor, gv: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients of `qkv` and the factor."""
        q, k, rq, rk, factor = ctx.saved_tensors
        windows, heads, n, d = q.shape  # dimensions as in `forward`
        out = gv.new_empty((windows, n, 3, heads, d), dtype=ctx.dtype)
        parts = out.permute(2, 0, 3, 1, 4).unbind(0)  # (W, h, N, d) each
        below = (1 - 1e-6) / ctx.floor  # an inverse length of less was not clamped
        dot_q = (q * gq).sum(-1, keepdim=True) / factor  # (W, h, N, 1)
        along = dot_q * torch.where(rq < below, -rq, 0.0)
        parts[0].copy_(torch.addcmul(gq * (rq * factor), q, along))
        along = (k * gk).sum(-1, keepdim=True) * torch.where(rk < below, -rk, 0.0)
        parts[1].copy_(torch.addcmul(gk * rk, k, along))
        parts[2].copy_(gv)
        return out, dot_q.sum((0, 2), keepdim=True)[0] if ctx.needs_input_grad[1] else None, None


class AttendInParts(torch.autograd.Function):
    """Attend as `attention.attend_explicit` does, a few windows at a time, so that logits stay in the cache of a CPU.

    Of the N x N matrices the weights alone are written to memory and kept.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, blocked: Tensor | None) -> Tensor:
        """Attend.

        Args:
            ctx: holds what the backward pass needs.
            q: (W, h, N, d), any float type; so are k and v, all contiguous.
            k: keys.
            v: values.
            bias: (h, N, N).
            blocked: bool (K, N, N), True where attention is forbidden, or None.

        Returns:
            (W, h, N, d).
        """
        weights = q.new_empty(*q.shape[:3], q.shape[2])  # (W, h, N, N)
        out = torch.empty_like(v)
        for part in parts_of(weights, blocked):
            logits = (q[part] @ k[part].transpose(-2, -1)).add_(bias)  # (w, h, N, N)
            if blocked is not None:
                mask = blocked[part.start % len(blocked) :][: len(logits)]
                logits.unflatten(0, (-1, len(mask))).masked_fill_(mask[:, None], BLOCKED)
            torch.softmax(logits, -1, out=weights[part])
            multiply(weights[part], v[part], out[part])
        ctx.save_for_backward(q, k, v, weights, blocked)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """Return the gradients of queries, keys, values and bias."""
        q, k, v, weights, blocked = ctx.saved_tensors
        g = g.contiguous()
        gq, gk, gv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        gbias = weights.new_zeros(weights.shape[1:])
        for part in parts_of(weights, blocked):
            multiply(weights[part].transpose(-2, -1), g[part], gv[part])
            glogits = torch._softmax_backward_data(g[part] @ v[part].transpose(-2, -1), weights[part], -1, q.dtype)
            gbias += glogits.sum(0)
            multiply(glogits, k[part], gq[part])
            multiply(glogits.transpose(-2, -1), q[part], gk[part])
        return gq, gk, gv, gbias, None


def in_parts_pays(q: Tensor, v: Tensor, bias: Tensor) -> bool:
    """Whether `AttendInParts` can and should take the place of the explicit core: eager, on a CPU, in one dtype."""
    return q.device.type == "cpu" and q.dtype == v.dtype == bias.dtype and not torch.compiler.is_compiling()


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write the products of matrices (w, h, ., .) into a contiguous tensor."""
    torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out=out.view(-1, *out.shape[2:]))


def parts_of(weights: Tensor, blocked: Tensor | None) -> list[slice]:
    """Cut windows into parts that fit into a cache; with a mask, a part is whole images or lies within one."""
    windows = len(weights)
    size = max(CACHED_VALUES // max(weights[:1].numel(), 1), 1)
    if blocked is None:
        return [slice(i, min(i + size, windows)) for i in range(0, windows, size)]
    per_image = len(blocked)
    if size >= per_image:
        size -= size % per_image
        return [slice(i, min(i + size, windows)) for i in range(0, windows, size)]
    starts = [image + i for image in range(0, windows, per_image) for i in range(0, per_image, size)]
    return [slice(i, min(i + size, i - i % per_image + per_image)) for i in starts]
