"""Data set YAML, image lists and labels of a whole split, with their cache: all of a data set but its pixels."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.demo import draw_demo
from utils.files import atomic_path, yaml_load
from utils.general import LOGGER, ROOT, TQDM_BAR_FORMAT, check_file
from utils.label_reader import IMG_FORMATS, NO_POLYGON, verify_image_label

CACHE_VERSION = 2  # of the cache file and of the rules in label_reader.py; raise it when either changes
MAX_MESSAGES = 10  # complaints about single files that are logged one by one


# Data set YAML --------------------------------------------------------------------------------------------------------
def check_dataset(data: str | Path | dict) -> dict[str, Any]:
    """Read a data set YAML and find its folders.

    Keys of the YAML: `train`, `val` and `names` are required; `test`, `path`, `nc` are optional, and `generate: shapes`
    draws the demonstration set if it is not there yet. `download` is never executed.

    Args:
        data: file (looked up by `check_file`), or its content.

    Returns:
        A copy with `train`, `val`, `test` (absolute str, list of them, or None), `names` {int: str} with the keys
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
    splits = {key: absolute_split(base, data[key]) if data.get(key) else None for key in ("train", "val", "test")}
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
        return f"{text}, or fetch the data yourself; the YAML names this source (never run by us): {data['download']}"
    return f"{text}; the YAML has no 'generate' key that could draw them."


# Image lists ----------------------------------------------------------------------------------------------------------
def list_images(source: str | Path | Sequence[str | Path]) -> list[str]:
    """List the images of a split, sorted.

    Args:
        source: a folder (searched with all its subfolders), a text file with one image per line (lines that begin with
            `./` start at the list's folder), or several of them.

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
            lines = (line.strip() for line in entry.read_text(encoding="utf-8-sig").splitlines())
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
    folders: dict[Path, Path] = {}
    result = []
    for img in map(Path, img_paths):
        if img.parent not in folders:
            folders[img.parent] = label_folder(img.parent)
        result.append(str(folders[img.parent] / f"{img.stem}.txt"))
    return result


def label_folder(folder: Path) -> Path:
    """Return the folder with the labels of the images in `folder`, as described at `img2label_paths`."""
    parts = list(folder.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        twin = Path(*parts)
        if twin.is_dir():
            return twin
    return folder


# The labels of a whole split ------------------------------------------------------------------------------------------
@dataclass
class LabelSet:
    """The usable images of a split, in the order given, and their labels.

    Attributes:
        im_files: N image paths.
        label_files: N label paths, existing or not.
        labels: N arrays (M, 5) float32 `[class, xywhn]`.
        segments: N lists of polygons (P, 2) xyn, one per label, (0, 2) for a box; empty lists without any polygon.
        sizes: (N, 2) int, width and height.
        counts: images by state: found, missing, empty, corrupt.
        messages: complaints about single files.
    """

    im_files: list[str]
    label_files: list[str]
    labels: list[np.ndarray]
    segments: list[list[np.ndarray]]
    sizes: np.ndarray
    counts: dict[str, int]
    messages: list[str]


def load_labels(source: str | Path | Sequence[str | Path], nc: int | None = None, prefix: str = "") -> LabelSet:
    """List the images of a split, verify them and read their labels, or take all that from the cache.

    The cache is `<labels folder>.cache`, or `<list>.cache` for an image list. It is used as long as path, size and time
    of change of all images and labels, and `nc`, are as they were. Where it cannot be written (a folder without any
    write permission counts, also for root), a warning says so and the labels are read again at the next start.

    Args:
        source: as for `list_images`.
        nc: number of classes, None for any.
        prefix: put before all messages.

    Raises:
        FileNotFoundError: there are no images.
        ValueError: none of the images can be read.
    """
    im_files = list_images(source)
    label_files = img2label_paths(im_files)
    entries = [source] if isinstance(source, str | Path) else list(source)
    last = Path(entries[-1])
    cache = last.with_suffix(".cache") if last.is_file() else Path(f"{Path(label_files[0]).absolute().parent}.cache")
    key = content_key(im_files, label_files, nc)
    cached = read_cache(cache, key, im_files, label_files)
    label_set = cached or scan(im_files, label_files, nc, prefix)
    log_label_set(label_set, prefix, f" (from {cache})" if cached else "")
    if not label_set.im_files:
        raise ValueError(f"{prefix}none of the {len(im_files)} images in {source} can be read; see the messages above")
    if not cached:
        try:
            if not cache.parent.stat().st_mode & 0o222:
                raise PermissionError(f"{cache.parent} is read-only")
            write_cache(cache, key, label_set, im_files)
        except OSError as error:
            LOGGER.warning(f"{prefix}label cache {cache} not written, labels are read at every start: {error}")
    return label_set


def scan(im_files: list[str], label_files: list[str], nc: int | None, prefix: str) -> LabelSet:
    """Verify all pairs with a few threads, with a progress bar on a terminal."""
    pairs = list(zip(im_files, label_files, strict=True))
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        results = pool.imap(lambda pair: verify_image_label(*pair, nc), pairs, chunksize=16)
        bar = tqdm(results, f"{prefix}reading labels", len(pairs), bar_format=TQDM_BAR_FORMAT, disable=None)
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
        [message for v in found for message in v.messages],
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


def content_key(im_files: list[str], label_files: list[str], nc: int | None) -> str:
    """Return a SHA-256 over everything the cached labels depend on: rules, nc, paths, sizes and times of change."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {nc}".encode())
    for file in (*im_files, *label_files):
        try:
            stat = os.stat(file)
            digest.update(f"\n{file}\t{stat.st_size}\t{stat.st_mtime_ns}".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"\n{file}\t-".encode(errors="surrogateescape"))
    return digest.hexdigest()


