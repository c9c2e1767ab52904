"""Graphs for old readers: masks without booleans, sums as products, operator set 17, and the versions of runtimes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from engine.exporters.onnx_portable import fold_masks, fold_weights, order_gelu, sum_by_products
from engine.exporters.onnx_runtimes import RUNTIMES, choose_opset, lower_opset
from utils.options.export import OPSETS, ExportOptions

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
reference = pytest.importorskip("onnx.reference")
FLOAT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


def model(nodes, constants, shape, result, opset=18):
    x, y = (helper.make_tensor_value_info(name, FLOAT, dims) for name, dims in (("x", shape), ("y", result or shape)))
    values = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", [x], [y], values)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(graph, x):
    onnx.checker.check_model(graph, full_check=True)
    return reference.ReferenceEvaluator(graph).run(None, {"x": x})[0]


def operators(graph):
    return Counter(item.op_type for item in graph.graph.node)


def test_masks_become_floats_and_equal_ones_are_kept_once():
    """Two blocks compare their regions: a mask (K, 1, N, N) for both, but not its sum with the bias of each head."""
    regions = np.array([[0, 0, 1], [0, 2, 2]])
    nodes, chance = [], np.random.default_rng(0)
    for i, inputs in enumerate(("x", "s0")):
        nodes += [
            node("Equal", "rows columns", f"e{i}"),
            node("Not", f"e{i}", f"n{i}"),
            node("Unsqueeze", f"n{i} one", f"u{i}"),
            node("Where", f"u{i} low zero", f"m{i}"),
            node("Add", f"m{i} bias", f"b{i}"),
            node("Add", f"{inputs} b{i}", f"s{i}" if i == 0 else "y"),
        ]
    constants = {
        **{"rows": regions[:, :, None], "columns": regions[:, None], "one": np.array([1]), "zero": np.float32(0)},
        **{"low": np.float32(-30000), "bias": chance.random((4, 3, 3), dtype=np.float32)},
    }
    shape = [2, 4, 3, 3]
    graph, x = model(nodes, constants, shape, shape), chance.random(shape, dtype=np.float32)
    expected = run(graph, x)
    fold_masks(graph)
    np.testing.assert_array_equal(run(graph, x), expected)
    assert operators(graph) == {"Add": 4}
    assert not any(item.data_type == BOOL for item in graph.graph.initializer)
    assert [len(item.dims) for item in graph.graph.initializer if item.name != "bias"] == [4]


def test_weights_are_stored_in_the_shape_that_is_used():
    nodes = [node("Unsqueeze", "w axes", "u"), node("Unsqueeze", "x axes", "xs"), node("Add", "xs u", "y")]
    constants = {"w": np.float32([[1, 2], [3, 4]]), "axes": np.array([2, 3])}
    graph, x = model(nodes, constants, [2, 2], [2, 2, 1, 1]), np.ones((2, 2), np.float32)
    expected = run(graph, x)
    fold_weights(graph)
    np.testing.assert_array_equal(run(graph, x), expected)
    assert operators(graph) == {"Unsqueeze": 1, "Add": 1}
    assert sorted(item.name for item in graph.graph.initializer) == ["axes", "u"]


def test_what_depends_on_the_image_is_not_folded():
    graph = model([node("Greater", "x low", "g"), node("Where", "g x low", "y")], {"low": np.float32(0)}, [2], [2])
    before = graph.SerializeToString()
    fold_masks(graph)
    assert graph.SerializeToString() == before


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_sum_over_the_last_axis_becomes_a_product(axis, dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        node("Cast", "x", "c", to=kind),
        node("ReduceSum", "c axes", "s", keepdims=1),
        node("Cast", "s", "y", to=1),
    ]
    graph = model(nodes, {"axes": np.array([axis])}, [3, 5, 4], [3, 5, 1])
    x = np.arange(60, dtype=np.float32).reshape(3, 5, 4)
    sum_by_products(graph)
    np.testing.assert_array_equal(run(graph, x), x.sum(2, keepdims=True))
    assert operators(graph) == {"Cast": 2, "MatMul": 1}
    assert [item.name for item in graph.graph.initializer] == [f"ones_4_{np.dtype(dtype)}"]


@pytest.mark.parametrize(("axis", "keep"), [(1, 1), (2, 0)])
def test_other_sums_stay(axis, keep):
    nodes = [node("Neg", "x", "n"), node("ReduceSum", "n axes", "y", keepdims=keep)]
    graph = model(nodes, {"axes": np.array([axis])}, [3, 5, 4], [3, 1, 4] if keep else [3, 5])
    sum_by_products(graph)
    assert operators(graph) == {"Neg": 1, "ReduceSum": 1}


@pytest.mark.parametrize("swapped", [False, True])
def test_gelu_is_halved_last(swapped):
    nodes = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "p")]
    nodes += [node("Mul", "p half" if swapped else "half p", "h"), node("Mul", "h x" if swapped else "x h", "y")]
    graph = model(nodes, {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}, [9], [9])
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    expected = run(graph, x)
    order_gelu(graph)
    assert [list(item.input) for item in graph.graph.node[3:]] == [["x", "p"], ["h", "half"]]
    np.testing.assert_array_equal(run(graph, x), expected)
    order_gelu(graph)  # that form stays
    np.testing.assert_array_equal(run(graph, x), expected)


def test_operator_set_17_computes_the_same():
    nodes = [
        node("Split", "x", "a b", num_outputs=2, axis=1),
        node("Resize", "a  scales", "r", mode="nearest", coordinate_transformation_mode="asymmetric", antialias=0),
        node("ReduceMax", "r axes", "m", keepdims=1),
        node("Pad", "b pads", "p"),
        node("Add", "m p", "y"),
    ]
    nodes[1].input[:] = ["a", "", "scales"]
    constants = {"scales": np.float32([1, 1, 2, 2]), "axes": np.array([1]), "pads": np.array([0, 0, 1, 1, 0, 0, 3, 3])}
    graph, x = (
        model(nodes, constants, [1, 4, 4, 4], [1, 2, 8, 8]),
        np.random.default_rng(0).random((1, 4, 4, 4), np.float32),
    )
    expected = run(graph, x)
    lower_opset(graph, 18)
    assert operators(graph)["ReduceMax"] == 1
    assert len(graph.graph.node[2].input) == 2
    lower_opset(graph, 17)
    assert graph.opset_import[0].version == 17
    np.testing.assert_array_equal(run(graph, x), expected)
    assert [item.name for item in graph.graph.initializer] == ["scales", "pads"]


def test_operators_that_set_17_has_not_are_refused():
    graph = model([node("Mish", "x", "y")], {}, [2], [2])
    with pytest.raises(ValueError, match="operator set 17 has no such Mish"):
        lower_opset(graph, 17)
    smooth = node("Resize", "x  scales", "y", mode="linear", antialias=1)
    smooth.input[:] = ["x", "", "scales"]
    with pytest.raises(ValueError, match="operator set 17 has no such Resize"):
        lower_opset(model([smooth], {"scales": np.float32([1, 1, 0.5, 0.5])}, [1, 1, 4, 4], None), 17)


@pytest.mark.parametrize(
    ("runtime", "opset"),
    [
        ("onnxruntime==1.15", 18),
        ("onnxruntime==1.16", 19),
        ("ONNXRuntime==1.16.3", 19),
        ("onnxruntime==1.17", 20),
        ("onnxruntime==2", 20),
        ("opencv==4.8.1.78", 20),
        ("tensorrt==8.6", 17),
        ("tensorrt==8.6.1", 17),
        ("tensorrt==10", 20),
        ("openvino==2023.3", 18),
        ("openvino==2024.1", 18),
        ("openvino==2026.4.1", 20),
    ],
)
def test_operator_set_of_a_version(runtime, opset):
    assert choose_opset(ExportOptions(runtime=[runtime])) == opset


@pytest.mark.parametrize(
    ("runtime", "match"),
    [
        ("tensorrt==8.5", r"tensorrt==8\.5: no file is written for versions older than tensorrt==8\.6"),
        ("onnxruntime", "give name==version, such as tensorrt==8.6, of onnxruntime, opencv, tensorrt, openvino"),
        ("onnxruntime>=1.16", "give name==version"),
        ("tvm==1.0", "give name==version"),
        ("onnxruntime==x", "give name==version"),
        ("", "give name==version"),
    ],
)
def test_versions_that_are_refused(runtime, match):
    with pytest.raises(ValueError, match=match):
        choose_opset(ExportOptions(runtime=["opencv==5.0", runtime]))


def test_the_oldest_runtime_decides():
    options = ExportOptions(runtime=["onnxruntime==1.16", "tensorrt==8.6", "opencv==4.8"])
    assert choose_opset(options) == 17
    assert choose_opset(replace(options, runtime=["onnxruntime==1.20"], opset=18)) == 18
    assert all(opset <= OPSETS[1] for known in RUNTIMES.values() for opset in known.values())


@pytest.mark.parametrize(
    ("runtime", "able", "change", "match"),
    [
        ("opencv==4.14", "opencv==5.0", {"dynamic": True}, r"runs fixed sizes only: .*opencv==5\.0"),
        ("openvino==2024.0", "openvino==2024.2", {"dynamic": True}, r"runs fixed sizes only: .*openvino==2024\.2"),
        ("opencv==5.0", "onnxruntime==1.17", {"nms": True}, r"opencv==5\.0 cannot run files made with --nms"),
    ],
)
def test_what_a_runtime_cannot_run(runtime, able, change, match):
    with pytest.raises(ValueError, match=match):
        choose_opset(ExportOptions(runtime=[runtime], **change))
    assert choose_opset(ExportOptions(runtime=[able], **change)) == OPSETS[1]
