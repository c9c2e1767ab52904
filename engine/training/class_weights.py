"""Weights of the classes in the class loss, from `cls_weights` of the hyperparameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.console import LOGGER
from utils.files import key_place
from utils.hyp import Hyp
from utils.text import class_numbers, printable

LARGEST_RATIO = 10.0  # between two classes: a hundredth of the labels
LOGGED = 20  # classes that are named


def weights_from_counts(counts: np.ndarray) -> np.ndarray:
    """Return weights (nc,) for numbers of labels (nc,): the rarer a class, the more a label of it counts.

    They follow the inverse square root of the count, by which word2vec and arXiv:1805.00932 (section 2.2) balance what
    they draw; the inverse itself would give every class the same part of the loss, and a few labels, wrong ones among
    them, that of thousands. The commonest class has at least a tenth of the weight of any other (`LARGEST_RATIO`). The
    mean over all labels is 1, so the class loss is as large as without weights, and its gain keeps its meaning.
    """
    counts = np.maximum(counts, 1).astype(float)
    weights = np.minimum(np.sqrt(counts.max() / counts), LARGEST_RATIO)
    return weights * counts.sum() / (weights * counts).sum()


def class_loss_weights(
    hyp: Hyp, names: Mapping[int, str], labels: np.ndarray, file: str, before: Mapping[str, Any] | None = None
) -> list[float] | None:
    """Return one weight for each class from `cls_weights`, None without it or with a single class.

    Args:
        hyp: as read.
        names: class names by number.
        labels: of all training images, (M, 5) `[class, xywhn]`.
        file: of the hyperparameters, for messages.
        before: hyperparameters that a resumed run was trained with: what `auto` found then stays.

    Raises:
        ValueError: a class that does not exist, or too few or too many numbers.
    """
    asked, place, nc = hyp.cls_weights, f"{key_place(file, 'cls_weights')}: cls_weights", len(names)
    if asked is None:
        return None
    if nc == 1:
        LOGGER.warning(f"{place} has no effect: of one class there is no class loss")
        return None
    if isinstance(asked, list):
        if len(asked) != nc:
            raise ValueError(f"{place} has {len(asked)} numbers, but there are {nc} classes")
        weights = asked
    elif isinstance(asked, dict):
        weights = [1.0] * nc
        numbers = class_numbers(asked, names, place)
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{place} has a class twice, by name and by number")
        for number, weight in zip(numbers, asked.values(), strict=True):
            weights[number] = weight
    elif before and before.get("cls_weights"):
        weights = before["cls_weights"]
    else:
        counts = np.bincount(labels[:, 0].astype(int), minlength=nc)
        weights = [round(weight, 4) for weight in weights_from_counts(counts).tolist()]
    words = [f"{printable(names[c])} {weight:.4g}" for c, weight in enumerate(weights)]
    more = f", and {nc - LOGGED} more" if nc > LOGGED else ""
    LOGGER.info(f"weights in the class loss: {', '.join(words[:LOGGED])}{more}")
    return weights
