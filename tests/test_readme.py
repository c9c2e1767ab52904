"""What README.md and docs/ name exists: functions, files, options, links, hyperparameter files, figures."""

import importlib
import re
from pathlib import Path

import pytest

import detect
import export
import train
import val
from benchmarks.results_table import BEGIN, END, table

ROOT = Path(__file__).resolve().parents[1]
PAGES = {file.name: file.read_text(encoding="utf-8") for file in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
README, PAGE = PAGES["README.md"], PAGES["coming-from-yolov5.md"]
CODE = [block for text in PAGES.values() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]


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


def anchors(text):
    """The anchors of the headings of a page, as GitHub and mkdocs make them."""
    lines = re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
    headings = [line.lstrip("# ").lower() for line in lines if re.match("#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in headings}


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
    text = "\n".join(PAGES.values())
    files = re.findall(r"(?<![\w/])(?:models|data|engine|benchmarks|utils|tests)/[\w/.-]+\.(?:yaml|py|csv)", text)
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        file = folder / path if path else folder / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "README.md"])
def test_pages_say_first_what_the_reader_can_do_afterwards(name):
    first = PAGES[name].split("\n\n")[1]
    assert first.startswith(("After this page you", "From this page you"))


def test_every_page_is_linked_from_the_index():
    index = PAGES["index.md"]
    assert [name for name in PAGES if f"]({name})" not in index and name not in ("README.md", "index.md")] == []


def test_every_hyperparameter_file_is_listed():
    listed = PAGES["training.md"].split("## Hyperparameters")[1].split("\n## ")[0]
    names = [file.name.replace("hyp.scratch-", "-") for file in (ROOT / "data/hyps").iterdir()]
    names = [name.removesuffix(".yaml") if name.startswith("-") else name for name in names]
    assert [name for name in names if name not in listed] == []


def test_readme_is_short():
    assert len(README.encode()) <= 9000


def test_the_table_of_results_is_that_of_the_measurements():
    assert README.split(BEGIN)[1].split(END)[0] == table(), "write it anew: python -m benchmarks.results_table"
