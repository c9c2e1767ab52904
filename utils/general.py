"""YOLOv5's address of its helpers: what has YOLOv5's call form is re-exported, thin functions adapt the rest.

For scripts that were written for YOLOv5. Nothing of this project imports it; the functions below call those of
other files, which new code imports directly. docs/coming-from-yolov5.md says what differs.
"""

# ruff: noqa: F401  a door: it imports to pass on, the libraries too, which `from utils.general import *` gives to scripts
from __future__ import annotations

import glob
import importlib.metadata
import inspect
import logging
import math
import os
import platform
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import repeat
from multiprocessing.pool import ThreadPool
from pathlib import Path
from subprocess import check_output
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from utils import boxes as box_tools
from utils import downloads, nms, paths, torch_utils
from utils.autoanchor import kmean_anchors
from utils.boxes import Array, xywh2xyxy, xywhn2xyxy, xyxy2xywh, xyxy2xywhn
from utils.console import (
    ANSI,
    ANSI_END,
    LOGGER,
    TQDM_BAR_FORMAT,
    ConsoleHandler,
    OneLine,
    TryExcept,
    cli_errors,
    colorstr,
    emojis,
    log_options,
    threaded,
)
from utils.datasets import dataset, output_names, sampling
from utils.downloads import attempt_download, is_url
from utils.files import unpack, yaml_load, yaml_save
from utils.loss import FocalLoss, compute_loss, smooth_BCE
from utils.metrics import ap_per_class, bbox_iou, box_iou, fitness, wh_iou
from utils.paths import HOME, ROOT, VERSION, command, git_describe, increment_path, run_folder, settings_folder
from utils.plots import plot_images, plot_one_box, save_one_box
from utils.torch_utils import Profile, intersect_dicts

FILE = Path(__file__).resolve()
RANK = torch_utils.RANK
NUM_THREADS = min(8, max(1, (os.cpu_count() or 1) - 1))
DATASETS_DIR = Path(os.environ.get("YOLOv5_DATASETS_DIR", HOME.absolute().parent / "datasets"))
AUTOINSTALL = False  # nothing is installed here
FONT = "Arial.ttf"
CONFIG_DIR = settings_folder()  # nothing here writes into it
NCOLS = 0 if "COLUMNS" not in os.environ else int(os.environ["COLUMNS"])  # 0: the progress bar has no fixed width
LAZY = ("check_img_size", "make_divisible", "strip_optimizer", "save_one_txt")


def __getattr__(name: str) -> Any:
    """Return a name from `models` or `engine`, which import this package."""
    if name in ("check_img_size", "make_divisible"):
        from models import image_size  # noqa: PLC0415

        return getattr(image_size, name)
    if name == "strip_optimizer":
        from models.weights.checkpoint import strip_optimizer  # noqa: PLC0415

        return strip_optimizer
    if name == "save_one_txt":
        from engine.results.files import save_one_txt  # noqa: PLC0415

        return save_one_txt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Boxes ----------------------------------------------------------------------------------------------------------------
def non_max_suppression(
    prediction: Tensor | list[Any] | tuple[Any, ...],
    conf_thres: float = nms.CONF_THRES,
    iou_thres: float = nms.IOU_THRES,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nm: int = 0,
) -> list[Tensor]:
    """Do what `utils.nms.non_max_suppression` does; `nm`, the mask coefficients of a row, must be 0."""  # noqa: D417
    if nm:
        raise NotImplementedError(f"only detection is here: nm={nm} belongs to segmentation of YOLOv5")
    return nms.non_max_suppression(
        prediction, conf_thres, iou_thres, classes, agnostic, multi_label, labels, max_det=max_det
    )


def scale_boxes(img1_shape: tuple[int, int], boxes: Array, img0_shape: tuple[int, int], ratio_pad: Any = None) -> Array:
    """Do what `utils.boxes.scale_boxes` does, in place too; return the changed argument."""
    boxes[..., :4] = box_tools.scale_boxes(img1_shape, boxes[..., :4], img0_shape, ratio_pad)
    return boxes


