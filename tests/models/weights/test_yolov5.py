"""Checkpoints of the original YOLOv5: models rebuilt from look-alike files (see foreign_writer.py), nothing run."""

from pathlib import Path

import pytest
import torch

from models import yolo
from models.experimental import attempt_load
from models.weights import yolov5 as legacy
from models.weights.checkpoint import (
    FIELDS,
    build_model,
    load_checkpoint,
    refuse_foreign_resume,
    strip_optimizer,
)
from models.weights.transfer import transfer_weights
from models.yolo import DetectionModel
from tests.stock_models import no_start_values
from utils.files import yaml_load
from utils.model_files.inert_pickle import Budget, Record

MODELS = Path(__file__).resolve().parents[3] / "models"
FILES = ("v3", "v5", "v7", "v7-protocol4", "running", "fused", "activation")


@torch.no_grad()
def outputs(model, folder, name):
    expected = torch.load(folder / f"{name}.out", weights_only=True)
    return model.eval()(expected["x"])[0], expected["out"]


@pytest.mark.parametrize("name", FILES)
def test_the_rebuilt_model_gives_the_boxes_of_the_original(foreign, name):
    ckpt = load_checkpoint(foreign / f"{name}.pt")
    assert list(ckpt) == list(FIELDS)
    found, expected = outputs(build_model(ckpt), foreign, name)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ckpt["names"] == {0: "cat", 1: "dog"}
    assert ckpt["stride"] == [8.0, 16.0]
    assert (ckpt["epoch"], ckpt["optimizer"], ckpt["ema"], ckpt["best_fitness"]) == (-1, None, None, None)


