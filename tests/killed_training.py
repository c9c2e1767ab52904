"""Kill trainings at random moments, resume each to its end, and compare the weights with those of an undisturbed run.

    python -m tests.killed_training                             # 30 kills
    python -m tests.killed_training --kills 10 --first 20       # the last ten of them

SIGKILL, SIGTERM and SIGINT take turns. Every second training loads its images in a process of its own, and gets its
signal as a cluster or a terminal sends it: to all processes of the group. The model is tiny, but has all that could be
lost: drop path, batch statistics, gradients over two batches per step, mixup, validation and early stopping. The exit
status is 1 if one weight of one run differs in one bit, if a log row differs, or if a signal was not followed.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from engine.training.more_epochs import is_finished
from models.weights.checkpoint import load_checkpoint
from utils.console import LOGGER, cli_errors
from utils.datasets import demo
from utils.files import yaml_load, yaml_save
from utils.paths import ROOT

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 128 + signal.SIGINT}
STARTED = "Logging results to"  # from here on there is a run to lose
FINISHED = "Results, weights and images are in"
PATIENCE = 300  # seconds
MODEL = {
    "nc": len(demo.CLASSES),
    "depth_multiple": 1.0,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 2, "C3SwinV2", [64, 4]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 2, "C3SwinV2", [128, 4]],
    ],
    "head": [[-1, 1, "Conv", [128, 3, 2]], [[4, 5], 1, "Detect", ["nc", "anchors"]]],
}


class Outcome(NamedTuple):
    """One row of the table."""

    number: int
    signal: str
    workers: int
    moment: float  # seconds after the training began
    status: int  # of the process that was killed
    resumed: str  # where the second process began
    problem: str  # "" if all is equal


def write_inputs(folder: Path) -> list[str]:
    """Draw a dataset, write model and hyperparameters, and return the command of a training without its folder."""
    demo.draw_demo(folder / "set", n_train=10, n_val=6, size=64, seed=0)
    names = dict(enumerate(demo.CLASSES))
    yaml_save(
        folder / "set.yaml",
        {"path": str(folder / "set"), "train": "images/train", "val": "images/val", "names": names},
    )
    yaml_save(folder / "model.yaml", MODEL)
    hyp = yaml_load(ROOT / "data/hyps/hyp.swinv2.yaml")
    yaml_save(folder / "hyp.yaml", hyp | {"drop_path": 0.2, "nominal_batch": 8, "mixup": 0.5, "warmup_epochs": 1.0})
    return [
        *(sys.executable, "train.py", "--data", str(folder / "set.yaml"), "--cfg", str(folder / "model.yaml")),
        *("--weights", "", "--hyp", str(folder / "hyp.yaml"), "--imgsz", "64", "--batch-size", "4", "--epochs", "6"),
        *("--noplots", "--device", "cpu", "--project", str(folder), "--exist-ok"),
    ]


def start(command: list[str], log: Path) -> subprocess.Popen:
    """Start a training on the CPU with one thread in a process group of its own, its output in a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)


def wait_until_started(process: subprocess.Popen, log: Path) -> float:
    """Return the time when a training began.

    Raises:
        ValueError: it did not.
    """
    end = time.monotonic() + PATIENCE
    while STARTED not in log.read_text():
        if process.poll() is not None or time.monotonic() > end:
            raise ValueError(f"a training did not begin; its output:\n{log.read_text()}")
        time.sleep(0.02)
    return time.monotonic()


def finish(process: subprocess.Popen, log: Path) -> None:
    """Wait for the end of a training.

    Raises:
        ValueError: it failed.
    """
    if process.wait(PATIENCE):
        raise ValueError(f"a training failed; its output:\n{log.read_text()}")


