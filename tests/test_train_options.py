"""Trainings with each option of train.py that changes them: the files of a run are there, the losses sane."""

import csv
import math
from types import SimpleNamespace

import pytest

import train
from utils.callbacks import Callbacks
from utils.files import yaml_load, yaml_save
from utils.options.train import TrainOptions
from utils.paths import ROOT

CASES = {
    "SGD": {"optimizer": "SGD"},
    "Adam": {"optimizer": "Adam"},
    "AdamW": {"optimizer": "AdamW"},
    "Muon": {"optimizer": "Muon"},
    "rect": {"rect": True},
    "quad": {"quad": True},
    "multi-scale": {"multi_scale": True},
    "image-weights": {"image_weights": True},
    "cache-ram": {"cache": "ram"},
    "cache-disk": {"cache": "disk"},
    "single-cls": {"single_cls": True},
    "label-smoothing": {"label_smoothing": 0.1},
    "freeze-9": {"freeze": 9},
    "freeze-backbone": {"freeze": "backbone"},
    "cos-lr": {"cos_lr": True},
    "p6": {"cfg": "hub/yolov5n6.yaml"},
    "p2": {"cfg": "hub/yolov5-p2.yaml"},
    "swinv2": {"cfg": "yolov5n-swinv2.yaml"},
}
FILES = [
    *("weights/last.pt", "weights/best.pt", "results.csv", "results.png", "hyp.yaml", "opt.yaml", "labels.jpg"),
    *("train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "confusion_matrix.png"),
    *("PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"),
]
SANE = 1.3  # two epochs lie within the warmup: the losses may stand still, but not rise much


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_training_with_each_option(case, tiny_dataset, tmp_path):
    settings = {"cfg": "yolov5n.yaml"} | CASES[case]
    small = yaml_load(ROOT / "models" / settings["cfg"])
    sizes = {"depth_multiple": 0.33, "width_multiple": 0.25}
    small |= {key: min(small[key], value) for key, value in sizes.items()}
    yaml_save(tmp_path / "small.yaml", small)
    settings["cfg"] = str(tmp_path / "small.yaml")
    train.run(
        data=str(tiny_dataset), weights="", imgsz=128, batch_size=4, epochs=2, workers=0, device="cpu",
        project=str(tmp_path), name="run", **settings,
    )  # fmt: skip
    assert [file for file in FILES if not (tmp_path / "run" / file).is_file()] == []
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        losses = [[float(cell) for cell in row[1:4]] for row in list(csv.reader(file))[1:]]
    assert len(losses) == 2
    assert all(math.isfinite(value) and value >= 0 for row in losses for value in row)
    assert sum(losses[-1]) < SANE * sum(losses[0])


def test_limit_of_detections_reaches_the_validation(monkeypatch, tmp_path):
    taken = []

    def run(data, max_det=None, **_):
        taken.append(max_det)
        return (0.0,) * 7, [], None

    monkeypatch.setattr(train.val, "run", run)
    state = SimpleNamespace(ema=SimpleNamespace(ema=SimpleNamespace(fuse=lambda: None)))
    for max_det in (None, 7):
        plan = SimpleNamespace(options=TrainOptions(max_det=max_det), imgsz=64, amp=None, save_dir=tmp_path)
        train.evaluate(state, plan, {}, None, None, Callbacks())
    assert taken == [None, 7]
