"""Write a graph of torch.export: a .pt2 file, the successor of TorchScript.

The input is float32 (B, 3, H, W) RGB in 0..1, the output a tuple of one tensor, float32 (B, R, 5 + classes)
`[xywh_net, objectness, class scores]`. The metadata lie in the archive as `metadata.json`. Load it with
`torch.export.load(file).module(check_guards=False)`: the guards of dynamic sizes exclude maps of one cell, which the
graph runs as the model does.
"""

import json
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from engine.exporters.check import check_file
from engine.exporters.to_onnx import LARGEST_BATCH, LARGEST_SIDE, HalfModel, example_size
from utils.files import atomic_path, write_whole
from utils.model_files.pt2 import load_pt2
from utils.options.export import ExportOptions


def export_pt2(model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]) -> Path:
    """Write a .pt2 file and compare it with the model; arguments and errors as in `engine/exporters/__init__.py`."""
    program = capture(HalfModel(model) if options.half else model, images, options.dynamic, int(metadata["stride"]))
    with atomic_path(file) as tmp:
        data = BytesIO()  # PyTorch's own writer of files ends the process when the disk is full
        torch.export.save(program, data, extra_files={"metadata.json": json.dumps(metadata)})
        write_whole(tmp, data.getbuffer())
        written = load_pt2(tmp)[0].module(check_guards=False)
        device = images.device
        check_file("torch.export", lambda x: written(x.to(device)), model, images, options, metadata)
    return file


def capture(model: nn.Module, images: Tensor, dynamic: bool, stride: int) -> torch.export.ExportedProgram:
    """Return the graph of a model.

    Args:
        model: images to (boxes,), evaluation mode.
        images: example (B, 3, H, W); a graph with fixed sizes gets its sizes.
        dynamic: make batch, height and width dynamic.
        stride: largest stride of the model, of which dynamic sizes are multiples.
    """
    shapes = None
    if dynamic:
        images = images.new_zeros(2, images.shape[1], *example_size(model, stride))
        height, width = (Dim(name, min=1, max=LARGEST_SIDE // stride) for name in ("height", "width"))
        shapes = ({0: Dim("batch", min=1, max=LARGEST_BATCH), 2: stride * height, 3: stride * width},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", module="torch|copyreg")  # of the exporter about itself
        program = torch.export.export(model.eval(), (images,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and source lines of the machine that exported
    program.example_inputs = None  # else the file holds the example's pixels, 10 MB with dynamic sizes
    return program
