"""Dataset folders as labelling programs write them, by their own writers where these can be installed.

Each is read with a dataset YAML, its own or five lines, and must give the boxes that went in.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from utils.datasets.dataset import check_dataset, load_labels

WIDTH, HEIGHT = 64, 48
NAMES = ["blood cell", "cat"]
SCENE = {  # split -> image -> boxes (class, left, top, right, bottom)
    "train": {"a": [(0, 4, 6, 20, 30), (1, 30, 10, 60, 40)], "c d": [(1, 8, 8, 16, 24)]},
    "val": {"b": [(0, 2, 2, 32, 46)], "empty": []},
}


def expected(split):
    """Image -> rows (M, 5) `[class, xywhn]`."""
    rows = {}
    for name, boxes in SCENE[split].items():
        cls, x1, y1, x2, y2 = np.array(boxes, float).reshape(-1, 5).T
        sides = [(x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
        rows[name] = np.column_stack((cls, *sides))
    return rows


def draw(folder, split):
    """Write the images of a split; their files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.png" for name in SCENE[split]}
    for file in files.values():
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(file)
    return files


def check(data, splits=("train", "val"), pixels=1e-3):
    """Read a dataset (YAML file or its content) and compare it with the scene."""
    found = check_dataset(data)
    order = [NAMES.index(found["names"][i]) for i in range(len(NAMES))]
    for split in splits:
        labels = load_labels(found[split], nc=found["nc"])
        assert labels.messages == []
        wanted = expected(split)
        assert sorted(Path(file).stem for file in labels.im_files) == sorted(wanted)
        for file, rows in zip(labels.im_files, labels.labels, strict=True):
            rows = rows[:, :5].astype(float)
            rows[:, 0] = [order[int(cls)] for cls in rows[:, 0]]
            rows = rows[np.lexsort(rows.T[::-1])]
            np.testing.assert_allclose(rows, wanted[Path(file).stem], atol=pixels / HEIGHT)


def coco(images, categories):
    """A COCO file of these (id, file name, boxes) with category numbers by class name."""
    entries = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name, _ in images]
    annotations = []
    for i, _, boxes in images:
        for cls, x1, y1, x2, y2 in boxes:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": [], "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": i, "category_id": categories[NAMES[cls]], **box})
    kinds = [{"id": i, "name": name, "supercategory": "cells"} for name, i in categories.items()]
    return json.dumps({"images": entries, "categories": kinds, "annotations": annotations})


