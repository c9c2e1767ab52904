"""train.py as a user runs it, at tiny size: files, resuming after kill -9, seeds, options that cannot work."""

import argparse
import csv
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml

import train
import val
from models.experimental import attempt_load
from models.weights.checkpoint import load_checkpoint, save_checkpoint, strip_optimizer
from tests.stops import stopping
from utils.callbacks import Callbacks
from utils.files import yaml_load
from utils.loggers.to_csv import RESULT_COLUMNS
from utils.options.train import parse_opt
from utils.paths import ROOT, command

EPOCHS = 3  # of two batches
TINY = {"imgsz": 64, "batch_size": 4, "workers": 0, "weights": ""}
MODEL = """
nc: 4
depth_multiple: 1.0
width_multiple: 0.25
anchors: [[10, 13, 16, 30], [30, 61, 62, 45]]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, C3SwinV2, [64, 4]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 2, C3SwinV2, [128, 4]] # P3
head:
  - [-1, 1, Conv, [128, 3, 2]] # P4
  - [[4, 5], 1, Detect, [nc, anchors]]
"""


@pytest.fixture(scope="module")
def hyp_file(tmp_path_factory):
    """Swin settings with drop path and steps of one batch, then two, so that every random state matters."""
    values = yaml.safe_load((ROOT / "data/hyps/hyp.swinv2.yaml").read_text())
    values |= {"drop_path": 0.2, "nominal_batch": 64, "mixup": 0.5, "warmup_epochs": 1.0}  # two from iteration 4 on
    values |= {"ema_decay": 0, "ema_tau": 0, "close_mosaic": 1, "warmup_min": 100}
    file = tmp_path_factory.mktemp("hyp") / "tiny.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


@pytest.fixture(scope="module", autouse=True)
def _tiny_model(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny-swinv2.yaml"
    file.write_text(MODEL)
    TINY["cfg"] = str(file)


def options(tmp_path, data, hyp, **changes):
    return TINY | {"data": str(data), "hyp": hyp, "project": str(tmp_path), "name": "run", "noplots": True} | changes


def rows(folder):
    """The cells of results.csv but for the time."""
    with (folder / "results.csv").open() as file:
        return [[cell.strip() for cell in row[:-1]] for row in csv.reader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_dataset, hyp_file):
    """One undisturbed run of three epochs with plots; (folder, results)."""
    tmp_path = tmp_path_factory.mktemp("finished")
    results = train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=EPOCHS, noplots=False))
    return tmp_path / "run", results


