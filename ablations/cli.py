"""The command `ablate`: plan, run, job, status, merge, report, export, cite, table, check, list, fields.

Commands import what they need when they are called, so that those that only read records answer at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from ablations import signals
from ablations.limits import count_cores
from ablations.metrics import METRICS, count_of
from ablations.session import SOME_FAILED, STOPPED
from ablations.storage.paths import expand

app = typer.Typer(
    help="What does a design choice cost, and what does it buy? Trains and measures a grid of network variants.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ablate {version('densenet-ablations')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Prints the version and ends.")
    ] = False,
) -> None:
    """What does a design choice cost, and what does it buy? Trains and measures a grid of network variants."""


class _Lasting(Console):
    """A console that stays silent after its reader, for example `| head`, has closed the pipe, so that work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


out = _Lasting(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 200)
err = Console(highlight=False, stderr=True)

USAGE = 2
KEPT = "Finished jobs are saved: fix the problem and run the same command again."
SHIPPED = Path(__file__).parent / "grids"


def _expand(path: Path | None) -> Path | None:
    return None if path is None else expand(path)


GridArgument = Annotated[str, typer.Argument(metavar="GRID", help="A shipped grid's name, or a path to a TOML file.")]
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.", callback=_expand)]
WorkersOption = Annotated[int, typer.Option(min=0, help="0: one per core, or one per GPU.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Changes a field of the base.")]
SeedsOption = Annotated[str | None, typer.Option(metavar="0,1", help="Seeds instead of the grid's.")]
MaxJobsOption = Annotated[int, typer.Option(min=1, metavar="N", help="A grid of more jobs is refused.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """Shipped grids, presets, data sets, metrics."""
    from ablations.data.registry import DATASETS
    from densenet import MODELS, PRESETS

    found = {
        "Grids": sorted(path.stem for path in SHIPPED.glob("*.toml")),
        "Model families": [*MODELS],
        "Presets": [*PRESETS],
        "Data sets": [*DATASETS],
        "Metrics": [*METRICS],
    }
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for title, names in found.items():
        out.print(Text(f"{title}: {', '.join(names)}"))


@app.command()
def fields(
    part: Annotated[str, typer.Argument(metavar="TEXT", help="Only fields whose name contains this.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Every key of a grid: its default, the allowed values, and what it means."""
    from ablations.grid.fields import list_sections

    found = {
        title: [each for each in rows if part in f"{title.partition(' ')[0]}.{each.name}"]
        for title, rows in list_sections()
    }
    if not any(found.values()):
        _stop(f"no field's name contains {part!r}; `ablate fields` prints all of them")
    if as_json:
        print(json.dumps({title: [asdict(each) for each in rows] for title, rows in found.items()}, indent=1))
        return
    for title, rows in found.items():
        for number, each in enumerate(rows):
            if not number:
                _say(f"\n[{title}]")
            _say(f"{each.name}{f' = {each.default}' if each.default else ''}")
            _say(f"    {each.allowed.replace('`', '')}. {each.meaning.replace('`', '')}")


@app.command()
def schema() -> None:
    """Prints the JSON Schema of a grid file: editors complete and check grids with it."""
    from ablations.grid.schema import make_schema

    print(json.dumps(make_schema(), indent=1))


@app.command()
def plan(
    grid: GridArgument,
    out_: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where records would be; as for run.", callback=_expand),
    ] = None,
    workers: WorkersOption = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: SetOption = None,
    seeds: SeedsOption = None,
    max_jobs: MaxJobsOption = 10_000,
    counts_only: Annotated[bool, typer.Option("--counts-only", help="Neither memory nor time: faster.")] = False,
    sd: Annotated[
        float | None,
        typer.Option("--sd", min=0.001, max=50, help="Standard deviation of the accuracy over seeds, in points."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Shows what would run: params, MACs, memory, what is missing, how long it takes, and how large a change it finds.

    It trains nothing. How much seeds vary is taken from earlier runs in DIR, or from --sd.
    """
    with redirect_stdout(sys.stderr):  # what a user's network prints is no part of the plan
        read, found = _plan(grid, out_, workers, device, set_, seeds, max_jobs, counts_only, sd)
    for note in read.notes:
        _say(f"Note: {note}", err)
    for note in filter(None, (found["edited"], found.get("refused"))):
        _say(f"Note: {note}.", err)
    if as_json:
        print(json.dumps({**found, "notes": read.notes}, indent=1))
    else:
        _show_plan(found, read.title or grid)
    if any("failed" in entry for entry in found["variants"]):
        raise typer.Exit(SOME_FAILED)


def _plan(
    grid: str,
    folder: Path | None,
    workers: int,
    device: str,
    settings: list[str] | None,
    seeds: str | None,
    max_jobs: int,
    counts_only: bool,
    sd: float | None,
) -> tuple[Any, dict[str, Any]]:
    """Reads a grid and returns it with what would run."""
    from ablations.execution import driver
    from ablations.execution import plan as plans
    from ablations.execution.changes import SourceChanged
    from ablations.execution.job import job_machine
    from ablations.grid.planning import make_manifest
    from ablations.storage.manifest import NotResults

    read = _grid(grid, settings, seeds, max_jobs)
    try:
        slots = driver.list_devices(device, workers)
        driver.refuse(read, slots[0].partition(":")[0], len(slots))
    except ValueError as error:
        _stop(str(error))
    folder = folder or Path("results") / Path(grid).stem
    try:
        found = plans.plan(read, folder, slots, counts_only, err)
    except SourceChanged as error:
        _stop(str(error))
    wanted = make_manifest(read, job_machine(slots[0]), folder)
    found["power"] = _foresee(wanted, folder, sd)
    with suppress(NotResults):
        found["refused"] = driver.describe_other_grid(folder, wanted)
    return read, found


def _foresee(plan: Any, folder: Path, sd: float | None) -> list[dict[str, Any]]:
    """Returns for each study how large a change it will find, as a sentence and as numbers."""
    from ablations.report.frames import load
    from ablations.report.power import describe_forecast, foresee
    from ablations.report.results import analyse
    from ablations.storage.manifest import NotResults

    try:
        earlier = analyse(load(folder)) if sd is None else None
    except NotResults:
        earlier = None
    forecasts = foresee(plan, earlier, sd)
    return [{"sentence": describe_forecast(each), **asdict(each)} for each in forecasts]


def _show_plan(found: dict[str, Any], title: str) -> None:
    """Prints the variants as a table, and a line on all jobs."""
    from ablations.execution.display import format_span, print_rows

    entries = found["variants"]
    keys = [key for key in METRICS if any(key in entry for entry in entries)]
    heads = ["Variant", *(METRICS[key].head for key in keys)]
    rows = []
    for number, entry in enumerate(entries):
        row = ["; ".join(entry["levels"]) or "base"]
        for key in keys:
            change = f" ({100 * entry['change'][key]:+.1f} %)" if number and key in entry["change"] else ""
            row.append(METRICS[key].show(entry[key]) + change if key in entry else "")
        rows.append(row)
    for key, form in (("params", ",.0f"), ("macs", ",.6g")) if any("published" in each for each in entries) else ():
        heads.append(f"Published {METRICS[key].head}")
        for row, entry in zip(rows, entries, strict=True):
            row.append(f"{entry['published'][key] / METRICS[key].scale:{form}}" if "published" in entry else "")
    print_rows(out, title, heads, rows)
    for row, entry in zip(rows, entries, strict=True):
        if (frozen := entry.get("params_total", 0) - entry.get("params", 0)) > 0:
            _say(f"{row[0]} has {frozen:,} more params, which are not trained.")
    if found["tuning_runs"]:
        _say(f"{count_of(found['tuning_runs'], 'trial')} for tuning, {found['missing_tuning_runs']} of them missing.")
    _say(f"{count_of(found['runs'], 'run')} of {count_of(len(entries), 'variant')}, {found['missing_runs']} of them "
         f"missing; {count_of(found['missing_costs'], 'cost')} missing.")  # fmt: skip
    if found["failed"]:
        counts = ", ".join(f"{number} {status}" for status, number in found["failed"].items())
        _say(f"{counts}: `--retry {','.join(found['failed'])}` runs them again.")
    if found["speeds"]:
        _say(f"Comparisons of speed: {found['speeds']}, {found['missing_speeds']} of them missing.")
    if found["disturbed"]:
        _say(_describe_disturbed(found["disturbed"]))
    if found.get("seconds") and sum(found[f"missing_{kind}"] for kind in ("runs", "tuning_runs", "costs", "speeds")):
        workers = count_of(found["workers"], "worker")
        span = format_span(found["seconds_low"], found["seconds_high"])
        longer = "" if found["timed_by"].startswith("trainings") else ". Other work on this machine makes it longer"
        _say(f"They take {span} with {workers}, by {found['timed_by']}{longer}.")
    for forecast in found["power"]:
        _say(forecast["sentence"])
    if not found["power"]:
        _say("How large a change these runs would find is unknown before the first runs: --sd states how seeds vary.")
    for entry in entries:
        for key in ("failed", "prediction_failed", "does_not_fit"):
            if key in entry:
                _say(f"  {'; '.join(entry['levels'])}: {key.replace('_', ' ')}: {entry[key]}", err)
        if "place" in entry:
            _say(f"  at {entry['place']}", err)


@app.command()
def run(
    grid: GridArgument,
    out_: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: results/<grid's name>.", callback=_expand)
    ] = None,
    workers: WorkersOption = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seeds: SeedsOption = None,
    set_: SetOption = None,
    max_jobs: MaxJobsOption = 10_000,
    retry: Annotated[
        str,
        typer.Option(
            metavar="failed,oom",
            help="Runs jobs again that ended so. disturbed: measures again. edited: all of networks that were edited.",
        ),
    ] = "",
    engine: Annotated[
        str,
        typer.Option(
            help="local: in processes of this machine; inline: one by one in this process; ray, slurm: on a cluster."
        ),
    ] = "local",
    with_: Annotated[
        list[str] | None, typer.Option("--with", metavar="KEY=VALUE", help="An option of the engine; may be repeated.")
    ] = None,
    no_costs: Annotated[bool, typer.Option("--no-costs", help="Measures neither costs nor speeds this time.")] = False,
    shard: Annotated[str, typer.Option(metavar="3/8", help="Does one of several parts of the jobs.")] = "1/1",
    jobs_per_device: Annotated[
        int, typer.Option(min=1, max=64, help="Trainings on one GPU at a time. Costs are measured alone.")
    ] = 1,
) -> None:
    """Runs what is missing, then reports."""
    folder = out_ or Path("results") / Path(grid).stem
    try:
        options = _read_pairs("--with", with_)
        order = engine, device, workers, jobs_per_device, options
        signals.handle_stop_signals(_interrupt)
        _say(f"Planning {grid} ...")
        code = _run(grid, folder, order, seeds, set_, max_jobs, retry, not no_costs, shard)
    except Interrupted:
        code = _stopped(folder)
    except (OSError, EOFError) as error:  # an error of this machine, not of the grid
        _stop(f"{folder}: {error or 'a process that starts others was killed'}. {KEPT}")
    raise typer.Exit(code)


def _run(
    grid: str,
    folder: Path,
    order: tuple[str, str, int, int, dict[str, str]],
    seeds: str | None,
    settings: list[str] | None,
    max_jobs: int,
    retry: str,
    measure: bool,
    shard: str,
) -> int:
    """Runs the grid and reports. Returns the exit code."""
    from ablations.execution import driver
    from ablations.execution.changes import EDITED
    from ablations.execution.engine import Detached
    from ablations.execution.seat import Order
    from ablations.storage.files import StorageError
    from ablations.storage.locks import FolderInUse
    from ablations.storage.schema import STATUSES

    again = [status.strip() for status in retry.split(",") if status.strip()]
    allowed = (*STATUSES, driver.DISTURBED, EDITED)
    unknown = set(again) - {*allowed}
    if unknown:
        _stop(f"--retry {', '.join(sorted(unknown))}: allowed are {', '.join(allowed)}")
    if driver.DISTURBED in again and not measure:
        _stop(f"--no-costs measures nothing, and --retry {driver.DISTURBED} measures again: leave one of them out")
    try:
        part = driver.Shard.read(shard)
    except ValueError as error:
        _stop(str(error))
    read = _grid(grid, settings, seeds, max_jobs)
    for note in read.notes:
        _say(f"Note: {note}", err)
    _say(f"Planned: {count_of(len(read.variants), 'variant')}.")
    engine, device, seats, jobs_per_device, options = order
    try:
        with driver.open_engine(engine, Order(device, seats, jobs_per_device, folder, options)) as workplace:
            outcome = driver.work(read, folder, workplace, again, out, _find_grid(grid), measure, part)
    except (ValueError, FolderInUse) as error:
        _stop(str(error))
    except Detached as handed_over:
        _say(str(handed_over))
        return 0
    except StorageError as error:
        _stop(f"{error}. {KEPT}")
    for path in outcome.damaged:
        _say(f"A damaged record was set aside as {path}, and its job is run again.", err)
    if outcome.edited:
        _say(f"Note: {outcome.edited}.", err)
    if outcome.stopped:
        return _stopped(folder)
    if outcome.unmeasured:
        unmeasured = count_of(outcome.unmeasured, "cost or speed", "costs and speeds")
        _say(f"--no-costs: {unmeasured} missing, for a call without this option.")
    if part.count > 1:
        done, left = count_of(outcome.executed, "job"), outcome.elsewhere
        _say(f"Shard {shard}: {done} done now, and {left} left to other shards.")
        if outcome.awaited:
            awaited = count_of(outcome.awaited, "run")
            _say(f"{awaited} to follow when all trials of their tuning are in one folder: `ablate merge` them.")
    if not outcome.executed:
        what = "train or to measure" if measure else "train"
        _say(f"Nothing to {what}: {outcome.done_before} of {count_of(outcome.total, 'job')} on record in {folder}.")
    try:
        return _finish(folder)
    except typer.Exit:
        raise
    except Exception as error:  # whatever fails here, the user must know that the jobs are done
        _say(f"The report could not be made: {type(error).__name__}: {error}", err)
        _say(f"All records are in {folder}: `ablate report {folder}` makes the report from them.", err)
        return SOME_FAILED


def _read_pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Reads `KEY=VALUE` each time that an option was given."""
    pairs = {}
    for each in given or ():
        key, equals, value = each.partition("=")
        if not (key and equals):
            _stop(f"{option} {each}: KEY=VALUE is needed")
        pairs[key] = value
    return pairs


def _stopped(folder: Path) -> int:
    """Says what is kept. Returns the exit code."""
    from ablations.storage.manifest import NAME

    if not (folder / NAME).exists():
        _say("Stopped while it was planning: no job was begun. The same command starts anew.", err)
        return STOPPED
    _say(f"Stopped. What is finished or begun is kept in {folder}; the same command goes on from there.", err)
    return STOPPED


@app.command()
def job(
    folder: DirArgument,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="A job's id in jobs.json.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Runs one planned job in this process and publishes its record: what a cluster's scheduler starts.

    Exit code 0: its record is there. 1: it failed, and its reason is noted. 75: stopped by a signal, its state kept.
    """
    started = time.monotonic()
    from ablations.execution.fresh import THREADS

    os.environ.update(dict.fromkeys(THREADS, "1"))  # before PyTorch is loaded
    from ablations.execution.job import execute_planned
    from ablations.storage.manifest import NotResults

    asked: list[int] = []
    signals.handle_stop_signals(lambda number, _: asked.append(number))
    try:
        ended = execute_planned(folder, job_id, device, started, lambda: bool(asked), lambda text: _say(text))
    except (NotResults, ValueError, OSError) as error:
        _stop(str(error))
    raise typer.Exit({"done": 0, "stopped": STOPPED}.get(ended, SOME_FAILED))


@app.command()
def status(folder: DirArgument, as_json: JsonOption = False) -> None:
    """What is done, begun, failed (and why) and missing, who is at work, and which code made it."""
    from ablations.execution.submissions import describe_seats
    from ablations.report.survey import describe_others, list_retryable, survey
    from ablations.storage import locks, records, turns

    found = _load(folder, survey)
    kept = {path.stem for end in ("latest", "before") for path in (folder / "checkpoints").glob(f"*.{end}")}
    begun = kept & {job for states in found.states.values() for job, status, _ in states if status == "missing"}
    counts = {kind: Counter(status for _, status, _ in states) for kind, states in found.states.items()}
    made = {
        f"commit {commit}, sources {fingerprint}": number for (commit, fingerprint), number in found.made_by.items()
    }
    failed, holder, waits = found.find_causes(), locks.find_holder(folder), turns.describe_waits(folder)
    damaged = [str(path.relative_to(folder)) for path in found.damaged]
    aside = sorted(str(path.relative_to(folder)) for path in (folder / "records" / "damaged").glob("*"))
    ignored = [str(path.relative_to(folder)) for path in records.list_ignored(folder)]
    others = describe_others(found.others, found.manifest)
    disturbed = _count_disturbed(folder, found.manifest)
    done = {job for states in found.states.values() for job, status, _ in states if status != "missing"}
    slurm = describe_seats(folder, done)
    if as_json:
        told = {
            "worked_on_by": holder or None,
            "waits": waits,
            "slurm": slurm,
            **counts,
            "begun": len(begun),
            "failures": failed,
        }
        told["disturbed"] = disturbed
        told["jobs"] = {kind: {job: status for job, status, _ in states} for kind, states in found.states.items()}
        beside = {"damaged": damaged, "set_aside": aside, "ignored": ignored, "not_in_the_grid": others}
        print(json.dumps({**told, **beside, "made_by": made}, indent=1))
        return
    if holder:
        _say(f"Worked on by {holder}.")
    for text in waits:
        _say(f"  {text}")
    _say_slurm(slurm, {job.id: f"{job.kind} {job.name}" for job in found.manifest.jobs})
    for kind, count in counts.items():
        _say(f"{kind}: " + ", ".join(f"{number} {name}" for name, number in sorted(count.items())))
    if begun:
        _say(f"{len(begun)} begun, with a checkpoint to go on from")
    if disturbed:
        _say(_describe_disturbed(disturbed))
    _say_causes(failed, _find_places(folder, found.manifest))
    if again := list_retryable(failed):
        _say(f"  `ablate run` with --retry {','.join(again)} runs them again")
    for name in damaged:
        _say(f"  damaged, and counted as missing: {name}; `ablate run` sets it aside and runs the job again")
    for name in aside:
        _say(f"  was damaged, and its job run again: {name}")
    for name in ignored:
        _say(f"  ignored, because its name is not that of a record: {name!r}")
    for text in others:
        _say(f"  {text}")
    for code, number in made.items():
        _say(f"{number} made by {code}")


def _say_slurm(slurm: dict[str, Any], names: dict[str, str]) -> None:
    """Prints which jobs are in Slurm's hands, and where those run that run."""
    counts = [f"{len(keys)} {state}" for state, keys in slurm.items() if keys]
    if counts:
        _say(f"Handed over to Slurm: {', '.join(counts)}.")
    for key, place in slurm["running"].items():
        _say(f"  {names.get(key, key)}: {place}")
    if slurm["lost"]:
        _say("  `ablate run` with --engine slurm submits those again that are lost: their Slurm jobs have ended")
    if slurm["unknown"]:
        _say("  this machine cannot ask Slurm how far they are")


@app.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Results folders: of shards, or of other machines.")
    ],
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="A results folder, or a new one.", callback=_expand)
    ],
    as_json: JsonOption = False,
) -> None:
    """Takes the records of several results folders into one. It checks every record, and replaces none."""
    from ablations.report.survey import survey
    from ablations.storage.locks import FolderInUse
    from ablations.storage.manifest import Manifest, NotResults
    from ablations.storage.merging import merge as merge_folders

    try:
        merged = merge_folders([*map(expand, folders)], into)
        options = Manifest.read(into).options
    except (NotResults, FolderInUse, OSError) as error:
        _stop(str(error))
    left = Counter(status for states in _load(into, survey).states.values() for _, status, _ in states)
    del left["done"]
    words = ["ablate", "run", str(into / "grid.toml"), "--out", str(into), *options]
    words = words if left["missing"] else ["ablate", "report", str(into)]
    if as_json:
        told = [{**vars(each), "source": str(each.source), "damaged": [*map(str, each.damaged)]} for each in merged]
        print(json.dumps({"merged": told, "left": left, "continue": words}, indent=1))
    else:
        for each in merged:
            _say_merged(each, into)
        does = "does what is missing, and reports" if left["missing"] else "makes the report"
        counts = ", ".join(f"{number} {status}" for status, number in sorted(left.items()))
        said = f"Not done: {counts}." if counts else "All jobs are done."
        _say(f"{said} This command {does}:\n  {shlex.join(words)}")
    raise typer.Exit(SOME_FAILED if any(each.damaged or each.different for each in merged) else 0)


def _say_merged(merged: Any, into: Path) -> None:
    """Prints what was taken from one folder, and what was not."""
    notes = f", with {count_of(merged.failures, 'note of a failure', 'notes of failures')}" if merged.failures else ""
    _say(f"{merged.source}: {count_of(len(merged.added), 'record')} added{notes}; {len(merged.present)} already there.")
    for name in merged.different:
        _say(f"  has another result than the one that is there, which stays: {name}", err)
    for path in merged.damaged:
        _say(f"  damaged, and not taken: {path}", err)
    if merged.foreign:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(merged.foreign.items()))
        _say(f"  not taken, because the plan of {into} has no such jobs, or names another machine: {counted}", err)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder; with --all, a folder of them.")],
    only: Annotated[str | None, typer.Option(metavar="tables|figures", help="Rebuilds these alone.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Rebuilds every results folder in DIR.")] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help="Draws figures without title and small print into DIR/figures/bare, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Rebuilds every table, figure and page from the records alone."""
    from ablations.report import page as reports

    if only is not None and only not in reports.PARTS:
        _stop(f"--only {only}: allowed are {', '.join(reports.PARTS)}")
    folders = sorted(path.parent for path in folder.glob("*/jobs.json")) if all_ else [folder]
    if not folders:
        _stop(f"{folder}: no folder in it holds results")
    rebuilt = []
    for each in folders:
        rebuilt.append(_rebuild(each, only, bare))
        if not as_json:
            _say_rebuilt(rebuilt[-1])
    if as_json:
        print(json.dumps({"reports": rebuilt}, indent=1))


