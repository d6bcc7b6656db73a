"""`make bench`: training steps, the data pipeline and whole trainings beside others'; and reports of 10,000 records.

What is compared runs in interleaved rounds, one at a time, so that a ratio is taken between neighbours in time; each
training step in a process of its own, as a training has one, since what others leave of the memory changes its time.
pytest-benchmark gets the seconds of each by a clock that replays them. `DEVICE` (cpu or cuda), `ROUNDS` and `BATCH`
come from the environment. Only the steps that pytest selects are measured, so `-k` chooses them.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import MACHINE, TINY, record_of, write_grid
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ablations.config import DataConfig, TrainConfig
from ablations.data.augmentation import SHIFT, augment
from ablations.data.dataset import Dataset, load
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.profiling.memory import LiveStorage
from ablations.profiling.timing import Accounts, disturbance
from ablations.storage import records
from ablations.training.evaluation import EVALUATION_BATCH
from ablations.training.graph import FIRST_STEPS, GraphedStep
from ablations.training.loop import derive_seed, hash_weights, make_network, train
from ablations.training.step import make_optimizer, prepare, prepare_images, training_step
from densenet import DenseNetConfig, build, kernels, macs_of

SHAPE = {"block_config": (16, 16, 16), "growth_rate": 12}
DEVICE = torch.device(os.environ.get("DEVICE", "cpu"))
CUDA = DEVICE.type == "cuda"
BATCH = int(os.environ.get("BATCH", "64" if CUDA else "32"))
ROUNDS = int(os.environ.get("ROUNDS", "25" if CUDA else "7"))


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; a round takes all of them, in an order of its own, always the same.

    Two rounds before these are left out.
    """
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARMUP + rounds):
        for name in draw.sample(list(steps), len(steps)):
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: each[WARMUP:] for name, each in seconds.items()}


WARMUP = 2


@contextmanager
def processes(names: Iterable[str]) -> Iterator[dict[str, Callable[[], object]]]:
    """A process for each case or rate, as a call that takes one step there and waits for its end."""
    context = multiprocessing.get_context("forkserver")
    with ExitStack() as stack:
        pipes: dict[str, Connection] = {}
        for name in names:
            pipes[name], there = context.Pipe()
            process = context.Process(target=serve, args=(name, there), daemon=True)
            process.start()
            stack.callback(process.kill)
        for pipe in pipes.values():
            pipe.recv()
        yield {name: partial(ask, pipe) for name, pipe in pipes.items()}


def ask(pipe: Connection) -> None:
    pipe.send("step")
    pipe.recv()


