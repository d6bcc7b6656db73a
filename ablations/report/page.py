"""Everything that is derived from the records: tables, figures, and one page that contains them all.

The page is the template `page.html.jinja`, filled in here: the answers of the studies, failures, and provenance.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ablations.metrics import METRICS, count_of
from ablations.report.answers import answer
from ablations.report.captions import WORDS, describe_provenance, explain_comparison, explain_page
from ablations.report.formats import find_sort_value, name_folder, render_words, spell_beside, spell_lead, write_tables
from ablations.report.frames import Frames, find_causes
from ablations.report.plotting.figures import list_stems, write_figures
from ablations.report.plotting.looks import ON_DARK, PLAIN
from ablations.report.results import Results, StudyResult
from ablations.report.survey import list_retryable
from ablations.report.tables import Cell, make_more_tables, make_overall_table, make_study_table
from ablations.storage import files

PARTS: dict[str, Callable[[Results, int], list[Path]]] = {
    "tables": lambda results, _: write_tables(results),
    "figures": lambda results, cores: write_figures(results, cores=cores),
}
"""The parts that can be rebuilt alone, with as many processes as there are cores."""


def write(results: Results, cores: int = 1) -> list[Path]:
    """Rebuilds every table, every figure and the page from the records. Returns the paths."""
    paths = [path for part in PARTS.values() for path in part(results, cores)]
    page = results.frames.folder / "report.html"
    files.write(page, render_page(results).encode(errors="replace"))
    return [*paths, page]


def list_missing_letters(results: Results) -> str:
    """Returns the letters of levels and questions that no installed font has: figures show boxes in their place."""
    text = "".join(text for study in results.studies for text in (study.question, *study.numbers.level))
    if PLAIN.fullmatch(text):
        return ""
    from ablations.report.plotting.fonts import find_missing_letters

    return find_missing_letters(text)


NAMES_FILES = re.compile(r"\broot\b|[\"'][\w.]+:\w+[\"']")
"""Found in a grid that names data, or modules of the user's, which lie beside the original grid."""


