"""Letterbox and augmentations: spec vectors, hand-made scenes, strength 0, pixels and boxes together."""

import colorsys

import cv2
import numpy as np
import pytest

from utils import augmentations as aug
from utils.boxes import xyxy2xywhn
from utils.datasets import mosaics


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def scene(height, width, box, fill=255):
    """A grey image with one filled rectangle and its label."""
    im = np.full((height, width, 3), aug.FILL, np.uint8)
    x1, y1, x2, y2 = box
    im[y1:y2, x1:x2] = fill
    return im, np.array([[1, *box]], np.float32)


def bright_box(im):
    """The box around the pixels that are nearer to white than to grey."""
    y, x = np.nonzero(im[..., 0] > (255 + aug.FILL) / 2)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


# Letterbox ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "new", "auto", "scaleup", "out", "r", "borders"),
    [
        ((480, 640), 640, True, True, (480, 640), 1.0, (0, 0, 0, 0)),
        ((720, 1280), 640, True, True, (384, 640), 0.5, (12, 12, 0, 0)),
        ((1080, 810), 640, True, True, (640, 480), 0.592593, (0, 0, 0, 0)),
        ((375, 500), 640, False, False, (640, 640), 1.0, (132, 133, 70, 70)),
        ((333, 500), 640, False, True, (640, 640), 1.28, (107, 107, 0, 0)),
        ((427, 640), (448, 672), False, False, (448, 672), 1.0, (10, 11, 16, 16)),
        ((100, 37), 640, True, True, (640, 256), 6.4, (0, 0, 9, 10)),
        ((33, 500), (384, 640), True, True, (64, 640), 1.28, (11, 11, 0, 0)),
        ((641, 640), 640, False, False, (640, 640), 0.99844, (0, 0, 0, 1)),
    ],
)
def test_letterbox_vectors(shape, new, auto, scaleup, out, r, borders):
    im = np.full((*shape, 3), 255, np.uint8)
    before = im.copy()
    result, ratio, pad = aug.letterbox(im, new, auto=auto, scaleup=scaleup)
    assert result.shape == (*out, 3)
    assert ratio == pytest.approx((r, r), abs=1e-5)
    x1, y1, x2, y2 = bright_box(result)
    assert (y1, out[0] - y2, x1, out[1] - x2) == borders
    assert pad == ((borders[2] + borders[3]) / 2, (borders[0] + borders[1]) / 2)
    assert (x1, y1) == (round(pad[0] - 0.1), round(pad[1] - 0.1))
    assert np.array_equal(im, before)


def test_letterbox_scale_fill_stretches():
    result, ratio, pad = aug.letterbox(noise(50, 100), (64, 32), scaleFill=True)
    assert result.shape == (64, 32, 3)
    assert ratio == (32 / 100, 64 / 50)
    assert pad == (0, 0)


def test_letterbox_uses_the_given_colour_and_stride():
    result, _, _ = aug.letterbox(np.zeros((30, 64, 3), np.uint8), 64, color=(1, 2, 3), stride=48)
    assert result.shape == (64, 64, 3)  # 34 missing rows, modulo 48
    assert result[0, 0].tolist() == [1, 2, 3]


def test_letterbox_returns_a_fitting_image_itself():
    im = noise(64, 64)
    assert aug.letterbox(im, 64)[0] is im


def test_letterbox_of_an_extreme_shape_keeps_a_pixel():
    assert aug.letterbox(np.zeros((2, 3000, 3), np.uint8), 64, auto=False)[0].shape == (64, 64, 3)


def test_letterbox_refuses_an_empty_frame():
    with pytest.raises(ValueError, match=r"new_shape \(0, 64\) must be at least 1 pixel"):
        aug.letterbox(noise(8, 8), (0, 64))


# Perspective ----------------------------------------------------------------------------------------------------------
VECTOR = aug.Perspective(angle=10, scale=0.8, shear_x=5, shear_y=-3, tx=0.45, ty=0.60)


