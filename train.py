"""Train a detector on a custom dataset.

    python train.py --data data/demo.yaml --cfg models/yolov5n-swinv2.yaml --img 320    # from scratch
    python train.py --data my.yaml --weights runs/train/exp/weights/best.pt             # from a checkpoint
    python train.py --resume                                                            # go on with the last run

A run folder (runs/train/exp, exp2, ...) gets weights/last.pt and weights/best.pt, results.csv and results.png, hyp.yaml
and opt.yaml, pictures of labels, batches and predictions, and TensorBoard events.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import val
from models.checkpoint import strip_optimizer
from models.pretrained import PUBLISHED
from models.training import (
    AMP_TYPES,
    DEFAULT_CFG,
    HYP_OF_CONV,
    HYP_OF_SWIN,
    Inputs,
    Plan,
    State,
    choose_amp,
    prepare,
    read_inputs,
    save,
)
from utils.callbacks import Callbacks
from utils.files import yaml_load, yaml_save
from utils.general import (
    LOGGER,
    ROOT,
    TQDM_BAR_FORMAT,
    check_file,
    cli_errors,
    colorstr,
    get_latest_run,
    increment_path,
    log_options,
)
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.metrics import fitness
from utils.optim import accumulate_at, set_schedule_
from utils.plots import plot_images, plot_results
from utils.torch_utils import amp_context, init_seeds, select_device

MAY_CHANGE_ON_RESUME = ("amp", "data", "device", "epochs", "patience", "workers")
TRAIN_BATCHES_DRAWN = 3


def scale_batch(images: Tensor, plan: Plan, ni: int) -> Tensor:
    """Resize a batch to a random size of 0.5 to 1.5 times the image size, drawn from seed and iteration alone."""
    rng, stride = np.random.default_rng((plan.opt.seed, ni)), plan.stride
    size = int(rng.integers(plan.imgsz // 2, plan.imgsz * 3 // 2 + stride)) // stride * stride
    factor = size / max(images.shape[2:])
    if factor == 1:
        return images
    shape = [max(math.ceil(side * factor / stride) * stride, stride) for side in images.shape[2:]]
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)


def not_finite(what: str, state: State, batch: int, items: Tensor) -> ValueError:
    """Return the error for a loss or gradient that is infinite or NaN; it names the terms of the loss (3,)."""
    box, obj, cls = items.tolist()
    return ValueError(
        f"the {what} is not finite in epoch {state.epoch}, batch {batch}: box {box:.4g}, objectness {obj:.4g}, "
        f"class {cls:.4g}, learning rate {state.optimizer.param_groups[1]['lr']:.3g}. The last checkpoint is kept. "
        "Try a lower lr0, or --amp off or bf16"
    )


def forward_backward(state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss) -> Tensor:
    """Add the gradients of one batch.

    Returns:
        Box, objectness and class loss, (3,); not finite where the loss was not, and then without any gradient added.

    Raises:
        ValueError: the device has too little memory.
    """
    try:
        with amp_context(plan.device, plan.amp):
            preds = state.model(images)
        loss, items = compute_loss(preds, targets.to(plan.device))
        if torch.isfinite(loss):
            state.scaler.scale(loss).backward()
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory on {plan.device} with {len(images)} images of {images.shape[-1]} pixels: use a smaller "
            "--batch-size or --img, or --activation-checkpointing"
        ) from error
    return items


def optimizer_step(state: State, clip_norm: float, callbacks: Callbacks) -> bool:
    """Clip the gradients, step, clear them, and let the average follow.

    Returns:
        False, without a step, if a gradient is not finite and no scaler is there to skip the step.
    """
    callbacks.run("optimizer_step")
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
    if not state.scaler.is_enabled() and not torch.isfinite(norm):
        return False
    state.scaler.step(state.optimizer)
    state.scaler.update()
    callbacks.run("on_before_zero_grad")
    state.optimizer.zero_grad()
    state.ema.update(state.model)
    return True


def train_one_epoch(
    state: State, plan: Plan, loader: DataLoader, compute_loss: ComputeLoss, callbacks: Callbacks
) -> Tensor:
    """Train on every batch once.

    Returns:
        Mean box, objectness and class loss, (3,).

    Raises:
        ValueError: the loss or a gradient is not finite; nothing was stepped.
    """
    hyp, opt, device = plan.hyp, plan.opt, plan.device
    state.model.train()
    for row in plan.frozen:
        row.eval()
    loader.sampler.set_epoch(state.epoch)
    LOGGER.info(("\n" + "%11s" * 7) % ("Epoch", "GPU_mem", "box_loss", "obj_loss", "cls_loss", "Instances", "Size"))
    bar = tqdm(enumerate(loader), total=plan.batches, bar_format=TQDM_BAR_FORMAT, disable=None)
    mean = torch.zeros(3, device=device)
    state.optimizer.zero_grad()
    line = ""
    for i, (images, targets, paths, _) in bar:
        callbacks.run("on_train_batch_start")
        ni = i + plan.batches * state.epoch
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True).float() / 255

        # rate and momentum of this iteration
        accumulate = min(accumulate_at(ni, plan.warmup, opt.batch_size, hyp.nominal_batch), plan.batches)
        set_schedule_(state.optimizer, ni, plan.warmup, state.epoch, opt.epochs, hyp, cosine=opt.cos_lr)
        if opt.multi_scale:
            images = scale_batch(images, plan, ni)

        # forward and backward; looking at the loss waits for the device, which the progress bar does anyway
        items = forward_backward(state, plan, images, targets, compute_loss)
        if not items.isfinite().all():
            raise not_finite("loss", state, i, items)

        # step once per nominal batch
        if ni - state.last_step >= accumulate:
            if not optimizer_step(state, hyp.clip_norm, callbacks):
                raise not_finite("gradient", state, i, items)
            state.last_step = ni

        mean = (mean * i + items) / (i + 1)
        memory = f"{torch.cuda.memory_reserved() / 1e9 if device.type == 'cuda' else 0:.3g}G"
        line = ("%11s" * 2 + "%11.4g" * 5) % (
            f"{state.epoch}/{opt.epochs - 1}", memory, *mean.tolist(), len(targets), images.shape[-1]
        )  # fmt: skip
        bar.set_description(line)
        callbacks.run(
            "on_train_batch_end", model=state.model, ni=ni, imgs=images, targets=targets, paths=paths, losses=mean
        )
        if callbacks.stop_training:
            break
    if bar.disable:
        LOGGER.info(line)
    return mean


def draw_first_batches(save_dir: Path, names: dict[int, str]) -> Callable[..., None]:
    """Return a callback that draws the first training batches."""

    def draw(model: nn.Module, ni: int, imgs: Tensor, targets: Tensor, paths: list[str], losses: Tensor) -> None:
        if ni < TRAIN_BATCHES_DRAWN:
            plot_images(imgs.float().cpu(), targets, paths, save_dir / f"train_batch{ni}.jpg", names)

    return draw


def evaluate(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss
) -> tuple[float, ...]:
    """Score the averaged model; returns P, R, mAP50, mAP50-95 and the three validation losses."""
    results, _, _ = val.run(
        data, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, half=plan.amp == torch.float16, model=state.ema.ema,
        single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, plots=False,
        compute_loss=compute_loss,
    )  # fmt: skip
    return results


def finish(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss
) -> tuple[float, ...]:
    """Strip best.pt, score it from its file with plots, then strip last.pt: until that the run can be resumed."""
    best, last = plan.save_dir / "weights/best.pt", plan.save_dir / "weights/last.pt"
    strip_optimizer(best)
    LOGGER.info(f"\nValidating {best}...")
    results, _, _ = val.run(
        data, weights=best, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, device=plan.device,
        single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, verbose=True,
        plots=not plan.opt.noplots, compute_loss=compute_loss,
    )  # fmt: skip
    if not plan.opt.noplots:
        plot_results(plan.save_dir / "results.csv")
    strip_optimizer(last)
    again = f"--weights {best} --data {plan.opt.data} --img {plan.imgsz} --batch-size {plan.opt.batch_size * 2}"
    LOGGER.info(
        f"The same numbers again: python val.py {again}{' --single-cls' * plan.opt.single_cls}\n"
        f"Results, weights and pictures are in {colorstr('bold', str(plan.save_dir))}"
    )
    return results


def train_epochs(
    state: State,
    plan: Plan,
    data: dict[str, Any],
    loaders: tuple[DataLoader, DataLoader],
    compute_loss: ComputeLoss,
    callbacks: Callbacks,
) -> None:
    """Train, score, log and save, epoch by epoch, to the last one or until the fitness no longer rises."""
    opt, last = plan.opt, plan.save_dir / "weights/last.pt"
    while state.epoch < opt.epochs and not state.stopper.stop and not callbacks.stop_training:
        callbacks.run("on_train_epoch_start")
        losses = train_one_epoch(state, plan, loaders[0], compute_loss, callbacks)
        rates = [group["lr"] for group in state.optimizer.param_groups]
        state.ema.update_attr(state.model, include=("yaml", "names", "hyp"))
        callbacks.run("on_train_epoch_end", epoch=state.epoch)

        # score
        final = state.epoch + 1 == opt.epochs or state.stopper.possible_stop or callbacks.stop_training
        results, score, improved = (math.nan,) * 7, math.nan, False
        if final or not opt.noval:
            results = evaluate(state, plan, data, loaders[1], compute_loss)
            score = float(fitness(np.array(results[:4])[None])[0])
            final |= state.stopper(state.epoch, score)
            improved = score >= state.best_fitness
            state.best_fitness = max(score, state.best_fitness)

        # log, then save: a run that is killed between them repeats the epoch and drops its row
        vals = [*losses.tolist(), *results, *rates]
        callbacks.run("on_fit_epoch_end", vals=vals, epoch=state.epoch, best_fitness=state.best_fitness, fi=score)
        if final or not opt.nosave:
            save(state, plan, improved)
            callbacks.run(
                "on_model_save", last=last, epoch=state.epoch, final_epoch=final, best_fitness=state.best_fitness,
                fi=score,
            )  # fmt: skip
        state.epoch += 1


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
    """
    callbacks = callbacks or Callbacks()
    save_dir = Path(opt.save_dir)
    (save_dir / "weights").mkdir(exist_ok=True)
    if opt.resume:
        changed = {key: getattr(opt, key) for key in MAY_CHANGE_ON_RESUME}
        yaml_save(save_dir / "opt.yaml", yaml_load(save_dir / "opt.yaml") | changed)
    else:
        yaml_save(save_dir / "hyp.yaml", inputs.hyp.to_dict())
        yaml_save(save_dir / "opt.yaml", {**vars(opt), "hyp": inputs.hyp.to_dict()})
    init_seeds(opt.seed)
    callbacks.run("on_pretrain_routine_start")
    state, plan, *loaders = prepare(opt, inputs, device, callbacks)
    loggers = Loggers(save_dir)
    loggers.register(callbacks)
    loggers.truncate(state.epoch)  # rows of an epoch that is repeated, or of an older run in this folder
    if not opt.noplots:
        callbacks.register("on_train_batch_end", draw_first_batches(save_dir, state.model.names))
    compute_loss = ComputeLoss(state.model)

    start, first = time.time(), state.epoch
    how = f"Resuming {opt.weights} at epoch {first} of" if opt.resume else "Starting training for"
    LOGGER.info(
        f"Image sizes {plan.imgsz} train, {plan.imgsz} val\nUsing {loaders[0].num_workers} dataloader workers\n"
        f"Logging results to {colorstr('bold', str(save_dir))}\n"
        f"{how} {opt.epochs} epochs..."
    )
    try:
        callbacks.run("on_train_start")
        train_epochs(state, plan, inputs.data, loaders, compute_loss, callbacks)
        LOGGER.info(f"\n{state.epoch - first} epochs completed in {(time.time() - start) / 3600:.3f} hours.")
        results = finish(state, plan, inputs.data, loaders[1], compute_loss)
        best, last = save_dir / "weights/best.pt", save_dir / "weights/last.pt"
        callbacks.run("on_train_end", last=last, best=best, epoch=state.epoch - 1, results=results)
    finally:
        callbacks.run("teardown")
    return results


