"""The parts of a training's set-up that tests/test_train.py does not show one by one."""

from argparse import Namespace

import pytest
import torch

from models import training
from models.training import choose_amp, choose_hyp, freeze_layers, has_placeholder_anchors
from models.yolo import DetectionModel

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


@pytest.mark.parametrize("freeze", [[-1], [4], [0, 3]])
def test_freeze_refuses_rows_that_are_not_there(model, freeze):
    with pytest.raises(ValueError, match="the model has rows 0 to 2"):
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
    opt = Namespace(hyp="")
    choose_hyp(opt, {"backbone": [[-1, 1, "Conv", [8]], [-1, 1, module, [8]]]})
    assert opt.hyp.endswith(name)


def test_last_is_written_after_best(monkeypatch, tmp_path):
    """A kill between the files must repeat the epoch, so last.pt is the last one."""
    written = []
    monkeypatch.setattr(training, "to_checkpoint", lambda *_: {})
    monkeypatch.setattr(training, "save_checkpoint", lambda path, _: written.append(path.name))
    state = Namespace(best_saved=False, epoch=4, optimizer=None)
    plan = Namespace(save_dir=tmp_path, opt=Namespace(save_period=2))
    training.save(state, plan, improved=False)
    assert written == ["best.pt", "epoch4.pt", "last.pt"]
    training.save(state, plan, improved=False)
    assert written[3:] == ["epoch4.pt", "last.pt"]
