"""A backbone that fills in hidden parts of an image: SimMIM, arXiv:2111.09886.

Random square patches of the image are hidden, the backbone sees the rest, and one linear layer on its last map predicts
the pixels. The loss is the mean absolute error of the hidden pixels alone (section 3.4, L = |y_M - x_M|_1 / n(x_M)).
The paper hides patches behind its patch embedding, by a learned vector; here convolutions come before the first window,
so the pixels themselves are replaced, by a learned colour. What is predicted is the difference from the mean colour of
the pixels that are seen, as the paper predicts normalised pixels: both begin near nothing.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cost import run_empty
from models.weights.twin import run_layers
from models.yolo import DetectionModel
from utils.augmentations import FILL


class MaskedImageModel(nn.Module):
    """Backbone, mask colour and the linear layer that predicts pixels.

    Args:
        detector: whose backbone learns; the rest of it is not run.

    Attributes:
        layers: number of layers of the backbone. stride: of its last map, in pixels.
        token: what stands in hidden pixels, (1, ch, 1, 1). head: from the last map to stride^2 pixels per cell.

    Raises:
        ValueError: the last layer of the backbone gives no single map.
    """

    def __init__(self, detector: DetectionModel) -> None:
        super().__init__()
        channels, size = detector.yaml["ch"], 256
        self.layers = len(detector.yaml["backbone"])
        map_ = run_empty(detector, channels, (size, size), self.last_map)
        self.stride = size // map_.shape[-1]
        self.backbone = detector.model[: self.layers]
        self.token = nn.Parameter(torch.full((1, channels, 1, 1), FILL / 255))
        self.head = nn.Conv2d(map_.shape[1], channels * self.stride**2, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self._detector = [detector]  # in a list: its head is no part of this model

    def last_map(self, detector: DetectionModel, images: Tensor) -> Tensor:
        """Run the backbone; the last map, (B, C, H / stride, W / stride)."""
        *_, (_, map_) = run_layers(detector, images, self.layers)
        return map_

    def forward(self, images: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hide pixels and predict them.

        Args:
            images: (B, ch, H, W) in 0..1, sides multiples of the stride.
            hidden: (B, 1, H, W) bool.

        Returns:
            The loss, a scalar in float32, and the predicted images, (B, ch, H, W).
        """
        map_ = self.last_map(self._detector[0], torch.where(hidden, self.token.to(images), images))
        predicted = seen_mean(images, hidden) + F.pixel_shuffle(self.head(map_), self.stride).float()
        error = (predicted - images).abs() * hidden
        return error.sum() / (hidden.sum() * images.shape[1]), predicted


def seen_mean(images: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean colour of the pixels that are seen, (B, ch, 1, 1); arguments as of `MaskedImageModel`."""
    return (images * ~hidden).sum((2, 3), keepdim=True) / (~hidden).sum((2, 3), keepdim=True)


def draw_hidden(rng: np.random.Generator, images: int, size: int, patch: int, ratio: float) -> Tensor:
    """Draw which pixels are hidden: in each image the same number of square patches, anywhere on a grid.

    Args:
        rng: source of the numbers.
        images: how many.
        size: side of the images, a multiple of `patch`.
        patch: side of the patches.
        ratio: part of the patches, 0..1; at least one is hidden and one is seen.

    Returns:
        (images, 1, size, size) bool.
    """
    side = size // patch
    count = min(max(round(ratio * side**2), 1), side**2 - 1)
    order = np.argsort(rng.random((images, side**2)), axis=1)
    grid = torch.from_numpy(order < count).view(images, 1, side, side)
    return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
