"""Device, seeds, timing, fusing, pruning, averaged weights and early stopping."""

import ctypes
import math
import mmap
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ContextDecorator, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.optim import Optimizer

from utils.console import LOGGER, colorstr
from utils.optim import build_optimizer, describe_optimizer
from utils.paths import VERSION
from utils.paths import git_describe as git_describe

LOCAL_RANK, RANK = (int(os.environ.get(name, "-1")) for name in ("LOCAL_RANK", "RANK"))  # -1 without torchrun
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 2**31 - 1  # of mallopt(3)
HUGE_PAGE = 2 << 20  # bytes

# Device -------------------------------------------------------------------------------------------------------------


def select_device(
    device: str | torch.device | None = "", batch_size: int | None = 0, newline: bool = False
) -> torch.device:
    """Choose the device of a run and log it in one line.

    Args:
        device: "" or "none" = first CUDA device if there is one, else the CPU; "cpu"; "mps"; CUDA ids such as "0",
            "0,1" or "cuda:0". Ids count the devices that CUDA_VISIBLE_DEVICES leaves visible.
        batch_size: images per step over all devices; checked when several are given, 0 or None is unknown.
        newline: log an empty line after it.

    Without CUDA the process is set up for computing on the CPU too, see `limit_threads` and `keep_freed_memory`.

    Returns:
        The CPU, MPS, or the first of the CUDA devices, which becomes the current one. With several ids the caller must
        share out the work itself (`parse_device` gives the ids): a warning says that only the first works otherwise.

    Raises:
        ValueError: bad syntax, a device that does not exist, or a batch that several devices cannot share evenly.
    """
    kind, ids = parse_device(str(device))
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind, ids = ("cuda", [0]) if available else ("cpu", [])
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps': this machine or this PyTorch has no MPS. Use --device cpu")
    missing = [i for i in ids if i >= available]
    if missing:
        found = (
            f"ids 0 to {available - 1} exist" if available else "PyTorch finds no CUDA device here. Use --device cpu"
        )
        raise ValueError(f"device {str(device)!r}: no CUDA device {', '.join(map(str, missing))}; {found}")
    if len(ids) > 1 and batch_size and batch_size % len(ids):
        raise ValueError(
            f"batch size {batch_size} cannot be divided among {len(ids)} devices: use a multiple of {len(ids)}"
        )

    names = [_cuda_name(i) for i in ids] or [kind.upper()]
    LOGGER.info(
        f"YOLOv5-SwinV2 {git_describe() or VERSION}  Python {platform.python_version()}  "
        f"torch {torch.__version__}  {', '.join(names)}"
    )
    if newline:
        LOGGER.info("")
    if len(ids) > 1:
        LOGGER.warning(f"several devices were given, but this program uses only {names[0]}")
    if kind != "cuda":
        limit_threads()
        keep_freed_memory()
        return torch.device(kind)
    torch.cuda.set_device(ids[0])
    return torch.device("cuda", ids[0])


def limit_threads() -> None:
    """Let PyTorch compute with all processors but one, at most 8: the last one feeds it.

    Threads that share a processor with the loader's processes wait for each other in every layer (three times slower on
    two processors). The environment variable OMP_NUM_THREADS decides where it is set.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(8, max(1, (os.cpu_count() or 1) - 1)))


def keep_freed_memory() -> None:
    """Let the C library of Linux keep what this process frees for its next tensors, up to what it once needed.

    It would give the maps of a large batch back in every step and ask for them again, at a page fault per 4 KiB: a
    tenth of a training step on the CPU, a third of the time of a mosaic at 640 pixels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for option in M_TRIM_THRESHOLD, M_MMAP_THRESHOLD:
            mallopt(option, KEPT_BYTES)


