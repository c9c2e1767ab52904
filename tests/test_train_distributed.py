"""train.py in two processes (gloo on the CPU): the same run as one process, files of one writer, and its end."""

import csv
import os
import subprocess
import sys

import pytest
import torch
import yaml

from models.weights.checkpoint import load_checkpoint
from tests.waiting import HANG
from utils.datasets.demo import CLASSES, draw_demo
from utils.paths import ROOT

TABLE = {
    "nc": 4,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [
        [-1, 1, "PatchEmbed", [16, 4]],
        [-1, 2, "SwinV2Stage", [16, 4]],
        [-1, 1, "PatchMerging", [32]],
        [-1, 1, "LayerNorm2d", []],
    ],
    "head": [[-1, 1, "PatchMerging", [32]], [[3, 4], 1, "Detect", ["nc", "anchors"]]],
}  # without batch statistics, which processes compute each for its part


@pytest.fixture(scope="module")
def command(tmp_path_factory, tiny_dataset):
    """Start of a command line that trains three epochs, one step for each batch of 4 images."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "model.yaml").write_text(yaml.safe_dump(TABLE))
    hyp = yaml.safe_load((ROOT / "data/hyps/hyp.swinv2.yaml").read_text())
    (folder / "hyp.yaml").write_text(yaml.safe_dump(hyp | {"nominal_batch": 4, "warmup_epochs": 0.0}))
    return [
        *("train.py", "--data", str(tiny_dataset), "--cfg", str(folder / "model.yaml"), "--weights", ""),
        *("--hyp", str(folder / "hyp.yaml"), "--imgsz", "64", "--batch-size", "4", "--epochs", "3", "--workers", "0"),
        *("--noplots", "--device", "cpu", "--name", "run"),
    ]


def launch(processes, command):
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*head, *command] if processes > 1 else [sys.executable, *command],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, timeout=HANG, check=False,
    )  # fmt: skip


def run(processes, command):
    done = launch(processes, command)
    assert done.returncode == 0, done.stderr
    return done.stderr


def columns(folder):
    """The numbers of results.csv but for the time, its last column."""
    with (folder / "results.csv").open() as file:
        return [[float(cell) for cell in row[:-1]] for row in list(csv.reader(file))[1:]]


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(1, [*command, "--project", str(folder)])
    return folder / "run"


THREADS_AT_THE_END = """
import sys
from pathlib import Path
import train

train.main(train.parse_opt(sys.argv[1:]))
if Path("/proc/self/task").is_dir():
    left = [name for task in Path("/proc/self/task").iterdir() if "gloo" in (name := (task / "comm").read_text())]
    assert not left, f"threads of gloo are left, which may abort the process when Python shuts down: {left}"
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--shard-optimizer",)], ids=["replicated", "sharded"])
def test_two_processes_follow_the_losses_of_one(command, alone, tmp_path, monkeypatch, flags):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "script.py").write_text(THREADS_AT_THE_END)
    log = run(2, [str(tmp_path / "script.py"), *command[1:], "--project", str(tmp_path), *flags])
    assert log.count("Starting training for 3 epochs") == 1
    for one, two in zip(columns(alone), columns(tmp_path / "run"), strict=True):
        assert two[1:4] == pytest.approx(one[1:4], rel=1e-3)  # sums of the same numbers in another order
        assert two[11:] == one[11:]  # learning rates
    ckpt = load_checkpoint(tmp_path / "run/weights/best.pt")
    assert ckpt["model"].keys() == load_checkpoint(alone / "weights/best.pt")["model"].keys()
    assert all(torch.isfinite(x).all() for x in ckpt["model"].values())


@pytest.mark.slow
def test_two_processes_learn_from_a_teacher_as_one_does(command, alone, tmp_path):
    settings = ["--teacher", str(alone / "weights/best.pt"), "--project", str(tmp_path)]
    for processes in (1, 2):
        run(processes, [*command, *settings, "--name", str(processes)])
    for one, two in zip(columns(tmp_path / "1"), columns(tmp_path / "2"), strict=True):
        assert [*two[1:4], two[-1]] == pytest.approx([*one[1:4], one[-1]], rel=1e-3)
        assert one[-1] > 0


