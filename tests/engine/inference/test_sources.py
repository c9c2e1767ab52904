"""engine/inference/sources.py, streams.py, downloads.py: pixels of every kind of file, servers that die, the screen."""

import http.server
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from engine.inference import streams
from engine.inference.sources import open_source, read_image
from engine.inference.streams import Screen, Streams, stream_name
from engine.results.images import display_problem
from tests.waiting import wait_for
from utils.downloads import download
from utils.paths import ROOT

GRADIENT = np.stack(np.meshgrid(np.arange(0, 240, 4), np.arange(0, 160, 4), [90]), -1)[:, :, 0].astype(np.uint8)[
    ..., ::-1
]
GRADIENT = np.ascontiguousarray(GRADIENT)  # (40, 60, 3) BGR


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def rgb():
    return Image.fromarray(GRADIENT[..., ::-1])


# Images ---------------------------------------------------------------------------------------------------------------


def test_depths_and_channels(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), GRADIENT.astype(np.uint16) * 257)
    rgb().convert("L").save(tmp_path / "grey.png")
    clear = rgb().convert("RGBA")
    clear.putalpha(7)
    clear.save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "deep.png")), GRADIENT)
    np.testing.assert_array_equal(read_image(str(tmp_path / "clear.png")), GRADIENT)
    grey = read_image(str(tmp_path / "grey.png"))
    np.testing.assert_array_equal(grey, np.repeat(np.asarray(rgb().convert("L"))[..., None], 3, 2))


def test_cmyk_has_the_colours_that_pil_sees(tmp_path):
    rgb().convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    seen = np.asarray(Image.open(tmp_path / "print.jpg").convert("RGB"))[..., ::-1].astype(int)
    assert np.abs(read_image(str(tmp_path / "print.jpg")) - seen).mean() < 4


def test_exif_rotation_and_odd_names(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned right
    name = str(tmp_path / "a photo 照片.jpg")
    rgb().save(name, exif=turned, quality=98)
    image = read_image(name)
    assert image.shape == (60, 40, 3)
    assert np.abs(image.astype(int) - np.rot90(GRADIENT, -1)).mean() < 4


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".bmp"])
def test_half_a_file_is_an_error(tmp_path, ending):
    data = cv2.imencode(ending, GRADIENT)[1].tobytes()
    (tmp_path / f"x{ending}").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"x{ending}: "):
        read_image(str(tmp_path / f"x{ending}"))


# Grammar --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.PNG", "a.jpg", "deep/c.png", "deep/deeper/d.jpg", "[odd].png", "note.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a.mp4").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.jpg", ["a.jpg"]),
        (".", ["[odd].png", "a.jpg", "b.PNG", "a.mp4"]),
        ("*.jpg", ["a.jpg"]),
        ("**/*.*", ["[odd].png", "a.jpg", "b.PNG", "deep/c.png", "deep/deeper/d.jpg", "a.mp4"]),
        ("deep/*", ["deep/c.png"]),
        ("[odd].png", ["[odd].png"]),
    ],
)
def test_files_folders_patterns(tree, tmp_path, source, expected):
    assert [os.path.normpath(name) for name in open_source(source, tmp_path).names] == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (["b.PNG", "a.mp4", "a.jpg"], ["b.PNG", "a.jpg", "a.mp4"]),
        ((Path("a.jpg"), "deep", "*.PNG", "a.jpg"), ["a.jpg", "deep/c.png", "b.PNG"]),
        ([Path("a.jpg")], ["a.jpg"]),
    ],
)
def test_several_files_are_one_source(tree, tmp_path, source, expected):
    assert [os.path.normpath(name) for name in open_source(source, tmp_path).names] == expected


