"""Annotated images and videos, crops and windows of a run of detect.py."""

import os
import re
import socket
import sys
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import cv2
from numpy.typing import NDArray
from torch import Tensor

from engine.inference.pipeline import Frame
from engine.inference.video import MPEG4, VideoFile, conversion
from utils.annotate import crop_box, write_image
from utils.console import LOGGER
from utils.datasets.output_names import ResultNames, free_name, name_part
from utils.paths import command
from utils.text import file_names, printable


class Pictures:
    """Write annotated images, videos and, if asked, the frames of videos as images of their own.

    The pages of an image with several become `pages/<stem>_<number>.jpg`.

    Args:
        folder: of the run.
        names: of all that will come.
        save: write images and videos.
        frames: write frames too, as `frames/<stem>_<number>.jpg`.

    Raises:
        ValueError: an image would replace its own source.
    """

    def __init__(self, folder: Path, names: ResultNames, save: bool = True, frames: bool = False) -> None:
        self.folder, self.names, self.stems, self.save, self.frames = folder, names.images, names.stems, save, frames
        self._videos: dict[str, VideoFile] = {}
        self._advised = False
        self._taken = {name.lower() for name in self.names.values()}
        for source, name in self.names.items():
            if save and (folder / name).exists() and Path(source).exists() and (folder / name).samefile(source):
                raise ValueError(
                    f"{source}: its annotated image would overwrite it. Choose another --project or --name"
                )

    def add(self, frame: Frame, picture: NDArray) -> None:
        """Write the annotated `picture` of a frame."""
        if frame.kind == "image":
            page = f"pages/{self.stems[frame.source]}_{frame.number}.jpg"
            if self.save:
                write_image(self.folder / (page if frame.number else self.names[frame.source]), picture)
            return
        if self.frames:
            write_image(self.folder / "frames" / f"{self.stems[frame.source]}_{frame.number}.jpg", picture)
        if self.save:
            self._video(frame).write(picture)

    def _video(self, frame: Frame) -> VideoFile:
        """Return the open video of a source; a new one when frames change their size, as streams may."""
        video = self._videos.get(frame.source)
        if video and video.shape == frame.shape:
            return video
        if frame.kind == "video" and not video:  # files come one after the other: the one before is complete
            self.close()
        target = self.folder / self.names[frame.source]
        if video:
            video.close()
            name = free_name(self.names[frame.source], self._taken)
            self._taken.add(name.lower())
            target = self.folder / name
            LOGGER.warning(f"{frame.source}: the frame size changed, continuing in {target}")
        self._videos[frame.source] = VideoFile(target, frame.fps, frame.shape)
        return self._videos[frame.source]

    def close(self) -> None:
        """Finish all videos; of the first one that browsers do not play say how to convert it."""
        first = next(iter(self._videos.values()), None)
        with ExitStack() as stack:
            for video in self._videos.values():
                stack.callback(video.close)
            self._videos.clear()
        if first and first.codec == MPEG4 and not self._advised:
            self._advised = True
            LOGGER.info(
                f"{first.path}: {MPEG4}, as this OpenCV writes no H.264; for browsers: {conversion(first.path)}"
            )


class Crops:
    """Write the crop of each box: `<class>/<stem>.jpg`, then `<stem>-2.jpg`, ...

    Crops are cut by `crop_box` from the image before boxes are drawn.

    Args:
        folder: where to.
        stems: of all that will come, see `ResultNames`.
        names: class names by index.
    """

    def __init__(self, folder: Path, stems: Mapping[str, str], names: Mapping[int, str]) -> None:
        self.folder, self._groups = folder, file_names(names)
        stems = {source: name_part(re.sub(r"[\\/]", "_", stem)) for source, stem in stems.items()}
        bases = set(stems.values())
        for source, stem in stems.items():  # the second crop of `a` is a-2, so the first one of `a-2` is not
            base, _, number = stem.rpartition("-")
            if number.isdecimal() and base in bases:
                stems[source] = f"{stem}{Path(source).suffix}_"
        self._stems = stems
        self._count: Counter[tuple[str, str]] = Counter()

    def add(self, frame: Frame, detections: Tensor) -> None:
        """Write the crops of a frame, best first; (D, 6) `[xyxy_img, confidence, class]`."""
        for *box, _, cls in detections.tolist():
            write_image(self._file(frame, int(cls)), crop_box(frame.image, box))

    def _file(self, frame: Frame, cls: int) -> Path:
        """Return the next path for a class and source."""
        group, stem = self._groups[cls], self._stems[frame.source]
        self._count[group, stem] += 1
        n = self._count[group, stem]
        name = stem if n == 1 else f"{stem}-{n}"
        return self.folder / group / f"{name}.jpg"


# Windows --------------------------------------------------------------------------------------------------------------


def display_problem() -> str:
    """Return why no window can be opened; "" if one can. OpenCV itself would abort the program."""
    gui = re.search(r"GUI:\s*(\S+)", cv2.getBuildInformation())
    if gui is None or gui.group(1).upper() == "NONE":
        swap = command("pip", "uninstall", "-y", "opencv-python-headless"), command("pip", "install", "opencv-python")
        return f"this OpenCV is built without windows: {' && '.join(swap)}"
    if sys.platform in ("win32", "darwin"):
        return ""
    if os.environ.get("WAYLAND_DISPLAY") and not os.environ.get("DISPLAY"):
        return ""
    name = os.environ.get("DISPLAY", "")
    found = re.fullmatch(r"(.*):(\d+)(?:\.\d+)?", name)
    if not found:
        return "there is no display (the variable DISPLAY is not set)"
    host, number = found.group(1), int(found.group(2))
    local = host in ("", "unix")
    try:
        with socket.socket(socket.AF_UNIX if local else socket.AF_INET) as probe:
            probe.settimeout(3)
            probe.connect(f"/tmp/.X11-unix/X{number}" if local else (host, 6000 + number))
    except OSError as error:
        return f"the display {name} does not answer ({error})"
    return ""


class Windows:
    """Show annotated frames, one window per source. Only for the main thread."""

    def __init__(self) -> None:
        self._open: deque[str] = deque(maxlen=16)

    def show(self, frame: Frame, picture: NDArray) -> bool:
        """Show a frame; False if the user pressed q or Esc."""
        title = printable(frame.source)
        if title not in self._open:
            self._open.append(title)
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(title, picture.shape[1], picture.shape[0])
        cv2.imshow(title, picture)
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)

    def close(self) -> None:
        """Close all windows."""
        if self._open:
            cv2.destroyAllWindows()


def open_windows(asked: bool, camera: bool) -> Windows | None:
    """Open windows if asked, or for a camera if possible.

    Raises:
        ValueError: they were asked for, and none can be opened.
    """
    if not asked and not camera:
        return None
    problem = display_problem()
    if problem and asked:
        raise ValueError(f"--view-img: {problem}")
    return None if problem else Windows()
