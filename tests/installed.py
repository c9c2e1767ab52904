"""The wheel, built and installed, in a folder whose own `utils`, `models` and `val` must not matter: `make installed`.

pytest collects this file only where it is named. The environment sees the packages of the running one by a .pth file,
as PyTorch alone takes gigabytes.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import pytest

from tests.test_dockerfile import ROOT, SCRIPTS, SOURCES, context, settings, tracked, values
from tests.waiting import HANG
from utils.paths import VERSION

TRAIN = "--data data/demo.yaml --cfg yolov5n.yaml --weights= --img 64 --epochs 1 --batch-size 50 --workers 1".split()
BEST = "runs/train/exp/weights/best.pt"
FORMS = ("pt", "onnx", "torchscript")
TOP = ("models", "utils", "engine", "train", "val", "detect", "export", "hubconf")

LIBRARY = f"""
import json, sys
from pathlib import Path
import utils, models, val  # the program's own
import torch
import yolov5_swinv2
from yolov5_swinv2 import train
from yolov5_swinv2.models.yolo import DetectionModel

images = sorted(Path("data/demo/images/val").glob("*"))[:2]
found = [len(yolov5_swinv2.load("{BEST}"[:-2] + form, _verbose=False)(images, size=64)) for form in {FORMS}]
options = dict(data="demo.yaml", weights="", cfg="yolov5n-swinv2.yaml", imgsz=64, epochs=1, batch_size=50, noplots=True)
trained = train.run(**options, workers=1)
torch.save(DetectionModel("yolov5n.yaml", verbose=False), "whole.pt")
same = torch.load("whole.pt", weights_only=False)
import models.yolo  # the program's own, imported after ours
theirs = ["models", "models.yolo", "utils", "val"]
print(json.dumps({{
    "found": found, "results": len(trained), "module": type(same).__module__, "version": yolov5_swinv2.__version__,
    "theirs": [sys.modules[name].HOST for name in theirs],
    "ours": [name for name in sys.modules if name.partition(".")[0] in {TOP} and name not in theirs],
}}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of the wheel, built from what Docker gets; a copy, as pip writes into the folder that it builds from."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in context(ROOT):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    (source / "build/lib/yolov5_swinv2").mkdir(parents=True)
    (source / "build/lib/yolov5_swinv2/stale.py").touch()  # of an earlier build
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", target, source)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def programs(wheel):
    """Folder of the programs of an environment that has the wheel, and that every user of this machine may read."""
    environment = Path(tempfile.mkdtemp())
    environment.chmod(0o755)
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip("--python", environment, "install", "--no-deps", "--no-index", wheel)
    yield environment / "bin"
    shutil.rmtree(environment)


@pytest.fixture(scope="module")
def package(programs):
    """Folder of the installed package."""
    (folder,) = programs.parent.glob("lib/python*/site-packages/yolov5_swinv2")
    return folder


@pytest.fixture(scope="module")
def run(programs, tmp_path_factory):
    """Function (program, *arguments) -> standard output; it runs in a folder that has our names for its own modules."""
    folder = tmp_path_factory.mktemp("a program of somebody's ü")
    for module in ("utils/__init__", "models/__init__", "models/yolo", "engine/__init__", "val"):
        (folder / module).parent.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text("HOST = True\n")

    def call(program, *arguments):
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            [programs / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        call.log = done.stderr
        return done.stdout

    call.folder = folder
    return call


def pip(*words):
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def files_of(folder):
    """Relative paths of all files but the byte code."""
    return {file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"}


def test_the_package_holds_every_source_and_nothing_else(package):
    expected = {Path(str(file).removeprefix("yolov5_swinv2/")) for file in tracked(*SOURCES)}
    assert files_of(package) == expected | {Path(file) for file in (*SCRIPTS, "requirements.txt")}
    beside = {path.name for path in package.parent.iterdir() if path.suffix not in (".dist-info", ".pth")}
    assert beside == {"yolov5_swinv2"}


def test_help_names_the_commands(run):
    for name in ("train", "val", "detect", "export"):
        text = run(f"yolov5-{name}", "--help")
        assert text.startswith(f"usage: yolov5-{name} ")
        assert f"\nyolov5-{name} --" in text.replace("\n    ", "\n")
        assert not re.search(r"python \w+\.py|\.py --|-m engine", text.partition("options:")[0])
    command = "python -m yolov5_swinv2.engine.split"
    assert run(*command.split(), "-h").startswith(f"usage: {command} ")


def test_train_val_detect_export(run, package):
    before = files_of(package)
    run("yolov5-train", *TRAIN)
    assert "Continue with" not in run.log
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"utils", "models", "engine", "val.py", "data", "runs"}
    assert {"best.pt", "last.pt"} == {file.name for file in (run.folder / BEST).parent.iterdir()}
    assert (run.folder / "runs/train/exp/labels.jpg").is_file()
    run("yolov5-val", "--weights", BEST, "--data", "data/demo.yaml", "--img", "64")
    assert (run.folder / "runs/val/exp/confusion_matrix.png").is_file()
    run("yolov5-detect", "--weights", BEST, "--source", "data/demo/images/val", "--img", "64", "--save-txt")
    assert len(list((run.folder / "runs/detect/exp").glob("*.jpg"))) == 50
    run("yolov5-export", "--weights", BEST, "--include", "torchscript", "onnx", "--img", "64")
    assert "yolov5-detect --weights" in run.log
    assert files_of(package) == before


def test_library_in_a_program_with_own_utils_and_models(run):
    found = json.loads(run("python", "-c", LIBRARY).splitlines()[-1])
    assert found["theirs"] == [True] * 4
    assert found["ours"] == []
    assert (found["found"], found["results"]) == ([2] * len(FORMS), 7)
    assert found["module"] == "yolov5_swinv2.models.yolo"
    assert found["version"] == VERSION


def test_modules_and_processes_of_torchrun(run):
    run("python", "-m", "yolov5_swinv2.engine.doctor", "demo.yaml")
    words = "-m torch.distributed.run --nproc-per-node 2 -m yolov5_swinv2.train --name two --noplots".split()
    run("python", *words, *TRAIN)
    assert (run.folder / "runs/train/two/weights/best.pt").is_file()


def test_as_in_the_container(run, programs):
    (user,), (command,) = values("USER"), values("CMD")
    uid, gid = user.split(":")
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m,mode=1777 shm /dev/shm && exec "$@"', "sh"]
    for needed in ([*small, "true"], [*as_user, "test", "-r", sysconfig.get_path("purelib")]):
        if subprocess.run(needed, capture_output=True, check=False).returncode:
            pytest.skip(f"not possible here: {shlex.join(needed)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(run.folder / "data", folder / "data")
        shutil.copy(run.folder / BEST, folder)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, int(uid), int(gid))
        environment = settings("ENV") | {"PATH": f"{programs}:/usr/bin:/bin", "HOME": name}

        def container(*words):
            done = subprocess.run(
                [*small, *as_user, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return done

        assert container(*json.loads(command)).stdout.startswith("usage: yolov5-train")
        words = "--data data/demo.yaml --img 512 --batch-size 50 --workers 2 --weights best.pt".split()
        assert "0 instead of 2 loader processes" in container("yolov5-val", *words).stderr
        assert (folder / "runs/val/exp/confusion_matrix.png").stat().st_uid == int(uid)


def test_notebook(run, programs, monkeypatch):
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples/tutorial.ipynb", as_version=4)
    committed = [output.output_type for cell in notebook.cells for output in cell.get("outputs", ())]
    assert "display_data" in committed
    assert "error" not in committed
    for name, value in (("TUTORIAL_EPOCHS", "1"), ("TUTORIAL_SIZE", "64")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    client = nbclient.NotebookClient(notebook, timeout=HANG, resources={"metadata": {"path": str(run.folder)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = str(programs / "python")
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 8
    exported, own = ast.literal_eval(outputs[-1]["data"]["text/plain"])
    assert exported == own
