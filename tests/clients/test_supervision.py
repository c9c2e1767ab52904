"""supervision: detections of the hub model, and a dataset that it writes."""

import numpy as np
import pytest

from tests.clients.conftest import SIZE
from tests.same_boxes import assert_same

sv = pytest.importorskip("supervision")


def rows(detections):
    return np.column_stack((detections.xyxy, detections.confidence, detections.class_id))


def test_from_yolov5(hub_model, image, found):
    detections = sv.Detections.from_yolov5(hub_model(image, size=max(SIZE)))
    assert_same(rows(detections), found, pixels=0.05)


def test_polygon_zone_and_annotator(hub_model, image, found):
    """The left half of the image as a zone: boxes whose lower middle lies in it."""
    results = hub_model(image, size=max(SIZE))
    detections = sv.Detections.from_yolov5(results)
    half = np.array([[0, 0], [SIZE[1] // 2, 0], [SIZE[1] // 2, SIZE[0]], [0, SIZE[0]]])
    inside = sv.PolygonZone(polygon=half).trigger(detections)
    middle = (detections.xyxy[:, 0] + detections.xyxy[:, 2]) / 2
    clear = np.abs(middle - SIZE[1] / 2) > 2
    assert (inside == (middle < SIZE[1] / 2))[clear & (detections.xyxy[:, 3] < SIZE[0] - 1)].all()
    drawn = sv.BoxAnnotator().annotate(results.ims[0].copy(), detections)
    assert (drawn != results.ims[0]).any()
