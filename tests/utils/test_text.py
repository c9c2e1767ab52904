"""Untrusted text made harmless for each sink, and spelled as before wherever that does no harm."""

import logging
import os
import sys

import pytest

from utils.console import ANSI, ANSI_END, LOGGER, cli_errors, colorstr
from utils.text import MAX_FILE_NAME, csv_cell, csv_text, file_name, file_names, name_list, one_line, printable

HARMLESS = ["cat", "白细胞", "人　犬", "naïve café", "👩‍🚀", "می‌خواهم", "$1_$5", "_x", "a/b", "%s {0} [a-z]*", ""]
CONTROLS = ["\x1b[2J", "\x9b2J", "\0", "\r", "\n", "\t", "\x7f", "\u2028", "\u202e", "\u2066", "\ufeff", "\udc80"]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_shown_as_it_is_spelled(text):
    assert printable(text) == text
    assert one_line(text) == text
    assert csv_cell(text) == text


@pytest.mark.parametrize("control", CONTROLS)
def test_no_control_character_is_printed(control):
    text = printable(f"a{control}b")
    assert text == f"a?{control[1:]}b"
    assert "?" in csv_cell(f"a{control}b")
    assert printable(one_line(f"a{control}b")) == one_line(f"a{control}b")


def test_name_list_is_sorted_and_printable():
    assert name_list(["b\n", "a"]) == "a, b?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nERROR: b", "a ERROR: b"),
        ("\n\nepoch  1", "\n\nepoch  1"),
        ("Error:\n\tMissing key\r\n", "Error: Missing key"),
        ("\x1b[1mbold\x1b[0m \x1b[8mhidden", "\x1b[1mbold\x1b[0m ?[8mhidden"),
    ],
)
def test_a_message_is_one_line(text, expected):
    assert one_line(text, kept=("\x1b[1m", "\x1b[0m")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        " =1+1",
        "'=1+1",
        "''@x",
        "＝1+1",
        '=HYPERLINK("http://x")',
        "-x",
    ],
)
def test_a_formula_becomes_text_in_a_spreadsheet(text):
    cell = csv_cell(text)
    assert cell == f"'{text}"
    assert csv_text(cell) == text


@pytest.mark.parametrize(
    "text", ["-1", "+5", "-0.25", "-1,5", "=", "+", "-", "@", "a=b", "'", "'a", "'-1", "0.87", "x-1.jpg"]
)
def test_numbers_and_signs_stay_in_a_spreadsheet(text):
    assert csv_cell(text) == text
    assert csv_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", "cat"),
        ("白细胞", "白细胞"),
        ("$1_$5", "$1_$5"),
        ("a/b\\c", "a_b_c"),
        ("../../x", "_.._x"),
        ("..", "_"),
        ("", "_"),
        (" . a . ", "a"),
        ("a\nb\0c", "a_b_c"),
        ('<>:"|?*', "_______"),
        ("NUL", "_NUL"),
        ("com1.txt", "_com1.txt"),
        ("Con .x", "_Con .x"),
        ("console", "console"),
        ("a" * 300, "a" * MAX_FILE_NAME),
        ("白" * 300, "白" * (MAX_FILE_NAME // 3)),
        ("a" * (MAX_FILE_NAME - 1) + ". b", "a" * (MAX_FILE_NAME - 1)),
        ("\udc80", "_"),
    ],
)
def test_a_file_name_fits_every_system(text, expected, tmp_path):
    name = file_name(text)
    assert name == expected
    assert len(os.fsencode(name)) <= MAX_FILE_NAME
    (tmp_path / name).mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_classes_get_different_files():
    names = {
        0: "Cat",
        1: "cat",
        2: "a/b",
        3: "a_b",
        4: "cat",
        5: "x" * 300,
        6: "x" * 400,
        7: "é",
        8: "e\u0301",
        9: "cat-2",
    }
    found = file_names(names)
    assert list(sorted(found)) == list(names)
    assert (found[0], found[3], found[5], found[7]) == ("Cat", "a_b", "x" * MAX_FILE_NAME, "é")
    assert found[2] == "a_b-2"
    assert len({name.casefold() for name in found.values()}) == len(names)
    assert file_names({0: "cat", 7: "dog"}) == {0: "cat", 7: "dog"}


def test_every_record_of_the_log_is_harmless(caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    LOGGER.info("%s: %d%%", "a\x1b[2J\nERROR: b", 7)
    LOGGER.info("a\x1b[2J\nb", extra={"lines": True})
    with pytest.raises(SystemExit), cli_errors():
        raise ValueError("x\x1b]0;title\x07.yaml: no\nsuch file")
    assert caplog.messages == ["a?[2J ERROR: b: 7%", "a?[2J\nb", "x?]0;title?.yaml: no such file"]


def test_our_own_colours_reach_the_terminal_and_no_others(caplog, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        caplog.set_level(logging.INFO, logger="yolov5")
        LOGGER.info(colorstr("red", "a") + "\x1b[8mb" + ANSI["red"])
    assert caplog.messages == [ANSI["red"] + "a" + ANSI_END + "?[8mb" + ANSI["red"], "a?[8mb?[31m"]
