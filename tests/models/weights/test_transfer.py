"""Transfer of weights between models of other classes or another backbone, and what is told about it."""

import csv
import logging
from copy import deepcopy

import pytest
import torch

from models.weights.transfer import transfer_weights
from models.yolo import DetectionModel

CFG = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3", [16]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}
SWIN_CFG = CFG | {
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3SwinV2", [16, 4]]],
}


@pytest.fixture
def ckpt():
    torch.manual_seed(1)
    return {"model": DetectionModel(CFG, verbose=False).state_dict()}


def test_other_number_of_classes_leaves_the_output_convolutions(ckpt, caplog, tmp_path):
    model = DetectionModel(CFG, nc=5, verbose=False)
    before = deepcopy(model.state_dict())
    report = transfer_weights(model, ckpt)
    outer = [f"model.4.m.{level}.{part}" for level in (0, 1) for part in ("weight", "bias")]
    assert [name for name, _, _ in report.reshaped] == outer
    assert report.reshaped[0][1:] == ((14, 16, 1, 1), (20, 16, 1, 1))  # 2 anchors * (5 + 2), and * (5 + 5)
    assert (report.kept, report.missing, report.unused) == ([], [], [])
    assert report.total == len(before) == len(report.taken) + 4
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in outer else ckpt["model"][key]), key
    with caplog.at_level(logging.INFO):
        report.log("old.pt")
    assert caplog.messages[0] == f"Transferred {len(before) - 4}/{len(before)} tensors from old.pt"
    assert "4 of another shape: model.4.m.0.weight 14x16x1x1 -> 20x16x1x1, " in caplog.messages[1]
    report.write(tmp_path / "transfer.csv")
    with (tmp_path / "transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == set(before)
    assert [row["in_model"] for row in rows if row["what"] == "another shape"] == ["20x16x1x1", "20"] * 2


def test_other_backbone_is_told_by_name(ckpt, caplog):
    model = DetectionModel(SWIN_CFG, verbose=False)
    before = deepcopy(model.state_dict())
    report = transfer_weights(model, ckpt)
    with caplog.at_level(logging.INFO):
        report.log("old.pt")
    assert all(name.startswith("model.2.m.") for name in report.missing + report.unused)
    assert any(name.endswith("attn.logit_scale") for name in report.missing)
    assert set(report.unused) == set(ckpt["model"]) - set(before)
    assert set(report.missing) == set(before) - set(ckpt["model"])
    assert f"{len(report.missing)} not in the file: {report.missing[0]}" in caplog.text
    assert f"and {len(report.missing) - 4} more" in caplog.text
    assert f"{len(report.unused)} in the file, but not in the model" in caplog.text
    for key in report.missing:
        assert torch.equal(model.state_dict()[key], before[key])
    assert "model.0.conv.weight" in report.taken


def test_anchors_can_be_kept(ckpt):
    model = DetectionModel(CFG, verbose=False)
    model.detect.anchors.zero_()
    report = transfer_weights(model, ckpt, exclude=("anchor",))
    assert report.kept == ["model.4.anchors"]
    assert not model.detect.anchors.any()


def test_nothing_taken_is_a_warning(caplog):
    model = DetectionModel(CFG, verbose=False)
    transfer_weights(model, {"model": {"other.weight": torch.zeros(1)}}).log("a.pt")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "nothing of a.pt fits this model, so it starts from random weights: pass the --cfg" in warning
