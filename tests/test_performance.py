"""The page of benchmarks: its tables are what the committed measurements give, and these name no machine."""

from __future__ import annotations

import json
import re

import performance
import pytest

FILES = sorted(performance.FOLDER.glob("*.json"))


def measured(name: str, group: str, data: list[float], **facts: object) -> dict:
    middle = sorted(data)[len(data) // 2]
    stats = {"median": middle, "iqr": 0.001, "rounds": len(data), "data": data}
    return {"group": group, "param": name, "stats": stats, "extra_info": facts}


def step(name: str, data: list[float], precision: str = "fp32", peak: int = 4, saved: int = 2) -> dict:
    facts: dict[str, object] = {"peak_bytes": peak * 2**20, "saved_bytes": saved * 2**20, "flops": 10**9}
    facts |= {"profile": {"convolution": 0.75, "rest": 0.25}}
    return measured(name, "training step", data, precision=precision, batch=32, disturbed="", **facts)


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
    assert set(re.findall(r"<!-- benchmark \w+ (\w+) -->", page)) == set(performance.TABLES)
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
