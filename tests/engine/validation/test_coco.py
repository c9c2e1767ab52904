"""val.py --coco: the numbers of COCO from labels and from annotation files."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import val
from engine.validation.coco import CocoNumbers
from utils.datasets.reader import Split

LABELS = np.array([[0, 0, 0, 20, 20], [0, 100, 0, 150, 50], [0, 200, 100, 400, 300.0]])
FOUND = torch.tensor([[0, 0, 20, 20, 0.9, 0], [100, 0, 150, 30, 0.8, 0], [450, 0, 460, 10, 0.7, 0]])
T12 = {
    "AP": 0.4347, "AP50": 0.6634, "AP75": 0.3366, "AP small": 1, "AP medium": 0.3, "AP large": 0, "AR1": 0.3333,
    "AR10": 0.4333, "AR100": 0.4333, "AR small": 1, "AR medium": 0.3, "AR large": 0,
}  # fmt: skip


def test_missing_package_is_told_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match="--coco needs a package that is missing .*: pip install faster-coco-eval"):
        val.run("no.yaml", "no.pt", coco=True)


@pytest.fixture
def dataset():
    pytest.importorskip("faster_coco_eval")
    xywhn = np.concatenate(
        (
            LABELS[:, :1],
            (LABELS[:, 1:3] + LABELS[:, 3:]) / 2 / (640, 480),
            (LABELS[:, 3:] - LABELS[:, 1:3]) / (640, 480),
        ),
        1,
    )
    return SimpleNamespace(im_files=["x/7.jpg"], labels=[xywhn.astype(np.float32)], shapes=np.array([[640, 480]]))


def numbers(dataset, source, found):
    coco = CocoNumbers(dataset, source, {0: "cell"})
    coco.add(found, "x/7.jpg", (480, 640))
    coco.close()
    return coco.numbers


def test_numbers_by_hand(dataset, caplog):
    """T12 of the facts, also by pycocotools 2.0.11."""
    caplog.set_level("INFO", logger="yolov5")
    assert numbers(dataset, "images", FOUND) == pytest.approx(T12, abs=5e-5)
    assert "COCO: AP 0.435, AP50 0.663, AP75 0.337, AP small 1.000" in caplog.text
    nothing = numbers(dataset, "images", torch.zeros(0, 6))
    assert nothing == dict.fromkeys(T12, 0)
    dataset.labels = [dataset.labels[0][:1]]
    assert numbers(dataset, "images", FOUND)["AP large"] is None


def test_annotation_file_rules_areas_and_crowds(dataset, tmp_path):
    ltwh = np.concatenate((LABELS[:, 1:3], LABELS[:, 3:] - LABELS[:, 1:3]), 1).tolist()
    area = [400, 900, 40000]  # the second is small by its outline
    objects = [
        {"id": i, "image_id": 70, "category_id": 5, "bbox": box, "area": a, "iscrowd": 0}
        for i, (box, a) in enumerate(zip(ltwh, area, strict=True), 1)
    ]
    objects.append({"id": 4, "image_id": 70, "category_id": 5, "bbox": [440, 0, 50, 50], "area": 99, "iscrowd": 1})
    objects.append({"id": 5, "image_id": 71, "category_id": 5, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0})
    truth = {
        "images": [{"id": 70, "file_name": "7.jpg", "height": 480, "width": 640},
                   {"id": 71, "file_name": "8.jpg", "height": 480, "width": 640}],
        "annotations": objects,
        "categories": [{"id": 5, "name": "cell"}],
    }  # fmt: skip
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    split = Split("x", "coco", {0: "cell"}, (str(file),))
    found = numbers(dataset, split, FOUND)
    assert found["AP"] == pytest.approx(T12["AP"], abs=5e-5)  # a box in a crowd is not false
    assert found["AP medium"] is None
    assert found["AP small"] == pytest.approx(0.5 * 1.3, abs=0.01)
