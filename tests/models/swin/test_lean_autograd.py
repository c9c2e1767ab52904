"""The gradient of the head split: against numeric differentiation, and against autograd through the plain formula."""

import pytest
import torch

from models.swin.attention import normalize_queries_keys
from models.swin.lean_autograd import SplitHeads


def plain(qkv, factor):
    qkv = qkv.permute(2, 0, 3, 1, 4)
    return *normalize_queries_keys(*qkv[:2], factor), qkv[2]


def inputs(dtype, short=False):
    torch.manual_seed(0)
    qkv = torch.randn(3, 5, 3, 2, 4, dtype=dtype)
    if short:
        qkv[0] *= 1e-5
        qkv[1, 0] = 0
    return qkv.requires_grad_(), torch.tensor([[[7.0]], [[0.5]]], dtype=dtype).requires_grad_()


def test_gradient_equals_finite_differences():
    assert torch.autograd.gradcheck(lambda *args: SplitHeads.apply(*args, 1e-3), inputs(torch.float64))


@pytest.mark.parametrize("short", [False, True])
def test_results_and_gradients_equal_the_plain_formula(short):
    results = []
    for split in (lambda *args: SplitHeads.apply(*args, 1e-3), plain):
        qkv, factor = inputs(torch.float64, short)
        outputs = split(qkv, factor)
        torch.manual_seed(1)
        torch.autograd.backward(outputs, [torch.randn(o.shape, dtype=o.dtype) for o in outputs])
        results.append((*outputs, qkv.grad, factor.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_input_is_left_alone_where_its_parts_are_contiguous():
    qkv = torch.randn(4, 1, 3, 1, 8)
    kept = qkv.clone()
    SplitHeads.apply(qkv, torch.full((1, 1, 1), 3.0), 1e-3)
    assert torch.equal(qkv, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_normalised_in_float32(dtype):
    qkv, factor = inputs(torch.float32)
    half = qkv.detach().to(dtype).requires_grad_()
    q, k, v = SplitHeads.apply(half, factor, 1e-3)
    assert (q.dtype, k.dtype, v.dtype) == (torch.float32, torch.float32, dtype)
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(3, 2, 5))
    (q.sum() + k.sum() + v.float().sum()).backward()
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()
