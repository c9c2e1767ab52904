"""Dataset YAML, image lists and labels of a whole split, with their cache: all of a dataset but its pixels.

    python -m utils.datasets.dataset CHECK my.yaml    # list every problem of a dataset; nothing is written

`python -m engine.doctor my.yaml` finds more.

The command ends with a summary. Its exit status is 0 if the dataset can be used, with or without problems, and 1 if
nothing usable is left: the YAML cannot be read, or train or val has no usable image, or train has no label. With
--strict it is 1 after any problem.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from utils.console import LOGGER, cli_errors
from utils.datasets.coco import CocoReader
from utils.datasets.demo import draw_demo
from utils.datasets.images import PixelFormat
from utils.datasets.label_cache import (
    NO_LABELS,
    STATES,
    LabelSet,
    Pieces,
    content_key,
    read_cache,
    select_labels,
    write_cache,
)
from utils.datasets.lists import img2label_paths, list_images
from utils.datasets.output_names import COCO_CATEGORIES, ResultIds, image_ids
from utils.datasets.reader import Split, Verified, reason, verify_image_label
from utils.datasets.scan import check_all
from utils.datasets.selection import Selection, select_classes
from utils.datasets.voc import VocReader
from utils.files import key_place, yaml_load
from utils.paths import HOME, check_file, command
from utils.text import MAX_NAME, name_list

SPLITS = ("train", "val", "test")
MOST_NAMES = 10  # of files and folders that a message lists
MAX_MESSAGES = 10  # messages about single files that are logged one by one


# Dataset YAML --------------------------------------------------------------------------------------------------------
def check_dataset(
    data: str | Path | dict,
    needed: Sequence[str] = ("val",),
    *,
    required: Sequence[str] = ("train", "val"),
    classes: Sequence[int | str] | None = None,
) -> dict[str, Any]:
    """Read a dataset YAML and find its folders.

    Keys of the YAML: `train`, `val` and `names` are required; `test`, `path`, `nc` are optional, and `generate: shapes`
    draws the demonstration set if it is not there yet. `download` is never executed. `format` says how the labels are
    written: yolo (the default), coco with `annotations: {train: FILE.json, val: FILE.json}`, or voc with `first_pixel:
    1` if coordinates count pixels from 1. `classes` and `merge`: see `select_classes`. `channels` and `bits` say how
    images are read that are not 8-bit colour (`PixelFormat`).

    Args:
        data: file (looked up by `check_file`), or its content.
        needed: the splits whose folders or lists must exist if the YAML names them. Others are looked for when they
            are loaded (`list_images`).
        required: the splits that it must name.
        classes: names or numbers that are chosen instead of the key `classes`.

    Returns:
        A copy with `train`, `val`, `test` (absolute str, list of them, or None; a `Split` of these if the format is
        not yolo, classes are chosen, or images are not 8-bit colour), `names` {int: str} with the keys 0 .. nc - 1,
        `nc`, `path` (absolute str), `yaml_file` (str, or None for a dict) and `selection` (`Selection`, or None for all
        classes).

    Raises:
        ValueError: a key is missing or has a wrong value.
        FileNotFoundError: the YAML is missing, or a split that is needed, and nothing generates it.
    """
    yaml_file = None
    if not isinstance(data, dict):
        yaml_file = check_file(data, suffixes=(".yaml", ".yml"))
        data = yaml_load(yaml_file)
    where = yaml_file or "dataset"
    for key in (*required, "names"):
        if data.get(key) in (None, "", [], {}):
            raise ValueError(f"{where}: key '{key}' is missing or empty. A dataset needs train, val and names.")
    check_entries(data, where)
    generate = data.get("generate")
    if generate not in (None, "shapes"):
        where = key_place(where, "generate")
        raise ValueError(f"{where}: generate: {generate!r} is unknown. Allowed: shapes.")
    names = check_names(data["names"], where)
    check_format(data, where)
    PixelFormat.of(data, where)
    if data.get("nc", len(names)) != len(names):
        where = key_place(where, "nc")
        raise ValueError(f"{where}: nc is {data['nc']}, but names has {len(names)} entries. Remove nc or fix names.")

    selection = select_classes(names, data, where, classes)
    if selection:
        LOGGER.info(f"{where}: classes {selection}")

    path = Path(os.path.expanduser(str(data.get("path") or ".")))
    folders = [HOME, yaml_file.parent, Path.cwd()] if yaml_file else [HOME, Path.cwd()]
    bases = list(dict.fromkeys(Path(os.path.normpath(folder.absolute() / path)) for folder in folders))
    needed = [key for key in needed if data.get(key)]
    there = {b: sum(split_exists(b, data[key]) for key in needed) for b in bases}
    base = max(bases, key=lambda b: there[b])  # the first with most of them
    if generate and data.get("val") and not split_exists(base, data["val"]):
        LOGGER.info(f"{where}: drawing the demonstration set '{generate}' into {base}")
        draw_demo(base)
    for key in needed:
        if not split_exists(base, data[key]):
            raise FileNotFoundError(missing_split_message(where, data, key, [base] if there[base] else bases))
    splits = {key: make_split(data, base, key, names, selection, where) if data.get(key) else None for key in SPLITS}
    names = dict(selection.names) if selection else names
    own = {"names": names, "nc": len(names), "path": str(base), "selection": selection}
    return {**data, **splits, **own, "yaml_file": None if yaml_file is None else str(yaml_file)}


def check_entries(data: dict[str, Any], where: Any) -> None:
    """Check that the keys which name files do; ValueError says which does not."""
    for key in SPLITS:
        entry = data.get(key) or []
        if not all(
            isinstance(e, str | Path) and "\0" not in str(e) for e in (entry if isinstance(entry, list) else [entry])
        ):
            raise ValueError(
                f"{key_place(where, key)}: {key}: {entry!r} is not a folder or image list, nor a list of them."
            )
    path = data.get("path")
    if path is not None and (not isinstance(path, str | Path) or "\0" in str(path)):
        where = key_place(where, "path")
        raise ValueError(f"{where}: path: {path!r} is not a folder.")
    nc = data.get("nc", 0)
    if isinstance(nc, bool) or not isinstance(nc, int):
        where = key_place(where, "nc")
        raise ValueError(f"{where}: nc: {nc!r} is not an integer. Remove nc: it follows from names.")


def check_names(names: Any, where: Any) -> dict[int, str]:
    """Turn a list or a mapping of class names into {0: name, 1: name, ...}; ValueError if numbers are left out."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        where = key_place(where, "names")
        raise ValueError(f"{where}: names must be a list, or a mapping whose keys are 0, 1, 2, ... without gaps.")
    for number, name in names.items():
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            where = key_place(where, "names")
            raise ValueError(f"{where}: names[{number}] is {name!r}, not a string. Put the name in quotes.")
        if len(str(name)) > MAX_NAME:
            where = key_place(where, "names")
            raise ValueError(
                f"{where}: names[{number}] has {len(str(name))} characters, at most {MAX_NAME} are allowed."
            )
    return {number: str(names[number]) for number in range(len(names))}


