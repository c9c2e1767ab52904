"""How the cost grows: with pixels, boxes, classes, images and label lines of a dataset, and processes.

    python -m benchmarks.scaling --parts boxes classes
    python -m benchmarks.scaling --parts images --only scan --lines 1000000
    python -m benchmarks.scaling --parts size --cfg yolov5n.yaml yolov5n-swinv2.yaml

One row for each thing that grows (`benchmarks.scaling_cases`, `benchmarks.scaling_datasets`). Each of its sizes is
measured in a process of its own: CPU seconds, those of child processes too, and the peak of the resident memory above
what was there before the call.
The exponent is k of the law `seconds = c * x ** k` over the last three sizes, its median and range over the repeats;
k = 1 is a cost proportional to x. `objects` counts what the call leaves allocated in Python for each thing more, such
as lists of boxes would. Weights and data are random. Linux only.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import re
import resource
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from benchmarks.scaling_cases import (
    Case,
    batch_cases,
    box_cases,
    build,
    class_cases,
    images_of,
    random_targets,
    size_cases,
    window_cases,
)
from benchmarks.scaling_datasets import image_cases, shared_labels
from benchmarks.tables import draw_orders, exponent, log_table, save_json
from utils.console import LOGGER, cli_errors
from utils.loss import ComputeLoss
from utils.optim import build_optimizer
from utils.torch_utils import select_device

PARTS = ("size", "window", "batch", "boxes", "classes", "images", "workers", "processes")
LEAST = 0.02  # CPU seconds that a figure is measured over
LAST = 3  # sizes that the exponent is of


class Figures(NamedTuple):
    """What one size costs: CPU seconds of each repeat, peak memory in bytes, Python objects left allocated."""

    seconds: list[float]
    memory: int
    objects: int


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def resident(key: str) -> int:
    """Return a size of this process in bytes: `VmRSS`, or `VmHWM`, its peak."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{key}:")[1].split()[0]) * 1024


def measure_point(case: Case, x: int, connection: Connection) -> None:
    """Measure one size in this process: send `Figures` without times, then the seconds of a call for each word."""
    LOGGER.setLevel("ERROR")
    case.make(case.sizes[0])()  # what is loaded once
    function = case.make(x)
    gc.collect()
    gc.freeze()  # a full collection looks at all objects of the libraries, and comes by chance
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted from here on
    before, blocks, start = resident("VmRSS"), sys.getallocatedblocks(), cpu_seconds()
    result = function()
    once = cpu_seconds() - start
    memory, objects = resident("VmHWM") - before, sys.getallocatedblocks() - blocks
    del result
    calls = max(round(LEAST / max(once, 1e-6)), 1)
    connection.send(Figures([], memory, objects))
    while connection.recv():
        start = cpu_seconds()
        for _ in range(calls):
            function()
        connection.send((cpu_seconds() - start) / calls)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Measure all sizes of a case; returns a row of the table. They take turns, so that all meet the same machine."""
    context = multiprocessing.get_context("fork")
    workers, connections, found = [], [], []
    try:
        for x in case.sizes:
            connection, other = context.Pipe()
            worker = context.Process(target=measure_point, args=(case, x, other), daemon=True)
            worker.start()
            other.close()
            workers.append(worker)
            connections.append(connection)
            found.append(connection.recv())
        for _, order in zip(range(repeats), draw_orders(range(len(connections))), strict=False):
            for k in order:
                connections[k].send(True)
                found[k].seconds.append(connections[k].recv())
    except EOFError:
        raise ValueError(f"{case.what}: the process of {case.sizes[len(found)]} {case.unit} ended early") from None
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return row_of(case, found)


def row_of(case: Case, found: Sequence[Figures]) -> dict[str, Any]:
    """Return a row of the table."""
    xs, last = case.sizes, slice(-LAST, None)
    per_repeat = zip(*(f.seconds for f in found[last]), strict=True)
    slopes = [exponent(xs[last], seconds) for seconds in per_repeat]
    grown = xs[-1] - xs[0]
    ms = [statistics.median(f.seconds) * 1e3 for f in (found[0], found[-1])]
    memory, objects = ([getattr(f, name) for f in (found[0], found[-1])] for name in ("memory", "objects"))
    return {
        "what": case.what, "x": case.unit, "from": xs[0], "to": xs[-1], "ms from": ms[0], "ms to": ms[1],
        "exponent": round(statistics.median(slopes), 2), "range": f"{min(slopes):.2f} to {max(slopes):.2f}",
        "MiB from": round(memory[0] / 2**20, 1), "MiB to": round(memory[1] / 2**20, 1),
        "bytes each": round((memory[1] - memory[0]) / grown),
        "objects each": round((objects[1] - objects[0]) / grown, 2) + 0.0,
    }  # fmt: skip


# Processes ------------------------------------------------------------------------------------------------------------
def train_in_process(rank: int, world: int, port: int, cfg: str, opt: argparse.Namespace, results: Any) -> None:
    """Put the seconds of some training steps of one of several processes, each with its own batch, into `results`."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = build(cfg, opt.imgsz, 3)
    optimizer = build_optimizer(model, "SGD")
    compute_loss, net = ComputeLoss(model), DistributedDataParallel(model)
    images, targets = images_of(4, opt.imgsz), random_targets(4, 10, 3)
    series = []
    for _ in range(opt.repeats + 1):
        dist.barrier()
        start = time.process_time()
        compute_loss(net(images), targets)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        series.append(time.process_time() - start)
    results.put((series[1:], resident("VmHWM")))
    dist.barrier()
    dist.destroy_process_group()


