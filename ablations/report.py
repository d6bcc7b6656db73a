"""Everything that is derived from the records: tables, figures and one page that holds them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ablations import figures, files, tables
from ablations.metrics import METRICS
from ablations.tidy import Frames

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem; }
figure { margin: 1rem 0; overflow-x: auto; background: #fff; border-radius: .5rem; }
figure svg { display: block; height: auto; width: 100%; min-width: 40rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tr.base { font-weight: 600; }
.note { font-size: .85rem; opacity: .8; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ counts }}</p>
<nav><ul>{% for study in studies %}<li><a href="#study-{{ study.table.name }}">{{ study.table.question or study.table.name }}</a></li>
{% endfor %}</ul></nav>
{% for study in studies %}
<section id="study-{{ study.table.name }}">
<h2>{{ study.table.question or study.table.name }}</h2>
<p>{{ study.answer }}</p>
<figure role="img" aria-label="{{ study.table.name }}: accuracy and costs by level">{{ study.figure }}</figure>
<div class="wide" tabindex="0" role="region" aria-label="Table of {{ study.table.name }}"><table>
<thead><tr>{% for head in study.table.heads %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in study.table.cells %}
<tr{% if row[4] == "base" %} class="base"{% endif %}>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
</section>
{% endfor %}
<section id="all"><h2>All variants</h2>
{% for figure in overall %}<figure role="img" aria-label="All variants">{{ figure }}</figure>{% endfor %}
</section>
{% if failures %}<section id="failures"><h2>What failed</h2><ul>{% for failure in failures %}<li>{{ failure }}</li>{% endfor %}</ul></section>{% endif %}
<section id="made"><h2>How this was made</h2>
<p>{{ caption }}</p>
<dl class="note">{% for metric in metrics %}<dt><b>{{ metric.head }}</b></dt><dd>{{ metric.meaning }}</dd>{% endfor %}</dl>
</section>
</body>
</html>
"""

PARTS: dict[str, Callable[[Frames], list[Path]]] = {"tables": tables.write, "figures": figures.write}
"""What can be rebuilt alone."""


def write(frames: Frames) -> list[Path]:
    """Rebuilds every table, figure and the page from the records; gives the paths."""
    paths = [path for part in PARTS.values() for path in part(frames)]
    page = frames.folder / "report.html"
    files.write(page, html(frames).encode())
    return [*paths, page]


def html(frames: Frames) -> str:
    """One self-contained page; the figures must have been drawn."""
    studies = []
    for study in frames.manifest["studies"]:
        table = tables.study_table(frames, study["name"])
        studies.append({"table": table, "answer": answer(table), "figure": _svg(frames, table.name)})
    return (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title=frames.manifest["title"] or frames.folder.name,
            counts=counts(frames),
            studies=studies,
            overall=[_svg(frames, name) for name in ("pareto", "curves")],
            failures=failures(frames),
            caption=tables.caption(frames),
            metrics=METRICS.values(),
        )
    )


def answer(table: tables.StudyTable) -> str:
    """A sentence that says what the seeds carry, and no more."""
    rows = table.numbers.to_dict("records")
    if not any(row["n"] for row in rows if row["is_base"]):
        return "The base has no result: nothing can be compared."
    resolved = [
        f"{row['level']} changes accuracy by {row['difference']:+.2f} points ({row['low']:+.2f} to {row['high']:+.2f})"
        for row in rows
        if row["verdict"] == "resolved"
    ]
    same = [str(row["level"]) for row in rows if row["verdict"] == "identical"]
    base = next(row["level"] for row in rows if row["is_base"])
    seeds = max((row["pairs"] for row in rows), default=0)
    parts = [f"Against {base}: " + "; ".join(resolved) + "." if resolved else ""]
    parts.append(f"Identical in every seed: {', '.join(same)}." if same else "")
    parts.append("" if resolved else f"No difference in accuracy is resolved with {seeds} paired seeds.")
    return " ".join(part for part in parts if part)


def counts(frames: Frames) -> str:
    """`54 runs and 19 costs: 73 done.`"""
    jobs = len(frames.runs), len(frames.costs)
    statuses = [*frames.runs.status, *frames.costs.status]
    found = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))]
    return f"{jobs[0]} runs and the costs of {jobs[1]} variants: {', '.join(found)}."


def failures(frames: Frames) -> list[str]:
    """What failed, and why, in the grid's order."""
    return [f"{name}: {row['status']}, {row['reason']}" for row, name in _bad(frames)]


def causes(frames: Frames) -> list[dict[str, Any]]:
    """What failed, by status and reason, with the jobs of each; in the grid's order."""
    found: dict[tuple[str, str], list[str]] = {}
    for row, name in _bad(frames):
        found.setdefault((row["status"], row["reason"]), []).append(name)
    return [{"status": status, "reason": reason, "jobs": jobs} for (status, reason), jobs in found.items()]


def _bad(frames: Frames) -> list[tuple[dict[str, Any], str]]:
    """Rows of what failed, with the jobs' names."""
    by_id = {job["id"]: job for job in frames.manifest["jobs"]}
    rows = [*frames.costs.to_dict("records"), *frames.runs.to_dict("records")]
    bad = {row["id"]: row for row in rows if row["status"] not in ("done", "missing")}
    return [(row, f"{by_id[key]['kind']} {by_id[key]['name']}") for key, row in bad.items()]


def _svg(frames: Frames, name: str) -> Markup:
    """A figure of our own making, to stand inside the page; ids get the figure's name, so that none collide."""
    text = (frames.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return Markup(text)  # noqa: S704, drawn by figures.py from escaped text
