"""The options of val.py."""

import argparse
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

from utils.options.check import (
    BATCH,
    CONF,
    COUNT,
    SHARE,
    SIDE,
    TILE,
    WORKERS,
    UntouchedFloat,
    UntouchedInt,
    class_value,
)
from utils.options.table import make_parser, option
from utils.paths import HOME

AP_CONF_THRES = UntouchedFloat(0.001)  # as in YOLOv5
SPLIT_TASKS = ("train", "val", "test", "speed")


@dataclass(frozen=True)
class ValOptions:
    """Options of val.py, see `utils.options.table`."""

    data: Any = option("data/demo.yaml", "dataset YAML")
    weights: list[str] | None = option(
        None,
        "checkpoint, or official weights such as yolov5s.pt; several form an ensemble, or are timed one by one",
        required=True,
    )
    batch_size: Annotated[int, BATCH] = option(32, "images per batch")
    imgsz: Annotated[int, SIDE] | list[Annotated[int, SIDE]] = option(
        UntouchedInt(640),
        "long side of the network input in pixels, or height and width; default: those of a model trained with both, "
        "or of a file that takes no other, else 640",
        *("--imgsz", "--img", "--img-size"),
    )
    conf_thres: Annotated[float | str, CONF] = option(
        AP_CONF_THRES,
        "lowest confidence that counts for mAP; images and confusion matrix show boxes above 0.25 as detect.py, or "
        "above the value given here; best and precision=0.95 as in detect.py, for all but mAP",
    )
    iou_thres: Annotated[float, SHARE] = option(
        UntouchedFloat(0.6),
        "IoU above which NMS drops the weaker box, for mAP; all else is counted with 0.45 as in detect.py, or with the "
        "value given here",
    )
    max_det: Annotated[int, COUNT] = option(
        UntouchedInt(300),
        "detections kept per image for mAP; for all else 1000 as in detect.py, or the value given here",
    )
    task: Literal["train", "val", "test", "speed", "study"] = option(
        "val", "split to validate; speed: time per image; study: image sizes 256 to 1536"
    )
    device: Any = option("", "0, cpu, mps; empty: CUDA if available")
    workers: Annotated[int, WORKERS] = option(8, "maximum number of data loading processes")
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "test-time augmentation: three views of each image")
    verbose: bool = option(False, "print every class")
    save_txt: bool = option(False, "write a text file per image")
    save_hybrid: bool = option(False, "write both labels and other detections into the text files")
    save_conf: bool = option(False, "add the confidence to the text files")
    save_json: bool = option(False, "write a COCO result file; always with coco.yaml")
    project: str = option(str(HOME / "runs/val"), "parent of the run folder")
    name: str = option("exp", "run folder")
    exist_ok: bool = option(False, "use the run folder even if it exists")
    half: bool = option(False, "compute in float16, CUDA only")
    dnn: bool = option(False, "use OpenCV for .onnx files")
    _: KW_ONLY
    as_detect: bool = option(
        False,
        "frame each image as detect.py does, without the padding that mAP of YOLOv5 has: all counts are then exactly "
        "those of detect.py, and mAP differs a little",
    )
    classes: list[Annotated[int | str, class_value]] | None = option(
        None,
        "count these classes of the dataset only, by name or number; those of the model are found by their names. "
        "Default: key classes of --data, or all",
    )
    report: bool = option(False, "write report.html: the images with the most errors first")
    coco: bool = option(False, "also print COCO's twelve numbers; needs pip install faster-coco-eval")
    save_thresholds: bool = option(False, "write the best confidences into the checkpoint, for detect.py --conf best")
    slice: Annotated[int, TILE] | list[Annotated[int, TILE]] = option(
        0, "look at large images in tiles of this side, or height and width, in pixels too, as detect.py does"
    )
    overlap: Annotated[float, SHARE] = option(0.2, "fraction of a tile that neighbours have in common")
    window: Annotated[int, COUNT] | list[Annotated[int, COUNT]] | None = option(
        None, "other windows for the Swin stages: one side for all, or one for each"
    )


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Validate a detector on a labelled dataset."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(ValOptions, description).parse_args(argv)