def write_cache(cache: Path, key: str, label_set: LabelSet, im_files: list[str]) -> None:
    """Store a label set as plain arrays (NPZ without pickle): labels and polygon points end to end, with lengths."""
    kept = set(label_set.im_files)
    segments = [s for image in label_set.segments for s in image]
    arrays = {
        "key": np.array(key),
        "kept": np.array([f in kept for f in im_files]),
        "sizes": label_set.sizes,
        "labels": np.concatenate(label_set.labels or [np.zeros((0, 5), np.float32)], 0),
        "labels_per_image": np.array([len(x) for x in label_set.labels], np.int64),
        "points": np.concatenate(segments or [NO_POLYGON], 0),
        "points_per_segment": np.array([len(s) for s in segments], np.int64),
        "segments_per_image": np.array([len(s) for s in label_set.segments], np.int64),
        "report": np.array(json.dumps({"counts": label_set.counts, "messages": label_set.messages})),
    }
    with atomic_path(cache) as temporary, open(temporary, "wb") as f:
        np.savez(f, **arrays)


def read_cache(cache: Path, key: str, im_files: list[str], label_files: list[str]) -> LabelSet | None:
    """Return the stored label set, or None if there is none, it is damaged, or `key` says that it is out of date."""
    try:
        with np.load(cache, allow_pickle=False) as npz:
            if str(npz["key"]) != key:
                return None
            z = dict(npz)
        report = json.loads(str(z["report"]))
        kept = np.flatnonzero(z["kept"])
        segments = split_by(z["points"], z["points_per_segment"])
        ends = np.cumsum(z["segments_per_image"])
        return LabelSet(
            [im_files[i] for i in kept],
            [label_files[i] for i in kept],
            split_by(z["labels"], z["labels_per_image"]),
            [segments[end - n : end] for end, n in zip(ends, z["segments_per_image"], strict=True)],
            z["sizes"],
            report["counts"],
            report["messages"],
        )
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile):
        return None  # made new by the caller


def split_by(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Cut rows laid end to end into one array per length."""
    return np.split(rows, np.cumsum(lengths)[:-1]) if len(lengths) else []
