"""What the checks find, in which order it is shown, as text and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from utils.text import printable

SEVERITIES = ("error", "warning", "note")
PLACES_IN_TEXT = 3  # of a finding in the log


@dataclass(frozen=True)
class Place:
    """One place that a finding is about.

    Attributes:
        file: an image, a label file, or a file of the user that names them.
        line: of that file, from 1; None for the whole file.
        box: xywhn of the label in question.
        other: the second file of a pair.
        value: the number that the finding is about, such as an IoU or a distance.
        note: the same in words, shown in brackets.
        image: the image to show; None if there is none to show.
    """

    file: str
    line: int | None = None
    box: tuple[float, float, float, float] | None = None
    other: str | None = None
    value: float | None = None
    note: str = ""
    image: str | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        pair = f" and {self.other}" if self.other else ""
        return printable(f"{where}{pair}{f' ({self.note})' if self.note else ''}")


@dataclass(frozen=True)
class Finding:
    """One message for a split, however many places it has.

    Attributes:
        id: family and name, such as `boxes.double`.
        severity: `error`: images or labels are lost or learned wrongly for certain. `warning`: probably a mistake, or
            the scores will mislead. `note`: a fact worth knowing.
        split: None for the whole dataset.
        count, total: how many of how many things.
        message: what is wrong, with the number that shows it.
        advice: what the program does with them now, and what to do.
        places: the first of them.
        more: how many further places there are.
    """

    id: str
    severity: str
    split: str | None
    count: int
    total: int
    message: str
    advice: str
    places: Sequence[Place] = ()
    more: int = 0

    @property
    def share(self) -> float:
        """Fraction of the things that are concerned."""
        return self.count / self.total if self.total else 0.0

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.places[:PLACES_IN_TEXT]))
        example = f", e.g. {shown}" if shown else ""
        split = f" [{self.split}]" if self.split else ""
        return printable(f"{self.id}{split}: {self.message}{example}. {self.advice}")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; every key is always there."""
        places = [{key: value for key, value in asdict(place).items() if key != "image"} for place in self.places]
        return {
            "id": self.id, "severity": self.severity, "split": self.split, "count": self.count, "total": self.total,
            "share": round(self.share, 6), "message": self.message, "advice": self.advice, "places": places,
            "more": self.more,
        }  # fmt: skip


def ordered(findings: Iterable[Finding], splits: Sequence[str]) -> list[Finding]:
    """Sort findings: the worst first, then by id and split; equal data give equal output."""
    places = {None: -1} | {name: i for i, name in enumerate(splits)}
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.id, places.get(f.split, -1)))


def count_by_severity(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each severity."""
    found = [f.severity for f in findings]
    return {severity: found.count(severity) for severity in SEVERITIES}


def in_words(counts: dict[str, int]) -> str:
    """Return counts as `1 error, 2 warnings, 0 notes`."""
    return ", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity, n in counts.items())


def share_text(count: int, total: int, things: str) -> str:
    """Return `31 of 120 boxes (26 %)`; below 1 % with two digits."""
    percent = 100 * count / max(total, 1)
    return f"{count} of {total} {things} ({percent:.{0 if percent >= 1 or not count else 2}f} %)"
