"""Run commands of the pages in a clone, as they are written; `tests/test_documented.py` copies it there and starts it.

What makes them short is around them: the tables of the models are narrow, the datasets have some drawn images, the
files that pages name are there, and `MOST` limits epochs, passes and sizes after the command line was read. One process
runs the blocks of all pages, each with fresh files.
"""

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import time
import traceback
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

import train
from models.weights.checkpoint import add_thresholds, load_checkpoint, save_checkpoint
from models.yolo import DetectionModel
from utils.callbacks import Callbacks
from utils.datasets import demo
from utils.files import yaml_load

CLONE = Path.cwd()
MOST = {"epochs": 1, "passes": 32, "workers": 0, "imgsz": 96}
SAVED = {"conf": 0.3, "imgsz": 640, "images": 4, "iou_thres": 0.45}
MINE = yaml.safe_load("{path: ../my-data, train: images/train, val: images/val, names: [cat, dog]}")
read_words = argparse.ArgumentParser.parse_known_args


def read_small(parser, *args, **keywords):
    """Read a command line, and lower its numbers."""
    found, rest = read_words(parser, *args, **keywords)
    for name, most in MOST.items():
        value = getattr(found, name, None)
        if isinstance(value, int | list) and not isinstance(value, bool):
            setattr(found, name, [min(side, most) for side in value] if isinstance(value, list) else min(value, most))
    if hasattr(found, "noplots"):
        found.noplots = True
        if found.weights and found.cfg and found.convert == "auto":
            found.convert = MOST["passes"]
    return found, rest


