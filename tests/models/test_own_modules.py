"""No model shares a module with another, and what a profiler leaves on one is not taken for a weight."""

import importlib
import pkgutil

import pytest
import thop
import torch
from torch import nn

import models
import utils
from models.convolutions import Conv
from models.weights import yolov5 as legacy
from models.weights.checkpoint import FIELDS, build_model, load_checkpoint, save_checkpoint
from models.weights.transfer import transfer_weights
from models.yolo import DetectionModel
from utils.model_files.inert_pickle import Budget, LazyTensor, Record, Storage
from utils.torch_utils import ModelEMA, load_state

CFG = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 2, "C3", [8]], [-1, 1, "SPPF", [32]]],
    "head": [[-1, 1, "DWConv", [32, 3]], [[3], 1, "Detect", ["nc", "anchors"]]],
}


def build(**keys):
    return DetectionModel({**CFG, **keys}, verbose=False)


def profiled(model):
    thop.profile(model, (torch.zeros(1, 3, 64, 64),), verbose=False)
    return model


def counters(model):
    return [key for key in model.state_dict() if key.endswith(("total_ops", "total_params"))]


def checkpoint(model):
    empty = dict.fromkeys(FIELDS)
    values = {"epoch": 0, "model": model.state_dict(), "yaml": model.yaml, "names": model.names, "stride": [2.0]}
    filled = {"format": 1, "version": "0.1.0", "opt": {}, "git": "", "date": ""}
    return empty | values | filled


@pytest.fixture(autouse=True)
def default(monkeypatch):
    """Put the default activation back after the test."""
    monkeypatch.setattr(Conv, "default_act", Conv.default_act)


@pytest.mark.parametrize("activation", [None, "nn.ReLU()", "nn.PReLU()"])
@pytest.mark.parametrize("fused", [False, True])
def test_models_share_no_module_and_no_buffers(activation, fused):
    keys = {"activation": activation} if activation else {}
    pair = [build(**keys), build(**keys)]
    if fused:
        pair = [model.fuse() for model in pair]
    first, second = ({id(m) for m in model.modules()} | {id(m._buffers) for m in model.modules()} for model in pair)
    assert not first & second
    acts = [module.act for module in pair[0].modules() if isinstance(module, Conv)]
    assert len({id(act) for act in acts}) == len({id(act._buffers) for act in acts}) == len(acts) > 5
    assert all(act is not Conv.default_act for act in acts)
    assert not {id(p) for p in pair[0].parameters()} & {id(p) for p in pair[1].parameters()}


def test_a_parameter_of_the_activation_is_one_for_the_whole_model():
    model = build(activation="nn.PReLU()")
    slopes = [module.act.weight for module in model.modules() if isinstance(module, Conv)]
    assert len(slopes) > 5
    assert len({id(slope) for slope in slopes}) == 1
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in build().parameters()) + 1


def test_a_script_may_set_the_default_activation():
    Conv.default_act = nn.PReLU(init=0.5)
    models = [build(), build()]
    assert {type(m.act) for m in models[0].modules() if isinstance(m, Conv)} == {nn.PReLU}
    models[0].model[0].act.weight.data.fill_(9)
    assert models[1].model[0].act.weight.item() == Conv.default_act.weight.item() == 0.5
    Conv.default_act = nn.ReLU()
    assert isinstance(build().model[0].act, nn.ReLU)
    assert isinstance(Conv(3, 8).act, nn.ReLU)


def test_fusing_leaves_the_module_of_a_caller_alone():
    relu = nn.ReLU()
    model = build()
    model.model[0].act = relu
    assert model.fuse().model[0].act.inplace
    assert not relu.inplace


def test_after_profiling_a_model_others_are_built_and_loaded(tmp_path):
    model = profiled(build())
    assert counters(model), "the profiler leaves nothing, so this tests nothing"
    assert not counters(build())
    assert not counters(build().fuse())
    save_checkpoint(tmp_path / "a.pt", checkpoint(model))
    written = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    assert written.keys() == build().state_dict().keys()
    torch.testing.assert_close(build_model(load_checkpoint(tmp_path / "a.pt")).state_dict(), written)


def test_a_file_with_counters_of_a_profiler_is_read_without_them(tmp_path):
    model = profiled(build())
    ckpt = checkpoint(model)
    torch.save(ckpt, tmp_path / "a.pt")  # as older versions wrote it
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded["model"].keys() == model.state_dict().keys() - set(counters(model))
    assert build_model(loaded).state_dict().keys() == build().state_dict().keys()


@pytest.mark.parametrize("key", ["model.0.conv.extra", "model.0.total_ops.weight", "total_opsx"])
def test_any_other_unknown_weight_is_an_error(key, tmp_path):
    ckpt = checkpoint(build())
    save_checkpoint(tmp_path / "a.pt", ckpt | {"model": ckpt["model"] | {key: torch.zeros(1)}})
    with pytest.raises(ValueError, match=f"weights not in the model: '{key}'$"):
        build_model(load_checkpoint(tmp_path / "a.pt"))


def test_weights_come_back_into_a_profiled_model_and_wrong_ones_do_not():
    source, target = build(), profiled(build())
    load_state(target, source.state_dict())
    assert torch.equal(target.model[0].conv.weight, source.model[0].conv.weight)
    assert not transfer_weights(target, checkpoint(source)).missing
    state = source.state_dict()
    with pytest.raises(ValueError, match=r"weights missing: 'model\.0\.conv\.weight'"):
        load_state(target, {key: value for key, value in state.items() if key != "model.0.conv.weight"})
    with pytest.raises(ValueError, match=r"size mismatch for model\.0\.conv\.weight"):
        load_state(target, state | {"model.0.conv.weight": torch.zeros(1)})


@pytest.mark.parametrize("which", ["live", "average"])
def test_the_average_follows_a_profiled_model(which):
    model = build()
    ema = ModelEMA(model, decay=0.5, tau=1e-9)
    profiled(model if which == "live" else ema.ema)
    before = ema.ema.model[0].conv.weight.clone()
    model.model[0].conv.weight.data.add_(1)
    ema.update(model)
    torch.testing.assert_close(ema.ema.model[0].conv.weight, before + 0.5)


def test_counters_in_a_file_of_the_original_are_left_out():
    tensor = LazyTensor(Storage(torch.float64, "0", 1), 0, (1,), (1,))
    record = Record("models.common.Conv", (), {"_buffers": {"total_ops": tensor, "total_params": tensor, "b": tensor}})
    assert [name for name, _ in legacy._tensors("model.0", record, Budget())] == ["model.0.b"]


def test_no_module_or_tensor_stands_at_the_level_of_a_module_or_class():
    """The default activation is a template; the thresholds are only read."""
    found, files = [], 0
    for package in (models, utils):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            files += 1
            space = vars(importlib.import_module(info.name))
            classes = {f"{info.name}.{k}": vars(v) for k, v in space.items() if isinstance(v, type)}
            own = {name: inside for name, inside in classes.items() if inside.get("__module__") == info.name}
            for name, inside in {info.name: space, **own}.items():
                found += [f"{name}.{k}" for k, v in inside.items() if isinstance(v, nn.Module | torch.Tensor)]
    assert files > 60, "the walk lost files"
    assert found == ["models.common.Conv.default_act", "utils.metrics.IOU_THRESHOLDS"]
