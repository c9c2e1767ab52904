"""Images as detect.py gives them to the network, for val.py --as-detect and --slice."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from engine.inference.slicing import fit_tiles
from models.detector import Detector
from utils.boxes import centred, xywhn2xyxy, xyxy2xywhn
from utils.dataloaders import LoadImagesAndLabels
from utils.datasets.batches import collate
from utils.datasets.images import load_pixels, pixel_bytes
from utils.datasets.loader_processes import Loader, workers_that_fit
from utils.datasets.tiles import tile_grid

HELD_BYTES = 64 << 20  # of the network input of a batch of images with their tiles


class DetectFrames(Dataset):
    """The images of a dataset, each letterboxed by itself.

    Validation instead pads the common frame of a batch by half a stride, as YOLOv5 does, and shrinks images by area.

    Args:
        dataset: of all images; `frame` is the size of the network input.
        stride: see `Detector.fit`.
        tile: height and width of the tiles that come with each image (`fit_tiles`), or None.
        overlap: of the tiles.

    Attributes:
        im_files, found, labels, shapes, frame, fingerprint: of the dataset.
    """

    def __init__(
        self,
        dataset: LoadImagesAndLabels,
        stride: int | None,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.2,
    ) -> None:
        self.im_files, self.found, self.labels = dataset.im_files, dataset.found, dataset.labels
        self.shapes, self.fingerprint, self.pixels = dataset.shapes, dataset.fingerprint, dataset.pixels
        self.frame, self.stride, self.tile, self.overlap = dataset.frame, stride, tile, overlap

    def __len__(self) -> int:
        return len(self.im_files)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """See `LoadImagesAndLabels`; ValueError for an image that cannot be decoded, which detect.py leaves out.

        With `tile` there is one more: the `FittedTiles`, their input as one tensor for each batch.
        """
        file = self.im_files[index]
        try:
            image = load_pixels(file, self.pixels)
        except ValueError as error:
            raise ValueError(f"{file}: {error}: remove it, or validate without --as-detect and --slice") from None
        height, width = image.shape[:2]
        (planes,) = Detector.fit([image], self.frame, self.stride, bgr=True)  # (C, H, W)
        frame = planes.shape[1], planes.shape[2]
        ratio_pad = centred(frame, (height, width))
        (gain, _), pad = ratio_pad
        boxes = xywhn2xyxy(self.labels[index][:, 1:], width, height) * gain + np.tile(np.array(pad, np.float32), 2)
        targets = torch.zeros(len(boxes), 6)
        targets[:, 1] = torch.from_numpy(self.labels[index][:, 0])
        targets[:, 2:] = torch.from_numpy(xyxy2xywhn(boxes, frame[1], frame[0]))
        sample = torch.from_numpy(np.ascontiguousarray(planes)), targets, file, ((height, width), ratio_pad)
        if not self.tile:
            return sample
        tiles = fit_tiles(
            image, self.tile, self.overlap, partial(Detector.fit, size=self.frame, stride=self.stride, bgr=True)
        )
        return *sample, tiles._replace(inputs=[torch.from_numpy(np.stack(arrays)) for arrays in tiles.inputs])

    def batches(self, size: int) -> Iterable[list[int]]:
        """Return the images in batches of one size each, so that their frames are equal; larger ones first."""
        sizes, group = np.unique(self.shapes, axis=0, return_inverse=True)
        members = [np.flatnonzero(group.reshape(-1) == k).tolist() for k in reversed(range(len(sizes)))]
        return [part[i : i + size] for part in members for i in range(0, len(part), size)]


def collate_tiles(samples: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Put samples with tiles into a batch: what `collate` gives, and the `FittedTiles` of each image."""
    return *collate([(image, targets, path, shapes) for image, targets, path, shapes, _ in samples]), [
        sample[4] for sample in samples
    ]


def as_detect(
    loader: DataLoader,
    dataset: LoadImagesAndLabels,
    stride: int | None,
    batch_size: int,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.2,
) -> DataLoader:
    """Return a loader of the same images as detect.py gives them to the network.

    Args:
        loader: from `create_dataloader`, for images that share the frame of the network input.
        dataset: from there, too.
        stride: see `Detector.fit`.
        batch_size: most images per batch; with tiles fewer, if their input takes more than `HELD_BYTES`.
        tile: see `DetectFrames`.
        overlap: of the tiles.
    """
    frames, workers = DetectFrames(dataset, stride, tile, overlap), loader.num_workers
    if tile:
        shapes = np.unique(frames.shapes, axis=0).tolist()
        most = max(len(tile_grid(height, width, tile, overlap)) for width, height in shapes)
        pixel = pixel_bytes(frames.im_files[0], frames.pixels)[1]
        one = (1 + most) * pixel * frames.frame[0] * frames.frame[1]  # bytes of an image and its tiles as input
        batch_size = min(batch_size, max(HELD_BYTES // one, 1))
        workers = workers_that_fit(workers, batch_size * one, 1, "")
    return Loader(
        frames,
        batch_sampler=frames.batches(batch_size),
        num_workers=workers,
        collate_fn=collate_tiles if tile else loader.collate_fn,
        pin_memory=loader.pin_memory and not tile,
        generator=loader.generator,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
    )
