"""The options of engine.pretrain."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from utils.options.check import COUNT, SIDE, Number
from utils.options.table import make_parser, option


@dataclass(frozen=True)
class PretrainOptions:
    """Options of engine.pretrain, see `utils.options.table`."""

    cfg: str = option("", "model YAML whose backbone learns, such as models/yolov5s-swinv2.yaml")
    images: list[str] = option([], "folders or lists of images; they need no labels")
    data: str = option("", "dataset YAML: its training images; its labels are not read")
    out: str = option("", "checkpoint to write; default: name of the model YAML with -pretrained, in this folder")
    epochs: Annotated[int, COUNT] = option(100, "passes over the images")
    batch_size: Annotated[int, COUNT] = option(16, "images per step")
    imgsz: Annotated[int, SIDE] = option(
        320, "side in pixels of the squares that are cut from the images", *("--imgsz", "--img", "--img-size")
    )
    mask_ratio: Annotated[float, Number(float, 0.05, 0.95)] = option(0.6, "part of each image that is hidden")
    mask_patch: Annotated[int, COUNT] = option(32, "side in pixels of the squares that are hidden")
    amp: Literal["auto", "fp16", "bf16", "off"] = option("auto", "mixed precision; auto: fp16 on CUDA, else off")
    workers: Annotated[int, Number(int, 0)] = option(8, "most processes that load images")
    device: str = option("", "0, cpu, mps; empty: CUDA if available")
    seed: Annotated[int, Number(int, 0, 2**32 - 1)] = option(0, "seed of all random numbers")


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Train a backbone on images without labels."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    parser = make_parser(PretrainOptions, description, "python -m engine.pretrain")
    return parser.parse_args(argv)
