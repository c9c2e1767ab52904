"""Copies and near copies of images, within a split and across: by bytes, and by a perceptual hash of our own.

The hash is a difference hash of 256 bits: the image is shrunk to 17 x 16 grey values, and each bit says whether the
right one of two neighbours is brighter. It survives JPEG, scaling, brightness and small crops; mirrored copies are
found by the hash of the mirrored image. A pair of a small distance is confirmed by the correlation of 32 x 32
thumbnails, which tells white pages with a few marks apart.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import cv2
import numpy as np

from engine.doctor.dataset import Dataset
from engine.doctor.findings import Finding, Place, share_text
from utils.datasets.images import COLOR8, PixelFormat, decode_image
from utils.files import open_regular

COLUMNS, ROWS = 17, 16  # grey values of the hash
SIDE = 32  # of the thumbnail
NEAR = 40  # bits: unrelated pairs differ by 74 or more in the sets measured, a crop of 2 % by 18 to 27
ALIKE = 0.85  # correlation: of unrelated pairs at most 0.76
FLAT = 2  # grey levels between the darkest and the brightest point of an image without content
BLOCK = 1 << 24  # pairs compared at a time
COMPARED = 1 << 13  # images that a block is compared with at a time
SHORT_SIDE = 120  # pixels that a reduced image must keep
START_BYTES = 64 << 20  # read for exact copies at the start of a training
REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8), (4, cv2.IMREAD_REDUCED_GRAYSCALE_4), (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    (1, cv2.IMREAD_GRAYSCALE),
)  # fmt: skip


class Scanned(NamedTuple):
    """What is kept of the pixels of N images.

    Attributes:
        hashes, mirrored: (N, 256) bool, of the image and of its mirror image.
        thumbs: (N, 32, 32) uint8 grey.
        levels: (N,) between the darkest and the brightest point of the thumbnail; -1 of an image that is damaged.
    """

    hashes: np.ndarray
    mirrored: np.ndarray
    thumbs: np.ndarray
    levels: np.ndarray


def difference_hash(grey: np.ndarray) -> np.ndarray:
    """Return 256 bits: is the right neighbour brighter, row by row.

    Args:
        grey: (H, W) uint8, shrunk to 16 rows of 17 values by averaging.
    """
    small = cv2.resize(grey, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return (small[:, 1:] > small[:, :-1]).ravel()


def _scan_one(file: str, size: np.ndarray, pixels: PixelFormat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hash, hash of the mirror image and thumbnail of an image; zeros if it is damaged."""
    flags = next((flags for factor, flags in REDUCED if min(size) >= factor * SHORT_SIDE), cv2.IMREAD_GRAYSCALE)
    grey = decode_image(file, flags, pixels)
    if grey is None:
        return np.zeros(256, bool), np.zeros(256, bool), np.zeros((SIDE, SIDE), np.uint8)
    thumb = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return difference_hash(grey), difference_hash(cv2.flip(grey, 1)), thumb


def scan_pixels(files: Sequence[str], sizes: np.ndarray, pixels: PixelFormat = COLOR8) -> Scanned:
    """Decode images, each at the largest reduction that leaves 120 pixels, and keep what copies are found by."""
    with ThreadPool(max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 1)) as pool:
        found = pool.imap(lambda i: _scan_one(files[i], sizes[i], pixels), range(len(files)), chunksize=16)
        hashes, mirrored = (np.zeros((len(files), 256), bool) for _ in range(2))
        thumbs = np.zeros((len(files), SIDE, SIDE), np.uint8)
        for i, one in enumerate(found):
            hashes[i], mirrored[i], thumbs[i] = one
    flat = thumbs.reshape(len(thumbs), -1)
    return Scanned(hashes, mirrored, thumbs, flat.max(1).astype(int) - flat.min(1))


class Link(NamedTuple):
    """Two images that are alike: their numbers, the bits that differ, correlation, and whether one is mirrored."""

    a: int
    b: int
    distance: int
    correlation: float
    mirrored: bool


