"""The state of work that is under way: saved now and then, and taken up again by the same command."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.console import LOGGER
from utils.files import atomic_path
from utils.model_files.inert_pickle import DamagedError, RefusedError
from utils.model_files.torch_file import InertFile


def save_unfinished(content: Mapping[str, Any], file: Path) -> None:
    """Write the state of work under way; the file is replaced in one step.

    Args:
        content: tensors and plain values; `key` says what the result depends on.
        file: where to.
    """
    with atomic_path(file) as tmp, tmp.open("wb") as stream:
        torch.save(content, stream)


def load_unfinished(file: Path, key: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """Read what `save_unfinished` wrote; None, with a line that says why, if it cannot be taken up.

    Args:
        file: may be missing.
        key: what the result depends on now; a state with another key is not taken up.
        what: name of the work, for messages.
    """
    if not file.is_file():
        return None
    try:
        with InertFile(file) as opened:
            content = opened.content("cpu")
        changed = [name for name in key if content["key"].get(name) != key[name]]
    except (DamagedError, RefusedError, AttributeError, KeyError, TypeError) as error:
        LOGGER.warning(f"{file}: not the state of a {what} ({error}), so it starts anew")
        return None
    if changed:
        LOGGER.info(f"{file}: of a {what} that differs in {', '.join(changed)}, so this one starts anew")
        return None
    return content


def refuse_existing(files: Sequence[Path]) -> None:
    """Raise ValueError if one of the files to be written exists."""
    for file in files:
        if file.exists():
            raise ValueError(f"{file} exists already: move it away, or choose another --out")
