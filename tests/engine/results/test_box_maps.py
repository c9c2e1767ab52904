"""Maps of boxes: the cells they start from, Grad-CAM without a backward pass, what is drawn where, and what is kept."""

import base64

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from engine.results import box_maps
from engine.results.box_maps import BoxMaps, Visualization, cells_in_boxes, heat, input_area, overlay
from models.detector import Detector
from models.yolo import DetectionModel
from utils.boxes import scale_boxes, xywh2xyxy
from utils.files import yaml_load
from utils.nms import non_max_suppression
from utils.paths import ROOT

NAMES = {0: "a", 1: "b", 2: "c"}


def picture(height=60, width=90):
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def swin():
    """A narrow Swin model whose windows fit no map, random but sure enough to detect something."""
    table = yaml_load(ROOT / "models/yolov5n-swinv2.yaml") | {"width_multiple": 0.125, "depth_multiple": 0.1, "nc": 3}
    torch.manual_seed(0)
    model = DetectionModel(table, verbose=False)
    for conv in model.detect.m:
        nn.init.normal_(conv.weight, std=0.02)
        nn.init.zeros_(conv.bias)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 64, 96))
    return model.eval().fuse()


def detect(model, image, size=(64, 96)):
    inputs = Detector.fit([image], size, bgr=True)
    suppress = lambda boxes: non_max_suppression(boxes, 0.2, 0.45)  # noqa: E731
    return inputs, Detector(model, suppress)(inputs, [image.shape[:2]])[0]


@torch.inference_mode()
def test_maps_of_a_model(swin):
    image = picture(70, 90)
    with BoxMaps(swin) as maps:
        before = detect(swin, image)[1]
        maps.watch_next()
        _, detections = detect(swin, image)
        detect(swin, image[::-1].copy())  # a later pass, as of tiles
        found, area = maps.compute(detections[:3], image.shape[:2])
    assert detections.equal(before)  # capturing changes nothing
    assert area == input_area((64, 96), (70, 90))
    assert len(found) == 3
    for layers in found:
        *stages, activation = layers
        assert [layer.name for layer in stages] == [f"stage{i}_C3SwinV2_attention" for i in (2, 4, 6, 8)]
        assert [layer.values.shape for layer in stages] == [(2, 16, 24), (2, 8, 12), (2, 4, 6), (2, 2, 3)]
        for layer in stages:
            np.testing.assert_allclose(layer.values.sum((1, 2)), 1, rtol=1e-5)
        assert activation.name in ("stage17_C3_cam", "stage20_C3_cam", "stage23_C3_cam")
        assert activation.values.dtype == np.float32
        assert activation.values.max() > 0


def test_no_hook_is_left(swin):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in swin.modules())

    with BoxMaps(swin):
        assert hooks() > 0
    assert hooks() == 0


def test_class_activation_is_grad_cam(swin):
    """Equations 1 and 2 with autograd: the score is that of the row of the head's output that became the box."""
    image = picture()
    with torch.inference_mode(), BoxMaps(swin) as maps:
        maps.watch_next()
        inputs, detections = detect(swin, image)
        found, _ = maps.compute(detections, image.shape[:2])
    levels = []
    hook = swin.detect.register_forward_pre_hook(
        lambda _, x: ([levels.append(f.detach().requires_grad_()) or levels[-1] for f in x[0]],)
    )
    with torch.enable_grad():
        (boxes,), raw = swin(torch.from_numpy(np.stack(inputs)).float() / 255)
    logits = torch.cat([level.reshape(-1, level.shape[-1]) for level in raw])
    hook.remove()
    confidence = (boxes[:, 4:5] * boxes[:, 5:]).detach()
    checked = set()
    for layers, detection in zip(found, detections, strict=True):
        cls = int(detection[5])
        near = (scale_boxes((64, 96), xywh2xyxy(boxes[:, :4]), (60, 90)) - detection[:4]).abs().amax(1) < 0.05
        row = int((near * confidence[:, cls]).argmax())
        gradients = torch.autograd.grad(logits[row, [4, 5 + cls]].sum(), levels, retain_graph=True, allow_unused=True)
        (level,) = [i for i, gradient in enumerate(gradients) if gradient is not None and gradient.any()]
        weight = gradients[level][0].mean((1, 2), keepdim=True)  # equation 1
        expected = (weight * levels[level][0]).sum(0).relu().detach()  # equation 2
        assert layers[-1].name == f"stage{swin.detect.f[level]}_C3_cam"
        np.testing.assert_allclose(layers[-1].values[0], expected, rtol=1e-3, atol=1e-5)
        checked.add(level)
    assert len(checked) > 1


