"""Containers that this thread keeps open, because their parts are read one after the other."""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar

from featstore.locations import Stat, is_url, stat_of

T = TypeVar("T")

#: Few: one may be a decoded volume.
_MOST = 2


class _Kept(NamedTuple):
    value: Any
    file: BinaryIO
    stat: Stat
    state: tuple[int, ...]


class _Here(threading.local):
    """What this thread keeps: nobody closes what another one is reading."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[int, str, Any], _Kept] = OrderedDict()


_here = _Here()


def get(location: str, load: Callable[[BinaryIO], T], open: Callable[[], BinaryIO]) -> tuple[T, BinaryIO, Stat]:
    """What ``load`` makes of a file: kept from before if the file is the same by now, or loaded. With handle and stat.

    A URL is taken for unchanged as long as it is kept: asking costs as much as reading, and the handle itself refuses
    to go on with other bytes where the other side can tell.
    """
    key = os.getpid(), location, load  # a forked child must not use its parent's handles
    state = () if is_url(location) else _state(os.stat(location))
    kept = _here.kept
    held = kept.get(key)
    if held is not None and held.state == state and not getattr(held.file, "fault", None):
        kept.move_to_end(key)
        return held.value, held.file, held.stat
    if held is not None:
        _drop(key)
    while len(kept) >= _MOST:  # before there is one more, which may be as large
        _drop(next(iter(kept)))
    file = open()
    try:
        if not is_url(location):
            state = _state(os.fstat(file.fileno()))
        stat = stat_of(file)
        value = load(file)
    except BaseException:
        file.close()
        raise
    kept[key] = _Kept(value, file, stat, state)
    return value, file, stat


@atexit.register
def forget() -> None:
    """Let go of all, before a new pass over the inputs: what is behind a URL may be another file by now."""
    while _here.kept:
        _drop(next(iter(_here.kept)))


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _drop(key: tuple[int, str, Any]) -> None:
    held = _here.kept.pop(key)
    if key[0] == os.getpid():
        if close := getattr(held.value, "close", None):
            close()
        held.file.close()
