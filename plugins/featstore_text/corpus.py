"""The texts that a text model is fitted to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featstore import SetupError


def read_corpus(path: Path) -> list[str]:
    """The documents of a file (one a line) or of a folder (one a ``.txt`` file, at any depth, in the order of paths).

    Documents of nothing but spaces are left out.

    Raises:
        SetupError: there is no such file, it isn't UTF-8, or there are no documents.
    """
    if path.is_dir():
        documents = [_read(file) for file in sorted(path.rglob("*.txt"))]
    elif path.is_file():
        documents = _read(path).split("\n")
    else:
        raise SetupError(
            f"There is no corpus {path}.", hint="a text file with one document a line, or a folder of .txt"
        )
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise SetupError(
            f"The corpus {path} holds no documents.", hint="a text file with one document a line, or a folder of .txt"
        )
    return documents


def digest(documents: list[str]) -> str:
    """SHA-256 over the documents in their order, as hex."""
    whole = hashlib.sha256()
    for document in documents:
        data = document.encode()
        whole.update(b"%d:" % len(data) + data)
    return whole.hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SetupError(
            f"{path.name} of the corpus isn't UTF-8 (byte {error.start}).", hint="convert it to UTF-8 first"
        ) from error
    except OSError as error:
        raise SetupError(f"{path.name} of the corpus can't be read: {error.strerror}.") from error
