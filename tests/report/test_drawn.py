"""Figures are drawn again where something that they show has changed, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import MACHINE, TINY, record_of, write_grid

from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report.frames import load
from ablations.report.plotting import drawing, drawn
from ablations.report.plotting.drawn import Drawn, fingerprint
from ablations.report.plotting.figures import write_figures
from ablations.report.results import analyse
from ablations.storage import records
from ablations.storage.files import StorageError

TWO = TINY + '\n[study.compression]\nquestion = "And a narrower one?"\nmodel.compression = [0.5, 1.0]\n'
WIDER, NARROWER = ["growth_rate", "growth_rate.curves"], ["compression", "compression.curves"]
EVERY = sorted([*WIDER, *NARROWER, "pareto"])


def make(folder, text=TWO, change=None):
    """A results folder of two studies. The job of the name `change` has another result."""
    shutil.rmtree(folder / "records", ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    grid = read(write_grid(folder.parent, text))
    make_manifest(grid, MACHINE, folder).write(folder)
    for job in list_jobs(grid, MACHINE):
        seed = job.config.seed if job.kind == "run" else 0
        more = job.name == change
        records.publish(folder, record_of(job, 90.0 + seed + more, 1.0 + more))
    return folder


@pytest.fixture
def asked(monkeypatch):
    """The names of the figures that were asked for. Each is written as its name, instead of being drawn."""
    names = []

    def draw(drawings, folder, cores):
        for each in drawings:
            names.append(each.name)
            for suffix in drawn.SUFFIXES:
                path = folder / f"{each.name}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_text(each.name)

    monkeypatch.setattr(drawing, "draw", draw)
    return names


def renew(folder, asked, **options):
    """The figures that a new report of a folder draws."""
    asked.clear()
    write_figures(analyse(load(folder)), **options)
    return sorted(asked)


def test_a_figure_that_shows_the_same_is_not_drawn_again(tmp_path, asked):
    folder = make(tmp_path / "r" / "results")
    assert renew(folder, asked) == EVERY
    assert renew(folder, asked) == []
    assert renew(folder, asked, bare=True) == sorted(
        f"bare/{name}.{size}" for name in EVERY for size in ("column", "page")
    )
    assert renew(folder, asked, bare=True) == renew(folder, asked) == []
    folder.rename(tmp_path / "elsewhere")
    assert renew(tmp_path / "elsewhere", asked) == []


def test_a_changed_record_draws_what_shows_it(tmp_path, asked):
    folder = make(tmp_path / "r" / "results")
    renew(folder, asked)
    every = {"growth_rate 8, seed 1": WIDER, "compression 1.0": NARROWER, "base, seed 0": [*WIDER, *NARROWER]}
    for name, study in every.items():
        make(folder, change=name)
        assert renew(folder, asked) == sorted([*study, "pareto"]), name
        make(folder)
        assert renew(folder, asked) == sorted([*study, "pareto"]), "and back again"


def test_a_lost_record_draws_what_showed_it(tmp_path, asked):
    folder = make(tmp_path / "r" / "results")
    renew(folder, asked)
    runs = load(folder).runs
    lost = runs[(runs["model.growth_rate"] == 8) & (runs.seed == 0)].id.item()
    path = folder / "records" / f"{lost}.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert set(renew(folder, asked)) >= {*WIDER, "pareto"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What does a wider layer buy?", "What does it buy?"),
        ("And a narrower one?", "Or narrower?"),
        ("speed_rounds = 0", "speed_rounds = 0\nmargin = 2.0"),
    ],
)
def test_a_changed_caption_draws_again(tmp_path, asked, old, new):
    folder = make(tmp_path / "r" / "results")
    renew(folder, asked)
    text = TWO.replace(old, new) if "margin" not in new else TWO + "margin = 2.0\n"
    make(folder, text)
    study = WIDER if "wider" in old else NARROWER
    assert {*study, "pareto"} <= {*renew(folder, asked)}


def test_other_code_libraries_and_fonts_draw_everything_again(tmp_path, asked, monkeypatch):
    folder = make(tmp_path / "r" / "results", TWO.replace("narrower", "窄"))
    renew(folder, asked)
    code = tmp_path / "ablations"
    shutil.copytree(drawn.ROOT, code, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    monkeypatch.setattr(drawn, "ROOT", code)
    drawn.fingerprint_code.cache_clear()
    assert renew(folder, asked) == [], "a copy is the same code"
    for name in ("metrics.py", "storage/manifest.py", "report/captions.py", "report/plotting/style.py"):
        (code / name).write_text((code / name).read_text() + "\n")
        drawn.fingerprint_code.cache_clear()
        assert renew(folder, asked) == EVERY, name
    with monkeypatch.context() as patched:
        patched.setattr(drawn, "version", lambda name: "0.1")
        drawn.fingerprint_code.cache_clear()
        assert renew(folder, asked) == EVERY, "other versions"
    drawn.fingerprint_code.cache_clear()
    assert renew(folder, asked) == EVERY
    monkeypatch.setattr("ablations.report.plotting.fonts.list_fonts", lambda: ["Comic Sans"])
    assert renew(folder, asked) == EVERY, "other fonts"
    drawn.fingerprint_code.cache_clear()


def test_a_damaged_or_deleted_file_is_drawn_again(tmp_path, asked):
    folder = make(tmp_path / "r" / "results")
    renew(folder, asked)
    figures = folder / "figures"
    for suffix in drawn.SUFFIXES:
        (figures / f"pareto.{suffix}").unlink()
        assert renew(folder, asked) == ["pareto"], suffix
        (figures / f"growth_rate.curves.{suffix}").write_text("edited by hand")
        assert renew(folder, asked) == ["growth_rate.curves"], suffix
        (figures / f"growth_rate.{suffix}").unlink()
        (figures / f"growth_rate.{suffix}").symlink_to(figures / f"compression.{suffix}")
        assert renew(folder, asked) == ["growth_rate"], "a link is no figure"
    assert renew(folder, asked) == []


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"pareto": 1}', "\udcff"])
def test_without_whole_notes_everything_is_drawn(tmp_path, asked, damage):
    folder = make(tmp_path / "r" / "results")
    renew(folder, asked)
    (folder / "figures" / drawn.NAME).write_bytes(damage.encode(errors="surrogateescape"))
    assert renew(folder, asked) == EVERY
    assert renew(folder, asked) == []


def test_a_figure_that_cannot_be_drawn_is_not_noted(tmp_path, asked, monkeypatch):
    folder = make(tmp_path / "r" / "results")
    renew(folder, asked)
    make(folder, change="growth_rate 8, seed 0")
    half = drawing.draw

    def fail(drawings, place, cores):
        half(drawings[:1], place, cores)
        raise StorageError(28, "No space left on device", str(place))

    with monkeypatch.context() as patched:
        patched.setattr(drawing, "draw", fail)
        with pytest.raises(StorageError):
            renew(folder, asked)
    assert renew(folder, asked) == sorted([*WIDER, "pareto"])


FRAME = pd.DataFrame({"a": [1, 2], "b": [0.1, float("nan")], "c": ["x", None], "d": pd.array([1, None], dtype="Int64")})


@pytest.mark.parametrize(
    "other",
    [
        FRAME.assign(a=[1, 3]),
        FRAME.assign(a=[1.0, 2.0]),
        FRAME.assign(b=[np.nextafter(0.1, 1), float("nan")]),
        FRAME.assign(b=[0.1, 0.0]),
        FRAME.assign(c=["x", ""]),
        FRAME.assign(d=pd.array([1, 0], dtype="Int64")),
        FRAME.rename(columns={"a": "z"}),
        FRAME[["b", "a", "c", "d"]],
        FRAME[::-1],
        FRAME.set_index("c", drop=False),
        FRAME.assign(a=pd.Series([[1], [2]], dtype=object)),
    ],
)
def test_other_frames_have_other_fingerprints(other):
    assert fingerprint(FRAME) == fingerprint(FRAME.copy())
    assert fingerprint(other) == fingerprint(other.copy()) != fingerprint(FRAME)


def test_long_arrays_count_to_their_last_value():
    one, other = np.zeros((100, 100)), np.zeros((100, 100))
    other[-1, -1] = 1e-300
    assert len({fingerprint(each) for each in (one, other, one.T.reshape(50, 200), one.astype(np.float32))}) == 4


def test_other_values_have_other_fingerprints():
    values = [
        None,
        True,
        1,
        "1",
        1.5,
        "a",
        ["a"],
        {"a": 1},
        {"a": "1"},
        np.float32(0.1),
        np.float64(0.1),
        pd.NA,
        (),
        "",
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(frozenset("abc")) == fingerprint(frozenset("cba"))


def test_a_value_of_an_unknown_kind_is_never_the_same():
    for value in (object(), SimpleNamespace(a=1), {(1, 2): 3}, [1, object()], {"a", 1}):
        assert fingerprint(value) != fingerprint(value)


def test_notes_keep_what_they_know_of_other_figures(tmp_path):
    for name in ("a", "b"):
        for suffix in drawn.SUFFIXES:
            (tmp_path / f"{name}.{suffix}").write_text(name)
        Drawn(tmp_path).note({name: name * 2})
    assert [*json.loads((tmp_path / drawn.NAME).read_bytes())] == ["a", "b"]
    found = Drawn(tmp_path)
    assert found.shows("a", "aa")
    assert found.shows("b", "bb")
    assert not found.shows("a", "bb")
    assert not found.shows("c", "cc")
    os.unlink(tmp_path / "a.png")
    assert not found.shows("a", "aa")
