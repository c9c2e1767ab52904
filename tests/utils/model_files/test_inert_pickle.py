"""Foreign PyTorch files are read without running them: hostile pickles, damaged ones, and equality with PyTorch."""

import builtins
import functools
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from models.weights.checkpoint import load_checkpoint
from tests.torch_archives import in_archive
from utils.model_files.inert_pickle import LazyTensor, Record
from utils.model_files.torch_file import STREAM_MAGIC, InertFile

MODEL = b"cmodels.yolo\nModel\n"  # the instruction GLOBAL


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def program(obj, protocol=2):
    """A pickle that also names a class of YOLOv5, so that it is taken for one of its checkpoints."""
    code = pickle.dumps(obj, protocol, fix_imports=False)  # names as today, not those of Python 2
    return code[:2] + MODEL + b"0" + code[2:]


def hostile(sentinel):
    """Objects that write `sentinel` when they are loaded, or get hold of something that could."""
    command = f"touch {sentinel}"
    run = f"open({str(sentinel)!r}, 'w')"
    inner = io.BytesIO()
    torch.save(Call(os.system, command), inner)
    return {
        "posix.system": Call(os.system, command),
        "builtins.eval": Call(eval, run),
        "builtins.exec": Call(exec, run),
        "builtins.getattr": Call(getattr, Call(__import__, "os"), "system"),
        "io.open": Call(open, str(sentinel), "w"),
        "builtins.__import__": Call(__import__, "os"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(sentinel)]),
        "subprocess.check_output": OrderedDict(a=[Call(subprocess.check_output, ["touch", str(sentinel)])]),
        "torch.storage._load_from_bytes": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "torch.serialization.load": Call(torch.load, "evil.pt"),
        "torch.hub.load": Call(torch.hub.load, "a/b", "c"),
        "torch.jit._serialization.load": Call(torch.jit.load, "evil.pt"),
        "numpy.load": Call(np.load, "evil.npy"),
        "functools.partial": functools.partial(os.system, command),
        "builtins.map": Call(map, os.system, [command]),
        "_pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, command))),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", hostile(Path("x")))
def test_calls_are_refused_by_name_and_not_run(tmp_path, name, protocol):
    sentinel = tmp_path / "ran"
    file = in_archive(tmp_path / "a.pt", program({"model": 1, "ema": hostile(sentinel)[name]}, protocol))
    with pytest.raises(ValueError, match=r"a\.pt: refused, the file names ") as error:
        load_checkpoint(file)
    first = "builtins.__import__" if name == "builtins.getattr" else name  # the argument comes before the call
    assert f" names {first}, which" in str(error.value)
    stream = tmp_path / "stream.pt"
    head = b"".join(pickle.dumps(value, 2) for value in (STREAM_MAGIC, 1001, {}))
    stream.write_bytes(head + program(hostile(sentinel)[name]))
    with pytest.raises(ValueError, match="refused"):
        InertFile(stream)
    assert not sentinel.exists()


