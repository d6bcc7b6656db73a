"""Reads a grid file as a Grid. All errors are found and reported before any work starts."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.config import DataConfig, TrainConfig, Tuning, Variant
from ablations.grid.matching import match_level
from ablations.grid.model import SECTIONS, Grid, Level, Study, TomlTable
from ablations.grid.problems import NOTHING, Findings, GridError, Problem, quote
from ablations.grid.schema import GridFile, MatchTable, StudyTable, check_shape
from ablations.grid.trials import (
    count_trials,
    keep_seeds_apart,
    read_seeds,
    read_study_tuning,
    read_tuning,
    tune_level,
)
from ablations.grid.variants import ALTERNATIVES, Tables, VariantReader, flatten, split, value_of
from ablations.metrics import level_text
from ablations.storage.schema import check_label
from densenet import Config
from densenet.options import suggestion

MAX_JOBS = 10_000
"""The most jobs of one grid, unless --max-jobs is raised."""

DEEPEST = 32
"""The deepest nesting of tables and lists. Valid files have six levels."""


def read(
    path: Path, settings: Sequence[str] = (), seeds: Sequence[int] | None = None, max_jobs: int = MAX_JOBS
) -> Grid:
    """Read the grid in a TOML file, with `section.key=value` settings over its base, and with other seeds if given.

    A relative `data.root` is looked for beside the file first, and then in the current folder. Raises GridError with
    all problems. More than `max_jobs` jobs are a problem too.
    """
    text = _load_text(path)
    table = _parse(path, text)
    _find_beside(table, path.parent)
    findings = Findings()
    for setting in settings:
        _apply(table, setting, findings)
    if seeds is not None:
        table["seeds"] = list(seeds)
    grid = build(table, findings, seeds, max_jobs)
    if grid is None:
        raise GridError(str(path), findings.sort(table))
    options = [part for setting in settings for part in ("--set", setting)]
    options += [] if seeds is None else ["--seeds", ",".join(map(str, seeds))]
    note = f"\n# Laid over this on the command line: {json.dumps(' '.join(options))}\n" if options else ""
    return replace(grid, text=text + note, options=tuple(options))


def _load_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark first
    except OSError as error:
        raise GridError(str(path), [Problem("file", NOTHING, error.strerror or "cannot be read")]) from None
    except ValueError as error:  # not UTF-8, or an invalid path
        raise GridError(str(path), [Problem("TOML", NOTHING, str(error))]) from None


def _parse(path: Path, text: str) -> TomlTable:
    try:
        table = tomllib.loads(text)
        _refuse_extremes(table)
    except ValueError as error:  # not TOML, or a number with thousands of digits
        raise GridError(str(path), [Problem("TOML", NOTHING, str(error))]) from None
    except RecursionError:
        raise GridError(str(path), [Problem("TOML", NOTHING, "nested too deeply")]) from None
    return table


def _find_beside(table: Any, folder: Path) -> None:
    """Replace each relative `data.root` that lies beside the grid's file by its path, at any depth."""

    def find(root: Any) -> Any:
        if isinstance(root, list):
            return [find(each) for each in root]
        beside = isinstance(root, str) and root and not root.startswith(("/", "~")) and "\0" not in root
        return str(folder / root) if beside and (folder / root).exists() else root

    for key, value in table.items() if isinstance(table, dict) else ():
        if key == "data" and isinstance(value, dict) and "root" in value:
            value["root"] = find(value["root"])
        for each in value if isinstance(value, list) else [value]:
            _find_beside(each, folder)


def _refuse_extremes(value: Any, depth: int = 0) -> None:
    """Raise ValueError for huge numbers and deep nesting, which are never valid and which Python refuses to print."""
    if depth > DEEPEST:
        raise ValueError(f"nested too deeply; at most {DEEPEST} levels are taken")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_extremes(inner, depth + 1)
    elif isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"a whole number of {value.bit_length()} bits; at most 64 are taken")


def _apply(table: TomlTable, setting: str, findings: Findings) -> None:
    """Apply a setting to a parsed file: `train.epochs=3` to its base, or `tune.seeds=[9]` to its tuning."""
    path, equals, text = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot and section in (*SECTIONS, "tune") and key and key.isprintable()):
        rule = "must read model.KEY=VALUE, data.KEY=VALUE, train.KEY=VALUE or tune.KEY=VALUE"
        findings.add(f"--set {setting}", NOTHING, rule)
        return
    value = _read_value(text.strip())
    if _is_text(section, key) and not isinstance(value, str):
        value = text.strip()
    if section == "tune":
        _set(table, ["tune", *key.split(".")], value)
    else:
        _set(table, ["base", section, key], value)


