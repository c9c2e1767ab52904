"""Write the table of results in README.md from docs/measurements: `python -m benchmarks.results_table`."""

import csv
from statistics import mean
from typing import Any

from utils.paths import ROOT

MEASUREMENTS = ROOT / "docs/measurements"
README = ROOT / "README.md"
BEGIN, END = "<!-- written by python -m benchmarks.results_table -->\n", "<!-- end of the table -->"
TEACHERS = {"bccd.yaml": "muon-n-s0", "cplid.yaml": "cplid-muon-n-s0"}  # in conversion.csv
SCRATCH = {
    "`yolov5n` from scratch": ("models/yolov5n.yaml", "hyp.muon-small.yaml"),
    "`yolov5n-swinv2` from scratch": ("models/yolov5n-swinv2.yaml", "hyp.swinv2.yaml"),
}


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of a file of measurements."""
    with open(MEASUREMENTS / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def from_scratch(data: str, cfg: str, hyp: str) -> dict[str, float]:
    """Return mAP50-95 of the best epoch by seed: the first run of each, without further options."""
    found: dict[str, float] = {}
    for row in read("small-datasets.csv"):
        words = row["command"].split()
        wanted = {data, cfg, f"data/hyps/{hyp}", "''"} <= set(words)
        if wanted and not {"--teacher", "--close-mosaic"} & set(words):
            found.setdefault(row["seed"], float(row["best_map50_95"]))
    return found


def converted(data: str) -> tuple[dict[str, float], float | None]:
    """Return mAP50-95 by seed of twins that were converted with the default settings, and that of their teacher."""
    rows = [r for r in read("conversion.csv") if r["experiment"] == "a" and r["teacher"] == TEACHERS[data]]
    rows = [r for r in rows if r["steps"] != "0" and f"--data {data}" in r["command"]]
    return {r["seed"]: float(r["map50_95"]) for r in rows}, float(rows[0]["teacher_map50_95"]) if rows else None


def trained_on(data: str) -> dict[str, float]:
    """Return mAP50-95 by seed of the converted twins after 20 epochs more."""
    rows = [r for r in read("small-datasets.csv") if "its converted twin of seed" in r["note"]]
    return {r["seed"]: float(r["best_map50_95"]) for r in rows if data in r["command"].split()}


def cell(found: dict[str, float], teacher: Any = None) -> str:
    """Return mean and range of some seeds."""
    if not found:
        return "not yet"
    values = list(found.values())
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else " (one seed)"
    return f"{mean(values):.3f}{spread}" + (f"; that `yolov5n`: {teacher:.3f}" if teacher else "")


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| mAP50-95: mean (lowest to highest of three seeds) | BCCD | CPLID |", "| --- | --- | --- |"]
    for label, (cfg, hyp) in SCRATCH.items():
        lines.append(f"| {label} | " + " | ".join(cell(from_scratch(data, cfg, hyp)) for data in TEACHERS) + " |")
    label = "`yolov5n-swinv2` converted from a trained `yolov5n`, without labels"
    lines.append(f"| {label} | " + " | ".join(cell(*converted(data)) for data in TEACHERS) + " |")
    label = "converted, then trained for 20 epochs"
    lines.append(f"| {label} | " + " | ".join(cell(trained_on(data)) for data in TEACHERS) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
