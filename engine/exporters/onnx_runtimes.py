"""Find the ONNX operator set that the oldest runtime asked for reads, and write it.

The version of the file format (IR) follows: a file gets the oldest one that has its operator set.
"""

import re
from typing import Any

from engine.exporters.onnx_portable import drop_unused
from utils.options.export import ExportOptions

LOWEST = 17  # operator set that `lower_opset` writes; below it layer normalisation is no operator

# runtime -> its version -> highest operator set it reads, which holds up to the next version named
# onnxruntime: its table of compatibility, less what 1.15.0 has no kernels for; it, 1.16.0 and 1.17.3 were run.
# opencv: it takes any number, what counts are the operators; every 4.x from 4.8.0 to 4.14.0, and 5.0.0, were run.
# tensorrt: operators.md of onnx-tensorrt at the release; not run. openvino: 2023.3, 2024.0, 2024.2, 2024.6 were run.
RUNTIMES: dict[str, dict[tuple[int, int], int]] = {
    "onnxruntime": {(1, 13): 17, (1, 14): 18, (1, 16): 19, (1, 17): 20},
    "opencv": {(4, 8): 20},
    "tensorrt": {(8, 6): 17, (10, 0): 20},
    "openvino": {(2023, 3): 18, (2024, 2): 20},
}
DYNAMIC_SINCE = {"opencv": (5, 0), "openvino": (2024, 2)}  # older ones cannot run files made with --dynamic


def parse_runtime(runtime: str) -> tuple[str, tuple[int, int]]:
    """Return name and version, two numbers, of a runtime such as `tensorrt==8.6.1`.

    Raises:
        ValueError: not a runtime of the table with a version, or a version older than the first one there.
    """
    match = re.fullmatch(r"([a-z]+)==(\d+)(?:\.(\d+))?(?:\.\d+)*", runtime.strip().lower())
    if not match or match[1] not in RUNTIMES:
        raise ValueError(f"--runtime {runtime!r}: give name==version, such as tensorrt==8.6, of {', '.join(RUNTIMES)}")
    name, version = match[1], (int(match[2]), int(match[3] or 0))
    if version < min(RUNTIMES[name]):
        oldest = ".".join(map(str, min(RUNTIMES[name])))
        raise ValueError(f"--runtime {runtime}: no file is written for versions older than {name}=={oldest}")
    return name, version


def for_tensorrt(options: ExportOptions) -> bool:
    """Return whether TensorRT must read the ONNX file: it is asked for by name, or an engine is made from the file."""
    named = any(parse_runtime(runtime)[0] == "tensorrt" for runtime in options.runtime)
    return named or bool(options.check_tensorrt) or "engine" in options.include


def choose_opset(options: ExportOptions) -> int:
    """Return the operator set of `--opset`, or a lower one where a runtime of `--runtime` reads no higher one.

    Raises:
        ValueError: from `parse_runtime`, or a runtime cannot run what the other options ask for.
    """
    opset = options.opset
    for runtime in options.runtime:
        name, version = parse_runtime(runtime)
        if options.dynamic and version < DYNAMIC_SINCE.get(name, (0, 0)):
            since = ".".join(map(str, DYNAMIC_SINCE[name]))
            raise ValueError(f"--runtime {runtime} runs fixed sizes only: remove --dynamic, or ask for {name}=={since}")
        if options.nms and name == "opencv":
            raise ValueError(f"--runtime {runtime} cannot run files made with --nms: remove --nms")
        opset = min(opset, max(known for since, known in RUNTIMES[name].items() if since <= version))
    return opset


def lower_opset(model: Any, opset: int) -> None:
    """Write a graph of operator set 18 as one of 17, in place; no other step is needed, as the tracer writes the rest.

    Split and Resize have fewer attributes there, and Reduce* name their axes in one.

    Raises:
        ValueError: a node has no form in the lower set.
    """
    from onnx import defs, helper, numpy_helper

    (domain,) = (entry for entry in model.opset_import if not entry.domain)
    if domain.version <= opset:
        return
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        known = not node.domain and defs.has(node.op_type, opset, "")
        if node.domain or (known and defs.get_schema(node.op_type, domain.version).since_version <= opset):
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Split":
            attributes.pop("num_outputs", None)
        elif node.op_type == "Resize" and not attributes.get("antialias"):
            attributes.pop("antialias", None)
            attributes.pop("keep_aspect_ratio_policy", None)
        elif node.op_type.startswith("Reduce") and len(node.input) == 2 and node.input[1] in values:
            attributes["axes"] = values[node.input.pop()].tolist()
            attributes.pop("noop_with_empty_axes", None)
        older = defs.get_schema(node.op_type, opset) if known else None
        if older is None or attributes.keys() - older.attributes.keys() or len(node.input) > older.max_input:
            raise ValueError(f"operator set {opset} has no such {node.op_type} as the model needs: use a newer runtime")
        node.CopyFrom(helper.make_node(node.op_type, node.input, node.output, name=node.name, **attributes))
    domain.version = opset
    drop_unused(model.graph)
