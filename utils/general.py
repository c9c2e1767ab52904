"""Logging, colours, paths, YAML in and out, and the small checks that every script needs. No torch in here."""

import logging
import math
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.text import one_line

ROOT = Path(__file__).resolve().parents[1]  # the repository
VERSION = "0.1.0"
TQDM_BAR_FORMAT = "{desc}{percentage:4.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"

ANSI = {name: f"\033[{30 + i}m" for i, name in enumerate("black red green yellow blue magenta cyan white".split())}
ANSI |= {f"bright_{name}": code.replace("[3", "[9") for name, code in ANSI.items()}
ANSI |= {"bold": "\033[1m", "underline": "\033[4m"}
ANSI_END = "\033[0m"


# Console ------------------------------------------------------------------------------------------------------------


class ConsoleHandler(logging.Handler):
    """Write to standard error without tearing a running progress bar.

    Silent while the root logger has a stream handler of its own: an application that configures `logging` then gets
    every line once, in its own format.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, warnings and errors with a coloured prefix."""
        if any(type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers):
            return
        prefix = {"WARNING": colorstr("yellow", "WARNING: "), "ERROR": colorstr("red", "bold", "ERROR: ")}
        tqdm.write(prefix.get(record.levelname, "") + self.format(record), file=sys.stderr)


class OneLine(logging.Filter):
    """Make the message of every record harmless for a terminal, whatever names and paths are in it.

    A filter of the logger and not of its handler, so that the handlers of an application get harmless text too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Reduce the message to one line without control characters but our own colour codes.

        A record with `extra={"lines": True}` keeps its line breaks: its caller vouches that all of them are its own.
        """
        kept = (*ANSI.values(), ANSI_END) if _colored() else ()
        text = record.getMessage()
        lines = text.split("\n") if getattr(record, "lines", False) else [text]
        record.msg, record.args = "\n".join(one_line(line, kept) for line in lines), None
        return True