def test_several_streams_are_one_source(tree, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("engine.inference.sources.Streams", lambda addresses, stride: opened.append(addresses))
    (tmp_path / "more.streams").write_text("2\n")
    open_source(["0", "rtsp://host/a", tmp_path / "more.streams"], tmp_path)
    assert opened == [["0", "rtsp://host/a", "2"]]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            ["a.jpg", "gone.jpg", "*.webp"],
            FileNotFoundError,
            r"2 of 3 sources not found \(from .*\): gone.jpg, \*.webp$",
        ),
        ([f"{i}.jpg" for i in range(9)], FileNotFoundError, r"9 of 9 sources not found .*: 0.jpg, .*4.jpg, ... 4 more"),
        (["a.jpg", "note.md"], ValueError, "note.md: not the suffix of an image"),
        (["a.jpg", "0"], ValueError, "0 is a camera or stream, which has no end, and a.jpg a file"),
        (["a.jpg", "screen 1"], ValueError, "the screen is a source of its own"),
        ([], ValueError, "--source is empty: give"),
        (["a.jpg", " "], ValueError, "--source is empty in part"),
        ("gone.jpg", FileNotFoundError, "gone.jpg: no such file or folder"),
        ("*.webp", FileNotFoundError, "no file matches this pattern"),
        ("note.md", ValueError, "not the suffix of an image"),
        ("deep/deeper/*.jpg.txt", FileNotFoundError, "no such list"),
        ("", ValueError, "--source is empty"),
        ("screen 1 2 3", ValueError, "expected screen"),
        ("https://www.youtube.com/watch?v=abc", ValueError, "YouTube pages are not supported"),
        ("97", OSError, "camera camera97 cannot be opened|camera.*97 cannot be opened"),
    ],
)
def test_sources_that_do_not_work(tree, tmp_path, source, error, message):
    with pytest.raises(error, match=message):
        open_source(source, tmp_path)


@pytest.mark.parametrize("name", ["7", "screen", "list.txt", "list.streams", "a[1]", "rtsp:"])
def test_a_folder_that_exists_is_read_whatever_it_is_called(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.jpg").touch()
    assert open_source(name, tmp_path).names == [f"{name}/x.jpg"]


def test_a_number_is_a_camera_unless_a_folder_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.inference.sources.Streams", lambda addresses, stride: addresses)
    (tmp_path / "0").touch()  # no image by its name, so it cannot be meant
    assert [open_source(number, tmp_path) for number in ("0", "3")] == [["0"], ["3"]]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a[1]/*.jpg", ["a[1]/x.jpg", "a[1]/x[2].jpg"]),
        ("a[1]/x[2].*", ["a[1]/x[2].jpg"]),
        ("{}/a[1]/?.jpg", ["{}/a[1]/x.jpg"]),
        ("a[12]/*.jpg", ["a1/y.jpg"]),
        ("a?/*.jpg", ["a1/y.jpg"]),
        ("?[[]1]/x.jpg", ["a[1]/x.jpg"]),
        ("*/x[[]2].jpg", ["a[1]/x[2].jpg"]),
    ],
)
def test_brackets_in_names(tmp_path, monkeypatch, pattern, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("a1/y.jpg", "a[1]/x.jpg", "a[1]/x[2].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pattern, *expected = [text.replace("{}", str(tmp_path)) for text in (pattern, *expected)]
    assert open_source(pattern, tmp_path).names == expected


def test_brackets_that_fit_nothing_are_explained(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"write \[\[\] for a literal \["):
        open_source("gone[1]/*.jpg", tmp_path)


def test_what_is_passed_over_is_counted_and_named(tree, tmp_path):
    for i in range(7):
        (tmp_path / f"b{i}.txt").touch()
    (tmp_path / "z\x1b[2J.HEIC").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    source = open_source(str(tmp_path), tmp_path)
    assert source.left_out.startswith("7 .txt, ")
    for part in ("1 folder, ", "1 .md", "1 .heic", "1 .jpg", "b0.txt, b1.txt"):
        assert part in source.left_out
    assert "\x1b" not in source.left_out
    assert "b6.txt" not in source.left_out  # a few names are enough
    assert open_source("*.jpg", tmp_path).left_out == ""
    (tmp_path / "only/d").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no images or videos found, but 1 folder \(d\)"):
        open_source("only", tmp_path)


def test_further_formats_are_read(tmp_path):
    for ending in (".avif", ".jp2", ".jfif"):
        encoder = ".jpg" if ending == ".jfif" else ending
        if not cv2.haveImageWriter(f"x{encoder}"):
            continue
        (tmp_path / f"x{ending}").write_bytes(cv2.imencode(encoder, GRADIENT)[1])
        ((frame,),) = open_source(tmp_path / f"x{ending}", tmp_path)
        assert np.abs(frame.image.astype(int) - GRADIENT).mean() < 4


def test_several_pages_are_mentioned(tmp_path, lines):
    first, second = rgb(), rgb().rotate(180)
    names = ["pages.tif", "moving.webp", "moving.png"]
    for name in names:
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
    first.save(tmp_path / "one.tif")
    preview = TiffImagePlugin.ImageFileDirectory_v2()
    preview[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "preview.tif"), True) as file:
        first.save(file, "TIFF")
        file.newFrame()
        first.resize((6, 4)).save(file, "TIFF", tiffinfo=preview)
    for file in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_image(str(file)), GRADIENT)
    for file in sorted(tmp_path.iterdir()):
        assert (f"{file}: has several pages" in lines()) == (file.name in names), file


