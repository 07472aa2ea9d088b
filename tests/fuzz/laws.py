"""What must hold of one case, whatever its bytes are; what doesn't is a finding."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import featstore
from featstore.errors import ConflictError, FeatstoreError, UsageError
from featstore.extract.inputs import Inputs, Item
from featstore.ingest.expand import expand_all
from featstore.ingest.scan import Found, Scan
from featstore.plugins import Plugins

from .cases import Case

SHAPE = (3, 32, 32)
_STAGES = ("read", "decode", "transform")
_LONGEST = 2_000
#: Of the parts that a file is expanded to, so many are read; and so many are looked at.
_READ, _LOOKED_AT = 2, 200


class Transform:
    """A real image transform; the middle slice of a volume; and texts as the codes of their bytes."""

    def __init__(self) -> None:
        self.image = featstore.ImageTransform(image_size=(32, 32), range="minmax")

    def __call__(self, decoded: Any) -> np.ndarray:
        if isinstance(decoded, str):
            codes = np.frombuffer(decoded.encode()[: 3 * 32 * 32], np.uint8)
            return np.resize(np.append(codes, len(decoded) % 251), SHAPE).astype(np.float32)
        if isinstance(decoded, np.ndarray) and decoded.ndim == 4 and decoded.shape[3] == 1:
            decoded = decoded[:, :, decoded.shape[2] // 2, 0]
        return self.image(decoded)


class Texts(Transform):
    """Keeps the text that was read last, to compare a truncated one with the whole."""

    last: str | None = None

    def __call__(self, decoded: Any) -> np.ndarray:
        self.last = decoded if isinstance(decoded, str) else None
        return super().__call__(decoded)


class Laws:
    """Reads cases as an extraction does, and says what is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = Plugins.load()
        self.transform = Texts()
        self.inputs = Inputs(pa.chunked_array([["x"]]), self.transform, SHAPE, self.plugins)
        self._values: dict[tuple[str, str], bytes] = {}
        self._wholes: dict[tuple[str, str, str | None], tuple[bytes, str | None] | None] = {}

    def read(self, path: Path, fragment: str | None) -> Item:
        uri = str(path) if fragment is None else f"{path}#{fragment}"
        self.inputs.uris = pa.chunked_array([[uri]])
        self.transform.last = None
        return self.inputs[0]

    def check(self, case: Case, path: Path) -> tuple[str, list[str]]:
        """What became of a case, ``readable`` or ``refused``, and which laws it broke."""
        item = self.read(path, case.fragment)
        text = self.transform.last
        found = list(self._of_item(item, path, case.fragment))
        if item.values is not None and not found:
            found += self._of_values(case, item, text)
        found += self._of_parts(case, path)
        return "refused" if item.values is None else "readable", found

    # ----------------------------------------------------------------------------------------- one input
    def _of_item(self, item: Item, path: Path, fragment: str | None) -> Iterator[str]:
        if isinstance(item.values, featstore.FeatstoreError):
            yield f"stops the run: {item.values.message}"
            return
        failure = item.read.failure
        if item.values is None:
            if failure is None:
                yield "neither an array nor a failure"
                return
            if failure.stage not in _STAGES or not failure.error:
                yield f"failed at {failure.stage!r} with {failure.error!r}"
            yield from _of_message(failure.message)
            return
        values = item.values
        if values.shape != SHAPE or values.dtype != np.float32 or not np.isfinite(values).all():
            yield f"an array of {values.dtype}, {values.shape}, finite: {np.isfinite(values).all()}"
        key = f"{self.plugins.reader(str(path)).name}{path.suffix}", item.read.content_hash
        digest = hashlib.sha256(values.tobytes()).digest()
        if self._values.setdefault(key, digest) != digest:
            yield "the same content hash as other pixels"

    def _of_values(self, case: Case, item: Item, text: str | None) -> Iterator[str]:
        """What was made of a seed, against the seed itself."""
        assert isinstance(item.values, np.ndarray)
        if case.kind == "part":
            yield "a part was read that isn't there"
        if case.whole is None or case.kind not in ("truncated", "appended"):
            return
        whole = self._whole(case)
        if whole is None:
            yield "the seed itself can't be read"
            return
        values, whole_text = whole
        if case.kind == "truncated" and text is not None and whole_text is not None and not case.truncatable:
            if not whole_text.startswith(text.rstrip("\r\n")):
                yield f"cut short, it has another text: {text[:60]!r}"
        elif (case.kind == "truncated" or case.truncatable) and values != item.values.tobytes():
            yield f"{case.kind}, and other pixels than the whole file's"

    def _whole(self, case: Case) -> tuple[bytes, str | None] | None:
        """The values of a seed, and its text."""
        assert case.whole is not None
        key = case.format, case.seed, case.fragment
        if key not in self._wholes:
            path = self.folder / f"whole{case.suffix}"
            path.write_bytes(case.whole.data)
            item = self.read(path, case.fragment)
            values = item.values
            self._wholes[key] = (values.tobytes(), self.transform.last) if isinstance(values, np.ndarray) else None
            path.unlink()
        return self._wholes[key]

    # --------------------------------------------------------------------------------------------- parts
    def _of_parts(self, case: Case, path: Path) -> Iterator[str]:
        """What ingesting does: list the parts of a file. Of a bad file it says so, and goes on."""
        stat = os.stat(path)
        scan = Scan([Found(path.name, {}, stat.st_size, stat.st_mtime_ns)], [], None)
        reader = self.plugins.reader(path.name)
        settings = {key: value for key, value in case.settings.items() if key in reader.settings}
        try:
            found = expand_all(scan, str(self.folder), self.plugins, settings).found
        except (UsageError, ConflictError) as error:
            yield from _of_message(error.message)
            return
        except FeatstoreError as error:
            yield f"ingesting stops: {type(error).__name__}: {error.message}"
            return
        for part in found[:_LOOKED_AT]:
            if part.error is not None:
                yield from _of_message(part.error)
            for word in (part.path, *part.said, *part.said.values()):
                yield from _of_word(word)
        for part in (found[0], found[-1])[:_READ]:
            _, mark, fragment = part.path.partition("#")
            if part.error is None and mark and fragment != case.fragment:
                item = self.read(path, fragment)
                for finding in self._of_item(item, path, fragment):
                    yield f"part {fragment!r}: {finding}"


def _of_message(message: str) -> Iterator[str]:
    if not message.strip():
        yield "an empty message"
    if len(message) >= _LONGEST:
        yield f"a message of {len(message):,} characters: {message[:80]!r}…"
    if bad := sorted({hex(ord(c)) for c in message if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}):
        yield f"a message with {', '.join(bad[:4])}: {message[:160]!r}"


def _of_word(word: str) -> Iterator[str]:
    """A path, a field's name or its value: what the catalog must be able to hold."""
    if not isinstance(word, str):
        yield f"a field of {type(word).__name__}"
    elif any(unicodedata.category(c) == "Cs" for c in word):
        yield f"a field that is no text: {word[:60]!r}"
