"""Export a trained checkpoint to the formats of other runtimes: ONNX, TensorRT, OpenVINO and more.

python export.py --weights runs/train/exp/weights/best.pt --include onnx --dynamic --simplify
python export.py --weights best.pt --include onnx openvino --int8 --data my.yaml --img 640
python export.py --weights best.pt --include onnx --nms --conf 0.25 --check-tensorrt
python export.py --check-tensorrt best.onnx

Every file is compared with the model after it was written. A format that fails does not keep the others from being
written, but the exit status is then 1. Without --include ONNX is written (YOLOv5 wrote TorchScript, which PyTorch has
deprecated since).
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.export import parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.exporters import EXPORTERS
from engine.exporters.calibration import calibration_images
from engine.exporters.onnx_runtimes import choose_opset
from engine.exporters.summary import Outcome, log_summary, size_mb
from engine.exporters.tensorrt_ops import check_tensorrt
from models.experimental import attempt_load
from models.image_size import both_sides, choose_size, input_stride
from models.yolo import Detect, DetectionModel
from utils.console import LOGGER, colorstr, log_options, long_step
from utils.options.export import OPSETS, ExportOptions
from utils.options.formats import EXPORTS, FORMATS, NMS, Format, output_path, parse_include
from utils.options.table import takes_options
from utils.paths import ROOT as ROOT
from utils.paths import VERSION
from utils.torch_utils import select_device

FILE = Path(__file__).resolve()
LICENCE = "Apache-2.0"  # of this program, and of weights that were trained with it from scratch
FLAGS = (*"half int8 dynamic simplify optimize nms agnostic_nms runtime raw_heads".split(),)  # not of every format


@takes_options(ExportOptions)
def run(options: ExportOptions) -> list[Path]:
    """Export weights to one or more formats, beside the checkpoint.

    Args:
        options: fields of `ExportOptions` as arguments, such as `run(weights="best.pt", half=True)`. `imgsz` is rounded
            up to the stride, an `opset` below 18 raised to 18; `data` may be what a dataset YAML holds, `weights` one
            path or several, exported one after the other.

    Returns:
        The files and folders that were written.

    Raises:
        ValueError: options that exclude each other, or formats that failed; the others are written then.
        FileNotFoundError: weights or dataset are missing.
    """
    if isinstance(options.check_tensorrt, str):
        if options.weights:
            raise ValueError(
                f"--check-tensorrt {options.check_tensorrt} checks an existing file: remove --weights or the file name"
            )
        check_tensorrt(options.check_tensorrt)
        return []
    weights = options.weights
    if not weights:
        raise ValueError("no weights given: name a checkpoint such as runs/train/exp/weights/best.pt")
    formats = parse_include(options.include)
    both_sides(options.imgsz)  # told before a model is loaded
    options = replace(options, opset=_raised(options.opset))
    check_options(options, formats)
    if options.runtime:
        options = replace(options, opset=choose_opset(options))
        LOGGER.info(f"ONNX operator set {options.opset}: {', '.join(options.runtime)} must read it")
    device = select_device(options.device)
    outcomes = []
    for file in weights:
        outcomes += export_weights(Path(file), formats, options, device)
    log_summary(outcomes)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        raise ValueError(f"{len(failed)} of {len(outcomes)} exports failed: {'; '.join(o.error for o in failed)}")
    return [outcome.file for outcome in outcomes if outcome.file]


def check_options(options: ExportOptions, formats: Sequence[Format]) -> None:
    """Reject options that do not apply.

    Raises:
        ValueError: naming the option.
    """
    if not formats:
        raise ValueError(f"--include is empty. Allowed: {', '.join(EXPORTS)}")
    if options.half and options.int8:
        raise ValueError("--half and --int8 are mutually exclusive: choose one")
    if options.workspace <= 0:
        raise ValueError(f"--workspace is {options.workspace:g} GiB, but must be more than 0")
    if options.raw_heads and options.nms:
        raise ValueError("--raw-heads and --nms are mutually exclusive: NMS needs boxes, and raw heads are not decoded")
    if options.agnostic_nms and not options.nms:
        raise ValueError("--agnostic-nms has no effect without --nms")
    for flag in FLAGS:
        able = [argument for argument, row in EXPORTS.items() if flag in row.options]
        unable = [row.argument for row in formats if flag not in row.options]
        if getattr(options, flag) and unable:
            word = "--" + flag.replace("_", "-")
            raise ValueError(f"{word} does not apply to {', '.join(unable)}: it applies to {', '.join(able)}")
    if options.check_tensorrt and not any(row.argument in ("onnx", "engine") for row in formats):
        raise ValueError("--check-tensorrt checks an ONNX file: add onnx to --include")


def _raised(opset: int) -> int:
    """Return the operator set, raised to the lowest that torch.export can write, with a warning."""
    if not 7 <= opset <= OPSETS[1]:
        raise ValueError(f"--opset is {opset}, but must be from {OPSETS[0]} to {OPSETS[1]}")
    if opset < OPSETS[0]:
        LOGGER.warning(f"--opset {opset} is raised to {OPSETS[0]}, the lowest that PyTorch writes")
    return max(opset, OPSETS[0])


def load(weights: Path, device: torch.device, fuse: bool = True) -> DetectionModel:
    """Load a checkpoint for export: fused unless told otherwise, float32, evaluation mode, one output, no gradients.

    Raises:
        FileNotFoundError, ValueError: from `attempt_load`.
    """
    model = attempt_load(weights, device, fuse=fuse)
    model.detect.export = True
    model.set_sequential_attention(0)  # a loop over the windows would be unrolled for one image size
    return model.requires_grad_(False)


def make_metadata(model: DetectionModel, options: ExportOptions, stride: int) -> dict[str, Any]:
    """Return the metadata of the exported files."""
    return {
        "description": f"YOLOv5-SwinV2 {Path(model.yaml_file or 'model').stem} detector",
        "version": VERSION,
        "licence": model.licence or LICENCE,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "task": "detect",
        "stride": stride,
        "names": dict(model.names),
        "imgsz": list(options.imgsz),
        "batch": options.batch_size,
        "channels": model.pixels.channels,
        **({} if model.pixels.bits is None else {"bits": model.pixels.bits}),
        "dynamic": options.dynamic,
        "half": options.half,
        "int8": options.int8,
        "nms": options.nms,
        **(raw_format(model.detect) if options.raw_heads else {}),
        **({"thresholds": brief(model.thresholds)} if model.thresholds else {}),
        **({name: getattr(options, name) for name in NMS[1:]} if options.nms else {}),
    }


def raw_format(head: Detect) -> dict[str, Any]:
    """Return what a program needs to decode raw heads: strides, and anchors (levels, A, 2) in pixels."""
    anchors = head.anchors * head.stride.view(-1, 1, 1)
    return {"raw_heads": True, "strides": [int(s) for s in head.stride], "anchors": anchors.round(decimals=4).tolist()}


def brief(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the thresholds of a checkpoint as a file for detection needs them: few numbers, all keys strings."""
    kept = {
        key: thresholds[key]
        for key in ("conf", "low", "high", "f1", "images", "imgsz", "iou_thres", "as_detect", "slice", "overlap")
        if key in thresholds
    }
    for table in ("classes", "for_precision"):
        entries = thresholds.get(table, {}).items()
        kept[table] = {str(key): entry["conf"] for key, entry in entries if entry and entry["conf"] is not None}
    return kept