def test_perspective_matrix_vector():
    matrix = aug.perspective_matrix(VECTOR, (1280, 1280), (640, 640))
    expected = [[0.775692, 0.207846, -341.464677], [-0.180208, 0.780566, -0.229106], [0, 0, 1]]
    assert matrix == pytest.approx(np.array(expected), abs=1e-6)


def test_perspective_point_vector():
    draw = aug.Perspective(**{**vars(VECTOR), "px": 0.0005, "py": -0.0003})
    matrix = aug.perspective_matrix(draw, (1280, 1280), (640, 640))
    assert aug.warp_points(np.array([[100.0, 200.0]]), matrix)[0] == pytest.approx([-304.025761, 98.458551], abs=1e-5)


def test_the_neutral_perspective_is_the_identity():
    assert np.array_equal(aug.perspective_matrix(aug.Perspective(), (33, 57), (33, 57)), np.eye(3))


def test_strength_zero_draws_the_neutral_perspective():
    assert aug.draw_perspective(np.random.default_rng(0)) == aug.Perspective()


def test_drawn_perspectives_fill_their_ranges():
    rng = np.random.default_rng(0)
    limits = {"degrees": 10, "translate": 0.1, "scale": 0.5, "shear": 5, "perspective": 0.001}
    draws = np.array([list(vars(aug.draw_perspective(rng, **limits)).values()) for _ in range(2000)])
    centre = np.array([0, 0, 0, 1, 0, 0, 0.5, 0.5])
    half = np.array([0.001, 0.001, 10, 0.5, 5, 5, 0.1, 0.1])
    deviation = (draws - centre) / half
    assert np.abs(deviation).max() <= 1
    assert (deviation.max(0) > 0.98).all()
    assert (deviation.min(0) < -0.98).all()
    correlation = np.corrcoef(deviation.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.1  # eight numbers, not one used eight times


def test_identity_changes_nothing():
    im, labels = noise(40, 60), np.array([[2, 5, 6, 30, 33]], np.float32)
    result, kept = aug.apply_perspective(im, labels, [], np.eye(3), (40, 60))
    assert result is im
    assert np.array_equal(kept, labels)


@pytest.mark.parametrize("perspective", [0, 0.0004])
@pytest.mark.parametrize("seed", range(5))
def test_rectangle_and_box_stay_together(seed, perspective):
    im, labels = scene(200, 240, (70, 60, 150, 130))
    draw = aug.draw_perspective(
        np.random.default_rng(seed), degrees=20, translate=0.1, scale=0.4, shear=8, perspective=perspective
    )
    matrix = aug.perspective_matrix(draw, (200, 240), (180, 220))
    before = im.copy(), labels.copy()
    warped, kept = aug.apply_perspective(im, labels, [], matrix, (180, 220), draw.scale)
    assert warped.shape == (180, 220, 4)
    assert kept.dtype == np.float32
    assert kept[0, 1:] == pytest.approx(bright_box(warped), abs=1.5)
    assert np.array_equal(im, before[0])
    assert np.array_equal(labels, before[1])


def test_zoom_keeps_rectangle_and_box_together_to_the_pixel():
    im, labels = scene(64, 64, (16, 24, 40, 40))
    draw = aug.Perspective(scale=0.5)
    matrix = aug.perspective_matrix(draw, (64, 64), (32, 32))
    warped, kept = aug.apply_perspective(im, labels, [], matrix, (32, 32), 0.5)
    assert kept[0, 1:].tolist() == [8, 12, 20, 20]
    assert bright_box(warped).tolist() == [8, 12, 20, 20]


def test_warp_without_labels():
    warped, kept = aug.apply_perspective(noise(20, 20), np.zeros((0, 5), np.float32), [], np.eye(3), (10, 10))
    assert warped.shape == (10, 10, 4)
    assert kept.shape == (0, 5)


def test_many_labels_are_warped_like_single_ones():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (8, 2))
    labels = np.c_[np.arange(8), corners, corners + rng.uniform(5, 40, (8, 2))].astype(np.float32)
    matrix = aug.perspective_matrix(VECTOR, (100, 100), (90, 90))
    im = noise(100, 100)
    together = aug.apply_perspective(im, labels, [], matrix, (90, 90), 0.8)[1]
    single = [aug.apply_perspective(im, labels[i : i + 1], [], matrix, (90, 90), 0.8)[1] for i in range(8)]
    assert np.array_equal(together, np.concatenate(single))


