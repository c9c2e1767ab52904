"""The batch that fits: a line through measured memory, and its ends."""

import pytest
import torch
from torch import nn

from utils.autobatch import DEFAULT, LARGEST, autobatch, fit_batch

MB = 2**20


@pytest.mark.parametrize(
    ("used", "allowed", "expected"),
    [
        ([110, 120, 140, 180, 260], 1100, 100),  # 100 + 10 per image
        ([110, 120, 140, 180, 260], 90, 1),
        ([110, 120, 140, 180, 260], 10**6, LARGEST),
        ([100, 100, 100, 100, 100], 500, DEFAULT),
    ],
)
def test_batch_is_where_the_line_meets_the_limit(used, allowed, expected):
    assert fit_batch((1, 2, 4, 8, 16), [x * MB for x in used], allowed * MB) == expected


def test_other_devices_take_the_default(caplog):
    assert autobatch(nn.Conv2d(3, 1, 1), 64) == DEFAULT
    assert "only CUDA memory" in caplog.text


@pytest.fixture
def pretended_cuda(monkeypatch):
    """A model on a device that says it is CUDA, with 10 GB free of 12."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000 * MB, 12_000 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    model = nn.Module()
    model.parameters = lambda: iter([type("P", (), {"device": torch.device("cuda:0")})()])
    return model


def test_measured_line_and_a_full_device(pretended_cuda):
    line = lambda model, imgsz, sizes, amp: [(105 + 79 * size) * MB for size in sizes]  # noqa: E731
    assert autobatch(pretended_cuda, 640, measure=line) == 99
    assert autobatch(pretended_cuda, 640, measure=lambda *_: [m * MB for m in (110, 120, 140)]) == 4
    with pytest.raises(ValueError, match="not even one image of 640 pixels"):
        autobatch(pretended_cuda, 640, measure=lambda *_: [])
