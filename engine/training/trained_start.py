"""The weights that a run starts from count as an epoch: the run never ends with a worse best.pt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.training.recovery import save_start
from engine.training.state import Plan, State
from models.weights.checkpoint import load_checkpoint
from models.weights.imagenet import PUBLISHED
from utils.console import LOGGER
from utils.distributed import on_main
from utils.metrics import fitness
from utils.options.train import TrainOptions

START = -1  # epoch of the checkpoint of a start


def starts_trained(options: TrainOptions) -> bool:
    """Whether a new run starts from a detector, and validates and saves every epoch."""
    detector = bool(options.weights) and options.weights not in PUBLISHED
    return detector and not (options.resume or options.noval or options.nosave)


def score_start(state: State, plan: Plan, evaluate: Callable[[], Any]) -> bool:
    """Validate the start and write it as best.pt, which it stays until an epoch is better; call it in every process.

    Args:
        state: of a run that has not begun.
        plan: of the run.
        evaluate: validates as after an epoch: P, R, mAP50, mAP50-95 and more, and the mAP of each class; None if a
            signal interrupted it.

    Returns:
        False if a signal interrupted it.
    """
    with torch.random.fork_rng(devices=()):  # a pass over a loader draws a number; the training stays what it was
        scored = on_main(evaluate)
    if scored is None:
        return False
    results = scored[0]
    state.best_fitness = float(fitness(np.array(results[:4])[None])[0])
    state.stopper(START, state.best_fitness)
    LOGGER.info(f"start: mAP50 {results[2]:.4g}, mAP50-95 {results[3]:.4g}; best.pt until an epoch is better")
    save_start(state, plan, plan.save_dir / "weights/best.pt")
    state.best_saved = True
    return True


def say_if_start_is_best(best: Path) -> None:
    """Log that no epoch was better than the start, if so; `best` is best.pt before it is stripped."""
    ckpt = load_checkpoint(best)
    if ckpt["epoch"] == START and ckpt["optimizer"]:
        LOGGER.info(f"No epoch was better than the weights that the run started from: {best} holds these")
