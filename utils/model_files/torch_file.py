"""The one door for files of torch.save: read as data, without running anything that is in them.

Formats: the zip archive of torch.save, and the stream of PyTorch before 1.6. `torch.load` is not used: the pickle is
interpreted by `utils.model_files.inert_pickle`, and numbers are taken from the archive directly.
"""

import io
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from utils.model_files.archive import BROKEN, NoArchiveError, open_model_archive
from utils.model_files.inert_pickle import (
    MAX_PICKLE,
    Budget,
    DamagedError,
    LazyTensor,
    Name,
    Record,
    RefusedError,
    Storage,
    interpret,
)

STREAM_MAGIC = 0x1950A86A20F9469CFC6C  # first value of the stream format
STREAM_PROTOCOL = 1001  # second value
STREAM_HEAD = pickle.dumps(STREAM_MAGIC, protocol=2)  # so the file begins
MAX_STREAM_KEYS = 1_000_000
MAX_DEPTH = 64  # of containers in containers
TENSOR = 512  # bytes of a tensor besides its numbers: two bytes of a pickle can ask for one more view
MAX_SHARED = 4  # times the size of the file that its tensors may have together, where they share storages


class Bounded:
    """A binary file up to byte `end` that never makes room for more than it has, whatever length is asked for."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file, self.end, self.tell = file, end, file.tell

    def read(self, length: int) -> bytes:
        """Read at most `length` bytes."""
        return self.file.read(min(length, max(self.end - self.file.tell(), 0)))

    def readline(self) -> bytes:
        """Read to the end of the line or of the file."""
        return self.file.readline(max(self.end - self.file.tell(), 0))


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry of an archive; its checksum is compared."""
    try:
        return archive.read(name)
    except BROKEN as e:
        raise DamagedError(f"damaged: {e}") from None


