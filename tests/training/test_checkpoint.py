"""Checkpoints: a training that was interrupted ends bit for bit like one that was not, wherever that happened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import threading
import time
import tracemalloc
from contextlib import closing, suppress
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from broken_disk import Faults
from conftest import write_images
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from torch.nn.utils import weight_norm

from ablations.config import DataConfig, TrainConfig
from ablations.data.dataset import load
from ablations.data.images import FileImages
from ablations.storage import files
from ablations.training import loop as module
from ablations.training.checkpoint import AsyncCheckpointer, CheckpointStore, State, StopRequested
from ablations.training.events import Epoch, Progress
from ablations.training.loop import make_network, train
from ablations.training.step import make_average, make_optimizer
from densenet import DenseNetConfig, OwnConfig, ResNetConfig

CPU = torch.device("cpu")
DENSENET = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)
RESNET = ResNetConfig(depth=8, width=0.25, in_channels=1)
EPOCHS, PER_EPOCH = 3, 4
HERE = {"device": "cpu"}


class Death(BaseException):
    """Nothing more is done, and nothing kept."""


def silent(event: Progress | Epoch) -> None:
    pass


def go(folder, model, augmentation="none", stop_at=None, die_at=None, environment=HERE, device=CPU, **fields):
    """Trains from the checkpoint in the folder until its end, or until it is asked to stop, or dies, in a step."""
    data = load(DataConfig(train_limit=100, validation=50)).to(device)
    steps = iter(range(1, 1000))
    original = module.training_step

    def step(*arguments):
        step.number = next(steps)
        if step.number == die_at:
            raise Death
        return original(*arguments)

    step.number = 0
    config = TrainConfig(**{"epochs": EPOCHS, "batch_size": 32, **fields})
    store = CheckpointStore(folder, "job", environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "training_step", step)
        return train(
            make_network(model, 0, device), data, DataConfig(augmentation=augmentation), config, 0, silent, store,
            lambda: step.number == stop_at,
        )  # fmt: skip


def keep(store, state):
    """Keeps a state, and waits for it."""
    with closing(AsyncCheckpointer(store)) as checkpointer:
        checkpointer.save(state)


def result(outcome, folder):
    """All that must not depend on interruptions: weights, optimizer, generators, history, evaluations."""
    content = CheckpointStore(folder, "job", {}).paths[0].read_bytes()[32:]
    tensors = {
        name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in tensors_of(content).items()
    }
    values = json.loads(tensors.pop("values"))
    del tensors["made"], tensors["history rows"]  # it holds seconds; the outcome has the rest
    history = [{**asdict(line), "seconds": 0} for line in outcome.history]
    generators = (values["python"], values["numpy"])
    return tensors, generators, history, outcome.weights, outcome.test, outcome.validation


CASES = {
    "densenet": (DENSENET, {}),
    "densenet, dropout": (DENSENET.model_copy(update={"dropout": 0.3}), {}),
    "densenet, augmentation": (DENSENET, {"augmentation": "cutout"}),
    "densenet, dropout, augmentation, recomputation, adamw, average": (
        DENSENET.model_copy(update={"dropout": 0.3, "checkpoint": "layer"}),
        {"augmentation": "standard", "optimizer": "adamw", "learning_rate": 1e-3, "ema": 0.9, "schedule": "one-cycle"},
    ),
    "densenet, normalised once, dropout, channels last, bf16": (
        DENSENET.model_copy(update={"implementation": "normalize-once", "dropout": 0.3}),
        {"memory_format": "channels_last", "precision": "bf16"},
    ),
    "resnet, augmentation": (RESNET, {"augmentation": "standard", "clip_norm": 0.1, "schedule": "cosine"}),
    "resnet, torchvision's augmentation, mixing, own optimizer": (
        RESNET,
        {"augmentation": "randaugment", "mix": "mixup", "optimizer": "torch.optim:RMSprop", "learning_rate": 1e-3},
    ),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    found = {}
    for name, (model, fields) in CASES.items():
        folder = tmp_path_factory.mktemp("whole")
        found[name] = result(go(folder, model, **fields), folder)
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [1, PER_EPOCH - 1, PER_EPOCH, PER_EPOCH + 2, 2 * PER_EPOCH, EPOCHS * PER_EPOCH])
def test_a_stopped_training_ends_like_one_that_was_not(case, step, tmp_path, uninterrupted):
    model, fields = CASES[case]
    with pytest.raises(StopRequested):
        go(tmp_path, model, stop_at=step, **fields)
    outcome = go(tmp_path, model, **fields)
    assert result(outcome, tmp_path) == uninterrupted[case]
    assert (outcome.resumes, outcome.mixed) == (1, False)


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_dies_at_random_steps_ends_like_one_that_did_not(case, tmp_path, uninterrupted):
    model, fields = CASES[case]
    generator, deaths = random.Random(case), 0
    while deaths < 20:
        folder = tmp_path / str(deaths)
        often = {"checkpoint_seconds": generator.choice([0.0, 0.01, 60.0])}
        for _ in range(generator.randint(1, 3)):
            try:
                outcome = go(folder, model, die_at=generator.randint(1, EPOCHS * PER_EPOCH), **often, **fields)
                break
            except Death:
                deaths += 1
        else:
            outcome = go(folder, model, **fields)
        assert result(outcome, folder) == uninterrupted[case]


def test_a_training_asked_to_stop_while_it_is_evaluated_repeats_the_evaluation_alone(tmp_path, monkeypatch):
    whole = go(tmp_path / "whole", DENSENET)
    seen = []
    original = module.evaluate

    def asked(network, data, images, config, stopping, group):
        seen.append(images)
        return original(network, data, images, config, lambda: len(seen) == 2, group)

    monkeypatch.setattr(module, "evaluate", asked)
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET)
    monkeypatch.undo()
    calls = []
    original_step = module.training_step
    monkeypatch.setattr(module, "training_step", lambda *arguments: calls.append(1) or original_step(*arguments))
    outcome = go(tmp_path, DENSENET)
    assert result(outcome, tmp_path) == result(whole, tmp_path / "whole")
    assert len(calls) == (EPOCHS - 2) * PER_EPOCH


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    whole = go(tmp_path / "whole", DENSENET)
    for damage in (flip, lambda path: path.write_bytes(path.read_bytes()[:-7]), lambda path: path.unlink()):
        folder = tmp_path / str(damage)
        with pytest.raises(StopRequested):
            go(folder, DENSENET, stop_at=6)
        latest, before = CheckpointStore(folder, "job", HERE).paths
        damage(latest)
        assert taken_up(folder).steps == PER_EPOCH, "at the end of the first epoch"
        flip(before)
        assert taken_up(folder) is None
        assert result(go(folder, DENSENET), folder) == result(whole, tmp_path / "whole")


def taken_up(folder, model=DENSENET):
    network = make_network(model, 0, CPU)
    state = State(network, None, make_optimizer(network, TrainConfig()), torch.Generator().get_state())
    CheckpointStore(folder, "job", HERE).restore(state)
    return state if state.resumes else None


def test_another_network_s_checkpoint_is_not_taken_up(tmp_path):
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET, stop_at=2)
    other = DENSENET.model_copy(update={"growth_rate": 5})
    assert taken_up(tmp_path, other) is None
    assert not any(path.exists() for path in CheckpointStore(tmp_path, "job", HERE).paths)


class Unusual(torch.nn.Module):
    """Weights that a hook computes, buffers of other types, and one whose elements share memory."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.classifier = weight_norm(torch.nn.Linear(64 * in_channels, num_classes))
        self.register_buffer("ones", torch.ones(1, 1).expand(1, num_classes))
        self.register_buffer("rough", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("wave", torch.ones((), dtype=torch.complex64))

    def forward(self, images):
        return self.classifier(images.flatten(1)) * self.ones


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_unusual_tensors_of_a_network_are_kept_and_come_back(ema, tmp_path):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    model = OwnConfig(family=f"{__name__}:Unusual", in_channels=1)
    whole = result(go(tmp_path / "whole", model, ema=ema), tmp_path / "whole")
    with pytest.raises(StopRequested):
        go(tmp_path / "stopped", model, stop_at=2, ema=ema)
    outcome = go(tmp_path / "stopped", model, ema=ema)
    assert (outcome.resumes, outcome.refused) == (1, ())
    assert result(outcome, tmp_path / "stopped") == whole


def taken_up_with(folder, frozen):
    network = make_network(DENSENET, 0, CPU)
    for parameter in network.features.parameters():
        parameter.requires_grad_(not frozen)
    state = State(network, None, make_optimizer(network, TrainConfig()), torch.Generator().get_state())
    return CheckpointStore(folder, "job", HERE), state


@pytest.mark.parametrize("frozen", [True, False])
def test_the_state_of_other_parameters_is_left_alone(frozen, tmp_path):
    store, state = taken_up_with(tmp_path, frozen)
    for parameter in state._trained().values():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    keep(store, state)
    _, other = taken_up_with(tmp_path, not frozen)
    before = {name: tensor.clone() for name, tensor in other.network.state_dict().items()}
    store.restore(other)
    assert (other.resumes, other.optimizer.state) == (0, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.network.state_dict().items())
    assert not any(path.exists() for path in store.paths), "what can never be taken up is not kept"


def test_a_checkpoint_that_cannot_be_read_now_is_neither_lost_nor_ignored(tmp_path, monkeypatch):
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET, stop_at=6)

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "open_regular", fail)
        with pytest.raises(files.StorageError, match=r"job\.latest cannot be read: Input/output error"):
            taken_up(tmp_path)
    assert taken_up(tmp_path).steps == 2


