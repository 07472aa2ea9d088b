"""A package that is a plugin, made new: it installs, passes its own test, and is listed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from importlib import resources
from pathlib import Path
from string import Template

from featstore import __version__
from featstore.errors import NotFoundError, UsageError
from featstore.plugins import GROUP

#: What can be begun so.
KINDS = ("backbone", "pooler", "fuser", "step", "reader")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*")

#: What each imports, beside featstore.
_NEEDS = {
    "backbone": "torch>=2.4", "pooler": "array-api-compat>=1.9", "fuser": "numpy>=1.26", "step": "scikit-learn>=1.5",
    "reader": "numpy>=1.26",
}  # fmt: skip

#: File of the new package → template; ``$package`` is filled in in both.
_FILES = {
    "pyproject.toml": "common/pyproject.toml.txt",
    "README.md": "common/README.md.txt",
    "src/$package/__init__.py": "{kind}/module.py.txt",
    "tests/test_$package.py": "{kind}/test.py.txt",
}


def scaffold(kind: str, name: str, into: Path) -> Path:
    """Write a new plugin package to ``into/name``, and return that folder.

    Args:
        kind: one of :data:`KINDS`.
        name: the distribution's, such as ``lab-texture``; the Python package is then ``lab_texture``.

    Raises:
        UsageError: no such kind, a name that can't be a package's or is taken, or a folder that is there already.
        NotFoundError: there is no folder ``into``.
    """
    if kind not in KINDS:
        raise UsageError(f"A {kind} can't be begun so; there is {', '.join(KINDS)}.")
    package = _package(name)
    folder = into / name
    if not into.is_dir():
        raise NotFoundError(f"There is no folder {into}.", hint="make it, or choose another --dir")
    if folder.exists():
        raise UsageError(f"{folder} is there already.", hint="choose another name, or another --dir")
    words = _words(kind, name, package)
    templates = resources.files("featstore") / "templates"
    for target, source in _FILES.items():
        text = (templates / source.format(kind=kind)).read_text(encoding="utf-8")
        path = folder / Template(target).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    (folder / "src" / package / "py.typed").touch()
    return folder


def _package(name: str) -> str:
    """The Python package of a distribution."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be a package's name: letters and digits, joined by single dashes or underscores.",
            hint="such as lab-texture",
        )
    package = name.lower().replace("-", "_")
    entries = {entry.name for entry in importlib.metadata.entry_points(group=GROUP)}
    if keyword.iskeyword(package) or package in sys.stdlib_module_names:
        raise UsageError(f"{package!r} is a word of Python's own.", hint="choose another name, such as lab-texture")
    if importlib.util.find_spec(package) is not None or package in entries:
        raise UsageError(f"There is a package or plugin {package!r} here already.", hint="choose another name")
    return package


def _words(kind: str, name: str, package: str) -> dict[str, str]:
    """What the templates leave open."""
    suffix = f".{package}"
    registered = f"{name}:cells" if kind == "backbone" else name
    use = {
        "backbone": f"featstore extract --backbone {registered} --name {package} --pooler mean",
        "pooler": f"featstore extract --backbone timm:resnet18 --pooler {registered} --name r18_{package}",
        "fuser": f"featstore materialize --fuser {registered} --name table --input …",
        "step": f"featstore materialize RECIPE.yaml      # whose steps are: [{registered}]",
        "reader": f"featstore ingest FOLDER --layout '{{patient_id}}/{{modality}}/*{suffix}'",
    }
    return {
        "kind": kind, "name": name, "package": package, "registered": registered, "suffix": suffix,
        "version": __version__, "needs": _NEEDS[kind], "use": use[kind],
        "check": registered + (f" --input FILE{suffix}" if kind == "reader" else ""),
    }  # fmt: skip
