"""One NIfTI volume, or one slice of it → the values that nibabel gives, in the closest canonical orientation (RAS+)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from featstore import InputError, Part, Picture, SetupError, Source, UsageError
from featstore.errors import did_you_mean
from featstore_readers.nifti_file import Volume, load, read_header

T = TypeVar("T")


def read(source: Source) -> Picture | npt.NDArray[Any]:
    """Read a volume, or the slice of ``axis=A&slice=K``, counted from 0 along an axis of the canonical orientation.

    Values are stored integers where the header scales by nothing, else floats, exactly as nibabel's ``dataobj`` has
    them; NaN stays.

    Returns:
        a whole volume as an array (X, Y, Z, 1): left to right, posterior to anterior, inferior to superior. A slice as
        a :class:`~featstore.Picture` of the two other axes, in that order; its window is the header's cal_min and
        cal_max, where they are set, and its extent the smallest and largest finite value of the whole volume.

    Raises:
        InputError: no NIfTI file, one half of a pair, truncated or corrupt, several volumes, colours or complex
            numbers, more than is read into memory, or no such slice.
    """
    if source.fragment is None:
        with source.open() as file:
            whole = _attempt(lambda: load(file)).values(())
        source.hash_array(whole)
        return whole[..., None]
    axis, place = _slice(source.fragment)
    volume: Volume = _attempt(lambda: source.kept(load))
    count = volume.header.shape[axis]
    if place >= count:
        raise InputError(f"The volume has {count} slices along axis {axis}, and slice {place} isn't one of them.")
    index: list[Any] = [slice(None)] * 3
    index[axis] = place
    picture = _attempt(lambda: Picture(volume.values(tuple(index)), volume.header.window, volume.extent))
    said = repr((picture.pixels.dtype.str, picture.shape, picture.window, picture.extent))
    source.hash(said.encode(), picture.pixels.reshape(-1).view(np.uint8).data)
    return picture


def expand(source: Source, settings: Mapping[str, str]) -> list[Part]:
    """List the slices along ``axis`` (0, 1, 2 of the canonical orientation), each ``step``-th; or the volume, whole.

    Each has the fields ``orientation``, the axes as they are stored, such as LPS, and ``spacing``, the millimetres
    between voxels along the canonical axes, such as 0.9x0.9x3.

    Raises:
        UsageError: an axis or step that is none.
        InputError: as :func:`read`, as far as the header tells.
    """
    axis, step = _settings(settings)
    with source.open() as file:
        header = _attempt(lambda: read_header(file))
    fields = {"orientation": header.orientation, "spacing": header.spacing}
    if axis is None:
        return [Part(None, fields)]
    return [Part(f"axis={axis}&slice={place}", fields) for place in range(0, header.shape[axis], step)]


def _settings(settings: Mapping[str, str]) -> tuple[int | None, int]:
    known = ("axis", "step")
    for key in settings:
        if key not in known:
            raise UsageError(f"NIfTI files know no --expand {key}.{did_you_mean(key, known)}")
    axis, step = settings.get("axis"), settings.get("step")
    if axis is None:
        if step is not None:
            raise UsageError(f"--expand step={step} needs an axis.", hint="--expand axis=2,step=3")
        return None, 1
    if axis not in ("0", "1", "2"):
        raise UsageError(
            f"--expand axis={axis}: a volume's axes are 0 (left to right), 1 (back to front) and 2 (bottom to top)."
        )
    if step is not None and not re.fullmatch(r"0*[1-9]\d{0,8}", step, re.ASCII):
        raise UsageError(f"--expand step={step}: it is a whole number of slices, 1 or more.")
    return int(axis), int(step or 1)


def _slice(fragment: str) -> tuple[int, int]:
    found = re.fullmatch(r"axis=([012])&slice=(\d{1,9})", fragment, re.ASCII)
    if found is None:
        raise InputError(f"A part of a volume is called axis=A&slice=K, such as axis=2&slice=17, and not {fragment!r}.")
    return int(found[1]), int(found[2])


def _attempt(work: Callable[[], T]) -> T:
    """Do it, and turn whatever nibabel, gzip and NumPy make of malformed bytes into InputError."""
    try:
        with np.errstate(all="ignore"):  # of absurd affines and scalings: what they give is checked
            return work()
    except (InputError, SetupError, FileNotFoundError, MemoryError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; gzip's own have no number
            raise
        raise InputError(f"The NIfTI file can't be decoded, it is truncated or corrupt: {error}") from error