def write_yolo(folder, split):
    """Label files of YOLO text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in expected(split).items():
        (folder / f"{name}.txt").write_text(
            "".join(f"{row[0]:.0f} {row[1]} {row[2]} {row[3]} {row[4]}\n" for row in rows)
        )


# Roboflow: train, valid, test ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("up", ["../", ""])
def test_roboflow_yolov5(up, tmp_path, monkeypatch):
    for split, folder in (("train", "train"), ("val", "valid")):
        draw(tmp_path / folder / "images", split)
        write_yolo(tmp_path / folder / "labels", split)
    (tmp_path / "README.roboflow.txt").write_text("cells - v1\n")
    notes = {"workspace": "w", "project": "cells", "version": 1, "license": "CC BY 4.0", "url": "https://example.org"}
    splits = {"train": f"{up}train/images", "val": f"{up}valid/images", "test": f"{up}test/images"}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**splits, "nc": 2, "names": NAMES, "roboflow": notes}))
    check(tmp_path / "data.yaml")


def test_roboflow_coco(tmp_path):
    for split, folder in (("train", "train"), ("val", "valid")):
        draw(tmp_path / folder, split)
        images = [(i, f"{name}.png", boxes) for i, (name, boxes) in enumerate(SCENE[split].items())]
        content = coco(images, {"cells": 0, NAMES[0]: 1, NAMES[1]: 2})  # its own name for all as class 0
        (tmp_path / folder / "_annotations.coco.json").write_text(content)
    files = {"train": "train/_annotations.coco.json", "val": "valid/_annotations.coco.json"}
    data = {"path": str(tmp_path), "train": "train", "val": "valid", "names": NAMES}
    check(data | {"format": "coco", "annotations": files})


def test_roboflow_voc(tmp_path):
    """XML files beside the images."""
    objects = (
        "<object><name>{}</name><bndbox><xmin>{}</xmin><xmax>{}</xmax><ymin>{}</ymin><ymax>{}</ymax></bndbox></object>"
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    for split, folder in (("train", "train"), ("val", "valid")):
        draw(tmp_path / folder, split)
        for name, boxes in SCENE[split].items():
            inside = "".join(objects.format(NAMES[cls], x1, x2, y1, y2) for cls, x1, y1, x2, y2 in boxes)
            text = f"<annotation><folder></folder><filename>{name}.png</filename>{size}{inside}</annotation>"
            (tmp_path / folder / f"{name}.xml").write_text(text)
    check({"path": str(tmp_path), "train": "train", "val": "valid", "names": NAMES, "format": "voc"})


# FiftyOne -----------------------------------------------------------------------------------------------------------
def test_fiftyone_yolov5(tmp_path):
    for split in SCENE:
        draw(tmp_path / "images" / split, split)
        write_yolo(tmp_path / "labels" / split, split)
    content = {
        "names": dict(enumerate(NAMES)),
        "path": str(tmp_path),
        "train": "./images/train/",
        "val": "./images/val/",
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(content))
    check(tmp_path / "dataset.yaml")


# CVAT: written by Datumaro, of which it is made ---------------------------------------------------------------------
@pytest.fixture
def cvat(tmp_path):
    """Function (format) -> folder of an export."""
    dm = pytest.importorskip("datumaro")
    from datumaro.components.media import Image as Media

    items = []
    for split in SCENE:
        for name, file in draw(tmp_path / "drawn", split).items():
            boxes = [dm.Bbox(x1, y1, x2 - x1, y2 - y1, label=cls) for cls, x1, y1, x2, y2 in SCENE[split][name]]
            media = Media.from_file(path=str(file))
            items.append(dm.DatasetItem(id=name, subset=split, media=media, annotations=boxes))

    def write(form):
        folder = tmp_path / form / "data"
        dm.Dataset.from_iterable(items, categories=NAMES).export(str(folder), form, save_media=True)
        return folder

    return write


def test_cvat_yolo(cvat):
    """YOLO 1.1: images and labels in one folder, and lists whose lines begin with data/."""
    folder = cvat("yolo")
    names = (folder / "obj.names").read_text().splitlines()
    check({"path": str(folder), "train": "obj_train_data", "val": "obj_val_data", "names": names})
    check({"path": str(folder), "train": "train.txt", "val": "val.txt", "names": names})


def test_cvat_ultralytics_yolo(cvat):
    folder = cvat("yolo_ultralytics")
    check(folder / "data.yaml")


def test_cvat_coco(cvat):
    folder = cvat("coco_instances")
    files = {split: f"annotations/instances_{split}.json" for split in SCENE}
    data = {"path": str(folder), "train": "images/train", "val": "images/val", "names": NAMES}
    check(data | {"format": "coco", "annotations": files})


def test_cvat_voc(cvat):
    folder = cvat("voc_detection")
    data = {"path": str(folder), "train": "ImageSets/Main/train.txt", "val": "ImageSets/Main/val.txt", "names": NAMES}
    check(data | {"format": "voc"})


# Label Studio: its converter ----------------------------------------------------------------------------------------
@pytest.fixture
def label_studio(tmp_path):
    """Function (word, split) -> folder of an export, with its images."""
    converter = pytest.importorskip("label_studio_sdk.converter")
    labels = "".join(f'<Label value="{name}"/>' for name in NAMES)
    config = f'<RectangleLabels name="label" toName="image">{labels}</RectangleLabels>'
    config = f'<View><Image name="image" value="$image"/>{config}</View>'

    def write(word, split):
        tasks = []
        for i, (name, file) in enumerate(draw(tmp_path / "drawn", split).items()):
            results = [
                {
                    "id": f"r{k}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
                    "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
                    "value": {
                        "x": x1 / WIDTH * 100, "y": y1 / HEIGHT * 100, "width": (x2 - x1) / WIDTH * 100,
                        "height": (y2 - y1) / HEIGHT * 100, "rotation": 0, "rectanglelabels": [NAMES[cls]],
                    },
                }
                for k, (cls, x1, y1, x2, y2) in enumerate(SCENE[split][name])
            ]  # fmt: skip
            annotation = {"id": i, "completed_by": 1, "was_cancelled": False, "result": results}
            tasks.append({"id": i, "data": {"image": str(file)}, "annotations": [annotation]})
        (tmp_path / "tasks.json").write_text(json.dumps(tasks))
        made = converter.Converter(config, str(tmp_path), download_resources=False)
        folder = tmp_path / word / split
        getattr(made, f"convert_to_{word}")(str(tmp_path / "tasks.json"), str(folder), is_dir=False)
        for name in SCENE[split]:
            (folder / "images").mkdir(exist_ok=True)
            shutil.copy(tmp_path / f"drawn/{name}.png", folder / "images")
        return folder

    return write


def test_label_studio_yolo(label_studio):
    for split in SCENE:
        folder = label_studio("yolo", split)
        names = (folder / "classes.txt").read_text().splitlines()
    data = {"path": str(folder.parent), "train": "train/images", "val": "val/images", "names": names}
    check(data)


def test_label_studio_coco(label_studio):
    for split in SCENE:
        folder = label_studio("coco", split)
    files = {split: f"{split}/result.json" for split in SCENE}
    data = {"path": str(folder.parent), "train": "train/images", "val": "val/images", "names": NAMES}
    check(data | {"format": "coco", "annotations": files})


def test_label_studio_voc(label_studio):
    for split in SCENE:
        folder = label_studio("voc", split)
    data = {"path": str(folder.parent), "train": "train/images", "val": "val/images", "names": NAMES, "format": "voc"}
    check(data, pixels=2)  # it cuts off decimals


# LabelImg: its writers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_labelimg(form, tmp_path):
    """Label files beside the images."""
    pytest.importorskip("labelImg")
    from libs.pascal_voc_io import PascalVocWriter
    from libs.yolo_io import YOLOWriter

    classes = list(NAMES)
    for split in SCENE:
        for name, file in draw(tmp_path / split, split).items():
            make = YOLOWriter if form == "yolo" else PascalVocWriter
            writer = make(split, file.name, (HEIGHT, WIDTH, 3), local_img_path=str(file))
            for cls, x1, y1, x2, y2 in SCENE[split][name]:
                writer.add_bnd_box(x1, y1, x2, y2, NAMES[cls], 0)
            target = tmp_path / split / f"{name}.{'txt' if form == 'yolo' else 'xml'}"
            writer.save(**({"class_list": classes} if form == "yolo" else {}), **{key_of(writer.save): str(target)})
    if form == "yolo":
        assert (tmp_path / "train/classes.txt").read_text().splitlines() == NAMES
    check({"path": str(tmp_path), "train": "train", "val": "val", "names": NAMES, "format": form})


def key_of(save):
    """Name of the last argument of a writer's method, the file."""
    return save.__code__.co_varnames[save.__code__.co_argcount - 1]


# supervision --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["yolo", "coco", "voc"])
def test_supervision(form, tmp_path):
    sv = pytest.importorskip("supervision")
    for split in SCENE:
        files = draw(tmp_path / "drawn", split)
        annotations = {}
        for name, file in files.items():
            rows = np.array(SCENE[split][name], float).reshape(-1, 5)
            annotations[str(file)] = sv.Detections(xyxy=rows[:, 1:], class_id=rows[:, 0].astype(int))
        dataset = sv.DetectionDataset(classes=NAMES, images=list(annotations), annotations=annotations)
        images, root = str(tmp_path / f"images/{split}"), tmp_path
        if form == "yolo":
            dataset.as_yolo(images, str(root / f"labels/{split}"), str(root / f"{split}.yaml"))
        elif form == "coco":
            dataset.as_coco(images, str(root / f"{split}.json"))
        else:
            dataset.as_pascal_voc(images, str(root / f"annotations/{split}"))
    data = {"path": str(tmp_path), "train": "images/train", "val": "images/val", "names": NAMES, "format": form}
    more = {"coco": {"annotations": {s: f"{s}.json" for s in SCENE}}, "voc": {"first_pixel": 1}}
    check(data | more.get(form, {}))