def export_weights(
    weights: Path, formats: Sequence[Format], options: ExportOptions, device: torch.device
) -> list[Outcome]:
    """Write all formats of one checkpoint; a user error of one format does not stop the others.

    Raises:
        FileNotFoundError, ValueError: the checkpoint or the dataset cannot be read.
    """
    model = load(weights, device)
    model.detect.raw_heads = options.raw_heads
    stride = input_stride(model.stride)
    options = replace(options, imgsz=list(choose_size(options.imgsz, stride, model.trained_size)))
    if options.data:
        height, width = options.imgsz
        options = replace(options, real_images=calibration_images(options.data, (height, width), model.pixels))
    metadata = make_metadata(model, options, stride)
    images = torch.zeros(options.batch_size, model.yaml["ch"], *options.imgsz, device=device)
    outcomes = []
    for row in formats:
        if row.note:
            LOGGER.warning(f"{row.name}: {row.note}")
        start = datetime.now()
        file = output_path(weights, row.argument, options.int8)
        try:
            with long_step(f"{row.name}: exporting {weights}"):
                source = load(weights, device, fuse=False) if row.argument == "yolov5" else model
                EXPORTERS[row.argument](source, images, file, options, metadata)
            seconds = (datetime.now() - start).total_seconds()
            if options.check_tensorrt and row.argument in ("onnx", "engine"):
                check_tensorrt(file.with_suffix(".onnx"))
            LOGGER.info(f"{colorstr(row.name)}: {file}, {size_mb(file):.1f} MB, {seconds:.1f} s")
            outcomes.append(Outcome(row, weights, options, file, seconds=seconds))
        except (ValueError, OSError) as error:
            LOGGER.error(f"{row.name}: {error}")
            outcomes.append(Outcome(row, weights, options, error=f"{row.argument}: {error}"))
    return outcomes


