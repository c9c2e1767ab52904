"""results.csv, TensorBoard, and the object that feeds both."""

import builtins
import logging
import math
import os
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from tests.waiting import wait_for_next_second
from utils.callbacks import Callbacks
from utils.general import methods
from utils.loggers import GenericLogger, Loggers
from utils.loggers.run_logs import RunLogs
from utils.loggers.to_csv import RESULT_COLUMNS, ClassTable, CsvLogger
from utils.loggers.to_tensorboard import TensorBoardLogger
from utils.metrics import ApResult
from utils.plots import plot_results

VALUES = dict(zip(RESULT_COLUMNS[1:], [0.123456789, *range(2, 12), 0.01, 1e-7], strict=True))


def tags(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


# CSV


def test_columns_have_their_known_names_and_order():
    assert ", ".join(RESULT_COLUMNS) == (
        "epoch, train/box_loss, train/obj_loss, train/cls_loss, metrics/precision, metrics/recall, metrics/mAP_0.5, "
        "metrics/mAP_0.5:0.95, val/box_loss, val/obj_loss, val/cls_loss, x/lr0, x/lr1, x/lr2"
    )


def test_cells_are_twenty_wide_with_five_digits(tmp_path):
    CsvLogger(tmp_path / "results.csv").write(7, VALUES)
    header, row = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    for line in (header, row):
        assert [len(cell) for cell in line.split(",")] == [20] * 15
    assert header.startswith("               epoch,      train/box_loss")
    assert row.startswith("                   7,             0.12346,                   2,")
    assert row[:-21].endswith("               1e-07")
    assert header.endswith(",                time")


def test_csv_reads_back_with_pandas(tmp_path):
    log = CsvLogger(tmp_path / "results.csv")
    for epoch in range(3):
        log.write(epoch, VALUES | {"metrics/recall": math.nan})
    table = pd.read_csv(tmp_path / "results.csv", skipinitialspace=True)
    assert list(table.columns) == [*RESULT_COLUMNS, "time"]
    assert list(table["epoch"]) == [0, 1, 2]
    assert table["metrics/recall"].isna().all()
    assert table["x/lr2"][1] == 1e-7


def test_the_time_goes_on_in_a_resumed_run(tmp_path, monkeypatch):
    """An hour's pause between the two starts does not count, and neither does the epoch that is repeated."""
    now = [100.0]
    monkeypatch.setattr("utils.loggers.to_csv.time.monotonic", lambda: now[0])
    for first, start in ((0, 100.0), (2, 5000.0)):
        now[0] = start
        log = CsvLogger(tmp_path / "results.csv", extra=("train/dis_loss",))
        log.truncate(first)
        for epoch in range(first, 3):
            now[0] += 10
            log.write(epoch, VALUES | {"train/dis_loss": 1})
    table = pd.read_csv(tmp_path / "results.csv", skipinitialspace=True)
    assert list(table.columns) == [*RESULT_COLUMNS, "train/dis_loss", "time"]
    assert list(table["time"]) == [10, 20, 30]


def test_rows_from_before_the_time_was_written_get_nan(tmp_path):
    file = tmp_path / "results.csv"
    old = [RESULT_COLUMNS, range(14), range(1, 15)]
    file.write_text("".join(",".join(f"{cell:>20}" for cell in row) + "\n" for row in old) + "   2,  3")
    log = CsvLogger(file)
    log.truncate(2)
    log.write(2, VALUES)
    table = pd.read_csv(file, skipinitialspace=True)
    assert list(table.columns) == [*RESULT_COLUMNS, "time"]
    assert [list(row) for row in table.to_numpy()[:2, :14]] == [list(range(14)), list(range(1, 15))]
    assert table["time"].isna().tolist() == [True, True, False]
    plot_results(file)


def test_csv_goes_on_in_an_existing_file(tmp_path):
    CsvLogger(tmp_path / "results.csv").write(0, VALUES)
    CsvLogger(tmp_path / "results.csv").write(1, VALUES)
    assert len((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_truncate_drops_later_rows_and_torn_ones(tmp_path):
    log = CsvLogger(tmp_path / "results.csv")
    log.truncate(0)  # no file yet
    assert not log.path.exists()
    for epoch in range(4):
        log.write(epoch, VALUES)
    before = log.path.read_text(encoding="utf-8").splitlines()
    with log.path.open("a", encoding="utf-8") as file:
        file.write("                   4,    0.1")  # a crash in the middle of a row
    log.truncate(2)
    assert log.path.read_text(encoding="utf-8").splitlines() == before[:3]
    log.write(2, VALUES)
    again = log.path.read_text(encoding="utf-8").splitlines()
    assert [line[:-20] for line in again] == [line[:-20] for line in before[:4]]  # but for the time
    log.truncate(0)
    assert log.path.read_text(encoding="utf-8").splitlines() == before[:1]


def test_epoch_that_is_not_a_number_is_named_with_its_line(tmp_path):
    log = CsvLogger(tmp_path / "results.csv")
    for epoch in range(3):
        log.write(epoch, VALUES)
    lines = log.path.read_text(encoding="utf-8").splitlines()
    log.path.write_text("\n".join([*lines[:2], lines[2].replace(" 1,", " one,", 1), lines[3]]), encoding="utf-8")
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match=r"results\.csv:3: 'one' is not a number; correct or"):
        log.truncate(2)
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("values", [{}, VALUES | {"extra": 1}, {k: v for k, v in VALUES.items() if k != "x/lr0"}])
def test_csv_wants_every_column(tmp_path, values):
    with pytest.raises(ValueError, match="expected a value for each of"):
        CsvLogger(tmp_path / "results.csv").write(0, values)
    assert not (tmp_path / "results.csv").exists()


def test_csv_does_not_touch_a_foreign_file(tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    log = CsvLogger(tmp_path / "results.csv")
    for action in (lambda: log.write(0, VALUES), lambda: log.truncate(0)):
        with pytest.raises(ValueError, match="its columns differ"):
            action()
    assert (tmp_path / "results.csv").read_text(encoding="utf-8") == "a,b\n1,2\n"


# TensorBoard


def test_tensorboard_stores_curves_pictures_and_texts(tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    log = TensorBoardLogger(tmp_path / "events")
    assert log.active
    for step in range(3):
        log.scalars({"a": step / 2, "b": math.nan if step == 1 else np.float32(step)}, step)
    log.image("picture", tmp_path / "a.png", 2)
    log.text("note", "hello", 2)
    log.close()
    log.close()
    events = tags(tmp_path / "events")
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert [e.step for e in events.Scalars("b")] == [0, 2]
    (tmp_path / "b.png").write_bytes(events.Images("picture")[0].encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), picture)
    assert "note/text_summary" in events.Tags()["tensors"]


def test_tensorboard_forgets_what_a_resumed_run_draws_anew(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for first, value in ((0, 0.0), (2, 1.0)):  # killed in epoch 4, resumed at 2
        log = TensorBoardLogger(tmp_path)
        if first:
            log.truncate(first)
        for step in range(first, 5):
            log.scalars({"a": value}, step)
            log.image("picture", tmp_path / "a.png", step)
        log.close()
    assert [(e.step, e.value) for e in tags(tmp_path).Scalars("a")] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)]
    assert [e.step for e in tags(tmp_path).Images("picture")] == [0, 1, 2, 3, 4]


def test_tensorboard_can_be_truncated_while_it_is_open(tmp_path):
    log = TensorBoardLogger(tmp_path)
    for value in (0.0, 1.0):
        log.scalars({"a": value}, 0)
        log.scalars({"a": value}, 1)
        log.truncate(1)
    log.truncate(0)
    log.scalars({"a": 5.0}, 0)
    log.close()
    assert [(e.step, e.value) for e in tags(tmp_path).Scalars("a")] == [(0, 5.0)]


def test_tensorboard_begins_its_file_with_the_first_entry(tmp_path):
    log = TensorBoardLogger(tmp_path / "events")
    assert log.active
    assert not (tmp_path / "events").exists()
    log.close()
    assert not log.active
    log.scalars({"a": 1.0}, 0)
    assert not (tmp_path / "events").exists()


def test_tensorboard_names_a_picture_it_cannot_read(tmp_path):
    log = TensorBoardLogger(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.png"):
        log.image("picture", tmp_path / "none.png", 0)
    log.close()


def test_without_the_package_one_warning_and_no_events(tmp_path, monkeypatch, caplog):
    real_import = builtins.__import__

    def without_tensorboard(name, *args, **kwargs):
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tensorboard)
    log = TensorBoardLogger(tmp_path)
    log.scalars({"a": 1.0}, 0)
    log.image("a", tmp_path / "none.png", 0)
    log.text("a", "b", 0)
    log.close()
    assert not log.active
    assert len(caplog.messages) == 1
    assert "pip install tensorboard" in caplog.messages[0]
    assert list(tmp_path.iterdir()) == []


# Both


def test_a_run_of_two_epochs_reaches_both_logs(tmp_path):
    callbacks = Callbacks()
    RunLogs(tmp_path).register(callbacks)
    for epoch in range(2):
        vals = [epoch + i / 100 for i in range(13)]
        callbacks.run("on_fit_epoch_end", vals=vals, epoch=epoch, best_fitness=0.5, fi=0.25 * epoch)
    Image.new("RGB", (4, 4)).save(tmp_path / "results.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "labels.jpg")
    callbacks.run("on_train_end", last=tmp_path / "last.pt", best=tmp_path / "best.pt", epoch=1, results=[0.1] * 7)
    callbacks.run("teardown")
    table = pd.read_csv(tmp_path / "results.csv", skipinitialspace=True)
    assert table.iloc[1, :-1].tolist() == pytest.approx([1, *(1 + i / 100 for i in range(13))])
    events = tags(tmp_path)
    assert set(events.Tags()["scalars"]) == {*RESULT_COLUMNS[1:], "fitness/epoch", "fitness/best"}
    assert events.Scalars("x/lr2")[1].value == pytest.approx(1.12)
    assert set(events.Tags()["images"]) == {"results", "labels"}


def test_a_program_or_a_damaged_image_in_the_run_folder_is_only_a_warning(tmp_path, caplog, monkeypatch):
    pytest.importorskip("torch.utils.tensorboard")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript runs it"))
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(program)
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes().replace(b"IDAT", b"\0\0\0\0"))
    logs = RunLogs(tmp_path, csv=False)
    logs.on_train_epoch_end(0)
    logs.close()
    for name in ("a.png", "b.png"):
        assert f"{name}: not shown in the logs of the run" in caplog.text


def test_images_of_others_in_the_run_folder_are_not_sent(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "run/ours.png")
    (tmp_path / "run/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "run/text.png").write_text("no image")
    os.mkfifo(tmp_path / "run/pipe.png")
    loggers = RunLogs(tmp_path / "run")
    loggers.on_train_epoch_end(0)
    loggers.close()
    assert tags(tmp_path / "run").Tags()["images"] == ["ours"]
    warned = [text.partition(": ")[0] for text in caplog.messages if "not shown" in text]
    assert warned == [str(tmp_path / "run" / name) for name in ("link.png", "pipe.png", "text.png")]


def test_logs_can_be_switched_off(tmp_path):
    callbacks = Callbacks()
    loggers = RunLogs(tmp_path, csv=False, tensorboard=False)
    loggers.register(callbacks)
    loggers.truncate(0)
    callbacks.run("on_fit_epoch_end", vals=range(13), epoch=0, best_fitness=0.0, fi=0.0)
    callbacks.run("on_train_end", last=tmp_path, best=tmp_path, epoch=0, results=[0.0] * 7)
    assert list(tmp_path.iterdir()) == []


def test_truncate_before_a_resumed_run(tmp_path):
    log = CsvLogger(tmp_path / "results.csv")
    for epoch in range(3):
        log.write(epoch, VALUES)
    RunLogs(tmp_path, tensorboard=False).truncate(1)
    assert len(log.path.read_text(encoding="utf-8").splitlines()) == 2


def test_a_resumed_run_has_every_epoch_once_in_both_logs(tmp_path):
    for first in (0, 1):
        loggers = RunLogs(tmp_path)
        if first:
            loggers.truncate(first)
        for epoch in range(first, 3):
            loggers.on_fit_epoch_end([first] * 13, epoch, 0.0, 0.0)
        loggers.close()
        wait_for_next_second()  # TensorBoard sorts event files by the second, then by a number as text
    assert list(pd.read_csv(tmp_path / "results.csv", skipinitialspace=True)["epoch"]) == [0, 1, 2]
    assert [(e.step, e.value) for e in tags(tmp_path).Scalars("x/lr0")] == [(0, 0), (1, 1), (2, 1)]


def test_epochs_without_validation(tmp_path):
    loggers = RunLogs(tmp_path)
    for epoch in range(3):
        measured = epoch == 2
        vals = [1.0, 2.0, 3.0, *[0.5 if measured else math.nan] * 7, 0.1, 0.1, 0.1]
        loggers.on_fit_epoch_end(vals, epoch, 0.5 if measured else 0.0, 0.5 if measured else math.nan)
    loggers.truncate(2)
    plot_results(tmp_path / "results.csv")  # not one number in seven of ten panels
    loggers.on_train_end(tmp_path / "last.pt", tmp_path / "best.pt", 2, [math.nan] * 7)
    table = pd.read_csv(tmp_path / "results.csv", skipinitialspace=True)
    assert list(table["epoch"]) == [0, 1]
    assert table["metrics/mAP_0.5"].isna().all()
    assert "                 nan," in (tmp_path / "results.csv").read_text(encoding="utf-8")
    assert table["train/obj_loss"].tolist() == [2, 2]


def test_the_number_of_values_is_checked(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        RunLogs(tmp_path, tensorboard=False).on_fit_epoch_end(range(12), 0, 0.0, 0.0)


# What TensorBoard shows besides


def result():
    """One class with 4 labels: 4 of 5 boxes above confidence 0.5 are right, nothing lies above 0.9."""
    px = np.linspace(0, 1, 1000)
    r = np.where(px <= 0.5, 1.0, np.where(px <= 0.9, 0.5, 0.0))[None]
    p = np.where(px <= 0.5, 0.8, np.where(px <= 0.9, 1.0, 1.0))[None]
    one = np.ones(1)
    return ApResult(one, one, one, one, one, one[:, None], np.array([2]), px, p, r, p, p)


def test_pr_curves_are_shown_at_the_end(tmp_path):
    callbacks = Callbacks()
    RunLogs(tmp_path, csv=False).register(callbacks)
    counts = np.array([0, 0, 4])
    callbacks.run("on_val_metrics", result=result(), counts=counts, names={0: "a", 1: "b", 2: "c"})
    callbacks.run("on_train_end", last=tmp_path / "last.pt", best=tmp_path / "best.pt", epoch=3, results=[0.1] * 7)
    events = tags(tmp_path)
    assert {tag for tag in events.Tags()["tensors"] if tag.startswith("PR/")} == {"PR/all classes", "PR/c"}
    (curve,) = events.Tensors("PR/c")
    make_ndarray = pytest.importorskip("tensorboard.util.tensor_util").make_ndarray
    data = make_ndarray(curve.tensor_proto)  # (6, 101): TP, FP, TN, FN, precision, recall
    assert curve.step == 3
    assert data.shape == (6, 101)
    np.testing.assert_allclose(data[:, 0], [4, 1, 0, 0, 0.8, 1], atol=1e-6)
    np.testing.assert_allclose(data[:, 70], [2, 0, 0, 2, 1, 0.5], atol=1e-6)
    np.testing.assert_allclose(data[:, 100], [0, 0, 0, 4, 1, 0], atol=1e-6)


def test_ap_of_each_class_and_epoch(tmp_path):
    names, counts = {0: "a", 1: "b", 2: "c, d"}, np.array([0, 0, 4])
    for first in (0, 1):  # the second process resumes at epoch 1
        callbacks = Callbacks()
        logs = RunLogs(tmp_path)
        logs.register(callbacks)
        logs.truncate(first)
        callbacks.run("on_val_metrics", result=result(), counts=counts, names=names)  # the start, no epoch
        for epoch in range(first, first + 3):
            callbacks.run("on_train_epoch_end", epoch=epoch)
            if epoch != 2:
                callbacks.run("on_val_metrics", result=result(), counts=counts, names=names)
            callbacks.run("on_fit_epoch_end", vals=[0.5] * 13, epoch=epoch, best_fitness=0.5, fi=0.25)
        callbacks.run("teardown")
        wait_for_next_second()
    table = pd.read_csv(tmp_path / "classes.csv")
    assert table.values.tolist() == [[epoch, 2, "c, d", 4, 1.0, 1.0] for epoch in (0, 1, 3)]
    assert [e.step for e in tags(tmp_path).Scalars("AP/c, d")] == [0, 1, 3]


def test_a_table_of_classes_keeps_any_name_and_survives_a_kill(tmp_path):
    path = tmp_path / "classes.csv"
    path.touch()  # killed before the first row was flushed
    ClassTable(path).truncate(0)
    names = ["two\nlines", 'a, "b"', "line\u2028separator", "=1+1"]
    ClassTable(path).write(0, [(i, name, 4, 0.5, 0.25) for i, name in enumerate(names)])
    before = path.read_bytes()
    ClassTable(path).write(1, [(0, "two\nlines", 4, 0.5, 0.25)])
    ClassTable(path).truncate(1)
    assert path.read_bytes() == before
    assert pd.read_csv(path).name.tolist() == names


def test_another_table_is_not_overwritten(tmp_path):
    (tmp_path / "classes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="its columns differ"):
        RunLogs(tmp_path, tensorboard=False).truncate(0)
    assert (tmp_path / "classes.csv").read_text() == "a,b\n1,2\n"


def test_graph_and_settings_are_shown_at_the_start(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x):
            y = self.stem(x)
            return y, [y]

    model = Net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loggers = RunLogs(tmp_path, csv=False, settings={"epochs": 3, "freeze": [0], "storage": "secret", "hyp/lr0": 0.01})
    loggers.start(model, 32)
    loggers.close()
    events = tags(tmp_path)
    nodes = {node.name for node in events.Graph().node}
    assert any("stem" in name and "Conv2d" in name for name in nodes)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    text = str(events.SummaryMetadata("_hparams_/session_start_info"))
    assert "hyp/lr0" in text
    assert "[0]" in text
    assert "secret" not in text


def test_model_that_cannot_be_traced_costs_the_graph_only(tmp_path, caplog):
    class Net(nn.Linear):
        def forward(self, x):
            raise RuntimeError("no way\nmore")

    RunLogs(tmp_path, csv=False).start(Net(2, 2), 32)
    assert "cannot trace this model" in caplog.text


def test_training_pictures_are_shown_after_the_first_epoch(tmp_path):
    callbacks = Callbacks()
    RunLogs(tmp_path, csv=False).register(callbacks)
    Image.new("RGB", (4, 4)).save(tmp_path / "train_batch0.jpg")
    callbacks.run("on_train_epoch_end", epoch=0)
    callbacks.run("on_train_epoch_end", epoch=1)
    callbacks.run("teardown")
    assert [e.step for e in tags(tmp_path).Images("train_batch0")] == [0]


def test_tensorboard_that_cannot_write_is_warned_of_once_and_the_run_goes_on(tmp_path, full_disk, caplog, capsys):
    pytest.importorskip("tensorboard")
    log = TensorBoardLogger(tmp_path / "events")
    with full_disk(3000):
        for epoch in range(3):
            log.text("long", "word " * 400, epoch)
            log.scalars({"loss": 1.0}, epoch)
        log.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "event file cannot be written (File too large): training continues without it" in warnings[0]
    assert "Traceback" not in capsys.readouterr().err


# In the form of YOLOv5's training loops


def test_every_public_method_of_loggers_is_an_event(tmp_path):
    callbacks, loggers = (
        Callbacks(),
        Loggers(tmp_path, "yolov5s.pt", Namespace(epochs=2, device=""), {"lr0": 0.01}, None),
    )
    for name in methods(loggers):
        callbacks.register_action(name, callback=getattr(loggers, name))
    assert loggers.remote_dataset is None
    callbacks.run("on_pretrain_routine_end", np.array([[0, 0.5, 0.5, 0.2, 0.3]]), {0: "a"})
    images, targets = torch.zeros(2, 3, 32, 32), torch.tensor([[0, 0, 0.5, 0.5, 0.2, 0.3]])
    callbacks.run("on_train_batch_end", nn.Identity(), 0, images, targets, ["a.png", "b.png"], torch.zeros(3))
    for epoch in range(2):
        callbacks.run("on_train_epoch_end", epoch=epoch)
        callbacks.run("on_fit_epoch_end", [*torch.ones(3), *range(10)], epoch, np.float64(0.5), np.array([0.4]).item())
    callbacks.run("on_train_end", tmp_path / "last.pt", tmp_path / "best.pt", 1, (0.1,) * 7)
    callbacks.run("teardown")
    written = {file.name for file in tmp_path.iterdir()}
    assert {"labels.jpg", "train_batch0.jpg", "results.csv", "results.png"} <= written
    events = tags(tmp_path)
    assert {"labels", "train_batch0", "results"} <= set(events.Tags()["images"])
    assert "fitness/best" in events.Tags()["scalars"]


def test_loggers_take_the_named_logs_only(tmp_path):
    loggers = Loggers(tmp_path, opt=Namespace(noplots=True), include=("csv",))
    loggers.on_pretrain_routine_end(np.zeros((0, 5)), {})
    loggers.on_fit_epoch_end(range(13), 0, 0.0, 0.0)
    loggers.on_train_end(tmp_path, tmp_path, 0, (0.0,) * 7)
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]
    with pytest.raises(ValueError, match=r"unknown logger 'comet'\. Allowed: csv, tb, wandb, mlflow, clearml"):
        Loggers(tmp_path, include=("csv", "comet"))


def test_generic_logger(tmp_path, narrow_model):
    pytest.importorskip("torch.utils.tensorboard")
    log = GenericLogger(Namespace(save_dir=tmp_path, lr0=0.1), logging.getLogger(), include=("tb",))
    log.log_metrics({"train/loss": torch.tensor(0.5), "lr": 0.1}, 3)
    Image.new("RGB", (4, 4)).save(tmp_path / "test_images.jpg")
    log.log_images([tmp_path / "test_images.jpg", tmp_path / "none.jpg"], name="Test", epoch=3)
    log.log_model(tmp_path / "last.pt", 3, {"top1": 0.5})
    log.log_graph(narrow_model, 32)
    events = tags(tmp_path)
    assert set(events.Tags()["scalars"]) == {"train/loss", "lr"}
    assert events.Tags()["images"] == ["Test/test_images"]
    assert events.Tags()["graph"]
    assert "checkpoint/text_summary" in events.Tags()["tensors"]