def _rebuild(folder: Path, only: str | None, bare: bool) -> dict[str, Any]:
    """Rebuilds the reports of one results folder, or a part of them; with `bare`, its figures for a paper too.

    Returns what was written, from how many jobs, and what is missing.
    """
    from ablations.report import page as reports
    from ablations.report.answers import tell_gaps
    from ablations.report.plotting.figures import write_figures
    from ablations.report.results import analyse

    frames, cores = _frames(folder), count_cores()
    results = analyse(frames)
    try:
        paths = reports.write(results, cores) if only is None else reports.PARTS[only](results, cores)
        paths += write_figures(results, True, cores) if bare else []
    except OSError as error:
        _stop(str(error))
    return {
        "folder": str(folder),
        "files": [str(path) for path in paths],
        "jobs": {
            kind: {"done": int((frame.status == "done").sum()), "total": len(frame)}
            for kind, frame in frames.jobs().items()
        },
        "gaps": {study.name: tell_gaps(study) for study in results.studies},
        "letters_without_a_font": reports.list_missing_letters(results),
    }


def _say_rebuilt(rebuilt: dict[str, Any]) -> None:
    """Prints what was rebuilt, and what is missing."""
    from ablations.report import page as reports

    _say_missing(rebuilt["letters_without_a_font"])
    jobs = rebuilt["jobs"]
    totals = reports.list_counts({kind: count["total"] for kind, count in jobs.items()})
    done = [f"{count['done']} of {total}" for count, total in zip(jobs.values(), totals, strict=True)]
    _say(f"{rebuilt['folder']}: {count_of(len(rebuilt['files']), 'file')} rebuilt from {', '.join(done)}.")
    for study, sentences in rebuilt["gaps"].items():
        for sentence in sentences:
            _say(f"  {study}: {sentence}")


