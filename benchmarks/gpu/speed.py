"""Training step and latency of every size, convolutions against Swin: memory formats, batches, CUDA graphs."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.precision import CLASSES, make_trainer
from benchmarks.gpu.work import Item, Setting, Work, milliseconds, model_file, peak_memory, time_calls
from models.yolo import DetectionModel
from utils.torch_utils import init_seeds

SIZES = ("s", "n", "m", "l", "x")  # in the order of what is asked most
FORMATS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


def training(work: Work, models: tuple[str, ...]) -> None:
    """Time the training step of models in both memory formats."""
    medians: dict[str, float] = {}
    for cfg in models:
        for name in FORMATS:
            with work.may_not_fit(f"training of {cfg}, {name}"):
                medians[f"{cfg} {name}"] = time_training(work, cfg, name)
    record_ratios(work, "training step, Swin over convolutions", models, medians)


def time_training(work: Work, cfg: str, name: str) -> float:
    """Record time and memory of a training step, in the precision that train.py takes by default; return seconds."""
    setting = work.setting
    imgsz, batch = setting.pick(640, 64), setting.pick(16, 2)
    precision = "fp16" if setting.cuda else "default"  # as --amp auto
    trainer = make_trainer(setting, cfg, precision if name != "nchw" else f"nchw+{precision}", imgsz, batch)
    peak = peak_memory(trainer.step, work.device)
    seconds = time_calls(trainer.step, setting)
    labels = {"model": cfg, "format": name, "batch": batch, "px": imgsz, "precision": precision}
    work.figure("training step", milliseconds(seconds), "ms", **labels)
    work.figure("training", [batch / s for s in seconds], "images/s", **labels)
    if peak is not None:
        work.figure("training memory", peak, "MiB", **labels)
    return statistics.median(seconds)


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
    """Time the fused models in evaluation: two precisions, two batches, both formats."""
    setting = work.setting
    medians: dict[str, float] = {}
    for cfg in models:
        network = make_network(setting, cfg)
        for dtype in (torch.float16, torch.float32) if setting.cuda else (torch.float32,):
            for name, memory_format in FORMATS.items():
                network = network.to(setting.device, dtype, memory_format=memory_format)
                for batch in setting.pick((1, 32), (1, 2)):
                    precision = str(dtype).removeprefix("torch.")
                    what = f"{precision} {name} batch {batch}"
                    with work.may_not_fit(f"latency of {cfg}, {what}"), torch.inference_mode():
                        images = make_images(setting, batch, dtype, memory_format)
                        seconds = time_calls(partial(network, images), setting)
                        labels = {"model": cfg, "precision": precision, "format": name, "batch": batch}
                        work.figure("latency per image", milliseconds(seconds, batch), "ms", **labels)
                        medians[f"{cfg} {what}"] = statistics.median(seconds)
    record_ratios(work, "latency, Swin over convolutions", models, medians)


def make_network(setting: Setting, cfg: str) -> DetectionModel:
    """Return a random network, fused, in evaluation mode, on the CPU."""
    init_seeds(0, deterministic=False)
    return DetectionModel(model_file(setting, cfg), nc=CLASSES, verbose=False).eval().fuse().requires_grad_(False)


def make_images(setting: Setting, batch: int, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Return random images on the device."""
    imgsz = setting.pick(640, 64)
    images = torch.rand(batch, 3, imgsz, imgsz, device=setting.device, dtype=dtype)
    return images.contiguous(memory_format=memory_format)


def graphs(work: Work, models: tuple[str, ...]) -> None:
    """Time the models in float16 and channels_last as CUDA graphs, beside the plain call."""
    for cfg in models:
        network = make_network(work.setting, cfg)
        network = network.to(work.device, torch.float16, memory_format=torch.channels_last)
        for batch in work.setting.pick((1, 32), (1, 2)):
            with work.may_not_fit(f"CUDA graph of {cfg}, batch {batch}"):
                images = make_images(work.setting, batch, torch.float16, torch.channels_last)
                time_graph(work, network, images, model=cfg, batch=batch)


@torch.inference_mode()
def time_graph(work: Work, network: Callable[[Tensor], Any], images: Tensor, **labels: Any) -> None:
    """Record the latency of the plain call and of its graph, and check what the graph gives for another image."""
    setting, batch = work.setting, len(images)

    def call() -> Tensor:
        return network(images)[0]

    plain = time_calls(call, setting)
    before = call().clone()
    replay, output = capture(call)
    images.copy_(torch.rand_like(images))  # a replay must read what is in the input now
    expected = call().clone()
    replay()
    torch.cuda.synchronize()
    gap = float((output.float() - expected.float()).abs().max())
    largest = float(expected.float().abs().max())
    ok = gap <= 0.02 * largest and not torch.equal(before, expected)
    place = ", ".join(f"{key} {value}" for key, value in labels.items())
    work.check(f"CUDA graph: {place}", ok, f"largest difference from the plain call {gap:.3g}, value {largest:.3g}")
    for way, seconds in (("plain", plain), ("CUDA graph", time_calls(replay, setting))):
        work.figure("latency per image, float16, channels_last", milliseconds(seconds, batch), "ms", way=way, **labels)


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
        if setting.cuda:
            items[f"CUDA graphs: {' and '.join(models)}"] = partial(graphs, models=models)
    return items
