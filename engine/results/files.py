"""Detections as files: a text file per image, a JSON file in the result format of COCO, a table."""

import csv
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.boxes import xyxy2xywh, xyxy2xywhn
from utils.console import LOGGER
from utils.datasets.output_names import ResultIds
from utils.files import atomic_path, naming, open_regular, write_whole
from utils.text import csv_cell


def text_lines(
    detections: Tensor, shape: Sequence[int], save_conf: bool, corners: bool = False, ids: Tensor | None = None
) -> str:
    """Return the lines of a text file: `class xywhn [confidence] [id]`, or with xyxyn, 6 significant digits.

    Args:
        detections: (D, 6) `[xyxy_img, confidence, class]`.
        shape: height and width of the image in pixels.
        save_conf: end each line with the confidence.
        corners: xyxyn instead of xywhn.
        ids: (D,) identity of each detection.
    """
    boxes = detections[:, :4]
    if corners:
        boxes = boxes / boxes.new_tensor([shape[1], shape[0], shape[1], shape[0]])
    else:
        boxes = xyxy2xywhn(boxes, shape[1], shape[0])
    columns = [detections[:, 5:6], boxes, detections[:, 4:5]][: 3 if save_conf else 2]
    endings = [""] * len(detections) if ids is None else [f" {number}" for number in ids.tolist()]
    rows = zip(torch.cat(columns, 1).tolist(), endings, strict=True)
    return "".join(" ".join(f"{value:g}" for value in row) + f"{ending}\n" for row, ending in rows)


def coco_rows(
    detections: Tensor, image_id: int | str, categories: Sequence[int | str] | Mapping[int, int] | None
) -> list[dict[str, Any]]:
    """Return the detections of one image in the result format of COCO.

    Args:
        detections: (D, 6) `[xyxy_img, confidence, class]`.
        image_id: of the image.
        categories: class to category id; None keeps the class.
    """
    boxes = xyxy2xywh(detections[:, :4])
    boxes[:, :2] -= boxes[:, 2:] / 2  # corner and size
    return [
        {
            "image_id": image_id,
            "category_id": categories[int(cls)] if categories else int(cls),
            "bbox": [round(value, 3) for value in box],
            "score": round(conf, 5),
        }
        for box, (conf, cls) in zip(boxes.tolist(), detections[:, 4:6].tolist(), strict=True)
    ]


def save_one_txt(predn: Tensor, save_conf: bool, shape: Sequence[int], file: str | Path) -> None:
    """Append the detections of one image, (D, 6) `[xyxy_img, confidence, class]`, to a text file.

    Args:
        predn: detections.
        save_conf: end each line with the confidence.
        shape: height and width of the image in pixels.
        file: lines `class xywhn [confidence]` are added to it.
    """
    with Path(file).open("a", encoding="utf-8") as out:
        out.write(text_lines(predn, shape, save_conf))


def save_one_json(
    predn: Tensor, jdict: list[dict[str, Any]], path: str | Path, class_map: Sequence[int] | Mapping[int, int] | None
) -> None:
    """Append the detections of one image, (D, 6) `[xyxy_img, confidence, class]`, to a list in the format of COCO.

    Args:
        predn: detections.
        jdict: the list.
        path: the image; a numeric stem becomes a number, as in COCO.
        class_map: class to category id; None keeps the class.
    """
    stem = Path(path).stem
    jdict += coco_rows(predn, int(stem) if stem.isnumeric() else stem, class_map)


class TextFiles:
    """Write a text file per image with detections: rows `class xywhn [confidence] [id]`, 6 significant digits.

    A file is called `<stem>` of its image, frame n of a video `<stem>_<n>`. A file left by an earlier run
    in the folder is replaced, or removed.

    Args:
        folder: made if need be.
        stems: of all images that will come, see `unique_stems`.
        save_conf: end each row with the confidence.
        corners: write xyxyn instead of xywhn.
        ascending: write the best row last instead of first.
    """

    def __init__(
        self,
        folder: Path,
        stems: Mapping[str, str],
        save_conf: bool = False,
        corners: bool = False,
        ascending: bool = False,
    ) -> None:
        self.folder, self.stems = folder, stems
        self.save_conf, self.corners, self.ascending = save_conf, corners, ascending

    def add(
        self, detections: Tensor, path: str, shape: tuple[int, int], number: int = 0, ids: Tensor | None = None
    ) -> None:
        """Write the file of one image.

        Args:
            detections: (D, 6) `[xyxy_img, confidence, class]`, best first.
            path: the image, one of `stems`.
            shape: its height and width in pixels.
            number: of the frame of a video, from 1; 0 for an image.
            ids: (D,) identity of each detection, -1 for none.
        """
        file = self.folder / f"{self.stems[path]}{f'_{number}' if number else ''}.txt"
        if not len(detections):
            file.unlink(missing_ok=True)
            return
        if self.ascending:
            detections, ids = detections.flip(0), None if ids is None else ids.flip(0)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text_lines(detections, shape, self.save_conf, self.corners, ids).encode())

    def close(self) -> None:
        """Do nothing: every file is complete."""


