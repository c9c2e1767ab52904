"""Parameter groups, optimizers and schedules."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from models.common import WindowAttention
from models.yolo import DetectionModel
from utils.hyp import Hyp
from utils.optim import (
    accumulate_at,
    average_schedule,
    build_optimizer,
    describe_optimizer,
    lr_factor,
    orthogonalized,
    param_groups,
    planned_steps,
    scaled_decay,
    set_schedule_,
    warmup_iterations,
)


class Odd(nn.Module):
    """Parameters that a rule by name or by class alone would sort wrongly."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.GroupNorm(2, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.act = nn.PReLU()
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.logit_scale = nn.Parameter(torch.ones(2, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
        self.q_bias = nn.Parameter(torch.zeros(4))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.shared = self.conv
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def group_names(model):
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group} for group in param_groups(model)]


def test_each_parameter_finds_its_group():
    bias, decay, no_decay = group_names(Odd())
    assert bias == {
        "conv.bias", "norm.bias", "attention.in_proj_bias", "attention.out_proj.bias", "cpb_mlp.0.bias", "q_bias"
    }  # fmt: skip
    assert decay == {"conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "gain"}
    assert no_decay == {
        "norm.weight",
        "act.weight",
        "logit_scale",
        "cpb_mlp.0.weight",
        "cpb_mlp.2.weight",
        "temperature",
    }


def test_window_attention_decays_its_projections_only():
    _, decay, no_decay = group_names(WindowAttention(32, 2, 4))
    assert decay == {"qkv.weight", "proj.weight"}
    assert {name.split(".")[0] for name in no_decay} == {"logit_scale", "cpb_mlp"}


@pytest.mark.parametrize("cfg", ["models/yolov5n.yaml", "models/yolov5n-swinv2.yaml"])
def test_groups_of_a_model_are_a_partition(cfg):
    model = DetectionModel(cfg, verbose=False)
    model.model[0].requires_grad_(False)
    ids = [id(p) for group in param_groups(model) for p in group]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}


def test_yolov5n_has_the_known_numbers_of_biases_weights_and_norms():
    assert [len(group) for group in param_groups(DetectionModel("models/yolov5n.yaml", verbose=False))] == [60, 60, 57]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_only_the_middle_group_decays(name):
    optimizer = build_optimizer(Odd(), name, lr=0.02, momentum=0.8, decay=0.1, beta2=0.9)
    assert type(optimizer).__name__ == name
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.02
        if name == "SGD":
            assert (group["momentum"], group["nesterov"]) == (0.8, True)
        else:
            assert group["betas"] == (0.8, 0.9)


def test_optimizer_is_described_in_one_line():
    optimizer = build_optimizer(DetectionModel("models/yolov5n.yaml", verbose=False), "SGD", lr=0.02, decay=0.1)
    expected = "optimizer: SGD, lr 0.02, 60 weights with decay 0.1, 57 norms and the like, 60 biases"
    assert describe_optimizer("SGD", optimizer) == expected


def test_sgd_step_by_hand():
    """Nesterov: v = g + m v, p -= lr (g + m v); with decay g = grad + d p."""
    model = nn.Linear(1, 1)
    model.weight.data.fill_(2.0)
    model.bias.data.fill_(3.0)
    optimizer = build_optimizer(model, "SGD", lr=0.1, momentum=0.5, decay=0.01)
    model(torch.ones(1, 1)).sum().backward()  # both gradients are 1
    optimizer.step()
    g = 1 + 0.01 * 2
    assert model.weight.item() == pytest.approx(2 - 0.1 * (g + 0.5 * g))
    assert model.bias.item() == pytest.approx(3 - 0.1 * 1.5)


def test_sgd_without_momentum_is_allowed():
    build_optimizer(Odd(), "SGD", momentum=0.0)


def test_unknown_optimizers_and_frozen_models_are_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'Lion': choose SGD, Adam, AdamW or Muon"):
        build_optimizer(Odd(), "Lion")
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(nn.Linear(1, 1).requires_grad_(False))


# Muon