def differences(folder: Path, reference: Path) -> str:
    """Compare weights and log rows of two finished runs; "" if they are equal, bit for bit."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(run / "weights" / name)["model"] for run in (folder, reference))
        wrong = [key for key in theirs if key not in ours or not torch.equal(ours[key], theirs[key])]
        if wrong or ours.keys() != theirs.keys():
            return f"{name}: {len(wrong)} of {len(theirs)} tensors differ, first {wrong[:1]}"
    ours, theirs = ((run / "results.csv").read_text().splitlines() for run in (folder, reference))
    if [row.rpartition(",")[0] for row in ours] != [row.rpartition(",")[0] for row in theirs]:  # all but the time
        return "results.csv differs"
    left = [file.name for file in (folder / "weights").iterdir() if ".tmp" in file.name]
    return f"left behind: {left}" if len(left) > 1 else ""  # one of a killed process is removed by the next one


def kill_and_resume(command: list[str], folder: Path, number: int, length: float) -> Outcome:
    """Kill one training at a moment drawn from its number, and resume it; `length`: seconds of an undisturbed one."""
    sent, workers = SIGNALS[number % len(SIGNALS)], number // len(SIGNALS) % 2
    moment = random.Random(number).uniform(0, length)
    name = f"kill{number}"
    run, log = folder / name, folder / f"{name}.log"
    last = run / "weights/last.pt"
    full = [*command, "--name", name, "--workers", str(workers)]
    process = start(full, log)
    began = wait_until_started(process, log)
    time.sleep(max(0.0, began + moment - time.monotonic()))
    problem = ""
    if process.poll() is None:
        (os.killpg if workers else os.kill)(process.pid, sent)
    process.wait(PATIENCE)
    status, output = process.returncode, log.read_text()
    if FINISHED in output:  # nothing was left to lose; Python was about to exit
        pass
    elif status not in (0, STATUS[sent]):
        problem = f"exit status {status}, expected {STATUS[sent]}: {output.splitlines()[-1]}"
    elif status > 0 and "train.py --resume" not in output and last.exists():
        problem = "no line says how to go on"

    resumed = "-"
    if status and not (last.exists() and is_finished(load_checkpoint(last))):  # else it had just finished
        again = [sys.executable, "train.py", "--resume", str(last)] if last.exists() else full
        process = start(again, log)
        finish(process, log)
        found = re.search(r"Resuming .* at (epoch \d+) of \d+ epochs(?:, after (batch \d+))?", log.read_text())
        resumed = " ".join(part for part in found.groups() if part) if found else "start"
    return Outcome(number, sent.name, workers, moment, status, resumed, problem or differences(run, folder / "whole"))


def run(kills: int, first: int, folder: Path) -> list[Outcome]:
    """Do the undisturbed run and all others; log one line for each."""
    command = write_inputs(folder)
    log = folder / "whole.log"
    process = start([*command, "--name", "whole", "--workers", "0"], log)
    began = wait_until_started(process, log)
    finish(process, log)
    length = time.monotonic() - began
    LOGGER.info(f"an undisturbed run takes {length:.1f} s after its start\n")
    head = "{:>4} {:>8} {:>8} {:>9} {:>7}  {:<16} {}"
    LOGGER.info(head.format("kill", "signal", "workers", "after s", "status", "resumed at", "weights and log"))
    outcomes = []
    for number in range(first, first + kills):
        outcome = kill_and_resume(command, folder, number, length)
        outcomes.append(outcome)
        cells = (*outcome[:3], f"{outcome.moment:.2f}", *outcome[4:6], outcome.problem or "equal")
        LOGGER.info(head.format(*cells))
    return outcomes


def main(argv: list[str] | None = None) -> None:
    """Run as the options say; SystemExit with status 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="trainings to kill")
    parser.add_argument("--first", type=int, default=0, help="number of the first one; it draws the moment")
    opt = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(opt.kills, opt.first, Path(folder))
    equal = sum(not outcome.problem for outcome in outcomes)
    LOGGER.info(f"\n{len(outcomes)} kills, {equal} equal bit for bit to the undisturbed run")
    if equal != len(outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    with cli_errors():
        main()
