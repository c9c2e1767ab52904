"""Parameter groups, optimizers, and the schedules of learning rate, momentum and accumulation."""

import math
from inspect import unwrap
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=type[Optimizer])

BIAS, DECAY, NORM = range(3)  # order of the groups in the optimizer; results.csv calls their rates x/lr0, x/lr1, x/lr2
NO_DECAY_NAMES = ("logit_scale", "cpb_mlp")  # Swin V2: temperature of the attention, network of the position bias


def param_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Sort the trainable parameters; each lands in exactly one list, shared ones too.

    Returns:
        bias: every parameter with "bias" as a word of its name (bias, q_bias, in_proj_bias, ...).
        decay: all the others: the weights that decay.
        no_decay: other parameters of modules with Norm in their class name, of one dimension or none, or below
            `logit_scale` or `cpb_mlp`.
    """
    groups: tuple[list, list, list] = ([], [], [])
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        is_norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if "bias" in name.split("_"):
                kind = BIAS
            elif is_norm or parameter.ndim <= 1 or any(text in f"{prefix}.{name}" for text in NO_DECAY_NAMES):
                kind = NORM
            else:
                kind = DECAY
            groups[kind].append(parameter)
    return groups


def not_compiled(kind: Kind) -> Kind:
    """Take the wrappings off an optimizer's methods that load PyTorch's compiler, a second of CPU time in every run.

    They keep `torch.compile` out of the methods, or tell it of `step`; here nothing compiles an optimizer.
    """
    members: Any = kind
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        setattr(kind, name, unwrap(getattr(kind, name)))
    members.step = torch.no_grad()(unwrap(members.step))
    return kind


@not_compiled
class SGD(optim.SGD):
    """PyTorch's."""


@not_compiled
class Adam(optim.Adam):
    """PyTorch's."""


