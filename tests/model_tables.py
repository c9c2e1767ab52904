"""Small models for tests of the YAML grammar."""

from models.yolo import DetectionModel


def table(*rows, **keys):
    """A model of a stem of 16 channels, the given rows, and a head that reads the last of them."""
    backbone = [[-1, 1, "Conv", [16, 3, 2]], *rows]
    base = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]]}
    head = [[[len(backbone) - 1], 1, "Detect", ["nc", "anchors"]]]
    return base | {"backbone": backbone, "head": head} | keys


def build(*rows, **keys):
    """The model of `table`."""
    return DetectionModel(table(*rows, **keys), verbose=False)
