"""Write TorchScript, for programs that cannot read anything newer: torch.jit is deprecated in PyTorch.

The sizes are fixed. The metadata lie in the archive as `config.txt`: JSON with shape (B, 3, H, W), stride, names and
the other entries.
"""

import json
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.check import check_file
from engine.exporters.to_onnx import HalfModel
from utils.console import LOGGER
from utils.files import atomic_path, write_whole
from utils.model_files.torchscript import load_torchscript
from utils.options.export import ExportOptions


def export_torchscript(
    model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]
) -> Path:
    """Write a .torchscript file and compare it with the model; see `engine/exporters/__init__.py` for the arguments."""
    LOGGER.warning("TorchScript: torch.jit is deprecated in PyTorch, prefer --include pt2")
    config = {"shape": list(images.shape), **metadata}
    with atomic_path(file) as tmp, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")  # deprecation, and every size that becomes a constant
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        script = trace(HalfModel(model) if options.half else model, images)
        if options.optimize:
            script = torch.jit.freeze(script)
        data = BytesIO()  # PyTorch's own writer of files ends the process when the disk is full
        torch.jit.save(script, data, _extra_files={"config.txt": json.dumps(config)})
        write_whole(tmp, data.getbuffer())
        written = load_torchscript(tmp, images.device)[0]
        check_file("TorchScript", lambda x: written(x.to(images.device)), model, images, options, metadata)
    return file


def trace(model: nn.Module, images: Tensor) -> torch.jit.ScriptModule:
    """Record the model at the sizes of `images`."""
    with torch.no_grad():
        return torch.jit.trace(model.eval(), images, strict=False, check_trace=False)
