"""A backward pass that keeps less than autograd would, and moves less memory, for the window attention.

The gradients are those of the plain formulas up to rounding; they cannot be differentiated again.

Letters: W windows of all images, N tokens per window, h heads, d head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
            # contiguous, unlike the view, so that the matrix products copy nothing
            x = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device).copy_(x)
            inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=floor).reciprocal_()  # (W, h, N, 1)
            outputs.append(x.mul_(inverse if gain is None else inverse * gain))
            inverses.append(inverse)
        ctx.save_for_backward(*outputs, *inverses, factor)
        ctx.floor, ctx.dtype = floor, qkv.dtype
        # a copy, as a view would keep all of qkv alive until the backward pass
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
        dot_k = (k * gk).sum(-1, keepdim=True)
        buffer = torch.empty_like(q)  # one that stays in the cache of the processor
        for part, x, g, scale, dot, inverse in (
            (parts[0], q, gq, rq * factor, dot_q, rq),
            (parts[1], k, gk, rk, dot_k, rk),
        ):
            torch.mul(g, scale, out=buffer)
            part.copy_(buffer.addcmul_(x, dot * torch.where(inverse < below, -inverse, 0.0)))
        parts[2].copy_(gv)
        return out, dot_q.sum((0, 2), keepdim=True)[0] if ctx.needs_input_grad[1] else None, None
