"""Compare a file that was just written with the model it was made from, in the file's own run time."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from utils.exporters.compare import Difference, check_difference, measure
from utils.exporters.onnx_check import check_inputs
from utils.exporters.options import ExportOptions
from utils.general import LOGGER


@torch.inference_mode()
def check_file(
    title: str,
    run: Callable[[Tensor], Tensor | ArrayLike],
    model: nn.Module,
    images: Tensor,
    options: ExportOptions,
    metadata: dict[str, Any],
) -> Difference:
    """Run the file and the model on noise, at several sizes where these are open, and on real images if there are any.

    Args:
        title: name of the format, for messages.
        run: images, float32 (B, C, H, W) on the CPU, to boxes (B, R, 5 + classes).
        model: float32 model that returns (boxes,).
        images: the example of the export, for the number of channels.
        options: of the export; they decide sizes, number and the tolerance.
        metadata: of the export; its `stride` is used.

    Returns:
        The largest differences, also logged.

    Raises:
        ValueError: a difference above the tolerance, or an output of another shape; names the input.
    """
    precision = "int8" if options.int8 else "half" if options.half else "float32"
    device = next(model.parameters()).device
    worst = Difference()
    for name, batch in check_inputs(options, int(metadata["stride"]), images.shape[1]):
        expected = model(batch.to(device))[0]
        try:
            difference = measure(expected, run(batch))
        except ValueError as error:
            raise ValueError(f"{title}, {name}: {error}") from error
        check_difference(difference, precision, f"{title}, {name}")
        worst |= difference
    LOGGER.info(f"{title}: largest difference to PyTorch {worst}")
    return worst
