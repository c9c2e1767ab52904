"""Hyperparameters: the stock files, the checks, and the fitted loss gains."""

from dataclasses import FrozenInstanceError, fields

import pytest

from utils.files import yaml_load, yaml_save
from utils.hyp import Hyp
from utils.paths import ROOT

# Table 5.15 of the behaviour notes: scratch-low, and for the others what differs from it.
LOW = (
    "lr0 0.01 lrf 0.01 momentum 0.937 weight_decay 0.0005 warmup_epochs 3 warmup_momentum 0.8 warmup_bias_lr 0.1 "
    "box 0.05 cls 0.5 cls_pw 1 obj 1 obj_pw 1 iou_t 0.2 anchor_t 4 fl_gamma 0 hsv_h 0.015 hsv_s 0.7 hsv_v 0.4 "
    "degrees 0 translate 0.1 scale 0.5 shear 0 perspective 0 flipud 0 fliplr 0.5 mosaic 1 mixup 0 copy_paste 0"
)
DIFFERENCES = {
    "scratch-low": "",
    "scratch-med": "lrf 0.1 cls 0.3 obj 0.7 scale 0.9 mixup 0.1",
    "scratch-high": "lrf 0.1 cls 0.3 obj 0.7 scale 0.9 mixup 0.1 copy_paste 0.1",
    "VOC": (
        "lr0 0.00334 lrf 0.15135 momentum 0.74832 weight_decay 0.00025 warmup_epochs 3.3835 warmup_momentum 0.59462 "
        "warmup_bias_lr 0.18657 box 0.02 cls 0.21638 cls_pw 0.5 obj 0.51728 obj_pw 0.67198 anchor_t 3.3744 "
        "anchors 3.412 hsv_h 0.01041 hsv_s 0.54703 hsv_v 0.27739 translate 0.04591 "
        "scale 0.75544 mosaic 0.85834 mixup 0.04266"
    ),
    "Objects365": (
        "lr0 0.00258 lrf 0.17 momentum 0.779 weight_decay 0.00058 warmup_epochs 1.33 warmup_momentum 0.86 "
        "warmup_bias_lr 0.0711 box 0.0539 cls 0.299 cls_pw 0.825 obj 0.632 anchor_t 3.44 anchors 3.2 "
        "hsv_h 0.0188 hsv_s 0.704 hsv_v 0.36 translate 0.0902 scale 0.491"
    ),
    "no-augmentation": (
        "lrf 0.1 cls 0.3 obj 0.7 hsv_h 0 hsv_s 0 hsv_v 0 translate 0 scale 0 fliplr 0 mosaic 0 mixup 0 copy_paste 0"
    ),
}
OURS = {"optimizer", "beta2", "clip_norm", "nominal_batch", "drop_path", "label_smoothing"}


