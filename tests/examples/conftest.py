"""A small exported detector with many boxes of spread scores, a picture, and what the project's own pipeline finds."""

import cv2
import numpy as np
import pytest
import torch

from models.yolo import Model
from utils.augmentations import letterbox
from utils.boxes import scale_boxes
from utils.files import yaml_load
from utils.nms import non_max_suppression
from utils.paths import ROOT

SIZE = 160
NAMES = {0: "cat", 1: "dog's", 2: "élan"}


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """Path of a PNG of 160 x 112, so that a letterbox of 160 pads and does not resize (browsers resize differently)."""
    noise = np.random.default_rng(0).integers(0, 256, (14, 20, 3), np.uint8)
    file = tmp_path_factory.mktemp("picture") / "blur.png"
    cv2.imwrite(str(file), cv2.resize(noise, (160, 112), interpolation=cv2.INTER_CUBIC))
    return file


def network_input(picture):
    frame, _, _ = letterbox(cv2.imread(str(picture)), SIZE, auto=False)
    return torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="session")
def network(picture):
    """A narrow network, random, its statistics set on the picture, so that scores spread over 0 to 1."""
    torch.manual_seed(0)
    model = Model(yaml_load(ROOT / "models/hub/yolov3-tiny.yaml") | {"width_multiple": 0.25}, nc=len(NAMES))
    images = network_input(picture)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
        raw = model.eval()(images)[1]  # one (1, 3, H, W, 5 + classes) per stride
        for conv, numbers in zip(model.detect.m, raw, strict=True):
            std, mean = torch.std_mean(numbers, (0, 2, 3))  # (3, 5 + classes)
            conv.weight.mul_((1.5 / std).view(-1, 1, 1, 1))
            conv.bias.copy_(((conv.bias.view_as(mean) - mean) * 1.5 / std).view(-1))
            conv.bias.view_as(mean)[:, 4] -= 3  # few objects
    return model


@pytest.fixture(scope="session")
def onnx_file(network, tmp_path_factory):
    """The network as export.py writes it: input `images`, output `output0`, metadata `stride` and `names`."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnx  # noqa: PLC0415 - after the check that it is there

    class Boxes(torch.nn.Module):
        def forward(self, images):
            return network(images)[0]

    file = tmp_path_factory.mktemp("onnx") / "random.onnx"
    example = torch.zeros(1, 3, SIZE, SIZE)
    names = {"input_names": ["images"], "output_names": ["output0"]}
    torch.onnx.export(Boxes().eval(), (example,), file, dynamo=True, opset_version=18, external_data=False, **names)
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"stride": "32", "names": str(NAMES)})
    onnx.save(model, file)
    return file


@pytest.fixture(scope="session")
def expected(network, picture):
    """(D, 6) `[xyxy_img, confidence, class]` of the project's own pipeline, at least 10 of them."""
    image = cv2.imread(str(picture))
    with torch.no_grad():
        found = non_max_suppression(network(network_input(picture))[0], max_det=1000)[0]
    found[:, :4] = scale_boxes((SIZE, SIZE), found[:, :4], image.shape[:2])
    assert len(found) >= 10
    assert len(found[:, 5].unique()) > 1
    return found.numpy()


@pytest.fixture(scope="session")
def assert_same():
    """Check rows (D, 6) `[x1, y1, x2, y2, confidence, class]` against `expected`, within a pixel, in any order."""

    def check(found, expected):
        found = np.asarray(found, float).reshape(-1, 6)
        assert len(found) == len(expected)
        used = set()
        for row in expected:
            gaps = np.abs(found - row)
            match = (gaps[:, :4].max(1) < 1) & (gaps[:, 4] < 1e-3) & (gaps[:, 5] == 0)
            free = [i for i in match.nonzero()[0] if i not in used]
            assert free, row
            used.add(free[0])

    return check
