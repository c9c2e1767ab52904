"""Read the structure of an untrusted PyTorch file without executing anything that it names.

A pickle is a program: it names functions and calls them. `read_inert` interprets its instructions itself and knows no
call but those of `CALLS`, which make plain values. Classes of the original YOLOv5 and of `torch.nn` become a `Record`:
name, arguments, state. Every other name is an error. Nothing is imported, no method is called, no attribute is set.

Memory and time are bounded by the size of the pickle, in one rule: whatever an instruction makes, copies or lets grow
is spent from a `Budget` of `FLOOR` bytes and `FACTOR` more for each byte of the pickle that was read, and nothing is
ever given back. What is made of the result afterwards (`utils.model_files.torch_file`, `models.weights.yolov5`) spends
from a second one of the same size. Integers, keys and names have limits of their own, so that any of them can stand in
a message.
"""

import math
import pickletools
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch

MAX_PICKLE = 64 << 20  # bytes; that of YOLOv5x6 has about 1 MB
FLOOR = 16 << 20  # bytes that even the smallest pickle may take
FACTOR = 64  # bytes of memory for each byte of a pickle; models of YOLOv5 take up to 54 in this count
SLOT = 16  # bytes of an entry of the stack or of a list, with the room that these keep for more
MEMO = 128  # bytes of an entry of the memo, or of what a call makes besides its result
MAX_ARGS = 64  # of one call
MAX_PATH = 4096  # characters
MAX_TEXT_KEY = 1000  # characters of a key, which becomes part of names
MAX_NAME = 200  # characters of a class or storage
MAX_BITS = 256  # of an integer; that of NumPy's generators has 128
MAX_KEY = 2**60  # of numbers that are keys: the hash of larger ones is not their value, so that many could share one
MAX_NUMBER_KEYS = 1 << 16  # of a pickle: their hash can be foreseen, so that n of them can take n^2 steps
RECORDS = re.compile(  # classes that become records: the part after the last dot is a class name
    r"(models\.(yolo|common|experimental)|utils\.activations|torch\.nn\.modules\.\w+"
    r"|torch\.nn\.parallel\.distributed)\._?[A-Z]\w*"
)
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMPY_SCALARS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
PATHS = ("Path", "PosixPath", "PurePosixPath", "PurePath", "PureWindowsPath", "WindowsPath")


class DamagedError(ValueError):
    """The file breaks the rules of its format."""


class RefusedError(ValueError):
    """The file names something that is neither data nor a known class."""


class Budget:
    """Bytes that may be made of a pickle of `size` bytes; what was spent is not given back, which bounds time too."""

    def __init__(self, size: int = 0) -> None:
        self.left = FLOOR + FACTOR * size

    def spend(self, size: int) -> None:
        """Take bytes from the budget.

        Raises:
            DamagedError: there are not that many left.
        """
        self.left -= size
        if self.left < 0:
            raise DamagedError(f"damaged: endless values, or over {FACTOR} bytes of memory for each byte of the pickle")

    def spend_text(self, value: Any) -> None:
        """Pay for one more reference to a value; texts cost what `repr` could make of them."""
        if isinstance(value, set | frozenset):
            for item in value:
                self.spend_text(item)
        self.spend(sys.getsizeof(value) * (4 if isinstance(value, str | bytes | bytearray) else 1))


@dataclass(eq=False, slots=True)
class Record:
    """An object of the file that was not built.

    Attributes:
        name: dotted name of its class.
        args: what its constructor would have got.
        state: its attributes.
    """

    name: str
    args: tuple = ()
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The class name without its module."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Name:
    """A function or class that the file names; never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage of the file, read on demand: type, key, count."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class LazyTensor:
    """A view of a storage whose elements are not read yet. Offset and strides count elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


# Calls --------------------------------------------------------------------------------------------------------------


