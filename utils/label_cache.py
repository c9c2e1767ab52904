"""The labels of a whole split and their cache: plain arrays in an NPZ file, valid until an image or label changes."""

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.label_reader import NO_POLYGON, Split

CACHE_VERSION = 4  # of the cache file and of the rules in label_reader.py; raise it when either changes


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


def content_key(im_files: list[str], sources: list[str], nc: int | None, split: Split) -> str:
    """Return a SHA-256 over all that the cached labels depend on: rules, options, paths, sizes and times of change."""
    options = "" if split.format == "yolo" else f" {split.format} {split.first_pixel} {list(split.names.values())}"
    digest = hashlib.sha256(f"{CACHE_VERSION} {nc}{options}".encode())
    for file in (*im_files, *sources):
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
        with zipfile.ZipFile(cache) as archive:  # ours are not compressed, so that none can hold more than its file has
            if sum(entry.file_size for entry in archive.infolist()) > os.stat(cache).st_size:
                return None
        with np.load(cache, allow_pickle=False) as npz:
            if str(npz["key"]) != key:
                return None
            z = dict(npz)
        report = json.loads(str(z["report"]))
        kept = np.flatnonzero(z["kept"])
        segments = split_by(z["points"], z["points_per_segment"])
        counts = z["segments_per_image"].tolist()
        ends = np.cumsum(z["segments_per_image"]).tolist()
        return LabelSet(
            [im_files[i] for i in kept],
            [label_files[i] for i in kept],
            split_by(z["labels"], z["labels_per_image"]),
            [segments[end - n : end] for end, n in zip(ends, counts, strict=True)],
            z["sizes"],
            report["counts"],
            report["messages"],
        )
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, RecursionError):
        return None  # made new by the caller


def split_by(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Cut rows laid end to end into one array per length; ValueError if they do not add up."""
    ends = np.cumsum(lengths).tolist()
    if ends and ends[-1] != len(rows):
        raise ValueError(f"{len(rows)} rows for lengths that add up to {ends[-1]}")
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]
