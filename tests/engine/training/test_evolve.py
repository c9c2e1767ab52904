"""Evolution: bounds, parents, mutations, and a record that goes on where it ended."""

import numpy as np
import pytest

from engine.training.evolve import GENES, RESULTS, EvolutionRecord, choose_parent, clamp, mutate
from utils.files import yaml_load
from utils.hyp import Hyp

START = {name: value for name, value in Hyp().to_dict().items() if name in GENES}


def row(map50, map95, **genes):
    return dict(zip(RESULTS, (0.5, 0.5, map50, map95, 0.1, 0.1, 0.1), strict=True)) | START | genes


def test_genes_are_hyperparameters_within_bounds():
    assert set(GENES) - {"anchors"} == set(START)
    for name, (_, low, high) in GENES.items():
        if name in START:
            assert low <= START[name] <= high
    assert clamp({"lr0": 1.0, "momentum": 0.1, "box": 0.0512345678}) == {"lr0": 0.1, "momentum": 0.6, "box": 0.05123}
    assert clamp({"weight_decay": 0.02}) == {"weight_decay": 0.001}
    assert clamp({"weight_decay": 0.02}, decoupled=True) == {"weight_decay": 0.02}


def test_mutation_changes_what_may_change_and_repeats():
    children = [mutate(START, np.random.default_rng(seed)) for seed in range(200)]
    assert children[7] == mutate(START, np.random.default_rng(7))
    for name, (gain, low, high) in GENES.items():
        if name not in START:
            continue
        values = {child[name] for child in children}
        assert all(low <= value <= high for value in values)
        if not gain or not START[name]:
            assert values == {START[name]}
    changed = np.mean([[child[name] != START[name] for name in ("lr0", "box", "cls")] for child in children])
    assert 0.7 < changed <= 0.85  # 0.8 of the genes, less those that rounding or a bound holds
    with pytest.raises(ValueError, match="nothing to evolve"):
        mutate({"iou_t": 0.2, "degrees": 0.0}, np.random.default_rng(0))


def test_parent_is_one_of_the_five_fittest_and_mostly_the_best():
    history = [row(0.5, 0.1 * i, lr0=0.001 * (i + 1)) for i in range(8)]
    drawn = [choose_parent(history, np.random.default_rng(seed))["lr0"] for seed in range(1000)]
    assert set(drawn) <= {0.001 * (i + 1) for i in range(3, 8)}
    counts = [drawn.count(0.001 * (i + 1)) for i in range(3, 8)]
    assert counts == pytest.approx([0, 100, 200, 300, 400], abs=50)  # weights 0, 1, 2, 3, 4 of 10


def test_record_goes_on_and_keeps_the_best(tmp_path, monkeypatch):
    few = {name: START[name] for name in ("lr0", "momentum", "box")}  # the figure has a panel for each
    with monkeypatch.context() as patch:
        patch.setattr("engine.training.evolve.plot_genes", lambda *_: None)  # it takes seconds each time
        record = EvolutionRecord(tmp_path)
        record.add((0.1, 0.2, 0.3, 0.4, 1, 1, 1), few, Hyp())
        record.add((0.1, 0.2, 0.3, 0.2, 1, 1, 1), few | {"lr0": 0.02}, Hyp())
    again = EvolutionRecord(tmp_path)
    assert again.rows == record.rows
    again.add((0.1, 0.2, 0.9, 0.8, 1, 1, 1), few | {"lr0": 0.03}, Hyp(clip_norm=5.0))
    best = yaml_load(tmp_path / "hyp_evolve.yaml")
    assert Hyp.from_dict(best) == Hyp(lr0=0.03, clip_norm=5.0)
    text = (tmp_path / "hyp_evolve.yaml").read_text()
    assert text.startswith("# Evolution of hyperparameters: best generation 2 of 0 to 2\n# metrics/precision: 0.1\n")
    assert (tmp_path / "evolve.png").stat().st_size > 10_000
    assert len((tmp_path / "evolve.csv").read_text().splitlines()) == 4
    with pytest.raises(ValueError, match="other hyperparameters"):
        again.add((0,) * 7, {"lr0": 0.01}, Hyp())
    (tmp_path / "evolve.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not the table of an evolution: it begins with 'a'"):
        EvolutionRecord(tmp_path)
