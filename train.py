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

from utils.console import cli_errors
from utils.options.check import checked
from utils.options.train import make_parser, parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import val
from engine.interrupts import Interrupts
from engine.training.checks import MAY_CHANGE_ON_RESUME, check_options, choose_evolution, resume_options
from engine.training.evolve import RESULTS
from engine.training.health import Diverged, LossWatch
from engine.training.recovery import check_epoch, check_step, out_of_memory, roll_back, save_start, slowed, start_file
from engine.training.state import Inputs, Plan, State, choose_amp, prepare, read_inputs, save, save_progress
from engine.training.tuner import Search, read_population, run_genetic, run_optuna
from models.weights.checkpoint import strip_optimizer
from utils.annotate import plot_images
from utils.callbacks import Callbacks
from utils.console import LOGGER, TQDM_BAR_FORMAT, colorstr, log_options
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
from utils.paths import ROOT as ROOT
from utils.paths import run_folder
from utils.plots import plot_results
from utils.torch_utils import amp_context, init_seeds, parse_device, select_device

TRAIN_BATCHES_DRAWN = 3
FILE = Path(__file__).resolve()


def scale_batch(images: Tensor, plan: Plan, ni: int) -> Tensor:
    """Resize a batch to a random size of 0.5 to 1.5 times the image size, drawn from seed and iteration alone."""
    rng, stride = np.random.default_rng((plan.opt.seed, ni)), plan.stride
    size = int(rng.integers(plan.imgsz // 2, plan.imgsz * 3 // 2 + stride)) // stride * stride
    factor = size / max(images.shape[2:])
    if factor == 1:
        return images
    shape = [max(math.ceil(side * factor / stride) * stride, stride) for side in images.shape[2:]]
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)


def forward_backward(
    state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss
) -> Tensor | None:
    """Add the gradients of one batch, which several processes share.

    Returns:
        Box, objectness and class loss, (3,), means over the processes; not finite where a loss was not, and then
        without any gradient added. None if the device has too little memory; the tensors of the pass are gone then.
    """
    with suppress(torch.OutOfMemoryError):
        return _forward_backward(state, plan, images, targets, compute_loss)
    return None


def _forward_backward(state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss) -> Tensor:
    """Do what `forward_backward` says, or raise torch.OutOfMemoryError."""
    with amp_context(plan.device, plan.amp):
        preds = state.net(images)
    loss, items = compute_loss(preds, targets.to(plan.device))
    items = mean_over_processes(items)
    if items.isfinite().all():  # DistributedDataParallel takes the mean of the gradients, one process their sum
        parts = 4 if plan.opt.quad else 1  # images per sample
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
    learning = [p for p in state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in learning])  # infinite after an overflow in float16
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
    if plan.opt.image_weights:
        labels = loader.dataset.labels
        maps = np.zeros(state.model.nc) if state.maps is None else state.maps
        loader.sampler.weights = image_weights(labels, maps, class_weights(labels, state.model.nc))
    if not state.batch:
        state.losses = torch.zeros(3, device=plan.device)
        state.optimizer.zero_grad()
        if world_size() > 1:  # drop path differs between the processes
            torch.manual_seed(hash((plan.opt.seed, state.epoch, rank())))


def train_one_epoch(
    state: State,
    plan: Plan,
    loader: DataLoader,
    compute_loss: ComputeLoss,
    callbacks: Callbacks,
    watch: LossWatch,
    interrupts: Interrupts,
) -> bool:
    """Train one epoch on every batch; a resumed epoch skips its first `state.batch` batches.

    `state.losses` becomes the mean box, objectness and class loss, (3,).

    Returns:
        False if a signal interrupted it, in all processes after the same batch.

    Raises:
        Diverged: the loss or a gradient is not finite, or the loss diverges; no step was made.
        ValueError: the device has too little memory.
    """
    hyp, opt, device = slowed(plan.hyp, state.rollbacks), plan.opt, plan.device
    begin_epoch(state, plan, loader)
    LOGGER.info(("\n" + "%11s" * 7) % ("Epoch", "GPU_mem", "box_loss", "obj_loss", "cls_loss", "Instances", "Size"))
    bar = tqdm(
        enumerate(loader, start=state.batch), total=plan.batches, initial=state.batch, bar_format=TQDM_BAR_FORMAT,
        disable=None if is_main() else True,
    )  # fmt: skip
    line = ""
    for i, (images, targets, paths, _) in bar:
        callbacks.run("on_train_batch_start")
        ni = state.iteration
        # uint8 crosses to the device: a quarter of the bytes of float32
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True).float() / 255

        # rate and momentum of this iteration
        accumulate = min(accumulate_at(ni, plan.warmup, opt.batch_size, hyp.nominal_batch), plan.batches)
        set_schedule_(state.optimizer, ni, plan.warmup, state.epoch, opt.epochs, hyp, cosine=opt.cos_lr)
        if opt.multi_scale:
            images = scale_batch(images, plan, ni)

        # forward and backward; looking at the loss waits for the device, which the progress bar does anyway
        items = forward_backward(state, plan, images, targets, compute_loss)
        if items is None:
            raise out_of_memory(state, plan, images, targets, compute_loss, i)
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
        line = ("%11s" * 2 + "%11.4g" * 5) % (
            f"{state.epoch}/{opt.epochs - 1}", memory, *state.losses.tolist(), len(targets), images.shape[-1]
        )  # fmt: skip
        bar.set_description(line)
        callbacks.run(
            "on_train_batch_end", model=state.model, ni=ni, imgs=images, targets=targets, paths=paths,
            losses=state.losses,
        )  # fmt: skip
        # a signal may reach one process only; all have to leave after the same batch
        if any_process(interrupts.wanted, device):
            return False
        if callbacks.stop_training and world_size() == 1:  # with several, one that leaves would block the others
            break
    if bar.disable:
        LOGGER.info(line)
    return True


