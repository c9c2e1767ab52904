"""8-bit ONNX: quantise and dequantise nodes (QDQ) around convolutions, in one of two forms.

ONNX Runtime joins a convolution with the nodes around it to one of 8 bits where its input *and* its output are
quantised, and on x86 only with unsigned activations; others it computes in float32, slower than without the nodes.
TensorRT takes signed activations with zero point 0 only, and joins what follows a convolution by itself, so that
quantised outputs would cost accuracy for nothing.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from engine.exporters.onnx_check import make_session
from engine.exporters.onnx_portable import drop_unused

FEWEST_INPUTS = 8  # channels that each output of a convolution reads; with fewer float32 is as fast or faster

Range = tuple[float, float]  # of a tensor over the calibration images, 0 included


def quantize(
    model: Any, calibration: Callable[[], Iterator[Tensor]], count: int, batch: int, signed: bool = False
) -> None:
    """Make the convolutions of a graph 8-bit, in place.

    Weights are symmetric int8 with one scale per output channel. Activations have one scale per tensor, from the
    smallest to the largest value over the calibration images: uint8 before and after a convolution, or with `signed`
    symmetric int8 before it only. Biases stay float32, as TensorRT refuses quantised ones.

    Float32 stay: what is no convolution (attention, normalisation, decoding); convolutions that read few
    channels, such as the first and depth-wise ones; the last ones, whose outputs are pixels and scores; and those that
    no activation follows, the linear layers in the MLP of a Swin block.

    Args:
        model: float32 graph with the input `images`.
        calibration: see `ExportOptions.real_images`.
        count: images that are used at most.
        batch: fixed batch of the input, or 1.
        signed: the form that TensorRT takes.

    Raises:
        ValueError: the dataset gave no image.
    """
    writer = _Writer(model.graph, signed)
    writer.rewrite(measure_ranges(model, writer.tensors, islice(calibration(), count), batch))


def measure_ranges(model: Any, tensors: list[str], images: Iterator[Tensor], batch: int) -> dict[str, Range]:
    """Return the smallest and the largest value of tensors of a graph over images.

    Raises:
        ValueError: there is no image.
    """
    import onnx
    from onnx import TensorProto, helper

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for i, tensor in enumerate(tensors):
        for kind in ("ReduceMin", "ReduceMax"):
            name = f"{kind}_{i}"
            probe.graph.node.append(helper.make_node(kind, [tensor], [name], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    session = make_session(probe.SerializeToString())
    found = [session.run(None, {"images": np.repeat(image.numpy(), batch, axis=0)}) for image in images]
    if not found:
        raise ValueError("--int8: the dataset gave no image to calibrate with")
    values = np.array(found, np.float64).reshape(len(found), len(tensors), 2)
    low, high = np.minimum(values[..., 0].min(0), 0), np.maximum(values[..., 1].max(0), 0)
    return dict(zip(tensors, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def last_convolutions(graph: Any) -> set[str]:
    """Return the outputs of the convolutions that no other convolution follows."""
    made_by = {name: node for node in graph.node for name in node.output}
    names, seen, found = [output.name for output in graph.output], set(), set()
    while names:
        name = names.pop()
        if name in seen or name not in made_by:
            continue
        seen.add(name)
        if made_by[name].op_type == "Conv":
            found.add(name)
        else:
            names += made_by[name].input
    return found


class _Writer:
    """Put the nodes into a graph; `tensors` are those whose ranges it asks for."""

    def __init__(self, graph: Any, signed: bool) -> None:
        self.graph, self.signed = graph, signed
        self.weights = {item.name: item for item in graph.initializer}
        self.readers: dict[str, set[str]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, set()).add(node.op_type)
        last = last_convolutions(graph)
        self.chosen = [node for node in graph.node if node.op_type == "Conv" and self._suits(node, last)]
        inputs = [node.input[0] for node in self.chosen]
        self.tensors = list(dict.fromkeys(inputs + ([] if signed else [node.output[0] for node in self.chosen])))

    def _suits(self, node: Any, last: set[str]) -> bool:
        weight = self.weights.get(node.input[1])
        linear = self.readers.get(node.output[0], set()) <= {"Conv", "Transpose"}  # of the MLP of a Swin block
        return weight is not None and weight.dims[1] >= FEWEST_INPUTS and node.output[0] not in last and not linear

    def rewrite(self, ranges: dict[str, Range]) -> None:
        """Add the nodes, given the ranges of `tensors`."""
        outputs = {node.output[0] for node in self.chosen}
        nodes: list[Any] = []
        ready: dict[str, str] = {}  # tensor -> what a convolution reads in its place
        for node in self.graph.node:
            if node.output[0] not in outputs:
                nodes.append(node)
                continue
            source, weight = node.input[:2]
            if source not in ready:
                ready[source] = f"{source}_dequantized"
                nodes += self._activation(source, ready[source], ranges[source])
            if weight not in ready:
                ready[weight] = f"{weight}_dequantized"
                nodes.append(self._weight(weight, ready[weight]))
            node.input[:2] = ready[source], ready[weight]
            nodes.append(node)
            if not self.signed:
                name = node.output[0]
                node.output[0] = f"{name}_float"
                nodes += self._activation(node.output[0], name, ranges[name])
                ready[name] = name
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        drop_unused(self.graph)

    def _activation(self, source: str, target: str, limits: Range) -> list[Any]:
        """Return the two nodes that round a tensor to 8 bits."""
        low, high = limits
        if self.signed:
            scale, zero = max(-low, high) / 127, np.int8(0)
        else:
            scale = (high - low) / 255
            zero = np.uint8(round(-low / scale) if scale else 0)
        parameters = self._constants(target, np.float32(scale or 1), zero)
        return [
            self._node("QuantizeLinear", [source, *parameters], f"{target}_quantized"),
            self._node("DequantizeLinear", [f"{target}_quantized", *parameters], target),
        ]

    def _weight(self, source: str, target: str) -> Any:
        """Add a weight in 8 bits and return the node that makes floats of it."""
        from onnx import numpy_helper

        weight = numpy_helper.to_array(self.weights[source])
        scale = np.abs(weight).reshape(len(weight), -1).max(1) / np.float32(127)
        scale[scale == 0] = 1
        rounded = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        self.graph.initializer.append(numpy_helper.from_array(rounded, f"{target}_quantized"))
        parameters = self._constants(target, scale, np.zeros(len(weight), np.int8))
        return self._node("DequantizeLinear", [f"{target}_quantized", *parameters], target, axis=0)

    def _constants(self, name: str, scale: np.ndarray, zero: np.ndarray) -> list[str]:
        from onnx import numpy_helper

        names = [f"{name}_scale", f"{name}_zero_point"]
        for key, value in zip(names, (scale, zero), strict=True):
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), key))
        return names

    @staticmethod
    def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        from onnx import helper

        return helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes)
