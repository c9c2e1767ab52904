"""Test-time augmentation: sizes, numbers of rows, and boxes that come back to where they were."""

import pytest
import torch
from torch import nn

from models.tta import forward_augmented, scale_img
from models.yolo import DetectionModel

STRIDES = (8, 16, 32)


class Blob(nn.Module):
    """Finds one bright area; every row of every level is its box."""

    def forward(self, images):
        b, _, h, w = images.shape
        mass = images[:, 0] * (images[:, 0] > 0.6)
        total = mass.sum((1, 2))
        x = (mass.sum(1) * (torch.arange(w) + 0.5)).sum(1) / total
        y = (mass.sum(2) * (torch.arange(h) + 0.5)).sum(1) / total
        box = torch.stack((x, y, total.sqrt(), total.sqrt(), torch.ones(b), torch.ones(b)), 1)
        rows = sum(3 * (h // s) * (w // s) for s in STRIDES)
        return box[:, None].expand(b, rows, 6)


@pytest.mark.parametrize(("size", "rows"), [((640, 640), 45147), ((384, 640), 27000)])
def test_rows_of_three_views_equal_the_published_numbers(size, rows):
    assert forward_augmented(Blob(), torch.rand(1, 3, *size), 32, 3).shape == (1, rows, 6)


@pytest.mark.parametrize(
    ("size", "ratio", "padded"),
    [((640, 640), 0.83, (544, 544)), ((384, 640), 0.83, (320, 544)), ((384, 640), 0.67, (288, 448))],
)
def test_views_have_the_published_sizes(size, ratio, padded):
    view = scale_img(torch.zeros(1, 3, *size), ratio)
    assert tuple(view.shape[2:]) == padded
    inside = int(size[0] * ratio), int(size[1] * ratio)
    assert (view[..., : inside[0], : inside[1]] == 0).all()
    assert (view[..., inside[0] :, :] == 0.447).all()
    assert tuple(scale_img(torch.zeros(1, 3, *size), ratio, same_shape=True).shape[2:]) == inside


def test_boxes_of_every_view_come_back():
    images = torch.zeros(2, 3, 256, 384)
    images[0, :, 30:70, 280:360] = 1
    images[1, :, 100:180, 20:50] = 1
    rows = forward_augmented(Blob(), images, 32, 3)
    centres = torch.tensor([[320.0, 50.0], [35.0, 140.0]])
    assert (rows[..., :2] - centres[:, None]).abs().max() < 1.5
    assert (rows[..., 2].std(1) < 1).all()  # the same side length from each scale


def test_a_mirrored_view_is_off_by_no_pixel():
    images = torch.zeros(1, 3, 300, 400)  # 0.83 and 0.67 of these sides are whole pixels
    images[:, :, 100:200, 100:300] = 1
    rows = forward_augmented(Blob(), images, 32, 3)
    assert (rows[..., :2] - torch.tensor([200.0, 150.0])).abs().max() < 0.3


def test_model_gives_boxes_of_three_views_and_no_raw_maps():
    model = DetectionModel("yolov5n.yaml", nc=2, verbose=False).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        boxes, raw = model(images, augment=True)
        plain = model(images)[0]
    assert raw is None
    kept = plain.shape[1] - plain.shape[1] // 21
    torch.testing.assert_close(boxes[:, :kept], plain[:, :kept])
    with pytest.raises(ValueError, match="eval"):
        model.train()(images, augment=True)
