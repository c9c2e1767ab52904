"""Image sizes that a network takes."""

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from utils.console import LOGGER, size_text
from utils.options.check import SIDE, Untouched


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
        raise ValueError(f"--imgsz is {size_text(sides)}, but must be one size, or a height and a width, in pixels")
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


def choose_size(
    imgsz: int | Sequence[int],
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
    asked = both_sides(imgsz)
    if isinstance(imgsz, Untouched):
        asked = fixed or trained or asked
    if fixed:
        return asked
    if asked[0] == asked[1]:
        side = check_img_size(asked[0], stride, floor)
        return side, side
    return check_img_size(asked[0], stride, floor), check_img_size(asked[1], stride, floor)
