import re
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "examples" / "triton" / "detector" / "config.pbtxt"


@pytest.mark.parametrize(("block", "values"), [("input", "input"), ("output", "output")])
def test_config_names_what_the_file_has(block, values, onnx_file):
    """Triton adds the batch in front, -1 stands for any number; classes are the user's."""
    import onnx  # noqa: PLC0415 - the fixture has checked that it is there

    text = re.sub("#.*", "", CONFIG.read_text(encoding="utf-8"))
    entry = re.search(rf"^{block} \[\s*\{{(.*?)\}}\s*\]", text, re.S | re.M)[1]
    dims = [int(d) for d in re.search(r"dims: \[(.*?)\]", entry)[1].split(",")]
    (value,) = getattr(onnx.load(onnx_file).graph, values)
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    assert re.search(r'name: "(\w+)"', entry)[1] == value.name
    assert re.search(r"data_type: TYPE_(\w+)", entry)[1] == "FP32"
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert len(dims) == len(shape) - 1
    free = 0 if block == "input" else 1  # the last number of the output is 5 + classes: 80 there, 3 here
    classes = 3 if free else 0
    for number, size in list(zip(dims, shape[1:], strict=True))[: len(dims) - free]:
        assert number in (-1, size)
    if free:
        assert dims[-1] == 5 + 80
        assert shape[-1] == 5 + classes
