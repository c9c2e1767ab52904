"""Read labels from the JSON files of COCO: https://cocodataset.org/#format-data, object detection."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.datasets.reader import NO_POLYGON, Annotation, LabelledObject, Split, Verified, verify_objects
from utils.files import open_regular
from utils.text import name_list

LARGEST = 10**9  # no image is wider, and no coordinate of it larger


def read_tables(file: str | Path) -> tuple[dict[str, Annotation], dict[int | str, str]]:
    """Read a COCO file of detection or segmentation labels.

    The box of an object is its `bbox`, or encloses its polygons where that is missing. Crowd regions (`iscrowd` 1)
    stand for many objects and are left out, without a message. An object in several parts gets one outline
    (`join_parts`); a mask in run lengths gives no outline.

    Returns:
        The annotation of each image by its `file_name`, with messages about the objects left out; and the name of each
        category by its id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no COCO file; names it and what is missing.
    """
    try:
        with open_regular(file) as opened:
            content = json.load(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such annotation file; see 'annotations' in the dataset YAML") from None
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{file}: not a JSON file: {e}") from None
    tables: list[Any] = [content.get(key) if isinstance(content, dict) else None for key in ("images", "categories")]
    objects: Any = content.get("annotations", []) if isinstance(content, dict) else None  # none where they are secret
    if not all(isinstance(table, list) for table in (*tables, objects)):
        raise ValueError(f"{file}: not a COCO file: it needs the lists images, annotations and categories")
    try:
        names = {category["id"]: str(category["name"]) for category in tables[1]}
        images = {
            image["id"]: (
                str(image["file_name"]),
                Annotation((_side(image, "width"), _side(image, "height")), [], [], image["id"]),
            )
            for image in tables[0]
        }
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise ValueError(
            f"{file}: not a COCO file: an image needs id, file_name, width and height, a category id and name ({e!r})"
        ) from None
    for entry in objects:
        key = entry.get("image_id") if isinstance(entry, dict) else None
        annotation = images[key][1] if isinstance(key, int | str) and key in images else None
        if annotation is None or entry.get("iscrowd"):
            continue
        try:
            annotation.objects.append(_read_object(entry, names))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            annotation.messages.append(f"{file}: object {entry.get('id')!r:.40} left out: {e}")
    return dict(images.values()), names


def _side(image: Mapping[str, Any], name: str) -> int:
    """Return the width or height of an entry of `images`; 0 or less is unknown."""
    side = int(image[name])
    if side > LARGEST:
        raise ValueError(f"{name} is {image[name]!r:.20}")
    return side


def _read_object(entry: Mapping[str, Any], names: Mapping[Any, str]) -> LabelledObject:
    """Read one entry of `annotations`; ValueError, TypeError or KeyError say what is wrong."""
    if entry.get("category_id") not in names:
        raise ValueError(f"category_id {entry.get('category_id')!r} is not in categories")
    parts = entry.get("segmentation")
    parts = [np.array(part, np.float64).reshape(-1, 2) for part in parts] if isinstance(parts, list) else []
    parts = [part for part in parts if len(part) > 2]
    if not all((abs(part) < LARGEST).all() for part in parts):  # NaN and infinity too, which Python's JSON reads
        raise ValueError("its segmentation contains numbers that are not pixel coordinates")
    outline = join_parts(parts) if parts else NO_POLYGON
    if entry.get("bbox") is not None:
        x, y, w, h = map(float, entry["bbox"])
        box = (x, y, x + w, y + h)
    elif parts:
        box = (*outline.min(0).tolist(), *outline.max(0).tolist())
    else:
        raise ValueError("neither bbox nor polygon")
    return LabelledObject(names[entry["category_id"]], box, outline)


def join_parts(parts: list[np.ndarray]) -> np.ndarray:
    """Join polygons into one outline, each by a bridge there and back between the closest pair of corners.

    Args:
        parts: polygons (P, 2), at least one.

    Returns:
        (Q, 2), a closed walk whose end is not repeated. Its area is the sum of the areas of parts that turn the same
        way and do not overlap.
    """
    outline = parts[0]
    for part in parts[1:]:
        distance = (outline**2).sum(1)[:, None] - 2 * outline @ part.T + (part**2).sum(1)  # (Q, P), squared
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        detour = np.concatenate((part[j:], part[: j + 1]))
        outline = np.concatenate((outline[: i + 1], detour, outline[i:]))
    return outline


class CocoReader:
    """Labels of one split from COCO files; they also decide which images of the folder belong to the split.

    An image is found by its `file_name` below the folder, or by that name alone if no two images share it.

    Attributes:
        label_files: the annotation file of each image; with several files, the first.
        cache: where the labels are kept once they are read.
    """

    def __init__(self, split: Split, im_files: list[str], nc: int | None) -> None:
        if not split.annotations:
            raise ValueError(
                f"{split}: format coco needs the annotation file of this split: "
                "annotations: {train: FILE.json, val: FILE.json} in the dataset YAML"
            )
        self.split, self.im_files, self.nc = split, im_files, nc
        self.label_files = [split.annotations[0]] * len(im_files)
        self.sources = list(split.annotations)
        self.cache = Path(split.annotations[0]).with_suffix(".cache")
        self.classes = {name: number for number, name in split.names.items()}
        self.annotations: dict[int, Annotation] = {}
        self.categories: list[tuple[int | str, str]] = []

    def start(self) -> list[str]:
        """Read the files and find the image of each entry.

        Returns:
            Messages about images, entries and categories that have no counterpart.

        Raises:
            FileNotFoundError, ValueError: a file cannot be read, or none of its categories is a class.
        """
        entries: dict[str, Annotation] = {}
        for file in self.sources:
            images, names = read_tables(file)
            entries |= images
            self.categories += names.items()
        source = ", ".join(self.sources)
        found = {item.name for annotation in entries.values() for item in annotation.objects}
        if found and not found & self.classes.keys():
            raise ValueError(
                f"{source}: none of its categories is a class of the dataset; the file has {name_list(found)},"
                f" names has {', '.join(self.classes)}"
            )
        unlisted = len(self.im_files) - self._match(entries)
        messages = []
        if lost := len(entries) - len(self.annotations):
            messages.append(f"{source}: {lost} images of this file are not in {self.split}")
        if unlisted:
            messages.append(f"{source}: {unlisted} images in {self.split} are not in this file: left out")
        if foreign := found - self.classes.keys():
            messages.append(f"{source}: categories not in names, their objects are left out: {name_list(foreign)}")
        for annotation in self.annotations.values():
            annotation.objects[:] = [item for item in annotation.objects if item.name in self.classes]
        return messages

    def result_ids(self) -> tuple[dict[str, int | str], list[int | str]]:
        """Return the ids by which results are scored against the files, after `start`.

        Returns:
            Image -> id, for the images in the files; and the id of the category of each class. A class that the files
            do not have gets a new number.

        Raises:
            ValueError: several files have one id for different images, or different ids for one category.
        """
        source = ", ".join(self.sources)
        ids = {self.im_files[i]: a.id for i, a in self.annotations.items() if a.id is not None}
        if len(set(ids.values())) < len(ids):
            raise ValueError(f"{source}: these files have one id for several images")
        known: dict[str, int | str] = {}
        for number, name in self.categories:
            if known.setdefault(name, number) != number and name in self.classes:
                raise ValueError(f"{source}: the category {name} has the ids {known[name]} and {number}")
        free = max((number for number, _ in self.categories if isinstance(number, int)), default=0) + 1
        names = self.split.selection.names if self.split.selection else self.split.names
        return ids, [known.get(name, free + cls) for cls, name in names.items()]

    def _match(self, entries: dict[str, Annotation]) -> int:
        """Give each image its entry; return how many have one."""
        places: dict[str, list[int]] = {}  # every end of the path of an image -> images
        for i, file in enumerate(self.im_files):
            parts = Path(file).parts
            for n in range(1, min(len(parts), 8)):
                places.setdefault("/".join(parts[-n:]), []).append(i)
        for name, annotation in entries.items():
            ends = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
            for key in ("/".join(ends), ends[-1] if ends else ""):
                if len(images := places.get(key, [])) == 1:
                    self.annotations[images[0]] = annotation
                    break
        return len(self.annotations)

    def verify(self, i: int) -> Verified:
        """Check image `i` and return its labels; state "unlisted" if the files do not name it."""
        annotation = self.annotations.get(i)
        if annotation is None:
            return Verified(False, state="unlisted")
        return verify_objects(self.im_files[i], self.label_files[i], annotation, self.classes, self.split.pixels)
