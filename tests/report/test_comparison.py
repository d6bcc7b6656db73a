"""Comparisons of levels: which runs are compared, and verdicts that never contradict their intervals."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MACHINE
from scipy import stats

import ablations
from ablations.report.answers import answer
from ablations.report.comparison import conclude, decide
from ablations.report.formats import render_latex, render_markdown
from ablations.report.frames import Frames
from ablations.report.page import render_page
from ablations.report.plotting.figures import write_figures
from ablations.report.results import analyse
from ablations.report.tables import make_effects_table, make_overall_table, make_study_table, shorten
from ablations.report.values import collect_values
from ablations.storage.manifest import JobEntry, LevelEntry, Manifest, StudyEntry, VariantEntry
from ablations.storage.records import pack_bits


def rows_of(name, accuracies, weights=None, checksum="0", images=1000, packed=None):
    """The runs of a variant; a text in place of an accuracy is a status."""
    return [
        {
            "variant": name, "seed": seed, "data_checksum": checksum, "test_images": images,
            "status": value if isinstance(value, str) else "done",
            "test_accuracy": math.nan if isinstance(value, str) else float(value),
            "weights": f"{weights or name} {seed}", "test_outcomes": packed[seed] if packed else None,
        }
        for seed, value in enumerate(accuracies)
    ]  # fmt: skip


def compared(variants, **options):
    """The rows of a study whose first variant is the base, by variant."""
    levels = pd.DataFrame({"level": list(variants), "variant": list(variants)})
    levels["is_base"] = levels.index == 0
    runs = pd.DataFrame([row for rows in variants.values() for row in rows])
    found = conclude(levels, runs, **options)
    return {row["variant"]: row for row in found.levels.to_dict("records")}, found


BASE = rows_of("base", [91, 90, 92])


def test_seeds_are_paired_only_if_the_same_instructions_computed_them():
    shared, small = np.array([0.0, 3, -2, 5]), np.array([0.1, -0.1, 0.05, 0.0])
    levels = {"base": rows_of("base", 90 + shared), "other": rows_of("other", 91 + shared + small)}
    assert compared(levels)[1].paired
    for number, row in enumerate(levels["other"]):
        row["arithmetic"] = f'["cpu", "AVX2", "fma", {{}}, {number > 1}]'
    assert not compared(levels)[1].paired


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.1, 0.9, None, "different"),
        (-0.9, -0.1, 1.0, "different"),
        (0.0, 0.4, None, "undecided"),
        (-0.4, 0.4, None, "undecided"),
        (-0.4, 0.4, 0.5, "equivalent"),
        (-0.5, 0.5, 0.5, "equivalent"),
        (-0.4, 0.6, 0.5, "undecided"),
    ],
)
def test_the_interval_decides(low, high, margin, verdict):
    assert decide(low, high, margin) == verdict


def test_constant_differences_are_decided_and_count_as_comparisons():
    rows, found = compared({"base": rows_of("base", [100] * 3), "lost": rows_of("lost", [10] * 3)})
    assert (rows["lost"]["verdict"], rows["lost"]["difference"], found.family) == ("different", -90.0, 1)


def test_identical_levels_are_no_comparison():
    same = rows_of("same", [91, 90, 92], weights="base")
    rows, found = compared({"base": BASE, "same": same, "other": rows_of("other", [93, 95, 94])})
    _, alone = compared({"base": BASE, "other": rows_of("other", [93, 95, 94])})
    assert (rows["same"]["verdict"], rows["same"]["difference"], found.family) == ("identical", 0.0, 1)
    assert found.levels.p_corrected[2] == alone.levels.p_corrected[1]


def test_equal_weights_that_classify_in_another_way_are_not_identical_and_no_common_sample():
    tempered = {
        name: rows_of(name, accuracies, "base") for name, accuracies in {"a": [80, 82, 81], "b": [70, 72, 71]}.items()
    }
    rows, found = compared({"base": BASE, **tempered})
    assert [(rows[name]["verdict"], rows[name]["difference"]) for name in "ab"] == [
        ("different", -10),
        ("different", -20),
    ]
    assert found.family == 2


def test_equal_accuracies_of_other_weights_are_not_identical():
    rows, _ = compared({"base": BASE, "other": rows_of("other", [91, 90, 92])})
    assert (rows["other"]["verdict"], rows["other"]["difference"]) == ("undecided", 0.0)


def test_one_seed_has_a_difference_and_no_interval():
    rows, found = compared({"base": BASE, "other": rows_of("other", [95])})
    assert (rows["other"]["verdict"], rows["other"]["difference"], found.family) == ("undecided", 4.0, 0)
    assert math.isnan(rows["other"]["low"])


def test_other_data_or_other_test_images_are_not_comparable():
    others = {"data": rows_of("data", [95] * 3, checksum="1"), "part": rows_of("part", [95] * 3, images=500)}
    rows, found = compared({"base": BASE, **others})
    assert [rows[name]["verdict"] for name in others] == ["not comparable"] * 2
    assert math.isnan(rows["data"]["difference"])
    assert found.family == 0


def test_without_a_result_there_is_none():
    rows, _ = compared({"base": BASE, "other": rows_of("other", ["missing", "failed", "oom"])})
    assert (rows["other"]["verdict"], rows["other"]["not_done"]) == ("no result", "1 failed, 1 missing, 1 oom")
    rows, _ = compared({"base": rows_of("base", ["diverged"]), "other": rows_of("other", [95, 96])})
    assert rows["other"]["verdict"] == "no result"


def test_a_level_that_lost_a_seed_is_not_called_better():
    """Without the lost run it would gain 8.4 points, and be different. One of four is lost: up to 80.6 % may be."""
    rows, _ = compared({"base": BASE, "other": rows_of("other", [99.5, 99.4, "diverged", 99.3])})
    other = rows["other"]
    assert (other["difference"], other["verdict"], other["lost"]) == (pytest.approx(8.4), "undecided", 1)
    share = stats.beta.ppf(0.975, 2, 3)
    assert share == pytest.approx(0.8059, abs=1e-4)
    assert other["low"] == pytest.approx(2 * other["difference"] - other["high"] - 99.4 * share)
    assert math.isnan(other["p"])


def test_a_base_that_lost_a_seed_does_not_make_a_level_worse():
    base = rows_of("base", [99.5, 99.4, "timeout", 99.3])
    rows, _ = compared({"base": base, "worse": rows_of("worse", [91, 90, 92]), "better": rows_of("better", [99.9] * 3)})
    assert rows["worse"]["verdict"] == "undecided"
    assert rows["worse"]["high"] > 0 > rows["worse"]["difference"]


def test_a_missing_run_is_not_lost():
    rows, _ = compared({"base": BASE, "other": rows_of("other", [99.5, 99.4, "missing"])})
    assert (rows["other"]["verdict"], rows["other"]["lost"]) == ("different", 0)


def test_images_are_covered_only_if_every_level_has_outcomes():
    right = np.random.default_rng(0).random((2, 3, 1000)) < 0.9
    known = {
        name: rows_of(name, 100 * part.mean(axis=1), packed=[pack_bits(row) for row in part])
        for name, part in zip(("base", "other"), right, strict=True)
    }
    assert compared(known)[1].over_images
    assert not compared({**known, "old": rows_of("old", [90, 91])})[1].over_images


def test_a_difference_of_one_image_in_all_of_many_seeds_is_undecided():
    """24 seeds that agree but for one of 360 images: seeds alone would call it certain."""
    right = np.random.default_rng(1).random(360) < 0.97
    better = right.copy()
    better[np.flatnonzero(~right)[0]] = True
    rows, found = compared(
        {
            name: rows_of(name, [100 * each.mean()] * 24, images=360, packed=[pack_bits(each)] * 24)
            for name, each in (("base", right), ("better", better))
        }
    )
    assert found.over_images
    assert rows["better"]["verdict"] == "undecided"


def draw_study(random: np.random.Generator) -> tuple[Manifest, pd.DataFrame]:
    """A results folder with a study as odd as they come: few seeds, constant ones, lost runs, other data, a product."""
    count = int(random.integers(1, 6))
    axes: tuple[str, ...] = ("model.a",)
    cells = [{"model.a": number} for number in range(count)]
    if random.random() < 0.3:
        axes = ("model.a", "model.b")
        cells = [{"model.a": a, "model.b": b} for a in range(2) for b in range(int(random.integers(2, 4)))]
    names = [f"v{number}" for number in range(len(cells))]
    seeds, images = int(random.integers(1, 7)), int(random.choice([1, 2, 100, 360, 20_000]))
    outcomes, rows = random.random() < 0.6 and images < 20_000, []
    center, spread = random.choice([100.0, 99.99, 90.0, 10.0]), random.choice([0.0, 0.01, 0.5, 5.0])
    for name in names:
        level, own = center + random.choice([0, 0, spread, 10 * spread]), random.choice([spread, 0.0, 4 * spread])
        for seed in range(seeds):
            status = str(random.choice(["done"] * 12 + ["diverged", "oom", "missing"]))
            share = float(np.clip(random.normal(level, own) / 100, 0, 1))
            right = random.random(images) < share if outcomes else np.arange(images) < round(share * images)
            same = random.random() < 0.1
            rows.append(
                {
                    "variant": name, "seed": seed, "id": f"{name}{seed}", "status": status, "reason": "",
                    "test_accuracy": 100 * right.mean() if status == "done" else None,
                    "test_images": images, "data_checksum": str(random.choice(["0"] * 20 + ["1"])),
                    "weights": "same" if same else f"{name}{seed}", "device": "cpu", "device_name": "A", "threads": 1,
                    "torch": str(random.choice(["1", "1", "2"])), "precision": "fp32", "commit": "c",
                    "fingerprint": "f",
                    "test_outcomes": pack_bits(right) if outcomes else None,
                }
            )  # fmt: skip
    base = int(random.integers(len(cells)))
    levels = tuple(
        LevelEntry(label=", ".join(map(str, cell.values())), values=cell, variant=name, declared=name,
                   is_base=place == base)
        for place, (name, cell) in enumerate(zip(names, cells, strict=True))
    )  # fmt: skip
    study = StudyEntry(name="s", question="", axes=axes, seeds=tuple(range(seeds)), levels=levels,
                       margin=random.choice([None, 0.5, 2.0]))  # fmt: skip
    variants = {name: VariantEntry(cost=None, data="digits", fields={}) for name in names}
    jobs = tuple(JobEntry(id=row["id"], kind="run", name="", variant=row["variant"], seed=row["seed"]) for row in rows)
    manifest = Manifest(title="", seeds=(0,), machine=MACHINE, options=(), variants=variants, studies=(study,),
                        tuning=(), jobs=jobs)  # fmt: skip
    return manifest, pd.DataFrame(rows)


def frames_of(folder: Path, random: np.random.Generator) -> Frames:
    """The frames of a drawn study, without a folder of records."""
    manifest, runs = draw_study(random)
    manifest.write(folder)
    frames = ablations.load(folder)
    fields = {"model.family": "densenet", "train.batch_size": 64}
    beside = frames.runs.drop(columns=[name for name in runs if name in frames.runs and name != "id"])
    return replace(
        frames,
        runs=runs.merge(beside, on="id").assign(**fields),
        variants=frames.variants.assign(**fields),
    )


INTERVAL = re.compile(r"^([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]")


def check_study(results):
    """Every part of the report can be written, and every printed interval gives the printed verdict."""
    for study in (*results.studies, results.overall):
        tables = [make_study_table(study), shorten(study), make_effects_table(study)]
        for table in filter(None, tables):
            render_markdown(table), render_latex(table)
            heads = [column.label for column in table.columns]
            for line in render_markdown(table).splitlines()[4 : 4 + len(table.rows)]:
                cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")]
                row = dict(zip(heads, cells, strict=True))
                found = INTERVAL.match(row["Change"])
                verdict = row["Verdict"]
                assert found or verdict not in ("different", "equivalent"), line
                if found and verdict != "identical":
                    low, high = float(found[2]), float(found[3])
                    assert decide(low, high, study.margin) == verdict, line
                p = row.get("p, corrected")
                if p:
                    assert (float(p) < 0.05) == (verdict == "different"), line
        assert all(isinstance(sentence, str) for sentence in answer(study))
    make_overall_table(results)
    collect_values(results)


def test_synthetic_studies_are_reported_without_a_contradiction(tmp_path):
    for number in range(25):
        check_study(analyse(frames_of(tmp_path, np.random.default_rng(number))))


@pytest.mark.slow
def test_a_thousand_synthetic_studies_go_through_the_whole_report(tmp_path):
    for number in range(1000):
        results = analyse(frames_of(tmp_path, np.random.default_rng(1000 + number)))
        check_study(results)
        if number % 20 == 0:
            write_figures(results)
            render_page(results)
