"""`make bench`: training steps beside those of others.

Only the steps that pytest selects are measured, so `-k` chooses them.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cases import AVAILABLE, BATCH, CASES, FLOPS, RATES, Case, make_step, memory, product, profiled, ready, textbook
from rounds import ROUNDS, Measured, Worker, measure, replayed, report
from torch import Tensor

from densenet import DenseNetConfig, build, kernels, macs_of


@pytest.fixture(scope="module")
def steps(request) -> Measured:
    """The selected cases and rates, each in a process of its own with one thread."""
    chosen = [item.callspec.params["name"] for item in request.session.items if "steps" in item.fixturenames]
    cases = {name: partial(make_step, case) for name, case in AVAILABLE.items() if name in chosen}
    rates = {name: partial(product, *rate) for name, rate in RATES.items() if name in chosen}
    return measure([Worker({name: make}) for name, make in (cases | rates).items()], ROUNDS)


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
    case = CASES[name]
    macs = macs_of(case.make().eval(), torch.zeros(1, 3, 32, 32))
    flops = 3 * 2 * macs * BATCH  # the backward pass takes the forward's twice: by weights and by inputs
    facts = {"precision": case.precision, "batch": BATCH, "macs": macs, "flops": flops, "disturbed": steps.disturbed}
    report(benchmark, "training step", steps.seconds[name], **facts, **memory(case), profile=profiled(case))


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", RATES)
def test_rate(benchmark, steps, name):
    kind, precision = RATES[name]
    report(benchmark, "rate", steps.seconds[name], precision=precision, flops=FLOPS[kind])


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
