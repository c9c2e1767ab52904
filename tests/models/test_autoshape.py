"""AutoShape and Detections with a narrow random network that detects something everywhere."""

import io
import logging
import pickle
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.autoshape import AutoShape, load_image
from models.detections import Detections
from models.experimental import Ensemble
from models.runtimes.backends import DetectMultiBackend, PyTorchBackend
from models.yolo import DetectionModel
from utils.downloads import http_client
from utils.files import yaml_load
from utils.paths import ROOT


def network(seed=1):
    table = yaml_load(ROOT / "models/yolov5n.yaml") | {"width_multiple": 0.05, "depth_multiple": 0.1, "nc": 3}
    torch.manual_seed(seed)
    model = DetectionModel(table, verbose=False)
    for conv in model.model[-1].m:
        nn.init.normal_(conv.weight, std=1.0)
        nn.init.zeros_(conv.bias)
    model.names = {0: "cat", 1: "dog", 2: "big/bird"}
    return model.eval()


@pytest.fixture(scope="module")
def shaped():
    return AutoShape(network())


def picture(height, width, seed=0):
    """Smooth noise, (H, W, 3) RGB."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def same(a, b, atol=1e-4):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)


# One and many ---------------------------------------------------------------------------------------------------------


def test_a_picture_has_the_same_results_alone_and_in_a_list(shaped):
    shapes = [(90, 120), (120, 90), (90, 120), (33, 200), (64, 64), (500, 301), (200, 33), (1, 300)]
    pictures = [picture(*shape, seed) for seed, shape in enumerate(shapes)]
    before = [im.copy() for im in pictures]
    together = shaped(pictures, size=128)
    assert together.s == (8, 3, 128, 128)
    assert sum(len(x) for x in together.xyxy) > 50
    for i, im in enumerate(pictures):
        same(shaped(im, size=128).xyxy, [together.xyxy[i]])
        np.testing.assert_array_equal(im, before[i])
    same(shaped(pictures[::-1], size=128).xyxy, together.xyxy[::-1])
    same(shaped((im for im in pictures), size=128).xyxy, together.xyxy)


class Recorder(nn.Module):
    """A run time of fixed numbers that finds one box in the middle of the input, and keeps what it was shown."""

    def __init__(self, batch_size=None, imgsz=None):
        super().__init__()
        self.names, self.stride, self.device = {0: "a"}, 32, torch.device("cpu")
        self.batch_size, self.imgsz, self.seen = batch_size, imgsz, []

    def forward(self, images):
        self.seen.append(images)
        h, w = images.shape[2:]
        return torch.tensor([[[w / 2, h / 2, 20.0, 10.0, 0.9, 1.0]]]).repeat(len(images), 1, 1)


def test_each_picture_is_padded_to_its_own_frame():
    recorder = Recorder()
    found = AutoShape(recorder)([np.full((50, 100, 3), 255, np.uint8), np.zeros((100, 100), np.uint8)], size=128)
    wide, square = recorder.seen
    assert (wide.shape, square.shape) == ((1, 3, 64, 128), (1, 3, 128, 128))
    assert wide.max() == 1
    assert wide.dtype == torch.float32
    same(
        found.xyxy,
        [torch.tensor([[50 - 10 / 1.28, 25 - 5 / 1.28, 50 + 10 / 1.28, 25 + 5 / 1.28, 0.9, 0]])]
        + [torch.tensor([[50 - 10 / 1.28, 50 - 5 / 1.28, 50 + 10 / 1.28, 50 + 5 / 1.28, 0.9, 0]])],
    )


def test_file_of_fixed_size_gets_its_shape():
    recorder = Recorder(batch_size=2, imgsz=(64, 96))
    found = AutoShape(recorder)([picture(40, 40), picture(30, 60), picture(20, 70)], size=640)
    assert [x.shape for x in recorder.seen] == [(2, 3, 64, 96)] * 2
    assert [len(x) for x in found.xyxy] == [1, 1, 1]
    assert recorder.seen[1][1].abs().max() == 0
    torch.testing.assert_close(found.xywh[1][0, :2], torch.tensor([30.0, 15.0]))


def test_no_pictures(shaped):
    found = shaped([])
    assert (len(found), found.n, found.tolist(), found.render()) == (0, 0, [], [])
    assert str(found).startswith("Speed: 0.0ms")


# Kinds of pictures ----------------------------------------------------------------------------------------------------


def test_every_kind_of_picture_gives_the_same_array(tmp_path):
    im = picture(48, 64)
    file = tmp_path / "图 像.png"
    Image.fromarray(im).save(file)
    alpha = np.dstack((im, im[..., :1]))
    sources = [file, str(file), Image.open(file), Image.fromarray(alpha), im, alpha, im.transpose(2, 0, 1)]
    for source in sources:
        array, _ = load_image(source)
        np.testing.assert_array_equal(array, im)
        assert array.flags["C_CONTIGUOUS"]
    grey = im[..., 0]
    for source in (grey, grey[..., None], grey[None], Image.fromarray(grey), im[..., :2]):
        np.testing.assert_array_equal(load_image(source)[0], grey[..., None].repeat(3, 2))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(load_image(deep)[0][..., 0], grey)
    assert load_image(Image.fromarray(grey.astype(np.float32)))[0].tolist() == load_image(grey)[0].tolist()
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"):
        array, _ = load_image(Image.new(mode, (20, 10)))
        assert (array.shape, array.dtype) == ((10, 20, 3), np.uint8)


def test_exif_turns_files_and_pil_images(tmp_path):
    im = np.zeros((40, 80, 3), np.uint8)
    im[:20, :, 0] = 255  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(im).save(tmp_path / "a.jpg", exif=exif, quality=95)
    for source in (tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")):
        array, stem = load_image(source)
        assert (array.shape, stem) == ((80, 40, 3), "a")
        assert array[40, 35, 0] > 200 > 50 > array[40, 5, 0]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 8, 3), np.float32), ValueError, "must be uint8, 0 to 255, this one is float32"),
        (np.zeros((4, 8, 3), bool), ValueError, "this one is bool"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"this one is \(0, 8, 3\)"),
        (np.zeros((1, 2, 4, 8), np.uint8), ValueError, "this one is"),
        (torch.zeros(3, 8, 8), ValueError, r"not Tensor: a tensor is given alone, \(B, 3, H, W\)"),
        (7, ValueError, "an image is a path, a URL, a PIL image or an array, not int"),
        ("missing.jpg", FileNotFoundError, r"missing\.jpg: no such image \(looked in"),
        (str(ROOT / "pyproject.toml"), ValueError, "cannot be decoded as an image"),
    ],
)
def test_what_is_no_picture_is_refused(shaped, source, error, message):
    with pytest.raises(error, match=message):
        shaped([picture(32, 32), source])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "[::1]", "169.254.169.254", "0.0.0.0"])
def test_addresses_of_inner_networks_are_refused(shaped, monkeypatch, host):
    monkeypatch.setattr(http_client, "_connect", None)  # nothing may be opened
    with pytest.raises(ValueError, match="which is not a public address"):
        shaped(f"http://{host}/a.jpg")


def test_a_program_behind_an_address_is_not_run(monkeypatch):
    """PIL hands EPS files to Ghostscript."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    monkeypatch.setattr("models.autoshape.fetch", lambda url: data)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript runs it"))
    with pytest.raises(ValueError, match="not an image"):
        load_image("http://example.com/a.jpg")


