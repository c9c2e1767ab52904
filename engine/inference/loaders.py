"""YOLOv5's iterators over images, videos, streams and the screen, on top of `sources` and `streams`.

Each item of `LoadImages`, `LoadStreams` and `LoadScreenshots` is
    path: file, list of streams, or number of the screen;
    im: uint8, RGB, contiguous, letterboxed: (3, H, W), of streams (B, 3, H, W);
    im0: (H0, W0, 3) BGR uint8 as read, of streams a list of these;
    cap: the `cv2.VideoCapture` of a video file, else None;
    text: how far it is, for the log.
"""

import dis
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import dropwhile
from pathlib import Path
from types import CodeType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.inference.pipeline import Frame
from engine.inference.sources import open_files, open_screen, read_lines
from engine.inference.streams import Streams
from engine.inference.video import reported_frames
from models.detector import Detector
from utils.augmentations import letterbox
from utils.datasets.images import VID_FORMATS

Transforms = Callable[[NDArray], Any]
Size = int | tuple[int, int]
Item = tuple[Any, Any, Any, cv2.VideoCapture | None, str]


class _Loader:
    """What the iterators share: how an image is fitted into the input of a network."""

    mode = "stream"

    def __init__(
        self, img_size: Size, stride: int, auto: bool, transforms: Transforms | None = None, vid_stride: int = 1
    ) -> None:
        if vid_stride < 1:
            raise ValueError(f"vid_stride is {vid_stride}, but must be at least 1")
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms
        self.vid_stride = vid_stride

    def _fit(self, image: NDArray) -> Any:
        """Letterbox an image (H, W, 3) BGR to (3, h, w) RGB, or apply `transforms` instead."""
        if self.transforms:
            return self.transforms(image)
        (fitted,) = Detector.fit([image], self.img_size, self.stride if self.auto else None, bgr=True)
        return np.ascontiguousarray(fitted)


class LoadImages(_Loader):
    """Read image and video files, images first. A file that cannot be read is skipped with a warning.

    Args:
        path: file, folder, pattern, `.txt` list of these, or a sequence of them (`sources.open_files`).
        img_size: side of the square input in pixels, or its (height, width).
        stride: with `auto` the sides of the input are multiples of it.
        auto: pad only up to the next multiple of `stride` instead of the whole input.
        transforms: takes the image (H, W, 3) BGR instead of the letterbox.
        vid_stride: read every Nth frame of a video.

    Attributes:
        files: N paths; `nf` is N and `video_flag` says which are videos.
        mode: "image", from the first frame of a video on "video".
        count: files done.
        cap: the video that is being read; before that, the first one; None without videos.
        frame, frames: number of the last frame of this video, from 1, and how many it has, both after `vid_stride`.
            They do not exist if there is no video.

    Raises:
        FileNotFoundError, ValueError: a path does not exist, or there is nothing to read.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms | None = None,
        vid_stride: int = 1,
    ) -> None:
        super().__init__(img_size, stride, auto, transforms, vid_stride)
        self._source = open_files(path, vid_stride)
        self.files, self.nf = self._source.names, len(self._source.names)
        self._index = {file: number for number, file in enumerate(self.files)}
        self.video_flag = [False] * len(self._source.images) + [True] * len(self._source.videos)
        self.__iter__()

    def __iter__(self) -> "LoadImages":
        self.mode, self.count = "image", 0
        self.cap: cv2.VideoCapture | None = None
        if self._source.videos:
            self.cap = cv2.VideoCapture(self._source.videos[0])
            self.frame, self.frames = 0, reported_frames(self.cap) // self.vid_stride
        self._frames = iter(self._source)
        return self

    def __len__(self) -> int:
        return self.nf

    def __next__(self) -> Item:
        found = next(self._frames, None)
        if found is None:
            self.count = self.nf
            raise StopIteration
        (frame,) = found
        index = self._index[frame.source]
        if frame.kind == "image":
            self.count = index + 1
            text = f"image {self.count}/{self.nf} {frame.source}: "
        else:
            self.mode, self.count, self.cap = "video", index, self._source.capture
            self.frame, self.frames = frame.number, frame.total
            text = f"video {index + 1}/{self.nf} ({frame.number}/{frame.total}) {frame.source}: "
        return frame.source, self._fit(frame.image), frame.image, self.cap, text


class LoadStreams(_Loader):
    """Read cameras, network streams and videos at the same time, one frame of each at a step (`Streams.together`).

    Args:
        sources: text file with one camera number, URL or video a line, or one of these; or a sequence of them.
        img_size, stride, auto, transforms: as of `LoadImages`.
        vid_stride: decode every Nth frame only.

    Attributes:
        sources: names of the streams, without passwords.
        imgs: the newest frames, (H0, W0, 3) BGR uint8.
        fps: frames per second of each.
        frames: number of frames of each, infinite for a live source.
        threads: that read.
        rect: all frames take the same shape with `auto`; otherwise `auto` is off.
        count: steps done, less one.

    Raises:
        FileNotFoundError, ValueError: the text file is missing or empty.
        OSError: a stream cannot be opened, or has not one frame.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[str] = "file.streams",
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms | None = None,
        vid_stride: int = 1,
    ) -> None:
        super().__init__(img_size, stride, auto, transforms, vid_stride)
        self.count = -1
        self._streams = Streams(_addresses(sources), vid_stride)
        streams = self._streams.streams
        self.sources, self.fps = self._streams.names, [stream.fps for stream in streams]
        self.frames = [stream.total or math.inf for stream in streams]
        self.threads = [stream.thread for stream in streams]
        self._steps = self._streams.together()
        self._first = next(self._steps, None)
        if self._first is None:
            raise OSError(f"{', '.join(self.sources)}: ended before each stream gave a frame")
        self.imgs = [frame.image for frame in self._first]
        shapes = {letterbox(image, img_size, auto=auto, stride=self.stride)[0].shape for image in self.imgs}
        self.rect = len(shapes) == 1
        self.auto = auto and self.rect

    def __iter__(self) -> "LoadStreams":
        self.count = -1
        return self

    def __len__(self) -> int:
        return len(self.sources)

    def __next__(self) -> Item:
        frames = self._first or next(self._steps)
        self._first, self.imgs = None, [frame.image for frame in frames]
        self.count += 1
        fitted = [self._fit(image) for image in self.imgs]
        return self.sources, fitted if self.transforms else np.stack(fitted), list(self.imgs), None, ""