def test_polygon_gives_a_tighter_box_than_corners():
    labels = np.array([[0, 20, 20, 60, 60], [1, 20, 20, 60, 60]], np.float32)
    diamond = np.array([[40, 20], [60, 40], [40, 60], [20, 40]], np.float32)
    matrix = aug.perspective_matrix(aug.Perspective(angle=45), (80, 80), (80, 80))
    _, kept = aug.apply_perspective(noise(80, 80), labels, [diamond, np.zeros((0, 2))], matrix, (80, 80))
    half = 20 / np.sqrt(2)  # a diamond of half diagonal 20, turned by 45 degrees, is a square with this half side
    assert kept[0, 1:] == pytest.approx([40 - half, 40 - half, 40 + half, 40 + half], abs=0.1)
    corner = 20 * np.sqrt(2)
    assert kept[1, 1:] == pytest.approx([40 - corner, 40 - corner, 40 + corner, 40 + corner], abs=0.1)


def test_polygon_outside_the_output_is_dropped_and_partly_outside_is_cut():
    labels = np.array([[0, 0, 0, 30, 30], [1, 60, 60, 90, 90]], np.float32)
    squares = [np.array([[a, a], [b, a], [b, b], [a, b]], np.float32) for a, b in ((0, 30), (60, 90))]
    shift = np.array([[1, 0, -40], [0, 1, -40], [0, 0, 1]])
    _, kept = aug.apply_perspective(noise(100, 100), labels, squares, shift, (40, 40))
    assert kept[:, 0].tolist() == [1]
    assert kept[0, 1:] == pytest.approx([20, 20, 40, 40], abs=0.2)


def test_resampled_polygon_is_closed_and_keeps_its_corners():
    triangle = np.array([[0, 0], [8, 0], [0, 6]], np.float32)
    points = aug.resample_polygon(triangle, 7)
    expected = [[0, 0], [4, 0], [8, 0], [4, 3], [0, 6], [0, 3], [0, 0]]
    assert points == pytest.approx(np.array(expected))


def test_boxes_behind_the_horizon_are_dropped():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]])  # depth 1 - 0.02 x: x = 50 is the horizon
    labels = np.array([[0, 10, 10, 20, 20], [1, 45, 10, 55, 20], [2, 60, 10, 70, 20]], np.float32)
    kept = aug.apply_perspective(noise(80, 80), labels, [], matrix, (80, 80))[1]
    assert kept[:, 0].tolist() == [0]


def test_labels_that_a_mosaic_cut_off_do_not_come_back_when_it_is_turned():
    labels = np.array([[0, 0, 60, 0, 140], [1, 20, 60, 60, 140]], np.float32)  # the first lies left of the canvas
    matrix = aug.perspective_matrix(aug.Perspective(angle=10.0, tx=1.0), (200, 200), (100, 100))
    assert aug.apply_perspective(noise(200, 200), labels, [], matrix, (100, 100))[1][:, 0].tolist() == [1]


