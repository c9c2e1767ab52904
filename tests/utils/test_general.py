"""Logging, colours and paths."""

import ast
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from utils import import_advice, paths
from utils.console import LOGGER, cli_errors, colorstr, log_options
from utils.paths import ROOT, check_file, command, get_latest_run, git_describe, increment_path, run_folder


@pytest.fixture
def terminal(monkeypatch):
    """Standard error that says it is a terminal, without NO_COLOR."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository in place of ROOT, entered from a folder outside of it."""
    root = tmp_path / "repository"
    for folder in ("data/hyps", "models", "utils"):
        (root / folder).mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(paths, "ROOT", root)
    return root


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# Console


def test_root_is_the_repository():
    assert (ROOT / "utils" / "general.py").is_file()


def test_version_is_that_of_the_project_file():
    assert 'version = { attr = "utils.paths.VERSION" }' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_colours_only_on_a_terminal(terminal, monkeypatch):
    assert colorstr("red", "bold", "x") == "\033[31m\033[1mx\033[0m"
    assert colorstr("bright_green", "x") == "\033[92mx\033[0m"
    assert colorstr("x") == colorstr("blue", "bold", "x") != "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colorstr("red", "bold", "x") == "x"


def test_no_colours_in_a_file():
    assert colorstr("red", "bold", "x") == "x"


def test_messages_go_to_standard_error_with_their_level(capsys):
    LOGGER.info("one")
    LOGGER.warning("two")
    LOGGER.error("three")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "one\nWARNING: two\nERROR: three\n"


def test_each_message_appears_once_when_the_application_logs_itself(capsys):
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        LOGGER.info("hello")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err.count("hello") == 1


def test_options_are_one_line(caplog):
    with caplog.at_level(logging.INFO, logger=LOGGER.name):
        log_options("somewhere/train.py", {"weights": "", "imgsz": 640, "freeze": [0]})
    assert caplog.messages == ["train: weights=, imgsz=640, freeze=[0]"]


def test_user_error_becomes_one_line_and_status_1(capsys, monkeypatch):
    monkeypatch.delenv("YOLOv5_VERBOSE", raising=False)
    with pytest.raises(SystemExit) as stop, cli_errors():
        check_file("")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "ERROR: no file given: expected a path\n"


def test_file_error_of_the_system_names_file_and_reason(capsys, tmp_path):
    with pytest.raises(SystemExit), cli_errors():
        (tmp_path / "none").read_text(encoding="utf-8")
    assert f"{tmp_path / 'none'}: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("bug", [lambda: np.zeros(3).reshape(2, 2), lambda: Path("a").relative_to("b")])
def test_error_of_a_library_says_how_to_see_more(capsys, monkeypatch, bug):
    monkeypatch.delenv("YOLOv5_VERBOSE", raising=False)
    with pytest.raises(SystemExit), cli_errors():
        bug()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "YOLOv5_VERBOSE=true" in err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_one_line_that_says_what_to_do(capsys, error):
    with pytest.raises(SystemExit) as stop, cli_errors():
        raise error
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("ERROR: out of memory")
    assert "--batch-size" in err
    with pytest.raises(RuntimeError, match="a bug"), cli_errors():
        raise RuntimeError("a bug")


def test_verbose_adds_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("YOLOv5_VERBOSE", "true")
    with pytest.raises(SystemExit), cli_errors():
        raise ValueError("bad size")
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(capsys):
    with pytest.raises(SystemExit) as stop, cli_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert "Ctrl-C" in capsys.readouterr().err


def test_bugs_pass():
    with pytest.raises(KeyError, match="x"), cli_errors():
        raise KeyError("x")


# YAML


def test_increment_path_takes_the_first_free_number(tmp_path):
    run = tmp_path / "exp.v1"
    made = [increment_path(run, mkdir=True).name for _ in range(3)]
    assert made == ["exp.v1", "exp.v12", "exp.v13"]
    (tmp_path / "exp.v12").rmdir()
    assert increment_path(run).name == "exp.v12"
    assert not (tmp_path / "exp.v12").exists()
    assert increment_path(run, sep="-").name == "exp.v1-2"
    assert increment_path(run, exist_ok=True, mkdir=True) == run


def test_increment_path_puts_the_number_before_the_suffix_of_a_file(tmp_path):
    assert increment_path(write(tmp_path / "a.txt", "")).name == "a2.txt"


def test_increment_path_makes_parents(tmp_path):
    assert increment_path(tmp_path / "a/b/c", mkdir=True).is_dir()
    assert increment_path(tmp_path / "d/e", exist_ok=True, mkdir=True).is_dir()


