"""Exported files in their run times give the boxes of the checkpoint; what is missing or does not fit is said."""

import json
import os
import shutil
from functools import cache

import numpy as np
import pytest
import torch

import export
from engine.exporters.compare import measure
from models.runtimes.backends import DetectMultiBackend
from models.runtimes.base import Runtime, expand_detections, parse_size
from models.runtimes.onnx_files import EXTERNAL
from models.weights.class_names import parse_names, parse_value
from models.yolo import DetectionModel
from utils.nms import non_max_suppression

TABLE = {
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13], [30, 61]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]]] * 4 + [[-1, 2, "C3SwinV2", [16, 2, {"norm_gain": 1.0}]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[4, 5], 1, "Detect", ["nc", "anchors"]]],
}
NAMES = {0: "a", 1: "it's", 2: "ß"}


NEEDS = {"onnx": "onnxscript", "openvino": "openvino", "ncnn": "pnnx"}


@pytest.fixture(scope="module")
def write(write_checkpoint):
    def write(file, table):
        torch.manual_seed(0)
        model = DetectionModel(table, verbose=False)
        for conv in model.detect.m:
            torch.nn.init.normal_(conv.weight, std=0.5)
            torch.nn.init.zeros_(conv.bias)
        return write_checkpoint(file, model, NAMES)

    return write


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write):
    return write(tmp_path_factory.mktemp("weights") / "best.pt", TABLE)


@pytest.fixture(scope="module")
def export_as(weights, write):
    """Function (format) -> a checkpoint and the file made of it, once."""

    @cache
    def made(kind):
        pytest.importorskip(NEEDS.get(kind, "torch"))
        source = weights
        if kind == "ncnn":  # it has no operator for windows
            plain = [row if row[2] == "Conv" else [-1, 2, "C3", [16]] for row in TABLE["backbone"]]
            source = write(weights.with_name("plain.pt"), TABLE | {"backbone": plain})
        return source, export.run(weights=source, include=[kind], imgsz=(64, 96))[0]

    return made


@pytest.fixture(params=["torchscript", "pt2", "onnx", "openvino", "ncnn"])
def exported(request, export_as):
    return export_as(request.param)


def test_file_gives_the_boxes_of_the_checkpoint(exported):
    weights, exported = exported
    backend, reference = DetectMultiBackend(exported), DetectMultiBackend(weights)
    assert (backend.names, backend.stride, backend.imgsz, backend.batch_size) == (NAMES, 32, (64, 96), 1)
    assert not backend.pt
    images = torch.rand(3, 3, 64, 96)  # more than the one of the file
    with torch.no_grad():
        difference = measure(reference(images)[0], backend(images))
    assert difference.relative < 1e-3
    assert difference.scores < 1e-4
    with pytest.raises(ValueError, match="takes images of 64x96"):
        backend(torch.rand(1, 3, 96, 96))
    with pytest.raises(ValueError, match="needs a checkpoint"):
        backend(images, augment=True)


def test_detections_inside_a_file_survive_a_second_suppression(weights, tmp_path):
    pytest.importorskip("onnxscript")
    other = shutil.copy(weights, tmp_path)  # beside which the file is written
    file = export.run(weights=other, include=["onnx"], imgsz=64, batch_size=2, nms=True, conf_thres=0.1, topk_all=15)[0]
    backend = DetectMultiBackend(file)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = non_max_suppression(DetectMultiBackend(weights)(images)[0], 0.1, 0.45, max_det=15)
        found = non_max_suppression(backend(images), 0.1, 0.45, max_det=15)
    assert backend.end2end
    assert sum(map(len, expected)) > 5
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_said(weights, tmp_path):
    with pytest.raises(ValueError, match="unknown kind of model file"):
        DetectMultiBackend(tmp_path / "a.h5")
    with pytest.raises(FileNotFoundError, match=r"a\.onnx"):
        DetectMultiBackend(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"an ensemble takes checkpoints"):
        DetectMultiBackend([weights, tmp_path / "a.onnx"])
    with pytest.raises(ValueError, match=r"OpenCV \(dnn\) runs \.onnx files only"):
        DetectMultiBackend(weights, dnn=True)
    (tmp_path / "a.engine").write_bytes(b"")
    with pytest.raises(ValueError, match="CUDA"):
        DetectMultiBackend(tmp_path / "a.engine")
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="ONNX Runtime cannot read it"):
        DetectMultiBackend(tmp_path / "a.onnx")