def test_area_and_cells_undo_the_letterbox():
    net, shape = (64, 96), (50, 200)
    x1, y1, x2, y2 = input_area(net, shape)
    inner = torch.tensor([[30.0, 25.0, 58.0, 40.0]])  # in pixels of the input
    image = scale_boxes(net, inner, shape)[0]
    corner = torch.tensor([x1, y1, x1, y1])
    size = torch.tensor([x2 - x1, y2 - y1]).repeat(2)
    torch.testing.assert_close(corner + inner[0] / torch.tensor([96.0, 64.0]).repeat(2) * size, image)
    cells = cells_in_boxes(image[None], (x1, y1, x2, y2), (8, 12))[0]
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[3:5, 4:7] = True  # centres 28 and 36; 36, 44 and 52
    assert cells.equal(expected)
    tiny = cells_in_boxes(torch.tensor([[100.0, 25.0, 100.5, 25.5]]), (0, 0, 200, 50), (5, 10))
    assert tiny.sum() == 1
    assert tiny[0, 2, 4] or tiny[0, 2, 5]


def test_overlay_lies_on_the_cells():
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1
    image = np.full((40, 80, 3), 100, np.uint8)
    drawn = overlay(image, values, (0, -20, 80, 60), np.array([0.0, 0, 5, 5]), 0)  # padded above and below
    assert drawn.shape == image.shape
    changed = (drawn != 100).any(2)
    changed[:8, :8] = False  # the box
    expected = np.zeros((40, 80), bool)
    expected[0:20, 40:60] = True
    assert (changed == expected).all()
    large = overlay(np.zeros((2000, 4000, 3), np.uint8), values, (0, 0, 4000, 2000), np.array([0.0, 0, 9, 9]), 0)
    assert large.shape == (640, 1280, 3)


def test_heat_of_nothing_is_transparent():
    assert not heat(np.zeros((3, 4), np.float32))[..., 3].any()


@torch.inference_mode()
def test_visualization_is_limited_for_the_report(swin, tmp_path, monkeypatch):
    monkeypatch.setattr(box_maps, "IMAGES", 1)
    image = picture()
    with Visualization(swin, NAMES, report=True) as shown:
        assert shown.done(image, torch.zeros(0, 6)) is None  # nothing was begun
        records = []
        for name in ("first", "second"):
            shown.save_next(tmp_path / name)
            records.append(shown.done(image, detect(swin, image)[1]))
        shown.save_next(tmp_path / "empty")
        detect(swin, image)
        assert shown.done(image, torch.zeros(0, 6)) is None
    first, second = records
    assert second is None
    assert first["layers"] == [*(f"Attention, Swin stage {i}" for i in (1, 2, 3, 4)), "Class activation"]
    assert len(first["boxes"]) == box_maps.BOXES
    png = cv2.imdecode(np.frombuffer(base64.b64decode(first["boxes"][0][1]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert png.shape == (8, 12, 4)
    for name in ("first", "second"):
        names = {file.stem for file in (tmp_path / name).glob("*_attention.*")}
        assert names == {f"stage{i}_C3SwinV2_attention" for i in (2, 4, 6, 8)}
        assert len(list((tmp_path / name).glob("*_cam.png"))) == len(list((tmp_path / name).glob("*_cam.npy"))) == 1
    assert not list((tmp_path / "empty").glob("*_cam.*"))
    assert list((tmp_path / "empty").glob("*_features.npy"))
