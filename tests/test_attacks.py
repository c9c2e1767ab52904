"""Hostile checkpoints at every door that takes one: each is refused with a message, and a sentinel file shows that
nothing in it ran. Archives, exported files, YAML and other texts: test_attacks_files.py."""

import asyncio
import builtins
import code
import codecs
import cProfile
import ctypes
import functools
import importlib
import io
import marshal
import operator
import os
import pickle
import pty
import runpy
import shutil
import struct
import subprocess
import tarfile
import time
import timeit
import webbrowser
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hubconf
import train
import val
from models.experimental import attempt_load
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import load_checkpoint, save_checkpoint, strip_optimizer
from models.weights.imagenet import read_published
from models.yolo import DetectionModel
from tests.torch_archives import in_archive
from utils.model_files.pt2 import load_pt2
from utils.model_files.torch_file import STREAM_MAGIC

SECONDS = 40  # of CPU time; no refusal may take longer


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Restored(nn.Module):
    """A module whose state runs code when it is put back."""

    def __setstate__(self, state):
        os.system(state["command"])


class Reduced(nn.Linear):
    """A module that pickles as a call, though its base class is known."""

    def __reduce_ex__(self, protocol):
        return os.system, (self.command,)


@pytest.fixture
def sentinel(tmp_path):
    """Path of a file that must not come into being; CPU time is watched too."""
    file = tmp_path / "ran"
    start = time.process_time()
    yield file
    assert not file.exists(), "code in the file ran"
    assert time.process_time() - start < SECONDS


def hostile(sentinel):
    """Objects that write `sentinel` when they are unpickled, or get hold of something that could."""
    command, run = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w')"
    inner = io.BytesIO()
    torch.save(Call(os.system, command), inner)
    chain = functools.reduce(
        lambda inner, _: Call(operator.itemgetter(0), [inner]), range(50), Call(os.system, command)
    )
    restored = Restored()
    restored.command = command
    reduced = Reduced(1, 1)
    reduced.command = command
    return {
        "os.system": Call(os.system, command),
        "os.popen": Call(os.popen, command),
        "os.execv": Call(os.execv, "/bin/touch", ["touch", str(sentinel)]),
        "os.remove": Call(os.remove, str(sentinel)),
        "builtins.exec": Call(exec, run),
        "builtins.eval": Call(eval, run),
        "builtins.compile": Call(exec, Call(compile, run, "x", "exec")),
        "builtins.getattr": Call(getattr, Call(__import__, "os"), "system"),
        "builtins.__import__": Call(__import__, "os"),
        "builtins.open": Call(open, str(sentinel), "w"),
        "builtins.map": Call(list, Call(map, os.system, [command])),
        "builtins.type": Call(type, "X", (), {"__del__": os.system}),
        "builtins.setattr": Call(setattr, Call(importlib.import_module, "models"), "x", 1),
        "builtins.breakpoint": Call(breakpoint),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(sentinel)]),
        "subprocess.run": Call(subprocess.run, ["touch", str(sentinel)]),
        "subprocess.check_output": OrderedDict(a=[Call(subprocess.check_output, ["touch", str(sentinel)])]),
        "asyncio.create_subprocess_shell": Call(asyncio.run, Call(asyncio.create_subprocess_shell, command)),
        "pty.spawn": Call(pty.spawn, ["touch", str(sentinel)]),
        "ctypes.CDLL": Call(ctypes.CDLL, "libc.so.6"),
        "importlib.import_module": Call(importlib.import_module, "antigravity"),
        "runpy.run_path": Call(runpy.run_path, "evil.py"),
        "code.interact": Call(code.interact),
        "timeit.timeit": Call(timeit.timeit, run),
        "cProfile.run": Call(cProfile.run, run),
        "webbrowser.open": Call(webbrowser.open, "file:///x"),
        "shutil.rmtree": Call(shutil.rmtree, str(sentinel)),
        "codecs.open": Call(codecs.open, str(sentinel), "w"),
        "marshal.loads": Call(exec, Call(marshal.loads, marshal.dumps(compile(run, "x", "exec")))),
        "functools.partial": functools.partial(os.system, command),
        "functools.reduce": Call(functools.reduce, os.system, [command], 0),
        "operator.methodcaller": Call(operator.methodcaller("system", command), Call(__import__, "os")),
        "operator.attrgetter": operator.attrgetter("system"),
        "nested reduce chain": chain,
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, command))),
        "torch.load": Call(torch.load, io.BytesIO(inner.getvalue())),
        "torch.load of a path": Call(torch.load, "evil.pt", "cpu", None),
        "torch._load_from_bytes": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "torch.jit.load": Call(torch.jit.load, "evil.pt"),
        "torch.hub.load": Call(torch.hub.load, "a/b", "c"),
        "torch.package": Call(torch.package.PackageImporter, "evil.pt"),
        "torch.save": Call(torch.save, {}, str(sentinel)),
        "numpy.load": Call(np.load, "evil.npy"),
        "numpy.fromfile": Call(np.fromfile, "/etc/passwd"),
        "module with __setstate__": restored,
        "module with __reduce_ex__": reduced,
        "forward of a module": nn.Sequential(Restored()),
        "hook of a module": OrderedDict(a=torch.nn.Parameter(torch.ones(1)), b=Call(os.system, command)),
        "tensor with an attribute": [torch.ones(1), Call(os.system, command)],
    }


