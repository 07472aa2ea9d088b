"""A reader of ``.rows`` files, whose lines are samples, and a backbone that counts: what a third party might write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import featstore
from featstore import Backbone, BackboneSpec, InputError, Part, ReaderSpec, Source, Tokens, UsageError


def lines(source: Source) -> list[str]:
    data = source.read_bytes()
    if not data.startswith(b"rows\n"):
        raise InputError("The file doesn't begin with 'rows'.", hint="write it again")
    return data.decode().splitlines()[1:]


def read(source: Source) -> np.ndarray:
    found = lines(source)
    if source.fragment is None:
        raise InputError("The file has rows, and none was asked for.")
    row = found[int(source.fragment.rpartition("/")[2])]
    values = np.array([float(word) for word in row.split(";")[0].split()])
    source.hash_array(values)
    return values


def expand(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    """``1 2 3;patient_id=7;modality=X``: numbers, then what the row says of itself."""
    step = settings.get("step", "1")
    if not step.isdigit() or step == "0":
        raise UsageError(f"step={step} is no whole number above 0.")
    for number, line in enumerate(lines(source)):
        if number % int(step) == 0:
            if line == "twice":
                number = 0
            words = (word.partition("=") for word in line.split(";")[1:])
            yield Part(f"/{number}", {key: value for key, _, value in words}, alone=True)


class Numbers(Backbone):
    input_shape = (1, 1, 3)

    def __init__(self, request: Any) -> None:
        self.transform = numbers

    def forward(self, batch: Any, layers: Sequence[str]) -> Mapping[str, Tokens]:
        return {"last": Tokens(batch.reshape(len(batch), 1, 3))}


def numbers(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(1, 1, 3)


@featstore.hookimpl
def featstore_readers() -> Iterable[ReaderSpec]:
    yield ReaderSpec("rows", (".rows",), read, expand=expand, settings=("step",))


@featstore.hookimpl
def featstore_backbones() -> Iterable[BackboneSpec]:
    yield BackboneSpec("parts:numbers", Numbers)