def test_box_candidates_vectors():
    old = np.array([[0, 0, 10, 10]] * 3 + [[0, 0, 300, 300]], float)
    new = np.array([[0, 0, 3, 3.4], [0, 0, 2, 10], [0, 0, 3, 3.2], [0, 0, 300, 3]])
    assert aug.box_candidates(old.T, new.T).tolist() == [True, False, False, False]
    assert aug.box_candidates(old[3:].T, new[3:].T, area_thr=0.009).tolist() == [False]  # aspect 100 is not below 100
    assert aug.box_candidates(old[2:3].T, new[2:3].T, area_thr=np.array([0.01])).tolist() == [True]
    thin = np.array([[0, 0, 297, 3], [0, 0, 3, 297], [0, 0, 2.98, 299]])  # the last aspect is above 100
    assert aug.box_candidates(thin.T, thin.T).tolist() == [True, True, False]
    small = np.array([[0, 0, 2.1, 2.1], [0, 0, 2, 3], [0, 0, 3, 2]])  # both sides are above 2 pixels
    assert aug.box_candidates(small.T, small.T).tolist() == [True, False, False]
    assert aug.box_candidates(old[:0].T, new[:0].T).shape == (0,)


# Mosaic ---------------------------------------------------------------------------------------------------------------
def flat_tile(height, width, value, box, segments=()):
    labels = np.array([[value, *box]], np.float32)
    return aug.Tile(np.full((height, width, 3), value, np.uint8), labels, list(segments))


def lay(tiles, corners, side):
    """Lay tiles with labels in pixels onto a canvas of chance."""
    sizes = [tile.im.shape[:2] for tile in tiles]
    rows = [np.c_[x.labels[:, :1], xyxy2xywhn(x.labels[:, 1:], w, h)] for x, (h, w) in zip(tiles, sizes, strict=True)]
    polygons = [[polygon / size[::-1] for polygon in x.segments] for x, size in zip(tiles, sizes, strict=True)]
    canvas = noise(side, side, 4)
    mosaics.lay_images([tile.im for tile in tiles], corners, (0, 0, side, side), canvas, aug.FILL)
    return aug.Tile(canvas[..., :3], *mosaics.lay_labels(rows, polygons, sizes, corners, (side, side)))


def mosaic4(tiles, centre, size):
    return lay(tiles, mosaics.mosaic4([tile.im.shape[:2] for tile in tiles], centre, (size, size)), 2 * size)


def mosaic9(tiles, window, size):
    return lay(tiles, mosaics.mosaic9([tile.im.shape[:2] for tile in tiles], window, (size, size)), 2 * size)


def test_mosaic_by_hand():
    tiles = [
        flat_tile(20, 20, 1, (0, 0, 10, 10)),
        flat_tile(10, 20, 2, (0, 0, 20, 10)),
        flat_tile(20, 5, 3, (0, 0, 5, 20)),
        flat_tile(20, 20, 4, (10, 10, 20, 20)),
    ]
    before = [(t.im.copy(), t.labels.copy()) for t in tiles]
    canvas, labels, segments = mosaic4(tiles, (15, 24), 20)
    expected = np.full((40, 40), aug.FILL)
    expected[4:24, 0:15] = 1  # its five left columns are cut off
    expected[14:24, 15:35] = 2
    expected[24:40, 10:15] = 3
    expected[24:40, 15:35] = 4
    assert np.array_equal(canvas[..., 0], expected)
    assert labels.tolist() == [[1, 0, 4, 5, 14], [2, 15, 14, 35, 24], [3, 10, 24, 15, 40], [4, 25, 34, 35, 40]]
    assert segments == []
    for tile, (im, old) in zip(tiles, before, strict=True):
        assert np.array_equal(tile.im, im)
        assert np.array_equal(tile.labels, old)


def test_mosaic_moves_polygons_and_keeps_them_beside_their_labels():
    triangle = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    tiles = [flat_tile(20, 20, i, (0, 0, 10, 10), [triangle] if i == 3 else []) for i in range(4)]
    _, labels, segments = mosaic4(tiles, (20, 25), 20)
    assert [len(s) for s in segments] == [0, 0, 0, 3]
    assert segments[3].tolist() == [[20, 25], [30, 25], [20, 35]]
    assert len(labels) == len(segments)


