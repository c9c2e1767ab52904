"""Time a full training step of several models, phase by phase, side by side in one process.

    python -m benchmarks.train_step --data data/demo.yaml --img 320 --batch-size 16
    python -m benchmarks.train_step --cfg yolov5s-swinv2.yaml --ways default nchw checkpointing bf16+checkpointing

A step is: load and augment one batch, forward, loss, backward, optimizer, average. A way is `default`, which is
channels_last in float32, or some of these words joined by `+`: `nchw` for the other memory format, `compile` for
torch.compile, `bf16` for bfloat16 autocast, `fp16` for float16 autocast with scaled gradients, `checkpointing` to
compute the Swin blocks again in the backward pass. `--cpu-time` counts the processor time of the process, which other
programs change less than wall time; give it one thread (OMP_NUM_THREADS=1). All models in all ways take turns, step by
step, so that what else the machine does hits all of them; the figures are medians, `ratio` is the time over that of the
first row. Peak memory is that of a process of its own for each row.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import torch

from benchmarks.tables import draw_orders, log_table, peak_resident, save_json
from engine.training.state import HYP_OF_CONV, HYP_OF_SWIN, SWIN_MODULES
from models.yolo import DetectionModel
from utils.console import cli_errors
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.optim import build_optimizer
from utils.paths import check_file
from utils.torch_utils import ModelEMA, amp_context, init_seeds, select_device, use_huge_pages

PHASES = ("load", "forward", "loss", "backward", "optimizer", "average")
DEFAULT_MODELS = ("yolov5n.yaml", "yolov5n-swinv2.yaml")
WORDS = ("default", "nchw", "compile", "bf16", "fp16", "checkpointing")
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """One model in one way with all that a step needs; `step` returns seconds of each of `PHASES`.

    Args:
        cfg: model file.
        way: words of `WORDS` joined by `+`.
        imgsz: side of the images, pixels.
        nc: classes.
        device: where it trains.
        make_batches: gives, for the hyperparameters, an endless iterator over batches as the loader makes them.
        clock: gives seconds.

    Attributes:
        loss: sum of the terms of the last step, (1,), on the device.
    """

    def __init__(
        self,
        cfg: str,
        way: str,
        imgsz: int,
        nc: int,
        device: torch.device,
        make_batches: Callable[[Hyp], Iterator[Any]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        init_seeds(0)
        words = way.split("+")
        model = DetectionModel(cfg, nc=nc, verbose=False).to(device)
        self.parameters = sum(p.numel() for p in model.parameters())
        swin = any(row[2] in SWIN_MODULES for row in model.yaml["backbone"])
        hyp = Hyp.load(check_file(HYP_OF_SWIN if swin else HYP_OF_CONV))
        model.hyp = hyp.scaled(model.detect.nl, model.nc, imgsz, 0.0).to_dict()
        self.format = torch.contiguous_format if "nchw" in words else torch.channels_last
        model = model.to(memory_format=self.format).train()
        if "checkpointing" in words:
            model.set_activation_checkpointing(True)
        self.device, self.clock = device, clock
        self.amp = next((dtype for word, dtype in AMP.items() if word in words), None)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.ema = ModelEMA(model)
        self.optimizer = build_optimizer(model, hyp.optimizer or "SGD", hyp.lr0, hyp.momentum, hyp.weight_decay)
        self.compute_loss = ComputeLoss(model)
        self.live = model
        self.model = torch.compile(model) if "compile" in words else model
        self.loss = torch.zeros(1, device=device)
        self.batches = make_batches(hyp)

    def step(self) -> list[float]:
        """Train on the next batch."""
        marks = [self.clock()]

        def mark(value: Any) -> Any:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            marks.append(self.clock())
            return value

        images, targets, *_ = mark(next(self.batches))
        images = images.to(self.device, memory_format=self.format).float() / 255
        with amp_context(self.device, self.amp):
            preds = mark(self.model(images))
        loss, _ = mark(self.compute_loss(preds, targets.to(self.device)))
        self.loss = loss.detach()
        mark(self.scaler.scale(loss).backward())
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.live.parameters(), 10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        mark(self.optimizer.zero_grad())
        mark(self.ema.update(self.live))
        return [end - start for start, end in zip(marks, marks[1:], strict=False)]


def forever(loader: Any) -> Iterator[Any]:
    """Yield the batches of a loader again and again, whole ones only."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from (batch for batch in loader if len(batch[0]) == loader.batch_size)
        epoch += 1


