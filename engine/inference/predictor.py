"""From frames to detections in their pixels, tiles of large images included."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.inference.pipeline import Frame
from engine.inference.slicing import fit_tiles, merge_with_whole
from models.detector import Detector
from models.runtimes.backends import DetectMultiBackend
from utils.datasets.images import COLOR8
from utils.datasets.tiles import tile_grid
from utils.nms import non_max_suppression
from utils.thresholds import CONF_THRES, IOU_THRES, MAX_DET


@dataclass(frozen=True)
class Prepared:
    """Frames and the network input made of them: arrays (3, H, W) RGB uint8 of one shape, one per frame.

    `numbers` count the frames of a source from 0.
    """

    frames: list[Frame]
    inputs: list[NDArray]
    seconds: float
    numbers: Sequence[int] = ()

    def numbered(self, numbers: Sequence[int]) -> "Prepared":
        """Return the same with numbers of the frames."""
        return replace(self, numbers=numbers)


@dataclass(frozen=True)
class Settings:
    """Settings of detection.

    Attributes:
        imgsz: height and width of the network input; multiples of the model's stride.
        conf_thres, iou_thres, classes, agnostic, max_det: see `non_max_suppression`.
        augment: test-time augmentation with three views.
        tile: height and width of the tiles into which images are cut, in pixels; None does not cut.
        overlap: see `tile_grid`.
    """

    imgsz: tuple[int, int] = (640, 640)
    conf_thres: float | Sequence[float] = CONF_THRES
    iou_thres: float = IOU_THRES
    max_det: int = MAX_DET
    classes: Sequence[int] | None = None
    agnostic: bool = False
    augment: bool = False
    tile: tuple[int, int] | None = None
    overlap: float = 0.2


class Predictor:
    """Detect in frames. `prepare` may run in another thread than the rest.

    Args:
        model: a `DetectMultiBackend`.
        settings: see there.

    Raises:
        ValueError: a setting that the model, or nothing, can follow.
    """

    def __init__(self, model: DetectMultiBackend, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.pixels = getattr(model, "pixels", COLOR8)
        self.detector = Detector(model, self._suppress, settings.augment)
        self.preparing = 0.0  # seconds of letterboxing
        if settings.tile:
            tile_grid(1, 1, settings.tile, settings.overlap)  # checks them
        # NMS checks its own settings; an empty prediction makes it do so before the first frame.
        self._suppress(torch.zeros(1, 0, 5 + model.nc))

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Seconds of pre-processing, inference and NMS so far."""
        before, inference, nms = (times.t for times in self.detector.times)
        return self.preparing + before, inference, nms

    def prepare(self, frames: list[Frame]) -> Prepared:
        """Make the network input of frames: the smallest common size, if the model takes any size."""
        start = time.perf_counter()
        inputs = self._fit([self._values(frame) for frame in frames])
        return Prepared(frames, inputs, time.perf_counter() - start)

    def _values(self, frame: Frame) -> NDArray:
        """Return what the network reads of a frame, (H, W, C)."""
        return self.pixels.of_color(frame.image) if frame.pixels is None else frame.pixels

    def _fit(self, images: Sequence[NDArray]) -> list[NDArray]:
        """Letterbox images, (H, W, C), three channels BGR, to (C, H, W), three channels RGB, of one shape."""
        stride = self.model.stride if self.model.imgsz is None else None
        return self.detector.fit(images, self.settings.imgsz, stride, bgr=True)

    @torch.inference_mode()
    def __call__(self, prepared: Prepared) -> list[Tensor]:
        """Detect.

        Returns:
            For each frame (D, 6) `[xyxy_img, confidence, class]` on the CPU, best first.
        """
        self.preparing += prepared.seconds
        found = self.detector(prepared.inputs, [frame.shape for frame in prepared.frames])
        return [self._slice(f, whole) for f, whole in zip(prepared.frames, found, strict=True)]

    def _suppress(self, boxes: Tensor) -> list[Tensor]:
        """Return B of (D, 6) `[xyxy_net, confidence, class]` on the CPU."""
        s = self.settings
        kept = non_max_suppression(boxes, s.conf_thres, s.iou_thres, s.classes, s.agnostic, max_det=s.max_det)
        return [detections.cpu() for detections in kept]

    def _slice(self, frame: Frame, whole: Tensor) -> Tensor:
        """Merge the detections in the tiles of a frame with those in the whole frame."""
        s = self.settings
        if not s.tile:
            return whole
        tiles = fit_tiles(self._values(frame), s.tile, s.overlap, self._fit)
        found = tiles.detect(self.detector)
        with self.detector.times[2]:
            return merge_with_whole(whole, found, tiles.windows, frame.shape, s.iou_thres, s.agnostic, s.max_det)
