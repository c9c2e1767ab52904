"""The labels of a whole split and their cache: plain arrays in an NPZ file, valid until an image or label changes.

A cache may come with the dataset and is an untrusted file. It is read only if it is a regular file of a size
that suits the images, its arrays are checked as labels are, and another file of its name is neither followed nor lost.
"""

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.datasets.reader import MAX_CLASS, NO_POLYGON, Split, without_repeats
from utils.datasets.selection import Selection
from utils.files import atomic_path, open_regular

IMAGE_BYTES = 1 << 16  # of a cache for one image at most; 3000 boxes or 8000 corners
MARKS = (b"PK", b"\x93NUMPY")  # first bytes of our caches, and of those of YOLOv5
STATES = ("found", "missing", "empty", "corrupt")
NO_LABELS = np.zeros((0, 5), np.float32)
CACHE_VERSION = 4  # of the cache file and of the rules in reader.py; raise it when either changes


class Pieces(Sequence[Any]):
    """Parts of an array, such as the labels of each image; a part is a view that is made when it is asked for.

    A list of views would be an object for each image or polygon. In forked processes each would have its own copy of
    them, as the count of references is beside the object.

    Args:
        whole: the parts end to end; of lists of parts, themselves `Pieces`.
        lengths: of each part; ValueError if they do not add up.
    """

    def __init__(self, whole: "np.ndarray | Pieces", lengths: np.ndarray) -> None:
        self.whole: Any = whole
        self.lengths, self.ends = lengths, np.cumsum(lengths)
        self._changed: dict[int, Any] = {}
        if lengths.dtype != np.int64 or lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != len(whole):
            raise ValueError(f"{len(whole)} rows for lengths that add up to {lengths.sum()}")

    @classmethod
    def of(cls, parts: Sequence[np.ndarray], empty: np.ndarray) -> "Pieces":
        """Join arrays; `empty` has their shape and type, with no row."""
        return cls(np.concatenate([empty, *parts]), np.array(list(map(len, parts)), np.int64))

    @classmethod
    def nested(cls, parts: Sequence[Sequence[np.ndarray]]) -> "Pieces":
        """Join lists of polygons."""
        lengths = np.array(list(map(len, parts)), np.int64)
        return cls(cls.of([polygon for part in parts for polygon in part], NO_POLYGON), lengths)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            if self._changed:
                return [self[k] for k in range(*i.indices(len(self)))]
            spans = zip(self.ends[i].tolist(), self.lengths[i].tolist(), strict=True)
            return [self.whole[end - length : end] for end, length in spans]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i = int(i) % len(self)
        if i in self._changed:
            return self._changed[i]
        end = int(self.ends[i])
        return self.whole[end - int(self.lengths[i]) : end]

    def __setitem__(self, i: Any, value: Any) -> None:
        places = range(len(self))[i]
        if isinstance(places, int):
            places, value = [places], [value]
        self._changed.update(zip(places, value, strict=True))

    def __add__(self, other: Sequence[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Sequence[Any]) -> list[Any]:
        return [*other, *self]

    def take(self, order: np.ndarray) -> "Pieces":
        """Return the parts of these numbers, in this order, as a copy."""
        lengths = self.lengths[order]
        rows = np.repeat(self.ends[order] - lengths.cumsum(), lengths) + np.arange(lengths.sum())
        taken = Pieces(self.whole.take(rows) if isinstance(self.whole, Pieces) else self.whole[rows], lengths)
        taken._changed = {k: self._changed[i] for k, i in enumerate(order.tolist()) if i in self._changed}
        return taken


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
        messages: problems of single files.
    """

    im_files: list[str]
    label_files: list[str]
    labels: Pieces
    segments: Pieces
    sizes: np.ndarray
    counts: dict[str, int]
    messages: list[str]


def select_labels(found: LabelSet, selection: Selection | None) -> tuple[LabelSet, str]:
    """Return the labels of the chosen classes, with their new numbers, and what was left out in words.

    All images stay; those without a label of these classes become backgrounds. Of labels that are equal once their
    classes are merged one remains. The cache keeps the labels as they were read, so it suits every choice.
    """
    if selection is None:
        return found, ""
    labels: list[np.ndarray] = []
    segments: list[list[np.ndarray]] = []
    ignored = emptied = repeated = 0
    for old, polygons in zip(found.labels, found.segments, strict=True):
        classes = selection.apply(old[:, 0])
        kept = np.flatnonzero(classes >= 0)
        ignored += len(old) - len(kept)
        emptied += len(old) > 0 == len(kept)
        rows = np.concatenate((classes[kept, None], old[kept, 1:]), 1, dtype=np.float32)  # (M, 5)
        polygons = [polygons[i] for i in kept] if polygons else []
        if len(rows) > len(np.unique(rows, axis=0)):
            pairs = zip(rows.tolist(), polygons or [NO_POLYGON] * len(rows), strict=True)
            rows, polygons, left_out = without_repeats(pairs)
            repeated += len(left_out)
        labels.append(rows)
        segments.append(polygons)
    counts = found.counts | {"found": found.counts["found"] - emptied, "empty": found.counts["empty"] + emptied}
    notes = [f"{ignored} labels of other classes ignored"] if ignored else []
    notes += [f"{emptied} images have no others and count as backgrounds"] if emptied else []
    notes += [f"{repeated} labels equal after merging left out"] if repeated else []
    found = replace(found, labels=Pieces.of(labels, NO_LABELS), segments=Pieces.nested(segments), counts=counts)
    return found, "; ".join(notes)


def content_key(im_files: list[str], sources: list[str], nc: int | None, split: Split) -> str:
    """Return a SHA-256 over all that the cached labels depend on: rules, options, paths, sizes and times of change."""
    options = "" if split.format == "yolo" else f" {split.format} {split.first_pixel} {list(split.names.values())}"
    digest = hashlib.sha256(f"{CACHE_VERSION} {nc}{options}{split.pixels.mark}".encode())
    for file in (*im_files, *sources):
        try:
            stat = os.stat(file)
            digest.update(f"\n{file}\t{stat.st_size}\t{stat.st_mtime_ns}".encode(errors="surrogateescape"))
        except OSError:  # a label file that appears later changes the key
            digest.update(f"\n{file}\t-".encode(errors="surrogateescape"))
    return digest.hexdigest()


def write_cache(cache: Path, key: str, label_set: LabelSet, im_files: list[str]) -> None:
    """Store a label set as plain arrays (NPZ without pickle): labels and polygon points end to end, with lengths.

    Raises:
        OSError: the file cannot be written, or one of that name is something else than a label cache.
    """
    # the name derives from the dataset, where a user may have a file of that name
    with suppress(FileNotFoundError), open_regular(cache) as old:
        head = old.read(8)
        if head and not head.startswith(MARKS):
            raise FileExistsError(errno.EEXIST, "not a label cache but another file, which is kept", str(cache))
    kept = set(label_set.im_files)
    labels, segments = label_set.labels, label_set.segments
    arrays = {
        "key": np.array(key),
        "kept": np.array([f in kept for f in im_files]),
        "sizes": label_set.sizes,
        "labels": labels.whole,
        "labels_per_image": labels.lengths,
        "points": segments.whole.whole,
        "points_per_segment": segments.whole.lengths,
        "segments_per_image": segments.lengths,
        "report": np.array(json.dumps({"counts": label_set.counts, "messages": label_set.messages})),
    }
    with atomic_path(cache) as temporary, open(temporary, "wb") as f:
        np.savez(f, **arrays)


def read_cache(
    cache: Path, key: str, im_files: list[str], label_files: list[str], nc: int | None = None
) -> LabelSet | None:
    """Return the stored label set, or None if there is none, it is damaged, or `key` says that it is out of date.

    Args:
        cache: file; a link is not followed.
        key: from `content_key`.
        im_files: all images.
        label_files: theirs.
        nc: classes must be below this, None for any.
    """
    try:
        with open_regular(cache, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            if size > (len(im_files) + 16) * IMAGE_BYTES:  # 16 more: headers of the arrays, and the report
                return None
            with zipfile.ZipFile(file) as archive:  # ours are not compressed: none can hold more than its file has
                entries = archive.infolist()
                if any(e.compress_type or e.flag_bits & 1 for e in entries) or sum(e.file_size for e in entries) > size:
                    return None
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                if str(npz["key"]) != key:
                    return None
                z = dict(npz)
        report = json.loads(str(z["report"]))
        kept = np.flatnonzero(z["kept"])
        polygons = Pieces(z["points"], z["points_per_segment"])
        label_set = LabelSet(
            [im_files[i] for i in kept],
            [label_files[i] for i in kept],
            Pieces(z["labels"], z["labels_per_image"]),
            Pieces(polygons, z["segments_per_image"]),
            z["sizes"],
            report["counts"],
            report["messages"],
        )
        return label_set if is_sound(label_set, z["labels"], z["points"], nc) else None
    except (
        OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError,
        OverflowError, zipfile.BadZipFile,
    ):  # fmt: skip
        return None  # made new by the caller


def is_sound(found: LabelSet, labels: np.ndarray, points: np.ndarray, nc: int | None) -> bool:
    """Return whether a label set from a file is one that reading the labels could have produced.

    Args:
        found: all of it.
        labels: its labels end to end.
        points: its polygons end to end.
        nc: classes must be below this, None for any.
    """
    n = len(found.im_files)
    return (
        labels.dtype == points.dtype == np.float32
        and labels.shape[1:] == (5,)
        and points.shape[1:] == (2,)
        and found.sizes.dtype == np.int64
        and found.sizes.shape == (n, 2)
        and len(found.labels) == len(found.segments) == n
        and not ((found.segments.lengths > 0) & (found.segments.lengths != found.labels.lengths)).any()
        and bool((found.sizes > 0).all())
        and all(bool(((values >= 0) & (values <= 1)).all()) for values in (labels[:, 1:], points))
        and bool((labels[:, 3:] > 0).all())
        and bool(((labels[:, 0] >= 0) & (labels[:, 0] < (MAX_CLASS if nc is None else nc))).all())
        and bool((labels[:, 0] % 1 == 0).all())
        and found.counts.keys() == set(STATES)
        and all(type(count) is int for count in found.counts.values())
        and isinstance(found.messages, list)
        and all(isinstance(message, str) for message in found.messages)
    )
