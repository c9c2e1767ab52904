"""8-bit ONNX: quantise and dequantise nodes around every convolution, in the form that TensorRT takes as well."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


class _Images:
    """What ONNX Runtime's calibration asks for: one feed at a time, then None."""

    def __init__(self, images: Iterator[Tensor], batch: int) -> None:
        self.images, self.batch, self.count = images, batch, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        if image is None:
            return None
        self.count += 1
        return {"images": np.repeat(image.numpy(), self.batch, axis=0)}


def quantize(model: Any, calibration: Callable[[], Iterator[Tensor]], count: int, batch: int) -> Any:
    """Return the model with 8-bit convolutions.

    Symmetric int8 for activations (one scale per tensor) and weights (one scale per output channel), ranges by the
    largest magnitude over the calibration images. Biases stay float32: TensorRT refuses quantised ones and zero points
    other than 0. Only convolutions are quantised: the decoding, whose pixels need more than 8 bits, attention and
    normalisation stay float32.

    Args:
        model: float32 graph with the input `images`.
        calibration: see `ExportOptions.real_images`.
        count: images that are used at most.
        batch: fixed batch of the input, or 1.

    Raises:
        ValueError: the dataset gave no image.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    images = _Images(islice(calibration(), count), batch)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            quantize_static(
                source,
                target,
                images,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        except ValueError as error:
            if images.count == 0:
                raise ValueError("--int8: the dataset gave no image to calibrate with") from error
            raise
        return onnx.load(target)
