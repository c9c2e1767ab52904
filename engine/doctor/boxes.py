"""Checks of the boxes: too small, too thin, labelled twice, too many."""

import itertools
from collections.abc import Iterator

import numpy as np

from engine.doctor.dataset import Dataset, DoctorSplit
from engine.doctor.findings import Finding, Place, share_text
from engine.doctor.formats import edges
from utils.autoanchor import BPR_ENOUGH, anchor_metric
from utils.boxes import touching_pairs
from utils.console import size_text
from utils.text import printable

TINY = 2  # net pixels: augmentation drops labels with a side below it
DOUBLE = 0.9  # IoU of two labels of one object; BCCD has seven such pairs, from 0.915
THIN, TOO_THIN = 20, 100  # ratio of sides; the augmentation drops labels from the second on
WHOLE = 0.95  # of the area of the image
AT_ONCE = 100_000  # labels that are compared in one grid
COPIES = 5  # label files with equal content


def check_tiny(data: Dataset) -> Iterator[Finding]:
    """Report boxes that are too small for the size of the network input."""
    for split in data.splits.values():
        short = data.net_sides(split).min(1)
        rows = np.flatnonzero(short < TINY)
        if len(rows):
            smallest = max(float(np.quantile(short[rows], 0.1)), 1e-6)
            sides = [side * TINY / smallest for side in ([data.imgsz] if isinstance(data.imgsz, int) else data.imgsz)]
            larger = [-(-int(need) // 32) * 32 for need in sides]
            size = f"--img {size_text(larger)}" if max(sides) <= 4096 else "--slice, tiles of large images,"
            yield Finding(
                "boxes.tiny", "warning", split.name, len(rows), len(short),
                f"{share_text(len(rows), len(short), 'boxes')} have a side below {TINY} pixels at {data.settings}",
                f"Training drops most of them, validation counts them as missed. {size} would keep nine in ten.",
                **data.boxes(split, rows, (f"{short[row]:.1f} pixels" for row in rows)),
            )  # fmt: skip
        below = (short >= TINY) & (short < data.stride)
        if below.any():
            much = split.name == "train" and below.mean() > 0.2
            rows = np.flatnonzero(below)
            yield Finding(
                "boxes.below_stride", "warning" if much else "note", split.name, len(rows), len(short),
                f"{share_text(len(rows), len(short), 'boxes')} have a side below {data.stride} pixels at "
                f"{data.settings}, one cell of the finest map",
                "They are hard to find. A larger --img or a P2 model (models/hub/yolov5-p2.yaml) helps.",
                **data.boxes(split, rows, (f"{short[row]:.1f} pixels" for row in rows)),
            )  # fmt: skip


def check_anchors(data: Dataset) -> Iterator[Finding]:
    """Report boxes whose shape no anchor fits: they are never learned unless AutoAnchor changes the anchors."""
    split = data.splits.get("train")
    if split is None or data.anchors is None or not len(split.flat):
        return
    sides = np.maximum(data.net_sides(split), TINY)
    fit, recall, _ = anchor_metric(sides, data.anchors, data.anchor_t)
    bad = fit <= 1 / data.anchor_t
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    cls = split.flat[:, 0].astype(int)
    total = np.bincount(cls)
    wrong = np.bincount(cls[bad], minlength=len(total))
    shares = [(wrong[c] / total[c], c) for c in np.flatnonzero(wrong) if total[c] >= 20]
    worst = max(shares, default=(0.0, -1))
    severe = worst[0] >= 1 - BPR_ENOUGH
    name = f"; worst class {printable(data.names[worst[1]])!r}: {100 * worst[0]:.0f} %" if severe else ""
    fixed = "AutoAnchor, which train.py runs, replaces the anchors" if recall <= BPR_ENOUGH else (
        f"AutoAnchor keeps the anchors, as they fit {100 * recall:.1f} % of all boxes"
    )  # fmt: skip
    yield Finding(
        "boxes.no_anchor", "warning" if severe else "note", split.name, len(rows), len(fit),
        f"{share_text(len(rows), len(fit), 'boxes')} differ from every anchor by a factor of {data.anchor_t:g} or more "
        f"in a side at {data.settings}{name}",
        f"No anchor learns them. {fixed}.",
        **data.boxes(split, rows, (f"{sides[row, 0]:.0f} x {sides[row, 1]:.0f} pixels" for row in rows)),
    )  # fmt: skip


def check_shapes(data: Dataset) -> Iterator[Finding]:
    """Report very long boxes, boxes as large as the image, and many at its border."""
    for split in data.splits.values():
        boxes, total = split.flat[:, 1:], len(split.flat)
        sides = boxes[:, 2:] * split.sizes[split.owner]
        ratio = sides.max(1, initial=0) / np.maximum(sides.min(1, initial=np.inf), 1e-9)
        for low, high, severity, advice in (
            (TOO_THIN, np.inf, "error", "The augmentation drops them. Correct them, or cut the object into parts."),
            (THIN, TOO_THIN, "note", "Look whether they are meant."),
        ):  # fmt: skip
            rows = np.flatnonzero((ratio >= low) & (ratio < high))
            if len(rows):
                yield Finding(
                    "boxes.thin", severity, split.name, len(rows), total,
                    f"{share_text(len(rows), total, 'boxes')} are at least {low} times as long as wide", advice,
                    **data.boxes(split, rows, (f"{ratio[row]:.0f} : 1" for row in rows)),
                )  # fmt: skip
        rows = np.flatnonzero(boxes[:, 2:].prod(1) > WHOLE)
        if len(rows):
            yield Finding(
                "boxes.whole_image", "warning" if len(rows) > 0.1 * total else "note", split.name, len(rows), total,
                f"{share_text(len(rows), total, 'boxes')} cover more than {100 * WHOLE:.0f} % of their image",
                "Many of them are the mark of a dataset for classification; close-ups may look like that.",
                **data.boxes(split, rows),
            )  # fmt: skip
        out, pixel = edges(boxes), 1 / np.tile(split.sizes[split.owner], 2)
        rows = np.flatnonzero((np.concatenate((out[:, :2], 1 - out[:, 2:]), 1) <= pixel).any(1))
        if len(rows) > 0.3 * total and total:
            yield Finding(
                "boxes.at_border", "note", split.name, len(rows), total,
                f"{share_text(len(rows), total, 'boxes')} end at the edge of their image",
                "Tiles and crops look like that, and so do labels made for another size of the image.",
                **data.boxes(split, rows),
            )  # fmt: skip


def overlapping_pairs(split: DoctorSplit, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of labels of one image whose IoU in pixels exceeds a threshold.

    Returns:
        Rows of `split.flat`, (P, 2), in order, and their IoU, (P,).
    """
    box = edges(split.flat[:, 1:]) * np.tile(split.sizes[split.owner], 2)
    found, values = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    area = (box[:, 2:] - box[:, :2]).prod(1)
    # of two such boxes the left corner of one is no further inside the other than this, and likewise the top
    sides = (1 - threshold + 1e-6) * (box[:, 2:] - box[:, :2])
    corners = np.concatenate((box[:, :2], box[:, :2] + sides), 1)
    first = np.append(split.starts, len(box))
    first = first[np.unique(np.searchsorted(first, np.arange(0, len(box) + AT_ONCE, AT_ONCE)).clip(max=len(first) - 1))]
    parts = (
        (i + a, j + a)
        for a, b in itertools.pairwise(first.tolist())  # labels of whole images
        for i, j in touching_pairs(corners[a:b], corners[a:b], split.owner[a:b], split.owner[a:b])
    )
    for i, j in parts:
        i, j = i[i < j], j[i < j]
        common = (np.minimum(box[i, 2:], box[j, 2:]) - np.maximum(box[i, :2], box[j, :2])).clip(0).prod(1)
        iou = common / (area[i] + area[j] - common)
        found.append(np.stack((i, j), 1)[iou > threshold])
        values.append(iou[iou > threshold])
    pairs, iou = np.concatenate(found), np.concatenate(values)
    order = np.lexsort(pairs.T[::-1])
    return pairs[order], iou[order]


def check_double(data: Dataset) -> Iterator[Finding]:
    """Report pairs of labels that are one object: of one class, or of two."""
    for split in data.splits.values():
        pairs, iou = overlapping_pairs(split, DOUBLE)
        same = split.flat[pairs[:, 0], 0] == split.flat[pairs[:, 1], 0]
        for key, severity, which, what, advice in (
            ("boxes.double", "warning", same, "of one class cover each other, as if one object was labelled twice",
             "Both are learned, and one of them counts as missed. Delete one, unless two objects really overlap."),
            ("boxes.two_names", "note", ~same, "of different classes cover each other",
             "Datasets in which an object may have several classes do that; else one of them is wrong."),
        ):  # fmt: skip
            chosen, values = pairs[which], iou[which]
            if not len(chosen):
                continue
            found = data.boxes(split, chosen[:, 0])
            places = []
            for place, (row, other), value in zip(found["places"], chosen, values, strict=False):
                note = f"and line {split.line_of(int(other))}, IoU {value:.3f}" if split.yolo else f"IoU {value:.3f}"
                if key == "boxes.two_names":
                    note += ", " + " and ".join(printable(data.names[int(split.flat[r, 0])]) for r in (row, other))
                places.append(Place(place.file, place.line, place.box, None, round(float(value), 4), note, place.image))
            span = " to ".join(dict.fromkeys(f"{value:.3f}" for value in (values.min(), values.max())))
            yield Finding(
                key, severity, split.name, len(chosen), len(split.flat),
                f"{len(chosen)} pair{'s' * (len(chosen) > 1)} of labels {what} (IoU {span})",
                advice, places, found["more"],
            )  # fmt: skip


def check_crowded(data: Dataset) -> Iterator[Finding]:
    """Report images with more labels than validation keeps detections."""
    for split in data.splits.values():
        images = np.flatnonzero(split.per_image > data.max_det)
        if len(images):
            files = [split.im_files[i] for i in images]
            yield Finding(
                "boxes.crowded", "warning", split.name, len(images), len(split.im_files),
                f"{share_text(len(images), len(split.im_files), 'images')} have more than {data.max_det} labels, up to "
                f"{split.per_image.max()}", f"Validation keeps {data.max_det} detections of an image, which limits "
                "the recall. Use a larger --max-det, or tiles.",
                **data.files(files, (f"{split.per_image[i]} labels" for i in images)),
            )  # fmt: skip


def check_copied_labels(data: Dataset) -> Iterator[Finding]:
    """Report label files that have the same content, several labels each, again and again."""
    for split in data.splits.values():
        groups: dict[bytes, list[int]] = {}
        for i in np.flatnonzero(split.per_image):
            groups.setdefault(split.labels[i].tobytes(), []).append(int(i))
        copied = sorted((group for group in groups.values() if len(group) >= COPIES), key=len, reverse=True)
        if copied and split.yolo:
            count = sum(map(len, copied))
            files = [split.label_files[group[0]] for group in copied]
            yield Finding(
                "boxes.copied_files", "warning", split.name, count, len(split.im_files),
                f"{share_text(count, len(split.im_files), 'images')} have exactly the labels of {COPIES - 1} others or "
                "more", "A faulty export does that; a fixed camera may.",
                **data.files(files, (f"{len(group)} times" for group in copied), shown=False),
            )  # fmt: skip
