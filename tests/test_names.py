"""A user's own `densenet.py` or `ablations.py` is named as what is in the way, or is not in the way at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, fabricate, write_grid

from ablations.grid.reader import read
from densenet.foreign import load_network

RUN_NOTHING = "raise SystemExit('a training of a week')\n"
"""What stands in a user's files, none of which may be run."""

MODULES = ("ablations.py", "densenet.py", "torch.py")


def call(*command, cwd, path):
    """A command in a folder, with nothing but `path` in PYTHONPATH: exit code, output, errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": ""}
    result = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


def python(code, cwd, path):
    """As in a notebook: the current folder comes first."""
    return call(sys.executable, "-c", code, cwd=cwd, path=path)


def write(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text(RUN_NOTHING)


@pytest.mark.parametrize("name", ["densenet.py", "densenet/__init__.py", "ablations.py", "ablations/__init__.py"])
def test_the_command_names_what_hides_a_package(installed, tmp_path, name):
    write(tmp_path / name)
    told = call(installed / "bin" / "ablate", "list", cwd=tmp_path, path=[".", installed])
    package = name.partition("/")[0].removesuffix(".py")
    message = (
        f"Python finds {tmp_path / name} before the package `{package}` of densenet-ablations. Rename it, or start "
        "from another folder. If PYTHONPATH names its folder, remove it there. The command `ablate` does not look "
        "into the current folder.\n"
    )
    assert told == (2, "", message)


def test_so_does_the_module_run_as_a_command(installed, tmp_path):
    write(tmp_path / "densenet.py")
    code, output, errors = call(sys.executable, "-m", "ablations", "list", cwd=tmp_path, path=[installed])
    assert (code, output) == (2, "")
    assert errors.startswith(f"Python finds {tmp_path / 'densenet.py'} before")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("code", ["import ablations.config", "import ablations; ablations.load_model('weights')"])
def test_in_python_it_is_an_import_error(installed, tmp_path, code):
    write(tmp_path / "densenet.py")
    status, _, errors = python(code, tmp_path, [installed])
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"ImportError: Python finds {tmp_path / 'densenet.py'} before")


def test_a_folder_without_code_is_named_too(tmp_path):
    """It hides an editable install, which Python asks last."""
    (tmp_path / "densenet").mkdir()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import densenet_ablations as it; sys.path.pop(0)"
    status, _, errors = python(f"{code}; sys.meta_path.pop(); it.check_names()", tmp_path, [])
    assert status == 1
    assert f"Python finds {tmp_path / 'densenet'} before the package `densenet`" in errors


def test_results_are_read_beside_such_a_file(installed, results):
    """Tables and figures in a notebook need no network."""
    write(results / "densenet.py")
    assert python("import ablations; print(len(ablations.load('.').runs))", results, [installed])[:2] == (0, "6\n")


def test_the_user_s_own_import_is_the_user_s(installed, tmp_path):
    """`import densenet` in their folder gives their file: this project has no part in it."""
    (tmp_path / "densenet.py").write_text("name = 'mine'\n")
    (tmp_path / "harmless.py").write_text("name = 'harmless'\n")
    code = "import densenet, harmless; print(densenet.name, harmless.name)"
    assert python(code, tmp_path, [installed]) == (0, "mine harmless\n", "")


def test_a_user_s_class_in_a_file_of_this_name_cannot_be_meant(tmp_path, monkeypatch):
    write(tmp_path / "densenet.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"own networks: rename {tmp_path / 'densenet.py'}"):
        load_network("densenet:DenseNet")


IN_A_WORKER = """
import multiprocessing
from ablations.execution import fresh

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations", "densenet"])
    fresh.start_server()
    process = context.Process(target=print, args=("hello",))
    process.start()
    process.join()
"""


def test_the_server_of_the_workers_imports_none_of_them(installed, tmp_path):
    for name in MODULES:
        write(tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "main.py").write_text(IN_A_WORKER)
    found = call(sys.executable, tmp_path / "elsewhere" / "main.py", cwd=tmp_path, path=[installed])
    assert found == (0, "hello\n", "")


@pytest.mark.slow
def test_a_grid_runs_beside_them(installed, tmp_path):
    for name in MODULES:
        write(tmp_path / name)
    grid = write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[0]").replace("[4, 8]", "[4]"))
    code, output, errors = call(installed / "bin" / "ablate", "run", grid, cwd=tmp_path, path=[installed])
    assert (code, errors) == (0, "")
    assert "1 runs and 1 costs: 2 done" in output


def test_the_surroundings_of_a_shell_do_not_reach_the_libraries(installed, tmp_path):
    """A notebook's backend of figures, and an output that knows no letter beyond ASCII."""
    surroundings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "LC_ALL": "C", "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(installed), "COLUMNS": "300",
    }  # fmt: skip
    results = tmp_path / "r\udce9sultats"
    fabricate(results, read(write_grid(tmp_path)))
    command = [sys.executable, "-m", "ablations", "report", results]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **surroundings}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rebuilt from" in done.stdout
    assert (results / "figures" / "growth_rate.svg").exists()
