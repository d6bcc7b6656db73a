"""The configuration of a run, of a cost and of a comparison of speed, and the identity that names them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ablations.parts import OneOf, fingerprint_parts, is_own
from ablations.storage.records import PROTOCOL as PROTOCOL  # part of every identity
from ablations.storage.records import identity as identity
from densenet import Config, DenseNetConfig, fingerprint_weights


@dataclass(frozen=True)
class Role:
    """The role of a field of DataConfig or TrainConfig. Every field must have one."""

    identity: bool = True
    """Whether it is part of a run's identity. Not: where data lies, how it is read, and what is kept."""

    step: bool = False
    """Whether the cost of a single step depends on it."""

    only: tuple[str, ...] = ()
    """The data sets that have the field; empty: all of them."""


RESULT, STEP, BESIDE = Role(), Role(step=True), Role(identity=False)
"""The roles of a field: it changes a training's results; it also changes the cost of a step; it changes neither."""


def role_of(config: type[Config], name: str) -> Role:
    """Returns the role of a field. Raises TypeError for a field of DataConfig or TrainConfig without a role."""
    roles = [each for each in config.model_fields[name].metadata if isinstance(each, Role)]
    if not roles and config in (DataConfig, TrainConfig):
        raise TypeError(f"{config.__name__}.{name} names no role: write Annotated[..., RESULT], or STEP, or BESIDE")
    return roles[0] if roles else RESULT


AUGMENTATIONS = ("none", "standard", "cutout", "randaugment", "trivialaugment", "resized-crop")


class DataConfig(Config):
    """The images: which, from where, how many, and how they are varied in training."""

    name: Annotated[str, RESULT] = "digits"
    """The name of the data set. `ablate list` shows all of them. Or `package.module:name`, a function that gives the
    images."""

    root: Annotated[str, BESIDE] = ""
    """The folder that holds the files. Empty: the folder that this suite downloads to."""

    validation: Annotated[float, RESULT] = Field(default=0.0, ge=0)
    """Images that are cut from the training set to choose on: a share below 1, or a whole number of images. Each class
    gives its share. The default is none, so that every image is trained on, as in the paper."""

    train_limit: Annotated[int, RESULT] = Field(default=0, ge=0)
    """The number of images to train on, of those that `validation` leaves. The classes are balanced. 0: all."""

    test_limit: Annotated[int, RESULT] = Field(default=0, ge=0)
    """The number of images to test on, always the same ones, with the same share of each class. Captions say so. 0:
    all, as published results have it."""

    subset_seed: Annotated[int, RESULT] = Field(default=0, ge=0, lt=2**63)
    """Decides which images `validation` and `train_limit` take. They are the same for every seed of a run."""

    augmentation: Annotated[str, OneOf(AUGMENTATIONS), RESULT] = "none"
    """How training images are varied. standard: they are shifted by up to 4 pixels, with zeros where nothing is left,
    and half of them are mirrored (the DenseNet paper, section 4.1). cutout: a square is erased as well (DeVries and
    Taylor 2017). randaugment (Cubuk et al. 2020) and trivialaugment (Müller and Hutter 2021): one or two random changes
    of colour or shape, after the mirroring. resized-crop: a random part of the image, resized to its size, and
    mirrored (Szegedy et al. 2015). These three are torchvision's, image by image, and slower. Or
    `package.module:name`, a function. The default is none: a mirrored digit is no digit, so state standard for
    photographs."""

    cutout_size: Annotated[int, RESULT] = Field(default=16, gt=0, le=10_000)
    """The edge of cutout's square, in pixels. Its paper takes 16 on CIFAR-10 and 8 on CIFAR-100."""

    image_size: Annotated[int, Role(only=("imagefolder", "parquet"))] = Field(default=0, ge=0, le=10_000)
    """For `imagefolder` and `parquet`: the shorter side is resized to this many pixels, and the middle square is kept.
    0: images stay as they are."""

    test_share: Annotated[float, Role(only=("imagefolder", "parquet", "arrays"))] = Field(default=0.0, ge=0, lt=1)
    """For `imagefolder`, `parquet` and `arrays`: the share of each class that becomes the test set, if there is no test
    set of its own. The default is none: a split that its authors published is better than ours."""

    image_column: Annotated[str, Role(only=("parquet",))] = ""
    """For `parquet`: the column of the images. Empty: `image` or `img`, or the only column that may hold images."""

    label_column: Annotated[str, Role(only=("parquet",))] = ""
    """For `parquet`: the column of the classes. Empty: `label`, or the only column that may hold classes."""

    memory_limit: Annotated[int, BESIDE] = Field(default=4096, gt=0)
    """MiB. A smaller data set becomes one tensor in memory. A larger image folder is read from its files during
    training. The default, 4 GiB, holds every data set of 32 x 32 pixels and fits a small machine."""

    workers: Annotated[int, BESIDE] = Field(default=2, ge=0, le=256)
    """Processes that read a large image folder. Two keep a small network busy."""

    shape: Annotated[
        tuple[Annotated[int, Field(gt=0, le=100_000)], ...], Field(strict=False, max_length=3), Role(only=("random",))
    ] = ()
    """For `random`: channels, height and width."""

    classes: Annotated[int, Role(only=("random",))] = Field(default=0, ge=0, le=1_000_000)
    """For `random`: the number of classes."""

    size: Annotated[int, Role(only=("random",))] = Field(default=0, ge=0, le=10_000_000)
    """For `random`: the number of training images, and of test images."""

    @field_validator("validation")
    @classmethod
    def _a_share_or_a_number(cls, validation: float) -> float:
        if validation >= 1 and validation % 1:
            raise ValueError("Input should be a share below 1, or a whole number of images")
        return validation

    @model_validator(mode="after")
    def _fields_belong_to_their_data_sets(self) -> DataConfig:
        for name in type(self).model_fields:
            owners = role_of(type(self), name).only
            if owners and getattr(self, name) and self.name not in owners:
                raise ValueError(f"{name} is a field of {' and '.join(owners)}, not of {self.name}: leave it out")
        return self


