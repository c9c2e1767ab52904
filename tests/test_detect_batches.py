"""detect.py --batch-size: the same files and results as one by one, in the same order, whatever the images are."""

import logging
import re
import signal

import cv2
import numpy as np
import pytest
import torch

import detect
from engine.inference.batching import WINDOW, InOrder, batches, choose_batch
from engine.inference.pipeline import Frame
from engine.inference.predictor import Prepared
from models.runtimes.backends import PyTorchBackend

SIZES = [(60, 90), (90, 60), (64, 64), (60, 92), (200, 96), (61, 90), (90, 60), (60, 90), (64, 64), (60, 90)]


def picture(seed, height, width):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Folder with images of five shapes in turns and two videos."""
    folder = tmp_path_factory.mktemp("mixed")
    for i, size in enumerate(SIZES):
        cv2.imwrite(str(folder / f"{i:02}.png"), picture(i, *size))
    for name, frames, size in (("a", 7, (64, 96)), ("b", 4, (96, 64))):
        writer = cv2.VideoWriter(str(folder / f"{name}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 20, size[::-1])
        for i in range(frames):
            writer.write(picture(50 + i, *size))
        writer.release()
    return folder


@pytest.fixture
def run(narrow_weights, tmp_path):
    def call(source, **options):
        given = {"imgsz": 96, "device": "cpu", "project": tmp_path / "out", "conf_thres": 0.3, **options}
        return detect.run(given.pop("weights", narrow_weights), source, **given)

    return call


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


ALL = {f"save_{what}": True for what in ("txt", "conf", "csv", "json", "crop", "frames")} | {"report": True}


@pytest.fixture
def each(monkeypatch):
    """Let the network take the images of a batch one by one, so that all sums are rounded alike; their counts."""
    whole, counts = PyTorchBackend.__call__, []

    def call(self, images, augment=False):
        counts.append(len(images))
        return [torch.cat([whole(self, image[None], augment)[0] for image in images])]

    monkeypatch.setattr(PyTorchBackend, "__call__", call)
    return counts


@pytest.mark.parametrize("more", [
    {}, pytest.param({"augment": True, "half": True}, marks=pytest.mark.slow),
    pytest.param({"slice": 64, "visualize": True}, marks=pytest.mark.slow),
])  # fmt: skip
def test_every_file_is_that_of_one_by_one(run, mixed, tmp_path, each, more):
    alone = run(mixed, name="alone", **ALL, **more)
    assert max(each) == (4 if "slice" in more else 1)
    together = run(mixed, name="together", batch_size=5, **ALL, **more)
    assert max(each) == 5
    assert len(alone) == len(SIZES) + 11
    for one, other in zip(alone, together, strict=True):
        assert one[:3] == other[:3]
        assert torch.equal(one.detections, other.detections)
    first, second = (files_of(tmp_path / "out" / name) for name in ("alone", "together"))
    assert list(first) == list(second)
    assert not {name for name in first if first[name] != second[name]}


def test_a_network_that_takes_them_at_once_differs_by_rounding(run, mixed):
    alone, together = run(mixed, nosave=True), run(mixed, nosave=True, batch_size=5)
    for one, other in zip(alone, together, strict=True):
        pairs = (one.detections[:20], other.detections[:20])
        torch.testing.assert_close(*pairs, atol=0.02, rtol=1e-3)


def test_throughput_is_told(run, mixed, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    run(mixed, nosave=True, batch_size=4)
    assert re.search(r"per image at shape \(\d, 3, \d+, \d+\); \d+\.\d images/s with", caplog.text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_nothing_that_was_detected(narrow_weights, mixed, tmp_path, each, monkeypatch, number):
    """The first image is of a rare shape, so all of the first batch wait for it when the signal comes."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(12):
        cv2.imwrite(str(folder / f"{i:02}.png"), picture(i, *((60, 90) if i else (90, 60))))
    whole, seen = detect.Predictor.__call__, []

    def stop_in_the_second_batch(self, batch):
        if seen:
            signal.raise_signal(number)
        seen.append(batch.numbers)
        return whole(self, batch)

    monkeypatch.setattr(detect.Predictor, "__call__", stop_in_the_second_batch)
    argv = ["--weights", str(narrow_weights), "--source", str(folder), "--img", "96", "--batch-size", "4"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        detect.main(detect.parse_opt([*argv, "--save-txt", "--project", str(tmp_path / "out"), "--conf", "0.3"]))
    assert seen == [[1, 2, 3, 4]]
    written = files_of(tmp_path / "out/exp")
    assert sorted(written) == [*(f"0{i}.png" for i in seen[0]), *(f"labels/0{i}.txt" for i in seen[0])]


def test_a_caller_that_stops_keeps_what_was_detected(run, mixed, tmp_path):
    results = run(mixed, batch_size=3, stream=True, save_txt=True)
    next(results)
    results.close()
    assert {"00.png", "labels/00.txt"} <= set(files_of(tmp_path / "out/exp"))


def test_a_file_of_fixed_batches_takes_its_own_number(caplog):
    assert [choose_batch(None, None, live) for live in (False, True)] == [1, None]
    assert [choose_batch(None, 4, live) for live in (False, True)] == [4, None]
    assert [choose_batch(8, None, live) for live in (False, True)] == [8, 8]
    assert not caplog.text
    assert choose_batch(8, 4, live=False) == 4
    assert "takes batches of 4 only: --batch-size 8 is ignored" in caplog.text


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 1.5}])
def test_wrong_numbers(run, mixed, options):
    with pytest.raises(ValueError, match="--batch-size is"):
        run(mixed, **options)


