"""Divide a dataset into splits: classes in equal parts, copies and groups together, nothing moved.

python -m engine.split my.yaml --val 0.2                       # my-split.yaml, my-split-train.txt, my-split-val.txt
python -m engine.split my.yaml --val 0.2 --test 0.1 --group-by 'scene_([0-9]+)'
python -m engine.split my.yaml --folds 5                       # my-fold0.yaml ... my-fold4.yaml

Image lists and dataset YAMLs are written beside the YAML; images and labels stay where they are.
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.split import parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.doctor.copies import exact_copies, near_pairs, scan_pixels
from engine.doctor.dataset import read_dataset
from utils.console import LOGGER, colorstr
from utils.datasets.dataset import check_dataset
from utils.datasets.images import PixelFormat
from utils.datasets.reader import Split
from utils.files import write_whole, yaml_load, yaml_save
from utils.options.split import SplitOptions
from utils.options.table import takes_options
from utils.paths import command
from utils.text import printable

PREFIX = colorstr("split: ")


def join_groups(count: int, links: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return a group number for each of `count` things, (count,), equal where links join them, 0, 1, 2, ..."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for a, b in links:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    return np.unique([root(i) for i in range(count)], return_inverse=True)[1]


def same_key(files: Sequence[str], pattern: str) -> tuple[list[tuple[int, int]], int]:
    """Return links between the files of equal keys, and how many files have none.

    Args:
        files: paths, `/` between their parts.
        pattern: the key of a file is what the first group of it matches, or all of it.

    Raises:
        ValueError: no regular expression.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group-by {pattern}: no regular expression: {error}") from None
    first: dict[str, int] = {}
    links, without = [], 0
    for i, file in enumerate(files):
        match = regex.search(Path(file).as_posix())
        if match is None:
            without += 1
            continue
        key = (match.group(1) if regex.groups else None) or match.group(0)
        links.append((first.setdefault(key, i), i))
    return links, without


def copies(files: Sequence[str], sizes: np.ndarray, pixels: PixelFormat) -> list[tuple[int, int]]:
    """Return links between images that are copies or near copies, as engine.doctor finds them."""
    links = [(group[0], other) for group in exact_copies(files) for other in group[1:]]
    return links + [(link.a, link.b) for link in near_pairs(scan_pixels(files, sizes, pixels))]


def stratify(counts: np.ndarray, images: np.ndarray, parts: Sequence[float], seed: int = 0) -> np.ndarray:
    """Assign groups of images to parts so that each part gets its part of every class and of the images.

    Iterative stratification (Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011), with groups
    instead of single examples: the rarest class first, its largest groups first, each to the part that still lacks the
    largest fraction of its labels of that class and of its images.

    Args:
        counts: (G, nc) labels of each class in each group.
        images: (G,) images in each group.
        parts: fractions above 0 that sum to 1.
        seed: of the order of equal groups.

    Returns:
        (G,) number of the part of each group.
    """
    goals = np.array(parts, float)[:, None] * np.column_stack((counts, images)).sum(0)  # (P, nc + 1), images last
    goals = np.maximum(goals, 1e-9)
    lacking = goals.copy()
    result = np.full(len(counts), -1)
    order = np.random.default_rng(seed).permutation(len(counts))
    left = counts.sum(0).astype(float)

    def assign(group: int, columns: Sequence[int]) -> None:
        part = int((lacking[:, columns] / goals[:, columns]).sum(1).argmax())
        result[group] = part
        lacking[part] -= (*counts[group], images[group])
        left[:] -= counts[group]

    while (left > 0).any():
        c = int(np.where(left > 0, left, np.inf).argmin())
        members = order[(counts[order, c] > 0) & (result[order] < 0)]
        for group in members[np.argsort(-counts[members, c], kind="stable")]:
            assign(int(group), (c, -1))
    for group in order[result[order] < 0]:  # without labels
        assign(int(group), (-1,))
    return result


def check_options(o: SplitOptions) -> None:
    """Raise ValueError for options that do not fit together."""
    if not o.data:
        raise ValueError("no dataset given: name a dataset YAML such as my.yaml")
    if o.folds and o.test:
        raise ValueError(f"--folds {o.folds} makes no test split: remove --test")
    if not o.folds and (o.val == 0 or o.val + o.test >= 1):
        raise ValueError(
            f"--val {o.val:g} --test {o.test:g}: validation needs a part, and training has to get the rest"
        )


@takes_options(SplitOptions)
def run(options: SplitOptions) -> list[Path]:
    """Divide a dataset.

    Args:
        options: fields of `SplitOptions` as arguments, such as `run("my.yaml", val=0.2)`.

    Returns:
        The dataset YAMLs.

    Raises:
        FileNotFoundError, ValueError: the dataset cannot be read, has too few images or groups, or options are wrong.
        FileExistsError: a file is in the way.
    """
    o = options
    check_options(o)
    data = check_dataset(o.data, (), required=("train",))
    if any(isinstance(data[name], Split) and data[name].format == "coco" for name in o.of):
        raise ValueError(f"{data['yaml_file']}: in format coco a split has one file of annotations, which stays whole")
    files, labels, sizes = read_images(data, o.of)
    units = grouped(files, sizes, PixelFormat.of(data, data["yaml_file"]), o)
    counts = np.zeros((units.max() + 1, data["nc"]))
    for unit, boxes in zip(units, labels, strict=True):
        np.add.at(counts[unit], boxes[:, 0].astype(int), 1)
    images = np.bincount(units)
    parts = [1 / o.folds] * o.folds if o.folds else [part for part in (1 - o.val - o.test, o.val, o.test) if part > 0]
    if len(images) < len(parts):
        raise ValueError(f"{o.data}: {len(images)} groups of images cannot be divided into {len(parts)} parts")
    part_of = stratify(counts, images, parts, o.seed)[units]  # (N,)
    names = [f"fold{k}" for k in range(o.folds)] if o.folds else ["train", "val", "test"]
    report(labels, part_of, names, data["names"])
    return write(files, part_of, data, o)