def check_format(data: dict[str, Any], where: Any) -> None:
    """Check the keys about the format of the labels; ValueError says what is allowed."""
    label_format = data.get("format", "yolo")
    if not isinstance(label_format, str) or label_format not in READERS:
        where = key_place(where, "format")
        raise ValueError(f"{where}: format: {label_format!r} is unknown. Allowed: {', '.join(READERS)}.")
    annotations = data.get("annotations")
    if annotations is not None:
        if label_format != "coco":
            where = key_place(where, "annotations")
            raise ValueError(f"{where}: 'annotations' is for format: coco, but the format is {label_format}.")
        values = annotations.values() if isinstance(annotations, dict) else [None]
        files = [file for value in values for file in (value if isinstance(value, list) else [value])]
        known = isinstance(annotations, dict) and set(annotations) <= set(SPLITS)
        if not known or not all(isinstance(file, str) for file in files):
            where = key_place(where, "annotations")
            raise ValueError(
                f"{where}: annotations must name files of the splits: {{train: FILE.json, val: FILE.json}}."
            )
    elif label_format == "coco":
        where = key_place(where, "format")
        raise ValueError(f"{where}: format: coco needs annotations: {{train: FILE.json, val: FILE.json}}.")
    if data.get("first_pixel", 0) not in (0, 1):
        where = key_place(where, "first_pixel")
        raise ValueError(f"{where}: first_pixel: {data['first_pixel']!r} is not 0 or 1.")