def _read_value(text: str) -> Any:
    """Read a value of the command line: TOML, or what shells and Python write, `.2`, `1.`, `True`, or plain text."""
    for written in (text, _as_written_in_toml(text)):
        try:
            (value,) = tomllib.loads(f"value = {written}").values()  # only one line
            _refuse_extremes(value)
        except (ValueError, RecursionError):
            continue
        return value
    return text


def _as_written_in_toml(text: str) -> str:
    """Return `0.2` for `.2`, `1.0` for `1.`, `true` for `True`, also within a list."""
    text = re.sub(r"(?<![\w.])\.(?=\d)", "0.", text)
    text = re.sub(r"(?<=\d)\.(?!\d)", ".0", text)
    return re.sub(r"\b(True|False)\b", lambda match: match[0].lower(), text)


def _is_text(section: str, key: str) -> bool:
    """Whether a field holds text, so that `2024` is no number there."""
    fields = {"data": DataConfig.model_fields, "train": TrainConfig.model_fields}.get(section, {})
    return key in fields and fields[key].annotation is str


def _set(table: Any, path: Sequence[str], value: Any) -> None:
    """Set a value in nested tables. If one of them is not a table, this is reported later, with its key."""
    *outer, key = path
    for name in outer:
        table = table.setdefault(name, {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(ALTERNATIVES.get(key), None)
        table[key] = value


def build(
    table: TomlTable, findings: Findings, asked: Sequence[int] | None = None, max_jobs: int = MAX_JOBS
) -> Grid | None:
    """Build the grid of a parsed file, without its text. Returns None if there is a problem.

    `asked` are the seeds of the command line. A study with its own seeds uses those of them that it has.
    """
    file = check_shape(table, findings)
    variants = VariantReader(findings, {section: getattr(file.base, section) for section in SECTIONS})
    base = variants.read("base", variants.base)
    seeds = read_seeds(findings, "seeds", file.seeds)
    tuning = None if file.tune is None else read_tuning(variants, "tune", file.tune)
    if not file.study and not findings.has("study"):
        findings.add("study", NOTHING, "a grid needs at least one study, for example [study.growth_rate]")
    _check_names(file.study, findings)
    count = _count_jobs(file, len(seeds), base)
    if count > max_jobs:
        said = f"up to {count:,}" if count < 10**18 else "10^18 or more"  # Python may refuse to print larger numbers
        findings.add("study", NOTHING, f"{said} jobs; at most {max_jobs:,} are taken, --max-jobs N lifts that")
        return None
    reader = _StudyReader(findings, variants, base, tuning, seeds, asked, file.speed_rounds, file.margin)
    studies = tuple(reader.read(name, study) for name, study in file.study.items())
    if not findings.has("seeds", *(f"study.{quote(name)}.seeds" for name in file.study)):
        keep_seeds_apart(findings, studies, tuning)
    if findings.problems or base is None:
        return None
    datasets = {config: dataset for config, dataset in variants.datasets.items() if dataset is not None}
    base, notes = replace(base, tuning=tuning), tuple(findings.notes)
    return Grid(file.title, seeds, base, studies, datasets, "", notes, time_limit=float(file.time_limit))


def _check_names(studies: Iterable[str], findings: Findings) -> None:
    """Report studies whose names are equal but for capital letters: many file systems keep one file of two such."""
    first: dict[str, str] = {}
    for name in studies:
        known = first.setdefault(name.lower(), name)
        if known != name:
            rule = f"differs from study {known} only in capital letters: studies name files, so give it another name"
            findings.add(f"study.{quote(name)}", NOTHING, rule)


def _count_jobs(file: GridFile, seeds: int, base: Variant | None) -> int:
    """Count the jobs before any study is expanded; the result is an upper bound."""
    count = seeds + 1 + count_trials(file.tune)  # the base's runs, its cost and its trials
    for study in file.study.values():
        runs = seeds if study.seeds is None else len(study.seeds)
        trials = count_trials(file.tune if study.tune is None else study.tune)
        measurements = 2 if (file.speed_rounds if study.speed_rounds is None else study.speed_rounds) else 1
        beside = _count_beside_base(study, base) if study.base is None else 1 + _count_beside_base(study, None)
        count += beside * (runs + measurements + trials)
    return count


def _count_beside_base(study: StudyTable, base: Variant | None) -> int:
    """Count the variants that a study adds to the base; the result is an upper bound."""
    named = sum(entry.model_fields_set != {"name"} for entry in study.variant)
    if not study.axes:
        return named
    has_base = base is not None and all(_as_toml(value_of(base, path)) in levels for path, levels in study.axes.items())
    return named + math.prod(map(len, study.axes.values())) - has_base


def _as_toml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class _Entry:
    """A level as the file declares it."""

    where: str
    label: str
    own: Tables
    match: MatchTable | None = None


@dataclass(frozen=True)
class _StudyReader:
    """Reads the studies of one grid."""

    findings: Findings
    variants: VariantReader
    base: Variant | None
    tuning: Tuning | None
    seeds: tuple[int, ...]
    asked: Sequence[int] | None
    speed_rounds: int
    margin: float

    def read(self, name: str, table: StudyTable) -> Study:
        """Read a study with its levels, including its base. Reports its problems."""
        prefix = f"study.{quote(name)}"
        if table.base is None:
            return self._read(prefix, name, table)
        if table.tune == "base":
            rule = (
                "takes what is chosen for the grid's base, and this study has a base of its own: leave one of them out"
            )
            self.findings.add(f"{prefix}.tune", table.tune, rule)
        own = {section: getattr(table.base, section) for section in SECTIONS}
        variants = self.variants.rebase(f"{prefix}.base", own)
        base = variants.read(variants.place, variants.base)
        return replace(self, variants=variants, base=base)._read(prefix, name, table)

    def _read(self, prefix: str, name: str, table: StudyTable) -> Study:
        self._check_one_kind(prefix, table)
        entries = [*_list_products(prefix, table), *_list_variants(prefix, table)]
        read = [self._read_level(entry) for entry in entries]
        levels = self._add_base(table, [level for level in read if level is not None])
        if table.match is not None and self.base is not None:
            levels = [self._match(prefix, level, table.match, self.base) for level in levels]
        levels = self._drop_repeated(prefix, levels)
        self._check_labels(prefix, [level.label for level in levels])
        if "model.implementation" not in table.axes:
            self._check_implementations(prefix, [level.variant.model for level in levels])
        broken = [entry.label for entry, level in zip(entries, read, strict=True) if level is None]
        self._check_published(prefix, table, [*(level.label for level in levels), *broken])
        levels = [replace(level, published=table.published.get(level.label)) for level in levels]
        tuning, follows = read_study_tuning(self.variants, prefix, table.tune, self.tuning)
        tuned = tuple(tune_level(self.variants, prefix, level, tuning, follows) for level in levels)
        seeds = self._read_seeds(prefix, table)
        rounds = self.speed_rounds if table.speed_rounds is None else table.speed_rounds
        margin = (self.margin if table.margin is None else table.margin) or None
        if table.choose_on == "validation":
            self._check_validation(prefix, table, tuned)
        axes, source = tuple(table.axes), table.published_source
        return Study(name, table.question, axes, tuned, seeds, source, rounds, margin, table.choose_on)

    def _check_validation(self, prefix: str, table: StudyTable, levels: Sequence[Level]) -> None:
        """Report levels that cannot be compared on the same validation images, and published errors beside them."""
        where, given = f"{prefix}.choose_on", table.choose_on
        datasets = [self.variants.datasets[level.variant.data] for level in levels]
        if any(dataset is not None and not dataset.validation_images for dataset in datasets):
            self.findings.add(where, given, "needs validation images: give data.validation, for example 0.1")
        elif len({(level.variant.data.validation, level.variant.data.subset_seed) for level in levels}) > 1:
            self.findings.add(where, given, "needs the same validation images in all levels of the study")
        if table.published:
            self.findings.add(where, given, "shows no test errors, so published ones have nothing beside them")

    def _check_one_kind(self, prefix: str, table: StudyTable) -> None:
        named = bool(table.variant) or self.findings.has(f"{prefix}.variant")
        varied = bool(table.axes) or self.findings.has(*(f"{prefix}.{section}" for section in SECTIONS))
        if named == varied:
            rule = "needs either axes (model.KEY = [...]) or [[study.X.variant]], not both"
            self.findings.add(prefix, NOTHING, rule)

    def _read_level(self, entry: _Entry) -> Level | None:
        """Read the level of an entry. Returns None if it is not valid."""
        variant = self.variants.read(entry.where, entry.own)
        if variant is None:
            return None
        level = Level(entry.label, flatten(entry.own), variant, self.variants.are_equal(variant, self.base))
        if entry.match is not None and self.base is not None:
            level = match_level(self.variants, entry.where, level, entry.match, self.base)
        return None if self.findings.has(f"{entry.where}.name") else level

    def _match(self, prefix: str, level: Level, table: MatchTable, base: Variant) -> Level:
        """Apply the study's match to a level, except to the base and to levels with their own match."""
        if level.variant.model == base.model or level.match is not None:
            return level
        return match_level(self.variants, prefix, level, table, base)

    def _add_base(self, table: StudyTable, levels: list[Level]) -> list[Level]:
        """Return the levels with the base before them, unless one of them is the base."""
        if self.base is None or any(level.is_base for level in levels):
            return levels
        values = {path: value_of(self.base, path) for path in table.axes}
        label = "base" if not values or None in values.values() else _label(values)
        return [Level(label, values, self.base, is_base=True), *levels]

    def _drop_repeated(self, prefix: str, levels: Sequence[Level]) -> list[Level]:
        """Return the levels without repeated variants, which would be compared with themselves.

        Adds a note for each.
        """
        first: dict[str, Level] = {}
        for level in levels:
            kept = first.setdefault(self.variants.identify(level.variant), level)
            if kept is not level:
                note = f"{prefix}: level {level.label} is the same variant as level {kept.label} and counts once"
                self.findings.notes.append(note)
        return list(first.values())

    def _check_labels(self, prefix: str, labels: Sequence[str]) -> None:
        """Report labels that cannot be used to cite a level."""
        alike: dict[str, str] = {}
        counts = Counter(labels)
        for label in counts:
            first = alike.setdefault(unicodedata.normalize("NFC", " ".join(label.split())), label)
            if first != label:
                rule = f"differs from the level {first!r} only in spaces or in how its letters are encoded"
                self.findings.add(prefix, label, rule)
            try:
                check_label(label)
            except ValueError as error:
                self.findings.add(prefix, label, str(error))
            if counts[label] > 1:
                self.findings.add(prefix, label, "stands more than once in this study")

    def _check_implementations(self, prefix: str, models: Sequence[Config]) -> None:
        """Report networks that differ both in implementation and in other fields: their speeds cannot be compared."""
        fields = [model.model_dump(exclude={"checkpoint"}) for model in models if hasattr(model, "implementation")]
        ways = list(dict.fromkeys(each.pop("implementation") for each in fields))
        if len(ways) > 1 and any(each != fields[0] for each in fields):
            rule = f"its levels differ in implementation, {' and '.join(ways)}, and in other fields of the model: "
            rule += "give them one, or vary nothing else beside it but checkpoint"
            self.findings.add(prefix, NOTHING, rule)

    def _check_published(self, prefix: str, table: StudyTable, labels: Sequence[str]) -> None:
        """Report published errors without a level or without a source."""
        names = list(dict.fromkeys(labels))
        for label, error in table.published.items():
            if label not in names:
                rule = f"no such level{suggestion(label, names)}; the levels are {', '.join(names)}"
                self.findings.add(f"{prefix}.published.{quote(label)}", error, rule)
        known = self.findings.has(f"{prefix}.published", f"{prefix}.published_source")
        if bool(table.published) != bool(table.published_source) and not known:
            rule = "published and published_source belong together: errors in %, and where they stand"
            self.findings.add(f"{prefix}.published", NOTHING, rule)

    def _read_seeds(self, prefix: str, table: StudyTable) -> tuple[int, ...]:
        """Return the seeds of the study, limited to those of the command line if given, else those of the grid."""
        if table.seeds is None:
            return self.seeds
        own = read_seeds(self.findings, f"{prefix}.seeds", table.seeds)
        return own if self.asked is None else tuple(seed for seed in own if seed in self.asked) or self.seeds


def _list_products(prefix: str, table: StudyTable) -> Iterator[_Entry]:
    """Yield every combination of the levels of all axes."""
    for combination in itertools.product(*table.axes.values()) if table.axes else ():
        values = dict(zip(table.axes, combination, strict=True))
        yield _Entry(prefix, _label(values), split(values))


def _list_variants(prefix: str, table: StudyTable) -> Iterator[_Entry]:
    """Yield the levels that are declared by name."""
    for number, each in enumerate(table.variant):
        own = {section: getattr(each, section) for section in SECTIONS}
        yield _Entry(f"{prefix}.variant[{number}]", each.name, own, each.match)


def _label(values: TomlTable) -> str:
    """Return the label of a level, for example `12`, `8-16-32`, or `12, 0.5` for a product."""
    return " ".join(", ".join(map(level_text, values.values())).split())
