"""Boxes and suppression: whatever the numbers, conversions undo each other and NMS is the greedy rule of the paper."""

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils import boxes
from utils.augmentations import letterbox
from utils.nms import non_max_suppression

SIDES = st.integers(1, 2000)
GRID = st.integers(0, 12)


@st.composite
def corner_boxes(draw, high=2000.0, least=0, most=8, columns=4, width=32):
    """Boxes (M, columns) xyxy of any finite numbers in -high..high, x1 <= x2 and y1 <= y2."""
    count = draw(st.integers(least, most))
    numbers = st.floats(-high, high, width=width)
    x = draw(arrays(f"float{width}", (count, columns), elements=numbers))
    x[:, :4] = np.concatenate((np.minimum(x[:, :2], x[:, 2:4]), np.maximum(x[:, :2], x[:, 2:4])), 1)
    return x


@given(corner_boxes(columns=6))
def test_corners_and_centres_undo_each_other(x):
    before = x.copy()
    back = boxes.xywh2xyxy(boxes.xyxy2xywh(x))
    np.testing.assert_allclose(back, x, atol=1e-3)
    np.testing.assert_array_equal(back[:, 4:], x[:, 4:])
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(boxes.xyxy2xywh(torch.from_numpy(x)).numpy(), boxes.xyxy2xywh(x))


@given(corner_boxes(width=64), SIDES, SIDES)
def test_normalised_boxes_undo_each_other(x, w, h):
    np.testing.assert_allclose(boxes.xywhn2xyxy(boxes.xyxy2xywhn(x, w, h), w, h), x, atol=1e-8)


@given(corner_boxes(), SIDES, SIDES)
def test_clipped_boxes_are_inside_and_stay_so(x, w, h):
    clipped = boxes.clip_boxes(x, (h, w))
    assert ((clipped >= 0) & (clipped <= [w, h, w, h])).all()
    assert (clipped[:, :2] <= clipped[:, 2:]).all()
    np.testing.assert_array_equal(boxes.clip_boxes(clipped, (h, w)), clipped)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans(), st.booleans(), st.randoms())
def test_scaled_boxes_are_those_before_the_letterbox(shape, frame, auto, scaleup, rng):
    image = np.zeros((*shape, 1), np.uint8)
    out, ratio, pad = letterbox(image, frame, auto=auto, scaleup=scaleup)
    x, y = sorted(rng.uniform(0, shape[1]) for _ in range(2)), sorted(rng.uniform(0, shape[0]) for _ in range(2))
    original = np.array([[x[0], y[0], x[1], y[1]]])
    inside = np.tile([ratio[1], ratio[0]], 2) * original + np.tile(pad, 2)
    np.testing.assert_allclose(boxes.scale_boxes(out.shape, inside, shape, (ratio, pad)), original, atol=1e-6)
    if scaleup and not auto and min(side * ratio[0] for side in shape) > 0.5:  # then the shapes alone tell
        np.testing.assert_allclose(boxes.scale_boxes(out.shape, inside, shape), original, atol=1e-6)