def make_split(
    data: dict[str, Any], base: Path, key: str, names: dict[int, str], selection: Selection | None, where: Any
) -> str | list[str] | Split:
    """Return the images of a split, with all that its format, its pixels and a choice of classes need."""
    images, label_format = absolute_split(base, data[key]), data.get("format", "yolo")
    pixels = PixelFormat.of(data, where)
    if label_format == "yolo":
        plain = pixels.plain and not selection
        return images if plain else Split(images, label_format, names, selection=selection, pixels=pixels)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        where = key_place(where, "names")
        raise ValueError(
            f"{where}: names has {twice[0]!r} twice, but format {label_format} identifies classes by name."
        )
    files = (data.get("annotations") or {}).get(key) or []
    files = [files] if isinstance(files, str) else files
    annotations = tuple(absolute_split(base, files))
    return Split(images, label_format, names, annotations, data.get("first_pixel", 0), selection, pixels)


def absolute_split(base: Path, entry: str | list[str]) -> str | list[str]:
    """Join one split to the dataset's folder; an entry `../x` that does not exist is also tried as `x`."""
    if isinstance(entry, list):
        return [str(absolute_split(base, e)) for e in entry]
    path = Path(os.path.normpath(base / str(entry)))
    if not path.exists() and str(entry).startswith("../"):
        path = Path(os.path.normpath(base / str(entry)[3:]))
    return str(path)


def split_exists(base: Path, entry: str | list[str]) -> bool:
    """Return whether all folders or lists of one split exist."""
    split = absolute_split(base, entry)
    return all(Path(p).exists() for p in ([split] if isinstance(split, str) else split))


def missing_split_message(where: Any, data: dict, key: str, bases: list[Path]) -> str:
    """Say where the split `key` was looked for, what is there instead, and what the user can do."""
    places = [absolute_split(b, data[key]) for b in bases]
    tried = ", ".join(map(str, places))
    kind = {"train": "training", "val": "validation", "test": "test"}[key]
    text = f"{key_place(where, key)}: the {kind} images are missing. Looked for {key}: {tried}"
    text += next(filter(None, map(near_names, places)), "") + f". Fix 'path' or '{key}'"
    if data.get("generate"):
        return f"{text}: 'generate: {data['generate']}' draws images/train and images/val"
    if data.get("download"):
        source = data["download"]
        source = ", ".join(map(str, source)) if isinstance(source, list) else source
        text = f"{text}, or download the data yourself; the YAML names this source, which is never run: {source}"
        if data.get("converter"):
            line = command("python", "-m", "utils.datasets.converters", str(data["converter"]), "SOURCE", bases[0])
            text += f"; then convert it: {line}"
        return text
    return f"{text}; the YAML has no 'generate' key that could draw them."


def near_names(split: str | list[str]) -> str:
    """Return what is there in place of the first missing folder or list of a split: a near name, or all, or ""."""
    missing = next((Path(p) for p in ([split] if isinstance(split, str) else split) if not Path(p).exists()), None)
    if missing is None:
        return ""
    wanted = missing
    while not missing.parent.exists():
        missing = missing.parent
    try:
        names = sorted(p.name for p in missing.parent.iterdir() if not p.name.startswith("."))
    except OSError:
        return ""
    lower = {name.lower(): name for name in names}
    if close := get_close_matches(missing.name.lower(), lower, n=1):
        near = missing.with_name(lower[close[0]])
        whole = near / wanted.relative_to(missing)
        return f"; there is {whole if whole.exists() else near}"
    return f"; {missing.parent} has {name_list(names)}" if 0 < len(names) <= MOST_NAMES else ""


# The formats of labels ------------------------------------------------------------------------------------------------
class YoloReader:
    """Labels of one split from YOLO text files, found by `img2label_paths`.

    Every reader has these members: `label_files` of the images; `sources`, all files the labels depend on; `cache`,
    the cache file, or None for the rule of `cache_path`; `start()`, called once before `verify(i)` of any image (from
    several threads, or in forked processes), returns messages.
    """

    def __init__(self, split: Split, im_files: list[str], nc: int | None) -> None:
        self.im_files, self.nc, self.pixels = im_files, nc, split.pixels
        self.label_files = self.sources = img2label_paths(im_files)
        self.cache = None

    def start(self) -> list[str]:
        """Do nothing: each image has its own file."""
        return []

    def verify(self, i: int) -> Verified:
        """Check image `i` and read its labels."""
        return verify_image_label(self.im_files[i], self.label_files[i], self.nc, self.pixels)


Reader = YoloReader | CocoReader | VocReader
READERS: dict[str, type[Reader]] = {"yolo": YoloReader, "coco": CocoReader, "voc": VocReader}  # `format` of the YAML


