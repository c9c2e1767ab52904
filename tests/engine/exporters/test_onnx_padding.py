"""Zero padding before a MaxPool in exported graphs: ONNX Runtime up to 1.30 merges the two into something else."""

import numpy as np
import pytest

from engine.exporters.onnx_portable import part_padding

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture
def graph():
    """One Pad with zeros that a MaxPool reads, and one that is an output."""
    make, array = onnx.helper, onnx.numpy_helper.from_array
    nodes = [
        make.make_node("Pad", ["x", "pads", "zero"], ["padded"]),
        make.make_node("MaxPool", ["padded"], ["pooled"], kernel_shape=[2, 2], strides=[1, 1]),
        make.make_node("Pad", ["x", "pads", "zero"], ["kept"]),
    ]
    pads = array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads")
    constants = [pads, array(np.zeros((), np.float32), "zero")]
    sides = {"x": 4, "pooled": 4, "kept": 5}
    infos = {n: make.make_tensor_value_info(n, 1, [1, 1, side, side]) for n, side in sides.items()}
    body = make.make_graph(nodes, "pads", [infos["x"]], [infos["pooled"], infos["kept"]], constants)
    return make.make_model(body, opset_imports=[make.make_opsetid("", 18)], ir_version=9)


def test_padding_is_parted_and_the_result_is_that_of_zeros(graph):
    part_padding(graph)
    onnx.checker.check_model(graph, full_check=True)
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.graph.initializer}
    first, second = (values[node.input[2]] for node in graph.graph.node if node.op_type == "Pad")
    assert 0 < first < 1e-30
    assert second == 0
    x = -np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    pooled, _ = ort.InferenceSession(graph.SerializeToString()).run(None, {"x": x})
    expected = x.copy()
    expected[..., 3, :] = expected[..., :, 3] = 0  # windows that reach into the padding; minus infinity gives -4, ...
    np.testing.assert_allclose(pooled, expected, atol=1e-30)


def test_other_padding_stays(graph):
    part_padding(graph)
    before = graph.SerializeToString()
    part_padding(graph)
    assert graph.SerializeToString() == before
