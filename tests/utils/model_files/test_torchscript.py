"""TorchScript files: ours pass; a program that could do more than compute is refused, whoever reads it how.

The sentinel is a file named `ran` in the working directory, which the hostile programs write.
"""

import io
import zipfile

import pytest
import torch

from utils.model_files.torchscript import check_pickle, load_torchscript

CPU = torch.device("cpu")


class Model(torch.nn.Module):
    """A module with a parameter, a constant and a submodule."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU())

    def forward(self, x):
        return self.convs(x).flatten(1) + torch.arange(36.0) * torch.tensor([2.0])


class Passes(torch.nn.Module):
    def forward(self, x):
        return x * 1


class Saves(torch.nn.Module):
    """Writes a file from inside TorchScript."""

    def forward(self, x):
        torch.save(x, "ran")
        return x


@pytest.fixture(autouse=True)
def _sentinel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists(), "the program in the file ran"


def records_of(module):
    """{name without the root folder: content} of a compiled module."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    reader = torch._C.PyTorchFileReader(io.BytesIO(buffer.getvalue()))
    return {name: reader.get_record(name) for name in reader.get_all_records()}


def write(file, records, root="x"):
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in records.items():
            archive.writestr(f"{root}/{name}", data)
    return file


def code_name(records):
    return next(name for name in records if name.endswith(".py"))


def load(file):
    """Load a file, and run it as detect.py would."""
    module, config = load_torchscript(file, CPU)
    return module(torch.ones(1, 3, 5, 5)), config


def test_traced_and_scripted_modules_pass_and_give_the_same(tmp_path):
    model = Model().eval()
    images = torch.ones(1, 3, 5, 5)
    for number, program in enumerate((torch.jit.trace(model, images), torch.jit.script(model))):
        program.save(str(tmp_path / f"{number}.torchscript"), _extra_files={"config.txt": '{"a": 1}'})
        output, config = load(tmp_path / f"{number}.torchscript")
        torch.testing.assert_close(output, model(images))
        assert config == {"a": 1}


# Names of records -----------------------------------------------------------------------------------------------------
NAMES = {
    "folder in capitals": lambda name: name.replace("code/", "Code/"),
    "suffix in capitals": lambda name: name.replace(".py", ".PY"),
    "module in capitals": lambda name: name.replace("__torch__", "__TORCH__"),
    "Kelvin sign": lambda name: name.replace("code/", "co\u212ae/"),
    "two slashes": lambda name: name.replace("code/", "code//"),
    "dot": lambda name: name.replace("code/", "code/./"),
    "backslash": lambda name: name.replace("code/", "code\\"),
    "dot at the end": lambda name: name + ".",
    "blank at the end": lambda name: name + " ",
    "line break": lambda name: name + "\n",
    "other suffix": lambda name: name + "i",
    "longer than a buffer": lambda name: name.replace("code/", "code/" + "a/" * 300),
    "control character": lambda name: name + "\x1b[2J",
}


@pytest.mark.parametrize("name", NAMES)
def test_code_under_another_name_is_refused(name, tmp_path):
    records = {NAMES[name](key) if key.startswith("code/") else key: data for key, data in records_of(Saves()).items()}
    with pytest.raises(ValueError, match=r"a\.torchscript: (refused|damaged)") as caught:
        load(write(tmp_path / "a.torchscript", records))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("record", ["model.json", "attributes.pkl", "bytecode.pkl", "a/code/__torch__.py", "code/a.py"])
def test_records_of_other_formats_are_refused(record, tmp_path):
    records = records_of(Passes())
    load(write(tmp_path / "good.torchscript", records))
    with pytest.raises(ValueError, match=f"it holds {record}, which no exported detector has"):
        load(write(tmp_path / "a.torchscript", records | {record: b"{}"}))


def test_a_name_with_nul_is_refused(tmp_path):
    """zipfile cuts such a name, so it is put in afterwards."""
    good = write(tmp_path / "a.torchscript", records_of(Passes()) | {"extra/abcd": b""})
    load(good)
    good.write_bytes(good.read_bytes().replace(b"extra/abcd", b"extra/a\0cd"))
    with pytest.raises(ValueError, match=r"a\.torchscript: (refused|damaged)"):
        load(good)


