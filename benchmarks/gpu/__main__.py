"""Accept a GPU: run everything that a CPU cannot show, within a time, and write one JSON file and one page.

    python -m benchmarks.gpu --minutes 10
    python -m benchmarks.gpu --minutes 3 --parts precision attention
    python -m benchmarks.gpu --device cpu --minutes 1

The folder --out gets gpu.json, gpu.md and log.txt. On a CPU everything is tiny (--tiny): a rehearsal that finds faults
of the checks themselves. The items run in a process of their own; one that raises, crashes or takes too long is written
down, and a new process goes on with the next. The exit status is 1 if a check failed or an item ended with an error.
What there was no time for is listed as not run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from benchmarks.gpu.plan import PARTS, Part, run_parts
from benchmarks.gpu.report import ERROR, FAILED, NOT_RUN, has_failed, make_report, save_report
from benchmarks.gpu.work import Setting, Work
from utils.console import LOGGER, cli_errors
from utils.paths import ROOT, increment_path
from utils.torch_utils import init_seeds, parse_device, select_device

POLL = 0.2  # seconds


def choose_device(text: str) -> torch.device:
    """Return the one device to accept, without a CUDA context in this process: it would take memory from the rest.

    Raises:
        ValueError: bad syntax, several devices, or one that does not exist.
    """
    kind, ids = parse_device(text)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind, ids = ("cuda", [0]) if count else ("cpu", [])
    if kind == "mps" or len(ids) > 1:
        raise ValueError(f"--device {text}: one CUDA device, such as 0, or cpu")
    if ids and ids[0] >= count:
        raise ValueError(f"--device {text}: PyTorch finds {count} CUDA devices here. Use --device cpu for a rehearsal")
    return torch.device("cuda", ids[0]) if kind == "cuda" else torch.device("cpu")


# The process of the items ---------------------------------------------------------------------------------------------
def run_items(opt: argparse.Namespace, setting: Setting, parts: list[Part]) -> None:
    """Run the items that are left, in this process."""
    work = Work(setting, opt.events)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        work.write("error", text=f"{kind.__name__}: {text[:400]}")
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
    select_device(setting.number)
    init_seeds(0, deterministic=False)
    done = {(event.get("part", ""), event.get("item", "")) for event in read_events(opt.events)}
    run_parts(parts, work, opt.deadline, done)


# The process that watches ---------------------------------------------------------------------------------------------
def read_events(file: Path) -> list[dict[str, Any]]:
    """Return the events so far, without a line that is still being written."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def open_item(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the `begin` event of the item that has not ended, if there is one."""
    closing = ("end", "error", "not run")
    begun = next((event for event in reversed(events) if event["event"] in ("begin", *closing)), None)
    return begun if begun and begun["event"] == "begin" else None