class TrainConfig(Config):
    """How a network is trained. The defaults are the DenseNet paper's recipe for CIFAR (section 4.2), shortened."""

    optimizer: Annotated[str, OneOf(("sgd", "adamw")), STEP] = "sgd"
    """sgd: with Nesterov momentum and no dampening, as in the paper. adamw: Loshchilov and Hutter 2019. Or
    `package.module:name`, a class of optimizers, for example `torch.optim:RMSprop`."""

    loss: Annotated[str, OneOf(("cross-entropy",)), STEP] = "cross-entropy"
    """What is minimised. Or `package.module:name`, a function of scores and classes."""

    learning_rate: Annotated[float, RESULT] = Field(default=0.1, gt=0)
    """The highest rate of the schedule. The paper takes 0.1; adamw needs about a hundredth of it."""

    momentum: Annotated[float, RESULT] = Field(default=0.9, gt=0, lt=1)
    """The Nesterov momentum of sgd, or the first beta of adamw. The paper takes 0.9."""

    weight_decay: Annotated[float, RESULT] = Field(default=1e-4, ge=0)
    """An L2 penalty in sgd, decoupled in adamw. The paper takes 1e-4."""

    decay_norms_and_biases: Annotated[bool, STEP] = True
    """Whether weight decay applies to parameters of one dimension too. In the paper's code it does."""

    schedule: Annotated[str, OneOf(("step", "cosine", "one-cycle", "constant")), RESULT] = "step"
    """How the rate changes from step to step. step: divided by 10 after 50 % and 75 % of all steps, as in the paper.
    cosine: half a cosine down to 0 (Loshchilov and Hutter 2017, without restarts). one-cycle: cosines up from 1/25 of
    the rate over 30 % of the steps, then down to 1/250000 (Smith and Topin 2018). constant: not at all. Or
    `package.module:name`, a function that gives the factor of each step."""

    warmup_epochs: Annotated[float, RESULT] = Field(default=0.0, ge=0)
    """Epochs over which the rate rises linearly before the schedule begins. The paper has none."""

    epochs: Annotated[int, RESULT] = Field(default=40, gt=0, le=1_000_000)
    """Passes over the training images. The paper takes 300 on CIFAR and 40 on SVHN; the default is short, for a first
    look."""

    steps: Annotated[int, RESULT] = Field(default=0, gt=0, le=1_000_000_000)
    """Steps of the optimizer, given instead of `epochs`. The last epoch may end early."""

    batch_size: Annotated[int, STEP] = Field(default=64, gt=0, le=1_000_000)
    """Images in a step. The paper takes 64."""

    last_batch: Annotated[Literal["keep", "drop"], RESULT] = "keep"
    """keep: the last batch of an epoch may be smaller, so that every image is seen. drop: it is left out."""

    label_smoothing: Annotated[float, STEP] = Field(default=0.0, ge=0, lt=1)
    """The share of the target that is spread over all classes (Szegedy et al. 2016). The paper has none."""

    mix: Annotated[Literal["none", "mixup", "cutmix"], RESULT] = "none"
    """How the images of a batch are mixed in pairs, and their classes with them. mixup: as weighted sums (Zhang et al.
    2018). cutmix: a rectangle of one image comes from the other (Yun et al. 2019). Both are torchvision's."""

    mix_alpha: Annotated[float, RESULT] = Field(default=1.0, gt=0, le=100)
    """Both parameters of the beta distribution that draws the shares of `mix`."""

    clip_norm: Annotated[float, STEP] = Field(default=0.0, ge=0)
    """The gradient of all parameters is scaled down to this norm if it is larger. 0: never, as in the paper."""

    ema: Annotated[float, STEP] = Field(default=0.0, ge=0, lt=1)
    """The decay of an exponential moving average of weights and buffers. The average is then what is tested. 0: there
    is none, as in the paper."""

    precision: Annotated[Literal["fp32", "tf32", "bf16", "fp16", "fp64"], STEP] = "fp32"
    """fp32: the default, so that results differ by design and not by rounding. tf32: on CUDA only. bf16: autocast, with
    weights and optimizer in fp32. fp16: the same on CUDA only, with a scaled loss; a step whose gradient is not finite
    is skipped, and lowers the scale. fp64: to check others."""

    memory_format: Annotated[Literal["contiguous", "channels_last"], STEP] = "contiguous"
    """How images and feature maps lie in memory. contiguous is PyTorch's default. channels_last is often faster."""

    compile: Annotated[bool, STEP] = False
    """Whether torch.compile is used. It takes a minute or more before the first step, so it pays in long trainings.
    This time stands apart, in the column `train_compile_seconds` of costs; throughput is without it."""

    cuda_graph: Annotated[bool, STEP] = False
    """On CUDA: whether the whole step is recorded once and then replayed. This saves the time that Python needs to
    start each kernel, which is most of the time of a small network. The computation is the same, but for the learning
    rate, which is rounded to fp32. A smaller last batch runs without it."""

    evaluation_interval: Annotated[int, RESULT] = Field(default=1, gt=0)
    """Epochs from one evaluation on the validation images to the next. The last epoch always has one."""

    test_curve: Annotated[bool, RESULT] = False
    """Whether the test images are evaluated at that interval too. The default is no: test images should not be looked
    at before the end."""

    keep_weights: Annotated[bool, BESIDE] = False
    """Whether the final weights are kept beside the record, for `ablations.load_model`. This holds for runs that are
    made after it was set."""

    deterministic: Annotated[bool, STEP] = False
    """On CUDA: use algorithms that give the same bits every time, also after an interruption. They are slower, and a
    network with an operation that has no such algorithm fails. On a CPU algorithms always do."""

    processes: Annotated[int, STEP] = Field(default=1, gt=0, le=1024)
    """Processes that train one network together, each with its own device: a GPU, or a core. Each takes a share of
    every batch, so the batches, their order and their augmentation are the same for any number. Gradients are averaged
    over the whole batch (Li et al. 2020). Dropout draws other numbers."""

    batch_norm: Annotated[Literal["share", "all"], STEP] = "share"
    """With several processes: the images over which a batch norm takes mean and variance. share: those of its process,
    so the norm sees smaller batches, and the running statistics are those of the first process. all: the whole batch,
    on CUDA only."""

    checkpoint_seconds: Annotated[float, BESIDE] = Field(default=60.0, ge=0)
    """Seconds after which the state of a training is saved within an epoch; it is saved at the end of every epoch
    anyway. This is the work that a dying machine may take away. 0: after every step."""

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> TrainConfig:
        if self.steps and "epochs" in self.model_fields_set:
            raise ValueError("epochs and steps say the same thing: give one of them")
        if is_own(self.loss) and self.label_smoothing:
            raise ValueError(f"label_smoothing belongs to cross-entropy, not to {self.loss}: leave it out")
        others = {"compile": self.compile, "precision fp16": self.precision == "fp16"}
        others |= {f"the optimizer {self.optimizer}": is_own(self.optimizer)}
        if self.cuda_graph and any(others.values()):
            named = " and ".join(name for name, there in others.items() if there)
            raise ValueError(f"cuda_graph does not go with {named}: leave one or the other out")
        self._check_processes()
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ValueError("schedule one-cycle has a rise of its own: leave warmup_epochs out")
        return self

    def _check_processes(self) -> None:
        """Raises ValueError for fields that do not go with several processes."""
        if self.processes == 1:
            if self.batch_norm == "all":
                raise ValueError(
                    'batch_norm = "all" needs processes = 2 or more: one process has the whole batch anyway'
                )
            return
        if self.processes > self.batch_size:
            rule = f"more than the batch_size = {self.batch_size} images of a batch, and each takes one or more"
            raise ValueError(f"processes = {self.processes} is {rule}")
        others = {"compile": self.compile, "cuda_graph": self.cuda_graph, f"the loss {self.loss}": is_own(self.loss)}
        if any(others.values()):
            named = " and ".join(name for name, there in others.items() if there)
            why = ": it may be no mean over the images of a batch" if is_own(self.loss) else ""
            raise ValueError(f"processes = {self.processes} does not go with {named}{why}: leave one or the other out")

    def steps_per_epoch(self, images: int) -> int:
        """Returns the number of batches in an epoch of `images` images, with the incomplete one if it is kept."""
        whole, rest = divmod(images, self.batch_size)
        return whole + (rest > 0 and self.last_batch == "keep")

    def total_steps(self, images: int) -> int:
        """Returns the number of steps of the whole training on `images` images."""
        return self.steps or self.epochs * self.steps_per_epoch(images)

    def with_fields(self, fields: Mapping[str, Any]) -> TrainConfig:
        """Returns the same training with other fields. `epochs` replaces `steps`, and `steps` replaces `epochs`.

        Raises pydantic's ValidationError if the fields are not valid together.
        """
        replaced = {"epochs": "steps", "steps": "epochs"}
        gone = {replaced[name] for name in fields if name in replaced}
        own = {name: value for name, value in self.model_dump(exclude_unset=True).items() if name not in gone}
        return TrainConfig.model_validate({**own, **fields})

    @property
    def of_a_step(self) -> TrainConfig:
        """The fields that change the cost of one step. The others have their defaults."""
        names = [name for name in type(self).model_fields if role_of(type(self), name).step]
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        if not self.weight_decay:
            fields["weight_decay"] = 0.0  # only whether there is weight decay may change the cost, not how much
        return TrainConfig(**fields)


