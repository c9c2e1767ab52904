"""What the benchmarks share: functions that take turns, medians, peak memory, a table in the log, a JSON file."""

import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from utils.console import LOGGER
from utils.paths import git_describe

T = TypeVar("T")


def draw_orders(names: Sequence[T]) -> Iterator[list[T]]:
    """Yield the names in one order after another, without end, drawn with seed 0.

    What runs first in every round finds the caches as the last one leaves them, and always the same one would.
    """
    rng = random.Random(0)
    while True:
        yield rng.sample(names, len(names))


def take_turns(
    functions: Mapping[str, Callable[[], Any]], repeats: int = 5, warmup: int = 1, seconds: float = 0.0
) -> dict[str, float]:
    """Return the median seconds of each function.

    They take turns, call by call, so that what else the machine does hits all of them and their ratios hold.

    Args:
        functions: by name.
        repeats: least timed calls of each, at least 5 for a median worth printing.
        warmup: calls before that, not timed.
        seconds: go on until so much time has passed.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    orders = draw_orders(list(functions))
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < repeats or time.perf_counter() < end:
        for name in next(orders):
            start = time.perf_counter()
            functions[name]()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: statistics.median(series) for name, series in times.items()}


def peak_resident() -> float:
    """Return the largest resident memory that this program has had, MiB.

    `getrusage` would do, but Linux hands the figure of the parent process on to the program that it starts.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    import resource  # noqa: PLC0415, Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return k of the law seconds = c * size ** k that fits best in logarithms (least squares)."""
    x, y = [math.log(v) for v in sizes], [math.log(v) for v in seconds]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def log_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Log rows of equal keys as aligned columns, numbers with four digits."""
    if title:
        LOGGER.info(f"\n{title}")
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    cells = [list(rows[0]), *cells] if rows else []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        LOGGER.info("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def save_json(file: str | Path, options: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Write options, machine and tables; "" writes nothing."""
    if not file:
        return
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": git_describe(),
    }
    content = {"options": dict(options), "machine": machine, **tables}
    Path(file).write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
