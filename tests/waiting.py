"""How tests wait: for a condition, or for the end of a process, and never for less than what only a hang takes.

No test may depend on how busy the machine is, so clocks are read here only. What may not be slow is measured in CPU
time (`time.process_time`), which other programs do not take from this one.
"""

import time
from collections.abc import Callable

HANG = 600  # seconds; nothing in the suite takes so long, on however busy a machine


def wait_for(condition: Callable[[], object], pause: float = 0.02) -> None:
    """Return once the condition holds; AssertionError after `HANG` seconds."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


def wait_for_next_second() -> None:
    """Return when the clock shows another second, for programs that name or sort their files by it."""
    second = int(time.time())
    wait_for(lambda: int(time.time()) != second)


def in_an_hour() -> float:
    """Return a deadline, seconds since 1970, that no test reaches."""
    return time.time() + 3600
