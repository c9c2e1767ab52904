"""Every family is parsed and built by TensorRT for RTX, where a developer has installed it.

`pip install tensorrt-rtx` reads and builds engines without a GPU or a driver; they cannot be run there. It is NVIDIA's,
under its own licence, another product than TensorRT with the same parser, and never required.
"""

import pytest
import torch

from engine.exporters.tensorrt_ops import check_tensorrt, find_problems
from engine.exporters.to_onnx import export_onnx
from engine.exporters.to_tensorrt import build_engine
from models.yolo import DetectionModel
from utils.options.export import ExportOptions

rtx = pytest.importorskip("tensorrt_rtx", reason="optional: pip install tensorrt-rtx")
onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.slow

FAMILIES = {  # model file -> side of the images, which is a multiple of the largest stride
    "yolov5n.yaml": 64,
    "hub/yolov5n6.yaml": 128,
    "hub/yolov5-p2.yaml": 64,
    "yolov5n-swinv2.yaml": 128,
    "hub/yolov5n6-swinv2.yaml": 128,
    "hub/yolov5-p2-swinv2.yaml": 128,
    "yolov5-swinv2t.yaml": 128,
}
FORMS = {
    "float32": {},
    "float16": {"half": True},
    "int8": {"int8": True, "calibration": 2, "runtime": ["tensorrt==10.0"]},
    "dynamic": {"dynamic": True, "batch_size": 2},
    "dynamic int8": {"dynamic": True, "int8": True, "calibration": 2, "batch_size": 2, "runtime": ["tensorrt==10.0"]},
}


@pytest.fixture(scope="module")
def family():
    """Function (model file) -> the detector ready for export, built once."""
    built = {}

    def build(cfg):
        if cfg not in built:
            torch.manual_seed(0)
            model = DetectionModel(cfg, nc=2, verbose=False).eval().fuse().requires_grad_(False)
            model.detect.export = True
            built[cfg] = model
        return built[cfg]

    return build


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cfg", FAMILIES)
def test_family_is_built(cfg, form, family, tmp_path, record_property):
    model, side = family(cfg), FAMILIES[cfg]
    stride = int(model.stride.max())

    def real_images():
        return iter(torch.rand(2, 1, 3, side, side).unbind())

    options = ExportOptions(imgsz=(side, side), workspace=1.0, real_images=real_images, **FORMS[form])
    images = torch.zeros(options.batch_size, 3, side, side)
    metadata = {"stride": stride, "names": {0: "a", 1: "b"}, "half": options.half, "int8": options.int8}
    file = export_onnx(model, images, tmp_path / "best.onnx", options, metadata)
    check_tensorrt(file)  # the operator table and the parser agree
    engine = build_engine(rtx, file, options, stride, 3)
    record_property("MB", round(len(engine) / 1e6, 1))
    assert len(engine) > 10_000


@pytest.mark.parametrize(
    ("operator", "inputs", "good", "bad"),
    [
        ("LpPool", "x", {"kernel_shape": [2, 2], "p": 2}, {"kernel_shape": [2, 2], "p": 3}),
        ("MaxPool", "x", {"kernel_shape": [2, 2]}, {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("BatchNormalization", "x s s s s", {}, {"training_mode": 1}),
    ],
)
def test_restrictions_of_the_table_are_those_of_the_parser(operator, inputs, good, bad, tmp_path):
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    for attributes, allowed in ((good, True), (bad, False)):
        outputs = ["y", "m", "v"] if "training_mode" in attributes else ["y"]
        node = helper.make_node(operator, inputs.split(), outputs, name="n", **attributes)
        x = helper.make_tensor_value_info("x", FLOAT, [1, 2, 8, 8])
        y = helper.make_tensor_value_info("y", FLOAT, None)
        s = onnx.numpy_helper.from_array(torch.ones(2).numpy(), "s")
        constants = [s] if "s" in inputs else []
        graph = helper.make_graph([node], "g", [x], [y], constants)
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
        onnx.save(model, tmp_path / "one.onnx")
        assert (find_problems(model) == []) == allowed
        if allowed:
            assert build_engine(rtx, tmp_path / "one.onnx", ExportOptions(imgsz=(8, 8), workspace=1.0), 1, 2)
        else:
            with pytest.raises(ValueError, match="TensorRT cannot read this graph"):
                build_engine(rtx, tmp_path / "one.onnx", ExportOptions(imgsz=(8, 8), workspace=1.0), 1, 2)
