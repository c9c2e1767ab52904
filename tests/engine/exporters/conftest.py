"""Two small detectors, ready for export, and their graphs, each traced once."""

from copy import deepcopy

import pytest
import torch

from engine.exporters import to_onnx
from models.yolo import DetectionModel

ANCHORS = [[10, 13, 16, 30], [30, 61, 62, 45]]
NECK = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 3], 1, "Concat", [1]], [-1, 1, "Conv", [32, 1, 1]]]


def build(stages, seed):
    """A detector of strides 8 and 16 with random weights, statistics and spread-out scores."""
    torch.manual_seed(seed)
    table = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": ANCHORS}
    table["backbone"] = [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        stages[0],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        stages[1],
    ]
    table["head"] = [*NECK, [[8, 5], 1, "Detect", ["nc", "anchors"]]]
    model = DetectionModel(table, verbose=False).train()
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
        for conv in model.detect.m:
            conv.weight.normal_(0, 0.5)
            conv.bias.normal_(0, 1.0)
    model.eval().fuse()
    model.detect.export = True
    return model.requires_grad_(False)


@pytest.fixture(scope="session", autouse=True)
def _traced_once():
    """The tracer takes most of the time of an export; of the options it reads four."""
    trace, graphs = to_onnx.trace, {}

    def traced(model, images, options, stride):
        key = model, images.shape, options.dynamic, options.half, options.opset, options.raw_heads, stride
        if key not in graphs:
            graphs[key] = trace(model, images, options, stride)
        return deepcopy(graphs[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "trace", traced)
        yield


@pytest.fixture(scope="session")
def tiny_swin():
    """Windows of 3x5 at stride 16: small images have maps smaller than a window."""
    stage = [-1, 2, "C3SwinV2", [32, [3, 5], {"norm_gain": 1.0, "head_width": 8}]]
    return build([[-1, 1, "C3", [32]], stage], seed=3)


@pytest.fixture(scope="session")
def tiny_conv():
    """Convolutions only."""
    return build([[-1, 1, "C3", [32]], [-1, 1, "C3", [32]]], seed=4)
