"""A study: detectors measured at many image sizes, as tables and a plot of accuracy over size and time."""

import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np

from utils.console import LOGGER, colorstr
from utils.files import atomic_path
from utils.plots import STUDY_SIZES as SIZES
from utils.plots import plot_studies


class StudyFolder:
    """Tables `study_<data>_<weights>.txt`, one for each file of weights, and of all of them study.zip and study.png.

    A table has a row for each of `SIZES`: P, R, mAP50, mAP50-95, three losses (0 by hand), and milliseconds of
    pre-processing, inference and NMS.

    Args:
        folder: where they go; made with the first table.
        data: name of the dataset.
    """

    def __init__(self, folder: Path, data: str) -> None:
        self.folder, self.data = folder, data
        self.tables: list[Path] = []

    def measure(self, weights: str | Path, run: Callable[[int], tuple]) -> None:
        """Fill the table of one file of weights.

        Args:
            weights: its name.
            run: measures at an image size and returns what `val.run` does.
        """
        table = self.folder / f"study_{self.data}_{Path(weights).stem}.txt"
        names = count(2)  # two files of weights may have one name, such as best.pt
        while table in self.tables:
            table = self.folder / f"study_{self.data}_{Path(weights).stem}-{next(names)}.txt"
        rows = []
        for size in SIZES:
            LOGGER.info(f"\n{colorstr('study: ')}{weights} at {size} pixels")
            results, _, times = run(size)
            rows.append([*results, *times])
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(table) as tmp:
            np.savetxt(tmp, rows, fmt="%10.4g")
        self.tables.append(table)

    def finish(self) -> None:
        """Pack and draw the tables."""
        with atomic_path(self.folder / "study.zip") as tmp, zipfile.ZipFile(tmp, "w", zipfile.ZIP_DEFLATED) as archive:
            for table in self.tables:
                archive.write(table, table.name)
        plot_studies(self.tables, SIZES, self.folder / "study.png")
        LOGGER.info(f"Study saved to {colorstr('bold', str(self.folder))}")
