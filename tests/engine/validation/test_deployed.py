"""engine/validation/deployed.py: boxes counted at every confidence, and the confidences that follow from them.

The expected numbers are worked out by hand, from step functions without interpolation.
"""

import numpy as np
import pytest
import torch

from engine.validation.deployed import GRID, Deployment, Detected


def detected(right, conf, cls=None, labels=(), **settings):
    cls = np.zeros(len(conf)) if cls is None else np.array(cls)
    return Detected(np.array(right), np.array(conf), cls, np.array(labels), **settings)


@pytest.fixture
def one_class():
    """Five labels, nine boxes from 0.9 down to 0.1."""
    return detected([1, 1, 0, 1, 1, 0, 0, 1, 0], np.arange(9, 0, -1) / 10, labels=[0] * 5)


@pytest.fixture
def three_classes():
    """Four labels of class 0, two of class 1, none of class 2."""
    right = [1, 1, 1, 0, 0, 0, 1, 0, 1, 0]
    conf = [0.9, 0.8, 0.7, 0.3, 0.2, 0.6, 0.55, 0.35, 0.25, 0.5]
    return detected(right, conf, [0] * 5 + [1] * 4 + [2], [0] * 4 + [1] * 2)


def plateau(curve):
    """The largest value of a curve over GRID, and the confidences between which it lies."""
    at = GRID[curve >= curve.max() - 1e-9]
    return round(float(curve.max()), 4), round(float(at[0]), 2), round(float(at[-1]), 2)


def test_f1_after_each_box(one_class):
    f1 = one_class.counts(np.arange(1, 10) / 10 - 0.05).f1[0]
    expected = [0.7143, 0.7692, 0.6667, 0.7273, 0.8, 0.6667, 0.5, 0.5714, 0.3333]
    np.testing.assert_allclose(f1, expected, atol=5e-5)


def test_best_confidence_is_the_top_of_the_smoothed_curve(one_class):
    best = one_class.best(one_class.counts().f1.mean(0))
    assert best == 0.449
    point = one_class.at(best)
    assert point == (0.449, 4, 1, 1, pytest.approx(0.8))
    assert (point.precision, point.recall) == (0.8, 0.8)


def test_best_confidence_of_a_plateau_is_its_middle():
    clear = detected([1] * 20, [0.9] * 20, labels=[0] * 20)
    # 1 up to 0.9, and the filter takes in half a tenth of the curve beyond
    assert clear.best(clear.counts().f1[0]) == pytest.approx((0.02 + 0.85) / 2, abs=2e-3)
    assert clear.best(np.zeros(1000)) is None


def test_classes_count_apart_and_boxes_without_labels_in_no_f1(three_classes):
    counts = three_classes.counts()
    assert plateau(counts.f1[0]) == (0.8571, 0.3, 0.7)
    assert plateau(counts.f1[1]) == (0.6667, 0, 0.25)
    assert plateau(counts.f1.mean(0)) == (0.7083, 0.2, 0.25)
    # over all boxes, that of class 2 included
    points = [three_classes.at(g) for g in GRID]
    micro = np.array([2 * p.right / (2 * p.right + p.false + p.missed) for p in points])
    assert plateau(micro) == (0.7273, 0.5, 0.55)


def test_precision_of_a_class_without_boxes_left_is_1_and_of_one_without_any_0():
    counts = detected([1, 0], [0.4, 0.3], [0, 0], [0, 1]).counts(np.array([0.35, 0.5]))
    assert counts.precision.tolist() == [[1, 1], [0, 0]]
    assert counts.recall.tolist() == [[1, 0], [0, 0]]


def test_confidence_for_a_precision(one_class):
    for wish, conf, right, false in ((0.75, 0.45, 4, 1), (0.9, 0.75, 2, 0)):
        point = one_class.confidence_for(wish, least=1)
        assert (point.conf, point.right, point.false) == (pytest.approx(conf), right, false)
    assert one_class.confidence_for(0.5) is None  # nine boxes say nothing
    equal = detected([1, 1, 0], [0.5, 0.4, 0.4], labels=[0, 0])
    assert equal.confidence_for(1, least=1).conf == pytest.approx(0.45)  # no threshold separates equal boxes


def test_range_of_the_best_confidence_comes_from_the_images():
    rng = np.random.default_rng(1)
    conf = rng.uniform(0.02, 1, 400)
    right = rng.random(400) < conf
    labels = np.zeros(right.sum(), int)
    owners = np.sort(rng.integers(40, size=len(labels)))
    few = detected(right, conf, labels=labels, boxes_of=[10] * 40, labels_of=np.bincount(owners, minlength=40).tolist())
    low, high = few.range_of_best()
    assert low < high
    assert low <= few.best(few.counts().f1[0]) <= high
    assert few.range_of_best() == (low, high)
    alone = detected(right, conf, labels=labels).range_of_best()  # one image is drawn every time
    assert alone == pytest.approx((few.best(few.counts().f1[0]),) * 2, abs=0.02)


def test_thresholds_of_a_file(three_classes):
    found = three_classes.thresholds(0.3, dict(enumerate("abc")))
    assert (found["conf"], found["tp"], found["fp"], found["fn"]) == (0.3, 4, 3, 2)
    assert found["classes"][0] == {
        "name": "a", "conf": None, "labels": 4, "why": "4 labels and 3 right boxes are too few",
    }  # fmt: skip
    assert set(found["classes"]) == {0, 1}
    assert three_classes.thresholds(None, dict(enumerate("abc")))["conf"] is None
    right, conf = [1] * 30 + [0] * 10, np.linspace(0.9, 0.1, 40)
    found = detected(right, conf, labels=[0] * 35).thresholds(0.3, {0: "a"})
    assert found["classes"][0]["conf"] == pytest.approx(0.3, abs=0.01)
    assert found["for_precision"]["0.95"]["precision"] >= 0.95
    assert found["for_precision"]["0.5"]["fp"] == 10


def test_nothing_detected_and_nothing_labelled():
    nothing = detected(np.zeros(0), np.zeros(0), np.zeros(0), [0, 1])
    assert nothing.best(nothing.counts().f1.mean(0)) is None
    assert nothing.at(0.25) == (0.25, 0, 0, 2, 0)
    unlabelled = detected([0], [0.9], [1], np.zeros(0))
    assert unlabelled.at(0.25) == (0.25, 0, 1, 0, 0)
    assert (unlabelled.without_labels(0.25), unlabelled.without_labels(0.9)) == (1, 0)
    assert unlabelled.thresholds(None, {})["classes"] == {}


def test_suppression_is_that_of_detect():
    """The box at 0.8 is dropped by the one at 0.9 at IoU 0.45; what it would have dropped stays."""
    decoded = torch.tensor([[50.0, 50, 100, 100, 1, 0.9], [80, 50, 100, 100, 1, 0.8], [100, 50, 100, 100, 1, 0.7]])[
        None
    ]
    assert Deployment().suppress(decoded, agnostic=False)[0][:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert Deployment(iou=0.6).suppress(decoded, agnostic=False)[0][:, 4].tolist() == pytest.approx([0.9, 0.8])
    two = torch.tensor([[50.0, 50, 100, 100, 1, 0.9, 0.8]])[None]
    assert len(Deployment().suppress(two, agnostic=False)[0]) == 1  # the best class alone
    assert str(Deployment()) == "confidence > 0.25, NMS IoU 0.45"
