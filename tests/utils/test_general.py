"""Logging, colours, YAML, paths and small numbers."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils import general
from utils.general import (
    LOGGER,
    ROOT,
    atomic_path,
    check_file,
    check_img_size,
    cli_errors,
    colorstr,
    get_latest_run,
    git_describe,
    increment_path,
    log_options,
    make_divisible,
    yaml_load,
    yaml_save,
)


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
    monkeypatch.setattr(general, "ROOT", root)
    return root


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# Console


def test_root_is_the_repository():
    assert (ROOT / "utils" / "general.py").is_file()


def test_version_is_that_of_the_project_file():
    assert f'version = "{general.VERSION}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


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

WORDS = {
    "no": "no",
    "on": "on",
    "true": True,
    "False": False,
    "~": None,
    "010": 10,
    "0x1f": 31,
    "0o17": 15,
    "-3": -3,
    "1e-3": 0.001,
    "-.5": -0.5,
    "1_000": "1_000",
    "12:30": "12:30",
    "2026-01-31": "2026-01-31",
    "'1'": "1",
}


@pytest.mark.parametrize(("text", "value"), WORDS.items())
def test_yaml_words_follow_version_1_2(tmp_path, text, value):
    loaded = yaml_load(write(tmp_path / "a.yaml", f"key: {text}\n"))["key"]
    assert loaded == value
    assert type(loaded) is type(value)


def test_yaml_infinity_nan_and_merge(tmp_path):
    d = yaml_load(write(tmp_path / "a.yaml", "a: &a {x: .inf, y: .nan}\nb: {<<: *a, x: 1}\n"))
    assert d["a"]["x"] == np.inf
    assert np.isnan(d["b"]["y"])
    assert d["b"]["x"] == 1


def test_yaml_empty_file_is_an_empty_dict(tmp_path):
    assert yaml_load(write(tmp_path / "a.yaml", "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"a\.yaml:3: "),
        ("a: 1\nb: 2\na: 3\n", r"a\.yaml:3: key 'a' appears twice \(first in line 1\)"),
        ("m:\n  x: 1\n  x: 1\n", r"a\.yaml:3: key 'x' appears twice \(first in line 2\)"),
        ("- 1\n- 2\n", r"a\.yaml:1: expected `key: value` lines, found a list"),
        ("\na: !!python/object/apply:os.getcwd []\n", r"a\.yaml:2: .*python/object"),
        ("a: \x07\n", r"a\.yaml:1: not YAML"),
    ],
)
def test_yaml_errors_name_file_and_line(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        yaml_load(write(tmp_path / "a.yaml", text))


def test_yaml_in_another_encoding_is_an_error(tmp_path):
    (tmp_path / "a.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml: not a text in UTF-8"):
        yaml_load(tmp_path / "a.yaml")


def test_yaml_missing_file_says_where(tmp_path):
    with pytest.raises(FileNotFoundError, match="looked in"):
        yaml_load(tmp_path / "none.yaml")


DATA = {
    "numbers": [1, -2, 0.1, 1e-5, 1e300, float("inf")],
    "texts": [*WORDS, "", "é", "a: b", "#x", "-", "\n", "=", "<<", "null", " x "],
    "rows": [[-1, 1, "Conv", [64, 6, 2, 2]], [[-1, 6], 1, "Concat", [1]]],
    "names": {0: "no", 1: "yes"},
    "none": None,
    "flag": True,
    "z": 1,
    "a": {},
}


def test_yaml_save_is_the_inverse_of_load(tmp_path):
    yaml_save(tmp_path / "a.yaml", DATA)
    loaded = yaml_load(tmp_path / "a.yaml")
    assert loaded == DATA
    assert list(loaded) == list(DATA)


def test_yaml_we_write_reads_the_same_elsewhere(tmp_path):
    yaml_save(tmp_path / "a.yaml", DATA)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text(encoding="utf-8")) == DATA


def test_yaml_save_makes_values_plain_and_leaves_its_input(tmp_path):
    shared = [1, 2]
    data = {"path": Path("a/b"), "pair": (1, np.float32(0.5)), "x": shared, "y": shared, np.int64(3): np.True_}
    yaml_save(tmp_path / "a.yaml", data)
    assert yaml_load(tmp_path / "a.yaml") == {"path": "a/b", "pair": [1, 0.5], "x": [1, 2], "y": [1, 2], 3: True}
    assert "&" not in (tmp_path / "a.yaml").read_text(encoding="utf-8")
    assert data["path"] == Path("a/b")
    assert data["pair"] == (1, 0.5)


def test_yaml_save_names_what_it_cannot_write_and_keeps_the_old_file(tmp_path):
    yaml_save(tmp_path / "a.yaml", {"a": 1})
    with pytest.raises(TypeError, match=r"cannot write a\.b\[1\] to YAML: set"):
        yaml_save(tmp_path / "a.yaml", {"a": {"b": [1, {2}]}})
    assert yaml_load(tmp_path / "a.yaml") == {"a": 1}


# Paths


def test_atomic_path_replaces_at_the_end_only(tmp_path):
    target = write(tmp_path / "a.txt", "old")
    with atomic_path(target) as tmp:
        assert tmp.parent == target.parent
        assert tmp.suffix == ".txt"
        tmp.write_text("new", encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "old"
    assert target.read_text(encoding="utf-8") == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_on_error(tmp_path, error):
    target = write(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic_path(target) as tmp:  # noqa: PT012  the block fails after it has written
        tmp.write_text("half", encoding="utf-8")
        raise error
    assert target.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_keeps_links_and_permissions(tmp_path):
    target = write(tmp_path / "a.txt", "old")
    target.chmod(0o640)
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    with atomic_path(link) as tmp:
        tmp.write_text("new", encoding="utf-8")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_atomic_path_needs_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*none does not exist"), atomic_path(tmp_path / "none/a"):
        pass


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


def test_a_run_that_starts_at_the_same_moment_gets_its_own_folder(tmp_path, monkeypatch):
    """Another run makes the folder between our look and our mkdir."""
    (tmp_path / "exp").mkdir()
    real_exists, looks = Path.exists, []

    def blind_once(path):
        looks.append(path)
        return real_exists(path) if len(looks) > 1 else False

    monkeypatch.setattr(Path, "exists", blind_once)
    assert increment_path(tmp_path / "exp", mkdir=True) == tmp_path / "exp2"


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
        ("https://example.org/a.yaml", "addresses are not fetched"),
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


def test_git_describe_names_the_commit_and_never_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(general, "ROOT", tmp_path)
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


# Numbers


@pytest.mark.parametrize(("x", "divisor", "expected"), [(1, 8, 8), (8, 8, 8), (8.1, 8, 16), (0, 8, 0), (25.6, 8, 32)])
def test_make_divisible_rounds_up(x, divisor, expected):
    assert make_divisible(x, divisor) == expected


def test_image_size_is_rounded_up_with_a_warning(caplog):
    assert check_img_size(640, 32) == 640
    assert caplog.messages == []
    assert check_img_size(641, 32) == 672
    assert check_img_size(33, 32, floor=64) == 64
    assert check_img_size(100, 64, floor=100) == 128
    assert len(caplog.messages) == 3
    assert "641" in caplog.messages[0]
    assert "672" in caplog.messages[0]


@pytest.mark.parametrize("size", [0, -32])
def test_image_size_must_be_positive(size):
    with pytest.raises(ValueError, match=f"image size {size}"):
        check_img_size(size)
