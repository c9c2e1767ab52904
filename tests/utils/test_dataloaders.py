"""The dataset and its loader: scenes with known pixels, spec vectors, equality over workers, epochs and resumes."""

import shutil
import sys
from collections import namedtuple
from multiprocessing.pool import ThreadPool
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.labelled_folder import write_folder
from utils import dataloaders as dl
from utils.boxes import scale_boxes, xywhn2xyxy
from utils.hyp import Hyp

SIZES = ((96, 64), (64, 96), (80, 80), (33, 50), (120, 40), (70, 70), (64, 64))  # width, height
STILL = Hyp(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven grey PNG images of different shapes, each with one white rectangle and its label; the last has none."""
    scenes = []
    for i, (w, h) in enumerate(SIZES):
        im, lines = np.full((h, w, 3), 114, np.uint8), None
        if i < len(SIZES) - 1:
            x1, y1, x2, y2 = w // 4, h // 4, w // 4 + w // 2, h // 4 + h // 3
            im[y1:y2, x1:x2] = 255
            box = (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h
            lines = [f"{i % 3} {box[0]:.9f} {box[1]:.9f} {box[2]:.9f} {box[3]:.9f}"]
        scenes.append((im, lines))
    return write_folder(tmp_path_factory.mktemp("scenes"), scenes)


def bright_box(image):
    """The box around the pixels of (3, H, W) that are nearer to white than to grey."""
    y, x = np.nonzero(image[0].numpy() > 185)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def pixel_boxes(image, targets):
    return xywhn2xyxy(targets[:, 2:6], image.shape[2], image.shape[1]).numpy()


def batches(loader, epochs):
    result = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        result.append(list(loader))
    return result


def equal(a, b):
    """Bit for bit, over epochs, batches and the four parts of a batch."""
    for epoch_a, epoch_b in zip(a, b, strict=True):
        for (im_a, t_a, paths_a, shapes_a), (im_b, t_b, paths_b, shapes_b) in zip(epoch_a, epoch_b, strict=True):
            if not (torch.equal(im_a, im_b) and torch.equal(t_a, t_b)):
                return False
            if (paths_a, shapes_a) != (paths_b, shapes_b):
                return False
    return True


def train_loader(folder, workers=0, **options):
    return dl.create_dataloader(
        folder, 64, 3, 32, hyp=Hyp(mixup=0.5), augment=True, shuffle=True, workers=workers, **options
    )[0]


# Batches --------------------------------------------------------------------------------------------------------------
def test_training_batch_has_the_contract(folder):
    loader, dataset = dl.create_dataloader(folder, 64, 3, 32, hyp=Hyp(), augment=True, workers=0, nc=3)
    assert len(loader) == 3
    assert (dataset.n, len(dataset), dataset.mosaic) == (7, 7, True)
    assert dataset.shapes.tolist() == [list(s) for s in SIZES]
    images, targets, paths, shapes = next(iter(loader))
    assert (images.shape, images.dtype) == ((3, 3, 64, 64), torch.uint8)
    assert (targets.dtype, targets.shape[1]) == (torch.float32, 6)
    assert set(targets[:, 0].tolist()) <= {0, 1, 2}
    assert (targets[:, 2:] >= 0).all()
    assert (targets[:, 2:4] < 1).all()
    assert paths == dataset.im_files[:3]
    assert shapes == [None] * 3


def test_images_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), (10, 20, 30), np.uint8))
    (tmp_path / "a.txt").write_text("0 .5 .5 .5 .5")
    for options in ({}, {"augment": True, "hyp": STILL}):
        assert dl.LoadImagesAndLabels(tmp_path, 64, **options)[0][0][:, 5, 5].tolist() == [30, 20, 10]


def test_collate_numbers_the_images():
    samples = [(torch.zeros(3, 2, 2), torch.full((n, 6), 9.0), str(n), None) for n in (2, 0, 1)]
    images, targets, paths, shapes = dl.collate(samples)
    assert images.shape == (3, 3, 2, 2)
    assert targets[:, 0].tolist() == [0, 0, 2]
    assert (targets[:, 1:] == 9).all()
    assert (paths, shapes) == (["2", "0", "1"], [None] * 3)
    assert dl.collate(samples[1:2])[1].shape == (0, 6)


# Equality -------------------------------------------------------------------------------------------------------------
def test_workers_do_not_change_the_batches(folder):
    assert equal(batches(train_loader(folder), (0, 1)), batches(train_loader(folder, workers=2), (0, 1)))


def test_a_resumed_epoch_is_the_one_of_the_unbroken_run(folder):
    whole = batches(train_loader(folder), (0, 1, 2))
    assert equal(whole[2:], batches(train_loader(folder), (2,)))
    assert not equal(whole[1:2], whole[2:])


def test_random_state_is_neither_used_nor_moved(folder):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = batches(train_loader(folder), (0,))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002, the global state is the point
    assert equal(first, batches(train_loader(folder), (0,)))


def test_seeds_differ(folder):
    assert not equal(batches(train_loader(folder), (0,)), batches(train_loader(folder, seed=1), (0,)))


def test_memory_cache_gives_the_same(folder):
    assert equal(batches(train_loader(folder), (0,)), batches(train_loader(folder, cache="ram"), (0,)))


def test_cache_that_does_not_fit_is_not_made(folder, monkeypatch):
    monkeypatch.setattr(dl.Path, "read_text", lambda self: "MemTotal: 100 kB\nMemAvailable: 10 kB\n")
    monkeypatch.setattr(dl.Path, "exists", lambda self: True)
    assert not dl.LoadImagesAndLabels._fits_in_memory(dl.LoadImagesAndLabels(folder, 64), "")


def test_disk_cache_that_does_not_fit_is_refused_before_it_starts(folder, monkeypatch, caplog):
    need = 7 * 64 * 64 * 3  # at most
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 1000))
    dataset = dl.LoadImagesAndLabels(folder, 64, cache_images="disk")
    assert dataset.disk is None
    assert "GB free on disk" in caplog.text
    cache = next(folder.parent.glob("**/*.images.cache"), None) or next(folder.glob("**/*.images.cache"))
    (cache / "notes.raw").write_bytes(bytes(2 * need))  # no image of ours: it stays, and counts as used
    assert dl.LoadImagesAndLabels(folder, 64, cache_images="disk").disk is None
    old = cache / f"{0:032x}.raw"
    old.write_bytes(bytes(2 * need))  # of another size: it goes where that makes room
    assert dl.LoadImagesAndLabels(folder, 64, cache_images="disk").disk is not None
    assert not old.exists()
    (cache / "notes.raw").unlink()


def test_disk_cache_that_is_complete_counts_as_free(folder, monkeypatch):
    dataset = dl.LoadImagesAndLabels(folder, 48, cache_images="disk")
    for i in range(dataset.n):
        dataset.load_image(i)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, dataset._cache_bytes() * 0.2))
    assert dl.LoadImagesAndLabels(folder, 48, cache_images="disk").disk is not None
    assert dl.LoadImagesAndLabels(folder, 64, cache_images="disk").disk is None  # even without those of 48 pixels


def test_memory_cache_counts_the_processes_of_this_machine(folder, monkeypatch, caplog):
    dataset = dl.LoadImagesAndLabels(folder, 64)
    monkeypatch.setattr(dl, "free_memory", lambda: int(dataset._cache_bytes() * 2.5))
    for count, number, fits in ((1, 0, True), (2, 0, True), (3, 0, False), (3, 1, True), (4, 3, False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
        monkeypatch.setenv("LOCAL_RANK", str(number))
        assert dataset._fits_in_memory("") == fits
    assert "needed for 3 processes" in caplog.text


def test_sampler():
    sampler = dl.EpochSampler(50, shuffle=True, seed=3)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {e for e, _ in keys} == {epoch}
        orders.append([i for _, i in keys])
        assert sorted(orders[-1]) == list(range(50))
        assert list(sampler) == keys
    assert orders[0] != orders[1]
    assert list(dl.EpochSampler(3)) == [(0, 0), (0, 1), (0, 2)]
    assert len(sampler) == 50


# One sample -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("index", range(6))
def test_validation_sample_goes_back_to_the_original(folder, index):
    dataset = dl.LoadImagesAndLabels(folder, 160)
    image, targets, _, ((h0, w0), ratio_pad) = dataset[index]
    assert image.shape == (3, 160, 160)
    assert (w0, h0) == SIZES[index]
    boxes = pixel_boxes(image, targets)
    assert boxes[0] == pytest.approx(bright_box(image), abs=1.01)
    back = scale_boxes((160, 160), boxes, (h0, w0), ratio_pad)
    w, h = SIZES[index]
    assert back[0] == pytest.approx([w // 4, h // 4, w // 4 + w // 2, h // 4 + h // 3], abs=2e-3)


def test_odd_padding_moves_box_and_pixels_alike(folder):
    image, targets, _, (_, (_, pad)) = dl.LoadImagesAndLabels(folder, 50)[3]  # 33 x 50: 17 columns to fill
    assert pad == (8, 0)
    assert pixel_boxes(image, targets)[0] == pytest.approx(bright_box(image), abs=1e-3)


def test_background_sample(folder):
    for dataset in (dl.LoadImagesAndLabels(folder, 64), dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=STILL)):
        assert dataset[6][1].shape == (0, 6)


def test_strength_zero_is_the_plain_image(folder):
    plain, still = dl.LoadImagesAndLabels(folder, 120), dl.LoadImagesAndLabels(folder, 120, augment=True, hyp=STILL)
    for index in range(7):
        assert torch.equal(plain[index][0], still[(4, index)][0])
        assert torch.allclose(plain[index][1], still[(4, index)][1], atol=1e-5)


@pytest.mark.parametrize("epoch", range(4))
def test_augmented_single_image_keeps_pixels_and_boxes_together(folder, epoch):
    hyp = Hyp(mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0, flipud=0.5, scale=0.3, degrees=10, shear=3)
    dataset = dl.LoadImagesAndLabels(folder, 128, augment=True, hyp=hyp)
    for index in range(6):
        image, targets, _, shapes = dataset[(epoch, index)]
        assert shapes is None
        assert pixel_boxes(image, targets)[0] == pytest.approx(bright_box(image), abs=2)


@pytest.mark.parametrize("epoch", range(4))
def test_mosaic_keeps_pixels_and_boxes_together(folder, epoch):
    """Paint all boxes black: nothing white may be left but what the candidate filter dropped (slivers)."""
    hyp = Hyp(hsv_h=0, hsv_s=0, hsv_v=0, scale=0.3)
    image, targets, _, shapes = dl.LoadImagesAndLabels(folder, 128, augment=True, hyp=hyp)[(epoch, 0)]
    assert shapes is None
    white = image[0].numpy() > 185
    assert len(targets) > 0
    for x1, y1, x2, y2 in pixel_boxes(image, targets):
        inside = white[round(y1) : round(y2), round(x1) : round(x2)]
        assert inside.mean() > 0.9  # each box holds a rectangle
        white[max(int(y1) - 1, 0) : int(y2) + 2, max(int(x1) - 1, 0) : int(x2) + 2] = False
    assert white.sum() < 0.1 * (image[0].numpy() > 185).sum()


def test_mosaic_probability_is_used(folder):
    dataset = dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=Hyp(mosaic=0.5, translate=0, scale=0, fliplr=0))
    counts = [len(dataset[(e, 6)][1]) > 0 for e in range(60)]  # image 6 alone has no labels, a mosaic mostly has
    assert 15 < sum(counts) < 45


@pytest.mark.parametrize("workers", [0, 1])
def test_closed_mosaics_are_single_images(folder, workers):
    """In the process and in a worker, which sees the epoch in the sampler's keys alone."""
    hyp = Hyp(mosaic=1, mixup=1)

    def batches(close_at, hyp, epoch):
        loader, dataset = dl.create_dataloader(folder, 64, 7, 32, hyp=hyp, augment=True, workers=workers)
        dataset.close_at = close_at
        passes = []
        for i in (0, epoch):
            loader.sampler.set_epoch(i)
            passes.append([images for images, *_ in loader])
        return passes[1]

    (closed,), (single,), (mosaics,), (opened,) = (
        batches(2, hyp, 2), batches(None, Hyp(mosaic=0), 2), batches(None, hyp, 2), batches(3, hyp, 2)
    )  # fmt: skip
    assert torch.equal(closed, single)
    assert torch.equal(opened, mosaics)
    assert not torch.equal(closed, mosaics)


@pytest.mark.parametrize("mosaic", [0, 1])
def test_filters_change_pixels_alone_and_repeat(tiny_dataset, mosaic):
    folder = tiny_dataset.parent / "tiny" / "images" / "train"
    hyp = {"mosaic": mosaic, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "fliplr": 0, "scale": 0, "translate": 0}
    plain = dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=Hyp(**hyp))
    filtered = dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=Hyp(**hyp, albumentations=1))
    for i in range(3):
        (im, labels, *_), (im2, labels2, *_), (im3, *_) = plain[i], filtered[i], filtered[i]
        assert labels.equal(labels2)
        assert im2.equal(im3)
        assert not im.equal(im2)
        assert (im2[0].int() - im2[1].int()).abs().max() <= 1  # grey


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0, 0), (0.5, 5, 25), (1, 30, 30)])
def test_share_of_mosaics_with_nine_images(folder, monkeypatch, share, low, high):
    sizes = []
    for name in ("mosaic4", "mosaic9"):
        lay = getattr(dl, name)
        monkeypatch.setattr(dl, name, lambda tiles, *rest, lay=lay: sizes.append(len(tiles)) or lay(tiles, *rest))
    dataset = dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=Hyp(mosaic9=share))
    samples = [dataset[(e, 0)] for e in range(30)]
    assert low <= sizes.count(9) <= high
    assert sizes.count(4) == 30 - sizes.count(9)
    assert all(image.shape == (3, 64, 64) and shapes is None for image, _, _, shapes in samples)
    assert sum(len(targets) for _, targets, _, _ in samples) > 30


