"""Images as detect.py gives them to the network, for val.py --as-detect."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.detector import Detector
from utils.boxes import centred, xywhn2xyxy, xyxy2xywhn
from utils.dataloaders import LoadImagesAndLabels
from utils.datasets.batches import Sample
from utils.datasets.images import load_pixels
from utils.datasets.loader_processes import Loader


class DetectFrames(Dataset):
    """The images of a dataset, each letterboxed by itself.

    Validation instead pads the common frame of a batch by half a stride, as YOLOv5 does, and shrinks images by area.

    Args:
        dataset: of all images; `frame` is the size of the network input.
        stride: see `Detector.fit`.

    Attributes:
        im_files, labels, shapes, frame: of the dataset.
    """

    def __init__(self, dataset: LoadImagesAndLabels, stride: int | None) -> None:
        self.im_files, self.labels, self.shapes = dataset.im_files, dataset.labels, dataset.shapes
        self.pixels = dataset.pixels
        self.frame, self.stride = dataset.frame, stride

    def __len__(self) -> int:
        return len(self.im_files)

    def __getitem__(self, index: int) -> Sample:
        """See `LoadImagesAndLabels`; ValueError for an image that cannot be decoded, which detect.py leaves out."""
        file = self.im_files[index]
        try:
            image = load_pixels(file, self.pixels)
        except ValueError as error:
            raise ValueError(f"{file}: {error}: remove it, or validate without --as-detect") from None
        height, width = image.shape[:2]
        (planes,) = Detector.fit([image], self.frame, self.stride, bgr=True)  # (C, H, W)
        frame = planes.shape[1], planes.shape[2]
        ratio_pad = centred(frame, (height, width))
        (gain, _), pad = ratio_pad
        boxes = xywhn2xyxy(self.labels[index][:, 1:], width, height) * gain + np.tile(np.array(pad, np.float32), 2)
        targets = torch.zeros(len(boxes), 6)
        targets[:, 1] = torch.from_numpy(self.labels[index][:, 0])
        targets[:, 2:] = torch.from_numpy(xyxy2xywhn(boxes, frame[1], frame[0]))
        return torch.from_numpy(np.ascontiguousarray(planes)), targets, file, ((height, width), ratio_pad)

    def batches(self, size: int) -> Iterable[list[int]]:
        """Return the images in batches of one size each, so that their frames are equal; larger ones first."""
        sizes, group = np.unique(self.shapes, axis=0, return_inverse=True)
        members = [np.flatnonzero(group.reshape(-1) == k).tolist() for k in reversed(range(len(sizes)))]
        return [part[i : i + size] for part in members for i in range(0, len(part), size)]


def as_detect(loader: DataLoader, dataset: LoadImagesAndLabels, stride: int | None, batch_size: int) -> DataLoader:
    """Return a loader of the same images as detect.py gives them to the network.

    Args:
        loader: from `create_dataloader`, for images that share the frame of the network input.
        dataset: from there, too.
        stride: see `Detector.fit`.
        batch_size: most images per batch.
    """
    frames = DetectFrames(dataset, stride)
    return Loader(
        frames,
        batch_sampler=frames.batches(batch_size),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        generator=loader.generator,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
