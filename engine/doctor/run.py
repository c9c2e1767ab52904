"""The program: read the dataset, run the checks, write log, JSON and page, decide about the exit status."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.doctor.checks import CHECKS, PIXELS, chosen_ids, examine, skipped
from engine.doctor.dataset import Dataset, DoctorSplit, head_settings, read_dataset
from engine.doctor.findings import Finding, count_by_severity, in_words
from engine.doctor.page import write_page
from models.experimental import attempt_load
from models.image_size import square_or_both
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.datasets.dataset import check_dataset
from utils.datasets.tiles import tile_sides
from utils.downloads.official_weights import find_weights
from utils.files import write_whole
from utils.options.doctor import DoctorOptions
from utils.options.table import takes_options
from utils.paths import VERSION, check_file

EDGES = (0, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, np.inf)  # of the shorter side of boxes in net pixels


def model_settings(cfg: str, weights: str = "") -> dict[str, Any]:
    """Return anchors in pixels and smallest stride of a model YAML or checkpoint, as settings of `Dataset`."""
    if cfg and weights:
        raise ValueError(f"--cfg {cfg} --weights {weights}: the anchors of one model count, give one of them")
    if weights:
        return head_settings(attempt_load(find_weights(weights)).detect)
    if not cfg:
        return {}
    model = DetectionModel(check_file(cfg, (".yaml", ".yml")), verbose=False)
    return head_settings(model.detect)


def why_unusable(data: Dataset) -> list[str]:
    """Return why there can be no training, [] if there can."""
    reasons = [f"{name} cannot be read" for name in data.unreadable if name != "test"]
    for name, split in data.splits.items():
        if not split.im_files and name != "test":
            reasons.append(f"{name} has no usable image")
        elif not len(split.flat) and name == "train":
            reasons.append("train has no label")
    return reasons


def summary_of(data: Dataset, split: DoctorSplit) -> dict[str, Any]:
    """Return the numbers of one split for JSON and page."""
    missing, empty = split.backgrounds
    labels, images = split.classes(len(data.names))
    counts = np.histogram(data.net_sides(split).min(1), EDGES)[0]
    return {
        "images": len(split.im_files), "labels": len(split.flat),
        "backgrounds": {"empty": len(empty), "missing": len(missing)},
        "left_out": len(split.listed) - len(split.im_files),
        "classes": {
            f"{c}": {"name": name, "labels": int(labels[c]), "images": int(images[c])}
            for c, name in data.names.items()
        },
        "net_side": {"edges": [*EDGES[:-1], None], "counts": counts.tolist()},
    }  # fmt: skip


def log_findings(data: Dataset, findings: list[Finding], seconds: float) -> None:
    """Log each finding in a line by its severity, then the numbers of the splits and a last line with all."""
    for finding in findings:
        if finding.severity == "note":
            LOGGER.info(f"note: {finding}")
        else:
            (LOGGER.error if finding.severity == "error" else LOGGER.warning)(str(finding))
    totals = np.zeros(4, int)
    for split in data.splits.values():
        numbers = (
            len(split.im_files), len(split.flat), sum(map(len, split.backgrounds)),
            len(split.listed) - len(split.im_files),
        )  # fmt: skip
        totals += numbers
        LOGGER.info("{}: {} images, {} labels, {} backgrounds, {} images left out".format(split.name, *numbers))
    counts = count_by_severity(findings)
    LOGGER.info(
        "all: {} images, {} labels, {} backgrounds, {} images left out, {} problems, {}, {:.1f} s".format(
            *totals, counts["error"] + counts["warning"], in_words(counts), seconds
        )
    )


def to_json(
    data: Dataset, findings: list[Finding], o: DoctorOptions, ids: set[str], seconds: float, status: int
) -> str:
    """Return everything that was found as JSON text."""
    known = {id for check in CHECKS for id in check.ids}
    return json.dumps(
        {
            "format": 1, "program": VERSION, "data": data.file, "img": data.imgsz, "stride": data.stride,
            "status": status, "seconds": round(seconds, 1), "fast": o.fast, "skipped": sorted(known - ids),
            "splits": {name: summary_of(data, split) for name, split in data.splits.items()},
            "counts": count_by_severity(findings), "findings": [finding.to_json() for finding in findings],
        },
        indent=1, allow_nan=False,
    )  # fmt: skip


@takes_options(DoctorOptions)
def run(options: DoctorOptions) -> list[Finding]:
    """Check a dataset.

    Args:
        options: fields of `DoctorOptions` as arguments, such as `run("my.yaml", imgsz=320)`.

    Returns:
        What was found, the worst first.

    Raises:
        ValueError, FileNotFoundError: nothing usable is left, `strict` asks for it, or an option or file is wrong.
    """
    o, start = options, time.perf_counter()
    for option, file in (("--json", o.json), ("--html", o.html)):
        if not Path(file).absolute().parent.is_dir():  # told before the checks, which take long
            raise FileNotFoundError(f"{option} {file}: there is no folder {Path(file).parent}")
    content = check_dataset(o.data, classes=o.classes)
    ids = chosen_ids(o.only, [*o.skip, *skipped(content)])
    if o.fast:
        ids -= {id for check in CHECKS if check.cost == PIXELS for id in check.ids}
        if not ids:
            raise ValueError(f"--fast --only {' '.join(o.only)}: no check is left")
    data = read_dataset(
        content,
        imgsz=square_or_both(o.imgsz),
        tile=tile_sides(o.slice),
        limit=o.limit,
        **model_settings(o.cfg, o.weights),
    )
    findings = examine(data, ids)
    counts, unusable = count_by_severity(findings), why_unusable(data)
    bad = counts["error"] + (counts["warning"] if o.strict != "errors" else 0)
    status, seconds = int(bool(unusable) or (bool(o.strict) and bad > 0)), time.perf_counter() - start
    log_findings(data, findings, seconds)
    if o.json:
        text = to_json(data, findings, o, ids, seconds, status)
        if o.json == "-":
            sys.stdout.write(text + "\n")
        else:
            write_whole(o.json, text.encode())
    if o.html:
        write_page(o.html, data, findings, unusable)
        LOGGER.info(f"Page: {o.html}")
    if unusable:
        raise ValueError(f"{o.data}: nothing usable is left: {'; '.join(unusable)}")
    if status:
        raise ValueError(f"{o.data}: {bad} problems, see above")
    return findings


def main(opt: argparse.Namespace) -> list[Finding]:
    """Check with the given options."""
    return run(**vars(opt))
