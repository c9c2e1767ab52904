"""Write OpenVINO: a folder with <stem>.xml, <stem>.bin and metadata.yaml, made from the ONNX graph.

half stores the weights in float16; the runtime computes in what its device prefers. int8 is NNCF's post-training
quantisation with the MIXED preset: symmetric weights, asymmetric activations, which networks with SiLU need. Neither
OpenVINO's nor NNCF's usage reports are sent: the first come from a converter that is not used here, the second are
switched off.
"""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.check import check_file
from engine.exporters.folder import atomic_folder
from engine.exporters.to_onnx import trace
from utils.console import LOGGER
from utils.files import yaml_save
from utils.options.export import ExportOptions
from utils.options.formats import require


def export_openvino(
    model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]
) -> Path:
    """Write the folder and compare it with the model; arguments and errors as in `engine/exporters/__init__.py`."""
    require(("onnx", "onnxscript", "openvino") + (("nncf",) if options.int8 else ()), "the export to OpenVINO")
    import openvino  # noqa: PLC0415, optional

    if options.int8 and options.half:
        raise ValueError("--int8 and --half are mutually exclusive: choose one")
    if options.int8 and options.dynamic:
        raise ValueError(
            "--int8 and --dynamic are mutually exclusive for OpenVINO: NNCF keeps some sizes of the images that it "
            "calibrated with. Remove one of them, or export onnx"
        )
    if options.int8 and options.real_images is None:
        raise ValueError("--int8 needs images to calibrate with: give --data")
    calibration = options.real_images if options.int8 else None
    core = openvino.Core()
    graph = trace(model, images, replace(options, half=False), int(metadata["stride"]))
    network = core.read_model(graph.SerializeToString())
    if calibration:
        network = quantize(network, list(islice(calibration(), options.calibration)), len(images))
    for key, value in metadata.items():
        network.set_rt_info(str(value), ["model_info", key])
    stem = file.name.removesuffix("_openvino_model")
    with atomic_folder(file) as folder:
        openvino.save_model(network, folder / f"{stem}.xml", compress_to_fp16=options.half)
        yaml_save(folder / "metadata.yaml", metadata)
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        try:
            written = core.compile_model(folder / f"{stem}.xml", "CPU", settings)
        except RuntimeError as error:  # its writer reports no full disk, only its reader finds the weights cut off
            reason = str(error).strip().splitlines()[-1]
            raise OSError(
                f"{file}: OpenVINO cannot read the file it has just written. Is the disk full? {reason}"
            ) from error
        check_file("OpenVINO", lambda x: list(written([x.numpy()]).values()), model, images, options, metadata)
    return file


def quantize(network: Any, samples: list[Tensor], batch: int) -> Any:
    """Return the network with 8-bit weights and activations, their ranges taken from real images.

    The decoding of the boxes stays in float: it mixes pixels up to the image size with scores up to 1.

    Args:
        network: float32 network.
        samples: of `ExportOptions.real_images`.
        batch: images per run of the network; each image is repeated to that number.
    """
    os.environ.setdefault("NNCF_CI", "1")  # read when NNCF is imported: no usage reports
    import nncf  # noqa: PLC0415, optional

    LOGGER.info(f"OpenVINO: calibrating on {len(samples)} images")
    data = nncf.Dataset(samples, lambda image: image.repeat(batch, 1, 1, 1).numpy())
    last = {name for node in network.get_ops() if is_decoding(node) for name in [node.get_friendly_name()]}
    ignored = nncf.IgnoredScope(names=sorted(last)) if last else None
    return nncf.quantize(
        network, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples), ignored_scope=ignored
    )


def is_decoding(node: Any) -> bool:
    """Whether a node belongs to the decoding of boxes: after the last convolutions, arithmetic on 5-D maps or rows."""
    ranks = [output.get_partial_shape().rank for output in node.outputs()]
    return node.get_type_name() in ("Multiply", "Add", "Subtract", "Sigmoid", "Concat") and any(
        rank.is_static and rank.get_length() == 5 for rank in ranks
    )
