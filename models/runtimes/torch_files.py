"""Files that PyTorch runs by itself: TorchScript and torch.export."""

from pathlib import Path

import torch
from torch import Tensor

from models.runtimes.base import Runtime, parse_shape
from utils.pt2_file import load_pt2
from utils.torchscript_file import load_torchscript


class TorchScriptBackend(Runtime):
    """TorchScript, which PyTorch has deprecated.

    The file holds a program of its own language, of which only computations on tensors are let in.

    Args:
        file: .torchscript file.
        device: where to compute.

    Raises:
        ValueError: the file cannot be read, or holds what could do more than compute.
    """

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

    def __init__(self, file: Path, device: torch.device) -> None:
        program, metadata = load_pt2(file)
        if device.type != "cpu":
            program = torch.export.passes.move_to_device_pass(program, str(device))
        self.module = program.module(check_guards=False)  # `check_size` gives the clearer message
        nodes = {node.name: node for node in program.graph.nodes}
        source = nodes[program.graph_signature.user_inputs[0]].meta["val"]
        target = nodes[program.graph_signature.user_outputs[0]].meta["val"]
        axes = [axis if isinstance(axis, int) else None for axis in source.shape]
        super().__init__(file, device, metadata, (axes[0], axes[2], axes[3]), int(target.shape[-1]))

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        output = self.module(images.to(self.device))
        return output[0] if isinstance(output, tuple | list) else output
