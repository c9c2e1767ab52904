"""The largest batch that fits on a CUDA device, extrapolated linearly from the memory of small batches."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.console import LOGGER, colorstr, size_text
from utils.torch_utils import amp_context

SIZES = (1, 2, 4, 8, 16)
FRACTION = 0.8  # of the memory of the device that may be used
LARGEST = 1024
DEFAULT = 16  # where nothing can be measured
GIB = 2**30


def fit_batch(sizes: Sequence[int], used: Sequence[float], allowed: float, default: int = DEFAULT) -> int:
    """Return the largest batch whose memory, on the line fitted to the measured ones, is allowed.

    Args:
        sizes: images per batch that were tried, at least two.
        used: bytes that each took.
        allowed: bytes.
        default: what is returned if the memory did not grow with the batch.

    Returns:
        1 to `LARGEST`, or `default`.
    """
    slope, start = np.polyfit(sizes, used, 1)
    if slope <= 0:
        return default
    return int(min(max((allowed - start) / slope, 1), LARGEST))


def largest_that_fits(fits: Callable[[int], bool], failed: int) -> int:
    """Return the largest batch below `failed` that fits, 0 for none, by halving the range: log2(failed) trials.

    Args:
        fits: tries a batch; what it takes must grow with its size.
        failed: images of a batch that does not fit.
    """
    low = 0
    while failed - low > 1:
        middle = (low + failed) // 2
        low, failed = (middle, failed) if fits(middle) else (low, middle)
    return low


def measure(
    model: nn.Module, imgsz: int | tuple[int, int], sizes: Sequence[int], amp: torch.dtype | None
) -> list[float]:
    """Return the largest bytes allocated by forward and backward passes of these batch sizes, up to the first failure.

    Args:
        model: in training mode, on a CUDA device; its gradients are cleared.
        imgsz: side of the images, or height and width, pixels.
        sizes: images per batch, rising.
        amp: autocast type.
    """
    device = next(model.parameters()).device
    channels = getattr(model, "yaml", {}).get("ch", 3)
    used = []
    for size in sizes:
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            with amp_context(device, amp):
                maps = model(torch.zeros(size, channels, *np.broadcast_to(imgsz, 2).tolist(), device=device))
            sum(x.float().mean() for x in maps).backward()
            used.append(float(torch.cuda.max_memory_allocated(device)))
        except torch.OutOfMemoryError:
            break
        finally:
            model.zero_grad(set_to_none=True)
    return used


def check_train_batch_size(model: nn.Module, imgsz: int | tuple[int, int] = 640, amp: bool = True) -> int:
    """Choose a batch size as `autobatch` does, in YOLOv5's form.

    Args:
        model: on its device; it is not changed.
        imgsz: side of the images, or height and width, pixels.
        amp: the training will use mixed precision.
    """
    return autobatch(deepcopy(model).train(), imgsz, amp=torch.float16 if amp else None)


def autobatch(
    model: nn.Module,
    imgsz: int | tuple[int, int] = 640,
    fraction: float = FRACTION,
    batch_size: int = DEFAULT,
    *,
    amp: torch.dtype | None = None,
    measure: Callable[[nn.Module, Any, Sequence[int], torch.dtype | None], list[float]] = measure,
) -> int:
    """Choose the number of images per batch that fills a fraction of a CUDA device, `batch_size` on other devices.

    Args:
        model: in training mode, on its device.
        imgsz: side of the images, or height and width, pixels.
        fraction: of the memory of the device that may be used.
        batch_size: where nothing can be measured.
        amp: autocast type of the training.
        measure: bytes used at each of `SIZES`, fewer numbers if the device was full before.
    """
    prefix = colorstr("AutoBatch: ")
    device = next(model.parameters()).device
    if device.type != "cuda":
        LOGGER.info(f"{prefix}only CUDA memory can be measured: batch size {batch_size}")
        return batch_size
    size = size_text(imgsz)
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    used = measure(model, imgsz, SIZES, amp)
    if not used:
        raise ValueError(f"--batch-size -1: not even one image of {size} pixels fits on {device}; use a smaller --img")
    allowed = min(free + own, total) * fraction
    batch = fit_batch(SIZES[: len(used)], used, allowed, batch_size) if len(used) > 1 else 1
    if len(used) < len(SIZES):
        batch = min(batch, SIZES[len(used) - 1])
    LOGGER.info(
        f"{prefix}{batch} images of {size} pixels use {fraction:.0%} of the {total / GIB:.1f} GiB of {device} "
        f"({(total - free - own) / GIB:.1f} GiB taken by others)"
    )
    return batch
