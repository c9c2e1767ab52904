"""The training and validation set as a torch Dataset, its sampler, and `create_dataloader`.

Every random number of a sample comes from a generator seeded with (seed, epoch, index). A batch therefore depends
neither on the number of workers nor on what was loaded before, and a run resumed at epoch e sees what an uninterrupted
run would have seen. The sampler carries the epoch to the workers: it yields (epoch, index) pairs.
"""

import glob as glob  # this and `math`, `random`, `time`: for scripts that say `from utils.dataloaders import *`
import hashlib
import math as math
import os
import random as random
import sys
import time as time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image as Image
from PIL.ImageOps import exif_transpose as exif_transpose
from torch.utils.data import DataLoader, Dataset

from utils.augmentations import (
    FILL,
    Tile,
    apply_brightness,
    apply_filters,
    apply_flips,
    apply_hsv,
    apply_perspective,
    draw_copy_paste,
    draw_filters,
    draw_flips,
    draw_hsv,
    draw_mixup,
    draw_perspective,
    global_rng,
    letterbox,
    mixup,
    paste_copies,
    perspective_matrix,
    resize,
    visible_part,
)
from utils.boxes import xywhn2xyxy, xyxy2xywhn
from utils.console import LOGGER, ProgressBar
from utils.datasets.batches import BatchImages, Sample, Shapes, collate, collate_quad, place_image, rect_batches
from utils.datasets.dataset import load_labels
from utils.datasets.image_cache import ImageCache, cache_kind, free_memory, processes_to_come
from utils.datasets.images import IMG_FORMATS as IMG_FORMATS
from utils.datasets.images import VID_FORMATS as VID_FORMATS
from utils.datasets.images import decode_image, log_left_out, pixel_bytes, read_pixels
from utils.datasets.images import exif_size as exif_size
from utils.datasets.lists import autosplit as autosplit
from utils.datasets.lists import get_hash as get_hash
from utils.datasets.lists import img2label_paths as img2label_paths
from utils.datasets.loader_processes import InfiniteDataLoader, Loader, start_worker, workers_that_fit
from utils.datasets.loader_processes import seed_worker as seed_worker
from utils.datasets.mosaics import draw_mosaic, draw_mosaic9, lay_images, lay_labels, mosaic4, mosaic9, overlap, scratch
from utils.datasets.reader import pixels_of, verify_pair
from utils.datasets.sampling import EpochSampler
from utils.datasets.tiles import cut_into_tiles, whole_images
from utils.hyp import Hyp
from utils.torch_utils import keep_freed_memory

CLIP_EPS = 1e-3  # boxes end this many pixels inside the image, so that no centre falls on its far edge
REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


