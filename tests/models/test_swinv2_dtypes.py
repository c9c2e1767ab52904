"""The rules of the Swin V2 blocks about dtypes: half precision and mixed precision, on the CPU."""

import ast
import inspect
import math
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from models import common
from models.common import (
    SwinV2Block,
    WindowAttention,
)
from models.swin import attention, layers
from models.yolo import DetectionModel

ROOT = Path(__file__).resolve().parents[2]
HALVES = [torch.float16, torch.bfloat16]
SIZES = {"whole": (16, 16), "padded": (20, 22), "tiny": (3, 3)}


@pytest.fixture(scope="module")
def detector():
    return DetectionModel(ROOT / "models" / "yolov5n-swinv2.yaml", nc=3, verbose=False)


def block_of(shift=4, core="auto", **keywords):
    return SwinV2Block(64, 2, 8, shift, norm_gain=1.0, core=core, **keywords)


# Half precision on the CPU ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("core", ["explicit", "sdpa"])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_and_autocast_stay_close_to_float32(dtype, allowed, core, shift, size):
    block = block_of(shift, core).eval()
    x = torch.randn(1, *SIZES[size], 64)
    exact = block(x)
    with torch.autocast("cpu", dtype=dtype):
        mixed = block(x)
    half = deepcopy(block).to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    for out in (mixed, half):
        assert (out.float() - exact).abs().max().item() <= allowed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
@pytest.mark.parametrize("content", ["random", "zero"])
def test_training_in_half_precision_is_finite(size, dtype, autocast, content):
    block = block_of()
    if not autocast:
        block.to(dtype)
    x = torch.randn(2, *SIZES[size], 64) * (content == "random")
    x = x.to(torch.float32 if autocast else dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype) if autocast else nullcontext():
        y = block(x)
    loss = y.float().square().mean()
    assert loss.isfinite()
    loss.backward()
    assert x.grad.isfinite().all()
    assert [name for name, p in block.named_parameters() if not p.grad.isfinite().all()] == []


def test_detector_validates_in_half_after_training(detector):
    model = deepcopy(detector)
    sum(level.sum() for level in model.train()(torch.rand(2, 3, 32, 32))).backward()
    x = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        exact, _ = model.eval()(x)
        for dtype in HALVES:
            boxes, raw = deepcopy(model).to(dtype)(x.to(dtype))
            assert boxes.dtype == torch.float32  # float16 has steps of half a pixel at 640
            assert raw[0].dtype == dtype
            assert boxes.isfinite().all()
            assert (boxes[..., 4:] - exact[..., 4:]).abs().max() < 0.05
        assert model.half().float()(x)[0].isfinite().all()


@pytest.mark.parametrize("form", ["zero map", "padding"])
def test_keys_of_length_zero_give_zero_not_nan_in_float16(form):
    block = block_of(0, mask_padding=False).half().eval()
    x = torch.zeros(1, 8, 8, 64) if form == "zero map" else torch.randn(1, 5, 5, 64)
    with torch.no_grad():
        assert block(x.half()).isfinite().all()
    assert not F.normalize(torch.zeros(1, 4).half(), eps=1e-12).isfinite().all()  # the published form


def published_normaliser(qk, factor):
    """Unit length as in the published implementations, in float32: divided by at least 1e-12."""
    q, k = F.normalize(qk.float(), dim=-1, eps=1e-12)
    return torch.stack((q * factor, k))


@pytest.mark.parametrize("scale", [1.0, 1024.0, 65536.0])
@pytest.mark.parametrize("size", ["padded", "tiny"])
@pytest.mark.parametrize("shift", [0, 4])
def test_gradients_survive_every_loss_scale(scale, size, shift):
    block = block_of(shift, "explicit", init_std=None)
    with torch.autocast("cpu", dtype=torch.float16):
        y = block(torch.randn(2, *SIZES[size], 64))
    # linear, and branches of unit size: no gradient times the scale leaves the range of float16 by itself
    ((y.float() * torch.randn(64)).mean() * scale).backward()
    assert [name for name, p in block.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_published_form_overflows_at_padded_keys(scale, monkeypatch):
    def published_split(qkv, factor, floor):
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return *published_normaliser(torch.stack((q, k)), factor), v

    monkeypatch.setattr(common.SplitHeads, "apply", published_split)
    gradients = {}
    for mask_padding in (False, True):
        block = block_of(0, "explicit", mask_padding=mask_padding)
        with torch.autocast("cpu", dtype=torch.float16):
            y = block(torch.randn(2, 20, 22, 64))
        (y.float().square().mean() * scale).backward()
        gradients[mask_padding] = block.attn.qkv.weight.grad.isfinite().all().item()
    assert gradients == {False: False, True: True}


def test_position_bias_stays_float32_in_every_dtype():
    attn = block_of().attn
    exact = attn.position_bias()
    for dtype, rounding in ((torch.float16, 2e-4), (torch.bfloat16, 2e-3)):
        bias = deepcopy(attn).to(dtype).position_bias()
        assert bias.dtype == torch.float32
        assert (bias - exact).abs().max() <= rounding  # only the weights were rounded
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(attn.position_bias(), exact)


def test_float64_goes_through_unrounded():
    attn = block_of().attn.double()
    assert attn.position_bias().dtype == torch.float64
    assert {t.dtype for t in attn.constants()} == {torch.float64}
    x = torch.randn(4, 64, 64, dtype=torch.float64)
    attn.eval()
    expected = attn(x)
    attn.core = "explicit"
    assert expected.dtype == torch.float64
    torch.testing.assert_close(attn(x), expected, atol=1e-12, rtol=0)


def test_temperature_is_exact_in_half_and_bounded_by_a_number():
    attn = WindowAttention(32, 2, 4).bfloat16()
    with torch.no_grad():
        attn.logit_scale.copy_(torch.tensor([4.0, 12.0]).view(2, 1, 1))
    factor, _ = attn.constants()
    assert factor.dtype == torch.float32
    assert factor.flatten().tolist() == pytest.approx([math.exp(4), 100], rel=1e-6)  # in bfloat16: 54.5 and 99
    assert isinstance(attention.MAX_LOGIT_SCALE, float)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_masks_are_booleans_that_follow_the_map(dtype, monkeypatch):
    masks = []
    build = common.window_mask
    monkeypatch.setattr(common, "window_mask", lambda *key: masks.append(build(*key)) or masks[-1])
    block_of().to(dtype)(torch.randn(1, 20, 22, 64, dtype=dtype))
    block_of().to("meta")(torch.empty(1, 20, 22, 64, device="meta"))
    assert [(mask.dtype, mask.device.type) for mask in masks] == [(torch.bool, "cpu"), (torch.bool, "meta")]


def test_no_dtype_error_is_caught():
    source = inspect.getsource(common) + inspect.getsource(attention) + inspect.getsource(layers)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Try)]
    with pytest.raises(RuntimeError, match="dtype"):
        block_of().half()(torch.randn(1, 8, 8, 64))
