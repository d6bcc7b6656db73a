"""Writes the tables of docs/performance.md from results/benchmarks; `make bench` runs it.

A table stands between a mark that names it and the file it is from, `<!-- benchmark cpu steps -->`, and
`<!-- /benchmark -->`. A ratio is the median of the ratios of all rounds, since what is compared ran in the same round.
The interval of the true median stands behind it.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from ablations.report.ratios import compare_rounds, find_rank

ROOT = Path(__file__).parent.parent
PAGE, FOLDER = ROOT / "docs" / "performance.md", ROOT / "results" / "benchmarks"
MARK = re.compile(r"(<!-- benchmark ([\w-]+) (\w+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)
DEFAULT = "torchvision"
OURS = ("textbook", "normalize-once")
JEMALLOC = ", jemalloc"


def ratio(above: dict, below: dict, digits: int = 2, scale: float = 1.0) -> str:
    """How many times as long the first takes, round by round, times `scale`: the median and its interval."""
    if above is below:
        return f"{scale:.{digits}f}"
    found = compare_rounds([scale * seconds for seconds in above["stats"]["data"]], below["stats"]["data"])
    interval = "" if math.isnan(found.low) else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.median:.{digits}f}{interval}"


def coverage(count: int) -> float:
    """The probability that the interval of a median holds the true one, for the median of `count` values.

    It reaches from the k-th smallest to the k-th largest, and misses where fewer than k values lie on one side.
    """
    missed = sum(math.comb(count, fewer) for fewer in range(find_rank(count)))
    return 1 - 2 * missed / 2**count


def describe_intervals(case: dict) -> str:
    """How many rounds there were, and what the intervals are."""
    count = case["stats"]["rounds"]
    rank = find_rank(count)
    if not rank:
        return f"{count} rounds, too few for intervals"
    ends = f"from the {ordinal(rank)} to the {ordinal(count - rank + 1)} ratio"
    return f"{count} rounds; {100 * coverage(count):.1f} % intervals, {ends}"


def ordinal(number: int) -> str:
    """2nd, 3rd, 4th, 11th, 21st."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


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
        groups.setdefault(each["group"], {})[each["params"]["name"]] = each
    return groups


def steps(benchmarks: dict) -> str:
    """A row for each training step: time, speed beside torchvision's default and best, memory."""
    cases, rows = grouped(benchmarks)["training step"], []
    default = cases[DEFAULT]
    for name, case in cases.items():
        stats, facts = case["stats"], case["extra_info"]
        best = cases[fastest(cases, (DEFAULT,), facts["precision"])]
        row = [name, f"{1000 * stats['median']:.0f}", f"{1000 * stats['iqr']:.0f}"]
        row += [ratio(default, case), ratio(best, case)]
        for key in ("peak_bytes", "saved_bytes"):
            known = key in facts
            row += (
                [f"{facts[key] / 2**20:.0f}", f"{facts[key] / default['extra_info'][key]:.2f}"] if known else ["", ""]
            )
        rows.append(row)
    head = ["Step", "Median (ms)", "IQR (ms)", "Speed (torchvision's default = 1)", "Speed (its best = 1)"]
    table = markdown([*head, "Peak (MiB)", "Ratio", "Saved (MiB)", "Ratio"], rows)
    conditions = f"1 thread, batch {default['extra_info']['batch']}, "
    return f"{table}\n{provenance(benchmarks, [default], conditions)}\n"


def provenance(benchmarks: dict, cases: list[dict], conditions: str = "") -> str:
    """What a reader needs to judge the numbers."""
    machine, facts = benchmarks["machine_info"], [case["extra_info"] for case in cases]
    versions = {name: machine[name] for name in ("torch", "torchvision", "timm") if name in machine}
    versions |= {"jemalloc": facts[0]["jemalloc"]} if "jemalloc" in facts[0] else {}
    packages = "; ".join(f"{name} {version}" for name, version in versions.items())
    reasons = sorted({each["disturbed"] for each in facts} - {""})
    disturbed = f" Disturbed: {'; '.join(reasons)}." if reasons else ""
    return (
        f"*{machine['device_name']}; {packages}; Python {machine['python']}; commit "
        f"{benchmarks['commit_info']['commit']}. {conditions}{describe_intervals(cases[0])}.{disturbed}*"
    )


