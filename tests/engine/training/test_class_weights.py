"""Weights of the classes in the class loss: by hand, or from the counts."""

import logging

import numpy as np
import pytest

from engine.training.class_weights import class_loss_weights, weights_from_counts
from utils.hyp import Hyp

NAMES = {0: "car", 1: "traffic light", 2: "dog"}
LABELS = np.zeros((101, 5)) + (np.arange(101) == 100)[:, None] * [1, 0, 0, 0, 0]  # 100 cars, a traffic light


def weights(value, names=NAMES, before=None):
    return class_loss_weights(Hyp(cls_weights=value), names, LABELS, "hyp.yaml", before)


def test_rare_classes_count_more_by_the_square_root():
    found = weights_from_counts(np.array([400, 100, 100]))
    np.testing.assert_allclose(found / found[0], [1, 2, 2])
    assert (found * [400, 100, 100]).sum() == pytest.approx(600)  # a mean of 1 over the labels
    np.testing.assert_allclose(weights_from_counts(np.array([7, 7])), [1, 1])
    found = weights_from_counts(np.array([10**6, 1, 0]))
    np.testing.assert_allclose(found / found[0], [1, 10, 10])


def test_numbers_by_hand_stay_as_they_are():
    assert weights(None) is None
    assert weights([1, 2, 0.5]) == [1, 2, 0.5]
    assert weights({"traffic light": 3, 2: 0.5}) == [1, 3, 0.5]


def test_auto_counts_the_labels_once(caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    found = weights("auto")
    assert found == [round(w, 4) for w in weights_from_counts(np.array([100, 1, 0]))]
    assert f"weights in the class loss: car {found[0]:.4g}, traffic light {found[1]:.4g}" in caplog.text
    assert weights("auto", before={"cls_weights": [1, 2, 3]}) == [1, 2, 3]  # a resumed run, whose data may have changed


def test_one_class_needs_none(caplog):
    assert weights("auto", {0: "car"}) is None
    assert "hyp.yaml: cls_weights has no effect: of one class there is no class loss" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "hyp.yaml: cls_weights has 2 numbers, but there are 3 classes"),
        ({"Traffic light": 2}, "hyp.yaml: cls_weights: no class 'Traffic light'. Did you mean 'traffic light'"),
        ({3: 2}, "class 3 does not exist, the classes are 0 to 2"),
        ({"car": 2, 0: 3}, "has a class twice, by name and by number"),
    ],
)
def test_weights_of_other_classes_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        weights(value)
