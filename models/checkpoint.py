"""Checkpoints: save and load without pickled code, rebuild the model, strip for release."""

import errno
import pickle
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.ensemble import Ensemble
from models.inert_pickle import STREAM_HEAD
from models.legacy import fit_state, read_foreign
from models.yolo import DetectionModel
from utils.files import atomic_path
from utils.general import LOGGER, VERSION, git_describe

FORMAT = 1  # of the dict below; a file with a higher number is refused
FOREIGN = "YOLOv5"  # `version` of what the original wrote
FIELDS = {  # name -> what it holds
    "format": "int, see FORMAT",
    "version": "str, VERSION of the program that wrote the file",
    "epoch": "int, last finished epoch; -1 in a stripped file",
    "best_fitness": "float, highest fitness so far, or None",
    "model": "state dict of the model that trains; in a stripped file the averaged one, in float16",
    "ema": "state dict of the averaged model, or None",
    "updates": "int, updates of the average, or None",
    "optimizer": "state dict, or None",
    "scaler": "state dict of the gradient scaler, or None",
    "stopper": "dict of EarlyStopping.state_dict, or None",
    "last_step": "int, iteration of the last optimizer step, or None",
    "maps": "list of float, mAP50-95 of each class at the last validation, or None; missing in older files",
    "rng": "dict of rng_state, or None",
    "yaml": "dict, the model table with ch and nc",
    "names": "dict, class number -> class name",
    "stride": "list of float, pixels per cell of each level",
    "hyp": "dict of Hyp.to_dict with the loss gains fitted to the model (Hyp.scaled), or None",
    "opt": "dict, the options of the run",
    "git": "str, state of the repository, or None",
    "date": "str, ISO time of writing",
}
TRAINING_FIELDS = (
    "ema",
    "updates",
    "optimizer",
    "scaler",
    "stopper",
    "last_step",
    "maps",
    "rng",
    "best_fitness",
)  # None when stripped


def save_checkpoint(path: str | Path, ckpt: Mapping[str, Any]) -> None:
    """Write a checkpoint; after a crash or on a full disk the old file is still there, complete.

    Args:
        path: target; its folder must exist.
        ckpt: the entries of `FIELDS`; format, version, last_step, git and date are filled in if absent. Paths become
            texts, NumPy scalars numbers; tensors are written as they are.

    Raises:
        ValueError: an entry is missing or unknown.
        TypeError: a value is neither plain nor a tensor; names its place.
        OSError: the file cannot be written; names it.
    """
    now = datetime.now().astimezone().isoformat()
    filled = {"format": FORMAT, "version": VERSION, "last_step": None, "maps": None, "date": now, **ckpt}
    if "git" not in filled:
        filled["git"] = git_describe()
    if filled.keys() != FIELDS.keys():
        missing, unknown = sorted(FIELDS.keys() - filled.keys()), sorted(filled.keys() - FIELDS.keys())
        raise ValueError(f"{path}: a checkpoint lacks {missing} and does not know {unknown}")
    plain = {key: _plain(filled[key], key) for key in FIELDS}
    try:
        with atomic_path(path) as tmp, tmp.open("wb") as file:
            torch.save(plain, file)
    except FileNotFoundError:  # the folder; the message says so
        raise
    except (OSError, RuntimeError) as e:  # torch turns a failed write into a RuntimeError
        cause = next((c for c in (e, e.__cause__, e.__context__) if isinstance(c, OSError)), None)
        reason = cause.strerror if cause and cause.strerror else str(e).splitlines()[0]
        code = cause.errno if cause and cause.errno else errno.EIO
        raise OSError(code, f"checkpoint not written: {reason}", str(path)) from e


def _plain(value: Any, where: str) -> Any:
    """Copy containers, keep tensors and plain values, turn paths and NumPy scalars into plain values."""
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {_plain(k, where): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"checkpoint entry {where}: {type(value).__name__} is neither a plain type nor a tensor")


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint; no code in the file is run.

    A checkpoint of the original YOLOv5 (v3.0 to today) gives the entries of a stripped one: its averaged model, which
    was compared with the objects in the file, classes and options. Its training state is left out.

    Args:
        path: file written by `save_checkpoint`, or by the original YOLOv5.
        device: where the tensors go.

    Returns:
        The entries of `FIELDS`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint, a damaged one, one with pickled objects other than those of YOLOv5, or one of a newer
            format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint (looked in {path.absolute().parent})")
    if _is_foreign(path):
        return _load_foreign(path, device)
    try:
        ckpt = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise ValueError(f"{path}: refused by PyTorch's safe loader: {str(e).partition(chr(10))[0]}") from e
    if not isinstance(ckpt, dict) or not isinstance(ckpt.get("format"), int):
        raise ValueError(f"{path}: a PyTorch file, but no checkpoint of this program (no entry 'format')")
    if ckpt["format"] > FORMAT:
        raise ValueError(
            f"{path}: written in format {ckpt['format']} by version {ckpt.get('version')}; this is version {VERSION}, "
            f"which reads up to format {FORMAT}. Update the program"
        )
    ckpt.setdefault("maps", None)
    missing = [key for key in FIELDS if key not in ckpt]
    if missing:
        raise ValueError(f"{path}: this checkpoint lacks {', '.join(missing)}")
    return ckpt


