"""YOLOv5's address of attempt_load and Ensemble: models as detection needs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn

from models.common import C3 as C3
from models.common import CrossConv as CrossConv
from models.common import GhostBottleneck as GhostBottleneck
from models.common import GhostConv as GhostConv
from models.common import MixConv2d as MixConv2d
from models.weights.checkpoint import build_model, load_checkpoint
from models.yolo import DetectionModel
from utils.datasets.images import COLOR8
from utils.downloads.official_weights import find_weights


class Ensemble(nn.ModuleList):
    """Run models on the same images and put their boxes together for one non-maximum suppression.

    Evaluation only.

    Args:
        models: detectors in evaluation mode.

    Attributes:
        names, nc, yaml, pixels, trained_size: those of the first model. stride: of the model with the largest one.
            thresholds:
            None, as confidences are measured for single models.

    Raises:
        ValueError: no model, or models with different numbers of classes or other images.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        if not len(self):
            raise ValueError("an ensemble needs at least one model")
        classes = [model.nc for model in self]
        if len(set(classes)) > 1:
            raise ValueError(f"the models of an ensemble must have the same classes, but they have {classes} of them")
        first = self[0]
        self.pixels = getattr(first, "pixels", COLOR8)
        for model in self:
            if not self.pixels.same_scale(getattr(model, "pixels", COLOR8)):
                raise ValueError(f"the models of an ensemble read different images: {self.pixels} and {model.pixels}")
        self.names, self.nc, self.yaml, self.thresholds = first.names, first.nc, first.yaml, None
        self.trained_size = first.trained_size

    @property
    def stride(self) -> Tensor:
        """Pixels per cell of each level, of the model with the largest stride."""
        return max((model.stride for model in self), key=lambda stride: float(stride.max()))

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: bool = False
    ) -> tuple[Tensor, None]:
        """Run a batch (B, C, H, W); the arguments are those of `DetectionModel.forward`.

        Returns:
            Boxes (B, R1 + R2 + ..., 5 + nc), and None instead of the raw maps.
        """
        return torch.cat([model(x, augment, profile, visualize)[0] for model in self], 1), None


@overload
def attempt_load(
    weights: str | Path,
    device: str | torch.device | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: str | torch.device | None = None,
    window: int | Sequence[int] | None = None,
) -> DetectionModel: ...


@overload
def attempt_load(
    weights: Sequence[str | Path],
    device: str | torch.device | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: str | torch.device | None = None,
    window: int | Sequence[int] | None = None,
) -> DetectionModel | Ensemble: ...


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: str | torch.device | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: str | torch.device | None = None,
    window: int | Sequence[int] | None = None,
) -> DetectionModel | Ensemble:
    """Load a model for detection: averaged weights, float32, evaluation mode.

    Args:
        weights: checkpoint file, or the name of official weights (`find_weights`); a list of several makes an
            `Ensemble`, of one the model.
        device: where the model goes; None is the CPU.
        inplace: becomes `Detect.inplace`, see there.
        fuse: merge every BatchNorm into its convolution.
        map_location: what YOLOv5 up to 6.1 called `device`.
        window: another window for the Swin stages, or one for each (`DetectionModel.set_window`).

    Raises:
        FileNotFoundError, ValueError: as `find_weights`, `load_checkpoint` and `build_model`; models with different
            classes; a window that does not fit.
    """
    device = device or map_location or "cpu"
    if not isinstance(weights, str | Path):
        models = [attempt_load(file, device, inplace, fuse, window=window) for file in weights]
        return models[0] if len(models) == 1 else Ensemble(models)
    model = build_model(load_checkpoint(find_weights(weights)))
    model.detect.inplace = inplace
    if window:
        model.set_window(window)
    return (model.fuse() if fuse else model).to(device)
