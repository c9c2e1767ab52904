"""Suppression inside a graph against torchvision, image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from engine.exporters.onnx_check import make_session
from engine.exporters.onnx_nms import add_nms
from utils.boxes import xywh2xyxy
from utils.options.export import ExportOptions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NC = 3
OPTIONS = ExportOptions(nms=True, topk_all=20)


def run(boxes, options):
    """Detections (B, K, 6) and counts (B,) that the nodes make of boxes (B, R, 5 + NC)."""
    shape = ["batch", "rows", 5 + NC]
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("images", "output0")]
    node = onnx.helper.make_node("Identity", ["images"], ["output0"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    add_nms(model, NC, options)
    onnx.checker.check_model(model, full_check=True)
    return make_session(model.SerializeToString()).run(None, {"images": boxes.numpy()})


def reference(rows, options):
    """(D, 6) of one image: the best class of each row, torchvision.ops.nms class by class, best first."""
    conf, cls = (rows[:, 5:] * rows[:, 4:5]).max(1)
    corners, kept = xywh2xyxy(rows[:, :4]), []
    for group in [torch.ones_like(cls, dtype=torch.bool)] if options.agnostic_nms else [cls == c for c in range(NC)]:
        chosen = (group & (conf > options.conf_thres)).nonzero()[:, 0]
        kept += chosen[nms(corners[chosen], conf[chosen], options.iou_thres)].tolist()
    kept = sorted(kept, key=lambda i: -conf[i].item())[: options.topk_all]
    return torch.cat((corners[kept], conf[kept, None], cls[kept, None].float()), 1).numpy()


def scene(batch, rows, scale=60.0):
    boxes = torch.rand(batch, rows, 5 + NC)
    boxes[..., :2] *= scale
    boxes[..., 2:4] = boxes[..., 2:4] * 20 + 5
    return boxes


@pytest.mark.parametrize(
    "change",
    [{}, {"agnostic_nms": True}, {"conf_thres": 0.6}, {"iou_thres": 0.1}, {"topk_all": 3}, {"conf_thres": 0.0}],
    ids=str,
)
def test_equals_torchvision_for_each_image(change):
    options = replace(OPTIONS, **change)
    boxes = scene(4, 150)
    boxes[2, :, 4] = 0.0  # an image without objects
    detections, counts = run(boxes, options)
    assert counts.dtype == np.int32
    assert counts[2] == 0
    assert counts[[0, 1, 3]].min() > 0
    for rows, found, count in zip(boxes, detections, counts, strict=True):
        expected = reference(rows, options)
        assert count == len(expected)
        np.testing.assert_allclose(found[:count], expected, rtol=1e-6, atol=1e-5)
        assert not found[count:].any()


def test_fewer_rows_than_places():
    detections, counts = run(scene(2, 5, scale=1e4), replace(OPTIONS, conf_thres=0.0))
    assert detections.shape == (2, 20, 6)
    assert counts.tolist() == [5, 5]


def test_batch_equals_single():
    boxes = scene(3, 80)
    together = run(boxes, OPTIONS)[0]
    assert all(np.array_equal(together[i], run(boxes[i : i + 1], OPTIONS)[0][0]) for i in range(3))


@pytest.mark.parametrize(
    ("change", "match"),
    [({"conf_thres": 1.5}, "--conf-thres"), ({"iou_thres": -0.1}, "--iou-thres"), ({"topk_all": 3840}, "--topk-all")],
)
def test_refused_options(change, match):
    with pytest.raises(ValueError, match=match):
        run(scene(1, 5), replace(OPTIONS, **change))
