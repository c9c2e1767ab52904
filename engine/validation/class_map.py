"""Which scores of a model count for which class, where the classes of a dataset are chosen or merged."""

import shlex
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.datasets.selection import Selection
from utils.text import first_names, printable


class ClassMap:
    """Turns the boxes of a model into boxes of the classes of a dataset, which come first; the others follow.

    The others stay, as a box counts for its best class among all, as in detect.py with --classes.

    Args:
        parts: for each class of the dataset those of the model that it consists of; the best score counts.
        names: of the classes of the model, by number.

    Attributes:
        chosen: numbers of the classes that count.
        own: what the model calls these.
    """

    def __init__(self, parts: Sequence[Sequence[int]], names: Mapping[int, str]) -> None:
        used = [number for part in parts for number in part]
        others = sorted(set(range(len(names))) - set(used))
        self.parts = [*parts, *([number] for number in others)]
        self.chosen = range(len(parts))
        self.own = [names[number] for number in used]

    def __call__(self, decoded: Tensor) -> Tensor:
        """Arrange boxes (B, R, 5 + classes of the model) `[xywh_net, objectness, scores]`."""
        scores = [decoded[..., [5 + number for number in part]].amax(2, keepdim=True) for part in self.parts]
        return torch.cat((decoded[..., :5], *scores), 2)


def match_classes(selection: Selection, names: Mapping[int, str], single_cls: bool, file: str) -> ClassMap | None:
    """Find the classes that a dataset chooses or merges among those of a model, by their names.

    A merged class may be one of the model, or consist of several.

    Args:
        selection: of the dataset.
        names: of the model, by number.
        single_cls: all classes count as one.
        file: the model, for messages.

    Returns:
        None where the classes have the same numbers on both sides, or a model of as many has other names altogether.

    Raises:
        ValueError: the model lacks a class.
    """
    if single_cls and len(names) == 1:
        return None
    known: dict[str, list[int]] = {}  # numbers of each name of the model
    for number, name in names.items():
        known.setdefault(name, []).append(number)
    parts: list[list[int]] = []
    missing: list[str] = []
    for number, name in selection.names.items():
        wanted = [name] if printable(name) in known else [selection.known[i] for i in selection.parts(number)]
        found = sorted(i for text in set(map(printable, wanted)) for i in known.get(text, ()))
        parts.append(found)
        missing += [] if found else [name]
    if len(missing) == len(parts) == len(names):
        return None
    if missing:
        lacking = printable(", ".join(map(repr, missing)))
        there = [name for name in selection.names.values() if name not in missing]
        hint = f". Choose those that it has: {shlex.join(['--classes', *there])}" if there else ""
        raise ValueError(f"{file}: the model has no class {lacking}; its classes are {first_names(names)}{hint}")
    return None if parts == [[number] for number in names] else ClassMap(parts, names)
