"""Checkpoints: safe, atomic, complete; models come back as they were."""

import logging
import os
import pickle
import resource
import signal
import sys
import tempfile
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.training.random_state import rng_state
from models import yolo
from models.experimental import attempt_load
from models.weights import checkpoint
from models.weights.checkpoint import (
    FIELDS,
    FORMAT,
    build_model,
    load_checkpoint,
    save_checkpoint,
    strip_optimizer,
)
from models.yolo import DetectionModel
from utils import files
from utils.hyp import Hyp
from utils.optim import build_optimizer
from utils.paths import VERSION
from utils.torch_utils import EarlyStopping, ModelEMA

CFG = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "C3", [8]]],
    "head": [[-1, 1, "Conv", [8, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}
SWIN_CFG = CFG | {
    "backbone": [[-1, 1, "PatchEmbed", [32, 4]], [-1, 1, "LayerNorm2d", []], [-1, 2, "SwinV2Stage", [32, 2, 4]]],
}


class Evil:
    """Would write a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


class ForeignModel(nn.Module):
    """Stands for a class pickled by another program."""


@pytest.fixture
def model():
    """A small detector with statistics that a fresh one does not have."""
    model = DetectionModel(CFG, verbose=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    model.names = {0: "cat", 1: "dog"}
    model.hyp = Hyp().scaled(2, 2, 64, 0.0).to_dict()
    return model


@pytest.fixture
def trained(model):
    """Model, average and checkpoint after one step with AdamW; average and model differ."""
    optimizer = build_optimizer(model, "AdamW")
    ema = ModelEMA(model, tau=1)
    sum(y.square().mean() for y in model.train()(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    ema.update(model)
    stopper = EarlyStopping(5)
    stopper(0, 0.25)
    ckpt = {
        "epoch": 0,
        "best_fitness": np.float64(0.25),
        "model": model.state_dict(),
        "ema": ema.ema.state_dict(),
        "updates": ema.updates,
        "optimizer": optimizer.state_dict(),
        "scaler": {},
        "stopper": stopper.state_dict(),
        "last_step": 0,
        "rng": rng_state(),
        "yaml": model.yaml,
        "names": model.names,
        "stride": model.stride.tolist(),
        "hyp": model.hyp,
        "opt": {"save_dir": Path("runs/train/exp"), "freeze": [0], "cos_lr": False},
    }
    return model, ema.ema, ckpt


@pytest.fixture
def file(trained, tmp_path):
    """The checkpoint of `trained` in a file."""
    save_checkpoint(tmp_path / "last.pt", trained[2])
    return tmp_path / "last.pt"


def same(a, b):
    """Equal values and equal types, all the way down."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def outputs(model, size=64):
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x)[0]


# Save and load


def test_load_is_the_inverse_of_save(trained, file):
    saved, loaded = trained[2], load_checkpoint(file)
    assert list(loaded) == list(FIELDS)
    for key in ("model", "ema", "optimizer", "rng", "yaml", "names", "stride", "hyp", "stopper", "updates", "epoch"):
        assert same(dict(saved[key]) if isinstance(saved[key], dict) else saved[key], loaded[key]), key
    assert (loaded["format"], loaded["version"]) == (FORMAT, VERSION)
    assert loaded["opt"] == {"save_dir": "runs/train/exp", "freeze": [0], "cos_lr": False}
    assert type(loaded["best_fitness"]) is float
    assert loaded["date"][:2] == "20"


def test_saving_changes_neither_checkpoint_nor_model(trained, tmp_path):
    model, _, ckpt = trained
    before = deepcopy(ckpt)
    save_checkpoint(tmp_path / "a.pt", ckpt)
    assert same(before, ckpt)
    assert isinstance(ckpt["opt"]["save_dir"], Path)
    assert same(dict(before["model"]), dict(model.state_dict()))


def test_the_file_loads_without_this_program(file):
    assert torch.load(file, weights_only=True)["names"] == {0: "cat", 1: "dog"}


def test_optimizer_state_goes_on(trained, file):
    model = trained[0]
    other = deepcopy(model)
    optimizer = build_optimizer(other, "AdamW")
    optimizer.load_state_dict(load_checkpoint(file)["optimizer"])
    again = build_optimizer(model, "AdamW")
    again.load_state_dict(trained[2]["optimizer"])
    for m, o in ((other, optimizer), (model, again)):
        for p in m.parameters():
            p.grad = torch.ones_like(p)
        o.step()
    assert same(dict(model.state_dict()), dict(other.state_dict()))


def test_wrong_entries_are_refused(trained, tmp_path):
    ckpt = trained[2]
    with pytest.raises(ValueError, match=r"missing \['epoch'\], unknown \['epok'\]"):
        save_checkpoint(tmp_path / "a.pt", {("epok" if k == "epoch" else k): v for k, v in ckpt.items()})
    with pytest.raises(TypeError, match=r"cannot write opt\.x\[1\] to a checkpoint: set is not"):
        save_checkpoint(tmp_path / "a.pt", ckpt | {"opt": {"x": [1, {2}]}})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        save_checkpoint(tmp_path / "none" / "a.pt", trained[2])


def test_a_link_to_a_checkpoint_stays_and_one_to_another_file_is_refused(trained, file, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    for target in (disk / "new.pt", disk / "old.pt"):
        link = disk / "link.pt"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        save_checkpoint(link, trained[2])
        assert link.is_symlink()
        assert load_checkpoint(target)["epoch"] == trained[2]["epoch"]
        strip_optimizer(link)
        assert link.is_symlink()
        assert load_checkpoint(target)["optimizer"] is None
    victim = tmp_path / "notes.txt"
    victim.write_text("of the user")
    link.unlink()
    link.symlink_to(victim)
    with pytest.raises(OSError, match=r"a link to .*notes\.txt, which is not a checkpoint: remove it"):
        save_checkpoint(link, trained[2])
    assert victim.read_text() == "of the user"


def test_a_failed_write_keeps_the_old_file_and_names_it(trained, file, monkeypatch):
    def fail(obj, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(
        OSError, match=r"not written: No space left on device. The previous file .* stays: '.*last\.pt'"
    ) as error:
        save_checkpoint(file, trained[2])
    assert error.value.errno == 28
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_a_full_disk_keeps_the_old_file_and_names_it(trained, file):
    """The system itself refuses to write more than half of the file."""
    before = file.read_bytes()
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint not written: File too large. The previous file is complete"):
            save_checkpoint(file, trained[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_keeps_the_old_file(trained):
    """Root may write everywhere, so another user tries; the folder must be one that this user may enter."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "last.pt")
        save_checkpoint(file, trained[2])
        file.parent.chmod(0o555)
        os.seteuid(user or 65534)
        try:
            with pytest.raises(PermissionError, match=r"Permission denied. The previous file .* stays: '.*last\.pt'"):
                save_checkpoint(file, trained[2])
        finally:
            os.seteuid(user)
            file.parent.chmod(0o755)
        load_checkpoint(file)
        assert os.listdir(name) == ["last.pt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_dies_at_any_line_leaves_a_complete_file(trained, file, monkeypatch):
    """Child after child writes a new checkpoint and ends, without any clean-up, one line later than the one before."""
    new, sources = trained[2] | {"epoch": 7, "ema": None, "optimizer": None}, (checkpoint.__file__, files.__file__)
    monkeypatch.setattr(files, "STALE", 0.0)  # else each child has to look at what all before it left
    seen, alive, line = {}, True, 0
    while alive:
        line += 1
        child = os.fork()
        if not child:
            left = line

            def trace(frame, event, _):
                nonlocal left
                name = frame.f_code.co_name  # `plain` and what is inside it touch no file, in thousands of lines
                if frame.f_code.co_filename not in sources or name == "plain" or name.startswith("<"):
                    return None
                left -= event == "line"
                if not left:
                    os._exit(9)
                return trace

            sys.settrace(trace)
            save_checkpoint(file, new)
            os._exit(0)
        alive = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        content = file.read_bytes()
        if content not in seen:
            seen[content] = load_checkpoint(file)["epoch"]
        assert line < 2000
    assert set(seen.values()) == {0, 7}
    assert line > 30


# Files that are not ours


def test_a_missing_file_says_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such checkpoint \(looked in"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"model": 1}), b"\x80\x02" + b"\0" * 99])
def test_other_files_are_no_checkpoints(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt: not a checkpoint, or a damaged one"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_torn_copy_is_recognised(file):
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"last\.pt: not a checkpoint, or a damaged one"):
        load_checkpoint(file)


def test_other_archives_are_no_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("x.txt", "hello")
    with pytest.raises(ValueError, match="an archive of another kind"):
        load_checkpoint(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:  # what TorchScript writes
        archive.writestr("b/data.pkl", pickle.dumps({}))
        archive.writestr("b/constants.pkl", pickle.dumps(()))
    with pytest.raises(ValueError, match="an archive of another kind"):
        load_checkpoint(tmp_path / "b.pt")


@pytest.mark.parametrize("part", ["/data.pkl", "/data/0"])
def test_flipped_bits_are_recognised(file, part):
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        entry = next(info for info in archive.infolist() if info.filename.endswith(part))
    content[entry.header_offset + 200] ^= 255  # behind name and padding, among the numbers
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(file)


@pytest.mark.parametrize("content", [{"model": {}}, [1], torch.zeros(1), {"format": "1"}])
def test_pytorch_files_of_other_programs(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_newer_format_asks_for_an_update(trained, tmp_path):
    save_checkpoint(tmp_path / "a.pt", trained[2] | {"format": FORMAT + 1, "version": "9.9"})
    with pytest.raises(ValueError, match=f"in format {FORMAT + 1} by version 9.9; .*Update the program"):
        load_checkpoint(tmp_path / "a.pt")


def test_an_incomplete_checkpoint_names_what_it_lacks(trained, tmp_path):
    torch.save({"format": 1, "model": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="this checkpoint lacks version, epoch"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_code_never_runs(tmp_path, protocol):
    torch.save({"format": 1, "model": Evil(tmp_path / "ran")}, tmp_path / "a.pt", pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"a\.pt: refused"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_pickled_objects_are_refused_by_name(tmp_path):
    torch.save({"format": 1, "model": nn.Linear(1, 1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="refused, the file holds Python objects .*torch.nn.modules.linear.Linear"):
        load_checkpoint(tmp_path / "a.pt")


def test_objects_under_the_names_of_yolov5_are_not_built(tmp_path, monkeypatch):
    """What its real checkpoints give is in test_legacy.py; this one has no model of a known kind."""
    monkeypatch.setattr(ForeignModel, "__module__", "models.yolo")
    monkeypatch.setattr(yolo, "ForeignModel", ForeignModel, raising=False)
    torch.save({"epoch": -1, "model": ForeignModel(), "ema": None}, tmp_path / "yolov5s.pt")
    with pytest.raises(ValueError, match=r"yolov5s\.pt: the model is a models\.yolo\.ForeignModel; only detection"):
        load_checkpoint(tmp_path / "yolov5s.pt")


# Models


@pytest.mark.parametrize("cfg", [CFG, SWIN_CFG], ids=["convolutions", "swin"])
def test_a_model_comes_back_as_it_was(cfg, trained, tmp_path):
    model = DetectionModel(cfg, verbose=False)
    ckpt = trained[2] | {"model": model.state_dict(), "ema": None, "yaml": model.yaml, "names": {0: "x", 1: "y"}}
    save_checkpoint(tmp_path / "a.pt", ckpt)
    loaded = attempt_load(tmp_path / "a.pt", fuse=False)
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.names == {0: "x", 1: "y"}
    assert not loaded.training
    assert loaded.hyp == ckpt["hyp"]
    assert loaded.yaml == model.yaml
    assert torch.equal(loaded.stride, model.stride)


def test_the_average_is_preferred(trained, file):
    model, ema, _ = trained
    loaded = attempt_load(file, fuse=False)
    assert torch.equal(outputs(loaded), outputs(ema))
    assert not torch.allclose(outputs(loaded), outputs(model))


def test_fusing_changes_the_modules_and_not_the_boxes(file):
    plain, fused = attempt_load(file, fuse=False), attempt_load(file)
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(outputs(fused), outputs(plain), atol=1e-3, rtol=1e-4)


def test_anchors_come_from_the_weights_not_from_the_table(trained, tmp_path):
    model, _, ckpt = trained
    model.model[-1].anchors *= 1.25
    save_checkpoint(tmp_path / "a.pt", ckpt | {"model": model.state_dict(), "ema": None})
    assert torch.equal(attempt_load(tmp_path / "a.pt").model[-1].anchors, model.model[-1].anchors)


def test_building_leaves_the_checkpoint_alone(file):
    ckpt = load_checkpoint(file)
    before = deepcopy(ckpt)
    model = build_model(ckpt, fuse=True)
    model.names[0] = "changed"
    model.hyp["box"] = 9.0
    for p in model.parameters():
        p.data.zero_()
    assert same(before, ckpt)


def test_weights_that_do_not_fit_the_table_are_an_error(trained):
    ckpt = trained[2] | {"yaml": trained[2]["yaml"] | {"nc": 3}}
    with pytest.raises(ValueError, match="do not fit its own model table"):
        build_model(ckpt)


# Strip


def test_stripping_keeps_the_average_in_half_precision_and_drops_the_rest(trained, file, tmp_path, caplog):
    model, ema, ckpt = trained
    before = file.read_bytes()
    with caplog.at_level(logging.INFO):
        strip_optimizer(file, tmp_path / "small.pt")
    assert file.read_bytes() == before
    size = (tmp_path / "small.pt").stat().st_size
    assert size < len(before) / 3
    assert f"{size / 1e6:.1f} MB" in caplog.messages[-1]
    small = load_checkpoint(tmp_path / "small.pt")
    assert small["epoch"] == -1
    for key in ("best_fitness", "ema", "updates", "optimizer", "scaler", "stopper", "last_step", "rng"):
        assert small[key] is None, key
    for key in ("yaml", "names", "hyp", "opt", "stride"):
        assert same(small[key], load_checkpoint(file)[key]), key
    for key, value in ema.state_dict().items():
        expected = value.half() if value.is_floating_point() and not key.endswith("anchors") else value
        assert torch.equal(small["model"][key], expected), key
        assert small["model"][key].dtype == expected.dtype


def test_stripping_in_place_and_twice(file):
    strip_optimizer(file)
    once = load_checkpoint(file)
    assert os.listdir(file.parent) == [file.name]
    strip_optimizer(file)
    assert same(once, load_checkpoint(file))
    loaded = attempt_load(file)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_numbers_too_large_for_half_precision_stay(trained, tmp_path):
    model, _, ckpt = trained
    state = deepcopy(model.state_dict())
    state["model.0.bn.running_var"][0] = 1e6
    save_checkpoint(tmp_path / "a.pt", ckpt | {"ema": state})
    strip_optimizer(tmp_path / "a.pt")
    assert torch.equal(
        load_checkpoint(tmp_path / "a.pt")["model"]["model.0.bn.running_var"], state["model.0.bn.running_var"]
    )


def test_stripping_something_else_is_an_error_and_changes_nothing(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a checkpoint"):
        strip_optimizer(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == b"hello"


def test_a_name_that_is_no_text_in_the_archive_is_damage(tmp_path):
    file = tmp_path / "a.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("\u00e9/data.pkl", pickle.dumps({"model": 1}, protocol=2))
    file.write_bytes(file.read_bytes().replace("\u00e9/".encode(), b"\x80\x80/", 1))  # in the head of the entry alone
    with pytest.raises(ValueError, match=r"a\.pt: damaged: "):
        load_checkpoint(file)


def test_a_length_beyond_the_file_makes_no_room_for_it(tmp_path):
    file = tmp_path / "a.pt"
    stream = b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001))
    file.write_bytes(stream + b"\x80\x04\x8e" + (1 << 50).to_bytes(8, "little") + b"x.")  # BINBYTES8
    with pytest.raises(ValueError, match=r"a\.pt: "):
        load_checkpoint(file)
