"""Time whole commands of this checkout against those of another program: wall time, CPU time, peak memory.

    python -m benchmarks.against --weights yolov5n.pt --data my.yaml --other 'python ../yolov5/{script} {options}'
    python -m benchmarks.against --tasks val --weights best.pt --data my.yaml --other 'other-tool evaluate my.yaml'

Every task is a command of this checkout, such as `python val.py ...`. `--other` is the command that it is compared
with; in it {script} stands for val.py and {options} for the words that follow it, so one template serves all tasks of a
program with YOLOv5's command line, and a program with another one is compared task by task. {out} is a folder for what
a run writes, {weights} and {data} are the files. Without `--other` only this checkout is timed.

In each round every command runs once, in an order drawn anew. CPU time is user and system time of the process and of
all that it waited for, memory that of the largest of these processes. The ratio is ours to theirs in the same round, so
what else the machine does hits both; below 1 this checkout needs less. Needs a POSIX system.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2

from benchmarks.tables import draw_orders, log_table, save_json
from utils.console import LOGGER, cli_errors
from utils.datasets.dataset import check_dataset
from utils.datasets.lists import list_images
from utils.paths import ROOT

OURS = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT))}/{{script}} {{options}}"
SAVE = "--project {out} --name run"
LOADER = "--data {data} --batch-size {batch} --workers {workers}"
TASKS = {  # script and options of each, all of them YOLOv5's
    "start": ("detect.py", f"--weights {{weights}} --source {{image}} {SAVE}"),
    "train": ("train.py", f"--weights {{weights}} {LOADER} --epochs 1 --noplots {SAVE}"),
    "val": ("val.py", f"--weights {{weights}} {LOADER} {SAVE}"),
    "detect": ("detect.py", f"--weights {{weights}} --source {{images}} {SAVE}"),
    "video": ("detect.py", f"--weights {{weights}} --source {{video}} {SAVE}"),
    "export": ("export.py", "--weights {copy} --include onnx"),
}
FIGURES = ("wall s", "CPU s", "peak MiB")
# Linux counts the memory of the process that forks as the child's: a small process starts the command.
MEASURE = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
wall = time.perf_counter() - start
peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
with open(os.environ["AGAINST_RESULT"], "w") as file:
    json.dump([wall, used.ru_utime + used.ru_stime, peak], file)
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""


def make_video(images: Sequence[Path], file: Path, frames: int) -> None:
    """Write the images, again from the first one after the last, as the frames of a video of 640 x 480 pixels.

    Raises:
        ValueError: OpenCV has no MPEG-4 encoder, or an image can't be read.
    """
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 25, (640, 480))
    if not writer.isOpened():
        raise ValueError("task video: this build of OpenCV can't write MPEG-4; leave it out of --tasks")
    for i in range(frames):
        image = cv2.imread(str(images[i % len(images)]))
        if image is None:
            raise ValueError(f"{images[i % len(images)]}: can't be read")
        writer.write(cv2.resize(image, (640, 480)))
    writer.release()


def run(command: str, folder: Path) -> list[float]:
    """Run a command in a folder.

    Returns:
        Seconds of wall time, seconds of CPU time, MiB of peak memory.

    Raises:
        ValueError: the command failed; with the last lines that it printed.
    """
    result = folder / "against.json"
    words = [sys.executable, "-I", "-c", MEASURE, *shlex.split(command)]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "AGAINST_RESULT": str(result)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        lines = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise ValueError(f"{command}\nended with an error, its last lines are:\n{lines}")
    return json.loads(result.read_text())


def commands_of(opt: argparse.Namespace, places: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return the command of each task and side, with the placeholders replaced by `places`."""
    found = {}
    for task, (side, template) in product(opt.tasks, (("ours", OURS), ("other", opt.other))):
        if template:
            script, options = TASKS[task]
            options += " --img {img} --device {device}"
            try:
                found[task, side] = template.format(script=script, options=options.format(**places), **places)
            except (KeyError, IndexError, ValueError) as error:
                known = ", ".join(sorted({"script", "options", *places}))
                raise ValueError(f"--other {template!r}: {error} is no placeholder; there are {known}") from None
    return found


