"""Blocks and whole detectors on other devices: pretended CUDA, the meta device, the source, and CUDA if there is one.

The tests of the last section run on the CPU too, in fewer precisions, so that they are known to work.
"""

import ast
import inspect
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import export
import train
import val
from engine.exporters.compare import measure
from models import common, convolutions, tta
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
from models.experimental import attempt_load
from models.runtimes.backends import DetectMultiBackend
from models.swin import attention, layers, windows
from models.swin import dynamic_windows as open_windows
from models.yolo import BLOCKS, Detect, DetectionModel
from utils import boxes, loss, nms
from utils.files import yaml_load
from utils.hyp import Hyp
from utils.loss import ComputeLoss

ROOT = Path(__file__).resolve().parents[2]


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


def of(shape, dtype, device):
    """An empty tensor, or a list of them for a list of shapes."""
    return (
        [of(one, dtype, device) for one in shape]
        if isinstance(shape, list)
        else torch.empty(shape, dtype=dtype, device=device)
    )


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
        x = of(shape, dtype, "cuda:0")
        with cuda_autocast(autocast) if autocast else nullcontext(), spy or nullcontext():
            return torch.func.functional_call(module, state, (x,))


# every module of Swin V2, made for one attention core, with an input that needs padding
SWIN_MODULES = {
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
MAP = (2, 16, 10, 14)
ARGS = {  # of our other blocks; PyTorch tests its own
    "Conv": (16, 24, 3, 2),
    "DWConv": (16, 24, 3),
    "DWConvTranspose2d": (16, 24, 4, 2, 1),
    "Bottleneck": (16, 16),
    "BottleneckCSP": (16, 24, 2),
    "C3": (16, 24, 2),
    "C3Ghost": (16, 24, 2),
    "C3SPP": (16, 24, (3, 5)),
    "C3TR": (16, 64, 2),
    "C3x": (16, 24, 2),
    "Concat": (1,),
    "Contract": (2,),
    "CrossConv": (16, 16, 3, 1, 1, 1.0, True),
    "Detect": (3, [[10, 13, 16, 30], [30, 61, 62, 45]], [16, 24]),
    "Expand": (2,),
    "Focus": (16, 24),
    "GhostBottleneck": (16, 24, 3, 2),
    "GhostConv": (16, 24),
    "MixConv2d": (16, 24),
    "SPP": (16, 24, (3, 5)),
    "SPPF": (16, 24),
}
INPUTS = {"Concat": [MAP, (2, 8, 10, 14)], "Detect": [(2, 16, 10, 14), (2, 24, 5, 7)]}


def other(name):
    return lambda core: BLOCKS[name].block(*ARGS[name]), INPUTS.get(name, MAP)


MODULES = SWIN_MODULES | {name: other(name) for name in ARGS}
WITH_ATTENTION = [name for name in SWIN_MODULES if "Swin" in name or "Attention" in name]
CASES = [(name, "auto") for name in MODULES if name not in WITH_ATTENTION]
CASES += [(name, core) for name in WITH_ATTENTION for core in ("explicit", "sdpa")]


def flat(out):
    """All tensors of an output: a tensor, or lists and tuples of them."""
    return [out] if isinstance(out, torch.Tensor) else [tensor for part in out for tensor in flat(part)]


DETECTORS = ["yolov5n", "yolov5n-swinv2", pytest.param("yolov5-swinv2t", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request):
    shallow = {"depth_multiple": 0.1} if request.param.startswith("yolov5n") else {}  # each kind of layer once
    return DetectionModel(yaml_load(ROOT / f"models/{request.param}.yaml") | shallow, nc=3, verbose=False)


# CUDA without a GPU, and the meta device ----------------------------------------------------------------------------


def test_every_block_of_ours_is_tried():
    assert {name for name in BLOCKS if not name.startswith("nn.")} <= MODULES.keys()


@pytest.mark.parametrize(("name", "core"), CASES)
def test_module_runs_on_a_pretended_cuda_device(name, core):
    build, shape = MODULES[name]
    for training, precision in ((True, "autocast float16"), (False, "float16")):
        out = flat(fake_cuda_forward(build(core).train(training), shape, precision))
        assert {tensor.device for tensor in out} == {torch.device("cuda:0")}
        assert {tensor.shape[0] for tensor in out} == {2 if isinstance(shape, list) else shape[0]}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fused_attention_runs_on_a_pretended_cuda_device(precision):
    attn = WindowAttention(32, 2, 4).eval()
    attn.fuse()
    assert fake_cuda_forward(attn, (6, 16, 32), precision).device.type == "cuda"


@pytest.mark.parametrize(("training", "precision"), [(True, "autocast float16"), (False, "float16")])
def test_detector_runs_on_a_pretended_cuda_device(detector, training, precision):
    out = fake_cuda_forward(detector.train(training), (2, 3, 96, 160), precision)
    raw = out if training else out[1]
    assert {level.device.type for level in raw} == {"cuda"}
    if not training:
        assert (out[0].device.type, out[0].dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize(("name", "core"), CASES)
def test_module_takes_an_empty_batch(name, core):
    """It has the shapes of all others, which is how a model finds its strides."""
    build, shape = MODULES[name]
    shapes = shape if isinstance(shape, list) else [shape]
    module = build(core).eval()
    module.training = True  # of Detect: its raw maps
    empty, full = ([torch.zeros(n, *size) for size in (s[1:] for s in shapes)] for n in (0, 6))
    outs = [flat(module(x if isinstance(shape, list) else x[0])) for x in (empty, full)]
    assert [out.shape[1:] for out in outs[0]] == [out.shape[1:] for out in outs[1]]
    assert {len(out) for out in outs[0]} == {0}


def test_detector_trains_on_the_meta_device(detector):
    meta = deepcopy(detector).to("meta").train()
    sum(level.sum() for level in meta(torch.empty(2, 3, 96, 160, device="meta"))).backward()
    assert all(p.grad is not None for p in meta.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_nothing_lands_on_the_default_device(detector, training):
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
def test_checks_see_planted_faults(fault):
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
def test_attention_computes_in_float32_under_the_policy_of_cuda(precision):
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
SETUP_ONLY = {"__getstate__", "__init__", "extra_repr", "fuse", "reset_parameters", "split_channels"}


def device_faults(tree, reads=True):
    """Return calls that make a tensor on the default device or, with `reads`, read one back to the host."""
    faults = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute):
            continue
        of_torch = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        placed = any(keyword.arg == "device" for keyword in call.keywords)
        name = call.func.attr
        if of_torch and not placed and (name in CONVERSIONS or name in FACTORIES):
            faults.append(f"torch.{name}")
        if reads and not of_torch and name in HOST_READS:
            faults.append(f".{name}")
    return faults


def functions_of(source):
    """(name, tree) of the functions of a module or class that run with every batch."""
    nodes = ast.walk(ast.parse(inspect.getsource(source)))
    return [
        (f"{source.__name__}.{node.name} line {node.lineno}", node)
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name not in SETUP_ONLY
    ]


def test_source_makes_tensors_only_on_a_named_device():
    forward = [windows, open_windows, attention, layers, common, convolutions, tta, Detect]
    checked = [pair for source in forward for pair in functions_of(source)]
    assert len(checked) > 50
    assert [(name, device_faults(tree)) for name, tree in checked if device_faults(tree)] == []


def test_source_around_the_model_makes_tensors_only_on_a_named_device():
    checked = [pair for source in (loss, nms, boxes) for pair in functions_of(source)]  # these may read numbers back
    assert len(checked) > 20
    assert [(name, faults) for name, tree in checked if (faults := device_faults(tree, reads=False))] == []


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
def test_source_check_sees_planted_faults(source, faults):
    assert device_faults(ast.parse(source)) == faults


# CUDA for real, and the same on the CPU -----------------------------------------------------------------------------

ALLOWED = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.2}  # of the largest value of the output
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PLACES = [("cpu", "autocast bfloat16", "channels last")]
PLACES += [
    pytest.param("cuda:0", precision, layout, marks=pytest.mark.gpu) for precision in PRECISIONS for layout in FORMATS
]
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def _exact_products():
    """Let CUDA multiply float32 as float32, not as TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def noise(shape):
    return [noise(one) for one in shape] if isinstance(shape, list) else torch.randn(shape)


def placed(x, device, dtype, layout):
    """A copy of a tensor, or of a list, that takes part in a backward pass."""
    if isinstance(x, list):
        return [placed(one, device, dtype, layout) for one in x]
    x = x.to(device, dtype)
    return (x.to(memory_format=layout) if x.ndim == 4 else x).detach().clone().requires_grad_()


def check_on(module, x, device, precision, layout):
    """Compare the outputs in evaluation with float32 on the CPU; train a step, whose gradients must be finite."""
    dtype, autocast = PRECISIONS[precision]
    with torch.no_grad():
        expected = flat(module.eval()(x))
    other = deepcopy(module).to(device, dtype).to(memory_format=layout)
    y = placed(x, device, dtype, layout)
    context = torch.autocast(torch.device(device).type, dtype=autocast) if autocast else nullcontext()
    with torch.no_grad(), context:
        found = flat(other.eval()(y))
    for one, exact in zip(found, expected, strict=True):
        assert one.device == torch.device(device)
        gap = (one.detach().cpu().float() - exact).abs().max()
        assert gap <= ALLOWED[precision.split()[-1]] * max(1, exact.abs().max()), (gap, exact.abs().max())
    with context:
        out = flat(other.train()(y))
    sum(tensor.float().square().mean() for tensor in out).backward()
    gradients = [p.grad for p in [*flat(y), *other.parameters()]]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("name", "core"), CASES)
@pytest.mark.parametrize(("device", "precision", "layout"), PLACES)
def test_block_on_a_real_device(name, core, device, precision, layout):
    build, shape = MODULES[name]
    check_on(build(core), noise(shape), device, precision, FORMATS[layout])


@pytest.mark.parametrize(("device", "precision", "layout"), PLACES)
def test_detector_on_a_real_device(detector, device, precision, layout):
    if device == "cpu" and "yolov5n-swinv2" not in str(detector.yaml_file):
        pytest.skip("one detector is enough to try this test")
    dtype, autocast = PRECISIONS[precision]
    x = torch.rand(2, 3, 96, 160)
    with torch.no_grad():
        exact, _ = deepcopy(detector).eval()(x)
    other = deepcopy(detector).to(device, dtype).to(memory_format=FORMATS[layout])
    y = x.to(device, dtype).to(memory_format=FORMATS[layout])
    context = torch.autocast(torch.device(device).type, dtype=autocast) if autocast else nullcontext()
    with torch.no_grad(), context:
        found, _ = other.eval()(y)
    assert (found.device, found.dtype) == (torch.device(device), torch.float32)
    assert (found[..., 4:].cpu() - exact[..., 4:]).abs().max() <= ALLOWED[precision.split()[-1]]
    other.hyp = Hyp().to_dict()
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.3], [1, 2, 0.3, 0.6, 0.2, 0.5]], device=device)
    with context:
        total, parts = ComputeLoss(other)(other.train()(y), targets)
    total.backward()
    assert parts.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in other.parameters())
    assert any(p.grad.abs().max() > 0 for p in other.model[0].parameters() if p.grad is not None)


@pytest.mark.parametrize("device", DEVICES)
def test_masks_and_coordinates_follow_a_model_from_device_to_device(device):
    block = SwinV2Block(32, 2, 8, 4, norm_gain=1.0).eval()
    x = torch.randn(1, 20, 22, 32)
    with torch.no_grad():
        expected = block(x)
        for place in (device, "cpu", device):
            torch.testing.assert_close(block.to(place)(x.to(place)).cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cfg", ["yolov5n", "yolov5n-swinv2"])
def test_an_epoch_with_mixed_precision(cfg, device, tiny_dataset, tmp_path):
    place = device.removeprefix("cuda:")
    folder = tmp_path / "run"
    settings = {"cfg": f"{cfg}.yaml", "weights": "", "data": str(tiny_dataset), "imgsz": 64, "batch_size": 4}
    settings |= {"project": tmp_path, "name": "run", "epochs": 1, "workers": 0, "device": place, "noplots": True}
    train.run(**settings)
    best = folder / "weights/best.pt"
    assert all(p.isfinite().all() for p in attempt_load(best).parameters())
    for half in {False, device != "cpu"}:
        found, _, _ = val.run(
            str(tiny_dataset), weights=best, imgsz=64, half=half, workers=0, device=place, plots=False
        )
        assert all(number == number for number in found)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("include", ["onnx", "torchscript", "pt2", "engine"])
def test_formats_made_and_run_on_cuda(include, half, narrow_weights, tmp_path):
    if include == "engine":
        pytest.importorskip("tensorrt")
    weights = tmp_path / "best.pt"
    weights.write_bytes(narrow_weights.read_bytes())
    file = export.run(weights=weights, include=[include], imgsz=(64, 96), device="0", half=half)[
        0
    ]  # raises where it differs
    images = torch.rand(2, 3, 64, 96, device="cuda:0")
    with torch.no_grad():
        expected = DetectMultiBackend(weights, "cuda:0")(images)[0]
        difference = measure(expected, DetectMultiBackend(file, "cuda:0")(images))
    assert difference.scores < (0.05 if half else 1e-3)
