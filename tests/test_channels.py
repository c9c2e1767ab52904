"""Grey, deep and multi-band images: reading, the loader, the first layer, and all scripts end to end."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import detect
import export
import train
import val
from engine.exporters.calibration import calibration_images
from engine.training.channels import build_detector
from models.experimental import attempt_load
from models.runtimes.backends import DetectMultiBackend
from models.weights.transfer import adapt_input, transfer_weights
from models.yolo import DetectionModel
from utils.augmentations import apply_brightness, letterbox, warp_image
from utils.autobatch import measure
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.datasets.images import COLOR8, PixelFormat, load_pixels, read_pages, read_pixels, render_batch, rendition
from utils.hyp import Hyp

RNG = np.random.default_rng(0)
TINY = {
    "nc": 1, "depth_multiple": 0.33, "width_multiple": 0.125, "anchors": [[8, 8], [16, 16]],
    "backbone": [[-1, 1, "Conv", [64, 6, 2, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "Conv", [128, 3, 2]]],
    "head": [[-1, 1, "Conv", [128, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip


def chunky_tiff(array):
    """A little-endian TIFF of one strip, samples of a pixel together, all of them grey."""
    height, width, bands = array.shape
    data, shorts = array.tobytes(), struct.Struct(f"<{bands}H")
    at = 8 + len(data)
    arrays = at + 2 + 12 * 11 + 4
    values = shorts.pack(*[8 * array.itemsize] * bands), shorts.pack(*[1] * bands)
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, arrays), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, bands), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
        (339, 3, bands, arrays + len(values[0])),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", 11) + entries + bytes(4) + b"".join(values)


def draw(folder, channels, write, n=4):
    """A dataset of one bright square each; `write(file stem, values (H, W, C) 0..1)` writes an image."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(n):
            height, width = ((40, 60), (60, 40))[i % 2]
            image = np.full((height, width, channels), 0.2) + RNG.random((height, width, channels)) * 0.05
            image[10:30, 10:30] = np.linspace(0.4, 0.9, channels)
            write(folder / "images" / split / f"ä {i}", image)
            line = f"0 {20 / width} {20 / height} {20 / width} {20 / height}\n"
            (folder / "labels" / split / f"ä {i}.txt").write_text(line)


