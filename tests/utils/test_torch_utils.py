"""Device, seeds, timing, fusing, averaged weights, early stopping."""

import ctypes
import multiprocessing
import os
import platform
import random
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils import torch_utils
from utils.torch_utils import (
    EarlyStopping,
    ModelEMA,
    Profile,
    amp_context,
    copy_attr,
    de_parallel,
    fuse_conv_and_bn,
    init_seeds,
    initialize_weights,
    intersect_dicts,
    parse_device,
    select_device,
    smart_inference_mode,
)


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are twelve CUDA devices; returns the list of ids made current."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 12)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch_utils, "_cuda_name", lambda i: f"CUDA:{i}")
    return current


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# Device


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("auto", [])),
        ("none", ("auto", [])),
        ("cpu", ("cpu", [])),
        (" CPU ", ("cpu", [])),
        ("mps", ("mps", [])),
        ("mps:0", ("mps", [])),
        ("0", ("cuda", [0])),
        ("11", ("cuda", [11])),
        ("cuda", ("cuda", [0])),
        ("cuda:1", ("cuda", [1])),
        ("0,1, 10", ("cuda", [0, 1, 10])),
    ],
)
def test_device_syntax(text, expected):
    assert parse_device(text) == expected


@pytest.mark.parametrize("text", ["gpu", "-1", "0,", "0,0", "1.5", "cuda:x", "²"])
def test_bad_device_syntax(text):
    with pytest.raises(ValueError, match="expected '', 'cpu', 'mps' or CUDA ids"):
        parse_device(text)


def test_first_gpu_or_cpu(no_gpu, caplog):
    with caplog.at_level("INFO"):
        assert select_device("") == torch.device("cpu")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("CPU")
    with pytest.raises(ValueError, match="device '0': no CUDA device 0; PyTorch finds no CUDA device here"):
        select_device("0")


@pytest.mark.parametrize(("text", "index"), [("", 0), ("none", 0), ("3", 3), ("cuda:11", 11)])
def test_a_gpu_becomes_the_current_device_as_often_as_asked(gpus, text, index):
    environment = dict(os.environ)
    for _ in range(2):
        assert select_device(text) == torch.device("cuda", index)
    assert gpus == [index, index]
    assert dict(os.environ) == environment


def test_a_device_object_is_as_good_as_its_name(gpus):
    assert select_device(torch.device("cuda", 2)) == torch.device("cuda", 2)
    assert select_device(torch.device("cpu")) == torch.device("cpu")
    assert gpus == [2]


def test_several_ids_give_the_first_and_a_warning(gpus, caplog):
    assert select_device("3,11", batch_size=16) == torch.device("cuda", 3)
    assert gpus == [3]
    assert "uses only CUDA:3" in caplog.messages[-1]


def test_devices_that_do_not_exist_and_batches_that_do_not_fit(gpus):
    with pytest.raises(ValueError, match="no CUDA device 12; ids 0 to 11 exist"):
        select_device("0,12", batch_size=2)
    with pytest.raises(ValueError, match="batch size 5 cannot be divided among 2 devices"):
        select_device("0,10", batch_size=5)


def test_amp_context_sets_the_type_of_matrix_products():
    a = torch.ones(2, 2)
    with amp_context("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with amp_context(torch.device("cpu"), None):
        assert (a @ a).dtype == torch.float32


def test_inference_mode_takes_no_gradients():
    x = torch.ones(1, requires_grad=True)

    @smart_inference_mode()
    def double(y):
        """Documented."""
        return y * 2

    result = double(x)
    assert result.item() == 2
    assert result.is_inference()
    assert not result.requires_grad
    assert double.__doc__ == "Documented."


def test_profile_adds_up():
    profile = Profile()
    for _ in range(2):
        with profile:
            time.sleep(0.01)
    assert 0.01 <= profile.dt < profile.t
    assert profile.t >= 0.02
    before = profile.t
    profile(lambda: time.sleep(0.01))()
    assert profile.t >= before + 0.01


# Seeds


@pytest.fixture
def _restore_determinism():
    enabled = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(enabled)


def draw():
    return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002


@pytest.mark.usefixtures("_restore_determinism")
def test_seeds_repeat_and_differ():
    init_seeds(3)
    first = draw()
    init_seeds(3)
    assert draw() == first
    init_seeds(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.usefixtures("_restore_determinism")
def test_determinism_can_be_lifted():
    init_seeds(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    init_seeds(0, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


# Models


def test_de_parallel():
    model = nn.Linear(1, 1)
    assert de_parallel(nn.DataParallel(model)) is model
    assert de_parallel(model) is model


def test_copy_attr():
    class Thing:
        pass

    a, b = Thing(), Thing()
    b.x, b.y, b._z = 1, 2, 3
    copy_attr(a, b, exclude=("y",))
    assert vars(a) == {"x": 1}
    copy_attr(a, b, include=("y", "absent"))
    assert vars(a) == {"x": 1, "y": 2}
    copy_attr(a, b, include=("_z",))
    assert not hasattr(a, "_z")


def test_intersect_dicts():
    da = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1), "m.anchors": torch.zeros(1)}
    db = {"a": torch.ones(2), "b": torch.zeros(2), "m.anchors": torch.zeros(1), "d": torch.zeros(1)}
    assert list(intersect_dicts(da, db)) == ["a", "m.anchors"]
    assert list(intersect_dicts(da, db, exclude=("anchor",))) == ["a"]
    assert intersect_dicts(da, db)["a"] is da["a"]
    assert intersect_dicts({}, db) == {}


def test_initialize_weights_sets_batch_norm_only():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.LayerNorm(1))
    before = deepcopy(model.state_dict())
    initialize_weights(model)
    assert (model[1].eps, model[1].momentum) == (1e-3, 0.03)
    assert model[2].eps == 1e-5
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def conv_and_bn(groups=1, bias=False, affine=True, **kwargs):
    conv = nn.Conv2d(4, 6, 3, groups=groups, bias=bias, **kwargs)
    bn = nn.BatchNorm2d(6, eps=1e-3, affine=affine)
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.1, 2)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    return conv, bn.eval()


