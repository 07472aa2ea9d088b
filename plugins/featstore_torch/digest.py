"""What the code of a network was: a digest over its module and all of the user's own modules behind it.

Imports are read from the source, not from what happens to be loaded: the digest is the same in every process.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from featstore import SetupError

# Module name → the module and its file's digest, when it was first looked at.
_seen: dict[str, tuple[ModuleType, str]] = {}


def source_digest(module: ModuleType, source: bytes) -> str:
    """SHA-256, as hex, of the module's ``source`` and of the files that it imports, followed through.

    Installed packages and the standard library are left out, but for the module's own package: an upgrade of
    torch is recorded with the run, and is no other network.

    Raises:
        SetupError: one of the files was edited after this process had imported it.
    """
    package = module.__package__ or ""
    files, waiting = {"": source}, list(imports(source, package))
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        file = None if name in files or name == module.__name__ or top == "featstore" else _file(name)
        if file is None or not (is_own(file) or top == package.partition(".")[0]):
            continue
        files[name] = file.read_bytes()
        waiting += imports(files[name], _inside(name, file))
    digest = hashlib.sha256()
    for name in sorted(files):
        found = hashlib.sha256(files[name]).hexdigest()
        _check_unchanged(name or module.__name__, found)
        digest.update(f"{name}\0{found}\0".encode())
    return digest.hexdigest()


def check_not_elsewhere(names: Iterable[str]) -> None:
    """Python imports a module once: where one of these, or of the user's own behind them, would now be found in another
    file than it was imported from, it would be taken from there all the same.

    Raises:
        SetupError: there is such a module.
    """
    waiting, seen = list(names), set()
    for name in waiting:  # it grows meanwhile
        spec = None if name in seen or name.partition(".")[0] == "featstore" else _spec(name)
        seen.add(name)
        if spec is None or not spec.has_location or not spec.origin:
            continue
        module, file = sys.modules.get(name), Path(spec.origin)
        imported = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if imported and (is_own(file) or is_own(Path(imported))) and not _same_file(file, imported):
            raise SetupError(
                f"The module {name} was imported from {imported}, and what comes now would import it from {file}.",
                hint="start Python again, or rename one of the two",
            )
        if is_own(file) and file.suffix == ".py":
            waiting += imports(file.read_bytes(), _inside(name, file))


def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be found now, whatever is imported already."""
    parent = name.rpartition(".")[0]
    above = _spec(parent) if parent else None
    path = above.submodule_search_locations if above is not None else None
    try:
        return PathFinder.find_spec(name, path) if path is not None or not parent else None
    except KeyError:  # inside a folder without __init__.py that isn't imported itself: nothing in it is
        return None


def _same_file(one: Path, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # the one that was imported is gone
        return False


def _check_unchanged(name: str, digest: str) -> None:
    """What is imported stays as it was: a digest of what the file holds now would be another code's."""
    module = sys.modules.get(name)
    if module is None:
        return
    known = _seen.setdefault(name, (module, digest))
    if known[0] is not module:  # imported anew
        _seen[name] = (module, digest)
    elif known[1] != digest:
        raise SetupError(f"The module {name} was edited after it had been imported.", hint="start Python again")


def imports(source: bytes, package: str) -> Iterator[str]:
    """The names of all modules that the source may import, anywhere in it; some are none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # a relative import outside of a package: it is there to fail
                continue
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))  # packages above it run too


def _inside(name: str, file: Path) -> str:
    """The package that a module's relative imports start from."""
    return name if file.name == "__init__.py" else name.rpartition(".")[0]


def _file(name: str) -> Path | None:
    """The Python file of a module, without importing anything."""
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
    else:
        parent = name.rpartition(".")[0]
        path = _search_path(parent) if parent else None
        spec = PathFinder.find_spec(name, path) if path or not parent else None
        found = spec.origin if spec is not None and spec.has_location else None
    return Path(found) if found and found.endswith(".py") else None


def _search_path(package: str) -> list[str] | None:
    if package in sys.modules:
        return list(getattr(sys.modules[package], "__path__", ()))
    file = _file(package)
    return [str(file.parent)] if file is not None and file.name == "__init__.py" else None


def is_own(file: Path) -> bool:
    """Whether the file is neither installed nor Python's own."""
    places = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    return not {"site-packages", "dist-packages"} & set(file.parts) and not places & set(file.parents)
