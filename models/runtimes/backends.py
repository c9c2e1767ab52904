"""Run a detector from any of its files: one small class per runtime behind one interface.

Every run time takes images (B, 3, H, W), floats 0..1, and gives boxes (B, R, 5 + nc) float32 `[xywh_net, objectness,
scores 0..1]`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.experimental import Ensemble, attempt_load
from models.image_size import input_stride
from models.runtimes.base import Runtime
from models.runtimes.mobile_files import LiteRtBackend, NcnnBackend
from models.runtimes.onnx_files import OnnxRuntimeBackend, OpenCvBackend
from models.runtimes.openvino_files import OpenVinoBackend
from models.runtimes.tensorrt_files import TensorRtBackend
from models.runtimes.torch_files import Pt2Backend, TorchScriptBackend
from models.weights.class_names import parse_names
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.datasets.selection import select_classes
from utils.downloads.official_weights import find_weights
from utils.files import yaml_load
from utils.options.formats import FORMATS, NMS, format_of


class PyTorchBackend:
    """The network of a checkpoint, or of several as an ensemble, behind the interface of `Runtime`.

    It computes in the precision that the parameters of the network have at the time of the call.

    Args:
        network: in evaluation mode.
    """

    batch_size: int | None = None
    imgsz: tuple[int, int] | None = None
    end2end = False

    def __init__(self, network: DetectionModel | Ensemble) -> None:
        self.network = network
        self.names = dict(network.names)
        self.stride = input_stride(network.stride)
        self.thresholds, self.pixels = network.thresholds, network.pixels
        self.trained_size = network.trained_size

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.network.parameters()).dtype

    def __call__(self, images: Tensor, augment: bool = False) -> Tensor | list[Any]:
        """Detect in images (B, 3, H, W), 0..1.

        Returns:
            [boxes (B, R, 5 + nc) float32, raw maps of each level or None]; the boxes alone where `Detect.export` is
            set.
        """
        images = images.to(self.dtype, memory_format=torch.channels_last)  # the faster layout on CPU and CUDA
        output = self.network(images, augment=augment)
        return output[0].float() if len(output) == 1 else [output[0].float(), *output[1:]]


RUNTIMES: dict[str, Callable[[Path, torch.device], Runtime]] = {  # `Format.argument` -> class(file, device)
    "torchscript": TorchScriptBackend,
    "onnx": OnnxRuntimeBackend,
    "pt2": Pt2Backend,
    "openvino": OpenVinoBackend,
    "engine": TensorRtBackend,
    "ncnn": NcnnBackend,
    "tflite": LiteRtBackend,
}
DEFAULT_STRIDE = 32
FLAGS = {  # YOLOv5's attribute -> `Format.argument`, "" where the format is not run here
    "pt": "-",
    "jit": "torchscript",
    "onnx": "onnx",
    "xml": "openvino",
    "engine": "engine",
    "coreml": "coreml",
    "saved_model": "",
    "pb": "",
    "tflite": "tflite",
    "edgetpu": "",
    "tfjs": "",
    "paddle": "",
    "triton": "",
}


class DetectMultiBackend(nn.Module):
    """A detector from a file of any format of `utils/options/formats.py`, chosen by the end of its name.

    Class names and stride come from the file, the names else from `data`, else they are class0, class1, ... and 32.

    Args:
        weights: file or folder, or several .pt files that are run as one ensemble. An OpenVINO folder may also be named
            by its .xml file. A name of official weights means their file (`find_weights`).
        device: where to compute.
        dnn: run .onnx files in OpenCV instead of ONNX Runtime.
        data: dataset YAML with the class names, for files that hold none; not read otherwise.
        fp16: compute in float16: of a checkpoint on CUDA, elsewhere in float32 with a warning. The precision of an
            exported file is its own.
        fuse: merge every BatchNorm into its convolution (.pt).
        window: another window for the Swin stages (.pt), see `attempt_load`.

    Attributes:
        names: class number to name. nc: how many. stride: the sides of the images must be multiples of it.
        pt, jit, onnx, xml, engine, coreml, saved_model, pb, tflite, edgetpu, tfjs, paddle, triton: True for the format
            of the file, see `FLAGS`; pt is that of checkpoints.
        model: the network of a checkpoint, the module of a TorchScript file; other formats have none.
        device: where it computes. fp16: whether in float16. nhwc: False, images are (B, 3, H, W) for all formats.
        thresholds: confidences that suit the weights, or None, see `find_confidence`.
        trained_size: height and width of training or export, if these differ, see `models.image_size.trained_size`.
        pixels: `PixelFormat` of the images.
        batch_size, imgsz: images and (height, width) of a file with fixed sizes, or None. Other numbers of images are
            split and filled up here; other sizes are an error.
        end2end: whether the file has suppressed overlapping boxes already. Its detections come as boxes like all
            others, with confidence as objectness and 1 as score of their class, so that another suppression with an
            IoU threshold of at least the file's leaves them as they are.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be used, or its run time is not installed.
    """

    nhwc = False
    backend: Any  # a `PyTorchBackend`, or the `Runtime` of the format

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path] = (),
        device: str | torch.device = "cpu",
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
        *,
        window: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        files = [find_weights(file) for file in ([weights] if isinstance(weights, str | Path) else weights)]
        if not files:
            raise ValueError("no weights given: name a checkpoint such as runs/train/exp/weights/best.pt")
        self._device = torch.device(device)
        kinds = {format_of(file).argument for file in files}
        if len(files) > 1 and kinds != {"-"}:
            raise ValueError(f"an ensemble takes checkpoints (.pt) only, but got {', '.join(map(str, files))}")
        (kind,) = kinds
        for flag, argument in FLAGS.items():
            setattr(self, flag, argument == kind)
        if dnn and kind != "onnx":
            raise ValueError(f"OpenCV (dnn) runs .onnx files only, not {files[0]}: remove --dnn")
        if window and not self.pt:
            raise ValueError(f"{files[0]}: its windows are fixed; only those of a checkpoint (.pt) can be changed")
        self.weights, self.w, self.dnn, self.data, self.fuse = weights, str(files[0]), dnn, data, fuse
        if self.pt:
            self._open_checkpoints(files, fp16, window)
        else:
            self._open_exported(files[0], kind, fp16)
        self.stride = self.backend.stride or DEFAULT_STRIDE
        self.batch_size, self.imgsz = self.backend.batch_size, self.backend.imgsz
        self.end2end, self.thresholds = self.backend.end2end, self.backend.thresholds
        self.trained_size, self.pixels = self.backend.trained_size, self.backend.pixels
        self.names = self.backend.names or self._find_names(files[0], data)
        self.nc = len(self.names)

    def _open_checkpoints(self, files: Sequence[Path], fp16: bool, window: int | Sequence[int] | None) -> None:
        if fp16 and self._device.type != "cuda":
            LOGGER.warning(f"--half needs CUDA, but the device is {self._device}: going on in float32")
            fp16 = False
        network = attempt_load(files, self._device, fuse=self.fuse, window=window)
        self.model = network.to(torch.float16 if fp16 else torch.float32, memory_format=torch.channels_last)
        self.backend = PyTorchBackend(self.model)

    def _open_exported(self, file: Path, kind: str, fp16: bool) -> None:
        if kind not in RUNTIMES:
            raise ValueError(
                f"{file}: {FORMATS[kind].name} files run on Apple devices only: use "
                "the checkpoint (.pt), or export.py --include onnx"
            )
        self.backend = (OpenCvBackend if self.dnn else RUNTIMES[kind])(existing(file), self._device)
        if self.jit:
            self.model = self.backend.module
        if fp16 and not self.fp16:
            LOGGER.warning(f"{file}: --half is ignored, as this file computes in float32: export it with --half")

    @property
    def device(self) -> torch.device:
        """Where it computes; a checkpoint can be moved with `to`."""
        return next(self.model.parameters()).device if self.pt else self._device

    @property
    def fp16(self) -> bool:
        """Whether it computes in float16."""
        return self.backend.dtype == torch.float16 if self.pt else self.backend.half

    def _find_names(self, file: Path, data: str | Path | None) -> dict[int, str]:
        """Return the names of a file that holds none."""
        content = yaml_load(data) if data else {}
        names = parse_names(content.get("names"), data) if data else None
        classes = self.backend.nc
        if classes is None and not self.end2end:
            size = self.imgsz or (10 * self.stride, 10 * self.stride)
            blank = torch.zeros(self.batch_size or 1, self.pixels.channels, *size, device=self._device)
            classes = self.backend(blank).shape[2] - 5
        selection = select_classes(names, content, data) if names else None
        if selection and classes in (None, len(selection.names)):
            names = dict(selection.names)
        if names and classes and len(names) != classes:
            raise ValueError(f"{file}: it outputs scores for {classes} classes, but {data} names {len(names)}")
        if names is None:
            if classes is None:
                raise ValueError(f"{file}: it holds neither the names nor the number of its classes: give --data")
            LOGGER.warning(f"{file}: it holds no class names, they are called class0, class1, ...: give --data")
            names = {i: f"class{i}" for i in range(classes)}
        self.backend.nc = len(names)
        return names

    def forward(
        self, im: Tensor, augment: bool = False, visualize: bool = False, val: bool = False
    ) -> Tensor | list[Any] | tuple[Tensor, list[Any]]:
        """Detect. Both the result and its first element can be given to `non_max_suppression`.

        Args:
            im: images, (B, 3, H, W) floats 0..1, sides multiples of `stride`.
            augment: look at three views (`models.tta`), checkpoints only.
            visualize: only False: YOLOv5's scripts pass it on.
            val: return a pair for every format, as validation scripts of YOLOv5 6.1 and 6.2 expect.

        Returns:
            Boxes (B, R, 5 + nc) float32 `[xywh_net, objectness, scores 0..1]` on `device`. Of a checkpoint a list:
            these boxes, and the raw maps of each level (B, A, H, W, 5 + nc), None with `augment`; the boxes alone after
            `AutoShape` has wrapped it.

        Raises:
            ValueError: a size that the file does not take, `augment` with an exported file, or `visualize`.
        """
        if visualize:
            raise ValueError("feature maps are written by detect.py --visualize, not by the model")
        output = self.backend(im.to(self.device), augment)
        return (output, []) if val and isinstance(output, Tensor) else output

    def from_numpy(self, x: NDArray | Tensor) -> Tensor:
        """Return an array as a tensor on `device`."""
        return torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    @staticmethod
    def _model_type(p: str | Path = "path/to/model.pt") -> list[bool]:
        """Return the flags of a file in the order of `FLAGS`."""
        kind = format_of(p).argument
        return [argument == kind for argument in FLAGS.values()]

    def check_suppression(
        self,
        conf_thres: float | Sequence[float],
        iou_thres: float,
        max_det: int,
        agnostic: bool = False,
        multi_label: bool = False,
    ) -> None:
        """Warn of settings of `non_max_suppression` that a file with NMS inside does not follow; it has its own.

        What is stricter than the file is followed: the detections go through `non_max_suppression` once more.
        """
        if not self.end2end:
            return
        own = {name: self.backend.metadata.get(name) for name in NMS[1:]}
        lowest = min(conf_thres) if isinstance(conf_thres, Sequence) else conf_thres
        parts = []
        for name, what, asked, loose in (
            ("conf_thres", "the confidence threshold", lowest, lambda own: lowest < own),
            ("iou_thres", "the IoU threshold", iou_thres, lambda own: iou_thres > own),
            ("topk_all", "the most detections per image", max_det, lambda own: max_det > own),
        ):
            if type(own[name]) not in (int, float):
                parts.append(f"{what} is not {asked}, but unknown")
            elif loose(own[name]):
                parts.append(f"{what} is {own[name]}, not {asked}")
        if own["agnostic_nms"] is not False and not agnostic:
            parts.append("boxes of different classes suppress each other")
        if multi_label:
            parts.append("a box has one class only")
        if parts:
            LOGGER.warning(
                f"{self.backend.file}: exported with --nms, which cannot be loosened afterwards: {'; '.join(parts)}. "
                "For other settings export it again"
            )

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640), half: bool = False) -> None:
        """Run black images, so that the first real ones are not slow; nothing on a CPU.

        Args:
            imgsz: (B, C, H, W); a file with fixed sizes gets its own, and each its number of channels.
            half: give float16, as YOLOv5 6.1 did; they are converted into the precision of the file.
        """
        if self.device.type != "cpu":
            b, _, h, w = imgsz
            h, w = self.imgsz or (h, w)
            dtype = torch.float16 if half else torch.float32
            self.forward(torch.zeros(self.batch_size or b, self.pixels.channels, h, w, dtype=dtype, device=self.device))


def existing(file: Path) -> Path:
    """Return a file or folder that exists.

    Raises:
        FileNotFoundError: it does not.
        ValueError: it, or a file in it, is a pipe or device, from which reading may never end.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file or folder (looked in {file.absolute().parent})")
    for part in (file, *(file.iterdir() if file.is_dir() else ())):
        if not part.is_file() and not part.is_dir():
            raise ValueError(f"{part}: neither a file nor a folder")
    return file
