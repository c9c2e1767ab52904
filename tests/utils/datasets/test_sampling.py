"""Order and share of the images of an epoch."""

import numpy as np
import pytest

from utils.datasets.sampling import EpochSampler, class_weights, image_weights


def indices(sampler):
    return [index for _, index in sampler]


@pytest.mark.parametrize(("n", "batch_size", "world_size"), [(20, 4, 2), (23, 8, 4), (5, 4, 2), (16, 4, 4)])
def test_processes_together_see_the_batches_of_one(n, batch_size, world_size):
    alone = indices(EpochSampler(n, shuffle=True, seed=3))
    shares = [EpochSampler(n, True, 3, batch_size, rank, world_size) for rank in range(world_size)]
    lengths, passes = {len(share) for share in shares}, [indices(share) for share in shares]
    assert lengths == {len(one) for one in passes}
    assert len(lengths) == 1
    part = batch_size // world_size
    for start in range(0, n, batch_size):
        seen = [i for one in passes for i in one[start // world_size : start // world_size + part]]
        batch = alone[start : start + batch_size]
        assert set(seen) == set(batch)
        assert len(seen) - len(batch) < world_size  # repeated to share the last batch evenly


def test_epochs_differ_and_come_again():
    sampler = EpochSampler(50, shuffle=True, seed=1)
    first = indices(sampler)
    second = indices(sampler)  # if `set_epoch` was never called, each pass is the next epoch
    sampler.set_epoch(1)
    assert indices(sampler) == second
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    sampler.set_epoch(0)
    assert indices(sampler) == first


def test_weighted_images_come_as_often_as_they_weigh():
    sampler = EpochSampler(1000, shuffle=True)
    sampler.weights = np.zeros(1000)
    sampler.weights[[10, 20]] = 1, 3
    drawn = indices(sampler)
    assert len(drawn) == 1000
    assert set(drawn) == {10, 20}
    assert drawn.count(20) == pytest.approx(750, abs=60)
    sampler.weights = np.zeros(1000)  # nothing to prefer
    assert sorted(indices(sampler)) == list(range(1000))


def test_rare_and_badly_found_classes_weigh_most():
    label = np.array([[0, 0.5, 0.5, 0.1, 0.1]], np.float32)
    labels = [np.repeat(label, 3, 0), np.concatenate((label, label + [[1, 0, 0, 0, 0]])), label[:0]]
    weights = class_weights(labels, 3)
    assert weights == pytest.approx(np.array([1 / 4, 1, 1]) / 2.25 * 3)  # 4 labels, 1, none
    assert image_weights(labels, np.array([0.5, 0.0, 0.0]), weights) == pytest.approx(
        [3 * weights[0] * 0.25 / 3, (weights[0] * 0.25 + weights[1]) / 3, 0]
    )
    assert class_weights([], 2) == pytest.approx([1, 1])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_pass_goes_on_behind_what_was_seen(world_size):
    sampler = EpochSampler(23, True, 3, 4, rank=0, world_size=world_size)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, skip=6)
    assert list(sampler) == whole[6:]
    sampler.set_epoch(2)
    assert list(sampler) == whole
