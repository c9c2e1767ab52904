"""utils/boxes.py against torchvision, numbers worked out by hand, and the behaviour specification (B.3, B.4)."""

import numpy as np
import pytest
import torch
from torchvision import ops

from utils.augmentations import letterbox
from utils.boxes import (
    bbox_iou,
    box_ioa,
    box_iou,
    clip_boxes,
    scale_boxes,
    xywh2xyxy,
    xywhn2xyxy,
    xyxy2xywh,
    xyxy2xywhn,
)

KINDS = {"tensor": torch.tensor, "array": np.array}


@pytest.fixture(params=KINDS)
def make(request):
    """Build boxes of either kind from nested lists."""
    return lambda rows: KINDS[request.param](rows)


def random_xyxy(n, seed=0, size=100):
    corner = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size
    side = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) * size
    return torch.cat((corner, corner + side), 1)


def close(actual, expected, **tolerance):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), **{"rtol": 1e-6, "atol": 1e-6, **tolerance})


# Formats --------------------------------------------------------------------------------------------------------------


def test_xyxy2xywh_by_hand(make):
    close(xyxy2xywh(make([[10.0, 20.0, 30.0, 60.0]])), [[20, 40, 20, 40]])


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
def test_xywh_is_the_inverse_of_xyxy(shape):
    boxes = random_xyxy(max(int(np.prod(shape)) // 4, 1))[: int(np.prod(shape)) // 4].reshape(shape)
    for x in (boxes, boxes.numpy()):
        assert type(xywh2xyxy(x)) is type(x)
        close(xywh2xyxy(xyxy2xywh(x)), boxes)
        close(xyxy2xywh(xywh2xyxy(x)), boxes)


def test_formats_agree_with_torchvision():
    boxes = random_xyxy(50)
    close(xyxy2xywh(boxes), ops.box_convert(boxes, "xyxy", "cxcywh"))
    close(xywh2xyxy(boxes), ops.box_convert(boxes, "cxcywh", "xyxy"))


def test_xywhn2xyxy_by_hand(make):
    # centre (0.5, 0.25) of 200 x 80 is (100, 20); half the size is (20, 20); then 3 to the right and 7 down
    close(xywhn2xyxy(make([[0.5, 0.25, 0.2, 0.5]]), 200, 80, padw=3, padh=7), [[83, 7, 123, 47]])


def test_xyxy2xywhn_is_the_inverse(make):
    boxes = make(random_xyxy(20).tolist())
    close(xywhn2xyxy(xyxy2xywhn(boxes, 320, 240), 320, 240), boxes)


def test_xyxy2xywhn_clips_first(make):
    # (-10, 0, 50, 120) in 100 x 100 is cut to (0, 0, 50, 100 - 1)
    close(xyxy2xywhn(make([[-10.0, 0.0, 50.0, 120.0]]), 100, 100, clip=True, eps=1), [[0.25, 0.495, 0.5, 0.99]])
    close(xyxy2xywhn(make([[-10.0, 0.0, 50.0, 120.0]]), 100, 100), [[0.2, 0.6, 0.6, 1.2]])


def test_integers_become_float(make):
    close(xyxy2xywh(make([[0, 0, 3, 5]])), [[1.5, 2.5, 3, 5]])
    close(scale_boxes((20, 20), make([[0, 0, 3, 5]]), (10, 10)), [[0, 0, 1.5, 2.5]])


# Between images -------------------------------------------------------------------------------------------------------


def test_clip_boxes_takes_height_first(make):
    close(clip_boxes(make([[-5.0, -5.0, 500.0, 500.0]]), (100, 200)), [[0, 0, 200, 100]])
    close(clip_boxes(make([[300.0, 10.0, 400.0, 20.0]]), (100, 200, 3)), [[200, 10, 200, 20]])


def test_scale_boxes_by_hand(make):
    # 720 x 1280 in 384 x 640: ratio 0.5, 12 rows above (specification B.3)
    net = make([[50.0, 112.0, 150.0, 212.0, 0.9, 3.0]])
    close(scale_boxes((384, 640), net, (720, 1280)), [[100, 200, 300, 400, 0.9, 3]])
    close(scale_boxes((384, 640), net, (720, 1280), ((0.5, 0.5), (0, 12))), [[100, 200, 300, 400, 0.9, 3]])


def test_scale_boxes_keeps_height_and_width_apart(make):
    # 4 network pixels a picture pixel along x, 2 along y; pad 1 left, 10 above
    net = make([[41.0, 30.0, 81.0, 50.0]])
    close(scale_boxes((200, 400), net, (100, 100), ((2.0, 4.0), (1.0, 10.0))), [[10, 10, 20, 20]])


@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (1080, 810), (333, 500), (100, 37), (33, 500)])
def test_scale_boxes_without_ratio_undoes_letterbox(shape):
    image, (ratio, _), (pad_w, pad_h) = letterbox(np.zeros((*shape, 3), np.uint8))
    boxes = random_xyxy(20, size=30).numpy()
    boxes = clip_boxes(boxes, shape)
    net = boxes * ratio + np.array([pad_w, pad_h, pad_w, pad_h])
    close(scale_boxes(image.shape, net, shape), boxes, atol=1e-9)


def test_scale_boxes_clips(make):
    close(scale_boxes((64, 64), make([[-9.0, 2.0, 99.0, 70.0]]), (32, 32)), [[0, 1, 32, 32]])


# IoU ------------------------------------------------------------------------------------------------------------------