@not_compiled
class AdamW(optim.AdamW):
    """PyTorch's."""


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return roughly the closest matrices whose singular values are equal: they come to lie between 0.7 and 1.2.

    Newton-Schulz iteration X <- (a I + b A + c A A) X with A = X X^T and the quintic polynomial of Muon
    (https://kellerjordan.github.io/posts/muon/). Long matrices are multiplied twice instead of in every step: A and the
    product of the polynomials commute, so that both follow from the first A alone.

    Args:
        matrices: (K, M, N), each of them at least float32.
        steps: of the iteration.

    Returns:
        (K, M, N).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices  # (K, m, n) with m <= n
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.shape[2] < 2 * x.shape[1]:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        gram, product = x @ x.mT, None  # (K, m, m)
        for step in range(steps):
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            polynomial.diagonal(dim1=1, dim2=2).add_(a)
            product = polynomial if product is None else product @ polynomial
            if step < steps - 1:
                gram = gram @ polynomial @ polynomial
        x = x if product is None else product @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(AdamW):
    """AdamW whose groups with `matrices` make steps of orthogonalized momentum instead (Muon).

    A convolution kernel (out, in, h, w) counts as the matrix (out, in * h * w). A step has the root mean square of one
    of AdamW, 0.2 * lr (arXiv:2502.16982, section 2.2), so that rates carry over. `betas[0]` is the momentum, as
    Nesterov's.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step of all groups."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("matrices")]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("matrices"):
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["betas"][0]
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum_buffer"], state["step"] = torch.zeros_like(p), torch.tensor(0.0)
            state["step"] += 1  # AdamW wants it in every state that it loads
        alike: dict[tuple, list[Tensor]] = {}  # together: dozens of small products take longer to start than to compute
        for p in params:
            alike.setdefault((*p.flatten(1).shape, p.dtype, p.device), []).append(p)
        for same in alike.values():
            grads = [cast("Tensor", p.grad) for p in same]
            averages = [self.state[p]["momentum_buffer"] for p in same]
            torch._foreach_lerp_(averages, grads, 1 - momentum)
            updates = torch.stack([g.lerp(m, momentum).flatten(1) for g, m in zip(grads, averages, strict=True)])
            updates = orthogonalized(updates)
            rate = 0.2 * lr * max(updates.shape[1:]) ** 0.5
            for p, update in zip(same, updates, strict=True):
                p.mul_(1 - lr * group["weight_decay"]).add_(update.view(p.shape), alpha=-rate)


OPTIMIZERS = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW, "Muon": Muon}


def build_optimizer(
    model: nn.Module,
    name: str = "SGD",
    lr: float = 0.01,
    momentum: float = 0.937,
    decay: float = 0.0005,
    beta2: float = 0.999,
    sharded: bool = False,
) -> Optimizer:
    """Build an optimizer with the groups bias, decayed weights, norms and the like, and Muon's matrices, in this order.

    Args:
        model: its trainable parameters are optimized.
        name: "SGD" (with Nesterov momentum), "Adam", "AdamW" or "Muon": AdamW for all but the matrices, that is the
            decayed weights that have several inputs for each output, outside the detection head.
        lr: learning rate of all groups until the schedule sets it.
        momentum: of SGD and of Muon's matrices; beta1 of Adam and AdamW.
        decay: weight decay of group 1 and of the matrices; the other groups have none.
        beta2: of Adam and AdamW; SGD has no such number.
        sharded: keep the state of each parameter in one of the processes that train together only (ZeRO stage 1,
            arXiv:1910.02054); needs a process group.

    Raises:
        ValueError: unknown name, or nothing to train.
    """
    bias, decayed, norm = param_groups(model)
    if not (bias or decayed or norm):
        raise ValueError("nothing to train: every parameter is frozen")
    groups = [
        {"params": bias, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": decay},
        {"params": norm, "weight_decay": 0.0},
    ]
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose SGD, Adam, AdamW or Muon")
    if name == "Muon":
        outputs = {id(p) for m in model.modules() if type(m).__name__ == "Detect" for p in m.parameters()}
        # a depth-wise kernel, which has one input channel, is no matrix but a list of filters
        matrices = [p for p in decayed if id(p) not in outputs and p.ndim > 1 and p.shape[1] > 1]
        ids = {id(p) for p in matrices}
        groups[DECAY]["params"] = [p for p in decayed if id(p) not in ids]
        groups.append({"params": matrices, "weight_decay": decay, "matrices": True})
    settings = {"momentum": momentum, "nesterov": momentum > 0} if name == "SGD" else {"betas": (momentum, beta2)}
    if sharded:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # a second to load

        return ZeroRedundancyOptimizer(groups, OPTIMIZERS[name], lr=lr, **settings)
    return OPTIMIZERS[name](groups, lr=lr, **settings)


def describe_optimizer(name: str, optimizer: Optimizer) -> str:
    """Return one line about an optimizer of `build_optimizer`: its name, rate, decay and the sizes of its groups."""
    bias, decayed, norm, *matrices = (len(group["params"]) for group in optimizer.param_groups)
    lr, decay = optimizer.param_groups[DECAY]["lr"], optimizer.param_groups[DECAY]["weight_decay"]
    weights = "".join(f"{n} matrices and " for n in matrices) + f"{decayed} weights with decay {decay:g}"
    return f"optimizer: {name}, lr {lr:g}, {weights}, {norm} norms and the like, {bias} biases"


def lr_factor(epoch: float, epochs: int, lrf: float, cosine: bool = False) -> float:
    """Return the learning rate of `epoch` (0 is the first) as a fraction of lr0, falling from 1 towards `lrf`.

    Linear: (1 - e/E)(1 - lrf) + lrf. Cosine: ((1 - cos(pi e/E)) / 2)(lrf - 1) + 1. The last epoch, E - 1, is one step
    before `lrf`.
    """
    x = epoch / epochs
    if cosine:
        return (1 - math.cos(math.pi * x)) / 2 * (lrf - 1) + 1
    return (1 - x) * (1 - lrf) + lrf


def warmup_cosine(step: int, steps: int, warmup: float, last: float) -> float:
    """Return the learning rate of a step as a fraction of its peak: a straight rise, then half a cosine.

    Args:
        step: 0 is the first.
        steps: of the run.
        warmup: part of the steps in which the rate rises; at least one does.
        last: fraction of the peak towards which it falls.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    fall = (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2
    return last + (1 - last) * fall


def warmup_iterations(warmup_epochs: float, batches: int, fewest: int = 100) -> int:
    """Return the length of the warmup in batches.

    Args:
        warmup_epochs: wanted length; 0 is no warmup.
        batches: per epoch.
        fewest: of a warmup; YOLOv5's is 100.
    """
    return max(round(warmup_epochs * batches), fewest) if warmup_epochs > 0 else 0


def same_warmup(ni: int, nw: int, new: int) -> int:
    """Return the iteration as far into a warmup of `new` iterations as `ni` is into one of `nw`, or past both."""
    return ni * new // nw if ni < nw else max(ni, new)


def accumulate_at(ni: int, nw: int, batch_size: int, nominal: int = 64) -> int:
    """Return over how many batches gradients add up before a step: 1 at the start, nominal / batch_size after warmup.

    Args:
        ni: iteration, counted from the start of the training.
        nw: iterations of the warmup.
        batch_size: images per batch.
        nominal: images per optimizer step.
    """
    return max(1, round(_ramp(ni, nw, 1.0, nominal / batch_size)))


def scaled_decay(weight_decay: float, batch_size: int, nominal: int = 64) -> float:
    """Return the weight decay for the images that one step really sees: batch_size * accumulated batches."""
    return weight_decay * batch_size * max(1, round(nominal / batch_size)) / nominal


def planned_steps(epochs: int, batches: int, batch_size: int, nominal: int = 64) -> int:
    """Return about how many optimizer steps a run makes; the smaller accumulation of the warmup is left out.

    Args:
        epochs: of the run.
        batches: per epoch.
        batch_size: images per batch.
        nominal: images per optimizer step.
    """
    return epochs * max(1, batches // max(1, round(nominal / batch_size)))


def average_schedule(decay: float, tau: float, steps: int) -> tuple[float, float]:
    """Return decay and tau of the average of the weights (`ModelEMA`).

    Args:
        decay: of the hyperparameters; 0 follows the length of the run: 1 - 20 / steps, from 0.9 to 0.9999.
        tau: the same; 0 is steps / 20, from 10 to 2000.
        steps: optimizer steps of the whole run. With both 0 the average is on average 4.5 to 5 % of the run old.
    """
    return decay or min(max(1 - 20 / steps, 0.9), 0.9999), tau or min(max(steps / 20, 10.0), 2000.0)


class Schedule(Protocol):
    """What `set_schedule_` reads of the hyperparameters; `utils.hyp.Hyp` has it."""

    @property
    def lr0(self) -> float:
        """Learning rate at the start."""

    @property
    def lrf(self) -> float:
        """Last learning rate as a fraction of the first."""

    @property
    def momentum(self) -> float:
        """Momentum, or beta1, after the warmup."""

    @property
    def warmup_momentum(self) -> float:
        """Momentum at the start of the warmup."""

    @property
    def warmup_bias_lr(self) -> float:
        """Learning rate of the biases at the start of the warmup."""


def set_schedule_(
    optimizer: Optimizer, ni: int, nw: int, epoch: int, epochs: int, hyp: Schedule, cosine: bool = False
) -> None:
    """Set the rate and momentum of every group for iteration `ni`.

    After the warmup the rate is lr0 * lr_factor(epoch). During it the rate rises in a straight line from 0, for biases
    from `warmup_bias_lr`, and the momentum (SGD) or beta1 (Adam, AdamW) from `warmup_momentum`.

    Args:
        optimizer: from `build_optimizer`; its groups are changed.
        ni: iteration, counted from the start of the training.
        nw: iterations of the warmup.
        epoch: epoch that `ni` belongs to, 0 is the first.
        epochs: of the whole training.
        hyp: lr0, lrf, momentum, warmup_momentum, warmup_bias_lr.
        cosine: shape of the fall.
    """
    lr = hyp.lr0 * lr_factor(epoch, epochs, hyp.lrf, cosine)
    momentum = _ramp(ni, nw, hyp.warmup_momentum, hyp.momentum)
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = _ramp(ni, nw, hyp.warmup_bias_lr if index == BIAS else 0.0, lr)
        if "momentum" in group:
            group["momentum"] = momentum
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def _ramp(ni: int, nw: int, start: float, end: float) -> float:
    """Go in a straight line from `start` at iteration 0 to `end` at iteration `nw` and stay there."""
    return float(np.interp(ni, (0, nw), (start, end))) if ni < nw else end
