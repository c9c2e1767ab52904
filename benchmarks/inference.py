"""What detection costs: latency of each way to run a model, NMS, and val.py from end to end.

    python -m benchmarks.inference --weights best.pt --data my.yaml --img 320
    python -m benchmarks.inference --weights best.pt --parts nms

The ways take turns in one process; the ratio is to the plain model in evaluation mode, NCHW, not fused. A way whose
package is missing is left out with a warning. NMS is compared with torchvision's `batched_nms` on the same boxes.
`val.py` runs as from the command line, without plots; its share of the model is that of the time from the first batch
to the end.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

import export
import val
from benchmarks.tables import log_table, save_json, take_turns
from models.experimental import attempt_load
from models.runtimes.backends import DetectMultiBackend
from utils.callbacks import Callbacks
from utils.console import LOGGER, cli_errors
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.nms import Candidates, batched_nms, non_max_suppression
from utils.torch_utils import select_device

PARTS = ("latency", "nms", "val")
FILES = ("torchscript", "onnx", "openvino")
NMS_ROWS, NMS_CLASSES = 25_200, 80  # of yolov5 at 640 x 640 on COCO
VAL_ROWS = 6_300  # at 320 x 320


# Latency --------------------------------------------------------------------------------------------------------------
def ways_to_run(weights: Path, batch: int, imgsz: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return functions that run one batch of random images in every way that is installed."""
    images = torch.rand(batch, 3, imgsz, imgsz)
    last = images.to(memory_format=torch.channels_last)
    models = {
        "eager": (attempt_load(weights, fuse=False), images),
        "fused": (attempt_load(weights), images),
        "channels_last": (attempt_load(weights, fuse=False).to(memory_format=torch.channels_last), last),
        "fused channels_last": (attempt_load(weights).to(memory_format=torch.channels_last), last),
        "backend .pt": (DetectMultiBackend(weights), images),
        "compiled": (torch.compile(attempt_load(weights).to(memory_format=torch.channels_last)), last),
    }
    copy = folder / f"{weights.stem}-{batch}.pt"
    shutil.copy(weights, copy)
    for word in FILES:
        try:
            (file,) = export.run(weights=copy, include=[word], imgsz=imgsz, batch_size=batch)
            models[word] = (DetectMultiBackend(file), images)
        except ValueError as error:
            LOGGER.warning(f"{word} left out: {error}")
    return {name: partial(model, x) for name, (model, x) in models.items()}


