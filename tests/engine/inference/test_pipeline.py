"""engine/inference/pipeline.py: order, bounds, errors and the end of the threads."""

import threading
import time

import pytest

from engine.inference.pipeline import Prefetch, Worker
from tests.waiting import HANG, wait_for


def numbers(made, last, closed):
    try:
        for i in range(last):
            made.append(i)
            yield i
    finally:
        closed.append(threading.current_thread().name)


def test_prefetch_keeps_order_and_runs_ahead_by_its_bound():
    made, closed, seen = [], [], []
    with Prefetch(numbers(made, 20, closed), 3) as items:
        for item in items:
            time.sleep(0.01)
            assert len(made) <= item + 1 + 3
            seen.append(item)
    assert seen == list(range(20))


def test_prefetch_closes_the_iteration_in_its_own_thread_when_left_early():
    made, closed, stopped = [], [], []
    with Prefetch(numbers(made, 10**9, closed), 2, lambda: stopped.append(True)) as items:
        assert next(iter(items)) == 0
    assert stopped == [True]
    assert closed[0].startswith("reader")
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 4


def test_prefetch_raises_the_error_in_its_place():
    def broken():
        yield 1
        raise OSError("disk gone")

    seen = []
    with pytest.raises(OSError, match="disk gone"), Prefetch(broken(), 2) as items:
        seen.extend(items)
    with Prefetch(broken(), 2) as items:
        assert next(iter(items)) == 1


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_worker_calls_in_order_and_finishes(ahead):
    done = []
    with Worker(done.append, ahead) as work:
        for i in range(20):
            work(i)
    assert done == list(range(20))


def test_worker_waits_for_room():
    go, waiting = threading.Event(), []
    with Worker(lambda: go.wait(HANG), 2) as work:
        work()
        work()
        thread = threading.Thread(target=lambda: (waiting.append(True), work(), waiting.append(False)))
        thread.start()
        wait_for(lambda: waiting)
        time.sleep(0.05)
        assert waiting == [True]
        go.set()
        thread.join(HANG)
    assert waiting == [True, False]


def test_worker_raises_what_the_function_raises():
    def broken():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Worker(broken) as work:
        work()


def test_worker_does_not_hide_an_earlier_error():
    def broken():
        time.sleep(0.2)
        raise OSError("disk full")

    with pytest.raises(KeyError), Worker(broken) as work:  # noqa: PT012
        work()
        raise KeyError
