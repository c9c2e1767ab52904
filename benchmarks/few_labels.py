"""How many labels a better start saves: mAP over the number of labelled images, for four starts.

    python -m benchmarks.few_labels --data my.yaml --teacher other.pt --cache --amp bf16
    python -m benchmarks.few_labels --data my.yaml --starts pretrained scratch --cache --amp bf16

The teacher is a convolutional YOLOv5 that was trained on other images. `converted` is its Swin twin, converted on the
training images of --data without their labels; `copied` is the twin with the weights that fit; `pretrained` has a
backbone that was pretrained on the same images (SimMIM), without a teacher; `scratch` starts from random weights. The
labelled images are the first N of the training images in an order drawn from the seed. Writes few_labels.csv and
few_labels.png into --project. Runs that are there are not run again.
"""

import argparse
import csv
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

import train
from engine import convert, pretrain
from engine.training.more_epochs import is_finished
from models.weights.checkpoint import load_checkpoint
from utils.console import LOGGER, cli_errors
from utils.datasets.dataset import check_dataset
from utils.datasets.lists import list_images
from utils.files import yaml_save

STYLES = {"converted": "-", "copied": "--", "pretrained": "-.", "scratch": ":"}
NEED_TEACHER = ("converted", "copied")
COLUMNS = ("start", "images", "seed", "epochs", "map50", "map50_95")
SCORES = ("metrics/mAP_0.5", "metrics/mAP_0.5:0.95")


def subset(opt: argparse.Namespace, count: int, seed: int) -> Path:
    """Write a dataset YAML with `count` of the training images, smaller ones being part of larger ones."""
    data = check_dataset(opt.data)
    files = sorted(map(str, list_images(data["train"])))
    random.Random(seed).shuffle(files)
    if count > len(files):
        raise ValueError(f"--images {count}: {opt.data} has {len(files)} training images")
    place = Path(opt.project) / f"few{count}-s{seed}"
    place.with_suffix(".txt").write_text("\n".join(sorted(files[:count])) + "\n")
    table = {"train": str(place.with_suffix(".txt").resolve()), "val": data["val"], "names": data["names"]}
    yaml_save(place.with_suffix(".yaml"), table)
    return place.with_suffix(".yaml")


def without_labels(start: str, opt: argparse.Namespace) -> str:
    """Return the checkpoint of a start that learns from all training images without labels; makes it once."""
    out = Path(opt.project) / f"{start}.pt"
    if not out.is_file():
        images = [str(Path(opt.project) / "images.txt")]
        Path(images[0]).write_text("\n".join(map(str, list_images(check_dataset(opt.data)["train"]))) + "\n")
        if start == "converted":
            convert.run(opt.teacher, cfg=opt.cfg, images=images, imgsz=opt.imgsz, out=str(out), device=opt.device)
        else:
            pretrain.run(
                cfg=opt.cfg, images=images, imgsz=opt.imgsz, batch_size=opt.batch_size, out=str(out), device=opt.device,
                amp=opt.amp, workers=opt.workers,
            )  # fmt: skip
    return str(out)


def start_from(start: str, opt: argparse.Namespace) -> dict[str, str]:
    """Return the options of train.py that begin a run with the weights of a start."""
    if start == "scratch":
        return {"weights": ""}
    if start == "copied":
        return {"weights": opt.teacher, "convert": "off"}
    return {"weights": without_labels(start, opt)}


def measure(start: str, count: int, epochs: int, seed: int, opt: argparse.Namespace) -> dict[str, Any]:
    """Train once, unless it is done; returns the row of the table, of the last epoch."""
    folder = Path(opt.project) / f"{start}-{count}-s{seed}"
    last = folder / "weights/last.pt"
    if not last.is_file():
        train.run(
            data=str(subset(opt, count, seed)), cfg=opt.cfg, epochs=epochs, seed=seed, imgsz=opt.imgsz,
            batch_size=opt.batch_size, device=opt.device, workers=opt.workers, cache=opt.cache, amp=opt.amp,
            project=opt.project, name=folder.name, exist_ok=True, noval=True, noplots=True,
            **start_from(start, opt),
        )  # fmt: skip
    elif not is_finished(load_checkpoint(last)):
        train.run(resume=str(last))
    with (folder / "results.csv").open() as file:
        final = list(csv.DictReader(file, skipinitialspace=True))[-1]
    scores = [round(float(final[key]), 4) for key in SCORES]
    return dict(zip(COLUMNS, (start, count, seed, epochs, *scores), strict=True))


def means(rows: list[dict[str, Any]], start: str) -> list[tuple[int, float]]:
    """Return number of images and mean of mAP50-95 over the seeds, in rising order."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row["start"] == start:
            values.setdefault(row["images"], []).append(row["map50_95"])
    return sorted((count, statistics.mean(found)) for count, found in values.items())


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the means over the number of images, and every run as a point."""
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for i, start in enumerate(start for start in STYLES if any(row["start"] == start for row in rows)):
        axis.plot(*zip(*means(rows, start), strict=True), STYLES[start], color=f"C{i}", label=start)
        points = [(row["images"], row["map50_95"]) for row in rows if row["start"] == start]
        axis.plot(*zip(*points, strict=True), ".", color=f"C{i}", alpha=0.6)
    counts = sorted({row["images"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.set_xlabel("images with labels")
    axis.set_ylabel("mAP50-95")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the means as a table."""
    counts = sorted({row["images"] for row in rows})
    lines = [f"| start | {' | '.join(map(str, counts))} |", "| --- " * (len(counts) + 1) + "|"]
    for start in dict.fromkeys(row["start"] for row in rows):
        found = dict(means(rows, start))
        lines.append(f"| {start} | {' | '.join(f'{found[c]:.3f}' if c in found else '' for c in counts)} |")
    return "\n".join(lines)


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="dataset YAML")
    add("--starts", nargs="+", choices=list(STYLES), default=["converted", "copied", "scratch"])
    add("--teacher", help="checkpoint of a convolutional YOLOv5, trained on other images; for converted and copied")
    add("--cfg", default="models/yolov5n-swinv2.yaml", help="model file of its Swin twin")
    add("--images", nargs="+", type=int, default=[25, 50, 100, 205], help="numbers of labelled images")
    add("--epochs", nargs="+", type=int, default=[160, 120, 80, 60], help="one for each of --images")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--imgsz", "--img", type=int, default=320, help="pixels")
    add("--batch-size", type=int, default=16)
    add("--device", default="", help="as in train.py")
    add("--workers", type=int, default=8)
    add("--cache", action="store_const", const="ram", help="as in train.py")
    add("--amp", default="auto", help="as in train.py")
    add("--project", default="runs/few_labels", help="folder for models and results")
    opt = parser.parse_args(argv)
    if len(opt.images) != len(opt.epochs):
        raise ValueError(f"--images has {len(opt.images)} numbers, --epochs {len(opt.epochs)}")
    if not opt.teacher and set(opt.starts) & set(NEED_TEACHER):
        raise ValueError("--teacher is missing: converted and copied start from it")
    return opt


def main(argv: list[str]) -> None:
    """Train what is missing, write table and plot."""
    opt = parse_opt(argv)
    folder = Path(opt.project)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        measure(start, count, epochs, seed, opt)
        for seed in opt.seeds
        for count, epochs in zip(opt.images, opt.epochs, strict=True)
        for start in opt.starts
    ]
    with (folder / "few_labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    draw(rows, folder / "few_labels.png")
    LOGGER.info(f"mAP50-95 of the last epoch, mean over {len(opt.seeds)} seeds\n\n{markdown(rows)}")


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
