"""The activation that a model YAML names: built, kept to its model, never run as code."""

import pytest
from torch import nn

from models import common
from models.yolo import ACTIVATIONS, default_activation, parse_activation
from tests.model_tables import build


def test_activation_is_used_and_does_not_leak():
    before = common.Conv.default_act
    model = build([-1, 1, "C3", [16]], activation="nn.LeakyReLU(0.2)")
    assert {type(m.act) for m in model.modules() if isinstance(m, common.Conv)} == {nn.LeakyReLU}
    assert model.model[0].act.negative_slope == 0.2
    assert common.Conv.default_act is before
    assert isinstance(build().model[0].act, nn.SiLU)


def test_activation_does_not_leak_from_a_model_that_fails():
    before = common.Conv.default_act
    with pytest.raises(ValueError, match="unknown module"):
        build([-1, 1, "Konv", [16]], activation="nn.ReLU()")
    assert common.Conv.default_act is before
    with pytest.raises(RuntimeError, match="inside"), default_activation("nn.ReLU()"):
        raise RuntimeError("inside")
    assert common.Conv.default_act is before


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_built(name):
    assert type(parse_activation(f"nn.{name}()")) is getattr(nn, name)


def test_activation_arguments_are_literals():
    assert parse_activation("nn.LeakyReLU(negative_slope=0.3, inplace=True)").inplace
    assert parse_activation("nn.ELU(0.5)").alpha == 0.5


UNSAFE = [
    "__import__('pathlib').Path('{0}').touch()",
    "nn.ReLU(__import__('pathlib').Path('{0}').touch())",
    "nn.Module.__init__.__globals__['open']('{0}', 'w')",
    "(lambda: open('{0}', 'w'))()",
    "os.ReLU()",
    "nn.Linear(3, 3)",
    "nn.init.ReLU()",
    "nn.ReLU",
    "nn.LeakyReLU(1, 2, 3, 4)",
    "ReLU()",
    "relu(",
    3,
]


@pytest.mark.parametrize("text", UNSAFE)
def test_activation_is_never_run_as_code(text, tmp_path):
    target = tmp_path / "made"
    text = text.format(target) if isinstance(text, str) else text
    with pytest.raises(ValueError, match="model: activation: .* is not an activation.*allowed: nn.ELU"):
        build(activation=text)
    assert not target.exists()
