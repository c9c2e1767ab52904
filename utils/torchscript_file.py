"""Look into a TorchScript archive before PyTorch opens it: such a file is a program, and part of it runs when loaded.

Its language cannot call Python, but its operators can write files (`torch.save`, `torch.ops.image.write_file`), read
them, start remote calls or end the process, and methods `__setstate__` run during `torch.jit.load`. A traced detector
needs none of that: only tensor operators of `aten`, `prim` and torchvision's boxes.
"""

import ast
import json
from pathlib import Path
from typing import Any

import torch

from utils.model_archive import BROKEN, MAX_INFLATED, open_model_archive

MAX_CONFIG = 4 << 20  # bytes of config.txt
REFUSED = ("save", "from_file")  # of aten
OPERATORS = {  # namespace -> allowed names; of aten all that PyTorch knows but `REFUSED`
    "prim": (
        "ConstantChunk ListConstruct ListUnpack NumToTensor RaiseException TupleConstruct TupleIndex TupleUnpack abs "
        "data device dtype index is_cpu is_cuda is_mkldnn is_mps layout max min rangelist requires_grad shape tolist "
        "type unchecked_cast unchecked_unwrap_optional"
    ).split(),
    "torchvision": ["nms"],
}
FUNCTIONS = (
    "abs all annotate any bool complex divmod enumerate float getattr hasattr int isinstance len list max min ord pow "
    "range reversed round sorted str sum tuple unchecked_cast uninitialized zip"
).split()
HOOKS = ("__setstate__", "__getstate__", "__enter__", "__exit__")


def check_torchscript(file: str | Path) -> dict[str, Any]:
    """Raise unless a TorchScript file is a plain computation on tensors.

    Returns:
        What its `config.txt` says about it, {} without one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such archive, holds what could do more than compute, or its config.txt is no JSON.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        with open_model_archive(file, MAX_INFLATED) as archive:
            names = archive.namelist()
            root = names[0].partition("/")[0] + "/" if names else ""
            if f"{root}constants.pkl" not in names or any(not name.startswith(root) for name in names):
                raise ValueError("not a TorchScript file, or a damaged one: no constants.pkl")
            for name in names:
                if name.startswith(f"{root}code/") and name.endswith(".py"):
                    check_code(archive.read(name).decode(), name.removeprefix(root))
            config = f"{root}extra/config.txt"
            if config not in names:
                return {}
            if archive.getinfo(config).file_size > MAX_CONFIG:
                raise ValueError(f"its config.txt has more than {MAX_CONFIG >> 20} MB")
            return _parse_config(archive.read(config))
    except BROKEN as e:
        raise ValueError(f"{file}: not a TorchScript file, or a damaged one: {e}") from None
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from None


def _parse_config(text: bytes) -> dict[str, Any]:
    """Return a JSON object; ValueError for anything else."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"its config.txt is no JSON: {str(e)[:200]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"its config.txt is no JSON: a {type(config).__name__}, expected an object")
    return config


def check_code(code: str, name: str) -> None:
    """Raise ValueError if a source file of an archive could do more than compute with tensors.

    Args:
        code: its text; the syntax is that of Python.
        name: for the message.
    """
    try:
        tree = ast.parse(code)
        _CodeCheck(name).visit(tree)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"refused, {name} is not written as torch.jit.save writes it") from None


class _CodeCheck(ast.NodeVisitor):
    """Goes through a source file; ValueError at the first thing that a traced detector does not do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def refuse(self, what: str) -> None:
        raise ValueError(f"refused, {self.name} {what}")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # noqa: N802, the name that ast asks for
        if node.name in HOOKS:
            self.refuse(f"defines {node.name}, which could run when the file is loaded")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:  # noqa: N802
        if isinstance(node.op, ast.BitXor):  # ^name(...) calls Python
            self.refuse("calls Python")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:  # noqa: N802
        if isinstance(node.func, ast.Name) and node.func.id not in FUNCTIONS:
            self.refuse(f"calls {node.func.id[:80]}, which is no computation on tensors")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: N802
        parts = _dotted(node)
        if parts[0] not in ("ops", "torch"):
            self.generic_visit(node)
        elif not _is_computation(parts):
            self.refuse(f"calls {'.'.join(parts)[:80]}, which is no computation on tensors")


def _dotted(node: ast.AST) -> list[str]:
    """Return the parts of names joined by dots; [""] first for any other expression before the dots."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "", *reversed(parts)]


def _is_computation(parts: list[str]) -> bool:
    """Whether `torch.name` or `ops.namespace.name` is an operator that only computes."""
    if parts[0] == "ops" and len(parts) == 3 and parts[1] != "aten":
        return parts[2] in OPERATORS.get(parts[1], ())
    name = parts[-1]
    if len(parts) != (3 if parts[0] == "ops" else 2) or name in REFUSED:
        return False
    return bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))
