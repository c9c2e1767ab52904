"""YAML in and out, and files that are replaced in one step."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils.files import atomic_path, naming, open_new, open_regular, write_whole, yaml_load, yaml_save


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


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
    with pytest.raises(ValueError, match=r"a\.yaml: not UTF-8 text"):
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


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029 x", "'\x85\n"])
def test_yaml_keeps_line_ends_of_unicode(tmp_path, text):
    """Found by tests/properties: in single quotes they were read back as spaces."""
    yaml_save(tmp_path / "a.yaml", {text: [text]})
    assert yaml_load(tmp_path / "a.yaml") == {text: [text]}


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


def test_names_are_read_as_they_are_written(tmp_path):
    file = tmp_path / "names.yaml"
    file.write_text("n: &n 7\nnames: [02146, 1.10, 1e5, 0x1F, *n, no]\nother: {names: [010]}\n")
    assert yaml_load(file) == {
        "n": 7, "names": ["02146", "1.10", "1e5", "0x1F", "7", "no"], "other": {"names": [10]},
    }  # fmt: skip
    file.write_text("names: {0: 007, 1: .5, 2: a}\n")
    assert yaml_load(file) == {"names": {0: "007", 1: ".5", 2: "a"}}


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


def test_atomic_path_keeps_permissions(tmp_path):
    target = write(tmp_path / "a.txt", "old")
    target.chmod(0o640)
    with atomic_path(target) as tmp:
        tmp.write_text("new", encoding="utf-8")
    assert target.stat().st_mode & 0o777 == 0o640


def test_atomic_path_has_the_file_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    target, events = write(tmp_path / "a.txt", "old"), []
    sync, replace = os.fsync, os.replace

    def watched_sync(descriptor):
        found = os.fstat(descriptor)
        same_folder = found.st_ino == tmp_path.stat().st_ino
        events.append("sync folder" if same_folder else f"sync {found.st_size} bytes")
        sync(descriptor)

    def watched_replace(source, goal):
        events.append(f"replace {Path(goal).name}")
        replace(source, goal)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    with atomic_path(target) as tmp:
        tmp.write_text("whole", encoding="utf-8")
    assert events == ["sync 5 bytes", "replace a.txt", "sync folder"]


def test_a_file_that_cannot_be_synced_does_not_replace_the_old_one(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    target = write(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"), atomic_path(target) as tmp:
        tmp.write_text("new", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def by_atomic_path(path):
    with atomic_path(path) as tmp:
        tmp.write_text("new", encoding="utf-8")


def by_open_new(path):
    with open_new(path) as file:
        file.write("new")


WRITERS = pytest.mark.parametrize("writer", [by_atomic_path, by_open_new])


@WRITERS
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_another_file_that_a_name_leads_to_stays(tmp_path, writer, make):
    victim = write(tmp_path / "victim.txt", "of the user")
    make(victim, tmp_path / "a.txt")
    writer(tmp_path / "a.txt")
    assert victim.read_text(encoding="utf-8") == "of the user"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert not (tmp_path / "a.txt").is_symlink()


@WRITERS
def test_a_link_without_target_is_replaced(tmp_path, writer):
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    writer(tmp_path / "a.txt")
    assert os.listdir(tmp_path) == ["a.txt"]


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # a path of a socket has at most 107 letters


SPECIAL = {"pipe": os.mkfifo, "folder": os.mkdir, "socket": listening}


@pytest.mark.parametrize("kind", SPECIAL)
@WRITERS
def test_what_is_no_file_is_not_replaced(tmp_path, writer, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SPECIAL[kind](tmp_path / "a.txt")
    before = (tmp_path / "a.txt").lstat()
    what = "a folder" if kind == "folder" else "a pipe or device"
    with pytest.raises(OSError, match=f"{what}, not a file.*a.txt"):
        writer(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").lstat().st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", [*SPECIAL, "link to pipe", "link to device", "circle", "link to nothing"])
def test_only_regular_files_are_opened_for_reading(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.txt"
    if kind in SPECIAL:
        SPECIAL[kind](file)
    else:
        os.mkfifo(tmp_path / "pipe")
        targets = {"link to pipe": "pipe", "link to device": "/dev/zero", "circle": "a.txt", "link to nothing": "none"}
        file.symlink_to(targets[kind])
    with pytest.raises(OSError, match=r"not a file|does not exist|symbolic links") as error:
        open_regular(file)
    assert not isinstance(error.value, FileNotFoundError)
    with pytest.raises(OSError, match=r"not a file|does not exist|symbolic links"):
        yaml_load(file)


def test_a_link_is_opened_for_the_user_and_not_in_a_name_of_ours(tmp_path):
    (tmp_path / "a.txt").symlink_to(write(tmp_path / "b.txt", "text"))
    with open_regular(tmp_path / "a.txt") as file:
        assert file.read() == b"text"
    with pytest.raises(OSError, match="a link, not a file"):
        open_regular(tmp_path / "a.txt", follow=False)
    with open_regular(tmp_path / "b.txt", follow=False, buffering=0) as file:
        assert file.read() == b"text"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_pipe_that_takes_the_place_of_a_file_just_looked_at_is_noticed(tmp_path, monkeypatch):
    file, look = write(tmp_path / "a.txt", "text"), os.stat

    def look_then_swap(path, **options):
        found = look(path, **options)
        file.unlink()
        os.mkfifo(file)
        return found

    monkeypatch.setattr(os, "stat", look_then_swap)
    with pytest.raises(OSError, match="a pipe or device, not a file"):
        open_regular(file)


def test_atomic_path_removes_what_a_killed_process_left_of_the_same_target(tmp_path):
    left = [".last.0123456789ab.tmp.pt", ".last.ba9876543210.tmp.pt"]
    kept = [".last.ffffffffffff.tmp.pt", ".best.0123456789ab.tmp.pt", ".last.0123456789ab.tmp.yaml", "last.tmp.pt"]
    kept += [".last.x.0123456789ab.tmp.pt", ".last.0123456789.tmp.pt"]
    for name in (*left, *kept):
        os.utime(write(tmp_path / name, "half"), (1e9, 1e9))
    os.utime(tmp_path / kept[0])  # written to by a living process
    kept += [".last.00000000000a.tmp.pt", ".last.00000000000b.tmp.pt"]  # no files, so not of ours
    (tmp_path / kept[-2]).symlink_to(tmp_path / kept[1])
    (tmp_path / kept[-1]).mkdir()
    os.utime(tmp_path / kept[-1], (1e9, 1e9))
    with atomic_path(tmp_path / "last.pt") as tmp:
        tmp.write_text("new", encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "last.pt"])


def test_atomic_path_of_a_name_with_signs_of_a_pattern(tmp_path):
    for stem in ("a[1]", "a1"):
        os.utime(write(tmp_path / f".{stem}.0123456789ab.tmp.pt", "half"), (1e9, 1e9))
    with atomic_path(tmp_path / "a[1].pt") as tmp:
        tmp.write_text("new", encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == [".a1.0123456789ab.tmp.pt", "a[1].pt"]


def test_atomic_path_needs_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*none does not exist"), atomic_path(tmp_path / "none/a"):
        pass


@pytest.mark.parametrize("write", [lambda path: write_whole(path, bytes(9000)), lambda path: _replace(path, 9000)])
def test_a_full_disk_is_an_error_that_names_the_file(write, tmp_path, full_disk):
    with full_disk(4096), pytest.raises(OSError, match="too large") as caught:
        write(tmp_path / "a.bin")
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == bytes(9000)


def _replace(path, size):
    with atomic_path(path) as tmp:
        tmp.write_bytes(bytes(size))


def test_errors_of_other_files_keep_their_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
    assert caught.value.filename == str(tmp_path / "b")
    with pytest.raises(OSError, match="a: 5 requested and 3 written"), naming("a"):
        raise OSError("5 requested and 3 written")
