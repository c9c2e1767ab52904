"""Write CoreML, an extra that is not tested on a device: an ML program, the folder <stem>.mlpackage.

The input `image` is an RGB image of fixed size, one at a time; CoreML divides it by 255 itself. The output `boxes` is
(1, R, 5 + classes) `[xywh_net, objectness, class scores]`. Names and stride are in the user-defined metadata, each
value as JSON. macOS 13, iOS 16 and newer run the file. CoreML computes on Apple's systems only, so the numbers are not
compared with the model's: what is checked is that the written file has the expected input and output.
"""

import json
import logging
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.folder import atomic_folder
from utils.console import LOGGER
from utils.options.export import ExportOptions
from utils.options.formats import require

REWRITTEN = {  # operators that coremltools does not know, in those that it does; all are of booleans here
    torch.ops.aten.__and__.Tensor: torch.logical_and,
    torch.ops.aten.__or__.Tensor: torch.logical_or,
}


def export_coreml(
    model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]
) -> Path:
    """Write the package; arguments and errors as in `engine/exporters/__init__.py`, without the comparison.

    Raises:
        ValueError: a batch of more than one image, an image that is not of three channels, a layer that CoreML has no
            counterpart for, or a written file with another input or output.
    """
    require(("coremltools",), "the export to CoreML")
    if images.shape[:2] != (1, 3):
        raise ValueError(
            f"CoreML takes one image of 3 channels at a time, not {images.shape[0]} of {images.shape[1]} channels: "
            "use --batch-size 1"
        )
    package = convert(model, images, options.half)
    package.short_description = metadata["description"]
    package.license, package.version = metadata["licence"], metadata["version"]
    for key, value in metadata.items():
        package.user_defined_metadata[key] = json.dumps(value)
    with torch.no_grad():
        expected = tuple(model(images)[0].shape)
    with atomic_folder(file) as folder:
        inner = folder / file.name  # coremltools wants the ending, and to make the folder itself
        package.save(str(inner))
        check_interface(inner, (images.shape[2], images.shape[3]), expected)
        for part in inner.iterdir():
            part.rename(folder / part.name)
        inner.rmdir()
    LOGGER.warning("CoreML: not compared with PyTorch: the file runs on Apple devices only, test it on one")
    return file


def convert(model: nn.Module, images: Tensor, half: bool) -> Any:
    """Return the model as a CoreML program of fixed size.

    Args:
        model: images to (boxes,), evaluation mode.
        images: example (1, 3, H, W).
        half: weights and computation in float16; else float32.

    Raises:
        ValueError: coremltools has no counterpart for a layer; names it.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of each PyTorch newer than itself
    import coremltools  # noqa: PLC0415, optional

    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", module="torch|copyreg")  # of the exporter about itself
        program = torch.export.export(deepcopy(model).cpu().eval(), (images.cpu(),), strict=False)
        program = program.run_decompositions(REWRITTEN)
        expand_choices(program.graph)
    try:
        return coremltools.convert(
            program,
            inputs=[coremltools.ImageType(name="image", shape=tuple(images.shape), scale=1 / 255)],
            outputs=[coremltools.TensorType(name="boxes")],
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        )
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"coremltools cannot convert this model: {reason}. Export onnx instead") from error


def expand_choices(graph: torch.fx.Graph) -> None:
    """Give the inputs of each `where` the shape of its result: coremltools forgets that the condition counts."""
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target not in (aten.where.self, aten.where.ScalarSelf):
            continue
        shape = node.meta["val"].shape
        for i, part in enumerate(node.args):
            if isinstance(part, torch.fx.Node) and part.meta["val"].shape != shape:
                with graph.inserting_before(node):
                    whole = graph.call_function(aten.expand.default, (part, list(shape)))
                whole.meta["val"] = part.meta["val"].expand(shape)
                node.update_arg(i, whole)


def check_interface(package: Path, size: tuple[int, int], boxes: tuple[int, ...]) -> None:
    """Read a package again and compare its input and output with what was asked for.

    Args:
        package: the .mlpackage folder.
        size: height and width of the input.
        boxes: shape of the output.

    Raises:
        ValueError: they differ.
    """
    import coremltools  # noqa: PLC0415, optional

    description = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec().description
    found_in = {entry.name: (entry.type.imageType.height, entry.type.imageType.width) for entry in description.input}
    found_out = {entry.name: tuple(entry.type.multiArrayType.shape) for entry in description.output}
    if found_in != {"image": size} or found_out != {"boxes": boxes}:
        raise ValueError(f"CoreML wrote the input {found_in} and the output {found_out}, expected {size} and {boxes}")