# The labels of a whole split ------------------------------------------------------------------------------------------
def load_labels(source: str | Path | Sequence[str | Path] | Split, nc: int | None = None, prefix: str = "") -> LabelSet:
    """List the images of a split, verify them and read their labels, or take all that from the cache.

    The cache is `<labels folder>.cache`, `<list>.cache` for an image list, `<annotations>.cache` for COCO. It is used
    as long as path, size and time of change of all images and labels, and `nc`, are as they were. Where it cannot be
    written (a folder without any write permission counts, also for root), a warning says so and the labels are read
    again at the next start.

    Args:
        source: as for `list_images`, with labels in YOLO text; or a `Split`, which names the format.
        nc: number of classes, None for any. Of a `Split` with a selection, its own number of classes counts instead.
        prefix: put before all messages.

    Raises:
        FileNotFoundError: there are no images, or an annotation file is missing.
        ValueError: none of the images can be read, or an annotation file has another format.
    """
    split = Split.of(source)
    im_files, nc = list_images(split), label_classes(split, nc)
    reader = READERS[split.format](split, im_files, nc)
    label_files = reader.label_files
    cache = reader.cache or cache_path(split.images, label_files)
    key = content_key(im_files, reader.sources, nc, split)
    cached = read_cache(cache, key, im_files, label_files, nc)
    label_set = cached or scan(reader, prefix)
    chosen, note = select_labels(label_set, split.selection)
    log_label_set(chosen, prefix, f" (from {cache})" if cached else "")
    if note:
        LOGGER.info(f"{prefix}{note}")
    if not label_set.im_files:
        raise ValueError(
            f"{prefix}none of the {len(im_files)} images in {split.images} can be used; see the messages above"
        )
    if not cached:
        try:
            if not cache.parent.stat().st_mode & 0o222:
                raise PermissionError(f"{cache.parent} is read-only")
            write_cache(cache, key, label_set, im_files)
        except OSError as error:
            LOGGER.warning(f"{prefix}label cache {cache} not written, labels are read at every start: {reason(error)}")
    return chosen


def label_classes(split: Split, nc: int | None) -> int | None:
    """Return the number of classes that the labels of a split may have, where `nc` of them are learned."""
    return len(split.names) if split.selection and nc is not None else nc


def result_ids(source: str | Path | Sequence[str | Path] | Split, stems: Mapping[str, str]) -> ResultIds:
    """Return the ids by which results on a split are written: those of its COCO files, else `image_ids` and the class.

    The split `coco/val2017.txt` has the categories of COCO, from 1 to 90 with gaps.

    Args:
        source: as for `load_labels`.
        stems: of the images of the split that will have results, see `unique_stems`.

    Raises:
        FileNotFoundError, ValueError: an annotation file is missing or no COCO file.
    """
    split = Split.of(source)
    if split.format == "coco":
        reader = CocoReader(split, list_images(split), None)
        reader.start()
        try:
            return ResultIds(*reader.result_ids())
        except ValueError as error:
            LOGGER.warning(f"{error}: results use file names and class indices instead")
    if not isinstance(split.images, str) or Path(split.images).parts[-2:] != ("coco", "val2017.txt"):
        return ResultIds(image_ids(stems), None)
    if split.selection is None:
        return ResultIds(image_ids(stems), COCO_CATEGORIES)
    parts = [split.selection.parts(number) for number in split.selection.names]
    own = max(COCO_CATEGORIES) + 1  # of the first merged class
    ids = [COCO_CATEGORIES[of[0]] if len(of) == 1 else own + number for number, of in enumerate(parts)]
    return ResultIds(image_ids(stems), ids)


def cache_path(images: str | Path | Sequence[str | Path], label_files: list[str]) -> Path:
    """Return the cache file of a split whose images have one label file each."""
    entries = [images] if isinstance(images, str | Path) else list(images)
    last = Path(entries[-1])
    return last.with_suffix(".cache") if last.is_file() else Path(f"{Path(label_files[0]).absolute().parent}.cache")


def scan(reader: Reader, prefix: str) -> LabelSet:
    """Verify all images of a split and read their labels (`label_scan.check_all`)."""
    messages = reader.start()
    parts = check_all(reader, f"{prefix}reading labels")
    kept = [i for part in parts for i in part.kept]
    return LabelSet(
        [reader.im_files[i] for i in kept],
        [reader.label_files[i] for i in kept],
        Pieces(
            np.concatenate([NO_LABELS, *(part.labels for part in parts)]),
            np.array([length for part in parts for length in part.lengths], np.int64),
        ),
        Pieces.nested([segments for part in parts for segments in part.segments]),
        np.array([size for part in parts for size in part.sizes], np.int64).reshape(-1, 2),
        {state: sum(part.states[state] for part in parts) for state in STATES},
        [*messages, *(message for part in parts for message in part.messages)],
    )


