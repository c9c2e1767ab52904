"""Names and ids of results: made once for all images of a source, then handed to every writer."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from utils.console import LOGGER
from utils.text import file_name

MAX_NAME = 255  # bytes of a file name
MAX_STEM = 220  # bytes, so that a number and a suffix can follow
WRITABLE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # formats of annotated images
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


class ResultNames(NamedTuple):
    """What the results of each source are called; source -> name, all different."""

    stems: Mapping[str, str]  # of files that get a number or a suffix, see `unique_stems`
    images: Mapping[str, str]  # of annotated images and videos
    titles: Mapping[str, str]  # in tables and reports


def name_results(sources: Sequence[str], videos: Collection[str]) -> ResultNames:
    """Name the results of all sources.

    An annotated image keeps its name (with .jpg appended where its format cannot be written), a video is `<stem>.mp4`.
    Where two would get the same, both get their path below the common folder.

    Args:
        sources: paths, or names of streams.
        videos: those that are videos or streams.
    """
    stems = unique_stems(sources, videos)
    images = {}
    moving = set(videos)
    for source in sources:
        path = Path(source)
        if source in moving:
            images[source] = f"{path.stem}.mp4"
        else:
            images[source] = path.name if path.suffix.lower() in WRITABLE else f"{path.name}.jpg"
    uses = Counter(name.lower() for name in images.values())  # some file systems do not tell cases apart
    repeated = [source for source in sources if uses[images[source].lower()] > 1]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(source)) for source in sources]) if repeated else ""
    for source in repeated:
        name = os.path.relpath(source, common)
        ending = Path(images[source]).suffix
        images[source] = name if name.lower().endswith(ending.lower()) and ending != ".mp4" else name + ending
    taken: set[str] = set()
    for source, name in images.items():  # `x.avif.jpg` is the name of one image, and that of the result of `x.avif`
        long = len(os.fsencode(os.path.basename(name))) > MAX_NAME
        images[source] = free_name(stems[source] + Path(name).suffix if long else name, taken)
        taken.add(images[source].lower())
    titles = {source: str(Path(name).parent / Path(source).name) for source, name in images.items()}
    return ResultNames(stems, images, titles)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a file name, or `<stem>-2`, `-3`, ... that is not among those `taken`, which are in lower case."""
    stem, suffix = os.path.splitext(name)
    return next(n for k in count(1) if (n := name if k == 1 else f"{stem}-{k}{suffix}").lower() not in taken)


class ResultIds(NamedTuple):
    """By which a file of results names images and classes: image -> id, and the id of each class, None for its number.

    Ids differ between images. Frame n of a video has `<id>_<n>`.
    """

    images: Mapping[str, int | str]
    categories: Sequence[int | str] | None = None


def image_ids(names: Mapping[str, str], numbered: Collection[str] = ()) -> dict[str, int | str]:
    """Give each image an id: the stem of its file name, as a number if it is one.

    Images that share a stem get their path below the common folder (`unique_stems`), those that share a number (`7` and
    `007`) their stem as it is; a warning says so.

    Args:
        names: stem of each file, of `unique_stems`.
        numbered: those that give several results; their id is never a number.

    Returns:
        File -> id, all different.
    """
    moving = set(numbered)
    digits = {f: int(names[f]) for f in names if names[f].isascii() and names[f].isdecimal() and f not in moving}
    numbers = Counter(digits.values())
    ids: dict[str, int | str] = {**names} | {f: number for f, number in digits.items() if numbers[number] == 1}
    changed = [f for f in names if names[f] != Path(f).stem or (f in digits and isinstance(ids[f], str))]
    if changed:
        LOGGER.warning(
            f"{len(changed)} images have file names that are not ids of their own: their image_id is longer, such as "
            f"{ids[changed[0]]!r} of {changed[0]}"
        )
    return ids
