"""Real processes killed at random moments; `python -m tests.killed_training` does it 30 times."""

import sys

import pytest

from tests import killed_training


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_killed_trainings_end_with_the_weights_of_an_undisturbed_one(tmp_path):
    outcomes = killed_training.run(3, 3, tmp_path)  # each signal once, with a process that loads images
    assert [outcome.problem for outcome in outcomes] == ["", "", ""]
    assert {outcome.signal for outcome in outcomes} == {"SIGKILL", "SIGTERM", "SIGINT"}