Fields = dict[str, Any]


@dataclass(frozen=True)
class Tuning:
    """How fields of the training are chosen for a variant, in the same way for all variants.

    A candidate is one combination of the listed values. A trial is a training with a candidate and a seed, which is
    evaluated on validation images.
    """

    axes: tuple[tuple[str, tuple[Any, ...]], ...]
    """The fields that are chosen, each with its list of values; several are their product."""

    seeds: tuple[int, ...]
    """Seeds of the trials alone, never of reported runs."""

    validation: float
    """Images cut from the training set to choose on: a share of them below 1, or a whole number."""

    schedule: tuple[tuple[str, Any], ...] = ()
    """Other fields of the training while it is tuned, for example fewer epochs."""

    def candidates(self) -> list[Fields]:
        """Returns every combination of the values, `{"learning_rate": 0.1}`, in the order of the lists."""
        names = [name for name, _ in self.axes]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*(each for _, each in self.axes))]

    def trial(self, variant: Variant, candidate: Mapping[str, Any]) -> Variant:
        """Returns the variant with the fields of a trial of this candidate, and with validation images."""
        fields = {**dict(self.schedule), "keep_weights": False, **candidate}
        data = variant.data.model_copy(update={"validation": float(self.validation)})
        return Variant(variant.model, data, variant.train.with_fields(fields))


