"""Train the eight combinations of V1 and V2 parts for a short time: mAP and activation amplitude of each layer.

    python -m benchmarks.ablation --data my.yaml --epochs 20

The parts are those in which Swin V2 differs from V1: position bias (log-spaced network or learned table), attention
(cosine or dot product), and place of the norms (post or pre); compare the paper's figure 2 and its table of ablations.
The amplitude of a layer is the root mean square of the main branch behind each Swin block, over images of the
validation split. Writes ablation.json and ablation.png into --project. Trained models that are there are not trained
again.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import nn

import train
import val
from engine.training.more_epochs import is_finished
from models.common import SwinV2Block
from models.experimental import attempt_load
from models.weights.checkpoint import load_checkpoint
from utils.console import LOGGER, cli_errors
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.files import yaml_load, yaml_save
from utils.paths import check_file
from utils.torch_utils import select_device

COMBINATIONS = list(itertools.product(("log", "table"), ("cosine", "dot"), ("post", "pre")))
SWIN_ROWS = ("C3SwinV2", "SwinV2Stage")


def vary(cfg: str, window: int, options: dict[str, Any], drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the table of a model file with one window for all Swin rows and further keywords of their blocks.

    Args:
        cfg: model YAML.
        window: side in cells; also the trained one, so that the keyword of that name goes.
        options: keywords of the blocks, such as `bias="table"`.
        drop: keywords of the file that go.

    Raises:
        ValueError: the model has no Swin row.
    """
    table = yaml_load(check_file(cfg, (".yaml", ".yml")))
    rows = [row for row in table["backbone"] + table["head"] if row[2] in SWIN_ROWS]
    if not rows:
        raise ValueError(f"{cfg}: no row of {', '.join(SWIN_ROWS)}, so there is nothing to vary")
    for row in rows:
        args = row[3]
        keywords = args.pop() if isinstance(args[-1], dict) else {}
        kept = {key: value for key, value in keywords.items() if key not in (*drop, "pretrained_window", "window")}
        row[3] = [args[0], window, *args[2:], kept | options]
    return table


def train_variant(name: str, table: dict[str, Any], folder: Path, **options: Any) -> Path:
    """Train a table from scratch, or go on with its training, unless `folder` has the result; returns the best one."""
    best, last = (folder / name / f"weights/{which}.pt" for which in ("best", "last"))
    if last.is_file():
        if not is_finished(load_checkpoint(last)):
            train.run(resume=str(last))
    else:
        file = folder / f"{name}.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        yaml_save(file, table)
        # the hyperparameters with which README's figures were made
        run = {"hyp": "data/hyps/hyp.adamw-small.yaml", "exist_ok": True, "noplots": True}
        train.run(cfg=str(file), project=str(folder), name=name, **run, **options)
    return best


@torch.no_grad()
def amplitudes(model: nn.Module, opt: argparse.Namespace) -> list[float]:
    """Return the root mean square of what every Swin block puts out, in the order of the model."""
    sums: list[list[float]] = []
    hooks = []
    for block in (m for m in model.modules() if isinstance(m, SwinV2Block)):
        sums.append([0.0, 0])

        def add(_: nn.Module, __: Any, output: torch.Tensor, total: list[float] = sums[-1]) -> None:
            total[0] += output.double().square().sum().item()
            total[1] += output.numel()

        hooks.append(block.register_forward_hook(add))
    data = check_dataset(opt.data)
    loader, _ = create_dataloader(data["val"], opt.imgsz, opt.batch_size, 32, nc=data["nc"], workers=0)
    device = next(model.parameters()).device
    for images, *_ in itertools.islice(loader, opt.batches):
        model(images.to(device).float() / 255)
    for hook in hooks:
        hook.remove()
    return [(total / count) ** 0.5 for total, count in sums]


def measure(combination: tuple[str, str, str], opt: argparse.Namespace) -> dict[str, Any]:
    """Train one combination if need be, and score it."""
    bias, attention, norm = combination
    name = "-".join(combination)
    drop = ("norm_gain",) if opt.paper_start else ()
    table = vary(opt.cfg, opt.window, {"bias": bias, "attention": attention, "norm": norm}, drop)
    best = train_variant(
        name, table, Path(opt.project), data=opt.data, epochs=opt.epochs, imgsz=opt.imgsz, seed=opt.seed,
        batch_size=opt.batch_size, device=opt.device, workers=opt.workers,
    )  # fmt: skip
    model = attempt_load(best, select_device(opt.device), fuse=False)
    layers = amplitudes(model, opt)
    results, _, _ = val.run(
        opt.data, model=model.fuse(), imgsz=opt.imgsz, batch_size=opt.batch_size, workers=opt.workers, plots=False
    )
    row = {
        "bias": bias,
        "attention": attention,
        "norm": norm,
        "mAP50": float(results[2]),
        "mAP50-95": float(results[3]),
    }
    return row | {"amplitudes": layers, "ratio": max(layers) / max(min(layers), 1e-12)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table of the combinations, V2 first."""
    lines = [
        "| bias | attention | norm | mAP50 | mAP50-95 | largest / smallest amplitude |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['bias']} | {r['attention']} | {r['norm']} | {r['mAP50']:.4f} | {r['mAP50-95']:.4f} | {r['ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the amplitude of each layer; pre-norm is dashed."""
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for i, row in enumerate(rows):
        name = f"{row['bias']}, {row['attention']}, {row['norm']}: mAP {row['mAP50-95']:.3f}"
        style = {"linestyle": "--" if row["norm"] == "pre" else "-", "color": f"C{i // 2}"}
        axis.plot(range(1, len(row["amplitudes"]) + 1), row["amplitudes"], marker=".", label=name, **style)
    axis.set_yscale("log")
    axis.set_xlabel("Swin block")
    axis.set_ylabel("root mean square of the main branch")
    axis.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="dataset YAML")
    add("--cfg", default="models/yolov5n-swinv2.yaml", help="model file that is varied")
    add("--epochs", type=int, default=20)
    add("--imgsz", "--img", type=int, default=320, help="pixels")
    add("--batch-size", type=int, default=16)
    add("--window", type=int, default=8, help="cells")
    add("--batches", type=int, default=4, help="batches of the validation split for the amplitudes")
    add("--paper-start", action="store_true", help="norms start as in the papers (post 0, pre 1), not as in --cfg")
    add("--seed", type=int, default=0)
    add("--device", default="", help="as in train.py")
    add("--workers", type=int, default=8)
    add("--project", default="runs/ablation", help="folder for models and results")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Train what is missing, measure, write table and plot."""
    opt = parse_opt(argv)
    folder = Path(opt.project)
    rows = [measure(combination, opt) for combination in COMBINATIONS]
    (folder / "ablation.json").write_text(json.dumps({"options": vars(opt), "rows": rows}, indent=1))
    draw(rows, folder / "ablation.png")
    LOGGER.info(f"{opt.epochs} epochs at {opt.imgsz} px\n\n{markdown(rows)}")


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
