"""Image sizes that a network takes."""

import math
from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cost import run_empty
from utils.console import LOGGER, size_text
from utils.options.check import SIDE, Untouched


def find_strides(model: nn.Module, channels: int) -> list[float]:
    """Return the pixels per cell of each map that a detector in training mode gives.

    Raises:
        IndexError, RuntimeError, TypeError, ValueError: the layers do not fit together.
    """
    return [256 / y.shape[-2] for y in run_empty(model, channels, (256, 256), lambda probe, images: probe(images))]


def input_stride(stride: Tensor | int) -> int:
    """Return what the sides of input images are multiples of: the largest stride of a model, at least 32."""
    return max(int(torch.as_tensor(stride).max()), 32)


def make_divisible(x: float, divisor: int) -> int:
    """Round `x` up to a multiple of `divisor`."""
    return math.ceil(x / int(divisor)) * int(divisor)


@overload
def check_img_size(imgsz: int, s: int = 32, floor: int = 0) -> int: ...


@overload
def check_img_size(imgsz: Sequence[int], s: int = 32, floor: int = 0) -> list[int]: ...


def check_img_size(imgsz: int | Sequence[int], s: int = 32, floor: int = 0) -> int | list[int]:
    """Return the image size the network can take: `imgsz` or `floor`, rounded up to a multiple of `s`, with a warning.

    Args:
        imgsz: side in pixels, at least 1; of several sides each is rounded.
        s: largest stride of the model.
        floor: smallest size allowed.

    Raises:
        ValueError: `imgsz` is below 1.
    """
    if isinstance(imgsz, Sequence):
        return [check_img_size(side, s, floor) for side in imgsz]
    if imgsz < 1:
        raise ValueError(f"image size {imgsz}: expected at least 1 pixel, for example {20 * int(s)}")
    size = make_divisible(max(imgsz, floor), s)
    if size != imgsz:
        LOGGER.warning(
            f"image size {imgsz} must be a multiple of {int(s)} and at least {max(floor, int(s))}: using {size}"
        )
    return size


def both_sides(imgsz: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width for what --imgsz gave: one side of a square, or both.

    Raises:
        ValueError: not one or two numbers of at least 1.
    """
    sides = [imgsz] if isinstance(imgsz, int) else list(imgsz)
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(
            f"--imgsz is {size_text(sides) or 'empty'}, but must be one size, or a height and a width, in pixels"
        )
    return sides[0], sides[-1]


def square_or_both(imgsz: int | Sequence[int]) -> int | tuple[int, int]:
    """Return the side of a square, or else height and width."""
    height, width = both_sides(imgsz)
    return height if height == width else (height, width)


def trained_size(recorded: object) -> tuple[int, int] | None:
    """Return height and width that a model was trained with, if these differ, out of what a file says; else None.

    Args:
        recorded: `imgsz` of the options in a checkpoint, or of the metadata of an exported file; may be anything.
    """
    if not isinstance(recorded, list | tuple) or len(recorded) != 2:
        return None
    height, width = recorded
    if not all(type(side) is int and 1 <= side <= SIDE.high for side in (height, width)) or height == width:
        return None
    return height, width


def default_size(
    imgsz: int | list[int], trained: tuple[int, int] | None, fixed: tuple[int, int] | None
) -> int | list[int]:
    """Return the image size of --imgsz or, where nobody gave it, `fixed` or `trained`, see `choose_size`."""
    known = fixed or trained
    if not isinstance(imgsz, Untouched) or known is None:
        return imgsz
    if not fixed:
        LOGGER.info(f"image size {size_text(known)} (height width), as the model was trained: --img was not given")
    return list(known) if known[0] != known[1] else known[0]


def choose_size(
    imgsz: int | list[int],
    stride: int,
    trained: tuple[int, int] | None = None,
    fixed: tuple[int, int] | None = None,
    floor: int = 0,
) -> tuple[int, int]:
    """Return height and width of the network input: each side rounded up to a multiple of the stride, with a warning.

    Args:
        imgsz: of the option --imgsz. Where nobody gave it, `fixed` or `trained` replace its default.
        stride: largest stride of the model.
        trained: see `trained_size`.
        fixed: the only size that a file takes; another one is not rounded, so that the caller can tell.
        floor: smallest side allowed.

    Raises:
        ValueError: not one or two numbers of at least 1.
    """
    asked = both_sides(default_size(imgsz, trained, fixed))
    if fixed:
        return asked
    if asked[0] == asked[1]:
        side = check_img_size(asked[0], stride, floor)
        return side, side
    return check_img_size(asked[0], stride, floor), check_img_size(asked[1], stride, floor)


def vary_size(
    images: Tensor, imgsz: int | tuple[int, int], stride: int, seed: tuple[int, ...], quad: bool = False
) -> Tensor:
    """Resize a batch (B, C, H, W) to a random size of 0.5 to 1.5 times the image size, for training.

    Args:
        images: of the image size or, in rectangular batches, within it.
        imgsz: a side, or height and width.
        stride: the sides become multiples of it.
        seed: of the draw, so that it depends on nothing else.
        quad: the images have twice the size.
    """
    rng, longest = np.random.default_rng(seed), max(both_sides(imgsz))
    size = int(rng.integers(longest // 2, longest * 3 // 2 + stride)) // stride * stride
    factor = size / (longest * 2 if quad else longest)
    if factor == 1:
        return images
    shape = [max(math.ceil(side * factor / stride) * stride, stride) for side in images.shape[2:]]
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)