def _keys(values: Iterable) -> list:
    """Let only plain values be keys: the hash of a tuple of tuples of ... can take forever."""
    values = list(values)
    if not all(isinstance(value, str | bytes | int | float | None) for value in values):
        raise DamagedError("a key that is neither a string nor a number")
    if not all(len(value) <= MAX_TEXT_KEY for value in values if isinstance(value, str | bytes)):
        raise DamagedError(f"a key of more than {MAX_TEXT_KEY} characters")
    if sum(not isinstance(value, str | bytes) for value in values) > MAX_NUMBER_KEYS:
        raise DamagedError(f"more than {MAX_NUMBER_KEYS} numbers as keys")
    if not all(abs(value) < MAX_KEY for value in values if isinstance(value, int | float)):
        raise DamagedError("a number as key that is too large")
    return values


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> LazyTensor:
    """Check that a view is inside its storage, and nowhere twice on more elements than that has."""
    if not isinstance(storage, Storage) or len(size) != len(stride) or len(size) > 16:
        raise DamagedError("a tensor without a storage or with a wrong shape")
    if not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *size, *stride)):
        raise DamagedError("a tensor without a storage or with a wrong shape")
    if math.prod(n or 1 for n in size) >= 2**48:  # (0, 2**47, 2**47) has no numbers, and strides beyond 64 bits
        raise DamagedError("a tensor with a wrong shape")
    reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.count or (math.prod(size) and offset + reach >= storage.count):
        raise DamagedError(f"a tensor of size {tuple(size)} does not fit its storage of {storage.count} elements")
    return LazyTensor(storage, offset, tuple(size), tuple(stride))


def _first(value: Any, *_: Any) -> Any:
    return value


def _pairs(items: Iterable = ()) -> dict:
    items = list(items)
    _keys(key for key, _ in items)
    return dict(items)


def _collect(items: Iterable = ()) -> set:
    return set(_keys(items))


def _size(items: Iterable = ()) -> tuple:
    return tuple(items)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise DamagedError("bytes that are not written as latin1")
    return text.encode("latin1")


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts) or sum(map(len, parts)) > MAX_PATH:
        raise DamagedError("a path that is not a string, or too long")
    return str(PurePosixPath(*parts))


def _bound_method(owner: Any, method: Any) -> str:
    """Take `getattr` for two methods that YOLOv5 stores, and for nothing else; the result is the name, a string.

    A fused `Conv` stores its own `forward_fuse`, the head of a segmentation model `Detect.forward`.
    """
    fused = isinstance(owner, Record) and owner.name.startswith("models.") and method == "forward_fuse"
    if not fused and not (owner == Name("models.yolo.Detect") and method == "forward"):
        raise RefusedError(f"builtins.getattr of {method if isinstance(method, str) else type(method).__name__:.40}")
    return method


def _scalar(dtype: Any, data: Any = b"") -> int | float | bool:
    code = dtype.args[0] if isinstance(dtype, Record) and dtype.args else None
    if (
        not isinstance(code, str)
        or code not in NUMPY_SCALARS
        or not isinstance(data, bytes)
        or len(data) != int(code[1])
    ):
        raise DamagedError(f"a NumPy number of type {code if isinstance(code, str) else type(code).__name__:.20}")
    order = dtype.state.get("", (3, "<"))
    return np.frombuffer(data, (">" if order[1:2] == (">",) else "<") + code)[0].item()


def _numpy_record(kind: str) -> Callable[..., Record]:
    return lambda *args: Record(f"numpy.{kind}", args)


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": _size,
    "collections.OrderedDict": _pairs,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_record("dtype"),
}
CALLS |= {f"{module}.set": _collect for module in ("builtins", "__builtin__")}
CALLS |= {f"{module}.getattr": _bound_method for module in ("builtins", "__builtin__")}
CALLS |= {f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in PATHS}
for _core in ("numpy.core", "numpy._core"):
    CALLS |= {f"{_core}.multiarray.scalar": _scalar, f"{_core}.multiarray._reconstruct": _numpy_record("ndarray")}
VALUES = {f"torch.{name}" for name in STORAGES} | {"numpy.ndarray"}  # named, never called
DATA = (  # what plain data need; to call these would be harmless elsewhere too
    {name for name in CALLS if name.startswith(("torch.", "collections.", "_codecs."))} | VALUES
)


# The machine --------------------------------------------------------------------------------------------------------

_MARK = object()
_LITERALS = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


