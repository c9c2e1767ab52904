"""val.py counts all but mAP on the boxes that detect.py would give, and finds the confidence to use."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import detect
import val
from engine.validation.deployed import Deployment, Detected
from engine.validation.evaluation import Runner, evaluating
from models.autoshape import AutoShape
from models.experimental import Ensemble, attempt_load
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import add_thresholds, load_checkpoint, strip_optimizer
from tests.oracle import IMGSZ, Oracle, make_loader, perfect_answers
from utils.callbacks import Callbacks
from utils.datasets.dataset import check_dataset
from utils.files import yaml_load
from utils.options.val import ValOptions


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


@pytest.fixture(scope="module")
def mixed_sizes(tmp_path_factory):
    """Dataset YAML of noise in images of several sizes, larger and smaller than the network input, and their labels."""
    root = tmp_path_factory.mktemp("mixed")
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for i, (height, width) in enumerate([(70, 150), (150, 70), (70, 150), (201, 199), (40, 40), (97, 64)]):
        noise = np.random.default_rng(i).integers(0, 256, (6, 9, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{i}.png"), cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
        (root / f"labels/{i}.txt").write_text("1 0.3 0.4 0.25 0.5\n0 0.9 0.9 0.2 0.2\n")
    content = {"path": str(root), "train": "images", "val": "images", "names": ["a", "b", "c"]}
    (root / "mixed.yaml").write_text(yaml.safe_dump(content))
    return root / "mixed.yaml"


def validated(weights, yaml_file, **settings):
    """The boxes and labels that validation counts, by name of the image."""
    model = DetectMultiBackend([weights], "cpu")
    loader = val._make_loader(check_dataset(yaml_file), model, ValOptions(imgsz=96, workers=0, **settings))
    deployment = Deployment(lowest=0.05)
    runner = Runner(model, 0.001, 0.6, 300, False, False, None, deployment=deployment)
    with evaluating(model):
        results = [image for batch in runner.batches(loader, Callbacks()) for image in batch.results]
    return {Path(image.path).name: (image.deployed, image.labels, image.shape) for image in results}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_as_detect_counts_the_boxes_of_detect(narrow_weights, mixed_sizes, tmp_path, batch_size):
    found = detect.run(
        narrow_weights, str(mixed_sizes.with_name("images")), imgsz=[96], conf_thres=0.05, device="cpu", nosave=True,
        project=tmp_path,
    )  # fmt: skip
    counted = validated(narrow_weights, mixed_sizes, as_detect=True, batch_size=batch_size)
    padded = validated(narrow_weights, mixed_sizes, batch_size=batch_size)
    assert len(counted) == len(found) == 6
    for image in found:
        name = Path(image.source).name
        boxes, labels, shape = counted[name]
        assert shape == image.shape
        assert len(image.detections) > 10
        assert boxes.shape == image.detections.shape
        assert torch.allclose(boxes, image.detections, rtol=1e-3, atol=0.02)
        height, width = shape
        xywh = torch.tensor([[0.3, 0.4, 0.25, 0.5], [0.9, 0.9, 0.2, 0.2]]) * torch.tensor([width, height] * 2)
        right = torch.cat((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1)
        assert torch.allclose(labels[:, 1:], right, atol=1e-3)
        assert labels[:, 0].tolist() == [1, 0]
    differ = [image for image in found if padded[Path(image.source).name][0].shape != image.detections.shape]
    assert differ  # else this test could not fail


def test_as_detect_is_said_in_log_titles_and_thresholds(weights, mixed_sizes, tmp_path, caplog):
    caplog.set_level("INFO", logger="yolov5")
    settings = {"imgsz": 96, "workers": 0, "device": "cpu", "project": tmp_path, "plots": False}
    for as_detect, words in ((False, "images padded by half a stride"), (True, "images framed as by detect.py")):
        caplog.clear()
        val.run(mixed_sizes, weights, as_detect=as_detect, exist_ok=True, **settings)
        assert any(words in record.getMessage() for record in caplog.records)
        assert yaml_load(tmp_path / "exp/thresholds.yaml")["as_detect"] is as_detect
    assert "padded images" in str(Deployment(padded=True))
    assert "padded" not in str(Deployment())
    with pytest.raises(ValueError, match="--task speed times frames of one size: remove --as-detect"):
        val.run(mixed_sizes, weights, as_detect=True, task="speed")


@pytest.mark.parametrize("agnostic", [False, True])
def test_detect_takes_a_confidence_for_each_class(narrow_weights, data, tmp_path, caplog, agnostic):
    weights = shutil.copy(narrow_weights, tmp_path / "a.pt")
    caplog.set_level("INFO", logger="yolov5")
    every = detections(weights, data["val"], tmp_path, conf_thres=0.001, iou_thres=1.0, max_det=10**6)
    best, own = (every[every[:, 5] == c, 4].quantile(0.5).item() for c in (0, 1))
    add_thresholds(weights, THRESHOLDS | {"conf": best, "classes": {0: {"conf": None}, 1: {"conf": own}}})
    settings = {"conf_thres": "best-class", "agnostic_nms": agnostic}
    found = detections(weights, data["val"], tmp_path, **settings)
    limits = torch.tensor([best, own, best])  # class 2 has none of its own
    assert (found[:, 4] > limits[found[:, 5].long()]).all()
    assert torch.equal(detections(weights, data["val"], tmp_path, **settings, iou_thres=1.0, max_det=10**6).sort(0)[0],
                       every[every[:, 4] > limits[every[:, 5].long()]].sort(0)[0])  # fmt: skip
    text = f"confidence by class: cat {best:g}, a/b {own:g}, 白细胞 {best:g}: best F1 of each on 4 images at 96 pixels"
    assert any(record.getMessage().startswith(text) for record in caplog.records)


@pytest.mark.parametrize(
    "points", [{"0.8": {"conf": 0.5}, "0.95": {"conf": 0.75}, "0.99": None}, {"0.8": 0.5, "0.95": 0.75}]
)
def test_detect_takes_the_confidence_of_a_wished_precision(weights, data, tmp_path, points, caplog):
    caplog.set_level("INFO", logger="yolov5")
    add_thresholds(weights, THRESHOLDS | {"for_precision": points})
    found = detections(weights, data["val"], tmp_path, conf_thres="precision=0.95", augment=True)
    assert torch.equal(found, detections(weights, data["val"], tmp_path, conf_thres=0.75, augment=True))
    texts = [record.getMessage() for record in caplog.records]
    assert any("confidence 0.75: precision=0.95 on 4 images at 96 pixels" in text for text in texts)
    assert not any("padded" in text for text in texts)
    add_thresholds(weights, THRESHOLDS | {"for_precision": points, "as_detect": False})
    detections(weights, data["val"], tmp_path, conf_thres="precision=0.95")
    assert "NMS IoU 0.45, images padded as for mAP (val.py --as-detect pads none)" in caplog.text
    assert any(text.startswith("it may be another one at 96 pixels with NMS IoU 0.45, --augment") for text in texts)
    assert torch.equal(
        detections(weights, data["val"], tmp_path, conf_thres="precision=.8"),
        detections(weights, data["val"], tmp_path, conf_thres=0.5),
    )
    for word in ("precision=0.9", "precision=0.99"):  # not saved; never reached
        with pytest.raises(ValueError, match=rf"{word}': saved in .*a\.pt are those for 0\.8, 0\.95"):
            detections(weights, data["val"], tmp_path, conf_thres=word)
    for word in ("precision", "precision=1.5", "precision=high", "recall=0.9"):
        with pytest.raises(
            ValueError, match=f"conf-thres is '{word}', but must be a number or 'best' or 'best-class' or"
        ):
            detections(weights, data["val"], tmp_path, conf_thres=word)
    add_thresholds(weights, THRESHOLDS | {"for_precision": dict.fromkeys(points)})
    with pytest.raises(ValueError, match=rf"saved in .*a\.pt reached a precision of {', '.join(points)}\."):
        detections(weights, data["val"], tmp_path, conf_thres="precision=0.95")
    add_thresholds(weights, THRESHOLDS)
    with pytest.raises(ValueError, match="'precision=0.95': no best one is saved"):
        detections(weights, data["val"], tmp_path, conf_thres="precision=0.95")


def test_val_shows_what_a_saved_confidence_gives(weights, tiny_dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger="yolov5")
    add_thresholds(weights, THRESHOLDS | {"conf": 0.6, "for_precision": {"0.9": 0.7}})
    settings = {"imgsz": IMGSZ, "workers": 0, "device": "cpu", "project": tmp_path, "plots": False, "single_cls": True}
    plain = val.run(tiny_dataset, weights, **settings)
    for word, conf in (("best", "0.6"), ("precision=0.9", "0.7")):
        caplog.clear()
        assert val.run(tiny_dataset, weights, conf_thres=word, **settings).results == plain.results
        texts = [record.getMessage() for record in caplog.records]
        assert any(text.startswith(f"at confidence {conf}: ") for text in texts)
        assert not any("truncates the curves" in text for text in texts)
    with pytest.raises(ValueError, match="--conf-thres best-class is for detect.py"):
        val.run(tiny_dataset, weights, conf_thres="best-class", **settings)


@pytest.mark.parametrize(
    ("deployment", "augment", "chosen", "words"),
    [
        (Deployment(), False, [], "--conf best"),
        (Deployment(iou=0.6), False, [], "--conf best --iou-thres 0.6"),
        (Deployment(max_det=50), True, [], "--conf best --max-det 50 --augment"),
        (Deployment(), False, ["traffic light", "car"], "--conf 0.50 --classes 'traffic light' car"),
    ],
)
def test_the_hint_for_detect_has_the_settings_of_the_validation(deployment, augment, chosen, words, caplog):
    caplog.set_level("INFO", logger="yolov5")
    detected = Detected(np.array([True, False]), np.array([0.9, 0.8]), np.array([0, 1]), np.array([0]))
    val.log_advice(detected, 0.5, deployment, ValOptions(augment=augment), chosen)
    assert f"(detect.py {words}): 1 right, 1 false, 0 missed of 1" in caplog.text
    assert "1 of these false boxes are of classes without labels here: F1 and P leave them out" in caplog.text
