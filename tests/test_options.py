"""The options of the four scripts, frozen: names, aliases and defaults of YOLOv5, and every place where ours differ.

`SPEC` is typed from the specification of the original (its tables of train.py, val.py, detect.py and export.py). A
change of an option is a change of a table here.
"""

import argparse

import pytest

import detect
import export
import train
import val
from utils.options.export import ExportOptions
from utils.options.table import all_options
from utils.options.train import TrainOptions
from utils.paths import ROOT

IMG = ("--imgsz", "--img", "--img-size")


def flags(*names):
    return dict.fromkeys(names, False)


SPEC = {
    "train": {
        "--weights": ROOT / "yolov5s.pt", "--cfg": "", "--data": ROOT / "data/coco128.yaml",
        "--hyp": ROOT / "data/hyps/hyp.scratch-low.yaml", "--epochs": 100, "--batch-size": 16, IMG: 640,
        **flags("--rect", "--resume", "--nosave", "--noval", "--noautoanchor", "--noplots"), "--evolve": None,
        "--evolve_population": ROOT / "data/hyps", "--resume_evolve": None, "--bucket": "", "--cache": None,
        **flags("--image-weights", "--multi-scale", "--single-cls"), "--device": "", "--optimizer": "SGD",
        **flags("--sync-bn", "--exist-ok", "--quad", "--cos-lr"), "--workers": 8, "--project": ROOT / "runs/train",
        "--name": "exp", "--label-smoothing": 0.0, "--patience": 100, "--freeze": [0], "--save-period": -1, "--seed": 0,
        "--local_rank": -1, "--entity": None, "--upload_dataset": False, "--bbox_interval": -1,
        "--artifact_alias": "latest",
    },
    "val": {
        "--data": ROOT / "data/coco128.yaml", "--weights": ROOT / "yolov5s.pt", "--batch-size": 32, IMG: 640,
        "--conf-thres": 0.001, "--iou-thres": 0.6, "--max-det": 300, "--task": "val", "--device": "", "--workers": 8,
        **flags("--single-cls", "--augment", "--verbose", "--save-txt", "--save-hybrid", "--save-conf", "--save-json"),
        **flags("--exist-ok", "--half", "--dnn"), "--project": ROOT / "runs/val", "--name": "exp",
    },
    "detect": {
        "--weights": ROOT / "yolov5s.pt", "--source": ROOT / "data/images", "--data": ROOT / "data/coco128.yaml",
        IMG: [640], "--conf-thres": 0.25, "--iou-thres": 0.45, "--max-det": 1000, "--device": "", "--save-format": 0,
        **flags("--view-img", "--save-txt", "--save-csv", "--save-conf", "--save-crop", "--nosave", "--agnostic-nms"),
        **flags("--augment", "--visualize", "--update", "--exist-ok", "--hide-labels", "--hide-conf", "--half"),
        "--dnn": False, "--classes": None, "--project": ROOT / "runs/detect", "--name": "exp", "--line-thickness": 3,
        "--vid-stride": 1,
    },
    "export": {
        "--data": ROOT / "data/coco128.yaml", "--weights": ROOT / "yolov5s.pt", IMG: [640, 640], "--batch-size": 1,
        "--device": "cpu", "--cache": "", "--opset": 17, "--workspace": 4, "--topk-per-class": 100, "--topk-all": 100,
        **flags("--half", "--inplace", "--keras", "--optimize", "--int8", "--per-tensor", "--dynamic", "--simplify"),
        **flags("--mlmodel", "--verbose", "--nms", "--agnostic-nms"), "--iou-thres": 0.45, "--conf-thres": 0.25,
        "--include": ["torchscript"],
    },
}  # fmt: skip

# Other defaults than the original's: nothing is downloaded, and what --hyp says is not overruled unasked.
OTHER_DEFAULTS = {
    "train": {
        "--weights": "", "--data": "data/demo.yaml", "--hyp": "", "--optimizer": None, "--label-smoothing": None,
        "--evolve_population": "",
    },
    "val": {"--data": "data/demo.yaml", "--weights": None},  # needed
    "detect": {"--data": None, "--weights": None, "--line-thickness": None},
    "export": {"--data": "", "--weights": None, "--opset": 20, "--include": ["onnx"]},
}  # fmt: skip

REFUSED = {  # of clouds, and of formats that are not exported
    "train": {
        "--bucket", "--entity", "--upload_dataset", "--bbox_interval", "--artifact_alias", "--local_rank",
    },
    "export": {"--inplace", "--keras", "--per-tensor", "--mlmodel", "--topk-per-class"},
}  # fmt: skip

