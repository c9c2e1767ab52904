"""engine.split: parts of equal make-up, groups kept together, files beside the YAML."""

import cv2
import numpy as np
import pytest

from engine import split
from engine.split import join_groups, run, same_key, stratify
from utils.datasets.dataset import check_dataset
from utils.datasets.lists import list_images
from utils.files import yaml_load, yaml_save


def test_groups_are_joined_over_several_links():
    assert join_groups(6, [(4, 1), (1, 2), (5, 5)]).tolist() == [0, 1, 1, 2, 1, 3]


def test_keys_come_from_the_first_group_or_the_whole_match():
    files = ["a/s1_x.jpg", "a/s2_x.jpg", "b/s1_y.jpg", "b/none.jpg"]
    assert same_key(files, r"s(\d)_") == ([(0, 0), (1, 1), (0, 2)], 1)
    assert same_key(files, r"^[ab]/") == ([(0, 0), (0, 1), (2, 2), (2, 3)], 0)
    with pytest.raises(ValueError, match=r"--group-by \(: no regular expression"):
        same_key(files, "(")


def test_every_part_gets_its_part_of_every_class():
    rng = np.random.default_rng(0)
    counts = rng.poisson((3, 0.5, 0.05), (2000, 3)).astype(float)
    part = stratify(counts, np.ones(2000, int), (0.7, 0.2, 0.1))
    shares = np.stack([counts[part == k].sum(0) for k in range(3)]) / counts.sum(0)
    np.testing.assert_allclose(shares, np.array([[0.7], [0.2], [0.1]]) * np.ones(3), atol=0.012)
    np.testing.assert_allclose(np.bincount(part) / 2000, (0.7, 0.2, 0.1), atol=0.02)
    assert np.array_equal(part, stratify(counts, np.ones(2000, int), (0.7, 0.2, 0.1)))
    assert not np.array_equal(part, stratify(counts, np.ones(2000, int), (0.7, 0.2, 0.1), seed=1))


def test_two_labels_of_a_rare_class_are_divided_and_backgrounds_too():
    counts = np.zeros((20, 2))
    counts[:10, 0], counts[[3, 15], 1] = 1, 1
    part = stratify(counts, np.ones(20, int), (0.5, 0.5))
    assert set(part[[3, 15]]) == {0, 1}
    assert np.bincount(part).tolist() == [10, 10]


@pytest.fixture
def dataset(tmp_path):
    """24 images of noise, 3 of each scene; class 1 in 4 scenes; image 23 is image 0, stored smaller."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        image = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        image = cv2.resize(cv2.imread(str(tmp_path / "images/s0_00.png")), (48, 48)) if i == 23 else image
        name = f"s{i // 3}_{i:02d}"
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), image)
        lines = ["0 0.5 0.5 0.2 0.2\n"] * (i % 4 != 3) + ["1 0.3 0.3 0.1 0.1\n"] * (i // 3 % 2)
        (tmp_path / f"labels/{name}.txt").write_text("".join(lines))
    yaml_save(tmp_path / "my.yaml", {"train": str(tmp_path / "images"), "names": ["a", "b"], "nc": 2})
    return tmp_path / "my.yaml"


def parts(file):
    data = check_dataset(file, ("train", "val"))
    return {name: {path[-10:-4] for path in list_images(data[name])} for name in ("train", "val", "test") if data[name]}


def test_lists_and_yaml_beside_it(dataset, caplog):
    caplog.set_level("INFO", logger="yolov5")
    before = {file: file.read_bytes() for file in dataset.parent.rglob("*") if file.is_file()}
    (made,) = run(str(dataset), val=0.25, test=0.125)
    assert made == dataset.parent / "my-split.yaml"
    assert (dataset.parent / "my-split-val.txt").read_text().startswith("./images/s")
    found = parts(made)
    assert {name: len(files) for name, files in found.items()} == {"train": 15, "val": 6, "test": 3}
    assert len(set.union(*found.values())) == 24
    assert sum({"/s0_00", "/s7_23"} <= files for files in found.values()) == 1  # a near copy
    assert "24 images, 2 of them stay with others (copies or near copies)" in caplog.text
    assert "train.py --data" in caplog.text
    assert yaml_load(made)["names"] == ["a", "b"]
    assert all(file.read_bytes() == content for file, content in before.items())
    with pytest.raises(FileExistsError, match="my-split-train.txt exists: .* --exist-ok"):
        run(str(dataset))
    run(str(dataset), val=0.5, exist_ok=True, fast=True)
    assert len(parts(made)["val"]) == 12


def test_folds_with_groups(dataset):
    made = run(str(dataset), folds=4, group_by=r"s(\d)_", fast=True)
    assert [file.name for file in made] == [f"my-fold{k}.yaml" for k in range(4)]
    folds = [parts(file) for file in made]
    every = set.union(*(fold["val"] for fold in folds))
    assert len(every) == sum(len(fold["val"]) for fold in folds) == 24
    for fold in folds:
        assert fold["train"] == every - fold["val"]
        assert not {name[1:3] for name in fold["train"]} & {name[1:3] for name in fold["val"]}


def test_a_split_that_stays(dataset):
    table = yaml_load(dataset) | {"val": str(dataset.parent / "images"), "test": str(dataset.parent / "images")}
    yaml_save(dataset, table)
    (made,) = run(str(dataset), fast=True)
    assert len(parts(made)["test"]) == 24  # as it was
    assert len(parts(made)["train"] | parts(made)["val"]) == 24  # listed in two splits, used once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.0}, "validation needs a part"), ({"val": 0.6, "test": 0.4}, "training has to get the rest"),
        ({"folds": 3, "test": 0.1}, "--folds 3 makes no test split"), ({"of": ["dev"]}, "--of is 'dev'"),
        ({"group_by": "zebra"}, "matches none of 24 paths"),
        ({"folds": 5, "group_by": "s"}, "1 groups of images cannot be divided into 5 parts"),
        ({"out": "nowhere/x"}, "no folder nowhere"),
    ],
)  # fmt: skip
def test_refused(dataset, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(str(dataset), fast=True, **options)
    assert not list(dataset.parent.glob("my-*"))


def test_the_first_word_is_the_dataset():
    assert split.parse_opt(["a.yaml", "--folds", "3"]).data == split.parse_opt(["--data", "a.yaml"]).data == "a.yaml"
    with pytest.raises(SystemExit):
        split.parse_opt(["a.yaml", "--data", "b.yaml"])