HOSTILE = list(hostile(Path("x")))


def in_stream(path, code):
    """Write the stream of PyTorch before 1.6 around a pickle."""
    head = b"".join(pickle.dumps(value, 2) for value in (STREAM_MAGIC, 1001, {"little_endian": True}))
    path.write_bytes(head + code + pickle.dumps([], 2))
    return path


def pickled(value, protocol):
    """Pickle with the names of today, not those of Python 2."""
    return pickle.dumps(value, protocol, fix_imports=False)


WRITERS = {  # how a hostile object gets into a file
    "as YOLOv5": lambda path, value: in_archive(path, b"\x80\x02cmodels.yolo\nModel\n0" + pickled(value, 2)[2:]),
    "as ours": lambda path, value: in_archive(path, pickled({"format": 1, "model": {"w": value}}, 2)),
    "protocol 4": lambda path, value: in_archive(path, pickled({"format": 1, "opt": value}, 4)),
    "bare": lambda path, value: in_archive(path, pickled(value, 2)),
    "stream": lambda path, value: in_stream(path, pickled(value, 2)),
    "plain pickle": lambda path, value: path.write_bytes(pickled(value, 2)) and path,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_hostile_object(writer, tmp_path, sentinel):
    """Every object with the opcodes of protocols 2 and 4, and one of them in each other kind of file."""
    for name in HOSTILE if writer in ("as ours", "protocol 4") else ["os.system"]:
        try:
            file = WRITERS[writer](tmp_path / "a.pt", hostile(sentinel)[name])
        except (TypeError, AttributeError, pickle.PicklingError):
            continue  # Python itself cannot pickle this
        assert read_published(file) is None
        with pytest.raises(ValueError, match=r"a\.pt: (refused|not a checkpoint|damaged)"):
            load_checkpoint(file)
        assert not sentinel.exists(), name


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "nested reduce chain", "torch._load_from_bytes"])
def test_the_same_object_runs_in_pickle(name, tmp_path):
    """So that the test above could fail."""
    pickle.loads(pickled(hostile(tmp_path / "ran")[name], 2))
    assert (tmp_path / "ran").exists()


DOORS = {
    "attempt_load": lambda file, data: attempt_load(file),
    "ensemble": lambda file, data: attempt_load([file, file]),
    "strip_optimizer": lambda file, data: strip_optimizer(file),
    "backend": lambda file, data: DetectMultiBackend(file),
    "hub": lambda file, data: hubconf.custom(str(file)),
    "validate": lambda file, data: val.run({}, weights=file, dataloader=[]),
    "train from": lambda file, data: train.run(weights=str(file), data=str(data), project=str(file.parent), epochs=1),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_the_same(door, tiny_dataset, tmp_path, sentinel):
    file = WRITERS["as ours"](tmp_path / "a.pt", hostile(sentinel)["os.system"])
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"a\.pt: refused, the file names posix.system"):
        DOORS[door](file, tiny_dataset)
    assert file.read_bytes() == before


