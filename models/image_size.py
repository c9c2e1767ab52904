"""Image sizes that a network takes."""

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from utils.console import LOGGER


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
