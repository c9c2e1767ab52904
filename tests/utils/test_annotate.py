"""Drawing on pictures: colours, labels that stay inside, tiles of a batch, rows made from detections."""

import cv2
import numpy as np
import pytest
import torch

from utils.annotate import (
    PALETTE,
    Annotator,
    class_names,
    colors,
    crop_box,
    find_font,
    luminance,
    output_to_target,
    plot_images,
    shorten,
    text_color,
    write_image,
)
from utils.boxes import xyxy2xywhn

RED = (0, 0, 250)  # BGR


def grey(height=120, width=200, value=128):
    return np.full((height, width, 3), value, np.uint8)


def changed(before, after):
    """Rows and columns of pixels that are not the same: (top, left, bottom, right), ends excluded."""
    y, x = np.nonzero((before != after).any(axis=2))
    return y.min(), x.min(), y.max() + 1, x.max() + 1


def test_colors_differ_repeat_after_twenty_and_turn_round():
    assert len(set(PALETTE)) == len(PALETTE) == 20
    assert colors(3) == colors(23) == PALETTE[3]
    assert colors(3, bgr=True) == PALETTE[3][::-1]


def test_luminance_and_letters_of_known_colours():
    assert luminance((0, 0, 0)) == 0
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 255, 0)) == pytest.approx(0.7152)
    assert luminance((119, 119, 119)) == pytest.approx(0.1845, abs=1e-4)  # contrast 4.48 on white, by hand
    assert text_color((255, 255, 0)) == (0, 0, 0)
    assert text_color((0, 0, 128)) == (255, 255, 255)


@pytest.mark.parametrize("background", PALETTE)
def test_letters_reach_the_contrast_that_wcag_asks_for(background):
    light, dark = sorted((luminance(background), luminance(text_color(background))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_box_is_drawn_where_it_is_on_the_array_itself():
    image, drawn = grey(), grey()
    annotator = Annotator(drawn, line_width=1)
    annotator.box_label((50, 30, 90.4, 69.6), color=RED)
    result = annotator.result()
    assert changed(image, result) == (30, 50, 71, 91)
    np.testing.assert_array_equal(result[30, 60], RED)
    np.testing.assert_array_equal(result[50, 60], (128, 128, 128))
    assert result is annotator.im is drawn


@pytest.mark.parametrize(
    "box", [(-30, -30, 5, 5), (195, 10, 199, 20), (190, 118, 220, 150), (0, 0, 199, 119), (500, 500, 600, 600)]
)
def test_label_is_whole_wherever_the_box_lies(box):
    def label_pixels(b):
        annotator = Annotator(grey(), line_width=1, font_size=12)
        annotator.box_label(b, color=RED)
        without = annotator.result().copy()
        annotator.box_label(b, "dog 0.87", RED)
        ink = annotator.result().astype(int)
        return int((ink.sum(axis=2) < 100).sum()), without  # letters are black on red

    black, _ = label_pixels(box)
    inside, _ = label_pixels((60, 60, 120, 100))
    assert black == inside > 20


def test_label_stands_above_the_box_or_inside_where_there_is_no_room():
    annotator = Annotator(grey(), line_width=1, font_size=12)
    annotator.box_label((60, 60, 120, 100), "dog", RED)
    top, left, _, _ = changed(grey(), annotator.result())
    assert 60 - 20 < top < 60 - 10
    assert left == 60
    annotator = Annotator(grey(), line_width=1, font_size=12)
    annotator.box_label((60, 3, 120, 100), "dog", RED)
    assert changed(grey(), annotator.result())[0] == 3


def test_letters_follow_the_channel_order():
    yellow_as_rgb, cyan_or_yellow = Annotator(grey(), bgr=False), (255, 20, 0)
    yellow_as_rgb.caption((0, 0), "x", cyan_or_yellow)  # red: black letters
    as_bgr = Annotator(grey(), bgr=True)
    as_bgr.caption((0, 0), "x", cyan_or_yellow)  # blue: white letters
    assert yellow_as_rgb.result().sum() < as_bgr.result().sum()


def test_long_label_is_shortened_to_the_picture():
    text = shorten("x" * 100, 80, 12)
    assert text.endswith("…")
    assert find_font(text, 12).getlength(text) <= 80
    assert find_font(text, 12).getlength("x" + text) > 80
    assert shorten("short", 80, 12) == "short"
    annotator = Annotator(grey(30, 40))
    annotator.box_label((5, 5, 35, 25), "a label far too long for this", RED)
    assert annotator.result().shape == (30, 40, 3)


def test_picture_smaller_than_a_letter():
    annotator = Annotator(grey(4, 3))
    annotator.box_label((0, 0, 2, 3), "dog", RED)
    assert annotator.result().shape == (4, 3, 3)


@pytest.mark.parametrize("label", ["Straße", "кошка", "汽车", "a\tb", " "])
def test_labels_of_any_script_are_drawn(label):
    annotator = Annotator(grey())
    annotator.box_label((60, 60, 120, 100), label, RED)
    assert changed(grey(), annotator.result())[0] < 58


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_other_pictures_are_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        Annotator(image)


def test_class_names_from_a_list_a_mapping_or_nothing():
    assert class_names(["cat", "dog"], [1, 0, 7]) == ["dog", "cat", "7"]
    assert class_names({5: "cat"}, torch.tensor([5.0, 1.0])) == ["cat", "1"]
    assert class_names(None, [2]) == ["2"]
    assert class_names(["abcdefghij"], [0], limit=5) == ["abcd…"]


def test_rows_from_detections_agree_with_the_box_conversion():
    generator = torch.Generator().manual_seed(0)
    detections = []
    for count in (3, 0, 5):
        corners = torch.rand(count, 4, generator=generator) * 40
        xyxy = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
        detections.append(torch.cat([xyxy, torch.rand(count, 2, generator=generator)], 1))
    rows = output_to_target(detections, shape=(64, 96))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:, 0], [0] * 3 + [2] * 5)
    together = torch.cat(detections)
    np.testing.assert_allclose(rows[:, 2:6], xyxy2xywhn(together[:, :4], w=96, h=64), atol=1e-6)
    np.testing.assert_array_equal(rows[:, [6, 1]], together[:, 4:])
    assert len(output_to_target(detections, 2, shape=(64, 96))) == 4


