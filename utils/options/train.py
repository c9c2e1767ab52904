"""The options of train.py."""

import argparse
from collections.abc import Sequence
from typing import Any

from utils.options.check import BATCH, COUNT, SHARE, SIDE, WORKERS, Number
from utils.paths import ROOT

DEFAULT_CFG = "models/yolov5s-swinv2.yaml"
HYP_OF_SWIN, HYP_OF_CONV = "data/hyps/hyp.swinv2.yaml", "data/hyps/hyp.scratch-low.yaml"
AMP_NAMES = ("auto", "off", "fp16", "bf16")
NAN_POLICIES = ("stop", "rollback")
TUNERS = ("genetic", "optuna")  # who searches, see `engine.training.tuner`
REFUSED = {  # options of YOLOv5 that this program does not have -> what to do instead
    "--bucket": "nothing is copied to a cloud; several machines share a study with --tuner optuna --storage",
    "--entity": "set the variable WANDB_ENTITY, and log with --logger wandb",
    "--upload_dataset": "datasets are not uploaded: use the tools of Weights & Biases",
    "--bbox_interval": "boxes are not logged to Weights & Biases; --logger wandb gets the images of the run folder",
    "--artifact_alias": "weights are not fetched from Weights & Biases: give --weights a file",
    "--local_rank": "torchrun numbers the processes: start with torchrun --nproc-per-node N train.py ...",
}


class Refuse(argparse.Action):
    """An option that is known, but not there: using it ends with a sentence that says what to do instead."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Raise ValueError with that sentence."""
        raise ValueError(f"{option} is not supported: {REFUSED[self.option_strings[0]]}")


def freeze_value(text: str) -> int | str:
    """Read one value of --freeze: a number of rows, or `backbone`."""
    return text if text == "backbone" else int(text)


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """Return the parser; it also checks what comes from Python (`utils.options.check`)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--weights",
        default="",
        help="checkpoint to start from, official weights such as yolov5s.pt, or swinv2_t, swinv2_s, swinv2_b; "
        "'' trains from scratch",
    )
    add("--cfg", default="", help=f"model YAML; default: the checkpoint's, or {DEFAULT_CFG}")
    add("--data", default="data/demo.yaml", help="dataset YAML")
    add("--hyp", default="", help=f"hyperparameter YAML; default: {HYP_OF_SWIN} for Swin backbones, else {HYP_OF_CONV}")
    add("--epochs", type=COUNT, default=100, help="total epochs")
    add(
        "--batch-size",
        type=Number(int, 1, BATCH.high // 2, also=-1),
        default=16,
        help="images per batch over all devices; -1: as many as the GPU takes",
    )
    add(
        "--imgsz",
        "--img",
        "--img-size",
        type=Number(int, 1, SIDE.high // 2),
        default=640,
        help="training and validation size, pixels",
    )
    add("--rect", action="store_true", help="rectangular training batches; no mosaic, no shuffling")
    add("--resume", nargs="?", const=True, default=False, help="resume the latest run, or the given last.pt")
    add("--nosave", action="store_true", help="save only the final checkpoint")
    add("--noval", action="store_true", help="validate only the final epoch")
    add("--noautoanchor", action="store_true", help="keep the anchors of the model")
    add("--noplots", action="store_true", help="save no plots")
    add(
        "--evolve",
        nargs="?",
        type=COUNT,
        const=300,
        help="evolve the hyperparameters over this many training runs (300)",
    )
    add("--tuner", choices=TUNERS, default="genetic", help="method that chooses the hyperparameters of --evolve")
    add("--storage", default="", help="database of --tuner optuna shared by processes, such as sqlite:///study.db")
    add("--evolve_population", default="", help="folder of hyperparameter files: the first generations of --evolve")
    add("--resume_evolve", help="resume the evolution in this run folder (or its evolve.csv)")
    add(
        "--cache",
        nargs="?",
        const="ram",
        choices=("ram", "disk", "val"),
        help="keep resized images in memory, or on disk; val: those for validation in memory",
    )
    add("--image-weights", action="store_true", help="sample images of rare and poorly detected classes more often")
    add("--device", default="", help="cpu, mps, 0 (first CUDA device), ...; default: CUDA if available")
    add("--amp", choices=AMP_NAMES, default="auto", help="mixed precision; auto: fp16 on CUDA, off elsewhere")
    add("--activation-checkpointing", action="store_true", help="recompute Swin blocks to save memory")
    add("--checkpoint-stages", nargs="+", type=COUNT, help="the same for some Swin stages only, 1 for the first")
    add("--window", nargs="+", type=COUNT, help="other windows for the Swin stages: one side for all, or one for each")
    add("--multi-scale", action="store_true", help="vary the image size by 50 %%")
    add("--sync-bn", action="store_true", help="batch statistics over all GPUs, with torchrun")
    add("--shard-optimizer", action="store_true", help="shard the optimizer state over the processes of torchrun")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add(
        "--optimizer", choices=("SGD", "Adam", "AdamW"), default=None, help="default: the hyperparameter file's, or SGD"
    )
    add("--workers", type=WORKERS, default=8, help="maximum number of data loading processes")
    add("--project", default=str(ROOT / "runs/train"), help="parent of the run folder")
    add("--name", default="exp", help="run folder; cfg: name of the model")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    add(
        "--quad",
        action="store_true",
        help="combine four images into one of twice the side; --batch-size is a multiple of 4",
    )
    add("--cos-lr", action="store_true", help="cosine instead of linear schedule")
    add(
        "--label-smoothing",
        type=SHARE,
        help="fraction of the class target that is spread; default: hyperparameter file",
    )
    add(
        "--patience", type=Number(int, 0), default=100, help="stop after this many epochs without improvement; 0: never"
    )
    add(
        "--freeze",
        nargs="+",
        type=freeze_value,
        default=[0],
        help="layers to freeze: n for the first n, several indices, or backbone",
    )
    add(
        "--logger",
        nargs="+",
        default=[],
        metavar="SERVICE",
        help="also log to wandb, mlflow or clearml; besides results.csv and TensorBoard",
    )
    add("--save-period", type=Number(int, -1), default=-1, help="also save epoch<N>.pt every N epochs; -1: never")
    add(
        "--nan-policy", choices=NAN_POLICIES, default="stop",
        help="on non-finite values or a diverging loss: stop, or roll back an epoch with half the learning rate",
    )  # fmt: skip
    add("--seed", type=Number(int, 0, 2**32 - 1), default=0, help="seed of all random numbers")
    for option in REFUSED:
        add(option, nargs="?", action=Refuse, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def parse_opt(argv: Sequence[str] | None = None, description: str = "Train a detector.") -> argparse.Namespace:
    """Read the options; `given` lists those that were named."""
    parser = make_parser(description)
    opt = parser.parse_args(argv)
    unset = object()
    named = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(opt), unset)))
    opt.given = [key for key, value in vars(named).items() if value is not unset]
    return opt
