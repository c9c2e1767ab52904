"""Images that are damaged, missing or changed since their labels were read, as the dataset of a training meets them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from utils import dataloaders as dl
from utils.hyp import Hyp

STILL = Hyp(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


@pytest.fixture
def damaged(tmp_path):
    """Three white JPEG of 60 x 40 with a label each; b has no good Huffman tables, which only decoding tells."""
    for name in "abc":
        Image.new("RGB", (60, 40), "white").save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text("0 .5 .5 .5 .5 \n1 .1 .1 .4 .1 .4 .4")
    data = bytearray((tmp_path / "b.jpg").read_bytes())
    at = data.index(b"\xff\xc4") + 5
    data[at : at + 16] = b"\xff" * 16  # codes of each length
    (tmp_path / "b.jpg").write_bytes(data)
    return tmp_path


def test_a_dataset_needs_no_room_in_shared_memory(damaged, monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    dataset = dl.LoadImagesAndLabels(damaged, 60, batch_size=1)
    assert [dataset[(0, i)][0].shape for i in range(3)] == [(3, 60, 60)] * 3


@pytest.mark.parametrize("options", [{}, {"rect": True}, {"cache_images": True}, {"augment": True, "hyp": STILL}])
def test_a_damaged_image_becomes_a_grey_background_and_is_named_once(damaged, caplog, options):
    dataset = dl.LoadImagesAndLabels(damaged, 60, batch_size=1, **options)
    for epoch in range(2):
        for i, name in enumerate("abc"):
            image, targets, path, shapes = dataset[(epoch, i)]
            white = name != "b"
            assert Path(path).stem == name
            assert image.shape[1:] == ((64, 64) if options.get("rect") else (60, 60))
            assert (image[:, 30, 30] == (255 if white else 114)).all()
            assert len(targets) == (2 if white else 0)
            assert shapes is None or shapes[0] == (40, 60)
    told = [text for text in caplog.messages if "b.jpg" in text]
    assert len(told) == 1
    assert "OpenCV cannot decode this image" in told[0]


def test_a_damaged_image_in_mosaics_has_no_labels(damaged):
    hyp = Hyp(mixup=1, copy_paste=1)
    dataset = dl.LoadImagesAndLabels(damaged, 64, augment=True, hyp=hyp)
    for epoch in range(3):
        for i in range(3):
            assert dataset[(epoch, i)][0].shape == (3, 64, 64)
    dataset.labels[0] = dataset.labels[2] = np.zeros((0, 5), np.float32)
    dataset.segments[0] = dataset.segments[2] = []
    assert [len(dataset[(5, i)][1]) for i in range(3)] == [0, 0, 0]


def test_workers_share_what_they_know_of_damaged_images(damaged):
    loader, dataset = dl.create_dataloader(damaged, 64, 2, 32, hyp=STILL, augment=True, workers=2)
    assert sum(len(targets) for _, targets, _, _ in loader) == 4
    assert dataset._damaged.tolist() == [False, True, False]


def test_image_that_changed_since_the_labels_were_read(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "a.txt").write_text("0 .5 .5 .5 .5")
    dataset = dl.LoadImagesAndLabels(tmp_path, 64)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 40, 3), np.uint8))
    image, targets, _, shapes = dataset[0]
    assert (image == 114).all()
    assert (len(targets), shapes[0]) == (0, (40, 60))
    assert "a.png: decoded as 40 x 60 pixels (1/1), not 60 x 40 as before" in caplog.text


def test_a_missing_image_ends_the_run(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    dataset = dl.LoadImagesAndLabels(tmp_path, 64)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        dataset[0]
