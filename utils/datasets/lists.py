"""Lists of images, from folders and from text files, and the label file that belongs to each."""

import hashlib
import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from utils.console import LOGGER
from utils.datasets.images import IMG_FORMATS, heic_hint
from utils.datasets.reader import Split, twin_folder

FIRST_LINES = 3  # of an image list that are looked for when it is read


def list_images(source: str | Path | Sequence[str | Path] | Split) -> list[str]:
    """List the images of a split, sorted.

    Args:
        source: a folder (searched with all its subfolders), a text file with one image per line (lines that begin with
            `./` start at the list's folder, and so do those of CVAT that begin with `data/` if there is no such image
            in the working directory; below ImageSets/Main of Pascal VOC the lines are names of JPEGImages), several of
            them, or a split of these.

    Returns:
        Paths with a suffix of images (`PixelFormat.suffixes` of the split), hidden files and folders (`._a.jpg` of
        macOS) left out.

    Raises:
        FileNotFoundError: an entry does not exist, or no image is found.
    """
    split = Split.of(source)
    source, suffixes = split.images, split.pixels.suffixes
    entries = [source] if isinstance(source, str | Path) else list(source)
    files: list[str] = []
    for entry in map(Path, entries):
        if entry.is_dir():
            files += walk(entry)
        elif entry.is_file():
            files += read_list(entry, suffixes)
        else:
            raise FileNotFoundError(f"{entry}: no such folder or image list. Patterns with * are not supported.")
    images = sorted(f for f in files if is_image_name(f, suffixes))
    if not images:
        names = ", ".join(map(str, entries))
        raise FileNotFoundError(f"no images in {names}. Suffixes read: {', '.join(suffixes)}{heic_hint(files)}")
    return images


def walk(folder: Path | str, above: frozenset[tuple[int, int]] = frozenset()) -> list[str]:
    """List the files below a folder, links followed, in the order of their names.

    Hidden subfolders are left out, and so is a link to a folder that the path goes through already: it would lead in a
    circle. A subfolder that cannot be read is left out with a warning.

    Args:
        folder: where to begin.
        above: device and inode of the folders that the path to it goes through.
    """
    try:
        stat = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        LOGGER.warning(f"{folder}: folder left out: {error.strerror}")
        return []
    above |= {(stat.st_dev, stat.st_ino)}
    files = []
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if not os.path.isdir(path):
            files.append(path)
        elif not entry.name.startswith("."):
            stat = os.stat(path)
            if (stat.st_dev, stat.st_ino) not in above:
                files += walk(path, above)
    return files


