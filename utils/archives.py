"""Unpack archives of strangers, zip and tar: nothing is written outside of the folder.

    python -m utils.archives VisDrone2019-DET-train.zip downloads/VisDrone --sha256 0a1b...

All names and sizes are checked before the first byte is written.
"""

import argparse
import hashlib
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.console import LOGGER, cli_errors
from utils.files import atomic_path
from utils.model_files.archive import BROKEN, is_outside

MAX_MEMBERS = 1_000_000
MAX_UNPACKED = 1 << 40  # bytes
CHUNK = 1 << 20
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Member(NamedTuple):
    """One file of an archive: name with slashes, bytes as declared, and how to open it."""

    name: str
    size: int
    key: zipfile.ZipInfo | tarfile.TarInfo


def unpack(archive: str | Path, folder: str | Path, sha256: str = "", limit: int = MAX_UNPACKED) -> int:
    """Unpack a downloaded archive below a folder; nothing is written anywhere else.

    All names and sizes are checked before the first byte is written. Files that exist are kept if they have the same
    size, and are an error otherwise. Permissions, owners and times of the archive are not taken over.

    Args:
        archive: .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz.
        folder: made if need be.
        sha256: checksum that the archive must have, in hexadecimal digits; "" compares none.
        limit: bytes that may be written.

    Returns:
        Number of files.

    Raises:
        FileNotFoundError: no such archive.
        ValueError: another checksum, another kind of file, a damaged one, or one with paths that lead out of the
            folder, links, devices, names that appear twice, or more bytes than `limit`.
        OSError: a file cannot be written.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such archive (looked in {archive.absolute().parent})")
    if sha256 and (found := file_sha256(archive)) != sha256.lower():
        raise ValueError(f"{archive}: damaged or another file: its SHA-256 is {found}, not {sha256}")
    if not archive.name.lower().endswith(ENDINGS):
        raise ValueError(f"{archive}: not a kind of archive that is unpacked; those end in {', '.join(ENDINGS)}")
    opener = zipfile.ZipFile if archive.name.lower().endswith(".zip") else tarfile.open
    try:
        with opener(archive) as opened:
            members = list(_members(opened, archive, limit))
            for member in members:
                _write(opened, member, folder, archive)
    except BROKEN as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise ValueError(f"{archive}: damaged, or not what its name says: {reason}") from None
    LOGGER.info(f"{archive}: {len(members)} files unpacked into {folder}")
    return len(members)


def _members(opened: zipfile.ZipFile | tarfile.TarFile, archive: Path, limit: int) -> Iterator[Member]:
    """Go through the files of an archive; ValueError for what must not be unpacked."""
    names: set[str] = set()
    total = 0
    for key in opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened:
        member, kind = _describe(key)
        if is_outside(member.name):
            raise ValueError(f"{archive}: refused, the path {member.name[:80]!r} leads out of the folder")
        if kind == "folder":
            continue
        if kind != "file":
            raise ValueError(f"{archive}: refused, {member.name[:80]!r} is a {kind}, neither file nor folder")
        names.add(os.path.normpath(member.name).casefold())
        total += member.size
        if total > limit or len(names) > MAX_MEMBERS:
            raise ValueError(f"{archive}: refused, it would fill more than {limit} bytes or {MAX_MEMBERS} files")
        yield member
    if not names:
        raise ValueError(f"{archive}: holds no files")


def _describe(key: zipfile.ZipInfo | tarfile.TarInfo) -> tuple[Member, str]:
    """Return name and size of an entry, and whether it is a file, a folder, a link or a device."""
    if isinstance(key, tarfile.TarInfo):
        link = key.islnk() or key.issym()
        kind = "link" if link else "folder" if key.isdir() else "file" if key.isreg() else "device"
        return Member(key.name, key.size, key), kind
    mode = key.external_attr >> 16
    kind = "folder" if key.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        kind = "device"
    return Member(key.filename, key.file_size, key), kind


def _write(opened: zipfile.ZipFile | tarfile.TarFile, member: Member, folder: Path, archive: Path) -> None:
    """Write one file, complete or not at all; not through links that lie in the folder already."""
    target = folder / PurePosixPath(member.name.replace("\\", "/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()) or target.is_symlink():
        raise ValueError(f"{archive}: refused, {target} leads out of {folder} through a link")
    if target.exists():
        if target.is_file() and target.stat().st_size == member.size:
            return
        raise ValueError(f"{archive}: {target} exists with other content, or appears twice: move it away")
    source = opened.open(member.key) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(member.key)
    written = 0
    with source, atomic_path(target) as tmp, tmp.open("xb") as out:
        while block := source.read(CHUNK):
            written += len(block)
            if written > member.size:
                raise ValueError(f"{archive}: refused, {member.name[:80]!r} is longer than it says")
            out.write(block)


def file_sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while block := opened.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Unpack the archive that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="file to unpack")
    parser.add_argument("folder", help="where to")
    parser.add_argument("--sha256", default="", help="checksum it must have")
    opt = parser.parse_args(argv)
    unpack(opt.archive, opt.folder, opt.sha256)


if __name__ == "__main__":
    with cli_errors():
        main()
