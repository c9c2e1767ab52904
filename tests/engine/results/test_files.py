"""engine/results/files.py: what stands in the files, and that none is lost."""

import json
import os

import pytest
import torch

from engine.results.files import JsonFile, TextFiles, open_files
from utils.datasets.output_names import COCO_CATEGORIES, ResultIds, image_ids, unique_stems

FOUND = torch.tensor([[10.0, 20, 30, 60, 0.875, 3], [0, 0, 100 / 3, 100, 0.5, 0]])
SHAPE = (100, 200)  # height, width
NONE = FOUND[:0]


def test_text_rows(tmp_path):
    texts = TextFiles(tmp_path / "labels", {"a/7.jpg": "7"}, save_conf=True)
    texts.add(FOUND, "a/7.jpg", SHAPE)
    texts.close()
    expected = "3 0.1 0.4 0.1 0.4 0.875\n0 0.0833333 0.5 0.166667 1 0.5\n"
    assert (tmp_path / "labels" / "7.txt").read_text() == expected
    TextFiles(tmp_path / "plain", {"a/7.jpg": "7"}).add(FOUND[:1], "a/7.jpg", SHAPE)
    assert (tmp_path / "plain" / "7.txt").read_text() == "3 0.1 0.4 0.1 0.4\n"


def test_a_second_run_replaces_the_text(tmp_path):
    for found in (FOUND, FOUND[:1]):
        TextFiles(tmp_path, {"a.jpg": "a"}).add(found, "a.jpg", SHAPE)
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 1
    TextFiles(tmp_path, {"a.jpg": "a"}).add(NONE, "a.jpg", SHAPE)
    assert not (tmp_path / "a.txt").exists()


def test_images_of_one_stem_get_texts_of_their_own(tmp_path):
    files = ["/d/x/1.jpg", "/d/y/1.jpg", "/d/y/1.png", "/d/y/2.jpg"]
    texts = TextFiles(tmp_path, unique_stems(files))
    for file in files:
        texts.add(FOUND, file, SHAPE)
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt"))
    assert written == ["2.txt", "x/1.jpg.txt", "y/1.jpg.txt", "y/1.png.txt"]


def test_no_name_leads_out_of_the_folder(tmp_path):
    long = "a" * 250
    files = [
        "/d/...jpg",
        "/d/..jpg",
        "/d/....jpg",
        "/d/_.jpg",
        f"/d/{long}1.jpg",
        f"/d/{long}2.jpg",
        "/d/.hid.jpg",
        "/d/a.b.jpg",
    ]
    names = unique_stems(files)
    assert len(set(names.values())) == len(files)
    assert (names["/d/.hid.jpg"], names["/d/a.b.jpg"]) == (".hid", "a.b")
    for name in names.values():
        assert os.path.basename(name) == name
        assert name.strip(".")
        (tmp_path / "out" / name).mkdir(parents=True)  # as a folder, and as the beginning of a name
        (tmp_path / "out" / f"{name}_1234567890.webp").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_long_names_in_folders(tmp_path):
    long = "b" * 251
    names = unique_stems([f"/d/x/{long}.jpg", f"/d/y/{long}.jpg", f"/d/y/{long}.png"])
    assert len(set(names.values())) == 3
    for name in names.values():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").touch()


@pytest.mark.parametrize(("categories", "expected"), [(COCO_CATEGORIES, [4, 1]), (None, [3, 0]), ("wxyz", ["z", "w"])])
def test_json_rows(tmp_path, categories, expected):
    ids = ResultIds({"x/000123.jpg": 123, "x/empty.jpg": "empty", "x/clip.mp4": "clip"}, categories)
    target = JsonFile(tmp_path / "p.json", ids)
    target.add(FOUND, "x/000123.jpg", SHAPE)
    target.add(NONE, "x/empty.jpg", SHAPE)
    target.add(FOUND[:1], "x/clip.mp4", SHAPE, 7)
    target.close()
    assert json.loads((tmp_path / "p.json").read_text()) == [
        {"image_id": 123, "category_id": expected[0], "bbox": [10, 20, 20, 40], "score": 0.875},
        {"image_id": 123, "category_id": expected[1], "bbox": [0, 0, 33.333, 100], "score": 0.5},
        {"image_id": "clip_7", "category_id": expected[0], "bbox": [10, 20, 20, 40], "score": 0.875},
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["/d/000139.jpg", "/d/n.png", "/d/12a.jpg"], [139, "n", "12a"]),
        (["/d/a/1.jpg", "/d/b/1.jpg", "/d/b/2.jpg"], ["a/1.jpg", "b/1.jpg", 2]),
        (["/d/7.jpg", "/d/007.jpg", "/d/8.jpg"], ["7", "007", 8]),
        (["/d/\u0667.jpg", "/d/7.jpg", "/d/\u00b2.jpg"], ["\u0667", 7, "\u00b2"]),  # digits of other scripts are text
    ],
)
def test_image_ids_are_numbers_where_they_can_and_never_one_twice(files, expected, caplog):
    assert image_ids(unique_stems(files)) == dict(zip(files, expected, strict=True))
    assert len(set(expected)) == len(files)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == any(isinstance(e, str) and e not in ("n", "12a", "\u0667", "\u00b2") for e in expected)


def test_ids_of_frames_differ_from_those_of_images():
    videos = ["/d/a.mp4", "/d/5.mp4"]
    ids = image_ids(unique_stems([*videos, "/d/a_1.jpg", "/d/51.jpg"], videos), videos)
    assert ids == {"/d/a.mp4": "a", "/d/5.mp4": "5", "/d/a_1.jpg": "a_1.jpg", "/d/51.jpg": 51}


def test_categories_of_coco():
    assert len(COCO_CATEGORIES) == 80
    assert [COCO_CATEGORIES[c] for c in (0, 10, 11, 79)] == [1, 11, 13, 90]


def test_input_is_not_changed(tmp_path):
    found = FOUND.clone()
    TextFiles(tmp_path, {"a.jpg": "a"}).add(found, "a.jpg", SHAPE)
    JsonFile(tmp_path / "p.json", ResultIds({"a.jpg": 1})).add(found, "a.jpg", SHAPE)
    assert torch.equal(found, FOUND)


def test_only_what_was_asked_for_is_opened(tmp_path):
    ids = ResultIds({"a.jpg": 1})
    assert open_files(tmp_path, {"a.jpg": "a"}) == []
    text, result = open_files(tmp_path, {"a.jpg": "a"}, "w/best.pt", True, True, ids)
    assert (text.folder, text.save_conf) == (tmp_path / "labels", True)
    assert (result.file, result.ids) == (tmp_path / "best_predictions.json", ids)
    (result,) = open_files(tmp_path, {"a.jpg": "a"}, ids=ids)
    assert result.file == tmp_path / "predictions.json"
