"""Turn public datasets into YOLO text labels: one named function per dataset, run by name, never by a dataset YAML.

    python -m utils.datasets.converters visdrone  downloads/VisDrone  ../datasets/VisDrone

SRC is what the archives unpack to, DST the `path` of the dataset YAML. SRC is not changed; images are linked into DST,
or copied where the disk does not allow that. Nothing is downloaded. Labels of COCO and VOC need no converter: they are
read as they are (`format:` in the YAML).
"""

import argparse
import csv
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console import LOGGER, cli_errors
from utils.datasets.reader import image_size
from utils.files import open_new, yaml_load
from utils.paths import ROOT

XVIEW_TYPES = (
    *(11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38, 40, 41, 42, 44, 45),
    *(47, 49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86),
    *(89, 91, 93, 94),
)  # numbers of the 60 classes, in the order of data/xView.yaml
VISDRONE_SPLITS = {
    "train": "VisDrone2019-DET-train",
    "val": "VisDrone2019-DET-val",
    "test": "VisDrone2019-DET-test-dev",
}


class Sample(NamedTuple):
    """One image: file, name below images/ without suffix, (width, height), rows `[class, x1, y1, x2, y2]` in pixels."""

    image: Path
    name: str
    size: tuple[int, int]
    rows: list[list[float]]


def label_text(sample: Sample) -> str:
    """Return the label lines of a sample: boxes clipped to the image, without those that lie outside."""
    lines = []
    for cls, *corners in sample.rows:
        x1, y1, x2, y2 = np.array(corners, np.float64) / (sample.size * 2)
        x1, x2, y1, y2 = (min(max(value, 0.0), 1.0) for value in (x1, x2, y1, y2))
        if x2 > x1 and y2 > y1:
            box = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            lines.append(f"{int(cls)} {' '.join(f'{value:.6f}' for value in box)}\n")
    return "".join(lines)


def write_samples(dst: Path, samples: Iterable[Sample]) -> int:
    """Write one text file for each sample below labels/, link its image below images/, and return how many there were.

    Raises:
        FileNotFoundError: an image does not exist.
        ValueError: there is not one sample, or one would be written outside `dst`.
    """
    count = boxes = 0
    for sample in samples:
        if Path(sample.name).is_absolute() or ".." in Path(sample.name).parts:
            raise ValueError(f"{sample.name}: the path of this image leads out of {dst}")
        text = label_text(sample)
        label = dst / "labels" / f"{sample.name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        with open_new(label) as out:
            out.write(text)
        link(sample.image, dst / "images" / f"{sample.name}{sample.image.suffix}")
        count, boxes = count + 1, boxes + text.count("\n")
    if not count:
        raise ValueError(f"{dst}: no images found to convert")
    LOGGER.info(f"{dst}: {count} images, {boxes} boxes")
    return count


def link(source: Path, target: Path) -> None:
    """Give an image a second name, or copy it to another disk; one that is there already stays."""
    if target.exists():
        return
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such image")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def numbers(cells: list[str], where: str) -> list[float]:
    """Read numbers; ValueError names the place of one that is none."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        raise ValueError(f"{where}: expected numbers, found {','.join(cells)[:80]!r}") from None


def existing(path: Path, what: str) -> Path:
    """Return a file or folder that must exist; FileNotFoundError says what is expected there."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; SRC should be {what}")
    return path


def convert_visdrone(src: Path, dst: Path) -> int:
    """Convert VisDrone2019-DET: lines `x, y, w, h, score, category, truncation, occlusion`, categories 1 to 10.

    Regions to be ignored (score 0, category 0) and `others` (11) are left out.
    """

    def samples() -> Iterator[Sample]:
        for split, folder in VISDRONE_SPLITS.items():
            for file in sorted((src / folder / "annotations").glob("*.txt")):
                image = src / folder / "images" / f"{file.stem}.jpg"
                rows = []
                for line in file.read_text(encoding="utf-8").splitlines():
                    cells = numbers(line.strip().rstrip(",").split(","), str(file))
                    if len(cells) < 6:
                        raise ValueError(f"{file}: expected 8 columns, found {line!r}")
                    x, y, w, h, score, category = cells[:6]
                    if score and 1 <= category <= 10:
                        rows.append([category - 1, x, y, x + w, y + h])
                yield Sample(image, f"{split}/{file.stem}", image_size(str(existing(image, "VisDrone"))), rows)

    existing(src / VISDRONE_SPLITS["train"], f"the folder with {', '.join(VISDRONE_SPLITS.values())}")
    return write_samples(dst, samples())


def convert_sku110k(src: Path, dst: Path) -> int:
    """Convert SKU-110K: rows `image, x1, y1, x2, y2, class, width, height` without a head, all of one class."""

    def samples() -> Iterator[Sample]:
        for split in ("train", "val", "test"):
            table = existing(src / f"annotations/annotations_{split}.csv", "the folder SKU110K_fixed")
            found: dict[str, tuple[tuple[int, int], list[list[float]]]] = {}
            with table.open(newline="", encoding="utf-8") as file:
                for cells in csv.reader(file):
                    if len(cells) != 8:
                        raise ValueError(f"{table}: expected 8 columns, found {','.join(cells)!r}")
                    x1, y1, x2, y2, width, height = numbers(cells[1:5] + cells[6:], str(table))
                    found.setdefault(cells[0], ((int(width), int(height)), []))[1].append([0, x1, y1, x2, y2])
            for name, (size, rows) in found.items():
                yield Sample(src / "images" / name, f"{split}/{Path(name).stem}", size, rows)

    return write_samples(dst, samples())


