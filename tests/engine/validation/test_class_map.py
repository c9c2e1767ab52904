"""Chosen and merged classes of a dataset, found in a model by name."""

import pytest
import torch

from engine.validation.class_map import ClassMap, match_classes
from utils.datasets.selection import select_classes
from utils.nms import non_max_suppression

DATASET = {0: "cat", 1: "car", 2: "truck", 3: "traffic light"}
MODEL = {0: "truck", 1: "traffic light", 2: "dog", 3: "car", 4: "cat"}


def matched(names=MODEL, single_cls=False, **keys):
    found = match_classes(select_classes(DATASET, keys, "my.yaml"), names, single_cls, "best.pt")
    return found and found.parts


def boxes():
    """Two images of 50 boxes with scores for the classes of `MODEL`."""
    decoded = torch.rand(2, 50, 5 + len(MODEL), generator=torch.Generator().manual_seed(0))
    decoded[..., :4] *= 100
    return decoded


def test_classes_are_found_by_name():
    assert matched(classes=["car", "cat"]) == [[3], [4], [0], [1], [2]]
    assert matched(merge={"vehicle": ["car", "truck"]}) == [[4], [0, 3], [1], [2]]
    assert matched({0: "vehicle", 1: "cat"}, merge={"vehicle": ["car", "truck"]}, classes=["cat", "vehicle"]) == [
        [1],
        [0],
    ]
    assert matched(merge={"vehicle": ["car", "truck"]}, single_cls=True) == [[4], [0, 3], [1], [2]]


def test_equal_numbers_need_no_map():
    assert matched({0: "car", 1: "cat"}, classes=["car", "cat"]) is None
    assert matched({0: "class0", 1: "class1"}, classes=["car", "cat"]) is None  # as without a choice
    assert matched({0: "item"}, classes=["car", "cat"], single_cls=True) is None


def test_a_class_that_the_model_lacks_is_named():
    with pytest.raises(ValueError, match=r"best.pt: the model has no class 'cat', 'truck'; its classes are car, dog"):
        matched({0: "car", 1: "dog"}, classes=["cat", "car", "truck"])


@pytest.mark.parametrize("multi_label", [True, False])
def test_the_same_boxes_remain_as_with_the_classes_of_detect(multi_label):
    mapped = ClassMap([[3], [0]], MODEL)
    assert mapped.own == ["car", "truck"]
    expected = non_max_suppression(boxes(), 0.3, 0.5, [0, 3], multi_label=multi_label)
    found = non_max_suppression(mapped(boxes()), 0.3, 0.5, mapped.chosen, multi_label=multi_label)
    for rows, others in zip(expected, found, strict=True):
        assert len(rows) > 3
        rows[:, 5] = (rows[:, 5] == 0).float()  # the truck is the second one
        torch.testing.assert_close(rows, others, rtol=0, atol=0)


def test_the_best_part_of_a_merged_class_counts():
    decoded = boxes()
    mapped = ClassMap([[0, 3], [4]], MODEL)(decoded)
    assert mapped.shape == (2, 50, 5 + 4)
    assert torch.equal(mapped[..., :5], decoded[..., :5])
    assert torch.equal(mapped[..., 5], torch.maximum(decoded[..., 5], decoded[..., 8]))
    assert torch.equal(mapped[..., 6:], decoded[..., [9, 6, 7]])
