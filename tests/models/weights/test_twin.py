"""Pairing of a convolutional model with its Swin twin, derived tables, and the copied start."""

import pytest
import torch
from torch import nn

from models.common import C3, Conv, Focus
from models.weights.twin import (
    build_twin,
    check_pairing,
    copy_stem_,
    derive_table,
    fitting_tables,
    pair_layers,
    start_as_identity_,
    twin_table,
)
from models.yolo import DetectionModel
from utils.files import yaml_load
from utils.paths import ROOT

SIZES = tuple("nsmlx")


def stirred(model):
    """Give norms and biases values that a trained model could have."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return stirred(DetectionModel("yolov5n.yaml", nc=3, verbose=False))


def kinds(pairing):
    return [pair.kind for pair in pairing.pairs]


@pytest.mark.parametrize("size", SIZES)
def test_every_sibling_pairs_whole(size):
    with torch.device("meta"):
        teacher, twin = (DetectionModel(f"yolov5{size}{end}.yaml", verbose=False) for end in ("", "-swinv2"))
        pairing = pair_layers(teacher, twin)
    assert pairing.whole
    assert pairing.stages == [2, 4, 6, 8]


def test_copied_twin_is_the_teacher_without_its_bottlenecks(teacher):
    twin, pairing = build_twin(teacher, derive_table(teacher, 64)[0])
    assert pairing.whole
    assert pairing.stages == [2, 4, 6, 8]
    bare = DetectionModel(teacher.yaml, verbose=False).eval()
    bare.load_state_dict(teacher.state_dict())
    for layer in pairing.stages:
        assert type(bare.model[layer]) is C3
        bare.model[layer].m = nn.Identity()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(twin(images)[0], bare(images)[0])
    with torch.enable_grad():  # the form for training
        torch.testing.assert_close(twin(images)[0], bare(images)[0], rtol=0, atol=0)


def test_trained_stages_become_the_identity_again(teacher):
    twin, _ = build_twin(teacher, derive_table(teacher, 64)[0])
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        copied = twin(images)[0]
        for parameter in (p for stage in twin.swin_stages for p in stage.parameters()):
            parameter.normal_()
        assert not torch.equal(twin(images)[0], copied)
        start_as_identity_(twin)
        assert torch.equal(twin(images)[0], copied)


def test_copied_entries_are_bit_identical(teacher):
    twin, _ = build_twin(teacher, derive_table(teacher, 64)[0])
    theirs, own = teacher.state_dict(), twin.state_dict()
    shared = [key for key in own if key in theirs]
    assert len(shared) > 200
    assert all(torch.equal(own[key], theirs[key]) for key in shared)
    assert twin.names == teacher.names


def test_twin_takes_classes_anchors_and_activation_of_its_teacher():
    table = yaml_load(ROOT / "models/yolov5n.yaml") | {"nc": 5, "activation": "nn.LeakyReLU(0.1)"}
    table["anchors"] = [[side * 1.5 for side in level] for level in table["anchors"]]
    teacher = DetectionModel(table, verbose=False).eval()
    twin, pairing = build_twin(teacher, twin_table(teacher, "yolov5n-swinv2.yaml"))
    assert pairing.whole
    assert twin.nc == 5
    assert twin.yaml["anchors"] == table["anchors"]
    assert type(twin.model[1].act) is nn.LeakyReLU


def test_derived_table_of_a_p6_model_has_windows_for_its_maps():
    teacher = DetectionModel("yolov5n6.yaml", verbose=False)
    table, kept = derive_table(teacher, 1280)
    with torch.device("meta"):
        pairing = pair_layers(teacher, DetectionModel(table, verbose=False))
    assert kept == []
    assert pairing.whole
    assert pairing.stages == [2, 4, 6, 8, 10]
    assert [table["backbone"][i][3][1] for i in pairing.stages] == [8, 8, 8, 10, 10]  # divide 320, 160, 80, 40, 20


@pytest.mark.parametrize("name", ["yolov5s", "yolov5s6", "yolov5-p2"])
def test_shipped_tables_are_the_derived_ones(name):
    folder = ROOT / ("models" if len(name) == 7 else "models/hub")
    derived, _ = derive_table(DetectionModel(folder / f"{name}.yaml", verbose=False), 1280 if "6" in name else 640)
    shipped = yaml_load(folder / f"{name}-swinv2.yaml")
    keys = ("backbone", "head", "depth_multiple", "width_multiple", "anchors")
    assert {key: derived[key] for key in keys} == {key: shipped[key] for key in keys}


def test_derived_table_names_what_stays_convolutional():
    table = yaml_load(ROOT / "models/yolov5n.yaml")
    table["backbone"][2] = [-1, 3, "BottleneckCSP", [128]]
    table["backbone"][4] = [-1, 3, "C3", [264]]
    table["width_multiple"] = 0.125
    teacher = DetectionModel(table, verbose=False)
    derived, kept = derive_table(teacher, 320)
    assert [row[2] for row in derived["backbone"][2:9:2]] == ["BottleneckCSP", "C3", "C3SwinV2", "C3SwinV2"]
    assert kept == [
        "layer 2 stays BottleneckCSP: only C3 has a Swin twin",
        "layer 4 stays C3: 20 channels inside are no multiple of 8",
    ]


def test_wrong_size_names_the_table_that_fits(teacher):
    twin, pairing = build_twin(teacher, twin_table(teacher, "yolov5s-swinv2.yaml"))
    with pytest.raises(
        ValueError,
        match=r"yolov5s-swinv2.yaml is not the Swin twin of yolov5n.pt: layer 0 \(Conv\): 16 channels in the teacher, "
        r"32 in the model. models/yolov5n-swinv2.yaml fits this teacher; for one of its own table: "
        r".*-m engine.convert .*yolov5n.pt --cfg twin",
    ):
        check_pairing(pairing, teacher, twin, "yolov5n.pt", "models/yolov5s-swinv2.yaml")


def test_error_names_layer_and_reason(teacher):
    table = derive_table(teacher, 320)[0]
    table["head"][3][3] = [512, True]  # a shortcut in layer 13
    twin, pairing = build_twin(teacher, table)
    assert kinds(pairing)[12:15] == ["same", "unpaired", "unpaired"]
    with pytest.raises(ValueError, match=r"layer 13 \(C3\): m.0: add=False in the teacher, add=True in the model"):
        check_pairing(pairing, teacher, twin, "a.pt", "b.yaml")


def test_plain_convolutional_model_is_no_twin(teacher):
    twin, pairing = build_twin(teacher, twin_table(teacher, "yolov5n.yaml"))
    with pytest.raises(ValueError, match="it has no C3SwinV2 in place of a C3 of the teacher"):
        check_pairing(pairing, teacher, twin, "a.pt", "yolov5n.yaml")


def test_twin_with_other_levels_is_paired_up_to_the_first_difference(teacher, caplog):
    table = derive_table(teacher, 320)[0]
    head = yaml_load(ROOT / "models/hub/yolov5-p2.yaml")["head"]
    twin, pairing = build_twin(teacher, table | {"head": head, "anchors": 3})
    check_pairing(pairing, teacher, twin, "yolov5n.pt", "p2.yaml")
    assert pairing.stages == [2, 4, 6, 8]
    assert set(kinds(pairing)[:18]) == {"same", "stage"}
    assert pairing.first_unpaired.layer == 18
    assert "layers 0 to 17 are converted" in caplog.text


def test_fitting_tables_pair(teacher):
    assert [file.name for file in fitting_tables(teacher)] == ["yolov5n-swinv2.yaml"]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_focus_becomes_one_exact_convolution(kernel):
    focus = stirred(Focus(3, 8, kernel))
    conv = Conv(3, 8, 2 * kernel, 2, 2 * (kernel // 2)).eval()
    assert copy_stem_(focus, conv)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(conv(images), focus(images), rtol=1e-5, atol=1e-5)


def test_stem_with_another_kernel_is_left_to_the_fit():
    theirs, own = stirred(Conv(3, 8, 6, 2, 2)), Conv(3, 8, 3, 2)
    before = own.conv.weight.clone()
    assert not copy_stem_(theirs, own)
    assert torch.equal(own.conv.weight, before)
    assert torch.equal(own.bn.running_mean, theirs.bn.running_mean)