def _is_foreign(path: Path) -> bool:
    """Tell whether a file is a checkpoint of the original YOLOv5; its pickle is read as text.

    Raises:
        ValueError: the file is not whole, no checkpoint, or names objects of another kind.
    """
    with path.open("rb") as file:
        if file.read(len(STREAM_HEAD)) == STREAM_HEAD:
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if archive.testzip():  # torch.load itself does not compare checksums
                raise zipfile.BadZipFile
            data = [archive.read(name) for name in names if name.endswith("/data.pkl")]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):  # also encrypted, or packed in an unknown way
        raise ValueError(f"{path}: not a checkpoint, or a damaged one: no complete PyTorch archive") from None
    if not data or any(name.endswith("/constants.pkl") for name in names):  # the second is TorchScript
        raise ValueError(f"{path}: not a checkpoint (an archive of another kind)")
    try:
        ops = [(code.name, arg) for code, arg, _ in pickletools.genops(data[0])]
    except ValueError as e:
        raise ValueError(f"{path}: this checkpoint is damaged: {e}") from None
    found = {arg for name, arg in ops if name == "GLOBAL"}
    if any(name == "STACK_GLOBAL" for name, _ in ops):  # protocol 4 puts module and name on the stack as texts
        found |= {arg for _, arg in ops if isinstance(arg, str) and arg.startswith("models.")}
    if any(name.startswith("models.") for name in found):
        return True
    found = {name for name in found if not name.startswith(("torch ", "torch._utils ", "collections OrderedDict"))}
    if found:
        names = ", ".join(sorted(name.replace(" ", ".") for name in found))
        raise ValueError(f"{path}: refused, the file holds Python objects that could run code when loaded ({names})")
    return False


def _load_foreign(path: Path, device: str | torch.device) -> dict[str, Any]:
    """Read a checkpoint of the original YOLOv5 into the entries of a stripped one of ours."""
    foreign = read_foreign(path)
    try:
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
        "git": foreign.git,
        "date": foreign.date,
    }
    return {key: fields[key] for key in FIELDS}


def refuse_foreign_resume(ckpt: Mapping[str, Any], path: str | Path) -> None:
    """Raise ValueError if a checkpoint comes from the original YOLOv5: a training cannot go on from it."""
    if ckpt["version"] == FOREIGN:
        raise ValueError(
            f"{path}: written by the original YOLOv5, of which only the weights are taken, so this training cannot be "
            f"resumed. Start a new one with --weights {path}"
        )


def strip_optimizer(f: str | Path, s: str | Path = "") -> None:
    """Reduce a checkpoint to what detection needs: the averaged model in float16, classes, tables, options.

    The anchors and numbers that float16 cannot hold keep their precision. Such a file cannot be resumed.

    Args:
        f: checkpoint to read.
        s: file to write; "" replaces `f`.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`.
        OSError: the file cannot be written.
    """
    ckpt = load_checkpoint(f)
    state = _weights(ckpt)
    ckpt |= dict.fromkeys(TRAINING_FIELDS)
    ckpt |= {"epoch": -1, "model": {k: v if k.endswith("anchors") else _half(v) for k, v in state.items()}}
    target = Path(s or f)
    save_checkpoint(target, ckpt)
    LOGGER.info(f"optimizer stripped from {f}{f', saved as {s}' if s else ''}, {target.stat().st_size / 1e6:.1f} MB")


def _half(x: Tensor) -> Tensor:
    """Return floats as float16 unless one of them is too large for it."""
    half = x.half() if x.is_floating_point() else x
    return half if torch.isfinite(half).all() else x


def _weights(ckpt: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights, in a stripped file those of the model."""
    return ckpt["model"] if ckpt["ema"] is None else ckpt["ema"]


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
    model = DetectionModel(cfg=table, ch=table["ch"], nc=table["nc"], verbose=False)
    try:
        model.load_state_dict(_weights(ckpt), strict=True)
    except RuntimeError as e:
        raise ValueError(f"the weights of this checkpoint do not fit its own model table: {e}") from None
    model.names = dict(ckpt["names"])
    model.hyp = None if ckpt["hyp"] is None else dict(ckpt["hyp"])
    model = model.float().eval()
    return model.fuse() if fuse else model


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: str | torch.device | None = None,
    fuse: bool = True,
    window: int | Sequence[int] | None = None,
) -> DetectionModel | Ensemble:
    """Load a model for detection: averaged weights, float32, evaluation mode.

    Args:
        weights: checkpoint file; a list of several makes an `Ensemble`, of one the model.
        device: where the model goes; None is the CPU.
        fuse: merge every BatchNorm into its convolution.
        window: another window for the Swin stages, or one for each (`DetectionModel.set_window`).

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint` and `build_model`; models with different classes; a window
            that does not fit.
    """
    if not isinstance(weights, str | Path):
        models = [attempt_load(file, device, fuse, window) for file in weights]
        return models[0] if len(models) == 1 else Ensemble(models)
    model = build_model(load_checkpoint(weights))
    if window:
        model.set_window(window)
    return (model.fuse() if fuse else model).to(device or "cpu")
