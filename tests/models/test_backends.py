"""Detectors from their files behind one interface: a checkpoint, and several as an ensemble."""

import pytest
import torch

from models.backends import DetectMultiBackend
from models.checkpoint import attempt_load
from models.ensemble import Ensemble
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
