"""Checkpoints: save and load without pickled code, rebuild the model, strip for release."""

import errno
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.image_size import trained_size
from models.weights.class_names import fit_names
from models.weights.yolov5 import Foreign, fit_state, read_foreign
from models.yolo import DetectionModel, parse_model
from utils.console import LOGGER
from utils.downloads.official_weights import LICENCE
from utils.files import atomic_path, open_regular, plain
from utils.model_files.inert_pickle import DamagedError, RefusedError
from utils.model_files.torch_file import InertFile
from utils.paths import VERSION, git_describe
from utils.torch_utils import load_state, without_counters

FORMAT = 1  # of the dict below; a file with a higher number is refused
SPARE_WEIGHTS = 4_000_000  # that a model may have beyond those of the file: norms that were folded, buffers
FOREIGN = "YOLOv5"  # `version` of what the original wrote
FIELDS = {  # name -> what it holds
    "format": "int, see FORMAT",
    "version": "str, VERSION of the program that wrote the file",
    "epoch": "int, last finished epoch; -1 before the first one and in a stripped file",
    "best_fitness": "float, highest fitness so far, or None",
    "model": "state dict of the model that trains; in a stripped file the averaged one, in float16",
    "ema": "state dict of the averaged model, or None",
    "updates": "int, updates of the average, or None",
    "optimizer": "state dict, or None",
    "scaler": "state dict of the gradient scaler, or None",
    "stopper": "dict of EarlyStopping.state_dict, or None",
    "iteration": "int, batches that the run has done, or None; not in older files",
    "warmup": "int, iterations of the warmup, or None; not in older files",
    "last_step": "int, iteration of the last optimizer step, or None",
    "maps": "list of float, mAP50-95 of each class at the last validation, or None; missing in older files",
    "rng": "dict of rng_state, or None",
    "data": "dict of `LoadImagesAndLabels.fingerprint` of train and val, or None; not in older files",
    "progress": "dict of `progress_of` if a signal broke an epoch off, else None; not in older files",
    "yaml": "dict, the model table with ch and nc",
    "names": "dict, class number -> class name",
    "stride": "list of float, pixels per cell of each level",
    "hyp": "dict of Hyp.to_dict with the loss gains fitted to the model (Hyp.scaled), or None",
    "opt": "dict, the options of the run",
    "converted": "dict, record of `engine.conversion` of what the weights were converted from, or None; not in older "
    "files",
    "pretrained": "dict, record of `engine.pretraining` if only the backbone is trained, or None; not in older files",
    "teacher": "dict, file and digest of the teacher of the run and the scale of its loss, or None; not in older files",
    "thresholds": "dict, confidences to use, found by `engine.validation.deployed`, or None; not in older files",
    "git": "str, state of the repository, or None",
    "date": "str, ISO time of writing",
}
KINDS: dict[str, Any] = {  # first words of an entry of FIELDS -> types
    "int": int,
    "str": str,
    "float": int | float,
    "list": list,
    "dict": dict,
    "state dict": dict,
}
TRAINING_FIELDS = (
    "ema",
    "updates",
    "optimizer",
    "scaler",
    "stopper",
    "iteration",
    "warmup",
    "last_step",
    "maps",
    "rng",
    "data",
    "progress",
    "best_fitness",
)  # None when stripped
YOUNGER_FIELDS = (
    "iteration",
    "warmup",
    "maps",
    "data",
    "progress",
    "converted",
    "pretrained",
    "teacher",
    "thresholds",
)  # None in older files


def save_checkpoint(path: str | Path, ckpt: Mapping[str, Any]) -> None:
    """Write a checkpoint; after a crash or on a full disk the old file is still there, complete.

    Args:
        path: target; its folder must exist. A link to a checkpoint, say on another disk, stays and its target is
            replaced.
        ckpt: the entries of `FIELDS`; format, version, last_step, git, date and `YOUNGER_FIELDS` are filled in if
            absent. Paths become strings, NumPy scalars Python numbers; tensors are written as they are. Counters that
            `thop.profile` left on the model are not written.

    Raises:
        ValueError: an entry is missing or unknown.
        TypeError: a value is neither plain nor a tensor; names its place.
        OSError: the file cannot be written; names it.
    """
    now = datetime.now().astimezone().isoformat()
    filled: dict[str, Any] = {"format": FORMAT, "version": VERSION, "last_step": None} | dict.fromkeys(YOUNGER_FIELDS)
    filled |= {"date": now, **ckpt}
    if "git" not in filled:
        filled["git"] = git_describe()
    if filled.keys() != FIELDS.keys():
        missing, unknown = sorted(FIELDS.keys() - filled.keys()), sorted(filled.keys() - FIELDS.keys())
        raise ValueError(f"{path}: wrong entries of a checkpoint: missing {missing}, unknown {unknown}")
    filled |= {key: without_counters(filled[key]) for key in ("model", "ema") if isinstance(filled[key], Mapping)}
    content = {key: plain(filled[key], "a checkpoint", key, (Tensor,)) for key in FIELDS}
    try:
        with atomic_path(_follow(Path(path))) as tmp, tmp.open("wb") as file:
            torch.save(content, file)
    except FileNotFoundError:  # the folder; the message says so
        raise
    except (OSError, RuntimeError) as e:  # torch turns a failed write into a RuntimeError
        cause = next((c for c in (e, e.__cause__, e.__context__) if isinstance(c, OSError)), None)
        reason = cause.strerror if cause and cause.strerror else str(e).splitlines()[0]
        code = cause.errno if cause and cause.errno else errno.EIO
        old = ". The previous file is complete and stays" if Path(path).is_file() else ""
        raise OSError(code, f"checkpoint not written: {reason}{old}", str(path)) from e