def convert_globalwheat(src: Path, dst: Path) -> int:
    """Convert Global Wheat Detection 2020 (Kaggle): train.csv with `image_id, width, height, bbox, source`.

    The images of each source (a field campaign) go into a folder of their own. Images without any head, which the table
    does not name, are left out.
    """

    def samples() -> Iterator[Sample]:
        found: dict[tuple[str, str], tuple[tuple[int, int], list[list[float]]]] = {}
        with existing(src / "train.csv", "the folder with train.csv and train/").open(newline="") as file:
            for row in csv.DictReader(file):
                size = int(row["width"]), int(row["height"])
                x, y, w, h = json.loads(row["bbox"])
                rows = found.setdefault((row["source"], row["image_id"]), (size, []))[1]
                rows.append([0, x, y, x + w, y + h])
        for (source, name), (size, rows) in found.items():
            yield Sample(src / "train" / f"{name}.jpg", f"{source}/{name}", size, rows)

    return write_samples(dst, samples())


def convert_argoverse(src: Path, dst: Path) -> int:
    """Convert Argoverse-HD: COCO boxes, and images by sequence folder `seq_dirs[sid]` and `name`."""

    def samples() -> Iterator[Sample]:
        for split in ("train", "val"):
            file = existing(
                src / f"Argoverse-HD/annotations/{split}.json", "the folder with Argoverse-1.1, Argoverse-HD"
            )
            content = json.loads(file.read_bytes())
            rows = defaultdict(list)
            for entry in content["annotations"]:
                x, y, w, h = entry["bbox"]
                rows[entry["image_id"]].append([entry["category_id"], x, y, x + w, y + h])
            for image in content["images"]:
                folder = content["seq_dirs"][image["sid"]]
                path = src / "Argoverse-1.1/tracking" / folder / image["name"]
                name = f"{split}/{Path(folder).parts[-2]}/{path.stem}" if "/" in folder else f"{split}/{path.stem}"
                yield Sample(path, name, (image["width"], image["height"]), rows[image["id"]])

    return write_samples(dst, samples())


def convert_objects365(src: Path, dst: Path) -> int:
    """Convert Objects365: COCO JSON, class = number of the category - 1, images in any folders below the source.

    Crowd regions are left out. Warns of names that differ from data/Objects365.yaml.
    """
    known = yaml_load(ROOT / "data/Objects365.yaml")["names"]

    def samples() -> Iterator[Sample]:
        files = {file.name: file for file in src.rglob("*.jpg")}
        for split in ("train", "val"):
            table = existing(src / f"zhiyuan_objv2_{split}.json", "the folder with zhiyuan_objv2_*.json and the images")
            content = json.loads(table.read_bytes())
            for category in content["categories"]:
                ours = known.get(category["id"] - 1)
                if ours is None or ours.lower() != str(category["name"]).strip().lower():
                    LOGGER.warning(f"{table}: category {category['id']} is {category['name']!r}, here {ours!r}")
            rows = defaultdict(list)
            for entry in content["annotations"]:
                x, y, w, h = entry["bbox"]
                if not entry.get("iscrowd") and entry["category_id"] - 1 in known:
                    rows[entry["image_id"]].append([entry["category_id"] - 1, x, y, x + w, y + h])
            for image in content["images"]:
                name = Path(image["file_name"]).name
                path = files.get(name, src / name)  # the second is missing, and named by the error
                yield Sample(path, f"{split}/{path.stem}", (image["width"], image["height"]), rows[image["id"]])

    return write_samples(dst, samples())


def convert_xview(src: Path, dst: Path) -> int:
    """Convert xView: a GeoJSON file with `bounds_imcoords`, `image_id`, `type_id`; every tenth image goes to val.

    Types 75 and 82, which have no name, are left out.
    """

    def samples() -> Iterator[Sample]:
        table = existing(src / "xView_train.geojson", "the folder with xView_train.geojson and train_images/")
        rows = defaultdict(list)
        for feature in json.loads(table.read_bytes())["features"]:
            values = feature["properties"]
            if values["type_id"] in XVIEW_TYPES:
                corners = numbers(values["bounds_imcoords"].split(","), str(table))
                rows[values["image_id"]].append([XVIEW_TYPES.index(values["type_id"]), *corners])
        for i, image in enumerate(sorted((src / "train_images").glob("*.tif"))):
            split = "val" if i % 10 == 9 else "train"
            yield Sample(image, f"{split}/{image.stem}", image_size(str(image)), rows[image.name])

    return write_samples(dst, samples())


CONVERTERS: dict[str, Callable[[Path, Path], int]] = {
    "argoverse": convert_argoverse,
    "globalwheat": convert_globalwheat,
    "objects365": convert_objects365,
    "sku110k": convert_sku110k,
    "visdrone": convert_visdrone,
    "xview": convert_xview,
}


def main(args: list[str] | None = None) -> None:
    """Run the converter that the command line names.

    Raises:
        FileNotFoundError, ValueError: SRC is not what the converter reads.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONVERTERS, metavar="NAME", help=", ".join(CONVERTERS))
    parser.add_argument("src", type=Path, metavar="SRC")
    parser.add_argument("dst", type=Path, metavar="DST")
    opt = parser.parse_args(args)
    try:
        CONVERTERS[opt.name](opt.src, opt.dst)
    except (KeyError, IndexError, TypeError, AttributeError, json.JSONDecodeError) as e:
        raise ValueError(f"{opt.src}: not in the format of {opt.name} ({type(e).__name__}: {e})") from e


if __name__ == "__main__":
    with cli_errors():
        main()
