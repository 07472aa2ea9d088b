"""From ``MODULE:FACTORY`` to the callable, and what its code was: a digest of its source files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from featstore import FeatstoreError, NotFoundError, SetupError, UsageError, seeded
from featstore.errors import did_you_mean
from featstore.files import in_store
from featstore_torch.digest import check_not_elsewhere, imports, is_own, source_digest

# Code that is nobody's network, and does things: subprocess:getoutput, torch.hub:load.
_NOT_YOURS = {*sys.stdlib_module_names, "torch", "featstore"}


@dataclass(frozen=True, slots=True)
class Factory:
    """What makes the user's network.

    Attributes:
        name: ``nets.py:Net`` or ``mypkg.nets:Net``: without a folder, so that it means the same wherever it is typed.
        call: the class or function.
        digest: SHA-256 of its source files, as hex.
        folder: where its imports are looked for first while its code runs, as ``python nets.py`` does; None: nowhere.
    """

    name: str
    call: Callable[..., Any]
    digest: str
    folder: Path | None


def find_factory(text: str) -> Factory:
    """Import the module of ``MODULE:FACTORY`` and take the factory from it.

    Raises:
        UsageError: the name isn't of this form, names no callable, or what isn't the user's: the code lies in a store,
            or is Python's, torch's or featstore's own.
        NotFoundError: no such file, module or factory.
        SetupError: the module can't be imported, has no source, or another of its name is imported.
    """
    where, colon, attribute = text.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(
            f"torch:{text} isn't torch:MODULE:FACTORY.", hint="such as torch:./nets.py:Net, or torch:mypkg.nets:Net"
        )
    if where.endswith(".py") or "/" in where or "\\" in where:
        path = Path(where).expanduser().absolute()
        refuse_in_store(path)
        if not is_own(path.resolve()):
            raise _not_yours(path.name, "what is installed goes by its name: torch:mypkg.nets:Net")
        folder: Path | None = path.parent
        name, source = path.name, _read(path)
        with importable(folder), seeded(0):
            with _explained(name):
                check_not_elsewhere(imports(source, ""))
            module = _import_file(path, source)
            digest = source_digest(module, source)
    else:
        top, *_ = parts = where.split(".")
        if top in _NOT_YOURS:
            raise _not_yours(top, "for a file of yours of that name, torch:./nets.py:Net")
        folder = None if in_store(Path.cwd()) else Path.cwd()
        name = where
        with importable(folder), seeded(0):  # packages above it run too
            with _explained(where):
                check_not_elsewhere(".".join(parts[:end]) for end in range(1, len(parts) + 1))
            path = _find_module(where)
            with _explained(where):
                module = importlib.import_module(where)
            digest = source_digest(module, _read(path))
    return Factory(f"{name}:{attribute}", _attribute(module, attribute, where), digest, folder)


def _not_yours(what: str, hint: str) -> UsageError:
    return UsageError(f"{what} is no module of yours, and torch: is for networks of your own.", hint=hint)


@contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """Look for imports in ``folder`` first, while the block runs."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # a file that was written a moment ago is found too
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def refuse_in_store(path: Path) -> None:
    """A store is data and never code.

    Raises:
        UsageError: the file or folder lies in a store.
    """
    if in_store(path):
        raise UsageError(
            f"{path} lies in a featstore store: a store is data, and no code in it is ever run.",
            hint="copy the file elsewhere, if you trust it",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        beside = [file.name for file in path.parent.glob("*.py")]
        raise NotFoundError(f"There is no file {path}.{did_you_mean(path.name, beside)}") from None
    except OSError as error:
        raise SetupError(f"{path} can't be read: {error.strerror}.") from error


def _import_file(path: Path, source: bytes) -> ModuleType:
    """Run the very bytes whose digest is taken. Edited code is another module: both can be in use in one process."""
    name = f"featstore_torch_{path.stem}_{hashlib.sha256(bytes(path) + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UsageError(f"{path} isn't a Python file: its name must end with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # while it runs too: dataclasses look their module up
    try:
        with _explained(path.name):
            exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find_module(name: str) -> Path:
    """The source file of an importable module. No folder's code is run before it is known to lie in no store."""
    parts, source = name.split("."), None
    for end in range(1, len(parts) + 1):
        prefix = ".".join(parts[:end])
        with _explained(name):  # the packages above are imported to find what is in them
            try:
                spec = importlib.util.find_spec(prefix)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{prefix}.".startswith(f"{error.name}."):
                    raise  # one of its packages was found, and imports something that isn't there
                spec = None
        if spec is None:
            raise NotFoundError(
                f"There is no module {prefix!r} to import.",
                hint="install its package, run in the folder that holds it, or give a file: torch:./nets.py:Net",
            )
        source = Path(spec.origin).absolute() if spec.origin is not None and spec.has_location else None
        for place in (source, *map(Path, spec.submodule_search_locations or ())):
            if place is not None:
                refuse_in_store(place.absolute())
    if source is None or source.suffix != ".py":
        raise SetupError(f"The module {name} has no Python source file, so that its code can't be told by a digest.")
    return source


@contextmanager
def _explained(module: str) -> Iterator[None]:
    """What goes wrong in somebody's module, while it is imported, is an error of the environment."""
    try:
        yield
    except (FeatstoreError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise SetupError(
            f"{module} can't be imported: {type(error).__name__}: {error}{line}",
            hint="install what it imports, or mend it; python -c 'import …' shows where",
        ) from error


def _attribute(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if found is None:
        own = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        public = sorted(k for k in own if not k.startswith("_"))
        raise NotFoundError(
            f"{where} has no {name!r}.{did_you_mean(name, public)}",
            hint=f"torch:{where}:NAME, with one of {', '.join(public) or 'the classes or functions that it defines'}",
        )
    if not callable(found):
        raise UsageError(f"{where}:{name} is {type(found).__name__}, and must be a class or function that gives one.")
    return found  # type: ignore[no-any-return]
