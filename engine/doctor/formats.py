"""Checks of label lines: those that cannot be read, and formats of other programs that can be read, but wrongly."""

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from engine.doctor.dataset import Dataset, DoctorSplit
from engine.doctor.findings import Finding, Place, share_text
from engine.doctor.images import orientation_of
from utils.datasets.lists import img2label_paths
from utils.datasets.reader import MAX_CLASS, image_size, plain_boxes, read_text

ENOUGH = 20  # labels from which on a format is judged, over a whole split
SAMPLED = 20  # images whose sizes tell pixels from per cent
OUTSIDE = 0.01  # further out of the image than rounding explains, as a fraction of it
FILE_AND_LINE = re.compile(r"(.+?):(\d+): ")
REASONS = (  # how messages of the reader begin or go on, and what they are called in a summary
    ("columns;", "a wrong number of columns"),
    ("other than numbers", "something other than numbers"),
    ("left out: class ", "a class that does not exist"),
    ("not all within 0..1", "coordinates outside 0..1"),
    ("no area", "no area"),
    ("repeated label", "a repetition"),
)
OTHER_FRAME = re.compile(  # of labels in pixels, see `reader.verify_objects`
    r".+?: (.+) left out: its labels are for (\d+) x (\d+) pixels, but the image has (\d+) x (\d+)$"
)


# What the reader left out ---------------------------------------------------------------------------------------------
def check_messages(data: Dataset) -> Iterator[Finding]:
    """Report label lines and images that the reader left out, by reason."""
    for name, text in data.unreadable.items():
        yield Finding(
            "files.unreadable_split", "error", name, 1, 1, f"the split cannot be read: {text}",
            "Without train and val there is no training. Fix the path or the files." if name != "test" else
            "It is not used in a training.",
        )  # fmt: skip
    for split in data.splits.values():
        repeated = [m for m in split.messages if "repeated label" in m]
        absent = {f"{f}: image left out: No such file or directory" for f in split.missing}  # check_missing names them
        images = [m for m in split.messages if "image left out: " in m and m not in absent]
        turned = [m for m in split.messages if _for_unturned_image(m)]
        others = {*repeated, *images, *absent, *turned}
        lines = [m for m in split.messages if m not in others]
        total = len(split.flat)
        for key, severity, messages, what, advice in (
            ("labels.bad_line", "error", lines, "label lines or entries cannot be used",
             "They are left out; an image without a single good line is left out too. Correct or delete them."),
            ("labels.repeated", "note", repeated, "label files repeat a line", "The repetition is left out."),
            ("files.bad_image", "error", images, "images cannot be used",
             "They are left out, with their labels. Replace or delete them."),
            ("images.exif_frame", "error", turned, "images are turned by their EXIF data, but their labels are not",
             "They are left out. Turn the labels, or save the images turned and without EXIF data."),
        ):  # fmt: skip
            if not messages:
                continue
            reasons = Counter(next((text for mark, text in REASONS if mark in m), "other") for m in messages)
            words = ", ".join(f"{n} with {reason}" for reason, n in reasons.most_common() if reason != "other")
            whole = len(split.listed) if messages in (images, turned) else total + len(lines)
            count = share_text(len(messages), whole, what) if key != "labels.repeated" else f"{len(messages)} {what}"
            yield Finding(
                key, severity, split.name, len(messages), whole,
                f"{count}{f' ({words})' if words and key == 'labels.bad_line' else ''}",
                advice, [_place(m) for m in data.first(messages)], max(len(messages) - (data.limit or 1 << 60), 0),
            )  # fmt: skip


def _for_unturned_image(message: str) -> bool:
    """Return whether an image was left out because its labels are for the image before EXIF turns it."""
    match = OTHER_FRAME.match(message)
    return match is not None and match.group(2, 3) == match.group(5, 4) and orientation_of(match[1]) >= 5


def _place(message: str) -> Place:
    """Return the place that a message of the reader begins with, and the rest as its note."""
    if match := FILE_AND_LINE.match(message):
        return Place(match[1], int(match[2]), note=message[match.end() :].removeprefix("line left out: "))
    file, _, text = message.partition(": ")
    return Place(file, note=text.removeprefix("image left out: "))