@pytest.mark.parametrize("cfg", ["yolov5n.yaml", "yolov5n-swinv2.yaml"])
def test_a_model_of_ours_that_a_script_saved_as_a_whole(cfg, tmp_path):
    table = yaml_load(MODELS / cfg) | {"width_multiple": 0.125, "depth_multiple": 0.1, "nc": 2}
    model = DetectionModel(table, verbose=False)
    model(torch.rand(2, 3, 64, 64))
    images = torch.rand(1, 3, 64, 96)
    expected = model.eval()(images)[0]
    torch.save({"epoch": 3, "model": model, "ema": None, "opt": {"epochs": 4}}, tmp_path / "last.pt")
    assert torch.equal(attempt_load(tmp_path / "last.pt", fuse=False)(images)[0], expected)
    model.names = {0: "cat", 1: "dog"}
    torch.save({"model": model.fuse()}, tmp_path / "last.pt")
    if "swin" not in cfg:
        loaded = attempt_load(tmp_path / "last.pt")
        assert loaded.names == model.names
        torch.testing.assert_close(loaded(images)[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("task", ["Segmentation", "Classification"])
def test_a_checkpoint_of_another_task_is_told_to_be_one(task, tmp_path, monkeypatch):
    """The head of a segmentation model stores `Detect.forward`, which pickle writes as a getattr."""
    kind = type(f"{task}Model", (torch.nn.Module,), {"__module__": "models.yolo"})
    monkeypatch.setattr(yolo, kind.__name__, kind, raising=False)
    model = kind()
    model.detect = yolo.Detect.forward
    torch.save({"model": model, "ema": None}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"x\.pt: a {task.lower()} checkpoint; this project detects"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["v5", "v7", "fused"])
def test_torch_load_makes_a_model_of_our_classes(foreign, name):
    """Scripts that trust a file unpickle it: the class paths in it are importable, and the objects work."""
    model = torch.load(foreign / f"{name}.pt", weights_only=False)["model"].float()
    assert type(model) is DetectionModel
    model.save = list(range(len(model.model)))  # the look-alike needs no such list
    found, expected = outputs(model, foreign, name)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found, _ = outputs(model.fuse(), foreign, name)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_it_can_be_fused(foreign):
    found, expected = outputs(attempt_load(foreign / "v5.pt"), foreign, "v5")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_what_goes_with_the_weights(foreign):
    ckpt = load_checkpoint(foreign / "v7.pt")
    assert ckpt["opt"] == {"cfg": "", "save_dir": "runs/train/exp", "hyp": {"lr0": 0.01}, "freeze": [0]}
    assert ckpt["hyp"] == {"box": 0.05, "cls": 0.0125, "lr0": 0.01}
    assert (ckpt["git"], ckpt["date"]) == ("https://example.org/x main abc", "2023-01-02T03:04:05")
    assert ckpt["model"]["model.0.conv.weight"].dtype == torch.float16
    torch.testing.assert_close(  # the buffer counts, not the table
        ckpt["model"]["model.10.anchors"].float()[0] * 8,
        torch.tensor([[10.0, 13], [16, 30], [33, 23]]) * 1.25,
        rtol=1e-3,
        atol=0,
    )


def test_activations_are_read_from_the_objects_of_old_files(foreign):
    tables = {name: load_checkpoint(foreign / f"{name}.pt")["yaml"] for name in ("v3", "v5", "fused")}
    assert {name: table.get("activation") for name, table in tables.items()} == {
        "v3": "nn.LeakyReLU(0.1)",
        "v5": None,
        "fused": "nn.Hardswish()",
    }
    assert tables["v3"]["backbone"][3] == [-1, 2, "BottleneckCSP", [32, {"leaky": 0.1}]]


def test_it_serves_as_start_of_a_training(foreign):
    ckpt = load_checkpoint(foreign / "v3.pt")
    model = DetectionModel(ckpt["yaml"], nc=5, verbose=False)
    report = transfer_weights(model, ckpt)
    assert report.total - len(report.taken) == len(report.reshaped) == 4  # weight and bias of two output convolutions


def test_a_fused_file_can_be_trained(foreign):
    """The norms that were folded away come back as norms that change nothing."""
    norm = build_model(load_checkpoint(foreign / "fused.pt")).model[0].bn
    torch.testing.assert_close(norm.running_var + norm.eps, torch.ones(16), rtol=1e-6, atol=0)
    assert not norm.running_mean.any()
    assert norm.weight.eq(1).all()
    assert norm.weight.requires_grad


def test_stripping_writes_a_file_of_ours(foreign, tmp_path):
    strip_optimizer(foreign / "running.pt", tmp_path / "ours.pt")
    assert torch.load(tmp_path / "ours.pt", weights_only=True)["names"] == {0: "cat", 1: "dog"}
    found, expected = outputs(build_model(load_checkpoint(tmp_path / "ours.pt")), foreign, "running")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_training_does_not_go_on_from_it(foreign):
    ckpt = load_checkpoint(foreign / "running.pt")
    with pytest.raises(ValueError, match=r"last\.pt: written by the original YOLOv5, .* cannot be resumed"):
        refuse_foreign_resume(ckpt, "last.pt")
    refuse_foreign_resume(ckpt | {"version": "0.1.0"}, "last.pt")


def test_a_network_that_the_table_does_not_make_is_refused(foreign):
    with pytest.raises(ValueError, match=r"other\.pt: .*model\.4\.conv: stride is 1\.0 in the file, 2\.0 here"):
        load_checkpoint(foreign / "other.pt")


def test_other_tasks_are_refused_by_name(foreign):
    with pytest.raises(ValueError, match=r"segmentation\.pt: a segmentation checkpoint; this project detects"):
        load_checkpoint(foreign / "segmentation.pt")


@pytest.mark.parametrize("position", [0.3, 0.9])
@pytest.mark.parametrize("name", ["v3", "v7"])
def test_damage_is_recognised(foreign, tmp_path, name, position):
    content = (foreign / f"{name}.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(len(content) * position)])
    with pytest.raises(ValueError, match=r"a\.pt: .*damaged"):
        load_checkpoint(tmp_path / "a.pt")


def test_settings_are_compared_as_pytorch_understands_them():
    same = [(3, (3, 3)), ((1,), [1, 1]), (2, 2.0), (True, True), ("nearest", "nearest"), (None, None)]
    other = [(3, (3, 1)), ((1, 2), (2, 1)), (1, True), ("nearest", "linear"), ([1, "x"], [1, 2]), (None, 0)]
    assert [legacy._pair(a) == legacy._pair(b) for a, b in same] == [True] * len(same)
    assert [legacy._pair(a) == legacy._pair(b) for a, b in other] == [False] * len(other)


def test_arguments_that_moved():
    """Up to v6.2 `act` was the sixth argument of Conv and the fourth of DWConv, where `dilation` is now."""
    rows = [
        [-1, 1, "Conv", [8, 3, 1, None, 1, False]],
        [-1, 1, "DWConv", [8, 3, 1, False]],
        [-1, 1, "DWConv", [8, 3, 1, 2]],
    ]
    table = {"nc": 2, "anchors": 3, "backbone": rows, "head": [[[1, 2], 1, "Detect", [2, [[1, 2]]]]]}
    modern = legacy._modern_table(table, {}, {})
    assert [row[3] for row in modern["backbone"]] == [
        [8, 3, 1, None, 1, {"act": False}],
        [8, 3, 1, {"act": False}],
        [8, 3, 1, 2],
    ]
    assert modern["head"][0][3] == ["nc", "anchors"]
    assert rows[1][3] == [8, 3, 1, False]


def older_table(name, block="C3"):
    """The table of a stock model as it was up to v5.0: Focus, more repeats, SPP before the last block."""
    table = yaml_load(MODELS / f"{name}.yaml")
    rows = table["backbone"]
    rows[0] = [-1, 1, "Focus", [64, 3]]
    rows[4][1] = 9
    last = rows[-2][3][0]
    rows[-2:] = [[-1, 1, "SPP", [last, [5, 9, 13] if last == 1024 and len(rows) == 10 else [3, 5, 7]]]]
    rows.append([-1, 3, "C3", [last, False]])
    for row in rows + table["head"]:
        row[2] = block if row[2] == "C3" else row[2]
    return table


@pytest.mark.parametrize(
    ("name", "block", "parameters", "entries"),
    [
        ("yolov5s", "C3", 7_276_605, 361),
        ("yolov5m", "C3", 21_375_645, 505),
        ("yolov5l", "C3", 47_056_765, 649),
        ("yolov5x", "C3", 87_775_965, 793),
        ("hub/yolov5s6", "C3", 12_667_836, 471),
        ("yolov5s", "BottleneckCSP", 7_468_157, 369),
    ],
)
def test_layouts_of_older_releases_have_the_measured_sizes(name, block, parameters, entries):
    with no_start_values():
        model = DetectionModel(older_table(name, block), nc=80, verbose=False)
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == (parameters, entries)


def test_modules_without_end():
    loop = Record("models.yolo.Model")
    loop.state["_modules"] = {"a": loop, "b": loop}
    with pytest.raises(ValueError, match="nested too deeply"):
        list(legacy._walk(loop, Budget()))
    nest = []
    nest.append(nest)
    with pytest.raises(ValueError, match="nested too deeply"):
        legacy._plain({"a": nest}, Budget())
