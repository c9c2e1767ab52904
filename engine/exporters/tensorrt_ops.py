"""Check an ONNX graph against the operators that TensorRT reads, without TensorRT: operators, types and restrictions.

The table is `data/tensorrt-ops.csv`; its head names the source. A graph that passes is one that TensorRT's published
table allows; whether a builder makes a fast or an exact engine of it only a GPU can say.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from utils.console import LOGGER
from utils.paths import ROOT, command

TABLE = ROOT / "data/tensorrt-ops.csv"
OPSETS = (9, 24)
SHOWN = 10  # problems in the message
DATA_INPUTS = {"Where": (1, 2)}  # inputs that the types of the table are about, where it is not the first alone
TYPES = {  # names of the table -> names of ONNX
    "FP32": "FLOAT",
    "FP16": "FLOAT16",
    "BF16": "BFLOAT16",
    "FP8": "FLOAT8E4M3FN",
    "FP4": "FLOAT4E2M1",
    "INT4": "INT4",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}


@dataclass(frozen=True)
class Operator:
    """One row of the table: names of ONNX types, and the restrictions in words ("" for none)."""

    types: frozenset[str]
    restrictions: str


@cache
def operators() -> dict[str, Operator]:
    """Read the table: operator to row."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            row["operator"]: Operator(frozenset(TYPES[t] for t in row["types"].split()), row["restrictions"])
            for row in rows
        }


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a GraphProto and those inside its nodes (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


class Graph:
    """A graph whose tensor types are inferred and whose constants can be read.

    Args:
        model: any ONNX model; it is not changed.
    """

    def __init__(self, model: Any) -> None:
        from onnx import TensorProto, shape_inference

        self.model = shape_inference.infer_shapes(model)
        self.types: dict[str, str] = {}
        self.constants: dict[str, Any] = {}  # TensorProto or NodeProto
        for graph in _graphs(self.model.graph):
            for value in [*graph.input, *graph.value_info, *graph.output]:
                if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
                    self.types[value.name] = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            for tensor in graph.initializer:
                self.types[tensor.name] = TensorProto.DataType.Name(tensor.data_type)
                self.constants[tensor.name] = tensor
            for node in graph.node:
                if node.op_type == "Constant":
                    self.constants[node.output[0]] = node

    def nodes(self) -> Iterator[Any]:
        """Yield all nodes, inner graphs included."""
        for graph in _graphs(self.model.graph):
            yield from graph.node

    def constant(self, name: str) -> np.ndarray | None:
        """Return the value of an initializer or of a Constant node; None where it is computed."""
        from onnx import helper, numpy_helper

        found = self.constants.get(name)
        if found is None:
            return None
        if hasattr(found, "data_type"):
            return numpy_helper.to_array(found)
        (attribute,) = found.attribute
        value = helper.get_attribute_value(attribute)
        return numpy_helper.to_array(value) if attribute.name == "value" else np.asarray(value)


# Restrictions: each returns what is wrong with a node, or "" ----------------------------------------------------------


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _constant_input(index: int, what: str) -> Callable[[Graph, Any], str]:
    """Return a check that an input is missing or a constant."""

    def check(graph: Graph, node: Any) -> str:
        name = node.input[index] if len(node.input) > index else ""
        return f"{what} must be a constant" if name and graph.constant(name) is None else ""

    return check


def _topk(graph: Graph, node: Any) -> str:
    if not _attributes(node).get("sorted", 1):
        return "sorted must be 1"
    k = graph.constant(node.input[1])
    if k is None:
        return "K must be a constant below 3840"
    return f"K is {k.item()}, but must be below 3840" if k.item() >= 3840 else ""


def _resize(_: Graph, node: Any) -> str:
    allowed = {
        "coordinate_transformation_mode": (
            "half_pixel",
            ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
        ),
        "mode": ("nearest", ("nearest", "linear")),
        "nearest_mode": ("round_prefer_floor", ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
        "keep_aspect_ratio_policy": ("stretch", ("stretch",)),
        "antialias": ("0", ("0",)),
    }
    given = _attributes(node)
    for name, (default, values) in allowed.items():
        value = _text(given.get(name, default))
        if value not in values:
            return f"{name} is {value}, allowed: {', '.join(values)}"
    return ""


def _pool(_: Graph, node: Any) -> str:
    given = _attributes(node)
    if node.op_type == "LpPool" and given.get("p", 2) not in (1, 2):
        return f"p is {given['p']}, allowed: 1, 2"
    if any(d != 1 for d in given.get("dilations", [])):
        return "dilations must be 1"
    if len([name for name in node.output if name]) > 1:
        return "the output Indices is not supported"
    rank = len(given.get("kernel_shape", []))
    return "" if rank in (2, 3) or node.op_type == "LpPool" else f"{rank}-D pooling, allowed: 2-D, 3-D"


def _inference(_: Graph, node: Any) -> str:
    return "training_mode must be 0" if _attributes(node).get("training_mode", 0) else ""


def _zero_point(graph: Graph, node: Any) -> str:
    if len(node.input) < 3 or not node.input[2]:
        return ""
    value = graph.constant(node.input[2])
    return "" if value is not None and not value.astype(np.float32).any() else "the zero point must be a constant 0"


def _one_output(_: Graph, node: Any) -> str:
    return "only the first output is supported" if any(node.output[1:]) else ""


def _no_reduction(_: Graph, node: Any) -> str:
    reduction = _text(_attributes(node).get("reduction", "none"))
    return "" if reduction == "none" else f"reduction is {reduction}, allowed: none"


def _dense_constant(_: Graph, node: Any) -> str:
    bad = {"sparse_value", "value_string", "value_strings"} & {attribute.name for attribute in node.attribute}
    return f"{bad.pop()} is not supported" if bad else ""


def _not_training(graph: Graph, node: Any) -> str:
    if len(node.input) < 3 or not node.input[2]:
        return ""
    flag = graph.constant(node.input[2])
    return "" if flag is not None and not flag.any() else "the training flag must be a constant False"


AXES = _constant_input(1, "axes")
RESTRICTIONS: dict[str, Callable[[Graph, Any], str]] = {
    "AveragePool": _pool,
    "BatchNormalization": _inference,
    "Constant": _dense_constant,
    "CumSum": _constant_input(1, "axis"),
    "DequantizeLinear": _zero_point,
    "Dropout": _not_training,
    "LayerNormalization": _one_output,
    "LpPool": _pool,
    "MaxPool": _pool,
    "OneHot": _constant_input(1, "depth"),
    "QuantizeLinear": _zero_point,
    "Resize": _resize,
    "ScatterND": _no_reduction,
    "Squeeze": AXES,
    "TopK": _topk,
    "Unsqueeze": AXES,
    **{f"Reduce{kind}": AXES for kind in ("L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split())},
}


def find_problems(model: Any) -> list[str]:
    """Name every node that TensorRT's table does not allow, in the order of the graph.

    Args:
        model: any ONNX model.

    Returns:
        Lines `operator 'node': what is wrong`; empty where all is supported. A restriction that this file cannot check
        counts as not supported.
    """
    foreign = [
        f"{node.op_type} '{node.name or ', '.join(node.output)}': an operator of the domain {node.domain}"
        for graph in _graphs(model.graph)
        for node in graph.node
        if node.domain not in ("", "ai.onnx")
    ]
    if foreign:  # types after such nodes cannot be inferred
        return foreign
    graph = Graph(model)
    problems = [
        f"operator set {entry.version}: TensorRT reads {OPSETS[0]} to {OPSETS[1]}"
        for entry in model.opset_import
        if entry.domain in ("", "ai.onnx") and not OPSETS[0] <= entry.version <= OPSETS[1]
    ]
    for node in graph.nodes():
        problem = _find_problem(graph, node)
        if problem:
            problems.append(f"{node.op_type} '{node.name or ', '.join(node.output)}': {problem}")
    return problems


def _find_problem(graph: Graph, node: Any) -> str:
    row = operators().get(node.op_type)
    if row is None:
        return "not supported"
    names = set(TYPES.values())
    for i, name in enumerate(node.input):
        kind = graph.types.get(name)
        if kind is None:
            continue
        allowed = row.types if i in DATA_INPUTS.get(node.op_type, (0,)) else names
        quantised_bias = node.op_type == "DequantizeLinear" and i == 0 and kind == "INT32"
        if kind not in allowed:
            hint = ", a quantised bias" if quantised_bias else ""
            return f"input {i} ('{name}') is {kind}{hint}; allowed: {', '.join(sorted(allowed))}"
    if not row.restrictions:
        return ""
    if node.op_type not in RESTRICTIONS:
        return f"supported only with a restriction that is not checked here: {row.restrictions}"
    return RESTRICTIONS[node.op_type](graph, node)


def check_tensorrt(file: str | Path) -> None:
    """Check an ONNX file and log what it consists of.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no ONNX file, or holds what TensorRT does not support; names the nodes, the first one first.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with onnx
    except ImportError as error:
        raise ValueError(f"--check-tensorrt needs onnx: {command('pip', 'install', 'onnx')}") from error

    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such ONNX file (looked in {file.absolute().parent})")
    try:
        model = onnx.load(file)
    except DecodeError as error:
        raise ValueError(f"{file}: not an ONNX file: {error}") from error
    problems = find_problems(model)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{file}: TensorRT does not support {'; '.join(problems[:SHOWN])}{more}")
    count = Counter(node.op_type for node in model.graph.node)
    LOGGER.info(
        f"{file}: TensorRT's table allows all {sum(count.values())} nodes, their types and attributes "
        f"({len(count)} operators: {', '.join(sorted(count))})"
    )
