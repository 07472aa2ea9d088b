"""One text file → ``str``."""

from __future__ import annotations

from featstore import InputError, Source

#: About 500 pages. What is larger is a log, a table, or no text at all.
MAX_BYTES = 1_000_000

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read(source: Source) -> str:
    """Read one UTF-8 text, with or without a byte order mark, as it is.

    Raises:
        InputError: the file is empty or blank, larger than a text, holds NUL bytes, or isn't UTF-8.
    """
    if source.fragment is not None:
        raise InputError(f"A text file has no parts, and #{source.fragment} was asked for.")
    return decode(source.read_bytes(most=MAX_BYTES))


def decode(data: bytes) -> str:
    """Decode one text's bytes, of a file of its own or out of a table; raises as :func:`read` does."""
    if not data:
        raise InputError("The text is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise InputError(f"The text has {len(data):,} bytes, and at most {MAX_BYTES:,} are read as one.")
    if data.startswith(_UTF16):
        raise InputError("The text is UTF-16, and UTF-8 is read.", hint="iconv -f UTF-16 -t UTF-8 converts it")
    if b"\0" in data:
        raise InputError(f"The text holds a NUL byte at {data.index(0)}: it is no text.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"The text isn't UTF-8: byte {error.start} is {data[error.start]:#04x}.",
            hint="iconv -f WINDOWS-1252 -t UTF-8 converts it, if that is what it is",
        ) from error
    if not text.strip():
        raise InputError("The text is blank: there is nothing in it but spaces.")
    return text
