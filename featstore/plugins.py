"""Finding plugins and what they register.

The manager is made by :meth:`Plugins.load`, not a global: two stores in one process may see different plugins. Nothing
is ever loaded from inside a store.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pluggy

from featstore import hookspecs
from featstore.errors import FeatstoreError, NotFoundError, PluginError, UsageError, did_you_mean
from featstore.keys import parse_call, parse_words
from featstore.providers import DIGEST, Provider, import_plugin
from featstore.spec import (
    BackboneSpec,
    ExporterSpec,
    Fuser,
    FuserSpec,
    Json,
    PoolerSpec,
    PoolFunction,
    ReaderSpec,
    Step,
    StepSpec,
)

GROUP = "featstore"
ENVIRONMENT = "FEATSTORE_PLUGINS"
KINDS: Mapping[str, type] = {
    "backbone": BackboneSpec,
    "pooler": PoolerSpec,
    "fuser": FuserSpec,
    "step": StepSpec,
    "reader": ReaderSpec,
    "exporter": ExporterSpec,
}
#: Seconds to import above which a plugin is named: every command waits for every plugin.
SLOW = 2.0
log = logging.getLogger("featstore")
Spec = TypeVar("Spec", BackboneSpec, PoolerSpec, FuserSpec, StepSpec, ReaderSpec, ExporterSpec)


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
    _owners: dict[str, Provider] = field(default_factory=dict)
    _registered: dict[str, dict[str, Registered]] = field(default_factory=dict)
    _duplicates: dict[tuple[str, str], PluginError] = field(default_factory=dict)
    _resolved: dict[str, str] = field(default_factory=dict)

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
            plugins._add(Provider(Path(path).stem, "", path), functools.partial(import_plugin, path), strict=True)
        plugins._collect(strict)
        plugins._name_slow_ones()
        return plugins

    def _add(self, provider: Provider, load: Callable[[], Any], strict: bool) -> None:
        self.providers.append(provider)
        module = None
        try:
            with provider.timed():
                loaded = load()
            if as_name := self.manager.get_name(loaded):
                raise PluginError(f"it is loaded already, as the plugin {as_name!r}")
            if other := self._owners.get(provider.name):
                raise PluginError(f"another plugin has this name: {other.origin}. One of the two must be renamed.")
            module = loaded
            provider.digest = getattr(loaded, DIGEST, "")
            self.manager.register(module, name=provider.name)
            implemented = self.manager.get_hookcallers(module)
            if not implemented:
                raise PluginError("it implements no hook: are its functions marked with @featstore.hookimpl?")
            known = {name for name in vars(hookspecs) if name.startswith("featstore_")}
            for caller in implemented:
                if caller.name not in known:
                    raise PluginError(f"unknown hook {caller.name!r}.{did_you_mean(caller.name, known)}")
            self._owners[provider.name] = provider
        except (Exception, SystemExit) as error:
            if module is not None and self.manager.get_name(module) == provider.name:
                self.manager.unregister(module)  # all of it: half a plugin is harder to understand than none
            self._broken(provider, error, strict)

    def revision(self, kind: Literal["backbone", "pooler"], name: str, spec: BackboneSpec | PoolerSpec) -> str:
        """What of a spec goes into a fingerprint beside its name: its revision, and that of a file given by hand."""
        item = self._registered[kind].get(name)
        provider = self._owners.get(item.provider if item else self._resolved.get(name, ""))
        return f"{spec.revision}+{provider.digest}" if provider and provider.digest else str(spec.revision)

    @staticmethod
    def _broken(provider: Provider, error: BaseException, strict: bool = False) -> None:
        message = error.message if isinstance(error, FeatstoreError) else f"{type(error).__name__}: {error}"
        provider.error = " ".join(message.split())
        if strict:
            raise PluginError(
                f"The plugin {provider.name} ({provider.origin}) can't be used: {provider.error}",
                hint="mend it, or leave it out of --plugin and $FEATSTORE_PLUGINS",
            ) from error

    def _collect(self, strict: bool) -> None:
        for kind, spec_type in KINDS.items():
            known = self._registered.setdefault(kind, {})
            for implementation in getattr(self.manager.hook, f"featstore_{kind}s").get_hookimpls():
                provider = self._owners[implementation.plugin_name]
                try:
                    with provider.timed():
                        specs = list(implementation.function())
                    for spec in specs:
                        _check_type(spec, spec_type, f"featstore_{kind}s")
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

    def _name_slow_ones(self) -> None:
        if multiprocessing.parent_process() is not None:
            return  # a loader worker: said once already, where the user is
        for provider in self.providers:
            if provider.seconds > SLOW:
                log.warning(
                    "The plugin %s (%s) took %.1f s to import, and every command waits for it: it should import torch "
                    "and the like where it loads a backbone, not where it is listed.",
                    provider.name, provider.origin, provider.seconds,
                )  # fmt: skip

    # ------------------------------------------------------------------------------------------- lookups
    def registered(self, kind: str | None = None) -> list[Registered]:
        """Everything registered, or everything of one kind, sorted by name."""
        kinds = [kind] if kind else list(KINDS)
        return [item for k in kinds for _, item in sorted(self._registered[k].items())]

    def describe(self) -> list[dict[str, Any]]:
        """Every plugin found: ``plugin, version, origin, seconds, provides, error``."""
        provided: dict[str, dict[str, list[str]]] = {}
        for item in self.registered():
            provided.setdefault(item.provider, {}).setdefault(item.kind, []).append(item.name)
        for family in self._families():
            provided.setdefault(family, {}).setdefault("backbone", []).append(f"{family}:…")
        return [
            {
                "plugin": p.name,
                "version": p.version,
                "origin": p.origin,
                "seconds": round(p.seconds, 3),
                "provides": "; ".join(f"{kind} {', '.join(names)}" for kind, names in provided.get(p.name, {}).items())
                if self._owners.get(p.name) is p
                else "",
                "error": p.error,
            }
            for p in self.providers
        ]

    def _get(self, kind: str, name: str) -> Any:
        if (kind, name) in self._duplicates:
            raise self._duplicates[kind, name]
        if item := self._registered[kind].get(name):
            return item.spec
        known = sorted(self._registered[kind])
        suggestion = did_you_mean(name, known)
        if kind == "backbone":
            families = [f"{family}:" for family in self._families()]
            suggestion = suggestion or did_you_mean(f"{name.partition(':')[0]}:", families)
            known += [f"{family}…" for family in families]
        broken = [p.name for p in self.providers if p.error]
        raise NotFoundError(
            f"There is no {kind} {name!r}.{suggestion}"
            + (f" Plugins that could not be loaded: {', '.join(broken)}." if broken else ""),
            hint=f"featstore ls plugins   (known: {', '.join(known) or 'none'})",
        )

    def _families(self) -> list[str]:
        implementations = self.manager.hook.featstore_resolve_backbone.get_hookimpls()
        return sorted(implementation.plugin_name for implementation in implementations)

    def spec(self, kind: str, name: str) -> Any:
        """What is listed under a name.

        Raises:
            NotFoundError: nothing of this kind is. PluginError: two plugins list it.
        """
        return self._get(kind, name)

    def backbone(self, name: str, *, trusted: bool = True) -> BackboneSpec:
        """The backbone of that name, listed or resolved from an open family (``timm:…``).

        Args:
            trusted: the user typed the name; False where it was read from a store, whose word runs no code.
        """
        if ("backbone", name) in self._duplicates or name in self._registered["backbone"]:
            self._check_family(name)
            return self._get("backbone", name)  # type: ignore[no-any-return]
        found: list[tuple[str, BackboneSpec]] = []
        for implementation in self.manager.hook.featstore_resolve_backbone.get_hookimpls():
            try:
                spec = _call(implementation, name=name, trusted=trusted)
                if spec is not None:
                    _check_type(spec, BackboneSpec, "featstore_resolve_backbone")
                    found.append((implementation.plugin_name, spec))
            except Exception as error:
                if isinstance(error, FeatstoreError) and not isinstance(error, PluginError):
                    raise  # the provider knows the family, and says what is wrong with the name
                self._broken(self._owners[implementation.plugin_name], error)
        if len(found) > 1:
            raise PluginError(f"The backbone {name!r} is offered by several plugins: {', '.join(p for p, _ in found)}.")
        if found:
            self._resolved[name], spec = found[0]
            return spec
        return self._get("backbone", name)  # type: ignore[no-any-return]

    def _check_family(self, name: str) -> None:
        """Raise where a listed name is one of another plugin's open family: ``timm:…`` is timm's."""
        item, family = self._registered["backbone"].get(name), name.partition(":")[0]
        if item and family in self._families() and item.provider != family:
            raise PluginError(
                f"The plugin {item.provider} registers {name!r}, a name of the family {family}: of another plugin.",
                hint=f"rename it there, or leave {item.provider} out; see: featstore plugins",
            )

    def pooler(self, text: str, *accepts: Literal["tokens", "groups", "regions"]) -> PoolFunction:
        """The pooling function of ``NAME`` or ``NAME(ARGS)``, which is to work on one of what ``accepts`` names."""
        name, arguments = parse_call(text)
        spec: PoolerSpec = self._get("pooler", name)
        if spec.accepts.isdisjoint(accepts):
            able = sorted(item.name for item in self.registered("pooler") if not item.spec.accepts.isdisjoint(accepts))
            raise NotFoundError(
                f"The pooler {name!r} works on {' and '.join(sorted(spec.accepts))}, not on {accepts[0]}.",
                hint=f"one of: {', '.join(able)}",
            )
        return spec.load(*arguments)

    def fuser(self, text: str) -> Fuser:
        """A new fuser, of ``NAME`` or ``NAME(ARGS)``."""
        name, arguments = parse_words(text)
        return _made(self._get("fuser", name), arguments, text, Fuser)  # type: ignore[no-any-return]

    def step(self, text: str, takes: Literal["numbers", "categories"] = "numbers") -> Step:
        """A new step, of ``NAME`` or ``NAME(ARGS)``, which is to work on numbers or on categories."""
        name, arguments = parse_words(text)
        spec: StepSpec = self._get("step", name)
        if spec.takes != takes:
            able = sorted(item.name for item in self.registered("step") if item.spec.takes == takes)
            raise NotFoundError(
                f"The step {name!r} works on {spec.takes}, not on {takes}.", hint=f"one of: {', '.join(able)}"
            )
        return _made(spec, arguments, text, Step)  # type: ignore[no-any-return]

    def trusted(self) -> tuple[str, ...]:
        """Types that steps and fusers say their estimators hold: what is installed speaks here, never a store."""
        specs = [item.spec for kind in ("step", "fuser") for item in self.registered(kind)]
        return tuple(dict.fromkeys(name for spec in specs for name in spec.trusted))

    def reader(self, path: str) -> ReaderSpec:
        """The reader for a file, by the longest ending that matches, ignoring case."""
        found = self._by_ending("reader", path)
        if found is None:
            known = sorted({s for item in self.registered("reader") for s in item.spec.suffixes})
            raise NotFoundError(
                f"No reader knows files that end like {Path(path).suffix or Path(path).name!r}.",
                hint=f"known endings: {', '.join(known)}",
            )
        return found  # type: ignore[no-any-return]

    def reads(self, path: str) -> bool:
        """Whether some reader knows the file's ending."""
        endings = tuple(suffix for item in self.registered("reader") for suffix in item.spec.suffixes)
        return path.lower().endswith(tuple(filter(None, endings))) or ("" in endings and not _ending(path))

    def exporter(self, path: Path) -> ExporterSpec:
        """The exporter for a file name, by its ending."""
        found = self._by_ending("exporter", path.name)
        if found is None:
            known = sorted(item.spec.suffix for item in self.registered("exporter"))
            raise NotFoundError(
                f"No exporter writes files that end like {path.name!r}.{did_you_mean(path.suffix, known)}",
                hint=f"end the name with one of: {', '.join(known)}",
            )
        return found  # type: ignore[no-any-return]

    def _by_ending(self, kind: str, path: str) -> Any:
        lower, found = path.lower(), {}
        for item in self.registered(kind):
            suffixes = item.spec.suffixes if kind == "reader" else (item.spec.suffix,)
            if matching := [s for s in suffixes if (lower.endswith(s) if s else not _ending(lower))]:
                found[item.name] = max(map(len, matching))
        best = [name for name in found if found[name] == max(found.values())]
        if len(best) > 1:
            who = " and ".join(f"{name!r} of {self._registered[kind][name].provider}" for name in best)
            raise PluginError(
                f"Several {kind}s claim files that end like {Path(path).suffix!r}: {who}.",
                hint="uninstall one of the plugins; see: featstore plugins",
            )
        return self._get(kind, best[0]) if best else None

    def provenance(self, kind: str) -> dict[str, Json]:
        """The facts that plugins add to a run. A plugin that fails here is recorded as failing, and stops nothing."""
        facts: dict[str, Json] = {}
        for implementation in self.manager.hook.featstore_provenance.get_hookimpls():
            try:
                told = json.loads(json.dumps(dict(_call(implementation, kind=kind)), allow_nan=False))
            except Exception as error:
                told = {"error": f"{type(error).__name__}: {error}"}
            facts[implementation.plugin_name] = told
        return facts

    def versions(self) -> Iterator[tuple[str, str]]:
        """Provider and version of every working plugin, for provenance."""
        for provider in self.providers:
            if not provider.error:
                yield provider.name, provider.version or provider.origin


def _ending(path: str) -> str:
    """The ending of a file's name; that of ``1.2.840.78`` is none, as scanners name their files."""
    ending = Path(path).suffix
    return "" if ending[1:].isdigit() else ending


def _made(spec: Any, arguments: Sequence[float | str], text: str, kind: type) -> Any:
    try:
        inspect.signature(spec.load).bind(*arguments)
    except TypeError as error:
        raise UsageError(f"{text!r} can't be: {error}.", hint=spec.description) from error
    except ValueError:  # a callable without a signature
        pass
    made = spec.load(*arguments)
    if not isinstance(made, kind):
        raise PluginError(f"{spec.name!r} gave {type(made).__name__}, not a {kind.__name__}.")
    return made


def _call(implementation: pluggy.HookImpl, **arguments: str | bool) -> Any:
    """Call one plugin's function with those arguments that it takes, as pluggy does."""
    return implementation.function(*(arguments[name] for name in implementation.argnames))


def _check_type(spec: object, wanted: type, hook: str) -> None:
    if not isinstance(spec, wanted):
        raise PluginError(f"{hook} gave {type(spec).__name__}, not {wanted.__name__}")
