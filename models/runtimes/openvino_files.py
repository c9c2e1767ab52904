"""OpenVINO networks."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Runtime, image_axes
from utils.console import LOGGER
from utils.files import yaml_load
from utils.options.formats import require


class OpenVinoBackend(Runtime):
    """OpenVINO on the CPU, in float32 whatever the weights are stored in.

    Args:
        file: folder with one .xml file, or the .xml file; the metadata are in metadata.yaml or <stem>.yaml beside it.
        device: images are moved to the CPU.

    Raises:
        FileNotFoundError: no .xml file.
        ValueError: several, the package is missing, or it cannot read the file.
    """

    library = "OpenVINO"
    reason_line = -1  # those before say where in its source code

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("openvino",), f"running {file}")
        import openvino  # noqa: PLC0415, optional

        xml = find_xml(file)
        if device.type != "cpu":
            LOGGER.warning(f"{file}: OpenVINO runs on the CPU here, not on {device}")
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        with self.library_errors(xml, "read"):
            self.network = openvino.Core().compile_model(str(xml), "CPU", settings)
            source = self.network.input(0)
            axes = [axis.get_length() if axis.is_static else None for axis in source.get_partial_shape()]
            last = [
                axis.get_length() if axis.is_static else None for axis in self.network.output(0).get_partial_shape()
            ]
        self.dtype = np.float16 if source.get_element_type() == openvino.Type.f16 else np.float32
        notes = next((n for n in (xml.with_name("metadata.yaml"), xml.with_suffix(".yaml")) if n.is_file()), None)
        metadata = yaml_load(notes) if notes else {}
        super().__init__(file, device, metadata, image_axes(axes, xml), last[-1] if last else None)

    def run(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See `Runtime.run`."""
        found = self.network([images.cpu().numpy().astype(self.dtype, copy=False)])
        outputs = tuple(torch.from_numpy(np.array(found[i])) for i in range(2 if self.end2end else 1))
        return outputs if self.end2end else outputs[0]


def find_xml(file: Path) -> Path:
    """Return the .xml file of a network from itself or its folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    if file.is_file():
        return file
    found = sorted(file.glob("*.xml"))
    if not found:
        raise FileNotFoundError(f"{file}: it contains no .xml file of an OpenVINO network")
    if len(found) > 1:
        raise ValueError(f"{file}: several networks, name one: {', '.join(map(str, found))}")
    return found[0]
