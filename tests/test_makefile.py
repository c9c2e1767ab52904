"""`make` sets up its environment, with a Python that only pretends to install."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")

# Answers what the Makefile asks, and writes each call to a log. cv2 loads only once the headless package is there.
PYTHON = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
  "-m pip --version") test -e {root}/pip;;
  "-m venv "*) test -e {root}/ensurepip || {{ echo "ensurepip is not available"; exit 1; }}
    mkdir -p $3/bin && cp $0 $3/bin/python && touch {root}/pip;;
  *"install "*"opencv-python-headless"*) touch {root}/headless;;
  *"install "*"--index-url"*) test -e {root}/cpu_index && cp "$8" {root}/from_index && touch {root}/torch;;
  *"install "*"-r "*) rm -f {root}/headless; touch {root}/torch;;
  "-c import torch") test -e {root}/torch;;
  "-c import cv2") test -e {root}/headless;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Call make in a copy of the Makefile; returns the exit code, the output, and the calls of Python."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").write_text("# all\ntorch>=2.6  # new enough\ntorchvision>=0.21\npyyaml>=6.0\n")
    python = tmp_path / "python"
    log = tmp_path / "log"
    python.write_text(PYTHON.format(root=tmp_path, log=log))
    python.chmod(0o755)

    def call(*settings):
        log.write_text("")
        command = ["make", f"PYTHON={python}", "VENV=env", "CPU=", *settings, "env/.installed"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()

    return call


def test_headless_opencv_replaces_the_other_at_every_install(run, tmp_path):
    (tmp_path / "ensurepip").touch()
    for _ in range(2):
        (tmp_path / "requirements.txt").write_text("changed")
        (tmp_path / "env" / ".installed").unlink(missing_ok=True)
        code, output, calls = run()
        assert code == 0, output
        (install,) = [line for line in calls if "opencv-python-headless" in line]
        assert {"--force-reinstall", "--no-deps"} <= set(install.split())
        assert calls.index("-m pip uninstall -q -y opencv-python") < calls.index(install)
    assert run()[2] == []  # nothing to do


def test_missing_venv_names_the_package(run, tmp_path):
    code, output, _ = run()
    assert code == 2
    (line,) = [line for line in output.splitlines() if "apt install python3-venv" in line]
    assert "virtualenv env" in line
    assert not (tmp_path / "env" / ".installed").exists()


def test_an_environment_that_is_there_is_used(run, tmp_path):
    (tmp_path / "env" / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "python", tmp_path / "env" / "bin")
    (tmp_path / "pip").touch()
    code, output, calls = run()
    assert code == 0, output
    assert not any(line.startswith("-m venv") for line in calls)


def test_the_size_is_said_before_pytorch_is_installed(run, tmp_path):
    (tmp_path / "ensurepip").touch()
    _, output, calls = run()
    assert output.index("will take 6.2 GB") < output.index("pip install")
    assert "--index-url" not in "".join(calls)
    (tmp_path / "env" / ".installed").unlink()
    assert "6.2 GB" not in run()[1]  # it is there


def test_pytorch_without_cuda_comes_from_its_index(run, tmp_path):
    for name in ("ensurepip", "cpu_index"):
        (tmp_path / name).touch()
    code, output, calls = run("CPU=1", "CPU_INDEX=https://here/cpu")
    assert code == 0, output
    first, second = [line for line in calls if " -r " in line]
    assert "--index-url https://here/cpu" in first
    assert (tmp_path / "from_index").read_text() == "torch>=2.6  # new enough\ntorchvision>=0.21\n"
    assert "--index-url" not in second
    assert "6.2 GB" not in output


def test_an_index_that_cannot_be_used_leaves_pypi(run, tmp_path):
    (tmp_path / "ensurepip").touch()
    code, output, calls = run("CPU=1", "CPU_INDEX=https://here/cpu")
    assert code == 0, output
    assert "https://here/cpu cannot be used: PyTorch comes from PyPI, 6.2 GB" in output
    assert any(line.endswith("-r requirements.txt") for line in calls)
