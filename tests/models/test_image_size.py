"""The sizes that a network takes."""

import pytest
import torch
from torch import nn

from models.image_size import check_img_size, find_strides, make_divisible


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


class Maps(nn.Module):
    """Maps of strides 8 and 16; the rows of `fold` are counted by a view. `every` run is kept, of copies too."""

    every: list = []

    def __init__(self, fold=False, channels=3):
        super().__init__()
        self.fold, self.seen = fold, []
        self.conv, self.norm = nn.Conv2d(channels, 4, 8, 8), nn.BatchNorm2d(4)

    def forward(self, x):
        self.seen.append((len(x), x.device.type))
        self.every.append((len(x), x.device.type))
        x = self.norm(self.conv(x))
        b, c, h, w = x.shape
        x = x.view(b, c, -1, w) if self.fold else x
        return [x, x[:, :, ::2, ::2]]


def test_strides_are_those_of_a_run_and_leave_the_statistics():
    model, state = Maps(), torch.get_rng_state()
    assert find_strides(model, 3) == [8, 16]
    assert model.seen == [(0, "cpu")]
    assert torch.equal(state, torch.get_rng_state())
    assert model.norm.num_batches_tracked == 0
    model(torch.rand(2, 3, 64, 64))
    assert model.norm.num_batches_tracked == 1  # it normalises again


def test_strides_of_a_block_that_takes_no_empty_batch():
    model = Maps(fold=True)
    assert find_strides(model, 3) == [8, 16]
    assert Maps.every[-2:] == [(0, "cpu"), (1, "meta")]  # a large map takes no memory
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_strides_of_layers_that_do_not_fit_are_an_error():
    model = Maps(channels=5)
    with pytest.raises(RuntimeError, match="channel"):
        find_strides(model, 3)
    assert "forward" not in vars(model.norm)
