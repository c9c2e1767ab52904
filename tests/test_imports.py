"""The import law: which file may import which, read from the sources, inside functions too."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A file imports its own project's files only from lower levels; the same level is not lower. Libraries are free.
# Files that are not written yet stand here too: their place in the house is decided.
LEVELS = {
    -1: "models.windows models.attention models.layers utils.text utils.files",
    0: """
        models.runtimes utils.exporters.folder utils models utils.general utils.boxes utils.callbacks
        utils.options utils.options.check utils.options.exporter utils.formats utils.demo utils.annotate
        utils.label_reader
        utils.loggers.to_csv models.cached_inference models.lean_autograd models.convolutions
        utils.exporters.compare utils.engine_file utils.inert_pickle utils.pipeline models.open_windows
        utils.extra_augmentations utils.interrupts utils.model_archive
    """,
    1: """
        utils.options.train utils.options.val utils.options.detect utils.options.export
        models.runtimes.base utils.torch_utils utils.distributed utils.hyp utils.optim utils.nms
        utils.metrics utils.loss utils.augmentations utils.plots utils.autoanchor utils.downloads utils.result_files
        models.common models.flops models.ensemble models.tta utils.sampling utils.image_cache
        utils.exporters.onnx_nms utils.exporters.onnx_quantize utils.exporters.tensorrt_ops models.activations
        utils.report models.detections utils.label_cache utils.label_coco utils.label_voc
        utils.health utils.image_lists utils.video utils.visualize utils.loggers.services utils.archives
        utils.torch_archive utils.torchscript_file utils.label_scan
    """,
    2: """
        models.legacy models.runtimes.onnx_files models.runtimes.openvino_files utils.pt2_file
        models.runtimes.tensorrt_files models.runtimes.mobile_files utils.labels utils.autobatch utils.evaluation
        utils.loggers.to_tensorboard models.yolo models.autoshape utils.exporters.onnx_check models.pretrained
        utils.converters utils.streams utils.pictures utils.slicing utils.study models.transfer
        utils.loader_processes
    """,
    3: """
        utils.exporters.check utils.exporters.calibration utils.sources utils.dataloaders utils.exporters.to_onnx
        utils.loggers models.checkpoint models.runtimes.torch_files utils.predictor
    """,
    4: """
        utils.exporters.to_torchscript utils.exporters.to_pt2 utils.exporters.to_ncnn utils.exporters.to_openvino
        utils.exporters.to_tensorrt utils.exporters.to_coreml utils.exporters.to_litert models.backends models.training
        utils.evolve utils.outputs
    """,
    5: "utils.exporters val detect hubconf models.options models.recovery utils.tuner",
    6: "export train",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}
OWN = {name.split(".")[0] for name in LEVEL}  # first parts of our module names

# Optional or slow to load: imported inside the one function that needs them.
HEAVY = (
    "onnx onnxruntime onnxscript onnxslim openvino nncf tensorrt tensorrt_rtx coremltools litert_torch "
    "ai_edge_litert ncnn pnnx tensorboard torch.utils.tensorboard optuna wandb mlflow clearml "
    "torch.distributed.optim torchvision matplotlib thop"
).split()

SKIPPED_FOLDERS = {"tests", "benchmarks", "examples", "runs", "datasets", "venv"}


def read_sources(root):
    """Every product file below root: {module name: (path, text)}; hidden folders and SKIPPED_FOLDERS are left out."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part in SKIPPED_FOLDERS for part in parts[:-1]):
            continue
        sources[module_name(Path(*parts))] = (str(Path(*parts)), path.read_text(encoding="utf-8"))
    return sources


