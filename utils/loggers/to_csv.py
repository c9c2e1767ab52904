"""results.csv: one row per epoch in columns of fixed width, as YOLOv5 tools expect it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.files import atomic_path, open_regular, table_numbers

RESULT_COLUMNS = (
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",  # biases
    "x/lr1",  # weights with decay
    "x/lr2",  # norms
)


class CsvLogger:
    """Add epochs to a results.csv: cells 20 wide, 5 significant digits, separated by commas.

    Args:
        path: file; begun with the first epoch, continued if it exists.
        extra: further columns after `RESULT_COLUMNS`.
    """

    def __init__(self, path: str | Path, extra: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.columns = (*RESULT_COLUMNS, *extra)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add one row and flush it to disk.

        Args:
            epoch: 0 is the first.
            values: one per column but the first; nan for what was not measured.

        Raises:
            ValueError: a column is missing or unknown, or the file has other columns.
        """
        columns = self.columns[1:]
        if set(values) != set(columns):
            wrong = sorted(set(values) ^ set(columns))
            raise ValueError(
                f"{self.path}: expected a value for each of {', '.join(columns)}; wrong: {', '.join(wrong)}"
            )
        row = ",".join(f"{float(value):>20.5g}" for value in (epoch, *(values[column] for column in columns)))
        self._replace([*self._rows(), row])

    def truncate(self, epoch: int) -> None:
        """Drop the rows of `epoch` and later, and rows cut off by a crash, before training resumes at `epoch`.

        Raises:
            ValueError: the file has other columns, or something else than a number for an epoch.
        """
        if rows := self._rows():
            count = len(self.columns)
            numbered = ((number, row.split(",")) for number, row in enumerate(rows, 2))
            whole = [(f"{self.path}:{number}", cells) for number, cells in numbered if len(cells) == count]
            self._replace([",".join(cells) for at, cells in whole if table_numbers(cells[:1], 1, at)[0] < epoch])

    def _replace(self, rows: Sequence[str]) -> None:
        """Rewrite the file with these rows below the header."""
        with atomic_path(self.path) as tmp:
            header = ",".join(f"{column:>20}" for column in self.columns)
            tmp.write_text("".join(line + "\n" for line in (header, *rows)), encoding="utf-8", newline="\n")

    def _rows(self) -> list[str]:
        """Return the rows below the header."""
        if not self.path.exists():
            return []
        with open_regular(self.path) as file:
            lines = file.read().decode("utf-8").splitlines()
        if not lines:
            return []
        header, *rows = lines
        if [cell.strip() for cell in header.split(",")] != list(self.columns):
            raise ValueError(f"{self.path}: not a results.csv of this program, its columns differ. Move or rename it")
        return rows
