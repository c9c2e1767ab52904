"""Data set YAML, image lists and labels of a whole split, with their cache: all of a data set but its pixels."""

import os
from collections.abc import Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.demo import draw_demo
from utils.files import yaml_load
from utils.general import LOGGER, ROOT, TQDM_BAR_FORMAT, check_file
from utils.label_cache import LabelSet, content_key, read_cache, write_cache
from utils.label_coco import CocoReader
from utils.label_reader import IMG_FORMATS, Split, Verified, twin_folder, verify_image_label
from utils.label_voc import VocReader

SPLITS = ("train", "val", "test")
MAX_MESSAGES = 10  # complaints about single files that are logged one by one


# Data set YAML --------------------------------------------------------------------------------------------------------
def check_dataset(data: str | Path | dict) -> dict[str, Any]:
    """Read a data set YAML and find its folders.

    Keys of the YAML: `train`, `val` and `names` are required; `test`, `path`, `nc` are optional, and `generate: shapes`
    draws the demonstration set if it is not there yet. `download` is never executed. `format` says how the labels are
    written: yolo (the default), coco with `annotations: {train: FILE.json, val: FILE.json}`, or voc with `first_pixel:
    1` if coordinates count pixels from 1.

    Args:
        data: file (looked up by `check_file`), or its content.

    Returns:
        A copy with `train`, `val`, `test` (absolute str, list of them, or None; a `Split` of these if the format is
        not yolo), `names` {int: str} with the keys
        0 .. nc - 1, `nc`, `path` (absolute str) and `yaml_file` (str, or None for a dict).

    Raises:
        ValueError: a key is missing or has a wrong value.
        FileNotFoundError: the YAML is missing, or there is no validation split and nothing to generate it. Other splits
            are looked for when they are loaded (`list_images`).
    """
    yaml_file = None
    if not isinstance(data, dict):
        yaml_file = check_file(data, suffixes=(".yaml", ".yml"))
        data = yaml_load(yaml_file)
    where = yaml_file or "data set"
    for key in ("train", "val", "names"):
        if data.get(key) in (None, "", [], {}):
            raise ValueError(f"{where}: key '{key}' is missing or empty. A data set needs train, val and names.")
    generate = data.get("generate")
    if generate not in (None, "shapes"):
        raise ValueError(f"{where}: generate: {generate!r} is unknown. Allowed: shapes.")
    names = check_names(data["names"], where)
    check_format(data, where)
    if data.get("nc", len(names)) != len(names):
        raise ValueError(f"{where}: nc is {data['nc']}, but names has {len(names)} entries. Remove nc or mend names.")

    path = Path(str(data.get("path") or ".")).expanduser()
    folders = [ROOT, yaml_file.parent, Path.cwd()] if yaml_file else [ROOT, Path.cwd()]
    bases = list(dict.fromkeys(Path(os.path.normpath(folder.absolute() / path)) for folder in folders))
    base = next((b for b in bases if split_exists(b, data["val"])), None)
    if base is None and generate:
        base = bases[0]
        LOGGER.info(f"{where}: drawing the demonstration set '{generate}' into {base}")
        draw_demo(base)
    if base is None or not split_exists(base, data["val"]):
        raise FileNotFoundError(missing_split_message(where, data, bases))
    splits = {key: make_split(data, base, key, names, where) if data.get(key) else None for key in SPLITS}
    yaml_name = None if yaml_file is None else str(yaml_file)
    return {**data, **splits, "names": names, "nc": len(names), "path": str(base), "yaml_file": yaml_name}


