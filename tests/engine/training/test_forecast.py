"""The time that a run still takes, and the warning of a long one on a CPU."""

import logging
from types import SimpleNamespace

import pytest
import torch

from engine.training import forecast


@pytest.fixture
def epoch(monkeypatch, caplog):
    """A function that trains an epoch of some seconds a batch; returns the forecasts and the warnings."""
    caplog.set_level(logging.WARNING, "yolov5")
    now = [0.0]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now[0])
    expected = forecast.Forecast()

    def train(number, seconds, epochs=100, batches=20, device="cpu", validation=0.0, **options):
        options = {"epochs": epochs, "resume": False, "weights": "", "cfg": "a.yaml"} | options
        plan = SimpleNamespace(
            options=SimpleNamespace(**options), batches=batches, device=torch.device(device), imgsz=320
        )
        found = []
        for batch in range(1, batches + 1):
            now[0] += seconds
            found.append(expected(SimpleNamespace(epoch=number, batch=batch), plan))
        now[0] += validation
        return found, [record.getMessage() for record in caplog.records]

    return train


def test_all_batches_to_come_count_at_the_pace_of_those_after_the_first(epoch):
    found, warnings = epoch(0, 1.0, epochs=3, validation=10.0)
    assert found == [None, *range(58, 39, -1)]
    assert warnings == []
    found, _ = epoch(1, 1.0, epochs=3)
    assert found[-1] == pytest.approx((19 + 10 + 20) / 39 * 20)  # the validation between them is part of the pace


def test_a_long_run_on_the_cpu_is_announced_once(epoch):
    for number in range(2):
        _, warnings = epoch(number, 3.0)
    (text,) = warnings
    assert "will take about 1.7 h on the CPU" in text
    assert "100 epochs of 60 s" in text
    for advice in ("--device 0", "--img", "--epochs", "--cfg models/yolov5n-swinv2.yaml", "--weights"):
        assert advice in text


@pytest.mark.parametrize(
    "changes", [{"device": "cuda"}, {"resume": True}, {"epochs": 50}], ids=["GPU", "known already", "under an hour"]
)
def test_other_runs_are_not(epoch, changes):
    assert epoch(0, 3.0, **changes)[1] == []
