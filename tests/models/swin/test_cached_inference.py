"""The form of the block for inference on a CPU gives what the plain form gives."""

import pytest
import torch

from models.common import SwinV2Block
from models.swin import cached_inference


def random_block(dim=32, heads=2, window=4, shift=2, **options):
    torch.manual_seed(0)
    block = SwinV2Block(dim, heads, window, shift, norm_gain=1.0, init_std=None, **options).eval()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return block


def both_forms(block, x, monkeypatch):
    """Results of the form under test and of the plain form."""
    with torch.no_grad():
        assert cached_inference.applies(block, x)
        ours = block(x)
        monkeypatch.setattr(cached_inference, "applies", lambda *_: False)
        return ours, block(x)


@pytest.mark.parametrize(("tokens", "shift"), [(16, 2), (100, 0), (100, (0, 3)), (100000, 2)])
@pytest.mark.parametrize("size", [(8, 8), (9, 14), (3, 2), (4, 13), (1, 1)])
def test_any_size_equals_the_plain_form(tokens, size, shift, monkeypatch):
    monkeypatch.setattr(cached_inference, "TOKENS", tokens)
    ours, plain = both_forms(random_block(shift=shift), torch.randn(3, *size, 32), monkeypatch)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"depthwise": True}, {"extra_norm": True}, {"bias": "table"}, {"sequential": 2}], ids=str
)
def test_options_equal_the_plain_form(options, monkeypatch):
    ours, plain = both_forms(random_block(**options), torch.randn(2, 9, 6, 32), monkeypatch)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_equal_the_plain_form(dtype, monkeypatch):
    block = random_block().to(dtype)
    ours, plain = both_forms(block, torch.randn(2, 9, 6, 32, dtype=dtype), monkeypatch)
    assert ours.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=4 * tolerance)


def test_fused_attention_and_strided_input(monkeypatch):
    block = random_block()
    block.attn.fuse()
    x = torch.randn(2, 32, 9, 6).permute(0, 2, 3, 1)
    kept = x.clone()
    ours, plain = both_forms(block, x, monkeypatch)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)


def test_windows_are_planned_once_for_a_shape_whatever_the_batch():
    block = random_block().eval()
    cached_inference.plan_windows.cache.clear()
    with torch.no_grad():
        for batch in (1, 3, 2):
            block(torch.randn(batch, 9, 6, 32))
    assert list(cached_inference.plan_windows.cache) == [(9, 6, (4, 4), (2, 2))]


def test_it_steps_aside_where_it_could_be_seen():
    block, x = random_block(), torch.randn(1, 8, 8, 32)
    assert not cached_inference.applies(block, x)  # gradients are on
    with torch.no_grad():
        assert cached_inference.applies(block, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not cached_inference.applies(block, x)
        seen = []
        handle = block.mlp.fc1.register_forward_hook(lambda *_: seen.append(1))
        block(x)
        assert seen == [1]
        handle.remove()
        assert not cached_inference.applies(block.train(), x)
        block.eval().attn.core = "explicit"
        assert not cached_inference.applies(block, x)
        assert not cached_inference.applies(random_block(norm="pre"), x)
        assert not cached_inference.applies(random_block(mask_padding=False), x)
