"""Malformed grids: whatever a file holds, it is a valid grid or a GridError that says what is wrong."""

from __future__ import annotations

import datetime
import json
import math
import os
import tomllib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from conftest import MACHINE, TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import DataConfig, TrainConfig
from ablations.data import dataset
from ablations.data.images import DataError
from ablations.data.registry import DATASETS
from ablations.grid import matching, reader, variants
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.problems import GridError
from ablations.grid.reader import read
from densenet import DenseNetConfig, ResNetConfig, count_macs, count_params

LARGE = 50
"""Layers beyond which a network is not counted here."""


class AnyNetwork(torch.nn.Module):
    """A user's network that takes whatever it is given."""

    def __init__(self, in_channels, num_classes, **arguments):
        super().__init__()
        self.fc = torch.nn.Linear(in_channels, num_classes)

    def forward(self, images):
        return self.fc(images.mean((-2, -1)))


@pytest.fixture(scope="module", autouse=True)
def nothing_large():
    """Data are loaded once; nothing is downloaded, and nothing large is made."""
    kept = lru_cache(32)(dataset.load)

    def load(config):
        if config.name not in ("digits", "random", "parquet", "imagefolder") and config.name in DATASETS:
            raise DataError("not here")
        if config.size * math.prod(config.shape) > 100_000:
            raise DataError("too large for a test")
        return kept(config)

    def small(count):
        def counted(config, *size):
            if sum(getattr(config, "block_config", ())) > LARGE or getattr(config, "depth", 0) > LARGE:
                raise ValueError("too large for a test")
            return count(config, *size)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "load", load)
        patch.setattr(matching, "count_params", small(count_params))
        patch.setattr(matching, "count_macs", small(count_macs))
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("grids") / "malformed.toml"


# what a valid grid is


def leaves(value):
    """Every value that is no table and no list."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def meaningless(value):
    """Values that suit no field: no number that is finite, no text, neither true nor false."""
    return not isinstance(value, int | str) and not (isinstance(value, float) and math.isfinite(value))


KEYS = {
    "model": {"preset", *DenseNetConfig.model_fields, *ResNetConfig.model_fields},
    "data": set(DataConfig.model_fields),
    "train": set(TrainConfig.model_fields),
}


def check_keys(table):
    """No key of the file is left over."""
    assert set(table) <= {"title", "seeds", "time_limit", "speed_rounds", "margin", "tune", "base", "study"}
    for tune in (table.get("tune", {}), *(study["tune"] for study in table["study"].values() if "tune" in study)):
        assert tune in ("base", False) or set(tune) <= {"train", "seeds", "validation"}
    assert set(table.get("base", {})) <= set(KEYS)
    own = [table.get("base", {}), *table["study"].values()]
    own += [entry for study in table["study"].values() for entry in study.get("variant", ())]
    foreign = any(":" in str(value) or value == "torchvision" for value in leaves(table))
    for section, keys in KEYS.items():
        for each in own:
            assert (foreign and section == "model") or set(each.get(section, {})) <= keys
    for study in table["study"].values():
        beside = {"seeds", "speed_rounds", "margin", "tune", "match", "published", "published_source"}
        assert set(study) <= {"question", "variant", *beside, *KEYS}
        for entry in study.get("variant", ()):
            assert set(entry) <= {"name", "match", *KEYS}


def untuned(grid, variant):
    """The identity of a variant without its tuning, which may differ from study to study."""
    return grid.variant_id(replace(variant, tuning=None, follows_base=False))


def check(grid):
    """Everything that whoever works with a grid relies on."""
    assert grid.seeds
    assert len(set(grid.seeds)) == len(grid.seeds)
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in grid.seeds)
    assert type(grid.time_limit) is float
    assert 0 <= grid.time_limit < math.inf
    assert grid.title.isprintable()
    assert grid.studies
    for study in grid.studies:
        assert study.name.isascii()
        assert study.name.replace("_", "").replace("-", "").isalnum()
        assert len(study.name) <= 64
        assert study.question.isprintable()
        labels = [level.label for level in study.levels]
        assert len(set(labels)) == len(labels)
        assert all(label and label.isprintable() and len(label) <= 200 for label in labels)
        assert [untuned(grid, level.variant) for level in study.levels if level.is_base] == [untuned(grid, grid.base)]
        assert len({grid.variant_id(level.variant) for level in study.levels}) == len(labels), "each variant once"
    for variant in grid.variants.values():
        dataset = grid.datasets[variant.data]
        assert variant.model.num_classes == dataset.num_classes
        assert variant.model.in_channels == dataset.channels
        assert variant.train.total_steps(dataset.train_images) > 0
        for config in (variant.model, variant.data, variant.train):
            assert not any(map(meaningless, leaves(config.model_dump())))
            given = {key: value for key, value in config.model_dump().items() if key in config.model_fields_set}
            given |= config.model_extra or {}
            assert type(config).model_validate(given) == config
    todo = list_jobs(grid, MACHINE)
    assert len({job.id for job in todo}) == len(todo) <= reader.MAX_JOBS
    assert make_manifest(grid, MACHINE, Path("results")).title == grid.title
    grid.text.encode()


STARTS = ("TOML", "file", "title", "seeds", "time_limit", "tune", "base", "study", "--set")
"""What a problem's key begins with, unless it is a key that no grid has."""