def test_polygons_follow_the_image(tmp_path):
    im = np.full((100, 100, 3), 114, np.uint8)
    cv2.fillPoly(im, [np.array([[50, 20], [80, 50], [50, 80], [20, 50]])], (255, 255, 255))
    cv2.imwrite(str(tmp_path / "a.png"), im)
    (tmp_path / "a.txt").write_text("0 .505 .2 .81 .505 .505 .81 .2 .505")
    hyp = Hyp(mosaic=0, translate=0, scale=0, degrees=45, hsv_h=0, hsv_s=0, hsv_v=0)
    dataset = dl.LoadImagesAndLabels(tmp_path, 100, augment=True, hyp=hyp)
    for epoch in range(5):
        image, targets, _, _ = dataset[(epoch, 0)]
        assert pixel_boxes(image, targets)[0] == pytest.approx(bright_box(image), abs=2)


def test_copy_paste_adds_a_label(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 200, np.uint8))
    (tmp_path / "a.txt").write_text("0 .1 .1 .4 .1 .4 .4 .1 .4")
    counts = []
    for p in (0, 1):
        hyp = Hyp(copy_paste=p, translate=0, scale=0)
        dataset = dl.LoadImagesAndLabels(tmp_path, 64, augment=True, hyp=hyp)
        counts.append(sum(len(dataset[(e, 0)][1]) for e in range(8)))
    assert counts[1] > counts[0] > 0


