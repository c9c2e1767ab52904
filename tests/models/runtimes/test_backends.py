"""Detectors from their files behind one interface: a checkpoint, and several as an ensemble."""

import pytest
import torch

from models.ensemble import Ensemble
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import attempt_load
from models.yolo import DetectionModel


@pytest.fixture(scope="module")
def write(write_checkpoint):
    def write(path, cfg, nc, names=None):
        model = DetectionModel(cfg, nc=nc, verbose=False)
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
    torch.testing.assert_close(backend(images), attempt_load(files[0])(images)[0])
    assert (backend.names, backend.nc, backend.stride, backend.pt) == (
        {0: "class 0", 1: "class 1", 2: "class 2"},
        3,
        32,
        True,
    )
    assert backend(images, augment=True).shape[1] > backend(images).shape[1]
    backend.warmup((64, 64))


@torch.no_grad()
def test_ensemble_is_the_boxes_of_its_models_side_by_side(files):
    images = torch.rand(1, 3, 64, 64)
    both = DetectMultiBackend(list(files))(images)
    parts = [DetectMultiBackend(file)(images) for file in files]
    torch.testing.assert_close(both, torch.cat(parts, 1))
    assert isinstance(attempt_load(list(files)), Ensemble)
    assert isinstance(attempt_load([files[0]]), DetectionModel)


def test_models_of_other_classes_are_no_ensemble(files, write, tmp_path):
    with pytest.raises(ValueError, match=r"same classes.*\[3, 2\]"):
        DetectMultiBackend([files[0], write(tmp_path / "c.pt", "yolov5n.yaml", 2)])


def test_half_precision_needs_cuda(files):
    with pytest.raises(ValueError, match="half precision needs CUDA"):
        DetectMultiBackend(files[0], fp16=True)


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
