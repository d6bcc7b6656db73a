"""The page of benchmarks: its tables are what the committed measurements give, and these name no machine."""

from __future__ import annotations

import json
import math
import random
import re

import performance
import pytest
from scipy.stats import binom

from ablations.report.ratios import compare_rounds, find_rank

FILES = sorted(performance.FOLDER.glob("*.json"))


def measured(name: str, group: str, data: list[float], **facts: object) -> dict:
    middle = sorted(data)[len(data) // 2]
    stats = {"median": middle, "iqr": 0.001, "rounds": len(data), "data": data}
    return {"group": group, "params": {"name": name}, "stats": stats, "extra_info": facts}


def step(name: str, data: list[float], precision: str = "fp32", peak: int = 4, saved: int = 2) -> dict:
    facts: dict[str, object] = {"peak_bytes": peak * 2**20, "saved_bytes": saved * 2**20, "flops": 10**9}
    facts |= {"profile": {"convolution": 0.75, "rest": 0.25}}
    return measured(name, "training step", data, precision=precision, batch=32, disturbed="", **facts)


def others_in(setting: str, data: dict[str, list[float]], **facts: object) -> list[dict]:
    return [measured(name, setting, each, disturbed="", **facts) for name, each in data.items()]


SIX = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
OWN = {"precision": "fp32", "threads": 2, "batch": 64, "processes": "own"}
LATENCY = {"network": "small", "task": "one image", "batch": 1, "threads": 1}
MADE_UP = {
    "machine_info": {"device_name": "A processor", "threads": 1, "torch": "2", "torchvision": "0.2", "python": "3"},
    "commit_info": {"commit": "0123"},
    "benchmarks": [
        step("torchvision", [1.0, 1.0, 4.0]),
        step("torchvision, channels_last", [0.5, 1.0, 0.75]),
        step("textbook", [0.5, 0.5, 2.0], peak=2, saved=1),
        step("textbook, bf16", [0.25, 0.25, 1.0], "bf16"),
        step("torchvision, bf16", [0.5, 0.5, 0.5], "bf16"),
        measured("matmul, fp32", "rate", [0.1] * 3, precision="fp32", flops=10**9),
        measured("matmul, bf16", "rate", [0.05] * 3, precision="bf16", flops=10**9),
        measured("this suite", "data pipeline", [0.5] * 3, images=1000),
        measured("theirs", "data pipeline", [1.0] * 3, images=1000),
        measured("this suite", "end to end", [2.0] * 3),
        measured("bare loop", "end to end", [2.0, 2.0, 1.0]),
    ],
}


SETTINGS = MADE_UP | {
    "benchmarks": [
        *others_in(
            "first",
            {
                "torchvision": [2.0] * 6,
                "torchvision, channels_last": SIX,
                "textbook, channels_last": [1.0, 1.25, 1.25, 1.25, 1.25, 2.0],
                "normalize-once, channels_last": [0.5, 0.5, 0.5, 0.5, 0.5, 0.25],
                "torchvision, jemalloc": [0.8] * 6,
                "torchvision, channels_last, jemalloc": [0.9] * 6,
                "normalize-once, channels_last, jemalloc": [0.4] * 6,
            },
            **OWN,
            jemalloc="5.3.0",
        ),
        *others_in(
            "second",
            {"torchvision": SIX, "textbook, channels_last": SIX, "normalize-once, channels_last": SIX},
            **OWN | {"processes": "one"},
        ),
        *others_in(
            "third",
            {"textbook": [0.002] * 6, "textbook, channels_last": [0.001] * 6, "normalize-once": [0.0005] * 6},
            **LATENCY,
        ),
    ]
}


def rows(table: str) -> list[list[str]]:
    return [re.split(r" *\| *", line)[1:-1] for line in table.splitlines() if line.startswith("|")][2:]


def test_steps_are_compared_round_by_round():
    assert rows(performance.steps(MADE_UP)) == [
        ["torchvision", "1000", "1", "1.00", "0.50", "4", "1.00", "2", "1.00"],
        ["torchvision, channels_last", "750", "1", "2.00", "1.00", "4", "1.00", "2", "1.00"],
        ["textbook", "500", "1", "2.00", "1.00", "2", "0.50", "1", "0.50"],
        ["textbook, bf16", "250", "1", "4.00", "2.00", "4", "1.00", "2", "1.00"],
        ["torchvision, bf16", "500", "1", "2.00", "1.00", "4", "1.00", "2", "1.00"],
    ]


def test_settings_are_compared_with_torchvision_s_best():
    table = performance.settings(SETTINGS)
    setting = ["fp32", "2", "64"]
    compared = ["0.80 [0.50, 1.00]", "2.00 [2.00, 4.00]", "1.25 [1.25, 1.25]", "2.50 [2.50, 2.50]"]
    same = "1.00 [1.00, 1.00]"
    assert rows(table) == [
        [*setting, "own", "1000", "channels_last", *compared],
        [*setting, "one", "1000", "torchvision", same, same, "", ""],
    ]
    assert table.endswith(
        "*A processor; torch 2; torchvision 0.2; jemalloc 5.3.0; Python 3; commit 0123. "
        "6 rounds; 96.9 % intervals, from the 1st to the 6th ratio.*\n"
    )


def test_small_networks_are_compared_with_the_textbook_s_best():
    expected = ["small", "one image", "2.00", "1.00", "0.50", "2.00 [2.00, 2.00]"]
    assert rows(performance.small(SETTINGS)) == [expected]


@pytest.mark.parametrize("count", range(6, 60))
def test_an_interval_covers_what_the_binomial_distribution_says(count):
    rank = find_rank(count)
    middle = binom.cdf(count - rank, count, 0.5) - binom.cdf(rank - 1, count, 0.5)
    assert performance.coverage(count) == pytest.approx(middle, abs=1e-12)


def test_the_coverage_of_nine_rounds_is_that_of_tables():
    """Conover 1999, table A3: P(X <= 1) = 0.0195 for n = 9 and p = 1/2."""
    assert performance.coverage(9) == pytest.approx(1 - 2 * 0.0195, abs=1e-4)


def test_an_interval_holds_the_true_median_as_often_as_it_says():
    draw = random.Random(0)
    held = 0
    for _ in range(4000):
        ratios = [draw.expovariate(1) for _ in range(9)]
        found = compare_rounds(ratios, [1.0] * 9)
        held += found.low <= math.log(2) <= found.high
    assert held / 4000 == pytest.approx(performance.coverage(9), abs=0.01)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (5, "5 rounds, too few for intervals"),
        (9, "9 rounds; 96.1 % intervals, from the 2nd to the 8th ratio"),
        (45, "45 rounds; 96.4 % intervals, from the 16th to the 30th ratio"),
    ],
)
def test_intervals_are_described(count, text):
    assert performance.describe_intervals({"stats": {"rounds": count}}) == text


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (12, "12th"), (21, "21st")]
)
def test_ordinals(number, word):
    assert performance.ordinal(number) == word


