"""A tracker's detector: one object that holds the model, frames in, rows for the tracker out."""

import json
import sys

import cv2
import numpy as np
import torch

from models.common import DetectMultiBackend
from utils.augmentations import letterbox
from utils.general import check_img_size, non_max_suppression, scale_boxes, xyxy2xywh
from utils.torch_utils import select_device


class Detector:
    def __init__(self, weights, device="cpu", size=320, conf=0.25, iou=0.45):
        self.device = select_device(device)
        self.model = DetectMultiBackend(weights, self.device, False, None, False)
        self.stride, self.names, self.pt = int(self.model.stride), self.model.names, self.model.pt
        self.size = check_img_size((size, size), s=self.stride)
        self.conf, self.iou = conf, iou
        self.model.eval()
        self.model.warmup(imgsz=(1, 3, *self.size))

    @torch.no_grad()
    def __call__(self, frame):
        im = letterbox(frame, self.size, stride=self.stride, auto=self.pt)[0]
        im = np.ascontiguousarray(im.transpose((2, 0, 1))[::-1])
        im = torch.from_numpy(im).to(self.device)
        im = (im.half() if self.model.fp16 else im.float())[None] / 255.0
        pred = self.model(im)[0]
        det = non_max_suppression(pred, self.conf, self.iou, None, False, max_det=100)[0]
        det[:, :4] = scale_boxes(im.shape[2:], det[:, :4], frame.shape).round()
        return xyxy2xywh(det[:, 0:4]), det[:, 4], det[:, 5]


if __name__ == "__main__":
    weights, image, out = sys.argv[1:]
    detector = Detector(weights)
    xywh, confs, classes = detector(cv2.imread(image))
    rows = [
        [*box, conf, detector.names[int(c)]]
        for box, conf, c in zip(xywh.tolist(), confs.tolist(), classes, strict=True)
    ]
    with open(out, "w") as file:
        json.dump(rows, file)
