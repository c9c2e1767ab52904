"""A convolutional YOLOv5 and its Swin twin: which layers pair up, the table of the twin, and the copied start.

The twin has a `C3SwinV2` where its sibling has a `C3` in the backbone, and is equal elsewhere. Layers pair by their
index. What is copied is exact; the Swin stages start as the identity, since their norms are multiplied by 0, so that a
copied twin computes what its sibling would without the bottlenecks of its backbone.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.common import C3, C3SwinV2, Conv, Focus, SwinV2Stage
from models.cost import run_empty
from models.swin.windows import choose_window
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.files import yaml_load
from utils.paths import ROOT, check_file, command

STAGE_KEYWORDS: dict[str, Any] = {"mlp_ratio": 2.0, "depthwise": True, "norm_gain": 1.0}  # of a derived table
SETTINGS = ("add", "d", "gain")  # of blocks, which `repr` does not show


@dataclass(frozen=True)
class Pair:
    """What one layer of the twin gets from the same layer of the teacher.

    Attributes:
        layer: index.
        kind: `same` (all is copied), `stage` (C3 and C3SwinV2: copied but for the stage), `stem` (copied but for the
            kernel of the first convolution), or `unpaired`.
        reason: of an unpaired layer, "" else.
    """

    layer: int
    kind: str
    reason: str = ""


@dataclass(frozen=True)
class Pairing:
    """The pairs of two models.

    Attributes:
        pairs: of all layers of the twin, in order; those after the first unpaired layer of the backbone are unpaired.
        whole: every layer is paired, so the twin detects what the teacher detects.
    """

    pairs: list[Pair]

    @property
    def first_unpaired(self) -> Pair | None:
        """Return the first layer that is not paired."""
        return next((pair for pair in self.pairs if pair.kind == "unpaired"), None)

    @property
    def whole(self) -> bool:
        """Whether every layer is paired."""
        return self.first_unpaired is None

    @property
    def stages(self) -> list[int]:
        """Return the layers whose Swin stage imitates bottlenecks."""
        return [pair.layer for pair in self.pairs if pair.kind == "stage"]

    @property
    def stem(self) -> bool:
        """Whether the first convolutions differ in their kernel."""
        return self.pairs[0].kind == "stem"


# Pairing --------------------------------------------------------------------------------------------------------------
def pair_layers(teacher: DetectionModel, twin: DetectionModel) -> Pairing:
    """Pair the layers of two models from the image on; after the first difference no layer is paired."""
    theirs, pairs = list(teacher.model), list[Pair]()
    for i, own in enumerate(twin.model):
        broken = next((pair for pair in pairs if pair.kind == "unpaired"), None)
        if broken is not None:
            pairs.append(Pair(i, "unpaired", f"it follows layer {broken.layer}"))
        elif i >= len(theirs):
            pairs.append(Pair(i, "unpaired", "the teacher has no such layer"))
        elif theirs[i].f != own.f:
            pairs.append(Pair(i, "unpaired", f"it reads layer {theirs[i].f} in the teacher, {own.f} in the model"))
        else:
            pairs.append(pair_layer(theirs[i], own, i))
    return Pairing(pairs)


def pair_layer(theirs: nn.Module, own: nn.Module, i: int) -> Pair:
    """Pair one layer of the teacher with one of the twin."""
    if type(theirs) is C3 and type(own) is C3SwinV2:
        names = ("cv1", "cv2", "cv3")
        found = (difference(theirs.get_submodule(name), own.get_submodule(name), name) for name in names)
        reason = next(filter(None, found), "")
        return Pair(i, "unpaired" if reason else "stage", reason)
    if i == 0 and type(own) is Conv and isinstance(theirs, Conv | Focus):
        if type(theirs) is Conv and not difference(theirs, own):
            return Pair(i, "same")
        reason = stem_difference(theirs, own)
        return Pair(i, "unpaired" if reason else "stem", reason)
    reason = difference(theirs, own)
    return Pair(i, "unpaired" if reason else "same", reason)


def difference(theirs: nn.Module, own: nn.Module, name: str = "") -> str:
    """Describe the first difference between two blocks, in kinds, settings or shapes; "" if there is none."""
    a, b = dict(theirs.named_modules(prefix=name)), dict(own.named_modules(prefix=name))
    for key in (*a, *(key for key in b if key not in a)):
        texts = [_describe(modules.get(key)) for modules in (a, b)]
        if texts[0] != texts[1]:
            pairs = (texts, texts[::-1])
            text, other = (", ".join(part for part in parts if part not in rest) for parts, rest in pairs)
            return f"{key + ': ' if key else ''}{text or 'nothing'} in the teacher, {other or 'nothing'} in the model"
    shapes, own_shapes = (
        {key: tuple(value.shape) for key, value in block.state_dict(prefix=f"{name}." if name else "").items()}
        for block in (theirs, own)
    )
    for key, shape in shapes.items():
        if own_shapes.get(key) != shape:
            return f"{key} is {shape} in the teacher, {own_shapes.get(key)} in the model"
    return ""


def _describe(module: nn.Module | None) -> list[str]:
    """Return kind and settings of a module without its children."""
    if module is None:
        return []
    settings = [f"{key}={getattr(module, key)}" for key in SETTINGS if hasattr(module, key)]
    return [type(module).__name__, *re.split(r", (?![^(]*\))", module.extra_repr()), *settings]


def stem_difference(theirs: Conv | Focus, own: Conv) -> str:
    """Describe what keeps two first layers apart other than their kernels; "" if nothing does."""
    inner = theirs.conv if isinstance(theirs, Focus) else theirs
    if inner.conv.out_channels != own.conv.out_channels:
        return f"{inner.conv.out_channels} channels in the teacher, {own.conv.out_channels} in the model"
    steps = tuple(step * (2 if isinstance(theirs, Focus) else 1) for step in inner.conv.stride)
    if steps != own.conv.stride:
        return f"its stride is {steps} in the teacher, {own.conv.stride} in the model"
    return difference(inner.bn, own.bn, "bn") or difference(inner.act, own.act, "act")


def check_pairing(pairing: Pairing, teacher: DetectionModel, twin: DetectionModel, source: str, cfg: str) -> None:
    """Raise ValueError if no stage is paired, or if tables with the same connections have a layer that is not.

    A twin with other levels than its teacher gets what pairs, with a warning.

    Args:
        pairing: of teacher and twin.
        teacher: also for the search of a table that fits.
        twin: the other model.
        source: file of the teacher, for the message.
        cfg: table of the twin, for the message.
    """
    first = pairing.first_unpaired
    if first is None and pairing.stages:
        return
    where = "it has no C3SwinV2 in place of a C3 of the teacher"
    if first is not None:
        where = f"layer {first.layer} ({twin.model[first.layer].type}): {first.reason}"
        if pairing.stages and [layer.f for layer in teacher.model] != [layer.f for layer in twin.model]:
            LOGGER.warning(
                f"{cfg} has other layers than {source}: layers 0 to {first.layer - 1} are converted, the others start "
                f"untrained ({where})"
            )
            return
    fitting = [str(file.relative_to(ROOT)) for file in fitting_tables(teacher)]
    hint = f"{' and '.join(fitting)} fit{'s' * (len(fitting) == 1)} this teacher; " if fitting else ""
    raise ValueError(
        f"{cfg} is not the Swin twin of {source}: {where}. {hint}for one of its own table: "
        + command("python", "-m", "engine.convert", Path(source).absolute(), "--cfg", "twin")
    )


def fitting_tables(teacher: DetectionModel) -> list[Path]:
    """Return the model files of this program that are whole twins of a model."""
    return [file for file in sorted((ROOT / "models").rglob("*-swinv2.yaml")) if _fits(teacher, file)]


def _fits(teacher: DetectionModel, file: Path) -> bool:
    """Whether the model of a file is a whole twin; it is built without weights."""
    table = yaml_load(file)
    if any(table[key] != teacher.yaml[key] for key in ("depth_multiple", "width_multiple")):
        return False
    with torch.device("meta"):
        pairing = pair_layers(teacher, DetectionModel(twin_table(teacher, file), verbose=False))
    return pairing.whole and bool(pairing.stages)


# Tables ---------------------------------------------------------------------------------------------------------------
def twin_table(teacher: DetectionModel, cfg: str | Path) -> dict[str, Any]:
    """Read the table of a twin and give it classes, channels, anchors and activation of the teacher.

    Anchors stay those of the table if it has another number of levels.
    """
    table = yaml_load(check_file(cfg, (".yaml", ".yml"))) | {"nc": teacher.nc, "ch": teacher.yaml["ch"]}
    if teacher.yaml.get("activation"):
        table.setdefault("activation", teacher.yaml["activation"])
    head = table["head"][-1] if isinstance(table.get("head"), list) and table["head"] else None
    levels = len(head[0]) if isinstance(head, list) and head and isinstance(head[0], list) else 0
    if levels == teacher.detect.nl:
        table["anchors"] = pixel_anchors(teacher)
    return table


def pixel_anchors(model: DetectionModel) -> list[list[float]] | int:
    """Return the anchors of a model in pixels, one flat list w, h, ... per level, as a table holds them."""
    head = model.detect
    if head.anchors.is_meta:
        return model.yaml["anchors"]
    levels = (head.anchors * head.stride.view(-1, 1, 1)).flatten(1)  # (levels, 2 * A)
    if (levels <= 0).any():  # placeholders that AutoAnchor has not replaced yet
        return model.yaml["anchors"]
    return [[round(side, 3) for side in level] for level in levels.tolist()]


def derive_table(teacher: DetectionModel, imgsz: int) -> tuple[dict[str, Any], list[str]]:
    """Make the table of the twin of any model: each C3 of its backbone becomes a C3SwinV2, all else stays.

    Args:
        teacher: the model.
        imgsz: side of the images in pixels; the windows divide the maps of this size and, where these are large, of
            half of it.

    Returns:
        The table, and a sentence for each layer of the backbone that could have been replaced and was not.
    """
    table, kept = deepcopy(teacher.yaml), []
    table["anchors"] = pixel_anchors(teacher)
    sides = map_sides(teacher, imgsz)
    for i, row in enumerate(table["backbone"]):
        block: Any = teacher.model[i]
        if type(block) is not C3:
            if type(block).__name__.startswith(("C3", "BottleneckCSP")):
                kept.append(f"layer {i} stays {row[2]}: only C3 has a Swin twin")
            continue
        if (width := block.cv1.conv.out_channels) % 8:
            kept.append(f"layer {i} stays C3: {width} channels inside are no multiple of 8")
            continue
        keywords = dict(row[3].pop()) if isinstance(row[3][-1], dict) else {}
        extra = {"e": row[3][3]} if len(row[3]) > 3 else {key: keywords[key] for key in ("e",) if key in keywords}
        side = sides[i] // 2 if sides[i] >= 16 else sides[i]
        row[2:] = ["C3SwinV2", [row[3][0], choose_window(side), STAGE_KEYWORDS | extra]]
    return table, kept


def map_sides(model: DetectionModel, imgsz: int) -> list[int]:
    """Return the side of the map that each layer of the backbone gives, in cells, for square images."""
    layers = len(model.yaml["backbone"])

    def run(probe: DetectionModel, images: Tensor) -> list[int]:
        return [output.shape[-1] for _, output in run_layers(probe, images, layers)]

    return run_empty(model, model.yaml["ch"], (imgsz, imgsz), run)


def run_layers(
    model: DetectionModel, x: Any, layers: int, inner: Mapping[int, Callable[[int, Tensor], Tensor]] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Run the first layers of a model; after each one yield its index and its output.

    Args:
        model: the model.
        x: images, (B, C, H, W).
        layers: how many.
        inner: layer -> function that stands in for the bottlenecks or the Swin stage of this layer.
    """
    outputs: list[Any] = []
    layer: Any
    for i, layer in enumerate(model.model[:layers]):
        source = layer.f
        if source != -1:
            x = outputs[source] if isinstance(source, int) else [x if f == -1 else outputs[f] for f in source]
        if inner and i in inner:
            x = layer.cv3(torch.cat((inner[i](i, layer.cv1(x)), layer.cv2(x)), 1))
        else:
            x = layer(x)
        outputs.append(x)
        yield i, x


