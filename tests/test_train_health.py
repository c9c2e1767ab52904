"""Trainings whose numbers go wrong: what stops them, what the message shows, what is kept, and going back."""

import csv
import os
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml

import train
from engine.training import recovery
from engine.training import state as training
from engine.training.health import Diverged
from models.weights.checkpoint import load_checkpoint
from tests.waiting import HANG
from utils.callbacks import Callbacks
from utils.paths import ROOT

TABLE = {
    "nc": 4,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def settings(tmp_path, tiny_dataset):
    """Options of a run of three epochs of two batches and two steps; tmp_path/run is its folder."""
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(TABLE))
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump({"nominal_batch": 4, "warmup_epochs": 0.0, "lr0": 0.004}))
    return {
        "data": str(tiny_dataset), "cfg": str(tmp_path / "model.yaml"), "hyp": str(tmp_path / "hyp.yaml"),
        "weights": "", "imgsz": 64, "batch_size": 4, "epochs": 3, "workers": 0, "noplots": True,
        "project": str(tmp_path), "name": "run", "device": "cpu",
    }  # fmt: skip


def run(settings, event=None, callback=None):
    opt = train.parse_opt([])
    opt.given = list(settings)
    for key, value in settings.items():
        setattr(opt, key, value)
    callbacks = Callbacks()
    if event:
        callbacks.register(event, callback)
    return train.main(opt, callbacks)


def spoil_weights(at, value=float("nan")):
    """A callback that ruins a convolution's weights after iteration `at`, once."""
    seen = []

    def spoil(model, ni, **_):
        if ni == at and not seen:
            seen.append(ni)
            model.model[1].conv.weight.data.fill_(value)

    return spoil


def rows(folder):
    with (folder / "results.csv").open() as file:
        return [[float(cell) for cell in row[:-1]] for row in list(csv.reader(file))[1:]]  # without the time


def test_message_names_term_layer_weight_rate_and_checkpoint(settings, tmp_path):
    with pytest.raises(Diverged, match="the loss is not finite in epoch 1, batch 1: box nan") as error:
        run(settings, "on_train_batch_end", spoil_weights(2))
    text = str(error.value)
    assert "learning rate 0.00268" in text  # the second of three epochs: 0.004 * (2 / 3 * 0.99 + 0.01)
    assert "weights that are not finite: model.1.conv.weight" in text
    assert "layer 1 (Conv) is the first with output nan; its input reaches" in text
    last = tmp_path / "run/weights/last.pt"
    assert f"The last good checkpoint is kept: {last}" in text
    assert all(x.isfinite().all() for x in load_checkpoint(last)["model"].values())


def test_weights_ruined_by_the_last_step_never_reach_a_checkpoint(settings, tmp_path):
    with pytest.raises(Diverged, match=r"weights are not finite after epoch 1: model\.1\.conv\.weight"):
        run(settings, "on_train_batch_end", spoil_weights(3))
    ckpt = load_checkpoint(tmp_path / "run/weights/last.pt")
    assert ckpt["epoch"] == 0
    assert all(x.isfinite().all() for x in ckpt["ema"].values())


def test_gradients_are_named_apart_from_those_that_are_sound(settings, monkeypatch):
    plain = train.ComputeLoss.__call__

    def spoiled(self, preds, targets):
        loss, items = plain(self, preds, targets)
        return loss + (self.head.m[1].bias * 0).square().sum().sqrt(), items

    monkeypatch.setattr(train.ComputeLoss, "__call__", spoiled)
    with pytest.raises(Diverged, match=r"the gradient is not finite in epoch 0, batch 0: box 0\.\d+") as error:
        run(settings)
    assert "gradients that are not finite: model.3.m.1.bias; all layers are finite, largest" in str(error.value)
    assert "There is no checkpoint yet" in str(error.value)


