"""Options of the Swin blocks: the Swin V1 form, windows that change, attention in sequence, checkpoints per stage."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torchvision.models import swin_transformer as torchvision_swin

from models import common
from models.common import C3SwinV2, SwinV2Block, SwinV2Stage, WindowAttention
from models.swin.attention import attend_in_sequence
from models.swin.windows import build_relative_coords, resize_bias_table
from models.yolo import DetectionModel
from utils.optim import param_groups

V1 = {"bias": "table", "attention": "dot", "norm": "pre"}
KINDS = [(b, a, n) for b in ("log", "linear", "table") for a in ("cosine", "dot") for n in ("post", "pre")]


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith("logit_scale"):
                p.uniform_(1.5, 5, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                p.normal_(1, 0.3, generator=generator)
            else:
                p.normal_(0, 0.3 if p.ndim == 1 else p.shape[1] ** -0.5, generator=generator)
    return module.eval()


# Swin V1 and what lies between ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("core", ["explicit", "sdpa"])
@pytest.mark.parametrize("size", [(14, 14), (13, 9), (5, 20)])
@pytest.mark.parametrize("shift", [0, 3])
def test_table_dot_pre_is_torchvisions_v1_block(shift, size, core):
    theirs = randomise(torchvision_swin.SwinTransformerBlock(64, 2, [7, 7], [shift, shift]))
    state = {k.replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2"): v for k, v in theirs.state_dict().items()}
    q, k, v = state.pop("attn.qkv.bias").chunk(3)
    assert k.abs().max() > 0.1  # theirs has a bias of the keys; it cancels in the softmax
    del state["attn.relative_position_index"]
    ours = SwinV2Block(64, 2, 7, shift, mask_padding=False, core=core, **V1).eval()
    ours.load_state_dict(state | {"attn.q_bias": q, "attn.v_bias": v})  # every key, strictly
    x = torch.randn(2, *size, 64)
    expected = theirs(x)
    assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    for option, value in (("bias", "log"), ("attention", "cosine"), ("norm", "post")):  # each option matters
        other = SwinV2Block(64, 2, 7, shift, mask_padding=False, core=core, **{**V1, option: value}).eval()
        other.load_state_dict(ours.state_dict(), strict=False)
        assert (other(x) - expected).abs().max() > 1e-2


def test_v1_layer_masks_padding_unless_told():
    block = randomise(SwinV2Block(16, 2, 4, 2, **V1))
    x = torch.randn(1, 5, 6, 16)
    with torch.no_grad():
        strict = block(x)
        block.mask_padding = False
        assert (block(x) - strict).abs().max() > 1e-3


@pytest.mark.parametrize(("bias", "attention", "norm"), KINDS)
def test_every_combination_trains_fuses_and_agrees_between_cores(bias, attention, norm):
    stage = randomise(SwinV2Stage(32, 32, 2, 4, 2, bias=bias, attention=attention, norm=norm))
    x = torch.randn(2, 32, 7, 6)
    stage.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stage.parameters())
    names = {name.split(".")[-1] if "cpb" not in name else "cpb" for name, _ in stage.blocks[0].attn.named_parameters()}
    assert ("logit_scale" in names, "cpb" in names, "relative_position_bias_table" in names) == (
        attention == "cosine", bias != "table", bias == "table"
    )  # fmt: skip
    outputs = []
    with torch.no_grad():
        for core in ("explicit", "sdpa"):
            for block in stage.eval().blocks:
                block.attn.core = core
            outputs.append(stage(x))
        for block in stage.blocks:
            block.attn.fuse()
        outputs.append(stage(x))
    torch.testing.assert_close(outputs[1], outputs[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(outputs[2], outputs[0], atol=2e-5, rtol=0)
    assert set(stage.blocks[0].attn._buffers) == {"factor", "bias"}


def test_options_reach_the_blocks_from_a_row():
    table = {
        "nc": 1, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13]],
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 2, "C3SwinV2", [16, 4, dict(V1)]]],
        "head": [[[1], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    model = DetectionModel(table, verbose=False)
    attn = model.model[1].m.blocks[0].attn
    assert (attn.bias_kind, attn.attention_kind, model.model[1].m.blocks[0].pre_norm) == ("table", "dot", True)
    assert (model.model[1].m.blocks[0].norm1.weight == 1).all()  # norms that come first start with 1
    assert "bias=table, attention=dot" in repr(model)
    assert "norm=pre" in repr(model)


def test_learned_table_does_not_decay():
    block = SwinV2Block(16, 2, 4, **V1)
    decayed = {id(p) for p in param_groups(block)[1]}
    assert id(block.attn.relative_position_bias_table) not in decayed
    assert id(block.attn.qkv.weight) in decayed


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"bias": "learned"}, "unknown bias 'learned'; allowed: log, linear, table"),
        ({"attention": "l2"}, "unknown attention 'l2'; allowed: cosine, dot"),
        ({"norm": "sandwich"}, "unknown norm 'sandwich'; allowed: post, pre"),
    ],
)
def test_unknown_options_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        C3SwinV2(16, 32, 2, 4, **keywords)


def test_linear_offsets_are_fractions_of_the_largest_one_trained():
    table = build_relative_coords((4, 3), (3, 3), torch.device("cpu"), torch.float64, "linear").view(7, 5, 2)
    assert table[:, 0, 0].tolist() == [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]
    assert table[0, :, 1].tolist() == [-1, -0.5, 0, 0.5, 1]


# Other windows --------------------------------------------------------------------------------------------------------


def detector(**keywords):
    table = {
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13], [16, 30]],
        "backbone": [
            [-1, 1, "PatchEmbed", [16, 4]],
            [-1, 2, "SwinV2Stage", [16, 8, 2, {"norm_gain": 1.0, **keywords}]],
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 4, "C3SwinV2", [32, 4, dict(keywords)]],
            [-1, 2, "C3SwinV2", [32]],
        ],
        "head": [[[1, 4], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    return DetectionModel(table, verbose=False).eval()


def windows(model):
    return [(s.window, s.blocks[1].shift, s.blocks[0].attn.pretrained_window) for s in model.swin_stages]


@torch.no_grad()
@pytest.mark.parametrize("bias", ["log", "linear"])
def test_other_windows_keep_weights_and_the_scale_of_the_trained_ones(bias):
    model = detector(bias=bias)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(1, 3, 96, 64)
    old = model(x)[0]
    model.set_window(12)
    assert windows(model) == [((12, 12), (6, 6), (8, 8)), ((12, 12), (6, 6), (4, 4)), ((12, 12), (6, 6), (8, 8))]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (model(x)[0] - old).abs().max() > 1e-4
    reference = WindowAttention(16, 2, 12, pretrained_window=8, bias=bias)
    attn = model.swin_stages[0].blocks[0].attn
    reference.load_state_dict(attn.state_dict())
    assert torch.equal(attn.position_bias(), reference.position_bias())
    model.set_window([8, 4, 8])
    assert torch.equal(model(x)[0], old)


@torch.no_grad()
@pytest.mark.parametrize("bias", ["log", "table"])
def test_model_with_other_windows_is_rebuilt_from_its_table(bias):
    model = detector(bias=bias)
    model.set_window([6, (4, 10), 5])
    again = DetectionModel(model.yaml, verbose=False).eval()
    again.load_state_dict(model.state_dict())
    assert [w[:2] for w in windows(again)] == [((6, 6), (3, 3)), ((4, 10), (2, 5)), ((5, 5), (2, 2))]
    assert windows(again) == windows(model)
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(again(x)[0], model(x)[0])
    assert model.yaml["backbone"][1][3][1] == [6, 6]
    assert model.yaml["backbone"][3][3][-1]["bias"] == bias


def test_learned_tables_are_interpolated_over_the_offsets():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 15), torch.linspace(-1, 1, 15), indexing="ij")
    plane = torch.stack((2 * y + x, y.square()), -1).view(-1, 2)
    same = resize_bias_table(plane, (8, 8), (8, 8))
    torch.testing.assert_close(same, plane, atol=1e-6, rtol=0)
    wide = resize_bias_table(plane, (8, 8), (8, 16)).view(15, 31, 2)
    assert wide[7, 15, 0].abs() < 1e-6  # the offset 0 stays where it is
    torch.testing.assert_close(wide[:, 15, 1], torch.linspace(-1, 1, 15).square(), atol=1e-5, rtol=0)
    slope = wide[7, 5:26, 0].diff()  # a cubic is not straight between its points, only on the whole
    assert slope.mean().item() == pytest.approx(2 / 14 * 15 / 31, rel=0.02)
    assert (slope > 0).all()
    half = resize_bias_table(plane.half(), (8, 8), (4, 4))
    assert (half.dtype, half.shape) == (torch.float16, (49, 2))


def test_table_of_another_window_is_a_parameter_that_learns():
    stage = SwinV2Stage(16, 16, 2, 8, 2, **V1)
    stage.blocks[0].attn.relative_position_bias_table.requires_grad_(False)
    stage.set_window(5)
    tables = [block.attn.relative_position_bias_table for block in stage.blocks]
    assert [tuple(t.shape) for t in tables] == [(81, 2), (81, 2)]
    assert [t.requires_grad for t in tables] == [False, True]
    stage(torch.randn(1, 16, 9, 9)).sum().backward()
    assert tables[1].grad.any()


def test_window_of_one_cell_and_back():
    stage = SwinV2Stage(16, 16, 2, 8, 2)
    stage.set_window(1)
    assert stage.blocks[1].shift == (0, 0)
    stage.set_window(8)
    assert stage.blocks[1].shift == (4, 4)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ([8, 8], "2 windows for 3 Swin stages: give one for all, or one for each"),
        (0, "a window is one or two positive integers, not 0"),
        (129, "a window is one or two positive integers, not 129 .at most 128"),
        ([8, 8, "9"], "a window is one or two positive integers, not '9'"),
    ],
)
def test_wrong_windows_are_refused_before_anything_changes(side, message):
    model = detector()
    before = windows(model)
    with pytest.raises(ValueError, match=message):
        model.set_window(side)
    assert windows(model) == before


def test_windows_of_convolutional_and_fused_models_stay():
    with pytest.raises(ValueError, match="1|0 windows for 0 Swin stages"):
        DetectionModel("yolov5n.yaml", verbose=False).set_window(8)
    with pytest.raises(ValueError, match="a fused model keeps its windows; set them before fuse"):
        detector().fuse().set_window(8)


# Little memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["explicit", "sdpa"])
@pytest.mark.parametrize("at_once", [1, 3, 5, 100])
@pytest.mark.parametrize(("shift", "size"), [(0, (16, 12)), (2, (16, 12)), (2, (7, 9))])
def test_attention_in_sequence_gives_equal_outputs_and_gradients(shift, size, at_once, core):
    block = randomise(SwinV2Block(32, 2, 4, shift, core=core)).train()
    x = torch.randn(2, *size, 32)
    results = []
    for sequential in (0, at_once):
        block.attn.sequential = sequential
        block.zero_grad()
        image = x.clone().requires_grad_()
        y = block(image)
        y.square().mean().backward()
        results.append([y.detach(), image.grad, *(p.grad.clone() for p in block.parameters())])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


def test_attention_in_sequence_never_holds_the_scores_of_all_windows():
    sizes = {}
    for sequential in (0, 2):
        block = SwinV2Block(16, 2, 8, 4, bias="table", sequential=sequential)
        largest = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=largest: n.append(t.numel()) or t, lambda t: t):
            block(torch.randn(2, 16, 16, 16, requires_grad=True))
        sizes[sequential] = max(largest)
    assert sizes[0] >= 2 * 4 * 2 * 64 * 64  # scores: images, windows, heads, N, N
    assert sizes[2] == 2 * 16 * 16 * 64  # the hidden layer of the MLP: images, cells, channels


def test_parts_hold_whole_images_and_the_mask_of_their_windows():
    seen = []
    qkv = torch.arange(3 * 6, dtype=torch.float32).view(3, 6, 1, 1, 1)  # 2 images of 3 windows
    blocked = torch.zeros(3, 1, 1, dtype=torch.bool)
    blocked[2] = True

    def attend(part, mask):
        seen.append((part[0].flatten().tolist(), mask.flatten().tolist()))
        return part[2]

    out = attend_in_sequence(attend, qkv, blocked, 4)
    assert seen == [([0, 1, 3, 4], [False, False]), ([2, 5], [True])]
    assert out.flatten().tolist() == [12, 13, 14, 15, 16, 17]


def test_sequence_and_checkpoints_are_set_for_the_named_stages():
    model = detector()
    assert model.set_activation_checkpointing([1, 3]) == 3
    assert [s.checkpointing for s in model.swin_stages] == [True, False, True]
    model.set_activation_checkpointing([2])
    assert [s.checkpointing for s in model.swin_stages] == [False, True, False]
    assert model.set_activation_checkpointing(False) == 3
    assert not any(s.checkpointing for s in model.swin_stages)
    model.set_sequential_attention(16, [1])
    assert [[b.attn.sequential for b in s.blocks] for s in model.swin_stages] == [[16, 16], [0] * 4, [0, 0]]
    model.set_sequential_attention(0)
    assert not any(m.sequential for m in model.modules() if isinstance(m, common.WindowAttention))
    with pytest.raises(ValueError, match="no Swin stage 4: this model has stages 1 to 3"):
        model.set_activation_checkpointing([1, 4])
    with pytest.raises(ValueError, match="no Swin stage 0: this model has stages 1 to 3"):
        model.set_sequential_attention(4, [0])
    with pytest.raises(ValueError, match="a positive number, or 0 for all, not -1"):
        model.set_sequential_attention(-1)


def test_all_measures_together_give_the_gradients_of_none():
    plain = randomise(detector()).train()
    frugal = deepcopy(plain)
    frugal.set_activation_checkpointing([1, 2])
    frugal.set_sequential_attention(3)
    x = torch.rand(2, 3, 96, 64)
    for model in (plain, frugal):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # a second run of a checkpointed part must not see other statistics
        sum(level.square().mean() for level in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-4, msg=name)
