"""The format table."""

from pathlib import Path

import pytest

from utils.options.export import ExportOptions
from utils.options.formats import EXPORTS, REFUSED, format_of, output_path, parse_include, require


def test_options_of_the_table_are_fields_of_export_options():
    known = set(ExportOptions.__dataclass_fields__)
    assert all(set(row.options) <= known for row in EXPORTS.values())
    assert not REFUSED.keys() & EXPORTS.keys()


def test_output_path():
    assert output_path("runs/best.pt", "onnx") == Path("runs/best.onnx")
    assert output_path("runs/best.pt", "openvino", int8=True) == Path("runs/best_int8_openvino_model")
    assert output_path("a.b.pt", "engine") == Path("a.b.engine")


def test_parse_include_keeps_the_order_of_the_table():
    assert [row.argument for row in parse_include(["engine", "onnx", "onnx"])] == ["onnx", "engine"]
    assert [row.argument for row in parse_include(["litert", "coreml"])] == ["coreml", "tflite"]


@pytest.mark.parametrize("word", ["saved_model", "pb", "edgetpu", "tfjs", "paddle", "rknn"])
def test_dropped_formats_name_the_way(word):
    with pytest.raises(ValueError, match=f"--include {word}: .*onnx"):
        parse_include(["onnx", word])


def test_unknown_format():
    with pytest.raises(ValueError, match="--include onx: no such format. Allowed: torchscript, onnx"):
        parse_include(["onx"])


def test_format_of():
    assert format_of("x/best.onnx").argument == "onnx"
    assert format_of("x/best_int8_openvino_model").argument == "openvino"
    assert format_of("best.mlpackage").argument == "coreml"
    with pytest.raises(ValueError, match="best.xyz: unknown kind of model file"):
        format_of("best.xyz")


def test_require_names_the_pip_line():
    require(("torch",), "nothing")
    with pytest.raises(ValueError, match="the test needs no-such-package: .*pip install no-such-package"):
        require(("torch", "no-such-package"), "the test")
