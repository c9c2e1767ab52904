"""Weights & Biases, MLflow and ClearML, each played by a stand-in that writes down what it is told."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from utils.callbacks import Callbacks
from utils.loggers.run_logs import RunLogs
from utils.loggers.services import SERVICES, check_services, mlflow_name

VALS = [0.1 * i for i in range(13)]


class Told(list):
    """Records calls: told.name(*args, **kwargs) appends (name, args, kwargs) and returns what was prepared."""

    def __init__(self, **answers):
        self.answers = answers

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.append((name, args, kwargs))
            return self.answers.get(name)

        return call

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self if called == name]


def module(name, **content):
    fake = ModuleType(name)
    fake.__dict__.update(content)
    return fake


@pytest.fixture
def wandb(monkeypatch):
    told = Told()
    told.summary, told.id = {}, "w1"
    begun = Told(init=told)
    fake = module("wandb", init=lambda **kwargs: begun.init(**kwargs), Image=lambda path: ("picture", path))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return begun, told


@pytest.fixture
def mlflow(monkeypatch):
    told = Told(start_run=SimpleNamespace(info=SimpleNamespace(run_id="m1")))
    names = ("set_experiment", "start_run", "log_params", "log_metrics", "log_artifact", "log_text", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", module("mlflow", **{name: getattr(told, name) for name in names}))
    return told


@pytest.fixture
def clearml(monkeypatch):
    reports = Told()
    task = Told(get_logger=reports)
    task.id = "c1"
    begun = Told(init=task)
    monkeypatch.setitem(sys.modules, "clearml", module("clearml", Task=SimpleNamespace(init=begun.init)))
    return begun, task, reports


def run(folder, services, epochs=2):
    """Two epochs with a picture, as training tells them."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(folder / "train_batch0.jpg")
    callbacks = Callbacks()
    settings = {"epochs": epochs, "hyp/lr0": 0.01, "storage": "mysql://me:secret@host/db"}
    loggers = RunLogs(folder, tensorboard=False, services=services, settings=settings)
    loggers.register(callbacks)
    for epoch in range(epochs):
        callbacks.run("on_train_epoch_end", epoch=epoch)
        callbacks.run("on_fit_epoch_end", vals=[float("nan"), *VALS[1:]], epoch=epoch, best_fitness=0.5, fi=0.25)
    Image.new("RGB", (4, 4)).save(folder / "results.png")
    callbacks.run("on_train_end", last="last.pt", best="best.pt", epoch=epochs - 1, results=[0.1] * 7)
    callbacks.run("teardown")


def test_wandb_gets_settings_curves_and_pictures_and_goes_on_with_its_run(tmp_path, wandb):
    begun, told = wandb
    folder = tmp_path / "project" / "exp"
    run(folder, ["wandb"])
    ((_, init),) = begun.of("init")
    assert (init["project"], init["name"], init["id"], init["resume"]) == ("project", "exp", None, None)
    assert init["config"] == {"epochs": 2, "hyp/lr0": 0.01}  # no password
    logged = [(args[0], kwargs["step"]) for args, kwargs in told.of("log")]
    numbers = [(values, step) for values, step in logged if "x/lr0" in values]
    assert [step for _, step in numbers] == [0, 1]
    assert numbers[0][0]["x/lr0"] == pytest.approx(1.0)
    assert "train/box_loss" not in numbers[0][0]  # nan
    pictures = [(next(iter(values)), step) for values, step in logged if "x/lr0" not in values]
    assert pictures == [("train_batch0", 0), ("results", 1)]  # each once
    assert "best.pt" in told.summary["best checkpoint"]
    assert len(told.of("finish")) == 1
    run(folder, ["wandb"])
    assert (begun.of("init")[1][1]["id"], begun.of("init")[1][1]["resume"]) == ("w1", "allow")


def test_mlflow_gets_settings_curves_and_pictures_and_goes_on_with_its_run(tmp_path, mlflow):
    folder = tmp_path / "project" / "exp"
    run(folder, ["mlflow"])
    assert mlflow.of("set_experiment") == [(("project",), {})]
    assert mlflow.of("start_run") == [((), {"run_id": None, "run_name": "exp"})]
    assert mlflow.of("log_params") == [(({"epochs": "2", "hyp/lr0": "0.01"},), {})]
    metrics = mlflow.of("log_metrics")
    assert [kwargs["step"] for _, kwargs in metrics] == [0, 1]
    assert metrics[0][0][0]["metrics/mAP_0.5-0.95"] == pytest.approx(0.6)  # a colon is not allowed there
    artifacts = [args for args, _ in mlflow.of("log_artifact")]
    assert artifacts == [(str(folder / name), "pictures") for name in ("train_batch0.jpg", "results.png")]
    assert len(mlflow.of("end_run")) == 1
    run(folder, ["mlflow"])
    assert mlflow.of("start_run")[1][1]["run_id"] == "m1"
    assert len(mlflow.of("log_params")) == 1


def test_clearml_gets_settings_curves_and_pictures_and_goes_on_with_its_run(tmp_path, clearml):
    begun, task, reports = clearml
    folder = tmp_path / "project" / "exp"
    run(folder, ["clearml"])
    init = begun.of("init")[0][1]
    assert (init["project_name"], init["task_name"], init["continue_last_task"]) == ("project", "exp", False)
    assert task.of("connect") == [(({"epochs": 2, "hyp/lr0": 0.01},), {"name": "settings"})]
    assert (("x", "lr0", pytest.approx(1.0)), {"iteration": 1}) in reports.of("report_scalar")
    pictures = [(args, kwargs["iteration"]) for args, kwargs in reports.of("report_image")]
    assert pictures == [(("train_batch0", "train_batch0.jpg"), 0), (("results", "results.png"), 1)]
    assert len(task.of("close")) == 1
    run(folder, ["clearml"])
    assert begun.of("init")[1][1]["continue_last_task"] == "c1"
    assert len(task.of("connect")) == 1


def test_services_work_together_and_know_their_runs_apart(tmp_path, wandb, mlflow, clearml):
    run(tmp_path / "p" / "exp", list(SERVICES))
    assert (tmp_path / "p/exp/loggers.yaml").read_text() == "wandb: w1\nmlflow: m1\nclearml: c1\n"


@pytest.mark.parametrize("name", SERVICES)
def test_missing_package_is_named_and_nothing_is_imported_unasked(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # makes `import name` fail
    run(tmp_path / "p" / "quiet", [])
    with pytest.raises(ValueError, match=f"--logger {name} needs that package .*: .*pip install {name}$"):
        check_services([name])
    with pytest.raises(ValueError, match="--logger comet: unknown. Allowed: wandb, mlflow, clearml"):
        check_services(["comet"])


def test_names_for_mlflow():
    assert mlflow_name("metrics/mAP_0.5:0.95") == "metrics/mAP_0.5-0.95"
