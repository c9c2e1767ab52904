"""Train a detector on a custom dataset.

    python train.py --data data/demo.yaml --cfg models/yolov5n-swinv2.yaml --img 320    # from scratch
    python train.py --data my.yaml --weights runs/train/exp/weights/best.pt             # from a checkpoint
    python train.py --resume                                                            # go on with the last run

A run folder (runs/train/exp, exp2, ...) gets weights/last.pt and weights/best.pt, results.csv and results.png, hyp.yaml and opt.yaml,
pictures of labels, batches and predictions, and TensorBoard events.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import val
from models.checkpoint import load_checkpoint, save_checkpoint, strip_optimizer, transfer_weights
from models.common import SwinV2Block
from models.yolo import DetectionModel
from utils.autoanchor import check_anchors
from utils.callbacks import Callbacks
from utils.dataloaders import create_dataloader
from utils.general import (
    LOGGER,
    ROOT,
    TQDM_BAR_FORMAT,
    VERSION,
    check_file,
    check_img_size,
    cli_errors,
    colorstr,
    get_latest_run,
    git_describe,
    increment_path,
    log_options,
    yaml_load,
    yaml_save,
)
from utils.hyp import Hyp
from utils.labels import check_dataset
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.metrics import fitness
from utils.optim import accumulate_at, build_optimizer, scaled_decay, set_schedule_, warmup_iterations
from utils.plots import plot_images, plot_labels, plot_results
from utils.torch_utils import (
    EarlyStopping,
    ModelEMA,
    amp_context,
    init_seeds,
    rng_state,
    select_device,
    set_rng_state,
)

DEFAULT_CFG = "models/yolov5s-swinv2.yaml"
HYP_OF_SWIN, HYP_OF_CONV = "data/hyps/hyp.swinv2.yaml", "data/hyps/hyp.scratch-low.yaml"
AMP_TYPES = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}
MAY_CHANGE_ON_RESUME = ("data", "device", "epochs", "patience", "workers")
TRAIN_BATCHES_DRAWN = 3


@dataclass
class State:
    """Everything that changes while a run goes on, and that a checkpoint brings back."""

    model: DetectionModel
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stopper: EarlyStopping
    epoch: int = 0
    last_step: int = -1  # iteration of the last optimizer step
    best_fitness: float = 0.0
    frozen: list[nn.Module] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What stays fixed during a run.

    Attributes:
        opt: options in effect. hyp: hyperparameters with loss gains fitted to this run. device, amp: where and in which type.
        imgsz: pixels. batches: per epoch. warmup: iterations. save_dir: run folder.
    """

    opt: argparse.Namespace
    hyp: Hyp
    device: torch.device
    amp: torch.dtype | None
    imgsz: int
    batches: int
    warmup: int
    save_dir: Path


def build_model(opt: argparse.Namespace, data: dict[str, Any], device: torch.device) -> tuple[DetectionModel, dict | None]:
    """Build the model from --cfg or from the checkpoint in --weights, and copy the weights that fit.

    Returns:
        The model on the device and the checkpoint, if one was given.
    """
    nc = 1 if opt.single_cls else data["nc"]
    if not opt.weights:
        model = DetectionModel(opt.cfg or DEFAULT_CFG, nc=nc)
        ckpt = None
    else:
        ckpt = load_checkpoint(opt.weights)
        model = DetectionModel(opt.cfg or ckpt["yaml"], nc=nc)
        taken, total = transfer_weights(model, ckpt, exclude=("anchor",) if opt.cfg and not opt.resume else ())
        LOGGER.info(f"Transferred {taken}/{total} tensors from {opt.weights}")
    single = opt.single_cls and len(data["names"]) != 1
    model.names = {0: "item"} if single else data["names"]
    return model.to(device, memory_format=torch.channels_last), ckpt


def choose_hyp(opt: argparse.Namespace, model: nn.Module) -> Hyp:
    """Load --hyp, or the file that suits the backbone when none is given."""
    swin = any(isinstance(module, SwinV2Block) for module in model.modules())
    file = check_file(opt.hyp or (HYP_OF_SWIN if swin else HYP_OF_CONV), (".yaml", ".yml"))
    hyp = Hyp.load(file)
    LOGGER.info(f"{colorstr('hyperparameters: ')}{file}: " + ", ".join(f"{k}={v}" for k, v in hyp.to_dict().items()))
    opt.hyp = str(file)
    return hyp


