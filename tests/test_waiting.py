"""The suite gives the same result on a busy machine: no test reads a clock, and deadlines are for hangs only."""

import ast
from pathlib import Path

import pytest

from tests.waiting import HANG

FOLDER = Path(__file__).parent
CLOCKS = {"time.time", "time.monotonic", "time.perf_counter", "time.time_ns", "time.monotonic_ns"}
CLOCKS |= {"time.perf_counter_ns", "timeit.default_timer", "datetime.now", "datetime.datetime.now"}
PROGRAMS_OF_TIME = {"waiting.py", "conftest.py", "killed_training.py"}  # deadline, time budget, kills at random moments
ENDS = {"wait", "join", "communicate", "result"}  # methods that take seconds as their argument
PROGRAMS = {"run", "call", "check_call", "check_output"}  # of subprocess, with timeout=


def number(node):
    return node.value if isinstance(node, ast.Constant) and type(node.value) in (int, float) else HANG


def offences(text):
    """Line and source of each call that reads a clock or gives up before `HANG` seconds."""
    found = []
    for node in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)):
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        limits = [k.value for k in node.keywords if k.arg == "timeout" and method in ENDS | PROGRAMS]
        limits += node.args[:1] if method in ENDS and len(node.args) == 1 else []
        if ast.unparse(node.func) in CLOCKS or any(number(limit) < HANG for limit in limits):
            found.append(f"{node.lineno}: {ast.unparse(node)[:80]}")
    return found


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("assert time.monotonic() - start < 30", 1),
        ("start = time.perf_counter()", 1),
        ("process.communicate(timeout=60)", 1),
        ("process.wait(20.5)", 1),
        ("subprocess.run(command, timeout=120)", 1),
        ("process.wait(HANG)\nthread.join()\n', '.join('ab')", 0),
        ("seconds = time.process_time()\ntime.sleep(0.1)", 0),
    ],
)
def test_offences_by_hand(line, count):
    assert len(offences(line)) == count


def test_no_test_depends_on_how_busy_the_machine_is():
    others = ("fuzz", "clients")  # a program, and scripts in the form that third parties write
    files = [f for f in sorted(FOLDER.rglob("*.py")) if f.name not in PROGRAMS_OF_TIME and f.parent.name not in others]
    found = [f"{f.relative_to(FOLDER)}:{line}" for f in files for line in offences(f.read_text(encoding="utf-8"))]
    assert not found, "use tests/waiting.py, or CPU time:\n" + "\n".join(found)
