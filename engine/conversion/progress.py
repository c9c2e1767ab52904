"""The state of a conversion that is under way: saved now and then, and taken up again by the same command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.conversion.check import Check
from engine.unfinished import load_unfinished, save_unfinished
from utils.console import LOGGER


@dataclass
class Progress:
    """Where a conversion stands.

    Attributes:
        key: what it depends on; with another key nothing is taken up.
        steps: of each phase. step: number of the next step, counted over all phases.
        checks: of the copy, and after each finished phase. seconds: CPU time so far.
        best: number of the check with the highest score. best_stages: weights of the stages then.
        imitation: weights of the stages and state of the optimizer now.
        failures: how often a loss was not finite.
    """

    key: dict[str, Any]
    steps: list[int]
    step: int = 0
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    best: int = 0
    best_stages: dict[str, Any] = field(default_factory=dict)
    imitation: dict[str, Any] = field(default_factory=dict)
    failures: int = 0

    def add(self, check: Check, stages: dict[str, Any]) -> None:
        """Take note of a check, and of the weights if none was better."""
        self.checks.append(check)
        if not self.best_stages or check.score >= self.checks[self.best].score:
            self.best, self.best_stages = len(self.checks) - 1, stages

    @property
    def phase(self) -> int:
        """Return the number of the phase that is not checked yet; the number of phases at the end."""
        return len(self.checks) - 1


def save_progress(progress: Progress, file: Path) -> None:
    """Write the state of a conversion; the file is replaced in one step."""
    save_unfinished(vars(progress) | {"checks": [vars(check) for check in progress.checks]}, file)


def load_progress(file: Path, key: Mapping[str, Any]) -> Progress | None:
    """Read the state of a conversion; None, with a line that says why, if it cannot be taken up.

    Args:
        file: of `save_progress`; it may be missing.
        key: what the conversion depends on now.
    """
    content = load_unfinished(file, key, "conversion")
    if content is None:
        return None
    try:
        return Progress(**content | {"checks": [Check(**check) for check in content["checks"]]})
    except (KeyError, TypeError) as error:
        LOGGER.warning(f"{file}: not the state of a conversion ({error}), so it starts anew")
        return None
