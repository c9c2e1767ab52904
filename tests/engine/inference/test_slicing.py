"""engine/inference/slicing.py: the grid covers the image, and cut boxes become one."""

import numpy as np
import pytest
import torch

from engine.inference.slicing import cut_sides, join_parts, merge_tiles, tile_grid


@pytest.mark.parametrize(("height", "width"), [(100, 100), (640, 640), (641, 700), (1000, 3333), (50, 900)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_grid(height, width, overlap):
    windows = tile_grid(height, width, 640, overlap)
    count = np.zeros((height, width), int)
    for x1, y1, x2, y2 in windows:
        assert (x2 - x1, y2 - y1) == (min(640, width), min(640, height))
        assert min(x1, y1) >= 0
        count[y1:y2, x1:x2] += 1
    assert count.min() == 1
    assert len(set(windows)) == len(windows)
    for left, right in zip(sorted({w[0] for w in windows}), sorted({w[0] for w in windows})[1:], strict=False):
        assert left + 640 - right >= int(640 * overlap)
    assert len(tile_grid(min(height, 640), min(width, 640), 640, overlap)) == 1


WINDOWS = [(0, 0, 100, 100), (80, 0, 180, 100)]  # share the strip from 80 to 100
SHAPE = (100, 180)


def row(x1, y1, x2, y2, conf, cls=0):
    return [float(v) for v in (x1, y1, x2, y2, conf, cls)]


def merged(*found, **options):
    tensors = [torch.tensor(rows).view(-1, 6) for rows in found]
    return merge_tiles(tensors, [*WINDOWS, (0, 0, 180, 100)][: len(found)], SHAPE, **options).tolist()


def test_cut_sides():
    boxes = torch.tensor([[0.0, 0, 50, 50], [70, 10, 100, 100], [20, 20, 97, 30]])
    assert cut_sides(boxes, WINDOWS[0], SHAPE).tolist() == [
        [False] * 4,
        [False, False, True, False],  # the lower side is that of the image
        [False] * 4,
    ]


def test_same_object_in_both_tiles_is_one():
    assert merged([row(82, 10, 95, 30, 0.5)], [row(83, 10, 95, 30, 0.75)]) == [row(83, 10, 95, 30, 0.75)]
    both = merged([row(82, 10, 95, 30, 0.5)], [row(83, 10, 95, 30, 0.75, 1)])
    assert len(both) == 2
    assert len(merged([row(82, 10, 95, 30, 0.5)], [row(83, 10, 95, 30, 0.75, 1)], agnostic=True)) == 1


def test_cut_part_gives_way_to_the_whole_even_if_it_is_more_certain():
    whole = row(85, 10, 130, 40, 0.5)
    assert merged([row(85, 10, 100, 40, 0.75)], [whole]) == [whole]
    other = row(85, 10, 100, 40, 0.75, 1)
    assert merged([other], [whole]) == [other, whole]


def test_object_wider_than_the_strip_is_joined():
    parts = [row(40, 10, 100, 40, 0.5)], [row(80, 11, 150, 40, 0.75)]
    assert merged(*parts) == [row(40, 10, 150, 40, 0.75)]
    seen = row(41, 10, 149, 41, 0.25)
    assert merged(*parts, [seen]) == [seen]  # the view of the whole image knows better


def test_neighbours_are_not_joined():
    apart = [row(40, 10, 100, 30, 0.5)], [row(80, 60, 150, 90, 0.75)]  # one above the other
    assert len(merged(*apart)) == 2
    classes = [row(40, 10, 100, 40, 0.5, 0)], [row(80, 11, 150, 40, 0.75, 1)]
    assert len(merged(*classes)) == 2
    begins_inside = [row(88, 10, 100, 40, 0.5)], [row(80, 10, 86, 40, 0.75)]
    assert len(merged(*begins_inside)) == 2


def test_four_quarters_are_joined():
    windows = [(0, 0, 100, 100), (80, 0, 180, 100), (0, 80, 100, 180), (80, 80, 180, 180)]
    shape = (180, 180)
    quarters = [(30, 30, 100, 100), (80, 30, 150, 100), (30, 80, 100, 150), (80, 80, 150, 150)]
    found = [torch.tensor([row(*box, 0.5 + i / 8)]) for i, box in enumerate(quarters)]
    assert merge_tiles(found, windows, shape).tolist() == [row(30, 30, 150, 150, 0.875)]


def test_nothing_and_limits():
    assert merged([], []) == []
    assert merge_tiles([torch.zeros(0, 6)] * 2, WINDOWS, SHAPE).shape == (0, 6)
    assert join_parts(torch.zeros(0, 6), torch.zeros(0, 4, dtype=torch.bool), torch.zeros(0)).shape == (0, 6)
    assert len(merged([row(1, 1, 9, 9, 0.5), row(20, 20, 30, 30, 0.5)], [row(120, 1, 130, 9, 0.5)], max_det=2)) == 2