# Boxes of another notation --------------------------------------------------------------------------------------------
def edges(boxes: np.ndarray) -> np.ndarray:
    """Return x1 y1 x2 y2 of boxes xywhn, (L, 4), as fractions of the image, uncut."""
    return np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)


def suspected_notations(boxes: np.ndarray) -> list[str]:
    """Return the notations that lines, read as centre and size, were probably written in: `corners`, `top_left`.

    Corners x1 y1 x2 y2: 5 % of the boxes or more reach out of the image, and the third number exceeds the first and the
    fourth the second in 99 %. Corner and size: 1 % or more reach out, and only to the left or top, while corner plus
    size stay inside in 99 %. Right labels reach out in none of the sets measured.

    Args:
        boxes: (L, 4) of a whole split.
    """
    if len(boxes) < ENOUGH:
        return []
    out = edges(boxes)
    before, after = (out[:, :2] < -OUTSIDE).any(1), (out[:, 2:] > 1 + OUTSIDE).any(1)
    found = []
    if (before | after).mean() >= 0.05 and (boxes[:, 2:] > boxes[:, :2]).all(1).mean() >= 0.99:
        found.append("corners")
    inside = (boxes[:, :2] + boxes[:, 2:] <= 1.001).all(1)
    if before.mean() >= 0.01 and not after.any() and inside.mean() >= 0.99:
        found.append("top_left")
    return found


NOTATIONS = {
    "corners": ("x1 y1 x2 y2", "(x1+x2)/2 (y1+y2)/2 x2-x1 y2-y1"),
    "top_left": ("the top left corner with width and height", "x+w/2 y+h/2 w h"),
}


def check_outside(data: Dataset) -> Iterator[Finding]:
    """Report boxes that reach out of their image, and which other notation explains them."""
    for split in data.splits.values():
        out = edges(split.flat[:, 1:])
        excess = np.concatenate((-out[:, :2], out[:, 2:] - 1), 1)  # (L, 4), above 0: outside
        rows = np.flatnonzero((excess > OUTSIDE).any(1))
        if not len(rows):
            continue
        sides = excess[rows].argmax(1)
        words = ("left", "top", "right", "bottom")
        notes = (f"{words[k]} edge at {out[row, k]:.2f}" for row, k in zip(rows, sides, strict=True))
        count = share_text(len(rows), len(out), "boxes")
        suspected = suspected_notations(split.flat[:, 1:])
        for key in suspected:
            written, right = NOTATIONS[key]
            yield Finding(
                f"labels.{key}", "error", split.name, len(rows), len(out),
                f"{count} reach out of their image, and the lines fit {written}, so they seem to be written that way",
                f"They are read as centre and size, cut at the edge and learned wrongly. Write {right}.",
                **data.boxes(split, rows, notes),
            )  # fmt: skip
        if not suspected:
            yield Finding(
                "labels.outside", "warning", split.name, len(rows), len(out), f"{count} reach out of their image",
                "They are cut at the edge. Labels of hidden parts may do that on purpose; else correct them: a line is "
                "the centre and the size.", **data.boxes(split, rows, notes),
            )  # fmt: skip


def check_one_based(data: Dataset) -> Iterator[Finding]:
    """Report class numbers that seem to be counted from 1: the number after the last occurs, and 0 never."""
    selection = data.yaml.get("selection")
    nc, zero = (len(selection.known), selection.targets[0]) if selection else (len(data.names), 0)
    beyond = [m for split in data.splits.values() for m in split.messages if f"left out: class {nc}; " in m]
    if beyond and zero >= 0 and not any((split.flat[:, 0] == zero).any() for split in data.splits.values()):
        yield Finding(
            "labels.one_based", "error", None, len(beyond), len(beyond),
            f"class {nc} occurs and class 0 never: classes seem to be counted from 1",
            f"The classes are 0 to {nc - 1}. Subtract 1 in every line.", [_place(m) for m in data.first(beyond)],
        )  # fmt: skip


