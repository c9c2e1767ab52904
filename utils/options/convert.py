"""The options of engine.convert."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from utils.options.check import COUNT, SIDE, Number
from utils.options.table import option, parse_words


@dataclass(frozen=True)
class ConvertOptions:
    """Options of engine.convert, see `utils.options.table`."""

    weights: str = option(
        "",
        "checkpoint of a trained YOLOv5, or official weights such as yolov5s.pt; the flag may be left out",
    )
    cfg: str = option("twin", "model YAML of the twin; twin: derived from the table of the checkpoint")
    images: list[str] = option([], "folders or lists of images; they need no labels")
    data: str = option("", "dataset YAML: its training images; its labels only measure the result")
    out: str = option("", "checkpoint to write; default: name of the weights with -swinv2, in the working directory")
    imgsz: Annotated[int, SIDE] = option(
        640, "image size in pixels, as the weights were trained with", *("--imgsz", "--img", "--img-size")
    )
    batch_size: Annotated[int, COUNT] = option(4, "images per step")
    passes: Annotated[int, COUNT] = option(1600, "images looked at, repeated ones counted")
    minutes: Annotated[float, Number(float, 0)] | None = option(None, "time for the steps, instead of --passes")
    device: str = option("", "0, cpu, mps; empty: CUDA if available")
    seed: Annotated[int, Number(int, 0, 2**32 - 1)] = option(0, "seed of all random numbers")


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Convert a trained YOLOv5 into its Swin twin."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line; the first word without a flag is the checkpoint."""
    return parse_words(ConvertOptions, "weights", "engine.convert", argv, description)
