"""utils/nms.py against a plain loop over boxes, and the numbers of the behaviour specification (appendix B.5)."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from utils import nms as module
from utils.boxes import xywh2xyxy
from utils.nms import non_max_suppression


def random_prediction(images=2, rows=300, nc=3, seed=0, size=100, objects=8):
    """Rows that crowd around a few places, (B, R, 5 + nc)."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, objects, 2, generator=g) * size
    which = torch.randint(objects, (images, rows), generator=g)
    y = torch.rand(images, rows, 5 + nc, generator=g)
    y[..., :2] = centre.gather(1, which[..., None].expand(-1, -1, 2)) + 3 * torch.randn(images, rows, 2, generator=g)
    y[..., 2:4] = 20 + 4 * torch.randn(images, rows, 2, generator=g).abs()
    return y


def iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def slow_nms(rows, conf_thres, iou_thres, agnostic=False, multi_label=False, max_det=300):
    """The rule of specification 8.4, candidate by candidate, for one image; (D, 6) as a list."""
    candidates = []
    for x, y, w, h, obj, *cls in rows.double().tolist():
        if not obj > conf_thres:
            continue
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        scores = [obj * c for c in cls]
        chosen = range(len(cls)) if multi_label and len(cls) > 1 else [int(np.argmax(scores))]
        candidates += [(*box, scores[c], c) for c in chosen if scores[c] > conf_thres]
    candidates.sort(key=lambda d: -d[4])
    kept = []
    for d in candidates:
        if all(iou(d, k) <= iou_thres for k in kept if agnostic or k[5] == d[5]):
            kept.append(d)
    return kept[:max_det]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("conf", "iou_thres", "max_det"), [(0.001, 0.6, 300), (0.25, 0.45, 1000), (0.1, 0.3, 5)])
def test_agrees_with_the_slow_rule(multi_label, agnostic, conf, iou_thres, max_det):
    prediction = random_prediction()
    settings = {"agnostic": agnostic, "multi_label": multi_label, "max_det": max_det}
    for found, rows in zip(non_max_suppression(prediction, conf, iou_thres, **settings), prediction, strict=True):
        expected = slow_nms(rows, conf, iou_thres, **settings)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "sizes", [{"ROUND": 1}, {"ROUND": 10}, {"LISTED": 8, "SCORES": 8}, {"LISTED": 40, "ROUND": 7}], ids=str
)
def test_lengths_of_lists_and_rounds_do_not_matter(monkeypatch, sizes, multi_label):
    prediction = random_prediction(rows=500)
    prediction[:, ::5, 2:4] = 0  # boxes without area
    prediction[:, 1::5, 2:4] *= 1e-6  # and of less than rounding shifts a coordinate
    settings = {"multi_label": multi_label, "max_det": 60}
    expected = non_max_suppression(prediction, 0.001, 0.6, **settings)
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    for a, b in zip(non_max_suppression(prediction, 0.001, 0.6, **settings), expected, strict=True):
        assert len(a) == 60
        assert torch.equal(a, b)


