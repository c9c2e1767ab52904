"""What setup.py makes of the sources, and how the package words commands; tests/installed.py installs the wheel."""

import re
import sys

import pytest
from setuptools.errors import SetupError

from setup import PACKAGE, ROOMS, SCRIPTS, move_imports
from tests.test_imports import ROOT, read_sources
from utils import paths
from utils.paths import command, installed_text


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("from utils.boxes import a, b\n", "from yolov5_swinv2.utils.boxes import a, b\n"),
        ("from models import yolo  # models\n", "from yolov5_swinv2.models import yolo  # models\n"),
        ("import val\n", "from yolov5_swinv2 import val\n"),
        ("import val as v\n", "from yolov5_swinv2 import val as v\n"),
        ("if 'ü':\n    from engine.a import (\n        b,\n    )\n", None),
        ("x = 1\nfrom hubconf import custom; y = 2\n", "x = 1\nfrom yolov5_swinv2.hubconf import custom; y = 2\n"),
        ("from __future__ import annotations\nimport os, sys\nfrom utilities import x\nfrom . import models\n", ""),
        ('"""\nfrom utils.boxes import a\nimport val\n"""\nMODELS = "models.yolo"\n', ""),
    ],
)
def test_imports_of_ours_are_moved_and_nothing_else(text, moved):
    expected = text.replace("engine.a", "yolov5_swinv2.engine.a") if moved is None else moved or text
    assert move_imports(text, "a.py") == expected


@pytest.mark.parametrize("text", ["import models.yolo", "import utils, os", "x = 1; import val, torch"])
def test_an_import_that_cannot_be_moved_is_an_error(text):
    with pytest.raises(SetupError, match=r"a\.py:2: write this import as `from \.\.\. import"):
        move_imports(f"\n{text}\n", "a.py")


def test_every_source_can_be_moved():
    left = re.compile(rf"^ *(?:from|import) (?:{'|'.join((*ROOMS, *SCRIPTS))})\b", re.MULTILINE)
    moved = {file: move_imports(text, file) for file, text in read_sources(ROOT).values()}
    assert len(moved) > 100
    assert [file for file, text in moved.items() if left.search(text)] == []


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Be the installed package, in an environment that has its commands."""
    for name in ("python", "yolov5-train"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(paths, "PACKAGE", f"{PACKAGE}.")
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_printed_commands_are_those_of_the_package():
    assert command("python", "train.py", "--resume", "a b.pt") == "yolov5-train --resume 'a b.pt'"
    assert command("python", "-m", "engine.convert", "a.pt") == "python -m yolov5_swinv2.engine.convert a.pt"
    assert command("python", "-m", "venv", "x") == "python -m venv x"
    torchrun = command("torchrun", "--nproc-per-node", "2", "train.py", "--img", "64")
    assert torchrun.endswith("torch.distributed.run --nproc-per-node 2 -m yolov5_swinv2.train --img 64")


@pytest.mark.usefixtures("installed")
def test_help_texts_are_those_of_the_package():
    text = "python val.py --img 64\ntorchrun train.py --img 64\npython -m engine.split my.yaml\nas train.py does"
    assert installed_text(text).splitlines() == [
        "yolov5-val --img 64", "torchrun -m yolov5_swinv2.train --img 64",
        "python -m yolov5_swinv2.engine.split my.yaml", "as train.py does",
    ]  # fmt: skip


def test_texts_stay_in_the_repository():
    assert installed_text("python val.py") == "python val.py"
