"""normalize-once against the textbook: outputs, gradients, buffers, in training and after it; and what it keeps."""

from __future__ import annotations

from statistics import median

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, prune

from densenet import DenseNetConfig, build, count_macs, count_params, kernels, normalize_once
from densenet.normalize_once import apply_block

SMALL = {"block_config": (3, 2), "growth_rate": 4}


def pair(dtype=torch.float64, **fields):
    """Textbook and normalize-once with the same parameters, none of them at its start; images are channels last."""
    torch.manual_seed(fields.pop("seed", 0))
    checkpoint = fields.pop("checkpoint", "none")
    textbook = build(DenseNetConfig(**{**SMALL, **fields}))
    once = build(DenseNetConfig(**{**SMALL, **fields}, implementation="normalize-once", checkpoint=checkpoint))
    generator = torch.Generator().manual_seed(1)
    for parameter in textbook.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, generator=generator)
    once.load_state_dict(textbook.state_dict())
    return textbook.to(dtype).to(memory_format=torch.channels_last), once.to(dtype)


def step(network, size=(8, 8), images=5, dtype=torch.float64, precision=None, seed=0):
    """Scores, gradients and buffers of a training step."""
    generator = torch.Generator().manual_seed(seed)
    channels = network.features.conv0.in_channels
    x = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 10, (images,), generator=generator)
    torch.manual_seed(2)
    network.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision is not None):
        scores = network(x.contiguous(memory_format=torch.channels_last))
    F.cross_entropy(scores.to(dtype), labels).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {
        "scores": scores.detach(),
        **gradients,
        **{name: buffer.clone() for name, buffer in network.named_buffers()},
    }


def farthest(found, expected):
    """The largest distance of any value, relative to the largest value of its tensor where that is above 1."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name].double() - value.double()).abs().max() / max(1.0, float(value.abs().max())))
        for name, value in expected.items()
    )


@pytest.fixture(autouse=True)
def even_in_small_blocks(monkeypatch):
    monkeypatch.setattr(normalize_once, "SMALL", 0)


@pytest.fixture(params=["compiled loops", "formulas"])
def loops(request, monkeypatch):
    if request.param == "formulas":
        monkeypatch.setattr(kernels, "library", lambda: None)
    elif kernels.library() is None:
        pytest.skip("there was no compiler at the installation")


@pytest.mark.parametrize(
    ("size", "fields"),
    [
        ((8, 8), {}),
        ((8, 8), {"checkpoint": "bottleneck"}),
        ((13, 10), {"growth_rate": (4, 7), "compression": 1.0}),
        ((8, 8), {"bn_size": 0, "dropout": 0.3}),
        ((6, 8), {"dropout": 0.2, "checkpoint": "bottleneck"}),
        ((8, 8), {"dropout": 0.2, "dropout_place": "convolution"}),
        ((8, 8), {"dropout": 0.2, "dropout_place": "convolution", "checkpoint": "bottleneck"}),
        ((40, 33), {"stem": "imagenet", "block_config": (2, 1, 2)}),
    ],
)
def test_it_is_the_textbook_s_function(size, fields, loops):
    textbook, once = pair(**fields)
    for seed in range(2):
        assert farthest(step(once, size, seed=seed), step(textbook, size, seed=seed)) < 1e-10
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert (once.eval()(images) - textbook.eval()(images)).abs().max() < 1e-10


@settings(max_examples=10)
@given(
    layers=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    k=st.integers(1, 7),
    bn_size=st.integers(0, 3),
    init=st.integers(1, 9),
    colours=st.integers(1, 3),
    compression=st.sampled_from([0.3, 0.5, 1.0]),
    checkpoint=st.sampled_from(["none", "bottleneck"]),
    images=st.integers(1, 18),
    height=st.integers(5, 9),
)
def test_random_networks(layers, k, bn_size, init, colours, compression, checkpoint, images, height):
    textbook, once = pair(
        block_config=tuple(layers), growth_rate=k, bn_size=bn_size, init_features=init, compression=compression,
        checkpoint=checkpoint, in_channels=colours,
    )  # fmt: skip
    try:
        expected = step(textbook, (height, 7), images)
    except ValueError:  # a single value per channel
        with pytest.raises(ValueError, match="one value per channel"):
            step(once, (height, 7), images)
    else:
        assert farthest(step(once, (height, 7), images), expected) < 1e-10


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (16, 2)])
def test_one_grey_image_whose_strides_do_not_say_which_dimension_is_last(size):
    textbook, once = pair(in_channels=1)
    assert farthest(step(once, size, images=1), step(textbook, size, images=1)) < 1e-10
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        assert (once.eval()(image) - textbook.eval()(image)).abs().max() < 1e-10


@pytest.mark.parametrize(("precision", "dtype"), [(None, torch.float32), (torch.bfloat16, torch.float32)])
def test_its_error_is_at_most_twice_the_textbook_s(precision, dtype):
    """Against float64; in bf16, which rounds at other places, too. A rectifier may tip in one of them: the median."""
    ratios = []
    for seed in range(5):
        shape = {"block_config": (6, 6, 6), "growth_rate": 8, "seed": seed}
        exact = step(pair(**shape)[0], (16, 16), 8)
        textbook, once = (farthest(step(each, (16, 16), 8, dtype, precision), exact) for each in pair(dtype, **shape))
        assert min(textbook, once) > 0
        ratios.append(once / textbook)
    assert median(ratios) <= 2


def test_one_state_dict_serves_both():
    textbook, once = pair()
    step(once)
    back = build(DenseNetConfig(**SMALL)).double()
    back.load_state_dict(load(save(once.state_dict())))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert (back.eval()(images) - once.eval()(images)).abs().max() < 1e-12
    assert textbook.state_dict().keys() == once.state_dict().keys()


def test_consumers_whose_statistics_disagree_each_keep_their_own():
    """As in the textbook's network: nothing is converted, so there is nothing to refuse."""
    textbook, once = pair()
    for network in (textbook, once):
        generator = torch.Generator().manual_seed(3)
        for name, buffer in network.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.1)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert (once.eval()(images) - textbook.eval()(images)).abs().max() < 1e-10
    assert farthest(step(once.train()), step(textbook.train())) < 1e-10