# The arrangement alone ------------------------------------------------------------------------------------------------
def arrange(widths, size, live=False, alone=lambda frame: False):
    """Batches of frames, one frame at a step, or all at one if live; their width is their shape."""
    frames = [Frame(np.zeros((2, width, 3), np.uint8), str(i)) for i, width in enumerate(widths)]
    steps = [frames] if live else [[frame] for frame in frames]

    def prepare(frames):
        return Prepared(frames, [frame.image.transpose(2, 0, 1) for frame in frames], 0.5)

    return list(batches(steps, prepare, size, live, alone))


def test_frames_of_a_shape_share_a_batch_and_all_come_once():
    widths = np.random.default_rng(0).integers(1, 4, 50).tolist()
    found = arrange(widths, 4)
    assert sorted(number for batch in found for number in batch.numbers) == list(range(50))
    for batch in found:
        assert len({array.shape for array in batch.inputs}) == 1
        assert [frame.source for frame in batch.frames] == [str(number) for number in batch.numbers]
        assert batch.seconds == 0.5 * len(batch.frames)
    assert sum(len(batch.frames) == 4 for batch in found) >= 10


def test_a_rare_shape_waits_for_a_bounded_time_only():
    found = arrange([7] + [5] * 40, 4)
    position = next(i for i, batch in enumerate(found) if batch.numbers == [0])
    assert position == WINDOW - 1
    assert len(arrange(list(range(1, 30)), 4)) == 29


def test_large_frames_wait_less(monkeypatch):
    monkeypatch.setattr("engine.inference.batching.HELD_BYTES", 0)
    assert [batch.numbers for batch in arrange([7] + [5] * 9, 4)][:3] == [[1, 2, 3, 4], [0], [5, 6, 7, 8]]


def test_live_frames_wait_for_none():
    assert [batch.numbers for batch in arrange([5, 7, 5, 5], 2, live=True)] == [[0, 2], [1], [3]]
    assert [batch.numbers for batch in arrange([5, 7, 5, 5], None, live=True)] == [range(4)]


def test_a_frame_that_is_wanted_alone_has_its_own_batch():
    found = arrange([5] * 6, 3, alone=lambda frame: frame.source in "14")
    assert [batch.numbers for batch in found] == [[1], [0, 2, 3], [4], [5]]


def test_results_come_in_order():
    order = InOrder()
    for number in (2, 0):
        order.add(number, str(number))
    assert list(order.ready()) == ["0"]
    order.add(4, "4")
    assert list(order.ready()) == []
    order.add(1, "1")
    assert list(order.ready()) == ["1", "2"]
    assert list(order.rest()) == ["4"]
    assert list(order.rest()) == []
