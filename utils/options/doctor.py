"""The options of engine.doctor."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from utils.options.check import SIDE, TILE, Number, class_value
from utils.options.table import make_parser, option


@dataclass(frozen=True)
class DoctorOptions:
    """Options of engine.doctor, see `utils.options.table`."""

    data: str = option("", "dataset YAML; the flag may be left out")
    classes: list[Annotated[int | str, class_value]] | None = option(
        None, "look at these classes only, by name or number; default: key classes of the dataset YAML, or all"
    )
    imgsz: Annotated[int, SIDE] | list[Annotated[int, SIDE]] = option(
        640,
        "image size in pixels of the training, one side or height and width, by which small boxes are judged",
        *("--imgsz", "--img", "--img-size"),
    )
    slice: Annotated[int, TILE] | list[Annotated[int, TILE]] = option(
        0, "tiles of the training, by which small boxes are judged: one side, or height and width"
    )
    cfg: str = option("", "model YAML, whose anchors and strides count; default: those of yolov5s")
    weights: str = option("", "checkpoint, whose anchors and strides count")
    fast: bool = option(False, "leave out the checks that decode images: near copies, images of one colour, 16 bits")
    only: list[str] = option([], "ids or families of checks, such as labels or boxes.double; no others run")
    skip: list[str] = option([], "ids or families of checks to leave out")
    strict: Literal["", "warnings", "errors"] = option(
        "", "exit with status 1 after an error or warning, or with errors after an error only", bare="warnings"
    )
    json: str = option("", "file for all findings as JSON; - for standard output")
    html: str = option("", "file for a page with thumbnails")
    limit: Annotated[int, Number(int, 0, 1_000_000)] = option(10, "places named in each finding; 0 for all")


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Find what is wrong with a dataset."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line; words without a flag are the dataset YAML.

    The word CHECK before it, of the command of earlier versions, is passed over.
    """
    parser = make_parser(DoctorOptions, description, "python -m engine.doctor")
    parser.add_argument("files", nargs="*", metavar="DATA", help="the same as --data DATA")
    opt = parser.parse_intermixed_args(argv)
    files = [file for file in opt.files if file not in ("CHECK", "check")]
    if len(files) + bool(opt.data) != 1:
        parser.error(f"one dataset YAML is needed, got {len(files) + bool(opt.data)}")
    opt.data = opt.data or files[0]
    del opt.files
    return opt
