"""Nobody waits for torch to read --help, nor for packages that the work at hand does not need."""

import ast
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANG
from utils.console import pause_collection, resume_collection

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "val", "detect", "export")
# Runs a script as the command line does, and tells which of some packages were loaded when it ended.
SLOW = {"torch", "cv2", "numpy", "torchvision", "matplotlib", "tensorboard", "thop", "sympy", "torch._dynamo"}
TELL = f"""
import sys
print("loaded:", *{SLOW} & set(sys.modules))
"""
RUN = f"""
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    exec({TELL!r})
"""


def loaded(script, *words):
    """(exit status, output, the slow packages that were loaded) of one run of a script."""
    command = [sys.executable, "-c", RUN, f"{script}.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=HANG, check=False)
    text, _, packages = done.stdout.rpartition("loaded:")
    return done.returncode, text + done.stderr, set(packages.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_mistakes_do_not_wait_for_torch(script):
    status, text, packages = loaded(script, "--help")
    assert (status, packages) == (0, set())
    assert f"python {script}.py --" in text  # the commands at the head of the script
    assert "--batch-size" in text or "--source" in text
    status, text, packages = loaded(script, "--no-such-option")
    assert (status, packages) == (2, set())
    assert "usage:" in text


def test_scripts_load_only_what_every_run_needs():
    code = f"import sys; sys.modules['pandas'] = None; import {', '.join(SCRIPTS)}, models.autoshape\n{TELL}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=HANG, check=False
    )
    text, _, packages = done.stdout.rpartition("loaded:")
    assert (done.returncode, text, done.stderr) == (0, "", "")
    assert set(packages.split()) == {"torch", "numpy", "cv2"}


PROGRAMS = [*SCRIPTS, "engine/convert", "engine/doctor/__main__", "engine/pretrain", "engine/split"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_garbage_is_looked_for_while_modules_load(program):
    """Half a second in torch's modules alone, and as much again at exit."""
    tree = ast.parse((ROOT / f"{program}.py").read_text())
    before, after = ([ast.unparse(line) for line in node.body] for node in tree.body if isinstance(node, ast.If))
    assert "OPTIONS = parse_opt(" in before[0]
    assert before[1:] == ["pause_collection()"]
    assert after[0] == "resume_collection()"


def test_what_is_loaded_is_left_out_of_collections():
    pause_collection()
    loaded = ["a container"]
    assert not gc.isenabled()
    resume_collection()
    assert gc.isenabled()
    assert not any(found is loaded for found in gc.get_objects())


RUN_ALL = f"""
import sys
sys.modules["pandas"] = None
import train, val, detect, export
data, folder = sys.argv[1:]
best = folder + "/exp/weights/best.pt"
common = dict(data=data, imgsz=64, workers=0, device="cpu", project=folder)
train.run(cfg="yolov5n-swinv2.yaml", weights="", epochs=1, batch_size=8, noplots=True, **common)
train.run(weights=best, epochs=1, batch_size=8, noplots=True, **common)
val.run(weights=best, plots=False, **common)
detect.run(weights=best, source=data[: -len(".yaml")] + "/images/val", imgsz=64, device="cpu", project=folder)
export.run(weights=best, imgsz=64, device="cpu", include=["torchscript"])
{TELL}
"""


@pytest.mark.slow
def test_runs_load_neither_compiler_nor_packages_for_plots(tiny_dataset, tmp_path):
    """The compiler comes with a run on the meta device, PyTorch's own optimizers and torchvision's package."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, tiny_dataset, tmp_path],
        capture_output=True, text=True, cwd=ROOT, timeout=HANG, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    packages = done.stdout.rpartition("loaded:")[2]
    assert set(packages.split()) == {"torch", "numpy", "cv2", "tensorboard"}
