"""Where the repository, files and run folders are."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from glob import escape
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository, or the package that setup.py makes of it
PACKAGE = __name__.removesuffix("utils.paths")  # "yolov5_swinv2." where pip installed that package, else ""
HOME = Path() if PACKAGE else ROOT  # where run folders and datasets are by default: nothing is written into a package
VERSION = "0.2.0"  # pyproject.toml reads it here
SCRIPTS = ("train.py", "val.py", "detect.py", "export.py")
MODULES = {"pip": "pip", "torchrun": "torch.distributed.run", "tensorboard": "tensorboard.main"}  # programs' own ones
MODULES |= {f"yolov5-{script[:-3]}": f"{PACKAGE}{script[:-3]}" for script in SCRIPTS}


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
def run_folder(path: str | Path, exist_ok: bool = False, settings: Sequence[str] = ()) -> Iterator[Path]:
    """Make the folder of a run, see `increment_path`; at the end it is removed if it is new and nothing was put in.

    Args:
        path: wanted folder.
        exist_ok: use `path` although it exists.
        settings: patterns of the files that a run writes before it has any result. After an error they are removed too,
            if there are no others.
    """
    path = Path(path)
    new = [parent for parent in path.parents if not parent.exists()]
    old = exist_ok and path.exists()
    folder = increment_path(path, exist_ok, mkdir=True)
    try:
        yield folder
    except BaseException:
        found = [] if old else sorted(folder.rglob("*"), reverse=True)  # what is in a folder comes before it
        files = [file for file in found if not file.is_dir() or file.is_symlink()]
        if all(any(file.match(pattern) for pattern in settings) for file in files):
            for file in found:
                with suppress(OSError):
                    file.rmdir() if file not in files else file.unlink()
        raise
    finally:
        with suppress(OSError):  # the first that holds something, or is gone
            for empty in () if old else (folder, *new):
                empty.rmdir()


def command(*words: str | Path) -> str:
    """Return a command that works when it is pasted into the shell of this process, whatever folder that is in.

    Args:
        *words: `python`, `pip`, or another key of `MODULES`, which are those of the Python that runs; then the
            arguments. One of `SCRIPTS` is found in the repository, and a module of it is run there: its arguments
            should be absolute paths. Of the installed package they are modules, and a script has its own command.
    """
    if PACKAGE:
        words = tuple(_in_package(*map(str, words)))
    own = Path(sys.executable)
    own = own if words[0] == "python" else own.with_name(str(words[0]))
    here, found = Path.cwd() == ROOT, shutil.which(words[0])
    texts = [str(ROOT / word) if word in SCRIPTS and not here else str(word) for word in words[1:]]
    elsewhere = texts[:1] == ["-m"] and not here and (ROOT / texts[1].partition(".")[0]).exists()
    if found and Path(found).parent == own.parent and own.exists() and Path(found).samefile(own):
        program = [str(words[0])]
    elif own.exists():
        program = [str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) and not elsewhere else own)]
    else:
        program = [sys.executable, "-m", MODULES[str(words[0])]]
    join = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    return f"cd {join([str(ROOT)])} && {join([*program, *texts])}" if elsewhere else join([*program, *texts])


def _in_package(first: str, second: str, *others: str) -> Iterator[str]:
    """Yield the words of a command with scripts and modules as the installed package has them."""
    if first == "python" and second in SCRIPTS:
        yield from (f"yolov5-{second[:-3]}", *others)
    elif second == "-m" and (ROOT / others[0].partition(".")[0]).exists():
        yield from (first, second, f"{PACKAGE}{others[0]}", *others[1:])
    else:
        for word in (first, second, *others):  # torchrun train.py
            yield from ("-m", f"{PACKAGE}{word[:-3]}") if word in SCRIPTS else (word,)


def installed_text(text: str) -> str:
    """Return a text with its commands, `python train.py` and so on, as the installed package has them."""
    if PACKAGE:
        text = re.sub(r"\bpython (train|val|detect|export)\.py\b", r"yolov5-\1", text)
        text = re.sub(r"(?<=\s)(train|val|detect|export)\.py(?= --)", rf"-m {PACKAGE}\1", text)
        text = re.sub(r"(?<=python -m )(?=engine|utils)", PACKAGE, text)
    return text


def check_file(file: str | Path, suffixes: tuple[str, ...] = ()) -> Path:
    """Find a file named by the user.

    The path as given is tried first, then below `ROOT`, then every file of that name in its folders data,
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
        raise ValueError(f"{name}: URLs are not fetched. Download the file and give its path")
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


def settings_folder(name: str = "yolov5-swinv2", variable: str = "YOLOV5_CONFIG_DIR") -> Path:
    """Return the folder for the settings of this user and program; it may not exist.

    Args:
        name: inside the folder that the operating system has for settings.
        variable: environment variable that names another folder.
    """
    if folder := os.environ.get(variable):
        return Path(folder)
    places = {"win32": "AppData/Roaming", "darwin": "Library/Application Support"}
    return Path.home() / places.get(sys.platform, ".config") / name


def git_describe(path: str | Path | None = None) -> str | None:
    """Return tag, distance and commit of a repository (`v0.1.0-3-gabc1234-dirty`), None without git or history.

    Args:
        path: of its folder; None is this repository.
    """
    path = Path(path or ROOT)
    if not (path / ".git").exists():  # else git would describe a repository that merely contains this folder
        return None
    command = ["git", "-C", str(path), "describe", "--tags", "--always", "--long", "--dirty"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
