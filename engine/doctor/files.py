"""Checks of the YAML and of file names: what belongs to nothing, what is missing, what stands for two."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from engine.doctor.dataset import Dataset, DoctorSplit
from engine.doctor.findings import Finding, Place, share_text
from utils.datasets.dataset import repeated_images
from utils.datasets.images import IMG_FORMATS, heic_hint
from utils.datasets.lists import img2label_paths, is_image_name
from utils.datasets.voc import annotation_folder
from utils.files import key_place
from utils.text import name_list, printable

# Suffixes of images that are not read.
UNREAD = (
    "heic heif jxl gif svg psd jpe j2k jpf jpx jpm tga ico ppm pgm pbm exr hdr eps cr2 cr3 nef arw raf orf rw2 pef srw "
    "raw fits dcm nrrd npy"
).split()
NO_LABELS = {  # text files of other programs that lie among labels
    *("classes.txt", "predefined_classes.txt", "labels.txt", "obj.names", "names.txt", "notes.txt", "license.txt"),
    *("train.txt", "val.txt", "test.txt", "trainval.txt", "requirements.txt"),
}
OTHER_LABELS = {  # suffix of label files that are not read as YOLO text, and what to say
    ".xml": "of Pascal VOC, which are read with format: voc in the YAML",
    ".json": "of which one for a whole split, COCO's, is read with format: coco in the YAML",
    ".text": "but a label file ends in .txt", ".label": "but a label file ends in .txt",
}  # fmt: skip
LABEL_FOLDERS = ("label", "labels", "annotation", "annotations", "ann", "txt", "yolo")
ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9a-zA-Z]{20,32}$")  # one source image, augmented: name.rf.<hash>


def _key(data: Dataset, key: str) -> Place:
    """Return the place of a key of the dataset YAML."""
    file, _, line = key_place(data.file, key).rpartition(":")
    return Place(file, int(line)) if file and line.isdigit() else Place(data.file)


# The YAML -------------------------------------------------------------------------------------------------------------
def check_names_twice(data: Dataset) -> Iterator[Finding]:
    """Report class names that differ at most in case and blanks."""
    groups: dict[str, list[int]] = {}
    for number, name in data.names.items():
        groups.setdefault(" ".join(name.split()).casefold(), []).append(number)
    twice = [numbers for numbers in groups.values() if len(numbers) > 1]
    if twice:
        pairs = "; ".join(", ".join(f"{n} {printable(data.names[n])!r}" for n in numbers) for numbers in twice[:5])
        yield Finding(
            "yaml.names_twice", "warning", None, len(twice), len(data.names),
            f"{len(twice)} class names stand for several classes: {pairs}",
            "Tables and crops cannot tell them apart. Give each class its own name, or join the classes; names that "
            "differ in case only may be meant.", [_key(data, "names")],
        )  # fmt: skip


def check_other_task(data: Dataset) -> Iterator[Finding]:
    """Report keys that say that the labels are of another task than boxes."""
    place = [_key(data, key) for key in ("kpt_shape", "flip_idx") if data.yaml.get(key) is not None]
    shape = data.yaml.get("kpt_shape")
    if place:
        columns = ""
        if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
            columns = f": lines have {5 + shape[0] * shape[1]} columns"
        yield Finding(
            "yaml.other_task", "error", None, 1, 1, f"the dataset is one of key points{columns}",
            "Lines with an odd number of columns are read as polygons, others are left out: both are wrong. Write the "
            "first five columns alone.", place,
        )  # fmt: skip
    if data.yaml.get("task") not in (None, "detect"):
        yield Finding(
            "yaml.other_task", "warning", None, 1, 1, f"'task' is {data.yaml['task']!r:.40}",
            "It is not read: this program detects boxes (task: detect).", [_key(data, "task")],
        )  # fmt: skip


def check_same_split(data: Dataset) -> Iterator[Finding]:
    """Report images that are listed twice, in one split or in two."""
    places: dict[str, str] = {}
    for split in data.splits.values():
        before = dict.fromkeys(places.values())
        messages = repeated_images(split.listed, split.name, places)
        if not messages:
            continue
        others = [name for name in before if any(f"in {name} too" in message for message in messages)]
        files = [message.partition(": the same image")[0] for message in messages]
        where = f"also in {', '.join(others)}" if others else "listed twice"
        yield Finding(
            "yaml.same_split", "warning", split.name, len(messages), len(split.listed),
            f"{share_text(len(messages), len(split.listed), 'images')} are {where}",
            "Scores of images that were trained on say nothing about new ones: move each image into one split."
            if others else "They count twice. Remove one of the entries.", **data.files(files),
        )  # fmt: skip


# Folders --------------------------------------------------------------------------------------------------------------
class Folders:
    """The names in all folders where images or labels of the dataset are expected, each folder listed once."""

    def __init__(self, data: Dataset) -> None:
        yolo = [split for split in data.splits.values() if split.yolo]
        self.suffixes = data.pixels.suffixes
        self.images = list(dict.fromkeys(file for split in yolo for file in split.listed))
        self.labels = img2label_paths(self.images)
        self.image_folders = list(dict.fromkeys(os.path.dirname(file) for file in self.images))
        self.label_folders = list(dict.fromkeys(os.path.dirname(file) for file in self.labels))
        own = [[split.source] if isinstance(split.source, str | Path) else split.source for split in yolo]
        self.lists = {os.path.realpath(entry) for entries in own for entry in entries if os.path.isfile(entry)}
        self.names: dict[str, list[str]] = {}
        for folder in dict.fromkeys([*self.label_folders, *self.image_folders]):
            try:
                self.names[folder] = sorted(os.listdir(folder or "."))
            except OSError:  # of a list whose images do not exist
                self.names[folder] = []

    def strays(self) -> list[str]:
        """Return label files that belong to no image, listed or not."""
        expected = set(self.labels)
        unlisted = {os.path.splitext(file)[0] for file in img2label_paths(self.unlisted())}
        found = []
        for folder, names in self.names.items():
            for name in names:
                stem, suffix = os.path.splitext(name)
                file = os.path.join(folder, name)
                if suffix.lower() != ".txt" or name.startswith(".") or file in expected:
                    continue
                if name.lower() in NO_LABELS or name.lower().startswith("readme"):
                    continue
                if os.path.join(folder, stem) not in unlisted and os.path.realpath(file) not in self.lists:
                    found.append(file)
        return found

    def unlisted(self) -> list[str]:
        """Return files with the suffix of an image, read or not, that lie beside images of the dataset."""
        listed = set(self.images)
        found = []
        for folder in self.image_folders:
            for name in self.names[folder]:
                known = is_image_name(name, self.suffixes) or name.rpartition(".")[2].lower() in UNREAD
                if known and not name.startswith(".") and os.path.join(folder, name) not in listed:
                    found.append(os.path.join(folder, name))
        return found


def check_folders(data: Dataset) -> Iterator[Finding]:
    """Report labels without an image, images that are not read or not listed, and one label for two images."""
    folders = Folders(data)
    yield from _orphan_labels(data, folders)
    yield from _one_label_for_two(data, folders)
    extra = [(file, os.path.exists(label)) for file, label in _with_labels(folders.unlisted())]
    unread = [(file, has) for file, has in extra if not is_image_name(file, folders.suffixes)]
    if unread:
        counts = Counter(os.path.splitext(file)[1].lower() for file, _ in unread)
        labelled = sum(has for _, has in unread)
        words = ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common())
        yield Finding(
            "files.unread_suffix", "warning" if labelled else "note", None, len(unread),
            len(unread) + len(folders.images), f"{len(unread)} images of formats that are not read ({words}), "
            f"{labelled} of them with a label file",
            f"They are passed over. Convert them, say to PNG; read are {', '.join(folders.suffixes)}"
            f"{heic_hint([file for file, _ in unread])}.",
            **data.files([file for file, _ in unread], shown=False),
        )  # fmt: skip
    unlisted = [file for file, has in extra if has and is_image_name(file, folders.suffixes)]
    if unlisted and folders.lists:  # a folder is listed whole: what is not used of it was reported as damaged
        yield Finding(
            "files.unlisted", "note", None, len(unlisted), len(unlisted) + len(folders.images),
            f"{len(unlisted)} images with a label file lie beside listed ones, but no split lists them",
            "They are not used, which may be meant.", **data.files(unlisted),
        )  # fmt: skip


def _with_labels(files: list[str]) -> Iterator[tuple[str, str]]:
    return zip(files, img2label_paths(files), strict=True)


def _plain_name(file: str) -> str:
    """Return the stem of a label or image as it compares if case, blanks and a second suffix do not count."""
    stem = os.path.splitext(os.path.basename(file))[0]
    head, dot, suffix = stem.rpartition(".")
    stem = head if dot and suffix.lower() in (*IMG_FORMATS, "txt") else stem
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFC", stem)).casefold()


def _orphan_labels(data: Dataset, folders: Folders) -> Iterator[Finding]:
    """Report label files that belong to no image; an image without label of nearly that name makes it an error."""
    strays = folders.strays()
    if not strays:
        return
    existing = {os.path.join(folder, name) for folder, names in folders.names.items() for name in names}
    bare: dict[str, list[str]] = {}
    for image, label in zip(folders.images, folders.labels, strict=True):
        if label not in existing:
            bare.setdefault(_plain_name(image), []).append(image)
    wanted = [(file, bare.get(_plain_name(file), [])) for file in strays]
    wanted.sort(key=lambda pair: not pair[1])  # those that an image waits for first
    matched = sum(bool(images) for _, images in wanted)
    notes = (f"image without label: {images[0]}" if images else "no image of that name" for _, images in wanted)
    total = len(existing & set(folders.labels)) + len(strays)
    yield Finding(
        "files.orphan_label", "error" if matched else "warning", None, len(strays), total,
        f"{share_text(len(strays), total, 'label files')} belong to no image"
        + (f", and for {matched} of them there is an image without label of nearly that name" if matched else ""),
        "They are not read, and such an image is learned as a background. A label file has the name of its image with "
        "the suffix .txt in lower case, in the folder 'labels' that goes with 'images'.",
        **data.files([file for file, _ in wanted], notes, shown=False),
    )  # fmt: skip


def _one_label_for_two(data: Dataset, folders: Folders) -> Iterator[Finding]:
    groups: dict[str, list[str]] = {}
    for image, label in zip(folders.images, folders.labels, strict=True):
        groups.setdefault(label.casefold(), []).append(image)
    shared = [images for images in groups.values() if len(images) > 1]
    if shared:
        places = [
            Place(images[0], other=images[1], note=f"label {img2label_paths(images[:1])[0]}", image=images[0])
            for images in data.first(shared)
        ]
        yield Finding(
            "files.one_label_two", "error", None, len(shared), len(groups),
            f"{len(shared)} label files stand for two images or more", "Each image gets all boxes of the file. "
            "Twins of one photograph in two formats are the usual cause: move one of them away.", places,
            len(shared) - len(places),
        )  # fmt: skip


# Images of a split ----------------------------------------------------------------------------------------------------
def check_missing(data: Dataset) -> Iterator[Finding]:
    """Report images that a list names but that do not exist, and images without a label file."""
    for split in data.splits.values():
        missing = split.missing
        if missing:
            yield Finding(
                "files.listed_missing", "error", split.name, len(missing), len(split.listed),
                f"{share_text(len(missing), len(split.listed), 'listed images')} do not exist",
                f"Relative lines are looked for in the working directory, {Path.cwd()}; lines that begin with ./ below "
                "the folder of the list.", **data.files(missing, shown=False),
            )  # fmt: skip
        yield from _unlabelled(data, split)


def _unlabelled(data: Dataset, split: DoctorSplit) -> Iterator[Finding]:
    missing, empty = split.backgrounds
    if not missing and not empty:
        return
    images, many = len(split.im_files), len(missing) > 0.5 * len(split.im_files)
    kind = "without a label of the chosen classes" if split.selection else "with an empty one"
    files = f" and {len(empty)} {kind}" if empty else ""
    yield Finding(
        "files.no_label", "warning" if many else "note", split.name, len(missing) + len(empty), images,
        f"{share_text(len(missing), images, 'images')} without a label file{files}",
        "They are backgrounds: an empty file says so, a missing one may have been forgotten."
        + (_where_labels_are(split) if many and (missing or split.yolo) else ""), **data.files(missing or empty),
    )  # fmt: skip


def _where_labels_are(split: DoctorSplit) -> str:
    """Say where labels were looked for, and what is there instead: files of other formats, a folder of another name."""
    first, image = Path(split.label_files[0]), Path(split.im_files[0])
    text = f" Looked for {first}"
    if not split.yolo:
        return f"{text}."
    if first.parent.is_dir():
        suffixes = Counter(file.suffix.lower() for file in first.parent.iterdir())
        found = [f"; there are {n} files {suffix}, {OTHER_LABELS[suffix]}" for suffix, n in suffixes.items()
                 if suffix in OTHER_LABELS]  # fmt: skip
        text += "".join(sorted(found))
    xml = annotation_folder(image.parent) / f"{image.stem}.xml"
    if xml.parent != first.parent and xml.is_file():
        return f"{text}; there is {xml}, {OTHER_LABELS['.xml'].replace('are', 'is')}."
    root = next((folder.parent for folder in image.parents if folder.name == "images"), None)
    if root is not None:
        names = sorted(other.name for other in root.iterdir() if other.is_dir() and other.name != "labels")
        near = [name for name in names if name.lower() in LABEL_FOLDERS]
        text += f"; the labels of {root / 'images'} are read from 'labels': rename {name_list(near)}" if near else ""
    return f"{text}."


def check_source_names(data: Dataset) -> Iterator[Finding]:
    """Report exports in which versions of one source image are in several splits (Roboflow's `name.rf.<hash>`)."""
    seen: dict[str, tuple[str, str]] = {}
    for split in data.splits.values():
        pairs = []
        for file in split.listed:
            match = ROBOFLOW.match(Path(file).stem)
            if match and match[1] in seen and seen[match[1]][0] != split.name:
                pairs.append((file, *seen[match[1]]))
            elif match:
                seen.setdefault(match[1], (split.name, file))
        if pairs:
            places = [
                Place(file, other=other, note=f"of {name}", image=file) for file, name, other in data.first(pairs)
            ]
            others = name_list({name for _, name, _ in pairs})
            yield Finding(
                "copies.by_name", "warning", split.name, len(pairs), len(split.listed),
                f"{share_text(len(pairs), len(split.listed), 'images')} come from a source image that is also in "
                f"{others}", "Scores of images that resemble training images say little: split by source image, then "
                "augment.", places, len(pairs) - len(places),
            )  # fmt: skip
