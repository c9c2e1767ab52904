"""Batches of one shape from frames of any, and their results in the order of the frames again."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from engine.inference.pipeline import Frame
from engine.inference.predictor import Prepared
from utils.console import LOGGER

Item = TypeVar("Item")
WINDOW = 4  # batches of frames among which frames of one shape are looked for
HELD_BYTES = 1 << 30  # of frames beyond those of one batch


def batches(
    source: Iterable[list[Frame]],
    prepare: Callable[[list[Frame]], Prepared],
    size: int | None,
    live: bool = False,
    alone: Callable[[Frame], bool] = lambda frame: False,
) -> Iterator[Prepared]:
    """Put the frames of a source into batches, each frame with the input that it has alone.

    Frames whose inputs have one shape share a batch; the next ones of other shapes wait meanwhile, so that batches are
    not in the order of the frames: see `InOrder`. When the oldest waiting frame is `WINDOW` batches behind the newest,
    or more than `HELD_BYTES` are held because of it, its batch goes out as it is.

    Args:
        source: gives lists of frames that come together.
        prepare: makes the network input, see `Predictor.prepare`.
        size: most frames of a batch. None makes one batch of each list, whose frames get a common shape.
        live: nothing waits for frames of a later list.
        alone: whether a frame has a batch to itself.

    Yields:
        `Prepared` with `numbers`.
    """
    number = -1
    waiting: dict[Hashable, list[Prepared]] = {}  # by shape; the group with the oldest frame first
    held: deque[tuple[int, int]] = deque()  # number and bytes of each frame from the oldest waiting one on
    for frames in source:
        if size is None:
            yield prepare(frames).numbered(range(number + 1, number + 1 + len(frames)))
            number += len(frames)
            continue
        for frame in frames:
            number += 1
            one = prepare([frame]).numbered([number])
            key = number if alone(frame) else one.inputs[0].shape
            waiting.setdefault(key, []).append(one)
            held.append((number, frame.image.nbytes + one.inputs[0].nbytes))
            if alone(frame) or len(waiting[key]) == size:
                yield _join(waiting.pop(key))
            while waiting and _full(held, next(iter(waiting.values()))[0].numbers[0], size):
                yield _join(waiting.pop(next(iter(waiting))))
        if live:
            yield from map(_join, _empty(waiting))
    yield from map(_join, _empty(waiting))


def _full(held: deque[tuple[int, int]], oldest: int, size: int) -> bool:
    """Forget the frames before the oldest waiting one, and return whether it must not wait longer."""
    while held[0][0] < oldest:
        held.popleft()
    return len(held) >= WINDOW * size or (len(held) > size and sum(count for _, count in held) > HELD_BYTES)


def _empty(waiting: dict[Hashable, list[Prepared]]) -> Iterator[list[Prepared]]:
    """Remove and give the groups, oldest first."""
    while waiting:
        yield waiting.pop(next(iter(waiting)))


def _join(parts: list[Prepared]) -> Prepared:
    """Put frames that were prepared one by one into one batch."""
    return Prepared(
        [frame for part in parts for frame in part.frames],
        [array for part in parts for array in part.inputs],
        sum(part.seconds for part in parts),
        [number for part in parts for number in part.numbers],
    )


class InOrder(Generic[Item]):
    """Hold results back until all earlier ones are there: those of frames 0, 1, 2, ... in any order."""

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, Item] = {}

    def add(self, number: int, item: Item) -> None:
        """Take the result of frame `number`."""
        self._held[number] = item

    def ready(self) -> Iterator[Item]:
        """Remove and give those whose turn it is."""
        while self._next in self._held:
            self._next += 1
            yield self._held.pop(self._next - 1)

    def rest(self) -> Iterator[Item]:
        """Remove and give all, in order: of an iteration that ended early, where some frames have no result."""
        for number in sorted(self._held):
            yield self._held.pop(number)


def choose_batch(asked: int | None, fixed: int | None, live: bool) -> int | None:
    """Return how many frames go through the network at once, see `batches`.

    Args:
        asked: --batch-size.
        fixed: the only number of images that a file takes, or None. It fills up with black images what is missing.
        live: frames come at their own pace.
    """
    if fixed and asked and asked != fixed:
        LOGGER.warning(f"the model file takes batches of {fixed} only: --batch-size {asked} is ignored")
    if live and not asked:
        return None
    return fixed or asked or 1
