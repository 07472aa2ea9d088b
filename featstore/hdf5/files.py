"""An HDF5 file that is open for reading rows, and what is refused of it before memory is taken or another file read.

The format is HDF5's (https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html), read with h5py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import h5py

from featstore.errors import InputError
from featstore.hdf5.rows import Rows
from featstore.hdf5.whole import Whole


class Opened:
    """An open HDF5 file, and the data set of it that was read last: :meth:`Source.kept` keeps one a file.

    Close it before Python ends: HDF5 itself would do it when Python's objects are gone, and crash.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._bytes = Whole(file)
        self.file = h5py.File(self._bytes, "r")
        if self.file.id.get_create_plist().get_sizes() != (8, 8):
            self.file.close()
            raise InputError("The HDF5 file has addresses that aren't of 8 bytes.", hint="h5repack IN.h5 OUT.h5")
        self._rows: Rows | None = None

    def close(self) -> None:
        self._rows = None
        self.file.close()

    def _links(self) -> Iterator[tuple[str, int, int | None]]:
        """Every link below the root, by name, with its kind; and what a hard one leads to, where that is met first."""
        seen: set[tuple[int, ...]] = set()
        groups = [("", self.file.id)]
        while groups:
            prefix, group = groups.pop()
            for link in group:
                kind = group.links.get_info(link).type
                name = f"{prefix}/{_text(link)}"
                if kind != h5py.h5l.TYPE_HARD:
                    yield name, kind, None
                    continue
                info = h5py.h5g.get_objinfo(group, link)  # the newer h5o.get_info crashes on damaged indexes of chunks
                if info.objno in seen:  # a second name, or a group within itself
                    continue
                seen.add(info.objno)
                yield name, kind, info.type
                if info.type == h5py.h5g.GROUP:
                    groups.append((name, h5py.h5g.open(group, link)))

    def data_sets(self) -> list[str]:
        """The names of all data sets, ``/valid`` or ``/site1/valid``, sorted; each once.

        Links within the file are left out: what they lead to has a name of its own. Links to other files are named,
        and :meth:`rows` refuses them.
        """
        inside = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
        return sorted(name for name, kind, what in self._links() if what == h5py.h5g.DATASET or kind not in inside)

    def own_rows(self) -> dict[str, Rows]:
        """Every data set, ``valid`` or ``site1/valid``, of a file that leads nowhere: no links, no values elsewhere.

        Raises:
            InputError: a link of any kind, wherever it is, or values in other data sets or files.
        """
        names = []
        for name, kind, what in self._links():
            if kind != h5py.h5l.TYPE_HARD:
                raise InputError(f"{name} is a link, and may lead to another file.", hint="copy what it leads to")
            if what == h5py.h5g.DATASET:
                names.append(name)
        return {name[1:]: Rows(self.file, name, self._bytes) for name in sorted(names)}

    def rows(self, name: str) -> Rows:
        """The data set of a name, kept open until another one is asked for.

        Raises:
            InputError: there is none, or its values are in another file.
        """
        if self._rows is None or self._rows.name != name:
            self._rows = None  # its cache of chunks goes first
            self._rows = Rows(self.file, name, self._bytes)
        return self._rows


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