def draw_first_batches(save_dir: Path, names: dict[int, str]) -> Callable[..., None]:
    """Return a callback that draws the first training batches."""

    def draw(model: nn.Module, ni: int, imgs: Tensor, targets: Tensor, paths: list[str], losses: Tensor) -> None:
        if ni < TRAIN_BATCHES_DRAWN:
            plot_images(imgs.float().cpu(), targets, paths, save_dir / f"train_batch{ni}.jpg", names)

    return draw


class BrokenOffError(Exception):
    """A signal came during a validation."""


def break_off_validation(interrupts: Interrupts) -> Callable[[], None]:
    """Return a callback that ends the validation of an epoch once a signal has come."""

    def look() -> None:
        if interrupts.wanted:
            raise BrokenOffError

    return look


def evaluate(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss, callbacks: Callbacks
) -> tuple[tuple[float, ...], np.ndarray] | None:
    """Validate the averaged model.

    Returns:
        P, R, mAP50, mAP50-95, three losses, and mAP50-95 of each class (nc,); None if a signal interrupted it.
    """
    try:
        results, maps, _ = val.run(
            data, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, half=plan.amp == torch.float16,
            model=state.ema.ema, single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, plots=False,
            compute_loss=compute_loss, callbacks=callbacks,
        )  # fmt: skip
    except BrokenOffError:
        return None
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory on {plan.device} while {plan.opt.batch_size * 2} images of {plan.imgsz} pixels were "
            f"validated after epoch {state.epoch}: use a smaller --batch-size or --img, or --noval"
        ) from error
    return results, maps


def finish(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss, callbacks: Callbacks
) -> tuple[float, ...]:
    """Strip best.pt and validate it with plots, then strip last.pt; until then the run can be resumed."""
    best, last = plan.save_dir / "weights/best.pt", plan.save_dir / "weights/last.pt"
    strip_optimizer(best)
    LOGGER.info(f"\nValidating {best}...")
    results, _, _ = val.run(
        data, weights=best, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, device=plan.device,
        single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, verbose=True,
        plots=not plan.opt.noplots, compute_loss=compute_loss, callbacks=callbacks,
    )  # fmt: skip
    if not plan.opt.noplots:
        plot_results(plan.save_dir / "results.csv")
    strip_optimizer(last)
    again = f"--weights {best} --data {plan.opt.data} --img {plan.imgsz} --batch-size {plan.opt.batch_size * 2}"
    LOGGER.info(f"To reproduce these numbers: python val.py {again}{' --single-cls' * plan.opt.single_cls}")
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
    opt, last, watch = plan.opt, plan.save_dir / "weights/last.pt", LossWatch()
    if opt.nan_policy == "rollback" and not last.is_file():
        save_start(state, plan)
    while state.epoch < opt.epochs and not state.stopper.stop and not callbacks.stop_training:
        callbacks.run("on_train_epoch_start")
        try:
            if not train_one_epoch(state, plan, loaders[0], compute_loss, callbacks, watch, interrupts):
                save_progress(state, plan)
                return False
            check_epoch(state, plan, compute_loss)
        except Diverged as error:
            if opt.nan_policy == "stop":
                raise
            roll_back(state, plan, error)
            watch = LossWatch()
            continue
        rates = [group["lr"] for group in state.optimizer.param_groups]
        state.ema.update_attr(state.model, include=("yaml", "names", "hyp"))
        callbacks.run("on_train_epoch_end", epoch=state.epoch)
        callbacks.stop_training = broadcast(callbacks.stop_training)

        # score
        final = state.epoch + 1 == opt.epochs or state.stopper.possible_stop or callbacks.stop_training
        results, score, improved = (math.nan,) * 7, math.nan, False
        if final or not opt.noval:
            scored = on_main(lambda: evaluate(state, plan, data, loaders[1], compute_loss, callbacks))
            if scored is None:
                save_progress(state, plan)
                return False
            results, state.maps = scored
            score = float(fitness(np.array(results[:4])[None])[0])
            final |= state.stopper(state.epoch, score)
            improved = score >= state.best_fitness
            state.best_fitness = max(score, state.best_fitness)

        # log, then save: a run that is killed between them repeats the epoch and drops its row
        vals = [*state.losses.tolist(), *results, *rates]
        callbacks.run("on_fit_epoch_end", vals=vals, epoch=state.epoch, best_fitness=state.best_fitness, fi=score)
        if final or not opt.nosave:
            save(state, plan, improved)
            if is_main():
                start_file(plan).unlink(missing_ok=True)
            callbacks.run(
                "on_model_save", last=last, epoch=state.epoch, final_epoch=final, best_fitness=state.best_fitness,
                fi=score,
            )  # fmt: skip
        state.epoch, state.batch = state.epoch + 1, 0
    return True


