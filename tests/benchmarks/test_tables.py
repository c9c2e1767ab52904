"""The arithmetic behind the tables of the benchmarks."""

import json

import pytest

from benchmarks.tables import exponent, save_json, take_turns


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
    assert calls == ["a", "b"] * 4
    assert found == {"a": 2, "b": 4}


def test_json_holds_options_machine_and_tables(tmp_path):
    save_json("", {}, {})  # nothing is asked for
    save_json(tmp_path / "x.json", {"repeats": 5}, {"rows": [{"ms": 1.5}]})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["options"] == {"repeats": 5}
    assert content["rows"] == [{"ms": 1.5}]
    assert content["machine"]["cpus"] > 0
