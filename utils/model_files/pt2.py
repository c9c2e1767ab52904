"""The only loader of .pt2 archives: torch.export.load unpickles, and evaluates expressions.

What can run code there (torch 2.14, torch/export/pt2_archive/_package.py and torch/_export/serde/serialize.py): weights
and constants with `use_pickle`, custom and opaque objects, the sample inputs, the formats before 2.8, compiled
AOTInductor libraries; texts of size expressions (sympy evaluates them); names of functions in the graph and among the
arguments of its nodes; names of inputs, arguments and submodules, which PyTorch writes into Python code; classes in
the structure of input and output, whose modules are imported. A file of `torch.export.save` for a detector needs none
of the first group and only a few forms of the others. The guards of a file are Python too: whoever loads one takes
`program.module(check_guards=False)`, which does not run them.

The archive, and the one of its sample inputs, are listed and read by PyTorch's own reader, in known records only
(`utils.model_files.archive.Records`), and PyTorch gets the bytes that were looked at. Afterwards the graph that was
made of them, which is what runs, is looked at once more. So such files are loaded by default, without an option to
trust them.
"""

import ast
import json
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from utils.model_files.archive import Records
from utils.model_files.inert_pickle import DamagedError, RefusedError
from utils.model_files.torch_file import InertFile
from utils.model_files.torchscript import is_computation

MAX_JSON = 64 << 20  # bytes of a record with the graph or a table; the graph of YOLOv5x-SwinV2 has about 5 MB
MAX_METADATA = 4 << 20  # bytes
RECORDS = re.compile(
    r"data/(weights/weight_\d+|constants/tensor_\d+|sample_inputs/model\.pt)|models/model\.json|extra/[\w.-]+|"
    r"data/(weights/model_weights|constants/model_constants)_config\.json|archive_(format|version)|byteorder|version|"
    r"\.data/(version|serialization_id)",
    re.ASCII,
)
SAMPLE_RECORDS = re.compile(
    r"data\.pkl|byteorder|version|data/\d+|\.data/(version|serialization_id)|\.format_version|\.storage_alignment",
    re.ASCII,
)
OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(?!_)\w+", re.ASCII)
NAME = re.compile(r"[\w.]*", re.ASCII)
FREE_TEXTS = ("metadata", "as_string", "as_strings", "torch_version", "guards_code")  # shown, quoted, or not used
HIGHER = "torch.ops.higher_order.wrap_with_autocast"
ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")
GRAPH_FUNCTIONS = {
    torch.ops.higher_order.wrap_with_autocast, operator.getitem, *(getattr(operator, name) for name in ARITHMETIC)
}  # fmt: skip
FUNCTIONS = (
    "Add Mul Pow Integer Symbol Mod PythonMod FloorDiv CleanDiv Min Max Eq Ne Lt Le Gt Ge Equality Unequality "
    "StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not Where Piecewise IsNonOverlappingAndDenseIndicator"
).split()
NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
UNREADABLE = (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)  # for PyTorch


