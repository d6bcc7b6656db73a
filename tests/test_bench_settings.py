"""`make bench-settings`: steps with other threads, batches, processes and memory allocators; and small networks.

`JEMALLOC` in the environment is the path of libjemalloc.so.2; without it, an installed one is taken. `MALLOC_CONF` has
jemalloc's settings; without it, jemalloc gives no memory back to the system.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

import pytest
import torch
from cases import CASES, CUDA, Case, make_step, ready
from rounds import ROUNDS, Measured, Step, Worker, measure, replayed, report

from ablations.training.step import prepare_images
from densenet import DenseNetConfig, build

pytestmark = [pytest.mark.skipif(CUDA, reason="it is for a CPU")]


@dataclass(frozen=True)
class Setting:
    """Under which conditions steps are compared."""

    precision: str
    threads: int
    batch: int
    processes: str
    """own: each step has a process of its own; one: all steps with the same memory allocator share a process."""


SETTINGS = {
    f"{precision}-threads{threads}-batch{batch}-{processes}": Setting(precision, threads, batch, processes)
    for processes, batches in {"own": (32, 64), "one": (32,)}.items()
    for batch in batches
    for threads in (1, 2)
    for precision in ("fp32", "bf16")
}
COMPARED = ("torchvision", "torchvision, channels_last", "textbook, channels_last", "normalize-once, channels_last")
WITH_JEMALLOC = ("torchvision", "torchvision, channels_last", "normalize-once, channels_last")
NAMES = (*COMPARED, *(f"{name}, jemalloc" for name in WITH_JEMALLOC))

VERSION = """
import ctypes
version, size = ctypes.c_char_p(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_char_p))
ctypes.CDLL(None).mallctl(b"version", ctypes.byref(version), ctypes.byref(size), None, 0)
print(version.value.decode().partition("-")[0])
"""
"""Prints the version of jemalloc, and fails in a process without it."""


def version_of(library: str) -> str:
    """The version of jemalloc in a process that loads this library first; empty if it is not there."""
    command, environment = [sys.executable, "-c", VERSION], {**os.environ, "LD_PRELOAD": library}
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


@cache
def find_jemalloc() -> tuple[dict[str, str], str]:
    """The environment of a process with jemalloc, and what a reader must know of it; empty if there is none.

    Fails for a `JEMALLOC` that is not one.
    """
    given = os.environ.get("JEMALLOC", "")
    library = given or find_library("jemalloc") or ""
    version = version_of(library) if library else ""
    if given and not version:
        pytest.fail(f"JEMALLOC={given} is no jemalloc that a process can load")
    if not version:
        return {}, ""
    settings = os.environ.get("MALLOC_CONF", KEEP)
    return {"LD_PRELOAD": library, "MALLOC_CONF": settings}, f"{version} with {settings or 'its defaults'}"


KEEP = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
"""jemalloc's settings with which it gives no memory back to the system."""


def list_workers(setting: Setting, steps: dict[str, Callable[[], Step]], jemalloc: dict[str, str]) -> list[Worker]:
    """The processes of a setting. `steps` are all that are compared; those with jemalloc are left out without it."""
    workers = []
    for environment in ({}, jemalloc) if jemalloc else ({},):
        those = {name: make for name, make in steps.items() if name.endswith("jemalloc") == bool(environment)}
        groups = [those] if setting.processes == "one" else [{name: make} for name, make in those.items()]
        workers += [Worker(group, setting.threads, environment) for group in groups]
    return workers


@cache
def measure_setting(name: str) -> Measured:
    """The seconds of all steps in a setting."""
    setting = SETTINGS[name]
    cases = {name: CASES[name.removesuffix(", jemalloc")] for name in NAMES}
    steps: dict[str, Callable[[], Step]] = {
        name: partial(make_step, replace(case, precision=setting.precision), setting.batch)
        for name, case in cases.items()
    }
    return measure(list_workers(setting, steps, find_jemalloc()[0]), ROUNDS)


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_setting(benchmark, setting, name):
    _, described = find_jemalloc()
    if name.endswith("jemalloc") and not described:
        pytest.skip("there is no jemalloc: make bench JEMALLOC=/path/to/libjemalloc.so.2")
    if SETTINGS[setting].threads > (os.cpu_count() or 1):
        pytest.skip("there are fewer cores than threads")
    measured = measure_setting(setting)
    facts = {**asdict(SETTINGS[setting]), "disturbed": measured.disturbed}
    report(benchmark, setting, measured.seconds[name], **facts, **({"jemalloc": described} if described else {}))


