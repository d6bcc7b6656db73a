"""Tables against golden files worked out by hand, in every format; nothing unescaped, nothing undetermined."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import MACHINE, TINY, fabricate, record_of, study_of, texts_of, write_grid
from scipy import stats

from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.metrics import BESIDE_ACCURACY, METRICS, Metric, choose_places, format_signed
from ablations.report import results as analysis
from ablations.report import tables
from ablations.report.answers import answer
from ablations.report.captions import explain_table
from ablations.report.formats import (
    escape_latex,
    escape_markdown,
    render_csv,
    render_latex,
    render_macros,
    render_numbers,
    spell_digits,
    write_tables,
)
from ablations.report.frames import load
from ablations.report.results import analyse
from ablations.report.tables import find_table, make_effects_table, make_overall_table, make_study_table, shorten
from ablations.report.values import collect_values
from ablations.storage import records

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("name", ["growth_rate.csv", "growth_rate.md", "growth_rate.tex"])
def test_golden_tables(results, name):
    write_tables(analyse(load(results)))
    assert (results / "tables" / name).read_text() == (GOLDEN / name).read_text()


def test_golden_numbers(results):
    write_tables(analyse(load(results)))
    assert (results / "numbers.tex").read_text() == (GOLDEN / "numbers.tex").read_text()


def test_the_same_records_give_the_same_bytes(results, tmp_path, tiny):
    other = tmp_path / "again" / results.name
    fabricate(other, tiny)
    for folder in (results, other):
        write_tables(analyse(load(folder)))
    for path in (path for path in results.rglob("*.*") if path.is_file()):
        assert path.read_bytes() == (other / path.relative_to(results)).read_bytes(), path.name


def test_what_a_match_leaves_over_and_counters_that_disagree_are_seen(tmp_path):
    text = (
        TINY
        + """[[study.family.variant]]
    name = "ResNet"
    model.family = "resnet"
    model.depth = 8
    match.params = "model.width"
    """
    )
    grid = read(write_grid(tmp_path, text))
    match = grid.studies[1].levels[1].match
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    for job in list_jobs(grid, MACHINE):
        record = record_of(job, 90.0, 1.0)
        if job.kind == "cost":
            record["deterministic"]["counters_agree"] = job.name != "family ResNet"
        records.publish(tmp_path / "r", record)
    base, resnet = texts_of(make_study_table(study_of(load(tmp_path / "r"), "family")))
    assert resnet[0] == f"ResNet (params {100 * (match.reached / match.target - 1):+.1f} %)"
    assert (base[10], resnet[10]) == ("2.00", "2.00 (+0.0 %; counters disagree)")


def test_products_that_no_counter_knows_and_other_instructions_are_seen(tmp_path, tiny):
    def edit(job, record):
        wide = job.name.startswith("growth_rate 8")
        if job.kind == "run":
            record["environment"] |= {
                "instructions": "AVX2" if wide else "AVX512",
                "limits": {"MKL_CBWR": "AVX2"} if wide else {},
            }
        elif wide:
            record["deterministic"] |= {"uncounted": ["aten::cumsum", "own::scan"], "counters_agree": False}

    fabricate(tmp_path / "r", tiny, edit=edit)
    base, wide = texts_of(make_study_table(study_of(load(tmp_path / "r"))))
    assert base[2] == "91.00 ± 0.50"
    assert wide[2] == "93.00 ± 0.87 (instructions AVX2, MKL_CBWR=AVX2)"
    assert [cell for cell in wide if "not counted" in cell] == ["4.00 (+100.0 %; not counted: aten::cumsum, own::scan)"]


def test_what_is_not_there_is_seen(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=("growth_rate 8, seed 1", "growth_rate 8"))
    frames = load(tmp_path / "r")
    cells = texts_of(make_study_table(study_of(frames)))[1]
    assert cells[1:3] == ("2", "92.8 ± 1.1, 1 of 3 missing")
    assert cells[9] == "missing", "the costs follow the verdict and four columns of tests"
    assert ("growth_rate", "8", "params") not in collect_values(analyse(frames))


def test_a_folder_without_any_record_has_tables_too(tmp_path, tiny):
    fabricate(
        tmp_path / "r",
        tiny,
        skip=("base", "growth_rate 8", *(f"{n}, seed {s}" for n in ("base", "growth_rate 8") for s in range(3))),
    )
    table = make_study_table(study_of(load(tmp_path / "r")))
    assert table.caption.endswith("Nothing has been run yet.")
    assert [row[2] for row in texts_of(table)] == ["3 of 3 missing", "3 of 3 missing"]


@pytest.mark.parametrize(
    ("spread", "places"), [(0.03, 2), (0.28, 2), (0.996, 2), (1.06, 1), (9.9, 1), (12.0, 0), (0.0, 2), (math.nan, 2)]
)
def test_a_number_has_as_many_decimals_as_its_spread_carries(spread, places):
    assert choose_places(spread) == places


def test_what_rounds_to_nothing_has_no_minus():
    assert [format_signed(value, 2) for value in (-0.001, 0.004, -0.006, 1.0)] == ["+0.00", "+0.00", "-0.01", "+1.00"]


def two_seeds_half(variance):
    """Half the interval between a level of three seeds and a base of two, which have this variance each."""
    terms = [variance / 2, variance / 3]
    degrees = sum(terms) ** 2 / (terms[0] ** 2 / 1 + terms[1] ** 2 / 2)
    return stats.t.ppf(0.975, degrees) * sum(terms) ** 0.5


def test_a_change_of_fewer_runs_has_a_wider_interval(tmp_path, tiny):
    """Without the base's 90.5 %, its mean is 91.25. Its two seeds vary less than the level's three, which is not taken
    from them: its variance counts as 0.75, too.
    """
    fabricate(tmp_path / "r", tiny, skip=("base, seed 0",))
    study = study_of(load(tmp_path / "r"))
    half = two_seeds_half(0.75)
    assert (study.others[0].low, study.others[0].high) == (pytest.approx(1.75 - half), pytest.approx(1.75 + half))
    rows = [
        ("2", "91.25 ± 0.35, 1 of 3 missing", ""),
        ("3", "93.00 ± 0.87", "+1.8 [-1.3, +4.8]"),
    ]
    assert [cells[1:4] for cells in texts_of(make_study_table(study))] == rows
    short = shorten(study)
    assert texts_of(short)[1][3] == rows[1][2]
    assert texts_of(short)[1][5:7] == ("2,000", "4.00")


def test_lost_runs_stand_beside_the_accuracy_and_in_the_interval(tmp_path, tiny):
    """Two seeds of 92.0 and 93.5 %, and one lost: the interval reaches to 1.75 - 5.97 - 0.9057 * 92.75."""
    fabricate(tmp_path / "r", tiny, lost=("growth_rate 8, seed 2",))
    study = study_of(load(tmp_path / "r"))
    for table in (make_study_table(study), shorten(study)):
        assert texts_of(table)[1][1:5] == (
            "2", "92.8 ± 1.1, 1 of 3 diverged", "+1.8 [-88.3, +7.7] (lost runs as 0 %)", "undecided",
        )  # fmt: skip
        assert "Runs that ended without a result are lost" in table.caption
    assert texts_of(make_study_table(study))[1][5:9] == ("",) * 4, "no p-value covers lost runs"
    assert study.numbers.lost.tolist() == [0, 1]
    whole = study_of(load(fabricated(tmp_path / "whole", tiny)))
    assert "are lost" not in make_study_table(whole).caption


def fabricated(folder, grid, **options):
    fabricate(folder, grid, **options)
    return folder


def test_a_lost_base_makes_no_level_better(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, lost=("base, seed 0",))
    (level,) = study_of(load(tmp_path / "r")).others
    half, share = two_seeds_half(0.75), stats.beta.ppf(0.975, 2, 2)
    assert (level.low, level.high) == (pytest.approx(1.75 - half), pytest.approx(1.75 + half + 91.25 * share))


def test_a_row_says_what_made_it_and_not_the_base(tmp_path, tiny):
    """Commits with the same fingerprint of the sources are one."""

    def edit(job, record):
        record["environment"] |= {"commit": "ba9876543210"} if job.name == "base, seed 1" else {}
        if job.name == "growth_rate 8, seed 1":
            record["environment"] |= {"torch": "2.98.0", "commit": "555555555555", "fingerprint": "1111111111111111"}

    study = study_of(load(fabricated(tmp_path / "r", tiny, edit=edit)))
    for table in (make_study_table(study), shorten(study)):
        assert [row[2] for row in texts_of(table)] == [
            "91.00 ± 0.50", "93.00 ± 0.87 (torch 2.98.0; commit 555555555555)",
        ]  # fmt: skip


def test_runs_of_other_data_have_no_change(tmp_path, tiny):
    frames = load(fabricated(tmp_path / "r", tiny))
    frames.runs["data_checksum"] = frames.runs["model.growth_rate"].map({4: "one", 8: "another"})
    found = analyse(frames)
    assert texts_of(make_study_table(found.study("growth_rate")))[1][2:9] == (
        "93.00 ± 0.87", "", "not comparable", "", "", "", "",
    )  # fmt: skip
    values = collect_values(found)
    assert values["growth_rate", "8", "test_accuracy"] == "93.00"
    assert ("growth_rate", "8", "test_accuracy_change") not in values


def test_an_undecided_level_says_how_many_seeds_it_needs(tmp_path):
    """With 92, 93 and 91 % the wider layer gains 1 point, and the pooled variance is (0.25 + 1) / 2.

    The smallest change found is (2.776445 + 0.940965) sqrt(0.625 * 2 / 3) = 2.40 points. n seeds a level have 2 (n - 1)
    degrees of freedom: (t_0.975 + t_0.8) sqrt(0.625 * 2 / n) is 1.048 for n = 10 and 0.993 for n = 11. For a margin
    of 0.75, (t_0.975 + t_0.9) sqrt(0.625 * 2 / n) is 0.756 for n = 24 and 0.740 for n = 25.
    """

    def edit(job, record):
        if job.kind == "run" and job.name.startswith("growth_rate 8"):
            record["deterministic"]["test_accuracy"] = [92.0, 93.0, 91.0][job.config.seed]

    grid = read(write_grid(tmp_path, TINY.replace("speed_rounds", "margin = 0.75\nspeed_rounds")))
    found = analyse(load(fabricated(tmp_path / "r", grid, edit=edit)))
    table = make_study_table(found.study("growth_rate"))
    head = [column.label for column in table.columns]
    row = dict(zip(head, texts_of(table)[1], strict=True))
    assert row["Verdict"] == "undecided"
    assert (row["Detectable change"], row["Seeds for observed change"], row["Seeds for the margin"]) == SEEDS
    assert row["p"] == row["p, corrected"], "one comparison"
    values = {key: text for (_, level, key), text in collect_values(found).items() if level == "8"}
    assert (values["smallest_difference"], values["seeds_for_change"], values["seeds_for_margin"]) == SEEDS
    assert "equivalent: it lies within ±0.75 points; otherwise undecided" in table.caption
    assert "Seeds for the margin" not in [column.label for column in shorten(found.study("growth_rate")).columns]


SEEDS = ("2.4", "11", "25")


def test_a_speed_is_compared_in_rounds_or_not_at_all(tmp_path):
    """The level takes 2, 2.02, ... 2.14 times as long in 8 rounds, at the median 2.07: 1 / 2.07 is 52 % less."""
    grid = read(write_grid(tmp_path, TINY.replace("speed_rounds = 0", "speed_rounds = 8")))

    def cells_of(name, edit=lambda job, record: None):
        found = analyse(load(fabricated(tmp_path / name, grid, edit=edit)))
        table = make_study_table(found.study("growth_rate"))
        place = [column.label for column in table.columns].index("Training")
        key = ("growth_rate", "8", "train_images_per_second_change")
        return texts_of(table)[1][place], collect_values(found).get(key)

    assert cells_of("slow") == ("500 (-52 % [-53, -50]; IQR 5.0 %)", "-52")

    def even(job, record):
        for number, each in enumerate(record["measured"].get("rounds", ())):
            each["level"] |= {"train_images_per_second": [990.0, 1015.0][number % 2]}

    assert cells_of("even", even) == ("500 (≈; IQR 5.0 %)", "+0")

    def disturb(job, record):
        for each in record["measured"].get("rounds", ())[:4]:
            each["base"] |= {"train_disturbed": "other processes used 0.9 cores"}

    assert cells_of("disturbed", disturb) == ("500 (IQR 5.0 %)", None)


def test_decimals_follow_the_test_set_and_never_print_100_for_less(tmp_path, tiny):
    """50,000 images show thousandths of a percent; 99.996 % is not 100 %."""
    values = {"base": [99.996] * 3, "growth_rate 8": [100.0] * 3}

    def edit(job, record):
        if job.kind == "run":
            accuracy = values[job.name.partition(",")[0]][job.config.seed]
            record["deterministic"] |= {"test_accuracy": accuracy, "test_images": 50_000}

    rows = texts_of(make_study_table(study_of(load(fabricated(tmp_path / "r", tiny, edit=edit)))))
    assert [row[2] for row in rows] == ["99.996 ± 0.000", "100.000 ± 0.000"]
    assert rows[1][3].startswith("+0.004 [")
    few = study_of(load(fabricated(tmp_path / "few", tiny, edit=lambda *each: edit(*each) or fewer(*each))))
    assert [row[2] for row in texts_of(make_study_table(few))] == ["99.996 ± 0.000", "100.00 ± 0.00"]


def fewer(job, record):
    """An edit of records: 10,000 test images."""
    if job.kind == "run":
        record["deterministic"]["test_images"] = 10_000


def test_a_table_s_caption_tells_of_its_own_rows(tmp_path):
    grid = read(write_grid(tmp_path, TINY + "[study.batch]\ntrain.batch_size = [64, 32]\n"))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    for job in list_jobs(grid, MACHINE):
        records.publish(tmp_path / "r", record_of(job, 90.0, 1.0))
    frames = load(tmp_path / "r")
    assert "at batch size 64." in make_study_table(study_of(frames)).caption
    assert "at batch size 64, 32." in make_study_table(study_of(frames, "batch")).caption


def test_every_variant_stands_once_in_the_overall_table(tmp_path):
    text = TINY + "[study.again]\nmodel.growth_rate = [8, 4]\ntrain.epochs = [1, 2]\n"
    grid = read(write_grid(tmp_path, text))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    table = make_overall_table(analyse(load(tmp_path / "r")))
    assert [row[0] for row in texts_of(table)] == ["4 (base)", "growth_rate 8", "again 8, 2", "again 4, 2"]


def test_a_product_study_has_a_table_of_its_effects(tmp_path):
    text = TINY + "[study.both]\nmodel.growth_rate = [4, 8]\ntrain.epochs = [1, 2]\n"
    grid = read(write_grid(tmp_path, text))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    for job in (job for job in list_jobs(grid, MACHINE) if job.kind == "run"):
        wide, longer = "8" in job.name.partition(",")[0], "8, 2" in job.name or "4, 2" in job.name
        gain = 2 * wide + longer * (1 + wide) + (job.config.seed % 2) * 0.5 * wide
        records.publish(tmp_path / "r", record_of(job, 90 + job.config.seed + gain, 1.0))
    frames = load(tmp_path / "r")
    table = make_effects_table(study_of(frames, "both"))
    assert [row[:2] for row in texts_of(table)] == [
        ("model.growth_rate", "4 -> 8"),
        ("train.epochs", "1 -> 2"),
        ("model.growth_rate x train.epochs", "4 -> 8, 1 -> 2"),
    ]
    assert r"train.epochs & \num{1} -$>$ \num{2} & \num{3}" in render_latex(table)
    assert render_latex(table).count(r"train.epochs & \num{1} -$>$ \num{2}") == 2, "of both panels"
    assert "its main effects and interactions included" in table.caption
    assert make_effects_table(study_of(frames)) is None
    write_tables(analyse(frames))
    assert (tmp_path / "r" / "tables" / "both.effects.csv").read_text().startswith("effect,axes,levels,n,difference")


def test_the_numbers_of_several_folders_define_the_macro_once():
    """A second \\newcommand of a known name is an error in LaTeX."""
    lines = render_macros({("s", "1", "params"): "1"}, "r").splitlines()
    (head,) = [line for line in lines if "newcommand" in line]
    assert head.startswith(r"\ifcsname ablate:macro\endcsname\else\newcommand{\ablate}[3]{")
    assert head.endswith(r"\expandafter\def\csname ablate:macro\endcsname{}\fi")
    assert head.count(r"\if") == head.count(r"\fi") == 2


def test_special_characters_are_escaped():
    assert escape_latex("≈ ±0.5") == r"$\approx$ $\pm$0.5"
    assert escape_latex("a_b & 50 % #1 {x} \\ ~ ^ $") == (
        r"a\_b \& 50 \% \#1 \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \$"
    )
    assert escape_latex("-1.30 [-1.72, +0.88], e-5 norm-act") == "$-$1.30 [$-$1.72, +0.88], e-5 norm-act"
    assert escape_latex("Δ → ∞, ζ µ ξ") == r"$\Delta$ $\to$ $\infty$, $\zeta$ $\mu$ $\xi$"
    assert escape_markdown("a|b_c*") == r"a\|b\_c\*"


def test_letters_that_pdflatex_does_not_know_are_named(results):
    table = make_study_table(study_of(load(results)))
    assert "pdflatex" not in render_latex(table)
    told = render_latex(replace(table, question="Was kostet 密度 – “größer” als β?")).splitlines()[1]
    assert told == "% pdflatex does not know 密度: use lualatex with a font that has it, or another label."
    macros = render_macros({("s", "密", "params"): "1", ("s", "β", "params"): "2"}, "r")
    assert macros.startswith("% pdflatex does not know 密: ")


def test_every_table_compiles_and_a_wrong_citation_does_not(results, tmp_path):
    if not shutil.which("kpsewhich") or subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True).returncode:
        pytest.skip("no LaTeX with siunitx on this machine")
    write_tables(analyse(load(results)))

    def compile_tex(body: str) -> subprocess.CompletedProcess:
        text = "\\documentclass{article}\\usepackage{booktabs,siunitx}\\input{numbers}\\begin{document}" + body
        (results / "paper.tex").write_text(text + "\\end{document}")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        return subprocess.run(command, cwd=results, capture_output=True, text=True, errors="replace")

    for folder in ROOT.glob("results/*"):
        if (folder / "jobs.json").exists():
            found = analyse(load(folder))
            for study in found.studies:
                text = render_latex(make_study_table(study)) + render_latex(find_table(found, study.name), folder.name)
                (results / "tables" / f"real-{study.name}.tex").write_text(text)
            (results / "tables" / "real-overall.tex").write_text(render_latex(make_overall_table(found)))
    real = "".join(rf"\input{{tables/{path.stem}}}" for path in sorted((results / "tables").glob("real-*.tex")))
    assert real
    good = compile_tex(real + r"\input{tables/growth_rate} \typeout{cited: \ablate{growth_rate}{8}{test_accuracy}}")
    assert good.returncode == 0, good.stdout[-2000:]
    assert "Overfull" not in good.stdout
    assert "too large" not in good.stdout
    assert "cited: 93.00" in good.stdout
    bad = compile_tex(r"\ablate{growth_rate}{9}{test_accuracy}")
    assert bad.returncode != 0
    assert "No number for study growth_rate, level 9" in bad.stdout


def test_a_tall_table_is_broken_into_floats(tmp_path):
    levels = ", ".join(map(str, range(2, 22)))
    grid = read(write_grid(tmp_path, TINY.replace("[4, 8]", f"[{levels}]")))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    text = render_latex(make_study_table(study_of(load(tmp_path / "r"))))
    assert text.count(r"\begin{table}") == text.count(r"\begin{tabular}") == 5
    assert text.count(r"\label{tab:growth_rate}") == 1


def test_columns_are_chosen_by_name_in_this_order(results):
    found = analyse(load(results))
    table = find_table(found, "growth_rate", ["params", "change", "accuracy"], short=False)
    assert [column.head for column in table.columns] == ["Level", "Params", "Change (points)", "Test accuracy (%)"]
    assert texts_of(table)[1] == ("8", "2,000 (+100.0 %)", "+2.0 [+0.4, +3.6]", "93.00 ± 0.87")
    for text in (table.caption, table.details):
        assert "Changes of costs are relative to the base. Data: digits, 360 test images; 3 seeds. Device" in text
    assert table.choice == ("--columns", "params,change,accuracy")
    short = find_table(found, "growth_rate", ["params"], short=True)
    assert (texts_of(short)[1], short.choice) == (("8", "2,000"), ("--columns", "params", "--short"))
    assert short.caption.startswith("Data: digits, 360 test images; 3 seeds. Device: Test processor")
    whole, brief = find_table(found, "growth_rate"), shorten(found.study("growth_rate"))
    assert replace(whole, caption=whole.details, details="") == brief
    assert len(whole.caption) < 0.7 * len(brief.caption)
    assert texts_of(find_table(found, "overall", ["macs"], short=True)) == [
        ("4 (base)", "2.00"),
        ("growth_rate 8", "4.00"),
    ]
    with pytest.raises(
        ValueError, match=r"unknown columns: 'acc', 'x'; growth_rate has n, accuracy, change, verdict, p,"
    ):
        find_table(found, "growth_rate", ["acc", "n", "x"])
    with pytest.raises(ValueError, match="unknown table: 'growth'; the records have 'growth_rate', 'overall'"):
        find_table(found, "growth")


def test_the_numbers_behind_chosen_columns_have_ten_digits(results):
    study = study_of(load(results))
    table = find_table(analyse(load(results)), "growth_rate", ["accuracy", "params", "change"], short=True)
    assert render_numbers(table, study.numbers).decode().splitlines()[::2] == [
        "level,is_base,mean,sd,params,params_change,difference,low,high",
        "8,False,93,0.8660254038,2000,1,2,0.3970186711,3.602981329",
    ]


def test_a_study_is_one_table_in_latex(results):
    write_tables(analyse(load(results)))
    text = (results / "tables" / "growth_rate.tex").read_text()
    assert text.count(r"\begin{table}") == 1
    assert text.count(r"\begin{tabular}") == 2
    assert r"\caption{What does a wider layer buy?}\label{tab:growth_rate}" in text
    assert text.index("% /ablate") < text.index(r"\parbox{\linewidth}{\scriptsize Accuracy: mean")
    assert text.index("\n% Accuracy of the last epoch") < text.index(r"\begin{table}")
    assert "retain-explicit-plus" in text


PUBLISHED = """
[study.known]
published_source = "a paper, Table 2"
published = { narrow = 9.0, wide = 6.0, deep = 8.5 }
variant = [
    { name = "narrow" }, { name = "wide", model.growth_rate = 8 }, { name = "deep", model.block_config = [2, 2] },
    { name = "new", model.bn_size = 2 },
]
"""


@pytest.fixture
def known(tmp_path):
    """Errors of 10, 9 and 8 % (mean 9, half interval 2.48), of 8, 6.5 and 6.5 % (7, 2.15), and a single one of 9 %."""
    grid = read(write_grid(tmp_path, TINY + PUBLISHED))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    accuracies = {
        "base": [90, 91, 92],
        "growth_rate 8": [92, 93.5, 93.5],
        "known deep": [91],
        "known new": [91, 91, 92],
    }
    for job in (job for job in list_jobs(grid, MACHINE) if job.kind == "run"):
        own = accuracies[job.name.partition(", seed")[0]]
        if job.config.seed < len(own):
            records.publish(tmp_path / "r", record_of(job, own[job.config.seed], 1.0))
    return load(tmp_path / "r")


def test_published_errors_stand_beside_the_measured_ones(known):
    study = study_of(known, "known")
    table = make_study_table(study)
    place = table.columns.index(tables.PUBLISHED[0])
    assert table.columns[place : place + 3] == tables.PUBLISHED
    half = 4.302653 * 0.8660254 / 3**0.5  # t of 2 degrees of freedom, standard deviation of 8, 6.5 and 6.5
    assert study.numbers.error_low[1] == pytest.approx(7 - half)
    assert [row[place : place + 3] for row in texts_of(table)] == [
        ("9.0 [6.5, 11.5]", "9.00", "within"),
        ("7.0 [4.8, 9.2]", "6.00", "within"),
        ("9.00", "8.50", "no interval"),
        ("8.7 [7.2, 10.1]", "", ""),
    ]
    assert "Published errors: a paper, Table 2. Within: in the 95 % t interval" in table.caption
    assert "Published errors: known: a paper, Table 2." in explain_table(analyse(known).overall, ())
    assert "Published" not in make_study_table(study_of(known)).caption
    cited = {key: text for (study, level, key), text in collect_values(analyse(known)).items()
             if (study, level) == ("known", "wide")}  # fmt: skip
    assert {key: cited[key] for key in ("test_error", "test_error_low", "test_error_high", "published_error")} == {
        "test_error": "7.0", "test_error_low": "4.8", "test_error_high": "9.2", "published_error": "6.00",
    }  # fmt: skip
    short = shorten(study)
    assert texts_of(short)[1][short.columns.index(tables.PUBLISHED[2])] == "within"
    said = "Of 2 published errors 2 lie within the interval of the measured ones; without an interval to compare: "
    said += "that of deep."
    assert said in answer(study)


@pytest.mark.parametrize(("stated", "where"), [(6.52, "within"), (6.51, "below"), (11.49, "above"), (11.48, "within")])
def test_a_published_error_is_within_the_interval_or_not(stated, where):
    constant = {"mean": 91.1, "sd": 0.0, "n": 3}
    assert analysis._compare_published(constant, 8.9)["published_is"] == "no interval"
    row = {"mean": 91.0, "sd": 1.0, "n": 3}  # half an interval: 4.302653 / sqrt(3) = 2.48414
    assert analysis._compare_published(row, stated)["published_is"] == where


def test_a_metric_of_runs_is_a_column_and_can_be_cited(tmp_path, tiny, monkeypatch):
    """One entry in METRICS and a value in the records: mean and deviation over the seeds, without a verdict."""
    loss = Metric(label="Last loss", unit="nats", meaning="loss of the last step", format="{:.3f}".format,
                  better="lower", of="run", group="accuracy")  # fmt: skip
    for registry in (METRICS, BESIDE_ACCURACY):
        monkeypatch.setitem(registry, "last_loss", loss)
    make_manifest(tiny, MACHINE, tmp_path).write(tmp_path)
    for job in list_jobs(tiny, MACHINE):
        record = record_of(job, 90.0, 1.0)
        if job.kind == "run" and job.name.startswith("base"):
            record["deterministic"]["last_loss"] = 0.5 - 0.1 * job.config.seed
        records.publish(tmp_path, record)
    results = analyse(load(tmp_path))
    table = make_study_table(results.study("growth_rate"))
    place = [column.head for column in table.columns].index("Last loss (nats)")
    assert [row[place] for row in texts_of(table)] == ["0.400 ± 0.100", ""]
    values = collect_values(results)
    assert values["growth_rate", "4", "last_loss"] == "0.400"
    assert values["growth_rate", "4", "last_loss_sd"] == "0.100"
    assert ("growth_rate", "8", "last_loss") not in values


@pytest.mark.parametrize("limit", ["", "\ndata.test_limit = 90"])
def test_a_limited_test_set_is_marked(tmp_path, limit):
    grid = read(write_grid(tmp_path, TINY.replace("data.train_limit = 100", f"data.train_limit = 100{limit}")))
    fabricate(tmp_path / "r", grid)
    caption = make_study_table(study_of(load(tmp_path / "r"))).caption
    assert "360 test images" in caption
    assert (", a part of the test set (data.test_limit)" in caption) == bool(limit)


def test_levels_that_are_named_like_missing_values_come_back_as_the_documentation_says():
    frame = pd.DataFrame({"level": ["NA", "None", "null", "nan"], "accuracy": [1.5, None, 2.5, 3.5]})
    back = pd.read_csv(io.BytesIO(render_csv(frame)), keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize("value", [0.24167819407188174, 1.317543436048722, -0.0213318954692607, 1e-300, 2 / 3])
def test_the_last_digits_of_a_processor_s_sums_are_not_written(value):
    assert spell_digits(math.nextafter(value, 1)) == spell_digits(math.nextafter(value, -1)) == spell_digits(value)
    assert float(spell_digits(value)) == pytest.approx(value, rel=5e-10, abs=0)


def test_whole_numbers_are_written_in_full():
    assert [spell_digits(value) for value in (0.0, -3.0, 123456789012345.0, 71686)] == [
        "0",
        "-3",
        "123456789012345",
        "71686",
    ]


def test_parameters_that_are_not_trained_are_told_beside_the_trained_ones(tmp_path, tiny):
    def freeze(job, record):
        if job.name == "growth_rate 8":
            record["deterministic"]["params_total"] = 12_000

    fabricate(tmp_path / "r", tiny, edit=freeze)
    base, wide = texts_of(make_study_table(study_of(load(tmp_path / "r"))))
    assert [cell for cell in wide if "not trained" in cell] == ["2,000 (+100.0 %; and 10,000 that are not trained)"]
    assert not any("not trained" in cell for cell in base)


def test_the_maker_of_runs_is_no_remark_where_the_base_has_none(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=tuple(f"base, seed {seed}" for seed in range(3)))
    assert texts_of(make_study_table(study_of(load(tmp_path / "r"))))[1][2] == "93.00 ± 0.87"