class JsonFile:
    """Collect all detections for one file, to be scored with the tools of COCO. They wait on disk, not in memory.

    Args:
        file: target, written by `close`; its folder must exist.
        ids: of all images that will come, and of the classes.
    """

    def __init__(self, file: Path, ids: ResultIds) -> None:
        self.file, self.ids = file, ids
        self.count = 0
        self._rows = tempfile.TemporaryFile("w+", encoding="utf-8", dir=file.parent)

    def add(
        self,
        detections: Tensor,
        path: str,
        shape: tuple[int, int],  # noqa: ARG002
        number: int = 0,
        ids: Tensor | None = None,
    ) -> None:
        """Collect one image.

        Args:
            detections: (D, 6) `[xyxy_img, confidence, class]`.
            path: the image, one of `ids`.
            shape: not used, COCO wants pixels; here because `TextFiles` needs it.
            number: of the frame of a video, which ends the image id; 0 for an image.
            ids: (D,) identity of each detection, written as `track_id`, -1 for none.
        """
        image, categories = self.ids.images[path], self.ids.categories
        image = f"{image}_{number}" if number else image
        numbers = [{}] * len(detections) if ids is None else [{"track_id": number} for number in ids.tolist()]
        for row, track in zip(coco_rows(detections, image, categories), numbers, strict=True):
            with naming(self.file):
                self._rows.write(("," if self.count else "") + json.dumps({**row, **track}))
            self.count += 1

    def close(self) -> None:
        """Write the file."""
        with atomic_path(self.file) as tmp, tmp.open("w", encoding="utf-8") as out, self._rows:
            self._rows.seek(0)
            out.write("[")
            shutil.copyfileobj(self._rows, out)
            out.write("]")
        LOGGER.info(f"{self.count} detections saved to {self.file}")


class CsvFile:
    """Write a table with one row per box, best last: name of the image, of the class, confidence with two decimals.

    With `tracks` number of the frame and identity follow, -1 for none; the frame of an image is 0.
    Names that a spreadsheet would compute begin with an apostrophe, see `utils.text.csv_cell`.
    Rows that an earlier run left there stay, unless they are of one of the images of this run.

    Args:
        file: target; its folder must exist.
        images: image -> name in the table, of all that will come.
        names: class names by index.
        tracks: write frames and identities.

    Raises:
        ValueError: there is a file with other columns.
    """

    HEADER = ("Image Name", "Prediction", "Confidence")
    TRACKS = ("Frame", "Track")

    def __init__(self, file: Path, images: Mapping[str, str], names: Mapping[int, str], tracks: bool = False) -> None:
        self.images, self.names = images, names
        expected = self.HEADER + self.TRACKS * tracks
        own = set(map(csv_cell, images.values()))
        with atomic_path(file) as tmp, tmp.open("w", newline="", encoding="utf-8") as new:
            writer = csv.writer(new)
            writer.writerow(expected)
            if file.exists():
                with TextIOWrapper(open_regular(file), "utf-8", newline="") as old:
                    rows = csv.reader(old)  # one by one: they may be many
                    if tuple(header := next(rows, expected)) != expected:
                        raise ValueError(
                            f"{file}: this table has the columns {header}, not {expected}: move or rename it"
                        )
                    writer.writerows(row for row in rows if row and row[0] not in own)
        self._file = file.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def add(
        self,
        detections: Tensor,
        path: str,
        shape: tuple[int, int],  # noqa: ARG002
        number: int = 0,
        ids: Tensor | None = None,
    ) -> None:
        """Write the rows of one image: (D, 6) `[xyxy_img, confidence, class]`, best first; the rest as `TextFiles`."""
        tracks = [()] * len(detections) if ids is None else [(number, track) for track in ids.tolist()]
        for (conf, cls), track in reversed(list(zip(detections[:, 4:].tolist(), tracks, strict=True))):
            with naming(self._file.name):
                row = [csv_cell(self.images[path]), csv_cell(self.names[int(cls)]), f"{conf:.2f}", *track]
                self._writer.writerow(row)

    def close(self) -> None:
        """Finish the file."""
        with naming(self._file.name):
            self._file.close()


def open_files(
    folder: Path,
    stems: Mapping[str, str],
    weights: str | Path | Sequence[str | Path] | None = None,
    save_txt: bool = False,
    save_conf: bool = False,
    ids: ResultIds | None = None,
) -> list[TextFiles | JsonFile]:
    """Open the files that a validation was asked for.

    Args:
        folder: where to; text files go into labels/ below.
        stems: of all images that will come, see `unique_stems`.
        weights: checkpoint, or the first of several, after which <stem>_predictions.json is called; None leaves its
            part out.
        save_txt: write text files, with the confidence if `save_conf` says so.
        save_conf: see `save_txt`.
        ids: of a JSON file; None writes none.
    """
    files: list[TextFiles | JsonFile] = []
    if save_txt:
        files.append(TextFiles(folder / "labels", stems, save_conf))
    if ids:
        first = weights if isinstance(weights, str | Path | None) else weights[0]
        name = f"{Path(first).stem}_predictions.json" if first else "predictions.json"
        files.append(JsonFile(folder / name, ids))
    return files
