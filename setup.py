"""Build the wheel: everything below one package `yolov5_swinv2`, so that no `utils` or `models` meets a program's own.

In the repository `models`, `utils`, `engine` and the scripts import each other by these names. The copies in the wheel
import each other as `yolov5_swinv2.models` and so on; nothing else of them differs. All other settings of the build are
in pyproject.toml.
"""

import ast
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import SetupError

PACKAGE = "yolov5_swinv2"
SCRIPTS = ("train", "val", "detect", "export", "hubconf")
ROOMS = ("models", "utils", "engine")
DATA = ("data", "data.hyps", "models.hub")  # folders without Python files


class NoEditable(editable_wheel):
    """`pip install --editable`: the files of the clone cannot import each other by two names."""

    def run(self) -> None:
        """Raise SetupError."""
        raise SetupError("no editable install: the clone runs as it is, and `pip install .` installs a copy of it")


def move_imports(text: str, file: str) -> str:
    """Return Python source that imports our modules from the package.

    Args:
        text: source as in the repository.
        file: for messages.

    Raises:
        SetupError: `import models.x` without `as`, which binds the name `models`.
    """
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text, file)):
        names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if not any(str(name).partition(".")[0] in (*ROOMS, *SCRIPTS) for name in names):
            continue
        line = lines[node.lineno - 1]
        start, statement = line[: node.col_offset], line[node.col_offset :]
        if isinstance(node, ast.ImportFrom):
            statement = re.sub(r"from\s+", f"from {PACKAGE}.", statement, count=1)
        elif len(names) == 1 and "." not in names[0]:
            statement = f"from {PACKAGE} {statement}"
        else:
            raise SetupError(f"{file}:{node.lineno}: write this import as `from ... import ...`, one module a line")
        lines[node.lineno - 1] = start + statement
    return "".join(lines)


class BuildPackage(build_py):
    """Copy the sources into the package and move their imports."""

    def run(self) -> None:
        """Build into an empty folder: what an earlier build left there would come into the wheel."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return (package, module, file) of each module; the package itself gets the scripts and the folder's files."""
        if package != PACKAGE:
            return super().find_package_modules(package, package_dir)
        files = [*(f"{script}.py" for script in SCRIPTS), *map(str, sorted(Path(PACKAGE).glob("*.py")))]
        return [(package, Path(file).stem, file) for file in files]

    def build_module(self, module: str | list[str], module_file: str, package: str) -> tuple[str, bool]:
        """Copy one module with moved imports."""
        target, copied = super().build_module(module, module_file, package)
        text = Path(module_file).read_text(encoding="utf-8")
        Path(target).write_text(move_imports(text, module_file), encoding="utf-8")
        return target, copied


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": BuildPackage, "editable_wheel": NoEditable},
        package_dir={PACKAGE: "."} | {f"{PACKAGE}.{room}": room for room in (*ROOMS, "data")},
        packages=[
            PACKAGE,
            *(f"{PACKAGE}.{name}" for room in ROOMS for name in find_packages(include=[room, f"{room}.*"])),
            *(f"{PACKAGE}.{name}" for name in DATA),
        ],
    )
