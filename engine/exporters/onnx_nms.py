"""Put non-maximum suppression into an ONNX graph with standard operators, for every runtime alike.

The new nodes do per image what `utils.nms.non_max_suppression` does without `multi_label`: best class of each row, rows
above the confidence threshold, suppression within each class (or over all), best first. ONNX NonMaxSuppression
(operator set 11) returns a list of unknown length over the whole batch; the scores of its survivors are scattered back
to their rows, and the `topk_all` highest of each image are taken, so that both outputs have a fixed size.
"""

from typing import Any

import numpy as np

from utils.options.export import ExportOptions

BOXES = "output0"  # output of the exported model, (B, R, 5 + classes)
OUTPUTS = ("detections", "num")
MOST = 3839  # TensorRT's limit of TopK


class _Graph:
    """Append nodes and constants to a graph; every result has the name `nms/<name>`."""

    def __init__(self, model: Any) -> None:
        from onnx import helper, numpy_helper

        self.graph, self.helper, self.numpy_helper = model.graph, helper, numpy_helper

    def constant(self, name: str, value: object, dtype: type) -> str:
        """Add an initializer and return its name."""
        self.graph.initializer.append(self.numpy_helper.from_array(np.array(value, dtype), f"nms/{name}"))
        return f"nms/{name}"

    def node(self, operator: str, inputs: list[str], name: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [f"nms/{name}"] if outputs == 1 else [f"nms/{name}{i}" for i in range(outputs)]
        self.graph.node.append(self.helper.make_node(operator, inputs, names, name=f"nms/{name}", **attributes))
        return names

    def __call__(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        return self.node(operator, inputs, name, **attributes)[0]


def add_nms(model: Any, nc: int, options: ExportOptions) -> None:
    """Replace the output `output0` by `detections` and `num`, in place.

    Args:
        model: graph whose only output is `output0`, float32 (B, R, 5 + nc); its operator set is 18 or higher.
        nc: classes.
        options: conf_thres, iou_thres, topk_all and agnostic_nms.

    `detections` is float32 (B, topk_all, 6) `[xyxy_net, confidence, class]`, best first, zeros after the last one;
    `num` is int32 (B,), how many there are.

    Raises:
        ValueError: a threshold outside 0 to 1, or topk_all outside 1 to 3839 (what TensorRT's TopK takes).
    """
    from onnx import TensorProto, helper

    for name, value in (("conf-thres", options.conf_thres), ("iou-thres", options.iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"--{name} is {value}, but must be from 0 to 1")
    if not 1 <= options.topk_all <= MOST:
        raise ValueError(f"--topk-all is {options.topk_all}, but must be from 1 to {MOST}")
    add = _Graph(model)
    confidence, rows, scores, corners = _candidates(add, nc, options.agnostic_nms)

    most = add.constant("most", [options.topk_all], np.int64)
    iou = add.constant("iou", [options.iou_thres], np.float32)
    floor = add.constant("floor", [options.conf_thres], np.float32)
    kept = add("NonMaxSuppression", [corners, scores, most, iou, floor], "suppress")  # (M, 3) [image, class, row]

    places = add("Gather", [kept, add.constant("image_and_row", [0, 2], np.int64)], "places", axis=1)  # (M, 2)
    alive = add("GatherND", [confidence, places], "alive")  # (M,)
    nothing = add("Mul", [confidence, add.constant("zero", 0, np.float32)], "nothing")  # (B, R)
    survivors = add("ScatterND", [nothing, places, alive], "survivors")  # (B, R), 0 where suppressed

    shape = add("Shape", [confidence], "shape")
    images, count = add.node("Split", [shape], "size", 2, num_outputs=2, axis=0)
    size = add("Concat", [images, most], "padding_size", axis=0)
    zeros = add("Expand", [add.constant("zeros", [0], np.float32), size], "padding")  # (B, K)
    padded = add("Concat", [survivors, zeros], "padded", axis=1)  # (B, R + K): a small image has fewer rows than K
    best, index = add.node("TopK", [padded, most], "best", 2, axis=1, largest=1, sorted=1)  # (B, K)
    last = add("Sub", [count, add.constant("one", [1], np.int64)], "last")
    index = add("Min", [index, last], "index")
    two = add.constant("axis_2", [2], np.int64)
    index = add("Unsqueeze", [index, two], "index_column")  # (B, K, 1)
    chosen = add("GatherND", [rows, index], "chosen", batch_dims=1)  # (B, K, 6)
    found = add("Greater", [best, "nms/zero"], "found")  # (B, K)
    mask = add("Unsqueeze", [found, two], "mask")
    number = add("Cast", [found], "found_number", to=TensorProto.INT32)
    add.graph.node.append(helper.make_node("Where", [mask, chosen, "nms/zero"], [OUTPUTS[0]], name="nms/detections"))
    one = add.constant("axis_1", [1], np.int64)
    add.graph.node.append(helper.make_node("ReduceSum", [number, one], [OUTPUTS[1]], name="nms/num", keepdims=0))

    dim = model.graph.output[0].type.tensor_type.shape.dim[0]
    batch = dim.dim_value or dim.dim_param or "batch"
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(OUTPUTS[0], TensorProto.FLOAT, [batch, options.topk_all, 6])
    )
    model.graph.output.append(helper.make_tensor_value_info(OUTPUTS[1], TensorProto.INT32, [batch]))


def suppression(model: Any) -> Any:
    """Return what `add_nms` put into a graph as a model of its own, with the input `output0`."""
    from onnx import TensorProto, helper

    boxes = helper.make_tensor_value_info(BOXES, TensorProto.FLOAT, [None, None, None])
    nodes, values = (
        [item for item in part if item.name.startswith("nms/")] for part in (model.graph.node, model.graph.initializer)
    )
    graph = helper.make_graph(nodes, "nms", [boxes], model.graph.output, values)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _candidates(add: _Graph, nc: int, agnostic: bool) -> tuple[str, str, str, str]:
    """Add the nodes that turn `output0` into candidates.

    Returns:
        The names of: confidence (B, R); rows (B, R, 6); scores (B, classes, R), 0 but at the best class of a row, or
        (B, 1, R); corners (B, R, 4).
    """
    from onnx import TensorProto

    parts = add.constant("parts", [2, 2, 1, nc], np.int64)
    xy, wh, objectness, classes = add.node("Split", [BOXES, parts], "part", 4, axis=2)
    half = add("Mul", [wh, add.constant("half", 0.5, np.float32)], "half_wh")
    corners = add(
        "Concat", [add("Sub", [xy, half], "top_left"), add("Add", [xy, half], "bottom_right")], "corners", axis=2
    )
    products = add("Mul", [classes, objectness], "products")  # (B, R, classes)
    axis = add.constant("class_axis", [2], np.int64)
    column = add("ReduceMax", [products, axis], "confidence_column", keepdims=1)  # (B, R, 1)
    confidence = add("Squeeze", [column, axis], "confidence")  # (B, R)
    cls = add("ArgMax", [products], "class", axis=2, keepdims=1)  # (B, R, 1)
    number = add("Cast", [cls], "class_number", to=TensorProto.FLOAT)
    rows = add("Concat", [corners, column, number], "rows", axis=2)
    if agnostic:
        return confidence, rows, add("Unsqueeze", [confidence, add.constant("one_class", [1], np.int64)], "s"), corners
    mine = add("Equal", [cls, add.constant("classes", [[list(range(nc))]], np.int64)], "mine")  # (B, R, classes)
    scores = add("Where", [mine, products, add.constant("no_score", 0, np.float32)], "scores_by_row")
    return confidence, rows, add("Transpose", [scores], "scores", perm=[0, 2, 1]), corners