def test_a_run_is_not_resumed_from_a_hostile_file(tiny_dataset, tmp_path, sentinel):
    (tmp_path / "weights").mkdir()
    (tmp_path / "opt.yaml").write_text(f"data: {tiny_dataset}\n")
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\n")
    file = WRITERS["as ours"](tmp_path / "weights/last.pt", hostile(sentinel)["os.system"])
    with pytest.raises(ValueError, match="refused"):
        train.run(resume=str(file))


# Instructions ---------------------------------------------------------------------------------------------------------

ORDERED = b"ccollections\nOrderedDict\n"
PATH = b"cpathlib\nPosixPath\n"
ENCODE = b"S'latin1'\nq\x02c_codecs\nencode\n"
PAIR = b"S'a'\nN\x86"
MEGABYTE = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def colliding():
    """A dict of numbers that all have the hash of 1: to fill it takes the square of their count."""
    numbers = (1 + k * (2**61 - 1) for k in range(200_000))
    keys = b"".join(b"\x8a\x0c" + number.to_bytes(12, "little", signed=True) + b"N" for number in numbers)
    return b"}(" + keys + b"u."


INSTRUCTIONS = {
    "INST": b"(S'touch ran'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'touch ran'\no.",
    "OBJ of a known class": b"(cmodels.yolo\nModel\no.",
    "NEWOBJ": b"cposix\nsystem\nS'touch ran'\n\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04cmodels.yolo\nModel\n)}S'a'\nK\x01s\x92.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "BUILD of a value": b"K\x01}S'__class__'\nK\x02sb.",
    "BUILD of a function": ORDERED + b"}S'__call__'\nK\x02sb.",
    "BUILD with slots": ORDERED + b"N}S'__class__'\nK\x02s\x86b.",
    "PERSID": b"Pevil\n.",
    "BINPERSID of a text": b"S'evil'\nQ.",
    "BINPERSID of a class": b"(S'storage'\ncposix\nsystem\nS'0'\nS'cpu'\nK\x01tQ.",
    "source of a module": b"(S'module'\ncposix\nsystem\nS'evil.py'\nS'import os'\ntQ.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05\x98.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x09touch ran\x85R.",
    "STACK_GLOBAL through the memo": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\x00h\x01\x93.",
    "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x19OrderedDict.__reduce_ex__\x93.",
    "name with a blank": b"ctorch._utils _rebuild_tensor_v2\nx\n.",
    "getattr of a known class": b"cbuiltins\ngetattr\n(cmodels.yolo\nModel\nS'__init__'\ntR.",
    "nested tuples": b"\x80\x02)" + b"2\x86" * 60 + b"q\x00}h\x00K\x01s.",
    "path that doubles": PATH + b"q\x00S'abcdefgh'\n\x85R" + b"q\x01h\x00h\x01h\x01\x86R" * 60 + b".",
    "path of a hundred": PATH + b"(" + b"S'a'\n" * 100 + b"tR.",
    "dict copied again": ORDERED + b"q\x00](" + PAIR * 100_000 + b"eq\x01" + b"h\x00h\x01\x85R0" * 9_999 + b".",
    "text encoded again": ENCODE + b"q\x00" + MEGABYTE + b"q\x01" + b"h\x00h\x01h\x02\x86R0" * 9_999 + b".",
    "wide call": ORDERED + b"(" + b"N" * 1_000 + b"tR.",
    "keys of one hash": colliding(),
    "key of tuples": b"}))s.",
    "giant LONG": b"L" + b"9" * 1_000_000 + b"L\n.",
    "LONG4 of 2 GB": b"\x8b\xff\xff\xff\x7f\x01.",
    "text of 2 GB": b"X\xff\xff\xff\x7fabc.",
    "text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "negative LONG4": b"\x8b\xff\xff\xff\xff.",
    "deep nesting": b"]" * 200_000 + b"a" * 199_999 + b".",
    "list that holds itself": b"]q\x00h\x00a.",
    "dict that holds itself": b"}q\x00S'format'\nK\x01sS'model'\nh\x00s.",
    "lists of lists of lists": b"](" + b"N" * 100 + b"eq\x00" + (b"](" + b"h\x00" * 100 + b"eq\x00") * 6 + b".",
    "no end": b"K\x01",
    "empty": b"",
    "unknown instruction": b"\xff.",
    "stack underflow": b"R.",
    "mark without values": b"t.",
    "unknown memo": b"h\x07.",
    "protocol 99": b"\x80\x63K\x01.",
}  # fmt: skip


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_crafted_instructions(name, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(dir(builtins)), set(vars(OrderedDict))
    file = in_archive(tmp_path / "a.pt", INSTRUCTIONS[name])
    with pytest.raises(ValueError, match=r"a\.pt: (refused|damaged|a PyTorch file, but no)") as error:
        load_checkpoint(file)
    assert len(str(error.value)) < 500
    assert (set(dir(builtins)), set(vars(OrderedDict))) == before
    assert os.listdir(tmp_path) == ["a.pt"]


# Tensors and entries --------------------------------------------------------------------------------------------------


def tensor_code(offset="0", size="4", stride="1", count="4", kind="Float", key="0"):
    """A pickle of a checkpoint with one tensor."""
    storage = f"(Vstorage\nctorch\n{kind}Storage\nV{key}\nVcpu\nI{count}\ntQ".encode()
    tensor = TENSOR + b"(" + storage + f"I{offset}\n(I{size}\nt(I{stride}\ntI00\n}}tR".encode()
    return b"\x80\x02}Vformat\nK\x01sVmodel\n}Vw\n" + tensor + b"ss."


TENSORS = {
    "offset outside": {"offset": "3"},
    "negative offset": {"offset": "-1"},
    "longer than its numbers": {"size": "5"},
    "stride outside": {"stride": "2"},
    "negative stride": {"stride": "-1"},
    "10^9 numbers of one": {"size": "1000000000", "stride": "0"},
    "2^63 numbers": {"size": "9223372036854775807"},
    "size that is no number": {"size": "01"},
    "more numbers than bytes": {"count": "1000000000", "size": "1000000000"},
    "fewer numbers than bytes": {"count": "1", "size": "1"},
    "negative count": {"count": "-4"},
    "unknown type": {"kind": "Complex"},
    "key with a path": {"key": "../../../etc/passwd"},
    "key of another entry": {"key": "../data.pkl"},
    "numbers that are a pickle": {"kind": "Double"},
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_outside_their_numbers(name, tmp_path, sentinel):
    with pytest.raises(ValueError, match="this checkpoint lacks"):  # so far it is good
        load_checkpoint(in_archive(tmp_path / "good.pt", tensor_code(), **{"0": bytes(16)}))
    data = pickled(Call(os.system, f"touch {sentinel}"), 2) if "pickle" in name else bytes(16)
    with pytest.raises(ValueError, match=r"a\.pt: (damaged|refused)"):
        load_checkpoint(in_archive(tmp_path / "a.pt", tensor_code(**TENSORS[name]), **{"0": data}))


def test_a_pickle_among_the_numbers_of_a_tensor_stays_numbers(tmp_path, sentinel):
    evil = pickled(Call(os.system, f"touch {sentinel}"), 2)
    model = DetectionModel(TINY, verbose=False)
    content = checkpoint_of(model) | {"rng": {"torch": torch.tensor(list(evil), dtype=torch.uint8)}}
    save_checkpoint(tmp_path / "a.pt", content)
    assert bytes(load_checkpoint(tmp_path / "a.pt")["rng"]["torch"].tolist()) == evil


TINY = {
    "nc": 2,
    "ch": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "Conv", [8, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


def checkpoint_of(model):
    """The entries of a stripped checkpoint."""
    empty = dict.fromkeys("best_fitness ema updates optimizer scaler stopper last_step rng hyp".split())
    return empty | {
        "epoch": -1, "model": model.state_dict(), "yaml": model.yaml, "names": {0: "a", 1: "b"}, "stride": [4.0, 8.0],
        "opt": {},
    }  # fmt: skip


def edited(row, column, value):
    """The tiny table with one value of one row of its backbone changed."""
    table = {**TINY, "backbone": [list(r) for r in TINY["backbone"]]}
    if column == "args":
        table["backbone"][row][3] = value
    else:
        table["backbone"][row][column] = value
    return table


ENTRIES = {  # entries of an otherwise good checkpoint
    "table of 10^12 weights": ({"yaml": edited(1, "args", [1_000_000, 999, 2])}, "do not fit its own model table"),
    "table of 10^9 channels": ({"yaml": edited(0, "args", [10**9, 3, 2])}, "1000000000 channels; at most"),
    "table of 10^9 repeats": ({"yaml": edited(1, 1, 10**9)}, "'number' gives 1000000000 blocks; at most"),
    "table of 10^4 rows": ({"yaml": TINY | {"backbone": TINY["backbone"][:1] * 10**4}}, "10000 layers; at most"),
    "endless depth": ({"yaml": TINY | {"depth_multiple": float("inf")}}, "'depth_multiple' must be"),
    "10^9 anchors": ({"yaml": TINY | {"anchors": 10**9}}, "'anchors' must be"),
    "module of Python": ({"yaml": edited(1, 2, "os.system")}, "os.system"),
    "module as an expression": ({"yaml": edited(1, 2, "__import__('os').system('touch ran')")}, "__import__"),
    "argument as an expression": ({"yaml": edited(1, "args", ["__import__('os').system('touch ran')"])}, "must|not"),
    "activation as an expression": ({"yaml": TINY | {"activation": "exec('1')"}}, "activation"),
    "activation of 40 GB": ({"yaml": TINY | {"activation": "nn.PReLU(10000000000)"}}, "activation"),
    "activation 10^5 deep": ({"yaml": TINY | {"activation": "nn.PReLU(" + "-" * 100_000 + "1)"}}, "activation"),
    "classes without end": (
        {"yaml": TINY | {"nc": 10**9}},
        "'nc' must be a positive number of classes, not 1000000000",
    ),
    "channels as a text": ({"yaml": TINY | {"ch": "3"}}, "no number 'ch'"),
    "table that is a list": ({"yaml": [1]}, "entry 'yaml' is a list"),
    "names that are a text": ({"names": "ab"}, "entry 'names' is a str"),
    "weights that are texts": ({"model": {"w": "x"}}, "entry 'model' is a dict, expected state dict"),
    "weights that are a list": ({"model": [1]}, "entry 'model' is a list"),
    "epoch that is a text": ({"epoch": "1"}, "entry 'epoch' is a str"),
    "format of the future": ({"format": 10**9}, "Update the program"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_of_a_checkpoint(name, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, message = ENTRIES[name]
    save_checkpoint(tmp_path / "good.pt", checkpoint_of(DetectionModel(TINY, verbose=False)))
    attempt_load(tmp_path / "good.pt")
    save_checkpoint(tmp_path / "a.pt", checkpoint_of(DetectionModel(TINY, verbose=False)) | changes)
    with pytest.raises(ValueError, match=message):
        attempt_load(tmp_path / "a.pt")


def test_the_tar_format_of_the_first_pytorch(tmp_path, sentinel):
    evil = pickled(Call(os.system, f"touch {sentinel}"), 2)
    with tarfile.open(tmp_path / "a.pt", "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(evil)
            tar.addfile(entry, io.BytesIO(evil))
    with pytest.raises(ValueError, match="not a checkpoint, or a damaged one"):
        load_checkpoint(tmp_path / "a.pt")


def test_hostile_sample_inputs_of_a_pt2_file(tmp_path, sentinel):
    inner = in_archive(tmp_path / "inner.pt", pickled(Call(os.system, f"touch {sentinel}"), 2)).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as file:
        for record in ("archive_format", "archive_version", "version", "models/model.json"):
            file.writestr(f"x/{record}", "1")
        file.writestr("x/data/sample_inputs/model.pt", inner)
    with pytest.raises(ValueError, match="sample_inputs.*pickled Python objects"):
        load_pt2(tmp_path / "a.pt2")
