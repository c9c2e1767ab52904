"""docs/options.md, the tables of all options: `python -m utils.options.page` writes it."""

from utils.options.check import Number
from utils.options.convert import ConvertOptions
from utils.options.detect import DetectOptions
from utils.options.doctor import DoctorOptions
from utils.options.export import ExportOptions
from utils.options.pretrain import PretrainOptions
from utils.options.split import SplitOptions
from utils.options.table import Option, alternatives, options_of
from utils.options.train import TrainOptions
from utils.options.val import ValOptions
from utils.paths import ROOT

PAGE = ROOT / "docs/options.md"
PROGRAMS = {
    "train.py": TrainOptions,
    "val.py": ValOptions,
    "detect.py": DetectOptions,
    "export.py": ExportOptions,
    "python -m engine.convert": ConvertOptions,
    "python -m engine.doctor": DoctorOptions,
    "python -m engine.pretrain": PretrainOptions,
    "python -m engine.split": SplitOptions,
}
HEAD = """# Options

After this page you know every option of every program, with its values and its default.

Written by `make docs-options` from `utils/options/`, where each option stands once: do not edit this page.

On the command line an option may be shortened to any beginning that is clear, such as `--conf 0.4`. From Python the
functions `train.run`, `val.run`, `detect.run` and `export.run` take the same options as arguments, `--conf-thres 0.4`
as `conf_thres=0.4`, and check them in the same way; several values are a list, a flag is True. `val.run`, `detect.run`
and `export.run` also take them by position, in the order of YOLOv5's signatures.
"""


def page() -> str:
    """Return the page as its sources say now."""
    return HEAD + "".join(f"\n## {program}\n\n{markdown(cls)}" for program, cls in PROGRAMS.items())


def markdown(cls: type) -> str:
    """Return the table of the options that a dataclass declares."""
    rows = ["| option | value | default | meaning |", "| --- | --- | --- | --- |"]
    for item in options_of(cls).values():
        flags = ", ".join(f"`{flag}`" for flag in item.flags)
        meaning = item.help.replace("<", "\\<")  # Markdown would take <image> for HTML
        rows.append(f"| {flags} | {values_of(item)} | {default_of(item)} | {meaning} |")
    return "\n".join(rows) + "\n"


def values_of(item: Option) -> str:
    """Say which values an option takes."""
    if item.flag:
        return "flag"
    if item.choices:
        words = ", ".join(f"`{choice}`" for choice in item.choices)
    elif isinstance(item.read, Number):
        words = str(item.read)
    else:
        kinds = alternatives(getattr(item.types[0], "__origin__", item.types[0]))  # of Annotated, what it marks
        words = " or ".join("integer" if kind is int else "string" for kind in kinds)
    words += "; one or more" * item.many
    if item.bare is not None:
        words += "; may be left out" if item.bare is True else f"; `{item.bare}` where it is left out"
    return words


def default_of(item: Option) -> str:
    """Say what an option is that was not given; paths below the repository are relative to it."""
    if item.required:
        return "required"
    if item.default is False or item.default in (None, "", []):
        return ""
    values = item.default if isinstance(item.default, list) else [item.default]
    return f"`{' '.join(str(value).removeprefix(f'{ROOT}/') for value in values)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
