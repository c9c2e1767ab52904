"""TensorBoard: the columns of results.csv as curves, and the pictures of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.general import LOGGER, colorstr


class TensorBoardLogger:
    """Write an event file; without the package tensorboard warn once and do nothing.

    Args:
        directory: folder of the event file; made if needed.

    Attributes:
        active: False if tensorboard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        self._writer = _open(Path(directory))
        self.active = self._writer is not None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve; `step` is the epoch. Curves without a number (nan) get no point."""
        if self._writer is not None:
            for name, value in values.items():
                if not np.isnan(value):
                    self._writer.add_scalar(name, float(value), step)
            self._writer.flush()

    def text(self, tag: str, text: str, step: int) -> None:
        """Add a text in Markdown."""
        if self._writer is not None:
            self._writer.add_text(tag, text, step)

    def image(self, tag: str, file: str | Path, step: int) -> None:
        """Add a picture file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a picture.
        """
        if self._writer is not None:
            with Image.open(file) as picture:
                self._writer.add_image(tag, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Write out what is pending and close the file; the logger takes no more."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _open(directory: Path) -> Any:
    """Return a SummaryWriter, or None and a warning if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  optional package
    except ImportError as e:
        LOGGER.warning(f"no TensorBoard log: {e}. `pip install tensorboard` adds it, results.csv has the same numbers")
        return None
    LOGGER.info(f"{colorstr('TensorBoard: ')}tensorboard --logdir {directory.parent}, then open http://localhost:6006/")
    return SummaryWriter(str(directory))
