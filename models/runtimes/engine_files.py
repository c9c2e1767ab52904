"""TensorRT engines. Written against the interface of TensorRT 10 and newer; never run on a GPU by us yet."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.runtimes.base import Runtime
from utils.engine_file import read_engine
from utils.formats import require


class TensorRtBackend(Runtime):
    """TensorRT on CUDA: buffers are allocated once per shape, and the work runs on a stream of its own.

    Args:
        file: .engine file, with or without our head (`utils.engine_file`).
        device: a CUDA device, of the kind that the engine was built on.

    Raises:
        ValueError: no CUDA device, the package is missing, or it cannot read the engine.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"{file}: a TensorRT engine runs on CUDA, but the device is {device}: try --device 0")
        require(("tensorrt",), f"running {file}")
        import tensorrt as trt  # noqa: PLC0415, optional

        metadata, engine = read_engine(file)
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.engine = self.runtime.deserialize_cuda_engine(engine)
        if self.engine is None:
            raise ValueError(
                f"{file}: TensorRT {trt.__version__} cannot read this engine. It fits the version and kind of GPU that "
                "it was built with: export it again here"
            )
        self.context = self.engine.create_execution_context()
        self.stream = torch.cuda.Stream(device)
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        is_input = [self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        (self.input,) = [name for name, flag in zip(names, is_input, strict=True) if flag]
        self.outputs = [name for name, flag in zip(names, is_input, strict=True) if not flag]
        self.types = {name: _torch_type(trt, self.engine.get_tensor_dtype(name)) for name in names}
        shape = [n if n > 0 else None for n in self.engine.get_tensor_shape(self.input)]
        self.largest = None
        if None in shape:
            self.largest = tuple(self.engine.get_tensor_profile_shape(self.input, 0)[2])
        self.buffers: dict[str, Tensor] = {}
        self.bound: tuple[int, ...] = ()
        super().__init__(file, device, metadata, (shape[0], shape[2], shape[3]))

    def run(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See `Runtime.run`; ValueError for more or larger images than the profile allows."""
        shape = tuple(images.shape)
        if self.largest and any(n > most for n, most in zip(shape, self.largest, strict=True)):
            raise ValueError(f"{self.file}: built for inputs up to {self.largest}, got {shape}: export it again larger")
        if shape != self.bound:
            self._bind(shape, images.device)
        self.stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(self.stream):
            self.buffers[self.input].copy_(images)
            if not self.context.execute_async_v3(self.stream.cuda_stream):
                raise ValueError(f"{self.file}: TensorRT could not run the engine")
        torch.cuda.current_stream(images.device).wait_stream(self.stream)
        outputs = [self.buffers[name].clone() for name in self.outputs]
        if not self.end2end:
            return outputs[0]
        by_name = dict(zip(self.outputs, outputs, strict=True))
        return by_name["detections"], by_name["num"]

    def _bind(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Allocate input and outputs for a shape and tell the engine where they are."""
        self.context.set_input_shape(self.input, shape)
        shapes = {self.input: shape} | {name: tuple(self.context.get_tensor_shape(name)) for name in self.outputs}
        self.buffers = {name: torch.empty(size, dtype=self.types[name], device=device) for name, size in shapes.items()}
        for name, buffer in self.buffers.items():
            self.context.set_tensor_address(name, buffer.data_ptr())
        self.bound = shape


def _torch_type(trt: Any, kind: Any) -> torch.dtype:
    """Return PyTorch's name of a type of TensorRT."""
    known = {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
    }
    return known[kind]
