"""The first SIGTERM or Ctrl-C waits for a good moment, the second does not; loader processes outlive both."""

import multiprocessing
import os
import signal
import time

import pytest

from engine.interrupts import Interrupts
from tests.waiting import HANG
from utils.datasets.loader_processes import shield_worker


def test_the_first_signal_waits_and_ctrl_c_after_it_ends():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        with interrupts.patient():
            assert not interrupts.wanted
            os.kill(os.getpid(), signal.SIGTERM)
            assert (interrupts.wanted, interrupts.name) == (True, "SIGTERM")
            os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler that signals a group and its members
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(interrupts.end(), SystemExit)
        assert interrupts.end().code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_under_a_launcher_signals_come_twice():
    with Interrupts(launched=True) as interrupts, interrupts.patient():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.name == "SIGINT"


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_outside_of_the_patient_part_a_signal_ends_at_once(number, error):
    with Interrupts() as interrupts:
        with pytest.raises(error):
            os.kill(os.getpid(), number)
        assert interrupts.wanted


def _work(pipe):
    shield_worker()
    pipe.send("ready")
    while True:
        pipe.send(pipe.recv())


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs sigwaitinfo")
def test_a_shielded_worker_obeys_its_parent_only():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(theirs,), daemon=True)
    worker.start()
    assert ours.recv() == "ready"
    os.kill(worker.pid, signal.SIGINT)
    os.system(f"kill -TERM {worker.pid}")  # from another process, as a scheduler does
    time.sleep(0.2)
    ours.send("alive")
    assert ours.recv() == "alive"
    worker.terminate()
    worker.join(HANG)
    assert worker.exitcode == 0
