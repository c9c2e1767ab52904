"""Hostile archives, exported files, YAML, labels and caches: each is refused with a message, and a sentinel file shows
that nothing in it ran. Checkpoints: test_attacks.py."""

import io
import json
import os
import pickle
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from models.runtimes.base import Runtime, parse_shape, parse_size
from models.runtimes.onnx_files import OnnxRuntimeBackend
from models.runtimes.torch_files import TorchScriptBackend
from models.weights.checkpoint import load_checkpoint
from models.weights.class_names import parse_names, parse_value
from models.yolo import DetectionModel
from utils.datasets.coco import read_tables
from utils.datasets.dataset import check_dataset
from utils.datasets.label_cache import read_cache
from utils.datasets.voc import read_voc
from utils.files import unpack, yaml_load
from utils.hyp import Hyp
from utils.model_files.archive import open_model_archive
from utils.model_files.engine import read_engine
from utils.model_files.pt2 import load_pt2
from utils.model_files.torchscript import load_torchscript

SECONDS, MEGABYTES = 40, 400  # CPU time and memory; no refusal may take more


@pytest.fixture
def sentinel(tmp_path):
    """Path of a file that must not come into being; CPU time and memory are watched too."""
    file = tmp_path / "ran"
    tracemalloc.start()
    start = time.process_time()
    yield file
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not file.exists(), "code in the file ran"
    assert seconds < SECONDS
    assert peak < MEGABYTES << 20


class Touch:
    """Runs a command where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


# Archives of PyTorch --------------------------------------------------------------------------------------------------
GOOD = pickle.dumps({"format": 1}, 2)


def archive(*entries, packed=zipfile.ZIP_STORED, comment=b""):
    """Bytes of a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as file:
        for name, data in entries:
            file.writestr(name, data)
        file.comment = comment
    return out.getvalue()


def with_sizes(data, size):
    """The archive with another declared size of its last entry, in both tables."""
    central = data.rindex(b"PK\x01\x02")
    local = data.rindex(b"PK\x03\x04")
    out = bytearray(data)
    for place in (central + 20, local + 18):
        out[place : place + 8] = struct.pack("<II", size, size)
    return bytes(out)


def overlapping():
    """Two names for the same numbers, as in a bomb without compression."""
    data = archive(("x/data.pkl", GOOD), ("x/data/0", bytes(4096)), ("x/data/1", bytes(0)))
    out = bytearray(data)
    first = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    second = data.rindex(b"PK\x01\x02")
    out[second + 16 : second + 28] = out[first + 16 : first + 28]  # checksum and sizes
    out[second + 42 : second + 46] = out[first + 42 : first + 46]  # place
    return bytes(out)


def two_tables():
    """An archive whose last record points at another table of contents than the one before it."""
    inner = archive(("x/data.pkl", pickle.dumps({"other": 1}, 2)))
    return b"\0" * 64 + inner


def encrypted():
    """An archive with the mark of encryption."""
    data = bytearray(archive(("x/data.pkl", GOOD)))
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(mark) + place] |= 1
    return bytes(data)


