"""Zip archives of PyTorch, verified before anything in them is read."""

import io
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch

from utils.text import printable

MAX_PROGRAM = 8 << 30  # bytes of a file that is read into memory as a whole
MAX_INFLATED = 64 << 20  # bytes of all compressed entries of a model file together; those of YOLOv5x have about 2 MB
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error,
    UnicodeDecodeError,  # a name in the archive
)  # fmt: skip


class NoArchiveError(ValueError):
    """The file is no zip archive, or its end is missing."""


class Records:
    """The records of a PyTorch archive as PyTorch's own reader finds them; for files that PyTorch is going to run.

    That reader looks names up without regard to case, so a check that compares names as written can miss what PyTorch
    finds. Here every record has a name from a list of known spellings, is listed by that reader, and is read through
    it. `buffer` hands on the very bytes that were looked at, whatever happens to the file meanwhile.

    Args:
        file: an existing file, or its content.
        known: the names that may be in it, without the root folder.

    Attributes:
        data: all bytes of the file. names: of all records, without the root folder.

    Raises:
        ValueError: no such archive, one that readers could see differently, or an unknown record; without the path.
        OSError: it cannot be read.
    """

    def __init__(self, file: Path | bytes, known: re.Pattern[str]) -> None:
        if isinstance(file, Path) and file.stat().st_size > MAX_PROGRAM:
            raise ValueError(f"refused, larger than {MAX_PROGRAM >> 30} GiB")
        self.data = file if isinstance(file, bytes) else file.read_bytes()
        with open_model_archive(self.buffer(), MAX_INFLATED) as archive:
            listed = archive.namelist()
        if self.data[:4] != b"PK\3\4" or self.data[4:8] == b"PTMF":  # torch chooses the reader by the first bytes
            raise ValueError("refused, it does not begin like a PyTorch archive")
        with _reader_errors():
            self.reader = torch._C.PyTorchFileReader(self.buffer())
            self.names: list[str] = self.reader.get_all_records()
        root = listed[0].partition("/")[0]
        if [f"{root}/{name}" for name in self.names] != listed:
            raise ValueError("refused, the readers of Python and PyTorch find different records in it")
        for name in self.names:
            if not known.fullmatch(name) or not self.reader.has_record(name):  # the second: cut at a NUL
                raise ValueError(f"refused, it holds {printable(name[:80])}, which no exported detector has")

    def buffer(self) -> io.BytesIO:
        """Return the content of the file as a new binary file; the bytes are shared, not copied."""
        return io.BytesIO(self.data)

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Read a record.

        Raises:
            ValueError: there is none, it is damaged, or it has more than `limit` bytes.
        """
        if limit is not None and self.size(name) > limit:
            raise ValueError(f"refused, its {name} has more than {limit >> 20} MiB")
        with _reader_errors():
            return self.reader.get_record(name)

    def size(self, name: str) -> int:
        """Return how many bytes a record has; ValueError where there is none."""
        with _reader_errors():
            return self.reader.get_record_size(name)


@contextmanager
def _reader_errors() -> Iterator[None]:
    """Turn errors of PyTorch's reader into ValueError."""
    try:
        yield
    except RuntimeError as e:
        raise ValueError(f"damaged: {str(e).splitlines()[0]}") from None


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
    """Raise ValueError for suspicious entries."""
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
    file: Any = archive.fp  # open, so not None
    size = file.seek(0, os.SEEK_END)
    if stored > size:
        raise ValueError(f"damaged: entries of {stored} bytes in a file of {size}, larger than the file")
    if archive.comment or _table_end(file, size) is None:
        raise ValueError("refused, bytes before or after the archive could hold a second one")


def _table_end(file: IO[bytes], size: int) -> int | None:
    """Return where the table of contents ends if it is where the last record says, else None.

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
