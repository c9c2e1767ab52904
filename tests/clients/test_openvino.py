"""OpenVINO: its own reader of the ONNX file, and the folder that export.py writes."""

import pytest

from tests.clients.conftest import SIZE

ov = pytest.importorskip("openvino")


@pytest.mark.parametrize("word", ["onnx", "openvino"])
def test_network_equals_pytorch(word, onnx_file, exported, network_input, check_output):
    file = exported(word)
    model = ov.Core().read_model(file if word == "onnx" else next(file.glob("*.xml")))
    assert list(model.inputs[0].partial_shape.to_shape()) == [1, 3, *SIZE]
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    check_output(compiled(network_input)[0])
