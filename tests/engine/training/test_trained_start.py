"""Runs that start from trained weights: which hyperparameters they get."""

from dataclasses import replace

import pytest
import yaml

from engine.training.state import Inputs
from engine.training.trained_start import fitting_share, settle_hyp, starts_trained
from models.yolo import DetectionModel
from utils.hyp import Hyp
from utils.options.train import TrainOptions

TABLE = yaml.safe_load("""
nc: 4
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[10, 13, 16, 30]]
backbone:
  - [-1, 1, Conv, [8, 3, 4]]
  - [-1, 1, C3, [16]]
head:
  - [[1], 1, Detect, [nc, anchors]]
""")


@pytest.fixture
def inputs():
    """A run from a checkpoint of its own table with other classes."""
    state = DetectionModel(TABLE, nc=2, verbose=False).state_dict()
    options = TrainOptions(weights="best.pt", hyp="data/hyps/hyp.scratch-low.yaml")
    return Inputs(options, {}, {"model": state}, TABLE, Hyp())


def other_stem(inputs):
    table = TABLE | {"backbone": [[-1, 1, "Conv", [8, 6, 4]], [-1, 1, "C3", [32]]]}
    return replace(inputs, cfg=table)


def test_weights_that_fit_get_the_rates_of_fine_tuning(inputs, caplog):
    with caplog.at_level("INFO"):
        settled = settle_hyp(inputs, given="")
    assert fitting_share(inputs) == 1
    assert settled.options.hyp.endswith("hyp.finetune.yaml")
    assert settled.hyp == Hyp.load(settled.options.hyp) != inputs.hyp
    assert "best.pt fits 100% of the model outside the head: fine-tuning" in caplog.text


def test_other_weights_and_a_given_file_keep_theirs(inputs, caplog):
    assert fitting_share(other_stem(inputs)) < 0.9
    with caplog.at_level("INFO"):
        for run, given in ((inputs, "my.yaml"), (other_stem(inputs), ""), (replace(inputs, ckpt=None), "")):
            assert settle_hyp(run, given) is run
    assert "fine-tuning" not in caplog.text
    assert caplog.text.count("hyperparameters: ") == 3


def test_a_start_counts_where_all_epochs_are_validated_and_saved():
    assert starts_trained(TrainOptions(weights="best.pt"))
    for options in ({}, {"weights": "swinv2_t"}, {"resume": True}, {"noval": True}, {"nosave": True}):
        assert not starts_trained(TrainOptions(**{"weights": "best.pt", **options} if options else {}))