def render_page(results: Results) -> str:
    """Renders one self-contained page. The figures must have been drawn before."""
    frames, stems = results.frames, list_stems(results)
    grid = frames.folder / "grid.toml"
    text = files.read(grid).decode() if grid.exists() else ""
    return _template().render(
        title=frames.manifest.title or name_folder(frames.folder),
        folder=name_folder(frames.folder),
        counts=count_jobs(frames),
        overall_table=make_overall_table(results),
        studies=[_fill_section(study, stems[study.name]) for study in results.studies],
        overall=[_embed_figure(frames, stem, "all variants") for stem in stems[""]],
        lost=_count_lost(frames),
        causes=[*find_causes(frames), *_list_missing(frames)],
        damaged=[path.relative_to(frames.folder).as_posix() for path in frames.damaged],
        retry=_make_retry_command(frames),
        provenance=describe_provenance(frames, ()),
        words=WORDS,
        colours={colour.lstrip("#").lower(): (colour, dark) for colour, dark in ON_DARK.items()},
        reading=explain_page(results),
        metrics=METRICS.values(),
        environment=list_environment(frames),
        commands=list_commands(frames),
        grid=text,
        names_files=bool(NAMES_FILES.search(text)),
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


ABOUT = {
    "effects": "main effects and interactions, with 95 % intervals",
    "errors": "which images and classes the levels err on, beside the base; in brackets the 95 % interval",
}
"""What a table beside that of its study shows."""


def _fill_section(study: StudyResult, stems: Sequence[str]) -> dict[str, Any]:
    """Returns the values of the template for one study."""
    return {
        "table": make_study_table(study),
        "more": {kind: (table, ABOUT[kind]) for kind, table in make_more_tables(study).items()},
        "answer": answer(study),
        "reading": explain_comparison(study),
        "tally": _count_verdicts(study),
        "figures": [_embed_figure(study.frames, stem, study.name) for stem in stems],
    }


def _render_lead(cell: Cell) -> str:
    """Returns the main part of a cell: `97.13 ± 0.28`."""
    return render_words(spell_lead(cell))


def _render_beside(cell: Cell) -> str:
    """Returns the small part of a cell, `(-1.2 %; IQR 5.0 %)`, where lines may break only between its notes."""
    space = "\N{NO-BREAK SPACE}"
    return render_words(spell_beside(cell)).replace(" ", space).replace(f"]{space}(", "] (").replace(f";{space}", "; ")


def _bind_percents(text: str) -> str:
    """Prevents a line break before a percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _count_verdicts(study: StudyResult) -> str:
    """Returns `2 different, 3 undecided`, and for a product `; effects: 1 different, 2 undecided`."""
    levels, effects = (
        ", ".join(f"{number} {verdict}" for verdict, number in Counter(found).items())
        for found in (
            [level.verdict for level in study.others],
            [effect.difference.verdict for effect in study.effects],
        )
    )
    return f"{levels}; effects: {effects}" if effects else levels


KINDS = {
    "": "accuracy and costs by level", "curves": "learning curves", "map": "accuracy of every combination",
    "trade": "memory against time", "tuning": "validation accuracy by the values tuned over",
    "errors": "errors on the same images and classes", "pareto": "accuracy against each cost",
}  # fmt: skip
"""The text of a figure for readers who cannot see it, by the end of its stem."""


def _embed_figure(frames: Frames, stem: str, subject: str) -> dict[str, Any]:
    """Reads a figure of this suite to embed it in the page. Its ids get its stem, so that they stay unique."""
    text = (frames.folder / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{stem}-", text[text.index("<svg") :])
    kind = KINDS.get(stem.removeprefix(subject).removeprefix("."), stem)
    text = re.sub(r"(?<=: )#[0-9a-f]{6}\b", _name_colour, text)
    svg = Markup(text)  # noqa: S704, drawn by our own modules from escaped text
    inches = float(re.search(r'width="([\d.]+)pt"', text)[1]) / 72  # type: ignore[index]  # as matplotlib writes it
    return {"svg": svg, "label": f"Figure of {subject}: {kind}", "inches": inches}


def _name_colour(match: re.Match[str]) -> str:
    """Returns the page's own name of a colour, which has another value on a dark page: `var(--c1a1a1a)`."""
    return f"var(--c{match[0][1:]})" if match[0].upper() in ON_DARK else match[0]


def count_jobs(frames: Frames) -> str:
    """Returns `54 runs, 19 costs and 3 comparisons of speed: 76 done.`"""
    statuses = [status for frame in frames.jobs().values() for status in frame.status]
    found = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))]
    parts = list_counts({kind: len(frame) for kind, frame in frames.jobs().items()})
    return f"{', '.join(parts[:-1])} and {parts[-1]}: {', '.join(found)}."


def list_counts(counts: Mapping[str, int]) -> list[str]:
    """Returns numbers of jobs, by the kinds of `Frames.jobs`, with their nouns: `54 runs`, `1 cost`."""
    nouns = {
        "tuning": ("trial for tuning", "trials for tuning"),
        "runs": ("run", ""),
        "costs": ("cost", ""),
        "speeds": ("comparison of speed", "comparisons of speed"),
    }
    return [count_of(count, *nouns[kind]) for kind, count in counts.items()]


AROUND = {
    "start": "start", "data": "data and augmentation", "evaluation": "evaluation", "checkpoint": "checkpoints",
    "rest": "rest",
}  # fmt: skip
"""The parts of a training's time outside its steps, with their names for readers."""


