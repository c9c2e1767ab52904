"""Letterbox and augmentations: for every image and draw, pixels and boxes stay together and inside of the frame."""

from collections import Counter

import cv2
import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import assume, given
from hypothesis import strategies as st

from utils import augmentations as aug
from utils.augmentations import Perspective, Tile
from utils.boxes import xyxy2xywhn
from utils.datasets import mosaics

SEEDS = st.integers(0, 2**32 - 1)


def picture(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def random_tile(rng, height, width, count, polygons):
    """A noisy image with boxes in pixels, some with a triangle or more as their outline."""
    x, y = (np.sort(rng.uniform(0, side, (count, 2))) for side in (width, height))
    labels = np.stack((rng.integers(0, 5, count), x[:, 0], y[:, 0], x[:, 1], y[:, 1]), 1).astype(np.float32)
    segments = []
    if polygons and count:
        sizes = [rng.choice([0, 3, 8]) for _ in range(count)]
        low, high = labels[:, 1:3], labels[:, 3:5]
        segments = [(low[i] + rng.random((n, 2)) * (high[i] - low[i])).astype(np.float32) for i, n in enumerate(sizes)]
    return Tile(picture(rng, height, width), labels.reshape(-1, 5), segments)


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 8, 32]),
)
def test_letterbox(shape, frame, auto, fill, scaleup, stride):
    im = np.full((*shape, 3), 200, np.uint8)
    out, ratio, pad = aug.letterbox(im, frame, (7, 8, 9), auto, fill, scaleup, stride)
    assert (im == 200).all()
    painted = (out == 200).all(2)
    assert ((out == (7, 8, 9)).all(2) | painted).all()  # nothing but the picture and the padding
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    assert painted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    if fill:
        assert out.shape[:2] == frame
        assert ratio == (frame[1] / shape[1], frame[0] / shape[0])  # (width, height)
        assert painted.all()
        return
    assert ratio[0] == ratio[1] <= (np.inf if scaleup else 1)
    assert [len(rows), len(columns)] == [max(1, round(side * ratio[0])) for side in shape]
    assert rows[0] == round(pad[1] - 0.1)
    assert columns[0] == round(pad[0] - 0.1)
    assert out.shape[0] == len(rows) + 2 * pad[1]
    assert out.shape[1] == len(columns) + 2 * pad[0]
    for side, wanted, inner in zip(out.shape, frame, (len(rows), len(columns)), strict=False):
        if auto:
            assert inner <= side < inner + stride
            assert (wanted - side) % stride == 0
        else:
            assert side == wanted


LIMITED = {"degrees": 180.0, "translate": 0.9, "scale": 0.9, "shear": 40.0, "perspective": 0.001}


@given(SEEDS, st.integers(0, 6), st.booleans(), st.sets(st.sampled_from(sorted(LIMITED))))
def test_warped_labels_are_inside_and_of_those_that_were_there(seed, count, polygons, kinds):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(10, 200, 2)
    tile = random_tile(rng, height, width, count, polygons)
    labels, segments = tile.labels.copy(), [segment.copy() for segment in tile.segments]
    draw = aug.draw_perspective(rng, **{kind: LIMITED[kind] for kind in kinds})
    shape = tuple(int(side) for side in rng.integers(10, 200, 2))
    matrix = aug.perspective_matrix(draw, (height, width), shape)
    im, found = aug.apply_perspective(tile.im, tile.labels, tile.segments, matrix, shape, draw.scale)
    assert (im.shape, im.dtype) == ((*shape, 4), np.uint8)
    assert found.dtype == np.float32
    assert found.shape == (len(found), 5)
    assert np.isfinite(found).all()
    assert ((found[:, 1:] >= 0) & (found[:, 1:] <= [shape[1], shape[0]] * 2)).all()
    assert (found[:, 3:] - found[:, 1:3] > 2 - 1e-4).all()
    assert Counter(found[:, 0].tolist()) <= Counter(labels[:, 0].tolist())
    np.testing.assert_array_equal(tile.labels, labels)
    assert all(np.array_equal(a, b) for a, b in zip(tile.segments, segments, strict=True))


@given(
    st.floats(-180, 180),
    st.floats(0.5, 2),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(0.3, 0.7),
    st.floats(0.3, 0.7),
)
def test_a_filled_rectangle_and_its_box_stay_together(angle, scale, shear_x, shear_y, tx, ty):
    im = np.zeros((120, 160, 3), np.uint8)
    im[40:80, 60:100] = 255
    labels = np.array([[0, 60, 40, 100, 80]], np.float32)
    draw = Perspective(angle=angle, scale=scale, shear_x=shear_x, shear_y=shear_y, tx=tx, ty=ty)
    matrix = aug.perspective_matrix(draw, (120, 160), (400, 400))
    warped, found = aug.apply_perspective(im, labels, [], matrix, (400, 400), scale)
    y, x = np.nonzero((warped[..., 0] > 180) & (warped[..., 2] > 180))  # the border is 114
    assume(len(found) and len(x))
    seen = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    # a corner that is sharp ends in pixels that are covered by less than half: up to two of them
    assert np.abs(found[0, 1:] - seen).max() < 3


