"""The options of export.py, which the exporters of all formats take as well."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

from utils.options.check import BATCH, COUNT, SHARE, SIDE, UntouchedList
from utils.options.formats import EXPORTS
from utils.options.table import make_parser, option, refused
from utils.thresholds import CONF_THRES, IOU_THRES

OPSETS = (18, 20)  # TensorRT 10 reads up to 20, torch.onnx.export writes from 18 on


@dataclass(frozen=True)
class ExportOptions:
    """Options of export.py, see `utils.options.table`. A format follows those that its row in `formats.py` names.

    Attributes:
        imgsz: for the exporters height and width, multiples of the largest stride.
        real_images: no option, but what comes of `data`: makes an iterator over real images, float32 (1, 3, height,
            width) in 0..1 of size `imgsz`, for int8 and for the check after writing; None where no dataset was given.
    """

    data: Any = option("", "dataset YAML: images for --int8 and for the comparison; default: random images")
    weights: list[str] | None = option(None, "checkpoint, or official weights such as yolov5s.pt, or several")
    imgsz: list[Annotated[int, SIDE]] = option(
        UntouchedList([640, 640]),
        "height and width, or one side; default: those of a model trained with both, else 640",
        *("--imgsz", "--img", "--img-size"),
    )
    batch_size: Annotated[int, BATCH] = option(1, "images per batch; with --dynamic the largest of a TensorRT engine")
    device: Any = option("cpu", "where the model is traced: cpu, 0, ...")
    include: list[str] = option(["onnx"], f"formats: {', '.join(EXPORTS)}")
    half: bool = option(False, "float16 inside; input and output stay float32")
    inplace: bool = refused(False, "the exported graph is the same with and without it: remove it")
    keras: bool = refused(False, "TensorFlow is not supported: export onnx and convert it with onnx2tf")
    optimize: bool = option(False, "freeze and optimise TorchScript")
    int8: bool = option(False, "8-bit quantisation, calibrated on --data")
    dynamic: bool = option(False, "any batch, height and width")
    simplify: bool = option(False, "simplify the ONNX graph with onnxslim")
    opset: int = option(OPSETS[1], f"ONNX operator set, {OPSETS[0]} to {OPSETS[1]}")
    verbose: bool = option(False, "detailed log of the TensorRT builder")
    workspace: float = option(4.0, "GiB for the TensorRT builder")
    nms: bool = option(False, "suppress overlapping boxes inside the graph (ONNX, TensorRT)")
    agnostic_nms: bool = option(False, "boxes of different classes suppress each other")
    topk_per_class: int = refused(100, "--topk-all limits the detections of an image, of all classes together")
    topk_all: Annotated[int, COUNT] = option(100, "detections kept per image")
    iou_thres: Annotated[float, SHARE] = option(IOU_THRES, "IoU above which the weaker box is dropped")
    conf_thres: Annotated[float, SHARE] = option(CONF_THRES, "confidence that a detection must exceed")
    _: KW_ONLY
    per_tensor: bool = refused(False, "8-bit TensorFlow Lite is not written: use --int8 with onnx or openvino")
    mlmodel: bool = refused(False, "CoreML is written as .mlpackage only: use --include coreml")
    cache: str = option("", "file of TensorRT's timing cache, read if there and written")
    calibration: Annotated[int, COUNT] = option(128, "maximum number of images used for --int8")
    check_tensorrt: bool | str = option(
        False,
        "check FILE.onnx, or the ONNX file that is written, against TensorRT's operator table",
        bare=True,
        metavar="FILE",
    )
    raw_heads: bool = option(False, "undecoded maps, (B, anchors * (5 + classes), H, W) per level, in place of boxes")
    runtime: list[str] = option(
        [],
        "oldest runtimes that must read the ONNX file, such as onnxruntime==1.16 tensorrt==8.6",
        metavar="NAME==VERSION",
    )
    real_images: Callable[[], Iterator[Any]] | None = None


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Export a checkpoint to the formats of other runtimes."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(ExportOptions, description).parse_args(argv)
