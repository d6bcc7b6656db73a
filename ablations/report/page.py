"""Everything that is derived from the records: tables, figures and one page that holds them all.

The page is `page.html.jinja`, filled in here: what each study answers in a sentence, what failed, how it was made.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ablations.metrics import METRICS
from ablations.report import answers, tables
from ablations.report.frames import Frames, causes, retried
from ablations.report.plotting import figures
from ablations.storage import files

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
    drawn = figures.stems(frames)
    grid = frames.folder / "grid.toml"
    return _template().render(
        title=frames.manifest.title or _called(frames.folder),
        folder=_called(frames.folder),
        counts=counts(frames),
        overall_table=tables.overall_table(frames),
        studies=[_section(frames, study.name, drawn[study.name]) for study in frames.manifest.studies],
        overall=[_figure(frames, stem, "all variants") for stem in drawn[""]],
        lost=_lost(frames),
        causes=[*causes(frames), *_missing(frames)],
        damaged=[path.relative_to(frames.folder).as_posix() for path in frames.damaged],
        retry=_retry(frames),
        provenance=tables.provenance(frames),
        reading=tables.caption(frames).removesuffix(tables.provenance(frames)),
        metrics=METRICS.values(),
        environment=environment(frames),
        commands=commands(frames),
        grid=files.read(grid).decode() if grid.exists() else "",
        checksums=checksums(frames.folder),
    )


@cache
def _template() -> Template:
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"parted": _parted, "bound": _bound}
    return jinja.from_string(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"))


def _section(frames: Frames, name: str, drawn: Sequence[str]) -> dict[str, Any]:
    """What the page shows of one study."""
    table = tables.study_table(frames, name)
    return {
        "table": table,
        "effects": tables.effects_table(frames, name),
        "answer": answers.answer(frames, table),
        "tally": _tally(table),
        "figures": [_figure(frames, stem, name) for stem in drawn],
    }


def _parted(cell: str) -> tuple[str, str]:
    """A cell's number and what stands beside it: `97.13`, `(-1.2 %)`."""
    match = re.fullmatch(r"(.+?) ([(\[].*[)\]])", cell)
    return (match[1], match[2]) if match else (cell, "")


def _bound(text: str) -> str:
    """No line begins with a percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _tally(table: tables.StudyTable) -> str:
    """`2 resolved, 3 not resolved`."""
    verdicts = Counter(table.numbers.verdict[~table.numbers.is_base.astype(bool)])
    return ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())


KINDS = {
    "": "accuracy and costs by level", "curves": "learning curves", "map": "accuracy of every combination",
    "trade": "memory against time", "tuning": "validation accuracy by the values tuned over",
    "pareto": "accuracy against each cost",
}  # fmt: skip
"""What a figure shows, by the end of its stem, for those who do not see it."""


def _figure(frames: Frames, stem: str, subject: str) -> dict[str, Any]:
    """A figure of our own making, to stand inside the page; ids get its stem, so that none collide."""
    text = (frames.folder / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{stem}-", text[text.index("<svg") :])
    kind = KINDS.get(stem.removeprefix(subject).removeprefix("."), stem)
    svg = Markup(text)  # noqa: S704, drawn by figures.py from escaped text
    inches = float(re.search(r'width="([\d.]+)pt"', text)[1]) / 72  # type: ignore[index]  # as matplotlib writes it
    return {"svg": svg, "label": f"Figure of {subject}: {kind}", "inches": inches}


def counts(frames: Frames) -> str:
    """`54 runs and the costs of 19 variants: 73 done.`"""
    frames_of = frames.jobs()
    statuses = [status for frame in frames_of.values() for status in frame.status]
    found = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))]
    tuning = f"{len(frames.tuning)} trials for tuning, " if "tuning" in frames_of else ""
    return f"{tuning}{len(frames.runs)} runs and the costs of {len(frames.costs)} variants: {', '.join(found)}."


AROUND = {
    "start": "start", "data": "data and augmentation", "evaluation": "evaluation", "checkpoint": "checkpoints",
    "rest": "rest",
}  # fmt: skip
"""What a training's time goes to outside its steps, and how it is called."""


