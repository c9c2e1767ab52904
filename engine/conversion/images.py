"""The images of a conversion: which are learned from, which are held out, and batches of them. Labels are not read."""

import hashlib
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.augmentations import (
    FILL,
    apply_flips,
    apply_hsv,
    apply_perspective,
    draw_flips,
    draw_hsv,
    draw_perspective,
    perspective_matrix,
)
from utils.console import LOGGER
from utils.datasets.image_cache import free_memory
from utils.datasets.images import decode_image

FEWEST, FEW = 16, 64  # images: below the first a conversion is refused, below the second it is warned of
HELD_OUT, MOST_HELD_OUT = 16, 64  # at least and at most that many are held out; between them a tenth
SHARE_OF_MEMORY = 0.1  # of what is free: decoded images
NO_BOXES = np.zeros((0, 5), np.float32)


class TooFewImages(ValueError):  # noqa: N818
    """There are fewer images than a conversion needs."""


class Images:
    """Images to learn from and images held out.

    Args:
        files: images; damaged ones are replaced by others with a warning.
        imgsz: long side of the images in pixels.
        seed: of order, choice and augmentation. Batches depend on seed and number alone.
        stride: the sides of batches are multiples of it.

    Attributes:
        learned: files to learn from. held_out: the others.

    Raises:
        TooFewImages: fewer than `FEWEST`.
    """

    def __init__(self, files: Sequence[str], imgsz: int, seed: int = 0, stride: int = 32) -> None:
        if len(files) < FEWEST:
            raise TooFewImages(
                f"{len(files)} images; a conversion needs at least {FEWEST}, and works well from {FEW} on"
            )
        if len(files) < FEW:
            LOGGER.warning(f"only {len(files)} images: the twin may come near its teacher on these alone; add others")
        order = np.random.default_rng((seed, 0)).permutation(len(files))
        count = min(max(len(files) // 10, HELD_OUT), MOST_HELD_OUT, len(files) // 2)
        self.held_out = [files[i] for i in sorted(order[:count])]
        self.learned = [files[i] for i in sorted(order[count:])]
        self.imgsz, self.seed, self.stride = imgsz, seed, stride
        self._cache: dict[str, np.ndarray] = {}
        self._room = (free_memory() or 0) * SHARE_OF_MEMORY
        self._damaged: set[str] = set()

    def fingerprint(self) -> str:
        """Return a digest of names and sizes of all files, in order, and of size and seed."""
        digest = hashlib.sha256(f"{self.imgsz} {self.seed}".encode())
        for file in (*self.held_out, *self.learned):
            digest.update(f"{os.path.basename(file)}\0{os.path.getsize(file)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def batch(self, number: int, size: int) -> Tensor:
        """Return images to learn from, slightly changed, (size, 3, H, W) in 0..1; see `frame`.

        Args:
            number: of the batch, from 0 on; each pass over the images has an order of its own.
            size: images per batch.
        """
        n, images = len(self.learned), []
        for place in range(number * size, (number + 1) * size):
            order = np.random.default_rng((self.seed, 1, place // n)).permutation(n)
            rng = np.random.default_rng((self.seed, 2, place))
            images.append(self._augmented(self.learned[order[place % n]], rng))
        return to_tensor(frame(images, self.stride))

    def held_out_batch(self, start: int, size: int) -> Tensor:
        """Return images held out as they are, (B, 3, H, W) in 0..1; the last batch is smaller."""
        images = [self._read(file) for file in self.held_out[start : start + size]]
        return to_tensor(frame(images, self.stride))

    def _read(self, file: str) -> np.ndarray:
        """Return an image, BGR uint8, its long side at most `imgsz`; grey if it is damaged."""
        image = self._cache.get(file)
        if image is None:
            image = decode_image(file)
            if image is None:
                if file not in self._damaged:
                    LOGGER.warning(f"{file}: OpenCV cannot decode this image; a grey one takes its place")
                    self._damaged.add(file)
                image = np.full((self.imgsz, self.imgsz, 3), FILL, np.uint8)
            height, width = image.shape[:2]
            ratio = self.imgsz / max(height, width)
            if ratio != 1:
                size = max(round(width * ratio), 1), max(round(height * ratio), 1)
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
            if self._room > image.nbytes:
                self._room -= image.nbytes
                self._cache[file] = image
        return image

    def _augmented(self, file: str, rng: np.random.Generator) -> np.ndarray:
        """Return an image moved, scaled and coloured a little, half of the time mirrored; its size stays.

        Stronger changes, as in training, cost accuracy: the twin would imitate on images that it will not see.
        """
        image = self._read(file)
        size = image.shape[0], image.shape[1]
        warp = perspective_matrix(draw_perspective(rng, translate=0.1, scale=0.25), size, size)
        image, _ = apply_perspective(image, NO_BOXES, (), warp, size)
        image = apply_hsv(image[..., :3], draw_hsv(rng, 0.015, 0.4, 0.3))
        return apply_flips(image, NO_BOXES, draw_flips(rng, 0.0, 0.5))[0]


def frame(images: Sequence[np.ndarray], stride: int) -> list[np.ndarray]:
    """Pad images to one size, the largest height and width among them rounded up to the stride."""
    sides = zip(*(image.shape[:2] for image in images), strict=True)
    height, width = (math.ceil(max(side) / stride) * stride for side in sides)
    padded = []
    for image in images:
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        bottom, right = height - image.shape[0] - top, width - image.shape[1] - left
        padded.append(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(FILL,) * 3))
    return padded


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Stack BGR images (H, W, 3) uint8 of one size to RGB, (B, 3, H, W) float32 in 0..1."""
    stacked = np.stack(images)[..., ::-1].transpose(0, 3, 1, 2)  # (B, 3, H, W)
    return torch.from_numpy(np.ascontiguousarray(stacked)).float() / 255
