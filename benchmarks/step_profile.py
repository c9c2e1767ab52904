"""Say where a training step goes: milliseconds of each kind of operator, forward, backward and in the optimizer.

    python -m benchmarks.step_profile --imgsz 320 --batch-size 16

Every model trains on the same random images and boxes, so that nothing is loaded in between. `read MiB` is what the
operators of a kind read in all phases, by the shapes of their inputs, four bytes for each number; what lies in
a cache is read faster. The profiler itself takes some microseconds for every operator, so the sum is above the time of
`benchmarks.train_step`. `floor` adds up the matrix products, the convolutions and the activations: a step cannot take
less without other kernels.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.tables import log_table, save_json
from benchmarks.train_step import DEFAULT_MODELS, Trainer, as_way
from utils.console import cli_errors
from utils.torch_utils import select_device, use_huge_pages

KINDS = {  # words in the names of the operators; the first kind that fits counts
    "convolution": ("conv",),
    "matrix product": ("mm",),
    "batch norm": ("batch_norm",),
    "layer norm": ("layer_norm",),
    "activation": ("silu", "gelu", "sigmoid", "relu"),
    "softmax": ("softmax",),
    "copy, concatenate": ("copy_", "cat", "clone", "contiguous"),
    "allocation": ("empty", "resize_"),
    "other": ("",),
}
NO_READING = (  # names of operators that hand tensors on, or make new ones
    "view", "reshape", "strided", "permute", "transpose", "::t", "expand", "slice", "select", "narrow", "split",
    "unbind", "flatten", "squeeze", "detach", "alias", "empty", "empty_like", "resize_", "zeros", "ones", "fill_", "to",
)  # fmt: skip
FLOOR = ("convolution", "depth-wise convolution", "matrix product", "activation")
PHASES = ("forward", "backward", "optimizer")
WARMUP = 6  # steps until nothing new is allocated


def kind_of(name: str, shapes: list[list[int]]) -> str:
    """Return the kind of an operator; a convolution with one input channel in each of several groups is depth-wise."""
    kind = next(kind for kind, words in KINDS.items() if any(word in name.removeprefix("aten::") for word in words))
    if kind == "convolution":
        weight = shapes[2 if "backward" in name else 1] if len(shapes) > 2 else []  # (out, in / groups, h, w)
        if len(weight) == 4 and weight[1] == 1 and shapes[0][1] > 1:
            return "depth-wise convolution"
    return kind


def phase_of(event: Any) -> str:
    """Return in which phase of the step an operator ran."""
    while event is not None:
        if event.name.startswith("autograd::engine"):
            return "backward"
        if event.name.startswith("Optimizer.") or "clip_grad" in event.name:
            return "optimizer"
        event = event.cpu_parent
    return "forward"


def random_batches(imgsz: int, batch_size: int, nc: int) -> Iterator[Any]:
    """Yield the same images and fourteen boxes for each, without end."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator)
    boxes = torch.rand(14 * batch_size, 4, generator=generator) * torch.tensor([1.0, 1.0, 0.2, 0.2])
    classes = torch.randint(nc, (14 * batch_size, 1), generator=generator)
    targets = torch.cat((torch.arange(batch_size).repeat_interleave(14)[:, None], classes, boxes), 1)
    while True:
        yield images, targets


def profile_steps(trainer: Trainer, steps: int) -> dict[tuple[str, str], list[float]]:
    """Return milliseconds and MiB read in a step for each kind and phase."""
    for _ in range(WARMUP):
        trainer.step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (trainer.device.type == "cuda")
    with profile(activities=activities, record_shapes=True, acc_events=True) as run:
        for _ in range(steps):
            trainer.step()
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in run.events() or []:
        if event.name.startswith("aten::"):
            own = event.self_device_time_total if trainer.device.type == "cuda" else event.self_cpu_time_total
            shapes = event.input_shapes or []
            total = found[kind_of(event.name, shapes), phase_of(event)]
            total[0] += own / 1e3 / steps
            if event.self_cpu_time_total > 0.5 * event.cpu_time_total and not event.name.endswith(NO_READING):
                total[1] += sum(math.prod(shape) for shape in shapes if shape) * 4 / 2**20 / steps
    return found


def rows_of(found: list[dict[tuple[str, str], list[float]]], models: list[str]) -> list[dict[str, Any]]:
    """Return a row for each kind, the sum and the floor: ms of each model and phase, and MiB read."""
    kinds = sorted({kind for figures in found for kind, _ in figures}, key=lambda kind: (kind not in FLOOR, kind))
    groups = {kind: [kind] for kind in kinds} | {"floor": [k for k in kinds if k in FLOOR], "sum": kinds}
    rows = []
    for name, members in groups.items():
        row: dict[str, Any] = {"kind": name}
        for i, (model, figures) in enumerate(zip(models, found, strict=True)):
            label = f"{model.removesuffix('.yaml')}" if models.count(model) == 1 else f"{model} {i}"
            parts = {phase: [figures.get((kind, phase), [0.0, 0.0]) for kind in members] for phase in PHASES}
            for phase, values in parts.items():
                row[f"{label} {phase} ms"] = sum(ms for ms, _ in values)
            row[f"{label} read MiB"] = sum(mib for values in parts.values() for _, mib in values)
        rows.append(row)
    return rows


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cfg", nargs="+", default=list(DEFAULT_MODELS), help="model files")
    add("--nc", type=int, default=3, help="classes")
    add("--imgsz", "--img", type=int, default=320, help="image size, pixels")
    add("--batch-size", type=int, default=16, help="images per batch")
    add("--repeats", type=int, default=5, help="steps of each model")
    add("--device", default="", help="as in train.py")
    add("--way", type=as_way, default="default", help="how the models are trained, see benchmarks.train_step")
    add("--json", default="", help="write the table to this file too")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Profile and print."""
    opt = parse_opt(argv)
    device = select_device(opt.device)
    use_huge_pages(device)  # as in train.py
    found = []
    for cfg in opt.cfg:
        trainer = Trainer(
            cfg, opt.way, opt.imgsz, opt.nc, device,
            lambda _: random_batches(opt.imgsz, opt.batch_size, opt.nc),
        )  # fmt: skip
        found.append(profile_steps(trainer, opt.repeats))
    rows = rows_of(found, opt.cfg)
    log_table(rows, f"one step of {opt.batch_size} images of {opt.imgsz} pixels")
    save_json(opt.json, vars(opt), {"rows": rows})


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
