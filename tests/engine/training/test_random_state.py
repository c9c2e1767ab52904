"""The state of all random generators: saved, read and put back."""

import random

import numpy as np
import torch

from engine.training.random_state import rng_state, set_rng_state


def draw():
    return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002


def test_random_state_survives_a_safe_file(tmp_path):
    random.gauss(0, 1)  # leaves a second number waiting, as the next line does
    np.random.standard_normal()  # noqa: NPY002
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = [draw(), random.gauss(0, 1), np.random.standard_normal()]  # noqa: NPY002
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw(), random.gauss(0, 1), np.random.standard_normal()] == expected  # noqa: NPY002


def test_reading_the_random_state_does_not_move_it():
    rng_state()
    first = draw()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)  # as the fixture of conftest.py does
    assert draw() == first


def test_random_state_of_absent_cuda_devices_is_left_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = rng_state() | {"cuda": [torch.zeros(16, dtype=torch.uint8)]}
    set_rng_state(state)
    assert rng_state()["cuda"] == []
