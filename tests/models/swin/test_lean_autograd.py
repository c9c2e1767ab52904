"""The gradient of the head split: against numeric differentiation, and against autograd through the plain formula."""

import pytest
import torch

from models.swin import lean_autograd
from models.swin.attention import attend_explicit, normalize_queries_keys
from models.swin.lean_autograd import AttendInParts, SplitHeads


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


@pytest.mark.parametrize("values", [1, 2 * 2 * 25, 7 * 2 * 25, 1 << 20])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_parts_equals_the_explicit_core(values, images, masked, monkeypatch):
    monkeypatch.setattr(lean_autograd, "CACHED_VALUES", values)
    torch.manual_seed(0)
    q, k, v = (torch.randn(images * 4, 2, 5, 3, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(2, 5, 5, dtype=torch.float64)
    blocked = (torch.rand(4, 5, 5) < 0.3) & ~torch.eye(5, dtype=torch.bool) if masked else None
    gradient = torch.randn(q.shape, dtype=torch.float64)
    results = []
    for core in (AttendInParts.apply, attend_explicit):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, bias)]
        out = core(*leaves, blocked)
        out.backward(gradient)
        results.append((out, *(t.grad for t in leaves)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
