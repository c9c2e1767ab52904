"""Replace a folder of files atomically."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Let the block fill a new folder beside `folder`, then put it in the place of `folder`.

    An older folder, or a link to one, is replaced only when the block has succeeded; after an error nothing is left of
    the new one. What a link points to stays as it is.

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
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)