@dataclass(frozen=True)
class Variant:
    """A full configuration without its seed."""

    model: Config
    data: DataConfig
    train: TrainConfig
    tuning: Tuning | None = None
    """How fields of `train` are yet to be chosen; None where all stand."""

    follows_base: bool = False
    """Whether it takes what is chosen for the base, instead of being tuned itself."""

    def settle(self, chosen: Mapping[str, Any]) -> Variant:
        """Returns the variant with its chosen fields. It is equal to a variant that sets these fields itself."""
        return Variant(self.model, self.data, self.train.with_fields(chosen))


@dataclass(frozen=True)
class RunConfig:
    """One training: a variant and a seed."""

    variant: Variant
    seed: int


@dataclass(frozen=True)
class CostConfig:
    """The fields that determine the cost of a variant. The length of training and the seed are not among them."""

    model: Config
    image_size: tuple[int, int]
    """Height and width, in pixels."""

    train: TrainConfig
    """What of the training a single step depends on."""

    @property
    def batch_size(self) -> int:
        """Images per step, in training and in inference."""
        return self.train.batch_size


@dataclass(frozen=True)
class SpeedConfig:
    """The comparison of the speed of two variants: of a level and its base."""

    level: CostConfig
    base: CostConfig
    rounds: int
    """How often each of them is measured."""