@pytest.mark.parametrize("size", [(147, 100), (281, 999), (4000, 11), (294, 293), (12, 700)])
def test_long_side_is_exact_and_short_side_at_least_one(tmp_path, size):
    w, h = size
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((h, w, 3), np.uint8))
    (tmp_path / "a.txt").write_text("0 .5 .5 .5 .5")
    for imgsz in (64, 640):
        shape = dl.LoadImagesAndLabels(tmp_path, imgsz).resized_image(0).shape
        assert shape == (max(1, round(h * imgsz / max(w, h))), max(1, round(w * imgsz / max(w, h))), 3)
        assert max(shape) == imgsz


@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_jpeg_decoding_is_near_the_exact_one(tmp_path, orientation):
    y, x = np.mgrid[0:470, 0:640]
    slopes = np.stack((x / 640, y / 470, (x + y) / 1110), 2) * 255  # a shift by half a pixel of 80 would be 1.6 here
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(slopes.astype(np.uint8)).save(tmp_path / "a.jpg", quality=97, exif=exif)
    (tmp_path / "a.txt").write_text("0 .5 .5 .5 .5")
    for imgsz in (80, 100, 160, 200, 320):
        exact = dl.LoadImagesAndLabels(tmp_path, imgsz).resized_image(0)
        fast = dl.LoadImagesAndLabels(tmp_path, imgsz, augment=True, hyp=Hyp()).resized_image(0)
        assert fast.shape == exact.shape
        assert np.abs(fast.astype(int) - exact).mean() < 0.8


