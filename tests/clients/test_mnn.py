"""MNN: the ONNX file through its converter."""

import subprocess
import sys

import numpy as np
import pytest

from tests.waiting import HANG

pytest.importorskip("MNN")
from MNN import expr, nn


def test_network_equals_pytorch(onnx_file, network_input, check_output, tmp_path):
    file = tmp_path / "tiny.mnn"
    call = "-f ONNX --bizCode biz --modelFile".split()
    command = [sys.executable, "-m", "MNN.tools.mnnconvert", *call, str(onnx_file), "--MNNModel", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert file.is_file(), done.stdout + done.stderr
    net = nn.load_module_from_file(str(file), ["images"], ["output0"])
    x = expr.const(network_input, list(network_input.shape), expr.NCHW)
    out = expr.convert(net.onForward([x])[0], expr.NCHW)
    check_output(np.array(out.read()).reshape(out.shape), tolerance=5e-3)
