"""train.py begins with a conversion when checkpoint and model are siblings."""

from dataclasses import replace

import pytest
import torch
import yaml

import train
from engine.conversion.before_training import convert_inputs
from engine.training.state import build_model, read_inputs
from models.weights.checkpoint import load_checkpoint
from models.yolo import DetectionModel
from utils.datasets.demo import CLASSES, draw_demo
from utils.files import yaml_load
from utils.options.train import TrainOptions
from utils.paths import ROOT

NARROW = {"width_multiple": 0.125, "depth_multiple": 0.1}


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_checkpoint):
    """Folder with a dataset of 16 images, a teacher and the table of its twin."""
    root = tmp_path_factory.mktemp("convert")
    draw_demo(root / "demo", n_train=16, n_val=4, size=64, seed=0)
    data = {"path": str(root / "demo"), "train": "images/train", "val": "images/val"}
    (root / "data.yaml").write_text(yaml.safe_dump(data | {"names": dict(enumerate(CLASSES))}))
    for name in ("yolov5n", "yolov5n-swinv2"):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(yaml_load(ROOT / f"models/{name}.yaml") | NARROW))
    torch.manual_seed(0)
    model = DetectionModel(root / "yolov5n.yaml", nc=2, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    with torch.no_grad():
        model.detect.anchors *= 0.5
    write_checkpoint(root / "teacher.pt", model, {0: "a", 1: "b"})
    return root


def settings(place, **options):
    return {
        "data": str(place / "data.yaml"), "weights": str(place / "teacher.pt"),
        "cfg": str(place / "yolov5n-swinv2.yaml"), "imgsz": 64, "epochs": 1, "batch_size": 8, "workers": 0,
        "noplots": True, "noautoanchor": True, "project": str(place / "runs"), "exist_ok": True,
    } | options  # fmt: skip


def run(place, **options):
    train.run(**settings(place, **options))
    return load_checkpoint(place / "runs/exp/weights/last.pt")


def begin(place, **options):
    """What the training would begin with, before and after what comes first."""
    inputs = read_inputs(TrainOptions(**settings(place, **options)))
    return inputs, convert_inputs(inputs, torch.device("cpu"))


def test_siblings_are_converted_once_and_trained(place, caplog):
    ckpt = run(place, convert=16, unlabeled=[str(place / "demo/images/train")])
    twins = list((place / "runs/converted").glob("*.pt"))
    assert [twin.name.rpartition("-")[0] for twin in twins] == ["teacher-yolov5n-swinv2"]
    twin = load_checkpoint(twins[0])
    assert ckpt["converted"] == twin["converted"]
    assert ckpt["converted"]["images"] == 16
    assert ckpt["yaml"]["nc"] == len(CLASSES) != twin["yaml"]["nc"]
    assert torch.allclose(ckpt["model"]["model.24.anchors"].float(), twin["model"]["model.24.anchors"].float())
    assert "is there already" not in caplog.text
    _, again = begin(place, convert=16, unlabeled=[str(place / "demo/images/train")])
    assert "is there already; delete it to convert again" in caplog.text
    assert (again.options.weights, again.ckpt["converted"]) == (str(twins[0]), twin["converted"])


def test_converted_checkpoint_is_trained_as_it_is(place, caplog):
    twin = next((place / "runs/converted").glob("*.pt"), None)
    assert twin is not None, "the test above makes it"
    inputs, begun = begin(place, weights=str(twin))
    assert begun is inputs
    assert inputs.ckpt["converted"] == load_checkpoint(twin)["converted"]
    assert "images to learn from" not in caplog.text


def test_without_conversion_the_stages_start_as_the_identity(place, tmp_path):
    options = TrainOptions(
        weights=str(place / "teacher.pt"), cfg=str(place / "yolov5n-swinv2.yaml"), data=str(place / "data.yaml")
    )
    blocks = build_model(read_inputs(options), tmp_path).model[2].m.blocks
    assert all(not block.norm1.weight.any() and not block.norm2.weight.any() for block in blocks)
    blocks = build_model(read_inputs(replace(options, weights="")), tmp_path).model[2].m.blocks
    assert all((block.norm1.weight == 1).all() for block in blocks)  # norm_gain of the table


def test_wrong_sibling_is_named_and_training_goes_on(place, caplog):
    table = yaml_load(place / "yolov5n-swinv2.yaml") | {"width_multiple": 0.25}
    (place / "wide.yaml").write_text(yaml.safe_dump(table))
    ckpt = run(place, cfg=str(place / "wide.yaml"))
    assert "no conversion: " in caplog.text
    assert "is not the Swin twin of" in caplog.text
    assert "layer 0 (Conv): 8 channels in the teacher, 16 in the model" in caplog.text
    assert ckpt["converted"] is None
    with pytest.raises(ValueError, match="is not the Swin twin of"):
        run(place, cfg=str(place / "wide.yaml"), convert=16)


def test_too_few_images_are_warned_of_and_weights_copied(place, tiny_dataset, caplog):
    inputs, begun = begin(place, data=str(tiny_dataset), imgsz=96)
    assert "no conversion: 8 images; learning without labels needs at least 16" in caplog.text
    assert "The weights that fit are copied" in caplog.text
    assert begun is inputs


def test_unlabeled_images_need_a_conversion(place):
    with pytest.raises(ValueError, match="--unlabeled adds images to a conversion, but this training starts without"):
        run(place, convert="off", unlabeled=["photos"])
    with pytest.raises(ValueError, match="--convert is 'never', which it does not take"):
        run(place, convert="never")
