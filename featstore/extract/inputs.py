"""Reading, decoding and transforming inputs, in the loader's workers. One bad input never touches another."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from featstore.errors import InputError, NotFoundError, PluginError, SetupError
from featstore.keys import split_fragment
from featstore.plugins import Plugins
from featstore.spec import Source

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

#: The machine's fault, not the file's: such an error stops the run.
_ENVIRONMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENOTCONN, errno.EIO,
}  # fmt: skip


class Failure(NamedTuple):
    """Why an input failed: at which stage, with what error, and what its file was like (:func:`file_state`)."""

    stage: str
    error: str
    message: str
    file_state: str


def file_state(path: str | Path) -> str:
    """What changes when a file is mended: size, times of content and of mode; or that it isn't there."""
    try:
        stat = Path(path).stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


class Read(NamedTuple):
    """What is known of the bytes that were read, beside the tensor; of no meaning where there is a failure."""

    content_hash: str = ""
    size: int = -1
    mtime_ns: int = -1
    failure: Failure | None = None


#: What stops a run, and is never recorded as a bad input.
Fault: TypeAlias = SetupError | PluginError


class Batch(NamedTuple):
    """One batch: failed inputs keep their slot, as zeros, so that shapes never change.

    ``fault`` is the environment's or a plugin's, met while reading: it stops the run. It is carried, not raised,
    because torch would bury it under the text of the worker's traceback.
    """

    values: torch.Tensor
    read: list[Read]
    fault: Fault | None


#: One input: its array, None where it failed, or the fault that stops the run; and what is known of its bytes.
Item: TypeAlias = "tuple[np.ndarray[Any, Any] | Fault | None, Read]"
_NOTHING = Read()


@dataclass(slots=True)
class Inputs:
    """The inputs of a plan by row: a map-style data set.

    Attributes:
        uris: by row, as Arrow keeps them: a list of strings would be ten times as large, in each worker.
        transform: the backbone's; picklable.
        shape: of one transformed input.
        roots: folders that must be there: where one is gone, its files' absence is the environment's fault.
    """

    uris: pa.ChunkedArray
    transform: Callable[[Any], Any]
    shape: tuple[int, ...]
    plugins: Plugins
    roots: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.uris)

    def __getitem__(self, row: int) -> Item:
        path, fragment = split_fragment(self.uris[row].as_py())
        source = Source(path, fragment)
        stage = "read"
        try:
            reader = self.plugins.reader(path)
        except NotFoundError as error:  # it was there when the file was ingested
            return SetupError(error.message, hint="give --plugin, or install the plugin that has it"), _NOTHING
        try:
            decoded = reader.read(source)
            stage = "transform"
            values = np.asarray(self.transform(decoded), dtype=np.float32)
            if values.shape != self.shape:
                raise InputError(f"the transform gave shape {values.shape}, not {self.shape}")
            return values, _read(source)
        except (SetupError, PluginError) as error:
            return error, _NOTHING
        except MemoryError:
            return SetupError("Out of memory while decoding.", hint="fewer --num-workers"), _NOTHING
        except ImportError as error:
            return SetupError(
                f"Reading {Path(path).suffix} files needs something that isn't here: {error}.",
                hint="install it, then run it again",
            ), _NOTHING
        except Exception as error:
            if isinstance(error, OSError) and (fault := self._environment(error, path)):
                return fault, _NOTHING
            if stage == "read" and source.content_hash is not None:
                stage = "decode"
            return None, Read(failure=_failure(stage, error, file_state(path)))

    def _environment(self, error: OSError, path: str) -> SetupError | None:
        """The machine's fault behind an error, if it is one."""
        if error.errno in _ENVIRONMENT:
            return SetupError(f"Reading inputs failed: {error.strerror}.", hint="mend it, then run it again")
        if isinstance(error, FileNotFoundError):
            for root in self.roots:
                if path.startswith(root.rstrip("/") + "/") and not Path(root).is_dir():
                    return SetupError(f"The folder {root} isn't there.", hint="mount it, then run it again")
        return None

    # Workers that are spawned, not forked, get the data set by pickle: plugins given by path must be loaded in the
    # new process before the transform, which may be of one of them, can be unpickled.
    def __getstate__(self) -> dict[str, Any]:
        return {
            "uris": self.uris, "shape": self.shape, "roots": self.roots, "paths": self.plugins.paths,
            "transform": pickle.dumps(self.transform),
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.uris, self.shape, self.roots = state["uris"], state["shape"], state["roots"]
        self.plugins = Plugins.load(state["paths"])
        self.transform = pickle.loads(state["transform"])  # noqa: S301 - our own process wrote it a moment ago

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack a batch; a failed input is zeros."""
        import torch

        values = np.zeros((len(items), *self.shape), np.float32)
        fault: Fault | None = None
        for slot, (value, _) in enumerate(items):
            if isinstance(value, (SetupError, PluginError)):
                fault = fault or value
            elif value is not None:
                values[slot] = value
        return Batch(torch.from_numpy(values), [read for _, read in items], fault)

    def batches(
        self, rows: Sequence[Sequence[int]], *, num_workers: int, pin: bool, context: str | None = None
    ) -> Generator[Batch, None, None]:
        """The given batches in order, loaded by ``num_workers`` processes (0: in this one)."""
        from torch.utils.data import DataLoader

        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]  # a map-style data set needs no base class
            batch_sampler=rows,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=self.collate,
            pin_memory=pin,
            multiprocessing_context=context if num_workers else None,
        )
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SetupError(
                f"A loader worker died: {str(error).splitlines()[0]}",
                hint="often for want of memory: fewer --num-workers, or 0; then run it again",
            ) from error


def _read(source: Source) -> Read:
    if source.content_hash is None:
        raise PluginError("the reader read nothing through its Source, so that there is no content hash")
    if source.size is None or source.mtime_ns is None:  # a container's reader, which took its own hash
        stat = source.path.stat()
        return Read(source.content_hash, stat.st_size, stat.st_mtime_ns)
    return Read(source.content_hash, source.size, source.mtime_ns)


def _failure(stage: str, error: Exception, state: str) -> Failure:
    if isinstance(error, FileNotFoundError):
        return Failure(stage, "FileNotFoundError", "the file isn't there", state)
    if isinstance(error, OSError) and error.strerror:
        return Failure(stage, type(error).__name__, error.strerror, state)
    if isinstance(error, (InputError, NotFoundError)):
        return Failure(stage, type(error).__name__, error.message, state)
    return Failure(stage, type(error).__name__, str(error)[:500] or type(error).__name__, state)
