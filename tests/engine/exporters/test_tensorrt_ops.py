"""The operator check on graphs with one planted fault each."""

import re

import numpy as np
import pytest

from engine.exporters.tensorrt_ops import TYPES, check_tensorrt, find_problems, operators

onnx = pytest.importorskip("onnx")
helper, TensorProto = onnx.helper, onnx.TensorProto


def graph(*nodes, inputs=None, constants=None, opset=20):
    """A model of the nodes; inputs {name: (type, shape)}, by default x FLOAT (1, 2, 8, 8)."""
    inputs = inputs or {"x": (TensorProto.FLOAT, [1, 2, 8, 8])}
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])


def node(operator, inputs="x", outputs="y", **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), name="n", **attributes)


INT8, FLOAT1 = np.int8, np.ones(1, np.float32)
FAULTS = {
    "dropped operator": (graph(node("Unique", outputs="y")), "Unique 'n': not supported"),
    "custom domain": (graph(node("Relu", domain="my.domain")), "domain my.domain"),
    "float64": (
        graph(node("Relu"), inputs={"x": (TensorProto.DOUBLE, [1])}),
        r"Relu 'n': input 0 \('x'\) is DOUBLE; allowed: BFLOAT16, FLOAT",
    ),
    "float64 beside the data": (
        graph(node("Pow", "x p"), constants={"p": np.float64(2.0)}),
        r"input 1 \('p'\) is DOUBLE",
    ),
    "equal on booleans": (
        graph(node("Equal", "x x"), inputs={"x": (TensorProto.BOOL, [1])}),
        "Equal 'n': input 0 .* is BOOL",
    ),
    "topk too large": (graph(node("TopK", "x k", "y i"), constants={"k": np.array([3840])}), "K is 3840"),
    "topk computed": (
        graph(node("TopK", "x k", "y i"), inputs={"x": (1, [9]), "k": (TensorProto.INT64, [1])}),
        "K must be a constant",
    ),
    "topk unsorted": (graph(node("TopK", "x k", "y i", sorted=0), constants={"k": np.array([3])}), "sorted must be 1"),
    "resize antialias": (
        graph(node("Resize", "x r s", mode="linear", antialias=1), constants={"r": FLOAT1[:0], "s": FLOAT1.repeat(4)}),
        "antialias is 1, allowed: 0",
    ),
    "resize cubic": (
        graph(node("Resize", "x r s", mode="cubic"), constants={"r": FLOAT1[:0], "s": FLOAT1.repeat(4)}),
        "mode is cubic, allowed: nearest, linear",
    ),
    "pool with indices": (graph(node("MaxPool", outputs="y i", kernel_shape=[2, 2])), "Indices"),
    "pool with dilation": (graph(node("MaxPool", kernel_shape=[2, 2], dilations=[2, 1])), "dilations must be 1"),
    "norm of a third power": (graph(node("LpPool", kernel_shape=[2, 2], p=3)), "p is 3, allowed: 1, 2"),
    "statistics of a training": (
        graph(node("BatchNormalization", "x s s s s", "y m v", training_mode=1), constants={"s": FLOAT1.repeat(2)}),
        "training_mode must be 0",
    ),
    "zero point": (
        graph(node("QuantizeLinear", "x s z"), constants={"s": FLOAT1, "z": np.array([3], INT8)}),
        "QuantizeLinear 'n': the zero point must be a constant 0",
    ),
    "quantised bias": (
        graph(node("DequantizeLinear", "b s"), constants={"b": np.array([7], np.int32), "s": FLOAT1}),
        "DequantizeLinear 'n': input 0 .* INT32, a quantised bias",
    ),
    "computed axes": (
        graph(node("ReduceSum", "x a"), inputs={"x": (1, [2, 2]), "a": (TensorProto.INT64, [1])}),
        "ReduceSum 'n': axes must be a constant",
    ),
    "scatter with reduction": (
        graph(node("ScatterND", "x i u", reduction="add"), constants={"i": np.zeros((1, 4), int), "u": FLOAT1}),
        "reduction is add",
    ),
    "two outputs of a norm": (
        graph(node("LayerNormalization", "x s", "y m"), constants={"s": FLOAT1.repeat(8)}),
        "only",
    ),
    "operator set": (graph(node("Relu"), opset=8), "operator set 8: TensorRT reads 9 to 24"),
    "restriction without a check": (graph(node("GridSample", "x x")), "not checked here: 4-D input only"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named(fault):
    model, match = FAULTS[fault]
    (problem,) = find_problems(model)
    assert re.search(match, problem), problem


GOOD = {
    "topk": graph(node("TopK", "x k", "y i"), constants={"k": np.array([3839])}),
    "topk of a Constant node": graph(
        helper.make_node("Constant", [], ["k"], value_ints=[5]), node("TopK", "x k", "y i")
    ),
    "symmetric int8": graph(
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z"),
        constants={"s": FLOAT1, "z": np.array([0], INT8)},
    ),
    "where": graph(node("Where", "c x x"), inputs={"c": (TensorProto.BOOL, [1]), "x": (1, [1])}),
    "norm pool": graph(node("LpPool", kernel_shape=[2, 2])),
    "statistics of inference": graph(
        node("BatchNormalization", "x s s s s"), constants={"s": FLOAT1.repeat(2)}, opset=18
    ),
    "reduce over all": graph(node("ReduceMax")),
    "pool": graph(node("MaxPool", kernel_shape=[5, 5], pads=[2] * 4, dilations=[1, 1])),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_allowed_passes(name):
    assert find_problems(GOOD[name]) == []


def test_faults_inside_a_branch_are_found():
    inner = helper.make_graph([node("Unique", "x")], "inner", [], [onnx.ValueInfoProto(name="y")])
    model = graph(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner, name="if"))
    assert sum("Unique" in problem for problem in find_problems(model)) == 2


def test_table():
    table = operators()
    assert len(table) > 150
    assert {"Conv", "NonMaxSuppression", "GatherND"} <= table.keys()
    assert "DynamicQuantizeLinear" not in table
    assert all(row.types <= set(TYPES.values()) for row in table.values())


def test_file(tmp_path, caplog):
    caplog.set_level("INFO", logger="yolov5")
    onnx.save(GOOD["pool"], tmp_path / "good.onnx")
    check_tensorrt(tmp_path / "good.onnx")
    assert "allows all 1 nodes" in caplog.text
    onnx.save(FAULTS["topk too large"][0], tmp_path / "bad.onnx")
    with pytest.raises(ValueError, match=r"bad.onnx: TensorRT does not support TopK 'n': K is 3840"):
        check_tensorrt(tmp_path / "bad.onnx")
    with pytest.raises(FileNotFoundError, match="none.onnx: no such ONNX file"):
        check_tensorrt(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ValueError, match="junk.onnx: not an ONNX file"):
        check_tensorrt(tmp_path / "junk.onnx")
