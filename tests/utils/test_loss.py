"""Loss and assignment against vectors measured on the reference, a slow formula, and by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.yolo import Detect
from utils.loss import (
    NEIGHBOURS,
    ComputeLoss,
    QFocalLoss,
    assign_targets,
    compute_loss,
    decode_boxes,
    highest_at,
    smooth_BCE,
)

ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
STRIDES = (8, 16, 32)
HYP = {"box": 0.05, "cls": 0.5, "obj": 1.0, "cls_pw": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}
TARGETS = torch.tensor(
    [
        [0, 1, 0.50, 0.50, 0.30, 0.40],
        [0, 2, 0.13, 0.20, 0.20, 0.15],
        [1, 0, 0.95, 0.97, 0.10, 0.06],
        [1, 1, 0.30, 0.62, 0.60, 0.70],
    ]
)


def stand_in(nc=3, anchors=ANCHORS, strides=STRIDES, **hyp):
    """A model as far as the loss looks at it: a head with anchors in cells, and hyperparameters."""
    head = Detect(nc, anchors, [8] * len(anchors))
    head.stride.copy_(torch.tensor(strides))
    head.anchors /= head.stride.view(-1, 1, 1)
    return SimpleNamespace(model=[head], hyp=HYP | hyp)


def sine_maps(nc=3, batch=2, side=64):
    """Raw maps whose k-th value, over all levels, is sin(0.37 k)."""
    maps, start = [], 0
    for stride in STRIDES:
        shape = (batch, 3, side // stride, side // stride, 5 + nc)
        k = torch.arange(start, start + math.prod(shape), dtype=torch.float64)
        maps.append((0.37 * k).sin().float().view(shape))
        start += math.prod(shape)
    return maps


def anchors_in_cells(level):
    return torch.tensor(ANCHORS[level], dtype=torch.float32).view(3, 2) / STRIDES[level]


# Vectors ------------------------------------------------------------------------------------------------------------

VECTORS = [
    ({}, TARGETS, 10.669776, (0.125936, 4.076152, 1.132800)),
    ({"label_smoothing": 0.1}, TARGETS, 10.666094, (0.125936, 4.076152, 1.130958)),
    ({"fl_gamma": 1.5}, TARGETS, 3.575209, (0.125936, 1.361098, 0.300570)),
    ({"cls_pw": 0.5, "obj_pw": 2.0}, TARGETS, 10.442150, (0.125936, 4.139170, 0.955969)),
    ({"anchor_t": 2.0}, TARGETS, 9.826634, (0.073059, 4.076319, 0.763939)),
    ({}, TARGETS[:0], 8.162214, (0, 4.081107, 0)),
]


@pytest.mark.parametrize(("hyp", "targets", "total", "items"), VECTORS)
def test_loss_equals_the_measured_vectors(hyp, targets, total, items):
    loss, parts = ComputeLoss(stand_in(**hyp))(sine_maps(), targets)
    assert loss.item() == pytest.approx(total, abs=2e-5)
    assert parts.tolist() == pytest.approx(items, abs=2e-6)
    assert loss.item() == pytest.approx(2 * parts.sum().item(), rel=1e-6)  # times the images


def test_autobalance_equals_the_measured_vectors():
    compute = ComputeLoss(stand_in(), autobalance=True)
    assert compute.balance == [4.0, 1.0, 0.4]
    compute(sine_maps(), TARGETS)
    assert compute.balance == pytest.approx([3.999601, 1.0, 0.400074], abs=1e-6)
    loss, _ = compute(sine_maps(), TARGETS)
    assert loss.item() == pytest.approx(10.669292, abs=2e-5)


def test_balance_is_constant_unless_asked():
    compute = ComputeLoss(stand_in())
    compute(sine_maps(), TARGETS)
    assert compute.balance == [4.0, 1.0, 0.4]


@pytest.mark.parametrize(
    ("strides", "balance", "reference"),
    [
        ((8, 16), [4.0, 1.0], 1),
        ((8, 16, 32), [4.0, 1.0, 0.4], 1),
        ((8, 16, 32, 64), [4.0, 1.0, 0.25, 0.06], 1),
        ((4, 8, 16, 32), [4.0, 1.0, 0.25, 0.06], 2),
        ((8, 16, 32, 64, 128), [4.0, 1.0, 0.25, 0.06, 0.02], 1),
        ((32,), [4.0], 0),
    ],
)
def test_balance_of_other_numbers_of_levels(strides, balance, reference):
    compute = ComputeLoss(stand_in(anchors=[ANCHORS[0]] * len(strides), strides=strides))
    assert compute.balance == balance
    assert compute.ssi == reference


# Assignment ---------------------------------------------------------------------------------------------------------


def entries(level, targets=TARGETS):
    size = 64 // STRIDES[level]
    return assign_targets(targets, anchors_in_cells(level), (size, size), 4.0)


def test_number_of_entries_per_level():
    assert [len(entries(level).label) for level in range(3)] == [34, 19, 3]


def test_second_target_owns_three_cells_with_all_anchors():
    t = entries(0, TARGETS[1:2])
    found = {
        (a, row, column): [round(v, 5) for v in box]
        for a, row, column, box in zip(*(x.tolist() for x in (t.anchor, t.row, t.column, t.box)), strict=True)
    }
    offsets = {(1, 1): [0.04, 0.6], (1, 0): [1.04, 0.6], (2, 1): [0.04, -0.4]}
    assert found == {(a, *cell): [*offset, 1.6, 1.2] for a in range(3) for cell, offset in offsets.items()}
    assert t.label.unique().tolist() == [2]
    assert t.image.unique().tolist() == [0]


def test_target_on_a_corner_of_cells_owns_its_cell_three_times():
    t = entries(0, TARGETS[:1])
    cells = list(zip(t.row[t.anchor == 2].tolist(), t.column[t.anchor == 2].tolist(), strict=True))
    assert cells == [(4, 4), (4, 3), (3, 4), (4, 4), (4, 4)]


def test_third_target_fits_one_anchor_of_the_first_level():
    assert entries(0, TARGETS[2:3]).anchor.unique().tolist() == [0]
    assert [len(entries(level, TARGETS[2:3]).label) for level in (1, 2)] == [0, 0]


@pytest.mark.parametrize(("factor", "fits"), [(4, False), (3.99, True), (1 / 4, False), (1 / 3.99, True)])
@pytest.mark.parametrize("side", [0, 1])
def test_an_anchor_fits_below_the_limit_only(factor, fits, side):
    target = torch.tensor([[0, 0, 0.45, 0.45, 2 / 64, 2 / 64]])
    target[0, 4 + side] *= factor
    found = assign_targets(target, torch.tensor([[2.0, 2.0]]), (64, 64), 4.0)
    assert (len(found.label) > 0) == fits


def test_last_level_serves_the_fourth_target():
    t = entries(2)
    assert list(zip(t.row.tolist(), t.column.tolist(), strict=True)) == [(1, 0), (0, 0), (1, 1)]
    assert t.anchor.tolist() == [0, 0, 0]
    assert t.image.tolist() == [1, 1, 1]
    torch.testing.assert_close(t.anchor_wh, torch.tensor([[116 / 32, 90 / 32]]).expand(3, 2))


def slow_assignment(targets, anchors, size, anchor_t):
    """The table of neighbours, word by word, for one level; a list of (image, anchor, row, column, class, box)."""
    ny, nx = size
    kept = []
    for a, (aw, ah) in enumerate(anchors.tolist()):
        for image, label, x, y, w, h in targets.tolist():
            x, y, w, h = x * nx, y * ny, w * nx, h * ny
            if max(w / aw, aw / w, h / ah, ah / h) < anchor_t:
                kept.append((int(image), a, int(label), x, y, w, h))
    found = []
    for dx, dy in NEIGHBOURS:
        for image, a, label, x, y, w, h in kept:
            conditions = {
                (0, 0): True,
                (1, 0): x % 1 < 0.5 and x > 1,
                (0, 1): y % 1 < 0.5 and y > 1,
                (-1, 0): (nx - x) % 1 < 0.5 and nx - x > 1,
                (0, -1): (ny - y) % 1 < 0.5 and ny - y > 1,
            }
            if conditions[dx, dy]:
                column, row = int(x - dx / 2), int(y - dy / 2)
                at = (min(max(row, 0), ny - 1), min(max(column, 0), nx - 1))
                found.append((image, a, *at, label, x - column, y - row, w, h))
    return found


@pytest.mark.parametrize("size", [(4, 4), (3, 7), (1, 1)])
def test_assignment_equals_the_slow_formula(size):
    targets = torch.cat((torch.randint(0, 3, (40, 2)).float(), torch.rand(40, 2) * 0.98 + 0.01, torch.rand(40, 2)), 1)
    anchors = torch.rand(3, 2) * 3 + 0.3
    t = assign_targets(targets, anchors, size, 3.0)
    expected = slow_assignment(targets.double(), anchors.double(), size, 3.0)
    assert len(expected) > 10
    found = list(zip(*(x.tolist() for x in (t.image, t.anchor, t.row, t.column, t.label)), strict=True))
    assert found == [entry[:5] for entry in expected]
    torch.testing.assert_close(t.box.double(), torch.tensor([e[5:] for e in expected]).double(), atol=1e-5, rtol=0)
    assert t.box[:, :2].min() >= -0.5
    assert t.box[:, :2].max() <= 1.5


def test_empty_targets_give_empty_entries():
    t = entries(0, TARGETS[:0])
    assert (t.image.shape, t.box.shape, t.anchor_wh.shape) == ((0,), (0, 4), (0, 2))


def test_targets_at_the_border_stay_inside_the_map():
    targets = torch.tensor([[0, 0, x, y, 0.3, 0.3] for x in (0.0, 1.0) for y in (0.0, 1.0)])
    t = entries(0, targets)
    assert len(t.label) > 0
    assert t.row.min() >= 0
    assert t.row.max() <= 7
    assert t.column.min() >= 0
    assert t.column.max() <= 7


def test_flat_targets_fit_no_anchor():
    assert len(entries(0, torch.tensor([[0, 0, 0.5, 0.5, 0.0, 0.3]])).label) == 0


# Terms --------------------------------------------------------------------------------------------------------------


def test_decoding_at_the_assigned_cell():
    raw = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, -50.0, 50.0, -50.0]])
    anchor = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    expected = torch.tensor([[0.5, 0.5, 2, 3], [1.5, -0.5, 8, 0]])
    torch.testing.assert_close(decode_boxes(raw, anchor), expected, atol=1e-6, rtol=0)


def test_smoothing_moves_both_targets():
    assert smooth_BCE(0.0) == (1.0, 0.0)
    assert smooth_BCE(0.1) == pytest.approx((0.95, 0.05))


@pytest.mark.parametrize("gamma", [0.0, 1.5])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_binary_loss_equals_the_formula(gamma, weight):
    logits, target = torch.randn(20), torch.rand(20)
    p = logits.double().sigmoid()
    t = target.double()
    expected = -(weight * t * p.log() + (1 - t) * (1 - p).log())
    if gamma:
        hit = t * p + (1 - t) * (1 - p)
        expected = expected * (0.25 * t + 0.75 * (1 - t)) * (1 - hit) ** gamma
    found = ComputeLoss(stand_in(obj_pw=weight, fl_gamma=gamma)).BCEobj(logits, target)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_quality_focal_loss_equals_the_formula():
    logits, target = torch.randn(20), torch.rand(20)
    p, t = logits.double().sigmoid(), target.double()
    plain = -(t * p.log() + (1 - t) * (1 - p).log())
    expected = plain * (0.25 * t + 0.75 * (1 - t)) * (t - p).abs() ** 1.5
    found = QFocalLoss(nn.BCEWithLogitsLoss(reduction="sum"))(logits, target)
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-5)


def test_objectness_target_moves_from_1_to_the_iou_with_gr():
    maps, targets = sine_maps(), TARGETS[1:2]
    compute = ComputeLoss(stand_in())
    with_iou = compute(maps, targets)[1][1]
    compute.gr = 0.0
    full = compute(maps, targets)[1][1]
    compute.gr = 0.5
    assert full != with_iou
    assert compute(maps, targets)[1][1].item() == pytest.approx((full.item() + with_iou.item()) / 2, rel=1e-5)


def test_a_wrapped_model_and_the_form_of_older_releases_give_the_same_loss():
    model = stand_in()
    head = model.model[0]
    network = nn.Module()
    network.model = nn.Sequential(head)
    wrapped = nn.DataParallel(network)
    wrapped.hyp = HYP
    expected = ComputeLoss(model)(sine_maps(), TARGETS)
    for found in (ComputeLoss(wrapped)(sine_maps(), TARGETS), compute_loss(sine_maps(), TARGETS, model)):
        assert torch.equal(torch.cat(found), torch.cat(expected))


def test_one_class_has_no_class_loss():
    compute = ComputeLoss(stand_in(nc=1))
    targets = TARGETS.clone()
    targets[:, 1] = 0
    loss, items = compute(sine_maps(nc=1), targets)
    assert items[2] == 0
    assert items[0] > 0
    assert loss.isfinite()


def test_perfect_boxes_have_no_box_loss():
    """Raw values that decode to the target of every entry of one level, turned round from the decoding."""
    targets = TARGETS[1:2]
    maps = [torch.zeros(1, 3, 64 // s, 64 // s, 8) for s in STRIDES]
    for level, raw in enumerate(maps):
        t = entries(level, targets)
        offset, ratio = (t.box[:, :2] + 0.5) / 2, (t.box[:, 2:] / t.anchor_wh).sqrt() / 2
        raw[t.image, t.anchor, t.row, t.column, :4] = torch.cat((offset, ratio), 1).logit()
    _, items = ComputeLoss(stand_in())(maps, targets)
    assert items[0].item() == pytest.approx(0, abs=1e-6)


def test_highest_value_wins_a_cell_whatever_the_order():
    base = torch.zeros(2, 1, 2, 2)
    place = tuple(torch.tensor(i) for i in ([0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]))
    values = torch.tensor([0.2, 0.9, 0.4, 0.5])
    expected = base.clone()
    expected[0, 0, 1, 1], expected[1, 0, 0, 0] = 0.9, 0.4
    assert torch.equal(highest_at(base, place, values), expected)
    order = torch.tensor([1, 3, 2, 0])
    assert torch.equal(highest_at(base, tuple(p[order] for p in place), values[order]), expected)
    assert not base.any()
    assert torch.equal(highest_at(base + 7, tuple(p[:0] for p in place), values[:0]), base + 7)


def test_order_of_targets_does_not_matter_where_they_collide():
    targets = torch.tensor([[0, 0, 0.50, 0.50, 0.3, 0.3], [0, 1, 0.51, 0.51, 0.2, 0.4], [0, 2, 0.52, 0.50, 0.4, 0.2]])
    maps = [m[:1] for m in sine_maps()]
    losses = [ComputeLoss(stand_in())(maps, targets[list(order)])[1] for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2])]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], atol=1e-6, rtol=1e-6)


# Contract -----------------------------------------------------------------------------------------------------------


def test_gradient_reaches_every_map_and_the_inputs_stay():
    maps = [m.requires_grad_() for m in sine_maps()]
    before, targets = [m.detach().clone() for m in maps], TARGETS.clone()
    loss, items = ComputeLoss(stand_in())(maps, targets)
    loss.backward()
    assert not items.requires_grad
    assert all(m.grad.any() and m.grad.isfinite().all() for m in maps)
    assert all(torch.equal(m, b) for m, b in zip(maps, before, strict=True))
    assert torch.equal(targets, TARGETS)


def test_objectness_target_carries_no_gradient():
    maps = [m.requires_grad_() for m in sine_maps()]
    ComputeLoss(stand_in(box=0.0, cls=0.0))(maps, TARGETS)[0].backward()
    for m in maps:
        assert m.grad[..., 4].all()
        assert not m.grad[..., :4].any()


def test_without_targets_only_objectness_learns():
    maps = [m.requires_grad_() for m in sine_maps()]
    ComputeLoss(stand_in())(maps, TARGETS[:0])[0].backward()
    for m in maps:
        assert m.grad[..., 4].all()
        assert not m.grad[..., :4].any()
        assert not m.grad[..., 5:].any()


def test_loss_of_a_batch_is_the_sum_over_equal_images():
    maps = [torch.cat((m[:1], m[:1])) for m in sine_maps()]
    twice = torch.cat((TARGETS[:2], TARGETS[:2] + torch.tensor([1, 0, 0, 0, 0, 0])))
    compute = ComputeLoss(stand_in())
    single = compute([m[:1] for m in maps], TARGETS[:2])
    double = compute(maps, twice)
    torch.testing.assert_close(double[1], single[1])
    torch.testing.assert_close(double[0], 2 * single[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_computed_in_float32(dtype):
    maps = [m.to(dtype) for m in sine_maps()]
    compute = ComputeLoss(stand_in())
    loss, items = compute(maps, TARGETS)
    assert loss.dtype == items.dtype == torch.float32
    exact, _ = compute([m.float() for m in maps], TARGETS)
    assert torch.equal(loss, exact)


def test_large_raw_values_stay_finite():
    maps = [(1e4 * m).requires_grad_() for m in sine_maps()]
    loss, _ = ComputeLoss(stand_in(fl_gamma=1.5))(maps, TARGETS)
    loss.backward()
    assert loss.isfinite()
    assert all(m.grad.isfinite().all() for m in maps)


def test_nothing_lands_on_the_default_device():
    compute = ComputeLoss(stand_in(fl_gamma=1.5, label_smoothing=0.1), autobalance=True)
    maps = sine_maps()
    with torch.device("meta"):
        loss, items = compute(maps, TARGETS)
    assert loss.device.type == items.device.type == "cpu"
    assert loss.isfinite()


def test_loss_is_exact_inside_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = ComputeLoss(stand_in())(sine_maps(), TARGETS)
    assert loss.item() == pytest.approx(10.669776, abs=1e-3)


def test_class_targets_are_one_hot():
    maps = [torch.zeros(1, 3, 64 // s, 64 // s, 8) for s in STRIDES]
    t = entries(0, TARGETS[1:2])
    maps[0][t.image, t.anchor, t.row, t.column, 5:] = torch.tensor([-9.0, -9.0, 9.0])
    _, right = ComputeLoss(stand_in())(maps, TARGETS[1:2])
    wrong = TARGETS[1:2].clone()
    wrong[0, 1] = 0
    _, other = ComputeLoss(stand_in())(maps, wrong)
    assert right[2] < 1e-3
    assert other[2].item() == pytest.approx(0.5 * F.softplus(torch.tensor(9.0)).item() * 2 / 3, rel=1e-3)


# Weights of the classes -----------------------------------------------------------------------------------------------
def loss_and_gradients(**hyp):
    maps = [m.requires_grad_() for m in sine_maps()]
    loss, items = ComputeLoss(stand_in(**hyp))(maps, TARGETS)
    loss.backward()
    return loss.detach(), items, [m.grad for m in maps]


@pytest.mark.parametrize("hyp", [{}, {"fl_gamma": 1.5}, {"cls_pw": 0.5, "label_smoothing": 0.1}])
def test_weights_of_one_change_no_bit(hyp):
    plain, weighted = loss_and_gradients(**hyp), loss_and_gradients(cls_weights=[1.0, 1.0, 1.0], **hyp)
    assert torch.equal(plain[0], weighted[0])
    assert torch.equal(plain[1], weighted[1])
    assert all(map(torch.equal, plain[2], weighted[2]))


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_a_weight_counts_for_the_labels_of_its_class_in_the_class_loss_alone(gamma):
    """The class loss is a mean over entries, so it is linear in the weights: two steps of one weight are equal."""
    items = [loss_and_gradients(cls_weights=[1.0, w, 1.0], fl_gamma=gamma)[1].double() for w in (1.0, 2.0, 3.0)]
    for part in (0, 1):  # box, objectness
        assert items[0][part] == items[1][part] == items[2][part]
    assert items[1][2] > items[0][2]
    torch.testing.assert_close(items[2][2] - items[1][2], items[1][2] - items[0][2], rtol=1e-5, atol=0)
    doubled = loss_and_gradients(cls_weights=[2.0, 2.0, 2.0], fl_gamma=gamma)[1]
    torch.testing.assert_close(doubled[2].double(), 2 * items[0][2], rtol=1e-6, atol=0)


@pytest.mark.parametrize("weights", ["auto", [1.0], {"a": 2.0}])
def test_weights_of_another_form_are_refused(weights):
    with pytest.raises(ValueError, match="cls_weights is .*, but the loss needs a list of 3 numbers"):
        ComputeLoss(stand_in(cls_weights=weights))
