"""Feature maps of a model as images and arrays."""

import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.annotate import write_image
from utils.console import LOGGER
from utils.files import write_whole

CHANNELS = 32  # shown in an image
COLUMNS = 8
SMALLEST = 64  # pixels of the shorter side of a channel in an image; smaller maps are enlarged
GAP = 2


class FeatureMaps:
    """Save the outputs of the layers of a model. A context manager: leaving it removes the hooks.

    For each layer but the last (Detect) whose map is larger than one cell: `stage<i>_<Module>_features.png` with the
    first 32 channels in 8 columns, each from its own smallest value (dark) to its largest (bright), and the whole map
    of the first image as `.npy`, (C, H, W) float32.

    Args:
        model: has the rows as `model.model`; see `DetectionModel`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._folder: Path | None = None
        rows = list(model.model)[:-1]
        self._seen: set[int] = set()
        self._hooks = [row.register_forward_hook(self._hook(i, row)) for i, row in enumerate(rows)]

    def __enter__(self) -> "FeatureMaps":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def save_next(self, folder: Path) -> None:
        """Save the maps of the next forward pass into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seen = folder, set()

    def done(self) -> None:
        """Stop saving until the next `save_next`, and log where the maps are."""
        if self._folder:
            LOGGER.info(f"feature maps of {len(self._seen)} modules saved to {self._folder}")
        self._folder = None

    def _hook(self, i: int, row: nn.Module) -> Callable[..., None]:
        name = kind_of(row)

        def hook(_: nn.Module, __: tuple, output: Tensor) -> None:
            if self._folder is None or i in self._seen:  # later passes are other views or tiles of the same image
                return
            if not isinstance(output, Tensor) or output.ndim != 4 or max(output.shape[2:]) <= 1:
                return
            self._seen.add(i)
            save_features(output, self._folder / f"stage{i}_{name}_features")

        return hook


def kind_of(row: Any) -> str:
    """Return the name of the block of a row, such as Conv."""
    return str(getattr(row, "type", type(row).__name__)).rpartition(".")[2]


def save_array(file: Path, values: NDArray) -> None:
    """Write an array as .npy."""
    array = BytesIO()
    np.save(array, values)
    write_whole(file, array.getvalue())


def save_features(maps: Tensor, file: Path, channels: int = CHANNELS) -> None:
    """Write the map of the first image, (B, C, H, W), as `file` with .npy and, of its first channels, with .png."""
    features = maps[0].detach().float().cpu().numpy()  # (C, H, W)
    save_array(file.with_suffix(".npy"), features)
    write_image(file.with_suffix(".png"), feature_picture(features[:channels]))


def feature_visualization(
    x: Tensor, module_type: str, stage: int, n: int = CHANNELS, save_dir: str | Path = "runs/detect/exp"
) -> None:
    """Save a feature map in YOLOv5's call form; `utils.plots.feature_visualization` is this function.

    Args:
        x: (B, C, H, W); one of 1 x 1 cells, or of a layer "Detect", is not saved.
        module_type: layer that made it, such as "models.common.Conv".
        stage: number of the layer.
        n: most channels of the image.
        save_dir: folder of the files, made if necessary.
    """
    if "Detect" in module_type or max(x.shape[2:]) <= 1:
        return
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    save_features(x, Path(save_dir) / f"stage{stage}_{module_type.rpartition('.')[2]}_features", n)


def feature_picture(features: NDArray) -> NDArray:
    """Lay out channels of a map in 8 columns.

    Args:
        features: (C, H, W) float.

    Returns:
        (H2, W2, 3) BGR uint8; a constant channel is dark, white lines separate the channels.
    """
    shown = features.astype(np.float32)
    low, high = shown.min((1, 2), keepdims=True), shown.max((1, 2), keepdims=True)
    grey = ((shown - low) / np.maximum(high - low, 1e-12) * 255).astype(np.uint8)  # (n, H, W)
    scale = max(math.ceil(SMALLEST / min(grey.shape[1:])), 1)
    h, w = grey.shape[1] * scale, grey.shape[2] * scale
    columns = min(COLUMNS, len(grey))
    rows = math.ceil(len(grey) / columns)
    picture = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, 3), 255, np.uint8)
    for i, channel in enumerate(grey):
        y, x = i // columns * (h + GAP), i % columns * (w + GAP)
        large = cv2.resize(channel, (w, h), interpolation=cv2.INTER_NEAREST)
        picture[y : y + h, x : x + w] = cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)
    return picture
