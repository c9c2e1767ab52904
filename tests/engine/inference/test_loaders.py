"""engine/inference/loaders.py: YOLOv5's iterators over files, streams and the screen, and what their items hold."""

import dis
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from engine.inference import loaders
from engine.inference.loaders import LoadImages, LoadScreenshots, LoadStreams, LoadWebcam
from utils import dataloaders, datasets
from utils.datasets.images import IMG_FORMATS, VID_FORMATS
from utils.paths import ROOT


def write_video(file, values, size=(64, 48), fps=12.5):
    """A video of frames of one grey each."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    for value in values:
        writer.write(np.full((size[1], size[0], 3), value, np.uint8))
    writer.release()
    return file


def grey(image):
    return round(float(image.mean()))


@pytest.fixture
def tree(tmp_path):
    """Two images and a video of seven frames, of greys 10, 40, 70, ... 190."""
    for name, colour in (("b.png", (10, 20, 30)), ("a.png", (1, 2, 3))):
        cv2.imwrite(str(tmp_path / name), np.full((48, 64, 3), colour, np.uint8))
    write_video(tmp_path / "0.avi", range(10, 191, 30))
    (tmp_path / "note.md").touch()
    return tmp_path


# Files ----------------------------------------------------------------------------------------------------------------
def test_an_image(tree):
    dataset = LoadImages(tree / "b.png", img_size=96, stride=32)
    assert (len(dataset), dataset.nf, dataset.files, dataset.video_flag) == (1, 1, [str(tree / "b.png")], [False])
    assert (dataset.mode, dataset.cap, hasattr(dataset, "frame")) == ("image", None, False)
    ((path, im, im0, cap, text),) = dataset
    assert (path, cap, text) == (str(tree / "b.png"), None, f"image 1/1 {path}: ")
    assert (im.shape, im.dtype, im.flags.c_contiguous) == ((3, 96, 96), np.uint8, True)  # 72 rounded up to 96
    assert im[:, 48, 48].tolist() == [30, 20, 10]
    assert im[:, 0, 0].tolist() == [114] * 3
    assert im0.shape == (48, 64, 3)
    assert im0[0, 0].tolist() == [10, 20, 30]
    assert (dataset.count, dataset.mode) == (1, "image")


def test_a_video(tree):
    dataset = LoadImages(str(tree / "0.avi"), img_size=64)
    assert (dataset.frame, dataset.frames, dataset.cap.get(cv2.CAP_PROP_FRAME_COUNT)) == (0, 7, 7)
    seen = []
    for _, im, im0, cap, text in dataset:
        seen.append((grey(im0), dataset.frame, text))
        assert (cap.get(cv2.CAP_PROP_FPS), cap.get(cv2.CAP_PROP_FRAME_WIDTH)) == (12.5, 64)
        assert cap.get(cv2.CAP_PROP_FRAME_HEIGHT) == 48
        assert (im.shape, dataset.mode, dataset.count) == ((3, 64, 64), "video", 0)
    assert [v for v, _, _ in seen] == pytest.approx(range(10, 191, 30), abs=2)
    assert seen[2][1:] == (3, f"video 1/1 (3/7) {tree / '0.avi'}: ")
    assert dataset.count == 1


def test_every_third_frame(tree):
    dataset = LoadImages(tree / "0.avi", vid_stride=3)
    assert [(grey(im0), text[:16]) for _, _, im0, _, text in dataset] == [
        (pytest.approx(70, abs=2), "video 1/1 (1/2) "),
        (pytest.approx(160, abs=2), "video 1/1 (2/2) "),
    ]
    assert dataset.frames == 2


def test_a_folder_gives_images_first_and_can_be_read_twice(tree):
    dataset = LoadImages(tree)
    assert [file[len(str(tree)) + 1 :] for file in dataset.files] == ["a.png", "b.png", "0.avi"]
    assert dataset.video_flag == [False, False, True]
    for _ in range(2):
        modes, counts = [], []
        for _, _, _, cap, _ in dataset:
            assert cap.get(cv2.CAP_PROP_FPS) == 12.5  # with the images too: of the video that follows
            modes.append(dataset.mode)
            counts.append(dataset.count)
        assert modes == ["image"] * 2 + ["video"] * 7
        assert counts == [1, *[2] * 8]
        assert dataset.count == 3


def test_lists_and_patterns(tree):
    (tree / "list.txt").write_text("a.png\n0.avi\n")
    files = [str(tree / name) for name in ("a.png", "b.png", "0.avi")]
    assert LoadImages(tree / "list.txt").files == [files[0], files[2]]
    assert LoadImages(str(tree / "*.png")).files == files[:2]
    assert LoadImages([files[2], files[1], tree / "a.png"]).files == [files[1], files[0], files[2]]


def test_what_cannot_be_read_is_skipped_and_what_is_missing_is_an_error(tree, caplog):
    (tree / "a.png").write_bytes(b"no image")
    (tree / "0.avi").write_bytes(b"no video")
    dataset = LoadImages(tree)
    assert [(text[:9], cap.isOpened()) for _, _, _, cap, text in dataset] == [("image 2/3", False)]
    assert "a.png: cannot be decoded" in caplog.text
    assert "0.avi: not a video" in caplog.text
    assert dataset.count == 3
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        LoadImages(tree / "absent.jpg")
    (tree / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images or videos found"):
        LoadImages(tree / "empty")


def test_size_auto_and_transforms(tree):
    assert next(LoadImages(tree / "a.png", (64, 128), auto=False))[1].shape == (3, 64, 128)
    assert next(LoadImages(tree / "a.png", 64, stride=16))[1].shape == (3, 48, 64)
    dataset = LoadImages(tree / "a.png", transforms=lambda image: image[:5, :5])
    _, im, im0, _, _ = next(dataset)
    assert np.array_equal(im, im0[:5, :5])


@pytest.mark.parametrize("loader", [LoadImages, LoadStreams])
def test_vid_stride_is_at_least_1(tree, loader):
    with pytest.raises(ValueError, match="vid_stride is 0, but must be at least 1"):
        loader(str(tree / "0.avi"), vid_stride=0)


# Streams --------------------------------------------------------------------------------------------------------------
def test_streams_of_a_list(tree, tmp_path):
    write_video(tmp_path / "short.avi", (200, 100))
    (tmp_path / "cameras.streams").write_text(f"{tree / '0.avi'}\n{tmp_path / 'short.avi'}\n")
    dataset = LoadStreams(str(tmp_path / "cameras.streams"), img_size=64, stride=16)
    assert (len(dataset), dataset.mode, dataset.rect, dataset.count) == (2, "stream", True, -1)
    assert (dataset.fps, dataset.frames, len(dataset.threads)) == ([12.5, 12.5], [7, 2], 2)
    assert dataset.sources[1].endswith("short_avi")
    assert [grey(image) for image in dataset.imgs] == pytest.approx([10, 200], abs=2)
    items = []
    for i, (path, im, im0s, cap, text) in enumerate(dataset):
        assert (path, cap, text, dataset.count) == (dataset.sources, None, "", i)
        assert (im.shape, im.dtype, im.flags.c_contiguous) == ((2, 3, 48, 64), np.uint8, True)
        items.append([grey(image) for image in im0s])
    assert items == [pytest.approx([10, 200], abs=2), pytest.approx([40, 100], abs=2)]  # until the first one ends


def test_a_video_as_a_stream_keeps_all_its_frames(tree):
    dataset = LoadStreams(str(tree / "0.avi"), vid_stride=3)
    assert [grey(im0s[0]) for _, _, im0s, _, _ in dataset] == pytest.approx([70, 160], abs=2)


def test_streams_of_several_shapes_are_padded_to_one(tree, tmp_path):
    write_video(tmp_path / "high.avi", (5,), size=(48, 64))
    dataset = LoadStreams([str(tree / "0.avi"), str(tmp_path / "high.avi")], img_size=64, stride=16)
    assert (dataset.rect, dataset.auto) == (False, False)
    _, im, im0s, _, _ = next(iter(dataset))
    assert (im.shape, [image.shape for image in im0s]) == ((2, 3, 64, 64), [(48, 64, 3), (64, 48, 3)])


def test_live_streams_repeat_their_last_frame_and_files_wait(tree, monkeypatch):
    """The first source is taken for a live one: it is read as fast as it can be, its frames may be lost."""
    dataset = LoadStreams([str(tree / "0.avi"), str(tree / "0.avi")])
    assert math.inf not in dataset.frames
    monkeypatch.setattr(dataset._streams.streams[0], "total", 0)
    monkeypatch.setattr(dataset._streams.streams[0], "_reconnect", lambda: False)
    values = [grey(im0s[1]) for _, _, im0s, _, _ in dataset]
    assert values == pytest.approx(range(10, 191, 30)[: len(values)], abs=2)


def test_streams_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such list"):
        LoadStreams(str(tmp_path / "absent.streams"))
    with pytest.raises(OSError, match="cannot be opened"):
        LoadStreams("rtsp://127.0.0.1:9/none")


def test_webcam_is_mirrored(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "cam.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32] = 255
    writer.write(half)
    writer.release()
    path, im, im0, cap, text = next(iter(LoadWebcam(str(tmp_path / "cam.avi"), 64)))
    assert (path, cap, text, im.shape) == ("webcam.jpg", None, "webcam 0: ", (3, 64, 64))
    assert im0[:, 32:].mean() > 250 > 5 > im0[:, :32].mean()


def test_screenshots(monkeypatch):
    class Grabber:
        monitor, area = 1, {"left": 10, "top": 20, "width": 64, "height": 48}

        def __iter__(self):
            for number in (1, 2):
                yield [loaders.Frame(np.full((48, 64, 3), number, np.uint8), "screen1", "live", number)]

    asked = []
    monkeypatch.setattr(loaders, "open_screen", lambda source: asked.append(source) or Grabber())
    dataset = LoadScreenshots("screen 1 10 20 64 48", img_size=64, stride=16)
    items = list(dataset)
    assert asked == ["screen 1 10 20 64 48"]
    assert (dataset.screen, dataset.left, dataset.top, dataset.width, dataset.height) == (1, 10, 20, 64, 48)
    assert (dataset.mode, dataset.frame, dataset.monitor) == ("stream", 2, Grabber.area)
    assert [(item[0], item[1].shape, grey(item[2]), item[3], item[4]) for item in items] == [
        ("1", (3, 48, 64), n, None, "screen 1 (LTWH): 10,20,64,48: ") for n in (1, 2)
    ]


# Four or five values --------------------------------------------------------------------------------------------------
def test_datasets_gives_as_many_values_as_the_loop_unpacks(tree):
    dataset = datasets.LoadImages(str(tree), img_size=64)
    paths, texts = [], []
    for path, im, im0, cap in dataset:
        paths.append(path)
        assert (im.shape, im0.shape, cap.get(cv2.CAP_PROP_FPS)) == ((3, 64, 64), (48, 64, 3), 12.5)
    assert paths == [*dataset.files, *[str(tree / "0.avi")] * 6]
    assert dataset.nframes == 7
    for _, _, _, _, text in dataset:
        texts.append(text)
    assert texts[-1].startswith("video 3/3 (7/7)")
    for i, (_, _, _, _, text) in enumerate(dataset):  # noqa: B007
        pass
    assert i == 8
    for i, (_, _, _, cap) in enumerate(dataset):  # noqa: B007
        pass
    assert i == 8
    assert len(next(iter(datasets.LoadStreams(str(tree / "0.avi"))))) == 4
    assert isinstance(dataset, LoadImages)


def test_a_loop_that_cannot_be_looked_at_gets_four_and_stops_at_once_if_it_wants_five(tree):
    items = list(datasets.LoadImages(str(tree / "a.png")))
    assert [len(item) for item in items] == [4]
    with pytest.raises(ValueError, match="unpack"):
        _, _, _, _, _ = items[0]


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ("for a, b, c, d in x: pass", 4),
        ("for a, b, c, d, e in x: pass", 5),
        ("for i, (a, b, c, d, e) in enumerate(x): pass", 5),
        ("for a, b, c in x: pass", None),
        ("for item in x: a, b, c, d = item", None),
        ("for a in x:\n b, c, d, e = 1, 2, 3, g()", None),
    ],
)
def test_names_unpacked(loop, expected):
    code = compile(loop, "loop", "exec")
    (at,) = [i.offset for i in dis.get_instructions(code) if i.opname == "FOR_ITER"]
    assert loaders.names_unpacked(code, at) == expected


# Addresses ------------------------------------------------------------------------------------------------------------
def test_addresses():
    for name in ("LoadImages", "LoadStreams", "LoadScreenshots"):
        assert getattr(dataloaders, name) is getattr(loaders, name)
    assert (dataloaders.IMG_FORMATS, dataloaders.VID_FORMATS) == (IMG_FORMATS, VID_FORMATS)
    assert issubclass(datasets.LoadWebcam, LoadWebcam)
    assert datasets.LoadScreenshots is LoadScreenshots
    assert datasets.img_formats + datasets.vid_formats == list(IMG_FORMATS + VID_FORMATS)
    for module in (dataloaders, datasets):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = module.nothing
        with pytest.raises(ImportError, match="only detection is here: ClassificationDataset"):
            _ = module.ClassificationDataset


def test_files_of_the_package_are_imported_without_the_loaders():
    code = "import sys; from utils.datasets import demo; sys.exit('utils.dataloaders' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("module", ["utils.dataloaders", "utils.datasets"])
def test_star_imports_give_what_older_scripts_take_from_them(module):
    space = {}
    exec(f"from {module} import *", space)  # noqa: S102
    expected = "LoadImages LoadStreams letterbox create_dataloader LoadImagesAndLabels IMG_FORMATS np torch cv2 Path os"
    assert set(f"{expected} math time glob random".split()) <= set(space)
