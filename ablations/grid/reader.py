"""A grid file becomes a Grid; every error is found, and all are told, before any work."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablations.config import DataConfig, TrainConfig, Tuning, Variant, identity, role_of, variant_fields
from ablations.data.dataset import DatasetInfo, load
from ablations.grid.matching import MATCHABLE, UNREACHABLE, nearest
from ablations.grid.model import SECTIONS, Grid, Level, Study, Table
from ablations.grid.problems import NOTHING, GridError, Problem, quoted
from ablations.metrics import MATCHED, level_text
from ablations.storage.manifest import Match
from densenet import PRESETS, Config, count_macs, count_params, model_family
from densenet.options import lookup, suggestion

STUDY_KEYS = ("question", "seeds", "tune", "match", "variant", "published", "published_source", *SECTIONS)


MAX_JOBS = 10_000
"""Jobs of one grid; a grid of more is refused unless --max-jobs is raised."""


DEEPEST = 32
"""Tables and lists within each other; what is valid has six."""


RESERVED = ("pareto", "overall")
"""Names of figures over all studies."""


LENGTH = ("warmup_epochs", "steps", "epochs", "batch_size", "last_batch")
"""Fields that decide how long a training is."""


UNTUNABLE = ("keep_weights", "checkpoint_seconds", "test_curve", "evaluation_interval")
"""Fields of a training that do not change its result."""


ALTERNATIVES = {"depth": "block_config", "block_config": "depth", "epochs": "steps", "steps": "epochs"}
"""Pairs of fields that say the same: one that is given replaces the other one where that is inherited."""


UNCITABLE = re.compile(r"[\\{}%#~^$<>]|--")
"""What would mean something else in LaTeX or in a comment: a level is cited by its label."""


def read(
    path: Path, settings: Sequence[str] = (), seeds: Sequence[int] | None = None, max_jobs: int = MAX_JOBS
) -> Grid:
    """The grid in a TOML file, with `section.key=value` settings laid over its base, and other seeds where given.

    Raises GridError with everything that is wrong; a grid of more jobs than `max_jobs` is.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark of its byte order
        table = tomllib.loads(text)
        _reasonable(table)
    except OSError as error:
        raise GridError(str(path), [Problem("file", NOTHING, error.strerror or "cannot be read")]) from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise GridError(str(path), [Problem("TOML", NOTHING, str(error))]) from None
    except RecursionError:
        raise GridError(str(path), [Problem("TOML", NOTHING, "nested too deeply")]) from None
    reader = _Reader(max_jobs, asked=None if seeds is None else tuple(seeds))
    for setting in settings:
        reader.apply(table, setting)
    if seeds is not None:
        table["seeds"] = list(seeds)
    grid = reader.grid(table, text)
    if grid is None or reader.problems:
        raise GridError(str(path), reader.problems)
    options = [part for setting in settings for part in ("--set", setting)]
    options += [] if seeds is None else ["--seeds", ",".join(map(str, seeds))]
    note = f"\n# Laid over this on the command line: {json.dumps(' '.join(options))}\n" if options else ""
    return replace(grid, text=text + note, options=tuple(options))


