"""results.csv, one row per epoch in columns of fixed width, as YOLOv5 tools expect it, and classes.csv beside it."""

import csv
import io
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
CLASS_COLUMNS = ("epoch", "class", "name", "labels", "AP50", "AP50-95")
TIME = "time"  # the last column: seconds of training up to the end of the epoch


class CsvLogger:
    """Add epochs to a results.csv: cells 20 wide, 5 significant digits, separated by commas.

    The last column, `TIME`, is filled in here: seconds since this object was made (or `truncate` was called), added to
    those of the last epoch that the file had then. Rows of YOLOv5, or of this program before it had the column, get
    nan there.

    Args:
        path: file; begun with the first epoch, continued if it exists.
        extra: further columns after `RESULT_COLUMNS`.
    """

    def __init__(self, path: str | Path, extra: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.columns = (*RESULT_COLUMNS, *extra)
        self._start, self._before = time.monotonic(), math.nan

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
        rows = self._rows()
        if math.isnan(self._before):
            self._before = _seconds(rows)
        seconds = self._before + time.monotonic() - self._start
        cells = (epoch, *(values[column] for column in columns), seconds)
        self._replace([*rows, ",".join(f"{float(value):>20.5g}" for value in cells)])

    def truncate(self, epoch: int) -> None:
        """Drop the rows of `epoch` and later, and rows cut off by a crash, before training resumes at `epoch`.

        Raises:
            ValueError: the file has other columns, or something else than a number for an epoch.
        """
        if rows := self._rows():
            count = len(self.columns) + 1
            numbered = ((number, row.split(",")) for number, row in enumerate(rows, 2))
            whole = [(f"{self.path}:{number}", cells) for number, cells in numbered if len(cells) == count]
            rows = [",".join(cells) for at, cells in whole if table_numbers(cells[:1], 1, at)[0] < epoch]
            self._start, self._before = time.monotonic(), _seconds(rows)
            self._replace(rows)

    def _replace(self, rows: Sequence[str]) -> None:
        """Rewrite the file with these rows below the header."""
        with atomic_path(self.path) as tmp:
            header = ",".join(f"{column:>20}" for column in (*self.columns, TIME))
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
        names = [cell.strip() for cell in header.split(",")]
        if names == list(self.columns):  # of YOLOv5, or of this program before it had the time
            return [f"{row},{'nan':>20}" if row.count(",") == len(names) - 1 else row for row in rows]
        if names != [*self.columns, TIME]:
            raise ValueError(f"{self.path}: not a results.csv of this program, its columns differ. Move or rename it")
        return rows


class ClassTable:
    """Add epochs to a classes.csv, one row for each epoch and class.

    Args:
        path: file; begun with the first epoch, continued if it exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, epoch: int, rows: Iterable[tuple[int, str, int, float, float]]) -> None:
        """Add the classes of an epoch: number, name, labels, AP50, AP50-95."""
        new = [(epoch, number, name, labels, f"{ap50:.5g}", f"{ap:.5g}") for number, name, labels, ap50, ap in rows]
        self._replace([*self._rows(), *new])

    def truncate(self, epoch: int) -> None:
        """Drop the rows of `epoch` and later before training resumes at `epoch`."""
        if rows := self._rows():
            self._replace([row for row in rows if row[0].isdecimal() and int(row[0]) < epoch])

    def _replace(self, rows: Sequence[Sequence[Any]]) -> None:
        """Rewrite the file with these rows below the header; a link is replaced, not followed."""
        with atomic_path(self.path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([CLASS_COLUMNS, *rows])

    def _rows(self) -> list[list[str]]:
        """Return the rows below the header."""
        if not self.path.exists():
            return []
        with open_regular(self.path) as file:
            text = file.read().decode("utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline="")) if text else [list(CLASS_COLUMNS)]
        if tuple(header) != CLASS_COLUMNS:
            raise ValueError(f"{self.path}: not a classes.csv of this program, its columns differ. Move or rename it")
        return [row for row in rows if len(row) == len(header)]


def _seconds(rows: Sequence[str]) -> float:
    """Return the time in the last of the rows, 0 if there is none."""
    try:
        seconds = float(rows[-1].rpartition(",")[2])
    except (IndexError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
