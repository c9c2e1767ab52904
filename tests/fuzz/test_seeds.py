"""The inputs that fuzzing begins with, and those that it once found: read or refused as promised."""

import random

import pytest

from tests.fuzz import readers

FOUND = {  # target -> inputs
    "labels": [b"0 0.5 0.5 1e-46 0.1"],
    "coco": [],
    "voc": [b'<?xml version="1.0" encoding="nothing"?><a/>'],
}


@pytest.mark.parametrize("name", readers.TARGETS)
def test_seeds(name, tmp_path):
    target = readers.Target(tmp_path, name)
    rng = random.Random(0)
    for seed in target.seeds() + FOUND.get(name, []):
        target(seed)
        target(seed[: len(seed) // 2])
        for _ in range(5):
            changed = bytearray(seed)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            target(bytes(changed))