class _Machine:
    """Runs the instructions of one pickle on a stack of inert values.

    Args:
        data_only: allow no other names than `DATA` and `classes`.
        classes: names that become records.

    Attributes:
        storages: what the pickle says about them. records: the classes that it names. budget: what is left.
    """

    def __init__(self, data_only: bool = False, classes: re.Pattern[str] | None = None) -> None:
        self.data_only, self.classes = data_only, classes
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.records: set[str] = set()
        self.number_keys = 0
        self.budget = Budget()

    def run(self, file: BinaryIO) -> Any:
        read = file.tell()
        arg: Any
        for code, arg, _ in pickletools.genops(file):
            self.budget.left += FACTOR * (file.tell() - read)
            read = file.tell()
            if code.name == "STOP":
                return self.stack.pop()
            if code.name in _LITERALS:
                self.push(arg)
            elif code.name in _CONSTANTS:
                self.push_again(_CONSTANTS[code.name])
            elif code.name in _EMPTY:
                self.push(_EMPTY[code.name]())
            elif code.name in _TUPLES:
                self.push(tuple(self.take(_TUPLES[code.name])))
            elif code.name in _PUTS:
                self.remember(arg)
            elif code.name in _GETS:
                self.push_again(self.memo[arg])
            else:
                step = getattr(self, f"do_{code.name.lower()}", None)
                if step is None:
                    raise RefusedError(f"the instruction {code.name}")
                step(arg)
        raise DamagedError("no end")

    def take(self, n: int) -> list[Any]:
        """Pop `n` values."""
        if len(self.stack) < n:
            raise DamagedError("an empty stack")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def push(self, value: Any) -> None:
        """Push a value that was made just now."""
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise DamagedError(f"an integer of more than {MAX_BITS} bits")
        self.budget.spend(SLOT + sys.getsizeof(value))
        self.stack.append(value)

    def push_again(self, value: Any) -> None:
        """Push a value that exists already."""
        self.budget.spend(SLOT)
        self.stack.append(value)

    def remember(self, place: int) -> None:
        """Put the value on top into the memo."""
        if place not in self.memo:
            self.budget.spend(MEMO)
        self.memo[place] = self.stack[-1]

    def count_keys(self, keys: Iterable) -> None:
        """Count the keys whose hash can be foreseen."""
        self.number_keys += sum(not isinstance(key, str | bytes) for key in keys)
        if self.number_keys > MAX_NUMBER_KEYS:
            raise DamagedError(f"more than {MAX_NUMBER_KEYS} numbers as keys")

    def keys(self, values: Iterable) -> list:
        """Check and count the keys of a mapping or set."""
        values = _keys(values)
        self.count_keys(values)
        return values

    def take_marked(self) -> list[Any]:
        """Pop all values above the last mark, and the mark."""
        depth = 0
        while self.stack[-1 - depth] is not _MARK:
            depth += 1
        items = self.take(depth)
        self.stack.pop()
        return items

    def do_proto(self, _: Any) -> None:
        pass

    do_frame = do_proto

    def do_pop(self, _: Any) -> None:
        self.stack.pop()

    def do_pop_mark(self, _: Any) -> None:
        self.take_marked()

    def do_dup(self, _: Any) -> None:
        self.push_again(self.stack[-1])

    def do_memoize(self, _: Any) -> None:
        self.remember(len(self.memo))

    def do_tuple(self, _: Any) -> None:
        self.push(tuple(self.take_marked()))

    def do_list(self, _: Any) -> None:
        self.push(self.take_marked())

    def do_dict(self, _: Any) -> None:
        items = self.take_marked()
        self.push(dict(zip(self.keys(items[::2]), items[1::2], strict=True)))

    def do_frozenset(self, _: Any) -> None:
        self.push(frozenset(self.keys(self.take_marked())))

    def fill(self, kind: type, items: list[Any]) -> None:
        """Put items into the container on top, which must be of this kind."""
        target: Any = self.stack[-1]
        if type(self.stack[-1]) is not kind:
            raise DamagedError(f"items for a {kind.__name__}, but found a {type(target).__name__}")
        before = sys.getsizeof(target)
        if kind is list:
            target.extend(items)
        elif kind is set:
            target.update(self.keys(items))
        else:
            target.update(zip(self.keys(items[::2]), items[1::2], strict=True))
        self.budget.spend(sys.getsizeof(target) - before)

    def do_append(self, _: Any) -> None:
        self.fill(list, self.take(1))

    def do_appends(self, _: Any) -> None:
        self.fill(list, self.take_marked())

    def do_additems(self, _: Any) -> None:
        self.fill(set, self.take_marked())

    def do_setitem(self, _: Any) -> None:
        self.fill(dict, self.take(2))

    def do_setitems(self, _: Any) -> None:
        self.fill(dict, self.take_marked())

    def do_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self.push_name(module, name)

    def do_inst(self, arg: str) -> None:
        self.do_global(arg)  # for an error with the name
        raise RefusedError("the instruction INST")

    def do_stack_global(self, _: Any) -> None:
        module, name = self.take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedError("a name that is not a string")
        self.push_name(module, name)

    def push_name(self, module: str, name: str) -> None:
        """Push a name that is in one of the tables; refuse every other."""
        full = f"{module[:MAX_NAME]}.{name[:MAX_NAME]}"
        if max(len(module), len(name)) > MAX_NAME:
            raise RefusedError(f"{full:.{MAX_NAME}}...")
        if self.classes and self.classes.fullmatch(full):
            self.records.add(full)
        elif full not in DATA and (self.data_only or (full not in CALLS and full not in VALUES)):
            raise RefusedError(full)
        self.budget.spend(MEMO + sys.getsizeof(full))
        self.push(Name(full))

    def call(self, target: Any, args: Any) -> Any:
        """Make the value or the record that a call produces."""
        if isinstance(args, tuple) and len(args) > MAX_ARGS:
            raise DamagedError(f"a call with {len(args)} arguments")
        if not isinstance(target, Name) or not isinstance(args, tuple):
            raise RefusedError(f"a call of {getattr(target, 'name', 'a value')}")
        if target.name in CALLS:
            sized = [arg for arg in args if isinstance(arg, str | bytes | list | tuple | dict | set)]
            self.budget.spend(SLOT * sum(map(len, sized)))  # two bytes can name a list of millions, again and again
            return CALLS[target.name](*args)
        if target.name in VALUES:
            raise RefusedError(f"a call of {target.name}")
        return Record(target.name, args)

    def push_made(self, value: Any) -> None:
        """Push the result of a call."""
        self.budget.spend(MEMO)  # for what it holds besides, such as the state of a record
        if isinstance(value, dict | set):
            self.count_keys(value)
        self.push(value)

    def do_reduce(self, _: Any) -> None:
        target, args = self.take(2)
        self.push_made(self.call(target, args))

    do_newobj = do_reduce

    def do_newobj_ex(self, _: Any) -> None:
        target, args, keywords = self.take(3)
        self.push_made(self.call(target, args))
        if keywords != {}:
            raise RefusedError(f"keywords for {target.name}")

    def do_build(self, _: Any) -> None:
        target, state = self.take(2)
        if isinstance(target, Record):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            before = sys.getsizeof(target.state)
            if all(isinstance(part, dict) or part is None for part in parts):
                for part in parts:
                    self.budget.spend(SLOT * len(part or {}))
                    target.state.update(part or {})
            else:
                target.state[""] = state
            self.budget.spend(sys.getsizeof(target.state) - before)
        elif not isinstance(target, dict | LazyTensor):  # these two may carry attributes, which nobody reads
            raise RefusedError(f"a state for {getattr(target, 'name', 'a value')}")
        self.push_again(target)

    def do_binpersid(self, _: Any) -> None:
        key = self.stack.pop()
        if isinstance(key, tuple) and len(key) in (4, 5) and key[0] == "module":  # stream: class, file, source text
            self.push_again(key[1])
            return
        if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or key[5:] not in ((), (None,)):
            raise DamagedError("an unknown kind of reference")
        kind, name, count = key[1], key[2], key[4]
        dtype = STORAGES.get(kind.name.removeprefix("torch.")) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(name, str | int) or type(count) is not int or count < 0:
            raise DamagedError("a storage without type, key or count")
        if len(str(name)) > MAX_NAME:
            raise DamagedError(f"a storage whose key has more than {MAX_NAME} characters")
        self.budget.spend(MEMO + sys.getsizeof(name))
        storage = self.storages.setdefault(str(name), Storage(dtype, str(name), count))
        if storage != Storage(dtype, str(name), count):
            raise DamagedError(f"storage {name} with two types or sizes")
        self.push(storage)


def interpret(
    file: BinaryIO, data_only: bool = False, classes: re.Pattern[str] | None = None
) -> tuple[Any, dict[str, Storage], set[str]]:
    """Interpret the next pickle of a file.

    Args:
        file: positioned at its beginning; afterwards at its end.
        data_only: refuse classes of YOLOv5 and `torch.nn` too.
        classes: names that become records in place of those; of TorchScript.

    Returns:
        Its object, the storages of its tensors by key, and the names of the classes that became records.

    Raises:
        RefusedError, DamagedError: see there.
    """
    machine = _Machine(data_only, classes or (None if data_only else RECORDS))
    try:
        root = machine.run(file)
        return root, machine.storages, machine.records
    except RefusedError as e:
        raise RefusedError(
            f"refused, the file names {e}, which is neither data nor a module of YOLOv5. Nothing was run"
        ) from None
    except DamagedError as e:
        raise DamagedError(f"damaged: {str(e).removeprefix('damaged: ')}") from None
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as e:  # of the instructions, or of their order
        raise DamagedError(f"damaged: {e!s:.200}") from None
