"""The options of detect.py."""

import argparse
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

from utils.options.check import CONF, COUNT, SHARE, SIDE, TILE, Number, UntouchedList, class_value
from utils.options.table import make_parser, option
from utils.paths import HOME
from utils.thresholds import CONF_THRES, IOU_THRES, MAX_DET

FORMS = (
    "an image, a video, a folder, a pattern in quotes such as 'photos/**/*.jpg', a .txt list of those, a .streams "
    "list, a URL, the number of a camera (unless a folder has that name), or screen [number] [left top width height]"
)


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.py, see `utils.options.table`."""

    weights: list[str] | None = option(
        None, "model file, or official weights such as yolov5s.pt; several .pt files work as an ensemble. Required"
    )
    source: str | list[str] = option(
        str(HOME / "data/images"), f"{FORMS}; or several of these, of files or of cameras and streams"
    )
    data: str | None = option(None, "dataset YAML with class names, for model files that hold none")
    imgsz: list[Annotated[int, SIDE]] = option(
        UntouchedList([640]),
        "network input: side, or height and width; default: those of a model trained with both, else 640",
        *("--imgsz", "--img", "--img-size"),
    )
    conf_thres: Annotated[float | str, CONF] = option(
        CONF_THRES,
        "lowest confidence; best: that of the best F1; best-class: of each class; precision=0.95: the lowest with that "
        "precision. Training and val.py --save-thresholds save them with the weights",
    )
    iou_thres: Annotated[float, SHARE] = option(IOU_THRES, "IoU above which NMS drops the weaker box")
    max_det: Annotated[int, COUNT] = option(MAX_DET, "detections kept per image")
    device: Any = option("", "0, cpu, mps; empty: CUDA if available")
    view_img: bool = option(False, "show results in windows; q or Esc ends")
    save_txt: bool = option(False, "write labels/<image>.txt with rows `class x y w h`, divided by the size")
    save_format: Literal[0, 1] = option(0, "of --save-txt: 0 for x y w h, 1 for x1 y1 x2 y2")
    save_csv: bool = option(False, "write predictions.csv; names such as =1+1 begin with an apostrophe")
    save_conf: bool = option(False, "end the rows of --save-txt with the confidence")
    save_crop: bool = option(False, "write each box as an image into crops/<class>/")
    nosave: bool = option(False, "write no annotated images and videos")
    classes: list[Annotated[int | str, class_value]] | None = option(
        None, "keep these classes only, by name or number, such as --classes 0 'traffic light'"
    )
    agnostic_nms: bool = option(False, "let boxes of different classes suppress each other")
    augment: bool = option(False, "test-time augmentation: three views of each image; slower, finds a little more")
    visualize: bool = option(
        False, "save feature maps, and for the best box attention and class activation; of videos for the first frame"
    )
    update: bool = option(False, "at the end strip the training state from the .pt files in place")
    project: str = option(str(HOME / "runs/detect"), "parent of the run folder")
    name: str = option("exp", "run folder")
    exist_ok: bool = option(False, "use the run folder even if it exists")
    line_thickness: Annotated[int, Number(int, 1, 500)] | None = option(
        None, "of boxes in pixels; by default by the size of the image"
    )
    hide_labels: bool = option(False, "draw boxes only")
    hide_conf: bool = option(False, "write class names without confidences")
    half: bool = option(False, "compute in float16 where the device can")
    dnn: bool = option(False, "use OpenCV for .onnx files")
    vid_stride: Annotated[int, COUNT] = option(1, "process every Nth frame of videos and streams")
    _: KW_ONLY
    save_json: bool = option(False, "write predictions.json in the result format of COCO")
    save_frames: bool = option(False, "write annotated frames of videos and streams as images into frames/")
    report: bool = option(False, "write report.html: a page of all images that the browser can filter")
    window: Annotated[int, COUNT] | list[Annotated[int, COUNT]] | None = option(
        None, "other windows for the Swin stages: one side for all, or one for each"
    )
    slice: Annotated[int, TILE] | list[Annotated[int, TILE]] = option(
        0, "look at large images in tiles of this side, or height and width, in pixels too, such as 640"
    )
    overlap: Annotated[float, SHARE] = option(0.2, "fraction of a tile that neighbours have in common")
    batch_size: Annotated[int, COUNT] | None = option(
        None,
        "most images, or frames of videos, that go through the network at once, each framed as it is alone; default: "
        "1, or the number of a file with fixed batches; of streams the newest frame of each",
    )
    as_dataset: str | None = option(
        None,
        "write images and detections as a dataset for train.py into this new folder, divided into train and val and "
        "checked by the doctor; frames of videos become images",
        metavar="FOLDER",
    )
    track: Annotated[float, Number(float, 0, 3600)] | bool = option(
        False,
        "follow objects through videos and streams (pip install 'trackers>=2.6' 'supervision<0.30'): their identity is "
        "shown and written; one that is lost is remembered for so many seconds (1)",
        bare=1.0,
        metavar="SECONDS",
    )


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Detect objects in images and videos."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(DetectOptions, description).parse_args(argv)
