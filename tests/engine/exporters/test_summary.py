"""The commands that an export prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine.exporters.summary import Outcome, usage
from utils.files import yaml_save
from utils.options import detect as detect_options
from utils.options import val as val_options
from utils.options.export import ExportOptions
from utils.options.formats import FORMATS


@pytest.fixture
def run_weights(tmp_path, tiny_dataset):
    """Weights in the folder of a run."""
    (tmp_path / "my run/weights").mkdir(parents=True)
    yaml_save(tmp_path / "my run/opt.yaml", {"data": str(tiny_dataset), "single_cls": True})
    return tmp_path / "my run/weights/best.pt"


def outcome(weights, argument="onnx", **options):
    file = Path(f"{weights.with_suffix('')}.{argument}")
    return Outcome(FORMATS[argument], weights, ExportOptions(**{"imgsz": [64, 64]} | options), file)


def words(line, file):
    """The words after the name of a script, whose file has a blank in its name."""
    return [word.replace("%", str(file)) for word in line.replace(f"'{file}'", "%").split(".py ")[1].split()]


def test_they_have_size_dataset_and_images_of_the_run(run_weights, tiny_dataset):
    done = outcome(run_weights)
    found, measured = (words(line, done.file) for line in usage(done))
    first = vars(detect_options.parse_opt(found))
    assert (first["weights"], first["imgsz"]) == ([str(done.file)], [64])
    assert Path(first["source"]) == tiny_dataset.parent / "tiny/images/val"
    second = vars(val_options.parse_opt(measured))
    assert (second["data"], second["imgsz"], second["single_cls"]) == (str(tiny_dataset), 64, True)
    oblong = outcome(run_weights, imgsz=[64, 96])
    assert all("--img 64 96 " in line for line in usage(oblong))
    assert [line.split(" --weights")[0].split("/")[-1].split()[-1] for line in usage(done)] == ["detect.py", "val.py"]


def test_words_in_capitals_stand_for_what_is_not_known(tmp_path, run_weights, tiny_dataset):
    for done in (outcome(tmp_path / "best.pt"), outcome(tmp_path / "best.pt", data={"val": "x"})):
        found, measured = usage(done)
        assert found.endswith(" --source IMAGES")
        assert measured.endswith(" --data DATASET.yaml")
    assert usage(outcome(tmp_path / "best.pt", data=str(tiny_dataset)))[1].endswith(f" --data {tiny_dataset}")
    yaml_save(run_weights.parents[1] / "opt.yaml", {"data": "gone.yaml", "single_cls": False})
    assert usage(outcome(run_weights))[1].endswith(" --data DATASET.yaml")


def test_files_that_do_not_run_here_have_none(run_weights):
    assert usage(outcome(run_weights, "coreml")) == []
    assert usage(replace(outcome(run_weights), file=None)) == []
    assert all(" --device 0 " in line for line in usage(outcome(run_weights, "engine")))
