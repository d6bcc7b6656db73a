"""A study that chooses on validation images is compared on them, names the best level, and shows no test accuracy."""

from __future__ import annotations

import pytest
from conftest import TINY, fabricate, study_of, texts_of, write_grid

from ablations.grid.problems import GridError
from ablations.grid.reader import read
from ablations.report.answers import answer
from ablations.report.citations import look_up
from ablations.report.frames import load
from ablations.report.page import render_page
from ablations.report.plotting.figures import write_figures
from ablations.report.results import analyse
from ablations.report.tables import make_overall_table, make_study_table
from ablations.report.values import collect_values
from ablations.storage.records import pack_bits

CHOOSING = TINY.replace("data.train_limit = 100", "data.train_limit = 100\ndata.validation = 40").replace(
    "[study.growth_rate]", '[study.growth_rate]\nchoose_on = "validation"'
)


def add_validation(job, record):
    """The validation accuracy is 10 points below the test's; the test's own numbers would stand out."""
    if job.kind == "run":
        values = record["deterministic"]
        right = round(0.4 * (values["test_accuracy"] - 10))
        values |= {
            "validation_accuracy": right / 0.4, "validation_loss": 0.5, "validation_images": 40,
            "validation_outcomes": pack_bits([number < right for number in range(40)]),
        }  # fmt: skip


@pytest.fixture
def choosing(tmp_path):
    fabricate(tmp_path / "r", read(write_grid(tmp_path, CHOOSING)), edit=add_validation)
    return load(tmp_path / "r")


def test_the_levels_are_compared_on_validation_images(choosing):
    study = study_of(choosing)
    table = make_study_table(study)
    assert (study.part, table.columns[2].label) == ("validation", "Validation accuracy")
    base, wide = texts_of(table)
    assert base[2].startswith("80.8")
    assert wide[2].startswith("82.50")
    assert "40 validation images" in table.caption
    assert "test images" not in table.caption
    first = answer(study)[0]
    assert first.startswith("Chosen on the validation images: growth_rate 8, with 82.50 %")
    assert first.endswith("Its test accuracy is not shown here.")
    values = collect_values(analyse(choosing))
    assert ("growth_rate", "8", "validation_accuracy_change") in values
    assert not any(key.startswith("test_") for _, _, key in values)
    assert "40 validation images" in look_up(analyse(choosing), "growth_rate", "8", "validation_accuracy").describe()


def test_a_gap_of_the_base_is_told_with_a_change_on_validation_images(tmp_path):
    grid = read(write_grid(tmp_path, CHOOSING))
    fabricate(tmp_path / "r", grid, skip=("base, seed 2",), edit=add_validation)
    told = look_up(analyse(load(tmp_path / "r")), "growth_rate", "8", "validation_accuracy_change").describe()
    assert "Incomplete: growth_rate 4 has 2 of 3 seeds (1 missing)." in told


def test_no_table_figure_or_page_shows_a_test_accuracy(choosing):
    assert choosing.runs.test_accuracy.isna().all()
    assert choosing.history.test_accuracy.isna().all()
    results = analyse(choosing)
    table = make_overall_table(results)
    assert "show no test accuracy" in table.caption
    assert [row[1:3] for row in texts_of(table)] == [("3", ""), ("3", "")], "not the runs are hidden"
    write_figures(results)
    page = render_page(results)
    assert 'value="Validation accuracy (%)" checked' in page
    assert not any(number in page for number in ("91.00 ±", "93.00 ±", "360 test images"))


def test_variants_of_another_study_keep_their_test_accuracy_there(tmp_path):
    text = f"{CHOOSING}[study.epochs]\ntrain.epochs = [1, 2]\n"
    names = [f"epochs 2, seed {seed}" for seed in range(3)] + ["epochs 2"]
    fabricate(tmp_path / "r", read(write_grid(tmp_path, text)), skip=tuple(names), edit=add_validation)
    frames = load(tmp_path / "r")
    assert texts_of(make_study_table(study_of(frames, "epochs")))[0][2].startswith("91.00")
    assert frames.runs.groupby("model.growth_rate").test_accuracy.count().tolist() == [3, 0]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("data.validation = 40", "data.validation = 0", "needs validation images: give data.validation"),
        (
            'choose_on = "validation"\n',
            'choose_on = "validation"\ndata.subset_seed = [0, 1]\n',
            "needs the same validation images",
        ),
        ('choose_on = "validation"', 'choose_on = "train"', "study.growth_rate.choose_on = 'train'"),
        (
            'choose_on = "validation"\n',
            'choose_on = "validation"\npublished_source = "x"\npublished.8 = 5.0\n',
            "shows no test errors",
        ),
    ],
)
def test_what_cannot_be_chosen_so_is_told(tmp_path, old, new, wrong):
    with pytest.raises(GridError, match=wrong):
        read(write_grid(tmp_path, CHOOSING.replace(old, new)))
