"""Where plugins come from: who provides one, and importing the module that it is."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from featstore.errors import PluginError
from featstore.files import in_store

#: Where the digest of a plugin file's source is kept: what is imported stays as it was, whatever the file holds later.
DIGEST = "__featstore_digest__"


@dataclass(slots=True)
class Provider:
    """One plugin: where it came from, and what went wrong with it, if anything did.

    Attributes:
        seconds: what importing it and listing its specs took; what other plugins had imported already cost it nothing.
        digest: of its source, where it is a file given by hand: such a file is edited from run to run.
    """

    name: str
    version: str
    origin: str
    error: str = ""
    seconds: float = 0.0
    digest: str = ""

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count the block's time as this plugin's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def import_plugin(path: str) -> ModuleType:
    """Import a plugin given by hand: a file, or the name of a module.

    A file's module name is made from its path, so that a loader worker that loads it again can unpickle its objects.

    Raises:
        PluginError: there is no such file, or it lies in a store; and whatever the module raises.
    """
    if not path.endswith(".py"):
        return importlib.import_module(path)
    file = Path(path).resolve()
    name = f"featstore_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise PluginError(f"there is no file {path}")
    if in_store(Path(path).absolute()):
        raise PluginError("it lies in a store, which is data: no code in it is ever run")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    setattr(module, DIGEST, hashlib.sha256(file.read_bytes()).hexdigest()[:16])
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
