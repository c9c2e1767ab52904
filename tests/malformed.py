"""A corpus of malformed inputs, made here, and what becomes of each: `python -m tests.malformed` prints the table.

Every case is built in a folder of its own beside sound files and read as a user would: by the check of a dataset and
then by the training's loader, or as model or hyperparameter file of a training. A case is

- accepted: harmless, no line about it, exit status 0;
- named: one line names its file (and line, of a text), the rest is used, exit status 0;
- refused: one line names it and the exit status is 1, because nothing usable is left.

No case may end in a traceback or change a file.
"""

import contextlib
import hashlib
import io
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from engine.training.checks import check_options
from engine.training.state import build_model, read_inputs
from tests.malformed_files import (
    GOOD_LINE,
    Case,
    coco_cases,
    encoded,
    image_cases,
    label_cases,
    list_cases,
    voc_cases,
)
from tests.malformed_yaml import MODEL, data_cases, hyp_cases, model_cases
from utils.console import LOGGER, cli_errors
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.datasets.dataset import main as check
from utils.hyp import Hyp
from utils.options.train import TrainOptions


class Result(NamedTuple):
    """What became of a case: exit status, lines of warnings and errors, anything printed past the logger."""

    status: int
    lines: list[str]
    noise: str


def corpus() -> list[Case]:
    """All cases."""
    return [
        *image_cases(),
        *label_cases(),
        *list_cases(),
        *coco_cases(),
        *voc_cases(),
        *data_cases(),
        *model_cases(),
        *hyp_cases(),
    ]


# Running --------------------------------------------------------------------------------------------------------------
def lay_out(folder: Path) -> None:
    """Write the sound files: a dataset of one training and one validation image, a model, hyperparameters."""
    for name in ("images", "labels", "clean"):
        (folder / name).mkdir(parents=True)
    (folder / "images/good.png").write_bytes(encoded("png"))
    (folder / "labels/good.txt").write_text(GOOD_LINE)
    (folder / "clean/ok.png").write_bytes(encoded("png"))
    (folder / "clean/ok.txt").write_text(GOOD_LINE)
    data = {"path": str(folder), "train": "images", "val": "clean", "names": ["a", "b"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL))
    (folder / "hyp.yaml").write_text(yaml.safe_dump({"lr0": 0.01}))


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, target of every link; the label caches are left out."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(root) / name
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif path.is_file() and path.suffix != ".cache":
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.suffix != ".cache":
                found[str(path)] = "other"
    return found


@contextlib.contextmanager
def _everything_printed() -> Iterator[io.StringIO]:
    """Catch what C libraries and Python print to the file descriptor of standard error; gives the text at the end."""
    text = io.StringIO()
    keep = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield text
        finally:
            os.dup2(keep, 2)
            os.close(keep)
            file.seek(0)
            text.write(file.read().decode(errors="replace"))


def perform(action: Callable[[], None]) -> Result:
    """Run what a script's main would; a traceback is status -1."""
    lines: list[str] = []
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())
            if record.levelno >= logging.WARNING:
                lines.append(record.getMessage())

    keeper, handlers = Keep(), LOGGER.handlers[:]
    LOGGER.handlers[:] = [keeper]
    status = 0
    try:
        with _everything_printed() as printed, warnings.catch_warnings(record=True) as warned:
            try:
                with cli_errors():
                    action()
            except SystemExit as end:
                status = int(end.code or 0)
            except Exception:  # noqa: BLE001 - this is what the corpus looks for
                status = -1
                lines.append(traceback.format_exc())
    finally:
        LOGGER.handlers[:] = handlers
    noise = printed.getvalue() + "".join(f"{w.filename}: {w.message}\n" for w in warned)
    return Result(status, lines, noise)


def read(case: Case, folder: Path) -> None:
    """Read a case as its user would."""
    if case.group == "hyp":
        Hyp.load(folder / "hyp.yaml")
    elif case.group == "model":
        options = TrainOptions(data=str(folder / "data.yaml"), cfg=str(folder / "model.yaml"), device="cpu")
        build_model(read_inputs(check_options(options)), folder)
    else:
        check(["CHECK", str(folder / "data.yaml")])


