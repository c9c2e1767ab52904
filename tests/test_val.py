"""val.py end to end, with a small random network and with an oracle that answers with the labels."""

import json
import logging
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

import export
import val
from models.experimental import attempt_load
from models.runtimes.backends import RUNTIMES
from models.weights.checkpoint import add_thresholds, load_checkpoint
from models.yolo import DetectionModel
from tests.oracle import IMGSZ, Oracle, make_loader, perfect_answers, run_oracle
from utils.callbacks import Callbacks
from utils.console import cli_errors
from utils.datasets.dataset import check_dataset
from utils.files import yaml_load
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.options.val import ValOptions
from utils.paths import ROOT


@pytest.fixture(scope="session")
def data(tiny_dataset):
    return check_dataset(tiny_dataset)


@pytest.fixture(scope="session")
def oblong(tmp_path_factory):
    """Four grey images of different shapes, larger and smaller than the network input, with three boxes each."""
    root = tmp_path_factory.mktemp("oblong")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(50, 80), (130, 70), (60, 200), (96, 96)]):
        for split in ("train", "val"):
            (root / "images" / split).mkdir(parents=True, exist_ok=True)
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), np.full((height, width, 3), 40 * i + 50, np.uint8))
            size = rng.uniform(0.1, 0.3, (3, 2))
            centre = np.array([[0.2, 0.3], [0.5, 0.6], [0.8, 0.4]]) + rng.uniform(-0.05, 0.05, (3, 2))
            rows = np.concatenate((np.arange(3)[:, None], centre, size), 1)
            np.savetxt(root / "labels" / split / f"{i}.txt", rows, fmt="%g")
    content = {"path": str(root), "train": "images/train", "val": "images/val", "names": ["a", "b", "c"]}
    (root / "oblong.yaml").write_text(yaml.safe_dump(content))
    return check_dataset(root / "oblong.yaml")


@pytest.fixture(scope="session")
def weights(tmp_path_factory, data, write_checkpoint):
    """Checkpoint of a narrow network whose random weights make it certain enough to detect something."""
    table = yaml_load(ROOT / "models/yolov5n.yaml") | {"width_multiple": 0.05, "depth_multiple": 0.1, "nc": data["nc"]}
    torch.manual_seed(1)
    model = DetectionModel(table, verbose=False)
    for conv in model.model[-1].m:
        nn.init.normal_(conv.weight, std=1.0)
        nn.init.zeros_(conv.bias)
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt", model, data["names"])


@pytest.fixture
def lines(caplog):
    """Messages of the logger so far."""
    caplog.set_level(logging.INFO, logger="yolov5")
    return lambda: [record.getMessage() for record in caplog.records]


def by_hand(data, weights, tmp_path, **settings):
    settings = {"imgsz": IMGSZ, "workers": 0, "device": "cpu", "project": tmp_path, "plots": False, **settings}
    return val.run(data, weights, **settings)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("rect", [True, False])
