"""Some of the classes of a dataset, and several as one: `classes` and `merge`."""

import logging

import numpy as np
import pytest
import yaml
from PIL import Image

from utils.datasets.dataset import check_dataset, load_labels, read_split, result_ids
from utils.datasets.selection import select_classes
from utils.text import class_numbers

NAMES = {0: "car", 1: "traffic light", 2: "truck", 3: "白猫"}


def selected(wanted=None, **keys):
    found = select_classes(NAMES, keys, "my.yaml", wanted)
    return dict(found.names), found.targets


@pytest.mark.parametrize(
    ("keys", "names", "targets"),
    [
        ({"classes": ["traffic light", "car"]}, ["traffic light", "car"], (1, 0, -1, -1)),
        ({"classes": [3, "0"]}, ["白猫", "car"], (1, -1, -1, 0)),
        ({"classes": [0, 1, 2, 3]}, [*NAMES.values()], (0, 1, 2, 3)),
        ({"merge": {"vehicle": ["truck", 0]}}, ["vehicle", "traffic light", "白猫"], (0, 1, 0, 2)),
        ({"merge": {"car": ["car", "truck"]}}, ["car", "traffic light", "白猫"], (0, 1, 0, 2)),
        ({"merge": {"cat": ["白猫"]}}, ["car", "traffic light", "truck", "cat"], (0, 1, 2, 3)),
        ({"merge": {"vehicle": ["car", "truck"]}, "classes": [2, "vehicle"]}, ["白猫", "vehicle"], (1, -1, 1, 0)),
        ({"classes": ["car"], "wanted": ["truck"]}, ["truck"], (-1, -1, 0, -1)),
    ],
)
def test_names_and_numbers_after_a_choice(keys, names, targets):
    assert selected(**keys) == (dict(enumerate(names)), targets)


def test_nothing_is_chosen_without_the_keys():
    assert select_classes(NAMES, {"classes": None}, "my.yaml") is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": ["Trafic Light"]}, "my.yaml: classes: no class 'Trafic Light'. Did you mean 'traffic light'"),
        ({"classes": ["xyz"]}, "no class 'xyz'. The classes are car, traffic light, truck, 白猫"),
        ({"classes": [4]}, "class 4 does not exist, the classes are 0 to 3"),
        ({"classes": ["car", 0]}, "class 0, 'car', is given twice"),
        ({"classes": []}, "is not a list of class names or numbers"),
        ({"classes": "car"}, "'car' is not a list of class names or numbers"),
        ({"classes": [True]}, "True is not a class name or number"),
        ({"classes": [1.0]}, "1.0 is not a class name or number"),
        ({"classes": [["car"]]}, "is not a class name or number"),
        ({"classes": ["car"], "merge": {"vehicle": ["car", "truck"]}}, "'car' is part of the merged class 'vehicle'"),
        ({"merge": ["car", "truck"]}, "merge must name the classes of each new one"),
        ({"merge": {"vehicle": []}}, "merge must name the classes of each new one"),
        ({"merge": {"vehicle": "car"}}, "merge must name the classes of each new one"),
        ({"merge": {True: ["car"]}}, "True is not a class name"),
        ({"merge": {"vehicle": ["bus"]}}, "merge: vehicle: no class 'bus'"),
        ({"merge": {"a": ["car", "truck"], "b": ["truck"]}}, "'truck' is given twice"),
        ({"merge": {"a": ["car", 0]}}, "'car' is given twice"),
        ({"merge": {"truck": ["car"]}}, r"'truck' is a class already: list it too, truck: \[truck"),
        ({"wanted": ["vehicle"]}, "--classes with my.yaml: no class 'vehicle'"),
    ],
)
def test_what_cannot_be_chosen_is_said(keys, message):
    with pytest.raises(ValueError, match=message):
        selected(**keys)


