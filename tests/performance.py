"""Writes the tables of docs/performance.md from results/benchmarks; `make bench` runs it.

A table stands between a mark that names it and the file it is from, `<!-- benchmark cpu steps -->`, and
`<!-- /benchmark -->`. A ratio is the median of the ratios of all rounds: what is compared ran in the same round.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
PAGE, FOLDER = ROOT / "docs" / "performance.md", ROOT / "results" / "benchmarks"
MARK = re.compile(r"(<!-- benchmark ([\w-]+) (\w+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)
DEFAULT = "torchvision"
OURS = ("textbook", "normalize-once")


def ratio(above: dict, below: dict) -> float:
    """How many times as long the first takes, round by round."""
    rounds = zip(above["stats"]["data"], below["stats"]["data"], strict=True)
    return median(first / second for first, second in rounds)


def fastest(cases: dict[str, dict], names: tuple[str, ...], precision: str) -> str:
    """The name of the fastest case of some networks in a precision."""
    found = [
        name for name, case in cases.items() if name.startswith(names) and case["extra_info"]["precision"] == precision
    ]
    return min(found, key=lambda name: cases[name]["stats"]["median"])


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grouped(benchmarks: dict) -> dict[str, dict[str, dict]]:
    """Group -> name -> benchmark."""
    groups: dict[str, dict[str, dict]] = {}
    for each in benchmarks["benchmarks"]:
        groups.setdefault(each["group"], {})[each["param"]] = each
    return groups


def steps(benchmarks: dict) -> str:
    """A row for each training step: time, speed beside torchvision's default and best, memory."""
    cases, rows = grouped(benchmarks)["training step"], []
    default = cases[DEFAULT]
    for name, case in cases.items():
        stats, facts = case["stats"], case["extra_info"]
        best = cases[fastest(cases, (DEFAULT,), facts["precision"])]
        row = [name, f"{1000 * stats['median']:.0f}", f"{1000 * stats['iqr']:.0f}"]
        row += [f"{ratio(default, case):.2f}", f"{ratio(best, case):.2f}"]
        for key in ("peak_bytes", "saved_bytes"):
            row += [f"{facts[key] / 2**20:.0f}", f"{facts[key] / default['extra_info'][key]:.2f}"]
        rows.append(row)
    head = ["Step", "Median (ms)", "IQR (ms)", "Speed (torchvision's default = 1)", "Speed (its best = 1)"]
    table = markdown([*head, "Peak (MiB)", "Ratio", "Saved (MiB)", "Ratio"], rows)
    return f"{table}\n{provenance(benchmarks, default)}\n"


def provenance(benchmarks: dict, case: dict) -> str:
    """What a reader needs to judge the numbers."""
    machine, facts = benchmarks["machine_info"], case["extra_info"]
    packages = "; ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision", "timm") if name in machine)
    disturbed = f" Disturbed: {facts['disturbed']}." if facts["disturbed"] else ""
    return (
        f"*{machine['device_name']}, {machine['threads']} thread; {packages}; Python {machine['python']}; commit "
        f"{benchmarks['commit_info']['commit']}. Batch {facts['batch']}, {case['stats']['rounds']} rounds.{disturbed}*"
    )


def profiles(benchmarks: dict) -> str:
    """Where the time of torchvision's steps and of ours goes: the shares of a profile, of the median."""
    cases, rows = grouped(benchmarks)["training step"], []
    parts = list(cases[DEFAULT]["extra_info"]["profile"])
    for name, case in cases.items():
        if name.startswith((DEFAULT, *OURS)) and not re.search("memory_efficient|checkpoint", name):
            shares, milliseconds = case["extra_info"]["profile"], 1000 * case["stats"]["median"]
            rows.append([name, *(f"{milliseconds * shares[part]:.0f}" for part in parts)])
    return markdown(["Milliseconds in", *parts], rows)


def others(benchmarks: dict) -> str:
    """The data pipeline and whole trainings beside others', and the rate of a step beside the machine's."""
    groups, rows = grouped(benchmarks), []
    ours, *peers = groups["data pipeline"].values()
    for theirs in peers:
        speeds = [f"{each['extra_info']['images'] / each['stats']['median']:,.0f} images/s" for each in (ours, theirs)]
        rows.append([f"Data pipeline beside {theirs['param']}", *speeds, f"{ratio(theirs, ours):.1f}"])
    ours, theirs = groups["end to end"].values()
    speeds = [f"{each['stats']['median']:.2f} s" for each in (ours, theirs)]
    rows.append(["Whole training beside a bare loop, speed", *speeds, f"{ratio(theirs, ours):.3f}"])
    for precision in ("fp32", "bf16"):
        name = fastest(groups["training step"], OURS, precision)
        rate = flops(groups["training step"][name])
        for other, case in groups["rate"].items():
            if case["extra_info"]["precision"] == precision:
                row = [f"{rate:.0f} GFLOP/s", f"{flops(case):.0f} GFLOP/s", f"{rate / flops(case):.2f}"]
                rows.append([f"FLOP rate of “{name}” beside {other.partition(',')[0]}", *row])
    return markdown(["", "This suite", "Beside it", "Ratio"], rows)


def flops(case: dict) -> float:
    """GFLOP/s."""
    return case["extra_info"]["flops"] / case["stats"]["median"] / 1e9


TABLES = {"steps": steps, "profiles": profiles, "others": others}


def written(page: str) -> str:
    """The page with its tables as the benchmarks give them."""

    def table(mark: re.Match[str]) -> str:
        before, source, name, after = mark.groups()
        benchmarks = json.loads((FOLDER / f"{source}.json").read_text())
        return before + TABLES[name](benchmarks) + after

    return MARK.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
