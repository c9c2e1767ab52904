"""Kinds of error and calibration against boxes judged by hand, which tidecv 1.0.1 and hotcoco 1.3.0 judge alike."""

import numpy as np
import pytest
import torch

from engine.validation.errors import CORRECT, KINDS, Errors, calibrate, judge, wilson
from utils.boxes import box_area
from utils.metrics import ConfusionMatrix, match_labels

LABELS = [
    [0, 10, 10, 50, 50], [0, 60, 10, 100, 50], [1, 10, 60, 50, 100], [1, 60, 60, 100, 100], [0, 110, 10, 150, 50],
]  # fmt: skip
BOXES = [
    [10, 10, 50, 50, 0.95, 0], [12, 10, 52, 50, 0.90, 0], [60, 10, 100, 50, 0.85, 1],
    [10, 60, 50, 78, 0.80, 1], [60, 60, 100, 78, 0.75, 0], [150, 150, 190, 190, 0.70, 0],
]  # fmt: skip


def errors_of(*images):
    """Errors of images, each (labels, boxes in any order)."""
    parts, offset = [], 0
    for labels, boxes in images:
        labels = np.array(labels, np.float32).reshape(-1, 5)
        boxes = np.array(boxes, np.float32).reshape(-1, 6)
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
        correct = match_labels(boxes, labels, np.array([0.5], np.float32))[0][:, 0]
        kinds, targets = judge(boxes, labels, correct)
        targets = np.where(targets < 0, -1, targets + offset)
        classes = boxes[:, 5].astype(int), labels[:, 0].astype(int)
        areas = box_area(boxes[:, :4]), box_area(labels[:, 1:])
        parts.append((kinds, targets, boxes[:, 4], classes[0], areas[0], classes[1], areas[1]))
        offset += len(labels)
    return Errors(*map(np.concatenate, zip(*parts, strict=True)))


def names(errors):
    return [KINDS[kind] for kind in errors.kinds]


def costs_are(errors, ap50, **costs):
    base, found = errors.costs()
    assert base == pytest.approx(ap50, abs=5e-5)
    assert found == pytest.approx(dict.fromkeys(KINDS[1:], 0) | costs, abs=5e-5)


def test_each_kind_once():
    """T1 of the facts."""
    errors = errors_of((LABELS, BOXES))
    assert names(errors) == ["correct", "duplicate", "class", "localisation", "both", "background"]
    assert errors.missed().tolist() == [False, False, False, True, True]
    assert errors.counts(0) == dict.fromkeys(KINDS, 1) | {"missed": 2}
    costs_are(errors, 0.1683, **{"class": 0.1089, "localisation": 0.1262, "missed": 0.0842})


def test_confusion_matrix_pairs_whatever_the_class():
    """T5 of the facts: rows predicted, the last one the background."""
    matrix = ConfusionMatrix(2)
    matrix.process_batch(torch.tensor(BOXES), torch.tensor(LABELS).float())
    assert matrix.matrix.tolist() == [[1, 0, 3], [1, 0, 1], [1, 2, 0]]


def test_false_boxes_before_and_after_right_ones_cost_something():
    """T2: box 6 is the most confident, and a seventh finds label e."""
    boxes = [*BOXES[:5], [*BOXES[5][:4], 0.97, 0], [110, 10, 150, 50, 0.6, 0]]
    errors = errors_of((LABELS, boxes))
    assert names(errors) == ["background", "correct", "duplicate", "class", "localisation", "both", "correct"]
    assert errors.missed().tolist() == [False, False, False, True, False]
    costs = {"class": 0.1005, "localisation": 0.1262, "both": 0.0163, "duplicate": 0.0163, "background": 0.1005}
    costs_are(errors, 0.1495, **costs)
    apart = errors_of((LABELS[:2], boxes[:3]), (LABELS[2:], boxes[3:]))  # objects of other images make no difference
    assert apart.counts(0) == errors.counts(0)
    assert apart.costs() == errors.costs()


@pytest.mark.parametrize(
    ("labels", "boxes", "expected", "missed"),
    [
        # T3: a touch of its own class counts more than all of another one
        ([[0, 0, 0, 40, 40], [1, 30, 0, 70, 40]], [[30, 0, 70, 40, 0.9, 0]], ["localisation"], [False, True]),
        # T4: a box is for the label it overlaps best, taken or not; tidecv and hotcoco take two as correct
        (
            [[0, 0, 0, 10, 10], [0, 5, 0, 15, 10]],
            [[0, 0, 10, 10, 0.9, 0], [2, 0, 12, 10, 0.8, 0]],
            ["correct", "duplicate"],
            [False, True],
        ),
        # T5: exactly on the limits
        ([[0, 0, 0, 40, 40]], [[0, 0, 40, 20, 0.9, 0]], ["correct"], [False]),
        ([[0, 0, 0, 40, 40]], [[0, 0, 40, 4, 0.9, 0]], ["localisation"], [False]),
        ([], [[0, 0, 40, 4, 0.9, 0]], ["background"], []),
        ([[0, 0, 0, 40, 40]], [], [], [True]),
    ],
)
def test_limits(labels, boxes, expected, missed):
    errors = errors_of((labels, boxes))
    assert names(errors) == expected
    assert errors.missed().tolist() == missed


