"""A loader process that the system kills ends training and validation with a sentence that says what to change."""

import os
import signal
import sys

import pytest

import train
import val
from utils.dataloaders import LoadImagesAndLabels

TEXT = r"a loader process ended \(SIGKILL\), most likely as memory ran out: .*--batch-size.*--cache ram.*--workers 0"


@pytest.fixture
def _deadly(monkeypatch):
    """Kill each process that loads at its first image."""
    parent, load = os.getpid(), LoadImagesAndLabels.__getitem__

    def die(self, key):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, key)

    monkeypatch.setattr(LoadImagesAndLabels, "__getitem__", die)


@pytest.mark.slow  # PyTorch looks every five seconds whether its processes are alive
@pytest.mark.skipif(sys.platform != "linux", reason="the end of a process has another form")
@pytest.mark.parametrize("script", ["train", "val"])
@pytest.mark.usefixtures("_deadly")
def test_killed_loaders_end_the_run_with_advice(script, narrow_weights, tiny_dataset, tmp_path):
    settings = {"imgsz": 64, "workers": 1, "device": "cpu", "project": str(tmp_path), "single_cls": True}
    run, own = val.run, {"data": tiny_dataset, "weights": narrow_weights, "plots": False}
    if script == "train":
        run, own = train.run, {"data": str(tiny_dataset), "cfg": "yolov5n.yaml", "weights": "", "epochs": 1}
        own |= {"batch_size": 4, "noplots": True}
    with pytest.raises(OSError, match=TEXT):
        run(**own, **settings)
