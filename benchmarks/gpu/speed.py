"""Training step and latency of every size, convolutions against Swin: memory formats, batches, CUDA graphs."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.precision import CLASSES, make_trainer
from benchmarks.gpu.work import Item, Setting, Work, free_memory, milliseconds, model_file, peak_memory, time_calls
from models.yolo import DetectionModel
from utils.torch_utils import init_seeds

SIZES = ("s", "n", "m", "l", "x")  # in the order of what is asked most
FORMATS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


def training(work: Work, models: tuple[str, ...]) -> None:
    """Time the training step of models, in the precision that train.py takes by default, in both memory formats."""
    setting = work.setting
    imgsz, batch = setting.pick(640, 64), setting.pick(16, 2)
    precision = "fp16" if setting.cuda else "default"  # as --amp auto
    medians: dict[str, float] = {}
    for cfg in models:
        for name in FORMATS:
            with work.may_not_fit(f"training of {cfg}, {name}"):
                trainer = make_trainer(setting, cfg, precision if name != "nchw" else f"nchw+{precision}", imgsz, batch)
                peak = peak_memory(trainer.step, work.device)
                seconds = time_calls(trainer.step, setting)
                labels = {"model": cfg, "format": name, "batch": batch, "px": imgsz, "precision": precision}
                work.figure("training step", milliseconds(seconds), "ms", **labels)
                work.figure("training", [batch / s for s in seconds], "images/s", **labels)
                if peak is not None:
                    work.figure("training memory", peak, "MiB", **labels)
                medians[f"{cfg} {name}"] = statistics.median(seconds)
    record_ratios(work, "training step, Swin over convolutions", models, medians)


def record_ratios(work: Work, title: str, models: tuple[str, ...], medians: dict[str, float]) -> None:
    """Record the time of the second model over that of the first, for everything that both were measured at."""
    if len(models) < 2:
        return
    for key, seconds in medians.items():
        cfg, _, rest = key.partition(" ")
        other = medians.get(f"{models[1]} {rest}")
        if cfg == models[0] and other:
            work.figure(title, other / seconds, "", models=" / ".join(reversed(models)), what=rest)


def latency(work: Work, models: tuple[str, ...]) -> None:
    """Time the fused models in evaluation: two precisions, two batches, both formats, and as CUDA graphs."""
    setting = work.setting
    imgsz = setting.pick(640, 64)
    medians: dict[str, float] = {}
    for cfg in models:
        init_seeds(0, deterministic=False)
        source = DetectionModel(model_file(setting, cfg), nc=CLASSES, verbose=False).eval().fuse().requires_grad_(False)
        for dtype in (torch.float16, torch.float32) if setting.cuda else (torch.float32,):
            for name, memory_format in FORMATS.items():
                model = source.to(setting.device, dtype, memory_format=memory_format)
                for batch in setting.pick((1, 32), (1, 2)):
                    what = f"{str(dtype).removeprefix('torch.')} {name} batch {batch}"
                    with work.may_not_fit(f"latency of {cfg}, {what}"):
                        images = torch.rand(batch, 3, imgsz, imgsz, device=setting.device, dtype=dtype)
                        images = images.contiguous(memory_format=memory_format)
                        labels = {"model": cfg, "precision": what.split()[0], "format": name, "batch": batch}
                        seconds = time_network(work, model, images, **labels)
                        medians[f"{cfg} {what}"] = statistics.median(seconds)
        del source, model
        free_memory(setting.device)
    record_ratios(work, "latency, Swin over convolutions", models, medians)


@torch.inference_mode()
def time_network(work: Work, network: torch.nn.Module, images: Tensor, **labels: Any) -> list[float]:
    """Record the latency of a call, plain and as a CUDA graph; return the seconds of the plain one."""
    setting, batch = work.setting, len(images)

    def call() -> Tensor:
        return network(images)[0]

    seconds = time_calls(call, setting)
    work.figure("latency per image", milliseconds(seconds, batch), "ms", way="eager", **labels)
    if setting.cuda and labels["format"] == "channels_last" and labels["precision"] == "float16":
        expected = call().clone()
        replay, output = capture(call)
        images.copy_(torch.rand_like(images))  # a replay must read what is in the input now
        expected_after = call().clone()
        replay()
        torch.cuda.synchronize()
        gap = float((output.float() - expected_after.float()).abs().max())
        scale = float(expected_after.float().abs().max())
        ok = gap <= 0.02 * scale and not torch.equal(expected, expected_after)
        place = ", ".join(map(str, labels.values()))
        work.check(f"CUDA graph of {place}", ok, f"largest difference from eager {gap:.3g}, largest value {scale:.3g}")
        graphed = time_calls(replay, setting)
        work.figure("latency per image", milliseconds(graphed, batch), "ms", way="CUDA graph", **labels)
    return seconds


def capture(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture a call as a CUDA graph; returns what replays it, and the tensor that every replay writes.

    Warm-up runs on a side stream first, as `torch.cuda.graph` asks, so that libraries are set up and constants cached.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph.replay, output


def speed_items(setting: Setting) -> dict[str, Item]:
    """Return the items: each size of both families, then Swin T; n alone in a rehearsal."""
    pairs = [(f"yolov5{size}", f"yolov5{size}-swinv2") for size in setting.pick(SIZES, "n")]
    groups = [*pairs[:2], *setting.pick([("yolov5-swinv2t",)], []), *pairs[2:]]
    items: dict[str, Item] = {}
    for models in groups:
        items[f"latency: {' and '.join(models)}"] = partial(latency, models=models)
        items[f"training: {' and '.join(models)}"] = partial(training, models=models)
    return items
