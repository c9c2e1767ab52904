"""DistributedDataParallel: two processes on one card (gloo: NCCL refuses to share a card), or on two cards (NCCL)."""

import json
import os
import socket
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.precision import CLASSES, random_batch
from benchmarks.gpu.work import Item, Setting, Work, milliseconds, model_file, synchronize
from models.yolo import DetectionModel
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.optim import build_optimizer
from utils.torch_utils import init_seeds

CFG = "yolov5n-swinv2"
ALLOWED = 1e-3  # of the largest gradient


def mean_square(net: nn.Module, images: Tensor) -> Tensor:
    """Return a loss that is a mean over images, so that the mean over processes is that of the whole batch."""
    return sum((x.float().square().mean() for x in net(images)), torch.zeros((), device=images.device))


def gradients(model: nn.Module) -> Tensor:
    """Return all gradients in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def worker(rank: int, world: int, port: int, backend: str, devices: list[str], cfg: str, imgsz: int, file: str) -> None:
    """Compare a gradient with that of one process, train some steps; the first process writes what it found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device(devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    init_seeds(0)
    torch.backends.cudnn.allow_tf32 = False
    model = DetectionModel(cfg, nc=CLASSES, verbose=False).to(device).train()
    model.set_drop_path(0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of a part of the batch are others than those of the whole
    net = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    images, targets = random_batch(imgsz, 4 * world)
    images = images.to(device).float() / 255
    mean_square(net, images[rank::world]).backward()
    found = gradients(model).clone()
    model.zero_grad()
    mean_square(model, images).backward()
    expected = gradients(model)
    results: dict[str, Any] = {"gap": float((found - expected).abs().max() / expected.abs().max())}

    model.hyp = Hyp().scaled(model.detect.nl, model.nc, imgsz, 0.0).to_dict()
    compute_loss, optimizer = ComputeLoss(model), build_optimizer(model, "SGD", 0.01, 0.9, 0.0)
    mine = torch.arange(rank * 4, rank * 4 + 4)
    own = targets[torch.isin(targets[:, 0], mine.float())].clone()
    own[:, 0] -= rank * 4
    results["seconds"], results["losses"] = [], []
    for _ in range(4):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss, _ = compute_loss(net(images[rank * 4 : rank * 4 + 4]), own.to(device))
        (loss.sum() * world).backward()
        optimizer.step()
        synchronize(device)
        results["seconds"].append(time.perf_counter() - start)
        results["losses"].append(float(loss.detach()))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    low, high = weights.clone(), weights.clone()  # gloo has no other collective operation for CUDA that would do
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    results["weights"] = float((high - low).max())
    if rank == 0:
        Path(file).write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def train_together(work: Work, devices: list[str], backend: str) -> None:
    """Start two processes and record what they found; one that fails ends this item with its error."""
    setting = work.setting
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = setting.folder / f"ddp-{backend}.json"
    given = (len(devices), port, backend, devices, model_file(setting, CFG), setting.pick(320, 64), str(file))
    mp.spawn(worker, given, nprocs=len(devices))
    found = json.loads(file.read_text(encoding="utf-8"))
    gap, apart, losses = found["gap"], found["weights"], found["losses"]
    place = f"{' and '.join(devices)}, {backend}"
    work.check(f"gradient of one process: {place}", gap <= ALLOWED, f"relative difference {gap:.2g}, allowed {ALLOWED}")
    work.check(f"equal weights: {place}", apart == 0, f"largest difference between processes {apart:.2g}")
    finite = all(torch.tensor(losses).isfinite())
    work.check(f"finite: {place}", finite, f"losses {', '.join(f'{v:.4g}' for v in losses)}")
    work.figure("training step", milliseconds(found["seconds"][1:]), "ms", where=place, model=CFG)


def distributed_items(setting: Setting) -> dict[str, Item]:
    """Return the items: two processes on the device, and on two cards where there are two."""
    items: dict[str, Item] = {
        "two processes on one device": partial(train_together, devices=[str(setting.device)] * 2, backend="gloo")
    }
    if setting.cuda and torch.cuda.device_count() > 1:
        items["two cards"] = partial(train_together, devices=["cuda:0", "cuda:1"], backend="nccl")
    return items
