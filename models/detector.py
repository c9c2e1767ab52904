"""From images to detections in their pixels: letterbox, model, NMS, scale; detect.py and the hub share these steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.augmentations import letterbox
from utils.boxes import scale_boxes
from utils.options.check import Number
from utils.text import class_numbers
from utils.torch_utils import Profile, amp_context


class Detector:
    """A model with what comes before and after it.

    Args:
        model: a `DetectMultiBackend`, a `DetectionModel` or an `Ensemble`, in evaluation mode.
        suppress: turns boxes (B, R, 5 + nc) into B of (D, 6) `[xyxy_net, confidence, class]`, see
            `non_max_suppression`.
        augment: test-time augmentation with three views; PyTorch only.
        amp: compute in mixed precision; not on a CPU.

    Attributes:
        times: `Profile` of preparing input, inference and NMS.
        shape: of the last input of the model, (B, C, H, W).
    """

    def __init__(
        self, model: nn.Module, suppress: Callable[[Tensor], list[Tensor]], augment: bool = False, amp: bool = False
    ) -> None:
        self.model, self.suppress, self.augment, self.amp = model, suppress, augment, amp
        self.times = Profile(), Profile(), Profile()
        self.shape: tuple[int, ...] = ()

    @staticmethod
    def fit(
        images: Sequence[NDArray], size: int | Sequence[int], stride: int | None = None, bgr: bool = False
    ) -> list[NDArray]:
        """Letterbox images. May run in another thread than the rest.

        Args:
            images: (H, W, C) uint8 or float32 of 0..255; three channels are RGB.
            size: height and width of the network input, or its side.
            stride: pad only to multiples of it where that gives all images the same shape. None pads to `size`.
            bgr: those of three channels are BGR.

        Returns:
            (C, H, W) each, of one shape; three channels are RGB.
        """
        fitted = [letterbox(image, size, auto=stride is not None, stride=stride or 0)[0] for image in images]
        if len({image.shape for image in fitted}) > 1:
            fitted = [letterbox(image, size, auto=False)[0] for image in images]
        turned = [cv2.cvtColor(x, cv2.COLOR_BGR2RGB) if bgr and x.shape[2] == 3 else x for x in fitted]
        return [image.transpose(2, 0, 1) for image in turned]

    def __call__(self, inputs: Sequence[NDArray], shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Detect, in batches that the model takes.

        Args:
            inputs: what `fit` made of the images.
            shapes: height and width of each image.

        Returns:
            For each image (D, 6) `[xyxy_img, confidence, class]`, best first.
        """
        found: list[Tensor] = []
        fixed = getattr(self.model, "batch_size", None)  # images of a file that takes no other number
        size = fixed or len(inputs)
        device, dtype = self.place()
        # a bare network computes in the layout that it is given, a backend in its own
        layout = torch.preserve_format if hasattr(self.model, "pt") else torch.contiguous_format
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            with self.times[0]:
                images = torch.from_numpy(np.stack(part)).to(device, memory_format=layout).to(dtype) / 255
                if missing := size - len(part) if fixed else 0:  # the rest stays black
                    images = torch.cat((images, images.new_zeros(missing, *images.shape[1:])))
                self.shape = tuple(images.shape)
            with self.times[1]:
                boxes = self.infer(images)[: len(part)]
            with self.times[2]:
                kept = self.suppress(boxes)
            height, width = images.shape[2:]
            for d, shape in zip(kept, shapes[start : start + size], strict=True):
                found.append(scale_boxes((height, width), d, shape))
        return found

    def infer(self, images: Tensor) -> Tensor:
        """Return the boxes (B, R, 5 + nc) `[xywh_net, objectness, scores]` in images (B, C, H, W), 0..1."""
        mixed = torch.float16 if self.amp and images.device.type != "cpu" else None
        with amp_context(images.device, mixed):
            output = self.model(images, augment=True) if self.augment else self.model(images)
        return output[0] if isinstance(output, tuple | list) else output

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Return where images must be, and in which precision."""
        runs_here = getattr(self.model, "pt", True)  # not in another program, which converts them itself
        parameter = next(self.model.parameters(), None) if runs_here else None
        if parameter is None:
            return getattr(self.model, "device", torch.device("cpu")), torch.float32
        return parameter.device, parameter.dtype


def find_classes(asked: Sequence[int | str] | int | str | None, model: nn.Module) -> list[int] | None:
    """Return the numbers of the classes of a model that are given by name or number; None for all.

    Raises:
        ValueError: no such class.
    """
    if asked is None:
        return None
    given, names = [asked] if isinstance(asked, int | str) else asked, dict(model.names)  # type: ignore[arg-type]
    wanted = [item if isinstance(item, str) else Number(int, 0).check("classes", item) for item in given]
    return class_numbers(wanted, names, f"--classes with {getattr(model, 'w', 'this model')}")


def find_confidence(asked: float | str, model: nn.Module) -> float | list[float]:
    """Return the confidence threshold, or one for each class, that a word stands for: a validation saved it.

    Args:
        asked: a number; or "best", that of the best F1; "best-class", for each class that of its best F1, or of all
            where it has too few boxes; "precision=0.95", the lowest one with that precision.
        model: see `Detector`; `thresholds` of a model are those of its checkpoint, or of the metadata of its file.

    Raises:
        ValueError: nothing suitable is saved.
    """
    if not isinstance(asked, str):
        return asked
    saved, name = _mapping(getattr(model, "thresholds", None)), getattr(model, "w", "this model")
    if asked.startswith("precision="):
        wishes = {str(wish): _confidence(conf) for wish, conf in _mapping(saved.get("for_precision")).items()}
        reached = {wish: conf for wish, conf in wishes.items() if conf is not None}
        same = (conf for wish, conf in reached.items() if math.isclose(_number(wish), _number(asked[10:])))
        if (found := next(same, None)) is not None:
            return found
        if reached:
            raise ValueError(f"confidence {asked!r:.80}: saved in {name} are those for {', '.join(reached)}")
        if wishes:
            raise ValueError(
                f"confidence {asked!r:.80}: at no confidence the validation saved in {name} reached a precision of "
                f"{', '.join(wishes)}. Pass a number"
            )
    best = _confidence(saved.get("conf"))
    if best is not None and asked == "best":
        return best
    if best is not None and asked == "best-class":
        classes = {str(c): _confidence(conf) for c, conf in _mapping(saved.get("classes")).items()}
        names: Any = model.names
        limits = [classes.get(str(c)) for c in range(len(names))]
        return [best if limit is None else limit for limit in limits]
    if "conf" in saved and saved["conf"] is None:
        raise ValueError(
            f"confidence {asked!r:.80}: no best one is saved in {name}, as no box was right in its validation. "
            "Train longer, or pass a number such as 0.25"
        )
    raise ValueError(
        f"confidence {asked!r:.80}: no best one is saved in {name}. Pass a number, or run val.py --save-thresholds on "
        "a checkpoint, and export that again"
    )


def _mapping(value: Any) -> Mapping[Any, Any]:
    """Return a mapping out of a file, an empty one if it is something else."""
    return value if isinstance(value, Mapping) else {}


def _confidence(value: Any) -> float | None:
    """Return a confidence out of a file, alone or with what it gives; None if it is none."""
    conf = value.get("conf") if isinstance(value, Mapping) else value
    return conf if isinstance(conf, float) and 0 <= conf <= 1 else None


def _number(text: str) -> float:
    """Return the number in a text, NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
