"""What every part needs: the device and the sizes, a recorder of figures and checks, timing and memory."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from utils.files import yaml_load
from utils.paths import ROOT

MIB = 2**20
LEAST_SAMPLE = 0.005  # seconds between two readings of the clock; shorter calls are repeated inside


@dataclass(frozen=True)
class Setting:
    """Where and how large everything runs.

    Args:
        device: a CUDA device or the CPU.
        tiny: small models and images, few repeats: a rehearsal, not a measurement.
        folder: for files that a part writes; it exists.
    """

    device: torch.device
    tiny: bool
    folder: Path

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def number(self) -> str:
        """The device as --device of the programs takes it."""
        return str(self.device.index) if self.cuda else "cpu"

    @property
    def seconds(self) -> float:
        """Of each timing."""
        return 0.02 if self.tiny else 0.5

    def pick(self, full: Any, tiny: Any) -> Any:
        """Return the first value, or the second in a rehearsal."""
        return tiny if self.tiny else full


def model_file(setting: Setting, cfg: str) -> str:
    """Return the model file of a name such as yolov5n; in a rehearsal a narrow one of the same layers is written."""
    if not setting.tiny:
        return f"{cfg}.yaml"
    file = setting.folder / f"{cfg}-narrow.yaml"
    table = yaml_load(ROOT / f"models/{cfg}.yaml") | {"width_multiple": 0.125, "depth_multiple": 0.1}
    file.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    return str(file)


class Work:
    """Writes what an item finds to a file, line by line, so that a crash or the end of the time loses nothing.

    Args:
        setting: see there.
        file: JSON lines, appended to.
    """

    def __init__(self, setting: Setting, file: Path) -> None:
        self.setting = setting
        self.device = setting.device
        self.file = file
        self.place: dict[str, str] = {}
        self.end = float("inf")  # of the part, seconds of `time.time`

    def write(self, event: str, **content: Any) -> None:
        """Append an event."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, **self.place, **content}) + "\n")

    def figure(self, name: str, values: float | Sequence[float], unit: str, **labels: Any) -> None:
        """Record a number or repeated measurements of one.

        Args:
            name: what was measured; figures of one name form a table.
            values: not empty.
            unit: "" for a ratio or a count.
            **labels: columns of the table, such as model and batch.
        """
        series = [float(v) for v in ([values] if isinstance(values, int | float) else values)]
        numbers = {"median": statistics.median(series), "min": min(series), "max": max(series)}
        self.write("figure", name=name, unit=unit, repeats=len(series), labels=labels, **numbers)

    def check(self, name: str, ok: bool, text: str) -> None:
        """Record whether something that must hold does; `text` has the numbers behind it."""
        self.write("check", name=name, ok=bool(ok), text=text)

    def note(self, text: str) -> None:
        """Record a fact in words."""
        self.write("note", text=text)

    def unavailable(self, what: str, why: str) -> None:
        """Record that something could not be run here; it counts as not run, neither as passed nor as failed."""
        self.write("unavailable", name=what, why=why)

    @contextmanager
    def may_not_fit(self, what: str) -> Iterator[None]:
        """Record `what` as not run if the block needs more memory than the card has, and go on after it."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.unavailable(what, "out of memory on this card")
        free_memory(self.device)


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Give what nobody holds any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def time_calls(
    call: Callable[[], Any], setting: Setting, *, warmup: int = 2, least: int = 3, most: int = 50
) -> list[float]:
    """Return seconds per call, one number for each sample; the device is waited for around every sample.

    Args:
        call: what is timed; it runs `warmup` times before.
        setting: samples are taken for its `seconds`.
        warmup: calls that are not timed.
        least: samples at least.
        most: samples at most.
    """
    for _ in range(warmup):
        call()

    def sample(calls: int) -> float:
        synchronize(setting.device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(setting.device)
        return (time.perf_counter() - start) / calls

    calls = max(1, min(100, round(LEAST_SAMPLE / max(sample(1), 1e-9))))
    samples: list[float] = []
    end = time.perf_counter() + setting.seconds
    while len(samples) < least or (len(samples) < most and time.perf_counter() < end):
        samples.append(sample(calls))
    return samples


def milliseconds(seconds: Sequence[float], share: int = 1) -> list[float]:
    """Return milliseconds, divided among `share` images."""
    return [s * 1e3 / share for s in seconds]


def peak_memory(call: Callable[[], Any], device: torch.device) -> float | None:
    """Return the most memory that was allocated during a call, MiB; None on a CPU, where PyTorch does not count it."""
    if device.type != "cuda":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / MIB


def extra_memory(call: Callable[[], Any], device: torch.device) -> float | None:
    """Return what a call allocated at most beyond what was held before, MiB; None on a CPU."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_allocated(device) / MIB
    return (peak_memory(call, device) or 0.0) - held


Item = Callable[[Work], None]
Items = Mapping[str, Item]
