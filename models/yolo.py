"""Build a detector from its YAML table: the Detect head, the table of blocks, the parser and the model.

A model YAML has the keys nc, depth_multiple, width_multiple, anchors, backbone and head; the last two are rows `[from,
number, module, args]`. See `parse_model`. `python models/yolo.py --cfg yolov5s.yaml` prints the table of a model.
"""

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __name__ == "__main__":  # python models/yolo.py --cfg ...: Python puts models/ on the path, not the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from models import common
from models.autoshape import AutoShape
from models.convolutions import ACTIVATIONS, default_activation, in_place
from models.convolutions import parse_activation as parse_activation
from models.cost import LayerTimes, count_gflops
from models.image_size import find_strides, make_divisible
from models.model_table import MAX_CHANNELS, MAX_REPEATS, check_table, expand_anchors, resolve_args
from models.tta import forward_augmented
from utils.console import LOGGER, cli_errors
from utils.datasets.images import PixelFormat
from utils.files import yaml_load
from utils.paths import check_file
from utils.torch_utils import fuse_conv_and_bn, initialize_weights, model_info

Outputs = (
    list[Tensor] | tuple[Tensor, ...] | tuple[Tensor, list[Tensor] | None]
)  # raw maps; (boxes,); (boxes, raw maps)


class Detect(nn.Module):
    """Anchor-based head: one 1x1 convolution per level and the decoding of its output.

    In training it returns the raw maps, one (B, A, H, W, 5 + nc) per level. In evaluation it returns (boxes, raw maps)
    with boxes (B, R, 5 + nc) float32: centre x, centre y, width, height in pixels of the network input, objectness and
    class scores 0..1; R runs over levels, anchors, rows, columns. With `export` set it returns (boxes,).

    Args:
        nc: classes.
        anchors: one flat list w, h, w, h, ... per level, in pixels.
        ch: channels of each input.
        inplace: kept as the attribute that YOLOv5's scripts read and set. The results do not depend on it: `decode`
            never writes into the raw maps.

    Attributes:
        grid, anchor_grid: for scripts that decode raw maps themselves: of each level, cell positions less 0.5 and
            anchors in pixels, (1, A, H, W, 2), of the last call in evaluation; empty before it.
        dynamic: for scripts that set it before an export; every call computes its cell positions.
        raw_heads: with `export`, return what the convolutions give, one (B, A * (5 + nc), H, W) per level.
    """

    dynamic = False
    raw_heads = False
    export = False  # on the class: heads that torch.load made from a file of YOLOv5 have no such attribute
    anchors: Tensor  # (levels, A, 2) in cells
    stride: Tensor  # (levels,) pixels per cell

    def __init__(
        self, nc: int = 80, anchors: Sequence[Sequence[float]] = (), ch: Sequence[int] = (), inplace: bool = True
    ) -> None:
        super().__init__()
        self.inplace = inplace
        self.nc = nc
        self.no = nc + 5
        self.nl = len(anchors)
        self.na = len(anchors[0]) // 2 if len(anchors) else 0
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32).view(self.nl, self.na, 2))
        self.register_buffer("stride", torch.ones(self.nl), persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)
        self.grid, self.anchor_grid = ([torch.empty(0) for _ in range(self.nl)] for _ in range(2))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or pickle holds: everything but the grids of the last call."""
        empty = [torch.empty(0) for _ in range(self.nl)]
        return {key: list(empty) if key in ("grid", "anchor_grid") else value for key, value in vars(self).items()}

    def forward(self, x: list[Tensor]) -> Outputs:
        """Predict from one map (B, C, H, W) per level; for what it returns see the class."""
        maps = [conv(feature) for conv, feature in zip(self.m, x, strict=True)]  # (B, A * (5 + nc), H, W)
        if self.export and self.raw_heads:
            return tuple(maps)
        views = (y.view(y.shape[0], self.na, self.no, *y.shape[2:]) for y in maps)
        raw = [view.permute(0, 1, 3, 4, 2).contiguous() for view in views]  # (B, A, H, W, 5 + nc)
        if self.training:
            return raw
        boxes = torch.cat([self.decode(y, level) for level, y in enumerate(raw)], 1)
        return (boxes,) if self.export else (boxes, raw)

    def decode(self, raw: Tensor, level: int) -> Tensor:
        """Turn the raw map of one level, (B, A, H, W, 5 + nc), into rows of boxes, (B, A * H * W, 5 + nc), in float32.

        xy = (2 sigmoid - 0.5 + cell) * stride, wh = (2 sigmoid)^2 * anchor.
        """
        b, _, h, w, _ = raw.shape
        stride = self.stride[level].float()
        rows = torch.arange(h, device=raw.device, dtype=torch.float32)
        columns = torch.arange(w, device=raw.device, dtype=torch.float32)
        cell = torch.stack((columns.expand(h, w), rows[:, None].expand(h, w)), -1) - 0.5  # (H, W, 2)
        anchor = (self.anchors[level].float() * stride).view(1, self.na, 1, 1, 2)
        kept = isinstance(self.__dict__.get("anchor_grid"), list)  # export recipes put a buffer in its place
        if kept and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # a graph must not keep its tensors
            self.grid[level], self.anchor_grid[level] = (t.expand(1, self.na, h, w, 2) for t in (cell, anchor))
        xy, wh, scores = raw.float().sigmoid().split((2, 2, self.nc + 1), -1)
        xy = (xy * 2 + cell) * stride
        wh = wh * 2
        return torch.cat((xy, wh * wh * anchor, scores), -1).view(b, -1, self.no)


@dataclass(frozen=True)
class Row:
    """How a block fits into the YAML grammar.

    Attributes:
        block: the class.
        channels: rule for its arguments and output width. `scaled`: (c1, c2, *args), c2 times the width multiple;
            `same`: (c1,); `kept`: (*args), output as wide as input; `sum`: (*args), inputs concatenated; `squared` and
            `divided`: (gain), output width c1 * gain^2 or c1 / gain^2; `detect`: (nc, anchors) and the widths of its
            inputs.
        repeats: `inside` passes the number of repeats to the block as third argument; `outside` stacks copies of it.
    """

    block: type[nn.Module]
    channels: str = "scaled"
    repeats: str = "outside"


BLOCKS = {
    "Conv": Row(common.Conv),
    "DWConv": Row(common.DWConv),
    "DWConvTranspose2d": Row(common.DWConvTranspose2d),
    "Bottleneck": Row(common.Bottleneck),
    "BottleneckCSP": Row(common.BottleneckCSP, repeats="inside"),
    "C3": Row(common.C3, repeats="inside"),
    "C3Ghost": Row(common.C3Ghost, repeats="inside"),
    "C3SPP": Row(common.C3SPP),
    "C3SwinV2": Row(common.C3SwinV2, repeats="inside"),
    "C3TR": Row(common.C3TR, repeats="inside"),
    "C3x": Row(common.C3x, repeats="inside"),
    "Concat": Row(common.Concat, channels="sum"),
    "Contract": Row(common.Contract, channels="squared"),
    "CrossConv": Row(common.CrossConv),
    "Detect": Row(Detect, channels="detect"),
    "Expand": Row(common.Expand, channels="divided"),
    "Focus": Row(common.Focus),
    "GhostBottleneck": Row(common.GhostBottleneck),
    "GhostConv": Row(common.GhostConv),
    "LayerNorm2d": Row(common.LayerNorm2d, channels="same"),
    "MixConv2d": Row(common.MixConv2d),
    "PatchEmbed": Row(common.PatchEmbed),
    "PatchMerging": Row(common.PatchMerging),
    "SPP": Row(common.SPP),
    "SPPF": Row(common.SPPF),
    "SwinV2Stage": Row(common.SwinV2Stage, repeats="inside"),
    "nn.BatchNorm2d": Row(nn.BatchNorm2d, channels="same"),
    "nn.ConvTranspose2d": Row(nn.ConvTranspose2d),
}
KEPT = (*ACTIVATIONS, "AvgPool2d", "Conv2d", "Dropout2d", "MaxPool2d", "ReflectionPad2d", "Upsample", "ZeroPad2d")
BLOCKS |= {f"nn.{name}": Row(getattr(nn, name), channels="kept") for name in KEPT}


class _Parser:
    """The state of one pass over the rows: channels so far and the multiples."""

    def __init__(self, d: dict[str, Any], ch: int, source: str) -> None:
        self.d, self.source = d, source
        self.gd, self.gw = d["depth_multiple"], d["width_multiple"]
        self.divisor = d.get("channel_multiple") or 8
        self.channels = [ch]
        self.save: set[int] = set()

    def width_of(self, f: int, i: int) -> int:
        index = f if f >= 0 else i + f
        if i == 0 and f != -1:
            raise ValueError(f"'from' is {f}, but layer 0 can only read the image, -1")
        if i and not 0 <= index < i:
            raise ValueError(f"'from' is {f}, but layer {i} can only read layers 0 to {i - 1} or -1 to {-i}")
        return self.channels[index + 1]

    def scaled(self, c2: Any, anchors: Any, nc: int) -> int:
        if not isinstance(c2, int) or c2 < 1:
            raise ValueError(f"the first argument must be a number of channels, not {c2!r}")
        levels = anchors[0] if isinstance(anchors, list) else [0] * (2 * anchors)
        if c2 == len(levels) // 2 * (nc + 5):
            return c2
        if c2 > MAX_CHANNELS:
            raise ValueError(f"{c2} channels; at most {MAX_CHANNELS} are built")
        return make_divisible(c2 * self.gw, self.divisor)

    def arguments(self, row: Row, inputs: list[int], n: int, args: list[Any]) -> tuple[list[Any], int, int]:
        """Return the positional arguments of the block, its output width and how often it is stacked."""
        c1, anchors, nc = inputs[0], self.d["anchors"], self.d["nc"]
        if row.channels == "scaled":
            if not args:
                raise ValueError("the first argument must be a number of channels, but there is none")
            c2 = self.scaled(args[0], anchors, nc)
            inside = [n] if row.repeats == "inside" else []
            return [c1, c2, *inside, *args[1:]], c2, 1 if inside else n
        if row.channels == "same":
            return [c1], c1, n
        if row.channels == "sum":
            return args, sum(inputs), n
        if row.channels in ("squared", "divided"):
            gain = args[0] if args else 2
            if not isinstance(gain, int) or gain < 1:
                raise ValueError(f"the argument must be a positive number of cells, not {gain!r}")
            return args, c1 * gain**2 if row.channels == "squared" else c1 // gain**2, n
        if row.channels == "detect":
            if args and args[0] != nc:
                raise ValueError(f"the first argument of Detect must be nc, {nc} classes, not {args[0]!r}")
            return [nc, expand_anchors(args[1] if len(args) > 1 else anchors, len(inputs)), inputs], 0, 1
        return args, c1, n

    def build(self, i: int, f: int | list[int], n: int, name: str, args: list[Any]) -> nn.Module:
        """Build row `i` and remember its output width."""
        if not isinstance(name, str) or name not in BLOCKS:
            close = difflib.get_close_matches(str(name), BLOCKS, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown module {name!r}.{hint} Allowed: {', '.join(BLOCKS)}")
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"'number' must be a positive integer, not {n!r}")
        if not isinstance(args, list):
            raise ValueError(f"'args' must be a list, not {args!r}")
        row = BLOCKS[name]
        froms = [f] if isinstance(f, int) else f
        if not froms or not all(isinstance(index, int) for index in froms):
            raise ValueError(f"'from' must be an integer or a list of integers, not {f!r}")
        several = row.channels in ("sum", "detect")
        if isinstance(f, list) != several:
            what = "a list of layers" if several else "one layer"
            raise ValueError(f"{name} reads {what}, so 'from' cannot be {f!r}")
        inputs = [self.width_of(index, i) for index in froms]
        n = max(round(n * self.gd), 1) if n > 1 else n
        if n > MAX_REPEATS:
            raise ValueError(f"'number' gives {n} blocks; at most {MAX_REPEATS} are built")
        args = resolve_args(args, self.d["nc"], self.d["anchors"])
        keywords = args.pop() if args and isinstance(args[-1], dict) else {}
        args, c2, stacked = self.arguments(row, inputs, n, args)
        try:
            copies = [row.block(*args, **keywords) for _ in range(stacked)]
        except (TypeError, RuntimeError, AttributeError, OverflowError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{name} cannot take the arguments {args} {keywords or ''}: {reason}") from error
        module: Any = copies[0] if stacked == 1 else nn.Sequential(*copies)
        module.i, module.f, module.type = i, f, name
        module.np = sum(p.numel() for p in module.parameters())
        self.save.update(index % i for index in froms if index != -1 and i)
        self.channels.append(c2)
        self.log(module, len(copies), args, keywords)
        return module

    def log(self, module: Any, n: int, args: list[Any], keywords: dict[str, Any]) -> None:
        if self.d.get("verbose", True):
            shown = str(args) + (f" {keywords}" if keywords else "")
            LOGGER.info(f"{module.i:>3}{module.f!s:>18}{n:>3}{module.np:>10}  {module.type:<24}{shown:<30}")


def parse_model(
    d: dict[str, Any], ch: list[int], source: str = "model", verbose: bool = True
) -> tuple[nn.Sequential, list[int]]:
    """Build the rows of a model YAML.

    Each row is `[from, number, module, args]`. `from` is a row index or a list of them, negative ones relative;
    `number` above 1 is multiplied by depth_multiple; widths are multiplied by width_multiple and rounded up to
    channel_multiple (8). A mapping as last argument gives keywords of the block: `[-1, 6, C3SwinV2, [256, 8,
    {norm_gain: 1.0}]]`.

    Args:
        d: the YAML mapping; `nc` and `anchors` are in effect.
        ch: channels of the image, in a list.
        source: name of the file, for messages.
        verbose: log a table of the rows.

    Returns:
        The rows as one Sequential and the sorted indices of the outputs that later rows read.

    Raises:
        ValueError: naming file, row and the allowed values.
    """
    check_table(d, source)
    parser = _Parser({**d, "verbose": verbose}, ch[0], source)
    if verbose:
        LOGGER.info(f"\n{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<24}{'arguments':<30}")
    layers = []
    with default_activation(d.get("activation"), source):
        for i, entry in enumerate(d["backbone"] + d["head"]):
            n = i - len(d["backbone"])
            section = f"backbone layer {i}" if n < 0 else f"head layer {n} (model layer {i})"
            if not isinstance(entry, list) or len(entry) != 4:
                raise ValueError(f"{source}: {section}: a layer is [from, number, module, args], not {entry!r}")
            try:
                layers.append(parser.build(i, *entry))
            except ValueError as error:
                raise ValueError(f"{source}: {section}: {error}") from error
    if [layer.i for layer in layers if isinstance(layer, Detect)] != [len(layers) - 1]:
        raise ValueError(f"{source}: the last layer, and no other, must be Detect; the last one is {layers[-1].type}")
    return nn.Sequential(*layers), sorted(parser.save)


class DetectionModel(nn.Module):
    """A detector built from a model YAML.

    Training: `forward(images)` gives one raw map (B, A, H, W, 5 + nc) per level. Evaluation: (boxes, raw maps), see
    `Detect`; `forward(images, augment=True)` gives (boxes of three views, None). Images are (B, ch, H, W) floats 0..1
    with H and W multiples of the largest stride.

    Built under `with torch.device("meta")` a model has its shapes alone, without strides and scaled anchors: enough to
    count the parameters and operations of one that is too large for this machine.

    Args:
        cfg: path of a YAML file, or its mapping.
        ch: channels of the image; the YAML's `ch` is used when it has one.
        nc: classes; None keeps the YAML's.
        anchors: anchors per level that replace the YAML's by placeholders for AutoAnchor; None keeps the YAML's.
        verbose: log the table of rows and the summary.

    Attributes:
        yaml: the mapping in effect. names: class index to name. stride: pixels per cell of each level, float tensor.
        model: the rows. save: rows whose output is kept. hyp: hyperparameters, set by training. licence: of
        the weights, "" for that of this program. thresholds: confidences that suit the weights, see `find_confidence`.
        trained_size: height and width of the images, if these differ, see `models.image_size.trained_size`.
    """

    def __init__(
        self,
        cfg: str | Path | dict[str, Any] = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.yaml_file = None if isinstance(cfg, dict) else Path(cfg).name
        self.yaml = deepcopy(cfg) if isinstance(cfg, dict) else yaml_load(check_file(cfg, (".yaml", ".yml")))
        source = self.yaml_file or "model"
        ch = self.yaml["ch"] = self.yaml.get("ch", ch)
        if nc is not None and nc != self.yaml.get("nc"):
            if verbose:
                LOGGER.info(f"{source}: nc={self.yaml.get('nc')} overridden by nc={nc}")
            self.yaml["nc"] = nc
        if anchors:
            self.yaml["anchors"] = round(anchors)
        self.model, self.save = parse_model(self.yaml, [ch], source, verbose)
        self.nc = self.yaml["nc"]
        self.names = {i: str(i) for i in range(self.nc)}
        self.hyp: dict[str, Any] | None = None
        self.licence = ""
        self.thresholds: dict[str, Any] | None = None
        self.trained_size: tuple[int, int] | None = None
        initialize_weights(self)
        if not self.detect.anchors.is_meta:
            try:
                strides = find_strides(self, ch)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"{source}: the layers do not fit together: {error}") from error
            self._set_strides(strides)
            self._initialize_biases()
        if rate := self.yaml.get("drop_path"):
            self.set_drop_path(rate)
        if verbose:
            self.info()

    @property
    def detect(self) -> Detect:
        """The head."""
        head: Any = self.model[-1]
        return head

    @property
    def pixels(self) -> PixelFormat:
        """How the images are read, by the keys `ch` and `bits` of the table."""
        return PixelFormat.of(self.yaml, self.yaml_file or "model", "ch")

    @property
    def stride(self) -> Tensor:
        """Pixels per cell of each level, (levels,)."""
        return self.detect.stride

    @torch.no_grad()
    def _set_strides(self, strides: list[float]) -> None:
        """Keep the strides and bring the anchors into their order and unit."""
        stride, anchors = torch.tensor(strides), self.detect.anchors
        area = anchors.prod(-1).mean(-1)
        if (area[-1] - area[0]) * (stride[-1] - stride[0]) < 0:
            anchors.copy_(anchors.flip(0))
        self.detect.stride.copy_(stride)
        anchors /= stride.view(-1, 1, 1)

    @torch.no_grad()
    def _initialize_biases(self) -> None:
        """Start objectness at about 8 objects per 640-pixel image, classes at 0.6 / nc (arXiv:1708.02002, 3.3)."""
        head = self.detect
        for conv, stride in zip(head.m, head.stride.tolist(), strict=True):
            bias = conv.bias.view(head.na, -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (head.nc - 0.99999))

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: bool = False) -> Outputs:
        """Run a batch.

        Args:
            x: images, (B, ch, H, W), 0..1.
            augment: run three views (`models.tta`).
            profile: log the time of each layer.
            visualize: only False: YOLOv5's scripts pass it on.

        Returns:
            What `Detect.forward` returns: raw maps (B, A, H, W, 5 + nc) per level in training, else boxes
            (B, R, 5 + nc) and the raw maps, None with `augment`.

        Raises:
            ValueError: `augment` in training mode, or `visualize`.
        """
        if visualize:
            raise ValueError("feature maps are written by detect.py --visualize, not by the model")
        if profile:
            with LayerTimes(self):
                return self.forward(x, augment)
        if augment:
            if self.training:
                raise ValueError("augment=True is for evaluation: call model.eval() first")
            return self._forward_augment(x)
        return self._forward_once(x)

    def _forward_augment(self, x: Tensor) -> tuple[Tensor, None]:
        boxes = forward_augmented(lambda view: self._forward_once(view)[0], x, int(self.stride.max()), self.detect.nl)
        return boxes, None

    def _forward_once(self, x: Any) -> Any:
        outputs: list[Any] = []
        module: Any
        for module in self.model:
            if module.f != -1:
                x = outputs[module.f] if isinstance(module.f, int) else [x if f == -1 else outputs[f] for f in module.f]
            x = module(x)
            outputs.append(x if module.i in self.save else None)
        return x

    def autoshape(self) -> AutoShape:
        """Return the model as `AutoShape`, as YOLOv5 up to 6.0 spelt it."""
        return AutoShape(self, verbose=False)

    def fuse(self) -> "DetectionModel":
        """Fold batch normalisation into convolutions and position bias networks into constants, in place."""
        for module in self.modules():
            if isinstance(module, common.Conv) and hasattr(module, "bn"):
                module.conv, module.act = fuse_conv_and_bn(module.conv, module.bn), in_place(module.act)
                del module.bn
                module.forward = module.forward_fuse
            elif isinstance(module, common.WindowAttention):
                module.fuse()
        return self

    def set_drop_path(self, rate: float) -> None:
        """Give the blocks of all Swin stages a stochastic depth from 0 at the first to `rate` at the last."""
        blocks = [module for module in self.modules() if isinstance(module, common.SwinV2Block)]
        for block, value in zip(blocks, common.drop_path_rates(rate, len(blocks)), strict=True):
            block.drop_path.rate = value

    @property
    def swin_stages(self) -> list[common.SwinV2Stage]:
        """The Swin stages from the image on; messages and options call them 1, 2, ..."""
        return [module for module in self.modules() if isinstance(module, common.SwinV2Stage)]

    def _choose_stages(self, numbers: bool | Sequence[int]) -> list[common.SwinV2Stage]:
        """Return all stages (True), none (False), or those of the numbers, 1 for the first."""
        stages = self.swin_stages
        if isinstance(numbers, bool):
            return stages if numbers else []
        if wrong := [n for n in numbers if not 1 <= n <= len(stages)]:
            allowed = f"this model has stages 1 to {len(stages)}" if stages else "this model has no Swin stage"
            raise ValueError(f"no Swin stage {wrong[0]}: {allowed}")
        return [stages[n - 1] for n in numbers]

    def set_activation_checkpointing(self, stages: bool | Sequence[int]) -> int:
        """Recompute the blocks of Swin stages in the backward pass instead of keeping their activations.

        Args:
            stages: True for all stages, False for none, or their numbers, 1 for the first; the others keep theirs.

        Returns:
            How many Swin stages the model has.

        Raises:
            ValueError: a number is that of no stage.
        """
        chosen = self._choose_stages(stages)
        for stage in self.swin_stages:
            stage.checkpointing = stage in chosen
        return len(self.swin_stages)

    def set_sequential_attention(self, windows: int, stages: bool | Sequence[int] = True) -> None:
        """Attend in a few windows after the others in the given Swin stages, in all at once in the rest.

        Args:
            windows: at once, over all images of the batch; 0 is all of them.
            stages: as in `set_activation_checkpointing`.

        Raises:
            ValueError: a number is that of no stage, or `windows` is negative.
        """
        if windows < 0:
            raise ValueError(f"windows at once must be a positive number, or 0 for all, not {windows}")
        chosen = self._choose_stages(stages)
        for stage in self.swin_stages:
            for block in stage.blocks:
                block.attn.sequential = windows if stage in chosen else 0

    def set_window(self, windows: int | Sequence[int | Sequence[int]]) -> None:
        """Run the trained weights at another window, in place; the table `yaml` follows.

        Nothing is trained again: the networks of the position bias keep the scale of the window that they were trained
        with, learned bias tables are interpolated. Call it before the optimizer or an average of the model is made.

        Args:
            windows: side in cells for all Swin stages, or one side (or rows and columns) for each.

        Raises:
            ValueError: wrong number or kind of windows, no Swin stage, or a fused model.
        """
        stages = self.swin_stages
        sides = [windows] * len(stages) if isinstance(windows, int) else list(windows)
        if not stages or len(sides) != len(stages):
            raise ValueError(f"{len(sides)} windows for {len(stages)} Swin stages: give one for all, or one for each")
        for side in sides:
            common.as_pair(side)  # refuses a wrong one before any stage has changed
        for stage, side in zip(stages, sides, strict=True):
            stage.set_window(side)
        self._write_windows()

    def _write_windows(self) -> None:
        """Bring windows and trained windows of the table `yaml` in line with the modules."""
        rows = self.yaml["backbone"] + self.yaml["head"]
        for row, module in zip(rows, self.model, strict=True):
            for stage in (m for m in module.modules() if isinstance(m, common.SwinV2Stage)):
                args = row[3]
                keywords = args.pop() if isinstance(args[-1], dict) else {}
                if len(args) > 1:
                    args[1] = list(stage.window)
                else:
                    keywords["window"] = list(stage.window)
                args.append(keywords | {"pretrained_window": list(stage.blocks[0].attn.pretrained_window)})

    def gflops(self, imgsz: int | tuple[int, int] = 640) -> float:
        """Return the cost of one image, 1e9 operations, two per multiply-add."""
        return count_gflops(self, (imgsz, imgsz) if isinstance(imgsz, int) else imgsz, self.yaml["ch"])

    def info(self, verbose: bool = False, img_size: int = 640) -> None:
        """Log layers, parameters, gradients and GFLOPs, see `utils.torch_utils.model_info`."""
        model_info(self, verbose, img_size)


Model = BaseModel = DetectionModel  # YOLOv5's other names: there is one class of models here

if __name__ == "__main__":
    with cli_errors():
        parser = argparse.ArgumentParser(description="Build a model and print its table.")
        parser.add_argument("--cfg", default="yolov5s.yaml", help="model YAML; a bare name is looked for in models/")
        DetectionModel(parser.parse_args().cfg)
