"""Every case of tests/malformed.py: named in one line, accepted or refused, without a traceback or a changed file."""

import subprocess
import sys

import pytest

from tests import malformed
from utils.paths import ROOT

CASES = malformed.corpus()


def test_there_are_enough_and_each_has_a_name():
    assert len(CASES) >= 200
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as utils/datasets/reader.py does; pytest forgets its filter
@pytest.mark.parametrize("group", sorted({case.group for case in CASES}))
def test_cases(group, tmp_path):
    for i, case in enumerate(case for case in CASES if case.group == group):
        assert (case.name, malformed.complaints(case, tmp_path / str(i))) == (case.name, [])


def test_command_lists_all_problems_and_ends_with_a_summary(tmp_path):
    folder = tmp_path / "set"
    malformed.lay_out(folder)
    (folder / "labels/good.txt").write_text(malformed.GOOD_LINE + "0 .5 nan .2 .2\n" * 12)
    (folder / "images/bad.jpg").write_bytes(b"")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "utils.datasets.dataset", "CHECK", str(folder / "data.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert sum("labels/good.txt:" in line for line in lines) == 11  # ten lines, and one for the others
    assert sum("bad.jpg: image left out: " in line for line in lines) == 1
    assert lines[-1].startswith("all: 2 images, 2 labels, 0 backgrounds, 1 images left out, 12 problems, ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    strict = subprocess.run([*command, "--strict"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert strict.returncode == 1
    assert "12 problems, see above" in strict.stderr
