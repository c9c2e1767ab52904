"""The table of a training step by kinds of operators."""

import json

import pytest

from benchmarks import step_profile
from benchmarks.step_profile import kind_of, rows_of

MAP = [2, 8, 4, 4]


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mkldnn_convolution", [MAP, [8, 8, 3, 3]], "convolution"),
        ("aten::mkldnn_convolution", [MAP, [8, 1, 3, 3], [8]], "depth-wise convolution"),
        ("aten::mkldnn_convolution", [[2, 1, 4, 4], [8, 1, 3, 3], [8]], "convolution"),
        ("aten::convolution_backward", [MAP, MAP, [8, 1, 3, 3]], "depth-wise convolution"),
        ("aten::convolution_backward", [MAP, MAP, [16, 8, 1, 1]], "convolution"),
        ("aten::addmm", [[4], [2, 3], [3, 4]], "matrix product"),
        ("aten::native_batch_norm_backward", [], "batch norm"),
        ("aten::native_layer_norm", [], "layer norm"),
        ("aten::gelu_backward", [], "activation"),
        ("aten::_softmax", [], "softmax"),
        ("aten::cat", [], "copy, concatenate"),
        ("aten::empty", [], "allocation"),
        ("aten::lerp_", [], "other"),
    ],
)
def test_operators_are_told_apart(name, shapes, kind):
    assert kind_of(name, shapes) == kind


def test_rows_add_up():
    figures = {("softmax", "forward"): [1.0, 10.0], ("convolution", "forward"): [2.0, 20.0]}
    figures[("convolution", "backward")] = [4.0, 40.0]
    rows = {row["kind"]: row for row in rows_of([figures, {}], ["a.yaml", "b.yaml"])}
    assert list(rows) == ["convolution", "softmax", "floor", "sum"]
    assert [rows["floor"][f"a {phase} ms"] for phase in step_profile.PHASES] == [2.0, 4.0, 0.0]
    assert rows["sum"]["a forward ms"] == 3.0
    assert rows["sum"]["a read MiB"] == 70.0
    assert rows["sum"]["b forward ms"] == 0.0


@pytest.mark.slow
def test_a_step_of_a_swin_model_is_profiled(monkeypatch, tmp_path):
    monkeypatch.setattr(step_profile, "WARMUP", 1)
    file = tmp_path / "table.json"
    options = ["--cfg", "yolov5n-swinv2.yaml", "--img", "64", "--batch-size", "2", "--repeats", "1", "--device", "cpu"]
    step_profile.main([*options, "--json", str(file)])
    rows = {row["kind"]: row for row in json.loads(file.read_text())["rows"]}
    for kind in ("convolution", "depth-wise convolution", "matrix product", "softmax", "layer norm"):
        assert rows[kind]["yolov5n-swinv2 forward ms"] > 0
        assert rows[kind]["yolov5n-swinv2 backward ms"] > 0
        assert rows[kind]["yolov5n-swinv2 read MiB"] > 0
    assert rows["matrix product"]["yolov5n-swinv2 optimizer ms"] > 0
