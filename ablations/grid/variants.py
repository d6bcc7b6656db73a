"""Converts the tables of a grid to variants: inheritance, presets, data, and checks that the parts fit together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ablations.config import DataConfig, TrainConfig, Variant, identity, role_of, variant_fields
from ablations.data.dataset import DatasetInfo, load
from ablations.grid.model import SECTIONS, TomlTable
from ablations.grid.probing import check_own_network, find_ignored, refuse_one_image, refuse_parts
from ablations.grid.problems import NOTHING, Findings, describe, quote
from ablations.metrics import count_of
from densenet import MODELS, PRESETS, Config, list_arguments, list_unknown_weights, model_family
from densenet.options import lookup

Tables = dict[str, TomlTable]
"""The tables model, data and train."""

AnyConfig = TypeVar("AnyConfig", bound=Config)

LENGTH = ("warmup_epochs", "steps", "epochs", "batch_size", "last_batch")
"""Fields that decide how long a training is."""

EVALUATION_BATCHES = (64, 512)
"""Images per batch of an evaluation, on a CPU and on CUDA."""

ALTERNATIVES = {"depth": "block_config", "block_config": "depth", "epochs": "steps", "steps": "epochs"}
"""Pairs of fields with the same meaning: a given one replaces an inherited other one."""


@dataclass
class VariantReader:
    """Reads variants that inherit from one base, and loads each data set once."""

    findings: Findings
    base: Tables
    place: str = "base"
    """The base's place in the file."""

    datasets: dict[DataConfig, DatasetInfo | None] = field(default_factory=dict)
    """The value is None if the data set cannot be loaded."""

    broken: set[str] = field(default_factory=set)
    """Sections of the base that are not valid."""

    refusals: dict[tuple[str, tuple[int, int], str], str] = field(default_factory=dict)
    """Why a network takes no batch of one image in training or test, or is refused, by network and image size."""

    def rebase(self, place: str, own: Tables) -> VariantReader:
        """Returns a reader of variants that inherit from a changed base."""
        return replace(self, base=inherit(self.base, own), place=place, broken=set())

    def read(self, prefix: str, own: Tables) -> Variant | None:
        """Reads the variant that has these tables over the base's. Returns None if it is not valid.

        A problem that lies only in inherited fields is reported once, with the base, and not again for every level.
        """
        tables = inherit(self.base, own)
        self._tell_left_out(prefix, tables["model"], own["model"])
        model = self._read_model(f"{prefix}.model", tables["model"], own["model"])
        data = self.check(DataConfig, f"{prefix}.data", tables["data"], own["data"])
        train = self.check(TrainConfig, f"{prefix}.train", tables["train"], own["train"])
        dataset = self.load(f"{prefix}.data", data) if data is not None else None
        if model is None or data is None or dataset is None:
            return None
        model = self._fit(f"{prefix}.model", model, tables["model"], own["model"], dataset)
        where = f"{prefix if own['model'] or 'loss' in own['train'] else self.place}.model"
        self._check_network(where, model, dataset, str(tables["train"].get("loss")))
        self._tell_unknown_weights(prefix, model, own["model"])
        if train is None or not self.check_length(f"{prefix}.train", train, tables["train"], own["train"], dataset):
            return None
        if not self.check_batches(f"{prefix if own['train'] else self.place}.train", model, train, dataset):
            return None
        variant = Variant(model, data, train)
        return variant if self._check_parts(prefix, variant, own, dataset) else None

    def _check_parts(self, prefix: str, variant: Variant, own: Tables, dataset: DatasetInfo) -> bool:
        """Returns whether the parts of the user's work. Reports those that do not, once for each place."""
        shape, steps = (dataset.channels, *dataset.image_size), variant.train.total_steps(dataset.train_images)
        problems = refuse_parts(variant, shape, dataset.num_classes, steps)
        for path, reason in problems.items():
            section, _, key = path.partition(".")
            where = f"{prefix if key in own[section] else self.place}.{path}"
            if not self.findings.has(where):
                self.findings.add(where, getattr(getattr(variant, section), key), reason)
        return not problems

    def _tell_left_out(self, prefix: str, model: TomlTable, own: TomlTable) -> None:
        """Adds a note on the fields of the base's network that a network of another family does not take."""
        stated = _expand(self.base["model"])
        left = [key for key in stated if key not in model and ALTERNATIVES.get(key) not in model]
        if left and "preset" not in own and _family(own) != _family(self.base["model"]) and "family" in own:
            said = f"{own['family']} does not take {', '.join(left)} of the base: it has its own defaults"
            self.findings.notes.append(f"{prefix}: {said}")

    def _tell_unknown_weights(self, prefix: str, model: Config, own: TomlTable) -> None:
        """Adds a note on trained weights of which no run knows the file."""
        for name in list_unknown_weights(model):
            if name in own or "family" in own:
                said = "asks for trained weights, but not for a certain file, so no file is part of a run's identity"
                advice = "name torchvision's weights in full (ResNet18_Weights.IMAGENET1K_V1), or a file of your own"
                self.findings.notes.append(f"{prefix}.model.{name} {said}. To change that, {advice}")

    def check(self, kind: type[AnyConfig], prefix: str, table: TomlTable, own: TomlTable) -> AnyConfig | None:
        """Returns the configuration of a table, where `own` are the keys of this level; None if it is not valid."""
        try:
            return kind.model_validate(table)
        except ValidationError as error:
            place, _, section = prefix.rpartition(".")
            details = error.errors()
            mine = [detail for detail in details if _is_of(own, detail)]
            # errors of the base are reported once, with the base: here only those of this level, or new ones
            for detail in mine or (() if section in self.broken else details):
                self._report(prefix, detail, kind)
            if place == self.place:
                self.broken.add(section)
            return None

    def _report(self, prefix: str, detail: ErrorDetails, kind: type[Config]) -> None:
        key, *inner = detail["loc"] or ("",)
        # the other parts of the path are pydantic's names for kinds of values
        numbers = "".join(f"[{part}]" for part in inner if isinstance(part, int))
        path = f"{prefix}.{quote(str(key))}{numbers}" if detail["loc"] else prefix
        absent = not detail["loc"] or detail["type"] == "missing"
        rule, inherited = describe(detail, kind.model_fields), f"{self.place}.{prefix.rpartition('.')[2]}"
        if not any((each.key, each.rule) == (inherited, rule) for each in self.findings.problems.values()):
            self.findings.add(path, NOTHING if absent else detail["input"], rule)

    def _read_model(self, prefix: str, table: TomlTable, own: TomlTable) -> Config | None:
        """Reads the model of a table, starting from its preset if it names one."""
        preset, family = table.get("preset"), _family(table)
        start: TomlTable = {"family": family}
        try:
            key = "preset"
            if preset is not None:
                published = lookup("preset", str(preset), PRESETS)
                start = {**published.model_dump(exclude_defaults=True), "family": getattr(published, "family", "")}
            key = "family"
            kind = model_family(str(family))[0]
        except ValueError as error:
            if key in own:
                self.findings.add(f"{prefix}.{key}", table[key], str(error))
            return None
        if family != start["family"]:
            rule = f"preset {preset!r} is a {start['family']}; leave the family out"
            self.findings.add(f"{prefix}.family", family, rule)
            return None
        fields = {key: value for key, value in table.items() if key != "preset"}
        for key in own:
            if not key.isprintable():
                self.findings.add(f"{prefix}.{quote(key)}", own[key], "a key has printable characters alone")
                return None
        return self.check(kind, prefix, lay_over(start, fields), own)

    def load(self, prefix: str, config: DataConfig) -> DatasetInfo | None:
        """Loads a data set once for all augmentations. Reports one that is missing or damaged."""
        if config not in self.datasets:
            images = config.model_copy(update={"augmentation": "none", "cutout_size": 16})
            try:
                info = self.datasets[images] if images in self.datasets else load(images).info
                self.datasets[config] = info
                self.findings.notes += [note for note in info.notes if note not in self.findings.notes] if info else []
            except Exception as error:  # a damaged file or a huge shape may raise anything
                said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                self.findings.add(prefix, NOTHING, said)
                self.datasets[config] = None
        return self.datasets[config]

    def _fit(self, prefix: str, model: Config, table: TomlTable, own: TomlTable, dataset: DatasetInfo) -> Config:
        """Returns the model with the channels and classes of the data. Reports what does not fit."""
        given = {"in_channels": dataset.channels, "num_classes": dataset.num_classes}
        for key, value in given.items():
            if table.get(key, value) != value:
                where = f"{prefix if key in own else f'{self.place}.model'}.{key}"
                self.findings.add(where, table[key], f"{dataset.label} has {value}; leave it out, the data says it")
        smallest = getattr(model, "smallest_image", 1)
        if min(dataset.image_size) < smallest:
            height, width = dataset.image_size
            need = f"this network needs images of at least {smallest} x {smallest} pixels"
            rule = f"{need}; those of {dataset.label} have {height} x {width}"
            self.findings.add(prefix if own else f"{self.place}.model", NOTHING, rule)
        try:
            return type(model).model_validate({**model.model_dump(), **given})
        except ValidationError as error:
            for detail in error.errors():
                key = str(detail["loc"][0]) if detail["loc"] else ""
                rule = f"{dataset.label} has {key} = {given.get(key)}, which this network does not take"
                self.findings.add(prefix, NOTHING, f"{rule}: {describe(detail, type(model).model_fields)}")
            return model

    def _check_network(self, where: str, model: Config, dataset: DatasetInfo, loss: str) -> None:
        """Reports a network of the user's that would be trained, but not as it seems to."""
        key = (model.model_dump_json(), dataset.image_size, f"own, {loss}")
        if key not in self.refusals:
            self._tell_ignored(where, model)
            try:
                check_own_network(model, dataset.image_size, loss)
                self.refusals[key] = ""
            except ValueError as error:
                self.refusals[key] = str(error)
        if self.refusals[key] and not self.findings.has(where):
            self.findings.add(where, NOTHING, self.refusals[key])

    def _tell_ignored(self, where: str, model: Config) -> None:
        """Adds notes on arguments that a user's network ignores: those for channels and classes, and others."""
        ignored, sizes = find_ignored(model), {getattr(model, each, "") for each in ("channels_as", "classes_as")}
        family = getattr(model, "family", "")
        if counted := " and ".join(name for name in ignored if name in sizes):
            said = f"{family} ignores {counted}: its network is the same for another number. "
            said += (
                "channels_as and classes_as name its arguments for channels and classes; channels_as = '' means none"
            )
            self.findings.notes.append(f"{where}: {said}")
        for name in (name for name in ignored if name not in sizes):
            said = f"{family} takes {name}, and has the same layers and params without it: is the name right?"
            self.findings.notes.append(f"{where}: {said}")

    def check_length(
        self, prefix: str, train: TrainConfig, table: TomlTable, own: TomlTable, dataset: DatasetInfo
    ) -> bool:
        """Returns whether the training has steps, and more epochs than its warm-up. Reports problems."""
        count = dataset.train_images
        key = next((key for place in (own, table) for key in LENGTH if key in place), "")
        where = f"{prefix if key in own else f'{self.place}.train'}.{key}" if key else prefix
        given = table.get(key, NOTHING)
        per_epoch = train.steps_per_epoch(count)
        if not per_epoch:
            rule = f"{dataset.label} has {count} training images, fewer than batch_size = {train.batch_size}, and"
            self.findings.add(where, given, f'{rule} last_batch = "drop" drops them all')
            return False
        epochs = train.total_steps(count) / per_epoch
        if train.warmup_epochs >= epochs:
            rule = f"warmup_epochs = {train.warmup_epochs:g} must be below epochs = {epochs:g}"
            self.findings.add(where, given, rule)
        return train.warmup_epochs < epochs

    def check_batches(self, where: str, model: Config, train: TrainConfig, dataset: DatasetInfo) -> bool:
        """Returns whether the network takes each batch of its training and its tests, or each process's share of it.

        Reports one of a single image, and one of no image.
        """
        count, size, processes = dataset.train_images, train.batch_size, train.processes
        reached = train.total_steps(count) >= train.steps_per_epoch(count)
        rest = count % size if train.last_batch == "keep" and reached else 0
        tests = [images for images in (dataset.validation_images, dataset.test_images) if images]
        key, given, rule = where, NOTHING, ""
        small, left = size // processes == 1, 0 < rest // processes < 2
        whom = "one" if processes == 1 else "a process one"
        if 0 < rest < processes:
            key, given = f"{where}.processes", processes
            rule = f"the last batch of an epoch has {count_of(rest, 'image')}, and each process takes one or more: "
            rule += 'give train.last_batch = "drop", or another train.batch_size'
        elif train.batch_norm == "all" and getattr(model, "implementation", "") == "normalize-once":
            key, given = f"{where}.batch_norm", train.batch_norm
            rule = "normalize-once has the statistics of its process's share: "
            rule += 'give train.batch_norm = "share", or model.implementation = "textbook"'
        elif (small or left) and (reason := self._try_one_image(model, dataset.image_size, training=True)):
            key, given = (f"{where}.batch_size", size) if small else (f"{where}.last_batch", train.last_batch)
            rule = f"this network cannot be trained on one image ({reason})"
            if small:
                rule += f", and batches of {size} give {whom}" * (processes > 1) + f": give {2 * processes} or more"
            else:
                rule += f", and {count:,} images in batches of {size} leave {whom} for the last batch: "
                rule += 'give train.last_batch = "drop", or another train.batch_size'
        elif any(images % batch == 1 for images in tests for batch in EVALUATION_BATCHES):
            reason = self._try_one_image(model, dataset.image_size, training=False)
            rule = (
                f"the last batch of a test may be one image, which this network does not take: {reason}"
                if reason
                else ""
            )
        if rule and not self.findings.has(key):  # a level that inherits the length has the problem of the base
            self.findings.add(key, given, rule)
        return not rule

    def _try_one_image(self, model: Config, image_size: tuple[int, int], training: bool) -> str:
        """Returns why the network takes no batch of one image, found once for each network; empty if it does."""
        key = (model.model_dump_json(), image_size, "training" if training else "test")
        if key not in self.refusals:
            self.refusals[key] = refuse_one_image(model, image_size, training)
        return self.refusals[key]

    def identify(self, variant: Variant) -> str:
        """Returns an id that is equal for variants with equal trainings, wherever their data lies."""
        dataset = self.datasets[variant.data]
        return identity(variant_fields(variant, dataset.checksum if dataset else ""))

    def are_equal(self, variant: Variant, other: Variant | None) -> bool:
        """Returns whether the trainings of both variants are equal."""
        return other is not None and (variant == other or self.identify(variant) == self.identify(other))


