from __future__ import annotations

import re
import subprocess

import torch

from ablations import environment
from ablations.config import TrainConfig


def test_a_record_s_environment_is_complete_and_names_no_path():
    found = {
        **environment.settings(torch.device("cpu"), TrainConfig(memory_format="channels_last")),
        **environment.code(),
    }
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert (found["precision"], found["memory_format"]) == ("fp32", "channels_last")
    assert not any("/" in str(value) for key, value in found.items() if key != "device_name")


def test_the_commit_is_this_repository_s():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=environment.PACKAGES[0])
    commit = environment.code()["commit"]
    assert commit == "unknown" if head.returncode else head.stdout.startswith(commit.removesuffix(" + changes"))


def test_the_fingerprint_follows_the_sources(tmp_path, monkeypatch):
    assert re.fullmatch("[0-9a-f]{16}", environment._fingerprint())
    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(environment, "PACKAGES", (tmp_path,))
    before = environment._fingerprint()
    (tmp_path / "a.py").write_text("x = 2\n")
    assert environment._fingerprint() != before