def clip_boxes(boxes: Array, shape: tuple[float, float]) -> Array:
    """Do what `utils.boxes.clip_boxes` does, in place too; return the changed argument."""
    boxes[..., :4] = box_tools.clip_boxes(boxes[..., :4], shape)
    return boxes


scale_coords, clip_coords = scale_boxes, clip_boxes  # their names up to 6.2


def xyn2xy(x: Array, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Array:
    """Turn points (P, 2) in fractions into pixels of a padded image, see `utils.boxes.xywhn2xyxy`."""
    y = x * 1.0
    y[..., 0], y[..., 1] = w * x[..., 0] + padw, h * x[..., 1] + padh
    return y


def segment2box(segment: NDArray, width: int = 640, height: int = 640) -> NDArray:
    """Return the corners (4,) around the points (P, 2) of a polygon that lie in an image; zeros without any."""
    inside = segment[((segment >= 0) & (segment <= (width, height))).all(1)]
    return np.concatenate((inside.min(0), inside.max(0))) if len(inside) else np.zeros(4)


def segments2boxes(segments: Sequence[NDArray]) -> NDArray:
    """Return the boxes (M, 4) `xywh` around polygons (P, 2)."""
    corners = [np.concatenate((s.min(0), s.max(0))) for s in segments]
    return xyxy2xywh(np.array(corners).reshape(-1, 4))


def resample_segments(segments: list[NDArray], n: int = 1000) -> list[NDArray]:
    """Replace the points of closed polygons, in the list itself, by (n, 2) float32 spread evenly over their points."""
    for i, s in enumerate(segments):
        closed = np.concatenate((s, s[:1]))
        at = np.linspace(0, len(closed) - 1, n)
        segments[i] = np.stack([np.interp(at, range(len(closed)), closed[:, k]) for k in (0, 1)], 1).astype(np.float32)
    return segments


def scale_segments(
    img1_shape: tuple[int, int],
    segments: Array,
    img0_shape: tuple[int, int],
    ratio_pad: Any = None,
    normalize: bool = False,
) -> Array:
    """Map points (P, 2) from the network input to the original image, in place, as `scale_boxes` does with corners.

    With `normalize` they become fractions of that image.
    """
    xp = torch if isinstance(segments, Tensor) else np
    points = box_tools.scale_boxes(img1_shape, xp.concatenate((segments, segments), 1), img0_shape, ratio_pad)[:, :2]
    segments[:, 0] = points[:, 0] / (img0_shape[1] if normalize else 1)
    segments[:, 1] = points[:, 1] / (img0_shape[0] if normalize else 1)
    return segments


# Files ----------------------------------------------------------------------------------------------------------------
def check_suffix(file: Any = "yolov5s.pt", suffix: str | Iterable[str] = (".pt",), msg: str = "") -> None:
    """Raise ValueError if a file, or one of several, has another suffix than those allowed; none is allowed too."""
    allowed = [s for s in ([suffix] if isinstance(suffix, str) else suffix) if s]
    for f in file if isinstance(file, list | tuple) else [file]:
        found = Path(f).suffix.lower()
        if file and allowed and found and found not in allowed:
            raise ValueError(f"{msg}{f}: expected a file ending in {' or '.join(allowed)}")


def check_file(file: str | Path, suffix: str | Iterable[str] = "") -> str:
    """Find a file as `utils.paths.check_file` does; a URL is fetched into the working folder, "" stays.

    Raises:
        ValueError, FileNotFoundError, OSError: there is no such file, or several.
    """
    check_suffix(file, suffix)
    if not str(file):
        return ""
    return attempt_download(file) if is_url(file) else str(paths.check_file(file))


def check_yaml(file: str | Path, suffix: Iterable[str] = (".yaml", ".yml")) -> str:
    """Find a YAML file, see `check_file`."""
    return check_file(file, suffix)


def check_dataset(data: str | Path | dict, autodownload: bool = True) -> dict[str, Any]:
    """Read a dataset YAML as `utils.datasets.dataset.check_dataset` does.

    Args:
        data: path or content.
        autodownload: nothing is downloaded here, but the demonstration set is drawn if its YAML asks for it.
    """
    found = dataset.check_dataset(data)
    if isinstance(data, dict):
        data.update(found)  # up to 5.0 the caller looked at its own dict
    return found


def get_latest_run(search_dir: str | Path = ".") -> str:
    """Return the newest checkpoint below a folder as text, "" without one; see `utils.paths.get_latest_run`."""
    return str(paths.get_latest_run(search_dir) or "")


def file_size(path: str | Path) -> float:
    """Return the size of a file, or of all files in a folder, in MiB; 0 if there is none."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file()) / 2**20


def url2file(url: str) -> str:
    """Return the file name of a URL, without its query."""
    return Path(unquote(urlsplit(str(url)).path)).name


def clean_str(s: str) -> str:
    """Return a text with `_` for every sign but letters, digits, spaces, `_`, `-`, `.`, slash and backslash."""
    return re.sub(r"[^\w\s./\\-]", "_", s)


def unzip_file(
    file: str | Path, path: str | Path | None = None, exclude: Iterable[str] = (".DS_Store", "__MACOSX")
) -> None:
    """Unpack a ZIP file.

    Args:
        file: ZIP file.
        path: folder to write into; None is that of the file.
        exclude: files with one of these texts in their path are left out.

    Raises:
        ValueError, OSError: see `utils.files.unpack`, which checks all names and sizes first.
    """
    unpack(file, path or Path(file).parent, exclude=tuple(exclude))


def download(
    url: str | Path | Iterable[str | Path],
    dir: str | Path = ".",
    unzip: bool = True,
    delete: bool = True,
    curl: bool = False,
    threads: int = 1,
    retry: int = 3,
) -> None:
    """Download files into a folder (`utils.downloads.download`) and unpack those that end in .zip.

    Args:
        url: one or several URLs.
        dir: folder, made if needed.
        unzip: unpack ZIP files into it.
        delete: delete a ZIP file that was unpacked.
        curl: YOLOv5 then calls the program curl; there is one downloader here.
        threads: files that are downloaded at the same time.
        retry: attempts after a first one that failed.

    Raises:
        ValueError, OSError: from the last attempt.
    """

    def get(one: str | Path) -> None:
        for left in reversed(range(retry + 1)):
            try:
                file = downloads.download(str(one), dir)
                break
            except OSError:
                if not left:
                    raise
        if unzip and file and file.suffix == ".zip":
            unzip_file(file, dir)
            if delete:
                file.unlink()

    Path(dir).mkdir(parents=True, exist_ok=True)
    with ThreadPool(max(threads, 1)) as pool:
        pool.map(get, [url] if isinstance(url, str | Path) else list(url))


def user_config_dir(dir: str = "yolov5-swinv2", env_var: str = "YOLOV5_CONFIG_DIR") -> Path:
    """Return the folder of this user's settings, and make it.

    Args:
        dir: its name inside the folder that the operating system has for settings.
        env_var: environment variable that names another folder.
    """
    path = settings_folder(dir, env_var)
    path.mkdir(parents=True, exist_ok=True)
    return path


def file_date(path: str | Path = __file__) -> str:
    """Return when a file was last changed, such as "2026-8-1"."""
    changed = datetime.fromtimestamp(Path(path).stat().st_mtime).astimezone()
    return f"{changed.year}-{changed.month}-{changed.day}"


def is_writeable(dir: str | Path, test: bool = False) -> bool:
    """Whether files can be made in a folder; `test` changes nothing, the system is asked either way."""
    return os.access(dir, os.W_OK | os.X_OK)


# What the machine has -------------------------------------------------------------------------------------------------
def check_version(
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Whether a version is at least a minimum, or, if `pinned`, the same; only its numbers count.

    Raises:
        ValueError: `hard`, and it is not.
    """
    have, want = (([int(n) for n in re.findall(r"\d+", v.partition("+")[0])] + [0] * 4)[:4] for v in (current, minimum))
    fits = have == want if pinned else have >= want
    text = f"{name}{minimum} is required, but {name}{current} is installed"
    if hard and not fits:
        raise ValueError(text)
    if verbose and not fits:
        LOGGER.warning(text)
    return fits


def check_python(minimum: str = "3.10") -> None:
    """Raise ValueError if Python is older."""
    check_version(platform.python_version(), minimum, name="Python ", hard=True)


def check_requirements(
    requirements: str | Path | Iterable[str] = ROOT / "requirements.txt",
    exclude: Iterable[str] = (),
    install: bool = True,
    cmds: str = "",
) -> bool:
    """Log which packages are missing or too old; nothing is installed.

    Args:
        requirements: a requirements file (Path), or one or several lines of one such as "numpy>=1.20".
        exclude: names that do not matter.
        install: as in YOLOv5, where pip runs; here the log says what to install.
        cmds: see `install`.

    Returns:
        Whether nothing is missing.

    Raises:
        FileNotFoundError: the file is missing.
    """
    if isinstance(requirements, Path):
        requirements = requirements.read_text(encoding="utf-8").splitlines()
    lines = [requirements] if isinstance(requirements, str) else requirements
    missing = []
    for line in (line.partition("#")[0].strip() for line in lines):
        parts = re.fullmatch(r"(\w[\w.-]*)(?:\[[^]]*\])?\s*(?:>=\s*([\w.]+))?.*", line)
        if not parts or parts[1] in exclude:
            continue
        try:
            fits = check_version(importlib.metadata.version(parts[1]), parts[2] or "0")
        except importlib.metadata.PackageNotFoundError:
            fits = False
        if not fits:
            missing.append(line)
    if missing:
        line = command("pip", "install", "-r", ROOT / "requirements.txt")
        LOGGER.warning(f"requirements not met: {', '.join(missing)}. Install them: {line}")
    return not missing


def has_display() -> bool:
    """Whether a window can be opened: a screen, and an OpenCV that knows windows."""
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return False  # OpenCV would end the process
    return not re.search(r"GUI:\s+NONE", cv2.getBuildInformation())


def check_imshow(warn: bool = False) -> bool:
    """Whether images can be shown in windows.

    Args:
        warn: log it if not.
    """
    shown = has_display() and not is_docker() and not is_notebook()
    if warn and not shown:
        LOGGER.warning("images cannot be shown here: no screen, or an OpenCV without windows")
    return shown


def is_ascii(s: Any = "") -> bool:
    """Whether the text of a value has ASCII characters only."""
    return str(s).isascii()


def print_mutation(*_: Any, **__: Any) -> NoReturn:
    """Refuse to record a generation of an evolution.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("train.py --evolve records its generations itself, see engine.training.evolve")


def is_docker() -> bool:
    """Whether this process runs in a Docker container."""
    return Path("/.dockerenv").exists()


def is_colab() -> bool:
    """Whether this process runs in Google Colab."""
    return "google.colab" in sys.modules


def is_kaggle() -> bool:
    """Whether this process runs in a Kaggle notebook."""
    return os.environ.get("PWD") == "/kaggle/working" and "KAGGLE_URL_BASE" in os.environ


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


is_jupyter = is_notebook  # its name in YOLOv5's master


def check_online() -> bool:
    """Return False: nothing here needs the network."""
    return False


def check_git_status(*_: Any, **__: Any) -> None:
    """Do nothing: the checkout is not compared with a server."""


def check_git_info(path: str | Path = ".") -> dict[str, None]:
    """Return remote, branch and commit, all None: `git_describe` has the version of this tree."""
    return {"remote": None, "branch": None, "commit": None}


def check_font(font: str = FONT, progress: bool = False) -> None:
    """Do nothing: the fonts come with matplotlib and the system."""


def check_amp(model: nn.Module) -> bool:
    """Whether a model can be trained in mixed precision: on CUDA."""
    return next(model.parameters()).device.type == "cuda"


# Log lines ------------------------------------------------------------------------------------------------------------
def set_logging(*_: Any, **__: Any) -> logging.Logger:
    """Return the logger of this project, which needs no setting up; takes the arguments of every release."""
    return LOGGER


def print_args(args: Any = None, show_file: Any = True, show_func: bool = False) -> None:
    """Log options in one line, see `utils.console.log_options`.

    Args:
        args: mapping; None for the arguments of the caller. Or, as in 6.0 and 6.1, a name.
        show_file: begin with the file of the caller. Or, after a name, a Namespace.
        show_func: begin with the function of the caller.
    """
    frame = sys._getframe(1)
    if isinstance(args, str):
        log_options(args, vars(show_file))
        return
    if args is None:
        names, _, _, values = inspect.getargvalues(frame)
        args = {name: values[name] for name in names}
    start = [Path(frame.f_code.co_filename).stem] if show_file else []
    log_options(": ".join(start + ([frame.f_code.co_name] if show_func else [])) or "options", args)


def methods(instance: object) -> list[str]:
    """Return the names of the public methods of an object."""
    return [name for name in dir(instance) if not name.startswith("_") and callable(getattr(instance, name))]


@contextmanager
def WorkingDirectory(new_dir: str | Path) -> Iterator[None]:
    """Change the working folder while a block or function runs."""
    before = Path.cwd()
    os.chdir(new_dir)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def Timeout(seconds: int, *, timeout_msg: str = "", suppress_timeout_errors: bool = True) -> Iterator[None]:
    """Stop a block or function after some seconds; on Windows, and outside the main thread, let it run on.

    Args:
        seconds: how long it may take.
        timeout_msg: of the error.
        suppress_timeout_errors: go on after the block instead of raising TimeoutError.
    """

    def break_off(*_: Any) -> NoReturn:
        raise TimeoutError(timeout_msg)

    possible = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, break_off) if possible else None
    try:
        if possible:
            signal.alarm(int(seconds))
        yield
    except TimeoutError:
        if not suppress_timeout_errors:
            raise
    finally:
        if possible:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


# Training -------------------------------------------------------------------------------------------------------------
def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Seed all random numbers, see `utils.torch_utils.init_seeds`."""
    torch_utils.init_seeds(seed, deterministic)


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """Return a function of the step that goes from y1 to y2 along a cosine."""
    return lambda x: y1 + (y2 - y1) * (1 - math.cos(math.pi * x / steps)) / 2


def labels_to_class_weights(labels: Sequence[NDArray], nc: int = 80) -> Tensor:
    """Weigh classes by how rare they are, see `utils.datasets.sampling.class_weights`; (nc,) float32, sum 1."""
    return torch.from_numpy(sampling.class_weights(labels, nc) / nc).float()


def labels_to_image_weights(labels: Sequence[NDArray], nc: int = 80, class_weights: NDArray | None = None) -> NDArray:
    """Weigh images by the sum of the weights of their labels' classes, (images,).

    Args:
        labels: for each image (M, 5) `[class, ...]`.
        nc: number of classes.
        class_weights: (nc,); None weighs all alike.
    """
    weights = np.ones(nc) if class_weights is None else np.asarray(class_weights).reshape(nc)
    return sampling.image_weights(labels, np.zeros(nc), weights * nc)


def coco80_to_coco91_class() -> list[int]:
    """Return COCO's category number of each of its 80 classes."""
    return list(output_names.COCO_CATEGORIES)


def apply_classifier(x: Any, model: Any, img: Any, im0: Any) -> NoReturn:
    """Refuse to filter detections by a second network, as scripts do behind `classify = True`.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("second-stage classifiers are not here; leave classify = False")


# `from utils.general import *` gives everything public, the lazy names too
__all__ = [name for name in globals() if not name.startswith("_")] + list(LAZY)  # noqa: PLE0604, PLE0605
