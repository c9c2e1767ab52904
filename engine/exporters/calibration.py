"""Real images of a dataset in the form that a network takes, for 8-bit ranges and for checks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.augmentations import letterbox
from utils.console import LOGGER
from utils.datasets.dataset import check_dataset, list_images
from utils.datasets.images import COLOR8, PixelFormat, check_pixels, load_pixels


def calibration_images(
    data: str | Path | dict[str, Any], imgsz: tuple[int, int], pixels: PixelFormat = COLOR8
) -> Callable[[], Iterator[Tensor]]:
    """Return what `ExportOptions.real_images` needs: a function that starts a pass over the images of a dataset.

    Args:
        data: dataset YAML or its content; the images of `train` are taken, of `val` where there are none.
        imgsz: height and width of the frame that each image is fitted into.
        pixels: that the model reads; those of the dataset must be the same.

    A pass yields float32 (1, C, H, W) in 0..1, three channels RGB. It starts at the same image every time and jumps
    evenly through the sorted list, so that the first few already represent the whole dataset; damaged images are
    reported and skipped.

    Raises:
        ValueError, FileNotFoundError: from `check_dataset` and `list_images`.
    """
    found = check_dataset(data)
    check_pixels(pixels, found)
    try:
        files = list_images(found["train"])
    except FileNotFoundError:
        files = list_images(found["val"])
    order = sorted(range(len(files)), key=lambda i: (i * 0.6180339887498949) % 1.0)  # golden ratio: even in any prefix

    def images() -> Iterator[Tensor]:
        for i in order:
            try:
                image = letterbox(load_pixels(files[i], pixels), imgsz, auto=False)[0]
            except ValueError:
                LOGGER.warning(f"{files[i]}: damaged image, skipped in the calibration")
                continue
            image = image[..., ::-1] if pixels.channels == 3 else image
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))  # (C, H, W), three channels RGB
            yield torch.from_numpy(planes)[None].float() / 255

    return images
