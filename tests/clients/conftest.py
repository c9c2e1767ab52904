"""One image, one tiny model as a file of each kind, and what detect.py finds: each client must find the same."""

import cv2
import numpy as np
import pytest
import torch

import detect
import export
from models.runtimes.backends import DetectMultiBackend
from tests import same_boxes
from tests.random_detector import random_detector
from utils.boxes import scale_boxes
from utils.nms import non_max_suppression
from utils.paths import ROOT

SIZE = (96, 128)  # of the image and of the network input, so that nothing is resized
CONF = 0.25
NAMES = {0: "cat", 1: "dog's", 2: "élan"}


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("images") / "blobs.png"
    cv2.imwrite(str(file), cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
    return file


@pytest.fixture(scope="session")
def weights(image, tmp_path_factory, write_checkpoint):
    """Checkpoint of a `random_detector`."""
    pixels = torch.from_numpy(cv2.imread(str(image))[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    model = random_detector(pixels[None], len(NAMES))
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt", model, NAMES)


@pytest.fixture(scope="session")
def found(weights, image, tmp_path_factory):
    """Rows (D, 6) `[xyxy_img, confidence, class]` from the files of detect.py, best first; some boxes have no area."""
    out = tmp_path_factory.mktemp("detect")
    options = {"save_txt": True, "save_format": 1, "save_conf": True, "nosave": True}
    detect.run(weights, image, imgsz=[*SIZE], conf_thres=CONF, device="cpu", project=out, **options)
    rows = np.loadtxt(out / "exp/labels/blobs.txt", ndmin=2)  # class, box divided by the size, confidence
    rows = np.hstack((rows[:, 1:5] * [*SIZE[::-1], *SIZE[::-1]], rows[:, 5:], rows[:, :1]))
    assert len(rows) >= 5
    return rows[rows[:, 4].argsort()[::-1]]


@pytest.fixture(scope="session")
def hub_model(weights):
    """What a program gets from torch.hub."""
    model = torch.hub.load(str(ROOT), "custom", path=weights, source="local", device="cpu", _verbose=False)
    model.conf = CONF
    return model


@pytest.fixture(scope="session")
def exported(weights, tmp_path_factory):
    """Function (format) -> file of that format for images of `SIZE`, written once."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "tiny.pt").write_bytes(weights.read_bytes())
    files = {}

    def write(word):
        if word not in files:
            (files[word],) = export.run(weights=folder / "tiny.pt", include=[word], imgsz=[*SIZE], device="cpu")
        return files[word]

    return write


@pytest.fixture(scope="session")
def onnx_file(exported):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return exported("onnx")


@pytest.fixture(scope="session")
def network_input(image):
    """The image as each runtime takes it, (1, 3, H, W) float32 RGB."""
    pixels = cv2.imread(str(image))[..., ::-1].transpose(2, 0, 1)[None]
    return np.ascontiguousarray(pixels, np.float32) / 255


@pytest.fixture(scope="session")
def check_output(found, network_input, weights):
    """Check what a runtime gave, (1, R, 8), number by number with PyTorch, and its boxes with detect.py's."""
    with torch.no_grad():
        expected = DetectMultiBackend(weights)(torch.from_numpy(network_input))[0].numpy()

    def check(output, tolerance=1e-3):
        output = np.array(output, np.float32)
        np.testing.assert_allclose(output, expected, rtol=tolerance, atol=tolerance)
        rows = non_max_suppression(torch.from_numpy(output), CONF)[0]
        rows[:, :4] = scale_boxes(SIZE, rows[:, :4], SIZE)
        same_boxes.assert_same(rows, found, pixels=0.05)

    return check
