"""Masked images: what is hidden, what counts, and a whole run of a narrow model that is stopped and taken up again."""

import signal

import cv2
import numpy as np
import pytest
import torch

from engine import pretrain as command
from engine.pretraining.images import MaskedBatches, crop_and_flip
from engine.pretraining.masked import MaskedImageModel, draw_hidden, seen_mean
from engine.pretraining.run import Pretraining, Settings, pretrain, rate_at
from engine.unlabelled import Images
from models.weights.checkpoint import build_model, load_checkpoint
from models.weights.transfer import transfer_weights
from models.yolo import DetectionModel
from utils.datasets.demo import CLASSES, draw_demo
from utils.files import yaml_load, yaml_save
from utils.paths import ROOT

SIZE, PATCH = 64, 16
SETTINGS = Settings(imgsz=SIZE, batch_size=8, epochs=12, mask_patch=PATCH)
NARROW = {"width_multiple": 0.125, "depth_multiple": 0.1, "nc": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "demo"
    draw_demo(root, n_train=40, n_val=2, size=SIZE, seed=0)
    return root


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    table = yaml_load(ROOT / "models/yolov5n-swinv2.yaml") | NARROW
    file = tmp_path_factory.mktemp("cfg") / "narrow.yaml"
    yaml_save(file, table)
    return str(file)


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return MaskedImageModel(DetectionModel(cfg, verbose=False)).eval()


@pytest.fixture(scope="module")
def whole(cfg, folder, tmp_path_factory):
    """Checkpoint of a run that nothing stopped."""
    return pretrain(cfg, folder / "images/train", out=tmp_path_factory.mktemp("whole") / "start.pt", settings=SETTINGS)


@pytest.mark.parametrize(("ratio", "count"), [(0.6, 10), (0.05, 1), (0.95, 15)])
def test_each_image_hides_the_same_number_of_patches(ratio, count):
    hidden = draw_hidden(np.random.default_rng(0), 5, SIZE, PATCH, ratio)
    assert hidden.shape == (5, 1, SIZE, SIZE)
    grid = hidden[:, 0, ::PATCH, ::PATCH]
    assert grid.sum((1, 2)).tolist() == [count] * 5
    assert torch.equal(grid.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2), hidden[:, 0])
    assert ratio != 0.6 or len({tuple(g.flatten().tolist()) for g in grid}) == 5


def test_at_the_start_the_mean_colour_is_predicted(model):
    images, hidden = torch.rand(2, 3, SIZE, SIZE), draw_hidden(np.random.default_rng(0), 2, SIZE, PATCH, 0.6)
    loss, predicted = model(images, hidden)
    for image, mask, mean in zip(images, hidden[:, 0], seen_mean(images, hidden), strict=True):
        torch.testing.assert_close(mean.flatten(), image[:, ~mask].mean(1))
    assert torch.equal(predicted, seen_mean(images, hidden).expand_as(images))
    errors = [(p - i).abs()[:, m].mean() for p, i, m in zip(predicted, images, hidden[:, 0], strict=True)]
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_hidden_pixels_do_not_reach_the_backbone(model):
    images, hidden = torch.rand(1, 3, SIZE, SIZE), draw_hidden(np.random.default_rng(1), 1, SIZE, PATCH, 0.5)
    torch.nn.init.normal_(model.head.weight)
    changed = torch.where(hidden, torch.rand_like(images), images)
    assert torch.equal(model(images, hidden)[1], model(changed, hidden)[1])
    assert not torch.equal(model(images, hidden)[1], model(images.flip(2), hidden)[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_squares_with_all_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 90, channels), np.uint8)
    crops = [crop_and_flip(image, np.random.default_rng(seed), SIZE) for seed in range(3)]
    assert all(crop.shape == (SIZE, SIZE, channels) for crop in crops)
    assert not np.array_equal(crops[0], crops[1])
    assert crop_and_flip(np.zeros((1, 1, channels), np.uint8), np.random.default_rng(0), 8).shape == (8, 8, channels)


def test_a_batch_depends_on_its_number_alone(folder):
    files = sorted(map(str, (folder / "images/train").iterdir()))

    def batches():
        images = Images(files, SIZE, change=lambda image, rng: crop_and_flip(image, rng, SIZE))
        return MaskedBatches(images, 4, PATCH, 0.6)

    first, again = batches()[3], batches()
    assert not torch.equal(again[0][0], first[0])
    assert all(torch.equal(a, b) for a, b in zip(first, again[3], strict=True))


