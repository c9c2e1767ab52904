"""torch.hub entry points; a plain `import hubconf` from the repository works as well.

torch.hub.load("path/to/repository", "custom", path="best.pt", source="local")
torch.hub.load("path/to/repository", "yolov5s_swinv2", pretrained=False, classes=3, source="local")
python hubconf.py --model yolov5n
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import nn

HERE = Path(__file__).resolve().parent
PACKAGES = ("models", "utils")


class _Packages(Loader, MetaPathFinder):
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

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
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
    """Return whether the program gets our package when it imports this name, not one of its own or none."""
    if package in sys.modules:
        file = getattr(sys.modules[package], "__file__", None)
    else:
        by_torch_hub = __name__ == "hubconf.py"  # it puts this folder first on the path, for now
        spec = PathFinder.find_spec(package, sys.path[1:] if by_torch_hub else None)
        file = spec and spec.origin
    return file is not None and Path(file).resolve() == HERE / package / "__init__.py"


def _own_packages() -> AbstractContextManager[None]:
    """Return the context in which this file imports our packages."""
    if __name__.endswith(".hubconf") or all(map(_is_ours, PACKAGES)):  # the installed package imports by full names
        return nullcontext()
    known: Iterator[Any] = (finder for finder in sys.meta_path if getattr(finder, "yolov5_swinv2", None) == HERE)
    return next(known, _Packages()).importing()


with _own_packages():
    from models.autoshape import AutoShape
    from models.runtimes.backends import DetectMultiBackend
    from models.weights.checkpoint import load_checkpoint
    from models.weights.transfer import transfer_weights
    from models.yolo import DetectionModel
    from utils.console import LOGGER, cli_errors
    from utils.downloads.official_weights import YOLOV5, find_weights
    from utils.paths import ROOT, check_file
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
    path: str | Path | nn.Module | Mapping[str, Any] = "path/to/model.pt",
    autoshape: bool = True,
    _verbose: bool = True,
    device: str | torch.device | None = None,
    *,
    path_or_model: str | Path | nn.Module | Mapping[str, Any] | None = None,
    verbose: bool | None = None,
) -> nn.Module:
    """Load weights of your own.

    Args:
        path: .pt file, the name of official weights, or a file of another format that `DetectMultiBackend` reads;
            ".pt" is added to a name without suffix. Or a network, or a mapping that holds one as "model".
        autoshape: return an `AutoShape` that takes images of any kind. Otherwise the `DetectMultiBackend`, not fused,
            in evaluation mode.
        _verbose: log the device.
        device: "cpu", "0", "cuda:0", ...; None takes CUDA if there is one.
        path_or_model: what YOLOv5 up to 5.0 called `path`.
        verbose: what YOLOv5 6.0 and 6.1 called `_verbose`.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be used.
    """
    source = path if path_or_model is None else path_or_model
    with _logging(_verbose if verbose is None else verbose):
        chosen = select_device(device or "")
        if isinstance(source, str | Path):
            model: Any = DetectMultiBackend(_with_suffix(Path(source)), chosen, fuse=autoshape)
        else:
            model = (source["model"] if isinstance(source, Mapping) else source).float().to(chosen)
    return AutoShape(model, verbose=False) if autoshape else model


def _with_suffix(path: Path) -> Path:
    """Return the file of a name without suffix; folders of exported models have none."""
    return path if path.suffix or path.exists() else path.with_suffix(".pt")


def _create(
    name: str,
    pretrained: bool = True,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    _verbose: bool = True,
    device: str | torch.device | None = None,
    *,
    verbose: bool | None = None,
) -> nn.Module:
    """Build a model of this size.

    Args:
        name: of the model file, set by the entry point.
        pretrained: start from `<name>.pt` in the working directory, the repository or the folder of torch.hub
            (`yolov5s_swinv2` looks for yolov5s-swinv2.pt). The official weights of yolov5n to yolov5x6 are fetched
            if they are in none of these (docs/weights-by-name.md). With 3 channels and as many classes as the file has,
            the result is that of `custom`; otherwise what fits is copied, and the network returned to be trained. With
            False the untrained network is returned, in training mode; `autoshape` does not apply to it.
        channels: of the images.
        classes: how many.
        autoshape: see `custom`; for complete weights only.
        _verbose: log the table of the network and the device.
        device: see `custom`.
        verbose: see `custom`.

    Raises:
        FileNotFoundError: pretrained, but there is no such file, and it cannot be fetched.
    """
    verbose = _verbose if verbose is None else verbose
    stem = name.replace("_", "-")
    ckpt = None
    if pretrained:
        folders = (Path.cwd(), ROOT, Path(torch.hub.get_dir()), Path(torch.hub.get_dir()) / "checkpoints")
        file = next((folder / f"{stem}.pt" for folder in folders if (folder / f"{stem}.pt").is_file()), None)
        if file is None and f"{stem}.pt" in YOLOV5:
            try:
                file = find_weights(f"{stem}.pt")
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; pretrained=False gives an untrained network") from None
        if file is None:
            raise FileNotFoundError(
                f"{stem}.pt: there are no pretrained weights of this name in {', '.join(map(str, folders))}, and none "
                "are published. Put the file there, use 'custom' with path= for weights elsewhere, or pretrained="
                "False for an untrained network"
            )
        ckpt = load_checkpoint(file)
        if channels == ckpt["yaml"]["ch"] and classes == ckpt["yaml"]["nc"]:
            return custom(file, autoshape, verbose, device)
    with _logging(verbose):
        model = DetectionModel(check_file(f"{stem}.yaml"), channels, classes, verbose=verbose)
        if ckpt:
            transfer_weights(model, ckpt, exclude=("anchors",)).log(f"{stem}.pt")
            model.names = dict(ckpt["names"]) if len(ckpt["names"]) == classes else model.names
        return model.to(select_device(device or ""))


SIZES = "nsmlx"
yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (partial(_create, f"yolov5{size}") for size in SIZES)
yolov5n6, yolov5s6, yolov5m6, yolov5l6, yolov5x6 = (partial(_create, f"yolov5{size}6") for size in SIZES)
yolov5n_swinv2, yolov5s_swinv2, yolov5m_swinv2, yolov5l_swinv2, yolov5x_swinv2 = (
    partial(_create, f"yolov5{size}_swinv2") for size in SIZES
)
for _entry in list(globals().values()):
    if isinstance(_entry, partial):
        _entry.__doc__ = _create.__doc__  # what torch.hub.help shows


def main() -> None:
    """Load one model by its name and detect in a grey image, to see that the weights are there and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name such as yolov5n, or a .pt file")
    name = parser.parse_args().model
    model = custom(name) if Path(name).suffix else _create(name)
    model(Image.new("RGB", (640, 480), (114, 114, 114))).print()


if __name__ == "__main__":
    with cli_errors():
        main()