def test_perfect_detections(oblong, batch_size, rect):
    loader = make_loader(oblong, batch_size, rect)
    (results, maps, speed), _ = run_oracle(oblong, loader, perfect_answers(loader))
    np.testing.assert_allclose(results, [1, 1, 0.995, 0.995, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(maps, np.full(oblong["nc"], 0.995))
    assert len(speed) == 3
    assert min(speed) > 0


def test_no_detections(oblong):
    loader = make_loader(oblong)
    (results, maps, _), _ = run_oracle(oblong, loader, perfect_answers(loader, confidence=0.0005))
    assert results == (0,) * 7
    assert maps.tolist() == [0] * oblong["nc"]


def test_wrong_classes(oblong):
    loader = make_loader(oblong)
    answers = [[torch.cat((r[:, :5], (r[:, 5:] + 1) % oblong["nc"]), 1) for r in b] for b in perfect_answers(loader)]
    (results, _, _), _ = run_oracle(oblong, loader, answers)
    assert results[:4] == (0, 0, 0, 0)


def test_every_class_of_a_box_counts(oblong):
    loader = make_loader(oblong)
    answers = perfect_answers(loader)
    oracle = Oracle(3, answers, every_class=True)
    p, r, map50, *_ = val.run(oblong, model=oracle, dataloader=loader, plots=False)[0]
    assert map50 > 0.4  # with its best class alone every box would be of class 0, and mAP a third of that
    assert (p, r) == (pytest.approx(1 / 9), pytest.approx(1 / 3))  # as detect.py: the best class of each box


def test_images_enter_as_zero_to_one(oblong):
    loader = make_loader(oblong)
    _, oracle = run_oracle(oblong, loader, perfect_answers(loader))
    for images, (expected, *_) in zip(oracle.images, loader, strict=True):
        assert images.dtype == torch.float32
        assert torch.equal((images * 255).round().byte(), expected)
    assert oracle.images[0].shape[2] != oracle.images[0].shape[3]


def test_single_cls_merges_the_classes_of_model_and_labels(oblong):
    loader = make_loader(oblong, single_cls=True)
    answers = [[torch.cat((r[:, :5], r[:, 5:] + 2), 1) for r in b] for b in perfect_answers(loader)]
    (results, maps, _), _ = run_oracle(oblong, loader, answers, single_cls=True)
    np.testing.assert_allclose(results[:4], [1, 1, 0.995, 0.995], atol=1e-6)
    np.testing.assert_allclose(maps, [0.995])


def test_loss_is_the_mean_over_batches(oblong):
    loader = make_loader(oblong, batch_size=1)
    given = []

    def compute_loss(raw, targets):
        given.append((raw[0].shape[0], targets.shape[1]))
        return torch.tensor(0.0), torch.tensor([len(given), 2.0, 0.5])

    (results, _, _), _ = run_oracle(oblong, loader, perfect_answers(loader), compute_loss=compute_loss)
    assert given == [(1, 6)] * 4
    assert results[4:] == (2.5, 2.0, 0.5)


def test_batch_size_changes_nothing_in_square_frames(data, weights):
    model = attempt_load(weights)
    results = [
        val.run(data, model=model, dataloader=make_loader(data, size, rect=False), plots=False)[0] for size in (1, 4)
    ]
    assert results[0][1] > 0
    np.testing.assert_allclose(*results, atol=1e-6)


def test_by_hand_prints_what_training_prints(data, weights, tiny_dataset, tmp_path, lines):
    at_the_end = val.run(
        data,
        weights=weights,
        imgsz=IMGSZ,
        device=torch.device("cpu"),
        dataloader=make_loader(data, 4),
        save_dir=tmp_path,
        verbose=True,
        plots=False,
    )
    of_training = [line for line in lines() if re.match(r" +\w+ +\d+ ", line)]
    alone = by_hand(tiny_dataset, weights, tmp_path)
    of_hand = [line for line in lines() if re.match(r" +\w+ +\d+ ", line)][len(of_training) :]
    assert of_hand == of_training
    assert len(of_hand) == 1 + data["nc"]
    assert alone[0] == at_the_end[0]
    assert alone[1].tolist() == at_the_end[1].tolist()
    assert alone[0][2] > 0


def test_fused_and_unfused_model_agree(data, weights):
    results = [
        val.run(data, model=attempt_load(weights, fuse=fuse), dataloader=make_loader(data), plots=False)[0]
        for fuse in (True, False)
    ]
    np.testing.assert_allclose(*results, atol=1e-3)


# The model ------------------------------------------------------------------------------------------------------------


def test_every_module_gets_its_mode_back(data):
    loader = make_loader(data)
    _, oracle = run_oracle(data, loader, perfect_answers(loader))
    assert oracle.seen_training == [False, False]
    assert oracle.training
    assert not oracle.frozen.training


def test_mode_comes_back_after_an_error(data):
    oracle = Oracle(data["nc"], []).train()
    with pytest.raises(IndexError):
        val.run(data, model=oracle, dataloader=make_loader(data), plots=False)
    assert oracle.training


def test_model_can_train_on_afterwards(data, weights):
    model = attempt_load(weights, fuse=False).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    val.run(data, model=model, dataloader=make_loader(data), plots=False, half=True)
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name])
    sum(y.sum() for y in model(torch.rand(1, 3, 64, 64))).backward()
    assert model.model[0].conv.weight.grad is not None


