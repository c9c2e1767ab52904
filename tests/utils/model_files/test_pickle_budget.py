"""Memory and work for an untrusted PyTorch file stay in proportion to its size, in the reader and in what follows."""

import io
import pickle
import pickletools
import struct
import sys
import tracemalloc
import zipfile

import pytest
import torch

from models.weights import yolov5 as legacy
from models.weights.checkpoint import load_checkpoint
from models.weights.imagenet import read_published
from tests.torch_archives import in_archive
from utils.model_files import inert_pickle
from utils.model_files.inert_pickle import FACTOR, Budget, DamagedError, Record
from utils.model_files.torch_file import InertFile

FLOOR = 32 << 10  # in place of the real one, which would hide everything else
SIZE = 3 << 10  # of a pickle
MODEL = b"cmodels.yolo\nModel\n"
LAYER = b"ctorch.nn.modules.container\nSequential\n"


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def short(i):
    return b"\x8c\x04%04x" % i


def storage(key):
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + b"K\x01tQ"


# instruction -> what comes before, and what is repeated; a function gets the number of the repetition
PROGRAMS = {
    "INT": (b"", b"I1000\n"),
    "BININT": (b"", b"J\xff\xff\xff\x00"),
    "BININT1": (b"", b"K\x01"),
    "BININT2": (b"", b"M\x01\x02"),
    "LONG": (b"", b"L1000L\n"),
    "LONG1": (b"", b"\x8a\x03\x01\x02\x03"),
    "LONG4": (b"", b"\x8b\x03\0\0\0\x01\x02\x03"),
    "STRING": (b"", b"S'a'\n"),
    "BINSTRING": (b"", b"T\x01\0\0\0a"),
    "SHORT_BINSTRING": (b"", b"U\x01a"),
    "BINBYTES": (b"", b"B\x01\0\0\0a"),
    "SHORT_BINBYTES": (b"", b"C\x01a"),
    "BINBYTES8": (b"", b"\x8e\x01\0\0\0\0\0\0\0a"),
    "BYTEARRAY8": (b"", b"\x96\x01\0\0\0\0\0\0\0a"),
    "NONE": (b"", b"N"),
    "NEWTRUE": (b"", b"\x88"),
    "NEWFALSE": (b"", b"\x89"),
    "UNICODE": (b"", b"V\\u0414\n"),
    "SHORT_BINUNICODE": (b"", b"\x8c\x02\xd0\x94"),
    "BINUNICODE": (b"", b"X\x02\0\0\0\xd0\x94"),
    "BINUNICODE8": (b"", b"\x8d\x02\0\0\0\0\0\0\0\xd0\x94"),
    "FLOAT": (b"", b"F1.5\n"),
    "BINFLOAT": (b"", b"G?\xf0\0\0\0\0\0\0"),
    "EMPTY_LIST": (b"", b"]"),
    "APPEND": (b"]", b"Na"),
    "APPENDS": (b"]", b"(NNNNe"),
    "LIST": (b"", b"(l"),
    "EMPTY_TUPLE": (b"", b")"),
    "TUPLE": (b"", b"(Nt"),
    "TUPLE1": (b"N", b"\x85"),
    "TUPLE2": (b"N", b"2\x86"),
    "TUPLE3": (b"N", b"22\x87"),
    "EMPTY_DICT": (b"", b"}"),
    "DICT": (b"", b"(NNd"),
    "SETITEM": (b"}", lambda i: short(i) + b"Ns"),
    "SETITEMS": (b"}", lambda i: b"(" + short(i) + b"Nu"),
    "EMPTY_SET": (b"", b"\x8f"),
    "ADDITEMS": (b"\x8f", lambda i: b"(" + short(i) + b"\x90"),
    "FROZENSET": (b"", b"(N\x91"),
    "POP": (b"N", b"N0"),
    "DUP": (b"N", b"2"),
    "MARK": (b"", b"("),
    "POP_MARK": (b"N", b"(1"),
    "GET": (b"Np0\n", b"g0\n"),
    "BINGET": (b"Nq\0", b"h\0"),
    "LONG_BINGET": (b"Nq\0", b"j\0\0\0\0"),
    "PUT": (b"N", lambda i: b"p%d\n" % (i << 30)),
    "BINPUT": (b"N", lambda i: b"q" + bytes([i % 256])),
    "LONG_BINPUT": (b"N", lambda i: b"r" + struct.pack("<I", i << 16)),
    "MEMOIZE": (b"N", b"\x94"),
    "GLOBAL": (b"", b"ctorch\nSize\n"),
    "STACK_GLOBAL": (b"", b"\x8c\x05torch\x8c\x04Size\x93"),
    "REDUCE": (LAYER + b"q\0", b"h\0)R"),
    "BUILD": (LAYER + b")R", b"}b"),
    "NEWOBJ": (b"ccollections\nOrderedDict\nq\0", b"h\0)\x81"),
    "NEWOBJ_EX": (b"ctorch.nn.modules.container\nSequential\nq\0", b"h\0)}\x92"),
    "PROTO": (b"N", b"\x80\x02"),
    "FRAME": (b"N", b"\x95\x01\0\0\0\0\0\0\0"),
    "STOP": (b"N", b"."),
    "BINPERSID": (b"", lambda i: storage(str(i))),
}
REFUSED = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}