def check_error(error, path):
    """The file is named, and each problem's key and rule; all of it can be printed anywhere."""
    first, *lines = str(error).split("\n")
    assert first.startswith(f"{path}: {len(lines)} problem")
    assert [f"  {problem}" for problem in error.problems] == lines
    assert lines
    for problem, line in zip(error.problems, lines, strict=True):
        assert line.isprintable()
        assert len(line) < 5000
        assert problem.key
        assert problem.rule.strip()
        assert problem.key.startswith(STARTS) or "unknown key" in problem.rule
    assert len(set(lines)) == len(lines)


def outcome(path, content, sets=(), seeds=None):
    """The grid, checked, or the error, checked."""
    path.write_bytes(content)
    try:
        grid = read(path, sets, seeds)
    except GridError as error:
        check_error(error, path)
        return error
    check(grid)
    if not sets:
        table = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
        assert not any(map(meaningless, leaves(table)))
        check_keys(table)
    return grid


# malformed files


class Raw(str):
    """TOML as it stands."""


def toml(value):
    """A value as TOML."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else repr(value)


def tables(table, comment=""):
    """A file: the top of the table line by line, what is below inline, a study or base by its headings."""
    top = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{toml(key)} = {toml(value)}" for key, value in top.items()]
    for key, value in table.items():
        inner = value if isinstance(value, dict) else {}
        tables = {name: each for name, each in inner.items() if isinstance(each, dict) and each}
        if len(tables) < len(inner):
            lines += [f"[{toml(key)}]"]
            lines += [f"{toml(name)} = {toml(each)}" for name, each in inner.items() if name not in tables]
        for name, content in tables.items():
            lines += [f"[{toml(key)}.{toml(name)}]"]
            lines += [f"{toml(last)} = {toml(each)}" for last, each in content.items()]
    return "\n".join(lines) + "\n"


MODEL = {"block_config": [1, 1], "growth_rate": 4}
NOISE = {"name": "random", "shape": [3, 8, 8], "classes": 3, "size": 9}
RATES = {"growth_rate": {"question": "What?", "model": {"growth_rate": [4, 8]}}}
VALID = [
    {"title": "T", "seeds": [0, 1], "time_limit": 60, "base": {"model": MODEL, "train": {"epochs": 1}}, "study": RATES},
    {
        "seeds": [3],
        "base": {"model": {"depth": 10}, "data": {"name": "digits", "train_limit": 100, "validation": 0.1}},
        "study": {
            "product": {"model": {"bn_size": [0, 4], "compression": [0.5, 1.0]}, "train": {"learning_rate": [0.1, 1]}},
            "named": {"variant": [{"name": "a"}, {"name": "b", "train": {"optimizer": "adamw", "momentum": 0.5}}]},
        },
    },
    {
        "base": {"model": MODEL, "train": {"steps": 3, "schedule": "cosine", "warmup_epochs": 0.01}},
        "study": {
            "matched": {
                "variant": [
                    {"name": "R", "model": {"family": "resnet", "depth": 8}, "match": {"params": "model.width"}},
                    {"name": "S", "model": {"connectivity": "sum"}, "match": {"macs": "model.init_features"}},
                ]
            },
            "presets": {"model": {"preset": ["resnet20", "densenet-40-12"]}},
        },
    },
    {
        "base": {"model": {"family": f"{__name__}:AnyNetwork", "x": 1}, "data": NOISE},
        "study": {"x": {"model": {"x": [1, 2, "a", [True]], "copy": [1.5]}}},
    },
    {
        "base": {"model": MODEL, "data": NOISE},
        "study": {"v": {"variant": [{"name": "tv", "model": {"family": "torchvision", "name": "squeezenet1_0"}}]}},
    },
    {
        "tune": {"train": {"learning_rate": [0.1, 0.3], "epochs": 1}, "seeds": [7], "validation": 3},
        "base": {"model": MODEL, "data": NOISE, "train": {"epochs": 2}},
        "study": {
            "tuned": {"published": {"4": 5, "8": 4.5}, "published_source": "here", "model": {"growth_rate": [4, 8]}},
            "follow": {"tune": "base", "seeds": [0, 1], "variant": [{"name": "n", "train": {"momentum": 0.5}}]},
            "fixed": {"tune": False, "train": {"learning_rate": [0.2, 0.4]}},
            "own": {"tune": {"train": {"momentum": [0.1, 0.2]}, "seeds": [9], "validation": 0.3},
                    "match": {"params": "model.init_features", "target": 3000}, "model": {"growth_rate": [3, 5]}},
        },
    },
]  # fmt: skip

WORDS = sorted(
    {"preset", "name", "match", "params", "macs", "target", "variant", "question", "title", "seeds", "time_limit"}
    | {"tune", "published", "published_source", "validation"}
    | {"base", "study", "model", "data", "train", "densenet", "resnet", "torchvision", "adamw", "cosine", "one-cycle"}
    | {"group", "none", "sum", "imagenet", "bottleneck", "resnet18", "densenet121", "standard", "cutout", "drop"}
    | {"model.width", "model.growth_rate", "model.init_features", "random", "digits", "parquet", "imagefolder"}
    | {"grwoth_rate", "epoch", "quesiton", "unknown preset", "sys:path", "a.b:C", "a..b:C", "~no one", "pareto"}
    | {f"{__name__}:AnyNetwork", f"{__name__}:Path", "__class__", "model_dump", "self", "arguments", "copy"}
    | set.union(*KEYS.values())
)
NASTY = ["", " ", ".", "..", "../x", "/", "a/b", "con", "a\0b", "\0", "x" * 300, "\x1b[31m", "\x7f", "a\nb", "\u202e"]
NASTY += ["\ufeff", "é" * 100, "👩‍🔬", "--", "%", "{}", "$x$", "\\", '"', "'", "\u2028", "\ud7ff", "\U0010ffff"]
LITERALS = [
    "1e400",
    "-1e400",
    "0x" + "f" * 40,
    "1" + "0" * 5000,
    "1_0",
    "0o7",
    "inf",
    "-nan",
    "+inf",
    "-0.0",
    "1.",
    "'",
]
LITERALS += ["1979-05-27T07:32:00Z", "1979-05-27 07:32:00.999", "07:32:00", "1979-02-30", "25:61:00", "'''a\nb'''"]
LITERALS += [
    "[" * 3000 + "]" * 3000,
    "{a=" * 3000 + "1" + "}" * 3000,
    "[" * 3000,
    "[" * 60 + "]" * 60,
    "",
    "[,]",
    "{a=1,}",
]
LITERALS += [
    '"\\ud800"',
    '"\\U00110000"',
    '"\\x41"',
    '"\x00"',
    "{a = 1, a = 2}",
    "# no value",
    "[1, 2",
    "nan",
    "true false",
]

texts = st.sampled_from(WORDS) | st.sampled_from(NASTY) | st.text(max_size=8)
scalars = (
    st.integers(-3, 100)
    | st.sampled_from([-1, 2**31, 2**31 - 1, 2**63, 2**64, -(2**63), 10**30, 10_000, 10_001])
    | st.floats()
    | st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e-320, 1e308])
    | st.booleans()
    | texts
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.sampled_from(LITERALS).map(Raw)
)
values = scalars | st.recursive(
    scalars | st.just([]) | st.just({}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)

KIN = {
    int: st.integers(-1, 10) | st.integers() | st.floats(),
    float: st.floats(),
    str: texts,
    list: st.lists(st.integers(0, 9) | st.lists(st.integers(1, 4), max_size=3) | values, max_size=4),
}
"""What may stand in a value's place and be nearly right."""