def test_rows_from_no_detections():
    assert output_to_target([], shape=(64, 64)).shape == (0, 7)
    assert output_to_target([torch.zeros(0, 6)]).shape == (0, 7)


def tiles(tmp_path, images, targets, **options):
    plot_images(images, targets, fname=tmp_path / "tiles.png", **options)
    return cv2.imread(str(tmp_path / "tiles.png"))


def test_one_tile_is_the_image_and_its_box(tmp_path):
    images = np.zeros((1, 3, 60, 80), np.uint8)
    images[:, 0] = 200  # red
    plain = tiles(tmp_path, images, np.zeros((0, 6)))
    assert plain.shape == (60, 80, 3)
    np.testing.assert_array_equal(plain[0, 0], (0, 0, 200))
    drawn = tiles(tmp_path, images, [[0, 1, 0.5, 0.75, 0.25, 0.2]], names=["a", "b"])
    top, left, bottom, right = changed(plain, drawn)
    assert (left, bottom, right) == (30 - 1, 51 + 2, 50 + 2)  # corners 30, 50 and 51; lines reach 1 px to both sides
    assert top < 39 - 10  # the label above
    np.testing.assert_array_equal(drawn[45, 30], colors(1, bgr=True))


def test_tiles_stand_in_rows_and_boxes_in_the_tile_of_their_image(tmp_path):
    images = torch.zeros(5, 3, 40, 40)
    drawn = tiles(tmp_path, images, torch.tensor([[4, 0, 0.5, 0.5, 0.5, 0.5]]))
    assert drawn.shape == (2 * 40, 3 * 40, 3)
    empty = tiles(tmp_path, images, torch.zeros(0, 6))
    top, left, bottom, right = changed(empty, drawn)
    assert top >= 40 <= left  # second row, second column
    assert bottom <= 80
    assert right <= 80
    assert (empty[40:, 80:] == 255).all()  # no sixth image