def test_two_roots_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.torchscript", "w") as archive:
        for number, (name, data) in enumerate(records_of(Passes()).items()):
            archive.writestr(f"{'xy'[number % 2]}/{name}", data)
    with pytest.raises(ValueError, match=r"a\.torchscript: (refused|damaged)"):
        load(tmp_path / "a.torchscript")


def test_an_archive_behind_a_flatbuffer_is_refused(tmp_path):
    """torch.jit.load takes a file with these letters for a flatbuffer, whatever its end says."""
    data = write(tmp_path / "a.torchscript", records_of(Passes())).read_bytes()
    (tmp_path / "a.torchscript").write_bytes(data[:4] + b"PTMF" + data[8:])
    with pytest.raises(ValueError, match="does not begin like a PyTorch archive"):
        load(tmp_path / "a.torchscript")


def test_the_file_may_change_after_the_check(tmp_path, monkeypatch):
    """PyTorch gets the bytes that were checked."""
    file = write(tmp_path / "a.torchscript", records_of(Passes()))
    original = torch.jit.load

    def swapped(*args, **keywords):
        write(file, records_of(Saves()))
        return original(*args, **keywords)

    monkeypatch.setattr(torch.jit, "load", swapped)
    torch.testing.assert_close(load(file)[0], torch.ones(1, 3, 5, 5))


# Programs -------------------------------------------------------------------------------------------------------------
HEAD = (
    "class Passes(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n"
    "  _is_full_backward_hook : Optional[bool]\n{members}"
    "  def forward(self: {model},\n    x: Tensor{argument}) -> Tensor:\n    {body}\n{more}"
)
METHOD = '  def evil(self: {model}, x: {kind}) -> NoneType:\n    torch.save(1, "ran")\n    return None\n'
PARTS = {  # what is put into a module that compiles: {part: text}
    "saves": {"body": 'torch.save(x, "ran")\n    return x'},
    "saves in a branch": {"body": 'if torch.gt(torch.numel(x), 0):\n      torch.save(x, "ran")\n    return x'},
    "saves in a loop": {"body": 'for i in range(3):\n      torch.save(x, "ran")\n    return x'},
    "saves in a method": {"body": "_0 = (self).evil(x, )\n    return x", "more": METHOD, "kind": "Tensor"},
    "aten saves": {"body": 'ops.aten.save(x, "ran")\n    return x'},
    "maps a file": {"body": 'return torch.from_file("ran", True, 8)'},
    "writes a file": {"body": 'ops.image.write_file("ran", x)\n    return x'},
    "calls Python": {"body": "return ^evil()(x)"},
    "Python operator": {"body": "return ops.prim.PythonOp(x)"},
    "remote call": {"body": "return ops.prim.rpc_async(x)"},
    "forks": {"body": "_0 = fork(self.evil, x)\n    return x", "more": METHOD, "kind": "Tensor"},
    "prints": {"body": "print(x)\n    return x"},
    "imports": {"body": "return __import__('os')"},
    "unknown operator": {"body": "return torch.no_such_thing(x)"},
    "unknown library": {"body": "return ops.evil.run(x)"},
    "internal operator": {"body": 'ops.aten._print("a")\n    return x'},
    "settings of the process": {"body": "torch.manual_seed(1)\n    return x"},
    "C++ class": {"body": "_0 = __torch__.torch.classes.quantized.LinearPackedParamsBase\n    return x"},
    "default value": {"argument": ', y: Tensor=torch.from_file("ran", True, 8)'},
    "constant of a class": {"members": '  a : Final[Tensor] = torch.from_file("ran", True, 8)\n'},
    "type of an attribute": {"members": '  __annotations__["a"] = torch.from_file("ran", True, 8)\n'},
    "hook for loading": {"more": METHOD.replace("evil", "__setstate__"), "kind": "Tensor"},
    "hook before": {"members": '  __forward_pre_hooks__ = ["evil"]\n', "more": METHOD, "kind": "Tuple[Tensor]"},
    "hook after": {"members": '  __forward_hooks__ = ["evil"]\n', "more": METHOD, "kind": "Tuple[Tensor]"},
    "outside of functions": {"more": 'torch.save(1, "ran")\n'},
    "carriage return in a comment": {"body": '# \r    return x\n    torch.save(x, "ran")\n    return x'},
    "comment": {"body": 'torch.save(x, "ran") # type: ignore\n    return x'},
    "three quotes": {"body": '"""a""" + torch.save(x, "ran") + """b"""\n    return x'},
    "form feed": {"body": '\f  torch.save(x, "ran")\n    return x'},
    "no syntax": {"body": "return (("},
    "deep": {"body": "return " + "(" * 5000 + "x" + ")" * 5000},
    "deep minus": {"body": "return " + "-" * 100_000 + "1"},
    "long": {"body": "return x" + "\n" * (5 << 20)},
    "no forward": {"body": "return x", "rename": ("def forward", "def backward")},
    "attribute with the name of a hook": {"members": "  __setstate__ : bool\n"},
}


