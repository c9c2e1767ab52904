"""A small exported detector with many boxes of spread scores, a picture, and what the project's own pipeline finds."""

import cv2
import numpy as np
import pytest
import torch

from engine.exporters.onnx_portable import part_padding
from tests import same_boxes
from tests.random_detector import random_detector
from utils.augmentations import letterbox
from utils.boxes import scale_boxes
from utils.nms import non_max_suppression

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
    return random_detector(network_input(picture), len(NAMES))


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
    part_padding(model)
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
    return same_boxes.assert_same
