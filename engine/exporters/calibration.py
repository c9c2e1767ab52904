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
from utils.datasets.reader import decode_image


def calibration_images(data: str | Path | dict[str, Any], imgsz: tuple[int, int]) -> Callable[[], Iterator[Tensor]]:
    """Return what `ExportOptions.real_images` needs: a function that starts a pass over the images of a dataset.

    Args:
        data: dataset YAML or its content; the images of `train` are taken, of `val` where there are none.
        imgsz: height and width of the frame that each image is fitted into.

    A pass yields float32 (1, 3, H, W) RGB in 0..1. It starts at the same image every time and jumps evenly through the
    sorted list, so that the first few already represent the whole dataset; damaged images are reported and skipped.

    Raises:
        ValueError, FileNotFoundError: from `check_dataset` and `list_images`.
    """
    found = check_dataset(data)
    try:
        files = list_images(found["train"])
    except FileNotFoundError:
        files = list_images(found["val"])
    order = sorted(range(len(files)), key=lambda i: (i * 0.6180339887498949) % 1.0)  # golden ratio: even in any prefix

    def images() -> Iterator[Tensor]:
        for i in order:
            image = decode_image(files[i])
            if image is None:
                LOGGER.warning(f"{files[i]}: damaged image, skipped in the calibration")
                continue
            image = letterbox(image, imgsz, auto=False)[0]
            pixels = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))  # (3, H, W) RGB
            yield torch.from_numpy(pixels)[None].float() / 255

    return images
