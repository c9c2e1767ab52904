"""The options of train.py: read, completed from the run that is resumed, and checked."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.pretrained import PUBLISHED
from models.training import AMP_TYPES, DEFAULT_CFG, HYP_OF_CONV, HYP_OF_SWIN
from utils.distributed import launched_processes
from utils.evolve import TUNERS
from utils.files import yaml_load
from utils.general import LOGGER, ROOT, check_file, get_latest_run
from utils.loggers.services import check_services
from utils.torch_utils import parse_device

MAY_CHANGE_ON_RESUME = ("amp", "data", "device", "epochs", "nan_policy", "patience", "workers")
NAN_POLICIES = ("stop", "rollback")
REFUSED = {  # options of YOLOv5 that this program does not have -> what to do instead
    "--bucket": "nothing is copied to a cloud; several machines share a study with --tuner optuna --storage",
    "--entity": "set the variable WANDB_ENTITY, and log with --logger wandb",
    "--upload_dataset": "data sets are not uploaded: use the tools of Weights & Biases",
    "--bbox_interval": "boxes are not logged to Weights & Biases; --logger wandb gets the pictures of the run folder",
    "--artifact_alias": "weights are not fetched from Weights & Biases: give --weights a file",
    "--local_rank": "processes are told apart by torchrun: start with torchrun --nproc-per-node N train.py ...",
}


class Refuse(argparse.Action):
    """An option that is known, but not there: using it ends with a sentence that says what to do instead."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        raise ValueError(f"{option} is not supported: {REFUSED[self.option_strings[0]]}")


def freeze_value(text: str) -> int | str:
    """Read one value of --freeze: a number of rows, or `backbone`."""
    return text if text == "backbone" else int(text)


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
    add("--batch-size", type=int, default=16, help="images per batch of all devices; -1: as many as the GPU takes")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="training and validation size, pixels")
    add("--rect", action="store_true", help="rectangular training batches; no mosaic, no shuffling")
    add("--resume", nargs="?", const=True, default=False, help="go on with the newest run, or with the given last.pt")
    add("--nosave", action="store_true", help="save only the final checkpoint")
    add("--noval", action="store_true", help="validate only the final epoch")
    add("--noautoanchor", action="store_true", help="keep the anchors of the model")
    add("--noplots", action="store_true", help="draw nothing")
    add("--evolve", nargs="?", type=int, const=300, help="evolve the hyperparameters over so many trainings (300)")
    add("--tuner", choices=TUNERS, default="genetic", help="who chooses the hyperparameters of --evolve")
    add("--storage", default="", help="data base of --tuner optuna that processes share, such as sqlite:///study.db")
    add("--evolve_population", default="", help="folder of hyperparameter files: the first generations of --evolve")
    add("--resume_evolve", help="go on with the evolution in this run folder (or its evolve.csv)")
    add(
        "--cache",
        nargs="?",
        const="ram",
        choices=("ram", "disk", "val"),
        help="keep resized images in memory, or on disk; val: those for validation in memory",
    )
    add("--image-weights", action="store_true", help="draw images of rare and badly found classes more often")
    add("--device", default="", help="cpu, mps, 0 (first CUDA device), ...; default: CUDA if there is one")
    add(
        "--amp", choices=("auto", *AMP_TYPES), default="auto", help="mixed precision; auto: fp16 on CUDA, off elsewhere"
    )
    add("--activation-checkpointing", action="store_true", help="recompute Swin blocks to save memory")
    add("--checkpoint-stages", nargs="+", type=int, help="the same for some Swin stages only, 1 for the first")
    add("--window", nargs="+", type=int, help="other windows for the Swin stages: one side for all, or one for each")
    add("--multi-scale", action="store_true", help="vary the image size by 50 %%")
    add("--sync-bn", action="store_true", help="batch statistics over all GPUs, with torchrun")
    add("--shard-optimizer", action="store_true", help="spread the optimizer state over the processes of torchrun")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add(
        "--optimizer", choices=("SGD", "Adam", "AdamW"), default=None, help="default: the hyperparameter file's, or SGD"
    )
    add("--workers", type=int, default=8, help="most processes that load data")
    add("--project", default=str(ROOT / "runs/train"), help="folder of the runs")
    add("--name", default="exp", help="name of this run; cfg: that of the model")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    add("--quad", action="store_true", help="four images in one of twice the sides; --batch-size is a multiple of 4")
    add("--cos-lr", action="store_true", help="cosine instead of linear schedule")
    add("--label-smoothing", type=float, help="share of the class target that is spread; default: hyperparameter file")
    add("--patience", type=int, default=100, help="stop after so many epochs without improvement; 0: never")
    add(
        "--freeze",
        nargs="+",
        type=freeze_value,
        default=[0],
        help="rows to freeze: n for the first n, several indices, or backbone",
    )
    add(
        "--logger",
        nargs="+",
        default=[],
        metavar="SERVICE",
        help="also log to wandb, mlflow or clearml; besides results.csv and TensorBoard",
    )
    add("--save-period", type=int, default=-1, help="also keep epoch<N>.pt every so many epochs")
    add(
        "--nan-policy", choices=NAN_POLICIES, default="stop",
        help="when numbers are not finite or the loss diverges: stop, or go back an epoch with half the learning rate",
    )  # fmt: skip
    add("--seed", type=int, default=0, help="seed of everything random")
    for option in REFUSED:
        add(option, nargs="?", action=Refuse, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
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
    if merged["shard_optimizer"] and launched_processes() == 1:
        LOGGER.info("--resume in one process: the state of the optimizer is no longer spread")
        merged["shard_optimizer"] = False
    return argparse.Namespace(**merged, save_dir=str(folder))


def check_options(opt: argparse.Namespace) -> None:
    """Refuse option values that cannot work, and complete those that were left out.

    Raises:
        ValueError, FileNotFoundError: naming the option.
    """
    for name, least in (("epochs", 1), ("batch_size", 1), ("imgsz", 1), ("workers", 0), ("patience", 0), ("seed", 0)):
        if getattr(opt, name) < least and not (name == "batch_size" and opt.batch_size == -1):
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(opt, name)}, but must be at least {least}")
    if opt.label_smoothing is not None and not 0 <= opt.label_smoothing < 1:
        raise ValueError(f"--label-smoothing is {opt.label_smoothing}, but must be at least 0 and below 1")
    if opt.amp not in ("auto", *AMP_TYPES):
        raise ValueError(f"--amp is {opt.amp!r}; allowed: auto, {', '.join(AMP_TYPES)}")
    if opt.nan_policy not in NAN_POLICIES:
        raise ValueError(f"--nan-policy is {opt.nan_policy!r}; allowed: {', '.join(NAN_POLICIES)}")
    if opt.nan_policy == "rollback" and opt.nosave:
        raise ValueError("--nan-policy rollback goes back to the checkpoint of the last epoch: leave --nosave out")
    opt.freeze = [opt.freeze] if isinstance(opt.freeze, int | str) else list(opt.freeze)
    check_processes(opt, launched_processes())
    if opt.quad and opt.batch_size % 4:
        raise ValueError(f"--quad puts four images into one: --batch-size {opt.batch_size} is not a multiple of 4")
    if opt.evolve is not None:
        check_evolution(opt, processes=launched_processes())
    opt.logger = [opt.logger] if isinstance(opt.logger, str) else list(opt.logger)
    check_services(opt.logger)
    if opt.image_weights and opt.rect:
        raise ValueError("--image-weights draws the images anew in each epoch, --rect fixes their order: leave one out")
    if opt.weights and opt.weights not in PUBLISHED and not Path(opt.weights).is_file():
        raise FileNotFoundError(
            f"--weights {opt.weights}: no such file; train from scratch with --weights '', or from published weights: "
            f"{', '.join(PUBLISHED)}"
        )
    opt.data = str(check_file(opt.data, (".yaml", ".yml")).resolve())
    if not opt.resume and (opt.cfg or not opt.weights):
        opt.cfg = str(check_file(opt.cfg or DEFAULT_CFG, (".yaml", ".yml")))


