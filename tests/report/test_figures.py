"""Figures: all three formats, deterministic, and drawn whatever is missing."""

from __future__ import annotations

import shutil

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ACCURACY, MACHINE, TINY, fabricate, record_of, study_of, write_grid
from matplotlib.text import Text

from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report import statistics
from ablations.report.captions import describe_provenance
from ablations.report.frames import load
from ablations.report.plotting import curves, effect, heat_map, looks, pareto, style, trade, tuning
from ablations.report.plotting.figures import LOOKS, list_stems, write_figures
from ablations.report.plotting.levels import choose_levels, colour_levels, say_left_out
from ablations.report.results import analyse
from ablations.storage import records

PRODUCT = TINY + 'model.compression = [0.5, 1.0]\nmodel.checkpoint = ["none", "layer"]\n'
"""Eight levels: 4 or 8, compressed or not, with or without recomputation."""


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def product(tmp_path):
    """`8, 1.0, layer` ran out of memory, `4, 1.0, none` diverged once, and `8, 0.5, none` is missing."""
    folder = tmp_path / "product"
    grid = read(write_grid(tmp_path, PRODUCT))
    make_manifest(grid, MACHINE, folder).write(folder)
    for job in list_jobs(grid, MACHINE):
        name = job.name.removeprefix("growth_rate ")
        status = "oom" if name.startswith("8, 1.0, layer") else "diverged" if name == "4, 1.0, none, seed 1" else None
        if status:
            records.note_attempt(folder, {"id": job.id, "name": job.name, "status": status, "reason": "because"})
        elif not name.startswith("8, 0.5, none"):
            seed = int(name[-1]) if job.kind == "run" else 0
            records.publish(folder, record_of(job, 90.0 + seed, 0.5 if "layer" in name else 1.0))
    return load(folder)


def draw(module, frames):
    """A figure of the study as `write_figures` draws it."""
    with style.use_style():
        return module.draw(study_of(frames))


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def points(axes):
    return [tuple(point) for each in axes.collections for point in np.asarray(each.get_offsets()).tolist()]


def test_every_figure_in_every_format_and_the_same_every_time(results, tmp_path, tiny):
    other = tmp_path / "again"
    fabricate(other, tiny)
    for folder in (results, other):
        paths = write_figures(analyse(load(folder)))
        names = ("growth_rate", "growth_rate.curves", "pareto")
        assert [path.name for path in paths] == [
            f"{name}.{suffix}" for name in names for suffix in ("svg", "pdf", "png")
        ]
    for path in (results / "figures").iterdir():
        assert path.read_bytes() == (other / "figures" / path.name).read_bytes(), path.name


def test_a_study_has_the_figures_that_fit_it(results, product):
    assert list_stems(analyse(load(results))) == {"growth_rate": ["growth_rate", "growth_rate.curves"], "": ["pareto"]}
    kinds = ("", ".curves", ".map", ".trade")
    assert list_stems(analyse(product))["growth_rate"] == [f"growth_rate{kind}" for kind in kinds]
    assert len(write_figures(analyse(product))) == 15


@pytest.mark.parametrize("module", [effect, curves, heat_map, trade])
def test_no_text_is_small_or_cut_off(product, module):
    figure = draw(module, product)
    assert figure.get_size_inches()[0] in (looks.NARROW, looks.WIDE)
    assert all(text.get_fontsize() >= 6 for text in figure.findobj(Text) if text.get_text())
    box = figure.get_tightbbox()  # inches
    assert box.x0 >= 0 <= box.y0
    assert box.x1 <= figure.get_size_inches()[0]
    assert box.y1 <= figure.get_size_inches()[1]


