"""Published ImageNet weights of Swin Transformer V2: recognised by their keys, renamed for the models of the paper.

Three layouts hold the same values under other names: torchvision's, timm's, and Microsoft's (the authors'). Swin V1
and timm's `swinv2_cr` are other functions and refused. No code in a file is run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.common import LayerNorm2d, PatchEmbed, PatchMerging, SwinV2Stage
from models.weights.transfer import adapt_input
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.downloads.official_weights import find_backbone
from utils.model_files.inert_pickle import DamagedError, RefusedError
from utils.model_files.torch_file import InertFile
from utils.paths import command

PUBLISHED = {  # name for --weights, a key of `IMAGENET` -> model file that it fits
    "swinv2_t": "models/yolov5-swinv2t.yaml",
    "swinv2_s": "models/yolov5-swinv2s.yaml",
    "swinv2_b": "models/yolov5-swinv2b.yaml",
}
PREFIXES = ("module.", "model.", "encoder.")  # DataParallel, training frameworks, SimMIM
CONTAINERS = ("model", "state_dict")
COMPUTED = ("relative_coords_table", "relative_position_index", "attn_mask", "k_bias")  # buffers, made again
OPTIONAL = (".norm3.", ".mlp.dw.")  # parts of our blocks that no published file has


@dataclass(frozen=True)
class Published:
    """The weights of a backbone under the names of this project's blocks.

    Attributes:
        source: name or file they came from. layout: torchvision, timm or Microsoft.
        state: `embed.*`, `stages.S.merge.*` (reduction into stage S), `stages.S.blocks.J.*`, `norm.*`, S and J from 0.
        dropped: keys of classifier and buffers. unknown: keys that belong to nothing.
        trained_windows: window that the position bias of each stage was trained with; empty where the file holds no
            offsets to tell it from.
    """

    source: str
    layout: str
    state: dict[str, Tensor]
    dropped: list[str]
    unknown: list[str]
    trained_windows: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What `load_published` did: entries of the model that were filled, those of its backbone that were not, keys."""

    taken: list[str]
    missing: list[str]
    unexpected: list[str]
    dropped: list[str]


def read_published(weights: str) -> Published | None:
    """Read the published weights that `--weights` names.

    Args:
        weights: a key of `PUBLISHED`, or a file in one of the three layouts (.pth, .pt, .bin, .safetensors).

    Returns:
        The weights, or None when the file is nothing of the kind and `load_checkpoint` has to judge it.

    Raises:
        ValueError: weights of another architecture, or a file that is not the published one.
        OSError: the file cannot be fetched or read.
    """
    path = find_backbone(weights) if weights in PUBLISHED else Path(weights)
    state = _read_state(path)
    return None if state is None else recognise(state, weights)


