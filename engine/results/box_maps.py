"""What a model looks at for a box: attention of its Swin stages and a class activation map, as images and arrays.

Letters: H W map, C channels, L blocks of a stage, D boxes. `_img` are pixels of the image, `_net` those of the
letterboxed network input.

The class activation map is Grad-CAM (Selvaraju et al., ICCV 2017, arXiv:1610.02391, equations 1 and 2) of the map that
the head reads on the level of the box, for the sum of the logits of objectness and class. The head is a 1x1
convolution: the gradient of this sum is the weights of the box's anchor at the cell of the box and 0 elsewhere, so that
no backward pass is needed.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.results.feature_maps import FeatureMaps, kind_of, save_array
from models.common import SwinV2Stage
from models.swin.attention_maps import attention_maps
from utils.annotate import Annotator, colors, write_image
from utils.boxes import scale_boxes, xywh2xyxy
from utils.console import LOGGER
from utils.text import printable

LARGEST = 1280  # pixels of the longer side of an overlay
BOXES = 5  # of an image that have maps in the report, the best ones
IMAGES = 100  # of a report that have maps, the first ones
CELLS = 80  # of the longer side of a map in the report; finer ones are halved

Area = tuple[float, float, float, float]


class LayerMap(NamedTuple):
    """A map of one layer for one box.

    `name` is that of its files, `title` what it is called on a page. `values` is float32 (L, H, W): the attention
    weights of each block of a Swin stage, which sum to 1 over the map, or one class activation map.
    """

    name: str
    title: str
    values: NDArray


class BoxMaps:
    """Collect what the maps are computed from. A context manager: leaving it removes the hooks.

    Args:
        model: has the rows as `model.model`, the head last; see `DetectionModel`.

    Attributes:
        stages: (index of the row, row, Swin stage in it), from the image on.
    """

    def __init__(self, model: nn.Module) -> None:
        rows: Any = model.model
        self._rows = list(rows)
        self._head = self._rows[-1]
        self.stages = [(i, row, m) for i, row in enumerate(self._rows) for m in row.modules() if is_stage(m)]
        self._watching = False
        self._seen: dict[nn.Module, Any] = {}
        self._hooks = [
            self._rows[0].register_forward_pre_hook(lambda row, x: self._keep(row, tuple(x[0].shape[2:]))),
            self._head.register_forward_hook(self._keep_head),
        ]
        for block in (block for _, _, stage in self.stages for block in stage.blocks):
            # a hook before the block: one after it would keep it from its faster form
            self._hooks.append(block.register_forward_pre_hook(lambda block, x: self._keep(block, x[0][:1])))

    def __enter__(self) -> "BoxMaps":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def watch_next(self) -> None:
        """Keep what `compute` needs of the first image of the next forward pass."""
        self._watching, self._seen = True, {}

    def _keep(self, module: nn.Module, value: Any) -> None:
        if self._watching and module not in self._seen:  # later passes are other views or tiles of the same image
            self._seen[module] = value.clone() if isinstance(value, Tensor) else value

    def _keep_head(self, head: nn.Module, inputs: tuple[list[Tensor]], outputs: tuple[Tensor, ...]) -> None:
        if self._watching:
            self._keep(head, ([level[:1].clone() for level in inputs[0]], outputs[0][0].cpu()))

    def compute(self, detections: Tensor, shape: tuple[int, int]) -> tuple[list[list[LayerMap]], Area]:
        """Compute the maps of boxes, and forget what they come from.

        Args:
            detections: (D, 6) `[xyxy_img, confidence, class]`.
            shape: height and width of the image.

        Returns:
            For each box the maps of the Swin stages from the image on, then the class activation map; and the rectangle
            of the network input, `xyxy_img`, which is larger than the image where it was padded.
        """
        seen, self._seen, self._watching = self._seen, {}, False
        net = seen[self._rows[0]]
        area = input_area(net, shape)
        found: list[list[LayerMap]] = [[] for _ in detections]
        if not found:
            return found, area
        for number, (i, row, stage) in enumerate(self.stages, 1):
            _, height, width, _ = seen[stage.blocks[0]].shape
            cells = cells_in_boxes(detections[:, :4], area, (height, width))
            maps = [attention_maps(block, seen[block], cells.to(seen[block].device)).cpu() for block in stage.blocks]
            for layers, values in zip(found, torch.stack(maps, 1).numpy(), strict=True):
                layers.append(LayerMap(f"stage{i}_{kind_of(row)}_attention", f"Attention, Swin stage {number}", values))
        levels, boxes = seen[self._head]
        xyxy = scale_boxes(net, xywh2xyxy(boxes[:, :4]), shape)
        for layers, detection in zip(found, detections, strict=True):
            cls = int(detection[5])
            # the row that became this box; the most similar one if that is of another pass (tiles, views, ensemble)
            apart = (xyxy - detection[:4]).abs().sum(1) / max(shape)
            row = int((apart + (boxes[:, 4] * boxes[:, 5 + cls] - detection[4]).abs()).argmin())
            layers.append(self._activation(levels, row, cls))
        return found, area

    def _activation(self, levels: list[Tensor], row: int, cls: int) -> LayerMap:
        """Return the class activation map for a row of the head's boxes; `levels` is what the head reads."""
        for x, conv, f in zip(levels, self._head.m, self._head.f, strict=True):
            cells = x.shape[2] * x.shape[3]
            if row < self._head.na * cells:
                weight = conv.weight.unflatten(0, (self._head.na, -1))[row // cells]  # (5 + nc, C, 1, 1)
                values = class_activation(weight[4] + weight[5 + cls], x[0]).cpu().numpy()
                index = f if f >= 0 else len(self._rows) - 1 + f
                return LayerMap(f"stage{index}_{kind_of(self._rows[index])}_cam", "Class activation", values[None])
            row -= self._head.na * cells
        raise IndexError(row)


def is_stage(module: nn.Module) -> bool:
    """Whether a module is a stage of Swin blocks."""
    return isinstance(module, SwinV2Stage)


@torch.no_grad()
def class_activation(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the Grad-CAM of a map, ReLU(sum of channels of weight times map), see the head of this file.

    Args:
        gradient: (C, 1, 1), that of the score at one cell of the map, 0 at the others: its mean over the map is the
            weight of a channel (equation 1).
        x: the map, (C, H, W).

    Returns:
        float32 (H, W), at least 0.
    """
    weight = gradient.float() / (x.shape[1] * x.shape[2])
    return (weight * x.float()).sum(0).relu()


def input_area(net: tuple[int, int], shape: tuple[int, int]) -> Area:
    """Return the rectangle of a letterboxed network input in pixels of its image, `xyxy_img`, see `scale_boxes`.

    Args:
        net: height and width of the input.
        shape: height and width of the image.
    """
    gain = min(net[0] / shape[0], net[1] / shape[1])
    left, top = ((side - round(length * gain)) / 2 / gain for side, length in zip(net[::-1], shape[::-1], strict=True))
    return -left, -top, net[1] / gain - left, net[0] / gain - top


def cells_in_boxes(boxes: Tensor, area: Area, size: tuple[int, int]) -> Tensor:
    """Mark the cells whose centres lie within a box, of a smaller box the nearest cell.

    Args:
        boxes: (D, 4) `xyxy_img`.
        area: of the map, `xyxy_img`.
        size: rows and columns of the map.

    Returns:
        bool (D, rows, columns), at least one True in each.
    """
    axes = []
    for axis, cells in ((1, size[0]), (0, size[1])):
        start, end = area[axis], area[axis + 2]
        centres = start + (torch.arange(cells) + 0.5) * (end - start) / cells
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        nearest = (centres - (low + high) / 2).abs().argmin(1, keepdim=True)  # (D, 1)
        axes.append(((centres >= low) & (centres <= high)).scatter(1, nearest, value=True))  # (D, cells)
    return axes[0][:, :, None] & axes[1][:, None]


def heat(values: NDArray) -> NDArray:
    """Colour a map for an overlay; the strongest cell is yellow and opaque, those without weight are transparent.

    Args:
        values: (H, W), at least 0. Colour and opacity follow the square root of a value divided by the largest.

    Returns:
        uint8 (H, W, 4) BGRA.
    """
    level = np.sqrt(values / max(values.max(), 1e-12))
    level = np.round(level * 31).astype(np.uint8) * 8  # 32 colours compress well
    color = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)
    return np.dstack((color, (level * 0.8).astype(np.uint8)))


def overlay(image: NDArray, values: NDArray, area: Area, box: NDArray, cls: int) -> NDArray:
    """Draw a map on its image in grey, and the box it belongs to.

    Args:
        image: (H, W, 3) uint8 BGR.
        values: see `heat`; each cell is drawn as it is.
        area: of the map, `xyxy_img`.
        box: (4,) `xyxy_img`.
        cls: class of the box, which has its colour.

    Returns:
        uint8 BGR, of a large image smaller.
    """
    height, width = image.shape[:2]
    scale = min(LARGEST / max(height, width), 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    cells = []
    for axis, pixels, length in ((1, size[1], height), (0, size[0], width)):
        place = (np.arange(pixels) + 0.5) / pixels * length  # in pixels of the image
        of_map = (place - area[axis]) / (area[axis + 2] - area[axis]) * values.shape[1 - axis]
        cells.append(of_map.astype(int))
    color = heat(values)[np.ix_(*cells)].astype(np.float32)  # (h, w, 4)
    opacity = color[..., 3:] / 255
    drawn = np.ascontiguousarray((grey[..., None] * (1 - opacity) + color[..., :3] * opacity).round(), np.uint8)
    annotator = Annotator(drawn)
    annotator.box_label(box * scale, "", colors(cls, bgr=True))
    return drawn


def save_maps(folder: Path, image: NDArray, layers: list[LayerMap], area: Area, detection: Tensor) -> None:
    """Write the maps of a box, each as `<name>.npy` and, drawn on the image as the mean over its blocks, `.png`.

    Args:
        folder: made if necessary.
        image: (H, W, 3) uint8 BGR.
        layers: maps of the box.
        area: of the maps, `xyxy_img`.
        detection: (6,) `[xyxy_img, confidence, class]`.
    """
    for layer in layers:
        save_array(folder / f"{layer.name}.npy", layer.values)
        picture = overlay(image, layer.values.mean(0), area, detection[:4].numpy(), int(detection[5]))
        write_image(folder / f"{layer.name}.png", picture)


class Visualization:
    """Save what --visualize asks for: feature maps, and the maps of the best box. A context manager, as its parts.

    Args:
        model: see `BoxMaps`.
        names: class names by index.
        report: whether there is a report that shows maps.
    """

    def __init__(self, model: nn.Module, names: Mapping[int, str], report: bool) -> None:
        self._features, self._boxes, self._names = FeatureMaps(model), BoxMaps(model), names
        self._places = IMAGES if report else 0
        self._folder: Path | None = None
        if not self._boxes.stages:
            LOGGER.info("--visualize: the model has no Swin stages: class activation maps are saved, but no attention")

    def __enter__(self) -> "Visualization":
        return self

    def __exit__(self, *error: Any) -> None:
        self._features.__exit__(*error)
        self._boxes.__exit__(*error)

    def save_next(self, folder: Path) -> None:
        """Save the maps of the first image of the next forward pass into a folder, which is made."""
        self._folder = folder
        self._features.save_next(folder)
        self._boxes.watch_next()

    def done(self, image: NDArray, detections: Tensor) -> dict[str, Any] | None:
        """Finish what `save_next` began, and log where the maps are; without it do nothing.

        Args:
            image: (H, W, 3) uint8 BGR, the first one of the forward pass.
            detections: of this image, (D, 6) `[xyxy_img, confidence, class]`, best first.

        Returns:
            What `DetectReport.add` takes, None for nothing.
        """
        folder, self._folder = self._folder, None
        if folder is None:
            return None
        self._features.done()
        found, area = self._boxes.compute(detections[: BOXES if self._places else 1], image.shape[:2])
        if not found:
            LOGGER.info("no box, so no attention and no class activation map")
            return None
        save_maps(folder, image, found[0], area, detections[0])
        *stages, activation = found[0]
        inside = [f"{inside_box(layer, area, detections[0]):.0%}" for layer in stages]
        attention = f"attention of the Swin stages ({', '.join(inside)} of it inside the box) and " if inside else ""
        box = f"{printable(self._names[int(detections[0, 5])])} {detections[0, 4]:.2f}"
        LOGGER.info(f"best box, {box}: {attention}class activation map saved to {folder}")
        if not self._places:
            return None
        self._places -= 1
        return record(found, area)


def inside_box(layer: LayerMap, area: Area, detection: Tensor) -> float:
    """Return the part of a map, mean over its blocks, that lies in the cells of its box, 0..1."""
    values = layer.values.mean(0)
    cells = cells_in_boxes(detection[None, :4], area, values.shape)[0].numpy()
    return float(values[cells].sum() / max(values.sum(), 1e-12))


def record(found: list[list[LayerMap]], area: Area) -> dict[str, Any]:
    """Return maps of boxes as a page shows them.

    Returns:
        `area`, the rectangle of all maps, `xyxy_img`; `layers`, their titles; `boxes`, for each box a PNG in base64 of
        each layer.
    """
    return {
        "area": [round(v, 1) for v in area],
        "layers": [layer.title for layer in found[0]],
        "boxes": [[_png(layer.values.mean(0)) for layer in layers] for layers in found],
    }


def _png(values: NDArray) -> str:
    """Return a map as a PNG in base64, a pixel per cell."""
    while max(values.shape) > CELLS:
        values = cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".png", heat(values))[1].tobytes()).decode()
