"""The state of a training run: built from the options, restored from a checkpoint, and saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from engine.doctor.checks import report_start
from engine.training.anchors import fit_anchors, has_placeholder_anchors
from engine.training.channels import build_detector
from engine.training.class_weights import class_loss_weights
from engine.training.distillation import Distillation, load_teacher
from engine.training.metric import class_of, learned_names
from engine.training.more_epochs import is_finished, settle_epochs
from engine.training.random_state import rng_state, set_rng_state, set_torch_rng_state
from engine.validation.frames import as_detect
from models.image_size import choose_size, input_stride, square_or_both
from models.weights.checkpoint import load_checkpoint, refuse_foreign_resume, save_checkpoint
from models.weights.imagenet import PUBLISHED, Published, load_published, read_published
from models.weights.transfer import Transfer, transfer_weights
from models.weights.twin import start_as_identity_
from models.yolo import DetectionModel
from utils.autobatch import autobatch
from utils.callbacks import Callbacks
from utils.console import LOGGER, colorstr
from utils.dataloaders import LoadImagesAndLabels, create_dataloader
from utils.datasets.dataset import check_dataset
from utils.datasets.tiles import tile_sides
from utils.distributed import gather, is_main, main_first, rank, world_size
from utils.files import yaml_load
from utils.hyp import Hyp
from utils.optim import (
    average_schedule,
    build_optimizer,
    describe_optimizer,
    planned_steps,
    same_warmup,
    scaled_decay,
    warmup_iterations,
)
from utils.options.check import Added
from utils.options.table import as_dict
from utils.options.train import HYP_OF_CONV, HYP_OF_SWIN, TrainOptions
from utils.paths import check_file, git_describe
from utils.plots import plot_labels
from utils.text import printable
from utils.torch_utils import EarlyStopping, ModelEMA, load_state

KEPT_OPTIONS = (  # on which the optimizer, the order of the images, the network or best.pt depend
    "batch_size", "classes", "distill_from", "freeze", "freeze_bn", "image_weights", "imgsz", "metric", "optimizer",
    "overlap", "quad", "rect", "seed", "single_cls", "slice", "window",
)  # fmt: skip
SWIN_MODULES = {"C3SwinV2", "SwinV2Stage"}
FEW_IMAGES, HYP_OF_FEW = 1000, "data/hyps/hyp.muon-small.yaml"
AMP_TYPES = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """What a run reads before it makes its folder.

    Attributes:
        options: in effect, with the files of model and hyperparameters that were chosen.
        data: from `check_dataset`.
        ckpt: from `load_checkpoint`, or None to train from scratch or from published weights.
        cfg: path of the model YAML, or the table of the checkpoint.
        hyp: hyperparameters as read.
        published: ImageNet weights for the backbone, or None.
    """

    options: TrainOptions
    data: dict[str, Any]
    ckpt: dict[str, Any] | None
    cfg: str | dict[str, Any]
    hyp: Hyp
    published: Published | None = None


@dataclass
class State:
    """Everything that changes during a run and that a checkpoint restores.

    Attributes:
        net: what the batches go through, the model or its wrapper for several processes.
        distillation: what a teacher adds to the loss; None without --teacher.
        epoch: the one that runs, or the next one.
        iteration: number of the next batch, counted from the start of the run. last_step: that of the last optimizer
            step.
        best_fitness: highest so far. best_saved: whether best.pt was written by this run.
        maps: mAP50-95 of each class (nc,) at the last validation, None before.
        rollbacks: how often the run went back to an earlier epoch; each one halves the learning rate.
        batch: batches of `epoch` that are done. losses: their mean box, objectness and class loss, (3,), and with a
            teacher that of its term, (4,).
        saved: what last.pt holds, with the tensors of this state; None before this run wrote it.
    """

    model: DetectionModel
    net: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stopper: EarlyStopping
    distillation: Distillation | None
    epoch: int = 0
    iteration: int = 0
    last_step: int = -1
    best_fitness: float = 0.0
    best_saved: bool = False
    maps: np.ndarray | None = None
    rollbacks: int = 0
    batch: int = 0
    losses: torch.Tensor = field(default_factory=lambda: torch.zeros(3))
    saved: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """What stays fixed during a run.

    Attributes:
        options: in effect. hyp: hyperparameters, loss gains fitted to this run. device, amp: where, in which type.
        imgsz: image size, a side, or height and width. stride: the largest. batches: per epoch. warmup: iterations.
        data: fingerprints of the datasets `train` and `val`. frozen: modules that stay in evaluation mode.
        save_dir: run folder. git: state of the repository. converted: record of the conversion that it started from.
    """

    options: TrainOptions
    hyp: Hyp
    device: torch.device
    amp: torch.dtype | None
    imgsz: int | tuple[int, int]
    stride: int
    batches: int
    warmup: int
    data: dict[str, dict[str, int | str]]
    frozen: list[nn.Module]
    save_dir: Path
    git: str | None
    converted: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Return the options and the run folder as opt.yaml and checkpoints hold them."""
        return as_dict(self.options) | {"save_dir": str(self.save_dir)}


