"""Write LiteRT (TensorFlow Lite), an extra that is not tested on a phone: one .tflite file in float32.

The input is float32 (B, H, W, 3) RGB in 0..1, channels last as phones give it, the output (B, R, 5 + classes)
`[xywh_net, objectness, class scores]` in pixels of the input. The metadata are appended as a zip archive, as for
YOLOv5's files: its first entry is the text of a mapping.
"""

import logging
import warnings
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.check import check_file
from utils.files import atomic_path
from utils.options.export import ExportOptions
from utils.options.formats import require


def export_litert(
    model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]
) -> Path:
    """Write the file and compare it with the model; arguments and errors as in `engine/exporters/__init__.py`."""
    require(("litert-torch", "ai-edge-litert"), "the export to LiteRT")
    with atomic_path(file) as tmp:
        convert(model, images, tmp)
        with zipfile.ZipFile(tmp, "a") as archive:
            archive.writestr("metadata.txt", str(metadata))
        run = load(tmp)
        check_file("LiteRT", lambda x: run(x.permute(0, 2, 3, 1)), model, images, options, metadata)
    return file


class ChannelsLast(nn.Module):
    """A model whose images have the channels last: (B, H, W, 3) to boxes (B, R, 5 + classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Run images (B, H, W, 3) and return the boxes alone, (B, R, 5 + classes)."""
        return self.model(images.permute(0, 3, 1, 2))[0]


def convert(model: nn.Module, images: Tensor, file: Path) -> None:
    """Write the bare network.

    Raises:
        ValueError: litert-torch has no counterpart for an operation; with its reason.
    """
    import litert_torch  # noqa: PLC0415, optional

    example = images.cpu().permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore")  # of the converter about itself
        try:
            network = litert_torch.convert(ChannelsLast(deepcopy(model)).cpu().eval(), (example,))
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"litert-torch cannot convert this model: {reason}. Export onnx instead") from error
        network.export(str(file))


def load(file: Path) -> Any:
    """Return a function that runs a file: array (B, H, W, 3) to boxes (B, R, 5 + classes)."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415, optional

    logging.getLogger("ai_edge_litert").setLevel(logging.WARNING)
    network = Interpreter(str(file), num_threads=torch.get_num_threads())
    network.allocate_tensors()
    (source,), (target,) = network.get_input_details(), network.get_output_details()

    def run(images: Tensor) -> Any:
        network.set_tensor(source["index"], images.contiguous().numpy())
        network.invoke()
        return network.get_tensor(target["index"])

    return run
