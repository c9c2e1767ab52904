"""Suppression inside a graph against torchvision, image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from engine.exporters.onnx_check import check_nms, drawn_boxes, make_session
from engine.exporters.onnx_nms import add_nms, suppression
from utils.boxes import xywh2xyxy
from utils.options.export import ExportOptions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NC = 3
OPTIONS = ExportOptions(nms=True, topk_all=20)


def build(options):
    """A graph that takes boxes (B, R, 5 + NC) for images."""
    shape = ["batch", "rows", 5 + NC]
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("images", "output0")]
    node = onnx.helper.make_node("Identity", ["images"], ["output0"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    add_nms(model, NC, options)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(boxes, options):
    """Detections (B, K, 6) and counts (B,) that the nodes make of boxes (B, R, 5 + NC)."""
    return make_session(build(options).SerializeToString()).run(None, {"images": boxes.numpy()})


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


# The check of a written file ------------------------------------------------------------------------------------------
class Plain:
    """A model whose boxes are its images, without suppression."""

    @staticmethod
    def run(names, feed):
        return [feed["images"]]


def check(model, options, boxes):
    alone = make_session(suppression(model).SerializeToString())
    check_nms(make_session(model.SerializeToString()), Plain, alone, iter([("boxes", boxes)]), options, NC)


@pytest.mark.parametrize("change", [{}, {"agnostic_nms": True}, {"conf_thres": 0.9}, {"conf_thres": 0.0}], ids=str)
def test_the_check_compares_detections_though_the_images_show_none(change, caplog):
    caplog.set_level("INFO", "yolov5")
    options = replace(OPTIONS, batch_size=2, topk_all=60, **change)
    rows = [drawn_boxes(NC, options, above) for above in (60, 200)]
    assert [(images[..., 4] > options.conf_thres).sum(1).tolist() for images in rows] == [[60, 60], [200, 200]]
    check(build(options), options, torch.zeros(2, 50, 5 + NC))
    (line,) = [record.getMessage() for record in caplog.records]
    few, many = ([len(reference(image, options)) for image in images] for images in rows)
    assert all(10 < number < 60 for number in few)  # some were suppressed
    drawn = sum(few) + sum(many)
    assert line.endswith(f"on {drawn} detections of drawn boxes, 0 of the images")


@pytest.mark.parametrize("name", ["nms/iou", "nms/floor", "nms/half"])
def test_the_check_finds_a_suppression_that_is_wrong(name):
    model = build(OPTIONS)
    (value,) = [item for item in model.graph.initializer if item.name == name]
    value.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value) * np.float32(0.7), name))
    with pytest.raises(ValueError, match="ONNX NMS, drawn boxes"):
        check(model, OPTIONS, torch.zeros(1, 50, 5 + NC))


def test_a_threshold_that_nothing_passes_is_an_error():
    options = replace(OPTIONS, conf_thres=1.0)
    with pytest.raises(ValueError, match="--conf-thres 1 lets no detection pass"):
        check(build(options), options, torch.zeros(1, 50, 5 + NC))
