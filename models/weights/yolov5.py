"""Checkpoints of the original YOLOv5, v3.0 to today: model table, weights, classes and options, without running them.

The file holds the pickled model object. `utils.model_files.inert_pickle` reads it as records; here the table and the
tensors are taken out, put into the form of this program, and a model that was built from the table is compared with
the records, layer by layer: kernel, stride, padding, groups, activation. Only the model is taken; a training run cannot
go on from it.

Older releases differ in ways that the tensors do not show:
- activations of Conv: LeakyReLU(0.1) in v3.0, Hardswish in v3.1, SiLU since v4.0, then also the key `activation`;
- BottleneckCSP: LeakyReLU(0.1) between its parts up to v6.0, SiLU since;
- Conv and DWConv had no dilation up to v6.2, so that their last argument is one position further left;
- class names were a list up to v6.2; the anchors were stored a second time, in pixels, up to v5.0.
"""

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.weights.class_names import fit_names
from utils.model_files.inert_pickle import SLOT, Budget, LazyTensor, Record
from utils.model_files.torch_file import InertFile
from utils.torch_utils import is_counter

MODELS = ("models.yolo.Model", "models.yolo.DetectionModel")
OTHER_TASKS = {
    "models.yolo.SegmentationModel": "segmentation",
    "models.yolo.ClassificationModel": "classification",
}
MAX_MODULES = 100_000
MAX_DEPTH = 32  # of modules in modules, and of options in options
MAX_LEVELS = 16  # of the pyramid
MAX_TEXT = 200  # characters of a string that becomes part of a message
SAME_KIND = {  # class of the file -> ours, where the names differ
    "Model": "DetectionModel",
    "SyncBatchNorm": "BatchNorm2d",
    "_LinearWithBias": "NonDynamicallyQuantizableLinear",
}
SETTINGS = {  # attributes that change what a layer computes
    "AvgPool2d": ("kernel_size", "stride", "padding"),
    "BatchNorm2d": ("eps",),
    "Bottleneck": ("add",),
    "Concat": ("d",),
    "Contract": ("gain",),
    "Conv2d": ("kernel_size", "stride", "padding", "dilation", "groups"),
    "ELU": ("alpha",),
    "ConvTranspose2d": ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups"),
    "CrossConv": ("add",),
    "DWConvTranspose2d": ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups"),
    "Detect": ("nc", "no", "nl", "na"),
    "Expand": ("gain",),
    "LeakyReLU": ("negative_slope",),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "MultiheadAttention": ("num_heads",),
    "Upsample": ("scale_factor", "mode"),
    "ZeroPad2d": ("padding",),
}
ACTIVATIONS = ("ELU", "GELU", "Hardswish", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SiLU")
_DROPPED = object()


@dataclass(frozen=True)
class Foreign:
    """What a file of the original YOLOv5 holds, in our terms.

    Attributes:
        table: the model YAML with nc, ch and, where the file shows one, `activation`.
        names: class number to name.
        stride: pixels per cell of each level.
        state: tensors by name, as stored.
        records: the modules by name.
        hyp: hyperparameters with the loss gains of that training, or None.
        opt: its options, those that are plain values.
        git: repository and commit, or None.
        date: ISO time of writing, or "".
    """

    table: dict[str, Any]
    names: dict[int, str]
    stride: list[float]
    state: dict[str, Tensor]
    records: dict[str, Record]
    hyp: dict[str, Any] | None
    opt: dict[str, Any]
    git: str | None
    date: str


def read_foreign(path: Path, file: InertFile) -> Foreign:
    """Read a checkpoint of the original YOLOv5, or its model alone; no code in the file is run.

    Args:
        path: for messages.
        file: the opened file.

    The averaged model `ema` is taken where there is one, else `model`.

    Raises:
        ValueError: the file is damaged, names anything but data and modules, or holds no detection model; names file
            and reason.
    """
    try:
        return _take_out(file)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None


def _take_out(file: InertFile) -> Foreign:
    root = file.root
    content = root if isinstance(root, dict) else {"model": root}
    model = content.get("model") if content.get("ema") is None else content["ema"]
    if isinstance(model, Record) and model.kind == "DistributedDataParallel":
        model = _part(model, "_modules").get("module")
    if not isinstance(model, Record):
        raise ValueError(
            "not a YOLOv5 checkpoint: the entry 'model' is not a model (weights alone do not define the layers)"
        )
    if model.name in OTHER_TASKS:
        raise ValueError(f"a {OTHER_TASKS[model.name]} checkpoint; this project detects: give a detection model")
    if model.name not in MODELS:
        raise ValueError(f"the model is a {model.name}; only detection models can be read: {', '.join(MODELS)}")
    records = dict(_walk(model, file.memory))
    lazy: dict[str, LazyTensor] = {}
    for prefix, record in records.items():
        lazy |= _tensors(prefix, record, file.memory)
    if sum(math.prod(t.size) * t.storage.dtype.itemsize for t in lazy.values()) > file.size:
        raise ValueError("damaged: more weights than bytes in the file")
    state = {name: file.tensor(value).clone() for name, value in lazy.items()}
    head = next((record for record in records.values() if record.kind == "Detect"), None)
    table = _plain(model.state.get("yaml"), file.memory)
    if head is None or not isinstance(table, dict):
        raise ValueError("the model has no Detect head or no table 'yaml'")
    opt = _plain(content.get("opt"), file.memory)
    hyp = _plain(model.state.get("hyp"), file.memory)
    git = _plain(content.get("git"), file.memory)
    date = content.get("date")
    table = _modern_table(table, records, state)
    if table["nc"] > sum(value.numel() for value in state.values()):
        raise ValueError("damaged: more classes than weights")
    return Foreign(
        table,
        fit_names(_plain(model.state.get("names"), file.memory), table["nc"], "this checkpoint"),
        _stride(file, model, head),
        state,
        records,
        hyp if isinstance(hyp, dict) and hyp else None,
        opt if isinstance(opt, dict) else {},
        " ".join(v for v in git.values() if isinstance(v, str))[:MAX_TEXT] or None if isinstance(git, dict) else None,
        date[:MAX_TEXT] if isinstance(date, str) else "",
    )


# Parts of the records -----------------------------------------------------------------------------------------------


def _part(record: Record, key: str) -> dict[str, Any]:
    """Return one of the tables of a module; absent in a file means empty."""
    part = record.state.get(key)
    return part if isinstance(part, dict) else {}


def _walk(root: Record, memory: Budget) -> Iterator[tuple[str, Record]]:
    """Go through a module and all below it, by dotted name, in the order of `nn.Module.named_modules`."""
    todo, met = [("", root)], 0
    while todo:
        name, record = todo.pop()
        met += 1
        if met > MAX_MODULES or name.count(".") > MAX_DEPTH:
            raise ValueError("damaged: too many modules, or nested too deeply")
        yield name, record
        parts = _part(record, "_modules")
        memory.spend(SLOT * len(parts))
        for key, child in reversed(parts.items()):
            if isinstance(child, Record):
                path = f"{name}.{key}" if name else str(key)
                memory.spend_text(path)
                todo.append((path, child))
        if len(todo) > MAX_MODULES:
            raise ValueError("damaged: too many modules, or nested too deeply")


def _tensors(prefix: str, record: Record, memory: Budget) -> Iterator[tuple[str, LazyTensor]]:
    """Go through what the state dict of this one module would hold."""
    skipped = record.state.get("_non_persistent_buffers_set")
    skipped = skipped if isinstance(skipped, set) else set()
    parameters, buffers = _part(record, "_parameters"), _part(record, "_buffers")
    memory.spend(SLOT * (len(parameters) + len(buffers)))
    for key, value in (*parameters.items(), *buffers.items()):
        if is_counter(key) or (record.kind == "Detect" and key == "anchor_grid"):
            continue  # the second are the anchors once more, in pixels (up to v5.0)
        if isinstance(value, LazyTensor) and key not in skipped:
            path = f"{prefix}.{key}" if prefix else str(key)
            memory.spend_text(path)
            yield path, value


def _plain(value: Any, memory: Budget, depth: int = 0) -> Any:
    """Copy lists, mappings and plain values; other entries are left out."""
    if depth > MAX_DEPTH:
        raise ValueError("damaged: the table or the options are nested too deeply")
    memory.spend_text(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        items = ((key, _plain(item, memory, depth + 1)) for key, item in value.items())
        return {key: item for key, item in items if item is not _DROPPED and not isinstance(key, bytes)}
    if isinstance(value, list | tuple):
        items = (_plain(item, memory, depth + 1) for item in value)
        return [item for item in items if item is not _DROPPED]
    return _DROPPED


def _stride(file: InertFile, model: Record, head: Record) -> list[float]:
    """Read the pixels per cell of each level from the model or its head, in models of this project a buffer there."""
    for values in (model.state, head.state, _part(head, "_buffers")):
        lazy = values.get("stride")
        if isinstance(lazy, LazyTensor) and len(lazy.size) == 1 and lazy.size[0] <= MAX_LEVELS:
            return [float(value) for value in file.tensor(lazy).tolist()]
    raise ValueError("the model has no 'stride'")


# The table ----------------------------------------------------------------------------------------------------------


def _modern_table(table: dict[str, Any], records: Mapping[str, Record], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Bring a table of an older release into today's form; see the head of this file."""
    table = deepcopy(table)
    parts = [table.get("backbone") or [], table.get("head") or []]
    rows = [row for part in parts if isinstance(part, list) for row in part]
    if type(table.get("nc")) is not int or not all(isinstance(r, list) and len(r) == 4 for r in rows):
        raise ValueError("the table 'yaml' lacks nc, or a layer is not [from, number, module, args]")
    table.setdefault("ch", 3)
    if not table.get("activation") and (text := _activation(records)):
        table["activation"] = text
    for i, row in enumerate(rows):
        args = row[3] = row[3] if isinstance(row[3], list) else []
        if row[2] == "Detect":
            row[3] = ["nc", "anchors"]
        elif row[2] in ("Conv", "DWConv"):
            place = 5 if row[2] == "Conv" else 3  # of `act` up to v6.2
            if len(args) == place + 1 and isinstance(args[place], bool):
                row[3] = [*args[:place], {"act": args[place]}]
        elif row[2] == "BottleneckCSP":
            act = _part(records.get(f"model.{i}", Record("")), "_modules").get("act")
            if isinstance(act, Record) and act.kind == "LeakyReLU":
                row[3] = [*args, {"leaky": _slope(act)}]
    anchors = state.get(f"model.{len(rows) - 1}.anchors")
    if anchors is not None and anchors.ndim == 3 and not isinstance(table.get("anchors"), int):
        levels = table["anchors"] if isinstance(table.get("anchors"), list) else []
        pairs = [len(level) if isinstance(level, list) else 0 for level in levels]
        if pairs != [2 * anchors.shape[1]] * len(anchors):
            table["anchors"] = anchors.shape[1]
    return table


def _slope(act: Record) -> float:
    """Return the negative slope of a LeakyReLU."""
    slope = act.state.get("negative_slope", 0.01)
    if not isinstance(slope, int | float):
        raise ValueError(f"the slope of a LeakyReLU is a {type(slope).__name__}")
    return slope


def _activation(records: Mapping[str, Record]) -> str | None:
    """Name the activation of the first Conv in the first row or below it; None for SiLU, the default."""
    inside = (record for name, record in records.items() if f"{name}.".startswith("model.0."))
    act = next((_part(record, "_modules").get("act") for record in inside if record.kind == "Conv"), None)
    if not isinstance(act, Record) or act.kind == "SiLU":
        return None
    if act.kind not in ACTIVATIONS:
        raise ValueError(f"the activation {act.name} is not known here; known: {', '.join(ACTIVATIONS)}")
    return f"nn.LeakyReLU({_slope(act)})" if act.kind == "LeakyReLU" else f"nn.{act.kind}()"


# Comparison with the rebuilt model ----------------------------------------------------------------------------------


def fit_state(foreign: Foreign, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors under the names of a model that was built from the table, after comparing the two.

    Where the file was fused (convolutions with the normalisation folded in), the model gets norms that change nothing.

    Args:
        foreign: from `read_foreign`.
        model: built from `foreign.table`; not changed.

    Raises:
        ValueError: tensors are left over or missing, or a layer computes something else.
    """
    own = model.state_dict()
    state = dict(foreign.state)
    fused = _unfuse_(state, own, model)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise ValueError(
            f"the table defines another model: {_some(missing)} missing in the file, {_some(extra)} unexpected"
        )
    if foreign.stride != model.stride.tolist():
        raise ValueError(f"the strides are {foreign.stride} in the file, {model.stride.tolist()} here")
    shapes = [key for key, value in state.items() if value.shape != own[key].shape]
    if shapes:
        key = shapes[0]
        raise ValueError(f"{key} has the shape {tuple(state[key].shape)}, but its table gives {tuple(own[key].shape)}")
    differing = list(_differences(foreign.records, model, fused))
    if differing:
        raise ValueError(f"the table defines another model: {_some(differing)}")
    return {key: state[key] for key in own}


def _some(items: list[str]) -> str:
    """Join the first three, shortened."""
    first = ", ".join(item[:MAX_TEXT] for item in items[:3])
    return f"{first}{f' and {len(items) - 3} more' if len(items) > 3 else ''}" or "none"


def _unfuse_(state: dict[str, Tensor], own: Mapping[str, Tensor], model: nn.Module) -> set[str]:
    """Turn folded convolutions into convolution and norm; return the names of these blocks."""
    blocks = {key.removesuffix(".bn.weight") for key in own if key.endswith(".bn.weight") and key not in state}
    blocks = {block for block in blocks if f"{block}.conv.bias" in state}
    for block in blocks:
        bias = state.pop(f"{block}.conv.bias")
        norm: Any = model.get_submodule(f"{block}.bn")
        state[f"{block}.bn.weight"] = torch.ones_like(bias)
        state[f"{block}.bn.bias"] = bias
        state[f"{block}.bn.running_mean"] = torch.zeros_like(bias)
        state[f"{block}.bn.running_var"] = torch.full_like(bias, 1 - norm.eps, dtype=torch.float32)
        state[f"{block}.bn.num_batches_tracked"] = torch.tensor(0)
    return blocks


def _differences(records: Mapping[str, Record], model: nn.Module, fused: set[str]) -> Iterator[str]:
    """Compare every module that was built with its record: class and settings."""
    for name, module in model.named_modules(remove_duplicate=False):
        record, kind = records.get(name), type(module).__name__
        if record is None:
            if name.removesuffix(".bn") not in fused:
                yield f"{name} ({kind}) is not in the file"
            continue
        if SAME_KIND.get(record.kind, record.kind) != kind:
            yield f"{name} is {record.kind} in the file, {kind} here"
        for key in SETTINGS.get(kind, ()):
            if key in record.state and _pair(record.state[key]) != _pair(getattr(module, key)):
                yield f"{name}: {key} is {_pair(record.state[key])} in the file, {_pair(getattr(module, key))} here"


def _pair(value: Any) -> Any:
    """Make 3, (3,), (3, 3) and [3, 3] equal, and 2 and 2.0; what is no plain value equals nothing."""
    if isinstance(value, list | tuple):
        items = [_pair(item) for item in value[:8] if not isinstance(item, list | tuple)]
        return items[0] if items and len(items) == len(value) and len(set(items)) == 1 else tuple(items)
    if isinstance(value, int | float):
        return str(value) if isinstance(value, bool) else float(value)
    return value[:MAX_TEXT] if isinstance(value, str) else None if value is None else _DROPPED