def test_a_damaged_checkpoint_does_not_push_out_the_whole_one_before(tmp_path):
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET, stop_at=6)
    store = CheckpointStore(tmp_path, "job", HERE)
    flip(store.paths[0])
    assert taken_up(tmp_path).steps == PER_EPOCH
    assert [path.exists() for path in store.paths] == [False, True]


def test_a_checkpoint_of_another_job_or_configuration_is_not_taken_up(tmp_path):
    """It has the same shapes, so that its weights would fit."""
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET, stop_at=2)
    state, _ = fresh()
    mine = CheckpointStore(tmp_path, "job", HERE)
    other = CheckpointStore(tmp_path, "other", HERE)
    content = mine.paths[0].read_bytes()
    other.paths[0].write_bytes(content)
    other.restore(state)
    CheckpointStore(tmp_path, "job", HERE, {"seed": 1}).restore(state)
    mine.paths[0].write_bytes(content)
    CheckpointStore(tmp_path, "job", HERE, source={"network_source": "x"}).restore(state)
    assert (state.resumes, state.refused) == (0, [
        "other.latest: it is of job job", "job.latest: it is of another configuration",
        "job.latest: it was made with another source of the network: the file of its class",
    ])  # fmt: skip
    mine.paths[0].write_bytes(content)
    mine.restore(state)
    assert state.resumes == 1


