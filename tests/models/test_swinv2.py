"""The rules of the Swin V2 blocks; dtypes and devices are in test_swinv2_dtypes.py."""

import ast
import inspect
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import common, yolo
from models.common import C3SwinV2, PatchEmbed, SwinV2Block, SwinV2Stage, WindowAttention
from models.swin import attention, layers, windows
from models.yolo import DetectionModel
from utils.optim import param_groups
from utils.torch_utils import ModelEMA

ROOT = Path(__file__).resolve().parents[2]
ANY_SIZE = [(1, 1), (1, 5), (2, 3), (3, 3), (4, 4), (4, 9), (9, 4), (7, 5), (8, 12), (13, 6)]


def random_block(*args, **keywords):
    """A block whose every part matters: gains of about one, wide biases, temperatures on both sides of the bound."""
    block = SwinV2Block(*args, norm_gain=1.0, **keywords)
    with torch.no_grad():
        for name, p in block.named_parameters():
            if name.endswith("logit_scale"):
                p.copy_(torch.linspace(1.5, 5, len(p)).view_as(p))
            elif "norm" in name and name.endswith("weight"):
                p.normal_(1, 0.3)
            else:
                p.normal_(0, 0.3 if p.ndim == 1 else 1 / math.sqrt(p.shape[1]))
    return block


def dense_attention(block, x):
    """Attend over all real cells of the map at once: no padding, no roll, no windows, published formulas in float64.

    Along an axis cells share a window if floor((i - shift) / window) agrees; the cells that the roll would carry to the
    other side have -1 there, and a group of their own.
    """
    attn = block.attn
    b, height, width, c = x.shape
    x = x.double().flatten(1, 2)
    y, z = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack((y, z), -1).flatten(0, 1)  # (T, 2)
    allowed = torch.ones(len(at), len(at), dtype=torch.bool)
    offsets = []
    for axis, length in enumerate((height, width)):
        window = attn.window[axis]
        shift = block.shift[axis] if length > window else 0
        group = (at[:, axis] - shift).div(window, rounding_mode="floor")
        allowed &= group[:, None] == group
        scaled = 8.0 * (at[:, axis, None] - at[:, axis]).double() / max(attn.pretrained_window[axis] - 1, 1)
        offsets.append(scaled.sign() * (1 + scaled.abs()).log2() / math.log2(8))
    network = deepcopy(attn.cpb_mlp).double()
    bias = 16 * network(torch.stack(offsets, -1)).sigmoid().permute(2, 0, 1)  # (h, T, T)
    qkv = x @ attn.qkv.weight.double().T + torch.cat((attn.q_bias, 0 * attn.q_bias, attn.v_bias)).double()
    q, k, v = qkv.view(b, -1, 3, attn.heads, c // attn.heads).permute(2, 0, 3, 1, 4)
    factor = attn.logit_scale.double().exp().clamp(max=100)
    logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * factor + bias
    weights = logits.masked_fill(~allowed, -math.inf).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(b, height, width, c)
    return out @ attn.proj.weight.double().T + attn.proj.bias.double()


@pytest.fixture(scope="module")
def detector():
    return DetectionModel(ROOT / "models" / "yolov5n-swinv2.yaml", nc=3, verbose=False)


# The function: padding, windows, attention --------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("core", ["explicit", "sdpa"])
@pytest.mark.parametrize("shift", [0, 2, (1, 3)])
def test_block_equals_attention_over_the_real_cells_alone(shift, core):
    block = random_block(16, 2, 4, shift, core=core).double()
    for size in ANY_SIZE:
        x = torch.randn(2, *size, 16, dtype=torch.float64)
        torch.testing.assert_close(block.attend(x), dense_attention(block, x), atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 7), (3, 5), (9, 12)])
def test_windows_may_be_oblong(size):
    block = random_block(16, 2, (3, 5), (1, 2)).double()
    x = torch.randn(1, *size, 16, dtype=torch.float64)
    torch.testing.assert_close(block.attend(x), dense_attention(block, x), atol=1e-9, rtol=0)


@torch.no_grad()
def test_block_is_attention_and_mlp_normalised_inside_their_branches():
    block = random_block(16, 2, 4, 2).double()
    x = torch.randn(1, 6, 6, 16, dtype=torch.float64)
    y = x + block.norm1(dense_attention(block, x))
    hidden = y @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    expected = y + block.norm2(hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x), expected, atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [18, 22])
