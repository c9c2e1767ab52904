"""Runs in folders where each name that they write is a link already, and inputs at which a reader would wait."""

import os

import cv2
import numpy as np
import pytest

import detect
import train
import val
from models.runtimes.backends import DetectMultiBackend
from utils.datasets.coco import read_tables
from utils.datasets.converters import Sample, write_samples
from utils.paths import ROOT

HYP = ROOT / "data/hyps/hyp.scratch-low.yaml"


def images(folder, count=2):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, (6, 9, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(noise, (90, 60), interpolation=cv2.INTER_CUBIC))
    return folder


def video(file):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 20, (96, 64))
    for i in range(3):
        writer.write(np.full((64, 96, 3), 50 * i, np.uint8))
    writer.release()


def run_detect(tmp_path, weights, data):
    video(images(tmp_path / "in") / "clip.mp4")
    everything = ("save_txt", "save_csv", "save_json", "save_crop", "save_frames", "report", "visualize")
    return lambda: detect.run(
        weights, tmp_path / "in", imgsz=96, conf_thres=0.2, device="cpu", project=tmp_path, name="run", exist_ok=True,
        **dict.fromkeys(everything, True),
    )  # fmt: skip


def run_val(tmp_path, weights, data):
    return lambda: val.run(
        data, weights, imgsz=96, batch_size=4, device="cpu", workers=0, project=tmp_path, name="run", exist_ok=True,
        single_cls=True, save_txt=True, save_json=True, report=True,
    )  # fmt: skip


def run_train(tmp_path, weights, data):
    return lambda: train.run(
        data=str(data), weights=str(weights), hyp=str(HYP), epochs=1, imgsz=64, batch_size=4, workers=0, device="cpu",
        project=str(tmp_path), name="run", exist_ok=True,
    )  # fmt: skip


@pytest.mark.parametrize("begin", [run_detect, run_val, pytest.param(run_train, marks=pytest.mark.slow)])
def test_no_run_writes_through_links(tmp_path, begin, narrow_weights, tiny_dataset):
    """The names are those of a first run; of checkpoints, which may be links, see tests/models/test_checkpoint.py."""
    run = begin(tmp_path, narrow_weights, tiny_dataset)
    run()
    victim = tmp_path / "victim"
    victim.write_text("of the user")
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    names = [file for file in files if file.suffix != ".pt" and "tfevents" not in file.name]
    assert len(names) > 8
    kept = {
        "results.csv",
        "classes.csv",
        "predictions.csv",
    }  # continued by the next run, so that a text of others is an error
    for i, file in enumerate(names):
        content = file.read_bytes() if file.name in kept else b"of the user"
        file.unlink()
        (tmp_path / f"victim{i}").write_bytes(content)
        file.symlink_to(tmp_path / f"victim{i}")
    run()
    for i, file in enumerate(names):
        assert file.is_file(), file
        assert not file.is_symlink(), file
        if file.name not in kept:
            assert (tmp_path / f"victim{i}").read_bytes() == b"of the user", file


def test_folder_of_weights_that_holds_a_pipe_is_refused(tmp_path):
    (tmp_path / "a_openvino_model").mkdir()
    os.mkfifo(tmp_path / "a_openvino_model/a.bin")
    with pytest.raises(ValueError, match=r"a\.bin: neither a file nor a folder"):
        DetectMultiBackend(tmp_path / "a_openvino_model")


def test_annotations_that_are_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="a pipe or device, not a file"):
        read_tables(tmp_path / "a.json")


def test_converter_replaces_a_link(tmp_path):
    sample = Sample(images(tmp_path / "src") / "0.png", "a", (10, 10), [[0, 1, 1, 5, 5]])
    (tmp_path / "victim").write_text("of the user")
    (tmp_path / "dst/labels").mkdir(parents=True)
    (tmp_path / "dst/labels/a.txt").symlink_to(tmp_path / "victim")
    write_samples(tmp_path / "dst", [sample])
    assert (tmp_path / "victim").read_text() == "of the user"
    assert (tmp_path / "dst/labels/a.txt").read_text().startswith("0 0.3")


# Names of runs --------------------------------------------------------------------------------------------------------
def test_detections_that_begin_together_get_a_folder_each(tmp_path, narrow_weights):
    source, common = images(tmp_path / "in"), {"imgsz": 96, "device": "cpu", "project": tmp_path / "out"}
    streams = [detect.run(narrow_weights, source, stream=True, save_json=True, **common) for _ in range(2)]
    for stream in streams:
        list(stream)
    assert sorted(f.parent.name for f in (tmp_path / "out").rglob("predictions.json")) == ["exp", "exp2"]


@pytest.mark.parametrize("options", [{"weights": "bad.pt"}, {"source": "none"}, {"imgsz": 0}, {"nosave": True}])
def test_detection_that_writes_nothing_leaves_no_folder(tmp_path, narrow_weights, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pt").write_text("no checkpoint")
    common = {"imgsz": 96, "device": "cpu", "project": tmp_path / "out"}
    options = {"weights": narrow_weights, "source": images(tmp_path / "in")} | common | options
    if options.get("nosave"):
        assert len(detect.run(**options)) == 2
    else:
        with pytest.raises((ValueError, OSError)):
            detect.run(**options)
    assert not (tmp_path / "out").exists()


def test_training_that_fails_before_it_writes_leaves_no_folder(tmp_path, tiny_dataset):
    with pytest.raises(ValueError, match="--freeze 99"):
        train.run(
            data=str(tiny_dataset), cfg=str(ROOT / "models/yolov5n.yaml"), weights="", hyp=str(HYP), imgsz=64,
            freeze=[99, 98], workers=0, device="cpu", project=str(tmp_path / "out"),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_study_that_fails_before_it_writes_leaves_no_folder(tmp_path, tiny_dataset):
    settings = dict.fromkeys(("save_txt", "save_hybrid", "report"), False)
    settings |= {"project": tmp_path / "out", "name": "exp", "exist_ok": False, "data": tiny_dataset, "device": "cpu"}
    with pytest.raises(FileNotFoundError):
        val.study([tmp_path / "none.pt"], settings)
    assert not (tmp_path / "out").exists()
