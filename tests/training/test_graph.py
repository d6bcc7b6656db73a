"""A recorded step computes what a step without a graph computes."""

import pytest
import torch

import ablations.training.loop as module
from ablations.config import DataConfig, TrainConfig
from ablations.data.dataset import load
from ablations.training.checkpoint import CheckpointStore, StopRequested
from ablations.training.graph import FIRST_STEPS, GraphedStep
from ablations.training.loop import hash_weights, make_network, train
from ablations.training.step import make_optimizer, prepare, prepare_images, set_rate, training_step
from densenet import DenseNetConfig

TINY = DenseNetConfig(block_config=(2, 2), growth_rate=4, in_channels=3)
RATE = 0.125  # a number of fp32


def take(step, device, steps, **fields):
    """The losses and the weights after some steps on batches of 16 images, each with its own learning rate."""
    config = TrainConfig(deterministic=True, **fields)
    network = prepare(make_network(TINY, 0, device), config).train()
    optimizer = make_optimizer(network, config)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for number in range(steps):
        images = torch.randn(16, 3, 16, 16, generator=generator).to(device)
        labels = torch.randint(10, (16,), generator=generator).to(device)
        set_rate(optimizer, RATE / 2 ** (number % 3))
        loss, _, norm = step(network, optimizer, prepare_images(images, config), labels, config)
        losses.append((loss.item(), norm.item()))
    return losses, hash_weights(network)


def test_on_a_cpu_a_step_runs_as_without_a_graph():
    device = torch.device("cpu")
    assert take(GraphedStep(), device, 5, cuda_graph=True) == take(training_step, device, 5)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"compile": True}, "compile"),
        ({"precision": "fp16"}, "precision fp16"),
        ({"optimizer": "torch.optim:RMSprop"}, "the optimizer torch.optim:RMSprop"),
    ],
)
def test_a_graph_does_not_go_with_everything(fields, named):
    with pytest.raises(ValueError, match=f"cuda_graph does not go with {named}: leave one or the other out"):
        TrainConfig(cuda_graph=True, **fields)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer": "adamw"},
        {"clip_norm": 0.5, "label_smoothing": 0.1, "decay_norms_and_biases": False},
        {"precision": "bf16", "memory_format": "channels_last"},
    ],
    ids=["sgd", "adamw", "clipped", "bf16"],
)
def test_fifty_recorded_steps_have_the_bits_of_others(fields, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    step = GraphedStep()
    found = take(step, torch.device("cuda"), 50, cuda_graph=True, **fields)
    assert step.graph is not None
    assert found == take(training_step, torch.device("cuda"), 50, **fields)


def whole(folder, stop_at=0, **fields):
    """A training of two epochs with a smaller last batch, and with dropout."""
    data = load(DataConfig(name="random", shape=(3, 16, 16), classes=4, size=8 * 16 + 3)).to(torch.device("cuda"))
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=RATE, schedule="constant", deterministic=True, **fields)
    calls = iter(range(1, 1000))
    model = TINY.model_copy(update={"dropout": 0.2, "num_classes": 4})
    return train(
        make_network(model, 0, torch.device("cuda")), data, DataConfig(augmentation="standard"), config, 0,
        store=CheckpointStore(folder, "job", {}), stopping=lambda: next(calls) == stop_at,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["textbook", "normalize-once"])
def test_a_training_with_a_graph_has_the_weights_of_one_without(implementation, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(f"{__name__}.TINY", TINY.model_copy(update={"implementation": implementation}))
    seen = []
    monkeypatch.setattr(module, "GraphedStep", lambda: seen.append(GraphedStep()) or seen[-1])
    found = whole(tmp_path / "graph", cuda_graph=True)
    assert seen[0].graph is not None
    assert found.weights == whole(tmp_path / "none").weights
    with pytest.raises(StopRequested):
        whole(tmp_path / "stopped", FIRST_STEPS + 3, cuda_graph=True)
    again = whole(tmp_path / "stopped", cuda_graph=True)
    assert (again.resumes, again.weights) == (1, found.weights)
