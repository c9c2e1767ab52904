"""Files that PyTorch runs by itself: TorchScript and torch.export."""

from pathlib import Path

import torch
from torch import Tensor

from models.runtimes.base import Runtime, image_axes, parse_shape
from utils.model_files.pt2 import load_pt2
from utils.model_files.torchscript import load_torchscript


class TorchScriptBackend(Runtime):
    """TorchScript, which PyTorch has deprecated.

    The file holds a program of its own language, of which only computations on tensors are let in.

    Args:
        file: .torchscript file.
        device: where to compute.

    Raises:
        ValueError: the file cannot be read, or holds what could do more than compute.
    """

    library = f"PyTorch {torch.__version__}"

    def __init__(self, file: Path, device: torch.device) -> None:
        self.module, config = load_torchscript(file, device)
        self.module.eval()
        batch, _, height, width = parse_shape(config.get("shape"), file)
        super().__init__(file, device, config, (batch, height, width))

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        output = self.module(images.to(self.device))
        return output[0] if isinstance(output, tuple | list) else output


class Pt2Backend(Runtime):
    """A graph of torch.export.

    Args:
        file: .pt2 file.
        device: where to compute.

    Raises:
        ValueError: the file cannot be read, or holds what could run code.
    """

    library = f"PyTorch {torch.__version__}"
    errors = (RuntimeError, ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError)

    def __init__(self, file: Path, device: torch.device) -> None:
        program, metadata = load_pt2(file)
        with self.library_errors(file, "read"):
            if device.type != "cpu":
                program = torch.export.passes.move_to_device_pass(program, str(device))
            self.module = program.module(check_guards=False)  # `check_size` gives the clearer message
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        source, target = (
            nodes.get(next(iter(names), None)) for names in (signature.user_inputs, signature.user_outputs)
        )
        if not isinstance(source, Tensor) or not isinstance(target, Tensor) or not target.ndim:
            raise ValueError(f"{file}: not a detector: its first input or output is not a tensor")
        axes = image_axes([axis if isinstance(axis, int) else None for axis in source.shape], file)
        last = target.shape[-1]
        super().__init__(file, device, metadata, axes, last if isinstance(last, int) else None)

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        output = self.module(images.to(self.device))
        return output[0] if isinstance(output, tuple | list) else output
