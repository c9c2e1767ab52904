"""Attention weights put back into the map, against what the block itself does with values that tell positions apart."""

import pytest
import torch

from models.common import SwinV2Block
from models.swin.attention_maps import attention_maps
from models.swin.windows import window_partition


def block_of_positions(height, width, window, shift, heads=2, **options):
    """A block whose attention outputs, for each cell, the weight of every cell of the map; and its input.

    A part of the channels is random and makes queries and keys, the others say which cell it is; each head has them
    all as its value, and the last layer takes the mean over heads.
    """
    cells, part = height * width, 8
    width_of_head = max(cells, part)
    dim = heads * width_of_head
    block = SwinV2Block(dim, heads, window, shift, **options).eval()
    with torch.no_grad():
        attn = block.attn
        for parameter in attn.parameters():
            parameter.normal_()
        attn.qkv.weight.zero_()
        attn.qkv.weight[: 2 * dim, :part].normal_()
        values = attn.qkv.weight[2 * dim :].view(heads, width_of_head, dim)
        values[:, :cells, part : part + cells] = torch.eye(cells)
        attn.v_bias.zero_()
        attn.proj.weight.zero_()
        attn.proj.bias.zero_()
        attn.proj.weight.view(dim, heads, width_of_head)[:cells, :, :cells] = torch.eye(cells)[:, None] / heads
    x = torch.zeros(1, height, width, dim)
    x[..., :part] = torch.randn(height, width, part)
    x[0, :, :, part : part + cells] = torch.eye(cells).view(height, width, cells)
    return block, x


CASES = [
    (8, 8, (4, 4), (0, 0)),
    (8, 8, (4, 4), (2, 2)),
    (7, 10, (4, 4), (2, 2)),  # padded at the bottom and right, and rolled
    (6, 9, (5, 3), (2, 1)),
    (3, 9, (4, 4), (2, 2)),  # one window covers the rows: rolled to the left only
]


@pytest.mark.parametrize(("height", "width", "window", "shift"), CASES)
@pytest.mark.parametrize("options", [{}, {"bias": "table", "attention": "dot", "norm": "pre"}, {"mask_padding": False}])
@torch.no_grad()
def test_weights_are_those_of_the_block(height, width, window, shift, options):
    torch.manual_seed(0)
    block, x = block_of_positions(height, width, window, shift, **options)
    if "norm" in options:
        block.norm1 = torch.nn.Identity()
    cells = height * width
    expected = block.attend(x)[0].flatten(0, 1)[:, :cells]  # (query, key)
    each = torch.eye(cells, dtype=torch.bool).view(cells, height, width)
    found = attention_maps(block, x, each)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-5, atol=1e-6)
    some = torch.rand(2, height, width) > 0.5
    mean = torch.stack([expected[chosen.flatten()].mean(0) for chosen in some])
    torch.testing.assert_close(attention_maps(block, x, some).flatten(1), mean, rtol=1e-5, atol=1e-6)
    if options.get("mask_padding", True):
        torch.testing.assert_close(found.sum((1, 2)), torch.ones(cells))


def test_nothing_is_attended_to_across_the_edge_of_the_map():
    """A corner cell shares its rolled window with cells of three other corners, and only the own ones get weight."""
    torch.manual_seed(0)
    block = SwinV2Block(16, 2, 4, 2).eval()
    cells = torch.zeros(1, 8, 8, dtype=torch.bool)
    cells[0, 0, 0] = True
    weights = attention_maps(block, torch.randn(1, 8, 8, 16), cells)[0]
    own = torch.zeros(8, 8, dtype=torch.bool)
    own[:2, :2] = True
    assert (weights > 0).equal(own)
    rolled = window_partition(own.roll((-2, -2), (0, 1))[None, :, :, None], (4, 4))[..., 0]
    assert rolled.sum(1).tolist() == [0, 0, 0, 4]  # in one window of sixteen cells


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_fused_blocks(dtype):
    torch.manual_seed(0)
    block = SwinV2Block(16, 2, 4, 2).eval()
    x, cells = torch.randn(1, 6, 7, 16), torch.rand(3, 6, 7) > 0.5
    expected = attention_maps(block, x, cells)
    block.attn.fuse()
    torch.testing.assert_close(attention_maps(block, x, cells), expected)
    found = attention_maps(block.to(dtype), x.to(dtype), cells)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=5e-3)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3))
