"""detect.py --track: identities in images, text, CSV, JSON and results; with the package, an object lost and found."""

import csv
import json
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import detect
from engine.inference import tracking
from engine.inference.pipeline import Frame
from engine.inference.tracking import Tracker
from engine.results.files import CsvFile, text_lines
from utils.annotate import Annotator, draw_detections

FPS = 20.0


class Boxes:
    """What the fake tracker takes and gives."""

    def __init__(self, xyxy, confidence, class_id):
        self.xyxy, self.confidence, self.class_id = xyxy, confidence, class_id
        self.tracker_id = np.full(len(xyxy), -1)

    def __len__(self):
        return len(self.xyxy)


class Fake:
    """From the second frame on the best box is object 0; rows come back in reverse."""

    made: list = []

    def __init__(self, **settings):
        self.settings, self.seen = settings, []
        Fake.made.append(self)

    def update(self, boxes, timestamp):
        self.seen.append((len(boxes), boxes.confidence.tolist(), timestamp))
        boxes.class_id = boxes.class_id[::-1]
        if len(boxes) and len(self.seen) > 1:
            boxes.tracker_id[-1] = 0
        return boxes


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(tracking, "_load", lambda: (Fake, Boxes))
    monkeypatch.setattr(Fake, "made", [])
    return Fake.made


@pytest.fixture
def clip(tmp_path):
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (96, 64))
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (6, 9, 3), np.uint8)
        writer.write(cv2.resize(noise, (96, 64), interpolation=cv2.INTER_CUBIC))
    writer.release()
    return file


@pytest.fixture
def run(narrow_weights, tmp_path):
    def call(source, **options):
        given = {"imgsz": 96, "device": "cpu", "project": tmp_path / "out", "conf_thres": 0.5, **options}
        return detect.run(narrow_weights, source, **given)

    return call


@pytest.mark.parametrize("more", [{}, {"batch_size": 3}, {"conf_thres": 0.05}, {"slice": 64}])
def test_boxes_are_those_without_it_and_all_files_name_the_object(run, fake, clip, tmp_path, more):
    plain = run(clip, nosave=True, **more)
    assert all(result.tracks is None for result in plain)
    results = run(clip, track=True, save_txt=True, save_conf=True, save_csv=True, save_json=True, **more)
    for one, other in zip(plain, results, strict=True):
        assert torch.equal(one.detections, other.detections)
    firsts = [result.tracks[0].item() for result in results]
    assert firsts == [-1, 1, 1, 1, 1]
    assert all((result.tracks[1:] == -1).all() for result in results)
    (tracker,) = fake
    assert tracker.settings["lost_track_buffer"] == 30
    assert [time for *_, time in tracker.seen] == pytest.approx([i / FPS for i in range(1, 6)])
    for result, (count, confidences, _) in zip(results, tracker.seen, strict=True):
        assert confidences[: len(result.detections)] == [1] * len(result.detections)
        assert confidences[len(result.detections) :] == [0] * (count - len(result.detections))
        assert (count > len(result.detections)) == (not more.get("slice") and more.get("conf_thres") != 0.05)
    folder = tmp_path / "out/exp"
    lines = (folder / "labels/clip_2.txt").read_text().splitlines()
    assert [line.split()[6] for line in lines] == ["-1"] * (len(lines) - 1) + ["1"]
    rows = json.loads((folder / "predictions.json").read_text())
    assert [row["track_id"] for row in rows if row["image_id"] == "clip_3"] == results[2].tracks.tolist()
    header, *table = csv.reader((folder / "predictions.csv").open(encoding="utf-8"))
    assert header == ["Image Name", "Prediction", "Confidence", "Frame", "Track"]
    assert [int(row[4]) for row in table if row[3] == "4"] == results[3].tracks.flip(0).tolist()


