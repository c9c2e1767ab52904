"""Log lines, colours, and errors as shown to the user; YOLOv5's decorators for errors and threads."""

import functools
import gc
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ContextDecorator, contextmanager
from pathlib import Path
from threading import Event, Thread
from types import ModuleType, TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from utils.paths import ROOT
from utils.paths import command as command
from utils.text import one_line

Item = TypeVar("Item")

TELL_EVERY = 30.0  # seconds between two lines about the progress of a loop where there is no terminal
TQDM_BAR_FORMAT = "{desc}{percentage:4.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
ANSI = {name: f"\033[{30 + i}m" for i, name in enumerate("black red green yellow blue magenta cyan white".split())}
ANSI |= {f"bright_{name}": code.replace("[3", "[9") for name, code in ANSI.items()}
ANSI |= {"bold": "\033[1m", "underline": "\033[4m"}
ANSI_END = "\033[0m"
NO_MEMORY = re.compile(  # what libraries say that want more memory than there is
    r"Insufficient memory|can't allocate memory|Cannot allocate memory|Unable to allocate|MemoryError|out of memory"
)


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
    """Log all options of a run in one line: `train: weights=, cfg=yolov5n.yaml, ...`; passwords in URLs are hidden."""
    text = ", ".join(f"{key}={value}" for key, value in options.items())
    LOGGER.info(colorstr(f"{Path(script).stem}: ") + re.sub(r"(\w://)[^/\s]+@", r"\1***@", text))


def size_text(imgsz: int | Sequence[int]) -> str:
    """Return an image size as --img takes it: `640`, or height and width as `384 640`."""
    return str(imgsz) if isinstance(imgsz, int) else " ".join(map(str, imgsz))


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it, at most eight characters: `45 s`, `12.3 min`, `5.6 h`, `3.1 days`."""
    for unit, size, limit in (("min", 60, 5970), ("h", 3600, 100_000)):
        if 99.5 <= seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s" if seconds < 99.5 else f"{seconds / 86400:.1f} days"


class ProgressBar(Generic[Item]):
    """Show how far a loop is: a bar on a terminal; elsewhere (nohup, CI, Docker) a line in the log every 30 seconds.

    Iterate over it, or call `update` in a `with` block.

    Args:
        items: what to iterate over; None for a loop that calls `update`.
        title: stands before the bar, and in the line; the attribute of this name may be changed.
        total: steps in all; None for the length of `items`, or for an unknown number.
        done: steps done before.
        unit: what a step is; bytes are shown in megabytes.
        shown: whether to show anything; of several processes one does.

    Attributes:
        plain: whether there are lines instead of a bar.
    """

    def __init__(
        self,
        items: Iterable[Item] = (),
        title: str = "",
        total: int | None = None,
        done: int = 0,
        unit: str = "steps",
        shown: bool = True,
    ) -> None:
        self.items, self.title, self.unit = items, title, unit
        self.total = len(items) if total is None and isinstance(items, Sized) and len(items) else total
        self.plain = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            desc=title, total=self.total, initial=done, bar_format=TQDM_BAR_FORMAT, disable=self.plain or not shown,
            unit="B" if unit == "bytes" else "it", unit_scale=unit == "bytes",
        )  # fmt: skip
        self.done = self._first = done
        self._start = self._told = time.monotonic()

    def __enter__(self) -> "ProgressBar[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self.items:
                yield item
                self.update()

    def update(self, steps: int = 1) -> None:
        """Count steps that are done, and show it if it is time."""
        self.done += steps
        self._bar.set_description_str(self.title, refresh=False)
        self._bar.update(steps)
        now = time.monotonic()
        if self.plain and now - self._told >= TELL_EVERY:
            self._told = now
            LOGGER.info(self.line(now - self._start))

    def line(self, seconds: float) -> str:
        """Return the line after `seconds`."""
        scale, unit = (1e6, "MB") if self.unit == "bytes" else (1, self.unit)
        if self.total is None:
            return f"{self.title}: {self.done / scale:.0f} {unit}, {duration(seconds)} so far"
        left = seconds * (self.total - self.done) / max(self.done - self._first, 1)
        return f"{self.title}: {self.done / scale:.0f} of {self.total / scale:.0f} {unit}, {duration(left)} left"


@contextmanager
def long_step(text: str) -> Iterator[None]:
    """Log what a long call inside the block is, and every 30 seconds that it still runs."""
    start, ended = time.monotonic(), Event()

    def tell() -> None:
        while not ended.wait(TELL_EVERY):
            LOGGER.info(f"{text}: {duration(time.monotonic() - start)} so far")

    LOGGER.info(f"{text}...")
    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def pause_collection() -> None:
    """Stop the garbage collector while a script loads its modules: these stay, and it would look through them often."""
    gc.disable()


def resume_collection() -> None:
    """Start the garbage collector again, and leave out what is loaded: at exit alone it costs half a second."""
    gc.freeze()
    gc.enable()


@contextmanager
def cli_errors() -> Iterator[None]:
    """Report user errors inside the block in one line and set the exit status, for the `main` of a script.

    ValueError, OSError (missing file, forbidden, disk full, ...) and too little memory end with status 1, Ctrl-C with
    130.
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
    except (MemoryError, RuntimeError) as e:
        if not isinstance(e, MemoryError) and not NO_MEMORY.search(str(e)):
            raise
        _log_traceback()
        reason = next(iter(str(e).strip().splitlines()), type(e).__name__)
        LOGGER.error(f"out of memory: {reason[:200]}. Try a smaller --img, --batch-size or --window")
        raise SystemExit(1) from None


def _log_traceback() -> bool:
    """Log the current exception in full if the user asked for it; return whether that was done."""
    verbose = os.environ.get("YOLOv5_VERBOSE", "").strip().lower() in ("1", "true", "yes", "on")
    if verbose:
        LOGGER.error(traceback.format_exc(), extra={"lines": True})
    return verbose


def emojis(str: str = "") -> str:
    """Return a text as this system's console can show it: on Windows without letters beyond ASCII."""
    return str.encode("ascii", "ignore").decode() if sys.platform == "win32" else str


def threaded(func: Callable[..., Any]) -> Callable[..., Thread]:
    """Decorate a function so that it runs in a thread of its own, which the call starts and returns."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Thread:
        thread = Thread(target=func, args=args, kwargs=kwargs)
        thread.start()
        return thread

    return wrapper


class TryExcept(ContextDecorator):
    """Go on after an error in a block or function, and log it.

    Args:
        msg: start of the log line.
    """

    def __init__(self, msg: str = "") -> None:
        self.msg = msg

    def __enter__(self) -> None:
        """Start the block."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        LOGGER.warning(f"{self.msg}{': ' if self.msg else ''}{error}")
        return True


def notebook_init(verbose: bool = True) -> ModuleType | None:
    """Log what the machine has, and return IPython's `display` module, None without IPython.

    Args:
        verbose: log the versions and the device.
    """
    import torch  # noqa: PLC0415  this file is also imported for --help, which does not wait for torch

    if verbose:
        device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
        LOGGER.info(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {device}. Setup complete")
    ipython = sys.modules.get("IPython")
    return ipython.display if ipython else None