def png(bits):
    def write(stem, image):
        values = (image * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        cv2.imwrite(f"{stem}.png", cv2.cvtColor(values, cv2.COLOR_RGBA2BGRA) if image.shape[2] == 4 else values)

    return write


def npy(bits):
    return lambda stem, image: np.save(f"{stem}.npy", (image * (2**bits - 1)).astype(np.uint16))


def dataset(folder, write, channels, bits=None):
    draw(folder, channels, write)
    keys = {"channels": channels} | ({"bits": bits} if bits else {})
    return {"path": str(folder), "train": "images/train", "val": "images/val", "names": ["a"], **keys}


# Reading --------------------------------------------------------------------------------------------------------------


def test_keys_are_checked():
    assert PixelFormat.of({}, "x") == COLOR8
    assert COLOR8.plain
    assert str(PixelFormat.of({"channels": 4, "bits": 12}, "x")) == "channels: 4, bits: 12"
    for table, message in (
        ({"channels": 0}, "channels: 0 is not a number of channels"), ({"channels": "4"}, "channels: '4'"),
        ({"channels": True}, "channels: True"), ({"bits": 7}, "bits: 7 is not"), ({"bits": 17}, "bits: 17"),
        ({"bits": 12.0}, "bits: 12.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"d.yaml: {message}"):
            PixelFormat.of(table, "d.yaml")
    assert PixelFormat(1).same_scale(PixelFormat(1, 16))
    assert not PixelFormat(1).same_scale(PixelFormat(1, 12))


def test_depth_is_the_one_given_or_that_of_the_file(tmp_path):
    deep = RNG.integers(0, 4096, (12, 16), np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), deep)
    for bits in (None, 12):
        image = load_pixels(str(tmp_path / "x.png"), PixelFormat(1, bits))
        assert image.dtype == np.float32
        np.testing.assert_allclose(image[..., 0], deep * (255 / (2 ** (bits or 16) - 1)), rtol=1e-6)
    with pytest.raises(ValueError, match="but 'bits: 8' ends at 255"):
        read_pixels(str(tmp_path / "x.png"), PixelFormat(1, 8))
    grey = RNG.integers(0, 256, (12, 16), np.uint8)
    cv2.imwrite(str(tmp_path / "y.png"), grey)
    image = load_pixels(str(tmp_path / "y.png"), PixelFormat(1, 12))
    np.testing.assert_array_equal(image[..., 0], grey)  # 8 bits stay what they are
    assert image.dtype == np.uint8


def test_bands_keep_the_order_of_the_file(tmp_path):
    four = RNG.integers(0, 256, (12, 16, 4), np.uint8)
    cv2.imwrite(str(tmp_path / "rgba.png"), cv2.cvtColor(four, cv2.COLOR_RGBA2BGRA))
    np.testing.assert_array_equal(read_pixels(str(tmp_path / "rgba.png"), PixelFormat(4)), four)
    five = RNG.integers(0, 65536, (12, 16, 5), np.uint16)
    np.save(tmp_path / "last.npy", five)
    np.save(tmp_path / "first.npy", np.asfortranarray(five.transpose(2, 0, 1)).astype(">u2"))
    cv2.imwritemulti(str(tmp_path / "pages.tif"), list(five.transpose(2, 0, 1)))
    for name in ("last.npy", "first.npy", "pages.tif"):
        np.testing.assert_array_equal(read_pixels(str(tmp_path / name), PixelFormat(5)), five, name)
    rgb = RNG.random((12, 16, 3)).astype(np.float32)
    np.save(tmp_path / "rgb.npy", rgb)
    np.testing.assert_array_equal(read_pixels(str(tmp_path / "rgb.npy"), PixelFormat(3, 16)), rgb[..., ::-1])


def test_tiff_of_many_samples_needs_a_package(tmp_path):
    eight = RNG.integers(0, 4096, (12, 16, 8), np.uint16)
    (tmp_path / "x.tif").write_bytes(chunky_tiff(eight))
    try:
        import tifffile  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(ValueError, match="pip install tifffile"):
            read_pixels(str(tmp_path / "x.tif"), PixelFormat(8))
    else:
        np.testing.assert_array_equal(read_pixels(str(tmp_path / "x.tif"), PixelFormat(8)), eight)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((12, 16, 3), np.uint8), "it has 3 channels, but 'channels' is 4"),
        (np.zeros((12, 16, 4), np.int16), "its type is int16: allowed are uint8, uint16, and floats from 0 to 1"),
        (np.full((12, 16, 4), np.nan), "floats must be from 0 to 1"),
        (np.full((12, 16, 4), 1.5, np.float32), "floats must be from 0 to 1, these are from 1.5 to 1.5"),
        (np.zeros(12, np.uint8), "an image is an array"),
        (np.array([[{}]]), "an image is an array"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        read_pixels(str(tmp_path / "x.npy"), PixelFormat(4))


def test_arrays_cut_off_or_of_other_files(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((12, 16, 4), np.uint8))
    data = (tmp_path / "x.npy").read_bytes()
    for content, message in ((data[:-1], "cut off"), (data[:9], "not a NumPy array"), (b"", "not a NumPy array")):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_pixels(str(tmp_path / "x.npy"), PixelFormat(4))


def test_what_is_drawn():
    assert rendition(np.full((2, 2, 1), 7, np.uint8)).tolist() == [[[7] * 3] * 2] * 2
    bands = np.dstack([np.full((2, 2), v, np.uint8) for v in (10, 20, 30, 40)])
    assert rendition(bands)[0, 0].tolist() == [30, 20, 10]  # red, green, blue are the first three
    dark = np.full((4, 4, 1), 0.5, np.float32)
    assert rendition(dark).max() == 255
    batch = torch.rand(2, 5, 4, 4)
    assert render_batch(batch).shape == (2, 3, 4, 4)
    assert render_batch(batch[:, :3]).data_ptr() == batch.data_ptr()


# Augmentations and the loader -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8])
def test_channels_are_warped_and_padded_alike(channels):
    image = RNG.integers(0, 256, (20, 30, 1), np.uint8).repeat(channels, 2)
    matrix = np.array([[0.7, 0.2, 3], [-0.1, 0.8, 2], [0.001, 0, 1]])
    for made in (warp_image(image, matrix, (24, 24)), letterbox(image, (32, 48), auto=False)[0]):
        assert made.shape[2] == channels
        assert (made == made[..., :1]).all()


def test_brightness_keeps_type_and_range():
    image = np.array([[[100.0]]], np.float32)
    assert apply_brightness(image, 1.5)[0, 0, 0] == 150
    assert apply_brightness(image.astype(np.uint8), 3.0).tolist() == [[[255]]]
    assert image[0, 0, 0] == 100


@pytest.mark.parametrize(("channels", "bits", "write"), [(1, 12, png(12)), (4, None, png(8)), (6, 12, npy(12))])
@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_loader(tmp_path, caplog, channels, bits, write, cache):
    data = check_dataset(dataset(tmp_path, write, channels, bits))
    hyp = Hyp(mixup=0.5, copy_paste=0.5, degrees=9, perspective=3e-4, flipud=0.5)
    loader, _ = create_dataloader(data["train"], 64, 4, 32, hyp=hyp, augment=True, cache=cache, workers=0, nc=1)
    for _ in range(2):
        for images, targets, _, _ in loader:
            assert images.shape == (4, channels, 64, 64)
            assert len(targets)
            assert images.dtype == (torch.float32 if bits else torch.uint8)
            assert [images.min() >= 0, images.max() <= 255] == [True, True]
    assert "hsv_h, hsv_s left out: they need 8-bit colour" in caplog.text
    plain, _ = create_dataloader(data["val"], 64, 4, 32, rect=True, cache=cache, workers=0, nc=1)
    for images, targets, _, _ in plain:
        inside = images[0, :, int(targets[0, 3] * images.shape[2]), int(targets[0, 2] * images.shape[3])]
        np.testing.assert_allclose(inside, np.linspace(0.4, 0.9, channels) * 255, atol=2)


def test_images_of_other_channels_are_left_out_with_a_message(tmp_path, caplog):
    data = check_dataset(dataset(tmp_path, npy(12), 4, 12))
    np.save(tmp_path / "images/train/ä 0.npy", np.zeros((20, 20, 5), np.uint16))
    np.save(tmp_path / "images/train/ä 1.npy", np.full((20, 20, 4), 5000, np.uint16))
    _, images = create_dataloader(data["train"], 64, 4, 32, workers=0, nc=1)
    assert images.n == 2
    assert "it has 5 channels, but 'channels' is 4" in caplog.text
    assert "it has the value 5000, but 'bits: 12' ends at 4095" in caplog.text


def test_arrays_beside_colour_images_are_not_read(tmp_path):
    """YOLOv5 keeps its cached images there."""
    data = dataset(tmp_path, png(8), 3)
    np.save(tmp_path / "images/train/ä 0.npy", np.zeros((20, 20, 3), np.uint8))
    assert create_dataloader(check_dataset(data)["train"], 64, 4, 32, workers=0, nc=1)[1].n == 4


# The first layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 2), (3, 4), (3, 5), (3, 8), (4, 3), (1, 3)])
@pytest.mark.parametrize("phases", [1, 4])
def test_the_response_to_a_grey_image_stays(old, new, phases):
    before, after = nn.Conv2d(phases * old, 5, 3, padding=1), nn.Conv2d(phases * new, 5, 3, padding=1)
    after.bias.data.copy_(before.bias)
    after.weight.data.copy_(adapt_input(before.weight, old, new))
    grey = torch.rand(2, phases, 1, 8, 8)
    responses = [conv(grey.expand(-1, -1, n, -1, -1).flatten(1, 2)) for conv, n in ((before, old), (after, new))]
    torch.testing.assert_close(*responses, rtol=1e-5, atol=1e-6)


def test_rule_of_the_first_layer():
    weight = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert adapt_input(weight, 3, 1).flatten().tolist() == [7]
    assert adapt_input(weight, 3, 4).flatten().tolist() == [0.5, 2, 4, 0.5]
    assert adapt_input(weight, 3, 6).flatten().tolist() == [0.5, 1, 2, 0.5, 1, 2]


def test_weights_of_another_number_of_channels(caplog):
    table = {"nc": 1, "names": ["a"], "yaml_file": "d.yaml"}
    colour = DetectionModel(TINY, verbose=False)
    grey = build_detector(dict(colour.yaml), {**table, "channels": 1, "bits": 12}, 1, None, "w.pt", False)
    assert (grey.yaml["ch"], grey.yaml["bits"]) == (1, 12)
    report = transfer_weights(grey, {"model": colour.state_dict(), "yaml": colour.yaml})
    assert (report.channels, report.reshaped) == ((3, 1), [])
    report.log("w.pt")
    assert "first layer adapted from 3 to 1 channels" in caplog.text
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(grey.eval()(image)[0], colour.eval()(image.expand(-1, 3, -1, -1))[0])
    message = r"w.pt: the model reads images of channels: 1, bits: 12 .* training images of d.yaml have channels: 3"
    with pytest.raises(ValueError, match=message):
        build_detector(grey.yaml, table, 1, None, "w.pt", True)
    with pytest.raises(ValueError, match=r"w.pt: .* channels: 1, bits: 12 .* have channels: 1: restore"):
        build_detector(grey.yaml, table | {"channels": 1}, 1, None, "w.pt", True)


# All scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_colour_weights_to_an_export(tmp_path, monkeypatch, caplog):
    """Four bands of 12 bits: train from colour weights, resume, validate, detect, export, hub; others are refused."""
    from hubconf import custom  # noqa: PLC0415
    from utils.files import yaml_save  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    yaml_save("d.yaml", dataset(folder, npy(12), 4, 12))
    yaml_save("tiny.yaml", TINY)
    yaml_save("three.yaml", {**TINY, "ch": 3})
    with pytest.raises(
        ValueError, match=r"three.yaml: the model reads images of channels: 3 .*d.yaml have channels: 4"
    ):
        train.run(
            data="d.yaml",
            cfg="three.yaml",
            weights="",
            imgsz=64,
            epochs=1,
            device="cpu",
            project=str(tmp_path / "runs"),
        )
    common = {
        "data": "d.yaml",
        "imgsz": 64,
        "batch_size": 4,
        "device": "cpu",
        "workers": 0,
        "project": str(tmp_path / "runs"),
    }
    train.run(**common, cfg="tiny.yaml", weights="", epochs=1, name="bands", cache="disk")
    best = f"{tmp_path}/runs/bands/weights/best.pt"
    assert attempt_load(best).pixels == PixelFormat(4, 12)
    assert cv2.imread(f"{tmp_path}/runs/bands/train_batch0.jpg").max() > 100
    train.run(resume=f"{tmp_path}/runs/bands/weights/last.pt", epochs=2, device="cpu")
    numbers = val.run(**common, weights=best, report=True, plots=True)
    export.run(weights=best, include=["onnx", "torchscript"], imgsz=[64], device="cpu")
    found = {}
    for file in (best, best.replace(".pt", ".onnx"), best.replace(".pt", ".torchscript")):
        assert DetectMultiBackend(file).pixels == PixelFormat(4, 12)
        settings = {"imgsz": [64], "conf_thres": 0.0, "max_det": 5, "device": "cpu", "project": common["project"]}
        results = detect.run(file, str(folder / "images/val"), **settings, name=file[-4:])
        assert [Path(result.source).suffix for result in results] == [".npy"] * 4
        found[file[-4:]] = results[0].detections
        if not file.endswith(".pt"):
            torch.testing.assert_close(found[file[-4:]], found["t.pt"], rtol=1e-3, atol=1e-2)
    assert cv2.imread(str(next(tmp_path.glob("runs/t.pt/*.jpg")))).shape[2] == 3
    model = custom(best, device="cpu", _verbose=False)
    model.conf = 0.0
    array = np.load(folder / "images/val/ä 0.npy")
    from_array, from_file = (model(x, size=64).xyxy[0] for x in (array, str(folder / "images/val/ä 0.npy")))
    torch.testing.assert_close(from_array, from_file)
    with pytest.raises(ValueError, match="it has 3 channels, but 'channels' is 4"):
        model(np.zeros((40, 40, 3), np.uint8))
    assert numbers.results.map >= 0
    with pytest.raises(ValueError, match=r"reads images of channels: 4, bits: 12, but the dataset has channels: 3"):
        val.run(**{**common, "data": dataset(tmp_path / "rgb", png(8), 3)}, weights=best)
    assert next(calibration_images("d.yaml", (64, 64), PixelFormat(4, 12))()).shape == (1, 4, 64, 64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_autobatch_measures_with_the_channels_of_the_model():
    model = DetectionModel({**TINY, "ch": 5}, verbose=False).cuda()
    assert len(measure(model, 64, [1], None)) == 1


# Pages and animations -------------------------------------------------------------------------------------------------


def test_pages_of_a_tiff(tmp_path):
    pages = [np.full((12, 16), v, np.uint16) for v in (1000, 4000)]
    cv2.imwritemulti(str(tmp_path / "x.tif"), pages)
    found = list(read_pages(str(tmp_path / "x.tif"), PixelFormat(1, 12)))
    assert [round(float(page[0, 0, 0]), 2) for page in found] == [round(v * 255 / 4095, 2) for v in (1000, 4000)]
    plain = list(read_pages(str(tmp_path / "x.tif"), COLOR8))
    assert [(page.shape, page.dtype) for page in plain] == [((12, 16, 3), np.uint8)] * 2
