"""Several detectors as one: their boxes side by side for one non-maximum suppression."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.ModuleList):
    """Run models on the same images and put their boxes together.

    Evaluation only: `forward(images)` gives (boxes (B, R1 + R2 + ..., 5 + nc), None).

    Args:
        models: detectors in evaluation mode.

    Attributes:
        names, nc, yaml: those of the first model. stride: of the model with the largest one.

    Raises:
        ValueError: no model, or models with different numbers of classes.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        if not len(self):
            raise ValueError("an ensemble needs at least one model")
        classes = [model.nc for model in self]
        if len(set(classes)) > 1:
            raise ValueError(f"the models of an ensemble must have the same classes, but they have {classes} of them")
        first = self[0]
        self.names, self.nc, self.yaml = first.names, first.nc, first.yaml

    @property
    def stride(self) -> Tensor:
        """Pixels per cell of each level, of the model with the largest stride."""
        return max((model.stride for model in self), key=lambda stride: float(stride.max()))

    def forward(self, x: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """Run images (B, 3, H, W); return boxes (B, R1 + R2 + ..., 5 + nc) and no raw maps."""
        return torch.cat([model(x, augment=augment)[0] for model in self], 1), None