def test_confidence_rules_what_is_missed_and_not_the_kind():
    errors = errors_of((LABELS, BOXES))
    assert errors.counts(0.82) == dict.fromkeys(KINDS, 0) | {"correct": 1, "duplicate": 1, "class": 1, "missed": 3}
    assert errors.counts(0.99) == dict.fromkeys(KINDS, 0) | {"missed": 5}


def test_counts_by_class_and_size_add_up():
    errors = errors_of((LABELS, [*BOXES, [0, 0, 5, 5, 0.9, 7]]))
    by_class = errors.counts_by_class(0.72)
    assert list(by_class) == [0, 1, 7]
    assert by_class[1] == dict.fromkeys(KINDS, 0) | {"class": 1, "localisation": 1, "missed": 1}
    assert by_class[7] == dict.fromkeys(KINDS, 0) | {"background": 1}
    for parts in (by_class, errors.counts_by_size(0.72)):
        assert {kind: sum(part[kind] for part in parts.values()) for kind in KINDS} == errors.counts(0.72)
    assert errors.counts_by_size(0.72)["small"]["localisation"] == 1


def test_hopeless_and_empty():
    errors = errors_of(([], []))
    assert errors.costs() == (0, dict.fromkeys(KINDS[1:], 0))
    assert errors.counts(0) == dict.fromkeys(KINDS, 0)
    costs_are(errors_of((LABELS[:2], [])), 0)
    costs_are(errors_of((LABELS[:1], [BOXES[5]]), (LABELS[:1], [BOXES[0]])), 0.5050, missed=0.4950)


# Calibration ----------------------------------------------------------------------------------------------------------

CONF = np.array([0.95, 0.92, 0.91, 0.85, 0.75, 0.72, 0.55, 0.52, 0.35, 0.31])
RIGHT = np.array([1, 1, 0, 1, 1, 0, 1, 0, 0, 0], bool)


def test_calibration_by_hand():
    """T8 of the facts, by hotcoco too."""
    found = calibrate(CONF, RIGHT)
    assert found.error == pytest.approx(0.213)
    assert found.bias == pytest.approx(0.183)
    gaps = found.precision - found.conf
    assert np.nanmax(np.abs(gaps)) == pytest.approx(0.33)
    assert found.worst is None  # no bin has ten boxes
    assert found.n.tolist() == [0, 0, 0, 2, 0, 2, 0, 2, 1, 3]
    np.testing.assert_allclose(gaps[found.n > 0], [-0.33, -0.035, -0.235, 0.15, -0.26])
    assert np.isnan(gaps[found.n == 0]).all()
    assert not found.shown
    assert str(found) == (
        "expected error 0.213 (up to 0.357 by chance), 0.18 too high on average; of 10 boxes from confidence 0.05"
    )


def test_bounds_belong_to_the_lower_bin_and_order_is_free():
    found = calibrate(np.array([0.3, 0.05, 0.31, 1.0, 0.06]), np.ones(5, bool))
    assert (found.boxes, found.n.tolist()) == (4, [1, 0, 1, 1, 0, 0, 0, 0, 0, 1])
    shuffled = np.random.default_rng(0).permutation(10)
    again = calibrate(CONF[shuffled], RIGHT[shuffled])
    assert again.error == pytest.approx(0.213)
    assert calibrate(CONF[:0], RIGHT[:0]) is None
    assert calibrate(np.array([0.05]), RIGHT[:1]) is None


def test_right_confidences_are_within_chance_and_wrong_ones_are_not():
    rng = np.random.default_rng(3)
    conf = rng.uniform(0.05, 1, 3000)
    right = rng.random(3000) < conf
    found = calibrate(conf, right)
    assert not found.shown
    assert 0 < found.chance < found.chance_high < 0.05
    assert ((found.low <= found.precision) & (found.precision <= found.high)).all()
    over = calibrate(np.sqrt(conf), right)
    assert over.shown
    assert over.bias == pytest.approx(np.sqrt(conf).mean() - right.mean())
    assert ", 0.17 too high on average; of 3000 boxes" in str(over)
    assert over.worst > over.error


def test_intervals_of_precision():
    low, high = wilson(np.array([178, 9, 0]), np.array([184, 10, 0]))
    np.testing.assert_allclose(low, [0.938, 0.652, np.nan], atol=5e-4)
    np.testing.assert_allclose(high, [0.983, 0.977, np.nan], atol=5e-4)
    assert CORRECT == 0
