"""Distributed training: rank, collective operations, and waiting for the first process.

Processes are started by `torchrun`, one for each device, which sets RANK, LOCAL_RANK and WORLD_SIZE. Every function
works in a single process too, where it does nothing.
"""

import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils.console import LOGGER

TIMEOUT = timedelta(hours=3)  # the others wait this long while the first one reads labels or validates


def launched_processes() -> int:
    """Return how many processes the launcher started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 for the first, the only one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the first."""
    return rank() == 0


def local_device(ids: list[int]) -> torch.device:
    """Return the device of this process: a CUDA device for each local rank, or the CPU where there is none.

    Args:
        ids: CUDA devices that --device named, [] for all.

    Raises:
        ValueError: this machine runs more processes than it has such devices.
    """
    local = int(os.environ["LOCAL_RANK"])
    if not torch.cuda.is_available():
        return torch.device("cpu")
    ids = ids or list(range(torch.cuda.device_count()))
    if local >= len(ids):
        raise ValueError(f"torchrun started process {local + 1} on this machine, but there are {len(ids)} CUDA devices")
    torch.cuda.set_device(ids[local])
    return torch.device("cuda", ids[local])


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes of the launcher while the block runs; only the first one logs. Nothing without a launcher."""
    if launched_processes() == 1:
        yield
        return
    # Imported later, as by DistributedDataParallel, they keep the group beyond its end (PyTorch 2.14), and a thread of
    # gloo that frees a tensor while Python shuts down aborts the process.
    import torch._dynamo
    import torch.distributed.optim

    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("nccl" if nccl else "gloo", timeout=TIMEOUT)
    level = LOGGER.level
    if not is_main():
        LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        gc.collect()  # a DistributedDataParallel that waits for it holds the group, and its threads go with the group
        dist.destroy_process_group()


def broadcast(value: Any) -> Any:
    """Return the value of the first process, in all of them."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def on_main(function: Callable[[], Any]) -> Any:
    """Run a function in the first process and return its result in all of them."""
    return broadcast(function() if is_main() else None)


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their numbers, in all of them."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_process(flag: bool, device: torch.device) -> bool:
    """Return in all processes whether a flag is set in any of them."""
    return flag if world_size() == 1 else bool(mean_over_processes(torch.tensor(float(flag), device=device)) > 0)


@contextmanager
def main_first() -> Iterator[None]:
    """Let the first process go through the block before the others, which then find what it left on disk."""
    if world_size() > 1 and not is_main():
        dist.barrier()
    yield
    if world_size() > 1 and is_main():
        dist.barrier()


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; NaN or infinite where it is so in any of them."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / world_size()


def shares_of_mean(counts: Sequence[float], device: torch.device) -> list[float]:
    """Return how many times the mean over the processes each count is; 1 where all of them count nothing."""
    mean = mean_over_processes(torch.tensor(counts, dtype=torch.float64, device=device)).tolist()
    return [count / average if average else 1.0 for count, average in zip(counts, mean, strict=True)]
