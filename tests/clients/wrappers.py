"""How SAHI takes a ready model, and how Grad-CAM recipes find a layer and hook it."""

import sys

import cv2
import torch

from models.common import AutoShape, DetectMultiBackend

weights, image = sys.argv[1:]
im = cv2.imread(image)[..., ::-1]

# SAHI: the class decides whether the model is taken; then threshold, call, names, boxes
model = AutoShape(DetectMultiBackend(weights, torch.device("cpu")))
assert type(model).__module__ in ("models.common", "yolov5.models.common")
model.conf = 0.2
results = model(im, size=320)
assert len(list(model.names.values())) == 3
assert results.xyxy[0].shape[1] == 6
assert len(results.xyxy[0])

# Grad-CAM: the last layer before the head, on the way that the recipes go
layer = model.model.model.model[-2]
assert layer.__class__.__name__ == "C3"
assert model.model.model.model[-1].__class__.__name__ == "Detect"
kept = []
handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
out = model(torch.rand(1, 3, 64, 64))
handle.remove()
assert out.shape[2] == 8
assert kept[0].ndim == 4