def _addresses(sources: str | Path | Sequence[str]) -> list[str]:
    """Return the streams that a text file lists, or the one that it is itself."""
    if not isinstance(sources, str | Path):
        return [str(source) for source in sources]
    text = str(sources)
    is_video = Path(text).suffix.lower().removeprefix(".") in VID_FORMATS
    is_list = text.endswith((".streams", ".txt")) or (Path(text).is_file() and not is_video)
    return read_lines(text) if is_list else [text]


class LoadScreenshots(_Loader):
    """Capture the screen repeatedly.

    Args:
        source: `screen [number] [left top width height]`; number 0, the default, means all monitors together.
        img_size, stride, auto, transforms: as of `LoadImages`.

    Attributes:
        screen: number of the screen.
        left, top, width, height: area in pixels of all monitors together; `monitor` has the four in a dict.
        frame: screenshots so far.

    Raises:
        OSError, ValueError: from `streams.Screen`.
    """

    def __init__(
        self,
        source: str,
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms | None = None,
    ) -> None:
        super().__init__(img_size, stride, auto, transforms)
        grabber = open_screen(source)
        self.screen, self.monitor, self.frame = grabber.monitor, grabber.area, 0
        self.left, self.top, self.width, self.height = (grabber.area[k] for k in ("left", "top", "width", "height"))
        self._frames = iter(grabber)

    def __iter__(self) -> "LoadScreenshots":
        return self

    def __next__(self) -> Item:
        (frame,) = next(self._frames)
        self.frame = frame.number
        text = f"screen {self.screen} (LTWH): {self.left},{self.top},{self.width},{self.height}: "
        return str(self.screen), self._fit(frame.image), frame.image, None, text


class LoadWebcam(_Loader):
    """Read one camera and mirror its images; of YOLOv5 up to 6.2.

    Args:
        pipe: number of a camera, or URL of a stream.
        img_size, stride: as of `LoadImages`.

    Attributes:
        count: frames done, less one.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, pipe: str = "0", img_size: Size = 640, stride: int = 32) -> None:
        super().__init__(img_size, stride, True)
        self._frames: Iterator[list[Frame]] = Streams([str(pipe)]).together()
        self.count = -1

    def __iter__(self) -> "LoadWebcam":
        self.count = -1
        return self

    def __len__(self) -> int:
        return 0

    def __next__(self) -> Item:
        (frame,) = next(self._frames)
        self.count += 1
        image = cv2.flip(frame.image, 1)
        return "webcam.jpg", self._fit(image), image, None, f"webcam {self.count}: "


# The same at the address `utils.datasets` of YOLOv5 up to 6.1 ---------------------------------------------------------
@lru_cache
def names_unpacked(code: CodeType, at: int) -> int | None:
    """Return how many names the instruction after `at` unpacks an item into, 4 or 5; None if it does neither.

    Args:
        code: of the function that asks for an item; `for path, im, im0, cap in loader` gives 4, also in `enumerate`.
        at: number of the byte of the instruction that asks.
    """
    for instruction in dropwhile(lambda i: i.offset <= at, dis.get_instructions(code)):
        if instruction.opname == "UNPACK_SEQUENCE" and instruction.arg in (4, 5):
            return instruction.arg
        if instruction.opname != "UNPACK_SEQUENCE" and not instruction.opname.startswith(("STORE_", "EXTENDED_ARG")):
            break
    return None


class _FourOrFive:
    """Items of four values, as up to 6.0, or of five, as in 6.1: of as many as the loop that asks unpacks.

    Where that cannot be seen, of four. A loop that wants the other number stops at once with Python's own error.
    """

    def __next__(self) -> tuple:
        caller = sys._getframe(1)
        return super().__next__()[: names_unpacked(caller.f_code, caller.f_lasti) or 4]


class DatasetsLoadImages(_FourOrFive, LoadImages):
    """`LoadImages` of `utils.datasets`; in 5.0 `frames` is called `nframes`."""

    @property
    def nframes(self) -> int:
        """Number of frames of the video."""
        return self.frames


class DatasetsLoadStreams(_FourOrFive, LoadStreams):
    """`LoadStreams` of `utils.datasets`."""


class DatasetsLoadWebcam(_FourOrFive, LoadWebcam):
    """`LoadWebcam` of `utils.datasets`."""
