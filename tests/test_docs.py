"""The README and the pages of docs/: what they say is generated, linked, short, and works."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ablations
import densenet
from ablations.cli import app
from ablations.grid.reader import read
from ablations.report.captions import WORDS
from ablations.report.citations import check
from ablations.signals import STOPPING

ROOT = Path(__file__).parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
BASE = """\
[base]
model.depth = 10
data.name = "random"
data.shape = [3, 32, 32]
data.classes = 10
data.size = 6000
"""
STUDY = """
[study.growth_rate]
model.growth_rate = [4, 8]
"""


def blocks(page: Path, language: str) -> list[str]:
    """What stands between the fences of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def write_files(page: Path, folder: Path) -> None:
    """The files that a page tells to write: a name at a line's end, and a block behind it."""
    for name, text in re.findall(r"`(\w+\.\w+)`:\n\n```\w+\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        (folder / name).write_text(text)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; the signals' handlers as they were before."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.stem)
def test_generated_parts_are_what_the_code_says(page):
    text = page.read_text()
    assert runpy.run_path(str(DOCS / "fields.py"))["generate"](text) == text, "`python docs/fields.py` writes it anew"


def test_the_grid_reference_has_every_key():
    text = (DOCS / "grid-reference.md").read_text()
    others = [(DOCS / name).read_text() for name in ("measures.md", "python.md")]
    parts = set(re.findall(r"<!-- generated (\w+) -->", "".join([text, *others])))
    assert parts == set(runpy.run_path(str(DOCS / "fields.py"))["PARTS"])
    for key in (
        "title",
        "seeds",
        "time_limit",
        "speed_rounds",
        "margin",
        "question",
        "tune",
        "match",
        "published",
        "published_source",
    ):
        assert re.search(rf"^\| .*`{key}\b.*\|", text, re.MULTILINE), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_relative_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert re.match(r"https?:", target) or (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_of_the_project_that_a_page_names_is_there(page):
    for path in re.findall(r"`((?:ablations|densenet|tests|docs|\.ci)/[\w./-]*)`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_cited_number_is_recorded(page):
    if page.stem != "tutorial":  # whose numbers are those of its own grid
        assert [citation.problem for citation in check(page) if citation.problem] == []


def test_the_first_page_names_every_command():
    page = (DOCS / "index.md").read_text()
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert re.search(rf"^\| `ablate {name}\b", page, re.MULTILINE), name


@pytest.mark.parametrize("package", [ablations, densenet], ids=lambda package: package.__name__)
def test_the_page_on_python_names_every_public_name(package):
    names = re.findall(rf"^\| `{package.__name__}\.(\w+)` \|", (DOCS / "python.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(package.__all__)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_line_of_a_sentence_begins_with_a_comment(path):
    """Markdown ends the paragraph, or the list, before such a line."""
    assert not re.findall(r"^ *<!-- ablate [^>]*-->.+", path.read_text(), re.MULTILINE)


def test_every_page_is_in_the_menu():
    menu = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_readme_and_the_page_explain_the_same_words():
    lines = re.findall(r"^- \*\*\w+\*\*: .*(?:\n  .*)*", README.read_text(), re.MULTILINE)
    plain = [" ".join(re.sub(r"[*`]", "", line).split()) for line in lines]
    assert plain == [f"- {word}: {meaning}" for word, meaning in WORDS.items()]
    assert len(plain) == 6


def test_the_readme_has_at_most_a_thousand_words():
    """Beside what is cited from records."""
    own = re.sub(r"<!-- ablate .*?<!-- /ablate -->", "", README.read_text(), flags=re.DOTALL)
    assert len(own.split()) <= 1000


def test_the_readme_s_grid_and_network_work(here, monkeypatch):
    write_files(README, here)
    (grid, study) = blocks(README, "toml")
    assert len(grid.splitlines()) == 10
    assert (here / "mine.toml").read_text() == grid
    (here / "mine.toml").write_text(grid + study)
    monkeypatch.delitem(sys.modules, "mynetwork", raising=False)
    try:
        found = read(here / "mine.toml")
    finally:
        sys.modules.pop("mynetwork", None)
    levels = [[level.label for level in study.levels] for study in found.studies]
    assert levels == [["8", "12", "16"], ["base", "SmallNet"]]
    assert len([line for line in (here / "mynetwork.py").read_text().splitlines() if line]) == 5


@pytest.mark.parametrize("page", ["grid-reference", "own-network", "own-parts", "data"])
def test_the_pages_grids_are_valid(page, here):
    write_files(DOCS / f"{page}.md", here)
    for number, block in enumerate(blocks(DOCS / f"{page}.md", "toml")):
        if "root" in tomllib.loads(block).get("base", {}).get("data", {}):
            continue  # needs files of the reader's own
        path = here / f"{number}.toml"
        base = "" if "data.name" in block else BASE
        path.write_text(base + block + ("" if "[study" in block or "[[study" in block else STUDY))
        try:
            read(path)
        finally:
            for name in ("mynetwork", "myparts", "finetune"):
                sys.modules.pop(name, None)


def test_the_tutorial_from_a_grid_to_a_cited_number(here):
    """Every command of the page, one after the other."""
    page = DOCS / "tutorial.md"
    write_files(page, here)
    said = {}
    for command in [line for block in blocks(page, "") for line in block.splitlines()]:
        name, *arguments = shlex.split(command)
        assert name == "ablate"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        said[command] = result.output
    assert "6 runs of 2 variants, 6 of them missing; 2 costs missing" in said["ablate plan growth.toml"]
    assert "Nothing to train or to measure: 9 of 9 jobs" in said["ablate run growth.toml"]
    assert "Comparisons of speed: 1, 1 of them missing" in said["ablate plan growth.toml"]
    assert "runs: 6 done" in said["ablate status results/growth"]
    assert "speeds: 1 done" in said["ablate status results/growth"]
    assert "growth_rate 8 params -->0<!--" not in (here / "paper.md").read_text()
    assert "1 of 1 cited numbers" in said["ablate check paper.md"]
    assert said["ablate cite results/growth growth_rate 8 params"].split()[0] in (here / "paper.md").read_text()


RUN_CELLS = """
import ast, json, sys
names = {}
for source in json.load(sys.stdin):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    print(json.dumps(repr(eval(ast.unparse(last), names)) if last else ""))
"""
"""Executes cells as a notebook does, and prints the value of each one's last line."""


@pytest.mark.parametrize("name", ["results", pytest.param("run", marks=pytest.mark.slow)])
def test_a_notebook_runs_and_its_outputs_are_those_it_shows(name, tmp_path):
    """The notebook that reads results does so where it lies."""
    notebook = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    shown = [
        "".join(line for output in cell["outputs"] for line in output["data"].get("text/plain", [])) for cell in cells
    ]
    found = subprocess.run(
        [sys.executable, "-c", RUN_CELLS],
        input=json.dumps(sources),
        cwd=DOCS / "notebooks" if name == "results" else tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert [json.loads(line) for line in found.stdout.splitlines()] == shown
