"""trackers: a loop around the hub model as its documentation has it, and `detect.py --track`, which uses it."""

import cv2
import numpy as np
import pytest

import detect
from tests.clients.conftest import CONF, SIZE
from tests.same_boxes import assert_same

pytest.importorskip("trackers")
import supervision as sv
from trackers import ByteTrackTracker

FRAMES = 4


@pytest.fixture(scope="module")
def clip(image, tmp_path_factory):
    """Four times the image, without loss."""
    file = tmp_path_factory.mktemp("clip") / "still.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"FFV1"), 20, SIZE[::-1])
    for _ in range(FRAMES):
        writer.write(cv2.imread(str(image)))
    writer.release()
    return file


def test_loop(hub_model, clip, found):
    tracker = ByteTrackTracker(track_activation_threshold=CONF, high_conf_det_threshold=CONF)
    for frame in sv.get_video_frames_generator(str(clip)):
        detections = sv.Detections.from_yolov5(hub_model(frame[..., ::-1], size=max(SIZE)))
        detections = tracker.update(detections)
    numbers = detections.tracker_id
    assert (numbers >= 0).sum() >= 3
    assert len(set(numbers[numbers >= 0])) == (numbers >= 0).sum()
    rows = np.column_stack((detections.xyxy, detections.confidence, detections.class_id))
    assert_same(rows, found, pixels=1.5)


def test_detect_track(weights, clip, found, tmp_path):
    detect.run(
        weights, clip, imgsz=[*SIZE], conf_thres=CONF, device="cpu", project=tmp_path, save_txt=True, save_format=1,
        save_conf=True, nosave=True, track=True,
    )  # fmt: skip
    lines = (tmp_path / f"exp/labels/still_{FRAMES}.txt").read_text().splitlines()
    rows = np.array([[*map(float, line.split())] for line in lines if len(line.split()) == 7])  # with a number
    assert len(rows) >= 3
    assert len(set(rows[:, 6])) == len(rows)
    all_rows = np.array([[*map(float, line.split()[:6])] for line in lines])
    boxes = all_rows[:, 1:5] * [*SIZE[::-1], *SIZE[::-1]]
    assert_same(np.column_stack((boxes, all_rows[:, 5], all_rows[:, 0])), found, pixels=0.5)