def test_run_folder_holds_what_the_readme_promises(finished):
    folder, _ = finished
    files = {path.name for path in folder.iterdir()}
    assert {"hyp.yaml", "opt.yaml", "results.csv", "results.png", "labels.jpg", "labels_correlogram.jpg"} <= files
    assert {"train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "confusion_matrix.png"} <= files
    assert {"PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"} <= files
    assert load_checkpoint(folder / "weights/best.pt")["thresholds"] == yaml_load(folder / "thresholds.yaml")
    assert load_checkpoint(folder / "weights/last.pt")["thresholds"] is None
    assert any(name.startswith("events.out.tfevents") for name in files)
    header, *body = rows(folder)
    assert header == list(RESULT_COLUMNS)
    assert [row[0] for row in body] == ["0", "1", "2"]


def test_tensorboard_shows_pictures_curves_graph_and_settings(finished):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(finished[0]), size_guidance={"images": 0})
    events.Reload()
    assert {"train/box_loss", "metrics/mAP_0.5", "x/lr0"} <= set(events.Tags()["scalars"])
    steps = {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps["train_batch0"] == steps["labels"] == [0]
    assert steps["val_batch0_pred"] == steps["confusion_matrix"] == steps["results"] == [2]
    assert "PR/all classes" in events.Tags()["tensors"]
    assert any("C3SwinV2" in node.name for node in events.Graph().node)
    assert "hyp/lr0" in str(events.SummaryMetadata("_hparams_/session_start_info"))


def test_checkpoints_load_without_running_code_and_are_stripped(finished):
    folder, _ = finished
    for name in ("last.pt", "best.pt"):
        ckpt = torch.load(folder / "weights" / name, weights_only=True)
        assert (ckpt["epoch"] == -1) == (ckpt["optimizer"] is None) == (name == "best.pt")  # last.pt may go on
        assert ckpt["yaml"]["nc"] == 4
        assert all(tensor.isfinite().all() for tensor in ckpt["model"].values())


def test_val_prints_what_training_printed_last(finished, tiny_dataset, tmp_path):
    folder, results = finished
    again, _, _ = val.run(
        str(tiny_dataset), weights=folder / "weights/best.pt", imgsz=64, batch_size=8, workers=0, project=tmp_path
    )
    assert again[:4] == results[:4]


def test_a_finished_run_takes_more_epochs(finished, tiny_dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger="yolov5")
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    last = folder / "weights/last.pt"
    before, best = rows(folder), (folder / "weights/best.pt").read_bytes()
    for epochs in ({}, {"epochs": 3}):
        with pytest.raises(ValueError, match=r"has finished its 3 epochs; for more of them: .*last.pt --epochs \+20"):
            train.run(resume=str(last), **epochs)
    assert (rows(folder), (folder / "weights/best.pt").read_bytes()) == (before, best)
    train.run(resume=str(last), epochs="+1")
    assert "3 epochs are done, 1 more: the learning rate is that of a run of 4 epochs" in caplog.text
    assert rows(folder)[:4] == before
    assert [row[0] for row in rows(folder)[1:]] == ["0", "1", "2", "3"]
    assert yaml_load(folder / "opt.yaml")["epochs"] == load_checkpoint(last)["opt"]["epochs"] == 4
    with pytest.raises(ValueError, match="has finished its 4 epochs"):
        train.run(resume=str(last))
    save_checkpoint(last, load_checkpoint(last) | {"epoch": 1})  # as if it had stopped early
    with pytest.raises(ValueError, match=r"has stopped early after 2 epochs; for more of them: .* --epochs \+20"):
        train.run(resume=str(last))
    strip_optimizer(last)
    with pytest.raises(ValueError, match="its state was stripped, so there is nothing to resume"):
        train.run(resume=str(last), epochs="+1")


KILLED = """
    import os, signal, sys
    import train
    from utils.callbacks import Callbacks

    callbacks = Callbacks()

    def die(ni, **_):
        if ni == {ni}:
            os.kill(os.getpid(), signal.SIGKILL)

    callbacks.register("on_train_batch_end", die)
    opt = train.parse_opt({argv!r})
    train.main(opt, callbacks)
"""


def as_argv(values):
    flags = [f"--{key.replace('_', '-')}" for key, value in values.items() if value is True]
    return flags + [
        text
        for key, value in values.items()
        if value is not True
        for text in (f"--{key.replace('_', '-')}", str(value))
    ]


@pytest.mark.slow
def test_resume_after_kill_9_is_bit_for_bit(finished, tiny_dataset, hyp_file, tmp_path):
    folder, _ = finished
    argv = as_argv(options(tmp_path, tiny_dataset, hyp_file, epochs=EPOCHS))
    code = textwrap.dedent(KILLED.format(ni=5, argv=argv))  # two batches an epoch: in the middle of the third epoch
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not set(done.stdout + done.stderr) & {"\r", "\x1b"}  # plain text where there is no terminal
    last = tmp_path / "run/weights/last.pt"
    assert load_checkpoint(last)["epoch"] == 1
    train.run(resume=str(last))
    ours, reference = load_checkpoint(last), load_checkpoint(folder / "weights/last.pt")
    assert ours["model"].keys() == reference["model"].keys()
    different = [name for name, tensor in ours["model"].items() if not torch.equal(tensor, reference["model"][name])]
    assert different == []
    assert rows(tmp_path / "run") == rows(folder)


@pytest.mark.parametrize(
    ("event", "moment", "number", "error"),
    [
        ("on_train_batch_end", {"ni": 0}, signal.SIGTERM, SystemExit),  # before the first checkpoint
        ("on_train_batch_end", {"ni": 4}, signal.SIGINT, KeyboardInterrupt),  # gradients without a step yet
        ("on_train_epoch_end", {"epoch": 1}, signal.SIGTERM, SystemExit),  # in the validation
        ("on_model_save", {"epoch": 2}, signal.SIGTERM, SystemExit),  # nothing left but the end
    ],
    ids=["first batch", "half a step", "validation", "last save"],
)
def test_signal_saves_and_resume_is_bit_for_bit(
    finished, tiny_dataset, hyp_file, tmp_path, caplog, event, moment, number, error
):
    folder, _ = finished
    opt = train.parse_opt(as_argv(options(tmp_path, tiny_dataset, hyp_file, epochs=EPOCHS)))
    with pytest.raises(error):
        train.main(opt, stopping(event, number, **moment))
    last = tmp_path / "run/weights/last.pt"
    assert f"{number.name} stopped the training run. " in caplog.text
    assert f"Continue with: {command('python', 'train.py', '--resume', last)}" in caplog.text
    stopped = load_checkpoint(last)
    if moment == {"ni": 4}:
        assert (stopped["epoch"], stopped["progress"]["batch"]) == (1, 1)
        assert stopped["progress"]["grads"]
    train.run(resume=str(last))
    for name in ("last.pt", "best.pt"):
        ours, reference = (load_checkpoint(run / "weights" / name)["model"] for run in (tmp_path / "run", folder))
        assert [key for key in reference if not torch.equal(ours[key], reference[key])] == []
    assert rows(tmp_path / "run") == rows(folder)


def test_full_disk_keeps_the_last_epoch_and_says_how_to_go_on(finished, tiny_dataset, hyp_file, tmp_path, caplog):
    """From the third epoch on, no file may become as large as a checkpoint."""
    folder, _ = finished
    callbacks = Callbacks()
    size = resource.RLIMIT_FSIZE
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(size)

    def fill(epoch):
        if epoch == 2:
            resource.setrlimit(size, (20_000, limits[1]))

    callbacks.register("on_train_epoch_end", fill)
    try:
        with pytest.raises(OSError, match="checkpoint not written: File too large. The previous file is complete"):
            train.main(train.parse_opt(as_argv(options(tmp_path, tiny_dataset, hyp_file, epochs=EPOCHS))), callbacks)
    finally:
        resource.setrlimit(size, limits)
        signal.signal(signal.SIGXFSZ, handler)
    last = tmp_path / "run/weights/last.pt"
    line = command("python", "train.py", "--resume", last)
    assert f"The last good checkpoint is complete. Continue with: {line}" in caplog.text
    assert load_checkpoint(last)["epoch"] == 1
    train.run(resume=str(last))
    ours, reference = load_checkpoint(last)["model"], load_checkpoint(folder / "weights/last.pt")["model"]
    assert [key for key in reference if not torch.equal(ours[key], reference[key])] == []


@pytest.mark.parametrize("better", [False, True])
def test_the_start_is_best_until_an_epoch_beats_it(
    finished, tiny_dataset, hyp_file, tmp_path, monkeypatch, caplog, better
):
    weights, scores = finished[0] / "weights/best.pt", [0.5, 0.6 if better else 0.4]
    monkeypatch.setattr(train, "evaluate", lambda *_: ((*[scores.pop(0)] * 4, 0.0, 0.0, 0.0), None))
    with caplog.at_level("INFO"):
        train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, cfg="", weights=str(weights), strip=True))
    files = (tmp_path / "run/weights/best.pt", tmp_path / "run/weights/last.pt", weights)
    best, last, start = (load_checkpoint(file)["model"] for file in files)
    expected = last if better else start
    assert all(torch.equal(value, expected[key]) for key, value in best.items())
    assert len(rows(tmp_path / "run")) == 2  # the start has no row
    assert "start: mAP50 0.5, mAP50-95 0.5; best.pt until an epoch is better" in caplog.text
    assert ("No epoch was better than the weights that the run started from" in caplog.text) != better