class InertFile:
    """The content of a PyTorch file: `root` is its object, `size` its bytes, `tensor` reads numbers.

    Args:
        file: path of a zip archive or stream of torch.save, or its bytes.
        data_only: refuse classes of YOLOv5 and `torch.nn`, which otherwise become `Record`s.

    Attributes:
        root: its object. records: names of the classes in it. size: bytes. is_stream: the format before 1.6.
        memory: what may be made of `root` by those who read it.

    Raises:
        ValueError: the file is damaged, or names what may not be named; without the path.
        OSError: it cannot be read.
    """

    def __init__(self, file: Path | bytes, data_only: bool = False) -> None:
        self.file: BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else file.open("rb")
        self.size = self.file.seek(0, io.SEEK_END)
        self.budget = self.size  # no more numbers than the file has bytes
        self.viewed = 0  # bytes of the tensors that were read
        self.data_only, self.little = data_only, True
        self.storages: dict[str, Tensor] = {}
        self.records: set[str] = set()
        self.archive: zipfile.ZipFile | None = None
        try:
            self.file.seek(0)
            self.is_stream = self.file.read(len(STREAM_HEAD)) == STREAM_HEAD
            self.file.seek(0)
            self.root = self._open_stream(self.file) if self.is_stream else self._open_archive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "InertFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_archive(self) -> Any:
        try:
            archive = self.archive = open_model_archive(self.file)
        except NoArchiveError as e:
            raise DamagedError(f"not a checkpoint, or a damaged one: {e}") from None
        except ValueError as e:
            raise RefusedError(str(e)) from None
        names = archive.namelist()
        heads = [name for name in names if name.endswith("/data.pkl")]
        if not heads or any(name.endswith("/constants.pkl") for name in names):  # the second is TorchScript
            raise DamagedError("not a checkpoint (an archive of another kind)")
        if len(heads) != 1:
            raise DamagedError("damaged: no single data.pkl")
        self.folder = heads[0].removesuffix("data.pkl")
        if f"{self.folder}byteorder" in names:
            self.little = _entry(archive, f"{self.folder}byteorder") != b"big"
        if archive.getinfo(heads[0]).file_size > MAX_PICKLE:
            raise DamagedError(f"damaged: {heads[0]} is larger than {MAX_PICKLE} bytes")
        code = _entry(archive, heads[0])
        root, _, self.records = interpret(io.BytesIO(code), self.data_only)
        self.memory = Budget(len(code))
        return root

    def _open_stream(self, file: BinaryIO) -> Any:
        if self._next(file)[0] != STREAM_MAGIC or self._next(file)[0] != STREAM_PROTOCOL:
            raise DamagedError("damaged: a stream of another protocol")
        system = self._next(file)[0]
        self.little = not isinstance(system, dict) or system.get("little_endian", True) is True
        start = file.tell()
        root, storages, self.records = self._next(file)
        self.memory = Budget(file.tell() - start)
        keys = self._next(file)[0]
        if not isinstance(keys, list) or len(keys) > MAX_STREAM_KEYS:
            raise DamagedError("damaged: no list of its storage keys")
        for key in keys:
            storage = storages.get(key) if isinstance(key, str) else None
            head = file.read(8)
            if storage is None or len(head) != 8 or struct.unpack("<q", head)[0] != storage.count:
                raise DamagedError("damaged: the storages do not follow the list of their keys")
            size = storage.count * storage.dtype.itemsize
            if size > self.budget:
                raise DamagedError(f"damaged: storage {key} is larger than the file")
            self.storages[key] = self._numbers(storage, file.read(size))
        return root

    def _next(self, file: BinaryIO) -> tuple[Any, dict[str, Storage], set[str]]:
        """Interpret the next pickle of a stream."""
        return interpret(Bounded(file, min(self.size, file.tell() + MAX_PICKLE)), self.data_only)

    def _numbers(self, storage: Storage, data: bytes) -> Tensor:
        """Turn bytes into the flat tensor of a storage."""
        width = storage.dtype.itemsize
        self.budget -= len(data)
        if len(data) != storage.count * width or self.budget < 0:
            raise DamagedError(f"damaged: storage {storage.key} has {len(data)} bytes for {storage.count} elements")
        if not data:
            return torch.empty(0, dtype=storage.dtype)
        array = np.frombuffer(bytearray(data), f"u{width}")
        if not self.little:
            array = array.byteswap()
        if storage.dtype == torch.bool and (array > 1).any():
            raise DamagedError(f"damaged: storage {storage.key} has booleans other than 0 and 1")
        return torch.from_numpy(array).view(storage.dtype)

    def tensor(self, lazy: LazyTensor) -> Tensor:
        """Read the numbers of a tensor.

        Raises:
            ValueError: they are missing or too few, or tensors that share them add up to far more than the file.
        """
        storage = lazy.storage
        self.memory.spend(TENSOR)
        self.viewed += math.prod(lazy.size) * storage.dtype.itemsize
        if self.viewed > MAX_SHARED * self.size:
            raise DamagedError(f"damaged: tensors of more than {MAX_SHARED} times the size of the file")
        if storage.key not in self.storages:
            name = f"{self.folder}data/{storage.key}" if self.archive else storage.key
            if not self.archive or name not in self.archive.NameToInfo:
                raise DamagedError(f"damaged: the storage {name[-300:]} is missing")
            if self.archive.getinfo(name).file_size > self.budget:
                raise DamagedError(f"damaged: {name[-300:]} is larger than the file")
            self.storages[storage.key] = self._numbers(storage, _entry(self.archive, name))
        if not math.prod(lazy.size):
            return torch.empty(lazy.size, dtype=storage.dtype)
        return self.storages[storage.key].as_strided(lazy.size, lazy.stride, lazy.offset)

    def content(self, device: str | torch.device = "cpu") -> Any:
        """Return `root` with plain containers and tensors; tensors that share numbers in the file share them here.

        Raises:
            ValueError: it holds classes, numbers are missing, or it is nested or repeated without end.
        """
        return self._values(self.root, torch.device(device), 0)

    def _values(self, value: Any, device: torch.device, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise DamagedError("damaged: endlessly nested values")
        self.memory.spend_text(value)
        if isinstance(value, LazyTensor):
            return self.tensor(value).to(device)
        if isinstance(value, dict):
            return {key: self._values(item, device, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self._values(item, device, depth + 1) for item in value])
        if isinstance(value, Record | Name | Storage):
            raise RefusedError("refused, the file holds Python objects, not only numbers and strings")
        return value

    def close(self) -> None:
        """Close the file; no further tensor can be read."""
        if self.archive:
            self.archive.close()
        self.file.close()
