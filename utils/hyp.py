"""Hyperparameters: every key of a data/hyps file with its type, range and effect."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from math import isnan
from pathlib import Path
from typing import Any

from utils.console import LOGGER
from utils.files import key_place, yaml_load

OPTIMIZERS = ("SGD", "Adam", "AdamW", "Muon")
DIGITS = str.maketrans("oOlI", "0011")


def _hyp(default: Any, allowed: str | tuple[str, ...], effect: str, kind: type = float, ours: bool = False) -> Any:
    """Describe one key.

    Args:
        default: value of hyp.scratch-low.yaml; None makes the key optional.
        allowed: interval such as "(0, 1]", or the texts to choose from.
        effect: unit and meaning.
        kind: float, int, str, or list for `cls_weights`.
        ours: a key that stock files do not have; written to files only when it differs from its default.
    """
    return field(default=default, metadata={"allowed": allowed, "effect": effect, "kind": kind, "ours": ours})


@dataclass(frozen=True, kw_only=True)
class Hyp:
    """Hyperparameters of one training. The defaults are those of hyp.scratch-low.yaml; values cannot be changed later.

    Raises:
        ValueError: a value has the wrong type or is out of range.
    """

    # Optimizer and schedule
    lr0: float = _hyp(0.01, "(0, 1]", "learning rate after the warmup")
    lrf: float = _hyp(0.01, "[0, 1]", "learning rate at the end, as a fraction of lr0")
    momentum: float = _hyp(0.937, "[0, 1)", "momentum of SGD and Muon, or beta1 of Adam and AdamW")
    weight_decay: float = _hyp(0.0005, "[0, 1]", "decay of weights (not of biases and norms) at the nominal batch size")
    warmup_epochs: float = _hyp(3.0, "[0, inf)", "length of the warmup in epochs; 0 is none")
    warmup_momentum: float = _hyp(0.8, "[0, 1)", "momentum at the first iteration")
    warmup_bias_lr: float = _hyp(
        0.1, "[0, 1]", "learning rate of the biases at the first iteration; the others start at 0"
    )
    # Loss
    box: float = _hyp(0.05, "[0, inf)", "gain of the box loss, for three levels")
    cls: float = _hyp(0.5, "[0, inf)", "gain of the class loss, for 80 classes and three levels")
    cls_pw: float = _hyp(1.0, "(0, inf)", "weight of the positive part of the class loss")
    obj: float = _hyp(1.0, "[0, inf)", "gain of the objectness loss, for 640 pixels and three levels")
    obj_pw: float = _hyp(1.0, "(0, inf)", "weight of the positive part of the objectness loss")
    iou_t: float = _hyp(0.2, "[0, 1]", "no effect, as in YOLOv5; read and written because stock files have it")
    anchor_t: float = _hyp(4.0, "(1, inf)", "largest ratio between the sides of an object and of its anchor")
    anchors: float | None = _hyp(None, "[1, 20]", "anchors per level, rounded, to replace the model's; 0 keeps those")
    fl_gamma: float = _hyp(0.0, "[0, 10]", "exponent of the focal loss; 0 is plain cross-entropy")
    # Augmentation
    hsv_h: float = _hyp(0.015, "[0, 1]", "largest shift of the hue, fraction of the circle")
    hsv_s: float = _hyp(0.7, "[0, 1]", "largest change of the saturation, fraction")
    hsv_v: float = _hyp(0.4, "[0, 1]", "largest change of the brightness, fraction")
    degrees: float = _hyp(0.0, "[0, 180]", "largest rotation either way, degrees")
    translate: float = _hyp(0.1, "[0, 1]", "largest shift either way, fraction of the image")
    scale: float = _hyp(0.5, "[0, 1)", "largest change of the size, fraction: 0.5 draws from 0.5 to 1.5")
    shear: float = _hyp(0.0, "[0, 89]", "largest shear either way, degrees")
    perspective: float = _hyp(0.0, "[0, 0.001]", "largest perspective term either way, 1 / pixel")
    flipud: float = _hyp(0.0, "[0, 1]", "probability of a flip upside down")
    fliplr: float = _hyp(0.5, "[0, 1]", "probability of a flip left to right")
    mosaic: float = _hyp(1.0, "[0, 1]", "probability of a mosaic of four images")
    mixup: float = _hyp(0.0, "[0, 1]", "probability of blending a mosaic with another one")
    copy_paste: float = _hyp(0.0, "[0, 1]", "probability of pasting mirrored objects, for labels with outlines")
    # Ours
    optimizer: str | None = _hyp(None, OPTIMIZERS, "optimizer when --optimizer is not given", str, ours=True)
    beta2: float = _hyp(0.999, "[0, 1)", "beta2 of Adam and AdamW", ours=True)
    clip_norm: float = _hyp(10.0, "(0, inf]", "largest norm of all gradients together; .inf never clips", ours=True)
    nominal_batch: int = _hyp(64, "[1, inf)", "images per optimizer step, reached by accumulation", int, ours=True)
    warmup_min: int = _hyp(100, "[0, inf)", "fewest batches of a warmup", int, ours=True)
    ema_decay: float = _hyp(
        0.9999, "[0, 1)", "decay of the averaged weights in each step; 0 follows the length of the run", ours=True
    )
    ema_tau: float = _hyp(
        2000.0, "[0, inf)", "steps in which that decay rises to 63 %; 0 follows the length of the run", ours=True
    )
    close_mosaic: int = _hyp(0, "[0, inf)", "epochs at the end without mosaic, mixup and copy-paste", int, ours=True)
    drop_path: float | None = _hyp(
        None, "[0, 1)", "largest stochastic depth rate; replaces the model file's", ours=True
    )
    mosaic9: float = _hyp(0.0, "[0, 1]", "fraction of the mosaics that have nine images instead of four", ours=True)
    albumentations: float = _hyp(
        0.0, "[0, 1]", "probability of each of blur, median blur, grey, local contrast", ours=True
    )
    label_smoothing: float = _hyp(0.0, "[0, 1)", "fraction of a class target spread over both outcomes", ours=True)
    cls_weights: str | list[float] | dict[int | str, float] | None = _hyp(
        None,
        "(0, 100]",
        "how much labels of each class count in the class loss: a list in the order of the classes, a mapping of names "
        "to numbers (others 1), or auto, from the counts",
        kind=list,
        ours=True,
    )
    distill: float = _hyp(
        1.0, "[0, inf)", "gain of what --teacher teaches at the start, as a multiple of the detection loss", ours=True
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name), "hyp"))

    @classmethod
    def load(cls, path: str | Path) -> "Hyp":
        """Read a YAML file; keys it leaves out keep their default, which is logged.

        Raises:
            FileNotFoundError: no such file.
            ValueError: bad YAML, an unknown key, a wrong type or a value out of range.
        """
        data = yaml_load(path)
        missing = [
            f.name for f in fields(cls) if f.name not in data and f.default is not None and not f.metadata["ours"]
        ]
        if missing:
            LOGGER.info(f"{path}: default values (hyp.scratch-low.yaml) for {', '.join(missing)}")
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], source: str = "hyp") -> "Hyp":
        """Check a mapping and build the settings; `d` is not changed.

        Args:
            d: values by key; missing keys keep their default.
            source: file name for the messages.

        Raises:
            ValueError: an unknown key, a wrong type or a value out of range; names `source` and the key.
        """
        known = {spec.name: spec for spec in fields(cls)}
        for key in d:
            if key not in known:
                close = _closest(str(key), [name for name in known if name not in d]) or _closest(str(key), known)
                hint = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(known)}"
                raise ValueError(f"{key_place(source, key)}: unknown key {key!r}. {hint}")
        return cls(**{key: _checked(known[key], value, source) for key, value in d.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values in stock order; our own keys and `anchors` only if they differ from default."""
        values = asdict(self)
        quiet = {f.name for f in fields(self) if f.metadata["ours"] or f.default is None}
        return {f.name: values[f.name] for f in fields(self) if f.name not in quiet or values[f.name] != f.default}

    def scaled(self, nl: int, nc: int, imgsz: int | tuple[int, int], label_smoothing: float) -> "Hyp":
        """Return a copy with the loss gains fitted to model, classes and image size.

        box *= 3 / nl, cls *= nc / 80 * 3 / nl, obj *= H * W / 640^2 * 3 / nl. Do this once: the result is what the
        loss takes and not what hyp.yaml stores.

        Args:
            nl: detection levels.
            nc: classes.
            imgsz: side of the network input, or height H and width W, in pixels.
            label_smoothing: replaces the value of this object.
        """
        height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        return replace(
            self,
            box=self.box * 3 / nl,
            cls=self.cls * nc / 80 * 3 / nl,
            obj=self.obj * (height / 640 * (width / 640)) * 3 / nl,
            label_smoothing=label_smoothing,
        )


