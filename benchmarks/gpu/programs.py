"""The programs on this device: tests marked gpu, torch.hub, detect.py on a video, TensorRT engines."""

import importlib.util
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

import detect
import export
from benchmarks.gpu.precision import CLASSES
from benchmarks.gpu.work import Item, Setting, Work, milliseconds, model_file, time_calls
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.paths import ROOT, git_describe
from utils.torch_utils import init_seeds

PACKAGES = ("torch", "torchvision", "triton", "numpy", "opencv-python", "onnx", "onnxruntime", "tensorrt")
SAME_BOX = 2.0  # pixels by which each side may be off
MATCHED = 0.95  # share of the CPU's detections that must be found on the device too


# Machine --------------------------------------------------------------------------------------------------------------
def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return card, driver, versions and commit."""
    facts: dict[str, Any] = {
        "commit": git_describe(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cuda of PyTorch": torch.version.cuda,
        "seed": 0,
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
    }
    if device.type != "cuda":
        return facts | {"device": f"CPU, {platform.processor() or platform.machine()}"}
    card = torch.cuda.get_device_properties(device)
    return facts | {
        "device": card.name,
        "memory MiB": round(card.total_memory / 2**20),
        "compute capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "cards": torch.cuda.device_count(),
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver_version(),
    }


def package_version(name: str) -> str | None:
    """Return the version of an installed package, None for one that is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def driver_version() -> str:
    """Return the version of NVIDIA's driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown: no nvidia-smi"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]  # a line for each card, all the same
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["no answer"]
    return lines[0] if done.returncode == 0 else f"unknown: {lines[0]}"


def describe_machine(work: Work) -> None:
    """Record the machine, and that a product on it is right."""
    work.write("machine", facts=machine_facts(work.device))
    x = torch.arange(64.0).view(8, 8)
    product = (x.to(work.device) @ x.T.to(work.device)).cpu()
    gap = float((product - x @ x.T).abs().max() / product.abs().max())
    text = f"product of two matrices, relative difference from the CPU {gap:.2g}"
    work.check("the device computes", gap < 1e-3, text)


# Tests ----------------------------------------------------------------------------------------------------------------
def files_with_gpu_tests() -> list[str]:
    """Return the test files that hold a test marked gpu, so that the others need not be collected."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file) for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]


def run_tests(work: Work) -> None:
    """Run the tests marked gpu and record their counts and failures."""
    if importlib.util.find_spec("pytest") is None:
        work.unavailable("tests marked gpu", "pytest is not installed: pip install -r requirements-dev.txt")
        return
    report = work.setting.folder / "tests.xml"
    budget = min(max(work.end - time.time(), 1.0), 3600.0)  # then no further test begins; tests/conftest.py
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", f"--budget={budget:.0f}", *files_with_gpu_tests()]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if not report.is_file():
        work.check("tests marked gpu", False, f"pytest ended with {done.returncode} and wrote no report, see the log")
        return
    record_tests(work, report, done.returncode)


