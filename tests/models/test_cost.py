"""What the models cost: parameters, state entries, operations; against published tables and PyTorch's own counter."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.common import (
    C3TR,
    C3SwinV2,
    Conv,
    DWConvTranspose2d,
    LayerNorm2d,
    PatchEmbed,
    PatchMerging,
    SwinV2Block,
    SwinV2Stage,
    WindowAttention,
)
from models.cost import count_gflops
from models.yolo import DetectionModel

MODELS = Path(__file__).resolve().parents[2] / "models"


@cache
def on_meta(name):
    """Build a model without start values and keep its shapes only; do not change it."""
    starts = ("kaiming_uniform_", "trunc_normal_", "uniform_", "xavier_uniform_")
    with mock.patch.multiple(nn.init, **{start: lambda tensor, *_, **__: tensor for start in starts}):
        return DetectionModel(MODELS / f"{name}.yaml", verbose=False).to("meta").eval()


@cache
def gflops(name):
    return on_meta(name).gflops()


@cache
def fused(name):
    return deepcopy(on_meta(name)).fuse()


def count(module):
    return sum(p.numel() for p in module.parameters())


SCALES = ["n", *(pytest.param(scale, marks=pytest.mark.slow) for scale in "smlx")]


@pytest.mark.parametrize("scale", SCALES)
def test_swinv2_models_cost_about_as_much_as_their_convolutional_siblings(scale):
    swin, conv = f"yolov5{scale}-swinv2", f"yolov5{scale}"
    assert count(on_meta(swin)) / count(on_meta(conv)) == pytest.approx(1, abs=0.12)
    assert gflops(swin) / gflops(conv) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n-swinv2"])
def test_gflops_agree_with_the_counter_of_pytorch(name):
    model = fused(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 640, 640, device="meta"))
    counted = counter.get_total_flops() / 1e9
    assert counted > 0
    # ours holds the normalisations that stay after fusing, PyTorch's does not
    surplus = model.gflops() / counted - 1
    assert 1e-4 < surplus < 0.02 if "swin" in name else abs(surplus) < 1e-9


@pytest.mark.parametrize("scale", SCALES)
def test_no_swinv2_model_pads_its_windows_at_640(scale):
    model = on_meta(f"yolov5{scale}-swinv2")
    maps = []
    hook = lambda m, x: maps.append((tuple(x[0].shape[1:3]), m.attn.window))  # noqa: E731
    hooks = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, SwinV2Block)]
    nn.Sequential(*model.model[:9])(torch.empty(1, 3, 640, 640, device="meta"))  # the backbone is a chain
    for handle in hooks:
        handle.remove()
    assert len(maps) == len(hooks) >= 2
    assert [(size, window) for size, window in maps if size[0] % window[0] or size[1] % window[1]] == []


def macs(module, *shape):
    """Multiply-adds of a module on one input without batch, by our counters."""
    return round(count_gflops(module, shape[1:], shape[0]) * 1e9 / 2, 3)


def counted_macs(module, *shape):
    """The same by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deepcopy(module).to("meta").eval()(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(8, 16, 3, 2, 1), (8, 16, 12)),
        (nn.Conv2d(8, 16, 3, groups=4), (8, 16, 12)),
        (nn.ConvTranspose2d(8, 4, 4, 2, 1), (8, 6, 5)),
        (DWConvTranspose2d(8, 16, 4, 2, 1), (8, 6, 5)),
        (C3TR(16, 16, 2), (16, 6, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_block_costs_what_pytorch_counts(module, shape):
    fused = DetectionModel.fuse(module.eval())  # without normalisations
    assert macs(fused, *shape) == counted_macs(fused, *shape)


@pytest.mark.parametrize("core", ["explicit", "sdpa"])
@pytest.mark.parametrize(("size", "window"), [((8, 8), 4), ((6, 7), 4)])
def test_swin_block_costs_what_the_formula_says(size, window, core):
    stage = SwinV2Stage(32, 32, 2, window, 2, core=core)
    cells = size[0] * size[1]
    padded = 64
    attention = padded * (4 * 32 * 32 + 2 * window**2 * 32)
    mlp = cells * 8 * 32 * 32
    norms = 2 * 4 * cells * 32
    assert macs(stage, 32, *size) == 2 * (attention + mlp + norms)
    for block in stage.blocks:
        block.attn.fuse()
    assert counted_macs(stage, 32, *size) == 2 * (attention + mlp)


def test_normalisations_cost_four_per_value_and_activations_nothing():
    assert macs(Conv(4, 8, 1), 4, 5, 5) == 25 * 4 * 8 + 4 * 8 * 25
    assert macs(LayerNorm2d(8), 8, 5, 5) == 4 * 8 * 25
    assert macs(nn.Sequential(nn.SiLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), 8, 8, 8) == 0


@pytest.mark.parametrize(
    ("width", "depths", "heads", "gmacs"),
    [(96, (2, 2, 6, 2), (3, 6, 12, 24), 5.94), (128, (2, 2, 18, 2), (4, 8, 16, 32), 20.325)],
    ids=["SwinV2-T", "SwinV2-B"],
)
def test_published_backbones_cost_what_is_published(width, depths, heads, gmacs):
    with torch.device("meta"):
        layers = [PatchEmbed(3, width)]
        for s, depth in enumerate(depths):
            c = width * 2**s
            layers += [PatchMerging(c // 2, c)] if s else []
            layers.append(SwinV2Stage(c, c, depth, 8, heads[s]))
    assert macs(nn.Sequential(*layers), 3, 256, 256) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_counting_changes_nothing():
    model = nn.Sequential(Conv(3, 8), C3SwinV2(8, 16, 2, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [sorted(vars(module)) for module in model.modules()]
    first = count_gflops(model, (8, 8), 3)
    assert count_gflops(model, (8, 8), 3) == first
    assert model.training
    assert [sorted(vars(module)) for module in model.modules()] == names
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_counting_leaves_a_forward_of_the_users_own():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    own = model[1].forward = mock.Mock(side_effect=lambda x: x)
    count_gflops(model, (32, 32), 3)
    assert model[1].forward is own
    own.assert_not_called()


def test_cost_grows_with_the_area():
    model = on_meta("yolov5n")
    assert model.gflops(320) == pytest.approx(gflops("yolov5n") / 4)
    assert model.gflops((320, 640)) == pytest.approx(gflops("yolov5n") / 2)


def test_only_window_attention_needs_the_position_network():
    attn = WindowAttention(32, 2, 4)
    stage = SwinV2Stage(32, 32, 2, 4, 2)
    before = macs(stage, 32, 8, 8)
    for block in stage.blocks:
        block.attn.fuse()
    assert macs(stage, 32, 8, 8) == before
    assert count(attn) == 4 * 32 * 32 + 3 * 32 + 2 * 512 + 512 + 512 * 2 + 2
