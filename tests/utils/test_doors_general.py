"""utils.general in YOLOv5's call form and return form, one row for each name."""

import logging
import signal
import time
import zipfile
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.waiting import HANG
from utils import general
from utils.console import LOGGER

ROOT = Path(general.__file__).resolve().parents[1]


def rows(*xywh, conf=0.9, cls=0, nc=3):
    """Predictions (1, N, 5 + nc) with one class each."""
    out = torch.zeros(1, len(xywh), 5 + nc)
    for i, box in enumerate(xywh):
        out[0, i, :4], out[0, i, 4], out[0, i, 5 + cls] = torch.tensor(box, dtype=torch.float32), conf, 1.0
    return out


@pytest.mark.parametrize("form", [lambda p: p, lambda p: [p, None], lambda p: (p, [])], ids=["tensor", "list", "tuple"])
def test_nms_as_detect_calls_it(form):
    prediction = rows((50, 50, 20, 10), (51, 50, 20, 10), (90, 90, 4, 4))
    before = prediction.clone()
    found = general.non_max_suppression(form(prediction), 0.25, 0.45, None, False, max_det=1000, nm=0)
    assert torch.equal(prediction, before)
    assert sorted(found[0][:, :4].tolist()) == [[40, 45, 60, 55], [88, 88, 92, 92]]
    assert general.non_max_suppression(form(rows()), 0.25)[0].shape == (0, 6)


def test_nms_of_masks_is_refused_with_the_reason():
    with pytest.raises(NotImplementedError, match="only detection is here: nm=32 belongs to segmentation of YOLOv5"):
        general.non_max_suppression(rows((5, 5, 2, 2)), nm=32)


@pytest.mark.parametrize("scale", [general.scale_boxes, general.scale_coords])
@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_boxes_are_scaled_in_place_and_clipped_but_not_rounded(scale, kind):
    det = kind([[0.0, 140, 320.5, 700, 0.9, 2], [-50, 0, 100, 300, 0.8, 1]])
    given = det[:, :4]
    scaled = scale((640, 640), given, (360, 640, 3))  # scale 1, 140 pixels above and below
    assert scaled is given
    expected = [[0, 0, 320.5, 360, 0.9, 2], [0, 0, 100, 160, 0.8, 1]]
    np.testing.assert_allclose(np.asarray(det), expected, rtol=1e-6)
    boxes = kind([[10.0, 10, 20, 20]])
    scale((64, 64), boxes, (100, 100), ratio_pad=((0.5, 0.5), (4, 2)))
    np.testing.assert_allclose(np.asarray(boxes), [[12, 16, 32, 36]])


@pytest.mark.parametrize("clip", [general.clip_boxes, general.clip_coords])
def test_boxes_are_clipped_in_place(clip):
    boxes = torch.tensor([[-5.0, 3, 90, 70]])
    clip(boxes, (60, 80))
    assert boxes.tolist() == [[0, 3, 80, 60]]


@pytest.mark.parametrize(
    ("imgsz", "keywords", "expected"),
    [
        (640, {"s": 32}, 640),
        (641, {"s": torch.tensor(32.0)}, 672),
        ((640, 641), {"s": 32}, [640, 672]),
        ([320, 100], {"s": 64, "floor": 128}, [320, 128]),
        (60, {"floor": 100}, 128),
    ],
)
def test_check_img_size(imgsz, keywords, expected):
    size = general.check_img_size(imgsz, **keywords)
    assert size == expected
    assert type(size) is type(expected)


def test_points_and_polygons_by_hand():
    half = np.array([[0.5, 0.25], [1.0, 0.0]])
    np.testing.assert_allclose(general.xyn2xy(half, 100, 40, padw=3, padh=1), [[53, 11], [103, 1]])
    square = np.array([[10.0, 20], [30, 20], [30, 60], [10, 60]])
    np.testing.assert_allclose(general.segments2boxes([square, square + 5]), [[20, 40, 20, 40], [25, 45, 20, 40]])
    assert general.segments2boxes([]).shape == (0, 4)
    np.testing.assert_allclose(general.segment2box(square, 640, 50), [10, 20, 30, 20])  # two points are inside
    np.testing.assert_allclose(general.segment2box(square + 1000), np.zeros(4))
    (round_trip,) = general.resample_segments([square], 9)  # two points a side, and the first again
    np.testing.assert_allclose(round_trip[[0, 1, 2, 8]], [[10, 20], [20, 20], [30, 20], [10, 20]])
    points = np.array([[10.0, 150], [700, 100]])
    general.scale_segments((640, 640), points, (360, 640))
    np.testing.assert_allclose(points, [[10, 10], [640, 0]])
    points = torch.tensor([[320.0, 320]])
    np.testing.assert_allclose(general.scale_segments((640, 640), points, (360, 640), normalize=True), [[0.5, 0.5]])


