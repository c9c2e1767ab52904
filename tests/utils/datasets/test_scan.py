"""Checking a split by threads and by forked processes: equal results, and an end to every process."""

import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from tests.waiting import HANG, wait_for
from utils.datasets import scan as ls
from utils.datasets.reader import Verified

fork_only = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


class Made:
    """Images that exist in name only: every seventh is bad, every third has polygons, every fifth no label."""

    def __init__(self, n):
        self.im_files = [f"{i}.jpg" for i in range(n)]

    def verify(self, i):
        if i % 7 == 6:
            return Verified(False, messages=[f"{i}.jpg: image left out: made so"])
        m = 0 if i % 5 == 4 else i % 3
        segments = [np.full((3, 2), i, np.float32)] * m if i % 3 == 2 else []
        return Verified(True, (i + 10, 20), np.full((m, 5), i, np.float32), segments, "found" if m else "empty")


class Deadly(Made):
    def verify(self, i):
        if i == 300:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().verify(i)


class Slow(Made):
    def verify(self, i):
        time.sleep(0.01)
        return super().verify(i)


def spans(n, size=ls.SPAN):
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def plain(parts):
    return [p._replace(labels=p.labels.tolist(), segments=[[s.tolist() for s in x] for x in p.segments]) for p in parts]


@pytest.fixture
def children():
    """Function that lists the processes begun since the start of the test: others may have loaders that still live."""
    before = {process.pid for process in multiprocessing.active_children()}
    return lambda: [process.pid for process in multiprocessing.active_children() if process.pid not in before]


def test_a_span_by_hand():
    part = ls.check_span(Made(20), range(4, 9))
    assert part.kept == [4, 5, 7, 8]
    assert part.sizes == [(14, 20), (15, 20), (17, 20), (18, 20)]
    assert part.labels[:, 0].tolist() == [5, 5, 7, 8, 8]
    assert part.labels.dtype == np.float32
    assert part.lengths == [0, 2, 1, 2]
    assert [len(s) for s in part.segments] == [0, 2, 0, 2]
    assert part.states == {"empty": 1, "found": 3, "corrupt": 1}
    assert part.messages == ["6.jpg: image left out: made so"]


@fork_only
@pytest.mark.parametrize(("n", "processes"), [(0, 2), (1, 2), (128, 3), (1000, 1), (1000, 3)])
def test_processes_find_what_threads_find(n, processes, children):
    source = Made(n)
    assert plain(ls.in_processes(source, spans(n), processes)) == plain(ls.in_threads(source, spans(n), 2))
    assert children() == []


@fork_only
def test_many_images_are_read_by_processes_and_few_are_not(monkeypatch):
    used = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    in_processes = ls.in_processes
    monkeypatch.setattr(ls, "in_processes", lambda *a: used.append(a[2]) or in_processes(*a))
    assert sum(len(part.kept) for part in ls.check_all(Made(ls.FEW - 1), "x")) == ls.FEW - 1 - (ls.FEW - 1) // 7
    assert used == []
    assert sum(sum(part.states.values()) for part in ls.check_all(Made(ls.FEW), "x")) == ls.FEW
    assert used == [3]


@fork_only
def test_a_killed_process_is_an_error_and_leaves_none_behind(children):
    with pytest.raises(OSError, match="a process that reads labels ended early, with status -9"):
        list(ls.in_processes(Deadly(1000), spans(1000), 2))
    assert children() == []


@fork_only
def test_ctrl_c_ends_the_processes(children):
    def interrupt():
        wait_for(lambda: len(children()) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(ls.in_processes(Slow(100_000), spans(100_000), 2))
    thread.join()
    assert children() == []


@fork_only
def test_ctrl_c_while_the_processes_start(children, monkeypatch):
    process = multiprocessing.get_context("fork").Process
    start = process.start

    def start_one(self):
        if children():
            raise KeyboardInterrupt
        start(self)

    monkeypatch.setattr(process, "start", start_one)
    with pytest.raises(KeyboardInterrupt):
        list(ls.in_processes(Made(1000), spans(1000), 2))
    assert children() == []


@fork_only
def test_processes_end_with_their_parent(children):
    """The parent is killed while both children have more to send than a pipe holds."""

    def parent(sender):
        parts = ls.in_processes(Made(60_000), spans(60_000, 4000), 2)
        next(parts)
        sender.send(children())
        time.sleep(HANG)

    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=parent, args=(sender,))
    process.start()
    pids = receiver.recv()
    assert len(pids) == 2
    process.kill()
    process.join()
    wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid):
    """Tell whether a process runs; one that ended and whose new parent has not asked for it does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
