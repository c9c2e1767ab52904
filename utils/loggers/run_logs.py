"""Send the metrics and plots of a training run to every enabled log."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from utils.callbacks import Callbacks
from utils.console import LOGGER
from utils.files import open_regular
from utils.loggers.services import SERVICES, ServiceLogger
from utils.loggers.to_csv import RESULT_COLUMNS, ClassTable, CsvLogger
from utils.loggers.to_tensorboard import TensorBoardLogger

CURVES, SCALARS = 20, 100  # classes up to which each has its own PR curve, and its own curve of AP over the epochs
SECRET = ("storage",)  # settings that may hold a password


class Curves(Protocol):
    """What is read of the result of a validation; `utils.metrics.ApResult` has it.

    Attributes:
        ap: (K, T) average precision at each IoU threshold, 0.5 first.
        classes: (K,) int numbers of the classes that have labels.
        p_curve: (K, 1000) precision over confidence at IoU 0.5.
        r_curve: (K, 1000) recall over confidence at IoU 0.5.
    """

    ap: np.ndarray
    classes: np.ndarray
    p_curve: np.ndarray
    r_curve: np.ndarray


class RunLogs:
    """Logs of one run; `register` connects them to its events.

    Args:
        save_dir: run folder.
        csv: write `results.csv` and `classes.csv`.
        tensorboard: write a TensorBoard event file.
        services: keys of `utils.loggers.services.SERVICES`.
        settings: options and hyperparameters of the run; plain values.
        extra: columns of `results.csv` after `RESULT_COLUMNS` and before the time, and curves.

    Raises:
        ValueError: the package of a service is missing.
    """

    def __init__(
        self,
        save_dir: str | Path,
        csv: bool = True,
        tensorboard: bool = True,
        services: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.columns = (*RESULT_COLUMNS, *extra)
        self.save_dir = Path(save_dir)
        self.settings = {key: value for key, value in (settings or {}).items() if key not in SECRET}
        self.csv = CsvLogger(self.save_dir / "results.csv", extra) if csv else None
        self.classes = ClassTable(self.save_dir / "classes.csv") if csv else None
        self.tensorboard = TensorBoardLogger(self.save_dir) if tensorboard else None
        self.services: list[ServiceLogger] = [SERVICES[name][0](self.save_dir, self.settings) for name in services]
        self._sent: set[Path] = set()
        self._curves: tuple[Curves, np.ndarray, Mapping[int, str]] | None = None
        self._validated = False  # in this epoch

    @property
    def _all(self) -> list[TensorBoardLogger | ServiceLogger]:
        """Return every log but the table."""
        return [*([self.tensorboard] if self.tensorboard else []), *self.services]

    def truncate(self, epoch: int) -> None:
        """Drop `epoch` and later from the tables and TensorBoard, before training resumes at `epoch`."""
        for table in (self.csv, self.classes):
            if table:
                table.truncate(epoch)
        if self.tensorboard:
            self.tensorboard.truncate(epoch)

    def start(self, model: nn.Module | None, imgsz: int | Sequence[int]) -> None:
        """Show in TensorBoard the settings, and the graph of a model for images of `imgsz` pixels; None shows none."""
        if self.tensorboard and self.settings:
            self.tensorboard.hyperparameters(self.settings, ("metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "fitness/best"))
        if self.tensorboard and model is not None:
            self.tensorboard.graph(model, imgsz)

    def register(self, callbacks: Callbacks) -> None:
        """Listen to the end of every epoch and validation, to the end of the training, and to the end of the run."""
        callbacks.register("on_train_epoch_end", self.on_train_epoch_end)
        callbacks.register("on_val_metrics", self.on_val_metrics)
        callbacks.register("on_fit_epoch_end", self.on_fit_epoch_end)
        callbacks.register("on_train_end", self.on_train_end)
        callbacks.register("teardown", self.close)

    def on_train_epoch_end(self, epoch: int) -> None:
        """Show the images there are after the first epoch of this process: labels and first training batches."""
        self._validated = False
        if not self._sent:
            self._send_pictures(epoch)

    def on_val_metrics(self, result: Curves, counts: np.ndarray, names: Mapping[int, str]) -> None:
        """Keep the curves of a validation; TensorBoard shows the last ones."""
        self._curves, self._validated = (result, counts, names), True

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """Log one epoch.

        Args:
            vals: values of `RESULT_COLUMNS` without the epoch: 3 training losses, 4 metrics, 3 losses, 3 rates; then
                those of further columns.
            epoch: 0 is the first.
            best_fitness: highest fitness so far; a curve.
            fi: fitness of this epoch; a curve.

        Raises:
            ValueError: another number of values.
        """
        values = {column: float(v) for column, v in zip(self.columns[1:], vals, strict=True)}
        if self.csv:
            self.csv.write(epoch, values)
        values |= {"fitness/epoch": float(fi), "fitness/best": float(best_fitness)}
        measured = {name: value for name, value in values.items() if not math.isnan(value)}
        if self._curves and self._validated:
            rows = list(_class_rows(*self._curves))
            if self.classes:
                self.classes.write(epoch, rows)
            if len(rows) <= SCALARS:
                measured |= {f"AP/{tag}": ap for tag, (*_, ap) in zip(_tags(*self._curves), rows, strict=True)}
        for log in self._all:
            log.scalars(measured, epoch)

    def on_train_end(self, last: Path, best: Path, epoch: int, results: Sequence[float]) -> None:
        """Add the results, the curves and the images of the run folder, and close the logs.

        Args:
            last: last checkpoint; its path is shown.
            best: best checkpoint; its path is shown.
            epoch: last epoch.
            results: P, R, mAP50, mAP50-95 and the validation losses of the best checkpoint.
        """
        numbers = "  \n".join(f"{name}: {value:.5g}" for name, value in zip(RESULT_COLUMNS[4:11], results, strict=True))
        for log in self._all:
            log.text("best checkpoint", f"{best}  \nlast: {last}\n\n{numbers}", epoch)
        if self.tensorboard and self._curves:
            self._show_curves(self.tensorboard, *self._curves, epoch)
        self._send_pictures(epoch)
        self.close()

    def close(self) -> None:
        """Close all files and runs; a second call does nothing."""
        for log in self._all:
            log.close()

    def _send_pictures(self, epoch: int) -> None:
        """Show the images of the run folder that were not shown yet; a file may turn out not to be an image."""
        for file in sorted({*self.save_dir.glob("*.png"), *self.save_dir.glob("*.jpg")} - self._sent):
            self._sent.add(file)
            try:
                open_regular(file, follow=False).close()  # a link could send anything to a service
                for log in self._all:
                    log.image(file.stem, file, epoch)
            except OSError as error:
                LOGGER.warning(f"{file}: not shown in the logs of the run: {error}")

    @staticmethod
    def _show_curves(
        tensorboard: TensorBoardLogger, result: Curves, counts: np.ndarray, names: Mapping[int, str], epoch: int
    ) -> None:
        """Show the PR curve over all classes, and those of the classes if they are few."""
        labels = counts[result.classes][:, None]  # (K, 1)
        hits = result.r_curve * labels  # (K, 1000) true positives at each confidence
        false = np.where(result.p_curve > 0, hits / np.maximum(result.p_curve, 1e-16) - hits, 0)
        tensorboard.pr_curve("all classes", hits.sum(0), false.sum(0), int(labels.sum()), epoch)
        if len(result.classes) <= CURVES:
            for row, (c, tag) in enumerate(zip(result.classes, _tags(result, counts, names), strict=True)):
                tensorboard.pr_curve(tag, hits[row], false[row], int(counts[c]), epoch)


def _tags(result: Curves, counts: np.ndarray, names: Mapping[int, str]) -> list[str]:
    """Return a name for each class with labels; equal ones get their number, since a tag holds one curve only."""
    numbers = Counter(names[c] for c in result.classes)
    return [f"{names[c]} ({c})" if numbers[names[c]] > 1 else names[c] for c in result.classes]


def _class_rows(
    result: Curves, counts: np.ndarray, names: Mapping[int, str]
) -> Iterator[tuple[int, str, int, float, float]]:
    """Yield number, name, labels, AP50 and AP50-95 of each class with labels."""
    for c, ap in zip(result.classes, result.ap, strict=True):
        yield int(c), names[c], int(counts[c]), float(ap[0]), float(ap.mean())
