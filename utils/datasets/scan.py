"""Check all images of a split and read their labels, by several processes where it pays."""

import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.pool import ThreadPool
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from utils.console import ProgressBar
from utils.datasets.reader import Verified

SPAN = 128  # images that are reported together
FEW = 2000  # images are checked before more processes could have started and ended


class Source(Protocol):
    """What is needed of the readers of `labels.READERS`."""

    im_files: list[str]

    def verify(self, i: int) -> Verified:
        """Check image `i` and read its labels."""
        ...


class Part(NamedTuple):
    """What was found about some images that follow each other.

    Attributes:
        kept: numbers of those that can be used.
        sizes: their (width, height).
        labels: theirs end to end, (M, 5).
        lengths: the number of labels of each.
        segments: their polygons, as in `Verified`.
        states: how many of all images are in each of the states of `Verified`.
        messages: complaints.
    """

    kept: list[int]
    sizes: list[tuple[int, int]]
    labels: np.ndarray
    lengths: list[int]
    segments: list[list[np.ndarray]]
    states: Counter[str]
    messages: list[str]


def check_span(source: Source, span: Sequence[int]) -> Part:
    """Check the images of these numbers, one by one."""
    found = [source.verify(i) for i in span]
    good = [v for v in found if v.ok]
    return Part(
        [i for i, v in zip(span, found, strict=True) if v.ok],
        [v.size for v in good],
        np.concatenate([np.zeros((0, 5), np.float32), *(v.labels for v in good)]),
        [len(v.labels) for v in good],
        [v.segments for v in good],
        Counter(v.state for v in found),
        [message for v in found for message in v.messages],
    )


def check_all(source: Source, title: str) -> list[Part]:
    """Check all images and show the progress; the parts are in order.

    Few images are checked one after the other. Of many, each CPU has its share: processes are forked where that is safe
    and usual (Linux), elsewhere there are threads.
    """
    n = len(source.im_files)
    spans = [range(i, min(i + SPAN, n)) for i in range(0, n, SPAN)]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n < FEW or cpus == 1 or multiprocessing.current_process().daemon:  # which cannot have children
        parts: Iterator[Part] = (check_span(source, span) for span in spans)
    else:
        parts = (in_processes if sys.platform == "linux" else in_threads)(source, spans, min(cpus, 8))
    with ProgressBar[None](title=title, total=n, unit="images") as bar:
        found = []
        for part in parts:
            found.append(part)
            bar.update(sum(part.states.values()))
    return found


def in_threads(source: Source, spans: Sequence[Sequence[int]], threads: int) -> Iterator[Part]:
    """Yield the parts, checked by threads, which at least wait for the disk at the same time."""
    with ThreadPool(threads) as pool:
        yield from pool.imap(lambda span: check_span(source, span), spans)


def in_processes(source: Source, spans: Sequence[Sequence[int]], processes: int) -> Iterator[Part]:
    """Yield the parts, checked by forked processes that take turns. They end with this generator.

    Raises:
        OSError: a process was ended from outside.
    """
    context = multiprocessing.get_context("fork")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # a thread pool does not outlive a fork
    workers, receivers = [], []
    try:
        for k in range(processes):
            receiver, sender = context.Pipe(duplex=False)
            receivers.append(receiver)
            work = (source, spans[k::processes], sender, receivers)
            worker = context.Process(target=_send_parts, args=work, daemon=True)
            worker.start()
            workers.append(worker)
            sender.close()  # so that the end of the process is the end of what can be received
        for number in range(len(spans)):
            yield receivers[number % processes].recv()
    except EOFError:
        worker = workers[number % processes]
        worker.join()
        raise OSError(f"a process that reads labels ended early, with status {worker.exitcode}") from None
    finally:
        for worker in workers:  # fewer than receivers if Ctrl-C came at the start
            worker.terminate()
            worker.join()
        for receiver in receivers:
            receiver.close()
        cv2.setNumThreads(threads)


def _send_parts(
    source: Source, spans: Sequence[Sequence[int]], sender: Connection, receivers: Sequence[Connection]
) -> None:
    """Check spans of images in a forked process, which leaves Ctrl-C to its parent and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for receiver in receivers:  # the parent's: if that is gone, nobody holds them open
        receiver.close()
    with suppress(BrokenPipeError):
        for span in spans:
            sender.send(check_span(source, span))