# Rectangular batches --------------------------------------------------------------------------------------------------
def test_rect_vectors():
    sizes = np.array([(640, 480), (480, 640), (1280, 720), (500, 500), (640, 427), (300, 900)])
    order, frames = dl.rect_batches(sizes, 2, 640, 32, 0.5)
    assert order.tolist() == [2, 4, 0, 3, 1, 5]
    assert frames.tolist() == [[448, 672], [672, 672], [672, 512]]
    assert dl.rect_batches(sizes, 2, 640, 32, 0.0)[1].tolist() == [[448, 640], [640, 640], [640, 480]]


def test_rect_loader_keeps_files_labels_and_shapes_together(folder):
    loader, dataset = dl.create_dataloader(folder, 96, 2, 32, rect=True, pad=0.5, workers=0)
    aspect = dataset.shapes[:, 1] / dataset.shapes[:, 0]
    assert (np.diff(aspect) >= 0).all()
    seen = []
    for number, (images, targets, paths, shapes) in enumerate(loader):
        assert images.shape[2:] == tuple(dataset.batch_shapes[number])
        for k, (path, (original, ratio_pad)) in enumerate(zip(paths, shapes, strict=True)):
            index = int(path.rsplit("/", 1)[1][0])
            seen.append(index)
            assert original == SIZES[index][::-1]
            mine = targets[targets[:, 0] == k]
            if index < 6:
                box = pixel_boxes(images[k], mine)
                assert box[0] == pytest.approx(bright_box(images[k]), abs=1.01)
                w, h = SIZES[index]
                back = scale_boxes(images.shape[2:], box, original, ratio_pad)[0]
                assert back == pytest.approx([w // 4, h // 4, w // 4 + w // 2, h // 4 + h // 3], abs=2e-3)
    assert sorted(seen) == list(range(7))


def test_rect_training_has_no_mosaic_and_no_shuffle(folder):
    loader, dataset = dl.create_dataloader(
        folder, 96, 2, 32, hyp=Hyp(), augment=True, rect=True, shuffle=True, workers=0
    )
    assert not dataset.mosaic
    for number, (images, _, paths, _) in enumerate(loader):
        assert images.shape[2:] == tuple(dataset.batch_shapes[number])
        assert paths == dataset.im_files[2 * number : 2 * number + 2]


@pytest.mark.parametrize("polygon", [False, True])
@pytest.mark.parametrize("upright", [False, True])
def test_rect_training_enlarges_width_and_height_each_by_its_own_factor(tmp_path, upright, polygon):
    """An image of 64 x 3 pixels is enlarged to 96 x 4, by 3/2 and by 4/3; half of it is white."""
    im = np.full((30, 640, 3), 114, np.uint8)
    im[:, :320] = 255
    cv2.imwrite(str(tmp_path / "a.png"), im.transpose(1, 0, 2) if upright else im)
    corners = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
    line = " ".join(f"{x} {y}" for x, y in (corner[::-1] if upright else corner for corner in corners))
    box = ".5 .25 1 .5" if upright else ".25 .5 .5 1"
    (tmp_path / "a.txt").write_text(f"0 {line if polygon else box}")
    dataset = dl.LoadImagesAndLabels(tmp_path, 64, augment=True, rect=True, pad=0.6, hyp=STILL)
    image, targets, _, _ = dataset[(0, 0)]
    assert image.shape[1:] == ((96, 32) if upright else (32, 96))
    expected = [0, 14, 48, 18]
    assert pixel_boxes(image, targets)[0] == pytest.approx(
        [expected[i] for i in (1, 0, 3, 2)] if upright else expected, abs=0.6
    )
    assert pixel_boxes(image, targets)[0] == pytest.approx(bright_box(image), abs=1)


# Options --------------------------------------------------------------------------------------------------------------
def test_single_class_and_nc(folder):
    every = dl.LoadImagesAndLabels(folder, 64)
    assert {c for x in every.labels for c in x[:, 0]} == {0, 1, 2}
    two = dl.create_dataloader(folder, 64, 2, 32, names={0: "a", 1: "b"}, workers=0)[1]
    assert {c for x in two.labels for c in x[:, 0]} == {0, 1}
    assert set(every.im_files) - set(two.im_files) == {every.im_files[2], every.im_files[5]}  # all labels of class 2
    single = dl.LoadImagesAndLabels(folder, 64, single_cls=True, nc=1)
    assert {c for x in single.labels for c in x[:, 0]} == {0}
    assert sum(map(len, single.labels)) == 6


def test_batch_and_workers_are_limited(folder):
    loader, _ = dl.create_dataloader(folder, 64, 100, 32, workers=100)
    assert loader.batch_size == 7
    assert loader.num_workers <= 7
    assert dl.create_dataloader(folder, 64, 1, 32, workers=8)[0].num_workers == 0


@pytest.mark.parametrize(
    ("asked", "environment", "pinned"),
    [(False, None, False), (True, None, True), (True, "true", True), (True, "false", False), (True, "False", False)],
)
def test_memory_is_pinned_if_asked_and_not_forbidden(folder, monkeypatch, asked, environment, pinned):
    monkeypatch.delenv("PIN_MEMORY", raising=False)
    if environment:
        monkeypatch.setenv("PIN_MEMORY", environment)
    assert dl.create_dataloader(folder, 64, 2, 32, workers=0, pin_memory=asked)[0].pin_memory is pinned


def test_cuda_is_not_looked_for(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", None)
    assert not dl.create_dataloader(folder, 64, 2, 32, workers=0)[0].pin_memory


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start workers anew")
def test_workers_share_the_memory_of_this_process(folder):
    loader, _ = dl.create_dataloader(folder, 64, 2, 32, workers=2, cache="ram")
    if loader.num_workers:
        assert loader.multiprocessing_context.get_start_method() == "fork"


def test_missing_labels(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(ValueError, match=r"no labels found for 1 images; looked for .*a\.txt"):
        dl.LoadImagesAndLabels(tmp_path, 64, augment=True, hyp=Hyp())
    assert dl.LoadImagesAndLabels(tmp_path, 64)[0][1].shape == (0, 6)


def test_wrong_arguments(folder):
    with pytest.raises(ValueError, match="augment=True needs hyperparameters"):
        dl.LoadImagesAndLabels(folder, 64, augment=True)
    with pytest.raises(ValueError, match="seed -1 is negative"):
        dl.LoadImagesAndLabels(folder, 64, seed=-1)


def test_bccd_batch(bccd):
    loader, dataset = dl.create_dataloader(bccd.parent / "images" / "val", 320, 16, 32, hyp=Hyp(), augment=True, nc=3)
    assert (dataset.n, sum(map(len, dataset.labels))) == (87, 1137)
    assert next(iter(loader))[0].shape == (16, 3, 320, 320)


def test_quad_puts_four_images_into_one():
    images = [torch.full((3, 4, 6), 10 * i, dtype=torch.uint8) for i in range(1, 5)]
    seen = set()
    for shade in range(40):
        images[0][0, 0, 0] = shade  # the choice comes from the pixels
        samples = [(im, torch.tensor([[0.0, i, 0.5, 0.25, 0.2, 0.4]]), f"{i}.jpg", None) for i, im in enumerate(images)]
        batch, targets, paths, _ = dl.collate_quad(samples)
        assert batch.shape == (1, 3, 8, 12)
        assert batch.dtype == torch.uint8
        assert paths == ["0.jpg"]
        if len(targets) == 1:
            seen.add("enlarged")
            assert targets.tolist() == [pytest.approx([0, 0, 0.5, 0.25, 0.2, 0.4])]
            assert batch[0, 0, -1, -1] == 10
            continue
        seen.add("tiled")
        corners = batch[0, 1, [0, -1, 0, -1], [0, 0, -1, -1]].tolist()  # top left, below, right, diagonal
        assert corners == [10, 20, 30, 40]
        assert targets[:, 1].tolist() == [0, 1, 2, 3]
        expected = [[0.25, 0.125], [0.25, 0.625], [0.75, 0.125], [0.75, 0.625]]
        np.testing.assert_allclose(targets[:, 2:4], expected, rtol=1e-6)
        np.testing.assert_allclose(targets[:, 4:], [[0.1, 0.2]] * 4, rtol=1e-6)
    assert seen == {"enlarged", "tiled"}


def test_images_cached_on_disk_are_the_same_images(tiny_dataset, tmp_path):
    source = Path(yaml.safe_load(tiny_dataset.read_text())["path"])
    shutil.copytree(source, tmp_path / "copy")
    folder = tmp_path / "copy/images/train"
    plain = dl.LoadImagesAndLabels(folder, 64, hyp=Hyp(), augment=True)
    cached = dl.LoadImagesAndLabels(folder, 64, hyp=Hyp(), augment=True, cache_images="disk")
    for _ in range(2):
        for i in range(len(plain)):
            torch.testing.assert_close(cached[3, i][0], plain[3, i][0], rtol=0, atol=0)
    assert len(list((tmp_path / "copy/images/train.images.cache").iterdir())) == len(plain)


def test_canvas_is_of_its_thread_and_size():
    first = dl.scratch(32, 32)
    assert first.shape == (32, 32, 4)
    assert dl.scratch(32, 32) is first
    with ThreadPool(1) as pool:
        assert pool.apply(dl.scratch, (32, 32)) is not first
    assert dl.scratch(16, 16).shape == (16, 16, 4)


def test_images_out_of_sight_are_not_loaded(folder, monkeypatch):
    """Zoomed out nothing is out of sight; zoomed in some images are, and the samples are as if all had been loaded."""
    dataset = dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=Hyp(scale=0.9, translate=0.4, mixup=0.3))
    load, loaded = dataset.resized_image, []
    monkeypatch.setattr(dataset, "resized_image", lambda i: loaded.append(i) or load(i))
    keys = [(epoch, i) for epoch in range(8) for i in range(dataset.n)]
    lean, few = [dataset[key] for key in keys], len(loaded)
    loaded.clear()
    monkeypatch.setattr(dl, "visible_part", lambda matrix, shape, shape_in: (0, 0, *shape_in[::-1]))
    for sample, whole in zip(lean, [dataset[key] for key in keys], strict=True):
        assert torch.equal(sample[0], whole[0])
        assert torch.equal(sample[1], whole[1])
    assert few < 0.9 * len(loaded)


@pytest.mark.parametrize("frame", [(64, 160), (160, 64), (96, 96)])
def test_an_image_is_resized_once_into_its_frame(tmp_path, frame):
    sizes = [(50, 80), (300, 100), (60, 200), (40, 20)]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i, (height, width) in enumerate(sizes):
        image = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image)
        (tmp_path / f"labels/{i}.txt").write_text("1 0.5 0.25 0.4 0.3\n")
    dataset = dl.LoadImagesAndLabels(tmp_path / "images", frame)
    for i, (height, width) in enumerate(sizes):
        image, targets, file, shapes = dataset[i]
        assert image.shape == (3, *frame)
        gain = min(frame[0] / height, frame[1] / width)
        size = round(width * gain), round(height * gain)
        small = cv2.imread(file)
        small = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR if gain > 1 else cv2.INTER_AREA)
        (left, top), inner = shapes[1][1], image.permute(1, 2, 0).numpy()[..., ::-1]
        np.testing.assert_array_equal(inner[top : top + size[1], left : left + size[0]], small)
        boxes = xywhn2xyxy(targets[:, 2:], frame[1], frame[0])
        back = scale_boxes(frame, boxes, *shapes)
        expected = [[0.3 * width, 0.1 * height, 0.7 * width, 0.4 * height]]
        np.testing.assert_allclose(back, expected, atol=1e-3 * max(height, width))


@pytest.mark.parametrize("frame", [(96, 160), (160, 96)])
@pytest.mark.parametrize("hyp", [STILL, Hyp(mosaic9=1), Hyp(mosaic9=0, mixup=0.5)])
def test_height_and_width(folder, frame, hyp):
    """Labels stay around the bright pixels in samples, mosaics and rectangular batches of a height and a width."""
    dataset = dl.LoadImagesAndLabels(folder, frame, augment=True, hyp=hyp)
    samples = [dataset[epoch, i] for epoch in range(4) for i in range(dataset.n)]
    assert {tuple(image.shape) for image, *_ in samples} == {(3, *frame)}
    assert sum(len(targets) for _, targets, _, _ in samples) > 10
    for image, targets, _, _ in samples:
        bright = image[0].numpy() > 150
        for x1, y1, x2, y2 in pixel_boxes(image, targets).round().astype(int):
            assert hyp.mixup or bright[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.9
    rect = dl.LoadImagesAndLabels(folder, frame, 2, rect=True)
    for i in range(rect.n):
        image, targets, _, _ = rect[i]
        assert (np.array(image.shape[1:]) <= frame).all()
        assert tuple(image.shape[1:]) == tuple(rect.batch_shapes[rect.batch[i]])
        if len(targets):
            np.testing.assert_allclose(pixel_boxes(image, targets)[0], bright_box(image), atol=2)
    assert len({tuple(s) for s in rect.batch_shapes.tolist()}) > 1


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_cache_of_height_and_width(folder, tmp_path, kind):
    copied = shutil.copytree(folder.parent if folder.name == "images" else folder, tmp_path / "copied")
    source = copied / folder.name if folder.name == "images" else copied
    plain = dl.LoadImagesAndLabels(source, (96, 160), augment=True, hyp=Hyp())
    for _ in range(2):  # made, then read
        cached = dl.LoadImagesAndLabels(source, (96, 160), augment=True, hyp=Hyp(), cache_images=kind)
        assert all(torch.equal(plain[1, i][0], cached[1, i][0]) for i in range(plain.n))
