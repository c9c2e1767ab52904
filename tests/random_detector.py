"""A detector with random weights that finds something: for comparing programs, number by number."""

import torch
from torch import Tensor

from models.yolo import DetectionModel
from utils.files import yaml_load
from utils.paths import ROOT


def random_detector(images: Tensor, classes: int) -> DetectionModel:
    """Make a narrow network whose statistics are those of the images, so that scores spread over 0 to 1.

    It has few layers, as rounding grows from layer to layer in random networks.

    Args:
        images: (B, 3, H, W) 0..1.
        classes: how many.
    """
    torch.manual_seed(0)
    table = yaml_load(ROOT / "models/hub/yolov3-tiny.yaml") | {"width_multiple": 0.25, "nc": classes}
    model = DetectionModel(table, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
        raw = model.eval()(images)[1]  # one (B, 3, H, W, 5 + classes) per stride
        for conv, numbers in zip(model.detect.m, raw, strict=True):
            std, mean = torch.std_mean(numbers, (0, 2, 3))  # (3, 5 + classes)
            spread = torch.full_like(std, 1.5)
            spread[:, :4] = 0.4  # boxes of like size, so that rounding is small beside each
            conv.weight.mul_((spread / std).view(-1, 1, 1, 1))
            conv.bias.copy_(((conv.bias.view_as(mean) - mean) * spread / std).view(-1))
            conv.bias.view_as(mean)[:, 4] -= 3  # few objects
    return model
