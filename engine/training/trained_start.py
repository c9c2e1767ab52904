"""Runs that start from trained weights: their hyperparameters, and the start as the first candidate for best.pt."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.training.metric import score
from engine.training.recovery import save_start
from engine.training.state import Inputs, Plan, State
from models.weights.imagenet import PUBLISHED
from models.yolo import DetectionModel
from utils.console import LOGGER, colorstr
from utils.distributed import on_main
from utils.hyp import Hyp
from utils.options.train import HYP_OF_TRAINED, TrainOptions
from utils.paths import check_file

FITTING = 0.9  # of the parameters outside the head, from which on a run is a fine-tuning
START = -1  # epoch of the checkpoint of a start


def settle_hyp(inputs: Inputs, given: str) -> Inputs:
    """Log the hyperparameters of a run, and replace those for training from scratch where it starts from weights.

    Args:
        inputs: from `read_inputs`, after a conversion.
        given: file of --hyp, which always counts.
    """
    if inputs.options.resume:
        return inputs
    share = 0.0 if given else fitting_share(inputs)
    if share >= FITTING:
        file = str(check_file(HYP_OF_TRAINED, (".yaml", ".yml")))
        inputs = replace(inputs, options=replace(inputs.options, hyp=file), hyp=Hyp.load(file))
        LOGGER.info(f"{inputs.options.weights} fits {share:.0%} of the model outside the head: fine-tuning")
    values = ", ".join(f"{key}={value}" for key, value in inputs.hyp.to_dict().items())
    LOGGER.info(f"{colorstr('hyperparameters: ')}{inputs.options.hyp}: {values}")
    return inputs


def fitting_share(inputs: Inputs) -> float:
    """Return the share of the parameters outside the head that the checkpoint has in the same shape; 0 without one."""
    if not inputs.ckpt:
        return 0.0
    with torch.device("meta"):  # shapes alone
        model = DetectionModel(inputs.cfg, verbose=False)
    theirs, head = inputs.ckpt["model"], f"model.{len(model.model) - 1}."
    sizes = {name: p for name, p in model.named_parameters() if not name.startswith(head)}
    fitting = [p.numel() for name, p in sizes.items() if name in theirs and theirs[name].shape == p.shape]
    return sum(fitting) / max(sum(p.numel() for p in sizes.values()), 1)


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
    results, maps = scored
    state.best_fitness = score(plan.options.metric, results, maps, state.model.names)
    state.stopper(START, state.best_fitness)
    LOGGER.info(f"start: mAP50 {results[2]:.4g}, mAP50-95 {results[3]:.4g}; best.pt until an epoch is better")
    save_start(state, plan, plan.save_dir / "weights/best.pt")
    state.best_saved = True
    return True


def say_if_start_is_best(ckpt: Mapping[str, Any], best: Path) -> None:
    """Log that no epoch was better than the start, if so.

    Args:
        ckpt: what best.pt held before it was stripped.
        best: the file.
    """
    if ckpt["epoch"] == START and ckpt["optimizer"]:
        LOGGER.info(f"No epoch was better than the weights that the run started from: {best} holds these")
