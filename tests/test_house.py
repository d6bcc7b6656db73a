"""The house's order: a file imports only from files named above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DENSENET = [
    "options",
    "config",
    "recompute",
    "blocks",
    "densenet",
    "kernels",
    "normalize_once",
    "resnet",
    "foreign",
    "presets",
    "__init__",
]
ABLATIONS = [
    "metrics", "files", "records", "locks", "signals", "config", "sources", "data", "augmentation", "environment",
    "grid", "tuning", "reader", "step", "stopwatch", "checkpoint", "evaluation", "train", "weights", "timing", "cost",
    "job", "engine", "display", "tidy", "driver", "plan", "statistics", "tables", "drawing", "figures", "answers",
    "report", "citations", "__init__", "cli", "__main__",
]  # fmt: skip
ORDER = [f"densenet.{name}" for name in DENSENET] + [f"ablations.{name}" for name in ABLATIONS]


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            package = f"{name}.__init__" if name in ("densenet", "ablations") else name
            if package in ORDER:
                found.add(package)
    if any(each.startswith("ablations.") for each in found):
        found.discard("ablations.__init__")  # `from ablations import records` names a module, not the package's own
    return found


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_one_way(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    later = ORDER[ORDER.index(module) :]
    assert imported(path).isdisjoint(later), f"{module} may import only from what stands above it"


def test_every_file_has_its_place():
    files = {
        f"{path.parent.name}.{path.stem}" for name in ("densenet", "ablations") for path in (ROOT / name).glob("*.py")
    }
    assert files == set(ORDER)


def test_every_module_has_its_tests():
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert {name.rpartition(".")[2] for name in ORDER} - {"__init__", "__main__"} <= tested


def test_the_readme_s_tree_is_the_house():
    tree = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^  (\w+)\.py ", tree, re.MULTILINE)) == {
        name.rpartition(".")[2] for name in ORDER if not name.endswith("__")
    }


def test_the_networks_know_nothing_of_the_suite():
    for path in (ROOT / "densenet").glob("*.py"):
        assert "ablations" not in path.read_text(), path.name


def test_nothing_is_unpickled():
    for path in [*(ROOT / "densenet").glob("*.py"), *(ROOT / "ablations").rglob("*.py")]:
        assert not re.search(r"pickle|torch\.load|yaml|eval\(\"|exec\(|shell=True", path.read_text()), path.name


def test_every_test_that_the_reliability_page_names_is_there():
    page = (ROOT / "docs" / "reliability.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"\btest_\w+(?!\w|\.py)", page):
        assert re.search(rf"^def {name}\(", tests, re.MULTILINE), name
    for name in re.findall(r"\btest_\w+\.py", page):
        assert (ROOT / "tests" / name).exists(), name