def test_whole_and_floating_point_images_look_the_same(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    targets = np.array([[0, 1, 0.5, 0.5, 0.5, 0.5], [3, 0, 0.4, 0.4, 0.2, 0.2]], np.float32)
    before = images.copy(), targets.copy()
    whole = tiles(tmp_path, images, targets)
    np.testing.assert_array_equal(whole, tiles(tmp_path, torch.from_numpy(images) / 255, torch.from_numpy(targets)))
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(targets, before[1])


def test_predictions_need_a_confidence_above_a_quarter(tmp_path):
    images = np.zeros((1, 3, 64, 64), np.uint8)
    weak = tiles(tmp_path, images, [[0, 0, 0.5, 0.5, 0.5, 0.5, 0.25]])
    assert (weak == 0).all()
    assert not (tiles(tmp_path, images, [[0, 0, 0.5, 0.5, 0.5, 0.5, 0.26]]) == 0).all()


def test_strongest_prediction_lies_on_top(tmp_path):
    rows = [[0, 0, 0.5, 0.5, 0.5, 0.5, 0.9], [0, 1, 0.5, 0.5, 0.5, 0.5, 0.3]]
    drawn = tiles(tmp_path, np.zeros((1, 3, 64, 64), np.uint8), rows)
    np.testing.assert_array_equal(drawn[32, 16], colors(0, bgr=True))


def test_limits_of_tiles_and_size(tmp_path):
    images = np.zeros((6, 3, 50, 100), np.uint8)
    assert tiles(tmp_path, images, np.zeros((0, 6)), max_subplots=4).shape == (100, 200, 3)
    assert tiles(tmp_path, images, np.zeros((0, 6)), max_size=150).shape == (2 * 25, 3 * 50, 3)


def test_file_names_are_written(tmp_path):
    images = np.zeros((2, 3, 64, 64), np.uint8)
    plain = tiles(tmp_path, images, np.zeros((0, 6)))
    named = tiles(tmp_path, images, np.zeros((0, 6)), paths=["/x/a.jpg", "/x/b.jpg"])
    assert changed(plain, named)[0] > 40
    assert (plain[:, 64:] != named[:, 64:]).any()


@pytest.mark.parametrize(
    ("images", "targets", "match"),
    [
        (np.zeros((3, 8, 8)), np.zeros((0, 6)), "images to plot"),
        (np.zeros((0, 3, 8, 8)), np.zeros((0, 6)), "images to plot"),
        (np.zeros((1, 3, 8, 8)), np.zeros((2, 5)), "targets to plot"),
    ],
)
def test_other_shapes_are_refused(images, targets, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        plot_images(images, targets, fname=tmp_path / "x.jpg")


# Image files and crops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((40.4, 30.6, 101.2, 80.3), (25, 85), (34, 106)),  # 70.8 +- 36.008 and 55.45 +- 30.347
        ((0.0, 0.0, 20.0, 10.0), (0, 15), (0, 25)),
        ((150.0, 95.0, 159.9, 99.9), (89, 100), (144, 160)),
        ((200.0, 300.0, 200.0, 300.0), (99, 100), (159, 160)),
    ],
)
def test_a_crop_is_the_box_and_its_margin_in_whole_pixels_below(box, rows, columns):
    image = np.random.default_rng(0).integers(0, 256, (100, 160, 3), np.uint8)
    expected = image[slice(*rows), slice(*columns)]
    np.testing.assert_array_equal(crop_box(image, box), expected)
    np.testing.assert_array_equal(crop_box(image, torch.tensor(box)), expected)


def test_an_image_that_cannot_be_written_is_named(tmp_path, full_disk):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    with full_disk(2048), pytest.raises(OSError, match="too large") as caught:
        write_image(tmp_path / "new" / "a.png", noise)
    assert caught.value.filename == str(tmp_path / "new" / "a.png")
    with pytest.raises(ValueError, match=r"b\.jpg: an image of 70000 x 1 pixels cannot be written as \.jpg"):
        write_image(tmp_path / "b.jpg", np.zeros((1, 70000, 3), np.uint8))
    assert list(tmp_path.rglob("*.*")) == []