def read_inputs(options: TrainOptions) -> Inputs:
    """Read dataset, checkpoint, model table and hyperparameters; nothing is written but a drawn demo dataset.

    Raises:
        ValueError, FileNotFoundError: a file is missing or cannot be used.
    """
    data = check_dataset(options.data, needed=("train", "val"), classes=options.classes)
    class_of(options.metric, learned_names(options.single_cls, data["names"]))  # typos are told before long work
    published = read_published(options.weights) if options.weights and not options.resume else None
    ckpt = load_checkpoint(options.weights) if options.weights and not published else None
    if options.resume and ckpt is not None:
        refuse_foreign_resume(ckpt, options.weights)
        options = settle_epochs(options, ckpt)
        check_resumable(ckpt, options, data)
    elif isinstance(options.epochs, Added):
        raise ValueError(f"--epochs +{options.epochs} adds to the epochs of a run: name it with --resume")
    cfg = options.cfg
    if published and not cfg:
        if options.weights not in PUBLISHED:
            raise ValueError(
                f"--weights {options.weights}: pass the model too, such as --cfg models/yolov5-swinv2t.yaml"
            )
        cfg = str(check_file(PUBLISHED[options.weights], (".yaml", ".yml")))
    table = yaml_load(cfg) if cfg else ckpt["yaml"]
    file = options.hyp if options.resume else choose_hyp(options.hyp, table)
    return Inputs(replace(options, cfg=cfg, hyp=file), data, ckpt, cfg or table, Hyp.load(file), published)


def check_resumable(ckpt: dict[str, Any], options: TrainOptions, data: dict[str, Any]) -> None:
    """Reject resuming a run whose classes, epochs or options differ from those trained with so far.

    Raises:
        ValueError: saying which.
    """
    nc = 1 if options.single_cls else data["nc"]
    if ckpt["yaml"]["nc"] != nc:
        raise ValueError(f"{options.data}: {nc} classes, but the resumed run has {ckpt['yaml']['nc']}")
    if not options.single_cls:
        refuse_moved_names(data["names"], ckpt["names"], options.data)
    done, begun = ckpt["epoch"] + 1, ckpt["progress"] is not None
    if options.epochs < done + begun:
        raise ValueError(
            f"--epochs {options.epochs}: the resumed run has finished {done} epochs"
            f"{' and begun the next' * begun}; give at least {done + begun}"
        )
    for key in KEPT_OPTIONS:
        now, before = getattr(options, key), ckpt["opt"].get(key, getattr(options, key))
        if now != before:
            file = Path(options.weights).parents[1] / "opt.yaml"
            raise ValueError(
                f"{file}: {key} is {now}, but the run was trained with {before} so far. "
                f"Restore that value, or start a new run with --weights {options.weights}"
            )