def test_map_is_padded_before_it_is_rolled(size):
    block = random_block(16, 2, 8, 4)
    x = torch.randn(1, size, size, 16)
    moved = x.clone()
    moved[:, :2] += 1
    changed = (block(moved) - block(x)).abs().amax((0, 2, 3)) > 0
    assert changed[:2].all()
    assert not changed[12:].any()  # rolled first, the top rows share windows with the bottom


@torch.no_grad()
def test_padding_is_no_key_unless_asked():
    block = random_block(16, 2, 8, 0)
    x = torch.randn(1, 20, 20, 16)
    strict = block.attend(x)
    block.mask_padding = False
    assert (block.attend(x) - strict)[:, 16:].abs().max() > 0.1
    assert (block.attend(x) - strict)[:, :, 16:].abs().max() > 0.1
    torch.testing.assert_close(block.attend(x)[:, :16, :16], strict[:, :16, :16])


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2)])
def test_single_cells_are_finite(size, window):
    block = random_block(16, 2, window, window // 2)
    assert block.attn.position_bias().isfinite().all()
    assert block(torch.randn(1, *size, 16)).isfinite().all()


@torch.no_grad()
def test_window_and_bias_do_not_depend_on_the_map():
    block = random_block(16, 2, 8, 4)
    before = block.attn.position_bias().clone()
    small = torch.randn(1, 6, 6, 16)
    block(small)
    assert block.attn.window == (8, 8)
    assert torch.equal(block.attn.position_bias(), before)
    # a 6x6 map sees the offsets of a window of 8: padded by hand to a window of its own it would see others
    shrunk = random_block(16, 2, 6, 0)
    shrunk.load_state_dict(block.state_dict())
    assert (shrunk.attend(small) - block.attend(small)).abs().max() > 1e-3


@torch.no_grad()
def test_pretrained_window_rescales_the_offsets_only():
    transferred = random_block(16, 2, 10, 5, pretrained_window=8).double()
    x = torch.randn(1, 12, 11, 16, dtype=torch.float64)
    torch.testing.assert_close(transferred.attend(x), dense_attention(transferred, x), atol=1e-9, rtol=0)
    plain = SwinV2Block(16, 2, 10, 5).double()
    plain.load_state_dict(transferred.state_dict())
    assert (plain.attend(x) - transferred.attend(x)).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_batch_equals_single_and_the_input_stays(size):
    block = random_block(16, 2, 4, 2)
    x = torch.randn(3, *size, 16)
    before = x.clone()
    torch.testing.assert_close(block(x), torch.cat([block(image[None]) for image in x]), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


@torch.no_grad()
def test_empty_batch_gives_an_empty_batch():
    for core in ("explicit", "sdpa"):
        assert random_block(16, 2, 4, 2, core=core)(torch.zeros(0, 7, 5, 16)).shape == (0, 7, 5, 16)


def test_stage_alternates_regular_and_shifted_blocks():
    assert [b.shift for b in SwinV2Stage(32, 32, 4, 7).blocks] == [(0, 0), (3, 3)] * 2
    assert [b.shift for b in SwinV2Stage(32, 32, 1, (4, 6)).blocks] == [(0, 0), (2, 3)]
    assert len(SwinV2Stage(32, 32, 3, 8).blocks) == 4


# Start values, optimizer groups -------------------------------------------------------------------------------------


def test_fresh_block_is_the_identity_and_learns_from_the_second_step():
    block = SwinV2Block(32, 2, 4, 2)
    x = torch.randn(2, 8, 8, 32)
    assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), 0.01)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * torch.linspace(-1, 1, x.numel()).view_as(x)).sum().backward()
        moved.append(block.attn.qkv.weight.grad.abs().max().item())
        optimizer.step()
    assert moved[0] == 0
    assert moved[1] > 0


def test_start_values_are_the_authors():
    block = SwinV2Block(64, 2, 8)
    named = dict(block.named_parameters())
    assert {n for n, p in named.items() if not p.any()} == {
        *("attn.q_bias", "attn.v_bias", "attn.proj.bias", "attn.cpb_mlp.0.bias", "mlp.fc1.bias", "mlp.fc2.bias"),
        *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    }
    torch.testing.assert_close(named["attn.logit_scale"], torch.full((2, 1, 1), 2.302585))
    for name in ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "attn.cpb_mlp.2.weight"):
        assert named[name].std().item() == pytest.approx(0.02, rel=0.1)
    other = SwinV2Block(64, 2, 8, norm_gain=1.0, init_std=None)
    assert (other.norm1.weight == 1).all()
    assert (other.norm2.weight == 1).all()
    assert other.attn.qkv.weight.std().item() == pytest.approx(1 / 8, rel=0.15)  # truncated at 2, not 2 deviations
    assert other.attn.cpb_mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (block.attn.position_bias() - 8).abs().max() < 0.1