def choose_evolution(opt: argparse.Namespace) -> None:
    """Let `--evolve --resume` and `--resume_evolve` go on in their folder, and refuse options that need --evolve.

    Raises:
        FileNotFoundError: --resume_evolve names no folder of an evolution.
        ValueError: naming the option.
    """
    if opt.resume_evolve:
        folder = Path(opt.resume_evolve)
        folder = (folder if folder.is_dir() else folder.parent).resolve()
        if not any((folder / file).is_file() for file in ("evolve.csv", "study.db")):
            raise FileNotFoundError(f"--resume_evolve {opt.resume_evolve}: no folder of an evolution with evolve.csv")
        opt.project, opt.name, opt.exist_ok = str(folder.parent), folder.name, True
        opt.evolve = 300 if opt.evolve is None else opt.evolve
    if opt.evolve is not None and opt.resume:  # go on with the evolution, not with one of its trainings
        opt.exist_ok, opt.resume = True, False
    if opt.evolve is None and (opt.tuner != "genetic" or opt.storage or opt.evolve_population):
        raise ValueError("--tuner, --storage and --evolve_population say how to evolve: add --evolve N")
    if opt.storage and opt.tuner != "optuna":
        raise ValueError(f"--storage {opt.storage} is for --tuner optuna: the genetic search needs none")


def check_evolution(opt: argparse.Namespace, processes: int) -> None:
    """Complete and check the options of an evolution: its trainings validate and save once, and draw nothing.

    Raises:
        ValueError: naming the option.
    """
    if opt.evolve < 1:
        raise ValueError(f"--evolve is {opt.evolve}, but must be at least 1")
    if processes > 1:
        raise ValueError("--evolve runs in one process: start it with python, not with torchrun")
    opt.noval = opt.nosave = opt.noplots = True
    if opt.project == str(ROOT / "runs/train"):
        opt.project = str(ROOT / "runs/evolve")


def check_processes(opt: argparse.Namespace, processes: int) -> None:
    """Refuse options that do not suit the number of processes.

    Raises:
        ValueError: naming the option.
    """
    ids = parse_device(str(opt.device))[1]
    if processes == 1 and len(ids) > 1:
        raise ValueError(
            f"--device {opt.device}: one process uses one device. Start one for each: "
            f"torchrun --nproc-per-node {len(ids)} train.py ..."
        )
    if processes == 1 and opt.shard_optimizer:
        raise ValueError("--shard-optimizer needs several processes: start them with torchrun")
    if opt.batch_size == -1 and processes > 1:
        raise ValueError("--batch-size -1 measures one device: with torchrun give the batch size")
    if opt.batch_size % (processes * 4 if opt.quad else processes):
        raise ValueError(f"--batch-size {opt.batch_size} cannot be shared by {processes} processes: use a multiple")
    if opt.sync_bn and (processes == 1 or not torch.cuda.is_available()):
        raise ValueError("--sync-bn needs several processes with a CUDA device each: start them with torchrun")
