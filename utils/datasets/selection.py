"""Some of the classes of a dataset, and several as one: the keys `classes` and `merge` of its YAML."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from utils.files import key_place
from utils.text import MAX_NAME, class_numbers


@dataclass(frozen=True)
class Selection:
    """What becomes of the classes of the labels.

    Attributes:
        names: number and name of each class that remains.
        targets: for each class of the labels its number among `names`, -1 for one that is ignored.
        known: names of the classes of the labels, by number.
    """

    names: Mapping[int, str]
    targets: tuple[int, ...]
    known: Mapping[int, str]

    def parts(self, number: int) -> list[int]:
        """Return the classes of the labels that a class consists of."""
        return list(self._parts.get(number, ()))

    @cached_property
    def _parts(self) -> dict[int, list[int]]:
        """Classes of the labels by what becomes of them."""
        found: dict[int, list[int]] = {}
        for i, target in enumerate(self.targets):
            found.setdefault(target, []).append(i)
        return found

    def apply(self, classes: np.ndarray) -> np.ndarray:
        """Return what becomes of classes of labels (M,), -1 for those that are ignored, those beyond `known` too."""
        table = np.array([*self.targets, -1])
        return table[np.minimum(classes.astype(int), len(table) - 1)]

    def __str__(self) -> str:
        """For the log: all names, those of several classes with what they are made of."""
        words = []
        for number, name in self.names.items():
            parts = [self.known[i] for i in self.parts(number)]
            words.append(name if parts == [name] else f"{name} ({', '.join(parts)})")
        ignored = self.targets.count(-1)
        return ", ".join(words) + f"; {ignored} of {len(self.targets)} ignored" * bool(ignored)


def select_classes(
    names: Mapping[int, str], data: Mapping[str, Any], where: Any, wanted: Sequence[int | str] | None = None
) -> Selection | None:
    """Read the keys `merge` and `classes` of a dataset YAML.

    First `merge` makes one class of several: `{vehicle: [car, truck]}` puts `vehicle` in the place of the first of
    them, and the numbers of those that follow move up. Then `classes` chooses among the result, by name or number, and
    its order is that of the new numbers.

    Args:
        names: class number to name of all classes of the labels.
        data: content of the YAML.
        where: its file, for messages.
        wanted: chosen instead of the key `classes`, by the option --classes.

    Returns:
        None if neither is given.

    Raises:
        ValueError: a class that does not exist, is given twice, or a wrong type.
    """
    merged, targets = dict(names), tuple(names)
    if wanted is None and data.get("merge") is None and data.get("classes") is None:
        return None
    if data.get("merge") is not None:
        merged, targets = _merge(names, data["merge"], key_place(where, "merge"))
    place = f"{key_place(where, 'classes')}: classes" if wanted is None else f"--classes with {where}"
    wanted = data.get("classes") if wanted is None else wanted
    if wanted is not None:
        chosen = _choose(wanted, merged, targets, names, place)
        merged = {number: merged[old] for number, old in enumerate(chosen)}
        places = {old: number for number, old in enumerate(chosen)}
        targets = tuple(places.get(t, -1) for t in targets)
    return Selection(merged, targets, dict(names))


def _merge(names: Mapping[int, str], merge: Any, where: str) -> tuple[dict[int, str], tuple[int, ...]]:
    """Return the names after merging, and what becomes of each class."""
    if not isinstance(merge, dict) or not all(isinstance(parts, list) and parts for parts in merge.values()):
        raise ValueError(f"{where}: merge must name the classes of each new one, such as {{vehicle: [car, truck]}}")
    owners: dict[int, str] = {}
    for new, parts in merge.items():
        if not isinstance(new, str | int | float) or isinstance(new, bool) or len(str(new)) > MAX_NAME:
            raise ValueError(f"{where}: merge: {new!r:.80} is not a class name. Put the name in quotes.")
        for number in class_numbers(parts, names, f"{where}: merge: {new}"):
            if number in owners:
                raise ValueError(f"{where}: merge: {names[number]!r} is given twice")
            owners[number] = str(new)
    merged: list[str] = []
    places: dict[str, int] = {}  # of the new classes
    targets = []
    for number, name in names.items():
        new = owners.get(number)
        if new is None or new not in places:
            merged.append(name if new is None else new)
        if new is not None:
            places.setdefault(new, len(merged) - 1)
        targets.append(len(merged) - 1 if new is None else places[new])
    counts = Counter(merged)
    for new in places:
        if counts[new] > 1:
            raise ValueError(f"{where}: merge: {new!r} is a class already: list it too, {new}: [{new}, ...]")
    return dict(enumerate(merged)), tuple(targets)


def _choose(
    wanted: Any, merged: Mapping[int, str], targets: Sequence[int], names: Mapping[int, str], place: str
) -> list[int]:
    """Return the numbers of the chosen classes after merging."""
    if not isinstance(wanted, list | tuple) or not wanted:
        raise ValueError(f"{place}: {wanted!r:.80} is not a list of class names or numbers")
    stay = set(merged.values())
    gone = {names[i]: merged[t] for i, t in enumerate(targets) if names[i] not in stay}
    for name in wanted:
        if isinstance(name, str) and name in gone:
            raise ValueError(f"{place}: {name!r} is part of the merged class {gone[name]!r}: choose that")
    chosen = class_numbers(wanted, merged, place)
    counts = Counter(chosen)
    for number in chosen:
        if counts[number] > 1:
            raise ValueError(f"{place}: class {number}, {merged[number]!r}, is given twice")
    return chosen
