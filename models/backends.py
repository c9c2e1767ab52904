"""Run a detector from any of its files: one small class per run time behind one interface.

Every run time takes images (B, 3, H, W), floats 0..1, and gives boxes (B, R, 5 + nc) float32 `[xywh_net, objectness,
scores 0..1]`. A file with the suppression inside gives its detections in the same form, K rows an image; another
suppression at the same or a higher IoU threshold leaves them as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import attempt_load
from models.runtimes.base import Runtime, parse_names
from models.runtimes.engine_files import TensorRtBackend
from models.runtimes.mobile_files import NcnnBackend
from models.runtimes.onnx_files import OnnxRuntimeBackend, OpenCvBackend
from models.runtimes.openvino_files import OpenVinoBackend
from models.runtimes.torch_files import Pt2Backend, TorchScriptBackend
from utils.files import yaml_load
from utils.formats import format_of
from utils.general import LOGGER, check_file

RUNTIMES: dict[str, Callable[[Path, torch.device], Runtime]] = {  # word of --include -> run time
    "torchscript": TorchScriptBackend,
    "onnx": OnnxRuntimeBackend,
    "pt2": Pt2Backend,
    "openvino": OpenVinoBackend,
    "engine": TensorRtBackend,
    "ncnn": NcnnBackend,
}


class PyTorchBackend(nn.Module):
    """A checkpoint, or several as an ensemble.

    Args:
        weights: .pt files.
        device: where to compute.
        fp16: compute in float16, CUDA only.
        fuse: merge every BatchNorm into its convolution.
        window: see `attempt_load`.

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
        self.model.to(self.dtype)
        self.names = dict(self.model.names)
        self.nc = self.model.nc
        self.stride = max(int(self.model.stride.max()), 32)

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        return self.model(images.to(self.dtype), augment=augment)[0].float()


class DetectMultiBackend(nn.Module):
    """A detector from a file of any supported format, told by the end of its name (`utils.formats`).

    Args:
        weights: file or folder, or several .pt files that are run as one ensemble.
        device: where to compute.
        dnn: run an .onnx file with OpenCV instead of ONNX Runtime.
        data: data set YAML with class names, for files that hold none.
        fp16: compute in float16, for checkpoints on CUDA; the other files have their precision inside.
        fuse: merge every BatchNorm into its convolution (.pt).
        window: another window for the Swin stages (.pt), see `attempt_load`.

    Attributes:
        names: class number to name. nc: how many. stride: the sides of the images must be multiples of it.
        pt: whether PyTorch runs it. batch_size, imgsz: images and (height, width) of a file with fixed sizes, or None.
        end2end: whether the file suppresses overlapping boxes itself.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be used; a missing package, with the pip line.
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
        self.device, self.fp16 = torch.device(device), fp16
        kinds = {format_of(file).argument for file in files}
        self.pt = kinds == {"-"}
        if dnn and kinds != {"onnx"}:
            raise ValueError(f"--dnn is for one .onnx file, not for {', '.join(map(str, files))}")
        if not self.pt and len(files) > 1:
            raise ValueError(f"only .pt files make an ensemble, not {', '.join(map(str, files))}")
        if not self.pt and window:
            raise ValueError(f"{files[0]}: its windows are fixed; only those of a .pt file can be changed")
        if self.pt:
            self.backend = PyTorchBackend(files, self.device, fp16=fp16, fuse=fuse, window=window)
        else:
            self.backend = _open(files[0], OpenCvBackend if dnn else RUNTIMES[kinds.pop()], self.device, fp16)
        self.stride = self.backend.stride or 32
        self.names = self.backend.names or _names_of(data, self.backend.nc, files[0])
        self.nc = len(self.names)
        self.batch_size, self.imgsz, self.end2end = self.backend.batch_size, self.backend.imgsz, self.backend.end2end

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        """Detect.

        Args:
            images: (B, 3, H, W) floats 0..1, sides multiples of `stride`.
            augment: look at three views (`models.tta`), PyTorch only.

        Returns:
            (B, R, 5 + nc) float32 `[xywh_net, objectness, scores 0..1]` on `device`.
        """
        return self.backend(images.to(self.device), augment)

    def warmup(self, imgsz: tuple[int, int] = (640, 640)) -> None:
        """Run one empty image of this height and width, so that the first real one is not slow; nothing on a CPU."""
        if self.device.type != "cpu":
            size = self.imgsz or imgsz
            self.forward(torch.zeros(self.batch_size or 1, 3, *size, device=self.device))


def _open(file: Path, runtime: Callable[[Path, torch.device], Runtime], device: torch.device, fp16: bool) -> Runtime:
    """Open an exported file or folder; FileNotFoundError if it is not there."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such model file (looked in {file.absolute().parent})")
    if fp16:
        LOGGER.warning(f"--half has no effect on {file}: its precision was chosen when it was exported")
    return runtime(file, device)


def _names_of(data: str | Path | None, nc: int | None, file: Path) -> dict[int, str]:
    """Return the class names of a data set for a file that holds none, or class0, class1, ... with a warning.

    Raises:
        ValueError: the data set has another number of classes, or nobody knows the number.
    """
    if data:
        value = yaml_load(check_file(data, (".yaml", ".yml"))).get("names")
        names = parse_names(list(value.values()) if isinstance(value, Mapping) else value, data)
        if names and nc in (None, len(names)):
            return names
        raise ValueError(f"{data} names {len(names or ())} classes, but {file} has {nc}")
    if nc is None:
        raise ValueError(f"{file}: holds no class names: name the data set with --data")
    LOGGER.warning(f"{file}: holds no class names; they are class0 to class{nc - 1}, or name a data set with --data")
    return {i: f"class{i}" for i in range(nc)}
