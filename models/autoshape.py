"""Any image in, results out: what the hub entry points return around a detector."""

import math
import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from models.cost import LayerTimes
from models.detections import Detections
from models.detector import Detector, find_classes, find_confidence
from models.image_size import input_stride, make_divisible
from utils.console import LOGGER
from utils.datasets.images import COLOR8, PixelFormat, decode_image, has_more_pages, load_pixels, rendition
from utils.datasets.output_names import name_part
from utils.downloads import fetch, is_url
from utils.downloads.http_client import shown
from utils.nms import non_max_suppression
from utils.options.check import CONF, COUNT, SHARE, SIDE, Untouched, UntouchedInt
from utils.text import file_name
from utils.thresholds import CONF_THRES, IOU_THRES, MAX_DET

Source: TypeAlias = str | Path | Image.Image | NDArray
FETCHED = (  # formats in PIL's names that are taken from a URL; an EPS file would be run as a program, by Ghostscript
    "AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "TIFF", "WEBP",
)  # fmt: skip
BANDS = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # of PIL's modes whose values have a fixed range


class AutoShape(nn.Module):
    """A detector for images of any kind and size.

    Each image is scaled and padded by itself, as if it were alone, and images whose inputs have the same shape run
    together. So an image has the same results alone and in a list (up to rounding). The original suite pads all
    images of a list to the largest of them instead, so boxes depend on the other images.

    Args:
        model: a `DetectionModel`, an `Ensemble` or a `DetectMultiBackend`; it is put in evaluation mode, and its
            `Detect.export` is set: from then on it gives boxes without the raw maps.
        verbose: log a line.

    Attributes:
        conf, iou, agnostic, multi_label, classes, max_det: see `non_max_suppression`; change them at any time. `conf`
            may be "best", "best-class" or such as "precision=0.95", see `find_confidence`; `classes` names or numbers.
        amp: compute in mixed precision; not on a CPU.
        model: as given, so that the layers of a checkpoint are `model.model.model` over a `DetectMultiBackend`, and
            `model.model` over a `DetectionModel`.
        dmb: whether it is a `DetectMultiBackend`. pt: whether PyTorch runs it.
        names, nc, stride, pixels, yaml, hyp: of the model, where it has them.
    """

    __module__ = "models.common"  # YOLOv5's address, by which SAHI recognises the class

    conf: float | str = CONF_THRES
    iou = IOU_THRES
    agnostic = False
    multi_label = False
    classes: Sequence[int | str] | int | str | None = None
    max_det = MAX_DET
    amp = False

    def __init__(self, model: nn.Module, verbose: bool = True) -> None:
        super().__init__()
        if verbose:
            LOGGER.info("AutoShape: images of any kind and size in, detections out")
        self.imgsz, self.trained_size = getattr(model, "imgsz", None), getattr(model, "trained_size", None)
        self.model = model.eval()
        self.dmb = hasattr(model, "pt")
        self.pt = getattr(model, "pt", True)
        self.pixels: PixelFormat = getattr(model, "pixels", COLOR8)
        self.names = dict(model.names)
        self.nc = len(self.names)
        self.stride = input_stride(model.stride)
        self._told: tuple[Any, ...] | None = None  # settings that a file with NMS inside was checked for
        network = self._network()
        self.yaml, self.hyp = getattr(network, "yaml", None), getattr(network, "hyp", None)
        for head in (module for module in network.modules() if hasattr(module, "export")):
            head.inplace, head.export = False, True

    def _network(self) -> nn.Module:
        """The model without the `DetectMultiBackend` around the network of a checkpoint."""
        return self.model.model if self.dmb and self.pt else self.model

    def autoshape(self) -> "AutoShape":
        """Return itself, as in YOLOv5 up to 6.0."""
        return self

    @torch.no_grad()  # not inference_mode: what a module caches must stay usable if it is trained later
    def forward(
        self,
        ims: Source | Iterable[Source] | Tensor | None = None,
        size: int | tuple[int, int] = UntouchedInt(640),
        augment: bool = False,
        profile: bool = False,
        *,
        imgs: Source | Iterable[Source] | Tensor | None = None,
    ) -> Detections | Tensor:
        """Detect.

        Args:
            ims: one image or an iterable of them, of any kinds and sizes: path, http(s) URL (public hosts only),
                PIL image of any mode, array uint8 RGB, (H, W, 3) or (3, H, W); grey ones are (H, W), (H, W, 1) or
                (1, H, W), channels after the third are ignored. EXIF rotation of files and PIL images is applied. A
                model of other images than 8-bit colour (`PixelFormat`) takes files of these and arrays (H, W, C) or (C,
                H, W) of uint8, uint16 or floats 0..1; one of a single channel takes colours, too.
                Or a tensor (B, C, H, W) of floats 0..1, sides multiples of `stride`, which goes right into the network.
            size: long side of the network input in pixels, or (height, width), of which the longer counts; rounded up
                to the stride. Files exported with a fixed size keep theirs. Without it images are fitted into the
                height and width of a model that was trained with both.
            augment: run three views of each image; PyTorch only.
            profile: log the time of each layer of the network; PyTorch only.
            imgs: what YOLOv5 up to 6.2 called `ims`.

        Returns:
            `Detections`; for a tensor the boxes of the network (B, R, 5 + nc) `[xywh_net, objectness, scores]`.

        Raises:
            ValueError: an image, a size or a setting that cannot be used.
            FileNotFoundError, OSError: an image that cannot be read.
        """
        ims = imgs if ims is None else ims
        if ims is None:
            raise ValueError("no image given")
        if self.model.training:
            raise ValueError("the model is in training mode: call .eval() first")
        if profile and not (self.pt and any(True for _ in self.model.parameters())):
            raise ValueError("profile=True needs a PyTorch model: this one is run by another program")
        detector = Detector(self.model, self._suppress, augment, self.amp)
        with LayerTimes(self._network()) if profile else nullcontext():
            if isinstance(ims, Tensor):
                return detector.infer(self._check_tensor(ims).to(*detector.place()))
            return self._detect(detector, ims, size)

    def _detect(self, detector: Detector, ims: Source | Iterable[Source], size: int | tuple[int, int]) -> Detections:
        """Detect in images; the end of `forward`."""
        sides = [SIDE.check("size", side) for side in (size if isinstance(size, tuple | list) else [size])]
        self._check_settings()
        with detector.times[0]:
            images, files = _load_all(ims, self.pixels)
            inside = self.trained_size if isinstance(size, Untouched) else None
            frames = [self._frame(im.shape[:2], inside or (max(sides), max(sides))) for im in images]
        pred: list[Tensor] = [torch.zeros(0, 6)] * len(images)
        for frame in dict.fromkeys(frames):
            chosen = [i for i, other in enumerate(frames) if other == frame]
            with detector.times[0]:
                inputs = detector.fit([images[i] for i in chosen], frame)
            found = detector(inputs, [images[i].shape[:2] for i in chosen])
            for i, rows in zip(chosen, found, strict=True):
                pred[i] = rows
        if full := sum(len(rows) >= self.max_det for rows in pred):
            LOGGER.warning(
                f"{full} of {len(images)} images reached the limit of {self.max_det} detections, the best ones were "
                "kept: set max_det or conf of the model higher"
            )
        shape = (len(images), self.pixels.channels, *(max((f[k] for f in frames), default=0) for k in (0, 1)))
        if not self.pixels.plain:
            images = [rendition(im[..., ::-1] if im.shape[2] == 3 else im)[..., ::-1].copy() for im in images]
        before, network, after = (t.t * 1e3 / max(len(images), 1) for t in detector.times)
        return Detections(images, pred, files, (before, network, after), self.names, shape)

    def _check_tensor(self, images: Tensor) -> Tensor:
        """Return images; ValueError if they are not what the network takes."""
        channels = self.pixels.channels
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"a tensor of images is (B, {channels}, H, W) of floats 0..1, got {tuple(images.shape)} "
                f"{images.dtype}: "
                "give images as arrays (H, W, 3) uint8 instead"
            )
        if images.shape[1] != channels:
            raise ValueError(f"the model reads images of {channels} channels, the tensor has {images.shape[1]}")
        if any(side % self.stride for side in images.shape[2:]):
            raise ValueError(f"the sides {tuple(images.shape[2:])} of the images must be multiples of {self.stride}")
        return images

    def _check_settings(self) -> None:
        """Raise ValueError for a setting that someone gave a value of a wrong type, or out of range."""
        find_confidence(CONF.check("conf", self.conf), self.model)
        SHARE.check("iou", self.iou)
        COUNT.check("max_det", self.max_det)
        find_classes(self.classes, self.model)

    def _frame(self, shape: tuple[int, int], inside: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the network input for an image of a shape, fitted into another one."""
        if self.imgsz:
            height, width = self.imgsz
            return height, width
        gain = min(inside[0] / shape[0], inside[1] / shape[1])
        height, width = (make_divisible(max(int(side * gain), 1), self.stride) for side in shape)
        return height, width

    def _suppress(self, boxes: Tensor) -> list[Tensor]:
        conf = find_confidence(self.conf, self.model)
        asked = (conf, self.iou, self.max_det, self.agnostic, self.multi_label)
        if getattr(self.model, "end2end", False) and asked != self._told:
            self.model.check_suppression(*asked)
            self._told = asked
        return non_max_suppression(
            boxes,
            conf,
            self.iou,
            find_classes(self.classes, self.model),
            self.agnostic,
            self.multi_label,
            max_det=self.max_det,
        )


class NMS(nn.Module):
    """Non-maximum suppression as a module, as YOLOv5 up to 5.0 had it.

    Attributes:
        conf, iou, classes: see `non_max_suppression`.
    """

    conf = CONF_THRES
    iou = IOU_THRES
    classes: Sequence[int] | None = None

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Suppress.

        Args:
            x: output of a model, of which the first element counts: boxes (B, R, 5 + nc).

        Returns:
            Per image (D, 6) `[xyxy_net, confidence, class]`, best first.
        """
        return non_max_suppression(x[0], self.conf, self.iou, self.classes)


# Images -------------------------------------------------------------------------------------------------------------


def _load_all(ims: Source | Iterable[Source], pixels: PixelFormat) -> tuple[list[NDArray], list[str]]:
    """Read images; (H, W, C) on the scale 0..255, and for each a file name of its own that ends in .jpg."""
    single = isinstance(ims, str | Path | Image.Image | np.ndarray)
    images, files, taken = [], [], set()
    for i, source in enumerate([ims] if single else ims):
        im, stem = load_image(source) if pixels.plain else _load_deep(source, pixels)
        stem = name_part(stem or f"image{i}")
        name = next(n for n in (f"{stem}{f'-{k}' if k > 1 else ''}.jpg" for k in range(1, i + 3)) if n not in taken)
        taken.add(name)
        images.append(im)
        files.append(name)
    return images, files


def load_image(source: Source) -> tuple[NDArray, str]:
    """Read one image of any kind that `AutoShape` takes.

    Returns:
        The image, (H, W, 3) uint8 RGB, and the stem of its file name, "" without one.

    Raises:
        ValueError: not an image, or one of a kind that would have to be guessed.
        FileNotFoundError, OSError: it cannot be read.
    """
    if isinstance(source, str) and is_url(source):
        data = fetch(source)
        try:
            stem = Path(unquote(urlsplit(source).path)).stem
            image = Image.open(BytesIO(data))
            if image.format not in FETCHED:
                raise SyntaxError(f"an image of the format {image.format}")
            return _from_pil(image), stem and file_name(stem)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{shown(source)}: what is there is not an image ({type(error).__name__})") from None
    if isinstance(source, str | Path):
        file = Path(os.path.expanduser(source))
        if not file.is_file():
            raise FileNotFoundError(f"{source}: no such image (looked in {file.absolute().parent})")
        im = decode_image(str(file))
        if im is None:
            raise ValueError(f"{source}: this file cannot be decoded as an image")
        if has_more_pages(str(file)):
            LOGGER.warning(f"{file}: has several pages or animation frames, only the first is read")
        return np.ascontiguousarray(im[..., ::-1]), file.stem
    if isinstance(source, Image.Image):
        return _from_pil(source), Path(str(getattr(source, "filename", ""))).stem
    if isinstance(source, np.ndarray):
        return _from_array(source), ""
    hint = ": a tensor is given alone, (B, 3, H, W)" if isinstance(source, Tensor) else ""
    raise ValueError(f"an image is a path, a URL, a PIL image or an array, not {type(source).__name__}{hint}")


def _load_deep(source: Source, pixels: PixelFormat) -> tuple[NDArray, str]:
    """Read an image for a model that reads other images than 8-bit colour.

    Returns:
        The image, (H, W, C) on the scale 0..255, three channels RGB; and as `load_image`.
    """
    if isinstance(source, np.ndarray):
        return pixels.of_array(source), ""
    if isinstance(source, str | Path) and not is_url(str(source)):
        file = Path(os.path.expanduser(source))
        if not file.is_file():
            raise FileNotFoundError(f"{source}: no such image (looked in {file.absolute().parent})")
        try:
            im = load_pixels(str(file), pixels)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        return (im[..., ::-1] if pixels.channels == 3 else im), file.stem
    if isinstance(source, Image.Image) and BANDS.get(source.mode) == pixels.channels:
        stem = Path(str(getattr(source, "filename", ""))).stem
        return pixels.of_array(np.asarray(ImageOps.exif_transpose(source))), stem
    im, stem = load_image(source)
    return pixels.of_color(im[..., ::-1])[..., ::-1], stem


def _from_pil(image: Image.Image) -> NDArray:
    """Turn a PIL image of any mode as its EXIF data say; 16 bits become 8, floats count from 0 to 255."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)  # (H, W)
        values = values >> 8 if image.mode != "I" or values.max() > 255 else values
        return _from_array(values.clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return _from_array(np.asarray(image).clip(0, 255).round().astype(np.uint8))
    return np.array(image.convert("RGB"))


def _from_array(im: NDArray) -> NDArray:
    """Bring an array into the form (H, W, 3) uint8, contiguous; it is copied unless it has that form."""
    if im.dtype != np.uint8:
        raise ValueError(
            f"an image array must be uint8, 0 to 255, this one is {im.dtype}: "
            "convert it, for example (im * 255).astype('uint8') if it is 0 to 1"
        )
    if im.ndim == 3 and im.shape[0] < 5 and im.shape[2] >= 5:  # channels first
        im = im.transpose(1, 2, 0)
    if im.ndim == 2:
        im = im[..., None]
    if im.ndim != 3 or not math.prod(im.shape):
        raise ValueError(f"an image array is (H, W, 3), (3, H, W) or (H, W), this one is {im.shape}")
    im = im[..., :3] if im.shape[2] >= 3 else im[..., :1].repeat(3, 2)
    return np.ascontiguousarray(im)