def test_a_checkpoint_of_an_earlier_version_is_set_aside(tmp_path):
    state, _ = fresh()
    store = CheckpointStore(tmp_path, "job", HERE)
    made = json.dumps([HERE, {}]).encode()
    content = save({"made": torch.frombuffer(bytearray(made), dtype=torch.uint8)})
    files.write(store.paths[0], hashlib.sha256(content).digest() + content)
    store.restore(state)
    assert (state.resumes, state.refused) == (0, ["job.latest: it was made by an earlier version"])
    assert not store.paths[0].exists()


def test_the_history_comes_back_and_costs_eleven_numbers_an_epoch(tmp_path):
    state, _ = fresh()
    store = CheckpointStore(tmp_path, "job", HERE)
    line = Epoch(1, 0.1, 1 / 3, None, 70.0, 0.5, None, 0.1, 2.5, 100, 0.0)
    sizes = []
    for number in range(1, 4):
        state.end_epoch(replace(line, epoch=number), state.order)
        keep(store, state)
        sizes.append(store.paths[0].stat().st_size)
    assert sizes[2] - sizes[1] == 88
    found = taken_up(tmp_path)
    assert found.history == state.history
    assert found.rows.shape == (3, 11)
    assert type(found.history[0].images) is int


def test_a_training_that_goes_on_elsewhere_is_mixed_for_good(tmp_path):
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET, stop_at=1)
    with pytest.raises(StopRequested):
        go(tmp_path, DENSENET, stop_at=1, environment={"device": "another"})
    outcome = go(tmp_path, DENSENET, environment={"device": "another"})
    assert (outcome.resumes, outcome.mixed) == (2, True)


