"""Small models: for tests of the YAML grammar, and one of few layers for what is traced."""

from models.yolo import DetectionModel


def table(*rows, **keys):
    """A model of a stem of 16 channels, the given rows, and a head that reads the last of them."""
    backbone = [[-1, 1, "Conv", [16, 3, 2]], *rows]
    base = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]]}
    head = [[[len(backbone) - 1], 1, "Detect", ["nc", "anchors"]]]
    return base | {"backbone": backbone, "head": head} | keys


def few_layers(nc):
    """Convolutions alone, strides 16 and 32."""
    backbone = [[-1, 1, "Conv", [8, 3, 2]]] * 4
    head = [[-1, 1, "Conv", [16, 3, 2]], [[3, 4], 1, "Detect", ["nc", "anchors"]]]
    anchors = [[10, 13, 16, 30], [30, 61, 62, 45]]
    table = {"nc": nc, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": anchors}
    return table | {"backbone": backbone, "head": head}


def build(*rows, **keys):
    """The model of `table`."""
    return DetectionModel(table(*rows, **keys), verbose=False)