def write_options(opt: argparse.Namespace, inputs: Inputs) -> None:
    """Write hyp.yaml and opt.yaml into the run folder, or what a resumed run changes in the latter."""
    save_dir = Path(opt.save_dir)
    (save_dir / "weights").mkdir(exist_ok=True)
    if opt.resume:
        changed = {key: getattr(opt, key) for key in MAY_CHANGE_ON_RESUME}
        yaml_save(save_dir / "opt.yaml", yaml_load(save_dir / "opt.yaml") | changed)
    else:
        yaml_save(save_dir / "hyp.yaml", inputs.hyp.to_dict())
        yaml_save(save_dir / "opt.yaml", {**vars(opt), "hyp": inputs.hyp.to_dict()})


def train(
    opt: argparse.Namespace, inputs: Inputs, device: torch.device, callbacks: Callbacks | None = None
) -> tuple[float, ...]:
    """Run a training from set-up to final validation.

    Args:
        opt: options, see `parse_opt`, with `save_dir`.
        inputs: from `read_inputs`.
        device: where to train.
        callbacks: receives the events of `utils.callbacks.EVENTS`.

    Returns:
        P, R, mAP50, mAP50-95, and the validation losses box, objectness, class of the best checkpoint.

    Raises:
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM ended it; how to go on is logged.
    """
    with Interrupts(launched=launched_processes() > 1) as interrupts:
        try:
            return train_until_stopped(opt, inputs, device, callbacks or Callbacks(), interrupts)
        except (KeyboardInterrupt, SystemExit, OSError) as error:
            last = Path(opt.save_dir) / "weights/last.pt"
            if opt.evolve is not None:
                hint = "This run of the evolution is lost; the same command with --resume continues with the next one"
            elif last.is_file():
                hint = f"The last good checkpoint is complete. Continue with: python train.py --resume {last}"
            else:
                hint = "Nothing was saved yet: start the run again"
            LOGGER.warning(f"{interrupts.name or error or type(error).__name__} stopped the training run. {hint}")
            raise


def train_until_stopped(
    opt: argparse.Namespace, inputs: Inputs, device: torch.device, callbacks: Callbacks, interrupts: Interrupts
) -> tuple[float, ...]:
    """Do the work of `train`."""
    callbacks.register("on_val_batch_start", break_off_validation(interrupts))
    save_dir = Path(opt.save_dir)
    init_seeds(opt.seed)
    callbacks.run("on_pretrain_routine_start")
    state, plan, train_loader, val_loader = prepare(opt, inputs, device, callbacks)
    loaders = train_loader, val_loader
    if is_main():
        write_options(opt, inputs)
        settings = vars(opt) | {f"hyp/{key}": value for key, value in inputs.hyp.to_dict().items()}
        logs = RunLogs(save_dir, services=opt.logger, settings=settings)
        logs.register(callbacks)
        logs.truncate(state.epoch)  # rows of an epoch that is repeated, or of an older run in this folder
        logs.start(None if opt.noplots or opt.resume else state.ema.ema, plan.imgsz)
    if not opt.noplots and is_main():
        callbacks.register("on_train_batch_end", draw_first_batches(save_dir, state.model.names))
    shares = partial(shares_of_mean, device=device) if world_size() > 1 else None
    compute_loss = ComputeLoss(state.model, shares=shares)

    start, first = time.time(), state.epoch
    after = f", after batch {state.batch} of {plan.batches}" if state.batch else ""
    how = f"Resuming {opt.weights} at epoch {first} of" if opt.resume else "Starting training for"
    LOGGER.info(f"Image sizes {plan.imgsz} train, {plan.imgsz} val")
    LOGGER.info(f"Using {loaders[0].num_workers} dataloader workers")
    LOGGER.info(f"Logging results to {colorstr('bold', str(save_dir))}")
    LOGGER.info(f"{how} {opt.epochs} epochs{after}...")
    try:
        callbacks.run("on_train_start")
        with interrupts.patient():
            finished = train_epochs(state, plan, inputs.data, loaders, compute_loss, callbacks, interrupts)
        if not finished or any_process(interrupts.wanted, device):
            raise interrupts.end()
        LOGGER.info(f"\n{state.epoch - first} epochs completed in {(time.time() - start) / 3600:.3f} hours.")
        results = on_main(lambda: finish(state, plan, inputs.data, loaders[1], compute_loss, callbacks))
        best, last = save_dir / "weights/best.pt", save_dir / "weights/last.pt"
        callbacks.run("on_train_end", last=last, best=best, epoch=state.epoch - 1, results=results)
    finally:
        callbacks.run("teardown")
    return results