def inherit(base: Tables, own: Tables) -> Tables:
    """Returns the tables of a variant: its own tables over the base's.

    Another preset or torchvision network starts from its own defaults, but from the same weights, another data set from
    its own place, and another family takes those of the base's fields that it has too.
    """
    tables = {section: lay_over(base[section], own[section]) for section in SECTIONS}
    there, here = base["model"], own["model"]
    if "preset" in here:
        tables["model"] = here
    elif here.get("family", _family(there)) != _family(there):
        stated = _expand(there)
        tables["model"] = {**{key: stated[key] for key in _list_shared(here["family"], stated)}, **here}
    elif _family(there) == "torchvision" and here.get("name", there.get("name")) != there.get("name"):
        kept = {"weights": there["weights"]} if "weights" in there else {}
        tables["model"] = {"family": "torchvision", **kept, **here}
    if own["data"].get("name", base["data"].get("name")) != base["data"].get("name"):
        special = {name for name in DataConfig.model_fields if role_of(DataConfig, name).only}
        common = {key: value for key, value in base["data"].items() if key not in ("root", *special)}
        tables["data"] = {**common, **own["data"]}
    return tables


def _expand(model: TomlTable) -> TomlTable:
    """Returns the fields that a model's table states, also through its preset, without the family."""
    preset = PRESETS.get(str(model.get("preset")))
    fields = {} if preset is None else preset.model_dump(exclude_defaults=True)
    return {key: value for key, value in lay_over(fields, model).items() if key not in ("preset", "family")}


