"""Options as a dataclass: from it come the parser of the command line, the check of values from Python, and a table.

The frozen dataclass of a script is the only place of an option's name, type, default, allowed values and help. What an
option takes is its annotation:

- bool: a flag. int, float or str: one value, and with `| None` it may be left out.
- Annotated[int, Number(...)]: a number in a range. Annotated[..., function]: what that function reads.
- Literal[...]: one of these.
- list[T]: one or more values. T | list[T]: the same, but one alone is no list.
- Any: a string on the command line, and from Python whatever the function takes that uses the value.

Options before the mark `_: KW_ONLY` are also arguments by position, in YOLOv5's order.
"""

import argparse
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from utils.options.check import Number, Untouched, plain
from utils.paths import PACKAGE, installed_text

Options = TypeVar("Options")
Own = ParamSpec("Own")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Option:
    """One option, as a dataclass declares it.

    Attributes:
        name: of the field.
        flags: spellings on the command line, the first of which is used in messages.
        help: what it is for.
        default: value when it is not given.
        types: the alternatives of its annotation, of a list those of its items.
        many: takes several values.
        alone: of these, one alone is no list.
        bare: value when the flag is given alone; None if it needs one.
        required: on the command line; from Python the function says what is missing.
        metavar: word for the value in the usage.
        refused: why and what to do instead, of an option of YOLOv5 that is not there.
        positional: whether functions take it by position too.
    """

    name: str
    flags: tuple[str, ...]
    help: str
    default: Any
    types: tuple[Any, ...]
    many: bool
    alone: bool
    bare: Any
    required: bool
    metavar: str | None
    refused: str
    positional: bool

    @property
    def flag(self) -> bool:
        """Whether it takes no value."""
        return self.types == (bool,)

    @property
    def choices(self) -> tuple[Any, ...]:
        """Return the allowed values, where they are listed."""
        return next((get_args(t) for t in self.types if get_origin(t) is Literal), ())

    @property
    def read(self) -> Any:
        """Return what reads the text of one value: a Number, a function, or None for the text itself."""
        marked = [t.__metadata__[0] for t in self.types if get_origin(t) is Annotated]
        kinds = [t for t in (*self.types, *map(type, self.choices)) if t in (int, float)]
        return marked[0] if marked else Number(kinds[0]) if kinds else None

    @property
    def parameter(self) -> inspect.Parameter:
        """Return it as an argument of a function."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if self.positional else inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=self.default)

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a parser."""
        words = self.help.replace("%", "%%")
        if self.refused:
            suppressed = argparse.SUPPRESS
            parser.add_argument(
                *self.flags,
                dest=self.name,
                nargs="?",
                action=_Refuse,
                const=self.refused,
                default=suppressed,
                help=suppressed,
            )
        elif self.flag:
            parser.add_argument(*self.flags, dest=self.name, action="store_true", default=self.default, help=words)
        else:
            parser.add_argument(
                *self.flags,
                dest=self.name,
                nargs="+" if self.many else None if self.bare is None else "?",
                const=self.bare,
                action=_OneOrMore if self.alone else "store",
                type=self.read,
                choices=self.choices or None,
                default=self.default,
                required=self.required,
                metavar=self.metavar,
                help=words,
            )

    def check(self, value: Any) -> Any:
        """Return a value from Python in the type of the option; a path may be a string or a Path.

        Raises:
            ValueError: a wrong type or out of range, with what is allowed.
        """
        if Any in self.types or isinstance(value, Untouched):
            return value
        value = plain(value)
        if value is None and self.default in (None, ""):
            return self.default
        if self.flag:
            if value in (True, False):
                return bool(value)
            raise ValueError(f"{self.flags[0]} is {value!r:.80}, but must be True or False")
        if self.bare is not None and value is True:  # as the flag alone
            return self.bare
        if self.bare is not None and any(type(value) is type(x) and value == x for x in (self.bare, self.default)):
            return value
        if not self.many:
            return self._check_one(value)
        several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike)
        values = [self._check_one(item) for item in (value if several else [value])]
        return values[0] if self.alone and len(values) == 1 else values

    def _check_one(self, value: Any) -> Any:
        """Return one value in the type of its option, or raise ValueError."""
        name, value = self.flags[0], plain(value)
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{name} is {value!r:.80}; allowed: {', '.join(map(str, self.choices))}")
            return value
        if isinstance(self.read, Number):
            return self.read.check(name, value)
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        text = os.fspath(text) if isinstance(text, os.PathLike) else text
        if self.read:
            try:
                return self.read(text) if isinstance(text, str) else self.read(repr(value))
            except ValueError:
                raise ValueError(f"{name} is {value!r:.80}, which it does not take: {self.help}") from None
        if not isinstance(text, str):
            raise ValueError(f"{name} is {value!r:.80}, but must be a string or a path")
        return text


