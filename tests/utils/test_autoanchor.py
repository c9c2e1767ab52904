"""Anchors: the fit measure, the level order, the search and the check."""

import numpy as np
import pytest

from utils.autoanchor import anchor_metric, find_better_anchors, label_sizes, order_levels, search_anchors

COCO_P5 = np.array([10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326]).reshape(3, 3, 2)
STRIDE = np.array([8, 16, 32])


def boxes(wh_pixels, side=640):
    """Labels of one square image from box sizes in pixels."""
    wh = np.asarray(wh_pixels, np.float32).reshape(-1, 2) / side
    return np.concatenate([np.zeros((len(wh), 1)), np.full((len(wh), 2), 0.5), wh], axis=1).astype(np.float32)


def test_metric_gives_the_numbers_of_the_specification():
    best, recall, per_target = anchor_metric([(64, 96), (320, 240), (12.8, 10.8)], COCO_P5, 4.0)
    np.testing.assert_allclose(best, [0.80672, 0.73620, 0.78125], atol=5e-6)
    assert recall == 1.0
    assert per_target == pytest.approx(3.66667, abs=5e-6)


def test_metric_agrees_with_a_loop_over_sizes_anchors_and_sides():
    rng = np.random.default_rng(0)
    wh, anchors = rng.uniform(3, 300, (40, 2)), rng.uniform(3, 300, (5, 2))
    best, recall, per_target = anchor_metric(wh, anchors, 3.0)
    worst = [[max(max(s / a, a / s) for s, a in zip(b, k, strict=True)) for k in anchors] for b in wh]
    np.testing.assert_allclose(best, [1 / min(row) for row in worst])
    assert recall == np.mean([min(row) < 3 for row in worst])
    assert per_target == pytest.approx(np.mean([sum(r < 3 for r in row) for row in worst]))


def test_metric_counts_a_ratio_of_exactly_the_threshold_as_a_miss():
    _, recall, per_target = anchor_metric([(40, 40), (39.9, 10), (2.5, 10)], [(10, 10)], 4.0)
    assert recall == pytest.approx(1 / 3)
    assert per_target == pytest.approx(1 / 3)


def test_metric_of_many_sizes_equals_one_at_a_time_and_leaves_the_input():
    wh = np.random.default_rng(1).uniform(3, 300, (7, 2))
    before = wh.copy()
    together, recall, _ = anchor_metric(wh, COCO_P5, 4.0)
    alone = [anchor_metric(size, COCO_P5, 4.0) for size in wh]
    np.testing.assert_array_equal(together, np.concatenate([best for best, _, _ in alone]))
    assert recall == np.mean([r for _, r, _ in alone])
    np.testing.assert_array_equal(wh, before)


def test_metric_without_sizes():
    best, recall, per_target = anchor_metric(np.zeros((0, 2)), COCO_P5, 4.0)
    assert best.shape == (0,)
    assert (recall, per_target) == (0.0, 0.0)


@pytest.mark.parametrize(("anchors", "thr", "match"), [([(0, 5)], 4.0, "above 0 pixels"), ([(5, 5)], 1.0, "anchor_t")])
def test_metric_refuses_impossible_values(anchors, thr, match):
    with pytest.raises(ValueError, match=match):
        anchor_metric([(5, 5)], anchors, thr)


def test_order_follows_the_strides_and_comes_back_when_turned_twice():
    np.testing.assert_array_equal(order_levels(COCO_P5, STRIDE), COCO_P5)
    turned = order_levels(COCO_P5, STRIDE[::-1])
    np.testing.assert_array_equal(turned, COCO_P5[::-1])
    np.testing.assert_array_equal(order_levels(turned, STRIDE), COCO_P5)
    same_area = np.full((2, 3, 2), 10)
    np.testing.assert_array_equal(order_levels(same_area, [16, 8]), same_area)


def test_order_returns_a_copy():
    anchors = COCO_P5.copy()
    order_levels(anchors, STRIDE)[:] = 0
    np.testing.assert_array_equal(anchors, COCO_P5)


def test_search_finds_the_groups_the_sizes_were_made_of():
    rng = np.random.default_rng(2)
    groups = np.array([(12, 40), (60, 30), (150, 150), (300, 80)])
    wh = np.concatenate([g * rng.uniform(0.95, 1.05, (60, 2)) for g in groups])
    found = search_anchors(wh, n=4, gen=30, rng=rng)
    assert found.dtype == np.float32
    expected = groups[np.argsort(groups.prod(axis=1))]
    np.testing.assert_allclose(found, expected, rtol=0.06)


def test_search_never_loses_to_its_own_start_and_repeats_with_the_same_seed():
    wh = np.random.default_rng(3).lognormal(3.5, 0.8, (300, 2)).clip(2, 640)

    def fitness(anchors):
        best = anchor_metric(wh, anchors, 4.0)[0]
        return (best * (best > 0.25)).mean()

    start = search_anchors(wh, gen=0, rng=np.random.default_rng(5))
    end = search_anchors(wh, gen=150, rng=np.random.default_rng(5))
    assert fitness(end) > fitness(start)
    np.testing.assert_array_equal(end, search_anchors(wh, gen=150, rng=np.random.default_rng(5)))
    assert (np.diff(end.prod(axis=1)) >= 0).all()