def refuse_moved_names(names: Mapping[int, str], before: Mapping[int, str], file: str) -> None:
    """Raise ValueError if a class has a different index than before; a renamed class is only warned about."""
    numbers = {name: number for number, name in before.items()}
    for number, name in names.items():
        if name in numbers and before.get(number) != name:
            raise ValueError(
                f"{file}: the class {printable(name)} has index {number}, but {numbers[name]} in the "
                "resumed run: list the names in the order of that run"
            )
    renamed = [n for n, name in names.items() if n in before and before[n] != name]
    if renamed:
        pairs = ", ".join(f"{n}: {printable(before[n])} is now {printable(names[n])}" for n in renamed[:10])
        LOGGER.warning(f"{file}: {len(renamed)} classes were renamed: {pairs}")


def refuse_other_hyp(fitted: Hyp, ckpt: dict[str, Any], file: str) -> None:
    """Raise ValueError if the hyperparameters of a resumed run are not those that it was trained with so far."""
    now, before = fitted.to_dict(), ckpt["hyp"] or {}
    keys = [key for key in {**before, **now} if now.get(key) != before.get(key)]
    if keys:
        raise ValueError(
            f"{file}: changed since the run was stopped: {', '.join(keys)}. Restore the values, or start a new run "
            "with --weights and --hyp"
        )


def choose_hyp(file: str, table: dict[str, Any]) -> str:
    """Return the file of the hyperparameters: the given one or, for "", what suits the backbone of the table."""
    rows = table.get("backbone")
    rows = rows if isinstance(rows, list) else []  # the model says what is wrong with it
    modules = {str(row[2]) for row in rows if isinstance(row, list) and len(row) == 4}
    return str(check_file(file or (HYP_OF_SWIN if modules & SWIN_MODULES else HYP_OF_CONV), (".yaml", ".yml")))


def build_model(inputs: Inputs, save_dir: Path) -> DetectionModel:
    """Build the model for the classes of the dataset and copy the weights of the checkpoint that fit.

    What was copied is written into transfer.csv in `save_dir`.
    """
    options, hyp, data, ckpt = inputs.options, inputs.hyp, inputs.data, inputs.ckpt
    nc = 1 if options.single_cls else data["nc"]
    model = build_detector(inputs.cfg, data, nc, hyp.anchors, options.weights, bool(options.resume))
    if ckpt:
        new_anchors = (isinstance(inputs.cfg, str) or hyp.anchors) and not options.resume
        report = transfer_weights(model, ckpt, exclude=("anchor",) if new_anchors else ())
        report.log(options.weights)
        if not options.resume:
            start_fresh_stages_(model, report)
            if is_main():
                report.write(save_dir / "transfer.csv")
    if inputs.published:
        load_published(model, inputs.published)
    model.names = learned_names(options.single_cls, data["names"])
    if hyp.drop_path is not None:
        model.set_drop_path(hyp.drop_path)
    if options.window:
        model.set_window(options.window[0] if len(options.window) == 1 else options.window)
    if options.checkpoint_stages:
        model.set_activation_checkpointing(options.checkpoint_stages)
    if options.activation_checkpointing and not model.set_activation_checkpointing(True):
        LOGGER.warning("--activation-checkpointing has no effect: the model has no Swin stage")
    return model


def start_fresh_stages_(model: DetectionModel, report: Transfer) -> None:
    """Start Swin stages as the identity where the layers around them were copied: noise would spoil what these do."""
    copied = {name.split(".")[1] for name in report.taken if name.endswith(".cv3.conv.weight")}
    fresh = {name.split(".")[1] for name in report.missing if ".m.blocks." in name}
    for layer in copied & fresh:
        start_as_identity_(model.model[int(layer)])


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