# Declaration ----------------------------------------------------------------------------------------------------------


def option(
    default: Any, help: str, *flags: str, bare: Any = None, required: bool = False, metavar: str | None = None
) -> Any:
    """Declare a field of a dataclass as an option; `--its-name` is its flag unless others are given. See `Option`."""
    metadata = {"help": help, "flags": flags, "bare": bare, "required": required, "metavar": metavar}
    if isinstance(default, list):
        return field(default_factory=lambda: type(default)(default), metadata={"option": metadata})
    return field(default=default, metadata={"option": metadata})


def refused(default: Any, instead: str, *flags: str) -> Any:
    """Declare an option of YOLOv5 that is not there: it keeps its position, but takes its default only.

    Args:
        default: YOLOv5's, which asks for nothing.
        instead: why it is not there and what to do instead.
        *flags: as for `option`.
    """
    return field(default=default, metadata={"option": {"flags": flags, "refused": instead}})


def all_options(cls: type) -> dict[str, Option]:
    """Return the options that a dataclass declares, by name, those that are refused too."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for item in fields(cls):
        if "option" not in item.metadata:
            continue
        given = {"help": "", "bare": None, "required": False, "metavar": None, "refused": ""} | item.metadata["option"]
        types = alternatives(hints[item.name])
        many = any(get_origin(t) is list for t in types)
        items = tuple(x for t in types for x in (alternatives(get_args(t)[0]) if get_origin(t) is list else (t,)))
        if given["bare"] is not None:
            items = tuple(x for x in items if x is not bool)
        given["flags"] = given["flags"] or (f"--{item.name.replace('_', '-')}",)
        default = item.default_factory() if callable(item.default_factory) else item.default
        found[item.name] = Option(
            name=item.name, default=default, types=tuple(dict.fromkeys(items)), many=many,
            alone=many and len(types) > 1, positional=not item.kw_only, **given,
        )  # fmt: skip
    return found


def options_of(cls: type) -> dict[str, Option]:
    """Return the options that can be used, by name."""
    return {name: item for name, item in all_options(cls).items() if not item.refused}


def as_dict(options: Any) -> dict[str, Any]:
    """Return the values of all options that can be used, by name."""
    return {name: getattr(options, name) for name in options_of(type(options))}


def arguments(options: Any, leave_out: Collection[str] = ()) -> list[str]:
    """Return the words of a command line that gives these options, without those that have their default.

    An `Untouched` default is one that nobody gave; the same value given by hand is kept.

    Args:
        options: object of a dataclass of options.
        leave_out: names of options that are not given.
    """
    words = []
    for name, item in options_of(type(options)).items():
        value = getattr(options, name)
        same = value == item.default and isinstance(value, Untouched) == isinstance(item.default, Untouched)
        if name in leave_out or same:
            continue
        alone = item.flag or (item.bare is not None and value == item.bare)
        words += [item.flags[0], *([] if alone else map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the parts of a union without None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(part for part in parts if part is not NoneType)


# Command line ---------------------------------------------------------------------------------------------------------


def make_parser(cls: type, description: str = "", program: str = "") -> argparse.ArgumentParser:
    """Return the parser of the options that a dataclass declares.

    Args:
        cls: the dataclass.
        description: of the program, for --help.
        program: how it is called; "" for one of the scripts.
    """
    script = f"yolov5-{cls.__name__.removesuffix('Options').lower()}" if PACKAGE else None
    parser = argparse.ArgumentParser(
        prog=installed_text(program) or script,
        description=installed_text(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for item in all_options(cls).values():
        item.add_to(parser)
    return parser


def parse_words(cls: type, name: str, program: str, argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Read the options of a program whose first word without a flag is the value of an option.

    Args:
        cls: the dataclass.
        name: of that option, such as `data`.
        program: module that is run.
        argv: words to read; None for those of the command line.
        description: of the program, for --help.
    """
    parser, metavar = make_parser(cls, description, f"python -m {program}"), name.upper()
    parser.add_argument("word", nargs="?", metavar=metavar, help=f"the same as --{name} {metavar}")
    opt = parser.parse_args(argv)
    if opt.word and getattr(opt, name):
        parser.error(f"{opt.word} and --{name} {getattr(opt, name)}: give one of them")
    setattr(opt, name, getattr(opt, name) or opt.word or "")
    del opt.word
    return opt


