"""The conversion with which train.py begins when checkpoint and model are a convolutional YOLOv5 and its Swin twin."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import torch

from engine.conversion.run import PASSES, Settings, convert
from engine.training.state import Inputs
from engine.unlabelled import TooFewImages
from models.image_size import both_sides
from models.weights.checkpoint import load_checkpoint
from models.weights.twin import check_pairing, pair_layers, twin_table
from models.yolo import DetectionModel
from utils.console import LOGGER, colorstr
from utils.datasets.reader import pixels_of
from utils.files import file_sha256
from utils.options.train import TrainOptions


def convert_inputs(inputs: Inputs, device: torch.device) -> Inputs:
    """Return the inputs with a converted checkpoint where `--convert` asks for it and the models are siblings.

    The twin is kept below the parent of the run folders: the same command finds it again, and goes on with a
    conversion that was stopped.

    Args:
        inputs: from `read_inputs`.
        device: where the conversion runs.

    Raises:
        ValueError: `--convert N` for models that are no siblings.
    """
    options, ckpt = inputs.options, inputs.ckpt
    pixels = pixels_of(inputs.data["train"])
    if isinstance(options.convert, int) and not pixels.plain:
        raise ValueError(f"--convert learns from 8-bit colour images, not from {pixels}: remove it")
    wanted = (
        options.convert != "off" and pixels.plain and not options.resume and ckpt is not None and not ckpt["converted"]
    )
    if not (wanted and options.cfg and are_siblings(inputs)):
        if options.unlabeled and not options.resume:
            raise ValueError(
                "--unlabeled adds images to a conversion, but this training starts without one: remove it, or pass a "
                "convolutional checkpoint as --weights and its Swin twin as --cfg"
            )
        return inputs
    passes = PASSES if isinstance(options.convert, str) else options.convert
    settings = Settings(max(both_sides(options.imgsz)), passes=passes, seed=options.seed)
    out = twin_file(options, settings)
    if out.is_file():
        LOGGER.info(f"{colorstr('convert: ')}{out} is there already; delete it to convert again")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            convert(options.weights, options.cfg, options.unlabeled, options.data, out, settings, device, measure=False)
        except TooFewImages as error:
            if options.convert != "auto":
                raise
            LOGGER.warning(f"no conversion: {error}. The weights that fit are copied")
            return inputs
    ckpt = load_checkpoint(out)
    return replace(inputs, options=replace(options, weights=str(out)), ckpt=ckpt, cfg=ckpt["yaml"])


def are_siblings(inputs: Inputs) -> bool:
    """Whether the checkpoint is convolutional and the model its Swin twin; a near miss is warned of.

    Raises:
        ValueError: `--convert N` was given, and they are not.
    """
    options, ckpt = inputs.options, inputs.ckpt or {}
    with torch.device("meta"):  # shapes alone
        teacher = DetectionModel(ckpt["yaml"], verbose=False)
        twin = DetectionModel(twin_table(teacher, options.cfg), verbose=False)
    if teacher.swin_stages or not twin.swin_stages:
        return False
    try:
        check_pairing(pair_layers(teacher, twin), teacher, twin, options.weights, options.cfg)
    except ValueError as error:
        if options.convert != "auto":
            raise
        LOGGER.warning(f"no conversion: {error}")
        return False
    return True


def twin_file(options: TrainOptions, settings: Settings) -> Path:
    """Return where the twin is kept; another teacher, model, dataset or setting has another file."""
    parts = (file_sha256(options.weights), file_sha256(options.cfg), options.data, options.unlabeled, asdict(settings))
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
    return Path(options.project) / "converted" / f"{Path(options.weights).stem}-{Path(options.cfg).stem}-{digest}.pt"
