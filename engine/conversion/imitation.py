"""The Swin stages of a twin learn to do what the bottlenecks of its teacher do, from images only.

First every stage gets what the teacher's bottlenecks get, so that all of them learn at once and none waits for another.
Then it gets what its own twin feeds it, so that it makes up for what the stages before it leave. In both no gradient
runs through the network. At the end one does: all stages together bring the maps that the head reads near those of the
teacher. Everything outside the stages is frozen, in evaluation mode.

The error of a map is its mean squared difference from the teacher's map, divided by the variance of the latter: 0 is
equal, 1 no better than the mean.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights.twin import run_layers
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.optim import DECAY, AdamW, param_groups, warmup_cosine

RATE = 0.02  # peak of the learning rate
WARMUP, LAST_RATE = 0.1, 0.01  # fraction of the steps in which the rate rises; fraction of the peak at the end
WEIGHT_DECAY, CLIP_NORM = 0.01, 10.0
BETAS = 0.9, 0.95  # gradients fall fast in few steps: an average over a thousand would keep the steps small
FLOOR = 1e-6  # least variance of a map, as a fraction of its mean square: a constant map has none


@dataclass(frozen=True)
class Phase:
    """One phase of the imitation.

    Attributes:
        name: for messages and the record. share: of all steps.
        kind: `teacher` and `own`: whose maps a stage gets, alone; `joint`: all stages in the whole network.
    """

    name: str
    kind: str
    share: float


PHASES = (
    Phase("teacher inputs", "teacher", 0.5),
    Phase("own inputs", "own", 0.25),
    Phase("whole network", "joint", 0.25),
)


def phases_of(whole: bool) -> list[Phase]:
    """Return the phases; the last one needs the head, so without it the one before takes its steps."""
    if whole:
        return list(PHASES)
    first, second, last = PHASES
    return [first, replace(second, share=second.share + last.share)]


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
    return RATE * warmup_cosine(step, steps, WARMUP, LAST_RATE)


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
        for _ in run_layers(model, images, layers[-1] + 1):
            pass
    return maps


def head_maps(model: DetectionModel, images: Tensor) -> list[Tensor]:
    """Return the maps that Detect reads, (B, C, H, W) per level."""
    sources: Any = model.detect.f
    maps = {i: map_ for i, map_ in run_layers(model, images, len(model.model) - 1) if i in sources}
    return [maps[i] for i in sources]


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
        self.parts: dict[str, int] = {}  # into which a batch is cut where memory is short, by what runs
        self.rate = 1.0
        maps = stage_maps(teacher, images, layers)
        self.scales = [float((maps[layer][1] - maps[layer][0]).std()) or 1.0 for layer in layers]
        self.weights = [onward_weight(teacher.model[layer]) for layer in layers]
        self.optimizer = self.make_optimizer()

    def make_optimizer(self) -> AdamW:
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
        return AdamW(
            [{"params": params, "weight_decay": decay, "scale": scale} for (decay, scale), params in groups.items()],
            betas=BETAS,
        )

    def step(self, images: Tensor, kind: str, rate: float) -> list[float]:
        """Learn from one batch.

        Args:
            images: (B, 3, H, W) in 0..1, on the device of the models.
            kind: see `Phase`.
            rate: of this step.

        Returns:
            The error of each stage before the step, behind `onward_weight`, or of each map of the head; not finite
            where a loss was not, and then no step was made.
        """
        errors = self.gradients(images, kind)
        if not all(map(math.isfinite, errors)):
            self.optimizer.zero_grad()
            return errors
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.rate * group["scale"]
        nn.utils.clip_grad_norm_(self.stages.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return errors

    def gradients(self, images: Tensor, kind: str) -> list[float]:
        """Add the gradients of one batch; return the errors."""
        if kind == "joint":
            return self._learn_jointly(images)
        targets = stage_maps(self.teacher, images, self.layers)
        if kind == "teacher":
            return [self._learn_alone(i, *targets[layer])[0] for i, layer in enumerate(self.layers)]
        errors = []

        def learn(layer: int, map_: Tensor) -> Tensor:
            with torch.enable_grad():
                error, output = self._learn_alone(self.layers.index(layer), map_, targets[layer][1])
            errors.append(error)
            return output

        with torch.no_grad():
            for _ in run_layers(self.twin, images, self.layers[-1] + 1, dict.fromkeys(self.layers, learn)):
                pass
        return errors

    def _learn_alone(self, i: int, map_: Tensor, target: Tensor) -> tuple[float, Tensor]:
        """Add the gradients of one stage.

        Args:
            i: which stage.
            map_: its input, (B, C, H, W).
            target: what the teacher makes in its place.

        Returns:
            The error, and the output of the stage without gradients.
        """
        stage, weight = self.stages[i], self.weights[i]
        reached = F.conv2d(target, weight)
        scale = 1 / (variance(reached) * reached.numel())

        def learn(part: slice) -> tuple[Tensor, Tensor]:
            output = stage(map_[part])
            loss = F.conv2d(output - target[part], weight).square().sum() * scale
            loss.backward()
            return loss.detach(), output.detach()

        errors, outputs = zip(
            *self._in_parts(f"the stage of layer {self.layers[i]}", stage, len(map_), learn), strict=True
        )
        return float(sum(errors)), torch.cat(outputs)

    def _learn_jointly(self, images: Tensor) -> list[float]:
        """Add the gradients of all stages, from the maps that Detect reads; return the errors of these."""
        with torch.no_grad():
            targets = head_maps(self.teacher, images)
        scales = [1 / (variance(target) * target.numel()) for target in targets]

        def learn(part: slice) -> Tensor:
            maps = head_maps(self.twin, images[part])
            losses = [
                (map_ - target[part]).square().sum() * scale
                for map_, target, scale in zip(maps, targets, scales, strict=True)
            ]
            torch.stack(losses).sum().backward()
            return torch.stack(losses).detach()

        return sum(self._in_parts("the whole network", self.stages, len(images), learn)).tolist()

    def _in_parts(self, name: str, learning: nn.Module, size: int, learn: Callable[[slice], Any]) -> list[Any]:
        """Add the gradients of a batch; where memory is short, one part of it after the other.

        Args:
            name: of what runs.
            learning: what gets gradients.
            size: images in the batch.
            learn: adds the gradients of a part.

        Returns:
            What `learn` returned for each part.

        Raises:
            ValueError: not even one image fits.
        """
        while True:
            parts = self.parts.get(name, 1)
            step = -(-size // parts)
            try:
                return [learn(slice(start, start + step)) for start in range(0, size, step)]
            except torch.OutOfMemoryError:
                if parts >= size:
                    raise ValueError(f"out of memory: {name} cannot take one image: use a smaller --img") from None
            learning.zero_grad()  # of the parts that did fit
            self.parts[name] = parts * 2
            LOGGER.info(f"{name} is out of memory, so a batch is cut into {parts * 2} parts")

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