def train_on(folder: Path) -> None:
    """Load every sample of the training set as a training does, and look at the numbers."""
    data = check_dataset(folder / "data.yaml")
    loader, _ = create_dataloader(data["train"], 64, 1, 32, hyp=Hyp(), augment=True, nc=data["nc"], workers=0)
    for images, targets, _, _ in loader:
        assert images.shape[1:] == (3, 64, 64)
        assert targets.isfinite().all()
        assert ((targets[:, 1] >= 0) & (targets[:, 1] < data["nc"])).all()
        assert ((targets[:, 2:] >= 0) & (targets[:, 2:] <= 1)).all()


def complaints(case: Case, folder: Path) -> list[str]:
    """Build a case in an empty folder, read it, and return everything that is not as it should be."""
    lay_out(folder)
    case.build(folder)
    before = fingerprint(folder)
    result = perform(lambda: read(case, folder))
    wrong = judge(case, result)
    if case.outcome != "refused" and case.group not in ("model", "hyp"):
        loaded = perform(lambda: train_on(folder))
        if loaded.status:
            wrong.append(f"training set: {loaded.lines}")
    if case.outcome == "named" and case.group in ("image", "label") and not wrong:
        wrong += alone(case, folder)
    changed = [name for name, value in fingerprint(folder).items() if before.get(name, value) != value]
    gone = before.keys() - fingerprint(folder).keys() - {str(folder / "images/good.png")}
    return wrong + [f"changed: {name}" for name in changed] + [f"removed: {name}" for name in gone]


def alone(case: Case, folder: Path) -> list[str]:
    """Take the sound image away: with nothing usable left the exit status must be 1."""
    label = folder / "labels/bad.txt"
    small = case.group == "label" and label.is_file() and label.stat().st_size < 1 << 20
    content = label.read_bytes() if small else b""
    usable = b"\0" not in content and GOOD_LINE.strip().encode() in content.splitlines()
    (folder / "images/good.png").unlink()
    status = perform(lambda: read(case, folder)).status
    return [] if status == (0 if usable else 1) else [f"alone: exit status {status}"]


def judge(case: Case, result: Result) -> list[str]:
    """Compare what became of a case with what should."""
    wrong = []
    if result.status == -1:
        return [f"traceback: {result.lines[-1]}"]
    if result.status != (1 if case.outcome == "refused" else 0):
        wrong.append(f"exit status {result.status}: {result.lines}")
    if case.outcome == "accepted" and result.lines:
        wrong.append(f"not accepted: {result.lines}")
    if case.outcome == "named" and len(result.lines) != 1:
        wrong.append(f"{len(result.lines)} lines: {result.lines}")
    if case.outcome != "accepted" and not any(re.search(case.where, line) for line in result.lines):
        wrong.append(f"no line matches {case.where!r}: {result.lines}")
    if any("\n" in line or len(line) > 20_000 or re.search(r"[\x00-\x1f]", line) for line in result.lines):
        wrong.append(f"not one clear line: {[line[:300] for line in result.lines]}")
    if result.noise.strip():
        wrong.append(f"printed past the logger: {result.noise}")
    return wrong


def main() -> None:
    """Print the table; exit status 1 if a case is not as it should be."""
    kinds: dict[str, Counter] = {}
    failures = 0
    for case in corpus():
        with tempfile.TemporaryDirectory() as folder:
            wrong = complaints(case, Path(folder) / "set")
        kinds.setdefault(case.group, Counter())[case.outcome] += 1
        for text in wrong:
            failures += 1
            sys.stdout.write(f"{case.group}: {case.name}: {text}\n")
    sys.stdout.write(f"{'inputs':<8}{'cases':>7}{'accepted':>10}{'named':>7}{'refused':>9}\n")
    for group, n in [*kinds.items(), ("all", sum(kinds.values(), Counter()))]:
        sys.stdout.write(f"{group:<8}{n.total():>7}{n['accepted']:>10}{n['named']:>7}{n['refused']:>9}\n")
    sys.stdout.write(f"not as they should be: {failures} (a traceback, a changed file, a line past the logger too)\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