def test_training_goes_on_from_weights_with_other_classes(finished, tiny_dataset, hyp_file, tmp_path, caplog):
    folder, _ = finished
    weights = str(folder / "weights/best.pt")
    train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, cfg="", weights=weights, single_cls=True))
    assert load_checkpoint(tmp_path / "run/weights/last.pt")["names"] == {0: "item"}


def test_loss_that_is_not_finite_stops_the_run(tiny_dataset, hyp_file, tmp_path):
    callbacks = Callbacks()

    def spoil(model, ni, **_):
        next(model.parameters()).data.fill_(float("nan"))

    callbacks.register("on_train_batch_end", spoil)
    opt = train.parse_opt(as_argv(options(tmp_path, tiny_dataset, hyp_file, epochs=2)))
    with pytest.raises(ValueError, match=r"the loss is not finite in epoch 0, batch 1: box nan.*learning rate"):
        train.main(opt, callbacks)


def test_gradient_that_is_not_finite_is_not_stepped(tiny_dataset, hyp_file, tmp_path, monkeypatch):
    """The loss is finite, its gradient is not: sqrt at 0."""
    plain = train.ComputeLoss.__call__

    def spoiled(self, preds, targets):
        loss, items = plain(self, preds, targets)
        return loss + (preds[0] * 0).square().sum().sqrt(), items

    monkeypatch.setattr(train.ComputeLoss, "__call__", spoiled)
    with pytest.raises(ValueError, match="the gradient is not finite in epoch 0"):
        train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1))
    assert not (tmp_path / "run/weights/last.pt").exists()


