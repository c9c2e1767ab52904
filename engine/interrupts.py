"""SIGTERM and Ctrl-C during training: finish the batch, save, log how to resume, exit."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Record the first SIGTERM or Ctrl-C instead of exiting; a second Ctrl-C ends the program at once.

    A second SIGTERM changes nothing: schedulers and launchers often send it to a group and to its members.

    Use it as a context manager around the run. Handlers are installed in the main thread only (Python allows no other)
    and put back at the end. Outside of `patient` the first signal already ends the program.

    Args:
        launched: another program watches over this process and hands on Ctrl-C too, so a second one changes nothing
            either.

    Attributes:
        number: of the first signal, None before.
    """

    def __init__(self, launched: bool = False) -> None:
        self.launched = launched
        self.number: int | None = None
        self._patient = False
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    @property
    def wanted(self) -> bool:
        """Whether a signal was received."""
        return self.number is not None

    @property
    def name(self) -> str:
        """Name of the signal received, such as SIGTERM; "" for none."""
        return signal.Signals(self.number).name if self.number else ""

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Defer the first signal while the block runs; the block must check `wanted` often."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def end(self, number: int | None = None) -> BaseException:
        """Return what ends the program: KeyboardInterrupt (exit status 130), or SystemExit with 128 + signal (143)."""
        number = number or self.number or signal.SIGTERM
        return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked child that has not set its own handlers yet
            os._exit(128 + number)
        repeated = self.number is not None
        if repeated and (number != signal.SIGINT or self.launched):
            return
        self.number = self.number or number
        if repeated or not self._patient:
            raise self.end(number)
        if not self.launched:  # else each process would say it
            text = f"\n{signal.Signals(number).name}: saving after this batch; Ctrl-C then stops without saving\n"
            os.write(2, text.encode())  # standard error; a logger could be in use at this very moment
