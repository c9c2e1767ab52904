"""Decoded and resized images on disk, so that they need not be decoded in every epoch."""

import errno
import hashlib
import math
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils.console import LOGGER
from utils.files import atomic_path, open_regular

HEADER = struct.Struct("<4sIIII")  # mark, height, width, channels, CRC-32 of the pixels
MARK = b"yim1"


def free_memory() -> int | None:
    """Return the bytes of memory that this process can still get, by the system and its container; None if unknown."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    free = next(int(line.split()[1]) * 1024 for line in info.read_text().splitlines() if "MemAvailable" in line)
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free


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
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "no permission to write", str(folder))

    def fits(self, need: int, prefix: str = "") -> bool:
        """Return whether images of `need` bytes in all fit into 90 % of the disk's free space; warn if not.

        What the folder holds already counts as free.
        """
        free = shutil.disk_usage(self.folder).free
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process has just renamed it
                    found = entry.stat(follow_symlinks=False)
                    free += found.st_size if stat.S_ISREG(found.st_mode) else 0
        if need > 0.9 * free:
            LOGGER.warning(f"{prefix}images not cached: {need / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on disk")
        return need <= 0.9 * free

    @classmethod
    def beside(cls, im_file: str, imgsz: int | tuple[int, int], augment: bool, prefix: str = "") -> "ImageCache | None":
        """Keep the images of a dataset beside their folder, as `train.images.cache`; None, warned, if impossible."""
        folder = Path(im_file).parent
        folder = folder.with_name(f"{folder.name}.images.cache")
        try:
            return cls(folder, f"{imgsz} {'train' if augment else 'val'}")
        except OSError as error:
            LOGGER.warning(f"{prefix}images not cached: {folder}: {error.strerror}")
            return None

    def file_of(self, im_file: str) -> Path:
        """Return the file of an image: its name is made of path, size, time of change and variant."""
        stat = os.stat(im_file)
        # an edited image has another name: nothing has to be compared or deleted when the cache is read
        key = f"{os.path.abspath(im_file)} {stat.st_size} {stat.st_mtime_ns} {self.variant}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.raw"

    def get(self, im_file: str, shape: tuple[int, int], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an image (H, W, 3) uint8 from its file; if there is no valid one, make the image and write it.

        A disk that is full or was removed costs the cache, not the run.

        Args:
            im_file: source of the image.
            shape: (H, W) that the image must have; a file with another one is not read.
            make: returns the image.
        """
        file = self.file_of(im_file)
        found = self._read(file, (*shape, 3))
        if found is not None:
            return found
        image = make()
        with suppress(OSError), atomic_path(file) as tmp:
            tmp.write_bytes(HEADER.pack(MARK, *image.shape, zlib.crc32(image)) + image.tobytes())
        return image

    @staticmethod
    def _read(file: Path, shape: tuple[int, int, int]) -> np.ndarray | None:
        """Return the image of a shape (H, W, C) in a file, None if it is missing, another one or damaged."""
        count = HEADER.size + math.prod(shape)
        try:
            with open_regular(file, follow=False, buffering=0) as opened:
                content = np.fromfile(opened, np.uint8, count + 1)  # no more, however large the file is
        except OSError:
            return None
        if len(content) != count:
            return None
        # the checksum catches what a complete write cannot prevent: a failing disk, a file edited by others
        *head, checksum = HEADER.unpack(content[: HEADER.size].tobytes())
        pixels = content[HEADER.size :]
        if head != [MARK, *shape] or zlib.crc32(pixels) != checksum:
            return None
        return pixels.reshape(shape)
