"""What the benchmarks share: functions that take turns, medians, a table in the log, a JSON file."""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.general import LOGGER, git_describe


def take_turns(functions: Mapping[str, Callable[[], Any]], repeats: int = 5, warmup: int = 1) -> dict[str, float]:
    """Return the median seconds of each function.

    They take turns, call by call, so that what else the machine does hits all of them and their ratios hold.

    Args:
        functions: by name.
        repeats: timed calls of each, at least 5 for a median worth printing.
        warmup: calls before that, not timed.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(series) for name, series in times.items()}


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