def test_names_of_streams_hold_no_password():
    assert stream_name("rtsp://me:secret@10.0.0.7/cam?x=1") == "rtsp___10_0_0_7_cam_x_1"
    assert stream_name("rtsp://me:sec@ret@10.0.0.7/cam@x") == "rtsp___10_0_0_7_cam_x"
    assert stream_name("0") == "camera0"


def test_names_of_streams_are_short_and_differ(monkeypatch):
    monkeypatch.setattr(streams, "Stream", lambda *_: None)
    names = Streams(["x", "x", "x-2", "rtsp://h/" + "a" * 300, "rtsp://h/" + "a" * 300 + "b"]).names
    assert len(set(names)) == 5
    assert all(len(name) < 140 for name in names)


@pytest.mark.parametrize(("stride", "fps"), [(1, 10), (2, 5)])
def test_a_video_in_a_list_of_streams_keeps_its_rate(tmp_path, stride, fps):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (60, 40))
    for _ in range(6):
        writer.write(GRADIENT)
    writer.release()
    (tmp_path / "l.streams").write_text(f"{tmp_path / 'v.avi'}\n")
    frames = [frame for frames in open_source(tmp_path / "l.streams", tmp_path, stride) for frame in frames]
    assert [frame.fps for frame in frames] == [fps] * (6 // stride)


# Network --------------------------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves what `server.answers` holds: bytes of a file, or a generator function of JPEG parts."""

    def do_GET(self):
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        self.send_response(200)
        if callable(answer):
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
            self.end_headers()
            for data in answer(self.server):
                try:
                    head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:
                    return
        else:
            length, data, *kind = answer
            self.send_header("Content-Length", str(length))
            if kind:
                self.send_header("Content-Type", kind[0])
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serve(answers, port=0):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads, server.answers, server.alive = True, answers, True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.alive = False
        server.shutdown()
        server.server_close()
        thread.join()


def endless(server):
    """A grey that gets brighter, 50 frames a second, until the server dies."""
    for i in range(10_000):
        if not server.alive:
            return
        yield cv2.imencode(".jpg", np.full((48, 64, 3), i % 250, np.uint8))[1].tobytes()
        time.sleep(0.02)


def test_stream_that_dies_and_comes_back(lines, monkeypatch):
    monkeypatch.setattr(streams, "RETRY_FIRST", 0.1)
    with serve({"/cam": endless}) as address:
        port = int(address.rpartition(":")[2])
        source = Streams([f"{address}/cam"])
        frames = iter(source)
        (first,) = next(frames)
        assert (first.image.shape, first.kind, first.source) == ((48, 64, 3), "live", source.names[0])
    wait_for(lambda: "connection lost" in lines())
    drain(source)
    with serve({"/cam": endless}, port):
        wait_for(lambda: "connected again" in lines())
        (later,) = next(frames)
        assert later.number > first.number
        source.stop()
        assert next(frames, None) is None


def drain(source):
    """Forget the frame that was under way."""
    with source._news:
        source.streams[0].take()


def test_slow_reader_gets_the_newest_frame():
    with serve({"/cam": endless}) as address:
        source = Streams([f"{address}/cam"])
        frames = iter(source)
        (first,) = next(frames)
        wait_for(lambda: source.streams[0]._number > first.number + 10)
        (second,) = next(frames)
        source.stop()
    assert second.number > first.number + 10


def test_stream_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/cam"
        with pytest.raises(OSError, match="cannot be opened"):
            Streams([address])


STUCK = """
import signal, sys, threading
from engine.inference.streams import Streams
source = Streams([sys.argv[1]])
next(iter(source))
if sys.argv[2] == "stop":
    source.stop()
    assert not any(thread.name.startswith("stream") for thread in threading.enumerate())
if sys.argv[2] == "interrupt":
    signal.raise_signal(signal.SIGINT)
sys.exit(3)
"""


@pytest.mark.parametrize("end", ["exit", "stop", "interrupt"])
def test_a_program_ends_while_a_stream_waits_for_a_frame(end):
    """A thread that came back from OpenCV while Python shuts down aborted the process."""

    def slow(server):
        for i, part in enumerate(endless(server)):
            yield part
            time.sleep(0.3 if i else 0)

    with serve({"/cam": slow}) as address:
        done = subprocess.run([sys.executable, "-c", STUCK, f"{address}/cam", end], cwd=ROOT, capture_output=True)
    assert done.returncode == (-signal.SIGINT if end == "interrupt" else 3), done.stderr
    assert b"terminate" not in done.stderr


def test_an_image_behind_a_url_is_no_stream_and_a_stream_no_image(tmp_path):
    data = cv2.imencode(".png", GRADIENT)[1].tobytes()
    with serve({"/snap?camera=2": (len(data), data, "image/png"), "/live.jpg": endless}) as address:
        image = open_source(f"{address}/snap?camera=2", tmp_path)
        assert (image.live, image.names) == (False, [str(tmp_path / "snap.png")])
        stream = open_source(f"{address}/live.jpg", tmp_path)
        assert stream.live
        assert next(iter(stream))[0].shape == (48, 64)
        stream.stop()


def test_addresses_of_files_are_fetched(tmp_path):
    data = cv2.imencode(".png", GRADIENT)[1].tobytes()
    with serve({"/a%20b.png?size=1": (len(data), data)}) as address:
        source = open_source(f"{address}/a%20b.png?size=1", tmp_path / "sources")
    assert source.names == [str(tmp_path / "sources" / "a b.png")]
    ((frame,),) = source
    np.testing.assert_array_equal(frame.image, GRADIENT)


@pytest.mark.parametrize(
    ("path", "message"),
    [("/gone.png", "answers 404"), ("/short.png", "broke|announced"), ("/empty.png", "empty file"), ("/", "no file")],
)
def test_failed_downloads_leave_nothing(tmp_path, path, message):
    with serve({"/short.png": (100, b"only this"), "/empty.png": (0, b"")}) as address:
        with pytest.raises((OSError, ValueError), match=message):
            download(address + path, tmp_path / "d")
    assert not list(tmp_path.rglob("*.png"))
    with pytest.raises(ValueError, match="http"):
        download("ftp://example.org/x.png", tmp_path)


# Screen ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """An empty screen of 320 x 240 pixels."""
    pytest.importorskip("mss")
    if not shutil.which("Xvfb"):
        pytest.skip("no Xvfb")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "320x240x24", "-nolisten", "tcp", "-noreset"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as answer:
        number = answer.readline().strip()
    monkeypatch.setenv("DISPLAY", f":{number}")
    yield
    server.terminate()
    server.wait()


def test_screen(screen, tmp_path):
    source = open_source("screen", tmp_path)
    frames = iter(source)
    (frame,) = next(frames)
    assert frame.image.shape == (240, 320, 3)
    source.stop()
    assert next(frames, None) is None
    (part,) = next(iter(open_source("screen 1 10 20 100 50", tmp_path)))
    assert (part.image.shape, part.source, part.kind) == ((50, 100, 3), "screen1", "live")
    with pytest.raises(ValueError, match="screen 7 does not exist"):
        open_source("screen 7", tmp_path)
    with pytest.raises(ValueError, match="extends beyond screen 0 of 320 x 240"):
        open_source("screen 300 0 100 100", tmp_path)
    assert display_problem() == "" or "without windows" in display_problem()


def test_no_screen(monkeypatch):
    pytest.importorskip("mss")
    monkeypatch.setenv("DISPLAY", ":987")
    with pytest.raises(OSError, match="the screen cannot be captured"):
        Screen()
    assert display_problem()
