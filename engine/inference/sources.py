"""What detect.py reads: the grammar of --source, and images and videos as files."""

import glob
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import cv2
from numpy.typing import NDArray
from PIL import Image

from engine.inference.pipeline import Frame, Source
from engine.inference.streams import Screen, Streams, check_no_page
from engine.inference.video import open_video, read_video
from utils.console import LOGGER
from utils.datasets.images import (
    COLOR8,
    IMG_FORMATS,
    TIFFS,
    VID_FORMATS,
    PixelFormat,
    decode_image,
    has_more_pages,
    heic_hint,
    load_pixels,
    read_animation,
    read_pages,
    rendition,
)
from utils.downloads import download, is_url
from utils.options.detect import FORMS
from utils.text import printable

READ = IMG_FORMATS + VID_FORMATS  # of 8-bit colour
NAMED = 5  # files that a message names
SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")


def read_image(path: str) -> NDArray:
    """Read an image of any depth and channels, turned as its EXIF data say.

    Returns:
        (H, W, 3) BGR uint8. Transparency is dropped; of several pages the first one is read, with a warning.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, cut off, or of a format that OpenCV does not know.
    """
    image = decode_image(path, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: cannot be decoded: damaged, or not in a known image format")
    if has_more_pages(path):
        LOGGER.warning(f"{path}: has several pages or animation frames, only the first is read")
    with open(path, "rb") as file:
        if file.read(2) == b"\xff\xd8":  # of a JPEG that is cut off, some releases of OpenCV make up the rest
            file.seek(-2, 2)
            if file.read() != b"\xff\xd9":
                _check_whole(path)
    return image


def _check_whole(path: str) -> None:
    """Raise ValueError if an image ends too early."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None


class Files(Source):
    """Image and video files, one frame at a time. Files that cannot be read are reported and skipped.

    Args:
        images: read first, in this order.
        videos: read after them.
        vid_stride: read every Nth frame of a video, or an animation.
        left_out: see `Source`.
        several: those of the images whose pages or frames are all read, not the first one alone.
        pixels: what the network reads.

    Attributes:
        capture: the video that is being read, None before the first one.
    """

    def __init__(
        self,
        images: Sequence[str],
        videos: Sequence[str],
        vid_stride: int = 1,
        left_out: str = "",
        several: Sequence[str] = (),
        pixels: PixelFormat = COLOR8,
    ) -> None:
        super().__init__([*images, *videos], [*several, *videos])
        self.several, self.pixels = set(several), pixels
        self.images, self.vid_stride, self.left_out = list(images), vid_stride, left_out
        self.capture: cv2.VideoCapture | None = None
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[list[Frame]]:
        for path in self.names:
            try:
                for frame in self._read(path):
                    if self._stopped.is_set():
                        return
                    yield [frame]
            except (ValueError, OSError) as error:
                self.failed.append(path)
                text = str(error) if path in str(error) else f"{path}: {error}"
                LOGGER.warning(f"{text}; skipped")

    def _read(self, path: str) -> Iterator[Frame]:
        if _suffix(path) in VID_FORMATS:
            self.pixels.check_color()
            self.capture = open_video(path)
            yield from read_video(path, self.vid_stride, self.capture)
        elif path in self.several and not path.lower().endswith(TIFFS):
            self.pixels.check_color()
            for number, (image, fps) in enumerate(read_animation(path, self.vid_stride), 1):
                yield Frame(image, path, "video", number, 0, fps)
        elif path in self.several:
            for number, image in enumerate(read_pages(path, self.pixels), 1):
                yield Frame(rendition(image), path, number=number, pixels=image)
        elif self.pixels.plain:
            yield Frame(read_image(path), path)
        else:
            image = load_pixels(path, self.pixels)
            yield Frame(rendition(image), path, pixels=image)

    def stop(self) -> None:
        """End the iteration."""
        self._stopped.set()


def open_source(
    source: str | Path | Sequence[str | Path], folder: Path, vid_stride: int = 1, pixels: PixelFormat = COLOR8
) -> Source:
    """Detect the kind of a source and open it.

    Args:
        source: see `FORMS`; a sequence of them is read as one source, of files or of cameras and streams. A folder that
            exists is read, whatever its name could mean else. Folders are not searched below their own level, patterns
            with `**` are. Lines of a list are looked for from the working folder, then from the folder of the list;
            those that are missing are reported. A `.streams` file holds one camera number, URL or video a line. In
            both, lines that begin with `#` are left out. What an HTTP URL leads to is downloaded if it is an image or
            its suffix is that of a video; anything else is a stream.
        folder: where downloads go; created when there is one.
        vid_stride: see `Files` and `Stream`.
        pixels: that the network reads.

    Returns:
        A `Files`, which reads all pages and frames of images, `Streams` or `Screen`.

    Raises:
        ValueError, FileNotFoundError: there is nothing to read, or the text is none of these forms.
        OSError: a stream, camera or screen cannot be opened, or a download fails.
    """
    texts = [str(entry).strip() for entry in ([source] if isinstance(source, str | Path) else source)]
    if not texts or not all(texts):
        raise ValueError(f"--source is empty{' in part' if any(texts) else ''}: give {FORMS}")
    if vid_stride < 1:
        raise ValueError(f"--vid-stride is {vid_stride}, but must be at least 1")
    if len(texts) > 1:
        return _open_several(texts, folder, vid_stride, pixels)
    (text,) = texts
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return open_files(text, vid_stride, pixels, every_page=True)
    if text.isdecimal():
        return Streams([text], vid_stride)
    if text.split()[0] == "screen" and not os.path.exists(path):
        return open_screen(text)
    if text.lower().startswith(SCHEMES):
        file = _download(text, folder) if is_url(text) else None
        return Streams([text], vid_stride) if file is None else _files(text, [str(file)], vid_stride, pixels, True)
    if text.lower().endswith(".streams"):
        return Streams(read_lines(text), vid_stride)
    return open_files(text, vid_stride, pixels, every_page=True)


def _open_several(texts: Sequence[str], folder: Path, vid_stride: int, pixels: PixelFormat) -> Source:
    """Open sources that are read as one: files of any kind, or cameras and streams."""
    files: list[str] = []
    streams: list[str] = []
    for text in texts:
        if os.path.exists(os.path.expanduser(text)) and not text.lower().endswith(".streams"):
            files.append(text)
        elif text.split()[0] == "screen":
            raise ValueError(f"--source {text!r}: the screen is a source of its own, not one of several")
        elif text.lower().endswith(".streams"):
            streams += read_lines(text)
        elif text.isdecimal():
            streams.append(text)
        elif text.lower().startswith(SCHEMES):
            file = _download(text, folder) if is_url(text) else None
            (streams if file is None else files).append(text if file is None else str(file))
        else:
            files.append(text)
    if files and streams:
        raise ValueError(
            f"--source: {streams[0]} is a camera or stream, which has no end, and {files[0]} a file: "
            "detect in files and in streams in separate runs"
        )
    return Streams(streams, vid_stride) if streams else open_files(files, vid_stride, pixels, every_page=True)


def open_files(
    source: str | Path | Sequence[str | Path],
    vid_stride: int = 1,
    pixels: PixelFormat = COLOR8,
    *,
    every_page: bool = False,
) -> Files:
    """Find the images and videos of a file, folder, pattern, `.txt` list, or several of them.

    Args:
        source: see above.
        vid_stride: see `Files`.
        pixels: see `Files`.
        every_page: read all pages of TIFF files and all frames of animations, not the first one alone.

    Raises:
        ValueError, FileNotFoundError: some of them do not exist, or there is nothing to read.
    """
    texts = [str(entry).strip() for entry in ([source] if isinstance(source, str | Path) else source)]
    found: list[str] = []
    missing: list[str] = []
    for text in texts:
        path = os.path.expanduser(text)
        try:
            if text.lower().endswith(".txt") and not os.path.isdir(path):
                found += [file for line in read_lines(text) for file in _listed(line, Path(path), pixels)]
            else:
                found += find_files(text, pixels)
        except FileNotFoundError:
            missing.append(text)
            if len(texts) == 1:
                raise
    if missing:
        more = f", ... {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(texts)} sources not found (from {Path.cwd()}): {', '.join(missing[:NAMED])}{more}"
        )
    return _files(", ".join(texts[:NAMED]), found, vid_stride, pixels, every_page)


def _download(url: str, folder: Path) -> Path | None:
    """Download the file of a URL and return it; None for a stream."""
    check_no_page(url)
    try:
        return download(url, folder, READ)
    except OSError:
        if _suffix(urlsplit(url).path) in READ:
            raise
        return None  # FFmpeg tries more ways to connect and reports the error


def _files(text: str, found: Sequence[str], vid_stride: int, pixels: PixelFormat, every_page: bool) -> Files:
    """Sort paths into images and videos, and describe the rest.

    Raises:
        FileNotFoundError: there is neither an image nor a video.
    """
    found = list(dict.fromkeys(found))
    images = [file for file in found if _suffix(file) in pixels.suffixes and os.path.isfile(file)]
    videos = [file for file in found if _suffix(file) in VID_FORMATS and os.path.isfile(file)]
    chosen = {*images, *videos}
    left_out = _left_out([file for file in found if file not in chosen])
    if not images and not videos:
        raise FileNotFoundError(
            f"{text}: no images or videos found{f', but {left_out}' if left_out else ''}. Images end in "
            f"{' '.join(pixels.suffixes)}; videos in {' '.join(VID_FORMATS)}"
        )
    several = [file for file in images if every_page and not pixels.in_pages(file) and has_more_pages(file)]
    return Files(images, videos, vid_stride, left_out, several, pixels)


def _left_out(files: Sequence[str]) -> str:
    """Describe files and folders that are not read: how many of each kind, and some names."""
    kinds = Counter("folder" if os.path.isdir(f) else f".{_suffix(f)}" if _suffix(f) else "no suffix" for f in files)
    counts = ", ".join(f"{n} {kind}{'s' * (kind == 'folder' and n > 1)}" for kind, n in kinds.most_common())
    names = ", ".join(os.path.basename(file) for file in files[:NAMED])
    return printable(f"{counts} ({names}{', ...' * (len(files) > NAMED)}){heic_hint(files)}") if files else ""


def find_files(text: str, pixels: PixelFormat = COLOR8) -> list[str]:
    """List what a path, folder or pattern means, sorted: files of any kind, and the subfolders of a folder.

    The leading folders of a pattern that exist are taken as they are written, with brackets in their names. If nothing
    fits, so are all brackets.

    Raises:
        FileNotFoundError: no such path, and nothing fits the pattern.
        ValueError: a single file that ends neither like an image nor like a video.
    """
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return sorted(str(entry) for entry in Path(path).iterdir())
    if os.path.isfile(path):
        if _suffix(path) not in (*pixels.suffixes, *VID_FORMATS):
            raise ValueError(
                f"{text}: not the suffix of an image ({' '.join(pixels.suffixes)}) or a video ({' '.join(VID_FORMATS)})"
                f"{heic_hint([path])}"
            )
        return [path]
    if any(letter in text for letter in "*?["):
        folder, rest = _existing(path)
        for pattern in (rest, rest.replace("[", "[[]")):
            found = glob.glob(os.path.join(glob.escape(folder), pattern), recursive=True)
            if files := sorted(file for file in found if os.path.isfile(file)):
                return files
        hint = "; brackets are part of a pattern, write [[] for a literal [" if "[" in text else ""
        raise FileNotFoundError(f"{text}: no file matches this pattern (from {Path.cwd()}){hint}")
    raise FileNotFoundError(f"{text}: no such file or folder (from {Path.cwd()}). A source is {FORMS}")


def _existing(path: str) -> tuple[str, str]:
    """Split a pattern after the leading folders that exist as they are written."""
    folder, rest = path, ""
    while folder and not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder, name = os.path.split(folder)
        rest = os.path.join(name, rest) if rest else name
    return folder, rest


def _listed(line: str, list_file: Path, pixels: PixelFormat) -> list[str]:
    """Return the files of one line of a list; a line that leads nowhere is reported."""
    try:
        return find_files(line, pixels)
    except (FileNotFoundError, ValueError) as error:
        if not os.path.isabs(line):
            try:
                return find_files(str(list_file.parent / line), pixels)
            except (FileNotFoundError, ValueError):
                pass  # the first message names the line as it stands
        LOGGER.warning(f"{list_file}: {error}; line skipped")
        return []


def read_lines(file: str) -> list[str]:
    """Read the lines of a list that are neither empty nor comments."""
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise FileNotFoundError(f"{file}: no such list (from {Path.cwd()})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a list: invalid UTF-8 at byte {error.start}") from None
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{file}: the list is empty")
    return lines


def open_screen(text: str) -> Screen:
    """Open what `screen [number] [left top width height]` means."""
    words = text.split()[1:]
    if len(words) not in (0, 1, 4, 5) or not all(re.fullmatch(r"\d+", word) for word in words):
        raise ValueError(f"--source {text!r}: expected screen, screen N, or screen [N] LEFT TOP WIDTH HEIGHT in pixels")
    numbers = [int(word) for word in words]
    monitor = numbers.pop(0) if len(numbers) in (1, 5) else 0
    if numbers and min(numbers[2:]) < 1:
        raise ValueError(f"--source {text!r}: width and height must be at least 1 pixel")
    return Screen(monitor, (numbers[0], numbers[1], numbers[2], numbers[3]) if numbers else None)


def _suffix(path: str) -> str:
    """Return the suffix of a path in lower case, without the dot."""
    return Path(path).suffix.lower().removeprefix(".")
