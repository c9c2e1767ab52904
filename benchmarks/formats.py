"""Export a checkpoint to every format that is installed, and measure size, mAP, time and difference side by side.

    python -m benchmarks.formats --weights best.pt --data my.yaml --img 320

All formats see the same square frames, so their mAP can be compared. The times are medians of runs in which the formats
take turns, one image at a time, in one process; the ratio is to PyTorch eager. The table is written as formats.csv
and drawn as formats.png into the folder of the weights.
"""

import argparse
import csv
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import export
import val
from benchmarks.tables import take_turns
from engine.exporters.compare import Difference, measure
from models.runtimes.backends import DetectMultiBackend
from utils.console import LOGGER, cli_errors
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.options.formats import EXPORTS, output_path

COLUMNS = ("format", "MB", "mAP50", "mAP50-95", "ms", "ratio", "relative", "score")


def variants(include: list[str], int8: bool) -> list[tuple[str, bool]]:
    """Return (format, int8) of what is to be measured; int8 for those that can."""
    rows = [(word, False) for word in include]
    return rows + [(word, True) for word in include if int8 and "int8" in EXPORTS[word].options]


def write(opt: argparse.Namespace, word: str, int8: bool) -> Path | None:
    """Export, or return None with a warning where a package is missing or the format fails."""
    try:
        return export.run(opt.data, opt.weights, opt.imgsz, include=[word], int8=int8)[0]
    except ValueError as error:
        LOGGER.warning(f"{word}{' int8' * int8} left out: {error}")
        found = output_path(opt.weights, word, int8)
        return found if found.exists() and opt.reuse else None


def score(model: DetectMultiBackend, data: dict[str, Any], imgsz: int) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 in square frames."""
    loader, _ = create_dataloader(data["val"], imgsz, 8, model.stride, nc=data["nc"], workers=0)
    results, _, _ = val.run(data, model=model, dataloader=loader, plots=False, imgsz=imgsz)
    return results[2], results[3]


def differ(model: DetectMultiBackend, reference: DetectMultiBackend, data: dict[str, Any], imgsz: int) -> Difference:
    """Return the largest difference from PyTorch on the first 16 images of the validation split."""
    loader, _ = create_dataloader(data["val"], imgsz, 1, model.stride, nc=data["nc"], workers=0)
    worst = Difference()
    with torch.inference_mode():
        for i, (images, *_) in enumerate(loader):
            if i == 16:
                break
            found = model(images.float() / 255)
            boxes = found[0] if isinstance(found, list) else found  # of the checkpoint with its raw maps
            worst |= measure(reference(images.float() / 255)[0], boxes)
    return worst


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw time against mAP."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.add_subplot()
    for row in rows:
        ax.scatter(row["ms"], row["mAP50-95"], s=12 * row["MB"])
        ax.annotate(row["format"], (row["ms"], row["mAP50-95"]), textcoords="offset points", xytext=(6, 6))
    ax.set(xlabel="milliseconds per image (median)", ylabel="mAP50-95", title="Area: size of the file")
    ax.margins(0.15)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument("--data", default="data/demo.yaml", help="dataset YAML")
    parser.add_argument("--imgsz", "--img", type=int, default=320, help="side of the frames")
    parser.add_argument("--include", nargs="+", default=[word for word in EXPORTS if EXPORTS[word].cpu], help="formats")
    parser.add_argument("--int8", action="store_true", help="also in 8 bits, where the format can")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each format")
    parser.add_argument("--reuse", action="store_true", help="measure a file of an earlier run where the export fails")
    opt = parser.parse_args()
    data = check_dataset(opt.data)
    files = {"PyTorch": Path(opt.weights)}
    for word, int8 in variants(opt.include, opt.int8):
        written = write(opt, word, int8)
        if written:
            files[EXPORTS[word].name + " int8" * int8] = written
    models = {name: DetectMultiBackend(file) for name, file in files.items()}
    image = torch.rand(1, 3, opt.imgsz, opt.imgsz)
    with torch.inference_mode():
        times = take_turns({name: partial(model, image) for name, model in models.items()}, opt.repeats, warmup=2)
    rows = []
    for name, model in models.items():
        gap = differ(model, models["PyTorch"], data, opt.imgsz)
        numbers = (
            export.size_mb(files[name]),
            *score(model, data, opt.imgsz),
            times[name] * 1e3,
            times[name] / times["PyTorch"],
            gap.relative,
            gap.scores,
        )
        rows.append(dict(zip(COLUMNS, (name, *numbers), strict=True)))
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]:
        LOGGER.info("  ".join(f"{v:<14}" if isinstance(v, str) else f"{v:<14.4g}" for v in row.values()))
    folder = Path(opt.weights).parent
    with (folder / "formats.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, folder / "formats.png")


if __name__ == "__main__":
    with cli_errors():
        main()