def log_label_set(label_set: LabelSet, prefix: str, origin: str) -> None:
    """Log one line of counts and the first problems."""
    counts, messages = label_set.counts, label_set.messages
    LOGGER.info(
        f"{prefix}{len(label_set.im_files)} images, {sum(map(len, label_set.labels))} labels, "
        f"{counts['missing'] + counts['empty']} backgrounds ({counts['missing']} without label file), "
        f"{counts['corrupt']} corrupt{origin}"
    )
    for message in messages[:MAX_MESSAGES]:
        LOGGER.warning(f"{prefix}{message}")
    if len(messages) > MAX_MESSAGES:
        LOGGER.warning(f"{prefix}... and {len(messages) - MAX_MESSAGES} more such messages")


# The command ----------------------------------------------------------------------------------------------------------
def check_labels(data: dict[str, Any]) -> tuple[int, list[str]]:
    """Read all images and labels of a dataset, log every problem and a summary; no cache is read or written.

    Args:
        data: from `check_dataset`.

    Returns:
        Number of problems; and why the dataset cannot be used, [] if it can.
    """
    start, problems, unusable = time.perf_counter(), 0, []
    places: dict[str, Any] = {}
    totals = np.zeros(4, int)  # images, labels, backgrounds, left out
    for key in SPLITS:
        if data[key] is None:
            continue
        try:
            label_set, im_files = read_split(data[key], data["nc"])
        except (ValueError, OSError) as error:
            LOGGER.error(f"{key}: {error}")
            problems += 1
            unusable += [f"{key} cannot be read"] if key != "test" else []
            continue
        messages = label_set.messages + repeated_images(im_files, key, places)
        for message in messages:
            LOGGER.warning(f"{key}: {message}")
        problems += len(messages)
        counts, labels = label_set.counts, sum(map(len, label_set.labels))
        numbers = (len(label_set.im_files), labels, counts["missing"] + counts["empty"], counts["corrupt"])
        totals += numbers
        LOGGER.info("{}: {} images, {} labels, {} backgrounds, {} images left out".format(key, *numbers))
        if not numbers[0] and key != "test":
            unusable.append(f"{key} has no usable image")
        elif not labels and key == "train":
            unusable.append("train has no label")
    LOGGER.info(
        "all: {} images, {} labels, {} backgrounds, {} images left out, {} problems, {:.1f} s".format(
            *totals, problems, time.perf_counter() - start
        )
    )
    return problems, unusable


def read_split(source: str | list[str] | Split, nc: int) -> tuple[LabelSet, list[str]]:
    """Verify the images of one split without its cache; returns what is usable, and all images listed."""
    split = Split.of(source)
    im_files = list_images(split)
    found = scan(READERS[split.format](split, im_files, label_classes(split, nc)), "")
    return select_labels(found, split.selection)[0], im_files


def repeated_images(im_files: list[str], key: str, places: dict[str, str]) -> list[str]:
    """Return a message for every image that the same split or another one lists too.

    Args:
        im_files: images of a split.
        key: name of the split.
        places: real path of each image seen before -> its split; this split is added.
    """
    messages, folders = [], {}
    for file in im_files:
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.realpath(file) if os.path.islink(file) else os.path.join(folders[folder], name)
        if real in places:
            where = (
                "twice in this split" if places[real] == key else f"in {places[real]} too, which distorts the metrics"
            )
            messages.append(f"{file}: the same image appears {where}")
        places.setdefault(real, key)
    return messages


def main(argv: Sequence[str] | None = None) -> None:
    """Check the dataset that the command line names.

    Raises:
        ValueError, FileNotFoundError: nothing usable is left, or with --strict there was a problem.
    """
    parser = argparse.ArgumentParser(
        prog="python -m utils.datasets.dataset", description="Check a dataset; nothing is written."
    )
    parser.add_argument("command", choices=("CHECK", "check"), help="CHECK lists every problem and ends with a summary")
    parser.add_argument("data", help="dataset YAML")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 after any problem")
    opt = parser.parse_args(argv)
    problems, unusable = check_labels(check_dataset(opt.data))
    if unusable:
        raise ValueError(f"{opt.data}: nothing usable is left: {'; '.join(unusable)}")
    if problems and opt.strict:
        raise ValueError(f"{opt.data}: {problems} problems, see above")


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
