"""Which parts there are, in the order of importance, and how they share the time."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.gpu.attention import attention_items
from benchmarks.gpu.distributed import distributed_items
from benchmarks.gpu.memory import autobatch_items, large_items
from benchmarks.gpu.precision import precision_items
from benchmarks.gpu.programs import describe_machine, program_items, run_tests, tensorrt_items
from benchmarks.gpu.speed import speed_items
from benchmarks.gpu.work import Item, Setting, Work, free_memory

OVERRUN = 0.25  # of the time of a part, by which its last item may be late


@dataclass(frozen=True)
class Part:
    """Items that share a part of the time.

    Args:
        name: one word, as --parts takes it.
        title: heading of the page.
        share: of the time, in relation to the other parts.
        items: names and functions for a setting, in the order of importance.
    """

    name: str
    title: str
    share: float
    items: Callable[[Setting], dict[str, Item]]


PARTS = (
    Part("machine", "Machine", 2, lambda _: {"machine": describe_machine}),
    Part("precision", "Training in float16 and bfloat16", 12, precision_items),
    Part("programs", "Hub and video", 6, program_items),
    Part("attention", "Attention cores", 20, attention_items),
    Part("speed", "Training step and latency", 24, speed_items),
    Part("autobatch", "AutoBatch", 6, autobatch_items),
    Part("large", "Training at 1536 pixels", 8, large_items),
    Part("ddp", "Two processes", 5, distributed_items),
    Part("tests", "Tests marked gpu", 16, lambda _: {"pytest": run_tests}),
    Part("tensorrt", "TensorRT", 8, tensorrt_items),
)


def allowance(part: Part, parts: Iterable[Part], left: float) -> float:
    """Return the seconds of a part that begins now: its share among those that are still to run, itself included.

    What a part leaves unused so goes to all that follow.
    """
    total = sum(other.share for other in parts)
    return max(left, 0.0) * part.share / total


def run_parts(parts: list[Part], work: Work, deadline: float, done: set[tuple[str, str]]) -> None:
    """Run all items that begin within the time of their part, and write down the rest as not run.

    Args:
        parts: in order.
        work: takes the results.
        deadline: of everything, seconds of `time.time`.
        done: (part, item) that ran, or was given up, before this process.
    """
    for i, part in enumerate(parts):
        items = {name: item for name, item in part.items(work.setting).items() if (part.name, name) not in done}
        seconds = allowance(part, parts[i:], deadline - time.time())
        work.end = end = time.time() + seconds
        for name, item in items.items():
            work.place = {"part": part.name, "item": name}
            if time.time() >= end:
                work.write("not run", why="the time of its part was spent")
                continue
            start = time.time()
            work.write("begin", until=min(end + OVERRUN * seconds, deadline))
            item(work)
            free_memory(work.device)
            work.write("end", seconds=time.time() - start)