def choose_amp(name: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast type: with `auto` float16 on CUDA and none elsewhere.

    Raises:
        ValueError: float16 without CUDA (gradients would underflow without a scaler).
    """
    if name == "auto":
        name = "fp16" if device.type == "cuda" else "off"
    if name == "fp16" and device.type != "cuda":
        raise ValueError(f"--amp fp16 needs a CUDA device, not {device.type}; use --amp bf16 or --amp off")
    return AMP_TYPES[name]


def freeze_layers(model: DetectionModel, freeze: Sequence[int]) -> list[nn.Module]:
    """Stop the gradients of some rows: one number n freezes rows 0 to n - 1, several numbers exactly those rows.

    Returns:
        The frozen rows; they are to stay in evaluation mode so that their batch statistics do not move either.

    Raises:
        ValueError: a number is not a row of the model.
    """
    rows = range(freeze[0]) if len(freeze) == 1 else freeze
    wrong = [i for i in rows if not 0 <= i < len(model.model)]
    if wrong:
        raise ValueError(f"--freeze {' '.join(map(str, freeze))}: the model has rows 0 to {len(model.model) - 1}")
    frozen = [model.model[i] for i in rows]
    for row in frozen:
        row.requires_grad_(False)
    if frozen:
        LOGGER.info(f"Frozen rows: {', '.join(map(str, rows))}")
    return frozen


@torch.no_grad()
def fit_anchors(model: DetectionModel, dataset: Any, hyp: Hyp, imgsz: int, seed: int) -> None:
    """Replace the anchors of the model, in place, if they fit the boxes of the dataset badly."""
    head = model.detect
    stride = head.stride.view(-1, 1, 1)
    new, message = check_anchors(
        dataset.shapes, dataset.labels, (head.anchors * stride).cpu().numpy(), head.stride.cpu().numpy(), hyp.anchor_t, imgsz, seed
    )
    LOGGER.info(f"{colorstr('AutoAnchor: ')}{message}")
    if new is not None:
        head.anchors.copy_(torch.as_tensor(new, device=head.anchors.device) / stride)


def restore(state: State, ckpt: dict[str, Any], source: str) -> None:
    """Bring a state back to what it was when the checkpoint was written.

    Raises:
        ValueError: the checkpoint belongs to a finished run.
    """
    if ckpt["epoch"] < 0 or ckpt["optimizer"] is None:
        raise ValueError(f"{source}: this run is finished, nothing to resume; start a new one with --weights {source}")
    state.ema.ema.load_state_dict(ckpt["ema"])
    state.ema.updates = ckpt["updates"]
    state.optimizer.load_state_dict(ckpt["optimizer"])
    state.scaler.load_state_dict(ckpt["scaler"])
    state.stopper.load_state_dict(ckpt["stopper"])
    state.epoch = ckpt["epoch"] + 1
    state.last_step = ckpt["last_step"]
    state.best_fitness = ckpt["best_fitness"]


def to_checkpoint(state: State, plan: Plan) -> dict[str, Any]:
    """Collect what `restore` and a later user of the weights need."""
    model = state.model
    return {
        "format": 1,
        "version": VERSION,
        "epoch": state.epoch,
        "best_fitness": state.best_fitness,
        "model": model.state_dict(),
        "ema": state.ema.ema.state_dict(),
        "updates": state.ema.updates,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "stopper": state.stopper.state_dict(),
        "last_step": state.last_step,
        "rng": rng_state(),
        "yaml": model.yaml,
        "names": dict(model.names),
        "stride": model.stride.tolist(),
        "hyp": plan.hyp.to_dict(),
        "opt": {key: str(value) if isinstance(value, Path) else value for key, value in vars(plan.opt).items()},
        "git": git_describe(),
        "date": datetime.now(timezone.utc).isoformat(),
    }


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
        f"the loss is not finite in epoch {epoch}, batch {batch}: box {box:.4g}, objectness {obj:.4g}, class {cls:.4g}, "
        f"learning rate {optimizer.param_groups[1]['lr']:.3g}. The last checkpoint is kept. Try a lower lr0, or --amp off or bf16"
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


def draw_first_batches(save_dir: Path, names: dict[int, str]) -> Any:
    """Return a callback that draws the first training batches."""

    def draw(model: nn.Module, ni: int, imgs: Tensor, targets: Tensor, paths: list[str], losses: Tensor) -> None:
        if ni < TRAIN_BATCHES_DRAWN:
            plot_images(imgs.float().cpu(), targets, paths, save_dir / f"train_batch{ni}.jpg", names)

    return draw


def make_loaders(
    opt: argparse.Namespace, hyp: Hyp, data: dict[str, Any], imgsz: int, stride: int, names: dict[int, str]
) -> tuple[DataLoader, Any, DataLoader]:
    """Return the training loader, its dataset, and the validation loader."""
    common = {"single_cls": opt.single_cls, "nc": data["nc"], "names": data["names"], "seed": opt.seed}
    train_loader, dataset = create_dataloader(
        data["train"], imgsz, opt.batch_size, stride, hyp=hyp, augment=True, rect=opt.rect, workers=opt.workers,
        shuffle=not opt.rect, cache=opt.cache, prefix=colorstr("train: "), **common,
    )  # fmt: skip
    val_loader, _ = create_dataloader(
        data["val"], imgsz, opt.batch_size * 2, stride, hyp=hyp, rect=True, pad=0.5, workers=opt.workers,
        cache=opt.cache, prefix=colorstr("val: "), **common,
    )  # fmt: skip
    if not sum(map(len, dataset.labels)):
        raise ValueError(f"{data['train']}: no usable label in the training set; see the messages above")
    return train_loader, dataset, val_loader


def prepare(
    opt: argparse.Namespace, data: dict[str, Any], device: torch.device, callbacks: Callbacks
) -> tuple[State, Plan, DataLoader, DataLoader]:
    """Build everything a run needs, in the order in which the parts depend on each other."""
    save_dir = Path(opt.save_dir)
    model, ckpt = build_model(opt, data, device)
    stored = yaml_load(save_dir / "hyp.yaml") if opt.resume else None
    hyp = Hyp.from_dict(stored, str(save_dir / "hyp.yaml")) if stored else choose_hyp(opt, model)
    yaml_save(save_dir / "hyp.yaml", hyp.to_dict())
    yaml_save(save_dir / "opt.yaml", {**vars(opt), "hyp": hyp.to_dict()})
    if hyp.drop_path is not None:
        model.set_drop_path(hyp.drop_path)
    model.set_activation_checkpointing(opt.activation_checkpointing)
    frozen = freeze_layers(model, opt.freeze)

    stride = int(max(model.stride.max(), 32))
    imgsz = check_img_size(opt.imgsz, stride, floor=2 * stride)
    train_loader, dataset, val_loader = make_loaders(opt, hyp, data, imgsz, stride, model.names)
    if not opt.noautoanchor and not opt.resume:
        fit_anchors(model, dataset, hyp, imgsz, opt.seed)
    labels = np.concatenate(dataset.labels)
    if not opt.noplots and not opt.resume:
        plot_labels(labels, model.names, save_dir)
    callbacks.run("on_pretrain_routine_end", labels=labels, names=model.names)

    batches = len(train_loader)
    decay = scaled_decay(hyp.weight_decay, opt.batch_size, hyp.nominal_batch)
    name = opt.optimizer or hyp.optimizer or "SGD"
    optimizer = build_optimizer(model, name, hyp.lr0, hyp.momentum, decay, hyp.beta2)
    amp = choose_amp(opt.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    fitted = hyp.scaled(model.detect.nl, model.nc, imgsz, opt.label_smoothing or hyp.label_smoothing)
    model.hyp = fitted.to_dict()
    state = State(model, ModelEMA(model), optimizer, scaler, EarlyStopping(opt.patience), frozen=frozen)
    plan = Plan(opt, fitted, device, amp, imgsz, batches, warmup_iterations(hyp.warmup_epochs, batches, opt.epochs), save_dir)
    if opt.resume:
        restore(state, ckpt, opt.weights)
        set_rng_state(ckpt["rng"])
    return state, plan, train_loader, val_loader


def evaluate(state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss) -> tuple[float, ...]:
    """Score the averaged model; returns P, R, mAP50, mAP50-95 and the three validation losses."""
    results, _, _ = val.run(
        data, batch_size=plan.opt.batch_size * 2, imgsz=plan.imgsz, half=plan.amp is not None, model=state.ema.ema,
        single_cls=plan.opt.single_cls, dataloader=loader, save_dir=plan.save_dir, plots=False, compute_loss=compute_loss,
    )  # fmt: skip
    return results


def save(state: State, plan: Plan, improved: bool) -> None:
    """Write last.pt, and best.pt and epoch<N>.pt when it is their turn."""
    folder = plan.save_dir / "weights"
    ckpt = to_checkpoint(state, plan)
    save_checkpoint(folder / "last.pt", ckpt)
    if improved:
        save_checkpoint(folder / "best.pt", ckpt)
    if plan.opt.save_period > 0 and state.epoch % plan.opt.save_period == 0:
        save_checkpoint(folder / f"epoch{state.epoch}.pt", ckpt)


def finish(state: State, plan: Plan, data: dict[str, Any], loader: DataLoader, compute_loss: ComputeLoss) -> tuple[float, ...]:
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
            stop = state.stopper(state.epoch, score) or callbacks.stop_training
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
    callbacks.run("on_train_end", last=weights / "last.pt", best=weights / "best.pt", epoch=state.epoch - 1, results=results)
    LOGGER.info(f"Results, weights and pictures are in {colorstr('bold', str(save_dir))}")
    return results


def parse_opt(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options; `given` lists those that were named."""
    parser = argparse.ArgumentParser(description="Train a detector.", formatter_class=argparse.RawDescriptionHelpFormatter)
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
    add("--amp", choices=("auto", *AMP_TYPES), default="auto", help="mixed precision; auto: fp16 on CUDA, off elsewhere")
    add("--activation-checkpointing", action="store_true", help="recompute Swin blocks to save memory")
    add("--multi-scale", action="store_true", help="vary the image size by 50 %%")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--optimizer", choices=("SGD", "Adam", "AdamW"), default=None, help="default: the hyperparameter file's, or SGD")
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
        LOGGER.warning(f"--resume ignores {', '.join('--' + key.replace('_', '-') for key in ignored)}: taken from {file}")
    stored.pop("hyp_values", None)
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
    if opt.cfg and not opt.resume:
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
