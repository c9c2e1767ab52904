"""What an export has written, and the commands that use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.console import LOGGER
from utils.datasets.dataset import check_dataset
from utils.datasets.reader import Split
from utils.files import yaml_load
from utils.options.export import ExportOptions
from utils.options.formats import Format
from utils.paths import command


@dataclass(frozen=True)
class Outcome:
    """The outcome of one format, made of weights with options: `file` is None and `error` set if it failed."""

    format: Format
    weights: Path
    options: ExportOptions
    file: Path | None = None
    error: str = ""
    seconds: float = 0.0


def size_mb(file: Path) -> float:
    """Return the size of a file, or of all files of a folder, in 1e6 bytes."""
    files = [f for f in file.rglob("*") if f.is_file()] if file.is_dir() else [file]
    return sum(f.stat().st_size for f in files) / 1e6


def log_summary(outcomes: Sequence[Outcome]) -> None:
    """Log a table of all formats, and commands that use the files."""
    LOGGER.info(f"\n{'format':<14}{'MB':>9}{'s':>8}  file")
    for outcome in outcomes:
        if outcome.file is None:
            LOGGER.info(f"{outcome.format.name:<14}{'-':>9}{'-':>8}  failed, see above")
        else:
            LOGGER.info(
                f"{outcome.format.name:<14}{size_mb(outcome.file):>9.1f}{outcome.seconds:>8.1f}  {outcome.file}"
            )
    for outcome in outcomes:
        for line in usage(outcome):
            LOGGER.info(line)


def usage(outcome: Outcome) -> list[str]:
    """Return the commands that detect with a file and validate it; none where no runtime of this program reads it.

    The dataset is that of --data, else that of the training run. Where neither is there, a word in capitals takes its
    place.
    """
    row, (height, width) = outcome.format, outcome.options.imgsz
    if outcome.file is None or not (row.cpu or row.gpu) or outcome.options.raw_heads:
        return []
    record = outcome.weights.absolute().parent.parent / "opt.yaml"
    run = yaml_load(record) if outcome.weights.absolute().parent.name == "weights" and record.is_file() else {}
    data, source = outcome.options.data or run.get("data") or "", "IMAGES"
    data = data if isinstance(data, str | Path) else ""  # Python may give the content of a YAML
    try:
        images = Split.of(check_dataset(data)["val"]).images
        source = images if isinstance(images, str) else source
    except (ValueError, OSError):
        data = ""
    size = [height] if height == width else [height, width]
    words = ["--weights", outcome.file, "--img", *size, *([] if row.cpu else ["--device", 0])]
    chosen = ["--single-cls"] if run.get("single_cls") else []
    chosen += ["--classes", *map(str, run["classes"])] if run.get("classes") else []
    return [
        command("python", "detect.py", *map(str, words), "--source", source),
        command("python", "val.py", *map(str, words), "--data", data if data else "DATASET.yaml", *chosen),
    ]
