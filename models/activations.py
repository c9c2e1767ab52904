"""The activation of a model's convolutions, named in its YAML and never run as code."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from torch import nn

from models.convolutions import Conv

LARGEST = 1_000_000  # of the arguments; PReLU takes memory for as many parameters
ACTIVATIONS = ("ELU", "GELU", "Hardswish", "Identity", "LeakyReLU", "Mish", "PReLU", "ReLU", "ReLU6", "SiLU")


def parse_activation(text: str) -> nn.Module:
    """Build the activation that a YAML names, such as `nn.LeakyReLU(0.1)`, without evaluating it as code.

    Raises:
        ValueError: the string is not a call of an allowed activation with literal arguments.
    """
    allowed = f"allowed: {', '.join(f'nn.{name}(...)' for name in ACTIVATIONS)}"
    try:
        call: Any = ast.parse(text, mode="eval").body  # what is no call lacks `func`: AttributeError
        name = call.func.attr
        args = [ast.literal_eval(arg) for arg in call.args]
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        numbers = [*args, *keywords.values()]
        if any(isinstance(value, int | float) and abs(value) > LARGEST for value in numbers):
            raise ValueError(f"a number above {LARGEST}")
        if ast.unparse(call.func) == f"nn.{name}" and name in ACTIVATIONS:
            return getattr(nn, name)(*args, **keywords)
    except (AttributeError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"activation: {text!r} is not an activation ({error}); {allowed}") from error
    raise ValueError(f"activation: {text!r} is not an activation; {allowed}")


@contextmanager
def default_activation(text: str | None, source: str = "model") -> Iterator[None]:
    """Give `Conv` a default activation for one model: the named one, else a copy of the present default.

    Afterwards the default is the previous one again. Parameters of an activation are thus shared inside a model only.
    """
    before = Conv.default_act
    try:
        try:
            Conv.default_act = parse_activation(text) if text else deepcopy(before)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        yield
    finally:
        Conv.default_act = before


def in_place(act: nn.Module) -> nn.Module:
    """Return a copy of an activation that overwrites its input, or the activation itself where it cannot."""
    if getattr(act, "inplace", True):
        return act
    act = deepcopy(act)
    act.inplace = True
    return act
