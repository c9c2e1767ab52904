"""Pages, animations, HEIC, and the codec of videos."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.inference import video
from engine.inference.pipeline import Frame
from engine.inference.sources import open_files, open_source
from engine.results.images import Pictures
from utils.datasets.images import IMG_FORMATS, VID_FORMATS, decode_image, read_animation
from utils.datasets.lists import list_images
from utils.datasets.output_names import name_results

COLORS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))  # RGB


def animate(file):
    """Three frames of 0.2 seconds, red, green and blue."""
    frames = [Image.new("RGB", (48, 32), color) for color in COLORS]
    options = {"quality": 90} if file.suffix == ".webp" else {}
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=200, **options)


def brightest(frames):
    """Channels (RGB) that are brightest in frames (H, W, 3) BGR."""
    return [2 - int(frame.reshape(-1, 3).mean(0).argmax()) for frame in frames]


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animations_are_read_frame_by_frame(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    animate(file)
    found = list(read_animation(str(file)))
    assert brightest(frame for frame, _ in found) == [0, 1, 2]
    assert {rate for _, rate in found} == {5.0}
    assert [rate for _, rate in read_animation(str(file), 2)] == [2.5]
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(file.read_bytes()[:-40])
    with pytest.raises((ValueError, OSError)):  # noqa: PT011  of PIL, or our own
        list(read_animation(str(cut)))


def test_all_pages_and_frames_of_a_folder(tmp_path):
    animate(tmp_path / "b.webp")
    pages = [np.full((32, 48, 3), color[::-1], np.uint8) for color in COLORS]
    cv2.imwritemulti(str(tmp_path / "c.tif"), pages)
    cv2.imwrite(str(tmp_path / "c_1.png"), pages[0])
    source = open_source(str(tmp_path), tmp_path / "download")
    frames = [frame for (frame,) in source]
    assert [(Path(f.source).name, f.kind, f.number) for f in frames] == [
        ("b.webp", "video", 1), ("b.webp", "video", 2), ("b.webp", "video", 3),
        ("c.tif", "image", 1), ("c.tif", "image", 2), ("c.tif", "image", 3), ("c_1.png", "image", 0),
    ]  # fmt: skip
    assert brightest(frame.image for frame in frames) == [0, 1, 2, 0, 1, 2, 0]
    assert len(set(source.results.stems.values())) == 3
    assert len([1 for _ in open_files(str(tmp_path))]) == 3  # YOLOv5's loaders take the first of each


def test_pages_are_written_under_their_number(tmp_path):
    pictures = Pictures(tmp_path, name_results(["x/scan.tif"], ["x/scan.tif"]))
    for number in (1, 2):
        image = np.full((32, 48, 3), 100 * number, np.uint8)
        pictures.add(Frame(image, "x/scan.tif", number=number), image)
    pictures.close()
    assert [cv2.imread(str(tmp_path / f"pages/scan_{n}.jpg")).max() for n in (1, 2)] == [100, 200]


def test_what_opencv_reads_is_listed(tmp_path):
    assert {"avif", "jp2", "webp"} <= set(IMG_FORMATS)
    assert "webm" in VID_FORMATS
    picture = np.full((32, 48, 3), (30, 60, 200), np.uint8)
    for suffix in ("avif", "jp2", "webp"):
        if cv2.haveImageWriter(f"x.{suffix}"):
            cv2.imwrite(str(tmp_path / f"x.{suffix}"), picture)
            assert np.abs(decode_image(str(tmp_path / f"x.{suffix}")).astype(int) - picture).max() < 12


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_without_its_package_names_it(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"123")
    for read in (open_files, lambda path: open_source(path, tmp_path), list_images):
        for path in (tmp_path,) if read is list_images else (tmp_path, tmp_path / "a.heic"):
            with pytest.raises((ValueError, FileNotFoundError), match="for HEIC: pip install pillow-heif"):
                read(str(path))


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    picture = np.full((32, 48, 3), (200, 60, 30), np.uint8)
    heif.from_pillow(Image.fromarray(picture)).save(tmp_path / "a.heic", quality=95)
    assert np.abs(decode_image(str(tmp_path / "a.heic"))[..., ::-1].astype(int) - picture).max() < 12
    assert decode_image(str(tmp_path / "a.heic"), cv2.IMREAD_GRAYSCALE).shape == (32, 48)


@pytest.mark.parametrize("codec", [video.H264, video.MPEG4])
def test_codec_of_a_video_and_how_to_convert_it(tmp_path, monkeypatch, caplog, codec):
    if codec == video.H264:
        monkeypatch.setattr(video.cv2, "VideoWriter", lambda file, _, *rest: WRITER(file, MPEG4_CODE, *rest))
    else:
        monkeypatch.setattr(video.cv2, "VideoWriter_fourcc", lambda *code: 0 if code[0] == "a" else MPEG4_CODE)
    monkeypatch.setattr(video, "best_codec", video.best_codec.__wrapped__)
    pictures = Pictures(tmp_path, name_results(["a.avi", "b.avi"], ["a.avi", "b.avi"]))
    image = np.zeros((64, 64, 3), np.uint8)
    for name in ("a.avi", "b.avi"):
        pictures.add(Frame(image, name, "video", 1, 1, 25.0), image)
        assert pictures._videos[name].codec == codec
    pictures.close()
    told = [record.message for record in caplog.records if "no H.264" in record.message]
    assert len(told) == (codec == video.MPEG4)
    for line in told:
        assert f"ffmpeg -i {tmp_path}/a.mp4 -c:v libx264 -pix_fmt yuv420p {tmp_path}/a-h264.mp4" in line


WRITER, MPEG4_CODE = cv2.VideoWriter, cv2.VideoWriter_fourcc(*"mp4v")
