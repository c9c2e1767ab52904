"""The parts of a training's set-up that tests/test_train.py does not show one by one."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models import swin_transformer

from engine.training import state as training
from engine.training.state import choose_amp, choose_hyp, freeze_layers, has_placeholder_anchors
from models.yolo import DetectionModel
from utils.datasets.dataset import check_dataset
from utils.hyp import Hyp
from utils.options.train import TrainOptions
from utils.paths import ROOT

TABLE = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def model():
    return DetectionModel(TABLE, verbose=False)


@pytest.mark.parametrize(("freeze", "frozen"), [([0], []), ([2], [0, 1]), ([1, 2], [1, 2]), ([0, 2], [0, 2])])
def test_freeze_one_number_is_a_count_and_several_are_rows(model, freeze, frozen):
    rows = freeze_layers(model, freeze)
    assert [row.i for row in rows] == frozen
    still = {row.i for row in model.model if any(p.requires_grad for p in row.parameters())}
    assert still == {0, 1, 2} - set(frozen)


def test_freeze_the_backbone(model):
    assert [row.i for row in freeze_layers(model, ["backbone"])] == [0, 1]
    with pytest.raises(ValueError, match="--freeze backbone 2: pass either backbone or layer indices"):
        freeze_layers(model, ["backbone", 2])


@pytest.mark.parametrize("freeze", [[-1], [4], [0, 3], [10**18], [0, 10**18]])
def test_freeze_refuses_rows_that_are_not_there(model, freeze):
    with pytest.raises(ValueError, match="the model has layers 0 to 2"):
        freeze_layers(model, freeze)


def test_placeholder_anchors_are_told_from_real_ones(model):
    assert has_placeholder_anchors(model)
    real = DetectionModel(TABLE | {"anchors": [[10, 13, 16, 30], [33, 23, 30, 61]]}, verbose=False)
    assert not has_placeholder_anchors(real)


def test_amp_type_follows_the_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    assert choose_amp("auto", cpu) is None
    assert choose_amp("auto", cuda) is torch.float16
    assert choose_amp("bf16", cpu) is torch.bfloat16
    assert choose_amp("off", cuda) is None
    with pytest.raises(ValueError, match="--amp fp16 needs a CUDA device, not cpu"):
        choose_amp("fp16", cpu)


@pytest.mark.parametrize(
    ("module", "name"),
    [("C3SwinV2", "hyp.swinv2.yaml"), ("SwinV2Stage", "hyp.swinv2.yaml"), ("C3", "hyp.scratch-low.yaml")],
)
def test_hyperparameters_suit_the_backbone(module, name):
    table = {"backbone": [[-1, 1, "Conv", [8]], [-1, 1, module, [8]]]}
    assert choose_hyp("", table).endswith(name)
    assert choose_hyp("data/hyps/hyp.VOC.yaml", table).endswith("hyp.VOC.yaml")


@pytest.mark.parametrize("name", ["scratch-low", "muon-small"])
def test_few_images_are_told_of_their_hyperparameters(name, tiny_dataset, caplog):
    options = TrainOptions(hyp=str(ROOT / f"data/hyps/hyp.{name}.yaml"), workers=0, batch_size=2)
    inputs = training.Inputs(options, check_dataset(str(tiny_dataset)), None, {}, Hyp())
    with caplog.at_level("INFO"):
        training.make_loaders(inputs, 64, 32, torch.device("cpu"))
    assert ("--hyp data/hyps/hyp.muon-small.yaml" in caplog.text) == (name == "scratch-low")


def test_last_is_written_after_best(monkeypatch, tmp_path):
    """A kill between the files must repeat the epoch, so last.pt is the last one."""
    written = []
    monkeypatch.setattr(training, "to_checkpoint", lambda *_: {})
    monkeypatch.setattr(training, "save_checkpoint", lambda path, _: written.append(path.name))
    state = Namespace(best_saved=False, epoch=4, optimizer=None)
    plan = Namespace(save_dir=tmp_path, options=TrainOptions(save_period=2))
    training.save(state, plan, improved=False)
    assert written == ["best.pt", "epoch4.pt", "last.pt"]
    training.save(state, plan, improved=False)
    assert written[3:] == ["epoch4.pt", "last.pt"]


# Published weights ----------------------------------------------------------------------------------------------------

PAPER = TABLE | {
    "backbone": [
        [-1, 1, "PatchEmbed", [8, 4]],
        *[row for c in (8, 16, 32, 64) for row in ([-1, 1, "PatchMerging", [c]], [-1, 2, "SwinV2Stage", [c, 4, 1]])][
            1:
        ],
    ],
    "head": [[[3, 7], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a run that starts from a small file in torchvision's layout; the dataset is left out."""
    vision = swin_transformer.SwinTransformer(
        [4, 4], 8, [2] * 4, [1] * 4, [8, 8], num_classes=3,
        block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2,
    )  # fmt: skip
    torch.save(vision.state_dict(), tmp_path / "vision.pth")
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(PAPER))
    monkeypatch.setattr(training, "check_dataset", lambda data, needed, classes: {"nc": 2, "names": {0: "a", 1: "b"}})
    return TrainOptions(weights=str(tmp_path / "vision.pth"), cfg=str(tmp_path / "paper.yaml"))


def test_published_file_fills_the_backbone_of_the_named_model(options, tmp_path):
    inputs = training.read_inputs(options)
    assert inputs.ckpt is None
    model = training.build_model(inputs, tmp_path)
    state = torch.load(options.weights)
    assert torch.equal(model.model[5].blocks[1].mlp.fc2.weight, state["features.5.1.mlp.3.weight"])
    assert model.names == {0: "a", 1: "b"}
    with pytest.raises(ValueError, match=r"vision.pth: pass the model too, such as --cfg models/yolov5-swinv2t.yaml"):
        training.read_inputs(replace(options, cfg=""))


def test_name_of_published_weights_implies_its_model(options, monkeypatch):
    monkeypatch.setattr(training, "read_published", lambda name: name)
    inputs = training.read_inputs(TrainOptions(weights="swinv2_s"))
    assert inputs.published == "swinv2_s"
    assert Path(inputs.cfg).name == "yolov5-swinv2s.yaml"
    assert inputs.options.hyp.endswith("hyp.swinv2.yaml")
