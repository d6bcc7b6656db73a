"""Errors on the same images and classes: kappas as scikit-learn's, and shared errors of simulated runs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import TINY, fabricate, study_of, texts_of, write_grid
from sklearn.metrics import cohen_kappa_score

from ablations.grid.reader import read
from ablations.report.citations import tell_seeds
from ablations.report.comparison import Runs
from ablations.report.errors import FEWEST, compare_errors, find_kappas
from ablations.report.formats import write_tables
from ablations.report.frames import find_base, load
from ablations.report.plotting import looks, mistakes, style
from ablations.report.plotting.drawn import SUFFIXES
from ablations.report.plotting.figures import list_stems, write_figures
from ablations.report.results import analyse
from ablations.report.tables import find_table, make_errors_table
from ablations.report.values import collect_values
from ablations.storage.records import pack_bits


def runs_of(outcomes, seeds=None, test_set="a", classes=()):
    """The runs of a level, from which images each of them classified correctly, `(runs, images)`."""
    outcomes = np.asarray(outcomes, dtype=bool)
    names = range(len(outcomes)) if seeds is None else seeds
    accuracies = dict(zip(names, 100 * outcomes.mean(axis=1), strict=True))
    return Runs(accuracies, {}, (), tuple(outcomes), (test_set, outcomes.shape[1]), {}, classes)


def draw(rng, chances, runs):
    """Outcomes of runs that classify each image correctly with its chance."""
    return rng.random((runs, len(chances))) < chances


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_kappas_are_scikit_learn_s(rng):
    outcomes = draw(rng, rng.beta(4, 1, 2000), 5)
    found = find_kappas(outcomes.astype(float))
    expected = [[cohen_kappa_score(one, other) for other in outcomes] for one in outcomes]
    assert found == pytest.approx(np.array(expected), abs=1e-12)


def test_runs_without_errors_have_no_kappa():
    assert np.isnan(find_kappas(np.ones((2, 10)))).all()


def test_shared_errors_by_hand():
    """Means over pairs with different seeds: of scikit-learn's kappas and of NumPy's covariances."""
    rng = np.random.default_rng(3)
    chances = rng.beta(4, 1, 3000)
    base, other = draw(rng, chances, 3), draw(rng, 0.5 * chances + 0.3, 4)
    found = compare_errors([("b", True, runs_of(base)), ("o", False, runs_of(other, seeds=[1, 2, 3, 4]))])[1]
    between = [cohen_kappa_score(other[i], base[j]) for i in range(4) for j in range(3) if i + 1 != j]
    own = [cohen_kappa_score(other[i], other[j]) for i in range(4) for j in range(i)]
    assert found.with_base == pytest.approx(np.mean(between), abs=1e-12)
    assert found.own == pytest.approx(np.mean(own), abs=1e-12)
    between, own, of_base = (
        np.mean([np.cov(one, two, ddof=0)[0, 1] for one, two in pairs])
        for pairs in (
            [(other[i], base[j]) for i in range(4) for j in range(3) if i + 1 != j],
            itertools.combinations(other, 2),
            itertools.combinations(base, 2),
        )
    )
    assert found.shared == pytest.approx(between / math.sqrt(own * of_base), abs=1e-12)
    assert found.low < found.shared < found.high


def test_the_interval_holds_the_true_value(rng):
    """60 pairs of levels with the same hard images: at a true coverage of 95 %, 7 misses have a chance of 2 %."""
    misses, halves = 0, []
    for _ in range(60):
        chances = rng.beta(3, 0.7, 1500)
        levels = [("b", True, runs_of(draw(rng, chances, 5))), ("o", False, runs_of(draw(rng, chances, 5)))]
        found = compare_errors(levels)[1]
        misses += not found.low <= 1 <= found.high
        halves.append(found.high - found.shared)
    assert misses <= 6
    assert np.median(halves) < 0.1, "an interval that told nothing would hold it too"


def test_shared_errors_are_the_correlation_of_the_chances_whatever_the_accuracies(rng):
    chances, noise = rng.beta(3, 0.7, (2, 100_000))
    other = 0.1 + 0.8 * (0.8 * chances + 0.2 * noise)  # less accurate, and a little other
    levels = [("b", True, runs_of(draw(rng, chances, 6))), ("o", False, runs_of(draw(rng, other, 6)))]
    found, true = compare_errors(levels)[1], np.corrcoef(chances, other)[0, 1]
    assert found.shared == pytest.approx(true, abs=0.015)
    assert found.low < true < found.high < 1


def test_other_hard_images_are_told_apart(rng):
    base, other = rng.beta(3, 0.7, (2, 2000))
    levels = [("b", True, runs_of(draw(rng, base, 4))), ("o", False, runs_of(draw(rng, other, 4)))]
    found = compare_errors(levels)[1]
    assert found.high < 0.5
    assert abs(found.with_base) < 0.05


def test_more_levels_have_wider_intervals(rng):
    chances = rng.beta(3, 0.7, 1500)
    levels = [(str(number), not number, runs_of(draw(rng, chances, 4))) for number in range(6)]
    alone, among = compare_errors(levels[:2])[1], compare_errors(levels)[1]
    assert among.shared == alone.shared
    assert among.high - among.shared > 1.2 * (alone.high - alone.shared)


def test_what_cannot_be_compared_is_unknown(rng):
    chances = rng.beta(3, 0.7, 2000)
    base, other = runs_of(draw(rng, chances, 3)), runs_of(draw(rng, chances, 3))
    assert compare_errors([("b", True, base), ("o", False, other)])
    few = runs_of(np.arange(2000) >= np.full((3, 1), FEWEST - 1))
    poor = runs_of(np.arange(2000) < np.full((3, 1), FEWEST - 1))
    hidden = Runs({0: 90.0, 1: 91.0}, {}, (), (None, None), ("a", 2000), {})
    for bad in (runs_of(draw(rng, chances, 1)), runs_of(draw(rng, chances, 3), test_set="b"), few, poor, hidden):
        assert compare_errors([("b", True, base), ("o", False, bad)]) == ()
        assert compare_errors([("b", True, bad), ("o", False, other)]) == ()
    two = runs_of(draw(rng, chances, 2))
    none, known = compare_errors([("b", True, base), ("t", False, two), ("o", False, other)])[1:]
    assert math.isnan(none.shared), "without one of two runs no pair is left"
    assert known.low < known.shared < known.high


def test_classes_are_compared_over_the_seeds(rng):
    chances = rng.beta(3, 0.7, 2000)
    base = runs_of(draw(rng, chances, 3), classes=((90.0, 50.0), (91.0, 60.0), (92.0, 70.0)))
    other = runs_of(draw(rng, chances, 3), classes=((80.0, 52.0), (81.0, 62.0), (82.0, 72.0)))
    first, second = compare_errors([("b", True, base), ("o", False, other)])[1].classes
    assert (first.value, first.different) == (-10, True)
    assert (second.value, second.different) == (2, False)


def test_equal_accuracies_of_a_class_prove_nothing(rng):
    """A spread counts as one image of a class at least: of 1,500 images, so 0.067 points."""
    chances = rng.beta(3, 0.7, 3000)
    base = runs_of(draw(rng, chances, 3), classes=((90.0, 50.0),) * 3)
    other = runs_of(draw(rng, chances, 3), classes=((90.1, 60.0),) * 3)
    first, second = compare_errors([("b", True, base), ("o", False, other)])[1].classes
    assert (first.different, second.different) == (False, True)


def test_a_level_with_the_base_s_runs_shares_all_errors_and_counts_for_nothing(rng):
    chances = rng.beta(3, 0.7, 2000)
    base = replace(runs_of(draw(rng, chances, 3)), ends={0: ("w",), 1: ("v",), 2: ("u",)})
    other = runs_of(draw(rng, chances, 3))
    alone = compare_errors([("b", True, base), ("o", False, other)])[1]
    same, among = compare_errors([("b", True, base), ("s", False, base), ("o", False, other)])[1:]
    assert (same.shared, same.low, same.high) == (1, 1, 1)
    assert among == alone


@pytest.fixture
def errors(tmp_path, rng):
    """A results folder whose runs classify about 80 % of 1,000 images correctly."""
    chances, text = rng.beta(3, 0.7, 1000), TINY

    def edit(job, record):
        if job.kind == "run":
            right = draw(rng, chances, 1)[0]
            per_class = [100 * float(part.mean()) for part in right.reshape(10, 100)]
            record["deterministic"] |= {
                "test_accuracy": 100 * float(right.mean()), "test_images": 1000, "test_outcomes": pack_bits(right),
                "test_per_class_accuracy": per_class,
            }  # fmt: skip

    fabricate(tmp_path / "r", read(write_grid(tmp_path, text)), edit=edit)
    return load(tmp_path / "r")


def test_a_table_and_values_to_cite(errors):
    study, found = study_of(errors), analyse(errors)
    table = make_errors_table(study)
    assert [column.key for column in table.columns[:6]] == [
        "", "n", "error_consistency", "error_consistency_own", "shared_errors", "class_0",
    ]  # fmt: skip
    base, wide = texts_of(table)
    assert base[0] == "4 (base)"
    assert base[4:] == ("",) * 11
    values = collect_values(found)
    keys = ("error_consistency", "error_consistency_own", "shared_errors", "class_0", "class_9")
    assert [values["growth_rate", "8", key] for key in keys] == [
        wide[2], wide[3], wide[4].split()[0], wide[5].split()[0], wide[14].split()[0]
    ]  # fmt: skip
    low, high = (values["growth_rate", "8", f"shared_errors_{end}"] for end in ("low", "high"))
    assert wide[4].endswith(f"[{low}, {high}]")
    short = find_table(found, "growth_rate.errors")
    assert [column.key for column in short.columns][-1] == "shared_errors", "the classes are in the long table"
    assert "kappa" in short.caption
    assert "Classes" not in short.caption
    assert "Classes" in table.caption


def test_a_figure(errors):
    study = study_of(errors)
    assert list_stems(analyse(errors))["growth_rate"] == ["growth_rate", "growth_rate.curves", "growth_rate.errors"]
    own = study.errors[1]
    with style.use_style():
        figure = mistakes.draw(study)
        consistency, shared, classes = figure.axes
        assert [float(dots.get_offsets()[0, 0]) for dots in consistency.collections] == pytest.approx(
            [study.errors[0].own, own.own, own.with_base]
        )
        (bar,) = (each for each in shared.collections if hasattr(each, "get_segments") and len(each.get_segments()[0]))
        assert bar.get_segments()[0][:, 0] == pytest.approx([own.low, own.high])
        texts = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in classes.texts]
        assert [float(text) for text in texts] == pytest.approx([change.value for change in own.classes], abs=0.051)
        narrow = mistakes.draw(study, looks.Look(looks.NARROW, bare=True))
        assert len(narrow.axes) == 2
        nothing = replace(own.classes[0], value=math.nan, different=False)
        empty = replace(study, errors=(study.errors[0], replace(own, classes=(nothing,) * 10, high=9.0)))
        _, shared, classes = mistakes.draw(empty).axes
        assert [text.get_text() for text in classes.texts] == []
        assert shared.get_xlim()[1] == mistakes.RANGE[1], "what reaches far does not press the rest together"
    plt.close("all")


def test_what_the_records_do_not_give_any_more_is_removed(errors, monkeypatch):
    monkeypatch.setattr(style, "_BACKENDS", {"svg": style._BACKENDS["svg"]})  # the quickest to draw
    write_tables(analyse(errors))
    figures = errors.folder / "figures"
    figures.mkdir()
    for suffix in SUFFIXES:
        (figures / f"growth_rate.errors.{suffix}").touch()
    assert len([*errors.folder.rglob("*.errors.*")]) == 6
    (errors.folder / "records" / f"{errors.runs.id[0]}.json").unlink()
    found = analyse(load(errors.folder))
    write_tables(found)
    write_figures(found)
    assert not [*errors.folder.rglob("*.errors.*")]
    assert (figures / "growth_rate.curves.svg").exists()


def test_a_citation_tells_that_the_base_is_incomplete(errors):
    base = errors.runs[(errors.runs.variant == find_base(errors)) & (errors.runs.seed == 2)].id.iloc[0]
    record = errors.folder / "records" / f"{base}.json"
    assert tell_seeds(analyse(errors), "growth_rate", "8", "shared_errors") == ["Of 3 seeds."]
    record.unlink()
    told = {key: tell_seeds(analyse(load(errors.folder)), "growth_rate", "8", key)
            for key in ("shared_errors", "class_0", "error_consistency_own")}  # fmt: skip
    incomplete = "Incomplete: growth_rate 4 has 2 of 3 seeds (1 missing)."
    assert told["shared_errors"] == told["class_0"] == ["Of 3 seeds.", incomplete]
    assert told["error_consistency_own"] == ["Of 3 seeds."]
