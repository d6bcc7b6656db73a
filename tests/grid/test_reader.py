"""Grids: what a valid one means, and every error of an invalid one at once."""

from __future__ import annotations

import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MACHINE, TINY, write_grid
from data_files import write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ablations.cli import SHIPPED, app
from ablations.config import DataConfig
from ablations.grid.matching import find_nearest
from ablations.grid.model import list_jobs
from ablations.grid.problems import Findings, GridError
from ablations.grid.reader import _read_value, build, read
from densenet import DenseNetConfig, OwnConfig, ResNetConfig, TorchvisionConfig, count_macs, count_params


def problems(folder, text):
    with pytest.raises(GridError) as caught:
        read(write_grid(folder, text))
    return [str(problem) for problem in caught.value.problems]


def test_three_errors_at_once_each_with_its_key_and_what_is_allowed(tmp_path):
    found = problems(
        tmp_path,
        """
        [base]
        model.grwoth_rate = 12
        data.name = "digits"
        [study.compression]
        model.compression = [0.5, 1.5]
        [study.growth_rate]
        quesiton = "?"
        model.growth_rate = [4, 8]
        """,
    )
    assert len(found) == 3
    assert found[0].startswith("base.model.grwoth_rate = 12: unknown key; did you mean 'growth_rate'?; allowed are")
    assert found[1] == "study.compression.model.compression = 1.5: should be less than or equal to 1"
    assert found[2].startswith("study.growth_rate.quesiton = '?': unknown key; did you mean 'question'?; allowed are")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1, 1]", "[1, 1", "TOML: "),
        ("title", "titel", "titel = 'Tiny': unknown key; did you mean 'title'?"),
        ("[0, 1, 2]", "[0, -1]", "seeds = [0, -1]: must be a list of whole numbers"),
        ("[0, 1, 2]", "[true]", "seeds = [True]: must be a list of whole numbers"),
        ('"digits"', '"digit"', "did you mean 'digits'"),
        ('"digits"', '"parquet"', "data.root is missing"),
        ("[4, 8]", "8", "study.growth_rate.model.growth_rate = 8: an axis is a list"),
        ("[4, 8]", "[]", "an axis is a list of levels, at least one"),
        ("[4, 8]", "[4, 0]", "study.growth_rate.model.growth_rate = 0: should be a whole number above 0"),
        ("[4, 8]", '[4, "8"]', "study.growth_rate.model.growth_rate = '8': should be a whole number above 0"),
        ("epochs = 1", "epochs = nan", "base.train.epochs = nan"),
        ("epochs = 1", "epochs = 1\ntrain.warmup_epochs = 1.0", "must be below epochs = 1"),
        ("epochs = 1", "steps = 0", "base.train.steps = 0: should be greater than 0"),
        (
            "[4, 8]",
            "[4, 4, 8]\n[[study.s.variant]]\nname = 'base'\nmodel.growth_rate = 9",
            "'base': stands more than once",
        ),
        ("epochs = 1", "epochs = 1\ntrain.steps = 9", "epochs and steps say the same thing: give one of them"),
        ("epochs = 1", "batch_size = 101\ntrain.last_batch = 'drop'", "fewer than batch_size = 101"),
        ("epochs = 1", "steps = 4\ntrain.warmup_epochs = 2.5", "warmup_epochs = 2.5 must be below epochs = 2"),
        ("epochs = 1", "schedule = 'one-cycle'\ntrain.warmup_epochs = 0.5", "one-cycle has a rise of its own"),
        ("= 100", "= 100\ndata.validation = 1.5", "should be a share below 1, or a whole number of images"),
        ("= 100", "= 100\ndata.validation = 2000", "that is 2,000 of 1,437 images"),
        ("= 100", "= 100\ndata.validation = 1400", "train_limit = 100: digits has 37 training images left"),
        ("epochs = 1", "schedule = 'cosin'", "did you mean 'cosine'?"),
        ("[1, 1]", "[1, 1, 1, 1, 1]", "needs images of at least 16 x 16 pixels; those of digits have 8 x 8"),
        ("growth_rate = 4", "growth_rate = 4\nmodel.in_channels = 3", "digits has 1; leave it out"),
        ("growth_rate = 4", "family = 'densnet'", "did you mean 'densenet'?"),
        ("growth_rate = 4", "preset = 'resnet20'\nmodel.family = 'densenet'", "preset 'resnet20' is a resnet"),
        ("[4, 8]", "[[4, 4], [4, 5], [4.0]]", "growth_rate = [4.0]: should be a whole number"),
        ("model.growth_rate = [4, 8]", "model.block_config = [1, 1]", "a list in the list: [[3, 3, 3]]"),
        ("model.growth_rate = [4, 8]", "variant = []", "must be tables, each headed [[study.growth_rate.variant]]"),
        ("[4, 8]", "[1000000000]", "at most 10000"),
        ("title", "time_limit = -1\ntitle", "time_limit = -1: must be a number of seconds above 0"),
        ("title", "time_limit = nan\ntitle", "time_limit = nan: must be a number of seconds above 0"),
        ("title", "time_limit = inf\ntitle", "time_limit = inf: must be a number of seconds above 0"),
        ("title", "time_limit = true\ntitle", "time_limit = True: must be a number of seconds above 0"),
        ("title", "time_limit = '60'\ntitle", "time_limit = '60': must be a number of seconds above 0"),
        ("speed_rounds = 0", "speed_rounds = 5", "speed_rounds = 5: must be 0, to compare no speed, or a whole number"),
        ("speed_rounds = 0", "speed_rounds = 1001", "speed_rounds = 1001: must be 0, to compare no speed, or"),
        ("speed_rounds = 0", "speed_rounds = true", "speed_rounds = True: must be 0, to compare no speed, or"),
        (
            "question",
            "speed_rounds = 3\nquestion",
            "study.growth_rate.speed_rounds = 3: must be 0, to compare no speed",
        ),
        ("speed_rounds = 0", "margin = -1", "margin = -1: must be the largest difference of accuracy that does not"),
        ("speed_rounds = 0", "margin = 101", "margin = 101: must be the largest difference of accuracy that does not"),
        ("speed_rounds = 0", "margin = 'x'", "margin = 'x': must be the largest difference of accuracy that does not"),
        ("speed_rounds = 0", "margin = nan", "margin = nan: must be the largest difference of accuracy that does not"),
        ("question", "margin = -0.5\nquestion", "study.growth_rate.margin = -0.5: must be the largest difference"),
        ('"Tiny"', '"a\\u0007"', "title = 'a\\x07': must be text of printable characters"),
        ("question = ", "question = 3 #", "study.growth_rate.question = 3: must be text of printable characters"),
        ("growth_rate = 4", "family = 'torchvision'", "base.model.name: Field required"),
        ("growth_rate = 4", "family = 'unknown preset'", "base.model.family = 'unknown preset': unknown model family"),
        ("growth_rate = 4", "family = 'sys:path'", "sys (built in): path is neither a torch.nn.Module nor a function"),
        ('"digits"', "'digits'\ndata.root = '~no one/x'", "base.data: data.root = ~no one/x: Could not determine home"),
        ("epochs = 1", "epochs = 1" + "0" * 5000, "TOML: "),
        ("epochs = 1", "epochs = 0x" + "f" * 6000, "24000 bits; at most 64"),
        ("epochs = 1", "epochs = 0\nmodel.in_channels = 3", "digits has 1; leave it out"),
        ("growth_rate = 4", "preset = 'densenet-bc-100-24'", "did you mean 'densenet-bc-100-12'?"),
        ("[study.growth_rate]", '[study."../x"]', "a study's name is 1 to 64 letters"),
        ("[study.growth_rate]", "[other]", "other = "),
        ("[study.growth_rate]", "[study.pareto]", "taken by a figure"),
        ("[1, 1]", "[1, 1]\nmodel.depth = 40", "base.model: depth and block_config say the same thing"),
        ("model.block_config = [1, 1]", "model.depth = 41", "base.model.depth = 41: should be 6n + 4"),
        ("growth_rate = 4", "norm = 'bacth'", "base.model.norm = 'bacth': unknown norm 'bacth': allowed are 'batch'"),
        ("growth_rate = 4", "family = 'no_module:Net'", "no_module cannot be imported"),
        ('"digits"', '"random"', "random needs data.shape, data.classes and data.size"),
        ('"digits"', '"digits"\ndata.classes = 3', "classes is a field of random, not of digits: leave it out"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    assert old in TINY
    found = problems(tmp_path, TINY.replace(old, new))
    assert any(message in problem for problem in found), found


def test_a_study_has_the_margin_of_the_grid_or_its_own_or_none(tmp_path):
    def margins(text):
        return [study.margin for study in read(write_grid(tmp_path, text)).studies]

    studies = (
        TINY + "[study.own]\nmargin = 0.25\nmodel.bn_size = [2, 4]\n[study.none]\nmargin = 0\nmodel.bn_size = [2, 8]\n"
    )
    assert margins(studies) == [None, 0.25, None]
    assert margins(studies.replace("speed_rounds", "margin = 0.5\nspeed_rounds")) == [0.5, 0.25, None]


def test_a_base_error_is_told_once_and_not_again_for_every_level(tmp_path):
    found = problems(tmp_path, TINY.replace("[1, 1]", "[0, 1]"))
    assert found == ["base.model.block_config[0] = 0: should be greater than 0"]
    levels = (
        TINY.replace("growth_rate = [4, 8]", "bn_size = [2, 4]") + "[study.rate]\ntrain.learning_rate = [0.1, 0.2]\n"
    )
    found = problems(tmp_path, levels.replace("epochs = 1", "epochs = 1\ntrain.warmup_epochs = 1.0"))
    assert found == ["base.train.warmup_epochs = 1.0: warmup_epochs = 1 must be below epochs = 1"]
    found = problems(tmp_path, levels.replace("growth_rate = 4", "in_channels = 3"))
    assert found == ["base.model.in_channels = 3: digits has 1; leave it out, the data says it"]


def test_problems_of_all_sections_are_told_at_once(tmp_path):
    text = TINY.replace("growth_rate = 4", "compression = 2.0").replace("= 100", "= 99999")
    text += "[[study.v.variant]]\nmodel.grwoth_rate = 3\n"
    found = problems(tmp_path, text)
    assert len(found) == 4
    for part in ("base.model.compression", "train_limit = 99999", "study.v.variant[0].name", "variant[0].model.grwoth"):
        assert any(part in each for each in found), part


def test_problems_stand_in_the_order_of_the_file(tmp_path):
    text = TINY.replace("growth_rate = [4, 8]", "growth_rate = [4, 0]\npublished = 3").replace(
        "epochs = 1", "epochs = 0"
    )
    found = problems(tmp_path, text.replace("title", "titel") + "[study.b]\nquesiton = 1\nmodel.bn_size = [2]\n")
    assert [each.partition(" = ")[0] for each in found] == [
        "titel", "base.train.epochs", "study.growth_rate.published", "study.growth_rate.model.growth_rate",
        "study.b.quesiton",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[study.growth_rate]", '[study."../x"]',
         "study.\"../x\": a study's name is 1 to 64 letters, digits, '_' and '-': it names files"),
        ("model.growth_rate = [4, 8]", "model = 3", "study.growth_rate.model = 3: must be a table"),
        ("model.growth_rate = [4, 8]", "variant = 3",
         "study.growth_rate.variant = 3: must be tables, each headed [[study.growth_rate.variant]]"),
        ("model.growth_rate = [4, 8]", "variant = [{name = 'a'}, 3]",
         "study.growth_rate.variant[1] = 3: must be a table"),
        ("model.growth_rate = [4, 8]", "variant = [{}, {}]",
         'study.growth_rate.variant[0].name: is missing, for example name = "ResNet-20"'),
        ("title", "study = 3\n#", "study = 3: must be a table"),
    ],
)  # fmt: skip
def test_what_follows_from_a_problem_is_not_told_beside_it(tmp_path, old, new, message):
    text = TINY.partition("[study")[0] if new.startswith("study") else TINY
    found = problems(tmp_path, text.replace(old, new))
    assert found == [message] or found == [message, message.replace("[0]", "[1]")]


