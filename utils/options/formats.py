"""The table of file formats: how each is asked for, what its file is called, what it needs and which options apply.

`export.py` writes these files, `models/runtimes/backends.py` picks a runtime by them, `benchmarks/formats.py` measures
them.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from utils.paths import command

ONNX_WRITERS = ("onnx", "onnxscript", "onnxruntime")  # torch.onnx.export needs the second, the check the third
NMS = ("nms", "agnostic_nms", "topk_all", "iou_thres", "conf_thres")


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        name: as people write it.
        argument: word for `--include`; "-" for the checkpoint itself, which is not exported.
        suffix: what follows the stem of the weights; one without a dot belongs to a folder, as does .mlpackage.
        writes: packages that the export needs, by their name for pip.
        runs: packages that running the file needs, by their name for pip.
        cpu: whether the file runs on a CPU.
        gpu: whether the file runs on a CUDA device.
        options: fields of `ExportOptions` that this format follows, beside imgsz and batch_size; others are refused.
        note: one sentence for the user, or "".
    """

    name: str
    argument: str
    suffix: str
    writes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    cpu: bool = True
    gpu: bool = True
    options: tuple[str, ...] = ()
    note: str = ""


ROWS = (
    Format("PyTorch", "-", ".pt"),
    Format(
        "TorchScript",
        "torchscript",
        ".torchscript",
        options=("half", "optimize", "raw_heads"),
        note="torch.jit is deprecated in PyTorch: prefer pt2",
    ),
    Format(
        "ONNX",
        "onnx",
        ".onnx",
        ONNX_WRITERS,
        ("onnxruntime",),
        options=("opset", "runtime", "dynamic", "simplify", "half", "int8", "raw_heads", *NMS),
    ),
    Format("torch.export", "pt2", ".pt2", options=("half", "dynamic", "raw_heads")),
    Format(
        "OpenVINO",
        "openvino",
        "_openvino_model",
        ("onnx", "onnxscript", "openvino"),
        ("openvino",),
        gpu=False,
        options=("half", "int8", "dynamic", "raw_heads"),
    ),
    Format(
        "TensorRT",
        "engine",
        ".engine",
        (*ONNX_WRITERS, "tensorrt"),
        ("tensorrt",),
        cpu=False,
        options=("opset", "runtime", "dynamic", "simplify", "half", "int8", "workspace", "cache", "verbose", *NMS),
    ),
    Format(
        "ncnn",
        "ncnn",
        "_ncnn_model",
        ("ncnn", "pnnx"),
        ("ncnn",),
        gpu=False,
        options=("half", "raw_heads"),
        note="convolutional models only: ncnn has no windows",
    ),
    Format(
        "CoreML",
        "coreml",
        ".mlpackage",
        ("coremltools",),
        cpu=False,
        gpu=False,
        options=("half",),
        note="an extra, not tested on a device: only Apple's systems run the file",
    ),
    Format(
        "LiteRT",
        "tflite",
        ".tflite",
        ("litert-torch", "ai-edge-litert"),
        ("ai-edge-litert",),
        gpu=False,
        note="an extra, not tested on a phone; the converter takes 1 GB of disk: best in a separate environment",
    ),
    Format(
        "YOLOv5",
        "yolov5",
        "_yolov5.pt",
        options=("half",),
        note="a pickled model, which runs code when other programs load it: only for tools of YOLOv5 that need one",
    ),
)
FORMATS = {row.argument: row for row in ROWS}
EXPORTS = {argument: row for argument, row in FORMATS.items() if argument != "-"}
ALIASES = {"litert": "tflite"}  # other words of --include

REFUSED = {  # words of --include that YOLOv5 users know -> the way from here
    "saved_model": "TensorFlow is not supported: export onnx and convert it with onnx2tf, in a separate environment",
    "pb": "a TensorFlow GraphDef is not supported: export onnx and convert it with onnx2tf",
    "edgetpu": "Edge TPU is not supported: export onnx, convert it with onnx2tf to int8 TFLite, run edgetpu_compiler",
    "tfjs": "TensorFlow.js is not supported: export onnx and run it in the browser with onnxruntime-web",
    "paddle": "Paddle is not supported: export onnx and convert it with x2paddle",
    "rknn": "RKNN is not supported: export onnx and convert it with rknn-toolkit2, in a separate environment",
    "tensorrt": "TensorRT is called engine here: use --include engine",
}


def output_path(weights: str | Path, argument: str, int8: bool = False) -> Path:
    """Return the file or folder that an export writes: beside the weights, `<stem>[_int8]<suffix>`.

    Args:
        weights: the checkpoint.
        argument: a key of `EXPORTS`.
        int8: whether `--int8` was given.
    """
    weights = Path(weights)
    return weights.with_name(f"{weights.stem}{'_int8' if int8 else ''}{EXPORTS[argument].suffix}")


def parse_include(words: list[str]) -> list[Format]:
    """Return the rows that `--include` asks for, each once, in the order of the table.

    Raises:
        ValueError: a word that is no format, or one that is no longer written.
    """
    for word in words:
        if word in REFUSED:
            raise ValueError(f"--include {word}: {REFUSED[word]}")
        if word not in EXPORTS and word not in ALIASES:
            raise ValueError(f"--include {word}: no such format. Allowed: {', '.join(EXPORTS)}")
    asked = {ALIASES.get(word, word) for word in words}
    return [row for argument, row in EXPORTS.items() if argument in asked]


def format_of(file: str | Path) -> Format:
    """Return the row of a file or folder by the end of its name; .xml is OpenVINO.

    Raises:
        ValueError: no row fits.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(file)):
        raise ValueError(f"{file}: URLs are not fetched or queried. Download the file and give its path")
    name = Path(file).name.lower()
    ends = {row.suffix: row for row in ROWS} | {".xml": FORMATS["openvino"]}
    for end, row in ends.items():
        if name.endswith(end):
            return row
    listed = ", ".join(f"{end} ({row.name})" for end, row in ends.items())
    raise ValueError(f"{file}: unknown kind of model file. Supported are names that end in {listed}")


def require(packages: tuple[str, ...], purpose: str) -> None:
    """Raise unless all packages can be imported; nothing is imported.

    Args:
        packages: names for pip; the module has the same name with underscores.
        purpose: what they are for, such as "the export to ONNX".

    Raises:
        ValueError: names the missing ones and the line that installs them.
    """
    missing = [name for name in packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        raise ValueError(f"{purpose} needs {', '.join(missing)}: {command('pip', 'install', *missing)}")
