"""The twelve numbers of COCO, by the package faster-coco-eval, an equal of pycocotools."""

import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from utils.boxes import xywhn2xyxy, xyxy2xywh
from utils.console import LOGGER
from utils.datasets.coco import CocoReader
from utils.datasets.reader import Split
from utils.files import open_regular
from utils.metrics import Rows

NUMBERS = {
    "AP_all": "AP", "AP_50": "AP50", "AP_75": "AP75", "AP_small": "AP small", "AP_medium": "AP medium",
    "AP_large": "AP large", "AR_all": "AR1", "AR_second": "AR10", "AR_third": "AR100", "AR_small": "AR small",
    "AR_medium": "AR medium", "AR_large": "AR large",
}  # fmt: skip


def load_package() -> ModuleType:
    """Import faster_coco_eval; ValueError with the line that installs it if it is missing."""
    try:
        import faster_coco_eval  # noqa: PLC0415, optional
    except ImportError as error:
        raise ValueError(f"--coco needs a package that is missing ({error}): pip install faster-coco-eval") from None
    return faster_coco_eval


class CocoNumbers:
    """Score the detections of AP by the rules of COCO: 100 boxes an image, areas in pixels of the image.

    The labels are those of the dataset; with `format: coco` the annotation files, with their areas and crowd regions.

    Args:
        dataset: a `LoadImagesAndLabels`, whose images will come.
        source: of the split in the dataset, as `check_dataset` gives it.
        names: class names by index.
    """

    def __init__(self, dataset: Any, source: str | Sequence[str] | Split, names: Mapping[int, str]) -> None:
        self._package = load_package()
        self.numbers: dict[str, float | None] = {}
        self._images = {path: i for i, path in enumerate(dataset.im_files)}
        self._rows = Rows()
        if isinstance(source, Split) and source.format == "coco" and len(names) == source.classes:
            truth = _annotations(source, self._images)
        else:
            truth = _labels(dataset.labels, dataset.shapes)
        self._truth = {
            "images": [{"id": i} for i in self._images.values()],
            "annotations": [{"id": i, **entry} for i, entry in enumerate(truth, 1)],
            "categories": [{"id": c, "name": name} for c, name in names.items()],
        }

    def add(self, detections: Tensor, path: str, shape: tuple[int, int]) -> None:  # noqa: ARG002, as other files
        """Take the detections of one image, (D, 6) `[xyxy_img, confidence, class]`."""
        ltwh = xyxy2xywh(detections[:, :4].double().numpy())
        ltwh[:, :2] -= ltwh[:, 2:] / 2
        image = np.full((len(ltwh), 1), self._images[path])
        self._rows.add(np.concatenate((image, ltwh, detections[:, 4:].double().numpy()), 1))

    def close(self) -> None:
        """Compute the numbers, log them and keep them as `numbers`; None where there is no such label."""
        truth = self._package.COCO(self._truth)
        judge = self._package.COCOeval_faster(
            truth, truth.loadRes(self._rows.columns()[0]), "bbox", print_function=lambda *_: None
        )
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        stats = judge.stats_as_dict
        for key, text in NUMBERS.items():
            self.numbers[text] = None if stats[key] == -1 else round(float(stats[key]), 5)
        texts = [f"{text} {'-' if value is None else f'{value:.3f}'}" for text, value in self.numbers.items()]
        for half in (texts[:6], texts[6:]):
            LOGGER.info(f"COCO: {', '.join(half)}")


def _labels(labels: Sequence[np.ndarray], sizes: np.ndarray) -> list[dict[str, Any]]:
    """Return entries of annotations.

    Args:
        labels: (M, 5) `[class, xywhn]` of each image.
        sizes: (I, 2) width and height of each image in pixels.
    """
    entries = []
    for i, (rows, (width, height)) in enumerate(zip(labels, sizes.tolist(), strict=True)):
        boxes = xywhn2xyxy(rows[:, 1:].astype(np.float64), width, height)
        boxes[:, 2:] -= boxes[:, :2]
        entries += [_entry(i, int(c), box, box[2] * box[3]) for c, box in zip(rows[:, 0], boxes.tolist(), strict=True)]
    return entries


def _annotations(split: Split, images: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the entries of the annotation files of a split for some images, in our numbers of images and classes."""
    reader = CocoReader(split, list(images), None)
    reader.start()
    ids, _ = reader.result_ids()
    image_of = {ids[path]: i for path, i in images.items()}
    class_of = {category: reader.classes[name] for category, name in reader.categories if name in reader.classes}
    if split.selection:
        class_of = {category: c for category, old in class_of.items() if (c := split.selection.targets[old]) >= 0}
    entries = []
    for file in split.annotations:
        with open_regular(file) as opened:
            content = json.load(opened)  # the dataset has read it without an error
        for a in content["annotations"]:
            if a.get("image_id") in image_of and a.get("category_id") in class_of and a.get("bbox"):
                box = list(map(float, a["bbox"]))
                area, crowd = float(a.get("area", box[2] * box[3])), int(bool(a.get("iscrowd")))
                entries.append(_entry(image_of[a["image_id"]], class_of[a["category_id"]], box, area, crowd))
    return entries


def _entry(image: int, cls: int, ltwh: list[float], area: float, crowd: int = 0) -> dict[str, Any]:
    """Return an annotation without its id."""
    return {"image_id": image, "category_id": cls, "bbox": ltwh, "area": area, "iscrowd": crowd}
