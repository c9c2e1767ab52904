"""Read labels from the XML files of Pascal VOC: one file per image, http://host.robots.ox.ac.uk/pascal/VOC."""

import os
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from utils.datasets.reader import (
    NO_POLYGON,
    Annotation,
    LabelledObject,
    Split,
    Verified,
    reason,
    twin_folder,
    verify_objects,
)
from utils.files import open_regular

MAX_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_SIDE = 10**9  # pixels
TWINS = (("JPEGImages", "Annotations"), ("images", "annotations"), ("images", "Annotations"))


def parse_xml(data: bytes) -> Element:
    """Parse a small XML file; one that declares a document type, and so could define entities, is refused.

    Raises:
        ValueError: too large, too deep, a document type, or bad syntax.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes; an annotation has at most {MAX_BYTES}")
    builder, depth = TreeBuilder(), 0

    def refuse(*_: object) -> None:
        raise ValueError("a document type is declared, which could define endless entities: remove the DOCTYPE")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"elements are nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser: Any = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError) as e:  # the second of an encoding that Python does not know
        raise ValueError(f"not XML: {e}") from None
    return builder.close()


def read_voc(file: str | Path, first_pixel: int = 0) -> Annotation:
    """Read one annotation. Objects marked `difficult` are left out, as in the scores of the challenge.

    Args:
        file: XML file.
        first_pixel: 0 if xmin and xmax are edges counted from the left side of the image, as most programs write them;
            1 if they are the first and last pixel column, counted from 1, as in the data of the challenge.

    Returns:
        Size, objects with boxes between edges, and messages about objects that cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError, ValueError: it cannot be read, or is no such annotation.
    """
    with open_regular(file) as f:
        if (length := os.fstat(f.fileno()).st_size) > MAX_BYTES:
            raise ValueError(f"{length} bytes; an annotation has at most {MAX_BYTES}")
        root = parse_xml(f.read())
    try:
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        size = (0, 0)  # absent in some files: taken from the image
    if max(size) > MAX_SIDE:
        raise ValueError(f"its size is more than {MAX_SIDE} pixels, which no image has")
    if root.tag != "annotation":
        raise ValueError(f"the outer element is {root.tag}, not annotation")
    annotation = Annotation(size, [], [])
    for number, item in enumerate(root.iterfind("object"), 1):
        if item.findtext("difficult", "0").strip() == "1":
            continue
        try:
            x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            annotation.messages.append(f"{file}: object {number} left out: bndbox needs xmin, ymin, xmax and ymax")
            continue
        box = (x1 - first_pixel, y1 - first_pixel, x2, y2)
        annotation.objects.append(LabelledObject(item.findtext("name", "").strip(), box, NO_POLYGON))
    return annotation


class VocReader:
    """Labels of one split from Pascal VOC files, one beside each image or in the folder that goes with that of images.

    Folders that go together: JPEGImages and Annotations, images and annotations, images and labels.

    Attributes:
        label_files: the annotation file of each image.
        cache: where the labels are kept once they are read; None leaves it to the rule for text files.
    """

    def __init__(self, split: Split, im_files: list[str], nc: int | None) -> None:
        if split.annotations:
            raise ValueError(f"{split}: 'annotations' is for format coco; format voc looks for FILE.xml of each image")
        self.split, self.im_files, self.nc = split, im_files, nc
        folders = {folder: annotation_folder(folder) for folder in {Path(file).parent for file in im_files}}
        paths = map(Path, im_files)
        self.label_files = [str(folders[path.parent] / f"{path.stem}.xml") for path in paths]
        self.sources = self.label_files
        self.cache = None
        self.classes = {name: number for number, name in split.names.items()}

    def start(self) -> list[str]:
        """Do nothing: each image has its own file."""
        return []

    def verify(self, i: int) -> Verified:
        """Check image `i` and read its labels; an image without a file is a background."""
        file = self.label_files[i]
        try:
            annotation = read_voc(file, self.split.first_pixel)
        except FileNotFoundError:
            annotation = None
        except (OSError, ValueError) as e:
            return Verified(False, messages=[f"{file}: {reason(e)}; image left out"])
        return verify_objects(self.im_files[i], file, annotation, self.classes, self.split.pixels)


def annotation_folder(folder: Path) -> Path:
    """Return the folder with the annotations of the images in `folder`."""
    twins = (twin_folder(folder, name, twin) for name, twin in TWINS)
    labels = twin_folder(folder, "images", "labels")
    if labels is not None and next(labels.glob("*.xml"), None) is None:
        labels = None  # YOLO text
    return next((twin for twin in (*twins, labels) if twin is not None), folder)
