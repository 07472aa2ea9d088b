"""What the readers of array files share: how a fragment names a row, how large one may be, what counts as damage."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore import FeatstoreError, InputError, Source

#: More rows than any one file of inputs has; fewer than a damaged header claims.
MAX_ROWS = 10_000_000
#: What stands for a missing value in metadata, as pandas and people write it.
MISSING = frozenset(("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "NaT", "<NA>"))

#: A seek to where no file has bytes: the file's fault. Every other error with a number is the machine's.
_OF_THE_FILE = (None, errno.EINVAL, errno.EOVERFLOW)
_ROW = re.compile(r"(?P<head>.*)/(?P<row>0|[1-9][0-9]{0,17})", re.DOTALL)
_SMALL = (1, 2, 3, 4)


@contextmanager
def decoding(source: Source, kind: str) -> Iterator[None]:
    """Turn what a library raises of malformed bytes into InputError; the machine's own faults go through."""
    try:
        yield
    except Exception as error:
        if source.fault is not None:
            raise source.fault from error
        if isinstance(error, (FeatstoreError, MemoryError, ImportError)):
            raise
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"The {kind} file can't be decoded, it is truncated or corrupt: {why}") from error


def split_row(fragment: str) -> tuple[str, int] | None:
    """Split ``/valid/17`` into what comes before the number, and the number; None where it has no such form.

    >>> split_row("/valid/17"), split_row("/17"), split_row("/valid/017")
    (('/valid', 17), ('', 17), None)
    """
    match = _ROW.fullmatch(fragment)
    return (match["head"], int(match["row"])) if match else None


def as_image(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array as it is stored → the layout that images have here, in native byte order.

    ``(1, H, W)`` becomes (H, W). ``(3, H, W)`` and ``(4, H, W)`` become (H, W, 3) and (H, W, 4), unless the last axis
    has 1 to 4 values too: then nobody knows which one the channels are. Everything else stays as it is.
    """
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    elif array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[2] not in _SMALL:
        array = np.moveaxis(array, 0, -1)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))
