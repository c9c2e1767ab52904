"""The files beside the code: workflow, hooks, forms, versions, the pages of the site."""

import re
from pathlib import Path

import pytest
import yaml

from utils.paths import VERSION

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


def load(file):
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


def test_the_workflow_runs_what_every_change_must_pass():
    jobs = load(".github/workflows/ci.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.10", "3.12", "3.13"]  # strings: 3.10 is no number
    (step,) = [step for step in jobs["tests"]["steps"] if "run" in step]
    assert (step["run"], step["env"]) == (".ci/run", {"CPU": "1"})
    assert (ROOT / step["run"]).stat().st_mode & 0o111
    assert [step["run"] for step in jobs["docs"]["steps"] if "run" in step] == ["make docs"]


def test_targets_that_files_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    files = [ROOT / ".pre-commit-config.yaml", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/**/*")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    named = set(re.findall(r"(?:`|entry: |run: |^)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "types", "docs"} <= named
    assert [name for name in named if f"\n{name}:" not in makefile] == []


def test_hooks_fetch_nothing():
    (repo,) = load(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    assert [hook["id"] for hook in repo["hooks"]] == ["ruff", "ruff-format", "codespell", "types"]


@pytest.mark.parametrize("form", FORMS, ids=lambda file: file.stem)
def test_forms_are_those_of_github(form):
    content = load(form)
    assert {"name", "description", "body"} <= set(content)
    for item in content["body"]:
        assert item["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert item["attributes"]["label"]
    assert len({item["id"] for item in content["body"]}) == len(content["body"])


def test_one_version():
    assert load("CITATION.cff")["version"] == VERSION
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)", changes, re.MULTILINE)
    assert newest.groups() == (VERSION, str(load("CITATION.cff")["date-released"]))


def test_every_page_is_in_the_navigation():
    def pages(entry):
        parts = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else None
        return [entry] if parts is None else [page for part in parts for page in pages(part)]

    assert sorted(pages(load("mkdocs.yml")["nav"])) == sorted(file.name for file in ROOT.glob("docs/*.md"))
