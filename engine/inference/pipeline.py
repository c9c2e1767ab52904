"""What travels through detect.py, and the threads it travels through: reading, computing and writing overlap."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from utils.datasets.output_names import ResultNames, name_results

Item = TypeVar("Item")
_END = object()
STREAM_FPS = 30.0  # of saved videos whose source does not say, such as a screen


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        image: (H, W, 3) BGR uint8, to be drawn on.
        source: what it comes from: the path of an image or video, or the name of a stream or screen.
        kind: "image", "video" or "live" (stream, camera, screen).
        number: counts the frames read of a video or live source, or the pages of an image, from 1; 0 for an image of
            one.
        total: frames the video will give, 0 if unknown.
        fps: frames per second at which to save what was read.
        pixels: (H, W, C) on the scale 0..255, what the network reads where that is not `image`.
    """

    image: NDArray
    source: str
    kind: str = "image"
    number: int = 0
    total: int = 0
    fps: float = STREAM_FPS
    pixels: NDArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[:2]


class Source:
    """What frames come from; iteration gives lists of `Frame`, one from each input at most.

    Args:
        names: of the inputs, all different: paths, or names of streams.
        videos: those that may give several frames.

    Attributes:
        names, videos: see above. live: frames come whether they are taken or not.
        left_out: description of other files, which are not read; "" for none.
        failed: inputs of which nothing could be read, so far.
    """

    live = False
    left_out = ""

    def __init__(self, names: Sequence[str], videos: Sequence[str]) -> None:
        self.names, self.videos = list(names), list(videos)
        self.failed: list[str] = []

    @cached_property
    def results(self) -> ResultNames:
        """What all writers call the results of each input."""
        return name_results(self.names, self.videos)

    def __iter__(self) -> Iterator[list[Frame]]:
        raise NotImplementedError

    def stop(self) -> None:
        """End the iteration."""
        raise NotImplementedError


class Prefetch(Generic[Item]):
    """Iterate in a separate thread, a few items ahead. A context manager: leaving it ends the thread.

    An error of the iteration is raised where its item would have come.

    Args:
        items: called for and closed in that thread only, so it may hold what belongs to one thread.
        ahead: items made before they are asked for, at least 1. This bounds the memory.
        stop: called first on leaving; must make an iteration that waits give up.
    """

    def __init__(self, items: Iterable[Item], ahead: int = 2, stop: Callable[[], None] = lambda: None) -> None:
        self._iterator, self._ahead, self._stop = iter(items), ahead, stop
        self._pool = ThreadPoolExecutor(1, "reader")
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> "Prefetch[Item]":
        return self

    def __iter__(self) -> Iterator[Item]:
        while True:
            while len(self._waiting) < self._ahead:
                self._waiting.append(self._pool.submit(next, self._iterator, _END))
            item = self._waiting.popleft().result()
            if item is _END:
                return
            self._waiting.append(self._pool.submit(next, self._iterator, _END))
            yield item

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()  # first: the thread may wait for a frame, and cancel does not reach a call that runs
        for future in self._waiting:
            future.cancel()
        close = getattr(self._iterator, "close", None)
        if close:  # in the thread that ran the generator: captures belong to it
            self._pool.submit(close)
        self._pool.shutdown(wait=True)


class Worker:
    """Call a function in a separate thread, in order. A context manager: leaving it waits for pending calls.

    An error of the function is raised by one of the next calls, or on leaving.

    Args:
        function: what to call.
        ahead: calls that may wait; the next one waits for room. This bounds the memory. 0 calls without a thread.
    """

    def __init__(self, function: Callable[..., None], ahead: int = 4) -> None:
        self._function, self._ahead = function, ahead
        self._pool = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> "Worker":
        return self

    def __call__(self, *args: Any) -> None:
        """Call the function, now or soon."""
        if not self._ahead:
            self._function(*args)
            return
        self._waiting.append(self._pool.submit(self._function, *args))
        # waits only when full; calls that are done are collected at once, so that their errors are raised early
        while len(self._waiting) > self._ahead or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:  # else the first error is the one to report
            for future in self._waiting:
                future.result()
