"""Check option values that come from Python or a file by the parser of the command line, which is the only table."""

import argparse
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Number:
    """The type of an option that takes a number in a range.

    Attributes:
        kind: int or float.
        low, high: allowed are these and what lies between them.
        also: a single value that is allowed besides.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    also: float | None = None

    def __call__(self, text: str) -> float:
        """Read the text of the command line; its range is checked later, with all the other values."""
        return self.kind(text)

    @property
    def __name__(self) -> str:
        """What argparse calls a value that is no number."""
        return self.kind.__name__

    def check(self, name: str, value: Any) -> Any:
        """Return a number of the kind: integral floats pass as integers, strings do not pass.

        Raises:
            ValueError: naming the option, the value and what is allowed.
        """
        value = _plain(value)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not (whole if self.kind is int else isinstance(value, int | float)):
            raise ValueError(f"{name} is {value!r:.80}, but must be {'an integer' if self.kind is int else 'a number'}")
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


def checked(
    parser: argparse.ArgumentParser, options: Mapping[str, Any], place: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Return options in the types that the parser gives them; a path may be a string or a Path.

    Args:
        parser: of the script.
        options: values by name, such as `batch_size`.
        place: says for the messages where in a file an option stands.

    Raises:
        ValueError: an unknown name, or a value of a wrong type or out of range, with what is allowed.
    """
    actions = _actions(parser)
    result = {}
    for key, value in options.items():
        if key not in actions:
            raise ValueError(unknown(key, actions))
        try:
            result[key] = _value(actions[key], value)
        except ValueError as error:
            raise ValueError(f"{place(key)}: {error}" if place else str(error)) from None
    return result


def unknown(key: str, known: Iterable[str]) -> str:
    """Return the message for an option that does not exist."""
    known = sorted(known)
    close = [name for name in known if name.startswith(key)] or get_close_matches(key, known, n=1)
    return f"unknown option {key!r:.80}" + (
        f". Did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    )


def checked_by(
    make_parser: Callable[[], argparse.ArgumentParser], but: tuple[str, ...]
) -> Callable[[Function], Function]:
    """Return a decorator that checks the arguments of a function which are options of a parser.

    Args:
        make_parser: of the script.
        but: arguments that take from Python what no command line can say.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = {name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
        open_ended = len(own) < len(signature.parameters)

        @cache
        def parser() -> argparse.ArgumentParser:
            return make_parser()

        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            actions = _actions(parser())
            names = own | (actions.keys() if open_ended else set())
            for key in options:
                if key not in names:
                    raise ValueError(unknown(key, names))
            signature.bind(*args, **options)  # TypeError as of any function: too many arguments, or one that lacks
            options |= dict(zip(signature.parameters, args, strict=False))
            found = checked(parser(), {key: x for key, x in options.items() if key in actions and key not in but})
            return function(**options | found)

        return run

    return decorate


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}


def _plain(value: Any) -> Any:
    """Return the number inside a NumPy scalar or a tensor with one element; other values as they are."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _value(action: argparse.Action, value: Any) -> Any:
    """Return the value of one option, a list where several are given, or raise ValueError."""
    name, value = action.option_strings[0], _plain(value)
    if value is None and action.default in (None, ""):
        return action.default
    if action.nargs == 0:
        if value in (True, False):
            return bool(value)
        raise ValueError(f"{name} is {value!r:.80}, but must be True or False")
    if action.nargs == "?" and any(type(value) is type(x) and value == x for x in (action.const, action.default)):
        return value
    if action.nargs == "+" and isinstance(value, Iterable) and not isinstance(value, str | os.PathLike):
        return [_item(action, name, item) for item in value]
    return _item(action, name, value)


def _item(action: argparse.Action, name: str, value: Any) -> Any:
    """Return one value in the type of its option, or raise ValueError."""
    if isinstance(action.type, Number):
        return action.type.check(name, value)
    value = _plain(value)
    if action.choices is not None:
        if value not in action.choices:
            raise ValueError(f"{name} is {value!r:.80}; allowed: {', '.join(map(str, action.choices))}")
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    text = os.fspath(text) if isinstance(text, os.PathLike) else text
    if action.type:  # its own reader, such as `freeze_value`
        try:
            return action.type(text) if isinstance(text, str) else action.type(repr(value))
        except ValueError:
            raise ValueError(f"{name} is {value!r:.80}, which it does not take: {action.help}") from None
    if not isinstance(text, str):
        raise ValueError(f"{name} is {value!r:.80}, but must be a string or a path")
    return text
