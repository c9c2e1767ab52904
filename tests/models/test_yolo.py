"""The YAML grammar, the Detect head, and whole models against checksums measured on the reference."""

import logging
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from models import common
from models.yolo import (
    BLOCKS,
    Detect,
    DetectionModel,
    Model,
    parse_model,
)
from tests.model_tables import build, table

MODELS = Path(__file__).resolve().parents[2] / "models"
ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]


@pytest.fixture(scope="module")
def nano():
    return DetectionModel(MODELS / "yolov5n.yaml", nc=3, verbose=False)


@pytest.fixture(scope="module")
def swin():
    return DetectionModel(MODELS / "yolov5n-swinv2.yaml", nc=3, verbose=False)


# Whole models -------------------------------------------------------------------------------------------------------

# parameters at nc 3, and per level: mean of the absolute values, first and last value
CHECKSUMS = {
    "yolov5n": (1_767_976, [(0.4562, -0.1848, 0.0441), (0.4365, 0.3163, -0.4711), (0.4404, 0.1916, -1.0070)]),
    "yolov5s": (7_027_720, [(0.4661, 0.4115, -0.0798), (0.4525, -0.1028, -0.3162), (0.4853, 0.4236, -0.4168)]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKSUMS)
def test_network_equals_the_measured_checksums(name):
    parameters, levels = CHECKSUMS[name]
    model = DetectionModel(MODELS / f"{name}.yaml", nc=3, verbose=False)
    assert sum(p.numel() for p in model.parameters()) == parameters
    filled = 0
    for key, value in model.state_dict().items():
        if value.ndim >= 2 and not key.endswith("anchors"):
            draw = np.random.RandomState(filled).standard_normal(value.numel())  # noqa: NPY002 - the vectors' generator
            value.copy_(torch.from_numpy(draw / math.sqrt(value[0].numel())).view(value.shape))
            filled += 1
    for conv in model.detect.m:
        conv.bias.zero_()
    image = np.random.RandomState(1234).rand(2, 3, 128, 128)  # noqa: NPY002
    maps = model.train()(torch.from_numpy(image).float())
    for raw, expected in zip(maps, levels, strict=True):
        flat = raw.flatten()
        found = (flat.abs().mean().item(), flat[0].item(), flat[-1].item())
        assert found == pytest.approx(expected, abs=2e-4)


def test_strides_anchors_and_names_after_building(nano):
    assert nano.stride.tolist() == [8, 16, 32]
    assert nano.detect.anchors.shape == (3, 3, 2)
    torch.testing.assert_close(
        nano.detect.anchors * nano.stride.view(3, 1, 1), torch.tensor(ANCHORS, dtype=torch.float32).view(3, 3, 2)
    )
    assert nano.names == {0: "0", 1: "1", 2: "2"}
    assert (nano.nc, nano.yaml["nc"], nano.yaml["ch"]) == (3, 3, 3)
    assert nano.yaml_file == "yolov5n.yaml"
    assert nano.save == [4, 6, 10, 14, 17, 20, 23]
    assert [layer.i for layer in nano.model] == list(range(25))
    assert nano.model[16].f == [-1, 4]
    assert nano.model[24].type == "Detect"
    assert Model is DetectionModel


def test_stride_probe_leaves_statistics_and_mode():
    model = build()
    assert model.training
    bn = model.model[0].bn
    assert bn.num_batches_tracked == 0
    assert not bn.running_mean.any()
    assert (bn.eps, bn.momentum) == (1e-3, 0.03)


@pytest.mark.parametrize("nc", [1, 2, 3, 20, 80])
def test_start_biases_of_the_head(nc):
    rows = [[-1, 1, "Conv", [16, 3, 2]] for _ in range(5)]
    anchors = [[10, 13]] * 4
    torch.manual_seed(0)
    model = build(*rows, nc=nc, anchors=anchors, head=[[[2, 3, 4, 5], 1, "Detect", ["nc", "anchors"]]])
    assert model.stride.tolist() == [8, 16, 32, 64]
    objectness = {8: -6.684612, 16: -5.298317, 32: -3.912023, 64: -2.525729}
    classes = {1: 11.002100, 2: -0.510836, 3: -1.203978, 20: -3.455265, 80: -4.880274}
    for conv, stride in zip(model.detect.m, model.stride.tolist(), strict=True):
        bias = conv.bias.detach()
        limit = 1 / math.sqrt(16) + 1e-5  # PyTorch's start lies within
        assert abs(bias[4] - objectness[stride]) <= limit
        assert (bias[5:] - classes[nc]).abs().max() <= limit
        assert bias[:4].abs().max() <= limit


@pytest.mark.parametrize("order", [1, -1])
def test_anchors_follow_the_order_of_the_strides(order):
    levels = [[10, 10], [20, 20], [40, 40]][::order]
    rows = [[-1, 1, "Conv", [16, 3, 2]] for _ in range(3)]
    model = build(*rows, anchors=levels, head=[[[1, 2, 3], 1, "Detect", ["nc", "anchors"]]])
    assert (model.detect.anchors[:, 0, 0] * model.stride).tolist() == [10, 20, 40]
    model = build(*rows, anchors=levels, head=[[[3, 2, 1], 1, "Detect", ["nc", "anchors"]]])
    assert model.stride.tolist() == [16, 8, 4]
    assert (model.detect.anchors[:, 0, 0] * model.stride).tolist() == [40, 20, 10]


@torch.no_grad()
@pytest.mark.parametrize("which", ["nano", "swin"])
def test_fused_model_equals_the_unfused_one(which, request):
    model = deepcopy(request.getfixturevalue(which)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.uniform_(0.8, 1.2)
        if isinstance(module, nn.LayerNorm):
            module.weight.uniform_(0.5, 1)
    x = torch.rand(1, 3, 64, 96)
    expected, raw = model(x)
    assert model.fuse() is model
    found, fused_raw = deepcopy(model)(x)
    for a, b in zip(fused_raw, raw, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert not any(".bn." in key or "cpb_mlp" in key or "logit_scale" in key for key in model.state_dict())
    acts = [module.act for module in model.modules() if isinstance(module, common.Conv)]
    assert all(act.inplace for act in acts)  # no map of its own
    assert not common.Conv.default_act.inplace
    model.fuse()  # a second time does nothing
    assert torch.equal(model(x)[0], found)
    assert found.requires_grad is False


@torch.no_grad()
@pytest.mark.parametrize("which", ["nano", "swin"])
def test_batch_equals_single_and_the_image_stays(which, request):
    model = request.getfixturevalue(which).eval()
    x = torch.rand(2, 3, 64, 32)
    before = x.clone()
    whole, _ = model(x)
    torch.testing.assert_close(whole, torch.cat([model(image[None])[0] for image in x]), atol=1e-4, rtol=1e-4)
    assert torch.equal(x, before)


@torch.no_grad()
def test_model_comes_back_from_its_state_dict_and_its_table(swin):
    other = DetectionModel(swin.yaml, verbose=False)
    other.load_state_dict(swin.state_dict())
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(other.eval()(x)[0], swin.eval()(x)[0])


def test_model_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert DetectionModel("yolov5n.yaml", verbose=False).nc == 80
    with pytest.raises(FileNotFoundError, match="yolov9z.yaml"):
        DetectionModel("yolov9z.yaml", verbose=False)


def test_arguments_take_precedence_and_the_mapping_stays():
    cfg = table()
    before = deepcopy(cfg)
    model = DetectionModel(cfg, ch=1, nc=7, anchors=4, verbose=False)
    assert cfg == before
    assert (model.yaml["ch"], model.nc, model.yaml["anchors"]) == (1, 7, 4)
    assert model.detect.na == 4
    assert (model.detect.anchors * 2).flatten().tolist() == list(range(8))  # placeholders
    assert model(torch.zeros(2, 1, 32, 32))[0].shape == (2, 4, 16, 16, 12)
    assert build(ch=4).model[0].conv.in_channels == 4


def test_building_logs_a_table_and_a_summary(caplog):
    with caplog.at_level(logging.INFO):
        DetectionModel(MODELS / "yolov5n.yaml")
    assert "from  n    params  module" in caplog.text
    assert "23                -1  1    296448  C3" in caplog.text
    assert "yolov5n summary: " in caplog.text
    assert "1872157 parameters, 1872157 gradients, 4.6 GFLOPs at 640" in caplog.text
    caplog.clear()
    build()
    assert caplog.text == ""


def test_overridden_number_of_classes_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        DetectionModel(table(), nc=5)
    assert "nc=2 overridden by nc=5" in caplog.text


# Settings of a built model ------------------------------------------------------------------------------------------


def blocks_of(model):
    return [m for m in model.modules() if isinstance(m, common.SwinV2Block)]


def test_drop_path_grows_over_all_blocks_of_the_model(swin):
    model = deepcopy(swin)
    model.set_drop_path(0.3)
    rates = [block.drop_path.rate for block in blocks_of(model)]
    assert len(rates) >= 4
    assert rates == pytest.approx([0.3 * i / (len(rates) - 1) for i in range(len(rates))])
    with pytest.raises(ValueError, match="drop_path is the probability .* not 1.2"):
        model.set_drop_path(1.2)
    row = [-1, 4, "SwinV2Stage", [16, 4]]
    assert [b.drop_path.rate for b in blocks_of(build(row, drop_path=0.3))] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_checkpointing_reaches_every_block(swin):
    model = deepcopy(swin)
    model.set_activation_checkpointing(True)
    stages = [m for m in model.modules() if isinstance(m, common.SwinV2Stage)]
    assert {stage.checkpointing for stage in stages} == {True}
    plain, again = deepcopy(swin).train(), model.train()
    x = torch.rand(2, 3, 64, 64)
    for m in (plain, again):
        sum(level.square().sum() for level in m(x)).backward()
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


# Detect -------------------------------------------------------------------------------------------------------------


def sine_maps():
    """Raw maps of 2 images of 64 px and 3 classes whose k-th value, over all levels, is sin(0.37 k)."""
    maps, start = [], 0
    for side in (8, 4, 2):
        k = torch.arange(start, start + 2 * 3 * side * side * 8, dtype=torch.float64)
        maps.append((0.37 * k).sin().float().view(2, 3, side, side, 8))
        start += k.numel()
    return maps


def test_decoding_equals_the_measured_vectors(nano):
    boxes = torch.cat([nano.detect.decode(raw, level) for level, raw in enumerate(sine_maps())], 1)
    assert boxes.shape == (2, 252, 8)
    expected = {
        (0, 0): (4.0, 5.430903, 17.554270, 26.217983, 0.730248, 0.723377, 0.689239, 0.628093),
        (0, 9): (15.690586, 15.548796, 18.803833, 20.157375, 0.538355, 0.446704, 0.365226, 0.306465),
        (1, -1): (44.292515, 50.151497, 571.054810, 608.302856, 0.720596, 0.730866, 0.714105, 0.669935),
    }
    for (image, row), values in expected.items():
        assert boxes[image, row].tolist() == pytest.approx(values, rel=2e-6, abs=2e-6)


def test_decoding_keeps_centres_and_sizes_within_their_reach(nano):
    raw = torch.full((1, 3, 2, 3, 8), 50.0)
    boxes = nano.detect.decode(raw, 1).view(3, 2, 3, 8)
    assert boxes[0, 1, 2, :2].tolist() == pytest.approx([(2 + 1.5) * 16, (1 + 1.5) * 16])
    assert boxes[1, 0, 0, 2:4].tolist() == pytest.approx([4 * 62, 4 * 45])
    boxes = nano.detect.decode(-raw, 1).view(3, 2, 3, 8)
    assert boxes[0, 1, 2, :4].tolist() == pytest.approx([(2 - 0.5) * 16, (1 - 0.5) * 16, 0, 0], abs=1e-4)


@torch.no_grad()
def test_three_forms_of_the_head(nano):
    x = torch.rand(2, 3, 64, 96)
    raw = nano.train()(x)
    assert [tuple(level.shape) for level in raw] == [(2, 3, 8, 12, 8), (2, 3, 4, 6, 8), (2, 3, 2, 3, 8)]
    boxes, maps = nano.eval()(x)
    assert boxes.shape == (2, 3 * (96 + 24 + 6), 8)
    assert torch.equal(boxes, torch.cat([nano.detect.decode(level, i) for i, level in enumerate(maps)], 1))
    nano.detect.export = True
    try:
        (exported,) = nano(x)
    finally:
        nano.detect.export = False
    assert torch.equal(exported, boxes)


def test_grids_of_the_head_decode_its_raw_maps(nano):
    head = nano.detect
    boxes, raw = nano.eval()(torch.rand(2, 3, 64, 96))
    own = []
    for y, grid, anchors, stride in zip(raw, head.grid, head.anchor_grid, head.stride, strict=True):
        assert grid.shape == anchors.shape == (1, 3, *y.shape[2:4], 2)
        y = y.sigmoid()
        own.append(torch.cat(((y[..., :2] * 2 + grid) * stride, (y[..., 2:4] * 2) ** 2 * anchors), -1).flatten(1, 3))
    torch.testing.assert_close(torch.cat(own, 1), boxes[..., :4])


def test_an_export_recipe_puts_a_buffer_in_the_place_of_the_anchor_grid(nano):
    model = deepcopy(nano).eval()
    head, images = model.detect, torch.rand(1, 3, 64, 64)
    expected = model(images)[0]
    anchor_grid = head.anchors * head.stride[..., None, None]
    delattr(head, "anchor_grid")
    head.register_buffer("anchor_grid", anchor_grid)
    assert torch.equal(model(images)[0], expected)
    assert torch.equal(model.state_dict()["model.24.anchor_grid"], anchor_grid)


def test_a_fork_may_override_start_biases_and_views(nano):
    class Fork(DetectionModel):
        def _initialize_biases(self, cf=None):
            nn.init.zeros_(self.detect.m[0].bias)

        def _forward_augment(self, x):
            return "views"

    fork = Fork("yolov5n.yaml", verbose=False)
    assert fork.detect.m[0].bias.eq(0).all()
    assert fork.eval()(torch.rand(1, 3, 64, 64), augment=True) == "views"


def test_channels_of_the_head_run_over_anchors_first():
    head = Detect(2, [[4, 4, 8, 8]], [1])
    with torch.no_grad():
        head.m[0].weight.zero_()
        head.m[0].bias.copy_(torch.arange(14.0))
    (raw,) = head.train()([torch.zeros(1, 1, 2, 2)])
    assert raw[0, 0, 1, 1].tolist() == list(range(7))
    assert raw[0, 1, 0, 0].tolist() == list(range(7, 14))


def test_anchors_are_saved_and_strides_are_not(nano):
    keys = [
        key for key in nano.state_dict() if key.startswith("model.24") and "m." not in key.removeprefix("model.24.")
    ]
    assert keys == ["model.24.anchors"]


# Grammar ------------------------------------------------------------------------------------------------------------

# arguments where they are not the 16 channels of a scaled row, or none
ARGUMENTS = {
    "Concat": [1],
    "Contract": [2],
    "Expand": [2],
    "nn.AvgPool2d": [2],
    "nn.Conv2d": [16, 16, 3, 1, 1],
    "nn.ConvTranspose2d": [16, 2, 2],
    "nn.MaxPool2d": [3, 1, 1],
    "nn.ReflectionPad2d": [1],
    "nn.Upsample": ["None", 2, "nearest"],
    "nn.ZeroPad2d": [[0, 1, 0, 1]],
}


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "Detect"])
def test_every_block_builds_from_one_row(name):
    source = [-1] if BLOCKS[name].channels == "sum" else -1
    model = build([source, 1, name, ARGUMENTS.get(name, [16] if BLOCKS[name].channels == "scaled" else [])])
    assert model.model[1].type == name
    raw = model.train()(torch.rand(2, 3, 32, 32))
    assert raw[0].shape[:2] == (2, 2)
    raw[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_rules_of_the_table_are_known():
    for name, row in BLOCKS.items():
        assert row.channels in {"scaled", "same", "kept", "sum", "squared", "divided", "detect"}
        assert row.repeats in {"inside", "outside"}
        assert row.block.__name__ == name.removeprefix("nn.")


@pytest.mark.parametrize(
    ("number", "depth", "copies"), [(1, 0.1, 1), (3, 0.33, 1), (9, 0.33, 3), (2, 1.0, 2), (3, 0.1, 1)]
)
def test_number_is_scaled_by_the_depth(number, depth, copies):
    outside = build([-1, number, "Conv", [16, 3]], depth_multiple=depth).model[1]
    assert (len(outside) if isinstance(outside, nn.Sequential) else 1) == copies
    assert len(build([-1, number, "C3", [16]], depth_multiple=depth).model[1].m) == copies


def test_repeated_rows_are_numbered_in_the_state_dict():
    assert "model.1.2.conv.weight" in build([-1, 3, "Conv", [16, 3]]).state_dict()


@pytest.mark.parametrize(
    ("width", "wanted", "multiple", "channels"),
    [(0.25, 64, None, 16), (0.5, 18, None, 16), (0.3, 64, None, 24), (0.25, 40, 4, 12), (2.0, 14, None, 14)],
)
def test_width_is_scaled_and_rounded_up(width, wanted, multiple, channels):
    keys = {"channel_multiple": multiple} if multiple else {}
    # 14 = 2 anchors * (2 classes + 5) is an output width and stays
    model = build([-1, 1, "Conv", [wanted, 1]], width_multiple=width, **keys)
    assert model.model[1].conv.out_channels == channels


def test_sources_may_be_absolute_relative_and_many():
    rows = ([-1, 1, "Conv", [8, 1]], [0, 1, "Conv", [24, 1]], [[-1, -2, 0], 1, "Concat", [1]], [-2, 1, "Conv", [8, 1]])
    model = build(*rows)
    assert model.model[2].conv.in_channels == 16
    assert model.save == [0, 1, 2, 4]
    assert model.model[4].conv.in_channels == 24
    assert model.detect.m[0].in_channels == 8
    longer = build(*rows[:3], head=[[[3], 1, "Detect", ["nc", "anchors"]]])
    assert longer.detect.m[0].in_channels == 48


def test_mapping_as_last_argument_gives_keywords():
    row = [-1, 2, "C3SwinV2", [32, 4, {"norm_gain": 1.0, "e": 1.0, "core": "explicit"}]]
    block = build(row).model[1]
    assert block.cv1.conv.out_channels == 32
    assert (block.m.blocks[0].norm1.weight == 1).all()
    assert block.m.blocks[1].attn.core == "explicit"
    assert row[3][-1] == {"norm_gain": 1.0, "e": 1.0, "core": "explicit"}


def test_words_stand_for_values():
    model = build([-1, 1, "nn.Upsample", ["None", 2, "nearest"]])
    assert (model.model[1].size, model.model[1].mode) == (None, "nearest")
    assert not build([-1, 1, "C3", [16, "False"]]).model[1].m[0].add


def test_parse_model_returns_rows_and_kept_indices():
    layers, save = parse_model(table([0, 1, "Conv", [8, 1]]), [3], verbose=False)
    assert len(layers) == 3
    assert save == [0, 1]


# Errors -------------------------------------------------------------------------------------------------------------

ROW = "model: backbone layer 1: "
WRONG_ROWS = [
    ([-1, 1, "C3SwinV3", [16]], ROW + "unknown module 'C3SwinV3'. Did you mean 'C3SwinV2'"),
    ([-1, 1, "eval", [16]], ROW + "unknown module 'eval'.*Allowed: Conv, "),
    ([-1, 1, None, [16]], ROW + "unknown module None.*Allowed: Conv, "),
    ([-1, 1, ["Conv"], [16]], ROW + r"unknown module \['Conv'\]"),
    ([1, 1, "Conv", [16]], ROW + "'from' is 1, but layer 1 can only read layers 0 to 0 or -1 to -1"),
    ([-2, 1, "Conv", [16]], ROW + "'from' is -2, but layer 1 can only read layers 0 to 0"),
    ([7, 1, "Conv", [16]], ROW + "'from' is 7, but layer 1"),
    (["-1", 1, "Conv", [16]], ROW + "'from' must be an integer or a list of integers, not '-1'"),
    ([[], 1, "Concat", [1]], ROW + r"'from' must be an integer or a list of integers, not \[\]"),
    ([[-1], 1, "Conv", [16]], ROW + r"Conv reads one layer, so 'from' cannot be \[-1\]"),
    ([-1, 1, "Concat", [1]], ROW + "Concat reads a list of layers, so 'from' cannot be -1"),
    ([-1, 0, "Conv", [16]], ROW + "'number' must be a positive integer, not 0"),
    ([-1, 1.5, "Conv", [16]], ROW + "'number' must be a positive integer, not 1.5"),
    ([-1, 1, "Conv", 16], ROW + "'args' must be a list, not 16"),
    ([-1, 1, "Conv", []], ROW + "the first argument must be a number of channels, but there is none"),
    ([-1, 1, "Conv", ["16"]], ROW + "the first argument must be a number of channels, not '16'"),
    ([-1, 1, "Conv", [16, 3, 1, 1, 1, 1, True, 5]], ROW + "Conv cannot take the arguments .*positional arguments"),
    (
        [-1, 1, "Conv", [16, {"stride": 2}]],
        ROW + "Conv cannot take the arguments .*unexpected keyword argument 'stride'",
    ),
    ([-1, 1, "Conv", [16, "three"]], ROW + "Conv cannot take the arguments"),
    ([-1, 1, "Contract", ["two"]], ROW + "the argument must be a positive number of cells, not 'two'"),
    ([-1, 1, "SwinV2Stage", [32]], ROW + "SwinV2Stage keeps its width, but got 16 channels in and 32 out"),
    ([-1, 1, "SwinV2Stage", [16, 8, 3]], ROW + "16 channels cannot be split over 3 attention heads"),
    ([-1, 1, "C3SwinV2", [16, "big"]], ROW + "a window is one or two positive integers, not 'big'"),
    ([-1, 1, "C3SwinV2", [16, 8, {"core": "fast"}]], ROW + "unknown attention core 'fast'"),
    ([-1, 1, "C3SwinV2", [16, 8, {"drop_path": 2}]], ROW + "drop_path is the probability .* not 2"),
    ([-1, 1, "C3SwinV2", [16, 8, {"sindow": 2}]], ROW + "C3SwinV2 cannot take the arguments .*'sindow'"),
    ([-1, 1, "Conv"], ROW + r"a layer is \[from, number, module, args\], not \[-1, 1, 'Conv'\]"),
    ({"from": -1}, ROW + r"a layer is \[from, number, module, args\]"),
    ([-1, 3, "Conv", [24, 1]], "model: the layers do not fit together: "),
    ([-1, 1, "nn.Upsample", [None, 2, "nerest"]], "model: the layers do not fit together: .*nerest"),
    ([-1, 1, "nn.MaxPool2d", ["big"]], "model: the layers do not fit together: "),
    ([[0], 1, "Detect", ["nc", "anchors"]], "model: the last layer, and no other, must be Detect"),
]


@pytest.mark.parametrize(("row", "message"), WRONG_ROWS)
def test_wrong_row_is_an_error_that_names_it(row, message):
    with pytest.raises(ValueError, match=message):
        build(row)


WRONG_KEYS = [
    ({"backbone": []}, "model: 'backbone' must be a list of layers"),
    ({"head": "Detect"}, "model: 'head' must be a list of layers"),
    ({"nc": 0}, "model: 'nc' must be a positive number of classes, not 0"),
    ({"nc": "80"}, "model: 'nc' must be a positive number of classes, not '80'"),
    ({"depth_multiple": 0}, "model: 'depth_multiple' must be a positive number, not 0"),
    ({"width_multiple": "s"}, "model: 'width_multiple' must be a positive number, not 's'"),
    ({"anchors": None}, "model: 'anchors' must be a positive number per level or lists .* not None"),
    ({"anchors": []}, r"model: 'anchors' must be a positive number per level or lists .* not \[\]"),
    ({"anchors": 0}, "model: 'anchors' must be a positive number per level or lists .* not 0"),
    ({"anchors": [[1, 2, 3]]}, "model: every level of 'anchors' needs the same number of w, h pairs"),
    ({"anchors": [[1, 2], [1, 2, 3, 4]]}, "model: every level of 'anchors' needs the same number of w, h pairs"),
    ({"anchors": [[[10, 13], [16, 30]]]}, "model: 'anchors' must hold positive numbers of pixels"),
    ({"anchors": [[10, -13]]}, "model: 'anchors' must hold positive numbers of pixels"),
    (
        {"anchors": [[1, 2], [3, 4]]},
        r"head layer 0 \(model layer 1\): 'anchors' has 2 levels, but Detect reads 1 maps",
    ),
    (
        {"head": [[0, 1, "Detect", ["nc", "anchors"]]]},
        r"head layer 0 \(model layer 1\): Detect reads a list of layers",
    ),
    ({"head": [[[0], 1, "Detect", [9, "anchors"]]]}, "the first argument of Detect must be nc, 2 classes, not 9"),
    ({"head": [[0, 1, "Conv", [8]]]}, "model: the last layer, and no other, must be Detect; the last one is Conv"),
    (
        {"backbone": [[0, 1, "Conv", [16]]]},
        "backbone layer 0: 'from' is 0, but layer 0 can only read the image, -1",
    ),
    ({"drop_path": 1}, "'drop_path' must be at least 0 and below 1, not 1"),
    ({"ch": 5, "backbone": [[-1, 1, "Conv", [16, 3, 2, None, 2]]]}, "backbone layer 0: in_channels must be divisible"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG_KEYS)
def test_wrong_key_is_an_error_that_names_it(keys, message):
    with pytest.raises(ValueError, match=message):
        build(**keys)


@pytest.mark.parametrize("key", ["nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head"])
def test_missing_key_is_an_error(key):
    cfg = table()
    del cfg[key]
    with pytest.raises(ValueError, match=f"model: missing key '{key}'; a model needs nc, depth_multiple"):
        DetectionModel(cfg, verbose=False)


def test_errors_name_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(table([-1, 1, "Conf", [8]])), encoding="utf-8")
    with pytest.raises(ValueError, match="mine.yaml: backbone layer 1: unknown module 'Conf'. Did you mean 'Conv'"):
        DetectionModel(file, verbose=False)


@pytest.mark.parametrize(("argument", "value"), [("nc", 0), ("nc", -3), ("anchors", -1), ("anchors", 0.2)])
def test_impossible_arguments_are_errors(argument, value):
    with pytest.raises(ValueError, match=f"model: '{argument}' must be a positive number"):
        DetectionModel(table(), verbose=False, **{argument: value})
