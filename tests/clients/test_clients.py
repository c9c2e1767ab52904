"""Scripts as third parties write them for YOLOv5 run beside this tree, from elsewhere; one also as a process."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.autoshape import AutoShape
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import load_checkpoint
from models.yolo import DetectionModel
from tests.model_tables import few_layers
from tests.waiting import HANG
from utils.files import yaml_save
from utils.paths import ROOT

CLIENTS = Path(__file__).parent


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("images") / "blobs.png"
    cv2.imwrite(str(file), cv2.resize(noise, (128, 96), interpolation=cv2.INTER_CUBIC))
    return file


@pytest.fixture
def client(tmp_path, monkeypatch, capsys):
    """Run a script; what it printed."""

    def run(name, *args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        runpy.run_path(str(CLIENTS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def narrow_yaml(narrow_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("cfg") / "narrow.yaml"
    yaml_save(file, narrow_model.yaml)
    return file


@pytest.fixture(scope="module")
def expected(narrow_weights, image):
    """Detections (D, 6) of our own call."""
    model = AutoShape(DetectMultiBackend(narrow_weights))
    model.conf = 0.2
    found = model(image, size=320).xyxy[0]
    assert len(found)
    return found


def in_a_process(name, *args):
    """Run a script as its user does, in the working directory; what it printed."""
    command = [sys.executable, "-W", "ignore", str(CLIENTS / f"{name}.py"), *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_detect_like_script(apart, client, narrow_weights, image, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOV5_ROOT", str(ROOT))
    caplog.set_level("INFO", logger="yolov5")
    call = in_a_process if apart else client
    told = call("detect_like", narrow_weights, image, "--img", "320", "--half", "--conf-thres", "0.2") + caplog.text
    assert "image 1/1" in told
    assert "--half needs CUDA" in told
    folder = tmp_path / "runs/detect/exp"
    lines = (folder / "labels/blobs.txt").read_text().splitlines()
    assert lines
    assert all(len(line.split()) == 6 for line in lines)
    assert len(list(folder.glob("crops/**/*.jpg"))) == len(lines)
    assert (folder / "blobs.png").is_file()


def test_tracker(client, narrow_weights, image, tmp_path):
    client("tracker", narrow_weights, image, tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows
    assert all(len(row) == 6 and 0 <= row[0] <= 128 and 0 <= row[1] <= 96 and row[4] > 0.25 for row in rows)


def test_server(client, narrow_weights, image, expected, tmp_path):
    client("server", ROOT, narrow_weights, image, tmp_path / "answer.json")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (tmp_path / "answer.json.jpg").is_file()
    assert set(answer[0]) == {"xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"}
    assert answer[0]["confidence"] == pytest.approx(float(expected[0, 4]), abs=1e-3)


def test_onnx_export(client, write_checkpoint, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = DetectionModel(few_layers(3), verbose=False)
    client("export_like", write_checkpoint(tmp_path / "small.pt", model, model.names), tmp_path)


def test_network_surgery(client, narrow_weights, narrow_yaml, tmp_path):
    client("surgery", narrow_weights, narrow_yaml, tmp_path)
    assert (tmp_path / "tiny.wts").is_file()


@pytest.mark.slow
def test_labels_of_a_model_measure_it(client, narrow_weights, image, tmp_path):
    """A labelling script of release 5.0, then a validation script of 7.0 on its labels."""
    source = tmp_path / "images"
    source.mkdir()
    shutil.copy(image, source)
    writer = cv2.VideoWriter(str(source / "noise.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    writer.write(cv2.imread(str(image)))
    writer.release()
    told = client("pseudo_labels", narrow_weights, source, tmp_path / "out", "--save-txt", "--conf-thres", "0.3")
    assert told.count("Done.") == 3
    written = {file.name for file in (tmp_path / "out/exp").rglob("*.*")}
    assert written == {"blobs.png", "noise.avi", "blobs.txt", "noise_1.txt"}

    (source / "noise.avi").unlink()
    (tmp_path / "out/exp/labels").rename(tmp_path / "labels")
    data = tmp_path / "set.yaml"
    data.write_text("path: .\ntrain: images\nval: images\nnc: 3\nnames: [spot, blob, patch]\n")
    client("evaluate", narrow_weights, data, tmp_path / "val")
    metrics = json.loads((tmp_path / "val/metrics.json").read_text())
    assert all(0 < value <= 1 for value in metrics)
    assert json.loads((tmp_path / "val/exp/predictions.json").read_text())
    assert {"confusion_matrix.png", "PR_curve.png"} <= {file.name for file in (tmp_path / "val/exp").iterdir()}


def test_statistics_of_a_dataset(client, tiny_dataset, tmp_path):
    client("dataset_stats", tiny_dataset, tmp_path)
    assert {"labels.jpg", "first.jpg", "batch0.jpg"} <= {file.name for file in tmp_path.iterdir()}


@pytest.mark.slow
def test_training_loop(client, tiny_dataset, narrow_yaml, tmp_path):
    """A changed copy of the training script; what it saves as a pickled module is stripped, loaded and validated."""
    client("train_loop", narrow_yaml, tiny_dataset, ROOT / "data/hyps/hyp.scratch-low.yaml", tmp_path)
    folder = tmp_path / "exp"
    written = {file.name for file in folder.rglob("*.*")}
    assert {"best.pt", "last.pt", "results.csv", "results.png", "labels.jpg", "train_batch0.jpg"} <= written
    assert len((folder / "results.csv").read_text().splitlines()) == 2
    assert load_checkpoint(folder / "weights/best.pt")["epoch"] == -1


def test_sahi_and_grad_cam(client, narrow_weights, image):
    client("wrappers", narrow_weights, image)


@pytest.mark.slow
def test_table_of_a_model():
    command = [sys.executable, str(ROOT / "models/yolo.py"), "--cfg", "yolov5n.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True)
    assert "nn.Upsample" in done.stdout + done.stderr


def test_star_import_gives_what_scripts_rely_on():
    names = {}
    exec("from models.common import *", names)  # noqa: S102  the form is the point
    wanted = (
        "np torch nn cv2 Path math Conv C3 SPPF Concat autopad DetectMultiBackend AutoShape Detections autoShape NMS"
    )
    assert [name for name in wanted.split() if name not in names] == []
