"""Train a small slice of a data set with each option of train.py: does it run, are its files there, are losses sane?

    python -m benchmarks.options                                   # the drawn demonstration set
    python -m benchmarks.options --data my.yaml --images 32 --only rect quad

The slice is copied, so nothing is written beside the data set. A training passes if it ends, leaves every file of a
run, and has finite losses whose sum in the last epoch is below `SANE` times that of the first. The rows go into
options.md in --project, those of other calls are kept. Exit status 1 if one fails.
"""

import argparse
import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train
from utils.console import LOGGER, cli_errors
from utils.datasets.dataset import check_dataset, load_labels
from utils.files import yaml_load, yaml_save
from utils.paths import ROOT

SMALL = {"depth_multiple": 0.33, "width_multiple": 0.25}  # of yolov5n, for tables that come in one size
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "optimizer-SGD": {"optimizer": "SGD"},
    "optimizer-Adam": {"optimizer": "Adam"},
    "optimizer-AdamW": {"optimizer": "AdamW"},
    "rect": {"rect": True},
    "quad": {"quad": True},
    "multi-scale": {"multi_scale": True},
    "image-weights": {"image_weights": True},
    "cache-ram": {"cache": "ram"},
    "cache-disk": {"cache": "disk"},
    "single-cls": {"single_cls": True},
    "label-smoothing": {"label_smoothing": 0.1},
    "freeze-9": {"freeze": 9},
    "freeze-backbone": {"freeze": "backbone"},
    "cos-lr": {"cos_lr": True},
    "p6": {"cfg": "models/hub/yolov5n6.yaml"},
    "p2": {"cfg": "models/hub/yolov5-p2.yaml"},
    "swinv2": {"cfg": "models/yolov5n-swinv2.yaml"},
}
FILES = [
    *("weights/last.pt", "weights/best.pt", "results.csv", "results.png", "hyp.yaml", "opt.yaml", "labels.jpg"),
    *("train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "confusion_matrix.png"),
    *("PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"),
]
SANE = 1.3  # two epochs lie within the warmup: the losses may stand still, but not rise much
HEADER = (
    "| option | runs | s | files | box, obj, cls loss of first and last epoch | sane |\n|---|---|---|---|---|---|\n"
)


def copy_slice(data: str, images: int, folder: Path) -> Path:
    """Copy the first images of both splits with their labels; return the YAML of the copy."""
    source = check_dataset(data)
    for split in ("train", "val"):
        found = load_labels(source[split], nc=source["nc"])
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for i, (file, labels) in enumerate(zip(found.im_files[:images], found.labels[:images], strict=True)):
            copy = folder / "images" / split / f"{i}{Path(file).suffix}"
            shutil.copyfile(file, copy)
            rows = "".join(f"{int(c)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in labels.tolist())
            (folder / "labels" / split / f"{i}.txt").write_text(rows)
    names = {"names": source["names"], "path": str(folder.resolve())}
    yaml_save(folder / "slice.yaml", {"train": "images/train", "val": "images/val"} | names)
    return folder / "slice.yaml"


def losses(run: Path) -> list[list[float]]:
    """Return box, objectness and class loss of each epoch of a run."""
    with (run / "results.csv").open(newline="") as file:
        return [[float(cell) for cell in row[1:4]] for row in list(csv.reader(file))[1:]]


def small_model(cfg: str, folder: Path) -> str:
    """Return a model file, a copy of the smallest size if it comes in the largest one."""
    table = yaml_load(ROOT / cfg)
    if table["width_multiple"] <= SMALL["width_multiple"] or "swinv2" in cfg:
        return cfg
    yaml_save(folder / Path(cfg).name, table | SMALL)
    return str(folder / Path(cfg).name)


def measure(name: str, opt: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Train one case; return its row of the table."""
    settings = {"cfg": "models/yolov5n.yaml"} | CASES[name]
    settings["cfg"] = small_model(settings["cfg"], data.parent)
    shutil.rmtree(opt.project / name, ignore_errors=True)
    start = time.perf_counter()
    train.run(
        data=str(data), weights="", imgsz=opt.imgsz, batch_size=opt.batch_size, epochs=opt.epochs, workers=0,
        project=str(opt.project), name=name, **settings,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    folder = opt.project / name
    found = losses(folder)
    missing = [file for file in FILES if not (folder / file).is_file()]
    finite = all(math.isfinite(value) and value >= 0 for row in found for value in row)
    sane = finite and len(found) == opt.epochs and sum(found[-1]) < SANE * sum(found[0])
    return {"name": name, "seconds": seconds, "missing": missing, "losses": [found[0], found[-1]], "sane": sane}


def table_row(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    texts = " -> ".join(", ".join(f"{value:.4f}" for value in values) for values in row["losses"])
    files = f"missing {', '.join(row['missing'])}" if row["missing"] else f"all {len(FILES)}"
    return f"| {row['name']} | yes | {row['seconds']:.0f} | {files} | {texts} | {'yes' if row['sane'] else 'NO'} |\n"


def parse_opt(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="data/demo.yaml", help="data set YAML")
    add("--images", type=int, default=16, help="images of each split")
    add("--imgsz", type=int, default=128, help="pixels")
    add("--batch-size", type=int, default=4)
    add("--epochs", type=int, default=2)
    add("--only", nargs="+", choices=CASES, default=list(CASES), help="some of the options")
    add("--project", type=Path, default=ROOT / "runs/options", help="folder of the trainings and of options.md")
    return parser.parse_args(argv)


def main(opt: argparse.Namespace) -> None:
    """Train the cases and write the table."""
    data = copy_slice(opt.data, opt.images, opt.project / f"data{opt.images}")
    record = opt.project / "options.json"
    rows = json.loads(record.read_text()) if record.is_file() else {}
    for name in opt.only:
        rows[name] = measure(name, opt, data)
        record.write_text(json.dumps(rows))
        (opt.project / "options.md").write_text(HEADER + "".join(table_row(rows[n]) for n in CASES if n in rows))
    LOGGER.info("\n" + (opt.project / "options.md").read_text())
    bad = [name for name in opt.only if rows[name]["missing"] or not rows[name]["sane"]]
    if bad:
        raise ValueError(f"not as it should be: {', '.join(bad)}")


if __name__ == "__main__":
    with cli_errors():
        main(parse_opt(sys.argv[1:]))
