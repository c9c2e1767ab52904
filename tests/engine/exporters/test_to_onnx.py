"""ONNX files of small detectors: open sizes, float16, int8, NMS, metadata, and what must fail."""

import ast
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exporters import to_onnx
from engine.exporters.compare import measure
from engine.exporters.onnx_check import make_session
from engine.exporters.tensorrt_ops import find_problems
from engine.exporters.to_onnx import ensure_onnx, example_size, export_onnx
from utils.nms import non_max_suppression
from utils.options.export import ExportOptions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

METADATA = {"stride": 16, "names": {0: "a", 1: "b"}, "task": "detect", "licence": "Apache-2.0", "dynamic": True}
OPTIONS = ExportOptions(imgsz=(64, 96))


def pictures(count=6, size=(64, 96)):
    chance = torch.Generator().manual_seed(5)
    return lambda: iter(torch.rand(count, 1, 3, *size, generator=chance.manual_seed(5)))


def export(model, file, **change):
    options = replace(OPTIONS, **change)
    return export_onnx(model, torch.zeros(options.batch_size, 3, *options.imgsz), file, options, METADATA)


@pytest.fixture(scope="module", params=["tiny_conv", pytest.param("tiny_swin", marks=pytest.mark.slow)])
def network(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def open_file(network, tmp_path_factory):
    """A detector with open batch, height and width."""
    return export(network, tmp_path_factory.mktemp("onnx") / "open.onnx", dynamic=True)


@pytest.fixture(scope="module")
def open_session(open_file):
    return make_session(open_file)


@pytest.fixture(scope="module")
def fixed_file(tiny_conv, tmp_path_factory):
    """A detector as it is exported without options; do not change it."""
    return export(tiny_conv, tmp_path_factory.mktemp("onnx") / "fixed.onnx")


# Windows of 3x5 at stride 16: (16, 16) and (32, 48) are smaller than one, (48, 80) is one, (96, 160) divides, the
# others pad one axis or both.
@pytest.mark.parametrize("size", [(16, 16), (16, 400), (32, 48), (48, 80), (64, 64), (112, 176), (96, 160)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_open_sizes_match(open_session, network, batch, size):
    images = torch.rand(batch, 3, *size)
    (found,) = open_session.run(["output0"], {"images": images.numpy()})
    difference = measure(network(images)[0], found)
    assert difference.relative < 1e-4
    assert difference.scores < 1e-5


def test_open_file(open_file):
    graph = onnx.load(open_file)
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [20]
    assert graph.ir_version == 9
    assert not any(node.metadata_props for node in graph.graph.node)  # came with version 10
    assert not list(open_file.parent.glob("*.data"))
    (images,) = graph.graph.input
    shape = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert (images.name, shape) == ("images", ["batch", 3, "16*height", "16*width"])
    assert [output.name for output in graph.graph.output] == ["output0"]
    found = {entry.key: entry.value for entry in graph.metadata_props}
    assert ast.literal_eval(found["names"]) == METADATA["names"]
    assert int(found["stride"]) == 16
    assert found["licence"] == "Apache-2.0"


def test_open_file_is_allowed_by_tensorrt(open_file):
    assert find_problems(onnx.load(open_file)) == []


def test_model_is_left_alone(network, open_file):
    assert network.detect.export
    assert next(network.parameters()).dtype == torch.float32


def test_example_has_two_windows_on_each_axis(tiny_swin, tiny_conv):
    assert example_size(tiny_swin, 16) == (160, 176)
    assert min(example_size(tiny_conv, 16)) >= 32


def test_operator_set_17_for_an_old_runtime(tiny_conv, tmp_path):
    file = export(tiny_conv, tmp_path / "a.onnx", opset=17, runtime=["tensorrt==8.6"], nms=True)
    graph = onnx.load(file)
    assert (graph.opset_import[0].version, graph.ir_version) == (17, 8)
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.parametrize("change", [{}, {"opset": 18, "simplify": True}], ids=str)
def test_fixed_sizes(tiny_conv, tmp_path, change):
    if change.get("simplify"):
        pytest.importorskip("onnxslim")
    file = export(tiny_conv, tmp_path / "a.onnx", batch_size=3, **change)
    graph = onnx.load(file)
    assert graph.opset_import[0].version == change.get("opset", 20)
    assert graph.ir_version == (8 if change else 9)  # onnx.proto: 8 came with operator set 15, 9 with 19
    (found,) = make_session(file).run(None, {"images": np.zeros((3, 3, 64, 96), np.float32)})
    assert found.shape == (3, 2 * (8 * 12 + 4 * 6), 7)
    assert find_problems(graph) == []


@pytest.mark.parametrize("model", ["tiny_conv", pytest.param("tiny_swin", marks=pytest.mark.slow)])
def test_half(model, request, tmp_path):
    file = export(request.getfixturevalue(model), tmp_path / "half.onnx", half=True)
    graph = onnx.load(file)
    kinds = {t.data_type for t in graph.graph.initializer if len(t.dims) == 4}  # weights of convolutions
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert graph.ir_version == 9
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert graph.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert find_problems(graph) == []


@pytest.mark.parametrize("change", [{"runtime": ["tensorrt==10.0"]}, {"include": ["engine"]}, {}], ids=str)
def test_int8(tiny_conv, tmp_path, change):
    """TensorRT takes signed activations, of the inputs only; ONNX Runtime needs unsigned ones, of the outputs too."""
    used = []

    def images():
        for image in pictures(9)():
            used.append(1)
            yield image

    file = export(tiny_conv, tmp_path / "int8.onnx", int8=True, real_images=images, calibration=3, **change)
    assert len(used) == 3 + 4  # and the four of the comparison
    graph = onnx.load(file)
    assert graph.ir_version == 9
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    zero_points = [constants[n.input[2]] for n in graph.graph.node if n.op_type == "QuantizeLinear"]
    assert zero_points
    assert not any(array.dtype == np.int32 for array in constants.values())  # no quantised bias
    made_by = {name: node.op_type for node in graph.graph.node for name in node.output}
    readers = {name: node.op_type for node in graph.graph.node for name in node.input}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    quantized = [node for node in convolutions if made_by.get(node.input[0]) == "DequantizeLinear"]
    kept = [node for node in convolutions if node not in quantized]
    assert [node.input[0] for node in kept[:1]] == ["images"]  # three channels
    assert [constants[node.input[1]].shape[0] for node in kept[1:]] == [14, 14]  # the heads: 2 anchors, 5 + 2 numbers
    assert all(constants[node.input[1]].dtype == np.float32 for node in kept)
    assert all(made_by[node.input[1]] == "DequantizeLinear" for node in quantized)  # weights are stored as int8
    outputs = [readers[node.output[0]] == "QuantizeLinear" for node in quantized]
    if change:
        assert all(z.dtype == np.int8 and not z.any() for z in zero_points)
        assert not any(outputs)
        assert find_problems(graph) == []
    else:
        assert all(z.dtype == np.uint8 for z in zero_points)
        assert all(outputs)
        assert "the zero point must be a constant 0" in " ".join(find_problems(graph))


def test_nms_in_the_graph(tiny_conv, tmp_path):
    change = {"nms": True, "conf_thres": 0.3, "topk_all": 50, "real_images": pictures()}
    session = make_session(export(tiny_conv, tmp_path / "nms.onnx", batch_size=3, **change))
    images = torch.rand(3, 3, 64, 96)
    detections, counts = session.run(["detections", "num"], {"images": images.numpy()})
    expected = non_max_suppression(tiny_conv(images)[0], 0.3, 0.45, max_det=50)
    assert detections.shape == (3, 50, 6)
    assert counts.min() > 3
    for found, count, rows in zip(detections, counts, expected, strict=True):
        np.testing.assert_allclose(found[:count], rows.numpy(), rtol=1e-4, atol=1e-3)
        assert not found[count:].any()
    graph = onnx.load(tmp_path / "nms.onnx")
    assert graph.ir_version == 9
    assert find_problems(graph) == []


def test_file_that_differs_is_not_left(tiny_conv, fixed_file, tmp_path, monkeypatch):
    graph = onnx.load(fixed_file)
    del graph.metadata_props[:]
    for weight in [t for t in graph.graph.initializer if len(t.dims) == 4]:
        wrong = onnx.numpy_helper.to_array(weight) * np.float32(1.1)
        weight.CopyFrom(onnx.numpy_helper.from_array(wrong, weight.name))
    monkeypatch.setattr(to_onnx, "trace", lambda *_: graph)
    with pytest.raises(ValueError, match=r"ONNX, random 1x3x64x96: differs from PyTorch by .* \(float32\)"):
        export(tiny_conv, tmp_path / "bad.onnx")
    assert not list(tmp_path.iterdir())


def test_one_file_serves_several_formats(tiny_conv, fixed_file, monkeypatch):
    arguments = (tiny_conv, torch.zeros(1, 3, 64, 96), fixed_file, OPTIONS)
    monkeypatch.setattr(to_onnx, "export_onnx", lambda *_: "written again")
    assert ensure_onnx(*arguments, METADATA) == fixed_file
    assert ensure_onnx(*arguments, METADATA | {"date": "another"}) == "written again"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"opset": 21}, "--opset is 21, but must be from 18 to 20"),
        ({"int8": True}, "--int8 needs images to calibrate with: give --data"),
        ({"int8": True, "half": True}, "mutually exclusive"),
        ({"int8": True, "real_images": lambda: iter(())}, "gave no image"),
    ],
    ids=["opset", "no data", "half too", "no image"],
)
def test_refused_options(tiny_conv, tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        export(tiny_conv, tmp_path / "a.onnx", **change)
    assert not list(tmp_path.iterdir())