def test_digits_are_a_number_and_equal_names_need_one():
    digits = {0: "1", 1: "2", 2: "9"}
    assert class_numbers(["1", 2], digits, "here") == [1, 2]
    with pytest.raises(ValueError, match="class 9 does not exist.*the class named '9' has number 2"):
        class_numbers([9], digits, "here")
    with pytest.raises(ValueError, match=r"several classes: give a number of \[0, 1\]"):
        class_numbers(["a"], {0: "a", 1: "a"}, "here")


# Labels ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def dataset(tmp_path):
    """Four images: two boxes and an outline of the classes 0, 1, 2; one of class 3; a box labelled 0 and 2; none."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    texts = [
        "0 .5 .5 .2 .2\n1 .1 .1 .3 .1 .3 .4\n2 .4 .4 .1 .1\n",
        "3 .5 .5 .2 .2\n",
        "0 .5 .5 .3 .3\n2 .5 .5 .3 .3\n",
        "",
    ]
    for i, text in enumerate(texts):
        Image.new("RGB", (40, 20)).save(tmp_path / f"images/{i}.png")
        (tmp_path / f"labels/{i}.txt").write_text(text)
    content = {"train": "images", "val": "images", "names": list(NAMES.values())}
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    return tmp_path


def classes_of(label_set):
    return [labels[:, 0].astype(int).tolist() for labels in label_set.labels]


def test_labels_follow_a_choice_and_the_cache_serves_all_of_them(dataset, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    everything = check_dataset(dataset / "set.yaml")
    assert classes_of(load_labels(everything["val"], 4)) == [[0, 1, 2], [3], [0, 2], []]
    data = check_dataset(dataset / "set.yaml", classes=["truck", "traffic light"])
    assert (data["names"], data["nc"]) == ({0: "truck", 1: "traffic light"}, 2)
    caplog.clear()
    found = load_labels(data["val"], data["nc"])
    assert classes_of(found) == [[1, 0], [], [0], []]
    assert [len(outline) for outline in found.segments[0]] == [3, 0]
    assert [labels.dtype for labels in found.labels] == [np.float32] * 4
    assert found.counts == {"found": 2, "missing": 0, "empty": 2, "corrupt": 0}
    assert "(from " in caplog.text  # of all classes
    assert "3 labels of other classes ignored; 1 images have no others and count as backgrounds" in caplog.text
    assert classes_of(load_labels(everything["val"], 4)) == [[0, 1, 2], [3], [0, 2], []]
    assert classes_of(load_labels(data["val"], None)) == classes_of(found)  # as for --single-cls


def test_labels_that_merging_makes_equal_count_once(dataset, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    content = yaml.safe_load((dataset / "set.yaml").read_text()) | {"merge": {"vehicle": ["car", "truck"]}}
    (dataset / "set.yaml").write_text(yaml.safe_dump(content))
    data = check_dataset(dataset / "set.yaml")
    assert data["names"] == {0: "vehicle", 1: "traffic light", 2: "白猫"}
    assert (
        classes_of(load_labels(data["val"], 3))
        == classes_of(read_split(data["val"], 3)[0])
        == [[0, 1, 0], [2], [0], []]
    )
    assert "1 labels equal after merging left out" in caplog.text
    assert "classes vehicle (car, truck), traffic light, 白猫\n" in caplog.text


def test_bad_classes_are_found_among_all_of_them(dataset):
    (dataset / "labels/0.txt").write_text("3 .5 .5 .2 .2\n4 .5 .5 .2 .2\n")
    found = load_labels(check_dataset(dataset / "set.yaml", classes=["car"])["val"], 1)
    assert classes_of(found)[0] == []
    assert "class 4; allowed are 0 to 3" in found.messages[0]


def test_results_of_coco_have_its_categories(tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/val2017.txt").write_text("a.jpg\n")
    names = [f"n{i}" for i in range(80)]
    content = {"train": "coco/val2017.txt", "val": "coco/val2017.txt", "names": names, "merge": {"m": [0, 2]}}
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(content))
    data = check_dataset(tmp_path / "set.yaml", classes=["n79", "m", "n11"])
    assert result_ids(data["val"], {}).categories == [90, 92, 13]