CASES = {
    "plain": {},
    "bias": {"bias": True},
    "grouped": {"groups": 2},
    "no affine": {"affine": False, "bias": True},
    "strided": {"stride": 2, "padding": 1, "dilation": 2},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_convolution_computes_the_same(kwargs, layout):
    conv, bn = conv_and_bn(**kwargs)
    conv = conv.to(memory_format=layout)
    before = deepcopy({**conv.state_dict(), **bn.state_dict(prefix="bn.")})
    x = torch.randn(2, 4, 9, 9)
    fused = fuse_conv_and_bn(conv, bn)
    torch.testing.assert_close(fused(x), bn(conv(x)), atol=1e-5, rtol=1e-5)
    assert fused.weight.is_contiguous(memory_format=layout)
    assert all(p.is_leaf and not p.requires_grad for p in fused.parameters())
    after = {**conv.state_dict(), **bn.state_dict(prefix="bn.")}
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_fusing_keeps_type_and_draws_no_random_numbers():
    conv, bn = conv_and_bn()
    state = torch.get_rng_state()
    assert fuse_conv_and_bn(conv.half(), bn.half()).weight.dtype == torch.float16
    assert torch.equal(torch.get_rng_state(), state)


def test_fusing_needs_statistics():
    with pytest.raises(ValueError, match="without running statistics"):
        fuse_conv_and_bn(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))


# Average


DECAYS = {1: 0.000499825, 10: 0.004987022, 100: 0.048765698, 1000: 0.393429993, 2000: 0.632057347, 10000: 0.993162727}


@pytest.mark.parametrize(("updates", "expected"), DECAYS.items())
def test_decay_vectors(updates, expected):
    assert ModelEMA(nn.Linear(1, 1)).decay(updates) == pytest.approx(expected, abs=5e-10)


def test_average_by_hand():
    model = nn.BatchNorm2d(1)
    ema = ModelEMA(model, decay=0.5, tau=1)
    mean = ema.ema.running_mean.item()
    for step in range(1, 4):
        model.running_mean.fill_(step)
        model.num_batches_tracked += 1
        ema.update(model)
        d = 0.5 * (1 - np.exp(-step))
        mean = d * mean + (1 - d) * step
    assert ema.updates == 3
    assert ema.ema.running_mean.item() == pytest.approx(mean)
    assert ema.ema.num_batches_tracked == 0  # whole numbers stay
    assert model.running_mean.item() == 3


def test_average_is_a_copy_in_evaluation_without_gradients():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    ema = ModelEMA(nn.DataParallel(model))
    assert not ema.ema.training
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in ema.ema.parameters())
    model[0].weight.data += 1
    assert ema.ema[0].weight != model[0].weight


def test_average_goes_on_after_resuming():
    torch.manual_seed(1)
    model = nn.Linear(2, 2)
    through = ModelEMA(model)
    for step in range(6):
        if step == 3:
            resumed = ModelEMA(model, updates=through.updates)
            resumed.ema.load_state_dict(through.ema.state_dict())
        model.weight.data.normal_()
        through.update(model)
        if step >= 3:
            resumed.update(model)
    assert torch.equal(through.ema.weight, resumed.ema.weight)


def test_update_attr_copies_only_what_is_named():
    model = nn.Linear(1, 1)
    ema = ModelEMA(model)
    model.names, model.nc = {0: "a"}, 1
    ema.update_attr(nn.DataParallel(model), include=("names",))
    assert ema.ema.names == {0: "a"}
    assert not hasattr(ema.ema, "nc")