def _make_logger() -> logging.Logger:
    logger = logging.getLogger("yolov5")
    logger.setLevel(logging.INFO)
    if not any(type(handler).__name__ == "ConsoleHandler" for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
        logger.addFilter(OneLine())
    return logger


def _colored() -> bool:
    """Whether texts get colours: on a terminal without NO_COLOR."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


LOGGER = _make_logger()


def colorstr(*parts: str) -> str:
    """Wrap the last of `parts` in terminal colours.

    Args:
        *parts: names of `ANSI` (colours, bright_ colours, bold, underline), then the text. The text alone is shown
            bold and blue.

    Returns:
        The text; without any codes when standard error is not a terminal or the variable NO_COLOR is set.
    """
    *styles, text = parts
    if not _colored():
        return text
    return "".join(ANSI[style] for style in styles or ("blue", "bold")) + text + ANSI_END


def log_options(script: str | Path, options: Mapping[str, Any]) -> None:
    """Log all options of a run in one line: `train: weights=, cfg=yolov5n.yaml, ...`; passwords in addresses hidden."""
    text = ", ".join(f"{key}={value}" for key, value in options.items())
    LOGGER.info(colorstr(f"{Path(script).stem}: ") + re.sub(r"(\w://)[^/@\s]+@", r"\1***@", text))


@contextmanager
def cli_errors() -> Iterator[None]:
    """Turn user errors inside the block into one clear line and an exit status, for the `main` of a script.

    ValueError and OSError (missing file, forbidden, disk full, ...) end with status 1, Ctrl-C with 130.
    The traceback is added when the environment says `YOLOv5_VERBOSE=true`. Other exceptions pass: they are bugs.

    Raises:
        SystemExit: one of the above happened.
    """
    try:
        yield
    except KeyboardInterrupt:
        _log_traceback()
        LOGGER.error("stopped by the keyboard (Ctrl-C)")
        raise SystemExit(130) from None
    except (ValueError, OSError) as e:
        verbose = _log_traceback()
        text = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename and e.strerror else str(e)
        last = traceback.extract_tb(e.__traceback__)[-1]
        ours = Path(last.filename).resolve().is_relative_to(ROOT) and (last.line or "").startswith("raise ")
        hint = "" if verbose or ours else f" ({type(e).__name__}; set YOLOv5_VERBOSE=true to see where)"
        LOGGER.error((text or type(e).__name__) + hint)
        raise SystemExit(1) from None


def _log_traceback() -> bool:
    """Log the current exception in full if the user asked for it; return whether that was done."""
    verbose = os.environ.get("YOLOv5_VERBOSE", "").strip().lower() in ("1", "true", "yes", "on")
    if verbose:
        LOGGER.error(traceback.format_exc(), extra={"lines": True})
    return verbose


# Paths --------------------------------------------------------------------------------------------------------------


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return `path`, or the first free of `path2`, `path3`, ... if it exists.

    Args:
        path: wanted folder or file; of an existing file the number goes before the suffix.
        exist_ok: return `path` although it exists.
        sep: put between name and number.
        mkdir: create the folder too. Two runs that start at the same moment get two folders.
    """
    path = Path(path)
    stem, suffix = (path.with_suffix(""), path.suffix) if path.is_file() else (path, "")
    if mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    if exist_ok:
        if mkdir:
            path.mkdir(exist_ok=True)
        return path
    for n in count(1):
        candidate = path if n == 1 else Path(f"{stem}{sep}{n}{suffix}")
        if mkdir:
            with suppress(FileExistsError):  # no look before: another run could be faster
                candidate.mkdir(parents=True)
                return candidate
        elif not os.path.lexists(candidate):
            return candidate
    raise AssertionError("count() has no end")


@contextmanager
def run_folder(path: str | Path, exist_ok: bool = False) -> Iterator[Path]:
    """Make the folder of a run, see `increment_path`; at the end it is removed if it is new and nothing was put in."""
    path = Path(path)
    new = [parent for parent in path.parents if not parent.exists()]
    old = exist_ok and path.exists()
    folder = increment_path(path, exist_ok, mkdir=True)
    try:
        yield folder
    finally:
        with suppress(OSError):  # the first that holds something, or is gone
            for empty in () if old else (folder, *new):
                empty.rmdir()


def check_file(file: str | Path, suffixes: tuple[str, ...] = ()) -> Path:
    """Find a file named by the user.

    The path as given is tried first, then below the repository, then every file of that name in its folders data,
    models and utils. Nothing is downloaded.

    Args:
        file: path or name.
        suffixes: allowed endings such as (".yaml", ".yml"); () allows all. A name without suffix passes this check.

    Raises:
        ValueError: empty name, URL, wrong suffix, a folder, or several files of that name.
        FileNotFoundError: no such file; the message lists where it was looked for.
    """
    name = str(file)
    if not name:
        raise ValueError(f"no file given: expected a path{' ending in ' + ' or '.join(suffixes) if suffixes else ''}")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", name):
        raise ValueError(f"{name}: addresses are not fetched. Download the file and give its path")
    path = Path(os.path.expanduser(name))  # of an unknown user it stays as it is
    if suffixes and path.suffix and path.suffix.lower() not in suffixes:
        raise ValueError(f"{name}: expected a file ending in {' or '.join(suffixes)}")
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{name}: this is a folder, expected a file")
    if not path.is_absolute() and (ROOT / path).is_file():
        return ROOT / path
    folders = [ROOT / folder for folder in ("data", "models", "utils")]
    hits = (
        [] if path.is_absolute() else sorted({hit for f in folders for hit in f.rglob(escape(name)) if hit.is_file()})
    )
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise ValueError(f"{name}: several files of that name, give the full path: {', '.join(map(str, hits))}")
    known = {hit.name for folder in folders for ending in suffixes for hit in folder.rglob(f"*{ending}")}
    close = get_close_matches(path.name, sorted(known), n=1) or get_close_matches(
        f"{path.name}.yaml", known, n=1, cutoff=0.9
    )
    looked = [path.absolute()] if path.is_absolute() else [path.absolute(), ROOT / path, *folders]
    raise FileNotFoundError(
        f"{name}: file not found. Looked in {', '.join(dict.fromkeys(map(str, looked)))}"
        + (f". Did you mean {close[0]!r}?" if close else "")
    )


def get_latest_run(search_dir: str | Path = ".") -> Path | None:
    """Return the `weights/last*.pt` below `search_dir` that was written last, or None.

    Links to folders are not followed, but that `search_dir`/runs, where runs are by default, may be one itself.
    """
    places = (Path(search_dir), Path(search_dir) / "runs", Path(search_dir) / "runs/train")
    found = {file for place in places for file in place.rglob("last*.pt") if file.parent.name == "weights"}
    return max(filter(Path.is_file, found), key=lambda file: file.stat().st_mtime_ns, default=None)


def git_describe() -> str | None:
    """Return tag, distance and commit of the repository (`v0.1.0-3-gabc1234-dirty`), None without git or history."""
    if not (ROOT / ".git").exists():  # else git would describe a repository that merely contains this folder
        return None
    command = ["git", "-C", str(ROOT), "describe", "--tags", "--always", "--long", "--dirty"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


# Numbers ------------------------------------------------------------------------------------------------------------


def make_divisible(x: float, divisor: int) -> int:
    """Round `x` up to a multiple of `divisor`."""
    return math.ceil(x / int(divisor)) * int(divisor)


def check_img_size(imgsz: int, s: int = 32, floor: int = 0) -> int:
    """Return the image size the network can take: `imgsz` or `floor`, rounded up to a multiple of `s`, with a warning.

    Args:
        imgsz: side in pixels, at least 1.
        s: largest stride of the model.
        floor: smallest size allowed.

    Raises:
        ValueError: `imgsz` is below 1.
    """
    if imgsz < 1:
        raise ValueError(f"image size {imgsz}: expected at least 1 pixel, for example {20 * int(s)}")
    size = make_divisible(max(imgsz, floor), s)
    if size != imgsz:
        LOGGER.warning(
            f"image size {imgsz} must be a multiple of {int(s)} and at least {max(floor, int(s))}: using {size}"
        )
    return size