def test_the_base_is_not_named_after_a_length_that_it_does_not_use(tmp_path):
    text = TINY.replace("epochs = 1", "steps = 2").partition("[study")[0]
    grid = read(write_grid(tmp_path, text + "[study.a]\ntrain.epochs = [1, 2]\n[study.b]\ntrain.steps = [2, 3]\n"))
    assert [[level.label for level in study.levels] for study in grid.studies] == [["base", "1", "2"], ["2", "3"]]
    (study,) = read(write_grid(tmp_path, TINY.partition("[study")[0] + "[study.b]\ntrain.steps = [2, 3]\n")).studies
    assert [level.label for level in study.levels] == ["base", "2", "3"], "and not 0"


def test_studies_that_differ_only_in_capital_letters_are_refused(tmp_path):
    (found,) = problems(tmp_path, TINY + "[study.Growth_rate]\nmodel.bn_size = [2, 4]\n")
    assert found.startswith("study.Growth_rate: differs from study growth_rate only in capital letters")


def test_the_message_names_the_file(tmp_path):
    with pytest.raises(GridError, match=r"tiny\.toml: 1 problem, nothing was run"):
        read(write_grid(tmp_path, TINY + "x = 1"))


def test_deep_nesting_is_refused(tmp_path):
    assert problems(tmp_path, "x = " + "[" * 3000 + "]" * 3000)[0].startswith("TOML: ")
    assert problems(tmp_path, "x = " + "[" * 40 + "]" * 40) == ["TOML: nested too deeply; at most 32 levels are taken"]