def over_processes(opt: argparse.Namespace, cfg: str) -> dict[str, Any]:
    """Measure a training step of 1, 2 and 4 processes with 4 images and one thread each; CPU time of all of them."""
    found, worlds = [], [1, 2, 4]
    for world in worlds:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        results = mp.get_context("spawn").SimpleQueue()
        mp.spawn(train_in_process, (world, port, cfg, opt, results), nprocs=world)
        series, memory = zip(*(results.get() for _ in range(world)), strict=True)
        found.append(Figures([sum(each) for each in zip(*series, strict=True)], sum(memory), 0))
    return row_of(Case(f"training step, {cfg}, 4 images each", "processes", worlds, lambda _: lambda: None), found)


def private_bytes() -> int:
    """Return how much memory this process has for itself."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return sum(int(value) for value in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) * 1024


def touch(dataset: Any, sender: Connection) -> None:
    """Read all labels in a process, as a loader process does over an epoch, and send what memory it took for itself."""
    gc.collect()
    before, start = private_bytes(), cpu_seconds()
    for i in range(dataset.n):
        _labels, _file = dataset.labels[i], dataset.im_files[i]
        for _polygon in dataset.segments[i]:
            pass
    sender.send(Figures([cpu_seconds() - start], private_bytes() - before, 0))


def over_workers(lines: int, polygons: bool) -> dict[str, Any]:
    """Measure how much of the labels becomes memory of a loader process's own when it has read them all."""
    found, sizes = [], [lines // 100, lines // 10, lines]
    context = multiprocessing.get_context("fork")
    for x in sizes:
        dataset = shared_labels(x, polygons)
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=touch, args=(dataset, sender))
        worker.start()
        found.append(receiver.recv())
        worker.join()
    kind = "polygons" if polygons else "boxes"
    return row_of(Case(f"labels in a loader process, {kind}", "label lines", sizes, lambda _: lambda: None), found)


def cases(part: str, cfgs: list[str], imgsz: int, lines: int, scratch: Path) -> list[Case]:
    """Return the rows of a part."""
    made: dict[str, Callable[[], Iterator[Case]]] = {
        "size": lambda: size_cases(cfgs),
        "window": lambda: window_cases(cfgs, imgsz),
        "batch": lambda: batch_cases(cfgs, imgsz),
        "boxes": lambda: box_cases(cfgs),
        "classes": lambda: class_cases(cfgs, scratch),
        "images": lambda: image_cases(lines, scratch),
    }
    return list(made[part]())


def rows_of(part: str, opt: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Measure the rows of a part and log each as it comes."""
    wanted = re.compile(opt.only, re.IGNORECASE)
    jobs: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    if part == "processes":
        jobs = [(f"training step, {cfg}", lambda cfg=cfg: over_processes(opt, cfg)) for cfg in opt.cfg]
    elif part == "workers":
        jobs = [(f"labels {p}", lambda p=p: over_workers(opt.lines, p)) for p in (False, True)]
    else:
        found = cases(part, opt.cfg, opt.imgsz, opt.lines, scratch)
        jobs = [(case.what, lambda case=case: measure(case, opt.repeats)) for case in found]
    rows = []
    for what, job in jobs:
        if wanted.search(what):
            rows.append(job())
            row = rows[-1]
            LOGGER.info(
                f"{row['what']}: x^{row['exponent']:.2f}, {row['ms to']:.4g} ms and {row['MiB to']} MiB at the end"
            )
    return rows


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| what | from - to | exponent (range) | ms from - to | peak MiB from - to | bytes each | objects each |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['what']} | {r['from']:,} - {r['to']:,} {r['x']} | {r['exponent']:.2f} ({r['range']}) | "
            f"{r['ms from']:.3g} - {r['ms to']:.4g} | {r['MiB from']} - {r['MiB to']} | {r['bytes each']:,} | "
            f"{r['objects each']:g} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what grows")
    add("--only", default="", help="rows whose name this regular expression finds")
    add("--cfg", nargs="+", default=["yolov5n.yaml", "yolov5n-swinv2.yaml"], help="model files")
    add("--imgsz", "--img", type=int, default=320, help="image size of all parts but `size`, pixels")
    add("--lines", type=int, default=1_000_000, help="most label lines of a dataset, ten for each image")
    add("--repeats", type=int, default=5, help="measurements of each point")
    add("--markdown", default="", help="write the table to this file as Markdown")
    add("--json", default="", help="write the tables to this file too")
    opt = parser.parse_args(argv)
    select_device("cpu")  # threads and memory as in the scripts
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # a thread pool does not outlive a fork
    tables = {}
    with TemporaryDirectory(prefix="scaling-") as scratch:
        for part in opt.parts:
            if rows := rows_of(part, opt, Path(scratch)):
                tables[part] = rows
                log_table(rows, part)
    rows = [row for part in tables.values() for row in part]
    if opt.markdown:
        Path(opt.markdown).write_text(as_markdown(rows) + "\n", encoding="utf-8")
    for row in rows:
        if row["exponent"] > 1.05:
            LOGGER.info(f"above 1.05: {row['what']}, x^{row['exponent']:.2f}")
    save_json(opt.json, vars(opt), tables)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
