"""Half precision: nothing overflows, and the error stays within the resolution of the dtype times the depth."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from models.common import SwinV2Stage, WindowAttention
from models.yolo import DetectionModel
from utils.torch_utils import ModelEMA

DTYPES = [torch.float16, torch.bfloat16]
CONTENTS = {"random": 1.0, "constant": 1.0, "zero": 0.0, "huge": 1e4, "tiny": 1e-4}
STATES = ["initialised", "unit norms", "trained", "clamped"]
BLOCKS = 4
LAYERS = 6 * BLOCKS  # roundings one behind the other: qkv, product, projection, fc1, fc2, sum of every block


def make_input(content):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 10, 9, generator=generator)  # padded and shifted
    return torch.full_like(x, 0.7) if content == "constant" else x * CONTENTS[content]


@pytest.fixture(scope="module")
def stages():
    """Fresh stages (of the paper, which is the identity, and with norms of weight 1), trained, temperatures at 0.01."""
    torch.manual_seed(0)
    fresh = SwinV2Stage(32, 32, BLOCKS, 4, 2)
    unit = SwinV2Stage(32, 32, BLOCKS, 4, 2, norm_gain=1.0)
    trained = deepcopy(fresh)
    optimizer = torch.optim.AdamW(trained.parameters(), 1e-2)
    x, target = make_input("random"), torch.randn(2, 32, 10, 9)
    for _ in range(20):
        optimizer.zero_grad()
        (trained(x) - target).square().mean().backward()
        optimizer.step()
    assert trained.blocks[3].norm2.weight.abs().min() > 1e-3
    clamped = deepcopy(trained)
    with torch.no_grad():
        for block in clamped.blocks:
            block.attn.logit_scale.fill_(9.0)
    return dict(zip(STATES, (fresh, unit, trained, clamped), strict=True))


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return DetectionModel("yolov5n-swinv2.yaml", nc=2, verbose=False)


def run(stage, x, dtype, autocast, scale=1.0):
    """Output and gradients of the input and the parameters, for a linear loss of gradients up to `scale`."""
    stage = deepcopy(stage).train()
    if not autocast:
        stage, x = stage.to(dtype), x.to(dtype)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype) if autocast else nullcontext():
        y = stage(x)
    weights = torch.linspace(-scale, scale, y.numel()).view_as(y)
    (y.float() * weights).sum().backward()
    return y, [x.grad, *(p.grad for p in stage.parameters())]


@torch.no_grad()
def resolution(dtype, block, x):
    """Relative step of a dtype at the numbers that enter the first norm; below `tiny` all steps are equal."""
    number = torch.finfo(dtype)
    entering = block.attend(x.permute(0, 2, 3, 1)).square().mean().sqrt().item()
    return number.eps * max(1.0, number.tiny / max(entering, number.tiny * number.eps))


# bfloat16 has the range of float32, so the sizes of the numbers matter for float16 only
PRECISIONS = [(torch.float16, content) for content in CONTENTS] + [(torch.bfloat16, "random")]


@pytest.mark.parametrize(("dtype", "content"), PRECISIONS)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
@pytest.mark.parametrize("state", STATES)
def test_finite_and_close_to_float32(stages, state, dtype, autocast, content, record_property):
    stage, x = stages[state], make_input(content)
    if not autocast:  # what rounding the weights and the input does is not the error of the computation
        stage, x = deepcopy(stage).to(dtype).float(), x.to(dtype).float()
    exact, gradients = run(stage, x, torch.float32, autocast=False)
    # a norm of a map without variance multiplies gradients by 316: what float16 cannot hold is no fault of the block
    scale = min(1.0, 1000 / max(g.abs().max().item() for g in gradients))
    out, gradients = run(stage, x, dtype, autocast, scale)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    error = (out.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp(min=1e-30)
    record_property("relative error", f"{error.item():.1e}")
    assert error.item() <= resolution(dtype, stage.blocks[0], x) * LAYERS


@pytest.mark.parametrize(("dtype", "content"), PRECISIONS)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
def test_step_of_a_fresh_detector_is_finite(fresh, dtype, autocast, content):
    model = deepcopy(fresh).train()
    x = torch.rand(2, 3, 64, 96)
    x = torch.full_like(x, 0.7) if content == "constant" else x * CONTENTS[content]
    if not autocast:
        model, x = model.to(dtype), x.to(dtype)
    with torch.autocast("cpu", dtype=dtype) if autocast else nullcontext():
        levels = model(x)
    sum(level.float().square().mean() for level in levels).backward()
    assert all(level.isfinite().all() for level in levels)
    assert [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=["float16", "bfloat16"])
def test_logits_near_100_cost_no_accuracy_as_they_would_in_half(dtype):
    """With rounded inputs the attention is exact to its last rounding; logits in the dtype lose many times that."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 8, 2, 64, 32, generator=generator)
    qkv[:2] = 0.2 * qkv[:2] + torch.randn(32, generator=generator)  # all alike: logits near 100, a few apart
    qkv = qkv.to(dtype)
    attn = WindowAttention(64, 2, 8, core="explicit").eval()
    attn.logit_scale.fill_(9.0)
    factor, bias = attn.constants()
    bias = bias + torch.randn(bias.shape, generator=generator)
    exact = attn.double().attend(qkv.double(), None, factor.double(), bias.double())
    ours = attn.attend(qkv, None, factor, bias)
    q, k = (F.normalize(t, dim=-1) for t in qkv[:2])
    naive = (((q * factor.to(dtype)) @ k.transpose(-2, -1)) + bias.to(dtype)).softmax(-1) @ qkv[2]
    errors = [((out.double() - exact).square().mean() / exact.square().mean()).sqrt().item() for out in (ours, naive)]
    assert errors[0] <= torch.finfo(dtype).eps
    assert errors[1] > 5 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_averaged_detector_validates_in_half_after_an_epoch_and_goes_on(dtype):
    """Older forks failed here: the copy that validates is converted, back and forth, while the model trains."""
    model = DetectionModel("yolov5n-swinv2.yaml", nc=2, verbose=False)
    ema = ModelEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        for _ in range(2):
            sum(level.square().mean() for level in model.train()(torch.rand(2, 3, 64, 96))).backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
        with torch.no_grad():
            boxes, raw = ema.ema.to(dtype)(torch.rand(1, 3, 96, 64).to(dtype))
        assert boxes.isfinite().all()
        assert raw[0].dtype == dtype
        ema.ema.float()
    assert all(p.isfinite().all() for p in ema.ema.parameters())
