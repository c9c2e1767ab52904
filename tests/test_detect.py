"""detect.py end to end with a small random network: sources, files, options, Ctrl-C."""

import json
import logging
import os
import runpy
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import detect
from models.detections import Detections
from models.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.waiting import HANG, wait_for
from utils.boxes import xyxy2xywhn
from utils.console import LOGGER, cli_errors
from utils.paths import ROOT

IMGSZ = 96
NAMES = {0: "cat", 1: "a/b", 2: "白细胞"}


@pytest.fixture(scope="module")
def weights(narrow_weights):
    return narrow_weights


@pytest.fixture
def run(weights, tmp_path):
    """Call detect.run with small settings; results go into out/exp."""

    def call(source, **options):
        options = {"imgsz": IMGSZ, "device": "cpu", "project": tmp_path / "out", "conf_thres": 0.3, **options}
        return detect.run(options.pop("weights", weights), source, **options)

    return call


@pytest.fixture
def lines(caplog):
    """Messages of the logger so far, as one text."""
    caplog.set_level(logging.INFO, logger="yolov5")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def picture(seed=0, height=60, width=90):
    """Blobs of colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def write(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(file.suffix, image)[1])
    return file


def video(file, frames=10, codec="mp4v", fps=20.0):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*codec), fps, (96, 64))
    for i in range(frames):
        writer.write(picture(i, 64, 96))
    writer.release()
    return file


def frames_of(file):
    capture = cv2.VideoCapture(str(file))
    count = 0
    while capture.read()[0]:
        count += 1
    return count, capture.get(cv2.CAP_PROP_FPS), (int(capture.get(4)), int(capture.get(3)))


def out(tmp_path, run="exp"):
    folder = tmp_path / "out" / run
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_every_file_of_an_image(run, tmp_path, lines):
    image = write(tmp_path / "in" / "a b 图.png", picture())
    all_files = {f"save_{what}": True for what in ("txt", "conf", "csv", "json", "crop")}
    (result,) = run(image, **all_files)
    found = result.detections
    assert len(found) > 3
    assert found[:, 4].tolist() == sorted(found[:, 4].tolist(), reverse=True)
    folder = tmp_path / "out/exp"
    drawn = cv2.imdecode(np.fromfile(folder / "a b 图.png", np.uint8), 1)
    assert drawn.shape == (60, 90, 3)
    assert (drawn != picture()).any()
    rows = np.loadtxt(folder / "labels/a b 图.txt", ndmin=2)
    expected = torch.cat((found[:, 5:], xyxy2xywhn(found[:, :4], 90, 60), found[:, 4:5]), 1).flip(0)
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-5, atol=1e-6)
    table = (folder / "predictions.csv").read_bytes().decode()
    last = found[0]
    assert table.startswith("Image Name,Prediction,Confidence\r\n")
    assert table.endswith(f"a b 图.png,{NAMES[int(last[5])]},{float(last[4]):.2f}\r\n")
    entries = json.loads((folder / "predictions.json").read_text())
    assert len(entries) == len(found)
    assert entries[0]["image_id"] == "a b 图"
    assert entries[0]["bbox"][2] == pytest.approx(float(last[2] - last[0]), abs=1e-3)
    groups = {"cat": 0, "a_b": 1, "白细胞": 2}
    counts = {g: len(list((folder / "crops" / g).glob("*"))) for g in groups if (folder / "crops" / g).exists()}
    assert counts == {g: n for g, c in groups.items() if (n := int((found[:, 5] == c).sum()))}
    assert f"{int((found[:, 5] == 0).sum())} cat in 1" in lines() or not (found[:, 5] == 0).any()


def test_crop_is_the_enlarged_box_of_the_clean_image(run, tmp_path):
    clean = picture(3, 200, 300)
    (result,) = run(write(tmp_path / "in/x.png", clean), save_crop=True, max_det=1, nosave=True)
    x1, y1, x2, y2, _, cls = result.detections[0].tolist()
    (file,) = (tmp_path / "out/exp/crops").rglob("*.jpg")
    crop = cv2.imread(str(file))
    half_w, half_h = (x2 - x1) * 1.02 / 2 + 5, (y2 - y1) * 1.02 / 2 + 5
    left, top = max(int((x1 + x2) / 2 - half_w), 0), max(int((y1 + y2) / 2 - half_h), 0)
    expected = clean[top : top + crop.shape[0], left : left + crop.shape[1]].astype(int)
    assert np.abs(crop - expected).mean() < 2
    assert abs(crop.shape[1] - min(2 * half_w, 300 - left, (x1 + x2) / 2 + half_w)) <= 2


@pytest.mark.parametrize(("save_format", "columns"), [(0, 5), (1, 5)])
def test_text_formats(run, tmp_path, save_format, columns):
    (result,) = run(write(tmp_path / "in/x.png", picture()), save_txt=True, save_format=save_format, nosave=True)
    rows = np.loadtxt(tmp_path / "out/exp/labels/x.txt", ndmin=2)
    best = result.detections[0, :4] / torch.tensor([90, 60, 90, 60])
    if save_format == 0:
        best = torch.cat(((best[:2] + best[2:]) / 2, best[2:] - best[:2]))
    assert rows.shape[1] == columns
    np.testing.assert_allclose(rows[-1, 1:], best.numpy(), rtol=1e-5, atol=1e-6)


def test_again_in_the_same_folder_changes_nothing(run, tmp_path):
    write(tmp_path / "in/x.png", picture())
    video(tmp_path / "in/v.avi", 3, "MJPG")
    options = {"save_txt": True, "save_csv": True, "save_json": True, "save_crop": True, "exist_ok": True}
    run(tmp_path / "in", **options)
    folder = tmp_path / "out/exp"
    before = {name: (folder / name).read_bytes() for name in out(tmp_path) if not name.endswith(".mp4")}
    run(tmp_path / "in", **options)
    assert {name: (folder / name).read_bytes() for name in out(tmp_path) if not name.endswith(".mp4")} == before
    assert {"labels/x.txt", "labels/v_1.txt", "labels/v_3.txt", "predictions.csv", "x.png"} <= set(before)


def test_equal_names_do_not_replace_each_other(run, tmp_path):
    for folder in ("p", "q"):
        write(tmp_path / "in" / folder / "1.png", picture(ord(folder)))
    video(tmp_path / "in/p/v.mp4", 2)
    video(tmp_path / "in/q/v.avi", 2, "MJPG")
    run(f"{tmp_path}/in/**/*.*", save_txt=True, save_csv=True)
    files = out(tmp_path)
    assert {"p/1.png", "q/1.png", "p/v.mp4.mp4", "q/v.avi.mp4"} <= set(files)
    assert {"labels/p/1.png.txt", "labels/q/1.png.txt", "labels/p/v.mp4_2.txt", "labels/q/v.avi_1.txt"} <= set(files)
    assert {"p/1.png", "q/1.png"} <= {row.split(",")[0] for row in (tmp_path / "out/exp/predictions.csv").open()}


def test_a_source_is_never_replaced(run, tmp_path):
    image = write(tmp_path / "out/exp/x.png", picture())
    with pytest.raises(ValueError, match="would overwrite it"):
        run(image.parent, exist_ok=True)
    assert (cv2.imread(str(image)) == picture()).all()


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "mp4v"), ("avi", "MJPG")])
def test_video(run, tmp_path, suffix, codec):
    source = video(tmp_path / f"clip.{suffix}", 10, codec)
    results = run(source, save_txt=True, save_frames=True)
    assert [r.frame for r in results] == list(range(1, 11))
    assert frames_of(tmp_path / "out/exp/clip.mp4") == (10, 20.0, (64, 96))
    assert {f"frames/clip_{i}.jpg" for i in range(1, 11)} <= set(out(tmp_path))
    assert {f"labels/clip_{r.frame}.txt" for r in results if len(r.detections)} <= set(out(tmp_path))


def test_vid_stride_takes_the_last_of_each_group(run, tmp_path):
    source = video(tmp_path / "clip.avi", 11, "MJPG")
    every = run(source, nosave=True)
    third = run(source, vid_stride=3)
    assert [r.frame for r in third] == [1, 2, 3]
    for i, result in enumerate(third):
        assert torch.equal(result.detections, every[3 * i + 2].detections)
    assert frames_of(tmp_path / "out/exp/clip.mp4")[:2] == (3, pytest.approx(20 / 3, rel=1e-3))


def test_stream_gives_images_and_finishes_files_when_closed(run, tmp_path):
    source = video(tmp_path / "clip.mp4", 40)
    results = run(source, stream=True)
    first = next(results)
    assert first.image.shape == (64, 96, 3)
    results.close()
    assert frames_of(tmp_path / "out/exp/clip.mp4")[0] >= 1


def test_damaged_files_are_named_and_left_out(run, tmp_path, lines):
    good = write(tmp_path / "in/good.jpg", picture())
    (tmp_path / "in/half.jpg").write_bytes(good.read_bytes()[:-200])
    (tmp_path / "in/empty.png").touch()
    (tmp_path / "in/text.jpg").write_text("no image")
    (tmp_path / "in/broken.mp4").write_bytes(b"0" * 1000)
    video(tmp_path / "in/z.mp4", 2)
    results = run(tmp_path / "in")
    assert [os.path.basename(r.source) for r in results] == ["good.jpg", "z.mp4", "z.mp4"]
    for name in ("half.jpg", "empty.png", "text.jpg", "broken.mp4"):
        assert any(name in line and line.endswith("skipped") for line in lines().splitlines()), name
    assert "4 of 6 files could not be read" in lines()
    with pytest.raises(ValueError, match="none of the 1 files could be read"):
        run(tmp_path / "in/text.jpg")


def test_list_with_a_missing_line(run, tmp_path, lines):
    write(tmp_path / "in/a.png", picture(1))
    write(tmp_path / "more/b.png", picture(2))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/in/a.png\n# remark\n\nnowhere.png\nmore\n{tmp_path}/in/a.png\n")
    results = run(tmp_path / "list.txt")
    assert [os.path.basename(r.source) for r in results] == ["a.png", "b.png"]
    assert "nowhere.png: no such file" in lines()


def test_a_list_of_paths(run, tmp_path):
    files = [write(tmp_path / name, picture(i)) for i, name in enumerate(("p/b.png", "q/b.png", "a.png"))]
    results = run([files[0], str(files[1]), files[2]], save_txt=True)
    assert [r.source for r in results] == list(map(str, files))
    assert {"p/b.png", "q/b.png", "a.png", "labels/p/b.png.txt", "labels/q/b.png.txt"} <= set(out(tmp_path))
    assert torch.equal(run(files[1])[0].detections, results[1].detections)
    with pytest.raises(FileNotFoundError, match="1 of 2 sources not found .*gone.png"):
        run([files[0], tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="--source is array"):
        run([picture()])


def test_several_streams_at_once(run, tmp_path):
    paths = [video(tmp_path / f"{name}.avi", n, "MJPG") for name, n in (("one", 5), ("two", 8))]
    (tmp_path / "two.streams").write_text("".join(f"{path}\n" for path in paths))
    results = run(tmp_path / "two.streams", save_txt=True)
    names = sorted({r.source for r in results})
    assert [sum(r.source == name for r in results) for name in names] == [5, 8]
    assert {f"{name}.mp4" for name in names} <= set(out(tmp_path))


def test_classes_agnostic_and_max_det(run, tmp_path):
    image = write(tmp_path / "x.png", picture())
    everything = run(image, nosave=True)[0].detections
    cls = int(everything[0, 5])
    chosen = run(image, nosave=True, classes=[cls])[0]
    assert set(chosen.detections[:, 5].tolist()) == {cls}
    assert torch.equal(run(image, nosave=True, classes=[chosen.names[cls]])[0].detections, chosen.detections)
    with pytest.raises(ValueError, match=r"--classes with .*\.pt: no class 'catt'. Did you mean 'cat'"):
        run(image, nosave=True, classes=["catt"])
    assert torch.equal(run(image, nosave=True, max_det=2)[0].detections, everything[:2])
    assert len(run(image, nosave=True, agnostic_nms=True, iou_thres=0.1)[0].detections) < len(
        run(image, nosave=True, iou_thres=0.1)[0].detections
    )
    assert not (tmp_path / "out").exists()


def test_ensemble_and_augment_see_more(run, tmp_path, weights):
    image = write(tmp_path / "x.png", picture())
    alone = run(image, nosave=True)[0].detections
    twice = run(image, nosave=True, weights=[weights, weights])[0].detections
    torch.testing.assert_close(twice, alone)  # the same boxes again, which NMS drops
    views = run(image, nosave=True, augment=True)[0].detections
    assert views.shape != alone.shape or not torch.allclose(views, alone)


def test_slices_of_a_small_image_change_nothing(run, tmp_path):
    image = write(tmp_path / "x.png", picture())
    torch.testing.assert_close(
        run(image, nosave=True, slice=96)[0].detections, run(image, nosave=True)[0].detections, rtol=0, atol=0
    )


def test_slices_of_a_large_image_find_more(run, tmp_path):
    image = write(tmp_path / "x.png", picture(0, 300, 400))
    plain = run(image, nosave=True)[0].detections
    sliced = run(image, nosave=True, slice=96, overlap=0.2)[0].detections
    assert len(sliced) > len(plain)
    assert sliced[:, :4].min() >= 0
    assert sliced[:, 2].max() <= 400
    assert sliced[:, 3].max() <= 300


def test_feature_maps(run, tmp_path):
    write(tmp_path / "in/x.png", picture())
    run(tmp_path / "in", visualize=True, nosave=True)
    files = [name for name in out(tmp_path) if name.startswith("x/")]
    assert "x/stage0_Conv_features.png" in files
    assert not any("Detect" in name for name in files)
    first = np.load(tmp_path / "out/exp/x/stage0_Conv_features.npy")
    assert first.shape[1:] == (32, 48)  # 64 x 96, stride 2


def test_visualize_a_model_without_swin_stages(run, tmp_path, lines):
    write(tmp_path / "in/x.png", picture())
    run(tmp_path / "in", visualize=True, nosave=True, report=True, augment=True, slice=64)
    files = [name for name in out(tmp_path) if name.startswith("x/")]
    assert len([name for name in files if name.endswith("_cam.png")]) == 1
    assert not any("attention" in name for name in files)
    assert "the model has no Swin stages: class activation maps are saved, but no attention" in lines()
    assert "class activation map saved to" in lines()
    assert '"layers":["Class activation"]' in (tmp_path / "out/exp/report.html").read_text()
    run(tmp_path / "in", nosave=True, report=True)
    assert '"layers"' not in (tmp_path / "out/exp2/report.html").read_text()


def test_feature_maps_of_odd_names_stay_in_the_run_folder(run, tmp_path):
    for name in ("...jpg", "x.jpg", "x.png", f"{'n' * 251}.jpg"):  # of x.jpg the annotated image has that name too
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(cv2.imencode(".jpg", picture())[1])
    run(tmp_path / "in", visualize=True, save_txt=True, save_crop=True, save_json=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["exp"]
    folders = {name.partition("/")[0] for name in out(tmp_path) if name.endswith("stage0_Conv_features.png")}
    assert folders == {"_", "x.jpg_features", "x.png_features", "n" * 220}
    assert {"...jpg", "x.jpg", "x.png"} <= set(out(tmp_path))


def test_summary_names_the_limit_that_was_reached(run, tmp_path, lines):
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    (found,) = run(tmp_path / "a.png", conf_thres=0.001)
    assert "reached the limit" not in lines()
    less = len(found.detections) - 1
    run(tmp_path / "a.png", conf_thres=0.001, max_det=less)
    assert f"1 of 1 image reached the limit of {less} detections, the best ones were kept" in lines()


def test_summary_names_what_was_not_read(run, tmp_path, lines):
    write(tmp_path / "in/x.png", picture())
    (tmp_path / "in/y.heic").touch()
    run(tmp_path / "in", nosave=True)
    assert "their suffixes belong to neither images nor videos: 1 .heic (y.heic)" in lines()


def test_a_folder_with_a_number_opens_no_window(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "2024/x.png", picture())
    monkeypatch.setattr("engine.results.images.display_problem", lambda: pytest.fail("a camera"))
    assert len(run("2024", nosave=True)) == 1


def test_report(run, tmp_path):
    write(tmp_path / "in/x.png", picture())
    run(tmp_path / "in", report=True, nosave=True)
    assert out(tmp_path) == ["report.html"]
    assert "x.png" in (tmp_path / "out/exp/report.html").read_text()


def test_update_strips_the_weights(run, tmp_path, weights):
    copy = tmp_path / "copy.pt"
    ckpt = load_checkpoint(weights)
    save_checkpoint(copy, {**ckpt, "epoch": 3, "ema": {k: v + 0 for k, v in ckpt["model"].items()}})
    size = copy.stat().st_size
    run(write(tmp_path / "x.png", picture()), weights=copy, nosave=True, update=True)
    assert copy.stat().st_size < size
    assert load_checkpoint(copy)["ema"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": None}, "no weights given"),
        ({"weights": "missing.pt"}, "missing.pt: no such weights"),
        ({"dnn": True}, "--dnn needs .onnx files"),
        ({"save_format": 2}, "--save-format is 2"),
        ({"line_thickness": 0}, "--line-thickness is 0"),
        ({"line_thickness": 10**8}, "--line-thickness is 100000000, but must be at most 500"),
        ({"classes": [3]}, "class 3 does not exist"),
        ({"vid_stride": 0}, "--vid-stride is 0"),
        ({"imgsz": (1, 2, 3)}, "--imgsz is"),
        ({"slice": 10}, "--slice is 10"),
        ({"slice": 64, "overlap": 0.95}, "--overlap is 0.95"),
    ],
)
def test_options_that_cannot_work(run, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(write(tmp_path / "x.png", picture()), **options)
    assert not (tmp_path / "out").exists()


def test_view_without_a_display(run, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ValueError, match="--view-img: "):
        run(write(tmp_path / "x.png", picture()), view_img=True)


def test_abbreviated_options():
    opt = detect.parse_opt("--weights a b --img 320 --conf 0.4 --iou 0.5 --class 0 2 --line 2 --vid 3".split())
    assert (opt.imgsz, opt.conf_thres, opt.iou_thres, opt.classes) == ([320], 0.4, 0.5, [0, 2])
    assert (opt.weights, opt.line_thickness, opt.vid_stride) == (["a", "b"], 2, 3)
    assert detect.parse_opt(["--img-size", "320", "640"]).imgsz == [320, 640]
    assert [detect.parse_opt(["--source", *given]).source for given in ("a", ("a", "b"))] == ["a", ["a", "b"]]


@pytest.mark.parametrize(("given", "expected"), [([], None), (["4"], 4), (["4", "8"], [4, 8])])
def test_window_reaches_the_backend(tmp_path, monkeypatch, given, expected):
    class Stop(Exception):
        pass

    def backend(files, device, **settings):
        raise Stop(settings["window"])

    monkeypatch.setattr(detect, "DetectMultiBackend", backend)
    file = write(tmp_path / "x.png", picture())
    (tmp_path / "a.pt").touch()
    argv = ["--weights", str(tmp_path / "a.pt"), "--source", str(file), "--project", str(tmp_path / "out")]
    with pytest.raises(Stop) as stop:
        detect.main(detect.parse_opt([*argv, *(["--window", *given] if given else [])]))
    assert stop.value.args == (expected,)


def test_errors_end_with_status_1(tmp_path, weights, lines):
    opt = detect.parse_opt(["--weights", str(weights), "--source", str(tmp_path / "none.jpg")])
    with pytest.raises(SystemExit) as stop, cli_errors():
        detect.main(opt)
    assert stop.value.code == 1
    assert "none.jpg: no such file" in lines()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_video_that_plays(tmp_path, weights, number, status, monkeypatch, lines):
    source = video(tmp_path / "long.avi", 30, "MJPG")
    told = []

    def at_the_first_line(record):
        if "video 1/1 (" in record.getMessage() and not told:
            told.append(record)
            signal.raise_signal(number)
        return True

    argv = ["detect.py", "--weights", str(weights), "--source", str(source), "--img", "96", "--conf-thres", "0.3"]
    monkeypatch.setattr(sys, "argv", [*argv, "--project", str(tmp_path / "out")])
    monkeypatch.setattr(LOGGER, "filters", [*LOGGER.filters, at_the_first_line])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "detect.py"), run_name="__main__")
    assert stop.value.code == status
    assert 1 <= frames_of(tmp_path / "out/exp/long.mp4")[0] < 30
    assert "Found in" in lines()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_and_leaves_a_video_that_plays(tmp_path, weights, number, status):
    source = video(tmp_path / "long.avi", 3000, "MJPG")
    command = [sys.executable, "detect.py", "--weights", str(weights), "--source", str(source), "--img", "96"]
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, "--project", str(tmp_path / "out")], cwd=ROOT, stderr=stderr)
    wait_for(lambda: "(" in log.read_text().partition("video 1/1 ")[2] or process.poll() is not None)
    process.send_signal(number)
    assert process.wait(HANG) == status, log.read_text()
    count = frames_of(tmp_path / "out/exp/long.mp4")[0]
    assert 1 <= count < 3000
    assert "Found in" in log.read_text()


def test_a_full_disk_ends_the_run_and_not_in_success(run, tmp_path, full_disk, lines):
    source = video(tmp_path / "long.mp4", 60)
    with full_disk(15_000), pytest.raises(OSError, match=r"long\.mp4: the video could not be written: 0 of 60 frames"):
        run(source, save_csv=True, max_det=1)
    assert "Results saved" not in lines()
    rows = (tmp_path / "out/exp/predictions.csv").read_text().splitlines()
    assert len(rows) > 1  # the other files are finished
    run(source, exist_ok=True)
    assert "Results saved" in lines()
    assert frames_of(tmp_path / "out/exp/long.mp4")[0] == 60


@pytest.mark.parametrize("what", ["csv", "json", "txt", "crop", "img", "report"])
def test_every_writer_names_the_file_that_does_not_fit(what, run, tmp_path, full_disk, lines):
    for i in range(9):
        write(tmp_path / f"in/{i}.png", picture(i, 120, 180))
    only = {f"save_{what}": True} if what not in ("img", "report") else {"report": what == "report"}
    with full_disk(60), pytest.raises(OSError, match=f"{tmp_path}/out/exp/.*") as caught:
        run(tmp_path / "in", nosave=what != "img", conf_thres=0.05, **only)
    assert str(tmp_path / "out/exp") in str(caught.value.filename)
    assert ".tmp" not in str(caught.value.filename)
    assert "Results saved" not in lines()


def test_a_crop_is_that_of_the_hub(run, weights, tmp_path):
    clean = picture(3, 200, 300)
    file = write(tmp_path / "in/x.png", clean)
    (result,) = run(file, save_crop=True, nosave=True)
    names = {int(c): str(int(c)) for c in result.detections[:, 5]}
    crops = Detections([clean[..., ::-1]], [result.detections], ["x.jpg"], names=names).crop(save=False)
    saved = {cv2.imread(str(f)).shape for f in (tmp_path / "out/exp/crops").rglob("*.jpg")}
    assert {crop["im"].shape for crop in crops} == saved
    assert len(crops) > 3


def test_thresholds_that_a_file_with_nms_inside_does_not_follow_are_told(run, nms_inside, tmp_path, lines):
    image = write(tmp_path / "in/x.png", picture())
    (result,) = run(image, weights=nms_inside, conf_thres=0.1, iou_thres=0.45, max_det=100, nosave=True)
    assert len(result.detections) == 3
    assert "nms.onnx: exported with --nms" in lines()
    assert "the confidence threshold is 0.25, not 0.1." in lines()


def test_backbone_is_no_detector():
    with pytest.raises(
        ValueError, match="no detector yet. Train one: train.py --weights swinv2_t --cfg .*swinv2t.yaml"
    ):
        detect.run("swinv2_t", ".")


def test_missing_weights_are_told_without_the_options(caplog):
    caplog.set_level("INFO", logger="yolov5")
    with pytest.raises(ValueError, match="no weights given"):
        detect.main(detect.parse_opt([]))
    assert not caplog.records