def settings(benchmarks: dict) -> str:
    """A row for each setting: the time of torchvision's best layout, and the speed of others beside it."""
    rows, found = [], [cases for cases in grouped(benchmarks).values() if "processes" in facts_of(cases)]
    for cases in found:
        facts = facts_of(cases)
        plain = {name: case for name, case in cases.items() if not name.endswith(JEMALLOC)}
        preloaded = {name: case for name, case in cases.items() if name.endswith(JEMALLOC)}
        name = fastest(plain, (DEFAULT,), facts["precision"])
        sides = [(plain, name) for name in OURS] + [(preloaded, name) for name in (DEFAULT, "normalize-once")]
        row = [facts["precision"], str(facts["threads"]), str(facts["batch"]), facts["processes"]]
        row += [f"{1000 * plain[name]['stats']['median']:.0f}", name.removeprefix(f"{DEFAULT}, ")]
        for those, kind in sides:
            row.append(ratio(plain[name], those[fastest(those, (kind,), facts["precision"])]) if those else "")
        rows.append(row)
    head = ["Precision", "Threads", "Batch", "Processes", "torchvision's best (ms)", "Its layout", *OURS]
    table = markdown([*head, f"torchvision{JEMALLOC}", f"normalize-once{JEMALLOC}"], rows)
    return f"{table}\n{provenance(benchmarks, [case for cases in found for case in cases.values()])}\n"


def facts_of(cases: dict[str, dict]) -> dict:
    """What is known of cases that were measured together."""
    facts: dict = next(iter(cases.values()))["extra_info"]
    return facts


def small(benchmarks: dict) -> str:
    """A row for each task of a small network: the time of each implementation, and their speed."""
    rows, found = [], [cases for cases in grouped(benchmarks).values() if "task" in facts_of(cases)]
    for cases in found:
        facts, (default, other, once) = facts_of(cases), tuple(cases.values())
        best = min(default, other, key=lambda case: case["stats"]["median"])
        times = [f"{1000 * case['stats']['median']:.2f}" for case in cases.values()]
        rows.append([facts["network"], facts["task"], *times, ratio(best, once)])
    head = ["Network", "Task", *(f"{name} (ms)" for name in found[0]), "Speed of normalize-once (textbook's best = 1)"]
    everything = [case for cases in found for case in cases.values()]
    return f"{markdown(head, rows)}\n{provenance(benchmarks, everything, '1 thread, ')}\n"


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
        rows.append([f"Data pipeline beside {theirs['params']['name']}", *speeds, ratio(theirs, ours, 1)])
    ours, theirs = groups["end to end"].values()
    speeds = [f"{each['stats']['median']:.2f} s" for each in (ours, theirs)]
    rows.append(["Whole training beside a bare loop, speed", *speeds, ratio(theirs, ours, 3)])
    for precision in ("fp32", "bf16"):
        name = fastest(groups["training step"], OURS, precision)
        step = groups["training step"][name]
        for other, case in groups["rate"].items():
            if case["extra_info"]["precision"] == precision:
                work = step["extra_info"]["flops"] / case["extra_info"]["flops"]
                row = [f"{flops(step):.0f} GFLOP/s", f"{flops(case):.0f} GFLOP/s", ratio(case, step, scale=work)]
                rows.append([f"FLOP rate of “{name}” beside {other.partition(',')[0]}", *row])
    return f"{markdown(['', 'This suite', 'Beside it', 'Ratio'], rows)}\n*{describe_intervals(theirs)}.*\n"


def flops(case: dict) -> float:
    """GFLOP/s."""
    return case["extra_info"]["flops"] / case["stats"]["median"] / 1e9


TABLES = {"steps": steps, "settings": settings, "small": small, "profiles": profiles, "others": others}


def written(page: str) -> str:
    """The page with its tables as the benchmarks give them."""

    def table(mark: re.Match[str]) -> str:
        before, source, name, after = mark.groups()
        benchmarks = json.loads((FOLDER / f"{source}.json").read_text())
        return before + TABLES[name](benchmarks) + after

    return MARK.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