def test_nothing_is_recorded_for_gradients(data):
    class Loss:
        def __call__(self, raw, targets):
            assert not torch.is_grad_enabled()
            return torch.zeros(1), torch.zeros(3)

    loader = make_loader(data)
    run_oracle(data, loader, perfect_answers(loader), compute_loss=Loss())
    assert torch.is_grad_enabled()


def test_events_come_in_order(data):
    seen = []
    callbacks = Callbacks()
    for event in ("on_val_start", "on_val_batch_start", "on_val_image_end", "on_val_batch_end", "on_val_end"):
        callbacks.register(event, lambda event=event: seen.append(event.removeprefix("on_val_")))
    loader = make_loader(data, batch_size=3)
    run_oracle(data, loader, perfect_answers(loader), callbacks=callbacks)
    batches = [["batch_start", *["image_end"] * n, "batch_end"] for n in (3, 1)]
    assert seen == ["start", *batches[0], *batches[1], "end"]


# Console and files ----------------------------------------------------------------------------------------------------


def test_table(data, lines):
    loader = make_loader(data)
    run_oracle(data, loader, perfect_answers(loader), verbose=True)
    head, every, *classes = [line for line in lines() if len(line) == 88]
    assert head.split() == ["Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95"]
    labels = np.concatenate(loader.dataset.labels)
    assert every == f"{'all':>22}{4:>11}{len(labels):>11}{1:>11}{1:>11}{0.995:>11}{0.995:>11}"
    present = np.unique(labels[:, 0]).astype(int)
    assert [line.split()[0] for line in classes] == [data["names"][c] for c in present]
    assert [int(line.split()[2]) for line in classes] == [(labels[:, 0] == c).sum() for c in present]


def test_training_prints_one_row_unless_verbose(data, lines):
    loader = make_loader(data)
    run_oracle(data, loader, perfect_answers(loader))
    assert [line.split()[0] for line in lines() if len(line) == 88] == ["Class", "all"]
    assert not any("Speed" in line for line in lines())


