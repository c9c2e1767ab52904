"""Training data and augmentations at YOLOv5's addresses, in the forms in which its scripts call them."""

import argparse
import inspect
import random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.labelled_folder import write_folder
from utils import augmentations as aug
from utils import dataloaders as dl
from utils import datasets
from utils.hyp import Hyp

COUNT = 6
STILL = Hyp(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six PNG images with as many labels as their number, from 0 to 5, of class number % 3."""
    return write_folder(
        tmp_path_factory.mktemp("doors"),
        (
            (np.full((40 + 8 * i, 64, 3), 30 * i, np.uint8), [f"{i % 3} .5 .5 .{k + 1} .4" for k in range(i)])
            for i in range(COUNT)
        ),
    )


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


# create_dataloader ----------------------------------------------------------------------------------------------------
def names_of(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_parameters_stand_in_yolov5s_order():
    assert (
        names_of(dl.create_dataloader)[:17]
        == (
            "path imgsz batch_size stride single_cls hyp augment cache pad rect rank workers image_weights quad prefix "
            "shuffle seed"
        ).split()
    )
    assert (
        names_of(dl.LoadImagesAndLabels.__init__)[:15]
        == (
            "path img_size batch_size augment hyp rect image_weights cache_images single_cls stride pad min_items "
            "prefix rank seed"
        ).split()
    )
    assert names_of(aug.letterbox) == "im new_shape color auto scaleFill scaleup stride".split()
    assert names_of(aug.random_perspective) == (
        "im targets segments degrees translate scale shear perspective border".split()
    )


def test_validation_in_the_form_of_val_py(folder):
    loader = dl.create_dataloader(
        str(folder), 64, 4, 32, False, pad=0.5, rect=True, workers=0, prefix="val: ", image_weights=False
    )[0]
    images, targets, paths, shapes = next(iter(loader))
    assert (images.dtype, images.shape[:2], targets.dtype, targets.shape[1]) == (torch.uint8, (4, 3), torch.float32, 6)
    assert [len(paths), len(shapes)] == [4, 4]
    (height, width), (ratio, pad) = shapes[0]
    assert (height, width, len(ratio), len(pad)) == (40, 64, 2, 2)


def test_training_in_the_form_of_train_py(folder):
    hyp = {"mosaic": 1.0, "mixup": 0.1, "degrees": 5.0, "fliplr": 0.5, "anchors": 0, "label_smoothing": 0.1}
    loader, dataset = dl.create_dataloader(
        folder, 64, 2, 32, True, hyp=hyp, augment=True, cache=True, rect=False, rank=-1, workers=0,
        image_weights=False, quad=False, prefix="train: ", shuffle=True, seed=3,
    )  # fmt: skip
    assert isinstance(loader, dl.InfiniteDataLoader)
    assert (len(loader), dataset.hyp.degrees, len(dataset.images)) == (3, 5.0, COUNT)
    assert np.concatenate(dataset.labels, 0)[:, 0].max() == 0  # single_cls
    assert all(shapes == [None] * 2 for _, _, _, shapes in loader)


def test_passes_without_set_epoch_differ_and_are_those_that_it_chooses(folder):
    def passes(epochs):
        loader, _ = dl.create_dataloader(folder, 64, 2, 32, hyp=Hyp(), augment=True, workers=0, shuffle=True)
        result = []
        for epoch in epochs:
            if epoch is not None:
                loader.sampler.set_epoch(epoch)
            result.append(torch.cat([images for images, *_ in loader]))
        return result

    free, chosen = passes((None, None, None)), passes((0, 1, 2))
    assert all(map(torch.equal, free, chosen))
    assert not torch.equal(free[0], free[1])


def test_the_fifth_argument_of_5_0(folder):
    opt = argparse.Namespace(single_cls=True)
    stride = torch.tensor([8.0, 16, 32]).max()
    _, dataset = datasets.create_dataloader(str(folder), 64, 2, stride, opt, pad=0.5, rect=True, workers=0)
    assert {float(x) for labels in dataset.labels for x in labels[:, 0]} == {0.0}
    assert (dataset.stride, dataset.rect) == (32, True)


def test_one_rank_of_several_needs_their_number(folder):
    with pytest.raises(ValueError, match="rank 1 of 1 process: pass world_size"):
        dl.create_dataloader(folder, 64, 2, 32, rank=1, workers=0)
    parts = [dl.create_dataloader(folder, 64, 2, 32, rank=rank, world_size=2, workers=0)[0].sampler for rank in (0, 1)]
    assert sorted(index for part in parts for _, index in part) == list(range(COUNT))


def test_images_drawn_by_weight_are_those_of_indices(folder):
    loader, dataset = dl.create_dataloader(
        folder, 64, 2, 32, hyp=STILL, augment=True, rect=True, image_weights=True, workers=2
    )
    assert not dataset.rect
    for chosen in ([5] * COUNT, [4, 5] * 3):
        dataset.indices = chosen
        assert [path for _, _, paths, _ in loader for path in paths] == [dataset.im_files[i] for i in chosen]
    mosaics = dl.LoadImagesAndLabels(folder, 64, augment=True, hyp=Hyp())
    mosaics.indices = [0] * COUNT
    assert [(mosaics[i][2], len(mosaics[i][1])) for i in range(COUNT)] == [(dataset.im_files[0], 0)] * COUNT


# LoadImagesAndLabels --------------------------------------------------------------------------------------------------
def test_dataset_by_position(folder):
    dataset = dl.LoadImagesAndLabels(str(folder), 64, 4, False, None, True, False, False, False, 16, 0.0)
    assert (dataset.n, len(dataset), list(dataset.indices)) == (COUNT, COUNT, list(range(COUNT)))
    assert dataset.batch.tolist() == [0, 0, 0, 0, 1, 1]
    assert (dataset.img_size, dataset.stride, dataset.rect, dataset.mosaic) == (64, 16, True, False)
    assert dataset.batch_shapes.shape == (2, 2)
    assert dataset.shapes.tolist() == [[64, 40 + 8 * i] for i in range(COUNT)]
    assert [len(x) for x in dataset.labels] == list(range(COUNT))
    assert [len(names) for names in (dataset.im_files, dataset.label_files, dataset.segments)] == [COUNT] * 3
    assert dataset.img_files == dataset.im_files
    image, targets, path, shapes = dataset[2]
    assert (image.dtype, image.shape[0], targets.shape) == (torch.uint8, 3, (2, 6))
    assert (path, shapes[0]) == (dataset.im_files[2], (56, 64))
    images, targets, _, _ = dl.LoadImagesAndLabels.collate_fn([dataset[0], dataset[1]])
    assert (len(images), targets[:, 0].tolist()) == (2, [1])
    square = dl.LoadImagesAndLabels(folder, 64)
    assert dl.LoadImagesAndLabels.collate_fn4([square[i] for i in range(4)])[0].shape == (1, 3, 128, 128)


def test_load_image_and_load_mosaic(folder):
    dataset = dl.LoadImagesAndLabels(folder, 128, hyp=Hyp().to_dict(), augment=True)
    im, original, resized = dataset.load_image(1)
    assert (im.shape, original, resized) == ((96, 128, 3), (48, 64), (96, 128))
    random.seed(1)
    first, labels = dataset.load_mosaic(5)
    assert (first.shape, labels.shape[1]) == ((128, 128, 3), 5)
    assert not np.array_equal(first, dataset.load_mosaic(5)[0])
    random.seed(1)
    assert np.array_equal(first, dataset.load_mosaic(5)[0])


def test_min_items(folder):
    assert [len(x) for x in dl.LoadImagesAndLabels(folder, 64, min_items=3).labels] == [3, 4, 5]
    with pytest.raises(ValueError, match="no image has 6 labels or more"):
        dl.LoadImagesAndLabels(folder, 64, min_items=6)


def test_wrong_settings_are_named(folder):
    with pytest.raises(ValueError, match="cache is 'tape'; allowed are ram and disk"):
        dl.LoadImagesAndLabels(folder, 64, cache_images="tape")
    with pytest.raises(ValueError, match="unknown key 'mosiac'"):
        dl.create_dataloader(folder, 64, 2, 32, hyp={"mosiac": 1.0}, augment=True, workers=0)


# Files and loaders ----------------------------------------------------------------------------------------------------
def test_verify_image_label(folder, tmp_path):
    image, label = str(folder / "2.png"), str(folder.parent / "labels" / "2.txt")
    file, labels, shape, segments, *counts, message = dl.verify_image_label((image, label, "train: "))
    assert (file, labels.shape, shape, segments, counts, message) == (image, (2, 5), (64, 56), [], [0, 1, 0, 0], "")
    (tmp_path / "x.png").write_text("no image")
    *nothing, missing, found, empty, corrupt, message = dl.verify_image_label((str(tmp_path / "x.png"), label, "a: "))
    assert (nothing, missing, found, empty, corrupt) == ([None] * 4, 0, 0, 0, 1)
    assert message.startswith(f"a: {tmp_path / 'x.png'}: image left out")
    assert dl.verify_image_label((image, str(tmp_path / "none.txt"), ""))[4:8] == [1, 0, 0, 0]
    assert dl.verify_image_label((str(folder / "0.png"), str(folder.parent / "labels" / "0.txt"), ""))[6] == 1


def test_exif(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", exif=turned)
    with Image.open(tmp_path / "x.jpg") as image:
        assert dl.exif_size(image) == (20, 30)
        assert dl.exif_transpose(image).size == (20, 30)
    assert dl.exif_size(Image.new("RGB", (30, 20))) == (30, 20)


def test_get_hash(tmp_path):
    files = [str(tmp_path / name) for name in "ab"]
    empty = dl.get_hash(files)
    assert empty == dl.get_hash(files)
    (tmp_path / "a").write_text("x")
    assert len({empty, dl.get_hash(files), dl.get_hash(files[::-1]), dl.get_hash(files[:1])}) == 4


def test_autosplit(folder, tmp_path):
    def lines(name):
        return (folder.parent / f"autosplit_{name}.txt").read_text().splitlines()

    dl.autosplit(folder, weights=(0.5, 0.5, 0.0))
    assert sorted(lines("train") + lines("val")) == [f"./images/{i}.png" for i in range(COUNT)]
    assert lines("test") == []
    dl.autosplit(str(folder), weights=(1.0, 0.0, 0.0))
    assert dl.LoadImagesAndLabels(folder.parent / "autosplit_train.txt", 64).n == COUNT
    cv2.imwrite(str(tmp_path / "bare.png"), np.zeros((20, 20, 3), np.uint8))
    dl.autosplit(tmp_path, annotated_only=True)
    assert (tmp_path.parent / "autosplit_train.txt").read_text() == ""


def test_infinite_dataloader_keeps_its_workers():
    loader = dl.InfiniteDataLoader(list(range(8)), batch_size=2, num_workers=1, worker_init_fn=dl.seed_worker)
    processes = []
    for _ in range(2):
        batches = iter(loader)
        assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        processes.append(loader._iterator._workers[0].pid)
    assert processes[0] == processes[1]
    assert not dl.InfiniteDataLoader([1, 2]).persistent_workers


def test_seed_worker_seeds_from_torch():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        dl.seed_worker(0)
        drawn.append((random.random(), np.random.rand()))  # noqa: NPY002 - the global state is the point
    assert drawn[0] == drawn[1] != drawn[2]


# Augmentations --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shape", "stride"), [((480, 640), 32), ((33, 500), torch.tensor(64.0)), ((641, 640), 32)])
@pytest.mark.parametrize("new", [640, (384, 640), [64, 96], np.int64(96)])
@pytest.mark.parametrize(("auto", "scaleup"), [(True, True), (True, False), (False, True)])
def test_letterbox_follows_the_formula(shape, new, auto, scaleup, stride):
    """Sizes, ratio and borders from the description: round to the inner size, modulo stride, -0.1 and +0.1."""
    out, ratio, (dw, dh) = aug.letterbox(
        np.full((*shape, 3), 255, np.uint8), new, (0, 0, 0), auto, False, scaleup, stride
    )
    new_h, new_w = (new, new) if np.ndim(new) == 0 else new
    r = min(new_h / shape[0], new_w / shape[1], *([] if scaleup else [1.0]))
    inner = round(shape[1] * r), round(shape[0] * r)
    pad = new_w - inner[0], new_h - inner[1]
    if auto:
        pad = pad[0] % int(stride), pad[1] % int(stride)
    assert (ratio, (dw, dh)) == ((r, r), (pad[0] / 2, pad[1] / 2))
    left, right, top, bottom = round(dw - 0.1), round(dw + 0.1), round(dh - 0.1), round(dh + 0.1)
    assert out.shape[:2] == (inner[1] + top + bottom, inner[0] + left + right)
    rows, columns = np.flatnonzero(out[..., 0].any(1)), np.flatnonzero(out[..., 0].any(0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (top, top + inner[1], left, left + inner[0])


def test_random_perspective(noise):
    targets = np.array([[2, 10, 10, 50, 40]])
    im, labels = aug.random_perspective(noise, targets, degrees=0, translate=0, scale=0, shear=0)
    assert np.array_equal(im, noise)
    assert labels.tolist() == targets.tolist()
    random.seed(3)
    im, labels = aug.random_perspective(noise, targets, degrees=20, translate=0.1, scale=0.2, border=(-10, -20))
    assert (im.shape, im.flags.c_contiguous, labels.shape[1]) == ((40, 40, 3), True, 5)
    random.seed(3)
    again, same = aug.random_perspective(noise, targets, degrees=20, translate=0.1, scale=0.2, border=(-10, -20))
    assert np.array_equal(im, again)
    assert np.array_equal(labels, same)
    assert aug.random_perspective(noise)[1].shape == (0, 5)


def test_augment_hsv_works_in_place(noise):
    before = noise.copy()
    assert aug.augment_hsv(noise, 0, 0, 0) is None
    assert np.array_equal(noise, before)
    assert aug.augment_hsv(noise, hgain=0.0, sgain=0.0, vgain=0.9) is None
    assert not np.array_equal(noise, before)


def test_mixup_and_copy_paste_draw_for_themselves(noise):
    a, b = np.ones((1, 5), np.float32), np.zeros((2, 5), np.float32)
    im, labels = aug.mixup(noise, a, np.zeros_like(noise), b)
    share = im.sum() / noise.sum()
    assert 0.2 < share < 0.8
    assert labels.shape == (3, 5)
    box = np.array([[1, 5, 5, 25, 25]], np.float32)
    square = np.array([[5, 5], [25, 5], [25, 25], [5, 25]], np.float32)
    im, labels, segments = aug.copy_paste(noise, box, [square], p=1.0)
    assert labels[1].tolist() == [1, 55, 5, 75, 25]
    assert len(segments) == 2
    assert np.array_equal(im[10:20, 60:70], noise[10:20, 10:20][:, ::-1])
    assert len(aug.copy_paste(noise, box, [square], p=0.0)[1]) == 1


def test_cutout(noise):
    labels = np.array([[0, 0, 0, 80, 60], [1, 30, 20, 50, 40]], np.float32)
    before = noise.copy()
    assert aug.cutout(noise, labels, p=0.0) is labels
    assert np.array_equal(noise, before)
    lost = 0
    for _ in range(40):
        im = before.copy()
        kept = aug.cutout(im, labels, p=1.0)
        changed = (im != before).any(2)
        assert 0 < changed.sum() <= 30 * 30
        assert kept[0].tolist() == labels[0].tolist()  # too large to be hidden
        if len(kept) == 1:
            lost += 1
            assert (im[20:40, 30:50] == 114).all(2).mean() >= 0.6
    assert 0 < lost < 40
    assert aug.cutout(noise, np.zeros((0, 5), np.float32), p=1.0).shape == (0, 5)


def test_albumentations(noise):
    transform, labels = aug.Albumentations(640), np.ones((1, 5), np.float32)
    results = [transform(noise, labels) for _ in range(300)]
    assert all(found is labels for _, found in results)
    changed = sum(im is not noise for im, _ in results)
    assert 0 < changed < 60  # four filters at 1 % each
    assert all(transform(noise, labels, p=0.0)[0] is noise for _ in range(300))


@pytest.mark.parametrize(
    ("module", "name", "sentence"),
    [
        (dl, "create_classification_dataloader", "only detection is here"),
        (dl, "HUBDatasetStats", "removed from YOLOv5 itself"),
        (dl, "extract_boxes", "--save-crop"),
        (aug, "classify_transforms", "only detection is here: classify_transforms belongs to classification"),
    ],
)
def test_what_is_left_out_says_so(module, name, sentence):
    with pytest.raises(ImportError, match=sentence):
        getattr(module, name)
    assert not hasattr(module, "replicates")
