"""Detectors from their files behind one interface: a checkpoint, and several as an ensemble."""

import numpy as np
import pytest
import torch

from models.autoshape import AutoShape
from models.experimental import Ensemble, attempt_load
from models.runtimes.backends import DetectMultiBackend
from models.yolo import DetectionModel
from utils.files import yaml_load
from utils.paths import ROOT


@pytest.fixture(scope="module")
def write(write_checkpoint):
    def write(path, cfg, nc, names=None):
        table = yaml_load(ROOT / "models" / cfg) | {"width_multiple": 0.125, "depth_multiple": 0.1}
        model = DetectionModel(table, nc=nc, verbose=False)
        return write_checkpoint(path, model, names or {i: f"class {i}" for i in range(nc)})

    return write


@pytest.fixture(scope="module")
def files(tmp_path_factory, write):
    folder = tmp_path_factory.mktemp("weights")
    return write(folder / "a.pt", "yolov5n.yaml", 3), write(folder / "b.pt", "yolov5n-swinv2.yaml", 3)


@torch.no_grad()
def test_checkpoint_gives_the_boxes_of_its_model(files):
    backend = DetectMultiBackend(files[0])
    images = torch.rand(2, 3, 64, 96)
    boxes, maps = backend(images)
    torch.testing.assert_close([boxes, maps], list(attempt_load(files[0])(images)))
    assert (backend.names, backend.nc, backend.stride, backend.pt) == (
        {0: "class 0", 1: "class 1", 2: "class 2"},
        3,
        32,
        True,
    )
    more, none = backend(images, augment=True)
    assert more.shape[1] > boxes.shape[1]
    assert none is None
    backend.warmup((1, 3, 64, 64), half=True)
    assert AutoShape(backend)(images).equal(backend(images))  # wrapped, it gives the boxes alone


@torch.no_grad()
def test_ensemble_is_the_boxes_of_its_models_side_by_side(files):
    images = torch.rand(1, 3, 64, 64)
    both = DetectMultiBackend(list(files))(images)[0]
    parts = [DetectMultiBackend(file)(images)[0] for file in files]
    torch.testing.assert_close(both, torch.cat(parts, 1))
    assert isinstance(attempt_load(list(files)), Ensemble)
    assert isinstance(attempt_load([files[0]]), DetectionModel)


def test_models_of_other_classes_are_no_ensemble(files, write, tmp_path):
    with pytest.raises(ValueError, match=r"same classes.*\[3, 2\]"):
        DetectMultiBackend([files[0], write(tmp_path / "c.pt", "yolov5n.yaml", 2)])


def test_half_precision_without_cuda_is_told_and_left_out(files, caplog):
    backend = DetectMultiBackend(files[0], fp16=True)
    assert "--half needs CUDA, but the device is cpu: going on in float32" in caplog.text
    assert not backend.fp16
    assert {p.dtype for p in backend.parameters()} == {torch.float32}


def test_it_has_the_form_that_scripts_of_yolov5_know(files, tmp_path):
    absent = tmp_path / "absent.yaml"
    backend = DetectMultiBackend(files[0], torch.device("cpu"), False, absent, False, True)
    flags = "pt jit onnx xml engine coreml saved_model pb tflite edgetpu tfjs paddle triton".split()
    assert [flag for flag in flags if getattr(backend, flag)] == ["pt"]
    assert DetectMultiBackend._model_type("a/b.onnx") == [flag == "onnx" for flag in flags]
    assert (backend.fp16, backend.nhwc, backend.dnn, backend.data, backend.fuse) == (False, False, False, absent, True)
    assert (backend.w, backend.weights) == (str(files[0]), files[0])
    assert all(key.startswith("model.model.") for key in backend.state_dict())
    assert type(backend.model.model[-2]).__name__ == "C3"
    assert backend.half().fp16
    assert backend.float().fp16 is False
    assert torch.equal(backend.from_numpy(np.ones(3)), torch.ones(3, dtype=torch.float64))
    boxes, maps = backend(torch.rand(1, 3, 64, 64), augment=False, visualize=False, val=True)
    assert (boxes.shape[2], len(maps)) == (8, 3)
    with pytest.raises(ValueError, match=r"feature maps are written by detect\.py --visualize"):
        backend(torch.rand(1, 3, 64, 64), visualize=tmp_path)


def test_attempt_load_takes_the_keywords_of_all_releases(files):
    image = torch.rand(1, 3, 64, 64)
    expected = attempt_load(files[0])(image)[0]
    for model in (
        attempt_load(str(files[0]), map_location="cpu"),
        attempt_load([files[0]], torch.device("cpu"), True, True),
        attempt_load(files[0], device="cpu", inplace=False, fuse=True),
    ):
        torch.testing.assert_close(model(image, augment=False, visualize=False)[0], expected)
    assert model.detect.inplace is False
    assert hasattr(attempt_load(files[0], None, True, False).model[0], "bn")
    assert not hasattr(model.model[0], "bn")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((0.25, 0.45, 100), []),
        ((0.5, 0.3, 10, True), []),  # stricter than the file: a second suppression follows
        ((0.1, 0.45, 100), ["the confidence threshold is 0.25, not 0.1"]),
        ((0.25, 0.6, 100), ["the IoU threshold is 0.45, not 0.6"]),
        ((0.25, 0.45, 1000), ["the most detections per image is 100, not 1000"]),
        ((0.25, 0.45, 100, False, True), ["a box has one class only"]),
        ((0.1, 0.6, 100), ["threshold is 0.25, not 0.1; the IoU"]),
    ],
)
def test_what_nms_inside_a_file_does_not_follow_is_told(asked, told, nms_inside, caplog):
    DetectMultiBackend(nms_inside).check_suppression(*asked)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(told)
    assert all(part in messages[0] for part in told)
    assert not told or messages[0].startswith(f"{nms_inside}: exported with --nms")


def test_classes_of_a_file_that_suppresses_over_all_of_them_are_told(nms_inside, monkeypatch, caplog):
    monkeypatch.setattr(type(DetectMultiBackend(nms_inside).backend), "METADATA", {"nms": True, "iou_thres": "x"})
    backend = DetectMultiBackend(nms_inside)
    backend.backend.metadata["agnostic_nms"] = True
    backend.check_suppression(0.25, 0.45, 100)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "boxes of different classes suppress each other" in line
    assert "the IoU threshold is not 0.45, but unknown" in line