@given(st.lists(st.tuples(GRID, GRID, GRID, GRID), max_size=6), st.lists(st.tuples(GRID, GRID, GRID, GRID), max_size=6))
def test_overlap_is_that_of_counted_cells(first, second):
    def cells(x1, y1, x2, y2):
        grid = np.zeros((12, 12), bool)
        grid[min(y1, y2) : max(y1, y2), min(x1, x2) : max(x1, x2)] = True
        return grid

    expected = np.zeros((len(first), len(second)))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            union = (cells(*a) | cells(*b)).sum()
            expected[i, j] = (cells(*a) & cells(*b)).sum() / union if union else 0
    a, b = (
        np.array([[min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)] for x1, y1, x2, y2 in rows], float).reshape(
            -1, 4
        )
        for rows in (first, second)
    )
    np.testing.assert_allclose(boxes.box_iou(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(boxes.box_iou(torch.from_numpy(b), torch.from_numpy(a)).T, expected, atol=1e-6)
    for i in range(min(len(a), len(b))):
        assert boxes.bbox_iou(a[i], b[i], xywh=False) == pytest.approx(expected[i, i], abs=1e-6)


@given(corner_boxes(least=2), st.sampled_from(["GIoU", "DIoU", "CIoU"]))
def test_extended_overlaps_are_finite_and_bounded(x, kind):
    pairs = torch.from_numpy(x).double().requires_grad_()
    plain = boxes.bbox_iou(pairs[:-1], pairs[1:], xywh=False)
    value = boxes.bbox_iou(pairs[:-1], pairs[1:], xywh=False, **{kind: True})
    assert (value <= plain + 1e-9).all()
    assert (value >= (-2.0001 if kind == "CIoU" else -1.0001)).all()
    value.sum().backward()
    assert pairs.grad.isfinite().all()


def greedy(rows, conf_thres, iou_thres, agnostic, max_det):
    """NMS of one image, box by box in Python: [(row, class)] of what stays, best first."""
    found = []
    for i, row in enumerate(rows.tolist()):
        scores = [torch.tensor(row[4]) * torch.tensor(score) for score in row[5:]]
        best = max(range(len(scores)), key=lambda c: (scores[c], -c))
        if row[4] > conf_thres and scores[best] > conf_thres:
            found.append((-scores[best].item(), i, best))
    kept = []
    for _, i, cls in sorted(found):
        box = boxes.xywh2xyxy(rows[i : i + 1, :4]).double()
        others = [boxes.xywh2xyxy(rows[j : j + 1, :4]).double() for j, other in kept if agnostic or other == cls]
        if all(boxes.box_iou(box, other, eps=0).nan_to_num()[0, 0] <= iou_thres for other in others):
            kept.append((i, cls))
    return kept[:max_det]


SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0])  # many ties


@st.composite
def predictions(draw):
    """Prediction rows (R, 7) on a coarse grid, so that overlaps and scores tie."""
    count = draw(st.integers(0, 12))
    rows = [
        [draw(GRID) * 5.0, draw(GRID) * 5.0, draw(GRID) * 4.0, draw(GRID) * 4.0, *(draw(SCORES) for _ in range(3))]
        for _ in range(count)
    ]
    return torch.tensor(rows).reshape(-1, 7)


@given(
    predictions(),
    st.sampled_from([0.0, 0.2, 0.6]),
    st.sampled_from([0.0, 0.31, 0.77, 1.0]),
    st.booleans(),
    st.integers(1, 15),
)
def test_suppression_is_the_greedy_rule(rows, conf_thres, iou_thres, agnostic, max_det):
    before = rows.clone()
    batch = torch.stack((torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)), rows))
    found = non_max_suppression(batch, conf_thres, iou_thres, agnostic=agnostic, max_det=max_det)[1]
    expected = greedy(rows, conf_thres, iou_thres, agnostic, max_det)
    assert found.shape == (len(expected), 6)
    assert [(row[5], row[4]) for row in found.tolist()] == [
        (cls, (rows[i, 4] * rows[i, 5 + cls]).item()) for i, cls in expected
    ]
    torch.testing.assert_close(found[:, :4], boxes.xywh2xyxy(rows[[i for i, _ in expected], :4]))
    assert torch.equal(rows, before)


@given(predictions(), st.sampled_from([0.0, 0.2]), st.sampled_from([0.3, 0.6]))
def test_every_class_of_a_box_is_suppressed_by_its_own_kind(rows, conf_thres, iou_thres):
    found = non_max_suppression(rows[None], conf_thres, iou_thres, multi_label=True)[0]
    alone = []
    for cls in range(2):
        other = rows.clone()
        other[:, 5:] = 0
        other[:, 5 + cls] = rows[:, 5 + cls]
        alone.append(non_max_suppression(other[None], conf_thres, iou_thres)[0])
    one, both = (sorted(map(tuple, x.tolist())) for x in (torch.cat(alone), found))
    assert one == both
    assert found[:, 4].tolist() == sorted(found[:, 4].tolist(), reverse=True)
