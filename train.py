"""Train a detector on a custom dataset.

    python train.py --data data/demo.yaml --cfg models/yolov5n-swinv2.yaml --img 320    # from scratch
    python train.py --data my.yaml --weights runs/train/exp/weights/best.pt             # from a checkpoint
    python train.py --resume                                                            # go on with the last run

A run folder (runs/train/exp, exp2, ...) gets weights/last.pt and weights/best.pt, results.csv and results.png, hyp.yaml
and opt.yaml, pictures of labels, batches and predictions, and TensorBoard events.
"""

import argparse
import math
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
from models.checkpoint import load_checkpoint, strip_optimizer
from models.training import AMP_TYPES, DEFAULT_CFG, HYP_OF_CONV, HYP_OF_SWIN, Plan, State, prepare, save
from utils.callbacks import Callbacks
from utils.files import yaml_load
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
from utils.labels import check_dataset
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.metrics import fitness
from utils.optim import accumulate_at, set_schedule_
from utils.plots import plot_images, plot_results
from utils.torch_utils import amp_context, init_seeds, select_device

MAY_CHANGE_ON_RESUME = ("data", "device", "epochs", "patience", "workers")
TRAIN_BATCHES_DRAWN = 3


def scale_batch(images: Tensor, plan: Plan, stride: int, ni: int) -> Tensor:
    """Resize a batch to a random size of 0.5 to 1.5 times the image size, drawn from seed and iteration alone."""
    rng = np.random.default_rng((plan.opt.seed, ni))
    size = int(rng.integers(plan.imgsz // 2, plan.imgsz * 3 // 2 + stride)) // stride * stride
    factor = size / max(images.shape[2:])
    if factor == 1:
        return images
    shape = [max(math.ceil(side * factor / stride) * stride, stride) for side in images.shape[2:]]
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)


def check_finite(loss: Tensor, items: Tensor, epoch: int, batch: int, optimizer: torch.optim.Optimizer) -> None:
    """Stop the run if the loss is not a number.

    Raises:
        ValueError: the loss is infinite or NaN; names its parts.
    """
    if torch.isfinite(loss):
        return
    box, obj, cls = items.tolist()
    raise ValueError(
        f"the loss is not finite in epoch {epoch}, batch {batch}: box {box:.4g}, objectness {obj:.4g}, "
        f"class {cls:.4g}, learning rate {optimizer.param_groups[1]['lr']:.3g}. The last checkpoint is kept. "
        f"Try a lower lr0, or --amp off or bf16"
    )


def optimizer_step(state: State, clip_norm: float) -> None:
    """Clip the gradients, step, clear them, and let the average follow."""
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.ema.update(state.model)


def train_one_epoch(
    state: State, plan: Plan, loader: DataLoader, compute_loss: ComputeLoss, callbacks: Callbacks
) -> Tensor:
    """Train on every batch once.

    Returns:
        Mean box, objectness and class loss, (3,).
    """
    hyp, opt, device = plan.hyp, plan.opt, plan.device
    state.model.train()
    for row in state.frozen:
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
        accumulate = accumulate_at(ni, plan.warmup, opt.batch_size, hyp.nominal_batch)
        set_schedule_(state.optimizer, ni, plan.warmup, state.epoch, opt.epochs, hyp, cosine=opt.cos_lr)
        if opt.multi_scale:
            images = scale_batch(images, plan, int(max(state.model.stride.max(), 32)), ni)

        # forward and backward; looking at the loss waits for the device, which the progress bar does anyway
        with amp_context(device, plan.amp):
            preds = state.model(images)
        loss, items = compute_loss(preds, targets.to(device))
        check_finite(loss, items, state.epoch, i, state.optimizer)
        state.scaler.scale(loss).backward()

        # step once per nominal batch
        if ni - state.last_step >= accumulate:
            callbacks.run("optimizer_step")
            optimizer_step(state, hyp.clip_norm)
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
        data, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, half=plan.amp is not None, model=state.ema.ema,
        single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, plots=False,
        compute_loss=compute_loss,
    )  # fmt: skip
    return results