@app.command()
def export(
    folder: DirArgument,
    to: Annotated[str, typer.Option("--to", metavar="tensorboard|mlflow|wandb", help="A tracker of experiments.")],
    place: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="PLACE", help="A folder; for mlflow also sqlite:///FILE or a server. Default: DIR/TRACKER."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copies the runs into TensorBoard, MLflow or W&B: those that are not there yet, or that have changed."""
    try:
        signals.handle_stop_signals(_interrupt)
        told = _export(folder, to, place)
    except Interrupted:
        _say("Stopped. What is exported stays there, and the same command goes on.", err)
        raise typer.Exit(STOPPED) from None
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        _say_exported(told)


def _export(folder: Path, to: str, place: str | None) -> dict[str, Any]:
    """Exports the runs of a results folder, and returns what was done."""
    from ablations.report.exporting import count_runs, list_runs
    from ablations.report.exporting import export as copy
    from ablations.report.trackers import TRACKERS, TrackerError, open_tracker
    from ablations.storage.locks import FolderInUse

    if to not in TRACKERS:
        _stop(f"--to {to}: allowed are {', '.join(TRACKERS)}")
    frames = _frames(folder)
    total, left = count_runs(frames)
    ids: dict[str, list[str]] = {"added": [], "renewed": [], "present": []}
    failed: Counter[str] = Counter()
    try:
        with err.status(f"Opening {to}") as shown, open_tracker(to, frames, place) as tracker:
            for number, (each, outcome) in enumerate(copy(list_runs(frames), tracker), 1):
                ids[outcome].append(each.id)
                failed.update([] if each.done else [each.status])
                shown.update(f"Run {number:,} of {total:,}")
    except (TrackerError, FolderInUse, OSError) as error:
        _stop(str(error))
    return {"tracker": to, "place": tracker.place, **ids, "failed": failed, "left": left, "continue": tracker.command}


def _say_exported(told: dict[str, Any]) -> None:
    """Prints how many runs are in a tracker now, and how to see them."""
    added, renewed, present = (len(told[key]) for key in ("added", "renewed", "present"))
    again = f", {renewed} written again (changed, or half written before)" if renewed else ""
    _say(f"{told['place']}: {count_of(added, 'run')} added{again}; {present} already there.")
    if told["failed"]:
        failed = ", ".join(f"{number} {status}" for status, number in told["failed"].items())
        _say(f"  among them not done, with their reason: {failed}")
    if told["left"]:
        left = ", ".join(f"{number} {status}" for status, number in told["left"].items())
        _say(f"  not exported, because they have not run: {left}")
    does = "uploads them" if told["tracker"] == "wandb" else "shows them"
    _say(f"This command {does}:\n  {shlex.join(told['continue'])}")


@app.command()
def cite(
    folder: DirArgument,
    study: str,
    level: str,
    metric: str,
    form: Annotated[str, typer.Option("--as", metavar="text|markdown|latex", help="A mark alone, to paste.")] = "text",
    as_json: JsonOption = False,
) -> None:
    """Prints one value with its provenance, and citation marks to paste."""
    from ablations.report import citations
    from ablations.report.results import analyse

    results = analyse(_frames(folder))
    metric = citations.name_metric(results, study, metric)
    try:
        found = citations.look_up(results, study, level, metric)
        marks = citations.make_marks(results, study, level, metric)
    except ValueError as error:
        _stop(str(error))
    if as_json:
        place = {"study": study, "level": level, "metric": metric}
        print(json.dumps({**place, **asdict(found), "marks": marks}, indent=1))
    elif form in marks:
        _say(marks[form])
        for note in citations.tell_seeds(results, study, level, metric)[1:]:
            _say(f"Note: {note}", err)
    elif form == "text":
        _say(found.describe())
        _say("Marks for a text that lies in this directory (the folder is relative to the text's own):")
        _say("\n".join(marks.values()))
        _say(rf"In LaTeX, one line before puts the numbers in: \input{{{folder.as_posix()}/numbers}}")
    else:
        _stop(f"--as {form}: allowed are text, {', '.join(marks)}")


@app.command()
def table(
    folder: DirArgument,
    study: Annotated[str, typer.Argument(help="A study, STUDY.effects, STUDY.errors, or overall.")],
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,NAME|all", help="These columns, in this order; default: the main ones.")
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="Without changes and spreads beside the costs.")] = False,
    form: Annotated[str, typer.Option("--format", metavar="markdown|latex|csv")] = "markdown",
) -> None:
    """Prints one table for a text, with marks that `ablate check` verifies. It needs no other file of DIR."""
    from ablations.report.citations import print_table
    from ablations.report.results import analyse

    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    try:
        text = print_table(analyse(_frames(folder)), study, names, short, form)
    except ValueError as error:
        _stop(str(error))
    print(text, end="")


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Markdown, R Markdown, Quarto, HTML or LaTeX.")
    ],
    write: Annotated[bool, typer.Option("--write", help="Writes the recorded numbers into the files.")] = False,
    require: Annotated[
        int, typer.Option(min=0, metavar="N", help="Fails if all files together cite fewer numbers and tables than N.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fails where a number cited in a text differs from the records, or where the text beside it changes it."""
    from ablations.report import citations

    files = list(dict.fromkeys(map(expand, files)))
    examples = _count_examples(files)
    renewed: dict[Path, int] = {}
    found: list[Any] = []
    for path in files:
        if write:
            renewed[path] = _rewrite(path)
        cited = citations.check(path)
        found += cited
        if not as_json:
            _say_checked(path, renewed.get(path), examples[path], cited)
    total, wrong = len(found), sum(bool(citation.problem) for citation in found)
    if as_json:
        told = [{**asdict(citation), "path": str(citation.path)} for citation in found]
        beside = {"renewed": renewed, "unchecked": examples}
        counts = {name: {str(path): count for path, count in each.items()} for name, each in beside.items()}
        print(json.dumps({"agree": total - wrong, "total": total, "citations": told, **counts}, indent=1))
    else:
        _say(f"{total - wrong} of {total} cited numbers and tables agree with the records.")
    if total < require:
        _say(f"--require {require}: only {count_of(total, 'number or table', 'numbers and tables')} cited.", err)
    raise typer.Exit(SOME_FAILED if wrong or total < require else 0)


def _say_checked(path: Path, renewed: int | None, examples: int, cited: list[Any]) -> None:
    """Prints what was found in one text: how many numbers were renewed, and each one that is wrong."""
    if renewed is not None:
        _say(f"{path}: {count_of(renewed, 'number')} renewed")
    if not cited:
        _say(f"{path}: no number in it is cited", err)
    if examples:
        _say(f"{path}: marks in code or in comments of LaTeX, which are not checked: {examples}", err)
    for citation in cited:
        if citation.problem:
            _say(f"{path}:{citation.line}: {citation.source}: {citation.problem}{_apart(citation)}", err)


def _count_examples(files: list[Path]) -> dict[Path, int]:
    """Returns how many marks of each file are not checked. Stops if a file cannot be read, before any is changed."""
    from ablations.report.marks import count_examples, find_kind, read_text

    counts, problems = {}, []
    for path in files:
        try:
            text = read_text(path)
            counts[path] = count_examples(text, find_kind(path))
        except (OSError, ValueError) as error:
            problems.append(f"{path} cannot be read: {error}")
    if problems:
        _stop("\n".join(problems))
    return counts


def _rewrite(path: Path) -> int:
    from ablations.report.citations import rewrite

    try:
        return rewrite(path)
    except OSError as error:
        _stop(f"{path} cannot be written: {error}")


def _apart(citation: Any) -> str:
    """Returns the difference of a cited text from the records: the numbers, or the first different line of a table."""
    from ablations.report.citations import agree

    if citation.recorded is None or not citation.cited or citation.cited.startswith("\\ablate"):
        return ""
    lines = zip_longest(citation.cited.strip().split("\n"), citation.recorded.strip().split("\n"), fillvalue="")
    cited, recorded = next((pair for pair in lines if not agree(*pair)), ("", ""))
    return f"; cited {cited!r}, recorded {recorded!r}" if cited or recorded else ""


def _grid(name: str, settings: list[str] | None, seeds: str | None, max_jobs: int) -> Any:
    from ablations.grid.problems import GridError
    from ablations.grid.reader import read

    known, path = _list_shipped(), _find_grid(name)
    if name not in known and not os.path.exists(path):  # noqa: PTH110, which raises for a name that is too long
        _stop(f"no grid {name}: neither a file nor one of the shipped grids, which are {', '.join(known)}")
    try:
        numbers = None if seeds is None else [int(seed) for seed in seeds.split(",")]
    except ValueError:
        _stop(f"--seeds {seeds}: whole numbers are needed, for example --seeds 0,1")
    if name not in known:
        sys.path.append(str(path.resolve().parent))  # modules of the user's may lie beside the grid
    try:
        return read(path, settings or (), numbers, max_jobs)
    except GridError as error:
        _stop(str(error))


def _list_shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"), key=lambda path: path.stem)}


def _find_grid(name: str) -> Path:
    """Returns the path of a shipped grid, or of a grid's file."""
    return _list_shipped().get(name, expand(name))


def _frames(folder: Path) -> Any:
    from ablations.report.frames import load

    return _load(folder, load)


def _load(folder: Path, read: Callable[[Path], Any]) -> Any:
    from ablations.storage.files import StorageError
    from ablations.storage.manifest import NotResults

    try:
        return read(folder)
    except (NotResults, StorageError) as error:
        _stop(str(error))


def _finish(folder: Path) -> int:
    """Rebuilds all results, prints the tables and the folders. Returns the exit code."""
    from ablations.execution.display import print_rows
    from ablations.report import page as report
    from ablations.report.captions import describe_provenance, explain_verdicts
    from ablations.report.formats import render_cell
    from ablations.report.frames import find_causes
    from ablations.report.results import analyse
    from ablations.report.survey import list_retryable
    from ablations.report.tables import shorten

    frames = _frames(folder)
    results = analyse(frames)
    try:
        with err.status("Drawing"):
            paths = report.write(results, count_cores())
    except OSError as error:
        _stop(f"{error}. All records are in {folder}: `ablate report {folder}` makes the report from them.")
    for table in map(shorten, results.studies):
        heads = [column.head for column in table.columns]
        rows = [[*map(render_cell, row.cells)] for row in table.rows]
        print_rows(out, f"\n{table.name}: {table.question}", heads, rows)
    _say(f"\n{explain_verdicts()}{describe_provenance(frames)}")
    failed = find_causes(frames)
    if failed:
        kinds = ",".join(list_retryable(failed))
        count = sum(len(cause["jobs"]) for cause in failed)
        _say(f"\n{count} not done" + (f"; `--retry {kinds}` runs them again:" if kinds else ":"), err)
        _say_causes(failed, _find_places(folder, frames.manifest), err)
    _say_missing(report.list_missing_letters(results))
    disturbed = _count_disturbed(folder, frames.manifest)
    if disturbed:
        _say(f"\n{_describe_disturbed(disturbed)}")
    spent = report.describe_time(frames)
    if spent:
        _say(f"\n{spent}")
    _say(f"\n{report.count_jobs(frames)} Written:")
    for place in sorted({path.parent for path in paths}):
        names = sorted(path.name for path in paths if path.parent == place)
        _say(f"  {place}/: {', '.join(names)}")
    return SOME_FAILED if failed else 0


def _say_missing(letters: str) -> None:
    if letters:
        _say(f"Figures show boxes in the place of {letters}: no installed font has them.", err)


def _count_disturbed(folder: Path, manifest: Any) -> int:
    from ablations.storage.disturbance import list_disturbed
    from ablations.storage.manifest import MEASUREMENTS

    return len(list_disturbed(folder, (job.id for job in manifest.jobs if job.kind in MEASUREMENTS)))


def _describe_disturbed(count: int) -> str:
    disturbed = count_of(count, "cost or speed", "costs and speeds")
    return f"Disturbed by other load: {disturbed}; `--retry disturbed` measures again"


def _find_places(folder: Path, manifest: Any) -> dict[str, str]:
    """Returns the line of the user's where each job failed, by kind and name, if there is such a line."""
    from ablations.storage import records

    names = {job.id: f"{job.kind} {job.name}" for job in manifest.jobs}
    notes = {names[job]: found[-1] for job, found in records.load_attempts(folder).items() if job in names}
    return {name: str(note["place"]) for name, note in notes.items() if note.get("place")}


def _say_causes(causes: list[dict[str, Any]], places: dict[str, str], console: Console = out) -> None:
    """Prints the failures, each cause once, with the line of the user's where it happened."""
    for cause in causes:
        _say(f"  {len(cause['jobs'])} {cause['status']}: {cause['reason']}", console)
        for place in dict.fromkeys(places[name] for name in cause["jobs"] if name in places):
            _say(f"  at {place}", console)
        for name in cause["jobs"]:
            _say(f"    {name}", console)


def _say(text: str, console: Console = out) -> None:
    console.print(Text(text), soft_wrap=not console.is_terminal)


def _stop(message: str) -> NoReturn:
    _say(message, err)
    raise typer.Exit(USAGE)


class Interrupted(BaseException):
    """A signal requested a stop. Not a KeyboardInterrupt: Python may end with that signal even after it was caught."""


def _interrupt(*_: object) -> NoReturn:
    signals.ignore_stop_signals()  # later signals are ignored
    raise Interrupted
