"""Differences by hand."""

import numpy as np
import pytest
import torch

from engine.exporters.compare import Difference, boxes_of, check_difference, measure


def test_numbers_by_hand():
    expected = torch.tensor([[[100.0, 50.0, 10.0, 0.5, 0.9, 0.1]]])
    found = np.array([[[100.1, 50.0, 9.99, 0.54, 0.9, 0.13]]], np.float32)
    difference = measure(expected, found)
    assert difference.pixels == pytest.approx(0.1, rel=1e-4)
    assert difference.relative == pytest.approx(0.04, rel=1e-4)  # 0.04 of a box side below one pixel
    assert difference.scores == pytest.approx(0.03, rel=1e-4)


def test_larger_of_each():
    assert Difference(1, 0.1, 0.5) | Difference(2, 0.05, 0.1) == Difference(2, 0.1, 0.5)


@pytest.mark.parametrize(("bad", "match"), [(torch.zeros(1, 2, 6), "shape"), (torch.full((1, 1, 6), np.nan), "finite")])
def test_broken_output(bad, match):
    with pytest.raises(ValueError, match=match):
        measure(torch.zeros(1, 1, 6), bad)


def test_tolerance():
    check_difference(Difference(5.0, 9e-4, 9e-5), "float32", "x")
    with pytest.raises(ValueError, match=r"x.onnx: differs from PyTorch by .*0.002 relative.*limits are 0.001"):
        check_difference(Difference(0.1, 2e-3, 0.0), "float32", "x.onnx")


@torch.no_grad()
def test_raw_heads_decode_to_the_boxes_of_the_model(tiny_conv):
    images = torch.rand(2, 3, 64, 96)
    (expected,) = tiny_conv(images)
    assert torch.equal(boxes_of(tiny_conv, [expected]), expected)
    head = tiny_conv.detect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "raw_heads", True)
        maps = tiny_conv(images)
        assert [tuple(y.shape) for y in maps] == [(2, 2 * 7, 8, 12), (2, 2 * 7, 4, 6)]
        assert torch.equal(boxes_of(tiny_conv, [y.numpy() for y in maps]), expected)
        with pytest.raises(ValueError, match=r"the outputs have \[14\] channels, expected 2 maps of 14"):
            boxes_of(tiny_conv, maps[:1])
        with pytest.raises(ValueError, match=r"the outputs have \[\] channels"):
            boxes_of(tiny_conv, expected)