def read_images(data: dict[str, Any], of: Sequence[str]) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Return paths, labels and sizes of the usable images of some splits, each image once."""
    pool = read_dataset({**data, **dict.fromkeys({"train", "val", "test"} - set(of))})
    files: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
    for name, reason in pool.unreadable.items():
        raise ValueError(f"{name}: {reason}; leave it out with --of")
    for split in pool.splits.values():
        for file, boxes, size in zip(split.im_files, split.labels, split.sizes, strict=True):
            files.setdefault(os.path.realpath(file), (file, boxes, size))
        for message in split.messages:
            LOGGER.warning(f"{PREFIX}{message}")
    if not files:
        raise ValueError(f"{data['yaml_file']}: no usable image in {', '.join(of)}")
    found = sorted(files.values(), key=lambda image: image[0])
    return [image[0] for image in found], [image[1] for image in found], np.array([image[2] for image in found])


def grouped(files: Sequence[str], sizes: np.ndarray, pixels: PixelFormat, o: SplitOptions) -> np.ndarray:
    """Return the group of each image, (N,), and say what was found."""
    links: list[tuple[int, int]] = []
    if o.group_by:
        links, without = same_key(files, o.group_by)
        if without == len(files):
            raise ValueError(f"--group-by {o.group_by} matches none of {len(files)} paths, such as {files[0]}")
        if without:
            LOGGER.warning(f"{PREFIX}--group-by {o.group_by} does not match {without} of {len(files)} paths")
    alike = [] if o.fast else copies(files, sizes, pixels)
    units = join_groups(len(files), links + alike)
    together = int((np.bincount(units)[units] > 1).sum())
    kinds = " and ".join(["equal keys"] * bool(o.group_by) + ["copies or near copies"] * (not o.fast))
    LOGGER.info(f"{PREFIX}{len(files)} images, {together} of them stay with others" + f" ({kinds})" * bool(kinds))
    return units


def report(labels: Sequence[np.ndarray], part_of: np.ndarray, names: Sequence[str], classes: Mapping[int, str]) -> None:
    """Log images and labels of each part, and warn of classes that a part lacks."""
    used = [k for k in range(len(names)) if (part_of == k).any()]
    counts = np.zeros((len(names), len(classes)), int)
    for part, boxes in zip(part_of, labels, strict=True):
        np.add.at(counts[part], boxes[:, 0].astype(int), 1)
    LOGGER.info(("%22s" + "%11s" * len(used)) % ("", *(names[k] for k in used)))
    LOGGER.info(("%22s" + "%11i" * len(used)) % ("images", *((part_of == k).sum() for k in used)))
    for c, name in classes.items():
        LOGGER.info(("%22s" + "%11i" * len(used)) % (printable(name), *(counts[k, c] for k in used)))
        lacking = [names[k] for k in used if not counts[k, c]]
        if lacking and counts[:, c].any():
            LOGGER.warning(f"{PREFIX}class {printable(name)} has no label in {', '.join(lacking)}")


def write(files: Sequence[str], part_of: np.ndarray, data: dict[str, Any], o: SplitOptions) -> list[Path]:
    """Write image lists and dataset YAMLs, all or, if one is in the way, none."""
    source = Path(data["yaml_file"])
    base = Path(o.out) if o.out else source.with_suffix("")
    folder = base.parent.resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"--out {o.out}: no folder {base.parent}")
    kept = {key: value for key, value in yaml_load(source).items() if key not in ("generate", "download", "test")}
    texts: dict[Path, str] = {}
    tables: dict[Path, dict[str, Any]] = {}
    rounds = {f"{base.name}-fold{k}": {"val": k} for k in range(o.folds)} if o.folds else {
        f"{base.name}-split": {"val": 1, "test": 2} if o.test else {"val": 1}
    }  # fmt: skip
    for stem, held in rounds.items():
        of_split = {"train": ~np.isin(part_of, list(held.values())), **{s: part_of == k for s, k in held.items()}}
        for split, chosen in of_split.items():
            lines = (listed(files[i], folder) for i in np.flatnonzero(chosen))
            texts[folder / f"{stem}-{split}.txt"] = "".join(line + "\n" for line in lines)
        tested = (
            {} if "test" in held or "test" in o.of or data["test"] is None else {"test": Split.of(data["test"]).images}
        )
        lists = {split: f"{stem}-{split}.txt" for split in of_split}
        tables[folder / f"{stem}.yaml"] = {**kept, "path": str(folder), **lists, **tested}
    for file in (*texts, *tables):
        if file.exists() and not o.exist_ok:
            raise FileExistsError(
                f"{file} exists: move it, choose another name with --out, or replace it with --exist-ok"
            )
    for file, text in texts.items():
        write_whole(file, text.encode())
    for file, table in tables.items():
        yaml_save(file, table)
    LOGGER.info(f"{PREFIX}written: {', '.join(str(file) for file in tables)}")
    LOGGER.info(f"{PREFIX}next: {command('python', 'train.py', '--data', next(iter(tables)))}")
    return list(tables)


def listed(file: str, folder: Path) -> str:
    """Return the line of an image list: from the folder of the list on if it is below, else absolute."""
    path = Path(os.path.abspath(file))
    return f"./{path.relative_to(folder).as_posix()}" if path.is_relative_to(folder) else str(path)


def main(opt: argparse.Namespace) -> list[Path]:
    """Divide with the given options."""
    return run(**vars(opt))


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
