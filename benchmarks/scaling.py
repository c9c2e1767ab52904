"""How the cost grows: with image size, window, batch, classes, boxes per image, and processes.

    python -m benchmarks.scaling --cfg yolov5n.yaml yolov5n-swinv2.yaml
    python -m benchmarks.scaling --parts size --sizes 320 640 1280

For each axis all points take turns in one process, and the exponent k of the law `seconds = c * x ** k` is fitted; for
the image size x is the number of pixels, so that k = 1 is a cost proportional to them. The weights are random.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from benchmarks.tables import exponent, log_table, save_json, take_turns
from models.yolo import DetectionModel
from utils.console import LOGGER, cli_errors
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.nms import non_max_suppression
from utils.optim import build_optimizer
from utils.paths import check_file
from utils.torch_utils import init_seeds, select_device

PARTS = ("size", "window", "batch", "classes", "boxes", "processes")


def build(cfg: str, imgsz: int, nc: int = 80) -> DetectionModel:
    """Return a model in training mode with hyperparameters, channels last."""
    init_seeds(0)
    model = DetectionModel(cfg, nc=nc, verbose=False).to(memory_format=torch.channels_last)
    hyp = Hyp.load(check_file("data/hyps/hyp.scratch-low.yaml"))
    model.hyp = hyp.scaled(model.detect.nl, model.nc, imgsz, 0.0).to_dict()
    return model


def images_of(batch: int, imgsz: int) -> torch.Tensor:
    """Return random images, channels last."""
    return torch.rand(batch, 3, imgsz, imgsz).to(memory_format=torch.channels_last)


def measure(axis: str, functions: dict[float, Callable[[], Any]], repeats: int, what: str) -> list[dict[str, Any]]:
    """Time the points of one axis in turn; every row holds the exponent over all of them."""
    with torch.no_grad():
        seconds = take_turns({str(x): function for x, function in functions.items()}, repeats)
    k = exponent(list(functions), list(seconds.values()))
    return [
        {"what": what, "axis": axis, "x": x, "ms": s * 1e3, "exponent": k}
        for x, s in zip(functions, seconds.values(), strict=True)
    ]


def over_sizes(opt: argparse.Namespace, cfg: str) -> list[dict[str, Any]]:
    """Inference of one image against its pixels."""
    model = build(cfg, opt.imgsz).eval().fuse()
    rows = measure(
        "pixels", {size * size: partial(model, images_of(1, size)) for size in opt.sizes}, opt.repeats, f"{cfg} forward"
    )
    for row in rows:
        row["us per 1000 pixels"] = row["ms"] / row["x"] * 1e6
    return rows


def over_windows(opt: argparse.Namespace, cfg: str) -> list[dict[str, Any]]:
    """Inference against the area of the window; nothing for models without Swin stages."""
    functions = {}
    for window in opt.windows:
        model = build(cfg, opt.imgsz)
        if not model.swin_stages:
            return []
        model.set_window(window)
        functions[window**2] = partial(model.eval().fuse(), images_of(1, opt.imgsz))
    return measure("cells of a window", functions, opt.repeats, f"{cfg} forward")


def over_batches(opt: argparse.Namespace, cfg: str) -> list[dict[str, Any]]:
    """Inference against the images of a batch."""
    model = build(cfg, opt.imgsz).eval().fuse()
    functions = {batch: partial(model, images_of(batch, opt.imgsz)) for batch in opt.batches}
    return measure("images in a batch", functions, opt.repeats, f"{cfg} forward")


def random_targets(batch: int, boxes: int, nc: int) -> torch.Tensor:
    """Return targets (batch * boxes, 6) `[image, class, xywhn]`."""
    g = torch.Generator().manual_seed(0)
    n = batch * boxes
    cls = torch.randint(nc, (n, 1), generator=g).float()
    centre, size = torch.rand(n, 2, generator=g), 0.02 + 0.3 * torch.rand(n, 2, generator=g)
    return torch.cat((torch.arange(batch).repeat_interleave(boxes)[:, None].float(), cls, centre, size), 1)


def found_rows(rows: int, boxes: int, nc: int, size: int) -> torch.Tensor:
    """Return a prediction (1, rows, 5 + nc) in which `boxes` objects have ten overlapping rows each."""
    g = torch.Generator().manual_seed(0)
    y = torch.rand(1, rows, 5 + nc, generator=g) * torch.tensor([size, size, 40, 40, 5e-4] + [1.0] * nc)
    n = min(10 * boxes, rows)
    y[0, :n, 4] = 0.2 + 0.8 * torch.rand(n, generator=g)
    y[0, :n, :2] = (torch.rand(boxes, 2, generator=g) * size).repeat(10, 1)[:n]
    y[0, :n, 5:] *= (torch.arange(nc) == torch.randint(nc, (n, 1), generator=g)).float()
    return y


def over_classes(opt: argparse.Namespace, cfg: str) -> list[dict[str, Any]]:
    """Inference, loss and NMS against the number of classes."""
    forward, loss, nms = {}, {}, {}
    for nc in opt.classes:
        model = build(cfg, opt.imgsz, nc)
        images, targets = images_of(2, opt.imgsz), random_targets(2, 10, nc)
        loss[nc] = partial(ComputeLoss(model), model(images), targets)
        forward[nc] = partial(model.eval(), images)
        nms[nc] = partial(
            non_max_suppression, found_rows(6300, 100, nc, opt.imgsz), 0.001, 0.6, multi_label=True, max_det=300
        )
    axis = "classes"
    return [
        *measure(axis, forward, opt.repeats, f"{cfg} forward, 2 images"), *measure(axis, loss, opt.repeats, "loss"),
        *measure(axis, nms, opt.repeats, "NMS at 0.001"),
    ]  # fmt: skip


def over_boxes(opt: argparse.Namespace, cfg: str) -> list[dict[str, Any]]:
    """Loss and NMS against the boxes of an image."""
    model = build(cfg, opt.imgsz)
    preds = model(images_of(4, opt.imgsz))
    compute_loss = ComputeLoss(model)
    loss = {n: partial(compute_loss, preds, random_targets(4, n, 80)) for n in opt.boxes}
    nms = {
        n: partial(non_max_suppression, found_rows(25200, n, 80, 640), 0.001, 0.6, multi_label=True, max_det=1000)
        for n in opt.boxes
    }
    axis = "boxes in an image"
    return measure(axis, loss, opt.repeats, "loss, 4 images") + measure(axis, nms, opt.repeats, "NMS at 0.001")


def train_in_process(rank: int, world: int, port: int, cfg: str, opt: argparse.Namespace, results: Any) -> None:
    """Put the seconds of some training steps of one of several processes, each with its own batch, into `results`."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = build(cfg, opt.imgsz, 3)
    optimizer = build_optimizer(model, "SGD")
    compute_loss, net = ComputeLoss(model), DistributedDataParallel(model)
    images, targets = images_of(4, opt.imgsz), random_targets(4, 10, 3)
    series = []
    for _ in range(opt.repeats + 1):
        dist.barrier()
        start = time.perf_counter()
        compute_loss(net(images), targets)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        series.append(time.perf_counter() - start)
    results.put((rank, sorted(series[1:])[opt.repeats // 2]))
    dist.barrier()
    dist.destroy_process_group()


def over_processes(opt: argparse.Namespace, cfg: str) -> list[dict[str, Any]]:
    """A training step of 1 and of 2 processes with 4 images and one thread each."""
    seconds = {}
    for world in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        results = mp.get_context("spawn").SimpleQueue()
        mp.spawn(train_in_process, (world, port, cfg, opt, results), nprocs=world)
        seconds[world] = max(results.get()[1] for _ in range(world))
    k = exponent(list(seconds), [s / world for world, s in seconds.items()])
    return [
        {
            "what": f"{cfg} training step", "axis": "processes", "x": world, "ms": s * 1e3, "images/s": 4 * world / s,
            "exponent": k,
        }
        for world, s in seconds.items()
    ]  # fmt: skip


MEASURES: dict[str, Callable[[argparse.Namespace, str], list[dict[str, Any]]]] = {
    "size": over_sizes,
    "window": over_windows,
    "batch": over_batches,
    "classes": over_classes,
    "boxes": over_boxes,
    "processes": over_processes,
}


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cfg", nargs="+", default=["yolov5n.yaml", "yolov5n-swinv2.yaml"], help="model files")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="axes")
    add("--imgsz", "--img", type=int, default=320, help="image size of all axes but the first, pixels")
    add("--sizes", nargs="+", type=int, default=[320, 480, 640, 960, 1280, 1536], help="sides, pixels")
    add("--windows", nargs="+", type=int, default=[4, 8, 16], help="sides, cells")
    add("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="images")
    add("--classes", nargs="+", type=int, default=[1, 10, 80, 300, 1000], help="classes")
    add("--boxes", nargs="+", type=int, default=[1, 10, 100, 1000], help="boxes of an image")
    add("--repeats", type=int, default=5, help="measurements of each point")
    add("--json", default="", help="write the tables to this file too")
    opt = parser.parse_args(argv)
    select_device("cpu")  # threads and memory as in the scripts
    tables = {}
    for part in opt.parts:
        alike = part == "boxes"  # loss and NMS do not depend on what made the maps
        for cfg in opt.cfg[:1] if alike else opt.cfg:
            rows = MEASURES[part](opt, cfg)
            if rows:
                tables[f"{part}, {cfg}"] = rows
                log_table(rows, f"{part}, {cfg}")
    for name, rows in tables.items():
        found = {row["what"]: row["exponent"] for row in rows}
        LOGGER.info(f"{name}: " + ", ".join(f"{what} ~ x^{k:.2f}" for what, k in found.items()))
    save_json(opt.json, vars(opt), tables)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
