"""Which images make up an epoch, in which order, and how often each comes."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Yield (epoch, index) for every image once, shuffled by (seed, epoch) or in order.

    Several processes share each batch: together they see the batches, in the order, that one process would see. The
    last batch is filled up with images of its beginning where they cannot share it evenly.

    Args:
        n: number of images.
        shuffle: in a new order each epoch.
        seed: of the order.
        batch_size: images per batch of all processes together; matters with several only.
        rank, world_size: number of this process and of all.

    Attributes:
        weights: (n,) how often an image is wanted, relative to the others; n images are then drawn with replacement.
            None takes each image once.
        skip: images of this pass that were seen before; a resumed run begins after them.
    """

    def __init__(
        self, n: int, shuffle: bool = False, seed: int = 0, batch_size: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self.n, self.shuffle, self.seed, self.epoch, self.skip = n, shuffle, seed, 0, 0
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.weights: np.ndarray | None = None
        self._chosen = False

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch; call it before each pass over the loader, or never: then each pass is the next epoch.

        Args:
            epoch: 0 is the first.
            skip: skip so many images at the beginning of this process's part. The length stays that of a whole
                pass.
        """
        self.epoch, self.skip, self._chosen = epoch, skip, True

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        self.epoch += not self._chosen
        # One number more than the seeds of the samples have, so that no sample shares the order's random numbers.
        rng = np.random.default_rng((self.seed, epoch, 0, 1))
        order = rng.permutation(self.n) if self.shuffle else np.arange(self.n)
        if self.weights is not None and self.weights.sum() > 0:
            order = rng.choice(self.n, self.n, p=self.weights / self.weights.sum())
        if self.world_size > 1:
            batches = [order[i : i + self.batch_size] for i in range(0, self.n, self.batch_size)]
            order = np.concatenate([self._share(batch) for batch in batches])
        return ((epoch, int(i)) for i in order[self.skip :])  # one by one: a list would be objects for every image

    def _share(self, batch: np.ndarray) -> np.ndarray:
        """Return the part of a batch that this process sees; all parts are of one length."""
        length = -(-len(batch) // self.world_size)
        return np.resize(batch, length * self.world_size)[self.rank * length : (self.rank + 1) * length]

    def __len__(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        if self.world_size == 1:
            return self.n
        return full * self.batch_size // self.world_size - (-rest // self.world_size)


def class_weights(labels: Sequence[np.ndarray], nc: int) -> np.ndarray:
    """Weigh classes by how rare they are.

    Args:
        labels: for each image (M, 5) `[class, xywhn]`.
        nc: number of classes.

    Returns:
        (nc,) float64 with mean 1: the inverse counts; classes without labels weigh as much as those with one.
    """
    classes = np.concatenate([x[:, 0] for x in labels]).astype(int) if len(labels) else np.zeros(0, int)
    inverse = 1 / np.maximum(np.bincount(classes, minlength=nc), 1)
    return inverse / inverse.sum() * nc


def image_weights(labels: Sequence[np.ndarray], maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weigh images by how many labels they have of classes that are rare and detected poorly.

    Args:
        labels: for each of N images (M, 5) `[class, xywhn]`.
        maps: (nc,) mAP50-95 of each class so far, zeros before the first validation.
        weights: (nc,) from `class_weights`.

    Returns:
        (N,) sum over the labels of an image of weight * (1 - mAP)^2 / nc of their class; 0 without labels.
    """
    nc = len(weights)
    of_class = weights * (1 - maps) ** 2 / nc
    return np.array([of_class[x[:, 0].astype(int)].sum() for x in labels])
