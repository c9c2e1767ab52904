"""Open, read and write whole files: only regular ones are read, and one that is written never goes through a link.

Whatever name this program chooses for a file (caches, reports, results), a link that has that name already is replaced,
not followed, and a pipe or device is refused. A link that the user gave as a target means what it points to: resolve it
before `atomic_path`. Links among the folders of a path are followed.
"""

import errno
import glob
import hashlib
import lzma
import os
import re
import secrets
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import IO, Any, BinaryIO

import numpy as np
import yaml

MAX_YAML = 2 << 20  # bytes; 10,000 class names have about 0.2 MB
MAX_NODES = 50_000  # keys, values and containers of a YAML file, each as often as aliases repeat it
MAX_YAML_DEPTH = 32  # of containers in containers; a model file has 4
MAX_DIGITS = 400  # of a number
MAX_UNPACKED = 1 << 40  # bytes of an archive
MAX_MEMBERS = 1_000_000
BAD_ARCHIVE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    UnicodeDecodeError,
)  # fmt: skip
STALE = 60.0  # seconds without a change after which a temporary file is taken for that of a killed process
# Plain words of YAML 1.2 (core schema). PyYAML alone follows 1.1, where a class named `no` is False, `010` is eight,
# `12:30` is 750 and `1e-3` is a text.
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
YAML_WORDS = (
    ("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), "~nN\0"),
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", re.compile(r"(?:<<)$"), "<"),
)


class _YamlLoader(yaml.SafeLoader):
    """Safe loader with the words of YAML 1.2, no duplicate keys, no other tags than `TAGS`, and bounded work."""

    yaml_implicit_resolvers: dict[str, list] = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.nodes = 0
        self.sizes: dict[int, int] = {}  # of the nodes that are complete: how many nodes an alias of them stands for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Read one value, whatever it is, and count the values it expands to."""
        event = self.peek_event()
        before, self.depth = self.nodes, self.depth + 1
        if self.depth > MAX_YAML_DEPTH:
            self._refuse(f"nested more than {MAX_YAML_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                self._refuse(f"the alias *{event.anchor} refers to itself", event)
            self.nodes += self.sizes[id(node)]
        else:
            self.nodes += 1
            if node.tag not in TAGS:
                self._refuse(f"the tag {node.tag[:80]} is not allowed here: remove it", event)
            if node.tag in NUMBERS and len(node.value) > MAX_DIGITS:
                self._refuse(f"a number with more than {MAX_DIGITS} digits", event)
            self.sizes[id(node)] = self.nodes - before
        if self.nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES} values, counting each as often as aliases repeat it", event)
        self.depth -= 1
        return node

    @staticmethod
    def _refuse(text: str, event: yaml.Event) -> None:
        raise yaml.composer.ComposerError(None, None, text, event.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read 0o17 and 0x1f by their base and everything else, 010 too, as decimal."""
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def get_single_node(self) -> yaml.Node | None:
        """Read the document; numbers among class names stay texts, so that 02146, 1.10 and 1e5 keep their spelling."""
        root = super().get_single_node()
        top = root.value if isinstance(root, yaml.MappingNode) else []
        for names in (value for key, value in top if isinstance(key, yaml.ScalarNode) and key.value == "names"):
            if isinstance(names, yaml.SequenceNode):
                names.value = [self._as_written(entry) for entry in names.value]
            elif isinstance(names, yaml.MappingNode):
                names.value = [(key, self._as_written(entry)) for key, entry in names.value]
        return root

    @staticmethod
    def _as_written(node: yaml.Node) -> yaml.Node:
        """Return a number as a text, another node as it is; a copy, as aliases may share the number."""
        return yaml.ScalarNode("tag:yaml.org,2002:str", node.value) if node.tag in NUMBERS else node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Read a mapping; the same key twice is an error with both places."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            name = (key.tag, key.value)
            if name in seen:
                text = f"key {key.value!r} appears twice (first in line {seen[name]}): remove one"
                raise yaml.composer.ComposerError(None, None, text, key.start_mark)
            seen[name] = key.start_mark.line + 1
        return node


class _YamlDumper(yaml.SafeDumper):
    """Safe dumper: no aliases, lists of plain values on one line, quotes where 1.1 or 1.2 would misread a text."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        """Write a shared list twice instead of as a reference."""
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        """Write a text with a line end of Unicode with escapes: in other quotes it would be read as a space."""
        style = '"' if any(letter in data for letter in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_list(self, data: list) -> yaml.SequenceNode:
        """Write lists without inner lists or dicts in brackets."""
        flow = not any(isinstance(item, list | dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)
_YamlDumper.add_representer(list, _YamlDumper.represent_list)
_YamlDumper.add_representer(tuple, _YamlDumper.represent_list)
_YamlDumper.add_representer(str, _YamlDumper.represent_text)
for _tag, _pattern, _first in YAML_WORDS:
    first_letters = ["" if letter == "\0" else letter for letter in _first]
    _YamlLoader.add_implicit_resolver(_tag, _pattern, first_letters)
    _YamlDumper.add_implicit_resolver(_tag, _pattern, first_letters)


def yaml_load(file: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Plain words follow YAML 1.2: only true and false are booleans (`no` and `on` are texts), `1e-3` is a number,
    `2026-01-31` is a text. Of the top-level key `names`, numbers stay as they are written, as texts. No Python objects
    are built, and size, depth and repetition by aliases are bounded.

    Returns:
        The mapping; {} for an empty file.

    Raises:
        FileNotFoundError: no such file.
        OSError: it is no regular file, or cannot be read.
        ValueError: bad syntax, a key that appears twice, a tag such as !!python/object, more than 2 MB or 50,000
            values, or no mapping; the message starts with `file:line`.
    """
    file = Path(file)
    try:
        with open_regular(file) as opened:
            content = opened.read(MAX_YAML + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such YAML file (looked in {file.absolute().parent})") from None
    if len(content) > MAX_YAML:
        raise ValueError(f"{file}:1: more than {MAX_YAML >> 20} MB, which no YAML file of this program needs")
    try:
        data = yaml.load(content.decode("utf-8-sig"), Loader=_YamlLoader)
    except UnicodeDecodeError as e:
        raise ValueError(f"{file}: not UTF-8 text ({e.reason} at byte {e.start})") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise ValueError(f"{file}:{mark.line + 1 if mark else 1}: {e.problem or e.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, LookupError, AttributeError) as e:
        # those that are not of yaml: `!!int x`, `!!float` of nothing and such
        raise ValueError(f"{file}:1: not YAML: {' '.join(str(e).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{file}:1: expected `key: value` lines, found a {type(data).__name__}")
    return data


def yaml_save(file: str | Path, data: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in their order; the file is replaced in one step or not at all.

    Args:
        file: target; its folder must exist.
        data: texts, numbers, booleans, None, lists, mappings; Path becomes text, tuple list, NumPy scalar number.

    Raises:
        TypeError: `data` holds anything else.
        OSError: the file cannot be written.
    """
    text = yaml.dump(plain(data, "YAML"), Dumper=_YamlDumper, sort_keys=False, allow_unicode=True, width=120)
    with atomic_path(file) as tmp:
        tmp.write_text(text, encoding="utf-8")


def plain(value: Any, target: str, where: str = "", keep: tuple[type, ...] = ()) -> Any:
    """Copy a value with plain types only: Path becomes text, a NumPy scalar a number, any mapping a dict.

    Args:
        value: text, number, boolean, None, or a list, tuple or mapping of such values.
        target: what it is written to, for the message.
        where: its place there, such as `opt.imgsz[1]`, for the message.
        keep: other types that stay as they are.

    Raises:
        TypeError: `value` holds anything else.
    """
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, keep):
        return value
    if isinstance(value, Mapping):
        return {
            plain(k, target, where, keep): plain(v, target, f"{where}.{k}".lstrip("."), keep) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        items = (plain(item, target, f"{where}[{i}]", keep) for i, item in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {where or 'data'} to {target}: {type(value).__name__} is not a plain type")


# Files of any kind ----------------------------------------------------------------------------------------------------
def kind_of_file(mode: int) -> str:
    """Name what `st_mode` of `os.stat` says a path is, for messages."""
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a regular file" if stat.S_ISREG(mode) else "a pipe or device"


def open_regular(file: str | Path, follow: bool = True, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading and nothing else: reading a pipe or device could block forever.

    Args:
        file: path.
        follow: whether a link means what it points to; of a file that this program named itself, it does not.
        buffering: as of `open`.

    Raises:
        FileNotFoundError: there is none of that name.
        OSError: it is a link without a target, a folder, a pipe or a device, a link unless `follow`, or cannot be read.
    """
    try:
        _refuse_irregular(os.stat(file, follow_symlinks=follow).st_mode, file)  # to open some devices has effects
    except FileNotFoundError:
        if not os.path.islink(file):
            raise
        text = f"a link to {os.readlink(file)}, which does not exist"
        raise OSError(errno.ELOOP, text, str(file)) from None
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"))
    descriptor = os.open(file, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, file)  # it may have been replaced since
        return open(descriptor, "rb", buffering)
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_irregular(mode: int, file: str | Path) -> None:
    """Raise OSError unless `st_mode` is that of a regular file."""
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, f"{kind_of_file(mode)}, not a file", str(file))


def check_place(path: str | Path) -> None:
    """Check the path of a file to be written: nothing, a regular file or a link may be replaced.

    Raises:
        OSError: a folder, pipe or device has that name.
    """
    with suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISLNK(mode):
            _refuse_irregular(mode, path)


def open_new(path: str | Path, mode: str = "w", **options: Any) -> IO:
    """Create a file for writing; a regular file or link of that name is removed first, what it points to stays.

    For results that may be half-written after a crash, and so many that `atomic_path` would take too long.

    Args:
        path: target; its folder must exist.
        mode: `w` for text in UTF-8, `wb` for bytes.
        **options: others of `open`.

    Raises:
        OSError: a folder, pipe or device has that name, or the file cannot be made.
    """
    check_place(path)
    Path(path).unlink(missing_ok=True)
    return open(path, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8", **options)


@contextmanager
def naming(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Add the path to an OSError of the block: the system names a file it cannot open, not one it cannot write to.

    Args:
        path: what the user knows.
        temporary: another name of it, which messages replace with `path`.

    Raises:
        OSError: as in the block, of the same kind, with `filename` set.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file that can be regenerated, such as an image: an incomplete one is removed, an existing one replaced.

    Raises:
        OSError: it cannot be written; names it.
    """
    path = Path(path)
    with open_new(path, "wb", buffering=0) as file:
        try:
            with naming(path):
                written = 0
                while written < len(data):  # the system may take a part of it, and refuses the rest of a full disk
                    written += file.write(memoryview(data)[written:])
        except OSError:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Let the block write a new file beside `path`, then replace `path` with it atomically.

    A reader sees the previous file or the complete new one, even after a crash or on a full disk. An existing file
    keeps its permissions; a link or another name of the same file (a hard link) is replaced, and its target stays as
    it is.
    Temporary files of killed processes are removed.

    Yields:
        A path that does not exist yet, in the same folder and with the same suffix. The block must write that file.

    Raises:
        FileNotFoundError: the folder does not exist, or the block wrote nothing.
        OSError: a folder, pipe or device has that name, or the file cannot be written or renamed, and is named; the old
            file is as before, the new one removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    check_place(path)
    _remove_stale(path)
    tmp = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        with naming(path, tmp):
            yield tmp
            with tmp.open("rb+") as written:
                os.fsync(written.fileno())
        if path.is_file() and not path.is_symlink():
            shutil.copymode(path, tmp)
        os.replace(tmp, path)
        _sync_folder(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush the new name to disk, so that a power cut does not bring the previous file back; not on Windows."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot; the file itself is complete
            os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    """Remove the temporary files of `atomic_path` for this target that nobody has written to for a minute."""
    for file in path.parent.glob(f".{glob.escape(path.stem)}.{'[0-9a-f]' * 12}.tmp{glob.escape(path.suffix)}"):
        with suppress(OSError):  # gone already, or of another user: no reason not to write the target
            found = file.lstat()
            if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > STALE:
                file.unlink()


def key_place(source: Any, key: Any) -> str:
    """Return `file:line` of a top-level key of a YAML file, for messages; the text of `source` if it is not found.

    Args:
        source: the file, or what messages say where there is none.
        key: as in the mapping that `yaml_load` returned.
    """
    pattern = re.compile(rf"""["']?{re.escape(str(key))}["']?\s*:""")
    with suppress(OSError, ValueError):
        for number, line in enumerate(Path(source).read_text(encoding="utf-8-sig").splitlines(), 1):
            if pattern.match(line):
                return f"{source}:{number}"
    return str(source)


def table_numbers(cells: Sequence[str], columns: int, place: str) -> list[float]:
    """Return the numbers in a line of a table; an empty cell is nan.

    Args:
        cells: of the line.
        columns: of the table.
        place: file and line, for messages.

    Raises:
        ValueError: a cell is not a number, or there are more or fewer cells than columns.
    """
    if len(cells) != columns:
        raise ValueError(f"{place}: {len(cells)} cells in a table of {columns} columns; correct or remove this line")
    numbers = []
    for cell in cells:
        try:
            numbers.append(float(cell.strip() or "nan"))
        except ValueError:
            raise ValueError(f"{place}: {cell.strip()!r} is not a number; correct or remove this line") from None
    return numbers


def file_sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unpack(archive: str | Path, folder: str | Path, limit: int = MAX_UNPACKED, exclude: Collection[str] = ()) -> int:
    """Unpack an untrusted .zip or .tar archive, compressed or not; nothing is written outside the folder.

    Names and sizes of all files are checked before the first one is written.

    Args:
        archive: its kind follows from the content, not from the name.
        folder: created if necessary; files that are in it stay as they are.
        limit: most bytes of all files together.
        exclude: entries with one of these texts in their path are left out.

    Returns:
        Number of files.

    Raises:
        ValueError: damaged or no such archive, or one with paths that lead out of the folder, links, devices, names
            that appear twice or exist already, or too many bytes or files.
        OSError: it cannot be read, a file cannot be written, or this Python has no `tarfile.data_filter`.
    """
    archive, folder = Path(archive), Path(folder)
    packed_by_zip = zipfile.is_zipfile(archive)
    if not packed_by_zip and not hasattr(tarfile, "data_filter"):
        raise OSError(f"{archive}: unpacking needs Python 3.10.12, 3.11.4, 3.12 or newer; or unpack it yourself")
    try:
        with zipfile.ZipFile(archive) if packed_by_zip else tarfile.open(archive) as opened:
            entries: Iterable[tuple[Any, str, int, bool, int]]
            if isinstance(opened, zipfile.ZipFile):
                entries = [(e, e.filename, e.file_size, e.is_dir(), e.external_attr >> 16) for e in opened.infolist()]
            else:  # read one by one, so that the headers of a bomb end at the limit
                entries = ((e, e.name, e.size, e.isdir(), 0 if e.isreg() else stat.S_IFCHR) for e in opened)
            wanted = (entry for entry in entries if not any(text in entry[1] for text in exclude))
            members = _check_members(wanted, archive, folder, limit)
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(opened, zipfile.ZipFile):
                opened.extractall(folder, members)
            else:
                opened.extractall(folder, members, filter="data")
    except BAD_ARCHIVE as error:
        raise ValueError(f"{archive}: damaged, or no archive: {error}") from None
    return len(members)


def _check_members(entries: Iterable[tuple], archive: Path, folder: Path, limit: int) -> list[Any]:
    """Return the files of an archive; ValueError for what must not be unpacked.

    Args:
        entries: (entry, name, bytes, whether it is a folder, Unix mode or 0) each.
        archive: for messages.
        folder: where they will be.
        limit: most bytes of all files together.
    """
    members, names, total = [], set(), 0
    for entry, name, size, is_folder, mode in entries:
        path, shown = PureWindowsPath(name), name[:80]  # knows the separators and drives of all systems
        if path.anchor or ".." in path.parts or not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{archive}: refused, the path {shown!r} leads out of the folder")
        if is_folder:
            continue
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ValueError(f"{archive}: refused, {shown!r} is a link or device, neither file nor folder")
        if os.path.lexists(folder / name) or str(path).casefold() in names:
            raise ValueError(f"{archive}: {folder / name} exists already, or appears twice: move or rename it")
        names.add(str(path).casefold())
        members.append(entry)
        total += size
        if total > limit or len(members) > MAX_MEMBERS:
            raise ValueError(f"{archive}: refused, more than {limit} bytes or {MAX_MEMBERS} files")
    if not members:
        raise ValueError(f"{archive}: holds no files")
    return members
