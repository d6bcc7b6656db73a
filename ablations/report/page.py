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
from ablations.report.answers import answer
from ablations.report.captions import describe_provenance, explain_table
from ablations.report.formats import find_sort_value, render_words, spell_beside, spell_lead, write_tables
from ablations.report.frames import Frames, find_causes, list_retryable
from ablations.report.plotting.figures import list_stems, write_figures
from ablations.report.results import Results, StudyResult
from ablations.report.tables import Cell, make_effects_table, make_overall_table, make_study_table
from ablations.storage import files

PARTS: dict[str, Callable[[Results], list[Path]]] = {"tables": write_tables, "figures": write_figures}
"""What can be rebuilt alone."""


def write(results: Results) -> list[Path]:
    """Rebuilds every table, figure and the page from the records; gives the paths."""
    paths = [path for part in PARTS.values() for path in part(results)]
    page = results.frames.folder / "report.html"
    files.write(page, render_page(results).encode())
    return [*paths, page]


def render_page(results: Results) -> str:
    """One self-contained page; the figures must have been drawn."""
    frames, stems = results.frames, list_stems(results)
    grid = frames.folder / "grid.toml"
    return _template().render(
        title=frames.manifest.title or _name_folder(frames.folder),
        folder=_name_folder(frames.folder),
        counts=count_jobs(frames),
        overall_table=make_overall_table(results),
        studies=[_fill_section(study, stems[study.name]) for study in results.studies],
        overall=[_embed_figure(frames, stem, "all variants") for stem in stems[""]],
        lost=_count_lost(frames),
        causes=[*find_causes(frames), *_list_missing(frames)],
        damaged=[path.relative_to(frames.folder).as_posix() for path in frames.damaged],
        retry=_make_retry_command(frames),
        provenance=describe_provenance(frames),
        reading=explain_table(frames),
        metrics=METRICS.values(),
        environment=list_environment(frames),
        commands=list_commands(frames),
        grid=files.read(grid).decode() if grid.exists() else "",
        checksums=list_checksums(frames.folder),
    )


@cache
def _template() -> Template:
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {
        "lead": _render_lead,
        "beside": _render_beside,
        "sort_value": find_sort_value,
        "bound": _bind_percents,
    }
    return jinja.from_string(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"))


def _fill_section(study: StudyResult, stems: Sequence[str]) -> dict[str, Any]:
    """What the page shows of one study."""
    return {
        "table": make_study_table(study),
        "effects": make_effects_table(study),
        "answer": answer(study),
        "tally": _count_verdicts(study),
        "figures": [_embed_figure(study.frames, stem, study.name) for stem in stems],
    }


def _render_lead(cell: Cell) -> str:
    """What stands large in a cell: `97.13 ± 0.28`."""
    return render_words(spell_lead(cell))


def _render_beside(cell: Cell) -> str:
    """What stands small in a cell: `(-1.2 %)`."""
    return render_words(spell_beside(cell))


def _bind_percents(text: str) -> str:
    """No line begins with a percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _count_verdicts(study: StudyResult) -> str:
    """`2 resolved, 3 not resolved`."""
    verdicts = Counter(level.verdict for level in study.others)
    return ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())


KINDS = {
    "": "accuracy and costs by level", "curves": "learning curves", "map": "accuracy of every combination",
    "trade": "memory against time", "tuning": "validation accuracy by the values tuned over",
    "pareto": "accuracy against each cost",
}  # fmt: skip
"""What a figure shows, by the end of its stem, for those who do not see it."""


def _embed_figure(frames: Frames, stem: str, subject: str) -> dict[str, Any]:
    """A figure of our own making, to stand inside the page; ids get its stem, so that none collide."""
    text = (frames.folder / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{stem}-", text[text.index("<svg") :])
    kind = KINDS.get(stem.removeprefix(subject).removeprefix("."), stem)
    svg = Markup(text)  # noqa: S704, drawn by our own modules from escaped text
    inches = float(re.search(r'width="([\d.]+)pt"', text)[1]) / 72  # type: ignore[index]  # as matplotlib writes it
    return {"svg": svg, "label": f"Figure of {subject}: {kind}", "inches": inches}


def count_jobs(frames: Frames) -> str:
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


def describe_time(frames: Frames) -> str:
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


def _list_missing(frames: Frames) -> list[dict[str, Any]]:
    """What has not been run, as one cause."""
    missing = {job for frame in frames.jobs().values() for job in frame[frame.status == "missing"].id}
    jobs = [f"{job.kind} {job.name}" for job in frames.manifest.jobs if job.id in missing]
    return [{"status": "missing", "reason": "there is no record yet", "jobs": jobs}] if jobs else []


def _count_lost(frames: Frames) -> str:
    """`2 failed, 1 missing`, by job; empty where every job is done and every record whole."""
    causes_ = [*find_causes(frames), *_list_missing(frames)]
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


def list_environment(frames: Frames) -> list[tuple[str, str]]:
    """What the records were made with; where they differ, how many of each."""
    parts = [frame[frame.status == "done"].reindex(columns=["id", *MADE]) for frame in (frames.costs, frames.runs)]
    made = pd.concat([part.astype(object) for part in parts]).drop_duplicates("id")
    found = []
    for key, name in MADE.items():
        values = Counter(f"{value:g}" if isinstance(value, float) else str(value) for value in made[key].dropna())
        if values:
            each = [f"{value} ({_count_records(number)})" for value, number in values.items()]
            found.append((name, ", ".join(each if len(values) > 1 else values)))
    time = describe_time(frames)
    return [*found, ("Time of the trainings", time)] if time else found


def list_commands(frames: Frames) -> list[str]:
    """What makes all of it again, and what makes this page from the records."""
    name = _name_folder(frames.folder)
    device = frames.manifest.machine["device"]
    options = frames.manifest.options
    again = ["ablate", "run", f"{name}/grid.toml", *options, "--out", f"{name}-again", "--device", device]
    return [shlex.join(again), shlex.join(["ablate", "report", name])]


def _name_folder(folder: Path) -> str:
    """The folder's own name, from wherever it is looked at: the page is the same."""
    return folder.resolve().name


def _make_retry_command(frames: Frames) -> str:
    """What runs again what failed, or is missing; empty where nothing is."""
    if not _count_lost(frames):
        return ""
    name, statuses = _name_folder(frames.folder), list_retryable(find_causes(frames))
    retry = ["--retry", ",".join(statuses)] if statuses else []
    where = ["--out", name, "--device", frames.manifest.machine["device"]]
    return shlex.join(["ablate", "run", f"{name}/grid.toml", *frames.manifest.options, *where, *retry])


def list_checksums(folder: Path) -> list[dict[str, str]]:
    """SHA-256 of the plan and of all records, each with the command that prints it."""
    found = []
    for name in ("jobs.json", "grid.toml"):
        if (folder / name).exists():
            path = shlex.quote(f"{_name_folder(folder)}/{name}")
            found.append({"of": name, "sha256": _hash(files.read(folder / name)), "command": f"sha256sum {path}"})
    paths = sorted((folder / "records").glob("*.json"))
    lines = "".join(f"{_hash(files.read(path))}  {path.name}\n" for path in paths)
    command = f"(cd {shlex.quote(f'{_name_folder(folder)}/records')} && LC_ALL=C sha256sum *.json | sha256sum)"
    return [*found, {"of": _count_records(len(paths)), "sha256": _hash(lines.encode()), "command": command}]


def _count_records(number: int) -> str:
    return f"{number:,} record{'s' * (number != 1)}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
