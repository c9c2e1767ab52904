"""The options of val.py."""

import argparse
from collections.abc import Sequence
from typing import Any

from utils.options.check import BATCH, COUNT, SHARE, SIDE, WORKERS
from utils.paths import ROOT

SPLIT_TASKS = ("train", "val", "test", "speed")
TASKS = (*SPLIT_TASKS, "study")


class Sides(argparse.Action):
    """One number, or several as a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: list[int], option: str | None = None
    ) -> None:
        """Store them."""
        setattr(namespace, self.dest, values if len(values) > 1 else values[0])


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """Return the parser; it also checks what comes from Python (`utils.options.check`)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="data/demo.yaml", help="dataset YAML")
    add(
        "--weights",
        nargs="+",
        required=True,
        help="checkpoint, or official weights such as yolov5s.pt; several form an ensemble, or are timed one by one",
    )
    add("--batch-size", type=BATCH, default=32, help="images per batch")
    add(
        "--imgsz",
        "--img",
        "--img-size",
        action=Sides,
        nargs="+",
        type=SIDE,
        default=640,
        help="long side of the network input in pixels, or height and width for files exported with both",
    )
    add("--conf-thres", type=SHARE, default=0.001, help="lowest confidence that counts")
    add("--iou-thres", type=SHARE, default=0.6, help="IoU above which NMS drops the weaker box")
    add("--max-det", type=COUNT, default=300, help="detections kept per image")
    add(
        "--task",
        default="val",
        choices=TASKS,
        help="split to validate; speed: time per image; study: image sizes 256 to 1536",
    )
    add("--device", default="", help="0, cpu, mps; empty: CUDA if available")
    add("--workers", type=WORKERS, default=8, help="maximum number of data loading processes")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--augment", action="store_true", help="test-time augmentation: three views of each image")
    add("--verbose", action="store_true", help="print every class")
    add("--save-txt", action="store_true", help="write a text file per image")
    add("--save-hybrid", action="store_true", help="write both labels and other detections into the text files")
    add("--save-conf", action="store_true", help="add the confidence to the text files")
    add("--save-json", action="store_true", help="write a COCO result file; always with coco.yaml")
    add("--report", action="store_true", help="write report.html: the images with the most errors first")
    add("--project", default=str(ROOT / "runs/val"), help="parent of the run folder")
    add("--name", default="exp", help="run folder")
    add("--exist-ok", action="store_true", help="use the run folder even if it exists")
    add("--half", action="store_true", help="compute in float16, CUDA only")
    add("--dnn", action="store_true", help="use OpenCV for .onnx files")
    add("--window", nargs="+", type=COUNT, help="other windows for the Swin stages: one side for all, or one for each")
    return parser


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Validate a detector on a labelled dataset."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(description).parse_args(argv)
