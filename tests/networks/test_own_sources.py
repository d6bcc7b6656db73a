"""What a user's own network consists of: every module of the user's that the module of its class imports."""

from __future__ import annotations

import importlib
import sys

import pytest

from densenet import OwnConfig, describe_source
from densenet.sources import fingerprint_modules

FILES = {
    "net_of_mine.py": "from parts_of_mine import Base\nimport numpy\nclass Net(Base):\n    'A network.'\n",
    "parts_of_mine/__init__.py": "from .layers import Base\n",
    "parts_of_mine/layers.py": "import torch\nfrom . import helpers\nclass Base(torch.nn.Module):\n"
    "    def __init__(self, in_channels, num_classes):\n        import late_of_mine, importlib\n"
    "        importlib.import_module('named_of_mine')\n        super().__init__()\n",
    "parts_of_mine/helpers.py": "from densenet import build\nimport parts_of_mine.deep.deeper as deeper\n",
    "parts_of_mine/deep/deeper.py": "WIDTH = 3\n",
    "parts_of_mine/unused.py": "",
    "late_of_mine.py": "import net_of_mine\n",
    "named_of_mine.py": "import missing_of_mine\n",
}
MODULES = [
    "late_of_mine", "named_of_mine", "net_of_mine", "parts_of_mine", "parts_of_mine.deep.deeper",
    "parts_of_mine.helpers", "parts_of_mine.layers",
]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if "of_mine" in name]:
        del sys.modules[name]


def modules():
    return describe_source(OwnConfig(family="net_of_mine:Net"))["network_modules"]


def test_every_module_of_the_user_s_is_found(place):
    assert sorted(modules()) == MODULES


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_the_code_is_seen_and_one_of_a_comment_is_told_apart(name, place):
    before, path = modules(), place / name
    path.write_text(f'"""About it."""\n\n# a comment\n{FILES[name]}')
    commented = modules()
    path.write_text(f"{FILES[name]}X = 1\n")
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    changed = {each for each in MODULES if modules()[each] != before[each]}
    assert changed == {module} & set(MODULES)
    for each in changed:
        assert commented[each][0] != before[each][0]
        assert not set(modules()[each]) & set(before[each])
        assert commented[each][1] == before[each][1]


def test_a_docstring_is_no_code(place):
    before = modules()
    (place / "net_of_mine.py").write_text(FILES["net_of_mine.py"].replace("A network.", "A fine network."))
    assert modules()["net_of_mine"][1] == before["net_of_mine"][1]


def test_of_an_installed_class_the_version_of_its_package_is_told():
    import torch

    assert fingerprint_modules(torch.nn.Linear, "torch.nn") == {"torch": [importlib.metadata.version("torch")]}


def test_a_module_that_cannot_be_read_as_code_has_the_fingerprint_of_its_bytes(place):
    modules()
    (place / "late_of_mine.py").write_text("class:")
    assert len(modules()["late_of_mine"]) == 1