def time_spent(frames: Frames) -> str:
    """How the trainings' time divides into steps and all else; empty where no record tells."""
    columns = ["seconds", "step_seconds", *(f"{part}_seconds" for part in AROUND)]
    runs, trials = (frame.reindex(columns=columns).astype(float).dropna() for frame in (frames.runs, frames.tuning))
    seconds = runs.sum() + trials.sum()
    if not seconds.seconds:
        return ""
    share = (100 * seconds / seconds.seconds).round(1)
    parts = ", ".join(f"{name} {share[f'{part}_seconds']} %" for part, name in AROUND.items())
    trained = f"{len(runs)} training{'s' * (len(runs) != 1)}" + (f" and {len(trials)} trials" if len(trials) else "")
    return (
        f"{trained} took {seconds.seconds:,.0f} s in their processes: "
        f"{share.step_seconds} % in forward, backward and optimizer steps, "
        f"{100 - share.step_seconds:.1f} % around them ({parts})."
    )


def _missing(frames: Frames) -> list[dict[str, Any]]:
    """What has not been run, as one cause."""
    missing = {job for frame in frames.jobs().values() for job in frame[frame.status == "missing"].id}
    jobs = [f"{job.kind} {job.name}" for job in frames.manifest.jobs if job.id in missing]
    return [{"status": "missing", "reason": "there is no record yet", "jobs": jobs}] if jobs else []


def _lost(frames: Frames) -> str:
    """`2 failed, 1 missing`, by job; empty where every job is done and every record whole."""
    causes_ = [*causes(frames), *_missing(frames)]
    lost: Counter[str] = Counter()
    for cause in causes_:
        lost[cause["status"]] += len(cause["jobs"])
    parts = [f"{number} {status}" for status, number in lost.items()]
    return ", ".join([*parts, *([f"{len(frames.damaged)} damaged"] if frames.damaged else [])])


MADE = {
    "device_name": "Device", "device": "Kind of device", "threads": "Threads of a job", "torch": "torch",
    "python": "Python", "precision": "Precision", "commit": "Commit", "fingerprint": "Fingerprint of the sources",
}  # fmt: skip
"""What every record says of its making, and how the page calls it."""


def environment(frames: Frames) -> list[tuple[str, str]]:
    """What the records were made with; where they differ, how many of each."""
    parts = [frame[frame.status == "done"].reindex(columns=["id", *MADE]) for frame in (frames.costs, frames.runs)]
    made = pd.concat([part.astype(object) for part in parts]).drop_duplicates("id")
    found = []
    for key, name in MADE.items():
        values = Counter(f"{value:g}" if isinstance(value, float) else str(value) for value in made[key].dropna())
        if values:
            each = [f"{value} ({_records(number)})" for value, number in values.items()]
            found.append((name, ", ".join(each if len(values) > 1 else values)))
    spent = time_spent(frames)
    return [*found, ("Time of the trainings", spent)] if spent else found


def commands(frames: Frames) -> list[str]:
    """What makes all of it again, and what makes this page from the records."""
    name = _called(frames.folder)
    device = frames.manifest.machine["device"]
    options = frames.manifest.options
    again = ["ablate", "run", f"{name}/grid.toml", *options, "--out", f"{name}-again", "--device", device]
    return [shlex.join(again), shlex.join(["ablate", "report", name])]


def _called(folder: Path) -> str:
    """The folder's own name, from wherever it is looked at: the page is the same."""
    return folder.resolve().name


def _retry(frames: Frames) -> str:
    """What runs again what failed, or is missing; empty where nothing is."""
    if not _lost(frames):
        return ""
    name, statuses = _called(frames.folder), retried(causes(frames))
    retry = ["--retry", ",".join(statuses)] if statuses else []
    where = ["--out", name, "--device", frames.manifest.machine["device"]]
    return shlex.join(["ablate", "run", f"{name}/grid.toml", *frames.manifest.options, *where, *retry])


def checksums(folder: Path) -> list[dict[str, str]]:
    """SHA-256 of the plan and of all records, each with the command that prints it."""
    found = []
    for name in ("jobs.json", "grid.toml"):
        if (folder / name).exists():
            path = shlex.quote(f"{_called(folder)}/{name}")
            found.append({"of": name, "sha256": _sha256(files.read(folder / name)), "command": f"sha256sum {path}"})
    paths = sorted((folder / "records").glob("*.json"))
    lines = "".join(f"{_sha256(files.read(path))}  {path.name}\n" for path in paths)
    command = f"(cd {shlex.quote(f'{_called(folder)}/records')} && LC_ALL=C sha256sum *.json | sha256sum)"
    return [*found, {"of": _records(len(paths)), "sha256": _sha256(lines.encode()), "command": command}]


def _records(number: int) -> str:
    return f"{number:,} record{'s' * (number != 1)}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