OURS = {
    "train": {
        "--amp": "auto", "--activation-checkpointing": False, "--checkpoint-stages": None, "--window": None,
        "--slice": 0, "--overlap": 0.2,
        "--shard-optimizer": False, "--tuner": "genetic", "--storage": "", "--logger": [], "--nan-policy": "stop",
        "--convert": "auto", "--unlabeled": [], "--freeze-bn": False, "--strip": False,
        "--metric": "fitness",
        "--teacher": "", "--distill-from": "outputs", "--close-mosaic": None, "--max-det": None,
        "--classes": None, "--cache-dir": "",
    },
    "val": {
        **flags("--as-detect", "--report", "--save-thresholds", "--coco"), "--window": None, "--classes": None,
        "--slice": 0, "--overlap": 0.2,
    },
    "detect": {
        **flags("--save-json", "--save-frames", "--report"), "--window": None,
        "--slice": 0, "--overlap": 0.2,
        "--batch-size": None, "--as-dataset": None, "--track": False,
    },
    "export": {"--calibration": 128, "--check-tensorrt": False, "--runtime": [], "--raw-heads": False},
}  # fmt: skip

SCRIPTS = {"train": train, "val": val, "detect": detect, "export": export}


def parser_of(script, monkeypatch):
    """The parser that a script builds, caught on its way."""
    caught = []

    def parse(self, *_):
        caught.append(self)
        return argparse.Namespace()

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        script.parse_opt([])
    return caught[0]


def plain(options):
    """Options as {(names, ...): default}, paths as texts."""
    return {
        (names,) if isinstance(names, str) else names: default
        if isinstance(default, bool | int | float | list | None)
        else str(default)
        for names, default in options.items()
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_options_are_those_of_the_original_but_for_what_stands_here(name, monkeypatch):
    parser = parser_of(SCRIPTS[name], monkeypatch)
    refused = REFUSED.get(name, set())
    found = {tuple(action.option_strings): action.default for action in parser._actions if action.dest != "help"}
    assert {names for names in found if set(names) & refused} == {(option,) for option in refused}
    expected = {
        names: default for names, default in SPEC[name].items() if names not in refused
    } | OTHER_DEFAULTS[name] | OURS[name]  # fmt: skip
    assert {names: value for names, value in found.items() if not set(names) & refused} == plain(expected)


def test_flags_take_no_value_and_lists_do(monkeypatch):
    for name, script in SCRIPTS.items():
        actions = {a.option_strings[0]: a for a in parser_of(script, monkeypatch)._actions}
        for names, default in plain(SPEC[name]).items():
            if default is False and names[0] in actions and names[0] not in {"--resume"}.union(*REFUSED.values()):
                assert actions[names[0]].nargs == 0, names
            if isinstance(default, list):
                assert actions[names[0]].nargs == "+", names


@pytest.mark.parametrize(
    ("script", "option"), [(script, option) for script in REFUSED for option in sorted(REFUSED[script])]
)
def test_options_that_are_refused_end_with_a_sentence(script, option):
    with pytest.raises(ValueError, match=f"{option} is not supported: .{{20,}}"):
        SCRIPTS[script].parse_opt([option, "x"])
    name = option.lstrip("-").replace("-", "_")
    assert name not in vars(SCRIPTS[script].parse_opt([]))
    run, default = (
        SCRIPTS[script].run,
        all_options({"train": TrainOptions, "export": ExportOptions}[script])[name].default,
    )
    for value, message in ((default, "no weights|no such"), ("x", f"unknown option '{name}': .{{20,}}")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(weights="none.pt" if script == "train" else None, **{name: value})


@pytest.mark.parametrize(
    ("short", "key", "value"),
    [
        ("--img 320", "imgsz", 320), ("--batch 4", "batch_size", 4), ("--cache", "cache", "ram"),
        ("--resume", "resume", True), ("--evolve", "evolve", 300), ("--freeze 1 2", "freeze", [1, 2]),
        ("--freeze backbone", "freeze", ["backbone"]), ("--label 0.1", "label_smoothing", 0.1),
        ("--cache val", "cache", "val"), ("--opt AdamW", "optimizer", "AdamW"), ("--batch -1", "batch_size", -1),
    ],
)  # fmt: skip
def test_short_forms_and_bare_options_of_training(short, key, value):
    assert getattr(train.parse_opt(short.split()), key) == value


def test_known_options_are_read_among_those_of_another_program(monkeypatch):
    words = ["--epochs", "3", "--mine", "x"]
    assert train.parse_opt(words, known=True).epochs == 3
    monkeypatch.setattr("sys.argv", ["mine.py", *words])
    opt = train.parse_opt(True)  # YOLOv5's call
    assert (opt.epochs, opt.given) == (3, ["epochs"])
    with pytest.raises(SystemExit):
        train.parse_opt()