def freeze_layers(model: DetectionModel, freeze: Sequence[int | str]) -> list[nn.Module]:
    """Freeze some layers.

    Args:
        model: changed in place.
        freeze: one number n for layers 0 to n - 1, several numbers for exactly those layers, or `backbone` for those
            in that section of the model YAML.

    Returns:
        The frozen layers; keep them in evaluation mode so that their batch statistics do not change either.

    Raises:
        ValueError: a number is not a layer of the model, or `backbone` is combined with others.
    """
    if "backbone" in freeze:
        if len(freeze) > 1:
            raise ValueError(f"--freeze {' '.join(map(str, freeze))}: pass either backbone or layer indices")
        freeze = [len(model.yaml["backbone"])]
    numbers = [int(number) for number in freeze]
    rows = range(numbers[0]) if len(numbers) == 1 else numbers
    if min(numbers) < 0 or max(numbers) > len(model.model) - (len(freeze) > 1):
        raise ValueError(f"--freeze {' '.join(map(str, freeze))}: the model has layers 0 to {len(model.model) - 1}")
    frozen = [model.model[i] for i in rows]
    for row in frozen:
        row.requires_grad_(False)
    if frozen:
        LOGGER.info(f"Frozen layers: {', '.join(map(str, rows))}")
    return frozen


def make_loaders(
    inputs: Inputs, imgsz: int | tuple[int, int], stride: int, device: torch.device
) -> tuple[DataLoader, LoadImagesAndLabels, DataLoader]:
    """Return the training loader, its dataset, and the validation loader."""
    options, data = inputs.options, inputs.data
    tile = tile_sides(options.slice)
    rect = isinstance(imgsz, int) and not tile  # in validation, as val.py does
    common = {
        "hyp": inputs.hyp, "single_cls": options.single_cls, "nc": data["nc"], "names": data["names"],
        "seed": options.seed, "workers": options.workers, "pin_memory": device.type == "cuda",
        "cache_dir": options.cache_dir or None,
    }  # fmt: skip
    cache = (None, "ram") if options.cache == "val" else (options.cache, options.cache)  # of training and validation
    with main_first():  # it writes the label caches
        train_loader, dataset = create_dataloader(
            data["train"], imgsz, options.batch_size, stride, augment=True, rect=options.rect, shuffle=not options.rect,
            prefix=colorstr("train: "), quad=options.quad, rank=rank(), world_size=world_size(),
            cache=cache[0], tile=tile, overlap=options.overlap, **common,
        )  # fmt: skip
        val_loader, whole = create_dataloader(
            data["val"], imgsz, options.batch_size * 2, stride, prefix=colorstr("val: "), rect=rect, pad=0.5 * rect,
            cache=None if tile else cache[1], **common,
        )  # fmt: skip
    if tile:  # which reads the images itself, in full size
        val_loader = as_detect(val_loader, whole, stride, options.batch_size * 2, tile, options.overlap)
    count = len(dataset.found.im_files)
    if count < FEW_IMAGES and options.hyp.endswith(HYP_OF_CONV):
        LOGGER.info(f"{count} training images are few for {HYP_OF_CONV}: --hyp {HYP_OF_FEW} may learn them better")
    return train_loader, dataset, val_loader


def fit_hyp(inputs: Inputs, hyp: Hyp, model: DetectionModel, labels: np.ndarray, imgsz: int | tuple[int, int]) -> Hyp:
    """Return hyperparameters as the loss takes them: fitted to the model and to the training labels (M, 5)."""
    options, before = inputs.options, inputs.ckpt["hyp"] if inputs.ckpt and inputs.options.resume else None
    smoothing = hyp.label_smoothing if options.label_smoothing is None else options.label_smoothing
    fitted = hyp.scaled(model.detect.nl, model.nc, imgsz, smoothing)
    return replace(fitted, cls_weights=class_loss_weights(hyp, model.names, labels, options.hyp, before))


