"""How long each script takes before it begins to work: --help, a mistyped option, and `import` plus option parsing.

    python -m benchmarks.startup

Every figure is the median of processes that take turns; that of Python itself and of `import torch` stand beside them.
Python keeps compiled files here, as it does unless PYTHONDONTWRITEBYTECODE is set: without them a script of ours takes
about 0.15 s more.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.tables import log_table, save_json, take_turns
from utils.console import cli_errors
from utils.paths import ROOT

SCRIPTS = {"train": "--epochs 3", "val": "--weights a.pt", "detect": "--weights a.pt", "export": "--weights a.pt"}


def run(*words: str, status: int = 0) -> None:
    """Run Python with some words.

    Raises:
        ValueError: it ends with another status.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != status:
        raise ValueError(f"python {' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    parser.add_argument("--json", default="", help="write the table to this file too")
    opt = parser.parse_args()
    functions: dict[str, Callable[[], None]] = {
        "python": partial(run, "-c", "pass"), "import torch": partial(run, "-c", "import torch")
    }  # fmt: skip
    for script, words in SCRIPTS.items():
        functions[f"{script} --help"] = partial(run, f"{script}.py", "--help")
        functions[f"{script} --mistake"] = partial(run, f"{script}.py", "--mistake", status=2)
        code = f"import {script}; {script}.parse_opt({words.split()!r})"
        functions[f"import {script} and parse"] = partial(run, "-c", code)
    seconds = take_turns(functions, opt.repeats)
    rows = [{"what": name, "seconds": s, "of import torch": s / seconds["import torch"]} for name, s in seconds.items()]
    log_table(rows)
    save_json(opt.json, vars(opt), {"rows": rows})


if __name__ == "__main__":
    with cli_errors():
        main()