def program(name, size):
    """A pickle of about `size` bytes: half of it text that pays for memory, half of it the instruction."""
    before, unit = PROGRAMS[name]
    code = bytearray(b"\x80\x04" + text("x" * (size // 2)) + before)
    i = 0
    while len(code) < size:
        code += unit(i) if callable(unit) else unit
        i += 1
    return bytes(code + b".")


def archive(code, **entries):
    file = io.BytesIO()
    in_archive(file, code, **entries)
    return file.getvalue()


def measured(job):
    """Peak of memory in bytes, calls of functions, and the error if there was one, of a piece of work."""
    calls, error = 0, None

    def count(*_):
        nonlocal calls
        calls += 1

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        sys.setprofile(count)
        try:
            job()
        except ValueError as e:
            error = e
        finally:
            sys.setprofile(None)
        return tracemalloc.get_traced_memory()[1] - before, calls, error
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def small_floor(monkeypatch):
    monkeypatch.setattr(inert_pickle, "FLOOR", FLOOR)


def test_every_instruction_of_the_format_is_in_one_of_the_two_tables():
    assert PROGRAMS.keys() | REFUSED == {code.name for code in pickletools.opcodes}
    assert not PROGRAMS.keys() & REFUSED


@pytest.mark.parametrize("name", [code.name for code in pickletools.opcodes])
def test_memory_and_work_of_an_instruction(name):
    if name in REFUSED:
        code = next(code for code in pickletools.opcodes if code.name == name)
        data = {"INST": b"posix\nsystem\n", "PERSID": b"0\n"}.get(name, b"\x01\0\0\0")
        with pytest.raises(ValueError, match=f"refused, .*({name}|posix)"):
            InertFile(archive(b"\x80\x04(" + code.code.encode("latin1") + data))
        return
    before, unit = PROGRAMS[name]
    InertFile(archive(b"\x80\x04" + before + b"".join(unit(i) if callable(unit) else unit for i in range(3)) + b"."))
    runs = [archive(program(name, size)) for size in (SIZE, 2 * SIZE)]
    InertFile(archive(b"N."))  # imports and caches
    results = [measured(lambda data=data: InertFile(data)) for data in runs]
    for data, (peak, calls, _) in zip(runs, results, strict=True):
        assert peak < FLOOR + FACTOR * len(data), f"{peak / len(data):.0f} times the file"
        assert calls < 1000 + 40 * len(data)
    assert results[1][1] < 2.2 * results[0][1] + 1000, "calls grow faster than the file"


def test_what_is_thrown_away_is_paid_for_too():
    """A call of six bytes copies a list of thousands; the result is dropped and the next one made."""
    items = b"(" + b"N" * 5000 + b"lq\x01"
    for call in (b"ctorch\nSize\n", b"cbuiltins\nset\n"):
        code = b"\x80\x04" + items + b"0" + call + b"q\x020" + b"h\x02h\x01\x85R0" * 2000 + b"N."
        with pytest.raises(DamagedError, match="endless values, or over"):
            InertFile(archive(code))


BIG = b"\x8b\x40\0\0\0" + b"\x7f" * 64
CRAFTED = {
    "integer": (BIG + b".", "an integer of more than 256 bits"),
    "integer in words": (b"I" + b"7" * 4000 + b"\n.", "an integer of more than 256 bits"),
    "long in words": (b"L" + b"7" * 4000 + b"L\n.", "an integer of more than 256 bits"),
    "text as integer": (b"I" + b"7" * 60_000 + b"\n.", "damaged: "),
    "text as float": (b"F" + b"x" * 60_000 + b"\n.", "damaged: "),
    "text without quotes": (b"S" + b"\x01" * 60_000 + b"\n.", "damaged: "),
    "key": (b"}" + text("k" * 1001) + b"Ns.", "a key of more than 1000 characters"),
    "class": (b"cmodels.common\n" + b"C" * 60_000 + b"\n.", "refused, the file names models.common.C"),
    "module": (b"ctorch.nn.modules." + b"m" * 60_000 + b"\nConv2d\n.", r"refused, the file names torch\.nn"),
    "storage": (storage("9" * 60_000) + b".", "whose key has more than 200"),
    "not latin1": (b"c_codecs\nencode\n(" + text("\u0414" * 60_000) + b"tR.", "damaged: "),
    "numbers as keys": (b"(" + b"".join(b"J%sN" % struct.pack("<i", i) for i in range(70_000)) + b"d.", "as keys"),
    "numbers in sets": (
        b"".join(b"\x8f(" + b"".join(b"M%s" % struct.pack("<H", i) for i in range(300)) + b"\x90" for _ in range(300))
        + b".",
        "more than 65536 numbers as keys",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_values_that_would_be_dear_later_are_refused_with_a_short_message(name):
    code, match = CRAFTED[name]
    with pytest.raises(ValueError, match=match) as error:
        InertFile(archive(b"\x80\x04" + code))
    assert len(str(error.value)) < 600


# What follows the reader --------------------------------------------------------------------------------------------

LONG = text("k" * SIZE) + b"q\x01"
KEY = text("k" * 1000) + b"q\x01"


def record(cls, state):
    return cls + b")R" + state + b"b"


def ours(entry):
    return b"\x80\x04" + LONG + b"0}(" + text("format") + b"K\x63" + entry + b"u."


def theirs(modules=b"}", **entries):
    """A file of YOLOv5 with the entries in the model (yaml, hyp, names), and `git`."""
    top = text("git") + entries.pop("git", b"}")
    state = b"".join(text(key) + value for key, value in entries.items())
    model = record(MODEL, b"}(" + state + text("_modules") + modules + b"u")
    return b"\x80\x04" + LONG + b"0}(" + top + text("model") + model + b"u."


def doubling(start, depth=60):
    """A list of two lists of two lists ...: small here, without end where it is copied or printed."""
    return start + b"".join(b"q%c0(h%ch%cl" % (7, 7, 7) for _ in range(depth))


KIDS = b"".join(text(str(i)) + b"h\x02" for i in range(500))
LEAF = record(LAYER, b"}" + text("_modules") + b"}" + KEY + record(LAYER, b"}") + b"ss") + b"q\x02"
WIDE = record(LAYER, b"}" + text("_modules") + b"}(" + b"".join(short(i) + b"N" for i in range(500)) + b"us") + b"q\x02"
BUFFERS = (
    record(LAYER, b"}" + text("_buffers") + b"}(" + b"".join(short(i) + b"N" for i in range(500)) + b"us") + b"q\x02"
)
TEXTS = b"\x8f(" + text("k" * 1000) + b"\x90q\x04"  # a set
PAIR = b"}" + short(0) + b"Nsq\x03"  # a mapping
TABLE = b"}(" + text("nc") + b"J\xff\xff\xff\x7f" + text("backbone") + b"]" + text("head") + b"]u"
FOLLOWING = {
    "version": ours(text("version") + b"(" + b"h\x01" * 2000 + b"l"),
    "names": ours(text("names") + b"(" + b"h\x01" * 2000 + b"l"),
    "set of texts": ours(text("opt") + b"(" + TEXTS + b"h\x04" * 5000 + b"l"),
    "tables in tables": ours(text("opt") + doubling(b"}")),
    "one table often": ours(text("opt") + b"(" + PAIR + b"h\x03" * 99 + b"lq\x04(" + b"h\x04" * 99 + b"l"),
    "nested": b"\x80\x04)" + b"\x85" * 3000 + b".",
    "module names": theirs(b"}(" + text("x") + LEAF + KIDS + b"u"),
    "wide modules": theirs(b"}(" + text("x") + WIDE + KIDS + b"u"),
    "wide buffers": theirs(b"}(" + text("x") + BUFFERS + KIDS + b"u"),
    "git": theirs(git=b"}(" + b"".join(text(str(i)) + b"h\x01" for i in range(2000)) + b"u"),
    "hyp": theirs(hyp=b"}" + text("a") + doubling(b"h\x01") + b"s"),
    "yaml": theirs(yaml=b"}" + text("backbone") + b"(" + b"h\x01" * 2000 + b"ls"),
    "classes": theirs(b"}" + text("x") + record(b"cmodels.yolo\nDetect\n", b"}") + b"s", yaml=TABLE),
    "classes of ours": ours(text("yaml") + TABLE),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWING)
def test_memory_and_work_of_what_follows_the_reader(name, tmp_path):
    file = in_archive(tmp_path / "a.pt", FOLLOWING[name], **{"0": bytes(4)})
    size = file.stat().st_size
    in_archive(tmp_path / "b.pt", b"}.")
    measured(lambda: load_checkpoint(tmp_path / "b.pt"))  # imports and caches
    for read in (load_checkpoint, lambda path: read_published(path) or load_checkpoint(path)):
        peak, calls, error = measured(lambda read=read: read(file))
        assert isinstance(error, ValueError)
        assert len(str(error)) < 600
        assert peak < 2 * (FLOOR + FACTOR * size), f"{peak / size:.0f} times the file"
        assert calls < 40_000 + 80 * size


def test_views_of_one_storage_do_not_add_up():
    """Each is a view here, but becomes memory of its own where it is halved, moved or cloned."""
    view = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("0").replace(b"K\x01tQ", b"M\x00\x04tQ")
        + b"K\0(M\x00\x04t(K\x01t\x89}tRq\x05"
    )  # fmt: skip
    data = archive(b"\x80\x04(" + view + b"h\x05" * 3 + b"l.", **{"0": bytes(4096)})
    assert len(InertFile(data).content()) == 4
    data = archive(b"\x80\x04(" + view + b"h\x05" * 500 + b"l.", **{"0": bytes(4096)})
    with pytest.raises(DamagedError, match="tensors of more than 4 times the size of the file"):
        InertFile(data).content()


def tensor(count=1, size=b"(K\x01t"):
    """One tensor over the storage `0`, put into the memo as number 5."""
    where = storage("0").replace(b"K\x01tQ", b"K" + bytes([count]) + b"tQ")
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + b"K\0" + size + size + b"\x89}tRq\x05"


@pytest.mark.parametrize(("count", "size"), [(1, b"(K\x01t"), (0, b"(K\0t")])
def test_tensors_without_numbers_are_paid_for_too(count, size):
    """Two bytes ask for one more view of the same storage, which is an object of hundreds of bytes."""
    data = archive(b"\x80\x04(" + tensor(count, size) + b"h\x05" * 5000 + b"l.", **{"0": bytes(4 * count)})
    with pytest.raises(DamagedError, match="endless values, or over"):
        InertFile(data).content()


def test_a_tensor_without_numbers_may_not_have_strides_beyond_64_bits():
    huge = b"\x8a\x06" + struct.pack("<Q", 2**46)[:6]
    data = archive(b"\x80\x04" + tensor(0, b"(K\0" + huge * 2 + b"t") + b".", **{"0": b""})
    with pytest.raises(DamagedError, match="wrong shape"):
        InertFile(data).content()


def test_a_long_line_of_a_stream_ends_with_the_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.model_files.torch_file.MAX_PICKLE", 1000)
    stream = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})) + b"V" + b"x" * 500_000
    (tmp_path / "a.pt").write_bytes(stream)
    InertFile(archive(b"N."))
    peak, _, error = measured(lambda: InertFile(tmp_path / "a.pt"))
    assert "damaged" in str(error)
    assert peak < 100_000


def nest(depth=60):
    value = "x"
    for _ in range(depth):
        value = [value, value]
    return value


def test_settings_of_records_are_not_printed_whole():
    long, act = "s" * 100_000, Record("torch.nn.modules.activation.LeakyReLU", (), {"negative_slope": nest()})
    assert len(legacy._pair(long)) <= 200
    assert len(legacy._some([long] * 5)) < 700
    with pytest.raises(ValueError, match="slope of a LeakyReLU is a list"):
        legacy._slope(act)
    conv = Record("models.common.Conv", (), {"_modules": {"act": act}})
    with pytest.raises(ValueError, match="slope of a LeakyReLU is a list"):
        legacy._activation({"model.0": conv})
    with pytest.raises(ValueError, match="endless values, or over"):
        legacy._plain(nest(25), Budget())


def test_buffers_are_looked_up_in_a_set_only():
    names = Record("x.Y", (), {"_buffers": {"a": 1}, "_non_persistent_buffers_set": ["a"] * 5})
    assert list(legacy._tensors("", names, Budget())) == []


def test_a_real_file_is_read_without_the_floor(tmp_path):
    """Protocol 4 is the densest: an optimizer with two averages for each of its weights."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(200)]
    optimizer = torch.optim.AdamW(weights)
    sum(weights).backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        "model": {f"model.{i}.conv.weight": w for i, w in enumerate(weights)},
    }
    for protocol in (2, 4):
        torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
        with zipfile.ZipFile(tmp_path / "a.pt") as file:
            code = file.read("a/data.pkl")
        machine = inert_pickle._Machine()
        machine.run(io.BytesIO(code))
        assert machine.budget.left > FLOOR + FACTOR * len(code) / 8
        with InertFile(tmp_path / "a.pt") as file:
            assert len(file.content()["optimizer"]["state"]) == 200
            assert file.memory.left > FLOOR + FACTOR * len(code) / 2
