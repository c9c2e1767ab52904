"""engine/validation/evaluation.py: what a batch holds; the numbers of validation stand in tests/test_val.py."""

from types import SimpleNamespace

import numpy as np
import torch

from engine.validation.evaluation import Runner, warn_of_max_det
from utils.callbacks import Callbacks


class Mean(torch.nn.Module):
    """One box per image, whose score is the mean of the image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        rows = torch.tensor([8.0, 8, 4, 4, 1, 0]).repeat(len(images), 1, 1)
        rows[:, 0, 5] = images.mean((1, 2, 3))
        return rows


def test_images_are_the_bytes_over_255_in_every_batch():
    g = torch.Generator().manual_seed(0)
    sizes = [(2, 16, 32), (3, 32, 16), (1, 16, 16), (4, 32, 32)]  # smaller and larger than the one before
    loader = []
    for count, height, width in sizes:
        images = torch.randint(256, (count, 3, height, width), generator=g, dtype=torch.uint8)
        shapes = [((height, width), ((1.0, 1.0), (0.0, 0.0)))] * count
        loader.append((images, torch.zeros(0, 6), ["a.jpg"] * count, shapes))
    copies = [images.clone() for images, *_ in loader]
    runner = Runner(Mean(), 0.001, 0.6, 300, False, False, None)
    for batch, copy in zip(runner.batches(loader, Callbacks()), copies, strict=True):
        assert torch.equal(batch.images, copy.float() / 255)
        scores = torch.cat([result.detections[:, 4] for result in batch.results])
        torch.testing.assert_close(scores, copy.double().mean((1, 2, 3)).float() / 255)
    assert all(torch.equal(images, copy) for (images, *_), copy in zip(loader, copies, strict=True))


def test_more_labels_than_detections_are_kept(caplog):
    dataset = SimpleNamespace(labels=[np.zeros((n, 5), np.float32) for n in (0, 301, 300, 410)])
    warn_of_max_det(dataset, 410)
    assert caplog.text == ""
    warn_of_max_det(dataset, 300)
    assert (
        "2 of 4 images have more than 300 labels, up to 410, but 300 detections are kept of each, so recall and mAP "
        "cannot reach 1: use --max-det 410"
    ) in caplog.text