def record_tests(work: Work, report: Path, status: int) -> None:
    """Record what a JUnit file says; `status` is what pytest ended with."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    by_kind = {
        kind: [case for case in cases if case.find(kind) is not None] for kind in ("failure", "error", "skipped")
    }
    bad = [*by_kind["failure"], *by_kind["error"]]
    late = sum("time budget" in text_of(case, "skipped") for case in by_kind["skipped"])
    counts = {"run": len(cases) - len(by_kind["skipped"]), "failed": len(bad), "skipped": len(by_kind["skipped"])}
    for what, count in counts.items():
        work.figure("tests marked gpu", count, "tests", what=what)
    for case in bad:
        message = text_of(case, "failure") or text_of(case, "error")
        work.check(f"{case.get('classname')}.{case.get('name')}", False, message[:300])
    text = ", ".join(f"{count} {what}" for what, count in counts.items())
    if not work.setting.cuda:
        work.unavailable("tests marked gpu", f"no CUDA device: {text}")
        return
    if late:
        work.unavailable(f"{late} tests marked gpu", "the time of this part was spent")
    ok = status == 0 and counts["run"] > 0
    work.check("tests marked gpu", ok, f"{text}; pytest ended with {status}")


def text_of(case: ET.Element, kind: str) -> str:
    """Return the message of a test that failed or was skipped, "" if it has none."""
    found = case.find(kind)
    return "" if found is None else found.get("message", "")


# Hub and video --------------------------------------------------------------------------------------------------------
def make_weights(setting: Setting, cfg: str) -> Path:
    """Write a checkpoint of a random network that is sure enough to detect something; it is made once."""
    file = setting.folder / f"{cfg}.pt"
    if file.is_file():
        return file
    init_seeds(0, deterministic=False)
    model = DetectionModel(model_file(setting, cfg), nc=CLASSES, verbose=False)
    for conv in model.detect.m:
        nn.init.normal_(conv.weight, std=0.5)
        nn.init.zeros_(conv.bias)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of the images, so that they give different boxes
    images = np.stack([draw_frame(i, 96) for i in range(4)])
    with torch.no_grad():
        model.train()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    absent = ("best_fitness", "ema", "updates", "optimizer", "scaler", "stopper", "rng", "hyp")
    state = {"epoch": -1, "model": model.state_dict(), "yaml": model.yaml, "opt": {}, "stride": model.stride.tolist()}
    save_checkpoint(file, {**state, "names": dict(enumerate(("a", "b", "c"))), **dict.fromkeys(absent)})
    return file


def draw_frame(index: int, side: int) -> np.ndarray:
    """Return a frame of smooth noise, uint8 (side, side, 3)."""
    noise = np.random.default_rng(index).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def hub(work: Work) -> None:
    """Load weights through torch.hub and compare the detections with those of the CPU."""
    size = work.setting.pick(640, 96)
    weights = make_weights(work.setting, "yolov5n-swinv2")
    frames = [draw_frame(10 + i, size) for i in range(4)]
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # or boxes near the threshold would come and go
    try:
        boxes, model = {}, None
        for device in ("cpu", work.setting.number):
            model = torch.hub.load(str(ROOT), "custom", path=str(weights), source="local", device=device, verbose=False)
            boxes[device] = [found.cpu().float() for found in model(frames, size=size).xyxy]
    finally:
        torch.backends.cudnn.allow_tf32 = before
    expected, found = boxes["cpu"], boxes[work.setting.number]
    count = sum(map(len, expected))
    share = sum(map(count_matches, expected, found)) / max(count, 1)
    text = f"{share:.1%} of {count} detections of the CPU are found (within {SAME_BOX:g} px, same class)"
    work.check("AutoShape equals the CPU", count > 0 and share >= MATCHED, text)
    work.figure("AutoShape, 4 images", milliseconds(time_calls(lambda: model(frames, size=size), work.setting)), "ms")


def count_matches(expected: torch.Tensor, found: torch.Tensor) -> int:
    """Return how many detections (D, 6) of the first have one of the same class and place in the second."""
    if not len(expected) or not len(found):
        return 0
    near = torch.cdist(expected[:, :4], found[:, :4], p=float("inf")) <= SAME_BOX
    return int((near & (expected[:, None, 5] == found[None, :, 5])).any(1).sum())


def detect_video(work: Work) -> None:
    """Run detect.py on a video of noise and count the frames of what it writes."""
    setting = work.setting
    frames, size = setting.pick(60, 5), setting.pick(640, 96)
    source = setting.folder / "noise.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 25, (size, size))
    if not writer.isOpened():
        work.unavailable("detect.py on a video", "this OpenCV writes no AVI files")
        return
    for i in range(frames):
        writer.write(draw_frame(i, size))
    writer.release()
    weights = make_weights(setting, "yolov5n-swinv2")
    for half in (False, True) if setting.cuda else (False,):
        name = "half" if half else "full"
        results = detect.run(
            weights=[str(weights)], source=str(source), imgsz=[size], device=setting.number, half=half,
            project=str(setting.folder / "detect"), name=name, exist_ok=True,
        )  # fmt: skip
        written = [count_frames(file) for file in (setting.folder / "detect" / name).glob("noise.*")]
        text = f"{len(results)} results, {written} frames written, of {frames}"
        work.check(f"detect.py on a video, {name} precision", len(results) == frames and written == [frames], text)


def count_frames(file: Path) -> int:
    """Return how many frames of a video can be read."""
    video, count = cv2.VideoCapture(str(file)), 0
    while video.read()[0]:
        count += 1
    return count


def program_items(_: Setting) -> dict[str, Item]:
    """Return the items."""
    return {"AutoShape through torch.hub": hub, "detect.py on a video": detect_video}


# TensorRT -------------------------------------------------------------------------------------------------------------
def build_engine(work: Work, cfg: str, half: bool) -> None:
    """Export an engine, which compares it with the model, and time it beside PyTorch."""
    setting = work.setting
    what = f"engine of {cfg}, {'float16' if half else 'float32'}"
    if not setting.cuda or importlib.util.find_spec("tensorrt") is None:
        work.unavailable(what, "TensorRT is not installed" if setting.cuda else "no CUDA device")
        return
    weights = make_weights(setting, cfg)
    file = weights.with_stem(f"{cfg}-{'half' if half else 'full'}")
    shutil.copyfile(weights, file)
    (engine,) = export.run(weights=[str(file)], include=["engine"], imgsz=[640], half=half, device=setting.number)
    work.check(what, True, "export.py built it, ran it and found it equal to the model")
    images = torch.rand(1, 3, 640, 640, device=setting.device)
    with torch.inference_mode():
        for way, source in (("TensorRT", engine), ("PyTorch", file)):
            model = DetectMultiBackend(source, setting.device, fp16=half)
            given = images.half() if model.fp16 else images
            seconds = time_calls(partial(model, given), setting)
            work.figure("latency", milliseconds(seconds), "ms", model=cfg, half=half, way=way)


def tensorrt_items(setting: Setting) -> dict[str, Item]:
    """Return the items: two families in two precisions; one in a rehearsal, where it says why it cannot run."""
    cases = [(cfg, half) for half in (True, False) for cfg in ("yolov5s", "yolov5s-swinv2")]
    return {
        f"{cfg} {'float16' if half else 'float32'}": partial(build_engine, cfg=cfg, half=half)
        for cfg, half in setting.pick(cases, cases[:1])
    }
