"""Detections as a dataset: images, label files and the YAML that train.py reads."""

import os
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.inference.pipeline import Frame
from utils.annotate import write_image
from utils.console import LOGGER
from utils.datasets.converters import Sample, label_text, link
from utils.datasets.images import COLOR8, PixelFormat
from utils.datasets.output_names import free_name, name_part
from utils.files import write_whole, yaml_save

YAML = "dataset.yaml"


def check_new(folder: str | Path) -> Path:
    """Return the path of a folder in which nothing is yet.

    Raises:
        ValueError: it has contents, or is no folder.
    """
    path = Path(os.path.abspath(os.path.expanduser(folder)))
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"--as-dataset {folder}: this is no folder")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(
            f"--as-dataset {folder}: the folder is not empty, and nothing in it is replaced: give a new one"
        )
    return path


class DatasetFolder:
    """Write images/, labels/ and dataset.yaml with train and val of the same images; `engine.split` divides them.

    Images are linked, or copied where the disk does not allow that; frames of videos and streams are written as JPEG,
    pages of a TIFF as PNG, deep ones as .npy.
    All are in one folder: of sources that share a name, or have one that no dataset can use, it is changed. An image
    without detections has an empty label file. Labels hold class and box, clipped to the image, and no confidence;
    boxes with a side below one pixel, and equal ones, are left out.

    Args:
        folder: see `check_new`; made.
        stems: of all sources, see `ResultNames`.
        names: class names by index.
        pixels: that the network reads, for the YAML.

    Attributes:
        yaml: the dataset YAML, written by `close` if there is an image.
        images, labels: how many so far.

    Raises:
        ValueError: see `check_new`.
    """

    def __init__(
        self, folder: str | Path, stems: Mapping[str, str], names: Mapping[int, str], pixels: PixelFormat = COLOR8
    ) -> None:
        self.folder, self.names, self.pixels = check_new(folder), names, pixels
        self.yaml = self.folder / YAML
        self.images = self.labels = 0
        self._stems = {source: _plain(stem) for source, stem in stems.items()}
        self._taken: set[str] = set()
        for part in ("images", "labels"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def add(self, frame: Frame, detections: Tensor) -> None:
        """Write image and labels of a frame; detections are (D, 6) `[xyxy_img, confidence, class]`."""
        stem = self._stems[frame.source] + (f"_{frame.number}" if frame.number else "")
        label = free_name(f"{stem}.txt", self._taken)
        self._taken.add(label.lower())
        target = self.folder / "images" / label.removesuffix(".txt")
        if frame.kind == "image" and frame.number and not self.pixels.plain and frame.pixels is not None:
            image = target.with_name(f"{target.name}.npy")
            content = BytesIO()
            np.save(content, frame.pixels if frame.pixels.dtype == np.uint8 else (frame.pixels / 255).clip(0, 1))
            write_whole(image, content.getvalue())
        elif frame.kind == "image" and frame.number:
            image = target.with_name(f"{target.name}.png")
            write_image(image, frame.image)
        elif frame.kind == "image":
            image = target.with_name(target.name + Path(frame.source).suffix)
            link(Path(frame.source).resolve(), image)  # a second name of a link could lead nowhere
        else:
            image = target.with_name(f"{target.name}.jpg")
            write_image(image, frame.image)
        rows = [[cls, *xyxy] for *xyxy, _, cls in detections.tolist() if min(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]) >= 1]
        text = label_text(Sample(image, stem, frame.shape[::-1], rows))
        text = "".join(dict.fromkeys(text.splitlines(keepends=True)))
        write_whole(self.folder / "labels" / label, text.encode())
        self.images, self.labels = self.images + 1, self.labels + text.count("\n")

    def close(self) -> None:
        """Write the YAML, or without an image remove the folders."""
        if self.images:
            names = {int(number): str(name) for number, name in self.names.items()}
            table = {"path": str(self.folder), "train": "images", "val": "images", "names": names}
            yaml_save(self.yaml, {**table, **self.pixels.keys})
            LOGGER.info(
                f"{self.images} images with {self.labels} labels saved as dataset {self.yaml}, train and val alike"
            )
            return
        for empty in ("images", "labels", ""):
            (self.folder / empty).rmdir()


def _plain(stem: str) -> str:
    """Return a name for an image of a dataset: one part, visible, in one line."""
    name = name_part(re.sub(r"[\\/\x00-\x1f]", "_", stem))
    return f"_{name}" if name.startswith(".") else name
