"""TensorBoard: the columns of results.csv as curves, and the pictures of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.general import LOGGER, colorstr


class TensorBoardLogger:
    """Write an event file, begun with the first entry; without the package tensorboard warn once and do nothing.

    Args:
        directory: folder of the event file; made if needed.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._class = _summary_writer()
        self._writer = None
        self._purge_step: int | None = None
        if self.active:
            parent = self.directory.parent
            LOGGER.info(f"{colorstr('TensorBoard: ')}tensorboard --logdir {parent}, then open http://localhost:6006/")

    @property
    def active(self) -> bool:
        """Tell whether entries are written: not without the package, nor after `close`."""
        return self._class is not None

    def truncate(self, step: int) -> None:
        """Make TensorBoard forget the curves and pictures of `step` and later, before a training is resumed at `step`.

        The mark is written with the next entry; older event files stay as they are.
        """
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._purge_step = step

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve; `step` is the epoch. Curves without a number (nan) get no point."""
        if self.active:
            writer = self._open()
            for name, value in values.items():
                if not np.isnan(value):
                    writer.add_scalar(name, float(value), step)
            writer.flush()

    def text(self, tag: str, text: str, step: int) -> None:
        """Add a text in Markdown."""
        if self.active:
            self._open().add_text(tag, text, step)

    def image(self, tag: str, file: str | Path, step: int) -> None:
        """Add a picture file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a picture.
        """
        if self.active:
            with Image.open(file) as picture:
                self._open().add_image(tag, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Write out what is pending and close the file; the logger takes no more."""
        if self._writer is not None:
            self._writer.close()
        self._writer = self._class = None

    def _open(self) -> Any:
        """Return the writer, opened if it was not yet."""
        if self._writer is None:
            self._writer = self._class(str(self.directory), purge_step=self._purge_step)
        return self._writer


def _summary_writer() -> Any:
    """Return the class SummaryWriter, or None and a warning if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  optional package
    except ImportError as e:
        LOGGER.warning(f"no TensorBoard log: {e}. `pip install tensorboard` adds it, results.csv has the same numbers")
        return None
    return SummaryWriter
