"""Ranges of numbers that options and settings have in common, and their check."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """The type of an option that takes a number in a range.

    Attributes:
        kind: int or float.
        low, high: the limits, which are allowed too.
        also: a single value that is allowed besides.
        word: a word that is allowed besides.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    also: float | None = None
    word: str | None = None

    def __str__(self) -> str:
        """The range in words, for the table of options."""
        kind = "integer" if self.kind is int else "number"
        if self.high < COUNT.high:
            kind += f", {self.low:g} to {self.high:.10g}"
        elif math.isfinite(self.low):
            kind += f", at least {self.low:g}"
        kind += f", or {self.also:g}" if self.also is not None else ""
        return kind + (f", or `{self.word}`" if self.word else "")

    def __call__(self, text: str) -> float | str:
        """Read the text of the command line; its range is checked later, with all the other values."""
        return text if text == self.word else self.kind(text)

    @property
    def __name__(self) -> str:
        """What argparse calls a value that is no number."""
        return f"{self.kind.__name__} or {self.word}" if self.word else self.kind.__name__

    def check(self, name: str, value: Any) -> Any:
        """Return a number of the kind: integral floats pass as integers, of strings only the word.

        Raises:
            ValueError: naming the option, the value and what is allowed.
        """
        value = plain(value)
        if self.word and isinstance(value, str) and value == self.word:
            return value
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not (whole if self.kind is int else isinstance(value, int | float)):
            other = f" or '{self.word}'" if self.word else ""
            kind = "an integer" if self.kind is int else "a number"
            raise ValueError(f"{name} is {value!r:.80}, but must be {kind}{other}")
        if value != self.also and not self.low <= value <= self.high:
            if math.isfinite(self.low) and math.isfinite(self.high) and self.kind is float:
                allowed = f"between {self.low:g} and {self.high:g}"
            else:
                allowed = f"at most {self.high}" if value > self.high else f"at least {self.low}"
            raise ValueError(f"{name} is {value!r:.80}, but must be {allowed}")
        return self.kind(value)


SIDE = Number(int, 1, 32_000)  # pixels of a network input: OpenCV counts them in 16 bits
COUNT = Number(int, 1, 1_000_000_000)
BATCH = Number(int, 1, 65_536)  # a training takes half of it at most, and validates with twice as many
WORKERS = Number(int, 0, 4096)
SHARE = Number(float, 0, 1)
CONF = Number(float, 0, 1, word="best")  # the one that a validation found, see `models.detector.find_confidence`


def plain(value: Any) -> Any:
    """Return the number inside a NumPy scalar or a tensor with one element; other values as they are."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


class Untouched:
    """A default number that tells of itself that nobody gave it: one given by hand, even the same, is a plain one."""


class UntouchedInt(Untouched, int):
    """See `Untouched`."""


class UntouchedFloat(Untouched, float):
    """See `Untouched`."""
