"""Time the check of a data set against merely reading its files, from memory and from the disk.

    python -m benchmarks.label_check --data my.yaml

Both go over every image and label file, reading with a thread for each CPU, checking as the command does. Before each
run from the disk the kernel is told to forget the files (posix_fadvise), which it does on most file systems. The
figures are the best of `--repeats`.
"""

import argparse
import os
import time
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path

from utils.console import LOGGER, cli_errors
from utils.datasets.dataset import SPLITS, YoloReader, check_dataset, list_images, scan
from utils.datasets.reader import Split


def forget(files: list[str]) -> None:
    """Let the kernel drop its copies of the files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(files: list[str]) -> None:
    """Read every file as a whole."""
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.imap(lambda file: len(Path(file).read_bytes()), files, chunksize=16):
            pass


def best(action: Callable[[], object], before: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of an action, seconds."""
    times = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Log the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="data/demo.yaml", help="data set YAML with labels in YOLO text")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    opt = parser.parse_args()
    data = check_dataset(opt.data)
    images = [file for key in SPLITS if data[key] for file in list_images(data[key])]
    reader = YoloReader(Split("", "yolo", {}), images, data["nc"])
    files = images + [file for file in reader.label_files if Path(file).is_file()]
    size = sum(os.path.getsize(file) for file in files) / 1e6
    LOGGER.info(f"{len(images)} images, {len(files)} files, {size:.1f} MB\n{'':<14}{'read s':>10}{'check s':>10}")
    for name, before in (("from memory", lambda: None), ("from the disk", lambda: forget(files))):
        seconds = [best(action, before, opt.repeats) for action in (lambda: read(files), lambda: scan(reader, ""))]
        LOGGER.info(f"{name:<14}{seconds[0]:>10.3f}{seconds[1]:>10.3f}")


if __name__ == "__main__":
    with cli_errors():
        main()
