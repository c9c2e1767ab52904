"""The commands of README.md, CONTRIBUTING.md and docs/ are run as they are written, or say why not."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
COPIED = ("data", "models", "engine", "utils", "benchmarks")


def blocks(text):
    """(reason not to be run or "", the commands) of each bash block; a line that ends in a backslash goes on."""
    found = re.findall(r"(?:<!-- not run: ([^>]*) -->\n+)?```bash\n(.*?)```", text, re.DOTALL)
    return [(reason, [line for line in code.replace("\\\n", "").splitlines() if line]) for reason, code in found]


def dataset(text):
    """The dataset YAML that a page shows, or None."""
    shown = [yaml.safe_load(code) for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return next((table for table in shown if "path" in table), None)


def test_blocks_are_found_with_their_reasons():
    text = "a\n\n<!-- not run: no camera -->\n```bash\nx 1 \\\n  2\n\ny\n```\n\n```bash\npython z.py\n```\n"
    assert blocks(text) == [("no camera", ["x 1   2", "y"]), ("", ["python z.py"])]


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.stem)
def test_every_block_is_run_or_says_why_not(page):
    text = page.read_text(encoding="utf-8")
    assert len(blocks(text)) == text.count("```bash\n")
    for reason, lines in blocks(text):
        if reason:
            assert len(reason.split()) > 2
        else:
            assert [line for line in lines if not line.startswith("python ")] == []


@pytest.mark.slow
def test_commands_run_as_they_are_written(tmp_path):
    clone = tmp_path / "clone"
    for name in COPIED:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "demo", "*.pt"))
    for file in ("train.py", "val.py", "detect.py", "export.py", "hubconf.py"):
        shutil.copy(ROOT / file, clone)
    texts = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    run = [(name, dataset(text), lines) for name, text in texts.items() for reason, lines in blocks(text) if not reason]
    assert sum(len(lines) for _, _, lines in run) > 40
    command = [sys.executable, shutil.copy(ROOT / "tests/documented.py", clone)]
    done = subprocess.run(
        command, input=json.dumps(run), cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
