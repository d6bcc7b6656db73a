"""Several processes train the network that one process trains. They are started in a fresh process, because a process
that has computed some things cannot be forked.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ablations.config import DataConfig, TrainConfig
from ablations.data.dataset import load
from ablations.execution.fresh import call_fresh
from ablations.execution.together import call_together
from ablations.training.distributed import ALONE, Group, choose_backend
from ablations.training.loop import derive_seed, make_network, train
from ablations.training.step import learning_rate, make_optimizer
from densenet import DenseNetConfig
from densenet.recompute import DiscardedBuffers

SMALL = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)
GROUPS = SMALL.model_copy(update={"norm": "group", "norm_groups": 4})
BATCH, IMAGES = 32, 101
"""The last batch of an epoch has 5 images: shares of 3 and 2, or of 2, 2 and 1."""


def train_in(group, model, variation, device, fields):
    """Trains in this process of a group, and gives results as JSON can hold them."""
    torch.set_num_threads(1)
    data = load(DataConfig(train_limit=IMAGES)).to(torch.device(device))
    network = make_network(model, 0, torch.device(device))
    config = TrainConfig(epochs=2, batch_size=BATCH, precision="fp64", processes=group.size, **fields)
    found = train(network, data, variation, config, 0, group=group)
    return {
        "weights": {name: tensor.flatten().tolist() for name, tensor in found.network.state_dict().items()},
        "losses": [epoch.train_loss for epoch in found.history],
        "accuracies": [epoch.train_accuracy for epoch in found.history],
        "norms": [epoch.gradient_norm for epoch in found.history],
        "test": [found.test.loss, found.test.calibration_error],
        "outcomes": found.test.outcomes,
    }


def train_all(sizes, model, variation=None, device="cpu", **fields):
    """Trains with each number of processes, the largest first: a process that has used CUDA cannot be forked."""
    found = {}
    for size in sorted(sizes, reverse=True):
        arguments = (model, variation or DataConfig(), device, fields)
        if size == 1:
            found[size] = train_in(ALONE, *arguments)
        else:
            found[size] = call_together(lambda group: train_in(group, *arguments), [device] * size, repr_of)  # noqa: B023
    return found


def repr_of(error):
    return {"error": repr(error)}


def fresh(function, *arguments):
    return call_fresh(function, arguments, "forkserver", lambda: False)


def train_everything():
    """All trainings of this file, in one fresh process."""
    options = {"clip_norm": 0.1, "ema": 0.9, "label_smoothing": 0.1, "decay_norms_and_biases": False}
    recomputing = SMALL.model_copy(update={"checkpoint": "bottleneck"})
    return {
        "plain": train_all((1, 2, 3), GROUPS, DataConfig(augmentation="cutout")),
        "options": train_all((1, 2), GROUPS, mix="cutmix", optimizer="adamw", learning_rate=0.001, **options),
        "shares": train_all((2,), SMALL),
        "recomputed": train_all((2,), recomputing),
    }


@pytest.fixture(scope="module")
def trained():
    return fresh(train_everything)


def flatten(results):
    return [value for values in results["weights"].values() for value in values]


@pytest.mark.parametrize("options", ["plain", "options"])
def test_any_number_of_processes_trains_the_same_network(options, trained):
    one = trained[options].pop(1)
    for other in trained[options].values():
        assert flatten(other) == pytest.approx(flatten(one), rel=0, abs=1e-14)
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-14)
        assert other["norms"] == pytest.approx(one["norms"], rel=1e-13)
        assert (other["accuracies"], other["outcomes"]) == (one["accuracies"], one["outcomes"])
        assert other["test"] == pytest.approx(one["test"], rel=1e-13)


def emulate_two(model):
    """What two processes do, in one: the first one's buffers, and the mean of both weighted gradients."""
    torch.set_num_threads(1)
    data = load(DataConfig(train_limit=IMAGES))
    config = TrainConfig(epochs=2, batch_size=BATCH, precision="fp64")
    network = make_network(model, 0, torch.device("cpu")).double().train()
    optimizer = make_optimizer(network, config)
    order = torch.Generator().manual_seed(derive_seed(0, "order"))
    batches = [batch for _ in range(2) for batch in torch.randperm(IMAGES, generator=order).split(BATCH)]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(config, step, len(batches), len(batches) // 2)
        gradients = []
        for share, buffers in zip(reversed(batch.tensor_split(2)), (DiscardedBuffers(network), None), strict=True):
            if buffers:
                buffers.__enter__()
            images = data.normalise(data.train.images[share]).double()
            loss = F.cross_entropy(network(images), data.train.labels[share])
            weighted = loss * (len(share) * 2 / len(batch))
            gradients.append(torch.autograd.grad(weighted, list(network.parameters())))
            if buffers:
                buffers.__exit__()
        for parameter, one, other in zip(network.parameters(), *gradients, strict=True):
            parameter.grad = one / 2 + other / 2
        optimizer.step()
    return {name: tensor.flatten().tolist() for name, tensor in network.state_dict().items()}


def test_a_batch_norm_sees_the_share_of_its_process_and_recomputation_changes_no_bit(trained):
    plain, emulated = trained["shares"][2], {"weights": emulate_two(SMALL)}
    assert plain["weights"].keys() == emulated["weights"].keys()
    assert flatten(plain) == pytest.approx(flatten(emulated), rel=0, abs=1e-15)
    assert plain == trained["recomputed"][2]


def train_two(model):
    return train_all((2,), model)[2]


@pytest.mark.slow
def test_normalize_once_and_dropout_train_in_two_processes():
    once = SMALL.model_copy(update={"implementation": "normalize-once"})
    assert flatten(fresh(train_two, once)) == pytest.approx(flatten(fresh(train_two, SMALL)), rel=0, abs=1e-9)
    dropped = SMALL.model_copy(update={"dropout": 0.2})
    assert fresh(train_two, dropped) == fresh(train_two, dropped)


def test_shares_of_a_batch():
    batch = torch.arange(11)
    groups = [Group(rank, 3) for rank in range(3)]
    assert [group.share(batch).tolist() for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [group.count(11) for group in groups] == [4, 4, 3]
    assert sum(group.weight(11) for group in groups) == pytest.approx(3)
    losses = [group.weigh(group.share(batch).double().mean(), 11) for group in groups]
    assert float(sum(losses)) == pytest.approx(5.0)
    assert ALONE.share(batch) is batch
    assert (ALONE.weight(11), ALONE.count(11), ALONE.any(True), ALONE.agree(False)) == (1.0, 11, True, False)
    assert ALONE.describe(TrainConfig()) == {}


def test_what_carries_tensors():
    assert choose_backend(["cpu", "cpu"]) == "gloo"
    assert choose_backend(["cuda:0", "cuda:1"]) == "nccl"
    assert choose_backend(["cuda:0", "cuda:0"]) == "gloo", "NCCL refuses two processes on one GPU"


def train_on_cuda(model):
    return train_all((1, 2), model, device="cuda:0")


def synchronise_on_cuda(model):
    two = train_all((2,), model, device="cuda:0", batch_norm="all")
    return two | train_all((1,), model, device="cuda:0")


@pytest.mark.gpu
@pytest.mark.parametrize(("function", "model"), [(train_on_cuda, GROUPS), (synchronise_on_cuda, SMALL)])
def test_two_processes_share_one_gpu(function, model):
    """Group norm, and batch norm over the whole batch."""
    found = fresh(function, model)
    assert flatten(found[2]) == pytest.approx(flatten(found[1]), rel=0, abs=1e-11)
    assert found[2]["losses"] == pytest.approx(found[1]["losses"], rel=1e-11)
    assert (found[2]["accuracies"], found[2]["outcomes"]) == (found[1]["accuracies"], found[1]["outcomes"])