def test_an_effect_figure_shows_the_numbers_of_the_records(results):
    figure = draw(effect, load(results))
    accuracy, _, params, macs, memory, throughput = figure.axes
    assert [bar.get_width() for panel in (params, macs, memory, throughput) for bar in panel.patches] == [
        1000, 2000, 2, 4, 10, 20, 1000, 500,
    ]  # fmt: skip
    assert [text.get_text() for text in params.texts] == ["1,000", "", "2,000", "+100 %"]
    assert [text.get_text() for text in throughput.texts] == ["1,000", "", "500", ""], "no rounds compared them"
    seeds = next(points for points in accuracy.collections if len(points.get_offsets()) == 6)
    assert sorted(x for x, _ in seeds.get_offsets()) == sorted([*ACCURACY["base"], *ACCURACY["growth_rate 8"]])
    assert statistics.compute_half_interval(0.8660254, 3) == pytest.approx(4.302653 * 0.5, rel=1e-6)


def test_values_stand_beside_the_name_of_their_axis(results, product):
    assert draw(effect, load(results)).axes[0].get_ylabel() == "growth_rate"
    assert draw(effect, product).axes[0].get_ylabel() == "growth_rate,\ncompression,\ncheckpoint"


def test_a_name_needs_no_axis_beside_it(tmp_path):
    named = TINY.replace("model.growth_rate = [4, 8]", 'model.layer_order = ["norm-act-conv", "conv-norm-act"]')
    make_manifest(read(write_grid(tmp_path, named)), MACHINE, tmp_path).write(tmp_path)
    assert draw(effect, load(tmp_path)).axes[0].get_ylabel() == ""


def test_a_change_has_a_mark_for_its_verdict(results):
    frames = load(results)
    assert {"different", "simultaneous 95 % interval"} <= set(texts(draw(effect, frames)))
    study = study_of(frames)
    study.numbers.loc[1, "verdict"] = "undecided"
    found = texts(effect.draw(study))
    assert "undecided" in found
    assert "different" not in found


def test_the_forest_plot_has_intervals_and_the_band_of_the_margin(tmp_path):
    """Half the interval is 1.602981 points: see ACCURACY."""
    grid = read(write_grid(tmp_path, TINY.replace("speed_rounds", "margin = 0.75\nspeed_rounds")))
    fabricate(tmp_path / "r", grid)
    figure = draw(effect, load(tmp_path / "r"))
    panel = figure.axes[1]
    (band,) = panel.patches
    assert (band.get_x(), band.get_width()) == (-0.75, 1.5)
    assert "within ±0.75 points" in texts(figure)
    (interval,) = (each.get_segments() for each in panel.collections if hasattr(each, "get_segments"))
    assert interval[0][:, 0] == pytest.approx([2 - 1.602981, 2 + 1.602981], abs=1e-6)
    assert [x for x, _ in points(panel)].count(2.0) == 1
    assert not any("reach beyond the panel" in text for text in texts(figure))


def test_an_interval_with_lost_runs_is_cut_by_the_panel(tmp_path):
    """It would reach 31 points to the left, and all others would be dots."""
    grid = read(write_grid(tmp_path, TINY.replace("[4, 8]", "[4, 8, 12]")))

    def fill(folder, lost):
        make_manifest(grid, MACHINE, folder).write(folder)
        for job in (job for job in list_jobs(grid, MACHINE) if job.kind == "run"):
            if job.name == lost:
                note = {"id": job.id, "name": job.name, "status": "diverged", "reason": "because"}
                records.note_attempt(folder, note)
            else:
                records.publish(folder, record_of(job, 90.0 + job.config.seed, 1.0))
        return draw(effect, load(folder))

    figure = fill(tmp_path / "r", "growth_rate 12, seed 0")
    low, high = figure.axes[1].get_xlim()
    assert -5 < low < 0 < high < 5
    small = " ".join(texts(figure)).replace("\n", " ")
    assert "Intervals with lost runs reach beyond the panel." in small
    assert "on these test images only" in small
    assert "12\n(1 diverged)" in texts(figure)


