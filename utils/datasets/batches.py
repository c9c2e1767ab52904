"""Batches: which images share one and its frame, and how samples are put together."""

import math
import mmap
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import get_worker_info

with suppress(ImportError):  # Windows
    import fcntl

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]] | None
Sample = tuple[Tensor, Tensor, str, Shapes]


def rect_batches(
    sizes: np.ndarray, batch_size: int, imgsz: int | tuple[int, int], stride: int, pad: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sort images by aspect ratio and find the smallest frame for each batch.

    Args:
        sizes: (N, 2) width and height.
        batch_size: images per batch.
        imgsz: long side of every image, or height and width of the frame that each fills.
        stride: frames are multiples of it.
        pad: strides added before rounding up.

    Returns:
        The order, N image numbers, flat images first; and (ceil(N / batch_size), 2) frame (height, width) in pixels.
    """
    aspect = sizes[:, 1] / sizes[:, 0]
    order = aspect.argsort(kind="stable")
    aspect = aspect[order]
    starts = np.arange(0, len(aspect), batch_size)
    low, high = aspect[starts], np.maximum.reduceat(aspect, starts)
    height, width = np.broadcast_to(imgsz, 2).tolist()
    frame = np.stack((np.minimum(high * width, height), np.minimum(1 / low * height, width)), 1)
    return order, np.ceil(frame / stride + pad).astype(int) * stride


class BatchMemory:
    """Shared memory of a loader process, used again for a new batch once all processes have freed the old one.

    Fresh shared memory costs more than to warp the images that go into it: the system clears each page, maps it at a
    fault and takes it back. So the memory is kept, and each batch is handed over as a file of its own, opened anew on
    it, with a lock (flock). The system ends that lock when the last process that has opened or mapped this file has let
    go of it. Linux only.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, np.ndarray]] = []  # open file, and its bytes as this process writes them

    def take(self, size: int) -> tuple[np.ndarray, torch.UntypedStorage]:
        """Return memory that nobody uses: (size,) uint8 with any content to write to, and the storage to hand over.

        Of the memory that is free besides, one piece is kept.

        Raises:
            OSError: there is too little memory, or the system has no such files.
        """
        free = [pair for pair in self._kept if self._is_free(pair[0])]
        fitting = [pair for pair in free if len(pair[1]) >= size]
        for pair in free:
            if not any(pair is kept for kept in fitting[:2]):
                self._kept = [kept for kept in self._kept if kept is not pair]
                os.close(pair[0])
        file, own = fitting[0] if fitting else self._allocate(size)
        handed = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handed, fcntl.LOCK_SH)
            return own[:size], torch.UntypedStorage._new_shared_fd_cpu(handed, size)  # type: ignore[attr-defined]
        finally:
            os.close(handed)  # the storage has a copy of the descriptor

    @staticmethod
    def _is_free(file: int) -> bool:
        """Return whether no process holds what was handed over."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
        return True

    def _allocate(self, size: int) -> tuple[int, np.ndarray]:
        """Make and keep memory of `size` bytes."""
        file = os.memfd_create("batch")
        try:
            os.posix_fallocate(file, 0, size)
            own = np.frombuffer(mmap.mmap(file, size), np.uint8)
        except BaseException:
            os.close(file)
            raise
        self._kept.append((file, own))
        return file, own


_memory = BatchMemory()  # of this process


class BatchImages:
    """The images of a batch in one tensor, into which each is written where it is made, by `place_image`.

    Args:
        count: number of images that are made while this context is open, in this thread.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._places: Iterator[tuple[np.ndarray, Tensor]] | None = None

    def __enter__(self) -> None:
        _current.batch = self

    def __exit__(self, *_: object) -> None:
        _current.batch = None

    def place(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, Tensor] | None:
        """Return the place of the next image, twice; None if there is none left, or not of the shape of the first."""
        if self._places is None:
            self._places = zip(*allocate_images((self.count, *shape), dtype), strict=True)
        found = next(self._places, None)
        return found if found is not None and (found[0].shape, found[0].dtype) == (shape, dtype) else None


