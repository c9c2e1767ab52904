"""Peak memory of a training step at large images, with each measure against it on and off; optimizer state per process.

    python -m benchmarks.memory --cfg yolov5-swinv2t.yaml --sizes 640 1024 1536
    python -m benchmarks.memory --sizes 1536 --measures checkpoint "checkpoint bf16"

A measure is any of these words: `checkpoint` recomputes the Swin blocks, `checkpoint12` those of the first two stages,
`sequential` attends in 16 windows at a time, `bf16` is autocast; `none` is a plain step. Every figure comes from a
process of its own: forward, loss, backward and AdamW step on one image, float32 unless said. Memory is the largest
resident set on CPU, the largest allocation on CUDA. The state of AdamW is counted on the first of 1 and of 2 processes
that share it by `ZeroRedundancyOptimizer` (gloo, CPU).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.tables import peak_resident
from models.yolo import DetectionModel
from utils.console import LOGGER, cli_errors
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.optim import build_optimizer
from utils.paths import check_file
from utils.torch_utils import amp_context, init_seeds, select_device

MEASURES = ("none", "checkpoint", "sequential", "checkpoint sequential", "checkpoint12", "checkpoint bf16")
WORDS = {"none", "checkpoint", "checkpoint12", "sequential", "bf16"}


def train_step(opt: argparse.Namespace, imgsz: int, words: set[str]) -> dict[str, float]:
    """Run two steps of training with some measures; returns MiB at the peak and seconds of the second step."""
    init_seeds(0)
    device = select_device(opt.device)
    model = DetectionModel(opt.cfg, nc=3, verbose=False).to(device, memory_format=torch.channels_last).train()
    hyp = Hyp.load(check_file("data/hyps/hyp.swinv2.yaml"))
    model.hyp = hyp.scaled(model.detect.nl, model.nc, imgsz, 0.0).to_dict()
    if words & {"checkpoint", "checkpoint12"}:
        model.set_activation_checkpointing([1, 2] if "checkpoint12" in words else True)
    if "sequential" in words:
        model.set_sequential_attention(opt.windows)
    optimizer = build_optimizer(model, "AdamW", 1e-4, 0.9, 0.05)
    compute_loss = ComputeLoss(model)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.3, 0.2], [0, 2, 0.2, 0.7, 0.1, 0.1]], device=device)
    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        images = torch.rand(opt.batch_size, 3, imgsz, imgsz, device=device).to(memory_format=torch.channels_last)
        with amp_context(device, torch.bfloat16 if "bf16" in words else None):
            preds = model(images)
        loss, _ = compute_loss(preds, targets)
        if not loss.isfinite().all():
            raise ValueError(f"the loss at {imgsz} px is {loss.tolist()}")
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    if device.type == "cuda":
        return {"MiB": torch.cuda.max_memory_allocated(device) / 2**20, "seconds": seconds}
    return {"MiB": peak_resident(), "seconds": seconds}


def in_own_process(opt: argparse.Namespace, imgsz: int, measure: str) -> dict[str, float]:
    """Return what `train_step` measures in a new process.

    Raises:
        ValueError: it failed; the message is the last line of its output.
    """
    command = [
        sys.executable, "-m", "benchmarks.memory", "--one", measure, "--sizes", str(imgsz), "--cfg", opt.cfg,
        "--batch-size", str(opt.batch_size), "--windows", str(opt.windows), "--device", opt.device,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"ended with {done.returncode} (out of memory?)").splitlines()[-1]
        raise ValueError(f"{opt.cfg} at {imgsz} px, {measure}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def count_state(rank: int, world: int, port: int, cfg: str, results: Any) -> None:
    """Put the MiB of optimizer state of this process into `results`, after one step."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = DetectionModel(cfg, nc=3, verbose=False)
    optimizer = build_optimizer(model, "AdamW", 1e-4, 0.9, 0.05, sharded=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = optimizer.optim.state
    tensors = [t for entry in state.values() for t in entry.values() if isinstance(t, torch.Tensor)]
    results.put((rank, sum(t.numel() * t.element_size() for t in tensors) / 2**20))
    dist.barrier()
    dist.destroy_process_group()


def optimizer_state(cfg: str, world: int) -> list[float]:
    """Return the MiB of AdamW state on each of `world` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(count_state, (world, port, cfg, results), nprocs=world)
    return [mib for _, mib in sorted(results.get() for _ in range(world))]


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cfg", default="yolov5-swinv2t.yaml", help="model file")
    add("--sizes", nargs="+", type=int, default=[640, 1024, 1536], help="image sizes, pixels")
    add("--measures", nargs="+", default=MEASURES, help="words of each row, see above")
    add("--batch-size", type=int, default=1)
    add("--windows", type=int, default=16, help="windows at a time of the sequential attention")
    add("--device", default="", help="as in train.py")
    add("--no-state", action="store_true", help="leave out the optimizer state per process")
    add("--json", default="", help="write the rows to this file too")
    add("--one", default="", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    opt = parse_opt(argv)
    for measure in [*opt.measures, *([opt.one] if opt.one else [])]:
        if unknown := set(measure.split()) - WORDS:
            raise ValueError(
                f"--measures {measure!r}: unknown word {min(unknown)!r}; allowed: {', '.join(sorted(WORDS))}"
            )
    if opt.one:
        sys.stdout.write(json.dumps(train_step(opt, opt.sizes[0], set(opt.one.split()))) + "\n")
        return
    rows = []
    for imgsz in opt.sizes:
        for measure in opt.measures:
            row = {"imgsz": imgsz, "measure": measure, **in_own_process(opt, imgsz, measure)}
            rows.append(row)
            LOGGER.info(f"{imgsz:>5} px  {measure:<24}{row['MiB']:>8.0f} MiB {row['seconds']:>7.1f} s")
    states = {} if opt.no_state else {world: optimizer_state(opt.cfg, world) for world in (1, 2)}
    for world, mib in states.items():
        LOGGER.info(f"AdamW state, {world} process(es): {', '.join(f'{m:.1f}' for m in mib)} MiB")
    if opt.json:
        with open(opt.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(opt), "rows": rows, "optimizer_state_MiB": states}, file, indent=1)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