def axes(count, *keys):
    return "\n".join(f"model.{key} = [{', '.join(map(str, range(1, count + 1)))}]" for key in keys) + "\n"


def test_more_jobs_than_a_slip_are_refused_before_they_are_made(tmp_path):
    start = time.perf_counter()
    (found,) = problems(tmp_path, TINY.replace("model.growth_rate = [4, 8]", axes(1000, "bn_size", "depth", "norm")))
    assert time.perf_counter() - start < 1
    assert found == "study: up to 4,000,000,004 jobs; at most 10,000 are taken, --max-jobs N lifts that"
    studies = "".join(f"[study.s{number}]\n{axes(40, 'bn_size', 'init_features')}" for number in range(2))
    (found,) = problems(tmp_path, TINY + studies)
    assert found.startswith("study: up to 12,808 jobs"), "two studies of 40 x 40 levels, the base, one more, 3 seeds"
    (found,) = problems(
        tmp_path, TINY.replace("[4, 8]", "[4]\n" + axes(200, *(f"x{number}" for number in range(2000))))
    )
    assert found.startswith("study: 10^18 or more jobs")


def test_the_cap_on_jobs_is_exact_for_a_plain_grid(tmp_path):
    text = TINY + "[[study.s.variant]]\nname = 'base'\n[[study.s.variant]]\nname = 'nine'\nmodel.growth_rate = 9\n"
    path = write_grid(tmp_path, text)
    assert len(list_jobs(read(path, max_jobs=12), MACHINE)) == 12
    with pytest.raises(GridError, match="up to 12 jobs; at most 11 are taken, --max-jobs N lifts that"):
        read(path, max_jobs=11)
    assert len(read(path, seeds=range(5000), max_jobs=15_003).seeds) == 5000
    with pytest.raises(GridError, match="up to 15,003 jobs; at most 10,000 are taken"):
        read(path, seeds=range(5000))


def test_the_cap_counts_trials_of_the_studies_that_are_tuned(tmp_path):
    tune = "[tune]\ntrain.learning_rate = [0.1, 0.2]\nseeds = [9]\nvalidation = 50\n"
    path = write_grid(tmp_path, TINY.replace("[4, 8]", "[4, 8]\ntune = false") + tune)
    with pytest.raises(GridError, match="up to 10 jobs; at most 9"):
        read(path, max_jobs=9)  # six runs, two costs, and the base's two trials
    assert len(list_jobs(read(path, max_jobs=10), MACHINE)) == 8


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_cap_is_an_option(tmp_path, command):
    path = write_grid(tmp_path)
    assert CliRunner().invoke(app, ["plan", str(path), "--counts-only", "--max-jobs", "8"]).exit_code == 0
    result = CliRunner().invoke(app, [command, str(path), "--out", str(tmp_path / "out"), "--max-jobs", "7"])
    assert result.exit_code == 2
    assert "study: up to 8 jobs; at most 7 are taken, --max-jobs N lifts that" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("time_limit = 0\n", 0.0), ("time_limit = 90\n", 90.0)])
def test_a_grid_s_time_limit(tmp_path, text, seconds):
    assert read(write_grid(tmp_path, text + TINY)).time_limit == seconds


@pytest.mark.parametrize(
    ("levels", "labels", "note"),
    [
        ("model.growth_rate = [8, 12, 8]", "4 8 12", "level 8 is the same variant as level 8"),
        ("model.growth_rate = [4, [4, 4], 8]", "4 8", "level 4-4 is the same variant as level 4"),
        ("model.compression = [1, 1.0]", "0.5 1", "level 1.0 is the same variant as level 1"),
        ("data.workers = [1, 2]", "1", "level 2 is the same variant as level 1"),
        ('variant = [{name = "a"}, {name = "b"}]', "a", "level b is the same variant as level a"),
        (
            'variant = [{name = "a", model.growth_rate = 9}, {name = "b", model.growth_rate = 9}]',
            "base a",
            "level b is the same variant as level a",
        ),
    ],
)
def test_equal_variants_of_a_study_count_once_and_it_is_said(tmp_path, levels, labels, note):
    grid = read(write_grid(tmp_path, TINY.replace("model.growth_rate = [4, 8]", levels)))
    (study,) = grid.studies
    assert [level.label for level in study.levels] == labels.split()
    assert sum(level.is_base for level in study.levels) == 1
    assert grid.notes == (f"study.growth_rate: {note} and counts once",)


