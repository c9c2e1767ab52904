"""The sizes that a network takes."""

import pytest

from models.image_size import check_img_size, make_divisible


@pytest.mark.parametrize(("x", "divisor", "expected"), [(1, 8, 8), (8, 8, 8), (8.1, 8, 16), (0, 8, 0), (25.6, 8, 32)])
def test_make_divisible_rounds_up(x, divisor, expected):
    assert make_divisible(x, divisor) == expected


def test_image_size_is_rounded_up_with_a_warning(caplog):
    assert check_img_size(640, 32) == 640
    assert caplog.messages == []
    assert check_img_size(641, 32) == 672
    assert check_img_size(33, 32, floor=64) == 64
    assert check_img_size(100, 64, floor=100) == 128
    assert len(caplog.messages) == 3
    assert "641" in caplog.messages[0]
    assert "672" in caplog.messages[0]


@pytest.mark.parametrize("size", [0, -32])
def test_image_size_must_be_positive(size):
    with pytest.raises(ValueError, match=f"image size {size}"):
        check_img_size(size)
