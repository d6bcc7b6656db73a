"""The environment of a number: device, versions, commit, fingerprint of the code."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch

from ablations.config import CostConfig, RunConfig, SpeedConfig, TrainConfig, models_of
from densenet import OwnConfig, describe_source, load_part
from densenet.kernels import library_name

PACKAGES = tuple(Path(__file__).resolve().parent.parent / name for name in ("densenet", "ablations"))

LIMITS = (
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip
"""Environment variables that change the instructions or the precision of the libraries that compute."""


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describes the machine that measurements depend on: part of a cost's identity, recorded with every job."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else 1,
        "torch": torch.__version__,
    }


def describe_versions(device: torch.device) -> dict[str, Any]:
    """Describes all that must be the same for a resumed training to give the same bits, also CPU instructions."""
    python = {"python": platform.python_version(), "numpy": numpy.__version__}
    return {
        **describe_machine(device),
        **python,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "extensions": _extensions(),
        "loops": library_name(),
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
    }


def describe_settings(device: torch.device, training: TrainConfig) -> dict[str, Any]:
    """Describes all other settings that a reader needs to judge a number."""
    return {
        **describe_versions(device),
        "system": f"{platform.system()} {platform.machine()}",
        "pillow": metadata.version("pillow"),  # it decodes images
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "precision": training.precision,
        "memory_format": training.memory_format,
        "compile": training.compile,
        "cuda_graph": training.cuda_graph,
    }


def describe_networks(config: RunConfig | CostConfig | SpeedConfig) -> dict[str, Any]:
    """Describes the source of a job's networks that were written elsewhere: see `describe_source`.

    `network_commit` is the commit of the user's own repository, if git tracks the file of the class there.
    """
    found: dict[str, Any] = {}
    for model in models_of(config):
        for key, each in describe_source(model).items():
            found[key] = found[key] | each if isinstance(each, dict) and key in found else each
        commit = _commit_of(model.family) if isinstance(model, OwnConfig) else ""
        found |= {"network_commit": commit} if commit else {}
    return found


def _commit_of(part: str) -> str:
    """Returns the commit of the repository that tracks the file of a part; empty if there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(load_part(part)))
    except TypeError:
        return ""
    commit = _find_commit(Path(file), (Path(file).parent,)) if file else UNKNOWN
    return "" if commit == UNKNOWN else commit


@cache
def describe_code() -> dict[str, str]:
    """Returns the commit, marked if the sources differ from it, and the sources' fingerprint. Ids contain neither."""
    return {"commit": _commit(), "fingerprint": _fingerprint()}


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((*package.rglob("*.py"), *package.rglob("*.cpp"))):
            name = path.relative_to(package.parent).as_posix()
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


UNKNOWN = "unknown"


def _commit() -> str:
    """Returns the commit, or `unknown` if git does not track the sources, for example in a user's own repository."""
    return _find_commit(Path(__file__).resolve(), PACKAGES)


@cache
def _find_commit(file: Path, folders: tuple[Path, ...]) -> str:
    """Returns the commit of the repository that tracks a file, marked if anything in these folders differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook has others
        return subprocess.run(command, check=True, capture_output=True, text=True, env=own).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + (" + changes" if git("status", "--porcelain", "--", *map(str, folders)) else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def _processor() -> str:
    return _read_processor("model name") or platform.processor() or platform.machine()


def _extensions() -> str:
    """Returns the vector instructions of the processor: libraries choose among more of them than PyTorch tells."""
    flags = (_read_processor("flags") or _read_processor("Features")).split()
    return " ".join(sorted(flag for flag in flags if re.match("avx|amx|fma|f16c|asimd|sve|sme(?!p)|bf16|i8mm", flag)))


def _read_processor(key: str) -> str:
    """Returns an entry of /proc/cpuinfo for the first core; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