def test_rate_rises_and_falls():
    rates = [rate_at(step, 100) for step in range(100)]
    assert np.argmax(rates) in (4, 5)
    assert 0 < rates[0] < rates[2] < max(rates) == 0.002
    assert rates[-1] < 0.0001


def test_hidden_parts_are_learned(cfg, folder):
    work = Pretraining(cfg, sorted(map(str, (folder / "images/train").iterdir())), SETTINGS, torch.device("cpu"), 0)
    (batch,) = list(work.batches())[:1]
    work.step = work.steps // 4  # near the peak of the rate
    losses = [work.learn(*batch) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def test_backbone_alone_is_kept(whole, cfg):
    ckpt, detector = load_checkpoint(whole), DetectionModel(cfg, verbose=False)
    record = ckpt["pretrained"]
    assert record["images"] == 24
    steps, losses, held_out = zip(*record["checks"], strict=True)
    assert (steps[-1], len(steps)) == (36, 10)
    assert 0 < min(losses + held_out) < max(losses + held_out) < 2 * record["mean_colour"]
    backbone = [key for key in detector.state_dict() if int(key.split(".")[1]) < 10]
    assert list(ckpt["model"]) == backbone
    done = transfer_weights(detector, ckpt)
    assert (done.taken, done.unused) == (backbone, [])
    with pytest.raises(ValueError, match=r"no head detects: train them first"):
        build_model(ckpt)
    assert cv2.imread(str(whole.with_suffix(".png"))).shape == (3 * SIZE, 6 * SIZE, 3)
    assert not whole.with_name("start.pretraining.pt").exists()


def test_stopped_run_goes_on_to_the_same_weights(whole, cfg, folder, tmp_path, monkeypatch, caplog):
    learn, stops = Pretraining.learn, [5, 20]

    def learn_until(self, *batch):
        if stops and self.step == stops[0]:
            stops.pop(0)
            signal.raise_signal(signal.SIGTERM)
        return learn(self, *batch)

    monkeypatch.setattr(Pretraining, "learn", learn_until)
    start = {"cfg": cfg, "images": folder / "images/train", "out": tmp_path / "start.pt", "settings": SETTINGS}
    for step in (6, 21):
        with pytest.raises(SystemExit, match="143"):
            pretrain(**start)
        assert "The same command goes on" in caplog.text
        assert not (tmp_path / "start.pt").exists()
        caplog.clear()
        if step == 21:
            resumed = load_checkpoint(pretrain(**start))
            assert "going on after 21 of 36 steps" in caplog.text
    expected = load_checkpoint(whole)
    assert all(torch.equal(resumed["model"][key], value) for key, value in expected["model"].items())
    assert resumed["pretrained"]["checks"] == expected["pretrained"]["checks"]


def test_what_does_not_fit_is_refused(whole, cfg, folder, tmp_path):
    images = [str(folder / "images/train")]
    with pytest.raises(ValueError, match="no model: pass --cfg"):
        command.run(images=images)
    with pytest.raises(ValueError, match="no images: pass --images"):
        command.run(cfg=cfg)
    with pytest.raises(ValueError, match=r"start\.pt exists already"):
        command.run(cfg=cfg, images=images, out=str(whole))
    with pytest.raises(ValueError, match="--img 80 does not fit: it must be a multiple of 32"):
        command.run(cfg=cfg, images=images, imgsz=80, device="cpu", out=str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="mask-ratio"):
        command.run(cfg=cfg, images=images, mask_ratio=1.0)
    with pytest.raises(ValueError, match="2 images; learning without labels needs"):
        command.run(cfg=cfg, images=[str(folder / "images/val")], device="cpu", out=str(tmp_path / "a.pt"))


def test_the_command_takes_training_images_of_a_dataset(cfg, folder, tmp_path):
    data = {"path": str(folder), "train": "images/train", "val": "images/val", "names": list(CLASSES)}
    yaml_save(tmp_path / "data.yaml", data)
    words = ["--cfg", cfg, "--data", str(tmp_path / "data.yaml"), "--img", "64", "--epochs", "1", "--device", "cpu"]
    words += ["--out", str(tmp_path / "a.pt"), "--workers", "1", "--mask-patch", "16", "--batch-size", "4"]
    out = command.main(command.parse_opt(words))
    assert load_checkpoint(out)["pretrained"]["checks"][-1][0] == 6
