"""Video files: read their frames, write annotated ones."""

import math
import os
import shlex
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.inference.pipeline import STREAM_FPS, Frame
from utils.console import LOGGER
from utils.files import open_new

H264, MPEG4 = "avc1", "mp4v"
TRIED_FRAMES = 3
BROKEN_IN_A_ROW = 50  # frames; after so many that cannot be decoded the rest of a video is given up

# Read by OpenCV when it opens its first video. What FFmpeg says names no file; we name what it cannot decode or encode.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def reported_fps(capture: cv2.VideoCapture) -> float:
    """Return the frames per second that a source reports, `STREAM_FPS` where that is not plausible."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if math.isfinite(fps) and 0 < fps <= 1000 else STREAM_FPS


def reported_frames(capture: cv2.VideoCapture) -> int:
    """Return the number of frames that a source reports, 0 for endless or unknown."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 0 < count < 2**31 else 0


def open_video(path: str) -> cv2.VideoCapture:
    """Open a video file; ValueError if OpenCV cannot."""
    capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        raise ValueError(f"{path}: not a video that OpenCV can open (damaged, or a codec it does not have)")
    return capture


def read_video(path: str, vid_stride: int = 1, capture: cv2.VideoCapture | None = None) -> Iterator[Frame]:
    """Read the frames of a video file, turned as its metadata say.

    Frames that cannot be decoded are reported and skipped, and so is an unreadable end of the file.

    Args:
        path: video.
        vid_stride: take the last of every so many frames; the rate is divided by it.
        capture: the video, from `open_video`; None opens it. It is released at the end.

    Raises:
        ValueError: OpenCV cannot open it, or not a single frame can be read.
    """
    capture = capture or open_video(path)
    try:
        fps, count = reported_fps(capture) / vid_stride, reported_frames(capture)
        number = broken = grabbed = 0
        while broken < BROKEN_IN_A_ROW:
            steps = sum(1 for _ in range(vid_stride) if capture.grab())
            grabbed += steps
            if steps < vid_stride:
                break
            decoded, image = capture.retrieve()
            if not decoded:
                broken += 1
                LOGGER.warning(f"{path}: frame {grabbed} cannot be decoded, skipped")
                continue
            broken, number = 0, number + 1
            yield Frame(image, path, "video", number, count // vid_stride, fps)
        if not number and grabbed < vid_stride:
            raise ValueError(f"{path}: {grabbed} frames, so --vid-stride {vid_stride} selects none of them")
        if not number:
            raise ValueError(f"{path}: no frame of this video can be decoded")
        if grabbed < count - vid_stride:  # the count of some containers is an estimate
            LOGGER.warning(f"{path}: the video ends or is damaged after frame {grabbed} of {count}")
    finally:
        capture.release()


class VideoFile:
    """Write frames into an mp4 file, as H.264, which browsers play, where this OpenCV can, else as MPEG-4 part 2.

    Args:
        path: target; its folder is made.
        fps: frames per second.
        shape: height and width of the frames; of an odd side the encoder drops the last row or column.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float, shape: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.shape = path, shape
        self._written = 0
        open_new(path, "wb").close()  # OpenCV would write through a link
        self.codec = best_codec()
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*self.codec), fps, shape[::-1])
        if not self._writer.isOpened():
            size = f"{shape[1]} x {shape[0]} pixels, {fps:g} fps, {self.codec}"
            raise OSError(f"{path}: the video cannot be written ({size})")

    def write(self, image: NDArray) -> None:
        """Append a frame, (H, W, 3) BGR uint8 of `shape`."""
        self._writer.write(image)
        self._written += 1

    def close(self) -> None:
        """Finish the file, which does not play otherwise, and verify it: OpenCV's writer reports no errors.

        Raises:
            OSError: not all frames are in the file.
        """
        self._writer.release()
        count, sound = _look_at(self.path)
        if self._written and (count < self._written or not sound):
            raise OSError(
                f"{self.path}: the video could not be written: {count} of {self._written} frames are in the file"
                f"{'' if sound else ', and it cannot be played to its end'}. Is the disk full?"
            )


@cache
def best_codec() -> str:
    """Return the code of H.264 if this OpenCV writes it, else that of MPEG-4 part 2, which all do; tried once."""
    with tempfile.TemporaryDirectory(prefix="codec-") as folder:
        file = Path(folder) / "try.mp4"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*H264), 25.0, (64, 64))
        for _ in range(TRIED_FRAMES if writer.isOpened() else 0):  # an encoder of the hardware may open and write none
            writer.write(np.zeros((64, 64, 3), np.uint8))
        writer.release()
        return H264 if file.is_file() and _look_at(file) == (TRIED_FRAMES, True) else MPEG4


def conversion(path: Path) -> str:
    """Return the command that makes a video which browsers play."""
    made = path.with_name(f"{path.stem}-h264.mp4")
    return shlex.join(["ffmpeg", "-i", str(path), "-c:v", "libx264", "-pix_fmt", "yuv420p", str(made)])


def _look_at(path: Path) -> tuple[int, bool]:
    """Return the number of frames that a video file reports, and whether its last one can be decoded."""
    capture = cv2.VideoCapture(str(path))
    try:
        count = reported_frames(capture) if capture.isOpened() else 0
        capture.set(cv2.CAP_PROP_POS_FRAMES, max(count - 1, 0))
        return count, count > 0 and capture.read()[0]
    finally:
        capture.release()
