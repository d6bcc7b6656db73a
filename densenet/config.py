"""Every choice of the DenseNet paper as a field (Huang et al. 2017, arXiv 1608.06993)."""

from __future__ import annotations

from math import floor
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from densenet.options import (
    Activation,
    Checkpoint,
    Config,
    Connectivity,
    DropoutPlace,
    Implementation,
    Init,
    LayerOrder,
    Norm,
    Stem,
)

Blocks = tuple[int, ...]

IMAGENET_BLOCKS: dict[int, Blocks] = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}
"""Layers in each block, by the depth that names the ImageNet network: the paper's Table 1; 161 is from torchvision."""


NORMALISED_FIRST = {
    "layer_order": ("norm-act-conv",),
    "norm": ("batch",),
    "activation": ("relu",),
    "connectivity": ("concat",),
    "checkpoint": ("none", "bottleneck"),
}
"""The fields that normalize-once needs, so that all layers that read a feature normalise it by the same statistics."""


def _one_or_per_block(value: Any) -> Any:
    def positive(number: Any) -> bool:
        return isinstance(number, int) and not isinstance(number, bool) and 0 < number <= 10_000

    if positive(value):
        return value
    if isinstance(value, list | tuple) and value and all(positive(number) for number in value):
        return tuple(value)
    raise ValueError("Input should be a whole number above 0 and at most 10000, or a list of them, one per block")


