"""Costs: closed formulas, a hand-counted live peak, and two sources that must agree."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ablations.config import CostConfig, TrainConfig
from ablations.execution.fresh import call_fresh
from ablations.execution.together import call_together
from ablations.profiling import cost, counts, memory, timing
from ablations.profiling.subject import Held, Subject
from ablations.profiling.timing import FEWEST_REPEATS
from densenet import DenseNetConfig, OwnConfig, ResNetConfig, TorchvisionConfig, build, count_operations
from densenet.options import Checkpoint, Connectivity, LayerOrder

SMALL = CostConfig(
    DenseNetConfig(block_config=(2, 2), growth_rate=4, in_channels=1), (8, 8), TrainConfig(batch_size=16)
)
RESNET = CostConfig(ResNetConfig(depth=8, width=0.5, in_channels=1), (8, 8), TrainConfig(batch_size=16))
CPU = torch.device("cpu")


def densenet_macs(k: int, bn_size: int, layers: tuple[int, ...], theta: float, size: int, classes: int) -> int:
    """Multiply-accumulates, from the paper's equations."""
    channels, total = 2 * k, 9 * 2 * k * size**2
    for number, count in enumerate(layers):
        for _ in range(count):
            total += (channels * bn_size * k + bn_size * k * k * 9) * size**2
            channels += k
        if number < len(layers) - 1:
            total += channels * int(theta * channels) * size**2
            channels, size = int(theta * channels), size // 2
    return total + channels * classes


def test_macs_equal_the_closed_formula():
    counted = counts.count(SMALL)
    assert counted["macs"] == densenet_macs(4, 4, (2, 2), 0.5, 8, 10)
    assert counted["flops"] == 2 * counted["macs"]


def test_bc_100_12_has_its_published_params_and_macs():
    counted = counts.count(CostConfig(DenseNetConfig(), (32, 32), TrainConfig(batch_size=64)))
    assert counted["params"] == 769_162
    assert counted["macs"] == 287_929_692


def test_a_network_is_counted_as_the_textbook_has_it():
    once = CostConfig(SMALL.model.model_copy(update=ONCE), SMALL.image_size, SMALL.train)
    assert counts.count(once) == counts.count(SMALL)


def test_activations_count_what_convolutions_and_linear_layers_put_out():
    blocks = 2 * (16 + 4) * 64 + 8 * 64 + 2 * (16 + 4) * 16  # two layers, the transition's convolution, two layers
    assert counts.count(SMALL)["activations"] == 8 * 64 + blocks + 10


@pytest.mark.parametrize(
    "choice",
    [
        *({"layer_order": order} for order in get_args(LayerOrder)),
        *({"connectivity": connectivity} for connectivity in get_args(Connectivity) if connectivity != "concat"),
    ],
    ids=lambda choice: str(*choice.values()),
)
def test_fvcore_counts_the_same_in_every_densenet(choice):
    check_with_fvcore(DenseNetConfig(block_config=(2, 2), growth_rate=4, **choice), (8, 8))


@pytest.mark.parametrize(
    "model",
    [
        DenseNetConfig(block_config=(2, 2), growth_rate=4, bn_size=0, compression=0.5, norm="none"),
        DenseNetConfig(block_config=(2,), growth_rate=4, stem="imagenet", norm="group"),
        ResNetConfig(depth=8, width=0.5),
        ResNetConfig(depth=11, block="bottleneck", shortcut="projection", order="full-pre-activation"),
        TorchvisionConfig(name="mobilenet_v3_small"),
        TorchvisionConfig(name="swin_t"),
    ],
    ids=lambda model: f"{model.family} {getattr(model, 'name', '')}",
)
def test_fvcore_counts_the_same_elsewhere(model):
    check_with_fvcore(model, (64, 64))