def test_what_is_missing_is_told_beside_other_problems(tmp_path):
    text = TINY.replace("growth_rate = 4", "family = 'torchvision'").replace("model.block_config = [1, 1]", "")
    found = problems(tmp_path, text.replace("epochs = 1", "epochs = 0"))
    assert found == ["base.model.name: Field required", "base.train.epochs = 0: should be greater than 0"]


def test_a_level_that_its_inheritance_forbids_is_told_beside_other_problems(tmp_path):
    text = TINY.replace("block_config = [1, 1]", "depth = 28") + "[study.stem]\nmodel.stem = ['x', 'imagenet']\n"
    first, second = problems(tmp_path, text)
    assert first.startswith("study.stem.model.stem = 'x': should be 'cifar' or 'imagenet'")
    assert second.startswith("study.stem.model.depth = 28: with the imagenet stem")


def test_a_mark_of_the_byte_order_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TINY.encode())
    assert read(path).text == TINY


def test_levels_rows_and_the_base(tmp_path, tiny):
    (study,) = tiny.studies
    assert [(level.label, level.is_base) for level in study.levels] == [("4", True), ("8", False)]
    outside = read(write_grid(tmp_path, TINY.replace("[4, 8]", "[8, 12]")))
    assert [(level.label, level.is_base) for level in outside.studies[0].levels] == [
        ("4", True), ("8", False), ("12", False),
    ]  # fmt: skip


def test_a_product_and_a_growth_rate_per_block(tmp_path):
    text = TINY.replace("[4, 8]", "[[4, 8], 4]\nmodel.compression = [0.5, 1.0]")
    (study,) = read(write_grid(tmp_path, text)).studies
    assert [level.label for level in study.levels] == ["4-8, 0.5", "4-8, 1.0", "4, 0.5", "4, 1.0"]
    assert study.levels[1].variant.model.growth_rate == (4, 8)
    assert [level.is_base for level in study.levels] == [False, False, True, False]


FAMILY = """
[[study.family.variant]]
name = "ResNet"
model.family = "resnet"
[[study.family.variant]]
name = "matched"
model.family = "resnet"
model.depth = 8
match.params = "model.width"
"""


def test_another_family_starts_from_its_own_defaults_and_is_matched(tmp_path):
    grid = read(write_grid(tmp_path, TINY + FAMILY))
    base, resnet, matched = grid.studies[1].levels
    assert base.is_base
    assert resnet.variant.model == ResNetConfig(in_channels=1)
    assert matched.match is not None
    assert matched.match.target == count_params(grid.base.model)
    assert matched.match.reached == count_params(matched.variant.model)
    assert matched.values["model.width"] == matched.variant.model.width


@pytest.mark.parametrize(("key", "rule"), [("model.depht", "allowed are model.width"), ("width", "must name")])
def test_a_match_names_a_number_of_the_model(tmp_path, key, rule):
    assert any(rule in each for each in problems(tmp_path, TINY + FAMILY.replace("model.width", key)))


def test_a_preset_base_and_another_family_start_afresh(tmp_path):
    text = TINY.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", 'model.preset = "resnet56"')
    grid = read(
        write_grid(tmp_path, text.replace("model.growth_rate = [4, 8]", 'model.family = ["densenet", "resnet"]'))
    )
    densenet, resnet = grid.studies[0].levels
    assert densenet.variant.model == DenseNetConfig(in_channels=1)
    assert resnet.is_base
    assert grid.base.model == ResNetConfig(depth=56, in_channels=1)


@pytest.mark.parametrize("name", ["10 %", "a_b}", "a -- b", "x > y", "#1", "$x$", "~", "back\\\\slash"])
def test_a_level_that_cannot_be_cited_is_refused(tmp_path, name):
    found = problems(tmp_path, TINY + f'[[study.s.variant]]\nname = "{name}"\nmodel.growth_rate = 9\n')
    assert any("by which it is cited" in each for each in found), found


def test_a_match_that_is_not_quite_reached_is_said_and_one_out_of_reach_is_refused(tmp_path):
    grid = read(write_grid(tmp_path, TINY + FAMILY + "match.target = 1300\n"))
    assert any("matched: model.width" in note and "% off" in note for note in grid.notes), grid.notes
    found = problems(tmp_path, TINY + FAMILY.replace("model.depth = 8", "model.depth = 998"))
    assert any("are out of reach; model.width = " in each and "comes nearest, with " in each for each in found), found
    both = FAMILY.replace("model.depth = 8", "model.width = 2.0")
    assert any("leave one of them out" in each for each in problems(tmp_path, TINY + both))


def test_a_study_may_be_matched_as_a_whole(tmp_path):
    matched = 'model.growth_rate = [4, 3]\nmatch.params = "model.init_features"'
    base, narrow = read(write_grid(tmp_path, TINY.replace("model.growth_rate = [4, 8]", matched))).studies[0].levels
    assert base.match is None
    assert (narrow.match.field, narrow.variant.model.growth_rate) == ("model.init_features", 3)
    assert narrow.label == "3"


def test_a_target_may_be_stated(tmp_path):
    text = TINY + FAMILY + "match.target = 20000\n"
    matched = read(write_grid(tmp_path, text)).studies[1].levels[2]
    assert matched.match.target == 20000
    assert abs(count_params(matched.variant.model) - 20000) < 200
    assert any("a whole number" in each for each in problems(tmp_path, TINY + FAMILY + "match.target = 2.5\n"))


@settings(max_examples=15, deadline=None)
@given(st.integers(3_000, 300_000))
def test_no_width_in_reach_is_nearer_than_the_solved_one(target):
    solved, reached = find_nearest(ResNetConfig(depth=8), "width", target)
    assert reached == count_params(solved)
    for step in (-0.02, -0.005, 0.005, 0.02):
        other = count_params(ResNetConfig(depth=8, width=solved.width * (1 + step)))
        assert abs(reached - target) <= abs(other - target)


