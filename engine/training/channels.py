"""The model of a run, built for the channels and the depth of the images of its dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.yolo import DetectionModel
from utils.datasets.images import PixelFormat


def build_detector(
    cfg: str | Path | dict[str, Any],
    data: Mapping[str, Any],
    nc: int,
    anchors: float | None,
    weights: str | Path,
    resumed: bool,
) -> DetectionModel:
    """Build a model for the images of a dataset.

    A model file without the keys `ch` and `bits` takes both from the dataset, and so does the table of a checkpoint
    from which a new run starts: the weights of its first layer are adapted (`models.weights.transfer.adapt_input`).

    Args:
        cfg: path of the model YAML, or the table of a checkpoint.
        data: from `check_dataset`.
        nc: number of classes.
        anchors: see `DetectionModel`.
        weights: file of the checkpoint, for messages.
        resumed: the table is that of the run itself, whose images stay.

    Raises:
        ValueError: model file or resumed run, and dataset differ; names both.
    """
    where = data.get("yaml_file") or "dataset"
    pixels = PixelFormat.of(data, where)
    if isinstance(cfg, dict) and not resumed:
        cfg = {key: value for key, value in cfg.items() if key not in ("ch", "bits")}
    model = DetectionModel(cfg, pixels.channels, nc, anchors)
    own = model.pixels
    if own.channels != pixels.channels or ((resumed or own.bits is not None) and own.depth != pixels.depth):
        remedy = "restore the dataset, or start a new run with --weights" if resumed else "change one of them"
        raise ValueError(
            f"{weights if isinstance(cfg, dict) else cfg}: the model reads images of {own} (its 'ch' is "
            f"{own.channels}), but the training images of {where} have {pixels}: {remedy}"
        )
    if pixels.bits is not None:
        model.yaml["bits"] = pixels.bits
    return model
