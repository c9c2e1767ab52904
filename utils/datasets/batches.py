"""Batches: which images share one and its frame, and how samples are put together."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]] | None
Sample = tuple[Tensor, Tensor, str, Shapes]


def rect_batches(
    sizes: np.ndarray, batch_size: int, imgsz: int | tuple[int, int], stride: int, pad: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sort images by aspect ratio and find the smallest frame for each batch.

    Args:
        sizes: (N, 2) width and height.
        batch_size: images per batch.
        imgsz: long side of every image, or height and width of the frame that each fills.
        stride: frames are multiples of it.
        pad: strides added before rounding up.

    Returns:
        The order, N image numbers, flat images first; and (ceil(N / batch_size), 2) frame (height, width) in pixels.
    """
    aspect = sizes[:, 1] / sizes[:, 0]
    order = aspect.argsort(kind="stable")
    aspect = aspect[order]
    starts = np.arange(0, len(aspect), batch_size)
    low, high = aspect[starts], np.maximum.reduceat(aspect, starts)
    height, width = np.broadcast_to(imgsz, 2).tolist()
    frame = np.stack((np.minimum(high * width, height), np.minimum(1 / low * height, width)), 1)
    return order, np.ceil(frame / stride + pad).astype(int) * stride


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, list[str], list[Shapes]]:
    """Put samples of one shape into a batch.

    Returns:
        Images (B, C, H, W) uint8, three channels RGB, or float32 of 0..255 if one is; targets (T, 6) float32 `[image in
        batch, class, xywhn]`; B paths; B shapes as in `LoadImagesAndLabels.__getitem__`.
    """
    planes, labels, paths, shapes = zip(*samples, strict=True)
    images = list(planes)
    targets = torch.cat(labels, 0)
    counts = torch.tensor([len(s[1]) for s in samples])
    if len({image.dtype for image in images}) > 1:  # a deep image among others
        images = [image.float() for image in images]
    targets[:, 0] = torch.repeat_interleave(torch.arange(len(samples)), counts)
    return default_collate(images), targets, list(paths), list(shapes)  # stacks in shared memory in a worker


def collate_quad(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, list[str], list[Shapes]]:
    """Put four samples each into one of twice the sides: tiled 2 x 2, or the first of them enlarged.

    Which of the two comes from the pixels, so that it depends on neither workers nor order. Result as in `collate`, a
    quarter of the batch with images (B / 4, 3, 2 H, 2 W).
    """
    return collate([_quad(samples[i : i + 4]) for i in range(0, len(samples), 4)])


def _quad(four: Sequence[Sample]) -> Sample:
    """Make one sample of four: 0 top left, 1 below it, 2 to the right of 0, 3 diagonal; or 0 enlarged."""
    images, labels, paths, _ = zip(*four, strict=True)
    if np.random.default_rng(zlib.crc32(images[0].numpy())).random() < 0.5:
        image = F.interpolate(images[0][None].float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        image = image.round() if images[0].dtype == torch.uint8 else image
        return image[0].to(images[0].dtype), labels[0], paths[0], None
    columns = [torch.cat(images[:2], 1), torch.cat(images[2:], 1)]
    moved = []
    for i, x in enumerate(labels):
        moved.append(torch.cat((x[:, :2], (x[:, 2:4] + torch.tensor([i // 2, i % 2])) / 2, x[:, 4:] / 2), 1))
    return torch.cat(columns, 2), torch.cat(moved), paths[0], None