def check_with_fvcore(model, size):
    """Two counters that know nothing of each other: torch's dispatcher, and fvcore's trace."""
    network, images = build(model).eval(), torch.zeros(1, getattr(model, "in_channels", 3), *size)
    found = counts.count(CostConfig(model, size, TrainConfig()))
    again = counts.count_again(network, images, found["macs"])
    assert again["counters_agree"]
    assert again["fvcore_macs"] == found["macs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import ActivationCountAnalysis

        outputs = ActivationCountAnalysis(network, images).unsupported_ops_warnings(False)
        elements = outputs.uncalled_modules_warnings(False).by_operator()
    assert found["activations"] == elements["conv"] + elements["linear"] + elements["matmul"]


def test_fvcore_is_not_loaded_where_it_is_not_asked():
    script = """
        import sys
        from ablations.config import CostConfig, TrainConfig
        from ablations.profiling import cost, counts
        from densenet import DenseNetConfig
        found = counts.count(CostConfig(DenseNetConfig(block_config=(1,), growth_rate=2), (4, 4), TrainConfig()))
        assert found["macs"] and "counters_agree" not in found
        sys.exit("fvcore" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 0


@pytest.mark.parametrize("fake", [False, True])
def test_live_storage_follows_birth_and_death(fake):
    with FakeTensorMode() if fake else torch.no_grad(), memory.LiveStorage() as live:
        a = torch.zeros(1000)
        assert live.bytes == 4000
        b = a + 1
        view = b[:10]
        assert live.bytes == 8000
        del b
        assert live.bytes == 8000, "a view keeps its storage"
        del view
        assert (live.bytes, live.peak) == (4000, 8000)
        live.restart()
        a.add_(1)
        assert live.peak == 4000


ONCE = {"implementation": "normalize-once"}


def three_sources(model, size=(16, 16), batch_size=32, **fields) -> None:
    """Predicted, alive and traced agree within a percent, in training and in inference."""
    config = CostConfig(model, size, TrainConfig(batch_size=batch_size, **fields))
    predicted = memory.predict(config)
    for name, probe in (("train", memory.train_probe), ("inference", memory.inference_probe)):
        held, peaks = memory.measure_peaks(probe, config, CPU)
        assert peaks.memory == pytest.approx(peaks.traced, rel=0.01), name
        assert predicted[f"predicted_{name}_peak_memory_bytes"] == pytest.approx(peaks.memory, rel=0.01), name
        assert peaks.allocated >= peaks.traced
        if name == "train":
            activations = peaks.memory - held.weights_bytes - held.optimizer_bytes
            assert predicted["predicted_activations_bytes"] == pytest.approx(activations, rel=0.01)


@pytest.mark.parametrize("kind", get_args(Checkpoint))
@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64"])
@pytest.mark.slow
def test_memory_has_three_sources_for_every_recomputation_and_precision(kind, precision):
    three_sources(DenseNetConfig(block_config=(3, 3), growth_rate=8, checkpoint=kind), precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize("order", get_args(LayerOrder))
def test_memory_has_three_sources_for_every_order(order):
    three_sources(DenseNetConfig(block_config=(3, 3), growth_rate=8, layer_order=order))


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        pytest.param(
            DenseNetConfig(block_config=(3, 3), growth_rate=8, connectivity="sum", dropout=0.2),
            {},
            marks=pytest.mark.slow,
        ),
        (
            DenseNetConfig(block_config=(3, 3), growth_rate=8, checkpoint="layer"),
            {"memory_format": "channels_last", "precision": "bf16"},
        ),
        (DenseNetConfig(block_config=(3, 3), growth_rate=8), {"optimizer": "adamw", "ema": 0.9, "clip_norm": 1.0}),
        (ResNetConfig(depth=8), {}),
        (DenseNetConfig(block_config=(3, 3), growth_rate=8, **ONCE), {"memory_format": "channels_last"}),
        (DenseNetConfig(block_config=(3, 3), growth_rate=8, **ONCE, checkpoint="bottleneck"), {"precision": "bf16"}),
    ],
    ids=[
        "sum",
        "layer, bf16, channels_last",
        "adamw, ema",
        "resnet",
        "normalised once",
        "normalised once, bottleneck, bf16",
    ],
)
def test_memory_has_three_sources_otherwise_too(model, fields):
    three_sources(model, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(Checkpoint))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_of_bc_100_12_has_three_sources(kind, precision):
    three_sources(DenseNetConfig(checkpoint=kind), (32, 32), 16, precision=precision)


@pytest.mark.parametrize("content", [b"{}", b"null", b"3", b'{"values": {"x": 1}, "digest": "0"}', b"", b"\xff"])
def test_a_prediction_that_is_not_as_it_was_kept_is_made_again(content):
    model = DenseNetConfig(block_config=(1,), growth_rate=2)
    config = CostConfig(model, (4, 4), TrainConfig(batch_size=2))
    expected = memory.predict(config)
    (path,) = [path for path in (memory.cache_folder() / "predictions").iterdir() if path.name in kept_names(config)]
    path.write_bytes(content)
    assert memory.predict(config) == expected


def kept_names(config) -> list[str]:
    key = memory.identity(
        {"cost": memory.cost_fields(config), "torch": torch.__version__, "code": memory.describe_code()["fingerprint"]}
    )
    return [f"{key}.json"]


def test_what_is_held_is_counted_to_the_byte():
    subject = Subject(CostConfig(SMALL.model, (8, 8), TrainConfig(optimizer="adamw", ema=0.5)), CPU)
    subject.train()
    params = counts.count(SMALL)["params"]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in subject.network.buffers())
    held = subject.measure_held()
    steps = 4 * len(list(subject.network.parameters()))
    assert held == Held(
        weights_bytes=4 * params + buffers,
        gradients_bytes=4 * params,
        optimizer_bytes=2 * 4 * params + steps + 4 * params + buffers,
    )


def test_bf16_is_priced_as_bf16_and_fp64_as_fp64():
    model = DenseNetConfig(block_config=(3, 3), growth_rate=8)
    activations = {
        precision: memory.predict(CostConfig(model, (16, 16), TrainConfig(batch_size=32, precision=precision)))[
            "predicted_activations_bytes"
        ]
        for precision in ("fp32", "bf16", "fp64")
    }
    assert activations["fp64"] == pytest.approx(2 * activations["fp32"], rel=0.01)
    assert activations["bf16"] == pytest.approx(activations["fp32"] / 2, rel=0.05)


def test_recomputation_lowers_the_predicted_peak():
    peaks = {}
    for kind in ("none", "bottleneck", "layer", "block"):
        config = CostConfig(
            DenseNetConfig(block_config=(6, 6), growth_rate=8, checkpoint=kind), (16, 16), TrainConfig(batch_size=32)
        )
        peaks[kind] = memory.predict(config)["predicted_train_peak_memory_bytes"]
    assert max(peaks["bottleneck"], peaks["layer"], peaks["block"]) < peaks["none"]


def test_weights_gradients_and_momentum_are_in_the_peak():
    """Batch and image so small that the parameters are nearly all of it."""
    config = CostConfig(ResNetConfig(depth=20, width=2.0), (1, 1), TrainConfig(batch_size=2))
    params = counts.count(config)["params"]
    peak = memory.predict(config)["predicted_train_peak_memory_bytes"]
    assert 3 * 4 * params < peak < 3.6 * 4 * params


@pytest.mark.parametrize("config", [SMALL, RESNET], ids=["densenet", "resnet"])
def test_everything_is_measured(config, monkeypatch):
    for kind in ("TRAIN", "INFERENCE", "LATENCY"):
        monkeypatch.setattr(cost, f"{kind}_SECONDS", 0.0)
    values = cost.measure(config, CPU)
    for name in ("train", "inference"):
        assert values[f"{name}_repeats"] == FEWEST_REPEATS
        assert values[f"{name}_stopped_by"] in ("precision", "budget")
        assert isinstance(values[f"{name}_disturbed"], str)
        assert values[f"{name}_step_relative_iqr"] >= 0
        assert values[f"{name}_images_per_second"] == pytest.approx(16 / values[f"{name}_step_seconds"])
    assert values["latency_step_seconds"] > 0
    assert 0 < values["inference_peak_memory_bytes"] < values["train_peak_memory_bytes"]


class TickingClock:
    """Goes on by one second whenever it is read."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        self.seconds += 1.0
        return self.seconds

    def process_time(self):
        return 0.0


def test_the_phases_of_a_training_step_add_up_to_it(monkeypatch):
    """The clock is read at a step's start, after each phase and at its end."""
    monkeypatch.setattr(timing, "time", TickingClock())
    values = cost.measure(SMALL, CPU)
    assert [values[f"train_{phase}_seconds"] for phase in ("forward", "backward", "optimizer")] == [1.0, 1.0, 1.0]
    assert values["train_step_seconds"] == 4.0, "and one second from the last phase to the end"
    assert values["train_images_per_second"] == SMALL.batch_size / 4.0


@pytest.mark.gpu
def test_cuda_peaks_are_the_allocator_s():
    values = cost.measure(SMALL, torch.device("cuda"))
    assert values["train_peak_reserved_bytes"] >= values["train_peak_memory_bytes"] > values["workspace_bytes"] >= 0


class Undecided(torch.nn.Module):
    """A user's network with a product that is no linear layer, and a decision by value."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.fc = torch.nn.Linear(in_channels, num_classes)

    def forward(self, images):
        x = images.mean((2, 3))
        if x.sum() > 1e9:
            x = x + 1
        return (x @ self.fc.weight.T) + self.fc(x)


def test_of_a_network_written_elsewhere_a_prediction_may_be_missing():
    config = CostConfig(OwnConfig(family=f"{__name__}:Undecided"), (4, 4), TrainConfig(batch_size=8))
    counted = counts.count(config)
    assert (counted["macs"], counted["fvcore_macs"], counted["counters_agree"]) == (60, 60, True)
    assert "counters_agree" not in counts.count(SMALL), "tests compare them"
    (key,) = memory.predict(config)
    assert key == "prediction_failed"


class Products(torch.nn.Module):
    """A user's network that multiplies 12 x 4 numbers for each of 16 places by a weight, in one of many ways."""

    WAYS = {  # noqa: RUF012
        "conv": lambda w, x: F.conv2d(x, w[:, :, None, None]),
        "linear": lambda w, x: F.linear(x.flatten(2).mT, w),
        "matmul": lambda w, x: w @ x.flatten(2),
        "einsum": lambda w, x: torch.einsum("oc,nchw->nohw", w, x),
        "bmm": lambda w, x: torch.bmm(w[None].expand(len(x), -1, -1), x.flatten(2)),
        "baddbmm": lambda w, x: torch.baddbmm(x.new_zeros(1, 12, 16), w[None].expand(len(x), -1, -1), x.flatten(2)),
        "addbmm": lambda w, x: torch.addbmm(x.new_zeros(12, 16), w[None].expand(len(x), -1, -1), x.flatten(2)),
        "tensordot": lambda w, x: torch.tensordot(w, x, ([1], [1])),
        "mv": lambda w, x: torch.stack([w @ place for place in x.flatten(2)[0].T]),
        "dot": lambda w, x: torch.stack([row.dot(place) for row in w for place in x.flatten(2)[0].T])[None],
        "broadcast": lambda w, x: (w[:, :, None] * x.flatten(2)[:, None]).sum(2),
        "scaled": lambda w, x: (x.flatten(2)[:, None].expand(-1, 12, -1, -1) * w[:, :, None]).sum(2),
        "bilinear": lambda w, x: F.bilinear(x.flatten(2).mT, x.new_ones(1, 16, 1), w[:, :, None]),
    }

    def __init__(self, in_channels, num_classes, way="conv"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(12, in_channels))
        self.gain = torch.nn.Parameter(torch.ones(in_channels, 1, 1))
        self.norm = torch.nn.BatchNorm2d(in_channels)
        self.way = self.WAYS[way]

    def forward(self, images):
        return self.way(self.weight, self.norm(images) * self.gain).flatten(1)[:, :10]


@pytest.mark.parametrize("way", Products.WAYS)
def test_products_with_a_weight_are_counted_or_the_row_is_marked(way):
    model = OwnConfig(family=f"{__name__}:Products", in_channels=4, way=way)
    found = counts.count(CostConfig(model, (4, 4), TrainConfig(batch_size=2)))
    marked = {"broadcast": "aten::mul", "scaled": "aten::mul", "bilinear": "aten::_trilinear"}
    if uncounted := marked.get(way):
        assert (found["counters_agree"], found["uncounted"]) == (False, (uncounted,))
        return
    assert (found["macs"], found["activations"]) == (12 * 4 * 16, 12 * 16)
    assert "uncounted" not in found
    assert found.get("counters_agree", way) in (True, "addbmm", "tensordot"), "two products that fvcore does not know"


class Unusual(torch.nn.Module):
    """A user's network with a fixed weight in a buffer, a weight that is no parameter, or a complex weight."""

    WAYS = {  # noqa: RUF012
        "fixed": (lambda self, x: (self.fixed[:, :, None] * x[:, None]).sum(2), "aten::mul"),
        "hidden": (lambda self, x: self.hidden[0] @ x, "weights that are no parameters of the network"),
        "complex": (lambda self, x: (self.complex @ x.cfloat()).abs(), "complex aten::bmm"),
        "normal": (lambda self, x: self.norm(x) * self.scale, None),
    }

    def __init__(self, in_channels, num_classes, way):
        super().__init__()
        self.register_buffer("fixed", torch.ones(num_classes, in_channels))
        self.hidden = [torch.nn.Parameter(torch.ones(num_classes, in_channels))]
        self.complex = torch.nn.Parameter(torch.ones(1, num_classes, in_channels, dtype=torch.cfloat))
        self.scale = torch.nn.Parameter(torch.ones(in_channels, 1))
        self.norm, self.way = torch.nn.BatchNorm1d(in_channels), self.WAYS[way][0]

    def forward(self, images):
        return self.way(self, images.flatten(2)).mean(2)


@pytest.mark.parametrize("way", Unusual.WAYS)
def test_what_the_counts_of_unusual_weights_lack_is_told(way):
    found, marked = count_operations(Unusual(4, 10, way).eval(), torch.zeros(1, 4, 4, 4)), Unusual.WAYS[way][1]
    assert found.uncounted == ((marked,) if marked else ())


class Attentive(torch.nn.Module):
    """A user's network with attention: 16 tokens of 8 numbers, with or without one operator for its products."""

    def __init__(self, in_channels, num_classes, weights):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.weights = weights

    def forward(self, images):
        x = images.flatten(2).mT
        return self.attention(x, x, x, need_weights=self.weights)[0].mean(1)


@pytest.mark.parametrize("weights", [False, True])
def test_attention_is_counted_in_whatever_way_it_is_computed(weights):
    model = OwnConfig(family=f"{__name__}:Attentive", in_channels=8, num_classes=8, weights=weights)
    found = counts.count(CostConfig(model, (4, 4), TrainConfig(batch_size=2)))
    assert found["macs"] == found["fvcore_macs"] == 4 * 16 * 8 * 8 + 2 * 16 * 16 * 8
    assert (found["counters_agree"], "uncounted" in found) == (True, False)


class Reentrant(Undecided):
    """A user's network that fvcore cannot trace."""

    def forward(self, images):
        return checkpoint(self.fc, images.mean((2, 3)), use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_a_network_that_the_second_counter_cannot_trace_is_counted_by_the_first():
    config = CostConfig(OwnConfig(family=f"{__name__}:Reentrant"), (4, 4), TrainConfig(batch_size=8))
    found = counts.count(config)
    assert found["macs"] == 30
    assert found["fvcore_failed"] in [f"{kind}: unordered_map::at" for kind in ("RuntimeError", "IndexError")]
    assert "counters_agree" not in found


@pytest.mark.parametrize(
    "name", ["regnet_x_400mf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_tiny", "swin_t"))]
)
def test_networks_that_read_numbers_from_tensors_while_they_are_built_are_predicted_too(name):
    config = CostConfig(TorchvisionConfig(name=name), (64, 64), TrainConfig(batch_size=2))
    assert counts.count(config)["macs"] > 1e6
    predicted = memory.predict(config)
    params = counts.count(config)["params"]
    assert predicted["predicted_train_peak_memory_bytes"] > 3 * 4 * params