def pairs(text):
    words = text.split()
    return {key: float(value) for key, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_stock_files_have_the_known_values(name):
    file = ROOT / "data" / "hyps" / f"hyp.{name}.yaml"
    expected = pairs(LOW) | pairs(DIFFERENCES[name])
    assert yaml_load(file) == expected
    assert Hyp.load(file).to_dict() == expected


def test_defaults_are_those_of_scratch_low():
    assert Hyp.load(ROOT / "data/hyps/hyp.scratch-low.yaml") == Hyp() == Hyp.from_dict({})


@pytest.mark.parametrize("file", sorted((ROOT / "data" / "hyps").glob("*.yaml")), ids=lambda file: file.name)
def test_every_file_we_ship_loads(file):
    hyp = Hyp.load(file)
    assert {key: getattr(hyp, key) for key in yaml_load(file)} == yaml_load(file)


def test_to_dict_is_the_inverse_of_from_dict():
    hyp = Hyp(
        lr0=0.02, anchors=3, optimizer="AdamW", beta2=0.99, clip_norm=float("inf"), nominal_batch=32, drop_path=0.2
    )
    d = hyp.to_dict()
    assert Hyp.from_dict(d) == hyp
    order = [spec.name for spec in fields(Hyp) if spec.name in d]
    assert list(d) == order
    assert OURS - set(d) == {"label_smoothing"}  # the one left at its default


def test_a_file_reads_back(tmp_path):
    hyp = Hyp(lr0=1e-5, optimizer="SGD", clip_norm=float("inf"))
    yaml_save(tmp_path / "hyp.yaml", hyp.to_dict())
    assert Hyp.load(tmp_path / "hyp.yaml") == hyp


def test_the_mapping_given_is_not_changed():
    d = {"lr0": 1, "nominal_batch": 64.0}
    hyp = Hyp.from_dict(d)
    assert d == {"lr0": 1, "nominal_batch": 64.0}
    assert type(hyp.lr0) is float
    assert type(hyp.nominal_batch) is int


def test_missing_keys_are_named(tmp_path, caplog):
    yaml_save(tmp_path / "hyp.yaml", {k: v for k, v in Hyp().to_dict().items() if k not in ("mosaic", "copy_paste")})
    with caplog.at_level("INFO"):
        assert Hyp.load(tmp_path / "hyp.yaml") == Hyp()
    assert caplog.messages[0].endswith("for mosaic, copy_paste")


@pytest.mark.parametrize("value", [0, 0.0, -0.0, None])
def test_anchors_of_zero_keep_those_of_the_model(tmp_path, value):
    yaml_save(tmp_path / "hyp.yaml", {"anchors": value})
    hyp = Hyp.load(tmp_path / "hyp.yaml")
    assert hyp == Hyp(anchors=value) == Hyp()
    assert hyp.anchors is None
    assert "anchors" not in hyp.to_dict()


@pytest.mark.parametrize("value", [False, 0.5, -1, 21, "0"])
def test_other_numbers_of_anchors_are_refused(value):
    with pytest.raises(ValueError, match=r"hyp: anchors: .*\[1, 20\]"):
        Hyp(anchors=value)


@pytest.mark.parametrize("value", ["auto", [1, 2.5], {"traffic light": 3, 0: 0.5}])
def test_class_weights_have_three_forms(tmp_path, value):
    hyp = Hyp(cls_weights=value)
    yaml_save(tmp_path / "hyp.yaml", hyp.to_dict())
    assert Hyp.load(tmp_path / "hyp.yaml") == hyp
    assert hyp.cls_weights == value
    assert "cls_weights" not in Hyp().to_dict()


def test_every_key_says_what_it_does():
    for spec in fields(Hyp):
        assert len(spec.metadata["effect"]) > 10, spec.name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mosiac": 1.0}, "my.yaml: unknown key 'mosiac'. Did you mean 'mosaic'?"),
        ({"lrO": 1.0}, "my.yaml: unknown key 'lrO'. Did you mean 'lr0'?"),
        ({"lr0": 0.1, "lrO": 1.0}, "my.yaml: unknown key 'lrO'. Did you mean 'lrf'?"),
        ({"lrx": 1.0, "lrf": 1.0}, "my.yaml: unknown key 'lrx'. Did you mean 'lr0'?"),
        ({"zzz": 1.0}, "my.yaml: unknown key 'zzz'. Known keys: lr0, lrf, "),
        ({1: 1.0}, "my.yaml: unknown key 1. Known keys: lr0, lrf, "),
        ({"lr0": "fast"}, "my.yaml: lr0: 'fast' is not a number in (0, 1]"),
        ({"lr0": None}, "my.yaml: lr0: None is not a number in (0, 1]"),
        ({"mosaic": True}, "my.yaml: mosaic: True is not a number in [0, 1]"),
        ({"hsv_h": [0.1]}, "my.yaml: hsv_h: [0.1] is not a number in [0, 1]"),
        ({"nominal_batch": 2.5}, "my.yaml: nominal_batch: 2.5 is not an integer in [1, inf)"),
        ({"nominal_batch": float("inf")}, "my.yaml: nominal_batch: inf is not an integer"),
        ({"mosaic": 1.5}, "my.yaml: mosaic: 1.5 is out of range, allowed: a number in [0, 1]"),
        ({"cls_weights": "Auto"}, "my.yaml: cls_weights: 'Auto' is not auto, a list of numbers, or a mapping of"),
        ({"cls_weights": 2}, "my.yaml: cls_weights: 2 is not auto, a list"),
        ({"cls_weights": []}, "my.yaml: cls_weights: [] is not auto, a list"),
        ({"cls_weights": {}}, "my.yaml: cls_weights: {} is not auto, a list"),
        ({"cls_weights": [1, 0]}, "my.yaml: cls_weights: [1, 0] is out of range, allowed: numbers in (0, 100], not 0"),
        (
            {"cls_weights": {"a": True}},
            "my.yaml: cls_weights: {'a': True} is out of range, allowed: numbers in (0, 100], not True",
        ),
        (
            {"cls_weights": [float("nan")]},
            "my.yaml: cls_weights: [nan] is out of range, allowed: numbers in (0, 100], not nan",
        ),
        ({"cls_weights": ["2"]}, "my.yaml: cls_weights: ['2'] is out of range, allowed: numbers in (0, 100], not '2'"),
        ({"lr0": 0}, "my.yaml: lr0: 0 is out of range, allowed: a number in (0, 1]"),
        ({"lr0": float("nan")}, "my.yaml: lr0: nan is out of range"),
        ({"momentum": 1}, "my.yaml: momentum: 1 is out of range, allowed: a number in [0, 1)"),
        ({"box": float("inf")}, "my.yaml: box: inf is out of range"),
        ({"anchor_t": 1.0}, "my.yaml: anchor_t: 1.0 is out of range, allowed: a number in (1, inf)"),
        ({"optimizer": "sgd"}, "my.yaml: optimizer: 'sgd' is not one of SGD, Adam, AdamW"),
    ],
)
def test_wrong_values_are_refused_with_file_key_value_and_range(values, message):
    with pytest.raises(ValueError, match="my.yaml") as error:
        Hyp.from_dict(values, "my.yaml")
    assert str(error.value).startswith(message)


