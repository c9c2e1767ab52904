"""A dataset as the checks see it: names, image files, labels and sizes of each split."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.doctor.findings import Place
from models.yolo import Detect
from utils.autoanchor import label_sizes
from utils.console import size_text
from utils.datasets.dataset import SPLITS, label_classes, read_split
from utils.datasets.images import PixelFormat
from utils.datasets.reader import Split, parse_line, read_text
from utils.datasets.selection import Selection

LIMIT = 10  # places of a finding that are named
P5_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))


@dataclass
class DoctorSplit:
    """One split.

    Attributes:
        name: train, val or test.
        source: folder, image list, or several of them.
        yolo: labels are YOLO text.
        listed: all its images, usable or not.
        im_files, label_files, labels, sizes: of the usable images, as in `LabelSet`.
        messages: problems of single files, as in `LabelSet`.
        nc: classes of the labels are below it, None for any.
        selection: what became of them, see `select_classes`.
    """

    name: str
    source: str | Path | Sequence[str | Path]
    yolo: bool
    listed: list[str]
    im_files: list[str]
    label_files: list[str]
    labels: Sequence[np.ndarray]
    sizes: np.ndarray
    messages: list[str]
    nc: int | None = None
    selection: Selection | None = None
    _lines: tuple[int, list[int]] = (-1, [])  # of the last image that was asked for

    @cached_property
    def flat(self) -> np.ndarray:
        """All labels end to end, (L, 5) float64 `[class, xywhn]`."""
        return np.concatenate([np.zeros((0, 5)), *self.labels])

    @cached_property
    def owner(self) -> np.ndarray:
        """Number of the image of each label, (L,)."""
        return np.repeat(np.arange(len(self.labels)), self.per_image)

    @cached_property
    def per_image(self) -> np.ndarray:
        """Number of labels of each image, (N,)."""
        return np.array([len(x) for x in self.labels], np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of the first label of each image in `flat`, (N,)."""
        return np.cumsum(self.per_image) - self.per_image

    @cached_property
    def backgrounds(self) -> tuple[list[str], list[str]]:
        """Images without labels: those without a label file, and those whose file says that there is none."""
        none = [i for i in np.flatnonzero(self.per_image == 0)]
        missing = {i for i in none if not os.path.exists(self.label_files[i])}
        return [self.im_files[i] for i in missing], [self.im_files[i] for i in none if i not in missing]

    @cached_property
    def missing(self) -> list[str]:
        """Images that are listed but do not exist."""
        usable = set(self.im_files)
        return [f for f in self.listed if f not in usable and not os.path.exists(f)]

    def classes(self, nc: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how many labels, and how many images with one, each class has, twice (nc,)."""
        cls = self.flat[:, 0].astype(np.int64)
        pairs = np.unique(cls * (len(self.labels) + 1) + self.owner)
        return np.bincount(cls, minlength=nc), np.bincount(pairs // (len(self.labels) + 1), minlength=nc)

    def line_of(self, row: int) -> int | None:
        """Return the line of label `row` of `flat` in its file; None if labels are not lines.

        The rules are those of `parse_labels` and `select_labels`: bad and repeated lines give no label, nor do others'
        classes.
        """
        if not self.yolo:
            return None
        image = int(self.owner[row])
        if self._lines[0] != image:
            self._lines = image, self._lines_of(image)
        number = row - int(self.starts[image])
        return self._lines[1][number] if number < len(self._lines[1]) else None

    def _lines_of(self, image: int) -> list[int]:
        """Return the line of each label of an image."""
        lines: list[int] = []
        seen: set[tuple[float, ...]] = set()
        for line, text in enumerate(read_text(self.label_files[image]).split("\n"), 1):
            try:
                values = np.array(parse_line(text.split(), self.nc)[0], np.float32)
            except ValueError:
                continue
            if self.selection:
                values[0] = self.selection.apply(values[:1])[0]
            if values[0] < 0:
                continue
            values = tuple(values.tolist())
            if values not in seen:
                seen.add(values)
                lines.append(line)
        return lines


@dataclass
class Dataset:
    """All that the checks look at.

    Attributes:
        file: the dataset YAML, for messages.
        yaml: its content.
        names: class names by number.
        splits: those that could be read.
        unreadable: why others could not.
        imgsz: side of the network input, or height and width, in pixels; *net pixels* are those of an image fitted
            into it.
        tile: height and width of the tiles that are looked at besides the whole image, or None. Boxes that fit into one
            have its net pixels.
        anchors: (A, 2) in net pixels; None for a model without fixed anchors.
        anchor_t: largest ratio of sides at which an anchor still fits.
        stride: smallest stride of the model.
        limit: places named in each finding, 0 for all.
        max_det: detections that validation keeps of an image.
    """

    file: str
    yaml: Mapping[str, Any]
    names: dict[int, str]
    splits: dict[str, DoctorSplit]
    unreadable: dict[str, str] = field(default_factory=dict)
    imgsz: int | tuple[int, int] = 640
    tile: tuple[int, int] | None = None
    anchors: np.ndarray | None = field(default_factory=lambda: np.array(P5_ANCHORS, float))
    anchor_t: float = 4.0
    stride: int = 8
    limit: int = LIMIT
    max_det: int = 300

    @property
    def pixels(self) -> PixelFormat:
        """How the images are read."""
        return PixelFormat.of(self.yaml, self.file)

    def first(self, things: Iterable[Any]) -> list[Any]:
        """Return as many as are named in a finding."""
        return list(islice(things, self.limit or None))

    def boxes(self, split: DoctorSplit, rows: Sequence[int] | np.ndarray, notes: Iterable[str] = ()) -> dict[str, Any]:
        """Return the places of labels as arguments of `Finding`.

        Args:
            split: where they are.
            rows: of `split.flat`, all that are concerned.
            notes: what to say about each of the first ones.
        """
        notes = iter(notes)
        places = []
        for row in self.first(map(int, rows)):
            image = int(split.owner[row])
            x, y, w, h = (round(float(v), 6) for v in split.flat[row, 1:])
            file = split.label_files[image] if split.yolo else split.im_files[image]
            note = next(notes, "")
            places.append(Place(file, split.line_of(row), (x, y, w, h), note=note, image=split.im_files[image]))
        return {"places": places, "more": len(rows) - len(places)}

    def files(self, files: Sequence[str], notes: Iterable[str] = (), shown: bool = True) -> dict[str, Any]:
        """Return files as arguments of `Finding`; `shown`: they are images that can be looked at."""
        notes = iter(notes)
        places = [Place(f, note=next(notes, ""), image=f if shown else None) for f in self.first(files)]
        return {"places": places, "more": len(files) - len(places)}

    def net_sides(self, split: DoctorSplit) -> np.ndarray:
        """Return width and height of all labels in net pixels, (L, 2)."""
        sides = np.concatenate([np.zeros((0, 2)), *label_sizes(split.sizes, split.labels, self.imgsz)])
        if self.tile is None:
            return sides
        parts = np.minimum(split.sizes, self.tile[::-1])[split.owner]
        pixels = split.flat[:, 3:5] * split.sizes[split.owner]
        frame = np.broadcast_to(self.imgsz, 2)[::-1]
        return np.where((pixels <= parts).all(1)[:, None], pixels * (frame / parts).min(1, keepdims=True), sides)

    @property
    def settings(self) -> str:
        """How the images are looked at, as options of the command line."""
        return f"--img {size_text(self.imgsz)}" + (f" --slice {size_text(self.tile)}" if self.tile else "")


def head_settings(head: Detect) -> dict[str, Any]:
    """Return anchors and smallest stride of a model as settings of `Dataset`."""
    anchors = (head.anchors * head.stride.view(-1, 1, 1)).reshape(-1, 2).cpu().numpy()
    fixed = (anchors > 0).all()  # else they are placeholders, until AutoAnchor has chosen them
    return {"anchors": anchors if fixed else None, "stride": int(head.stride.min())}


def read_dataset(data: dict[str, Any], **settings: Any) -> Dataset:
    """Read all images and labels of a dataset; no cache is read or written.

    Args:
        data: from `check_dataset`.
        settings: further fields of `Dataset`.
    """
    splits, unreadable = {}, {}
    for name in SPLITS:
        if data[name] is None:
            continue
        source = Split.of(data[name])
        try:
            found, listed = read_split(source, data["nc"])
        except (ValueError, OSError) as error:
            unreadable[name] = str(error)
            continue
        splits[name] = DoctorSplit(
            name, source.images, source.format == "yolo", listed, found.im_files, found.label_files, found.labels,
            found.sizes, found.messages, label_classes(source, data["nc"]), source.selection,
        )  # fmt: skip
    return Dataset(str(data["yaml_file"]), data, data["names"], splits, unreadable, **settings)
