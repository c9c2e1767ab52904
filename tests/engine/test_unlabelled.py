"""Images of a conversion: split, order, augmentation, damaged files."""

import cv2
import numpy as np
import pytest
import torch

from engine.unlabelled import Images, frame, to_tensor


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(40):
        cv2.imwrite(str(folder / f"{i:02}.png"), rng.integers(0, 256, (30 + i, 40, 3), np.uint8))
    return sorted(map(str, folder.iterdir()))


def test_split_is_by_seed_and_without_overlap(files):
    images = Images(files, 32, seed=3)
    assert len(images.held_out) == 16
    assert sorted(images.held_out + images.learned) == files
    assert Images(files, 32, seed=3).learned == images.learned
    assert Images(files, 32, seed=4).learned != images.learned


def test_a_batch_depends_on_its_number_alone(files):
    images, others = Images(files, 32), Images(files, 32)
    others.batch(0, 4)
    assert torch.equal(images.batch(5, 4), others.batch(5, 4))
    assert not torch.equal(images.batch(5, 4), images.batch(11, 4))  # the same images in another pass
    batch = images.batch(0, 4)
    assert batch.shape[:2] == (4, 3)
    assert max(batch.shape) == 32


def test_each_pass_shows_every_image_once(files, monkeypatch):
    images, seen = Images(files, 32), []
    monkeypatch.setattr(images, "_augmented", lambda file, _: seen.append(file) or np.zeros((32, 32, 3), np.uint8))
    make, seeds = np.random.default_rng, []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or make(seed))
    for number in range(12):
        images.batch(number, 4)
    assert [pass_ for _, of_order, pass_ in seeds if of_order == 1] == [0, 1]  # one order for each pass
    assert sorted(seen[:24]) == sorted(seen[24:]) == images.learned
    assert seen[:24] != seen[24:]


def test_held_out_images_are_framed_as_they_are(files):
    images = Images(files, 64)
    batch = images.held_out_batch(0, 10)
    assert batch.shape[0] == 10
    assert max(batch.shape) == 64
    assert images.held_out_batch(10, 10).shape[0] == 6
    assert torch.equal(batch, images.held_out_batch(0, 10))


def test_damaged_image_is_replaced_and_named_once(files, tmp_path, caplog):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    images = Images([*files, str(bad)], 32)
    for _ in range(2):
        assert (images.read(str(bad)) == 114).all()
    assert caplog.text.count("bad.png: OpenCV cannot decode") == 1


def test_too_few_images_are_refused_and_few_are_warned_of(files, caplog):
    with pytest.raises(ValueError, match="15 images; learning without labels needs at least 16"):
        Images(files[:15], 32)
    Images(files, 32)
    assert "only 40 images" in caplog.text


def test_fingerprint_follows_files_and_settings(files):
    prints = {
        Images(f, size, seed).fingerprint()
        for f, size, seed in ((files, 32, 0), (files, 32, 1), (files, 64, 0), (files[1:], 32, 0))
    }
    assert len(prints) == 4
    assert Images(files, 32, 0).fingerprint() in prints


def test_to_tensor_turns_bgr_into_rgb_planes():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = (255, 0, 51)
    x = to_tensor([image])
    assert x.shape == (1, 3, 2, 3)
    assert x[0, :, 0, 1].tolist() == pytest.approx([0.2, 0, 1])


def test_frame_fits_all_images_and_the_stride():
    images = [np.full((40, 64, 3), 7, np.uint8), np.full((33, 50, 3), 9, np.uint8)]
    framed = frame(images, 32)
    assert [image.shape for image in framed] == [(64, 64, 3)] * 2
    assert (framed[0][12:52] == 7).all()
    assert (framed[0][:12] == 114).all()
    assert (framed[1][15:48, 7:57] == 9).all()
    assert frame([np.zeros((32, 64, 3), np.uint8)], 32)[0].shape == (32, 64, 3)
