"""Windows and their attention at arbitrary sizes, windows and shifts."""

import pytest
import torch

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

from models.common import SwinV2Block
from models.swin import dynamic_windows as open_windows
from models.swin import windows

SIDE = st.integers(1, 23)
WINDOW = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def maps(draw):
    """(B, H, W), window and a shift below it."""
    window = draw(WINDOW)
    shift = tuple(draw(st.integers(0, side - 1)) for side in window)
    return (draw(st.integers(1, 3)), draw(SIDE), draw(SIDE)), window, shift


@given(maps())
def test_windows_and_maps_undo_each_other(drawn):
    (b, h, w), window, _ = drawn
    padded = windows.padded_size(h, w, window)
    assert all(0 <= p - side < n and p % n == 0 for p, side, n in zip(padded, (h, w), window, strict=True))
    x = torch.arange(b * padded[0] * padded[1] * 2).view(b, *padded, 2)
    cut = windows.window_partition(x, window)
    assert cut.shape[1] == window[0] * window[1]
    assert torch.equal(windows.window_reverse(cut, window, padded), x)
    first = cut[0].view(*window, 2)
    assert torch.equal(first, x[0, : window[0], : window[1]])


@given(maps())
def test_mask_lets_real_neighbours_see_each_other_and_nobody_else(drawn):
    """Tokens of a window are neighbours where rolling has moved both alike; padding is seen by itself alone."""
    (_, h, w), window, shift = drawn
    padded = windows.padded_size(h, w, window)
    shift = windows.effective_shift(padded, window, shift)
    mask = windows.build_window_mask(h, w, window, shift, True, torch.device("cpu"))
    places = torch.stack(torch.meshgrid(*map(torch.arange, padded), indexing="ij"), -1)  # (Hp, Wp, 2) in the rolled map
    original = (places + torch.tensor(shift)) % torch.tensor(padded)
    real = (original < torch.tensor([h, w])).all(-1)
    cut = windows.window_partition(torch.cat((places, original, real[..., None].long()), -1)[None], window)  # (K, N, 5)
    moved = cut[..., 2:4] - cut[..., :2]
    alike = (moved[:, :, None] == moved[:, None]).all(-1) & cut[:, None, :, 4].bool()
    itself = torch.eye(cut.shape[1], dtype=torch.bool)
    assert torch.equal(mask, ~(alike | itself))


@given(maps())
def test_windows_of_open_graphs_are_the_same(drawn):
    (b, h, w), window, shift = drawn
    x = torch.randn(b, h, w, 3)
    cut, blocked, back = open_windows.gather_windows(x, window, shift, True)
    assert torch.equal(open_windows.ungather_windows(cut, back), x)
    padded = windows.padded_size(h, w, window)
    shift = windows.effective_shift(padded, window, shift)
    assert torch.equal(blocked, windows.build_window_mask(h, w, window, shift, True, x.device))


@given(maps(), st.sampled_from(["log", "linear", "table"]), st.sampled_from(["cosine", "dot"]), st.integers(0, 2**31))
def test_attention_of_any_map(drawn, bias, attention, seed):
    (b, h, w), window, shift = drawn
    torch.manual_seed(seed)
    settings = {"bias": bias, "attention": attention, "norm_gain": 1.0}
    block = SwinV2Block(8, 2, window, shift, core="explicit", **settings).eval()
    x = torch.randn(b, h, w, 8)
    y = block(x).detach()
    assert y.shape == x.shape
    assert y.isfinite().all()
    alone = torch.cat([block(one[None]) for one in x])
    for other in ({"core": "sdpa"}, {"core": "explicit", "sequential": 2}, {"core": "auto", "sequential": 3}):
        twin = SwinV2Block(8, 2, window, shift, **settings, **other).eval()
        twin.load_state_dict(block.state_dict())
        with torch.no_grad():  # on a CPU a form of its own, see models/swin/cached_inference.py
            torch.testing.assert_close(twin(x), y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(twin(x).detach(), y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone.detach(), y, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**31))
def test_a_map_within_one_window_does_not_feel_the_padding(h, w, more_y, more_x, seed):
    """Its real cells attend to each other alone, so a larger window of the same scale of offsets changes nothing."""
    torch.manual_seed(seed)
    small = SwinV2Block(8, 2, (h, w), 0, norm_gain=1.0, pretrained_window=8).eval()
    large = SwinV2Block(8, 2, (h + more_y, w + more_x), 0, norm_gain=1.0, pretrained_window=8).eval()
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, h, w, 8)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x), atol=1e-5, rtol=1e-5)