def prepare(
    inputs: Inputs, device: torch.device, save_dir: Path, callbacks: Callbacks
) -> tuple[State, Plan, DataLoader, DataLoader]:
    """Build everything a run needs, in the order in which the parts depend on each other."""
    options, hyp = inputs.options, inputs.hyp
    if options.close_mosaic is not None:
        hyp = replace(hyp, close_mosaic=options.close_mosaic)
    model = build_model(inputs, save_dir).to(device, memory_format=torch.channels_last)
    taught = load_teacher(options, model, save_dir, inputs.ckpt if options.resume else None)
    keep_anchors = options.noautoanchor or (taught is not None and options.distill_from != "maps")
    if keep_anchors and has_placeholder_anchors(model):
        option = "--noautoanchor" if options.noautoanchor else f"--teacher {options.teacher}"
        raise ValueError(f"{option}: the model has only placeholders for anchors; remove the option")
    frozen = freeze_layers(model, options.freeze)
    if options.freeze_bn:
        frozen += [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    stride = input_stride(model.stride)
    imgsz = square_or_both(choose_size(options.imgsz, stride, floor=2 * stride))
    if options.batch_size == -1:
        batch_size = autobatch(model.train(), imgsz, amp=choose_amp(options.amp, device))
        options = replace(options, batch_size=batch_size)
        inputs = replace(inputs, options=options)
    train_loader, dataset, val_loader = make_loaders(inputs, imgsz, stride, device)
    if not keep_anchors and not options.resume:
        fit_anchors(model, dataset, hyp, imgsz, options.seed)
    loaders = {"train": train_loader, "val": val_loader}
    report_start(options, inputs.data, loaders, model, imgsz, hyp.anchor_t)
    labels = np.concatenate(dataset.labels)
    if not options.noplots and not options.resume and is_main():
        plot_labels(labels, model.names, save_dir)
    callbacks.run("on_pretrain_routine_end", labels=labels, names=model.names)

    batches = len(train_loader)
    if hyp.close_mosaic and dataset.mosaic:
        dataset.close_at = max(options.epochs - hyp.close_mosaic, 0)
    decay = scaled_decay(hyp.weight_decay, options.batch_size, hyp.nominal_batch)
    name = options.optimizer or hyp.optimizer or "SGD"
    optimizer = build_optimizer(model, name, hyp.lr0, hyp.momentum, decay, hyp.beta2, sharded=options.shard_optimizer)
    LOGGER.info(describe_optimizer(name, optimizer))
    amp = choose_amp(options.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    fitted = fit_hyp(inputs, hyp, model, labels, imgsz)
    model.hyp = fitted.to_dict()
    steps = planned_steps(options.epochs, batches, options.batch_size, hyp.nominal_batch)
    ema = ModelEMA(model, *average_schedule(hyp.ema_decay, hyp.ema_tau, steps))  # before the teacher, which watches it
    LOGGER.info(f"average of the weights: decay {ema.limit:.4g}, tau {ema.tau:g} of about {steps} steps")
    distillation = None
    if taught:
        teacher = taught[0].to(device).to(memory_format=torch.channels_last)
        distillation = Distillation(teacher, model, taught[1], options.distill_from, fitted, amp)
    state = State(model, model, ema, optimizer, scaler, EarlyStopping(options.patience), distillation)
    warmup = warmup_iterations(hyp.warmup_epochs, batches, hyp.warmup_min)
    prints = {"train": dataset.fingerprint(), "val": val_loader.dataset.fingerprint()}
    record = inputs.ckpt and inputs.ckpt["converted"]
    git = git_describe()
    plan = Plan(options, fitted, device, amp, imgsz, stride, batches, warmup, prints, frozen, save_dir, git, record)
    if options.resume:
        refuse_other_hyp(fitted, inputs.ckpt, options.hyp)
        restore(state, plan, inputs.ckpt)
    if options.sync_bn:
        state.model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if world_size() > 1:
        state.net = DistributedDataParallel(state.model, [device.index] if device.type == "cuda" else None)
    return state, plan, train_loader, val_loader


def restore(state: State, plan: Plan, ckpt: dict[str, Any]) -> None:
    """Restore a state from a checkpoint, then adapt it to data that have changed since.

    Raises:
        ValueError: the checkpoint does not fit the model and the optimizer.
    """
    try:
        _restore(state, ckpt)
        fit_to_data(state, plan, ckpt)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ValueError(
            f"{plan.save_dir / 'weights'}: the training state in this checkpoint is damaged or belongs to another "
            f"model: {reason}"
        ) from e
    scored = ckpt["stopper"]["best_fitness"] >= 0  # an epoch, or the start
    state.best_saved &= ckpt["epoch"] >= 0 or bool(ckpt["progress"]) or scored
    state.best_saved &= (plan.save_dir / "weights/best.pt").is_file()


def _restore(state: State, ckpt: dict[str, Any]) -> None:
    """Restore a state and all random number generators from a checkpoint."""
    load_state(state.model, ckpt["model"])
    load_state(state.ema.ema, ckpt["ema"])
    state.ema.updates = ckpt["updates"]
    state.optimizer.load_state_dict(ckpt["optimizer"])
    if ckpt["scaler"] and state.scaler.is_enabled():  # empty when the run had no scaler
        state.scaler.load_state_dict(ckpt["scaler"])
    anew = ckpt["epoch"] if is_finished(ckpt) else None  # more epochs are asked for
    state.stopper.load_state_dict(ckpt["stopper"], anew)
    state.epoch = ckpt["epoch"] + 1
    state.last_step = ckpt["last_step"]
    state.best_fitness = ckpt["best_fitness"]
    state.maps = None if ckpt["maps"] is None else np.array(ckpt["maps"])
    state.best_saved, state.batch = True, 0
    state.rollbacks = ckpt["opt"].get("rollbacks", 0)
    if state.distillation:
        state.distillation.load_state_dict(ckpt["teacher"])
    set_rng_state(ckpt["rng"])
    if ckpt["progress"]:
        scale = ckpt["scaler"]["scale"] if ckpt["scaler"] else 1.0
        restore_progress(state, ckpt["progress"], state.scaler.get_scale() / scale)


def fit_to_data(state: State, plan: Plan, ckpt: dict[str, Any]) -> None:
    """Adapt a state to what a resumed run may have changed: images and labels, batches per epoch, epochs.

    Nothing changes where these did not. An epoch in the middle begins again with other training images, and so does the
    search for the best epoch with other validation images. Iterations keep their distance to the last optimizer step
    and their place in the warmup, which may be shorter or longer now.
    """
    begun, before = ckpt["progress"], ckpt["data"] or {}
    changed = {split: before[split] for split in before if before[split] != plan.data[split]}
    for split, old in changed.items():
        LOGGER.warning(
            f"{plan.options.data}: the images or labels of {split!r} have changed since epoch "
            f"{ckpt['epoch']}: {plan.data[split]['images']} images now, {old['images']} then, or other files or labels"
        )
    if begun and ("train" in changed or begun["batches"] != plan.batches):
        LOGGER.warning(
            f"epoch {state.epoch} was interrupted after {state.batch} batches of the previous data: it restarts"
        )
        state.batch = 0
    if "val" in changed:
        LOGGER.warning("the previous fitness is not comparable: best.pt is chosen among the epochs from now on")
        state.best_fitness, state.stopper = 0.0, EarlyStopping(plan.options.patience)

    if ckpt["iteration"] is None:  # of an older program, which counted in batches of its own
        done = (ckpt["epoch"] + 1) * (begun["batches"] if begun else plan.batches) + (begun["batch"] if begun else 0)
        state.iteration = max(done, ckpt["last_step"] + 1)
    else:
        state.iteration = same_warmup(ckpt["iteration"], ckpt["warmup"], plan.warmup)
        state.last_step = ckpt["last_step"] + state.iteration - ckpt["iteration"]


def progress_of(state: State, plan: Plan) -> dict[str, Any]:
    """Return what a run needs to go on after batch `state.batch`; call it in every process."""
    return {
        "batch": state.batch,
        "batches": plan.batches,
        "losses": state.losses.cpu(),
        "grads": {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None},
        "rng": gather({key: value for key, value in rng_state().items() if key in ("torch", "cuda")}),
        "best_saved": state.best_saved,
    }


def restore_progress(state: State, progress: dict[str, Any], scale: float) -> None:
    """Restore a state in the middle of an epoch: batches done, gradients not stepped yet, random states.

    Args:
        state: changed in place.
        progress: from `progress_of`.
        scale: that of the gradients now, divided by that at the time; other than 1 if --amp or the device has changed.
    """
    state.batch, state.best_saved = progress["batch"], progress["best_saved"]
    parameters = dict(state.model.named_parameters())
    state.losses = progress["losses"].to(next(iter(parameters.values())).device)
    for name, grad in progress["grads"].items():
        grad = grad.to(parameters[name].device)  # keeps its strides, on which sums depend
        parameters[name].grad = grad if scale == 1 else grad * scale
    rngs = progress["rng"]
    if world_size() == len(rngs):
        set_torch_rng_state(rngs[rank()])
    else:  # differs from an uninterrupted run, but not the same in all processes
        torch.manual_seed(hash((state.epoch, state.batch, rank())))


def to_checkpoint(state: State, plan: Plan, progress: dict[str, Any] | None = None) -> dict[str, Any]:
    """Collect what `restore` and a later user of the weights need; `progress` if the epoch is not finished."""
    model = state.model
    return {
        "epoch": state.epoch - 1 if progress else state.epoch,
        "progress": progress,
        "best_fitness": state.best_fitness,
        "model": model.state_dict(),
        "ema": state.ema.ema.state_dict(),
        "updates": state.ema.updates,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "stopper": state.stopper.state_dict(),
        "iteration": state.iteration,
        "warmup": plan.warmup,
        "last_step": state.last_step,
        "maps": None if state.maps is None else state.maps.tolist(),
        "rng": rng_state(),
        "data": plan.data,
        "yaml": model.yaml,
        "names": dict(model.names),
        "stride": model.stride.tolist(),
        "hyp": plan.hyp.to_dict(),
        "teacher": state.distillation.state_dict() if state.distillation else None,
        "opt": plan.record() | {"rollbacks": state.rollbacks},
        "converted": plan.converted,
        "git": plan.git,
    }


def save(state: State, plan: Plan, improved: bool) -> None:
    """Write best.pt and epoch<N>.pt when it is their turn, and last.pt; call it in every process, the first one writes.

    last.pt comes at the end: a run that is killed between the files repeats the epoch and writes all of them.
    """
    folder = plan.save_dir / "weights"
    if plan.options.shard_optimizer:
        state.optimizer.consolidate_state_dict(to=0)
    if not is_main():
        return
    ckpt = to_checkpoint(state, plan)
    if improved or not state.best_saved:
        save_checkpoint(folder / "best.pt", ckpt)
        state.best_saved = True
    if plan.options.save_period > 0 and state.epoch % plan.options.save_period == 0:
        save_checkpoint(folder / f"epoch{state.epoch}.pt", ckpt)
    save_checkpoint(folder / "last.pt", ckpt)
    state.saved = ckpt


def save_progress(state: State, plan: Plan) -> None:
    """Write last.pt in the middle of an epoch; call it in every process, the first one writes."""
    if plan.options.shard_optimizer:
        state.optimizer.consolidate_state_dict(to=0)
    progress = progress_of(state, plan)
    if is_main():
        save_checkpoint(plan.save_dir / "weights/last.pt", to_checkpoint(state, plan, progress))
