"""Checks of image files: depth, orientation, pages, odd sizes."""

import os
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from engine.doctor.dataset import Dataset
from engine.doctor.findings import Finding, share_text
from utils.datasets.images import (
    COLOR8,
    PixelFormat,
    decode_image,
    has_more_pages,
    open_image,
    orientation,
    read_pixels,
)
from utils.datasets.reader import HEAD_BYTES
from utils.files import open_regular

SAMPLED = 200  # images with 16 bits that are decoded, spread over the split
FULL_BITS = 14  # values that need no more use too little of 16 bits
SMALL, LONG = 32, 20  # a side in pixels, a ratio of sides
KINDS = {  # of the modes of PIL
    "1": "grey", "L": "grey", "P": "palette", "CMYK": "CMYK", "LA": "with alpha", "PA": "with alpha",
    "RGBA": "with alpha", "RGBa": "with alpha",
}  # fmt: skip


def check_sizes(data: Dataset) -> Iterator[Finding]:
    """Report very small and very long images."""
    for split in data.splits.values():
        sides = split.sizes
        odd = (sides.min(1, initial=SMALL) < SMALL) | (sides.max(1, initial=0) > LONG * sides.min(1, initial=1 << 40))
        rows = np.flatnonzero(odd)
        if len(rows):
            yield Finding(
                "images.odd_size", "note", split.name, len(rows), len(sides),
                f"{share_text(len(rows), len(sides), 'images')} have a side below {SMALL} pixels or are more than "
                f"{LONG} times as long as wide", "Little is left of them in the network input.",
                **data.files([split.im_files[i] for i in rows], (f"{w} x {h}" for w, h in sides[rows])),
            )  # fmt: skip


def bits_per_sample(file: str) -> int:
    """Return 16 for a PNG or TIFF whose samples have more than 8 bits, else 8."""
    suffix = os.path.splitext(file)[1].lower()
    if suffix == ".png":
        with open_regular(file) as f:
            head = f.read(25)
        return 16 if head[:4] == b"\x89PNG" and head[24:] == b"\x10" else 8
    if suffix in (".tif", ".tiff"):
        try:
            with open_regular(file) as f, open_image(f) as im:
                return 16 if max(np.ravel(im.tag_v2.get(258, 8))) > 8 else 8
        except (OSError, ValueError, SyntaxError, AttributeError):
            return 8
    return 8


def used_bits(files: list[str], pixels: PixelFormat = COLOR8) -> tuple[int, int]:
    """Return the largest value in 16-bit images and the bits it needs."""
    largest = 0
    for file in files:
        values = decode_image(file, cv2.IMREAD_UNCHANGED) if pixels.plain else read_pixels(file, pixels)
        if values is not None and values.dtype == np.uint16:
            colours = values[..., :3] if values.ndim == 3 and pixels.plain else values  # alpha is full as a rule
            largest = max(largest, int(colours.max()))
    return largest, max(largest.bit_length(), 1)


def check_depth(data: Dataset) -> Iterator[Finding]:
    """Report 16-bit images that use 14 bits or fewer, which the dataset does not say: they are nearly black."""
    for split in data.splits.values():
        deep = [file for file in split.im_files if bits_per_sample(file) == 16]
        if not deep:
            continue
        largest, bits = used_bits(deep[:: max(len(deep) // SAMPLED, 1)][:SAMPLED], data.pixels)
        if bits <= FULL_BITS and bits < data.pixels.depth - 1 and not data.pixels.plain:
            yield Finding(
                "images.deep", "warning", split.name, len(deep), len(split.im_files),
                f"{share_text(len(deep), len(split.im_files), 'images')} have 16 bits a sample, but use {largest} of "
                f"{(1 << data.pixels.depth) - 1}", f"Set 'bits: {max(bits, 8)}' in the dataset YAML: the network then "
                "sees their whole range.", **data.files(deep),
            )  # fmt: skip
        elif bits <= FULL_BITS and data.pixels.plain:
            levels = (largest >> 8) + 1
            yield Finding(
                "images.deep", "warning", split.name, len(deep), len(split.im_files),
                f"{share_text(len(deep), len(split.im_files), 'images')} have 16 bits a sample, but use {largest} of "
                f"65535", f"The upper 8 bits are used, so the network sees {levels} grey levels. Multiply the values "
                f"by {1 << (16 - bits)}, save them with 8 bits, or set 'bits: {max(bits, 8)}' in the dataset YAML.",
                **data.files(deep),
            )  # fmt: skip


def orientation_of(file: str) -> int:
    """Return the EXIF orientation of a JPEG; 1 if it has none near its beginning."""
    if not file.lower().endswith((".jpg", ".jpeg", ".jfif", ".mpo")):
        return 1
    with open_regular(file, buffering=0) as f:
        if b"Exif" not in f.read(HEAD_BYTES):
            return 1
    try:
        with open_regular(file) as f, open_image(f) as im:
            return orientation(im)
    except (OSError, ValueError, SyntaxError):
        return 1


def pixel_kind(file: str) -> str | None:
    """Return what the pixels of an image are, such as `colour` or `grey`; None if its head cannot be read."""
    try:
        with open_regular(file) as f, open_image(f) as im:
            return KINDS.get(im.mode) or ("grey" if im.mode.startswith(("I", "F")) else "colour")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def check_channels(data: Dataset) -> Iterator[Finding]:
    """Report splits that mix images of several kinds, such as colour and grey."""
    for split in data.splits.values():
        kinds = [pixel_kind(file) for file in split.im_files] if data.pixels.channels == 3 else []
        counts = Counter(kind for kind in kinds if kind).most_common()
        if len(counts) > 1:
            others = [(file, kind) for file, kind in zip(split.im_files, kinds, strict=True) if kind != counts[0][0]]
            yield Finding(
                "images.channels", "note", split.name, len(others), len(kinds),
                f"images of several kinds: {', '.join(f'{n} {kind}' for kind, n in counts)}",
                "All are read as three channels, transparency is dropped. Look whether classes differ in kind: the "
                "network would learn that.",
                **data.files([file for file, _ in others], (str(kind) for _, kind in others)),
            )  # fmt: skip


def check_heads(data: Dataset) -> Iterator[Finding]:
    """Report images that EXIF says to turn, and files with several pages."""
    for split in data.splits.values():
        total = len(split.im_files)
        turned = [(i, turn) for i, file in enumerate(split.im_files) if (turn := orientation_of(file)) != 1]
        if turned:
            boxes = sum(split.per_image[i] > 0 for i, _ in turned)
            yield Finding(
                "images.exif", "warning" if boxes else "note", split.name, len(turned), total,
                f"{share_text(len(turned), total, 'images')} are turned by their EXIF data, {boxes} of them with boxes",
                "This program turns them, but some labelling programs did not: look whether the boxes fit.",
                **data.files([split.im_files[i] for i, _ in turned], (f"orientation {turn}" for _, turn in turned)),
            )  # fmt: skip
        pages = [file for file in split.im_files if not data.pixels.in_pages(file) and has_more_pages(file)]
        if pages:
            yield Finding(
                "images.pages", "warning", split.name, len(pages), total,
                f"{share_text(len(pages), total, 'images')} have several pages or frames",
                "Only the first one is used. Save each as an image of its own.", **data.files(pages),
            )  # fmt: skip
