"""The options of detect.py."""

import argparse
from collections.abc import Sequence

from utils.options.check import COUNT, SHARE, SIDE, Number
from utils.paths import ROOT
from utils.thresholds import CONF_THRES, IOU_THRES, MAX_DET

FORMS = (
    "an image, a video, a folder, a pattern in quotes such as 'photos/**/*.jpg', a .txt list of those, a .streams "
    "list, a URL, the number of a camera (unless a folder has that name), or screen [number] [left top width height]"
)


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """Return the parser; it also checks what comes from Python (`utils.options.check`)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        help="model file, or official weights such as yolov5s.pt; several .pt files work as an ensemble. Required",
    )
    add("--source", default=str(ROOT / "data/images"), help=FORMS)
    add("--data", help="dataset YAML with class names, for model files that hold none")
    add(
        "--imgsz",
        "--img",
        "--img-size",
        nargs="+",
        type=SIDE,
        default=[640],
        help="network input: side, or height width",
    )
    add("--conf-thres", type=SHARE, default=CONF_THRES, help="lowest confidence")
    add("--iou-thres", type=SHARE, default=IOU_THRES, help="IoU above which NMS drops the weaker box")
    add("--max-det", type=COUNT, default=MAX_DET, help="detections kept per image")
    add("--device", default="", help="0, cpu, mps; empty: CUDA if available")
    add("--view-img", action="store_true", help="show results in windows; q or Esc ends")
    add(
        "--save-txt",
        action="store_true",
        help="write labels/<image>.txt with rows `class x y w h`, divided by the size",
    )
    add("--save-format", type=int, default=0, choices=(0, 1), help="of --save-txt: 0 for x y w h, 1 for x1 y1 x2 y2")
    add("--save-conf", action="store_true", help="end the rows of --save-txt with the confidence")
    add("--save-csv", action="store_true", help="write predictions.csv; names such as =1+1 begin with an apostrophe")
    add("--save-json", action="store_true", help="write predictions.json in the result format of COCO")
    add("--save-crop", action="store_true", help="write each box as an image into crops/<class>/")
    add(
        "--save-frames", action="store_true", help="write annotated frames of videos and streams as images into frames/"
    )
    add("--report", action="store_true", help="write report.html: a page of all images that the browser can filter")
    add("--nosave", action="store_true", help="write no annotated images and videos")
    add("--classes", nargs="+", type=Number(int, 0), help="keep these class numbers only, such as --classes 0 2")
    add("--agnostic-nms", action="store_true", help="let boxes of different classes suppress each other")
    add(
        "--augment",
        action="store_true",
        help="test-time augmentation: three views of each image; slower, finds a little more",
    )
    add("--visualize", action="store_true", help="save feature maps, of videos those of the first frame")
    add("--update", action="store_true", help="at the end strip the training state from the .pt files in place")
    add("--project", default=str(ROOT / "runs/detect"), help="parent of the run folder")
    add("--name", default="exp", help="run folder")
    add("--exist-ok", action="store_true", help="use the run folder even if it exists")
    add("--line-thickness", type=Number(int, 1, 500), help="of boxes in pixels; by default by the size of the image")
    add("--hide-labels", action="store_true", help="draw boxes only")
    add("--hide-conf", action="store_true", help="write class names without confidences")
    add("--half", action="store_true", help="compute in float16 where the device can")
    add("--dnn", action="store_true", help="use OpenCV for .onnx files")
    add("--window", nargs="+", type=COUNT, help="other windows for the Swin stages: one side for all, or one for each")
    add("--vid-stride", type=COUNT, default=1, help="process every Nth frame of videos and streams")
    add(
        "--slice",
        type=Number(int, 0, SIDE.high),
        default=0,
        help="look at large images in tiles of this side in pixels too, such as 640",
    )
    add("--overlap", type=SHARE, default=0.2, help="fraction of a tile that neighbours have in common")
    return parser


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Detect objects in images and videos."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(description).parse_args(argv)