def test_macs_are_matched_at_the_images_of_each(tmp_path):
    text = TINY + FAMILY.replace("match.params", "match.macs")
    matched = read(write_grid(tmp_path, text)).studies[1].levels[2]
    assert matched.match.measure == "macs"
    assert matched.match.target == count_macs(DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1), (8, 8))
    assert matched.match.reached == count_macs(matched.variant.model, (8, 8))
    for nearby in (0.9, 0.95, 1.05, 1.1):
        other = matched.variant.model.model_copy(update={"width": matched.match.value * nearby})
        off = abs(count_macs(other, (8, 8)) - matched.match.target)
        assert off >= abs(matched.match.reached - matched.match.target)


@pytest.mark.parametrize("match", ["match = 3", "match.flops = 'model.width'", "match.params = 3", "match = {}"])
def test_a_match_names_params_or_macs(tmp_path, match):
    found = problems(tmp_path, TINY + FAMILY.replace('match.params = "model.width"', match))
    assert any('must read match.params = "model.FIELD" or match.macs' in each for each in found), found


def test_a_whole_number_is_matched_too():
    target = count_params(DenseNetConfig(block_config=(2, 2), growth_rate=9))
    solved, reached = find_nearest(DenseNetConfig(block_config=(2, 2), growth_rate=2), "init_features", target)
    assert solved.growth_rate == 2
    assert abs(reached - target) <= abs(count_params(solved.model_copy(update={"init_features": 1})) - target)


def test_a_preset_with_changed_fields(tmp_path):
    text = TINY.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", 'model.preset = "densenet-bc-100-12"')
    grid = read(write_grid(tmp_path, text))
    assert grid.base.model == DenseNetConfig(in_channels=1)


def test_depth_replaces_inherited_blocks_and_blocks_an_inherited_depth(tmp_path):
    text = TINY + "[study.depth]\nmodel.depth = [10, 16]\n"
    base, ten, sixteen = read(write_grid(tmp_path, text)).studies[1].levels
    assert [base.label, ten.label, sixteen.label] == ["7", "10", "16"], "two layers with bottlenecks in two blocks"
    assert (ten.variant.model.block_config, sixteen.variant.model.block_config) == ((1, 1, 1), (2, 2, 2))
    text = TINY.replace("block_config = [1, 1]", "depth = 16") + "[study.b]\nmodel.block_config = [[2, 2, 2], [1, 1]]\n"
    base, other = read(write_grid(tmp_path, text)).studies[1].levels
    assert base.is_base, "the same network, by its blocks"
    assert other.variant.model.block_config == (1, 1)
    assert read(write_grid(tmp_path), ["model.depth=10"]).base.model.block_config == (1, 1, 1)


def test_depth_is_read_anew_for_every_level(tmp_path):
    text = TINY.replace("block_config = [1, 1]", "depth = 16") + "[study.b]\nmodel.bn_size = [0, 4]\n"
    plain, bottleneck = read(write_grid(tmp_path, text)).studies[1].levels
    assert (plain.variant.model.block_config, bottleneck.variant.model.block_config) == ((4, 4, 4), (2, 2, 2))


def test_a_preset_of_another_depth(tmp_path):
    text = TINY.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", 'model.preset = "densenet-40-12"')
    text = text.replace("model.growth_rate = [4, 8]", "model.depth = [22]")
    base, other = read(write_grid(tmp_path, text)).studies[0].levels
    assert (base.label, base.variant.model.block_config) == ("40", (12, 12, 12))
    assert other.variant.model == base.variant.model.model_copy(update={"block_config": (6, 6, 6), "depth": 22})


OWN = f"{__name__}:OwnNetwork"


class OwnNetwork(torch.nn.Module):
    """A user's network."""

    def __init__(self, in_channels, num_classes, hidden=3):
        super().__init__()
        self.fc = torch.nn.Linear(in_channels * 64, num_classes)

    def forward(self, images):
        return self.fc(images.flatten(1))


def test_a_user_s_own_network_and_its_arguments(tmp_path):
    text = TINY.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", f'model.family = "{OWN}"')
    grid = read(write_grid(tmp_path, text.replace("model.growth_rate = [4, 8]", "model.hidden = [3, 4]")))
    assert grid.base.model == OwnConfig(family=OWN, in_channels=1)
    assert [level.variant.model.arguments for level in grid.studies[0].levels] == [{}, {"hidden": 4}]
    wrong = problems(tmp_path, text.replace("model.growth_rate = [4, 8]", "model.hiden = [3, 4]"))
    assert any("unexpected keyword argument 'hiden'" in each for each in wrong), wrong


def test_torchvision_s_networks_and_what_they_do_not_take(tmp_path):
    variant = '[[study.tv.variant]]\nname = "theirs"\nmodel.family = "torchvision"\nmodel.name = "resnet18"\n'
    images = 'data.name = "random"\ndata.shape = [3, 8, 8]\ndata.classes = 7\ndata.size = 9\n'
    grid = read(write_grid(tmp_path, TINY.replace('data.name = "digits"\ndata.train_limit = 100\n', images) + variant))
    assert grid.studies[1].levels[1].variant.model == TorchvisionConfig(name="resnet18", num_classes=7)
    (found,) = problems(tmp_path, TINY + variant)
    assert "digits has in_channels = 1, which this network does not take: should be 3" in found


def test_a_level_with_the_builder_s_own_default_is_the_base(tmp_path):
    text = """
        base.model.family = "torchvision"
        base.model.name = "densenet121"
        base.data = { name = "random", shape = [3, 8, 8], classes = 10, size = 9 }
        study.memory.model.memory_efficient = [false, true]
    """
    (study,) = read(write_grid(tmp_path, text)).studies
    assert [(level.label, level.is_base) for level in study.levels] == [("false", True), ("true", False)]