def main(opt: argparse.Namespace, callbacks: Callbacks | None = None) -> tuple[float, ...]:
    """Train with the given options; returns what `train` returns. The run folder is made when all inputs were read."""
    with process_group():
        return run_options(opt, callbacks)


def evolve(opt: argparse.Namespace, inputs: Inputs, device: torch.device) -> tuple[float, ...]:
    """Train once per generation with mutated hyperparameters, `opt.evolve` times including those of an earlier run.

    Returns:
        What `train` returned for the best generation.
    """
    folder, base = Path(opt.save_dir), inputs.hyp

    def measure(generation: int, genes: Mapping[str, float]) -> tuple[float, ...]:
        LOGGER.info(f"\n{colorstr('evolve: ')}generation {generation} of {opt.evolve}: {genes}")
        hyp = Hyp.from_dict(base.to_dict() | genes, f"generation {generation}")
        with tempfile.TemporaryDirectory(prefix="training-", dir=folder) as scratch:  # never a folder of the user
            training = argparse.Namespace(**{**vars(opt), "save_dir": scratch})
            return train(training, replace(inputs, hyp=hyp), device)

    decoupled = (opt.optimizer or base.optimizer) == "AdamW"
    population = read_population(opt.evolve_population)
    search = Search(folder, base, opt.evolve, opt.seed, decoupled, not opt.noautoanchor, population)
    if opt.tuner == "optuna":
        record = run_optuna(search, measure, opt.storage, opt.name)
    else:
        record = run_genetic(search, measure)
    scores = fitness(np.array([[row[name] for name in RESULTS[:4]] for row in record.rows]))
    LOGGER.info(
        f"{colorstr('evolve: ')}{len(record.rows)} generations, the best one is {scores.argmax()}: "
        f"python train.py --hyp {folder / 'hyp_evolve.yaml'} ..."
    )
    return tuple(record.rows[int(scores.argmax())][name] for name in RESULTS)


def run_options(opt: argparse.Namespace, callbacks: Callbacks | None) -> tuple[float, ...]:
    """Do the work of `main` in one of the processes."""
    choose_evolution(opt)
    if opt.resume:
        opt = resume_options(opt)
    log_options("train", {key: value for key, value in vars(opt).items() if key != "given"})
    del opt.given
    check_options(opt)
    if world_size() == 1:
        device = select_device(opt.device, opt.batch_size)
    else:
        device = local_device(parse_device(str(opt.device))[1])
        LOGGER.info(f"{world_size()} processes, the first one on {device}")
    choose_amp(opt.amp, device)
    with main_first():  # it may draw the demonstration dataset
        inputs = read_inputs(opt)
    with ExitStack() as stack:
        if not opt.resume:
            name = Path(opt.cfg or opt.weights).stem if opt.name == "cfg" else opt.name
            wanted = Path(opt.project) / name
            opt.save_dir = on_main(lambda: str(stack.enter_context(run_folder(wanted, opt.exist_ok))))
        if opt.evolve is not None:
            return evolve(opt, inputs, device)
        return train(opt, inputs, device, callbacks)


def run(**options: Any) -> tuple[float, ...]:
    """Train from Python: `run(data="data/demo.yaml", imgsz=320, epochs=5)`; options as on the command line.

    Raises:
        ValueError: an option that does not exist, or a value that it does not take.
    """
    opt = parse_opt([])
    del opt.given
    vars(opt).update(checked(make_parser(), options))
    opt.given = list(options)
    return main(opt)


if __name__ == "__main__":
    with cli_errors():
        main(OPTIONS)
