"""Class names in checkpoints and exported files."""

import ast
import json
from pathlib import Path
from typing import Any

from utils.console import LOGGER
from utils.text import MAX_NAME, printable

MAX_TEXT = 4 << 20  # characters of one value; the names of 10,000 classes have about 0.2 million
MAX_CLASSES = 100_000


def parse_value(text: Any) -> Any:
    """Read a value that a file keeps as a string: JSON or a Python literal, else the string itself; no code is run."""
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the kinds that both document
            continue
    return text


def parse_names(value: Any, source: str | Path) -> dict[int, str] | None:
    """Return class number to name from a mapping (keys may be strings of digits) or a list; None stays None.

    Characters that a terminal would obey instead of printing become `?`.

    Raises:
        ValueError: neither, the numbers are not 0, 1, 2, ..., or there are too many or too long names.
    """
    names = _read_names(parse_value(value), source)
    if names is not None and (not names or list(names) != list(range(len(names)))):
        raise ValueError(f"{source}: 'names' must map 0, 1, 2, ... to class names, found {str(value)[:80]}")
    return names


def fit_names(value: Any, nc: int, source: str | Path) -> dict[int, str]:
    """Return class number to name for the `nc` classes of a checkpoint, whose weights determine how many there are.

    A warning names classes without a name, which are called class7 after their number, and of names without a class.

    Raises:
        ValueError: there are too many or too long names.
    """
    names = _read_names(value, source) or {}
    if list(names) != list(range(nc)):
        LOGGER.warning(
            f"{source}: it has {nc} classes, 0 to {nc - 1}, but these names: {str(value)[:80]}. "
            "A class without a name is called class0, class1, ... after its number"
        )
    return {i: names.get(i, f"class{i}") for i in range(nc)}


def _read_names(value: Any, source: str | Path) -> dict[int, str] | None:
    """Return numbers and `printable` names in rising order, {} if the value holds something else, None for None."""
    if value is None:
        return None
    pairs = enumerate(value) if isinstance(value, list | tuple) else value.items() if isinstance(value, dict) else ()
    try:
        names = {int(str(number)): printable(str(name)) for number, name in pairs}
    except (TypeError, ValueError, OverflowError):
        names = {}
    if len(names) > MAX_CLASSES or any(len(name) > MAX_NAME for name in names.values()):
        raise ValueError(f"{source}: 'names' has over {MAX_CLASSES} classes, or one of over {MAX_NAME} characters")
    return dict(sorted(names.items()))
