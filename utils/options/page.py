"""docs/options.md, the tables of all options: `python -m utils.options.page` writes it anew."""

from utils.options.convert import ConvertOptions
from utils.options.detect import DetectOptions
from utils.options.export import ExportOptions
from utils.options.table import markdown
from utils.options.train import TrainOptions
from utils.options.val import ValOptions
from utils.paths import ROOT

PAGE = ROOT / "docs/options.md"
HEAD = """# Options

Written by `make docs-options` from `utils/options/`, where each option stands once: do not edit this page.

On the command line an option may be shortened to any beginning that is clear, such as `--conf 0.4`. From Python the
functions `train.run`, `val.run`, `detect.run` and `export.run` take the same options as arguments, `--conf-thres 0.4`
as `conf_thres=0.4`, and check them in the same way; several values are a list, a flag is True. `val.run`, `detect.run`
and `export.run` also take them by position, in the order of YOLOv5's signatures.
"""


def page() -> str:
    """Return the page as its sources say now."""
    scripts = {"train": TrainOptions, "val": ValOptions, "detect": DetectOptions, "export": ExportOptions}
    tables = "".join(f"\n## {name}.py\n\n{markdown(cls, str(ROOT))}" for name, cls in scripts.items())
    return f"{HEAD}{tables}\n## python -m engine.convert\n\n{markdown(ConvertOptions, str(ROOT))}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