def test_run_killed_while_it_finishes_is_finished_by_resume(finished, tiny_dataset, hyp_file, tmp_path, monkeypatch):
    _, results = finished

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=EPOCHS))
    before = rows(tmp_path / "run")
    assert train.run(resume=str(tmp_path / "run/weights/last.pt")) == results
    assert rows(tmp_path / "run") == before


def test_refused_inputs_leave_no_folder_and_no_change(finished, tiny_dataset, hyp_file, tmp_path):
    folder, _ = finished
    before = (folder / "opt.yaml").read_text()
    with pytest.raises(ValueError, match="has finished its 3 epochs"):
        train.run(resume=str(folder / "weights/last.pt"), epochs=3)
    assert (folder / "opt.yaml").read_text() == before
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        train.run(**options(tmp_path, "nowhere.yaml", hyp_file, epochs=1))
    assert not (tmp_path / "run").exists()


def test_failed_starts_leave_no_folder(finished, tiny_dataset, hyp_file, tmp_path):
    """Though what was transferred from the weights, and the settings, were in it already."""
    weights = str(finished[0] / "weights/best.pt")
    with pytest.raises(ValueError, match="--freeze 99"):
        train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, weights=weights, freeze=[99]))
    callbacks = Callbacks()
    callbacks.register("on_train_start", lambda: 1 / 0)
    settings = options(tmp_path, tiny_dataset, hyp_file, epochs=1, noplots=False)
    with pytest.raises(ZeroDivisionError):
        train.main(argparse.Namespace(**settings), callbacks)
    assert list(tmp_path.iterdir()) == []


def test_commands_of_an_evolution_name_files_that_stay(tiny_dataset, hyp_file, tmp_path):
    """Its trainings leave no folder; what goes on is the evolution, or a training with its best values."""
    settings = options(tmp_path, tiny_dataset, hyp_file, epochs=1, evolve=2, noval=True, nosave=True, resume=False)
    new = train.evolution_command(train.TrainOptions(**settings), tmp_path).split()
    assert {"--evolve", "--project", "--name", "--data"} <= set(new)
    (tmp_path / "evolve.csv").touch()
    on = train.evolution_command(train.TrainOptions(**settings), tmp_path).split()
    assert on[on.index("--resume_evolve") + 1] == str(tmp_path)
    assert not {"--project", "--name", "--noval", "--nosave", "--noplots", "--resume"} & set(on)
    assert vars(parse_opt(on[2:]))["evolve"] == 2


def test_placeholder_anchors_are_refused_without_autoanchor(tiny_dataset, hyp_file, tmp_path):
    table = yaml.safe_load(MODEL) | {"anchors": 2}
    cfg = tmp_path / "placeholder.yaml"
    cfg.write_text(yaml.safe_dump(table))
    with pytest.raises(ValueError, match="only placeholders for anchors"):
        train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, cfg=str(cfg), noautoanchor=True))
    train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, cfg=str(cfg), exist_ok=True))
    weights = str(tmp_path / "run/weights/best.pt")
    train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, cfg="", weights=weights, name="tuned", strip=True))
    anchors = [
        load_checkpoint(tmp_path / name / "weights/last.pt")["model"]["model.6.anchors"] for name in ("run", "tuned")
    ]
    assert torch.equal(*anchors)
    assert load_checkpoint(tmp_path / "tuned/weights/last.pt")["optimizer"] is None