ARCHIVES = {
    "bomb of zeros": lambda: archive(("x/data.pkl", GOOD), ("x/data/0", bytes(64 << 20)), packed=zipfile.ZIP_DEFLATED),
    "declared size above the file": lambda: with_sizes(archive(("x/data.pkl", GOOD), ("x/data/0", b"12")), 1 << 30),
    "declared size of 4 GB": lambda: with_sizes(archive(("x/data.pkl", GOOD), ("x/data/0", b"12")), 0xFFFFFFFE),
    "entries that overlap": overlapping,
    "truncated": lambda: archive(("x/data.pkl", GOOD), ("x/data/0", bytes(999)))[:-300],
    "first half": lambda: archive(("x/data.pkl", GOOD), ("x/data/0", bytes(999)))[:500],
    "only the end": lambda: archive(("x/data.pkl", GOOD))[-22:],
    "flipped bit": lambda: archive(("x/data.pkl", GOOD)).replace(b"format", b"farmat", 1),
    "name twice": lambda: archive(("x/data.pkl", GOOD), ("x/data.pkl", GOOD)),
    "name twice, other case": lambda: archive(("x/data.pkl", GOOD), ("x/DATA.PKL", GOOD)),
    "two roots": lambda: archive(("x/data.pkl", GOOD), ("y/data.pkl", GOOD)),
    "parent folder": lambda: archive(("x/data.pkl", GOOD), ("../../evil", b"")),
    "parent folder within": lambda: archive(("x/data.pkl", GOOD), ("x/data/../../../evil", b"")),
    "absolute path": lambda: archive(("x/data.pkl", GOOD), ("/etc/cron.d/evil", b"")),
    "backslashes": lambda: archive(("x/data.pkl", GOOD), ("..\\..\\evil", b"")),
    "drive": lambda: archive(("x/data.pkl", GOOD), ("C:/evil", b"")),
    "bytes before": two_tables,
    "bytes behind": lambda: archive(("x/data.pkl", GOOD)) + b"\0" * 40,
    "archive behind": lambda: archive(("x/data.pkl", GOOD)) + archive(("x/data.pkl", GOOD)),
    "comment": lambda: archive(("x/data.pkl", GOOD), comment=b"PK\5\6" + bytes(18)),
    "encrypted": encrypted,
    "packed by LZMA": lambda: archive(("x/data.pkl", GOOD), packed=zipfile.ZIP_LZMA),
    "no pickle": lambda: archive(("x/readme", b"")),
    "TorchScript": lambda: archive(("x/data.pkl", GOOD), ("x/constants.pkl", GOOD)),
    "nothing": lambda: b"",
    "numbers": lambda: np.random.default_rng(0).bytes(5000),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name, tmp_path, sentinel):
    (tmp_path / "good.pt").write_bytes(archive(("x/data.pkl", GOOD)))
    with pytest.raises(ValueError, match="this checkpoint lacks"):  # so far it is good
        load_checkpoint(tmp_path / "good.pt")
    (tmp_path / "a.pt").write_bytes(ARCHIVES[name]())
    with pytest.raises(ValueError, match=r"a\.pt: (refused|damaged|not a checkpoint)"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: "):
        load_pt2(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: "):
        load_torchscript(tmp_path / "a.pt", torch.device("cpu"))
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "good.pt"]


def test_archives_of_torch_itself_pass(tmp_path):
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pt")
    with open_model_archive(tmp_path / "a.pt") as opened:
        assert any(name.endswith("data.pkl") for name in opened.namelist())


# TorchScript; its programs: tests/utils/test_torchscript_file.py ------------------------------------------------------
CONFIGS = {
    "no JSON": "{",
    "code": "__import__('os').system('touch ran')",
    "list": "[1]",
    "deep": "[" * 100_000,
    "large": '{"a": "' + "a" * (5 << 20) + '"}',
    "shape of a text": '{"shape": "evil"}',
    "shape of 10^12": '{"shape": [1, 3, 1000000000000, 64]}',
    "shape of two": '{"shape": [1, 3]}',
    "names that are a number": '{"names": 7}',
    "names with gaps": '{"names": {"0": "a", "7": "b"}}',
    "long name": json.dumps({"names": ["a" * 1001]}),
    "many names": json.dumps({"names": ["a"] * 100_001}),
}


class Passes(torch.nn.Module):
    """Does nothing."""

    def forward(self, x):
        return x * 1


@pytest.mark.parametrize("name", CONFIGS)
def test_extra_files_of_torchscript(name, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = torch.jit.script(Passes())
    script.save(str(tmp_path / "good.torchscript"), _extra_files={"config.txt": '{"names": ["a"]}'})
    assert TorchScriptBackend(tmp_path / "good.torchscript", torch.device("cpu")).names == {0: "a"}
    script.save(str(tmp_path / "a.torchscript"), _extra_files={"config.txt": CONFIGS[name]})
    with pytest.raises(ValueError, match=r"a\.torchscript: "):
        TorchScriptBackend(tmp_path / "a.torchscript", torch.device("cpu"))


# Metadata and heads ---------------------------------------------------------------------------------------------------
TEXTS = {
    "call": "__import__('os').system('touch ran')",
    "comprehension": "[open('ran', 'w') for _ in 'a']",
    "deep list": "[" * 100_000,
    "deep minus": "-" * 100_000 + "1",
    "deep sum": "1" + "+1" * 100_000,
    "giant number": "9" * 1_000_000,
    "power": "9**9**9",
    "large": "'" + "a" * (5 << 20) + "'",
}


@pytest.mark.parametrize("name", TEXTS)
def test_metadata_of_onnx(name, tmp_path, sentinel, monkeypatch):
    """The values of ONNX metadata are texts of anybody's choice."""
    monkeypatch.chdir(tmp_path)
    assert parse_value(TEXTS[name]) == TEXTS[name]
    assert parse_size(TEXTS[name]) is None
    with pytest.raises(ValueError, match="must map"):
        parse_names(TEXTS[name], "a.onnx")
    with pytest.raises(ValueError, match="must be four numbers"):
        parse_shape(TEXTS[name], "a.onnx")


def test_metadata_do_not_command_the_terminal_or_take_memory(sentinel):
    found = {"names": json.dumps(["\x1b[2Jcat\x07"]), "stride": "1e308", "min_size": "[1000000000, 1]", "imgsz": "1"}
    runtime = Runtime(Path("a.onnx"), torch.device("cpu"), found)
    assert (runtime.names, runtime.stride, runtime.min_size) == ({0: "?[2Jcat?"}, None, (1, 1))


def test_hostile_onnx_metadata_in_a_real_file(tmp_path, sentinel, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, [1, 3, 8, 8])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    for key, value in {"names": TEXTS["call"], "stride": TEXTS["comprehension"]}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx: 'names' must map"):
        OnnxRuntimeBackend(tmp_path / "a.onnx", torch.device("cpu"))


HEADS = {
    "no JSON": b"{",
    "code": b"{__import__('os').system('touch ran')}",
    "names that are a list": b'{"names": [1]}',
    "names without numbers": b'{"names": {"x": "a"}}',
    "deep": b'{"a": ' + b"[" * 100_000,
    "not UTF-8": b'{"\xff": 1}',
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_engines(name, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.engine").write_bytes(struct.pack("<I", len(HEADS[name])) + HEADS[name] + b"engine")
    with pytest.raises(ValueError, match=r"a\.engine: damaged"):
        read_engine(tmp_path / "a.engine")


# YAML -----------------------------------------------------------------------------------------------------------------
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
YAMLS = {
    "apply": "names: !!python/object/apply:os.system ['touch ran']",
    "new": "names: !!python/object/new:subprocess.Popen [['touch', 'ran']]",
    "object": "names: !!python/object:models.yolo.DetectionModel {}",
    "name": "names: !!python/name:os.system",
    "module": "names: !!python/module:os",
    "tuple": "names: !!python/tuple [1, 2]",
    "long tag": "names: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch ran']",
    "own tag": "names: !evil [1]",
    "tag directive": "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\nnames: !os.system ['touch ran']",
    "binary": "names: !!binary aGVsbG8=",
    "set": "names: !!set {a, b}",
    "timestamp": "names: !!timestamp 2001-01-01",
    "omap": "names: !!omap [a: 1]",
    "number by tag": "names: !!int x",
    "billion laughs": LAUGHS,
    "billion merges": MERGED,
    "alias of itself": "names: &a [*a]",
    "merge of itself": "names: &a\n  <<: *a",
    "unknown alias": "names: *a",
    "deep lists": "names: " + "[" * 50_000,
    "deep mappings": "names: " + "{a: " * 50_000,
    "deep blocks": "".join("  " * i + f"k{i}:\n" for i in range(500)),
    "many values": "names: [" + "1, " * 3001 + "]",
    "large": "names: " + "a" * (5 << 20),
    "giant number": "names: " + "9" * 100_000,
    "giant hexadecimal": "names: 0x" + "f" * 100_000,
    "giant fraction": "names: 1." + "9" * 100_000,
    "list as key": "[1, 2]: x",
    "mapping as key": "{a: 1}: x",
    "key twice": "names: 1\nnames: 2",
    "two documents": "a: 1\n---\nb: 2",
    "NUL": "names: \0",
    "escape": "names: \x1b[2J",
    "not UTF-8": b"names: \xff",
    "binary file": np.random.default_rng(0).bytes(5000),
    "list": "[1, 2]",
    "text": "hello",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(name, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.files.MAX_NODES", 3000)
    file = tmp_path / "a.yaml"
    file.write_bytes(YAMLS[name].encode() if isinstance(YAMLS[name], str) else YAMLS[name])
    doors = (check_dataset, Hyp.load, DetectionModel) if file.stat().st_size < 10_000 else ()
    for door in (yaml_load, *doors):
        with pytest.raises(ValueError, match=r"a\.yaml"):
            door(file)
    assert os.listdir(tmp_path) == ["a.yaml"]


def test_download_lines_of_a_dataset_are_not_run(tiny_dataset, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = tiny_dataset.read_text() + "download: |\n  import os\n  os.system('touch ran')\n"
    (tmp_path / "a.yaml").write_text(text)
    check_dataset(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("path: nowhere\ntrain: x\nval: x\nnames: [a]\ndownload: touch ran\n")
    with pytest.raises((ValueError, FileNotFoundError), match=r"b\.yaml"):
        check_dataset(tmp_path / "b.yaml")


# Labels and caches ----------------------------------------------------------------------------------------------------
XML = "<annotation><size><width>1</width><height>1</height></size>{}</annotation>"
LABELS = {
    "entities.xml": '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + XML.format("&b;"),
    "external.xml": '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + XML.format("&a;"),
    "remote.xml": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/evil.dtd">' + XML.format(""),
    "deep.xml": XML.format("<a>" * 50_000),
    "large.xml": XML.format("a" * (17 << 20)),
    "deep.json": "[" * 100_000,
    "code.json": "__import__('os').system('touch ran')",
    "number.json": "9" * 100_000,
    "other.json": '{"images": 7, "categories": [], "annotations": []}',
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(name, tmp_path, sentinel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(LABELS[name])
    with pytest.raises(ValueError, match=r"\w"):
        (read_voc if name.endswith("xml") else read_tables)(tmp_path / name)


def test_label_caches_are_neither_unpickled_nor_inflated(tmp_path, sentinel):
    cache = tmp_path / "a.cache"
    evil = np.array([Touch(sentinel)], dtype=object)
    for save in (np.save, np.savez):
        with cache.open("wb") as file:
            save(file, evil)
        assert read_cache(cache, "key", [], []) is None
    with cache.open("wb") as file:
        np.savez(file, key=evil, kept=evil)
    assert read_cache(cache, "key", [], []) is None
    with cache.open("wb") as file:
        np.savez_compressed(file, key=np.array("key"), kept=np.zeros(300 << 20, np.uint8))
    assert read_cache(cache, "key", [], []) is None
    cache.write_bytes(pickle.dumps(Touch(sentinel)))
    assert read_cache(cache, "key", [], []) is None


# Downloaded archives --------------------------------------------------------------------------------------------------


def tar_of(*members, mode="w"):
    """Bytes of a tar archive; a member is (name, content or type, link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content, link in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) != 1:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content, link
                tar.addfile(entry)
    return out.getvalue()


def zip_with_mode(mode, data=b"/etc/passwd"):
    """Bytes of a zip archive whose entry has this Unix mode."""
    entry = zipfile.ZipInfo("a")
    entry.external_attr = mode << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(entry, data)
    return out.getvalue()


DOWNLOADS = {
    "parent.zip": archive(("../evil", b"x")),
    "deep parent.zip": archive(("a/b/../../../evil", b"x")),
    "absolute.zip": archive(("/tmp/evil", b"x")),
    "backslash.zip": archive(("..\\evil", b"x")),
    "drive.zip": archive(("C:\\evil", b"x")),
    "link.zip": zip_with_mode(stat.S_IFLNK | 0o777),
    "fifo.zip": zip_with_mode(stat.S_IFIFO | 0o666),
    "device.zip": zip_with_mode(stat.S_IFCHR | 0o666),
    "bomb.zip": archive(("a", bytes(30 << 20)), packed=zipfile.ZIP_DEFLATED),
    "liar.zip": with_sizes(archive(("a", bytes(500))), 0xFFFFFFF0),
    "truncated.zip": archive(("a", bytes(500)))[:-30],
    "twice.zip": archive(("a", b"one"), ("a", b"two-")),
    "empty.zip": archive(),
    "parent.tar": tar_of(("../evil", b"xx", "")),
    "absolute.tar": tar_of(("/tmp/evil", b"xx", "")),
    "link.tar": tar_of(("a", tarfile.SYMTYPE, "/etc"), ("a/passwd", b"xx", "")),
    "hard link.tar": tar_of(("a", tarfile.LNKTYPE, "/etc/passwd")),
    "device.tar": tar_of(("a", tarfile.CHRTYPE, "")),
    "block device.tar": tar_of(("a", tarfile.BLKTYPE, "")),
    "fifo.tar": tar_of(("a", tarfile.FIFOTYPE, "")),
    "bomb.tar.gz": tar_of(("a", bytes(30 << 20), ""), mode="w:gz"),
    "truncated.tar.gz": tar_of(("a", bytes(30 << 10), ""), mode="w:gz")[:40],
    "not.tar.gz": b"hello",
    "not.zip": b"hello",
    "kind.rar": b"Rar!",
}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_downloaded_archives(name, tmp_path, sentinel):
    (tmp_path / name).write_bytes(DOWNLOADS[name])
    with pytest.raises(ValueError, match=name.replace(".", r"\.") + ": "):
        unpack(tmp_path / name, tmp_path / "into", limit=20 << 20)
    assert {path.name for path in tmp_path.rglob("*")} <= {name, "into", "a"}
    assert not (tmp_path / "into/a").is_symlink()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_link_that_lies_in_the_folder_is_not_followed(kind, tmp_path, sentinel):
    (tmp_path / "into").mkdir()
    (tmp_path / "into/a").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "x").write_bytes(archive(("a/evil", b"xx")) if kind == "zip" else tar_of(("a/evil", b"xx", "")))
    with pytest.raises(ValueError, match="'a/evil' leads out of the folder"):
        unpack(tmp_path / "x", tmp_path / "into")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tar.xz"])
def test_good_archives_are_unpacked(ending, tmp_path):
    members = {"a/b.txt": b"hello", "c.bin": bytes(5000)}
    data = (
        archive(*members.items())
        if ending == ".zip"
        else tar_of(*((k, v, "") for k, v in members.items()), mode=f"w:{ending[-2:]}")
    )
    file = tmp_path / f"x{ending}"
    file.write_bytes(data)
    assert unpack(file, tmp_path / "into") == 2
    assert {name: (tmp_path / "into" / name).read_bytes() for name in members} == members
    assert not os.access(tmp_path / "into/c.bin", os.X_OK)
    (tmp_path / "into/c.bin").write_bytes(b"of the user")
    with pytest.raises(ValueError, match=r"exists already"):
        unpack(file, tmp_path / "into")
    assert (tmp_path / "into/c.bin").read_bytes() == b"of the user"


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.files.MAX_MEMBERS", 2)
    (tmp_path / "x").write_bytes(archive(*((name, b"") for name in "abc")))
    with pytest.raises(ValueError, match="more than 1099511627776 bytes or 2 files"):
        unpack(tmp_path / "x", tmp_path / "into")


def test_a_python_without_the_filter_of_tarfile_unpacks_no_tar(tmp_path, monkeypatch):
    monkeypatch.delattr("tarfile.data_filter")
    (tmp_path / "x.tar").write_bytes(tar_of(("a", b"xx", "")))
    with pytest.raises(OSError, match=r"unpacking needs Python 3\.10\.12"):
        unpack(tmp_path / "x.tar", tmp_path / "into")
    assert not (tmp_path / "into").exists()
