"""ONNX files in ONNX Runtime and in OpenCV."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Runtime
from utils.formats import require
from utils.general import LOGGER


def fixed(axis: Any) -> int | None:
    """Return the length of an axis, None where it is open (a name, None, or not positive)."""
    return axis if isinstance(axis, int) and axis > 0 else None


class OnnxRuntimeBackend(Runtime):
    """ONNX Runtime: on CUDA where the device is CUDA and the package has it, else on the CPU.

    Args:
        file: .onnx file.
        device: CPU or CUDA.

    Raises:
        ValueError: the package is missing, or it cannot read the file.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("onnxruntime",), f"running {file}")
        import onnxruntime  # noqa: PLC0415, optional

        providers: list[Any] = ["CPUExecutionProvider"]
        self.cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if self.cuda:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        elif device.type == "cuda":
            LOGGER.warning(f"{file}: this ONNX Runtime has no CUDA and runs on the CPU: pip install onnxruntime-gpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except (RuntimeError, ValueError, onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf) as e:
            raise ValueError(f"{file}: ONNX Runtime cannot read it: {str(e).splitlines()[0]}") from e
        source = self.session.get_inputs()[0]
        self.input, self.dtype = source.name, np.float16 if source.type == "tensor(float16)" else np.float32
        self.outputs = [output.name for output in self.session.get_outputs()]
        batch, _, height, width = (fixed(axis) for axis in source.shape)
        columns = fixed(self.session.get_outputs()[0].shape[-1])
        metadata = self.session.get_modelmeta().custom_metadata_map
        super().__init__(file, device, metadata, (batch, height, width), columns)

    def run(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
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
        ValueError: OpenCV cannot read the file, or it holds its own NMS.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        metadata, shape, columns = self._describe(file)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(file))
        except cv2.error as e:
            raise ValueError(f"{file}: OpenCV {cv2.__version__} cannot read it: {e.err}") from e
        super().__init__(file, device, metadata, shape, columns)
        if self.end2end:
            raise ValueError(f"{file}: was exported with --nms, which OpenCV cannot run: leave --dnn out")

    @staticmethod
    def _describe(file: Path) -> tuple[dict[str, str], tuple[int | None, ...], int | None]:
        """Return metadata, input shape (B, H, W) and width of the output, as far as they can be read."""
        if find_spec("onnx") is None:
            return {}, (None, None, None), None
        import onnx  # noqa: PLC0415, optional

        model = onnx.load(str(file), load_external_data=False)
        axes = [fixed(d.dim_value) for d in model.graph.input[0].type.tensor_type.shape.dim]
        last = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        return metadata, (axes[0], axes[2], axes[3]), fixed(last)

    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        self.net.setInput(images.cpu().numpy())
        try:
            return torch.from_numpy(np.array(self.net.forward()))
        except cv2.error as e:
            hint = "" if self.imgsz else ": export it again without --dynamic"
            raise ValueError(f"{self.file}: OpenCV {cv2.__version__} cannot run it{hint} ({e.err})") from e