def test_runs_that_start_at_the_same_moment_get_their_own_folders(tmp_path):
    start = threading.Barrier(8)

    def take(_):
        start.wait()
        return [increment_path(tmp_path / "new/exp", mkdir=True).name for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        names = sum(pool.map(take, range(8)), [])
    assert sorted(names) == sorted(["exp", *(f"exp{n}" for n in range(2, 41))])


@pytest.mark.parametrize("mkdir", [False, True])
def test_increment_path_passes_over_a_link_without_target(tmp_path, mkdir):
    (tmp_path / "exp").symlink_to(tmp_path / "nowhere")
    assert increment_path(tmp_path / "exp", mkdir=mkdir) == tmp_path / "exp2"


def test_a_project_that_is_no_folder_is_an_error_and_not_an_endless_search(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    for project in (tmp_path / "out", write(tmp_path / "file", "")):
        with pytest.raises(OSError, match=project.name):
            increment_path(project / "exp", mkdir=True)


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Run as the Python of an environment whose programs are not on the path; returns its folder of programs."""
    programs = tmp_path / "env/bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip"):
        (programs / name).touch(mode=0o755)
    for name, value in (("executable", str(programs / "python")), ("prefix", str(tmp_path / "env"))):
        monkeypatch.setattr(paths.sys, name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    return programs


def test_printed_commands_name_the_python_that_runs(python, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("python", "val.py", "--data", "my set.yaml") == f"{python}/python val.py --data 'my set.yaml'"
    assert command("pip", "install", "mss") == f"{python}/pip install mss"
    assert command("torchrun", "train.py") == f"{python}/python -m torch.distributed.run train.py"  # none beside it
    monkeypatch.setenv("PATH", str(python))
    assert command("python", "val.py") == "python val.py"
    assert command("pip", "install", "mss") == "pip install mss"
    assert command("python", "-m", "engine.convert", "a.pt") == "python -m engine.convert a.pt"


def test_printed_commands_work_from_other_folders(python, monkeypatch):
    monkeypatch.chdir(python.parent)
    assert command("python", "val.py", "--img", "64") == f"bin/python {ROOT}/val.py --img 64"
    assert command("python", "-m", "engine.convert", "/a.pt") == f"cd {ROOT} && {python}/python -m engine.convert /a.pt"
    assert command("python", "-m", "venv", "x") == "bin/python -m venv x"


def test_a_missing_package_is_told_with_the_command_that_installs_it(python, repository, monkeypatch):
    lost = ModuleNotFoundError("No module named 'torch'", name="torch.nn")
    monkeypatch.setattr("utils.ROOT", repository)
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "my set.yaml"])
    assert import_advice(lost).endswith(f" has no torch: {python}/pip install -r {repository}/requirements.txt")
    (repository / ".venv/bin").mkdir(parents=True)
    (repository / ".venv/bin/python").touch()
    assert import_advice(lost).endswith(f"{repository}/.venv/bin/python train.py --data 'my set.yaml'")
    broken = ImportError("libGL.so.1: cannot open shared object file")
    assert import_advice(broken).endswith(f"{python}/pip install opencv-python-headless")
    for error in (ImportError("cannot import name 'x'"), ModuleNotFoundError("no utils.x", name="utils.x")):
        assert import_advice(error) == ""  # a fault of ours: its traceback is needed


def test_the_python_of_the_system_gets_an_environment(python, repository, monkeypatch, tmp_path):
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr("utils.ROOT", repository)
    monkeypatch.setattr("utils.sysconfig", SimpleNamespace(get_path=lambda name: str(tmp_path)))
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    pip = f"{repository}/.venv/bin/pip install -r {repository}/requirements.txt"
    advice = import_advice(ModuleNotFoundError("No module named 'tqdm'", name="tqdm"))
    assert advice.endswith(f"{python}/python -m venv {repository}/.venv && {pip}")


def test_a_failed_start_takes_its_settings_away(tmp_path):
    """But nothing that holds a result, and nothing of a folder that was there before."""

    def start(*files, settings=("opt.yaml", "events.*"), **choice):
        with run_folder(tmp_path / "exp", settings=settings, **choice) as folder:
            (folder / "weights").mkdir(exist_ok=True)
            for file in files:
                (folder / file).touch()
            raise ValueError("bad")

    def fail(*files, **choice):
        with pytest.raises(ValueError, match="bad"):
            start(*files, **choice)
        return sorted(file.name for file in (tmp_path / "exp").rglob("*")) if (tmp_path / "exp").exists() else None

    assert fail() is None
    assert fail("opt.yaml", "events.1") is None
    assert fail("opt.yaml", settings=()) == ["opt.yaml", "weights"]
    assert fail("events.1", exist_ok=True) == ["events.1", "opt.yaml", "weights"]
    (tmp_path / "exp").rename(tmp_path / "old")
    assert fail("opt.yaml", "weights/last.pt") == ["last.pt", "opt.yaml", "weights"]
    with run_folder(tmp_path / "good", settings=("opt.yaml",)) as folder:
        (folder / "opt.yaml").touch()
    assert (folder / "opt.yaml").exists()


def test_a_run_folder_is_there_from_the_start_and_goes_if_it_stays_empty(tmp_path):
    with run_folder(tmp_path / "exp") as first, run_folder(tmp_path / "exp") as second:
        assert (first, second) == (tmp_path / "exp", tmp_path / "exp2")
        assert first.is_dir()
        write(second / "result", "")
    assert [f.name for f in tmp_path.iterdir()] == ["exp2"]
    with pytest.raises(ValueError, match="bad weights"), run_folder(tmp_path / "exp"):
        raise ValueError("bad weights")
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new/project/exp"):
        with run_folder(tmp_path / name, exist_ok=True) as shared:
            assert shared.is_dir()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["exp2", "mine"]  # what was there stays


def test_every_script_takes_the_folder_of_its_run_when_it_chooses_the_name():
    calls = []
    for file in (
        *ROOT.glob("*.py"),
        *(f for part in ("utils", "models", "engine") for f in ROOT.glob(f"{part}/**/*.py")),
    ):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "increment_path":
                given = {word.arg for word in node.keywords}
                calls.append(file.name)
                numbers_files = "sep" in given or ".with_suffix(" in ast.unparse(node)
                assert numbers_files or "mkdir" in given, f"{file}:{node.lineno}"
    assert {"val.py", "detections.py", "paths.py"} <= set(calls)


def test_check_file_takes_an_existing_path_first(repository):
    write(repository / "data" / "a.yaml", "")
    assert check_file("a.yaml", (".yaml",)) == repository / "data" / "a.yaml"
    write(Path("a.yaml"), "")
    assert check_file("a.yaml", (".yaml",)) == Path("a.yaml")


@pytest.mark.parametrize("name", ["a.yaml", "hyps/a.yaml", "data/hyps/a.yaml"])
def test_check_file_finds_names_in_the_repository(repository, name):
    write(repository / "data/hyps/a.yaml", "")
    assert check_file(name, (".yaml", ".yml")) == repository / "data/hyps/a.yaml"


def test_check_file_lists_where_it_looked_and_what_was_meant(repository):
    write(repository / "data/hyps/hyp.scratch-low.yaml", "")
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'hyp.scratch-low.yaml'") as error:
        check_file("hyp.scratch-lo.yaml", (".yaml",))
    for folder in (Path.cwd(), repository / "data", repository / "models", repository / "utils"):
        assert str(folder) in str(error.value)


def test_check_file_does_not_choose_between_two(repository):
    write(repository / "data" / "a.yaml", "")
    write(repository / "models" / "a.yaml", "")
    with pytest.raises(ValueError, match=r"several files of that name.*data/a.yaml, .*models/a.yaml"):
        check_file("a.yaml")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("", "no file given: expected a path ending in .yaml"),
        ("https://example.org/a.yaml", "URLs are not fetched"),
        ("a.txt", "a.txt: expected a file ending in .yaml"),
        (".", "this is a folder"),
    ],
)
def test_check_file_refuses(repository, name, match):
    with pytest.raises(ValueError, match=match):
        check_file(name, (".yaml",))


def test_check_file_takes_brackets_literally(repository):
    write(repository / "data" / "a1.yaml", "")
    with pytest.raises(FileNotFoundError):
        check_file("a[0-9].yaml")


def test_latest_run_is_the_one_written_last(tmp_path):
    assert get_latest_run(tmp_path) is None
    files = [tmp_path / run / "weights" / "last.pt" for run in ("exp", "exp2", "exp3")]
    for seconds, file in zip((10, 30, 20), files, strict=True):
        file.parent.mkdir(parents=True)
        write(file, "")
        os.utime(file, (seconds, seconds))
    other = write(tmp_path / "last.pt", "")  # newer, but not in a folder `weights`
    os.utime(other, (99, 99))
    assert get_latest_run(tmp_path) == files[1]


def test_latest_run_with_links(tmp_path):
    """Of the folder `runs` it may be one; in circles, without target and to pipes they are no matter."""
    elsewhere = tmp_path / "disk/train/exp/weights"
    elsewhere.mkdir(parents=True)
    write(elsewhere / "last.pt", "")
    work = tmp_path / "work"
    work.mkdir()
    (work / "runs").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/train/circle").symlink_to(tmp_path / "disk")
    (elsewhere / "last1.pt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(elsewhere / "last2.pt")
    assert get_latest_run(work) == work / "runs/train/exp/weights/last.pt"


def test_git_describe_names_the_commit_and_never_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert git_describe() is None  # no repository
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("no git")
    assert git_describe() is None  # no commit
    write(tmp_path / "a", "")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert head.startswith(git_describe())
    write(tmp_path / "a", "changed")
    assert git_describe().endswith("-dirty")
    monkeypatch.setenv("PATH", "")
    assert git_describe() is None  # no git


def test_passwords_in_addresses_are_not_logged(caplog):
    log_options("detect", {"source": "rtsp://me:secret@10.0.0.7/cam", "img": 640})
    assert "source=rtsp://***@10.0.0.7/cam, img=640" in caplog.text
    assert "secret" not in caplog.text
    log_options("detect", {"source": "rtsp://me:sec@ret@10.0.0.7/cam", "img": 640})
    assert caplog.messages[-1] == "detect: source=rtsp://***@10.0.0.7/cam, img=640"