def test_box_iou_agrees_with_torchvision():
    a, b = random_xyxy(40, 1), random_xyxy(30, 5)
    close(box_iou(a, b), ops.box_iou(a, b))
    close(box_iou(a.numpy(), b.numpy()), ops.box_iou(a, b))


def test_box_iou_of_empty_boxes_and_sets(make):
    point = make([[5.0, 5.0, 5.0, 5.0]])
    assert box_iou(point, point)[0, 0] == 0
    assert box_iou(point[:0], point).shape == (0, 1)
    assert box_iou(point, point[:0]).shape == (1, 0)


def test_box_ioa_by_hand(make):
    others = make([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 10.0, 15.0], [20.0, 20.0, 30.0, 30.0], [3.0, 3.0, 3.0, 3.0]])
    close(box_ioa(make([0.0, 0.0, 10.0, 5.0]), others), [0.5, 0, 0, 0])
    close(box_ioa(make([0.0, 0.0, 10.0, 10.0]), others), [1, 0.5, 0, 0])


# Specification B.4: boxes as centre and size, CIoU and, where given, IoU
B4 = [
    ((1, 1, 2, 2), (1, 1, 2, 2), 1.0, 1.0),
    ((1, 1, 2, 2), (1.5, 1.2, 2, 3), 0.409130, 0.428571),
    ((3, 3, 1, 4), (3.2, 2.9, 4, 1), -0.027173, 0.142857),
    ((0.5, 0.5, 1, 1), (5, 5, 1, 1), -0.669421, 0.0),
    ((1, 1, 2, 2), (1, 1, 4, 2), 0.496752, 0.5),
]


@pytest.mark.parametrize(("a", "b", "ciou", "iou"), B4)
def test_bbox_iou_of_the_specification(make, a, b, ciou, iou):
    a, b = make([[float(x) for x in a]]), make([[float(x) for x in b]])
    close(bbox_iou(a, b, CIoU=True), [ciou])
    close(bbox_iou(a, b), [iou])
    close(bbox_iou(xywh2xyxy(a), xywh2xyxy(b), xywh=False, CIoU=True), [ciou])


@pytest.mark.parametrize(
    ("flag", "reference"),
    [
        ({}, ops.box_iou),
        ({"GIoU": True}, ops.generalized_box_iou),
        ({"DIoU": True}, ops.distance_box_iou),
        ({"CIoU": True}, ops.complete_box_iou),
    ],
)
def test_bbox_iou_agrees_with_torchvision(flag, reference):
    a, b = random_xyxy(40, 1), random_xyxy(40, 5)
    expected = reference(a, b)  # every pair
    close(bbox_iou(a, b, xywh=False, **flag), expected.diagonal())
    close(bbox_iou(xyxy2xywh(a), xyxy2xywh(b), **flag), expected.diagonal())
    close(bbox_iou(a.numpy(), b.numpy(), xywh=False, **flag), expected.diagonal())
    close(bbox_iou(a[:, None], b[None], xywh=False, **flag), expected)  # broadcast


def test_ciou_gradient_agrees_with_torchvision():
    a, b = random_xyxy(40, 1).requires_grad_(), random_xyxy(40, 5)
    (ours,) = torch.autograd.grad((1 - bbox_iou(a, b, xywh=False, CIoU=True)).sum(), a)
    (theirs,) = torch.autograd.grad(ops.complete_box_iou_loss(a, b, reduction="sum"), a)
    close(ours, theirs)


def test_ciou_of_boxes_without_area_is_finite():
    a = torch.zeros(1, 4, requires_grad=True)
    value = bbox_iou(a, torch.tensor([[0.0, 0.0, 2.0, 0.0]]), CIoU=True)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(a.grad).all()


def test_bbox_iou_takes_one_flag():
    with pytest.raises(ValueError, match="at most one of GIoU=True, DIoU=False, CIoU=True"):
        bbox_iou(torch.ones(1, 4), torch.ones(1, 4), GIoU=True, CIoU=True)


# All ------------------------------------------------------------------------------------------------------------------

CALLS = {
    "xyxy2xywh": xyxy2xywh,
    "xywh2xyxy": xywh2xyxy,
    "xywhn2xyxy": lambda x: xywhn2xyxy(x, 30, 20, 5, 6),
    "xyxy2xywhn": lambda x: xyxy2xywhn(x, 30, 20, clip=True),
    "clip_boxes": lambda x: clip_boxes(x, (40, 50)),
    "scale_boxes": lambda x: scale_boxes((64, 64), x, (40, 50)),
    "box_iou": lambda x: box_iou(x, x),
    "box_ioa": lambda x: box_ioa(x[0] if len(x) else random_xyxy(1)[0].numpy().astype(x.dtype), x),
    "bbox_iou": lambda x: bbox_iou(x, x, CIoU=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_kind_and_dtype_are_kept_and_the_input_is_not_changed(name):
    for dtype in (torch.float32, torch.float64):
        tensor = random_xyxy(6).to(dtype)
        for x, copy in ((tensor, tensor.clone()), (tensor.numpy(), tensor.numpy().copy())):
            y = CALLS[name](x)
            assert type(y) is type(x)
            assert y.dtype == x.dtype
            close(x, copy, rtol=0, atol=0)
        close(CALLS[name](tensor), CALLS[name](tensor.numpy()), rtol=1e-5)


@pytest.mark.parametrize("name", CALLS)
def test_no_boxes_give_no_boxes(name):
    assert len(CALLS[name](np.zeros((0, 4)))) == 0


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("box_iou", "box_ioa")])
def test_batch_equals_single(name):
    boxes = random_xyxy(5)
    close(CALLS[name](boxes), torch.stack([CALLS[name](box[None])[0] for box in boxes]))
