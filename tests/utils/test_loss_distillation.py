"""The loss of a student against its teacher: where it is smallest, what counts, and what does not."""

import pytest
import torch

from utils.loss import map_loss, output_loss

ANCHORS = torch.tensor([[[1.0, 2.0], [3.0, 2.0]], [[2.0, 2.0], [4.0, 3.0]]])
GAINS = {"box": 0.05, "obj": 1.0, "cls": 0.5}
SIZES = ((8, 6), (4, 3))  # rows and columns of two levels


def outputs(classes=3, objectness=0.0):
    """Raw maps of two levels for four images, (4, 2, H, W, 5 + classes)."""
    maps = [torch.randn(4, 2, *size, 5 + classes) for size in SIZES]
    for raw in maps:
        raw[..., 4] += objectness
    return maps


def entropy(p):
    return -(p * p.log() + (1 - p) * (1 - p).log())


@pytest.mark.parametrize("classes", [1, 3])
def test_equal_outputs_leave_the_entropy_of_the_teacher(classes):
    teacher = outputs(classes)
    objectness = sum(
        weight * entropy(raw[..., 4].sigmoid()).mean() for weight, raw in zip((4.0, 1.0), teacher, strict=True)
    )
    rows = torch.cat([raw.flatten(0, 3) for raw in teacher]).sigmoid()  # all are above FAINT here
    weighted = (entropy(rows[:, 5:]).mean(1) * rows[:, 4]).sum() / rows[:, 4].sum()
    floor = GAINS["obj"] * objectness + GAINS["cls"] * 2 * weighted * (classes > 1)
    assert output_loss(teacher, teacher, ANCHORS, GAINS).item() == pytest.approx(floor.item(), rel=1e-5)


@pytest.mark.parametrize("column", [0, 2, 4, 6], ids=["position", "size", "objectness", "class"])
def test_what_differs_from_the_teacher_raises_the_loss_and_is_pulled_back(column):
    teacher = outputs(objectness=2.0)
    student = [raw.clone().requires_grad_() for raw in teacher]
    moved = [raw + 0.5 * (torch.arange(8) == column) for raw in student]
    loss = output_loss(moved, teacher, ANCHORS, GAINS)
    assert loss > output_loss(teacher, teacher, ANCHORS, GAINS) + 1e-4
    loss.backward()
    assert sum(raw.grad[..., column].sum() for raw in student) > 0  # less of it is better


def test_boxes_and_classes_of_the_background_do_not_count():
    teacher = outputs(objectness=-20.0)
    teacher[0][0, 0, 0, 0, 4] = 3.0  # one object
    student = [raw.clone() for raw in teacher]
    for raw in student:
        raw[1:, ..., :4] += 1
        raw[1:, ..., 5:] += 1
    assert torch.equal(output_loss(student, teacher, ANCHORS, GAINS), output_loss(teacher, teacher, ANCHORS, GAINS))


def test_a_teacher_that_sees_nothing_gives_a_finite_loss():
    teacher = outputs(objectness=-50.0)
    student = [raw.clone().requires_grad_() for raw in outputs()]
    output_loss(student, teacher, ANCHORS, GAINS).backward()
    assert all(raw.grad.isfinite().all() for raw in student)
    maps = [torch.randn(4, 5, *size, requires_grad=True) for size in SIZES]
    loss = map_loss(maps, [x.detach().flip(0) for x in maps], teacher)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in maps)


def test_maps_are_compared_by_their_pattern():
    raw = outputs()
    maps = [torch.randn(4, 5, *size) for size in SIZES]
    scaled = [x * torch.linspace(0.5, 20, 5).view(5, 1, 1) - 3 for x in maps]
    assert map_loss(maps, maps, raw) == 0
    assert map_loss(scaled, maps, raw).item() == pytest.approx(0, abs=1e-3)
    assert map_loss([x.flip(0) for x in maps], maps, raw).item() == pytest.approx(2, abs=0.5)
    assert map_loss([-x for x in maps], maps, raw).item() == pytest.approx(4, rel=0.1)


def test_maps_count_where_the_teacher_has_a_score():
    raw = outputs(objectness=-20.0)
    for level in raw:
        level[0, ..., 4] = 3.0  # objects in the first image alone
    maps = [torch.randn(4, 5, *size) for size in SIZES]
    first, last = ([x.clone() for x in maps] for _ in range(2))
    for x, y in zip(first, last, strict=True):
        x[0], y[3] = x[0].flip(1), y[3].flip(1)
    assert map_loss(first, maps, raw) > 1
    assert map_loss(last, maps, raw) < 1e-3


def test_processes_together_have_the_loss_of_the_batch():
    teacher, student = outputs(objectness=-1.0), outputs()
    halves = [([raw[part] for raw in student], [raw[part] for raw in teacher]) for part in (slice(2), slice(2, 4))]
    weights = []

    def note(counts):
        weights.append(counts[0])
        return [1.0]

    for own, theirs in halves:
        output_loss(own, theirs, ANCHORS, GAINS, note)
    mean = sum(weights) / 2
    shared = [output_loss(*half, ANCHORS, GAINS, lambda counts: [counts[0] / mean]) for half in halves]
    whole = output_loss(student, teacher, ANCHORS, GAINS)
    assert sum(shared).item() / 2 == pytest.approx(whole.item(), rel=1e-5)