def test_values_of_metadata_are_read_without_running_them():
    assert parse_value("{0: 'a', 1: \"it's\"}") == {0: "a", 1: "it's"}
    assert parse_value("__import__('os').system('true')") == "__import__('os').system('true')"
    assert parse_names('{"1": "b", "0": "a"}', "x") == {0: "a", 1: "b"}
    with pytest.raises(ValueError, match="must map 0, 1, 2"):
        parse_names("{1: 'a'}", "x")
    assert parse_size("[64, 96]") == (64, 96)
    assert parse_size(json.dumps(32)) == (32, 32)


def test_detections_become_rows_of_boxes():
    found = torch.tensor([[[10.0, 20, 30, 60, 0.9, 2], [0, 0, 0, 0, 0.8, 0]]])
    rows = expand_detections(found, torch.tensor([1]), 3)
    assert rows[0, 0].tolist() == pytest.approx([20, 40, 20, 40, 0.9, 0, 0, 1])
    assert rows[0, 1, 4] == 0  # beyond the count


def test_fixed_batch_is_filled_up(tmp_path):
    class Counting(Runtime):
        def run(self, images):
            seen.append(len(images))
            return images.mean((1, 2, 3)).view(-1, 1, 1).expand(-1, 2, 6)

    seen = []
    runtime = Counting(tmp_path, torch.device("cpu"), {"names": {0: "a"}}, (2, None, None), 6)
    images = torch.rand(5, 3, 8, 8)
    assert torch.allclose(runtime(images)[:, 0, 0], images.mean((1, 2, 3)))
    assert seen == [2, 2, 2]


def test_opencv_runs_a_file_with_fixed_sizes(export_as):
    """OpenCV 5 does, and 4.8 knows all that is in it: no booleans, no sums."""
    weights, file = export_as("onnx")
    graph = pytest.importorskip("onnx").load(file).graph
    assert not {node.op_type for node in graph.node} & {"Not", "And", "Or", "Equal", "Where", "ReduceSum"}
    assert {item.data_type for item in graph.initializer} == {1, 7}  # float32, int64
    assert "Softmax" in {node.op_type for node in graph.node}
    backend = DetectMultiBackend(file, dnn=True)
    assert (backend.names, backend.imgsz) == (NAMES, (64, 96))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        difference = measure(DetectMultiBackend(weights)(images)[0], backend(images))
    assert difference.relative < 1e-3
    assert difference.scores < 1e-4


def test_names_of_a_file_without_them(export_as, tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(export_as("onnx")[1])
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "bare.onnx")
    assert DetectMultiBackend(tmp_path / "bare.onnx").names == {0: "class0", 1: "class1", 2: "class2"}
    (tmp_path / "data.yaml").write_text("names: [x, y, z]")
    assert DetectMultiBackend(tmp_path / "bare.onnx", data=tmp_path / "data.yaml").names == {0: "x", 1: "y", 2: "z"}
    (tmp_path / "data.yaml").write_text("names: [x, y]")
    with pytest.raises(ValueError, match=r"scores for 3 classes, but .* names 2"):
        DetectMultiBackend(tmp_path / "bare.onnx", data=tmp_path / "data.yaml")
    graph.metadata_props.add(key="names", value="['x', 'y']")
    onnx.save(graph, tmp_path / "wrong.onnx")
    with pytest.raises(ValueError, match="names of 2 classes, but outputs scores for 3"):
        DetectMultiBackend(tmp_path / "wrong.onnx")