def test_short_lists_are_tried_first(monkeypatch):
    lengths = []
    first = module.Candidates.first
    monkeypatch.setattr(module.Candidates, "first", lambda self, count: lengths.append(count) or first(self, count))
    spread = torch.rand(1, 6300, 85)
    spread[..., :2] *= 5000
    spread[..., 2:4] = 5
    assert len(non_max_suppression(spread, 0.001, 0.6, multi_label=True)[0]) == 300
    assert lengths == [module.LISTED // 4]  # of half a million candidates


@pytest.mark.parametrize("multi_label", [False, True])
def test_gradients_reach_the_chosen_rows(multi_label):
    prediction = random_prediction(images=1, rows=60).requires_grad_()
    found = non_max_suppression(prediction, 0.1, 0.5, multi_label=multi_label)[0]
    found[0, 4].backward()
    row, column = (prediction.grad[0, :, 5:] != 0).nonzero()[0]
    assert column == found[0, 5]
    assert (prediction.grad != 0).sum() == 2  # objectness and class score
    assert prediction.grad[0, row, 4] == prediction[0, row, 5 + column]


@pytest.mark.parametrize("part", [1, 100, 10_000], ids=["group by group", "a few groups", "at once"])
@pytest.mark.parametrize("classes", [1, 7])
def test_groups_are_suppressed_as_torchvision_does(monkeypatch, part, classes):
    monkeypatch.setattr(module, "PART", part)
    rows = random_prediction(images=1, rows=600)[0]
    boxes, scores = xywh2xyxy(rows[:, :4]) - 70, rows[:, 4]  # below zero, too
    groups = torch.randint(classes, (600,), generator=torch.Generator().manual_seed(1))
    for thr in (0.3, 0.6, 0.9):
        positive = boxes.double() - boxes.min()  # torchvision's groups meet below zero, and its shift rounds float32
        expected = batched_nms(positive, scores.double(), groups, thr)
        assert torch.equal(module.batched_nms(boxes, scores, groups, thr), expected)
        single = module.batched_nms(boxes, scores, None, thr)
        assert torch.equal(single, module.batched_nms(boxes, scores, torch.zeros(600), thr))
    equal = torch.ones(600)
    kept = module.batched_nms(boxes * 1000, equal, groups, 1.0)
    assert torch.equal(kept, torch.arange(600))
    assert len(module.batched_nms(boxes[:0], scores[:0], groups[:0], 0.5)) == 0


def test_a_part_of_the_candidates_is_the_head_of_all():
    rows = random_prediction(images=1, rows=400, nc=5)[0]
    rows[:, 4:] = (rows[:, 4:] * 8).round() / 8  # many ties
    for settings in ((None, True), (None, False), ([4, 1], True), ([4, 1], False)):
        candidates = module.Candidates(rows, 0.05, *settings)
        every = candidates.first(10_000)
        assert len(every[1]) > 90
        assert (every[1].diff() <= 0).all()
        for count in (1, 10, 77, len(every[1])):
            for part, whole in zip(candidates.first(count), every, strict=True):
                assert torch.equal(part, whole[:count])


def test_weak_candidates_beyond_the_limit_are_dropped(monkeypatch):
    monkeypatch.setattr(module, "MAX_CANDIDATES", 10)
    prediction = random_prediction(images=1, rows=200)
    best = slow_nms(prediction[0], 0.0, 1.0, multi_label=True)[:10]  # IoU 1: nothing is suppressed
    found = non_max_suppression(prediction, 0.0, 1.0, multi_label=True)[0]
    np.testing.assert_allclose(found, best, rtol=1e-4, atol=1e-4)


# Specification B.5: raw maps sin(0.37 k) of a network with strides 8, 16, 32 and the anchors of yolov5n, 64 x 64 pixels


def specification_rows():
    anchors = {8: (10, 13, 16, 30, 33, 23), 16: (30, 61, 62, 45, 59, 119), 32: (116, 90, 156, 198, 373, 326)}
    k, levels = 0, []
    for stride, sizes in anchors.items():
        side = 64 // stride
        count = 2 * 3 * side * side * 8
        s = 1 / (1 + np.exp(-np.sin(0.37 * np.arange(k, k + count)))).reshape(2, 3, side, side, 8)
        k += count
        row, column = np.meshgrid(range(side), range(side), indexing="ij")
        s[..., 0] = (2 * s[..., 0] - 0.5 + column) * stride
        s[..., 1] = (2 * s[..., 1] - 0.5 + row) * stride
        s[..., 2:4] = (2 * s[..., 2:4]) ** 2 * np.array(sizes).reshape(1, 3, 1, 1, 2)
        levels.append(s.reshape(2, -1, 8))
    return torch.tensor(np.concatenate(levels, 1), dtype=torch.float32)


def test_numbers_of_the_specification():
    rows = specification_rows()
    assert rows.shape == (2, 252, 8)
    np.testing.assert_allclose(rows[0, 0, :4], [4.0, 5.430903, 17.554270, 26.217983], rtol=1e-6)
    for settings, counts in (({}, [99, 106]), ({"multi_label": True}, [214, 218]), ({"agnostic": True}, [74, 83])):
        assert [len(d) for d in non_max_suppression(rows, 0.25, 0.45, **settings)] == counts
    top = non_max_suppression(rows, 0.25, 0.45)[0][0]
    np.testing.assert_allclose(top, [46.253906, -8.383127, 73.022797, 50.575500, 0.529531, 0], rtol=1e-5)
    found = non_max_suppression(rows, 0.001, 0.6, multi_label=True, max_det=300)
    assert [len(d) for d in found] == [300, 300]
    np.testing.assert_allclose([d[:, 4].sum() for d in found], [129.4608, 129.6908], rtol=1e-5)


# Properties -----------------------------------------------------------------------------------------------------------


def test_batch_equals_single():
    prediction = random_prediction(images=3)
    together = non_max_suppression(prediction, 0.01, 0.5, multi_label=True)
    for i in range(3):
        assert torch.equal(together[i], non_max_suppression(prediction[i : i + 1], 0.01, 0.5, multi_label=True)[0])


def test_input_is_not_changed():
    prediction = random_prediction()
    copy = prediction.clone()
    non_max_suppression(prediction, 0.01, 0.5, multi_label=True, labels=[torch.ones(1, 5)] * 2)
    assert torch.equal(prediction, copy)


@pytest.mark.parametrize("multi_label", [False, True])
def test_nothing_found(multi_label):
    low = random_prediction() * torch.tensor([1, 1, 1, 1, 0.0, 1, 1, 1])
    for prediction in (low, low[:, :0]):
        found = non_max_suppression(prediction, multi_label=multi_label)
        assert [d.shape for d in found] == [(0, 6), (0, 6)]
    assert non_max_suppression(low[:0]) == []


def test_thresholds_are_exclusive():
    row = torch.tensor([[[50, 50, 10, 10, 0.5, 1.0, 0.5]]])
    assert len(non_max_suppression(row, 0.5)[0]) == 0
    found = non_max_suppression(row, 0.25, multi_label=True)[0]  # class 1 has exactly 0.25
    assert found[:, 4:].tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_a_threshold_for_each_class_drops_rows_before_they_suppress(multi_label, agnostic):
    prediction, limits = random_prediction(), [0.3, 0.05, 0.5]
    settings = {"agnostic": agnostic, "multi_label": multi_label, "max_det": 1000}
    for found, rows in zip(non_max_suppression(prediction, limits, 0.45, **settings), prediction, strict=True):
        scores = rows[:, 5:] * rows[:, 4:5]
        chosen = scores > torch.tensor(limits)
        if not multi_label:  # no second choice
            chosen &= scores == scores.amax(1, keepdim=True)
        rows = rows.clone()
        rows[:, 5:] *= chosen
        expected = slow_nms(rows, 0.001, 0.45, **settings)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(
        non_max_suppression(prediction, [0.25] * 3, 0.45, **settings)[0],
        non_max_suppression(prediction, 0.25, 0.45, **settings)[0],
    )


def test_a_weak_box_of_another_class_survives_one_below_its_own_threshold():
    rows = torch.tensor([[[50, 50, 100, 100, 1, 0.5, 0], [55, 50, 100, 100, 1, 0, 0.4]]])
    found = non_max_suppression(rows, [0.6, 0.3], 0.45, agnostic=True)[0]
    assert found[:, 5].tolist() == [1]
    for limits, message in (([0.6], "conf_thres has 1 values, but the model has 2 classes"), ([0.6, 2], "is 2, but")):
        with pytest.raises(ValueError, match=message):
            non_max_suppression(rows, limits)


def test_overlap_equal_to_the_threshold_stays():
    # (0, 0, 10, 10) and (0, 0, 10, 5) overlap by exactly one half
    rows = torch.tensor([[[5, 5, 10, 10, 0.9, 1.0], [5, 2.5, 10, 5, 0.8, 1.0]]])
    assert len(non_max_suppression(rows, 0.1, 0.5)[0]) == 2
    assert len(non_max_suppression(rows, 0.1, 0.49)[0]) == 1


def test_overlaps_at_the_threshold_are_judged_exactly_between_rounds_too(monkeypatch):
    monkeypatch.setattr(module, "ROUND", 1)
    classes = 300
    heights = torch.tensor([6.0, 6.0000005, 5.9999995]).repeat(classes // 3)  # IoU 0.6, just above and below it
    rows = torch.zeros(2, classes, 5 + classes)  # the large box of every class, then the small one in it
    rows[:, :, :4] = torch.tensor([5.0, 5.0, 10.0, 10.0])
    rows[1, :, 1], rows[1, :, 3] = heights / 2, heights
    rows[:, :, 4] = 1
    rows[0, :, 5:], rows[1, :, 5:] = torch.eye(classes), torch.eye(classes) / 2
    kept = non_max_suppression(rows.view(1, -1, 5 + classes), 0.25, 0.6, max_det=1000)[0]
    small = kept[kept[:, 4] == 0.5, 5].int()
    exact = heights.double() / 10 > 0.6  # the smaller box lies in the larger one
    assert exact.sum() == classes // 3
    assert small.sort().values.tolist() == (~exact).nonzero().view(-1).tolist()


def test_equal_scores_keep_the_order_of_the_rows():
    rows = torch.zeros(1, 2000, 6)
    rows[0, :, 0] = torch.arange(2000) * 20
    rows[0, :, 1:4] = 10
    rows[0, :, 4:] = 0.5
    found = non_max_suppression(rows, 0.1, 0.5, max_det=700)[0]
    assert torch.equal(found[:, 0], torch.arange(700) * 20 - 5.0)


@pytest.mark.parametrize("shift", [-200.0, 0.0, 8000.0, 300000.0])
def test_classes_never_touch_whatever_the_coordinates(shift):
    # two classes of a box, and the same box where class 1 would lie if classes were moved apart by 7680
    rows = torch.zeros(1, 2, 7)
    rows[0, :, :2] = shift
    rows[0, 1, :2] += 7680
    rows[0, :, 2:4] = 64
    rows[0, :, 4] = torch.tensor([0.9, 0.8])
    rows[0, :, 5:] = torch.tensor([0.9, 0.8])
    assert len(non_max_suppression(rows, 0.01, 0.1, multi_label=True)[0]) == 4


def test_small_overlaps_are_judged_the_same_in_every_class():
    # a class number costs no accuracy: boxes of 3 pixels in a large image, IoU just above and below the threshold
    for c in (0, 79):
        rows = torch.zeros(1, 4, 85)
        rows[0, :, :4] = torch.tensor([[9000, 9000, 3, 3], [9001, 9000, 3, 3], [10, 10, 3, 3], [10, 11, 3, 3]])
        rows[0, :, 4] = torch.tensor([0.9, 0.8, 0.7, 0.6])
        rows[0, :, 5 + c] = 1
        assert len(non_max_suppression(rows, 0.1, 0.5001)[0]) == 4  # IoU is 6 / 12
        assert len(non_max_suppression(rows, 0.1, 0.4999)[0]) == 2


def test_class_filter_comes_after_the_choice_of_the_best():
    rows = torch.tensor([[[50, 50, 10, 10, 1.0, 0.9, 0.8], [90, 50, 10, 10, 1.0, 0.3, 0.7]]])
    assert non_max_suppression(rows, 0.25, classes=[1])[0][:, 4:].tolist() == [[pytest.approx(0.7), 1.0]]
    assert len(non_max_suppression(rows, 0.25, classes=[1], multi_label=True)[0]) == 2
    assert len(non_max_suppression(rows, 0.25, classes=[])[0]) == 0


def test_known_labels_enter_with_confidence_one():
    labels = [torch.tensor([[2, 30.0, 40, 20, 10]]), torch.zeros(0, 5)]
    found = non_max_suppression(random_prediction() * 0, 0.25, labels=labels)
    assert found[0].tolist() == [[20, 35, 40, 45, 1, 2]]
    assert found[1].shape == (0, 6)


def test_first_entry_of_a_tuple_is_taken():
    prediction = random_prediction()
    for wrapped in ((prediction, [prediction]), [prediction, None]):
        assert torch.equal(non_max_suppression(wrapped)[1], non_max_suppression(prediction)[1])


def test_half_precision_is_computed_in_single():
    prediction = random_prediction().half()
    for a, b in zip(non_max_suppression(prediction), non_max_suppression(prediction.float()), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conf_thres": 1.5}, r"conf_thres is 1.5, but must be from 0 to 1"),
        ({"iou_thres": -0.1}, r"iou_thres is -0.1, but must be from 0 to 1"),
        ({"conf_thres": math.nan}, r"conf_thres is nan, but must be from 0 to 1"),
        ({"max_det": 0}, r"max_det is 0, but must be at least 1"),
        ({"classes": [3]}, r"class 3 does not exist, the model has classes 0 to 2"),
        ({"labels": [torch.zeros(0, 5)]}, r"labels for 1 images were given, but predictions of 2"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        non_max_suppression(random_prediction(), **settings)


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"prediction has shape \(300, 8\), expected \(images, boxes, 5 \+ classes\)"):
        non_max_suppression(random_prediction()[0])
