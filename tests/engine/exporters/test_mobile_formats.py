"""CoreML and LiteRT, extras whose packages are rarely here: most of this is skipped then; what needs none is not."""

import zipfile
from copy import deepcopy

import numpy as np
import pytest
import torch

import export
from engine.exporters import EXPORTERS
from engine.exporters.compare import measure
from engine.exporters.to_coreml import check_interface
from models.runtimes.backends import DetectMultiBackend
from models.runtimes.mobile_files import read_appended
from utils.options import formats
from utils.options.export import ExportOptions

METADATA = {"stride": 16, "names": {0: "a", 1: "b"}, "task": "detect", "imgsz": [64, 96], "nms": False}
METADATA |= {"description": "tiny", "version": "1", "licence": "Apache-2.0"}
OPTIONS = ExportOptions(imgsz=(64, 96))


@pytest.fixture(params=["tiny_conv", "tiny_swin"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("word", "line"), [("coreml", "pip install coremltools"), ("litert", "pip install litert-torch ai-edge-litert")]
)
def test_missing_package_is_named_and_nothing_written(word, line, narrow_weights, tmp_path, monkeypatch, caplog):
    weights = tmp_path / "best.pt"
    weights.write_bytes(narrow_weights.read_bytes())
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=line):
        export.run(weights=weights, include=[word], imgsz=64)
    assert "not tested on a" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


def test_coreml_does_not_run_here(tmp_path):
    with pytest.raises(ValueError, match=r"best\.mlpackage: CoreML files run on Apple devices only.*--include onnx"):
        DetectMultiBackend(tmp_path / "best.mlpackage")


def test_notes_at_the_end_of_a_file(tmp_path):
    file = tmp_path / "a.tflite"
    file.write_bytes(b"network")
    assert read_appended(file) == {}
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("temp/meta.txt", "{'stride': 32, 'names': {0: \"it's\"}}")  # as YOLOv5 writes it
    assert read_appended(file) == {"stride": 32, "names": {0: "it's"}}
    assert file.read_bytes().startswith(b"network")
    file.write_bytes(b"network")
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "cat\ndog")
    with pytest.raises(ValueError, match=r"a\.tflite: its entry 'labels.txt' is not a mapping, found 'cat"):
        read_appended(file)
    start = file.read_bytes().index(b"labels.txt") + len("labels.txt")
    file.write_bytes(file.read_bytes()[:start] + b"\xff" * 4 + file.read_bytes()[start + 4 :])
    with pytest.raises(ValueError, match=r"a\.tflite: the archive at its end is damaged"):
        read_appended(file)
    file.write_bytes(b"network")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("metadata.txt", "{}")
    file.write_bytes(file.read_bytes()[:-6] + b"\x54\xf9\xff\x00\x00\x00")  # its table begins beyond the file
    with pytest.raises(ValueError, match=r"a\.tflite: the archive at its end is damaged"):
        read_appended(file)
    file.unlink()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.txt", " " * 2_000_000)
    with pytest.raises(ValueError, match="2000000 bytes, which is too large"):
        read_appended(file)


def test_litert_equals_the_model(model, tmp_path):
    pytest.importorskip("litert_torch")
    pytest.importorskip("ai_edge_litert")
    images = torch.rand(2, 3, 64, 96)
    state = deepcopy(model.state_dict())
    file = EXPORTERS["tflite"](
        model, images, tmp_path / "best.tflite", ExportOptions(imgsz=(64, 96), batch_size=2), METADATA
    )
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    backend = DetectMultiBackend(file)
    assert (backend.names, backend.stride, backend.imgsz, backend.batch_size) == ({0: "a", 1: "b"}, 16, (64, 96), 2)
    images = torch.rand(3, 3, 64, 96)
    difference = measure(model(images)[0], backend(images))
    assert difference.relative < 1e-4
    assert difference.scores < 1e-5


def test_litert_file_that_cannot_be_used(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "a.tflite").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.tflite: LiteRT cannot read it"):
        DetectMultiBackend(tmp_path / "a.tflite")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_coreml_file_has_weights_interface_and_metadata(half, model, tmp_path):
    coremltools = pytest.importorskip("coremltools")
    images = torch.rand(1, 3, 64, 96)
    options = ExportOptions(imgsz=(64, 96), half=half)
    file = EXPORTERS["coreml"](model, images, tmp_path / "best.mlpackage", options, METADATA)
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.mlpackage"]
    package = coremltools.models.MLModel(str(file), skip_model_load=True)
    assert package.user_defined_metadata["stride"] == "16"
    assert package.user_defined_metadata["names"] == '{"0": "a", "1": "b"}'
    (source,) = package.get_spec().description.input
    assert (source.name, source.type.imageType.height, source.type.imageType.width) == ("image", 64, 96)
    (weights,) = file.rglob("weight.bin")
    numbers = sum(p.numel() for p in model.parameters())
    size = np.dtype("float16" if half else "float32").itemsize
    assert 0.9 < weights.stat().st_size / (numbers * size) < 1.6  # and tables of the windows
    rows = model(images)[0].shape[1]
    with pytest.raises(ValueError, match="CoreML wrote the input"):
        check_interface(file, (64, 96), (1, rows + 1, 7))


def test_coreml_takes_one_picture(tiny_conv, tmp_path):
    pytest.importorskip("coremltools")
    with pytest.raises(ValueError, match="one image of 3 channels at a time.*--batch-size 1"):
        EXPORTERS["coreml"](tiny_conv, torch.rand(2, 3, 64, 96), tmp_path / "a.mlpackage", OPTIONS, METADATA)
    assert not any(tmp_path.iterdir())
