"""The YAML file of a project, with changes from the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Encoder:
    """What turns the slices of one modality into vectors; ``config.yaml`` says what each key means."""

    name: str
    backbone: str
    weights: str
    image_size: str


@dataclass(frozen=True, slots=True)
class Config:
    """The keys of ``config.yaml``, all of which must be there.

    Values are words: featstore's commands check them as they check what one types. So no site called NO becomes False.
    """

    data: str
    work: str
    layouts: list[str]
    patient_id: str
    home: str
    ratio: dict[str, str]
    folds: str
    seed: str
    encoders: dict[str, Encoder]
    in_chans: str
    batch_size: str
    num_workers: str
    device: str
    table: str
    aggregation: str
    fuser: str
    steps: list[str]
    C: list[str]
    max_iter: str
    bootstrap: str

    @classmethod
    def read(cls, file: Path, changes: Sequence[str] = ()) -> Config:
        """Read a file, with ``key=value`` words over it; ``encoders.A.backbone`` is a key within a key.

        Raises:
            SystemExit: there is no such file; a key is unknown, missing, or of another form. A misspelt one would
                change nothing, unseen.
        """
        try:
            plain = _parse(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            raise SystemExit(f"There is no file {file}.") from None
        for change in changes:
            key, mark, value = change.partition("=")
            if not mark:
                raise SystemExit(f"--set {change} isn't KEY=VALUE.")
            _put(plain, key.split("."), value, key)
        found = _checked(cls, plain, str(file))
        if not isinstance(found["encoders"], dict) or not found["encoders"]:
            raise SystemExit(f"{file}: encoders should have an encoder a modality.")
        for modality, encoder in found["encoders"].items():
            found["encoders"][modality] = Encoder(**_checked(Encoder, encoder, f"{file}: encoders.{modality}"))
        if not found["folds"].isdecimal():
            raise SystemExit(f"{file}: folds should be a whole number, 0 for none, and is {found['folds']!r}.")
        return cls(**found)

    @property
    def store(self) -> Path:
        return Path(self.work, "store")


def _parse(text: str, where: str) -> Any:
    """YAML of which every value is text, a list or a mapping."""
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise SystemExit(f"{where} isn't YAML: {error}") from None


def _put(plain: Any, path: Sequence[str], value: str, key: str) -> None:
    """Where a text is, the value is one as it stands; in place of a list or a mapping it is YAML."""
    for name in path[:-1]:
        plain = plain.get(name) if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or path[-1] not in plain:
        known = ", ".join(plain) if isinstance(plain, dict) else "none"
        raise SystemExit(f"--set {key}: there is no such key. Here are: {known}.")
    plain[path[-1]] = value if isinstance(plain[path[-1]], str) else _parse(value, f"--set {key}")


def _checked(cls: type, plain: Any, where: str) -> dict[str, Any]:
    """The keys of a dataclass, each of the form that it has there."""
    if not isinstance(plain, Mapping):
        raise SystemExit(f"{where} should be a mapping, and is {plain!r}.")
    known = {field.name: str(field.type) for field in fields(cls)}
    for key in plain:
        if key not in known:
            like = difflib.get_close_matches(key, known, 1)
            raise SystemExit(f"{where}: there is no key {key!r}." + (f" Did you mean {like[0]!r}?" if like else ""))
    if missing := [key for key in known if key not in plain]:
        raise SystemExit(f"{where} lacks {', '.join(missing)}.")
    forms = {"str": (str, "text"), "list": (list, "a list, [1, 2]"), "dict": (dict, "a mapping, {key: value}")}
    for key, annotation in known.items():
        form, words = forms[annotation.partition("[")[0]]
        inner = plain[key].values() if isinstance(plain[key], dict) and key != "encoders" else plain[key]
        if not isinstance(plain[key], form) or (form is not str and not all(isinstance(i, str) for i in inner)):
            raise SystemExit(f"{where}: {key} should be {words}, and is {plain[key]!r}.")
    return dict(plain)
