"""Windows for open sizes against the ordinary ones."""

import itertools

import pytest
import torch

from models.common import SwinV2Block
from models.swin.dynamic_windows import divide, gather_windows, ungather_windows

SIZES = ((8, 8), (8, 16), (16, 8), (13, 9), (3, 4), (3, 20), (30, 7), (24, 24))


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("window", [(8, 8), (7, 5)])
def test_equals_pad_roll_and_partition(window, mask_padding):
    for shift, (h, w) in itertools.product(((0, 0), (3, 3), (0, 4), (3, 0)), SIZES):
        block = SwinV2Block(32, 4, window, shift, mask_padding=mask_padding, norm_gain=1.0).eval().double()
        x = torch.randn(2, h, w, 32, dtype=torch.double)
        with torch.no_grad():
            expected = block.attend(x)
            windows, blocked, back = gather_windows(x, window, shift, mask_padding)
            found = ungather_windows(block.attn(windows.flatten(0, 1), blocked).view(windows.shape), back)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=f"shift {shift}, map {h}x{w}")


def test_ungather_inverts_gather():
    x = torch.randn(2, 11, 6, 3)
    windows, _, back = gather_windows(x, (4, 4), (2, 2), True)
    assert windows.shape == (2, 6, 16, 3)
    assert torch.equal(ungather_windows(windows, back), x)


def test_divide():
    assert divide(torch.arange(10), 4, torch.arange(3)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert divide(torch.arange(3), 4, torch.arange(1)).tolist() == [0, 0, 0]
