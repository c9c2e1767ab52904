"""utils/datasets/tiles.py: no label is lost, and each tile has the labels of what it shows."""

import cv2
import numpy as np
import pytest
import torch

from tests.labelled_folder import write_folder
from utils import dataloaders as dl
from utils.boxes import xywhn2xyxy
from utils.datasets.images import PixelFormat
from utils.datasets.label_cache import LabelSet
from utils.datasets.reader import Split
from utils.datasets.tiles import BACKGROUND, KEPT, cut_into_tiles, cut_labels, tile_grid, tile_sides, whole_images
from utils.hyp import Hyp

STILL = Hyp(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


def split_of(labels, sizes, segments=None):
    files = [f"{i}.jpg" for i in range(len(labels))]
    return LabelSet(files, files, labels, segments or [[] for _ in labels], np.array(sizes), {}, [])


@pytest.mark.parametrize("seed", range(5))
def test_no_label_is_lost(seed):
    """Each box is in a tile, in all that have KEPT of it, and in pixels of the image it is the part inside."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(50, 600, 2).tolist()
    corners = np.sort(rng.random((40, 2, 2)), 1)  # from specks to boxes of nearly the whole image
    low, high = corners[:, 0], corners[:, 1] + 1e-3
    labels = np.concatenate((np.arange(40)[:, None], (low + high) / 2, high - low), 1).astype(np.float32)
    windows = tile_grid(height, width, (64, 96), 0.2)
    boxes = xywhn2xyxy(labels[:, 1:].astype(np.float64), width, height)
    seen = np.zeros(40, int)
    for (x1, y1, x2, y2), (rows, polygons) in zip(
        windows, cut_labels(labels, [], (width, height), windows), strict=True
    ):
        assert polygons == []
        here = rows[:, 0].astype(int)
        seen[here] += 1
        part = np.stack((boxes[:, 0].clip(x1, x2), boxes[:, 1].clip(y1, y2), boxes[:, 2].clip(x1, x2),
                         boxes[:, 3].clip(y1, y2)), 1)  # fmt: skip
        share = np.prod(part[:, 2:] - part[:, :2], 1) / np.prod(boxes[:, 2:] - boxes[:, :2], 1)
        assert set(np.flatnonzero(share > KEPT + 1e-6)) <= set(here)
        found = xywhn2xyxy(rows[:, 1:], x2 - x1, y2 - y1) + [x1, y1, x1, y1]
        np.testing.assert_allclose(found, part[here], atol=1e-2)
    assert seen.min() >= 1


def test_by_hand():
    """Two tiles of 100 x 100 over 180 x 100: a box in both, one of which the left has too little, one larger."""
    windows = tile_grid(100, 180, 100, 0.2)
    assert windows == [(0, 0, 100, 100), (80, 0, 180, 100)]
    pixels = np.array([[85, 10, 95, 20], [90, 40, 140, 60], [0, 80, 180, 90]], np.float64)
    centre, sides = (pixels[:, :2] + pixels[:, 2:]) / 2, pixels[:, 2:] - pixels[:, :2]
    labels = np.concatenate(([[0], [1], [2]], centre / [180, 100], sides / [180, 100]), 1).astype(np.float32)
    corners = [np.array([[0.5, 0.1], [0.9, 0.1], [0.9, 0.9]], np.float32), np.zeros((0, 2), np.float32),
               np.zeros((0, 2), np.float32)]  # fmt: skip
    (left, left_polygons), (right, right_polygons) = cut_labels(labels, corners, (180, 100), windows)
    assert left[:, 0].tolist() == [0, 2]
    assert right[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(left[0, 1:], [0.9, 0.15, 0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose(right[1, 1:], [0.35, 0.5, 0.5, 0.2], atol=1e-6)
    np.testing.assert_allclose(left_polygons[0], [[0.9, 0.1], [1, 0.1], [1, 0.9]], atol=1e-6)
    np.testing.assert_allclose(right_polygons[0], [[0.1, 0.1], [0.82, 0.1], [0.82, 0.9]], atol=1e-6)
    assert [len(p) for p in right_polygons] == [3, 0, 0]


def test_samples_are_whole_images_tiles_with_labels_and_a_share_of_the_others():
    one = np.array([[0, 0.01, 0.01, 0.01, 0.01]], np.float32)  # in the first tile alone
    none = np.zeros((0, 5), np.float32)
    found = split_of([one, none, one, none], [(1000, 1000), (1000, 1000), (90, 90), (50, 1000)])
    samples = cut_into_tiles(found, (100, 100), 0.0, seed=3)
    tiles = np.array([samples.is_tile(i) for i in range(len(samples.source))])
    assert samples.source[~tiles].tolist() == [0, 1, 2, 3]
    labelled = np.array(list(map(len, samples.labels)))
    assert (tiles & (labelled > 0)).sum() == 1
    assert (tiles & (labelled == 0)).sum() == round(BACKGROUND * (99 + 100 + 10))
    np.testing.assert_array_equal(samples.labels[0], one, strict=True)
    again, other = (cut_into_tiles(found, (100, 100), 0.0, seed=s) for s in (3, 4))
    assert np.array_equal(samples.windows, again.windows)
    assert not np.array_equal(samples.windows, other.windows)
    assert whole_images(found).sizes.tolist() == found.sizes.tolist()


@pytest.mark.parametrize(
    ("asked", "expected"), [(0, None), ([0], None), (64, (64, 64)), ([32, 48], (32, 48)), (32, (32, 32))]
)
def test_sides(asked, expected):
    assert tile_sides(asked) == expected


@pytest.mark.parametrize(
    ("asked", "match"), [(31, "at least 32"), ([0, 64], "at least 32"), ([64, 64, 64], "one side, or a height")]
)
def test_wrong_sides(asked, match):
    with pytest.raises(ValueError, match=f"--slice is .*{match}"):
        tile_sides(asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three grey images with white rectangles and their labels; two are larger than a tile of 64 pixels."""
    scenes = []
    for i, (w, h) in enumerate([(200, 100), (50, 60), (90, 150)]):
        im, lines = np.full((h, w, 3), 114, np.uint8), []
        for x, y in [(4, 8), (w - 24, h - 20), (w // 2, h // 2)]:
            im[y : y + 12, x : x + 16] = 255
            lines.append(f"{i} {(x + 8) / w:.9f} {(y + 6) / h:.9f} {16 / w:.9f} {12 / h:.9f}")
        scenes.append((im, lines))
    return write_folder(tmp_path_factory.mktemp("tiles"), scenes)


@pytest.mark.parametrize("hyp", [STILL, Hyp(mixup=0, mosaic9=0.5)])
def test_a_tile_shows_what_its_labels_say(folder, hyp):
    dataset = dl.LoadImagesAndLabels(folder, 96, augment=True, hyp=hyp, tile=(64, 64), overlap=0.2)
    assert dataset.n > 10
    boxes = 0
    for number in range(dataset.n):
        image, targets, _, _ = dataset[2, number]
        bright = image[0].numpy() > 150
        for x1, y1, x2, y2 in xywhn2xyxy(targets[:, 2:], 96, 96).numpy().round().astype(int):
            if min(x2 - x1, y2 - y1) < 5:
                continue
            boxes += 1
            assert bright[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.8
    assert boxes > 10


def test_rect_and_caches_of_tiles(folder):
    def samples(**settings):
        dataset = dl.LoadImagesAndLabels(folder, (64, 96), 2, tile=(64, 64), overlap=0.2, **settings)
        return [dataset[i] for i in range(dataset.n)], dataset

    (plain, dataset), (ram, _), (disk, _), (read, _) = (
        samples(**s) for s in ({}, {"cache_images": "ram"}, {"cache_images": "disk"}, {"cache_images": "disk"})
    )
    for others in (ram, disk, read):
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(plain, others, strict=True))
    rect, sorted_set = samples(rect=True)
    assert sorted(map(len, dataset.labels)) == sorted(map(len, sorted_set.labels))
    for i, (image, *_) in enumerate(rect):
        assert tuple(image.shape[1:]) == tuple(sorted_set.batch_shapes[sorted_set.batch[i]])
        assert sorted_set.samples.sizes[i].tolist() == sorted_set.shapes[i].tolist()
    whole = dl.LoadImagesAndLabels(folder, (64, 96))
    assert whole.fingerprint() != dataset.fingerprint()
    assert len(whole.found.im_files) == len(dataset.found.im_files) == 3


def test_a_damaged_image_is_reported_once(folder, tmp_path, caplog):
    good = cv2.imread(str(next(iter(folder.glob("*.png")))))
    cv2.imwrite(str(tmp_path / "a.jpg"), good)
    (tmp_path / "a.txt").write_text("0 .5 .5 .9 .9\n")
    dataset = dl.LoadImagesAndLabels(tmp_path, 64, tile=(64, 64))
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert all((dataset[i][0] == 114).all() and not len(dataset[i][1]) for i in range(dataset.n))
    assert sum("grey background" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(("pixels", "dtype"), [(PixelFormat(8), np.uint8), (PixelFormat(5, 12), np.uint16)])
@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_tiles_of_bands_are_parts_of_the_array(tmp_path, pixels, dtype, cache):
    """Each tile has all bands of its place, on the scale of the file, read, cached or read from the cache."""
    top = 255 if dtype == np.uint8 else 4095
    array = np.random.default_rng(0).integers(0, top + 1, (64, 160, pixels.channels), dtype)
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "a.txt").write_text("0 .5 .5 .9 .9\n")
    split = Split(str(tmp_path), "yolo", {0: "field"}, pixels=pixels)
    for _ in range(2):
        dataset = dl.LoadImagesAndLabels(split, 64, tile=(64, 64), overlap=0.2, cache_images=cache)
        assert dataset.n == 4  # the whole image, and three tiles
        for i in range(1, 4):
            x1, y1, x2, y2 = dataset.samples.windows[i]
            expected = array[y1:y2, x1:x2].transpose(2, 0, 1) * np.float32(255 / top)
            assert np.array_equal(dataset[i][0].numpy(), expected.astype(np.uint8) if top == 255 else expected)
        whole, means = dataset[0][0].numpy()[:, 19:45], array.mean((0, 1)) * 255 / top  # of each band, made smaller
        assert np.abs(whole.mean((1, 2)) - means).max() < 1