def test_what_is_missing_or_failed_is_drawn_as_such(product):
    found = texts(draw(effect, product))
    assert {"8, 0.5, none\n(3 missing)", "8, 1.0, layer\n(3 oom)", "4, 1.0, none\n(1 diverged)"} <= set(found)
    assert {"3 missing", "3 oom"} <= set(found)
    assert (found.count("missing"), found.count("oom")) == (4, 4)
    key = texts(draw(curves, product))
    assert {"8, 0.5, none (3 missing)", "8, 1.0, layer (3 oom)", "4, 1.0, none (1 diverged)"} <= set(key)


def test_a_folder_without_records_can_be_drawn(tmp_path):
    make_manifest(read(write_grid(tmp_path, PRODUCT)), MACHINE, tmp_path).write(tmp_path)
    frames = load(tmp_path)
    assert "4, 0.5, none (base)\n(3 missing)" in texts(draw(effect, frames))
    assert "nothing trained yet" in texts(draw(curves, frames))
    assert "nothing measured" in texts(draw(trade, frames))
    assert texts(pareto.draw(analyse(frames))).count("nothing measured") == 4
    assert len(write_figures(analyse(frames))) == 15


def test_of_too_many_levels_the_base_and_the_most_accurate_are_shown():
    numbers = pd.DataFrame(
        {
            "level": ["a", "b", "c", "d", "e"],
            "is_base": [False, False, True, False, False],
            "mean": [91.0, np.nan, 80.0, 93.0, 92.0],
            "not_done": ["", "3 oom", "", "", ""],
        }
    )
    shown = choose_levels(numbers, 3)
    assert list(shown.level) == ["c", "d", "e"]
    assert say_left_out(numbers, shown) == (
        "Shown are the base and the 2 most accurate of the other 4 levels; the table has all (1 of those not shown "
        "have runs that are not done)."
    )
    assert say_left_out(numbers, choose_levels(numbers, 5)) == ""
    assert list(colour_levels(numbers).colour) == [looks.HUES[0], looks.HUES[1], looks.INK, *looks.HUES[2:4]]


def test_curves_are_means_with_bands_from_the_lowest_to_the_highest_seed(results):
    frames = load(results)
    frames.history["train_loss"] = [0.2, 0.5, 0.3, 0.6, 0.4, 1.0]  # seeds in turn: base, other, ...
    assert list(frames.history.variant) == list(frames.variants.variant) * 3
    (panel,) = draw(curves, frames).axes
    assert [line.get_ydata().tolist() for line in panel.lines if len(line.get_ydata())] == [
        pytest.approx([0.3]),
        pytest.approx([0.7]),
    ]
    bands = [path.vertices[:, 1] for each in panel.collections for path in each.get_paths()]
    assert sorted((band.min(), band.max()) for band in bands) == [(0.2, 0.4), (0.5, 1.0)]


def test_accuracies_are_drawn_where_they_were_evaluated(results):
    frames = load(results)
    frames.history["validation_accuracy"] = 80.0
    figure = draw(curves, frames)
    assert [panel.get_ylabel() for panel in figure.axes] == ["Training loss (nats)", "Validation accuracy (%)"]


def test_a_map_has_a_panel_for_each_level_of_a_third_axis(product):
    figure = draw(heat_map, product)
    none, layer, _ = figure.axes
    assert (none.get_title(), layer.get_title()) == ("checkpoint = none", "checkpoint = layer")
    assert (none.get_xlabel(), none.get_ylabel()) == ("compression", "growth_rate")
    assert [text.get_text() for text in none.texts] == [
        "91.0\n± 1.0", "91.0\n± 1.4\nn = 2\n1 diverged", "3 missing", "91.0\n± 1.0",
    ]  # fmt: skip
    assert [text.get_text() for text in layer.texts] == ["91.0\n± 1.0"] * 3 + ["3 oom"]
    assert {"base", "no result"} <= set(texts(figure))


