"""Tiles in training and validation: val.py --slice scores the boxes that detect.py --slice gives."""

import json
import logging

import numpy as np
import pytest
import torch
import yaml

import detect
import train
import val
from engine.validation.evaluation import ImageResult, Tally
from models.weights.checkpoint import load_checkpoint
from tests.stops import stopping
from utils.boxes import xywhn2xyxy
from utils.datasets import demo
from utils.datasets.dataset import load_labels
from utils.files import yaml_load

MODEL = {
    "nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip
TILE = [64, 96]


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Dataset YAML of images of 160 pixels, with the classes of `narrow_weights`."""
    root = tmp_path_factory.mktemp("large")
    demo.draw_demo(root / "set", n_train=3, n_val=3, size=160, seed=0)
    names = list(demo.CLASSES)
    for file in root.glob("set/labels/*/*.txt"):
        rows = [line for line in file.read_text().splitlines() if int(line.split()[0]) < 3]
        file.write_text("".join(f"{line}\n" for line in rows))
    data = {"path": str(root / "set"), "train": "images/train", "val": "images/val", "names": names[:3]}
    (root / "large.yaml").write_text(yaml.safe_dump(data))
    (root / "model.yaml").write_text(yaml.safe_dump(MODEL))
    return root / "large.yaml"


@pytest.mark.parametrize("single", [False, True])
def test_validation_scores_the_boxes_of_detection(large, narrow_weights, tmp_path, lines, single):
    """P, R and both mAP are those of the boxes of detect.py; so are the boxes that are drawn and saved."""
    common = {"imgsz": [96, 96], "slice": TILE, "overlap": 0.3, "device": "cpu", "project": tmp_path}
    source = {"weights": narrow_weights, "source": str(large.parent / "set/images/val"), "nosave": True, **common}
    ap_boxes = detect.run(conf_thres=0.001, iou_thres=0.6, max_det=300, agnostic_nms=single, **source)
    shown = detect.run(conf_thres=0.02, agnostic_nms=single, **source)
    names = {0: "item"} if single else yaml_load(large)["names"]
    found = load_labels(str(large.parent / "set/images/val"))
    tally = Tally(len(names))
    for i, (one, other) in enumerate(zip(ap_boxes, shown, strict=True)):
        height, width = one.shape
        labels = np.concatenate((found.labels[i][:, :1], xywhn2xyxy(found.labels[i][:, 1:], width, height)), 1)
        rows = [torch.from_numpy(labels.astype(np.float32)), one.detections.clone(), other.detections.clone()]
        if single:
            for boxes, column in zip(rows, (0, 5, 5), strict=True):
                boxes[:, column] = 0
        tally.add(ImageResult(rows[1], rows[0], one.shape, one.source, rows[2]))
    settings = {"workers": 0, "plots": True, "save_json": True, "single_cls": single, "batch_size": 2, **common}
    results = val.run(large, narrow_weights, **settings)[0]
    assert results[:4] == pytest.approx(tally.compute().means(), abs=1e-6)
    assert sum(len(r.detections) for r in ap_boxes) == len(json.loads(next(tmp_path.glob("*/*.json")).read_text()))
    assert "images and tiles of 64 96 joined as by detect.py --slice" in lines()
    assert next(tmp_path.glob("*/val_batch0_pred.jpg")).is_file()
    if not single:
        whole = val.run(large, narrow_weights, as_detect=True, **settings | {"slice": 0, "plots": False})[0]
        assert whole != results


def test_a_tile_larger_than_all_images_changes_nothing(large, narrow_weights, tmp_path):
    settings = {"imgsz": 96, "device": "cpu", "workers": 0, "project": tmp_path, "single_cls": True, "plots": False}
    whole = val.run(large, narrow_weights, as_detect=True, **settings)[0]
    sliced = val.run(large, narrow_weights, slice=640, **settings)[0]
    assert sliced[:2] == pytest.approx(whole[:2], abs=1e-6)  # mAP differs by the boxes with several classes


def test_a_training_in_tiles_is_resumed_to_the_same_weights(large, tmp_path, lines):
    words = f"--data {large} --cfg {large.parent}/model.yaml --img 96 --slice 64 96 --overlap 0.1 --batch-size 4 "
    words += f"--epochs 2 --workers 0 --device cpu --noplots --project {tmp_path} --name"
    train.main(train.parse_opt([*words.split(), "whole"]))
    text = lines()
    assert "3 of 3 images are larger than 64 x 96 pixels (height x width) and are cut: " in text
    assert " --slice 64 96 --overlap 0.1" in text.split("To reproduce these numbers: ")[1]
    assert "--img 96 --slice 64 96" in text.split("Shown by: ")[1]
    assert yaml_load(tmp_path / "whole/thresholds.yaml")["slice"] == [64, 96]
    with pytest.raises(KeyboardInterrupt):
        train.main(train.parse_opt([*words.split(), "parts"]), stopping("on_train_batch_end", ni=2))
    train.run(resume=str(tmp_path / "parts/weights/last.pt"))
    one, other = (load_checkpoint(tmp_path / name / "weights/last.pt") for name in ("whole", "parts"))
    assert one["opt"]["slice"] == [64, 96]
    assert all(torch.equal(x, other["model"][name]) for name, x in one["model"].items())
    rows = [
        [line.split(",")[:11] for line in (tmp_path / name / "results.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    reproduced = val.run(large, tmp_path / "whole/weights/best.pt", imgsz=96, slice=TILE, overlap=0.1, workers=0,
                         device="cpu", batch_size=8, project=tmp_path / "val", plots=False)  # fmt: skip
    kept = yaml_load(tmp_path / "whole/thresholds.yaml")
    assert kept["images"] == 3
    assert reproduced[0][2] == pytest.approx(float(rows[0][-1][6]), abs=0.02)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"slice": 20}, "tiles must have at least 32 pixels"),
        ({"slice": [64, 64, 64]}, "--slice is 64 64 64, but must be one side, or a height and a width"),
        ({"slice": 64, "overlap": 0.95}, "--overlap is 0.95, but must be from 0 to 0.9"),
        ({"slice": 64, "task": "speed"}, "--task speed times frames of one size: remove --slice"),
        ({"slice": 64, "save_hybrid": True}, "--save-hybrid adds the labels .*: remove --slice"),
    ],
    ids=str,
)
def test_validation_refuses(large, narrow_weights, settings, match):
    with pytest.raises(ValueError, match=match):
        val.run(large, narrow_weights, device="cpu", **settings)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--slice 20", "tiles must have at least 32 pixels"),
        ("--slice 64 --overlap 1", "--overlap is 1.0, but must be from 0 to 0.9"),
        ("--slice 64 --cache val", "no cache keeps: remove --cache val"),
        ("--slice -1", "--slice is -1, but must be at least 0"),
    ],
)
def test_training_refuses(large, tmp_path, words, match):
    with pytest.raises(ValueError, match=match):
        train.main(train.parse_opt(f"--data {large} --project {tmp_path}/runs --device cpu {words}".split()))
    assert not (tmp_path / "runs").exists()
