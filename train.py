"""Train a detector on a custom dataset.

    python train.py --data data/demo.yaml --cfg models/yolov5n-swinv2.yaml --img 320    # from scratch
    python train.py --data my.yaml --weights runs/train/exp/weights/best.pt             # from a checkpoint
    python train.py --resume                                                            # go on with the last run
    torchrun --nproc-per-node 4 train.py --data my.yaml --batch-size 64                 # four GPUs, 16 images each

A run folder (runs/train/exp, exp2, ...) gets weights/last.pt and weights/best.pt, results.csv and results.png, hyp.yaml
and opt.yaml, images of labels, batches and predictions, and TensorBoard events.

Ctrl-C and SIGTERM save after the running batch and exit (130, 143); --resume then goes on with the next batch, to the
same weights as without the stop. After a harder end (kill -9, power) it goes on with the last epoch that was saved.
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.train import TrainOptions, parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

import math
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import val
from engine.conversion.before_training import convert_inputs
from engine.interrupts import Interrupts
from engine.training.checks import (
    EVOLUTION,
    FIXED_IN_EVOLUTION,
    MAY_CHANGE_ON_RESUME,
    check_options,
    choose_evolution,
    resume_options,
)
from engine.training.evolve import RESULTS
from engine.training.forecast import Forecast
from engine.training.health import Diverged, LossWatch
from engine.training.metric import check_metric, score
from engine.training.more_epochs import close_last
from engine.training.recovery import check_epoch, check_step, out_of_memory, roll_back, save_start, slowed, start_file
from engine.training.state import Inputs, Plan, State, choose_amp, prepare, read_inputs, save, save_progress
from engine.training.trained_start import say_if_start_is_best, score_start, settle_hyp, starts_trained
from engine.training.tuner import Search, read_population, run_genetic, run_optuna
from models.image_size import vary_size
from models.weights.checkpoint import strip_optimizer
from utils.annotate import plot_images
from utils.callbacks import Callbacks
from utils.console import LOGGER, ProgressBar, colorstr, duration, log_options, size_text
from utils.datasets.images import render_batch
from utils.datasets.sampling import class_weights, image_weights
from utils.distributed import (
    any_process,
    broadcast,
    is_main,
    launched_processes,
    local_device,
    main_first,
    mean_over_processes,
    on_main,
    process_group,
    rank,
    shares_of_mean,
    world_size,
)
from utils.files import yaml_load, yaml_save
from utils.hyp import Hyp
from utils.loggers.run_logs import RunLogs
from utils.loss import ComputeLoss
from utils.metrics import fitness
from utils.optim import accumulate_at, set_schedule_
from utils.options.table import arguments, as_dict, checked
from utils.options.val import ValOptions
from utils.paths import HOME, command, run_folder
from utils.paths import ROOT as ROOT
from utils.plots import plot_results
from utils.torch_utils import amp_context, init_seeds, parse_device, select_device, use_huge_pages

TRAIN_BATCHES_DRAWN = 3
SETTINGS = ("hyp.yaml", "opt.yaml", "transfer.csv", "labels.jpg", "labels_correlogram.jpg", "events.out.tfevents.*")
FILE = Path(__file__).resolve()


def forward_backward(
    state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss
) -> Tensor | None:
    """Add the gradients of one batch, which several processes share.

    Returns:
        Box, objectness and class loss, (3,), with a teacher its term too, (4,), means over the processes; not finite
        where a loss was not, and then without any gradient added. None if the device has too little memory; the tensors
        of the pass are gone then.
    """
    with suppress(torch.OutOfMemoryError):
        return _forward_backward(state, plan, images, targets, compute_loss)
    return None


def _forward_backward(state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss) -> Tensor:
    """Do what `forward_backward` says, or raise torch.OutOfMemoryError."""
    with amp_context(plan.device, plan.amp):
        preds = state.net(images)
    loss, items = compute_loss(preds, targets.to(plan.device))
    if state.distillation:
        progress = (state.epoch + state.batch / plan.batches) / plan.options.epochs
        loss, items = state.distillation(loss, items, images, preds, progress)
    items = mean_over_processes(items)
    if items.isfinite().all():  # DistributedDataParallel takes the mean of the gradients, one process their sum
        parts = 4 if plan.options.quad else 1  # images per sample
        state.scaler.scale(loss * world_size() * parts).backward()
    return items


def optimizer_step(state: State, clip_norm: float, callbacks: Callbacks) -> bool:
    """Clip the gradients, step, clear them, and let the average follow.

    Returns:
        False, without a step, if a gradient is not finite and there is no scaler to skip the step, or one that skipped
        so many steps that its scale is below 1.
    """
    callbacks.run("optimizer_step")
    state.scaler.unscale_(state.optimizer)
    learning = {p: p.grad for p in state.model.parameters() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm(learning.values())  # infinite after an overflow in float16
    finite = bool(norm.isfinite())
    if finite:  # clipping would spread what is not finite over all gradients
        torch.nn.utils.clip_grads_with_norm_(learning, clip_norm, norm)
    elif not state.scaler.is_enabled():
        return False
    state.scaler.step(state.optimizer)
    state.scaler.update()
    # a scale that keeps halving below 1 means that the weights, not the scale, cause the overflow
    if not finite and state.scaler.get_scale() < 1:
        return False
    callbacks.run("on_before_zero_grad")
    state.optimizer.zero_grad()
    state.ema.update(state.model)
    return True


def begin_epoch(state: State, plan: Plan, loader: DataLoader) -> None:
    """Prepare model and loader for the batches of an epoch after the first `state.batch`."""
    state.model.train()
    for row in plan.frozen:  # train() has just switched their batch statistics on
        row.eval()
    loader.sampler.set_epoch(state.epoch, skip=state.batch * loader.batch_size)
    if state.epoch == getattr(loader.dataset, "close_at", None):
        LOGGER.info(f"\nno mosaic, mixup and copy-paste from epoch {state.epoch} on")
    if plan.options.image_weights:
        labels = loader.dataset.labels
        maps = np.zeros(state.model.nc) if state.maps is None else state.maps
        loader.sampler.weights = image_weights(labels, maps, class_weights(labels, state.model.nc))
    if not state.batch:
        state.losses = torch.zeros(3 + bool(state.distillation), device=plan.device)
        state.optimizer.zero_grad()
        if world_size() > 1:  # drop path differs between the processes
            torch.manual_seed(hash((plan.options.seed, state.epoch, rank())))


def train_one_epoch(
    state: State,
    plan: Plan,
    loader: DataLoader,
    compute_loss: ComputeLoss,
    callbacks: Callbacks,
    watch: LossWatch,
    forecast: Forecast,
    interrupts: Interrupts,
) -> bool:
    """Train one epoch on every batch; a resumed epoch skips its first `state.batch` batches.

    `state.losses` becomes the mean box, objectness and class loss, (3,), with a teacher its term too, (4,).

    Returns:
        False if a signal interrupted it, in all processes after the same batch.

    Raises:
        Diverged: the loss or a gradient is not finite, or the loss diverges; no step was made.
        ValueError: the device has too little memory.
    """
    hyp, options, device = slowed(plan.hyp, state.rollbacks), plan.options, plan.device
    begin_epoch(state, plan, loader)
    losses = ("box_loss", "obj_loss", "cls_loss", "dis_loss")[: len(state.losses)]
    LOGGER.info("\n" + "".join(f"{name:>11}" for name in ("Epoch", "GPU_mem", *losses, "Instances", "Size", "Left")))
    numbered = enumerate(loader, start=state.batch)
    bar = ProgressBar(numbered, total=plan.batches, done=state.batch, unit="batches", shown=is_main())
    for i, (images, targets, paths, _) in bar:
        callbacks.run("on_train_batch_start")
        ni = state.iteration
        # uint8 crosses to the device: a quarter of the bytes of float32
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True).float() / 255

        # rate and momentum of this iteration; at least one step an epoch, however few batches it has
        accumulate = min(accumulate_at(ni, plan.warmup, options.batch_size, hyp.nominal_batch), plan.batches)
        set_schedule_(state.optimizer, ni, plan.warmup, state.epoch, options.epochs, hyp, cosine=options.cos_lr)
        if options.multi_scale:
            images = vary_size(images, plan.imgsz, plan.stride, (options.seed, ni), options.quad)

        # forward and backward; looking at the loss waits for the device, which the progress bar does anyway
        items = forward_backward(state, plan, images, targets, compute_loss)
        if items is None:
            raise out_of_memory(state, plan, images, targets, compute_loss, i)
        # before the step, so that the weights stay as they were
        check_step(state, plan, i, items, images, watch, stepped=None)

        # step once per nominal batch; measured from the last step, so that a resumed run steps at the same batches
        if ni - state.last_step >= accumulate:
            stepped = optimizer_step(state, hyp.clip_norm, callbacks)
            check_step(state, plan, i, items, images, watch, stepped)
            state.last_step = ni

        # running mean and position: all that a checkpoint in the middle of the epoch needs from here
        state.losses = (state.losses * i + items) / (i + 1)
        state.batch, state.iteration = i + 1, ni + 1
        memory = f"{torch.cuda.memory_reserved() / 1e9 if device.type == 'cuda' else 0:.3g}G"
        left = forecast(state, plan)
        bar.title = ("%11s" * 2 + "%11.4g" * (len(losses) + 2) + "%11s") % (
            f"{state.epoch}/{options.epochs - 1}", memory, *state.losses.tolist(), len(targets), images.shape[-1],
            "-" if left is None else duration(left),
        )  # fmt: skip
        callbacks.run(
            "on_train_batch_end", model=state.model, ni=ni, imgs=images, targets=targets, paths=paths,
            losses=state.losses,
        )  # fmt: skip
        # a signal may reach one process only; all have to leave after the same batch
        if any_process(interrupts.wanted, device):
            return False
        if callbacks.stop_training and world_size() == 1:  # with several, one that leaves would block the others
            break
    if bar.plain:
        LOGGER.info(bar.title)
    return True


def draw_first_batches(save_dir: Path, names: dict[int, str]) -> Callable[..., None]:
    """Return a callback that draws the first training batches."""

    def draw(model: nn.Module, ni: int, imgs: Tensor, targets: Tensor, paths: list[str], losses: Tensor) -> None:
        if ni < TRAIN_BATCHES_DRAWN:
            plot_images(render_batch(imgs.float().cpu()), targets, paths, save_dir / f"train_batch{ni}.jpg", names)

    return draw


class BrokenOffError(Exception):
    """A signal came during a validation."""


def break_off_validation(interrupts: Interrupts) -> Callable[[], None]:
    """Return a callback that ends the validation of an epoch once a signal has come."""

    def look() -> None:
        if interrupts.wanted:
            raise BrokenOffError

    return look


def limits(plan: Plan) -> dict[str, Any]:
    """Return the options that training and validation share as arguments of `val.run`; those given, without defaults.

    These are the limit of detections, and tiles, which the loader of the validation has already.
    """
    o = plan.options
    tiles = {"slice": o.slice, "overlap": o.overlap} if o.slice else {}
    return tiles if o.max_det is None else {"max_det": o.max_det, **tiles}


def evaluate(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss, callbacks: Callbacks
) -> tuple[tuple[float, ...], np.ndarray] | None:
    """Validate the averaged model.

    Returns:
        P, R, mAP50, mAP50-95, three losses, and mAP50-95 of each class (nc,); None if a signal interrupted it.
    """
    averaged: Any = deepcopy(state.ema.ema)
    try:
        results, maps, _ = val.run(
            data, batch_size=plan.options.batch_size * 2, imgsz=plan.imgsz, half=plan.amp == torch.float16,
            model=averaged.fuse(), single_cls=plan.options.single_cls, dataloader=loader,
            save_dir=plan.save_dir, plots=False, compute_loss=compute_loss, callbacks=callbacks, **limits(plan),
        )  # fmt: skip
    except BrokenOffError:
        return None
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory on {plan.device} while {plan.options.batch_size * 2} images of {size_text(plan.imgsz)} "
            f"pixels were validated after epoch {state.epoch}: use a smaller --batch-size or --img, or --noval"
        ) from error
    return results, maps


def finish(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss, callbacks: Callbacks
) -> tuple[float, ...]:
    """Strip best.pt and validate it with plots, then close last.pt; until then the same run can be resumed."""
    best, last = plan.save_dir / "weights/best.pt", plan.save_dir / "weights/last.pt"
    say_if_start_is_best(strip_optimizer(best), best)
    LOGGER.info(f"\nValidating {best}...")
    results, _, _ = val.run(
        data, weights=best, batch_size=plan.options.batch_size * 2, imgsz=plan.imgsz, device=plan.device,
        single_cls=plan.options.single_cls, dataloader=loader, save_dir=plan.save_dir, verbose=True,
        plots=not plan.options.noplots, compute_loss=compute_loss, callbacks=callbacks, save_thresholds=True,
        **limits(plan),
    )  # fmt: skip
    if not plan.options.noplots:
        plot_results(plan.save_dir / "results.csv")
    close_last(last, plan.options.strip, state.saved)
    if plan.options.evolve is None:  # whose trainings leave no folder
        line = command(
            "python", "val.py", "--weights", best, "--data", plan.options.data, "--img", *size_text(plan.imgsz).split(),
            "--batch-size", str(plan.options.batch_size * 2), *["--single-cls"] * plan.options.single_cls,
            *arguments(ValOptions(**limits(plan))),
            *(["--classes", *map(str, plan.options.classes)] if plan.options.classes else []),
        )  # fmt: skip
        LOGGER.info(f"To reproduce these numbers: {line}")
        LOGGER.info(f"Results, weights and images are in {colorstr('bold', str(plan.save_dir))}")
    return results


def train_epochs(
    state: State,
    plan: Plan,
    data: dict[str, Any],
    loaders: tuple[DataLoader, DataLoader],
    compute_loss: ComputeLoss,
    callbacks: Callbacks,
    interrupts: Interrupts,
) -> bool:
    """Train, score, log and save, epoch by epoch, to the last one or until the fitness no longer rises.

    Returns:
        False if a signal interrupted it; the run is saved in that state.
    """
    options, last, watch, forecast = plan.options, plan.save_dir / "weights/last.pt", LossWatch(), Forecast()
    if starts_trained(options) and not score_start(
        state, plan, lambda: evaluate(state, plan, data, loaders[1], compute_loss, callbacks)
    ):
        return False
    if options.nan_policy == "rollback" and not last.is_file():
        save_start(state, plan, start_file(plan))
    while state.epoch < options.epochs and not state.stopper.stop and not callbacks.stop_training:
        callbacks.run("on_train_epoch_start")
        try:
            if not train_one_epoch(state, plan, loaders[0], compute_loss, callbacks, watch, forecast, interrupts):
                save_progress(state, plan)
                return False
            check_epoch(state, plan, compute_loss)
        except Diverged as error:
            if options.nan_policy == "stop":
                raise
            roll_back(state, plan, error)
            watch = LossWatch()
            continue
        rates = [group["lr"] for group in state.optimizer.param_groups[:3]]
        state.ema.update_attr(state.model, include=("yaml", "names", "hyp"))
        callbacks.run("on_train_epoch_end", epoch=state.epoch)
        callbacks.stop_training = broadcast(callbacks.stop_training)

        # score
        final = state.epoch + 1 == options.epochs or state.stopper.possible_stop or callbacks.stop_training
        results, fi, improved = (math.nan,) * 7, math.nan, False
        if final or not options.noval:
            scored = on_main(lambda: evaluate(state, plan, data, loaders[1], compute_loss, callbacks))
            if scored is None:
                save_progress(state, plan)
                return False
            results, state.maps = scored
            fi = score(options.metric, results, state.maps, state.model.names)
            final |= state.stopper(state.epoch, fi)
            improved = fi >= state.best_fitness
            state.best_fitness = max(fi, state.best_fitness)

        # log, then save: a run that is killed between them repeats the epoch and drops its row
        losses = state.losses.tolist()
        vals = [*losses[:3], *results, *rates, *losses[3:]]
        callbacks.run("on_fit_epoch_end", vals=vals, epoch=state.epoch, best_fitness=state.best_fitness, fi=fi)
        if final or not options.nosave:
            save(state, plan, improved)
            if is_main():
                start_file(plan).unlink(missing_ok=True)
            callbacks.run(
                "on_model_save", last=last, epoch=state.epoch, final_epoch=final, best_fitness=state.best_fitness,
                fi=fi,
            )  # fmt: skip
        state.epoch, state.batch = state.epoch + 1, 0
    return True


def write_options(plan: Plan, hyp: dict[str, Any]) -> None:
    """Write hyp.yaml and opt.yaml into the run folder, or what a resumed run changes in the latter.

    Args:
        plan: of the run.
        hyp: hyperparameters as they were read.
    """
    save_dir = plan.save_dir
    (save_dir / "weights").mkdir(exist_ok=True)
    if plan.options.resume:
        changed = {key: getattr(plan.options, key) for key in MAY_CHANGE_ON_RESUME}
        yaml_save(save_dir / "opt.yaml", yaml_load(save_dir / "opt.yaml") | changed)
    else:
        yaml_save(save_dir / "hyp.yaml", hyp)
        yaml_save(save_dir / "opt.yaml", plan.record() | {"hyp": hyp})


def train(
    inputs: Inputs, device: torch.device, save_dir: Path, callbacks: Callbacks | None = None
) -> tuple[float, ...]:
    """Run a training from set-up to final validation.

    Args:
        inputs: from `read_inputs`.
        device: where to train.
        save_dir: run folder.
        callbacks: receives the events of `utils.callbacks.EVENTS`.

    Returns:
        P, R, mAP50, mAP50-95, and the validation losses box, objectness, class of the best checkpoint.

    Raises:
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM ended it; how to go on is logged.
    """
    with Interrupts(launched=launched_processes() > 1) as interrupts:
        try:
            return train_until_stopped(inputs, device, save_dir, callbacks or Callbacks(), interrupts)
        except (KeyboardInterrupt, SystemExit, OSError) as error:
            last = save_dir / "weights/last.pt"
            if inputs.options.evolve is not None:
                line = evolution_command(inputs.options, save_dir.parent)
                hint = f"This run of the evolution is lost. Continue with the next one: {line}"
            elif last.is_file():
                line = command("python", "train.py", "--resume", last)
                hint = f"The last good checkpoint is complete. Continue with: {line}"
            else:
                hint = "Nothing was saved yet: start the run again"
            LOGGER.warning(f"{interrupts.name or error or type(error).__name__} stopped the training run. {hint}")
            raise


def train_until_stopped(
    inputs: Inputs, device: torch.device, save_dir: Path, callbacks: Callbacks, interrupts: Interrupts
) -> tuple[float, ...]:
    """Do the work of `train`."""
    callbacks.register("on_val_batch_start", break_off_validation(interrupts))
    init_seeds(inputs.options.seed)
    callbacks.run("on_pretrain_routine_start")
    state, plan, train_loader, val_loader = prepare(inputs, device, save_dir, callbacks)
    options, loaders = plan.options, (train_loader, val_loader)
    check_metric(options.metric, state.model.names, val_loader.dataset)
    if is_main():
        hyp = inputs.hyp.to_dict()
        write_options(plan, hyp)
        settings = plan.record() | {f"hyp/{key}": value for key, value in hyp.items()}
        extra = ("train/dis_loss",) if state.distillation else ()
        board = options.evolve is None  # else the folder goes when the training ends
        logs = RunLogs(save_dir, tensorboard=board, services=options.logger, settings=settings, extra=extra)
        logs.register(callbacks)
        logs.truncate(state.epoch)  # rows of an epoch that is repeated, or of an older run in this folder
        logs.start(None if options.noplots or options.resume else state.ema.ema, plan.imgsz)
    if not options.noplots and is_main():
        callbacks.register("on_train_batch_end", draw_first_batches(save_dir, state.model.names))
    shares = partial(shares_of_mean, device=device) if world_size() > 1 else None
    compute_loss = ComputeLoss(state.model, shares=shares)

    start, first = time.time(), state.epoch
    after = f", after batch {state.batch} of {plan.batches}" if state.batch else ""
    how = f"Resuming {options.weights} at epoch {first} of" if options.resume else "Starting training for"
    LOGGER.info(f"Image sizes {size_text(plan.imgsz)} train, {size_text(plan.imgsz)} val")
    LOGGER.info(f"Using {loaders[0].num_workers} dataloader workers")
    if options.evolve is None:
        LOGGER.info(f"Logging results to {colorstr('bold', str(save_dir))}")
    LOGGER.info(f"{how} {options.epochs} epochs{after}...")
    try:
        callbacks.run("on_train_start")
        with interrupts.patient():
            finished = train_epochs(state, plan, inputs.data, loaders, compute_loss, callbacks, interrupts)
        if not finished or any_process(interrupts.wanted, device):
            raise interrupts.end()
        LOGGER.info(f"\n{state.epoch - first} epochs completed in {duration(time.time() - start)}.")
        results = on_main(lambda: finish(state, plan, inputs.data, loaders[1], compute_loss, callbacks))
        best, last = save_dir / "weights/best.pt", save_dir / "weights/last.pt"
        callbacks.run("on_train_end", last=last, best=best, epoch=state.epoch - 1, results=results)
    finally:
        callbacks.run("teardown")
    return results


def evolution_command(options: TrainOptions, folder: Path) -> str:
    """Return the command that goes on with an evolution in its folder; where nothing is recorded yet, begins anew."""
    if not options.storage and any((folder / file).is_file() for file in ("evolve.csv", "study.db")):
        options = replace(options, resume_evolve=str(folder), project=str(HOME / "runs/train"), name="exp")
    return command("python", "train.py", *arguments(options, leave_out=(*FIXED_IN_EVOLUTION, "exist_ok")))


def evolve(inputs: Inputs, generations: int, device: torch.device, folder: Path) -> tuple[float, ...]:
    """Train once per generation with mutated hyperparameters; those of an earlier run in the folder count.

    Returns:
        What `train` returned for the best generation.
    """
    options, base = inputs.options, inputs.hyp

    def measure(generation: int, genes: Mapping[str, float]) -> tuple[float, ...]:
        LOGGER.info(f"\n{colorstr('evolve: ')}generation {generation} of {generations}: {genes}")
        hyp = Hyp.from_dict({**base.to_dict(), **genes}, f"generation {generation}")
        with tempfile.TemporaryDirectory(prefix="training-", dir=folder) as scratch:  # never a folder of the user
            return train(replace(inputs, hyp=hyp), device, Path(scratch))

    decoupled = (options.optimizer or base.optimizer) in ("AdamW", "Muon")
    population = read_population(options.evolve_population)
    search = Search(folder, base, generations, options.seed, decoupled, not options.noautoanchor, population)
    if options.tuner == "optuna":
        record = run_optuna(search, measure, options.storage, options.name if options.storage else folder.name)
    else:
        record = run_genetic(search, measure)
    scores = fitness(np.array([[row[name] for name in RESULTS[:4]] for row in record.rows]))
    best = replace(options, hyp=str(folder / "hyp_evolve.yaml"))
    own = (*FIXED_IN_EVOLUTION, *EVOLUTION, "project", "name", "exist_ok")
    line = command("python", "train.py", *arguments(best, leave_out=own))
    LOGGER.info(f"{colorstr('evolve: ')}{len(record.rows)} generations, the best one is {scores.argmax()}: {line}")
    return tuple(record.rows[int(scores.argmax())][name] for name in RESULTS)


def run_options(options: TrainOptions, given: Collection[str], callbacks: Callbacks | None) -> tuple[float, ...]:
    """Train with checked options in one of the processes; the run folder is made when all inputs were read.

    Args:
        options: of this start.
        given: names of those that were asked for; a resumed run takes only some of them.
        callbacks: see `train`.
    """
    options = choose_evolution(options)
    if options.resume:
        options = resume_options(options, given)
    log_options("train", as_dict(options))
    options = check_options(options)
    if world_size() == 1:
        device = select_device(options.device, options.batch_size)
    else:
        device = local_device(parse_device(options.device)[1])
        LOGGER.info(f"{world_size()} processes, the first one on {device}")
    use_huge_pages(device)
    choose_amp(options.amp, device)
    with main_first():  # it may draw the demonstration dataset, and convert the checkpoint
        inputs = settle_hyp(convert_inputs(read_inputs(options), device), options.hyp)
    with ExitStack() as stack:
        if options.resume:
            save_dir = Path(options.weights).parents[1]
        else:
            name = Path(inputs.options.cfg or options.weights).stem if options.name == "cfg" else options.name
            wanted = Path(options.project) / name
            save_dir = on_main(lambda: stack.enter_context(run_folder(wanted, options.exist_ok, SETTINGS)))
        if options.evolve is not None:
            return evolve(inputs, options.evolve, device, save_dir)
        return train(inputs, device, save_dir, callbacks)


def main(opt: argparse.Namespace, callbacks: Callbacks | None = None) -> tuple[float, ...]:
    """Train with the options of `parse_opt`; returns what `train` returns."""
    values = dict(vars(opt))
    given = values.pop("given", values.keys())
    with process_group():
        return run_options(TrainOptions(**checked(TrainOptions, values)), given, callbacks)


def run(**options: Any) -> tuple[float, ...]:
    """Train from Python: `run(data="data/demo.yaml", imgsz=320, epochs=5)`; options as on the command line.

    Raises:
        ValueError: an option that does not exist, or a value that it does not take.
    """
    return main(argparse.Namespace(**options))


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
