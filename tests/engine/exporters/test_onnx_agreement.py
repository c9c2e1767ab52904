"""ONNX files with dynamic sizes against their PyTorch models over batches and image sizes, for models as published."""

import itertools

import pytest
import torch

from engine.exporters.compare import TOLERANCE, Difference, measure
from engine.exporters.onnx_check import make_session
from engine.exporters.to_onnx import export_onnx
from models.yolo import DetectionModel
from utils.options.export import ExportOptions

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BATCHES = (1, 2, 5)
SIZES = ((320, 320), (640, 640), (256, 416), (352, 512))  # the last is 330x500 rounded up to the stride


def build(name):
    """A model with random weights, statistics and spread-out scores; ready for export."""
    model = DetectionModel(f"{name}.yaml", verbose=False).train()
    with torch.no_grad():
        for _ in range(3):  # statistics of the normalisations
            model(torch.rand(2, 3, 128, 128))
        for conv in model.detect.m:
            conv.weight.normal_(0, 0.5 * conv.in_channels**-0.5)
            conv.bias.normal_(0, 1.0)
    model.eval().fuse()
    model.detect.export = True
    return model.requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov5n", "yolov5n-swinv2", "yolov5s-swinv2"])
def test_dynamic_file_agrees_with_pytorch(name, tmp_path, record_property):
    model = build(name)
    metadata = {"stride": int(model.stride.max()), "names": model.names}
    options = ExportOptions(imgsz=(64, 64), dynamic=True)
    export_onnx(model, torch.zeros(2, 3, 64, 64), tmp_path / "x.onnx", options, metadata)
    session, worst = make_session(tmp_path / "x.onnx"), Difference()
    for batch, (height, width) in itertools.product(BATCHES, SIZES):
        images = torch.rand(batch, 3, height, width)
        with torch.inference_mode():
            worst |= measure(model(images)[0], session.run(["output0"], {"images": images.numpy()})[0])
    record_property("difference", str(worst))
    allowed = TOLERANCE["float32"]
    assert worst.relative <= allowed.relative
    assert worst.scores <= allowed.scores
