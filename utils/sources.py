"""What detect.py reads: the grammar of --source, and images and videos as files."""

import glob
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
from numpy.typing import NDArray
from PIL import Image

from utils.downloads import download
from utils.general import LOGGER
from utils.label_reader import IMG_FORMATS, decode_image
from utils.options.detect import FORMS
from utils.pipeline import Frame
from utils.streams import Screen, Streams
from utils.video import VID_FORMATS, read_video

SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")


def read_image(path: str) -> NDArray:
    """Read an image of any depth and channels, turned as its EXIF data say.

    Returns:
        (H, W, 3) BGR uint8. Transparency is dropped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, cut off, or of a format that OpenCV does not know.
    """
    image = decode_image(path, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: cannot be decoded: damaged, or no image of a known format")
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


class Files:
    """Image and video files, one frame at a time. What cannot be read is reported and skipped.

    Args:
        images: read first, in this order.
        videos: read after them.
        vid_stride: take the last of every so many frames of a video.

    Attributes:
        names: all files, images first.
        failed: files of which nothing could be read, so far.
    """

    live = False

    def __init__(self, images: Sequence[str], videos: Sequence[str], vid_stride: int = 1) -> None:
        self.images, self.videos, self.vid_stride = list(images), list(videos), vid_stride
        self.names = [*self.images, *self.videos]
        self.failed: list[str] = []
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
            yield from read_video(path, self.vid_stride)
        else:
            yield Frame(read_image(path), path)

    def stop(self) -> None:
        """End the iteration."""
        self._stopped.set()


Source = Files | Streams | Screen


def is_address(source: str) -> bool:
    """Whether a source is an address in the network."""
    return source.lower().startswith(SCHEMES)


def open_source(source: str | Path, folder: Path, vid_stride: int = 1) -> Source:
    """Find out what a source is, and open it.

    Args:
        source: see `FORMS`. Folders are not searched below their own level, patterns with `**` are. Lines of a list
            are looked for from the working folder, then from the folder of the list; those that are missing are
            reported. A `.streams` file holds one camera number, address or video a line. In both, lines that begin with
            `#` are left out. An address that ends like an image or video is downloaded, any other is a stream.
        folder: where downloads go; made when there is one.
        vid_stride: see `Files` and `Stream`.

    Returns:
        An iterable of lists of `Frame`, with `names`, `live`, and `stop()`.

    Raises:
        ValueError, FileNotFoundError: there is nothing to read, or the text is none of these forms.
        OSError: a stream, camera or screen cannot be opened, or a download fails.
    """
    text = str(source).strip()
    if not text:
        raise ValueError(f"--source is empty: give {FORMS}")
    if vid_stride < 1:
        raise ValueError(f"--vid-stride is {vid_stride}, but must be at least 1")
    if text.isdecimal():
        return Streams([text], vid_stride)
    if text.split()[0] == "screen" and not Path(text).exists():
        return _screen(text)
    if is_address(text):
        if _suffix(urlsplit(text).path) not in IMG_FORMATS + VID_FORMATS or not text.lower().startswith("http"):
            return Streams([text], vid_stride)
        text = str(download(text, folder))
    if text.lower().endswith(".streams"):
        return Streams(_lines(text), vid_stride)
    if text.lower().endswith(".txt"):
        found = [file for line in _lines(text) for file in _listed(line, Path(text))]
    else:
        found = find_files(text)
    found = list(dict.fromkeys(found))
    images = [file for file in found if _suffix(file) in IMG_FORMATS]
    videos = [file for file in found if _suffix(file) in VID_FORMATS]
    if not images and not videos:
        raise FileNotFoundError(
            f"{text}: no images or videos found. Images end in {' '.join(IMG_FORMATS)}; videos in "
            f"{' '.join(VID_FORMATS)}"
        )
    return Files(images, videos, vid_stride)


def find_files(text: str) -> list[str]:
    """List the files that a path, folder or pattern means, sorted; of a single file whatever it is.

    Raises:
        FileNotFoundError: no such path, and nothing fits the pattern.
        ValueError: a single file that ends neither like an image nor like a video.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return sorted(str(file) for file in path.iterdir() if file.is_file())
    if path.is_file():
        if _suffix(text) not in IMG_FORMATS + VID_FORMATS:
            raise ValueError(
                f"{text}: ends neither like an image ({' '.join(IMG_FORMATS)}) nor a video ({' '.join(VID_FORMATS)})"
            )
        return [str(path)]
    if any(letter in text for letter in "*?["):
        found = sorted(file for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
        if found:
            return found
        raise FileNotFoundError(f"{text}: no file fits this pattern (from {Path.cwd()})")
    raise FileNotFoundError(f"{text}: no such file or folder (from {Path.cwd()}). A source is {FORMS}")


def _listed(line: str, list_file: Path) -> list[str]:
    """Return the files of one line of a list; a line that leads nowhere is reported."""
    try:
        return find_files(line)
    except (FileNotFoundError, ValueError) as error:
        if not Path(line).is_absolute():
            try:
                return find_files(str(list_file.parent / line))
            except (FileNotFoundError, ValueError):
                pass  # the first message names the line as it stands
        LOGGER.warning(f"{list_file}: {error}; line left out")
        return []


def _lines(file: str) -> list[str]:
    """Read the lines of a list that are neither empty nor remarks."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{file}: no such list (from {Path.cwd()})")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{file}: the list is empty")
    return lines


def _screen(text: str) -> Screen:
    """Open what `screen [number] [left top width height]` means."""
    words = text.split()[1:]
    if len(words) not in (0, 1, 4, 5) or not all(re.fullmatch(r"\d+", word) for word in words):
        raise ValueError(f"--source {text!r}: expected screen, screen N, or screen [N] LEFT TOP WIDTH HEIGHT in pixels")
    numbers = [int(word) for word in words]
    monitor = numbers.pop(0) if len(numbers) in (1, 5) else 0
    if numbers and min(numbers[2:]) < 1:
        raise ValueError(f"--source {text!r}: width and height must be at least 1 pixel")
    return Screen(monitor, tuple(numbers) if numbers else None)


def _suffix(path: str) -> str:
    """Return the ending of a path or address in lower case, without the dot."""
    return Path(unquote(path)).suffix.lower().removeprefix(".")
