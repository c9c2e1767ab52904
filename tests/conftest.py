"""Fixtures of the whole suite: one thread, fixed seeds, a tiny drawn dataset and, where it lies nearby, BCCD."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
os.environ["MPLBACKEND"] = "Agg"
os.environ["YOLOV5_SWINV2_MIRROR"] = "http://127.0.0.1:9;only"  # no test fetches weights
os.environ.pop("YOLOV5_SWINV2_WEIGHTS", None)

import gc
import random
import runpy
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from models.runtimes import backends
from models.runtimes.base import Runtime
from models.weights.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.datasets import demo
from utils.files import yaml_load

ROOT = Path(__file__).resolve().parents[1]

START = time.monotonic()
NARROW_NAMES = {0: "cat", 1: "a/b", 2: "白细胞"}

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell, and by children there
cv2.setNumThreads(0)


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` on a machine without CUDA."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def pytest_collection_finish():
    """Spare the garbage collector what the imports made, half a million objects, and most of its whole rounds."""
    gc.freeze()
    gc.set_threshold(700, 10, 100)


def pytest_sessionstart():
    """Wait less for loader processes: PyTorch gives one that had an error five seconds before it ends it."""
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2


def pytest_addoption(parser):
    parser.addoption("--measured", action="store_true", help="list the errors that tests measured")
    parser.addoption("--budget", type=float, help="seconds after which no further test begins; the rest is skipped")


def pytest_runtest_setup(item):
    budget = item.config.getoption("--budget")
    if budget is not None and time.monotonic() - START > budget:
        pytest.skip("not run: the time budget is spent")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("measured"):
        reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
        for report in (r for r in reports if r.when == "call" and r.user_properties):
            values = ", ".join(f"{name} {value}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {values}")


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state on purpose: a library may draw from it
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _measured_once():
    """The operations of equal networks are counted once: a run on the meta device, half of a tiny training."""

    def once(measure):
        known = {}

        def wrapper(self, *args):
            tensors = [(p.shape, p.dtype, p.device) for p in self.parameters()]
            key = repr(self.yaml), *map(type, self.modules()), *tensors, *args
            if key not in known:
                known[key] = measure(self, *args)
            return known[key]

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionModel, "gflops", once(DetectionModel.gflops))
        yield


@pytest.fixture
def full_disk(capsys):  # noqa: ARG001 - what is printed goes into memory: pytest's own files must not be full
    """Function (bytes) -> context in which no file can grow beyond that, as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are of POSIX")

    @contextmanager
    def limit(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """Path of the dataset YAML of 8 training and 4 validation images of 96 px, drawn once: do not change the files."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    demo.draw_demo(root, n_train=8, n_val=4, size=96, seed=0)
    data = {"path": str(root), "train": "images/train", "val": "images/val", "names": dict(enumerate(demo.CLASSES))}
    file = root.parent / "tiny.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def write_checkpoint():
    """Function (file, model, names) -> file that saves a model as training leaves it at its end."""

    def write(file, model, names):
        absent = ("best_fitness", "ema", "updates", "optimizer", "scaler", "stopper", "rng", "hyp")
        state = {"epoch": -1, "model": model.state_dict(), "yaml": model.yaml, "names": names, "opt": {}}
        save_checkpoint(file, {**state, "stride": model.stride.tolist(), **dict.fromkeys(absent)})
        return file

    return write


@pytest.fixture(scope="session")
def narrow_model():
    """A narrow YOLOv5n of three classes, random but sure enough to detect something; do not change it."""
    table = yaml_load(ROOT / "models/yolov5n.yaml") | {"width_multiple": 0.05, "depth_multiple": 0.1, "nc": 3}
    torch.manual_seed(1)
    model = DetectionModel(table, verbose=False)
    for conv in model.detect.m:
        nn.init.normal_(conv.weight, std=0.5)
        nn.init.zeros_(conv.bias)
    for module in model.modules():  # statistics of pictures, so that each picture gives something else
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    noise = [np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8) for seed in range(8)]
    images = np.stack([cv2.resize(image, (96, 64), interpolation=cv2.INTER_CUBIC)[..., ::-1] for image in noise])
    with torch.no_grad():
        model.train()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    return model


@pytest.fixture(scope="session")
def narrow_weights(tmp_path_factory, narrow_model, write_checkpoint):
    """Checkpoint tiny.pt of `narrow_model`, alone in its folder: what is written beside it stays for all tests."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt", narrow_model, NARROW_NAMES)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """Folder with the files of tests/models/weights/foreign_writer.py, which runs without our `models`."""
    folder = tmp_path_factory.mktemp("foreign")
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "models"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["foreign_writer.py", str(folder)])
        for name in ours:
            patch.delitem(sys.modules, name)
        runpy.run_path(str(ROOT / "tests/models/weights/foreign_writer.py"), run_name="__main__")
        for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
            del sys.modules[name]
    return folder


class NmsInside(Runtime):
    """A file that suppresses inside, as one exported with --nms: the same three detections for every image."""

    METADATA = {"stride": 32, "nms": True, "conf_thres": 0.25, "iou_thres": 0.45, "topk_all": 100}

    def __init__(self, file, device):
        super().__init__(file, device, {"agnostic_nms": False, "names": NARROW_NAMES} | self.METADATA)

    def run(self, images):
        rows = [[4, 4, 20, 20, 0.9, 0], [30, 4, 60, 40, 0.8, 1], [6, 30, 40, 60, 0.3, 2]]
        return torch.tensor(rows).repeat(len(images), 1, 1), torch.full((len(images),), 3)


@pytest.fixture
def nms_inside(tmp_path, monkeypatch):
    """An .onnx file that is opened as a `NmsInside`."""
    monkeypatch.setitem(backends.RUNTIMES, "onnx", NmsInside)
    (tmp_path / "nms.onnx").touch()
    return tmp_path / "nms.onnx"


@pytest.fixture(scope="session")
def bccd():
    """Path of the dataset YAML of BCCD, 364 real photographs; skips where the folder `shared` does not lie beside."""
    file = ROOT.parent / "shared" / "data" / "bccd" / "bccd.yaml"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return file
