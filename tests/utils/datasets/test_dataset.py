"""Dataset YAML, image lists, label paths, label sets and their cache."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from utils.datasets import dataset as lb


@pytest.fixture
def log():
    """What is logged through utils.console.LOGGER, one text per record."""

    class Keep(logging.Handler):
        def emit(self, record):
            texts.append(record.getMessage())

    texts, keeper = [], Keep()
    lb.LOGGER.addHandler(keeper)
    yield texts
    lb.LOGGER.removeHandler(keeper)


def draw(folder, names, size=(40, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def dataset(tmp_path):
    """Four images: two boxes; a polygon and a box; no label file; an empty one. YAML `set.yaml` beside them."""
    draw(tmp_path / "images" / "train", ["a.png", "b.png", "c.png", "d.png"])
    write(tmp_path / "labels" / "train" / "a.txt", "0 .5 .5 .2 .2\n1 .4 .4 .1 .1\n")
    write(tmp_path / "labels" / "train" / "b.txt", "1 .1 .2 .5 .2 .3 .8\n0 .5 .5 .3 .3\n")
    write(tmp_path / "labels" / "train" / "d.txt", "")
    content = {"train": "images/train", "val": "images/train", "names": ["x", "y"]}
    write(tmp_path / "set.yaml", yaml.safe_dump(content))
    return tmp_path


# Dataset YAML --------------------------------------------------------------------------------------------------------
def test_check_dataset(dataset):
    data = lb.check_dataset(dataset / "set.yaml")
    assert data["train"] == data["val"] == str(dataset / "images" / "train")
    assert data["test"] is None
    assert data["names"] == {0: "x", 1: "y"}
    assert data["nc"] == 2
    assert data["path"] == str(dataset)
    assert data["yaml_file"] == str(dataset / "set.yaml")


def test_a_dict_is_accepted_and_not_changed(dataset):
    content = {"path": str(dataset), "train": ["images/train"], "val": ["images/train"], "names": {1: "y", 0: 7}}
    before = yaml.safe_dump(content)
    data = lb.check_dataset(content)
    assert data["train"] == [str(dataset / "images" / "train")]
    assert list(data["names"].items()) == [(0, "7"), (1, "y")]
    assert data["yaml_file"] is None
    assert yaml.safe_dump(content) == before


def test_relative_path_is_tried_from_yaml_then_working_directory(dataset, monkeypatch):
    (dataset / "sub").mkdir()
    yaml_file = write(dataset / "sub" / "set.yaml", "path: ..\ntrain: images/train\nval: images/train\nnames: [x]\n")
    assert lb.check_dataset(yaml_file)["path"] == str(dataset)
    elsewhere = write(dataset / "a" / "b" / "set.yaml", f"path: {dataset.name}\n" + yaml_file.read_text()[9:])
    monkeypatch.chdir(dataset.parent)
    assert lb.check_dataset(elsewhere)["path"] == str(dataset)


def test_repository_comes_first(dataset, monkeypatch, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    draw(root / "images" / "train", ["z.png"])
    monkeypatch.setattr(lb, "HOME", root)
    assert lb.check_dataset(dataset / "set.yaml")["path"] == str(root)


def test_missing_validation_images_name_all_places(dataset, monkeypatch):
    yaml_file = write(dataset / "sub" / "set.yaml", "path: nowhere\ntrain: t\nval: v\nnames: [x]\n")
    monkeypatch.chdir(dataset)
    places = [lb.HOME / "nowhere/v", dataset / "sub/nowhere/v", dataset / "nowhere/v"]
    with pytest.raises(FileNotFoundError, match="validation images are missing") as error:
        lb.check_dataset(yaml_file)
    assert all(str(place) in str(error.value) for place in places)


def test_download_text_is_shown_and_not_run(dataset):
    marker = dataset / "ran"
    content = {"train": "t", "val": "v", "names": ["x"], "download": f"bash -c 'touch {marker}'"}
    with pytest.raises(FileNotFoundError, match=r"which is never run: bash -c 'touch"):
        lb.check_dataset(content)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("images/tran", "; there is {root}/images/train. Fix 'path' or 'train'"),
        ("Images/train", "; there is {root}/images/train. Fix"),
        ("images/xyz", "; {root}/images has train. Fix"),
        (["images/train", "images/trains"], "; there is {root}/images/train. Fix"),
    ],
)
def test_missing_training_images_are_told_at_once_if_they_are_needed(tmp_path, train, told):
    draw(tmp_path / "images/train", ["a.png"])
    draw(tmp_path / "val", ["a.png"])
    text = f"path: {tmp_path}\nnames: [x]\nval: val\ntrain: {train}\n"
    yaml_file = write(tmp_path / "set.yaml", text)
    assert lb.check_dataset(yaml_file)["val"] == str(tmp_path / "val")
    with pytest.raises(FileNotFoundError, match=r"set.yaml:4: the training images are missing") as error:
        lb.check_dataset(yaml_file, needed=("train", "val"))
    assert told.format(root=tmp_path) in str(error.value)
    assert "Looked for train: " in str(error.value)


def test_prefix_of_a_parent_folder_is_dropped_if_that_helps(dataset):
    content = {"path": str(dataset), "train": "../images/train", "val": "../images/train", "names": ["x"]}
    assert lb.check_dataset(content)["val"] == str(dataset / "images" / "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nc": 3}, "nc is 3, but names has 2 entries"),
        ({"names": None}, "key 'names' is missing or empty"),
        ({"val": ""}, "key 'val' is missing or empty"),
        ({"names": {0: "x", 2: "y"}}, "keys are 0, 1, 2, ... without gaps"),
        ({"names": "x"}, "must be a list, or a mapping"),
        ({"names": ["yes", False]}, r"names\[1\] is False, not a string. Put the name in quotes"),
        ({"generate": "cats"}, "generate: 'cats' is unknown. Allowed: shapes"),
    ],
)
def test_wrong_keys(dataset, change, message):
    content = {"path": str(dataset), "train": "images/train", "val": "images/train", "names": ["x", "y"], **change}
    with pytest.raises(ValueError, match=message):
        lb.check_dataset(content)


def test_demonstration_set_is_drawn_once(tmp_path, monkeypatch, log):
    calls = []

    def draw_demo(root):
        calls.append(root)
        draw(root / "images" / "val", ["a.png"])

    monkeypatch.setattr(lb, "draw_demo", draw_demo)
    content = {"path": str(tmp_path / "demo"), "train": "images/train", "val": "images/val", "names": ["x"]}
    content["generate"] = "shapes"
    for _ in range(2):
        assert lb.check_dataset(content)["val"] == str(tmp_path / "demo" / "images" / "val")
    assert calls == [tmp_path / "demo"]
    assert any("drawing the demonstration set" in text for text in log)
    with pytest.raises(FileNotFoundError, match="draws images/train and images/val"):
        lb.check_dataset({**content, "val": "images/other"})


def test_stock_files_have_80_names_and_a_url():
    for name in ("coco.yaml", "coco128.yaml"):
        content = yaml.safe_load((lb.HOME / "data" / name).read_text())
        assert lb.check_names(content["names"], name) == content["names"]
        assert len(content["names"]) == 80
        assert content["download"].startswith("https://")
        assert len(content["download"].split()) == 1


# Image lists and label paths ------------------------------------------------------------------------------------------
def test_folder_is_searched_with_subfolders_and_sorted(tmp_path):
    draw(tmp_path / "sub", ["b.JPG", "a.png"])
    draw(tmp_path, ["c.webp", "._c.png"])
    draw(tmp_path / ".trash", ["d.png"])
    write(tmp_path / "notes.txt", "no image")
    expected = [tmp_path / "c.webp", tmp_path / "sub" / "a.png", tmp_path / "sub" / "b.JPG"]
    assert lb.list_images(tmp_path) == [str(p) for p in expected]


def test_lists_and_several_sources(tmp_path):
    draw(tmp_path / "x", ["a.png"])
    listing = write(tmp_path / "list.txt", f"./images/b.jpg\n\n{tmp_path}/abs/c.jpg\nreadme.md\n")
    expected = [f"{tmp_path}/abs/c.jpg", f"{tmp_path}/images/b.jpg", f"{tmp_path}/x/a.png"]
    assert lb.list_images([listing, str(tmp_path / "x")]) == expected


def test_list_says_where_it_looked_for_relative_lines(tmp_path, monkeypatch, log):
    draw(tmp_path / "here", ["a.png"])
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lists" / "good.txt", "here/a.png\n./lost.png\n/nowhere/b.png\n")
    assert lb.list_images(tmp_path / "lists" / "good.txt")[-1] == "here/a.png"
    assert log == []
    write(tmp_path / "lists" / "bad.txt", "here/a.png\nthere/a.png\n")
    lb.list_images(tmp_path / "lists" / "bad.txt")
    assert log == [
        f"{tmp_path}/lists/bad.txt:2: no such image in the working directory {tmp_path}: 'there/a.png'. Only lines "
        f"that begin with ./ are looked for in {tmp_path}/lists"
    ]


def test_list_of_cvat_starts_at_its_folder(tmp_path, monkeypatch, log):
    draw(tmp_path / "export/obj_train_data", ["a.png"])
    listing = write(tmp_path / "export/train.txt", "data/obj_train_data/a.png\n")
    assert lb.list_images(listing) == [f"{tmp_path}/export/obj_train_data/a.png"]
    draw(tmp_path / "data/obj_train_data", ["a.png"])
    monkeypatch.chdir(tmp_path)
    assert lb.list_images(listing) == ["data/obj_train_data/a.png"]  # as before
    assert log == []


def test_names_of_voc_have_any_suffix_and_may_hold_spaces(tmp_path):
    draw(tmp_path / "JPEGImages", ["a.png", "b 2.png", "c.jpg", "c.png"])
    listing = write(tmp_path / "ImageSets/Main/cat_train.txt", "a  1\nb 2 -1\nc  0\nlost\n")
    expected = [f"{tmp_path}/JPEGImages/{name}" for name in ("a.png", "b 2.png", "c.jpg", "lost.jpg")]
    assert lb.list_images(listing) == expected


def test_list_written_on_windows_is_told_apart(tmp_path, log):
    write(tmp_path / "list.txt", ".\\images\\a.png\r\nimages\\b.png\r\n")
    assert lb.list_images(tmp_path / "list.txt") == ["images\\b.png"]
    assert len(log) == 2
    assert all("Replace its backslashes: this system separates folders by /" in text for text in log)


def test_missing_and_empty_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Patterns with \* are not supported"):
        lb.list_images(tmp_path / "*.jpg")
    with pytest.raises(FileNotFoundError, match="no images in"):
        lb.list_images(tmp_path)


def test_label_paths(tmp_path):
    (tmp_path / "images" / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "flat").mkdir(parents=True)
    cases = {
        "images/images/train/a.b.jpg": "images/labels/train/a.b.txt",  # the last `images` counts
        "images/flat/a.png": "labels/flat/a.txt",
        "images/other/a.png": "images/other/a.txt",  # an unrelated parent: labels/other does not exist
        "plain/a.png": "plain/a.txt",
        "my_images/a.png": "my_images/a.txt",
    }
    result = lb.img2label_paths(tmp_path / image for image in cases)
    assert result == [str(tmp_path / label) for label in cases.values()]
    assert lb.img2label_paths([]) == []


# Label sets and cache -------------------------------------------------------------------------------------------------
def same(a, b):
    return (
        a.im_files == b.im_files
        and a.label_files == b.label_files
        and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a.labels, b.labels, strict=True))
        and [[s.tolist() for s in x] for x in a.segments] == [[s.tolist() for s in x] for x in b.segments]
        and np.array_equal(a.sizes, b.sizes)
        and (a.counts, a.messages) == (b.counts, b.messages)
    )


def test_label_set(dataset):
    found = lb.load_labels(dataset / "images" / "train", nc=2)
    assert [Path(f).name for f in found.im_files] == ["a.png", "b.png", "c.png", "d.png"]
    assert [len(x) for x in found.labels] == [2, 2, 0, 0]
    assert [[len(s) for s in x] for x in found.segments] == [[], [3, 0], [], []]
    assert found.sizes.tolist() == [[40, 20]] * 4
    assert found.counts == {"found": 2, "missing": 1, "empty": 1, "corrupt": 0}


def test_corrupt_images_are_left_out_with_a_message(dataset, log):
    write(dataset / "images" / "train" / "aa.png", "no image")
    fresh = lb.load_labels(dataset / "images" / "train")
    cached = lb.load_labels(dataset / "images" / "train")
    for found in (fresh, cached):
        assert [Path(f).name for f in found.im_files] == ["a.png", "b.png", "c.png", "d.png"]
        assert [Path(f).name for f in found.label_files] == ["a.txt", "b.txt", "c.txt", "d.txt"]
        assert found.counts["corrupt"] == 1
    assert sum("aa.png: image left out" in text for text in log) == 2


def test_cache_gives_the_same_without_reading_a_file(dataset, monkeypatch):
    first = lb.load_labels(dataset / "images" / "train", nc=2)
    assert (dataset / "labels" / "train.cache").is_file()
    monkeypatch.setattr(lb, "verify_image_label", None)
    assert same(first, lb.load_labels(dataset / "images" / "train", nc=2))


def test_cache_beside_a_list_keeps_dots(dataset):
    listing = write(dataset / "train.v2.txt", "./images/train/a.png\n")
    lb.load_labels(listing)
    assert (dataset / "train.v2.cache").is_file()


def test_cache_is_a_safe_archive(dataset):
    lb.load_labels(dataset / "images" / "train")
    with np.load(dataset / "labels" / "train.cache", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays)


def swap_digits(dataset):
    file = dataset / "labels" / "train" / "a.txt"
    stat = file.stat()
    file.write_text(file.read_text().replace(".4 .4", ".3 .3"))  # as long as before
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def add_label(dataset):
    write(dataset / "labels" / "train" / "c.txt", "0 .5 .5 .2 .2\n")


def remove_image(dataset):
    (dataset / "images" / "train" / "d.png").unlink()


def damage_cache(dataset):
    file = dataset / "labels" / "train.cache"
    file.write_bytes(file.read_bytes()[:200])


def foreign_cache(dataset):
    with open(dataset / "labels" / "train.cache", "wb") as f:
        np.save(f, {"version": 0.6})  # a pickle: never opened


def lose_a_row(dataset):
    file = dataset / "labels" / "train.cache"
    with np.load(file) as arrays:
        kept = dict(arrays)
    kept["labels"] = kept["labels"][:-1]
    with open(file, "wb") as f:
        np.savez(f, **kept)


@pytest.mark.parametrize("change", [swap_digits, add_label, remove_image, damage_cache, foreign_cache, lose_a_row])
def test_cache_is_made_new_after_a_change(dataset, change):
    folder = dataset / "images" / "train"
    lb.load_labels(folder)
    change(dataset)
    again = lb.load_labels(folder)
    (dataset / "labels" / "train.cache").unlink()
    assert same(again, lb.load_labels(folder))


def link_to_file(cache, victim):
    cache.symlink_to(victim)


def link_to_nothing(cache, victim):
    cache.symlink_to(victim.with_name("new"))


def link_to_device(cache, victim):
    cache.symlink_to("/dev/zero")


def link_to_folder(cache, victim):
    cache.symlink_to(victim.parent)


def second_name(cache, victim):
    os.link(victim, cache)


def pipe(cache, victim):
    os.mkfifo(cache)


def folder(cache, victim):
    cache.mkdir()


def other_file(cache, victim):
    cache.write_text("of another program")


@pytest.mark.parametrize(
    "plant",
    [link_to_file, link_to_nothing, link_to_device, link_to_folder, second_name, pipe, folder, other_file],
)
def test_what_has_the_name_of_the_cache_is_not_followed_nor_lost(dataset, tmp_path_factory, log, plant):
    elsewhere = tmp_path_factory.mktemp("home")
    victim, cache = write(elsewhere / "diary", "of the user"), dataset / "labels" / "train.cache"
    plant(cache, victim)
    before = cache.lstat().st_ino
    found = lb.load_labels(dataset / "images" / "train")
    assert [len(x) for x in found.labels] == [2, 2, 0, 0]
    assert victim.read_text() == "of the user"
    assert [f.name for f in elsewhere.iterdir()] == ["diary"]
    assert cache.lstat().st_ino == before
    (warning,) = [text for text in log if "not written" in text]
    assert str(cache) in warning


def test_cache_behind_a_link_is_not_read(dataset, log):
    folder, cache = dataset / "images" / "train", dataset / "labels" / "train.cache"
    lb.load_labels(folder)
    cache.rename(dataset / "other")
    content = (dataset / "other").read_bytes()
    cache.symlink_to(dataset / "other")
    lb.load_labels(folder)
    assert not any("(from" in text for text in log)
    assert not cache.is_symlink()
    assert (dataset / "other").read_bytes() == content


def made_up(**changes):
    """Return a function that changes arrays of a cache, whose key stays right."""

    def change(dataset):
        file = dataset / "labels" / "train.cache"
        with np.load(file) as arrays:
            kept = dict(arrays)
        for name, new in changes.items():
            kept[name] = new(kept[name])
        with open(file, "wb") as f:
            np.savez(f, **kept)

    return change


def put(row, column, value):
    def new(array):
        array[row, column] = value
        return array

    return new


def report(**changes):
    return lambda old: np.array(json.dumps(json.loads(str(old)) | changes))


def huge(dataset):
    with open(dataset / "labels" / "train.cache", "ab") as f:
        f.truncate(1 << 40)


def packed(dataset):
    file = dataset / "labels" / "train.cache"
    with np.load(file) as arrays:
        kept = dict(arrays)
    with open(file, "wb") as f:
        np.savez_compressed(f, **kept)


MADE_UP = {
    "class of another dataset": made_up(labels=put(0, 0, 2)),
    "negative class": made_up(labels=put(0, 0, -1)),
    "half a class": made_up(labels=put(0, 0, 0.5)),
    "no number": made_up(labels=put(0, 1, np.nan)),
    "outside": made_up(labels=put(1, 2, 1.5)),
    "no area": made_up(labels=put(1, 3, 0)),
    "columns": made_up(labels=lambda x: x[:, :4]),
    "type of labels": made_up(labels=lambda x: x.astype(np.float64)),
    "corner outside": made_up(points=put(0, 0, -3)),
    "polygons of others": made_up(segments_per_image=lambda x: x[::-1].copy()),
    "type of sizes": made_up(sizes=lambda x: x.astype(np.float64)),
    "no size": made_up(sizes=put(0, 1, 0)),
    "sizes of others": made_up(sizes=lambda x: x[:2]),
    "counts": made_up(report=report(counts={"found": 4})),
    "messages": made_up(report=report(messages=[1])),
    "no table": made_up(report=lambda old: np.array("[]")),
    "packed": packed,
    "huge": huge,
}


@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_cache_is_not_believed(dataset, log, name):
    folder = dataset / "images" / "train"
    fresh = lb.load_labels(folder, nc=2)
    MADE_UP[name](dataset)
    assert same(fresh, lb.load_labels(folder, nc=2))
    assert not any("(from" in text for text in log)


def test_another_nc_reads_again(dataset):
    folder = dataset / "images" / "train"
    assert sum(map(len, lb.load_labels(folder, nc=2).labels)) == 4
    narrow = lb.load_labels(folder, nc=1)
    assert sum(map(len, narrow.labels)) == 2
    assert [m.partition(": ")[2] for m in narrow.messages] == ["line left out: class 1; allowed are 0 to 0"] * 2


def test_read_only_folder_is_respected(dataset, log):
    (dataset / "labels").chmod(0o555)
    try:
        found = lb.load_labels(dataset / "images" / "train", prefix="train: ")
    finally:
        (dataset / "labels").chmod(0o755)
    assert len(found.im_files) == 4
    assert not (dataset / "labels" / "train.cache").exists()
    assert [text for text in log if "not written" in text][0].startswith("train: label cache")


def test_links_in_a_circle_are_walked_once_and_others_are_followed(tmp_path):
    draw(tmp_path / "images" / "sub", ["a.png"])
    draw(tmp_path / "elsewhere", ["b.png"])
    (tmp_path / "images" / "sub" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images" / "sub")
    found = [os.path.relpath(file, tmp_path / "images") for file in lb.list_images(tmp_path / "images")]
    assert found == ["other/b.png", "other/back/a.png", "sub/a.png"]


def test_not_one_readable_image(tmp_path):
    write(tmp_path / "images" / "a.jpg", "no image")
    with pytest.raises(ValueError, match="none of the 1 images"):
        lb.load_labels(tmp_path / "images")


def test_many_messages_are_cut_short(dataset, log):
    bad = "".join(f"9{i} .5 .5 .2 .2\n" for i in range(30))
    write(dataset / "labels" / "train" / "c.txt", bad)
    write(dataset / "labels" / "train" / "d.txt", "7\n")
    found = lb.load_labels(dataset / "images" / "train", nc=2)
    assert len(found.messages) == 12
    assert found.messages[10].endswith("c.txt: 20 more lines left out; none is left, so the image is left out")
    assert sum("class 9" in text for text in log) == lb.MAX_MESSAGES
    assert log[-1] == "... and 2 more such messages"