class LoadImagesAndLabels(Dataset):
    """Images and boxes of one split.

    An image that turns out to be damaged when it is decoded does not end the run: one warning names it, and from then
    on it is a grey background, of its size and without labels.

    Args:
        path: folder, image list, or several of them (`labels.list_images`), or a `Split`, which also says the format of
            the labels and of the pixels.
        img_size: long side in pixels of a loaded image; side of the square samples. Or (height, width) of the samples,
            into which each image is fitted.
        batch_size: images that share a shape with `rect`.
        augment: mosaic, mixup, perspective, colour and flips.
        hyp: strengths of the augmentations, also as a mapping (`Hyp.from_dict`); needed with `augment`.
        rect: shape each batch after its images instead of padding all to a square. The images are sorted by aspect
            ratio, so they must be read in order. Switches mosaic and mixup off.
        image_weights: `indices` will be changed between passes; switches `rect` off.
        cache_images: `ram` or True keeps the resized images in memory (3 bytes per pixel of a sample at most). On Linux
            all workers share them, being forks that only read; elsewhere each worker gets a copy. `disk` keeps them in
            files (`ImageCache`). None or False decodes each time.
        single_cls: make every class 0.
        stride: the sides of rectangular batches are multiples of it.
        pad: strides added to the sides of rectangular batches before they are rounded up.
        min_items: leave out images with fewer labels.
        prefix: put before all log lines.
        rank: only for YOLOv5's order of arguments: which images a process loads is up to the sampler.
        seed: of all random numbers, 0 or more.
        nc: number of classes; labels of other classes are reported and left out. None accepts any.
        cache_dir: folder for the files of `disk`, which else are beside the images.
        tile: height and width in pixels; the tiles of larger images are samples too (`cut_into_tiles`), and then an
            image is a sample in all that follows.
        overlap: of the tiles, see `tile_grid`.

    Attributes:
        n, im_files, label_files: number of images, and N paths.
        pixels: `PixelFormat` of the images.
        found: the `LabelSet` of the whole images.
        samples: what each of them shows (`Samples`).
        img_size, frame: the largest side of a sample, and (height, width) of samples not of `batch_shapes`.
        labels: N arrays (M, 5) float32 `[class, xywhn]`, relative to the original image, as `Pieces`.
        segments: N lists of polygons (P, 2) xyn, one per label, or empty (`labels.Verified`). Likewise.
        shapes: (N, 2) int, original width and height.
        messages: problems of single files (`LabelSet`).
        indices: which image each sample is of. Workers see a change when they start, so not those that are kept.
        batch: (N,) int, the batch of each image in order.
        mosaic: samples may be mosaics. Workers see a change only if it is made before they start.
        close_at: epoch from which on there are none, nor mixup and copy-paste; None for never. Set it before, too.
        batch_shapes: (batches, 2) int (height, width) with `rect`, else None. `pad` is that of them, in strides.

    Raises:
        FileNotFoundError, ValueError: from `dataset.load_labels`; also if `augment` comes without `hyp` or without a
            single label, no image has `min_items` labels, `seed` is negative, or `cache_images` or `hyp` is wrong.
    """

    collate_fn, collate_fn4 = staticmethod(collate), staticmethod(collate_quad)

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: int | tuple[int, int] = 640,
        batch_size: int = 16,
        augment: bool = False,
        hyp: Hyp | Mapping[str, Any] | None = None,
        rect: bool = False,
        image_weights: bool = False,
        cache_images: bool | str | None = False,
        single_cls: bool = False,
        stride: int = 32,
        pad: float = 0.0,
        min_items: int = 0,
        prefix: str = "",
        rank: int = -1,
        seed: int = 0,
        *,
        nc: int | None = None,
        cache_dir: str | Path | None = None,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.2,
    ) -> None:
        hyp = Hyp.from_dict(hyp) if isinstance(hyp, Mapping) else hyp
        rect = rect and not image_weights
        if augment and hyp is None:
            raise ValueError("augment=True needs hyperparameters: pass hyp=Hyp() or Hyp.load(file)")
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; allowed are 0, 1, 2, ...")
        cache = cache_kind(cache_images)
        self.frame = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size, self.hyp, self.augment, self.rect, self.seed = max(self.frame), hyp or Hyp(), augment, rect, seed
        self.stride, self.pad, self.mosaic = stride, pad * rect, augment and not rect
        self.close_at: int | None = None
        self.pixels = pixels_of(path)
        self.found = found = load_labels(path, nc=None if single_cls else nc, prefix=prefix)
        if single_cls:
            found.labels.whole = found.labels.whole * np.float32([0, 1, 1, 1, 1])
        self.samples = cut_into_tiles(found, tile, overlap, seed, prefix) if tile else whole_images(found)
        self.im_files, self.label_files = self.samples.of(found.im_files), self.samples.of(found.label_files)
        self.messages = found.messages
        self.labels, self.segments, self.shapes = self.samples.labels, self.samples.segments, self.samples.sizes
        if min_items > 0:
            self._reorder(np.flatnonzero([len(x) >= min_items for x in self.labels]))
            if not self.im_files:
                raise ValueError(f"{prefix}{path}: no image has {min_items} labels or more")
        self.n = len(self.im_files)
        self.indices, self.batch = range(self.n), np.arange(self.n) // batch_size
        if not any(map(len, self.labels)):
            message = (
                f"{prefix}{path}: no labels found for {self.n} images; looked for {self.label_files[0]} and so on."
            )
            if augment:
                raise ValueError(message)
            LOGGER.warning(f"{message} All metrics will be 0")
        self.batch_size = batch_size
        self.batch_shapes = None
        if rect:
            order, self.batch_shapes = rect_batches(self.shapes, batch_size, self.frame, stride, pad)
            self._reorder(order)
        self._damaged = torch.zeros(self.n, dtype=torch.bool)
        with suppress(RuntimeError):  # no room in /dev/shm: each worker then reports a damaged image by itself
            self._damaged.share_memory_()  # known to all workers, reported by one
        self.images: list[np.ndarray] | None = None
        self.disk = self._open_disk(img_size, cache_dir, prefix) if cache == "disk" else None
        if cache == "ram" and self._fits_in_memory(prefix):
            with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
                read = pool.imap(self._read_resized, range(self.n))
                self.images = list(ProgressBar(read, f"{prefix}caching images", self.n, unit="images"))
            LOGGER.info(f"{prefix}{sum(im.nbytes for im in self.images) / 1e9:.2f} GB of images cached in memory")
        log_left_out(self.pixels, augment, self.hyp.to_dict(), prefix)

    @property
    def img_files(self) -> list[str]:
        """Paths of the images: `im_files`, as YOLOv5 up to 6.1 called them."""
        return self.im_files

    def _open_disk(self, size: Any, cache_dir: str | Path | None, prefix: str) -> ImageCache | None:
        """Return where `disk` keeps the resized images of an image size; None if they do not fit there."""
        disk = ImageCache.of_images(self.im_files[0], size, self.augment, cache_dir, prefix, self.pixels.mark)
        parts = [self.samples.name(i) for i in range(self.n)]
        return disk if disk is not None and disk.fits(self._cache_bytes(), self.im_files, prefix, parts) else None

    def _fits_in_memory(self, prefix: str) -> bool:
        """Return whether all resized images fit into 90 % of the free memory (on Linux; assumed elsewhere).

        With several processes on this machine each will have its own, so those of the others to come count too.
        """
        copies = processes_to_come()
        need, free = self._cache_bytes() * copies, free_memory()
        if free is None:
            return True
        if need > 0.9 * free:
            each = f" for {copies} processes" if copies > 1 else ""
            LOGGER.warning(f"{prefix}images not cached: {need / 1e9:.1f} GB needed{each}, {free / 1e9:.1f} GB free")
        return need <= 0.9 * free

    def _cache_bytes(self) -> int:
        """Return how many bytes all resized images take."""
        resized = self.shapes * (self.frame[::-1] / self.shapes).min(1, keepdims=True)  # (N, 2)
        return int(resized.prod(1).sum() * pixel_bytes(self.im_files[0], self.pixels)[0])

    def _reorder(self, order: np.ndarray) -> None:
        """Reorder everything that is stored per image; images that the order lacks are dropped."""
        self.im_files, self.label_files = ([x[i] for i in order] for x in (self.im_files, self.label_files))
        self.shapes, self.samples = self.shapes[order], self.samples.take(order)
        self.labels, self.segments = self.samples.labels, self.samples.segments

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Make one sample.

        Args:
            key: (epoch, number of the sample in `indices`), or the latter alone for epoch 0.

        Returns:
            Image (C, H, W), three channels RGB, uint8, or float32 of 0..255 if it has more than 8 bits; targets (M, 6)
            float32 `[0, class, xywhn]`, where `collate` fills in column 0; path; and None for a mosaic, else what
            `boxes.scale_boxes` needs to go back to the original image: ((h0, w0), ((ratio_h, ratio_w), (pad_w,
            pad_h))).
        """
        epoch, number = key if isinstance(key, tuple) else (0, key)
        index = int(self.indices[number])
        rng = np.random.default_rng((self.seed, epoch, number))
        closed = self.close_at is not None and epoch >= self.close_at
        if self.mosaic and rng.random() < self.hyp.mosaic and not closed:
            im, labels = self._mosaic(number, rng)
            if rng.random() < self.hyp.mixup:
                other = int(rng.integers(len(self.indices)))
                im, labels = mixup(im, labels, *self._mosaic(other, rng), draw_mixup(rng))
            shapes = None
        else:
            im, labels, shapes = self._single(index, rng)
        height, width = im.shape[:2]
        labels = np.concatenate((labels[:, :1], xyxy2xywhn(labels[:, 1:5], width, height, clip=True, eps=CLIP_EPS)), 1)
        if self.augment:
            im = self._recolor(im, rng)
            im, labels = apply_flips(im, labels, draw_flips(rng, self.hyp.flipud, self.hyp.fliplr))
        targets = torch.zeros(len(labels), 6)
        targets[:, 1:] = torch.from_numpy(labels)
        planes, image = place_image((self.pixels.channels, height, width), im.dtype)
        if self.pixels.channels == 3:
            im = cv2.cvtColor(im, cv2.COLOR_BGRA2BGR) if im.shape[2] == 4 else im
            cv2.split(im, [planes[2], planes[1], planes[0]])  # written in place: BGR to RGB
        else:
            planes[:] = im.transpose(2, 0, 1)
        return image, targets, self.im_files[index], shapes

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Sample]:
        """Make the samples of a batch, as PyTorch's loaders ask for them; their images are in one tensor."""
        with BatchImages(len(keys)):
            return [self[key] for key in keys]

    def _recolor(self, im: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change the colours of an image as `hyp` says, if it is 8-bit colour, else its brightness alone."""
        if not self.pixels.plain:
            return apply_brightness(im, draw_hsv(rng, self.hyp.hsv_h, self.hyp.hsv_s, self.hyp.hsv_v)[2])
        if self.hyp.albumentations:  # draws nothing when it is off, so that the other draws stay what they are
            im = apply_filters(im, draw_filters(rng, self.hyp.albumentations))
        return apply_hsv(im, draw_hsv(rng, self.hyp.hsv_h, self.hyp.hsv_s, self.hyp.hsv_v))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the number of images, and a digest of their names, file sizes and labels in the order of the samples.

        The folder does not count, so a dataset that was moved stays the same.
        """
        digest = hashlib.sha256(self.shapes.tobytes())
        for i, (file, labels) in enumerate(zip(self.im_files, self.labels, strict=True)):
            size = os.path.getsize(file) if os.path.exists(file) else 0
            digest.update(f"{os.path.basename(file)}\0{size}\0{len(labels)}\0".encode(errors="surrogateescape"))
            digest.update(labels.tobytes() + self.samples.name(i).encode())
        return {"images": self.n, "digest": digest.hexdigest()}

    # Parts of a sample ------------------------------------------------------------------------------------------------
    def load_image(self, i: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Return `resized_image(i)`, its original (height, width), and its own."""
        im = self.resized_image(i)
        width, height = self.shapes[i].tolist()
        return im, (height, width), im.shape[:2]

    def load_mosaic(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw a mosaic with image `indices[index]`: (*frame, 3) BGR, labels (M, 5) `[class, xyxy]`.

        Each call draws another one, from random numbers that follow `random.seed`. Needs `hyp`.
        """
        im, labels = self._mosaic(index, global_rng())
        return im[..., : self.pixels.channels], labels

    def resized_image(self, index: int) -> np.ndarray:
        """Return image `index`, on the scale 0..255, as large as the frame allows; read-only, as it may be cached.

        A damaged image is grey.
        """
        if self.disk is not None and not self._damaged[index]:
            shape, part = self._resized(index), self.samples.name(index)
            make = partial(self._read_resized, index)
            im = self.disk.get(self.im_files[index], shape, make, self.pixels.channels, part)
        else:
            im = self._read_resized(index) if self.images is None else self.images[index]
        return self.pixels.scaled(im)

    def _resized(self, index: int) -> tuple[int, int]:
        """Return (height, width) of `resized_image(index)`."""
        width, height = self.shapes[index].tolist()
        r = min(self.frame[0] / height, self.frame[1] / width)
        return max(1, round(height * r)), max(1, round(width * r))

    def _read_resized(self, index: int) -> np.ndarray:
        """Decode an image and resize it. JPEG for training is decoded at 1/2, 1/4 or 1/8 if that is large enough."""
        width, height = self.shapes[index].tolist()
        size = self._resized(index)[::-1]
        k, flags = 1, cv2.IMREAD_COLOR
        jpeg = self.pixels.plain and self.im_files[index].lower().endswith((".jpg", ".jpeg"))
        if self.augment and jpeg and not self.samples.is_tile(index):
            k, flags = next((pair for pair in REDUCED if max(width, height) // pair[0] >= max(size)), (k, flags))
        im = None if self._damaged[index] else self._decode(index, flags, k)
        if im is None:
            return np.full((size[1], size[0], self.pixels.channels), FILL, np.uint8)
        im = self.samples.crop(index, im)
        if im.shape[1::-1] == size:
            return im
        return resize(im, size, self.augment or max(size) > max(width, height))

    def _decode(self, index: int, flags: int, k: int) -> np.ndarray | None:
        """Decode an image at 1/k of its size; mark and report it, and return None, if that fails."""
        width, height = self.samples.whole_sizes[index].tolist()
        im, problem = None, "OpenCV cannot decode this image"
        try:
            file, pixels = self.im_files[index], self.pixels
            im = decode_image(file, flags) if pixels.plain else read_pixels(file, pixels)
        except ValueError as error:
            problem = str(error)
        if im is not None and abs(im.shape[0] * k - height) < k and abs(im.shape[1] * k - width) < k:
            return im
        if im is not None:
            problem = f"decoded as {im.shape[1]} x {im.shape[0]} pixels (1/{k}), not {width} x {height} as before"
        self._damaged[torch.from_numpy(self.samples.source == self.samples.source[index])] = True
        LOGGER.warning(f"{self.im_files[index]}: {problem}. It is replaced by a grey background; fix or remove it")
        return None

    def _labels(self, index: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return labels (M, 5) xywhn and polygons xyn of an image; none for one that turned out to be damaged."""
        if self._damaged[index]:
            return np.zeros((0, 5), np.float32), []
        return self.labels[index], self.segments[index]

    def _mosaic(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Make a mosaic of image `indices[number]` and three or eight others of `indices`.

        Returns:
            Image (*frame, C), of three channels 3 or 4, and labels (M, 5) in its pixels.
        """
        nine = self.hyp.mosaic9 and rng.random() < self.hyp.mosaic9
        draw, arrange = (draw_mosaic9, mosaic9) if nine else (draw_mosaic, mosaic4)
        shape = self.frame
        numbers, place = draw(rng, number, len(self.indices), shape)
        indices = [int(self.indices[i]) for i in numbers]
        sizes = [self._resized(i) for i in indices]
        corners, height, width = arrange(sizes, place, shape), 2 * shape[0], 2 * shape[1]
        warp, part = None, (0, 0, width, height)
        if not self.hyp.copy_paste:  # that draws its numbers before the warp does, and mirrors what is out of sight
            warp = self._draw_warp((height, width), shape, rng)
            part = visible_part(warp[0], shape, (height, width))
        images = [
            self.resized_image(i) if overlap(corner, size, part) else None
            for i, corner, size in zip(indices, corners, sizes, strict=True)
        ]
        dtype = np.result_type(np.uint8, *(im.dtype for im in images if im is not None))
        canvas = scratch(height, width, self.pixels.channels, dtype)
        lay_images(images, corners, part, canvas, FILL)
        own_labels, own_segments = zip(*map(self._labels, indices), strict=True)
        labels, segments = lay_labels(own_labels, own_segments, sizes, corners, (height, width))
        if warp is None:
            tile = Tile(canvas, labels, segments)
            canvas, labels, segments = paste_copies(tile, draw_copy_paste(rng, segments, self.hyp.copy_paste))
            warp = self._draw_warp((height, width), shape, rng)
        return apply_perspective(canvas, labels, segments, *warp)

    def _single(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Shapes]:
        """Letterbox one image into its frame and, with `augment`, warp it; labels (M, 5) in pixels."""
        im = self.resized_image(index)
        height, width = im.shape[:2]
        frame = self.frame
        if self.batch_shapes is not None:
            frame = tuple(self.batch_shapes[self.batch[index]].tolist())
        im, (gain, _), (dw, dh) = letterbox(im, frame, auto=False, scaleup=self.augment)
        inner_w, inner_h = max(round(width * gain), 1), max(round(height * gain), 1)
        left, top = round(dw - 0.1), round(dh - 0.1)
        zoom = np.array([inner_w / width, inner_h / height], np.float32)
        offset = np.array([left, top], np.float32)
        labels, segments = self._labels(index)
        boxes = xywhn2xyxy(labels[:, 1:5], width, height) * np.tile(zoom, 2) + np.tile(offset, 2)
        labels = np.concatenate((labels[:, :1], boxes), 1)
        w0, h0 = self.shapes[index].tolist()
        shapes: Shapes = ((h0, w0), ((inner_h / h0, inner_w / w0), (left, top)))
        if self.augment:
            size = np.array([width, height], np.float32)
            segments = [s * size * zoom + offset for s in segments]
            im, labels = apply_perspective(im, labels, segments, *self._draw_warp(im.shape[:2], frame, rng))
            shapes = None
        return im, labels, shapes

    def _draw_warp(
        self, shape_in: tuple[int, int], shape_out: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[int, int], float]:
        """Draw the random perspective of an image (height, width); the last arguments of `apply_perspective`."""
        h = self.hyp
        draw = draw_perspective(
            rng, degrees=h.degrees, translate=h.translate, scale=h.scale, shear=h.shear, perspective=h.perspective
        )
        return perspective_matrix(draw, shape_in, shape_out), shape_out, draw.scale


def start_loader(worker: int) -> None:
    """Set up a loader process, see `start_worker`; the memory that it frees is kept for its next images."""
    keep_freed_memory()
    start_worker(worker)


def create_dataloader(
    path: str | Path | Sequence[str | Path],
    imgsz: int | tuple[int, int],
    batch_size: int,
    stride: int,
    single_cls: Any = False,
    hyp: Hyp | Mapping[str, Any] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
    seed: int = 0,
    *,
    nc: int | None = None,
    names: Mapping[int, str] | None = None,
    pin_memory: bool = False,
    world_size: int = 1,
    cache_dir: str | Path | None = None,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.2,
) -> tuple[DataLoader, LoadImagesAndLabels]:
    """Make the dataset of one split and a loader of its batches.

    Call `loader.sampler.set_epoch(epoch)` before each pass, or never: then each pass is the next epoch. Workers live as
    long as the loader, with `image_weights` as long as a pass. `rect` fixes the order: it switches `shuffle` off with a
    warning.

    Args:
        path: folder, image list, or several of them.
        imgsz: long side of the images, pixels, or their frame (`LoadImagesAndLabels`).
        batch_size: images per batch, at most all of them; the last batch may be smaller.
        stride: largest stride of the model.
        single_cls: make every class 0; or an object that has an attribute of this name (YOLOv5 up to 5.0).
        hyp: see `LoadImagesAndLabels`.
        augment: augment for training.
        cache: its `cache_images`.
        pad: of rectangular batches, in strides.
        rect: rectangular batches.
        rank: number of this process, below `world_size`; -1 means 0. Each loads its part of every batch
            (`EpochSampler`).
        workers: most processes to use; never more than CPUs, or than shared memory suffices for; none for batches of
            one image. 0 loads in this process.
        image_weights: `indices` of the dataset will be changed between passes.
        quad: make batches of a quarter of the images with twice the sides (`collate_quad`); an incomplete last batch is
            left out.
        prefix: put before all log lines.
        shuffle: a new order each epoch.
        seed: of the order and the augmentations.
        nc: number of classes; None takes the length of `names`, if that is given.
        names: class names, used as said at `nc`.
        pin_memory: put batches into page-locked memory, for CUDA; the environment variable PIN_MEMORY=false forbids it.
        world_size: processes that share the batches; `batch_size`, of all together, is a multiple of it.
        cache_dir: see `LoadImagesAndLabels`.
        tile: see `LoadImagesAndLabels`.
        overlap: there, too.

    Returns:
        The loader of batches as `collate` makes them, and its dataset.

    Raises:
        FileNotFoundError, ValueError: from `LoadImagesAndLabels`; `rank` does not suit `world_size`.
    """
    if not rank < world_size:
        raise ValueError(
            f"rank {rank} of {world_size} process{'es' * (world_size > 1)}: pass world_size, the number of processes; "
            "batch_size then counts the images of all of them together"
        )
    if rect and shuffle:
        LOGGER.warning(f"{prefix}rectangular batches have a fixed order: shuffle is off")
        shuffle = False
    cv2.setNumThreads(0)  # also before workers are forked, which must not inherit a thread pool
    if nc is None and names is not None:
        nc = len(names)
    dataset = LoadImagesAndLabels(
        path,
        imgsz,
        batch_size,
        augment,
        hyp,
        rect,
        image_weights,
        cache,
        bool(getattr(single_cls, "single_cls", single_cls)),
        int(stride),
        pad,
        prefix=prefix,
        seed=seed,
        nc=nc,
        cache_dir=cache_dir,
        tile=tile,
        overlap=overlap,
    )
    batch_size = min(batch_size, -(-dataset.n // world_size) * world_size)
    workers = min(workers, (os.cpu_count() or 1) // world_size, batch_size if batch_size > 1 else 0)
    sides = dataset.frame if dataset.batch_shapes is None else max(dataset.batch_shapes.tolist(), key=np.prod)
    workers = workers_that_fit(
        workers,
        batch_size // world_size * int(np.prod(sides)) * pixel_bytes(dataset.im_files[0], dataset.pixels)[1],
        world_size,
        prefix,
    )
    kind = Loader if image_weights else InfiniteDataLoader
    loader = kind(
        dataset,
        batch_size=batch_size // world_size,
        sampler=EpochSampler(dataset.n, shuffle, seed, batch_size, max(rank, 0), world_size),
        num_workers=workers,
        collate_fn=collate_quad if quad else collate,
        drop_last=quad,
        pin_memory=pin_memory and os.getenv("PIN_MEMORY", "true").lower() != "false",
        generator=torch.Generator(),  # of its own: a pass leaves the global random state as it was
        worker_init_fn=start_loader,
        # By default Python 3.14 starts workers that share no memory with this process.
        multiprocessing_context="fork" if workers > 0 and sys.platform == "linux" else None,
    )
    return loader, dataset


# YOLOv5's other names at this address ---------------------------------------------------------------------------------
verify_image_label = verify_pair
_ABOVE = ("LoadImages", "LoadStreams", "LoadScreenshots")
_LEFT_OUT = {
    "ClassificationDataset": "only detection is here: {} belongs to classification of YOLOv5",
    "create_classification_dataloader": "only detection is here: {} belongs to classification of YOLOv5",
    "HUBDatasetStats": "{} was removed from YOLOv5 itself; it is not here",
    "extract_boxes": "{} is not here: detect.py --save-crop cuts out boxes",
    "flatten_recursive": "{} is not here: folders of images are searched with all their subfolders",
}


def __getattr__(name: str) -> Any:
    """Return a loader of inference; lazily, as the engine that reads images, videos and streams imports utils."""
    if name in _LEFT_OUT:
        raise ImportError(_LEFT_OUT[name].format(name))
    if name not in _ABOVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engine.inference import loaders  # noqa: PLC0415

    return getattr(loaders, name)


__all__ = [name for name in globals() if not name.startswith("_")] + list(_ABOVE)