def test_checkpoints_come_at_every_epoch_s_end_and_at_their_interval(tmp_path):
    def count(seconds):
        written = []
        original = AsyncCheckpointer.save
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                AsyncCheckpointer,
                "save",
                lambda checkpointer, state: (written.append(state.steps), original(checkpointer, state)),
            )
            go(tmp_path / str(seconds), DENSENET, checkpoint_seconds=seconds)
        return written

    assert count(60.0) == [PER_EPOCH] * EPOCHS
    assert count(0.0) == [1, 2, 3, 4] * EPOCHS


def test_every_generator_is_kept(tmp_path):
    network = make_network(DENSENET, 0, CPU)
    state = State(network, None, make_optimizer(network, TrainConfig()), torch.Generator().get_state())
    keep(CheckpointStore(tmp_path, "job", HERE), state)
    drawn = random.random(), np.random.rand(), torch.rand(1)
    random.random(), np.random.normal(), torch.rand(5)
    CheckpointStore(tmp_path, "job", HERE).restore(state)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn


def test_the_average_goes_on_too(tmp_path):
    network = make_network(DENSENET, 0, CPU)
    config = TrainConfig(ema=0.5)
    state = State(
        network, make_average(network, config), make_optimizer(network, config), torch.Generator().get_state()
    )
    keep(CheckpointStore(tmp_path, "job", HERE), state)
    kept = state.average.classifier.weight.clone()
    torch.nn.init.zeros_(state.average.classifier.weight)
    CheckpointStore(tmp_path, "job", HERE).restore(state)
    assert torch.equal(state.average.classifier.weight, kept)