def test_files_are_found_as_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text("a: 1")
    assert general.check_file("here.yaml") == "here.yaml"
    assert general.check_file(Path("here.yaml"), suffix=(".yaml",)) == "here.yaml"
    assert general.check_file("") == ""
    assert general.check_yaml("coco128.yaml") == str(ROOT / "data/coco128.yaml")
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        general.check_file("nowhere.yaml")
    with pytest.raises(ValueError, match=r"here.yaml: expected a file ending in \.pt"):
        general.check_file("here.yaml", ".pt")


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        (("a.pt",), True),
        (("a",), True),
        (("a.PT", ".pt"), True),
        ((["a.pt", "b.onnx"], (".pt", ".onnx")), True),
        (("a.onnx",), False),
        ((["a.pt", "b.txt"], (".pt",)), False),
    ],
)
def test_check_suffix(arguments, fits):
    if fits:
        assert general.check_suffix(*arguments) is None
    else:
        with pytest.raises(ValueError, match="weights: .* expected a file ending in .pt"):
            general.check_suffix(*arguments, msg="weights: ")


def test_check_dataset_in_the_forms_of_old_and_new(tiny_dataset):
    found = general.check_dataset(tiny_dataset, autodownload=False)
    assert Path(found["val"]).is_absolute()
    assert found["names"] == dict(enumerate(found["names"].values()))
    assert found["nc"] == len(found["names"])
    data = {key: found[key] for key in ("path", "train", "val")} | {"names": list(found["names"].values())}
    general.check_dataset(data)  # up to 5.0: in place
    assert data["names"] == found["names"]


def test_latest_run_is_a_text(tmp_path):
    assert general.get_latest_run(tmp_path) == ""
    last = tmp_path / "exp/weights/last.pt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert general.get_latest_run(str(tmp_path)) == str(last)


def test_increment_path_in_its_call_forms(tmp_path):
    first = general.increment_path(tmp_path / "exp", mkdir=True)
    assert (first, first.is_dir()) == (tmp_path / "exp", True)
    assert Path(general.increment_path(str(tmp_path / "exp"), exist_ok=False)) == tmp_path / "exp2"
    assert general.increment_path(tmp_path / "exp", True) == tmp_path / "exp"
    (tmp_path / "a.jpg").touch()
    assert general.increment_path(tmp_path / "a.jpg", sep="_") == tmp_path / "a_2.jpg"


@pytest.mark.parametrize(
    ("current", "minimum", "pinned", "expected"),
    [
        ("1.10.0", "1.9", False, True),
        ("2.1.0+cu118", "2.1.0", True, True),
        ("1.9", "1.10", False, False),
        ("1.10.1", "1.10.0", True, False),
    ],
)
def test_check_version(current, minimum, pinned, expected):
    assert general.check_version(current, minimum, pinned=pinned) is expected
    if not expected:
        with pytest.raises(ValueError, match=f"torch {minimum} is required, but torch {current}"):
            general.check_version(current, minimum, "torch ", pinned, hard=True)


def test_requirements_are_only_reported(tmp_path, caplog):
    assert general.check_requirements(("numpy>=1.0", "torch")) is True
    assert general.check_requirements("numpy>=99.0") is False
    assert "requirements not met: numpy>=99.0" in caplog.text
    file = tmp_path / "requirements.txt"
    file.write_text("# base\nnumpy>=1.2  # arrays\nno-such-package-here>=1\n-r other.txt\n")
    assert general.check_requirements(file) is False
    assert general.check_requirements(file, exclude=("no-such-package-here",)) is True
    assert general.check_requirements(exclude=("tensorboard", "thop")) is True  # those of this project
    with pytest.raises(FileNotFoundError, match="nowhere"):
        general.check_requirements(tmp_path / "nowhere.txt")


def test_no_window_without_a_screen(monkeypatch):
    monkeypatch.setattr(general.sys, "platform", "linux")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    assert general.check_imshow() is False
    assert general.check_imshow(warn=True) is False


def options_line(caplog, call):
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER.name):
        call()
    return caplog.messages


def test_print_args_in_its_three_forms(caplog):
    def run(weights="a.pt", imgsz=640):
        general.print_args(show_func=True)

    assert options_line(caplog, run) == ["test_doors_general: run: weights=a.pt, imgsz=640"]
    assert options_line(caplog, lambda: general.print_args({"a": 1})) == ["test_doors_general: a=1"]
    old = options_line(caplog, lambda: general.print_args("detect", Namespace(a=1, b="x")))
    assert old == ["detect: a=1, b=x"]


@pytest.mark.parametrize(
    ("arguments", "keywords"), [((), {}), ((-1,), {}), ((0,), {"verbose": True}), (("yolov5",), {"verbose": False})]
)
def test_set_logging_of_every_release(arguments, keywords):
    assert general.set_logging(*arguments, **keywords) is general.LOGGER
    assert general.LOGGER.name == "yolov5"


def test_colorstr_takes_styles_or_only_text():
    assert "train: " in general.colorstr("train: ")
    assert "x" in general.colorstr("red", "bold", "x")


def test_profiles_add_up_on_a_device():
    dt = (general.Profile(), general.Profile(device=torch.device("cpu")), general.Profile(1.0))
    for profile in dt:
        before = profile.t
        with profile:
            sum(range(1000))
        assert profile.dt > 0
        assert profile.t == before + profile.dt


