"""Checks of numbers: labels of each class, backgrounds, sizes of the splits."""

import math
from collections.abc import Iterator

import numpy as np

from engine.doctor.dataset import Dataset
from engine.doctor.findings import Finding, share_text
from utils.text import printable

FEW_LABELS, FEW_IMAGES = 10, 5  # of a class; ten labels move its recall in steps of 0.1
RATIO, LARGE_RATIO = 10, 100  # of the labels of two classes in train
SMALL_IMAGES, SMALL_LABELS = 50, 100  # of a validation split
DRIFT = 3  # factor between the shares of a class in train and val
NAMED = 10  # classes named in a message


def _named(data: Dataset, classes: list[int], numbers: list[str]) -> str:
    pairs = zip(classes, numbers, strict=True)
    words = [f"{c} ({printable(data.names[c])})" + (f": {n}" if n else "") for c, n in pairs]
    more = f", and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


def check_absent(data: Dataset) -> Iterator[Finding]:
    """Report classes without labels in train, or in train or val only, and classes with very few."""
    nc = len(data.names)
    splits = {name: data.splits[name] for name in ("train", "val") if name in data.splits}
    splits = {name: split for name, split in splits.items() if len(split.flat)}  # without any label it is unusable
    counts = {name: split.classes(nc) for name, split in splits.items()}
    labels = {name: count[0][:nc] for name, count in counts.items()}
    none = {name: np.flatnonzero(n == 0).tolist() for name, n in labels.items()}
    if len(none) == 2:  # what is in neither split is said once
        none["val"] = sorted(set(none["val"]) - set(none["train"]))
    for name, advice in (
        ("train", "It is never learned. Look for a typing error in names, or for labels that were left out."),
        ("val", "There is no AP for it, and a mistake with it shows nowhere. Move images of it into val."),
    ):
        if name not in none or not none[name]:
            continue
        other = "val" if name == "train" else "train"
        numbers = [f"{labels[other][c]} in {other}" for c in none[name]] if other in labels else [""] * len(none[name])
        yield Finding(
            "balance.absent", "warning", name, len(none[name]), nc,
            f"no label of class {_named(data, none[name], numbers)}", advice,
        )  # fmt: skip
    for name, (boxes, images) in counts.items():
        few = [c for c in range(nc) if 0 < boxes[c] and (boxes[c] < FEW_LABELS or images[c] < FEW_IMAGES)]
        if few:
            numbers = [f"{boxes[c]} in {images[c]} images" for c in few]
            yield Finding(
                "balance.few", "warning", name, len(few), nc,
                f"{len(few)} of {nc} classes have fewer than {FEW_LABELS} labels or {FEW_IMAGES} images: "
                f"{_named(data, few, numbers)}",
                "Their scores are chance. Label more of them." if name == "val" else "They are hardly learned. Label "
                "more of them, or leave them out.",
            )  # fmt: skip


def check_ratio(data: Dataset) -> Iterator[Finding]:
    """Report classes that are much rarer than others in train, and shares that differ between train and val."""
    nc, train, val = len(data.names), data.splits.get("train"), data.splits.get("val")
    if train is None:
        return
    n = train.classes(nc)[0][:nc]
    present = np.flatnonzero(n)
    if len(present) > 1:
        most, least = int(n.argmax()), int(present[n[present].argmin()])
        ratio = n[most] / n[least]
        if ratio > RATIO:
            yield Finding(
                "balance.ratio", "warning" if ratio > LARGE_RATIO else "note", "train", 1, nc,
                f"class {printable(data.names[most])} has {ratio:.1f} times as many labels as "
                f"{printable(data.names[least])} ({n[most]} and {n[least]})",
                "Rare classes are learned worse. More of their images help; --image-weights shows them more often.",
            )  # fmt: skip
    if val is None or not len(val.flat) or not n.sum():
        return
    m = val.classes(nc)[0][:nc]
    expected = n / n.sum() * m.sum()
    drift = [
        c for c in range(nc) if n[c] and m[c] and max(expected[c], m[c]) >= 10
        and max(expected[c] / m[c], m[c] / expected[c]) > DRIFT
    ]  # fmt: skip
    if drift:
        numbers = [f"{100 * n[c] / n.sum():.1f} % of train, {100 * m[c] / m.sum():.1f} % of val" for c in drift]
        yield Finding(
            "balance.drift", "note", "val", len(drift), nc,
            f"the share of {len(drift)} classes differs by a factor above {DRIFT} between train and val: "
            f"{_named(data, drift, numbers)}", "Scores then measure another mixture than was learned.",
        )  # fmt: skip


def check_backgrounds(data: Dataset) -> Iterator[Finding]:
    """Report splits that consist of backgrounds for the most part."""
    for split in data.splits.values():
        count, total = int((split.per_image == 0).sum()), len(split.im_files)
        if count > 0.5 * total:
            yield Finding(
                "balance.background", "warning", split.name, count, total,
                f"{share_text(count, total, 'images')} have no object",
                "Up to one in ten is usual. Look whether labels are missing.",
            )  # fmt: skip


def check_size(data: Dataset) -> Iterator[Finding]:
    """Report a validation split that is too small to choose by."""
    val = data.splits.get("val")
    if val is None or not len(val.im_files) or (len(val.im_files) >= SMALL_IMAGES and len(val.flat) >= SMALL_LABELS):
        return
    n = max(len(val.flat), 1)
    yield Finding(
        "balance.small_val", "note", "val", len(val.im_files), len(val.im_files),
        f"{len(val.im_files)} images with {len(val.flat)} labels",
        f"Chance alone moves a recall near 0.8 by {1.96 * math.sqrt(0.16 / n):.2f} up or down (95 %), and with it the "
        "choice of best.pt.",
    )  # fmt: skip
