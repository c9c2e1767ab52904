"""The paper's backbones below the YOLO head: sizes against timm and the paper, built without their memory."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from models.common import PatchEmbed, PatchMerging, SwinV2Block, SwinV2Stage
from models.yolo import DetectionModel

MODELS = Path(__file__).resolve().parents[2] / "models"
# channels, depths, heads; parameters of the backbone with its last norm, of the detector in millions; GFLOPs at 640
SIZES = {
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 27_578_154, 38.08, 93.2),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24), 48_959_418, 59.46, 163.0),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 86_893_816, 109.50, 295.4),
    "l": (192, (2, 2, 18, 2), (6, 12, 24, 48), 195_202_932, 245.7, 658.3),
    "h": (352, (2, 2, 18, 2), (11, 22, 44, 88), 655_210_922 + 3 * 2 * 1408, None, None),
    "g": (512, (2, 2, 42, 4), (16, 32, 64, 128), 2_997_815_008 + 7 * 2 * 2048, None, None),
}


@cache
def on_meta(size):
    """Build a model of the paper without numbers; do not change it."""
    with torch.device("meta"):
        return DetectionModel(MODELS / f"yolov5-swinv2{size}.yaml", verbose=False).eval()


LARGE_RATES = [("s", 0.3), ("l", 0.2)]


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


SOME = [size if size in "tb" else pytest.param(size, marks=pytest.mark.slow) for size in SIZES]


@pytest.mark.parametrize("size", SOME)
def test_backbone_is_that_of_the_paper(size):
    width, depths, heads, parameters, _, _ = SIZES[size]
    model = on_meta(size)
    stages = [m for m in model.model if isinstance(m, SwinV2Stage)]
    assert tuple(len(stage.blocks) for stage in stages) == depths
    assert tuple(stage.blocks[0].attn.heads for stage in stages) == heads
    assert [stage.blocks[0].norm1.normalized_shape[0] for stage in stages] == [width * 2**i for i in range(4)]
    assert [stage.window for stage in stages] == [(8, 8), (8, 8), (8, 8), (10, 10)]
    assert {block.attn.pretrained_window for stage in stages for block in stage.blocks} == {(8, 8)}
    assert [model.model[i].f for i in (8, 9, 10)] == [3, 5, 7]
    backbone = [m for m in model.model if isinstance(m, PatchEmbed | SwinV2Stage | PatchMerging)]
    assert count(*backbone, model.model[10]) == parameters  # timm's count for H and G without the extra norms


@pytest.mark.parametrize("size", SOME)
def test_backbone_has_as_many_parameters_as_timms(size, record_property):
    timm = pytest.importorskip("timm.models.swin_transformer_v2")
    width, depths, heads, parameters, _, _ = SIZES[size]
    with torch.device("meta"):
        theirs = timm.SwinTransformerV2(
            256, embed_dim=width, depths=depths, num_heads=heads, window_size=8, num_classes=0
        )
    extra = count(*(b.norm3 for b in on_meta(size).modules() if isinstance(b, SwinV2Block) and b.norm3 is not None))
    record_property("timm's with our extra norms", f"{count(theirs) + extra:,}")
    record_property("ours", f"{parameters:,}")
    assert count(theirs) + extra == parameters
    if size in "hg":  # "658M" has a head of 1000 classes
        announced = {"h": 658e6, "g": 3.0e9}[size]
        assert count(theirs) + 1000 * (8 * width + 1) == pytest.approx(announced, rel=2e-3)


@pytest.mark.parametrize("size", ["t", *(pytest.param(size, marks=pytest.mark.slow) for size in "sbl")])
def test_detector_costs_what_the_specification_says(size):
    *_, millions, gflops = SIZES[size]
    model = on_meta(size)
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.05)
    assert model.gflops() == pytest.approx(gflops, rel=4e-3)  # theirs without normalisations


@pytest.mark.parametrize(
    ("size", "rate"), [("t", 0.2), ("b", 0.5), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in LARGE_RATES)]
)
def test_stochastic_depth_rises_over_all_blocks(size, rate):
    rates = [m.drop_path.rate for m in on_meta(size).modules() if isinstance(m, SwinV2Block)]
    assert rates == pytest.approx([rate * i / (len(rates) - 1) for i in range(len(rates))])


@pytest.mark.slow
def test_huge_models_normalise_the_main_branch_at_every_sixth_block():
    for size, stage_of_18 in (("h", 18), ("g", 42), ("l", 0)):
        extra = [b.norm3 is not None for m in on_meta(size).model if isinstance(m, SwinV2Stage) for b in m.blocks]
        first = 4  # blocks of the first two stages
        assert [i for i, found in enumerate(extra) if found] == list(range(first + 5, first + stage_of_18, 6))


def test_extra_norms_normalise_the_main_branch():
    stage = SwinV2Stage(16, 16, 4, 4, 2, extra_norm_period=2)
    y = stage(3 + 5 * torch.randn(2, 16, 6, 6))  # fresh blocks are the identity, so the norms alone are seen
    assert y.mean(1).abs().max() < 1e-5
    assert (y.std(1, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("size", ["t", pytest.param("g", marks=pytest.mark.slow)])
def test_models_of_the_paper_run_and_train_on_the_meta_device(size):
    model = on_meta(size).train()
    maps = model(torch.empty(2, 3, 128, 192, device="meta"))
    assert [tuple(y.shape) for y in maps] == [(2, 3, 16, 24, 85), (2, 3, 8, 12, 85), (2, 3, 4, 6, 85)]
    sum(y.sum() for y in maps).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()


def test_tiny_trains_and_detects():
    model = DetectionModel(MODELS / "yolov5-swinv2t.yaml", nc=2, verbose=False)
    assert model.stride.tolist() == [8, 16, 32]
    maps = model(torch.rand(1, 3, 64, 96))
    sum(y.square().mean() for y in maps).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        boxes, _ = model.eval()(torch.rand(1, 3, 64, 96))
    assert boxes.shape == (1, 3 * (96 + 24 + 6), 7)
    assert boxes.isfinite().all()


def test_a_model_on_the_meta_device_is_the_real_one_without_numbers():
    with torch.device("meta"):
        meta = DetectionModel(MODELS / "yolov5n-swinv2.yaml", nc=3)
    real = DetectionModel(MODELS / "yolov5n-swinv2.yaml", nc=3, verbose=False)
    assert {t.device.type for t in [*meta.parameters(), *meta.buffers()]} == {"meta"}
    assert {k: v.shape for k, v in meta.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    assert meta.gflops() == real.gflops()
    assert isinstance(meta.detect.m[0], nn.Conv2d)
