"""The checks themselves: a spec or a name, everything that its kind must keep, and what was found."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.keys import parse_call, parse_words, split_fragment
from featstore.plugins import KINDS, Plugins
from featstore.source import Source
from featstore.spec import BackboneRequest, BackboneSpec, ExporterSpec, FuserSpec, PoolerSpec, ReaderSpec, StepSpec
from featstore.testing import backbones, exporters, fusers, poolers, readers, steps
from featstore.testing.case import BackboneCase
from featstore.testing.laws import Finding, conclude

#: How far vectors may be apart that should be equal, as a share of the largest value of their row.
TOLERANCE = 1e-5


def check_backbone(
    spec: BackboneSpec | str,
    *,
    inputs: Sequence[Any] | None = None,
    plugins: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    strict: bool = True,
    **request: Any,
) -> list[Finding]:
    """Whether a backbone keeps every law of backbones.

    Args:
        spec: a spec, or the name that a plugin registers. By name, another process can be asked for it as well.
        inputs: decoded inputs, as a reader gives them, at least two; by default images of many kinds, or texts.
        plugins: plugin files or modules beside the installed ones, as with ``--plugin``.
        tolerance: how far values may be apart that should be equal, as a share of the largest of their input.
        strict: raise where a law is broken, instead of only listing it.
        request: of the :class:`~featstore.BackboneRequest`: ``pretrained=False``, ``checkpoint=…``, ``settings=…``.

    Raises:
        ConformanceError: a law is broken, with ``strict``.
        SetupError: the environment lacks something, such as weights.
        NotFoundError: no plugin registers the name.
    """
    found = Plugins.load(plugins)
    name = spec if isinstance(spec, str) else spec.name
    if request.get("checkpoint") is not None:
        request["checkpoint"] = Path(request["checkpoint"])
    asked = BackboneRequest(name, **request)
    if isinstance(spec, str):
        spec, registered = found.backbone(spec), True
    else:
        registered = _registers(found, name)
    case = BackboneCase(
        spec, asked, found, inputs, tolerance, _origin(found, spec) if registered else None, registered
    )  # fmt: skip
    return conclude(f"The backbone {name}", backbones.LAWS.findings(case), strict)


def check_pooler(
    spec: PoolerSpec | str,
    *arguments: float,
    plugins: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    strict: bool = True,
) -> list[Finding]:
    """Whether a pooler keeps every law of poolers: a spec with its arguments, or a name such as ``gem(3)``.

    Raises:
        ConformanceError: a law is broken, with ``strict``. NotFoundError: no plugin registers the name.
    """
    if isinstance(spec, str):
        name, given = parse_call(spec)
        listed: PoolerSpec = Plugins.load(plugins).spec("pooler", name)
        spec, arguments = listed, (*given, *arguments)
    case = poolers.PoolerCase(spec, arguments, tolerance)
    return conclude(f"The pooler {spec.name}", poolers.LAWS.findings(case), strict)


def check_fuser(
    spec: FuserSpec | str,
    *arguments: float | str,
    plugins: Sequence[str] = (),
    tolerance: float = 1e-9,
    strict: bool = True,
) -> list[Finding]:
    """Whether a fuser keeps every law of fusers: a spec with its arguments, or a name such as ``pca(2)``.

    Raises:
        ConformanceError: a law is broken, with ``strict``. NotFoundError: no plugin registers the name.
        UsageError: it doesn't take these arguments.
    """
    listed, arguments = _called("fuser", spec, arguments, plugins)
    case = fusers.FuserCase(listed, tolerance, arguments)
    return conclude(f"The fuser {listed.name}", fusers.LAWS.findings(case), strict)


def check_step(
    spec: StepSpec | str,
    *arguments: float | str,
    plugins: Sequence[str] = (),
    tolerance: float = 1e-9,
    strict: bool = True,
) -> list[Finding]:
    """Whether a step keeps every law of steps: a spec with its arguments, or a name such as ``impute(median)``.

    Raises:
        ConformanceError: a law is broken, with ``strict``. NotFoundError: no plugin registers the name.
        UsageError: it doesn't take these arguments.
    """
    listed, arguments = _called("step", spec, arguments, plugins)
    case = steps.StepCase(listed, tolerance, arguments)
    return conclude(f"The step {listed.name}", steps.LAWS.findings(case), strict)


def check_reader(
    spec: ReaderSpec | str,
    *,
    files: Sequence[str | os.PathLike[str]] = (),
    plugins: Sequence[str] = (),
    strict: bool = True,
) -> list[Finding]:
    """Whether a reader keeps every law of readers.

    Args:
        files: whole files that it must read, also with a part (``scan.h5#/valid/3``). Images, text and ``.npy`` are
            written by the check itself where there are none.

    Raises:
        ConformanceError: a law is broken, with ``strict``. NotFoundError: no plugin registers the name, or no file.
        UsageError: there is no file to read.
    """
    spec = Plugins.load(plugins).spec("reader", spec) if isinstance(spec, str) else spec
    with TemporaryDirectory(prefix="featstore-check-") as folder:
        given = [_file(file) for file in files] or readers.example_files(spec, Path(folder))
        if not given:
            raise UsageError(
                f"A file of {spec.name} can't be made up here: it ends in {' or '.join(spec.suffixes)}.",
                hint="give whole ones: files=[…] in Python, --input FILE on the command line",
            )
        case = readers.ReaderCase(spec, given, Path(folder))
        return conclude(f"The reader {spec.name}", readers.LAWS.findings(case), strict)


def check_exporter(spec: ExporterSpec | str, *, plugins: Sequence[str] = (), strict: bool = True) -> list[Finding]:
    """Whether an exporter keeps every law of exporters.

    Raises:
        ConformanceError: a law is broken, with ``strict``. NotFoundError: no plugin registers the name.
    """
    spec = Plugins.load(plugins).spec("exporter", spec) if isinstance(spec, str) else spec
    with TemporaryDirectory(prefix="featstore-check-") as folder:
        case = exporters.ExporterCase(spec, Path(folder))
        return conclude(f"The exporter {spec.name}", exporters.LAWS.findings(case), strict)


_CHECKS: Mapping[str, Callable[..., list[Finding]]] = {
    "backbone": check_backbone, "pooler": check_pooler, "fuser": check_fuser, "step": check_step,
    "reader": check_reader, "exporter": check_exporter,
}  # fmt: skip


def check(
    name: str,
    *,
    kind: str | None = None,
    files: Sequence[str] = (),
    plugins: Sequence[str] = (),
    request: Mapping[str, Any] | None = None,
) -> tuple[str, list[Finding]]:
    """What kind of thing a name is, and what is found of it: for the command line. Raises for no broken law.

    Args:
        kind: backbone, pooler, fuser, step, reader or exporter, where a name is several.
        files: inputs for a backbone, read by the readers there are; or for a reader.
        request: what the user gave of the backbone's request.

    Raises:
        NotFoundError: there is nothing of that name. UsageError: it is several things, or an option isn't for it.
    """
    found = Plugins.load(plugins)
    kind = kind or kind_of(found, name)
    if request and kind != "backbone":
        raise UsageError(f"{', '.join(request)}: only backbones have this, and {name} is a {kind}.")
    if files and kind not in ("backbone", "reader"):
        raise UsageError(f"A {kind} reads no files: --input is for backbones and readers.")
    options: dict[str, Any] = dict(request or {})
    if kind == "backbone":
        options["inputs"] = [_decoded(found, file) for file in files] or None
    if kind == "reader":
        options["files"] = files
    return kind, _CHECKS[kind](name, plugins=plugins, strict=False, **options)


def kind_of(plugins: Plugins, name: str) -> str:
    """The one kind that something of this name is of.

    Raises:
        NotFoundError: there is no such thing. UsageError: there are several.
    """
    base = name.partition("(")[0]
    callable_kinds = ("pooler", "fuser", "step")
    kinds = [i.kind for i in plugins.registered() if i.name in (name, base if i.kind in callable_kinds else name)]
    if len(kinds) > 1:
        raise UsageError(f"{name!r} is a {' and a '.join(kinds)}.", hint=f"--kind {kinds[0]}, or --kind {kinds[1]}")
    if kinds:
        return kinds[0]
    if ":" in name:
        plugins.backbone(name)  # of an open family; or it says why not
        return "backbone"
    known = [item.name for item in plugins.registered()]
    raise NotFoundError(
        f"No plugin has anything called {name!r}.{did_you_mean(name, known)}",
        hint=f"featstore plugins lists what there is: {', '.join(KINDS)}s",
    )


def _called(kind: str, what: Any, arguments: tuple[float | str, ...], plugins: Sequence[str]) -> tuple[Any, Any]:
    """A spec with its arguments; or the spec of ``NAME(ARGUMENTS)``, and all its arguments.

    Raises:
        NotFoundError: no plugin registers the name. UsageError: it doesn't take these arguments.
    """
    if not isinstance(what, str):
        return what, arguments
    name, given = parse_words(what)
    spec: Any = Plugins.load(plugins).spec(kind, name)
    arguments = (*given, *arguments)
    try:
        inspect.signature(spec.load).bind(*arguments)
    except TypeError as error:
        raise UsageError(f"{what!r} can't be: {error}.", hint=spec.description) from error
    return spec, arguments


def _registers(plugins: Plugins, name: str) -> bool:
    try:
        plugins.backbone(name)
    except NotFoundError:
        return False
    return True


def _origin(plugins: Plugins, spec: BackboneSpec) -> str | None:
    """The module of the installed plugin that a backbone is of, told by where its loader was written."""
    top = getattr(spec.load, "__module__", "").partition(".")[0]
    for provider in plugins.providers:
        module = provider.origin.partition(":")[0]
        if module.partition(".")[0] == top and provider.version:
            return module
    return None


def _decoded(plugins: Plugins, file: str) -> Any:
    path, fragment = _file(file)
    return plugins.reader(str(path)).read(Source(path, fragment))


def _file(text: str | os.PathLike[str]) -> tuple[Path, str | None]:
    path, fragment = split_fragment(os.fspath(text))
    if not Path(path).is_file():
        raise NotFoundError(f"There is no file {path}.", hint="give a whole file that can be read")
    return Path(path), fragment
