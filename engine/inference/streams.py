"""Live sources: cameras, network streams and the screen. Only the latest frame is kept, older ones are dropped."""

import atexit
import re
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.inference.pipeline import Frame, Source
from engine.inference.video import reported_fps, reported_frames
from utils.console import LOGGER
from utils.paths import command
from utils.text import file_name, file_names

NETWORK_TIMEOUT = 10_000  # milliseconds to open a stream, or to wait for its next frame
RETRY_FIRST, RETRY_LAST = 0.5, 10.0  # seconds between attempts to reconnect; doubled each time
REMIND = 60.0  # seconds between warnings about a stream that is still down
WAIT_FOR_THREAD = 2.5 * NETWORK_TIMEOUT / 1000  # seconds: it may be opening a stream, then wait for a frame
WAIT_IN_SILENCE = 1.0  # seconds
YOUTUBE = ("youtube.com", "youtu.be")

_started: "weakref.WeakSet[Stream]" = weakref.WeakSet()


def stream_name(address: str) -> str:
    """Name a stream for logs and files: no password, only characters allowed in file names, limited in length.

    `rtsp://me:secret@10.0.0.7/cam?x=1` becomes `rtsp___10_0_0_7_cam_x_1`.
    """
    address = re.sub(r"^([a-zA-Z][\w+.-]*://)[^/]*@", r"\1", address)
    return file_name(re.sub(r"[^\w-]", "_", f"camera{address}" if address.isdecimal() else address))


def check_no_page(address: str) -> None:
    """Raise ValueError for a YouTube page, which is not a video stream."""
    host = (urlsplit(address).hostname or "") if "://" in address else ""
    if any(host == site or host.endswith(f".{site}") for site in YOUTUBE):
        raise ValueError(
            f"{address}: YouTube pages are not supported. Give the URL of the video itself, for example the one "
            "that `yt-dlp -g PAGE` prints"
        )


def open_capture(address: str) -> cv2.VideoCapture:
    """Open a camera by number, or a stream by URL with timeouts."""
    if address.isdecimal():
        return cv2.VideoCapture(int(address))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class Stream:
    """Read one camera, network stream or, as if it were one, video file, in a thread that keeps the newest frame.

    A stream that fails is reopened until it is back, however long that takes; a file ends.

    Args:
        address: number of a camera, URL or path.
        name: for logs and files.
        vid_stride: decode every Nth frame only.
        news: notified when there is a new frame, and at the end.

    Attributes:
        done: no frame will come any more.
        fps: frames per second, as the source says.
        total: number of frames, as the source says; 0 for a live source. A file waits until its frames are taken.

    Raises:
        OSError: it cannot be opened at the start.
        ValueError: a YouTube page.
    """

    def __init__(self, address: str, name: str, vid_stride: int, news: threading.Condition) -> None:
        check_no_page(address)
        self.address, self.name, self.vid_stride, self._news = address, name, vid_stride, news
        self._capture = open_capture(address)
        if not self._capture.isOpened():
            what = "camera" if address.isdecimal() else "stream"
            raise OSError(f"{what} {name} cannot be opened: is it connected and reachable, and not in use elsewhere?")
        self.total = reported_frames(self._capture)
        self.fps = reported_fps(self._capture) / vid_stride
        self.done = False
        self._stop = threading.Event()
        self._wait_until = float("inf")
        self._newest: Frame | None = None
        self._number = 0
        self.thread = threading.Thread(target=self._run, name=f"stream {name}", daemon=True)

    def start(self) -> None:
        """Start reading."""
        _started.add(self)
        self.thread.start()

    def take(self) -> Frame | None:
        """Return the latest frame once; None if there is no new one. The caller holds `news`."""
        frame, self._newest = self._newest, None
        return frame

    def _run(self) -> None:
        while not self._stop.is_set():
            # grab without decoding: frames that are dropped cost almost nothing, and the buffer never falls behind
            if all(self._capture.grab() for _ in range(self.vid_stride)):
                decoded, image = self._capture.retrieve()
                if decoded:
                    self._publish(image)
                else:
                    LOGGER.warning(f"stream {self.name}: a frame cannot be decoded, skipped")
                continue
            if self.total or self._stop.is_set() or not self._reconnect():
                break
        self._capture.release()
        with self._news:
            self.done = True
            self._news.notify_all()

    def _publish(self, image: NDArray) -> None:
        with self._news:
            if self.total:  # a file can wait, so none of its frames need be dropped
                self._news.wait_for(lambda: self._newest is None or self._stop.is_set())
            self._number += 1
            self._newest = Frame(image, self.name, "live", self._number, 0, self.fps)
            self._news.notify_all()

    def _reconnect(self) -> bool:
        """Reopen the stream; False if the program ends before it is back."""
        lost = told = time.monotonic()
        pause = RETRY_FIRST
        LOGGER.warning(f"stream {self.name}: connection lost after frame {self._number}, reconnecting ...")
        self._capture.release()
        while not self._stop.wait(pause):
            capture = open_capture(self.address)
            if capture.isOpened() and capture.grab():  # some servers accept a connection before they have a frame
                self._capture = capture
                LOGGER.info(f"stream {self.name}: connected again after {time.monotonic() - lost:.1f} s")
                return True
            capture.release()
            pause = min(2 * pause, RETRY_LAST)
            if time.monotonic() - told > REMIND:
                told = time.monotonic()
                LOGGER.warning(f"stream {self.name}: still no connection after {told - lost:.0f} s, still retrying")
        return False

    def stop(self) -> None:
        """Ask the thread to end, and close a stream that was never started."""
        if not self._stop.is_set():
            self._stop.set()
            self._wait_until = time.monotonic() + WAIT_FOR_THREAD
        with self._news:
            self._news.notify_all()
        if self.thread.ident is None:
            self._capture.release()

    def join(self) -> None:
        """Wait for the end of the thread after `stop`, until `WAIT_FOR_THREAD` seconds after it."""
        if self.thread.ident is None:
            return
        self.thread.join(WAIT_IN_SILENCE)
        if self.thread.is_alive():
            LOGGER.info(f"stream {self.name}: waiting for the last read to finish")
            self.thread.join(max(self._wait_until - time.monotonic(), 0))


