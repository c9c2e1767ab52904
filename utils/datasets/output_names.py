"""Names and ids of results: made once for all images of a source, then handed to every writer."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from utils.console import LOGGER
from utils.text import file_name

MAX_STEM = 220  # bytes; file names have 255
COCO_CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # id of each class


def unique_stems(files: Sequence[str], numbered: Collection[str] = ()) -> dict[str, str]:
    """Name each file after its stem; files that share one get their whole path below the common folder.

    The last part of a name is never `.` or `..`, which would lead out of the folder that files are written to, and has
    at most `MAX_STEM` bytes, so that the number and suffix of the output file can be appended.

    Args:
        files: paths, or names of streams.
        numbered: those that give several results, `<stem>_1`, `<stem>_2`, ...: a file whose own stem looks so gets its
            path too.

    Returns:
        File -> name without ending, all different.
    """
    stem_of = {file: name_part(Path(file).stem) for file in files}
    stems = Counter(stem_of.values())
    common = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]) if files else ""
    bases = {stem_of[file] for file in numbered}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for file, stem in stem_of.items():
        base, _, number = stem.rpartition("_")
        alone = stems[stem] == 1 and not (number.isdecimal() and base in bases)
        folder, name = ("", stem) if alone else os.path.split(os.path.relpath(file, common))
        name = os.path.join(folder, name_part(name))
        names[file] = next(n for n in (f"{name}-{k}" if k else name for k in count()) if n not in taken)
        taken.add(names[file])
    return names


def name_part(text: str) -> str:
    """Return a name of a file as it is if a longer name can begin with it in any folder, else a similar one."""
    fits = text.strip(".") and len(os.fsencode(text)) <= MAX_STEM
    return text if fits else file_name(text, MAX_STEM)


class ResultIds(NamedTuple):
    """By which a file of results names images and classes: image -> id, and the id of each class, None for its number.

    Ids differ between images. Frame n of a video has `<id>_<n>`.
    """

    images: Mapping[str, int | str]
    categories: Sequence[int | str] | None = None


def image_ids(files: Sequence[str], numbered: Collection[str] = ()) -> dict[str, int | str]:
    """Give each image an id: the stem of its file name, as a number if it is one.

    Images that share a stem get their path below the common folder (`unique_stems`), those that share a number (`7` and
    `007`) their stem as it is; a warning says so.

    Args:
        files: paths, or names of streams.
        numbered: those that give several results, see `unique_stems`; their id is never a number.

    Returns:
        File -> id, all different.
    """
    names = unique_stems(files, numbered)
    digits = [file for file in names if names[file].isascii() and names[file].isdecimal() and file not in numbered]
    numbers = Counter(int(names[file]) for file in digits)
    ids: dict[str, int | str] = names | {f: int(names[f]) for f in digits if numbers[int(names[f])] == 1}
    changed = [f for f in names if names[f] != Path(f).stem or (f in digits and isinstance(ids[f], str))]
    if changed:
        LOGGER.warning(
            f"{len(changed)} images have file names that are not ids of their own: their image_id is longer, such as "
            f"{ids[changed[0]]!r} of {changed[0]}"
        )
    return ids