def describe_time(frames: Frames) -> str:
    """Describes how the time of the trainings is divided. Returns an empty text if no record has it."""
    columns = ["seconds", "step_seconds", *(f"{part}_seconds" for part in AROUND)]
    jobs = frames.jobs()
    kinds = (jobs["runs"], jobs.get("tuning", frames.tuning))
    runs, trials = (frame.reindex(columns=columns).astype(float).dropna() for frame in kinds)
    seconds = runs.sum() + trials.sum()
    if not seconds.seconds:
        return ""
    share = (100 * seconds / seconds.seconds).round(1)
    parts = ", ".join(f"{name} {share[f'{part}_seconds']} %" for part, name in AROUND.items())
    trained = count_of(len(runs), "training") + (f" and {count_of(len(trials), 'trial')}" if len(trials) else "")
    return (
        f"{trained} took {seconds.seconds:,.0f} s in their processes: "
        f"{share.step_seconds} % in forward, backward and optimizer steps, "
        f"{100 - share.step_seconds:.1f} % around them ({parts})."
    )


def _list_missing(frames: Frames) -> list[dict[str, Any]]:
    """Lists the jobs that were not run, as one cause."""
    missing = {job for frame in frames.jobs().values() for job in frame[frame.status == "missing"].id}
    jobs = [f"{job.kind} {job.name}" for job in frames.manifest.jobs if job.id in missing]
    return [{"status": "missing", "reason": "there is no record yet", "jobs": jobs}] if jobs else []


def _count_lost(frames: Frames) -> str:
    """Returns `2 failed, 1 missing`, by job; an empty text if every job is done and every record is intact."""
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
"""The environment of a record, with names for readers."""


def list_environment(frames: Frames) -> list[tuple[str, str]]:
    """Lists the environments of the records. If they differ, adds the number of records of each."""
    parts = [frame[frame.status == "done"].reindex(columns=["id", *MADE])
             for frame in (frames.costs, frames.speeds, frames.runs)]  # fmt: skip
    made = pd.concat([part.astype(object) for part in parts]).drop_duplicates("id")
    found = []
    for key, name in MADE.items():
        values = Counter(f"{value:g}" if isinstance(value, float) else str(value) for value in made[key].dropna())
        if values:
            each = [f"{value} ({count_of(number, 'record')})" for value, number in values.items()]
            found.append((name, ", ".join(each if len(values) > 1 else values)))
    time = describe_time(frames)
    return [*found, ("Time of the trainings", time)] if time else found


def list_commands(frames: Frames) -> list[str]:
    """Returns the command that makes the results again, and the one that makes this page from the records."""
    name = name_folder(frames.folder)
    device = frames.manifest.machine["device"]
    options = frames.manifest.options
    again = ["ablate", "run", f"{name}/grid.toml", *options, "--out", f"{name}-again", "--device", device]
    return [shlex.join(again), shlex.join(["ablate", "report", name])]


def _make_retry_command(frames: Frames) -> str:
    """Returns the command that runs failed and missing jobs again; an empty text if there are none."""
    if not _count_lost(frames):
        return ""
    name, statuses = name_folder(frames.folder), list_retryable(find_causes(frames))
    retry = ["--retry", ",".join(statuses)] if statuses else []
    where = ["--out", name, "--device", frames.manifest.machine["device"]]
    return shlex.join(["ablate", "run", f"{name}/grid.toml", *frames.manifest.options, *where, *retry])


def list_checksums(folder: Path) -> list[dict[str, str]]:
    """Lists the SHA-256 of the plan and of all records, each with the command that prints it."""
    found = []
    for name in ("jobs.json", "grid.toml"):
        if (folder / name).exists():
            path = shlex.quote(f"{name_folder(folder)}/{name}")
            found.append({"of": name, "sha256": _hash(files.read(folder / name)), "command": f"sha256sum {path}"})
    paths = sorted((folder / "records").glob("*.json"))
    lines = "".join(f"{_hash(files.read(path))}  {path.name}\n" for path in paths)
    command = f"(cd {shlex.quote(f'{name_folder(folder)}/records')} && LC_ALL=C sha256sum *.json | sha256sum)"
    return [*found, {"of": count_of(len(paths), "record"), "sha256": _hash(lines.encode()), "command": command}]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
