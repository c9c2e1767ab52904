"""The rules of the Swin V2 blocks about dtypes and devices: half precision, mixed precision, CUDA without a GPU."""

import ast
import inspect
import math
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from models import attention, common, layers, windows
from models.common import (
    C3SwinV2,
    DropPath,
    LayerNorm2d,
    Mlp,
    PatchEmbed,
    PatchMerging,
    SwinV2Block,
    SwinV2Stage,
    WindowAttention,
)
from models.yolo import Detect, DetectionModel

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
def test_r12_half_and_autocast_stay_close_to_float32(dtype, allowed, core, shift, size):
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
def test_r12_training_in_half_precision_is_finite(size, dtype, autocast, content):
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


def test_r12_detector_validates_in_half_after_training(detector):
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
def test_r04_keys_of_length_zero_give_zero_not_nan_in_float16(form):
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
def test_r05_gradients_survive_every_loss_scale(scale, size, shift):
    block = block_of(shift, "explicit", init_std=None)
    with torch.autocast("cpu", dtype=torch.float16):
        y = block(torch.randn(2, *SIZES[size], 64))
    # linear, and branches of unit size: no gradient times the scale leaves the range of float16 by itself
    ((y.float() * torch.randn(64)).mean() * scale).backward()
    assert [name for name, p in block.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_r05_published_form_overflows_at_padded_keys(scale, monkeypatch):
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


def test_r09_position_bias_stays_float32_in_every_dtype():
    attn = block_of().attn
    exact = attn.position_bias()
    for dtype, rounding in ((torch.float16, 2e-4), (torch.bfloat16, 2e-3)):
        bias = deepcopy(attn).to(dtype).position_bias()
        assert bias.dtype == torch.float32
        assert (bias - exact).abs().max() <= rounding  # only the weights were rounded
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(attn.position_bias(), exact)


def test_r09_float64_goes_through_unrounded():
    attn = block_of().attn.double()
    assert attn.position_bias().dtype == torch.float64
    assert {t.dtype for t in attn.constants()} == {torch.float64}
    x = torch.randn(4, 64, 64, dtype=torch.float64)
    attn.eval()
    expected = attn(x)
    attn.core = "explicit"
    assert expected.dtype == torch.float64
    torch.testing.assert_close(attn(x), expected, atol=1e-12, rtol=0)


def test_r10_temperature_is_exact_in_half_and_bounded_by_a_number():
    attn = WindowAttention(32, 2, 4).bfloat16()
    with torch.no_grad():
        attn.logit_scale.copy_(torch.tensor([4.0, 12.0]).view(2, 1, 1))
    factor, _ = attn.constants()
    assert factor.dtype == torch.float32
    assert factor.flatten().tolist() == pytest.approx([math.exp(4), 100], rel=1e-6)  # in bfloat16: 54.5 and 99
    assert isinstance(attention.MAX_LOGIT_SCALE, float)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_r11_masks_are_booleans_that_follow_the_map(dtype, monkeypatch):
    masks = []
    build = common.window_mask
    monkeypatch.setattr(common, "window_mask", lambda *key: masks.append(build(*key)) or masks[-1])
    block_of().to(dtype)(torch.randn(1, 20, 22, 64, dtype=dtype))
    block_of().to("meta")(torch.empty(1, 20, 22, 64, device="meta"))
    assert [(mask.dtype, mask.device.type) for mask in masks] == [(torch.bool, "cpu"), (torch.bool, "meta")]


def test_r11_no_dtype_error_is_caught():
    source = inspect.getsource(common) + inspect.getsource(attention) + inspect.getsource(layers)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Try)]
    with pytest.raises(RuntimeError, match="dtype"):
        block_of().half()(torch.randn(1, 8, 8, 64))


# CUDA without a GPU -------------------------------------------------------------------------------------------------