def _closest(key: str, known: Iterable[str]) -> list[str]:
    """Return the name that a misspelt key stands for, [] if none is near; O and l may be meant as digits."""
    alike = [name for name in known if name.translate(DIGITS) == key.translate(DIGITS)]
    return alike or difflib.get_close_matches(key, known, n=1)


def _checked(spec: Field, value: Any, source: str) -> Any:
    """Return `value` in the type of its key, or raise ValueError with file, key, value and what is allowed."""
    kind, allowed = spec.metadata["kind"], spec.metadata["allowed"]
    if spec.name == "anchors" and value == 0 and not isinstance(value, bool):
        return None  # so stock files say it
    if value is None and spec.default is None:
        return None

    def wrong(what: str) -> ValueError:
        return ValueError(f"{key_place(source, spec.name)}: {spec.name}: {value!r} is {what}")

    if kind is list:
        return _checked_weights(value, wrong)
    if kind is str:
        if value not in allowed:
            raise wrong(f"not one of {', '.join(allowed)}")
        return value
    number = "an integer" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not float(value).is_integer()):
        raise wrong(f"not {number} in {allowed}")
    low, high = (float(end) for end in allowed[1:-1].split(","))
    inside = (low <= value if allowed[0] == "[" else low < value) and (
        value <= high if allowed[-1] == "]" else value < high
    )
    if isnan(value) or not inside:
        raise wrong(f"out of range, allowed: {number} in {allowed}: {spec.metadata['effect']}")
    return kind(value)


def _checked_weights(value: Any, wrong: Callable[[str], ValueError]) -> str | list[float] | dict[int | str, float]:
    """Return `cls_weights` with plain numbers; raise what `wrong` makes of a reason."""
    if value == "auto":
        return value
    numbers = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(numbers, list | tuple) or not numbers:
        raise wrong("not auto, a list of numbers, or a mapping of class names to numbers")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= 100:
            raise wrong(f"out of range, allowed: numbers in (0, 100], not {number!r}")
    if isinstance(value, Mapping):
        return {key: float(number) for key, number in value.items()}
    return [float(number) for number in numbers]
