"""What becomes of a run that has ended: its last.pt can be resumed for more epochs unless it was stripped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from models.weights.checkpoint import load_checkpoint, save_checkpoint, strip_optimizer
from utils.console import LOGGER
from utils.optim import lr_factor
from utils.options.check import Added
from utils.options.train import TrainOptions
from utils.paths import command

FINISHED = "finished"  # entry of the options in last.pt


def close_last(last: Path, strip: bool, saved: dict[str, Any] | None) -> None:
    """Mark last.pt as that of a finished run, or strip it.

    Args:
        last: the file.
        strip: strip it.
        saved: what is in it; None reads it.
    """
    if strip:
        strip_optimizer(last)
        return
    ckpt = saved or load_checkpoint(last)
    save_checkpoint(last, ckpt | {"opt": ckpt["opt"] | {FINISHED: True}})


def is_finished(ckpt: dict[str, Any]) -> bool:
    """Whether a last.pt is that of a finished run."""
    return ckpt["optimizer"] is None or bool(ckpt["opt"].get(FINISHED))


def settle_epochs(options: TrainOptions, ckpt: dict[str, Any]) -> TrainOptions:
    """Return the options of a resumed run with its number of epochs, `+20` worked out.

    Args:
        options: of the resumed run; `weights` is its last.pt.
        ckpt: what is in it.

    Raises:
        ValueError: the run is finished, and no more epochs are asked for or its state was stripped.
    """
    if ckpt["optimizer"] is None:
        raise ValueError(
            f"{options.weights}: this run is finished and its state was stripped, so there is nothing to resume; start "
            f"a new one with --weights {options.weights}"
        )
    done, finished = ckpt["epoch"] + 1, is_finished(ckpt)
    planned = int(ckpt["opt"]["epochs"])
    if isinstance(options.epochs, Added):
        options = replace(options, epochs=(done if finished else planned) + options.epochs)
    if finished and (options.epochs <= done or options.epochs == planned):
        line = command("python", "train.py", "--resume", options.weights, "--epochs", "+20")
        how = f"has finished its {done} epochs" if done >= planned else f"has stopped early after {done} epochs"
        raise ValueError(f"{options.weights}: this run {how}; for more of them: {line}")
    if finished:
        hyp = ckpt["hyp"]
        before, now = (
            hyp["lr0"] * lr_factor(epoch, epochs, hyp["lrf"], options.cos_lr)
            for epoch, epochs in ((done - 1, planned), (done, options.epochs))
        )
        LOGGER.info(
            f"{done} epochs are done, {options.epochs - done} more: the learning rate is that of a run of "
            f"{options.epochs} epochs, {now:.3g} now after {before:.3g}"
        )
    return options
