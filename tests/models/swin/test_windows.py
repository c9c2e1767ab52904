"""Windows, masks, position offsets and attention cores as pure functions, against slow formulas and measured facts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from models.swin import windows
from models.swin.attention import (
    BLOCKED,
    MAX_LOGIT_SCALE,
    at_least_float32,
    attend_explicit,
    attend_sdpa,
    autocast_off,
    choose_core,
    logit_factor,
    normalize_queries_keys,
)
from models.swin.windows import (
    build_relative_coords,
    build_relative_index,
    build_window_mask,
    cached_constant,
    effective_shift,
    padded_size,
    window_mask,
    window_partition,
    window_reverse,
)

CPU = torch.device("cpu")


# Partition ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "window"), [((8, 8), (4, 4)), ((6, 12), (3, 4)), ((4, 4), (4, 4)), ((5, 1), (1, 1))])
def test_partition_and_reverse_are_inverse(size, window):
    x = torch.randn(2, *size, 3)
    cut = window_partition(x, window)
    assert cut.shape == (2 * size[0] * size[1] // math.prod(window), math.prod(window), 3)
    assert torch.equal(window_reverse(cut, window, size), x)


def test_partition_runs_over_images_then_windows_then_tokens_row_by_row():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    cut = window_partition(x, (2, 3))[..., 0].tolist()
    assert cut[0] == [0, 1, 2, 6, 7, 8]
    assert cut[1] == [3, 4, 5, 9, 10, 11]
    assert cut[2] == [12, 13, 14, 18, 19, 20]
    assert cut[4] == [24, 25, 26, 30, 31, 32]


def test_partition_of_a_batch_equals_single_images_and_leaves_the_input():
    x = torch.randn(3, 4, 8, 5)
    before = x.clone()
    whole = window_partition(x, (4, 4))
    assert torch.equal(whole, torch.cat([window_partition(image[None], (4, 4)) for image in x]))
    assert torch.equal(x, before)


def test_partition_takes_maps_with_any_strides():
    x = torch.randn(2, 5, 4, 4).permute(0, 2, 3, 1)  # as it comes from a convolution
    assert torch.equal(window_partition(x, (2, 2)), window_partition(x.contiguous(), (2, 2)))
    rolled = x[:, 1:3, :, :]
    assert torch.equal(window_partition(rolled, (2, 2)), window_partition(rolled.contiguous(), (2, 2)))


def test_partition_of_no_image_is_empty():
    assert window_partition(torch.empty(0, 4, 4, 3), (2, 2)).shape == (0, 4, 3)


def test_partition_refuses_maps_that_are_no_whole_windows():
    with pytest.raises(ValueError, match="map of 6x8 cells cannot be cut into windows of 4x4; pad it first"):
        window_partition(torch.zeros(1, 6, 8, 1), (4, 4))


@pytest.mark.parametrize(("size", "expected"), [((8, 8), (8, 8)), ((1, 9), (8, 16)), ((20, 22), (24, 24))])
def test_padded_size_rounds_up(size, expected):
    assert padded_size(*size, (8, 8)) == expected


def test_shift_is_dropped_per_axis_where_one_window_covers_the_map():
    assert effective_shift((16, 16), (8, 8), (4, 4)) == (4, 4)
    assert effective_shift((8, 16), (8, 8), (4, 4)) == (0, 4)
    assert effective_shift((16, 8), (8, 8), (4, 4)) == (4, 0)
    assert effective_shift((8, 8), (8, 8), (4, 4)) == (0, 0)


# Mask ---------------------------------------------------------------------------------------------------------------


def slow_mask(height, width, window, shift, mask_padding):
    """Roll the coordinates themselves and compare cell with cell; groups of cells are floor((i - shift) / window)."""
    hp, wp = padded_size(height, width, window)
    y, x = torch.meshgrid(torch.arange(hp), torch.arange(wp), indexing="ij")
    cells = torch.stack((y, x), -1).roll((-shift[0], -shift[1]), (0, 1))[None]
    cells = window_partition(cells, window).tolist()
    mask = []
    for tokens in cells:
        group = [((ty - shift[0]) // window[0], (tx - shift[1]) // window[1]) for ty, tx in tokens]
        padding = [mask_padding and (ty >= height or tx >= width) for ty, tx in tokens]
        n = range(len(tokens))
        mask.append([[i != j and (group[i] != group[j] or padding[j]) for j in n] for i in n])
    return torch.tensor(mask)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((8, 8), (4, 4), (2, 2)),
        ((7, 5), (4, 4), (2, 2)),
        ((6, 6), (4, 4), (0, 0)),
        ((3, 9), (4, 4), (0, 2)),
        ((9, 10), (4, 3), (2, 1)),
        ((1, 5), (2, 4), (0, 1)),
    ],
)
def test_mask_equals_the_slow_formula(size, window, shift, mask_padding):
    expected = slow_mask(*size, window, shift, mask_padding)
    assert torch.equal(build_window_mask(*size, window, shift, mask_padding, CPU), expected)


@pytest.mark.parametrize(
    ("side", "window", "masked_windows", "share"),
    [(80, 8, 19, 0.0975), (40, 8, 9, 0.19), (20, 10, 3, 0.4375)],
)
def test_mask_counts_and_the_four_patterns(side, window, masked_windows, share):
    mask = build_window_mask(side, side, (window, window), (window // 2, window // 2), True, CPU)
    assert int(mask.flatten(1).any(1).sum()) == masked_windows
    assert mask.float().mean().item() == pytest.approx(share, abs=1e-7)
    assert len(mask.flatten(1).unique(dim=0)) == 4
    k = side // window
    inner = mask.view(k, k, -1)[:-1, :-1]
    assert not inner.any()  # only windows of the last row and column hold cells of opposite sides


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (5, 2), (9, 17), (20, 20)])
@pytest.mark.parametrize("shift", [(0, 0), (4, 4)])
def test_no_token_is_blocked_from_itself(height, width, shift):
    mask = build_window_mask(height, width, (8, 8), shift, True, CPU)
    assert not mask.diagonal(dim1=1, dim2=2).any()


def test_padding_can_reach_beyond_the_last_window():
    mask = build_window_mask(9, 9, (8, 8), (4, 4), True, CPU)  # padding 7 and shift 4 are more than the window
    assert len(mask.flatten(1).unique(dim=0)) > 1
    assert mask.view(2, 2, 64, 64)[0, 0, 0].sum() == 64 - 5 * 5  # 5x5 real cells remain in the first window


# Position offsets ---------------------------------------------------------------------------------------------------

COORDS = {
    (8, 8): [0, 0.36651, 0.57207, 0.71561, 0.82602, 0.91574, 0.99133, 1.05664],
    (7, 7): [0, 0.40746, 0.62482, 0.77398, 0.88766, 0.97953, 1.05664],
    (10, 8): [0, 0.36651, 0.57207, 0.71561, 0.82602, 0.91574, 0.99133, 1.05664, 1.11413, 1.16548],
}


@pytest.mark.parametrize(("window", "trained"), COORDS)
def test_coords_equal_the_published_table(window, trained):
    table = build_relative_coords((window, window), (trained, trained), CPU).view(2 * window - 1, 2 * window - 1, 2)
    half = torch.tensor(COORDS[window, trained])
    for axis in (table[window - 1 :, 0, 0], table[0, window - 1 :, 1]):
        torch.testing.assert_close(axis, half, atol=1e-5, rtol=0)
    assert torch.equal(table, -table.flip(0, 1))  # odd in both offsets


@pytest.mark.parametrize(
    ("window", "trained", "largest"),
    [(8, 8, math.log2(9) / 3), (2, 2, math.log2(9) / 3), (16, 8, 1.39378), (20, 8, 1.50184), (16, 12, 1.19133)],
)
def test_coords_reach_the_published_maximum(window, trained, largest):
    table = build_relative_coords((window, window), (trained, trained), CPU)
    assert table.max().item() == pytest.approx(largest, abs=1e-5)


def test_coords_put_the_vertical_offset_first_and_slow():
    table = build_relative_coords((2, 3), (2, 3), CPU)
    assert table.shape == (3 * 5, 2)
    assert table[:5, 0].unique().numel() == 1
    assert table[:5, 1].unique().numel() == 5
    assert table[0, 0] < 0 < table[-1, 0]


def test_coords_of_a_single_cell_are_zero_not_nan():
    assert build_relative_coords((1, 1), (1, 1), CPU).tolist() == [[0.0, 0.0]]
    assert build_relative_coords((1, 4), (1, 4), CPU).isfinite().all()


def test_index_equals_the_published_facts():
    index = build_relative_index((8, 8), CPU).view(64, 64)
    assert index[0, :3].tolist() == [112, 111, 110]
    assert index.diagonal().unique().tolist() == [112]
    assert (index[0, 63].item(), index[63, 0].item()) == (0, 224)
    assert index.sum().item() == 458_752


def test_index_finds_the_offset_of_each_pair():
    window = (2, 3)
    coords = build_relative_coords(window, window, CPU)
    index = build_relative_index(window, CPU).view(6, 6)
    for i in range(6):
        for j in range(6):
            offsets = (i // 3 - j // 3) * 8 / 1, (i % 3 - j % 3) * 8 / 2
            expected = [math.copysign(math.log2(1 + abs(u)) / 3, u) for u in offsets]
            assert coords[index[i, j]].tolist() == pytest.approx(expected, abs=1e-6)


# Temperature and normaliser -----------------------------------------------------------------------------------------


def test_factor_starts_at_ten_and_stops_at_a_hundred_without_gradient():
    scale = torch.tensor([math.log(10), math.log(100) - 1e-3, 4.7, 12.0]).view(4, 1, 1).requires_grad_()
    factor = logit_factor(scale)
    assert factor.flatten().tolist() == pytest.approx([10, 100 * math.exp(-1e-3), 100, 100], rel=1e-6)
    (gradient,) = torch.autograd.grad(factor.sum(), scale)
    assert gradient.flatten().tolist() == pytest.approx([10, 100 * math.exp(-1e-3), 0, 0], rel=1e-6)
    assert pytest.approx(math.log(100)) == MAX_LOGIT_SCALE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_factor_is_never_computed_in_half_precision(dtype):
    factor = logit_factor(torch.full((2, 1, 1), 12.0, dtype=dtype))
    assert factor.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert factor.flatten().tolist() == pytest.approx([100, 100], rel=1e-6)


def test_normaliser_equals_the_published_form_on_vectors_longer_than_its_floor():
    qk = torch.randn(2, 3, 2, 5, 8)
    factor = torch.tensor([7.0, 90.0]).view(2, 1, 1)
    q, k = normalize_queries_keys(*qk, factor)
    torch.testing.assert_close(q, F.normalize(qk[0], dim=-1) * factor)
    torch.testing.assert_close(k, F.normalize(qk[1], dim=-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normaliser_works_in_float32_on_half_inputs(dtype):
    qk = torch.full((2, 1, 1, 1, 32), 3000.0, dtype=dtype)  # the sum of squares would overflow in float16
    q, k = normalize_queries_keys(*qk, torch.ones(1, 1, 1))
    assert q.dtype == torch.float32
    torch.testing.assert_close(k, torch.full_like(k, 32**-0.5))


def test_normaliser_of_zero_is_zero_with_a_bounded_gradient():
    qk = torch.zeros(2, 1, 1, 1, 4, requires_grad=True)
    out = torch.stack(normalize_queries_keys(*qk, torch.ones(1, 1, 1)))
    assert not out.any()
    (gradient,) = torch.autograd.grad(out.sum(), qk)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1e3))


def test_at_least_float32_widens_but_never_narrows():
    wide = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
    assert {d: at_least_float32(torch.zeros(1, dtype=d)).dtype for d in wide} == wide


# Cores --------------------------------------------------------------------------------------------------------------


def attention_case(windows_per_image=4, batch=2, h=2, n=9, d=8, factor=10.0, dtype=torch.float32):
    qk = torch.randn(2, batch * windows_per_image, h, n, d).to(dtype)
    q, k = normalize_queries_keys(*qk, torch.full((h, 1, 1), factor))
    v = torch.randn(batch * windows_per_image, h, n, d).to(dtype)
    bias = 16 * torch.rand(h, n, n)
    blocked = (torch.rand(windows_per_image, n, n) > 0.5) & ~torch.eye(n, dtype=torch.bool)
    return q, k, v, bias, blocked


def slow_attention(q, k, v, bias, blocked):
    """Softmax over the allowed keys of each window alone, in float64."""
    q, k, v, bias = (t.double() for t in (q, k, v, bias))
    out = torch.empty_like(v)
    for w in range(len(q)):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                keys = torch.ones(q.shape[2], dtype=torch.bool) if blocked is None else ~blocked[w % len(blocked), i]
                weights = (k[w, h, keys] @ q[w, h, i] + bias[h, i, keys]).exp()
                out[w, h, i] = weights @ v[w, h, keys] / weights.sum()
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("core", [attend_explicit, attend_sdpa])
def test_core_equals_the_slow_formula(core, masked):
    q, k, v, bias, blocked = attention_case()
    blocked = blocked if masked else None
    expected = slow_attention(q, k, v, bias, blocked)
    torch.testing.assert_close(core(q, k, v, bias, blocked), expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_cores_have_equal_gradients(masked):
    *tensors, blocked = attention_case()
    gradients = []
    for core in (attend_explicit, attend_sdpa):
        leaves = [t.clone().requires_grad_() for t in tensors]
        out = core(*leaves, blocked if masked else None)
        gradients.append(torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), leaves))
    for explicit, fused in zip(*gradients, strict=True):
        torch.testing.assert_close(explicit, fused, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("core", [attend_explicit, attend_sdpa])
def test_blocked_keys_get_exactly_no_weight_even_when_aligned(core, dtype):
    q = torch.tensor([[[[100.0, 0.0], [100.0, 0.0]]]])
    k = torch.tensor([[[[-1.0, 0.0], [1.0, 0.0]]]])  # the allowed key is opposite, the blocked one aligned
    v = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]], dtype=dtype)
    bias = torch.tensor([[[0.0, 16.0], [0.0, 16.0]]])
    blocked = torch.tensor([[[False, True], [False, False]]])
    out = core(q, k, v, bias, blocked)
    assert out.dtype == dtype
    assert out[0, 0, 0].tolist() == [1.0, 0.0]
    assert math.isfinite(torch.tensor(BLOCKED, dtype=torch.float16).item())


# Root mean square errors measured on the reference forms (N 64, d 32, unit variance), with 10 % of room for the draw
CORE_ERRORS = [
    (attend_explicit, torch.bfloat16, 10.0, 1.1e-3),
    (attend_explicit, torch.bfloat16, 100.0, 1.7e-3),
    (attend_explicit, torch.float16, 100.0, 2.2e-4),
    (attend_sdpa, torch.bfloat16, 10.0, 6.1e-3),
    (attend_sdpa, torch.bfloat16, 100.0, 1.3e-2),
    (attend_sdpa, torch.float16, 100.0, 1.6e-3),
    (attend_explicit, torch.float32, 100.0, 2e-6),
]


@pytest.mark.parametrize(("core", "dtype", "factor", "stated"), CORE_ERRORS)
def test_core_is_as_accurate_as_stated(core, dtype, factor, stated):
    qk = torch.randn(2, 8, 4, 64, 32).to(dtype)
    v = torch.randn(8, 4, 64, 32).to(dtype)
    bias = 16 * (0.02 * torch.randn(4, 64, 64)).sigmoid()  # as in a fresh network
    wide = normalize_queries_keys(*qk.double(), torch.full((4, 1, 1), factor, dtype=torch.float64))
    exact = attend_explicit(*wide, v.double(), bias.double(), None)
    out = core(*normalize_queries_keys(*qk, torch.full((4, 1, 1), factor)), v, bias, None)
    assert (out.double() - exact).square().mean().sqrt().item() <= 1.1 * stated


def test_auto_chooses_by_device_and_mode():
    assert choose_core("auto", "cpu", True) is attend_explicit
    assert choose_core("auto", "cpu", False) is attend_sdpa
    assert choose_core("auto", "cuda", True) is attend_sdpa
    assert choose_core("auto", "cuda", False) is attend_sdpa
    for training in (True, False):
        assert choose_core("explicit", "cuda", training) is attend_explicit
        assert choose_core("sdpa", "cpu", training) is attend_sdpa


def test_unknown_core_is_an_error():
    with pytest.raises(ValueError, match="unknown attention core 'flash'; allowed: auto, explicit, sdpa"):
        choose_core("flash", "cpu", True)


# Autocast and cache -------------------------------------------------------------------------------------------------


def test_autocast_off_restores_the_dtype_inside_a_mixed_region():
    x = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.linear(x, torch.ones(3, 4)).dtype == torch.bfloat16
        with autocast_off("cpu"):
            assert F.linear(x, torch.ones(3, 4)).dtype == torch.float32
        assert F.linear(x, torch.ones(3, 4)).dtype == torch.bfloat16


def test_autocast_off_is_harmless_on_the_meta_device():
    with autocast_off("meta"):
        assert torch.ones(2, 3, device="meta").shape == (2, 3)


def test_cache_builds_once_and_forgets_the_oldest():
    made = []

    def build(n):
        made.append(n)
        return torch.full((1,), float(n))

    cached = cached_constant(build, size=2)
    assert cached(1) is cached(1)
    cached(2)
    cached(1)  # now 2 is the oldest
    cached(3)
    cached(1)
    assert made == [1, 2, 3]
    assert cached(2).item() == 2
    assert made == [1, 2, 3, 2]
    assert len(cached.cache) == 2


def test_cache_keeps_tuples_of_tensors():
    made = []
    cached = cached_constant(lambda n: made.append(n) or (torch.full((1,), float(n)), n))
    assert cached(1) is cached(1)
    assert made == [1]
    with FakeTensorMode():
        cached(2)
    assert list(cached.cache) == [(1,)]


def test_cache_never_stores_fake_tensors():
    key = (3, 3, (2, 2), (1, 1), True, torch.device("cuda:0"))
    with FakeTensorMode():
        assert window_mask(*key).device.type == "cuda"
    assert key not in windows.window_mask.cache


def test_constant_made_in_inference_mode_can_be_saved_for_backward():
    windows.relative_coords.cache.clear()
    with torch.inference_mode():
        windows.relative_coords((3, 3), (3, 3), CPU)
    weight = torch.ones(1, 2, requires_grad=True)
    F.linear(windows.relative_coords((3, 3), (3, 3), CPU), weight).sum().backward()
    assert weight.grad is not None


def test_constants_of_other_dtypes_and_devices_are_kept_apart():
    single = windows.relative_coords((3, 3), (3, 3), CPU, torch.float32)
    double = windows.relative_coords((3, 3), (3, 3), CPU, torch.float64)
    meta = windows.relative_coords((3, 3), (3, 3), torch.device("meta"))
    assert (single.dtype, double.dtype, meta.device.type) == (torch.float32, torch.float64, "meta")
    torch.testing.assert_close(single.double(), double, atol=2e-7, rtol=0)


@pytest.mark.parametrize(
    ("imgsz", "expected"),
    [(640, [8, 8, 8, 10]), (416, [8, 13, 13, 13]), (608, [8, 4, 8, 8]), (320, [8, 8, 10, 10]), (8, [8, 8, 8, 8])],
)
def test_chosen_windows_divide_the_maps_where_they_can(imgsz, expected):
    assert [windows.choose_window(imgsz // stride) for stride in (4, 8, 16, 32)] == expected