@pytest.mark.slow
def test_what_compiling_takes_stands_apart(monkeypatch):
    """In the compiler's place the very first call puts the clock forward by 30 seconds."""
    clock = TickingClock()

    def compiled(network):
        waits = iter([30.0])
        network.register_forward_pre_hook(lambda *_: setattr(clock, "seconds", clock.seconds + next(waits, 0.0)))

    monkeypatch.setattr(timing, "time", clock)
    with monkeypatch.context() as patched:
        first = iter([compiled])
        patched.setattr(torch.nn.Module, "compile", lambda network: next(first, lambda _: None)(network))
        found = cost.measure(replace(SMALL, train=SMALL.train.model_copy(update={"compile": True})), CPU)
    assert found["train_compile_seconds"] == 30.0
    assert found["train_step_seconds"] == 4.0
    assert "train_compile_seconds" not in cost.measure(SMALL, CPU)


class Constant(torch.nn.Module):
    """A user's network without a convolution or a linear layer."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(num_classes))

    def forward(self, images):
        return images.mean((1, 2, 3)).view(-1, 1) * self.scores


def test_a_network_without_a_product_has_no_macs():
    found = counts.count(CostConfig(OwnConfig(family=f"{__name__}:Constant"), (4, 4), TrainConfig(batch_size=2)))
    assert (found["params"], found["macs"], found["activations"]) == (10, 0, 0)


def measure_together(two):
    """In a fresh process, because predictions compute what cannot be forked after."""
    torch.set_num_threads(1)
    for name in ("TRAIN_SECONDS", "INFERENCE_SECONDS", "LATENCY_SECONDS"):
        setattr(cost, name, 0.1)
    measured = call_together(
        lambda group: cost.measure(two, CPU, group), ["cpu", "cpu"], lambda error: {"": repr(error)}
    )
    return {**memory.predict(two), **measured}


def test_two_processes_are_measured_together():
    """Memory is that of one of them, which has half of a batch and always all gradients; throughput that of both."""
    two = replace(SMALL, train=TrainConfig(batch_size=33, processes=2))
    found = call_fresh(measure_together, (two,), "forkserver", lambda: False)
    assert found["train_images_per_second"] == pytest.approx(33 / found["train_step_seconds"])
    assert found["train_backward_seconds"] > 0
    assert found["inference_images_per_second"] == pytest.approx(33 / found["inference_step_seconds"])
    predicted = found["predicted_train_peak_memory_bytes"]
    assert found["train_peak_memory_bytes"] == pytest.approx(predicted, rel=0.02)
    half = memory.predict(replace(SMALL, train=TrainConfig(batch_size=17)))
    assert predicted == half["predicted_train_peak_memory_bytes"] + found["gradients_bytes"]
    assert found["gradients_bytes"] == 4 * sum(each.numel() for each in build(SMALL.model).parameters())
