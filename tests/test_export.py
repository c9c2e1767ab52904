"""The script export.py: options, table of results, failures, the check for TensorRT."""

import ast
import inspect
import logging
from pathlib import Path

import pytest
import torch

import export
from models.yolo import DetectionModel
from tests.model_tables import few_layers
from utils.console import cli_errors
from utils.options.export import ExportOptions
from utils.options.formats import parse_include

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
NAMES = {0: "circle", 1: "square", 2: "o'clock"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write_checkpoint):
    torch.manual_seed(2)
    model = DetectionModel(few_layers(3), verbose=False)
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt", model, NAMES)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def test_default_and_run_agree():
    opt = vars(export.parse_opt([]))
    defaults = {name: parameter.default for name, parameter in inspect.signature(export.run).parameters.items()}
    assert opt == {key: value for key, value in defaults.items() if key in opt}
    refused = {"inplace", "keras", "topk_per_class", "per_tensor", "mlmodel"}
    assert opt.keys() == defaults.keys() - refused


def test_onnx_from_the_command_line(weights, tiny_dataset, lines):
    argv = ["--weights", str(weights), "--img", "70", "--data", str(tiny_dataset), "--check-tensorrt", "--opset", "17"]
    export.main(export.parse_opt(argv))
    file = weights.with_suffix(".onnx")
    found = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert ast.literal_eval(found["names"]) == NAMES
    assert ast.literal_eval(found["imgsz"]) == [96, 96]
    assert (found["stride"], found["task"], found["licence"], found["nms"]) == ("32", "detect", "Apache-2.0", "False")
    text = lines()
    assert "--opset 17 is raised to 18" in text
    assert "largest difference on real images" in text
    assert "allows all" in text
    assert f"python detect.py --weights {file}" in text
    assert f"python val.py --weights {file}" in text


def test_a_failed_format_does_not_stop_the_others(weights, tmp_path, monkeypatch, lines):
    def fails(*_):
        raise ValueError("needs more coffee")

    def writes(model, images, file, options, metadata):
        assert images.shape == (2, 3, 64, 96)
        assert model.detect.export
        assert not model.training
        assert metadata["stride"] == 32
        file.write_bytes(b"x" * 1_500_000)
        return file

    monkeypatch.setitem(export.EXPORTERS, "onnx", fails)
    monkeypatch.setitem(export.EXPORTERS, "engine", writes)
    file = weights.with_suffix(".engine")
    with pytest.raises(ValueError, match="1 of 2 exports failed: onnx: needs more coffee"):
        export.run(weights=weights, include=["engine", "onnx"], imgsz=(64, 96), batch_size=2)
    assert file.is_file()
    assert "ONNX                  -       -  failed, see above" in lines()
    assert "TensorRT            1.5" in lines()
    file.unlink()


def test_script_exits_with_status_1(weights):
    with pytest.raises(SystemExit) as exit_, cli_errors():
        export.main(export.parse_opt(["--weights", str(weights), "--include", "saved_model"]))
    assert exit_.value.code == 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"include": ["tfjs"]}, "--include tfjs: TensorFlow.js is not supported: export onnx"),
        ({"include": []}, "--include is empty"),
        ({"half": True, "int8": True}, "--half and --int8 are mutually exclusive"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"imgsz": (1, 2, 3)}, "--imgsz is 1 2 3"),
        ({"opset": 21}, "--opset is 21, but must be from 18 to 20"),
        ({"workspace": 0}, "--workspace is 0 GiB"),
        ({"raw_heads": True, "nms": True}, "--raw-heads and --nms are mutually exclusive"),
        (
            {"include": ["engine"], "raw_heads": True},
            "--raw-heads does not apply to engine: it applies to torchscript",
        ),
        ({"runtime": ["tensorrt==8.5"]}, "no file is written for versions older than tensorrt==8.6"),
        ({"include": ["ncnn"], "runtime": ["tensorrt==8.6"]}, "--runtime does not apply to ncnn"),
        ({"agnostic_nms": True}, "--agnostic-nms has no effect without --nms"),
        ({"include": ["ncnn"], "nms": True}, "--nms does not apply to ncnn: it applies to onnx, engine"),
        ({"include": ["ncnn"], "check_tensorrt": True}, "--check-tensorrt checks an ONNX file"),
        ({"int8": True}, "--int8 needs images to calibrate with: give --data"),
        ({"weights": None}, "no weights given"),
    ],
    ids=str,
)
def test_refused_settings(weights, settings, match):
    with pytest.raises(ValueError, match=match):
        export.run(**{"weights": weights, "imgsz": 64, **settings})


def test_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pt"):
        export.run(weights=tmp_path / "none.pt")


def test_check_of_a_file(tmp_path, lines):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    for operator in ("Relu", "Unique"):
        node = onnx.helper.make_node(operator, ["x"], ["y"], name="the_node")
        graph = onnx.helper.make_graph([node], "g", [value], [onnx.ValueInfoProto(name="y")])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / operator)
    export.main(export.parse_opt(["--check-tensorrt", str(tmp_path / "Relu")]))
    assert "allows all 1 nodes" in lines()
    with pytest.raises(ValueError, match="does not support Unique 'the_node'"):
        export.main(export.parse_opt(["--check-tensorrt", str(tmp_path / "Unique")]))
    with pytest.raises(ValueError, match="remove --weights or the file name"):
        export.main(export.parse_opt(["--weights", "a.pt", "--check-tensorrt", "a.onnx"]))


def test_options_that_no_format_has_are_refused():
    with pytest.raises(ValueError, match="--optimize does not apply to onnx"):
        export.check_options(ExportOptions(optimize=True), parse_include(["torchscript", "onnx"]))


def test_size_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x", "y"):
        (tmp_path / name).write_bytes(b"x" * 250_000)
    assert export.size_mb(tmp_path) == 0.5
    assert export.size_mb(Path(tmp_path / "y")) == 0.25


def test_metadata_by_hand():
    model = DetectionModel("yolov5n.yaml", nc=2, verbose=False)
    model.names = {0: "a", 1: "b"}
    found = export.make_metadata(model, ExportOptions(imgsz=[64, 96], batch_size=3, dynamic=True), 32)
    expected = {"stride": 32, "names": {0: "a", 1: "b"}, "imgsz": [64, 96], "batch": 3, "channels": 3}
    assert expected.items() <= found.items()
    assert (found["dynamic"], found["half"], found["int8"], found["nms"]) == (True, False, False, False)
    assert found["description"] == "YOLOv5-SwinV2 yolov5n detector"
