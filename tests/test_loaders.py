"""The law of doors: which file may call what reads, unpacks or runs the content of a file, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Function -> files that may call it, and why it is safe there. A name ending in `.*` is all of a module.
DOORS = {
    "torch.load": (),  # utils/model_files/torch_file.py reads such files without running them
    "torch.package.*": (),
    "torch.hub.load": ("benchmarks/gpu/programs.py", "examples/sahi/detect.py"),  # of this folder, source="local"
    "torch.hub.load_state_dict_from_url": (),
    "torch.hub.download_url_to_file": (),  # has no deadline: utils/downloads/__init__.py
    "torch.ops.load_library": ("utils/nms.py",),  # the library inside the installed torchvision
    "torch._C.import_ir_module": (),
    "torch._C.import_ir_module_from_buffer": (),
    "torch._C._load_for_lite_interpreter": (),
    "torch.export.pt2_archive.*": (),
    "torch._inductor.aoti_load_package": (),
    "torch.jit.load": ("utils/model_files/torchscript.py",),  # between its two checks
    "torch.export.load": ("utils/model_files/pt2.py",),  # between its two checks
    "safetensors.torch.load_file": ("models/weights/imagenet.py",),  # a format of numbers alone
    "pickle.load": (),
    "pickle.loads": (),
    "pickle.Unpickler": (),
    "marshal.*": (),
    "shelve.*": (),
    "dill.*": (),
    "joblib.*": (),
    "numpy.load": ("utils/datasets/label_cache.py",),  # without pickle, behind a look at the sizes
    "numpy.fromfile": (
        "utils/datasets/image_cache.py",
        "utils/datasets/images.py",
    ),  # bytes, with a checksum or for OpenCV
    "yaml.load": ("utils/files.py",),  # with a loader of few tags and bounded work
    "yaml.unsafe_load": (),
    "yaml.full_load": (),
    "yaml.safe_load": (),  # knows no bounds: use utils.files.yaml_load
    "zipfile.ZipFile": (
        "models/runtimes/mobile_files.py",  # one small entry, never extracted
        "utils/files.py",  # names and sizes are checked first
        "engine/exporters/to_litert.py",  # writes one
        "utils/datasets/label_cache.py",
        "utils/model_files/archive.py",
        "engine/validation/study.py",  # writes one
    ),
    "tarfile.open": ("utils/files.py",),
    "shutil.unpack_archive": (),
    "xml.etree.ElementTree.parse": (  # utils/datasets/voc.py builds its own parser, without entities
        "benchmarks/gpu/programs.py",  # what pytest wrote a moment ago
    ),
    "xml.etree.ElementTree.fromstring": (),
    "eval": (),
    "exec": (),
    "compile": (),
    "__import__": (),
    "importlib.import_module": (),
    "runpy.run_module": ("yolov5_swinv2/commands.py",),  # our four scripts
    "runpy.*": (),
    "os.system": (),
    "os.popen": (),
    "subprocess.run": (
        "utils/paths.py",  # git
        "engine/exporters/to_ncnn.py",  # pnnx, of which the path is ours
        "utils/labels.py",  # engine.doctor, at the earlier address of that command
        "benchmarks/against.py",  # what its command line names
        "benchmarks/gpu/programs.py",
        "benchmarks/memory.py",
        "benchmarks/train_step.py",
    ),
    "subprocess.Popen": ("benchmarks/gpu/__main__.py",),  # this program again
    "ast.literal_eval": (
        "models/convolutions.py",
        "models/weights/class_names.py",  # texts of bounded length
        "examples/onnxruntime_python/detect.py",
    ),
}
METHODS = {"extractall"}  # of archives, whoever they belong to
TYPES = {"zipfile.ZipFile"}  # that may be named in annotations everywhere
SKIPPED = {"tests", "runs", "datasets", "venv", ".venv"}


class Calls(ast.NodeVisitor):
    """Collects calls and references under their full names."""

    def __init__(self):
        self.names = {}
        self.found = []  # (line, full name, keywords)

    def visit_Import(self, node):
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            self.names[alias.asname or name] = name

    def visit_ImportFrom(self, node):
        for alias in node.names:
            self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            self.found.append((node.lineno, f"{node.module}.{alias.name}", None))

    def full(self, node):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return f"?.{parts[0]}" if parts else ""
        return ".".join([self.names.get(node.id, node.id), *reversed(parts)])

    def visit_Call(self, node):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        self.found.append((node.lineno, self.full(node.func), keywords))
        self.generic_visit(node)

    def visit_Attribute(self, node):  # also handed on without a call
        self.found.append((node.lineno, self.full(node), None))
        self.generic_visit(node)


def allowed(name):
    """The files that may use a function; None if it is no door."""
    if name in DOORS:
        return DOORS[name]
    return next((files for door, files in DOORS.items() if door.endswith(".*") and name.startswith(door[:-1])), None)


def check(path, text):
    """Every breach of the law in one file as "file:line: what"."""
    calls = Calls()
    calls.visit(ast.parse(text, path))
    errors = set()
    for line, name, keywords in calls.found:
        files = allowed(name)
        if files is not None and path not in files and (keywords is not None or name not in TYPES):
            errors.add(f"{path}:{line}: {name} is called, which only {', '.join(files) or 'nobody'} may")
        if name.rpartition(".")[2] in METHODS and keywords is not None and "." in name and path != "utils/files.py":
            errors.add(f"{path}:{line}: {name} unpacks: use utils.files.unpack")
        if keywords and keywords.get("shell") == "True":
            errors.add(f"{path}:{line}: a shell is started")
        if name == "numpy.load" and keywords is not None and keywords.get("allow_pickle") != "False":
            errors.add(f"{path}:{line}: numpy.load without allow_pickle=False")
        if name == "yaml.load" and keywords is not None and keywords.get("Loader") != "_YamlLoader":
            errors.add(f"{path}:{line}: yaml.load with another loader")
    return sorted(errors)


def sources():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if not any(part.startswith(".") for part in parts[:-1]) and parts[0] not in SKIPPED:
            yield str(Path(*parts)), path.read_text(encoding="utf-8")


def test_every_file_is_read_through_its_door():
    found = dict(sources())
    assert {"train.py", "utils/model_files/torch_file.py", "models/weights/checkpoint.py"} <= set(found), (
        "the walk lost files"
    )
    errors = [error for path, text in found.items() for error in check(path, text)]
    assert not errors, "\n" + "\n".join(errors)


def test_no_door_stands_open_without_need():
    found = dict(sources())
    for door, files in DOORS.items():
        for path in files:
            assert path in found, f"{door}: {path} is gone"
            calls = Calls()
            calls.visit(ast.parse(found[path]))
            assert door in {name for _, name, _ in calls.found}, f"{path} no longer calls {door}: close that door"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\ntorch.load(x)", "x.py:2: torch.load is called"),
        ("import torch as t\nt.load(x, weights_only=True)", "x.py:2: torch.load is called"),
        ("from torch import load\n", "x.py:1: torch.load is called"),
        ("from torch import load as read\nread(x)", "x.py:1: torch.load is called"),
        ("import torch\nread = torch.load", "x.py:2: torch.load is called"),
        ("import pickle\npickle.Unpickler(f).load()", "x.py:2: pickle.Unpickler is called"),
        ("import numpy as np\nnp.load(x, allow_pickle=True)", "x.py:2: numpy.load is called"),
        ("def f():\n    return eval(x)", "x.py:2: eval is called"),
        ("import yaml\nyaml.safe_load(x)", "x.py:2: yaml.safe_load is called"),
        ("import subprocess\nsubprocess.call(x, shell=True)", "x.py:2: a shell is started"),
        ("archive.extractall(folder)", "x.py:1: archive.extractall unpacks"),
        ("import marshal\nmarshal.loads(x)", "x.py:2: marshal.loads is called"),
    ],
)
def test_planted_call_is_caught(text, expected):
    assert check("x.py", text)[0].startswith(expected)


def test_harmless_calls_pass():
    assert check("x.py", "import json\njson.loads(x)\nmodel.eval()\nfile.load(x)\nimport torch\ntorch.loads\n") == []