def test_optimizer_decays_only_the_large_weights():
    block = SwinV2Block(32, 2, 4, depthwise=True)
    names = {id(p): n for n, p in block.named_parameters()}
    bias, decay, rest = ([names[id(p)] for p in group] for group in param_groups(block))
    assert set(decay) == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "mlp.dw.weight"}
    assert {n for n in names.values() if n.endswith("bias")} == set(bias)
    assert "attn.q_bias" in bias
    assert "attn.cpb_mlp.0.bias" in bias
    assert set(rest) == {
        *("attn.logit_scale", "attn.cpb_mlp.0.weight", "attn.cpb_mlp.2.weight", "norm1.weight", "norm2.weight")
    }


# Efficient forms ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("shift", "shape"), [(0, (8, 2, 16, 16)), (2, (2, 8, 16, 16))])
def test_fused_kernel_gets_four_dimensional_masks_that_are_broadcast_once(shift, shape, monkeypatch):
    calls = []
    kernel = F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask, scale):
        calls.append((q.shape, attn_mask.shape, scale))
        return kernel(q, k, v, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", spy)
    random_block(32, 2, 4, shift, core="sdpa")(torch.randn(2, 8, 8, 32))
    batch, heads, n, _ = shape
    assert calls == [((batch, heads, n, 16), (1, heads, n, n), 1.0)]


@pytest.mark.parametrize("core", ["explicit", "sdpa"])
def test_mask_of_a_narrow_window_may_be_strided(core):
    """Found by tests/properties: 1 x 2 cells in windows of 2 x 1 gave a mask that `view` did not take."""
    block = SwinV2Block(8, 2, (2, 1), 0, core=core, norm_gain=1.0).eval()
    x = torch.randn(1, 1, 2, 8)
    alone = torch.cat([block(cell) for cell in x.split(1, 2)], 2)  # padding is no neighbour: each cell sees itself
    torch.testing.assert_close(block(x), alone)


def test_weights_changed_in_place_are_seen_in_evaluation():
    block = random_block(16, 2, 4, 2).eval()
    x = torch.randn(1, 8, 8, 16)
    with torch.no_grad():
        before = block(x)
        for name, value in block.state_dict().items():
            if "cpb_mlp" in name or "logit_scale" in name:
                value.mul_(0.5)
        after = block(x)
    assert (after - before).abs().max() > 1e-3
    fresh = random_block(16, 2, 4, 2)
    fresh.load_state_dict(block.state_dict())
    torch.testing.assert_close(after, fresh(x))


def test_averaged_copy_follows_the_live_model():
    live = random_block(16, 2, 4, 2)
    ema = ModelEMA(live, decay=0.5, tau=1e-9)
    x = torch.randn(1, 7, 5, 16)
    with torch.no_grad():
        ema.ema(x)  # would fill a cache of the bias
        for p in live.parameters():
            p.mul_(1.5)
    expected = {k: (v + ema.ema.state_dict()[k]) / 2 for k, v in live.state_dict().items()}
    ema.update(live)
    check = random_block(16, 2, 4, 2)
    check.load_state_dict(expected)
    torch.testing.assert_close(ema.ema(x), check(x))


def test_deepcopy_works_after_training_forward_and_backward(detector):
    out = detector.train()(torch.randn(2, 3, 64, 64))
    copy = deepcopy(detector)
    sum(level.sum() for level in out).backward()
    assert deepcopy(detector) is not copy
    detector.zero_grad()


def test_training_works_after_a_forward_in_inference_mode():
    for cache in (windows.window_mask, windows.relative_coords, windows.relative_index):
        cache.cache.clear()
    block = random_block(16, 2, 4, 2)
    x = torch.randn(2, 7, 6, 16)
    with torch.inference_mode():
        block.eval()(x)
    block.train()(x).sum().backward()
    assert block.attn.cpb_mlp[0].weight.grad.any()


def test_modules_hold_no_tensors_beside_parameters_and_listed_buffers(detector):
    detector.eval()(torch.randn(1, 3, 96, 64))
    for name, module in detector.named_modules():
        plain = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert plain == [], name
    floats = {name for name, _ in detector.named_buffers() if "running" not in name and "num_batches" not in name}
    assert floats == {"model.24.anchors", "model.24.stride"}


def test_state_dict_holds_neither_masks_nor_tables():
    block = random_block(16, 2, 8, 4)
    before = set(block.state_dict())
    block(torch.randn(1, 9, 11, 16))
    assert set(block.state_dict()) == before == {name for name, _ in block.named_parameters()}
    assert list(block.buffers()) == []


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (3, 9)])
@pytest.mark.parametrize("shift", [0, 2])
def test_all_cores_and_the_fused_form_give_equal_results(size, shift):
    block = random_block(32, 2, 4, shift).eval()
    x = torch.randn(2, *size, 32)
    results = []
    for core in ("explicit", "sdpa", "auto"):
        block.attn.core = core
        results.append(block(x))
    block.attn.fuse()
    results.append(block(x))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=0)


