"""The Swin stages of a twin learn to do what the bottlenecks of its teacher do, each one alone, from images only.

A stage gets a map and gives a map, and its teacher has both. First every stage gets what the teacher's bottlenecks get,
so that all of them learn at once and none waits for another; then it gets what its own twin feeds it, so that it learns
to make up for what the stages before it leave. No gradient runs through the network, so a step needs the memory of one
stage at a time. Everything outside the stages is frozen, in evaluation mode.

The error of a map is its mean squared difference from the teacher's map, divided by the variance of the latter: 0 is
equal, 1 no better than the mean.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights.twin import walk_backbone
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.optim import DECAY, param_groups

RATE = 0.02  # peak of the learning rate
WARMUP, LAST_RATE = 0.1, 0.01  # fraction of the steps in which the rate rises; fraction of the peak at the end
WEIGHT_DECAY, CLIP_NORM = 0.01, 10.0
BETAS = 0.9, 0.95  # gradients fall fast in few steps: an average over a thousand would keep the steps small
FLOOR = 1e-6  # least variance of a map, as a fraction of its mean square: a constant map has none


@dataclass(frozen=True)
class Phase:
    """One phase of the imitation.

    Attributes:
        name: for messages and the record. own: the stages get what the twin feeds them, else what the teacher gets.
        share: of all steps.
    """

    name: str
    own: bool
    share: float


PHASES = (Phase("teacher inputs", False, 0.5), Phase("own inputs", True, 0.5))

Maps = dict[int, tuple[Tensor, Tensor]]  # layer -> input and output of its bottlenecks or Swin stage, (B, C, H, W)


def relative_error(map_: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference divided by the variance of the target, a scalar."""
    return (map_ - target).square().mean() / variance(target)


def variance(target: Tensor) -> Tensor:
    """Return the variance of a map over all its values, a scalar with a floor."""
    return torch.clamp(target.var(correction=0), min=FLOOR * float(target.square().mean()) or FLOOR)