# Columns --------------------------------------------------------------------------------------------------------------
class Columns:
    """The lines of all label files of a split, of images that are left out too, by their number of columns.

    Attributes:
        counts: lines of each number of columns, without those of `wrong`.
        wrong: columns 2 to 5, in which a fraction is expected, of lines where one is far above 1, (lines, 4).
    """

    def __init__(self, split: DoctorSplit) -> None:
        self.counts: Counter[int] = Counter()
        self.images, self.files = split.listed, img2label_paths(split.listed)
        wrong = array("d")
        # of each number of columns but 5, 0 for `wrong`: numbers end to end, and pairs of file and line
        self._values: dict[int, array[float]] = {}
        self._places: dict[int, array[int]] = {0: array("q")}
        for i, file in enumerate(self.files):
            try:
                text = read_text(file)
            except (OSError, ValueError):  # there is none, or the reader has reported it
                continue
            plain = plain_boxes(text, None)
            if plain is not None:
                self.counts[5] += len(plain)
                continue
            for number, line in enumerate(text.split("\n"), 1):
                row = _numbers(line)
                if not row:
                    continue
                if len(row) > 4 and max(row[1:5]) > 1.5:
                    wrong.extend(row[1:5])
                    self._places[0].extend((i, number))
                    continue
                self.counts[len(row)] += 1
                if len(row) != 5:
                    self._values.setdefault(len(row), array("d")).extend(row)
                    self._places.setdefault(len(row), array("q")).extend((i, number))
        self.wrong = np.array(wrong).reshape(-1, 4)

    @property
    def lines(self) -> int:
        """Number of all lines."""
        return self.counts.total() + len(self.wrong)

    def values(self, number: int) -> np.ndarray:
        """Return the lines of a number of columns, (lines, columns), of every number but 5."""
        return np.array(self._values.get(number, array("d"))).reshape(-1, number)

    def places(self, data: Dataset, number: int, which: np.ndarray | None = None) -> dict[str, Any]:
        """Return the places of lines of a number of columns, 0 for `wrong`, as arguments of `Finding`."""
        pairs = np.array(self._places[number]).reshape(-1, 2)
        pairs = pairs if which is None else pairs[which]
        chosen = (pair.tolist() for pair in data.first(pairs))
        first = [Place(self.files[i], line, image=self.images[i]) for i, line in chosen]
        return {"places": first, "more": len(pairs) - len(first)}

    def images_of_wrong(self, most: int) -> list[str]:
        """Return the images of the first lines of `wrong`."""
        return [self.images[i] for i in self._places[0][: 2 * most : 2]]


def _numbers(line: str) -> list[float]:
    """Return the numbers in a line, [] if something else is in it."""
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        return []
    return row if all(map(np.isfinite, row)) and (not row or 0 <= row[0] < MAX_CLASS) else []


def key_points_fit(lines: np.ndarray) -> bool:
    """Return whether lines of more than five columns are boxes with key points after them, not polygons.

    With three numbers a point, the third of which is 0, 1 or 2, that is certain. Else it is judged by geometry: the key
    points lie in the box of columns 2 to 5 enlarged by 10 % (in 95 % of the lines), while the pair (w, h), which would
    be a corner of a polygon, lies near the other points (in the hull of all of them, enlarged by half its size on each
    side) in less than half of the lines.

    Args:
        lines: (lines, columns), all columns.
    """
    rest = lines[:, 5:]
    if rest.shape[1] % 3 == 0 and np.isin(rest[:, 2::3], (0, 1, 2)).all():
        return True
    if rest.shape[1] % 2:
        return False
    points = rest.reshape(len(rest), -1, 2)
    centre, size = lines[:, None, 1:3], lines[:, None, 3:5]
    inside = (abs(points - centre) <= size * 0.55).all((1, 2))
    low, high = points.min(1), points.max(1)
    margin = (high - low) / 2
    near = ((size[:, 0] >= low - margin) & (size[:, 0] <= high + margin)).all(1)
    return bool(inside.mean() >= 0.95 and near.mean() < 0.5)


