"""The detector as an installed package: `yolov5_swinv2.load("best.pt")` returns a model that takes images of any kind.

`yolov5_swinv2.train`, `.val`, `.detect` and `.export` and the packages `.models`, `.utils` and `.engine` are those of
the repository, see setup.py.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return `load`, which is `hubconf.custom`, or `__version__`.

    Lazy, as the commands import this package too, and --help does not wait for PyTorch.
    """
    if name == "load":
        from hubconf import custom  # noqa: PLC0415

        return custom
    if name == "__version__":
        from utils.paths import VERSION  # noqa: PLC0415

        return VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