def test_callback_can_stop_a_run(tiny_dataset, hyp_file, tmp_path):
    callbacks = Callbacks()
    seen = []

    def stop(ni, **_):
        seen.append(ni)
        callbacks.stop_training = True

    callbacks.register("on_train_batch_end", stop)
    callbacks.register("on_val_end", lambda: seen.append("validated"))
    callbacks.register("on_fit_epoch_end", lambda vals, fi, **_: seen.append(vals[4] == fi))
    callbacks.register("teardown", lambda: seen.append("closed"))
    settings = options(tmp_path, tiny_dataset, hyp_file, epochs=3, metric="recall")
    train.main(train.parse_opt(as_argv(settings)), callbacks)
    # the averaged model, the recall that its epoch is judged by, then best.pt
    assert seen == [0, "validated", True, "validated", "closed"]


def test_frozen_rows_do_not_move(tiny_dataset, hyp_file, tmp_path):
    seen = []
    callbacks = Callbacks()
    callbacks.register(
        "on_train_batch_end",
        lambda model, **_: seen.append(
            {k: v.clone() for k, v in model.state_dict().items() if k.startswith("model.0.")}
        ),
    )
    opt = train.parse_opt(as_argv(options(tmp_path, tiny_dataset, hyp_file, epochs=2, freeze=1, noval=True)))
    train.main(opt, callbacks)
    assert all(torch.equal(value, seen[-1][key]) for key, value in seen[0].items())
    assert "model.0.bn.running_mean" in seen[0]


def test_batch_statistics_of_the_weights_are_kept(finished, tiny_dataset, hyp_file, tmp_path):
    weights, states, callbacks = str(finished[0] / "weights/best.pt"), [], Callbacks()
    callbacks.register(
        "on_train_batch_end", lambda model, **_: states.append({k: v.clone() for k, v in model.state_dict().items()})
    )
    settings = options(tmp_path, tiny_dataset, hyp_file, epochs=2, cfg="", weights=weights, freeze_bn=True, noval=True)
    train.main(argparse.Namespace(**settings), callbacks)
    stored, last = load_checkpoint(weights)["model"], states[-1]
    statistics = [name for name in last if "running_" in name]
    assert statistics
    assert all(torch.equal(last[name], stored[name].float()) for name in statistics)
    assert not torch.equal(last["model.0.conv.weight"], states[0]["model.0.conv.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cfg": "models/yolov5q.yaml"}, "yolov5q.yaml: file not found"),
        ({"weights": "nowhere.pt"}, "--weights nowhere.pt: no such file"),
        ({"epochs": 0}, "--epochs is 0, but must be at least 1"),
        ({"epochs": "+2"}, r"--epochs \+2 adds to the epochs of a run: name it with --resume"),
        ({"amp": "fp16", "device": "cpu"}, "--amp fp16 needs a CUDA device"),
        ({"freeze": 99}, "--freeze 99: the model has layers 0 to 6"),
        ({"freeze": -1}, "--freeze -1"),
        ({"device": "0,1"}, "one process uses one device.*torchrun --nproc-per-node 2"),
        ({"shard_optimizer": True}, "--shard-optimizer needs several processes"),
        ({"sync_bn": True}, "--sync-bn needs several processes"),
        ({"metric": "circle:app"}, "--metric circle:app is none of fitness"),
        ({"evolve": 2, "metric": "f1"}, "--metric chooses the best epoch of one run"),
        ({"freeze_bn": True}, "--freeze-bn keeps the batch statistics of the detector named by --weights"),
        ({"label_smoothing": 1.5}, "--label-smoothing is 1.5"),
        ({"classes": "circel"}, r"--classes with .*tiny.yaml: no class 'circel'. Did you mean 'circle'"),
        ({"cache_dir": "x"}, "--cache-dir x is for images on disk: add --cache disk"),
        ({"cache": "disk", "cache_dir": __file__}, "test_train.py is a file, not a folder"),
    ],
)
def test_impossible_options_are_refused(changes, message, tiny_dataset, hyp_file, tmp_path):
    argv = as_argv(options(tmp_path, tiny_dataset, hyp_file, epochs=1) | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train.main(train.parse_opt(argv))


def test_command_line_ends_without_traceback(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "nowhere.yaml", "--project", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert end.value.code == 1
    assert "nowhere.yaml: file not found" in caplog.text
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "changes",
    [{"amp": "bf16"}, {"multi_scale": True}, {"rect": True}, {"activation_checkpointing": True}, {"quad": True}],
)
def test_ways_of_training_run(changes, tiny_dataset, hyp_file, tmp_path):
    results = train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, **changes))
    assert len(results) == 7
    assert all(value == value for value in results)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["quad", "image_weights", "cos_lr", "multi_scale", "rect"])