def test_finished_trainings_leave_nothing(tmp_path):
    go(tmp_path, DENSENET)
    store = CheckpointStore(tmp_path, "job", HERE)
    assert [path.exists() for path in store.paths] == [True, True]
    store.clear()
    store.clear()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_place_for_checkpoints_that_is_none_is_told_with_its_path(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(files.StorageError, match=r"checkpoints/job\.latest cannot be read: Not a directory"):
        go(tmp_path, DENSENET)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_the_old_state_or_the_new_whichever_call_of_a_checkpoint_fails(error, tmp_path, monkeypatch):
    network = make_network(DENSENET, 0, CPU)
    state = State(network, None, make_optimizer(network, TrainConfig()), torch.Generator().get_state())
    counted = Faults(0, None)
    for at in range(1, 100):
        store = CheckpointStore(tmp_path / str(at), "job", HERE)
        for seconds in (1.0, 2.0):
            state.seconds = seconds
            keep(store, state)
        state.seconds = 3.0
        monkeypatch.setattr(files, "os", Faults(at, error) if at > 1 else counted)
        with suppress(files.StorageError):
            keep(store, state)
        monkeypatch.setattr(files, "os", os)
        assert taken_up(tmp_path / str(at)).seconds in (2.0, 3.0)
        if at == counted.count:
            break
    assert counted.count >= 8


def fresh():
    """A state that its next steps will change, and a function that takes one."""
    network = make_network(DENSENET, 0, CPU)
    state = State(network, None, make_optimizer(network, TrainConfig()), torch.Generator().get_state())
    images = torch.randn(4, 1, 8, 8)

    def step():
        network(images).sum().backward()
        state.optimizer.step()
        state.steps += 1

    return state, step


def gated(monkeypatch):
    """Holds every writing of a checkpoint up until the event is set; gives it, and what has been begun."""
    gate, begun, original = threading.Event(), [], files.rotate

    def rotate(*arguments):
        begun.append(threading.current_thread())
        assert gate.wait(20)
        original(*arguments)

    monkeypatch.setattr(files, "rotate", rotate)
    return gate, begun


def test_what_is_kept_is_the_state_of_then_and_the_steps_go_on_meanwhile(tmp_path, monkeypatch):
    state, step = fresh()
    gate, begun = gated(monkeypatch)
    told: list[tuple[int, int]] = []
    with closing(AsyncCheckpointer(CheckpointStore(tmp_path, "job", HERE, written=told.append))) as checkpointer:
        step()
        state.steps = 0  # nothing was gathered
        then = state.network.classifier.weight.detach().clone()
        checkpointer.save(state)
        step()
        assert told == [], "it is not whole yet"
        gate.set()
    assert told == [(0, 0)]
    assert begun[0] is not threading.current_thread()
    assert not torch.equal(state.network.classifier.weight, then)
    assert torch.equal(taken_up(tmp_path).network.classifier.weight, then)


def test_a_second_checkpoint_waits_for_the_first(tmp_path, monkeypatch):
    state, _ = fresh()
    gate, begun = gated(monkeypatch)
    with closing(AsyncCheckpointer(CheckpointStore(tmp_path, "job", HERE))) as checkpointer:
        checkpointer.save(state)
        threading.Timer(0.1, lambda: begun.append("opened") or gate.set()).start()
        checkpointer.save(state)
        assert begun[1] == "opened"


def test_what_could_not_be_written_is_told_once_at_the_next_checkpoint_or_the_end(tmp_path, monkeypatch):
    def fail(*arguments):
        raise files.StorageError(errno.ENOSPC, "cannot be written", "there")

    state, _ = fresh()
    monkeypatch.setattr(files, "rotate", fail)
    checkpointer = AsyncCheckpointer(CheckpointStore(tmp_path, "job", HERE))
    checkpointer.save(state)
    with pytest.raises(files.StorageError):
        checkpointer.save(state)
    checkpointer.save(state)
    with pytest.raises(files.StorageError):
        checkpointer.close()
    checkpointer.close()


def test_a_state_is_copied_once_more_to_be_written_and_not_twice(tmp_path):
    """The training needs its memory meanwhile."""
    state = {"weights": torch.zeros(250_000)}
    tracemalloc.start()
    try:
        CheckpointStore(tmp_path, "job", HERE).write(state, (0, 0))
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stop_at", [2, None])
def test_a_training_ends_with_what_it_kept_whole_or_says_that_it_is_not(stop_at, tmp_path, monkeypatch):
    original = files.rotate

    def late(*arguments):
        time.sleep(0.1)
        original(*arguments)

    monkeypatch.setattr(files, "rotate", late)
    with suppress(StopRequested):
        go(tmp_path, DENSENET, stop_at=stop_at, epochs=1)
    assert taken_up(tmp_path).steps == (stop_at or PER_EPOCH)

    def fail(*arguments):
        time.sleep(0.1)
        raise files.StorageError(errno.ENOSPC, "cannot be written", "there")

    monkeypatch.setattr(files, "rotate", fail)
    with pytest.raises(files.StorageError):
        go(tmp_path / "full", DENSENET, stop_at=stop_at, epochs=1)


def test_nothing_is_being_written_while_readers_of_files_are_forked(tmp_path, monkeypatch):
    """A child gets the locks of a thread that it does not get."""
    write_images(tmp_path, 5)
    data = load(DataConfig(name="imagefolder", root=str(tmp_path), image_size=160, memory_limit=1, workers=1))
    writing, begun, rotate, batches = [], [], files.rotate, FileImages.batches

    def late(*arguments):
        writing.append(1)
        time.sleep(0.05)
        rotate(*arguments)
        writing.clear()

    def forked(images, indices):
        begun.append(images)
        assert writing == []
        return batches(images, indices)

    monkeypatch.setattr(files, "rotate", late)
    monkeypatch.setattr(FileImages, "batches", forked)
    network = make_network(DENSENET.model_copy(update={"in_channels": 3}), 0, CPU)
    train(network, data, DataConfig(), TrainConfig(epochs=2), 0, silent, CheckpointStore(tmp_path, "job", HERE))
    assert len(begun) == 3, "two epochs and the test"


def test_the_seconds_of_before_count_too(tmp_path):
    state, _ = fresh()
    state.watch.parts |= {"start": 5.0, "step": 7.0}
    keep(CheckpointStore(tmp_path, "job", HERE), state)
    found, _ = fresh()
    found.watch.parts["step"] = 1.0
    CheckpointStore(tmp_path, "job", HERE).restore(found)
    assert (found.watch.parts["start"], found.watch.parts["step"]) == (5.0, 8.0)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_on_cuda_a_deterministic_training_goes_on_bit_for_bit(optimizer, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    model = DENSENET.model_copy(update={"dropout": 0.3})
    fields = {"augmentation": "standard", "deterministic": True, "device": torch.device("cuda"), "optimizer": optimizer}
    whole = result(go(tmp_path / "whole", model, **fields), tmp_path / "whole")
    with pytest.raises(StopRequested):
        go(tmp_path, model, stop_at=PER_EPOCH + 2, **fields)
    assert result(go(tmp_path, model, **fields), tmp_path) == whole
