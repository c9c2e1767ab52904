"""The Dockerfile, read without Docker; tests/installed.py runs its command as its user with 64 MB of shared memory."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("data", "engine", "models", "utils", "yolov5_swinv2")  # folders that the wheel is built from
SCRIPTS = ("train.py", "val.py", "detect.py", "export.py", "hubconf.py")
FILES = ("setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")


def instructions(text):
    """(instruction, rest of its lines as one) of a Dockerfile, in order."""
    lines = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def values(word):
    """What stands after all instructions of a kind."""
    return [rest for first, rest in DOCKERFILE if first == word]


def settings(word):
    """{name: value} of all ARG or ENV."""
    return dict(part.partition("=")[::2] for rest in values(word) for part in shlex.split(rest))


def context(root):
    """Relative paths of the files that `docker build` gets: .dockerignore, whose last match decides."""
    rules = []
    for line in (root / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            rules.append((re.compile(rf"{pattern}(?:/.*)?"), line.startswith("!")))

    def kept(path):
        return [back for rule, back in rules if rule.fullmatch(str(path))][-1]

    found = set()
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if kept(here / name)]
        found |= {here / name for name in files if kept(here / name)}
    return found


def tracked(*names):
    done = subprocess.run(["git", "ls-files", *names], cwd=ROOT, capture_output=True, text=True, check=True)
    return {Path(line) for line in done.stdout.splitlines()}


def test_docker_gets_what_the_wheel_is_built_from_and_nothing_else(tmp_path):
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    wanted = tracked(*SOURCES, *FILES, *SCRIPTS)
    unwanted = (".git/config", ".venv/a.py", "runs/a.yaml", "data/demo/a.jpg", "models/a.pt", "utils/__pycache__/a.pyc")
    unwanted += (
        "docs/a.md",
        "tests/a.py",
        "build/lib/models/a.py",
        "best.onnx",
        "datasets/a.yaml",
        "requirements-dev.txt",
    )
    for file in (*wanted, *unwanted):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert context(tmp_path) == wanted


def test_every_copied_path_is_there():
    for rest in values("COPY"):
        *sources, _ = rest.split()
        assert all((ROOT / source).exists() for source in sources)


def test_commands_are_shell_and_use_what_is_declared():
    declared = {"PATH"}
    for word, rest in DOCKERFILE:
        assert set(re.findall(r"\$\{?(\w+)", rest)) <= declared, rest
        if word in ("ARG", "ENV"):
            declared |= {part.partition("=")[0] for part in shlex.split(rest)}
        if word == "RUN":
            subprocess.run(["sh", "-nc", rest], check=True)
    assert DOCKERFILE[0][0] == "ARG"
    assert DOCKERFILE[1] == ("FROM", "${BASE}")


def test_packages_are_those_of_the_requirements():
    args = settings("ARG")
    runs = re.sub(r"\$\{(\w+)\}", lambda match: args[match[1]], " && ".join(values("RUN")))
    found = [line.split(maxsplit=2)[2] for line in runs.split("&&") if line.split()[:2] == ["pip", "install"]]
    words = [word for line in found for word in shlex.split(line)]
    names = [word for word in words if not word.startswith(("-", "/", "https://"))]
    lines = [line for name in ("", "-dev") for line in (ROOT / f"requirements{name}.txt").read_text().splitlines()]
    known = {Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()}
    assert len(names) == 6
    assert {Requirement(name.replace("-headless", "")) for name in names} <= known


def test_user_and_command():
    (user,), (folder,), (command,) = map(values, ("USER", "WORKDIR", "CMD"))
    assert all(int(number) > 0 for number in user.split(":"))
    assert f" {folder} " in values("RUN")[-1]
    assert f" {settings('ENV')['HOME']} " in values("RUN")[-1]
    program, *_ = json.loads(command)
    assert f"\n{program} = " in (ROOT / "pyproject.toml").read_text()


def test_debian_has_the_packages():
    if not shutil.which("apt-cache") or not list(Path("/var/lib/apt/lists").glob("*_Packages*")):
        pytest.skip("no lists of Debian packages: apt-get update")
    names = values("RUN")[0].split("--no-install-recommends")[1].split("&&")[0].split()
    found = subprocess.run(["apt-cache", "policy", *names], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^(\S+):\n.*\n +Candidate: \d", found, re.MULTILINE) == names
