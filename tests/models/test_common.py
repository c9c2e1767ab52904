"""Blocks: parameter counts, order of channels, any size, gradients, batches, fusing; what surrounds the Swin blocks."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.common import (
    C3,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    C3Ghost,
    C3SwinV2,
    C3x,
    Concat,
    Contract,
    Conv,
    CrossConv,
    DropPath,
    DWConv,
    DWConvTranspose2d,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
    LayerNorm2d,
    MixConv2d,
    Mlp,
    PatchEmbed,
    PatchMerging,
    SwinV2Stage,
    TransformerBlock,
    as_pair,
    autopad,
    choose_heads,
    drop_path_rates,
)
from utils.torch_utils import fuse_conv_and_bn

# block, arguments, parameters measured on the reference (None: ours), output channels, height and width of an 8x12 map
BLOCKS = [
    (Conv, (8, 16, 3, 2), 1184, (16, 4, 6)),
    (DWConv, (8, 16, 3), 176, (16, 8, 12)),
    (DWConvTranspose2d, (8, 16, 4, 2, 1), 272, (16, 16, 24)),
    (Bottleneck, (16, 16), 1328, (16, 8, 12)),
    (BottleneckCSP, (16, 32), 4576, (32, 8, 12)),
    (C3, (16, 32), 4288, (32, 8, 12)),
    (C3x, (16, 32), 3264, (32, 8, 12)),
    (C3TR, (16, 32), 4304, (32, 8, 12)),
    (C3SPP, (16, 32), 2352, (32, 8, 12)),
    (C3Ghost, (16, 32), 2140, (32, 8, 12)),
    (SPP, (16, 32), 1232, (32, 8, 12)),
    (SPPF, (16, 32), 1232, (32, 8, 12)),
    (Focus, (3, 16, 3), 1760, (16, 4, 6)),
    (GhostConv, (16, 32, 3, 2), 2768, (32, 4, 6)),
    (GhostBottleneck, (16, 16, 3, 2), 1028, (16, 4, 6)),
    (GhostBottleneck, (16, 16), 476, (16, 8, 12)),
    (CrossConv, (16, 16), 1600, (16, 8, 12)),
    (MixConv2d, (16, 16), 192, (16, 8, 12)),
    (TransformerBlock, (16, 16, 4, 2), 5008, (16, 8, 12)),
    (TransformerBlock, (8, 16, 4, 1), None, (16, 8, 12)),
    (Contract, (2,), 0, (32, 4, 6)),
    (Expand, (2,), 0, (2, 16, 24)),
    (PatchEmbed, (3, 16), None, (16, 2, 3)),
    (PatchMerging, (16, 32), None, (32, 4, 6)),
    (LayerNorm2d, (16,), 32, (16, 8, 12)),
    (SwinV2Stage, (16, 16, 2, 4), None, (16, 8, 12)),
    (C3SwinV2, (16, 32, 2, 4), None, (32, 8, 12)),
]
IDS = [f"{block.__name__}{args}" for block, args, _, _ in BLOCKS]
TAKES_ONE_SIZE = (Contract, Focus)  # their maps must be even


def build(block, args):
    module = block(*args)
    for parameter in module.parameters():  # zero gains would hide the attention
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return module


def channels_in(block, args):
    return 8 if block is Expand else 8 if block is Contract else args[0]


@pytest.mark.parametrize(("block", "args", "parameters", "shape"), BLOCKS, ids=IDS)
def test_block_has_the_published_size_and_output(block, args, parameters, shape):
    module = block(*args)
    if parameters is not None:
        assert sum(p.numel() for p in module.parameters()) == parameters
    assert module(torch.randn(2, channels_in(block, args), 8, 12)).shape == (2, *shape)


@pytest.mark.parametrize(("block", "args", "parameters", "shape"), BLOCKS, ids=IDS)
def test_block_sends_a_gradient_to_every_parameter_and_leaves_its_input(block, args, parameters, shape):
    module = build(block, args)
    x = torch.randn(2, channels_in(block, args), 8, 12, requires_grad=True)
    before = x.detach().clone()
    out = module(x)
    (out * torch.randn_like(out)).sum().backward()
    assert torch.equal(x, before)
    assert x.grad.any()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert [name for name, p in module.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(("block", "args", "parameters", "shape"), BLOCKS, ids=IDS)
def test_block_treats_a_batch_as_single_images(block, args, parameters, shape):
    module = build(block, args).eval()
    x = torch.randn(3, channels_in(block, args), 4, 6)
    whole = module(x)
    singles = torch.cat([module(image[None]) for image in x])
    torch.testing.assert_close(whole, singles, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("block", "args"), [b[:2] for b in BLOCKS if b[0] not in TAKES_ONE_SIZE])
def test_block_takes_odd_maps(block, args):
    module = build(block, args).eval()
    for size in ((1, 1), (3, 5), (7, 2)):
        out = module(torch.randn(1, channels_in(block, args), *size))
        assert out.isfinite().all()
        assert min(out.shape) > 0


# Convolutional blocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "d", "expected"), [(1, 1, 0), (3, 1, 1), (6, 1, 3), (3, 2, 2), ((1, 3), 1, [0, 1])])
def test_autopad_keeps_the_size_at_stride_one(k, d, expected):
    assert autopad(k, None, d) == expected
    assert autopad(k, 7, d) == 7


def test_conv_is_convolution_normalisation_activation():
    conv = Conv(3, 4, 3, 2)
    x = torch.randn(2, 3, 6, 6)
    conv.eval()
    plain = F.conv2d(x, conv.conv.weight, stride=2, padding=1)
    torch.testing.assert_close(conv(x), F.silu(plain / math.sqrt(1 + 1e-5)))
    assert isinstance(Conv(3, 4, act=False).act, nn.Identity)
    relu = nn.ReLU()
    assert Conv(3, 4, act=relu).act is relu


@pytest.mark.parametrize("conv", [Conv(6, 8, 3, 2), Conv(6, 8, 3, g=2), DWConv(6, 12, 3), Conv(6, 8, 3, d=2)])
def test_fused_conv_equals_the_unfused_one(conv):
    with torch.no_grad():
        for p in conv.bn.parameters():
            p.uniform_(0.5, 2)
    conv.bn.running_mean.uniform_(-1, 1)
    conv.bn.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 9, 9)
    expected = conv.eval()(x)
    fused = deepcopy(conv)
    fused.conv = fuse_conv_and_bn(conv.conv, conv.bn)
    torch.testing.assert_close(fused.forward_fuse(x), expected, atol=1e-5, rtol=1e-5)


def test_shortcuts_are_taken_only_between_equal_widths():
    for block in (Bottleneck, CrossConv):
        with_shortcut = {"shortcut": True}
        assert block(8, 8, **with_shortcut).add
        assert not block(8, 16, **with_shortcut).add
        assert not block(8, 8, shortcut=False).add


def test_bottleneck_adds_its_input():
    block = Bottleneck(8, 8).eval()
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(block(x), x + block.cv2(block.cv1(x)))


def test_c3_joins_the_deep_and_the_short_path():
    block = C3(8, 8, n=2).eval()
    x = torch.randn(1, 8, 4, 4)
    deep = block.m[1](block.m[0](block.cv1(x)))
    torch.testing.assert_close(block(x), block.cv3(torch.cat((deep, block.cv2(x)), 1)))


def test_sppf_of_five_equals_the_pyramid_of_five_nine_thirteen():
    spp, sppf = SPP(8, 8).eval(), SPPF(8, 8).eval()
    sppf.load_state_dict(spp.state_dict())
    x = torch.randn(1, 8, 16, 16)
    assert torch.equal(spp(x), sppf(x))


RAMP = torch.arange(32.0).view(1, 2, 4, 4)


def test_contract_order_and_its_inverse():
    out = Contract(2)(RAMP)
    assert out[0, :, 0, 0].tolist() == [0, 16, 1, 17, 4, 20, 5, 21]
    assert torch.equal(Expand(2)(out), RAMP)
    x = torch.randn(2, 3, 6, 9)
    assert torch.equal(Expand(3)(Contract(3)(x)), x)


def test_focus_order_differs_from_contract():
    focus = Focus(2, 8, 1)
    focus.conv = nn.Identity()
    assert focus(RAMP)[0, :, 0, 0].tolist() == [0, 16, 4, 20, 1, 17, 5, 21]


@pytest.mark.parametrize(
    ("c2", "k", "equal", "split"),
    [(17, (1, 3, 5), True, [6, 5, 6]), (64, (1, 3, 5), False, [56, 6, 2]), (16, (1, 3), True, [8, 8])],
)
def test_mixconv_split(c2, k, equal, split):
    module = MixConv2d(c2, c2, k, equal_ch=equal)
    assert [conv.out_channels for conv in module.m] == split
    assert [conv.kernel_size[0] for conv in module.m] == list(k)


def test_concat_joins_channels():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    assert torch.equal(Concat()([a, b]), torch.cat((a, b), 1))


def test_ghost_conv_derives_its_second_half_from_the_first():
    block = GhostConv(4, 8).eval()
    out = block(torch.randn(1, 4, 5, 5))
    torch.testing.assert_close(out[:, 4:], block.cv2(out[:, :4]))


def test_transformer_block_sees_the_whole_map():
    block = TransformerBlock(8, 8, 4, 1).eval()
    x = torch.randn(1, 8, 4, 4)
    moved = x.clone()
    moved[0, :, 3, 3] += 1
    assert (block(moved) - block(x))[0, :, 0, 0].abs().max() > 1e-6


# Around the Swin blocks ---------------------------------------------------------------------------------------------


def test_layer_norm_2d_normalises_the_channels_of_each_cell():
    norm = build(LayerNorm2d, (6,))
    x = torch.randn(2, 6, 3, 4) * 5 + 2
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


def test_patch_embedding_reads_whole_patches_and_pads_the_rest_with_zeros():
    embed = build(PatchEmbed, (3, 8, 4))
    x = torch.randn(1, 3, 8, 12)
    patch = x[0, :, 4:8, 8:12].flatten()
    token = embed.proj.weight.flatten(1) @ patch + embed.proj.bias
    expected = F.layer_norm(token, (8,), embed.norm.weight, embed.norm.bias)
    torch.testing.assert_close(embed(x)[0, :, 1, 2], expected, atol=1e-5, rtol=1e-5)
    cropped = x[..., :7, :9]
    assert torch.equal(embed(cropped), embed(F.pad(cropped, (0, 3, 0, 1))))
    assert embed(x[..., :1, :1]).shape == (1, 8, 1, 1)


def test_patch_merging_equals_a_strided_convolution():
    merge = PatchMerging(5, 10)
    weight = merge.reduction.weight.view(10, 2, 2, 5)  # column parity, row parity, channel
    x = torch.randn(2, 5, 6, 8)
    expected = F.conv2d(x, weight.permute(0, 3, 2, 1), stride=2)
    expected = F.layer_norm(expected.permute(0, 2, 3, 1), (10,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(merge(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size", "out"), [((5, 8), (3, 4)), ((4, 7), (2, 4)), ((1, 1), (1, 1))])
def test_patch_merging_pads_odd_maps_at_the_bottom_and_right(size, out):
    merge = PatchMerging(4, 8)
    x = torch.randn(1, 4, *size)
    padded = F.pad(x, (0, size[1] % 2, 0, size[0] % 2))
    assert merge(x).shape == (1, 8, *out)
    assert torch.equal(merge(x), merge(padded))


def test_mlp_with_a_depthwise_convolution_looks_at_the_neighbours():
    plain, mixed = Mlp(4, 8), Mlp(4, 8, depthwise=True)
    x = torch.randn(1, 5, 5, 4)
    moved = x.clone()
    moved[0, 2, 2] += 1
    changed = [(mlp(moved) - mlp(x)).abs().amax(-1)[0] > 1e-7 for mlp in (plain, mixed)]
    assert changed[0].nonzero().tolist() == [[2, 2]]
    assert int(changed[1].sum()) == 9
    hidden = plain.fc1(x)
    gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    torch.testing.assert_close(plain(x), plain.fc2(gelu))


@pytest.mark.parametrize(
    ("width", "heads"), [(16, 1), (32, 1), (48, 1), (64, 2), (80, 2), (96, 3), (128, 4), (160, 5), (384, 12), (8, 1)]
)
def test_heads_follow_the_width(width, heads):
    assert choose_heads(width) == heads
    assert (width // heads) % 8 == 0


def test_heads_of_another_aimed_width():
    assert choose_heads(64, head_width=16) == 4
    assert choose_heads(64, head_width=8) == 8


def test_width_that_cannot_hold_heads_is_an_error():
    with pytest.raises(ValueError, match="a width that is a multiple of 8, not 20"):
        choose_heads(20)


def test_windows_come_as_one_number_or_two():
    assert as_pair(8) == (8, 8)
    assert as_pair([4, 6]) == (4, 6)


@pytest.mark.parametrize("window", [0, -1, 8.5, "8", "44", None, True, [], [4], [4, 0], [4, 4, 4], [4, 4.0]])
def test_bad_window_is_an_error(window):
    with pytest.raises(ValueError, match="a window is one or two positive integers, not "):
        as_pair(window)


# Stochastic depth ---------------------------------------------------------------------------------------------------


def test_drop_path_rates_grow_linearly():
    rates = drop_path_rates(0.2, 12)
    assert rates[0] == 0
    assert rates[-1] == 0.2
    assert rates[1] == pytest.approx(0.018182, abs=1e-6)
    assert {round(b - a, 9) for a, b in zip(rates, rates[1:], strict=False)} == {round(0.2 / 11, 9)}
    assert drop_path_rates(0.3, 1) == [0]
    assert drop_path_rates(0.3, 0) == []


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), "0.1", None])
def test_impossible_drop_rate_is_an_error(rate):
    with pytest.raises(ValueError, match="drop_path is the probability of dropping a branch, 0 to below 1, not "):
        DropPath(rate)
    with pytest.raises(ValueError, match="drop_path is the probability"):
        drop_path_rates(rate, 4)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    out = drop(x).flatten(1)
    assert (out.amin(1) == out.amax(1)).all()
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1, abs=0.05)  # standard error 0.009


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero():
    x = torch.randn(3, 2)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_drop_path_keeps_half_precision():
    out = DropPath(0.5)(torch.ones(8, 2, dtype=torch.float16))
    assert out.dtype == torch.float16
    assert set(out.flatten().tolist()) <= {0.0, 2.0}