def interleave(steps: list[Callable[[], list[float]]], repeats: int, warmup: int = 2) -> list[list[float]]:
    """Call the functions in turn; returns for each the median of every entry of its result."""
    runs: list[list[list[float]]] = [[] for _ in steps]  # (functions, repeats, entries)
    for order in islice(draw_orders(range(len(steps))), warmup + repeats):
        for i in order:
            runs[i].append(steps[i]())
    return [[statistics.median(column) for column in zip(*series[warmup:], strict=True)] for series in runs]


def peak_memory(cfg: str, way: str, argv: list[str]) -> float:
    """Return the largest resident memory of three steps of one model, MiB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_step", *argv, "--cfg", cfg, "--ways", way, "--only-memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{cfg}, {way}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def as_way(text: str) -> str:
    """Return a way as it is, if all of its words are known."""
    unknown = set(text.split("+")) - set(WORDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: the words are {', '.join(WORDS)}")
    return text


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cfg", nargs="+", default=DEFAULT_MODELS, help="model files")
    add("--data", default="data/demo.yaml", help="dataset YAML")
    add("--imgsz", "--img", type=int, default=320, help="image size, pixels")
    add("--batch-size", type=int, default=16, help="images per batch")
    add("--repeats", type=int, default=7, help="steps of each model")
    add("--device", default="", help="as in train.py")
    add("--ways", nargs="+", type=as_way, default=["default"], help="how each model is trained, see above")
    add("--cpu-time", action="store_true", help="seconds of CPU time instead of wall time")
    add("--json", default="", help="write the table to this file too")
    add("--only-memory", action="store_true", help="print the peak memory of the first row, MiB, and nothing else")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    opt = parse_opt(argv)
    clock = time.process_time if opt.cpu_time else time.perf_counter
    device = select_device(opt.device)
    use_huge_pages(device)  # as in train.py
    data = check_dataset(opt.data)
    kinds = list(product(opt.cfg, opt.ways))

    def make_batches(hyp: Hyp) -> Iterator[Any]:
        loader, _ = create_dataloader(
            data["train"], opt.imgsz, opt.batch_size, 32, hyp=hyp, augment=True, nc=data["nc"], workers=0, shuffle=True
        )
        return forever(loader)

    trainers = [Trainer(cfg, way, opt.imgsz, data["nc"], device, make_batches, clock) for cfg, way in kinds]
    if opt.only_memory:
        for _ in range(3):
            trainers[0].step()
        sys.stdout.write(f"{peak_resident():.0f}\n")
        return
    gflops = [trainer.live.gflops(opt.imgsz) for trainer in trainers]
    medians = interleave([trainer.step for trainer in trainers], opt.repeats)
    rows = []
    for (cfg, way), trainer, operations, times in zip(kinds, trainers, gflops, medians, strict=True):
        rows.append(
            {
                "model": cfg,
                "way": way,
                "parameters": trainer.parameters,
                "gflops": operations,
                "images/s": opt.batch_size / sum(times),
                "peak MiB": peak_memory(cfg, way, argv),
                "ratio": sum(times) / sum(medians[0]),
            }
            | {f"{phase} ms": seconds * 1e3 for phase, seconds in zip(PHASES, times, strict=True)}
        )
    log_table(rows)
    save_json(opt.json, vars(opt), {"rows": rows})


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
