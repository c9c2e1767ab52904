"""Option values from Python and from files: checked by the parser of the command line, in types and in ranges."""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch

import detect
import export
import train
import val
from utils.options import detect as detect_options
from utils.options import train as train_options
from utils.options.check import COUNT, SHARE, Number, checked, checked_by

TRAIN, DETECT = train_options.make_parser(), detect_options.make_parser()


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("epochs", 3, 3), ("epochs", 3.0, 3), ("epochs", np.int64(3), 3), ("epochs", torch.tensor(3), 3),
        ("batch_size", -1, -1), ("label_smoothing", None, None), ("label_smoothing", 0, 0.0),
        ("data", Path("a/b.yaml"), str(Path("a/b.yaml"))), ("weights", None, ""), ("device", 0, "0"), ("name", 7, "7"),
        ("cache", None, None), ("cache", "disk", "disk"), ("rect", True, True), ("rect", np.True_, True),
        ("rect", 0, False),
        ("resume", True, True), ("resume", False, False), ("resume", Path("last.pt"), "last.pt"), ("evolve", 5, 5),
        ("freeze", 3, 3), ("freeze", "backbone", "backbone"), ("freeze", (1, 2), [1, 2]), ("window", [8], [8]),
        ("window", None, None), ("logger", "wandb", "wandb"), ("save_period", -1, -1), ("seed", 2**32 - 1, 2**32 - 1),
    ],
)  # fmt: skip
def test_values_that_mean_what_the_option_takes_pass(key, value, kept):
    found = checked(TRAIN, {key: value})[key]
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", "3", "--epochs is '3', but must be an integer"),
        ("epochs", 2.5, "--epochs is 2.5, but must be an integer"),
        ("epochs", True, "--epochs is True, but must be an integer"),
        ("epochs", None, "--epochs is None, but must be an integer"),
        ("epochs", [3], r"--epochs is \[3\], but must be an integer"),
        ("epochs", 0, "--epochs is 0, but must be at least 1$"),
        ("imgsz", 1_000_000, "--imgsz is 1000000, but must be at most 16000$"),
        ("batch_size", 10**12, "--batch-size is 1000000000000, but must be at most 32768$"),
        ("batch_size", -2, "--batch-size is -2, but must be at least 1$"),
        ("workers", 10**6, "--workers is 1000000, but must be at most 4096$"),
        ("seed", 2**32, "--seed is 4294967296, but must be at most 4294967295$"),
        ("label_smoothing", float("nan"), "--label-smoothing is nan, but must be between 0 and 1$"),
        ("label_smoothing", "0.1", "--label-smoothing is '0.1', but must be a number$"),
        ("cache", "disc", "--cache is 'disc'; allowed: ram, disk, val$"),
        ("optimizer", "sgd", "--optimizer is 'sgd'; allowed: SGD, Adam, AdamW$"),
        ("amp", None, "--amp is None; allowed: auto"),
        ("rect", "yes", "--rect is 'yes', but must be True or False$"),
        ("data", {"train": "x"}, "--data is {'train': 'x'}, but must be a string or a path$"),
        ("data", b"x.yaml", "--data is b'x.yaml', but must be a string or a path$"),
        ("resume", 1.5, "--resume is 1.5, but must be a string or a path$"),
        ("freeze", [1.5], "--freeze is 1.5, which it does not take: layers to freeze"),
        ("freeze", "head", "--freeze is 'head', which it does not take: layers to freeze"),
        ("window", ["8"], "--window is '8', but must be an integer$"),
        ("epoch", 3, "unknown option 'epoch'. Did you mean 'epochs'?"),
        ("bucket", "x", "unknown option 'bucket'"),
        ("zzz", 3, "unknown option 'zzz'; known: activation_checkpointing, amp, "),
    ],
)
def test_other_values_are_refused_with_what_is_allowed(key, value, message):
    with pytest.raises(ValueError, match=message):
        checked(TRAIN, {key: value})
    with pytest.raises(ValueError, match=message):
        train.run(**{key: value})


def test_every_default_passes_its_own_check():
    for script in (train, detect, export):
        defaults = vars(script.parse_opt([]))
        defaults.pop("given", None)
        assert checked(script.make_parser(), defaults) == defaults
    defaults = vars(val.parse_opt(["--weights", "a.pt"]))
    assert checked(val.make_parser(), defaults) == defaults


def test_numbers_of_the_command_line_are_numbers():
    """argparse reads them, `Number.check` looks at the range."""
    assert val.parse_opt("--weights a --conf 1e-3 --batch 0".split()).conf_thres == 0.001
    with pytest.raises(SystemExit):
        val.parse_opt("--weights a --batch four".split())


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (val.run, {"data": "a.yaml", "batch_size": "8"}, "--batch-size is '8', but must be an integer"),
        (val.run, {"data": "a.yaml", "conf": 0.1}, "unknown option 'conf'. Did you mean 'conf_thres'?"),
        (val.run, {"data": "a.yaml", "half": "no"}, "--half is 'no', but must be True or False"),
        (val.run, {"data": "a.yaml", "imgsz": 10**6}, "--imgsz is 1000000, but must be at most 32000"),
        (detect.run, {"weights": "a.pt", "imgsz": "640"}, "--imgsz is '640', but must be an integer"),
        (detect.run, {"weights": "a.pt", "imgsz": (64, 10**6)}, "--imgsz is 1000000, but must be at most 32000"),
        (detect.run, {"weights": "a.pt", "classes": "cat"}, "--classes is 'cat', but must be an integer"),
        (detect.run, {"weights": "a.pt", "max_det": 0}, "--max-det is 0, but must be at least 1"),
        (detect.run, {"weights": "a.pt", "save_text": True}, "unknown option 'save_text'. Did you mean 'save_txt'?"),
        (detect.run, {"weights": "a.pt", "save_format": 2}, "--save-format is 2; allowed: 0, 1"),
        (detect.run, {"weights": "a.pt", "conf_thres": "0.5"}, "--conf-thres is '0.5', but must be a number"),
        (export.run, {"weights": "a.pt", "batch_size": 0}, "--batch-size is 0, but must be at least 1"),
        (export.run, {"weights": "a.pt", "opset": "18"}, "--opset is '18', but must be an integer"),
        (export.run, {"weights": "a.pt", "simplfy": True}, "unknown option 'simplfy'. Did you mean 'simplify'?"),
    ],
)
def test_functions_of_the_scripts_check_before_they_read_a_file(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_a_decorated_function_gets_checked_values_by_position_and_by_name():
    def make_parser():
        parser = ArgumentParser()
        parser.add_argument("--count", type=COUNT)
        parser.add_argument("--share", type=SHARE)
        parser.add_argument("--data")
        return parser

    @checked_by(make_parser, but=("data",))
    def run(count, share=0.5, data=None, other=None):
        return count, share, data, other

    assert run(2.0, 1, {"any": "thing"}, other=object) == (2, 1.0, {"any": "thing"}, object)
    with pytest.raises(ValueError, match="--count is 0, but must be at least 1"):
        run(0)
    with pytest.raises(TypeError, match="too many"):
        run(1, 1, 1, 1, 1)
    with pytest.raises(TypeError, match="missing"):
        run(share=1)


def test_a_range_has_ends_and_one_value_besides():
    number = Number(int, 1, 8, also=-1)
    assert [number.check("n", x) for x in (-1, 1, 8)] == [-1, 1, 8]
    for bad in (-2, 0, 9):
        with pytest.raises(ValueError, match=f"n is {bad}, but must be at "):
            number.check("n", bad)
    with pytest.raises(ValueError, match="must be a number"):
        Number(float).check("n", "1")
