"""Names of official weights in scripts, hub and loaders; a mirror on 127.0.0.1 serves a tiny checkpoint."""

import hashlib
import http.server
import sys
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import export
import hubconf
import train
import val
from engine.training.checks import check_options
from models.autoshape import AutoShape
from models.experimental import Ensemble, attempt_load
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import load_checkpoint
from utils.console import cli_errors
from utils.downloads import http_client
from utils.downloads.official_weights import FOLDER, MIRRORS, YOLOV5, Official
from utils.options.train import TrainOptions


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def mirror(tmp_path_factory, narrow_weights):
    """URL of a mirror, and its entries of `YOLOV5`: yolov5n.pt and yolov5s.pt are the narrow model."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "v7.0").mkdir()
    entries = {}
    for name in ("yolov5n.pt", "yolov5s.pt"):
        content = narrow_weights.read_bytes()
        (folder / "v7.0" / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries[name] = Official(f"https://example.invalid/v7.0/{name}", len(content), digest)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port};only", entries
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(mirror, tmp_path, monkeypatch):
    """The weights folder; the working directory is another empty one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(FOLDER, str(tmp_path / "weights"))
    monkeypatch.setenv(MIRRORS, mirror[0])
    for item in mirror[1].items():
        monkeypatch.setitem(YOLOV5, *item)
    return tmp_path / "weights"


def left(folder):
    return sorted(file.name for file in folder.rglob("*"))


def test_loaders(folder, narrow_model):
    model = attempt_load("yolov5n.pt", fuse=False)
    torch.testing.assert_close(model.model[0].conv.weight, narrow_model.model[0].conv.weight)
    assert isinstance(DetectMultiBackend("yolov5n").model, type(narrow_model))
    assert isinstance(attempt_load(["yolov5n", folder / "yolov5n.pt"]), Ensemble)
    assert left(folder) == ["yolov5n.pt"]


def test_hub(folder, narrow_model):
    assert isinstance(hubconf.yolov5n(classes=3, device="cpu", _verbose=False), AutoShape)
    other = hubconf.yolov5s(classes=5, device="cpu")  # fetched to start from
    assert (other.nc, other.training) == (5, True)
    assert isinstance(hubconf.custom("yolov5n", device="cpu"), AutoShape)
    assert left(folder) == ["yolov5n.pt", "yolov5s.pt"]


def test_detect(folder, tmp_path):
    source = tmp_path / "a.png"
    cv2.imwrite(str(source), np.zeros((60, 90, 3), np.uint8))
    results = detect.run("yolov5n", source, imgsz=64, device="cpu", project=tmp_path / "out")
    assert [result.source for result in results] == [str(source)]
    with pytest.raises(ValueError, match=r"--update would change the kept .*weights/yolov5n.pt"):
        detect.run("yolov5n", source, update=True, project=tmp_path / "out")
    assert left(folder) == ["yolov5n.pt"]


def test_val(folder, tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match="has 3 classes"):  # of the file that was fetched; the dataset has 4
        val.run(tiny_dataset, "yolov5n.pt", imgsz=64, device="cpu", project=tmp_path / "out", workers=0, plots=False)
    assert left(folder) == ["yolov5n.pt"]


def test_export_writes_into_the_working_directory(folder):
    (file,) = export.run(weights="yolov5n", include=["torchscript"], imgsz=[64], device="cpu")
    assert Path(file).resolve() == Path("yolov5n.torchscript").resolve()
    assert left(folder) == ["yolov5n.pt"]


def test_train(folder, tiny_dataset):
    options = check_options(TrainOptions(weights="yolov5s", data=str(tiny_dataset)))
    assert options.weights == str(folder / "yolov5s.pt")
    assert load_checkpoint(options.weights)["names"][0] == "cat"


@pytest.mark.parametrize("script", [train, val, detect, export, hubconf], ids=lambda script: script.__name__)
def test_offline_is_one_error_and_nothing_half_made(script, folder, tiny_dataset, monkeypatch, caplog):
    monkeypatch.setenv(MIRRORS, "http://127.0.0.1:9;only")
    monkeypatch.setattr(http_client, "PAUSE", 0)
    data = [] if script is detect else ["--data", str(tiny_dataset)]
    options = ["--weights", "yolov5s.pt", *data]
    monkeypatch.setattr(sys, "argv", ["hubconf.py", "--model", "yolov5s"])
    call = script.main if script is hubconf else partial(script.main, script.parse_opt(options))
    with pytest.raises(SystemExit) as ended, cli_errors():
        call()
    assert ended.value.code == 1
    (error,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert error.message.startswith("yolov5s.pt: not found in")
    assert "Connection refused. Put https://example.invalid/v7.0/yolov5s.pt" in error.message
    assert not folder.exists()
    assert not left(Path())


def test_no_default_is_a_name():
    for script in (train, val, detect, export):
        given = [] if script is not val else ["--weights", "given.pt"]
        assert script.parse_opt(given).weights in ("", None, ["given.pt"])
    with pytest.raises(ValueError, match="no weights given"):
        DetectMultiBackend()
