"""The two searches: the same first generations, record and resumption; studies that processes share."""

import csv
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from engine.training import evolve
from engine.training.evolve import GENES, RESULTS, bounds
from engine.training.tuner import Search, read_population, run_genetic, run_optuna
from tests.waiting import HANG
from utils.hyp import Hyp
from utils.paths import ROOT


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """evolve.png has 29 panels, and tests/utils/test_evolve.py looks at it."""
    monkeypatch.setattr(evolve, "plot_genes", lambda *_: None)


def measure(generation, genes):
    """Best at a learning rate of 0.03."""
    return (0.5, 0.5, *(max(0.0, 1 - abs(np.log10(genes["lr0"] / 0.03)) / 4),) * 2, 1.0, 1.0, 1.0)


def table(folder):
    with (folder / "evolve.csv").open() as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    return [{key.strip(): float(value) for key, value in row.items()} for row in rows]


def test_population_is_tried_after_the_base(tmp_path):
    population = [Hyp(lr0=0.02), Hyp(lr0=5e-6)]
    record = run_genetic(Search(tmp_path, Hyp(lr0=0.004), 4, population=population), measure)
    assert [row["lr0"] for row in record.rows[:3]] == [0.004, 0.02, 1e-5]  # the last one brought within its bounds
    assert record.rows[3] not in record.rows[:3]
    assert record.rows[0]["anchors"] == 3.0
    assert "anchors" not in Search(tmp_path, Hyp(), 1, anchors=False).first()[0]
    again = run_genetic(Search(tmp_path, Hyp(lr0=0.004), 6, population=population), measure)
    assert [row["lr0"] for row in again.rows[:4]] == pytest.approx([row["lr0"] for row in record.rows], rel=1e-4)
    assert len(table(tmp_path)) == 6


def test_population_is_read_from_a_folder(tmp_path):
    assert read_population("") == []
    (tmp_path / "b.yaml").write_text("lr0: 0.02")
    (tmp_path / "a.yaml").write_text("lr0: 0.03")
    assert [hyp.lr0 for hyp in read_population(tmp_path)] == [0.03, 0.02]
    with pytest.raises(FileNotFoundError, match="--evolve_population nowhere: no .yaml files found"):
        read_population("nowhere")


def test_study_goes_on_where_it_ended(tmp_path):
    pytest.importorskip("optuna")
    seen = []

    def spy(generation, genes):
        seen.append(generation)
        return measure(generation, genes)

    first = run_optuna(Search(tmp_path, Hyp(lr0=0.004), 3, population=[Hyp(lr0=0.02)]), spy, "", "exp")
    assert [row["lr0"] for row in first.rows[:2]] == [0.004, 0.02]
    assert first.rows[0]["fliplr"] == first.rows[2]["fliplr"] == 0.5  # its gain is 0
    for name in GENES:
        low, high = bounds(name, decoupled=False)
        assert all(low <= row[name] <= high for row in first.rows)
    again = run_optuna(Search(tmp_path, Hyp(lr0=0.004), 12), spy, "", "exp")
    assert seen == list(range(12))
    assert again.rows[:3] == first.rows
    assert [row["lr0"] for row in table(tmp_path)] == pytest.approx([row["lr0"] for row in again.rows], rel=1e-4)
    assert {file.name for file in tmp_path.iterdir()} == {"study.db", "evolve.csv", "hyp_evolve.yaml"}
    best = max(again.rows, key=lambda row: row[RESULTS[3]])
    assert f"lr0: {best['lr0']}" in (tmp_path / "hyp_evolve.yaml").read_text()


WORKER = """
    import sys, time
    from pathlib import Path
    from engine.training import evolve, tuner
    from utils.hyp import Hyp

    evolve.plot_genes = lambda *_: None
    tuner.HEARTBEAT, tuner.GRACE, tuner.POLL = 1, 15, 0.2

    def measure(generation, genes):
        print(generation, flush=True)
        while not Path({go!r}).exists():
            time.sleep(0.05)
        return (0.5, 0.5, 1 - genes["lr0"], 0.5, 1.0, 1.0, 1.0)

    folder = Path({folder!r})
    folder.mkdir()
    record = tuner.run_optuna(tuner.Search(folder, Hyp(), 6), measure, {storage!r}, "shared")
    print("end", len(record.rows))
"""


def worker(folder, storage, go):
    code = textwrap.dedent(WORKER.format(folder=str(folder), storage=storage, go=str(go)))
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_share_a_study_and_do_the_work_of_a_killed_one(tmp_path):
    pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    go = tmp_path / "go"
    killed = worker(tmp_path / "killed", storage, go)
    assert killed.stdout.readline() == "0\n"
    killed.kill()
    killed.wait()
    workers = [worker(tmp_path / name, storage, go) for name in ("one", "two")]
    first = [process.stdout.readline() for process in workers]  # both work
    go.touch()
    rest = [process.communicate(timeout=HANG)[0] for process in workers]
    done = [[int(line) for line in (a + b).split("\n") if line.isdecimal()] for a, b in zip(first, rest, strict=True)]
    numbers = sorted(done[0] + done[1])
    assert numbers[0] == 1  # 0 was the killed one
    assert numbers == list(range(1, len(numbers) + 1))  # nothing twice
    assert len(numbers) in (6, 7)
    tables = [table(tmp_path / name) for name in ("one", "two")]
    assert all(len(rows) >= 6 for rows in tables)
    shorter, longer = sorted(tables, key=len)  # the process that ended first may have left the other its last training
    assert len(longer) == len(numbers)
    assert all(row in longer for row in shorter)


@pytest.mark.parametrize("storage", ["sqlite:////nowhere/x.db", "nonsense"])
def test_storage_that_cannot_be_used(tmp_path, storage):
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match=f"--storage {storage}: cannot be used"):
        run_optuna(Search(tmp_path, Hyp(), 1), measure, storage, "x")


def test_missing_optuna_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match="pip install optuna"):
        run_optuna(Search(tmp_path, Hyp(), 1), measure, "", "x")
