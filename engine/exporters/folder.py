"""Replace a folder of files atomically."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Let the block fill a new folder beside `folder`, then replace `folder` with it.

    An older folder, or a link to one, is replaced only when the block has succeeded; after an error nothing is left of
    the new one. What a link points to stays as it is. Of several exports at the same time the last one to end stays.

    Yields:
        An empty folder.

    Raises:
        FileExistsError: `folder` is a file, or anything else than a folder.
        FileNotFoundError: its parent does not exist.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file exists where the folder would be written; remove it")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder}: the folder {folder.parent} does not exist")
    mark = secrets.token_hex(6)
    new, old = (folder.with_name(f".{folder.name}.{mark}.{word}") for word in ("new", "old"))
    new.mkdir()
    try:
        yield new
        while not _put(new, folder, old):
            _remove(old)
    finally:
        _remove(new)
        if old.exists() and not folder.exists():
            old.rename(folder)
        _remove(old)


def _put(new: Path, folder: Path, old: Path) -> bool:
    """Rename `folder`, if it exists, to `old` and `new` to `folder`; False if another export put its own there."""
    with suppress(FileNotFoundError):  # the first export, or another one is just replacing the folder
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _remove(folder: Path) -> None:
    """Delete a folder with its files, or a link to one."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
