"""ncnn: the folder that export.py writes, convolutions only."""

import numpy as np
import pytest

ncnn = pytest.importorskip("ncnn")
pytest.importorskip("pnnx")


def test_network_equals_pytorch(exported, network_input, check_output):
    folder = exported("ncnn")
    with ncnn.Net() as net:
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.load_param(str(folder / "model.ncnn.param"))
        net.load_model(str(folder / "model.ncnn.bin"))
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(network_input[0]).clone())
            _, out = extractor.extract("out0")
            check_output(np.array(out)[None], tolerance=5e-3)