def serve(name: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    step = ready(CASES[name])[1] if name in CASES else product(*RATES[name])
    for _ in range(FIRST_STEPS + 1 if CUDA else 0):  # so that graphs and compiled networks are there
        step()
    while True:
        finish()
        pipe.send("ready")
        pipe.recv()
        step()


def finish() -> None:
    """Waits until the device has done everything."""
    if CUDA:
        torch.cuda.synchronize()


class Clock:
    """A clock that shows 0 and a given number of seconds in turn: pytest-benchmark finds these and nothing else."""

    def __init__(self) -> None:
        self.readings: Iterator[float] = iter(())

    def replay(self, seconds: list[float]) -> None:
        self.readings = itertools.chain.from_iterable((0.0, each) for each in seconds)

    def __call__(self) -> float:
        return next(self.readings)


CLOCK = Clock()
replayed = pytest.mark.benchmark(timer=CLOCK)


def report(benchmark, group: str, seconds: list[float], **facts: object) -> None:
    """Hands what was measured to pytest-benchmark."""
    CLOCK.replay(seconds)
    benchmark.group = group
    benchmark.extra_info.update(facts)
    benchmark.pedantic(lambda: None, rounds=len(seconds))


def test_rounds_take_every_step_once_and_the_clock_replays_what_they_took():
    taken: list[str] = []
    seconds = interleaved({name: partial(taken.append, name) for name in "abc"}, rounds=4)
    assert [len(each) for each in seconds.values()] == [4, 4, 4]
    rounds = [tuple(taken[start : start + 3]) for start in range(0, 3 * (4 + WARMUP), 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1
    CLOCK.replay([0.25, 0.5])
    assert [-CLOCK() + CLOCK() for _ in range(2)] == [0.25, 0.5]


def textbook(**fields: object) -> nn.Module:
    return build(DenseNetConfig(**SHAPE, **fields))


def with_cifar_stem(network: nn.Module) -> nn.Module:
    """A DenseNet of others, its ImageNet stem replaced by one 3 x 3 convolution."""
    for name in {"norm0", "relu0", "pool0"} & {name for name, _ in network.features.named_children()}:
        delattr(network.features, name)
    network.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    return network


def torchvisions(**fields: object) -> nn.Module:
    return with_cifar_stem(torchvision.models.DenseNet(12, (16, 16, 16), 24, num_classes=10, **fields))


def timms() -> nn.Module:
    from timm.models.densenet import DenseNet

    return with_cifar_stem(DenseNet(**SHAPE, num_classes=10))


@dataclass(frozen=True)
class Case:
    """A training step to measure."""

    make: Callable[..., nn.Module]
    memory_format: str = "contiguous"
    precision: str = "fp32"
    missing: str = ""
    """Why it cannot be measured here."""

    how: str = ""
    """compile: by torch.compile; graph: as a CUDA graph."""


NO_CUDA = "" if CUDA else "it is for DEVICE=cuda"
NO_TIMM = "" if find_spec("timm") else "timm is not installed: pip install '.[peers]'"

once = partial(textbook, implementation="normalize-once")
CASES = {
    "torchvision": Case(torchvisions),
    "torchvision, channels_last": Case(torchvisions, "channels_last"),
    "torchvision, memory_efficient": Case(partial(torchvisions, memory_efficient=True)),
    "timm": Case(timms, missing=NO_TIMM),
    "timm, channels_last": Case(timms, "channels_last", missing=NO_TIMM),
    "textbook": Case(textbook),
    "textbook, channels_last": Case(textbook, "channels_last"),
    "textbook, checkpoint bottleneck": Case(partial(textbook, checkpoint="bottleneck")),
    "textbook, checkpoint layer": Case(partial(textbook, checkpoint="layer")),
    "textbook, checkpoint block": Case(partial(textbook, checkpoint="block")),
    "normalize-once, channels_last": Case(once, "channels_last"),
    "normalize-once, channels_last, checkpoint bottleneck": Case(
        partial(once, checkpoint="bottleneck"), "channels_last"
    ),
    "torchvision, bf16": Case(torchvisions, precision="bf16"),
    "torchvision, bf16, channels_last": Case(torchvisions, "channels_last", "bf16"),
    "textbook, bf16, channels_last": Case(textbook, "channels_last", "bf16"),
    "normalize-once, bf16, channels_last": Case(once, "channels_last", "bf16"),
    "normalize-once, bf16, channels_last, checkpoint bottleneck": Case(
        partial(once, checkpoint="bottleneck"), "channels_last", "bf16"
    ),
    "torchvision, bf16, channels_last, compile": Case(torchvisions, "channels_last", "bf16", NO_CUDA, "compile"),
    "textbook, bf16, channels_last, compile": Case(textbook, "channels_last", "bf16", NO_CUDA, "compile"),
    "torchvision, graph": Case(torchvisions, missing=NO_CUDA, how="graph"),
    "textbook, graph": Case(textbook, missing=NO_CUDA, how="graph"),
    "normalize-once, channels_last, graph": Case(once, "channels_last", missing=NO_CUDA, how="graph"),
    "torchvision, bf16, channels_last, graph": Case(torchvisions, "channels_last", "bf16", NO_CUDA, "graph"),
    "textbook, bf16, channels_last, graph": Case(textbook, "channels_last", "bf16", NO_CUDA, "graph"),
    "normalize-once, bf16, channels_last, graph": Case(once, "channels_last", "bf16", NO_CUDA, "graph"),
}
AVAILABLE = {name: case for name, case in CASES.items() if not case.missing}


def ready(case: Case, batch: int = BATCH) -> tuple[nn.Module, Callable[..., Any]]:
    """A network and its training step, which begins with no gradients."""
    config = TrainConfig(precision=case.precision, memory_format=case.memory_format, cuda_graph=case.how == "graph")
    network = prepare(case.make().to(DEVICE), config).train()
    optimizer, step = make_optimizer(network, config), GraphedStep() if config.cuda_graph else training_step
    if case.how == "compile":
        network.compile()
    images = prepare_images(torch.randn(batch, 3, 32, 32, device=DEVICE), config)
    labels = torch.zeros(batch, dtype=torch.long, device=DEVICE)
    return network, partial(step, network, optimizer, images, labels, config)


def memory(case: Case, batch: int = BATCH) -> dict[str, int]:
    """Bytes that tensors hold in a step: at most, and what the forward pass leaves for the backward pass.

    The latter is what has come to be alive by the forward pass's end, so that it counts whatever is kept and in
    whichever way; hooks on saved tensors do not see what a checkpoint is given in a list. On CUDA it is the allocator
    that counts. A graph has the memory of the step that was recorded, so it has no numbers here.
    """
    if CUDA:
        return {} if case.how else cuda_memory(case, batch)
    found: dict[str, int] = {}
    gc.collect()
    with LiveStorage() as live:
        network, step = ready(case, batch)
        step()
        network.zero_grad()
        live.restart(network)
        before = live.bytes
        step(mark=lambda phase: found.setdefault(phase, live.bytes))
    return {"peak_bytes": live.peak, "saved_bytes": found["forward"] - before}


def cuda_memory(case: Case, batch: int) -> dict[str, int]:
    """The same by the allocator of CUDA."""
    gc.collect()
    torch.cuda.empty_cache()
    found: dict[str, int] = {}
    network, step = ready(case, batch)
    step()
    network.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(mark=lambda phase: found.setdefault(phase, torch.cuda.memory_allocated()))
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "saved_bytes": found["forward"] - before}


PARTS = {
    "convolution": r"conv",
    "compiled loops": r"^loop ",
    "batch norm": r"batch_norm",
    "activation": r"relu|threshold|clamp",
    "copies": r"copy_|cat$|clone|contiguous",
    "Python of the block": r"DenseBlockFunction",
}
"""The parts of a step's time, by the names that its operators have."""


def profiled(case: Case) -> dict[str, float]:
    """The share of each part in three steps' time; the rest is everything else."""

    def loop(function: Callable[..., None], *arguments: object) -> None:
        with record_function(f"loop {function.__name__}"):
            call(function, *arguments)

    if CUDA:
        return {}
    call, (_, step) = kernels._call, ready(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_call", loop)
        step()
        step()
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            for _ in range(3):
                step()
    parts = dict.fromkeys((*PARTS, "rest"), 0.0)
    for event in profiler.key_averages():
        part = next((part for part, names in PARTS.items() if re.search(names, event.key)), "rest")
        parts[part] += event.self_cpu_time_total
    return {part: time / sum(parts.values()) for part, time in parts.items()}


MATMUL, CONVOLUTION = "matmul 2048 x 2048", "convolution 3 x 3 of 256 channels"
MATMUL = MATMUL.replace("2048", "8192") if CUDA else MATMUL
SIDE, IMAGES = (8192, 512) if CUDA else (2048, 8)
FLOPS = {MATMUL: 2 * SIDE**3, CONVOLUTION: 2 * IMAGES * 28**2 * 256**2 * 9}
RATES = {f"{kind}, {precision}": (kind, precision) for precision in ("fp32", "bf16") for kind in FLOPS}


def product(kind: str, precision: str) -> Callable[[], object]:
    """A call that shows how fast this machine can calculate, by BLAS or by oneDNN."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if kind == MATMUL:
        square = torch.randn(SIDE, SIDE, device=DEVICE).to(dtype)
        return partial(torch.matmul, square, square)
    shapes = (IMAGES, 256, 28, 28), (256, 256, 3, 3)
    images, weight = (torch.randn(*each, device=DEVICE).to(dtype, memory_format=torch.channels_last) for each in shapes)
    return partial(F.conv2d, images, weight, padding=1)


@pytest.fixture(scope="module")
def steps(request) -> tuple[dict[str, list[float]], str]:
    """Seconds of the selected cases and rates, and what else used the machine meanwhile."""
    named = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params.get("name") for spec in named if spec is not None}
    with processes([name for name in (*AVAILABLE, *RATES) if name in wanted]) as measured:
        accounts = Accounts.now()
        seconds = interleaved(measured, ROUNDS)
        cores, stolen = accounts.since()
    return seconds, disturbance(0, max(0, cores - 1), stolen)  # one core is at the step


def test_a_profile_s_shares_are_of_the_whole():
    small = partial(build, DenseNetConfig(block_config=(1, 1), growth_rate=4, implementation="normalize-once"))
    shares = profiled(Case(small, "channels_last"))
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[part] > 0 for part in ("convolution", "Python of the block"))
    assert (shares["compiled loops"] > 0) == (kernels.library() is not None)


def skipped_where_missing(name: str) -> object:
    reason = CASES[name].missing
    return pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason))


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", [skipped_where_missing(name) for name in CASES])
def test_training_step(benchmark, steps, name):
    seconds, disturbed = steps
    case = CASES[name]
    macs = macs_of(case.make().eval(), torch.zeros(1, 3, 32, 32))
    flops = 3 * 2 * macs * BATCH  # the backward pass takes the forward's twice: by weights and by inputs
    facts = {"precision": case.precision, "batch": BATCH, "macs": macs, "flops": flops, "disturbed": disturbed}
    report(benchmark, "training step", seconds[name], **facts, **memory(case), profile=profiled(case))


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", RATES)
def test_rate(benchmark, steps, name):
    kind, precision = RATES[name]
    report(benchmark, "rate", steps[0][name], precision=precision, flops=FLOPS[kind])


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # timm
def test_the_networks_compared_are_the_same_function():
    weights, images = textbook().state_dict(), torch.randn(2, 3, 32, 32, dtype=torch.double)
    scores = []
    for make in {case.make: None for case in AVAILABLE.values()}:
        network = make()
        network.load_state_dict(weights)
        scores.append(network.double().train()(images).detach())
    for each in scores[1:]:
        torch.testing.assert_close(each, scores[0], rtol=1e-10, atol=1e-10)


def test_what_is_saved_is_what_hooks_on_saved_tensors_find_where_these_see_all():
    network, step = ready(CASES["torchvision"], batch=2)
    there = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers(), *step.args[2:4])}
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, scores, _ = step()
    hooked = sum(storage.nbytes() for key, storage in saved.items() if key not in there)
    assert memory(CASES["torchvision"], batch=2)["saved_bytes"] == hooked + scores.nbytes + loss.nbytes


DATA = DataConfig(name="random", shape=(3, 32, 32), classes=10, size=16384 if CUDA else 2048, augmentation="standard")


class Images(torch.utils.data.Dataset):
    """The same images as torchvision's references read them: one by one, by `transforms.v2`."""

    def __init__(self, data: Dataset, transform: v2.Transform) -> None:
        self.images, self.labels, self.transform = data.train.images, data.train.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def our_epoch(data: Dataset) -> int:
    """The images of an epoch as `ablations.train` reads them."""
    there = data.to(DEVICE)
    batches = torch.randperm(len(there.train)).to(DEVICE).split(64)
    found = sum(len(images) for images in augment(there, batches, 1, DATA))
    finish()
    return found


def their_epoch(data: Dataset, batchwise: bool = False) -> int:
    """Cropped and mirrored one by one; `batchwise`, converted and normalised batch by batch."""
    mean, std = ((each / 255).flatten().tolist() for each in (data.mean, data.std))
    varied = [v2.RandomCrop(data.image_size, padding=SHIFT), v2.RandomHorizontalFlip()]
    normal = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    images = Images(data, v2.Compose(varied if batchwise else [*varied, normal]))
    loader = DataLoader(images, batch_size=64, shuffle=True)
    found = sum(len(normal(images.to(DEVICE)) if batchwise else images.to(DEVICE)) for images, _ in loader)
    finish()
    return found


PIPELINES: dict[str, Callable[[Dataset], int]] = {
    "this suite": our_epoch,
    "DataLoader and transforms.v2": their_epoch,
    "DataLoader and transforms.v2, normalised batch by batch": partial(their_epoch, batchwise=True),
}


@pytest.fixture(scope="module")
def epochs() -> dict[str, list[float]]:
    data = load(DATA)
    return interleaved({name: partial(read, data) for name, read in PIPELINES.items()}, ROUNDS)


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", PIPELINES)
def test_data_pipeline(benchmark, epochs, name):
    report(benchmark, "data pipeline", epochs[name], images=DATA.size)


def test_both_pipelines_give_every_image_once():
    data = load(DATA.model_copy(update={"size": 100}))
    assert [read(data) for read in PIPELINES.values()] == [100, 100, 100]


SMALL = DenseNetConfig(block_config=(6, 6, 6), growth_rate=12)


def bare_loop(network: nn.Module, data: Dataset, config: TrainConfig) -> float:
    """The test accuracy in % after a training as one writes it by hand."""
    fused = True if CUDA else None
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True, fused=fused)
    order = torch.Generator().manual_seed(derive_seed(0, "order"))
    images, labels = data.train.images, data.train.labels
    network.train()
    for _ in range(config.epochs):
        for batch in torch.randperm(len(labels), generator=order).to(labels.device).split(config.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(network((images[batch] - data.mean) / data.std), labels[batch])
            loss.backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        parts = data.test.images.split(EVALUATION_BATCH[DEVICE.type])
        scores = torch.cat([network((part - data.mean) / data.std) for part in parts])
    return 100 * int((scores.argmax(1) == data.test.labels).sum()) / len(scores)


def suite(network: nn.Module, data: Dataset, config: TrainConfig) -> float:
    """The same by the suite."""
    return train(network, data, DataConfig(), config, 0).test.accuracy


LOOPS = {"this suite": suite, "bare loop": bare_loop}
END_TO_END = 512 if CUDA else 128
"""Images in the whole trainings that are compared."""


def whole_training(loop: Callable[..., float], data: Dataset, config: TrainConfig) -> tuple[float, str]:
    """Test accuracy and the weights' checksum."""
    network = make_network(SMALL, 0, DEVICE)
    return loop(network, data, config), hash_weights(network)


@pytest.fixture(scope="module")
def trainings() -> dict[str, list[float]]:
    config = TrainConfig(epochs=2, batch_size=32, schedule="constant")
    data = load(DATA.model_copy(update={"size": END_TO_END})).to(DEVICE)
    loops = {name: partial(whole_training, loop, data, config) for name, loop in LOOPS.items()}
    return interleaved(loops, ROUNDS)


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", LOOPS)
def test_end_to_end(benchmark, trainings, name):
    steps = 2 * END_TO_END // 32
    report(benchmark, "end to end", trainings[name], epochs=2, steps=steps, batch=32, test_images=END_TO_END)


def test_the_bare_loop_is_the_suite_s_training_to_the_bit():
    data = load(DATA.model_copy(update={"size": 12})).to(DEVICE)
    config = TrainConfig(epochs=2, batch_size=4, schedule="constant")
    assert len({whole_training(loop, data, config) for loop in LOOPS.values()}) == 1


STUDIES, LEVELS, SEEDS = 40, 49, 5


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A results folder of some 10,000 made-up records: 40 studies of 49 levels, a quarter of them products, 5 seeds."""
    folder, generator = tmp_path_factory.mktemp("large"), random.Random(0)
    text = TINY.partition("[study")[0].replace("[0, 1, 2]", str(list(range(SEEDS))))
    for study in range(STUDIES):
        decays = [round(0.001 * (study + 1) + 1e-5 * level, 6) for level in range(LEVELS)]
        axes = f"train.weight_decay = {decays}\nmodel.growth_rate = [{5 + study}]\n"
        if study % 4 == 0:
            axes = f"train.weight_decay = {decays[:7]}\nmodel.growth_rate = {[5 + study + 50 * n for n in range(7)]}\n"
        text += f'[study.study{study}]\nquestion = "What does number {study} buy?"\n{axes}'
    grid = read(write_grid(folder, text), max_jobs=20_000)
    make_manifest(grid, MACHINE, folder / "r").write(folder / "r")
    (folder / "r" / "records").mkdir()
    for job in list_jobs(grid, MACHINE):
        record = record_of(job, generator.gauss(90, 1), generator.uniform(0.5, 2))
        if job.kind == "run":
            (line,) = record["deterministic"]["history"]
            history = [{**line, "epoch": n + 1, "train_loss": 2 / (n + 1) + generator.random() / 9} for n in range(20)]
            record["deterministic"]["history"], record["measured"]["epoch_seconds"] = history, [2.5] * 20
        (folder / "r" / "records" / f"{job.id}.json").write_bytes(records.seal(record))
    return folder / "r"


PEAK = """
import re, sys
from ablations.cli import app
try:
    app(sys.argv[1:])
finally:
    sys.stderr.write(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
"""Runs a command and tells the most memory that its process had, in KiB."""


@pytest.mark.bench
@pytest.mark.parametrize("command", ["status", "report --only tables", "report --only figures", "report"])
def test_ten_thousand_records(command, large, benchmark):
    name, *options = command.split()
    called = [
        "taskset",
        "--cpu-list",
        str(min(os.sched_getaffinity(0))),
        sys.executable,
        "-c",
        PEAK,
        name,
        str(large),
        *options,
    ]
    benchmark.group = "10,000 records on one core"
    benchmark.extra_info["records"] = len(list((large / "records").iterdir()))
    arguments, rounds = {"check": True, "capture_output": True, "text": True}, 3 if name == "status" else 1
    found = benchmark.pedantic(subprocess.run, (called,), arguments, rounds=rounds)
    benchmark.extra_info["peak_MiB"] = int(found.stderr.split()[-1]) // 1024
    print(f"\n{command}: {benchmark.extra_info}")
