"""Finding plugins and what they register.

The manager is made by :meth:`Plugins.load`, not a global: two stores in one process may see different plugins. Nothing
is ever loaded from inside a store.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from featstore import hookspecs
from featstore.errors import NotFoundError, PluginError, did_you_mean
from featstore.keys import parse_call
from featstore.spec import (
    BackboneSpec,
    ExporterSpec,
    FuserSpec,
    Json,
    PoolerSpec,
    PoolFunction,
    ReaderSpec,
)

GROUP = "featstore"
ENVIRONMENT = "FEATSTORE_PLUGINS"
KINDS: Mapping[str, type] = {
    "backbone": BackboneSpec,
    "pooler": PoolerSpec,
    "fuser": FuserSpec,
    "reader": ReaderSpec,
    "exporter": ExporterSpec,
}
Spec = TypeVar("Spec", BackboneSpec, PoolerSpec, FuserSpec, ReaderSpec, ExporterSpec)


@dataclass(slots=True)
class Provider:
    """One plugin: where it came from, and what went wrong with it, if anything did."""

    name: str
    version: str
    origin: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """One thing that a plugin registers."""

    kind: str
    name: str
    provider: str
    spec: Any


@dataclass(slots=True)
class Plugins:
    """The plugins of one process, and lookups by name.

    Attributes:
        providers: every plugin found, broken ones included.
        paths: files and modules given by hand; loader workers load the same ones.
    """

    manager: pluggy.PluginManager
    paths: tuple[str, ...] = ()
    providers: list[Provider] = field(default_factory=list)
    _registered: dict[str, dict[str, Registered]] = field(default_factory=dict)
    _duplicates: dict[tuple[str, str], PluginError] = field(default_factory=dict)

    @classmethod
    def load(cls, paths: Sequence[str] = (), *, strict: bool = False) -> Plugins:
        """Find installed plugins, those of ``$FEATSTORE_PLUGINS``, and ``paths``.

        Args:
            paths: files (``my_backbone.py``) or names of modules.
            strict: raise for a broken plugin instead of listing it with its error.

        Raises:
            PluginError: a path given by hand that can't be loaded; with ``strict``, any broken plugin.
        """
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        given = [p for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p]
        plugins = cls(manager, tuple(dict.fromkeys([*given, *paths])))
        for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
            version = entry.dist.version if entry.dist else ""
            plugins._add(Provider(entry.name, version, entry.value), entry.load, strict)
        for path in plugins.paths:
            # Somebody asked for this very plugin: to go on without it would be to do something else than asked.
            plugins._add(Provider(Path(path).stem, "", path), lambda path=path: _import(path), strict=True)
        plugins._collect(strict)
        return plugins

    def _add(self, provider: Provider, load: Callable[[], Any], strict: bool) -> None:
        self.providers.append(provider)
        try:
            module = load()
            if self.manager.register(module, name=provider.name) is None:
                raise PluginError(f"the plugin {provider.name!r} is blocked or was registered twice")
            implemented = self.manager.get_hookcallers(module) or []
            if not implemented:
                raise PluginError("it implements no hook: are its functions marked with @featstore.hookimpl?")
            known = {name for name in vars(hookspecs) if name.startswith("featstore_")}
            for caller in implemented:
                if caller.name not in known:
                    self.manager.unregister(module)
                    raise PluginError(f"unknown hook {caller.name!r}.{did_you_mean(caller.name, known)}")
        except (Exception, SystemExit) as error:
            self._broken(provider, error, strict)

    @staticmethod
    def _broken(provider: Provider, error: BaseException, strict: bool) -> None:
        provider.error = f"{type(error).__name__}: {error}".splitlines()[0]
        if strict:
            raise PluginError(
                f"The plugin {provider.name} ({provider.origin}) can't be used: {provider.error}",
                hint="featstore plugins",
            ) from error

    def _collect(self, strict: bool) -> None:
        by_name = {provider.name: provider for provider in self.providers}
        for kind, spec_type in KINDS.items():
            known = self._registered.setdefault(kind, {})
            for implementation in getattr(self.manager.hook, f"featstore_{kind}s").get_hookimpls():
                provider = by_name[implementation.plugin_name]
                try:
                    specs = list(implementation.function())
                    for spec in specs:
                        if not isinstance(spec, spec_type):
                            raise PluginError(f"featstore_{kind}s gave {type(spec).__name__}, not {spec_type.__name__}")
                except (Exception, SystemExit) as error:
                    self._broken(provider, error, strict)
                    continue
                for spec in specs:
                    if spec.name in known:
                        other = known[spec.name].provider
                        self._duplicates[kind, spec.name] = PluginError(
                            f"The {kind} {spec.name!r} is registered by two plugins: {other} and {provider.name}.",
                            hint="uninstall one of them, or rename its entry; see: featstore plugins",
                        )
                        provider.error = provider.error or str(self._duplicates[kind, spec.name].message)
                        if strict:
                            raise self._duplicates[kind, spec.name]
                    else:
                        known[spec.name] = Registered(kind, spec.name, provider.name, spec)

    # ------------------------------------------------------------------------------------------- lookups
    def registered(self, kind: str | None = None) -> list[Registered]:
        """Everything registered, or everything of one kind, sorted by name."""
        kinds = [kind] if kind else list(KINDS)
        return [item for k in kinds for _, item in sorted(self._registered[k].items())]

    def describe(self) -> list[dict[str, str]]:
        """Every plugin found: ``plugin, version, origin, provides, error``."""
        provided: dict[str, list[str]] = {}
        for item in self.registered():
            provided.setdefault(item.provider, []).append(f"{item.kind} {item.name}")
        for implementation in self.manager.hook.featstore_resolve_backbone.get_hookimpls():
            provided.setdefault(implementation.plugin_name, []).append(f"backbone {implementation.plugin_name}:…")
        return [
            {
                "plugin": p.name,
                "version": p.version,
                "origin": p.origin,
                "provides": ", ".join(provided.get(p.name, [])),
                "error": p.error,
            }
            for p in self.providers
        ]

    def _get(self, kind: str, name: str) -> Any:
        if (kind, name) in self._duplicates:
            raise self._duplicates[kind, name]
        if item := self._registered[kind].get(name):
            return item.spec
        known = self._registered[kind]
        broken = [p.name for p in self.providers if p.error]
        raise NotFoundError(
            f"There is no {kind} {name!r}.{did_you_mean(name, known)}"
            + (f" Plugins that could not be loaded: {', '.join(broken)}." if broken else ""),
            hint=f"featstore ls plugins   (known: {', '.join(sorted(known)) or 'none'})",
        )

    def backbone(self, name: str) -> BackboneSpec:
        """The backbone of that name, listed or resolved from an open family (``timm:…``)."""
        if ("backbone", name) in self._duplicates or name in self._registered["backbone"]:
            return self._get("backbone", name)  # type: ignore[no-any-return]
        found: list[tuple[str, BackboneSpec]] = []
        for implementation in self.manager.hook.featstore_resolve_backbone.get_hookimpls():
            spec = implementation.function(name)
            if spec is not None:
                found.append((implementation.plugin_name, spec))
        if len(found) > 1:
            raise PluginError(f"The backbone {name!r} is offered by several plugins: {', '.join(p for p, _ in found)}.")
        return found[0][1] if found else self._get("backbone", name)

    def pooler(self, text: str, accepts: str) -> PoolFunction:
        """The pooling function of ``NAME`` or ``NAME(ARGS)``, for ``"tokens"`` or for ``"groups"``."""
        name, arguments = parse_call(text)
        spec: PoolerSpec = self._get("pooler", name)
        if accepts not in spec.accepts:
            able = sorted(item.name for item in self.registered("pooler") if accepts in item.spec.accepts)
            raise NotFoundError(
                f"The pooler {name!r} works on {' and '.join(sorted(spec.accepts))}, not on {accepts}.",
                hint=f"one of: {', '.join(able)}",
            )
        return spec.load(*arguments)

    def pooler_revision(self, text: str) -> str:
        """What of a pooler goes into a fingerprint beside its text."""
        return str(self._get("pooler", parse_call(text)[0]).revision)

    def fuser(self, name: str) -> FuserSpec:
        """The fuser of that name."""
        return self._get("fuser", name)  # type: ignore[no-any-return]

    def reader(self, path: str) -> ReaderSpec:
        """The reader for a file, by the longest ending that matches, ignoring case."""
        lower = path.lower()
        matches = [
            (len(suffix), item.spec)
            for item in self.registered("reader")
            for suffix in item.spec.suffixes
            if lower.endswith(suffix)
        ]
        if not matches:
            known = sorted({s for item in self.registered("reader") for s in item.spec.suffixes})
            raise NotFoundError(
                f"No reader knows files that end like {Path(path).suffix or 'this one'!r}.",
                hint=f"known endings: {', '.join(known)}",
            )
        return max(matches, key=lambda match: match[0])[1]

    def reads(self, path: str) -> bool:
        """Whether some reader knows the file's ending."""
        return path.lower().endswith(
            tuple(suffix for item in self.registered("reader") for suffix in item.spec.suffixes)
        )

    def exporter(self, path: Path) -> ExporterSpec:
        """The exporter for a file name, by its ending."""
        for item in self.registered("exporter"):
            if path.name.lower().endswith(item.spec.suffix):
                return item.spec  # type: ignore[no-any-return]
        known = sorted(item.spec.suffix for item in self.registered("exporter"))
        raise NotFoundError(
            f"No exporter writes files that end like {path.name!r}.{did_you_mean(path.suffix, known)}",
            hint=f"end the name with one of: {', '.join(known)}",
        )

    def provenance(self, kind: str) -> dict[str, Json]:
        """The facts that plugins add to a run."""
        facts: dict[str, Json] = {}
        for implementation in self.manager.hook.featstore_provenance.get_hookimpls():
            facts[implementation.plugin_name] = dict(implementation.function(kind))
        return facts

    def versions(self) -> Iterator[tuple[str, str]]:
        """Provider and version of every working plugin, for provenance."""
        for provider in self.providers:
            if not provider.error:
                yield provider.name, provider.version or provider.origin


def _import(path: str) -> ModuleType:
    """Import a plugin given by hand: a file, or the name of a module.

    A file's module name is made from its path, so that a loader worker that loads it again can unpickle its objects.
    """
    if not path.endswith(".py"):
        return importlib.import_module(path)
    file = Path(path).resolve()
    name = f"featstore_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise PluginError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
