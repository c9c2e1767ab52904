"""The one door for TorchScript files: such a file is a program, and part of it can run while it is being loaded.

Its language cannot call Python, but its operators can write files (`torch.save`), read them, start remote calls or
end the process. Two checks, each of what PyTorch really reads or runs:

1. Before loading, that nothing runs while loading. The records are listed and read by PyTorch's own reader and have
   known names (`utils.model_files.archive.Records`). Their source code defines no hooks and computes nothing outside of
   functions: default values of arguments and constants of classes are evaluated by `torch.jit.load`. It is written in
   the letters and strings that `torch.jit.save` uses, so that Python's parser and PyTorch's see the same, and calls
   by name only what the second check allows, for the compiler ends the process at some others. The pickles name no
   C++ class, which could restore itself from them, and no storage larger than its record, which PyTorch would read
   and write beyond its end.
2. After loading, that the compiled graph, which is what `forward` executes, consists of tensor computations only.

So certainty does not rest on spelling, and such files are loaded by default, without an option to trust them.
"""

import ast
import io
import json
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from utils.model_files.archive import Records
from utils.model_files.inert_pickle import MAX_PICKLE, Storage, interpret
from utils.text import printable

MAX_CODE = 4 << 20  # bytes of all source code of a file; that of YOLOv5x has about 0.3 MB
MAX_CONFIG = 4 << 20  # bytes of config.txt
RECORDS = re.compile(
    r"(data|constants|traced_inputs)(\.pkl|/\d+)|code/__torch__(/\w+)*\.py(\.debug_pkl)?|extra/[\w.-]+|version|"
    r"byteorder|\.data/(version|serialization_id)",
    re.ASCII,
)
LETTERS = re.compile(
    r"""(?:[\w \n.,:()\[\]{}=+\-*/%<>!&|~]|(?<!\w)"(?:[^"\\\n]|\\.)*"|(?<!\w)'(?:[^'\\\n]|\\.)*')*""", re.ASCII
)
HOOKS = {"__setstate__", "__getstate__", "__enter__", "__exit__", "__forward_hooks__", "__forward_pre_hooks__"}
LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.UnaryOp, ast.USub, ast.Load)
CLASSES = re.compile(r"torch\.jit\._pickle\.\w+|__torch__(?!\.torch\.classes)(\.\w+)+", re.ASCII)  # in pickles
GRAPH_NODES = {  # namespace -> allowed names; of aten see `is_computation`
    "prim": (
        "ConstantChunk Constant DictConstruct GetAttr If ListConstruct ListUnpack Loop NumToTensor RaiseException "
        "TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized abs data device dtype index is_cpu is_cuda "
        "is_mkldnn is_mps isinstance layout max min rangelist requires_grad shape tolist type unchecked_cast "
        "unchecked_unwrap_optional"
    ).split(),
    "torchvision": ["nms"],
}
REFUSED = (  # of aten: files, remote calls, foreign memory, settings of the process
    "save from_file to_here local_value owner owner_name is_owner confirmed_by_owner dist_backward backward wait set_ "
    "set_data record_stream set_grad_enabled manual_seed"
).split()
INTERNAL = (  # of aten: the names with an underscore in front that exported detectors use
    "__and__ __contains__ __derive_index __getitem__ __interpolate __is__ __isnot__ __lshift__ __not__ __or__ "
    "__range_length __rshift__ __xor__ "
    "_assert_tensor_metadata _convolution _convolution_mode _log_softmax _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _set_item _softmax _to_copy _unsafe_view"
).split()


def load_torchscript(file: str | Path, device: torch.device) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """Load a TorchScript file whose `forward` is a plain computation on tensors.

    Returns:
        The module, and what the file's `config.txt` says about it, {} without one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such archive, holds what could do more than compute, or its config.txt is not JSON.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        records = Records(file, RECORDS)
        config = _check_records(records)
        module = _load(records, device)
        check_graph(module.inlined_graph)
    except (RuntimeError, AttributeError, IndexError) as e:  # of PyTorch; without `forward` the second
        raise ValueError(f"{file}: not a TorchScript file, or a damaged one: {_first_line(e)}") from None
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from None
    return module, config


def _load(records: Records, device: torch.device) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*(deprecated|not supported).*")
        return torch.jit.load(records.buffer(), map_location=device)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _check_records(records: Records) -> dict[str, Any]:
    """Make sure that nothing runs while the file is loaded; return its config.txt."""
    if "constants.pkl" not in records.names or "data.pkl" not in records.names:
        raise ValueError("not a TorchScript file, or a damaged one: no constants.pkl")
    room = MAX_CODE
    for name in records.names:
        if name.endswith(".py"):
            code = records.read(name, room)
            room -= len(code)
            check_code(code, name)
        elif name.endswith("pkl") and name != "traced_inputs.pkl":  # that one is not loaded
            storages = check_pickle(records.read(name, MAX_PICKLE), name)
            _check_sizes(storages, name.removesuffix(".pkl"), records)
    return _parse_config(records.read("extra/config.txt", MAX_CONFIG)) if "extra/config.txt" in records.names else {}


def _parse_config(text: bytes) -> dict[str, Any]:
    """Return a JSON object; ValueError for anything else."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"its config.txt is not JSON: {str(e)[:200]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"its config.txt is not JSON: a {type(config).__name__}, expected an object")
    return config


