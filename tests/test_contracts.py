"""What travels between the parts of the program: labels, batches, network outputs, detections, boxes in the image."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.yolo import DetectionModel
from utils.boxes import scale_boxes, xywh2xyxy, xywhn2xyxy
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset, load_labels
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.metrics import IOU_THRESHOLDS, match_predictions, measure_ap
from utils.nms import non_max_suppression

ROOT = Path(__file__).resolve().parents[1]
SIZES = [(60, 90), (100, 41), (50, 70), (64, 47)]  # (height, width) of the pictures in `mixed`: two wide, two tall
LINES = ["0 0.5 0.5 0.2 0.4\n2 0.25 0.75 0.5 0.5", "1 0.3 0.6 0.1 0.1", "", None]  # None: no label file at all


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Folder of four pictures of different sizes, red on top and blue below; two of them without objects."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for i, ((height, width), lines) in enumerate(zip(SIZES, LINES, strict=True)):
        im = np.zeros((height, width, 3), np.uint8)
        im[: height // 2, :, 2] = 255  # OpenCV's order is blue, green, red
        im[height // 2 :, :, 0] = 255
        cv2.imwrite(str(root / "images" / f"{i}.png"), im)
        if lines is not None:
            (root / "labels" / f"{i}.txt").write_text(lines)
    return root / "images"


@pytest.fixture(scope="module", params=["yolov5n.yaml", "yolov5n-swinv2.yaml"])
def model(request):
    torch.manual_seed(0)
    model = DetectionModel(ROOT / "models" / request.param, nc=4, verbose=False)
    model.hyp = Hyp().to_dict()
    return model


def batches(path, **options):
    """The two batches of the four pictures, and their dataset."""
    loader, dataset = create_dataloader(path, 64, 2, 32, workers=0, nc=4, **options)
    return list(loader), dataset


def by_hand(lines):
    """The label lines of one picture as (M, 5)."""
    return np.array([line.split() for line in (lines or "").splitlines()], np.float32).reshape(-1, 5)


# 1. labels ------------------------------------------------------------------------------------------------------------
def test_labels_are_class_and_xywhn(mixed):
    labels = load_labels(mixed, nc=4).labels
    assert len(labels) == len(LINES)
    for found, lines in zip(labels, LINES, strict=True):
        assert found.dtype == np.float32
        assert found.shape == by_hand(lines).shape  # (0, 5) for the empty and for the missing file
        np.testing.assert_array_equal(found, by_hand(lines))


def test_labels_of_the_drawn_set_fit_its_classes(tiny_dataset):
    data = check_dataset(tiny_dataset)
    for split, n in (("train", 8), ("val", 4)):
        labels = load_labels(data[split], nc=data["nc"]).labels
        rows = np.concatenate(labels)
        assert len(labels) == n
        assert set(rows[:, 0]) <= set(map(float, data["names"]))
        assert (rows[:, 1:] >= 0).all()
        assert (rows[:, 1:] <= 1).all()
        assert (rows[:, 3:] > 0).all()


# 2. batches -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({}, [(64, 64), (64, 64)]),
        ({"rect": True}, [(64, 64), (64, 64)]),
        ({"rect": True, "pad": 0.5}, [(64, 96), (96, 64)]),
    ],
)
def test_batch_is_rgb_bytes_with_targets_per_image(mixed, options, frames):
    found, dataset = batches(mixed, **options)
    assert [path for _, _, paths, _ in found for path in paths] == dataset.im_files
    for (images, targets, paths, shapes), frame in zip(found, frames, strict=True):
        assert images.dtype == torch.uint8
        assert images.shape == (2, 3, *frame)
        assert targets.dtype == torch.float32
        assert targets.shape[1] == 6
        assert len(paths) == len(shapes) == 2
        for i, path in enumerate(paths):
            number = int(Path(path).stem)
            assert shapes[i][0] == SIZES[number]
            middle = {tuple(c) for c in images[i, :, :, frame[1] // 2].t().tolist()}  # colours from top to bottom
            assert {(255, 0, 0), (0, 0, 255)} <= middle
            assert images[i, 0].sum(1).argmax() < images[i, 2].sum(1).argmax()  # red stands over blue
            classes = targets[targets[:, 0] == i][:, 1]
            np.testing.assert_array_equal(classes, by_hand(LINES[number])[:, 0])


def test_training_batch_has_the_same_form(tiny_dataset):
    data = check_dataset(tiny_dataset)
    loader, dataset = create_dataloader(
        data["train"], 96, 4, 32, hyp=Hyp(), augment=True, shuffle=True, workers=0, nc=data["nc"]
    )
    assert dataset.n == 8
    for images, targets, paths, shapes in loader:
        assert images.shape == (4, 3, 96, 96)
        assert images.dtype == torch.uint8
        assert targets.dtype == torch.float32
        assert targets.shape[1] == 6
        assert (targets[:, 0].diff() >= 0).all()  # in the order of the images
        assert set(targets[:, 0].tolist()) <= {0.0, 1.0, 2.0, 3.0}
        assert set(targets[:, 1].tolist()) <= set(map(float, data["names"]))
        assert (targets[:, 2:] >= 0).all()
        assert (targets[:, 2:] <= 1).all()
        assert len(paths) == len(shapes) == 4


# 3. network -----------------------------------------------------------------------------------------------------------
def test_network_gives_raw_maps_in_training_and_boxes_in_evaluation(model):
    images = torch.rand(2, 3, 64, 96)
    maps = [(2, 3, 64 // s, 96 // s, 9) for s in (8, 16, 32)]
    raw = model.train()(images)
    assert [tuple(y.shape) for y in raw] == maps
    with torch.no_grad():
        boxes, raw = model.eval()(images)
    assert [tuple(y.shape) for y in raw] == maps
    assert boxes.shape == (2, 3 * (8 * 12 + 4 * 6 + 2 * 3), 9)
    scores = boxes[..., 4:]
    assert (scores >= 0).all()
    assert (scores <= 1).all()
    # Centres reach half a cell beyond the map: pixels of the input, x along its width
    assert boxes[..., 0].max() > 64
    for axis, side in ((0, 96), (1, 64)):
        assert boxes[..., axis].min() > -16
        assert boxes[..., axis].max() < side + 16


def test_network_treats_each_image_by_itself(model):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        together = model.eval()(images)[0]
        alone = torch.cat([model(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_loss_takes_what_network_and_loader_give(model, mixed):
    images, targets, _, _ = batches(mixed)[0][0]
    loss, items = ComputeLoss(model)(model.train()(images.float() / 255), targets)
    assert loss.numel() == 1
    assert items.shape == (3,)
    assert torch.isfinite(items).all()
    loss.backward()
    gradients = [p.grad for p in model.model[-1].parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    model.zero_grad()


# 4. detections --------------------------------------------------------------------------------------------------------
def test_nms_takes_the_network_output(model):
    with torch.no_grad():
        output = model.eval()(torch.rand(2, 3, 64, 96))
    found = non_max_suppression(output, conf_thres=0.0, iou_thres=0.6, max_det=20)
    assert len(found) == 2
    for rows in found:
        assert rows.shape == (20, 6)
        assert (rows[:, 2:4] > rows[:, :2]).all()  # corners
        assert (rows[:, 4].diff() <= 0).all()  # best first
        assert set(rows[:, 5].tolist()) <= {0.0, 1.0, 2.0, 3.0}
    nothing = non_max_suppression(output, conf_thres=1.0)
    assert [tuple(rows.shape) for rows in nothing] == [(0, 6), (0, 6)]


def test_detection_row_by_hand():
    prediction = torch.zeros(1, 3, 5 + 2)
    prediction[0, 1] = torch.tensor([50.0, 40.0, 20.0, 10.0, 0.8, 0.25, 0.5])
    (rows,) = non_max_suppression(prediction, conf_thres=0.25)
    torch.testing.assert_close(rows, torch.tensor([[40.0, 35.0, 60.0, 45.0, 0.4, 1.0]]))


# 5. boxes in the image ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"rect": True}, {"rect": True, "pad": 0.5}])
def test_targets_scale_back_to_the_labels(mixed, options):
    for images, targets, paths, shapes in batches(mixed, **options)[0]:
        height, width = images.shape[2:]
        for i, path in enumerate(paths):
            labels = by_hand(LINES[int(Path(path).stem)])
            h0, w0 = SIZES[int(Path(path).stem)]
            expected = xywh2xyxy(labels[:, 1:]) * np.array([w0, h0, w0, h0])
            net = xywhn2xyxy(targets[targets[:, 0] == i][:, 2:], width, height)
            found = scale_boxes((height, width), net, *shapes[i])
            np.testing.assert_allclose(found.numpy(), expected, atol=0.05)  # pixels


def test_perfect_predictions_score_perfectly(tiny_dataset):
    """The chain of validation: batch, prediction, NMS, original pixels, matching, AP."""
    data = check_dataset(tiny_dataset)
    loader, dataset = create_dataloader(data["val"], 128, 2, 32, rect=True, pad=0.5, workers=0, nc=data["nc"])
    hits, truth = [], []
    for n, (images, targets, _, shapes) in enumerate(loader):
        height, width = images.shape[2:]
        scale = torch.tensor([width, height, width, height])
        for i, shape in enumerate(shapes):
            mine = targets[targets[:, 0] == i]
            one_hot = torch.eye(data["nc"])[mine[:, 1].long()]
            rows = torch.cat((mine[:, 2:] * scale, torch.ones(len(mine), 1), one_hot), 1)  # (M, 5 + nc)
            (found,) = non_max_suppression(rows[None], conf_thres=0.001, iou_thres=0.99, multi_label=True)
            found[:, :4] = scale_boxes((height, width), found[:, :4], *shape)
            h0, w0 = shape[0]
            labels = torch.from_numpy(dataset.labels[2 * n + i]).clone()
            labels[:, 1:] = xywhn2xyxy(labels[:, 1:], w0, h0)
            hits.append((match_predictions(found, labels, IOU_THRESHOLDS), found[:, 4], found[:, 5]))
            truth.append(labels[:, 0])
    tp, conf, cls = (torch.cat(column).numpy() for column in zip(*hits, strict=True))
    result = measure_ap(tp, conf, cls, torch.cat(truth).numpy())
    np.testing.assert_allclose(result.ap, 0.995, atol=1e-6)  # what 101-point interpolation gives a perfect detector


def test_input_files_stay_as_they_were(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset.parent, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*.*") if path.suffix != ".cache"}
    loader, _ = create_dataloader(
        tmp_path / "copy" / "tiny" / "images" / "train", 96, 4, 32, hyp=Hyp(), augment=True, workers=0, nc=4
    )
    assert len(list(loader)) == 2
    assert {p: p.read_bytes() for p in (tmp_path / "copy").rglob("*.*") if p.suffix != ".cache"} == before
