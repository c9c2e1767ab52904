"""Send the numbers of a training to every log that is switched on."""

from collections.abc import Sequence
from pathlib import Path

from utils.callbacks import Callbacks
from utils.loggers.to_csv import RESULT_COLUMNS, CsvLogger
from utils.loggers.to_tensorboard import TensorBoardLogger


class Loggers:
    """Logs of one run; `register` connects them to its events.

    Args:
        save_dir: run folder.
        csv: write `results.csv`.
        tensorboard: write a TensorBoard event file.
    """

    def __init__(self, save_dir: str | Path, csv: bool = True, tensorboard: bool = True) -> None:
        self.save_dir = Path(save_dir)
        self.csv = CsvLogger(self.save_dir / "results.csv") if csv else None
        self.tensorboard = TensorBoardLogger(self.save_dir) if tensorboard else None

    def truncate(self, epoch: int) -> None:
        """Drop `epoch` and later from `results.csv` and TensorBoard, before a resumed training goes on at `epoch`."""
        if self.csv:
            self.csv.truncate(epoch)
        if self.tensorboard:
            self.tensorboard.truncate(epoch)

    def register(self, callbacks: Callbacks) -> None:
        """Listen to the end of every epoch, to the end of the training, and to the end of the run."""
        callbacks.register("on_fit_epoch_end", self.on_fit_epoch_end)
        callbacks.register("on_train_end", self.on_train_end)
        callbacks.register("teardown", self.close)

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """Log one epoch.

        Args:
            vals: values of `RESULT_COLUMNS` without the epoch: 3 training losses, 4 metrics, 3 losses, 3 rates.
            epoch: 0 is the first.
            best_fitness: highest fitness so far; a curve of TensorBoard.
            fi: fitness of this epoch; a curve of TensorBoard.

        Raises:
            ValueError: another number of values.
        """
        values = {column: float(v) for column, v in zip(RESULT_COLUMNS[1:], vals, strict=True)}
        if self.csv:
            self.csv.write(epoch, values)
        if self.tensorboard:
            self.tensorboard.scalars(values | {"fitness/epoch": float(fi), "fitness/best": float(best_fitness)}, epoch)

    def on_train_end(self, last: Path, best: Path, epoch: int, results: Sequence[float]) -> None:
        """Add the pictures of the run folder to TensorBoard and close the logs.

        Args:
            last: last checkpoint; TensorBoard shows its path.
            best: best checkpoint; TensorBoard shows its path.
            epoch: last epoch.
            results: P, R, mAP50, mAP50-95 and the validation losses of the best checkpoint; TensorBoard shows them.
        """
        if self.tensorboard:
            numbers = "  \n".join(
                f"{name}: {value:.5g}" for name, value in zip(RESULT_COLUMNS[4:11], results, strict=True)
            )
            self.tensorboard.text("best checkpoint", f"{best}  \nlast: {last}\n\n{numbers}", epoch)
            for file in sorted([*self.save_dir.glob("*.png"), *self.save_dir.glob("*.jpg")]):
                self.tensorboard.image(file.stem, file, epoch)
        self.close()

    def close(self) -> None:
        """Close all files; a second call does nothing."""
        if self.tensorboard:
            self.tensorboard.close()
