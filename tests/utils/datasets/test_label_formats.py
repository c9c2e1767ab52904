"""Labels in the formats of COCO and Pascal VOC: the same arrays as from YOLO text, and what is left out."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from utils.datasets import dataset as lb
from utils.datasets.coco import join_parts, read_tables
from utils.datasets.dataset import load_labels, result_ids
from utils.datasets.lists import list_images
from utils.datasets.output_names import COCO_CATEGORIES, unique_stems
from utils.datasets.reader import Annotation, LabelledObject, Split, verify_objects
from utils.datasets.selection import select_classes
from utils.datasets.voc import MAX_BYTES, parse_xml, read_voc
from utils.files import yaml_load

SQUARE = [2, 2, 12, 2, 12, 8, 2, 8]


def draw(file, size=(40, 20)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(file)
    return str(file)


def voc_xml(size, objects, name="annotation"):
    """Objects are (class, x1, y1, x2, y2, difficult)."""
    text = f"<{name}><filename>x</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
    for cls, x1, y1, x2, y2, difficult in objects:
        box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        text += f"<object><name>{cls}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
    return f"{text}</{name}>"


def coco_json(images, annotations, names=("cat", "dog")):
    """Images are (id, file name, width, height); categories are numbered from 7."""
    keys = ("id", "file_name", "width", "height")
    return {
        "images": [dict(zip(keys, image, strict=True)) for image in images],
        "annotations": [{"id": i, **entry} for i, entry in enumerate(annotations)],
        "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(names)],
    }


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


# Three formats, one set -----------------------------------------------------------------------------------------------
def convert(source, target, label_format):
    """Write a YOLO dataset in another format: links to its images, labels in pixels. Returns the YAML."""
    data = lb.check_dataset(source)
    content = {"path": str(target), "names": data["names"], "format": label_format, "annotations": {}}
    for split in ("train", "val"):
        found = lb.load_labels(data[split], nc=data["nc"])
        (target / "images").mkdir(parents=True, exist_ok=True)
        (target / "images" / split).symlink_to(data[split])
        (target / "annotations" / split).mkdir(parents=True)
        content[split] = f"images/{split}"
        images, annotations = [], []
        for i, (file, labels, (width, height)) in enumerate(
            zip(found.im_files, found.labels, found.sizes.tolist(), strict=True)
        ):
            images.append((i, Path(file).name, width, height))
            rows = []
            for cls, x, y, w, h in labels.astype(np.float64).tolist():
                left, top, w, h = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
                annotations.append({"image_id": i, "category_id": 7 + int(cls), "bbox": [left, top, w, h]})
                rows.append((data["names"][int(cls)], left, top, left + w, top + h, 0))
            xml = target / "annotations" / split / f"{Path(file).stem}.xml"
            if label_format == "voc":
                xml.write_text(voc_xml((width, height), rows))
        if label_format == "coco":
            names = [data["names"][i] for i in range(data["nc"])]
            write_json(target / "annotations" / f"{split}.json", coco_json(images, annotations, names))
            content["annotations"][split] = f"annotations/{split}.json"
    if label_format == "voc":
        del content["annotations"]
    (target / "set.yaml").write_text(yaml.safe_dump(content))
    return target / "set.yaml"


def check_same(source, other):
    one, two = lb.check_dataset(source), lb.check_dataset(other)
    for split in ("train", "val"):
        a, b = lb.load_labels(one[split], nc=one["nc"]), lb.load_labels(two[split], nc=two["nc"])
        cached = lb.load_labels(two[split], nc=two["nc"])
        assert [Path(f).name for f in a.im_files] == [Path(f).name for f in b.im_files]
        assert np.array_equal(a.sizes, b.sizes)
        assert sum(map(len, a.labels)) > 0
        for x, y, z in zip(a.labels, b.labels, cached.labels, strict=True):
            assert x.shape == y.shape
            np.testing.assert_array_equal(x[:, 0], y[:, 0])
            np.testing.assert_allclose(x, y, rtol=3e-7, atol=1e-9)  # the last bit: there and back through pixels
            np.testing.assert_array_equal(y, z)
        assert b.messages == []


@pytest.mark.parametrize("label_format", ["coco", "voc"])
def test_formats_of_the_drawn_set_give_the_same_arrays(tiny_dataset, tmp_path, label_format):
    check_same(tiny_dataset, convert(tiny_dataset, tmp_path / "set", label_format))


@pytest.mark.parametrize("label_format", ["yolo", "coco", "voc"])
def test_formats_of_bccd_give_the_same_arrays(bccd, tmp_path, label_format):
    if label_format == "yolo":  # a copy, as the others are, through the same reader as ever
        data = yaml_load(bccd)
        root = Path(lb.check_dataset(bccd)["path"])
        (tmp_path / "images").symlink_to(root / "images")
        (tmp_path / "labels").mkdir()
        for split in ("train", "val"):
            (tmp_path / "labels" / split).symlink_to(root / "labels" / split)
        file = tmp_path / "set.yaml"
        file.write_text(yaml.safe_dump(data | {"path": str(tmp_path), "format": "yolo"}))
    else:
        file = convert(bccd, tmp_path / "set", label_format)
    check_same(bccd, file)


# COCO -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def coco(tmp_path):
    """Images a, b, c and stranger.png; a box, a polygon and a crowd in a; two parts in sub/b; c without objects."""
    for name in ("a.png", "sub/b.png", "c.png", "stranger.png"):
        draw(tmp_path / "pictures" / name)
    other = [20, 10, 30, 10, 30, 18, 20, 18]
    content = coco_json(
        [(3, "a.png", 40, 20), (5, "sub/b.png", 80, 40), (9, "c.png", 40, 20), (11, "gone.png", 40, 20)],
        [
            {"image_id": 3, "category_id": 8, "bbox": [4, 2, 8, 4]},
            {"image_id": 3, "category_id": 7, "bbox": [1, 1, 12, 8], "segmentation": [SQUARE]},
            {"image_id": 3, "category_id": 7, "bbox": [0, 0, 40, 20], "iscrowd": 1, "segmentation": {"counts": []}},
            {"image_id": 3, "category_id": 9, "bbox": [4, 2, 8, 4]},
            {"image_id": 5, "category_id": 7, "segmentation": [SQUARE, other]},
        ],
        ("cat", "dog", "cow"),
    )
    write_json(tmp_path / "labels.json", content)
    keys = {"path": str(tmp_path), "format": "coco", "names": ["dog", "cat"]}
    splits = {"train": "pictures", "val": "pictures", "annotations": {"train": "labels.json", "val": "labels.json"}}
    return keys | splits


def load(content):
    return lb.load_labels(lb.check_dataset(content)["train"])


def test_coco_boxes_polygons_and_crowds(coco, tmp_path):
    found = load(coco)
    assert [str(Path(f).relative_to(tmp_path / "pictures")) for f in found.im_files] == ["a.png", "c.png", "sub/b.png"]
    expected = np.array([[0, 8 / 40, 4 / 20, 8 / 40, 4 / 20], [1, 7 / 40, 5 / 20, 12 / 40, 8 / 20]], np.float32)
    np.testing.assert_allclose(found.labels[0], expected, rtol=1e-6)  # the classes follow the names, not the numbers
    assert [len(outline) for outline in found.segments[0]] == [0, 4]
    np.testing.assert_allclose(found.segments[0][1], np.array(SQUARE).reshape(-1, 2) / (40, 20), rtol=1e-6)
    np.testing.assert_allclose(found.labels[2], [[1, 16 / 80, 10 / 40, 28 / 80, 16 / 40]], rtol=1e-6)
    assert found.labels[1].shape == (0, 5)
    assert found.counts == {"found": 2, "missing": 0, "empty": 1, "corrupt": 0}
    text = "\n".join(found.messages)
    assert "1 images of this file are not in" in text
    assert "1 images in" in text
    assert "categories not in names, their objects are left out: cow" in text


def test_coco_cache_belongs_to_the_annotation_file(coco, tmp_path, monkeypatch):
    first = load(coco)
    assert (tmp_path / "labels.cache").is_file()
    with monkeypatch.context() as patch:
        patch.setattr("utils.datasets.coco.read_tables", None)
        again = load(coco)
    assert [x.tolist() for x in again.labels] == [x.tolist() for x in first.labels]
    turned = load(coco | {"names": ["cat", "dog"]})
    assert [x[:, 0].tolist() for x in turned.labels] == [[1, 0], [], [0]]
    stat = (tmp_path / "labels.json").stat()
    content = json.loads((tmp_path / "labels.json").read_text())
    content["annotations"][0]["bbox"] = [4, 2, 8, 6]
    write_json(tmp_path / "labels.json", content)
    os.utime(tmp_path / "labels.json", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load(coco).labels[0][0, 4] == np.float32(0.3)


def test_parts_are_joined_by_a_bridge():
    one, two = np.array(SQUARE, float).reshape(-1, 2), np.array([[14, 4], [20, 4], [20, 6], [14, 6]], float)
    outline = join_parts([one, two, two + (0, 10)])
    x, y = outline.T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert area == pytest.approx(10 * 6 + 2 * 6 * 2)
    assert {tuple(p) for p in outline} == {tuple(p) for p in np.concatenate((one, two, two + (0, 10)))}
    assert join_parts([one]) is one


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"category_id": 1, "bbox": [0, 0, 1, 1]}, "category_id 1 is not in categories"),
        ({"category_id": 7}, "neither bbox nor polygon"),
        ({"category_id": 7, "bbox": [0, 0, 1]}, "not enough values"),
        ({"category_id": 7, "bbox": [0, 0, "x", 1]}, "could not convert string"),
        ({"category_id": [7], "bbox": [0, 0, 1, 1]}, "unhashable"),
        ({"category_id": 7, "bbox": [0, 0, 1, 1], "segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "cannot reshape"),
        ({"category_id": 7, "bbox": [0, 0, 10**400, 1]}, "int too large"),
        ({"category_id": 7, "bbox": [0, 0, 1, 1], "segmentation": [[1, 2, 3, 4, 5, 10**400]]}, "int too large"),
        (
            {"category_id": 7, "bbox": [0, 0, 1, 1], "segmentation": [[1, 2, 3, 4, 5, math.nan]]},
            "its segmentation contains",
        ),
        ({"category_id": 7, "bbox": [0, 0, 1, 1], "segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "its segmentation"),
    ],
)
def test_a_bad_coco_object_costs_only_itself(tmp_path, entry, message):
    good = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2]}
    lost = {"image_id": [], "category_id": 7, "bbox": [1, 1, 2, 2]}
    content = coco_json([(1, "a.png", 40, 20)], [good, {"image_id": 1, **entry}, lost])
    annotation = read_tables(write_json(tmp_path / "a.json", content))[0]["a.png"]
    assert [item.box for item in annotation.objects] == [(1, 1, 3, 3)]
    assert len(annotation.messages) == 1
    assert f"a.json: object 1 left out: {message}" in annotation.messages[0].replace("'", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "not a COCO file"),
        ("{", "not a JSON file"),
        ("[" * 200_000, "not a JSON file"),
        ('{"images": [], "categories": {}}', "not a COCO file"),
        ('{"images": [{"id": 1}], "categories": []}', r"an image needs id, file_name.*KeyError\('file_name'\)"),
        ('{"images": [{"id": 1, "file_name": "a", "width": 1e999, "height": 1}], "categories": []}', "not a COCO file"),
        (
            '{"images": [{"id": 1, "file_name": "a", "width": 1, "height": 1e10}], "categories": []}',
            ".*height is 1000000",
        ),
    ],
)
def test_files_that_are_not_coco(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json: {message}|a\.json: not a COCO file: {message}"):
        read_tables(tmp_path / "a.json")


def test_coco_mistakes_in_the_yaml(coco):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such annotation file"):
        load(coco | {"annotations": {"train": "none.json"}})
    with pytest.raises(ValueError, match="needs the annotation file of this split"):
        load(coco | {"annotations": {"val": "labels.json"}})
    with pytest.raises(
        ValueError, match="none of its categories is a class .* the file has cat, cow, dog, names has x"
    ):
        load(coco | {"names": ["x"]})
    for change, message in (
        ({"format": "cocoa"}, "format: 'cocoa' is unknown. Allowed: yolo, coco, voc"),
        ({"annotations": None}, "format: coco needs annotations"),
        ({"annotations": {"tain": "labels.json"}}, "annotations must name files of the splits"),
        ({"format": "voc"}, "'annotations' is for format: coco, but the format is voc"),
        ({"first_pixel": 2}, "first_pixel: 2 is not 0 or 1"),
        ({"names": ["cat", "cat"]}, "names has 'cat' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            lb.check_dataset(coco | change)


# VOC ------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def voc(tmp_path):
    """The folders of the challenge: a with two objects of which one is difficult, b without a file, c broken."""
    for name in "abc":
        draw(tmp_path / "JPEGImages" / f"{name}.jpg")
    (tmp_path / "Annotations").mkdir()
    rows = [("dog", 5, 3, 12, 6, 0), ("cat", 1, 1, 40, 20, 1), ("cow", 1, 1, 4, 4, 0)]
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml((40, 20), rows))
    (tmp_path / "Annotations" / "c.xml").write_text("<annotation>")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nc  -1\n")
    keys = {"path": str(tmp_path), "format": "voc", "names": ["cat", "dog"]}
    return keys | {"train": "ImageSets/Main/train.txt", "val": "JPEGImages"}


@pytest.mark.parametrize(("first", "left"), [(0, 5), (1, 4)])
def test_voc_boxes_and_lists(voc, tmp_path, first, left):
    found = load(voc | {"first_pixel": first})
    assert found.im_files == [str(tmp_path / "JPEGImages" / "a.jpg")]
    top = left - 2
    expected = [[1, (left + 12) / 80, (top + 6) / 40, (12 - left) / 40, (6 - top) / 20]]
    np.testing.assert_allclose(found.labels[0], expected, rtol=1e-6)
    assert any("a.xml: classes not in names, objects left out: cow" in text for text in found.messages)
    assert any("c.xml: not XML: no element found" in text for text in found.messages)
    assert (tmp_path / "ImageSets" / "Main" / "train.cache").is_file()


def test_voc_folder_with_an_image_without_a_file(voc):
    found = lb.load_labels(lb.check_dataset(voc)["val"])
    assert found.counts == {"found": 1, "missing": 1, "empty": 0, "corrupt": 1}


def test_voc_in_labels_beside_images(voc, tmp_path):
    """XML in `labels` beside `images`; a folder `labels` of YOLO text is passed over."""
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    (tmp_path / "Annotations").rename(tmp_path / "labels")
    keys = voc | {"train": "images", "val": "images"}
    assert lb.load_labels(lb.check_dataset(keys)["val"]).counts["found"] == 1
    for file in (tmp_path / "labels").iterdir():
        file.rename(tmp_path / "images" / file.name)
    (tmp_path / "labels" / "a.txt").write_text("")
    assert lb.load_labels(lb.check_dataset(keys)["val"]).counts["found"] == 1


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (f"{BOMB}]><annotation>&i;</annotation>".encode(), "a document type is declared"),
        (f"{BOMB}]><annotation>&i;</annotation>".encode("utf-16"), "a document type is declared"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "a document type is declared"),
        (b"<a>" * 100, "nested more than 32 deep"),
        (b"<a>" + b" " * MAX_BYTES + b"</a>", "an annotation has at most"),
        (b"<a>&unknown;</a>", "not XML: undefined entity"),
        (b"\x00\xff", "not XML"),
        (b"", "not XML"),
        (b'<?xml version="1.0" encoding="nothing"?><a/>', "not XML: unknown encoding"),
    ],
)
def test_hostile_xml_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        parse_xml(data)


def test_voc_files_of_other_programs(tmp_path):
    file = tmp_path / "a.xml"
    file.write_text(
        voc_xml((0, 0), [("cat", "x", 1, 2, 3, 0), (" cat ", "1.5", 1, 2, 3, 0)]).replace("0</width>", "</width>")
    )
    annotation = read_voc(file)
    assert (annotation.size, annotation.objects[0][:2]) == ((0, 0), ("cat", (1.5, 1, 2, 3)))
    assert annotation.messages == [f"{file}: object 1 left out: bndbox needs xmin, ymin, xmax and ymax"]
    file.write_text(voc_xml((40, 10**400), []))
    with pytest.raises(ValueError, match="its size is more than 1000000000 pixels"):
        read_voc(file)
    file.write_text(voc_xml((1, 1), [], "html"))
    with pytest.raises(ValueError, match="the outer element is html, not annotation"):
        read_voc(file)


# Both -----------------------------------------------------------------------------------------------------------------
def test_the_rules_for_boxes_are_those_of_text_files(tmp_path):
    file = draw(tmp_path / "a.png")
    boxes = [(4, 2, 12, 6), (4, 2, 12, 6), (4, 2, 4, 6), (30, 2, 60, 6), (12, 6, 4, 2)]
    objects = [LabelledObject("cat", box, np.zeros((0, 2))) for box in boxes]
    found = verify_objects(file, "a.xml", Annotation((40, 20), objects, []), {"cat": 0})
    np.testing.assert_allclose(found.labels, [[0, 0.2, 0.2, 0.2, 0.2]], rtol=1e-6)
    assert [text.partition(": ")[2].partition(" of a.png")[0] for text in found.messages] == [
        "object 3",
        "object 4",
        "object 5",
        "1 repeated labels",
    ]
    assert "has no area" in found.messages[0]
    assert "not all within 0..1" in found.messages[1]


def test_labels_for_a_picture_of_another_shape_are_left_out(tmp_path):
    file = draw(tmp_path / "a.png", (20, 40))
    objects = [LabelledObject("cat", (4, 2, 12, 6), np.zeros((0, 2)))]
    found = verify_objects(file, "a.xml", Annotation((40, 20), objects, []), {"cat": 0})
    assert (found.ok, len(found.labels)) == (False, 0)
    assert "its labels are for 40 x 20 pixels, but the image has 20 x 40" in found.messages[0]
    found = verify_objects(file, "a.xml", Annotation((10, 20), objects, []), {"cat": 0})  # a larger copy
    np.testing.assert_allclose(found.labels, [[0, 0.8, 0.2, 0.8, 0.2]], rtol=1e-6)


def test_a_split_reads_as_its_images():
    assert f"{Split('a', 'voc', {})} {Split(['a', 'b'], 'voc', {})}" == "a a, b"


# Ids of results -------------------------------------------------------------------------------------------------------


def coco_split(folder, *files, names=("cat", "dog")):
    """A split of two images and annotation files [(image ids by file name), (category ids by name)]."""
    for name in ("a.png", "b.png"):
        draw(folder / "images" / name)
    paths = []
    for number, (images, categories) in enumerate(files):
        entries = [{"id": i, "file_name": name, "width": 40, "height": 20} for name, i in images.items()]
        content = {"images": entries, "categories": [{"id": i, "name": name} for name, i in categories]}
        paths.append(str(write_json(folder / f"{number}.json", content)))
    return Split(str(folder / "images"), "coco", dict(enumerate(names)), tuple(paths))


def test_results_get_the_ids_of_the_annotation_file(tmp_path):
    split = coco_split(tmp_path, ({"b.png": 11, "a.png": "x"}, [("dog", 7), ("bird", 20), ("cat", 3)]))
    files = load_labels(split).im_files
    ids = result_ids(split, unique_stems(files))
    assert {Path(file).name: ids.images[file] for file in files} == {"a.png": "x", "b.png": 11}
    assert ids.categories == [3, 7]
    more = coco_split(tmp_path, ({"b.png": 11, "a.png": 12}, [("dog", 7)]))
    assert result_ids(more, unique_stems(files)).categories == [8, 7]  # the file has no cat
    keys = {"merge": {"pet": ["cat"]}, "classes": ["dog", "pet"]}
    chosen = replace(split, selection=select_classes(split.names, keys, "set.yaml"))
    assert result_ids(chosen, unique_stems(files)).categories == [7, 9]  # the file has no pet


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (({"b.png": 1}, [("cat", 3), ("dog", 7)]), "have one id for several images"),
        (({"b.png": 2}, [("cat", 4), ("dog", 7)]), "the category cat has the ids 3 and 4"),
    ],
)
def test_files_that_contradict_each_other_give_no_ids(tmp_path, second, message, caplog):
    split = coco_split(tmp_path, ({"a.png": 1}, [("cat", 3), ("dog", 7)]), second)
    files = list_images(split.images)
    assert result_ids(split, unique_stems(files)) == (dict(zip(files, "ab", strict=True)), None)
    assert message in caplog.text


def test_classes_of_an_annotation_file_are_chosen(tmp_path):
    split = coco_split(tmp_path, ({"a.png": 1, "b.png": 2}, [("cat", 3), ("dog", 7)]))
    content = json.loads(Path(split.annotations[0]).read_text())
    content["annotations"] = [
        {"id": i, "image_id": image, "category_id": category, "bbox": [4, 4, 10, 10]}
        for i, (image, category) in enumerate([(1, 3), (1, 7), (2, 3)])
    ]
    write_json(Path(split.annotations[0]), content)
    chosen = replace(split, selection=select_classes(split.names, {"classes": ["dog"]}, "set.yaml"))
    assert [labels[:, 0].tolist() for labels in load_labels(chosen, 1).labels] == [[0], []]


def test_results_on_other_splits_are_named_by_file():
    files = ["/d/coco/images/000139.jpg"]
    assert result_ids("/d/coco/val2017.txt", unique_stems(files)) == ({files[0]: 139}, COCO_CATEGORIES)
    assert result_ids("/d/coco/train2017.txt", unique_stems(files)) == ({files[0]: 139}, None)
    assert result_ids(["/d/coco/val2017.txt"], unique_stems(files)).categories is None