def use_huge_pages(device: torch.device) -> None:
    """For training on the CPU: let Linux back the next 2 GiB of the heap with pages of 2 MiB.

    The maps of a training step cover hundreds of MiB: with pages of 4 KiB the processor looks up addresses for a
    twentieth of the time. Only addresses are reserved here. The first touch of such a page takes longer, which does not
    pay for itself in shorter work. Where Linux gives these pages to all programs or to none, nothing changes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if libc is None or not all(hasattr(libc, name) for name in ("mallopt", "sbrk", "madvise")):
        return
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = -(-libc.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    reserved = libc.malloc(KEPT_BYTES - HUGE_PAGE)  # below the limit from which on memory lies outside the heap
    end = libc.sbrk(0)
    if start < end:  # another allocator, or a limit of the system, leaves the heap as it is
        libc.madvise(start, end - start, mmap.MADV_HUGEPAGE)
    libc.free(reserved)


def parse_device(text: str) -> tuple[str, list[int]]:
    """Split the text of --device into a kind ("auto", "cpu", "mps", "cuda") and CUDA ids.

    Raises:
        ValueError: neither of these forms, or an id twice.
    """
    name = text.strip().lower()
    if name in ("", "none"):
        return "auto", []
    if name.removesuffix(":0") in ("cpu", "mps"):
        return name.removesuffix(":0"), []
    ids = ["0"] if name == "cuda" else name.replace("cuda:", "").replace(" ", "").split(",")
    if not all(i.isascii() and i.isdigit() for i in ids) or len({int(i) for i in ids}) < len(ids):
        raise ValueError(f"device {text!r}: expected '', 'cpu', 'mps' or CUDA ids such as '0' or '0,1'")
    return "cuda", [int(i) for i in ids]


def _cuda_name(index: int) -> str:
    """Describe a CUDA device: id, name, memory."""
    p = torch.cuda.get_device_properties(index)
    return f"CUDA:{index} ({p.name}, {p.total_memory / 2**20:.0f} MiB)"


def amp_context(device: torch.device | str, dtype: torch.dtype | None) -> AbstractContextManager:
    """Return a context that computes in mixed precision of `dtype` on `device`; None computes as the tensors are."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def time_sync() -> float:
    """Return seconds of a clock that only differences are taken of, after the work of CUDA is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


time_synchronized = time_sync  # its name in YOLOv5 up to 5.0


def smart_inference_mode() -> Callable:
    """Return a decorator that runs a function without gradients, in inference mode.

    Tensors made inside can never take part in a backward pass: do not keep them as caches of a model that trains.
    """
    return torch.inference_mode()


class Profile(ContextDecorator):
    """Measure wall-clock time of a block, or of every call of a function, CUDA work included.

    Args:
        t: seconds to start with.
        device: device of the work; that of another one than CUDA is not waited for. None waits for any CUDA work.

    Attributes:
        t: seconds of all uses together.
        dt: seconds of the last use.
    """

    def __init__(self, t: float = 0.0, device: torch.device | str | None = None) -> None:
        self.t = t
        self.dt = 0.0
        self._now = time_sync if device is None or torch.device(device).type == "cuda" else time.perf_counter

    def __enter__(self) -> "Profile":
        self._start = self._now()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.dt = self._now() - self._start
        self.t += self.dt


# Seeds --------------------------------------------------------------------------------------------------------------


def init_seeds(seed: int = 0, deterministic: bool = True) -> None:
    """Seed Python, NumPy and torch (CPU and every CUDA device).

    Args:
        seed: any whole number from 0 to 2**32 - 1.
        deterministic: also ask torch for deterministic algorithms; an operation that has none warns and runs. Two runs
            on the same machine with the same versions and thread count then give the same numbers. False lifts this.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  ours draw from Generators, but libraries may use the global state
    torch.manual_seed(seed)  # CUDA too
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ["PYTHONHASHSEED"] = str(seed)
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")  # without loading the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing reads such memory
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False


# Models -------------------------------------------------------------------------------------------------------------


def is_parallel(model: nn.Module) -> bool:
    """Whether a model is wrapped in DataParallel or DistributedDataParallel."""
    return de_parallel(model) is not model


