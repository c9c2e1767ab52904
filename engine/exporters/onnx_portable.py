"""Keep an ONNX graph to what old readers know, above all OpenCV's, without a change of its results.

OpenCV 4 has no tensors of booleans, up to 4.9 its ReduceSum gives wrong numbers without an error, and from 4.10 on one
of the two forms of GELU ends the process. ONNX Runtime 1.23 to 1.30 merges zero padding into a maximum, which is wrong.
"""

from typing import Any

import numpy as np

COMPARISONS = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"}


def fold_masks(model: Any) -> None:
    """Compute the attention masks of a graph with fixed sizes, in place: float constants take the place of booleans.

    The comparisons of constants are computed, and what is made of them as far as it does not grow: a mask (K, 1, N, N)
    is kept once for all blocks that share it, not its sum with the position bias (K, heads, N, N).
    """
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    folded: set[str] = set()
    kept = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        arrays = [values[name] for name in inputs if name in values]
        made_of_masks = any(name in folded for name in inputs)
        boolean = node.op_type in COMPARISONS or any(array.dtype == bool for array in arrays)
        if not inputs or len(arrays) < len(inputs) or not (boolean or made_of_masks):
            kept.append(node)
            continue
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        part = helper.make_graph([node], "part", [], outputs, [numpy_helper.from_array(values[n], n) for n in inputs])
        results = ReferenceEvaluator(helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
        if not boolean and max(map(np.size, results)) > max(array.size for array in arrays):
            kept.append(node)
            continue
        values |= dict(zip(node.output, results, strict=True))
        folded.update(node.output)
    del graph.node[:]
    graph.node.extend(kept)
    _write_constants(graph, {name: values[name] for name in folded})


def _write_constants(graph: Any, made: dict[str, np.ndarray]) -> None:
    """Add those of the constants that a node or output reads, equal ones once; drop what has become unused."""
    from onnx import numpy_helper

    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    first: dict[tuple, str] = {}
    other = {}
    for name in sorted(read & made.keys()):
        array = made[name]
        key = (array.shape, array.dtype.str, array.tobytes())
        other[name] = first.setdefault(key, name)
        if other[name] == name:
            graph.initializer.append(numpy_helper.from_array(array, name))
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = other.get(name, name)
    drop_unused(graph)


def fold_weights(model: Any) -> None:
    """Store weights in the shape that they are used in, in place: a linear layer may be written as a convolution.

    The tracer leaves the Unsqueeze of a large weight as a node; OpenCV and the 8-bit form need a constant.
    """
    from onnx import numpy_helper

    graph = model.graph
    values = {item.name: item for item in graph.initializer}
    made = {}
    for node in list(graph.node):
        if node.op_type == "Unsqueeze" and all(name in values for name in node.input):
            weight, axes = (numpy_helper.to_array(values[name]) for name in node.input)
            made[node.output[0]] = np.expand_dims(weight, tuple(axes.tolist()))
            graph.node.remove(node)
    _write_constants(graph, made)


def drop_unused(graph: Any) -> None:
    """Remove the initializers that neither a node nor an output reads, in place."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def sum_by_products(model: Any) -> None:
    """Replace each sum over the last axis by a product with a column of ones, in place, for OpenCV 4.8 and 4.9.

    Only float sums that keep the axis, of a known length: those of the lengths of queries and keys.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    types = {item.name: item.type.tensor_type for item in onnx.shape_inference.infer_shapes(model).graph.value_info}
    values = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        kind = types.get(node.input[0]) if node.op_type == "ReduceSum" and len(node.input) == 2 else None
        keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        if kind is None or not keeps or node.input[1] not in values:
            nodes.append(node)
            continue
        axes = numpy_helper.to_array(values[node.input[1]]).tolist()
        rank, dtype = len(kind.shape.dim), np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        length = kind.shape.dim[-1].dim_value if rank > 1 else 0
        if axes not in ([-1], [rank - 1]) or not length or dtype.kind != "f":
            nodes.append(node)
            continue
        ones = f"ones_{length}_{dtype}"
        if ones not in values:
            values[ones] = numpy_helper.from_array(np.ones((length, 1), dtype), ones)
            graph.initializer.append(values[ones])
        nodes.append(helper.make_node("MatMul", [node.input[0], ones], list(node.output), name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)


def order_gelu(model: Any) -> None:
    """Halve the product of GELU last, x * (1 + erf) * 0.5, in place: operator sets below 20 have no Gelu.

    The tracer halves the sum first, x * (0.5 * (1 + erf)), which crashes OpenCV 4.10 to 5.0 when it looks for GELU. A
    half is exact, so that the results are the same.
    """
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        chain = [erf]
        while len(chain) < 4 and len(found := readers.get(chain[-1].output[0], [])) == 1:
            chain += found
        if [node.op_type for node in chain] != ["Erf", "Add", "Mul", "Mul"]:
            continue
        _, total, half, last = chain
        scale = [name for name in half.input if name in constants]
        others = [name for name in last.input if name != half.output[0]]
        if len(scale) == len(others) == 1:
            half.input[:] = [*others, total.output[0]]
            last.input[:] = [half.output[0], *scale]


def part_padding(model: Any) -> None:
    """Pad with next to nothing in place of zero before a MaxPool, in place, as yolov3-tiny does.

    ONNX Runtime (1.23 and 1.30 do, 1.32 does not) merges a padding with zeros into the MaxPool after it, whose own
    padding is minus infinity: another result wherever a window has no positive value.
    """
    from onnx import numpy_helper

    graph = model.graph
    pooled = {node.input[0] for node in graph.node if node.op_type == "MaxPool"}
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "Pad" or node.output[0] not in pooled or len(node.input) < 3:
            continue
        value = values.get(node.input[2])
        if value is not None and value.dtype.kind == "f" and not value.any():
            least = np.finfo(value.dtype).smallest_normal
            graph.initializer.append(numpy_helper.from_array(np.full_like(value, least), f"{node.output[0]}_padding"))
            node.input[2] = f"{node.output[0]}_padding"
    drop_unused(graph)