def test_smallest_size_of_the_metadata_is_kept(tmp_path):
    runtime = Runtime(tmp_path, torch.device("cpu"), {"min_size": "[64, 96]"})
    runtime.check_size((64, 96))
    with pytest.raises(ValueError, match="at least 64x96"):
        runtime.check_size((96, 64))


@pytest.mark.parametrize(
    ("shape", "imgsz"), [((1, None, None), None), ((1, 64, None), (64, 64)), ((1, None, 96), (96, 96))]
)
def test_an_axis_that_is_fixed_alone_decides_on_the_other(shape, imgsz, tmp_path):
    assert Runtime(tmp_path / "x.onnx", torch.device("cpu"), {}, shape).imgsz == imgsz


# Damaged and foreign files --------------------------------------------------------------------------------------------
SUFFIXES = (".onnx", ".torchscript", ".pt2", ".xml", ".tflite", "_openvino_model", "_ncnn_model")
PACKAGES = {
    ".onnx": "onnxruntime",
    ".xml": "openvino",
    "_openvino_model": "openvino",
    ".tflite": "ai_edge_litert",
    "_ncnn_model": "ncnn",
}
CONTENTS = {
    "empty": b"",
    "two bytes": b"\x08\x08",
    "text": b"hello\n",
    "page": b"<!DOCTYPE html><html></html>",
    "zip": b"PK\5\6" + bytes(18),
    "zeros": bytes(5000),
    "random": np.random.default_rng(0).bytes(5000),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_named_with_a_reason(suffix, tmp_path):
    pytest.importorskip(PACKAGES.get(suffix, "torch"))
    for name, content in CONTENTS.items():
        file = tmp_path / name / f"best{suffix}"
        file.parent.mkdir()
        if suffix.endswith("_model"):
            file.mkdir()
            for inner in ("best.xml", "best.bin") if "openvino" in suffix else ("best.param", "best.bin"):
                (file / inner).write_bytes(content)
        else:
            file.write_bytes(content)
        for dnn in (False, True)[: 1 + (suffix == ".onnx")]:
            with pytest.raises(ValueError, match=rf"best{suffix.replace('.', '[.]')}.*: .*\w") as caught:
                DetectMultiBackend(file, dnn=dnn)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 600 + len(str(file))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pipes_are_not_waited_for(suffix, tmp_path):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match=f"a{suffix}: neither a file nor a folder"):
        DetectMultiBackend(tmp_path / f"a{suffix}")


def test_truncated_files_are_named_with_a_reason(exported, tmp_path):
    _, file = exported
    if file.is_dir():
        shutil.copytree(file, tmp_path / file.name)
        cut = [path for path in (tmp_path / file.name).iterdir() if path.suffix in (".xml", ".param", ".bin")]
    else:
        shutil.copy(file, tmp_path)
        cut = [tmp_path / file.name]
    for path in sorted(cut, key=lambda path: path.suffix == ".bin"):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises((ValueError, FileNotFoundError), match=file.name):
            DetectMultiBackend(tmp_path / file.name)(torch.zeros(1, 3, 64, 96))
        path.write_bytes(whole)
    DetectMultiBackend(tmp_path / file.name)(torch.zeros(1, 3, 64, 96))


