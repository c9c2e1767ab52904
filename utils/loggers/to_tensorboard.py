"""TensorBoard: the columns of results.csv as curves, images, PR curves, the graph and the settings of a run."""

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from utils.console import LOGGER, colorstr, command
from utils.files import open_regular
from utils.text import printable

POINTS = 101  # of a PR curve


class _Boxes(nn.Module):
    """The first output of a detector, its boxes; the tracer takes no lists."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the boxes (B, R, 5 + nc) of images (B, 3, H, W)."""
        return self.model(images)[0]


class TensorBoardLogger:
    """Write an event file, begun with the first entry; without the package tensorboard warn once and do nothing.

    Args:
        directory: folder of the event file; made if needed.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._class = _summary_writer()
        self._writer: Any = None
        self._purge_step: int | None = None
        if self.active:
            parent = self.directory.parent
            line = command("tensorboard", "--logdir", parent)
            LOGGER.info(f"{colorstr('TensorBoard: ')}{line}, then open http://localhost:6006/")

    @property
    def active(self) -> bool:
        """Whether entries are written: not without the package, nor after `close`."""
        return self._class is not None

    def truncate(self, step: int) -> None:
        """Purge the curves and images of `step` and later from TensorBoard, before training resumes at `step`.

        The mark is written with the next entry; older event files stay as they are.
        """
        self._finish()
        self._purge_step = step

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve; `step` is the epoch. Curves without a number (nan) get no point."""

        def add(writer: Any) -> None:
            for name, value in values.items():
                if not np.isnan(value):
                    writer.add_scalar(name, float(value), step)

        self._write(add)

    def text(self, tag: str, text: str, step: int) -> None:
        """Add a text in Markdown."""
        lines = "\n".join(map(printable, text.split("\n")))
        self._write(lambda writer: writer.add_text(tag, lines, step))

    def image(self, tag: str, file: str | Path, step: int) -> None:
        """Add an image file.

        Raises:
            OSError: it cannot be read, or is no image.
        """
        if self.active:
            try:
                with open_regular(file) as opened, Image.open(opened) as picture:
                    if picture.format not in ("JPEG", "PNG"):  # PIL would run an EPS file as a program
                        raise SyntaxError(f"a {picture.format} file")
                    pixels = np.asarray(picture.convert("RGB"))
            except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise OSError(f"{file}: not a valid JPEG or PNG: {error}") from None
            self._write(lambda writer: writer.add_image(tag, pixels, step, dataformats="HWC"))

    def pr_curve(self, tag: str, hits: np.ndarray, false: np.ndarray, labels: int, step: int) -> None:
        """Add a curve of precision over recall.

        Args:
            tag: name; made `printable`.
            hits: (P,) true positives at confidences from 0 to 1, evenly spaced.
            false: (P,) false positives.
            labels: objects there are.
            step: epoch.
        """
        at = np.linspace(0, len(hits) - 1, POINTS).round().astype(int)
        hits, false = hits[at], false[at]
        precision = np.divide(hits, hits + false, out=np.ones(POINTS), where=hits + false > 0)
        recall = hits / max(labels, 1)
        unknown = np.zeros(POINTS)  # true negatives: in detection there is no number of them
        rows = (hits, false, unknown, labels - hits, precision, recall)
        self._write(lambda writer: writer.add_pr_curve_raw(f"PR/{printable(tag)}", *rows, step, num_thresholds=POINTS))

    def hyperparameters(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Add the settings of the run for the table that compares runs; `metrics` are the curves it shows beside."""
        if not self.active:
            return
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415  optional package

        plain = {k: v if isinstance(v, bool | int | float) else printable(str(v)) for k, v in settings.items()}
        parts = hparams(plain, dict.fromkeys(metrics, 0))
        self._write(lambda writer: [writer.file_writer.add_summary(part) for part in parts])

    def graph(self, model: nn.Module, imgsz: int | Sequence[int]) -> None:
        """Add the graph of a detector in evaluation mode, which stays as it is, for a side, or height and width."""
        if not self.active:
            return
        copied = _Boxes(deepcopy(model).eval())
        channels = getattr(model, "yaml", {}).get("ch", 3)
        images = next(copied.parameters()).new_zeros(1, channels, *np.broadcast_to(imgsz, 2).tolist())
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # sizes become constants, which an image may have
            try:
                # traced here, because a second trace to compare with would find what the first one has cached
                traced = torch.jit.trace(copied, images, strict=False, check_trace=False)
                self._write(lambda writer: writer.add_graph(traced, images))
            except RuntimeError as error:
                LOGGER.warning(
                    f"no graph in TensorBoard: PyTorch cannot trace this model: {str(error).splitlines()[0]}"
                )

    def close(self) -> None:
        """Write out what is pending and close the file; the logger takes no more."""
        self._finish()
        self._class = None

    def _write(self, add: Callable[[Any], object]) -> None:
        """Let `add` write with the writer, opened if it was not yet. Where that fails, warn and log no more.

        The writer writes in a thread of its own, which keeps an error to itself until it is asked.
        """
        if not self.active:
            return
        try:
            if self._writer is None:
                _leave_errors_to_us()
                self._writer = self._class(str(self.directory), purge_step=self._purge_step)
            add(self._writer)
            self._writer.flush()
        except OSError as error:
            self._warn(error)

    def _finish(self) -> None:
        """Close the event file, if there is one; the next entry begins another."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                self._warn(error)

    def _warn(self, error: OSError) -> None:
        """Stop logging: a training run does not end because of its log."""
        LOGGER.warning(
            f"{self.directory}: TensorBoard's event file cannot be written ({error.strerror or error}): training "
            "continues without it, results.csv has the numbers"
        )
        self._writer = self._class = None


class _SkipsTensorBoard:
    """A hook for errors of threads: those of TensorBoard's writers are left out, others go to the previous hook."""

    def __init__(self, previous: Callable[[threading.ExceptHookArgs], Any]) -> None:
        self.previous = previous

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            self.previous(args)


def _leave_errors_to_us() -> None:
    """Suppress the traceback of a writer thread whose file cannot be written: `_write` reports it."""
    if not isinstance(threading.excepthook, _SkipsTensorBoard):
        threading.excepthook = _SkipsTensorBoard(threading.excepthook)


def _summary_writer() -> Any:
    """Return the class SummaryWriter, or None and a warning if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  optional package
    except ImportError as e:
        line = command("pip", "install", "tensorboard")
        LOGGER.warning(f"no TensorBoard log: {e}. `{line}` adds it, results.csv has the same numbers")
        return None
    return SummaryWriter
