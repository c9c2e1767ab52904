"""Logs of training runs, in the form in which YOLOv5's training loops create and feed them.

train.py uses `utils.loggers.run_logs.RunLogs`, as `Loggers` does.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from utils.loggers.run_logs import RunLogs
from utils.loggers.services import SERVICES, ServiceLogger
from utils.loggers.to_tensorboard import TensorBoardLogger
from utils.plots import plot_images, plot_labels, plot_results

LOGGERS = ("csv", "tb")  # used where nothing else is asked for: services only where they are named
PLOTTED_BATCHES = 3


def _services(include: Sequence[str]) -> list[str]:
    """Return the services among the names of logs.

    Raises:
        ValueError: a name that is none.
    """
    if unknown := set(include) - {*LOGGERS, *SERVICES}:
        raise ValueError(f"unknown logger {min(unknown)!r}. Allowed: {', '.join((*LOGGERS, *SERVICES))}")
    return [name for name in include if name in SERVICES]


class Loggers:
    """Logs of one training run. Every public method is an event of `utils.callbacks.EVENTS` of the same name.

    Args:
        save_dir: run folder; None is the working directory.
        weights: where the training started from; `opt` holds it too.
        opt: options of the run, shown as its settings; `noplots` leaves out the figures.
        hyp: hyperparameters, shown as settings `hyp/...`.
        logger: of the console; messages come from `utils.console.LOGGER`.
        include: "csv", "tb" (TensorBoard), and keys of `utils.loggers.services.SERVICES`.

    Raises:
        ValueError: an unknown log, or the package of a service is missing.
    """

    remote_dataset = None  # no service provides a dataset here

    def __init__(
        self,
        save_dir: str | Path | None = None,
        weights: str | Path | None = None,
        opt: Namespace | None = None,
        hyp: Mapping[str, Any] | None = None,
        logger: Logger | None = None,
        include: Sequence[str] = LOGGERS,
    ) -> None:
        settings = {"weights": weights, **vars(opt or Namespace()), **{f"hyp/{k}": v for k, v in (hyp or {}).items()}}
        self._folder = Path(save_dir or ".")
        self._plots = not getattr(opt, "noplots", False)
        self._logs = RunLogs(
            self._folder, "csv" in include, "tb" in include, _services(include),
            {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()},
        )  # fmt: skip

    def on_pretrain_routine_end(self, labels: np.ndarray, names: Mapping[int, str]) -> None:
        """Plot the labels (M, 5) `[class, xywhn]` of all images."""
        if self._plots:
            plot_labels(labels, names, self._folder)

    def on_train_batch_end(
        self, model: nn.Module, ni: int, imgs: Tensor, targets: Tensor, paths: Sequence[str], vals: Sequence[float]
    ) -> None:
        """Draw the first batches: images (B, 3, H, W) and targets (T, 6) `[image, class, xywhn]`; `ni` counts them."""
        if self._plots and ni < PLOTTED_BATCHES:
            plot_images(imgs, targets, paths, self._folder / f"train_batch{ni}.jpg").join()

    def on_train_epoch_end(self, epoch: int) -> None:
        """See `RunLogs.on_train_epoch_end`."""
        self._logs.on_train_epoch_end(epoch)

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """See `RunLogs.on_fit_epoch_end`; the fitness may be an array (1,), as YOLOv5's loops have it."""
        best, last = (np.asarray(value).item() for value in (best_fitness, fi))
        self._logs.on_fit_epoch_end([float(v) for v in vals], epoch, best, last)

    def on_train_end(self, last: Path, best: Path, epoch: int, results: Sequence[float]) -> None:
        """Plot results.csv, and see `RunLogs.on_train_end`."""
        if self._plots and self._logs.csv:
            plot_results(self._folder / "results.csv")
        self._logs.on_train_end(last, best, epoch, results)


class GenericLogger:
    """TensorBoard, or services, for a training loop that has no boxes.

    Args:
        opt: holds `save_dir`, the run folder; shown as settings.
        console_logger: messages come from `utils.console.LOGGER`.
        include: see `Loggers`; results.csv belongs to detection and is not written.

    Raises:
        ValueError: as `Loggers`.
    """

    def __init__(self, opt: Namespace, console_logger: Logger, include: Sequence[str] = ("tb",)) -> None:
        folder, settings = Path(opt.save_dir), {key: str(value) for key, value in vars(opt).items()}
        self._tensorboard = TensorBoardLogger(folder) if "tb" in include else None
        self._logs: list[TensorBoardLogger | ServiceLogger] = [self._tensorboard] if self._tensorboard else []
        self._logs += [SERVICES[name][0](folder, settings) for name in _services(include)]

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Add one point to each curve."""
        for log in self._logs:
            log.scalars({name: float(value) for name, value in metrics.items()}, epoch)

    def log_images(self, files: str | Path | Sequence[str | Path], name: str = "Images", epoch: int = 0) -> None:
        """Add one or several image files; those that do not exist are left out."""
        for file in map(Path, [files] if isinstance(files, str | Path) else files):
            for log in self._logs if file.is_file() else ():
                log.image(f"{name}/{file.stem}", file, epoch)

    def log_graph(self, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
        """Add the graph of a model for images of a side, or a height and width, to TensorBoard."""
        if self._tensorboard:
            self._tensorboard.graph(model, imgsz)

    def log_model(self, path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None) -> None:
        """Note the path of a checkpoint; the file itself is not sent.

        Args:
            path: of the checkpoint.
            epoch: it was written in.
            metadata: shown with it.
        """
        for log in self._logs:
            log.text("checkpoint", "  \n".join([str(path), *(f"{k}: {v}" for k, v in (metadata or {}).items())]), epoch)