def _follow(path: Path) -> Path:
    """Return where a checkpoint is written: the target of a link; OSError if another kind of file is there."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.exists():
        with open_regular(target) as file:
            if not file.read(4).startswith(b"PK"):
                raise FileExistsError(
                    errno.EEXIST, f"a link to {target}, which is not a checkpoint: remove it", str(path)
                )
    return target


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint; no code in the file is run.

    A checkpoint of the original YOLOv5 (v3.0 to today) gives the entries of a stripped one: its averaged model, which
    was compared with the objects in the file, classes and options. Its training state is left out.

    Args:
        path: file written by `save_checkpoint`, or by the original YOLOv5.
        device: where the tensors go.

    Returns:
        The entries of `FIELDS`; weights without counters that `thop.profile` left on a model (`is_counter`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint, a damaged one, one with pickled objects other than those of YOLOv5, or one of a newer
            format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint (looked in {path.absolute().parent})")
    try:
        with InertFile(path) as file:
            if file.is_stream or any(name.startswith("models.") for name in file.records):
                return _load_foreign(path, read_foreign(path, file), device)
            if file.records:
                names = ", ".join(sorted(file.records)[:3])
                raise RefusedError(f"refused, the file holds Python objects that could run code when loaded ({names})")
            ckpt = file.content(device)
    except (DamagedError, RefusedError) as e:
        raise type(e)(f"{path}: {e}") from None
    if not isinstance(ckpt, dict) or not isinstance(ckpt.get("format"), int):
        raise ValueError(f"{path}: a PyTorch file, but not a checkpoint of this program (no entry 'format')")
    if ckpt["format"] > FORMAT:
        version = ckpt["version"][:20] if isinstance(ckpt.get("version"), str) else "?"
        raise ValueError(
            f"{path}: written in format {ckpt['format']} by version {version}; this is version "
            f"{VERSION}, which reads up to format {FORMAT}. Update the program"
        )
    for key in YOUNGER_FIELDS:
        ckpt.setdefault(key, None)
    missing = [key for key in FIELDS if key not in ckpt]
    if missing:
        raise ValueError(f"{path}: this checkpoint lacks {', '.join(missing)}")
    for key in FIELDS:
        _check_kind(path, key, ckpt[key])
    return ckpt | {key: without_counters(ckpt[key]) for key in ("model", "ema") if ckpt[key] is not None}


def _check_kind(path: Path, key: str, value: Any) -> None:
    """Raise ValueError unless an entry is of the kind that `FIELDS` says."""
    kind = FIELDS[key].partition(",")[0].partition(" of ")[0]
    if value is None and "None" in FIELDS[key]:
        return
    if not isinstance(value, KINDS[kind]) or (kind == "state dict" and key != "optimizer" and not _is_state(value)):
        raise ValueError(f"{path}: damaged: the entry {key!r} is a {type(value).__name__}, expected {FIELDS[key]}")


def _is_state(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping gives names to tensors; the state of a gradient scaler holds numbers."""
    return all(isinstance(key, str) and isinstance(item, Tensor | int | float) for key, item in value.items())


def _load_foreign(path: Path, foreign: Foreign, device: str | torch.device) -> dict[str, Any]:
    """Turn what a checkpoint of the original YOLOv5 holds into the entries of a stripped one of ours."""
    try:
        _check_size(foreign.table, foreign.state)
        model = DetectionModel(foreign.table, verbose=False)
        state = fit_state(foreign, model)
    except ValueError as e:
        raise ValueError(f"{path}: this model of the original YOLOv5 cannot be rebuilt: {e}") from None
    LOGGER.info(f"{path}: checkpoint of the original YOLOv5, {len(state)} tensors read, nothing in it was run")
    fields = dict.fromkeys(TRAINING_FIELDS) | {
        "format": FORMAT,
        "version": FOREIGN,
        "epoch": -1,
        "model": {key: value.to(device) for key, value in state.items()},
        "yaml": model.yaml,
        "names": foreign.names,
        "stride": foreign.stride,
        "hyp": foreign.hyp,
        "opt": foreign.opt,
        "converted": None,
        "pretrained": None,
        "teacher": None,
        "thresholds": None,
        "git": foreign.git,
        "date": foreign.date,
    }
    return {key: fields[key] for key in FIELDS}


