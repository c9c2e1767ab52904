"""No image of a batch changes what comes out for another one, whatever is in it: NaN and infinity among the rest.

The statistics of a batch in training are the exception that BatchNorm is made of.
"""

import re

import cv2
import numpy as np
import pytest
import torch

from models import common
from models.autoshape import AutoShape
from models.common import SwinV2Block
from models.experimental import Ensemble
from models.runtimes.backends import DetectMultiBackend
from models.swin import cached_inference
from models.swin import dynamic_windows as open_windows
from models.swin.windows import window_mask
from models.yolo import DetectionModel
from utils.augmentations import letterbox
from utils.files import yaml_load
from utils.nms import non_max_suppression
from utils.paths import ROOT

SPOILS = [  # a value, and where in the image it stands
    (float("nan"), 0),
    (float("nan"), -1),
    (float("nan"), slice(None)),
    (float("inf"), 0),
    (float("-inf"), slice(None)),
]
# made equally narrow, so the larger ones of a family are the same; those of the paper cannot be
MODELS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "models").rglob("*.yaml"))
MODELS = [file for file in MODELS if not re.search(r"v5[smlx]6?(-swinv2)?\.yaml|v5-swinv2", file)]


def check_apart(run, x):
    """Spoil one image of `x` after the other, in its first value, its last one, or all of them.

    Args:
        run: function of (B, ...) to a sequence of B results, or a tensor of them.
        x: a finite batch.
    """
    clean = run(x.clone())
    assert all(torch.isfinite(y).all() for y in clean)
    for i in range(len(x)):
        for value, where in SPOILS:
            spoilt = x.clone()
            spoilt[i].view(-1)[where] = value
            results = run(spoilt)
            assert len(results) == len(clean)
            for j, (y, expected) in enumerate(zip(results, clean, strict=True)):
                assert j == i or torch.equal(y, expected), f"{value} in image {i} at {where} changed image {j}"


def random_block(window=4, shift=2, **options):
    block = SwinV2Block(16, 2, window, shift, norm_gain=1.0, init_std=None, **options)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return block


# Attention ------------------------------------------------------------------------------------------------------------
FORMS = [
    {},
    {"core": "explicit"},
    {"core": "sdpa"},
    {"sequential": 2},
    {"mask_padding": False},
    {"attention": "dot", "norm": "pre", "bias": "table"},
    {"depthwise": True, "extra_norm": True},
]


@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize(("shift", "size"), [(2, (8, 8)), (0, (6, 7)), (2, (6, 7)), (2, (3, 2))], ids=str)
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_block(options, shift, size, gradients):
    block = random_block(shift=shift, **options).train(gradients)
    with torch.set_grad_enabled(gradients):
        check_apart(lambda x: block(x).detach(), torch.randn(3, *size, 16))


@pytest.mark.parametrize("tokens", [16, 48, 100000])
def test_cached_block_in_parts_of_any_size(tokens, monkeypatch):
    monkeypatch.setattr(cached_inference, "TOKENS", tokens)
    block = random_block().eval()
    with torch.no_grad():
        x = torch.randn(3, 6, 7, 16)
        assert cached_inference.applies(block, x)
        check_apart(block, x)


def test_padding_of_cached_inference_reads_no_token():
    """What is not finite spreads exactly as far in its own image as it does in the plain form."""
    block, x = random_block(shift=0).eval(), torch.randn(1, 6, 7, 16)
    x[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        cached = block(x)
    plain = block(x)
    assert torch.equal(cached.isfinite(), plain.isfinite())
    assert plain[0, 4:].isfinite().all()


def test_windows_of_a_dynamic_export():
    block = random_block().eval()
    blocked = window_mask(6, 7, (4, 4), (2, 2), True, torch.device("cpu"))

    def run(x):
        windows, mask, back = open_windows.gather_windows(x, (4, 4), (2, 2), True)
        assert torch.equal(mask, blocked)
        return open_windows.ungather_windows(block.attn(windows.flatten(0, 1), mask).view(windows.shape), back)

    with torch.no_grad():
        check_apart(run, torch.randn(2, 6, 7, 16))


def test_gradients_of_one_image():
    block, x = random_block(), torch.randn(3, 6, 7, 16)

    def gradient(x):
        x = x.requires_grad_()
        return torch.autograd.grad(block(x).square().flatten(1).sum(1).unbind(), x, [torch.ones(())] * 3)[0]

    check_apart(gradient, x)


# Networks -------------------------------------------------------------------------------------------------------------
def narrow(file):
    table = yaml_load(ROOT / file)
    table |= {"width_multiple": 0.125, "depth_multiple": 0.1, "nc": 2}
    return DetectionModel(table, verbose=False).eval()


@pytest.mark.parametrize("file", MODELS)
def test_network(file):
    model = narrow(file)
    side = 2 * int(model.stride.max())
    with torch.inference_mode():
        check_apart(lambda x: model(x)[0], torch.rand(2, 3, side, side))


@pytest.mark.parametrize("form", ["gradients", "fused", "augmented", "ensemble"])
def test_forms_of_a_network(form):
    file = "models/yolov5n-swinv2.yaml"  # convolutions too
    model = narrow(file)
    x = torch.rand(2, 3, 64, 96)
    if form == "gradients":
        return check_apart(lambda x: [torch.cat([y.flatten() for y in z]) for z in zip(*model(x)[1], strict=True)], x)
    model = model.fuse() if form == "fused" else Ensemble([model, narrow(file)]) if form == "ensemble" else model
    with torch.inference_mode():
        return check_apart(lambda x: model(x, augment=form == "augmented")[0], x)


@pytest.mark.parametrize("name", ["C3", "SPPF", "SPP", "Bottleneck", "Focus", "C3TR", "C3Ghost"])
def test_block_of_a_network(name):
    block = getattr(common, name)(8, 8).eval()
    with torch.no_grad():
        check_apart(block, torch.randn(3, 8, 6, 6))


# Around the network ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_suppression(multi_label, agnostic):
    boxes = torch.rand(3, 200, 8)
    boxes[..., :4] = boxes[..., :4] * 90 + 5
    check_apart(lambda x: non_max_suppression(x, 0.1, 0.5, multi_label=multi_label, agnostic=agnostic), boxes)


def test_letterbox_and_autoshape(narrow_weights):
    """An image does not depend on which ones come with it, in which order, or how many."""
    model = AutoShape(DetectMultiBackend(narrow_weights, torch.device("cpu")))
    noise = np.random.default_rng(0)
    images = [cv2.resize(noise.integers(0, 256, (6, 9, 3), np.uint8), size) for size in ((96, 64), (90, 64), (64, 96))]
    together = model(images, size=96).xyxy
    assert all(len(found) for found in together)
    for i, image in enumerate(images):
        torch.testing.assert_close(model(image, size=96).xyxy[0], together[i], atol=1e-3, rtol=1e-4)
        others = [255 * (k % 2) * np.ones_like(other) if k != i else other for k, other in enumerate(images)]
        assert torch.equal(model(others, size=96).xyxy[i], together[i])
        before = image.copy()
        letterbox(image, (128, 128))
        assert (image == before).all()
    with torch.inference_mode():
        check_apart(lambda x: non_max_suppression(model(x)), torch.rand(3, 3, 64, 96))
