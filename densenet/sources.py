"""The source of a part that a user wrote: the module of its class, and every module of the user's that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import torch

INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages, whose versions are recorded instead of their sources."""

Fingerprints = dict[str, list[str]]
"""By module, part of the SHA-256 of its file, and of its code without comments and docstrings. For a package, its
version."""


def fingerprint_modules(part: Any, module: str) -> Fingerprints:
    """Returns the fingerprints of all modules of the user's that a class or a function depends on.

    These are `module`, which names it, the modules of the class and of its base classes, or the function's, the
    packages that contain them, and all that they import, at any depth, also within functions. Modules of the standard
    library and of installed packages are left out. If `module` itself is installed, the version of its package is
    there.

    A change of comments or docstrings changes the first fingerprint of a module, but not the second.
    """
    found: Fingerprints = {}
    kinds = part.__mro__ if isinstance(part, type) else (part, type(part))
    left = [module, *(each.__module__ for each in kinds if isinstance(getattr(each, "__module__", None), str))]
    known: set[str] = set()
    while left:
        name = left.pop()
        if name in known:
            continue
        known.add(name)
        spec = _find(name)
        if spec is None or not _is_user_s(spec):
            continue
        left += [name.rpartition(".")[0]] if "." in name else []
        if spec.has_location and spec.origin:
            content = Path(spec.origin).read_bytes()
            found[name] = [_shorten(content)]
            with suppress(SyntaxError, ValueError):  # a compiled module, or one that was changed while it is used
                tree = ast.parse(content)
                left += _list_imports(tree, name, spec.submodule_search_locations is not None)
                found[name].append(_fingerprint_code(tree))
    return dict(sorted(found.items())) or _versions(module)


def fingerprint_file(path: Path) -> str:
    """Returns part of the SHA-256 of a file."""
    return _shorten(path.read_bytes())


def _shorten(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _fingerprint_code(tree: ast.Module) -> str:
    """Returns a fingerprint that comments, docstrings and white space do not change."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                del node.body[0]
    return _shorten(ast.dump(tree).encode())


def _list_imports(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Yields the names of all modules that a module may import, and also names that are no modules."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            wanted = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(wanted, str):
                with suppress(ImportError):  # a relative name outside of a package
                    yield importlib.util.resolve_name(wanted, package)


def find_place(error: BaseException) -> str:
    """Returns the user's own line where an error was raised, for example `net.py:12 in forward`; empty without one.

    It is the innermost line that belongs neither to this project, nor to torch, nor to Python's library.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return next((describe_frame(frame) for frame in reversed(frames) if _is_of_user(Path(frame.filename))), "")


def describe_frame(frame: traceback.FrameSummary) -> str:
    """Returns a line of a traceback without the folder of its file: `net.py:12 in forward`."""
    return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"


def _is_of_user(path: Path) -> bool:
    library = Path(sysconfig.get_path("stdlib"))
    packages = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}  # they may lie within the library
    here = Path(__file__).resolve().parent
    inner = [here, *_find_program(here), Path(torch.__file__).parent]
    if not path.is_file() or any(map(path.is_relative_to, inner)):
        return False
    return any(map(path.is_relative_to, packages)) or not path.is_relative_to(library)


def _find_program(here: Path) -> list[Path]:
    """Returns the folder of the program that these networks come with."""
    return [path.parent for path in here.parent.glob("*/__main__.py")]


def _find(name: str) -> ModuleSpec | None:
    """Returns where a module lies, without importing it; None if there is no such module."""
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:  # a new process would find it there; only special finders know others
            return PathFinder.find_spec(name, [*sys.path, str(Path.cwd())]) or importlib.util.find_spec(name)
        above = _find(parent)
        inside = above is not None and _is_user_s(above) and above.submodule_search_locations
        return PathFinder.find_spec(name, list(inside)) if inside else None
    except (ImportError, ValueError):
        return None


def _is_user_s(spec: ModuleSpec) -> bool:
    """Returns whether a module lies neither in the standard library, nor in an installed package, nor in this one."""
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    here = Path(__file__).resolve().parent
    program = [here, *_find_program(here)]
    library = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    paths = [Path(place).resolve() for place in places]
    return bool(paths) and not any(
        set(INSTALLED) & set(path.parts) or any(path.is_relative_to(place) for place in (*program, *library))
        for path in paths
    )


def _versions(module: str) -> Fingerprints:
    """Returns the version of the installed package that contains a module."""
    names = metadata.packages_distributions().get(module.partition(".")[0], [])
    return {name: [metadata.version(name)] for name in sorted(set(names))}
