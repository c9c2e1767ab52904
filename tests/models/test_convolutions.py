"""The convolutional blocks beyond what tests/models/test_common.py shows of all blocks."""

import pytest
import torch

from models.convolutions import C3SPP, SPP, SPPF, Contract, Conv, Expand, Focus, MixConv2d


@pytest.mark.parametrize(
    ("c2", "k", "equal_ch", "expected"),
    [(17, (1, 3, 5), True, [6, 5, 6]), (64, (1, 3, 5), False, [56, 6, 2]), (16, (1, 3, 5), False, [13, 2, 1])],
)
def test_mixconv_channels(c2, k, equal_ch, expected):
    assert MixConv2d.split_channels(c2, k, equal_ch) == expected


@pytest.mark.parametrize("c2", [3, 4, 7, 16, 69])
def test_mixconv_channels_sum_up(c2):
    shares = MixConv2d.split_channels(c2, (3, 5, 7), equal_ch=False)
    assert sum(shares) == c2
    assert min(shares) >= 1


def test_mixconv_with_too_few_channels_is_refused():
    with pytest.raises(ValueError, match=r"cannot divide 2 channels among the kernel sizes \[1, 3, 5\]"):
        MixConv2d(8, 2, (1, 3, 5))


def test_sppf_is_the_pyramid_of_5_9_13():
    torch.manual_seed(0)
    pyramid, fast = SPP(16, 16).eval(), SPPF(16, 16).eval()
    fast.load_state_dict(pyramid.state_dict())
    x = torch.randn(1, 16, 20, 17)
    torch.testing.assert_close(fast(x), pyramid(x))


def test_expand_undoes_contract():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(Expand(2)(Contract(2)(x)), x)
    assert Contract(2)(x).shape == (2, 12, 4, 6)


def test_focus_sees_each_pixel_once():
    focus = Focus(1, 4, 1)
    seen = {}
    focus.conv = torch.nn.Identity()
    seen["phases"] = focus(torch.arange(16.0).view(1, 1, 4, 4))
    assert sorted(seen["phases"].flatten().tolist()) == list(range(16))


def test_default_activation_can_be_switched_off_or_replaced():
    assert isinstance(Conv(4, 4).act, torch.nn.SiLU)
    assert isinstance(Conv(4, 4, act=False).act, torch.nn.Identity)
    relu = torch.nn.ReLU()
    assert Conv(4, 4, act=relu).act is relu


def test_c3spp_takes_kernels_by_position():
    assert C3SPP(8, 8, (3, 5)).m.m[1].kernel_size == 5