def check_pickle(data: bytes, name: str) -> dict[str, Storage]:
    """Interpret a pickle of an archive without running anything.

    PyTorch's reader in C++ puts values into its memo in another way than Python's; both agree where each value that is
    put there is a new one, as `torch.jit.save` writes it.

    Args:
        data: the pickle.
        name: for the message.

    Returns:
        Its storages by key.

    Raises:
        ValueError: it is damaged, or names other classes than those of its own source code.
    """
    try:
        storages = interpret(io.BytesIO(data), data_only=True, classes=CLASSES)[1]
        puts, last = 0, ""
        for code, arg, _ in pickletools.genops(data):
            if "PUT" in code.name:
                if arg != puts or last == "MARK":
                    raise ValueError("damaged: its memo is not in order")
                puts += 1
            last = code.name
    except ValueError as e:
        raise ValueError(f"{name}: {_first_line(e)}") from None
    return storages


def _check_sizes(storages: dict[str, Storage], folder: str, records: Records) -> None:
    """Raise ValueError unless every storage has as many bytes as its pickle says: PyTorch does not look."""
    for key, storage in storages.items():
        size = records.size(f"{folder}/{key}")
        if size != storage.count * storage.dtype.itemsize:
            raise ValueError(f"damaged: {folder}/{key} has {size} bytes for {storage.count} elements")


def check_code(code: bytes, name: str) -> None:
    """Raise ValueError if a source file of an archive could run anything while it is being loaded.

    Args:
        code: its text; the syntax is that of Python.
        name: for the message.
    """
    try:
        text = code.decode("ascii")
        if not LETTERS.fullmatch(text) or '"""' in text or "'''" in text:
            raise SyntaxError
        tree = ast.parse(text)
        for node in ast.walk(tree):
            reason = _find_execution(node)
            if reason:
                raise ValueError(f"refused, {name} {reason}")
    except (SyntaxError, UnicodeDecodeError, RecursionError, MemoryError):
        raise ValueError(f"refused, {name} is not written as torch.jit.save writes it") from None


def _find_execution(node: ast.AST) -> str | None:
    """Return what in a node of the syntax would run while the file is being loaded."""
    if isinstance(node, ast.FunctionDef):
        if node.name in HOOKS:
            return f"defines {node.name}, which could run when the file is loaded"
        if not all(map(_is_literal, (*node.args.defaults, *node.args.kw_defaults))):
            return f"computes default values for the arguments of {node.name[:80]} when it is loaded"
    if isinstance(node, ast.ClassDef | ast.Module):
        for line in node.body:
            if isinstance(line, ast.Assign) and HOOKS & {getattr(target, "id", "") for target in line.targets}:
                return f"defines {ast.unparse(line.targets[0])}"
            if (
                isinstance(line, ast.Assign | ast.AnnAssign)
                and line.value
                and not (_is_type(line) or _is_literal(line.value))
            ):
                return f"computes {ast.unparse(line.value)[:80]} when it is loaded"
            if not isinstance(line, ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef | ast.Pass):
                return f"has {ast.unparse(line)[:80]} outside of a function"
    if isinstance(node, ast.Attribute):
        parts = _dotted(node)
        namespace, name = parts[-2:] if parts[0] == "ops" and len(parts) == 3 else ("aten", parts[-1])
        called = (parts[0] == "ops" and len(parts) > 2) or (parts[0] == "torch" and len(parts) == 2)
        if called and not _is_node(namespace, name):
            return f"calls {'.'.join(parts)[:80]}, which is not a computation on tensors"
        if parts[:3] == ["__torch__", "torch", "classes"]:
            return f"uses the C++ class {'.'.join(parts)[:80]}"
    return None


def _is_type(line: ast.Assign | ast.AnnAssign) -> bool:
    """Whether a line is `__annotations__["0"] = some.Type`, the type of an attribute whose name is no identifier."""
    if not isinstance(line, ast.Assign):
        return False
    target = line.targets[0]
    of_types = isinstance(target, ast.Subscript) and getattr(target.value, "id", "") == "__annotations__"
    return of_types and not any(isinstance(node, ast.Call) for node in ast.walk(line.value))


def _is_literal(value: ast.AST | None) -> bool:
    """Whether a value is written out: numbers, strings and lists of them."""
    return value is None or all(isinstance(node, LITERALS) for node in ast.walk(value))


def _dotted(node: ast.AST) -> list[str]:
    """Return the parts of names joined by dots; [""] first for any other expression before the dots."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "", *reversed(parts)]


def check_graph(graph: torch.Graph | torch.Block) -> None:
    """Raise ValueError at the first node of a compiled graph that a traced detector does not have."""
    blocks: list[Any] = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            namespace, _, name = node.kind().partition("::")
            if not _is_node(namespace, name):
                raise ValueError(
                    f"refused, its program calls {printable(node.kind()[:80])}, which is not a computation"
                )
            blocks.extend(node.blocks())


def _is_node(namespace: str, name: str) -> bool:
    """Whether a kind of node in a graph only computes."""
    return is_computation(name) if namespace == "aten" else name in GRAPH_NODES.get(namespace, ())


def is_computation(name: str) -> bool:
    """Whether an operator of aten only computes: public or known, and none of those that reach out of the program."""
    return name in INTERNAL if name.startswith("_") else name not in REFUSED
