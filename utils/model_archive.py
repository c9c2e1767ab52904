"""Zip archives of PyTorch, made sure to be what they seem before anything in them is read."""

import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

MAX_INFLATED = 64 << 20  # bytes of all compressed entries of a model file together; those of YOLOv5x have about 2 MB
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error,
    UnicodeDecodeError,  # a name in the archive
)  # fmt: skip


class NoArchiveError(ValueError):
    """The file is no zip archive, or its end is missing."""


def open_model_archive(file: str | Path | IO[bytes], inflated: int = 0) -> zipfile.ZipFile:
    """Open an archive of PyTorch, after making sure that its reader and ours see the same entries.

    Args:
        file: path or binary file.
        inflated: bytes that the compressed entries may hold together; 0 refuses compression.

    Raises:
        NoArchiveError: no zip archive, or its end is missing.
        ValueError: one that torch.save never writes, with entries that are compressed, larger than the file, encrypted,
            named twice or with a path that leads elsewhere, or with a second table of contents.
        OSError: it cannot be read.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (*BROKEN, ValueError, OverflowError) as e:
        raise NoArchiveError(f"no complete PyTorch archive ({e})") from None
    try:
        _check_entries(archive, inflated)
    except ValueError:
        archive.close()
        raise
    return archive


def _check_entries(archive: zipfile.ZipFile, inflated: int) -> None:
    """Raise ValueError for entries that mean trouble."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len({name.casefold() for name in names}) != len(names):  # PyTorch's reader does not look at the case
        raise ValueError("damaged: a name of the archive appears twice")
    for name in names:
        if is_outside(name):
            raise ValueError(f"refused, the path of the entry {name[:80]!r} leads out of the archive")
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed and not inflated:
        raise ValueError("damaged: compressed entries, which torch.save never writes")
    if sum(entry.file_size for entry in packed) > inflated:
        raise ValueError(f"refused, its compressed entries would fill more than {inflated >> 20} MiB")
    if any(entry.flag_bits & 1 for entry in entries):
        raise ValueError("damaged: encrypted entries")
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    size = archive.fp.seek(0, os.SEEK_END)
    if stored > size:
        raise ValueError(f"damaged: entries of {stored} bytes in a file of {size}, larger than the file")
    if archive.comment or _table_end(archive.fp, size) is None:
        raise ValueError("refused, bytes before or behind the archive could hold a second one")


def _table_end(file: IO[bytes], size: int) -> int | None:
    """Return where the table of contents ends if it stands where the last record says, else None.

    The record at the end gives place and length of the table; readers disagree when these do not meet the record.
    """
    file.seek(max(size - 98, 0))
    tail = file.read(98)  # record of 64 bits (56), its locator (20), record (22)
    if tail[-22:-18] != b"PK\5\6":
        return None
    length, offset = struct.unpack("<II", tail[-10:-2])
    end = size - 22
    if tail[-42:-38] == b"PK\6\7":  # both may be given in 64 bits, or only there
        (where,) = struct.unpack("<Q", tail[-34:-26])
        end = size - 98
        if where != end or tail[:4] != b"PK\6\6":
            return None
        long = struct.unpack("<QQ", tail[40:56])
        if any(short not in (0xFFFFFFFF, wide) for short, wide in zip((length, offset), long, strict=True)):
            return None
        length, offset = long
    return end if offset + length == end else None


def is_outside(name: str) -> bool:
    """Whether the name of an entry could lead out of the folder it is unpacked into, on any system."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name