@dataclass
class _Reader:
    """Walks a parsed grid and collects problems instead of stopping at the first."""

    max_jobs: int = MAX_JOBS
    asked: tuple[int, ...] | None = None
    """Seeds of the command line, instead of the grid's."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    datasets: dict[DataConfig, DatasetInfo | None] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    """Sections of the base that are not valid."""

    tune_is_wrong: bool = False
    """Whether the grid has a table tune that is not valid."""

    def wrong(self, key: str, given: Any, rule: str) -> None:
        problem = Problem(key, given, rule)
        if str(problem) not in self.told:
            self.told.add(str(problem))
            self.problems.append(problem)

    def known(self, table: Table, prefix: str, allowed: Iterable[str]) -> None:
        """Reports every key of `table` that is not allowed."""
        names = list(allowed)
        for key in table:
            if key not in names:
                rule = f"unknown key{suggestion(key, names)}; allowed are {', '.join(names)}"
                self.wrong(f"{prefix}{quoted(key)}", table[key], rule)

    def subtable(self, table: Table, key: str, prefix: str = "") -> Table:
        """A table's table, empty where it is missing or something else, which is reported."""
        value = table.get(key, {})
        if isinstance(value, dict):
            return value
        self.wrong(f"{prefix}{key}", value, "must be a table")
        return {}

    def apply(self, table: Table, setting: str) -> None:
        """Lays `train.epochs=3` over the base."""
        path, equals, text = setting.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and section in (*SECTIONS, "tune") and key):
            rule = "must read model.KEY=VALUE, data.KEY=VALUE, train.KEY=VALUE or tune.KEY=VALUE"
            self.wrong(f"--set {setting}", NOTHING, rule)
            return
        try:
            (value,) = tomllib.loads(f"value = {text}").values()  # one line, and not more behind it
            _reasonable(value)
        except (ValueError, RecursionError):
            value = text.strip()
        if section == "tune":
            _set(table.setdefault("tune", {}), key, value)
            return
        base = table.setdefault("base", {})
        if isinstance(base, dict) and isinstance(base.setdefault(section, {}), dict):
            base[section] = _laid_over(base[section], {key: value})

    def grid(self, table: Table, text: str) -> Grid | None:
        self.known(table, "", ("title", "seeds", "time_limit", "tune", "base", "study"))
        title = self.text(table, "title")
        seeds = self.seeds("seeds", table.get("seeds", [0]))
        time_limit = self.time_limit(table.get("time_limit", 0.0))
        base_table = self.subtable(table, "base")
        self.known(base_table, "base.", SECTIONS)
        base_tables = {section: self.subtable(base_table, section, "base.") for section in SECTIONS}
        base = self.variant("base", base_tables, base_tables)
        study_tables = self.subtable(table, "study")
        if not study_tables:
            self.wrong("study", NOTHING, "a grid needs at least one study, for example [study.growth_rate]")
        tuning = self.tuning("tune", table["tune"], base_tables["train"]) if "tune" in table else None
        self.tune_is_wrong = "tune" in table and tuning is None
        if self.too_many(study_tables, len(seeds), base, table.get("tune")):
            return None
        studies = [self.study(name, value, base_tables, base, seeds, tuning) for name, value in study_tables.items()]
        found = tuple(study for study in studies if study is not None)
        self.seeds_apart(found, tuning)
        if self.problems or base is None:
            return None
        datasets = {config: dataset for config, dataset in self.datasets.items() if dataset is not None}
        base = replace(base, tuning=tuning)
        return Grid(title, seeds, base, found, datasets, text, tuple(self.notes), time_limit=time_limit)

    def text(self, table: Table, key: str, prefix: str = "") -> str:
        """A table's text in one line, empty where it is missing."""
        value = table.get(key, "")
        line = " ".join(value.split()) if isinstance(value, str) else ""
        if not isinstance(value, str) or not line.isprintable():
            self.wrong(f"{prefix}{key}", value, "must be text of printable characters")
        return line

    def time_limit(self, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            rule = "must be a number of seconds above 0 that one job may take in one go, or 0 for as long as it takes"
            self.wrong("time_limit", value, rule)
            return 0.0
        return float(value)

    def too_many(self, studies: Table, seeds: int, base: Variant | None, tune: Any) -> bool:
        """Whether there may be more jobs than are taken, counted before any study is expanded; reports it."""
        count = seeds + 1 + _trial_count(tune)  # the base's runs, its cost, and what chooses for it
        for table in studies.values():
            own = table if isinstance(table, dict) else {}
            runs = len(own["seeds"]) if isinstance(own.get("seeds"), list) else seeds
            count += _beside_base(table, base) * (runs + 1 + _trial_count(own.get("tune", tune)))
        if count > self.max_jobs:
            said = f"up to {count:,}" if count < 10**18 else "10^18 or more"  # of which Python may refuse to print all
            self.wrong("study", NOTHING, f"{said} jobs; at most {self.max_jobs:,} are taken, --max-jobs N lifts that")
        return count > self.max_jobs

    def seeds(self, where: str, value: Any) -> tuple[int, ...]:
        def is_seed(number: Any) -> bool:
            return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31

        if not isinstance(value, list) or not value or not all(map(is_seed, value)):
            self.wrong(where, value, "must be a list of whole numbers from 0 to 2147483647, at least one")
            return ()
        unique = tuple(dict.fromkeys(value))
        if len(unique) < len(value):
            self.notes.append(f"{where} are listed more than once and count once: {list(unique)}")
        return unique

    def published(self, prefix: str, table: Table, levels: Sequence[Level]) -> tuple[list[Level], str]:
        """The levels with the test errors in % that were published for them, and where these stand."""
        errors, source = (
            self.subtable(table, "published", f"{prefix}."),
            self.text(table, "published_source", f"{prefix}."),
        )
        labels = [level.label for level in levels]
        for label, error in errors.items():
            where = f"{prefix}.published.{quoted(label)}"
            if label not in labels:
                rule = f"no such level{suggestion(label, labels)}; the levels are {', '.join(labels)}"
                self.wrong(where, error, rule)
            elif not isinstance(error, int | float) or isinstance(error, bool) or not 0 <= error <= 100:
                self.wrong(where, error, "must be a test error in %, from 0 to 100")
        if bool(errors) != bool(source):
            rule = "published and published_source belong together: errors in %, and where they stand"
            self.wrong(f"{prefix}.published", NOTHING, rule)
        return [replace(level, published=errors.get(level.label)) for level in levels], source

    def study_seeds(self, prefix: str, table: Table, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """The seeds of a study: its own or the grid's; of its own, those that the command line asks for, if any."""
        if "seeds" not in table:
            return seeds
        own = self.seeds(f"{prefix}.seeds", table["seeds"])
        return own if self.asked is None else tuple(seed for seed in own if seed in self.asked) or seeds

    def tuning(self, prefix: str, table: Any, base: Table) -> Tuning | None:
        """A table `tune`: lists of `train.*` to choose from, and how. Each value is validated beside the base's."""
        if not isinstance(table, dict):
            self.wrong(prefix, table, "must be a table")
            return None
        before = len(self.problems)
        self.known(table, f"{prefix}.", ("train", "seeds", "validation"))
        fields = self.subtable(table, "train", f"{prefix}.")
        axes = {name: values for name, values in fields.items() if isinstance(values, list)}
        schedule = {name: value for name, value in fields.items() if name not in axes}
        for name in ("keep_weights", "test_curve"):
            if name in schedule:
                self.wrong(f"{prefix}.train.{name}", schedule[name], "a trial keeps no weights and has no test images")
        for name, values in axes.items():
            where = f"{prefix}.train.{quoted(name)}"
            if name in UNTUNABLE:
                self.wrong(where, values, "cannot be tuned: it does not change the result")
            if not values or any(values.count(value) > 1 for value in values):
                self.wrong(where, values, "must be a list of different values, at least one")
            for value in values:
                self.section(TrainConfig, f"{prefix}.train", _laid_over(base, {**schedule, name: value}), {name: value})
        self.section(TrainConfig, f"{prefix}.train", _laid_over(base, schedule), schedule)
        if math.prod(map(len, axes.values())) < 2:
            rule = "needs lists of train.* to choose from, two values or more in all: train.learning_rate = [0.03, 0.1]"
            self.wrong(prefix, NOTHING, rule)
        if "seeds" not in table:
            self.wrong(f"{prefix}.seeds", NOTHING, "is missing: seeds of the tuning's own, for example seeds = [100]")
        seeds = self.seeds(f"{prefix}.seeds", table["seeds"]) if "seeds" in table else ()
        validation = table.get("validation", 0)
        number = isinstance(validation, int | float) and not isinstance(validation, bool) and 0 < validation < math.inf
        if not number or (validation >= 1 and validation % 1):
            rule = "must be the images to choose on, cut from the training set: a share below 1, or a whole number"
            self.wrong(f"{prefix}.validation", table.get("validation", NOTHING), rule)
        if len(self.problems) > before:
            return None
        listed = tuple((name, tuple(values)) for name, values in axes.items())
        return Tuning(listed, seeds, float(validation), tuple(schedule.items()))

    def study_tuning(self, prefix: str, table: Table, tuning: Tuning | None, base: Table) -> tuple[Tuning | None, bool]:
        """How a study's levels are tuned, and whether they follow the base."""
        own = table.get("tune", tuning)
        if own is tuning or own is False or (own == "base" and self.tune_is_wrong):
            return tuning if own is tuning else None, False
        if isinstance(own, dict):
            return self.tuning(f"{prefix}.tune", own, base), False
        if own != "base" or tuning is None:
            rule = "must be a table as [tune], or false for a study that is not tuned"
            also = ', or, in a grid that has [tune], "base" for one that takes what is chosen for the base'
            self.wrong(f"{prefix}.tune", own, rule + also)
        return tuning, True

    def tuned(self, prefix: str, level: Level, tuning: Tuning | None, follows: bool) -> Level:
        """The level as one that is tuned, or follows the base; reports what cannot be."""
        if tuning is None:
            return level
        chosen = [name for name, _ in tuning.axes]
        chosen += [ALTERNATIVES[name] for name in chosen if name in ALTERNATIVES]
        fixed = [name for name, _ in tuning.schedule if name not in ("epochs", "steps")]  # trials may be shorter
        for name in (each for each in (*chosen, *fixed) if f"train.{each}" in level.values):
            does = "chooses" if name in chosen else "fixes for its trials"
            rule = f"level {level.label} sets what tune {does}: give the study tune = false, or a tune of its own"
            self.wrong(f"{prefix}.train.{name}", level.values[f"train.{name}"], rule)
            return level
        for candidate in tuning.candidates():
            try:
                trained = (tuning.trial(level.variant, candidate), level.variant.settled(candidate))
            except ValidationError as error:
                for detail in error.errors():
                    rule = _explain("train", detail, TrainConfig)[2]
                    self.wrong(f"{prefix} {level.label}, tuned with {candidate}", NOTHING, rule)
                return level
            for each, fields in zip(trained, ({**dict(tuning.schedule), **candidate}, candidate), strict=True):
                dataset = self.dataset(f"{prefix}, tuned", each.data)
                if dataset is None or not self.length(f"{prefix}.tune.train", each.train, fields, fields, dataset):
                    return level
        variant = replace(level.variant, tuning=tuning, follows_base=follows and not level.is_base)
        return replace(level, variant=variant)

    def seeds_apart(self, studies: Sequence[Study], common: Tuning | None) -> None:
        """Reports seeds that are both tuned and reported: a lucky seed would be chosen and then reported."""
        reported = {seed for study in studies for seed in study.seeds}
        for study in studies:
            for tuning in dict.fromkeys(level.variant.tuning for level in study.levels):
                both = sorted(reported & set(tuning.seeds)) if tuning is not None else []
                if both:
                    rule = f"study {study.name} is tuned with seeds that are reported too: give the tuning others"
                    self.wrong("tune.seeds" if tuning == common else f"study.{study.name}.tune.seeds", both, rule)
        if common is not None and not any(level.variant.tuning == common for each in studies for level in each.levels):
            self.notes.append("no study is tuned as [tune] says: each has a tune of its own, or tune = false")

    def variant(self, prefix: str, tables: dict[str, Table], own: dict[str, Table]) -> Variant | None:
        """Validates the three sections; reports problems of `own` keys only, the rest belongs to the base."""
        model = self.model(f"{prefix}.model", tables["model"], own["model"])
        data = self.section(DataConfig, f"{prefix}.data", tables["data"], own["data"])
        train = self.section(TrainConfig, f"{prefix}.train", tables["train"], own["train"])
        dataset = self.dataset(f"{prefix}.data", data) if isinstance(data, DataConfig) else None
        if model is None or dataset is None:
            return None
        model = self.fit(f"{prefix}.model", model, tables["model"], own["model"], dataset)
        if not isinstance(data, DataConfig) or not isinstance(train, TrainConfig):
            return None
        fits = self.length(f"{prefix}.train", train, tables["train"], own["train"], dataset)
        return Variant(model, data, train) if fits else None

    def length(self, prefix: str, train: TrainConfig, table: Table, own: Table, dataset: DatasetInfo) -> bool:
        """Whether there are steps at all, and more of them than of the warm-up; reports what is wrong."""
        count = dataset.train_images
        key = next((key for place in (own, table) for key in LENGTH if key in place), "")
        where = f"{prefix if key in own else 'base.train'}.{key}" if key else prefix
        given = table.get(key, NOTHING)
        per_epoch = train.steps_per_epoch(count)
        if not per_epoch:
            rule = f"{dataset.label} has {count} training images, fewer than batch_size = {train.batch_size}, and"
            self.wrong(where, given, f'{rule} last_batch = "drop" drops them all')
            return False
        epochs = train.total_steps(count) / per_epoch
        if train.warmup_epochs >= epochs:
            self.wrong(where, given, f"warmup_epochs = {train.warmup_epochs:g} must be below epochs = {epochs:g}")
        return train.warmup_epochs < epochs

    def model(self, prefix: str, table: Table, own: Table) -> Config | None:
        """The model of a table, from its preset where it names one."""
        preset, family = table.get("preset"), _family(table)
        start: Table = {"family": family}
        try:
            key = "preset"
            if preset is not None:
                published = lookup("preset", str(preset), PRESETS)
                start = {**published.model_dump(exclude_defaults=True), "family": getattr(published, "family", "")}
            key = "family"
            config_class = model_family(str(family))[0]
        except ValueError as error:
            if key in own:
                self.wrong(f"{prefix}.{key}", table[key], str(error))
            return None
        if family != start["family"]:
            self.wrong(f"{prefix}.family", family, f"preset {preset!r} is a {start['family']}; leave the family out")
            return None
        fields = {key: value for key, value in table.items() if key != "preset"}
        return self.section(config_class, prefix, _laid_over(start, fields), own)

    def section(self, config_class: type[Config], prefix: str, table: Table, own: Table) -> Config | None:
        try:
            return config_class.model_validate(table)
        except ValidationError as error:
            place, _, section = prefix.rpartition(".")
            details = error.errors()
            mine = [detail for detail in details if _is_of(own, detail)]
            # the base's errors are reported once, with the base; here only this level's, or those that nobody reported
            for detail in mine or (() if section in self.broken else details):
                self.wrong(*_explain(prefix, detail, config_class))
            if place == "base":
                self.broken.add(section)
            return None

    def dataset(self, prefix: str, config: DataConfig) -> DatasetInfo | None:
        """Loads each data set once, however it is augmented: what is missing or damaged is a problem of the grid."""
        if config not in self.datasets:
            images = config.model_copy(update={"augmentation": "none", "cutout_size": 16})
            try:
                self.datasets[config] = self.datasets[images] if images in self.datasets else load(images).info
            except Exception as error:  # whatever a damaged file, or a shape beyond all memory, may raise
                said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                self.wrong(prefix, NOTHING, said)
                self.datasets[config] = None
        return self.datasets[config]

    def fit(self, prefix: str, model: Config, table: Table, own: Table, dataset: DatasetInfo) -> Config:
        """The model with the data's channels and classes."""
        given = {"in_channels": dataset.channels, "num_classes": dataset.num_classes}
        for key, value in given.items():
            if table.get(key, value) != value:
                where = prefix if key in own else "base.model"
                self.wrong(f"{where}.{key}", table[key], f"{dataset.label} has {value}; leave it out, the data says it")
        smallest = getattr(model, "smallest_image", 1)
        if min(dataset.image_size) < smallest:
            height, width = dataset.image_size
            need = f"this network needs images of at least {smallest} x {smallest} pixels"
            rule = f"{need}; those of {dataset.label} have {height} x {width}"
            self.wrong(prefix if own else "base.model", NOTHING, rule)
        try:
            return type(model).model_validate({**model.model_dump(), **given})
        except ValidationError as error:
            for detail in error.errors():
                key = str(detail["loc"][0]) if detail["loc"] else ""
                rule = f"{dataset.label} has {key} = {given.get(key)}, which this network does not take"
                self.wrong(prefix, NOTHING, f"{rule}: {_explain(prefix, detail, type(model))[2]}")
            return model

    def study(
        self,
        name: str,
        table: Any,
        base_tables: dict[str, Table],
        base: Variant | None,
        seeds: tuple[int, ...],
        tuning: Tuning | None,
    ) -> Study | None:
        prefix = f"study.{quoted(name)}"
        if name.lower() in RESERVED:
            self.wrong(
                prefix, NOTHING, f"this name is taken by a figure or a table over all studies: {', '.join(RESERVED)}"
            )
            return None
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            self.wrong(prefix, NOTHING, "a study's name is 1 to 64 letters, digits, '_' and '-': it names files")
            return None
        if not isinstance(table, dict):
            self.wrong(prefix, table, "must be a table")
            return None
        self.known(table, f"{prefix}.", STUDY_KEYS)
        question = self.text(table, "question", f"{prefix}.")
        axes = {
            f"{section}.{key}": values
            for section in SECTIONS
            for key, values in self.subtable(table, section, f"{prefix}.").items()
        }
        if ("variant" in table) == bool(axes):
            self.wrong(prefix, NOTHING, "needs either axes (model.KEY = [...]) or [[study.X.variant]], not both")
        levels = self.axis_levels(prefix, axes, base_tables, base) if axes else []
        if "variant" in table:
            levels += self.named_levels(prefix, table["variant"], base_tables, base)
        if base is not None and not any(level.is_base for level in levels):
            values = {path: _value(base, path) for path in axes}
            label = "base" if not axes or None in values.values() else _label(values)
            levels.insert(0, Level(label, values, base, is_base=True))
        if "match" in table and base is not None:
            levels = [self.study_match(prefix, level, table["match"], base) for level in levels]
        levels = self.once(prefix, levels)
        self.labels(prefix, [level.label for level in levels])
        if "model.implementation" not in axes:
            self.one_implementation(prefix, [level.variant.model for level in levels])
        levels, source = self.published(prefix, table, levels)
        chosen, follows = self.study_tuning(prefix, table, tuning, base_tables["train"])
        tuned = tuple(self.tuned(prefix, level, chosen, follows) for level in levels)
        return Study(name, question, tuple(axes), tuned, self.study_seeds(prefix, table, seeds), source)

    def identity(self, variant: Variant) -> str:
        """Equal for variants that are trained alike, wherever their data lies and whatever is kept of them."""
        dataset = self.datasets[variant.data]
        return identity(variant_fields(variant, dataset.checksum if dataset else ""))

    def is_base(self, variant: Variant, base: Variant | None) -> bool:
        return base is not None and (variant == base or self.identity(variant) == self.identity(base))

    def once(self, prefix: str, levels: Sequence[Level]) -> list[Level]:
        """The first of those levels that are one variant, which would be compared with itself; notes the others."""
        first: dict[str, Level] = {}
        for level in levels:
            kept = first.setdefault(self.identity(level.variant), level)
            if kept is not level:
                self.notes.append(
                    f"{prefix}: level {level.label} is the same variant as level {kept.label} and counts once"
                )
        return list(first.values())

    def labels(self, prefix: str, labels: Sequence[str]) -> None:
        """Reports labels by which a level cannot be cited."""
        counts = Counter(labels)
        for label in counts:
            if not 0 < len(label) <= 200 or not label.isprintable():
                self.wrong(prefix, label, "a level's label has 1 to 200 printable characters")
            if UNCITABLE.search(label):
                rule = r"a level's label, by which it is cited, has none of \ { } % # ~ ^ $ < > and --"
                self.wrong(prefix, label, rule)
            if counts[label] > 1:
                self.wrong(prefix, label, "stands more than once in this study")

    def one_implementation(self, prefix: str, models: Sequence[Config]) -> None:
        """Reports networks that differ in how they are computed and in what: their speed would speak of neither."""
        fields = [model.model_dump(exclude={"checkpoint"}) for model in models if hasattr(model, "implementation")]
        ways = list(dict.fromkeys(each.pop("implementation") for each in fields))
        if len(ways) > 1 and any(each != fields[0] for each in fields):
            rule = f"its levels differ in implementation, {' and '.join(ways)}, and in other fields of the model: "
            self.wrong(prefix, NOTHING, f"{rule}give them one, or vary nothing else beside it but checkpoint")

    def axis_levels(
        self, prefix: str, axes: dict[str, Any], base_tables: dict[str, Table], base: Variant | None
    ) -> list[Level]:
        broken = {path: values for path, values in axes.items() if not isinstance(values, list) or not values}
        for path, values in broken.items():
            section, _, key = path.partition(".")
            self.wrong(f"{prefix}.{section}.{quoted(key)}", values, "an axis is a list of levels, at least one")
        if broken:
            return []
        levels = []
        for combination in itertools.product(*axes.values()):
            values = dict(zip(axes, combination, strict=True))
            own: dict[str, Table] = {section: {} for section in SECTIONS}
            for path, value in values.items():
                section, _, key = path.partition(".")
                own[section][key] = value
            variant = self.variant(prefix, _inherit(base_tables, own), own)
            if variant is not None:
                levels.append(Level(_label(values), values, variant, self.is_base(variant, base)))
        return levels

    def named_levels(
        self, prefix: str, entries: Any, base_tables: dict[str, Table], base: Variant | None
    ) -> list[Level]:
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            self.wrong(f"{prefix}.variant", NOTHING, f"must be tables, each headed [[{prefix}.variant]]")
            return []
        levels = []
        for number, entry in enumerate(entries):
            where = f"{prefix}.variant[{number}]"
            self.known(entry, f"{where}.", ("name", "match", *SECTIONS))
            name = entry.get("name")
            if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
                self.wrong(f"{where}.name", name, "a variant needs a name of 1 to 100 printable characters")
            own = {section: self.subtable(entry, section, f"{where}.") for section in SECTIONS}
            variant = self.variant(where, _inherit(base_tables, own), own)
            if variant is None:
                continue
            level = Level(str(name), _flatten(own), variant, self.is_base(variant, base))
            if "match" in entry and base is not None:
                level = self.match(where, level, entry["match"], base)
            levels.append(level)
        return levels

    def study_match(self, prefix: str, level: Level, table: Any, base: Variant) -> Level:
        """A study's match, for each level but the base and those that have one of their own."""
        if level.variant.model == base.model or level.match is not None:
            return level
        return self.match(prefix, level, table, base)

    def match(self, where: str, level: Level, table: Any, base: Variant) -> Level:
        """Solves `match.params = "model.FIELD"`, or `match.macs`."""
        fields = {key: value for key, value in table.items() if key != "target"} if isinstance(table, dict) else {}
        measure, path = next(iter(fields.items())) if len(fields) == 1 else ("", None)
        stated = table.get("target") if isinstance(table, dict) else None
        whole = stated is None or (isinstance(stated, int) and not isinstance(stated, bool) and stated > 0)
        if measure not in MATCHED or not isinstance(path, str) or not whole:
            rule = 'must read match.params = "model.FIELD" or match.macs = "model.FIELD"'
            self.wrong(
                f"{where}.match",
                table,
                f"{rule}, and may have match.target, a whole number above 0 instead of the base's",
            )
            return level
        section, _, key = path.partition(".")
        model = level.variant.model
        numbers = [name for name in MATCHABLE if name in type(model).model_fields]
        if section != "model" or key not in numbers:
            allowed = ", ".join(f"model.{name}" for name in numbers) or "none: it has no such field"
            self.wrong(f"{where}.match.{measure}", path, f"must name a number of this model; allowed are {allowed}")
            return level
        if path in level.values:
            self.wrong(f"{where}.{path}", level.values[path], f"match solves {path}: leave one of them out")

        def count(config: Config, data: DataConfig = level.variant.data) -> int:
            dataset = self.datasets[data]
            if measure == "params" or dataset is None:
                return count_params(config)
            return count_macs(config, dataset.image_size)

        try:
            target = count(base.model, base.data) if stated is None else int(stated)
            solved, reached = nearest(model, key, target, count)
        except Exception as error:  # whatever a network written elsewhere may raise
            self.wrong(f"{where}.match.{measure}", path, f"cannot be counted: {type(error).__name__}: {error}")
            return level
        value, name = getattr(solved, key), MATCHED[measure]
        off = 100 * (reached - target) / target
        if abs(off) > UNREACHABLE:
            rule = f"{target:,} {name} are out of reach; {path} = {value} comes nearest, with {reached:,}"
            self.wrong(f"{where}.match.{measure}", path, rule)
        elif abs(off) > 1:
            self.notes.append(
                f"{level.label}: {path} = {value} comes nearest, with {reached:,} {name}, {off:+.1f} % off"
            )
        values = {**level.values, path: value}
        variant = replace(level.variant, model=solved)
        match = Match.model_validate(
            {"measure": measure, "field": path, "value": value, "target": target, "reached": reached}
        )
        return Level(level.label, values, variant, self.is_base(variant, base), match)


def _set(table: Any, path: str, value: Any) -> None:
    """Lays `train.epochs` or `validation` over a table; one that is none is left to be reported."""
    *outer, key = path.split(".")
    for name in outer:
        table = table.setdefault(name, {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(ALTERNATIVES.get(key), None)
        table[key] = value


def _trial_count(tune: Any) -> int:
    """How many trainings choose for one variant, by a table `tune`; 0 for anything else."""
    if not isinstance(tune, dict) or not isinstance(tune.get("train"), dict):
        return 0
    seeds = tune["seeds"] if isinstance(tune.get("seeds"), list) else [0]
    return len(seeds) * math.prod(len(values) for values in tune["train"].values() if isinstance(values, list))


def _beside_base(table: Any, base: Variant | None) -> int:
    """How many variants a study's table adds to the base, at most."""
    if not isinstance(table, dict):
        return 0
    entries = table["variant"] if isinstance(table.get("variant"), list) else []
    named = sum(entry.keys() != {"name"} for entry in entries if isinstance(entry, dict))
    tables = {section: table[section] for section in SECTIONS if isinstance(table.get(section), dict)}
    axes = {path: values for path, values in _flatten(tables).items() if isinstance(values, list)}
    if not axes:
        return named
    there = base is not None and all(_listed(_value(base, path)) in values for path, values in axes.items())
    return named + math.prod(map(len, axes.values())) - there


def _reasonable(value: Any, depth: int = 0) -> None:
    """Raises ValueError for what nothing here can mean, and Python refuses to print: a huge number, or deep nesting."""
    if depth > DEEPEST:
        raise ValueError(f"nested too deeply; at most {DEEPEST} levels are taken")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _reasonable(inner, depth + 1)
    elif isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"a whole number of {value.bit_length()} bits; at most 64 are taken")


def _family(table: Table) -> Any:
    """The family that a model's table names, by itself or by its preset."""
    return table.get("family", getattr(PRESETS.get(str(table.get("preset"))), "family", "densenet"))


def _inherit(base: dict[str, Table], own: dict[str, Table]) -> dict[str, Table]:
    """A variant's tables: the base's with its own laid over.

    Another family, preset or network of torchvision starts from its own defaults, another data set from its own place.
    """
    tables = {section: _laid_over(base[section], own[section]) for section in SECTIONS}
    there, here = base["model"], own["model"]
    if "preset" in here or here.get("family", _family(there)) != _family(there):
        tables["model"] = here
    elif _family(there) == "torchvision" and here.get("name", there.get("name")) != there.get("name"):
        tables["model"] = {"family": "torchvision", **here}
    if own["data"].get("name", base["data"].get("name")) != base["data"].get("name"):
        own_fields = {name for name in DataConfig.model_fields if role_of(DataConfig, name).only}
        common = {key: value for key, value in base["data"].items() if key != "root" and key not in own_fields}
        tables["data"] = {**common, **own["data"]}
    return tables


def _laid_over(lower: Table, upper: Table) -> Table:
    """Both tables' keys, the upper one's where both have one or an alternative of one."""
    replaced = {ALTERNATIVES.get(key) for key in upper}
    return {**{key: value for key, value in lower.items() if key not in replaced}, **upper}


def _flatten(tables: dict[str, Table]) -> Table:
    return {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}


def _value(variant: Variant, path: str) -> Any:
    """A field of a variant, None where it has no such field."""
    section, _, key = path.partition(".")
    config = getattr(variant, section)
    return {**vars(config), **(config.model_extra or {})}.get(key)


def _listed(value: Any) -> Any:
    """The value as TOML would give it."""
    return list(value) if isinstance(value, tuple) else value


def _label(values: Table) -> str:
    """`12`, `8-16-32`, or `12, 0.5` for a product."""
    return ", ".join(map(level_text, values.values()))


def _is_of(own: Table, detail: Any) -> bool:
    """Whether a pydantic error is one of these keys, or of one that their family lacks."""
    if not detail["loc"]:
        return bool(own)
    return detail["loc"][0] in own or (detail["type"] == "missing" and "family" in own)


def _explain(prefix: str, detail: Any, config_class: type[Config]) -> tuple[str, Any, str]:
    """A pydantic error as key, given value and rule."""
    key, *inner = detail["loc"] or ("",)
    # what else is in the path is pydantic's name of a kind of value
    path = (f".{quoted(key)}" if detail["loc"] else "") + "".join(
        f"[{part}]" for part in inner if isinstance(part, int)
    )
    given, rule = detail["input"], str(detail["msg"])
    if detail["type"] == "extra_forbidden":
        names = list(config_class.model_fields)
        rule = f"unknown key{suggestion(str(detail['loc'][-1]), names)}; allowed are {', '.join(names)}"
    elif detail["type"] == "literal_error" and isinstance(given, str):
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        rule += suggestion(given, choices)
    elif detail["type"] == "tuple_type":
        rule = "should be a list; as one level of an axis, a list in the list: [[3, 3, 3]]"
    elif detail["type"] == "value_error":
        rule = rule.removeprefix("Value error, ")
    absent = not detail["loc"] or detail["type"] == "missing"
    return prefix + path, NOTHING if absent else given, rule.replace("Input should", "should")
