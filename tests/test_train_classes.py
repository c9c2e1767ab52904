"""Some of the classes from training to the exported file, at tiny size."""

import csv
import logging

import pytest
import torch

import detect
import export
import hubconf
import train
import val
from engine.doctor.run import run as examine
from models.weights.checkpoint import load_checkpoint
from utils.files import yaml_load, yaml_save
from utils.paths import ROOT

CLASSES = ["star or circle", "square"]


@pytest.fixture(scope="module")
def data(tiny_dataset):
    """The drawn dataset of circles, squares, triangles and stars, of which two are one class."""
    file = tiny_dataset.with_name("merged.yaml")
    yaml_save(file, yaml_load(tiny_dataset) | {"merge": {"star or circle": ["star", "circle"]}})
    return file


@pytest.mark.slow
def test_classes_are_the_same_in_every_program(data, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    yaml_save(tmp_path / "hyp.yaml", yaml_load(ROOT / "data/hyps/hyp.scratch-low.yaml") | {"cls_weights": "auto"})
    run = {
        "data": str(data), "classes": CLASSES, "cfg": str(ROOT / "models/yolov5n.yaml"), "weights": "", "imgsz": 64,
        "batch_size": 4, "workers": 0, "epochs": 1, "image_weights": True, "project": str(tmp_path), "name": "run",
        "hyp": str(tmp_path / "hyp.yaml"), "noplots": True, "metric": "square:ap",
        "cache": "disk", "cache_dir": str(tmp_path / "cache"),
    }  # fmt: skip
    results = train.run(**run)
    folder = tmp_path / "run"
    best, last = folder / "weights/best.pt", folder / "weights/last.pt"
    assert load_checkpoint(best)["names"] == dict(enumerate(CLASSES))
    assert yaml_load(folder / "opt.yaml")["classes"] == CLASSES
    with (folder / "classes.csv").open() as file:
        assert {row["name"] for row in csv.DictReader(file)} == set(CLASSES)
    assert "--classes 'star or circle' square" in caplog.text
    assert "labels of other classes ignored" in caplog.text
    assert any(
        "engine.doctor" in r.getMessage() and "'star or circle' square" in r.getMessage() for r in caplog.records
    )

    settings = {"imgsz": 64, "workers": 0, "plots": False, "project": str(tmp_path / "val")}
    again = val.run(str(data), str(best), batch_size=8, classes=CLASSES, **settings)
    assert again.results[:4] == pytest.approx(results[:4], abs=1e-3)
    swapped = val.run(str(data), str(best), batch_size=8, classes=CLASSES[::-1], **settings)
    assert swapped.maps.tolist() == pytest.approx(again.maps.tolist()[::-1])
    with pytest.raises(ValueError, match="no class 'triangle'.*: --classes 'star or circle' square"):
        val.run(str(data), str(best), **settings)
    with pytest.raises(ValueError, match=f"--classes with {data}: no class 'squares'. Did you mean 'square'"):
        train.run(**run | {"classes": ["squares"]})

    before = load_checkpoint(last)["hyp"]["cls_weights"]
    assert before[0] < 1 < before[1]  # the square is rarer
    assert yaml_load(folder / "hyp.yaml")["cls_weights"] == "auto"
    train.run(resume=str(last), epochs=2, cache_dir=str(tmp_path / "moved"))
    for place in ("cache", "moved"):
        kept = [len(list(folder.iterdir())) for folder in sorted((tmp_path / place).iterdir())]
        assert 0 < kept[0] <= 8  # --image-weights draws some
        assert kept[1:] == [4]
    assert load_checkpoint(last)["names"] == dict(enumerate(CLASSES))
    assert load_checkpoint(last)["hyp"]["cls_weights"] == before
    yaml_save(folder / "hyp.yaml", yaml_load(folder / "hyp.yaml") | {"cls_weights": [1, 2]})
    with pytest.raises(ValueError, match="changed since the run was stopped: cls_weights"):
        train.run(resume=str(last), epochs=3)
    opt = yaml_load(folder / "opt.yaml")
    yaml_save(folder / "opt.yaml", opt | {"classes": CLASSES[::-1]})
    with pytest.raises(ValueError, match="has index"):
        train.run(resume=str(last), epochs=3)

    (file,) = export.run(weights=str(best), include=["torchscript"], imgsz=[64])
    image = next((data.parent / "tiny/images/val").iterdir())
    found = detect.run([str(file)], str(image), imgsz=[64], conf_thres=0.0, classes=["square"], nosave=True)[0]
    assert dict(found.names) == dict(enumerate(CLASSES))
    assert set(found.detections[:, 5].tolist()) <= {1.0}
    model = hubconf.custom(str(best), verbose=False)
    model.conf, model.classes = 0.0, ["square"]
    assert torch.equal(model(str(image), size=64).xyxy[0][:, 5], torch.ones(len(model(str(image), size=64).xyxy[0])))
    assert not any("triangle" in finding.message for finding in examine(str(data), classes=CLASSES, fast=True))