def _list_shared(family: Any, stated: TomlTable) -> list[str]:
    """Lists the stated fields of the base that another family has with the same meaning.

    A user's class has those that its signature names. Networks of torchvision have none: each is published as it is.
    """
    if ":" in str(family):
        try:
            names = list_arguments(str(family))
        except ValueError:  # it is reported where the family is read
            return []
    else:
        kind = MODELS[family][0] if str(family) in MODELS else Config
        names = set() if family == "torchvision" else {*kind.model_fields} - {"depth"}  # it counts other layers
    return [key for key in stated if key in names]


def lay_over(lower: TomlTable, upper: TomlTable) -> TomlTable:
    """Merges two tables. The upper table's keys replace the same keys, and their alternatives, of the lower table."""
    replaced = {ALTERNATIVES.get(key) for key in upper}
    return {**{key: value for key, value in lower.items() if key not in replaced}, **upper}


def split(values: TomlTable) -> Tables:
    """Converts `{"model.growth_rate": 12}` to the tables model, data and train."""
    tables: Tables = {section: {} for section in SECTIONS}
    for path, value in values.items():
        section, _, key = path.partition(".")
        tables[section][key] = value
    return tables


def flatten(tables: Tables) -> TomlTable:
    """Converts the tables model, data and train to `{"model.growth_rate": 12}`."""
    return {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}


def value_of(variant: Variant, path: str) -> Any:
    """Returns a field of a variant, for example `model.growth_rate`.

    Returns None if there is no such field, and for the one of `train.epochs` and `train.steps` that is not in use.
    """
    section, _, key = path.partition(".")
    config = getattr(variant, section)
    if path == ("train.epochs" if variant.train.steps else "train.steps"):
        return None
    return {**vars(config), **(config.model_extra or {})}.get(key)


def _family(table: TomlTable) -> Any:
    """Returns the family of a model's table, directly or through its preset."""
    return table.get("family", getattr(PRESETS.get(str(table.get("preset"))), "family", "densenet"))


def _is_of(own: TomlTable, detail: ErrorDetails) -> bool:
    """Returns whether a pydantic error is about one of these keys, or about a missing key of the family in `own`."""
    if not detail["loc"]:
        return bool(own)
    return detail["loc"][0] in own or (detail["type"] == "missing" and "family" in own)
