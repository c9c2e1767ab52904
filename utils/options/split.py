"""The options of engine.split."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from utils.options.check import Number
from utils.options.table import option, parse_words


@dataclass(frozen=True)
class SplitOptions:
    """Options of engine.split, see `utils.options.table`."""

    data: str = option("", "dataset YAML; the flag may be left out")
    of: list[Literal["train", "val", "test"]] = option(
        ["train", "val"], "splits whose images are divided anew; those that the YAML lacks do not count"
    )
    val: Annotated[float, Number(float, 0, 0.9)] = option(0.2, "part of the images for validation")
    test: Annotated[float, Number(float, 0, 0.9)] = option(0.0, "part of the images for testing")
    folds: Annotated[int, Number(int, 2, 100)] | None = option(
        None, "make this many datasets instead, each with another part for validation (cross-validation)"
    )
    group_by: str = option(
        "", "regular expression: images whose paths give the same match, or first group, stay together", metavar="REGEX"
    )
    fast: bool = option(False, "do not look for near copies, which decodes all images")
    out: str = option("", "where the files are written: path and start of their names; default: those of the YAML")
    exist_ok: bool = option(False, "replace files of an earlier split")
    seed: Annotated[int, Number(int, 0, 2**32 - 1)] = option(0, "seed of the choice among equally good ones")


def parse_opt(
    argv: Sequence[str] | None = None, description: str = "Divide a dataset into splits."
) -> argparse.Namespace:
    """Read the options from `argv`, or from the command line; the first word without a flag is the dataset YAML."""
    return parse_words(SplitOptions, "data", "engine.split", argv, description)
