"""TensorRT engines, written against the API of TensorRT 10 and newer. Not run on a GPU by its authors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.runtimes.base import Runtime, image_axes
from utils.model_files.engine import read_engine
from utils.options.formats import require


class TensorRtBackend(Runtime):
    """A TensorRT engine on one CUDA device.

    Buffers for the largest batch and size of the engine's profile are allocated once, and filled and read on a stream
    of their own, ordered with the caller's by events.

    Args:
        file: .engine file; its metadata precedes the engine.
        device: a CUDA device.

    Raises:
        ValueError: the device is not CUDA, the package is missing or older than 10, or it cannot read the engine.
    """

    library = "TensorRT"

    def __init__(self, file: Path, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"{file}: TensorRT runs on CUDA only, but the device is {device}: use --device 0")
        require(("tensorrt",), f"running {file}")
        import tensorrt  # noqa: PLC0415, optional

        if int(tensorrt.__version__.partition(".")[0]) < 10:
            raise ValueError(f"{file}: TensorRT 10 or newer is needed, this is {tensorrt.__version__}")
        metadata, data = read_engine(file)
        self.logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self.runtime = tensorrt.Runtime(self.logger)  # must live as long as the engine
        with self.library_errors(file, "read"):
            self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise ValueError(
                f"{file}: TensorRT {tensorrt.__version__} cannot read this engine. Engines fit the version and kind of "
                f"GPU that built them ({metadata.get('tensorrt', 'version not noted')}): export it again here"
            )
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise ValueError(f"{file}: not enough memory on {device} for this engine")
        self._describe(tensorrt, device)
        shape = tuple(self.engine.get_tensor_shape(self.input))
        last = int(self.engine.get_tensor_shape(self.outputs[0])[-1])
        axes = image_axes([int(n) if n > 0 else None for n in shape], file)
        super().__init__(file, device, metadata, axes, last if last > 0 else None)
        self._allocate()

    def _describe(self, tensorrt: Any, device: torch.device) -> None:
        """Find names, types and the largest shape of input and outputs."""
        dtypes: Mapping[Any, torch.dtype] = {
            tensorrt.float32: torch.float32,
            tensorrt.float16: torch.float16,
            tensorrt.int32: torch.int32,
            tensorrt.int64: torch.int64,
        }
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise ValueError(f"this engine has the inputs {inputs}; a detector has one")
        self.input = inputs[0]
        outputs = [name for name in names if name != self.input]
        self.outputs = sorted(outputs, key=lambda name: name == "num")  # detections before their number
        self.dtypes = {name: dtypes[self.engine.get_tensor_dtype(name)] for name in names}
        self.least, _, self.largest = (tuple(s) for s in self.engine.get_tensor_profile_shape(self.input, 0))
        self.stream = torch.cuda.Stream(device)

    def _allocate(self) -> None:
        """Allocate input and outputs for the largest shape of the profile."""
        self._set_shape(self.largest)
        self.buffers = {}
        for name in (self.input, *self.outputs):
            shape = tuple(self.context.get_tensor_shape(name))
            self.buffers[name] = torch.empty(shape, dtype=self.dtypes[name], device=self.device)
            self.context.set_tensor_address(name, self.buffers[name].data_ptr())

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        if not self.context.set_input_shape(self.input, shape):
            raise ValueError(f"{self.file}: TensorRT refuses images of shape {shape}")

    def check_size(self, size: tuple[int, int]) -> None:
        """See `Runtime.check_size`; also refuse sizes outside the profile."""
        super().check_size(size)
        if not all(low <= n <= high for low, n, high in zip(self.least[2:], size, self.largest[2:], strict=True)):
            ranges = " x ".join(f"{low}..{high}" for low, high in zip(self.least[2:], self.largest[2:], strict=True))
            raise ValueError(
                f"{self.file}: built for images of {ranges} (height x width), got {size[0]}x{size[1]}: use another "
                "--img, or export it again with a larger one"
            )

    def __call__(self, images: Tensor, augment: bool = False) -> Tensor:
        """See `Runtime`; more images than the profile takes are run in parts."""
        if self.batch_size or len(images) <= self.largest[0]:
            return super().__call__(images, augment)
        return torch.cat([super(TensorRtBackend, self).__call__(p, augment) for p in images.split(self.largest[0])])

    def run(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See `Runtime.run`."""
        shape = tuple(images.shape)
        if tuple(self.context.get_tensor_shape(self.input)) != shape:
            self._set_shape(shape)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._view(self.input, shape).copy_(images, non_blocking=True)
            images.record_stream(self.stream)
            if not self.context.execute_async_v3(self.stream.cuda_stream):
                raise ValueError(f"{self.file}: TensorRT could not run the engine; its log says why")
            found = [self._view(name, tuple(self.context.get_tensor_shape(name))).clone() for name in self.outputs]
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for tensor in found:  # made on this stream, used on the caller's
            tensor.record_stream(current)
        return tuple(found[:2]) if self.end2end else found[0]

    def _view(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the start of a buffer as a tensor of this shape."""
        count = 1
        for n in shape:
            count *= n
        return self.buffers[name].view(-1)[:count].view(shape)
