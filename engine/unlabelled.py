"""Images to learn from without labels: which are learned from, which are held out, and batches of them."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from utils.datasets.lists import list_images
from utils.datasets.reader import Split, pixels_of

FEWEST, FEW = 16, 64  # images: fewer than the first are refused, fewer than the second are warned of
HELD_OUT, MOST_HELD_OUT = 16, 64  # at least and at most that many are held out; between them a tenth
SHARE_OF_MEMORY = 0.1  # of what is free: decoded images
NO_BOXES = np.zeros((0, 5), np.float32)


class TooFewImages(ValueError):  # noqa: N818
    """There are too few images."""


def change_slightly(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image moved, scaled and coloured a little, half of the time mirrored; its size stays.

    Stronger changes, as in training, cost accuracy: the twin would imitate on images that it will not see.
    """
    size = image.shape[0], image.shape[1]
    warp = perspective_matrix(draw_perspective(rng, translate=0.1, scale=0.25), size, size)
    image, _ = apply_perspective(image, NO_BOXES, (), warp, size)
    image = apply_hsv(image[..., :3], draw_hsv(rng, 0.015, 0.4, 0.3))
    return apply_flips(image, NO_BOXES, draw_flips(rng, 0.0, 0.5))[0]


class Images:
    """Images to learn from and images held out.

    Args:
        files: images; damaged ones are replaced by others with a warning.
        imgsz: long side of the images in pixels.
        seed: of order, choice and augmentation. Batches depend on seed and number alone.
        stride: the sides of batches are multiples of it.
        change: augmentation, from an image (H, W, 3) BGR uint8 and a random generator to another image.
        copies: processes that keep decoded images, each of its own.

    Attributes:
        learned: files to learn from. held_out: the others.

    Raises:
        TooFewImages: fewer than `FEWEST`.
    """

    def __init__(
        self,
        files: Sequence[str],
        imgsz: int,
        seed: int = 0,
        stride: int = 32,
        change: Callable[[np.ndarray, np.random.Generator], np.ndarray] = change_slightly,
        copies: int = 1,
    ) -> None:
        if len(files) < FEWEST:
            raise TooFewImages(
                f"{len(files)} images; learning without labels needs at least {FEWEST}, and works well from {FEW} on"
            )
        if len(files) < FEW:
            LOGGER.warning(f"only {len(files)} images: what is learned may fit these alone; add others")
        order = np.random.default_rng((seed, 0)).permutation(len(files))
        count = min(max(len(files) // 10, HELD_OUT), MOST_HELD_OUT, len(files) // 2)
        self.held_out = [files[i] for i in sorted(order[:count])]
        self.learned = [files[i] for i in sorted(order[count:])]
        self.imgsz, self.seed, self.stride, self.change = imgsz, seed, stride, change
        self._cache: dict[str, np.ndarray] = {}
        self._room = (free_memory() or 0) * SHARE_OF_MEMORY / copies
        self._damaged: set[str] = set()
        self._order: tuple[int, np.ndarray] | None = None  # of the last pass: a pass, and the order of its images

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
            if self._order is None or self._order[0] != place // n:
                self._order = place // n, np.random.default_rng((self.seed, 1, place // n)).permutation(n)
            rng = np.random.default_rng((self.seed, 2, place))
            images.append(self._augmented(self.learned[self._order[1][place % n]], rng))
        return to_tensor(frame(images, self.stride))

    def held_out_batch(self, start: int, size: int) -> Tensor:
        """Return images held out as they are, (B, 3, H, W) in 0..1; the last batch is smaller."""
        images = [self.read(file) for file in self.held_out[start : start + size]]
        return to_tensor(frame(images, self.stride))

    def read(self, file: str) -> np.ndarray:
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
        return self.change(self.read(file), rng)


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


def images_to_learn(
    images: str | Path | Sequence[str | Path] | None, table: Mapping[str, Any] | None, source: str = ""
) -> list[str]:
    """Return the images that the user named, and the training images of a dataset; none that validates it.

    Args:
        images: folders or lists of images.
        table: of `check_dataset`, or None.
        source: its file, for messages.

    Raises:
        ValueError: neither is given, or the dataset has other than 8-bit colour images.
        FileNotFoundError: of a folder or list.
    """
    entries = [images] if isinstance(images, str | Path) else list(images or [])
    if table:
        if not pixels_of(table["train"]).plain:
            kind = pixels_of(table["train"])
            raise ValueError(f"{source}: learning without labels takes 8-bit colour images, not {kind}")
        entries += split_images(table["train"])
    if not entries:
        raise ValueError("no images: pass --images FOLDER, or --data with a dataset YAML")
    files = sorted(set(list_images(entries)))
    return without_validation(files, table) if table else files


def split_images(split: Any) -> list[str]:
    """Return the folders or lists of the images of a split, whatever the format of its labels."""
    entries = Split.of(split).images
    return [str(entries)] if isinstance(entries, str | Path) else [str(entry) for entry in entries]


def without_validation(files: list[str], table: Mapping[str, Any]) -> list[str]:
    """Leave out the images that the dataset validates or tests with: they shall measure what they did not teach."""
    used = {
        os.path.realpath(file)
        for key in ("val", "test")
        if table[key]
        for file in list_images([e for e in split_images(table[key]) if Path(e).exists()] or split_images(table["val"]))
    }
    kept = [file for file in files if os.path.realpath(file) not in used]
    if len(kept) < len(files):
        LOGGER.info(f"{len(files) - len(kept)} images of the validation or test split left out")
    return kept