def test_training_on_the_cpu_is_explicit_and_evaluation_fused(monkeypatch):
    used = []
    for name, core in list(attention.ATTENTION_CORES.items()):
        monkeypatch.setitem(
            attention.ATTENTION_CORES, name, lambda *a, name=name, core=core: (used.append(name), core(*a))[1]
        )
    block = random_block(16, 2, 4)
    x = torch.randn(1, 4, 4, 16)
    block.train()(x)
    block.eval()(x)
    with torch.no_grad():
        block.train()(x)
    assert used == ["explicit", "sdpa", "sdpa"]


@torch.no_grad()
def test_fusing_replaces_temperature_and_bias_network_by_constants():
    attn = random_block(16, 2, 4).attn
    factor, bias = attn.constants()
    attn.fuse()
    attn.fuse()  # a second time does nothing
    assert {n for n, _ in attn.named_buffers()} == {"factor", "bias"}
    assert not any("cpb" in n or "logit_scale" in n for n in attn.state_dict())
    assert torch.equal(attn.constants()[0], factor)
    assert torch.equal(attn.constants()[1], bias)
    assert not attn.bias.requires_grad


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_checkpointing_gives_equal_outputs_and_gradients(drop_path):
    results = []
    stage = SwinV2Stage(16, 16, 4, 4, 2, drop_path=drop_path, norm_gain=1.0)
    x = torch.randn(4, 16, 6, 7)
    for checkpointing in (False, True):
        stage.checkpointing = checkpointing
        stage.zero_grad()
        image = x.clone().requires_grad_()
        torch.manual_seed(3)
        y = stage(image)
        y.square().sum().backward()
        results.append([y.detach(), image.grad, *(p.grad for p in stage.parameters())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-6)


def test_checkpointing_keeps_no_activations_of_a_block():
    kept = {}
    x = torch.randn(2, 16, 8, 8)
    for checkpointing in (False, True):
        stage = SwinV2Stage(16, 16, 2, 4, 2, checkpointing=checkpointing)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            stage(x.requires_grad_())
        kept[checkpointing] = sum(sizes) / x.numel()
    assert kept[True] <= 2  # the input of each of the two blocks
    assert kept[False] > 10


# Export -------------------------------------------------------------------------------------------------------------

SETUP_ONLY = {
    "choose_window",
    *("__init__", "reset_parameters", "fuse", "extra_repr", "split_channels", "autopad", "as_pair", "choose_heads"),
    *("drop_path_rates", "check_drop_rate", "fused", "cached_constant", "cached"),
}


def forward_functions():
    """Return name and source tree of every function that runs inside a forward of our modules."""
    found = []
    for module in (windows, attention, layers, common, inspect.getmodule(common.Conv), yolo):
        for owner in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(owner, ast.ClassDef | ast.Module) and (module is not yolo or owner_is_detect(owner)):
                functions = (node for node in owner.body if isinstance(node, ast.FunctionDef))
                name = getattr(owner, "name", module.__name__)
                found += [(f"{name}.{f.name}", f) for f in functions if f.name not in SETUP_ONLY]
    return found


def owner_is_detect(node):
    return isinstance(node, ast.ClassDef) and node.name == "Detect"


def size_faults(tree):
    """Return what freezes or breaks a traced size: conversions of sizes to Python numbers and math functions."""
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if call in ("int", "float", "round", "bool") or call.startswith("math.")]