def test_the_error_names_the_file(tmp_path):
    yaml_save(tmp_path / "hyp.yaml", {"lr0": -1})
    with pytest.raises(ValueError, match=f"{tmp_path}/hyp.yaml:1: lr0: -1 is out of range"):
        Hyp.load(tmp_path / "hyp.yaml")


def test_values_given_in_python_are_checked_too_and_stay():
    with pytest.raises(ValueError, match="hyp: mixup: 2 is out of range"):
        Hyp(mixup=2)
    with pytest.raises(FrozenInstanceError):
        Hyp().lr0 = 1


def test_gains_fit_levels_classes_and_size():
    hyp = Hyp()
    same = hyp.scaled(nl=3, nc=80, imgsz=640, label_smoothing=0.0)
    assert same.to_dict() == pytest.approx(hyp.to_dict())
    # by hand: 4 levels divide by 4/3, 20 classes by 4, half the size by 4
    other = hyp.scaled(nl=4, nc=20, imgsz=320, label_smoothing=0.1)
    assert other.box == pytest.approx(0.05 * 0.75)
    assert other.cls == pytest.approx(0.5 * 0.75 / 4)
    assert other.obj == pytest.approx(1.0 * 0.75 / 4)
    assert other.label_smoothing == 0.1
    unscaled = {
        key: value for key, value in other.to_dict().items() if key not in ("box", "cls", "obj", "label_smoothing")
    }
    assert unscaled.items() <= hyp.to_dict().items()
    assert hyp == Hyp()