@given(SEEDS, st.booleans(), st.sampled_from([4, 9]))
def test_mosaic_moves_pixels_with_labels(seed, polygons, number):
    rng = np.random.default_rng(seed)
    size = height, width = tuple(rng.integers(20, 100, 2).tolist())
    tiles = [
        random_tile(rng, *rng.integers(10, np.array(size) + 1), int(rng.integers(0, 4)), polygons)
        for _ in range(number)
    ]
    draw, arrange = (mosaics.draw_mosaic, mosaics.mosaic4) if number == 4 else (mosaics.draw_mosaic9, mosaics.mosaic9)
    indices, place = draw(rng, 3, 50, size)
    assert len(indices) == number
    assert 3 in indices
    assert all(0 <= i < 50 for i in indices)
    sizes = [tile.im.shape[:2] for tile in tiles]
    corners = arrange(sizes, place, size)
    canvas = np.empty((2 * height, 2 * width, 4), np.uint8)
    mosaics.lay_images([tile.im for tile in tiles], corners, (0, 0, 2 * width, 2 * height), canvas, aug.FILL)
    rows = [np.c_[x.labels[:, :1], xyxy2xywhn(x.labels[:, 1:], w, h)] for x, (h, w) in zip(tiles, sizes, strict=True)]
    polygons = [[polygon / s[::-1] for polygon in x.segments] for x, s in zip(tiles, sizes, strict=True)]
    before = [row.copy() for row in rows]
    whole = aug.Tile(canvas, *mosaics.lay_labels(rows, polygons, sizes, corners, (2 * height, 2 * width)))
    assert len(whole.labels) == sum(len(tile.labels) for tile in tiles)
    assert ((whole.labels[:, 1:] >= 0) & (whole.labels[:, 1:] <= 2 * np.array([width, height] * 2))).all()
    assert len(whole.segments) in (0, len(whole.labels))
    for label, segment in zip(whole.labels, whole.segments, strict=False):
        assert not len(segment) or ((segment >= label[1:3] - 1e-3) & (segment <= label[3:5] + 1e-3)).all()
    assert all(np.array_equal(row, old) for row, old in zip(rows, before, strict=True))


@given(SEEDS, st.integers(0, 6), st.floats(0, 1))
def test_pasted_copies_are_mirrored_and_hide_no_box(seed, count, p):
    rng = np.random.default_rng(seed)
    tile = random_tile(rng, 60, 80, count, polygons=True)
    pixels = tile.im.copy()
    chosen = aug.draw_copy_paste(rng, tile.segments, p)
    out = aug.paste_copies(tile, chosen)
    assert np.array_equal(tile.im, pixels)
    assert out.im.shape == tile.im.shape
    np.testing.assert_array_equal(out.labels[: len(tile.labels)], tile.labels)
    added = out.labels[len(tile.labels) :]
    assert len(added) <= len(chosen)
    assert len(out.segments) in (0, len(out.labels))
    sources = {tuple(row) for row in tile.labels[:, [0, 2, 4]].tolist()}
    assert {tuple(row) for row in added[:, [0, 2, 4]].tolist()} <= sources
    assert ((added[:, 1:] >= 0) & (added[:, 1:] <= [80, 60, 80, 60])).all()
    changed = (out.im != tile.im).any(2)
    assert (out.im[changed] == cv2.flip(tile.im, 1)[changed]).all()


@given(SEEDS, st.booleans(), st.booleans())
def test_flips_undo_themselves(seed, up, left):
    rng = np.random.default_rng(seed)
    im = picture(rng, *rng.integers(1, 40, 2))
    labels = np.concatenate((rng.integers(0, 5, (4, 1)), rng.random((4, 4))), 1).astype(np.float32)
    once = aug.apply_flips(im, labels, (up, left))
    again = aug.apply_flips(*once, (up, left))
    np.testing.assert_array_equal(again[0], im)
    np.testing.assert_allclose(again[1], labels, atol=1e-6)
    expected = im[:: -1 if up else 1, :: -1 if left else 1]
    np.testing.assert_array_equal(once[0], expected)


@given(SEEDS, st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)))
def test_colour_keeps_shape_grey_and_brightness_order(seed, strength):
    rng = np.random.default_rng(seed)
    gains = aug.draw_hsv(rng, *strength)
    assert (np.abs(gains - 1) <= strength).all()
    table = aug.hsv_table(gains)
    assert table.dtype == np.uint8
    assert table[:, 0].max() < 180
    assert (np.diff(table[:, 1:].astype(int), axis=0) >= 0).all()
    im = picture(rng, 5, 7)
    out = aug.apply_hsv(im, gains)
    assert (out.shape, out.dtype) == (im.shape, np.uint8)
    grey = np.repeat(picture(rng, 5, 7)[..., :1], 3, 2)
    flat = aug.apply_hsv(grey, gains)
    assert (flat == flat[..., :1]).all()


@given(SEEDS, st.floats(0, 1))
def test_blend_lies_between_both_images(seed, ratio):
    rng = np.random.default_rng(seed)
    a, b = picture(rng, 6, 5), picture(rng, 6, 5)
    out, labels = aug.mixup(a, np.zeros((2, 5), np.float32), b, np.ones((3, 5), np.float32), ratio)
    assert (out >= np.minimum(a, b).astype(int) - 1).all()
    assert (out <= np.maximum(a, b)).all()
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 1]
