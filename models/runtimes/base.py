"""What every runtime shares: the facts that a file carries, checks of sizes, and batches cut to the file's own.

Letters: B images, R rows of boxes, K detections per image, nc classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.image_size import trained_size
from models.weights.class_names import parse_names, parse_value
from utils.datasets.images import PixelFormat
from utils.text import printable

Axes = tuple[int | None, int | None, int | None]  # images, height, width of an input; None where dynamic
MAX_STRIDE = 1024
MAX_SIDE = 1 << 16  # pixels
MAX_REASON = 300  # characters of a library's message that are shown


def parse_size(value: Any) -> tuple[int, int] | None:
    """Return (height, width) from one number or a pair; None where the value is missing or dynamic."""
    value = parse_value(value)
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_side, pair)):
        return None
    return tuple(pair)


def parse_shape(value: Any, source: str | Path) -> tuple[int | None, ...]:
    """Return (B, C, H, W) from a list of four numbers; four times None where there is none.

    Raises:
        ValueError: anything else.
    """
    value = parse_value(value)
    if value is None:
        return (None,) * 4
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(map(_is_side, value)):
        raise ValueError(f"{source}: 'shape' must be four numbers (images, channels, height, width), not {value!r:.80}")
    return tuple(value)


def _is_side(value: Any) -> bool:
    """Whether a value is a number of pixels, or of images."""
    return type(value) is int and 0 < value <= MAX_SIDE


def expand_detections(found: Tensor, counts: Tensor, nc: int) -> Tensor:
    """Write detections as rows of boxes, so that files with NMS inside look like all others.

    A second suppression with the same or a higher IoU threshold leaves them as they are.

    Args:
        found: (B, K, 6) `[xyxy_net, confidence, class]`.
        counts: (B,), how many of the K are detections.
        nc: classes.

    Returns:
        (B, K, 5 + nc) float32 `[xywh_net, confidence, 1 at the class]`; rows that are no detection have confidence 0.
    """
    found = found.float()
    low, high, confidence = found[..., :2], found[..., 2:4], found[..., 4:5]
    real = torch.arange(found.shape[1], device=found.device) < counts.view(-1, 1)  # (B, K)
    classes = torch.nn.functional.one_hot(found[..., 5].long().clamp(0, nc - 1), nc)  # (B, K, nc)
    return torch.cat(((low + high) / 2, high - low, confidence * real[..., None], classes), -1)


def image_axes(shape: Sequence[int | None], source: str | Path) -> Axes:
    """Return (B, H, W) of an input (B, C, H, W), of which some may be dynamic.

    Raises:
        ValueError: it has another number of axes.
    """
    if len(shape) != 4:
        raise ValueError(f"{source}: its input has {len(shape)} axes, expected 4 (images, channels, height, width)")
    return shape[0], shape[2], shape[3]


class Runtime:
    """One opened file. A subclass opens it and implements `run`.

    What its library raises about the file becomes ValueError: inside `run` by itself, while the file is opened inside
    `with self.library_errors(file, "read")`.

    Args:
        file: what was opened, for messages.
        device: where the images are.
        metadata: what the file says about itself; `names`, `stride`, `min_size`, `half`, `int8`, `nms`, `thresholds`,
            `channels` and `bits` are used.
        shape: (B, H, W) of the file's input, None where an axis is dynamic. Of a file with only one of H and W
            dynamic, that one is used at the length of the other.
        columns: 5 + nc, the width of its output, if known; not read from files with NMS inside.

    Attributes:
        library: its name, for messages. errors: the exceptions of the library that are about the file, not about us.
        reason_line: which line of their text says why. hint: what may help where it cannot be run.
        names, stride: from the metadata, else None. nc: classes by names or output, else None.
        batch_size, imgsz: images and (height, width) of a file with fixed sizes, else None.
        end2end: whether the file suppresses overlapping boxes itself. half: whether it computes in float16.
        thresholds: from the metadata, else None, see `models.detector.find_confidence`. pixels: from the metadata.
        trained_size: from the metadata, see `models.image_size.trained_size`.

    Raises:
        ValueError: the names do not fit the output.
    """

    library = ""
    errors: tuple[type[Exception], ...] = (RuntimeError,)
    reason_line = 0
    hint = ""

    def __init__(
        self,
        file: Path,
        device: torch.device,
        metadata: Mapping[str, Any],
        shape: Axes = (None, None, None),
        columns: int | None = None,
    ) -> None:
        self.file, self.device = file, device
        if not isinstance(metadata, Mapping):
            raise ValueError(f"{file}: its metadata is a {type(metadata).__name__}, expected keys and values")
        self.metadata = {str(key): parse_value(value) for key, value in metadata.items()}
        if self.metadata.get("raw_heads") is True:
            raise ValueError(
                f"{file}: was exported with --raw-heads, whose maps other programs decode: export it again without"
            )
        self.end2end = self.metadata.get("nms") is True
        self.half = self.metadata.get("half") is True
        self.thresholds = self.metadata.get("thresholds")
        self.trained_size = trained_size(self.metadata.get("imgsz"))
        self.pixels = PixelFormat.of(self.metadata, file)
        self.names = parse_names(self.metadata.get("names"), file)
        stride = self.metadata.get("stride")
        self.stride = int(stride) if isinstance(stride, int | float) and 1 <= stride <= MAX_STRIDE else None
        self.min_size = parse_size(self.metadata.get("min_size")) or (1, 1)
        self.batch_size = shape[0]
        height, width = shape[1] or shape[2], shape[2] or shape[1]
        self.imgsz = (height, width) if height and width else None
        found = None if self.end2end or not columns else columns - 5
        if found is not None and self.names and len(self.names) != found:
            raise ValueError(f"{file}: it has the names of {len(self.names)} classes, but outputs scores for {found}")
        self.nc = len(self.names) if self.names else found
        if self.end2end and not self.names:
            raise ValueError(f"{file}: NMS inside, but no class names in its metadata: export it again with export.py")

    @contextmanager
    def library_errors(self, file: Path, doing: str) -> Iterator[None]:
        """Turn the errors of the library inside the block into ValueError with the file and a short reason.

        Args:
            file: the file that is being opened or run.
            doing: "read" or "run".
        """
        try:
            yield
        except self.errors as e:
            text = str(getattr(e, "err", e))  # `err` of cv2.error, whose message begins with its source file
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            reason = printable(lines[self.reason_line][:MAX_REASON]) if lines else type(e).__name__
            raise ValueError(f"{file}: {self.library} cannot {doing} it: {reason}{self.hint}") from e

    def run(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run one batch of a count and size that the file takes.

        Args:
            images: (B, 3, H, W) float32, 0..1, on `device`.

        Returns:
            Boxes (B, R, 5 + nc), or with NMS inside detections (B, K, 6) and counts (B,), on any device.
        """
        raise NotImplementedError

    def __call__(self, images: Tensor, augment: bool = False) -> Tensor:
        """Detect; any number of images.

        Args:
            images: (B, 3, H, W) float, 0..1.
            augment: not possible here.

        Returns:
            (B, R, 5 + nc) float32 `[xywh_net, objectness, scores 0..1]` on the device of `images`.

        Raises:
            ValueError: a size that the file does not take, or `augment`.
        """
        if augment:
            raise ValueError(f"{self.file}: test-time augmentation needs a checkpoint (.pt): remove --augment")
        height, width = images.shape[2:]
        self.check_size((height, width))
        images = images.float()
        if not len(images):
            raise ValueError(f"{self.file}: an empty batch was given")
        count = self.batch_size or len(images)
        parts = [self._run_part(part, count) for part in images.split(count)]
        return torch.cat(parts).to(images.device)

    def _run_part(self, images: Tensor, count: int) -> Tensor:
        """Run up to `count` images, filled up with empty ones; (B, R, 5 + nc) float32."""
        wanted = len(images)
        if wanted < count:
            images = torch.cat((images, images.new_zeros(count - wanted, *images.shape[1:])))
        with self.library_errors(self.file, "run"):
            output = self.run(images.contiguous())
        self._check_output(output, count)
        if isinstance(output, tuple):
            assert self.nc is not None, "the names were checked when the file was opened"
            output = expand_detections(output[0], output[1], self.nc)
        return output[:wanted].float()

    def _check_output(self, output: Any, count: int) -> None:
        """Raise ValueError unless what `run` gave has the shape that it says for `count` images."""
        found, counts = output if self.end2end and isinstance(output, tuple) and len(output) == 2 else (output, None)
        columns = 6 if self.end2end else 5 + self.nc if self.nc else None
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        fits = len(shape) == 3 and shape[0] == count and (shape[2] == columns if columns else shape[2] > 5)
        if not fits or (self.end2end and (counts is None or counts.numel() != count)):
            expected = f"({count}, boxes, {columns or '5 + classes'}){' and their number' if self.end2end else ''}"
            given = shape or type(found).__name__
            raise ValueError(f"{self.file}: not a YOLOv5 detector: its outputs are {given}, expected {expected}")

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless the file takes images of this height and width."""
        if self.imgsz and size != self.imgsz:
            raise ValueError(
                f"{self.file}: takes images of {self.imgsz[0]}x{self.imgsz[1]} (height x width) only, got "
                f"{size[0]}x{size[1]}: use --img {self.imgsz[0]} {self.imgsz[1]}, or export it again with --dynamic"
            )
        if not self.imgsz and (size[0] < self.min_size[0] or size[1] < self.min_size[1]):
            raise ValueError(
                f"{self.file}: takes images of at least {self.min_size[0]}x{self.min_size[1]} (height x width), got "
                f"{size[0]}x{size[1]}: use a larger --img"
            )
