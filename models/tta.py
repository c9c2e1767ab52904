"""Test-time augmentation: three views of a batch, their boxes brought back to the first one.

Shapes: B images, H W pixels of the network input, R rows of boxes, levels nl from fine to coarse.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.torch_utils import scale_img

VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # scale of the sides, flipped left to right


def forward_augmented(forward: Callable[[Tensor], Tensor], images: Tensor, stride: int, levels: int) -> Tensor:
    """Run a batch at three sizes, one of them mirrored.

    The coarsest level of the largest view and the finest level of the smallest one are left out: their objects are seen
    better by the other views.

    Args:
        forward: network in evaluation, images (B, 3, H, W) to boxes (B, R, 5 + nc) `[xywh_net, objectness, scores]`
            with the rows of the levels one after the other, finest first, each level a quarter of the one before.
        images: (B, 3, H, W), 0..1.
        stride: the sides of the views are padded to multiples of it.
        levels: nl, levels of the head.

    Returns:
        (B, R', 5 + nc) in pixels of `images`, the views one after the other.
    """
    width = images.shape[3]
    cells = sum(4**level for level in range(levels))  # of the coarsest level's size
    views = []
    for scale, flipped in VIEWS:
        view = scale_img(images.flip(3) if flipped else images, scale, gs=stride)
        rows = forward(view)
        boxes, scores = rows[..., :4] / scale, rows[..., 4:]
        if flipped:
            boxes = torch.cat((width - boxes[..., :1], boxes[..., 1:]), -1)
        views.append(torch.cat((boxes, scores), -1))
    first, last = views[0], views[-1]
    views[0] = first[:, : first.shape[1] - first.shape[1] // cells]
    views[-1] = last[:, last.shape[1] // cells * 4 ** (levels - 1) :]
    return torch.cat(views, 1)