def stop(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
    else:
        process.kill()
    process.wait()


def watch(process: subprocess.Popen, file: Path, deadline: float) -> bool:
    """Wait for the process until the time of its item is over; returns whether it ended by itself."""
    last = None
    while process.poll() is None:
        begun = open_item(read_events(file))
        if time.time() > (begun["until"] if begun else deadline):
            return False
        if begun and begun != last:
            LOGGER.info(f"{begun['part']}: {begun['item']}")
            last = begun
        time.sleep(POLL)
    return True


def close_item(file: Path, known: int, finished: bool, status: int, items: Mapping[str, Sequence[str]]) -> bool:
    """Write down how the open item of a process that is gone ended; returns whether a new process should go on.

    Args:
        file: of the events.
        known: events before that process.
        finished: it ended by itself, not because the time was over; then the rest of the part is not run either.
        status: what it ended with.
        items: of each part.
    """
    events = read_events(file)
    begun = open_item(events)
    if begun is None:
        return status != 0 and len(events) > known
    part = begun["part"]
    closed = {event.get("item") for event in events if event.get("part") == part and event["event"] != "begin"}
    with file.open("a", encoding="utf-8") as stream:
        if finished:
            event = {"event": "error", "part": part, "item": begun["item"]}
            stream.write(json.dumps(event | {"text": f"the process ended with status {status}, see log.txt"}) + "\n")
        else:
            for item in [begun["item"], *(name for name in items[part] if name not in closed | {begun["item"]})]:
                why = "ended when" if item == begun["item"] else "not begun:"
                event = {"event": "not run", "part": part, "item": item, "why": f"{why} the time of its part was spent"}
                stream.write(json.dumps(event) + "\n")
    return True


def supervise(opt: argparse.Namespace, command: list[str], folder: Path, parts: list[Part], setting: Setting) -> dict:
    """Run the items in one process after another until all are done or the time is over; return the report.

    Raises:
        ValueError: the process ended before the first item.
    """
    file, start = folder / "events.jsonl", time.time()
    deadline = start + 60 * opt.minutes
    command = [*command, "--events", str(file), "--deadline", str(deadline)]
    names = [(part.name, part.title, list(part.items(setting))) for part in parts]
    items = {name: found for name, _, found in names}
    try:
        more = True
        while more and time.time() < deadline:
            known = len(read_events(file))
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
            try:
                finished = watch(process, file, deadline)
            finally:
                stop(process)
            more = close_item(file, known, finished, process.returncode, items)
    finally:  # also after Ctrl-C
        report = make_report(
            names,
            read_events(file),
            options=public_options(opt),
            tiny=setting.tiny,
            started=start,
            seconds=time.time() - start,
        )
        save_report(report, folder)
    if not any("part" in event for event in read_events(file)):
        raise ValueError(f"the process of the items ended before the first one, see {folder / 'log.txt'}")
    return report


def public_options(opt: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a user gives."""
    return {name: getattr(opt, name) for name in ("minutes", "device", "tiny", "parts", "out")}


def log_report(report: dict[str, Any], folder: Path) -> None:
    """Log the status of each part, and what failed."""
    for part in report["parts"]:
        LOGGER.info(f"{part['status']:>8}  {part['title']}")
        for item in part["items"]:
            if item["status"] in (FAILED, ERROR):
                LOGGER.error(f"{part['name']}, {item['name']}: {item['message']}")
    LOGGER.info(f"{report['count'][NOT_RUN]} items were not run; the page is {folder / 'gpu.md'}")


def parse_opt(argv: Sequence[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [part.name for part in PARTS]
    add("--minutes", type=float, default=10.0, help="time for everything")
    add("--device", default="", help="one CUDA device, such as 0, or cpu; default: the first CUDA device, else cpu")
    add("--tiny", action="store_true", help="small models and images; always so on a CPU")
    add("--parts", nargs="+", default=names, choices=names, metavar="PART", help=", ".join(names))
    add("--out", default=str(ROOT / "runs/gpu/exp"), help="folder for the results; a number is added if it exists")
    add("--events", type=Path, help=argparse.SUPPRESS)
    add("--deadline", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run and report; returns the exit status."""
    opt = parse_opt(argv)
    if not 0 < opt.minutes < float("inf"):
        raise ValueError(f"--minutes {opt.minutes}: must be above 0")
    device = choose_device(opt.device)
    tiny = opt.tiny or device.type == "cpu"
    parts = [part for part in PARTS if part.name in opt.parts]
    if opt.events:
        run_items(opt, Setting(device, tiny, opt.events.parent), parts)
        return 0
    folder = increment_path(opt.out, mkdir=True).resolve()
    command = [sys.executable, "-m", "benchmarks.gpu", "--parts", *opt.parts, "--device", opt.device]
    report = supervise(opt, [*command, *["--tiny"] * opt.tiny], folder, parts, Setting(device, tiny, folder))
    log_report(report, folder)
    return int(has_failed(report))


if __name__ == "__main__":
    with cli_errors():
        sys.exit(main(sys.argv[1:]))