def blocks_of(depth: int, bn_size: int, stem: Stem) -> Blocks:
    """Returns the number of layers in each block that gives the paper's depth L.

    CIFAR networks have three equal blocks of n layers (section 3, "Implementation Details"). With the stem, two
    transitions and the classifier, L is 3n + 4, or 6n + 4 with bottlenecks. Raises ValueError for a depth that does not
    fit, and names the nearest ones that do.
    """
    if stem == "imagenet":
        if depth in IMAGENET_BLOCKS and bn_size:
            return IMAGENET_BLOCKS[depth]
        named = ", ".join(map(str, IMAGENET_BLOCKS))
        raise ValueError(f"with the imagenet stem and bottlenecks, depth is one of {named}; else give block_config")
    step = 6 if bn_size else 3
    layers = min(max((depth - 4) // step, 1), 1000)
    if depth != step * layers + 4:
        layers = min(layers, 999)
        form = f"{step}n + 4, three blocks of n layers {'with' if bn_size else 'without'} bottlenecks"
        raise ValueError(
            f"Input should be {form}, from {step + 4} to {1000 * step + 4}; "
            f"the nearest are {step * layers + 4} and {step * (layers + 1) + 4}"
        )
    return (layers,) * 3


class DenseNetConfig(Config):
    """The fields of a DenseNet. The defaults are DenseNet-BC-100 with k = 12, for images of CIFAR's size."""

    family: Literal["densenet"] = "densenet"
    """The name of this family in a grid."""

    stem: Stem = "cifar"
    """The first convolution. cifar: 3x3. imagenet: 7x7 with stride 2, then a max pool (section 3, "Implementation
    Details")."""

    growth_rate: Annotated[int | tuple[int, ...], BeforeValidator(_one_or_per_block)] = 12
    """k, the channels that a layer adds (section 3, "Growth rate"): one number, or one for each block."""

    init_features: int = Field(default=0, ge=0, le=10_000)
    """Channels of the stem. 0: twice the (first) growth rate, the paper's choice for DenseNet-BC."""

    bn_size: int = Field(default=4, ge=0, le=100)
    """The width of the bottleneck, in growth rates (section 3, "Bottleneck layers"). 0: no bottleneck."""

    depth: int = Field(default=0, gt=0, exclude=True)
    """The paper's L, the number of weighted layers, given instead of `block_config`."""

    block_config: Annotated[
        tuple[Annotated[int, Field(gt=0, le=1000)], ...], Field(strict=False, min_length=1, max_length=8)
    ] = (16, 16, 16)
    """Layers in each dense block. (16, 16, 16) is DenseNet-BC-100 (section 3, "Implementation Details")."""

    compression: float = Field(default=0.5, gt=0, le=1)
    """theta, the share of channels that a transition keeps (section 3, "Compression"). 1: all of them. It means nothing
    if `connectivity` is not concat."""

    layer_order: LayerOrder = "norm-act-conv"
    """The order of norm, activation and convolution in every layer, transition, stem and head."""

    norm: Norm = "batch"
    """batch (Ioffe and Szegedy 2015), group (Wu and He 2018), or none. Without a norm every convolution has a bias."""

    norm_groups: int = Field(default=32, gt=0, le=10_000)
    """Groups of the group norm; Wu and He 2018 take 32. If they do not divide the channels, the next smaller number
    that does is taken."""

    activation: Activation = "relu"
    """The non-linearity. The paper's is relu."""

    connectivity: Connectivity = "concat"
    """What a layer does with the features before it. concat: x_l = H_l([x_0, ..., x_(l-1)]), equation 2. sum: x_l =
    H_l(x_(l-1)) + x_(l-1), equation 1, as in a ResNet. none: x_l = H_l(x_(l-1)). With sum and none, features have the
    width of the stem, which each transition doubles, and a layer passes through bn_size * k channels."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of elements that dropout sets to zero. The paper takes 0.2 where images are not augmented (section
    4.2)."""

    dropout_place: DropoutPlace = "layer"
    """layer: after the last convolution of every layer, as torchvision has it. convolution: after every convolution but
    the first, as the paper has it."""

    checkpoint: Checkpoint = "none"
    """What the backward pass computes again instead of keeping it (Pleiss et al. 2017). This changes memory and time,
    never a result."""

    init: Init = "fan-in"
    """The width of He's normal distribution. fan-in: as torchvision's DenseNets. fan-out: as the authors' Lua code."""

    implementation: Implementation = "textbook"
    """textbook: the equations as they stand. normalize-once: the same function, except for rounding, with less memory
    in training, and on a CPU also in less time; on a GPU it takes more. It needs batch norm, relu, layer_order
    norm-act-conv, connectivity concat, and checkpoint none (its fastest) or bottleneck (its smallest)."""

    in_channels: int = Field(default=3, gt=0, le=10_000)
    """Channels of the image."""

    num_classes: int = Field(default=10, gt=0, le=1_000_000)
    """Outputs of the classifier."""

    @field_validator("depth")
    @classmethod
    def _depth_fits(cls, depth: int, info: ValidationInfo) -> int:
        if depth and {"bn_size", "stem"} <= info.data.keys():
            blocks_of(depth, info.data["bn_size"], info.data["stem"])
        return depth

    @model_validator(mode="after")
    def _depth_and_blocks_agree(self) -> DenseNetConfig:
        """Computes depth and block_config from each other: equal networks get equal configurations."""
        blocks, depth = self.block_config, self.depth
        if depth:
            if "block_config" in self.model_fields_set:
                raise ValueError("depth and block_config say the same thing: give one of them")
            blocks = blocks_of(depth, self.bn_size, self.stem)
        depth = (2 if self.bn_size else 1) * sum(blocks) + len(blocks) + 1
        if self.stem == "imagenet" and self.bn_size:  # the network that is called 264 has 265 weighted layers
            depth = next((name for name, layers in IMAGENET_BLOCKS.items() if layers == blocks), depth)
        self.__dict__.update(block_config=blocks, depth=depth)  # sets fields of a frozen model
        return self

    @model_validator(mode="after")
    def _growth_rates_fit_blocks(self) -> DenseNetConfig:
        if isinstance(self.growth_rate, tuple) and len(self.growth_rate) != len(self.block_config):
            raise ValueError(
                f"growth_rate has {len(self.growth_rate)} entries for {len(self.block_config)} blocks: "
                "give one number, or one per block"
            )
        return self

    @model_validator(mode="after")
    def _normalises_once_what_is_normalised_first(self) -> DenseNetConfig:
        if self.implementation == "normalize-once":
            wrong = [
                f"{name} {', '.join(wanted[:-1])}{' or ' * (len(wanted) > 1)}{wanted[-1]}, not {getattr(self, name)}"
                for name, wanted in NORMALISED_FIRST.items()
                if getattr(self, name) not in wanted
            ]
            if wrong:
                raise ValueError(f'normalize-once needs {"; ".join(wrong)}: take implementation = "textbook"')
        return self

    @model_validator(mode="after")
    def _one_network_has_one_configuration(self) -> DenseNetConfig:
        """Sets fields without effect to their defaults, and equal growth rates to one number."""
        rates = set(self.growth_rates)
        fields: dict[str, Any] = {"growth_rate": rates.pop()} if len(rates) == 1 else {}
        idle = {
            "norm_groups": self.norm != "group",
            "dropout_place": not self.dropout,
            "compression": self.connectivity != "concat",
        }
        fields |= {name: type(self).model_fields[name].default for name, is_idle in idle.items() if is_idle}
        self.__dict__.update(fields)
        return self

    @property
    def growth_rates(self) -> tuple[int, ...]:
        """The growth rate k of each block."""
        return self.growth_rate if isinstance(self.growth_rate, tuple) else (self.growth_rate,) * len(self.block_config)

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass runs modules of the network a second time."""
        return self.checkpoint != "none" and self.implementation == "textbook"

    @property
    def stem_features(self) -> int:
        """Channels of the stem's output."""
        return self.init_features or 2 * self.growth_rates[0]

    @property
    def smallest_image(self) -> int:
        """The smallest height and width of an image, in pixels. With less, some pooling would have no output.

        Transitions round down. The ImageNet stem's convolution and pool round up.
        """
        before_transitions = 2 ** (len(self.block_config) - 1)
        return int(before_transitions if self.stem == "cifar" else 4 * before_transitions - 3)

    def layer_width(self, growth_rate: int, stream: int) -> int:
        """Returns the channels of a layer's output: k if features are concatenated, else the width of its input."""
        return growth_rate if self.connectivity == "concat" else stream

    def transition_width(self, channels: int) -> int:
        """Returns the channels of a transition's output: floor(theta * m) after concatenation, else 2 * m."""
        if self.connectivity != "concat":
            return 2 * channels
        return max(1, floor(round(self.compression * channels, 6)))
