"""Options as dataclasses: what a value from Python or a file may be, in types and in ranges, and what docs say."""

import inspect
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch

import detect
import export
import train
import val
from utils.options.check import COUNT, SHARE, Number
from utils.options.detect import DetectOptions
from utils.options.export import ExportOptions
from utils.options.page import PAGE, page
from utils.options.table import arguments, checked, option, refused, takes_options
from utils.options.train import TrainOptions
from utils.options.train import parse_opt as parse_train
from utils.options.val import ValOptions


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("epochs", 3, 3), ("epochs", 3.0, 3), ("epochs", np.int64(3), 3), ("epochs", torch.tensor(3), 3),
        ("batch_size", -1, -1), ("label_smoothing", None, None), ("label_smoothing", 0, 0.0),
        ("data", Path("a/b.yaml"), str(Path("a/b.yaml"))), ("weights", None, ""), ("device", 0, "0"), ("name", 7, "7"),
        ("cache", None, None), ("cache", "disk", "disk"), ("cache", True, "ram"), ("evolve", True, 300),
        ("rect", True, True), ("rect", np.True_, True),
        ("rect", 0, False),
        ("resume", True, True), ("resume", False, False), ("resume", Path("last.pt"), "last.pt"), ("evolve", 5, 5),
        ("freeze", 3, [3]), ("freeze", "backbone", ["backbone"]), ("freeze", (1, 2), [1, 2]), ("window", [8], [8]),
        ("window", 8, [8]), ("window", None, None), ("logger", "wandb", ["wandb"]),
        ("save_period", -1, -1), ("seed", 2**32 - 1, 2**32 - 1),
    ],
)  # fmt: skip
def test_values_that_mean_what_the_option_takes_pass(key, value, kept):
    found = checked(TrainOptions, {key: value})[key]
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
        ("optimizer", "sgd", "--optimizer is 'sgd'; allowed: SGD, Adam, AdamW, Muon$"),
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
        checked(TrainOptions, {key: value})
    with pytest.raises(ValueError, match=message):
        train.run(**{key: value})


def test_every_default_passes_its_own_check():
    for script, cls in ((train, TrainOptions), (detect, DetectOptions), (export, ExportOptions)):
        defaults = vars(script.parse_opt([]))
        defaults.pop("given", None)
        assert checked(cls, defaults) == defaults
        assert cls(**defaults) == cls()
    defaults = vars(val.parse_opt(["--weights", "a.pt"]))
    assert checked(ValOptions, defaults) == defaults


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
        (detect.run, {"weights": "a.pt", "vid_stride": "cat"}, "--vid-stride is 'cat', but must be an integer"),
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


@dataclass(frozen=True)
class Few:
    count: Annotated[int, COUNT] = option(1, "how many")
    gone: bool = refused(False, "use --count")
    share: Annotated[float, SHARE] = option(0.5, "a part", "--share", "--part")
    size: int | list[int] = option(8, "one side or two")
    _: KW_ONLY
    data: Any = option("", "anything")


def test_a_function_of_options_gets_checked_values_by_position_and_by_name():
    @takes_options(Few)
    def run(options, *, other=None):
        return options, other

    assert run(2.0, False, 1, [4], data={"any": "thing"}, other=object) == (
        Few(2, False, 1.0, 4, data={"any": "thing"}),
        object,
    )
    assert run(size=(4, 5))[0].size == [4, 5]
    assert list(inspect.signature(run).parameters) == ["count", "gone", "share", "size", "data", "other"]
    with pytest.raises(ValueError, match="--count is 0, but must be at least 1"):
        run(0)
    with pytest.raises(ValueError, match="--size is '8', but must be an integer"):
        run(size="8")
    with pytest.raises(ValueError, match="unknown option 'gone': use --count"):
        run(1, True)
    with pytest.raises(ValueError, match="unknown option 'othr'. Did you mean 'other'"):
        run(othr=1)
    with pytest.raises(TypeError, match="too many"):
        run(1, False, 1, 1, "data")
    with pytest.raises(TypeError, match="multiple values"):
        run(1, count=1)


def test_positions_are_those_of_yolov5():
    """A copy of the original's calls; what came later in its releases stands where its last one puts it."""
    for run, first in (
        (val.run, "data weights batch_size imgsz conf_thres iou_thres max_det task device workers single_cls augment "
         "verbose save_txt save_hybrid save_conf save_json project name exist_ok half dnn"),
        (detect.run, "weights source data imgsz conf_thres iou_thres max_det device view_img save_txt save_format "
         "save_csv save_conf save_crop nosave classes agnostic_nms augment visualize update project name exist_ok "
         "line_thickness hide_labels hide_conf half dnn vid_stride"),
        (export.run, "data weights imgsz batch_size device include half inplace keras optimize int8 dynamic simplify "
         "opset verbose workspace nms agnostic_nms topk_per_class topk_all iou_thres conf_thres"),
    ):  # fmt: skip
        parameters = inspect.signature(run).parameters.values()
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == first.split()


def test_a_range_has_ends_and_one_value_besides():
    number = Number(int, 1, 8, also=-1)
    assert [number.check("n", x) for x in (-1, 1, 8)] == [-1, 1, 8]
    for bad in (-2, 0, 9):
        with pytest.raises(ValueError, match=f"n is {bad}, but must be at "):
            number.check("n", bad)
    with pytest.raises(ValueError, match="must be a number"):
        Number(float).check("n", "1")


def test_the_page_of_options_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: make docs-options"


def test_arguments_give_the_same_options_on_a_command_line():
    values = {
        "weights": "a b.pt", "evolve": 300, "cache": "ram", "freeze": [0, 3], "window": [7], "resume": "last.pt",
        "rect": True, "close_mosaic": 5, "logger": ["wandb", "mlflow"], "label_smoothing": 0.1, "batch_size": -1,
    }  # fmt: skip
    options = TrainOptions(**checked(TrainOptions, values))
    words = arguments(options, leave_out=("resume",))
    assert words[:2] == ["--weights", "a b.pt"]
    assert words[words.index("--evolve") + 1].startswith("--")  # 300 is what it stands for alone
    read = vars(parse_train(words))
    assert {key: read[key] for key in values} == values | {"resume": False}
    assert arguments(TrainOptions()) == []