def _read_state(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file without containers and prefixes; None if it is a checkpoint of ours, or none."""
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file  # noqa: PLC0415, optional
        except ImportError as error:
            line = command("pip", "install", "safetensors")
            raise ValueError(f"{path}: reading this needs safetensors: {line}") from error
        content: Any = load_file(path)
    else:
        try:
            with InertFile(path, data_only=True) as file:
                if isinstance(file.root, Mapping) and isinstance(file.root.get("format"), int):
                    return None
                content = file.content()
        except (DamagedError, RefusedError):
            return None
    if not isinstance(content, Mapping):
        return None
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    state = {strip_prefixes(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return state or None


def strip_prefixes(key: str) -> str:
    """Return a key without the prefixes of wrappers."""
    while prefix := next((p for p in PREFIXES if key.startswith(p)), None):
        key = key.removeprefix(prefix)
    return key


def layout_of(state: Mapping[str, Tensor], source: str) -> str:
    """Return the layout of a file by its tensor names: torchvision, timm or Microsoft.

    Raises:
        ValueError: it is Swin V1, timm's swinv2_cr, or something else.
    """
    if any(key.endswith("relative_position_bias_table") for key in state):
        raise ValueError(f"{source}: these are weights of Swin V1, another architecture; Swin V2 is needed")
    if any(".meta_mlp." in key or key.endswith("attn.tau") for key in state):
        raise ValueError(f"{source}: these are weights of timm's swinv2_cr, another architecture; swinv2_* is needed")
    if "features.0.0.weight" in state and "features.1.0.attn.logit_scale" in state:
        return "torchvision"
    if "patch_embed.proj.weight" in state and "layers.0.blocks.0.attn.logit_scale" in state:
        return "Microsoft" if "layers.0.downsample.reduction.weight" in state else "timm"
    raise ValueError(
        f"{source}: neither a checkpoint of this program nor weights of Swin V2 in the layout of torchvision, timm or "
        f"Microsoft (the keys begin with {', '.join(list(state)[:3])})"
    )


def recognise(state: Mapping[str, Tensor], source: str) -> Published:
    """Rename the tensors of one of the three layouts.

    Args:
        state: without containers and prefixes.
        source: name for messages.

    Raises:
        ValueError: as `layout_of`.
    """
    layout = layout_of(state, source)
    rename = _from_torchvision if layout == "torchvision" else _from_layers
    renamed: dict[str, Tensor] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    windows: dict[int, int] = {}
    for key, value in state.items():
        if key.endswith(COMPUTED) or key.startswith(("head.", "decoder.", "mask_token")):
            dropped.append(key)
            if key.endswith("relative_coords_table") and (name := rename(key, layout)):
                windows[int(name.split(".")[1])] = trained_window(value)
            continue
        name = rename(key, layout)
        if name is None:
            unknown.append(key)
        elif name.endswith("attn.qkv.bias"):  # one vector for queries, keys and values; that of the keys has no effect
            q, _, v = value.chunk(3)
            renamed |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
        else:
            renamed[name] = value
    return Published(source, layout, renamed, dropped, unknown, windows)


def trained_window(table: Tensor) -> int:
    """Return the window that a table of log-spaced offsets, (1, 2 w - 1, 2 w - 1, 2), is scaled for.

    The last entry is t = log2(1 + 8 (w - 1) / (p - 1)) / 3, solved for p.
    """
    last = table.flatten()[-1].item()
    return 1 + round(4 * (table.shape[1] - 1) / (2 ** (3 * last) - 1)) if last > 0 else 1


def _from_torchvision(key: str, layout: str) -> str | None:
    """Rename a key of torchvision: features.0 is the stem, odd numbers are stages, even ones the mergings into them."""
    if key.startswith("norm."):
        return key
    if stem := re.fullmatch(r"features\.0\.([02])\.(\w+)", key):
        return f"embed.{'proj' if stem[1] == '0' else 'norm'}.{stem[2]}"
    if not (match := re.fullmatch(r"features\.([1-7])\.(.+)", key)):
        return None
    index, rest = int(match[1]), match[2]
    if index % 2 == 0:
        return f"stages.{index // 2}.merge.{rest}"
    rest = re.sub(r"^(\d+\.mlp)\.0\.", r"\1.fc1.", rest)  # not in cpb_mlp.0
    return f"stages.{index // 2}.blocks." + re.sub(r"^(\d+\.mlp)\.3\.", r"\1.fc2.", rest)


def _from_layers(key: str, layout: str) -> str | None:
    """Rename a key of timm or Microsoft; the latter keep the merging at the end of the stage before."""
    if key.startswith("norm."):
        return key
    if key.startswith("patch_embed."):
        return key.replace("patch_embed.", "embed.", 1)
    if match := re.fullmatch(r"layers\.(\d)\.downsample\.(.+)", key):
        return f"stages.{int(match[1]) + (layout == 'Microsoft')}.merge.{match[2]}"
    if match := re.fullmatch(r"layers\.(\d)\.blocks\.(.+)", key):
        return f"stages.{match[1]}.blocks.{match[2]}"
    return None


def backbone_keys(model: DetectionModel) -> dict[str, str]:
    """Return the key of `model` (its rows are `model.model`) for each name of `Published.state`.

    Raises:
        ValueError: the model does not have the rows of the paper's backbone.
    """
    rows = [(i, row) for i, row in enumerate(model.model) if isinstance(row, PatchEmbed | PatchMerging | SwinV2Stage)]
    kinds = [type(row) for _, row in rows]
    if kinds != [PatchEmbed, SwinV2Stage] + [PatchMerging, SwinV2Stage] * 3:
        raise ValueError(
            f"{getattr(model, 'yaml_file', None) or 'model'}: published weights are for the backbones of the paper; "
            "use --cfg models/yolov5-swinv2t.yaml (or s, b, l, h, g)"
        )
    prefixes = {f"model.{rows[0][0]}.": "embed."}
    for s in range(4):
        prefixes[f"model.{rows[2 * s + 1][0]}."] = f"stages.{s}."
        if s:
            prefixes[f"model.{rows[2 * s][0]}."] = f"stages.{s}.merge."
    last = rows[-1][0]
    for i, row in enumerate(model.model):
        if isinstance(row, LayerNorm2d) and (row.f == last or (row.f == -1 and i == last + 1)):
            prefixes[f"model.{i}."] = "norm."
    keys = {}
    for key in model.state_dict():
        prefix = ".".join(key.split(".")[:2]) + "."
        if prefix in prefixes:
            keys[prefixes[prefix] + key.removeprefix(prefix)] = key
    return keys


@torch.no_grad()
def load_published(model: DetectionModel, published: Published) -> Report:
    """Copy published weights into the backbone of a detector, in place; log what was taken.

    The norm after the last stage goes into the norm of P5. Windows stay those of the model; where the file tells
    another window that the position bias was trained with than the model file, the file is believed.

    Args:
        model: a `DetectionModel` with the rows of the paper's backbone.
        published: from `read_published`.

    Raises:
        ValueError: the model has no such backbone, or one of another size.
    """
    keys, own = backbone_keys(model), model.state_dict()
    state = {**published.state}
    if (channels := model.yaml["ch"]) != 3 and "embed.proj.weight" in state:
        state["embed.proj.weight"] = adapt_input(state["embed.proj.weight"], 3, channels)
        LOGGER.info(f"Backbone: first layer adapted from 3 to {channels} channels: its response to a grey image stays")
    wrong = [n for n in keys if n in state and state[n].shape != own[keys[n]].shape]
    missing = [n for n in keys if n not in state]
    needed = [n for n in missing if not n.startswith("norm.") and not any(part in n for part in OPTIONAL)]
    unexpected = [n for n in state if n not in keys] + published.unknown
    if wrong or needed:
        raise ValueError(
            f"{published.source}: these weights have the widths / depths {_size(state)}, but the model has "
            f"{_size(own, keys)} ({(wrong + needed)[0]} does not fit); choose the matching models/yolov5-swinv2*.yaml"
        )
    for name, key in keys.items():
        if name in state:
            own[key].copy_(state[name])
    stages = model.swin_stages
    for s, window in published.trained_windows.items():
        for block in stages[s].blocks:
            block.attn.pretrained_window = (window, window)
    model.set_window([stage.window for stage in stages])  # brings the table of the model in line
    taken = [keys[n] for n in keys if n in state]
    report = Report(taken, [keys[n] for n in missing], unexpected, published.dropped)
    log_report(report, published, len(keys))
    return report


def _size(state: Mapping[str, Tensor], keys: Mapping[str, str] | None = None) -> str:
    """Return widths and depths of a backbone, as 96-192-384-768 / 2-2-6-2."""
    names = {name: name for name in state} if keys is None else keys
    widths, depths = [], []
    for s in range(4):
        blocks = {int(m[1]) for name in names if (m := re.match(rf"stages\.{s}\.blocks\.(\d+)\.", name))}
        depths.append(str(len(blocks)))
        first = names.get(f"stages.{s}.blocks.0.norm1.weight")
        widths.append("?" if first is None else str(len(state[first])))
    return f"{'-'.join(widths)} / {'-'.join(depths)}"


def log_report(report: Report, published: Published, total: int) -> None:
    """Log what was taken, what the file lacks and what it holds besides."""
    LOGGER.info(
        f"Backbone: {len(report.taken)}/{total} tensors from {published.source} ({published.layout} layout); "
        f"{len(report.dropped)} of classifier and buffers left out"
    )
    if published.trained_windows:
        LOGGER.info(
            f"Position bias trained with windows {list(dict(sorted(published.trained_windows.items())).values())}"
        )
    for what, names in (("not in the file", report.missing), ("in the file, but not in the model", report.unexpected)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            LOGGER.warning(f"{what}: {', '.join(names[:5])}{more}")
