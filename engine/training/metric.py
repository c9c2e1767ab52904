"""The number that chooses best.pt and ends a run early: YOLOv5's fitness, or what --metric names."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from utils.metrics import fitness

AP = ":ap"  # ends the name of a class
POSITIONS = {"map50": 2, "map50-95": 3, "recall": 1, "precision": 0}  # in the results of val.py
METRICS = ("fitness", *POSITIONS, "f1", f"CLASS{AP}")


def learned_names(single_cls: bool, names: dict[int, str]) -> dict[int, str]:
    """Return the names of the classes that a model learns, by index: those of the dataset, or one with --single-cls."""
    return {0: "item"} if single_cls and len(names) != 1 else names


def class_of(metric: str, names: Mapping[int, str]) -> int | None:
    """Return the class that a metric such as `cat:ap` or `0:ap` names, None for one of all classes.

    Raises:
        ValueError: no such metric or class.
    """
    if metric in METRICS[:-1]:
        return None
    name, number = metric.removesuffix(AP), {name: i for i, name in names.items()}
    if not metric.endswith(AP):
        known = [*METRICS[:-1], *(name + AP for name in number)]
        raise ValueError(f"--metric {metric} is none of {', '.join(METRICS)}{_hint(metric, known)}")
    if name not in number and not (name.isdecimal() and int(name) in names):
        raise ValueError(f"--metric {metric}: the dataset has no class {name!r}{_hint(name, number)}")
    return number[name] if name in number else int(name)


def check_metric(metric: str, names: Mapping[int, str], dataset: Any) -> None:
    """Raise ValueError for a metric that there is not, or a class that validation has no labels of.

    Args:
        metric: of --metric.
        names: of the classes.
        dataset: the `LoadImagesAndLabels` of the validation.
    """
    index = class_of(metric, names)
    if index is not None and not any((x[:, 0] == index).any() for x in dataset.labels):
        raise ValueError(f"--metric {metric}: no validation image has a label of class {index}, {names[index]!r}")


def score(metric: str, results: Sequence[float], maps: np.ndarray, names: Mapping[int, str]) -> float:
    """Return the number that an epoch is judged by, 0 to 1, more is better.

    Args:
        metric: of --metric.
        results: P, R, mAP50, mAP50-95, and whatever follows.
        maps: mAP50-95 of each class, (nc,).
        names: of the classes.
    """
    if metric == "fitness":
        return float(fitness(np.array(results[:4])[None])[0])
    if metric == "f1":
        precision, recall = results[:2]
        return 2 * precision * recall / (precision + recall + 1e-16)
    if metric in POSITIONS:
        return float(results[POSITIONS[metric]])
    return float(maps[class_of(metric, names)])


def _hint(name: str, known: Sequence[str] | Mapping[str, int]) -> str:
    close = get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
