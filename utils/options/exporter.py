"""Options of the exporters: one set for all formats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.thresholds import CONF_THRES, IOU_THRES

if TYPE_CHECKING:  # the options of export.py are read before torch is loaded
    from torch import Tensor

OPSETS = (18, 20)  # TensorRT 10 reads up to 20, torch.onnx.export writes from 18 on
DEFAULT_OPSET = 20  # the highest that TensorRT 10 reads; it has Gelu as one operator


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export. A format follows those that its row in `utils/formats.py` names.

    Attributes:
        imgsz: height and width of the network input, multiples of the largest stride.
        batch: images per batch of a static file; the largest one in a dynamic TensorRT profile.
        half: weights and computation in float16; input and output stay float32.
        int8: 8-bit weights and activations, calibrated on `calibration`.
        dynamic: make batch, height and width dynamic.
        optimize: freeze and optimise TorchScript for inference.
        simplify: simplify the ONNX graph with onnxslim.
        opset: ONNX operator set, 18 to 20.
        nms: suppress within the graph; outputs detections (B, topk_all, 6) `[xyxy_net, confidence, class]`, best first,
            padded with zeros, and num (B,).
        agnostic_nms: boxes of different classes suppress each other.
        topk_all: detections kept per image.
        iou_thres: IoU above which the weaker box is dropped.
        conf_thres: confidence that a detection must exceed.
        workspace: GiB that the TensorRT builder may use.
        cache: file of TensorRT's timing cache, read if there and written; "" for none.
        verbose: detailed log of the TensorRT builder.
        calibration_images: images used for int8, at most.
        calibration: makes an iterator over real images, float32 (1, 3, height, width) in 0..1 of size `imgsz`, for
            int8 and for the check after writing; None where no dataset was given.
    """

    imgsz: tuple[int, int] = (640, 640)
    batch: int = 1
    half: bool = False
    int8: bool = False
    dynamic: bool = False
    optimize: bool = False
    simplify: bool = False
    opset: int = DEFAULT_OPSET
    nms: bool = False
    agnostic_nms: bool = False
    topk_all: int = 100
    iou_thres: float = IOU_THRES
    conf_thres: float = CONF_THRES
    workspace: float = 4.0
    cache: str = ""
    verbose: bool = False
    calibration_images: int = 128
    calibration: Callable[[], Iterator["Tensor"]] | None = None