def test_another_network_of_torchvision_or_data_set_starts_afresh(tmp_path):
    text = """
        [base]
        model.family = "torchvision"
        model.name = "densenet121"
        model.memory_efficient = true
        data.name = "random"
        data.shape = [3, 8, 8]
        data.classes = 10
        data.size = 9
        data.augmentation = "standard"
        [study.name]
        model.name = ["densenet121", "resnet18"]
        [[study.data.variant]]
        name = "digits"
        model.family = "resnet"
        data.name = "digits"
    """
    names, data = read(write_grid(tmp_path, text)).studies
    assert [level.variant.model.arguments for level in names.levels] == [{"memory_efficient": True}, {}]
    assert data.levels[1].variant.data == DataConfig(augmentation="standard")


STARTING = """
    [base]
    model.family = "torchvision"
    model.name = "resnet18"
    model.weights = "IMAGENET1K_V1"
    data = { name = "random", shape = [3, 8, 8], classes = 10, size = 9 }
    [study.name]
    model.name = ["resnet18", "resnet34"]
    [study.weights]
    model.weights = ["none", "DEFAULT"]
    [[study.own.variant]]
    name = "own"
    model.family = "test_reader:Starting"
    model.pretrained = true
"""


class Starting(torch.nn.Sequential):
    """A network that has an argument for trained weights."""

    def __init__(self, in_channels, num_classes, pretrained=False):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64 * in_channels, num_classes))


def test_networks_start_from_the_same_weights_unless_a_level_says_otherwise(tmp_path):
    grid = read(write_grid(tmp_path, STARTING))
    names, weights, _ = grid.studies
    assert [level.variant.model.weights for level in names.levels] == ["IMAGENET1K_V1"] * 2
    assert [(level.label, level.is_base) for level in weights.levels] == [("none", False), ("DEFAULT", True)]
    costs = [grid.cost(level.variant) for level in weights.levels]
    assert costs[0] == costs[1], "weights change no cost"
    assert [note.partition(" asks for")[0] for note in grid.notes if "no file" in note] == [
        "study.own.variant[0].model.pretrained"
    ]
    found = problems(tmp_path, STARTING.replace("resnet34", "regnet_y_128gf").replace("DEFAULT", "V7"))
    assert [each.partition(":")[0] for each in found] == [
        "study.name.model.weights = 'IMAGENET1K_V1'",
        "study.weights.model.weights = 'V7'",
    ]


def test_a_network_that_cannot_be_counted_is_a_problem_of_its_match(tmp_path):
    text = TINY + FAMILY.replace("match.params", "match.macs")
    base = f'model.family = "{__name__}:Broken"'
    text = text.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", base).replace("[4, 8]", "[4]")
    found = problems(tmp_path, text.replace("model.growth_rate = [4]", "train.learning_rate = [0.1]"))
    assert found == ["study.family.variant[1].match.macs = 'model.width': cannot be counted: ValueError: not today"]


class Broken(OwnNetwork):
    """A user's network that cannot be run."""

    def forward(self, images):
        raise ValueError("not today")


def test_settings_and_seeds_of_the_command_line(tmp_path):
    grid = read(write_grid(tmp_path), ["train.epochs=3", "train.schedule=cosine"], [5])
    assert (grid.base.train.epochs, grid.base.train.schedule, grid.seeds) == (3, "cosine", (5,))
    with pytest.raises(GridError, match=r"--set epochs=3: must read model\.KEY=VALUE"):
        read(write_grid(tmp_path), ["epochs=3"])
    with pytest.raises(GridError, match=r"base\.train\.epochs = '3\\nx=4'"):
        read(write_grid(tmp_path), ["train.epochs=3\nx=4"])
    with pytest.raises(GridError, match="seeds = a whole number of thousands of digits: must be a list"):
        read(write_grid(tmp_path), seeds=[10**5000])