def test_the_hostile_files_would_run_elsewhere(tmp_path):
    """So that the test above could fail."""
    pickle.loads(program(hostile(tmp_path / "ran")["builtins.exec"]))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (b"cmodels.common\nos.system\n(Vtouch ran\ntR.", "names models.common.os.system"),
        (b"\x8c\x0dmodels.common\x8c\x09os.system\x93.", "names models.common.os.system"),
        (b"cmodels.yolo\nparse_model\n.", "names models.yolo.parse_model"),
        (b"cmodels.training\nState\n.", "names models.training.State"),
        (b"ctorch.nn.modules.module\nos\n.", "names torch.nn.modules.module.os"),
        (b"ctorch.nn\nModule\n.", r"names torch\.nn\.Module"),
        (b"cbuiltins\ngetattr\n(cmodels.yolo\nModel\n)\x81V__class__\ntR.", "names builtins.getattr of __class__"),
        (b"cbuiltins\ngetattr\n(ctorch\nFloatStorage\nVforward_fuse\ntR.", "names builtins.getattr of forward_fuse"),
        (b"c__builtin__\neval\n(Vopen('ran', 'w')\ntR.", "names __builtin__.eval"),
        (b"(iposix\nsystem\n.", "names posix.system"),
        (b"(imodels.yolo\nModel\n.", "names the instruction INST"),
        (b"(cmodels.yolo\nModel\no.", "names the instruction OBJ"),
        (b"\x82\x01.", "names the instruction EXT1"),
        (b"Vx\n)R.", "names a call of a value"),
        (b"ctorch\nFloatStorage\n)R.", "names a call of torch.FloatStorage"),
        (b"cmodels.yolo\nModel\nVx\nR.", "names a call of models.yolo.Model"),
        (b"ccollections\nOrderedDict\n}Va\nK\x01sb.", "names a state for collections.OrderedDict"),
        (b"cmodels.yolo\nModel\n}V__setstate__\nccollections\nOrderedDict\nsb.", "names a state for models.yolo.Model"),
        (b"cmodels.yolo\nModel\nK\x01a.", "damaged: items for a list, but found a Name"),
        (b"cmodels.yolo\nModel\nVa\nK\x01s.", "damaged: items for a dict, but found a Name"),
        (b"}))s.", "damaged: a key that is neither"),
        (b"ccollections\nOrderedDict\n(((lVa\ntltR.", "damaged"),
        (b"(Vx\nVstorage\nt\x51.", "damaged: an unknown kind of reference"),
        (b"a.", "damaged"),
        (b"0.", "damaged"),
        (b"t.", "damaged"),
        (b"h\x07.", "damaged"),
        (b"K", "damaged"),
        (b"\xff.", "damaged"),
        (b"X\xff\xff\xff\x7fabc.", "damaged"),
    ],
)
def test_crafted_instructions(tmp_path, code, match, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = in_archive(tmp_path / "a.pt", b"\x80\x02" + code)
    before = set(dir(builtins)), dict(vars(Record))
    with pytest.raises(ValueError, match=match):
        InertFile(file)
    assert (set(dir(builtins)), dict(vars(Record))) == before
    assert os.listdir(tmp_path) == ["a.pt"]


def test_known_classes_become_records(tmp_path):
    code = MODEL + b"(K\x07t\x81}(Va\nK\x01Vb\nNub."
    root = InertFile(in_archive(tmp_path / "a.pt", b"\x80\x02" + code)).root
    assert (root.name, root.kind, root.args, root.state) == ("models.yolo.Model", "Model", (7,), {"a": 1, "b": None})


VALUES = {
    "numbers": torch.arange(12.0).view(3, 4),
    "turned": torch.arange(12.0).view(3, 4).t(),
    "part": torch.arange(12, dtype=torch.int64)[3:9:2],
    "half": torch.tensor([1.5, -2.0]).half(),
    "bfloat": torch.tensor([1.5, -2.0]).bfloat16(),
    "flags": torch.tensor([True, False]),
    "bytes": torch.tensor([1, 255], dtype=torch.uint8),
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 5),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_equal_those_that_pytorch_reads(tmp_path, zipped):
    torch.save(VALUES, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    file = InertFile(tmp_path / "a.pt")
    assert file.root.keys() == VALUES.keys()
    for key, expected in VALUES.items():
        found = file.tensor(file.root[key])
        assert found.dtype == expected.dtype, key
        assert torch.equal(found, expected), key
    file.close()


def test_big_endian_numbers(tmp_path):
    torch.save({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as source:
        head = source.read("a/data.pkl")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("b/data.pkl", head)
        file.writestr("b/byteorder", "big")
        file.writestr("b/data/0", struct.pack(">2f", 1, 2))
        file.writestr("b/data/1", struct.pack(">q", 3))
    file = InertFile(tmp_path / "b.pt")
    assert file.tensor(file.root["a"]).tolist() == [1, 2]
    assert file.tensor(file.root["b"]).tolist() == [3]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_equal_those_that_pickle_reads(tmp_path, protocol):
    values = {
        "numbers": [1, -1, 300, 70_000, 2**40, -(2**70), 1.5, True, None],
        "texts": ("a", "\u00e9", "\U0001f600" * 300, b"\xff\x00"),
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "sets": [set(), {1, 2}],
        "ordered": OrderedDict(a=1, b=[{}, []]),
        "size": torch.Size([1, 2]),
        "numpy": [np.float64(0.1), np.int64(-3), np.float32(0.5), np.bool_(True)],
    }
    values["again"] = values["texts"]
    if protocol >= 5:  # before, these two are calls, which YOLOv5 never makes
        values["more"] = [frozenset({3}), bytearray(b"x")]
    code = pickle.dumps(values, protocol)
    assert InertFile(in_archive(tmp_path / "a.pt", code)).root == values == pickle.loads(code)


def test_arrays_and_paths(tmp_path):
    code = pickle.dumps({"array": np.array([0.25]), "path": Path("runs/train/exp")}, 2)
    root = InertFile(in_archive(tmp_path / "a.pt", code)).root
    assert isinstance(root["array"], Record)
    assert root["path"] == "runs/train/exp"


def tensor_code(offset="0", size="2", stride="1", count="4", kind="Float"):
    """A pickle of one tensor of one dimension."""
    storage = f"(Vstorage\nctorch\n{kind}Storage\nV0\nVcpu\nI{count}\ntQ".encode()
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + f"I{offset}\n(I{size}\nt(I{stride}\ntI00\n}}tR.".encode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": "3"},
        {"size": "5"},
        {"stride": "4"},
        {"offset": "-1"},
        {"size": "1000000000", "stride": "0"},
        {"size": "9223372036854775807"},
        {"count": "-4"},
        {"kind": "Complex"},
    ],
)
def test_tensors_outside_their_numbers(tmp_path, wrong):
    good = InertFile(in_archive(tmp_path / "a.pt", b"\x80\x02" + tensor_code(), **{"0": bytes(16)}))
    assert good.tensor(good.root).tolist() == [0, 0]
    with pytest.raises(ValueError, match="damaged|refused"):
        InertFile(in_archive(tmp_path / "b.pt", b"\x80\x02" + tensor_code(**wrong), **{"0": bytes(16)}))


def test_numbers_that_are_missing_or_too_few(tmp_path):
    file = InertFile(in_archive(tmp_path / "a.pt", b"\x80\x02" + tensor_code()))
    assert isinstance(file.root, LazyTensor)
    with pytest.raises(ValueError, match="the storage x/data/0 is missing"):
        file.tensor(file.root)
    file = InertFile(in_archive(tmp_path / "b.pt", b"\x80\x02" + tensor_code(), **{"0": bytes(15)}))
    with pytest.raises(ValueError, match="storage 0 has 15 bytes for 4 elements"):
        file.tensor(file.root)


def test_compressed_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", pickle.dumps({}))
        file.writestr("x/data/0", bytes(1 << 20))
    with pytest.raises(ValueError, match="compressed"):
        InertFile(tmp_path / "a.pt")


@pytest.mark.parametrize("end", [b"q\x00}h\x00K\x01s.", b"q\x00h\x00)R.", b"q\x00" + MODEL + b"h\x00R0h\x00)b."])
def test_nested_values_take_no_time_to_refuse(tmp_path, end):
    """A tuple of two tuples of two tuples ...: to hash or to print it would take 2^60 steps."""
    with pytest.raises(ValueError, match="damaged|refused") as error:
        InertFile(in_archive(tmp_path / "a.pt", b"\x80\x02)" + b"2\x86" * 60 + end))
    assert len(str(error.value)) < 200
