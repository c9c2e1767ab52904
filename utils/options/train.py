"""The options of train.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from utils.options.check import BATCH, COUNT, EPOCHS, SHARE, SIDE, TILE, WORKERS, Number, class_value
from utils.options.table import make_parser, option, refused
from utils.paths import HOME

DEFAULT_CFG = "models/yolov5s-swinv2.yaml"
TRAIN_SIDE = Number(int, 1, SIDE.high // 2)  # a mosaic is laid out on twice the side
START = "start"  # of --teacher: the weights at the start of the run
HYP_OF_SWIN, HYP_OF_CONV = "data/hyps/hyp.swinv2.yaml", "data/hyps/hyp.scratch-low.yaml"
HYP_OF_TRAINED = "data/hyps/hyp.finetune.yaml"


def freeze_value(text: str) -> int | str:
    """Read one value of --freeze: a number of rows, or `backbone`."""
    return text if text == "backbone" else int(text)


def convert_value(text: str) -> int | str:
    """Read the value of --convert: a positive number of images, `auto` or `off`."""
    if text in ("auto", "off"):
        return text
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True)
class TrainOptions:
    """Options of train.py, see `utils.options.table`."""

    weights: str = option(
        "",
        "checkpoint to start from, official weights such as yolov5s.pt, or swinv2_t, swinv2_s, swinv2_b; '' trains "
        "from scratch",
    )
    cfg: str = option("", f"model YAML; default: the checkpoint's, or {DEFAULT_CFG}")
    convert: Annotated[int | str, convert_value] = option(
        "auto",
        "for a convolutional checkpoint and its Swin twin as --cfg: imitate the bottlenecks first, on training images; "
        "auto, off, or the number of images looked at",
    )
    unlabeled: list[str] = option([], "more images for that, which need no labels: folders or lists")
    data: str = option("data/demo.yaml", "dataset YAML")
    classes: list[Annotated[int | str, class_value]] | None = option(
        None,
        "learn these classes of the dataset only, by name or number, in this order; default: key classes of --data, or "
        "all",
    )
    hyp: str = option(
        "",
        f"hyperparameter YAML; default: {HYP_OF_TRAINED} if --weights fit the model, else {HYP_OF_SWIN} for Swin "
        f"backbones and {HYP_OF_CONV} for others",
    )
    teacher: str = option(
        "",
        "detector that teaches this one: a checkpoint, official weights such as yolov5m.pt, or start for a frozen copy "
        "of the weights at the start",
    )
    distill_from: Literal["outputs", "maps", "both"] = option(
        "outputs", "what --teacher teaches: its outputs, the feature maps that its head reads, or both"
    )
    epochs: Annotated[int, EPOCHS] = option(100, "total epochs; with --resume, +20 adds 20, to a finished run too")
    batch_size: Annotated[int, Number(int, 1, BATCH.high // 2, also=-1)] = option(
        16, "images per batch over all devices; -1: as many as the GPU takes"
    )
    imgsz: Annotated[int, TRAIN_SIDE] | list[Annotated[int, TRAIN_SIDE]] = option(
        640, "training and validation size, pixels: one side, or height and width", *("--imgsz", "--img", "--img-size")
    )
    slice: Annotated[int, TILE] | list[Annotated[int, TILE]] = option(
        0,
        "learn from large images in tiles of this side, or height and width, in pixels too, and validate so, as "
        "detect.py does",
    )
    overlap: Annotated[float, SHARE] = option(0.2, "fraction of a tile that neighbours have in common")
    rect: bool = option(False, "rectangular training batches; no mosaic, no shuffling")
    resume: bool | str = option(False, "resume the latest run, or the given last.pt", bare=True)
    nosave: bool = option(False, "save only the final checkpoint")
    noval: bool = option(False, "validate only the final epoch")
    max_det: Annotated[int, COUNT] | None = option(
        None, "detections kept per image in validation; default: 300 for mAP, 1000 for all else"
    )
    noautoanchor: bool = option(False, "keep the anchors of the model")
    noplots: bool = option(False, "save no plots")
    evolve: Annotated[int, COUNT] | None = option(
        None, "evolve the hyperparameters over this many training runs (300)", bare=300
    )
    tuner: Literal["genetic", "optuna"] = option("genetic", "method that chooses the hyperparameters of --evolve")
    storage: str = option("", "database of --tuner optuna shared by processes, such as sqlite:///study.db")
    evolve_population: str = option(
        "", "folder of hyperparameter files: the first generations of --evolve", "--evolve_population"
    )
    resume_evolve: str | None = option(
        None, "resume the evolution in this run folder (or its evolve.csv)", "--resume_evolve"
    )
    cache: Literal["ram", "disk", "val"] | None = option(
        None, "keep resized images in memory, or on disk; val: those for validation in memory", bare="ram"
    )
    cache_dir: str = option("", "folder for --cache disk, on a fast disk; default: beside the images")
    image_weights: bool = option(False, "sample images of rare and poorly detected classes more often")
    device: str = option("", "cpu, mps, 0 (first CUDA device), ...; default: CUDA if available")
    amp: Literal["auto", "off", "fp16", "bf16"] = option("auto", "mixed precision; auto: fp16 on CUDA, off elsewhere")
    activation_checkpointing: bool = option(False, "recompute Swin blocks to save memory")
    checkpoint_stages: list[Annotated[int, COUNT]] | None = option(
        None, "the same for some Swin stages only, 1 for the first"
    )
    window: list[Annotated[int, COUNT]] | None = option(
        None, "other windows for the Swin stages: one side for all, or one for each"
    )
    multi_scale: bool = option(False, "vary the image size by 50 %")
    sync_bn: bool = option(False, "batch statistics over all GPUs, with torchrun")
    shard_optimizer: bool = option(False, "shard the optimizer state over the processes of torchrun")
    single_cls: bool = option(False, "treat all classes as one")
    optimizer: Literal["SGD", "Adam", "AdamW", "Muon"] | None = option(
        None, "default: the hyperparameter file's, or SGD"
    )
    workers: Annotated[int, WORKERS] = option(8, "maximum number of data loading processes")
    project: str = option(str(HOME / "runs/train"), "parent of the run folder")
    name: str = option("exp", "run folder; cfg: name of the model")
    exist_ok: bool = option(False, "write into an existing run folder")
    quad: bool = option(False, "combine four images into one of twice the side; --batch-size is a multiple of 4")
    close_mosaic: Annotated[int, Number(int, 0)] | None = option(
        None, "epochs at the end without mosaic, mixup and copy-paste; default: the hyperparameter file's, or 0"
    )
    cos_lr: bool = option(False, "cosine instead of linear schedule")
    label_smoothing: Annotated[float, SHARE] | None = option(
        None, "fraction of the class target that is spread; default: hyperparameter file"
    )
    metric: str = option(
        "fitness",
        "chooses best.pt and stops early: fitness (0.1 mAP50 + 0.9 mAP50-95), map50-95, map50, f1, recall, precision, "
        "or CLASS:ap for mAP50-95 of one class",
    )
    patience: Annotated[int, Number(int, 0)] = option(100, "stop after this many epochs without improvement; 0: never")
    freeze: list[Annotated[int | str, freeze_value]] = option(
        [0], "layers to freeze: n for the first n, several indices, or backbone"
    )
    freeze_bn: bool = option(False, "keep the batch statistics of --weights")
    logger: list[str] = option(
        [], "also log to wandb, mlflow or clearml; besides results.csv and TensorBoard", metavar="SERVICE"
    )
    strip: bool = option(False, "strip last.pt too at the end: smaller, and no more epochs")
    save_period: Annotated[int, Number(int, -1)] = option(-1, "also save epoch<N>.pt every N epochs; -1: never")
    nan_policy: Literal["stop", "rollback"] = option(
        "stop", "on non-finite values or a diverging loss: stop, or roll back an epoch with half the learning rate"
    )
    seed: Annotated[int, Number(int, 0, 2**32 - 1)] = option(0, "seed of all random numbers")

    bucket: str = refused(
        "", "nothing is copied to a cloud; several machines share a study with --tuner optuna --storage"
    )
    entity: str | None = refused(None, "set the variable WANDB_ENTITY, and log with --logger wandb")
    upload_dataset: bool | str = refused(
        False, "datasets are not uploaded: use the tools of Weights & Biases", "--upload_dataset"
    )
    bbox_interval: int = refused(
        -1,
        "boxes are not logged to Weights & Biases; --logger wandb gets the images of the run folder",
        "--bbox_interval",
    )
    artifact_alias: str = refused(
        "latest", "weights are not fetched from Weights & Biases: give --weights a file", "--artifact_alias"
    )
    local_rank: int = refused(
        -1, "torchrun numbers the processes: start with torchrun --nproc-per-node N train.py ...", "--local_rank"
    )


def parse_opt(
    argv: Sequence[str] | bool | None = None, description: str = "Train a detector.", known: bool = False
) -> argparse.Namespace:
    """Read the options; `given` lists those that were named.

    Args:
        argv: words to read; None for those of the command line. YOLOv5's call `parse_opt(True)` means `known`.
        description: of the program, for --help.
        known: skip words that are no options, for programs that have options of their own.
    """
    words, known = (None, argv) if isinstance(argv, bool) else (argv, known)
    parser = make_parser(TrainOptions, description)

    def read(into: argparse.Namespace) -> argparse.Namespace:
        return parser.parse_known_args(words, into)[0] if known else parser.parse_args(words, into)

    opt, unset = read(argparse.Namespace()), object()
    named = read(argparse.Namespace(**dict.fromkeys(vars(opt), unset)))
    opt.given = [key for key, value in vars(named).items() if value is not unset]
    return opt
