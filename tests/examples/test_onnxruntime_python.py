import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.waiting import HANG

PROGRAM = Path(__file__).parents[2] / "examples" / "onnxruntime_python" / "detect.py"


def test_finds_what_the_project_finds(onnx_file, picture, expected, assert_same, tmp_path):
    call = [sys.executable, str(PROGRAM), str(onnx_file), str(picture), "--out", str(tmp_path)]
    result = subprocess.run(call, capture_output=True, encoding="utf-8", env={"PYTHONUTF8": "1"}, timeout=HANG)
    assert result.returncode == 0, result.stderr
    rows = []
    for line in result.stdout.splitlines():
        name, conf, *box = line.removeprefix(f"{picture} ").rsplit(" ", 5)
        rows.append([*map(float, box), float(conf), ["cat", "dog's", "élan"].index(name)])
    assert_same(rows, expected)
    assert (tmp_path / "blur.png").is_file()


def test_needs_neither_torch_nor_this_project(onnx_file):
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({str(PROGRAM)!r})\n"
        "own = [m for m in sys.modules if m.split('.')[0] in ('torch', 'torchvision', 'models', 'utils')]\n"
        "sys.exit(own or None)"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, encoding="utf-8", timeout=HANG)
    assert result.returncode == 0, result.stderr


def test_reads_a_file_with_suppression_inside(picture, tmp_path):
    """A graph that gives detections (1, K, 6), padded, and their number, as `export.py --nms` does."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    rows = np.zeros((1, 3, 6), np.float32)
    rows[0, :2] = [[10, 34, 50, 64, 0.9, 1], [20, 44, 60, 74, 0.5, 0]]
    make, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    nodes = [
        make.make_node("Constant", [], ["detections"], value=numpy_helper.from_array(rows)),
        make.make_node("Constant", [], ["num"], value=numpy_helper.from_array(np.array([2], np.int64))),
    ]
    image = make.make_tensor_value_info("images", kind.FLOAT, [1, 3, 160, 160])
    outputs = [
        make.make_tensor_value_info("detections", kind.FLOAT, [1, 3, 6]),
        make.make_tensor_value_info("num", kind.INT64, [1]),
    ]
    graph = make.make_graph(nodes, "constant", [image], outputs)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10)
    make.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}"})
    onnx.save(model, tmp_path / "nms.onnx")
    call = [sys.executable, str(PROGRAM), str(tmp_path / "nms.onnx"), str(picture), "--out", str(tmp_path)]
    result = subprocess.run(call, capture_output=True, encoding="utf-8", timeout=HANG)
    assert result.returncode == 0, result.stderr
    # the picture is 112 high in a frame of 160: 24 rows of padding above
    found = [line.removeprefix(f"{picture} ") for line in result.stdout.splitlines()]
    assert found == ["dog 0.9000 10.0 10.0 50.0 40.0", "cat 0.5000 20.0 20.0 60.0 50.0"]
