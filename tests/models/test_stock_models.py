"""Stock models in models/hub: sizes against the published table, networks against checksums of the reference."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import common
from models.yolo import DetectionModel
from tests import stock_models
from tests.stock_models import PUBLISHED, differences, no_start_values
from utils.files import yaml_load

HUB = Path(__file__).resolve().parents[2] / "models" / "hub"
SIZES = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")  # these lie in models/ and are measured whole
SMALL = {"depth_multiple": 0.33, "width_multiple": 0.25}
STRIDES = {
    "yolov5-p2": [4, 8, 16, 32],
    "yolov5-p34": [8, 16],
    "yolov5-p7": [8, 16, 32, 64, 128],
    "yolov3-tiny": [16, 32],
}
P6 = ("yolov5n6", "yolov5s6", "yolov5m6", "yolov5l6", "yolov5x6", "yolov5-p6")

# multiples, side of the image, parameters at nc 3, and per level: mean of the absolute values, first and last value
CHECKSUMS = {
    "yolov5n6": ({}, 128, 3_098_176, "4324 -2151 2192; 4334 -0550 1185; 4680 14325 0707; 4559 -3448 2643"),
    "yolov5s-ghost": ({}, 128, 3_689_936, "4611 -5376 -0388; 4853 0015 -4720; 4567 2563 9437"),
    "yolov5s-transformer": ({}, 128, 7_027_976, "4627 0559 1621; 4673 -0456 -1387; 4655 -6716 -4643"),
    "yolov5-p34": ({}, 128, 5_242_352, "4512 0537 1710; 4564 3066 3349"),
    "yolov5s-LeakyReLU": ({}, 128, 7_027_720, "5717 4449 -2474; 5447 -0132 -9077; 5853 1639 8499"),
    "yolov3-tiny": ({}, 128, 8_674_496, "4592 -1383 1727; 4721 -4541 7996"),
    "yolov5-p2": (SMALL, 128, 1_804_800, "4417 1883 -6008; 3984 1048 -3623; 4338 0108 3099; 4839 -3943 4151"),
    "yolov5-p7": (
        SMALL,
        256,
        5_957_784,
        "4342 -1382 -3346; 4227 -0196 1381; 4358 2287 0029; 4380 -0308 -3155; 4200 -5859 -1736",
    ),
    "yolov5-bifpn": (SMALL, 128, 1_784_360, "4562 -1848 0441; 4539 0933 -4798; 4492 -6034 -16349"),
    "yolov5-fpn": (SMALL, 128, 1_508_776, "4408 2654 3230; 4609 0055 5723; 5022 0404 -3668"),
}


def test_every_file_is_published_and_every_published_model_has_a_file():
    assert {file.stem for file in HUB.glob("*.yaml") if not file.stem.endswith("-swinv2")} == {
        name for name in PUBLISHED if name not in SIZES
    }


LARGE = ("yolov5m6", "yolov5l6", "yolov5x6", "yolov5-p6", "yolov5-p7", "yolov3-spp")
HUB_NAMES = [name for name in PUBLISHED if name not in SIZES]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in HUB_NAMES])
def test_sizes_equal_the_published_table(name):
    with no_start_values():
        model = DetectionModel(f"{name}.yaml", verbose=False)
    modules = list(model.modules())
    normed = sum(m.bn.num_features for m in modules if isinstance(m, common.Conv))
    found = (
        parameters := sum(p.numel() for p in model.parameters()),
        parameters - normed,  # each folded channel turns a weight and a bias of the norm into one bias
        len(model.state_dict()),
        sum(isinstance(m, nn.BatchNorm2d) for m in modules),
        sum(isinstance(m, nn.Conv2d) for m in modules),
    )
    published = PUBLISHED[name]
    assert found == (published.parameters, published.fused, *published[4:])
    assert model.stride.tolist() == STRIDES.get(name, [8, 16, 32, 64] if name in P6 else [8, 16, 32])


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKSUMS)
def test_networks_equal_the_measured_checksums(name):
    multiples, size, parameters, numbers = CHECKSUMS[name]
    with no_start_values():
        model = DetectionModel(yaml_load(HUB / f"{name}.yaml") | multiples, nc=3, verbose=False)
    assert sum(p.numel() for p in model.parameters()) == parameters
    filled = 0
    for key, value in model.state_dict().items():
        if value.ndim >= 2 and not key.endswith("anchors"):
            draw = np.random.RandomState(filled).standard_normal(value.numel())  # noqa: NPY002 - the vectors' generator
            value.copy_(torch.from_numpy(draw / math.sqrt(value[0].numel())).view(value.shape))
            filled += 1
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.zero_()
        elif isinstance(module, nn.MultiheadAttention):
            module.in_proj_bias.zero_()
    image = np.random.RandomState(1234).rand(2, 3, size, size)  # noqa: NPY002
    maps = model.train()(torch.from_numpy(image).float())
    for raw, expected in zip(maps, numbers.split(";"), strict=True):
        flat = raw.flatten()
        found = (flat.abs().mean().item(), flat[0].item(), flat[-1].item())
        assert found == pytest.approx([int(number) / 1e4 for number in expected.split()], abs=3e-4)


@pytest.mark.parametrize(
    "name", ["yolov5n", "yolov3-tiny", *(pytest.param(f"yolov5{s}", marks=pytest.mark.slow) for s in "smlx")]
)
def test_whole_measures_equal_the_published_ones(name):
    found, published = stock_models.measure(name), PUBLISHED[name]
    assert differences(found, published) == []
    wrong = published._replace(parameters=1, gflops=published.gflops + 0.02)
    assert differences(found, wrong) == ["parameters", "gflops"]