def test_polygons_of_a_wide_tile_keep_their_sides():
    triangle = np.array([[0, 0], [20, 0], [0, 10]], np.float32)
    tiles = [flat_tile(10, 20, i, (0, 0, 20, 10), [triangle]) for i in range(4)]
    _, labels, segments = mosaic4(tiles, (20, 25), 20)
    corners = [(0, 15), (20, 15), (0, 25), (20, 25)]
    for (x, y), label, polygon in zip(corners, labels, segments, strict=True):
        assert label[1:].tolist() == [x, y, x + 20, y + 10]
        assert polygon.tolist() == [[x, y], [x + 20, y], [x, y + 10]]


def test_mosaic_of_backgrounds():
    empty = aug.Tile(noise(20, 20), np.zeros((0, 5), np.float32), [])
    assert mosaic4([empty] * 4, (20, 20), 20).labels.shape == (0, 5)


def test_only_a_part_of_the_canvas_is_painted():
    canvas = np.zeros((40, 40, 4), np.uint8)
    before = noise(20, 20)
    mosaics.lay_images([before, None, noise(20, 20)], [(5, 5), (25, 5), (0, 30)], (10, 8, 30, 28), canvas, aug.FILL)
    assert np.array_equal(canvas[8:25, 10:25, :3], before[3:20, 5:20])
    assert (canvas[8:28, 25:30, :3] == aug.FILL).all()  # the image that was left out
    canvas[8:28, 10:30] = 0
    assert not canvas.any()


@pytest.mark.parametrize("seed", range(8))
def test_the_warp_looks_at_the_visible_part_only(seed):
    rng = np.random.default_rng(seed)
    draw = aug.draw_perspective(rng, translate=0.9, scale=0.9)
    matrix = aug.perspective_matrix(draw, (80, 80), (40, 40))
    x1, y1, x2, y2 = aug.visible_part(matrix, (40, 40), (80, 80))
    one, other = noise(80, 80, 4), np.full((80, 80, 4), 7, np.uint8)
    other[y1:y2, x1:x2] = one[y1:y2, x1:x2]
    warped = [aug.apply_perspective(im, np.zeros((0, 5)), [], matrix, (40, 40))[0] for im in (one, other)]
    assert np.array_equal(*warped)
    if draw.scale > 1.1:  # and it is not the whole canvas
        assert (x2 - x1) * (y2 - y1) < 80 * 80


@pytest.mark.parametrize("draw", [aug.Perspective(angle=1), aug.Perspective(px=1e-4), aug.Perspective(scale=0)])
def test_all_is_visible_to_a_warp_that_turns_or_ends_in_a_point(draw):
    matrix = aug.perspective_matrix(draw, (80, 80), (40, 40))
    assert aug.visible_part(matrix, (40, 40), (80, 80)) == (0, 0, 80, 80)


def test_four_channels_are_warped_to_the_pixels_of_three():
    im, draw = noise(90, 120), aug.Perspective(angle=20, scale=1.3, shear_x=5, tx=0.4)
    matrix = aug.perspective_matrix(draw, (90, 120), (64, 64))
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    m = np.linalg.inv(half) @ matrix @ half
    expected = cv2.warpAffine(im, m[:2], (64, 64), flags=cv2.INTER_LINEAR, borderValue=(aug.FILL,) * 3)
    warped = aug.apply_perspective(im, np.zeros((0, 5)), [], matrix, (64, 64))[0]
    assert np.array_equal(warped[..., :3], expected)


def test_drawn_mosaics():
    rng = np.random.default_rng(0)
    draws = [mosaics.draw_mosaic(rng, 7, 10, (100, 100)) for _ in range(500)]
    assert all(len(indices) == 4 and 7 in indices for indices, _ in draws)
    assert {i for indices, _ in draws for i in indices} == set(range(10))
    assert {indices.index(7) for indices, _ in draws} == {0, 1, 2, 3}
    centres = np.array([centre for _, centre in draws])
    assert centres.min() >= 50
    assert centres.max() < 150
    assert (centres.max(0) > 145).all()


