"""Converters of public datasets, each on two drawn images in the form of the original, and the dataset files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.datasets import converters
from utils.datasets.converters import CONVERTERS, XVIEW_TYPES, main
from utils.datasets.dataset import READERS, check_dataset, check_names, load_labels
from utils.files import yaml_load

DATA = Path(__file__).resolve().parents[3] / "data"
FILES = sorted(file.name for file in DATA.glob("*.yaml"))


def draw(file, size=(40, 20)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(file)


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def visdrone(src):
    for folder in converters.VISDRONE_SPLITS.values():
        draw(src / folder / "images" / "a.jpg")
        lines = ["10,5,20,10,1,4,0,0", "0,0,4,4,0,0,0,0", "0,0,4,4,1,11,0,0", "30,10,20,5,1,10,0,1,"]
        write(src / folder / "annotations" / "a.txt", "\n".join(lines))
    return {f"{split}/a": ["3 0.500000 0.500000 0.500000 0.500000", "9 0.875000 0.625000 0.250000 0.250000"]
            for split in ("train", "val", "test")}  # fmt: skip


def sku110k(src):
    for split in ("train", "val", "test"):
        draw(src / "images" / f"{split}_0.jpg")
        write(src / "annotations" / f"annotations_{split}.csv", f"{split}_0.jpg,10,5,30,15,object,40,20\n")
    return {f"{split}/{split}_0": ["0 0.500000 0.500000 0.500000 0.500000"] for split in ("train", "val", "test")}


def globalwheat(src):
    head = "image_id,width,height,bbox,source\n"
    rows = (
        'a,40,20,"[10.0, 5.0, 20.0, 10.0]",ethz_1\nb,40,20,"[0, 0, 40, 10]",usask_1\nb,40,20,"[0, 0, 0, 10]",usask_1\n'
    )
    write(src / "train.csv", head + rows)
    draw(src / "train" / "a.jpg")
    draw(src / "train" / "b.jpg")
    return {
        "ethz_1/a": ["0 0.500000 0.500000 0.500000 0.500000"],
        "usask_1/b": ["0 0.500000 0.250000 1.000000 0.500000"],
    }


def argoverse(src):
    for split in ("train", "val"):
        content = {
            "seq_dirs": ["none", f"{split}1/0a1b/ring_front_center"],
            "images": [{"id": 4, "sid": 1, "name": "x_1.jpg", "width": 40, "height": 20}],
            "annotations": [{"image_id": 4, "category_id": 5, "bbox": [10, 5, 20, 10]}],
        }
        write(src / "Argoverse-HD" / "annotations" / f"{split}.json", content)
        draw(src / "Argoverse-1.1" / "tracking" / f"{split}1" / "0a1b" / "ring_front_center" / "x_1.jpg")
    return {f"{split}/0a1b/x_1": ["5 0.500000 0.500000 0.500000 0.500000"] for split in ("train", "val")}


def objects365(src):
    for split in ("train", "val"):
        content = {
            "categories": [{"id": 1, "name": "person"}, {"id": 365, "name": "Table Tennis "}],
            "images": [{"id": 7, "file_name": f"images/v1/patch8/{split}_7.jpg", "width": 40, "height": 20}],
            "annotations": [
                {"image_id": 7, "category_id": 365, "bbox": [10, 5, 20, 10], "iscrowd": 0},
                {"image_id": 7, "category_id": 1, "bbox": [0, 0, 20, 10], "iscrowd": 1},
            ],
        }
        write(src / f"zhiyuan_objv2_{split}.json", content)
        draw(src / "images" / split / "patch8" / f"{split}_7.jpg")
    return {f"{split}/{split}_7": ["364 0.500000 0.500000 0.500000 0.500000"] for split in ("train", "val")}


def xview(src):
    values = [("0.tif", 18, "10,5,30,15"), ("0.tif", 75, "0,0,9,9"), ("9.tif", 94, "-10,0,20,20")]
    features = [
        {"properties": {"image_id": image, "type_id": kind, "bounds_imcoords": box}} for image, kind, box in values
    ]
    write(src / "xView_train.geojson", {"features": features})
    for i in range(10):
        draw(src / "train_images" / f"{i}.tif")
    expected = {f"train/{i}": [] for i in range(1, 9)}
    return expected | {
        "train/0": ["5 0.500000 0.500000 0.500000 0.500000"],
        "val/9": ["59 0.250000 0.500000 0.500000 1.000000"],  # clipped to the image
    }


MAKERS = {f.__name__: f for f in (argoverse, globalwheat, objects365, sku110k, visdrone, xview)}


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_in_the_original_form(tmp_path, name):
    expected = MAKERS[name](tmp_path / "src")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "src").rglob("*")}
    for _ in range(2):  # again over what is there
        main([name, str(tmp_path / "src"), str(tmp_path / "dst")])
    labels = tmp_path / "dst" / "labels"
    found = {str(f.relative_to(labels).with_suffix("")): f.read_text().splitlines() for f in labels.rglob("*.txt")}
    assert found == expected
    images = tmp_path / "dst" / "images"
    assert {str(file.relative_to(images).with_suffix("")) for file in images.rglob("*.*")} == set(expected)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "src").rglob("*")} == before


@pytest.mark.parametrize("name", MAKERS)
def test_the_data_set_file_reads_what_the_converter_wrote(tmp_path, name):
    (file,) = (f for f in FILES if yaml_load(DATA / f).get("converter") == name)
    MAKERS[name](tmp_path / "src")
    main([name, str(tmp_path / "src"), str(tmp_path / "dst")])
    data = check_dataset(yaml_load(DATA / file) | {"path": str(tmp_path / "dst")})
    found = load_labels(data["val"], nc=data["nc"])
    assert (found.counts["missing"], len(found.messages)) == (0, 0)
    assert sum(map(len, found.labels)) > 0


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    globalwheat(tmp_path / "src")
    table = tmp_path / "src/train.csv"
    table.write_text(table.read_text().replace("usask_1", "../../.."))
    with pytest.raises(ValueError, match=r"\.\./\.\./\.\./b: the path of this image leads out of"):
        main(["globalwheat", str(tmp_path / "src"), str(tmp_path / "dst")])
    assert not (tmp_path.parent / "b.txt").exists()


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_wrong_source_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"not found; SRC should be"):
        main([name, str(tmp_path / "none"), str(tmp_path / "dst")])
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("visdrone", "VisDrone2019-DET-train/annotations/a.txt", "1,2,3", "expected 8 columns, found '1,2,3'"),
        ("visdrone", "VisDrone2019-DET-train/annotations/a.txt", "a,b", "expected numbers, found 'a,b'"),
        ("sku110k", "annotations/annotations_train.csv", "a,1,2", "expected 8 columns, found 'a,1,2'"),
        ("globalwheat", "train.csv", "image_id,width\na,1", "not in the format of globalwheat"),
        ("argoverse", "Argoverse-HD/annotations/train.json", "{}", "not in the format of argoverse"),
        ("xview", "xView_train.geojson", "[", "not in the format of xview"),
    ],
)
def test_damaged_sources(tmp_path, name, file, content, message):
    MAKERS[name](tmp_path / "src")
    write(tmp_path / "src" / file, content)
    with pytest.raises(ValueError, match=message):
        main([name, str(tmp_path / "src"), str(tmp_path / "dst")])


def test_a_source_without_images(tmp_path):
    write(tmp_path / "src" / "xView_train.geojson", {"features": []})
    with pytest.raises(ValueError, match="dst: no images found to convert"):
        main(["xview", str(tmp_path / "src"), str(tmp_path / "dst")])


def test_an_image_that_is_missing_is_named(tmp_path):
    sku110k(tmp_path / "src")
    (tmp_path / "src" / "images" / "val_0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_0\.jpg: no such image"):
        main(["sku110k", str(tmp_path / "src"), str(tmp_path / "dst")])


def test_images_are_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(converters.os, "link", fail)
    sku110k(tmp_path / "src")
    main(["sku110k", str(tmp_path / "src"), str(tmp_path / "dst")])
    copy = tmp_path / "dst" / "images" / "val" / "val_0.jpg"
    assert copy.read_bytes() == (tmp_path / "src" / "images" / "val_0.jpg").read_bytes()


# Dataset files -------------------------------------------------------------------------------------------------------
CLASSES = {
    "Argoverse.yaml": (8, "person", "stop_sign"),
    "BCCD.yaml": (3, "RBC", "Platelets"),
    "Objects365.yaml": (365, "Person", "Table Tennis"),
    "GlobalWheat2020.yaml": (1, "wheat_head", "wheat_head"),
    "SKU-110K.yaml": (1, "object", "object"),
    "VOC.yaml": (20, "aeroplane", "tvmonitor"),
    "VisDrone.yaml": (10, "pedestrian", "motor"),
    "coco-json.yaml": (80, "person", "toothbrush"),
    "coco.yaml": (80, "person", "toothbrush"),
    "coco128.yaml": (80, "person", "toothbrush"),
    "xView.yaml": (60, "Fixed-wing Aircraft", "Tower"),
}


@pytest.mark.parametrize("file", [file for file in FILES if file != "demo.yaml"])
def test_data_set_files(file):
    content = yaml_load(DATA / file)
    names = check_names(content["names"], file)
    assert (len(names), names[0], names[len(names) - 1]) == CLASSES[file]
    assert len(set(names.values())) == len(names)
    assert content.get("format", "yolo") in READERS
    assert content.get("converter") in (None, *CONVERTERS)
    addresses = content["download"] if isinstance(content["download"], list) else [content["download"]]
    assert all(address.startswith("http") and len(address.split()) == 1 for address in addresses)
    allowed = {"path", "train", "val", "test", "names", "format", "annotations", "first_pixel", "download", "converter"}
    assert set(content) <= allowed
    with pytest.raises(FileNotFoundError, match="which is never run") as error:
        check_dataset(content | {"path": "no-such-folder"})
    assert (" -m utils.datasets.converters" in str(error.value)) == ("converter" in content)


def test_xview_numbers_are_in_order():
    assert len(XVIEW_TYPES) == len(set(XVIEW_TYPES)) == 60
    assert list(XVIEW_TYPES) == sorted(XVIEW_TYPES)
    assert not {75, 82} & set(XVIEW_TYPES)
    names = yaml_load(DATA / "xView.yaml")["names"]
    by_type = {kind: names[i] for i, kind in enumerate(XVIEW_TYPES)}
    known = {18: "Small Car", 73: "Building", 33: "Railway Vehicle", 40: "Maritime Vessel", 86: "Storage Tank"}
    assert {kind: by_type[kind] for kind in known} == known


def test_other_names_of_objects365_are_told(tmp_path, caplog):
    objects365(tmp_path / "src")
    file = tmp_path / "src/zhiyuan_objv2_val.json"
    write(file, json.loads(file.read_text()) | {"categories": [{"id": 2, "name": "Boots"}]})
    main(["objects365", str(tmp_path / "src"), str(tmp_path / "dst")])
    assert "zhiyuan_objv2_val.json: category 2 is 'Boots', here 'Sneakers'" in caplog.text
