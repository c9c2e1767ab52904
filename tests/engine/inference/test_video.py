"""Video files: what is written can be read back, and what cannot be written is an error."""

import cv2
import numpy as np
import pytest

from engine.inference.video import VideoFile


def frame(i, shape=(64, 96)):
    return np.random.default_rng(i).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("fps", [0.5, 29.97, 240.0])
@pytest.mark.parametrize("count", [1, 2, 25])
def test_every_frame_can_be_read(tmp_path, fps, count):
    video = VideoFile(tmp_path / "new" / "a.mp4", fps, (64, 97))  # of an odd width
    for i in range(count):
        video.write(frame(i, (64, 97)))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "new" / "a.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == count


def test_a_full_disk_is_an_error(tmp_path, full_disk):
    video = VideoFile(tmp_path / "a.mp4", 10.0, (64, 96))
    with full_disk(60_000):
        for i in range(40):
            video.write(frame(i))
        with pytest.raises(OSError, match=r"a\.mp4: the video could not be written: 0 of 40 frames"):
            video.close()


def test_frames_that_opencv_drops_are_missed(tmp_path):
    video = VideoFile(tmp_path / "a.mp4", 10.0, (64, 96))
    for i in range(5):
        video.write(frame(i, (64, 96) if i != 3 else (32, 32)))  # of another size than the video
    with pytest.raises(OSError, match="4 of 5 frames"):
        video.close()
