"""Where numbers stop being finite, and when a loss is said to grow without end."""

import pytest
import torch
from torch import nn

from engine.training.health import Amplitude, LossWatch, amplitudes, describe_amplitudes, not_finite, shortened


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return [x * self.factor, x]


class Pick(nn.Module):
    def forward(self, x):
        return x[0] - x[0]


def test_amplitudes_follow_the_pass_through_lists_and_name_the_first_bad_row():
    rows = [Times(-3.0), Pick(), Times(float("inf")), Pick()]

    def forward():
        x = torch.tensor([1.0, -2.0])
        for row in rows:
            x = row(x)

    found = amplitudes(rows, forward)
    assert found[:2] == [Amplitude(0, "Times", 2.0, 6.0), Amplitude(1, "Pick", 6.0, 0.0)]
    text = describe_amplitudes(found)
    assert "layer 2 (Times) is the first with output nan; its input reaches 0" in text
    assert "largest finite activation 6 in layer 0 (Times)" in text
    assert not any(row._forward_hooks for row in rows)
    assert describe_amplitudes(found[:2]) == "all layers are finite, largest finite activation 6 in layer 0 (Times)"


def test_half_precision_and_empty_maps_have_amplitudes():
    rows = [nn.Identity()]
    assert amplitudes(rows, lambda: rows[0](torch.full((2, 2), -60000.0).half()))[0].outside == 59_968.0 + 32
    assert amplitudes(rows, lambda: rows[0](torch.zeros(0, 3)))[0].outside == 0.0


def test_names_of_bad_tensors():
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.ones(1).long()}
    assert not_finite(tensors | {"d": torch.tensor(-float("inf"))}) == ["b", "d"]
    assert not_finite({}) == []
    assert shortened(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 0.5, 20.0, 20.0, 20.0], 4),
        ([1.0, 0.5, 20.0, 20.0, 0.5, 20.0, 20.0], None),  # not in succession
        ([1.0, 3.0, 9.0, 30.0, 100.0, 300.0], 5),  # 30 is the first above 10 x 1
        ([5.0, *[0.1] * 200, *[4.0] * 10], None),  # below twice the start
        ([0.1, *[0.09] * 9, *[0.5] * 50], None),
    ],
)
def test_divergence(losses, expected):
    watch = LossWatch()
    told = [watch(loss) for loss in losses]
    assert (told.index(True) if True in told else None) == expected
