"""Score models at windows and image sizes that they were not trained for, without fine-tuning (paper, table 2).

    python -m benchmarks.window_transfer --data my.yaml --epochs 100
    python -m benchmarks.window_transfer --data my.yaml --weights log=a.pt linear=b.pt table=c.pt --windows 8 16

Three models are trained at one window, alike but for their position bias: a network on log-spaced offsets, one on
linear offsets, and one learned number for every offset (Swin V1), which is interpolated for other windows. Each is then
validated at every window with the image size of its training, and at every image size with the window of its training.
Writes window_transfer.json and window_transfer.png into --project. Trained models that are there are not trained again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

import val
from benchmarks.ablation import train_variant, vary
from models.experimental import attempt_load
from utils.console import LOGGER, cli_errors
from utils.torch_utils import select_device

BIASES = ("log", "linear", "table")
LABELS = {"log": "log-spaced network", "linear": "linear network", "table": "table, interpolated (V1)"}


def score(weights: str | Path, window: int, imgsz: int, opt: argparse.Namespace) -> dict[str, float]:
    """Return mAP50 and mAP50-95 of a checkpoint at a window and an image size."""
    model = attempt_load(weights, select_device(opt.device), fuse=False)
    model.set_window(window)
    results, _, _ = val.run(
        opt.data, model=model.fuse(), imgsz=imgsz, batch_size=opt.batch_size, workers=opt.workers, plots=False
    )
    return {"mAP50": float(results[2]), "mAP50-95": float(results[3])}


def measure(files: dict[str, Path], opt: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each model and each window or image size."""
    points = [(window, opt.imgsz) for window in opt.windows]
    points += [(opt.train_window, size) for size in opt.sizes if (opt.train_window, size) not in points]
    rows = []
    for bias, weights in files.items():
        for window, imgsz in points:
            row = {"bias": bias, "window": window, "imgsz": imgsz, **score(weights, window, imgsz, opt)}
            rows.append(row)
            LOGGER.info(f"{bias:>7} window {window:>2} image {imgsz}: mAP50 {row['mAP50']:.4f}, {row['mAP50-95']:.4f}")
    return rows


def markdown(rows: list[dict[str, Any]], opt: argparse.Namespace) -> str:
    """Return two tables of mAP50-95: by window and by image size."""
    tables = []
    for key, other, fixed, values in (
        ("window", "imgsz", opt.imgsz, opt.windows), ("imgsz", "window", opt.train_window, opt.sizes),
    ):  # fmt: skip
        lines = [f"| {key} | {' | '.join(map(str, values))} |", "|---" * (len(values) + 1) + "|"]
        for bias in dict.fromkeys(row["bias"] for row in rows):
            at = {row[key]: row["mAP50-95"] for row in rows if row["bias"] == bias and row[other] == fixed}
            lines.append(f"| {LABELS[bias]} | {' | '.join(f'{at[v]:.4f}' if v in at else '' for v in values)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def draw(rows: list[dict[str, Any]], opt: argparse.Namespace, file: Path) -> None:
    """Draw mAP50-95 over the window and over the image size."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, key, other, fixed in (
        (axes[0], "window", "imgsz", opt.imgsz), (axes[1], "imgsz", "window", opt.train_window),
    ):  # fmt: skip
        for bias in dict.fromkeys(row["bias"] for row in rows):
            points = sorted((r[key], r["mAP50-95"]) for r in rows if r["bias"] == bias and r[other] == fixed)
            axis.plot(*zip(*points, strict=True), marker="o", label=LABELS[bias])
        axis.axvline(opt.train_window if key == "window" else opt.imgsz, color="0.8", zorder=0)
        axis.set_xlabel("window, cells" if key == "window" else "image size, pixels")
    axes[0].set_ylabel("mAP50-95, no fine-tuning")
    axes[0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def parse_weights(items: list[str]) -> dict[str, Path]:
    """Read `log=a.pt`.

    Raises:
        ValueError: another form, or a bias that there is not.
    """
    files = dict(item.partition("=")[::2] for item in items)
    for bias, path in files.items():
        if bias not in BIASES or not path:
            raise ValueError(f"--weights {bias}={path}: the form is BIAS=FILE, BIAS one of {', '.join(BIASES)}")
    return {bias: Path(path) for bias, path in files.items()}


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="dataset YAML")
    add("--cfg", default="models/yolov5n-swinv2.yaml", help="model file that is varied")
    add("--weights", nargs="+", default=[], metavar="BIAS=FILE", help="trained models instead of training")
    add("--biases", nargs="+", default=BIASES, choices=BIASES, help="models to train")
    add("--epochs", type=int, default=100)
    add("--imgsz", "--img", type=int, default=320, help="size of the training, and of the scores by window, pixels")
    add("--batch-size", type=int, default=16)
    add("--train-window", type=int, default=8, help="window of the training, cells")
    add("--windows", nargs="+", type=int, default=[4, 8, 10, 12, 16, 20])
    add("--sizes", nargs="+", type=int, default=[224, 320, 416, 512, 640], help="image sizes, pixels")
    add("--seed", type=int, default=0)
    add("--device", default="", help="as in train.py")
    add("--workers", type=int, default=8)
    add("--project", default="runs/window_transfer", help="folder for models and results")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Train what is missing, score, write table and plot."""
    opt = parse_opt(argv)
    folder = Path(opt.project)
    folder.mkdir(parents=True, exist_ok=True)
    files = parse_weights(opt.weights) or {
        bias: train_variant(
            bias, vary(opt.cfg, opt.train_window, {"bias": bias}), folder, data=opt.data, epochs=opt.epochs,
            imgsz=opt.imgsz, batch_size=opt.batch_size, seed=opt.seed, device=opt.device, workers=opt.workers,
        )
        for bias in opt.biases
    }  # fmt: skip
    rows = measure(files, opt)
    (folder / "window_transfer.json").write_text(json.dumps({"options": vars(opt), "rows": rows}, indent=1))
    draw(rows, opt, folder / "window_transfer.png")
    LOGGER.info(
        f"mAP50-95 without fine-tuning, trained at window {opt.train_window}, {opt.imgsz} px\n\n{markdown(rows, opt)}"
    )


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
