"""What the README names exists: functions, files, options, hyperparameter files."""

import importlib
import re
from pathlib import Path

import pytest

import detect
import export
import train
import val

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/coming-from-yolov5.md").read_text(encoding="utf-8")
CODE = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def rows(text, heading):
    """Cells of the tables below a heading, up to the next one."""
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    return [line.strip("| ").split(" | ") for line in lines]


def resolve(name):
    """The object behind a dotted name such as models.yolo.DetectionModel.info."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if (ROOT / Path(*parts[:n])).with_suffix(".py").is_file():
            found = importlib.import_module(".".join(parts[:n]))
            for attribute in parts[n:]:
                found = getattr(found, attribute)
            return found
    raise AttributeError(name)


def test_moved_names_are_where_the_table_says():
    here = " ".join(cell for _, cell in rows(PAGE, "Where the functions are"))
    names = re.findall(r"`((?:utils|models)\.[\w.]+)`", here)
    assert len(names) > 25
    assert all(callable(resolve(name)) or isinstance(resolve(name), tuple) for name in names)
    with pytest.raises(AttributeError):
        resolve("utils.general.no_such_function")


@pytest.mark.parametrize("script", [train, val, detect, export], ids=lambda module: module.__name__)
def test_commands_parse(script, capsys):
    found = re.findall(rf"python {script.__name__}\.py(.*)", "\n".join(CODE).replace("\\\n", ""))
    assert found
    for line in found:
        words = [word.strip("'") for word in line.partition("#")[0].split()]
        script.parse_opt(words)
        with pytest.raises(SystemExit):  # so an option that does not exist would have been seen
            script.parse_opt([*words, "--no-such-option"])
        assert "unrecognized arguments: --no-such-option" in capsys.readouterr().err


def test_files_exist():
    files = re.findall(r"(?:models|data|data/hyps|utils|tests)/[\w.-]+\.(?:yaml|py)", README)
    assert len(files) > 5
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_hyperparameter_file_is_listed():
    listed = README.split("### Hyperparameters")[1].split("\n## ")[0]
    names = [file.name.replace("hyp.scratch-", "-") for file in (ROOT / "data/hyps").iterdir()]
    names = [name.removesuffix(".yaml") if name.startswith("-") else name for name in names]
    assert [name for name in names if name not in listed] == []