def parse_opt(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options; `given` lists those that were named."""
    parser = argparse.ArgumentParser(
        description="Train a detector.", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--weights",
        default="",
        help="checkpoint to start from, or swinv2_t, swinv2_s, swinv2_b; '' trains from scratch",
    )
    add("--cfg", default="", help=f"model YAML; default: the checkpoint's, or {DEFAULT_CFG}")
    add("--data", default="data/demo.yaml", help="dataset YAML")
    add("--hyp", default="", help=f"hyperparameter YAML; default: {HYP_OF_SWIN} for Swin backbones, else {HYP_OF_CONV}")
    add("--epochs", type=int, default=100, help="total epochs")
    add("--batch-size", type=int, default=16, help="images per batch")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="training and validation size, pixels")
    add("--rect", action="store_true", help="rectangular training batches; no mosaic, no shuffling")
    add("--resume", nargs="?", const=True, default=False, help="go on with the newest run, or with the given last.pt")
    add("--nosave", action="store_true", help="save only the final checkpoint")
    add("--noval", action="store_true", help="validate only the final epoch")
    add("--noautoanchor", action="store_true", help="keep the anchors of the model")
    add("--noplots", action="store_true", help="draw nothing")
    add("--cache", nargs="?", const="ram", choices=("ram",), help="keep resized images in memory")
    add("--device", default="", help="cpu, mps, 0 (first CUDA device), ...; default: CUDA if there is one")
    add(
        "--amp", choices=("auto", *AMP_TYPES), default="auto", help="mixed precision; auto: fp16 on CUDA, off elsewhere"
    )
    add("--activation-checkpointing", action="store_true", help="recompute Swin blocks to save memory")
    add("--multi-scale", action="store_true", help="vary the image size by 50 %%")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add(
        "--optimizer", choices=("SGD", "Adam", "AdamW"), default=None, help="default: the hyperparameter file's, or SGD"
    )
    add("--workers", type=int, default=8, help="most processes that load data")
    add("--project", default=str(ROOT / "runs/train"), help="folder of the runs")
    add("--name", default="exp", help="name of this run; cfg: that of the model")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    add("--cos-lr", action="store_true", help="cosine instead of linear schedule")
    add("--label-smoothing", type=float, help="share of the class target that is spread; default: hyperparameter file")
    add("--patience", type=int, default=100, help="stop after so many epochs without improvement; 0: never")
    add("--freeze", nargs="+", type=int, default=[0], help="rows to freeze: n for the first n, or several indices")
    add("--save-period", type=int, default=-1, help="also keep epoch<N>.pt every so many epochs")
    add("--seed", type=int, default=0, help="seed of everything random")
    opt = parser.parse_args(argv)
    unset = object()
    named = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(opt), unset)))
    opt.given = [key for key, value in vars(named).items() if value is not unset]
    return opt


def resume_options(opt: argparse.Namespace) -> argparse.Namespace:
    """Return the options of the run that is resumed; only those of MAY_CHANGE_ON_RESUME may be given anew.

    Raises:
        FileNotFoundError: there is no run to resume, or its folder lacks a file.
    """
    last = get_latest_run() if opt.resume is True else check_file(opt.resume, (".pt",))
    if last is None:
        raise FileNotFoundError("--resume: no weights/last.pt below this folder; name one with --resume PATH")
    last = Path(last).resolve()
    folder = last.parent.parent
    if last.parent.name != "weights" or not (folder / "opt.yaml").is_file():
        raise FileNotFoundError(f"--resume {last}: expected weights/last.pt in a run folder with opt.yaml and hyp.yaml")
    stored = yaml_load(folder / "opt.yaml")
    ignored = [key for key in opt.given if key not in (*MAY_CHANGE_ON_RESUME, "resume")]
    if ignored:
        names = ", ".join("--" + key.replace("_", "-") for key in ignored)
        LOGGER.warning(f"--resume ignores {names}: taken from {folder / 'opt.yaml'}")
    changed = {key: getattr(opt, key) for key in MAY_CHANGE_ON_RESUME if key in opt.given}
    merged = {**vars(opt), **{k: v for k, v in stored.items() if k in vars(opt)}, **changed}
    merged |= {"cfg": "", "weights": str(last), "hyp": str(folder / "hyp.yaml"), "resume": True}
    return argparse.Namespace(**merged, save_dir=str(folder))


def check_options(opt: argparse.Namespace) -> None:
    """Refuse option values that cannot work, and complete those that were left out.

    Raises:
        ValueError, FileNotFoundError: naming the option.
    """
    for name, least in (("epochs", 1), ("batch_size", 1), ("imgsz", 1), ("workers", 0), ("patience", 0), ("seed", 0)):
        if getattr(opt, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(opt, name)}, but must be at least {least}")
    if opt.label_smoothing is not None and not 0 <= opt.label_smoothing < 1:
        raise ValueError(f"--label-smoothing is {opt.label_smoothing}, but must be at least 0 and below 1")
    if opt.amp not in ("auto", *AMP_TYPES):
        raise ValueError(f"--amp is {opt.amp!r}; allowed: auto, {', '.join(AMP_TYPES)}")
    opt.freeze = [opt.freeze] if isinstance(opt.freeze, int) else list(opt.freeze)
    if "," in str(opt.device) or int(os.getenv("WORLD_SIZE", "1")) > 1:
        raise ValueError("training runs on one device in one process: name one with --device, and start it with python")
    if opt.weights and opt.weights not in PUBLISHED and not Path(opt.weights).is_file():
        raise FileNotFoundError(
            f"--weights {opt.weights}: no such file; train from scratch with --weights '', or from published weights: "
            f"{', '.join(PUBLISHED)}"
        )
    opt.data = str(check_file(opt.data, (".yaml", ".yml")).resolve())
    if not opt.resume and (opt.cfg or not opt.weights):
        opt.cfg = str(check_file(opt.cfg or DEFAULT_CFG, (".yaml", ".yml")))


def main(opt: argparse.Namespace, callbacks: Callbacks | None = None) -> tuple[float, ...]:
    """Train with the given options; returns what `train` returns. The run folder is made when all inputs were read."""
    if opt.resume:
        opt = resume_options(opt)
    log_options("train", {key: value for key, value in vars(opt).items() if key != "given"})
    del opt.given
    check_options(opt)
    device = select_device(opt.device, opt.batch_size)
    choose_amp(opt.amp, device)
    inputs = read_inputs(opt)
    if not opt.resume:
        name = Path(opt.cfg or opt.weights).stem if opt.name == "cfg" else opt.name
        opt.save_dir = str(increment_path(Path(opt.project) / name, exist_ok=opt.exist_ok, mkdir=True))
    return train(opt, inputs, device, callbacks)


def run(**options: Any) -> tuple[float, ...]:
    """Train from Python: `run(data="data/demo.yaml", imgsz=320, epochs=5)`; options as on the command line.

    Raises:
        ValueError: an option that does not exist.
    """
    opt = parse_opt([])
    del opt.given
    for key, value in options.items():
        if key not in vars(opt):
            raise ValueError(f"unknown option {key!r}; allowed: {', '.join(vars(opt))}")
        setattr(opt, key, value)
    opt.given = list(options)
    return main(opt)


if __name__ == "__main__":
    with cli_errors():
        main(parse_opt(sys.argv[1:]))