def finish(
    state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss
) -> tuple[float, ...]:
    """Strip the checkpoints and score the best one from its file, with plots."""
    folder = plan.save_dir / "weights"
    results = (0.0,) * 7
    for file in (folder / "last.pt", folder / "best.pt"):
        if file.exists():
            strip_optimizer(file)
    best = folder / "best.pt" if (folder / "best.pt").exists() else folder / "last.pt"
    if best.exists():
        LOGGER.info(f"\nValidating {best}...")
        results, _, _ = val.run(
            data, weights=best, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, device=plan.device,
            single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, verbose=True,
            plots=not plan.opt.noplots, compute_loss=compute_loss,
        )  # fmt: skip
    if not plan.opt.noplots:
        plot_results(plan.save_dir / "results.csv")
    return results


def train(opt: argparse.Namespace, device: torch.device, callbacks: Callbacks) -> tuple[float, ...]:
    """Run a training from set-up to final validation.

    Args:
        opt: options, see `parse_opt`, with `save_dir`.
        device: where to train.
        callbacks: receives the events of `utils.callbacks.EVENTS`.

    Returns:
        P, R, mAP50, mAP50-95, and the validation losses box, objectness, class of the best checkpoint.
    """
    save_dir = Path(opt.save_dir)
    (save_dir / "weights").mkdir(parents=True, exist_ok=True)
    init_seeds(opt.seed)
    data = check_dataset(opt.data)
    callbacks.run("on_pretrain_routine_start")
    state, plan, train_loader, val_loader = prepare(opt, data, device, callbacks)
    loggers = Loggers(save_dir)
    loggers.register(callbacks)
    if opt.resume:
        loggers.truncate(state.epoch)
    if not opt.noplots:
        callbacks.register("on_train_batch_end", draw_first_batches(save_dir, state.model.names))
    compute_loss = ComputeLoss(state.model)
    if state.epoch >= opt.epochs:
        raise ValueError(f"{opt.weights}: already trained for {state.epoch} epochs; raise --epochs above that to go on")

    start, first = time.time(), state.epoch
    LOGGER.info(
        f"Image sizes {plan.imgsz} train, {plan.imgsz} val\nUsing {train_loader.num_workers} dataloader workers\n"
        f"Logging results to {colorstr('bold', str(save_dir))}\nStarting training for {opt.epochs - first} epochs..."
    )
    callbacks.run("on_train_start")
    stop = False
    while state.epoch < opt.epochs and not stop:
        callbacks.run("on_train_epoch_start")
        losses = train_one_epoch(state, plan, train_loader, compute_loss, callbacks)
        rates = [group["lr"] for group in state.optimizer.param_groups]
        state.ema.update_attr(state.model, include=("yaml", "names", "hyp"))
        callbacks.run("on_train_epoch_end", epoch=state.epoch)

        final = state.epoch + 1 == opt.epochs or state.stopper.possible_stop
        results, score = (0.0,) * 7, 0.0
        if final or not opt.noval:
            results = evaluate(state, plan, data, val_loader, compute_loss)
            score = float(fitness(np.array(results[:4])[None])[0])
            stop = state.stopper(state.epoch, score)
        stop = stop or callbacks.stop_training
        improved = score >= state.best_fitness and (final or not opt.noval)
        state.best_fitness = max(score, state.best_fitness)
        vals = [*losses.tolist(), *results, *rates]
        callbacks.run("on_fit_epoch_end", vals=vals, epoch=state.epoch, best_fitness=state.best_fitness, fi=score)
        if not opt.nosave or final or stop:
            save(state, plan, improved)
            callbacks.run(
                "on_model_save", last=save_dir / "weights/last.pt", epoch=state.epoch, final_epoch=final,
                best_fitness=state.best_fitness, fi=score,
            )  # fmt: skip
        state.epoch += 1
    LOGGER.info(f"\n{state.epoch - first} epochs completed in {(time.time() - start) / 3600:.3f} hours.")
    results = finish(state, plan, data, val_loader, compute_loss)
    weights = save_dir / "weights"
    callbacks.run(
        "on_train_end", last=weights / "last.pt", best=weights / "best.pt", epoch=state.epoch - 1, results=results
    )
    LOGGER.info(f"Results, weights and pictures are in {colorstr('bold', str(save_dir))}")
    return results


