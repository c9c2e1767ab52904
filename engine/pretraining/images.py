"""Batches of masked images, by their number alone, so that a run that was stopped goes on with the same ones."""

import math

import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from engine.pretraining.masked import draw_hidden
from engine.unlabelled import Images

AREA, RATIO = (0.67, 1.0), (3 / 4, 4 / 3)  # of the crop: part of the image, width by height; SimMIM, section 4.1


def crop_and_flip(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a random part of an image, half of the time mirrored, as a square: SimMIM's light augmentation.

    Args:
        image: (H, W, C).
        rng: source of the numbers.
        size: side of the square in pixels.
    """
    height, width = image.shape[:2]
    area = rng.uniform(*AREA) * height * width
    ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
    w = min(max(round(math.sqrt(area * ratio)), 1), width)
    h = min(max(round(math.sqrt(area / ratio)), 1), height)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    crop = cv2.resize(image[y : y + h, x : x + w], (size, size), interpolation=cv2.INTER_LINEAR)
    crop = crop.reshape(size, size, image.shape[2])  # OpenCV drops the axis of a single channel
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


class MaskedBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batches by number: images (B, ch, size, size) in 0..1, and which of their pixels are hidden, (B, 1, size, size).

    Args:
        images: whose `change` gives squares.
        batch_size: images per batch.
        patch: side of the hidden patches in pixels. ratio: part of them that is hidden.
    """

    def __init__(self, images: Images, batch_size: int, patch: int, ratio: float) -> None:
        self.images, self.batch_size, self.patch, self.ratio = images, batch_size, patch, ratio

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a number from 0 on."""
        rng = np.random.default_rng((self.images.seed, 3, number))
        images = self.images.batch(number, self.batch_size)
        return images, draw_hidden(rng, len(images), self.images.imgsz, self.patch, self.ratio)
