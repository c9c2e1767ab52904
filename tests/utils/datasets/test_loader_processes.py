"""Loader processes that end, and errors that they hand over: one sentence each, whatever happens to them."""

import os
import re
import resource
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from utils.dataloaders import create_dataloader
from utils.datasets import loader_processes
from utils.datasets.loader_processes import Loader, LoaderError, start_worker, workers_that_fit
from utils.datasets.reader import decode_image
from utils.hyp import Hyp

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /dev/shm")
SHM = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"


class Bad(Dataset):
    """Image 3 does what the test says."""

    def __init__(self, act):
        self.act = act

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3:
            self.act()  # this line stands in tracebacks: shared memory, Too many open files, MemoryError
        return torch.zeros(2)


def fail(error):
    def act():
        raise error

    return act


def load(act, workers):
    context = "fork" if workers else None
    loader = Loader(Bad(act), num_workers=workers, worker_init_fn=start_worker, multiprocessing_context=context)
    return [len(batch) for batch in loader]


@linux
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(SHM), ["/dev/shm", "--shm-size", "--ipc=host", "--workers 0"]),
        (RuntimeError("received 0 items of ancdata"), ["ulimit -n", "--workers 0"]),
        (OSError(24, "Too many open files"), ["ulimit -n", "--workers 0"]),
        (MemoryError(), ["not enough memory", "--batch-size", "--workers 0"]),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            ["not enough memory"],
        ),
        (FileNotFoundError(2, "No such file or directory", "gone.jpg"), ["gone.jpg", "No such file"]),
    ],
)
def test_errors_of_loading_say_what_to_do(error, words, workers):
    with pytest.raises(OSError, match=".") as caught:
        load(fail(error), workers)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@linux
def test_values_that_are_wrong_stay_value_errors_and_bugs_stay_bugs():
    """What is looked for in a message must not be found in the lines of code of its traceback: shared memory."""
    with pytest.raises(ValueError, match="^an image cannot be loaded: ValueError: a.jpg: bad$"):
        load(fail(ValueError("a.jpg: bad")), 1)
    with pytest.raises(RuntimeError, match="Traceback") as caught:
        load(fail(RuntimeError("mat1 and mat2 shapes cannot be multiplied")), 1)  # nor a MemoryError
    assert not isinstance(caught.value, OSError)
    with pytest.raises(TypeError):
        load(fail(TypeError("a bug")), 1)


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_process_that_is_killed_ends_the_loading_with_a_sentence(number):
    with pytest.raises(LoaderError) as caught:
        load(lambda: os.kill(os.getpid(), number), 1)
    assert re.search("a loader process .*/dev/shm.*--shm-size.*--workers 0", str(caught.value))
    assert "\n" not in str(caught.value)


@linux
def test_the_end_of_a_process_is_told_by_the_iterator_alone():
    """Not by a handler of SIGCHLD, which would raise in the middle of a training step."""
    before = signal.getsignal(signal.SIGCHLD)
    assert load(lambda: None, 1) == [1] * 8
    assert signal.getsignal(signal.SIGCHLD) == before


@linux
def test_a_batch_that_cannot_be_handed_over_does_not_hang():
    """Python drops such a batch, and its receiver would wait for ever."""

    class Stuck(torch.Tensor):
        def __reduce_ex__(self, protocol):
            raise OSError(24, "Too many open files")

    loader = Loader(
        Bad(lambda: None), num_workers=1, worker_init_fn=start_worker, multiprocessing_context="fork", timeout=8,
        collate_fn=lambda samples: torch.zeros(1).as_subclass(Stuck),
    )  # fmt: skip
    with pytest.raises(LoaderError, match="a loader process ended"):
        list(loader)


@linux
def test_too_many_open_files_end_with_a_sentence():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    loader = Loader(Bad(lambda: None), num_workers=1, worker_init_fn=start_worker, multiprocessing_context="fork")
    batches = iter(loader)
    next(batches)
    free = sorted(set(range(1000)) - set(map(int, os.listdir("/proc/self/fd"))))
    kept = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[2], before[1]))
        with pytest.raises(LoaderError, match="ulimit -n"):
            kept.extend(batches)  # each batch holds a file
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def memory(monkeypatch, megabytes):
    stat = SimpleNamespace(f_bavail=megabytes, f_blocks=64, f_frsize=1_000_000)
    monkeypatch.setattr(loader_processes.os, "statvfs", lambda path: stat)


@linux
@pytest.mark.parametrize(("free", "fitting"), [(64, 1), (64 * 20, 8), (20, 0), (160, 3), (0, 0)])
def test_no_more_processes_than_the_shared_memory_feeds(monkeypatch, caplog, free, fitting):
    memory(monkeypatch, free)
    assert workers_that_fit(8, 19_000_000) == fitting
    assert ("--shm-size" in caplog.text) == (fitting < 8)
    assert workers_that_fit(0, 19_000_000) == 0


@linux
@pytest.mark.parametrize(("megabytes", "workers"), [(64, 1), (0, 0)])
def test_the_loader_of_a_dataset_asks_for_shared_memory(tiny_dataset, monkeypatch, megabytes, workers):
    memory(monkeypatch, megabytes)
    folder = tiny_dataset.parent / "tiny/images/train"
    loader, _ = create_dataloader(folder, 64, 2, 32, hyp=Hyp(), augment=True, workers=1)
    assert loader.num_workers == workers


@linux
def test_an_image_that_vanishes_is_named(tiny_dataset, monkeypatch):
    monkeypatch.setattr("utils.dataloaders.decode_image", lambda file, flags: decode_image(f"{file}.gone", flags))
    loader, _ = create_dataloader(tiny_dataset.parent / "tiny/images/train", 64, 2, 32, workers=1)
    with pytest.raises(LoaderError, match=r"an image cannot be loaded: FileNotFoundError: .*\.gone"):
        list(loader)
