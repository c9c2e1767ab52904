"""Logging, colours, paths, YAML in and out, and the small checks that every script needs. No torch in here."""

import logging
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

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


def _make_logger() -> logging.Logger:
    logger = logging.getLogger("yolov5")
    logger.setLevel(logging.INFO)
    if not any(type(handler).__name__ == "ConsoleHandler" for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
    return logger


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
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return text
    return "".join(ANSI[style] for style in styles or ("blue", "bold")) + text + ANSI_END


def log_options(script: str | Path, options: Mapping[str, Any]) -> None:
    """Log all options of a run in one line: `train: weights=, cfg=yolov5n.yaml, ...`."""
    LOGGER.info(colorstr(f"{Path(script).stem}: ") + ", ".join(f"{key}={value}" for key, value in options.items()))


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
        LOGGER.error(traceback.format_exc())
    return verbose


# YAML ---------------------------------------------------------------------------------------------------------------

# Plain words of YAML 1.2 (core schema). PyYAML alone follows 1.1, where a class named `no` is False, `010` is eight,
# `12:30` is 750 and `1e-3` is a text.
YAML_WORDS = (
    ("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), "~nN\0"),
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", re.compile(r"(?:<<)$"), "<"),
)


class _YamlLoader(yaml.SafeLoader):
    """Safe loader with the words of YAML 1.2 and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, list] = {}

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read 0o17 and 0x1f by their base and everything else, 010 too, as decimal."""
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Read a mapping; the same key twice is an error with both places."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            name = (key.tag, key.value)
            if name in seen:
                text = f"key {key.value!r} appears twice (first in line {seen[name]}): remove one"
                raise yaml.composer.ComposerError(None, None, text, key.start_mark)
            seen[name] = key.start_mark.line + 1
        return node


class _YamlDumper(yaml.SafeDumper):
    """Safe dumper: no aliases, lists of plain values on one line, quotes where 1.1 or 1.2 would misread a text."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        """Write a shared list twice instead of as a reference."""
        return True

    def represent_list(self, data: list) -> yaml.SequenceNode:
        """Write lists without inner lists or dicts in brackets."""
        flow = not any(isinstance(item, list | dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)
_YamlDumper.add_representer(list, _YamlDumper.represent_list)
for _tag, _pattern, _first in YAML_WORDS:
    first_letters = ["" if letter == "\0" else letter for letter in _first]
    _YamlLoader.add_implicit_resolver(_tag, _pattern, first_letters)
    _YamlDumper.add_implicit_resolver(_tag, _pattern, first_letters)


def yaml_load(file: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Plain words follow YAML 1.2: only true and false are booleans (`no` and `on` are texts), `1e-3` is a number,
    `2026-01-31` is a text. No Python objects are built.

    Returns:
        The mapping; {} for an empty file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bad syntax, a key that appears twice, or no mapping; the message starts with `file:line`.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such YAML file (looked in {file.absolute().parent})")
    try:
        data = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_YamlLoader)
    except UnicodeDecodeError as e:
        raise ValueError(f"{file}: not a text in UTF-8 ({e.reason} at byte {e.start})") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise ValueError(f"{file}:{mark.line + 1 if mark else 1}: {e.problem or e.context}") from None
    except yaml.YAMLError as e:
        raise ValueError(f"{file}:1: not YAML: {e}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{file}:1: expected `key: value` lines, found a {type(data).__name__}")
    return data


def yaml_save(file: str | Path, data: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in their order; the file is replaced in one step or not at all.

    Args:
        file: target; its folder must exist.
        data: texts, numbers, booleans, None, lists, mappings; Path becomes text, tuple list, NumPy scalar number.

    Raises:
        TypeError: `data` holds anything else.
        OSError: the file cannot be written.
    """
    text = yaml.dump(_plain(data), Dumper=_YamlDumper, sort_keys=False, allow_unicode=True, width=120)
    with atomic_path(file) as tmp:
        tmp.write_text(text, encoding="utf-8")


def _plain(value: Any, where: str = "") -> Any:
    """Copy `value` with plain types only; `where` is the key path for the error."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {_plain(k, where): _plain(v, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {where or 'data'} to YAML: {type(value).__name__} is not a plain type")


# Paths --------------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Let the block write a new file beside `path`, then put it in the place of `path` in one step.

    A reader sees the old file or the complete new one, after a crash or on a full disk too. A link stays a link, and
    an existing file keeps its permissions.

    Yields:
        A path that does not exist yet, in the same folder and with the same suffix. The block must write that file.

    Raises:
        FileNotFoundError: the folder does not exist, or the block wrote nothing.
        OSError: the file cannot be written or renamed; the old file is as before and the new one removed.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    tmp = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        yield tmp
        with tmp.open("rb+") as written:
            os.fsync(written.fileno())
        if path.exists():
            shutil.copymode(path, tmp)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


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
    if exist_ok:
        if mkdir:
            path.mkdir(parents=True, exist_ok=True)
        return path
    for n in count(1):
        candidate = path if n == 1 else Path(f"{stem}{sep}{n}{suffix}")
        if candidate.exists():
            continue
        if not mkdir:
            return candidate
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:  # another run was faster
            continue
        return candidate
    raise AssertionError("count() has no end")


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
    path = Path(name).expanduser()
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
    """Return the `weights/last*.pt` below `search_dir` that was written last, or None."""
    found = [file for file in Path(search_dir).rglob("last*.pt") if file.parent.name == "weights"]
    return max(found, key=lambda file: file.stat().st_mtime_ns, default=None)


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
