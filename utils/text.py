"""Text of others (class names, file names, error messages) made safe for the place where it is shown."""

from collections.abc import Iterable


def printable(text: str) -> str:
    """Return a text in one line without control characters; each is replaced by `?`."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def name_list(names: Iterable[str]) -> str:
    """Return names for a message: sorted, in one line, `printable`."""
    return printable(", ".join(sorted(names)))