def test_in_one_process_are_the_steps_with_one_allocator():
    steps = dict.fromkeys(("a", "b", "c, jemalloc"), list)
    own, one = (Setting("fp32", 2, 32, processes) for processes in ("own", "one"))
    library = {"LD_PRELOAD": "library"}
    found = [
        [(list(worker.steps), worker.environment) for worker in list_workers(each, steps, library)]
        for each in (own, one)
    ]
    assert found == [
        [(["a"], {}), (["b"], {}), (["c, jemalloc"], library)],
        [(["a", "b"], {}), (["c, jemalloc"], library)],
    ]
    assert [list(worker.steps) for worker in list_workers(one, steps, {})] == [["a", "b"]]


def test_what_is_no_jemalloc_has_no_version():
    assert version_of("") == ""
    assert version_of("/no/such/library.so") == ""


SHAPES = {
    "layers 2, 2, 2, growth rate 4": {"block_config": (2, 2, 2), "growth_rate": 4},
    "layers 6, 6, 6, growth rate 12": {"block_config": (6, 6, 6), "growth_rate": 12},
    "layers 16, 16, 16, growth rate 12": {"block_config": (16, 16, 16), "growth_rate": 12},
}
IMPLEMENTATIONS = {
    "textbook": ("textbook", "contiguous"),
    "textbook, channels_last": ("textbook", "channels_last"),
    "normalize-once, channels_last": ("normalize-once", "channels_last"),
}
INFERENCE = "one image in eval mode"
TASKS = {INFERENCE: (1, 10), "training step of 4 images": (4, 5), "training step of 32 images": (32, 1)}
"""The batch of each task, and how many times a round has it, so that a round takes some milliseconds at least."""

SMALL = {
    f"{shape}; {task}": (shape, task)
    for shape in SHAPES
    for task in TASKS
    if task == INFERENCE or shape != "layers 16, 16, 16, growth rate 12"
}
SMALL_ROUNDS = 5 * ROUNDS


def make_inference(case: Case) -> Step:
    """The scores of one image in eval mode."""
    network, step = ready(case, 1)
    _, _, image, _, config = step.args
    network.eval()

    def infer() -> object:
        with torch.no_grad():
            return network(prepare_images(image, config))

    return infer


def make_repeated(shape: str, task: str, implementation: str) -> Step:
    """A task of a small network, as many times as a round has it."""
    (kind, memory_format), (batch, times) = IMPLEMENTATIONS[implementation], TASKS[task]
    case = Case(partial(build, DenseNetConfig(**SHAPES[shape], implementation=kind)), memory_format)
    step = make_inference(case) if task == INFERENCE else make_step(case, batch)

    def repeat() -> None:
        for _ in range(times):
            step()

    return repeat


@cache
def measure_small(name: str) -> Measured:
    """The seconds of a task with each implementation, in a process of its own with one thread."""
    shape, task = SMALL[name]
    each = [Worker({kind: partial(make_repeated, shape, task, kind)}) for kind in IMPLEMENTATIONS]
    return measure(each, SMALL_ROUNDS)


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("small", SMALL)
def test_small(benchmark, small, name):
    (shape, task), measured = SMALL[small], measure_small(small)
    (batch, times), facts = TASKS[task], {"threads": 1, "disturbed": measured.disturbed}
    seconds = [each / times for each in measured.seconds[name]]
    report(benchmark, small, seconds, network=shape, task=task, batch=batch, **facts)


def test_one_image_in_eval_mode_keeps_no_gradient():
    scores = make_inference(Case(partial(build, DenseNetConfig(block_config=(1, 1), growth_rate=4))))()
    assert scores.shape == (1, 10)
    assert not scores.requires_grad
