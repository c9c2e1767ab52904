"""ONNX files in ONNX Runtime and in OpenCV.

The weights of an ONNX file may lie in other files, named by paths inside it. ONNX Runtime reads those below the folder
of the model only, after following links, and refuses all others. OpenCV reads any path, so files with such weights
are refused for it. Our exporter writes one file.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Axes, Runtime, image_axes
from utils.console import LOGGER
from utils.options.formats import require
from utils.paths import command

# The key of a path to weights as protobuf writes it: its length, which may be padded with zeros, and the letters.
EXTERNAL = re.compile(rb"(?:\x08|\x88\x80*\x00)location")


def fixed(axis: Any) -> int | None:
    """Return the length of an axis, None where it is dynamic (a name, None, or not positive)."""
    return axis if isinstance(axis, int) and axis > 0 else None


class OnnxRuntimeBackend(Runtime):
    """ONNX Runtime: on CUDA where the device is CUDA and the package has it, else on the CPU.

    Args:
        file: .onnx file.
        device: CPU or CUDA.

    Raises:
        ValueError: the package is missing, or it cannot read the file.
    """

    library = "ONNX Runtime"

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("onnxruntime",), f"running {file}")
        import onnxruntime  # noqa: PLC0415, optional

        kinds = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()  # its own have no common class
        own = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
        self.errors = (RuntimeError, ValueError, TypeError, *own)
        providers: list[Any] = ["CPUExecutionProvider"]
        self.cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if self.cuda:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        elif device.type == "cuda":
            line = command("pip", "install", "onnxruntime-gpu")
            LOGGER.warning(f"{file}: this ONNX Runtime has no CUDA and runs on the CPU: {line}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        with self.library_errors(file, "read"):
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        sources, targets = self.session.get_inputs(), self.session.get_outputs()
        if not sources or not targets:
            raise ValueError(f"{file}: not a detector: it has {len(sources)} inputs and {len(targets)} outputs")
        self.input, self.dtype = sources[0].name, np.float16 if sources[0].type == "tensor(float16)" else np.float32
        self.outputs = [output.name for output in targets]
        shape = image_axes([fixed(axis) for axis in sources[0].shape], file)
        columns = fixed(targets[0].shape[-1]) if targets[0].shape else None
        metadata = self.session.get_modelmeta().custom_metadata_map
        super().__init__(file, device, metadata, shape, columns)

    def run(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See `Runtime.run`."""
        if self.cuda and images.is_cuda:
            arrays = self._run_bound(images)
        else:
            arrays = self.session.run(None, {self.input: images.cpu().numpy().astype(self.dtype, copy=False)})
        outputs = tuple(torch.from_numpy(array) for array in arrays)
        return outputs[:2] if self.end2end else outputs[0]

    def _run_bound(self, images: Tensor) -> list[np.ndarray]:
        """Run images that lie on the GPU without a copy through the memory of the CPU."""
        images = images.half() if self.dtype == np.float16 else images
        torch.cuda.current_stream(images.device).synchronize()  # the images must be complete
        binding = self.session.io_binding()
        index = images.device.index or 0
        binding.bind_input(self.input, "cuda", index, self.dtype, tuple(images.shape), images.data_ptr())
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()


class OpenCvBackend(Runtime):
    """OpenCV's own ONNX reader, on the CPU (`dnn=True`); for systems where ONNX Runtime cannot be installed.

    OpenCV does not give the metadata of a file: names and sizes are read where the package `onnx` is installed.

    Args:
        file: .onnx file.
        device: images are moved to the CPU.

    Raises:
        ValueError: OpenCV cannot read the file, or it holds its own NMS, or has weights in other files.
    """

    library = f"OpenCV {cv2.__version__}"
    errors = (cv2.error,)

    def __init__(self, file: Path, device: torch.device) -> None:
        data = file.read_bytes()
        if EXTERNAL.search(data):
            raise ValueError(
                f"{file}: has weights in other files, which OpenCV would read from any path: remove --dnn, or write "
                "one file with onnx.save(onnx.load(file), file)"
            )
        metadata, shape, columns = self._describe(file, data)
        with self.library_errors(file, "read"):
            self.net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
        super().__init__(file, device, metadata, shape, columns)
        self.hint = "" if self.imgsz else ": export it again without --dynamic"
        if self.end2end:
            raise ValueError(f"{file}: was exported with --nms, which OpenCV cannot run: remove --dnn")

    @staticmethod
    def _describe(file: Path, data: bytes) -> tuple[dict[str, str], Axes, int | None]:
        """Return metadata, input shape (B, H, W) and width of the output, as far as they can be read."""
        if find_spec("onnx") is None:
            return {}, (None, None, None), None
        import onnx  # noqa: PLC0415, optional
        from google.protobuf.message import DecodeError  # noqa: PLC0415, comes with onnx

        try:
            model = onnx.load_model_from_string(data)
        except DecodeError as e:
            raise ValueError(f"{file}: not an ONNX file, or a damaged one: {e}") from None
        if not model.graph.input or not model.graph.output:
            raise ValueError(f"{file}: not an ONNX file, or a damaged one: no input or no output")
        axes = image_axes([fixed(d.dim_value) for d in model.graph.input[0].type.tensor_type.shape.dim], file)
        last = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim][-1:]
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        return metadata, axes, fixed(*last) if last else None

    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        self.net.setInput(images.cpu().numpy())
        return torch.from_numpy(np.array(self.net.forward()))
