"""AutoBatch against the memory that a training really takes, and large images with activation checkpointing."""

import statistics
import time
from functools import partial

import torch

from benchmarks.gpu.precision import CLASSES, make_trainer
from benchmarks.gpu.work import MIB, Item, Setting, Work, free_memory, model_file, peak_memory, synchronize
from models.yolo import DetectionModel
from utils.autobatch import FRACTION, LARGEST, autobatch

LARGE = ("yolov5-swinv2t", "yolov5-swinv2s", "yolov5-swinv2b", "yolov5-swinv2l")
TOO_FULL = 0.97  # of the memory of the card: another program, or the fragments of a longer run, would end the training


def measure_autobatch(work: Work, cfg: str) -> None:
    """Let AutoBatch choose, and train that batch: it must fit, and take about the share that was promised."""
    setting = work.setting
    imgsz = setting.pick(640, 64)
    model = DetectionModel(model_file(setting, cfg), nc=CLASSES, verbose=False).to(work.device).train()
    amp = torch.float16 if setting.cuda else None
    batch = autobatch(model, imgsz, batch_size=2, amp=amp)  # 2 where nothing can be measured, on a CPU
    del model
    free_memory(work.device)
    work.figure("batch chosen by AutoBatch", batch, "images", model=cfg, px=imgsz)
    try:
        trainer = make_trainer(setting, cfg, "fp16" if amp else "default", imgsz, batch)
        peak = peak_memory(lambda: [trainer.step() for _ in range(2)], work.device)
        if peak is None:
            trainer.step()
    except torch.OutOfMemoryError as error:
        work.check(f"{cfg}: the batch fits", False, f"{batch} images of {imgsz} px: {str(error).splitlines()[0]}")
        return
    if peak is None:
        work.check(f"{cfg}: the batch fits", True, f"{batch} images of {imgsz} px; AutoBatch cannot measure a CPU")
        return
    total = torch.cuda.mem_get_info(work.device)[1] / MIB
    share = peak / total
    work.figure("memory at that batch", share, "of the card", model=cfg, px=imgsz)
    text = f"{batch} images of {imgsz} px take {share:.0%} of {total:.0f} MiB, AutoBatch aims at {FRACTION:.0%}"
    work.check(f"{cfg}: the batch fits", share <= TOO_FULL, text)
    if batch < LARGEST:
        work.check(f"{cfg}: the card is used", share >= FRACTION / 2, text)


def autobatch_items(setting: Setting) -> dict[str, Item]:
    """Return an item for each model."""
    names = setting.pick(("yolov5s", "yolov5-swinv2t"), ("yolov5n-swinv2",))
    return {name: partial(measure_autobatch, cfg=name) for name in names}


def train_large(work: Work, cfg: str, way: str) -> None:
    """Train one large image."""
    setting = work.setting
    imgsz, steps = setting.pick(1536, 128), setting.pick(4, 1)
    with work.may_not_fit(f"{cfg} at {imgsz} px, {way}"):
        trainer = make_trainer(setting, cfg, way, imgsz, 1)
        losses, seconds = [], []

        def step() -> None:
            start = time.perf_counter()
            trainer.step()
            synchronize(work.device)
            seconds.append(time.perf_counter() - start)
            losses.append(float(trainer.loss))

        def steps_of_it() -> None:
            for _ in range(steps):
                step()

        peak = peak_memory(steps_of_it, work.device)
        if peak is None:
            steps_of_it()
        labels = {"model": cfg, "px": imgsz, "batch": 1, "way": way}
        work.figure("training step", [1e3 * s for s in seconds[1:] or seconds], "ms", **labels)
        if peak is not None:
            work.figure("training memory", peak, "MiB", **labels)
        ok = all(torch.tensor(losses).isfinite())
        work.check(f"{cfg} at {imgsz} px, {way}, is finite", ok, f"losses around {statistics.median(losses):.4g}")


def large_items(setting: Setting) -> dict[str, Item]:
    """Return the items: T to L with checkpointing, then T without."""
    names = setting.pick(LARGE, ("yolov5n-swinv2",))
    items = {f"{name}, checkpointing": partial(train_large, cfg=name, way="bf16+checkpointing") for name in names}
    return items | {f"{names[0]}, no checkpointing": partial(train_large, cfg=names[0], way="bf16")}