@contextmanager
def cuda_autocast(dtype):
    """Turn CUDA autocast on with the low-level switches: `torch.autocast` turns itself off where there is no device."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


PRECISIONS = {
    "float32": (torch.float32, None),
    "float16": (torch.float16, None),
    "bfloat16": (torch.bfloat16, None),
    "autocast float16": (torch.float32, torch.float16),
    "autocast bfloat16": (torch.float32, torch.bfloat16),
}


def fake_cuda_forward(module, shape, precision, spy=None):
    """Run a module of CPU tensors as if its parameters, buffers and input were on cuda:0."""
    dtype, autocast = PRECISIONS[precision]
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {
            name: torch.empty_strided(
                t.shape, t.stride(), dtype=dtype if t.is_floating_point() else t.dtype, device="cuda:0"
            )
            for name, t in [*module.named_parameters(), *module.named_buffers()]
        }
        x = torch.empty(shape, dtype=dtype, device="cuda:0")
        with cuda_autocast(autocast) if autocast else nullcontext(), spy or nullcontext():
            return torch.func.functional_call(module, state, (x,))


# every new module, made for one attention core, with an input that needs padding
NEW_MODULES = {
    "PatchEmbed": (lambda core: PatchEmbed(3, 16), (2, 3, 22, 19)),
    "LayerNorm2d": (lambda core: LayerNorm2d(16), (2, 16, 5, 7)),
    "PatchMerging": (lambda core: PatchMerging(16, 32), (2, 16, 5, 7)),
    "DropPath": (lambda core: DropPath(0.5), (2, 5, 7, 16)),
    "Mlp": (lambda core: Mlp(16, 32), (2, 5, 7, 16)),
    "Mlp depthwise": (lambda core: Mlp(16, 32, depthwise=True), (2, 5, 7, 16)),
    "WindowAttention": (lambda core: WindowAttention(32, 2, 4, core=core), (6, 16, 32)),
    "SwinV2Block": (lambda core: SwinV2Block(32, 2, 8, core=core), (2, 20, 22, 32)),
    "SwinV2Block shifted": (lambda core: SwinV2Block(32, 2, 8, 4, core=core), (2, 20, 22, 32)),
    "SwinV2Block of V1": (
        lambda core: SwinV2Block(32, 2, 8, 4, core=core, bias="table", attention="dot", norm="pre"),
        (2, 20, 22, 32),
    ),
    "SwinV2Block linear": (lambda core: SwinV2Block(32, 2, 8, 4, core=core, bias="linear"), (2, 20, 22, 32)),
    "SwinV2Block sequential": (lambda core: SwinV2Block(32, 2, 8, 4, core=core, sequential=3), (2, 20, 22, 32)),
    "SwinV2Stage extra norm": (lambda core: SwinV2Stage(32, 32, 2, 8, core=core, extra_norm_period=2), (2, 32, 9, 9)),
    "SwinV2Stage": (lambda core: SwinV2Stage(32, 32, 2, 8, core=core, drop_path=0.2), (2, 32, 20, 22)),
    "C3SwinV2": (lambda core: C3SwinV2(32, 32, 2, 8, core=core), (2, 32, 20, 22)),
}
WITH_ATTENTION = [name for name in NEW_MODULES if "Swin" in name or "Attention" in name]
CASES = [(name, "auto") for name in NEW_MODULES if name not in WITH_ATTENTION]
CASES += [(name, core) for name in WITH_ATTENTION for core in ("explicit", "sdpa")]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "core"), CASES)
def test_r23_module_runs_on_a_pretended_cuda_device(name, core, precision):
    build, shape = NEW_MODULES[name]
    out = fake_cuda_forward(build(core), shape, precision)
    assert out.device == torch.device("cuda:0")
    assert out.shape[0] == shape[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_r23_fused_attention_runs_on_a_pretended_cuda_device(precision):
    attn = WindowAttention(32, 2, 4).eval()
    attn.fuse()
    assert fake_cuda_forward(attn, (6, 16, 32), precision).device.type == "cuda"


@pytest.mark.parametrize(("name", "core"), CASES)
def test_r23_module_trains_on_the_meta_device(name, core):
    build, shape = NEW_MODULES[name]
    module = build(core).to("meta").train()
    x = torch.empty(shape, device="meta", requires_grad=True)
    module(x).sum().backward()
    assert x.grad.device.type == "meta"
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("training", "precision"), [(True, "autocast float16"), *((False, precision) for precision in PRECISIONS)]
)
def test_r23_detector_runs_on_a_pretended_cuda_device(detector, training, precision):
    out = fake_cuda_forward(detector.train(training), (2, 3, 96, 160), precision)
    raw = out if training else out[1]
    assert {level.device.type for level in raw} == {"cuda"}
    if not training:
        assert (out[0].device.type, out[0].dtype) == ("cuda", torch.float32)


def test_r23_detector_trains_on_the_meta_device(detector):
    meta = deepcopy(detector).to("meta").train()
    sum(level.sum() for level in meta(torch.empty(2, 3, 96, 160, device="meta"))).backward()
    assert all(p.grad is not None for p in meta.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_r10_r23_nothing_lands_on_the_default_device(detector, training):
    """A scalar bound or an index made there goes unseen on the pretended device, and fails or waits on a real one."""
    x = torch.rand(2, 3, 96, 64)
    for cache in (windows.window_mask, windows.relative_coords, windows.relative_index):
        cache.cache.clear()
    detector.train(training)
    with torch.device("meta"):
        out = detector(x)
    raw = out if training else out[1]
    assert {level.device.type for level in raw} == {"cpu"}
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError)):
        x.clamp(max=torch.tensor(4.6)).sum().item()


class Planted(nn.Module):
    """A module with one of the faults that the two checks must see."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.plain = torch.ones(4)
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = x * self.weight
        if self.fault == "factory":
            return x + torch.zeros(4)
        if self.fault == "attribute":
            return x + self.plain
        if self.fault == "mask":
            return x.masked_fill(torch.ones(4, dtype=torch.bool), 0)
        return x * float(x.detach().sum())


