"""The options of train.py: completed from the resumed run, and checked."""

import argparse
from functools import partial
from pathlib import Path

import torch

from models.weights.imagenet import PUBLISHED
from utils.console import LOGGER
from utils.distributed import launched_processes
from utils.files import key_place, yaml_load
from utils.loggers.services import check_services
from utils.official_weights import find_weights
from utils.options.check import checked
from utils.options.train import DEFAULT_CFG, make_parser
from utils.paths import ROOT, check_file, get_latest_run
from utils.torch_utils import parse_device

EVOLUTION = ("evolve", "tuner", "storage", "evolve_population", "resume_evolve")  # no training inside is ever resumed
MAY_CHANGE_ON_RESUME = ("amp", "data", "device", "epochs", "nan_policy", "patience", "workers")


def resume_options(opt: argparse.Namespace) -> argparse.Namespace:
    """Return the options of the resumed run; only those of MAY_CHANGE_ON_RESUME may be changed.

    Raises:
        FileNotFoundError: there is no run to resume, or its folder lacks a file.
    """
    last = get_latest_run() if opt.resume is True else check_file(opt.resume, (".pt",))
    if last is None:
        raise FileNotFoundError("--resume: no weights/last.pt below this folder; pass one with --resume PATH")
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
    own = {"cfg", "weights", "hyp", "resume", "given", *EVOLUTION}  # of this start, not of the run
    known = {k: v for k, v in stored.items() if k in vars(opt) and k not in own}
    merged = {**vars(opt), **checked(make_parser(), known, partial(key_place, folder / "opt.yaml")), **changed}
    merged |= {"cfg": "", "weights": str(last), "hyp": str(folder / "hyp.yaml"), "resume": True}
    if merged["shard_optimizer"] and launched_processes() == 1:
        LOGGER.info("--resume in one process: the optimizer state is no longer sharded")
        merged["shard_optimizer"] = False
    return argparse.Namespace(**merged, save_dir=str(folder))


def check_options(opt: argparse.Namespace) -> None:
    """Reject invalid option values and fill in defaults.

    Raises:
        ValueError, FileNotFoundError: naming the option.
    """
    own = {key: value for key, value in vars(opt).items() if key not in ("given", "save_dir")}
    vars(opt).update(checked(make_parser(), own))
    if opt.label_smoothing == 1:
        raise ValueError("--label-smoothing is 1, but must be below 1: the targets would carry no information")
    if opt.nan_policy == "rollback" and opt.nosave:
        raise ValueError("--nan-policy rollback needs the checkpoint of the last epoch: remove --nosave")
    opt.freeze = [opt.freeze] if isinstance(opt.freeze, int | str) else list(opt.freeze)
    if opt.quad and opt.batch_size % 4:
        raise ValueError(f"--quad puts four images into one: --batch-size {opt.batch_size} is not a multiple of 4")
    check_processes(opt, launched_processes())
    if opt.evolve is not None:
        check_evolution(opt, processes=launched_processes())
    opt.logger = [opt.logger] if isinstance(opt.logger, str) else list(opt.logger)
    check_services(opt.logger)
    if opt.image_weights and opt.rect:
        raise ValueError("--image-weights draws new images in each epoch, --rect fixes their order: remove one of them")
    if opt.weights and opt.weights not in PUBLISHED:
        opt.weights = str(find_weights(opt.weights))
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
        raise ValueError("--tuner, --storage and --evolve_population only apply to an evolution: add --evolve N")
    if opt.storage and opt.tuner != "optuna":
        raise ValueError(f"--storage {opt.storage} is for --tuner optuna: the genetic search needs none")


def check_evolution(opt: argparse.Namespace, processes: int) -> None:
    """Complete and check the options of an evolution: its trainings validate and save once, and draw nothing.

    Raises:
        ValueError: naming the option.
    """
    if processes > 1:
        raise ValueError("--evolve runs in one process: start it with python, not with torchrun")
    opt.noval = opt.nosave = opt.noplots = True
    if opt.project == str(ROOT / "runs/train"):
        opt.project = str(ROOT / "runs/evolve")


def check_processes(opt: argparse.Namespace, processes: int) -> None:
    """Reject options that do not suit the number of processes.

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
        raise ValueError(f"--batch-size {opt.batch_size} cannot be divided among {processes} processes: use a multiple")
    if opt.sync_bn and (processes == 1 or not torch.cuda.is_available()):
        raise ValueError("--sync-bn needs several processes with a CUDA device each: start them with torchrun")