def say(text):
    """Write a line at once, among those of the programs."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def narrow(file):
    """Make the model of a table small."""
    text = file.read_text(encoding="utf-8")
    for key, value in {"depth_multiple": 0.1, "width_multiple": 0.125}.items():
        text = re.sub(rf"^{key}: [\d.]+", f"{key}: {value}", text, flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")


def write_weights(file, cfg, names, channels=3):
    """Save a random model as training leaves it at its end."""
    torch.manual_seed(1)
    model = DetectionModel(yaml_load(CLONE / cfg) | {"nc": len(names), "ch": channels}, verbose=False)
    absent = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "scaler", "stopper", "rng", "hyp"))
    state = {"epoch": -1, "model": model.state_dict(), "yaml": model.yaml, "names": dict(enumerate(names)), "opt": {}}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, {**state, "stride": model.stride.tolist(), **absent, "thresholds": SAVED})


def draw(folder, data, size=96, counts=(18, 4)):
    """Draw the images and labels of a dataset YAML."""
    demo.draw_demo(folder, n_train=counts[0], n_val=counts[1], size=size, seed=0)
    for file in folder.glob("labels/*/*.txt"):
        rows = [line.split(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{int(cls) % len(data['names'])} {box}\n" for cls, box in rows))
    if (bands := data.get("channels", 3)) != 3:
        for file in folder.glob("images/*/*.jpg"):
            grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            np.save(file.with_suffix(".npy"), np.stack([grey.astype(np.uint16) * 16] * bands, -1))
            file.unlink(missing_ok=True)


def prepare(data, many):
    """Put the files that pages name into the clone and beside it; many images where pages learn from them."""
    for folder in ("runs", "path", "photos", "field", "flight", "labelled"):
        shutil.rmtree(CLONE / folder, ignore_errors=True)
    for file in (*CLONE.glob("*.pt"), *CLONE.glob("*.onnx"), *CLONE.glob("yolov5*-*.*")):
        file.unlink(missing_ok=True)
    small, large = ((18, 4), 96), ((4, 2), 700)
    bccd, aerial = MINE | {"path": "../bccd"}, MINE | {"path": "../aerial"}
    tables = {"my": (data, small), "bccd": (bccd, small), "aerial": (aerial, large)}
    for name, (table, (counts, size)) in tables.items():
        (CLONE / f"{name}.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
        folder = CLONE / table["path"]
        shutil.rmtree(folder, ignore_errors=True)
        draw(folder, table, size, counts)
    (CLONE / "my-hyp.yaml").write_text((CLONE / "data/hyps/hyp.swinv2.yaml").read_text() + "\ncls_weights: auto\n")
    images = sorted((CLONE / "../bccd/images/train").iterdir())
    for folder, count in {"path/to/images": len(images) if many else 3, "photos": 3}.items():
        (CLONE / folder).mkdir(parents=True)
        for file in images[:count]:
            shutil.copy(file, CLONE / folder)
    shutil.copytree(CLONE / data["path"] / "images/val", CLONE / "field", dirs_exist_ok=True)
    shutil.copytree(CLONE / "../aerial/images/val", CLONE / "flight")
    cv2.imwrite("aerial.tif", cv2.resize(cv2.imread(str(images[0])), (1000, 800)))
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 96))
    for file in images[:4]:
        writer.write(cv2.imread(str(file)))
    writer.release()
    names = data["names"]
    write_weights("best-of-colour.pt", "models/yolov5n.yaml", names)
    for file in ("best.pt", "yolov5n.pt", "runs/train/large/weights/best.pt"):
        write_weights(file, "models/yolov5n.yaml", names)
    write_weights("yolov5s.pt", "models/yolov5s.yaml", names)


def leave_unfinished():
    """Leave a training that was broken off after its first epoch."""

    def stop(epoch, **_):
        if epoch == 0:
            raise KeyboardInterrupt

    callbacks = Callbacks()
    callbacks.register("on_model_save", stop)
    words = "--data my.yaml --cfg models/yolov5n.yaml --weights= --img 64 --noplots --noval --name unfinished"
    options = train.parse_opt(words.split())
    options.epochs = 2
    try:
        train.main(options, callbacks)
    except KeyboardInterrupt:
        os.utime(CLONE / "runs/train/unfinished/weights/last.pt")


def run(line):
    """Run one command; returns its exit status."""
    program, *words = shlex.split(line, comments=True)
    if program != "python":
        raise ValueError(f"{program} cannot be run here: mark the block with <!-- not run: REASON -->")
    if "--resume" in words:
        leave_unfinished()
    module = words.pop(0) == "-m" if words[0] == "-m" else False
    name, sys.argv = words[0], words
    try:
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def main():
    """Run all blocks that standard input lists; the exit status is 1 if a command failed."""
    blocks, failed = json.load(sys.stdin), []
    argparse.ArgumentParser.parse_known_args = read_small
    for file in (*CLONE.glob("models/yolov5n*.yaml"), *CLONE.glob("models/yolov5s*.yaml")):
        narrow(file)
    for page, data, lines in blocks:
        prepare(data or MINE, many=any("engine." in line for line in lines))
        if not any("train.py" in line for line in lines):
            export = any(
                "export.py" in line for line in lines
            )  # of a Swin model it takes a minute, and has tests of its own
            table = "models/yolov5n.yaml" if export else "models/yolov5n-swinv2.yaml"
            write_weights("runs/train/exp/weights/best.pt", table, (data or MINE)["names"])
        for line in lines:
            say(f"\n### {page}: {line}")
            start = time.process_time()
            try:
                status = run(line)
            except BaseException:  # noqa: BLE001 - whatever ended the command is what is reported
                traceback.print_exc()
                status = 1
            say(f"### status {status} after {time.process_time() - start:.1f} s of CPU time")
            if status not in (0, 1 if "--strict" in line else 0):
                failed.append(f"{page}: {line}")
            for best in CLONE.glob("runs/train/*/weights/best.pt"):
                if (load_checkpoint(best)["thresholds"] or {}).get("conf") is None:
                    add_thresholds(best, SAVED)
    say("\n".join(["", f"{len(failed)} commands failed", *failed]))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