def check_names(names: Any, where: Any) -> dict[int, str]:
    """Turn a list or a mapping of class names into {0: name, 1: name, ...}; ValueError if numbers are left out."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise ValueError(f"{where}: names must be a list, or a mapping whose keys are 0, 1, 2, ... without gaps.")
    for number, name in names.items():
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise ValueError(f"{where}: names[{number}] is {name!r}, not a text. Put the name in quotes.")
    return {number: str(names[number]) for number in range(len(names))}


def check_format(data: dict[str, Any], where: Any) -> None:
    """Check the keys about the format of the labels; ValueError says what is allowed."""
    label_format = data.get("format", "yolo")
    if label_format not in READERS:
        raise ValueError(f"{where}: format: {label_format!r} is unknown. Allowed: {', '.join(READERS)}.")
    annotations = data.get("annotations")
    if annotations is not None:
        if label_format != "coco":
            raise ValueError(f"{where}: 'annotations' is for format: coco, but the format is {label_format}.")
        if not isinstance(annotations, dict) or not set(annotations) <= set(SPLITS):
            raise ValueError(
                f"{where}: annotations must name files of the splits: {{train: FILE.json, val: FILE.json}}."
            )
    elif label_format == "coco":
        raise ValueError(f"{where}: format: coco needs annotations: {{train: FILE.json, val: FILE.json}}.")
    if data.get("first_pixel", 0) not in (0, 1):
        raise ValueError(f"{where}: first_pixel: {data['first_pixel']!r} is not 0 or 1.")


def make_split(
    data: dict[str, Any], base: Path, key: str, names: dict[int, str], where: Any
) -> str | list[str] | Split:
    """Return the images of a split, with all that its format needs if that is not YOLO text."""
    images, label_format = absolute_split(base, data[key]), data.get("format", "yolo")
    if label_format == "yolo":
        return images
    twice = [name for name in set(names.values()) if list(names.values()).count(name) > 1]
    if twice:
        raise ValueError(f"{where}: names has {twice[0]!r} twice, but format {label_format} finds classes by name.")
    files = (data.get("annotations") or {}).get(key) or []
    files = [files] if isinstance(files, str) else files
    return Split(images, label_format, names, tuple(absolute_split(base, files)), data.get("first_pixel", 0))


def absolute_split(base: Path, entry: str | list[str]) -> str | list[str]:
    """Join one split to the data set's folder; an entry `../x` that does not exist is also tried as `x`."""
    if isinstance(entry, list):
        return [str(absolute_split(base, e)) for e in entry]
    path = Path(os.path.normpath(base / str(entry)))
    if not path.exists() and str(entry).startswith("../"):
        path = Path(os.path.normpath(base / str(entry)[3:]))
    return str(path)


def split_exists(base: Path, entry: str | list[str]) -> bool:
    """Tell whether all folders or lists of one split are there."""
    split = absolute_split(base, entry)
    return all(Path(p).exists() for p in ([split] if isinstance(split, str) else split))


def missing_split_message(where: Any, data: dict, bases: list[Path]) -> str:
    """Say where the validation split was looked for and what the user can do."""
    tried = ", ".join(str(absolute_split(b, data["val"])) for b in bases)
    text = f"{where}: the validation images are missing. Looked for val: {tried}. Mend 'path' or 'val'"
    if data.get("generate"):
        return f"{text}: 'generate: {data['generate']}' draws images/train and images/val"
    if data.get("download"):
        source = data["download"]
        source = ", ".join(map(str, source)) if isinstance(source, list) else source
        text = f"{text}, or fetch the data yourself; the YAML names this source (never run by us): {source}"
        if data.get("converter"):
            text += f"; then convert it: python -m utils.converters {data['converter']} SRC {bases[0]}"
        return text
    return f"{text}; the YAML has no 'generate' key that could draw them."


# Image lists ----------------------------------------------------------------------------------------------------------
def list_images(source: str | Path | Sequence[str | Path]) -> list[str]:
    """List the images of a split, sorted.

    Args:
        source: a folder (searched with all its subfolders), a text file with one image per line (lines that begin with
            `./` start at the list's folder; below ImageSets/Main of Pascal VOC the lines are names of JPEGImages), or
            several of them.

    Returns:
        Paths with a suffix of `IMG_FORMATS`, hidden files and folders (`._a.jpg` of macOS) left out.

    Raises:
        FileNotFoundError: an entry does not exist, or no image is found.
    """
    entries = [source] if isinstance(source, str | Path) else list(source)
    files: list[str] = []
    for entry in map(Path, entries):
        if entry.is_dir():
            for folder, subfolders, names in os.walk(entry, followlinks=True):
                subfolders[:] = [d for d in subfolders if not d.startswith(".")]
                files += [os.path.join(folder, name) for name in names]
        elif entry.is_file():
            lines = [line.strip() for line in entry.read_text(encoding="utf-8-sig").splitlines()]
            if entry.absolute().parts[-3:-1] == ("ImageSets", "Main"):
                folder = entry.absolute().parents[2] / "JPEGImages"
                lines = [str(folder / f"{line.split()[0]}.jpg") for line in lines if line]
            files += [str(entry.parent / line[2:]) if line.startswith("./") else line for line in lines if line]
        else:
            raise FileNotFoundError(f"{entry}: no such folder or image list. Patterns with * are not supported.")
    files = sorted(f for f in files if is_image_name(f))
    if not files:
        raise FileNotFoundError(f"no images in {', '.join(map(str, entries))}. Suffixes read: {', '.join(IMG_FORMATS)}")
    return files