@pytest.mark.parametrize("fault", ["factory", "attribute", "mask", "item"])
def test_r23_checks_see_planted_faults(fault):
    with pytest.raises(RuntimeError):
        fake_cuda_forward(Planted(fault), (2, 4), "float32")
    with pytest.raises((RuntimeError, NotImplementedError)):
        Planted(fault).to("meta")(torch.empty(2, 4, device="meta"))


class DtypeSpy(TorchDispatchMode):
    """Record for every operator the dtypes of its floating inputs and the shape of its first one."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        self.seen.append((str(func), {t.dtype for t in tensors}, [tuple(t.shape) for t in tensors]))
        return func(*args, **(kwargs or {}))

    def dtypes(self, name):
        return set().union(*(dtypes for func, dtypes, _ in self.seen if f"aten.{name}." in func))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "autocast float16", "autocast bfloat16"])
def test_r09_attention_computes_in_float32_under_the_policy_of_cuda(precision):
    spy = DtypeSpy()
    fake_cuda_forward(WindowAttention(32, 2, 4, core="explicit"), (6, 16, 32), precision, spy)
    half = torch.float16 if "float16" in precision.replace("bfloat16", "") else torch.bfloat16
    for name in ("exp", "sigmoid", "rsqrt", "_softmax", "clamp", "sum"):
        assert spy.dtypes(name) == {torch.float32}, name
    products = [(dtypes, shapes) for func, dtypes, shapes in spy.seen if "aten.bmm." in func]
    logits = [dtypes for dtypes, shapes in products if shapes[0][1:] == (16, 16) and shapes[1][1:] == (16, 16)]
    assert {torch.float32} in logits
    assert {half} in logits  # probabilities times values; d and N are both 16 here
    assert len(products) == 2


# Source -------------------------------------------------------------------------------------------------------------

FACTORIES = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tril", "triu", "zeros"}
CONVERSIONS = {"as_tensor", "from_numpy", "tensor"}
HOST_READS = {"cpu", "cuda", "item", "nonzero", "numpy", "tolist"}
SETUP_ONLY = {"__init__", "extra_repr", "fuse", "reset_parameters", "split_channels"}


def device_faults(tree):
    """Return calls that make a tensor on the default device or read one back to the host."""
    faults = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute):
            continue
        of_torch = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        placed = any(keyword.arg == "device" for keyword in call.keywords)
        name = call.func.attr
        if of_torch and (name in CONVERSIONS or (name in FACTORIES and not placed)):
            faults.append(f"torch.{name}")
        if not of_torch and name in HOST_READS:
            faults.append(f".{name}")
    return faults


def test_r10_r23_source_makes_tensors_only_on_a_named_device():
    checked = []
    for module in (windows, attention, layers, common, inspect.getmodule(common.Conv)):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef) and node.name not in SETUP_ONLY:
                checked.append((f"{module.__name__}.{node.name} line {node.lineno}", node))
    for node in ast.walk(ast.parse(inspect.getsource(Detect))):
        if isinstance(node, ast.FunctionDef) and node.name not in SETUP_ONLY:
            checked.append((f"Detect.{node.name}", node))
    assert len(checked) > 40
    assert [(name, device_faults(tree)) for name, tree in checked if device_faults(tree)] == []


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("x.clamp(max=torch.tensor(4.6))", ["torch.tensor"]),
        ("x + torch.zeros(3)", ["torch.zeros"]),
        ("x + torch.zeros(3, device=x.device)", []),
        ("x * x.max().item()", [".item"]),
        ("torch.as_tensor(x)", ["torch.as_tensor"]),
        ("x.new_zeros(3) + torch.zeros_like(x)", []),
    ],
)
def test_r23_source_check_sees_planted_faults(source, faults):
    assert device_faults(ast.parse(source)) == faults
