"""The house's order: a file imports only from files that stand above it."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from itertools import chain, groupby
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "densenet": "norms options config recompute blocks densenet kernels normalize_once resnet sources pretrained "
    "foreign presets registry counting __init__",
    "ablations": "metrics signals limits",
    "ablations.storage": "files locks turns paths journal schema records disturbance sources manifest merging",
    "ablations ": "parts config environment",
    "ablations.data": "images source cache listing subsets digests download builtin shards parquet arrays own "
    "imagefolder published registry dataset augmentation",
    "ablations.grid": "toml model planning tuning problems schema fields probing variants matching trials reader",
    "ablations.training": "step graph stopwatch events checkpoint distributed evaluation loop weights",
    "ablations.profiling": "timing counts subject memory cost speed",
    "ablations.execution": "fresh together engine local inline changes job seat travel ray submissions slurm_seat "
    "slurm display driver estimate plan",
    "ablations.report": "ratios mixing survey frames effects statistics comparison errors printing results captions "
    "tables values formats power",
    "ablations.report.plotting": "looks fonts style levels effect curves heat_map trade mistakes tuning pareto drawn "
    "drawing figures",
    "ablations.report ": "answers page marks neighbours citations exporting trackers",
    "ablations  ": "session __init__ cli __main__",
}
ORDER = [f"{package.strip()}.{name}" for package, names in PACKAGES.items() for name in names.split()]


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


@cache
def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & set(ORDER) or {node.module}
    return {name if name in ORDER else f"{name}.__init__" for name in found} & set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_one_way(module):
    later = ORDER[ORDER.index(module) :]
    assert imported(path_of(module)).isdisjoint(later), f"{module} may import only from what stands above it"


def test_every_file_has_its_place():
    files = [path for name in ("densenet", "ablations") for path in (ROOT / name).rglob("*.py")]
    inner = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert {name for name in inner if not name.endswith("__init__") or name.count(".") == 1} == set(ORDER)


def test_the_report_knows_nothing_of_networks_and_trainings():
    for path in (ROOT / "ablations" / "report").rglob("*.py"):
        beyond = {name for name in imported(path) if not name.startswith(("ablations.report.", "ablations.storage."))}
        assert beyond <= {"ablations.metrics", "ablations.execution.fresh"}, path.name
        assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE), path.name
    assert imported(path_of("ablations.execution.fresh")) == {"ablations.signals"}


def test_every_module_has_its_tests():
    """In the folder of its package: a file of its name, or one that imports it. No folder is named `densenet`, which
    would hide the package.
    """
    for module in ORDER:
        package, _, name = module.rpartition(".")
        folder = "networks" if package == "densenet" else package.removeprefix("ablations").lstrip(".").split(".")[0]
        tests = list((ROOT / "tests" / folder).glob("test_*.py"))
        known = {path.stem for path in tests} | {each for path in tests for each in imported(path)}
        assert name.startswith("__") or known & {f"test_{name}", module}, f"{module} has no test in {folder}/"


def test_the_page_on_the_architecture_shows_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.findall(r"^ *(\w+)\.py  ", page, re.MULTILINE)
    assert tree == [name.rpartition(".")[2] for name in ORDER if not name.endswith("__")]
    packages = [name for name, _ in groupby(package.strip().rpartition(".")[2] for package in PACKAGES)]
    assert set(re.findall(r"^ *(\w+)/  ", page, re.MULTILINE)) >= set(packages)


def test_the_networks_know_nothing_of_the_suite():
    for path in (ROOT / "densenet").glob("*.py"):
        assert "ablations" not in path.read_text(), path.name


def test_nothing_is_unpickled():
    for path in [*(ROOT / "densenet").glob("*.py"), *(ROOT / "ablations").rglob("*.py")]:
        assert not re.search(r"pickle|torch\.load|yaml|eval\(\"|exec\(|shell=True", path.read_text()), path.name


def test_every_test_that_the_reliability_page_names_is_there():
    page = (ROOT / "docs" / "reliability.md").read_text()
    places = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in re.findall(r"\btest_\w+(?!\w|\.py)", page):
        assert any(re.search(rf"^def {name}\(", text, re.MULTILINE) for text in places.values()), name
    for name in re.findall(r"\btest_\w+\.py", page):
        assert name in places, name


def pins_of(name: str) -> dict[str, Version]:
    """The version of each package in a file of constraints."""
    pins = [line.split("==") for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pins}


def test_declared_versions_are_tested_ones():
    """Each lower bound is the version of `make test-oldest`, and that of `make test` is allowed."""
    oldest, pinned = pins_of("constraints-oldest.txt"), pins_of("constraints.txt")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = declared["project"]
    groups = [declared["build-system"]["requires"], project["dependencies"], *project["optional-dependencies"].values()]
    for each in map(Requirement, chain(*groups)):
        name = canonicalize_name(each.name)
        if name != project["name"]:
            assert each.specifier == f">={oldest[name]}", name
            assert pinned[name] in each.specifier, name
