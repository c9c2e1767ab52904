"""Training steps in float16 and bfloat16: finite, and with the loss of float32."""

from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any

import torch

from benchmarks.gpu.work import Item, Setting, Work, model_file
from benchmarks.train_step import Trainer
from utils.hyp import Hyp

CLASSES = 3
MODELS = ("yolov5n", "yolov5s", "yolov5n-swinv2", "yolov5s-swinv2", "yolov5-swinv2t")
FIRST_LOSS = {"fp16": 0.01, "bf16": 0.05}  # relative difference from float32 that is allowed before the first step


def make_trainer(setting: Setting, cfg: str, way: str, imgsz: int, batch: int) -> Trainer:
    """Return a trainer that takes the same random batch, on the device, in every step; see `benchmarks.train_step`."""
    images, targets = random_batch(imgsz, batch)
    images, targets = images.to(setting.device), targets.to(setting.device)

    def make_batches(_: Hyp) -> Iterator[Any]:
        return repeat((images, targets))

    return Trainer(model_file(setting, cfg), way, imgsz, CLASSES, setting.device, make_batches)


def random_batch(imgsz: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 noise (B, 3, S, S) and four boxes an image, (4 B, 6) `[image, class, xywhn]`, of seed 0."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, imgsz, imgsz), generator=g, dtype=torch.uint8)
    count = 4 * batch
    targets = torch.zeros(count, 6)
    targets[:, 0] = torch.arange(count) // 4
    targets[:, 1] = torch.randint(CLASSES, (count,), generator=g)
    targets[:, 2:4] = 0.2 + 0.6 * torch.rand(count, 2, generator=g)
    targets[:, 4:] = 0.1 + 0.3 * torch.rand(count, 2, generator=g)
    return images, targets


def train(work: Work, cfg: str, way: str, steps: int) -> list[float]:
    """Train some steps; record whether losses and weights are finite; return the loss of each step."""
    setting = work.setting
    trainer = make_trainer(setting, cfg, way, setting.pick(640, 64), setting.pick(16, 2))
    losses = []
    for _ in range(steps):
        trainer.step()
        losses.append(float(trainer.loss))
    finite = all(bool(p.isfinite().all()) for p in trainer.live.parameters())
    ok = finite and all(torch.tensor(losses).isfinite())
    text = f"loss {losses[0]:.5g} to {losses[-1]:.5g} in {steps} steps, weights {'finite' if finite else 'NOT finite'}"
    work.check(f"{cfg} {way} is finite", ok, text)
    if trainer.scaler.is_enabled():
        work.figure("gradient scale at the end", trainer.scaler.get_scale(), "", model=cfg)
    return losses


def compare(work: Work, cfg: str) -> None:
    """Train in float32, float16 and bfloat16 from the same weights on the same batch."""
    steps = work.setting.pick(10, 2)
    with work.may_not_fit(cfg):
        exact = train(work, cfg, "default", steps)
        for way, allowed in FIRST_LOSS.items():
            losses = train(work, cfg, way, steps)
            first, last = (abs(losses[i] / exact[i] - 1) for i in (0, -1))
            work.check(f"{cfg} {way}: first loss", first <= allowed, f"{first:.2g} from float32, allowed {allowed}")
            for step, value in ((1, first), (steps, last)):
                work.figure("loss against float32", value, "relative", model=cfg, precision=way, step=step)


def precision_items(setting: Setting) -> dict[str, Item]:
    """Return an item for each model, n of both families in a rehearsal."""
    names = setting.pick(MODELS, ("yolov5n", "yolov5n-swinv2"))
    return {name: partial(compare, cfg=name) for name in names}
