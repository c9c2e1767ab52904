"""Whole commands against those of another program."""

import argparse
import json
import shlex
import sys

import pytest

from benchmarks import against
from models.yolo import DetectionModel
from utils.datasets.demo import CLASSES
from utils.files import yaml_load
from utils.paths import ROOT

PLACES = {key: key.upper() for key in ("weights", "data", "out", "copy", "images", "image", "video")}
PLACES |= {"img": "64", "batch": "2", "workers": "0", "device": "cpu"}


def python(code):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def test_time_and_memory_are_those_of_the_command_alone(tmp_path):
    ballast = bytearray(300 * 2**20)
    wall, cpu, peak = against.run(python("import time; time.sleep(0.3); x = bytearray(64 * 2**20)"), tmp_path)
    assert wall >= 0.3 > cpu > 0
    assert 64 < peak < 200 < len(ballast) / 2**20
    _, busy, _ = against.run(python("import time\nwhile time.process_time() < 0.5: pass"), tmp_path)
    assert busy >= 0.5


def test_children_count(tmp_path):
    busy = python("import time\nwhile time.process_time() < 0.4: pass")
    _, cpu, _ = against.run(
        python(f"import shlex, subprocess; subprocess.run(shlex.split({busy!r}), check=True)"), tmp_path
    )
    assert cpu >= 0.4


def test_a_command_that_fails_is_named_with_its_last_lines(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)sys.exit.*its last lines are:\nno such option"):
        against.run(python("import sys; print('no such option'); sys.exit(2)"), tmp_path)
    with pytest.raises(ValueError, match=r"(?s)no-such-program.*No such file"):
        against.run("no-such-program --x", tmp_path)


def test_one_template_serves_all_tasks():
    opt = argparse.Namespace(tasks=["val", "export"], other="other {script} {options}")
    commands = against.commands_of(opt, PLACES)
    words = "--weights WEIGHTS --data DATA --batch-size 2 --workers 0 --project OUT --name run --img 64 --device cpu"
    assert commands["val", "other"] == f"other val.py {words}"
    assert commands["val", "ours"].endswith(f"/val.py {words}")
    assert commands["export", "other"] == "other export.py --weights COPY --include onnx --img 64 --device cpu"
    assert against.commands_of(argparse.Namespace(tasks=["val"], other="x {data}"), PLACES)["val", "other"] == "x DATA"
    assert list(against.commands_of(argparse.Namespace(tasks=["val"], other=""), PLACES)) == [("val", "ours")]


@pytest.mark.parametrize("other", ["x {epochs}", "x {}", "x {data"])
def test_unknown_placeholders_are_refused(other):
    with pytest.raises(ValueError, match="--other .*there are batch, copy, data"):
        against.commands_of(argparse.Namespace(tasks=["val"], other=other), PLACES)


def test_ratios_are_those_of_the_rounds():
    runs = {("val", "ours"): [[2.0, 1.0, 9.0], [4.0, 1.0, 9.0], [30.0, 1.0, 9.0]]}
    runs["val", "other"] = [[1.0, 4.0, 9.0], [8.0, 2.0, 9.0], [10.0, 1.0, 9.0]]
    wall, cpu, peak = against.rows_of(runs, ["val"])
    assert (wall["ours"], wall["other"], wall["ratio"], wall["ratio range"]) == (4.0, 8.0, 2.0, "0.5-3")
    assert (cpu["ratio"], peak["ratio"]) == (0.5, 1.0)


@pytest.mark.slow
def test_all_tasks_run(tmp_path, tiny_dataset, write_checkpoint):
    table = yaml_load(ROOT / "models/yolov5n.yaml") | {"width_multiple": 0.05, "depth_multiple": 0.1, "nc": 4}
    names = dict(enumerate(CLASSES))
    weights = write_checkpoint(tmp_path / "narrow model.pt", DetectionModel(table, verbose=False), names)
    file = tmp_path / "figures.json"
    words = ["--weights", str(weights), "--data", str(tiny_dataset), "--img", "64", "--batch-size", "4"]
    against.main([*words, "--repeats", "1", "--warmup", "0", "--frames", "3", "--save", str(file)])
    rows = json.loads(file.read_text())["commands"]
    assert {row["task"] for row in rows} == set(against.TASKS)
    assert all(row["ours"] > 0 for row in rows)
