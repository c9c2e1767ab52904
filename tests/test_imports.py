"""The import law, read from the sources, inside functions too: parts in order, no circle, private names stay."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The law. A room is a package of a part (utils.datasets, models.swin, engine.results) or a file that lies open in it.
PARTS = ("utils", "models", "engine", "script")  # a part imports itself and the parts before it
PACKAGES = (  # import no other of them, only the ground: files of utils that import no package
    "utils.datasets", "utils.downloads", "utils.model_files", "utils.options", "utils.loggers",
)  # fmt: skip
SCRIPT_OF_SCRIPT = {"train": {"val"}}  # the only script that imports another one
LAZY = (  # files whose __getattr__ may import upwards: YOLOv5's addresses
    "utils/general.py",  # check_img_size, strip_optimizer, save_one_txt: they stand on models and engine.results
    "utils/plots.py",  # feature_visualization, plot_evolve: they stand on engine.results and engine.training
    "utils/dataloaders.py",  # LoadImages, LoadStreams, LoadScreenshots: they stand on engine.inference
    "utils/datasets/__init__.py",  # the same in YOLOv5 up to 6.1; this package stands below utils/dataloaders.py
    "yolov5_swinv2/__init__.py",  # load and __version__: --help of an installed command does not wait for torch
    "models/common.py",  # DetectMultiBackend, AutoShape and Detections are imported from here; they stand on its blocks
)
RUN_AS_FILE = ("models/yolo.py",)  # `python models/yolo.py`: the path starts with models/ and must start with the root

# Optional or slow to load: imported inside the one function that needs them.
HEAVY = (
    "onnx onnxruntime onnxscript onnxslim openvino nncf tensorrt tensorrt_rtx coremltools litert_torch "
    "ai_edge_litert ncnn pnnx tensorboard torch.utils.tensorboard optuna wandb mlflow clearml "
    "torch._dynamo torch.distributed.optim torchvision matplotlib thop trackers supervision"
).split()

SKIPPED_FOLDERS = {"tests", "benchmarks", "examples", "runs", "datasets", "venv", "build"}


class Import(NamedTuple):
    """`from base import x` gives name "base.x"; `import base` gives both the same."""

    line: int
    base: str
    name: str
    function: str  # the innermost function around it, "" at the top of the file
    typing: bool  # below `if TYPE_CHECKING`, so never run


def read_sources(root):
    """Every product file below root: {module name: (path, text)}; hidden folders and SKIPPED_FOLDERS are left out."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts[:-1]) or parts[0] in SKIPPED_FOLDERS:
            continue
        sources[module_name(Path(*parts))] = (str(Path(*parts)), path.read_text(encoding="utf-8"))
    return sources