def places(value, above=()):
    """The path of every value within a table."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*above, key)
        yield from places(each, (*above, key))


def changed(draw, table):
    """The table with one change somewhere: a value, a key, something more, something less, something twice."""
    *above, last = draw(st.sampled_from(list(places(table))))
    holder = table
    for key in above:
        holder = holder[key]
    value = holder[last]
    how = draw(st.sampled_from(["value", "value", "key", "more", "less", "wrapped", "twice"]))
    if how == "value":
        holder[last] = draw(KIN.get(type(value), values) | values)
    elif how == "wrapped":
        holder[last] = draw(st.sampled_from([[value], {"a": value}, [[value]]]))
    elif how == "less":
        del holder[last]
    elif isinstance(holder, list):
        holder.append(value if how == "twice" else draw(values))
    elif how == "key":
        misspelt = st.just(last[1:]) | st.just(last + last[-1:]) | st.just(last.upper())
        holder[draw(texts | misspelt)] = holder.pop(last)
    elif how == "more":
        holder[draw(texts)] = draw(values)
    else:
        holder[draw(texts)] = value


JUNK = [
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\x00",
    b"\x1b",
    b"\r",
    b"\r\n",
    b"\n",
    b"[",
    b"]",
    b'"',
    b"'''",
    b"=",
    b".",
]
JUNK += [
    b"\xef\xbb\xbf",
    b"#",
    b"\t",
    b"[[study.growth_rate]]\n",
    b"[base]\n",
    b"a." * 3000,
    b"\xe2\x80\xae",
    b"\n[x]\n",
]
JUNK += [b"a = 1979-05-27\n", b"title = 1\n", b"-", b"0", b"9", b"nan", b"{", b"}", b",", b"\\"]


def broken(draw, content):
    """The file with one change to its bytes."""
    place, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    return draw(
        st.sampled_from(
            [
                content[:place],
                content[:place] + content[end:],
                content[:end] + content[place:],
                content[:place] + draw(st.sampled_from(JUNK) | st.binary(max_size=4)) + content[place:],
                content.replace(b"\n", b"\r\n"),
                b"\xef\xbb\xbf" + content,
                content.decode(errors="replace").encode(draw(st.sampled_from(["utf-16", "utf-8", "utf-7"]))),
            ]
        )
    )


@st.composite
def files(draw):
    """A valid grid with up to four changes to its table, and up to two to its bytes; sometimes anything at all."""
    if draw(st.integers(0, 19)) == 7:
        return draw(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
    table = json.loads(json.dumps(draw(st.sampled_from(VALID))))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 4]))):
        if table:
            changed(draw, table)
    content = tables(table).encode(errors="replace")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        content = broken(draw, content)
    return content


odd_text = st.text(st.characters(), max_size=8)  # lone surrogates too: a shell gives them for what is no UTF-8
dotted = st.builds("{}.{}".format, st.sampled_from(["model", "data", "train", "modle"]), texts | odd_text)
set_options = st.builds("{}={}".format, dotted, scalars.map(toml) | texts | odd_text) | odd_text | dotted
seed_lists = st.lists(
    st.integers(-2, 5) | st.sampled_from([2**31, 2**31 - 1, 10**5000, True]) | st.integers(), max_size=4
)


@st.composite
def command_lines(draw):
    """Mostly nothing; settings and seeds, right or wrong."""
    rare = st.integers(0, 7).map(lambda number: number == 5)
    sets = draw(st.lists(set_options, min_size=1, max_size=2)) if draw(rare) else []
    return sets, draw(seed_lists) if draw(rare) else None


def fuzz(examples):
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    return lambda test: quiet(given(files(), command_lines())(test))


@fuzz(250)
def test_any_file_is_a_valid_grid_or_an_error_that_says_what_is_wrong(path, content, laid_over):
    outcome(path, content, *laid_over)


@pytest.mark.slow
@fuzz(10_000)
def test_ten_thousand_files_are_valid_grids_or_errors_that_say_what_is_wrong(path, content, laid_over):
    outcome(path, content, *laid_over)


@pytest.mark.parametrize("table", VALID)
def test_what_is_changed_is_valid_before(path, table):
    grid = outcome(path, tables(table).encode())
    assert not isinstance(grid, GridError), grid


def tiny(old, new):
    assert old in TINY
    return TINY.replace(old, new).encode("utf-8", "surrogatepass")


CASES = {
    "wrong type": (tiny("epochs = 1", "epochs = '1'"), "base.train.epochs = '1': should be a valid integer"),
    "number for text": (tiny('"Tiny"', "3"), "title = 3: must be text"),
    "unknown key": (tiny("epochs = 1", "epochs = 1\ntrain.lr = 1"), "base.train.lr = 1: unknown key; allowed are"),
    "misspelt key": (tiny("epochs = 1", "epoch = 1"), "base.train.epoch = 1: unknown key; did you mean 'epochs'?"),
    "out of range": (tiny("epochs = 1", "epochs = -1"), "base.train.epochs = -1: should be greater than 0"),
    "NaN": (tiny("epochs = 1", "learning_rate = nan"), "base.train.learning_rate = nan: should be a finite number"),
    "infinity": (tiny("epochs = 1", "learning_rate = inf"), "base.train.learning_rate = inf: should be a finite"),
    "overflow": (tiny("epochs = 1", "learning_rate = 1e400"), "base.train.learning_rate = inf: should be a finite"),
    "huge number": (tiny("epochs = 1", "epochs = 0x" + "f" * 99), "TOML: a whole number of 396 bits; at most 64"),
    "huge decimal": (tiny("epochs = 1", "epochs = 1" + "0" * 5000), "TOML: Exceeds the limit"),
    "empty seeds": (tiny("[0, 1, 2]", "[]"), "seeds = []: must be a list of whole numbers from 0 to 2147483647"),
    "empty axis": (tiny("[4, 8]", "[]"), "study.growth_rate.model.growth_rate = []: an axis is a list of levels"),
    "empty blocks": (tiny("[1, 1]", "[]"), "base.model.block_config = []: Tuple should have at least 1 item"),
    "nested lists": (tiny("[4, 8]", "[[[4]]]"), "growth_rate = [[4]]: should be a whole number above 0"),
    "nested seeds": (tiny("[0, 1, 2]", "[[0]]"), "seeds = [[0]]: must be a list of whole numbers"),
    "table for a value": (tiny("epochs = 1", "epochs = {a = 1}"), "base.train.epochs = {'a': 1}: should be a valid"),
    "value for a table": (tiny("train.epochs = 1", "train = 3"), "base.train = 3: must be a table"),
    "array of tables": (tiny("[study.growth_rate]", "[[study.growth_rate]]"), "study.growth_rate = [{"),
    "array of bases": (tiny("[base]", "[[base]]"), "base = [{"),
    "no study": (TINY.partition("[study")[0].encode(), "study: a grid needs at least one study"),
    "name of a path": (tiny("[study.growth_rate]", '[study."../../x"]'), 'study."../../x": a study\'s name is 1 to 64'),
    "NUL in a name": (tiny("[study.growth_rate]", '[study."a\\u0000"]'), 'study."a\\u0000": a study\'s name is 1 to'),
    "long name": (tiny("[study.growth_rate]", f"[study.{'x' * 300}]"), "xxx...: a study's name is 1 to 64 letters"),
    "unicode name": (tiny("[study.growth_rate]", '[study."größe"]'), 'study."größe": a study\'s name is 1 to 64'),
    "escape in a key": (tiny("title", '"\\u001b[31m"'), '"\\u001b[31m" = \'Tiny\': unknown key; allowed are title'),
    "line end in a key": (tiny("title", '"a\\nb"'), '"a\\nb" = \'Tiny\': unknown key'),
    "reversing a title": (tiny('"Tiny"', '"\\u202ea"'), "title = '\\u202ea': must be text of printable characters"),
    "long key": (tiny("title", "x" * 300), "xxx... = 'Tiny': unknown key"),
    "surrogate escape": (tiny('"Tiny"', '"\\ud800"'), "TOML: Escaped character is not a Unicode scalar value"),
    "surrogate": (tiny('"Tiny"', '"\ud800"'), "TOML: 'utf-8' codec can't decode"),
    "invalid UTF-8": (TINY.encode() + b"\xff", "TOML: 'utf-8' codec can't decode byte 0xff"),
    "UTF-16": (TINY.encode("utf-16"), "TOML: 'utf-8' codec can't decode byte 0xff"),
    "NUL": (TINY.encode() + b"\0", "TOML: "),
    "deep lists": (tiny("epochs = 1", "epochs = " + "[" * 3000 + "]" * 3000), "TOML: nested too deeply"),
    "deep tables": (tiny("epochs = 1", "epochs = " + "{a=" * 3000 + "1" + "}" * 3000), "TOML: nested too deeply"),
    "deep dots": (tiny("epochs = 1", "epochs." + "a." * 3000 + "a = 1"), "TOML: nested too deeply"),
    "deep heading": (TINY.encode() + b"[" + b"a." * 3000 + b"a]\n", "TOML: nested too deeply"),
    "key twice": (TINY.encode() + b"question = 1\n", "TOML: Cannot overwrite a value"),
    "table twice": (TINY.encode() + b"[base]\n", "TOML: Cannot declare ('base',) twice"),
    "date": (tiny("epochs = 1", "epochs = 1979-05-27"), "base.train.epochs = datetime.date(1979, 5, 27): should be"),
    "time": (tiny("[4, 8]", "[07:32:00]"), "growth_rate = datetime.time(7, 32): should be a whole number"),
    "date and time": (tiny('"Tiny"', "1979-05-27T07:32:00Z"), "title = datetime.datetime(1979, 5, 27, 7, 32"),
    "date of seeds": (tiny("[0, 1, 2]", "1979-05-27"), "seeds = datetime.date(1979, 5, 27): must be a list"),
    "no date": (tiny("epochs = 1", "epochs = 1979-02-30"), "TOML: "),
    "truncated": (TINY.encode()[:-3], "TOML: "),
    "empty": (b"", "study: a grid needs at least one study"),
    "random bytes": (bytes(range(256)), "TOML: "),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_malformed_is_named(path, case):
    content, message = CASES[case]
    error = outcome(path, content)
    assert isinstance(error, GridError)
    assert message in str(error)


@pytest.mark.parametrize("label", ["", "a\0b", "\x1b[31m", "x" * 201, "\u202e"])
def test_a_label_that_cannot_be_shown_is_refused(path, label):
    study = {"x": {"model": {"x": [label]}}}
    error = outcome(path, tables({**VALID[3], "study": study}).encode())
    assert "study.x = '" in str(error)
    assert "a level's label has 1 to 200 printable characters" in str(error)


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, [-math.inf]], {"a": math.nan}, datetime.date(1979, 5, 27)])
def test_a_network_s_own_argument_is_a_finite_value_too(path, value):
    study = {"x": {"variant": [{"name": "x", "model": {"x": value}}]}}
    error = outcome(path, tables({**VALID[3], "study": study}).encode())
    assert "study.x.variant[0].model.x" in str(error)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + TINY.encode(), TINY.replace("\n", "\r\n").encode()])
def test_an_editor_s_marks_and_line_ends_change_nothing(path, content):
    grid = outcome(path, content)
    again = outcome(path, TINY.encode())
    assert make_manifest(grid, MACHINE, path.parent) == make_manifest(again, MACHINE, path.parent)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("", "--set : must read model.KEY=VALUE"),
        ("model.", "must read model.KEY=VALUE"),
        ("\udcff", "--set \\udcff: must read"),
        ("model.x=\udcff", "base.model.x = '\\udcff': unknown key"),
        ("model.\udcff=1", "--set model.\\udcff=1: must read model.KEY=VALUE"),
        ("data.root=\udcff", "base.data: data.root = '\\udcff'"),
        ("data.root=a\0b", "base.data: data.root = 'a\\x00b'"),
        ("train.epochs=" + "[" * 3000, "base.train.epochs = '[[["),
        ("train.epochs=1979-05-27", "base.train.epochs = datetime.date(1979, 5, 27): should be"),
        ("train.epochs=1" + "0" * 5000, "base.train.epochs = '1000"),
        ("train.epochs=2\ntrain.epochs = 3", "base.train.epochs = '2\\ntrain.epochs = 3'"),
    ],
)
def test_what_is_malformed_on_the_command_line_is_named(path, setting, message):
    error = outcome(path, TINY.encode(), [setting])
    assert isinstance(error, GridError)
    assert message in str(error)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    "case", ["misspelt key", "NaN", "escape in a key", "surrogate", "deep lists", "deep dots", "date", "random bytes"]
)
def test_the_command_line_ends_with_2_and_no_traceback(path, tmp_path, case, command):
    content, message = CASES[case]
    path.write_bytes(content)
    result = CliRunner().invoke(app, [command, str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert f"{path}: 1 problem, nothing was run\n  " in result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_read_is_an_error_too(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / ("x" * 300), Path("a\0b"), Path(os.fsdecode(b"\xff"))):
        with pytest.raises(GridError) as caught:
            read(path)
        assert str(caught.value).replace("\n", "").isprintable()
