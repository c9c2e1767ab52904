"""TorchScript, .pt2, OpenVINO and ncnn of small detectors: options, metadata, and what must fail."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.exporters import EXPORTERS, check
from engine.exporters.compare import measure
from engine.exporters.folder import atomic_folder
from models.runtimes.backends import DetectMultiBackend
from utils.files import yaml_load
from utils.options.export import ExportOptions
from utils.options.formats import output_path, require

METADATA = {"stride": 16, "names": {0: "a", 1: "b"}, "task": "detect", "imgsz": [64, 96], "nms": False}
OPTIONS = ExportOptions(imgsz=(64, 96))
PACKAGES = {"onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino"), "ncnn": ("ncnn", "pnnx")}


def export(argument, model, folder, **change):
    for package in PACKAGES.get(argument, ()) + (("nncf",) if change.get("int8") else ()):
        pytest.importorskip(package)
    options = replace(OPTIONS, **change)
    file = output_path(folder / "best.pt", argument, options.int8)
    images = torch.zeros(options.batch_size, 3, *options.imgsz)
    metadata = METADATA | {"dynamic": options.dynamic, "half": options.half, "int8": options.int8}
    return EXPORTERS[argument](model, images, file, options, metadata)


def size(path):
    return sum(f.stat().st_size for f in path.rglob("*.bin")) if path.is_dir() else path.stat().st_size


def pictures():
    return iter(torch.rand(6, 1, 3, 64, 96, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("model", ["tiny_conv", pytest.param("tiny_swin", marks=pytest.mark.slow)])
@pytest.mark.parametrize("argument", ["pt2", "openvino"])
def test_open_sizes_match(argument, model, request, tmp_path):
    model = request.getfixturevalue(model)
    backend = DetectMultiBackend(export(argument, model, tmp_path, dynamic=True))
    assert (backend.batch_size, backend.imgsz, backend.stride) == (None, None, 16)
    for shape in ((1, 16, 16), (3, 48, 80), (2, 96, 160), (1, 112, 176)):  # below, at, and beyond a window
        images = torch.rand(shape[0], 3, *shape[1:])
        difference = measure(model(images)[0], backend(images))
        assert difference.relative < 1e-4, shape
        assert difference.scores < 1e-5, shape


@pytest.mark.parametrize("argument", ["torchscript", "pt2", "openvino", "ncnn"])
def test_half_is_half_as_large_and_close(argument, tiny_conv, tmp_path):
    (tmp_path / "full").mkdir()
    full = size(export(argument, tiny_conv, tmp_path / "full"))
    file = export(argument, tiny_conv, tmp_path, half=True)
    weights = sum(p.numel() for p in tiny_conv.parameters()) * 4
    assert 0.3 * weights < full - size(file) <= 0.52 * weights  # half of the weights, less what the casts take
    backend = DetectMultiBackend(file)
    assert backend.fp16
    images = torch.rand(2, 3, 64, 96)
    difference = measure(tiny_conv(images)[0], backend(images))
    assert 0 < difference.scores < 0.02  # other numbers than in float32, and near them


def test_openvino_in_8_bits(tiny_conv, tmp_path):
    file = export("openvino", tiny_conv, tmp_path, int8=True, real_images=pictures)
    assert file.name == "best_int8_openvino_model"
    (xml,) = file.glob("*.xml")
    assert "FakeQuantize" in xml.read_text()
    images = next(pictures())
    difference = measure(tiny_conv(images)[0], DetectMultiBackend(file)(images))
    assert 0 < difference.scores < 0.2
    torch.testing.assert_close(DetectMultiBackend(xml)(images), DetectMultiBackend(file)(images))


def test_8_bits_that_change_confident_boxes_are_refused():
    expected = torch.tensor([[[8.0, 8, 4, 4, 0.9, 0.8], [8, 8, 4, 4, 0.01, 0.5]]])
    check.check_confident(expected, expected + 0.05, "x")
    found = expected.clone()
    found[0, 1, 5] = 0  # a box that nobody sees
    check.check_confident(expected, found, "x")
    found[0, 0, 4] = 0.2  # one that was lost
    with pytest.raises(ValueError, match=r"x: the 1 boxes .* by 0\.35 in score"):
        check.check_confident(expected, found, "x")
    with pytest.raises(ValueError, match="the 1 boxes"):  # one that was made up
        check.check_confident(found, expected, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"half": True}, "are mutually exclusive: choose"),
        ({"dynamic": True}, "mutually exclusive for OpenVINO"),
        ({}, "give --data"),
    ],
)
def test_int8_that_cannot_be(change, message, tiny_conv, tmp_path):
    with pytest.raises(ValueError, match=message):
        export("openvino", tiny_conv, tmp_path, int8=True, **change)
    assert not any(tmp_path.iterdir())


def test_metadata_are_kept(tiny_conv, tmp_path):
    expected = {"stride": 16, "names": {0: "a", 1: "b"}, "task": "detect"}
    for argument in ("openvino", "ncnn"):
        assert expected.items() <= yaml_load(export(argument, tiny_conv, tmp_path) / "metadata.yaml").items()
    extra = {"config.txt": ""}
    torch.jit.load(str(export("torchscript", tiny_conv, tmp_path, optimize=True)), _extra_files=extra)
    config = json.loads(extra["config.txt"])
    assert (config["shape"], config["stride"], config["names"]) == ([1, 3, 64, 96], 16, {"0": "a", "1": "b"})
    extra = {"metadata.json": ""}
    torch.export.load(str(export("pt2", tiny_conv, tmp_path)), extra_files=extra)
    assert json.loads(extra["metadata.json"])["stride"] == 16


@pytest.mark.parametrize(
    "argument", ["torchscript", *[pytest.param(a, marks=pytest.mark.slow) for a in ("pt2", "onnx")]]
)
@pytest.mark.parametrize("half", [False, True])
def test_raw_heads(argument, half, tiny_conv, tmp_path, monkeypatch):
    """They are compared decoded; the runtimes, which give boxes, refuse the file."""
    monkeypatch.setattr(tiny_conv.detect, "raw_heads", True)
    monkeypatch.setitem(METADATA, "raw_heads", True)
    file = export(argument, tiny_conv, tmp_path, raw_heads=True, half=half)
    with pytest.raises(ValueError, match="was exported with --raw-heads, whose maps other programs decode"):
        DetectMultiBackend(file)
    if argument == "torchscript":
        maps = torch.jit.load(str(file))(torch.rand(1, 3, 64, 96))
        assert [(tuple(y.shape), y.dtype) for y in maps] == [((1, 14, *s), torch.float32) for s in ((8, 12), (4, 6))]


def test_pt2_says_nothing_of_the_machine_that_wrote_it(tiny_conv, tmp_path):
    file = export("pt2", tiny_conv, tmp_path)
    with zipfile.ZipFile(file) as archive:
        graph = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("model.json"))
    assert "aten.conv2d" in graph
    assert str(Path(__file__).resolve().parents[3]) not in graph
    assert "stack_trace" not in graph


def test_ncnn_names_what_it_has_no_layer_for(tiny_swin, tiny_conv, tmp_path):
    with pytest.raises(ValueError, match=r"ncnn has no layer for .*export onnx or openvino"):
        export("ncnn", tiny_swin, tmp_path)
    with pytest.raises(ValueError, match="one image at a time"):
        export("ncnn", tiny_conv, tmp_path, batch_size=2)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["torchscript", "pt2", "openvino", "ncnn"])
def test_a_file_that_differs_is_not_left(argument, tiny_conv, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "measure", lambda expected, found: measure(expected * 1.1, found))
    with pytest.raises(ValueError, match="differs from PyTorch"):
        export(argument, tiny_conv, tmp_path)
    assert not any(tmp_path.iterdir())


def test_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as new:
        (new / "a").write_text("1")
    with pytest.raises(FileNotFoundError), atomic_folder(target) as new:
        (new / "missing" / "a").write_text("2")
    assert (target / "a").read_text() == "1"
    with atomic_folder(target) as new:
        (new / "b").write_text("3")
    assert [f.name for f in target.iterdir()] == ["b"]
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("moment", [".old", ".new"])
@pytest.mark.parametrize("first", [True, False])
def test_of_two_exports_at_once_the_last_one_stays(tmp_path, monkeypatch, moment, first):
    """Another export begins and ends just before this one renames: the folder of before, or its own."""
    target, rename, others = tmp_path / "model", Path.rename, []
    if not first:
        target.mkdir()

    def overtaken(self, to):
        if not others and (self.name.endswith(moment) or str(to).endswith(moment)):
            others.append(self)
            with atomic_folder(target) as other:
                (other / "theirs").write_text("1")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", overtaken)
    with atomic_folder(target) as new:
        (new / "ours").write_text("2")
    assert len(others) == 1
    assert [f.name for f in target.iterdir()] == ["ours"]
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_folder_that_another_export_is_just_replacing(tmp_path, monkeypatch):
    """Between its two renames there is no folder."""
    target, rename = tmp_path / "model", Path.rename
    target.mkdir()

    def overtaken(self, to):
        if self == target and target.exists():
            target.rmdir()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", overtaken)
    with atomic_folder(target) as new:
        (new / "ours").write_text("2")
    assert [f.name for f in target.iterdir()] == ["ours"]


def test_folder_behind_a_link_stays(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/a").write_text("of the user")
    (tmp_path / "model").symlink_to(tmp_path / "home")
    with atomic_folder(tmp_path / "model") as new:
        (new / "b").write_text("1")
    assert not (tmp_path / "model").is_symlink()
    assert [f.name for f in (tmp_path / "model").iterdir()] == ["b"]
    assert [f.name for f in (tmp_path / "home").iterdir()] == ["a"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["home", "model"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="where the folder would be written"), atomic_folder(tmp_path / "pipe"):
        pass


def test_missing_package_is_named():
    with pytest.raises(ValueError, match="pip install no-such-package"):
        require(("no-such-package",), "this")


@pytest.mark.parametrize("argument", ["torchscript", "pt2"])
def test_a_full_disk_is_an_error_and_nothing_is_left(argument, tiny_conv, tmp_path, full_disk):
    with full_disk(20_000), pytest.raises(OSError, match="too large") as caught:
        export(argument, tiny_conv, tmp_path)
    assert caught.value.filename == str(tmp_path / f"best.{argument}")
    assert list(tmp_path.iterdir()) == []