class Small(nn.Module):
    """A kernel, a matrix, and what Muon leaves to AdamW: depth-wise filters, a norm and the outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 16, 3)
        self.linear = nn.Linear(24, 8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.detect = Detect()


class Detect(nn.Linear):
    """Stands for the head by its name."""

    def __init__(self):
        super().__init__(4, 4)


def with_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    return model


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_an_orthogonalized_matrix_keeps_its_directions(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(matrix[None])[0]
    values = torch.diagonal(u.T @ found @ vh.T)
    assert torch.allclose(u @ values.diag() @ vh, found, atol=1e-3)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert not orthogonalized(torch.zeros(2, *shape)).any()


@pytest.mark.parametrize("shape", [(16, 32), (20, 8), (8, 300)])
def test_long_matrices_are_orthogonalized_by_the_iteration_as_published(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    assert (orthogonalized(matrices) - expected).abs().max() < 1e-4


def test_muon_is_adamw_but_for_matrices():
    ours, theirs = Small(), Small()
    muon, adamw = (build_optimizer(m, n, 0.01, 0.9, 0.1) for m, n in ((ours, "Muon"), (theirs, "AdamW")))
    for seed in range(3):
        for model, optimizer in ((ours, muon), (theirs, adamw)):
            with_gradients(model, seed)
            optimizer.step()
    other = {name for name, p in ours.named_parameters() if not torch.equal(p, theirs.get_parameter(name))}
    assert other == {"conv.weight", "linear.weight"}
    assert describe_optimizer("Muon", muon).startswith("optimizer: Muon, lr 0.01, 2 matrices and 2 weights with decay")


def test_a_step_of_muon_is_as_large_as_the_rate_says_and_decays():
    model = with_gradients(Small(), 1)
    before = model.conv.weight.detach().clone()
    build_optimizer(model, "Muon", lr=0.01, momentum=0.9, decay=0.5).step()
    step = (model.conv.weight - before * (1 - 0.01 * 0.5)).detach()
    assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.15)
    assert (step * model.conv.weight.grad).sum() < 0


def test_muon_steps_kernels_of_any_memory_format_alike():
    plain, last = Small(), Small().to(memory_format=torch.channels_last)
    for model in (plain, last):
        optimizer = build_optimizer(with_gradients(model, 2), "Muon", 0.01)
        optimizer.step()
        assert optimizer.state[model.conv.weight]["momentum_buffer"].stride() == model.conv.weight.stride()
    assert torch.allclose(plain.conv.weight, last.conv.weight)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_muon_is_that_of_pytorch():
    model, weight = Small(), nn.Parameter(Small().linear.weight.detach().clone())
    ours = build_optimizer(model, "Muon", 0.01, 0.9, 0.1)
    theirs = torch.optim.Muon([weight], 0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        weight.grad = with_gradients(model, seed).linear.weight.grad.clone()
        ours.step()
        theirs.step()
    assert (model.linear.weight - weight).std() < 2e-4  # theirs computes in bfloat16; three steps move by 4e-3


def test_muon_goes_on_from_its_state():
    through, resumed = Small(), Small()
    first = build_optimizer(through, "Muon", 0.01)
    with_gradients(through, 0)
    first.step()
    resumed.load_state_dict(through.state_dict())
    second = build_optimizer(resumed, "Muon", 0.01)
    second.load_state_dict(deepcopy(first.state_dict()))
    for model, optimizer in ((through, first), (resumed, second)):
        with_gradients(model, 1)
        optimizer.step()
    assert all(map(torch.equal, through.parameters(), resumed.parameters()))


LINEAR = {0: 1, 1: 0.9901, 25: 0.7525, 50: 0.505, 99: 0.0199}
COSINE = {0: 1, 1: 0.99975575, 25: 0.85501786, 50: 0.505, 99: 0.01024425}


@pytest.mark.parametrize(("cosine", "expected"), [(False, LINEAR), (True, COSINE)])
def test_rate_vectors(cosine, expected):
    for epoch, factor in expected.items():
        assert lr_factor(epoch, 100, 0.01, cosine) == pytest.approx(factor, abs=5e-9)


@pytest.mark.parametrize("cosine", [False, True])
def test_rate_falls_from_one_to_its_end(cosine):
    factors = [lr_factor(epoch, 30, 0.1, cosine) for epoch in range(31)]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(factors, factors[1:], strict=False))


@pytest.mark.parametrize(
    ("warmup_epochs", "batches", "expected"),
    [(3, 1000, 3000), (3.3835, 1000, 3384), (3, 20, 100), (0.1, 20, 100), (0, 20, 0)],
)
def test_warmup_has_100_iterations_however_few_batches_there_are(warmup_epochs, batches, expected):
    assert warmup_iterations(warmup_epochs, batches) == expected


def test_warmup_of_a_short_run_may_be_short():
    assert warmup_iterations(3, 13, fewest=0) == 39
    assert warmup_iterations(0, 13, fewest=10) == 0


def test_accumulation_grows_to_the_nominal_batch():
    steps = [accumulate_at(ni, 100, 8, 64) for ni in range(120)]
    assert steps[0] == 1
    assert steps[50] == 4  # halfway between 1 and 8 lies 4.5, which rounds to the even number
    assert steps[100:] == [8] * 20
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("batch", "nominal", "expected"), [(64, 64, 1), (128, 64, 1), (16, 64, 4), (24, 64, 3), (1, 64, 64)]
)
def test_accumulation_after_the_warmup(batch, nominal, expected):
    assert accumulate_at(100, 100, batch, nominal) == expected
    assert accumulate_at(math.inf, 0, batch, nominal) == expected
    assert accumulate_at(0, 0, batch, nominal) == expected  # no warmup


@pytest.mark.parametrize(("batch", "factor"), [(64, 1), (16, 1), (128, 2), (24, 72 / 64)])
def test_decay_fits_the_images_of_a_step(batch, factor):
    assert scaled_decay(0.0005, batch, 64) == pytest.approx(0.0005 * factor)


@pytest.mark.parametrize(
    ("epochs", "batches", "batch_size", "nominal", "expected"),
    [(60, 13, 16, 16, 780), (60, 13, 16, 64, 180), (3, 2, 16, 64, 3), (10, 100, 64, 16, 1000)],
)
def test_steps_of_a_run(epochs, batches, batch_size, nominal, expected):
    assert planned_steps(epochs, batches, batch_size, nominal) == expected


def test_the_average_follows_the_length_of_the_run_where_it_is_told_to():
    assert average_schedule(0.9999, 2000, 780) == (0.9999, 2000)
    assert average_schedule(0, 0, 780) == (1 - 20 / 780, 39)
    assert average_schedule(0, 2000, 100) == (0.9, 2000)  # short runs: at least ten updates
    assert average_schedule(0.99, 0, 100) == (0.99, 10)
    assert average_schedule(0, 0, 10**6) == (0.9999, 2000)  # long ones: YOLOv5's


def test_the_average_of_a_short_run_is_mostly_of_its_last_tenth():
    """The weight of each update in the final average, from the decay of every step."""
    steps = 780
    limit, tau = average_schedule(0, 0, steps)
    decays = [limit * (1 - math.exp(-u / tau)) for u in range(1, steps + 1)]
    weights = [(1 - decays[u]) * math.prod(decays[u + 1 :]) for u in range(steps)]
    age = sum(weight * (steps - 1 - u) for u, weight in enumerate(weights))
    assert 0.045 < age / steps < 0.05
    assert sum(weights[-steps // 6 :]) > 0.95


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_schedule_during_and_after_the_warmup(name):
    hyp = Hyp(lr0=0.01, lrf=0.1, momentum=0.9, warmup_momentum=0.5, warmup_bias_lr=0.1)
    optimizer = build_optimizer(Odd(), name, hyp.lr0, hyp.momentum, beta2=0.99)

    def at(ni, epoch):
        set_schedule_(optimizer, ni, 100, epoch, 10, hyp)
        momenta = {group["momentum"] if name == "SGD" else group["betas"][0] for group in optimizer.param_groups}
        assert len(momenta) == 1
        return [group["lr"] for group in optimizer.param_groups], momenta.pop()

    rates, momentum = at(0, 0)
    assert (rates, momentum) == ([0.1, 0.0, 0.0], 0.5)
    rates, momentum = at(50, 0)
    assert rates == pytest.approx([0.055, 0.005, 0.005])
    assert momentum == pytest.approx(0.7)
    for ni, epoch in ((100, 1), (101, 1), (900, 9)):  # epoch e runs with the factor of e, not of e - 1
        rates, momentum = at(ni, epoch)
        assert rates == pytest.approx([0.01 * (1 - 0.09 * epoch)] * 3)
        assert momentum == 0.9
    if name != "SGD":
        assert all(group["betas"][1] == 0.99 for group in optimizer.param_groups)


def test_schedule_without_warmup_and_with_cosine():
    optimizer = build_optimizer(Odd())
    hyp = Hyp()
    set_schedule_(optimizer, 0, 0, 5, 10, hyp, cosine=True)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * 0.505] * 3)


def test_schedule_depends_on_the_iteration_alone():
    """A resumed run has the same rates as one that ran through."""
    through, resumed = build_optimizer(Odd()), build_optimizer(Odd())
    hyp = Hyp()
    for ni in range(60):
        set_schedule_(through, ni, 40, ni // 20, 3, hyp)
    set_schedule_(resumed, 59, 40, 2, 3, hyp)
    for a, b in zip(through.param_groups, resumed.param_groups, strict=True):
        assert (a["lr"], a["momentum"]) == (b["lr"], b["momentum"])
