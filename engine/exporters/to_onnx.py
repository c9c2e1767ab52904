"""Write ONNX through torch.export: one file, any batch and size on request, checked against the model.

The input is `images`, float32 (B, 3, H, W) RGB in 0..1; the output is `output0`, float32 (B, R, 5 + classes)
`[xywh_net, objectness, class scores]`, or with NMS `detections` and `num`, see `onnx_nms`, or with raw heads `output0`,
`output1`, ..., see `Detect.raw_heads`. The entries of the metadata
are texts: numbers, lists and mappings as Python writes them.
"""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.onnx_check import check_inputs, check_nms, compare_onnx, make_session
from engine.exporters.onnx_nms import add_nms, suppression
from engine.exporters.onnx_portable import fold_masks, fold_weights, order_gelu, part_padding, sum_by_products
from engine.exporters.onnx_quantize import quantize
from engine.exporters.onnx_runtimes import LOWEST, for_tensorrt, lower_opset
from utils.console import LOGGER
from utils.files import atomic_path
from utils.options.export import OPSETS, ExportOptions
from utils.options.formats import ONNX_WRITERS, require

LARGEST_BATCH, LARGEST_SIDE = 4096, 16384  # bounds of the dynamic axes; only the exporter's reasoning uses them


class HalfModel(nn.Module):
    """A float16 copy of a detector that takes and gives float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = deepcopy(model).half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run float32 images (B, 3, H, W) in float16; return (boxes,) with float32 (B, R, 5 + nc), or raw maps."""
        return tuple(output.float() for output in self.model(images.half()))


def export_onnx(model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]) -> Path:
    """Write an ONNX file and compare it with the model; arguments and errors as in `engine/exporters/__init__.py`."""
    require(ONNX_WRITERS + (("onnxslim",) if options.simplify else ()), "the export to ONNX")
    import onnx

    _check_options(options)
    calibration = options.real_images if options.int8 else None
    stride, nc = metadata["stride"], len(metadata["names"])
    LOGGER.info("ONNX: tracing the model, which takes most of the time")
    graph = trace(model, images, options, stride)
    if options.simplify:
        graph = simplify(graph)
    fold_weights(graph)
    order_gelu(graph)
    part_padding(graph)
    if not options.dynamic:
        fold_masks(graph)
        sum_by_products(graph)
    precision = "half" if options.half else "float32"
    if calibration:
        batch = 1 if options.dynamic else len(images)
        quantize(graph, calibration, options.calibration, batch, signed=for_tensorrt(options))
        precision = "int8"
    plain = graph.SerializeToString()
    if options.nms:
        add_nms(graph, nc, options)
    lower_opset(graph, options.opset)
    lower_ir_version(graph)
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))
    with atomic_path(file) as tmp:
        LOGGER.info("ONNX: writing and checking the file")
        onnx.save(graph, tmp)
        onnx.checker.check_model(str(tmp), full_check=True)
        channels = images.shape[1]
        session = make_session(tmp if not options.nms else plain)
        compare_onnx(session, model, check_inputs(options, stride, channels), precision)
        if options.nms:
            alone = make_session(suppression(graph).SerializeToString())
            check_nms(make_session(tmp), session, alone, check_inputs(options, stride, channels), options, nc)
    return file


def ensure_onnx(model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]) -> Path:
    """Write an ONNX file unless it is there already with exactly this metadata, its date included.

    For formats that are made from ONNX: with several formats in one run the file is written once.
    """
    require(ONNX_WRITERS, "the export to ONNX")
    import onnx

    if file.is_file():
        found = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        if all(found.get(key) == str(value) for key, value in metadata.items()):
            return file
    return export_onnx(model, images, file, options, metadata)


def _check_options(options: ExportOptions) -> None:
    """Raise ValueError for options that the format does not support."""
    if not (LOWEST if options.runtime else OPSETS[0]) <= options.opset <= OPSETS[1]:
        raise ValueError(f"--opset is {options.opset}, but must be from {OPSETS[0]} to {OPSETS[1]}")
    if options.int8 and options.half:
        raise ValueError("--int8 and --half are mutually exclusive: choose one")
    if options.int8 and options.real_images is None:
        raise ValueError("--int8 needs images to calibrate with: give --data")


def trace(model: nn.Module, images: Tensor, options: ExportOptions, stride: int) -> Any:
    """Turn the model into a graph.

    With dynamic sizes the example is not `images` but one large enough to have several windows on each axis of every
    map: torch.export would take an axis of one window for a constant. It represents any size, as nothing is computed.

    Args:
        model: see `export_onnx`.
        images: example whose sizes a file with fixed sizes gets.
        options: dynamic, half and opset.
        stride: largest stride of the model.
    """
    shapes = None
    if options.dynamic:
        images = images.new_zeros(2, images.shape[1], *example_size(model, stride))
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        height, width = (torch.export.Dim(name, min=1, max=LARGEST_SIDE // stride) for name in ("height", "width"))
        shapes = ({0: batch, 2: stride * height, 3: stride * width},)
    head: Any = model.model[-1]  # type: ignore[index]
    levels = head.nl
    traced = HalfModel(model) if options.half else model
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", module="torch|onnxscript|copyreg")  # of the exporter about itself
        program = torch.onnx.export(
            traced.eval(),
            (images,),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=max(options.opset, OPSETS[0]),
            input_names=["images"],
            output_names=[f"output{i}" for i in range(levels if options.raw_heads else 1)],
            external_data=False,
            verbose=False,
        )
    return program.model_proto


def example_size(model: nn.Module, stride: int) -> tuple[int, int]:
    """Return a height and a width, different ones, at which every map has at least two windows on each axis."""
    windows = [getattr(module, "window", None) for module in model.modules()]
    cells = 2 * max((max(window) for window in windows if isinstance(window, tuple)), default=2)
    return cells * stride, (cells + 1) * stride


def lower_ir_version(graph: Any) -> None:
    """Give a graph the oldest version of the format that has its operator set, in place: old runtimes read it then.

    The exporter writes version 10 always. What only that has, notes at nodes and values, goes: it is the exporter's
    own, such as the lines of source a node came from.
    """
    from onnx.helper import find_min_ir_version_for

    graph.ir_version = find_min_ir_version_for(graph.opset_import, ignore_unknown=True)
    inner = graph.graph
    for part in (inner, *inner.node, *inner.input, *inner.output, *inner.value_info, *graph.functions):
        part.ClearField("metadata_props")


def simplify(graph: Any) -> Any:
    """Return the graph with constants folded and superfluous nodes removed by onnxslim."""
    import onnxslim  # noqa: PLC0415 - optional

    before = len(graph.graph.node)
    graph = onnxslim.slim(graph)
    LOGGER.info(f"ONNX: simplified from {before} to {len(graph.graph.node)} nodes")
    return graph