def read_list(file: Path, suffixes: Sequence[str]) -> list[str]:
    """Read an image list, as described at `list_images`; lines that name no image are left out with a warning.

    Raises:
        ValueError: the file is not UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not an image list: invalid UTF-8 at byte {error.start}") from None
    lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if file.absolute().parts[-3:-1] == ("ImageSets", "Main"):
        folder = file.absolute().parents[2] / "JPEGImages"
        return [_named_image(str(folder / re.sub(r"\s+-?[01]$", "", line)), suffixes) for line in lines.values()]
    lines = {number: _of_cvat(file, line) for number, line in lines.items()}
    images = {number: line for number, line in lines.items() if is_image_name(line, suffixes)}
    foreign = [number for number in lines if number not in images]
    if foreign:
        line = lines[foreign[0]]
        more = f" (and {len(foreign) - 1} more lines)" if len(foreign) > 1 else ""
        LOGGER.warning(f"{file}:{foreign[0]}: not the name of an image, left out: {line[:60]!r}{more}{slashes(line)}")
    warn_of_missing(file, images)
    return [str(file.parent / line[2:]) if line.startswith("./") else line for line in lines.values()]


def _named_image(path: str, suffixes: Sequence[str]) -> str:
    """Return the image of a path without suffix, that with .jpg where there is none."""
    files = (f"{path}.{suffix}" for suffix in ("jpg", *suffixes))
    return next(filter(os.path.isfile, files), f"{path}.jpg")


def _of_cvat(file: Path, line: str) -> str:
    """Return a line of an image list, with `./` in place of `data/` where the image is found in that way only.

    CVAT and Darknet expect the export to be unpacked into a folder of that name.
    """
    inner = line.removeprefix("data/")
    return f"./{inner}" if inner != line and not os.path.exists(line) and (file.parent / inner).is_file() else line


def warn_of_missing(file: Path, lines: Mapping[int, str]) -> None:
    """Log where the images of relative lines were looked for, if one of the first lines has none there.

    Args:
        file: the list.
        lines: by their number; those that begin with `./` or are absolute say where they look.
    """
    for number, line in islice(lines.items(), FIRST_LINES):
        if not (line.startswith("./") or os.path.isabs(line) or os.path.exists(line)):
            LOGGER.warning(
                f"{file}:{number}: no such image in the working directory {os.getcwd()}: {line[:200]!r}. Only lines "
                f"that begin with ./ are looked for in {file.absolute().parent}{slashes(line)}"
            )
            return


def slashes(line: str) -> str:
    """Return what to do about the separators of Windows in a line, "" if it has none or this is Windows."""
    return ". Replace its backslashes: this system separates folders by /" if "\\" in line and os.sep == "/" else ""


def is_image_name(file: str, suffixes: Sequence[str] = IMG_FORMATS) -> bool:
    """Return whether a path is an image that is read, judged by its name."""
    name = os.path.basename(file)
    return not name.startswith(".") and name.rpartition(".")[2].lower() in suffixes


def img2label_paths(img_paths: Iterable[str | Path]) -> list[str]:
    """Find the label file of each image: folder `images` -> `labels`, suffix -> `.txt`.

    The last folder named `images` in the path counts. If the resulting folder does not exist (say, because `images` is
    an unrelated parent) or there is no folder `images`, the label is expected beside the image.
    """
    starts: dict[str, str] = {}  # folder of images -> what stands before the name of a label file
    result = []
    for folder, name in (os.path.split(os.fspath(path)) for path in img_paths):
        if folder not in starts:
            starts[folder] = str(label_folder(Path(folder)) / "_")[:-1]
        result.append(f"{starts[folder]}{os.path.splitext(name)[0]}.txt")
    return result


def label_folder(folder: Path) -> Path:
    """Return the folder with the labels of the images in `folder`, as described at `img2label_paths`."""
    return twin_folder(folder, "images", "labels") or folder


def get_hash(paths: Sequence[str | Path]) -> str:
    """Return a digest of files: of their paths, and of the sizes of those that exist."""
    sizes = [os.path.getsize(p) if os.path.exists(p) else 0 for p in paths]
    return hashlib.sha256(repr((list(map(str, paths)), sizes)).encode(errors="surrogateescape")).hexdigest()


def autosplit(
    path: str | Path, weights: Sequence[float] = (0.9, 0.1, 0.0), annotated_only: bool = False, seed: int = 0
) -> None:
    """Divide the images of a folder into lists `autosplit_train.txt`, `_val.txt` and `_test.txt` beside the folder.

    Args:
        path: folder of images.
        weights: how probable train, val and test are.
        annotated_only: leave out images without a label file.
        seed: of the division.

    Raises:
        FileNotFoundError: no image is found.
    """
    folder = Path(path)
    files = list_images(folder)
    if annotated_only:
        files = [f for f, label in zip(files, img2label_paths(files), strict=True) if os.path.exists(label)]
    places = random.Random(seed).choices(range(3), weights, k=len(files))
    for number, split in enumerate(("train", "val", "test")):
        lines = [
            f"./{Path(f).relative_to(folder.parent).as_posix()}\n"
            for f, p in zip(files, places, strict=True)
            if p == number
        ]
        (folder.parent / f"autosplit_{split}.txt").write_text("".join(lines), encoding="utf-8")