def module_name(path):
    """utils/loggers/__init__.py -> utils.loggers, val.py -> val."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    first = module.split(".")[0]
    return first if first in PARTS else "script"


def room_of(module):
    return ".".join(module.split(".")[:2])


class Imports(ast.NodeVisitor):
    """Collects what a file imports, as Import records, and the lines that go around the law."""

    def __init__(self, module, is_package, own):
        self.package = module if is_package else module.rpartition(".")[0]
        self.own = own
        self.functions = []
        self.typing = False
        self.found = []
        self.tricks = []  # (line, what)

    def visit_function(self, node):
        self.functions.append(getattr(node, "name", "lambda"))
        self.generic_visit(node)
        self.functions.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_function

    def visit_If(self, node):
        outer = self.typing
        self.typing |= ast.unparse(node.test) == "TYPE_CHECKING"
        self.generic_visit(node)
        self.typing = outer

    def add(self, node, base, names):
        function = self.functions[-1] if self.functions else ""
        self.found += [Import(node.lineno, base or name, name, function, self.typing) for name in names]

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
            if name is None or str(name).split(".")[0] in self.own:
                self.tricks.append((node.lineno, f"{text} hides an import"))
        if text.startswith("sys.path."):
            self.tricks.append((node.lineno, "edits sys.path"))
        self.generic_visit(node)

    def visit_Assign(self, node):
        if any(ast.unparse(target).startswith("sys.path") for target in node.targets):
            self.tricks.append((node.lineno, "edits sys.path"))
        self.generic_visit(node)


def read_arrows(sources):
    """Violations in single files as "file:line: what", and {module: modules of ours that it imports, not lazily}."""
    errors, arrows = [], {module: set() for module in sources}
    own = {module.split(".")[0] for module in sources}
    for module, (path, text) in sources.items():
        visitor = Imports(module, path.endswith("__init__.py"), own)
        visitor.visit(ast.parse(text, path))
        found = [trick for trick in visitor.tricks if not (trick[1] == "edits sys.path" and path in RUN_AS_FILE)]
        for item in visitor.found:
            if item.base.split(".")[0] not in own:
                if not (item.function or item.typing) and any(within(item.name, heavy) for heavy in HEAVY):
                    found.append((item.line, f"{item.name} is optional or slow to load: import it inside a function"))
                continue
            target = next((name for name in (item.name, item.base) if name in sources), None)
            if target is None:
                found.append((item.line, f"{item.name} is no file of ours"))
            elif not (item.function == "__getattr__" and path in LAZY):
                found += [(item.line, what) for what in judge(module, target, item)]
                arrows[module].add(target)
        errors += [f"{path}:{line}: {what}" for line, what in sorted(found)]
    return errors, arrows


def check(sources):
    """Every violation of the law as "file:line: what". sources as read_sources gives them."""
    errors, arrows = read_arrows(sources)
    return errors + check_rooms(arrows, {module: path for module, (path, _) in sources.items()})


def draw(arrows, opened):
    """{room: rooms that it imports}; of the opened parts each package and open file is a room, other parts are one."""
    rooms = {}
    for module, targets in arrows.items():
        names = [room_of(name) if part_of(name) in opened else name.split(".")[0] for name in (module, *targets)]
        rooms.setdefault(names[0], set()).update(name for name in names[1:] if name != names[0])
    return rooms


def floors(rooms):
    """Rooms of the longest chain of imports."""
    height = {}

    def floor(room):
        if room not in height:
            height[room] = 1 + max((floor(below) for below in rooms.get(room, ())), default=0)
        return height[room]

    return max(map(floor, rooms))


def check_rooms(arrows, paths):
    """Packages of utils that stand on more than the ground, and circles of files and of rooms."""
    errors = []
    for module, target in ((m, t) for m, targets in arrows.items() for t in sorted(targets)):
        if room_of(module) in PACKAGES and room_of(target) != room_of(module):
            if any(room_of(name) in PACKAGES for name in (target, *arrows[target])):
                errors.append(f"{paths[module]}: {room_of(module)} imports {target}, which is no ground file")
    rooms = {}
    for module, targets in arrows.items():
        rooms.setdefault(room_of(module), set()).update(map(room_of, targets))
    return errors + [f"circle: {' -> '.join(circle)}" for graph in (arrows, rooms) for circle in circles(graph)]


def within(name, package):
    return name == package or name.startswith(package + ".")


def judge(module, target, item):
    """What is wrong with one import of our own file `target` by the file `module`."""
    part, other = part_of(module), part_of(target)
    if item.function:
        yield f"own module {item.base} imported inside a function"
    if PARTS.index(other) > PARTS.index(part):
        yield f"{part} imports {target}, which stands above it"
    if part == other == "script" and target not in SCRIPT_OF_SCRIPT.get(module, ()):
        yield f"a script imports the script {target}"
    name = item.name.rpartition(".")[2]
    if name.startswith("_") and not name.startswith("__"):
        yield f"{name} is private to {target}"


def circles(graph):
    """One circle for each tangle of names that lead back to themselves, as a path that ends where it began."""
    found, done = [], set()

    def walk(node, trail):
        if node in trail:
            found.append([*trail[trail.index(node) :], node])
        elif node not in done:
            for following in sorted(graph.get(node, ())):
                if following != node:
                    walk(following, [*trail, node])
            done.add(node)

    for node in sorted(graph):
        walk(node, [])
    return found


def test_the_house_keeps_the_law():
    sources = read_sources(ROOT)
    assert {"utils.general", "models.common", "engine.training.state", "val", "train"} <= set(sources), "files are lost"
    errors = check(sources)
    assert not errors, "\n" + "\n".join(errors)


def test_the_house_stays_small():
    """Who needs one room or arrow more looks for one that can go: a file that belongs into a package, or an import."""
    arrows = read_arrows(read_sources(ROOT))[1]
    for part, most_rooms, most_arrows in (("utils", 30, 66), ("models", 14, 30)):
        inside = {name: to for name, to in draw(arrows, {part}).items() if name.startswith(f"{part}.")}
        drawn = sorted(f"{name} -> {other}" for name, to in inside.items() for other in to if other in inside)
        assert len(inside) <= most_rooms, sorted(inside)
        assert len(drawn) <= most_arrows, "\n".join(drawn)
    house = draw(arrows, {"utils"})
    assert len(house) <= 40
    assert sum(map(len, house.values())) <= 160
    assert floors(house) <= 7


CLEAN = {
    "utils/console.py": "import logging\n",
    "utils/files.py": "from utils.console import LOGGER\n",
    "utils/boxes.py": "import torch\n",
    "utils/datasets/__init__.py": "",
    "utils/datasets/dataset.py": "from utils.files import yaml_load\n",
    "utils/dataloaders.py": "from utils.boxes import xywh2xyxy\nfrom utils.datasets.dataset import load\n",
    "models/swin/windows.py": "",
    "models/common.py": "from models.swin.windows import window_partition\nimport torch.nn as nn\n",
    "models/yolo.py": "from models.common import Conv\nfrom utils import boxes\n",
    "engine/training/state.py": "from models.yolo import Model\n",
    "val.py": "from models import yolo\nimport utils.boxes\n",
    "train.py": "import val\nfrom engine.training.state import State\n",
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
        ("utils/boxes.py", "from models.common import x", "1: utils imports models.common, which stands above"),
        ("utils/boxes.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import val", "3: utils imports"),
        ("models/yolo.py", "from engine.training.state import x", "1: models imports engine.training.state"),
        ("models/yolo.py", "import train", "1: models imports train"),
        ("engine/training/state.py", "import train", "1: engine imports train"),
        ("val.py", "from train import run", "1: a script imports the script train"),
        (
            "utils/options/train.py",
            "from utils.datasets.dataset import x",
            " utils.options imports utils.datasets.dataset",
        ),
        ("utils/options/train.py", "from ..datasets.dataset import x", " utils.options imports utils.datasets.dataset"),
        ("utils/options/train.py", "import utils.dataloaders", " utils.options imports utils.dataloaders, which is no"),
        ("models/yolo.py", "def f():\n    from utils.boxes import x", "2: own module utils.boxes imported inside"),
        ("models/yolo.py", "from utils.boxes import _area", "1: _area is private to utils.boxes"),
        ("utils/boxes.py", "class A:\n    f = lambda: __import__('val')", "2: __import__ hides an import"),
        ("utils/boxes.py", "import importlib\nimportlib.import_module(name)", "2: importlib.import_module hides"),
        ("utils/boxes.py", "import sys\nsys.path.insert(0, '.')", "2: edits sys.path"),
        ("utils/boxes.py", "import sys\nsys.path[0] = '.'", "2: edits sys.path"),
        ("utils/boxes.py", "import onnx", "1: onnx is optional or slow"),
        ("val.py", "from openvino.runtime import Core", "1: openvino.runtime.Core is optional or slow"),
        ("val.py", "if True:\n    import tensorrt as trt", "2: tensorrt is optional or slow"),
        ("val.py", "from utils.boxs import clip", "1: utils.boxs.clip is no file of ours"),
    ],
)
def test_planted_violation_is_caught(file, text, expected):
    assert any(error.startswith(f"{file}:{expected}") for error in planted(file, text))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("models/common.py", "from models.yolo import x", "models.yolo -> models.common -> models.yolo"),
        ("utils/boxes.py", "from utils.dataloaders import x", "utils.boxes -> utils.dataloaders -> utils.boxes"),
        ("utils/files.py", "import utils.datasets", "utils.datasets -> utils.files -> utils.datasets"),  # of rooms
    ],
)
def test_planted_circle_is_caught(file, text, expected):
    assert f"circle: {expected}" in planted(file, text)


def test_rooms_arrows_and_floors_are_counted():
    arrows = read_arrows({module_name(Path(path)): (path, text) for path, text in CLEAN.items()})[1]
    house = draw(arrows, {"utils"})
    assert set(house) == {"models", "engine", "train", "val"} | {
        f"utils.{name}" for name in ("console", "files", "boxes", "datasets", "dataloaders")
    }
    assert house["utils.dataloaders"] == {"utils.boxes", "utils.datasets"}
    assert house["train"] == {"val", "engine"}
    assert sum(map(len, house.values())) == 10
    assert floors(house) == 4  # train, engine or val, models, boxes
    assert floors(draw(arrows, {"utils", "models"})) == 5  # train, engine, models.yolo, models.common, models.swin


def test_walk_reads_product_files_only(tmp_path):
    for name in ("val.py", "utils/a.py", "tests/b.py", "benchmarks/c.py", ".venv/lib/d.py", "runs/train/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    assert read_sources(tmp_path) == {"utils.a": ("utils/a.py", "x = 1\n"), "val": ("val.py", "x = 1\n")}
