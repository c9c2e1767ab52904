"""Build a TensorRT engine from the ONNX file; TensorRT 10 and newer, on the machine and GPU it will run on.

Written against NVIDIA's documentation of the Python API. The network is strongly typed: float16 and int8 are in the
ONNX file (`--half`, `--int8`), because TensorRT 11 has neither precision flags nor calibrators any more; in 10 the
strong typing is a flag, in 11 there is nothing else. The written file has a head, see `utils/model_files/engine.py`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.exporters.compare import Difference, check_difference, measure
from engine.exporters.onnx_check import check_inputs
from engine.exporters.tensorrt_ops import check_tensorrt
from engine.exporters.to_onnx import ensure_onnx
from utils.console import LOGGER
from utils.files import atomic_path
from utils.model_files.engine import write_engine
from utils.options.export import ExportOptions
from utils.paths import command

OLDEST = 10
GIB = 1 << 30


def export_engine(
    model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]
) -> Path:
    """Write `file` and the ONNX file beside it; arguments and errors as in `engine/exporters/__init__.py`.

    With `dynamic` the engine takes 1 to `batch` images of `stride` pixels to the longer side of `imgsz` on each axis,
    and is tuned for half the batch at `imgsz`.

    Raises:
        ValueError: TensorRT is missing or too old, its parser or builder refuses the graph, or the engine differs from
            the model.
    """
    trt = import_tensorrt()
    options = replace(options, include=["engine"])
    source = ensure_onnx(model, images, file.with_suffix(".onnx"), options, metadata)
    check_tensorrt(source)
    engine = build_engine(trt, source, options, metadata["stride"], images.shape[1])
    with atomic_path(file) as tmp:
        write_engine(tmp, metadata, engine)
        if torch.cuda.is_available() and not options.nms:
            inputs = [
                (name, x) for name, x in check_inputs(options, metadata["stride"], images.shape[1]) if fits(x, options)
            ]
            compare_engine(trt, engine, model, inputs, options)
        else:
            reason = "detections are compared in the ONNX file only" if options.nms else "no CUDA device"
            LOGGER.warning(f"TensorRT: the engine was not compared with PyTorch ({reason})")
    return file


def import_tensorrt() -> Any:
    """Return the module `tensorrt`.

    Raises:
        ValueError: it is missing, or older than version 10.
    """
    try:
        import tensorrt
    except ImportError as error:
        line = command("pip", "install", "tensorrt")
        raise ValueError(f"the export to TensorRT needs tensorrt: {line} ({error})") from error
    if major_version(tensorrt) < OLDEST:
        raise ValueError(
            f"TensorRT {tensorrt.__version__} is too old, version {OLDEST} or newer is needed: "
            + command("pip", "install", "-U", "tensorrt")
        )
    return tensorrt


def major_version(trt: Any) -> int:
    """Return 10 for TensorRT 10.x."""
    return int(trt.__version__.split(".")[0])


def build_engine(trt: Any, source: Path, options: ExportOptions, stride: int, channels: int) -> bytes:
    """Parse an ONNX file and build the serialized engine.

    Args:
        trt: the module.
        source: ONNX file with the input `images`.
        options: workspace, cache, verbose, dynamic, batch and imgsz.
        stride: smallest height and width of a dynamic engine.
        channels: of the input.

    Raises:
        ValueError: the parser or the builder failed; the message has their words.
    """
    logger = trt.Logger(trt.Logger.VERBOSE if options.verbose else trt.Logger.WARNING)
    builder = trt.Builder(logger)
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if major_version(trt) == OLDEST else 0
    network = builder.create_network(strong)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        text = "; ".join(f"{error.node_operator()}: {error.desc()}" for error in errors)
        raise ValueError(f"{source}: TensorRT cannot read this graph: {text}")

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * GIB))
    if options.dynamic:
        profile = builder.create_optimization_profile()
        profile.set_shape("images", *profile_shapes(options, stride, channels))
        config.add_optimization_profile(profile)
    cache = Path(options.cache).resolve() if options.cache else None
    if cache:
        known = cache.read_bytes() if cache.is_file() else b""
        timing = config.create_timing_cache(known)
        if not config.set_timing_cache(timing, False):
            raise ValueError(
                f"{cache}: this timing cache belongs to another device or TensorRT version: give another --cache"
            )
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f"{source}: TensorRT could not build an engine; see its log above (--verbose logs more)")
    if cache:
        with atomic_path(cache) as tmp:
            tmp.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def profile_shapes(options: ExportOptions, stride: int, channels: int) -> list[tuple[int, int, int, int]]:
    """Return the smallest, the best and the largest input (B, C, H, W) of a dynamic engine."""
    height, width = options.imgsz
    longer = max(height, width)
    return [
        (1, channels, stride, stride),
        (max(1, options.batch_size // 2), channels, height, width),
        (options.batch_size, channels, longer, longer),
    ]


def fits(images: Tensor, options: ExportOptions) -> bool:
    """Return whether a dynamic engine with these options takes the images, float (B, C, H, W)."""
    return images.shape[0] <= options.batch_size and max(images.shape[2:]) <= max(options.imgsz)


@torch.inference_mode()
def compare_engine(
    trt: Any, engine: bytes, model: nn.Module, inputs: list[tuple[str, Tensor]], options: ExportOptions
) -> None:
    """Run engine and model on CUDA and log the largest difference.

    The tolerance of float16 holds for float32 too: TensorRT computes float32 in TF32 on current GPUs.

    Raises:
        ValueError: the engine cannot be loaded or run, or a difference is above the tolerance; names the input.
    """
    loaded = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(engine)
    if loaded is None:
        raise ValueError("TensorRT cannot load the engine it has built; see its log above")
    context = loaded.create_execution_context()
    stream = torch.cuda.Stream()
    device, worst = next(model.parameters()).device, Difference()
    for name, images in inputs:
        expected = model(images.to(device))[0]
        given = images.cuda().contiguous()
        context.set_input_shape("images", tuple(given.shape))
        found = torch.empty(tuple(context.get_tensor_shape("output0")), device="cuda")
        context.set_tensor_address("images", given.data_ptr())
        context.set_tensor_address("output0", found.data_ptr())
        stream.wait_stream(torch.cuda.current_stream())
        if not context.execute_async_v3(stream.cuda_stream):
            raise ValueError(f"TensorRT, {name}: the engine failed to run")
        stream.synchronize()
        difference = measure(expected, found)
        check_difference(difference, "int8" if options.int8 else "half", f"TensorRT, {name}")
        worst |= difference
    LOGGER.info(f"TensorRT: largest difference {worst} on {len(inputs)} inputs")
