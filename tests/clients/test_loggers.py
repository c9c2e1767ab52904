"""TensorBoard, Weights & Biases, MLflow and ClearML: a training that logs to all that are installed, read back."""

import csv
import importlib.util
import json
import math
import struct
import zipfile

import pytest

import train
from utils.files import yaml_load
from utils.loggers.services import SERVICES, mlflow_name

KEYS = ("metrics/mAP_0.5", "metrics/recall", "val/obj_loss", "train/box_loss", "x/lr0")
EPOCHS = 2
pytestmark = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, SERVICES)), reason="needs a logging service; TensorBoard has its own tests"
)


@pytest.fixture(scope="module")
def folder(weights, tiny_dataset, tmp_path_factory):
    """Run folder of a training; services that are missing are not asked for."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("CLEARML_OFFLINE_MODE", "1")
        patch.setenv("CLEARML_CACHE_DIR", str(root / "clearml"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        patch.chdir(root)
        train.run(
            weights=weights, data=tiny_dataset, imgsz=64, batch_size=4, epochs=EPOCHS, workers=0, device="cpu",
            project=root / "ours", name="exp", noplots=True,
            logger=[name for name in SERVICES if importlib.util.find_spec(name)],
        )  # fmt: skip
        yield root / "ours/exp"


@pytest.fixture(scope="module")
def table(folder):
    """Key -> values per epoch, of results.csv; five digits."""
    with open(folder / "results.csv") as file:
        rows = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == EPOCHS
    return {key: [row[key] for row in rows] for key in KEYS}


def assert_curves(found, table, rename=str):
    """Check {key: {epoch: value}}."""
    for key, values in table.items():
        assert [found[rename(key)][epoch] for epoch in range(EPOCHS)] == pytest.approx(values, rel=1e-3, abs=1e-5), key


def test_tensorboard(folder, table):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert_curves({key: {e.step: e.value for e in events.Scalars(key)} for key in KEYS}, table)


def records(data):
    """Records of a file of W&B: 7 bytes, then the log format of LevelDB."""
    place, part, size = 7, b"", 32768  # of a block
    while place + 7 <= len(data):
        if size - place % size < 7:
            place += size - place % size
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])  # checksum; whole, first, middle, last: 1 to 4
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield part
            part = b""


def test_wandb(folder, table):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert f"-{yaml_load(folder / 'loggers.yaml')['wandb']}." in file.name
    curves, settings = {}, {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        settings |= {item.key: item.value_json for item in record.run.config.update}
        for key in KEYS:
            if key in items:
                curves.setdefault(key, {})[record.history.step.num] = json.loads(items[key])
    assert_curves(curves, table)
    assert json.loads(settings["epochs"]) == EPOCHS


def test_mlflow(folder, table):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient()
    run = yaml_load(folder / "loggers.yaml")["mlflow"]
    curves = {
        mlflow_name(key): {m.step: m.value for m in client.get_metric_history(run, mlflow_name(key))} for key in KEYS
    }
    assert_curves(curves, table, mlflow_name)
    assert client.get_run(run).data.params["epochs"] == str(EPOCHS)


def test_clearml(folder, table):
    pytest.importorskip("clearml")
    run = yaml_load(folder / "loggers.yaml")["clearml"]
    (file,) = folder.parents[1].rglob(f"*{run}*.zip")
    curves = {}
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if "metrics" in name]
        for line in archive.read(name).decode().splitlines():
            for event in json.loads(line):
                if event["type"] == "training_stats_scalar":
                    key = f"{event['metric']}/{event['variant']}"
                    curves.setdefault(key, {})[event["iter"]] = event["value"]
    assert_curves(curves, table)
    assert not any(math.isnan(value) for curve in curves.values() for value in curve.values())