@atexit.register
def _end_all() -> None:
    """End all threads: one that came back from OpenCV while Python shuts down would abort the process."""
    started = list(_started)
    if started and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left takes a bounded time
    for stream in started:  # stop all before waiting for any: their time limits run at once
        stream.stop()
    for stream in started:
        stream.join()


class Streams(Source):
    """Several live sources at once: each step gives the frames that are new, one per source at most.

    Args:
        addresses: see `Stream`.
        vid_stride: see `Stream`.

    Attributes:
        streams: a `Stream` of each.

    Raises:
        OSError, ValueError: one of them cannot be opened at the start.
    """

    live = True

    def __init__(self, addresses: Sequence[str], vid_stride: int = 1) -> None:
        self._news = threading.Condition()
        self._stopped = False
        names = list(file_names(dict(enumerate(map(stream_name, addresses)))).values())
        super().__init__(names, names)
        self.streams: list[Stream] = []
        for address, name in zip(addresses, self.names, strict=True):
            self.streams.append(Stream(address, name, vid_stride, self._news))

    def start(self) -> None:
        """Begin to read all of them."""
        for stream in self.streams:
            stream.start()

    def __iter__(self) -> Iterator[list[Frame]]:
        self.start()
        while True:
            with self._news:
                self._news.wait_for(self._ready)
                frames = [frame for stream in self.streams if (frame := stream.take())]
                self._news.notify_all()
                if self._stopped or not frames:
                    return
            yield frames

    def _ready(self) -> bool:
        return (
            self._stopped
            or any(stream._newest is not None for stream in self.streams)
            or all(stream.done for stream in self.streams)
        )

    def together(self) -> Iterator[list[Frame]]:
        """Give one frame of every source at each step, in the order of `names`, until the first source ends.

        Files wait for each other, so none of their frames is lost or comes twice. A live source that has no new frame
        gives its last one again.
        """
        self.start()
        last: list[Frame | None] = [None] * len(self.streams)

        def ended() -> bool:
            return self._stopped or any(stream.done and stream._newest is None for stream in self.streams)

        def complete() -> bool:
            new = [stream._newest is not None for stream in self.streams]
            waits = [frame is None or stream.total for stream, frame in zip(self.streams, last, strict=True)]
            return any(new) and all(n or not w for n, w in zip(new, waits, strict=True))

        while True:
            with self._news:
                self._news.wait_for(lambda: ended() or complete())
                if not complete() or self._stopped:
                    return
                last = [stream.take() or frame for stream, frame in zip(self.streams, last, strict=True)]
                self._news.notify_all()
            yield list(last)

    def stop(self) -> None:
        """End the iteration and the threads, and wait for them."""
        self._stopped = True
        for stream in self.streams:
            stream.stop()
        for stream in self.streams:
            stream.join()


class Screen(Source):
    """Capture the screen, or a part of it, repeatedly.

    Args:
        monitor: 0 for all monitors together, 1 for the first, ...
        region: left, top, width, height in pixels, relative to the monitor; None for all of it.

    Attributes:
        area: left, top, width and height in pixels of all monitors together.

    Raises:
        ValueError: mss is not installed, or there is no such monitor or part of it.
        OSError: there is no screen.
    """

    live = True

    def __init__(self, monitor: int = 0, region: tuple[int, int, int, int] | None = None) -> None:
        self.monitor, self.region = monitor, region
        super().__init__([f"screen{monitor}"], [f"screen{monitor}"])
        self._stopped = threading.Event()
        with self._open() as grabber:
            self.area = self._find_area(grabber)

    @staticmethod
    def _open() -> Any:  # an `mss.base.MSSBase`; mss is optional
        try:
            import mss  # noqa: PLC0415  optional
        except ImportError:
            raise ValueError(f"--source screen needs mss: {command('pip', 'install', 'mss')}") from None
        try:
            return (getattr(mss, "MSS", None) or mss.mss)()
        except mss.ScreenShotError as error:
            raise OSError(f"the screen cannot be captured: {error}. Is there a display?") from None

    def _find_area(self, grabber: Any) -> dict[str, int]:
        monitors = grabber.monitors
        if not 0 <= self.monitor < len(monitors):
            raise ValueError(f"screen {self.monitor} does not exist; there are 0 (all) to {len(monitors) - 1}")
        whole = monitors[self.monitor]
        if self.region is None:
            return {key: whole[key] for key in ("left", "top", "width", "height")}
        left, top, width, height = self.region
        if left < 0 or top < 0 or left + width > whole["width"] or top + height > whole["height"]:
            raise ValueError(
                f"screen region {left} {top} {width} {height} extends beyond screen {self.monitor} of "
                f"{whole['width']} x {whole['height']} pixels"
            )
        return {"left": whole["left"] + left, "top": whole["top"] + top, "width": width, "height": height}

    def __iter__(self) -> Iterator[list[Frame]]:
        number = 0
        with self._open() as grabber:  # belongs to the thread that made it
            area = self._find_area(grabber)
            while not self._stopped.is_set():
                number += 1
                pixels = np.asarray(grabber.grab(area))  # (H, W, 4) BGRA
                yield [Frame(np.ascontiguousarray(pixels[..., :3]), self.names[0], "live", number)]

    def stop(self) -> None:
        """End the iteration."""
        self._stopped.set()
