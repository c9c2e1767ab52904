"""What chooses best.pt."""

from types import SimpleNamespace

import numpy as np
import pytest

from engine.training.metric import check_metric, class_of, score
from engine.training.state import read_inputs
from utils.metrics import fitness
from utils.options.train import TrainOptions

NAMES = {0: "cat", 1: "dog", 2: "a:ap"}
RESULTS = (0.8, 0.5, 0.6, 0.4, 0.1, 0.2, 0.3)
MAPS = np.array([0.1, 0.7, 0.4])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("fitness", fitness(np.array(RESULTS[:4])[None])[0]), ("map50", 0.6), ("map50-95", 0.4), ("precision", 0.8),
        ("recall", 0.5), ("f1", 2 * 0.8 * 0.5 / 1.3), ("dog:ap", 0.7), ("0:ap", 0.1), ("a:ap:ap", 0.4),
    ],
)  # fmt: skip
def test_scores(metric, expected):
    assert score(metric, RESULTS, MAPS, NAMES) == pytest.approx(expected)


def test_no_detections_have_f1_zero():
    assert score("f1", (0.0, 0.0, 0.0, 0.0), MAPS, NAMES) == 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("map5O", "--metric map5O is none of fitness, .*CLASS:ap; did you mean map50?"),
        ("cta:ap", "has no class 'cta'; did you mean cat?"), ("3:ap", "has no class '3'"),
        ("dog", "none of .*; did you mean dog:ap?"), (":ap", "has no class ''"),
    ],
)  # fmt: skip
def test_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        class_of(metric, NAMES)


@pytest.mark.parametrize(("name", "single"), [("cta", False), ("cat", True)])
def test_typos_are_told_before_labels_are_read_and_weights_converted(name, single, tiny_dataset):
    with pytest.raises(ValueError, match=f"the dataset has no class '{name}'"):
        read_inputs(TrainOptions(data=str(tiny_dataset), weights="", single_cls=single, metric=f"{name}:ap"))


def test_a_class_without_validation_labels_is_refused():
    dataset = SimpleNamespace(labels=[np.array([[0, 0.5, 0.5, 0.1, 0.1]]), np.zeros((0, 5))])
    check_metric("cat:ap", NAMES, dataset)
    check_metric("recall", NAMES, SimpleNamespace(labels=[]))
    with pytest.raises(ValueError, match="no validation image has a label of class 1, 'dog'"):
        check_metric("dog:ap", NAMES, dataset)