def test_overflow_that_the_scaler_cannot_mend_stops_the_run(settings, monkeypatch):
    """A scaler on the CPU, which starts at 4, meets gradients that are infinite at any scale."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(training, "choose_amp", lambda *_: torch.float16)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, enabled=enabled, init_scale=4))
    plain = train.ComputeLoss.__call__

    def spoiled(self, preds, targets):
        loss, items = plain(self, preds, targets)
        return loss + (preds[0] * 0).square().sum().sqrt(), items

    monkeypatch.setattr(train.ComputeLoss, "__call__", spoiled)
    monkeypatch.setattr(train, "amp_context", lambda *_: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr(recovery, "amp_context", lambda *_: torch.autocast("cpu", enabled=False))
    with pytest.raises(Diverged, match=r"the scaler cannot correct it in epoch 1, batch 0.*gradient scale 0\.5"):
        run(settings)


def test_rate_that_diverges_is_told_before_numbers_end(settings, tmp_path):
    """The loss is finite in each of the batches, and grows tenfold from one to the next."""
    file = tmp_path / "hyp.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"lr0": 1.0, "clip_norm": float("inf")}))
    blow = lambda model, ni, **_: model.model[-1].m[0].bias.data.mul_(-30)  # noqa: E731
    with pytest.raises(Diverged, match=r"the loss diverges \(lowest mean so far: [\d.]+\) in epoch [12]"):
        run(settings, "on_train_batch_end", blow)


def test_labels_that_match_no_anchor_end_the_run_after_an_epoch(settings, tmp_path):
    table = TABLE | {"anchors": [[1, 1, 1, 1], [900, 900, 999, 999]]}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(ValueError, match=r"none of \d+ labels matched an anchor up to epoch 0.*\[900, 900\]"):
        run(settings | {"noautoanchor": True})


def test_epoch_of_backgrounds_is_told(settings, monkeypatch, caplog):
    monkeypatch.setattr(train.ComputeLoss, "__call__", _without_targets(train.ComputeLoss.__call__))
    run(settings | {"epochs": 1})
    assert "epoch 0 had no labels, only background images" in caplog.text


def _without_targets(plain):
    return lambda self, preds, targets: plain(self, preds, targets[:0])


# Rollback -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("at", "first", "origin"), [(0, 0, "start.pt"), (2, 1, "last.pt"), (3, 1, "last.pt")])
def test_rollback_repeats_the_epoch_at_half_the_rate(at, first, origin, settings, tmp_path, caplog):
    run(settings | {"nan_policy": "rollback"}, "on_train_batch_end", spoil_weights(at))
    folder = tmp_path / "run"
    assert f"{origin}, epoch {first} restarts with 0.5 of the learning rate (rollback 1 of at most 5)" in caplog.text
    assert [row[0] for row in rows(folder)] == [0, 1, 2]
    full = [0.004 * ((1 - e / 3) * 0.99 + 0.01) for e in range(3)]
    wanted = [rate if epoch < first else rate / 2 for epoch, rate in enumerate(full)]
    assert [row[-1] for row in rows(folder)] == pytest.approx(wanted)
    assert sorted(file.name for file in (folder / "weights").iterdir()) == ["best.pt", "last.pt"]
    assert all(x.isfinite().all() for x in load_checkpoint(folder / "weights/last.pt")["model"].values())


def test_rollbacks_are_bounded_and_counted_over_a_resume(settings, tmp_path):
    def always(model, ni, **_):
        if ni >= 2:
            model.model[1].conv.weight.data.fill_(float("nan"))

    def twice(model, ni, calls=[], **_):  # noqa: B006 - counts its calls
        calls.append(ni)
        if calls.count(2) == 3:
            raise KeyboardInterrupt
        always(model, ni)

    with pytest.raises(KeyboardInterrupt):
        run(settings | {"nan_policy": "rollback"}, "on_train_batch_end", twice)
    last = tmp_path / "run/weights/last.pt"
    assert load_checkpoint(last)["opt"]["rollbacks"] == 2
    seen = []

    def counting(model, ni, **_):
        seen.append(ni)
        always(model, ni)

    with pytest.raises(Diverged, match="The run has already been rolled back 5 times, which is the limit"):
        run({"resume": str(last)}, "on_train_batch_end", counting)
    assert seen.count(2) == 4  # rollbacks 3, 4 and 5, and the try that ends it
    assert load_checkpoint(last)["epoch"] == 0


RUINED = """
    import sys
    import train
    from utils.callbacks import Callbacks
    from utils.distributed import rank

    callbacks, seen = Callbacks(), []

    def spoil(model, ni, **_):
        if ni == 2 and rank() == 1 and not seen:  # in one process only
            seen.append(ni)
            model.model[1].conv.weight.data.fill_(float("nan"))

    callbacks.register("on_train_batch_end", spoil)
    train.main(train.parse_opt(sys.argv[1:]), callbacks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--shard-optimizer",)], ids=["replicated", "sharded"])
def test_two_processes_roll_back_together(flags, settings, tmp_path):
    script = tmp_path / "ruined.py"
    script.write_text(textwrap.dedent(RUINED))
    argv = [
        text
        for key, value in settings.items()
        if key != "noplots"
        for text in (f"--{key.replace('_', '-')}", str(value))
    ]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), *argv,
         "--noplots", "--nan-policy", "rollback", *flags],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1 restarts with 0.5 of the learning rate") == 1
    assert [row[0] for row in rows(tmp_path / "run")] == [0, 1, 2]
    assert all(x.isfinite().all() for x in load_checkpoint(tmp_path / "run/weights/last.pt")["model"].values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nan_policy": "hope"}, "allowed: stop, rollback"),
        ({"nan_policy": "rollback", "nosave": True}, "remove --nosave"),
    ],
)
def test_impossible_policies(changes, message, settings):
    with pytest.raises(ValueError, match=message):
        run(settings | changes)


# Memory ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (3, "in batch 0 with 4 images of 64 pixels: --batch-size 3 fits"),
        (1, "--batch-size 1 fits"),
        (0, "not even one"),
    ],
)
def test_batch_that_fits_is_suggested(limit, message, settings, monkeypatch):
    forward = training.DetectionModel.forward

    def limited(self, x, *args, **keywords):
        if self.training and len(x) > limit and x.shape[-1] == 64:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return forward(self, x, *args, **keywords)

    monkeypatch.setattr(training.DetectionModel, "forward", limited)
    with pytest.raises(ValueError, match=message):
        run(settings)
