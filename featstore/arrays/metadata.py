"""The Zarr v3 metadata of a segment, written and read as the JSON that it is.

zarr-python isn't asked: importing it takes 0.4 to 0.7 s and using it leaves a thread running, for four small
files. What it would have written is the measure all the same: tests hold both equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore import files
from featstore.errors import CorruptError
from featstore.spec import Json

RESTORE = "restore it from a backup, or move the segment away and extract its samples again"

CRC32C: Json = {"name": "crc32c"}
LITTLE: Json = {"name": "bytes", "configuration": {"endian": "little"}}
ONE_BYTE: Json = {"name": "bytes"}  # where an item is one byte there is no byte order to state
TEXT: Json = {"name": "vlen-utf8", "configuration": {}}


def group(attributes: Mapping[str, Json]) -> dict[str, Json]:
    """The metadata of a group."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def array(
    shape: Sequence[int], chunk_shape: Sequence[int], data_type: str, fill: Json, codecs: Sequence[Json]
) -> dict[str, Json]:
    """The metadata of an array on a regular grid, with the default chunk names ``c/0/0``."""
    return {
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": list(codecs),
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def read(path: Path) -> dict[str, Any]:
    """Read a ``zarr.json``.

    Raises:
        CorruptError: it is missing, or isn't a JSON object.
    """
    try:
        found = files.read_json(path)
    except (OSError, ValueError) as error:
        raise CorruptError(f"The Zarr metadata {path} can't be read: {error}", hint=RESTORE) from error
    if not isinstance(found, dict):
        raise CorruptError(f"The Zarr metadata {path} isn't a JSON object.", hint=RESTORE)
    return found


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """What a reader needs to know of an array.

    Attributes:
        shape: of the whole array.
        data_type: Zarr's name of the dtype, ``float32``.
        chunk_shape: of every chunk file, or None where ``raw`` is False.
        fill: what a chunk reads as that was never written, or None where ``raw`` is False.
        raw: whether a chunk file is the little-endian bytes of whole rows, so that it can be mapped.
        checksum: whether a raw chunk file ends with its crc32c.
    """

    shape: tuple[int, ...]
    data_type: str
    chunk_shape: tuple[int, ...] | None = None
    fill: float | None = None
    raw: bool = False
    checksum: bool = False

    @classmethod
    def of(cls, folder: Path) -> ArrayMetadata:
        """Read the metadata of the array in ``folder``.

        What isn't understood is not raw: zarr may understand it.

        Raises:
            CorruptError: there is no Zarr v3 array.
        """
        path = folder / "zarr.json"
        found = read(path)
        try:
            if found["zarr_format"] != 3 or found["node_type"] != "array":
                raise ValueError(f"{found['node_type']} of format {found['zarr_format']}")
            shape = tuple(int(length) for length in found["shape"])
            data_type = str(found["data_type"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{path} doesn't describe a Zarr v3 array: {error!r}", hint=RESTORE) from error
        try:
            return cls._raw(found, shape, data_type)
        except (KeyError, TypeError, ValueError):
            return cls(shape, data_type)

    @classmethod
    def _raw(cls, found: dict[str, Any], shape: tuple[int, ...], data_type: str) -> ArrayMetadata:
        little = ONE_BYTE if data_type == "bool" else LITTLE
        codecs, keys, grid = found["codecs"], found["chunk_key_encoding"], found["chunk_grid"]
        chunk_shape = tuple(int(length) for length in grid["configuration"]["chunk_shape"])
        raw = (
            codecs in ([little], [little, CRC32C])
            and grid["name"] == "regular"
            and len(chunk_shape) == len(shape)
            and chunk_shape[0] > 0
            and chunk_shape[1:] == shape[1:]
            and keys["name"] == "default"
            and keys.get("configuration", {}).get("separator", "/") == "/"
            and not found.get("storage_transformers")
        )
        if not raw:
            return cls(shape, data_type)
        fill = float(found["fill_value"])  # "NaN" and "Infinity" too; a hexadecimal fill is left to zarr
        return cls(shape, data_type, chunk_shape, fill, raw=True, checksum=len(codecs) == 2)
