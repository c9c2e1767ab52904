"""A first convolution with another kernel than the teacher's, by least squares over patches of real images."""

from typing import Any

import torch
import torch.nn.functional as F

from engine.conversion.imitation import relative_error
from engine.unlabelled import Images
from models.common import Conv, Focus
from models.weights.twin import copy_stem_
from models.yolo import DetectionModel

IMAGES, BATCH = 64, 8
RIDGE = 1e-6  # of the mean of the diagonal


@torch.no_grad()
def fit_stem_(teacher: DetectionModel, twin: DetectionModel, images: Images) -> float:
    """Give the twin the kernel whose map before the normalisation is nearest to that of the teacher.

    The constant of the fit goes into the running mean of the normalisation, since `Conv` has no bias.

    Args:
        teacher: in evaluation mode.
        twin: its first layer is changed; the normalisation is taken from the teacher.
        images: to learn from; the batches are the same in every run.

    Returns:
        The error of the map before the normalisation; 0 if the kernel of the teacher is spread exactly.
    """
    theirs: Any = teacher.model[0]
    own: Any = twin.model[0]
    if copy_stem_(theirs, own):
        return 0.0
    inner = theirs.conv if isinstance(theirs, Focus) else theirs
    conv, device = own.conv, own.conv.weight.device
    count = conv.weight[0].numel() + 1  # with the constant
    gram = torch.zeros(count, count, dtype=torch.float64, device=device)
    product = torch.zeros(count, conv.out_channels, dtype=torch.float64, device=device)
    for number in range(IMAGES // BATCH):
        batch = images.batch(number, BATCH).to(device)
        patches = F.unfold(batch, conv.kernel_size, padding=conv.padding, stride=conv.stride)  # (B, C1 * k * k, P)
        rows = F.pad(patches.transpose(1, 2).flatten(0, 1).double(), (0, 1), value=1.0)  # (B * P, count)
        gram += rows.T @ rows
        product += rows.T @ _before_norm(theirs, inner, batch).permute(0, 2, 3, 1).flatten(0, 2).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, product)  # (count, C2)
    conv.weight.copy_(solution[:-1].T.view_as(conv.weight))
    own.bn.running_mean.sub_(solution[-1].to(own.bn.running_mean.dtype))
    test = images.held_out_batch(0, 2 * BATCH).to(device)
    fitted = conv(test) + solution[-1].float().view(1, -1, 1, 1)
    return float(relative_error(fitted, _before_norm(theirs, inner, test)))


def _before_norm(stem: Conv | Focus, inner: Conv, images: torch.Tensor) -> torch.Tensor:
    """Return the map of the first convolution."""
    if not isinstance(stem, Focus):
        return inner.conv(images)
    found: list[torch.Tensor] = []
    handle = inner.conv.register_forward_hook(lambda *args: found.append(args[2]))
    try:
        stem(images)
    finally:
        handle.remove()
    return found[0]