def test_option_trains_and_repeats(flag, tiny_dataset, hyp_file, tmp_path):
    changes = {"epochs": 2, flag: True}
    results = [
        train.run(**options(tmp_path, tiny_dataset, hyp_file, **changes, name=name))[4:] for name in ("one", "two")
    ]
    assert results[0] == results[1]
    assert all(0 < value < 10 for value in results[0])
    assert len(rows(tmp_path / "one")) == 3


@pytest.mark.slow
def test_evolution_trains_generations_and_goes_on(tiny_dataset, hyp_file, tmp_path):
    settings = options(tmp_path, tiny_dataset, hyp_file, epochs=1)
    train.run(**settings, evolve=1)
    folder = tmp_path / "run"
    (folder / "training").mkdir()
    (folder / "training/mine.txt").write_text("keep")
    train.run(**settings, evolve=2, resume=True)
    files = ["evolve.csv", "evolve.png", "hyp_evolve.yaml", "training"]
    assert sorted(file.name for file in folder.iterdir()) == files
    assert (folder / "training/mine.txt").read_text() == "keep"  # a folder that was there before is not touched
    header, first, second = [line.split(",") for line in (folder / "evolve.csv").read_text().splitlines()]
    assert [cell.strip() for cell in header[:4]] == list(RESULT_COLUMNS[4:8])
    assert first[7:] != second[7:]
    train.run(**settings | {"hyp": str(folder / "hyp_evolve.yaml"), "name": "after"})


@pytest.mark.slow
def test_evolution_by_optuna_goes_on_by_its_folder(tiny_dataset, hyp_file, tmp_path):
    pytest.importorskip("optuna")
    settings = options(tmp_path, tiny_dataset, hyp_file, epochs=1, tuner="optuna")
    train.run(**settings, evolve=1)
    train.run(**settings | {"name": "other"}, evolve=2, resume_evolve=str(tmp_path / "run/evolve.csv"))
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert files == {"evolve.csv", "evolve.png", "hyp_evolve.yaml", "study.db"}
    assert len((tmp_path / "run/evolve.csv").read_text().splitlines()) == 3
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuner": "optuna"}, "add --evolve N"),
        ({"evolve": 1, "storage": "sqlite:///x.db"}, "--storage sqlite:///x.db is for --tuner optuna"),
        ({"resume_evolve": "nowhere"}, "--resume_evolve nowhere: not the folder of an evolution"),
        ({"evolve": 1, "evolve_population": "nowhere"}, "--evolve_population nowhere"),
    ],
)
def test_evolution_refuses_what_cannot_work(changes, message, tiny_dataset, hyp_file, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, **changes))


def test_windows_and_stages_are_chosen_by_option(tiny_dataset, hyp_file, tmp_path):
    train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, window=[2, 8], checkpoint_stages=[2]))
    ckpt = load_checkpoint(tmp_path / "run/weights/last.pt")
    windows = [row[3][1] for row in ckpt["yaml"]["backbone"] if row[2] == "C3SwinV2"]
    assert windows == [[2, 2], [8, 8]]
    other = attempt_load(tmp_path / "run/weights/last.pt", window=4)
    assert [stage.window for stage in other.swin_stages] == [(4, 4), (4, 4)]
    with pytest.raises(ValueError, match="no Swin stage 3"):
        train.run(**options(tmp_path, tiny_dataset, hyp_file, epochs=1, checkpoint_stages=[3]))