def de_parallel(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel or DistributedDataParallel, other models as they are."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def model_info(model: nn.Module, verbose: bool = False, imgsz: int = 640) -> tuple[int, int, int, float]:
    """Log the size of a model in one line.

    Args:
        model: a DetectionModel, or any module; only the former knows its GFLOPs.
        verbose: log a line for each parameter before.
        imgsz: side of the image that GFLOPs are counted for, pixels.

    Returns:
        Layers without children, parameters, parameters with a gradient, and GFLOPs (0 where unknown).
    """
    if verbose:
        for name, p in model.named_parameters():
            LOGGER.info(f"{name:>40} {'gradient' if p.requires_grad else 'frozen':>9} {p.numel():>9} {list(p.shape)}")
    parameters = sum(p.numel() for p in model.parameters())
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad)
    layers = sum(1 for module in model.modules() if not list(module.children()))
    count: Any = getattr(model, "gflops", None)
    gflops = count(imgsz) if count else 0.0
    name = Path(getattr(model, "yaml_file", None) or "Model").stem
    LOGGER.info(
        f"{colorstr(name)} summary: {layers} layers, {parameters} parameters, {gradients} gradients"
        + (f", {gflops:.1f} GFLOPs at {imgsz}" if gflops else "")
    )
    return layers, parameters, gradients, gflops


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize a batch of images (B, 3, H, W), 0..1, to int(ratio * side), bilinear.

    Args:
        img: images.
        ratio: factor of both sides; 1 returns the images as they are.
        same_shape: leave the result unpadded; else it is padded at the right and bottom, with 0.447, the mean of
            photographs.
        gs: the padded sides are multiples of it, those of the wanted size before it was cut to whole pixels.
    """
    if ratio == 1.0:
        return img
    height, width = img.shape[2:]
    size = int(height * ratio), int(width * ratio)
    img = F.interpolate(img, size=size, mode="bilinear", align_corners=False)
    if same_shape:
        return img
    bottom, right = (math.ceil(side * ratio / gs) * gs for side in (height, width))
    return F.pad(img, (0, right - size[1], 0, bottom - size[0]), value=0.447)


def find_modules(model: nn.Module, mclass: type[nn.Module] = nn.Conv2d) -> list[int]:
    """Return the indices of the layers of a model (`model.model` or a Sequential) that are of a class."""
    layers: Any = getattr(model, "model", model)
    return [i for i, m in enumerate(layers) if isinstance(m, mclass)]


def sparsity(model: nn.Module) -> float:
    """Return the fraction of the parameters of a model that are 0."""
    zeros, count = (sum(f(p) for p in model.parameters()) for f in (lambda p: int((p == 0).sum()), Tensor.numel))
    return zeros / max(count, 1)


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set the fraction `amount` of the weights of each Conv2d to 0, those closest to it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.l1_unstructured(module, name="weight", amount=amount)
            torch_prune.remove(module, "weight")
    LOGGER.info(f"Model pruned to {sparsity(model):.3g} global sparsity")


def load_classifier(name: str = "resnet101", n: int = 2) -> NoReturn:
    """Refuse to load a second network for crops, as scripts do behind `classify = True`.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("second-stage classifiers are not here; leave classify = False")


def is_counter(key: str) -> bool:
    """Whether an entry of a state dict is a counter that `thop.profile` left on a module, not part of the model."""
    return key.rpartition(".")[2] in ("total_ops", "total_params")


def without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a state dict that are no counters of a profiler."""
    return {key: value for key, value in state.items() if not is_counter(key)}


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a complete state dict; only counters of a profiler may be missing or left over, on either side.

    Raises:
        ValueError: other entries are missing or unknown, or a shape differs.
    """
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as e:
        raise ValueError(f"{e!s:.500}") from None
    for keys, what in ((missing, "missing"), (unknown, "not in the model")):
        keys = [key for key in keys if not is_counter(key)]
        if keys:
            raise ValueError(f"weights {what}: {keys[0]!r:.100}{f' and {len(keys) - 1} more' if keys[1:] else ''}")