# The copied start -----------------------------------------------------------------------------------------------------
def build_twin(teacher: DetectionModel, table: dict[str, Any]) -> tuple[DetectionModel, Pairing]:
    """Build the twin from its table and copy what pairs; the kernel of a differing stem is copied where it is exact.

    Args:
        teacher: unfused.
        table: from `twin_table` or `derive_table`.

    Returns:
        The twin in evaluation mode with the names of the teacher, its stages the identity, and the pairing.
    """
    twin = DetectionModel(table, verbose=False)
    pairing = pair_layers(teacher, twin)
    for pair in pairing.pairs:
        if pair.kind == "unpaired":
            continue
        theirs: Any = teacher.model[pair.layer]
        own: Any = twin.model[pair.layer]
        if pair.kind == "same":
            own.load_state_dict(theirs.state_dict())
        elif pair.kind == "stage":
            for name in ("cv1", "cv2", "cv3"):
                own.get_submodule(name).load_state_dict(theirs.get_submodule(name).state_dict())
        else:
            copy_stem_(theirs, own)
    start_as_identity_(twin)
    twin.names = dict(teacher.names)
    return twin.eval(), pairing


def start_as_identity_(model: nn.Module) -> None:
    """Make every Swin block give what it gets: gains and biases of both norms 0, as the authors of Swin V2 start."""
    for stage in model.modules():
        if isinstance(stage, SwinV2Stage):
            block: Any
            for block in stage.blocks:
                for norm in (block.norm1, block.norm2):
                    nn.init.zeros_(norm.weight)
                    nn.init.zeros_(norm.bias)


