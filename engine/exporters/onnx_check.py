"""Check an ONNX file after it was written: ONNX's own checker, then ONNX Runtime against the PyTorch model."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.exporters.compare import Difference, boxes_of, check_difference, measure
from engine.exporters.onnx_nms import BOXES, OUTPUTS
from utils.console import LOGGER
from utils.nms import non_max_suppression
from utils.options.export import ExportOptions

REAL_IMAGES = 4  # of the dataset, run through both
DRAWN = 400  # boxes for the check of NMS


def make_session(file: str | Path | bytes) -> Any:
    """Load a file, or the bytes of one, on the CPU with PyTorch's number of threads and only errors logged."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    source = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


def check_sizes(options: ExportOptions, stride: int) -> list[tuple[int, int, int]]:
    """Return the (batch, height, width) at which a file is compared.

    A file with fixed sizes has one. One with dynamic sizes is also run at other batches, at sizes that windows do not
    divide, and where the coarsest map is a single cell high, less than any window.
    """
    height, width = options.imgsz
    if not options.dynamic:
        return [(options.batch_size, height, width)]
    half = -(-height // (2 * stride)) * stride
    return [(1, height, width), (2, half, width + stride), (3, height + 3 * stride, half), (2, stride, 2 * stride)]


def check_inputs(options: ExportOptions, stride: int, channels: int) -> Iterator[tuple[str, Tensor]]:
    """Yield a name and images, float32 (B, C, H, W) in 0..1: noise at each of `check_sizes`, then real images."""
    chance = torch.Generator().manual_seed(0)
    for batch, height, width in check_sizes(options, stride):
        name = f"random {batch}x{channels}x{height}x{width}"
        yield name, torch.rand(batch, channels, height, width, generator=chance)
    if options.real_images is not None:
        for i, image in enumerate(islice(options.real_images(), REAL_IMAGES)):
            yield f"real image {i + 1}", image.repeat(1 if options.dynamic else options.batch_size, 1, 1, 1)


@torch.inference_mode()
def compare_onnx(session: Any, model: nn.Module, inputs: Iterator[tuple[str, Tensor]], precision: str) -> Difference:
    """Run both on all inputs and log the largest differences.

    Args:
        session: file with the output `output0`, or the maps `output0`, `output1`, ...
        model: float32 model that returns (boxes,), or its raw maps.
        inputs: from `check_inputs`.
        precision: key of `compare.TOLERANCE`.

    Raises:
        ValueError: a difference above the tolerance, a shape or a value that is wrong; names the input.
    """
    worst = {"random": Difference(), "real": Difference()}
    device = next(model.parameters()).device
    LOGGER.info("ONNX: comparing the file with PyTorch")
    for name, images in inputs:
        expected = boxes_of(model, model(images.to(device)))
        outputs = session.run(None, {"images": images.numpy()})
        try:
            found = boxes_of(model, outputs)
            difference = measure(expected, found)
        except ValueError as error:
            raise ValueError(f"ONNX, {name}: {error}") from error
        check_difference(difference, precision, f"ONNX, {name}")
        worst[name.split()[0]] |= difference
    LOGGER.info(f"ONNX: largest difference on random images {worst['random']}")
    if worst["real"] != Difference():
        LOGGER.info(f"ONNX: largest difference on real images {worst['real']}")
    return worst["random"] | worst["real"]


def check_nms(
    session: Any, plain: Any, alone: Any, inputs: Iterator[tuple[str, Tensor]], options: ExportOptions, nc: int
) -> None:
    """Compare the detections of a file with those that `non_max_suppression` makes of the same boxes.

    Images give as many detections as the weights find, which may be none; drawn boxes always give some.

    Args:
        session: file with the outputs `detections` and `num`.
        plain: the same graph before the suppression was added.
        alone: its suppression, see `onnx_nms.suppression`.
        inputs: from `check_inputs`.
        options: thresholds of the file.
        nc: classes.

    Raises:
        ValueError: another number of detections, another order or class, a value off by more than 1e-3 of its size, or
            no detection at all.
    """
    drawn = 0
    for above in {min(options.topk_all, DRAWN // 2), DRAWN // 2}:  # fewer than --topk-all, and more where possible
        boxes = drawn_boxes(nc, options, above)
        drawn += _compare_nms(boxes, alone.run(list(OUTPUTS), {BOXES: boxes.numpy()}), options, "drawn boxes")
    if not drawn:
        raise ValueError(f"ONNX NMS: --conf-thres {options.conf_thres:g} lets no detection pass: give a lower one")
    total = 0
    for name, images in inputs:
        feed = {"images": images.numpy()}
        (found,) = plain.run([BOXES], feed)
        total += _compare_nms(torch.from_numpy(found), session.run(list(OUTPUTS), feed), options, name)
    LOGGER.info(f"ONNX: NMS in the graph matches PyTorch on {drawn} detections of drawn boxes, {total} of the images")


def drawn_boxes(nc: int, options: ExportOptions, count: int) -> Tensor:
    """Draw boxes (B, R, 5 + nc) `[xywh_net, objectness, class scores]` that overlap; `count` are above --conf-thres."""
    chance, floor = torch.Generator().manual_seed(0), options.conf_thres
    shape = (options.batch_size, DRAWN)
    near = torch.rand(*shape, 4, generator=chance)
    group = torch.randint(0, count // 8 + 1, shape, generator=chance)  # about eight of them in each place
    corner = torch.stack((group % 8, group // 8), -1) * 70.0
    above = floor + (1 - floor) * (torch.arange(count) + 0.5) / count  # all different, so that the order is certain
    confidence = torch.cat((above, torch.rand(DRAWN - count, generator=chance) * floor * 0.9))
    order = torch.stack([torch.randperm(DRAWN, generator=chance) for _ in range(shape[0])])
    scores = torch.rand(*shape, nc, generator=chance) * 0.9
    scores.scatter_(-1, torch.randint(0, nc, (*shape, 1), generator=chance), 1.0)
    place = torch.cat((corner + 40 + near[..., :2] * 20, 30 + near[..., 2:] * 30), -1)
    return torch.cat((place, confidence[order][..., None], scores), -1)


def _compare_nms(boxes: Tensor, outputs: list[np.ndarray], options: ExportOptions, name: str) -> int:
    """Return how many detections were compared; errors as `check_nms`."""
    expected = non_max_suppression(
        boxes, options.conf_thres, options.iou_thres, agnostic=options.agnostic_nms, max_det=options.topk_all
    )
    for rows, found, number in zip(expected, *outputs, strict=True):
        if number != len(rows):
            raise ValueError(f"ONNX NMS, {name}: {number} detections, expected {len(rows)}")
        padded = np.zeros_like(found)
        padded[:number] = rows.numpy()
        if not np.allclose(found, padded, rtol=1e-3, atol=1e-3):
            raise ValueError(f"ONNX NMS, {name}: the detections differ by up to {np.abs(found - padded).max():.3g}")
    return sum(map(len, expected))