_current = threading.local()


def place_image(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, Tensor]:
    """Return memory for an image (C, H, W), in its batch if there is one: to write to, and to hand over."""
    batch = getattr(_current, "batch", None)
    return (batch and batch.place(shape, dtype)) or _two_views(np.empty(shape, dtype))


def _two_views(own: np.ndarray) -> tuple[np.ndarray, Tensor]:
    return own, torch.from_numpy(own)


def allocate_images(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, Tensor]:
    """Return memory for a batch of images, in a loader process shared: to write to, and to hand over."""
    if get_worker_info() is None:
        return _two_views(np.empty(shape, dtype))
    size = math.prod(shape) * dtype.itemsize
    own, storage = None, None
    if hasattr(os, "memfd_create") and get_sharing_strategy() == "file_descriptor":
        with suppress(OSError):  # then PyTorch tries its own way, and says what failed
            own, storage = _memory.take(size)
    storage = torch.UntypedStorage._new_shared(size) if storage is None else storage
    handed = torch.from_numpy(np.empty(0, dtype)).new_empty(0).set_(storage).view(shape)
    return handed.numpy() if own is None else own.view(dtype).reshape(shape), handed


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images (C, H, W) of one shape and type: (B, C, H, W). What `BatchImages` placed is not copied."""
    first, whole = images[0], images[0].untyped_storage()
    if whole.nbytes() == first.nbytes * len(images) and all(
        (im.data_ptr(), im.shape, im.dtype, im.is_contiguous())
        == (whole.data_ptr() + k * first.nbytes, first.shape, first.dtype, True)
        for k, im in enumerate(images)
    ):
        return first.new_empty(0).set_(whole).view(len(images), *first.shape)
    own, handed = allocate_images((len(images), *first.shape), first.numpy().dtype)
    torch.stack(list(images), out=torch.from_numpy(own))
    return handed


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, list[str], list[Shapes]]:
    """Put samples of one shape into a batch.

    Returns:
        Images (B, C, H, W) uint8, three channels RGB, or float32 of 0..255 if one is; targets (T, 6) float32 `[image in
        batch, class, xywhn]`; B paths; B shapes as in `LoadImagesAndLabels.__getitem__`.
    """
    planes, labels, paths, shapes = zip(*samples, strict=True)
    images = list(planes)
    targets = torch.cat(labels, 0)
    counts = torch.tensor([len(s[1]) for s in samples])
    if len({image.dtype for image in images}) > 1:  # a deep image among others
        images = [image.float() for image in images]
    targets[:, 0] = torch.repeat_interleave(torch.arange(len(samples)), counts)
    return stack_images(images), targets, list(paths), list(shapes)


def collate_quad(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, list[str], list[Shapes]]:
    """Put four samples each into one of twice the sides: tiled 2 x 2, or the first of them enlarged.

    Which of the two comes from the pixels, so that it depends on neither workers nor order. Result as in `collate`, a
    quarter of the batch with images (B / 4, 3, 2 H, 2 W).
    """
    return collate([_quad(samples[i : i + 4]) for i in range(0, len(samples), 4)])


def _quad(four: Sequence[Sample]) -> Sample:
    """Make one sample of four: 0 top left, 1 below it, 2 to the right of 0, 3 diagonal; or 0 enlarged."""
    images, labels, paths, _ = zip(*four, strict=True)
    if np.random.default_rng(zlib.crc32(images[0].numpy())).random() < 0.5:
        image = F.interpolate(images[0][None].float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        image = image.round() if images[0].dtype == torch.uint8 else image
        return image[0].to(images[0].dtype), labels[0], paths[0], None
    columns = [torch.cat(images[:2], 1), torch.cat(images[2:], 1)]
    moved = []
    for i, x in enumerate(labels):
        moved.append(torch.cat((x[:, :2], (x[:, 2:4] + torch.tensor([i // 2, i % 2])) / 2, x[:, 4:] / 2), 1))
    return torch.cat(columns, 2), torch.cat(moved), paths[0], None