@pytest.mark.slow
def test_two_times_eight_images_follow_sixteen(command, tmp_path):
    draw_demo(tmp_path / "data", n_train=32, n_val=4, size=96, seed=1)
    data = {"path": str(tmp_path / "data"), "train": "images/train", "val": "images/val", "names": list(CLASSES)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    settings = ["--data", str(tmp_path / "data.yaml"), "--batch-size", "16", "--project", str(tmp_path)]
    run(1, [*command, *settings, "--name", "one"])
    run(2, [*command, *settings, "--name", "two"])
    for one, two in zip(columns(tmp_path / "one"), columns(tmp_path / "two"), strict=True):
        assert two[1:4] == pytest.approx(one[1:4], rel=1e-3)  # sums of the same numbers in another order


SIGNALLER = """
import os, signal, sys, time
import train
from utils.callbacks import Callbacks

def send(ni, **_):
    if ni == {batch} and os.environ["RANK"] in {ranks!r}:
        os.kill(os.{receiver}(), signal.{name})
        if "{receiver}" == "getppid":  # however long the launcher takes to hand it on, no epoch ends meanwhile
            while not signal.getsignal(signal.{name}).__self__.wanted:
                time.sleep(0.01)

callbacks = Callbacks()
callbacks.register("on_train_batch_end", send)
train.main(train.parse_opt(sys.argv[1:]), callbacks)
"""


@pytest.fixture
def signaller(tmp_path, monkeypatch):
    """Function that writes a script: train.py whose processes of some ranks send a signal at the end of a batch."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def write(name, batch, ranks="01", receiver="getpid"):
        file = tmp_path / "signaller.py"
        file.write_text(SIGNALLER.format(name=name, batch=batch, ranks=ranks, receiver=receiver))
        return str(file)

    return write


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sharded_run_is_resumed_by_any_number_of_processes(command, alone, tmp_path, signaller, processes):
    """Two processes are killed at the end of the second epoch; the rest follows the run that was never disturbed."""
    settings = ["--project", str(tmp_path), "--shard-optimizer"]
    killed = launch(2, [signaller("SIGKILL", 3), *command[1:], *settings])
    assert "Signal 9 (SIGKILL)" in killed.stderr
    last = tmp_path / "run/weights/last.pt"
    assert load_checkpoint(last)["epoch"] == 0
    log = run(processes, ["train.py", "--resume", str(last)])
    assert ("no longer sharded" in log) == (processes == 1)
    rows, expected = columns(tmp_path / "run"), columns(alone)
    assert [row[0] for row in rows] == [0, 1, 2]
    for row, reference in zip(rows, expected, strict=True):
        assert row[1:4] == pytest.approx(reference[1:4], rel=1e-3)
        assert row[11:] == reference[11:]


@pytest.mark.slow
def test_killed_process_ends_the_other_and_the_run_goes_on(command, tmp_path, signaller):
    argv = [*command[1:], "--epochs", "60", "--project", str(tmp_path)]
    killed = launch(2, [signaller("SIGKILL", 5, ranks="1"), *argv])  # returns when the other one has ended
    last = tmp_path / "run/weights/last.pt"
    assert killed.returncode != 0
    assert "Signal 9 (SIGKILL)" in killed.stderr
    epoch = load_checkpoint(last)["epoch"]
    log = run(2, ["train.py", "--resume", str(last), "--epochs", str(epoch + 3)])
    assert f"at epoch {epoch + 1} of {epoch + 3} epochs" in log
    assert [row[0] for row in columns(tmp_path / "run")] == list(range(epoch + 3))


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_resume_ends_with_the_same_weights(command, tmp_path, signaller):
    argv = [*command, "--hyp", str(tmp_path / "hyp.yaml"), "--epochs", "40", "--noval", "--project", str(tmp_path)]
    values = yaml.safe_load((ROOT / "data/hyps/hyp.swinv2.yaml").read_text())
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump(values | {"nominal_batch": 12, "drop_path": 0.3}))
    run(2, [*argv, "--name", "whole"])
    script = signaller("SIGTERM", 4, ranks="0", receiver="getppid")
    stopped = launch(2, [script, *argv[1:], "--name", "broken"])
    folder = tmp_path / "broken"
    assert "SIGTERM stopped the training run. The last good checkpoint is complete. Continue with" in stopped.stderr
    assert load_checkpoint(folder / "weights/last.pt")["progress"]["batch"] in (1, 2)
    run(2, ["train.py", "--resume", str(folder / "weights/last.pt")])
    ours, whole = (load_checkpoint(tmp_path / name / "weights/last.pt")["model"] for name in ("broken", "whole"))
    assert [key for key in whole if not torch.equal(ours[key], whole[key])] == []
    assert columns(folder)[-1] == pytest.approx(columns(tmp_path / "whole")[-1], nan_ok=True)
