"""torch.hub entry points; a plain `import hubconf` from the repository works as well.

torch.hub.load("path/to/repository", "custom", path="best.pt", source="local")
torch.hub.load("path/to/repository", "yolov5s_swinv2", classes=3, source="local")
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
PACKAGES = ("models", "utils")


class _Packages:
    """Our packages in a program that has, or may still import, packages of the same names.

    `sys.modules` holds ours only while they are imported, then those of the program again. Later on the program gets
    its own by these names. A module that it does not have is found here, the same object each time, so that pickle
    finds our classes, and a second `torch.hub.load` our modules.

    Attributes:
        yolov5_swinv2: the folder of this project, by which the next `hubconf` recognises a finder in `sys.meta_path`.
        modules: ours by their full names.
    """

    def __init__(self) -> None:
        self.yolov5_swinv2 = HERE
        self.modules: dict[str, ModuleType] = {}

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Set the modules of the program aside inside the block, which imports ours."""
        theirs = _take_modules()
        sys.modules.update(self.modules)
        finders = sys.meta_path[:]
        sys.meta_path.insert(0, self)
        try:
            yield
            self.modules = _take_modules()
            finders = [*(f for f in finders if f is not self), self]
        finally:
            sys.meta_path[:] = finders
            _take_modules()
            sys.modules.update(theirs)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find one of our modules, while they are imported or for a program that has no such module."""
        if name in self.modules:
            return spec_from_loader(name, self, is_package=hasattr(self.modules[name], "__path__"))
        return PathFinder.find_spec(name, [str(HERE)]) if name in PACKAGES and sys.meta_path[0] is self else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that was imported already; those below it come along, or they would be imported again."""
        sys.modules.update({k: v for k, v in self.modules.items() if k.startswith(f"{spec.name}.")})
        return self.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it ran already."""


def _take_modules() -> dict[str, ModuleType]:
    """Take all modules with the names of our packages out of `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in PACKAGES}


def _is_ours(package: str) -> bool:
    """Tell whether the program gets our package, not one of its own or none, when it imports this name."""
    if package in sys.modules:
        file = getattr(sys.modules[package], "__file__", None)
    else:
        by_torch_hub = __name__ == "hubconf.py"  # it puts this folder first on the path, for now
        spec = PathFinder.find_spec(package, sys.path[1:] if by_torch_hub else None)
        file = spec and spec.origin
    return file is not None and Path(file).resolve() == HERE / package / "__init__.py"


def _own_packages() -> AbstractContextManager[None]:
    """Return the context in which this file imports our packages."""
    if all(map(_is_ours, PACKAGES)):
        return nullcontext()
    known = (finder for finder in sys.meta_path if getattr(finder, "yolov5_swinv2", None) == HERE)
    return next(known, _Packages()).importing()


with _own_packages():
    from models.autoshape import AutoShape
    from models.runtimes.backends import DetectMultiBackend
    from models.weights.checkpoint import load_checkpoint
    from models.weights.transfer import transfer_weights
    from models.yolo import DetectionModel
    from utils.console import LOGGER
    from utils.paths import ROOT
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
        autoshape: return an `AutoShape` that takes images of any kind. Otherwise the network itself, not fused, in
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
