"""Progress of long loops: a bar on a terminal, a line every 30 seconds elsewhere."""

import logging
import sys

import pytest

from utils import console
from utils.console import ProgressBar, duration


@pytest.fixture
def clock(monkeypatch):
    """The time that a loop sees, in a list of one number."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(caplog):
    """What was logged so far."""
    caplog.set_level(logging.INFO, "yolov5")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"), (0.4, "0 s"), (99.4, "99 s"), (99.6, "1.7 min"), (194.4, "3.2 min"), (5969, "99.5 min"),
        (5970, "1.7 h"), (99_999, "27.8 h"), (100_000, "1.2 days"), (8.64e7, "1000.0 days"),
    ],
)  # fmt: skip
def test_durations_have_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_without_a_terminal_there_is_a_line_every_thirty_seconds(clock, lines, capfd):
    bar = ProgressBar(range(20), "row 1", unit="batches")
    for number in bar:
        clock[0] += 8
        bar.title = f"row {number + 1}"
    assert lines() == [
        "row 4: 4 of 20 batches, 2.1 min left",
        "row 8: 8 of 20 batches, 96 s left",
        "row 12: 12 of 20 batches, 64 s left",
        "row 16: 16 of 20 batches, 32 s left",
        "row 20: 20 of 20 batches, 0 s left",
    ]
    assert "\r" not in capfd.readouterr().err


def test_steps_done_before_say_nothing_about_the_pace(clock, lines):
    with ProgressBar(title="file", total=100_000_000, done=60_000_000, unit="bytes") as bar:
        clock[0] += 40
        bar.update(20_000_000)
    with ProgressBar(title="stream", unit="images") as bar:
        clock[0] += 40
        bar.update(7)
    assert lines() == ["file: 80 of 100 MB, 40 s left", "stream: 7 images, 40 s so far"]


def test_on_a_terminal_there_is_a_bar_and_no_line(clock, lines, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in ProgressBar(range(3), "some title"):
        clock[0] += 100
    assert lines() == []
    error = capfd.readouterr().err
    assert "some title" in error
    assert "3/3" in error


def test_another_process_shows_nothing(clock, lines, capfd):
    for _ in ProgressBar(range(3), shown=False):
        clock[0] += 100
    assert lines() == []
    assert capfd.readouterr().err == ""
