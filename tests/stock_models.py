"""Measures of YOLOv5's stock models as published (80 classes, 640 pixels), and how to count those of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

from torch import Tensor, nn

from models.yolo import DetectionModel


class Measures(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: of the model as it trains.
        fused: parameters with the normalisations folded into the convolutions.
        gflops: for one image, two operations for each multiply-add.
        gflops_fused: the same after folding.
        entries: of the state dict.
        norms: batch normalisations.
        convolutions: two-dimensional convolutions.
    """

    parameters: int
    fused: int
    gflops: float
    gflops_fused: float
    entries: int
    norms: int
    convolutions: int


PUBLISHED = {
    "yolov5n": Measures(1_872_157, 1_867_405, 4.56, 4.47, 349, 57, 60),
    "yolov5s": Measures(7_235_389, 7_225_885, 16.62, 16.43, 349, 57, 60),
    "yolov5m": Measures(21_190_557, 21_172_173, 49.23, 48.87, 481, 79, 82),
    "yolov5l": Measures(46_563_709, 46_533_693, 109.58, 108.99, 613, 101, 104),
    "yolov5x": Measures(86_749_405, 86_705_005, 206.31, 205.45, 745, 123, 126),
    "yolov5n6": Measures(3_246_940, 3_239_884, 4.65, 4.56, 459, 75, 79),
    "yolov5s6": Measures(12_626_620, 12_612_508, 16.99, 16.80, 459, 75, 79),
    "yolov5m6": Measures(35_731_932, 35_704_908, 50.28, 49.91, 627, 103, 107),
    "yolov5l6": Measures(76_770_172, 76_726_332, 111.83, 111.24, 795, 131, 135),
    "yolov5x6": Measures(140_794_780, 140_730_220, 210.45, 209.56, 963, 159, 163),
    "yolov5-p2": Measures(47_493_372, 47_461_436, 126.30, 125.55, 711, 117, 121),
    "yolov5-p34": Measures(5_331_518, 5_323_806, 15.10, 14.91, 311, 51, 53),
    "yolov5-p6": Measures(76_770_172, 76_726_332, 111.83, 111.24, 795, 131, 135),
    "yolov5-p7": Measures(144_281_723, 144_216_251, 116.47, 115.87, 977, 161, 166),
    "yolov5-bifpn": Measures(46_825_853, 46_795_837, 110.42, 109.83, 613, 101, 104),
    "yolov5-fpn": Measures(41_117_565, 41_090_877, 100.33, 99.77, 547, 90, 93),
    "yolov5-panet": Measures(46_563_709, 46_533_693, 109.58, 108.99, 613, 101, 104),
    "yolov5s-ghost": Measures(3_897_605, 3_888_789, 8.88, 8.71, 529, 87, 90),
    "yolov5s-transformer": Measures(7_235_645, 7_226_653, 16.79, 16.60, 348, 55, 58),  # attention: 0.17 of the GFLOPs
    "yolov5s-LeakyReLU": Measures(7_235_389, 7_225_885, 16.62, 16.43, 349, 57, 60),
    "yolov3": Measures(61_949_149, 61_922_845, 156.62, 155.89, 439, 72, 75),
    "yolov3-spp": Measures(62_998_749, 62_971_933, 157.46, 156.73, 445, 73, 76),
    "yolov3-tiny": Measures(8_852_366, 8_849_182, 13.28, 13.17, 71, 11, 13),
}


@contextmanager
def no_start_values() -> Iterator[None]:
    """Leave new weights as the memory was while the block runs: only their shapes are wanted."""

    def leave(tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor

    names = ("kaiming_uniform_", "trunc_normal_", "uniform_", "xavier_uniform_")
    before = {name: getattr(nn.init, name) for name in names}
    try:
        for name in names:
            setattr(nn.init, name, leave)
        yield
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


def measure(name: str) -> Measures:
    """Build the stock model `name` and count."""
    with no_start_values():
        model = DetectionModel(f"{name}.yaml", nc=80, verbose=False).to("meta").eval()
    fused = deepcopy(model).fuse()
    modules = list(model.modules())
    return Measures(
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in fused.parameters()),
        round(model.gflops(640), 2),
        round(fused.gflops(640), 2),
        len(model.state_dict()),
        sum(isinstance(module, nn.BatchNorm2d) for module in modules),
        sum(isinstance(module, nn.Conv2d) for module in modules),
    )


def differences(found: Measures, published: Measures) -> list[str]:
    """Return the names of the measures that differ, GFLOPs by more than their last digit."""
    pairs = zip(Measures._fields, found, published, strict=True)
    return [name for name, a, b in pairs if abs(a - b) > (0.011 if isinstance(b, float) else 0)]