# YOLOv5's functions ---------------------------------------------------------------------------------------------------


def export_formats() -> Any:
    """Return the table of formats as a data frame: Format, Argument, Suffix, CPU, GPU."""
    import pandas as pd  # noqa: PLC0415  slow to load, and only needed here

    cells = [(row.name, row.argument, row.suffix, row.cpu, row.gpu) for row in FORMATS.values()]
    return pd.DataFrame(cells, columns=["Format", "Argument", "Suffix", "CPU", "GPU"])


def export_onnx(
    model: DetectionModel, im: Tensor, file: str | Path, opset: int, dynamic: bool, simplify: bool, prefix: str = ""
) -> tuple[str, None]:
    """Write ONNX in YOLOv5's call form, see `_export_one`; an `opset` below 18 is raised to 18."""
    return _export_one("onnx", model, im, file, prefix, opset=_raised(opset), dynamic=dynamic, simplify=simplify)


def export_torchscript(
    model: DetectionModel, im: Tensor, file: str | Path, optimize: bool, prefix: str = ""
) -> tuple[str, None]:
    """Write TorchScript in YOLOv5's call form, see `_export_one`."""
    return _export_one("torchscript", model, im, file, prefix, optimize=optimize)


def export_engine(
    model: DetectionModel,
    im: Tensor,
    file: str | Path,
    half: bool,
    dynamic: bool,
    simplify: bool,
    workspace: float = 4,
    verbose: bool = False,
    prefix: str = "",
) -> tuple[str, None]:
    """Write a TensorRT engine in YOLOv5's call form, see `_export_one`."""
    settings = {"half": half, "dynamic": dynamic, "simplify": simplify, "workspace": workspace, "verbose": verbose}
    return _export_one("engine", model, im, file, prefix, **settings)


def _export_one(
    argument: str, model: DetectionModel, im: Tensor, file: str | Path, prefix: str, **settings: Any
) -> tuple[str, None]:
    """Write one format of a model from `attempt_load`.

    Args:
        argument: a key of `EXPORTERS`.
        model: evaluation mode; `Detect.export` is set and stays so, as scripts of YOLOv5 do themselves.
        im: example, (B, 3, H, W); its shape is that of a file with fixed sizes.
        file: weights beside which the file is written, or its name.
        prefix: what the log line begins with.
        **settings: fields of `ExportOptions`.

    Returns:
        The file, and None as YOLOv5's second value.

    Raises:
        ValueError: the export failed (YOLOv5 logs this and returns None twice).
    """
    model.detect.export = True
    options = ExportOptions(imgsz=list(im.shape[2:]), batch_size=len(im), **settings)
    metadata = make_metadata(model, options, input_stride(model.stride))
    target = output_path(file, argument)
    EXPORTERS[argument](model.requires_grad_(False), im.float(), target, options, metadata)
    LOGGER.info(f"{prefix}{' ' * bool(prefix)}{target}, {size_mb(target):.1f} MB")
    return str(target), None


# Command line ---------------------------------------------------------------------------------------------------------


def main(opt: argparse.Namespace) -> None:
    """Export, or check an ONNX file.

    Raises:
        ValueError, FileNotFoundError: from `run` and `check_tensorrt`.
    """
    if opt.weights:  # else the error alone
        log_options("export", vars(opt))
    run(**vars(opt))


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