def load_pt2(file: str | Path) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """Load a .pt2 file that holds tensors and a plain graph only.

    Returns:
        The program, and what the file's `metadata.json` says about it, {} without one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such archive, holds what could run code, or PyTorch cannot read it.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        records = Records(file, RECORDS)
    except ValueError as e:
        raise ValueError(f"{file}: not an archive of torch.export.save, or a damaged one ({e})") from None
    try:
        reason, metadata = _find_danger(records), _read_metadata(records)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"{file}: not an archive of torch.export.save, or a damaged one ({str(e)[:200]})") from None
    if reason:
        raise ValueError(f"{file}: refused, {reason}")
    from torch._export.verifier import SpecViolationError  # noqa: PLC0415, takes seconds, as torch.export.load does

    try:
        program = torch.export.load(records.buffer())
    except (*UNREADABLE, SpecViolationError) as e:
        line = next(iter(str(e).strip().splitlines()), type(e).__name__)[:200]
        raise ValueError(f"{file}: PyTorch {torch.__version__} cannot read it: {line}") from None
    reason = _find_danger_in_program(program)
    if reason:
        raise ValueError(f"{file}: refused, {reason}")
    return program, metadata


def _read_metadata(records: Records) -> dict[str, Any]:
    """Return the JSON object in `extra/metadata.json`, {} without such a file; ValueError for another value."""
    text = records.read("extra/metadata.json", MAX_METADATA) if "extra/metadata.json" in records.names else b""
    metadata = json.loads(text) if text else {}
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata.json holds a {type(metadata).__name__}, expected an object")
    return metadata


def _find_danger(records: Records) -> str | None:
    """Return what speaks against loading, None where nothing does."""
    if not {"archive_format", "archive_version", "models/model.json"} <= set(records.names):
        return "it is not in the archive format of PyTorch 2.8 and later: export it again"
    for name in records.names:
        if name.endswith("_config.json"):
            payloads = json.loads(records.read(name, MAX_JSON))["config"].values()
            if any(p.get("use_pickle") or not p["path_name"].startswith(("weight_", "tensor_")) for p in payloads):
                return f"{name} names pickled Python objects, which could run code"
        elif name == "models/model.json":
            reason = _find_danger_in_graph(json.loads(records.read(name, MAX_JSON)))
            if reason:
                return reason
        elif name.startswith("data/sample_inputs/"):
            content = records.read(name)
            if content and not _is_plain(content):
                return f"{name} holds pickled Python objects, which could run code"
    return None


def _is_plain(data: bytes) -> bool:
    """Whether an archive of torch.save holds nothing but tensors and containers.

    torch.export.load reads it by `torch.load`, and falls back to an unsafe reader.
    """
    try:
        Records(data, SAMPLE_RECORDS)
        InertFile(data, data_only=True).close()
    except (DamagedError, RefusedError, ValueError):
        return False
    return True


def _find_danger_in_program(program: torch.export.ExportedProgram) -> str | None:
    """Return the first thing that the graph of a loaded program calls beside operators on tensors and arithmetic."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            target = node.target
            if isinstance(target, torch._ops.OpOverload):
                allowed = target.namespace == "aten" and is_computation(target._schema.name.partition("::")[2])
            else:
                allowed = target in GRAPH_FUNCTIONS
            if node.op not in ("placeholder", "output", "get_attr") and not (node.op == "call_function" and allowed):
                return f"its graph calls {str(target)[:80]!r}"
    return None


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings and lists with the key above it; below `FREE_TEXTS` nothing."""
    yield key, value
    if isinstance(value, dict) and key not in FREE_TEXTS:
        for inner, item in value.items():
            yield from _walk(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, key)


def _find_danger_in_graph(graph: Any) -> str | None:
    """Return the first name or expression that a detector has no need of.

    Every name becomes part of Python code that PyTorch writes and runs, so all are plain.
    """
    for key, value in _walk(graph):
        texts = list(value) if isinstance(value, dict) else [value] if isinstance(value, str) else []
        if key == "target" and texts and not _is_operator(str(value)):
            return f"its graph calls {str(value)[:80]!r}"
        if key == "as_operator":
            return f"its graph hands on the function {str(value)[:80]!r}"
        if key in ("expr_str", "range_constraints"):
            wrong = next((text for text in texts if not is_arithmetic(text)), None)
            if wrong is not None:
                return f"its graph has the size {wrong[:80]!r}, which is not arithmetic"
        elif key in ("in_spec", "out_spec"):
            if value and not _is_plain_structure(json.loads(value)):
                return f"its input or output is not a plain tuple of tensors: {str(value)[:80]!r}"
        elif key not in FREE_TEXTS:
            wrong = next((text for text in texts if not NAME.fullmatch(text)), None)
            if wrong is not None:
                return f"its graph has the name {wrong[:80]!r}, which could be code"
    return None


def _is_plain_structure(spec: Any) -> bool:
    """Whether the structure of input or output consists of tuples, lists and mappings with text keys only."""
    return all(
        (key != "type" or value in (None, "builtins.tuple", "builtins.list", "builtins.dict"))
        and (key != "context" or value in (None, "null") or _is_list_of_names(value))
        and key not in ("__enum__", "fqn")
        for key, value in _walk(spec)
    )


def _is_list_of_names(value: Any) -> bool:
    """Whether a value is the JSON of a list of identifiers."""
    found = json.loads(value) if isinstance(value, str) else None
    return isinstance(found, list) and all(isinstance(text, str) and text.isidentifier() for text in found)


def _is_operator(target: str) -> bool:
    """Whether a function name of the graph is an ATen operator that only computes, or arithmetic."""
    found = OPERATOR.fullmatch(target)
    if found:
        return is_computation(found[1])
    module, _, name = target.rpartition(".")
    return target == HIGHER or (module == "_operator" and name in ARITHMETIC)


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
