"""results.csv: one row per epoch in columns of fixed width, as YOLOv5 tools expect it."""

import os
from collections.abc import Mapping
from pathlib import Path

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
HEADER = ",".join(f"{column:>20}" for column in RESULT_COLUMNS)


class CsvLogger:
    """Append epochs to a results.csv: cells 20 wide, 5 significant digits, separated by commas.

    Args:
        path: file; begun with the first epoch, continued if it exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Append one row and have it on the disk.

        Args:
            epoch: 0 is the first.
            values: one per column of `RESULT_COLUMNS` but the first; nan for what was not measured.

        Raises:
            ValueError: a column is missing or unknown, or the file has other columns.
        """
        columns = RESULT_COLUMNS[1:]
        if set(values) != set(columns):
            wrong = sorted(set(values) ^ set(columns))
            raise ValueError(
                f"{self.path}: expected a value for each of {', '.join(columns)}; wrong: {', '.join(wrong)}"
            )
        rows = self._rows()
        row = ",".join(f"{float(value):>20.5g}" for value in (epoch, *(values[column] for column in columns)))
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            if rows is None:
                file.write(HEADER + "\n")
            file.write(row + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, epoch: int) -> None:
        """Drop the rows of `epoch` and later, and rows cut off by a crash, before a training goes on at `epoch`.

        Raises:
            ValueError: the file has other columns.
        """
        rows = self._rows()
        if rows is None:
            return
        kept = [row for row in rows if len(row.split(",")) == len(RESULT_COLUMNS) and float(row.split(",")[0]) < epoch]
        tmp = self.path.with_name(f".{self.path.name}.tmp")
        tmp.write_text("".join(line + "\n" for line in (HEADER, *kept)), encoding="utf-8", newline="\n")
        os.replace(tmp, self.path)

    def _rows(self) -> list[str] | None:
        """Return the rows below the header, None if there is no file or an empty one."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return None
        header, *rows = self.path.read_text(encoding="utf-8").splitlines()
        if [cell.strip() for cell in header.split(",")] != list(RESULT_COLUMNS):
            raise ValueError(f"{self.path}: not a results.csv of this program, its columns differ. Move it away")
        return rows
