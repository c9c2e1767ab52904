"""Look into a .pt2 archive before PyTorch opens it: torch.export.load unpickles, and evaluates expressions.

What can run code there (torch 2.14, torch/export/pt2_archive/_package.py and torch/_export/serde/serialize.py): weights
and constants with `use_pickle`, custom and opaque objects, the sample inputs, the formats before 2.8, compiled
AOTInductor libraries; texts of size expressions (sympy evaluates them); names of functions in the graph; classes in
the structure of input and output, whose modules are imported. A file of `torch.export.save` for a detector needs none
of the first group and only a few forms of the others. The guards of a file are Python too: whoever loads one takes
`program.module(check_guards=False)`, which does not run them.
"""

import ast
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.inert_pickle import DamagedError, RefusedError
from utils.model_archive import BROKEN, MAX_INFLATED, open_model_archive
from utils.torch_archive import InertFile

MAX_METADATA = 4 << 20  # bytes
FOLDERS = ("data/weights/", "data/constants/", "data/sample_inputs/", "models/", "extra/", ".data/")
FILES = ("archive_format", "archive_version", "byteorder", "version")
TARGETS = ("torch.ops.aten.", "torch.ops.higher_order.wrap_with_autocast")
ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")
FUNCTIONS = (
    "Add Mul Pow Integer Symbol Mod PythonMod FloorDiv CleanDiv Min Max Eq Ne Lt Le Gt Ge Equality Unequality "
    "StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not Where Piecewise IsNonOverlappingAndDenseIndicator"
).split()
NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


def check_pt2(file: str | Path) -> dict[str, Any]:
    """Raise unless a .pt2 file holds tensors and a plain graph only.

    Returns:
        What its `metadata.json` says about it, {} without one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such archive, or holds what could run code when it is loaded.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        with open_model_archive(file, MAX_INFLATED) as archive:
            reason, metadata = _find_danger(archive), _read_metadata(archive)
    except (*BROKEN, KeyError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"{file}: not an archive of torch.export.save, or a damaged one ({str(e)[:200]})") from None
    if reason:
        raise ValueError(f"{file}: refused, {reason}")
    return metadata


def _read_metadata(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the JSON object in `extra/metadata.json`, {} without such a file; ValueError for another value."""
    name = next((name for name in archive.namelist() if name.endswith("/extra/metadata.json")), None)
    if name is None or not archive.getinfo(name).file_size:
        return {}
    if archive.getinfo(name).file_size > MAX_METADATA:
        raise ValueError(f"metadata.json of more than {MAX_METADATA >> 20} MB")
    metadata = json.loads(archive.read(name))
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata.json holds a {type(metadata).__name__}, expected an object")
    return metadata


def _find_danger(archive: zipfile.ZipFile) -> str | None:
    """Return what speaks against loading, None where nothing does."""
    members = archive.namelist()
    root = members[0].partition("/")[0] + "/" if members else ""
    names = [name.removeprefix(root) for name in members]
    if any(not member.startswith(root) for member in members) or "archive_format" not in names:
        return "it is not in the archive format of PyTorch 2.8 and later: export it again"
    for name in names:
        if not name.startswith(FOLDERS) and name not in FILES:
            return f"it holds {name}, which is neither weights nor graph"
        if name.startswith(("data/weights/", "data/constants/")):
            if name.endswith("_config.json"):
                payloads = json.loads(archive.read(root + name))["config"].values()
                if any(p.get("use_pickle") or not p["path_name"].startswith(("weight_", "tensor_")) for p in payloads):
                    return f"{name} names pickled Python objects, which could run code"
            elif not name.rpartition("/")[2].startswith(("weight_", "tensor_")):
                return f"it holds {name}, pickled in an older format: export it again"
        elif name.startswith("models/"):
            reason = _find_danger_in_graph(json.loads(archive.read(root + name)))
            if reason:
                return reason
        elif name.startswith("data/sample_inputs/"):
            with archive.open(root + name) as data:
                content = data.read()
                if content and not _is_plain(content):
                    return f"{name} holds pickled Python objects, which could run code"
    return None


def _is_plain(data: bytes) -> bool:
    """Whether a pickle names nothing but tensors and containers; torch.export.load falls back to an unsafe reader."""
    try:
        InertFile(data, data_only=True).close()
    except (DamagedError, RefusedError):
        return False
    return True


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of nested mappings, those inside lists too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _find_danger_in_graph(graph: Any) -> str | None:
    """Return the first function name or expression that a detector has no need of."""
    for key, value in _walk(graph):
        if key == "target" and isinstance(value, str) and not _is_operator(value):
            return f"its graph calls {value[:80]!r}"
        if key == "expr_str" and not is_arithmetic(value):
            return f"its graph has the size {str(value)[:80]!r}, which is not arithmetic"
        if key in ("in_spec", "out_spec") and value and not _is_plain_structure(json.loads(value)):
            return f"its input or output is no plain tuple of tensors: {str(value)[:80]!r}"
        if key == "range_constraints":
            for text in value:
                if not is_arithmetic(text):
                    return f"its graph has the size {str(text)[:80]!r}, which is not arithmetic"
    return None


def _is_plain_structure(spec: Any) -> bool:
    """Whether the structure of input or output consists of tuples, lists and mappings with text keys only."""
    return all(
        (key != "type" or value in (None, "builtins.tuple", "builtins.list", "builtins.dict"))
        and (key != "context" or value in (None, "null") or isinstance(parse_texts(value), list))
        and key not in ("__enum__", "fqn")
        for key, value in _walk(spec)
    )


def parse_texts(value: Any) -> list[str] | None:
    """Return a JSON list of texts, None for anything else."""
    found = json.loads(value) if isinstance(value, str) else None
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else None


def _is_operator(target: str) -> bool:
    """Whether a function name of the graph is an ATen operator or arithmetic."""
    module, _, name = target.rpartition(".")
    return (target.startswith(TARGETS) and "__" not in target.replace("__and__", "").replace("__or__", "")) or (
        module == "_operator" and name in ARITHMETIC
    )


def is_arithmetic(text: Any) -> bool:
    """Whether a text is an expression of numbers, names and the functions that torch.export writes."""
    try:
        tree = ast.parse(str(text), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, NODES):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS):
            return False
        if isinstance(node, ast.Name) and "__" in node.id:
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isidentifier():
            return False
    return True