def test_duplicate_seeds_count_once_and_it_is_said(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[0, 1, 0]")))
    assert grid.seeds == (0, 1)
    assert "more than once" in grid.notes[0]


keys = st.sampled_from(
    ["title", "seeds", "base", "study", "model", "data", "train", "growth_rate", "x", "question", "tune", "validation",
     "learning_rate", "schedule", "published", "published_source", "variant", "name"]
)  # fmt: skip
values = st.recursive(
    st.none().map(lambda _: 0) | st.booleans() | st.integers(-3, 100) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


tunings = values | st.fixed_dictionaries(
    {"train": st.dictionaries(keys, values | st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3), max_size=2)},
    optional={"seeds": values | st.just([9]), "validation": values | st.just(10)},
)


@settings(max_examples=100, deadline=None)
@given(tune=tunings, own=tunings, published=values, seeds=values)
def test_no_tuning_whatever_brings_a_traceback(tune, own, published, seeds):
    table = tomllib.loads(TINY)
    table["tune"] = tune
    table["study"]["growth_rate"] |= {"tune": own, "published": published, "seeds": seeds}
    findings = Findings()
    grid = build(table, findings)
    assert grid is not None or findings.problems
    assert all(findings.problems)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_no_table_whatever_brings_a_traceback(table):
    findings = Findings()
    grid = build(table, findings)
    assert grid is not None or findings.problems
    assert all(findings.problems)


@pytest.mark.parametrize("name", ["quick", "presets"])
def test_shipped_grids_are_valid(name):
    assert read(SHIPPED / f"{name}.toml").studies


RANDOM = ["data.name='random'", "data.shape=[3,32,32]", "data.classes=10", "data.size=64"]


@pytest.mark.parametrize("name", ["cifar10", "cifar10-cpu"])
def test_the_shipped_cifar10_grids_ask_the_same_tuned_alike(name, monkeypatch):
    monkeypatch.setattr("ablations.grid.matching.find_nearest", lambda model, key, target, count: (model, target))
    grid = read(SHIPPED / f"{name}.toml", [*RANDOM, "tune.validation=16"])
    studies = {study.name: study for study in grid.studies}
    main = ["layer_order", "connectivity", "doubling", "family"]
    assert list(studies)[:9] == [*main, "growth_rate", "compression", "bottleneck", "init", "depth"]
    for name, study in studies.items():
        follow = name in ("checkpointing", "implementation")
        assert study.seeds == ((0, 1, 2, 3, 4) if name in main else (0,) if follow else (0, 1, 2)), name
        assert {level.variant.tuning for level in study.levels} == {grid.base.tuning}
        assert [level.variant.follows_base for level in study.levels if not level.is_base].count(not follow) == 0
        ways = {getattr(level.variant.model, "implementation", "textbook") for level in study.levels}
        assert ways == {"textbook"} or name == "implementation"


def test_the_cpu_grid_compares_networks_of_the_same_size():
    grid = read(SHIPPED / "cifar10-cpu.toml", [*RANDOM, "tune.validation=16"])
    levels = {level.label: level for study in grid.studies for level in study.levels}
    base = count_params(grid.base.model)
    assert base == 71_686
    for label, level in levels.items():
        if "equal params" in label or label.startswith("depth "):
            assert count_params(level.variant.model) == pytest.approx(base, rel=0.016), label
        if "equal MACs" in label:
            assert level.match.reached == pytest.approx(level.match.target, rel=0.01), label


def test_the_paper_s_grid_states_the_published_errors():
    grid = read(SHIPPED / "cifar10-paper.toml", RANDOM)
    published = {study.name: {level.label: level.published for level in study.levels} for study in grid.studies}
    assert published["augmented"] == {
        "DenseNet-40, k = 12": 5.24, "DenseNet-100, k = 12": 4.1, "DenseNet-100, k = 24": 3.74,
        "DenseNet-BC-100, k = 12": 4.51, "DenseNet-BC-250, k = 24": 3.62, "DenseNet-BC-190, k = 40": 3.46,
    }  # fmt: skip
    assert published["plain"] | {"base": None} == {
        "DenseNet-40, k = 12": 7.0, "DenseNet-100, k = 12": 5.77, "DenseNet-100, k = 24": 5.83,
        "DenseNet-BC-100, k = 12": 5.92, "DenseNet-BC-250, k = 24": 5.19, "base": None,
    }  # fmt: skip
    plain = [level.variant for level in grid.studies[1].levels if not level.is_base]
    assert {(each.model.dropout, each.model.dropout_place, each.data.augmentation) for each in plain} == {
        (0.2, "convolution", "none")
    }
    densenets = [level.variant.model for study in grid.studies[:2] for level in study.levels]
    assert {model.init for model in densenets} == {"fan-out"}, "as the authors' code draws"
    assert published["resnet"] | {"base": None} == {
        "ResNet-20": 8.75, "ResNet-32": 7.51, "ResNet-44": 7.17, "ResNet-56": 6.97, "ResNet-110": 6.43,
        "pre-activation ResNet-110": 6.37, "pre-activation ResNet-164": 5.46, "base": None,
    }  # fmt: skip
    resnets = [level.variant for level in grid.studies[2].levels if not level.is_base]
    assert {(each.train.batch_size, each.train.total_steps(50_000)) for each in resnets} == {(128, 64_000)}


ONCE = 'model.implementation = "normalize-once"\n'


@pytest.mark.parametrize(
    "study",
    [
        '[[study.s.variant]]\nname = "fast"\nmodel.growth_rate = 5\n' + ONCE,
        '[study.s]\nmodel.preset = ["densenet-bc-100-12"]\n',
    ],
)
def test_a_study_s_networks_are_computed_in_one_way(tmp_path, study):
    base = TINY.partition("[study")[0]
    base = base if "variant" in study else base.replace("[base]\n", f"[base]\n{ONCE}")
    (found,) = problems(tmp_path, base + study)
    assert found.startswith("study.s: its levels differ in implementation, ")
    assert found.endswith("give them one, or vary nothing else beside it but checkpoint")


def test_ways_of_computing_may_be_what_a_study_compares(tmp_path):
    text = TINY.partition("[study")[0] + (
        '[study.axes]\nmodel.implementation = ["textbook", "normalize-once"]\nmodel.growth_rate = [4, 5]\n'
        f'[[study.named.variant]]\nname = "lean"\nmodel.checkpoint = "bottleneck"\n{ONCE}'
        '[[study.named.variant]]\nname = "ResNet"\nmodel.family = "resnet"\n'
    )
    axes, named = read(write_grid(tmp_path, text)).studies
    labels = ["textbook, 4", "textbook, 5", "normalize-once, 4", "normalize-once, 5"]
    assert [level.label for level in axes.levels] == labels
    assert len(named.levels) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("published = { 8 = 4.5 }", "published and published_source belong together"),
        ('published_source = "a paper"', "published and published_source belong together"),
        ('published = { 9 = 4.5 }\npublished_source = "x"', "published.9 = 4.5: no such level; the levels are 4, 8"),
        ("model.bn_size = [0, 1]\npublished = { '8, 2' = 4.5 }\npublished_source = 'x'",
         "published.\"8, 2\" = 4.5: no such level; did you mean '8, 1'?; the levels are"),
        ('published = { 8 = 450 }\npublished_source = "x"', "published.8 = 450: must be a test error in %"),
        ('published = { 8 = true }\npublished_source = "x"', "published.8 = True: must be a test error in %"),
        ("published = 4.5", "study.growth_rate.published = 4.5: must be a table"),
    ],
)  # fmt: skip
def test_published_errors_belong_to_levels_and_have_a_source(text, said, tmp_path):
    with pytest.raises(GridError) as error:
        read(write_grid(tmp_path, TINY + text + "\n"))
    assert said in str(error.value)


def test_a_published_error_belongs_to_a_level_that_counts(tmp_path):
    text = TINY.replace("model.growth_rate = [4, 8]", "model.compression = [1, 1.0, 2]\npublished_source = 'x'")
    found = problems(tmp_path, text + 'published = { "1.0" = 5.5, "2" = 5.5 }\n')
    assert found == [
        "study.growth_rate.model.compression = 2: should be less than or equal to 1",
        'study.growth_rate.published."1.0" = 5.5: no such level; the levels are 0.5, 1, 2',
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".2", 0.2), ("-.5", -0.5), ("1.", 1.0), ("3", 3), ("1e-3", 1e-3), ("True", True), ("false", False),
        ("[.1, 1., 2]", [0.1, 1.0, 2]), ("[True]", [True]), ("cosine", "cosine"), ('"cosine"', "cosine"),
        ("a.b.c", "a.b.c"), ("2024-01-01x", "2024-01-01x"), ("Trueish", "Trueish"),
    ],
)  # fmt: skip
def test_a_setting_is_read_as_shells_and_python_write_it(text, value):
    found = _read_value(text)
    assert (found, type(found)) == (value, type(value))


