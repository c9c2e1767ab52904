"""Run a detector from any of its files: one small class per run time behind one interface.

Every run time takes images (B, 3, H, W), floats 0..1, and gives boxes (B, R, 5 + nc) float32 `[xywh_net, objectness,
scores 0..1]`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import attempt_load


class PyTorchBackend(nn.Module):
    """A checkpoint, or several as an ensemble.

    Args:
        weights: .pt files.
        device: where to compute.
        fp16: compute in float16, CUDA only.
        fuse: merge every BatchNorm into its convolution.

    Raises:
        FileNotFoundError, ValueError: from `attempt_load`; or float16 without CUDA.
    """

    batch_size: int | None = None
    imgsz: tuple[int, int] | None = None

    def __init__(self, weights: Sequence[str | Path], device: torch.device, *, fp16: bool, fuse: bool) -> None:
        super().__init__()
        if fp16 and device.type != "cuda":
            raise ValueError(
                f"half precision needs CUDA, but the device is {device}: leave --half out, or try --device 0"
            )
        self.model = attempt_load(weights, device, fuse)
        self.dtype = torch.float16 if fp16 else torch.float32
        self.model.to(self.dtype)
        self.names = dict(self.model.names)
        self.stride = max(int(self.model.stride.max()), 32)

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        return self.model(images.to(self.dtype), augment=augment)[0].float()


class DetectMultiBackend(nn.Module):
    """A detector from a file of any supported format.

    Args:
        weights: file, or several .pt files that are run as one ensemble.
        device: where to compute.
        fp16: compute in float16 where the run time can.
        fuse: merge every BatchNorm into its convolution (.pt).

    Attributes:
        names: class number to name. nc: how many. stride: the sides of the images must be multiples of it.
        pt: whether PyTorch runs it. batch_size, imgsz: images and (height, width) of a file with fixed sizes, or None.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be used.
    """

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path],
        device: str | torch.device = "cpu",
        *,
        fp16: bool = False,
        fuse: bool = True,
    ) -> None:
        super().__init__()
        files = [weights] if isinstance(weights, str | Path) else list(weights)
        if not files:
            raise ValueError("no weights given: name a checkpoint such as runs/train/exp/weights/best.pt")
        self.device, self.fp16 = torch.device(device), fp16
        self.backend = PyTorchBackend(files, self.device, fp16=fp16, fuse=fuse)
        self.pt = isinstance(self.backend, PyTorchBackend)
        self.names, self.stride = self.backend.names, self.backend.stride
        self.nc = len(self.names)
        self.batch_size, self.imgsz = self.backend.batch_size, self.backend.imgsz

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
            self.forward(torch.zeros(self.batch_size or 1, 3, *imgsz, device=self.device))
