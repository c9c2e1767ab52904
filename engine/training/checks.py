"""The options of train.py: completed from the resumed run, and checked."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from models.image_size import both_sides
from models.weights.imagenet import PUBLISHED
from utils.console import LOGGER
from utils.datasets.tiles import tile_grid
from utils.distributed import launched_processes
from utils.downloads.official_weights import YOLOV5, find_weights
from utils.files import key_place, yaml_load
from utils.loggers.services import check_services
from utils.options.table import arguments, checked, options_of
from utils.options.train import DEFAULT_CFG, START, TrainOptions
from utils.paths import HOME, check_file, command, get_latest_run
from utils.torch_utils import parse_device

EVOLUTION = ("evolve", "tuner", "storage", "evolve_population", "resume_evolve")  # no training inside is ever resumed
FIXED_IN_EVOLUTION = ("noval", "nosave", "noplots")
MAY_CHANGE_ON_RESUME = ("amp", "cache_dir", "data", "device", "epochs", "nan_policy", "patience", "teacher", "workers")


def resume_options(options: TrainOptions, given: Collection[str]) -> TrainOptions:
    """Return the options of the resumed run; only those of MAY_CHANGE_ON_RESUME may be changed.

    Args:
        options: of this start.
        given: names of those that were asked for.

    Raises:
        FileNotFoundError: there is no run to resume, or its folder lacks a file.
        ValueError: an option in its opt.yaml has a value that it does not take.
    """
    last = get_latest_run() if options.resume is True else check_file(str(options.resume), (".pt",))
    if last is None:
        raise FileNotFoundError("--resume: no weights/last.pt below this folder; pass one with --resume PATH")
    last = Path(last).resolve()
    folder = last.parent.parent
    if last.parent.name != "weights" or not (folder / "opt.yaml").is_file():
        raise FileNotFoundError(f"--resume {last}: expected weights/last.pt in a run folder with opt.yaml and hyp.yaml")
    ignored = [key for key in given if key not in (*MAY_CHANGE_ON_RESUME, "resume")]
    if ignored:
        names = ", ".join("--" + key.replace("_", "-") for key in ignored)
        LOGGER.warning(f"--resume ignores {names}: taken from {folder / 'opt.yaml'}")
    changed = {key: getattr(options, key) for key in MAY_CHANGE_ON_RESUME if key in given}
    own = {"cfg", "weights", "hyp", "resume", *EVOLUTION}  # of this start, not of the run
    known = options_of(TrainOptions).keys() - own
    stored = {key: value for key, value in yaml_load(folder / "opt.yaml").items() if key in known}
    merged = checked(TrainOptions, stored, partial(key_place, folder / "opt.yaml")) | changed
    merged |= {"cfg": "", "weights": str(last), "hyp": str(folder / "hyp.yaml"), "resume": True}
    options = replace(options, **merged)
    if options.shard_optimizer and launched_processes() == 1:
        LOGGER.info("--resume in one process: the optimizer state is no longer sharded")
        options = replace(options, shard_optimizer=False)
    return options


def check_options(options: TrainOptions) -> TrainOptions:
    """Reject options that exclude each other; return them with the paths found and those of an evolution filled in.

    Raises:
        ValueError, FileNotFoundError: naming the option.
    """
    check_sizes(options)
    if options.label_smoothing == 1:
        raise ValueError("--label-smoothing is 1, but must be below 1: the targets would carry no information")
    if options.nan_policy == "rollback" and options.nosave:
        raise ValueError("--nan-policy rollback needs the checkpoint of the last epoch: remove --nosave")
    if options.quad and options.batch_size % 4:
        raise ValueError(f"--quad puts four images into one: --batch-size {options.batch_size} is not a multiple of 4")
    folder = find_cache_dir(options)
    check_processes(options, launched_processes())
    if options.evolve is not None and options.metric != "fitness":
        raise ValueError("--metric chooses the best epoch of one run, an evolution goes by the fitness: remove it")
    if options.evolve is not None:
        options = check_evolution(options, launched_processes())
    check_services(options.logger)
    if options.freeze_bn and options.weights in ("", *PUBLISHED):
        raise ValueError("--freeze-bn keeps the batch statistics of the detector named by --weights, but there is none")
    if options.freeze_bn and options.sync_bn:
        raise ValueError("--sync-bn measures the batch statistics that --freeze-bn keeps: remove one of them")
    if options.image_weights and options.rect:
        raise ValueError("--image-weights draws new images in each epoch, --rect fixes their order: remove one of them")
    if options.weights and options.weights not in PUBLISHED:
        options = replace(options, weights=str(find_weights(options.weights)))
    if options.weights and options.weights not in PUBLISHED and not Path(options.weights).is_file():
        raise FileNotFoundError(
            f"--weights {options.weights}: no such file; train from scratch with --weights '', or from published "
            f"weights: {', '.join([*YOLOV5, *PUBLISHED])}"
        )
    options = check_teacher(options)
    cfg = options.cfg
    if not options.resume and (cfg or not options.weights):
        cfg = str(check_file(cfg or DEFAULT_CFG, (".yaml", ".yml")))
    data = str(check_file(options.data, (".yaml", ".yml")).resolve())
    return replace(options, data=data, cfg=cfg, cache_dir=folder)


def find_cache_dir(options: TrainOptions) -> str:
    """Return the absolute path of --cache-dir, "" without one; ValueError if it has nothing to do."""
    if options.cache_dir and options.cache != "disk":
        raise ValueError(f"--cache-dir {options.cache_dir} is for images on disk: add --cache disk, or remove it")
    folder = Path(options.cache_dir).expanduser().absolute()
    if options.cache_dir and folder.exists() and not folder.is_dir():
        raise ValueError(f"--cache-dir {options.cache_dir} is a file, not a folder")
    return str(folder) if options.cache_dir else ""


def check_sizes(options: TrainOptions) -> None:
    """Raise ValueError for sizes of images and tiles that cannot be, or that other options exclude."""
    both_sides(options.imgsz)
    if options.slice:
        tile_grid(1, 1, options.slice, options.overlap)  # checks them
        if options.cache == "val":
            raise ValueError("--slice validates on images in full size, which no cache keeps: remove --cache val")


def check_teacher(options: TrainOptions) -> TrainOptions:
    """Reject options that do not suit --teacher; return them with the path of its file found.

    Raises:
        ValueError, FileNotFoundError: naming the option.
    """
    if not options.teacher:
        if options.distill_from != "outputs":
            raise ValueError(f"--distill-from {options.distill_from} is about a teacher: add --teacher FILE")
        return options
    if options.batch_size == -1:
        raise ValueError("--batch-size -1 measures the model alone: with --teacher give the batch size")
    if options.teacher == START:
        if not options.weights:
            raise ValueError("--teacher start is a frozen copy of --weights, but the run starts from random ones")
        return options
    file = find_weights(options.teacher).resolve()
    if not file.is_file():
        hint = "restore it, or pass its new path with --teacher" if options.resume else "pass a checkpoint"
        raise FileNotFoundError(f"--teacher {options.teacher}: no such file; {hint}")
    return replace(options, teacher=str(file))


def choose_evolution(options: TrainOptions) -> TrainOptions:
    """Let `--evolve --resume` and `--resume_evolve` go on in their folder, and refuse options that need --evolve.

    Returns:
        The options with folder and number of generations filled in.

    Raises:
        FileNotFoundError: --resume_evolve names no folder of an evolution.
        ValueError: naming the option.
    """
    if options.resume_evolve:
        folder = Path(options.resume_evolve)
        folder = (folder if folder.is_dir() else folder.parent).resolve()
        if not any((folder / file).is_file() for file in ("evolve.csv", "study.db")):
            raise FileNotFoundError(
                f"--resume_evolve {options.resume_evolve}: not the folder of an evolution, it has no evolve.csv"
            )
        options = replace(
            options, project=str(folder.parent), name=folder.name, exist_ok=True, evolve=options.evolve or 300
        )
    if options.evolve is not None and options.resume:  # go on with the evolution, not with one of its trainings
        options = replace(options, exist_ok=True, resume=False)
    if options.evolve is None and (options.tuner != "genetic" or options.storage or options.evolve_population):
        raise ValueError("--tuner, --storage and --evolve_population only apply to an evolution: add --evolve N")
    if options.storage and options.tuner != "optuna":
        raise ValueError(f"--storage {options.storage} is for --tuner optuna: the genetic search needs none")
    return options


def check_evolution(options: TrainOptions, processes: int) -> TrainOptions:
    """Check and complete the options of an evolution: its trainings validate and save once, and draw nothing.

    Raises:
        ValueError: naming the option.
    """
    if processes > 1:
        raise ValueError("--evolve runs in one process: start it with python, not with torchrun")
    project = str(HOME / "runs/evolve") if options.project == str(HOME / "runs/train") else options.project
    return replace(options, noval=True, nosave=True, noplots=True, project=project)


def check_processes(options: TrainOptions, processes: int) -> None:
    """Reject options that do not suit the number of processes.

    Raises:
        ValueError: naming the option.
    """
    ids = parse_device(options.device)[1]
    if processes == 1 and len(ids) > 1:
        raise ValueError(
            f"--device {options.device}: one process uses one device. Start one for each: "
            + command("torchrun", "--nproc-per-node", str(len(ids)), "train.py", *arguments(options))
        )
    if processes == 1 and options.shard_optimizer:
        raise ValueError("--shard-optimizer needs several processes: start them with torchrun")
    if options.batch_size == -1 and processes > 1:
        raise ValueError("--batch-size -1 measures one device: with torchrun give the batch size")
    if options.batch_size % (processes * 4 if options.quad else processes):
        raise ValueError(
            f"--batch-size {options.batch_size} cannot be divided among {processes} processes: use a multiple"
        )
    if options.sync_bn and (processes == 1 or not torch.cuda.is_available()):
        raise ValueError("--sync-bn needs several processes with a CUDA device each: start them with torchrun")
