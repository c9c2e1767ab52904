"""val.py counts all but mAP on the boxes that detect.py would give, and finds the confidence to use."""

import shutil

import numpy as np
import pytest
import torch

import detect
import val
from models.autoshape import AutoShape
from models.experimental import Ensemble, attempt_load
from models.weights.checkpoint import add_thresholds, load_checkpoint, strip_optimizer
from tests.oracle import IMGSZ, Oracle, make_loader, perfect_answers
from utils.callbacks import Callbacks
from utils.datasets.dataset import check_dataset
from utils.files import yaml_load


@pytest.fixture(scope="module")
def data(tiny_dataset):
    return check_dataset(tiny_dataset)


def run_doubled(data, **settings):
    """Validate an oracle that finds each label at 0.9 and once more at 0.3, with an IoU of about 0.54.

    Returns:
        What `val.run` returns, and the matrix of the confusion.
    """
    loader = make_loader(data)
    answers = perfect_answers(loader)
    for batch in answers:
        for i, rows in enumerate(batch):
            again = rows.clone()
            again[:, [0, 2]] += 0.3 * (rows[:, 2:3] - rows[:, 0:1])
            again[:, 4] = 0.3
            batch[i] = torch.cat((rows, again))
    confusion = []
    callbacks = Callbacks()
    callbacks.register_action("on_val_end", callback=lambda *numbers: confusion.append(numbers[-1].matrix))
    model = Oracle(data["nc"], answers)
    settings = {"plots": False, **settings}
    return val.run(data, model=model, dataloader=loader, callbacks=callbacks, **settings), confusion[0]


def test_boxes_are_counted_as_detect_suppresses_them_and_map_is_not(data):
    (as_detect, _, _), matrix = run_doubled(data)
    (by_hand, _, _), by_hand_matrix = run_doubled(data, iou_thres=0.6)
    assert as_detect.map50 == by_hand.map50
    assert as_detect.map == by_hand.map
    labels = matrix[:, :-1].sum()
    assert matrix[:-1, -1].sum() < labels / 4  # of boxes that overlap another object
    assert by_hand_matrix[:-1, -1].sum() >= labels
    assert by_hand_matrix.diagonal().sum() == matrix.diagonal().sum() == labels


@pytest.mark.parametrize("given", [{}, {"conf_thres": 0.001}, {"conf_thres": 0.95}])
def test_confidence_given_by_hand_rules_the_confusion_too(data, given):
    _, matrix = run_doubled(data, iou_thres=0.6, **given)
    found = {None: 2, 0.001: 2, 0.95: 0}[given.get("conf_thres")]  # boxes of a label
    assert matrix[:-1].sum() == found * matrix[:, :-1].sum()


def test_default_given_by_hand_is_no_default(data):
    assert run_doubled(data, iou_thres=0.6)[1].tolist() != run_doubled(data)[1].tolist()
    options = val.parse_opt(["--weights", "a.pt", "--iou-thres", "0.6"])
    assert type(options.iou_thres) is float
    assert options.iou_thres == val.parse_opt(["--weights", "a.pt"]).iou_thres


def test_result_is_a_named_tuple_that_unpacks_as_the_original(data):
    found, _ = run_doubled(data)
    (p, r, map50, map95, *losses), maps, (before, inference, nms) = found
    assert (p, r, map50, map95, *losses) == found.results == tuple(found.results)
    assert (found.results.precision, found.results.recall, found.results.map50, found.results.map) == found[0][:4]
    assert found.results.box_loss == losses[0] == 0
    assert found.maps is maps
    assert found.speed == (before, inference, nms)


@pytest.fixture
def weights(narrow_weights, tmp_path):
    return shutil.copy(narrow_weights, tmp_path / "a.pt")