def test_a_field_of_text_takes_any_text(tmp_path):
    path = write_grid(tmp_path)
    with pytest.raises(GridError, match=r"data\.root = '2024': digits comes with"):
        read(path, ["data.root=2024"])


def test_labels_that_differ_only_in_spaces_or_encoding_are_refused(tmp_path):
    names = ["caf\u00e9  au lait", "cafe\u0301 au lait"]
    variants = "".join(
        f'[[study.s.variant]]\nname = "{name}"\nmodel.growth_rate = {number}\n' for number, name in enumerate(names, 5)
    )
    with pytest.raises(
        GridError, match="differs from the level 'caf\u00e9 au lait' only in spaces or in how its letters"
    ):
        read(write_grid(tmp_path, TINY + variants))


def test_notes_on_the_data_are_notes_of_the_grid(tmp_path):
    place = write_pictures(tmp_path)
    (place / "train" / "cat" / "a.gif").touch()
    text = TINY.replace('data.name = "digits"\ndata.train_limit = 100', write_fields(place))
    (note,) = read(write_grid(tmp_path, text)).notes
    assert note.startswith(f"{place.name}: left out: 1 .gif (images lie in"), "told once, for all levels"


def write_fields(place: Path) -> str:
    return f'data.name = "imagefolder"\ndata.root = "{place}"\ndata.image_size = 8'


INHERITING = """\
seeds = [0]
base.model.block_config = [1, 1]
base.model.growth_rate = 6
base.model.init = "fan-in"
base.train.epochs = 1
[study.family]
variant = [
    { name = "ResNet", model.family = "resnet", model.depth = 8 },
    { name = "own", model.family = "test_reader:Growing" },
    { name = "ResNet-20", model.preset = "resnet20" },
]
"""


class Growing(torch.nn.Sequential):
    """A network that has one argument with the base's name."""

    def __init__(self, in_channels, num_classes, growth_rate=4, width=3):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64 * in_channels, num_classes))


def test_another_family_takes_the_fields_that_it_has_too_and_the_others_are_told(tmp_path):
    grid = read(write_grid(tmp_path, INHERITING))
    _, resnet, own, published = (level.variant.model for level in grid.studies[0].levels)
    assert (resnet.init, resnet.depth) == ("fan-in", 8)
    assert own.arguments == {"growth_rate": 6}
    assert published.init == "fan-out", "a preset starts from what was published"
    assert [note for note in grid.notes if "of the base" in note] == [
        "study.family.variant[0]: resnet does not take growth_rate of the base: it has its own defaults",
        "study.family.variant[1]: test_reader:Growing does not take block_config, init of the base: it has its own "
        "defaults",
    ]


OWN_BASE = """\
seeds = [0]
base.model.block_config = [1, 1]
base.model.growth_rate = 6
base.train.epochs = 1
[study.growth_rate]
model.growth_rate = [6, 8]
[study.width]
base.model.family = "resnet"
base.model.depth = 8
base.train.batch_size = 32
model.depth = [8, 14]
"""


def test_a_study_may_have_a_base_of_its_own(tmp_path):
    grid = read(write_grid(tmp_path, OWN_BASE))
    base, deep = grid.studies[1].levels
    assert (base.label, base.is_base, deep.label, deep.is_base) == ("8", True, "14", False)
    assert isinstance(base.variant.model, ResNetConfig)
    assert {level.variant.train.batch_size for level in (base, deep)} == {32}
    assert grid.studies[0].base == grid.base, "the other study has the grid's"
    names = [job.name for job in list_jobs(grid, MACHINE) if job.kind == "run"]
    assert names == ["base, seed 0", "width 8, seed 0", "growth_rate 8, seed 0", "width 14, seed 0"]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("depth = 8", "depth = 9", "study.width.base.model"),
        ("batch_size = 32", "batch_size = 0", "study.width.base.train.batch_size"),
        ("base.train.batch_size = 32", "base.modle.width = 2", "study.width.base.modle"),
        ("base.train.batch_size = 32", 'tune = "base"', "study.width.tune"),
    ],
)
def test_what_is_wrong_with_a_study_s_base_is_told_once(tmp_path, old, new, wrong):
    tune = "[tune]\ntrain.learning_rate = [0.1, 0.2]\nseeds = [9]\nvalidation = 0.1\n" if "tune" in new else ""
    found = problems(tmp_path, OWN_BASE.replace(old, new) + tune)
    assert [each.partition(" = ")[0].partition(":")[0].startswith(wrong) for each in found] == [True], found


def test_images_and_modules_are_found_beside_the_grid(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delitem(sys.modules, "beside_the_grid", raising=False)
    np.savez(tmp_path / "there" / "few.npz", **{
        f"{part}_{kind}": array for part in ("train", "test")
        for kind, array in (("images", np.zeros((20, 8, 8), np.uint8)), ("labels", np.arange(20) % 2))
    })  # fmt: skip
    (tmp_path / "there" / "beside_the_grid.py").write_text(
        "import torch\nclass Net(torch.nn.Sequential):\n    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(in_channels * 64, num_classes))\n"
    )
    path = tmp_path / "there" / "grid.toml"
    path.write_text(
        'base.data.name = "arrays"\nbase.data.root = "few.npz"\n'
        "base.train.epochs = 1\nbase.model.block_config = [1, 1]\n"
        '[study.s]\nvariant = [{ name = "own", model.family = "beside_the_grid:Net" }]\n'
    )
    result = CliRunner().invoke(app, ["plan", str(path), "--counts-only"])
    assert (result.exit_code, "beside_the_grid:Net does not take block_config" in result.output) == (0, True), (
        result.output
    )
    assert read(path).base.data.root == str(tmp_path / "there" / "few.npz")
    sys.modules.pop("beside_the_grid", None)