class _OneOrMore(argparse.Action):
    """One value alone, several as a list."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Store it or them."""
        setattr(namespace, self.dest, values if len(values) > 1 else values[0])


class _Refuse(argparse.Action):
    """An option that is known, but not there: using it ends with a sentence that says what to do instead."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Raise ValueError with that sentence."""
        raise ValueError(f"{option} is not supported: {self.const}")


# Python ---------------------------------------------------------------------------------------------------------------


def checked(cls: type, values: Mapping[str, Any], place: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Return values of options in the types that the dataclass declares.

    Args:
        cls: the dataclass.
        values: by name, such as `batch_size`.
        place: says, for messages, where in a file an option is.

    Raises:
        ValueError: an unknown name, or a value of a wrong type or out of range, with what is allowed.
    """
    known, result = all_options(cls), {}
    for key, value in values.items():
        if key not in known:
            raise ValueError(unknown(key, options_of(cls), values))
        item = known[key]
        if item.refused:
            if value != item.default:
                raise ValueError(f"unknown option {key!r}: {item.refused}")
            continue
        try:
            result[key] = item.check(value)
        except ValueError as error:
            raise ValueError(f"{place(key)}: {error}" if place else str(error)) from None
    return result


def unknown(key: str, known: Iterable[str], given: Iterable[str] = ()) -> str:
    """Return the message for an option that does not exist; one that is not given yet is likelier to be meant."""
    known, given = sorted(known), set(given)
    absent = [name for name in known if name not in given]
    close = [name for name in absent if name.startswith(key)]
    close = close or get_close_matches(key, absent, n=1) or get_close_matches(key, known, n=1)
    return f"unknown option {key!r:.80}" + (
        f". Did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    )


def takes_options(
    cls: type[Options],
) -> Callable[[Callable[Concatenate[Options, Own], Result]], Callable[..., Result]]:
    """Return a decorator for a function of checked options: callers give them as arguments, by position or by name.

    Keyword-only arguments of the function are added to the options, and take from Python what no command line can say.

    Args:
        cls: dataclass of the options, which the function takes first.
    """

    def decorate(function: Callable[Concatenate[Options, Own], Result]) -> Callable[..., Result]:
        parameters = inspect.signature(function).parameters
        own = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        options = [item.parameter for item in all_options(cls).values()]
        signature = inspect.Signature(sorted([*options, *own.values()], key=lambda p: p.kind))
        known = [*options_of(cls), *own]

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Result:
            for key in kwargs:
                if key not in signature.parameters:
                    raise ValueError(unknown(key, known, kwargs))
            given = signature.bind(*args, **kwargs).arguments  # TypeError as of any function: too many, or one twice
            beside = {key: given.pop(key) for key in own if key in given}
            return function(cls(**checked(cls, given)), **beside)  # type: ignore[call-arg]

        run.__signature__ = signature  # type: ignore[attr-defined]
        return run

    return decorate