def refuse_foreign_resume(ckpt: Mapping[str, Any], path: str | Path) -> None:
    """Raise ValueError if a checkpoint comes from the original YOLOv5: training cannot be resumed from it."""
    if ckpt["version"] == FOREIGN:
        raise ValueError(
            f"{path}: written by the original YOLOv5, of which only the weights are read, so this training run cannot "
            f"be resumed. Start a new one with --weights {path}"
        )


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> dict[str, Any]:
    """Reduce a checkpoint to what detection needs: the averaged model in float16, classes, tables, options.

    The anchors and values that float16 cannot hold keep their precision. Such a file cannot be resumed.

    Args:
        f: checkpoint to read.
        s: file to write; "" replaces `f`.

    Returns:
        What `f` held, as `load_checkpoint` gives it.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`.
        OSError: the file cannot be written.
    """
    ckpt = load_checkpoint(f)
    halved = {k: v if k.endswith("anchors") else _half(v) for k, v in _weights(ckpt).items()}
    target = Path(s or f)
    save_checkpoint(target, ckpt | dict.fromkeys(TRAINING_FIELDS) | {"epoch": -1, "model": halved})
    LOGGER.info(f"optimizer stripped from {f}{f', saved as {s}' if s else ''}, {target.stat().st_size / 1e6:.1f} MB")
    return ckpt


def add_thresholds(f: str | Path, thresholds: Mapping[str, Any]) -> None:
    """Write the confidences to use into a checkpoint, in place; all else in it stays as it is.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`, and a checkpoint of the original YOLOv5.
        OSError: the file cannot be written.
    """
    ckpt = load_checkpoint(f)
    if ckpt["version"] == FOREIGN:
        raise ValueError(f"{f}: written by the original YOLOv5, and left as it is: no thresholds are saved into it")
    save_checkpoint(f, ckpt | {"thresholds": thresholds})


def _half(x: Tensor) -> Tensor:
    """Return floats as float16 unless one of them is too large for it."""
    half = x.half() if x.is_floating_point() else x
    return half if torch.isfinite(half).all() else x


def _weights(ckpt: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights, in a stripped file those of the model."""
    return ckpt["model"] if ckpt["ema"] is None else ckpt["ema"]


def _check_size(table: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError, before memory is taken, if a model table asks for far more weights than the file holds."""
    for key in ("ch", "nc"):
        if type(table.get(key)) is not int:
            raise ValueError(f"the model table of this checkpoint has no number {key!r}")
    stored = sum(x.numel() for x in state.values())
    with torch.device("meta"):
        layers, _ = parse_model(dict(table), [table["ch"]], verbose=False)
    wanted = sum(x.numel() for x in (*layers.parameters(), *layers.buffers()))
    if wanted > 2 * stored + SPARE_WEIGHTS:
        raise ValueError(
            f"the weights of this checkpoint do not fit its own model table: {stored} values stored, {wanted} needed"
        )


def build_model(ckpt: Mapping[str, Any], fuse: bool = False) -> DetectionModel:
    """Build the model of a checkpoint, with the averaged weights if there are any.

    Args:
        ckpt: from `load_checkpoint`; not changed.
        fuse: merge every BatchNorm into its convolution.

    Returns:
        The model in float32 and evaluation mode, with the names and hyperparameters of the checkpoint.

    Raises:
        ValueError: the weights do not fit the model table of the checkpoint.
    """
    table = ckpt["yaml"]
    if ckpt.get("pretrained"):
        raise ValueError(
            "these weights are a backbone that was trained without labels, and no head detects: train them first, "
            "python train.py --weights FILE --data my.yaml"
        )
    _check_size(table, _weights(ckpt))
    model = DetectionModel(cfg=table, ch=table["ch"], nc=table["nc"], verbose=False)
    try:
        load_state(model, _weights(ckpt))
    except ValueError as e:
        raise ValueError(f"the weights of this checkpoint do not fit its own model table: {e}") from None
    model.names = fit_names(ckpt["names"], model.nc, "this checkpoint")
    model.hyp = None if ckpt["hyp"] is None else dict(ckpt["hyp"])
    origin = ckpt["converted"] or {}
    model.thresholds = ckpt["thresholds"]
    model.trained_size = trained_size((ckpt["opt"] or {}).get("imgsz"))
    if FOREIGN in (ckpt["version"], origin.get("version")):
        model.licence = LICENCE
    elif origin:  # weights of a teacher that says nothing about its licence
        model.licence = (
            f"that of {origin.get('teacher') or 'the weights it was converted from'}, which is not known here"
        )
    model = model.float().eval()
    return model.fuse() if fuse else model
