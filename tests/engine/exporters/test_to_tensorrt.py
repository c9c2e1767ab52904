"""The TensorRT exporter against stand-ins for the modules of version 10 and 11 that record the calls."""

import sys
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from engine.exporters import to_tensorrt
from engine.exporters.to_tensorrt import build_engine, export_engine, import_tensorrt, profile_shapes
from utils.model_files.engine import read_engine
from utils.options.export import ExportOptions

OPTIONS = ExportOptions(imgsz=(64, 96), batch_size=4, workspace=2.5)


def fake_tensorrt(version, engine=b"ENGINE", errors=()):
    """What the documented API of a version offers and this exporter uses; other names raise AttributeError."""
    builder, parser = MagicMock(), MagicMock(num_errors=len(errors))
    builder.build_serialized_network.return_value = engine
    parser.parse_from_file.return_value = not errors
    parser.get_error.side_effect = [SimpleNamespace(node_operator=lambda o=o: o, desc=lambda d=d: d) for o, d in errors]
    config = builder.create_builder_config.return_value
    config.get_timing_cache.return_value.serialize.return_value = b"TIMES"
    flags = {"STRONGLY_TYPED": 1} if version.startswith("10.") else {}
    return SimpleNamespace(
        __version__=version,
        Logger=MagicMock(VERBOSE="verbose", WARNING="warning"),
        Builder=MagicMock(return_value=builder),
        OnnxParser=MagicMock(return_value=parser),
        NetworkDefinitionCreationFlag=SimpleNamespace(**flags),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
    )


@pytest.mark.parametrize(("version", "flags"), [("10.1.0", 1 << 1), ("11.4.0.106", 0)])
def test_network_is_strongly_typed(tmp_path, version, flags):
    trt = fake_tensorrt(version)
    assert build_engine(trt, tmp_path / "a.onnx", OPTIONS, 32, 3) == b"ENGINE"
    builder = trt.Builder.return_value
    builder.create_network.assert_called_once_with(flags)
    config = builder.create_builder_config.return_value
    config.set_memory_pool_limit.assert_called_once_with("workspace", int(2.5 * 2**30))
    config.set_flag.assert_not_called()  # float16 and int8 are in the graph
    builder.create_optimization_profile.assert_not_called()
    trt.OnnxParser.return_value.parse_from_file.assert_called_once_with(str(tmp_path / "a.onnx"))


def test_dynamic_profile(tmp_path):
    trt = fake_tensorrt("11.4.0")
    build_engine(trt, tmp_path / "a.onnx", replace(OPTIONS, dynamic=True), 32, 3)
    builder = trt.Builder.return_value
    profile = builder.create_optimization_profile.return_value
    profile.set_shape.assert_called_once_with("images", (1, 3, 32, 32), (2, 3, 64, 96), (4, 3, 96, 96))
    builder.create_builder_config.return_value.add_optimization_profile.assert_called_once_with(profile)
    assert profile_shapes(replace(OPTIONS, batch_size=1), 32, 3)[1] == (1, 3, 64, 96)


def test_timing_cache_is_read_and_written(tmp_path):
    trt = fake_tensorrt("10.7.0")
    config = trt.Builder.return_value.create_builder_config.return_value
    options = replace(OPTIONS, cache=str(tmp_path / "times"))
    build_engine(trt, tmp_path / "a.onnx", options, 32, 3)
    config.create_timing_cache.assert_called_with(b"")
    assert (tmp_path / "times").read_bytes() == b"TIMES"
    build_engine(trt, tmp_path / "a.onnx", options, 32, 3)
    config.create_timing_cache.assert_called_with(b"TIMES")
    config.set_timing_cache.return_value = False
    with pytest.raises(ValueError, match="times: this timing cache belongs to another device"):
        build_engine(trt, tmp_path / "a.onnx", options, 32, 3)


def test_words_of_the_parser_and_a_failed_build(tmp_path):
    trt = fake_tensorrt("11.4.0", errors=[("Unique", "no importer"), ("Relu", "bad type")])
    with pytest.raises(ValueError, match="cannot read this graph: Unique: no importer; Relu: bad type"):
        build_engine(trt, tmp_path / "a.onnx", OPTIONS, 32, 3)
    with pytest.raises(ValueError, match="could not build an engine"):
        build_engine(fake_tensorrt("11.4.0", engine=None), tmp_path / "a.onnx", OPTIONS, 32, 3)


def test_verbose_log(tmp_path):
    trt = fake_tensorrt("11.4.0")
    build_engine(trt, tmp_path / "a.onnx", replace(OPTIONS, verbose=True), 32, 3)
    trt.Logger.assert_called_once_with("verbose")


def test_missing_or_old_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ValueError, match="pip install tensorrt"):
        import_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("8.6.1"))
    with pytest.raises(ValueError, match=r"TensorRT 8\.6\.1 is too old, version 10 or newer"):
        import_tensorrt()


def test_file_has_the_metadata_and_comes_from_the_checked_onnx_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("11.4.0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    calls = []
    monkeypatch.setattr(to_tensorrt, "ensure_onnx", lambda *args: calls.append(args[2]) or args[2])
    monkeypatch.setattr(to_tensorrt, "check_tensorrt", lambda file: calls.append(file))
    metadata = {"stride": 32, "names": {0: "a"}, "imgsz": [64, 96]}
    file = tmp_path / "best.engine"
    assert export_engine(torch.nn.Identity(), torch.zeros(4, 3, 64, 96), file, OPTIONS, metadata) == file
    assert read_engine(file) == (metadata, b"ENGINE")
    assert calls == [tmp_path / "best.onnx"] * 2


@pytest.mark.gpu
def test_engine_equals_the_model(tmp_path, tiny_swin):
    pytest.importorskip("tensorrt")
    model = deepcopy(tiny_swin).cuda()  # the fixture stays on the CPU for the tests that follow
    images = torch.zeros(2, 3, 96, 128, device="cuda")
    metadata = {"stride": 16, "names": {0: "a", 1: "b"}}
    options = ExportOptions(imgsz=(96, 128), batch_size=2, dynamic=True)
    export_engine(model, images, tmp_path / "a.engine", options, metadata)  # raises where it differs
    assert read_engine(tmp_path / "a.engine")[0]["stride"] == 16