def test_forward_uses_only_integer_arithmetic_on_sizes():
    functions = forward_functions()
    names = {name for name, _ in functions}
    assert {"models.swin.windows.padded_size", "SwinV2Block.attend", "PatchMerging.forward", "Detect.decode"} <= names
    assert len(names) > 35
    assert [(name, size_faults(tree)) for name, tree in functions if size_faults(tree)] == []
    assert size_faults(ast.parse("def f(x): return math.ceil(x.shape[1] / 2) + int(x)")) == ["math.ceil", "int"]


@pytest.fixture(scope="module")
def exported():
    block = C3SwinV2(16, 32, 2, 4, norm_gain=1.0).eval()
    return block, torch.export.export(block, (torch.randn(2, 16, 7, 6),))


def test_block_exports_at_a_fixed_size(exported):
    _, program = exported
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    operators = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert any("scaled_dot_product_attention" in name for name in operators)
    assert not any(word in name for name in operators for word in ("nonzero", "aten.item", "_local_scalar"))


def test_exported_program_equals_the_block(exported):
    block, program = exported
    x = torch.randn(2, 16, 7, 6)  # needs padding
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), block(x), atol=1e-5, rtol=1e-5)


# Inside the detector ------------------------------------------------------------------------------------------------


def test_every_module_can_be_printed(detector):
    text = repr(detector)
    for part in ("C3SwinV2", "WindowAttention", "heads=1, window=(5, 5)", "mask_padding=True", "rate=0"):
        assert part in text
    assert "WindowAttention" in repr(deepcopy(detector).fuse())


def test_no_window_needs_padding_at_640(detector):
    meta = deepcopy(detector).to("meta").eval()
    maps = []
    for module in meta.modules():
        if isinstance(module, SwinV2Block):
            module.register_forward_pre_hook(lambda m, x: maps.append((x[0].shape[1:3], m.attn.window)))
    meta(torch.empty(1, 3, 640, 640, device="meta"))
    assert len(maps) >= 4
    assert [size for size, window in maps if size[0] % window[0] or size[1] % window[1]] == []


def test_heads_are_never_zero_and_multiples_of_eight_wide(detector):
    for module in detector.modules():
        if isinstance(module, WindowAttention):
            assert module.heads >= 1
            assert (module.proj.in_features // module.heads) % 8 == 0
    assert SwinV2Stage(16, 16).blocks[0].attn.heads == 1
    assert SwinV2Stage(16, 16, heads=2).blocks[0].attn.heads == 2


@pytest.mark.parametrize("size", [(32, 32), (64, 160), (224, 96)])
def test_detector_takes_every_size_of_its_grid(detector, size):
    with torch.no_grad():
        boxes, raw = detector.eval()(torch.rand(1, 3, *size))
    assert boxes.shape == (1, 3 * sum(size[0] // s * size[1] // s for s in (8, 16, 32)), 8)
    assert boxes.isfinite().all()
    assert len(raw) == 3


ERRORS = [
    (lambda: WindowAttention(30, 4, 8), "30 channels cannot be split over 4 attention heads"),
    (lambda: WindowAttention(32, 0, 8), "32 channels cannot be split over 0 attention heads"),
    (lambda: WindowAttention(32, 2, (8, 8, 8)), r"a window is one or two positive integers, not \(8, 8, 8\)"),
    (lambda: WindowAttention(32, 2, 8, core="flash"), "unknown attention core 'flash'; allowed: auto, explicit, sdpa"),
    (lambda: SwinV2Block(32, 2, 8, 8), r"a shift must lie between 0 and the window \(8, 8\), not \(8, 8\)"),
    (lambda: SwinV2Block(32, 2, 8, (-1, 0)), r"a shift must lie between 0 and the window \(8, 8\), not \(-1, 0\)"),
    (lambda: SwinV2Block(32, 2, 8, drop_path=1.0), "drop_path is the probability .* 0 to below 1, not 1.0"),
    (lambda: SwinV2Stage(32, 64), "SwinV2Stage keeps its width, but got 32 channels in and 64 out"),
    (lambda: SwinV2Stage(20, 20), "attention needs a width that is a multiple of 8, not 20"),
    (lambda: C3SwinV2(16, 24), "attention needs a width that is a multiple of 8, not 12"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@torch.no_grad()
def test_gradient_of_the_whole_chain_is_right_in_float64():
    torch.manual_seed(1)
    chain = nn.Sequential(PatchEmbed(3, 8, 2), SwinV2Stage(8, 8, 2, 2, 1, norm_gain=1.0)).double()
    x = torch.randn(1, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        assert torch.autograd.gradcheck(chain, (x,), eps=1e-6, atol=1e-6, fast_mode=True)
