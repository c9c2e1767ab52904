"""Archives of torch.export: ours pass, and whatever could run code when PyTorch loads it is refused."""

import io
import json
import pickle
import zipfile

import pytest
import torch

from utils.model_files.pt2 import is_arithmetic, load_pt2


class Payload:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return print, ("executed",)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x):
        return (self.conv(x) + x.new_ones(x.shape[2], x.shape[3]) * 2 + torch.arange(2.0)[1],)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """An archive with open sizes, weights, a buffer and constants."""
    file = tmp_path_factory.mktemp("pt2") / "good.pt2"
    shapes = ({0: torch.export.Dim("batch"), 2: 8 * torch.export.Dim("height")},)
    program = torch.export.export(Net().eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, str(file), extra_files={"metadata.json": "{}"})
    return file


def changed(source, target, change):
    """Copy an archive; `change` gets {name without the root: bytes} and edits it."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"{root}/{name}", data)
    return target


def edit_json(name, edit):
    def change(members):
        data = json.loads(members[name])
        edit(data)
        members[name] = json.dumps(data).encode()

    return change


def edit_graph(edit):
    return edit_json("models/model.json", edit)


def pickled_weight(data):
    next(iter(data["config"].values()))["use_pickle"] = True


def opaque_constant(data):
    data["config"]["x"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}


def set_target(text):
    def edit(graph):
        graph["graph_module"]["graph"]["nodes"][0]["target"] = text

    return edit_graph(edit)


def set_expression(text):
    return edit_graph(lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(extra={"expr_str": text}))


def set_structure(kind):
    spec = [1, {"type": kind, "context": json.dumps({"__enum__": True, "fqn": "os:path"}), "children_spec": []}]
    return edit_graph(
        lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=json.dumps(spec))
    )


def unsafe_inputs(members):
    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    members["data/sample_inputs/model.pt"] = buffer.getvalue()


def two_pickles(members):
    """What the check would read is harmless, but what PyTorch would find under the name data.pkl is not."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/sub/data.pkl", pickle.dumps({}, 2))
        archive.writestr("x/DATA.PKL", pickle.dumps(Payload(), 2))
    members["data/sample_inputs/model.pt"] = buffer.getvalue()


def pickle_in_front(members):
    """A zip archive for those who look at the end, a pickle for torch.load, which looks at the beginning."""
    buffer = io.BytesIO()
    buffer.write(pickle.dumps(Payload(), 2))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
    members["data/sample_inputs/model.pt"] = buffer.getvalue()


def hand_on(text):
    """A graph that calls wrap_with_autocast, which runs the function among its arguments."""
    argument = {"name": "wrapped_func", "arg": {"as_operator": text}, "kind": 1}

    def edit(graph):
        node = graph["graph_module"]["graph"]["nodes"][0]
        node.update(target="torch.ops.higher_order.wrap_with_autocast", inputs=[argument])

    return edit_graph(edit)


def rename_input(text):
    """A graph whose input has a name that is code in the signature of the function that PyTorch writes."""

    def change(members):
        record = "models/model.json"
        members[record] = members[record].replace(b'"name": "x"', b'"name": ' + json.dumps(text).encode())

    return change


def name_argument(graph, text):
    graph["graph_module"]["graph"]["nodes"][0]["inputs"][0]["name"] = text


def name_in_structure(text):
    spec = [1, {"type": "builtins.dict", "context": json.dumps([text]), "children_spec": []}]
    return edit_graph(
        lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=json.dumps(spec))
    )


DANGERS = {
    "pickled weight": (edit_json("data/weights/model_weights_config.json", pickled_weight), "pickled Python objects"),
    "opaque": (edit_json("data/constants/model_constants_config.json", opaque_constant), "pickled Python objects"),
    "old weights": (lambda m: m.update({"data/weights/model.pt": pickle.dumps(Payload())}), "no exported detector has"),
    "sample inputs": (unsafe_inputs, r"sample_inputs.*pickled Python objects"),
    "library": (lambda m: m.update({"data/aotinductor/model/a.so": b"\x7fELF"}), "no exported detector has"),
    "library, other case": (lambda m: m.update({"Data/AOTInductor/model/a.so": b""}), "no exported detector has"),
    "graph, other case": (lambda m: m.update({"Models/model.json": m.pop("models/model.json")}), "no exported"),
    "weights, other case": (lambda m: m.update({"data/weights/model.PT": pickle.dumps(Payload())}), "no exported"),
    "second program": (lambda m: m.update({"models/other.json": m["models/model.json"]}), "no exported detector has"),
    "sample inputs, other case": (two_pickles, r"sample_inputs.*pickled Python objects"),
    "sample inputs, pickle in front": (pickle_in_front, r"sample_inputs.*pickled Python objects"),
    "maps a file": (set_target("torch.ops.aten.from_file.default"), r"calls 'torch\.ops\.aten\.from_file"),
    "internal operator": (set_target("torch.ops.aten._print.default"), r"calls 'torch\.ops\.aten\._print"),
    "no overload": (set_target("torch.ops.aten.add.overloads.default"), r"calls 'torch\.ops\.aten\.add"),
    "function as an argument": (hand_on("torch.os.system"), r"hands on the function 'torch\.os\.system'"),
    "function": (set_target("torch.os.system"), r"calls 'torch\.os\.system'"),
    "attribute": (set_target("torch.ops.aten.__class__.mro"), "calls"),
    "operator": (set_target("_operator.attrgetter"), "calls"),
    "name of an input": (rename_input("x=print('executed')"), "which could be code"),
    "name of an argument": (edit_graph(lambda g: name_argument(g, "a=1):\n    pass\nprint(0")), "which could be code"),
    "names in the structure": (name_in_structure("a=print(1)"), "not a plain tuple"),
    "expression": (set_expression("__import__('os').system('true')"), "not arithmetic"),
    "range": (edit_graph(lambda g: g["range_constraints"].update({"open('x')": {}})), "not arithmetic"),
    "structure": (set_structure("collections.defaultdict"), "not a plain tuple"),
    "old format": (lambda m: m.pop("archive_format"), r"PyTorch 2\.8"),
}


def test_a_file_of_torch_export_passes(good, tmp_path):
    load_pt2(good)
    load_pt2(changed(good, tmp_path / "copy.pt2", lambda members: None))  # so the refusals below are of the change


@pytest.mark.parametrize("name", DANGERS)
def test_what_could_run_code_is_refused(good, tmp_path, name):
    change, message = DANGERS[name]
    with pytest.raises(ValueError, match=message):
        load_pt2(changed(good, tmp_path / "bad.pt2", change))


def test_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_pt2(tmp_path / "a.pt2")
    (tmp_path / "a.pt2").write_bytes(b"x")
    with pytest.raises(ValueError, match="not an archive"):
        load_pt2(tmp_path / "a.pt2")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("Add(Mul(Integer(4), Symbol('s89', positive=True, integer=True)), Integer(-4))", True),
        ("32*s89 + s1 // 2", True),
        ("FloorDiv(s0, 8) >= 2", True),
        ("os.system('x')", False),
        ("exec('x')", False),
        ("Symbol('a b')", False),
        ("s0[0]", False),
        ("(lambda: 0)()", False),
        ("__builtins__", False),
        ("[x for x in s0]", False),
        ("s0 +", False),
    ],
)
def test_sizes_are_arithmetic(text, allowed):
    assert is_arithmetic(text) is allowed
