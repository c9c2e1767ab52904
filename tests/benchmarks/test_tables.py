"""The arithmetic behind the tables of the benchmarks."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.tables import draw_orders, exponent, peak_resident, save_json, take_turns


def test_exponent_of_a_power_law():
    sizes = [1.0, 10.0, 80.0, 1000.0]
    assert exponent(sizes, [3 * x**1.5 for x in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [7.0] * 4) == pytest.approx(0)


def test_functions_take_turns_and_the_median_counts(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr("benchmarks.tables.time.perf_counter", lambda: clock[0])
    spent = {"a": iter([9, 1, 5, 2]), "b": iter([9, 4, 4, 8])}  # the first is the warm-up

    def work(name):
        calls.append(name)
        clock[0] += next(spent[name])

    found = take_turns({name: lambda name=name: work(name) for name in "ab"}, repeats=3)
    assert [sorted(calls[i : i + 2]) for i in range(0, 8, 2)] == [["a", "b"]] * 4
    assert found == {"a": 2, "b": 4}


def test_turns_go_on_until_the_time_has_passed(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("benchmarks.tables.time.perf_counter", lambda: next(clock))
    calls = []
    take_turns({"a": lambda: calls.append("a")}, repeats=1, warmup=0, seconds=10)
    assert len(calls) == 4  # three readings of the clock each, one at the start


def test_orders_are_permutations_and_each_name_leads():
    orders = list(itertools.islice(draw_orders("abc"), 60))
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    assert min(sum(order[0] == name for order in orders) for name in "abc") > 10
    assert orders == list(itertools.islice(draw_orders("abc"), 60))


@pytest.mark.slow
def test_peak_memory_is_that_of_the_program_alone():
    ballast = torch.ones(100 * 2**20)  # 400 MiB
    code = "from benchmarks.tables import peak_resident; print(peak_resident())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    child, own = float(done.stdout), peak_resident()
    assert own - child > 200
    assert own > ballast.nbytes / 2**20


def test_json_holds_options_machine_and_tables(tmp_path):
    save_json("", {}, {})  # nothing is asked for
    save_json(tmp_path / "x.json", {"repeats": 5}, {"rows": [{"ms": 1.5}]})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["options"] == {"repeats": 5}
    assert content["rows"] == [{"ms": 1.5}]
    assert content["machine"]["cpus"] > 0
