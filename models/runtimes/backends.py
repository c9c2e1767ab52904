"""Run a detector from any of its files: one small class per run time behind one interface.

Every run time takes images (B, 3, H, W), floats 0..1, and gives boxes (B, R, 5 + nc) float32 `[xywh_net, objectness,
scores 0..1]`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.class_names import parse_names
from models.runtimes.base import Runtime
from models.runtimes.mobile_files import LiteRtBackend, NcnnBackend
from models.runtimes.onnx_files import OnnxRuntimeBackend, OpenCvBackend
from models.runtimes.openvino_files import OpenVinoBackend
from models.runtimes.tensorrt_files import TensorRtBackend
from models.runtimes.torch_files import Pt2Backend, TorchScriptBackend
from models.weights.checkpoint import attempt_load
from utils.console import LOGGER
from utils.files import yaml_load
from utils.formats import FORMATS, NMS, ROWS, Format


class PyTorchBackend(nn.Module):
    """A checkpoint, or several as an ensemble.

    Args:
        weights: .pt files.
        device: where to compute.
        fp16: compute in float16, CUDA only.
        fuse: merge every BatchNorm into its convolution.
        window: another window for the Swin stages, see `attempt_load`.

    Raises:
        FileNotFoundError, ValueError: from `attempt_load`; or float16 without CUDA.
    """

    batch_size: int | None = None
    imgsz: tuple[int, int] | None = None
    end2end = False

    def __init__(
        self,
        weights: Sequence[str | Path],
        device: torch.device,
        *,
        fp16: bool,
        fuse: bool,
        window: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if fp16 and device.type != "cuda":
            raise ValueError(
                f"half precision needs CUDA, but the device is {device}: leave --half out, or try --device 0"
            )
        self.model = attempt_load(weights, device, fuse, window)
        self.dtype = torch.float16 if fp16 else torch.float32
        self.model.to(self.dtype, memory_format=torch.channels_last)  # the faster layout on CPU and CUDA
        self.names = dict(self.model.names)
        self.stride = max(int(self.model.stride.max()), 32)

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        """Run images (B, 3, H, W), floats 0..1; return the boxes, float32 (B, R, 5 + nc)."""
        images = images.to(self.dtype, memory_format=torch.channels_last)
        return self.model(images, augment=augment)[0].float()


RUNTIMES: dict[str, type[Runtime]] = {  # `Format.argument` -> class(file, device)
    "torchscript": TorchScriptBackend,
    "onnx": OnnxRuntimeBackend,
    "pt2": Pt2Backend,
    "openvino": OpenVinoBackend,
    "engine": TensorRtBackend,
    "ncnn": NcnnBackend,
    "tflite": LiteRtBackend,
}
DEFAULT_STRIDE = 32


class DetectMultiBackend(nn.Module):
    """A detector from a file of any format of `utils/formats.py`, chosen by the end of its name.

    Class names and stride come from the file, the names else from `data`, else they are class0, class1, ... and 32.

    Args:
        weights: file or folder, or several .pt files that are run as one ensemble. An OpenVINO folder may also be named
            by its .xml file.
        device: where to compute.
        dnn: run .onnx files in OpenCV instead of ONNX Runtime.
        data: data set YAML with the class names, for files that hold none.
        fp16: compute in float16: of a checkpoint on CUDA. The precision of an exported file is its own.
        fuse: merge every BatchNorm into its convolution (.pt).
        window: another window for the Swin stages (.pt), see `attempt_load`.

    Attributes:
        names: class number to name. nc: how many. stride: the sides of the images must be multiples of it.
        pt: whether PyTorch runs a checkpoint. fp16: whether float16 is computed in. batch_size, imgsz: images and
            (height, width) of a file with fixed sizes, or None. Other numbers of images are split and filled up here;
            other sizes are an error.
        end2end: whether the file has suppressed overlapping boxes already. Its detections come as boxes like all
            others, with confidence as objectness and 1 as score of their class, so that another suppression with an
            IoU threshold of at least the file's leaves them as they are.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be used, or its run time is not installed.
    """

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path],
        device: str | torch.device = "cpu",
        *,
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
        window: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        files = [Path(weights)] if isinstance(weights, str | Path) else [Path(file) for file in weights]
        if not files:
            raise ValueError("no weights given: name a checkpoint such as runs/train/exp/weights/best.pt")
        self.device = torch.device(device)
        kinds = {kind_of(file).argument for file in files}
        self.pt = kinds == {"-"}
        if len(files) > 1 and not self.pt:
            raise ValueError(f"an ensemble takes checkpoints (.pt) only, but got {', '.join(map(str, files))}")
        if dnn and kinds != {"onnx"}:
            raise ValueError(f"OpenCV (dnn) runs .onnx files only, not {files[0]}: leave --dnn out")
        if window and not self.pt:
            raise ValueError(f"{files[0]}: its windows are fixed; only those of a checkpoint (.pt) can be changed")
        if self.pt:
            self.backend = PyTorchBackend(files, self.device, fp16=fp16, fuse=fuse, window=window)
            self.fp16 = fp16
        else:
            (kind,) = kinds
            if kind not in RUNTIMES:
                raise ValueError(
                    f"{files[0]}: {FORMATS[kind].name} files run on Apple's systems, in programs of their own, not "
                    "here: use the checkpoint (.pt), or export.py --include onnx"
                )
            self.backend = (OpenCvBackend if dnn else RUNTIMES[kind])(existing(files[0]), self.device)
            self.fp16 = self.backend.half
            if fp16 and not self.fp16:
                LOGGER.warning(f"{files[0]}: --half is not followed, this file computes in float32: export with --half")
        self.stride = self.backend.stride or DEFAULT_STRIDE
        self.batch_size, self.imgsz = self.backend.batch_size, self.backend.imgsz
        self.end2end = self.backend.end2end
        self.names = self.backend.names or self._find_names(files[0], data)
        self.nc = len(self.names)

    def _find_names(self, file: Path, data: str | Path | None) -> dict[int, str]:
        """Return the names of a file that holds none."""
        names = parse_names(yaml_load(data).get("names"), data) if data else None
        classes = self.backend.nc
        if classes is None and not self.end2end:
            size = self.imgsz or (10 * self.stride, 10 * self.stride)
            blank = torch.zeros(self.batch_size or 1, 3, *size, device=self.device)
            classes = self.backend(blank).shape[2] - 5
        if names and classes and len(names) != classes:
            raise ValueError(f"{file}: it gives scores of {classes} classes, but {data} names {len(names)}")
        if names is None:
            if classes is None:
                raise ValueError(f"{file}: it says neither names nor number of its classes: give --data")
            LOGGER.warning(f"{file}: it holds no class names, they are called class0, class1, ...: give --data")
            names = {i: f"class{i}" for i in range(classes)}
        self.backend.nc = len(names)
        return names

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        """Detect.

        Args:
            images: (B, 3, H, W) floats 0..1, sides multiples of `stride`.
            augment: look at three views (`models.tta`), checkpoints only.

        Returns:
            (B, R, 5 + nc) float32 `[xywh_net, objectness, scores 0..1]` on `device`.

        Raises:
            ValueError: a size that the file does not take, or `augment` with an exported file.
        """
        return self.backend(images.to(self.device), augment)

    def check_suppression(
        self, conf_thres: float, iou_thres: float, max_det: int, agnostic: bool = False, multi_label: bool = False
    ) -> None:
        """Warn of settings of `non_max_suppression` that a file with NMS inside does not follow; it has its own.

        What is stricter than the file is followed: the detections go through `non_max_suppression` once more.
        """
        if not self.end2end:
            return
        own = {name: self.backend.metadata.get(name) for name in NMS[1:]}
        parts = []
        for name, what, asked, loose in (
            ("conf_thres", "the confidence threshold", conf_thres, lambda own: conf_thres < own),
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

    def warmup(self, imgsz: tuple[int, int] = (640, 640)) -> None:
        """Run one empty image of this height and width, so that the first real one is not slow; nothing on a CPU."""
        if self.device.type != "cpu":
            self.forward(torch.zeros(self.batch_size or 1, 3, *(self.imgsz or imgsz), device=self.device))


def kind_of(file: Path) -> Format:
    """Return the row of the format table for a file or folder by the end of its name; .xml is OpenVINO.

    Raises:
        ValueError: no row fits.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(file)):
        raise ValueError(f"{file}: addresses are not fetched or asked. Download the file and give its path")
    name = file.name.lower()
    ends = {row.suffix: row for row in ROWS} | {".xml": next(row for row in ROWS if row.argument == "openvino")}
    for end, row in ends.items():
        if name.endswith(end):
            return row
    listed = ", ".join(f"{end} ({row.name})" for end, row in ends.items())
    raise ValueError(f"{file}: no known kind of model by its name. Supported are names that end in {listed}")


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
