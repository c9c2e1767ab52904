"""Feed the readers of foreign files with bytes that are changed towards code not seen yet (coverage-guided fuzzing).

    pip install atheris
    python -m tests.fuzz --seconds 60               # every target for a minute
    python -m tests.fuzz --seconds 600 yaml pickle  # two of them for ten minutes each
    python -m tests.fuzz yaml --repeat runs/fuzz/yaml/crash-0123  # one input again, with its traceback

A reader may refuse a file with the errors that its docstring names, and nothing else: any other exception, a label
outside of its bounds, a program that is started, a connection, a file that is written, more than 2.5 GiB of memory or
20 seconds for one input is a finding. Inputs that reach new code, and findings, lie in runs/fuzz/TARGET.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch  # noqa: F401 - before the instrumented imports, which are not to reach into it

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("labels", "coco", "voc", "image", "yaml", "pickle", "archive", "engine", "tflite")
INSTRUMENTED = [
    "models.weights.checkpoint",
    "models.weights.yolov5",
    "models.inert_pickle",
    "utils.model_files.inert_pickle",
]
INSTRUMENTED += [
    "utils.model_files.torch_file",
    "utils.model_files.engine",
    "utils.files",
    "utils.datasets.reader",
]
INSTRUMENTED += ["utils.datasets.coco", "utils.datasets.voc", "models.runtimes", "yaml", "PIL"]
LIMITS = ["-rss_limit_mb=2560", "-timeout=20", "-max_len=20000", "-print_final_stats=1"]


def run_child(name: str, folder: Path, arguments: list[str]) -> None:
    """Fuzz one target in this process, which ends here."""
    import atheris  # noqa: PLC0415, optional

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz import readers  # noqa: PLC0415, instrumented
    logging.disable(logging.CRITICAL)
    os.fsync = lambda _: None  # whether the disk has what was written does not matter here, but takes most of the time
    words = readers.prepare(name, folder)
    with tempfile.TemporaryDirectory() as scratch:
        target = readers.Target(Path(scratch), name, readers.Sentinel(Path(scratch)))
        atheris.Setup([sys.argv[0], f"-dict={words}", *arguments], target)
        atheris.Fuzz()


def start_child(name: str, folder: Path, arguments: list[str]) -> tuple[int, int, str]:
    """Fuzz one target in another process; return its exit status, the inputs tried, and the line of an error."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", "--child", name, str(folder), *arguments]
    with (folder / "log.txt").open("wb") as out:
        status = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    count = [line.rpartition(" ")[2] for line in lines if line.startswith("stat::number_of_executed_units")]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|Bomb)\w*:|==\d+== ?ERROR", line)]
    return status, int(count[-1]) if count else 0, errors[0] if errors else ""


def main() -> int:
    """Fuzz the targets one after the other and print a table; 1 if there are findings."""
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--repeat", type=Path, default=None, help="file with one input, tried once")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/fuzz", help="inputs, findings, logs")
    opt = parser.parse_args()
    if find_spec("atheris") is None:
        parser.error("this needs atheris: pip install atheris")
    if unknown := set(opt.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if opt.repeat:
        if len(opt.targets) != 1:
            parser.error("--repeat needs one target")
        run_child(opt.targets[0], opt.folder / opt.targets[0], [str(opt.repeat)])
    found = 0
    for name in opt.targets or TARGETS:
        folder, start = opt.folder / name, time.perf_counter()
        options = [f"-max_total_time={opt.seconds}", f"-artifact_prefix={folder}/", *LIMITS, str(folder / "inputs")]
        status, count, error = start_child(name, folder, options)
        found += status != 0
        verdict = f"FOUND, see {folder}: {error}" if status else "nothing found"
        sys.stdout.write(f"{name:<10}{count:>10} inputs{time.perf_counter() - start:>8.0f} s  {verdict}\n")
        sys.stdout.flush()
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