def check_columns(data: Dataset) -> Iterator[Finding]:
    """Report label files of other tasks or programs, judged by the columns of a whole split."""
    for split in data.splits.values():
        if not split.yolo:
            continue
        columns = Columns(split)
        if not columns.lines:
            continue
        yield from _scaled(data, split, columns)
        yield from _sixth_column(data, split, columns)
        most, count = max(columns.counts.items(), key=lambda item: item[1], default=(0, 0))
        if most > 6 and count >= 0.95 * columns.lines:
            yield from _many_columns(data, split, columns, most)
        elif columns.counts[5] and any(n > 6 and n % 2 for n in columns.counts):
            polygons = sum(n for k, n in columns.counts.items() if k > 6)
            yield Finding(
                "labels.mixed_columns", "note", split.name, polygons, columns.lines,
                f"{columns.counts[5]} boxes and {polygons} polygons",
                "Both are used as boxes; the augmentation copy_paste uses polygons only.",
            )  # fmt: skip


def _scaled(data: Dataset, split: DoctorSplit, columns: Columns) -> Iterator[Finding]:
    """Report coordinates in pixels or per cent."""
    wrong = columns.wrong
    if not len(wrong) or len(wrong) < 0.5 * columns.lines:
        return
    largest = float(wrong.max())
    sides = []
    for image in columns.images_of_wrong(SAMPLED):
        with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            sides.append(max(image_size(image, data.pixels)))
    percent = largest <= 100 < max(sides, default=0) / 2  # in smaller images pixels may be as low
    advice = (
        "Divide by 100." if percent else "Divide x and width by the width of the image, y and height by its height."
    )
    yield Finding(
        "labels.pixels", "error", split.name, len(wrong), columns.lines,
        f"{share_text(len(wrong), columns.lines, 'lines')} have coordinates far above 1, up to {largest:g}: they seem "
        f"to be {'per cent' if percent else 'pixels'}",
        f"A line holds fractions of the image; these are left out. {advice}",
        **columns.places(data, 0),
    )  # fmt: skip


def _sixth_column(data: Dataset, split: DoctorSplit, columns: Columns) -> Iterator[Finding]:
    if not columns.counts[6]:
        return
    last = columns.values(6)[:, 5]
    foreign = (last < 0) | (last > 1)
    if foreign.any():
        yield Finding(
            "labels.angle", "error", split.name, int(foreign.sum()), columns.lines,
            f"{share_text(int(foreign.sum()), columns.lines, 'lines')} have a sixth column outside 0..1, up to "
            f"{abs(last).max():g}: an angle, not a confidence",
            "It is ignored, so a turned box is learned as if it were upright. Write upright boxes, or the corners as a "
            "polygon.", **columns.places(data, 6, foreign),
        )  # fmt: skip
    else:
        yield Finding(
            "labels.confidence", "note", split.name, len(last), columns.lines,
            f"{share_text(len(last), columns.lines, 'lines')} have a sixth column within 0..1, a confidence",
            "It is ignored: labels that a model made count like those of a person.", **columns.places(data, 6),
        )  # fmt: skip


def _many_columns(data: Dataset, split: DoctorSplit, columns: Columns, most: int) -> Iterator[Finding]:
    lines = columns.values(most)
    share = share_text(len(lines), columns.lines, "lines")
    if len(lines) >= ENOUGH and key_points_fit(lines):
        yield Finding(
            "labels.key_points", "error", split.name, len(lines), columns.lines,
            f"{share} have {most} columns that fit a box with key points after it",
            "Lines with an odd number of columns are read as polygons, others are left out: both are wrong. Write the "
            "first five columns alone.", **columns.places(data, most),
        )  # fmt: skip
    elif most == 9:
        yield Finding(
            "labels.quads", "note", split.name, len(lines), columns.lines,
            f"{share} have four corners: turned boxes or outlines", "They become the upright boxes around them.",
            **columns.places(data, most),
        )  # fmt: skip