def test_thresholds_are_saved_and_survive_stripping(weights, tiny_dataset, tmp_path):
    before = load_checkpoint(weights)
    settings = {"imgsz": IMGSZ, "workers": 0, "device": "cpu", "project": tmp_path, "plots": False, "single_cls": True}
    val.run(tiny_dataset, weights, **settings)
    written = yaml_load(tmp_path / "exp/thresholds.yaml")
    assert (written["imgsz"], written["images"], written["iou_thres"]) == (IMGSZ, 4, 0.45)
    assert load_checkpoint(weights)["thresholds"] is None  # unless it is asked for
    val.run(tiny_dataset, weights, **settings, save_thresholds=True)
    after = load_checkpoint(weights)
    assert after["thresholds"] == written
    assert {key: after[key] for key in after if key not in ("model", "thresholds")} == {
        key: before[key] for key in before if key not in ("model", "thresholds")
    }
    assert all(torch.equal(x, after["model"][key]) for key, x in before["model"].items())
    strip_optimizer(weights)
    assert load_checkpoint(weights)["thresholds"] == written
    with pytest.raises(ValueError, match=r"--save-thresholds writes into one checkpoint \(.pt\), not into a.onnx"):
        val.run(tiny_dataset, "a.onnx", save_thresholds=True)


THRESHOLDS = {"conf": 0.4, "f1": 0.9, "images": 4, "imgsz": 96, "iou_thres": 0.45, "classes": {0: {"conf": None}}}


def detections(weights, source, tmp_path, **settings):
    found = detect.run(weights, source, imgsz=96, device="cpu", project=tmp_path, nosave=True, **settings)
    return torch.cat([result.detections for result in found])


def test_detect_takes_the_best_confidence(weights, data, tmp_path, caplog):
    caplog.set_level("INFO", logger="yolov5")
    every = detections(weights, data["val"], tmp_path, conf_thres=0.001)
    best = every[:, 4].quantile(0.5).item()
    with pytest.raises(ValueError, match=r"'best': no best one is saved in .*a\.pt"):
        detections(weights, data["val"], tmp_path, conf_thres="best")
    add_thresholds(weights, THRESHOLDS | {"conf": best})
    found = detections(weights, data["val"], tmp_path, conf_thres="best")
    assert 0 < len(found) < len(every)
    assert found[:, 4].min() > best
    assert torch.equal(found, detections(weights, data["val"], tmp_path, conf_thres=best))
    texts = [record.getMessage() for record in caplog.records]
    assert any(f"{best:g}: best F1 0.90 on 4 images at 96 pixels, NMS IoU 0.45" in text for text in texts)
    with pytest.raises(ValueError, match="conf-thres is 'bets', but must be a number or 'best'"):
        detections(weights, data["val"], tmp_path, conf_thres="bets")


@pytest.mark.parametrize("conf", [None, "0.4", 1.5, True, [0.4]])
def test_a_best_confidence_that_is_none_is_refused(weights, data, tmp_path, conf):
    add_thresholds(weights, THRESHOLDS | {"conf": conf})
    with pytest.raises(ValueError, match="no best one is saved in"):
        detections(weights, data["val"], tmp_path, conf_thres="best")


def test_hub_takes_the_best_confidence(weights):
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    add_thresholds(weights, THRESHOLDS)
    network = attempt_load(weights)
    model = AutoShape(network, verbose=False)
    model.conf = 0.001
    network.thresholds = THRESHOLDS | {"conf": model(image, size=96).xyxy[0][:, 4].median().item()}
    model.conf = "best"
    best = model(image, size=96).xyxy[0]
    assert len(best)
    assert best[:, 4].min() > network.thresholds["conf"]
    model.conf = "bets"
    with pytest.raises(ValueError, match="conf is 'bets', but must be a number or 'best'"):
        model(image)
    pair = AutoShape(Ensemble([attempt_load(weights), attempt_load(weights)]), verbose=False)
    pair.conf = "best"
    with pytest.raises(ValueError, match="no best one"):
        pair(image)