def test_mosaic_of_nine_by_hand():
    """Drawn by hand for a field of 30 x 30: the tiles are squares of 10 but for 0 (6 high, 8 wide) and 3 (4 x 4)."""
    shapes = {0: (6, 8), 3: (4, 4)}
    tiles = [flat_tile(*shapes.get(i, (10, 10)), i + 1, (0, 0, *shapes.get(i, (10, 10))[::-1])) for i in range(9)]
    field = np.full((30, 30), aug.FILL)
    field[10:16, 10:18] = 1
    field[0:10, 10:20] = 2  # stands on the top of tile 0
    field[0:10, 20:30] = 3
    field[10:14, 18:22] = 4  # at the right side of tile 0
    field[14:24, 18:28] = 5  # below tile 3
    field[16:26, 8:18] = 6  # below tile 0, right sides in line
    field[16:26, 0:8] = 7  # its left two columns are outside
    field[6:16, 0:10] = 8  # at the left side of tile 0, lower sides in line
    field[0:6, 0:10] = 9  # its upper four rows are outside
    for x, y in ((0, 0), (10, 10), (3, 7)):
        window, labels, segments = mosaic9(tiles, (x, y), 10)
        assert np.array_equal(window[..., 0], field[y : y + 20, x : x + 20])
        assert segments == []
        assert labels[:, 0].tolist() == list(range(1, 10))
    corner = [0, 0, 10, 6]  # of tile 8 in the whole field
    assert mosaic9(tiles, (0, 0), 10).labels[8].tolist() == [9, *corner]
    assert labels[1].tolist() == [2, 10 - 3, 0, 20 - 3, 10 - 7]
    assert labels[8].tolist() == [9, 0, 0, 10 - 3, 0]  # above the window: no area left, dropped by the warp


def test_mosaic_of_nine_moves_polygons():
    triangle = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    tiles = [flat_tile(20, 20, i, (0, 0, 10, 10), [triangle] if i == 4 else []) for i in range(9)]
    _, labels, segments = mosaic9(tiles, (5, 8), 20)
    assert [len(s) for s in segments] == [0, 0, 0, 0, 3, 0, 0, 0, 0]
    assert segments[4].tolist() == [[35, 32], [40, 32], [35, 40]]  # clipped to the window of 40
    assert len(labels) == 9


def test_drawn_mosaics_of_nine():
    rng = np.random.default_rng(0)
    draws = [mosaics.draw_mosaic9(rng, 7, 10, (100, 100)) for _ in range(500)]
    assert all(len(indices) == 9 and 7 in indices for indices, _ in draws)
    assert {indices.index(7) for indices, _ in draws} == set(range(9))
    windows = np.array([window for _, window in draws])
    assert windows.min() >= 0
    assert windows.max() < 100
    assert (windows.max(0) > 95).all()


# Copy-paste, mixup ----------------------------------------------------------------------------------------------------
def square(a, b):
    return np.array([[a, a], [b, a], [b, b], [a, b]], np.float32)


def test_copy_paste_mirrors_object_and_box():
    im, labels = scene(40, 60, (4, 4, 14, 14))
    before = im.copy()
    result, all_labels, segments = aug.paste_copies(aug.Tile(im, labels, [square(4, 14)]), [0])
    assert all_labels.tolist() == [[1, 4, 4, 14, 14], [1, 46, 4, 56, 14]]
    assert segments[1].min(0).tolist() == [46, 4]
    expected = before.copy()
    expected[4:14, 46:56] = 255
    assert np.array_equal(result, expected)
    assert np.array_equal(im, before)
    assert len(labels) == 1


