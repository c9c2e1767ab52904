"""Untrusted text (class names, file names, error messages) made harmless for each place that would misread it.

One function per sink: `printable` for a line on a terminal or in an image, `one_line` for a log record, `csv_cell` for
a table that a spreadsheet opens, `file_name` and `file_names` for files and folders. Each keeps the text as it is
spelled, in any script, and changes only what the sink would misread.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import count

MAX_NAME = 1000  # characters of a class name
MAX_FILE_NAME = 120  # bytes of a `file_name`; file systems take 255, eCryptfs 143, and a number may follow

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode categories: controls, direction marks, surrogates, line breaks
_JOINERS = "\u200c\u200d"  # of category Cf; Persian, Hindi and emoji are spelled with them
_FORMULA = re.compile(r"'*\s*(?![+-]?\d+(?:[.,]\d+)?\Z)[=+\-@＝＋－＠].", re.DOTALL)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\.|\Z)", re.IGNORECASE)


def printable(text: str) -> str:
    """Return a text in one line without control characters; each is replaced by `?`.

    Marks that reverse the direction of writing and halves of surrogate pairs count as control characters.
    """
    if text.isprintable():
        return text
    return "".join("?" if unicodedata.category(c) in _UNSEEN and c not in _JOINERS else c for c in text)


def name_list(names: Iterable[str]) -> str:
    """Return names for a message: sorted, in one line, `printable`."""
    return printable(", ".join(sorted(names)))


def count_text(counts: Mapping[int, int], names: Mapping[int, str]) -> str:
    """Return how many objects of each class there are, such as `2 cats, 1 dog`.

    Args:
        counts: class number to number of objects.
        names: class names; a class that has none is called by its number.
    """
    words = []
    for cls, n in sorted(counts.items()):
        name = printable(names.get(cls, str(cls)))
        words.append(f"{n} {name}{'s' * (n > 1 and not name.endswith('s'))}")
    return ", ".join(words) or "(no detections)"


def class_numbers(wanted: Iterable[int | str], names: Mapping[int, str], place: str) -> list[int]:
    """Return the numbers of classes that are given by name or number; a text of digits is a number too.

    Args:
        wanted: names or numbers.
        names: class number to name.
        place: where they are given, for messages.

    Raises:
        ValueError: no such class, or several of one name.
    """
    numbers: dict[str, list[int]] = {}  # of each name
    for number, name in names.items():
        for text in {name, printable(name)}:
            numbers.setdefault(text, []).append(number)
    found = []
    for item in wanted:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise ValueError(f"{place}: {item!r:.80} is not a class name or number. Put a name in quotes.")
        of_name = numbers.get(str(item), [])
        if isinstance(item, int) or item.isdecimal():
            if int(item) not in names:
                hint = f"; the class named {str(item)!r} has number {of_name[0]}" if of_name else ""
                raise ValueError(f"{place}: class {item} does not exist, the classes are 0 to {len(names) - 1}{hint}")
            found.append(int(item))
        elif len(of_name) == 1:
            found += of_name
        elif of_name:
            raise ValueError(f"{place}: {item!r:.80} is the name of several classes: give a number of {of_name}")
        else:
            lower = {name.lower(): name for name in names.values()}
            close = get_close_matches(item.lower(), lower, n=1)
            hint = f"Did you mean {lower[close[0]]!r}?" if close else f"The classes are {first_names(names)}"
            raise ValueError(f"{place}: no class {item!r:.80}. {hint}")
    return found


def first_names(names: Mapping[int, str], most: int = 10) -> str:
    """Return names of classes for a message: in the order of their numbers, `printable`, how many more at the end."""
    listed = printable(", ".join(list(names.values())[:most]))
    return f"{listed}, and {len(names) - most} more" if len(names) > most else listed


def one_line(text: str, kept: Iterable[str] = ()) -> str:
    """Return a message as one `printable` line: line breaks become spaces, so that no text can pose as a further line.

    Args:
        text: message; line breaks at its very beginning stay.
        kept: sequences of characters that stay as they are, such as colour codes.
    """
    body = text.lstrip("\n")
    joined = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", " ", body.rstrip()).replace("\t", " ")
    pattern = "|".join(map(re.escape, kept))
    parts = re.split(f"({pattern})", joined) if pattern else [joined]
    parts[::2] = map(printable, parts[::2])
    return "\n" * (len(text) - len(body)) + "".join(parts)


def csv_cell(text: str) -> str:
    """Return a text for a cell of a CSV file: `printable`, and after an apostrophe if a spreadsheet would compute it.

    These are texts that begin with = + - or @ and go on; plain numbers such as -1 stay. `csv_text` takes the apostrophe
    away.
    """
    text = printable(text)
    return f"'{text}" if _FORMULA.match(text) else text


def csv_text(cell: str) -> str:
    """Return the text that `csv_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def file_name(text: str, limit: int = MAX_FILE_NAME) -> str:
    """Return a text as the name of a file or folder that every operating system takes.

    Separators, wildcards and control characters become `_`, dots and spaces at the ends are dropped, device names of
    Windows begin with `_`, and the name ends after `limit` bytes of UTF-8.
    """
    name = re.sub(r'[\\/:*?"<>|]', "_", printable(text)).strip(" .")
    name = f"_{name}" if _DEVICE.match(name) else name
    return name.encode()[:limit].decode(errors="ignore").rstrip(" .") or "_"


def file_names(names: Mapping[int, str]) -> dict[int, str]:
    """Return a `file_name` for each class name, all different also where a file system ignores case.

    Classes of one name, and names that differ only in what a file name cannot show, get `-2`, `-3`, ... at their end.
    """
    found: dict[int, str] = {}
    taken: set[str] = set()
    for number in sorted(names, key=lambda n: (file_name(names[n]) != names[n], n)):  # names that fit keep their own
        base = file_name(names[number])
        for n in count(1):
            candidate = base if n == 1 else f"{base}-{n}"
            key = unicodedata.normalize("NFKC", candidate).casefold()
            if key not in taken:
                break
        taken.add(key)
        found[number] = candidate
    return found
