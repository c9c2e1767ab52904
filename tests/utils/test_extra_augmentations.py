"""The optional package albumentations: seeded, pixels only, off by default, a clear error where it is missing."""

import os
import sys

import cv2
import numpy as np
import pytest

from utils import dataloaders as dl
from utils.extra_augmentations import ExtraAugmentations
from utils.hyp import Hyp


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def require():
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations")


def test_a_missing_package_is_named_with_the_fix(tiny_dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    images = tiny_dataset.parent / "tiny" / "images" / "train"
    with pytest.raises(
        ValueError, match=r"albumentations: 0\.5: this package is not installed: pip install 'albumenta"
    ):
        dl.LoadImagesAndLabels(images, 64, augment=True, hyp=Hyp(albumentations=0.5))
    dl.LoadImagesAndLabels(images, 64, augment=True, hyp=Hyp())
    dl.LoadImagesAndLabels(images, 64)


def test_probability_0_changes_nothing(image):
    require()
    assert np.array_equal(ExtraAugmentations(0.0).apply(image, [1, 2, 3, 4]), image)


def draws(n):
    rng = np.random.default_rng(0)
    return [ExtraAugmentations.draw(rng) for _ in range(n)]


def test_the_same_seeds_give_the_same_image(image):
    require()
    before, extra = image.copy(), ExtraAugmentations(0.5)
    first = [extra.apply(image, seeds) for seeds in draws(20)]
    again = [ExtraAugmentations(0.5).apply(image, seeds) for seeds in draws(20)]
    assert all(map(np.array_equal, first, again))
    assert len({im.tobytes() for im in first}) > 8
    assert np.array_equal(image, before)
    assert all(im.shape == image.shape and im.dtype == np.uint8 for im in first)


def test_grey_weighs_the_channels_as_bgr(image):
    require()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(int)
    extra = ExtraAugmentations(0.3)
    found = [extra.apply(image, seeds).astype(int) for seeds in draws(60)]
    assert any(np.abs(im - grey[..., None]).max() <= 1 for im in found)


def test_a_sample_keeps_its_labels_and_repeats(tiny_dataset):
    require()
    images = tiny_dataset.parent / "tiny" / "images" / "train"
    hyp = {"mosaic": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "fliplr": 0, "scale": 0, "translate": 0}
    plain = dl.LoadImagesAndLabels(images, 64, augment=True, hyp=Hyp(**hyp))
    extra = dl.LoadImagesAndLabels(images, 64, augment=True, hyp=Hyp(**hyp, albumentations=1))
    for i in range(3):
        (im, labels, *_), (im2, labels2, *_), (im3, *_) = plain[i], extra[i], extra[i]
        assert labels.equal(labels2)
        assert im2.equal(im3)
        assert not im.equal(im2)
        assert (im2[0].int() - im2[1].int()).abs().max() <= 1  # grey