def test_a_base_off_the_product_is_not_on_the_map(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("[4, 8]", "[8, 12]") + "model.compression = [0.5, 1.0]\n"))
    make_manifest(grid, MACHINE, tmp_path).write(tmp_path)
    found = draw(heat_map, load(tmp_path))
    assert [text.get_text() for text in found.axes[0].texts] == ["3 missing"] * 4
    assert any("The base lies outside the map." in text.replace("\n", " ") for text in texts(found))


def test_a_trade_shows_memory_against_time(product):
    figure = draw(trade, product)
    panel = figure.axes[0]
    lines = [line.get_xydata().tolist() for line in panel.lines if line.get_marker() != "None"]
    # 64 images at 1,000 or 2,000 a second, 10 or 5 MiB
    assert lines == [[[32.0, 5.0], [64.0, 10.0]], [[32.0, 5.0], [64.0, 10.0]], [[32.0, 5.0]], [[64.0, 10.0]]]
    assert {"growth_rate = 4, compression = 0.5", "growth_rate = 8, compression = 1.0", "layer", "none"} <= set(
        texts(figure)
    )
    small = " ".join(texts(figure)).replace("\n", " ")
    assert "Not measured: 8, 0.5, none (missing); 8, 1.0, layer (oom)." in small


def test_the_overview_shows_means_and_names_the_front(results):
    figure = pareto.draw(analyse(load(results)))
    assert sorted(points(figure.axes[0])) == [(1000.0, 91.0), (2000.0, 93.0)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["base", "growth_rate 8"]


def test_a_trade_marks_disturbed_times_and_compares_none_with_a_disturbed_base(product):
    base = next(level.variant for level in product.manifest.levels() if level.is_base)
    calm = texts(draw(trade, product))
    assert "× the base's time" in calm
    assert not any("†" in text for text in calm)
    product.costs.loc[product.costs.variant == base, "train_disturbed"] = "other processes used 0.9 cores"
    figure = draw(trade, product)
    found = texts(figure)
    assert "× the base's time" not in found
    assert "× the base's memory" in found
    assert found.count("none†") == 1
    assert "† Disturbed by other load, or unsteady." in " ".join(found).replace("\n", " ")


def test_costs_that_are_as_good_as_equal_have_ticks_apart(tmp_path, tiny):
    def edit(job, record):
        if job.kind == "cost":
            record["deterministic"]["macs"] = 14_031_410 + 10 * (job.name != "base")

    fabricate(tmp_path / "r", tiny, edit=edit)
    with style.use_style():
        figure = pareto.draw(analyse(load(tmp_path / "r")))
        figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert len({*labels}) == len(labels) > 2
    assert max(map(len, labels)) <= 5


@pytest.mark.parametrize("module", [effect, curves, heat_map, trade])
@pytest.mark.parametrize("look", [look for look in LOOKS.values() if look.bare])
def test_a_bare_figure_has_neither_title_nor_small_print(product, module, look):
    with style.use_style():
        figure = module.draw(study_of(product), look)
        box = figure.get_tightbbox()  # inches
    assert figure.get_size_inches()[0] == look.width
    assert not [text for text in figure.texts if text.get_text()]
    assert box.x0 >= 0 <= box.y0
    assert box.x1 <= figure.get_size_inches()[0]
    assert box.y1 <= figure.get_size_inches()[1]


def test_bare_figures_are_as_wide_as_a_column_and_as_a_page(results):
    paths = write_figures(analyse(load(results)), bare=True)
    names = {str(path.relative_to(results / "figures")) for path in paths}
    stems = ("growth_rate", "growth_rate.curves", "pareto")
    assert names == {f"bare/{stem}.{width}.{end}" for stem in stems for width in ("column", "page")
                     for end in ("svg", "pdf", "png")}  # fmt: skip


def test_the_overview_says_what_it_cannot_show(product):
    small = " ".join(texts(pareto.draw(analyse(product)))).replace("\n", " ")
    absent = "growth_rate 8, 0.5, none; growth_rate 8, 1.0, layer"
    assert f"Not in every panel, for lack of runs or costs: {absent}." in small
    assert "not all of its seeds" in small


def test_disturbed_costs_and_other_data_make_no_front(tmp_path, tiny):
    """The wider layer is the faster one here, but its speed was measured beside other load."""

    def edit(job, record):
        if job.kind == "cost" and job.name != "base":
            record["measured"] |= {"train_images_per_second": 2000.0, "train_disturbed": "the steps are unsteady"}

    fabricate(tmp_path / "r", tiny, edit=edit)
    figure = pareto.draw(analyse(load(tmp_path / "r")))
    params, speed = figure.axes[0], figure.axes[3]
    assert params.lines[0].get_xydata().tolist() == [[1000.0, 91.0], [2000.0, 93.0]]
    assert speed.lines[0].get_xydata().tolist() == [[1000.0, 91.0]]
    assert sorted(points(speed)) == [(1000.0, 91.0), (2000.0, 93.0)], "drawn all the same"
    assert "disturbed by other load, so not on the front" in texts(figure)

    def other(job, record):
        if job.name.startswith("growth_rate 8, seed"):
            record["deterministic"]["test_images"] = 1000

    fabricate(tmp_path / "other", tiny, edit=other)
    figure = pareto.draw(analyse(load(tmp_path / "other")))
    assert points(figure.axes[0]) == [(1000.0, 91.0)]
    small = " ".join(texts(figure)).replace("\n", " ")
    assert "Left out, for their data are not the base's: growth_rate 8." in small
    assert "disturbed" not in small.partition("Memory and throughput")[0]


def test_the_front_is_what_nothing_beats():
    points = pd.DataFrame({"x": [1, 2, 2, 3, 4], "mean": [90, 95, 94, 93, 96]})
    assert pareto._find_front(points, more_is_better=False)["mean"].tolist() == [90, 95, 96]
    assert pareto._find_front(points, more_is_better=True)["mean"].tolist() == [96]


def test_values_that_a_level_lacks_are_not_counted_above_the_base():
    found = pd.DataFrame(
        [("4", True, 0.1, 70.0), ("4", True, 0.3, 72.0), ("4", True, 1.0, 60.0),
         ("8", False, 0.1, 71.0), ("8", False, 0.3, np.nan), ("8", False, 1.0, 59.0)],
        columns=["level", "is_base", "train.learning_rate", "validation_accuracy"],
    )  # fmt: skip
    said = "Values at which a level lies above the base: 8 1 of 2."
    assert tuning._count_above_base(found, ["train.learning_rate"]) == said


def test_a_figure_tells_only_of_what_it_shows(product):
    """Only inference was disturbed, which no figure shows."""
    said = {module: " ".join(texts(draw(module, product))).replace("\n", " ") for module in (effect, curves, trade)}
    seeds = "Data: digits, 360 test images; 0 to 3 of 3 seeds."
    memory = "Peak memory is what tensors hold at most in one step, operators' workspace not included."
    assert f"{seeds} {memory} Memory and throughput at batch size 64. Device:" in said[effect]
    assert f"{seeds} Device:" in said[curves]
    assert f"Data: digits. {memory} Memory and throughput at batch size 64. Device:" in said[trade]
    assert "disturbed" not in "".join(said.values())
    assert "(3 of 6 were disturbed by other load, or unsteady, and are marked)" in describe_provenance(product)


def test_a_dollar_is_a_dollar(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("What does a wider layer buy?", "Is $\\\\foo$ worth $10?")))
    fabricate(tmp_path / "r", grid)
    assert len(write_figures(analyse(load(tmp_path / "r")))) == 9


def test_a_reader_s_own_settings_change_no_figure(results, tmp_path):
    frames = load(results)
    before = {path: path.read_bytes() for path in write_figures(analyse(frames))}
    shutil.rmtree(results / "figures")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "x"}):
        assert {path: path.read_bytes() for path in write_figures(analyse(frames))} == before
