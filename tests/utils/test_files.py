"""YAML in and out, and files that are replaced in one step."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils.files import atomic_path, naming, write_whole, yaml_load, yaml_save


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


def test_atomic_path_removes_what_a_killed_process_left_of_the_same_target(tmp_path):
    left = [".last.0123456789ab.tmp.pt", ".last.ba9876543210.tmp.pt"]
    kept = [".last.ffffffffffff.tmp.pt", ".best.0123456789ab.tmp.pt", ".last.0123456789ab.tmp.yaml", "last.tmp.pt"]
    kept += [".last.x.0123456789ab.tmp.pt", ".last.0123456789.tmp.pt"]
    for name in (*left, *kept):
        os.utime(write(tmp_path / name, "half"), (1e9, 1e9))
    os.utime(tmp_path / kept[0])  # written to by a living process
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