def models_of(config: RunConfig | CostConfig | SpeedConfig) -> list[Config]:
    """Returns the networks of a job: one, or for a comparison of speed the base's and the level's."""
    if isinstance(config, SpeedConfig):
        return [config.base.model, config.level.model]
    return [config.model if isinstance(config, CostConfig) else config.variant.model]


def count_processes(config: RunConfig | CostConfig | SpeedConfig) -> int:
    """Returns how many processes, each with its own device, a job needs at a time."""
    if isinstance(config, SpeedConfig):
        return max(config.level.train.processes, config.base.train.processes)
    return (config.train if isinstance(config, CostConfig) else config.variant.train).processes


def beside_identity(config: type[Config]) -> set[str]:
    """Returns the fields of a configuration that change no result."""
    return {name for name in config.model_fields if not role_of(config, name).identity}


def hashed_fields(config: Config) -> dict[str, Any]:
    """Returns the fields that differ from their defaults, so that a new field changes no old identity, and `family`."""
    fields = config.model_dump(mode="json", exclude_defaults=True, exclude=beside_identity(type(config)))
    family = getattr(config, "family", None)
    return fields if family is None else {"family": family, **fields}


def unhashed_fields(config: Config) -> dict[str, Any]:
    """Returns the fields that differ from their defaults and change no result, which `hashed_fields` leaves out."""
    return config.model_dump(mode="json", exclude_defaults=True, include=beside_identity(type(config)))


def variant_fields(variant: Variant, checksum: str) -> dict[str, Any]:
    """Returns a variant as it is hashed and recorded, with the checksum of the data instead of its place."""
    fields = {
        "model": hashed_fields(variant.model),
        "data": {"name": variant.data.name, **hashed_fields(variant.data), "checksum": checksum},
        "train": hashed_fields(variant.train),
        **_source_fields(variant),
    }
    if variant.tuning is None:
        return fields
    return {**fields, "tuning": asdict(variant.tuning), "follows_base": variant.follows_base}


def _parts_of(subject: Variant | CostConfig) -> list[str]:
    """Lists the names of the parts that a training has, or that a step of it has."""
    step = [subject.train.optimizer, subject.train.loss]
    return [*step, subject.train.schedule, subject.data.augmentation] if isinstance(subject, Variant) else step


def _source_fields(subject: Variant | CostConfig) -> dict[str, Any]:
    """Returns the fingerprints of what comes from elsewhere, as `sources`; nothing if there is nothing of the kind."""
    sources = _fingerprint(subject)
    return {"sources": sources} if sources else {}


def _fingerprint(subject: Variant | CostConfig) -> dict[str, str]:
    """Returns the fingerprints of parts that are written elsewhere, and of trained weights."""
    return fingerprint_parts(*_parts_of(subject)) | fingerprint_weights(subject.model)


def find_sources(config: RunConfig | CostConfig | SpeedConfig) -> dict[str, str]:
    """Returns the fingerprints of a job's parts and weights that come from elsewhere, as they are now."""
    if isinstance(config, SpeedConfig):
        return find_sources(config.level) | find_sources(config.base)
    return _fingerprint(config.variant if isinstance(config, RunConfig) else config)


def cost_fields(cost: CostConfig) -> dict[str, Any]:
    """Returns a cost's configuration as it is hashed and recorded.

    Costs of networks that recompute have one more field, because inference does not recompute any more.
    """
    fields = {
        "model": hashed_fields(cost.model),
        "image_size": list(cost.image_size),
        "train": hashed_fields(cost.train),
        **_source_fields(cost),
    }
    recomputes = isinstance(cost.model, DenseNetConfig) and cost.model.recomputes
    return {**fields, "recomputed": "for gradients"} if recomputes else fields


def speed_fields(speed: SpeedConfig) -> dict[str, Any]:
    """Returns the configuration of a comparison of speed as it is hashed and recorded."""
    return {"level": cost_fields(speed.level), "base": cost_fields(speed.base), "rounds": speed.rounds}