@pytest.fixture
def unlabelled(tmp_path):
    """Dataset of four images without a single label: two files are empty, two are missing."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "labels").mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / "set" / "images" / f"{i}.png"), np.full((60 + 10 * i, 80, 3), 90, np.uint8))
        if i < 2:
            (tmp_path / "set" / "labels" / f"{i}.txt").write_text("")
    return {"path": str(tmp_path / "set"), "train": "images", "val": "images", "names": list("abcd")}


def test_validation_without_labels_gives_zeros_and_one_warning(unlabelled, weights, tmp_path, caplog, lines):
    settings = {"plots": True, "save_txt": True, "save_json": True, "compute_loss": ComputeLoss(trainable(weights))}
    results, maps, _ = by_hand(unlabelled | {"names": list("abcd")}, weights, tmp_path, **settings)
    assert results[:4] == (0, 0, 0, 0)
    assert np.isfinite(results).all()
    assert results[4] == results[6] == 0  # boxes and classes
    assert maps.tolist() == [0] * 4
    assert [line.split()[:3] for line in lines() if re.match(r" +\w+ +\d+ ", line)] == [["all", "4", "0"]]
    warnings = [
        r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "class names" not in r.getMessage()
    ]
    assert len(warnings) == 1
    assert "no labels found for 4 images" in warnings[0]
    assert {"confusion_matrix.png", "PR_curve.png", "F1_curve.png"} <= {p.name for p in (tmp_path / "exp").iterdir()}


def test_images_without_labels_leave_the_saved_thresholds(unlabelled, weights, tmp_path, lines):
    file = shutil.copy(weights, tmp_path / "a.pt")
    add_thresholds(file, {"conf": 0.5})
    by_hand(unlabelled, file, tmp_path, save_thresholds=True)
    assert load_checkpoint(file)["thresholds"] == {"conf": 0.5}
    assert f"no thresholds saved into {file}: no image has a label" in lines()


def test_training_without_validation_labels_is_warned_once(unlabelled, lines):
    data = check_dataset(unlabelled)
    loader = make_loader(data)
    for _ in range(2):
        (results, _, _), _ = run_oracle(data, loader, [[FOUND] * 2] * 2)
        assert results[:4] == (0, 0, 0, 0)
    assert sum("no labels found for 4 images" in line for line in lines()) == 1


def trainable(weights):
    """The model of a checkpoint with the hyperparameters that its loss needs."""
    model = attempt_load(weights)
    model.hyp = Hyp().to_dict()
    return model


FOUND = torch.tensor([[10.0, 10, 50, 50, 0.9, 0]])


def test_files_of_a_run_by_hand(tiny_dataset, weights, tmp_path, lines):
    settings = {"save_txt": True, "save_conf": True, "save_json": True, "plots": True, "max_det": 20}
    by_hand(tiny_dataset, weights, tmp_path, batch_size=1, **settings)
    folder = tmp_path / "exp"
    pictures = {
        "confusion_matrix.png",
        "errors.png",
        "calibration.png",
        *(f"{x}_curve.png" for x in ("PR", "F1", "P", "R")),
    }
    pictures |= {f"val_batch{i}_{kind}.jpg" for i in range(3) for kind in ("labels", "pred")}
    assert {p.name for p in folder.iterdir()} == {
        *pictures, "labels", "thresholds.yaml", "metrics.yaml", "tiny_predictions.json",
    }  # fmt: skip
    rows = json.loads((folder / "tiny_predictions.json").read_text())
    texts = [line.split() for p in sorted((folder / "labels").iterdir()) for line in p.read_text().splitlines()]
    assert len(rows) == len(texts) == 80
    for row in texts:
        assert len(row) == 6
        assert all(0 <= float(value) <= 1 for value in row[1:])
    np.testing.assert_allclose(sorted(r["score"] for r in rows), sorted(float(t[5]) for t in texts), atol=1e-5)
    assert any(line.startswith("Speed: ") and line.endswith("at shape (1, 3, 96, 96)") for line in lines())
    assert any(str(folder) in line for line in lines())


def test_report_shows_the_pictures_and_the_table(tiny_dataset, weights, tmp_path, lines):
    results = by_hand(tiny_dataset, weights, tmp_path, report=True)[0]
    page = (tmp_path / "exp" / "report.html").read_text()
    items = [json.loads(x) for x in re.findall(r'class="item">(.*?)</script>', page)]
    data = check_dataset(tiny_dataset)
    assert [i["name"] for i in items] == sorted(p.name for p in Path(data["val"]).iterdir())
    (summary,) = re.findall(r'id="summary">(.*?)</script>', page)
    head, *rest = json.loads(summary)["metrics"]["rows"]
    labels = [x for i in items for x in i["labels"]]
    assert head[:3] == ["all", 4, len(labels)]
    np.testing.assert_allclose(head[3:], results[:4])
    assert {name: n for name, _, n, *_ in rest} == Counter(data["names"][x[4]] for x in labels)
    assert any(line == f"Report saved to {tmp_path / 'exp' / 'report.html'}" for line in lines())


def test_text_files_repeat_the_labels(oblong, tmp_path):
    loader = make_loader(oblong)
    run_oracle(oblong, loader, perfect_answers(loader), save_txt=True, save_dir=tmp_path)
    for file, labels in zip(loader.dataset.im_files, loader.dataset.labels, strict=True):
        name = file.rsplit("/", 1)[1].replace(".png", ".txt")
        rows = np.loadtxt(tmp_path / "labels" / name, ndmin=2)
        np.testing.assert_allclose(rows[np.lexsort(rows.T)], labels[np.lexsort(labels.T)], atol=2e-3)


def test_hybrid_text_files_hold_the_labels_and_what_was_found_besides(oblong, tmp_path):
    """An oracle that finds one box beside the three labels: four rows, the labels with confidence 1."""
    loader = make_loader(oblong, batch_size=1)
    extra = torch.tensor([[2.0, 2, 12, 12, 0.5, 1]])
    run_oracle(oblong, loader, [[extra]] * 4, save_hybrid=True, save_conf=True, save_dir=tmp_path)
    for file, labels in zip(loader.dataset.im_files, loader.dataset.labels, strict=True):
        name = file.rsplit("/", 1)[1].replace(".png", ".txt")
        rows = np.loadtxt(tmp_path / "labels" / name, ndmin=2)
        certain = rows[rows[:, 5] == 1, :5]
        np.testing.assert_allclose(certain[np.lexsort(certain.T)], labels[np.lexsort(labels.T)], atol=2e-3)
        np.testing.assert_allclose(rows[rows[:, 5] < 1][:, [0, 5]], [[1, 0.5]])


def test_run_folders_are_numbered(tiny_dataset, weights, tmp_path):
    (tmp_path / "x").mkdir()
    by_hand(tiny_dataset, weights, tmp_path, name="x")
    by_hand(tiny_dataset, weights, tmp_path, name="x", exist_ok=True)
    assert {p.name for p in tmp_path.iterdir()} == {"x", "x2"}


def test_training_without_files_makes_no_folder(data, tmp_path):
    loader = make_loader(data)
    run_oracle(data, loader, perfect_answers(loader), save_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": None}, "no weights given"),
        ({"task": "study"}, "task 'study' is unknown. Allowed: train, val, test, speed$"),
        ({"task": "test"}, r"tiny\.yaml has no 'test' split"),
    ],
)
def test_wrong_settings(tiny_dataset, weights, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        by_hand(tiny_dataset, settings.pop("weights", weights), tmp_path, **settings)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("batch-size", 0, "at least 1"),
        ("imgsz", 0, "at least 1"),
        ("max-det", 0, "at least 1"),
        ("workers", -1, "at least 0"),
        ("conf-thres", -0.1, "between 0 and 1"),
        ("conf-thres", float("nan"), "between 0 and 1"),
        ("iou-thres", 1.5, "between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_loaded(tmp_path, lines, option, value, allowed):
    argv = f"--weights absent.pt --data absent.yaml --project {tmp_path / 'runs'} --{option}={value}".split()
    with pytest.raises(SystemExit) as exit_, cli_errors():
        val.main(val.parse_opt(argv))
    assert exit_.value.code == 1
    assert f"--{option} is {value}, but must be {allowed}" in lines()[-1]
    assert "\n" not in lines()[-1]
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match=f"--{option} is {value}, but must be {allowed}"):
        val.run("absent.yaml", "absent.pt", **{option.replace("-", "_"): value})


def test_model_twice_is_an_ensemble_that_finds_the_same(data, weights):
    loader = make_loader(data)
    alone, per_class, _ = val.run(data, weights, dataloader=loader, plots=False)
    twice, per_class_twice, _ = val.run(data, [weights, weights], dataloader=loader, plots=False)
    assert twice == alone
    np.testing.assert_array_equal(per_class_twice, per_class)


def test_augment_looks_at_three_views(data, weights):
    loader = make_loader(data)
    plain, *_ = val.run(data, weights, dataloader=loader, plots=False)
    augmented, *_ = val.run(data, weights, dataloader=loader, plots=False, augment=True)
    assert augmented != plain
    with pytest.raises(ValueError, match="compute_loss"):
        val.run(data, weights, dataloader=loader, plots=False, augment=True, compute_loss=lambda raw, targets: None)


def test_memory_is_pinned_for_cuda_only(data, weights, monkeypatch):
    asked = []
    monkeypatch.setattr(val, "create_dataloader", lambda *_, **settings: [asked.append(settings["pin_memory"])])
    monkeypatch.setattr(torch.cuda, "is_available", None)
    val._make_loader(data, attempt_load(weights), ValOptions(imgsz=64, batch_size=1, workers=0))
    assert asked == [False]


def test_missing_weights_leave_no_folder(tiny_dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        by_hand(tiny_dataset, tmp_path / "absent.pt", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_number_of_classes_must_agree(data):
    loader = make_loader(data)
    with pytest.raises(ValueError, match=f"the model has 7 classes, the dataset .* has {data['nc']}"):
        run_oracle(data, loader, [], nc=7)


def test_classes_are_chosen_by_name(oblong, lines):
    """The oracle has the classes 0, 1, 2 of those names; the dataset is asked for two of them, in another order."""
    loader = make_loader(oblong)
    content = {key: oblong[key] for key in ("path", "train", "val")} | {"names": ["0", "1", "2"]}
    answers = perfect_answers(loader)
    for keys, labels in (({"classes": [2, 0]}, [4, 4]), ({"merge": {"both": [0, 2]}}, [8, 4])):
        data = check_dataset(content | keys)
        (results, maps, _), _ = run_oracle(data, make_loader(data), answers, nc=3, verbose=True)
        np.testing.assert_allclose(results[:4], [1, 1, 0.995, 0.995], atol=1e-6)
        assert len(maps) == 2
        table = [line.split() for line in lines() if line.split()[:1] in (["0"], ["1"], ["2"], ["both"])]
        assert [int(line[2]) for line in table[-2:]] == labels
    with pytest.raises(ValueError, match="--save-thresholds is for all classes of the model in their order"):
        run_oracle(data, make_loader(data), answers, nc=3, save_thresholds=True)
    with pytest.raises(ValueError, match="the model has no class '2'"):
        run_oracle(check_dataset(content | {"classes": [2, 0]}), loader, answers, nc=2)
    with pytest.raises(ValueError, match="compute_loss needs the classes of the dataset in the order of the model"):
        run_oracle(data, make_loader(data), answers, nc=3, compute_loss=lambda raw, targets: None)


def test_a_model_of_fewer_classes_is_told_how_to_choose(data, tiny_dataset):
    oracle = Oracle(2, [])
    oracle.names = {0: data["names"][2], 1: data["names"][0]}
    with pytest.raises(ValueError, match=f"give the --data it was trained with, --classes {data['names'][2]} "):
        val.run(data, model=oracle, dataloader=make_loader(data), plots=False)


def test_misleading_settings_are_told(data, tiny_dataset, weights, tmp_path, lines):
    other = data | {"names": {c: f"other{c}" for c in data["names"]}}
    by_hand(other, weights, tmp_path, conf_thres=0.25, save_conf=True)
    text = "\n".join(lines())
    for warning in ("threshold of 0.25 truncates", "no effect without --save-txt", "differ from those of the dataset"):
        assert warning in text


def test_train_split(tiny_dataset, weights, tmp_path, lines):
    by_hand(tiny_dataset, weights, tmp_path, task="train")
    assert any(line.split()[:2] == ["all", "8"] for line in lines())


# Command line ---------------------------------------------------------------------------------------------------------


def test_main(tiny_dataset, weights, tmp_path, lines):
    common = f"--data {tiny_dataset} --img 96 --workers 0 --device cpu --project {tmp_path}".split()
    val.main(val.parse_opt(["--weights", str(weights), "--task", "speed", "--save-json", *common]))
    assert list((tmp_path / "exp").iterdir()) == []
    assert lines()[0].startswith("val: data=")
    val.main(val.parse_opt(["--weights", str(weights), str(weights), *common]))
    assert any(line.split()[:3] == ["all", "4", str(count)] for line in lines() for count in range(100))


def test_cut_off_curves_are_told(tiny_dataset, nms_inside, lines, monkeypatch):
    names = check_dataset(tiny_dataset)["names"]
    runtime = RUNTIMES["onnx"]
    monkeypatch.setattr(runtime, "METADATA", runtime.METADATA | {"names": names})
    by_hand(tiny_dataset, nms_inside, nms_inside.parent)
    assert any("exported with --nms" in line and "is 0.25, not 0.001; the IoU" in line for line in lines())
    assert any("mAP is lower" in line for line in lines())


def test_window_changes_a_swin_model(data, tmp_path, write_checkpoint):
    table = yaml_load(ROOT / "models/yolov5n-swinv2.yaml") | {"width_multiple": 0.125, "depth_multiple": 0.1}
    table |= {"nc": data["nc"]}
    model = DetectionModel(table, verbose=False)
    for conv in model.detect.m:
        nn.init.normal_(conv.weight, std=1.0)
        nn.init.zeros_(conv.bias)
    write_checkpoint(tmp_path / "s.pt", model, data["names"])
    loader = make_loader(data)
    own, other = (val.run(data, tmp_path / "s.pt", dataloader=loader, plots=False, window=w)[0] for w in (None, 2))
    assert own != other


@pytest.mark.parametrize(
    ("size", "kind"), [((64, 160), "torchscript"), pytest.param((160, 64), "pt2", marks=pytest.mark.slow)]
)
def test_height_and_width_are_those_of_a_file_exported_with_them(tiny_dataset, weights, tmp_path, lines, size, kind):
    file = export.run(weights=weights, include=[kind], imgsz=size, batch_size=3)[0]
    settings = {"imgsz": size, "batch_size": 3, "conf_thres": 0.2, "save_json": True}
    by_hand(tiny_dataset, weights, tmp_path, **settings)
    by_hand(tiny_dataset, file, tmp_path, **settings)
    expected, found = (json.loads((tmp_path / run / "tiny_predictions.json").read_text()) for run in ("exp", "exp2"))
    assert len(expected) > 20
    for one, other in zip(expected, found, strict=True):
        assert one["image_id"] == other["image_id"]
        assert other["bbox"] == pytest.approx(one["bbox"], abs=0.01)
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)
    assert any(line.endswith(f"at shape (3, 3, {size[0]}, {size[1]})") for line in lines())
    with pytest.raises(
        ValueError, match=f"takes images of {size[0]}x{size[1]} .* only: use --img {size[0]} {size[1]}$"
    ):
        by_hand(tiny_dataset, file, tmp_path, imgsz=160)


def test_height_and_width_of_val_are_read_as_in_detect():
    assert val.parse_opt(["--weights", "x", "--img", "96", "160"]).imgsz == [96, 160]
    assert val.parse_opt(["--weights", "x"]).imgsz == 640
    assert val.parse_opt(["--weights", "x", "--img", "96"]).imgsz == 96
    with pytest.raises(ValueError, match="must be one size, or a height and a width"):
        val.run("absent.yaml", "absent.pt", imgsz=[32, 64, 96])
    with pytest.raises(ValueError, match="--imgsz is 0, but must be at least 1"):
        val.run("absent.yaml", "absent.pt", imgsz=[32, 0])


def test_images_of_one_name_keep_their_results_apart(tiny_dataset, weights, tmp_path):
    source = check_dataset(tiny_dataset)
    for i, file in enumerate(sorted(Path(source["val"]).iterdir())):
        for kind, found in (
            ("images", file),
            ("labels", Path(str(file).replace("images", "labels")).with_suffix(".txt")),
        ):
            target = tmp_path / kind / "ab"[i % 2] / f"{i // 2}{found.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(found.read_bytes())
    content = {"path": str(tmp_path), "train": "images", "val": "images", "names": source["names"]}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(content))
    by_hand(tmp_path / "d.yaml", weights, tmp_path / "out", save_json=True, conf_thres=0.01)
    rows = json.loads((tmp_path / "out/exp/tiny_predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {"a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"}