def copy_attr(a: object, b: object, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
    """Set on `a` the public attributes of `b`.

    Args:
        a: object to change.
        b: object to read.
        include: the names to copy; () copies all that `b` holds itself.
        exclude: names left out; private names (`_x`) always are.
    """
    include, exclude = tuple(include), set(exclude)
    for name, value in vars(b).items():
        if not name.startswith("_") and name not in exclude and (not include or name in include):
            setattr(a, name, value)


def intersect_dicts(
    da: Mapping[str, Tensor], db: Mapping[str, Tensor], exclude: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return the entries of `da` whose key and shape are in `db` too and whose key has none of the texts `exclude`."""
    exclude = tuple(exclude)
    return {
        key: value
        for key, value in da.items()
        if key in db and value.shape == db[key].shape and not any(text in key for text in exclude)
    }


def initialize_weights(model: nn.Module) -> None:
    """Give every BatchNorm2d the constants of YOLOv5, eps 1e-3 and momentum 0.03; weights stay at PyTorch's start."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03


@torch.no_grad()
def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that does what `bn(conv(x))` does in evaluation; both arguments stay as they are.

    W' = W * g / sqrt(var + eps) per output channel, b' = beta + (b - mean) * g / sqrt(var + eps). Grouped convolutions
    and any memory format work. The new parameters are leaves that need no gradient.

    Raises:
        ValueError: `bn` keeps no running statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("cannot fuse a BatchNorm2d without running statistics (track_running_stats=False)")
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device="meta",  # no random numbers drawn
    ).train(conv.training)
    scale = torch.rsqrt(bn.running_var.float() + bn.eps)  # (C2,)
    scale = scale if bn.weight is None else scale * bn.weight.float()
    shift = -bn.running_mean.float() if conv.bias is None else conv.bias.float() - bn.running_mean.float()
    bias = shift * scale if bn.bias is None else shift * scale + bn.bias.float()
    weight = conv.weight.float() * scale[:, None, None, None]  # (C2, C1 / groups, k, k)
    fused.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    fused.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return fused


# Training -----------------------------------------------------------------------------------------------------------


class ModelEMA:
    """Exponential moving average of a model's weights and buffers, kept in a copy in evaluation mode.

    After u updates the old average weighs decay * (1 - exp(-u / tau)), so the first updates nearly copy the model.
    Whole-number entries of the state dict are not averaged.

    Args:
        model: model to follow, wrapped or not.
        decay: weight of the old average after many updates.
        tau: updates after which the weight has reached 63 % of `decay`.
        updates: updates done before, when resuming.

    Attributes:
        ema: the averaged model; needs no gradient.
        updates: number of updates done.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0) -> None:
        self.ema = deepcopy(de_parallel(model)).eval().requires_grad_(False)
        self.updates = updates
        self.limit = decay
        self.tau = tau

    def decay(self, updates: int) -> float:
        """Return the weight of the old average at update number `updates` (1 is the first)."""
        return self.limit * (1 - math.exp(-updates / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the present weights of `model`, once per optimizer step."""
        self.updates += 1
        step = 1 - self.decay(self.updates)
        live = de_parallel(model).state_dict()
        for key, average in self.ema.state_dict().items():
            if average.dtype.is_floating_point and not is_counter(key):
                average.lerp_(live[key].to(average.dtype), step)

    def update_attr(
        self,
        model: nn.Module,
        include: Iterable[str] = (),
        exclude: Iterable[str] = ("process_group", "reducer"),
    ) -> None:
        """Copy plain attributes (`yaml`, `nc`, `names`, ...) from `model`, see `copy_attr`."""
        copy_attr(self.ema, de_parallel(model), include, exclude)


class EarlyStopping:
    """Stop when the fitness has not risen for `patience` epochs.

    Args:
        patience: epochs without a rise after which to stop; 0 never stops.

    Attributes:
        best_fitness: highest fitness so far, -1 before the first epoch. Equal fitness is no rise.
        best_epoch: epoch of it.
        waited: epochs since then, or since the patience began anew.
    """

    def __init__(self, patience: int = 30) -> None:
        self.patience = patience or math.inf
        self.best_fitness = -1.0
        self.best_epoch = 0
        self.waited = 0
        self._anew = 0  # epoch from which the patience counts

    @property
    def possible_stop(self) -> bool:
        """Whether the next epoch may be the last one."""
        return self.waited >= self.patience - 1

    @property
    def stop(self) -> bool:
        """Whether training should stop now."""
        return self.waited >= self.patience

    def __call__(self, epoch: int, fitness: float | np.ndarray) -> bool:
        """Take note of an epoch and its fitness, (1,) in YOLOv5's loops; return True to stop training now (logged)."""
        if fitness > self.best_fitness:
            self.best_epoch, self.best_fitness = epoch, np.asarray(fitness).item()
        self.waited = epoch - max(self.best_epoch, self._anew)
        self._tell()
        return self.stop

    def _tell(self) -> None:
        """Log the stop, if there is one."""
        if self.stop:
            LOGGER.info(
                f"early stop: no improvement in the last {self.patience} epochs, best was epoch {self.best_epoch}. "
                "A larger --patience waits longer, 0 never stops"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know, in plain types."""
        state = {"best_fitness": self.best_fitness, "best_epoch": self.best_epoch, "waited": self.waited}
        return state | ({"anew": self._anew} if self._anew else {})

    def load_state_dict(self, state: Mapping[str, Any], anew: int | None = None) -> None:
        """Put back what `state_dict` returned; `patience` stays that of this object, and a shorter one may be over.

        Args:
            state: of `state_dict`.
            anew: epoch from which the patience begins anew; None goes on waiting.
        """
        self.best_fitness = float(state["best_fitness"])
        self.best_epoch = int(state["best_epoch"])
        self._anew = int(state.get("anew", 0)) if anew is None else anew
        self.waited = int(state["waited"]) if anew is None else 0
        self._tell()


def smart_optimizer(
    model: nn.Module, name: str = "Adam", lr: float = 0.001, momentum: float = 0.9, decay: float = 1e-5
) -> Optimizer:
    """Build an optimizer as `utils.optim.build_optimizer` does, with the defaults of YOLOv5."""
    optimizer = build_optimizer(model, name, lr, momentum, decay)
    LOGGER.info(describe_optimizer(name, optimizer))
    return optimizer


def smart_resume(
    ckpt: Mapping[str, Any],
    optimizer: Optimizer,
    ema: ModelEMA | None = None,
    weights: str = "yolov5s.pt",
    epochs: int = 300,
    resume: bool = True,
) -> tuple[float, int, int]:
    """Put the optimizer and the averaged weights of a checkpoint of YOLOv5's training loop back.

    Args:
        ckpt: `epoch`, and if they are there `optimizer`, `best_fitness`, `ema` (a module) and `updates`.
        optimizer: takes the state of the former one.
        ema: takes the averaged weights.
        weights: name of the checkpoint, for messages.
        epochs: length of the training; of a checkpoint that has reached it, that many epochs more.
        resume: the training goes on, so it must not be complete.

    Returns:
        The best fitness, the epoch to start at, and the epoch to end before.

    Raises:
        ValueError: nothing to resume.
    """
    start, best_fitness = ckpt["epoch"] + 1, 0.0
    if ckpt.get("optimizer") is not None:
        optimizer.load_state_dict(ckpt["optimizer"])
        best_fitness = ckpt["best_fitness"]
    if ema and ckpt.get("ema") is not None:
        ema.ema.load_state_dict(ckpt["ema"].float().state_dict())
        ema.updates = ckpt["updates"]
    if resume and start <= 0:
        raise ValueError(f"{weights}: training to {epochs} epochs is finished, nothing to resume. Start a new one")
    if epochs < start:
        LOGGER.info(f"{weights} has been trained for {ckpt['epoch']} epochs: {epochs} more follow")
        epochs += ckpt["epoch"]
    return best_fitness, start, epochs


def smart_DDP(model: nn.Module) -> nn.parallel.DistributedDataParallel:
    """Wrap a model for the processes that torchrun started; it is on the device of this one."""
    ids = [LOCAL_RANK] if next(model.parameters()).device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the first process of a machine go through the block before the others.

    Args:
        local_rank: number of this process on its machine; -1 without others.
    """
    if local_rank not in (-1, 0):
        dist.barrier()
    yield
    if local_rank == 0:
        dist.barrier()