def onward_weight(block: Any) -> Tensor:
    """Return the linear part of what follows the bottlenecks of a `C3`, up to its activation, (C2, C, 1, 1).

    Errors are measured behind it: those to which the next layer is blind cost nothing, those that it amplifies count.
    """
    conv, norm, width = block.cv3.conv, block.cv3.bn, block.cv1.conv.out_channels
    return conv.weight[:, :width] * (norm.weight * torch.rsqrt(norm.running_var + norm.eps))[:, None, None, None]


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step: a straight rise to `RATE`, then half a cosine down to `LAST_RATE` of it."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return RATE * (step + 1) / warmup
    fall = (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
    return RATE * (LAST_RATE + (1 - LAST_RATE) * fall)


@contextmanager
def recorded_maps(model: DetectionModel, layers: Sequence[int]) -> Iterator[Maps]:
    """Record what goes into and out of the inner module `m` of some layers while the model runs."""
    maps: Maps = {}

    def hook(layer: int) -> Any:
        def record(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            maps[layer] = args[0], output

        return record

    modules: list[Any] = [model.model[layer] for layer in layers]
    handles = [module.m.register_forward_hook(hook(layer)) for layer, module in zip(layers, modules, strict=True)]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def stage_maps(model: DetectionModel, images: Tensor, layers: Sequence[int]) -> Maps:
    """Run a model up to the last of some layers and return the maps in these."""
    with recorded_maps(model, layers) as maps:
        for _ in walk_backbone(model, images, layers[-1] + 1):
            pass
    return maps


class Imitation:
    """The stages of a twin, learning.

    Args:
        teacher: in evaluation mode.
        twin: in evaluation mode; all but its stages is frozen here.
        layers: whose stages learn.
        images: some of them, to measure the maps with, (B, 3, H, W) in 0..1.

    Attributes:
        scales: deviation of what the bottlenecks add to their maps: the unit in which the last norms of a stage learn.
        weights: for each stage how its errors reach the next layer, see `onward_weight`.
        rate: factor of the learning rates, halved after a loss that is not finite.
    """

    def __init__(self, teacher: DetectionModel, twin: DetectionModel, layers: Sequence[int], images: Tensor) -> None:
        self.teacher, self.twin, self.layers = teacher.eval().requires_grad_(False), twin.eval(), list(layers)
        twin.requires_grad_(False)
        blocks: list[Any] = [twin.model[layer] for layer in layers]
        self.stages: Any = nn.ModuleList(block.m for block in blocks).requires_grad_(True)
        self.parts = [1] * len(self.layers)  # into which each stage cuts a batch, where memory is short
        self.rate = 1.0
        maps = stage_maps(teacher, images, layers)
        self.scales = [float((maps[layer][1] - maps[layer][0]).std()) or 1.0 for layer in layers]
        self.weights = [onward_weight(teacher.model[layer]) for layer in layers]
        self.optimizer = self.make_optimizer()

    def make_optimizer(self) -> torch.optim.AdamW:
        """Return a new optimizer of the stages."""
        outputs = {
            id(p): scale
            for stage, scale in zip(self.stages, self.scales, strict=True)
            for block in stage.blocks
            for norm in (block.norm1, block.norm2)
            for p in norm.parameters()
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for kind, parameters in enumerate(param_groups(self.stages)):
            for p in parameters:
                groups.setdefault((WEIGHT_DECAY * (kind == DECAY), outputs.get(id(p), 1.0)), []).append(p)
        return torch.optim.AdamW(
            [{"params": params, "weight_decay": decay, "scale": scale} for (decay, scale), params in groups.items()],
            betas=BETAS,
        )

    def step(self, images: Tensor, own: bool, rate: float) -> list[float]:
        """Learn from one batch.

        Args:
            images: (B, 3, H, W) in 0..1, on the device of the models.
            own: see `Phase`.
            rate: of this step.

        Returns:
            The error of each stage before the step, behind `onward_weight`; not finite where a loss was not, and then
            no step was made.
        """
        errors = self.gradients(images, own)
        if not all(map(math.isfinite, errors)):
            self.optimizer.zero_grad()
            return errors
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.rate * group["scale"]
        nn.utils.clip_grad_norm_(self.stages.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return errors

    def gradients(self, images: Tensor, own: bool) -> list[float]:
        """Add the gradients of one batch, stage by stage; return the errors."""
        targets = stage_maps(self.teacher, images, self.layers)
        if not own:
            return [self._learn(i, *targets[layer])[0] for i, layer in enumerate(self.layers)]
        errors = []

        def learn(layer: int, map_: Tensor) -> Tensor:
            with torch.enable_grad():
                error, output = self._learn(self.layers.index(layer), map_, targets[layer][1])
            errors.append(error)
            return output

        with torch.no_grad():
            for _ in walk_backbone(self.twin, images, self.layers[-1] + 1, dict.fromkeys(self.layers, learn)):
                pass
        return errors

    def _learn(self, i: int, map_: Tensor, target: Tensor) -> tuple[float, Tensor]:
        """Add the gradients of stage `i`; where memory is short, a part of the batch after the other.

        Args:
            i: which stage.
            map_: its input, (B, C, H, W).
            target: what the teacher makes in its place.

        Returns:
            The error, and the output of the stage without gradients.
        """
        stage: Any = self.stages[i]
        weight = self.weights[i]
        reached = F.conv2d(target, weight)
        scale = 1 / (variance(reached) * reached.numel())
        while True:
            error, outputs = torch.zeros((), device=target.device), []
            try:
                size = -(-len(map_) // self.parts[i])
                for x, y in zip(map_.split(size), target.split(size), strict=True):
                    output = stage(x)
                    loss = F.conv2d(output - y, weight).square().sum() * scale
                    loss.backward()
                    error += loss.detach()
                    outputs.append(output.detach())
                return float(error), torch.cat(outputs)
            except torch.OutOfMemoryError:
                if self.parts[i] >= len(map_):
                    raise ValueError(
                        f"out of memory: one image of {target.device.type} is too much for the stage of layer "
                        f"{self.layers[i]}: use a smaller --img"
                    ) from None
            stage.zero_grad()  # of the parts that did fit
            self.parts[i] *= 2
            LOGGER.info(f"layer {self.layers[i]}: out of memory, so a batch is cut into {self.parts[i]} parts")

    # What is saved ----------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, optimizer state and rate."""
        weights = {key: value.detach().clone() for key, value in self.stages.state_dict().items()}
        state = self.optimizer.state_dict()
        state["state"] = {key: {name: x.clone() for name, x in entry.items()} for key, entry in state["state"].items()}
        return {"stages": weights, "optimizer": state, "rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.stages.load_state_dict(state["stages"])
        self.optimizer = self.make_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate = state["rate"]
