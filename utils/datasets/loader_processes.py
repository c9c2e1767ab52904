"""The DataLoader of training and validation: its number of workers, and clear errors when a worker dies."""

import multiprocessing.queues
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from utils.console import LOGGER, NO_MEMORY

SHARED = Path("/dev/shm")  # where processes on Linux hand over batches
DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")  # how PyTorch begins when a process ended
WRAPPED = re.compile(r"Caught \w+ in (DataLoader worker process|pin memory thread)[^\n]*\n")
NO_SHARED_MEMORY = re.compile(r"shared memory|</torch_|unable to mmap|Bus error")
SMALLER = "use a smaller --batch-size or --img"
NO_FILES = re.compile(r"Too many open files|items of ancdata")


class LoaderError(OSError):
    """Loading images failed; the message says what to do."""


def start_worker(worker: int) -> None:
    """Set up a process that loads: OpenCV with one thread, as the processes are the parallelism; ended by its parent.

    If it cannot hand over a batch it ends, so that its parent does not wait for that batch for ever.
    """
    cv2.setNumThreads(0)
    shield_worker()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)


def shield_worker() -> None:
    """Protect a data loading process from signals sent to the whole group or job; only its parent may end it.

    The training needs its loaders up to the batch after which it saves. On systems without `sigwaitinfo` (macOS,
    Windows) only Ctrl-C is ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def seed_worker(worker_id: int) -> None:  # noqa: ARG001 - as DataLoader calls its worker_init_fn
    """Seed the global state of `random` and NumPy in a worker, from that of torch: for datasets that draw from it."""
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)  # noqa: NPY002 - the global state on purpose
    random.seed(seed)


def _end_worker(error: BaseException, batch: Any) -> NoReturn:
    """End a process whose thread cannot send a batch: Python itself would print a traceback and drop the batch."""
    os.write(2, f"a loader process cannot hand over a batch: {error}\n".encode())
    os._exit(1)


class Loader(DataLoader):
    """A DataLoader with error messages for users, raised by its iterator only.

    PyTorch also raises the end of a process from a signal handler, at any line of the program and once more while it
    ends. That handler is taken away: whoever waits for a batch learns of the end within five seconds.
    """

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of one pass.

        Raises:
            LoaderError: a process that loads ended, memory did not suffice, or an image gave an OSError.
            ValueError: of an image. Other exceptions are bugs and pass as they are.
        """
        batches: Iterator[Any] = iter(())
        try:
            batches = _without_handler(super().__iter__)
            yield from batches
        except (RuntimeError, OSError, ValueError, MemoryError, EOFError, cv2.error) as error:
            raise _explained(error, getattr(batches, "_workers", ())) from error


class InfiniteDataLoader(Loader):
    """A `Loader` whose worker processes are kept from pass to pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"persistent_workers": kwargs.get("num_workers", 0) > 0, **kwargs})


def _without_handler(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Return what `start` does, with the handler of SIGCHLD as it was; only the main thread can have changed it."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return start()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return start()
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _explained(error: Exception, processes: Sequence[Any]) -> Exception:
    """Return what to raise instead of an error of a loader with these processes, or the error itself."""
    text = str(error)
    wrapped = WRAPPED.match(text)
    if wrapped:  # with a traceback, whose lines but for the last ones are indented
        what = " ".join(text[text.rfind("\n  ") + 1 :].splitlines()[1:])
    else:
        what = text if str(error) else type(error).__name__
    fewer = "use fewer --workers, or --workers 0, which loads in the main process"
    if NO_SHARED_MEMORY.search(what):
        return LoaderError(f"a loader process found too little {_shared_memory()}; or {fewer}")
    if NO_FILES.search(what):
        return LoaderError(f"too many open files: raise the limit with ulimit -n 65536; or {fewer}")
    if isinstance(error, MemoryError) or NO_MEMORY.search(what):
        return LoaderError(f"not enough memory to load images ({what}): {SMALLER}; or {fewer}")
    broken = processes and not wrapped and isinstance(error, OSError | EOFError)  # the connection to a process
    if broken or DIED.match(text):
        ends = sorted({process.exitcode for process in processes} - {0, None})
        why = "perhaps because it ran out of memory or of "
        if -9 in ends:  # SIGKILL: sent by the kernel when memory, or that of the container, runs out
            why = f"most likely as memory ran out: {SMALLER}, and no --cache ram; else it may be too little "
        how = ", ".join(signal.Signals(-end).name if end < 0 else f"status {end}" for end in ends)
        return LoaderError(
            f"a loader process ended ({how or what.partition('. ')[0]}), {why}{_shared_memory()}; or {fewer}"
        )
    if wrapped and isinstance(error, OSError | ValueError):
        return (LoaderError if isinstance(error, OSError) else ValueError)(f"an image cannot be loaded: {what}")
    return error


def _shared_memory() -> str:
    """Return the words for the shared memory, its size, and how to get more."""
    size = ""
    with suppress(OSError):
        stat = os.statvfs(SHARED)
        size = f", {stat.f_bavail * stat.f_frsize / 1e6:.0f} MB of {stat.f_blocks * stat.f_frsize / 1e6:.0f} MB free"
    return f"shared memory ({SHARED}{size}): start a container with docker run --shm-size=8g or --ipc=host"


def workers_that_fit(workers: int, batch_bytes: int, processes: int = 1, prefix: str = "") -> int:
    """Return how many loader processes the shared memory suffices for, at most `workers`; warn if it is fewer.

    Each process works ahead by two batches, and one more is in use. On systems without /dev/shm all are said to fit.

    Args:
        workers: wanted.
        batch_bytes: of the images of one batch.
        processes: trainings on this machine that share the memory.
        prefix: put before the warning.
    """
    if not workers or sys.platform != "linux":
        return workers
    try:
        stat = os.statvfs(SHARED)
    except OSError:
        return workers
    batches = int(0.9 * stat.f_bavail * stat.f_frsize / processes / max(batch_bytes, 1))
    fitting = max(min(workers, (batches - 1) // 2), 0)
    if fitting < workers:
        LOGGER.warning(
            f"{prefix}{fitting} instead of {workers} loader processes, for batches of {batch_bytes / 1e6:.1f} MB: too "
            f"little {_shared_memory()}"
        )
    return fitting
