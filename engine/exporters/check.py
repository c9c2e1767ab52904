"""Compare a file that was just written with the model it was made from, in the file's own runtime."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from engine.exporters.compare import Difference, boxes_of, check_difference, measure
from engine.exporters.onnx_check import check_inputs
from utils.console import LOGGER
from utils.options.export import ExportOptions
from utils.thresholds import CONF_THRES

INT8_SCORE = 0.1  # mean difference of its scores; trained detectors of BCCD have 0.01


@torch.inference_mode()
def check_file(
    title: str,
    run: Callable[[Tensor], Tensor | ArrayLike | Sequence[Tensor | ArrayLike]],
    model: nn.Module,
    images: Tensor,
    options: ExportOptions,
    metadata: dict[str, Any],
) -> Difference:
    """Run the file and the model on noise, at several sizes if these are dynamic, and on real images if there are any.

    Args:
        title: name of the format, for messages.
        run: images, float32 (B, C, H, W) on the CPU, to boxes (B, R, 5 + classes), or to all outputs of the file.
        model: float32 model that returns (boxes,), or its raw maps.
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
    LOGGER.info(f"{title}: comparing the file with PyTorch")
    for name, batch in check_inputs(options, int(metadata["stride"]), images.shape[1]):
        expected = boxes_of(model, model(batch.to(device)))
        try:
            found = boxes_of(model, run(batch))
            difference = measure(expected, found)
        except ValueError as error:
            raise ValueError(f"{title}, {name}: {error}") from error
        if options.int8 and name.startswith("random"):
            continue  # the ranges were taken from photographs; noise is outside of them, only its shape counts
        if options.int8:
            check_confident(expected.cpu(), found.cpu(), f"{title}, {name}")
        else:
            check_difference(difference, precision, f"{title}, {name}")
        worst |= difference
    LOGGER.info(f"{title}: largest difference from PyTorch {worst}")
    return worst


def check_confident(expected: Tensor, found: Tensor, what: str) -> None:
    """Raise ValueError if 8 bits have changed the confident boxes by more than `INT8_SCORE` on average.

    The largest difference says little in 8 bits: among thousands of boxes a few always change a lot. The accuracy of
    such a file must be measured as mAP; this check only guards against a broken one.

    Args:
        expected: boxes (B, R, 5 + classes) of the model.
        found: those of the file.
        what: file and input, for the message.

    Raises:
        ValueError: with the mean difference of objectness and scores over the boxes of objectness above `CONF_THRES`.
    """
    rows = (expected[..., 4] > CONF_THRES) | (found[..., 4] > CONF_THRES)
    mean = (expected - found)[rows][:, 4:].abs().mean().item() if rows.any() else 0.0
    if mean > INT8_SCORE:
        raise ValueError(
            f"{what}: the {int(rows.sum())} boxes with objectness above {CONF_THRES} differ from PyTorch by {mean:.2g} "
            f"in score on average; the limit is {INT8_SCORE} (int8)"
        )