def test_weights_of_classes_and_images_by_hand():
    labels = [np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]), np.array([[1, 0, 0, 1, 1]]), np.zeros((0, 5))]
    weights = general.labels_to_class_weights(labels, nc=2)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(general.labels_to_image_weights(labels, 2), [2, 1, 0])
    np.testing.assert_allclose(general.labels_to_image_weights(labels, 2, weights), [2 / 3, 2 / 3, 0], rtol=1e-6)


def test_schedule_classes_and_small_things(tmp_path):
    factor = general.one_cycle(1, 0.1, 10)
    np.testing.assert_allclose([factor(0), factor(5), factor(10)], [1, 0.55, 0.1])
    classes = general.coco80_to_coco91_class()
    assert (len(classes), classes[0], classes[11], classes[-1]) == (80, 1, 13, 90)
    assert general.is_ascii("abc")
    assert not general.is_ascii("汽车")
    assert general.url2file("https://x.org/a/b.jpg?auth=1") == "b.jpg"
    (tmp_path / "f").write_bytes(bytes(2**20))
    assert general.file_size(tmp_path / "f") == general.file_size(str(tmp_path)) == 1
    assert general.methods(Namespace()) == []
    assert "append" in general.methods([])
    assert general.check_amp(torch.nn.Linear(1, 1)) is False
    assert general.check_git_info() == {"remote": None, "branch": None, "commit": None}
    assert [general.check_git_status(), general.check_online(), general.check_font("x")] == [None, False, None]
    with general.WorkingDirectory(tmp_path):
        assert Path.cwd() == tmp_path.resolve()
    assert Path.cwd() != tmp_path.resolve()


def test_seeds_repeat_what_is_drawn():
    drawn = []
    for _ in range(2):
        general.init_seeds(3)
        drawn.append((torch.rand(1).item(), np.random.rand(), general.random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_second_stage_classifiers_are_refused_with_the_sentence():
    with pytest.raises(NotImplementedError, match="second-stage classifiers are not here; leave classify = False"):
        general.apply_classifier([], None, None, None)
    assert general.cv2 is cv2


# Downloads, archives, folders, time -----------------------------------------------------------------------------------
def zipped(file, names):
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return file


def test_unzip_file_leaves_out_what_macos_adds(tmp_path):
    file = zipped(tmp_path / "a.zip", ["set/a.txt", "__MACOSX/set/a.txt", "set/.DS_Store", "out.txt"])
    general.unzip_file(file)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.txt", "a.zip", "out.txt"]
    general.unzip_file(file, tmp_path / "b", exclude=("out",))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["__MACOSX", "set"]


def test_unzip_file_refuses_paths_that_lead_out_of_the_folder(tmp_path):
    file = zipped(tmp_path / "a.zip", ["a.txt", "../out.txt"])
    with pytest.raises(ValueError, match=r"a\.zip: refused, the path '\.\./out\.txt' leads out of the folder"):
        general.unzip_file(file, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("threads", [1, 3])
def test_download_fetches_again_unpacks_and_deletes(tmp_path, monkeypatch, threads):
    tried = []

    def fetch(url, folder):
        tried.append(url)
        if tried.count(url) == 1:
            raise OSError("no answer")
        return zipped(Path(folder) / Path(url).name, [f"{Path(url).stem}.txt"])

    monkeypatch.setattr("utils.downloads.download", fetch)
    general.download(["http://h/a.zip", "http://h/b.bin"], tmp_path / "new", threads=threads, retry=1)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.txt", "b.bin"]
    general.download("http://h/a.zip", tmp_path, unzip=False)
    assert (tmp_path / "a.zip").exists()
    with pytest.raises(OSError, match="no answer"):
        general.download("http://h/c.zip", tmp_path, retry=0)


def test_user_config_dir_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV5_CONFIG_DIR", str(tmp_path / "given"))
    assert general.user_config_dir() == tmp_path / "given"
    assert (tmp_path / "given").is_dir()
    monkeypatch.delenv("YOLOV5_CONFIG_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert general.user_config_dir("mine").is_relative_to(tmp_path)
    assert general.user_config_dir("mine").name == "mine"


def test_clean_str():
    assert general.clean_str("rtsp://me:x@host/cam?ch=1&b=ä") == "rtsp_//me_x_host/cam_ch_1_b_ä"


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm on this system")
def test_timeout_breaks_off():
    passed = []
    with general.Timeout(1):
        time.sleep(HANG)
        passed.append("block")
    with (
        pytest.raises(TimeoutError, match="too slow"),
        general.Timeout(1, timeout_msg="too slow", suppress_timeout_errors=False),
    ):
        time.sleep(HANG)
    assert not passed
    assert signal.alarm(0) == 0
    with general.Timeout(1):
        passed.append("fast")
    assert passed == ["fast"]


def test_save_one_txt_is_that_of_the_results(tmp_path):
    general.save_one_txt(torch.tensor([[0.0, 0, 50, 50, 0.5, 2]]), True, (100, 100), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "2 0.25 0.25 0.5 0.5 0.5\n"
