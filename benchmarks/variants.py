"""Variants of a model file for the benchmarks: other windows and block options, trained one after the other."""

from pathlib import Path
from typing import Any

import train
from models.weights.checkpoint import load_checkpoint
from utils.files import yaml_load, yaml_save
from utils.paths import check_file

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
        if load_checkpoint(last)["optimizer"] is not None:  # the run was ended before its end
            train.run(resume=str(last))
    else:
        file = folder / f"{name}.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        yaml_save(file, table)
        train.run(cfg=str(file), project=str(folder), name=name, exist_ok=True, noplots=True, **options)
    return best
