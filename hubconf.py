"""torch.hub entry points; a plain `import hubconf` from the repository works as well.

torch.hub.load("path/to/repository", "custom", path="best.pt", source="local")
torch.hub.load("path/to/repository", "yolov5s_swinv2", classes=3, source="local")
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from models.autoshape import AutoShape
from models.backends import DetectMultiBackend
from models.checkpoint import load_checkpoint
from models.transfer import transfer_weights
from models.yolo import DetectionModel
from utils.general import LOGGER, ROOT
from utils.torch_utils import select_device

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "yaml", "tqdm", "matplotlib"]


@contextmanager
def _logging(verbose: bool) -> Iterator[None]:
    """Log only warnings inside the block unless `verbose`."""
    level = LOGGER.level
    LOGGER.setLevel(level if verbose else logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def custom(
    path: str | Path, autoshape: bool = True, _verbose: bool = True, device: str | torch.device | None = None
) -> nn.Module:
    """Load weights of your own.

    Args:
        path: .pt file, or a file of another format that `DetectMultiBackend` reads.
        autoshape: return an `AutoShape` that takes pictures of any kind. Otherwise the network itself, not fused, in
            evaluation mode (of other formats the `DetectMultiBackend`).
        _verbose: log the device.
        device: "cpu", "0", "cuda:0", ...; None takes CUDA if there is one.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be used.
    """
    with _logging(_verbose):
        backend = DetectMultiBackend(path, select_device(device or ""), fuse=autoshape)
    if autoshape:
        return AutoShape(backend)
    return backend.backend.model if backend.pt else backend


def _create(
    name: str,
    pretrained: bool = False,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    _verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Build a model of this size.

    This project ships no weights, so the default is a network that is to be trained: it is returned as it is, in
    training mode, and `autoshape` does not apply.

    Args:
        name: of the model file, set by the entry point.
        pretrained: start from `<name>.pt` in the working directory or the repository (`yolov5s_swinv2` looks for
            yolov5s-swinv2.pt). With 3 channels and as many classes as the file has, the result is that of `custom`;
            otherwise what fits is copied, and the network returned to be trained.
        channels: of the images.
        classes: how many.
        autoshape: see `custom`; for complete weights only.
        _verbose: log the table of the network and the device.
        device: see `custom`.

    Raises:
        FileNotFoundError: pretrained, but there is no such file.
    """
    stem = name.replace("_", "-")
    ckpt = None
    if pretrained:
        file = next((f for f in (Path(f"{stem}.pt"), ROOT / f"{stem}.pt") if f.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"{stem}.pt: no weights come with this project, and there is no such file in {Path.cwd()} or {ROOT}. "
                "Use pretrained=False, or 'custom' with path= for weights of your own"
            )
        ckpt = load_checkpoint(file)
        if channels == ckpt["yaml"]["ch"] and classes == ckpt["yaml"]["nc"]:
            return custom(file, autoshape, _verbose, device)
    with _logging(_verbose):
        model = DetectionModel(ROOT / f"models/{stem}.yaml", channels, classes, verbose=_verbose)
        if ckpt:
            transfer_weights(model, ckpt, exclude=("anchors",)).log(f"{stem}.pt")
        return model.to(select_device(device or ""))


SIZES = "nsmlx"
yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (partial(_create, f"yolov5{size}") for size in SIZES)
yolov5n_swinv2, yolov5s_swinv2, yolov5m_swinv2, yolov5l_swinv2, yolov5x_swinv2 = (
    partial(_create, f"yolov5{size}_swinv2") for size in SIZES
)
for _entry in list(globals().values()):
    if isinstance(_entry, partial):
        _entry.__doc__ = _create.__doc__  # what torch.hub.help shows
