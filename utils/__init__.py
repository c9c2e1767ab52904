"""What the scripts share: files, labels, augmentation, loss, metrics, training aids. Nothing here imports `models`."""

import functools
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from threading import Thread
from types import ModuleType, TracebackType
from typing import Any

from utils.console import LOGGER


def emojis(str: str = "") -> str:
    """Return a text as this system's console can show it: on Windows without letters beyond ASCII."""
    return str.encode("ascii", "ignore").decode() if sys.platform == "win32" else str


def threaded(func: Callable[..., Any]) -> Callable[..., Thread]:
    """Decorate a function so that it runs in a thread of its own, which the call starts and returns."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Thread:
        thread = Thread(target=func, args=args, kwargs=kwargs)
        thread.start()
        return thread

    return wrapper


class TryExcept(ContextDecorator):
    """Go on after an error in a block or function, and log it.

    Args:
        msg: start of the log line.
    """

    def __init__(self, msg: str = "") -> None:
        self.msg = msg

    def __enter__(self) -> None:
        """Start the block."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        LOGGER.warning(f"{self.msg}{': ' if self.msg else ''}{error}")
        return True


def notebook_init(verbose: bool = True) -> ModuleType | None:
    """Say in a notebook what the machine has, and return IPython's `display` module, None without IPython.

    Args:
        verbose: log the versions and the device.
    """
    import torch  # noqa: PLC0415  this package is also imported for --help, which does not wait for torch

    if verbose:
        device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
        LOGGER.info(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {device}. Setup complete")
    ipython = sys.modules.get("IPython")
    return ipython.display if ipython else None
