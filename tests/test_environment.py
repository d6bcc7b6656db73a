from __future__ import annotations

import re
import shutil
import subprocess
import sys

import torch

from ablations import environment
from ablations.config import CostConfig, TrainConfig
from ablations.environment import describe_networks
from densenet import OwnConfig


def test_a_record_s_environment_is_complete_and_names_no_path():
    found = {
        **environment.describe_settings(torch.device("cpu"), TrainConfig(memory_format="channels_last")),
        **environment.describe_code(),
    }
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert (found["precision"], found["memory_format"]) == ("fp32", "channels_last")
    assert not any("/" in str(value) for key, value in found.items() if key != "device_name")


def test_all_that_chooses_instructions_is_told(monkeypatch):
    cpu = torch.device("cpu")
    plain = environment.describe_versions(cpu)
    assert plain["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert plain["limits"] == {}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert environment.describe_versions(cpu)["limits"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    monkeypatch.setattr(environment, "_read_processor", lambda key: {"flags": "sse avx2 fpu avx512f"}.get(key, ""))
    assert environment.describe_versions(cpu)["extensions"] == "avx2 avx512f"


def test_the_commit_is_this_repository_s():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=environment.PACKAGES[0])
    commit = environment.describe_code()["commit"]
    assert commit == "unknown" if head.returncode else head.stdout.startswith(commit.removesuffix(" + changes"))


def test_a_hook_of_another_repository_does_not_change_the_commit(tmp_path, monkeypatch):
    """Git sets such variables for its hooks, and they hold for every other repository, too."""
    commit = environment._commit()
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert environment._commit() == commit


def test_the_fingerprint_follows_every_source_at_any_depth(tmp_path, monkeypatch):
    packages = tuple(tmp_path / package.name for package in environment.PACKAGES)
    for package, copy in zip(environment.PACKAGES, packages, strict=True):
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    whole = environment._fingerprint()
    monkeypatch.setattr(environment, "PACKAGES", packages)
    assert environment._fingerprint() == whole, "the place of the packages is no part of it"
    assert re.fullmatch("[0-9a-f]{16}", whole)

    sources = [path for path in tmp_path.rglob("*") if path.suffix in (".py", ".cpp")]
    assert {len(path.relative_to(tmp_path).parts) for path in sources} == {2, 3, 4}
    found = {whole}
    for path in sources:
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        found.add(environment._fingerprint())
        path.write_bytes(before)
        renamed = path.rename(path.with_stem("renamed"))
        found.add(environment._fingerprint())
        renamed.rename(path)
    assert len(found) == 1 + 2 * len(sources)
    assert environment._fingerprint() == whole


def test_a_record_tells_the_commit_of_the_user_s_repository(tmp_path, monkeypatch):
    def git(*arguments):
        called = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(called, check=True, capture_output=True, text=True).stdout.strip()

    lines = (
        "import torch",
        "class Net(torch.nn.Linear):",
        "    def __init__(self, in_channels, num_classes):",
        "        super().__init__(in_channels, num_classes)",
    )
    (tmp_path / "committed_network.py").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    config = CostConfig(OwnConfig(family="committed_network:Net"), (1, 1), TrainConfig())
    assert "network_commit" not in describe_networks(config), "no repository"
    environment._find_commit.cache_clear()
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    assert describe_networks(config)["network_commit"] == git("rev-parse", "--short=12", "HEAD")
    environment._find_commit.cache_clear()
    (tmp_path / "other.py").write_text("")
    assert describe_networks(config)["network_commit"].endswith(" + changes")
    sys.modules.pop("committed_network", None)
