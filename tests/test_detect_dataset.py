"""detect.py --as-dataset: images, labels and YAML that the doctor and train.py read."""

import os

import cv2
import numpy as np
import pytest
import torch

import detect
import train
from engine.inference.pipeline import Frame
from engine.results.dataset import DatasetFolder, check_new
from utils.datasets.dataset import check_dataset, load_labels
from utils.datasets.lists import img2label_paths, list_images
from utils.datasets.output_names import name_results
from utils.files import yaml_load

NAMES = {0: "cat", 1: "a/b", 2: "白细胞"}


def picture(seed=0, height=60, width=90):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def write(file, seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(file.suffix, picture(seed))[1])
    return str(file)


ROWS = torch.tensor(
    [[10.0, 10.0, 40.0, 30.0, 0.9, 2], [-5.0, 50.0, 20.0, 70.0, 0.5, 0], [90.0, 0.0, 95.0, 9.0, 0.4, 1]]
)
LINES = "2 0.277778 0.333333 0.333333 0.333333\n0 0.111111 0.916667 0.222222 0.166667\n"  # the third lies outside


def save(folder, sources, videos=()):
    """Add one frame of each image and two of each video; return the writer."""
    out = DatasetFolder(folder, name_results([*sources, *videos], videos).stems, NAMES)
    for source in sources:
        out.add(Frame(picture(), source), ROWS)
    for source in videos:
        for number in (1, 2):
            out.add(Frame(picture(number), source, "video", number), ROWS[:0])
    out.close()
    return out


def test_what_is_written_is_read_again(tmp_path):
    image, clip = write(tmp_path / "in/a b 图.png"), str(tmp_path / "in/clip.mp4")
    out = save(tmp_path / "out", [image], [clip])
    data = check_dataset(out.yaml)
    assert data["names"] == NAMES
    assert data["train"] == data["val"] == str(tmp_path / "out/images")
    found = load_labels(data["train"], nc=3)
    assert [os.path.basename(file) for file in found.im_files] == ["a b 图.png", "clip_1.jpg", "clip_2.jpg"]
    assert (tmp_path / "out/labels/a b 图.txt").read_text() == LINES
    assert [len(labels) for labels in found.labels] == [2, 0, 0]
    assert found.sizes.tolist() == [[90, 60]] * 3
    assert (tmp_path / "out/labels/clip_1.txt").read_text() == ""
    assert os.path.samefile(image, tmp_path / "out/images/a b 图.png")
    assert (out.images, out.labels) == (3, 2)


def test_equal_and_odd_names_stay_apart(tmp_path):
    names = [
        "p/1.png", "q/1.png", "p_1.png.png", "x.jpg", "x.png", "X.bmp", "images/y.png", "q/images/y.png", ".hidden.png",
        "line\nbreak.png", "clip_1.png",
    ]  # fmt: skip
    images = [write(tmp_path / "in" / name, i) for i, name in enumerate(names)]
    save(tmp_path / "out", images, [str(tmp_path / "in/clip.mp4"), str(tmp_path / "in/q/clip.avi")])
    written = list_images(tmp_path / "out/images")
    assert len(written) == len(names) + 4
    labels = img2label_paths(written)
    assert len({label.lower() for label in labels}) == len(written)
    for label in labels:
        assert os.path.dirname(label) == str(tmp_path / "out/labels")
        assert os.path.isfile(label)
    for image in images:
        assert any(os.path.samefile(image, file) for file in written), image


def test_a_link_is_followed_and_a_disk_without_links_gets_a_copy(tmp_path, monkeypatch):
    write(tmp_path / "in/real.png")
    (tmp_path / "in/link.png").symlink_to("real.png")
    save(tmp_path / "out", [str(tmp_path / "in/link.png")])
    copied = tmp_path / "out/images/link.png"
    assert not copied.is_symlink()
    assert copied.samefile(tmp_path / "in/real.png")

    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    save(tmp_path / "copy", [str(tmp_path / "in/link.png")])
    assert (tmp_path / "copy/images/link.png").read_bytes() == copied.read_bytes()
    assert not (tmp_path / "copy/images/link.png").samefile(copied)


def test_nothing_is_replaced_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "full/sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="full: the folder is not empty"):
        check_new(tmp_path / "full")
    with pytest.raises(ValueError, match="file: this is no folder"):
        check_new(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", [])
    assert not (tmp_path / "empty").exists()


@pytest.fixture
def run(narrow_weights, tmp_path):
    def call(source, **options):
        given = {"imgsz": 96, "device": "cpu", "project": tmp_path / "out", "conf_thres": 0.4, **options}
        return detect.run(narrow_weights, source, **given)

    return call


def test_the_program_divides_and_checks_it(run, tmp_path, caplog):
    for i in range(8):
        write(tmp_path / f"in/{i}.png", i)
    caplog.set_level("INFO", logger="yolov5")
    results = run(tmp_path / "in", nosave=True, as_dataset=tmp_path / "set", save_conf=True, batch_size=3)
    assert not (tmp_path / "out").exists()
    found = load_labels(tmp_path / "set/images", nc=3)
    for labels, result in zip(found.labels, results, strict=True):
        assert 0 < len(labels) <= len(result.detections)
        assert set(labels[:, 0]) == set(result.detections[:, 5].tolist())
    data = check_dataset(tmp_path / "set/dataset-split.yaml", ("train", "val"))
    parts = [set(list_images(data[name])) for name in ("train", "val")]
    assert [len(part) for part in parts] == [6, 2]
    assert not parts[0] & parts[1]
    assert "train: 6 images" in caplog.text
    assert "The labels are the model's own" in caplog.text
    before = sorted(os.listdir(tmp_path / "set"))
    with pytest.raises(ValueError, match="the folder is not empty"):
        run(tmp_path / "in", nosave=True, as_dataset=tmp_path / "set")
    assert sorted(os.listdir(tmp_path / "set")) == before


def test_one_image_and_no_label_are_told(run, tmp_path, caplog):
    write(tmp_path / "in/x.png")
    run(tmp_path / "in", nosave=True, as_dataset=tmp_path / "set", conf_thres=1.0)
    assert "1 groups of images cannot be divided into 2 parts: validation is on the images of training" in caplog.text
    assert "nothing usable is left: train has no label" in caplog.text
    assert yaml_load(tmp_path / "set/dataset.yaml")["val"] == "images"


@pytest.mark.slow
def test_train_learns_from_it(run, tmp_path):
    for i in range(8):
        write(tmp_path / f"in/{i}.png", i)
    writer = cv2.VideoWriter(str(tmp_path / "in/v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 20, (90, 60))
    for i in range(4):
        writer.write(picture(50 + i))
    writer.release()
    run(tmp_path / "in", nosave=True, as_dataset=tmp_path / "set", save_txt=True)
    train.run(
        data=tmp_path / "set/dataset-split.yaml", cfg="models/yolov5n.yaml", weights="", imgsz=64, epochs=1,
        batch_size=4, device="cpu", workers=0, project=tmp_path / "train", noplots=True, noautoanchor=True,
    )  # fmt: skip
    assert (tmp_path / "train/exp/weights/best.pt").is_file()