def onnx_file(file, nodes, source=(1, 3, 8, 8), target=(1, 4, 7), weights=()):
    """An ONNX file of some nodes from x to y."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **attributes) for kind, inputs, outputs, attributes in nodes],
        "g",
        [helper.make_tensor_value_info("x", number, source)] if source is not None else [],
        [helper.make_tensor_value_info("y", number, target)],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    file.write_bytes(model.SerializeToString())
    return file


NETWORKS = {  # nodes, input, what is said
    "operator that nobody has": ([("NoSuchOperator", ["x"], ["y"], {})], (1, 3, 8, 8), "cannot read it"),
    "fails while it runs": ([("Reshape", ["x", "w"], ["y"], {})], (1, 3, 8, 8), "cannot run it"),
    "no detector": ([("Identity", ["x"], ["y"], {})], (1, 3, 8, 8), "not a YOLOv5 detector"),
    "no images": ([("Identity", ["x"], ["y"], {})], (1, 8), "its input has 2 axes"),
    "no input": ([("ConstantOfShape", ["w"], ["y"], {})], None, "not a detector: it has 0 inputs"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_no_detectors(name, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    nodes, source, message = NETWORKS[name]
    weights = [onnx.helper.make_tensor("w", onnx.TensorProto.INT64, [3], [1, 4, 7])]
    target = source if name == "no detector" else None
    file = onnx_file(tmp_path / "a.onnx", nodes, source, target, weights)
    with pytest.raises(ValueError, match=rf"a\.onnx: .*{message}"):
        DetectMultiBackend(file)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"a\.onnx: "):
        DetectMultiBackend(file, dnn=True)(torch.zeros(1, 3, 8, 8))


def test_errors_of_the_library_while_it_runs_are_named(tmp_path):
    class Failing(Runtime):
        library, errors, hint = "Library", (ZeroDivisionError,), ": do that"

        def run(self, images):
            raise self.error

    runtime = Failing(tmp_path / "a.x", torch.device("cpu"), {})
    runtime.error = ZeroDivisionError("\n first\x1b[2J line \nsecond")
    with pytest.raises(ValueError, match=r"a\.x: Library cannot run it: first\?\[2J line: do that$"):
        runtime(torch.zeros(1, 3, 8, 8))
    runtime.error = KeyError("ours")  # a mistake of ours keeps its traceback
    with pytest.raises(KeyError):
        runtime(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("output", [torch.zeros(2, 3, 4, 7), torch.zeros(1, 3, 7), torch.zeros(2, 3, 8), [1]])
def test_outputs_that_are_no_boxes(output, tmp_path):
    class Wrong(Runtime):
        def run(self, images):
            return output

    runtime = Wrong(tmp_path / "a.x", torch.device("cpu"), {"names": {0: "a", 1: "b"}})
    with pytest.raises(ValueError, match=r"not a YOLOv5 detector.*expected \(2, boxes, 7\)"):
        runtime(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("place", ["below", "above", "absolute", "link"])
def test_weights_in_other_files(place, tmp_path):
    """Below the folder of the model ONNX Runtime reads them; whatever leads out of it, nobody."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (folder / "weights.bin", tmp_path / "secret.bin"):
        file.write_bytes(np.full(28, 2, np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    paths = {"below": "weights.bin", "above": "../secret.bin", "absolute": str(tmp_path / "secret.bin")}
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 4, 7], np.zeros(28, np.float32).tobytes(), True)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=paths.get(place, "link.bin"))
    mean = ("ReduceMean", ["x"], ["m"], {"axes": [1, 2, 3], "keepdims": 0})
    nodes = [mean, ("Mul", ["w", "m"], ["y"], {})]
    file = onnx_file(folder / "a.onnx", nodes, weights=[weight])
    with pytest.raises(ValueError, match="has weights in other files"):
        DetectMultiBackend(file, dnn=True)
    if place == "below":
        assert (DetectMultiBackend(file)(torch.ones(1, 3, 8, 8)) == 2).all()
    else:
        with pytest.raises(ValueError, match=r"a\.onnx: ONNX Runtime cannot read it: .*xternal"):
            DetectMultiBackend(file)


@pytest.mark.parametrize("length", [b"\x08", b"\x88\x00", b"\x88\x80\x80\x00"])
def test_paths_of_weights_are_found_however_they_are_written(length):
    """protobuf takes padded lengths too."""
    onnx = pytest.importorskip("onnx")
    entry = b"\x0a" + length + b"location" + b"\x12\x01a"
    assert onnx.StringStringEntryProto.FromString(entry).key == "location"
    assert EXTERNAL.search(entry)
    assert not EXTERNAL.search(b"\x0a\x0amy_location")
