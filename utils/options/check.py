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
        words: words that are allowed besides; in one such as `precision=0.95` the number may be another one.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    also: float | None = None
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The range in words, for the table of options."""
        kind = "integer" if self.kind is int else "number"
        if self.high < COUNT.high:
            kind += f", {self.low:g} to {self.high:.10g}"
        elif math.isfinite(self.low):
            kind += f", at least {self.low:g}"
        kind += f", or {self.also:g}" if self.also is not None else ""
        return kind + "".join(f", or `{word}`" for word in self.words)

    def __call__(self, text: str) -> float | str:
        """Read the text of the command line; its range is checked later, with all the other values."""
        return text if self._is_word(text) else self.kind(text)

    def _is_word(self, text: str) -> bool:
        """Return whether a text is one of the words."""
        start, equals, number = text.partition("=")
        if not equals:
            return text in self.words
        try:
            return any(word.startswith(f"{start}=") for word in self.words) and 0 < float(number) <= 1
        except ValueError:
            return False

    @property
    def __name__(self) -> str:
        """What argparse calls a value that is no number."""
        return " or ".join((self.kind.__name__, *self.words))

    def check(self, name: str, value: Any) -> Any:
        """Return a number of the kind: integral floats pass as integers, of strings only the words.

        Raises:
            ValueError: naming the option, the value and what is allowed.
        """
        value = plain(value)
        if isinstance(value, str) and self._is_word(value):
            return value
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not (whole if self.kind is int else isinstance(value, int | float)):
            other = "".join(f" or '{word}'" for word in self.words)
            kind = "an integer" if self.kind is int else "a number"
            raise ValueError(f"{name} is {value!r:.80}, but must be {kind}{other}")
        if value != self.also and not self.low <= value <= self.high:
            if math.isfinite(self.low) and math.isfinite(self.high) and self.kind is float:
                allowed = f"between {self.low:g} and {self.high:g}"
            else:
                allowed = f"at most {self.high}" if value > self.high else f"at least {self.low}"
            raise ValueError(f"{name} is {value!r:.80}, but must be {allowed}")
        return self.kind(value)


class Added(int):
    """A number of epochs that a resumed run gets besides its own, `+20`; without a run it is a plain one."""


class Epochs(Number):
    """The type of a number of epochs; `+20` adds that many to a resumed run (`Added`)."""

    def __str__(self) -> str:
        """The range in words, for the table of options."""
        return f"{super().__str__()}, or `+20`"

    def __call__(self, text: str) -> int:
        """Read the text of the command line."""
        return (Added if text.startswith("+") else int)(text)

    def check(self, name: str, value: Any) -> int:
        """See `Number.check`; strings with a plus are read."""
        if isinstance(value, str) and value[:1] == "+" and value[1:].isdecimal():
            value = Added(value)
        number = super().check(name, value)
        return Added(number) if isinstance(value, Added) else number


SIDE = Number(int, 1, 32_000)  # pixels of a network input: OpenCV counts them in 16 bits
TILE = Number(int, 0, SIDE.high)
COUNT = Number(int, 1, 1_000_000_000)
EPOCHS = Epochs(int, 1, 1_000_000_000)
BATCH = Number(int, 1, 65_536)  # a training takes half of it at most, and validates with twice as many
WORKERS = Number(int, 0, 4096)
SHARE = Number(float, 0, 1)
CONF = Number(float, 0, 1, words=("best", "best-class", "precision=0.95"))  # see `models.detector.find_confidence`


def class_value(text: str) -> int | str:
    """Read the name or number of a class; digits are a number."""
    return int(text) if text.isdecimal() else text


def plain(value: Any) -> Any:
    """Return the number inside a NumPy scalar or a tensor with one element; other values as they are."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


class Untouched:
    """A default number that tells of itself that nobody gave it: one given by hand, even the same, is a plain one."""


class UntouchedInt(Untouched, int):
    """See `Untouched`."""


class UntouchedFloat(Untouched, float):
    """See `Untouched`."""


class UntouchedList(Untouched, list):
    """See `Untouched`."""
