"""The steps around a model that detect.py and the hub share."""

import numpy as np
import pytest
import torch
from torch import nn

from models.detector import Detector


class Model(nn.Module):
    """Keeps what it is given and finds one box per image, whose confidence is the mean of the image."""

    def __init__(self, batch_size=None):
        super().__init__()
        self.batch_size, self.seen = batch_size, []

    def forward(self, images):
        self.seen.append(images)
        mean = images.mean((1, 2, 3))
        return (torch.stack([torch.tensor([16.0, 16, 8, 4, float(m), 1]) for m in mean])[:, None], None)


def suppress(boxes):
    return [torch.cat((b[:, :2] - b[:, 2:4] / 2, b[:, :2] + b[:, 2:4] / 2, b[:, 4:5], b[:, 5:] * 0), 1) for b in boxes]


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [3]), (2, [2, 2]), (4, [4])])
def test_images_keep_their_boxes_in_batches_of_any_size(batch_size, sizes):
    model = Model(batch_size)
    detector = Detector(model, suppress)
    images = [np.full((16, 32, 3), value, np.uint8) for value in (51, 102, 255)]
    found = detector(detector.fit(images, (32, 64)), [(16, 32), (8, 16), (32, 64)])
    assert [len(x) for x in model.seen] == sizes
    assert [x.shape[1:] for x in model.seen] == [(3, 32, 64)] * len(sizes)
    assert all(x.is_contiguous() and x.dtype == torch.float32 for x in model.seen)
    assert [x[0, 4].item() for x in found] == pytest.approx([0.2, 0.4, 1.0])
    for rows, scale in zip(found, (2, 4, 1), strict=True):
        assert rows[0, :4].tolist() == pytest.approx([12 / scale, 14 / scale, 20 / scale, 18 / scale])
    assert detector.shape == (sizes[-1], 3, 32, 64)
    if batch_size:
        filled = batch_size * len(sizes) - len(images)
        assert model.seen[-1][-filled:].abs().max() == 0


def test_fit_pads_to_the_stride_only_where_all_images_agree():
    wide, tall = np.zeros((100, 320, 3), np.uint8), np.zeros((320, 100, 3), np.uint8)
    wide[..., 0] = 255
    (alone,) = Detector.fit([wide], (320, 320), stride=32)
    assert alone.shape == (3, 128, 320)
    assert alone[:, 64, 160].tolist() == [255, 0, 0]
    assert Detector.fit([wide], 320, stride=32, bgr=True)[0][:, 64, 160].tolist() == [0, 0, 255]
    assert [x.shape for x in Detector.fit([wide, tall], (320, 320), stride=32)] == [(3, 320, 320)] * 2
    assert Detector.fit([wide], (320, 320))[0].shape == (3, 320, 320)
