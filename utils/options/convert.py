"""The options of engine.convert."""

import argparse
from collections.abc import Sequence

from utils.options.check import COUNT, SIDE, Number


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """Return the parser; it also checks what comes from Python (`utils.options.check`)."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.convert",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", help="checkpoint of a trained convolutional YOLOv5, ours or the original's")
    add("--cfg", default="twin", help="model YAML of the twin; twin: derived from the table of the checkpoint")
    add("--images", nargs="+", default=[], help="folders or lists of images; they need no labels")
    add("--data", default="", help="dataset YAML: its training images; its labels only measure the result")
    add("--out", default="", help="checkpoint to write; default: name of the weights with -swinv2")
    add(
        "--imgsz", "--img", "--img-size", type=SIDE, default=640, help="image size, pixels: as the weights were trained"
    )
    add("--batch-size", type=COUNT, default=4, help="images per step")
    add("--passes", type=COUNT, default=1280, help="images looked at, repeated ones counted")
    add("--minutes", type=Number(float, 0), default=None, help="time for the steps, instead of --passes")
    add("--device", default="", help="0, cpu, mps; empty: CUDA if available")
    add("--seed", type=Number(int, 0, 2**32 - 1), default=0, help="seed of all random numbers")
    return parser


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Convert a trained YOLOv5 into its Swin twin."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line."""
    return make_parser(description).parse_args(argv)