def frozen(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def one_differs(network):
    network.features.denseblock1.denselayer2.norm1.eps = 0.1


def cumulative(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None


def dropping_nothing(network):
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.eval()


def dropping_always(network):
    network.eval()
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.train()


def without_parameters(network):
    """The network with norms that scale and shift nothing."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.affine = False
            part.register_parameter("weight", None)
            part.register_parameter("bias", None)


def pruned(network):
    convolution = network.features.denseblock1.denselayer2.conv2
    convolution.to(memory_format=torch.contiguous_format)  # as prune wants it
    prune.l1_unstructured(convolution, "weight", amount=0.5)


def spectral(network):
    torch.manual_seed(4)
    parametrizations.spectral_norm(network.features.denseblock1.denselayer2.conv2)


def doubled(network):
    network.features.denseblock1.denselayer2.register_forward_hook(lambda module, arguments, result: 2 * result)


def another_activation(network):
    network.features.denseblock2.denselayer1.relu2 = nn.GELU()


CHANGES = [frozen, one_differs, cumulative, nn.Module.eval, nn.SyncBatchNorm.convert_sync_batchnorm]
CHANGES += [dropping_nothing, dropping_always, without_parameters, pruned, spectral, doubled, another_activation]


@pytest.mark.parametrize("change", CHANGES)
def test_where_modules_do_something_else_it_does_it_too(change):
    textbook, once = pair(dropout=0.3)
    change(textbook)
    change(once)
    for seed in range(2):
        assert farthest(step(once, seed=seed), step(textbook, seed=seed)) < 1e-10
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    scores = []
    for network in (textbook, once):
        torch.manual_seed(5)
        with torch.no_grad():
            scores.append(network(images))
    assert (scores[1] - scores[0]).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_half_precision_are_computed_as_in_the_textbook(dtype):
    textbook, once = pair(dtype)
    assert farthest(step(once, dtype=dtype), step(textbook, dtype=dtype)) == 0
    images = torch.randn(2, 3, 8, 8, dtype=dtype)
    with torch.no_grad():
        assert once.eval()(images).equal(textbook.eval()(images))


@pytest.mark.parametrize("training", [True, False])
def test_no_images_have_no_scores_and_no_statistics(training):
    textbook, once = pair()
    for network in (textbook, once):
        with torch.no_grad():
            assert network.train(training)(torch.empty(0, 3, 8, 8, dtype=torch.float64)).shape == (0, 10)
    for found, expected in zip(once.buffers(), textbook.buffers(), strict=True):
        assert found.equal(expected) or (found.isnan().equal(expected.isnan()))


def exported(network, images):
    return torch.export.export(network, (images,)).module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("record", [torch.jit.trace, exported, lambda network, images: make_fx(network)(images)])
def test_what_is_recorded_computes_the_same(record):
    """The compiled loops would be missing in it."""
    network = pair()[1].eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert (record(network, images)(2 * images) - network(2 * images)).abs().max() < 1e-10


@pytest.mark.parametrize("training", [True, False])
def test_without_numbers_there_are_shapes(training):
    network = build(DenseNetConfig(**SMALL, implementation="normalize-once")).to("meta").train(training)
    assert network(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("checkpoint", ["none", "bottleneck"])
def test_the_backward_pass_may_be_called_in_any_autocast(checkpoint):
    textbook, once = pair(torch.float32, checkpoint=checkpoint)
    for network in (textbook, once):
        scores = network(torch.ones(4, 3, 8, 8).cumsum(3))
        with torch.autocast("cpu", torch.bfloat16):
            scores.logsumexp(1).sum().backward()
    for one, other in zip(once.parameters(), textbook.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() <= 1e-4 * other.grad.abs().max().clamp(min=1)


def test_what_it_cannot_do_it_refuses():
    """A second derivative, and a gradient with weights that are no longer those of the forward pass."""
    network = pair()[1]
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()
    scores = network(images)
    with torch.no_grad():
        network.features.denseblock1.denselayer2.conv1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scores.sum().backward()


def test_gradients_add_up_and_a_graph_may_be_used_twice():
    textbook, once = pair(checkpoint="bottleneck")
    found = []
    for network in (textbook, once):
        loss = network(torch.ones(2, 3, 8, 8, dtype=torch.float64).cumsum(3)).logsumexp(1).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert farthest(found[1], found[0]) < 1e-10


def test_what_is_frozen_gets_no_gradient():
    textbook, once = pair()
    for network in (textbook, once):
        network.features.conv0.requires_grad_(False)
        network.features.denseblock1.denselayer1.conv1.requires_grad_(False)
        network.zero_grad()
        network(torch.ones(2, 3, 8, 8, dtype=torch.float64).cumsum(3)).logsumexp(1).sum().backward()
    for one, other in zip(once.parameters(), textbook.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or (one.grad - other.grad).abs().max() < 1e-10


def test_without_gradients_training_still_moves_the_statistics():
    textbook, once = pair()
    for network in (textbook, once):
        with torch.no_grad():
            network(torch.ones(2, 3, 8, 8, dtype=torch.float64).cumsum(3))
    assert farthest(dict(once.named_buffers()), dict(textbook.named_buffers())) < 1e-10


def saved(network, images):
    """Bytes that the forward pass keeps for the backward pass, parameters left out."""
    storages, own = {}, {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = network(images)
    return sum(storages.values()), scores


@pytest.mark.parametrize(("checkpoint", "per_layer"), [("none", 5), ("bottleneck", 1)])
def test_it_keeps_k_channels_a_layer_and_the_bottleneck_s_4k(checkpoint, per_layer):
    config = DenseNetConfig(block_config=(12,), growth_rate=8, implementation="normalize-once", checkpoint=checkpoint)
    images, pixels = torch.randn(4, 3, 16, 16), 4 * 16 * 16
    kept, scores = saved(build(config), images)
    features = 4 * pixels * (16 + 12 * 8 * per_layer)
    around = 4 * (3 * pixels + 2 * 4 * (16 + 96) + 10 * 4)  # the stem's images; what the head keeps
    assert features <= kept <= features + around + 12 * 2 * 4 * 32 + 3 * 4 * (16 + 96)
    scores.sum().backward()


def test_its_counts_are_the_textbook_s():
    textbook, once = (DenseNetConfig(implementation=each) for each in ("textbook", "normalize-once"))
    assert count_macs(once, (32, 32)) == count_macs(textbook, (32, 32))
    assert count_params(once) == count_params(textbook) == 769_162


def test_the_configuration_says_all_that_it_needs():
    with pytest.raises(ValidationError) as error:
        DenseNetConfig(
            implementation="normalize-once", layer_order="conv-norm-act", norm="group", activation="gelu",
            connectivity="sum", checkpoint="layer",
        )  # fmt: skip
    for words in ("layer_order norm-act-conv, not conv-norm-act", "norm batch, not group", "activation relu, not gelu"):
        assert words in str(error.value)
    assert "connectivity concat, not sum" in str(error.value)
    assert 'checkpoint none or bottleneck, not layer: take implementation = "textbook"' in str(error.value)


@pytest.mark.parametrize(("images", "side", "blocks"), [(2, 4, 0), (5, 4, 1), (5, 8, 2), (5, 24, 3)])
def test_small_blocks_compute_as_the_textbook_does(images, side, blocks, monkeypatch):
    applied = []
    monkeypatch.setattr(normalize_once, "apply_block", lambda *each: applied.append(each) or apply_block(*each))
    monkeypatch.setattr(normalize_once, "SMALL", 5 * 12 * 4 * 4)  # the second of 16, 12 and 10 channels, for side 8
    textbook, once = pair(block_config=(2, 1, 1))
    assert farthest(step(once, (side, side), images), step(textbook, (side, side), images)) < 1e-10
    assert len(applied) == blocks


def test_images_that_are_too_small_are_named():
    with pytest.raises(ValueError, match="1 x 8 pixels is too small"):
        pair()[1](torch.zeros(2, 3, 1, 8, dtype=torch.float64))


def test_pieces_are_whole_units_and_cover_all():
    x = torch.empty(1000, 700)
    found = list(normalize_once.pieces(x, 16))
    assert [each.start for each in found] == [each.stop for each in [slice(0), *found[:-1]]]
    assert found[-1].stop == 1000
    assert all((each.stop - each.start) % 16 == 0 for each in found[:-1])
    assert len(list(normalize_once.pieces(torch.empty(1000, 700, device="meta"), 16))) == 1


@pytest.fixture
def traced(monkeypatch):
    """Blocks on a CPU are whole and traced, as they are on a GPU."""
    monkeypatch.setattr(normalize_once, "HOST", "another")
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_torch_compile_traces_it_without_a_break(traced):
    textbook, once = pair(block_config=(1, 1))
    once.compile(backend="eager", fullgraph=True)
    assert farthest(step(once), step(textbook)) < 1e-10


@pytest.mark.slow
def test_traced_it_takes_any_number_of_images_and_both_modes(traced):
    textbook, once = pair()
    once.compile(backend="eager", fullgraph=True)
    for count in (5, 3, 4, 16):  # from the second on, it is a symbol
        assert farthest(step(once, images=count), step(textbook, images=count)) < 1e-10
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert (once.eval()(images) - textbook.eval()(images)).abs().max() < 1e-10


# torch.compile asks for `grad` where it leaves the blocks out
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_on_a_cpu_torch_compile_leaves_the_compiled_loops():
    textbook, once = pair(block_config=(1, 1))
    expected = step(once)
    once.load_state_dict(textbook.state_dict())
    torch.compiler.reset()
    once.compile(backend="eager")
    found = step(once)
    assert all(found[name].equal(value) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"checkpoint": "bottleneck", "compression": 1.0, "growth_rate": (4, 7)}])
def test_compiled_it_is_the_textbook_s_function(fields, traced):
    textbook, once = pair(**{"block_config": (2, 1), **fields})
    once.compile(fullgraph=True)
    for seed in range(2):
        assert farthest(step(once, (9, 7), seed=seed), step(textbook, (9, 7), seed=seed)) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["none", "bottleneck"])
def test_traced_dropout_drops_the_same(checkpoint, traced):
    textbook, once = pair(block_config=(2, 1), dropout=0.3, checkpoint=checkpoint)
    once.compile(backend="aot_eager", fullgraph=True)
    assert farthest(step(once), step(textbook)) < 1e-10