def rows_of(runs: Mapping[tuple[str, str], list[list[float]]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return medians and ranges of each task, and of the ratios of the rounds."""
    rows = []
    for task, (i, figure) in product(tasks, enumerate(FIGURES)):
        series = {side: [run[i] for run in runs[task, side]] for side in ("ours", "other") if (task, side) in runs}
        row: dict[str, Any] = {"task": task, "figure": figure}
        if "other" in series:
            series["ratio"] = [a / b for a, b in zip(series["ours"], series["other"], strict=True)]
        for side, values in series.items():
            row[side] = statistics.median(values)
            row[f"{side} range"] = f"{min(values):.3g}-{max(values):.3g}"
        rows.append(row)
    return rows


def measure(opt: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run all commands in rounds; returns the rows of the table."""
    data = check_dataset(opt.data)
    images = list_images(data["val"])[: opt.images]
    sources = folder / "images"
    sources.mkdir()
    for i, image in enumerate(images):
        shutil.copy(image, sources / f"{i:06d}{Path(image).suffix}")
    if "video" in opt.tasks:
        make_video(sorted(sources.iterdir()), folder / "video.mp4", opt.frames)
    out = folder / "out"
    places = {
        "weights": Path(opt.weights).resolve(), "data": Path(data["yaml_file"]).resolve(), "out": out,
        "copy": out / Path(opt.weights).name, "images": sources, "image": min(sources.iterdir()),
        "video": folder / "video.mp4", "img": opt.imgsz, "batch": opt.batch_size, "workers": opt.workers,
        "device": opt.device,
    }  # fmt: skip
    commands = commands_of(opt, {key: shlex.quote(str(value)) for key, value in places.items()})
    runs: dict[tuple[str, str], list[list[float]]] = {key: [] for key in commands}
    for number, order in enumerate(islice(draw_orders(list(commands)), opt.warmup + opt.repeats)):
        for key in order:
            out.mkdir()
            shutil.copy(opt.weights, out)
            figures = run(commands[key], out)
            shutil.rmtree(out)
            LOGGER.info(f"round {number + 1} of {opt.warmup + opt.repeats}: {' '.join(key)}: {figures[0]:.1f} s")
            if number >= opt.warmup:
                runs[key].append(figures)
    return rows_of(runs, opt.tasks)


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint that both programs read")
    add("--data", required=True, help="dataset YAML; its validation images are the source of detection")
    add("--other", default="", help="command to compare with, may hold {script}, {options}, {out}, {weights}, {data}")
    add("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    add("--imgsz", "--img", type=int, default=320, help="pixels")
    add("--batch-size", type=int, default=16)
    add("--workers", type=int, default=0)
    add("--device", default="cpu")
    add("--images", type=int, default=100, help="most images of task detect")
    add("--frames", type=int, default=100, help="frames of task video")
    add("--repeats", type=int, default=5, help="rounds that count")
    add("--warmup", type=int, default=1, help="rounds before them that do not count")
    add("--save", default="", help="JSON file for figures, options and machine")
    opt = parser.parse_args(argv)
    if min(opt.repeats, opt.images, opt.frames) < 1:
        raise ValueError("--repeats, --images and --frames are at least 1")
    if not Path(opt.weights).is_file():
        raise FileNotFoundError(f"--weights {opt.weights}: no such file")
    return opt


def main(argv: list[str]) -> None:
    """Time the commands, log the table."""
    opt = parse_opt(argv)
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        rows = measure(opt, Path(folder))
    log_table(rows, f"medians of {opt.repeats} rounds")
    save_json(opt.save, vars(opt), {"commands": rows})


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