def test_search_stays_between_two_pixels_and_the_image():
    wh = np.concatenate([np.full((20, 2), 2.1), np.full((20, 2), 64.0)]) * np.random.default_rng(4).uniform(1, 1.02)
    found = search_anchors(wh, n=6, img_size=64, gen=50)
    assert found.shape == (6, 2)
    assert found.min() >= 2
    assert found.max() <= 64


@pytest.mark.parametrize("wh", [[(30, 40)], [(30, 40)] * 20, [(30, 40), (100, 50)], [(8, 8), (8, 80), (0.5, 0.5)]])
def test_search_copes_with_fewer_sizes_than_anchors(wh):
    found = search_anchors(np.array(wh, float), n=9, gen=20)
    assert found.shape == (9, 2)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"wh": np.zeros((0, 2))}, "no box"),
        ({"wh": [(1.0, 1.5)]}, "no box"),
        ({"wh": [(9, 9)], "n": 0}, "n of 1"),
        ({"wh": [(9, 9)], "thr": 1.0}, "anchor_t"),
    ],
)
def test_search_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        search_anchors(**arguments)


def test_label_sizes_scale_the_long_side_of_each_image():
    labels = [boxes([(64, 32)]), np.zeros((0, 5)), boxes([(320, 640)])]  # fractions of 640 in both directions
    sizes = label_sizes([(1280, 720), (300, 300), (200, 400)], labels, 320)
    np.testing.assert_allclose(sizes[0], [(32, 9)])
    assert sizes[1].shape == (0, 2)
    np.testing.assert_allclose(sizes[2], [(80, 320)])


def test_check_keeps_anchors_that_fit():
    labels = [boxes([(20, 30), (100, 100)]), boxes([(300, 200)])]
    new, message = find_better_anchors([(640, 640)] * 2, labels, COCO_P5, STRIDE)
    assert new is None
    assert "best possible recall 1.000" in message


def test_check_replaces_anchors_that_do_not_fit():
    rng = np.random.default_rng(6)
    labels = [boxes(np.stack([rng.uniform(4, 9, 6), rng.uniform(300, 600, 6)], axis=1)) for _ in range(40)]
    before = [label.copy() for label in labels]
    arguments = ([(640, 640)] * 40, labels, COCO_P5.astype(np.float32), STRIDE)
    new, message = find_better_anchors(*arguments, seed=1)
    assert new.shape == (3, 3, 2)
    assert anchor_metric(np.concatenate(label_sizes(*arguments[:2], 640)), new, 4.0)[1] == 1.0
    assert (np.diff(new.reshape(9, 2).prod(axis=1)) >= 0).all()
    assert "best possible recall 0.000" in message
    again, _ = find_better_anchors(*arguments, seed=1)
    np.testing.assert_array_equal(new, again)
    for label, copy in zip(labels, before, strict=True):
        np.testing.assert_array_equal(label, copy)


@pytest.mark.parametrize(
    ("side", "low", "high"), [(36.3, 1, 1), (37, 0.86, 0.95), (40, 0.4, 0.6), (43.5, 0.05, 0.14), (44.5, 0, 0)]
)
def test_check_scales_each_image_by_a_factor_of_its_own(side, low, high):
    """An anchor of 10 pixels fits below 40, so of 0.9 to 1.1 those factors fit that are below 40 / side."""
    labels = [boxes([(side, side)] * 4)] * 500
    message = find_better_anchors([(640, 640)] * 500, labels, np.full((1, 3, 2), 10.0), [8])[1]
    recall = float(message.partition("best possible recall ")[2][:5])
    assert low <= recall <= high
    assert recall * 500 == pytest.approx(round(recall * 500))  # the boxes of an image fit together or not at all


def test_check_gives_large_anchors_to_the_large_stride():
    rng = np.random.default_rng(7)
    labels = [boxes(np.stack([rng.uniform(4, 9, 20), rng.uniform(300, 600, 20)], axis=1))]
    new, _ = find_better_anchors([(640, 640)], labels, COCO_P5[::-1], STRIDE[::-1])
    area = new.prod(axis=2).mean(axis=1)
    assert area[0] > area[1] > area[2]


def test_check_without_boxes_keeps_the_anchors():
    for shapes, labels in ([], []), ([(640, 480)], [np.zeros((0, 5))]), ([(640, 480)], [boxes([(0, 0)])]):
        new, message = find_better_anchors(shapes, labels, COCO_P5, STRIDE)
        assert new is None
        assert "no boxes" in message


def test_check_keeps_the_anchors_when_all_boxes_are_dust():
    new, message = find_better_anchors([(640, 640)], [boxes([(1, 1), (1.5, 1)])], COCO_P5, STRIDE)
    assert new is None
    assert "smaller than 2 pixels" in message


def test_check_names_tiny_boxes():
    new, message = find_better_anchors([(640, 640)], [boxes([(2.5, 2.2)] * 3)], COCO_P5, STRIDE)
    assert new is not None
    assert "3 of 3 boxes have a side below 3 pixels" in message


def test_check_refuses_labels_and_sizes_of_different_number():
    with pytest.raises(ValueError, match="2 image sizes for the labels of 1 images"):
        find_better_anchors([(640, 640)] * 2, [boxes([(9, 9)])], COCO_P5, STRIDE)
