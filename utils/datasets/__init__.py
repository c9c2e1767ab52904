"""Datasets: their YAML, images, labels in each format, caches, lists, sampling and converters.

Up to 6.1 this was YOLOv5's file of data loaders, so its names are here too.
"""

from pathlib import Path
from typing import Any

_LOADERS = ("LoadImages", "LoadStreams", "LoadWebcam")


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's `utils/datasets.py`.

    Lazy, because the loaders import this package: importing them at the top would be a circle.
    """
    own = Path(__file__).with_name(f"{name}.py").exists()  # a file of this package that is not imported yet
    if own or (name.startswith("__") and name != "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engine.inference import loaders  # noqa: PLC0415
    from utils import dataloaders  # noqa: PLC0415

    if name in _LOADERS:
        return getattr(loaders, f"Datasets{name}")
    if name == "__all__":  # what `from utils.datasets import *` imports
        return [*dataloaders.__all__, "LoadWebcam", "img_formats", "vid_formats"]
    formats = {"img_formats": dataloaders.IMG_FORMATS, "vid_formats": dataloaders.VID_FORMATS}
    return list(formats[name]) if name in formats else getattr(dataloaders, name)
