"""Results of val.py read by pycocotools, which finds the same average precision."""

import json

import cv2
import numpy as np
import pytest
import torch

from tests.oracle import make_loader, perfect_answers, run_oracle
from utils.datasets.dataset import check_dataset


def test_pycocotools_reads_the_results_and_agrees(tmp_path):
    """A dataset with labels in the format of COCO, whose ids are neither file names nor class numbers."""
    pycocotools = pytest.importorskip("pycocotools.cocoeval")
    from pycocotools.coco import COCO  # noqa: PLC0415, optional

    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(5)
    images, annotations = [], []
    for i in range(40):
        height, width = (int(side) for side in rng.integers(80, 160, 2))
        cv2.imwrite(str(tmp_path / f"images/{i:03d}.png"), np.full((height, width, 3), 90, np.uint8))
        images.append({"id": 900 - i, "file_name": f"{i:03d}.png", "height": height, "width": width})
        for k in range(12):
            x, y = (k % 4) * width / 4, (k // 4) * height / 3
            box = [x + 2, y + 2, width / 5, height / 4]
            annotations.append(
                {"id": 12 * i + k + 1, "image_id": 900 - i, "category_id": (7, 3, 12)[k % 3], "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    names = {3: "b", 7: "a", 12: "c"}
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in names.items()],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    content = {
        "path": str(tmp_path), "train": "images", "val": "images", "format": "coco",
        "annotations": {"train": "truth.json", "val": "truth.json"}, "names": ["a", "b", "c"],
    }  # fmt: skip
    data = check_dataset(content)
    loader = make_loader(data)
    answers = perfect_answers(loader)
    for batch in answers:
        for i, exact in enumerate(batch):
            rows = exact.clone()
            rows[:, 4] = torch.from_numpy(rng.uniform(0.1, 0.9, len(rows)))
            rows[:, :4] += torch.from_numpy(rng.normal(0, 1.5, (len(rows), 4))).float()
            rows[torch.from_numpy(rng.random(len(rows)) < 0.2), 5] = 0  # of a wrong class
            exact[:, 4] = 0.05  # every label is found in the end, so that both rules see the whole curve
            batch[i] = torch.cat((rows, exact))
    (metrics, _, _), _ = run_oracle(data, loader, answers, save_json=True, save_dir=tmp_path)

    coco = COCO(str(tmp_path / "truth.json"))
    evaluation = pycocotools.COCOeval(coco, coco.loadRes(str(tmp_path / "predictions.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    # The area by trapezoids between 101 recalls is not quite COCO's mean of the precisions at these.
    assert metrics[2] == pytest.approx(evaluation.stats[1], abs=5e-3)
    assert 0.5 < metrics[2] < 0.95
