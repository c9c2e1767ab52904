"""The table of exporters: one function per format, all with the same arguments.

export_<name>(model, images, file, options, metadata) -> Path

model: DetectionModel in float32 and evaluation mode on the CPU or a CUDA device, fused (but for yolov5), with
    `model.detect.export` set, so that it returns (boxes,). An exporter does not change it: it works on a deep copy
    where it changes weights.
images: example, float32 (B, 3, H, W) in 0..1, on the model's device.
file: what to write, from `utils.options.formats.output_path`. It is written through `utils.files.atomic_path`; a folder
    is made beside the target and put in its place when complete.
options: see `utils.options.export.ExportOptions`.
metadata: what the file must carry: stride (int), names (dict), task, imgsz, batch, dynamic, half, int8, nms,
    version, licence, date, description. Values are plain.

Returns the written path.

Raises ValueError where the result differs from the model by more than the tolerance of `engine.exporters.compare` (no
file is left then), where a package is missing (the message has the pip command), or where an option does not apply.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.exporters.to_coreml import export_coreml
from engine.exporters.to_litert import export_litert
from engine.exporters.to_ncnn import export_ncnn
from engine.exporters.to_onnx import export_onnx
from engine.exporters.to_openvino import export_openvino
from engine.exporters.to_pt2 import export_pt2
from engine.exporters.to_tensorrt import export_engine
from engine.exporters.to_torchscript import export_torchscript
from engine.exporters.to_yolov5 import export_yolov5
from utils.options.export import ExportOptions

Exporter = Callable[[nn.Module, Tensor, Path, ExportOptions, dict[str, Any]], Path]

EXPORTERS: dict[str, Exporter] = {  # word of `--include` -> function
    "torchscript": export_torchscript,
    "onnx": export_onnx,
    "pt2": export_pt2,
    "openvino": export_openvino,
    "engine": export_engine,
    "ncnn": export_ncnn,
    "coreml": export_coreml,
    "tflite": export_litert,
    "yolov5": export_yolov5,
}
