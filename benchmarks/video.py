"""Measure detect.py on a video: does everything overlap, and does memory stay flat?

    python -m benchmarks.video --cfg models/yolov5n-swinv2.yaml --img 320

Draws a 1280 x 720 video, then alternates three runs over the same frames: decoding alone, inference alone (model and
NMS on frames decoded and letterboxed before), and detect.py from file to annotated file. The ratio is the time of the
last over the longer of the other two, by medians. Memory is the resident size after 300 and after 3,000 frames of one
run.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import detect
from engine.inference.predictor import Predictor, Prepared, Settings, choose_size
from engine.inference.video import read_video
from models.weights.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.console import LOGGER, cli_errors
from utils.torch_utils import select_device

SHAPE = (720, 1280)


def draw_video(file: Path, frames: int) -> None:
    """Write discs that move over a noisy ground."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(60, 200, (90, 160, 3), np.uint8), SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
    start, speed = rng.uniform(0, 1, (12, 2)) * SHAPE[::-1], rng.uniform(-9, 9, (12, 2))
    colours = rng.integers(0, 256, (12, 3)).tolist()
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 30, SHAPE[::-1])
    for i in range(frames):
        image = ground.copy()
        for position, colour in zip((start + i * speed) % SHAPE[::-1], colours, strict=True):
            cv2.circle(image, (int(position[0]), int(position[1])), 45, colour, -1)
        writer.write(image)
    writer.release()


def make_weights(file: Path, cfg: str) -> None:
    """Save a network with random weights."""
    torch.manual_seed(0)
    model = DetectionModel(cfg, nc=3, verbose=False)
    absent = ("best_fitness", "ema", "updates", "optimizer", "scaler", "stopper", "rng", "hyp")
    state = {"epoch": -1, "model": model.state_dict(), "yaml": model.yaml, "names": {0: "a", 1: "b", 2: "c"}, "opt": {}}
    save_checkpoint(file, {**state, "stride": model.stride.tolist(), **dict.fromkeys(absent)})


@torch.no_grad()
def threshold(model: detect.DetectMultiBackend, prepared: Prepared, rows: int = 40) -> float:
    """Return the confidence that this many rows of a frame exceed, so that random weights find something to draw."""
    boxes = model(torch.from_numpy(np.stack(prepared.inputs)).float() / 255)[0]  # (R, 5 + nc)
    return float((boxes[:, 4] * boxes[:, 5:].max(1).values).sort(descending=True).values[rows])


def decode(file: Path, frames: int) -> float:
    """Return the seconds of decoding alone."""
    start = time.perf_counter()
    count = sum(1 for _ in read_video(str(file)))
    assert count == frames
    return time.perf_counter() - start


def infer(predictor: Predictor, prepared: list) -> float:
    """Return the seconds of model and NMS alone."""
    start = time.perf_counter()
    for batch in prepared:
        predictor(batch)
    return time.perf_counter() - start


def whole(weights: Path, file: Path, imgsz: int, conf: float, folder: Path) -> float:
    """Return the seconds from the first read to the finished file; loading the model is not in it."""
    results = detect.run(weights, file, imgsz=imgsz, conf_thres=conf, project=folder, exist_ok=True, stream=True)
    start = time.perf_counter()
    for _ in results:
        pass
    return time.perf_counter() - start


def resident() -> float:
    """Return the resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_memory(weights: Path, file: Path, imgsz: int, conf: float, folder: Path) -> tuple[float, float]:
    """Return the resident memory after 300 and after all frames of one run."""
    first = last = 0.0
    for result in detect.run(
        weights, file, imgsz=imgsz, conf_thres=conf, project=folder, exist_ok=True, stream=True, save_csv=True
    ):
        last = resident() if result.frame % 100 == 0 else last
        if result.frame == 300:
            first = last
    return first, last


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", help="checkpoint; without it random weights of --cfg")
    add("--cfg", default="models/yolov5n-swinv2.yaml")
    add("--imgsz", "--img", type=int, default=320)
    add("--conf-thres", type=float, default=0.25, help="with --weights; random ones get one that lets a few boxes pass")
    add("--frames", type=int, default=100, help="of the video for the speed")
    add("--repeats", type=int, default=7)
    add("--memory-frames", type=int, default=3000, help="0 leaves memory out")
    opt = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = Path(opt.weights) if opt.weights else folder / "random.pt"
        if not opt.weights:
            make_weights(weights, opt.cfg)
        draw_video(folder / "speed.mp4", opt.frames)
        model = detect.DetectMultiBackend(weights, select_device("cpu"))
        size = choose_size([opt.imgsz], model.imgsz, model.stride)
        predictor = Predictor(model, Settings(size, opt.conf_thres))
        if not opt.weights:
            first = predictor.prepare([next(read_video(str(folder / "speed.mp4")))])
            opt.conf_thres = threshold(model, first)
            predictor = Predictor(model, Settings(size, opt.conf_thres))
        prepared = [predictor.prepare([frame]) for frame in read_video(str(folder / "speed.mp4"))]
        rows = []
        for repeat in range(opt.repeats + 1):
            row = (
                decode(folder / "speed.mp4", opt.frames),
                infer(predictor, prepared),
                whole(weights, folder / "speed.mp4", opt.imgsz, opt.conf_thres, folder),
            )
            rows += [row] if repeat else []  # the first one warms up
        found = sum(len(predictor(batch)[0]) for batch in prepared) / opt.frames
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        LOGGER.info(
            f"\n{opt.frames} frames of {SHAPE[1]}x{SHAPE[0]}, network input {predictor.shape}, {found:.1f} boxes each, "
            f"{torch.get_num_threads()} torch thread(s) on {len(os.sched_getaffinity(0))} processor(s)"
        )
        for text, seconds in zip(("decoding", "inference", "detect.py"), medians, strict=True):
            LOGGER.info(f"{text:<12}{seconds / opt.frames * 1e3:8.2f} ms/frame{opt.frames / seconds:8.1f} frames/s")
        LOGGER.info(f"detect.py takes {medians[2] / max(medians[:2]):.3f} of the longer of the other two")
        if opt.memory_frames:
            del prepared
            draw_video(folder / "memory.mp4", opt.memory_frames)
            first, last = measure_memory(weights, folder / "memory.mp4", opt.imgsz, opt.conf_thres, folder)
            LOGGER.info(f"memory after 300 frames {first:.1f} MB, after {opt.memory_frames} {last:.1f} MB")
            LOGGER.info(f"difference {last - first:+.1f} MB")


if __name__ == "__main__":
    with cli_errors():
        main()
