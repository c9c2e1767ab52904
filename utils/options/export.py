"""The options of export.py."""

import argparse
from collections.abc import Sequence

from utils.formats import EXPORTS
from utils.options.check import BATCH, COUNT, SHARE, SIDE, Number
from utils.options.exporter import ExportOptions


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """Return the parser; it also checks what comes from Python (`utils.options.check`)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    d = ExportOptions()
    add("--data", default="", help="dataset YAML: images for --int8 and for the comparison; default: random images")
    add("--weights", nargs="+", default=None, help="checkpoint, or official weights such as yolov5s.pt, or several")
    add(
        "--imgsz", "--img", "--img-size", nargs="+", type=SIDE, default=[640, 640], help="height and width, or one side"
    )
    add("--batch-size", type=BATCH, default=1, help="images per batch; with --dynamic the largest of a TensorRT engine")
    add("--device", default="cpu", help="where the model is traced: cpu, 0, ...")
    add("--half", action="store_true", help="float16 inside; input and output stay float32")
    add("--int8", action="store_true", help="8-bit quantisation, calibrated on --data")
    add("--dynamic", action="store_true", help="any batch, height and width")
    add("--simplify", action="store_true", help="simplify the ONNX graph with onnxslim")
    add("--optimize", action="store_true", help="freeze and optimise TorchScript")
    add("--opset", type=Number(int), default=d.opset, help="ONNX operator set, 18 to 20")
    add("--nms", action="store_true", help="suppress overlapping boxes inside the graph (ONNX, TensorRT)")
    add("--agnostic-nms", action="store_true", help="boxes of different classes suppress each other")
    add("--topk-all", type=COUNT, default=d.topk_all, help="detections kept per image")
    add("--iou-thres", type=SHARE, default=d.iou_thres, help="IoU above which the weaker box is dropped")
    add("--conf-thres", type=SHARE, default=d.conf_thres, help="confidence that a detection must exceed")
    add("--workspace", type=Number(float), default=d.workspace, help="GiB for the TensorRT builder")
    add("--cache", default="", help="file of TensorRT's timing cache")
    add("--verbose", action="store_true", help="detailed log of the TensorRT builder")
    add("--calibration", type=COUNT, default=d.calibration_images, help="maximum number of images used for --int8")
    add(
        "--check-tensorrt",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="check FILE.onnx, or the ONNX file that is written, against TensorRT's operator table",
    )
    add("--include", nargs="+", default=["onnx"], help=f"formats: {', '.join(EXPORTS)}")
    return parser


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Export a checkpoint to the formats of other runtimes."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(description).parse_args(argv)
