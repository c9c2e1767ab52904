"""The file of a TensorRT engine: a head with metadata, then the serialized engine.

Layout: 4 bytes, the length n of the head as an unsigned little-endian integer; n bytes of JSON in UTF-8, one object
with the entries of the metadata (stride, names with its numbers as texts, imgsz, ...); then the serialized engine
up to the end. `trtexec` needs the part after the head: `tail -c +$((n + 5)) best.engine`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST_HEAD = 1 << 24  # no head is that long: other bytes were taken for its length


def write_engine(file: str | Path, metadata: Mapping[str, Any], engine: bytes) -> None:
    """Write head and engine.

    Args:
        file: target; give the path of `utils.files.atomic_path`.
        metadata: plain values.
        engine: serialized engine.
    """
    head = json.dumps(dict(metadata)).encode()
    with Path(file).open("wb") as out:
        out.write(struct.pack("<I", len(head)))
        out.write(head)
        out.write(engine)


def read_engine(file: str | Path) -> tuple[dict[str, Any], bytes]:
    """Read head and engine.

    Returns:
        The metadata, `names` with numbers as keys, and the serialized engine. A file without head, such as one of
        `trtexec`, gives {} and all its bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the head is no JSON object, or its names are no mapping from numbers.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such engine file (looked in {file.absolute().parent})")
    data = file.read_bytes()
    length = struct.unpack("<I", data[:4])[0] if len(data) >= 4 else LONGEST_HEAD
    head = data[4 : 4 + length]
    if length >= LONGEST_HEAD or len(head) < length or not head.startswith(b"{"):
        return {}, data
    try:
        metadata = json.loads(head)
        metadata["names"] = {int(number): str(name) for number, name in metadata.get("names", {}).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"{file}: damaged, its head is not a JSON object with names: {str(e)[:200]}") from None
    return metadata, data[4 + length :]
