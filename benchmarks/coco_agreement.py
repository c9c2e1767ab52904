"""Compare the mAP of val.py with that of pycocotools on the same detections.

    python -m benchmarks.coco_agreement --weights runs/train/exp/weights/best.pt --data my.yaml --img 320

Needs `pip install pycocotools`. The two differ by rule: val.py takes the area under the precision curve by trapezoids
over 101 recalls, COCO the mean of the 101 values; val.py lets a label go to the most confident detection that prefers
it, COCO goes through the detections and takes the best label left; COCO keeps 100 detections an image by default.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import val
from utils.console import LOGGER, cli_errors
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.output_names import image_ids


def ground_truth(data: dict[str, Any]) -> dict[str, Any]:
    """Write the labels of the val split as a COCO mapping; images are numbered from 1."""
    _, dataset = create_dataloader(data["val"], 640, 1, 32, nc=data["nc"], workers=0)
    images, annotations = [], []
    ids = image_ids(dataset.im_files)
    for file, (width, height), labels in zip(dataset.im_files, dataset.shapes, dataset.labels, strict=True):
        number = len(images) + 1
        images.append({"id": number, "result": ids[file], "width": int(width), "height": int(height)})
        for cls, x, y, w, h in np.asarray(labels, np.float64):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": int(cls), "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": index, "name": name} for index, name in data["names"].items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_map(truth: dict[str, Any], detections: list[dict[str, Any]], max_det: int) -> tuple[float, float]:
    """Return pycocotools' mAP50 and mAP50-95."""
    try:
        from pycocotools.coco import COCO  # noqa: PLC0415, optional
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("this comparison needs pycocotools: pip install pycocotools") from error
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.params.maxDets = [1, 10, max_det]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # (thresholds, recalls, classes)
    return float(precision[0][precision[0] > -1].mean()), float(precision[precision > -1].mean())


def main() -> None:
    """Run the validation once and score its detections both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", "--img", type=int, default=640)
    opt = parser.parse_args()
    data = check_dataset(opt.data)
    truth = ground_truth(data)
    with tempfile.TemporaryDirectory() as folder:
        results, _, _ = val.run(
            opt.data, weights=opt.weights, imgsz=opt.imgsz, save_json=True, plots=False, project=folder, workers=0
        )
        detections = json.loads(next(Path(folder).rglob("*_predictions.json")).read_text())
    numbers = {image["result"]: image["id"] for image in truth["images"]}
    for detection in detections:
        detection["image_id"] = numbers[detection["image_id"]]
    for max_det in (100, 300):
        ap50, ap = coco_map(truth, detections, max_det)
        LOGGER.info(
            f"maxDets {max_det}: mAP50 {results[2]:.4f} here, {ap50:.4f} pycocotools ({results[2] - ap50:+.4f}); "
            f"mAP50-95 {results[3]:.4f} here, {ap:.4f} pycocotools ({results[3] - ap:+.4f})"
        )


if __name__ == "__main__":
    with cli_errors():
        main()