@torch.no_grad()
def copy_stem_(theirs: Conv | Focus, own: Conv) -> bool:
    """Copy the normalisation of the first layer, and its kernel if both kernels see the image alike.

    Returns:
        Whether the kernel was copied too; else it is up to the caller (`engine.conversion.stem`).
    """
    inner = theirs.conv if isinstance(theirs, Focus) else theirs
    own.bn.load_state_dict(inner.bn.state_dict())
    kernel, padding = inner.conv.weight, tuple(map(int, inner.conv.padding))
    if isinstance(theirs, Focus):
        kernel, padding = spread_focus(kernel), tuple(2 * side for side in padding)
    same = kernel.shape == own.conv.weight.shape and padding == own.conv.padding
    if same:
        own.conv.weight.copy_(kernel)
    return same


def spread_focus(kernel: Tensor) -> Tensor:
    """Return the kernel that does on the image what a kernel does on its four phases, see `Focus`.

    Args:
        kernel: (C2, 4 * C1, k, k).

    Returns:
        (C2, C1, 2 * k, 2 * k), for twice the stride and padding.
    """
    c2, c4, rows, columns = kernel.shape
    x = kernel.view(c2, 2, 2, c4 // 4, rows, columns)  # (C2, column parity, row parity, C1, k, k)
    return x.permute(0, 3, 4, 2, 5, 1).reshape(c2, c4 // 4, 2 * rows, 2 * columns)
