"""Write a convolutional model as the checkpoint of the original YOLOv5: the pickled model object under its class names.

Our blocks have the class names, attributes and keys of the original's (`models.common.Conv`, `models.yolo.Detect`), so
that the objects are pickled as they are, after what only this program has was taken off. In a checkout of YOLOv5
`torch.load` makes objects of its own classes of them. Reading the file here runs nothing that it names.
"""

from copy import deepcopy
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.check import check_file
from models.experimental import attempt_load
from models.yolo import DetectionModel
from utils.files import atomic_path, write_whole
from utils.options.export import ExportOptions

BLOCKS = {  # classes of models.common and models.yolo with the same attributes in the original
    *("Bottleneck", "BottleneckCSP", "C3", "C3Ghost", "C3SPP", "C3x", "Concat", "Contract", "Conv", "CrossConv"),
    *("DWConv", "DWConvTranspose2d", "Detect", "DetectionModel", "Expand", "Focus", "GhostBottleneck", "GhostConv"),
    *("SPP", "SPPF"),
}
OURS = ("licence", "thresholds", "trained_size", "yaml_file")  # attributes of the model that the original has not


def export_yolov5(
    model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]
) -> Path:
    """Write a checkpoint for programs of YOLOv5 and compare it with the model, see `engine/exporters/__init__.py`.

    Args:
        model: not fused, since the original folds the normalisation itself.
        images: example; its number of channels is used.
        file: what to write.
        options: `half` stores the weights in float16, as the original does; else they are exact.
        metadata: its stride is used.

    Raises:
        ValueError: a Swin model or another one that the original's classes do not compute, or the file differs.
    """
    check_blocks(model)
    content = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "opt", "git"))
    content |= {"epoch": -1, "model": as_original(model, options.half), "date": datetime.now().isoformat()}
    with atomic_path(file) as tmp:
        data = BytesIO()  # PyTorch's own writer of files ends the process when the disk is full
        torch.save(content, data)
        write_whole(tmp, data.getbuffer())
        written = attempt_load(tmp, images.device)
        check_file("YOLOv5", lambda x: written(x.to(images.device))[0], model, images, options, metadata)
    return file


def check_blocks(model: nn.Module) -> None:
    """Raise ValueError, with the reason, unless the original has every block and can read the table of the model."""
    own = [module for module in model.modules() if not type(module).__module__.startswith("torch.nn.")]
    foreign = sorted({type(module).__name__ for module in own} - BLOCKS)
    if foreign:
        what = "Swin models have" if any("Swin" in name for name in foreign) else "this model has"
        raise ValueError(
            f"{what} blocks that are not written for the original YOLOv5: {', '.join(foreign)}. Export onnx, or "
            "torchscript, which run without the classes"
        )
    table: Any = model.yaml
    if table.get("bits") is not None:
        raise ValueError("the images of this model have more than 8 bits, which the original YOLOv5 does not read")
    if any(isinstance(arg, dict) for row in table["backbone"] + table["head"] for arg in row[3]):
        raise ValueError("its YAML gives blocks keywords, which the original YOLOv5 does not read")


def as_original(model: nn.Module, half: bool) -> DetectionModel:
    """Return a copy on the CPU with the attributes that the original's objects have, for pickling only.

    Its head has the strides as a plain attribute; layers are named with their module, such as `models.common.Conv`.
    """
    copy: Any = deepcopy(model).cpu().float().eval().requires_grad_(False)
    if half:
        copy.half()
    head = copy.model[-1]
    stride = head.stride.float()
    head._non_persistent_buffers_set.discard("stride")
    del head._buffers["stride"]
    vars(head)["stride"] = stride
    for name in ("export", "raw_heads", "dynamic"):
        vars(head).pop(name, None)
    for layer in copy.model:
        layer.type = f"{type(layer).__module__}.{type(layer).__name__}"
    for name in OURS:
        vars(copy).pop(name, None)
    vars(copy).update(stride=stride, inplace=True, hyp=dict(copy.hyp or {}))
    return copy
