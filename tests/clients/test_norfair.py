"""norfair: its demo for YOLOv5, on an image that moves."""

import cv2
import numpy as np
import pytest

from tests.clients.conftest import SIZE

norfair = pytest.importorskip("norfair")


def yolo_detections_to_norfair_detections(yolo_detections):
    """As in norfair's demo, boxes."""
    norfair_detections = []
    for x1, y1, x2, y2, confidence, label in yolo_detections.xyxy[0].tolist():
        bbox = np.array([[x1, y1], [x2, y2]])
        scores = np.array([confidence, confidence])
        norfair_detections.append(norfair.Detection(points=bbox, scores=scores, label=int(label)))
    return norfair_detections


def test_objects_keep_their_numbers(hub_model, image, found):
    tracker = norfair.Tracker(distance_function="iou", distance_threshold=0.7, initialization_delay=1)
    pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    seen = []
    for _ in range(4):
        detections = yolo_detections_to_norfair_detections(hub_model(pixels, size=max(SIZE)))
        tracked = tracker.update(detections=detections)
        seen.append({obj.id: (obj.label, obj.estimate.ravel()) for obj in tracked})
    assert seen[1].keys() == seen[2].keys() == seen[3].keys()
    large = found[(found[:, 2:4] - found[:, :2]).min(1) > 2]
    assert len(seen[-1]) >= len(large) >= 3
    for row in large:
        assert any(label == row[5] and np.abs(box - row[:4]).max() < 1 for label, box in seen[-1].values())