def module_name(path):
    """utils/loggers/__init__.py -> utils.loggers, val.py -> val."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name, package):
    return name == package or name.startswith(package + ".")


class Imports(ast.NodeVisitor):
    """Collects what a file imports, as Import records, and the lines that go around the law."""

    def __init__(self, module, is_package):
        self.package = module if is_package else module.rpartition(".")[0]
        self.depth = 0
        self.typing = False
        self.found = []
        self.tricks = []  # (line, what)

    def visit_function(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_function

    def visit_If(self, node):
        outer = self.typing
        self.typing |= ast.unparse(node.test) == "TYPE_CHECKING"
        self.generic_visit(node)
        self.typing = outer

    def add(self, node, base, names):
        self.found += [Import(node.lineno, base or name, name, self.depth > 0, self.typing) for name in names]

    def visit_Import(self, node):
        self.add(node, None, [alias.name for alias in node.names])

    def visit_ImportFrom(self, node):
        base = node.module or ""
        if node.level:  # from . import x
            parts = self.package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
        self.add(node, base, [f"{base}.{alias.name}" for alias in node.names])

    def visit_Call(self, node):
        text = ast.unparse(node.func)
        if text in {"__import__", "import_module", "importlib.import_module"} and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if name is None or str(name).split(".")[0] in OWN:
                self.tricks.append((node.lineno, f"{text} hides an import"))
        if text.startswith("sys.path."):
            self.tricks.append((node.lineno, "edits sys.path"))
        self.generic_visit(node)


class Import(NamedTuple):
    """`from base import x` gives name "base.x"; `import base` gives both the same."""

    line: int
    base: str
    name: str
    hidden: bool  # inside a function
    typing: bool  # below `if TYPE_CHECKING`, so never run


def check(sources):
    """Every violation of the law as "file:line: what". sources as read_sources gives them."""
    errors = []
    for module, (path, text) in sources.items():
        if module not in LEVEL:
            errors.append(f"{path}: not in the table of tests/test_imports.py: give {module} a level")
            continue
        visitor = Imports(module, path.endswith("__init__.py"))
        visitor.visit(ast.parse(text, path))
        found = visitor.tricks + [(i.line, what) for i in visitor.found for what in judge(module, i, sources)]
        errors += [f"{path}:{line}: {what}" for line, what in sorted(found)]
    return errors


def judge(module, found, sources):
    """What is wrong with one import of the file `module`."""
    if found.base.split(".")[0] not in OWN:
        if not (found.hidden or found.typing) and any(within(found.name, heavy) for heavy in HEAVY):
            yield f"{found.name} is optional or slow to load: import it inside the function that needs it"
        return
    if found.hidden:
        yield f"own module {found.base} imported inside a function"
    target = next((name for name in (found.name, found.base) if name in sources), None)
    if target is None:
        yield f"{found.name} is no file of ours"
        return
    parts = target.split(".")
    packages = [".".join(parts[:n]) for n in range(1, len(parts))]  # their __init__ runs before the target
    packages = [name for name in packages if name in sources and not within(module, name)]
    for name in [*packages, target]:
        if name in LEVEL:  # otherwise reported as a file already
            yield from judge_arrow(module, name)


def judge_arrow(module, target):
    """What is wrong with the arrow from one of our modules to another."""
    part, other = module.split(".")[0], target.split(".")[0]
    if part == "utils" and other == "models":
        yield f"utils imports {target}: what needs a model takes it as an argument"
    elif part == "models" and other not in {"models", "utils"}:
        yield f"models imports the script {target}"
    elif LEVEL[target] == LEVEL[module]:
        yield f"sideways: {target} stands on the same level {LEVEL[module]}"
    elif LEVEL[target] > LEVEL[module]:
        yield f"up: {target} stands on level {LEVEL[target]}, {module} on {LEVEL[module]}"


def test_every_import_points_down():
    sources = read_sources(ROOT)
    assert {"utils.general", "models.common", "models.yolo", "val", "train"} <= set(sources), "the walk lost files"
    errors = check(sources)
    assert not errors, "\n" + "\n".join(errors)


CLEAN = {
    "utils/general.py": "import torch\n",
    "utils/boxes.py": "",
    "utils/torch_utils.py": "from utils.general import LOGGER\n",
    "models/windows.py": "",
    "models/common.py": "from models.windows import window_partition\nimport torch.nn as nn\n",
    "models/yolo.py": "from models.common import Conv\nfrom utils import general\n",
    "utils/loggers/to_csv.py": "from pathlib import Path\n",
    "utils/loggers/__init__.py": "from utils.general import LOGGER\nfrom utils.loggers.to_csv import CsvLogger\n",
    "val.py": "from models import yolo\nimport utils.boxes\n",
    "train.py": "import val\nfrom utils.loggers import Loggers\n",
}


def planted(file, text):
    """The violations of the clean little tree after one of its files got the text."""
    return check({module_name(Path(path)): (path, text) for path, text in (CLEAN | {file: text}).items()})


def test_clean_tree_has_no_violation():
    assert planted("utils/boxes.py", "") == []


def test_libraries_are_free_everywhere():
    inside = "def f():\n    import onnx\n    from torch.utils.tensorboard import SummaryWriter\n"
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from matplotlib.axes import Axes\n"
    assert planted("utils/boxes.py", "import numpy as np\nfrom torch import nn\n" + inside + typing) == []


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("utils/general.py", "from utils.torch_utils import x", "1: up: utils.torch_utils"),
        ("utils/general.py", "\nimport utils.boxes as b", "2: sideways: utils.boxes"),
        ("utils/general.py", "from utils import boxes", "1: sideways: utils.boxes"),
        ("utils/general.py", "from . import boxes", "1: sideways: utils.boxes"),
        ("utils/general.py", "from .boxes import box_iou", "1: sideways: utils.boxes"),
        ("utils/general.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import val", "3: up: val"),
        ("utils/torch_utils.py", "from models.windows import x", "1: utils imports models.windows"),
        ("models/yolo.py", "import train", "1: models imports the script train"),
        ("models/yolo.py", "def f():\n    from utils.boxes import x", "2: own module utils.boxes imported inside"),
        ("val.py", "from train import run", "1: up: train"),
        ("utils/loggers/to_csv.py", "from ..torch_utils import x", "1: up: utils.torch_utils"),
        ("utils/loggers/to_csv.py", "from . import Loggers", "1: up: utils.loggers stands on level 3"),
        # importing utils.loggers.to_csv, of level 0, runs the __init__ of its package first, of level 3
        ("utils/torch_utils.py", "from utils.loggers.to_csv import x", "1: up: utils.loggers stands on level 3"),
        ("utils/boxes.py", "class A:\n    f = lambda: __import__('val')", "2: __import__ hides an import"),
        ("utils/boxes.py", "import importlib\nimportlib.import_module(name)", "2: importlib.import_module hides"),
        ("utils/boxes.py", "import sys\nsys.path.insert(0, '.')", "2: edits sys.path"),
        ("utils/boxes.py", "import onnx", "1: onnx is optional or slow"),
        ("val.py", "from openvino.runtime import Core", "1: openvino.runtime.Core is optional or slow"),
        ("val.py", "from torch.utils import tensorboard", "1: torch.utils.tensorboard is optional or slow"),
        ("val.py", "if True:\n    import tensorrt as trt", "2: tensorrt is optional or slow"),
        ("val.py", "from utils.boxs import clip", "1: utils.boxs.clip is no file of ours"),
        ("utils/helpers.py", "", " not in the table"),
        ("utils/loggers/misc.py", "", " not in the table"),
    ],
)
def test_planted_violation_is_caught(file, text, expected):
    (error,) = planted(file, text)
    assert error.startswith(f"{file}:{expected}")


def test_walk_reads_product_files_only(tmp_path):
    for name in ("val.py", "utils/a.py", "tests/b.py", "benchmarks/c.py", ".venv/lib/d.py", "runs/train/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    assert read_sources(tmp_path) == {"utils.a": ("utils/a.py", "x = 1\n"), "val": ("val.py", "x = 1\n")}