def test_address_is_fetched(monkeypatch):
    data = io.BytesIO()
    Image.fromarray(picture(20, 30)).save(data, "png")
    monkeypatch.setattr("models.autoshape.fetch", lambda url: data.getvalue())
    array, stem = load_image("https://example.com/x/bus.png?size=1")
    np.testing.assert_array_equal(array, picture(20, 30))
    assert stem == "bus"


def test_tensor_goes_right_into_the_network(shaped):
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(shaped(images), shaped.model(images)[0])
    for wrong, message in (
        (torch.rand(3, 64, 64), "a tensor of images is"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8: give images"),
        (torch.rand(1, 3, 64, 65), r"the sides \(64, 65\) of the images must be multiples of 32"),
    ):
        with pytest.raises(ValueError, match=message):
            shaped(wrong)


# Settings and models --------------------------------------------------------------------------------------------------


def test_settings_are_followed(shaped, caplog):
    model = AutoShape(shaped.model)
    im = picture(96, 96)
    every = model(im, size=96).xyxy[0]
    model.conf = float(every[len(every) // 2, 4])
    assert 0 < len(model(im, size=96).xyxy[0]) <= len(every) // 2
    model.conf, model.max_det = 0.25, 3
    assert "reached the limit" not in caplog.text
    same(model(im, size=96).xyxy, [every[:3]])
    assert "1 of 1 images reached the limit of 3 detections" in caplog.text
    model.max_det, model.classes = 1000, [1]
    one = model(im, size=96).xyxy
    assert set(one[0][:, 5].tolist()) == {1}
    model.classes = [model.names[1]]
    same(model(im, size=96).xyxy, one)
    model.classes, model.multi_label, model.iou = None, True, 1.0
    assert len(model(im, size=96).xyxy[0]) > len(every)
    assert shaped.conf == 0.25
    assert shaped.multi_label is False
    with pytest.raises(ValueError, match="size is 0"):
        model(im, size=0)
    assert model(im, size=(60, 90)).s == (1, 3, 96, 96)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conf", "0.5", "conf is '0.5', but must be a number"),
        ("iou", 2, "iou is 2, but must be between 0 and 1"),
        ("max_det", -1, "max_det is -1, but must be at least 1"),
        ("classes", "ct", "no class 'ct'. Did you mean 'cat'?"),
        ("size", "640", "size is '640', but must be an integer"),
        ("size", 10**6, "size is 1000000, but must be at most 32000"),
    ],
)
def test_settings_that_cannot_work_are_refused(shaped, name, value, message):
    model = AutoShape(shaped.model)
    size = value if name == "size" else 64
    setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        model(picture(64, 64), size=size)


def test_augment_and_profile(shaped, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    im = picture(64, 64)
    plain = shaped(im, size=64).xyxy
    assert not torch.equal(shaped(im, size=64, augment=True).xyxy[0], plain[0])
    same(shaped(im, size=64, profile=True).xyxy, plain)
    assert sum(" ms" in r.getMessage() for r in caplog.records) == len(shaped.model.model)
    with pytest.raises(ValueError, match="profile=True needs a PyTorch model"):
        AutoShape(Recorder())(im, profile=True)


def test_moves_and_modes():
    model = AutoShape(network()).to("cpu").double()
    im = picture(64, 64)
    assert len(model(im, size=64).xyxy[0])
    same(model.float()(im, size=64).xyxy, AutoShape(network())(im, size=64).xyxy, atol=1e-2)
    assert model.bfloat16()(im, size=64).xyxy[0].dtype == torch.float32
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        model.train()(im)


def test_ensemble_and_backend(tmp_path):
    models = [network(1), network(2)]
    im = picture(64, 64)
    both = AutoShape(Ensemble(models))
    assert both.names[1] == "dog"
    assert len(both(im, size=64).xyxy[0]) >= 1

    class Backend(DetectMultiBackend):
        def __init__(self, model):
            nn.Module.__init__(self)
            self.pt, self.names, self.stride = True, model.names, 32
            self.model, self.backend = model, PyTorchBackend(model)
            self.batch_size, self.imgsz = None, None

    wrapped = AutoShape(Backend(models[0]))
    same(wrapped(im, size=64).xyxy, AutoShape(models[0])(im, size=64).xyxy)
    assert wrapped.yaml["nc"] == wrapped.nc == 3


# Results --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def found():
    pred = [
        torch.tensor([[10.0, 20, 30, 60, 0.9, 1], [0, 0, 100, 80, 0.5, 2], [5, 5, 9, 9, 0.4, 1]]),
        torch.zeros(0, 6),
    ]
    ims = [picture(80, 100), np.full((40, 50, 3), 7, np.uint8)]
    return Detections(ims, pred, ["a.jpg", "image1.jpg"], (1.0, 2.0, 3.0), {1: "dog", 2: "big/bird"}, (2, 3, 96, 128))


def test_four_formats(found):
    assert found.xyxy[0][0].tolist() == pytest.approx([10, 20, 30, 60, 0.9, 1])
    assert found.xywh[0][0].tolist() == pytest.approx([20, 40, 20, 40, 0.9, 1])
    assert found.xyxyn[0][0].tolist() == pytest.approx([0.1, 0.25, 0.3, 0.75, 0.9, 1])
    assert found.xywhn[0][0].tolist() == pytest.approx([0.2, 0.5, 0.2, 0.5, 0.9, 1])
    assert all(x[1].shape == (0, 6) for x in (found.xyxy, found.xywh, found.xyxyn, found.xywhn))


def test_text(found, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    expected = [
        "image 1/2: 80x100 2 dogs, 1 big/bird",
        "image 2/2: 40x50 (no detections)",
        "Speed: 1.0ms pre-process, 2.0ms inference, 3.0ms NMS per image at shape (2, 3, 96, 128)",
    ]
    found.print()
    assert caplog.messages[-1].split("\n") == str(found).split("\n") == expected
    assert repr(found).endswith(str(found))


def test_a_sequence(found):
    assert len(found) == found.n == 2
    assert [one.files for one in found] == [["a.jpg"], ["image1.jpg"]]
    assert [len(one.xyxy[0]) for one in found.tolist()] == [3, 0]
    assert found[-1].files == ["image1.jpg"]
    assert (found[:2].files, found[5:].n, found[0].names, found[0].t) == (found.files, 0, found.names, found.t)
    with pytest.raises(IndexError):
        found[2]


def test_pickle_needs_no_model(found, shaped):
    again = pickle.loads(pickle.dumps(found))
    assert str(again) == str(found)
    same(again.xywhn, found.xywhn)
    np.testing.assert_array_equal(again.render()[0], found.render()[0])
    assert b"AutoShape" not in pickle.dumps(shaped(picture(64, 64), size=64))


def test_pandas(found):
    tables = found.pandas()
    assert tables.xyxy[0].iloc[0].tolist() == pytest.approx([10, 20, 30, 60, 0.9, 1, "dog"], abs=1e-6)
    assert list(tables.xyxy[1].columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert list(tables.xywhn[0].columns) == ["xcenter", "ycenter", "width", "height", "confidence", "class", "name"]
    assert tables.xyxy[0]["class"].tolist() == [1, 2, 1]
    assert isinstance(found.xyxy[0], torch.Tensor)


def test_render_draws_on_copies(found):
    clean = found.ims[0].copy()
    first = found.render()
    assert found.ims is first
    assert (first[0] != clean).any()
    np.testing.assert_array_equal(first[1], 7)
    np.testing.assert_array_equal(found.render()[0], first[0])  # not drawn twice
    assert (found.render(labels=False)[0] != first[0]).any()
    np.testing.assert_array_equal(found.crop(save=False)[0]["im"], clean[0:14, 0:14])


def test_save_and_crop(found, tmp_path):
    folder = tmp_path / "run"
    assert found.save(save_dir=folder) == folder
    assert found.save(save_dir=folder) == tmp_path / "run2"
    read = np.asarray(Image.open(folder / "a.jpg")).astype(int)
    assert np.abs(read - found.render()[0]).mean() < 4  # RGB stayed RGB
    crops = found.crop(save_dir=folder, exist_ok=True)
    assert [c["label"] for c in crops] == ["dog 0.40", "big/bird 0.50", "dog 0.90"]  # the weakest first
    assert crops[2]["im"].shape == (51, 31, 3)  # rows 14.6 to 65.4, columns 4.8 to 35.2: the whole pixels below
    assert float(crops[1]["cls"]) == 2
    assert [float(side) for side in crops[1]["box"]] == [0, 0, 100, 80]
    names = {str(p.relative_to(folder)) for p in folder.rglob("*.jpg")}
    assert names == {"a.jpg", "image1.jpg", "crops/dog/a.jpg", "crops/dog/a-2.jpg", "crops/big_bird/a.jpg"}


def test_files_of_one_name_get_numbers(shaped, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture(32, 32)).save(tmp_path / folder / "a.png")
    found = shaped([tmp_path / "x/a.png", picture(32, 32), str(tmp_path / "y/a.png")], size=32)
    assert found.files == ["a.jpg", "image1.jpg", "a-2.jpg"]


def test_show_without_a_display_warns(found, monkeypatch, caplog):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Image.Image, "show", None)
    found.show()
    assert "no display" in caplog.text
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self))
    found.show()
    assert [im.size for im in shown] == [(100, 80), (50, 40)]


def test_verbose_logs_a_line(caplog):
    AutoShape(network(), verbose=False)
    assert "AutoShape" not in caplog.text
    AutoShape(network(), True)
    assert "AutoShape" in caplog.text


def test_settings_that_a_file_with_nms_inside_does_not_follow_are_told_when_they_change(nms_inside, caplog):
    model = AutoShape(DetectMultiBackend(nms_inside), verbose=False)
    image = np.zeros((64, 64, 3), np.uint8)
    model.max_det = 100
    assert len(model(image, size=64).xyxy[0]) == 3
    assert "reached the limit" not in caplog.text
    model.conf, model.iou = 0.1, 0.7
    for _ in range(3):
        model(image, size=64)
    (record,) = caplog.records
    assert "the confidence threshold is 0.25, not 0.1; the IoU threshold is 0.45, not 0.7" in record.getMessage()
    model.conf, model.iou = 0.5, 0.45
    assert len(model(image, size=64).xyxy[0]) == 2
    assert len(caplog.records) == 1
