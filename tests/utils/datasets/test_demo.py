"""The drawn dataset: files, labels, boxes around shapes, the same pictures from the same seed."""

import cv2
import numpy as np
import pytest
import yaml

from utils.datasets import demo
from utils.datasets.demo import CLASSES, draw_demo, draw_scene


def read_labels(file):
    return np.array([[float(v) for v in line.split()] for line in file.read_text().splitlines()])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "shapes"
    draw_demo(root, n_train=6, n_val=3, size=128, seed=5)
    return root


def test_every_picture_has_a_label_file_and_nothing_else_is_left(drawn):
    for split, count in (("train", 6), ("val", 3)):
        stems = sorted(file.stem for file in (drawn / "images" / split).iterdir())
        assert len(stems) == count
        assert stems == sorted(file.stem for file in (drawn / "labels" / split).iterdir())
    assert sorted(path.name for path in drawn.iterdir()) == ["images", "labels"]
    assert [path.name for path in drawn.parent.iterdir()] == ["shapes"]


def test_labels_and_pictures_are_well_formed(drawn):
    for file in drawn.glob("labels/*/*.txt"):
        labels = read_labels(file)
        assert 1 <= len(labels) <= 6
        assert set(labels[:, 0]) <= {0, 1, 2, 3}
        low, high = labels[:, 1:3] - labels[:, 3:5] / 2, labels[:, 1:3] + labels[:, 3:5] / 2
        assert low.min() > -2e-6
        assert high.max() < 1 + 2e-6
        image = cv2.imread(str(drawn / "images" / file.parent.name / f"{file.stem}.jpg"))
        assert image.shape == (128, 128, 3)


def test_a_seed_gives_the_same_files_and_the_number_of_pictures_does_not_change_them(drawn, tmp_path):
    draw_demo(tmp_path / "again", n_train=2, n_val=1, size=128, seed=5)
    draw_demo(tmp_path / "other", n_train=2, n_val=1, size=128, seed=6)
    for name in ("images/train/train0001.jpg", "labels/train/train0001.txt", "images/val/val0000.jpg"):
        assert (tmp_path / "again" / name).read_bytes() == (drawn / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (drawn / name).read_bytes()
    train, val = (drawn / f"images/{s}/{s}0000.jpg" for s in ("train", "val"))
    assert train.read_bytes() != val.read_bytes()


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_tight_around_the_drawn_shapes(seed, monkeypatch):
    """On a black ground without clutter and noise, what is not black is exactly what the boxes hold together."""
    monkeypatch.setattr(demo, "_ground", lambda size, rng: np.zeros((size, size, 3), np.float32))
    monkeypatch.setattr(demo, "_draw_lines_", lambda im, count, rng: None)
    monkeypatch.setattr(demo, "_draw_blobs_", lambda im, count, rng: None)
    monkeypatch.setattr(demo.cv2, "GaussianBlur", lambda im, *_: im)
    monkeypatch.setattr(demo, "SHAPES_PER_IMAGE", (1, 1))
    monkeypatch.setattr(demo, "_color", lambda *_: np.full(3, 250, np.float32))
    image, labels = draw_scene(200, np.random.default_rng(seed))
    y, x = np.nonzero(image.min(axis=2) > 40)  # noise stays below, a shape or its rim above
    (_, cx, cy, w, h) = labels[0] * [1, 200, 200, 200, 200]
    room = np.array(
        [x.min() - (cx - w / 2), y.min() - (cy - h / 2), cx + w / 2 - x.max() - 1, cy + h / 2 - y.max() - 1]
    )
    assert room.min() > -1  # a pixel at the edge may be covered in part
    assert room.max() < 2.5  # a sharp tip fades out


def test_scenes_hold_all_classes_evenly_and_sizes_within_the_range():
    scenes = [draw_scene(96, np.random.default_rng((7, i)))[1] for i in range(80)]
    labels = np.concatenate(scenes)
    counts = np.bincount(labels[:, 0].astype(int), minlength=len(CLASSES))
    assert counts.min() > 0.15 * counts.sum()
    longest = labels[:, 3:].max(axis=1) * 320
    assert longest.max() <= 140 * 1.001
    assert longest.min() >= 24 * demo.INSIDE_AT_LEAST * 0.999
    assert min(map(len, scenes)) >= 1
    assert 3 < np.mean([len(s) for s in scenes]) < 5


def test_outlines_have_their_number_of_corners_and_the_side_asked_for():
    for cls, corners in ((0, 72), (1, 4), (2, 3), (3, 10)):
        points = demo._outline(cls, 50.0, np.random.default_rng(cls))
        extent = points.max(axis=0) - points.min(axis=0)
        assert len(points) == corners
        assert extent.max() == pytest.approx(50)
        np.testing.assert_allclose(points.max(axis=0) + points.min(axis=0), 0, atol=1e-9)


def test_coverage_of_a_rectangle_is_its_area():
    points = np.array([(2.0, 3.0), (8.0, 3.0), (8.0, 7.0), (2.0, 7.0)])
    coverage = demo._coverage(points, (slice(0, 10), slice(0, 12)))
    assert coverage.shape == (10, 12)
    np.testing.assert_array_equal(coverage[4:6, 3:7], 1)  # well inside
    np.testing.assert_array_equal(coverage[9], 0)
    part = demo._coverage(points, (slice(2, 8), slice(1, 9)))
    np.testing.assert_array_equal(part, coverage[2:8, 1:9])


def test_files_in_the_folder_are_kept_and_named(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        draw_demo(tmp_path, n_train=1, n_val=1, size=64)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("photo.jpg", b"mine")]
    with pytest.raises(ValueError, match="not an empty folder"):
        draw_demo(tmp_path / "photo.jpg", n_train=1, n_val=1, size=64)


def test_an_empty_folder_is_filled(tmp_path):
    draw_demo(tmp_path / "a" / "b", n_train=1, n_val=1, size=64)
    (tmp_path / "c").mkdir()
    draw_demo(tmp_path / "c", n_train=1, n_val=1, size=64)
    assert (tmp_path / "a/b/images/val/val0000.jpg").read_bytes() == (
        tmp_path / "c/images/val/val0000.jpg"
    ).read_bytes()


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(demo.cv2, "imencode", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_demo(tmp_path / "shapes", n_train=1, n_val=1, size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("numbers", [{"n_train": 0}, {"n_val": 0}, {"size": 63}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(numbers, tmp_path):
    with pytest.raises(ValueError, match="got n_train"):
        draw_demo(tmp_path / "shapes", **numbers)


def test_the_yaml_names_the_same_classes():
    with open("data/demo.yaml", encoding="utf-8") as stream:
        data = yaml.safe_load(stream)
    assert list(data["names"].items()) == list(enumerate(CLASSES))
    assert (data["path"], data["train"], data["val"], data["generate"]) == (
        "data/demo",
        "images/train",
        "images/val",
        "shapes",
    )