def is_image_name(file: str) -> bool:
    """Tell by its name whether a path is an image we read."""
    name = os.path.basename(file)
    return not name.startswith(".") and name.rpartition(".")[2].lower() in IMG_FORMATS


def img2label_paths(img_paths: Iterable[str | Path]) -> list[str]:
    """Find the label file of each image: folder `images` -> `labels`, suffix -> `.txt`.

    The last folder named `images` in the path counts. If the resulting folder does not exist (say, because `images` is
    an unrelated parent) or there is no folder `images`, the label is expected beside the image.
    """
    starts: dict[str, str] = {}  # folder of images -> what stands before the name of a label file
    result = []
    for folder, name in map(os.path.split, map(os.fspath, img_paths)):
        if folder not in starts:
            starts[folder] = str(label_folder(Path(folder)) / "_")[:-1]
        result.append(f"{starts[folder]}{os.path.splitext(name)[0]}.txt")
    return result


def label_folder(folder: Path) -> Path:
    """Return the folder with the labels of the images in `folder`, as described at `img2label_paths`."""
    return twin_folder(folder, "images", "labels") or folder


# The formats of labels ------------------------------------------------------------------------------------------------
class YoloReader:
    """Labels of one split from YOLO text files, found by `img2label_paths`.

    Every reader has these members: `label_files` of the images; `sources`, all files the labels depend on; `cache`,
    the cache file, or None for the rule of `cache_path`; `start()`, called once before `verify(i)` of any image (from
    several threads), returns messages.
    """

    def __init__(self, split: Split, im_files: list[str], nc: int | None) -> None:
        self.im_files, self.nc = im_files, nc
        self.label_files = self.sources = img2label_paths(im_files)
        self.cache = None

    def start(self) -> list[str]:
        """Do nothing: each image has its own file."""
        return []

    def verify(self, i: int) -> Verified:
        """Check image `i` and read its labels."""
        return verify_image_label(self.im_files[i], self.label_files[i], self.nc)


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
        nc: number of classes, None for any.
        prefix: put before all messages.

    Raises:
        FileNotFoundError: there are no images, or an annotation file is missing.
        ValueError: none of the images can be read, or an annotation file has another format.
    """
    split = source if isinstance(source, Split) else Split(source, "yolo", {})
    im_files = list_images(split.images)
    reader = READERS[split.format](split, im_files, nc)
    label_files = reader.label_files
    cache = reader.cache or cache_path(split.images, label_files)
    key = content_key(im_files, reader.sources, nc, split)
    cached = read_cache(cache, key, im_files, label_files)
    label_set = cached or scan(reader, prefix)
    log_label_set(label_set, prefix, f" (from {cache})" if cached else "")
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
            LOGGER.warning(f"{prefix}label cache {cache} not written, labels are read at every start: {error}")
    return label_set


def cache_path(images: str | Path | Sequence[str | Path], label_files: list[str]) -> Path:
    """Return the cache file of a split whose images have one label file each."""
    entries = [images] if isinstance(images, str | Path) else list(images)
    last = Path(entries[-1])
    return last.with_suffix(".cache") if last.is_file() else Path(f"{Path(label_files[0]).absolute().parent}.cache")


def scan(reader: Reader, prefix: str) -> LabelSet:
    """Verify all images with a few threads, with a progress bar on a terminal."""
    im_files, label_files = reader.im_files, reader.label_files
    messages = reader.start()
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        results = pool.imap(reader.verify, range(len(im_files)), chunksize=16)
        bar = tqdm(results, f"{prefix}reading labels", len(im_files), bar_format=TQDM_BAR_FORMAT, disable=None)
        found = list(bar)
    good = [i for i, v in enumerate(found) if v.ok]
    states = [v.state for v in found]
    return LabelSet(
        [im_files[i] for i in good],
        [label_files[i] for i in good],
        [found[i].labels for i in good],
        [found[i].segments for i in good],
        np.array([found[i].size for i in good], np.int64).reshape(-1, 2),
        {state: states.count(state) for state in ("found", "missing", "empty", "corrupt")},
        [*messages, *(message for v in found for message in v.messages)],
    )


def log_label_set(label_set: LabelSet, prefix: str, origin: str) -> None:
    """Log one line of counts and the first complaints."""
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