# Early stopping


def test_stops_after_patience_epochs_without_a_rise(caplog):
    stopper = EarlyStopping(patience=3)
    fitness = [0.1, 0.2, 0.2, 0.1, 0.2, 0.3]
    with caplog.at_level("INFO"):
        stops = [stopper(epoch, f) for epoch, f in enumerate(fitness[:5])]
    assert stops == [False, False, False, False, True]
    assert (stopper.best_epoch, stopper.best_fitness) == (1, 0.2)
    assert "best was epoch 1" in caplog.messages[0]


def test_possible_stop_comes_one_epoch_earlier():
    stopper = EarlyStopping(patience=2)
    seen = []
    for epoch, f in enumerate([0.5, 0.4, 0.4]):
        stopper(epoch, f)
        seen.append(stopper.possible_stop)
    assert seen == [False, True, True]


def test_a_model_that_never_scores_stops_too():
    stopper = EarlyStopping(patience=2)
    assert [stopper(epoch, 0.0) for epoch in range(3)] == [False, False, True]


def test_patience_zero_never_stops():
    stopper = EarlyStopping(patience=0)
    assert not any(stopper(epoch, 0.0) or stopper.possible_stop for epoch in range(1000))


def test_a_shorter_patience_that_is_over_at_once_is_told(caplog):
    """Else a resumed run would end without a word."""
    stopper = EarlyStopping(patience=5)
    for epoch in range(3):
        stopper(epoch, 0.0)
    resumed = EarlyStopping(patience=1)
    with caplog.at_level("INFO"):
        EarlyStopping(patience=3).load_state_dict(stopper.state_dict())
        assert caplog.messages == []
        resumed.load_state_dict(stopper.state_dict())
    assert resumed.stop
    assert "no improvement in the last 1 epochs" in caplog.messages[0]


def test_patience_can_begin_anew(caplog):
    stopper = EarlyStopping(patience=3)
    for epoch, fitness in enumerate((0.1, 0.5, 0.2, 0.2, 0.2)):
        stopper(epoch, fitness)
    assert stopper.stop
    more = EarlyStopping(patience=3)
    caplog.clear()
    more.load_state_dict(stopper.state_dict(), anew=4)
    assert (more.best_epoch, more.waited, caplog.messages) == (1, 0, [])
    again = EarlyStopping(patience=3)
    again.load_state_dict(more.state_dict())  # stopped and resumed in between
    caplog.set_level("INFO")
    assert [again(epoch, 0.3) for epoch in (5, 6, 7)] == [False, False, True]
    assert "best was epoch 1" in caplog.text


def test_stopper_state_survives_a_safe_file(tmp_path):
    stopper = EarlyStopping(patience=5)
    for epoch, f in enumerate([0.1, np.float64(0.4), 0.2]):
        stopper(epoch, f)
    torch.save(stopper.state_dict(), tmp_path / "s.pt")
    other = EarlyStopping(patience=2)
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert other.state_dict() == stopper.state_dict()
    assert other(3, 0.2)  # its own, smaller patience


@pytest.mark.parametrize(("processors", "threads"), [(1, 1), (2, 1), (4, 3), (64, 8)])
def test_one_processor_is_left_to_the_loader(monkeypatch, processors, threads):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    select_device("cpu")
    assert seen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    select_device("cpu")
    assert seen == [threads]


def in_a_process(function):
    """Return what a function sends, called in a copy of this process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(sender,))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def count_faults(sender):
    import resource  # noqa: PLC0415 - Unix only

    for option in torch_utils.M_TRIM_THRESHOLD, torch_utils.M_MMAP_THRESHOLD:
        ctypes.CDLL(None).mallopt(option, 128 << 10)  # the default: another test may have chosen a device
    torch_utils.select_device("cpu")
    before = None
    for k in range(4):
        assert len(b"x" * (40 << 20)) == 40 << 20  # freed at once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if k == 0 else before
    sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the C library of GNU can be told")
def test_a_process_on_the_cpu_uses_freed_memory_again():
    faults = in_a_process(count_faults)
    pages = 3 * (40 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults < 0.1 * pages


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def find_advised_memory(sender):
    torch_utils.use_huge_pages(torch.device("cpu"))
    size, advised = 0, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        size = int(values[0]) if name == "Size:" else size
        advised += size if name == "VmFlags:" and "hg" in values else 0
    sender.send(advised)  # KiB


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not HUGE_PAGES.exists(), reason="this system has no transparent huge pages"
)
def test_large_maps_lie_where_huge_pages_are_asked_for():
    assert in_a_process(find_advised_memory) > 1 << 20