@pytest.mark.parametrize("name", [None, *PARTS])
def test_programs(name, tmp_path):
    records = records_of(Passes())
    model = "__torch__." + code_name(records).removeprefix("code/__torch__/").removesuffix(".py").replace("/", ".")
    defaults = {
        "members": "",
        "argument": "",
        "body": "return torch.mul(x, 1)",
        "more": "",
        "kind": "",
        "rename": ("", ""),
    }
    parts = defaults | PARTS.get(name, {})
    parts = {key: text.replace("{kind}", parts["kind"]) if key == "more" else text for key, text in parts.items()}
    code = HEAD.format(model="{model}", **parts).replace("{model}", f"{model}.Passes").replace(*parts["rename"])
    file = write(tmp_path / "a.torchscript", records | {code_name(records): code})
    if name is None:
        load(file)
        return
    with pytest.raises(ValueError, match=r"a\.torchscript: (refused, |not a TorchScript file)"):
        load(file)


@pytest.mark.parametrize("record", ["data.pkl", "constants.pkl"])
@pytest.mark.parametrize(
    "name", [("os", "system"), ("builtins", "eval"), ("__torch__.torch.classes.quantized", "LinearPackedParamsBase")]
)
def test_classes_in_pickles(name, record, tmp_path):
    module, _, kind = name[0], None, name[1]
    evil = b"\x80\x02c" + f"{module}\n{kind}\n".encode() + b")\x81}b."
    with pytest.raises(ValueError, match=rf"{record}: refused, the file names {module}\.{kind}"):
        load(write(tmp_path / "a.torchscript", records_of(Passes()) | {record: evil}))


def test_damaged_pickles():
    check_pickle(b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", "data.pkl")
    out_of_order = b"\x80\x02K\x01q\x00K\x02q\x01K\x03q\x00h\x00."  # 3 for Python, another value for PyTorch
    after_mark = b"\x80\x02K\x01(q\x00K\x02t."
    for data in (out_of_order, after_mark, b"", b"\x80\x02c", b"\xff", b"\x80\x02X\xff\xff\xff\x7fa"):
        with pytest.raises(ValueError, match=r"data\.pkl: damaged"):
            check_pickle(data, "data.pkl")


@pytest.mark.parametrize("count", [3, 5, 1 << 28])
def test_storages_that_are_no_records(count, tmp_path):
    """PyTorch takes the number of elements from the pickle, and would read beyond the end of a shorter record."""
    records = records_of(Model())
    original = b"K\x04tQ"  # of the bias: four elements, end of the tuple, look it up
    assert records["data.pkl"].count(original) == 1
    changed = records["data.pkl"].replace(original, b"J" + count.to_bytes(4, "little") + b"tQ")
    load(write(tmp_path / "good.torchscript", records))
    with pytest.raises(ValueError, match=r"a\.torchscript: .*(has 16 bytes for|does not fit)"):
        load(write(tmp_path / "a.torchscript", records | {"data.pkl": changed}))
