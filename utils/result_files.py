"""Detections as files: one text file per image, or one JSON file in the result format of COCO."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.boxes import xyxy2xywh, xyxy2xywhn
from utils.files import atomic_path
from utils.general import LOGGER

COCO_CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # id of each class


class TextFiles:
    """Write a text file per image with detections: rows `class xywhn [confidence]`, best first, 6 significant digits.

    A file is called after the stem of its image; images that share a stem get their whole path below the common folder,
    so that none overwrites another. A file left by an earlier run in the folder is replaced, or removed.

    Args:
        folder: made if need be.
        im_files: all images that will come.
        save_conf: end each row with the confidence.
    """

    def __init__(self, folder: Path, im_files: Sequence[str], save_conf: bool = False) -> None:
        self.folder, self.save_conf = folder, save_conf
        stems = Counter(Path(file).stem for file in im_files)
        common = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in im_files])
        self.names = {
            file: f"{Path(file).stem if stems[Path(file).stem] == 1 else os.path.relpath(file, common)}.txt"
            for file in im_files
        }

    def add(self, detections: Tensor, path: str, shape: tuple[int, int]) -> None:
        """Write the file of one image.

        Args:
            detections: (D, 6) `[xyxy_img, confidence, class]`, best first.
            path: the image, one of `im_files`.
            shape: its height and width in pixels.
        """
        file = self.folder / self.names[path]
        if not len(detections):
            file.unlink(missing_ok=True)
            return
        columns = [detections[:, 5:6], xyxy2xywhn(detections[:, :4], shape[1], shape[0])]
        if self.save_conf:
            columns.append(detections[:, 4:5])
        lines = [" ".join(f"{value:g}" for value in row) + "\n" for row in torch.cat(columns, 1).tolist()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")

    def close(self) -> None:
        """Do nothing: every file is complete."""


class JsonFile:
    """Collect all detections for one file, to be scored with the tools of COCO.

    Args:
        file: target, written by `close`; its folder must exist.
        coco: number the 80 classes as COCO does, with gaps from 1 to 90; else the category is the class.
    """

    def __init__(self, file: Path, coco: bool = False) -> None:
        self.file, self.coco = file, coco
        self.rows: list[dict[str, Any]] = []

    def add(self, detections: Tensor, path: str, shape: tuple[int, int]) -> None:  # noqa: ARG002  as in TextFiles
        """Collect one image.

        Args:
            detections: (D, 6) `[xyxy_img, confidence, class]`.
            path: the image; its stem is the image id, as a number if it is one.
            shape: not used, COCO wants pixels.
        """
        stem = Path(path).stem
        boxes = xyxy2xywh(detections[:, :4])
        boxes[:, :2] -= boxes[:, 2:] / 2  # corner and size
        for box, (conf, cls) in zip(boxes.tolist(), detections[:, 4:].tolist(), strict=True):
            self.rows.append(
                {
                    "image_id": int(stem) if stem.isdecimal() else stem,
                    "category_id": COCO_CATEGORIES[int(cls)] if self.coco else int(cls),
                    "bbox": [round(value, 3) for value in box],
                    "score": round(conf, 5),
                }
            )

    def close(self) -> None:
        """Write the file."""
        with atomic_path(self.file) as tmp:
            tmp.write_text(json.dumps(self.rows), encoding="utf-8")
        LOGGER.info(f"{len(self.rows)} detections saved to {self.file}")


def open_files(
    folder: Path,
    im_files: Sequence[str],
    split: str | Sequence[str],
    weights: str | Path | Sequence[str | Path] | None = None,
    save_txt: bool = False,
    save_conf: bool = False,
    save_json: bool = False,
) -> list[TextFiles | JsonFile]:
    """Open the files that a validation was asked for.

    Args:
        folder: where to; text files go into labels/ below.
        im_files: all images that will come.
        split: the validation split; `coco/val2017.txt` makes the JSON file use the categories of COCO.
        weights: checkpoint, or the first of several, after which <stem>_predictions.json is called; None leaves its
            part out.
        save_txt: write text files, with the confidence if `save_conf` says so.
        save_conf: see `save_txt`.
        save_json: write the JSON file.
    """
    files = []
    if save_txt:
        files.append(TextFiles(folder / "labels", im_files, save_conf))
    if save_json:
        first = weights if isinstance(weights, str | Path | None) else weights[0]
        name = f"{Path(first).stem}_predictions.json" if first else "predictions.json"
        coco = isinstance(split, str) and Path(split).parts[-2:] == ("coco", "val2017.txt")
        files.append(JsonFile(folder / name, coco))
    return files