def near_pairs(scanned: Scanned) -> list[Link]:
    """Return links that join each group of images that are alike, no more than needed for that.

    The distances of all pairs come from products of matrices of +1 and -1, so time grows with the square of the number
    of images: about two seconds for 10,000, and a hundred times that for 100,000.
    """
    n = len(scanned.levels)
    group = np.arange(n)
    members = {i: [i] for i in range(n)}  # of each group that is still there
    usable = scanned.levels > FLAT
    links: list[Link] = []
    step = max(BLOCK // max(n, 1), 1)
    for k in range(0, n, step):
        rows = slice(k, min(k + step, n))
        signs = _signs(scanned.hashes[rows])
        for mirrored, other in ((False, scanned.hashes), (True, scanned.mirrored)):
            close = usable[k:] & usable[rows, None]  # (block, n - k)
            for first in range(k, n, COMPARED):
                part = signs @ _signs(other[first : first + COMPARED]).T >= 256 - 2 * NEAR
                close[:, first - k : first - k + part.shape[1]] &= part
            for row in np.flatnonzero(close.any(1)):
                a = k + int(row)
                candidates = k + np.flatnonzero(close[row])
                candidates = candidates[(candidates > a) & (group[candidates] != group[a])]
                if not len(candidates):
                    continue
                mine = _unit(scanned.thumbs[a : a + 1])[0]
                mine = mine.reshape(SIDE, SIDE)[:, ::-1].ravel() if mirrored else mine
                alike = _unit(scanned.thumbs[candidates]) @ mine
                for b, value in zip(candidates[alike >= ALIKE].tolist(), alike[alike >= ALIKE].tolist(), strict=True):
                    if group[b] == group[a]:
                        continue
                    bits = scanned.hashes[a] != (scanned.mirrored if mirrored else scanned.hashes)[b]
                    links.append(Link(a, b, int(bits.sum()), value, mirrored))
                    small, large = sorted((group[a], group[b]), key=lambda g: len(members[g]))
                    moved = members.pop(small)
                    group[moved] = large
                    members[large] += moved
    return links


def _signs(bits: np.ndarray) -> np.ndarray:
    """Return +1 for bits that are set and -1 for others, float32: of 256 such products the sum is 256 - 2 distances."""
    return np.where(bits, np.float32(1), np.float32(-1))


def _unit(thumbs: np.ndarray) -> np.ndarray:
    """Return thumbnails (N, 32, 32) as float32 vectors (N, 1024) of mean 0 and length 1, whose product correlates."""
    vectors = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors


# Exact copies ---------------------------------------------------------------------------------------------------------
def exact_copies(files: Sequence[str], most_bytes: int | None = None) -> list[list[int]]:
    """Return groups of numbers of files with equal content; only files of equal length are read.

    Args:
        files: any.
        most_bytes: read no more than these in all: the smallest files first. None for no limit.
    """
    lengths: dict[int, list[int]] = {}
    for i, file in enumerate(files):
        lengths.setdefault(os.path.getsize(file) if os.path.isfile(file) else -1, []).append(i)
    groups: dict[bytes, list[int]] = {}
    read = 0
    for length, same in sorted(lengths.items()):
        read += length * len(same) if len(same) > 1 else 0
        if len(same) < 2 or length < 0 or (most_bytes is not None and read > most_bytes):
            continue
        for i in same:
            digest = hashlib.blake2b(digest_size=16)
            with open_regular(files[i]) as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
            groups.setdefault(digest.digest(), []).append(i)
    return sorted(group for group in groups.values() if len(group) > 1)


class _All:
    """The images of all splits end to end, in the order of the splits; one that is listed twice counts once.

    Attributes:
        files, sizes, labels, split: path, (width, height), labels and name of the split of each image.
        totals: images of each split.
    """

    def __init__(self, data: Dataset) -> None:
        self.files: list[str] = []
        self.split: list[str] = []
        self.labels: list[np.ndarray] = []
        sizes, known = [np.zeros((0, 2), np.int64)], set()
        for split in data.splits.values():
            for file, size, labels in zip(split.im_files, split.sizes, split.labels, strict=True):
                real = os.path.realpath(file) if os.path.islink(file) else file
                if real not in known:  # twice is another finding, of check_same_split
                    known.add(real)
                    self.files.append(file)
                    self.split.append(split.name)
                    self.labels.append(labels)
                    sizes.append(size[None])
        self.sizes = np.concatenate(sizes)
        self.totals = {split.name: len(split.im_files) for split in data.splits.values()}

    def same_labels(self, link: Link) -> bool:
        """Return whether two images have the same labels, in any order."""
        a, b = (x[np.lexsort(x.T)] for x in (self.labels[link.a], self.labels[link.b]))
        return np.array_equal(a, b)


def check_exact(data: Dataset, most_bytes: int | None = None) -> Iterator[Finding]:
    """Report files with equal bytes, in two splits or in one."""
    every = _All(data)
    links = []
    for group in exact_copies(every.files, most_bytes):
        links += [Link(group[0], other, 0, 1.0, False) for other in group[1:]]
        # of a group in three splits or with several images in each, one link for each image beyond the first
    yield from _report(data, every, links, exact=True)


def check_exact_at_start(data: Dataset) -> Iterator[Finding]:
    """Report files with equal bytes as far as few megabytes must be read."""
    yield from check_exact(data, START_BYTES)


def check_pixels(data: Dataset) -> Iterator[Finding]:
    """Report near copies, and images without content."""
    every = _All(data)
    if not every.files:
        return
    scanned = scan_pixels(every.files, every.sizes, data.pixels)
    copies = {other for group in exact_copies(every.files) for other in group[1:]}
    for other in copies:  # they are reported already, and their originals stand for them
        scanned.levels[other] = -1
    yield from _report(data, every, near_pairs(scanned), exact=False)
    for name, total in every.totals.items():
        flat = [
            i for i, s in enumerate(every.split) if s == name and scanned.levels[i] <= FLAT and i not in copies
        ]  # fmt: skip
        if flat:
            yield Finding(
                "images.flat", "warning", name, len(flat), total,
                f"{share_text(len(flat), total, 'images')} are of one colour all over",
                "Failed downloads and covered lenses look like that. Delete them.",
                **data.files([every.files[i] for i in flat]),
            )  # fmt: skip


def _report(data: Dataset, every: _All, links: Sequence[Link], exact: bool) -> Iterator[Finding]:
    """Turn links into findings: one for each pair of splits, one for each split."""
    order = list(every.totals)
    kinds: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        a, b = sorted((link.a, link.b))  # the order of the splits
        kinds.setdefault((every.split[a], every.split[b]), []).append(link._replace(a=a, b=b))
    what = "are copies of" if exact else "resemble"
    for (first, second), found in sorted(kinds.items(), key=lambda item: [order.index(s) for s in item[0]]):
        across = first != second
        images = len({link.b for link in found})
        kind = f"copies.{'exact' if exact else 'near'}_{'across' if across else 'within'}"
        severity = ("error" if exact else "warning") if across else ("warning" if exact else "note")
        if across:
            advice = "Scores of such images say little about new ones: keep all images of one scene in one split."
        elif exact:
            advice = "They count several times. Delete all but one."
        else:
            advice = "Frames of a film look like that. They bring little new, and must not be divided among splits."
        differ = sum(not every.same_labels(link) for link in found) if exact else 0
        labels = f", {differ} of them with other labels" if differ else ""
        places = []
        for link in data.first(sorted(found, key=lambda link: (link.distance, link.a, link.b))):
            note = f"equal bytes{'' if every.same_labels(link) else ', but other labels'}" if exact else (
                f"{link.distance} of 256 bits differ, correlation {link.correlation:.2f}{', mirrored' * link.mirrored}"
            )  # fmt: skip
            a, b = every.files[link.a], every.files[link.b]
            places.append(Place(b, other=a, value=float(link.distance), note=note, image=b))
        yield Finding(
            kind, severity, second, images, every.totals[second],
            f"{share_text(images, every.totals[second], 'images')} {what} "
            f"{f'images of {first}' if across else 'others'}{labels}", advice, places, len(found) - len(places),
        )  # fmt: skip