def test_few_rounds_have_a_ratio_without_an_interval():
    slow, fast = (measured("", "", [seconds] * 5) for seconds in (2.0, 1.0))
    assert performance.ratio(slow, fast) == "2.00"
    assert performance.ratio(slow, slow) == "1.00"


def test_a_profile_is_of_the_median():
    assert rows(performance.profiles(MADE_UP))[:2] == [
        ["torchvision", "750", "250"],
        ["torchvision, channels_last", "562", "188"],
    ]


def test_what_stands_beside_the_steps():
    assert [row[1:] for row in rows(performance.others(MADE_UP))] == [
        ["2,000 images/s", "1,000 images/s", "2.0"],
        ["2.00 s", "2.00 s", "1.000"],
        ["2 GFLOP/s", "10 GFLOP/s", "0.20"],
        ["4 GFLOP/s", "20 GFLOP/s", "0.20"],
    ]


def test_the_page_s_tables_are_what_was_measured():
    page = performance.PAGE.read_text()
    assert set(re.findall(r"<!-- benchmark [\w-]+ (\w+) -->", page)) == set(performance.TABLES)
    assert performance.written(page) == page, "`python tests/performance.py` writes the tables anew"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_benchmark_names_no_machine_and_keeps_every_round(path):
    text = path.read_text()
    benchmarks = json.loads(text)
    assert set(benchmarks["machine_info"]) <= {"device_name", "threads", "python", "torch", "torchvision", "timm"}
    assert set(benchmarks["commit_info"]) == {"commit", "fingerprint"}
    assert not re.search(r'["\s](/|~|[A-Z]:\\)', text), "a path"
    for each in benchmarks["benchmarks"]:
        assert len(each["stats"]["data"]) == each["stats"]["rounds"]