def test_copy_paste_hides_no_other_object():
    im, labels = scene(40, 60, (4, 4, 14, 14))
    labels = np.concatenate((labels, [[2, 50, 4, 60, 14]])).astype(np.float32)  # 6 of its 10 columns would be hidden
    tile = aug.Tile(im, labels, [square(4, 14), np.zeros((0, 2), np.float32)])
    result = aug.paste_copies(tile, [0])
    assert result.im is im
    assert np.array_equal(result.labels, labels)


def test_drawn_copies():
    rng = np.random.default_rng(0)
    segments = [square(0, 1), np.zeros((0, 2)), square(1, 2), square(2, 3), square(3, 4)]
    assert aug.draw_copy_paste(rng, segments, 0) == []
    assert aug.draw_copy_paste(rng, [], 1.0) == []
    assert sorted(aug.draw_copy_paste(rng, segments, 1.0)) == [0, 2, 3, 4]
    assert len(aug.draw_copy_paste(rng, segments, 0.5)) == 2


def test_mixup_by_hand():
    a, b = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 51, np.uint8)
    la, lb = np.ones((1, 5), np.float32), np.zeros((2, 5), np.float32)
    im, labels = aug.mixup(a, la, b, lb, 0.5)
    assert (im == 75).all()  # 75.5 rounded down
    assert labels.shape == (3, 5)
    assert np.array_equal(aug.mixup(a, la, b, lb, 1.0)[0], a)


def test_mixup_ratio_is_near_one_half():
    rng = np.random.default_rng(0)
    ratios = np.array([aug.draw_mixup(rng) for _ in range(4000)])
    assert ratios.mean() == pytest.approx(0.5, abs=0.005)
    assert ratios.var() == pytest.approx(1 / (4 * 65), rel=0.1)  # Beta(a, a): 1 / (4 (2 a + 1))


# Colour and flips -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [3, 4])  # mosaics have a fourth that means nothing
def test_filters_one_by_one(channels):
    im = noise(32, 40, channels)
    bgr, before = np.ascontiguousarray(im[..., :3]), im.copy()
    assert aug.apply_filters(im, aug.Filters(0, 0, False, 0.0)) is im
    around = bgr[9:12, 19:22].reshape(9, 3)
    blurred = aug.apply_filters(im, aug.Filters(3, 0, False, 0.0))
    assert np.abs(blurred[10, 20] - around.mean(0)).max() <= 0.5
    assert np.array_equal(aug.apply_filters(im, aug.Filters(0, 3, False, 0.0))[10, 20], np.median(around, 0))
    grey = aug.apply_filters(im, aug.Filters(0, 0, True, 0.0))
    assert np.abs(grey - (bgr @ (0.114, 0.587, 0.299))[..., None]).max() <= 1
    flat = np.full((64, 64, channels), 100, np.uint8)
    flat[..., 0], flat[20:40, 20:40] = 60, 108
    stretched = aug.apply_filters(flat, aug.Filters(0, 0, False, 4.0)).astype(int)
    assert np.ptp(stretched[..., 1]) > 1.5 * np.ptp(flat[..., 1])
    assert all(aug.apply_filters(im, aug.Filters(5, 7, True, 2.0)).shape == (32, 40, 3) for _ in range(2))
    assert np.array_equal(im, before)


def test_filters_are_drawn_one_by_one_with_their_probability():
    rng = np.random.default_rng(0)
    drawn = [aug.draw_filters(rng, 0.3) for _ in range(1000)]
    hits = np.array([[bool(value) for value in filters] for filters in drawn])
    assert np.abs(hits.mean(0) - 0.3).max() < 0.05
    assert np.abs(np.corrcoef(hits.T) - np.eye(4)).max() < 0.1
    assert {f.blur for f in drawn} == {f.median for f in drawn} == {0, 3, 5, 7}
    assert all(f.contrast == 0 or 1 <= f.contrast < 4 for f in drawn)
    assert aug.draw_filters(rng, 0.0) == (0, 0, False, 0.0)


