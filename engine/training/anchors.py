"""The anchors of a model, fitted to the boxes that it is trained on."""

import torch

from models.yolo import DetectionModel
from utils.autoanchor import fit_head
from utils.dataloaders import LoadImagesAndLabels
from utils.hyp import Hyp


def has_placeholder_anchors(model: DetectionModel) -> bool:
    """Whether the anchors are still the numbers 0, 1, 2, ... that `anchors: 3` in a model file produces."""
    head = model.detect
    pixels = (head.anchors * head.stride.view(-1, 1, 1)).flatten(1)
    return bool((pixels == torch.arange(pixels.shape[1], device=pixels.device)).all())


def fit_anchors(
    model: DetectionModel, dataset: LoadImagesAndLabels, hyp: Hyp, imgsz: int | tuple[int, int], seed: int
) -> None:
    """Replace the anchors of the model, in place, if they fit the boxes of the dataset badly.

    Raises:
        ValueError: the model file has only placeholders for anchors, and the dataset gave no better ones.
    """
    replaced, message = fit_head(dataset, model.detect, hyp.anchor_t, imgsz, seed)
    if not replaced and has_placeholder_anchors(model):
        raise ValueError(
            f"{model.yaml_file or 'model'}: 'anchors' is a number, and the dataset gave no anchors: {message}"
        )
