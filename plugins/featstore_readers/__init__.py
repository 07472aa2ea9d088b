"""Readers: image files → arrays in the file's own dtype; text files → ``str``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from featstore import ReaderSpec, Source, hookimpl


def _read_image(source: Source) -> Any:
    from featstore_readers.images import read  # Pillow and tifffile are imported when the first image is read

    return read(source)


def _read_text(source: Source) -> Any:
    from featstore_readers.text import read

    return read(source)


@hookimpl
def featstore_readers() -> Iterable[ReaderSpec]:
    yield ReaderSpec(
        "image",
        suffixes=(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"),
        read=_read_image,
        description="PNG, JPEG, TIFF, BMP and WebP, at their full bit depth",
    )
    yield ReaderSpec("text", suffixes=(".txt",), read=_read_text, description="UTF-8 text, one file one text")