def measure_latency(opt: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each batch size and way."""
    rows = []
    for batch in opt.batch:
        with tempfile.TemporaryDirectory(prefix="formats-") as folder:
            ways = ways_to_run(Path(opt.weights), batch, opt.imgsz, Path(folder))
            with torch.inference_mode():
                seconds = take_turns(ways, opt.repeats, warmup=2)
        rows += [
            {"batch": batch, "way": name, "ms per image": s / batch * 1e3, "times as fast": seconds["eager"] / s}
            for name, s in seconds.items()
        ]
    return rows


# NMS ------------------------------------------------------------------------------------------------------------------
def crowded_rows(rows: int, candidates: int, classes: int, objects: int = 100, size: int = 640) -> Tensor:
    """Return a prediction (1, rows, 5 + classes) of boxes around a few objects, `candidates` of them above 0.25."""
    g = torch.Generator().manual_seed(0)
    centres = torch.rand(objects, 2, generator=g) * size
    which = torch.randint(objects, (rows,), generator=g)
    y = torch.zeros(1, rows, 5 + classes)
    y[0, :, :2] = centres[which] + 4 * torch.randn(rows, 2, generator=g)
    y[0, :, 2:4] = 40 + 10 * torch.randn(rows, 2, generator=g).abs()
    y[0, :candidates, 4] = 0.5 + 0.5 * torch.rand(candidates, generator=g)
    y[0, :, 5:] = 0.2 * torch.rand(rows, classes, generator=g)
    y[0, torch.arange(rows), 5 + which % classes] = 0.6 + 0.4 * torch.rand(rows, generator=g)
    return y[:, torch.randperm(rows, generator=g)]


def measure_nms(opt: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows of the whole function and of the suppression alone, beside torchvision on the same boxes."""
    rows = []
    for candidates in (10, 1_000, 10_000):
        prediction = crowded_rows(NMS_ROWS, candidates, NMS_CLASSES)
        boxes, conf, cls = Candidates(prediction[0], 0.25, None, multi_label=False).first(NMS_ROWS)
        found = non_max_suppression(prediction, 0.25, 0.45, max_det=NMS_ROWS)[0]
        kept = torchvision.ops.batched_nms(boxes, conf, cls, 0.45)
        if len(found) != len(kept):  # float32 coordinates, shifted per class, may judge an overlap otherwise
            LOGGER.warning(f"{candidates} candidates: {len(found)} survive, {len(kept)} with torchvision in float32")
        seconds = take_turns(
            {
                "from raw rows": partial(non_max_suppression, prediction, 0.25, 0.45),
                "suppression": partial(batched_nms, boxes, conf, cls, 0.45),
                "torchvision": partial(torchvision.ops.batched_nms, boxes, conf, cls, 0.45),
            },
            opt.repeats,
        )
        rows += [
            {
                "rows": NMS_ROWS, "candidates": candidates, "what": name, "ms": s * 1e3,
                "times as fast as torchvision": seconds["torchvision"] / s,
            }
            for name, s in seconds.items()
        ]  # fmt: skip
    return rows


def measure_validation_nms(opt: argparse.Namespace) -> list[dict[str, Any]]:
    """Return milliseconds per image at the thresholds of validation: of the given model, and of 80 random classes."""
    data = check_dataset(opt.data)
    model = DetectMultiBackend(opt.weights)
    loader, _ = create_dataloader(data["val"], opt.imgsz, 8, model.stride, nc=data["nc"], workers=0)
    with torch.no_grad():
        trained = torch.cat([model(images.float() / 255)[0] for (images, *_), _ in zip(loader, range(2), strict=False)])
    g = torch.Generator().manual_seed(0)
    dense = torch.rand(4, VAL_ROWS, 5 + NMS_CLASSES, generator=g)
    dense[..., :4] *= opt.imgsz / 2
    dense[..., 4:] **= 2
    predictions = {f"{Path(opt.weights)}, {data['nc']} classes": trained, "random, 80 classes, no background": dense}
    seconds = take_turns(
        {
            name: partial(non_max_suppression, p, 0.001, 0.6, multi_label=True, max_det=300)
            for name, p in predictions.items()
        },
        opt.repeats,
    )
    return [
        {
            "prediction": name, "rows": predictions[name].shape[1],
            "pairs above 0.001": int((p[..., 5:] * p[..., 4:5] > 0.001).sum()) // len(p), "ms": s / len(p) * 1e3,
        }
        for (name, s), p in zip(seconds.items(), predictions.values(), strict=True)
    ]  # fmt: skip


# val.py ---------------------------------------------------------------------------------------------------------------
def measure_val(opt: argparse.Namespace) -> list[dict[str, Any]]:
    """Return images per second and the share of time in the model, for each number of workers."""
    rows = []
    for workers in opt.workers:
        runs = []
        for _ in range(opt.repeats):
            marks: list[float] = []
            callbacks = Callbacks()
            callbacks.register("on_val_start", lambda marks=marks: marks.append(time.perf_counter()))
            counted: list[int] = []
            callbacks.register("on_val_image_end", lambda counted=counted: counted.append(1))
            with tempfile.TemporaryDirectory(prefix="val-") as folder:
                *_, (before, model, after) = val.run(
                    opt.data, opt.weights, batch_size=opt.batch[-1], imgsz=opt.imgsz, task=opt.task, plots=False,
                    project=folder, workers=workers, callbacks=callbacks,
                )  # fmt: skip
            wall = (time.perf_counter() - marks[0]) / len(counted) * 1e3
            runs.append((model / wall, wall, before, model, after, len(counted)))
        share, wall, before, model, after, images = sorted(runs)[len(runs) // 2]
        rows.append(
            {
                "workers": workers, "images": images, "images/s": 1e3 / wall, "ms": wall, "pre-process": before,
                "model": model, "NMS": after, "rest": wall - before - model - after, "share of model": share,
            }
        )  # fmt: skip
    return rows


def main(argv: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--data", default="data/demo.yaml", help="dataset YAML")
    add("--task", default="val", help="split of val.py")
    add("--imgsz", "--img", type=int, default=320, help="side of the images")
    add("--batch", nargs="+", type=int, default=[1, 8], help="images per batch; val.py takes the last one")
    add("--workers", nargs="+", type=int, default=[0, 2], help="loader processes of val.py")
    add("--repeats", type=int, default=7, help="runs of each way")
    add("--json", default="", help="write the tables to this file too")
    opt = parser.parse_args(argv)
    select_device("cpu")  # threads and memory as in the scripts
    tables = {}
    if "latency" in opt.parts:
        tables["latency"] = measure_latency(opt)
    if "nms" in opt.parts:
        tables["NMS at 0.25, best class"] = measure_nms(opt)
        tables["NMS at 0.001, all classes"] = measure_validation_nms(opt)
    if "val" in opt.parts:
        tables["val.py, ms per image"] = measure_val(opt)
    for name, rows in tables.items():
        log_table(rows, name)
    save_json(opt.json, vars(opt), tables)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
