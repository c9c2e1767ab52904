"""Decoded and resized images on disk, so that they need not be decoded in every epoch."""

import errno
import hashlib
import math
import os
import re
import shutil
import stat
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils.console import LOGGER
from utils.files import atomic_path, open_regular
from utils.text import file_name

HEADER = struct.Struct("<4sIIII")  # mark, height, width, channels, `checksum`
MARKS = {b"yis1": np.uint8, b"yis2": np.uint16, b"yis4": np.float32}
PAGE = 4096  # bytes
CACHED = re.compile(r"[0-9a-f]{32}\.raw")  # names of the files


CGROUP_FILES = {  # of the two versions: limit, use, and the entries of memory.stat that can be dropped at any time
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def free_memory() -> int | None:
    """Return the bytes of memory that this process can still get, by the system and its cgroups; None if unknown."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    free = next(int(line.split()[1]) * 1024 for line in info.read_text().splitlines() if "MemAvailable" in line)
    with suppress(OSError):
        for folder, version in cgroup_folders(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup")):
            free = min(free, cgroup_room(folder, version, free))
    return free


def cgroup_folders(membership: str, root: Path) -> list[tuple[Path, int]]:
    """Return the folders of the cgroups whose memory limits hold for a process, and the version of each, 1 or 2.

    Args:
        membership: content of its /proc/PID/cgroup. In a container it may name a path of the host; then the limit of
            the container is that of the root.
        root: where the file systems of cgroups are mounted.
    """
    found = []
    for line in membership.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        version, base = (1, root / "memory") if controllers else (2, root)
        folder = base / path.strip("/")
        found += [(f, version) for f in (folder, *folder.parents) if f.is_relative_to(base)]
    return found


def cgroup_room(folder: Path, version: int, free: int) -> int:
    """Return the bytes that the processes of a cgroup can still get; `free` if it has no limit.

    Cached content of files does not count as used: it is dropped when memory is needed.
    """
    limit, used, droppable = CGROUP_FILES[version]
    try:
        most = int((folder / limit).read_text())  # "max" is no limit
        taken = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - taken + sum(int(stat.get(key, 0)) for key in droppable)
    except (OSError, ValueError):
        return free


def processes_to_come() -> int:
    """Return how many processes of this machine will make their cache from now on, this one included.

    Of those that torchrun started, the first one loads before the others.
    """
    count, number = (
        int(os.environ.get(name, default)) for name, default in (("LOCAL_WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    return count if number == 0 else max(count - 1, 1)


def cache_kind(cache: bool | str | None) -> str | None:
    """Return where resized images are kept: `ram` (also for True), `disk`, or None; ValueError for anything else."""
    kind = "ram" if cache is True else cache or None
    if kind not in (None, "ram", "disk"):
        raise ValueError(f"cache is {cache!r}; allowed are ram and disk")
    return kind


def checksum(pixels: np.ndarray) -> int:
    """Return the CRC-32 of the sums of the 8-byte numbers of each page, and of the bytes after the last whole page.

    It takes a tenth of the time of a CRC-32 of all bytes, which takes longer than to read them, and shows what happens
    to files: bytes that changed, pages that are missing, empty or in another place.

    Args:
        pixels: (N,) uint8.
    """
    whole = len(pixels) // PAGE * PAGE
    sums = pixels[:whole].view(np.uint64).reshape(-1, PAGE // 8).sum(1)
    return zlib.crc32(pixels[whole:], zlib.crc32(sums))


class ImageCache:
    """Keep images in one file each; a file that is damaged or older than its image is made again.

    Files appear complete or not at all, whenever the writer is killed, and several processes may write at a time.

    Args:
        folder: made if need be; a link is not followed, as this program chooses the name beside data of others.
        variant: says how the images were made; other variants have other files.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "a link, not a folder: remove it", str(folder))
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.stat().st_mode & 0o222:  # as for label caches, also where root could write
            raise PermissionError(errno.EACCES, "read-only", str(there))
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "no permission to write", str(folder))

    def fits(self, need: int, im_files: Sequence[str], prefix: str = "", parts: Sequence[str] = ()) -> bool:
        """Return whether all images fit into 90 % of the disk's free space; warn if not.

        What the folder holds of them counts as free. Images of other sizes, and of files that were changed, are removed
        if that makes room.

        Args:
            need: bytes of all images.
            im_files: their sources.
            prefix: of the messages.
            parts: which part of its source each is, see `file_of`; by default all are whole.
        """
        names = {self.file_of(*pair).name for pair in zip(im_files, parts or [""] * len(im_files), strict=True)}
        free, others = shutil.disk_usage(self.folder).free, {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process has just renamed it
                    found = entry.stat(follow_symlinks=False)
                    if entry.name in names and stat.S_ISREG(found.st_mode):
                        free += found.st_size
                    elif CACHED.fullmatch(entry.name) and stat.S_ISREG(found.st_mode):
                        others[entry.path] = found.st_size
        old = sum(others.values())
        if others and need > 0.9 * free and need <= 0.9 * (free + old):
            for file in others:
                Path(file).unlink(missing_ok=True)
            LOGGER.info(
                f"{prefix}{len(others)} cached images of other sizes or earlier files removed: {old / 1e9:.1f} GB"
            )
            free += old
        if need > 0.9 * free:
            LOGGER.warning(f"{prefix}images not cached: {need / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on disk")
        return need <= 0.9 * free

    @classmethod
    def of_images(
        cls,
        im_file: str,
        imgsz: int | tuple[int, int],
        augment: bool,
        parent: str | Path | None = None,
        prefix: str = "",
        kind: str = "",
    ) -> "ImageCache | None":
        """Keep the images of a dataset in a folder of their own.

        Args:
            im_file: one of them.
            imgsz: size of the images.
            augment: they are read for training.
            parent: made if need be; the folder in it is called `train-0123456789.images.cache` after name and path of
                that of the images, so that datasets with equal names have different ones. None: beside the images,
                `train.images.cache`.
            prefix: of the messages.
            kind: `PixelFormat.mark` of them.

        Returns:
            None, with a warning, if the folder beside the images cannot be written.

        Raises:
            OSError: `parent` cannot be written.
        """
        source = Path(os.path.abspath(im_file)).parent
        folder, variant = (
            source.with_name(f"{source.name}.images.cache"),
            f"{imgsz} {'train' if augment else 'val'}{kind}",
        )
        if parent is not None:
            digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:10]
            return cls(Path(parent) / f"{file_name(source.name)}-{digest}.images.cache", variant)
        try:
            return cls(folder, variant)
        except OSError as error:
            LOGGER.warning(f"{prefix}images not cached: {folder}: {error.strerror}; --cache-dir names another folder")
            return None

    def file_of(self, im_file: str, part: str = "") -> Path:
        """Return the file of an image or a part of it: its name is of path, size, time of change, variant and part."""
        stat = os.stat(im_file)
        # an edited image has another name: nothing has to be compared or deleted when the cache is read
        key = f"{os.path.abspath(im_file)} {stat.st_size} {stat.st_mtime_ns} {self.variant}{part}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.raw"

    def get(
        self,
        im_file: str,
        shape: tuple[int, int],
        make: Callable[[], np.ndarray],
        channels: int = 3,
        part: str = "",
    ) -> np.ndarray:
        """Return an image (H, W, C) from its file; if there is no valid one, make the image and write it.

        A disk that is full or was removed costs the cache, not the run.

        Args:
            im_file: source of the image.
            shape: (H, W) that the image must have; a file with another one is not read.
            make: returns the image, of a type of `MARKS`.
            channels: C.
            part: see `file_of`.
        """
        file = self.file_of(im_file, part)
        found = self._read(file, (*shape, channels))
        if found is not None:
            return found
        image = make()
        with suppress(OSError), atomic_path(file) as tmp:
            mark = next(mark for mark, kind in MARKS.items() if image.dtype == kind)
            pixels = image.tobytes()
            tmp.write_bytes(HEADER.pack(mark, *image.shape, checksum(np.frombuffer(pixels, np.uint8))) + pixels)
        return image

    @staticmethod
    def _read(file: Path, shape: tuple[int, int, int]) -> np.ndarray | None:
        """Return the image of a shape (H, W, C) in a file, None if it is missing, another one or damaged."""
        try:
            with open_regular(file, follow=False, buffering=0) as opened:
                head = np.fromfile(opened, np.uint8, HEADER.size)
                kind = np.dtype(MARKS.get(head[:4].tobytes(), np.uint8))
                count = math.prod(shape) * kind.itemsize
                pixels = np.fromfile(opened, np.uint8, count + 1)  # no more, however large the file is
        except OSError:
            return None
        if len(head) != HEADER.size or len(pixels) != count:
            return None
        # the checksum catches what a complete write cannot prevent: a failing disk, a file edited by others
        mark, *found, expected = HEADER.unpack(head.tobytes())
        if mark not in MARKS or tuple(found) != shape or checksum(pixels) != expected:
            return None
        return pixels.view(kind).reshape(shape)