def parse_opt(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options; `given` lists those that were named."""
    parser = argparse.ArgumentParser(
        description="Train a detector.", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", default="", help="checkpoint to start from; '' trains from scratch")
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
    add("--cache", action="store_true", help="keep resized images in memory")
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
    add("--label-smoothing", type=float, default=0.0, help="share of the class target that is spread, 0 to 1")
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
        FileNotFoundError: there is no run to resume.
    """
    last = get_latest_run() if opt.resume is True else check_file(opt.resume, (".pt",))
    if last is None:
        raise FileNotFoundError("--resume: no weights/last.pt below this folder; name one with --resume PATH")
    last = Path(last).resolve()
    file = last.parent.parent / "opt.yaml"
    stored = yaml_load(file) if file.exists() else dict(load_checkpoint(last)["opt"])
    ignored = [key for key in opt.given if key not in (*MAY_CHANGE_ON_RESUME, "resume")]
    if ignored:
        LOGGER.warning(
            f"--resume ignores {', '.join('--' + key.replace('_', '-') for key in ignored)}: taken from {file}"
        )
    changed = {key: getattr(opt, key) for key in MAY_CHANGE_ON_RESUME if key in opt.given}
    merged = {**vars(opt), **{k: v for k, v in stored.items() if k in vars(opt)}, **changed}
    merged |= {"cfg": "", "weights": str(last), "resume": True, "save_dir": str(last.parent.parent), "given": opt.given}
    return argparse.Namespace(**merged)


def check_options(opt: argparse.Namespace) -> None:
    """Refuse option values that cannot work.

    Raises:
        ValueError: naming the option.
    """
    for name, least in (("epochs", 1), ("batch_size", 1), ("imgsz", 1), ("workers", 0), ("patience", 0)):
        if getattr(opt, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(opt, name)}, but must be at least {least}")
    if not 0 <= opt.label_smoothing < 1:
        raise ValueError(f"--label-smoothing is {opt.label_smoothing}, but must be at least 0 and below 1")
    if opt.cfg:
        opt.cfg = str(check_file(opt.cfg, (".yaml", ".yml")))
    if opt.weights and not Path(opt.weights).exists():
        raise FileNotFoundError(f"--weights {opt.weights}: no such file; train from scratch with --weights ''")


def main(opt: argparse.Namespace, callbacks: Callbacks | None = None) -> tuple[float, ...]:
    """Train with the given options; returns what `train` returns."""
    if opt.resume:
        opt = resume_options(opt)
    else:
        check_options(opt)
        name = Path(opt.cfg).stem if opt.name == "cfg" else opt.name
        opt.save_dir = str(increment_path(Path(opt.project) / name, exist_ok=opt.exist_ok, mkdir=True))
    log_options("train", {key: value for key, value in vars(opt).items() if key != "given"})
    if "," in str(opt.device):
        raise ValueError(f"--device {opt.device}: training runs on one device; name one of them")
    device = select_device(opt.device, opt.batch_size)
    del opt.given
    return train(opt, device, callbacks or Callbacks())


def run(**options: Any) -> tuple[float, ...]:
    """Train from Python: `run(data="data/demo.yaml", imgsz=320, epochs=5)`; options as on the command line.

    Raises:
        ValueError: an option that does not exist.
    """
    opt = parse_opt([])
    for key, value in options.items():
        if key not in vars(opt):
            raise ValueError(f"unknown option {key!r}; allowed: {', '.join(vars(opt))}")
        setattr(opt, key, value)
    opt.given = list(options)
    return main(opt)


if __name__ == "__main__":
    with cli_errors():
        main(parse_opt(sys.argv[1:]))