def test_hsv_table_vectors():
    table = aug.hsv_table(np.array([1.01, 1.5, 0.7]))
    assert table[[178, 179, 180, 255], 0].tolist() == [179, 0, 1, 77]
    assert table[[100, 170, 171], 1].tolist() == [150, 255, 255]
    assert table[[100, 255], 2].tolist() == [70, 178]


def test_hsv_against_colorsys():
    b, g, r = 60, 120, 200
    h, s, v = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
    expected = np.array(colorsys.hsv_to_rgb(h * 1.4, s * 0.6, v * 0.8))[::-1] * 255
    im = np.full((3, 3, 3), (b, g, r), np.uint8)
    result = aug.apply_hsv(im, np.array([1.4, 0.6, 0.8]))
    assert result[1, 1].astype(float) == pytest.approx(expected, abs=3)
    assert im[1, 1].tolist() == [b, g, r]


@pytest.mark.parametrize("gains", [(0.99, 1.3, 0.6), (1.005, 0.5, 1.25), (1.015, 1.7, 1.0), (1.4, 0.0, 1.4), (1, 2, 2)])
def test_hsv_multiplies_as_the_table_says(gains):
    im = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
    hsv = cv2.cvtColor(im, cv2.COLOR_BGR2HSV)
    expected = np.stack([column[hsv[..., k]] for k, column in enumerate(aug.hsv_table(np.array(gains)).T)], 2)
    assert np.array_equal(aug.apply_hsv(im, np.array(gains)), cv2.cvtColor(expected, cv2.COLOR_HSV2BGR))


def test_hsv_strength_zero_changes_nothing():
    im = noise(9, 9)
    gains = aug.draw_hsv(np.random.default_rng(0), 0, 0, 0)
    assert aug.apply_hsv(im, gains) is im


def test_drawn_gains_fill_their_ranges():
    rng = np.random.default_rng(0)
    gains = np.array([aug.draw_hsv(rng, 0.1, 0.5, 0.3) for _ in range(1000)])
    assert gains.max(0) == pytest.approx([1.1, 1.5, 1.3], abs=0.01)
    assert gains.min(0) == pytest.approx([0.9, 0.5, 0.7], abs=0.01)


@pytest.mark.parametrize("flips", [(False, True), (True, False), (True, True)])
def test_flip_twice_is_the_original_and_box_follows(flips):
    im, labels = scene(20, 40, (4, 2, 14, 8))
    xywhn = np.array([[1, 9 / 40, 5 / 20, 10 / 40, 6 / 20]], np.float32)
    before = xywhn.copy()
    flipped, moved = aug.apply_flips(im, xywhn, flips)
    x, y, w, h = moved[0, 1:] * (40, 20, 40, 20)
    assert [x - w / 2, y - h / 2, x + w / 2, y + h / 2] == pytest.approx(bright_box(flipped), abs=1e-4)
    assert np.array_equal(xywhn, before)
    back, again = aug.apply_flips(flipped, moved, flips)
    assert np.array_equal(back, im)
    assert again == pytest.approx(xywhn)


def test_no_flip_and_flip_of_nothing():
    im, empty = noise(4, 6), np.zeros((0, 5), np.float32)
    assert aug.apply_flips(im, empty, (False, False))[0] is im
    assert aug.apply_flips(im, empty, (True, True))[1].shape == (0, 5)
    assert np.array_equal(aug.apply_flips(im, empty, (True, True))[0], cv2.rotate(im, cv2.ROTATE_180))


def test_flips_are_drawn_with_their_probabilities():
    rng = np.random.default_rng(0)
    draws = np.array([aug.draw_flips(rng, 0.2, 0.7) for _ in range(3000)])
    assert draws.mean(0) == pytest.approx([0.2, 0.7], abs=0.03)
    assert aug.draw_flips(rng, 0, 1) == (False, True)