def test_the_identity_is_drawn():
    drawn = []
    rows = torch.tensor([[1.0, 1, 9, 9, 0.9, 0], [2, 2, 8, 8, 0.5, 1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Annotator, "box_label", lambda self, box, label, color: drawn.append(label))
        draw_detections(np.zeros((10, 10, 3), np.uint8), rows, {0: "cat", 1: "dog"}, ids=[7, -1])
        draw_detections(np.zeros((10, 10, 3), np.uint8), rows, {0: "cat", 1: "dog"}, hide_conf=True, ids=[7, 8])
    assert drawn == ["dog 0.50", "cat #7 0.90", "dog #8", "cat #7"]


def test_text_has_the_identity_last():
    rows = torch.tensor([[0.0, 0, 5, 10, 0.9, 2]])
    assert text_lines(rows, (10, 10), True, ids=torch.tensor([12345678])) == "2 0.25 0.5 0.5 1 0.9 12345678\n"
    assert text_lines(rows, (10, 10), False, ids=torch.tensor([-1])) == "2 0.25 0.5 0.5 1 -1\n"


def test_a_table_without_identities_stays(tmp_path):
    CsvFile(tmp_path / "x.csv", {}, {}).close()
    with pytest.raises(ValueError, match="has the columns"):
        CsvFile(tmp_path / "x.csv", {}, {}, tracks=True)


def test_images_have_none(run, fake, clip, tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="the source has images only"):
        run(tmp_path / "x.png", track=True)
    results = run([clip, tmp_path / "x.png"], track=0.5, nosave=True, conf_thres=0.01)
    assert len(results) == 6
    assert len(results[0].detections) > 0
    assert (results[0].tracks == -1).all()
    assert [tracker.settings["lost_track_buffer"] for tracker in fake] == [15]


@pytest.mark.parametrize(("value", "message"), [(-1, "--track is -1"), ("long", "--track is 'long'")])
def test_wrong_times(run, clip, value, message):
    with pytest.raises(ValueError, match=message):
        run(clip, track=value)


def test_the_command_line():
    given = [detect.parse_opt(["--source", "a", *words]).track for words in ([], ["--track"], ["--track", "2.5"])]
    assert given == [False, 1.0, 2.5]


def test_a_package_that_is_missing_or_old_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    monkeypatch.setattr(tracking, "version", missing)
    with pytest.raises(ValueError, match=r"--track needs the package trackers: .*pip install 'trackers>=2.6' 'super"):
        Tracker(1.0, 0.25)
    monkeypatch.setattr(tracking, "version", lambda name: "1.0")
    with pytest.raises(ValueError, match=r"--track cannot use the installed trackers 1.0 \(import of supervision"):
        Tracker(1.0, 0.25)


def test_what_is_shown_is_what_exceeds_the_threshold_of_its_class(fake):
    rows = torch.tensor([[0.0, 0, 9, 9, conf, cls] for conf, cls in ((0.7, 0), (0.6, 1), (0.5, 0), (0.2, 1))])
    shown, weak = Tracker(1.0, [0.5, 0.1]).split(rows)
    assert shown[:, 4].tolist() == rows[[0, 1, 3], 4].tolist()
    assert torch.equal(weak, rows[[2]])
    assert [len(part) for part in Tracker(1.0, 0.6).split(rows)] == [1, 3]
    assert [Tracker.lowest(conf) for conf in (0.5, 0.05, [0.4, 0.02])] == [0.1, 0.05, 0.02]


# With the package -----------------------------------------------------------------------------------------------------
def follow(seconds, gap, conf=0.9, numbers=range(1, 61)):
    """Identities of a shape that moves to the right and has no box for `gap` frames after frame 20, by frame.

    A second shape stands still below it. With a confidence below 0.5 the box is weak instead of missing.
    """
    pytest.importorskip("trackers")
    tracker, found = Tracker(seconds, 0.5), {}
    for n in numbers:
        hidden = 20 < n <= 20 + gap
        rows = torch.tensor([[3.0 * n, 20, 3 * n + 40, 60, 0.3 if hidden else 0.9, 0], [100, 150, 140, 190, 0.8, 1]])
        rows = rows[1:] if hidden and conf > 0.5 else rows
        shown, weak = tracker.split(rows)
        ids = tracker(SimpleNamespace(source="v", kind="video", number=n, fps=FPS), shown, weak)
        found[n] = {int(cls): int(number) for cls, number in zip(shown[:, 5], ids, strict=True)}
    return found


def test_an_object_that_is_lost_is_found_again():
    found = follow(1.0, gap=10)
    assert found[1] == {0: -1, 1: -1}
    assert found[2] == found[20] == found[31] == found[60]
    assert sorted(found[2].values()) == [1, 2]
    assert set(found[25]) == {1}


def test_after_too_long_it_is_another_one():
    found = follow(0.25, gap=10)
    assert found[60][1] == found[2][1]
    assert found[60][0] not in (-1, found[2][0])


def test_weak_boxes_keep_an_identity_for_as_long_as_they_come():
    assert follow(0.25, gap=30)[60][0] != follow(0.25, gap=30)[2][0]
    found = follow(0.25, gap=30, conf=0.3)
    assert found[60] == found[2]
    assert set(found[30]) == {1}


def test_frames_may_be_missing():
    """Those of a camera that are dropped, or those that Ctrl-C left without a result."""
    found = follow(1.0, gap=6, numbers=[n for n in range(1, 61) if n % 3])
    assert found[2] == {0: -1, 1: -1} or found[2][0] > 0
    assert found[59] == found[5]


def test_each_source_counts_for_itself():
    pytest.importorskip("trackers")
    tracker = Tracker(1.0, 0.5)
    rows = torch.tensor([[0.0, 0, 40, 40, 0.9, 0]])
    for source in ("a", "b"):
        for n in (1, 2):
            ids = tracker(Frame(np.zeros((9, 9, 3), np.uint8), source, "video", n, 2, FPS), rows, rows[:0])
        assert ids.tolist() == [1]
    assert tracker(Frame(np.zeros((9, 9, 3), np.uint8), "a", "video", 3, 3, FPS), rows[:0], rows[:0]).tolist() == []
