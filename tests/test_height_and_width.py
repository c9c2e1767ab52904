"""A training with a height and a width: every script takes them over, and what cannot be a size is refused."""

import json
import logging

import pytest
import torch
import yaml

import detect
import export
import hubconf
import train
import val
from engine.doctor import run as doctor
from models.image_size import both_sides, choose_size, trained_size
from models.weights.checkpoint import load_checkpoint
from models.yolo import DetectionModel
from tests.stops import stopping
from utils.dataloaders import create_dataloader
from utils.files import yaml_load
from utils.options.check import UntouchedInt

MODEL = {
    "nc": 4, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "SwinV2Stage", [8, 4, 2]],
                 [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip
HEIGHT, WIDTH = 64, 128


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """Run folder of one epoch at 64 x 128, stopped in its middle and resumed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL))
    words = f"--data {tiny_dataset} --cfg {folder}/model.yaml --img {HEIGHT} {WIDTH} --batch-size 2 --epochs 1 "
    words += f"--workers 0 --device cpu --noplots --multi-scale --project {folder} --name run"
    with pytest.raises(KeyboardInterrupt):
        train.main(train.parse_opt(words.split()), stopping("on_train_batch_end", ni=1))
    train.run(resume=str(folder / "run/weights/last.pt"))
    return folder / "run"


@pytest.fixture(scope="module")
def weights(trained):
    return trained / "weights/best.pt"


def test_a_run_keeps_height_and_width(trained, weights):
    assert yaml_load(trained / "opt.yaml")["imgsz"] == [HEIGHT, WIDTH]
    assert trained_size(load_checkpoint(weights)["opt"]["imgsz"]) == (HEIGHT, WIDTH)
    assert yaml_load(trained / "thresholds.yaml")["imgsz"] == WIDTH


def test_validation_is_that_of_the_training(weights, tiny_dataset, tmp_path, lines):
    settings = {"device": "cpu", "workers": 0, "project": tmp_path, "batch_size": 4, "plots": False}
    settings |= {"save_json": True, "conf_thres": 0.0001}
    val.run(tiny_dataset, weights, **settings)
    assert f"at shape (4, 3, {HEIGHT}, {WIDTH})" in lines()
    val.run(tiny_dataset, weights, imgsz=[HEIGHT, WIDTH], **settings)
    val.run(tiny_dataset, weights, imgsz=640, **settings)  # given by hand, it counts
    own, both, square = (json.loads(file.read_text()) for file in sorted(tmp_path.glob("*/*.json")))
    assert len(own) > 4
    assert own == both != square


def test_detection_takes_them_over(weights, tiny_dataset, tmp_path, lines):
    source = tiny_dataset.parent / "tiny/images/val"
    settings = {"source": str(source), "device": "cpu", "conf_thres": 0.0001, "project": tmp_path, "nosave": True}
    own = detect.run(weights, **settings)
    assert "(1, 3, 64, 64)" in lines()  # square images, fitted into 64 x 128 and padded to the stride
    both, square = (detect.run(weights, imgsz=size, **settings) for size in ([HEIGHT, WIDTH], [640]))
    assert len(own[0].detections)
    for one, other, third in zip(own, both, square, strict=True):
        assert torch.equal(one.detections, other.detections)
        assert one.detections.shape != third.detections.shape or not torch.equal(one.detections, third.detections)
    hub = hubconf.custom(weights, device="cpu", _verbose=False)
    assert hub([torch.zeros(48, 96, 3, dtype=torch.uint8).numpy()]).s[2:] == (64, 128)
    assert hub([torch.zeros(96, 96, 3, dtype=torch.uint8).numpy()]).s[2:] == (64, 64)
    assert hub([torch.zeros(96, 96, 3, dtype=torch.uint8).numpy()], size=128).s[2:] == (128, 128)


def test_export_takes_them_over(weights, tiny_dataset, tmp_path):
    (file,) = export.run(weights=weights, include=["torchscript"])
    settings = {"device": "cpu", "workers": 0, "project": tmp_path, "batch_size": 1, "plots": False}
    exported = val.run(tiny_dataset, file, **settings)  # a file of one size needs no --img
    assert exported[0] == pytest.approx(val.run(tiny_dataset, weights, **settings)[0], abs=1e-3)
    with pytest.raises(ValueError, match="takes images of 64x128 .* only: use --img 64 128"):
        val.run(tiny_dataset, file, imgsz=128, **settings)


def test_doctor_judges_height_and_width(tiny_dataset, lines):
    doctor.run(str(tiny_dataset), imgsz=[8, 4000], fast=True, only=["boxes"])
    assert "below 2 pixels at --img 8 4000" in lines()


def test_sizes():
    assert both_sides(640) == (640, 640)
    assert choose_size([384, 600], 32) == (384, 608)
    assert choose_size([33, 64], 32, floor=64) == (64, 64)
    assert choose_size(UntouchedInt(640), 32, (64, 128)) == (64, 128)
    assert choose_size(640, 32, (64, 128)) == (640, 640)
    assert choose_size(UntouchedInt(640), 32, (64, 128), (96, 96)) == (96, 96)
    for damaged in (None, 640, [640], [64, 64], [64, True], [64, "128"], [0, 64], [64, 10**9], "ab", {1: 2, 3: 4}):
        assert trained_size(damaged) is None


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--img 64 96 128", "--imgsz is 64 96 128, but must be one size, or a height and a width"),
        ("--img 64 0", "--imgsz is 0, but must be at least 1"),
        ("--img 64 20000", "--imgsz is 20000, but must be at most 16000"),
    ],
)
def test_wrong_sizes_are_refused_before_anything_is_made(tiny_dataset, tmp_path, words, match):
    with pytest.raises(ValueError, match=match):
        train.main(train.parse_opt(f"--data {tiny_dataset} --project {tmp_path}/runs --device cpu {words}".split()))
    assert not (tmp_path / "runs").exists()


def test_two_equal_sides_are_a_square(tiny_dataset):
    source = tiny_dataset.parent / "tiny/images/train"
    batch, other = (next(iter(create_dataloader(source, size, 2, 32, rect=True)[0])) for size in (96, (96, 96)))
    assert torch.equal(batch[0], other[0])
    assert torch.equal(batch[1], other[1])


@pytest.mark.parametrize("size", [(64, 160), (160, 64), (96, 352)])
def test_windows_of_maps_with_two_sides(size):
    """Padding below and to the right of the last windows leaves the map of what is there as it is."""
    torch.manual_seed(0)
    model = DetectionModel(MODEL, verbose=False).eval()
    boxes, maps = model(torch.rand(1, 3, *size))
    assert boxes.shape[1] == 2 * sum(size[0] * size[1] // stride**2 for stride in (8, 16))
    assert [tuple(m.shape[2:4]) for m in maps] == [(size[0] // s, size[1] // s) for s in (8, 16)]
    assert boxes.isfinite().all()
